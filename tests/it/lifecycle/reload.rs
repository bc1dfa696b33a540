//! A reload changes the destinations of a running daemon: order, retry-after times and waiting deliveries are preserved.

use crate::harness::bench::{Bench, START, destination, wait_for};
use crate::harness::receiver::{Received, Receiver, held, retry_after, status};
use holdline::clock::Clock;
use holdline::config::settings::OnDeadLetter;
use serde_json::json;
use std::time::Duration;

#[tokio::test]
async fn i13_a_destination_moves_and_its_interactions_keep_their_order() {
    let old = Receiver::start(|_| held(status(200))).await;
    let new = Receiver::good().await;
    let mut bench = Bench::start(old.to()).await;
    let first = bench.accept("k", "1").await;
    bench.becomes(&first, "in_flight").await;
    let second = bench.accept("k", "2").await;
    let url = new.url();
    bench.reload(|s| s.destinations[0].url = Some(url.parse().unwrap())).await.unwrap();
    let other = bench.accept("other", "3").await;
    bench.becomes(&other, "delivered").await;
    assert_eq!(bench.becomes(&second, "blocked").await["blocked_by"]["blocker"], "order", "behind what is under way");
    old.release(1);
    bench.becomes(&second, "delivered").await;
    assert_eq!(old.all().iter().map(Received::sequence).collect::<Vec<_>>(), [1]);
    assert_eq!(new.all().iter().map(Received::sequence).collect::<Vec<_>>(), [3, 2]);
    assert_eq!(bench.count("/destinations/0/counters/delivered").await, 3);
    bench.sound().await;
}

#[tokio::test]
async fn i12_retry_after_and_overrides_survive_a_reload() {
    let receiver =
        Receiver::start(|r| if r.sequence() == 1 && r.attempt() == 1 { retry_after(503, 60) } else { status(200) })
            .await;
    let mut bench = Bench::with(receiver.to(), Clock::manual(START), |_| {}).await;
    let first = bench.accept("a", "1").await;
    bench.becomes(&first, "delayed").await;
    bench.change("/v1/destinations/default/pause", json!({"reason": "migration", "for": "2m"})).await;
    bench.reload(|s| s.destinations[0].timeout = Duration::from_secs(7)).await.unwrap();
    bench.accept("b", "2").await;
    bench.clock.advance(Duration::from_secs(61));
    let stands = bench.get("/v1/destinations/default").await;
    assert_eq!(
        (&stands["paused"], &stands["blocked_by"][0]["reason"]),
        (&json!(true), &json!("migration")),
        "{stands}"
    );
    assert_eq!(receiver.count(), 1);
    bench.change("/v1/destinations/default/resume", json!({})).await;
    bench.clock.advance(Duration::from_secs(60)); // longer than the backoff of the first
    wait_for("both go", async || (receiver.count() >= 3).then_some(())).await;
    bench.sound().await;
}

#[tokio::test]
async fn a_new_destination_gets_only_later_events() {
    let (one, two) = (Receiver::start(|_| held(status(200))).await, Receiver::good().await);
    let mut bench = Bench::start(one.to()).await;
    bench.accept("k", "1").await;
    let joining = destination("second", &two.url());
    bench.reload(|s| s.destinations.push(joining)).await.unwrap();
    for id in ["2", "3"] {
        bench.accept("k", id).await;
    }
    let all = two.received(2).await;
    assert_eq!(all.iter().map(Received::sequence).collect::<Vec<_>>(), [2, 3], "nothing of before");
    assert_eq!(bench.count("/destinations/1/counters/accepted").await, 2);
    one.release(3);
    bench.restart().await;
    bench.accept("k", "4").await;
    two.received(3).await;
    bench.sound().await;
}

#[tokio::test]
async fn i21_a_destination_is_removed_only_when_nothing_waits_for_it() {
    let (one, two) = (Receiver::good().await, Receiver::start(|_| status(503)).await);
    let mut bench = Bench::with(one.to(), Clock::manual(START), |_| {}).await;
    let leaving = destination("leaving", &two.url());
    bench.reload(|s| s.destinations.push(leaving)).await.unwrap();
    for n in 0..3 {
        bench.accept(&format!("k{n}"), "1").await;
    }
    bench.accept("k0", "2").await;
    two.received(3).await;
    let refused = bench.reload(|s| drop(s.destinations.pop())).await.unwrap_err();
    for part in ["`leaving`", "4 of its deliveries wait", "holdline discard leaving --all"] {
        assert!(refused.contains(part), "{refused}");
    }
    let path = "/v1/destinations/leaving/discard";
    wait_for("three wait for their time", async || {
        (bench.get("/v1/destinations/leaving").await["queue"]["delayed"] == 3).then_some(())
    })
    .await;
    for wrong in [json!({"reason": "w"}), json!({"reason": "w", "ids": [], "all": true}), json!({"all": true})] {
        assert_eq!(bench.admin("POST", path, wrong.to_string().as_bytes()).await.status, 400, "{wrong}");
    }
    let all = json!({"all": true, "reason": "it is gone", "dry_run": true});
    let dry = bench.change(path, all).await;
    assert_eq!((&dry["matched"], &dry["done"], &dry["destinations"]), (&json!(4), &json!(0), &json!({"leaving": 4})));
    assert_eq!(
        bench.change(path, json!({"all": true, "reason": "it is gone"})).await,
        json!({"matched": 4, "done": 4, "destinations": {"leaving": 4}})
    );
    assert_eq!(bench.count("/counters/discarded").await, 4);
    bench.reload(|s| drop(s.destinations.pop())).await.unwrap();
    assert_eq!(bench.admin("GET", "/v1/destinations/leaving", b"").await.status, 404);
    bench.accept("k0", "3").await;
    one.received(5).await;
    assert_eq!(two.count(), 3);
    let again = destination("leaving", &two.url());
    let refused = bench.reload(|s| s.destinations.push(again)).await.unwrap_err();
    assert!(refused.contains("was configured before; a restart is needed"), "{refused}");
    bench.sound().await;
}

#[tokio::test]
async fn i21_a_fault_in_one_destination_applies_no_change() {
    let receiver = Receiver::good().await;
    let mut bench = Bench::start(receiver.to()).await;
    let nobody = destination("nobody", "http://127.0.0.1:9/");
    let refused = bench
        .reload(|s| {
            s.destinations[0].url = nobody.url.clone();
            s.destinations[0].ordering.on_dead_letter = OnDeadLetter::Hold;
        })
        .await
        .unwrap_err();
    assert!(refused.contains("ordering of `default`"), "{refused}");
    let refused = bench
        .reload(|s| {
            s.destinations[0].url = nobody.url.clone();
            s.destinations.push(nobody.clone());
            s.destinations[1].tls.ca = Some("/nowhere.pem".into());
            s.destinations[1].url = Some("https://127.0.0.1:9/".parse().unwrap());
        })
        .await
        .unwrap_err();
    assert!(refused.contains("`nobody`") && refused.contains("/nowhere.pem"), "{refused}");
    let id = bench.accept("k", "1").await;
    bench.becomes(&id, "delivered").await;
    assert_eq!(receiver.count(), 1);
    assert_eq!(bench.get("/v1/destinations").await["items"].as_array().unwrap().len(), 1);
}
