//! Connections that the destination closes, silently or as announced; and host names whose address changes.

use crate::harness::authority::{Authority, TlsFront, Until};
use crate::harness::bench::{Bench, START, let_pass, read_message, wait_for};
use holdline::clock::Clock;
use holdline::config::settings::{DestinationTls, Settings};
use holdline::rules::backoff::{Jitter, OnAmbiguous};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

const MS: Duration = Duration::from_millis(1);
/// Long enough to see that an unexpected request does not arrive.
const A_WHILE: Duration = Duration::from_millis(80);

/// How the server handles a request.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// 200 with this line.
    Answer(&'static str),
    /// Closes the connection this long after the response, whatever it has received meanwhile.
    AnswerAndClose(Duration),
    /// Closes the connection without a response.
    Close,
    Reset,
    /// Sends these bytes, then closes the connection.
    Say(&'static str),
    /// Closes the connection without a response, once it is released.
    CloseLater,
}

/// A request as received: the connection, its position on that connection, and its headers.
#[derive(Clone, Debug)]
struct Request {
    connection: usize,
    place: usize,
    headers: Vec<(String, String)>,
}

impl Request {
    fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }
}

#[derive(Clone)]
struct Server {
    addr: SocketAddr,
    log: Arc<Mutex<Vec<Request>>>,
    gate: Arc<Semaphore>,
}

impl Server {
    /// `script` gets the number of the connection and the position of the request on it, both from 0.
    async fn start(script: impl Fn(usize, usize) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = Self { addr, log: Arc::default(), gate: Arc::new(Semaphore::new(0)) };
        let (it, script) = (server.clone(), Arc::new(script));
        tokio::spawn(async move {
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let (it, script) = (it.clone(), script.clone());
                tokio::spawn(async move { it.serve(stream, connection, &*script).await });
            }
        });
        server
    }

    fn url(&self) -> Option<String> {
        Some(format!("http://{}/hook", self.addr))
    }

    async fn serve(&self, stream: TcpStream, connection: usize, script: &(impl Fn(usize, usize) -> Act + Sync)) {
        let mut stream = BufReader::new(stream);
        let mut closes = Duration::MAX;
        for place in 0.. {
            let read = tokio::time::timeout(closes, read_message(&mut stream, false)).await;
            let Ok(Some((_, headers, _))) = read else { return };
            self.log.lock().unwrap().push(Request { connection, place, headers });
            let answer = |line: &str| format!("HTTP/1.1 200 OK\r\n{line}Content-Length: 2\r\n\r\nok");
            let said = match script(connection, place) {
                Act::Answer(line) => answer(line),
                Act::AnswerAndClose(after) => {
                    closes = after;
                    answer("")
                }
                Act::Say(bytes) => return drop(stream.get_mut().write_all(bytes.as_bytes()).await),
                Act::Close => return,
                Act::Reset => return stream.get_mut().set_zero_linger().unwrap(),
                Act::CloseLater => return self.gate.acquire().await.unwrap().forget(),
            };
            if stream.get_mut().write_all(said.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    fn all(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    async fn received(&self, n: usize) -> Vec<Request> {
        wait_for(&format!("{n} requests have come"), async || (self.all().len() >= n).then_some(())).await;
        self.all()
    }

    fn connections(&self) -> usize {
        self.all().iter().map(|request| request.connection + 1).max().unwrap_or(0)
    }
}

/// Failed deliveries are not retried, so that failures stay visible.
fn patient(settings: &mut Settings) {
    settings.destinations[0].retry.jitter = Jitter::None;
    settings.destinations[0].timeout = Duration::from_secs(20);
}

async fn bench(to: Option<String>, change: impl FnOnce(&mut Settings)) -> Bench {
    Bench::with(to, Clock::manual(START), |s| {
        patient(s);
        change(s);
    })
    .await
}

/// Delivers `n` events, one after the other.
async fn deliver(bench: &Bench, from: usize, n: usize) {
    for n in from..from + n {
        let id = bench.accept(&n.to_string(), &n.to_string()).await;
        wait_for("it has ended", async || {
            let event = bench.get(&format!("/v1/events/{id}")).await;
            let delivery = event["deliveries"][0].clone();
            let state = delivery["state"].as_str().unwrap().to_owned();
            assert!(["queued", "in_flight", "delivered"].contains(&state.as_str()), "{n}: {delivery}");
            (state == "delivered").then_some(())
        })
        .await;
    }
}

/// The number of attempts with this outcome.
async fn attempts(bench: &Bench, outcome: &str) -> u64 {
    let metrics = bench.admin("GET", "/metrics", b"").await.text();
    let name = format!("holdline_destination_attempts_total{{destination=\"default\",outcome=\"{outcome}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
}

/// Asserts that every attempt was the first of its event, and that all were answered.
async fn nothing_failed(bench: &Bench, server: &Server, delivered: u64) {
    assert!(server.all().iter().all(|request| request.header("holdline-attempt") == "1"));
    assert_eq!(attempts(bench, "answered").await, delivered);
    for outcome in ["broken", "not_sent", "timeout", "not_connected"] {
        assert_eq!(attempts(bench, outcome).await, 0, "{outcome}");
    }
    let shown = bench.get("/v1/destinations/default").await;
    assert_eq!(shown["breaker"]["state"], json!("closed"), "{shown}");
    bench.sound().await;
}

const TIMED_OUT: &str = "HTTP/1.0 408 Request Time-out\r\nCache-Control: no-cache\r\nConnection: close\r\n\r\nToo slow";
const TIMED_OUT_11: &str = "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n";

/// The second request over each connection fails, in every way; it is sent again over a new connection.
#[tokio::test]
async fn a_reused_connection_that_dies_costs_no_attempt() {
    for act in [Act::Close, Act::Reset, Act::Say(TIMED_OUT), Act::Say(TIMED_OUT_11)] {
        let server = Server::start(move |_, place| if place == 0 { Act::Answer("") } else { act }).await;
        let bench = bench(server.url(), |_| {}).await;
        deliver(&bench, 0, 4).await;
        assert!(server.all().iter().any(|request| request.place == 1), "{act:?}: none was reused");
        nothing_failed(&bench, &server, 4).await;
        for request in server.all().iter().filter(|request| request.place == 1) {
            let id = request.header("idempotency-key");
            let of = server.all().into_iter().filter(|r| r.header("idempotency-key") == id).count();
            assert_eq!(of, 2, "{act:?}: once more, and no oftener");
        }
    }
}

#[tokio::test]
async fn a_reused_tls_connection_that_dies_costs_no_attempt() {
    let authority = Authority::new();
    for act in [Act::Close, Act::Reset] {
        let server = Server::start(move |_, place| if place == 0 { Act::Answer("") } else { act }).await;
        let front = TlsFront::start(&authority.certify("localhost", Until::Long), None, server.addr).await;
        let bench = bench(Some(front.url("localhost")), |s| {
            s.destinations[0].tls = DestinationTls { ca: Some(authority.ca()), identity: None };
        })
        .await;
        deliver(&bench, 0, 3).await;
        assert!(server.all().iter().any(|request| request.place == 1), "{act:?}: none was reused");
        nothing_failed(&bench, &server, 3).await;
    }
}

/// All idle connections are dead: the second try uses none of them.
#[tokio::test]
async fn a_repeated_request_uses_a_new_connection() {
    let server = Server::start(|_, place| if place == 0 { Act::Answer("") } else { Act::Close }).await;
    let bench = bench(server.url(), |_| {}).await;
    for n in 0..8 {
        bench.accept(&n.to_string(), &n.to_string()).await;
    }
    bench.reaches("/counters/delivered", 8).await;
    deliver(&bench, 8, 1).await;
    nothing_failed(&bench, &server, 9).await;
    let last = server.all().pop().unwrap();
    assert_eq!(last.place, 0);
}

/// A first request, a response of at least one byte, or a deliberate response is not taken for a connection that was
/// closed while idle.
#[tokio::test]
async fn each_answer_or_failure_counts_as_one_attempt() {
    let late = "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n";
    let asks = "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n";
    for (act, place, outcome) in [
        (Act::Close, 0, "broken"),
        (Act::Reset, 0, "broken"),
        (Act::Say("HTTP/1.1 2"), 1, "broken"),
        (Act::Say("H"), 1, "broken"),
        (Act::Say(TIMED_OUT), 0, "answered"),
        (Act::Say(late), 1, "answered"),
        (Act::Say(asks), 1, "answered"),
    ] {
        let server = Server::start(move |_, at| if at == place { act } else { Act::Answer("") }).await;
        let bench = bench(server.url(), |_| {}).await;
        deliver(&bench, 0, place).await;
        let id = bench.accept("k", "k").await;
        bench.becomes(&id, "delayed").await;
        assert_eq!(
            attempts(&bench, outcome).await,
            if outcome == "answered" { place as u64 + 1 } else { 1 },
            "{act:?}"
        );
        assert_eq!(server.all().len(), place + 1, "{act:?}");
    }
}

/// With `dead-dead_letter` a request that may have been accepted must not be repeated: no request uses a used connection.
#[tokio::test]
async fn without_repetition_each_request_has_its_own_connection() {
    for announced in ["", "Keep-Alive: timeout=60\r\n"] {
        let server = Server::start(move |_, place| if place == 0 { Act::Answer(announced) } else { Act::Close }).await;
        let bench = bench(server.url(), |s| s.destinations[0].retry.on_ambiguous = OnAmbiguous::DeadLetter).await;
        deliver(&bench, 0, 3).await;
        for n in 3..20 {
            bench.accept(&n.to_string(), &n.to_string()).await;
        }
        bench.reaches("/counters/delivered", 20).await;
        assert_eq!(bench.count("/dlq/depth").await, 0);
        assert_eq!(server.connections(), 20);
        assert!(server.all().iter().all(|request| request.header("connection") == "close"));
        nothing_failed(&bench, &server, 20).await;
    }
}

#[tokio::test]
async fn a_pause_stops_the_repeated_request() {
    let server = Server::start(|_, place| if place == 0 { Act::Answer("") } else { Act::CloseLater }).await;
    let bench = bench(server.url(), |_| {}).await;
    deliver(&bench, 0, 1).await;
    let id = bench.accept("k", "k").await;
    server.received(2).await;
    let pause = async {
        bench.change("/v1/destinations/default/pause", json!({"reason": "a test"})).await;
    };
    let paused = async {
        wait_for("it is paused", async || {
            let shown = bench.get("/v1/destinations/default").await;
            (shown["paused"] != Value::Bool(false) && !shown["paused"].is_null()).then_some(())
        })
        .await;
        server.gate.add_permits(9);
    };
    // a pause is answered after the last request has been sent
    tokio::join!(pause, paused);
    let_pass(A_WHILE).await;
    assert_eq!(server.all().len(), 2, "sent during the pause");
    bench.change("/v1/destinations/default/resume", json!({})).await;
    bench.becomes(&id, "delivered").await;
    nothing_failed(&bench, &server, 2).await;
}

#[tokio::test]
async fn announced_keep_alive_limits_are_obeyed() {
    for (line, pause_ms, connections) in [
        ("Keep-Alive: timeout=0\r\n", 0, 4),
        ("Keep-Alive: timeout=1\r\n", 600, 4),
        ("Keep-Alive: timeout=60, max=2\r\n", 0, 2),
        ("Keep-Alive: timeout=60, max=0\r\n", 0, 4),
        ("Connection: close\r\n", 0, 4),
        ("Keep-Alive: timeout=60, max=100\r\n", 0, 1),
        ("", 0, 1),
    ] {
        let server = Server::start(move |_, _| Act::Answer(line)).await;
        let bench = bench(server.url(), |_| {}).await;
        for n in 0..4 {
            deliver(&bench, n, 1).await;
            let_pass(pause_ms * MS).await;
        }
        assert_eq!(server.connections(), connections, "{line}");
    }
}

/// The server announces nothing, and closes each connection shortly after each response. Many requests hit a closed
/// connection; none of them fails, and after a while connections are hardly pooled.
#[tokio::test]
async fn a_destination_may_close_after_each_answer() {
    let server = Server::start(|_, _| Act::AnswerAndClose(30 * MS)).await;
    let bench = bench(server.url(), |_| {}).await;
    for n in 0..100 {
        bench.accept(&n.to_string(), &n.to_string()).await;
        let_pass(7 * MS).await;
    }
    bench.reaches("/counters/delivered", 100).await;
    nothing_failed(&bench, &server, 100).await;
    assert!(server.all().len() < 120, "{} for 100", server.all().len());
}

#[tokio::test]
async fn a_busy_connection_ends_at_its_lifetime() {
    let server = Server::start(|_, _| Act::Answer("")).await;
    let bench = bench(server.url(), |s| s.destinations[0].connection_lifetime = 300 * MS).await;
    let mut n = 0;
    wait_for("a third connection was made", async || {
        deliver(&bench, n, 1).await;
        n += 1;
        (server.connections() >= 3).then_some(())
    })
    .await;
    assert!(n > 4, "several went over each");
    nothing_failed(&bench, &server, n as u64).await;
}

/// A server that responds and closes without reading the whole of a long body: the response is used.
#[tokio::test]
async fn an_answer_before_the_end_of_a_long_body_counts() {
    for (answer, state, outcome) in [
        ("HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", "dead", "answered"),
        ("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", "delayed", "answered"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut some = [0; 1000];
                let _ = stream.read(&mut some).await;
                // unread data turns the close into a reset
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        let bench = bench(Some(url), |_| {}).await;
        let body = json!({"data": {"interactionId": "k"}, "long": "x".repeat(900_000)}).to_string();
        let id = bench.post(body.as_bytes()).await.json()["id"].as_str().unwrap().to_owned();
        bench.becomes(&id, state).await;
        assert_eq!(attempts(&bench, outcome).await, 1, "{answer}");
    }
}
