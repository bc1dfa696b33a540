//! An operator's changes through the admin API, the audit entries about them, and the entries about the daemon's own
//! starts and stops.

use crate::harness::bench::{Bench, START, body, wait_for};
use crate::harness::receiver::{Act, Receiver, held, status};
use holdline::clock::Clock;
use holdline::delivery::{DeliveryId, Place};
use holdline::event::{DestinationId, EventId};
use holdline::rules::backoff::Jitter;
use holdline::store::Transition;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A daemon with a manual clock whose destination fails until it is repaired.
async fn failing() -> (Bench, Receiver, Arc<AtomicBool>) {
    let mended = Arc::new(AtomicBool::new(false));
    let mended_too = mended.clone();
    let receiver = Receiver::start(move |r| match r.interaction() {
        "stuck" => held(status(200)),
        "dead" if !mended_too.load(Ordering::SeqCst) => status(422),
        _ => status(if mended_too.load(Ordering::SeqCst) { 200 } else { 503 }),
    })
    .await;
    let bench = Bench::with(receiver.to(), Clock::manual(START), |s| {
        s.destinations[0].retry.jitter = Jitter::None;
        s.destinations[0].retry.base = Duration::from_secs(3600);
        s.destinations[0].retry.max = Duration::from_secs(3600);
    })
    .await;
    (bench, receiver, mended)
}

async fn asked(bench: &Bench, method: &str, path: &str) -> (u16, Value) {
    let reply = bench.admin(method, path, b"").await;
    (reply.status, reply.json())
}

fn told(audit: &Value) -> Vec<(String, String, u64)> {
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let items = audit["items"].as_array().unwrap().iter();
    items.map(|i| (text(&i["who"]), text(&i["what"]), i["count"].as_u64().unwrap())).collect()
}

#[tokio::test]
async fn a_manual_retry_is_immediate_and_audited() {
    let (bench, receiver, mended) = failing().await;
    let late = bench.accept("late", "1").await;
    bench.becomes(&late, "delayed").await;
    let dead = bench.accept("dead", "2").await;
    bench.becomes(&dead, "dead").await;
    mended.store(true, Ordering::SeqCst);
    let dry = asked(&bench, "POST", &format!("/v1/events/{late}/retry?dry_run=true")).await;
    assert_eq!(dry, (200, json!({"matched": 1, "done": 0, "destinations": {"default": 1}})));
    assert_eq!(receiver.count(), 2);
    for id in [&late, &dead] {
        let done = asked(&bench, "POST", &format!("/v1/events/{id}/retry?destination=default")).await;
        assert_eq!(done, (200, json!({"matched": 1, "done": 1, "destinations": {"default": 1}})));
        bench.becomes(id, "delivered").await;
    }
    let again = asked(&bench, "POST", &format!("/v1/events/{late}/retry")).await;
    assert_eq!((again.0, &again.1["error"]["code"]), (409, &json!("conflict")));
    let audit = told(&bench.get("/v1/audit").await);
    let admin = |what: String| ("admin".to_owned(), what, 1);
    assert_eq!(audit, [admin("dlq redrive".to_owned()), admin(format!("event retry {late}"))], "the newest first");
    bench.sound().await;
}

#[tokio::test]
async fn a_discarded_event_is_not_delivered_and_unblocks_the_next() {
    let (mut bench, receiver, mended) = failing().await;
    let late = bench.accept("late", "1").await;
    bench.becomes(&late, "delayed").await;
    let behind = bench.accept("late", "2").await;
    bench.becomes(&behind, "blocked").await;
    let further = bench.accept("late", "3").await;
    let stuck = bench.accept("stuck", "4").await;
    bench.becomes(&stuck, "in_flight").await;
    let busy = asked(&bench, "DELETE", &format!("/v1/events/{stuck}")).await;
    assert_eq!((busy.0, &busy.1["error"]["code"]), (409, &json!("conflict")), "{busy:?}");
    mended.store(true, Ordering::SeqCst);
    let one = (200, json!({"matched": 1, "done": 1, "destinations": {"default": 1}}));
    assert_eq!(asked(&bench, "DELETE", &format!("/v1/events/{behind}")).await, one);
    assert_eq!(asked(&bench, "DELETE", &format!("/v1/events/{late}")).await, one);
    bench.becomes(&further, "delivered").await;
    for id in [&late, &behind] {
        assert_eq!(bench.becomes(id, "discarded").await["blocked_by"], Value::Null);
        assert_eq!(asked(&bench, "DELETE", &format!("/v1/events/{id}")).await.0, 409);
    }
    assert_eq!((receiver.of(&late).len(), receiver.of(&behind).len()), (1, 0));
    assert_eq!(bench.count("/counters/discarded").await, 2);
    bench.sound().await;
    bench.crash();
    bench.open().await;
    bench.becomes(&late, "discarded").await;
    assert_eq!(told(&bench.get("/v1/audit").await).len(), 2, "an answered change is durable, with its entry");
    bench.sound().await;
}

#[tokio::test]
async fn a_sender_id_finds_its_newest_event() {
    let (bench, _receiver, _mended) = failing().await;
    bench.accept("k", "order 7").await;
    let other_body = bench.accept("k2", "order 7").await;
    let found = bench.get("/v1/events/default:order%207").await;
    assert_eq!((&found["id"], &found["conflict"]), (&json!(other_body), &json!(true)));
    for unknown in ["/v1/events/default:nothing", "/v1/events/other:order%207", "/v1/events/default:"] {
        assert_eq!(asked(&bench, "GET", unknown).await.0, 404, "{unknown}");
    }
}

#[tokio::test]
async fn an_export_has_every_matching_dead_letter_with_its_body() {
    let receiver = Receiver::start(|r| Act::Answer {
        status: 422,
        headers: Vec::new(),
        body: r.interaction().as_bytes().to_vec(),
    })
    .await;
    let bench = Bench::start(receiver.to()).await;
    let mut ids = Vec::new();
    for n in 0..150 {
        ids.push(bench.accept(&format!("k{}", n % 2), &n.to_string()).await);
    }
    bench.reaches("/dlq/depth", 150).await;
    let reply = bench.admin("GET", "/v1/dlq/export?interaction=k1", b"").await;
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/x-ndjson")));
    let lines: Vec<Value> = reply.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 75);
    for (line, n) in lines.iter().zip((1..150).step_by(2)) {
        assert_eq!(line["id"], json!(ids[n]));
        let sent = body("k1", &n.to_string());
        assert_eq!(line["body"].as_str().unwrap().as_bytes(), sent, "byte for byte");
        assert_eq!(line["attempts"][0]["answer"], json!("k1"));
    }
    let few = bench.admin("GET", "/v1/dlq/export?limit=5&after=10", b"").await.text();
    assert_eq!(few.lines().count(), 5);
    assert_eq!(serde_json::from_str::<Value>(few.lines().next().unwrap()).unwrap()["id"], json!(ids[10]));
}

#[tokio::test]
async fn a_closed_intake_stays_closed_over_a_restart_until_its_time() {
    let mut bench = Bench::with(None, Clock::manual(START), |_| {}).await;
    let close = json!({"reason": "migration", "for": "30m"});
    let closed = bench.change("/v1/intake/close", close).await;
    let until = START.after(Duration::from_secs(1800)).to_string();
    assert_eq!(closed, json!({"open": false, "reason": "intake_closed", "until": until}));
    let refused = bench.post(&body("k", "1")).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "intake_closed"));
    assert!(refused.header("retry-after").is_some());
    bench.restart().await;
    assert_eq!(bench.post(&body("k", "1")).await.code(), "intake_closed");
    assert_eq!(bench.get("/v1/status").await["intake"], json!({"open": false, "reason": "intake_closed"}));
    bench.clock.advance(Duration::from_secs(1801));
    wait_for("intake is open", async || (bench.post(&body("k", "1")).await.status == 202).then_some(())).await;
    bench.change("/v1/intake/close", json!({})).await;
    let open = bench.change("/v1/intake/open", json!({})).await;
    assert_eq!(open, json!({"open": true, "reason": null, "until": null}));
    bench.accept("k", "2").await;
    let audit = told(&bench.get("/v1/audit").await);
    let what: Vec<&str> = audit.iter().map(|(_, what, _)| what.as_str()).collect();
    let timed = "intake open: its time is over";
    assert_eq!(what, ["intake open", "intake close", timed, "intake close: migration"]);
    for wrong in [
        json!({"for": "soon"}),
        json!({"for": "0s"}),
        json!({"reason": "x".repeat(501)}),
        json!({"fro": 1}),
        json!(["why"]),
    ] {
        let reply = bench.admin("POST", "/v1/intake/close", wrong.to_string().as_bytes()).await;
        assert_eq!((reply.status, reply.code().as_str()), (400, "invalid_request"), "{wrong}");
    }
}

/// The outages as (reason, whether it is over, refused), newest first.
async fn outages(bench: &Bench) -> Vec<(String, bool, u64)> {
    let outages = bench.get("/v1/outages").await;
    let items = outages["items"].as_array().unwrap().iter();
    items
        .map(|g| (g["reason"].as_str().unwrap().to_owned(), g["until"].is_string(), g["refused"].as_u64().unwrap()))
        .collect()
}

#[tokio::test]
async fn every_time_without_acceptance_is_an_outage_with_its_reason() {
    let mut bench = Bench::with(None, Clock::manual(START), |_| {}).await;
    assert_eq!(outages(&bench).await, []);
    bench.change("/v1/intake/close", json!({})).await;
    let noted = async |bench: &Bench, wanted: &[(&str, bool, u64)]| {
        let wanted: Vec<_> = wanted.iter().map(|(r, over, n)| ((*r).to_owned(), *over, *n)).collect();
        wait_for("the gap is noted", async || (outages(bench).await == wanted).then_some(())).await;
    };
    noted(&bench, &[("intake_closed", false, 0)]).await;
    assert_eq!(bench.post(&body("k", "1")).await.status, 503);
    bench.clock.advance(Duration::from_secs(5));
    bench.change("/v1/intake/open", json!({})).await;
    noted(&bench, &[("intake_closed", true, 1)]).await;
    bench.stop().await;
    bench.clock.advance(Duration::from_secs(60));
    bench.open().await;
    noted(&bench, &[("draining", true, 0), ("intake_closed", true, 1)]).await;
    let of_stop = bench.get("/v1/outages?limit=1").await;
    let (from, until) = (START.after(Duration::from_secs(5)), START.after(Duration::from_secs(65)));
    assert_eq!(of_stop["items"][0]["from"], json!(from.to_string()));
    assert_eq!(of_stop["items"][0]["until"], json!(until.to_string()));
    let older = bench.get(&format!("/v1/outages?after={}", of_stop["next"].as_str().unwrap())).await;
    assert_eq!(older["items"][0]["reason"], json!("intake_closed"));
    wait_for("it has noted that it lives", async || (bench.heartbeat() == Some(bench.clock.now())).then_some(())).await;
    bench.crash();
    bench.clock.advance(Duration::from_secs(60));
    bench.open().await;
    assert_eq!(outages(&bench).await[0], ("crash".to_owned(), true, 0));
}

#[tokio::test]
async fn waiting_deliveries_are_counted_by_destination_and_age() {
    let (bench, _receiver, _mended) = failing().await;
    let old = bench.accept("late", "1").await;
    bench.becomes(&old, "delayed").await;
    bench.accept("late", "2").await;
    bench.clock.advance(Duration::from_secs(120));
    for n in 0..3 {
        let id = bench.accept("late", &format!("new {n}")).await;
        bench.becomes(&id, "blocked").await;
    }
    bench.clock.advance(Duration::from_secs(5));
    let ages = bench.get("/v1/ages").await;
    let of = &ages["items"][0];
    let counts: Vec<u64> = of["ages"].as_array().unwrap().iter().map(|a| a["count"].as_u64().unwrap()).collect();
    assert_eq!((of["destination"].as_str(), counts), (Some("default"), vec![3, 0, 2, 0, 0, 0, 0, 0]), "{ages}");
}

#[tokio::test]
async fn damaged_records_are_listed_with_their_delivery() {
    let bench = Bench::with(None, Clock::manual(START), |_| {}).await;
    let ids = [bench.accept("k", "1").await, bench.accept("k", "2").await];
    for (n, id) in ids.iter().enumerate() {
        let sequence = id.parse::<EventId>().unwrap().sequence();
        let id = DeliveryId { sequence, destination: DestinationId(0) };
        let why = format!("checksum {n}");
        bench.store().record(Transition::Damaged { id, place: Place::Page, why, at: START });
    }
    bench.store().flush().await.unwrap();
    let list = bench.get("/v1/damaged").await;
    let [newest, oldest] = list["items"].as_array().unwrap().as_slice() else { panic!("{list}") };
    assert_eq!((&oldest["event"], &oldest["destination"]), (&json!(ids[0]), &json!("default")), "{list}");
    assert_eq!((&oldest["found_at"], &oldest["why"]), (&json!(START.to_string()), &json!("checksum 0")), "{list}");
    assert_eq!((&newest["event"], &newest["sequence"], &list["next"]), (&json!(ids[1]), &json!(2), &Value::Null));
    let page = bench.get("/v1/damaged?limit=1").await;
    let older = bench.get(&format!("/v1/damaged?limit=1&after={}", page["next"].as_str().unwrap())).await;
    assert_eq!((&page["items"][0], &older["items"][0]), (newest, oldest));
    assert_eq!(bench.status().await["counters"]["damaged"], 2);
}
