//! Delivery: what is sent, in which order, how often, when, and how it ends.

use crate::harness::bench::{Bench, START, body, destination, let_pass, read_message, wait_for};
use crate::harness::receiver::{Act, Received, Receiver, held, retry_after, status};
use holdline::clock::Clock;
use holdline::config::Secret;
use holdline::config::settings::{DestinationAuth, OnDeadLetter, OrderMode, Settings};
use holdline::rules::backoff::Jitter;
use serde_json::json;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
/// Long enough to see that an unexpected request does not arrive.
const A_WHILE: Duration = Duration::from_millis(80);

fn manual() -> Clock {
    Clock::manual(START)
}

/// Retry delays of exactly 1, 2, 4 ... seconds.
fn exact(settings: &mut Settings) {
    for destination in &mut settings.destinations {
        destination.retry.jitter = Jitter::None;
    }
}

/// Retries immediately.
fn eager(settings: &mut Settings) {
    for destination in &mut settings.destinations {
        destination.retry.base = 5 * MS;
        destination.retry.max = 10 * MS;
    }
}

/// Asserts that each request of an interaction began after the previous one had ended, in order of sequence.
fn in_order(all: &[Received]) {
    let mut by_interaction = std::collections::HashMap::<&str, Vec<&Received>>::new();
    for received in all {
        by_interaction.entry(received.interaction()).or_default().push(received);
    }
    for (interaction, requests) in by_interaction {
        for pair in requests.windows(2) {
            let ended = pair[0].ended.unwrap_or(usize::MAX);
            assert!(ended < pair[1].began, "two of {interaction} at once: {pair:?}");
            assert!(pair[0].sequence() <= pair[1].sequence(), "{interaction} out of order: {pair:?}");
        }
    }
}

#[tokio::test]
async fn a_delivery_has_its_identifying_headers() {
    let receiver = Receiver::good().await;
    let bench = Bench::with(receiver.to(), manual(), |_| {}).await;
    let sample = include_bytes!("../../samples/02_eb_customer_end.json");
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers =
        [("Content-Type", "application/json;x=1"), ("traceparent", traceparent), ("Range", "bytes=0-1048575")];
    let id = bench.post_as("default", &headers, sample).await.json()["id"].as_str().unwrap().to_owned();
    let got = receiver.received(1).await.remove(0);
    for (name, value) in [
        ("idempotency-key", id.as_str()),
        ("holdline-event-id", &id),
        ("holdline-source", "default"),
        ("holdline-event-type", "v2.detail.events.conversation.{id}.customer.end"),
        ("holdline-event-time", "2022-04-06T09:31:44.949Z"),
        ("holdline-interaction-id", "2f7bf00a-0fc2-4d6a-9b56-92238191433e"),
        ("holdline-sequence", "1"),
        ("holdline-attempt", "1"),
        ("holdline-received-at", "2027-01-15T08:00:00.000Z"),
        ("content-type", "application/json;x=1"),
        ("traceparent", traceparent),
        ("user-agent", concat!("holdline/", env!("CARGO_PKG_VERSION"))),
        ("host", &receiver.addr.to_string()),
    ] {
        assert_eq!(got.header(name), Some(value), "{name}");
    }
    for absent in ["holdline-redriven", "holdline-stale", "authorization", "range"] {
        assert_eq!(got.header(absent), None, "{absent}");
    }
    assert_eq!(got.line, "POST /hook?x=1 HTTP/1.1");
    assert_eq!(got.body, sample);
}

#[tokio::test]
async fn header_values_are_percent_encoded_and_missing_ones_omitted() {
    let receiver = Receiver::good().await;
    let bench = Bench::start(receiver.to()).await;
    let reply = bench.post("{\"data\": {\"interactionId\": \"M\u{fc}ller\\n%\"}}".as_bytes()).await;
    assert_eq!(reply.status, 202);
    bench.post(b"17").await;
    let all = receiver.received(2).await;
    let of = |sequence| all.iter().find(|r| r.sequence() == sequence).unwrap();
    assert_eq!(of(1).interaction(), "M%C3%BCller%0A%25");
    for absent in ["holdline-interaction-id", "holdline-event-time", "holdline-event-type", "traceparent"] {
        assert_eq!(of(2).header(absent), None, "{absent}");
    }
}

#[tokio::test]
async fn a_destination_gets_its_credentials() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, "pa:ss-w0rd\n").unwrap();
    let secret = || Secret::File(file.clone());
    for (auth, name, value) in [
        (DestinationAuth::Bearer { token: secret() }, "authorization", "Bearer pa:ss-w0rd"),
        (
            DestinationAuth::Basic { user: "user".into(), password: secret() },
            "authorization",
            "Basic dXNlcjpwYTpzcy13MHJk",
        ),
        (DestinationAuth::Header { name: "x-api-key".parse().unwrap(), value: secret() }, "x-api-key", "pa:ss-w0rd"),
    ] {
        let receiver = Receiver::good().await;
        let bench = Bench::with(receiver.to(), Clock::system(), |s| s.destinations[0].auth = Some(auth)).await;
        bench.accept("k", "1").await;
        assert_eq!(receiver.received(1).await[0].header(name), Some(value));
        for path in ["/v1/status", "/v1/destinations", "/metrics"] {
            assert!(!bench.admin("GET", path, b"").await.text().contains("w0rd"), "{path}");
        }
    }
}

#[tokio::test]
async fn i13_i14_an_interaction_goes_one_by_one_and_blocks_no_other() {
    // the first event of `slow` stays in flight; everything fails once
    let receiver = Receiver::start(|r| match (r.interaction(), r.attempt()) {
        ("slow", 1) if r.sequence() == 1 => held(status(200)),
        (_, 1) => status(503),
        _ => status(200),
    })
    .await;
    let bench = Bench::with(receiver.to(), Clock::system(), eager).await;
    for n in 0..30 {
        bench.accept(["slow", "a", "b"][n % 3], &n.to_string()).await;
    }
    bench.reaches("/counters/delivered", 20).await;
    let slow: Vec<_> = receiver.all().into_iter().filter(|r| r.interaction() == "slow").collect();
    assert_eq!(slow.len(), 1, "one in flight, and it blocks its own interaction");
    assert_eq!((bench.count("/queue/in_flight").await, bench.count("/queue/blocked").await), (1, 9));
    receiver.release(1);
    bench.reaches("/counters/delivered", 30).await;
    assert_eq!(receiver.count(), 59);
    in_order(&receiver.all());
    bench.sound().await;
}

#[tokio::test]
async fn i13_order_holds_over_a_restart_in_the_middle() {
    let up = Arc::new(AtomicU16::new(503));
    let answer = up.clone();
    let receiver = Receiver::start(move |_| status(answer.load(Ordering::SeqCst))).await;
    let mut bench = Bench::with(receiver.to(), Clock::system(), eager).await;
    bench.settings.destinations[0].retry.attempts = Some(1_000);
    bench.restart().await;
    for n in 0..20 {
        bench.accept(["a", "b"][n % 2], &n.to_string()).await;
    }
    receiver.received(10).await;
    bench.crash();
    bench.open().await;
    let before = receiver.count();
    receiver.received(before + 4).await;
    up.store(200, Ordering::SeqCst);
    bench.reaches("/counters/delivered", 20).await;
    let delivered: Vec<_> = receiver.all().into_iter().skip(before).collect();
    in_order(&delivered);
    bench.sound().await;
}

#[tokio::test]
async fn unordered_events_do_not_wait_for_each_other() {
    let receiver = Receiver::start(|r| if r.sequence() == 1 { held(status(200)) } else { status(200) }).await;
    let bench =
        Bench::with(receiver.to(), Clock::system(), |s| s.destinations[0].ordering.mode = OrderMode::None).await;
    for n in 0..5 {
        bench.accept("same", &n.to_string()).await;
    }
    bench.reaches("/counters/delivered", 4).await;
    receiver.release(1);
    bench.reaches("/counters/delivered", 5).await;
}

#[tokio::test]
async fn i19_a_stuck_destination_does_not_block_another_and_keeps_its_limit() {
    let (stuck, good) = (Receiver::start(|_| held(status(200))).await, Receiver::good().await);
    let bench = Bench::with(stuck.to(), Clock::system(), |s| {
        s.destinations[0].concurrency_max = 3;
        s.destinations.push(destination("other", &good.url()));
    })
    .await;
    for n in 0..20 {
        bench.accept(&format!("k{n}"), &n.to_string()).await;
    }
    good.received(20).await;
    let_pass(A_WHILE).await;
    assert_eq!(stuck.count(), 3);
    let all = bench.get("/v1/destinations").await;
    assert_eq!(all["items"][0]["concurrency"], json!({"limit": 3, "max": 3, "in_flight": 3}));
    stuck.release(100);
    bench.reaches("/counters/delivered", 40).await;
    for d in bench.status().await["destinations"].as_array().unwrap() {
        assert_eq!((&d["counters"]["accepted"], &d["counters"]["delivered"]), (&json!(20), &json!(20)));
    }
}

#[tokio::test]
async fn i8_failures_of_every_kind_are_retried_when_due_and_not_before() {
    let receiver = Receiver::start(|r| match r.attempt() {
        1 => status(503),
        2 => status(429),
        3 => status(408),
        4 => Act::Reset,
        5 => Act::HalfHead,
        6 => Act::Never,
        7 => Act::HalfBody(500),
        8 => status(409),
        _ => status(204),
    })
    .await;
    let bench = Bench::with(receiver.to(), manual(), |s| {
        exact(s);
        s.destinations[0].timeout = 300 * MS;
        s.destinations[0].retry.max = 20 * SECOND;
    })
    .await;
    let id = bench.accept("k", "1").await;
    let mut elapsed = Duration::ZERO;
    for (n, wait) in [1, 2, 4, 8, 16, 20, 20, 20].into_iter().enumerate() {
        let delivery = bench.becomes(&id, "delayed").await;
        elapsed += wait * SECOND;
        let due = START.after(elapsed).to_string();
        assert_eq!(delivery["due"], json!(due), "after attempt {}", n + 1);
        assert_eq!(delivery["blocked_by"], json!({"blocker": "retry_backoff", "until": due, "set_by": "retry"}));
        bench.clock.advance(wait * SECOND - MS);
        let_pass(A_WHILE).await;
        assert_eq!(receiver.count(), n + 1, "a millisecond early");
        bench.clock.advance(MS);
        receiver.received(n + 2).await;
    }
    bench.becomes(&id, "delivered").await;
    let attempts: Vec<u32> = receiver.all().iter().map(Received::attempt).collect();
    assert_eq!(attempts, (1..=9).collect::<Vec<_>>());
    bench.sound().await;
}

#[tokio::test]
async fn an_unreachable_destination_is_retried() {
    // a port that was free a moment ago
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let bench = Bench::with(Some(format!("http://{gone}/")), manual(), exact).await;
    let id = bench.accept("k", "1").await;
    bench.becomes(&id, "delayed").await;
    let event = bench.get(&format!("/v1/events/{id}")).await;
    let attempt = &event["deliveries"][0]["attempts"][0];
    assert_eq!((&attempt["outcome"], &attempt["status"]), (&json!("not_connected"), &json!(null)));
    assert!(attempt["error"].as_str().unwrap().contains("refused"), "{attempt}");
}

#[tokio::test]
async fn a_refusal_of_content_is_permanent_and_no_redirect_is_followed() {
    let elsewhere = Receiver::good().await;
    let url = elsewhere.url();
    let codes = [400, 411, 413, 414, 415, 422, 431, 300, 301, 302, 303, 304, 307, 308];
    let receiver = Receiver::start(move |r| {
        let location = vec![("Location", url.clone())];
        Act::Answer { status: codes[r.n % codes.len()], headers: location, body: Vec::new() }
    })
    .await;
    let bench = Bench::with(receiver.to(), manual(), |s| s.destinations[0].concurrency_max = 1).await;
    for n in 0..codes.len() {
        bench.accept(&n.to_string(), &n.to_string()).await;
    }
    bench.reaches("/dlq/depth", 7).await;
    receiver.received(10).await; // after these the breaker is open
    assert_eq!(elsewhere.count(), 0);
    for dead_letter in bench.get("/v1/dlq").await["items"].as_array().unwrap() {
        assert_eq!(
            (&dead_letter["reason"], dead_letter["attempts"].as_array().unwrap().len()),
            (&json!("permanent"), 1)
        );
    }
    assert_eq!(bench.get("/v1/dlq?reason=permanent").await["items"].as_array().unwrap().len(), 7);
    assert_eq!(bench.get("/v1/dlq?reason=exhausted").await["items"].as_array().unwrap().len(), 0);
    bench.sound().await;
}

#[tokio::test]
async fn i11_attempts_are_bounded_also_over_crashes_and_each_is_recorded() {
    let receiver = Receiver::start(|r| match r.attempt() {
        1 => Act::Answer { status: 503, headers: Vec::new(), body: b"x".repeat(3_000) },
        2 => Act::Never,
        _ => Act::Reset,
    })
    .await;
    let mut bench = Bench::with(receiver.to(), manual(), |s| {
        exact(s);
        s.destinations[0].retry.attempts = Some(3);
        s.destinations[0].timeout = 200 * MS;
    })
    .await;
    let id = bench.accept("k", "1").await;
    for n in 1..=2 {
        bench.becomes(&id, "delayed").await;
        wait_for("it is on disk", async || (bench.status().await["queue"]["depth"] == 1).then_some(())).await;
        bench.sound().await; // commits everything recorded before it
        bench.crash();
        bench.open().await;
        bench.clock.advance(n * SECOND);
    }
    bench.becomes(&id, "dead").await;
    let dead_letter = bench.get(&format!("/v1/dlq/{id}")).await;
    assert_eq!(dead_letter["reason"], json!("exhausted"));
    let attempts = dead_letter["attempts"].as_array().unwrap();
    let numbers: Vec<_> = attempts.iter().map(|a| a["number"].as_u64().unwrap()).collect();
    let outcomes: Vec<_> = attempts.iter().map(|a| a["outcome"].as_str().unwrap()).collect();
    assert_eq!((numbers, outcomes), (vec![1, 2, 3], vec!["answered", "timeout", "broken"]));
    assert_eq!((&attempts[0]["status"], attempts[0]["answer"].as_str().unwrap().len()), (&json!(503), 1024));
    assert_eq!((&attempts[0]["error"], &attempts[0]["at"]), (&json!(""), &json!(START.to_string())));
    for (attempt, words) in attempts[1..].iter().zip(["no answer within 200ms", "connection"]) {
        assert_eq!(attempt["status"], json!(null));
        assert!(attempt["error"].as_str().unwrap().contains(words), "{attempt}");
        assert!(attempt["latency_ms"].is_u64());
    }
    assert_eq!(receiver.count(), 3);
    bench.sound().await;
}

/// Answers the first request with 429 and this `Retry-After`, and all others with success.
async fn limited(value: String) -> (Receiver, Bench) {
    let receiver = Receiver::start(move |r| if r.n == 0 { retry_after(429, &value) } else { status(200) }).await;
    let bench = Bench::with(receiver.to(), manual(), exact).await;
    let id = bench.accept("first", "first").await;
    bench.becomes(&id, "delayed").await;
    for n in 0..3 {
        bench.accept(&n.to_string(), &n.to_string()).await;
    }
    (receiver, bench)
}

#[tokio::test]
async fn i12_retry_after_blocks_the_destination_exactly_and_over_restarts() {
    for value in ["30".to_owned(), httpdate::fmt_http_date(START.after(30 * SECOND).to_system())] {
        let (receiver, mut bench) = limited(value.clone()).await;
        let until = START.after(30 * SECOND + MS).to_string();
        let hold =
            json!([{"blocker": "retry_after", "until": until, "reason": "Retry-After", "set_by": "destination"}]);
        assert_eq!(bench.get("/v1/destinations/default").await["blocked_by"], hold);
        let queued = bench.get("/v1/events?state=queued").await;
        assert_eq!(queued["items"].as_array().unwrap().len(), 3);
        assert_eq!(queued["items"][0]["deliveries"][0]["blocked_by"]["until"], json!(until));
        bench.clock.advance(10 * SECOND);
        bench.restart().await;
        assert_eq!(bench.get("/v1/destinations/default").await["blocked_by"], hold);
        bench.clock.advance(10 * SECOND);
        bench.crash();
        bench.open().await;
        bench.clock.advance(10 * SECOND);
        let_pass(A_WHILE).await;
        assert_eq!(receiver.count(), 1, "{value}: early");
        bench.clock.advance(MS);
        bench.reaches("/counters/delivered", 4).await;
        let attempts: Vec<u32> = receiver.all()[1..].iter().map(Received::attempt).collect();
        assert_eq!(attempts.iter().sum::<u32>(), 2 + 1 + 1 + 1, "the hold consumed no attempt");
        assert_eq!(bench.get("/v1/destinations/default").await["blocked_by"], json!([]));
    }
}

#[tokio::test]
async fn i12_a_shorter_retry_after_does_not_shorten_a_longer_one() {
    let receiver = Receiver::start(|r| match r.interaction() {
        "long" => held(retry_after(429, 60)),
        "short" => held(retry_after(503, 1)),
        _ => status(200),
    })
    .await;
    let mut bench = Bench::with(receiver.to(), manual(), exact).await;
    let long = bench.accept("long", "1").await;
    receiver.received(1).await;
    let short = bench.accept("short", "2").await;
    receiver.received(2).await;
    receiver.release(1);
    bench.becomes(&long, "delayed").await;
    receiver.release(1);
    bench.becomes(&short, "delayed").await;
    let until = json!(START.after(60 * SECOND + MS).to_string());
    assert_eq!(bench.get("/v1/destinations/default").await["blocked_by"][0]["until"], until);
    bench.restart().await;
    assert_eq!(bench.get("/v1/destinations/default").await["blocked_by"][0]["until"], until);
    bench.accept("other", "3").await;
    bench.clock.advance(30 * SECOND);
    let_pass(A_WHILE).await;
    assert_eq!(receiver.count(), 2, "early");
}

#[tokio::test]
async fn i12_a_retry_after_beyond_the_maximum_is_clamped() {
    let receiver = Receiver::start(|r| if r.n == 0 { retry_after(503, 86_400) } else { status(200) }).await;
    let bench = Bench::with(receiver.to(), manual(), |s| {
        exact(s);
        s.destinations[0].retry.retry_after_max = 60 * SECOND;
    })
    .await;
    let id = bench.accept("k", "1").await;
    bench.becomes(&id, "delayed").await;
    bench.clock.advance(60 * SECOND);
    let_pass(A_WHILE).await;
    assert_eq!(receiver.count(), 1);
    bench.clock.advance(MS);
    bench.becomes(&id, "delivered").await;
}

#[tokio::test]
async fn i12_retry_after_applies_to_every_kind_of_answer() {
    for (code, statuses) in [(429, 500..600), (403, 500..600), (302, 500..600), (503, 429..430)] {
        let receiver = Receiver::start(move |r| if r.n == 0 { retry_after(code, 3) } else { status(200) }).await;
        let mut bench = Bench::with(receiver.to(), manual(), |s| {
            s.destinations[0].retry.statuses = statuses.collect();
            s.destinations[0].retry.permanent = [code].into();
        })
        .await;
        let first = bench.accept("first", "first").await;
        bench.becomes(&first, "dead").await;
        for n in 0..3 {
            bench.accept(&n.to_string(), &n.to_string()).await;
        }
        bench.clock.advance(1500 * MS);
        bench.restart().await;
        bench.clock.advance(1500 * MS);
        let_pass(A_WHILE).await;
        assert_eq!(receiver.count(), 1, "{code}: early");
        bench.clock.advance(MS);
        bench.reaches("/counters/delivered", 3).await;
    }
    let receiver = Receiver::start(|_| retry_after(200, 3)).await;
    let bench = Bench::with(receiver.to(), manual(), |_| {}).await;
    for n in 0..3 {
        bench.accept("k", &n.to_string()).await;
    }
    bench.reaches("/counters/delivered", 3).await;
}

/// Answers each request with this head at once, and sends the body `ok` when the semaphore allows it.
async fn slow_body(head: &'static str) -> (String, Arc<Semaphore>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (url, let_on) = (format!("http://{}/", listener.local_addr().unwrap()), Arc::new(Semaphore::new(0)));
    let permits = let_on.clone();
    tokio::spawn(async move {
        loop {
            let mut stream = BufReader::new(listener.accept().await.unwrap().0);
            let permits = permits.clone();
            tokio::spawn(async move {
                while read_message(&mut stream, false).await.is_some() {
                    stream.get_mut().write_all(head.as_bytes()).await.unwrap();
                    permits.acquire().await.unwrap().forget();
                    stream.get_mut().write_all(b"ok").await.unwrap();
                }
            });
        }
    });
    (url, let_on)
}

#[tokio::test]
async fn i12_a_retry_after_applies_once_from_the_head_of_its_answer() {
    for (head, reason) in [
        ("HTTP/1.1 429 x\r\nRetry-After: 4\r\nContent-Length: 2\r\n\r\n", "Retry-After"),
        (
            "HTTP/1.1 200 x\r\nRateLimit-Remaining: 0\r\nRateLimit-Reset: 4\r\nContent-Length: 2\r\n\r\n",
            "its rate limit is spent",
        ),
    ] {
        let (url, let_on) = slow_body(head).await;
        let mut bench = Bench::with(Some(url), manual(), exact).await;
        bench.accept("k", "1").await;
        let until = START.after(4 * SECOND + MS).to_string();
        let hold = json!([{"blocker": "retry_after", "until": until, "reason": reason, "set_by": "destination"}]);
        let shown = async |bench: &Bench| bench.get("/v1/destinations/default").await["blocked_by"].clone();
        // the scheduler learns the outcome after the body has arrived
        bench.reaches("/queue/in_flight", 1).await;
        let_pass(A_WHILE).await;
        bench.clock.advance(500 * MS);
        let_on.add_permits(1);
        bench.reaches("/queue/in_flight", 0).await;
        assert_eq!(shown(&bench).await, hold);
        bench.restart().await;
        assert_eq!(shown(&bench).await, hold, "as it was recorded");
    }
}

#[tokio::test]
async fn i16_a_clock_set_back_strands_nothing() {
    let receiver = Receiver::start(|r| if r.n == 0 { retry_after(503, 10) } else { status(200) }).await;
    let mut bench = Bench::with(receiver.to(), manual(), exact).await;
    let id = bench.accept("k", "1").await;
    bench.becomes(&id, "delayed").await;
    bench.accept("k", "2").await;
    bench.accept("other", "3").await;
    bench.stop().await;
    bench.clock = Clock::manual(START.before(Duration::from_secs(10 * 365 * 86_400)));
    bench.open().await;
    bench.clock.advance(3_600 * SECOND);
    bench.reaches("/counters/delivered", 3).await;
    bench.sound().await;
}

/// One event of `k` is refused; those after it are accepted. Redriven events succeed.
async fn with_a_dead_letter(mode: OnDeadLetter) -> (Receiver, Bench, [String; 3]) {
    let receiver = Receiver::start(|r| match (r.sequence(), r.attempt()) {
        (1, 1) => held(status(400)),
        _ => status(200),
    })
    .await;
    let bench = Bench::with(receiver.to(), manual(), |s| s.destinations[0].ordering.on_dead_letter = mode).await;
    let ids = [bench.accept("k", "1").await, bench.accept("k", "2").await, bench.accept("other", "3").await];
    receiver.release(1);
    bench.reaches("/dlq/depth", 1).await;
    bench.becomes(&ids[2], "delivered").await;
    (receiver, bench, ids)
}

#[tokio::test]
async fn a_dead_letter_does_not_block_its_interaction_by_default() {
    let (receiver, bench, ids) = with_a_dead_letter(OnDeadLetter::Continue).await;
    bench.becomes(&ids[1], "delivered").await;
    assert_eq!(receiver.count(), 3);
}

#[tokio::test]
async fn i13_a_dead_letter_blocks_later_events_until_redriven_over_restarts() {
    let (receiver, mut bench, ids) = with_a_dead_letter(OnDeadLetter::Hold).await;
    for round in 0..3 {
        let delivery = bench.becomes(&ids[1], "blocked").await;
        let behind = json!({"blocker": "dead_letter", "behind": ids[0], "set_by": "ordering"});
        assert_eq!(delivery["blocked_by"], behind, "round {round}");
        let_pass(A_WHILE).await;
        assert_eq!(receiver.count(), 2);
        if round == 0 {
            bench.restart().await;
        } else {
            bench.crash();
            bench.open().await;
        }
    }
    let done = bench.change("/v1/dlq/redrive", json!({"ids": [ids[0]]})).await;
    assert_eq!(done, json!({"matched": 1, "done": 1, "destinations": {"default": 1}}));
    bench.reaches("/counters/delivered", 3).await;
    let order: Vec<u64> = receiver.all()[2..].iter().map(Received::sequence).collect();
    assert_eq!(order, [1, 2]);
    bench.sound().await;
}

#[tokio::test]
async fn i13_purging_a_dead_letter_unblocks_later_events() {
    for restart in [false, true] {
        let (receiver, mut bench, ids) = with_a_dead_letter(OnDeadLetter::Hold).await;
        if restart {
            bench.restart().await;
        }
        let done = bench.change("/v1/dlq/purge", json!({"ids": [ids[0]]})).await;
        assert_eq!(done, json!({"matched": 1, "done": 1, "destinations": {"default": 1}}));
        bench.becomes(&ids[1], "delivered").await;
        bench.becomes(&ids[0], "discarded").await;
        assert_eq!(receiver.count(), 3);
        assert_eq!(bench.count("/counters/discarded").await, 1);
        bench.sound().await;
    }
}

#[tokio::test]
async fn i15_a_redriven_event_goes_before_later_ones_once_and_is_marked() {
    let fail = Arc::new(Mutex::new(vec![400, 503]));
    let script = fail.clone();
    let receiver = Receiver::start(move |_| {
        let mut fail = script.lock().unwrap();
        status(if fail.is_empty() { 200 } else { fail.remove(0) })
    })
    .await;
    let bench = Bench::with(receiver.to(), manual(), exact).await;
    let first = bench.accept("k", "1").await;
    bench.becomes(&first, "dead").await;
    let second = bench.accept("k", "2").await;
    bench.becomes(&second, "delayed").await;
    let third = bench.accept("k", "3").await;
    bench.becomes(&third, "blocked").await;
    let selection = json!({"ids": [first]});
    assert_eq!(
        bench.change("/v1/dlq/redrive", selection.clone()).await,
        json!({"matched": 1, "done": 1, "destinations": {"default": 1}})
    );
    assert_eq!(bench.change("/v1/dlq/redrive", selection).await, json!({"matched": 0, "done": 0, "destinations": {}}));
    bench.becomes(&first, "delivered").await;
    bench.clock.advance(SECOND);
    bench.becomes(&third, "delivered").await;
    let all = receiver.all();
    let order: Vec<(u64, u32)> = all.iter().map(|r| (r.sequence(), r.attempt())).collect();
    assert_eq!(order, [(1, 1), (2, 1), (1, 2), (2, 2), (3, 1)]);
    assert_eq!((all[2].header("holdline-redriven"), all[2].id()), (Some("true"), first.as_str()));
    assert!(all.iter().enumerate().all(|(n, r)| n == 2 || r.header("holdline-redriven").is_none()));
    assert_eq!((bench.count("/counters/redriven").await, bench.count("/dlq/depth").await), (1, 0));
    bench.sound().await;
}

#[tokio::test]
async fn i9_the_idempotency_key_survives_retries_restarts_and_redrives() {
    let receiver = Receiver::start(|r| status(if r.attempt() < 4 { 503 } else { 200 })).await;
    let mut bench = Bench::with(receiver.to(), manual(), |s| {
        exact(s);
        s.destinations[0].retry.attempts = Some(3);
    })
    .await;
    let id = bench.accept("k", "1").await;
    bench.becomes(&id, "delayed").await;
    bench.clock.advance(SECOND);
    receiver.received(2).await;
    bench.becomes(&id, "delayed").await;
    bench.restart().await;
    bench.clock.advance(2 * SECOND);
    bench.becomes(&id, "dead").await;
    bench.restart().await;
    bench.change("/v1/dlq/redrive", json!({"all": true})).await;
    bench.becomes(&id, "delivered").await;
    let all = receiver.all();
    assert_eq!(all.iter().map(Received::attempt).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert!(all.iter().all(|r| r.id() == id && r.body == body("k", "1") && r.sequence() == 1));
}

#[tokio::test]
async fn a_redriven_event_has_all_its_attempts_again_and_may_die_again() {
    let receiver = Receiver::start(|_| status(503)).await;
    let bench = Bench::with(receiver.to(), manual(), |s| {
        exact(s);
        s.destinations[0].retry.attempts = Some(2);
    })
    .await;
    let id = bench.accept("k", "1").await;
    for round in 1..=2 {
        bench.becomes(&id, "delayed").await;
        bench.clock.advance(SECOND);
        bench.becomes(&id, "dead").await;
        assert_eq!(receiver.count(), round * 2);
        if round == 1 {
            bench.change("/v1/dlq/redrive", json!({"ids": [id]})).await;
        }
    }
    let dead_letter = bench.get(&format!("/v1/dlq/{id}")).await;
    let numbers: Vec<_> =
        dead_letter["attempts"].as_array().unwrap().iter().map(|a| a["number"].as_u64().unwrap()).collect();
    assert_eq!((numbers, &dead_letter["redriven"]), (vec![1, 2, 3, 4], &json!(true)));
    assert_eq!(bench.count("/counters/dead_lettered").await, 2);
    bench.sound().await;
}

#[tokio::test]
async fn i10_an_answer_cut_off_after_its_status_counts() {
    let receiver = Receiver::start(|_| Act::HalfBody(200)).await;
    let mut bench = Bench::start(receiver.to()).await;
    for n in 0..10 {
        bench.accept("k", &n.to_string()).await;
    }
    bench.reaches("/counters/delivered", 10).await;
    bench.restart().await;
    bench.accept("k", "last").await;
    bench.reaches("/counters/delivered", 11).await;
    assert_eq!(receiver.count(), 11);
}

#[tokio::test]
async fn i10_a_stop_waits_for_deliveries_in_flight_and_repeats_none() {
    let receiver = Receiver::start(|r| if r.n == 0 { held(status(200)) } else { status(200) }).await;
    let mut bench = Bench::start(receiver.to()).await;
    let id = bench.accept("k", "1").await;
    bench.accept("k", "2").await;
    receiver.received(1).await;
    let freed = receiver.clone();
    let free = tokio::spawn(async move {
        let_pass(A_WHILE).await;
        freed.release(1);
    });
    bench.restart().await;
    free.await.unwrap();
    bench.reaches("/counters/delivered", 2).await;
    assert_eq!((receiver.count(), receiver.of(&id).len()), (2, 1));
}

#[tokio::test]
async fn i8_an_aged_event_becomes_a_dead_letter_and_its_age_restarts_on_redrive() {
    let receiver = Receiver::start(|_| status(503)).await;
    let bench = Bench::with(receiver.to(), manual(), |s| {
        exact(s);
        s.destinations[0].retry.max_age = 3 * SECOND;
    })
    .await;
    let id = bench.accept("k", "1").await;
    for round in 1..=2 {
        for wait in [1, 2] {
            bench.becomes(&id, "delayed").await;
            bench.clock.advance(wait * SECOND);
        }
        bench.becomes(&id, "dead").await;
        assert_eq!(receiver.count(), round * 3, "the next one would be due in second 7");
        bench.clock.advance(100 * SECOND);
        if round == 1 {
            bench.change("/v1/dlq/redrive", json!({"ids": [id]})).await;
        }
    }
    assert_eq!(bench.get(&format!("/v1/dlq/{id}")).await["reason"], json!("exhausted"));
}

#[tokio::test]
async fn i8_deliveries_of_a_removed_destination_are_kept_until_it_returns() {
    let receiver = Receiver::start(|r| status(if r.n == 0 { 503 } else { 200 })).await;
    let mut bench = Bench::with(receiver.to(), manual(), exact).await;
    let id = bench.accept("k", "1").await;
    bench.becomes(&id, "delayed").await;
    bench.accept("k", "2").await;
    let elsewhere = Receiver::good().await;
    let old = std::mem::replace(&mut bench.settings.destinations[0], destination("new", &elsewhere.url()));
    bench.restart().await;
    bench.accept("k", "3").await;
    bench.reaches("/counters/delivered", 1).await;
    assert_eq!(bench.count("/queue/depth").await, 2);
    let delivery = bench.get(&format!("/v1/events/{id}")).await["deliveries"][0].clone();
    assert_eq!((&delivery["destination"], &delivery["blocked_by"]["blocker"]), (&json!("default"), &json!("no_url")));
    bench.settings.destinations.push(old);
    bench.restart().await;
    bench.clock.advance(SECOND);
    bench.reaches("/counters/delivered", 3).await;
    assert_eq!((receiver.count(), elsewhere.count()), (3, 1));
    bench.sound().await;
}

#[tokio::test]
async fn a_stop_ends_at_its_timeout_and_the_delivery_is_repeated() {
    let receiver = Receiver::start(|r| if r.n == 0 { Act::Never } else { status(200) }).await;
    let mut bench = Bench::with(receiver.to(), Clock::system(), |s| {
        s.store.drain_timeout = 100 * MS;
        s.destinations[0].timeout = 600 * SECOND;
    })
    .await;
    let id = bench.accept("k", "1").await;
    receiver.received(1).await;
    bench.restart().await;
    bench.becomes(&id, "delivered").await;
    let attempts: Vec<u32> = receiver.all().iter().map(Received::attempt).collect();
    assert_eq!(attempts, [1, 1], "what was given up is no failed attempt");
}
