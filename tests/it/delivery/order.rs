//! Order by the times in the events: which events are late, and how late events end.

use crate::harness::bench::{Bench, START, destination, let_pass, wait_for};
use crate::harness::receiver::{Received, Receiver, held, status};
use holdline::clock::Clock;
use holdline::rules::backoff::Jitter;
use holdline::rules::lateness::OnStale;
use holdline::rules::lateness::Ttl;
use holdline::time::Timestamp;
use serde_json::json;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Long enough to see that an unexpected request does not arrive.
const A_WHILE: Duration = Duration::from_millis(80);

/// Sends an event with its time in seconds after the start of the clock; returns its id.
async fn accept(bench: &Bench, interaction: &str, time: Option<i64>, kind: &str) -> String {
    // all events differ, so that none is a duplicate
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
            ("k", Some(-1), false),
            ("k", Some(-2), true),
            ("other", Some(-100), false),
            ("k", None, false),
            ("k", Some(-51), true),
            ("k", Some(-1), false),
        ] {
            ends(&bench, interaction, time, "delivered").await;
            wanted.push(flagged);
            assert_eq!(flags(&receiver), wanted, "round {round}");
        }
        // the next event is stale compared with the previous run
        match round {
            0 => bench.restart().await,
            _ => {
                bench.crash();
                bench.open().await;
            }
        }
        ends(&bench, "k", Some(-3), "delivered").await;
        wanted.push(true);
        assert_eq!(flags(&receiver), wanted, "after round {round}");
    }
    bench.sound().await;
}

#[tokio::test]
async fn a_stale_event_is_delivered_or_discarded_as_configured() {
    for (on_stale, state) in [(OnStale::Deliver, "delivered"), (OnStale::Discard, "discarded")] {
        let receiver = Receiver::good().await;
        let mut bench = Bench::with(receiver.to(), Clock::manual(START), |settings| {
            settings.destinations[0].ordering.on_stale = on_stale;
        })
        .await;
        ends(&bench, "k", Some(-1), "delivered").await;
        ends(&bench, "k", Some(-2), state).await;
        bench.restart().await;
        ends(&bench, "k", Some(-3), state).await;
        ends(&bench, "k", Some(0), "delivered").await;
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
    ends(&bench, "k", Some(-1), "delivered").await;
    let stale = ends(&bench, "k", Some(-2), "dead").await;
    let dead_letter = bench.get(&format!("/v1/dlq/{stale}")).await;
    assert_eq!((&dead_letter["reason"], &dead_letter["attempts"]), (&json!("stale"), &json!([])), "{dead_letter}");
    bench.restart().await;
    assert_eq!(receiver.count(), 1);
    bench.change("/v1/dlq/redrive", json!({"ids": [stale]})).await;
    bench.becomes(&stale, "delivered").await;
    let sent = &receiver.of(&stale)[0];
    assert_eq!((is_flagged(sent), sent.header("holdline-redriven")), (true, Some("true")));
    // the event sent late is not the newest
    ends(&bench, "k", Some(-2), "dead").await;
    bench.sound().await;
}

#[tokio::test]
async fn an_event_is_stale_only_where_a_newer_one_was_delivered() {
    // the second destination fails at first, so it has received nothing newer
    let receiver = Receiver::good().await;
    let failing = Receiver::start(|r| status(if r.sequence() == 1 { 400 } else { 200 })).await;
    let bench = Bench::with(receiver.to(), Clock::manual(START), |settings| {
        settings.destinations.push(destination("second", &failing.url()));
    })
    .await;
    for time in [-1, -2] {
        ends(&bench, "k", Some(time), "delivered").await;
    }
    failing.received(2).await;
    assert_eq!(flags(&receiver), [false, true]);
    assert_eq!(flags(&failing), [false, false]);
}

#[tokio::test]
async fn an_expired_event_is_a_dead_letter_and_is_sent_when_redriven() {
    // every first attempt fails
    let receiver = Receiver::start(|r| status(if r.attempt() == 1 { 503 } else { 200 })).await;
    let mut bench = Bench::with(receiver.to(), Clock::manual(START), |settings| {
        settings.destinations[0].ttl = Ttl::new(vec![("screen_pop.*".to_owned(), Duration::from_secs(120))]);
        settings.destinations[0].retry.base = Duration::from_secs(60);
        settings.destinations[0].retry.jitter = Jitter::None;
    })
    .await;
    // at the limit, over it, of unknown age, and of another type
    let at_limit = accept(&bench, "a", Some(-120), "screen_pop.x").await;
    bench.becomes(&at_limit, "delayed").await;
    let old = accept(&bench, "b", Some(-121), "screen_pop.x").await;
    bench.becomes(&old, "dead").await;
    let ageless = accept(&bench, "c", None, "screen_pop.x").await;
    let other = accept(&bench, "d", Some(-121), "other").await;
    for id in [&ageless, &other] {
        bench.becomes(id, "delayed").await;
    }
    assert_eq!((receiver.count(), receiver.of(&old).len()), (3, 0));
    // when they are due, some are too old for a second attempt, also after a restart
    bench.restart().await;
    bench.clock.advance(Duration::from_secs(60));
    bench.becomes(&at_limit, "dead").await;
    for id in [&ageless, &other] {
        bench.becomes(id, "delivered").await;
    }
    assert_eq!(receiver.count(), 5);
    for (id, attempts) in [(&old, 0), (&at_limit, 1)] {
        let dead_letter = bench.get(&format!("/v1/dlq/{id}")).await;
        assert_eq!(dead_letter["reason"], json!("expired"));
        assert_eq!(dead_letter["attempts"].as_array().unwrap().len(), attempts, "{dead_letter}");
    }
    bench.change("/v1/dlq/redrive", json!({"ids": [old, at_limit]})).await;
    bench.becomes(&at_limit, "delivered").await;
    bench.becomes(&old, "delayed").await;
    bench.clock.advance(Duration::from_secs(60));
    bench.becomes(&old, "delivered").await;
    bench.sound().await;
}

/// The sequences of an interaction in the order in which its requests arrived.
fn sequences(receiver: &Receiver, interaction: &str) -> Vec<u64> {
    receiver.all().iter().filter(|r| r.interaction() == interaction).map(Received::sequence).collect()
}

#[tokio::test]
async fn events_within_the_reorder_window_go_by_event_time() {
    let receiver = Receiver::good().await;
    let mut bench = Bench::with(receiver.to(), Clock::manual(START), |settings| {
        settings.destinations[0].ordering.reorder_window = Duration::from_secs(10);
    })
    .await;
    // the third happened first, the fifth before the window, and the fourth has no known time
    let mut ids = Vec::new();
    for time in [Some(-1), Some(-2), Some(-4), None, Some(-60)] {
        ids.push(accept(&bench, "k", time, "a.b").await);
    }
    // its time counts as the start of the window before its acceptance, so it need not wait
    bench.becomes(&ids[4], "delivered").await;
    let first = bench.get(&format!("/v1/events/{}", ids[2])).await["deliveries"][0].clone();
    let until = START.after(Duration::from_secs(6)).to_string();
    assert_eq!(first["state"], json!("queued"));
    assert_eq!(first["blocked_by"], json!({"blocker": "order", "until": until, "set_by": "ordering"}));
    let last = bench.get(&format!("/v1/events/{}", ids[3])).await["deliveries"][0].clone();
    assert_eq!((&last["state"], &last["blocked_by"]["behind"]), (&json!("blocked"), &json!(ids[2])));
    // an unordered event waits for no other
    let reply = bench.post(b"{\"no\": \"interaction\"}").await.json();
    bench.becomes(reply["id"].as_str().unwrap(), "delivered").await;
    for (round, wanted) in [(6, vec![5, 3]), (8, vec![5, 3, 2]), (9, vec![5, 3, 2, 1]), (10, vec![5, 3, 2, 1, 4])] {
        if round == 8 {
            bench.crash();
            bench.open().await;
        } else {
            bench.restart().await;
        }
        let to = START.after(Duration::from_secs(round));
        bench.clock.advance(to.since(bench.clock.now()).saturating_sub(Duration::from_millis(1)));
        let_pass(A_WHILE).await;
        assert_eq!(sequences(&receiver, "k"), wanted[..wanted.len() - 1], "before {round} s");
        bench.clock.advance(Duration::from_millis(1));
        bench.reaches("/counters/delivered", wanted.len() as u64 + 1).await;
        assert_eq!(sequences(&receiver, "k"), wanted, "at {round} s");
    }
    bench.sound().await;
}

#[tokio::test]
async fn a_tried_event_stays_before_an_earlier_one() {
    let receiver = Receiver::start(|r| status(if r.sequence() == 1 && r.attempt() == 1 { 503 } else { 200 })).await;
    let mut bench = Bench::with(receiver.to(), Clock::manual(START), |settings| {
        settings.destinations[0].ordering.reorder_window = Duration::from_secs(10);
        settings.destinations[0].retry.base = Duration::from_secs(60);
        settings.destinations[0].retry.jitter = Jitter::None;
    })
    .await;
    let first = accept(&bench, "k", Some(-10), "a.b").await;
    bench.becomes(&first, "delayed").await;
    let second = accept(&bench, "k", Some(-60), "a.b").await;
    for restart in [false, true] {
        if restart {
            bench.restart().await;
        }
        let delivery = bench.becomes(&second, "blocked").await;
        assert_eq!(delivery["blocked_by"]["behind"], json!(first));
    }
    bench.clock.advance(Duration::from_secs(60));
    bench.becomes(&second, "delivered").await;
    assert_eq!(sequences(&receiver, "k"), [1, 1, 2]);
    bench.sound().await;
}

#[tokio::test]
async fn an_interaction_shows_delivered_in_flight_and_waiting_events() {
    let receiver = Receiver::start(|r| if r.n == 1 { held(status(200)) } else { status(200) }).await;
    let bench = Bench::start(receiver.to()).await;
    let first = bench.accept("call-7", "1").await;
    bench.reaches("/counters/delivered", 1).await;
    let mut others = Vec::new();
    for n in 2..5 {
        others.push(bench.accept("call-7", &n.to_string()).await);
    }
    receiver.received(2).await;
    let told = wait_for("all three are known", async || {
        let told = bench.get("/v1/interactions/call-7").await;
        (told["destinations"][0]["waiting_count"] == 2).then_some(told)
    })
    .await;
    let at = &told["destinations"][0];
    assert_eq!((&at["destination"], &at["last_delivered"]["id"]), (&json!("default"), &json!(first)));
    assert_eq!(at["in_flight"], json!({"sequence": 2, "id": others[0]}));
    assert_eq!(at["waiting"], json!([{"sequence": 3, "id": others[1]}, {"sequence": 4, "id": others[2]}]));
    receiver.release(1);
    bench.reaches("/counters/delivered", 4).await;
    let none = bench.get("/v1/interactions/never-seen").await;
    assert_eq!(none["destinations"][0]["last_delivered"], json!(null));
}
