//! Disk space: the possible growth of waiting deliveries is counted, and nothing is sent whose failure could not be stored.

use crate::harness::bench::{Bench, destination, let_pass, wait_for};
use crate::harness::receiver::{Receiver, status};
use holdline::clock::Clock;
use serde_json::json;
use std::time::Duration;

/// Long enough to see that nothing arrives.
const A_WHILE: Duration = Duration::from_millis(150);

#[tokio::test]
async fn without_space_for_failures_nothing_is_sent_and_answers_say_why() {
    let receiver = Receiver::start(|_| status(200)).await;
    let mut bench = Bench::with(receiver.to(), Clock::system(), |_| {}).await;
    bench.change("/v1/destinations/default/pause", json!({"reason": "test"})).await;
    let id = bench.accept("k", "1").await;
    let usual = bench.settings.intake.disk_reserve_bytes;
    bench.stop().await;
    // without ballast, a sixteenth of it is reserved for attempts in flight
    bench.settings.intake.disk_reserve_bytes = 1 << 60;
    bench.open().await;
    bench.change("/v1/destinations/default/resume", json!({})).await;
    wait_for("intake is closed", async || (bench.status().await["intake"]["reason"] == "disk_low").then_some(())).await;
    let holds = &bench.get("/v1/destinations/default").await["blocked_by"];
    assert_eq!((&holds[0]["blocker"], &holds[0]["set_by"]), (&json!("disk"), &json!("daemon")), "{holds}");
    let event = bench.get(&format!("/v1/events/{id}")).await;
    assert_eq!(event["deliveries"][0]["blocked_by"]["blocker"], "disk", "{event}");
    let_pass(A_WHILE).await;
    assert_eq!(receiver.count(), 0);
    // operator commands and the shutdown still work
    bench.change("/v1/dlq/purge", json!({"all": true})).await;
    bench.stop().await;
    bench.settings.intake.disk_reserve_bytes = usual;
    bench.open().await;
    bench.reaches("/counters/delivered", 1).await;
    assert_eq!(receiver.count(), 1);
}

#[tokio::test]
async fn waiting_bytes_include_a_copy_for_each_destination() {
    let receiver = Receiver::start(|_| status(422)).await;
    let to = receiver.to();
    let url = to.clone().unwrap();
    let bench = Bench::with(to, Clock::system(), |s| s.destinations.push(destination("other", &url))).await;
    for name in ["default", "other"] {
        bench.change(&format!("/v1/destinations/{name}/pause"), json!({"reason": "test"})).await;
    }
    assert_eq!(bench.count("/disk/growth_bytes").await, 0);
    // the page compresses it to almost nothing
    let body = json!({"eventId": 1, "data": {"interactionId": "k"}, "pad": "x".repeat(10_000)}).to_string();
    assert_eq!(bench.post(body.as_bytes()).await.status, 202);
    let growth = bench.count("/disk/growth_bytes").await;
    assert!((20_000..24_000).contains(&growth), "{growth}");
    assert!(bench.count("/queue/bytes").await < 2_000);
    bench.change("/v1/destinations/default/resume", json!({})).await;
    bench.reaches("/dlq/depth", 1).await;
    assert_eq!(bench.count("/disk/growth_bytes").await, growth / 2);
    bench.change("/v1/destinations/other/resume", json!({})).await;
    bench.reaches("/dlq/depth", 2).await;
    assert_eq!(bench.count("/disk/growth_bytes").await, 0);
    assert!(bench.count("/dlq/bytes").await < 4_000, "a dead letter is compressed like its page");
}

#[tokio::test]
async fn the_ballast_is_allocated_counted_and_released() {
    use std::os::unix::fs::MetadataExt;
    let mut bench = Bench::with(None, Clock::system(), |s| s.store.ballast_bytes = 2 << 20).await;
    wait_for("the ballast is allocated", async || (bench.count("/disk/ballast_bytes").await == 2 << 20).then_some(()))
        .await;
    let file = bench.folder.path().join("ballast");
    assert!(std::fs::metadata(&file).unwrap().blocks() * 512 >= 2 << 20);
    bench.stop().await;
    bench.settings.store.ballast_bytes = 0;
    bench.open().await;
    assert_eq!(bench.count("/disk/ballast_bytes").await, 0);
    assert_eq!(std::fs::metadata(&file).unwrap().len(), 0);
}
