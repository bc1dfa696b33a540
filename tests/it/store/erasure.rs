//! Erasure of one interaction: nothing of it can be read, the counters balance, and other interactions are delivered.

use crate::harness::bench::{Bench, START, source, wait_for};
use crate::harness::process::Process;
use crate::harness::receiver::{Receiver, held, status};
use holdline::clock::Clock;
use holdline::config::settings::OnFault;
use holdline::rules::backoff::Jitter;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Part of every body of the erased interaction.
const CANARY: &str = "7c0ffee5-canary-d41d8cd98f00b204e9800998ecf8427e";
const KEY: &str = "call/4711";

fn event(interaction: &str, id: &str, kind: &str) -> Value {
    let pad = if interaction == KEY { CANARY } else { "-" };
    json!({"eventType": kind, "timestamp": "2026-03-19T22:04:48.128Z", "eventId": id,
        "data": {"interactionId": interaction, "pad": pad}})
}

/// A daemon with a manual clock. The type of an event decides its outcome until the destination is repaired.
async fn bench() -> (Bench, Receiver, Arc<AtomicBool>) {
    let repaired = Arc::new(AtomicBool::new(false));
    let seen = repaired.clone();
    let receiver = Receiver::start(move |r| {
        let kind = r.header("holdline-event-type").unwrap_or_default();
        match kind {
            "stuck" if !seen.load(Ordering::SeqCst) => held(status(200)),
            "dead" if !seen.load(Ordering::SeqCst) => status(422),
            "late" if !seen.load(Ordering::SeqCst) => status(503),
            _ => status(200),
        }
    })
    .await;
    let bench = Bench::with(receiver.to(), Clock::manual(START), |s| {
        s.destinations[0].retry.jitter = Jitter::None;
        s.destinations[0].retry.base = Duration::from_secs(3600);
        s.destinations[0].retry.max = Duration::from_secs(3600);
        s.sources[0].profile = "interaction".to_owned();
        s.sources[0].pointers.split = Some(String::new());
        s.sources.push(source("other", "interaction"));
        s.sources[1].on_invalid_body = OnFault::Quarantine;
    })
    .await;
    (bench, receiver, repaired)
}

/// Sends events in one request, so that they are in one page; returns their ids.
async fn batch(bench: &Bench, events: &[(&str, &str, &str)]) -> Vec<String> {
    let bodies: Vec<Value> = events.iter().map(|(interaction, id, kind)| event(interaction, id, kind)).collect();
    let reply = bench.post(json!(bodies).to_string().as_bytes()).await;
    assert_eq!(reply.status, 202, "{}", reply.text());
    reply.json()["ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

const ERASE: &str = "/v1/interactions/call%2F4711/erase";

fn counts(answer: &Value) -> [u64; 5] {
    ["waiting", "dead", "remembered", "quarantined", "damaged"].map(|key| answer[key].as_u64().unwrap())
}

/// Admin responses that contain the canary or the key, a backup included.
async fn exposures(bench: &Bench) -> Vec<String> {
    let mut found = Vec::new();
    for path in [
        "/v1/events?limit=1000",
        "/v1/dlq?limit=1000",
        "/v1/dlq/export",
        "/v1/destinations/default/pending",
        "/v1/backup",
        "/v1/audit",
        "/v1/quarantine",
    ] {
        let reply = bench.admin("GET", path, b"").await;
        assert_eq!(reply.status, 200, "{path}");
        for word in [CANARY, KEY] {
            if reply.body.windows(word.len()).any(|window| window == word.as_bytes()) {
                found.push(format!("{path}: {word}"));
            }
        }
    }
    found
}

#[tokio::test]
async fn an_erased_interaction_leaves_nothing_and_others_continue() {
    let (mut bench, receiver, repaired) = bench().await;
    let ids = batch(
        &bench,
        &[
            (KEY, "1", "plain"),
            ("other", "2", "late"),
            ("other", "3", "plain"),
            (KEY, "4", "dead"),
            (KEY, "5", "late"),
            (KEY, "6", "plain"),
            (KEY, "7", "plain"),
        ],
    )
    .await;
    bench.becomes(&ids[0], "delivered").await;
    bench.becomes(&ids[1], "delayed").await;
    bench.becomes(&ids[3], "dead").await;
    bench.becomes(&ids[4], "delayed").await;
    let unreadable = format!("not JSON, of {}: {CANARY}", json!(KEY));
    let kept = bench.post_as("other", &[("Content-Type", "application/json")], unreadable.as_bytes()).await;
    assert_eq!(kept.json()["status"], "quarantined");
    assert!(exposures(&bench).await.len() >= 6, "the canary is found before the erasure");
    let before = bench.get("/v1/interactions/call%2F4711").await;
    assert!(before["destinations"][0]["last_delivered"]["sequence"].is_u64(), "{before}");

    let dry = bench.change(ERASE, json!({"dry_run": true})).await;
    assert_eq!(counts(&dry), [3, 1, 5, 1, 0]);
    let done = bench.change(ERASE, json!({"reason": "ticket 12"})).await;
    assert_eq!(counts(&done), [3, 1, 5, 1, 0]);
    bench.sound().await;
    assert_eq!(exposures(&bench).await, Vec::<String>::new());
    for n in [0, 3, 4, 5, 6] {
        for path in [format!("/v1/events/{}", ids[n]), format!("/v1/events/{}/body", ids[n])] {
            assert_eq!(bench.admin("GET", &path, b"").await.status, 404, "{path}");
        }
    }
    let after = bench.get("/v1/interactions/call%2F4711").await;
    assert_eq!(after["destinations"][0]["last_delivered"], Value::Null);
    assert_eq!(after["destinations"][0]["waiting_count"], 0);
    assert_eq!(bench.count("/counters/discarded").await, 4);
    let audit = bench.get("/v1/audit").await;
    let what = format!("erase interaction {}: ticket 12", done["digest"].as_str().unwrap());
    let entries = audit["items"].as_array().unwrap().iter().filter(|entry| entry["what"] == json!(what));
    assert_eq!(entries.map(|entry| entry["count"].as_u64().unwrap()).sum::<u64>(), 10);

    let again = bench.change(ERASE, json!({})).await;
    assert_eq!(counts(&again), [0; 5], "a second erasure finds nothing");
    bench.crash();
    bench.open().await;
    bench.sound().await;
    assert_eq!(exposures(&bench).await, Vec::<String>::new());
    repaired.store(true, Ordering::SeqCst);
    bench.clock.advance(Duration::from_secs(7200));
    for n in [1, 2] {
        bench.becomes(&ids[n], "delivered").await;
    }
    let of_others: Vec<String> =
        receiver.all().iter().filter(|r| r.interaction() == "other").map(|r| r.id().to_owned()).collect();
    assert_eq!(of_others, [&ids[1], &ids[1], &ids[2]].map(Clone::clone), "in order");
    let totals = bench.status().await["counters"].clone();
    assert_eq!((&totals["accepted"], &totals["delivered"], &totals["discarded"]), (&json!(7), &json!(3), &json!(4)));

    let anew = batch(&bench, &[(KEY, "1", "plain"), ("other", "2", "plain")]).await;
    assert_ne!(anew[0], ids[0], "history does not contain it, so it is a new event");
    bench.becomes(&anew[0], "delivered").await;
    bench.sound().await;
}

#[tokio::test]
async fn an_erasure_is_refused_while_a_delivery_is_in_flight() {
    let (bench, receiver, repaired) = bench().await;
    let ids = batch(&bench, &[(KEY, "1", "stuck"), (KEY, "2", "plain"), ("other", "3", "late")]).await;
    bench.becomes(&ids[0], "in_flight").await;
    let refused = bench.admin("POST", ERASE, b"").await;
    assert_eq!((refused.status, refused.code().as_str()), (409, "conflict"));
    assert!(refused.text().contains("1 events of it are being delivered"), "{}", refused.text());
    assert_eq!(bench.admin("GET", &format!("/v1/events/{}", ids[1]), b"").await.status, 404, "the others are erased");
    bench.becomes(&ids[0], "in_flight").await;
    repaired.store(true, Ordering::SeqCst);
    receiver.release(1);
    bench.becomes(&ids[0], "delivered").await;
    let done = bench.change(ERASE, json!({})).await;
    assert_eq!(counts(&done), [0, 0, 1, 0, 0]);
    assert_eq!(bench.get("/v1/interactions/call%2F4711").await["destinations"][0]["last_delivered"], Value::Null);
    assert_eq!(exposures(&bench).await, Vec::<String>::new());
    bench.clock.advance(Duration::from_secs(7200));
    bench.becomes(&ids[2], "delivered").await;
    bench.sound().await;
}

#[tokio::test]
async fn a_large_interaction_is_erased_in_parts_during_intake() {
    let (bench, _receiver, repaired) = bench().await;
    let mut first = Vec::new();
    for n in 0..40 {
        let ids = batch(&bench, &[(KEY, &format!("a{n}"), "late"), ("other", &format!("b{n}"), "late")]).await;
        first = if n == 0 { ids } else { first };
    }
    // then nothing is in flight, which would need a second erasure
    for id in &first {
        bench.becomes(id, "delayed").await;
    }
    let (done, ()) = tokio::join!(bench.change(ERASE, json!({})), async {
        for n in 0..20 {
            batch(&bench, &[("other", &format!("c{n}"), "late")]).await;
        }
    });
    assert_eq!(counts(&done)[..3], [40, 0, 40]);
    let entries = bench.get("/v1/audit").await["items"].as_array().unwrap().len();
    // a row rewritten during the scan is found by the next scan, which adds a part
    assert!((5..=8).contains(&entries), "an entry for each part: {entries}");
    bench.sound().await;
    repaired.store(true, Ordering::SeqCst);
    bench.clock.advance(Duration::from_secs(7200));
    wait_for("all others are delivered", async || (bench.count("/counters/delivered").await == 60).then_some(())).await;
    assert_eq!(exposures(&bench).await, Vec::<String>::new());
    bench.sound().await;
}

#[tokio::test]
async fn the_command_lists_what_was_erased_and_not_reached() {
    let receiver = Receiver::start(|_| status(422)).await;
    let process = Process::start(&receiver.url(), "").await;
    process.accept("k", "1").await;
    process.has_dead(1).await;
    let unasked = process.run(&["erase", "--interaction", "k"]).await;
    assert_eq!(unasked.code, 2, "without a terminal it needs --yes: {unasked:?}");
    let dry = process.run(&["erase", "--interaction", "k", "--dry-run", "--json"]).await;
    assert_eq!((dry.code, serde_json::from_str::<Value>(&dry.out).unwrap()["dead"].as_u64()), (0, Some(1)));
    let done = process.run(&["erase", "--interaction", "k", "--reason", "ticket 7", "--yes"]).await;
    assert!(done.code == 0 && done.out.contains("1 dead letters, 1 events remembered"), "{done:?}");
    assert!(done.out.contains("not reached: ") && done.err.is_empty(), "{done:?}");
    process.has_dead(0).await;
}
