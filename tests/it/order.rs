//! Order by the times in the events: what comes too late, and what becomes of it.

use crate::harness::{Bench, START, destination};
use crate::receiver::{Received, Receiver, status};
use holdline::clock::Clock;
use holdline::rules::staleness::OnStale;
use holdline::time::Timestamp;
use serde_json::json;
use std::sync::atomic::{AtomicU32, Ordering};

/// Sends an event that says when it happened, in seconds after the start of the clock; returns its id.
async fn accept(bench: &Bench, interaction: &str, time: Option<i64>, kind: &str) -> String {
    // no two are alike, so none is taken for a duplicate
    static EVENTS: AtomicU32 = AtomicU32::new(0);
    let n = EVENTS.fetch_add(1, Ordering::SeqCst);
    let mut json = json!({"eventType": kind, "data": {"interactionId": interaction, "n": n}});
    if let Some(time) = time {
        json["timestamp"] = Timestamp((START.0 as i64 + time * 1000) as u64).to_string().into();
    }
    let reply = bench.post(json.to_string().as_bytes()).await;
    assert_eq!(reply.status, 202, "{}", reply.text());
    reply.json()["id"].as_str().unwrap().to_owned()
}

/// Sends an event and waits until its first delivery is in this state.
async fn ends(bench: &Bench, interaction: &str, time: Option<i64>, state: &str) -> String {
    let id = accept(bench, interaction, time, "a.b").await;
    bench.becomes(&id, state).await;
    bench.reaches("/queue/in_flight", 0).await;
    id
}

fn is_flagged(received: &Received) -> bool {
    received.header("holdline-stale").inspect(|value| assert_eq!(*value, "true")).is_some()
}

fn flags(receiver: &Receiver) -> Vec<bool> {
    receiver.all().iter().map(is_flagged).collect()
}

#[tokio::test]
async fn stale_events_are_flagged_also_after_a_stop_and_a_crash() {
    let receiver = Receiver::good().await;
    let mut bench = Bench::with(receiver.to(), Clock::manual(START), |_| {}).await;
    let mut wanted = Vec::new();
    for round in 0..3 {
        for (interaction, time, flagged) in [
            ("k", Some(100), false),
            ("k", Some(99), true),
            ("other", Some(1), false),
            ("k", None, false),
            ("k", Some(50), true),
            ("k", Some(100), false),
        ] {
            ends(&bench, interaction, time, "delivered").await;
            wanted.push(flagged);
            assert_eq!(flags(&receiver), wanted, "round {round}");
        }
        // begins with what is stale against the life before
        match round {
            0 => bench.restart().await,
            _ => {
                bench.crash();
                bench.open().await;
            }
        }
        ends(&bench, "k", Some(98), "delivered").await;
        wanted.push(true);
        assert_eq!(flags(&receiver), wanted, "after round {round}");
    }
    bench.sound().await;
}

#[tokio::test]
async fn a_stale_event_is_delivered_or_discarded_as_is_set() {
    for (on_stale, state) in [(OnStale::Deliver, "delivered"), (OnStale::Discard, "discarded")] {
        let receiver = Receiver::good().await;
        let mut bench = Bench::with(receiver.to(), Clock::manual(START), |settings| {
            settings.destinations[0].ordering.on_stale = on_stale;
        })
        .await;
        ends(&bench, "k", Some(100), "delivered").await;
        ends(&bench, "k", Some(99), state).await;
        bench.restart().await;
        ends(&bench, "k", Some(98), state).await;
        ends(&bench, "k", Some(101), "delivered").await;
        let discarded = if on_stale == OnStale::Discard { 2 } else { 0 };
        assert_eq!(bench.count("/counters/discarded").await, discarded);
        assert_eq!(flags(&receiver), vec![false; 4 - discarded as usize]);
        bench.sound().await;
    }
}

#[tokio::test]
async fn a_stale_event_is_a_dead_letter_and_is_sent_when_it_is_redriven() {
    let receiver = Receiver::good().await;
    let mut bench = Bench::with(receiver.to(), Clock::manual(START), |settings| {
        settings.destinations[0].ordering.on_stale = OnStale::DeadLetter;
    })
    .await;
    ends(&bench, "k", Some(100), "delivered").await;
    let stale = ends(&bench, "k", Some(99), "dead").await;
    let letter = bench.get(&format!("/v1/dlq/{stale}")).await;
    assert_eq!((&letter["reason"], &letter["attempts"]), (&json!("stale"), &json!([])), "{letter}");
    bench.restart().await;
    assert_eq!(receiver.count(), 1);
    bench.change("/v1/dlq/redrive", json!({"ids": [stale]})).await;
    bench.becomes(&stale, "delivered").await;
    let sent = &receiver.of(&stale)[0];
    assert_eq!((is_flagged(sent), sent.header("holdline-redriven")), (true, Some("true")));
    // what was sent late is not the newest
    ends(&bench, "k", Some(99), "dead").await;
    bench.sound().await;
}

#[tokio::test]
async fn an_event_is_stale_only_where_a_newer_one_was_delivered() {
    // the second destination fails at first, so it has had nothing newer
    let receiver = Receiver::good().await;
    let failing = Receiver::start(|r| status(if r.sequence() == 1 { 400 } else { 200 })).await;
    let bench = Bench::with(receiver.to(), Clock::manual(START), |settings| {
        settings.destinations.push(destination("second", &failing.url()));
    })
    .await;
    for time in [100, 99] {
        ends(&bench, "k", Some(time), "delivered").await;
    }
    failing.received(2).await;
    assert_eq!(flags(&receiver), [false, true]);
    assert_eq!(flags(&failing), [false, false]);
}
