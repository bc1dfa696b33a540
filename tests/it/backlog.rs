//! A backlog larger than what is kept in memory: it lies on disk, comes back in order, and leaves nothing behind.

use crate::harness::{Bench, wait_for};
use crate::receiver::{Receiver, status};
use holdline::clock::Clock;
use serde_json::{Value, json};
use std::collections::HashMap;

const EVENTS: usize = 9_000;
const BATCH: usize = 500;

fn batch(from: usize, interactions: usize) -> Vec<u8> {
    let event = |n: usize| json!({"specversion": "1.0", "id": n.to_string(), "source": "s", "type": "t", "subject": format!("k{}", n % interactions), "n": n});
    Value::from((from..from + BATCH).map(event).collect::<Vec<_>>()).to_string().into_bytes()
}

#[tokio::test]
async fn i18_a_backlog_beyond_memory_is_delivered_in_order_after_a_restart_while_more_arrives() {
    let receiver = Receiver::start(|r| status(if r.n % 500 == 7 { 503 } else { 200 })).await;
    let mut bench = Bench::with(None, Clock::system(), |s| {
        s.destinations[0].retry.base = std::time::Duration::from_millis(5);
        s.destinations[0].concurrency_max = 16;
    })
    .await;
    // more interactions than are kept ready in memory
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
    assert_eq!(answered, all, "each exactly once");
    assert!(orders.values().all(|order| order.is_sorted()));
    assert_eq!(orders.len(), 8_600);
    bench.sound().await;
    assert_eq!((bench.count("/queue/depth").await, bench.count("/queue/bytes").await), (0, 0));
}
