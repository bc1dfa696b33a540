//! A change applies to one event for one destination. It affects no other delivery, dead or waiting.

use crate::harness::bench::{Bench, START, destination};
use crate::harness::process::Process;
use crate::harness::receiver::{Receiver, held, status};
use holdline::clock::Clock;
use serde_json::{Value, json};
use std::time::Duration;

const THREE: [&str; 3] = ["default", "erp", "wall"];

/// Two events, each a dead letter of three destinations.
async fn dead_for_three() -> (Bench, Vec<Receiver>, Vec<String>) {
    let mut receivers = Vec::new();
    for _ in THREE {
        receivers.push(Receiver::start(|r| status(if r.attempt() == 1 { 422 } else { 200 })).await);
    }
    let bench = Bench::with(receivers[0].to(), Clock::manual(START), |s| {
        s.destinations.extend((1..3).map(|n| destination(THREE[n], &receivers[n].url())));
    })
    .await;
    let ids = vec![bench.accept("k0", "1").await, bench.accept("k1", "2").await];
    bench.reaches("/dlq/depth", 6).await;
    (bench, receivers, ids)
}

/// The names of the dead letters.
async fn dead_letters(bench: &Bench) -> Vec<String> {
    let list = bench.get("/v1/dlq").await;
    let name = |l: &Value| format!("{}/{}", l["id"].as_str().unwrap(), l["destination"].as_str().unwrap());
    list["items"].as_array().unwrap().iter().map(name).collect()
}

fn named(id: &str, destinations: &[&str]) -> Vec<String> {
    destinations.iter().map(|d| format!("{id}/{d}")).collect()
}

#[tokio::test]
async fn one_of_three_dead_letters_is_redriven_and_two_stay() {
    let (bench, receivers, ids) = dead_for_three().await;
    let purge = async |selection: Value| {
        let mut dry = selection.clone();
        dry["dry_run"] = json!(true);
        let (dry, done) = (bench.change("/v1/dlq/purge", dry).await, bench.change("/v1/dlq/purge", selection).await);
        assert_eq!((&dry["matched"], &dry["destinations"]), (&done["done"], &done["destinations"]), "{dry} {done}");
        done
    };
    let one = [format!("{}/erp", ids[0])];
    assert_eq!(purge(json!({"ids": one})).await, json!({"matched": 1, "done": 1, "destinations": {"erp": 1}}));
    assert_eq!(dead_letters(&bench).await, [named(&ids[0], &["default", "wall"]), named(&ids[1], &THREE)].concat());
    assert_eq!(purge(json!({"ids": one})).await, json!({"matched": 0, "done": 0, "destinations": {}}));
    let both = json!({"ids": [format!("{}/wall", ids[1]), format!("{}/wall", ids[1])], "destination": "wall"});
    assert_eq!(bench.change("/v1/dlq/redrive", both).await["done"], 1, "named twice, sent once");
    receivers[2].received(3).await;
    bench.reaches("/counters/delivered", 1).await;
    assert_eq!(receivers.iter().map(Receiver::count).collect::<Vec<_>>(), [2, 2, 3]);
    assert_eq!(
        dead_letters(&bench).await,
        [named(&ids[0], &["default", "wall"]), named(&ids[1], &["default", "erp"])].concat()
    );
    let mixed = json!({"ids": [ids[0], format!("{}/erp", ids[1])]});
    assert_eq!(
        purge(mixed).await["destinations"],
        json!({"default": 1, "erp": 1, "wall": 1}),
        "an event alone is all of it"
    );
    assert_eq!(dead_letters(&bench).await, named(&ids[1], &["default"]));
    let unknown = json!({"ids": [format!("{}/nobody", ids[1])]}).to_string();
    assert_eq!(bench.admin("POST", "/v1/dlq/purge", unknown.as_bytes()).await.status, 404);
    for empty in [json!({"ids": []}), json!({"ids": [], "destination": "default"})] {
        assert_eq!(purge(empty).await["matched"], 0, "an empty list means nothing");
    }
    assert_eq!(bench.count("/dlq/depth").await, 1);
    bench.sound().await;
}

#[tokio::test]
async fn a_letter_that_dies_after_the_dry_run_is_not_changed() {
    for (what, selection) in [
        ("purge", json!({"all": true})),
        ("purge", json!({"filter": {"destination": "default"}})),
        ("redrive", json!({"filter": {"reason": "permanent"}})),
    ] {
        let receiver = Receiver::start(|r| status(if r.attempt() == 1 { 422 } else { 200 })).await;
        let bench = Bench::with(receiver.to(), Clock::manual(START), |_| {}).await;
        bench.accept("k0", "1").await;
        bench.reaches("/dlq/depth", 1).await;
        let ask = async |more: Value| {
            let mut body = selection.clone();
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            bench.change(&format!("/v1/dlq/{what}"), body).await
        };
        let shown = ask(json!({"dry_run": true})).await;
        bench.clock.advance(Duration::from_secs(1));
        let late = bench.accept("k1", "2").await;
        bench.becomes(&late, "dead").await;
        assert_eq!(ask(json!({"as_of": shown["as_of"], "dry_run": true})).await["matched"], shown["matched"]);
        assert_eq!(ask(json!({"as_of": shown["as_of"]})).await["done"], shown["matched"], "{what}");
        assert_eq!(dead_letters(&bench).await, named(&late, &["default"]));
        assert_eq!(ask(json!({})).await["done"], 1, "without it, all that is there");
        bench.sound().await;
    }
}

#[tokio::test]
async fn letters_that_died_before_the_clock_was_set_back_can_still_be_changed() {
    let receiver = Receiver::start(|_| status(422)).await;
    let mut bench = Bench::with(receiver.to(), Clock::manual(START.after(Duration::from_secs(86_400))), |_| {}).await;
    bench.accept("k0", "1").await;
    bench.reaches("/dlq/depth", 1).await;
    bench.stop().await;
    bench.clock = Clock::manual(START);
    bench.open().await;
    let shown = bench.change("/v1/dlq/purge", json!({"all": true, "dry_run": true})).await;
    assert_eq!(shown["matched"], 1);
    assert_eq!(bench.change("/v1/dlq/purge", json!({"all": true, "as_of": shown["as_of"]})).await["done"], 1);
}

#[tokio::test]
async fn an_event_accepted_after_the_dry_run_is_not_discarded() {
    let receiver = Receiver::start(|_| held(status(200))).await;
    let bench = Bench::with(receiver.to(), Clock::manual(START), |_| {}).await;
    bench.change("/v1/destinations/default/pause", json!({})).await;
    for n in 0..3 {
        bench.accept(&format!("k{n}"), "1").await;
    }
    let path = "/v1/destinations/default/discard";
    let all = |more: Value| {
        let mut body = json!({"all": true, "reason": "settled"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let shown = bench.change(path, all(json!({"dry_run": true}))).await;
    let late = bench.accept("k3", "1").await;
    let done = bench.change(path, all(json!({"as_of": shown["as_of"]}))).await;
    assert_eq!((&shown["matched"], &done["done"]), (&json!(3), &json!(3)));
    assert_eq!(bench.get("/v1/events?state=blocked").await["items"].as_array().unwrap().len(), 0);
    assert_ne!(bench.get(&format!("/v1/events/{late}")).await["deliveries"][0]["state"], "discarded");
    for wrong in [all(json!({"as_of": "soon"})), json!({"ids": [], "reason": "w", "as_of": "3"})] {
        assert_eq!(bench.admin("POST", path, wrong.to_string().as_bytes()).await.status, 400, "{wrong}");
    }
    assert_eq!(bench.change(path, all(json!({}))).await["done"], 1);
    bench.sound().await;
}

#[tokio::test]
async fn the_command_line_names_one_dead_letter_as_event_and_destination() {
    let one = Receiver::start(|_| status(422)).await;
    let more = format!(
        "[[destination]]\nname = \"erp\"\nurl = \"{0}\"\n[[destination]]\nname = \"wall\"\nurl = \"{0}\"",
        one.url()
    );
    let process = Process::start(&one.url(), &more).await;
    let ids = [process.accept("k0", "1").await, process.accept("k1", "2").await];
    process.has_dead(6).await;
    let says = async |arguments: &[&str], code: i32, text: &str| {
        let ran = process.run(arguments).await;
        assert!(ran.code == code && format!("{}{}", ran.out, ran.err).contains(text), "{arguments:?}: {ran:?}");
    };
    let erp = format!("{}/erp", ids[0]);
    says(&["dlq", "show", &erp], 0, "also dead for default, wall").await;
    says(&["dlq", "show", &erp, "--destination", "wall"], 2, "not for wall").await;
    says(&["dlq", "purge", &ids[0], "--dry-run"], 0, "3 dead letters would be discarded (default 1, erp 1, wall 1)")
        .await;
    says(&["dlq", "purge", &erp, "--yes"], 0, "1 dead letter discarded (erp)").await;
    says(&["dlq", "purge", &erp, "--yes"], 1, "no dead letter has these ids").await;
    says(&["dlq", "purge", &ids[0], "--destination", "wall", "--yes"], 0, "1 dead letter discarded (wall)").await;
    process.has_dead(4).await;
    says(&["explain", &ids[1]], 0, &format!("holdline dlq redrive {}/erp ", ids[1])).await;
    says(&["events", "retry", &format!("{}/erp", ids[1]), "--dry-run"], 0, "1 delivery would be tried again now (erp)")
        .await;
    says(&["events", "discard", &format!("{}/erp", ids[1]), "--yes"], 0, "1 delivery discarded (erp)").await;
    says(&["events", "discard", "default:2", "--destination", "wall", "--yes"], 0, "1 delivery discarded (wall)").await;
    process.has_dead(2).await;
    says(&["dlq", "redrive", "--all", "--dry-run"], 0, "2 dead letters would be queued again (default)").await;
}
