//! TLS to destinations: which certificates holdline trusts, and how it authenticates itself. With real handshakes.

use crate::harness::authority::{Authority, Certified, TlsFront, Until};
use crate::harness::bench::{Bench, START, let_pass, wait_for};
use crate::harness::receiver::{Act, Receiver, held, retry_after, status};
use holdline::clock::Clock;
use holdline::config::settings::{DestinationAuth, DestinationTls, Identity, Settings};
use holdline::event::DestinationId;
use holdline::rules::backoff::Jitter;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Sends one event to `url` with these TLS settings; returns its first attempt, none if it was delivered.
async fn attempt(url: String, tls: DestinationTls) -> Option<Value> {
    let bench = Bench::with(Some(url), Clock::manual(START), |s: &mut Settings| {
        s.destinations[0].retry.jitter = Jitter::None;
        s.destinations[0].tls = tls;
    })
    .await;
    let id = bench.accept("k", "1").await;
    wait_for("the attempt has ended", async || {
        let event = bench.get(&format!("/v1/events/{id}")).await;
        let delivery = &event["deliveries"][0];
        match delivery["state"].as_str().unwrap() {
            "delivered" => Some(None),
            "delayed" => delivery.pointer("/attempts/0").cloned().map(Some),
            _ => None,
        }
    })
    .await
}

fn trusting(authority: &Authority) -> DestinationTls {
    DestinationTls { ca: Some(authority.ca()), identity: None }
}

fn proving(authority: &Authority, Certified { cert, key }: Certified) -> DestinationTls {
    DestinationTls { ca: Some(authority.ca()), identity: Some(Identity { cert, key }) }
}

/// Asserts that nothing was sent, and that the error contains `words`.
fn not_connected(attempt: Option<Value>, words: &str) {
    let attempt = attempt.unwrap();
    assert_eq!((&attempt["outcome"], &attempt["ambiguous"]), (&json!("not_connected"), &json!(false)), "{attempt}");
    assert!(attempt["error"].as_str().unwrap().contains(words), "{attempt}");
}

#[tokio::test]
async fn only_the_configured_authority_is_trusted() {
    let (ours, other) = (Authority::new(), Authority::new());
    let receiver = Receiver::good().await;
    let front = TlsFront::start(&ours.certify("localhost", Until::Long), None, receiver.addr).await;
    assert_eq!(attempt(front.url("localhost"), trusting(&ours)).await, None);
    assert_eq!(receiver.count(), 1);
    not_connected(attempt(front.url("localhost"), trusting(&other)).await, "UnknownIssuer");
    let plain = format!("https://localhost:{}/", receiver.addr.port());
    not_connected(
        attempt(plain, trusting(&ours)).await,
        "does not speak TLS does; write the port on which it speaks TLS",
    );
    not_connected(attempt(front.url("localhost"), trusting(&other)).await, "unknown issuer; set tls.ca");
    not_connected(attempt(front.url("localhost"), DestinationTls::default()).await, "UnknownIssuer");
    front.refused(3).await;
    assert_eq!(receiver.count(), 1);
}

#[tokio::test]
async fn a_certificate_with_wrong_name_or_time_is_refused() {
    let ours = Authority::new();
    let receiver = Receiver::good().await;
    let front = TlsFront::start(&ours.certify("crm.internal", Until::Long), None, receiver.addr).await;
    not_connected(attempt(front.url("localhost"), trusting(&ours)).await, "not valid for name");
    not_connected(attempt(front.url("127.0.0.1"), trusting(&ours)).await, "not valid for name");
    let front = TlsFront::start(&ours.certify("localhost", Until::Yesteryear), None, receiver.addr).await;
    not_connected(attempt(front.url("localhost"), trusting(&ours)).await, "expired");
    let front = TlsFront::start(&ours.certify("127.0.0.1", Until::Long), None, receiver.addr).await;
    assert_eq!(attempt(front.url("127.0.0.1"), trusting(&ours)).await, None, "an address is a name too");
    assert_eq!(receiver.count(), 1);
}

#[tokio::test]
async fn a_client_certificate_is_sent_and_its_refusal_sends_nothing() {
    let (ours, other) = (Authority::new(), Authority::new());
    let receiver = Receiver::good().await;
    let front = TlsFront::start(&ours.certify("localhost", Until::Long), Some(&ours), receiver.addr).await;
    let known = ours.certify("holdline", Until::Long);
    assert_eq!(attempt(front.url("localhost"), proving(&ours, known)).await, None);
    let none = attempt(front.url("localhost"), trusting(&ours)).await;
    not_connected(none, "CertificateRequired");
    let foreign = proving(&ours, other.certify("holdline", Until::Long));
    not_connected(attempt(front.url("localhost"), foreign).await, "received fatal alert");
    let expired = proving(&ours, ours.certify("old", Until::Yesteryear));
    not_connected(attempt(front.url("localhost"), expired).await, "received fatal alert");
    front.refused(3).await;
    assert_eq!(receiver.count(), 1);
}

#[tokio::test]
async fn tls_and_plain_mismatches_are_named() {
    let ours = Authority::new();
    let receiver = Receiver::good().await;
    let plain = format!("https://localhost:{}/", receiver.addr.port());
    let garbled = attempt(plain, trusting(&ours)).await.unwrap();
    assert_eq!(garbled["outcome"], json!("not_connected"), "{garbled}");
    let front = TlsFront::start(&ours.certify("localhost", Until::Long), None, receiver.addr).await;
    let broken = attempt(format!("http://localhost:{}/", front.addr.port()), trusting(&ours)).await.unwrap();
    assert_eq!((&broken["outcome"], &broken["ambiguous"]), (&json!("broken"), &json!(true)), "{broken}");
    assert_eq!(receiver.count(), 0);
}

#[test]
fn invalid_tls_files_are_reported_at_the_start_with_a_remedy() {
    let (ours, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let (empty, missing) = (folder.path().join("empty"), folder.path().join("missing"));
    std::fs::write(&empty, "").unwrap();
    let (a, b) = (ours.certify("a", Until::Long), ours.certify("b", Until::Long));
    let identity = |cert: &_, key: &_| DestinationTls {
        ca: None,
        identity: Some(Identity { cert: PathBuf::clone(cert), key: PathBuf::clone(key) }),
    };
    for (tls, words) in [
        (DestinationTls { ca: Some(missing.clone()), identity: None }, "`tls.ca` "),
        (DestinationTls { ca: Some(empty.clone()), identity: None }, "it holds no certificate; give a PEM file"),
        (identity(&a.cert, &missing), "`tls.key` "),
        (identity(&a.cert, &a.cert), "`tls.key` "),
        (identity(&empty, &a.key), "`tls.cert` "),
        (identity(&a.cert, &b.key), "give a certificate and its own key"),
    ] {
        let mut settings = crate::harness::bench::destination("crm", "https://localhost/");
        (settings.tls, settings.auth) = (tls, Some(DestinationAuth::Mtls));
        let why = holdline::dispatch::Destination::new(DestinationId(0), &settings).unwrap_err().to_string();
        assert!(why.contains(words), "{why}");
    }
}

/// Forwards the first connection; accepts later ones and never answers them. Returns how many of those are open.
async fn only_the_first(to: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, open) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = open.clone();
    tokio::spawn(async move {
        let (mut first, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let mut inner = TcpStream::connect(to).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut first, &mut inner).await;
        });
        loop {
            let (mut silent, _) = listener.accept().await.unwrap();
            let count = count.clone();
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let _ = silent.read_to_end(&mut Vec::new()).await;
                count.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    (addr, open)
}

#[tokio::test]
async fn i18_an_abandoned_handshake_is_closed() {
    let ours = Authority::new();
    let receiver = Receiver::start(|r| if r.n == 0 { held(status(200)) } else { status(200) }).await;
    let front = TlsFront::start(&ours.certify("localhost", Until::Long), None, receiver.addr).await;
    let (addr, silent) = only_the_first(front.addr).await;
    let url = format!("https://localhost:{}/", addr.port());
    let bench = Bench::with(Some(url), Clock::manual(START), |s: &mut Settings| {
        s.destinations[0].tls = trusting(&ours);
        s.destinations[0].timeout = Duration::from_secs(3);
    })
    .await;
    bench.accept("a", "1").await;
    receiver.received(1).await;
    bench.accept("b", "2").await;
    wait_for("the second one connects", async || (silent.load(Ordering::SeqCst) == 1).then_some(())).await;
    // the second one then uses the connection of the first, and its own is discarded
    receiver.release(1);
    bench.reaches("/counters/delivered", 2).await;
    wait_for("it is closed", async || (silent.load(Ordering::SeqCst) == 0).then_some(())).await;
}

/// Forwards the first connection at once, and later ones when allowed. Returns how many of those were opened.
async fn slow_to_connect(to: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>, Arc<Semaphore>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, late, let_on) =
        (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(1)));
    let (count, permits) = (late.clone(), let_on.clone());
    tokio::spawn(async move {
        for n in 0.. {
            let (mut outer, _) = listener.accept().await.unwrap();
            count.store(n, Ordering::SeqCst);
            let permits = permits.clone();
            tokio::spawn(async move {
                permits.acquire().await.unwrap().forget();
                let mut inner = TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
            });
        }
    });
    (addr, late, let_on)
}

/// What asks for silence while two others connect, and what ends it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Silence {
    Answer,
    /// Nobody else can use its connection.
    LastAnswer,
    Pause,
    Breaker,
}

#[tokio::test]
async fn i12_a_retry_after_stops_requests_that_are_still_connecting() {
    let ours = Authority::new();
    for silence in [Silence::Answer, Silence::LastAnswer, Silence::Pause, Silence::Breaker] {
        let receiver = Receiver::start(move |r| match (silence, r.n) {
            (Silence::Answer, 0) => held(retry_after(429, 8)),
            (Silence::LastAnswer, 0) => {
                let answer = "HTTP/1.1 429 x\r\nRetry-After: 8\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
                held(Act::Raw(answer.into()))
            }
            (_, 0) => held(status(200)),
            _ => status(200),
        })
        .await;
        let front = TlsFront::start(&ours.certify("localhost", Until::Long), None, receiver.addr).await;
        let (addr, late, let_on) = slow_to_connect(front.addr).await;
        let bench = Bench::with(
            Some(format!("https://localhost:{}/", addr.port())),
            Clock::manual(START),
            |s: &mut Settings| {
                s.destinations[0].tls = trusting(&ours);
                s.destinations[0].retry.jitter = Jitter::None;
            },
        )
        .await;
        bench.accept("a", "1").await;
        receiver.received(1).await;
        let others = [bench.accept("b", "2").await, bench.accept("c", "3").await];
        wait_for("both connect", async || (late.load(Ordering::SeqCst) == 2).then_some(())).await;
        let set = |path: &str, body: Value| {
            let (bench, path) = (&bench, format!("/v1/destinations/default/{path}"));
            async move { bench.change(&path, body).await }
        };
        match silence {
            Silence::Answer | Silence::LastAnswer => {}
            Silence::Pause => drop(set("pause", json!({"reason": "works"})).await),
            Silence::Breaker => drop(set("breaker", json!({"state": "open"})).await),
        }
        wait_for("it is asked for", async || {
            if matches!(silence, Silence::Answer | Silence::LastAnswer) {
                receiver.release(1);
            }
            let shown = bench.get("/v1/destinations/default").await;
            shown["blocked_by"].as_array().is_some_and(|holds| !holds.is_empty()).then_some(())
        })
        .await;
        receiver.release(1);
        let_on.add_permits(9);
        bench.reaches("/queue/in_flight", 0).await;
        let_pass(Duration::from_millis(80)).await;
        assert_eq!(receiver.count(), 1, "{silence:?}");
        match silence {
            Silence::Answer | Silence::LastAnswer => bench.clock.advance(Duration::from_millis(8001)),
            Silence::Pause => drop(set("resume", json!({})).await),
            Silence::Breaker => drop(set("breaker", json!({"state": "closed"})).await),
        }
        for _ in 0..20 {
            bench.clock.advance(Duration::from_secs(1)); // the permitted calls grow one by one
        }
        bench.reaches("/counters/delivered", 3).await;
        for id in others {
            assert_eq!(receiver.of(&id).iter().map(|r| r.attempt()).collect::<Vec<_>>(), [1], "{silence:?}");
        }
        bench.sound().await;
    }
}
