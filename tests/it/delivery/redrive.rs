//! Redrives that take a while: limited by a rate, with a canary, over restarts, cancelled by hand or stopped by failures.

use crate::harness::bench::{Bench, START, wait_for};
use crate::harness::receiver::{Act, Received, Receiver, held, retry_after, status};
use holdline::clock::Clock;
use holdline::config::settings::Settings;
use serde_json::{Value, json};
use std::time::Duration;

const LETTERS: usize = 30;

/// Creates `n` dead letters, each of its own interaction; `again` answers the redriven deliveries.
async fn dead(clock: Clock, again: impl Fn(&Received) -> Act + Send + Sync + 'static) -> (Bench, Receiver) {
    let receiver = Receiver::start(move |r| if r.attempt() == 1 { status(422) } else { again(r) }).await;
    let all_refused = |s: &mut Settings| s.destinations[0].breaker.permanent_answers = u32::MAX;
    let bench = Bench::with(receiver.to(), clock, all_refused).await;
    for n in 0..LETTERS {
        bench.accept(&format!("k{n}"), "1").await;
    }
    wait_for("all are dead", async || (bench.count("/dlq/depth").await == LETTERS as u64).then_some(())).await;
    (bench, receiver)
}

async fn redrive(bench: &Bench, how: Value) -> Value {
    let mut request = json!({"all": true});
    request.as_object_mut().unwrap().extend(how.as_object().unwrap().clone());
    bench.change("/v1/dlq/redrive", request).await
}

/// The redrive of the only destination.
async fn newest(bench: &Bench) -> Value {
    bench.get("/v1/dlq/redrives").await["items"][0].clone()
}

async fn ends(bench: &Bench, state: &str) -> Value {
    wait_for(state, async || (newest(bench).await["state"] == state).then_some(())).await;
    newest(bench).await
}

/// The number of its dead letters that are delivered, dead again, gone, and under way.
fn fared(redrive: &Value) -> [u64; 4] {
    ["delivered", "dead_again", "gone", "under_way"].map(|field| redrive[field].as_u64().unwrap())
}

#[tokio::test]
async fn i15_a_canary_sends_one_then_ten_then_the_rest() {
    let (bench, receiver) = dead(Clock::system(), |_| held(status(200))).await;
    let begun = redrive(&bench, json!({"canary": true})).await;
    assert_eq!((&begun["matched"], &begun["done"]), (&json!(LETTERS), &json!(0)));
    assert_eq!(begun["redrives"][0]["state"], "goes_on");
    let mut sent = LETTERS;
    for stage in [1, 10, LETTERS - 11] {
        sent += stage;
        receiver.received(sent).await;
        wait_for("they are all told", async || (newest(&bench).await["done"] == sent - LETTERS).then_some(())).await;
        assert_eq!(receiver.count(), sent, "no more before these have ended");
        receiver.release(stage);
    }
    let ended = ends(&bench, "complete").await;
    assert_eq!((&ended["done"], &ended["taken"], &ended["matched"]), (&json!(30), &json!(30), &json!(30)));
    wait_for("all are delivered", async || (bench.count("/counters/delivered").await == LETTERS as u64).then_some(()))
        .await;
    wait_for("all are told", async || (fared(&newest(&bench).await) == [30, 0, 0, 0]).then_some(())).await;
    assert!(receiver.all()[LETTERS..].iter().all(|r| r.header("holdline-redriven") == Some("true")));
    bench.sound().await;
}

#[tokio::test]
async fn a_canary_that_fails_leaves_the_rest_dead() {
    let (bench, receiver) = dead(Clock::system(), |_| status(422)).await;
    redrive(&bench, json!({"canary": true})).await;
    let ended = ends(&bench, "failing").await;
    assert_eq!((&ended["done"], &ended["failed"], &ended["judged"]), (&json!(1), &json!(1), &json!(1)));
    assert_eq!((receiver.count(), bench.count("/dlq/depth").await), (LETTERS + 1, LETTERS as u64));
    let first = receiver.all().last().unwrap().header("holdline-event-id").unwrap().to_owned();
    let by = json!({"event": first, "destination": "default", "outcome": "answered", "status": 422, "error": ""});
    assert_eq!(ended["stopped_by"], by);
    assert_eq!(fared(&ended), [0, 1, 0, 0], "delivered, dead again, gone, under way");
    let audit = bench.get("/v1/audit").await;
    let what: Vec<_> = audit["items"].as_array().unwrap().iter().map(|i| i["what"].as_str().unwrap()).collect();
    assert_eq!(
        what,
        [
            format!(
                "dlq redrive for default: ended, 1 of 1 failed, 0 delivered, 1 dead again so far; stopped by \
                 {first}/default: answered 422"
            ),
            "dlq redrive for default begins: 1, then 10, then the rest".to_owned()
        ]
    );
    bench.sound().await;
}

#[tokio::test]
async fn a_returning_failure_ratio_ends_a_redrive() {
    let (bench, receiver) = dead(Clock::manual(START), |r| status(if r.sequence() > 6 { 503 } else { 200 })).await;
    redrive(&bench, json!({"canary": true})).await;
    let ended = ends(&bench, "failing").await;
    assert_eq!((&ended["done"], ended["failed"].as_u64() >= Some(5)), (&json!(11), true), "{ended}");
    let by = &ended["stopped_by"];
    assert_eq!(
        (&by["destination"], &by["outcome"], &by["status"]),
        (&json!("default"), &json!("answered"), &json!(503))
    );
    let stopper = bench.get(&format!("/v1/events/{}", by["event"].as_str().unwrap())).await;
    assert!(stopper["sequence"].as_u64() > Some(6), "one of those that failed: {stopper}");
    wait_for("the others", async || (fared(&newest(&bench).await) == [6, 0, 0, 5]).then_some(())).await;
    assert_eq!(bench.count("/dlq/depth").await, LETTERS as u64 - 11);
    assert_eq!(receiver.count(), LETTERS + 11);
    bench.sound().await;
}

#[tokio::test]
async fn a_retry_after_does_not_end_a_redrive() {
    let (bench, receiver) = dead(Clock::manual(START), |r| match (r.sequence(), r.attempt()) {
        (1, 2) => retry_after(429, 60),
        _ => status(200),
    })
    .await;
    redrive(&bench, json!({"canary": true})).await;
    receiver.received(LETTERS + 1).await;
    bench.clock.advance(Duration::from_secs(59));
    assert_eq!((newest(&bench).await["done"].clone(), receiver.count()), (json!(1), LETTERS + 1));
    bench.clock.advance(Duration::from_secs(2));
    assert_eq!(ends(&bench, "complete").await["done"], 30);
    bench.sound().await;
}

#[tokio::test]
async fn a_letter_that_expires_ends_a_canary_and_leaves_the_rest_dead() {
    for again in [status(429), retry_after(503, 1)] {
        let (mut bench, receiver) = dead(Clock::manual(START), move |_| again.clone()).await;
        bench.reload(|s| s.destinations[0].retry.attempts = Some(2)).await.unwrap();
        redrive(&bench, json!({"canary": true})).await;
        receiver.received(LETTERS + 1).await;
        bench.reaches("/queue/in_flight", 0).await;
        assert_eq!(newest(&bench).await["state"], "goes_on", "it is only put off");
        bench.clock.advance(Duration::from_secs(5));
        let ended = ends(&bench, "failing").await;
        assert_eq!((&ended["done"], &ended["failed"], &ended["judged"]), (&json!(1), &json!(1), &json!(1)));
        assert_eq!((receiver.count(), bench.count("/dlq/depth").await), (LETTERS + 2, LETTERS as u64));
        bench.sound().await;
    }
}

#[tokio::test]
async fn a_redrive_rate_is_kept_and_continues_after_a_restart() {
    let (mut bench, receiver) = dead(Clock::manual(START), |_| status(200)).await;
    redrive(&bench, json!({"rate": "10/s"})).await;
    let done = async |bench: &Bench, n: usize| {
        wait_for("they are redriven", async || (newest(bench).await["done"] == n).then_some(())).await;
        receiver.received(LETTERS + n).await;
    };
    done(&bench, 2).await; // the number that the rate permits in 100 ms, and one
    bench.clock.advance(Duration::from_millis(300));
    done(&bench, 4).await;
    let second = bench.admin("POST", "/v1/dlq/redrive", br#"{"all": true, "canary": true}"#).await;
    assert_eq!(second.status, 409, "{:?}", second.json());
    bench.restart().await;
    done(&bench, 6).await;
    for n in [8, 10] {
        bench.clock.advance(Duration::from_millis(200));
        done(&bench, n).await;
    }
    let stopped = bench.change("/v1/dlq/redrives/default/stop", json!({})).await;
    assert_eq!((&stopped["state"], &stopped["done"]), (&json!("stopped"), &json!(10)));
    bench.clock.advance(Duration::from_secs(60));
    assert_eq!(bench.count("/dlq/depth").await, LETTERS as u64 - 10);
    let again = bench.admin("POST", "/v1/dlq/redrives/default/stop", b"").await;
    assert_eq!(again.status, 409);
    redrive(&bench, json!({"rate": "1000000/s"})).await;
    assert_eq!(ends(&bench, "complete").await["done"], LETTERS - 10);
    receiver.received(2 * LETTERS).await;
    assert_eq!(receiver.all()[LETTERS..].iter().filter(|r| r.attempt() == 2).count(), LETTERS, "each once");
    bench.sound().await;
}

#[tokio::test]
async fn letters_redriven_by_hand_or_dead_again_are_skipped() {
    let (bench, receiver) = dead(Clock::manual(START), |_| status(422)).await;
    redrive(&bench, json!({"rate": "1/h"})).await;
    wait_for("the first", async || (newest(&bench).await["done"] == 1).then_some(())).await;
    bench.clock.advance(Duration::from_secs(1));
    redrive(&bench, json!({})).await;
    wait_for("all died again", async || (bench.count("/dlq/depth").await == LETTERS as u64).then_some(())).await;
    bench.clock.advance(Duration::from_secs(3600 * LETTERS as u64));
    bench.change("/v1/dlq/redrives/default/stop", json!({})).await;
    redrive(&bench, json!({"canary": true, "dry_run": true})).await;
    assert_eq!(newest(&bench).await["state"], "stopped", "a dry run begins nothing");
    assert_eq!(newest(&bench).await["done"], 1);
    assert!(receiver.all().iter().all(|r| r.attempt() <= 3));
    bench.sound().await;
}

#[tokio::test]
async fn an_invalid_rate_is_refused_and_starts_nothing() {
    let (bench, _receiver) = dead(Clock::system(), |_| status(200)).await;
    for (rate, part) in [("fast", "no unit of time"), ("0/s", "below the minimum"), ("3/week", "not per s, m, h or d")]
    {
        let body = json!({"all": true, "rate": rate}).to_string();
        let refused = bench.admin("POST", "/v1/dlq/redrive", body.as_bytes()).await;
        let message = refused.json()["error"]["message"].to_string();
        assert!(refused.status == 400 && message.contains(part), "{rate}: {message}");
    }
    let purge = bench.admin("POST", "/v1/dlq/purge", br#"{"all": true, "canary": true}"#).await;
    assert_eq!(purge.status, 400, "a purge has no pace");
    assert_eq!(bench.get("/v1/dlq/redrives").await, json!({"items": [], "next": null}));
    assert_eq!(bench.count("/dlq/depth").await, LETTERS as u64);
}

#[tokio::test]
async fn a_redrive_reports_results_while_it_runs_and_afterwards() {
    let (mut bench, receiver) = dead(Clock::manual(START), |r| match r.sequence() {
        1 | 2 => status(200),
        3 => status(422),
        _ => held(status(200)),
    })
    .await;
    let told = async |bench: &Bench, wanted: [u64; 4]| {
        let what = format!("{wanted:?}");
        wait_for(&what, async || (fared(&newest(bench).await) == wanted).then_some(())).await;
    };
    redrive(&bench, json!({"rate": "10/s"})).await;
    told(&bench, [2, 0, 0, 0]).await;
    bench.clock.advance(Duration::from_millis(300));
    told(&bench, [2, 1, 0, 1]).await; // the fourth is still in flight
    bench.crash();
    bench.open().await;
    told(&bench, [2, 1, 0, 3]).await; // it is sent again, and two more
    bench.change("/v1/dlq/redrives/default/stop", json!({})).await;
    receiver.received(LETTERS + 7).await;
    receiver.release(LETTERS);
    told(&bench, [5, 1, 0, 0]).await;
    let ended = newest(&bench).await;
    assert_eq!((&ended["state"], &ended["done"]), (&json!("stopped"), &json!(6)));
    let audit = bench.get("/v1/audit?limit=1").await;
    assert_eq!(audit["items"][0]["what"], "dlq redrive for default: stopped, 2 delivered, 1 dead again so far");
    bench.restart().await;
    assert_eq!(fared(&newest(&bench).await), [5, 1, 0, 0], "it is remembered");
    bench.sound().await;
}

#[tokio::test]
async fn letters_purged_during_a_redrive_are_reported_as_gone() {
    let (bench, _receiver) = dead(Clock::manual(START), |r| status(if r.sequence() == 1 { 503 } else { 200 })).await;
    redrive(&bench, json!({"rate": "1000/s"})).await;
    wait_for("one is left", async || (fared(&newest(&bench).await) == [29, 0, 0, 1]).then_some(())).await;
    assert_eq!(newest(&bench).await["state"], "complete");
    let waits = bench.get("/v1/events?state=delayed").await["items"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(bench.admin("DELETE", &format!("/v1/events/{waits}"), b"").await.status, 200);
    wait_for("it is told", async || (fared(&newest(&bench).await) == [29, 0, 1, 0]).then_some(())).await;
    bench.sound().await;
}
