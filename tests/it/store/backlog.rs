//! A backlog larger than the memory limit is read from disk in order, and its disk space is released.

use crate::harness::bench::{Bench, START, body, source, wait_for};
use crate::harness::receiver::{Receiver, status};
use holdline::clock::Clock;
use holdline::config::settings::Destination;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Duration;

const EVENTS: usize = 9_000;
const BATCH: usize = 500;

fn batch(from: usize, interactions: usize) -> Vec<u8> {
    let event = |n: usize| json!({"specversion": "1.0", "id": n.to_string(), "source": "s", "type": "t", "subject": format!("k{}", n % interactions), "n": n});
    Value::from((from..from + BATCH).map(event).collect::<Vec<_>>()).to_string().into_bytes()
}

#[tokio::test]
async fn i18_a_backlog_beyond_memory_is_delivered_in_order_after_a_restart() {
    let receiver = Receiver::start(|r| status(if r.n % 500 == 7 { 503 } else { 200 })).await;
    let mut bench = Bench::with(None, Clock::system(), |s| {
        s.destinations[0].retry.base = Duration::from_millis(5);
        s.destinations[0].concurrency_max = 16;
    })
    .await;
    // more interactions than the scheduler keeps in memory
    for from in (0..EVENTS).step_by(BATCH) {
        let reply = bench.post(&batch(from, 8_600)).await;
        assert_eq!(reply.json()["accepted"], json!(BATCH), "{}", reply.text());
    }
    assert_eq!(bench.count("/queue/depth").await, EVENTS as u64);
    bench.stop().await;
    bench.settings.destinations[0].url = Some(receiver.url().parse().unwrap());
    bench.open().await;
    let reply = bench.post(&batch(EVENTS, 8_600)).await;
    assert_eq!(reply.json()["accepted"], json!(BATCH));
    let all = EVENTS + BATCH;
    wait_for("everything is delivered", async || {
        (bench.count("/counters/delivered").await == all as u64).then_some(())
    })
    .await;
    let mut orders: HashMap<String, Vec<u64>> = HashMap::new();
    let mut answered = 0;
    for received in receiver.all().iter().filter(|r| r.n % 500 != 7) {
        orders.entry(received.interaction().to_owned()).or_default().push(received.sequence());
        answered += 1;
    }
    assert_eq!(answered, all, "each is delivered exactly once");
    assert!(orders.values().all(|order| order.is_sorted()));
    assert_eq!(orders.len(), 8_600);
    bench.sound().await;
    assert_eq!((bench.count("/queue/depth").await, bench.count("/queue/bytes").await), (0, 0));
}

#[tokio::test]
async fn i18_an_event_behind_a_long_history_is_shown_and_delivered() {
    let receiver = Receiver::good().await;
    let mut bench = Bench::with(receiver.to(), Clock::manual(START), |s| {
        s.sources[0].to = vec!["default".to_owned()];
        s.sources.push(source("blocked", "auto"));
        s.sources[1].to = vec!["later".to_owned()];
        s.destinations.push(Destination::named("later"));
        s.sources.iter_mut().for_each(|source| source.dedup_window = Duration::from_secs(60));
    })
    .await;
    let reply = bench.post_as("blocked", &[], &body("k", "waits")).await.json();
    let id = reply["id"].as_str().unwrap();
    // its page is sparse once enough events follow, so its delivery moves to the delay tree
    for from in (0..17_500).step_by(BATCH) {
        bench.clock.advance(Duration::from_secs(30));
        assert_eq!(bench.post(&batch(from, 1_000)).await.status, 202);
        wait_for("most are delivered", async || (bench.count("/queue/depth").await < 2_000).then_some(())).await;
    }
    bench.reaches("/counters/delivered", 17_500).await;
    bench.accept("one more", "commit").await;
    bench.reaches("/counters/delivered", 17_501).await;
    for _ in 0..2 {
        assert_eq!(bench.becomes(id, "queued").await["blocked_by"]["blocker"], json!("no_url"));
        let listed = bench.get("/v1/events?state=queued").await;
        assert_eq!((listed["items"].as_array().unwrap().len(), &listed["items"][0]["id"]), (1, &json!(id)));
        assert_eq!(bench.admin("GET", &format!("/v1/events/{id}/body"), b"").await.body, body("k", "waits"));
        bench.restart().await;
    }
    let before = receiver.count();
    bench.stop().await;
    bench.settings.destinations[1].url = Some(receiver.url().parse().unwrap());
    bench.open().await;
    receiver.received(before + 1).await;
    bench.reaches("/queue/depth", 0).await;
    assert_eq!((receiver.count(), receiver.all()[before].id()), (before + 1, id));
    bench.sound().await;
}
