//! Clients without a token that keep connections to the admin port open: health checks and clients with a token are
//! still answered.

use crate::harness::bench::{Bench, Connection, body, message, request, wait_for};
use crate::harness::receiver::{Receiver, status};
use holdline::clock::Clock;
use holdline::config::settings::Settings;
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};

/// The minimum of the setting.
const CONNECTIONS: usize = 32;

async fn bench(to: Option<String>, change: impl FnOnce(&mut Settings)) -> Bench {
    Bench::with(to, Clock::system(), |s| {
        s.admin.max_connections = CONNECTIONS;
        s.destinations[0].breaker.permanent_answers = u32::MAX;
        change(s);
    })
    .await
}

async fn everybody_is_answered(bench: &Bench, what: &str) {
    for path in ["/healthz", "/readyz"] {
        assert_eq!(request(bench.admin, "GET", path, &[], b"").await.status, 200, "{what}: {path}");
    }
    assert_eq!(bench.admin("GET", "/v1/status", b"").await.status, 200, "{what}");
}

#[tokio::test]
async fn i19_idle_strangers_do_not_exhaust_the_admin_port() {
    let bench = bench(None, |s| s.admin.write_timeout = Duration::from_secs(3600)).await;
    let page = message("GET", "/", &[], b"");
    let endless = message("POST", "/v1/dlq/purge", &[], &[b' '; 1000]);
    let wrong = message("GET", "/v1/status", &[("Authorization", "Bearer wrong")], b"");
    let attacks: [(&str, Vec<u8>); 6] = [
        ("nothing", Vec::new()),
        ("heads without an end", b"GET /healthz HTTP/1.1\r\nX".to_vec()),
        ("bodies without an end", endless[..endless.len() - 1].to_vec()),
        ("answers that nobody reads", page.repeat(300)),
        ("health that nobody reads", message("GET", "/healthz", &[], b"").repeat(3000)),
        ("wrong tokens that are held back", wrong.repeat(20)),
    ];
    for (what, bytes) in attacks {
        let mut held = Vec::new();
        for n in 0..3 * CONNECTIONS {
            let mut connection = TcpStream::connect(bench.admin).await.unwrap();
            // sends as much as the peer reads; it may stop reading
            let _ = tokio::time::timeout(Duration::from_millis(100), connection.write_all(&bytes)).await;
            held.push(connection);
            if n % CONNECTIONS == CONNECTIONS - 1 {
                everybody_is_answered(&bench, what).await;
            }
        }
    }
}

#[tokio::test]
async fn i19_idle_strangers_do_not_exhaust_the_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let bench = bench(None, |s| s.admin.sockets.push(path.clone())).await;
    let mut held = Vec::new();
    for _ in 0..3 * CONNECTIONS {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nX").await.unwrap();
        held.push(stream);
    }
    everybody_is_answered(&bench, "the unix socket is besieged").await;
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(&message("GET", "/v1/status", &[("Connection", "close")], b"")).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "its own user needs no token: {answer}");
}

/// A daemon with 200 dead letters of 100 kB each, far more than sockets and buffers can take.
async fn with_letters(change: impl FnOnce(&mut Settings)) -> (Bench, Receiver) {
    let receiver = Receiver::start(|_| status(400)).await;
    let bench = bench(receiver.to(), change).await;
    for n in 0..200 {
        let event = json!({"eventId": n, "data": {"interactionId": n.to_string()}, "pad": "x".repeat(100_000)});
        assert_eq!(bench.post(event.to_string().as_bytes()).await.status, 202);
    }
    bench.reaches("/dlq/depth", 200).await;
    (bench, receiver)
}

async fn export(bench: &Bench) -> TcpStream {
    let mut stream = TcpStream::connect(bench.admin).await.unwrap();
    let bearer = format!("Bearer {}", bench.token);
    let headers = [("Authorization", bearer.as_str()), ("Connection", "close")];
    stream.write_all(&message("GET", "/v1/dlq/export", &headers, b"")).await.unwrap();
    stream
}

#[tokio::test]
async fn a_long_authenticated_stream_continues_while_it_is_read() {
    let (bench, _receiver) = with_letters(|s| s.admin.write_timeout = Duration::from_millis(500)).await;
    let mut reader = BufReader::new(export(&bench).await);
    let mut all = Vec::new();
    let mut held = Vec::new();
    let mut piece = vec![0; 512 * 1024];
    loop {
        let n = reader.read(&mut piece).await.unwrap();
        all.extend_from_slice(&piece[..n]);
        if n == 0 {
            break;
        }
        if held.len() < 3 * CONNECTIONS {
            held.push(TcpStream::connect(bench.admin).await.unwrap());
        }
    }
    assert!(all.ends_with(b"0\r\n\r\n"), "to its end");
    assert!(all.len() > 20_000_000 && held.len() > CONNECTIONS, "{} {}", all.len(), held.len());
}

#[tokio::test]
async fn an_authenticated_client_that_reads_nothing_is_closed() {
    let (bench, _receiver) = with_letters(|s| s.admin.write_timeout = Duration::from_millis(200)).await;
    let mut stream = export(&bench).await;
    // the client notices the closed connection only when it reads, after the data that is already buffered
    wait_for("it is given up", async || {
        let inuse = bench.admin("GET", "/healthz", b"").await;
        assert_eq!(inuse.status, 200);
        stream.writable().await.unwrap();
        matches!(stream.try_write(b"x"), Err(e) if e.kind() != std::io::ErrorKind::WouldBlock).then_some(())
    })
    .await;
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all).await;
    assert!(!all.ends_with(b"0\r\n\r\n"), "cut off: {}", all.len());
}

/// Requests with a token fill no more than their share: health checks are still answered.
#[tokio::test]
async fn i19_streams_with_a_token_leave_room_for_health_checks() {
    let (bench, _receiver) = with_letters(|s| s.admin.write_timeout = Duration::from_secs(3600)).await;
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = BufReader::new(export(&bench).await);
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        streams.push((String::from_utf8(first[9..].to_vec()).unwrap(), stream));
    }
    let served = streams.iter().filter(|(status, _)| status == "200").count();
    let refused = streams.iter().filter(|(status, _)| status == "503").count();
    assert_eq!((served, refused), (CONNECTIONS - 16, 16));
    for _ in 0..2 * CONNECTIONS {
        assert_eq!(request(bench.admin, "GET", "/healthz", &[], b"").await.status, 200);
    }
    streams.clear();
    wait_for("there is room again", async || (bench.admin("GET", "/v1/status", b"").await.status == 200).then_some(()))
        .await;
}

#[tokio::test]
async fn an_admin_refusal_reaches_a_client_that_is_still_sending() {
    let bench = bench(None, |_| {}).await;
    for (bytes, token, status) in [(20_000, "wrong", 401), (1_000_000, "wrong", 401), (3_000_000, "", 400)] {
        let bearer = format!("Bearer {}", if token.is_empty() { &bench.token } else { token });
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
        let whole = message("POST", "/v1/dlq/purge", &headers, &vec![b' '; bytes]);
        let mut connection = Connection::open(bench.admin).await;
        for piece in whole.chunks(4096) {
            connection.0.get_mut().write_all(piece).await.unwrap();
        }
        assert_eq!(connection.reply().await.unwrap().status, status, "{bytes}");
    }
    let id = bench.post(&body("k", "1")).await;
    assert_eq!(id.status, 202);
}
