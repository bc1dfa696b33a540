//! The daemon as a service: inherited sockets, notifications to the service manager, the watchdog, reload.

use crate::harness::bench::{body, let_pass, request, wait_for};
use crate::harness::process::Process;
use crate::harness::receiver::Receiver;
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;

const WATCHDOG: Duration = Duration::from_millis(400);

/// The part of systemd: the listening socket, and the notification socket.
struct Manager {
    socket: TcpListener,
    ear: UnixDatagram,
    path: PathBuf,
    _folder: TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let ear = UnixDatagram::bind(&path).unwrap();
        ear.set_nonblocking(true).unwrap();
        Self { socket: TcpListener::bind("127.0.0.1:0").unwrap(), ear, path, _folder: folder }
    }

    fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// The next notification of the daemon, if there is one.
    fn heard(&self) -> Option<String> {
        let mut word = [0; 4096];
        let length = self.ear.recv(&mut word).ok()?;
        Some(String::from_utf8(word[..length].to_vec()).unwrap())
    }

    async fn hears(&self, wanted: &str) {
        wait_for(&format!("it tells {wanted}"), async || self.heard().filter(|word| word.contains(wanted))).await;
    }

    async fn open(&self, process: &mut Process) {
        process.open_activated(&self.socket, &self.path, WATCHDOG).await;
    }
}

/// A daemon on the socket of a manager.
async fn activated(receiver: &Receiver) -> (Manager, Process) {
    let mut process = Process::start(&receiver.url(), "retry = { base = \"5ms\", max = \"50ms\" }").await;
    process.signal(Signal::TERM);
    assert_eq!(process.ended().await, 0);
    let text = std::fs::read_to_string(&process.config).unwrap();
    let own = format!("listen = \"{}\"", process.intake);
    std::fs::write(&process.config, text.replacen(&own, "listen = \"systemd\"", 1)).unwrap();
    let manager = Manager::new();
    process.intake = manager.address();
    manager.open(&mut process).await;
    (manager, process)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_refuses_no_connection_and_knows_duplicates() {
    let receiver = Receiver::good().await;
    let (manager, mut process) = activated(&receiver).await;
    manager.hears("READY=1").await;
    let first = process.accept("k", "first").await;
    let (intake, done) = (process.intake, Arc::new(AtomicBool::new(false)));
    let senders: Vec<_> = (0..4)
        .map(|sender| {
            let done = done.clone();
            tokio::spawn(async move {
                let mut ids = BTreeSet::new();
                while !done.load(Ordering::SeqCst) {
                    let id = format!("{sender}-{}", ids.len());
                    // panics if the connection is refused or reset
                    let reply = request(intake, "POST", "/in/default", &[], &body(&sender.to_string(), &id)).await;
                    assert_eq!(reply.status, 202, "{}", reply.text());
                    ids.insert(reply.json()["id"].as_str().unwrap().to_owned());
                }
                ids
            })
        })
        .collect();
    for _ in 0..5 {
        let_pass(Duration::from_millis(50)).await;
        process.signal(Signal::TERM);
        assert_eq!(process.ended().await, 0, "{}", process.log());
        manager.hears("STOPPING=1").await;
        manager.open(&mut process).await;
    }
    done.store(true, Ordering::SeqCst);
    let mut accepted = BTreeSet::from([first]);
    for sender in senders {
        accepted.extend(sender.await.unwrap());
    }
    assert!(accepted.len() > 20, "{}", accepted.len());
    let again = process.post(&body("k", "first")).await;
    assert_eq!(again.json()["status"], "duplicate");
    process.reaches("/queue/depth", 0).await;
    assert_eq!(receiver.all().iter().map(|r| r.id().to_owned()).collect::<BTreeSet<_>>(), accepted);
}

#[tokio::test]
async fn journal_lines_begin_with_their_priority() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("data"), "no directory").unwrap();
    let serve = "JOURNAL_STREAM=1:2 HOLDLINE_LOG=warn LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" serve --data data 3<&0";
    let output = std::process::Command::new("sh")
        .args(["-c", serve, env!("CARGO_BIN_EXE_holdline")])
        .current_dir(folder.path())
        .stdin(std::os::fd::OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap()))
        .output();
    let told = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(
        told.starts_with("<4>") && told.contains("systemd has passed a socket that intake.listen does not name"),
        "{told}"
    );
}

#[tokio::test]
async fn a_missing_systemd_socket_is_reported_with_a_remedy() {
    let receiver = Receiver::good().await;
    let (_manager, mut process) = activated(&receiver).await;
    process.signal(Signal::TERM);
    assert_eq!(process.ended().await, 0);
    let ran = process.run(&["serve"]).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("systemd has passed no socket; start holdline through systemd"), "{ran:?}");
}

#[tokio::test]
async fn the_watchdog_is_notified_repeatedly() {
    let receiver = Receiver::good().await;
    let (manager, process) = activated(&receiver).await;
    manager.hears("STATUS=accepting events on 127.0.0.1:").await;
    for _ in 0..3 {
        manager.hears("WATCHDOG=1").await;
    }
    drop(process);
}

#[tokio::test]
async fn a_hangup_reloads_the_whole_file_or_nothing() {
    let receiver = Receiver::good().await;
    let (manager, process) = activated(&receiver).await;
    manager.hears("READY=1").await;
    let text = std::fs::read_to_string(&process.config).unwrap();
    let post =
        async |name: &str| request(process.intake, "POST", &format!("/in/{name}"), &[], &body("k", name)).await.status;
    let reload = async |change: &str, told: &str| {
        std::fs::write(&process.config, format!("{text}{change}")).unwrap();
        process.signal(Signal::HUP);
        wait_for(told, async || process.log().contains(told).then_some(())).await;
    };
    assert_eq!(post("new").await, 404);

    reload("[[source]]\nname = \"new\"\nfoo = 1\n", "it has the faults above").await;
    assert_eq!(post("new").await, 404);

    reload("[[source]]\nname = \"new\"\n[dlq]\nevict = true\n", "a restart is needed for what has changed in [dlq]")
        .await;
    assert_eq!(post("new").await, 404);
    manager.hears("RELOADING=1").await;
    manager.hears("READY=1").await;

    reload("[[source]]\nname = \"new\"\n", "the configuration was reloaded").await;
    assert_eq!((post("new").await, post("default").await), (202, 202));
    manager.hears("STATUS=accepting events on 127.0.0.1:").await;
}

#[tokio::test]
async fn a_hangup_reads_the_secrets_of_destinations_again() {
    let receiver = Receiver::good().await;
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "old").unwrap();
    let auth = format!("auth = {{ kind = \"bearer\", token = {{ file = {token:?} }} }}");
    let process = Process::start(&receiver.url(), &auth).await;
    process.accept("k", "1").await;
    receiver.received(1).await;

    std::fs::remove_file(&token).unwrap();
    process.signal(Signal::HUP);
    wait_for("it tells", async || process.log().contains("not reloaded").then_some(())).await;
    process.accept("k", "2").await;
    receiver.received(2).await;

    std::fs::write(&token, "new").unwrap();
    process.signal(Signal::HUP);
    wait_for("it tells", async || process.log().contains("was reloaded").then_some(())).await;
    process.accept("k", "3").await;
    receiver.received(3).await;
    let sent = receiver.all();
    let tokens: Vec<_> = sent.iter().map(|r| r.header("authorization").unwrap()).collect();
    assert_eq!(tokens, ["Bearer old", "Bearer old", "Bearer new"]);
}
