//! Strangers who hold back the rest of their bodies: they share a part of the memory, and hold up nobody who sends.

use crate::harness::bench::{Bench, Connection, body, message, source};
use crate::intake::tls::{Authority, Client};
use holdline::clock::Clock;
use holdline::config::settings::{Secret, Settings, Source, SourceAuth};
use holdline::signature::Scheme;
use http_body_util::channel::Channel;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::time::Duration;

const JSON: (&str, &str) = ("Content-Type", "application/json");
const WRONG: (&str, &str) =
    ("X-Hub-Signature-256", "sha256=0000000000000000000000000000000000000000000000000000000000000000");
const TOKEN: (&str, &str) = ("Authorization", "Bearer t0ken");
const BODY_BYTES: usize = 256 * 1024;

/// Sources `signed` (HMAC), `known` (bearer) and the open `default`; 4 MiB of memory, for 16 of the largest bodies.
async fn bench(change: impl FnOnce(&mut Settings)) -> Bench {
    let secrets = tempfile::tempdir().unwrap();
    let path = secrets.path().join("secret");
    std::fs::write(&path, "t0ken\n").unwrap();
    let secret = || vec![Secret::File(path.clone())];
    let hmac = SourceAuth::Hmac { scheme: Scheme::preset("github").unwrap(), secrets: secret() };
    let bearer = SourceAuth::Bearer { tokens: secret() };
    Bench::with(None, Clock::system(), |s| {
        s.intake.max_body_bytes = BODY_BYTES;
        s.intake.max_buffered_bytes = 16 * BODY_BYTES;
        s.intake.body_timeout = Duration::from_secs(300);
        s.intake.min_body_rate = 0;
        s.sources.push(Source { auth: vec![hmac], ..source("signed", "auto") });
        s.sources.push(Source { auth: vec![bearer], ..source("known", "auto") });
        change(s);
    })
    .await
}

/// A connection that sends all of the largest body but its last byte.
async fn hold_back(bench: &Bench, path: &str, headers: &[(&str, &str)]) -> Connection {
    let whole = message("POST", path, headers, &[b' '; BODY_BYTES]);
    let mut connection = Connection::open(bench.intake).await;
    connection.send(&whole[..whole.len() - 1]).await;
    connection
}

/// `{}` under the secret of the source.
fn signature(body: &[u8]) -> String {
    use ring::hmac;
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"t0ken");
    let hex: String = hmac::sign(&key, body).as_ref().iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256={hex}")
}

async fn everybody_gets_in(bench: &Bench, round: usize) {
    let event = |who: &str| body("k", &format!("{who}-{round}"));
    assert_eq!(bench.post(&event("open")).await.status, 202, "{round}");
    assert_eq!(bench.post_as("known", &[JSON, TOKEN], &event("known")).await.status, 202, "{round}");
    let signed = event("signed");
    let signature = signature(&signed);
    let headers = [JSON, ("X-Hub-Signature-256", signature.as_str())];
    assert_eq!(bench.post_as("signed", &headers, &signed).await.status, 202, "{round}");
    // a large one of each kind, too
    for (source, header) in [("default", JSON), ("known", TOKEN)] {
        let event = json_of(&format!("{source}-large-{round}"), BODY_BYTES - 1000);
        assert_eq!(bench.post_as(source, &[JSON, header], &event).await.status, 202, "{source} {round}");
    }
}

fn json_of(id: &str, bytes: usize) -> Vec<u8> {
    serde_json::json!({"eventId": id, "data": {"interactionId": id}, "pad": "x".repeat(bytes)}).to_string().into_bytes()
}

#[tokio::test]
async fn i19_unfinished_bodies_with_a_wrong_signature_delay_no_one() {
    let bench = bench(|_| {}).await;
    let mut strangers = Vec::new();
    for n in 0..65 {
        strangers.push(hold_back(&bench, "/in/signed", &[JSON, WRONG]).await);
        if n % 16 == 0 {
            everybody_gets_in(&bench, n).await;
        }
    }
    let reply = strangers[0].reply().await.unwrap();
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")), "the one idle longest gave way");
    everybody_gets_in(&bench, 65).await;
}

#[tokio::test]
async fn i19_unfinished_bodies_do_not_delay_an_open_source() {
    let bench = bench(|_| {}).await;
    let mut strangers = Vec::new();
    for n in 0..40 {
        strangers.push(hold_back(&bench, "/in/default", &[JSON]).await);
        if n % 10 == 9 {
            everybody_gets_in(&bench, n).await;
        }
    }
}

/// Who has a token is not shared with strangers: what it holds back does not give way to them.
#[tokio::test]
async fn i19_a_verified_body_is_not_evicted_for_an_unverified_one() {
    let bench = bench(|_| {}).await;
    let mut known = hold_back(&bench, "/in/known", &[JSON, TOKEN]).await;
    let mut strangers = Vec::new();
    for _ in 0..40 {
        strangers.push(hold_back(&bench, "/in/signed", &[JSON, WRONG]).await);
    }
    let reply = strangers[0].reply().await.unwrap();
    assert_eq!(reply.status, 503);
    known.send(b" ").await;
    assert_eq!(known.reply().await.unwrap().status, 400, "it is blank, and was read to its end");
}

#[tokio::test]
async fn i19_one_http2_connection_delays_no_one() {
    let authority = Authority::new();
    authority.issue("server");
    let bench = bench(|s| s.intake.tls = Some(authority.files(None))).await;
    let connect = async || {
        let stream = Client::new(&authority, rustls::ALL_VERSIONS).with_http2().connect(&bench).await.unwrap();
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    };
    // a body ends when its sender is dropped
    let post = async |path: &str, bytes: Vec<u8>| {
        let (mut to, body) = Channel::<bytes::Bytes, Infallible>::new(1);
        to.send_data(bytes.into()).await.unwrap();
        let request = http::Request::post(format!("https://localhost{path}")).header(WRONG.0, WRONG.1);
        (request.body(body).unwrap(), to)
    };
    let (hostile, honest) = (connect().await, connect().await);
    let mut held = Vec::new();
    for n in 0..100 {
        let mut sender = hostile.clone();
        sender.ready().await.unwrap();
        let (request, to) = post("/in/signed", vec![b' '; BODY_BYTES - 1]).await;
        held.push((tokio::spawn(sender.send_request(request)), to));
        if n % 20 == 19 {
            let event = json_of(&format!("h2-{n}"), BODY_BYTES - 1000);
            let (request, to) = post("/in/default", event).await;
            drop(to);
            let answer = honest.clone().send_request(request).await.unwrap();
            assert_eq!(answer.status().as_u16(), 202, "{n}");
        }
    }
    let first = held.remove(0).0.await.unwrap().unwrap();
    assert_eq!(first.status().as_u16(), 503, "it gave way");
}

/// Each request costs what its head takes, too, and a least amount: many small ones are as bounded as few large ones.
#[tokio::test]
async fn i18_heads_count_as_buffered_bytes() {
    let bench = bench(|s| s.intake.max_connections = 2000).await;
    let pad = "x".repeat(40_000);
    let mut strangers = Vec::new();
    for _ in 0..200 {
        let whole = message("POST", "/in/default", &[JSON, ("X-Pad", &pad)], b"{}");
        let mut connection = Connection::open(bench.intake).await;
        connection.send(&whole[..whole.len() - 1]).await;
        strangers.push(connection);
    }
    assert_eq!(strangers[0].reply().await.unwrap().status, 503, "8 MB of heads do not fit into 1 MiB");
    everybody_gets_in(&bench, 0).await;
}

#[tokio::test]
async fn i7_a_dripping_body_is_cut_off_after_the_timeout() {
    let bench = bench(|s| {
        s.intake.body_grace = Duration::from_millis(200);
        s.intake.min_body_rate = 10_000;
    })
    .await;
    let whole = message("POST", "/in/default", &[JSON], &[b' '; 1000]);
    let mut drip = Connection::open(bench.intake).await;
    drip.send(&whole[..whole.len() - 900]).await;
    let mut steady = hold_back(&bench, "/in/default", &[JSON]).await;
    assert_eq!(drip.reply().await.unwrap().status, 408);
    steady.send(b" ").await;
    assert_eq!(steady.reply().await.unwrap().status, 400, "what came fast enough may be finished");
}
