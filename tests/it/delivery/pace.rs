//! Flow control: holdline reduces the load on a failing destination, other destinations are not affected, and no
//! event is lost.

use crate::harness::bench::{Bench, START, destination, let_pass};
use crate::harness::receiver::{Act, Receiver, held, status};
use holdline::clock::Clock;
use holdline::config::settings::{Destination, Settings};
use holdline::rules::breaker::Limits;
use holdline::rules::concurrency::Adaptive;
use holdline::rules::rate::Rate;
use serde_json::{Value, json};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// Long enough to see that nothing arrives.
const A_WHILE: Duration = Duration::from_millis(150);
const OPEN_FOR: Duration = Duration::from_secs(30);

fn manual() -> Clock {
    Clock::manual(START)
}

/// The breaker opens after four failures.
fn brittle(settings: &mut Settings) {
    let destination: &mut Destination = &mut settings.destinations[0];
    destination.breaker = Limits { min_calls: 4, probes: 1, open_duration: OPEN_FOR, ..Limits::default() };
    destination.retry.attempts = Some(3);
}

async fn crm(bench: &Bench) -> Value {
    bench.get("/v1/destinations/default").await
}

async fn until_breaker(bench: &Bench, state: &str) -> Value {
    crate::harness::bench::wait_for(state, async || {
        let d = crm(bench).await;
        // the reason of an open breaker is shown after it has been written
        let told = state != "open" || d["breaker"]["reason"].is_string();
        (told && d["breaker"]["state"] == state).then_some(d)
    })
    .await
}

#[tokio::test]
async fn i12_an_open_breaker_sends_nothing_costs_no_attempt_and_survives_a_crash() {
    let up = Arc::new(AtomicU16::new(503));
    let says = up.clone();
    let receiver = Receiver::start(move |_| status(says.load(Ordering::SeqCst))).await;
    let clock = manual();
    let mut bench = Bench::with(receiver.to(), clock.clone(), brittle).await;
    for n in 0..10 {
        bench.accept(&format!("k{n}"), &n.to_string()).await;
    }
    let open = until_breaker(&bench, "open").await;
    assert_eq!(open["breaker"]["set_by"], Value::Null);
    assert!(open["breaker"]["reason"].as_str().unwrap().contains("calls failed"), "{open}");
    assert_eq!(open["blocked_by"][0]["blocker"], "breaker");
    let sent = receiver.count();
    clock.advance(OPEN_FOR - Duration::from_millis(100));
    let_pass(A_WHILE).await;
    assert_eq!(receiver.count(), sent, "not one while it is open");
    bench.crash();
    bench.open().await;
    until_breaker(&bench, "open").await;
    let_pass(A_WHILE).await;
    assert_eq!(receiver.count(), sent, "nor after a crash");
    up.store(200, Ordering::SeqCst);
    clock.advance(Duration::from_secs(1));
    receiver.received(sent + 1).await;
    until_breaker(&bench, "closed").await;
    // the ramp admits them as time passes
    for _ in 0..40 {
        clock.advance(Duration::from_secs(1));
        let_pass(Duration::from_millis(20)).await;
    }
    bench.reaches("/counters/delivered", 10).await;
    assert_eq!(bench.count("/counters/dead_lettered").await, 0, "the time that it was open has cost nobody an attempt");
    bench.sound().await;
}

#[tokio::test]
async fn slow_answers_are_reported_and_block_nothing() {
    let receiver = Receiver::start(|_| held(status(200))).await;
    let clock = manual();
    let bench = Bench::with(receiver.to(), clock.clone(), |s| {
        brittle(s);
        s.destinations[0].timeout = Duration::from_secs(60);
        s.destinations[0].breaker.slow_ratio = 0.3;
    })
    .await;
    // the latency at low load is the baseline, and a response is not slow compared with itself
    for (round, (takes_ms, slow)) in [(2300, false), (2300, false), (9000, true)].into_iter().enumerate() {
        for n in 0..4 {
            bench.accept(&format!("k{n}"), &format!("{round} {n}")).await;
        }
        receiver.received(4 * (round + 1)).await;
        clock.advance(Duration::from_millis(takes_ms));
        receiver.release(4);
        bench.reaches("/counters/delivered", 4 * (round as u64 + 1)).await;
        bench.reaches("/queue/in_flight", 0).await;
        let stands = crm(&bench).await;
        assert_eq!(
            (&stands["breaker"]["state"], stands["latency"]["usual_ms"].as_u64() >= Some(2300)),
            (&json!("closed"), true)
        );
        assert_eq!(stands["latency"]["slow"].is_object(), slow, "{stands}");
    }
}

#[tokio::test]
async fn i12_a_pause_blocks_everything_names_its_author_and_survives_a_restart() {
    let receiver = Receiver::good().await;
    let clock = manual();
    let mut bench = Bench::with(receiver.to(), clock.clone(), |_| {}).await;
    let answer = bench.change("/v1/destinations/default/pause", json!({"reason": "migration", "for": "30m"})).await;
    assert_eq!(answer["until"], START.after(Duration::from_secs(1800)).to_string());
    let id = bench.accept("k", "1").await;
    bench.restart().await;
    let_pass(A_WHILE).await;
    assert_eq!(receiver.count(), 0);
    let event = bench.get(&format!("/v1/events/{id}")).await;
    let waits = &event["deliveries"][0]["blocked_by"];
    assert_eq!(
        (&waits["blocker"], &waits["reason"], &waits["set_by"]),
        (&json!("pause"), &json!("migration"), &json!("admin")),
        "{event}"
    );
    assert_eq!(crm(&bench).await["paused"], true);
    clock.advance(Duration::from_secs(1801));
    bench.reaches("/counters/delivered", 1).await;
    bench.change("/v1/destinations/default/pause", json!({})).await;
    bench.accept("k", "2").await;
    clock.advance(Duration::from_secs(365 * 86_400));
    let_pass(A_WHILE).await;
    assert_eq!(receiver.count(), 1, "without `for` only a hand ends it");
    bench.change("/v1/destinations/default/resume", json!({})).await;
    bench.reaches("/counters/delivered", 2).await;
    assert_eq!(receiver.all()[1].attempt(), 1);
    let audit = bench.get("/v1/audit").await;
    let told: Vec<&str> = audit["items"].as_array().unwrap().iter().map(|a| a["what"].as_str().unwrap()).collect();
    assert_eq!(told, ["resume default", "pause default", "pause default: migration"]);
}

#[tokio::test]
async fn an_operator_forces_the_breaker_either_way() {
    let receiver = Receiver::start(|_| status(503)).await;
    let clock = manual();
    let bench = Bench::with(receiver.to(), clock.clone(), brittle).await;
    bench
        .change("/v1/destinations/default/breaker", json!({"state": "open", "reason": "vendor works", "for": "1h"}))
        .await;
    bench.accept("k", "1").await;
    let d = until_breaker(&bench, "open").await;
    assert_eq!((&d["breaker"]["set_by"], &d["breaker"]["reason"]), (&json!("admin"), &json!("vendor works")));
    let_pass(A_WHILE).await;
    assert_eq!(receiver.count(), 0);
    bench.change("/v1/destinations/default/breaker", json!({"state": "closed", "for": "1h"})).await;
    receiver.received(1).await;
    for n in 2..12 {
        bench.accept(&format!("k{n}"), &n.to_string()).await;
        clock.advance(Duration::from_secs(2));
        receiver.received(n).await;
    }
    assert_eq!(crm(&bench).await["breaker"]["state"], "closed", "it is kept closed");
    for (path, body, code) in [
        ("/v1/destinations/default/breaker", json!({"state": "ajar"}), "invalid_request"),
        ("/v1/destinations/default/breaker", json!({"state": "half_open", "for": "1m"}), "invalid_request"),
        ("/v1/destinations/default/pause", json!({"for": "soon"}), "invalid_request"),
        ("/v1/destinations/nobody/pause", json!({}), "not_found"),
    ] {
        let reply = bench.admin("POST", path, body.to_string().as_bytes()).await;
        assert_eq!(reply.code(), code, "{path} {body}");
    }
}

/// Everything fails, then nothing does: the breaker has just closed. Returns what it had sent until then.
async fn just_closed(bench: &Bench, receiver: &Receiver, up: &AtomicU16, clock: &Clock) -> usize {
    for n in 0..40 {
        bench.accept(&format!("k{n}"), &n.to_string()).await;
    }
    until_breaker(bench, "open").await;
    up.store(200, Ordering::SeqCst);
    let sent = receiver.count();
    clock.advance(OPEN_FOR);
    receiver.received(sent + 1).await;
    receiver.release(1);
    until_breaker(bench, "closed").await;
    receiver.received(sent + 2).await;
    sent + 2
}

#[tokio::test]
async fn i12_a_ramp_continues_over_a_crash() {
    let up = Arc::new(AtomicU16::new(503));
    let says = up.clone();
    let receiver = Receiver::start(move |_| match says.load(Ordering::SeqCst) {
        200 => held(status(200)),
        failure => status(failure),
    })
    .await;
    let clock = manual();
    let mut bench = Bench::with(receiver.to(), clock.clone(), |s| {
        brittle(s);
        s.destinations[0].concurrency_max = 31;
        s.destinations[0].breaker.min_calls = 31;
        s.destinations[0].ramp_up = Duration::from_secs(30);
    })
    .await;
    let sent = just_closed(&bench, &receiver, &up, &clock).await;
    clock.advance(Duration::from_secs(3));
    receiver.received(sent + 3).await;
    let_pass(A_WHILE).await;
    assert_eq!(receiver.count(), sent + 3, "four at once after three of thirty seconds");
    bench.crash();
    bench.open().await;
    receiver.received(sent + 3 + 4).await;
    let_pass(A_WHILE).await;
    assert_eq!(receiver.count(), sent + 3 + 4, "and so many after a crash");
    clock.advance(Duration::from_secs(60));
    receiver.release(100);
    bench.change("/v1/destinations/default/pause", json!({})).await;
    bench.change("/v1/destinations/default/resume", json!({})).await;
    clock.advance(Duration::from_secs(1));
    bench.restart().await;
    assert_eq!(crm(&bench).await["concurrency"]["limit"], 2, "resumed by hand");
    bench.change("/v1/destinations/default/pause", json!({"for": "10s"})).await;
    clock.advance(Duration::from_secs(12));
    bench.restart().await;
    let_pass(A_WHILE).await;
    assert_eq!(crm(&bench).await["concurrency"]["limit"], 3, "it had run out two seconds before");
}

#[tokio::test]
async fn a_rate_is_kept_over_a_crash_and_over_a_stop() {
    // rates, and the delay in ms of the next attempt after the start: where starts are not recorded, the last one is
    // taken to be at the start
    for (count, per, after_ms) in [(6, 60, 10_000 - 1_030), (2, 1, 500)] {
        let receiver = Receiver::good().await;
        let clock = manual();
        let mut bench = Bench::with(receiver.to(), clock.clone(), |s| {
            s.destinations[0].rate = NonZeroU32::new(count).map(|n| Rate::new(n, Duration::from_secs(per)));
        })
        .await;
        bench.accept("k0", "0").await;
        bench.reaches("/counters/delivered", 1).await;
        bench.accept("k1", "1").await;
        bench.accept("k2", "2").await;
        for n in 1..=2 {
            clock.advance(Duration::from_millis(1030));
            if per == 1 {
                receiver.received(n + 1).await;
                bench.reaches("/counters/delivered", n as u64 + 1).await;
                bench.accept("k9", &format!("more {n}")).await;
            }
            if n == 1 {
                bench.crash();
                bench.open().await;
            } else {
                bench.restart().await;
            }
            let_pass(A_WHILE).await;
            let sent = if per == 1 { n + 1 } else { n };
            assert_eq!(receiver.count(), sent, "{count} in {per} s: none at once after a start");
            clock.advance(Duration::from_millis(after_ms - 1));
            let_pass(A_WHILE).await;
            assert_eq!(receiver.count(), sent, "{count} in {per} s: not early");
            clock.advance(Duration::from_millis(1));
            receiver.received(sent + 1).await;
            bench.reaches("/counters/delivered", sent as u64 + 1).await;
            if per == 1 {
                clock.advance(Duration::from_millis(500));
                receiver.received(sent + 2).await;
                bench.reaches("/counters/delivered", sent as u64 + 2).await;
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_reload_does_not_reset_the_rate() {
    let receiver = Receiver::good().await;
    let clock = manual();
    let per_minute = |n| NonZeroU32::new(n).map(|n| Rate::new(n, Duration::from_secs(60)));
    let mut bench = Bench::with(receiver.to(), clock.clone(), |s| s.destinations[0].rate = per_minute(6)).await;
    bench.accept("k0", "0").await;
    bench.reaches("/counters/delivered", 1).await;
    bench.reload(|s| s.destinations[0].rate = per_minute(3)).await.unwrap();
    bench.accept("k1", "1").await;
    clock.advance(Duration::from_millis(19_999));
    let_pass(A_WHILE).await;
    assert_eq!(receiver.count(), 1, "twenty seconds from the last one on");
    clock.advance(Duration::from_millis(1));
    receiver.received(2).await;
    // while starts are not recorded the last record becomes stale, and must not be used later
    bench.reaches("/counters/delivered", 2).await;
    bench.reload(|s| s.destinations[0].rate = None).await.unwrap();
    clock.advance(Duration::from_secs(100));
    bench.accept("k2", "2").await;
    bench.reaches("/counters/delivered", 3).await;
    bench.settings.destinations[0].rate = per_minute(3);
    bench.restart().await;
    bench.accept("k3", "3").await;
    clock.advance(Duration::from_millis(19_999));
    let_pass(A_WHILE).await;
    assert_eq!(receiver.count(), 3);
    clock.advance(Duration::from_millis(1));
    receiver.received(4).await;
}

#[tokio::test]
async fn i12_durations_keep_their_length_over_a_clock_step_between_two_runs() {
    let receiver = Receiver::start(|r| {
        let wait = vec![("Retry-After", "8".to_owned())];
        if r.n == 0 { Act::Answer { status: 429, headers: wait, body: Vec::new() } } else { status(200) }
    })
    .await;
    let clock = manual();
    let mut bench = Bench::with(receiver.to(), clock.clone(), |s| {
        s.destinations.push(destination("paused", "http://127.0.0.1:9/"));
        s.destinations.push(destination("open", "http://127.0.0.1:9/"));
    })
    .await;
    bench.accept("k", "1").await;
    crate::harness::bench::wait_for("the wish is noted", async || {
        (crm(&bench).await["blocked_by"][0]["blocker"] == "retry_after").then_some(())
    })
    .await;
    bench.change("/v1/destinations/paused/pause", json!({"for": "30s"})).await;
    bench.change("/v1/destinations/open/breaker", json!({"state": "open", "for": "30s"})).await;
    bench.change("/v1/intake/close", json!({"for": "30s"})).await;
    bench.crash();
    clock.step(Duration::from_secs(3600));
    bench.open().await;
    clock.advance(Duration::from_millis(7900));
    bench.restart().await;
    let_pass(A_WHILE).await;
    assert_eq!(receiver.count(), 1, "not one early");
    assert_eq!(bench.post(b"{}").await.status, 503);
    clock.advance(Duration::from_millis(200));
    receiver.received(2).await;
    let until = START.after(Duration::from_secs(3600 + 30)).to_string();
    assert_eq!(bench.get("/v1/destinations/open").await["breaker"]["until"], until);
    assert_eq!(bench.get("/v1/destinations/paused").await["blocked_by"][0]["until"], until);
    clock.advance(Duration::from_secs(22));
    crate::harness::bench::wait_for("intake opens", async || (bench.post(b"{}").await.status != 503).then_some(()))
        .await;
    assert_eq!(bench.get("/v1/destinations/paused").await["paused"], false);
}

#[tokio::test]
async fn a_breaker_override_is_shown_while_it_applies() {
    let clock = manual();
    let mut bench = Bench::with(None, clock.clone(), |_| {}).await;
    let force = async |bench: &Bench, body: Value| {
        bench.change("/v1/destinations/default/breaker", body).await;
    };
    let shows = async |bench: &Bench, state: &str, until: Value, why: Value| {
        crate::harness::bench::wait_for(state, async || {
            let breaker = crm(bench).await["breaker"].clone();
            let set_by = if why.is_null() { Value::Null } else { json!("admin") };
            let wanted =
                json!({"state": state, "since": START.to_string(), "until": until, "reason": why, "set_by": set_by});
            (breaker == wanted).then_some(())
        })
        .await;
    };
    force(&bench, json!({"state": "closed", "for": "1h", "reason": "sure"})).await;
    let until = json!(START.after(Duration::from_secs(3600)).to_string());
    shows(&bench, "closed", until.clone(), json!("sure")).await;
    clock.advance(Duration::from_secs(10));
    bench.restart().await;
    shows(&bench, "closed", until, json!("sure")).await;
    clock.advance(Duration::from_secs(3590));
    shows(&bench, "closed", Value::Null, Value::Null).await;
    let clock = manual();
    let mut bench = Bench::with(None, clock.clone(), |_| {}).await;
    force(&bench, json!({"state": "half_open", "reason": "try"})).await;
    shows(&bench, "half_open", Value::Null, json!("try")).await;
    clock.advance(Duration::from_secs(10));
    bench.restart().await;
    shows(&bench, "half_open", Value::Null, json!("try")).await;
}

#[tokio::test]
async fn a_rate_is_kept() {
    let receiver = Receiver::good().await;
    let clock = manual();
    let bench = Bench::with(receiver.to(), clock.clone(), |s| {
        s.destinations[0].rate = NonZeroU32::new(2).map(|two| Rate::new(two, Duration::from_secs(1)));
    })
    .await;
    for n in 0..6 {
        bench.accept(&format!("k{n}"), &n.to_string()).await;
    }
    for n in 1..=6 {
        receiver.received(n).await;
        let_pass(Duration::from_millis(30)).await;
        assert_eq!(receiver.count(), n, "one, and then half a second");
        clock.advance(Duration::from_millis(499));
        let_pass(Duration::from_millis(30)).await;
        assert_eq!(receiver.count(), n);
        clock.advance(Duration::from_millis(1));
    }
}

#[tokio::test]
async fn i12_a_spent_quota_blocks_the_destination_after_a_success() {
    let receiver = Receiver::start(|r| {
        let spent = vec![("X-RateLimit-Remaining", "0".to_owned()), ("X-RateLimit-Reset", "20".to_owned())];
        Act::Answer { status: 200, headers: if r.n == 0 { spent } else { Vec::new() }, body: Vec::new() }
    })
    .await;
    let clock = manual();
    let mut bench = Bench::with(receiver.to(), clock.clone(), |_| {}).await;
    bench.accept("a", "1").await;
    bench.reaches("/counters/delivered", 1).await;
    bench.accept("b", "2").await;
    bench.restart().await;
    clock.advance(Duration::from_millis(19_500));
    let_pass(A_WHILE).await;
    assert_eq!(receiver.count(), 1);
    let hold = &crm(&bench).await["blocked_by"][0];
    assert_eq!((&hold["blocker"], &hold["reason"]), (&json!("retry_after"), &json!("its rate limit is spent")));
    clock.advance(Duration::from_secs(1));
    bench.reaches("/counters/delivered", 2).await;
}

#[tokio::test]
async fn concurrency_finds_its_limit_from_below_and_is_shown() {
    let receiver = Receiver::start(|_| held(status(200))).await;
    let bench = Bench::with(receiver.to(), Clock::system(), |s| s.destinations[0].adaptive = Adaptive::Yes).await;
    for n in 0..40 {
        bench.accept(&format!("k{n}"), &n.to_string()).await;
    }
    receiver.received(4).await;
    let_pass(A_WHILE).await;
    assert_eq!(receiver.count(), 4);
    assert_eq!(crm(&bench).await["concurrency"], json!({"limit": 4, "max": 64, "in_flight": 4}));
    receiver.release(4);
    receiver.received(4 + 5).await;
    receiver.release(100);
    bench.reaches("/counters/delivered", 40).await;
}

#[tokio::test]
async fn pending_deliveries_are_streamed_and_settled_ones_discarded() {
    let (down, other) = (Receiver::start(|_| status(503)).await, Receiver::good().await);
    let bench = Bench::with(down.to(), manual(), |s| s.destinations.push(destination("other", &other.url()))).await;
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(bench.accept("k", &n.to_string()).await);
    }
    down.received(1).await;
    bench.becomes(&ids[0], "delayed").await;
    let lines = bench.admin("GET", "/v1/destinations/default/pending", b"").await;
    let lines: Vec<Value> = lines.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().map(|l| l["id"].as_str().unwrap()).collect::<Vec<_>>(), ids);
    assert_eq!((&lines[0]["attempts"], &lines[1]["attempts"]), (&json!(1), &json!(0)));
    assert!(lines[2]["body"].as_str().unwrap().contains("\"k\""), "{}", lines[2]);
    let body = json!({"ids": ids[..3], "reason": "entered by hand, ticket 7"});
    let refused = bench
        .admin("POST", "/v1/destinations/default/discard", json!({"ids": ids, "reason": " "}).to_string().as_bytes())
        .await;
    assert_eq!(refused.code(), "invalid_request");
    assert_eq!(
        bench.change("/v1/destinations/default/discard", body.clone()).await,
        json!({"matched": 3, "done": 3, "destinations": {"default": 3}})
    );
    assert_eq!(
        bench.change("/v1/destinations/default/discard", body).await,
        json!({"matched": 0, "done": 0, "destinations": {}}),
        "twice is once"
    );
    bench.reaches("/counters/discarded", 3).await;
    // the fourth is the first now
    down.received(2).await;
    assert_eq!(down.all()[1].id(), ids[3]);
    bench.reaches("/counters/delivered", 5).await;
    assert_eq!(bench.get("/v1/audit").await["items"][0]["what"], "discard for default: entered by hand, ticket 7");
    bench.sound().await;
}
