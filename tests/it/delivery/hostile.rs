//! Destinations that refuse, break off, are slow, stay silent or lie: each attempt gets its outcome, and no resource
//! leaks.

use crate::harness::bench::{Bench, START, body, let_pass, wait_for};
use crate::harness::receiver::{Act, Receiver, retry_after, status};
use holdline::clock::Clock;
use holdline::config::Secret;
use holdline::config::settings::Settings;
use holdline::rules::address_policy::AddressPolicy;
use holdline::rules::backoff::{Jitter, OnAmbiguous};
use holdline::rules::verdict::Success;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::net::TcpListener;

const MS: Duration = Duration::from_millis(1);

fn patient(settings: &mut Settings) {
    settings.destinations[0].retry.jitter = Jitter::None;
    settings.destinations[0].timeout = 400 * MS;
}

/// A daemon with a manual clock, so that failed deliveries are not retried.
async fn bench(to: Option<String>, change: impl FnOnce(&mut Settings)) -> Bench {
    Bench::with(to, Clock::manual(START), |s| {
        patient(s);
        change(s);
    })
    .await
}

/// The first attempt of an event that has failed temporarily or permanently.
async fn failed(bench: &Bench, id: &str, state: &str) -> Value {
    bench.becomes(id, state).await;
    let (path, at) = match state {
        "dead" => (format!("/v1/dlq/{id}"), "/attempts/0"),
        _ => (format!("/v1/events/{id}"), "/deliveries/0/attempts/0"),
    };
    wait_for("the attempt is written", async || bench.get(&path).await.pointer(at).cloned()).await
}

/// A response with this head and body.
fn raw(head: &str, body: &str) -> Act {
    Act::Raw(format!("{head}\r\n\r\n{body}").into_bytes())
}

/// Name, behaviour of the server, state of the delivery after it, outcome of the attempt, and text of its error.
type Case = (&'static str, Act, &'static str, &'static str, &'static str);

fn hostilities() -> Vec<Case> {
    let huge = format!("HTTP/1.1 200 x\r\nX-Huge: {}", "x".repeat(200_000));
    let many = format!("HTTP/1.1 200 x{}", "\r\nX: y".repeat(5_000));
    vec![
        ("a reset before the answer", Act::Reset, "delayed", "broken", "connection"),
        ("half a head", Act::HalfHead, "delayed", "broken", "connection"),
        ("no answer", Act::Never, "delayed", "timeout", "no answer within 400ms"),
        ("a head by single bytes", Act::Dribble(b"HTTP/1.1 200 x\r\nX: ".to_vec()), "delayed", "timeout", "no answer"),
        ("a huge header", raw(&huge, ""), "delayed", "broken", "too large"),
        ("many headers", raw(&many, ""), "delayed", "broken", "too large"),
        ("no HTTP", Act::Raw(b"220 mail.internal ESMTP\r\n".to_vec()), "delayed", "broken", "invalid"),
        ("half the body of a failure", Act::HalfBody(503), "delayed", "answered", ""),
        (
            "a redirect",
            raw("HTTP/1.1 302 x\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0", ""),
            "delayed",
            "answered",
            "",
        ),
    ]
}

#[tokio::test]
async fn each_hostile_answer_has_its_outcome_and_leaves_no_connection() {
    let acts: Vec<Act> = hostilities().into_iter().map(|(_, act, ..)| act).collect();
    let receiver = Receiver::start(move |r| acts[r.interaction().parse::<usize>().unwrap()].clone()).await;
    let bench = bench(receiver.to(), |_| {}).await;
    for (n, (what, _, state, outcome, words)) in hostilities().into_iter().enumerate() {
        let id = bench.accept(&n.to_string(), &n.to_string()).await;
        let attempt = failed(&bench, &id, state).await;
        assert_eq!(attempt["outcome"], json!(outcome), "{what}: {attempt}");
        assert_eq!(attempt["ambiguous"], json!(["broken", "timeout"].contains(&outcome)), "{what}");
        assert!(attempt["error"].as_str().unwrap().contains(words), "{what}: {attempt}");
        assert!(attempt["answer"].as_str().unwrap().len() <= 1024, "{what}");
    }
    wait_for("all connections are closed", async || (receiver.open() == 0).then_some(())).await;
    let metrics = bench.admin("GET", "/metrics", b"").await.text();
    for (outcome, count) in [("answered", 2), ("broken", 5), ("timeout", 2), ("not_connected", 0)] {
        let line =
            format!("holdline_destination_attempts_total{{destination=\"default\",outcome=\"{outcome}\"}} {count}\n");
        assert!(metrics.contains(&line), "{line}{metrics}");
    }
}

/// 2xx whose bodies never end, break off, or are far too long.
#[tokio::test]
async fn a_success_counts_whatever_its_body_does() {
    let long = format!("HTTP/1.1 200 x\r\nContent-Length: 100000000\r\n\r\n{}", "x".repeat(1_000_000));
    let acts = [
        Act::HalfBody(200),
        Act::Dribble(b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n".to_vec()),
        Act::Dribble(b"HTTP/1.1 204 x\r\n\r\n".to_vec()),
        Act::Raw(long.into_bytes()),
        Act::Raw([b"HTTP/1.1 103 x\r\n\r\n".repeat(500), b"HTTP/1.1 200 x\r\n\r\n".to_vec()].concat()),
    ];
    let receiver = Receiver::start(move |r| acts[r.n % acts.len()].clone()).await;
    let bench = bench(receiver.to(), |s| s.destinations[0].concurrency_max = 1).await;
    for n in 0..5 {
        bench.accept(&n.to_string(), &n.to_string()).await;
    }
    bench.reaches("/counters/delivered", 5).await;
    assert_eq!(receiver.count(), 5);
    wait_for("all connections are closed", async || (receiver.open() == 0).then_some(())).await;
}

/// Hundreds of attempts that fail in every way: only pooled connections stay open.
#[tokio::test]
async fn i18_failures_leave_no_connections_or_descriptors() {
    let acts: Vec<Act> = hostilities().into_iter().map(|(_, act, ..)| act).collect();
    let receiver = Receiver::start(move |r| acts.get(r.n % 11).cloned().unwrap_or_else(|| status(200))).await;
    let bench = Bench::with(receiver.to(), Clock::system(), |s| {
        patient(s);
        let d = &mut s.destinations[0];
        (d.timeout, d.concurrency_max) = (30 * MS, 8);
        (d.retry.base, d.retry.max) = (MS, MS);
    })
    .await;
    for n in 0..200 {
        bench.accept(&n.to_string(), &n.to_string()).await;
    }
    wait_for("all have ended", async || (bench.count("/queue/depth").await == 0).then_some(())).await;
    let tried = receiver.count();
    assert!(tried > 500, "{tried}");
    let few = async || (receiver.open() <= 8).then_some(());
    wait_for("no more is open than may be in flight", few).await;
}

#[tokio::test]
async fn unsent_and_ambiguous_attempts_are_distinguished() {
    // a port that was free a moment ago
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    // the kernel accepts its connections; it never sends a TLS record
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("https://127.0.0.1:{}/", silent.local_addr().unwrap().port());
    for (to, outcome, words) in [
        (format!("http://{gone}/"), "not_connected", "refused"),
        ("http://no-such-name.invalid/".to_owned(), "not_connected", "dns error"),
        (silent, "connect_timeout", "no connection within 400ms"),
    ] {
        // the outcome is the same where an ambiguous attempt becomes a dead letter
        let bench = bench(Some(to.clone()), |s| s.destinations[0].retry.on_ambiguous = OnAmbiguous::DeadLetter).await;
        let id = bench.accept("k", "1").await;
        let attempt = failed(&bench, &id, "delayed").await;
        assert_eq!((&attempt["outcome"], &attempt["ambiguous"]), (&json!(outcome), &json!(false)), "{to}: {attempt}");
        assert!(attempt["error"].as_str().unwrap().contains(words), "{to}: {attempt}");
    }
}

#[tokio::test]
async fn an_ambiguous_attempt_is_a_dead_letter_where_configured() {
    let receiver = Receiver::start(|r| match r.interaction() {
        "reset" => Act::Reset,
        "never" => Act::Never,
        _ => status(503),
    })
    .await;
    let bench = bench(receiver.to(), |s| s.destinations[0].retry.on_ambiguous = OnAmbiguous::DeadLetter).await;
    for (interaction, outcome) in [("reset", "broken"), ("never", "timeout")] {
        let id = bench.accept(interaction, interaction).await;
        bench.becomes(&id, "dead").await;
        let dead_letter = bench.get(&format!("/v1/dlq/{id}")).await;
        assert_eq!(
            (&dead_letter["reason"], &dead_letter["attempts"][0]["outcome"]),
            (&json!("ambiguous"), &json!(outcome))
        );
    }
    let id = bench.accept("clear", "clear").await;
    bench.becomes(&id, "delayed").await;
    assert_eq!(bench.get("/v1/dlq?reason=ambiguous").await["items"].as_array().unwrap().len(), 2);
    bench.sound().await;
}

fn successful(settings: &mut Settings) {
    settings.destinations[0].success = Some(Success { json_pointer: "/status".into(), equals: json!("ok") });
}

#[tokio::test]
async fn a_2xx_without_the_expected_body_is_a_failure() {
    let long = format!("{{\"status\":\"ok\",\"x\":\"{}\"}}", "x".repeat(70_000));
    let ok = |body: &str| Act::Answer { status: 200, headers: Vec::new(), body: body.into() };
    let cases = [
        (
            ok(r#"{"status":"failed","why":"quota"}"#),
            "unsuccessful",
            json!(200),
            r#"`/status` of its body is not "ok""#,
        ),
        (ok(""), "unsuccessful", json!(200), "its body is not JSON"),
        (ok(&long), "unsuccessful", json!(200), "its body is longer than 65536 bytes"),
        (Act::HalfBody(200), "broken", Value::Null, "answered 200, but its body, which decides, broke off"),
        (
            Act::Dribble(b"HTTP/1.1 200 x\r\nContent-Length: 9000\r\n\r\n{".to_vec()),
            "timeout",
            Value::Null,
            "took too long",
        ),
        (status(503), "answered", json!(503), ""),
    ];
    let acts: Vec<Act> = cases.iter().map(|(act, ..)| act.clone()).collect();
    let receiver = Receiver::start(move |r| match r.interaction().parse::<usize>() {
        Ok(n) => acts[n].clone(),
        Err(_) => Act::Answer { status: 202, headers: Vec::new(), body: br#"{"n":1,"status":"ok"}"#.to_vec() },
    })
    .await;
    let bench = bench(receiver.to(), successful).await;
    for (n, (_, outcome, code, words)) in cases.into_iter().enumerate() {
        let id = bench.accept(&n.to_string(), &n.to_string()).await;
        let attempt = failed(&bench, &id, "delayed").await;
        assert_eq!((&attempt["outcome"], &attempt["status"]), (&json!(outcome), &code), "{attempt}");
        assert!(attempt["error"].as_str().unwrap().contains(words), "{attempt}");
    }
    let id = bench.accept("good", "good").await;
    bench.becomes(&id, "delivered").await;
    bench.sound().await;
}

#[tokio::test]
async fn i12_a_failure_by_body_with_retry_after_blocks_the_destination() {
    let receiver = Receiver::start(|r| match r.n {
        0 => retry_after(200, 30),
        _ => Act::Answer { status: 200, headers: Vec::new(), body: br#"{"status":"ok"}"#.to_vec() },
    })
    .await;
    let mut bench = bench(receiver.to(), successful).await;
    let id = bench.accept("k", "1").await;
    bench.becomes(&id, "delayed").await;
    bench.restart().await;
    bench.accept("other", "2").await;
    bench.clock.advance(Duration::from_secs(30));
    let_pass(80 * MS).await;
    assert_eq!(receiver.count(), 1, "early");
    bench.clock.advance(MS);
    bench.reaches("/counters/delivered", 2).await;
}

#[tokio::test]
async fn each_attempt_is_signed_anew() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n").unwrap();
    let receiver = Receiver::start(|r| status(if r.n == 0 { 503 } else { 200 })).await;
    let bench = bench(receiver.to(), |s| s.destinations[0].sign = vec![Secret::File(file)]).await;
    let id = bench.accept("k", "1").await;
    bench.becomes(&id, "delayed").await;
    bench.clock.advance(Duration::from_secs(1));
    bench.becomes(&id, "delivered").await;
    let keys = [holdline::rules::signing::Key::decode("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=").unwrap()];
    for (received, seconds) in receiver.all().iter().zip([START.0 / 1000, START.0 / 1000 + 1]) {
        let wanted = holdline::rules::signing::signatures(&keys, &id, seconds, &body("k", "1"));
        assert_eq!(received.header("webhook-id"), Some(id.as_str()));
        assert_eq!(received.header("webhook-timestamp"), Some(seconds.to_string().as_str()));
        assert_eq!(received.header("webhook-signature"), Some(wanted.as_str()));
    }
}

#[tokio::test]
async fn link_local_addresses_are_refused_unless_allowed() {
    let receiver = Receiver::good().await;
    // on Linux this address reaches the own host
    let url = format!("http://0.0.0.0:{}/", receiver.addr.port());
    let refused = [
        &url,
        "http://169.254.169.254/latest",
        "http://[::ffff:169.254.169.254]/",
        "http://[fd00:ec2::254]/",
        "http://2852039166/",
    ];
    for to in refused {
        let bench = bench(Some(to.to_owned()), |_| {}).await;
        let id = bench.accept("k", "1").await;
        let attempt = failed(&bench, &id, "delayed").await;
        assert_eq!(attempt["outcome"], json!("not_connected"), "{to}: {attempt}");
        assert!(attempt["error"].as_str().unwrap().contains("set `allow_link_local = true`"), "{to}: {attempt}");
    }
    assert_eq!(receiver.count(), 0);
    let bench = bench(Some(url), |s| s.destinations[0].address_policy = AddressPolicy::Anywhere).await;
    let id = bench.accept("k", "1").await;
    bench.becomes(&id, "delivered").await;
}
