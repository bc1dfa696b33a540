//! Intake: which requests are refused and store nothing, which are accepted, and which are recognised as duplicates.

use crate::harness::bench::{Bench, Connection, Reply, START, body, let_pass, message, request, source, wait_for};
use crate::harness::receiver::{Receiver, held, status};
use holdline::clock::Clock;
use holdline::config::settings::Source;
use holdline::rules::rate::Rate;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

const JSON: (&str, &str) = ("Content-Type", "application/json");
const BODY_MAX: usize = 64 * 1024;

/// A daemon with small limits and no destination.
async fn narrow() -> Bench {
    Bench::with(None, Clock::system(), |s| {
        s.intake.max_body_bytes = BODY_MAX;
        s.intake.max_header_bytes = 16 * 1024;
        s.intake.body_timeout = Duration::from_millis(300);
        s.intake.header_timeout = Duration::from_millis(1500);
        s.intake.max_batch = 3;
    })
    .await
}

/// The response to raw bytes; none if the connection is closed without one.
async fn raw(bench: &Bench, bytes: &[u8]) -> Option<Reply> {
    let mut connection = Connection::open(bench.intake).await;
    connection.send(bytes).await;
    connection.reply().await
}

fn deep(levels: usize) -> Vec<u8> {
    ["[".repeat(levels), "]".repeat(levels)].concat().into_bytes()
}

fn chunked(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = message("POST", "/in/default", &[JSON, ("Transfer-Encoding", "chunked")], b"");
    for part in parts {
        bytes.extend(format!("{:x}\r\n", part.len()).as_bytes());
        bytes.extend(*part);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"0\r\n\r\n");
    bytes
}

#[tokio::test]
async fn i7_a_refusal_says_why_and_stores_nothing() {
    let bench = narrow().await;
    let post = |body: &[u8]| message("POST", "/in/default", &[JSON], body);
    let with = |header: (&str, &str)| message("POST", "/in/default", &[JSON, header], b"{}");
    let many: Vec<(String, String)> = (0..101).map(|n| (format!("X-{n}"), "1".to_owned())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let huge = "x".repeat(32 * 1024);
    let cases: Vec<(&str, Vec<u8>, u16, &str)> = vec![
        ("not JSON", post(b"hello"), 400, "invalid_json"),
        ("cut off", post(b"{\"a\": [1, 2"), 400, "invalid_json"),
        ("two values", post(b"{} {}"), 400, "invalid_json"),
        ("too deep", post(&deep(65)), 400, "invalid_json"),
        ("far too deep", post(&deep(30_000)), 400, "invalid_json"),
        ("empty", post(b""), 400, "invalid_json"),
        ("blank", post(b" \n"), 400, "invalid_json"),
        ("UTF-16", post(b"\xFF\xFE{\0}\0"), 400, "invalid_json"),
        ("not UTF-8", post(b"{\"a\": \"\xFF\"}"), 400, "invalid_json"),
        ("not a number", post(b"{\"a\": NaN}"), 400, "invalid_json"),
        ("too large", post(&vec![b' '; BODY_MAX + 1]), 413, "body_too_large"),
        ("too large in chunks", chunked(&[&[b' '; BODY_MAX], b"{}"]), 413, "body_too_large"),
        ("packed otherwise", with(("Content-Encoding", "br")), 415, "unsupported_encoding"),
        ("packed twice", with(("Content-Encoding", "gzip, gzip")), 415, "unsupported_encoding"),
        (
            "packed by nobody, and no JSON",
            message("POST", "/in/default", &[("Content-Encoding", "x")], b"<"),
            415,
            "unsupported_encoding",
        ),
        (
            "not what it is labelled",
            message("POST", "/in/default", &[("Content-Encoding", "gzip")], b"<"),
            400,
            "invalid_request",
        ),
        ("two hosts", with(("Host", "localhost")), 400, "invalid_request"),
        ("no host", b"POST /in/default HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}".to_vec(), 400, "invalid_request"),
        ("unknown source", message("POST", "/in/nobody", &[JSON], b"{}"), 404, "unknown_source"),
        ("unknown path", message("POST", "/", &[JSON], b"{}"), 404, "unknown_source"),
        ("below a source", message("POST", "/in/default/x", &[JSON], b"{}"), 404, "unknown_source"),
        ("GET", message("GET", "/in/default", &[], b""), 405, "method_not_allowed"),
        ("DELETE", message("DELETE", "/in/default", &[], b""), 405, "method_not_allowed"),
        ("a chunk that lies", chunked(&[b"{}"]).replace(b"2\r\n", b"zz\r\n"), 400, "invalid_request"),
        ("two lengths", with(("Content-Length", "3")), 400, ""),
        ("a length that is none", message("POST", "/in/default", &[("content-length", "+2")], b"").fix(), 400, ""),
        ("not HTTP", b"hello there\r\n\r\n".to_vec(), 400, ""),
        ("huge header", with(("X-Huge", &huge)), 431, ""),
        ("too many headers", message("POST", "/in/default", &many, b"{}"), 431, ""),
    ];
    for (name, bytes, status, code) in cases {
        let reply = raw(&bench, &bytes).await.unwrap_or_else(|| panic!("{name}: no answer"));
        assert_eq!(reply.status, status, "{name}: {}", reply.text());
        if !code.is_empty() {
            assert_eq!(reply.code(), code, "{name}");
        }
        if status == 405 {
            assert_eq!(reply.header("allow"), Some("POST, OPTIONS, HEAD"), "{name}");
        }
        if status == 413 {
            assert_eq!(reply.header("connection"), Some("close"), "{name}");
        }
    }
    assert_eq!(bench.count("/counters/accepted").await, 0);
    // the deepest nesting that is allowed
    assert_eq!(bench.post(&deep(64)).await.status, 202);
    assert_eq!(bench.count("/counters/accepted").await, 1);
    bench.sound().await;
}

trait Bytes {
    fn replace(self, from: &[u8], to: &[u8]) -> Self;
    /// Only the first of several lengths is kept.
    fn fix(self) -> Self;
}

impl Bytes for Vec<u8> {
    fn replace(self, from: &[u8], to: &[u8]) -> Self {
        let at = self.windows(from.len()).rposition(|w| w == from).unwrap();
        [&self[..at], to, &self[at + from.len()..]].concat()
    }

    fn fix(self) -> Self {
        self.replace(b"Content-Length: 0\r\n", b"")
    }
}

#[tokio::test]
async fn i7_two_framings_at_once_never_make_two_requests() {
    let bench = narrow().await;
    // a parser that uses the length sees one request, a parser that uses the chunks sees two
    let inner = message("POST", "/in/default", &[JSON], &body("k", "smuggled"));
    let outer = [b"0\r\n\r\n".as_slice(), &inner].concat();
    let head = format!(
        "POST /in/default HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n",
        outer.len()
    );
    let mut connection = Connection::open(bench.intake).await;
    connection.send(&[head.as_bytes(), &outer].concat()).await;
    let first = connection.reply().await.unwrap();
    assert_eq!(first.status, 400);
    assert!(connection.ends().await, "what follows must not be read as a request");
    assert_eq!(bench.count("/counters/accepted").await, 0);
}

#[tokio::test]
async fn i7_no_odd_framing_makes_a_second_request() {
    let bench = narrow().await;
    let inner = message("POST", "/in/default", &[JSON], &body("k", "smuggled"));
    let by_chunks = [b"0\r\n\r\n".as_slice(), &inner].concat();
    let length = by_chunks.len();
    let variants: [(String, &[u8]); 12] = [
        (format!("Content-Length: {length}\r\nTransfer-Encoding: chunked"), &by_chunks),
        (format!("Transfer-Encoding: chunked\r\nContent-Length: {length}"), &by_chunks),
        (format!("Content-Length: {length}\r\nTransfer-Encoding : chunked"), &by_chunks),
        (format!("Content-Length: {length}\r\nTransfer-Encoding: xchunked"), &by_chunks),
        (format!("Content-Length: {length}\r\nTransfer-Encoding: chunked, identity"), &by_chunks),
        (format!("Content-Length: {length}\r\nTransfer-Encoding:\tchunked"), &by_chunks),
        (format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity"), &by_chunks),
        (format!("Content-Length: 0\r\nContent-Length: {}", inner.len()), &inner),
        (format!("Content-Length: {}\r\nContent-Length: 0", inner.len()), &inner),
        (format!("Content-Length: +{}", inner.len()), &inner),
        (format!("Content-Length: {}\nX: y", inner.len() + 1), &inner),
        ("Content-Length: 0x0".to_owned(), &inner),
    ];
    for (framing, rest) in variants {
        let head = format!("POST /in/default HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n");
        let mut connection = Connection::open(bench.intake).await;
        connection.send(&[head.as_bytes(), rest].concat()).await;
        let reply = connection.reply().await;
        assert!(reply.is_none_or(|reply| [400, 408].contains(&reply.status)), "{framing:?}");
        drop(connection);
        assert_eq!(bench.count("/counters/accepted").await, 0, "{framing:?}");
    }
}

#[tokio::test]
async fn i7_slow_senders_are_cut_off() {
    let bench = narrow().await;
    let whole = message("POST", "/in/default", &[JSON], &body("k", "1"));
    let mut slow_body = Connection::open(bench.intake).await;
    slow_body.send(&whole[..whole.len() - 1]).await;
    let mut slow_head = Connection::open(bench.intake).await;
    slow_head.send(&whole[..20]).await;
    let mut silent = Connection::open(bench.intake).await;

    let reply = slow_body.reply().await.unwrap();
    assert_eq!((reply.status, reply.code().as_str()), (408, "body_timeout"));
    assert!(slow_body.ends().await);
    // the head was never complete, so no response is due; hyper may send 408
    assert!(slow_head.reply().await.is_none_or(|reply| reply.status == 408));
    assert!(silent.reply().await.is_none_or(|reply| reply.status == 408));
    assert_eq!(bench.count("/counters/accepted").await, 0);
}

#[tokio::test]
async fn one_connection_carries_many_requests_also_after_a_refusal() {
    let bench = narrow().await;
    let mut connection = Connection::open(bench.intake).await;
    let pipelined: Vec<u8> = [b"{}".as_slice(), b"nonsense", b"{}"]
        .into_iter()
        .flat_map(|body| message("POST", "/in/default", &[JSON], body))
        .collect();
    connection.send(&pipelined).await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(connection.reply().await.unwrap().status);
    }
    assert_eq!(statuses, [202, 400, 202]);
}

#[tokio::test]
async fn handshakes_are_answered() {
    let bench = narrow().await;
    let reply = request(bench.intake, "HEAD", "/in/default", &[], b"").await;
    assert_eq!((reply.status, reply.body.len()), (200, 0));
    let origin = [("WebHook-Request-Origin", "eventemitter.example.com")];
    let reply = request(bench.intake, "OPTIONS", "/in/default", &origin, b"").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("webhook-allowed-origin"), Some("eventemitter.example.com"));
    assert_eq!(reply.header("webhook-allowed-rate"), Some("*"));
    assert_eq!(reply.header("allow"), Some("POST, OPTIONS, HEAD"));
    let reply = request(bench.intake, "OPTIONS", "/in/default", &[], b"").await;
    assert_eq!((reply.status, reply.header("webhook-allowed-origin")), (200, None));
}

#[tokio::test]
async fn the_success_status_is_the_one_that_is_configured() {
    for wanted in [202, 200] {
        let bench = Bench::with(None, Clock::system(), |s| s.intake.success_status = wanted).await;
        for _ in 0..2 {
            assert_eq!(bench.post(&body("k", "1")).await.status, wanted, "for a duplicate too");
        }
        let batch = json!([{"id": "1", "subject": "s", "eventType": "t", "eventTime": "2026-01-01T00:00:00Z"}]);
        assert_eq!(bench.post(batch.to_string().as_bytes()).await.status, wanted);
        assert_eq!(bench.post(include_bytes!("../../samples/12_ws_heartbeat.json")).await.status, wanted);
    }
}

#[tokio::test]
async fn i4_i5_duplicates_get_the_first_id_and_conflicts_are_kept() {
    let mut bench = Bench::start(None).await;
    let first = bench.accept("k", "1").await;
    assert_eq!((first.len(), &first[14..15]), (36, "7"), "a UUID of version 7");
    let duplicate = json!({"status": "duplicate", "id": first});
    assert_eq!(bench.post(&body("k", "1")).await.json(), duplicate);
    let other = bench.accept("other body", "1").await;
    assert_ne!(other, first);
    bench.restart().await;
    assert_eq!(bench.post(&body("k", "1")).await.json(), duplicate);
    assert_eq!(bench.count("/counters/duplicates").await, 2);
    bench.crash();
    bench.open().await;
    assert_eq!(bench.post(&body("k", "1")).await.json(), duplicate);
    assert_eq!(bench.post(&body("other body", "1")).await.json()["id"], json!(other));
    assert!(!bench.get(&format!("/v1/events/{first}")).await["conflict"].as_bool().unwrap());
    assert!(bench.get(&format!("/v1/events/{other}")).await["conflict"].as_bool().unwrap());
    assert_eq!((bench.count("/counters/accepted").await, bench.count("/counters/conflicts").await), (2, 1));
    bench.sound().await;
}

#[tokio::test]
async fn i4_of_many_copies_at_once_exactly_one_is_queued() {
    let receiver = Receiver::good().await;
    let bench = Bench::start(receiver.to()).await;
    let copies = (0..40).map(|_| tokio::spawn(request_copy(bench.intake)));
    let mut statuses = Vec::new();
    let mut ids = HashSet::new();
    for copy in copies.collect::<Vec<_>>() {
        let reply = copy.await.unwrap();
        assert_eq!(reply.status, 202);
        ids.insert(reply.json()["id"].as_str().unwrap().to_owned());
        statuses.push(reply.json()["status"].as_str().unwrap().to_owned());
    }
    assert_eq!(ids.len(), 1);
    assert_eq!(statuses.iter().filter(|s| *s == "queued").count(), 1);
    bench.reaches("/counters/delivered", 1).await;
    assert_eq!(receiver.count(), 1);
}

async fn request_copy(to: std::net::SocketAddr) -> Reply {
    request(to, "POST", "/in/default", &[JSON], &body("k", "the same")).await
}

fn grid(ids: &[&str]) -> Vec<u8> {
    let events: Vec<Value> = ids
        .iter()
        .map(|id| json!({"id": id, "subject": "k", "eventType": "t", "eventTime": "2026-01-01T00:00:00Z", "n": 1.50}))
        .collect();
    Value::from(events).to_string().into_bytes()
}

#[tokio::test]
async fn i3_a_batch_is_stored_as_a_whole_or_not_at_all() {
    let receiver = Receiver::good().await;
    let bench = Bench::with(receiver.to(), Clock::system(), |s| {
        s.intake.max_batch = 3;
        s.sources = vec![source("grid", "azure-event-grid"), source("ce", "cloudevents")];
    })
    .await;
    let reply = bench.post_as("grid", &[JSON], &grid(&["a", "b", "a"])).await.json();
    assert_eq!((&reply["status"], &reply["accepted"], &reply["duplicates"]), (&json!("queued"), &json!(2), &json!(1)));
    let ids: Vec<String> = serde_json::from_value(reply["ids"].clone()).unwrap();
    assert_eq!((ids.len(), &ids[0]), (3, &ids[2]));

    for (name, bad, code) in [
        ("too many", grid(&["c", "d", "e", "f"]), "invalid_json"),
        ("cut off", grid(&["c", "d"])[..60].to_vec(), "invalid_json"),
        ("empty", b"[]".to_vec(), "invalid_json"),
    ] {
        let reply = bench.post_as("grid", &[JSON], &bad).await;
        assert_eq!((reply.status, reply.code().as_str()), (400, code), "{name}");
    }
    assert_eq!(bench.count("/counters/accepted").await, 2);

    let events: Vec<Value> = (0..3)
        .map(|n| json!({"specversion": "1.0", "id": n.to_string(), "source": "s", "type": "t", "subject": "ce"}))
        .collect();
    let content_type = [("Content-Type", "application/cloudevents-batch+json")];
    let reply = bench.post_as("ce", &content_type, Value::from(events.clone()).to_string().as_bytes()).await.json();
    assert_eq!(reply["accepted"], json!(3));
    bench.reaches("/counters/delivered", 5).await;
    let in_order: Vec<Value> = receiver
        .all()
        .iter()
        .filter(|r| r.header("holdline-source") == Some("ce"))
        .map(|r| {
            assert_eq!(r.header("content-type"), Some("application/cloudevents-batch+json"));
            serde_json::from_slice(&r.body).unwrap()
        })
        .collect();
    assert_eq!(in_order, events);
    let sent = String::from_utf8(receiver.of(&ids[0])[0].body.clone()).unwrap();
    assert!(sent.starts_with('{') && sent.contains("1.5"), "an element goes as it stood: {sent}");
}

#[tokio::test]
async fn heartbeats_and_filtered_types_are_acknowledged_and_not_stored() {
    let receiver = Receiver::good().await;
    let bench = Bench::with(receiver.to(), Clock::system(), |s| {
        s.sources[0].types = vec!["interaction.*".to_owned(), "v2.*".to_owned()];
    })
    .await;
    let ignored = json!({"status": "ignored"});
    let heartbeat = bench.post(include_bytes!("../../samples/12_ws_heartbeat.json")).await;
    assert_eq!((heartbeat.status, heartbeat.json()), (202, ignored.clone()));
    let unwanted = bench.post(b"{\"eventType\": \"agent.login\", \"eventId\": \"1\"}").await;
    assert_eq!((unwanted.status, unwanted.json()), (202, ignored));
    bench.accept("k", "wanted").await;
    bench.reaches("/counters/delivered", 1).await;
    let status = bench.status().await;
    assert_eq!((&status["counters"]["accepted"], &status["counters"]["ignored"]), (&json!(1), &json!(2)));
    assert_eq!(receiver.count(), 1);
}

#[tokio::test]
async fn i6_every_sample_is_accepted_and_delivered_byte_for_byte() {
    let receiver = Receiver::good().await;
    let bench = Bench::start(receiver.to()).await;
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/samples");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "json") && !path.to_string_lossy().contains("heartbeat"));
    files.sort();
    assert!(files.len() > 15, "{files:?}");
    for path in files {
        let sample = std::fs::read(&path).unwrap();
        let content_type = [("Content-Type", "application/json; charset=utf-8")];
        let reply = bench.post_as("default", &content_type, &sample).await;
        assert_eq!((reply.status, &reply.json()["status"]), (202, &json!("queued")), "{path:?}: {}", reply.text());
        let json = reply.json();
        let ids: Vec<&str> = match json["ids"].as_array() {
            Some(ids) => ids.iter().map(|id| id.as_str().unwrap()).collect(),
            None => vec![json["id"].as_str().unwrap()],
        };
        for id in &ids {
            let got = wait_for("the sample comes", async || receiver.of(id).first().cloned()).await;
            let whole = json["ids"].is_null() && got.body == sample;
            let part = json["ids"].is_array() && sample.windows(got.body.len()).any(|piece| piece == got.body);
            assert!(whole || part, "{path:?}: {}", String::from_utf8_lossy(&got.body));
            assert_eq!(got.header("content-type"), Some("application/json; charset=utf-8"));
        }
    }
    assert_eq!(bench.count("/counters/conflicts").await, 1, "samples 02 and 03");
    bench.sound().await;
}

#[tokio::test]
async fn i19_slow_senders_evict_each_other_and_delay_no_one_else() {
    let bench = Bench::with(None, Clock::system(), |s| {
        s.intake.max_connections = 8;
        s.intake.header_timeout = Duration::from_secs(60);
        s.intake.body_timeout = Duration::from_secs(60);
    })
    .await;
    let endless = message("POST", "/in/default", &[JSON], &[b' '; 100]);
    let mut slow = Vec::new();
    for n in 0..100 {
        let mut connection = Connection::open(bench.intake).await;
        // heads and bodies that never end
        connection
            .send(if n % 2 == 0 { b"POST /in/default HTTP/1.1\r\nX-" } else { &endless[..endless.len() - 1] })
            .await;
        slow.push(connection);
        if n % 10 == 0 {
            assert_eq!(bench.post(&body("k", &n.to_string())).await.status, 202);
        }
    }
    assert!(slow[0].ends().await && slow[1].ends().await, "the longest waiting gave way");
    assert_eq!(bench.count("/counters/accepted").await, 10);
}

#[tokio::test]
async fn i19_connections_per_address_are_limited() {
    let bench = Bench::with(None, Clock::system(), |s| s.intake.max_connections_per_address = Some(2)).await;
    let mut connections = Vec::new();
    for _ in 0..3 {
        connections.push(Connection::open(bench.intake).await);
    }
    assert!(connections[0].ends().await);
    for connection in &mut connections[1..] {
        connection.send(&message("POST", "/in/default", &[JSON], &body("k", "1"))).await;
        assert_eq!(connection.reply().await.unwrap().status, 202);
    }
}

#[tokio::test]
async fn i18_buffered_bodies_are_bounded_and_the_sender_gets_503() {
    let bench = Bench::with(None, Clock::system(), |s| {
        s.intake.max_body_bytes = 10_000;
        s.intake.max_buffered_bytes = 10_000;
    })
    .await;
    let whole = message("POST", "/in/default", &[JSON], &[b' '; 9_000]);
    // on new connections in each try: the second body may arrive before the first and take its memory
    let (mut first, refused) = wait_for("there is no room", async || {
        let mut first = Connection::open(bench.intake).await;
        first.send(&whole[..whole.len() - 1]).await;
        let reply = bench.post(&[b' '; 5_000]).await;
        (reply.status == 503).then_some((first, reply))
    })
    .await;
    assert_eq!((refused.code().as_str(), refused.header("retry-after")), ("memory_limit", Some("1")));
    first.send(b" ").await;
    assert_eq!(first.reply().await.unwrap().status, 400, "it is blank");
    assert_eq!(bench.post(&[b" ".repeat(5_000), body("k", "1")].concat()).await.status, 202);
}

#[tokio::test]
async fn i17_a_full_queue_closes_intake_until_it_drains() {
    let receiver = Receiver::start(|_| held(status(200))).await;
    let bench = Bench::with(receiver.to(), Clock::system(), |s| s.intake.max_queue_bytes = 4_000).await;
    let large = |id: usize| {
        json!({"eventId": id, "data": {"interactionId": id.to_string()}, "pad": "x".repeat(1_000)}).to_string()
    };
    let mut sent = 0;
    let refused = wait_for("intake closes", async || {
        sent += 1;
        let reply = bench.post(large(sent).as_bytes()).await;
        (reply.status != 202).then_some(reply)
    })
    .await;
    let accepted = sent as u64 - 1;
    assert_eq!((refused.status, refused.code().as_str()), (503, "queue_full"));
    assert_eq!((refused.header("retry-after"), refused.header("connection")), (Some("10"), None));
    let status = bench.status().await;
    assert_eq!(status["intake"], json!({"open": false, "reason": "queue_full"}));
    let ready = request(bench.admin, "GET", "/readyz", &[], b"").await;
    assert_eq!((ready.status, ready.json()["reasons"].clone()), (503, json!(["queue_full"])));
    receiver.release(1_000);
    wait_for("intake opens", async || (bench.post(&body("k", "late")).await.status == 202).then_some(())).await;
    bench.reaches("/counters/delivered", accepted + 1).await;
    assert_eq!(request(bench.admin, "GET", "/readyz", &[], b"").await.status, 200);
}

#[tokio::test]
async fn an_expect_100_continue_is_answered() {
    let bench = narrow().await;
    let event = body("k", "1");
    let whole = message("POST", "/in/default", &[JSON, ("Expect", "100-continue")], &event);
    let (head, body) = whole.split_at(whole.len() - event.len());
    let mut connection = Connection::open(bench.intake).await;
    connection.send(head).await;
    assert_eq!(connection.reply().await.unwrap().status, 100);
    connection.send(body).await;
    assert_eq!(connection.reply().await.unwrap().status, 202);

    let large = format!(
        "POST /in/default HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        BODY_MAX + 1
    );
    let mut connection = Connection::open(bench.intake).await;
    connection.send(large.as_bytes()).await;
    assert_eq!(connection.reply().await.unwrap().status, 413, "before a byte of it was sent");
    assert!(connection.ends().await);
}

#[tokio::test]
async fn i26_an_error_does_not_echo_what_the_sender_sent() {
    let bench = narrow().await;
    for bad in [
        b"private-words".as_slice(),
        b"{\"private-words\": nope}",
        b"{\"a\": \"private-words\xFF\"}",
        b"[\"private-words\"",
    ] {
        let reply = bench.post(bad).await;
        assert_eq!(reply.status, 400);
        assert!(!reply.text().contains("private"), "{}", reply.text());
    }
}

#[tokio::test]
async fn an_id_is_scoped_to_its_source() {
    let bench = Bench::with(None, Clock::system(), |s| s.sources.push(source("other", "auto"))).await;
    bench.accept("k", "1").await;
    assert_eq!(bench.post_as("other", &[JSON], &body("k", "1")).await.json()["status"], json!("queued"));
    assert_eq!((bench.count("/counters/accepted").await, bench.count("/counters/conflicts").await), (2, 0));
}

#[tokio::test]
async fn a_sender_that_disconnects_midway_leaves_nothing() {
    let bench = narrow().await;
    for cut in [1, 40, 100] {
        let whole = message("POST", "/in/default", &[JSON], &body("k", &cut.to_string()));
        let mut connection = Connection::open(bench.intake).await;
        connection.send(&whole[..whole.len() - cut]).await;
    }
    let half_chunk = chunked(&[b"{}"]);
    Connection::open(bench.intake).await.send(&half_chunk[..half_chunk.len() - 3]).await;
    let_pass(Duration::from_millis(500)).await;
    assert_eq!(bench.count("/counters/accepted").await, 0);
}

#[tokio::test]
async fn i7_bare_line_feeds_and_folded_lines_never_make_two_requests() {
    let bench = narrow().await;
    // RFC 9112, 2.2 permits a bare LF as the end of a line; both sides must see one request
    let event = body("k", "1");
    let feeds = format!("POST /in/default HTTP/1.1\nHost: test\nContent-Length: {}\n\n", event.len());
    let reply = raw(&bench, &[feeds.as_bytes(), &event].concat()).await.unwrap();
    assert_eq!((reply.status, bench.count("/counters/accepted").await), (202, 1));
    for bad in ["Content-Length : 2", "X: a\r\n Content-Length: 2", "Content-Length: 2, 2", "Transfer-Encoding: gzip"] {
        let request = format!("POST /in/default HTTP/1.1\r\nHost: test\r\n{bad}\r\n\r\n{{}}");
        let reply = raw(&bench, request.as_bytes()).await.unwrap();
        assert_eq!(reply.status, 400, "{bad:?}");
    }
    assert_eq!(bench.count("/counters/accepted").await, 1);
}

#[tokio::test]
async fn a_source_over_its_rate_gets_retry_after() {
    let clock = Clock::manual(START);
    let rate = Rate::new(NonZeroU32::new(4).unwrap(), Duration::from_secs(60));
    let bench = Bench::with(None, clock.clone(), |s| {
        s.sources.push(Source { rate_limit: Some(rate), ..source("slow", "auto") });
    })
    .await;
    let post = async |body: &[u8]| bench.post_as("slow", &[JSON], body).await;
    for n in 0..3 {
        assert_eq!(post(&body("k", &n.to_string())).await.status, 202);
    }
    let batch = json!(
        [1, 2, 3].map(|n| json!({"id": n, "subject": "s", "eventType": "t", "eventTime": "2026-01-01T00:00:00Z"}))
    );
    assert_eq!(post(batch.to_string().as_bytes()).await.json()["accepted"], 3, "a batch is not parted");
    let refused = post(&body("k", "4")).await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "rate_limited"));
    assert_eq!(refused.header("retry-after"), Some("45"));
    assert_eq!(bench.post(&body("k", "4")).await.status, 202, "other sources are not held up");
    clock.advance(Duration::from_millis(44_999));
    assert_eq!(post(&body("k", "4")).await.header("retry-after"), Some("1"));
    clock.advance(Duration::from_millis(1));
    assert_eq!(post(&body("k", "4")).await.status, 202);
    assert_eq!(bench.count("/counters/accepted").await, 8);
}

#[tokio::test]
async fn an_event_grid_validation_is_answered() {
    let bench = narrow().await;
    let ask = json!([{
        "id": "2d1781af-3a4c-4d7c-bd0c-e34b19da4e66",
        "topic": "/subscriptions/x",
        "subject": "",
        "data": {"validationCode": "512d38b6-c7b8-40c8-89fe-f46f9e9622b6", "validationUrl": "https://x.eventgrid.azure.net"},
        "eventType": "Microsoft.EventGrid.SubscriptionValidationEvent",
        "eventTime": "2022-10-25T22:12:19.4556811Z",
        "metadataVersion": "1",
        "dataVersion": "1"
    }]);
    let ask = ask.to_string();
    for headers in [vec![JSON], vec![JSON, ("aeg-event-type", "SubscriptionValidation")]] {
        let reply = bench.post_as("default", &headers, ask.as_bytes()).await;
        let answer = json!({"validationResponse": "512d38b6-c7b8-40c8-89fe-f46f9e9622b6"});
        assert_eq!((reply.status, reply.json()), (200, answer));
    }
    assert_eq!(bench.count("/counters/accepted").await, 0);
    let claimed =
        bench.post_as("default", &[JSON, ("aeg-event-type", "SubscriptionValidation")], &body("k", "1")).await;
    assert_eq!(claimed.json()["status"], "queued", "an event that asks nothing is an event");
}
