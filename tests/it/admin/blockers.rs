//! What the API reports about an event and a destination: the location of the event, every blocker that applies, and
//! no other.

use crate::harness::bench::{Bench, START, request};
use crate::harness::receiver::{Act, Receiver, held, retry_after, status};
use holdline::clock::Clock;
use holdline::config::Secret;
use holdline::config::settings::{NamedToken, OnDeadLetter, Scope};
use holdline::rules::backoff::Jitter;
use serde_json::{Value, json};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

fn after(time: Duration) -> Value {
    json!(START.after(time).to_string())
}

/// The blockers of a list, in its order.
fn gates(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|held| held["blocker"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_dead_letter_shows_reason_time_and_last_answer() {
    let receiver = Receiver::start(|r| match (r.interaction(), r.attempt()) {
        ("exhausted", 1) => status(503),
        ("exhausted", _) => Act::Reset,
        _ => status(422),
    })
    .await;
    let bench = Bench::with(receiver.to(), Clock::manual(START), |s| {
        s.destinations[0].retry.jitter = Jitter::None;
        s.destinations[0].retry.attempts = Some(2);
        s.destinations[0].retry.base = MINUTE;
    })
    .await;
    let permanent = bench.accept("permanent", "1").await;
    let dead = bench.becomes(&permanent, "dead").await;
    assert_eq!((&dead["reason"], &dead["settled_at"]), (&json!("permanent"), &after(Duration::ZERO)));
    assert_eq!((&dead["outcome"], &dead["status"]), (&json!("answered"), &json!(422)));
    assert_eq!((dead["attempts"].as_array().unwrap().len(), &dead["attempts"][0]["status"]), (1, &json!(422)));
    let exhausted = bench.accept("exhausted", "2").await;
    bench.becomes(&exhausted, "delayed").await;
    bench.clock.advance(MINUTE);
    let dead = bench.becomes(&exhausted, "dead").await;
    assert_eq!((&dead["reason"], &dead["settled_at"]), (&json!("exhausted"), &after(MINUTE)));
    assert_eq!((&dead["outcome"], &dead["status"]), (&json!("broken"), &Value::Null));
    assert!(dead["error"].as_str().is_some_and(|error| !error.is_empty()), "{dead}");
    let listed = &bench.get("/v1/events?state=dead").await["items"][0]["deliveries"][0];
    assert_eq!((&listed["reason"], &listed["attempts"]), (&json!("permanent"), &json!(1)), "a list tells how many");
}

#[tokio::test]
async fn a_delivery_in_flight_shows_its_start_and_deadline() {
    let receiver = Receiver::start(|_| held(status(200))).await;
    let bench = Bench::with(receiver.to(), Clock::manual(START), |s| s.destinations[0].timeout = MINUTE).await;
    let id = bench.accept("k", "1").await;
    let flies = bench.becomes(&id, "in_flight").await;
    assert_eq!((&flies["since"], &flies["until"]), (&after(Duration::ZERO), &after(MINUTE)));
    assert_eq!((&flies["attempts"], &flies["blocked_by"]), (&json!(0), &Value::Null));
    receiver.release(1);
    let done = bench.becomes(&id, "delivered").await;
    assert_eq!(
        (&done["settled_at"], &done["attempts"], &done["since"]),
        (&after(Duration::ZERO), &json!(1), &Value::Null)
    );
}

#[tokio::test]
async fn all_blockers_are_listed_and_the_longest_comes_first() {
    let receiver =
        Receiver::start(|r| if r.interaction() == "asks" { retry_after(429, 600) } else { status(503) }).await;
    let bench = Bench::with(receiver.to(), Clock::manual(START), |s| {
        s.destinations[0].retry.jitter = Jitter::None;
        s.destinations[0].retry.base = MINUTE;
    })
    .await;
    let path = "/v1/destinations/default";
    let late = bench.accept("late", "1").await;
    bench.becomes(&late, "delayed").await;
    bench.change(&format!("{path}/pause"), json!({"for": "30m", "reason": "migration"})).await;
    let delivery = bench.becomes(&late, "delayed").await;
    let pause = json!({"blocker": "pause", "until": after(30 * MINUTE), "set_by": "admin", "reason": "migration"});
    assert_eq!(delivery["blocked_by"], pause);
    assert_eq!(
        delivery["also_blocked_by"],
        json!([{"blocker": "retry_backoff", "until": after(MINUTE), "set_by": "retry"}])
    );
    let listed = &bench.get("/v1/events?state=delayed").await["items"][0]["deliveries"][0];
    assert_eq!(listed["blocked_by"], pause, "a list says the same");

    bench.change(&format!("{path}/resume"), json!({})).await;
    bench.accept("asks", "2").await;
    crate::harness::bench::wait_for("it asks to be left alone", async || {
        (gates(&bench.get(path).await["blocked_by"]) == ["retry_after"]).then_some(())
    })
    .await;
    bench.change(&format!("{path}/breaker"), json!({"state": "open", "for": "5m", "reason": "why"})).await;
    bench.change(&format!("{path}/pause"), json!({"for": "30m"})).await;
    let holds = bench.get(path).await["blocked_by"].clone();
    assert_eq!(gates(&holds), ["pause", "retry_after", "breaker"], "{holds}");
    let until: Vec<&Value> = holds.as_array().unwrap().iter().map(|held| &held["until"]).collect();
    assert_eq!(until, [&after(30 * MINUTE), &after(10 * MINUTE + Duration::from_millis(1)), &after(5 * MINUTE)]);
    let fresh = bench.accept("fresh", "3").await;
    let waits = bench.becomes(&fresh, "queued").await;
    assert_eq!(
        (&waits["blocked_by"]["blocker"], gates(&waits["also_blocked_by"])),
        (&json!("pause"), vec!["retry_after", "breaker"])
    );
}

#[tokio::test]
async fn a_limit_below_the_configured_one_names_its_cause() {
    let receiver = Receiver::start(|_| held(status(200))).await;
    let bench = Bench::with(receiver.to(), Clock::manual(START), |s| s.destinations[0].concurrency_max = 64).await;
    let path = "/v1/destinations/default";
    bench.change(&format!("{path}/pause"), json!({})).await;
    bench.change(&format!("{path}/resume"), json!({})).await;
    let first = bench.accept("a", "1").await;
    bench.becomes(&first, "in_flight").await;
    let second = bench.accept("b", "2").await;
    let waits = bench.becomes(&second, "queued").await;
    let by = (&waits["blocked_by"]["blocker"], &waits["blocked_by"]["set_by"]);
    assert_eq!(by, (&json!("concurrency"), &json!("ramp")), "{waits}");
    assert_eq!(bench.get(path).await["blocked_by"][0], waits["blocked_by"]);
}

#[tokio::test]
async fn deliveries_behind_dead_letters_are_shown_with_the_destination() {
    let receiver = Receiver::start(|r| status(if r.sequence() > 2 { 200 } else { 422 })).await;
    let bench = Bench::with(receiver.to(), Clock::manual(START), |s| {
        s.destinations[0].ordering.on_dead_letter = OnDeadLetter::Hold;
    })
    .await;
    let behind = async || bench.get("/v1/destinations/default").await["queue"]["behind_dead_letters"].clone();
    let told = |interactions: u64, deliveries: u64, oldest_age_ms: u64| json!({"interactions": interactions, "deliveries": deliveries, "oldest_age_ms": oldest_age_ms});
    assert_eq!(behind().await, told(0, 0, 0));
    let mut dead = Vec::new();
    for interaction in ["a", "b"] {
        dead.push(bench.accept(interaction, "dead").await);
        bench.becomes(&dead[dead.len() - 1], "dead").await;
    }
    for (interaction, id) in [("a", "1"), ("a", "2"), ("b", "3")] {
        let id = bench.accept(interaction, id).await;
        bench.becomes(&id, "blocked").await;
        bench.clock.advance(MINUTE);
    }
    assert_eq!(behind().await, told(2, 3, 180_000));
    bench.change("/v1/dlq/purge", json!({"ids": [dead[0]]})).await;
    crate::harness::bench::wait_for("what it held has gone on", async || {
        (behind().await == told(1, 1, 60_000)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_dead_letter_is_never_shown_behind_a_later_event() {
    let receiver = Receiver::start(|r| status(if r.attempt() == 1 { 503 } else { 400 })).await;
    let bench = Bench::with(receiver.to(), Clock::system(), |s| {
        s.destinations[0].retry.base = Duration::from_millis(5);
        s.destinations[0].retry.jitter = Jitter::None;
        s.destinations[0].breaker.permanent_answers = u32::MAX;
    })
    .await;
    for n in 0..60 {
        let key = n.to_string();
        let first = bench.accept(&key, "first").await;
        for later in ["second", "third"] {
            bench.accept(&key, later).await;
        }
        loop {
            let event = bench.get(&format!("/v1/events/{first}")).await;
            let delivery = &event["deliveries"][0];
            assert_eq!(delivery["blocked_by"]["behind"], Value::Null, "{event}");
            if delivery["state"] == "dead" {
                break;
            }
        }
    }
}

#[tokio::test]
async fn answers_of_destinations_need_the_reveal_scope() {
    let secrets = tempfile::tempdir().unwrap();
    let token = |name: &str, scopes: &[Scope]| {
        let path = secrets.path().join(name);
        std::fs::write(&path, format!("secret-of-{name}\n")).unwrap();
        NamedToken { name: name.to_owned(), token: Secret::File(path), scopes: scopes.to_vec() }
    };
    let receiver = Receiver::start(|r| Act::Answer {
        status: if r.interaction() == "late" { 503 } else { 422 },
        headers: Vec::new(),
        body: r.body.clone(),
    })
    .await;
    let bench = Bench::with(receiver.to(), Clock::manual(START), |s| {
        s.admin.tokens = vec![token("reader", &[Scope::Read]), token("revealer", &[Scope::Read, Scope::Reveal])];
    })
    .await;
    let dead = bench.accept("dead", "echoed-1").await;
    bench.becomes(&dead, "dead").await;
    let late = bench.accept("late", "echoed-2").await;
    bench.becomes(&late, "delayed").await;
    for path in
        [format!("/v1/dlq/{dead}"), "/v1/dlq".into(), format!("/v1/events/{dead}"), format!("/v1/events/{late}")]
    {
        for (name, shown) in [("reader", false), ("revealer", true)] {
            let bearer = format!("Bearer secret-of-{name}");
            let reply = request(bench.admin, "GET", &path, &[("Authorization", &bearer)], b"").await;
            assert_eq!(reply.status, 200, "{path}: {}", reply.text());
            let (text, answered) = (reply.text(), "\\\"eventId\\\"");
            assert_eq!(text.contains(answered), shown, "{path} to {name}: {text}");
            assert!(text.contains(if path.contains(&late) { "503" } else { "422" }), "{path} to {name}: {text}");
        }
    }
}
