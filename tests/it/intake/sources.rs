//! Several sources: an order key belongs to its source, and no source uses up the resources of the others.

use crate::harness::bench::{Bench, START, body, source, wait_for};
use crate::harness::receiver::{Act, Receiver, status};
use holdline::clock::Clock;
use holdline::config::settings::{OnDeadLetter, Settings};
use serde_json::{Value, json};

const JSON: (&str, &str) = ("Content-Type", "application/json");

/// Responds with `answer` to events of `bad`, and with 200 to all others.
async fn refusing(bad: &'static str, answer: u16) -> Receiver {
    Receiver::start(move |request| status(if request.header("holdline-source") == Some(bad) { answer } else { 200 }))
        .await
}

fn two(s: &mut Settings) {
    s.sources = vec![source("open", "auto"), source("own", "auto")];
}

async fn post(bench: &Bench, source: &str, key: &str, id: &str) -> String {
    let reply = bench.post_as(source, &[JSON], &body(key, id)).await;
    assert_eq!((reply.status, reply.json()["status"].as_str()), (202, Some("queued")), "{}", reply.text());
    reply.json()["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_open_source_blocks_no_other_source_by_its_keys() {
    for shared in [false, true] {
        let receiver = refusing("open", 422).await;
        let bench = Bench::with(receiver.to(), Clock::manual(START), |s| {
            two(s);
            s.sources.iter_mut().for_each(|source| source.shared_keys = shared);
            s.destinations[0].ordering.on_dead_letter = OnDeadLetter::Hold;
        })
        .await;
        let strangers = post(&bench, "open", "call-7", "1").await;
        bench.becomes(&strangers, "dead").await;
        let honest = post(&bench, "own", "call-7", "1").await;
        let state = if shared { "blocked" } else { "delivered" };
        bench.becomes(&honest, state).await;
        let again = post(&bench, "open", "call-7", "2").await;
        bench.becomes(&again, "blocked").await;
        bench.sound().await;
    }
}

/// Source and number of waiting deliveries, by destination.
fn told(of: &Value) -> Vec<(Option<String>, u64)> {
    let states = of["destinations"].as_array().unwrap();
    states.iter().map(|s| (s["source"].as_str().map(str::to_owned), s["waiting_count"].as_u64().unwrap())).collect()
}

#[tokio::test]
async fn an_interaction_is_found_in_all_sources_or_a_given_one() {
    let mut bench = Bench::with(None, Clock::manual(START), two).await;
    let mut ids = Vec::new();
    for (source, id) in [("open", "1"), ("own", "2"), ("own", "3")] {
        ids.push(post(&bench, source, "call 7", id).await);
    }
    let named = |source: &str, waiting| (Some(source.to_owned()), waiting);
    for _ in 0..2 {
        wait_for("all are read ahead", async || {
            (told(&bench.get("/v1/interactions/call%207").await) == [named("open", 1), named("own", 2)]).then_some(())
        })
        .await;
        assert_eq!(told(&bench.get("/v1/interactions/call%207?source=own").await), [named("own", 2)]);
        assert_eq!(told(&bench.get("/v1/interactions/call%208").await), [(None, 0)]);
        let listed = async |query: &str| {
            let found = bench.get(&format!("/v1/events?interaction=call%207{query}")).await;
            found["items"].as_array().unwrap().len()
        };
        assert_eq!((listed("").await, listed("&source=own").await), (3, 2));
        let state = &bench.get(&format!("/v1/events/{}", ids[2])).await["deliveries"][0];
        assert_eq!(state["state"], "blocked", "{state}");
        bench.restart().await;
    }
    let erased = bench.change("/v1/interactions/call%207/erase", json!({"source": "own"})).await;
    assert_eq!((erased["waiting"].as_u64(), erased["remembered"].as_u64()), (Some(2), Some(2)), "{erased}");
    assert_eq!(told(&bench.get("/v1/interactions/call%207").await), [named("open", 1)]);
    let erased = bench.change("/v1/interactions/call%207/erase", json!({})).await;
    assert_eq!(erased["waiting"], 1);
    bench.sound().await;
}

#[tokio::test]
async fn an_event_from_before_a_restart_is_not_overtaken() {
    for (before, after) in [(true, false), (false, true)] {
        let receiver = Receiver::start(|_| status(200)).await;
        let mut bench = Bench::with(None, Clock::manual(START), |s| {
            two(s);
            s.sources.iter_mut().for_each(|source| source.shared_keys = before);
        })
        .await;
        let wanted: Vec<String> = (0..40).map(|n| n.to_string()).collect();
        for id in &wanted[..20] {
            post(&bench, "own", "call-7", id).await;
        }
        bench.crash();
        bench.settings.sources.iter_mut().for_each(|source| source.shared_keys = after);
        bench.open().await;
        for id in &wanted[20..] {
            post(&bench, "own", "call-7", id).await;
        }
        bench.settings.destinations[0].url = Some(receiver.url().parse().unwrap());
        bench.restart().await;
        bench.reaches("/counters/delivered", 40).await;
        let all = receiver.all();
        let ids = all.iter().map(|got| {
            let body: Value = serde_json::from_slice(&got.body).unwrap();
            body["eventId"].as_str().unwrap().to_owned()
        });
        assert_eq!(ids.collect::<Vec<_>>(), wanted);
        let sequences: Vec<u64> =
            receiver.all().iter().map(|got| got.header("holdline-sequence").unwrap().parse().unwrap()).collect();
        assert!(sequences.is_sorted(), "{sequences:?}");
    }
}

#[tokio::test]
async fn delayed_and_redriven_events_keep_the_interaction_of_their_source() {
    let receiver = refusing("open", 422).await;
    let mut bench = Bench::with(receiver.to(), Clock::manual(START), |s| {
        two(s);
        s.destinations[0].ordering.on_dead_letter = OnDeadLetter::Hold;
    })
    .await;
    let dead = post(&bench, "open", "call-7", "1").await;
    bench.becomes(&dead, "dead").await;
    let held = post(&bench, "open", "call-7", "2").await;
    bench.becomes(&held, "blocked").await;
    bench.restart().await;
    bench.becomes(&held, "blocked").await;
    assert_eq!(bench.change("/v1/dlq/redrive", json!({"ids": [dead]})).await["done"], 1);
    wait_for("it is dead again", async || {
        (bench.count("/dlq/depth").await == 1 && receiver.all().len() == 2).then_some(())
    })
    .await;
    bench.becomes(&held, "blocked").await;
    let honest = post(&bench, "own", "call-7", "3").await;
    bench.becomes(&honest, "delivered").await;
    assert_eq!(bench.change("/v1/dlq/purge", json!({"ids": [dead]})).await["done"], 1);
    bench.becomes(&held, "dead").await;
    bench.sound().await;
}

#[tokio::test]
async fn staleness_is_judged_within_a_source() {
    let receiver = Receiver::start(|_| Act::Answer { status: 200, headers: Vec::new(), body: Vec::new() }).await;
    let mut bench = Bench::with(receiver.to(), Clock::manual(START), two).await;
    let event = |time: &str, id: &str| {
        json!({"eventType": "t", "timestamp": time, "eventId": id, "data": {"interactionId": "k"}}).to_string()
    };
    let post = async |bench: &Bench, source: &str, time: &str, id: &str| {
        let reply = bench.post_as(source, &[JSON], event(time, id).as_bytes()).await;
        bench.becomes(reply.json()["id"].as_str().unwrap(), "delivered").await;
    };
    post(&bench, "open", "2026-03-19T22:04:48Z", "1").await;
    post(&bench, "own", "2026-03-19T20:00:00Z", "2").await;
    bench.restart().await;
    post(&bench, "own", "2026-03-19T21:00:00Z", "3").await;
    post(&bench, "own", "2026-03-19T20:30:00Z", "4").await;
    let stale: Vec<bool> = receiver.all().iter().map(|got| got.header("holdline-stale").is_some()).collect();
    assert_eq!(stale, [false, false, false, true]);
}

/// An incompressible event of about 6 KB.
fn noise(n: u64) -> String {
    let mut bits = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let dead_letters = (0..6000).map(|_| {
        bits ^= bits << 13;
        bits ^= bits >> 7;
        bits ^= bits << 17;
        char::from(b'a' + (bits % 26) as u8)
    });
    json!({"eventId": n.to_string(), "note": dead_letters.collect::<String>()}).to_string()
}

#[tokio::test]
async fn a_source_that_fills_the_queue_is_refused_first() {
    let mut bench = Bench::with(None, Clock::manual(START), |s| {
        two(s);
        s.intake.max_body_bytes = 8 << 10;
        s.intake.max_queue_bytes = 2 << 20;
        s.intake.queue_share = 0.5;
    })
    .await;
    let mut n = 0;
    let refused = wait_for("the open source is full", async || {
        n += 1;
        let reply = bench.post_as("open", &[JSON], noise(n).as_bytes()).await;
        (reply.status != 202).then_some(reply)
    })
    .await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "queue_full"));
    assert!(refused.header("retry-after").is_some());
    for id in 0..3 {
        post(&bench, "own", "k", &format!("{id}")).await;
    }
    bench.restart().await;
    wait_for("it is full after a restart, too", async || {
        n += 1;
        let reply = bench.post_as("open", &[JSON], noise(n).as_bytes()).await;
        (reply.status == 503).then_some(())
    })
    .await;
    post(&bench, "own", "k", "after").await;
    let given_up = json!({"all": true, "reason": "rig"});
    wait_for("nothing waits", async || {
        bench.change("/v1/destinations/default/discard", given_up.clone()).await;
        (bench.count("/queue/depth").await == 0).then_some(())
    })
    .await;
    wait_for("it may send again", async || {
        n += 1;
        (bench.post_as("open", &[JSON], noise(n).as_bytes()).await.status == 202).then_some(())
    })
    .await;
    bench.sound().await;
}

#[tokio::test]
async fn a_single_source_may_fill_the_whole_queue() {
    let bench = Bench::with(None, Clock::manual(START), |s| {
        s.intake.max_body_bytes = 1 << 10;
        s.intake.max_queue_bytes = 64 << 10;
        s.intake.queue_share = 0.1;
    })
    .await;
    let mut n = 0;
    wait_for("the queue is full", async || {
        n += 1;
        let reply = bench.post(&body("k", &n.to_string())).await;
        let bytes = bench.count("/queue/bytes").await;
        assert!(reply.status == 202 || bytes > 60 << 10, "{} at {bytes}", reply.status);
        (reply.status != 202).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_source_with_many_dead_letters_loses_its_own_and_no_other_does() {
    let receiver = Receiver::start(|_| status(422)).await;
    let mut bench = Bench::with(receiver.to(), Clock::manual(START), |s| {
        two(s);
        s.destinations[0].breaker.permanent_answers = u32::MAX;
    })
    .await;
    let mut quiet = Vec::new();
    for n in 0..3 {
        quiet.push(post(&bench, "own", "k", &n.to_string()).await);
    }
    let mut flood = Vec::new();
    for n in 0..40 {
        let reply = bench.post_as("open", &[JSON], noise(n).as_bytes()).await;
        flood.push(reply.json()["id"].as_str().unwrap().to_owned());
    }
    bench.reaches("/dlq/depth", 43).await;
    let refused = bench.reload(|s| s.dlq.source_share = 0.5).await.unwrap_err();
    assert!(refused.contains("a restart is needed for what has changed in [dlq]"), "{refused}");
    bench.settings.dlq.evict = true;
    for sources in [["open", "own"], ["open", "open"]] {
        bench.settings.dlq.max_bytes = bench.count("/dlq/bytes").await / 2;
        // a source that is no longer configured keeps its share, too
        bench.settings.sources.retain(|source| sources.contains(&source.name.as_str()));
        bench.restart().await;
        let (most, least) = (bench.settings.dlq.max_bytes, bench.settings.dlq.max_bytes - 7000);
        wait_for("there are no more than there may be", async || {
            (least..=most).contains(&bench.count("/dlq/bytes").await).then_some(())
        })
        .await;
        for id in &quiet {
            bench.becomes(id, "dead").await;
        }
        bench.becomes(&flood[39], "dead").await;
        bench.sound().await;
    }
    bench.becomes(&flood[0], "discarded").await;
}
