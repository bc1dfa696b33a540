//! Unauthenticated clients that do not finish their bodies: they share a part of the memory, and block no other sender.

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

/// Sources `signed` (HMAC), `known` (bearer) and the open `default`; 4 MiB of memory, enough for 16 of the largest
/// bodies.
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

/// The signature of `{}` with the secret of the source.
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

/// Memory of authenticated senders is not shared with others: their unfinished bodies are not evicted for them.
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

type Body = Channel<bytes::Bytes, Infallible>;

async fn http2(authority: &Authority, bench: &Bench) -> http2::SendRequest<Body> {
    let stream = Client::new(authority, rustls::ALL_VERSIONS).with_http2().connect(bench).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// A request with the beginning of its body, which ends when its sender is dropped.
async fn post(
    path: &str,
    header: (&str, &str),
    bytes: Vec<u8>,
) -> (http::Request<Body>, http_body_util::channel::Sender<bytes::Bytes, Infallible>) {
    let (mut to, body) = Channel::new(1);
    to.send_data(bytes.into()).await.unwrap();
    let request = http::Request::post(format!("https://localhost{path}")).header(header.0, header.1);
    (request.body(body).unwrap(), to)
}

#[tokio::test]
async fn i19_one_http2_connection_delays_no_one() {
    let authority = Authority::new();
    authority.issue("server");
    let bench = bench(|s| s.intake.tls = Some(authority.files(None))).await;
    let (hostile, honest) = (http2(&authority, &bench).await, http2(&authority, &bench).await);
    let mut held = Vec::new();
    for n in 0..100 {
        let mut sender = hostile.clone();
        sender.ready().await.unwrap();
        let (request, to) = post("/in/signed", WRONG, vec![b' '; BODY_BYTES - 1]).await;
        held.push((tokio::spawn(sender.send_request(request)), to));
        if n % 20 == 19 {
            let event = json_of(&format!("h2-{n}"), BODY_BYTES - 1000);
            let (request, to) = post("/in/default", WRONG, event).await;
            drop(to);
            let answer = honest.clone().send_request(request).await.unwrap();
            assert_eq!(answer.status().as_u16(), 202, "{n}");
        }
    }
    let first = held.remove(0).0.await.unwrap().unwrap();
    assert_eq!(first.status().as_u16(), 503, "it gave way");
}

/// Each request also counts its head, and a minimum: many small ones are as limited as few large ones.
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

/// Two sources with a token, `busy` and `quiet`, each of which may use half of the memory.
async fn two_with_tokens(change: impl FnOnce(&mut Settings)) -> (Bench, tempfile::TempDir) {
    let secrets = tempfile::tempdir().unwrap();
    let path = secrets.path().join("secret");
    std::fs::write(&path, "t0ken\n").unwrap();
    let bench = bench(|s| {
        let bearer = || SourceAuth::Bearer { tokens: vec![Secret::File(path.clone())] };
        s.sources = ["busy", "quiet"].map(|name| Source { auth: vec![bearer()], ..source(name, "auto") }).into();
        s.intake.source_share = 0.5;
        change(s);
    })
    .await;
    (bench, secrets)
}

/// Starts `count` unfinished bodies; the first of them must be evicted if the source exceeds its share.
async fn hold_back_many(bench: &Bench, count: usize) -> Vec<Connection> {
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(hold_back(bench, "/in/busy", &[JSON, TOKEN]).await);
    }
    held
}

async fn status_of(mut connection: Connection) -> u16 {
    connection.reply().await.unwrap().status
}

async fn is_blank_when_whole(connection: &mut Connection) {
    connection.send(b" ").await;
    assert_eq!(connection.reply().await.unwrap().status, 400, "it was read to its end");
}

#[tokio::test]
async fn i19_a_verified_source_leaves_memory_to_the_others() {
    let (mut bench, _secrets) = two_with_tokens(|_| {}).await;
    for round in 0..2 {
        let mut quiet = hold_back(&bench, "/in/quiet", &[JSON, TOKEN]).await;
        let mut busy = hold_back_many(&bench, 24).await;
        for n in 0..4 {
            let event = json_of(&format!("{round}-{n}"), BODY_BYTES - 1000);
            assert_eq!(bench.post_as("quiet", &[JSON, TOKEN], &event).await.status, 202, "{round} {n}");
        }
        is_blank_when_whole(&mut quiet).await;
        let mut answers = std::collections::BTreeSet::new();
        for connection in &mut busy {
            connection.send(b" ").await;
            let reply = connection.reply().await.unwrap();
            answers.insert((reply.status, reply.header("retry-after").map(str::to_owned)));
        }
        let gave_way = (503, Some("1".to_owned()));
        assert_eq!(answers.into_iter().collect::<Vec<_>>(), [(400, None), gave_way], "{round}: some, and not all");
        bench.settings.store.drain_timeout = Duration::from_millis(100);
        bench.restart().await;
    }
}

#[tokio::test]
async fn i19_a_reload_changes_what_a_verified_source_may_take() {
    let (mut bench, _secrets) = two_with_tokens(|_| {}).await;
    let mut held: tokio::task::JoinSet<_> = hold_back_many(&bench, 5).await.into_iter().map(status_of).collect();
    bench.reload(|s| s.intake.source_share = 0.2).await.unwrap();
    held.spawn(status_of(hold_back(&bench, "/in/busy", &[JSON, TOKEN]).await));
    for _ in 0..3 {
        assert_eq!(held.join_next().await.unwrap().unwrap(), 503, "three are left, with the new one");
    }
    assert!(held.try_join_next().is_none(), "no more than have to give way");
    held.shutdown().await;
    // a source that is alone may use all of it
    bench.reload(|s| s.sources.truncate(1)).await.unwrap();
    for connection in &mut hold_back_many(&bench, 14).await {
        is_blank_when_whole(connection).await;
    }
}

#[tokio::test]
async fn i19_one_connection_of_a_verified_source_leaves_memory_to_the_others() {
    let authority = Authority::new();
    authority.issue("server");
    let (bench, _secrets) = two_with_tokens(|s| s.intake.tls = Some(authority.files(None))).await;
    let (busy, quiet) = (http2(&authority, &bench).await, http2(&authority, &bench).await);
    let (request, slow) = post("/in/quiet", TOKEN, vec![b' '; BODY_BYTES - 1]).await;
    let slow_answer = tokio::spawn(quiet.clone().send_request(request));
    let mut held = Vec::new();
    for n in 0..40 {
        let mut sender = busy.clone();
        sender.ready().await.unwrap();
        let (request, to) = post("/in/busy", TOKEN, vec![b' '; BODY_BYTES - 1]).await;
        held.push((tokio::spawn(sender.send_request(request)), to));
        if n % 20 == 19 {
            let (request, to) = post("/in/quiet", TOKEN, json_of(&format!("h2-{n}"), BODY_BYTES - 1000)).await;
            drop(to);
            let answer = quiet.clone().send_request(request).await.unwrap();
            assert_eq!(answer.status().as_u16(), 202, "{n}");
        }
    }
    let first = held.remove(0).0.await.unwrap().unwrap();
    assert_eq!(first.status().as_u16(), 503, "it gave way");
    drop(slow);
    assert_eq!(slow_answer.await.unwrap().unwrap().status().as_u16(), 400, "it was read to its end");
}
