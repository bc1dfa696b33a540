//! The daemon in process, on free ports and with a folder of its own, and small HTTP clients for it.
//!
//! A daemon has a runtime of its own, so that [`Bench::crash`] can end it at any moment.

use crate::harness::events::event;
use crate::harness::stores::is_locked;
use holdline::clock::Clock;
use holdline::config::settings::{Destination, Settings, Source, Token};
use holdline::config::{Flags, settings};
use holdline::daemon::Daemon;
use holdline::event::{DestinationId, DestinationSet, Digest64, Event};
use holdline::rules::concurrency::Adaptive;
use holdline::store::Store;
use holdline::time::Timestamp;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

/// Longer than any wait takes, even on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);
/// Start of the manual clocks.
pub const START: Timestamp = Timestamp(1_800_000_000_000);

/// Repeats `probe` until it returns a value.
pub async fn wait_for<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let waiting = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        loop {
            ticks.tick().await;
            if let Some(found) = probe().await {
                return found;
            }
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("it never came to this: {what}"))
}

/// Lets `moment` pass, to see that something does not happen in that time.
pub async fn let_pass(moment: Duration) {
    let _ = tokio::time::timeout(moment, std::future::pending::<()>()).await;
}

/// A response to a request.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The code of an error, in the one JSON shape that errors have.
    pub fn code(&self) -> String {
        let json = self.json();
        assert!(json["error"]["message"].as_str().is_some_and(|m| !m.is_empty()), "{json}");
        json["error"]["code"].as_str().unwrap().to_owned()
    }
}

/// Reads one message: its first line, headers in lower case, and body. None if the peer closes or breaks off.
pub async fn read_message<R: tokio::io::AsyncRead + Unpin>(
    stream: &mut BufReader<R>,
    bodiless: bool,
) -> Option<(String, Vec<(String, String)>, Vec<u8>)> {
    let mut first = String::new();
    if stream.read_line(&mut first).await.ok()? == 0 {
        return None;
    }
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
    let header = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
    let mut body = Vec::new();
    if bodiless {
        return Some((first, headers, body));
    }
    if let Some(length) = header("content-length") {
        body.resize(length.parse().ok()?, 0);
        stream.read_exact(&mut body).await.ok()?;
    } else if header("transfer-encoding").is_some() {
        loop {
            let mut size = String::new();
            stream.read_line(&mut size).await.ok()?;
            let size = usize::from_str_radix(size.trim(), 16).ok()?;
            let mut chunk = vec![0; size + 2];
            stream.read_exact(&mut chunk).await.ok()?;
            if size == 0 {
                break;
            }
            body.extend(&chunk[..size]);
        }
    }
    Some((first, headers, body))
}

/// A keep-alive connection.
pub struct Connection(pub BufReader<TcpStream>);

impl Connection {
    pub async fn open(to: SocketAddr) -> Self {
        Self(BufReader::new(TcpStream::connect(to).await.unwrap()))
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        // the peer may respond and close before it has read everything
        let _ = self.0.get_mut().write_all(bytes).await;
    }

    /// The next response; none if the connection is closed without one.
    pub async fn reply(&mut self) -> Option<Reply> {
        self.reply_to("POST").await
    }

    pub async fn reply_to(&mut self, method: &str) -> Option<Reply> {
        let read = tokio::time::timeout(DEADLINE, read_message(&mut self.0, method == "HEAD"));
        let (first, headers, body) = read.await.expect("an answer or an end")?;
        let status = first.split(' ').nth(1).unwrap().parse().unwrap();
        Some(Reply { status, headers, body })
    }

    /// Whether the peer has closed without sending another byte.
    pub async fn ends(&mut self) -> bool {
        let read = tokio::time::timeout(DEADLINE, self.0.read_u8());
        read.await.expect("an end").is_err()
    }
}

/// Sends one request on a connection of its own.
pub async fn request(to: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let mut connection = Connection::open(to).await;
    connection.send(&message(method, path, headers, body)).await;
    let reply = connection.reply_to(method).await;
    reply.unwrap_or_else(|| panic!("{method} {path} was not answered"))
}

/// A request as bytes on the wire.
pub fn message(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("transfer-encoding")) {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    [head.as_bytes(), body].concat()
}

/// The body of an event as a sender posts it.
pub fn body(interaction: &str, id: &str) -> Vec<u8> {
    let json = json!({"eventType": "interaction.completed", "timestamp": "2026-03-19T22:04:48.128Z", "eventId": id,
        "data": {"interactionId": interaction}});
    json.to_string().into_bytes()
}

/// An event of an interaction as the store gets it, with the sender's id, for the destinations 0 to `destinations - 1`.
pub fn arriving(interaction: &str, id: &str, body: &[u8], destinations: u8, now: Timestamp) -> Event {
    Event {
        received_at: now,
        source: "default".to_owned(),
        to: (0..destinations).fold(DestinationSet::EMPTY, |set, d| set.with(DestinationId(d))),
        interaction: (!interaction.is_empty()).then(|| interaction.to_owned()),
        sender_id: (!id.is_empty()).then(|| id.to_owned()),
        kind: "interaction.completed".to_owned(),
        time: Some(Timestamp(1_715_634_000_000)),
        content_type: "application/json".to_owned(),
        body_digest: Digest64::of(&[body]),
        body: body.to_vec().into(),
        ..event(1)
    }
}

/// Settings of a daemon in `data` with one source and one destination, both called `default`.
pub fn settings(data: &Path, to: Option<String>) -> Settings {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let flags = Flags { to, data: Some(data.to_owned()), intake: Some(any), admin: Some(any) };
    let mut settings = Settings::embedded(&flags).unwrap();
    settings.intake.disk_reserve_bytes = 1 << 20;
    settings.store.drain_timeout = Duration::from_secs(5);
    settings.store.ballast_bytes = 0;
    settings.destinations.iter_mut().for_each(keep_pace);
    settings
}

/// Another destination.
pub fn destination(name: &str, url: &str) -> Destination {
    let mut destination = Destination { url: Some(url.parse().unwrap()), ..Destination::named(name) };
    keep_pace(&mut destination);
    destination
}

/// Disables the adaptive limit and the breaker; they have tests of their own.
fn keep_pace(destination: &mut Destination) {
    destination.adaptive = Adaptive::No;
    destination.breaker.min_calls = u32::MAX;
}

/// Another source.
pub fn source(name: &str, profile: &str) -> Source {
    Source { profile: profile.to_owned(), ..Source::named(name) }
}

struct Running {
    daemon: Daemon,
    runtime: Runtime,
}

/// A daemon, its folder, and its clock.
pub struct Bench {
    running: Option<Running>,
    pub settings: settings::Settings,
    pub clock: Clock,
    pub folder: TempDir,
    pub intake: SocketAddr,
    pub admin: SocketAddr,
    pub token: String,
}

impl Drop for Bench {
    fn drop(&mut self) {
        if self.running.is_some() {
            self.crash();
        }
    }
}

impl Bench {
    /// Starts a daemon with the system clock that delivers to `to`.
    pub async fn start(to: Option<String>) -> Self {
        Self::with(to, Clock::system(), |_| {}).await
    }

    /// Starts a daemon with changed settings or another clock.
    pub async fn with(to: Option<String>, clock: Clock, change: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings(folder.path(), to);
        change(&mut settings);
        let nowhere: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let token = String::new();
        let mut bench = Self { running: None, settings, clock, folder, intake: nowhere, admin: nowhere, token };
        bench.open().await;
        bench
    }

    /// Starts the daemon again on the same folder.
    pub async fn open(&mut self) {
        assert!(self.running.is_none());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let daemon = wait_for("the daemon starts", async || {
            let start = Daemon::start(self.settings.clone(), self.clock.clone());
            match runtime.spawn(start).await.unwrap() {
                Ok(daemon) => Some(daemon),
                // sled's threads may take a moment to release the lock: in one process no exit ends them
                Err(error) if is_locked(&format!("{error:#}")) => None,
                Err(error) => panic!("{error:#}"),
            }
        })
        .await;
        (self.intake, self.admin) = (daemon.intake_addr(), daemon.admin_addr().unwrap());
        self.token = daemon.token().to_owned();
        assert!(
            matches!(self.settings.admin.token, Token::Given(_)) || self.folder.path().join("admin.token").exists()
        );
        self.running = Some(Running { daemon, runtime });
    }

    /// Stops the daemon gracefully.
    pub async fn stop(&mut self) {
        let Running { daemon, runtime } = self.running.take().unwrap();
        runtime.spawn(daemon.stop()).await.unwrap().unwrap();
        runtime.shutdown_background();
    }

    /// Ends the daemon at once: nothing is drained, no request is finished.
    pub fn crash(&mut self) {
        let Running { daemon, runtime } = self.running.take().unwrap();
        runtime.shutdown_background();
        drop(daemon);
    }

    pub async fn restart(&mut self) {
        self.stop().await;
        self.open().await;
    }

    /// Reloads with changed settings; the error says why they are refused.
    pub async fn reload(&mut self, change: impl FnOnce(&mut Settings)) -> Result<(), String> {
        let mut settings = self.settings.clone();
        change(&mut settings);
        let reloaded = self.running.as_mut().unwrap().daemon.reload(settings.clone()).await;
        if reloaded.is_ok() {
            self.settings = settings;
        }
        reloaded.map_err(|why| format!("{why:#}"))
    }

    /// Runs the check of the store, which compares its rows with each other.
    pub async fn sound(&self) {
        let store = self.running.as_ref().unwrap().daemon.store();
        assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
    }

    pub fn store(&self) -> &Store {
        self.running.as_ref().unwrap().daemon.store()
    }

    /// When the daemon last recorded a heartbeat.
    pub fn heartbeat(&self) -> Option<Timestamp> {
        self.running.as_ref().unwrap().daemon.store().heartbeat().unwrap()
    }

    /// Whether the state of alerts has been recorded: the conditions have been evaluated at least once.
    pub fn has_looked(&self) -> bool {
        self.running.as_ref().unwrap().daemon.store().told().unwrap().is_some()
    }

    pub async fn post(&self, body: &[u8]) -> Reply {
        self.post_as("default", &[("Content-Type", "application/json")], body).await
    }

    pub async fn post_as(&self, source: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        request(self.intake, "POST", &format!("/in/{source}"), headers, body).await
    }

    /// Sends an event and returns its id.
    pub async fn accept(&self, interaction: &str, id: &str) -> String {
        let reply = self.post(&body(interaction, id)).await;
        assert_eq!((reply.status, reply.json()["status"].as_str()), (202, Some("queued")), "{}", reply.text());
        reply.json()["id"].as_str().unwrap().to_owned()
    }

    pub async fn admin(&self, method: &str, path: &str, body: &[u8]) -> Reply {
        let bearer = format!("Bearer {}", self.token);
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
        request(self.admin, method, path, &headers, body).await
    }

    /// The response of the admin API at `path`.
    pub async fn get(&self, path: &str) -> Value {
        let reply = self.admin("GET", path, b"").await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        reply.json()
    }

    /// Posts a change to the admin API.
    pub async fn change(&self, path: &str, body: Value) -> Value {
        let reply = self.admin("POST", path, body.to_string().as_bytes()).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        reply.json()
    }

    pub async fn status(&self) -> Value {
        self.get("/v1/status").await
    }

    pub async fn count(&self, pointer: &str) -> u64 {
        let status = self.status().await;
        status.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("{pointer}: {status}"))
    }

    /// Waits until a number of the status has the wanted value and what it counts has been written.
    pub async fn reaches(&self, pointer: &str, wanted: u64) {
        wait_for(&format!("{pointer} is {wanted}"), async || (self.count(pointer).await == wanted).then_some(())).await;
        self.running.as_ref().unwrap().daemon.store().flush().await.unwrap();
    }

    /// Waits until the first delivery of an event is in this state, and returns it.
    pub async fn becomes(&self, id: &str, state: &str) -> Value {
        wait_for(&format!("{id} is {state}"), async || {
            let event = self.get(&format!("/v1/events/{id}")).await;
            (event["deliveries"][0]["state"] == state).then(|| event["deliveries"][0].clone())
        })
        .await
    }
}
