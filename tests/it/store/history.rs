//! History: retention, limits, and the report of events that are dropped early.

use crate::harness::bench::{Bench, START, body, wait_for};
use crate::harness::receiver::{Receiver, held, status};
use holdline::clock::Clock;
use serde_json::json;
use std::time::Duration;

const MAX: u64 = 20_000;

#[tokio::test]
async fn history_over_its_limit_drops_the_oldest_and_reports_it() {
    let receiver = Receiver::start(|r| if r.interaction() == "stuck" { held(status(200)) } else { status(200) }).await;
    let clock = Clock::manual(START);
    let mut bench = Bench::with(receiver.to(), clock.clone(), |s| s.history.max_bytes = MAX).await;
    for n in 0..100 {
        bench.accept("k", &n.to_string()).await;
    }
    bench.reaches("/counters/delivered", 100).await;
    assert_eq!(bench.count("/history/forgotten_early").await, 0);
    assert_eq!(bench.post(&body("k", "0")).await.json()["status"], "duplicate");
    for n in 100..400 {
        bench.accept("k", &n.to_string()).await;
        clock.advance(Duration::from_secs(2));
    }
    bench.reaches("/counters/delivered", 400).await;
    wait_for("history is within its limit", async || (bench.count("/history/bytes").await <= MAX).then_some(())).await;
    let early = bench.count("/history/forgotten_early").await;
    assert_eq!(early + bench.count("/history/events").await, 400);
    assert!((100..350).contains(&early), "{early}");
    assert_eq!(bench.post(&body("k", "0")).await.json()["status"], "queued", "history no longer contains it");
    assert_eq!(bench.post(&body("k", "399")).await.json()["status"], "duplicate");
    let what = wait_for("the audit has an entry", async || {
        let audit = bench.get("/v1/audit").await;
        let what = audit["items"][0]["what"].as_str().map(str::to_owned);
        what.filter(|what| what.contains("events left it early"))
    })
    .await;
    assert!(what.starts_with("history: "), "{what}");
    let metrics = bench.admin("GET", "/metrics", b"").await.text();
    assert!(metrics.contains(&format!("holdline_history_forgotten_early_total {early}")), "{metrics}");
    bench.sound().await;
    bench.restart().await;
    bench.sound().await;
    assert_eq!(bench.post(&body("k", "399")).await.json()["status"], "duplicate");
}

#[tokio::test]
async fn waiting_events_are_never_dropped_from_history() {
    let clock = Clock::manual(START);
    let mut bench = Bench::with(None, clock.clone(), |s| s.history.max_bytes = MAX).await;
    let first = bench.accept("k", "first").await;
    for n in 0..400 {
        bench.accept("k", &n.to_string()).await;
        clock.advance(Duration::from_secs(2));
    }
    assert!(bench.count("/history/bytes").await > MAX);
    assert_eq!(bench.count("/history/forgotten_early").await, 0);
    bench.restart().await;
    assert_eq!(bench.post(&body("k", "first")).await.json(), json!({"status": "duplicate", "id": first}));
    bench.sound().await;
}

#[tokio::test]
async fn settled_events_are_known_for_the_history_retention() {
    let receiver = Receiver::start(|_| status(200)).await;
    let clock = Clock::manual(START);
    let hours = |n: u64| Duration::from_secs(3600 * n);
    let bench = Bench::with(receiver.to(), clock.clone(), |s| {
        s.sources[0].dedup_window = hours(1);
        s.history.retention = hours(48);
    })
    .await;
    let id = bench.accept("k", "1").await;
    bench.becomes(&id, "delivered").await;
    clock.advance(hours(47));
    let again = bench.accept("k", "1").await;
    assert_ne!(again, id, "only a duplicate within the window");
    bench.becomes(&id, "delivered").await;
    clock.advance(hours(2));
    wait_for("the first is dropped", async || {
        bench.accept("k", &bench.clock.now().to_string()).await;
        bench.clock.advance(Duration::from_secs(2));
        (bench.admin("GET", &format!("/v1/events/{id}"), b"").await.status == 404).then_some(())
    })
    .await;
    assert_eq!(bench.count("/history/forgotten_early").await, 0, "not dropped early");
}
