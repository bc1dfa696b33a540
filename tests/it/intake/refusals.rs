//! Refusals and other responses that are sent before the whole request is read: they reach a sender that keeps
//! sending, within limits.

use crate::harness::bench::{Bench, Connection, Reply, body, message, read_message, source, wait_for};
use crate::intake::tls::{Authority, Client};
use holdline::clock::Clock;
use holdline::config::settings::{Secret, Settings, Source, SourceAuth};
use holdline::rules::rate::Rate;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use std::io::ErrorKind;
use std::num::NonZeroU32;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

const JSON: (&str, &str) = ("Content-Type", "application/json");
/// Bytes per write, so that a peer that has closed is noticed in the middle of a body.
const PIECE_BYTES: usize = 4096;

/// A daemon with a source that requires authentication, `guarded`, and one whose rate is used up, `spent`; the
/// largest body is 64 KiB.
async fn bench(change: impl FnOnce(&mut Settings)) -> Bench {
    let secrets = tempfile::tempdir().unwrap();
    let path = secrets.path().join("token");
    std::fs::write(&path, "t0ken\n").unwrap();
    let auth = vec![SourceAuth::Bearer { tokens: vec![Secret::File(path)] }];
    let once = Rate::new(NonZeroU32::new(1).unwrap(), Duration::from_secs(3600));
    let bench = Bench::with(None, Clock::system(), |s| {
        s.intake.max_body_bytes = 64 * 1024;
        s.sources.push(Source { auth, ..source("guarded", "auto") });
        s.sources.push(Source { rate_limit: Some(once), ..source("spent", "auto") });
        change(s);
    })
    .await;
    if bench.settings.intake.tls.is_none() {
        assert_eq!(bench.post_as("spent", &[JSON], &body("k", "first")).await.status, 202);
    }
    bench
}

/// Sends the head, waits until the response can be read, sends all the rest, and only then reads.
async fn reply_after_all(bench: &Bench, head: &[u8], rest: &[u8]) -> std::io::Result<(Reply, TcpStream)> {
    let mut stream = TcpStream::connect(bench.intake).await?;
    stream.set_nodelay(true)?;
    stream.write_all(head).await?;
    assert_ne!(stream.peek(&mut [0; 1]).await?, 0, "an answer, not an end");
    send_all(&mut stream, rest).await?;
    let mut reader = BufReader::new(stream);
    let reply = read_reply(&mut reader).await?;
    Ok((reply, reader.into_inner()))
}

async fn send_all<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> std::io::Result<()> {
    for piece in bytes.chunks(PIECE_BYTES) {
        stream.write_all(piece).await?;
        stream.flush().await?;
    }
    Ok(())
}

async fn read_reply<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> std::io::Result<Reply> {
    let (first, headers, body) = read_message(stream, false).await.ok_or(ErrorKind::UnexpectedEof)?;
    Ok(Reply { status: first.split(' ').nth(1).unwrap().parse().unwrap(), headers, body })
}

fn split(path: &str, headers: &[(&str, &str)], bytes: usize) -> (Vec<u8>, Vec<u8>) {
    let whole = message("POST", path, headers, &vec![b' '; bytes]);
    let body = whole[whole.len() - bytes..].to_vec();
    (whole[..whole.len() - bytes].to_vec(), body)
}

/// Path, headers, bytes of the body; status and code.
type Case = (&'static str, &'static [(&'static str, &'static str)], usize, u16, &'static str);

const CASES: [Case; 9] = [
    ("/in/guarded", &[JSON], 20_000, 401, "unauthorized"),
    ("/in/guarded", &[JSON], 2_000_000, 401, "unauthorized"),
    ("/in/default", &[JSON], 65_537, 413, "body_too_large"),
    ("/in/default", &[JSON], 5_000_000, 413, "body_too_large"),
    ("/in/default", &[JSON, ("Content-Encoding", "br")], 20_000, 415, "unsupported_encoding"),
    ("/in/spent", &[JSON], 20_000, 429, "rate_limited"),
    ("/in/nobody", &[JSON], 20_000, 404, "unknown_source"),
    ("/in/nobody", &[JSON], 500_000, 404, "unknown_source"),
    ("/elsewhere", &[JSON], 20_000, 404, "unknown_source"),
];

async fn arrives(bench: &Bench, (path, headers, bytes, status, code): Case) {
    for n in 0..5 {
        let (head, rest) = split(path, headers, bytes);
        let found = reply_after_all(bench, &head, &rest).await;
        let (reply, mut stream) = found.unwrap_or_else(|e| panic!("{path} {bytes} {status}, {n}: {e}"));
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{path} {bytes}");
        let next = message("POST", "/in/default", &[JSON], &body("k", &format!("{path}-{bytes}-{n}")));
        if bytes <= 64 * 1024 {
            // the rest is short, so that the connection is kept open
            assert_eq!(reply.header("connection"), None, "{path} {bytes}");
            stream.write_all(&next).await.unwrap();
            assert!([202, 503].contains(&read_reply(&mut BufReader::new(stream)).await.unwrap().status), "{path}");
        } else {
            assert_eq!(reply.header("connection"), Some("close"), "{path} {bytes}");
            assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0, "an end, and no reset: {path} {bytes}");
        }
    }
}

#[tokio::test]
async fn a_refusal_reaches_a_sender_that_is_still_sending() {
    let bench = bench(|_| {}).await;
    for case in CASES {
        arrives(&bench, case).await;
    }
    bench.change("/v1/intake/close", json!({"reason": "maintenance", "for": "1h"})).await;
    for bytes in [20_000, 500_000] {
        arrives(&bench, ("/in/default", &[JSON], bytes, 503, "intake_closed")).await;
    }
}

#[tokio::test]
async fn a_refused_method_reaches_a_sender_that_is_still_sending() {
    let bench = bench(|_| {}).await;
    for bytes in [20_000, 500_000] {
        let whole = message("PUT", "/in/default", &[JSON], &vec![b' '; bytes]);
        let (head, rest) = whole.split_at(whole.len() - bytes);
        let (reply, _) = reply_after_all(&bench, head, rest).await.unwrap();
        assert_eq!((reply.status, reply.header("allow")), (405, Some("POST, OPTIONS, HEAD")));
    }
}

#[tokio::test]
async fn a_refused_chunked_body_is_discarded_too() {
    let bench = bench(|_| {}).await;
    for chunks in [5, 500] {
        let head = message("POST", "/in/guarded", &[JSON, ("Transfer-Encoding", "chunked")], b"");
        let chunk = [b"1000\r\n".as_slice(), &[b' '; 4096], b"\r\n"].concat();
        let rest = [chunk.repeat(chunks), b"0\r\n\r\n".to_vec()].concat();
        let (reply, mut stream) = reply_after_all(&bench, &head, &rest).await.unwrap();
        assert_eq!((reply.status, reply.header("connection")), (401, Some("close")));
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    }
}

/// A sender that sent `Expect: 100-continue` may send its body or not: bytes after a refusal are never read as a request.
#[tokio::test]
async fn i7_a_body_after_a_refused_expectation_is_no_request() {
    let bench = bench(|_| {}).await;
    let hidden = message("POST", "/in/default", &[JSON], &body("k", "hidden"));
    let expect = ("Expect", "100-continue");
    let whole = message("POST", "/in/guarded", &[JSON, expect], &hidden);
    let (head, rest) = whole.split_at(whole.len() - hidden.len());
    let (reply, mut stream) = reply_after_all(&bench, head, rest).await.unwrap();
    assert_eq!((reply.status, reply.header("connection")), (401, Some("close")), "and no 100");
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(bench.count("/counters/accepted").await, 1, "the first of `spent`");
}

#[tokio::test]
async fn i7_a_refused_body_is_no_request_and_the_next_one_is() {
    let bench = bench(|_| {}).await;
    let hidden = message("POST", "/in/default", &[JSON], &body("k", "hidden"));
    let pipelined =
        [message("POST", "/in/guarded", &[JSON], &hidden), message("POST", "/in/default", &[JSON], &body("k", "next"))];
    let mut connection = Connection::open(bench.intake).await;
    connection.send(&pipelined.concat()).await;
    assert_eq!(connection.reply().await.unwrap().status, 401);
    assert_eq!(connection.reply().await.unwrap().status, 202);
    assert_eq!(bench.count("/counters/accepted").await, 2);
}

#[tokio::test]
async fn a_framing_error_reaches_a_sender_that_is_still_sending() {
    let bench = bench(|s| s.intake.max_header_bytes = 8 * 1024).await;
    let fields = |n: usize| (0..n).map(|n| format!("X-{n}: 1\r\n")).collect::<String>();
    let long = format!("POST /in/default HTTP/1.1\r\nX: {}", "x".repeat(20_000));
    let many = format!("POST /in/default HTTP/1.1\r\n{}\r\n", fields(200));
    let none = "no HTTP at all\r\n\r\n".to_owned();
    for (head, status) in [(long, 431), (many, 431), (none, 400)] {
        let (reply, mut stream) = reply_after_all(&bench, head.as_bytes(), &[b'x'; 200_000]).await.unwrap();
        assert_eq!(reply.status, status, "{}", &head[..40.min(head.len())]);
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_slow_head_is_answered_and_an_idle_connection_is_not() {
    let bench = bench(|s| s.intake.header_timeout = Duration::from_millis(300)).await;
    let mut slow = Connection::open(bench.intake).await;
    let mut idle = Connection::open(bench.intake).await;
    let mut later = Connection::open(bench.intake).await;
    slow.send(b"POST /in/default HTTP/1.1\r\nX").await;
    later.send(&message("POST", "/in/default", &[JSON], &body("k", "1"))).await;
    assert_eq!(later.reply().await.unwrap().status, 202);
    let reply = slow.reply().await.unwrap();
    assert_eq!((reply.status, reply.code().as_str()), (408, "header_timeout"));
    assert_eq!(reply.header("connection"), Some("close"));
    assert!(slow.ends().await && idle.ends().await && later.ends().await);
}

#[tokio::test]
async fn a_slow_body_is_answered_408_while_it_continues() {
    let bench = bench(|s| s.intake.body_timeout = Duration::from_millis(200)).await;
    let (head, rest) = split("/in/default", &[JSON], 20_000);
    let (reply, mut stream) = reply_after_all(&bench, &head, &rest).await.unwrap();
    assert_eq!((reply.status, reply.code().as_str()), (408, "body_timeout"));
    assert_eq!(reply.header("connection"), Some("close"));
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
}

/// A refused sender that never stops sending; the task ends when its connection is closed.
async fn drip(bench: &Bench) -> JoinHandle<()> {
    let mut stream = TcpStream::connect(bench.intake).await.unwrap();
    let (head, _) = split("/in/guarded", &[JSON], 10_000_000);
    stream.write_all(&head).await.unwrap();
    let mut reader = BufReader::new(stream);
    assert_eq!(read_reply(&mut reader).await.unwrap().status, 401);
    tokio::spawn(async move {
        let mut stream = reader.into_inner();
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        while stream.write_all(b"x").await.is_ok() {
            ticks.tick().await;
        }
    })
}

/// A refused sender that never stops is disconnected after `linger_timeout`, and at once if its slot is needed.
#[tokio::test]
async fn i19_lingering_connections_are_bounded_and_evicted_first() {
    let short = bench(|s| s.intake.linger_timeout = Duration::from_millis(300)).await;
    let mut dripping = drip(&short).await;
    let early = tokio::time::timeout(Duration::from_millis(150), &mut dripping).await;
    assert!(early.is_err(), "it is read for a while");
    dripping.await.unwrap();

    let narrow = bench(|s| (s.intake.max_connections, s.intake.linger_timeout) = (4, Duration::from_secs(300))).await;
    let mut waiting = Connection::open(narrow.intake).await;
    waiting.send(b"POST /in/default HTTP/1.1\r\n").await;
    let mut dripping = Vec::new();
    for n in 0..20 {
        dripping.push(drip(&narrow).await);
        assert_eq!(narrow.post(&body("k", &n.to_string())).await.status, 202);
    }
    assert!(dripping.iter().filter(|d| !d.is_finished()).count() <= 20);
    wait_for("they gave way", async || (dripping.iter().filter(|d| d.is_finished()).count() >= 17).then_some(())).await;
    let event = body("k", "waited");
    waiting.send(format!("Host: x\r\nContent-Length: {}\r\n\r\n", event.len()).as_bytes()).await;
    waiting.send(&event).await;
    assert_eq!(waiting.reply().await.unwrap().status, 202, "it waited longer, and did not linger");
}

#[tokio::test]
async fn over_tls_a_refusal_arrives_with_an_orderly_end() {
    let authority = Authority::new();
    authority.issue("server");
    let bench = bench(|s| s.intake.tls = Some(authority.files(None))).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for bytes in [20_000, 2_000_000] {
            let mut stream = Client::new(&authority, &[version]).connect(&bench).await.unwrap();
            let (head, rest) = split("/in/guarded", &[JSON], bytes);
            stream.write_all(&head).await.unwrap();
            stream.get_ref().0.peek(&mut [0; 1]).await.unwrap();
            send_all(&mut stream, &rest).await.unwrap();
            let mut reader = BufReader::new(stream);
            assert_eq!(read_reply(&mut reader).await.unwrap().status, 401);
            if bytes > 64 * 1024 {
                // an end without close_notify would be an error here
                assert_eq!(reader.read(&mut [0; 1]).await.unwrap(), 0);
            }
        }
    }
}

#[tokio::test]
async fn a_failed_handshake_sends_its_alert() {
    let authority = Authority::new();
    authority.issue("server");
    let ca = Some(authority.path("ca.pem"));
    let bench = Bench::with(None, Clock::system(), |s| s.intake.tls = Some(authority.files(ca))).await;
    let nobody = Client::new(&authority, &[&rustls::version::TLS13]);
    // in TLS 1.3 the client continues to send before it learns that a certificate was required
    let mut stream = nobody.connect(&bench).await.unwrap();
    let _ = send_all(&mut stream, &[b'x'; 100_000]).await;
    let error = stream.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
}

/// Refusals over HTTP/2 end their streams and never the connection, however many there are.
#[tokio::test]
async fn over_http2_refusals_end_streams_and_not_the_connection() {
    let authority = Authority::new();
    authority.issue("server");
    let bench = bench(|s| s.intake.tls = Some(authority.files(None))).await;
    let stream = Client::new(&authority, rustls::ALL_VERSIONS).with_http2().connect(&bench).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let post = async |path: &str, body: Vec<u8>| {
        let request = http::Request::post(format!("https://localhost{path}")).body(Full::new(bytes::Bytes::from(body)));
        let answer = sender.clone().send_request(request.unwrap()).await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.into_body().collect().await.unwrap().to_bytes())
    };
    assert_eq!(post("/in/spent", body("k", "first")).await.0, 202);
    for n in 0..300 {
        let (path, bytes, status) = match n % 3 {
            0 => ("/in/guarded", 300_000, 401),
            1 => ("/in/default", 2_000_000, 413),
            _ => ("/in/spent", 1_000, 429),
        };
        let (found, text) = post(path, vec![b' '; bytes]).await;
        assert_eq!((found, text.starts_with(b"{\"error\"")), (status, true), "{n} {path}");
    }
    assert_eq!(post("/in/default", body("k", "last")).await.0, 202);
}
