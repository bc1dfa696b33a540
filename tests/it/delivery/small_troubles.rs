//! With the default settings a short failure of a destination causes no dead letter: a deploy, an outage of a quiet
//! site, occasional refusals, permanently slow responses, a wrong clock.

use crate::harness::bench::{Bench, START, wait_for};
use crate::harness::receiver::{Receiver, held, status};
use holdline::clock::Clock;
use holdline::config::settings::Settings;
use holdline::rules::breaker;
use holdline::rules::concurrency::Adaptive;
use holdline::rules::lateness::OnStale;
use holdline::time::Timestamp;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

/// The defaults of the program, where the tests' settings differ.
fn defaults(settings: &mut Settings) {
    settings.destinations[0].breaker = breaker::Limits::default();
    settings.destinations[0].adaptive = Adaptive::Yes;
}

/// Answers with this status until it is changed.
async fn moody(first: u16) -> (Receiver, Arc<AtomicU16>) {
    let mood = Arc::new(AtomicU16::new(first));
    let says = mood.clone();
    (Receiver::start(move |_| status(says.load(Ordering::SeqCst))).await, mood)
}

async fn crm(bench: &Bench) -> Value {
    bench.get("/v1/destinations/default").await
}

async fn until_open(bench: &Bench, reason: &str) {
    wait_for(reason, async || {
        let stands = crm(bench).await;
        let right = stands["breaker"]["reason"].as_str().is_some_and(|why| why.contains(reason));
        (right && stands["breaker"]["state"] != "closed").then_some(())
    })
    .await;
}

/// Advances the clock second by second until `wanted` events are delivered.
async fn deliver(bench: &Bench, wanted: u64) {
    wait_for(&format!("{wanted} are delivered"), async || {
        bench.clock.advance(Duration::from_secs(1));
        (bench.count("/counters/delivered").await == wanted).then_some(())
    })
    .await;
    assert_eq!(bench.count("/counters/dead_lettered").await, 0);
}

/// Accepts `each` events of each interaction, in turn.
async fn accept(bench: &Bench, interactions: usize, each: std::ops::Range<usize>) {
    for n in each {
        for k in 0..interactions {
            bench.accept(&format!("k{k}"), &n.to_string()).await;
        }
    }
}

/// Asserts that within each interaction the accepted requests arrived once and in the order of acceptance.
fn in_order(receiver: &Receiver, taken: impl Fn(usize) -> bool) {
    let mut last: HashMap<String, u64> = HashMap::new();
    for received in receiver.all().iter().filter(|r| taken(r.n)) {
        let before = last.insert(received.interaction().to_owned(), received.sequence());
        assert!(before < Some(received.sequence()), "{} after {before:?}", received.sequence());
    }
}

#[tokio::test]
async fn a_backlog_behind_a_breaker_survives_a_gateway_that_answers_404() {
    let (receiver, mood) = moody(503).await;
    let bench = Bench::with(receiver.to(), Clock::manual(START), defaults).await;
    accept(&bench, 50, 0..6).await;
    wait_for("the breaker is open", async || {
        bench.clock.advance(Duration::from_millis(500));
        (crm(&bench).await["breaker"]["state"] == "open").then_some(())
    })
    .await;
    mood.store(404, Ordering::SeqCst);
    let before = receiver.count();
    bench.clock.advance(Duration::from_secs(30));
    receiver.received(before + 1).await;
    until_open(&bench, "permanent_answers").await;
    mood.store(200, Ordering::SeqCst);
    deliver(&bench, 300).await;
    bench.sound().await;
}

#[tokio::test]
async fn a_short_refusal_of_everything_kills_nothing_and_keeps_order() {
    for code in [404, 401, 403, 302, 405, 410, 407, 451, 426] {
        let failing = Arc::new(AtomicUsize::new(0));
        let (seen, mood) = (Arc::new(std::sync::Mutex::new(Vec::new())), Arc::new(AtomicU16::new(200)));
        let (noted, says, count) = (seen.clone(), mood.clone(), failing.clone());
        let receiver = Receiver::start(move |r| {
            let code = says.load(Ordering::SeqCst);
            noted.lock().unwrap().push((r.n, code));
            count.fetch_add(usize::from(code != 200), Ordering::SeqCst);
            status(code)
        })
        .await;
        let bench = Bench::with(receiver.to(), Clock::manual(START), defaults).await;
        accept(&bench, 10, 0..2).await;
        bench.reaches("/counters/delivered", 20).await;
        mood.store(code, Ordering::SeqCst);
        accept(&bench, 20, 2..5).await;
        until_open(&bench, "permanent_answers").await;
        mood.store(200, Ordering::SeqCst);
        deliver(&bench, 80).await;
        assert!(failing.load(Ordering::SeqCst) >= 10, "{code}");
        let taken: Vec<usize> = seen.lock().unwrap().iter().filter(|(_, code)| *code == 200).map(|(n, _)| *n).collect();
        in_order(&receiver, |n| taken.contains(&n));
    }
}

#[tokio::test]
async fn a_content_status_for_everything_kills_only_the_first_few() {
    let (receiver, mood) = moody(200).await;
    let bench = Bench::with(receiver.to(), Clock::manual(START), defaults).await;
    accept(&bench, 10, 0..2).await;
    bench.reaches("/counters/delivered", 20).await;
    mood.store(400, Ordering::SeqCst);
    accept(&bench, 60, 2..3).await;
    until_open(&bench, "permanent_answers").await;
    let dead = bench.count("/dlq/depth").await;
    assert!(dead < 10, "{dead}");
    mood.store(200, Ordering::SeqCst);
    wait_for("all others are delivered", async || {
        bench.clock.advance(Duration::from_secs(1));
        (bench.count("/counters/delivered").await == 80 - dead).then_some(())
    })
    .await;
    bench.sound().await;
}

#[tokio::test]
async fn one_refused_event_in_fifty_dies_and_affects_no_other() {
    let receiver = Receiver::start(|r| status(if r.sequence() % 50 == 0 { 422 } else { 200 })).await;
    let bench = Bench::with(receiver.to(), Clock::manual(START), defaults).await;
    accept(&bench, 200, 0..1).await;
    bench.reaches("/counters/delivered", 196).await;
    bench.reaches("/dlq/depth", 4).await;
    assert_eq!(receiver.count(), 200, "each once");
    assert_eq!(crm(&bench).await["breaker"]["state"], "closed");
}

#[tokio::test]
async fn one_event_with_repeated_404_dies_while_others_succeed() {
    let receiver = Receiver::start(|r| status(if r.sequence() == 1 { 404 } else { 200 })).await;
    let bench = Bench::with(receiver.to(), Clock::manual(START), defaults).await;
    let lost = bench.accept("lost", "1").await;
    bench.becomes(&lost, "delayed").await;
    let behind = bench.accept("lost", "behind").await;
    for n in 0..400 {
        bench.accept("other", &n.to_string()).await;
        bench.reaches("/queue/in_flight", 0).await;
        bench.clock.advance(Duration::from_secs(2));
        if bench.count("/dlq/depth").await == 1 {
            break;
        }
    }
    let dead_letter = bench.get(&format!("/v1/dlq/{lost}")).await;
    assert_eq!(dead_letter["reason"], json!("permanent"), "{dead_letter}");
    let passed = bench.clock.now().since(START);
    assert!(passed >= Duration::from_secs(300), "not before `permanent_after`: {passed:?}");
    bench.becomes(&behind, "delivered").await;
}

#[tokio::test]
async fn a_quiet_site_survives_an_outage_with_one_event_a_minute() {
    for down in [503, 500, 404] {
        let (receiver, mood) = moody(down).await;
        let mut bench = Bench::with(receiver.to(), Clock::manual(START), defaults).await;
        for minute in 0..25 {
            bench.accept(&format!("k{minute}"), &minute.to_string()).await;
            for _ in 0..6 {
                bench.clock.advance(Duration::from_secs(10));
                bench.reaches("/queue/in_flight", 0).await;
            }
            if minute == 12 {
                bench.restart().await;
            }
        }
        let stands = crm(&bench).await;
        assert_ne!(stands["breaker"]["state"], "closed", "it opens below min_calls: {stands}");
        mood.store(200, Ordering::SeqCst);
        deliver(&bench, 25).await;
        bench.sound().await;
    }
}

#[tokio::test]
async fn an_attempt_that_never_reached_the_destination_is_not_counted() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut bench = Bench::with(Some(format!("http://{gone}/")), Clock::manual(START), |s| {
        s.destinations[0].retry.attempts = Some(2);
    })
    .await;
    let id = bench.accept("k", "1").await;
    for _ in 0..6 {
        bench.becomes(&id, "delayed").await;
        bench.clock.advance(Duration::from_secs(60));
        bench.reaches("/queue/in_flight", 0).await;
    }
    let (receiver, _mood) = moody(503).await;
    let url = receiver.url().parse().unwrap();
    bench.reload(|s| s.destinations[0].url = Some(url)).await.unwrap();
    wait_for("its two attempts", async || {
        bench.clock.advance(Duration::from_secs(300));
        (bench.count("/dlq/depth").await == 1).then_some(())
    })
    .await;
    assert_eq!(receiver.count(), 2);
    let dead_letter = bench.get(&format!("/v1/dlq/{id}")).await;
    assert_eq!(dead_letter["reason"], json!("exhausted"), "{dead_letter}");
}

#[tokio::test]
async fn a_permanently_slow_destination_gets_everything_at_its_pace() {
    let receiver = Receiver::start(|_| held(status(200))).await;
    let bench = Bench::with(receiver.to(), Clock::manual(START), defaults).await;
    accept(&bench, 40, 0..1).await;
    let mut rounds = 0;
    while bench.count("/counters/delivered").await < 40 {
        // a full set of concurrent calls takes 2.3 s
        let in_flight = wait_for("something is in flight", async || {
            let status = bench.status().await;
            let (limit, n) =
                (&status["destinations"][0]["concurrency"]["limit"], status["queue"]["in_flight"].as_u64().unwrap());
            let depth = status["queue"]["depth"].as_u64().unwrap();
            (n > 0 && n == limit.as_u64().unwrap().min(depth)).then_some(n)
        })
        .await;
        let done = bench.count("/counters/delivered").await;
        receiver.received(done as usize + in_flight as usize).await;
        bench.clock.advance(Duration::from_millis(2300));
        receiver.release(in_flight as usize);
        bench.reaches("/counters/delivered", done + in_flight).await;
        rounds += 1;
    }
    assert!(rounds <= 8, "{rounds} rounds of 2.3 s");
    let stands = crm(&bench).await;
    assert_eq!((&stands["breaker"]["state"], &stands["latency"]["slow"]), (&json!("closed"), &Value::Null), "{stands}");
}

#[tokio::test]
async fn an_event_dated_in_the_future_makes_no_other_stale_also_over_a_restart() {
    let dated = |time: Timestamp, n: usize| {
        json!({"eventType": "a.b", "timestamp": time.to_string(), "data": {"interactionId": "k", "n": n}}).to_string()
    };
    let ahead = [1, 59, 61, 86_400, 50 * 365 * 86_400].map(Duration::from_secs);
    for (which, ahead) in ahead.into_iter().enumerate() {
        let receiver = Receiver::good().await;
        let mut bench = Bench::with(receiver.to(), Clock::manual(START), |s| {
            defaults(s);
            s.destinations[0].ordering.on_stale = OnStale::Discard;
        })
        .await;
        assert_eq!(bench.post(dated(START.after(ahead), which).as_bytes()).await.status, 202);
        bench.reaches("/counters/delivered", 1).await;
        bench.restart().await;
        for n in 0..3 {
            bench.clock.advance(Duration::from_secs(1));
            assert_eq!(bench.post(dated(bench.clock.now(), 100 + n).as_bytes()).await.status, 202);
        }
        bench.reaches("/counters/delivered", 4).await;
        assert_eq!(bench.count("/counters/discarded").await, 0, "{ahead:?}");
        // an event that is really late is still recognised
        assert_eq!(bench.post(dated(START.before(Duration::from_secs(60)), 200).as_bytes()).await.status, 202);
        bench.reaches("/counters/discarded", 1).await;
    }
}
