//! Data folders and backups of earlier formats, created by earlier builds (see `tests/samples/store`): this build opens them without
//! loss.

use crate::harness::bench::{Bench, destination, source, wait_for};
use crate::harness::receiver::{Received, Receiver};
use flate2::read::GzDecoder;
use holdline::clock::Clock;
use holdline::config::settings::{OnDeadLetter, Settings, Source};
use holdline::store::{restore, verify};
use holdline::time::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples/store").join(name)
}

fn unzipped(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    GzDecoder::new(std::fs::File::open(sample(name)).unwrap()).read_to_end(&mut bytes).unwrap();
    bytes
}

/// Unpacks a tar archive of plain files.
fn unpack(name: &str, into: &Path) {
    let archive = unzipped(&format!("{name}.tar.gz"));
    let mut rest = archive.as_slice();
    while rest[0] != 0 {
        let text = |field: &[u8]| String::from_utf8(field.iter().copied().take_while(|b| *b != 0).collect()).unwrap();
        let (path, size) = (into.join(text(&rest[..100])), usize::from_str_radix(&text(&rest[124..135]), 8).unwrap());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &rest[512..512 + size]).unwrap();
        rest = &rest[512 + size.next_multiple_of(512)..];
    }
}

fn format_of(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("format")).unwrap()
}

/// An event as the build that created the folder reported it.
struct Event(Value);

impl Event {
    fn text(&self, field: &str) -> &str {
        self.0[field].as_str().unwrap()
    }

    fn state(&self, destination: &str) -> Option<&str> {
        self.0["deliveries"][destination].as_str()
    }

    /// Whether its body is still stored.
    fn is_stored(&self) -> bool {
        let mut states = self.0["deliveries"].as_object().unwrap().values();
        states.any(|state| ["waiting", "delayed", "dead"].iter().any(|stored| state == stored))
    }
}

/// A folder of an earlier build, opened by this one, and its expected content.
struct Fixture {
    bench: Bench,
    receivers: BTreeMap<&'static str, Receiver>,
    expected: Value,
    events: Vec<Event>,
}

const DESTINATIONS: [&str; 5] = ["crm", "bi", "strict", "slow", "bulk"];

impl Fixture {
    async fn open(name: &str) -> Self {
        let expected: Value = serde_json::from_slice(&std::fs::read(sample(&format!("{name}.json"))).unwrap()).unwrap();
        let events = expected["events"].as_array().unwrap().iter().cloned().map(Event).collect();
        let mut receivers = BTreeMap::new();
        for destination in DESTINATIONS {
            receivers.insert(destination, Receiver::good().await);
        }
        let now = Timestamp(expected["made_at"].as_u64().unwrap() + 5_000);
        let bench = Bench::with(None, Clock::manual(now), |settings| {
            unpack(name, &settings.store.path);
            let found = verify(&settings.store.path).unwrap();
            assert_eq!(found.faults, Vec::<String>::new(), "before this build writes");
            configure(settings, &receivers);
        })
        .await;
        Self { bench, receivers, expected, events }
    }

    /// Events of which this destination has or had a delivery, in the order of acceptance.
    fn of<'a>(&'a self, destination: &'a str) -> impl Iterator<Item = &'a Event> {
        self.events.iter().filter(move |event| event.state(destination).is_some())
    }

    fn find(&self, sender_id: &str) -> &Event {
        self.events.iter().find(|event| event.text("sender_id") == sender_id).unwrap()
    }

    async fn becomes(&self, event: &Event, destination: &str, state: &str) {
        let path = format!("/v1/events/{}", event.text("id"));
        wait_for(&format!("{} is {state}", event.0), async || {
            let deliveries = self.bench.get(&path).await["deliveries"].take();
            let mut all = deliveries.as_array().unwrap().iter();
            all.find(|d| d["destination"] == destination && d["state"] == state).map(|_| ())
        })
        .await;
    }

    /// Asserts that a destination received its waiting deliveries and dead letters once, in order, byte for byte.
    fn assert_received(&self, destination: &str) {
        let received = self.receivers[destination].all();
        let wanted: Vec<_> = self
            .of(destination)
            .filter(|event| !["delivered", "discarded"].contains(&event.state(destination).unwrap()))
            .collect();
        assert_eq!(received.len(), wanted.len(), "{destination}");
        let mut order: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for event in wanted {
            let [got] = &self.receivers[destination].of(event.text("id"))[..] else { panic!("{}", event.0) };
            assert_eq!(String::from_utf8_lossy(&got.body), event.text("body"), "{destination}");
            assert_eq!(got.interaction(), event.text("interaction"));
            order.entry(event.text("interaction")).or_default().push(event.text("id"));
        }
        for (interaction, ids) in order {
            let got: Vec<_> = received.iter().filter(|r| r.interaction() == interaction).map(Received::id).collect();
            assert_eq!(got, ids, "{destination}, {interaction}");
        }
    }
}

/// The configuration with which the fixture was created, without the removed destination `legacy`.
fn configure(settings: &mut Settings, receivers: &BTreeMap<&str, Receiver>) {
    let from = |name: &str, to: &[&str]| Source {
        to: to.iter().map(|&name| name.to_owned()).collect(),
        ..source(name, "interaction")
    };
    settings.sources = vec![
        from("calls", &["crm", "bi"]),
        from("strict", &["strict"]),
        from("slow", &["slow"]),
        from("bulk", &["bulk"]),
    ];
    settings.destinations = DESTINATIONS.iter().map(|name| destination(name, &receivers[name].url())).collect();
    settings.destinations[2].ordering.on_dead_letter = OnDeadLetter::Hold;
}

async fn is_taken_over(name: &str) {
    let mut fixture = Fixture::open(name).await;
    states_and_bodies_are_kept(&fixture).await;
    notes_and_overrides_are_kept(&fixture).await;
    if name.ends_with("stopped") {
        let closed = fixture.bench.post_as("calls", &[], b"{}").await;
        assert_eq!(closed.status, 503, "an operator has closed intake: {}", closed.text());
        fixture.bench.change("/v1/intake/open", json!({})).await;
    }
    the_sender_repeats_what_was_not_acknowledged(&mut fixture).await;
    duplicates_are_recognised(&fixture).await;
    deliveries_go_out(&fixture).await;
    dead_letters_are_redriven(&fixture).await;
    the_removed_destination_returns(&mut fixture).await;
    let bench = &mut fixture.bench;
    bench.reaches("/queue/depth", 0).await;
    bench.sound().await;
    assert_eq!(format_of(bench.folder.path()), format_of(Bench::start(None).await.folder.path()));
    bench.restart().await;
    bench.stop().await;
    let found = verify(&bench.settings.store.path).unwrap();
    assert_eq!((found.faults, found.waiting, found.dead), (Vec::new(), 0, 0));
}

async fn states_and_bodies_are_kept(fixture: &Fixture) {
    let (bench, expected) = (&fixture.bench, &fixture.expected);
    let status = bench.status().await;
    let accepted = status["counters"]["accepted"].as_u64().unwrap() - expected["accepted"].as_u64().unwrap();
    // the killed build may have stored the event that it did not acknowledge
    assert!(accepted == 0 || (accepted == 1 && expected["unacknowledged"].is_object()), "{status}");
    let stored = [&status["queue"]["depth"], &status["dlq"]["depth"], &status["counters"]["delivered"]];
    let stored: u64 = stored.iter().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(
        stored,
        accepted + ["waiting", "dead", "delivered"].map(|n| expected[n].as_u64().unwrap()).iter().sum::<u64>()
    );
    let mut sequence = 0;
    for event in &fixture.events {
        let now = bench.get(&format!("/v1/events/{}", event.text("id"))).await;
        assert!(now["sequence"].as_u64().unwrap() > sequence, "the order of acceptance");
        sequence = now["sequence"].as_u64().unwrap();
        assert_eq!(now["source"], event.0["source"]);
        for delivery in now["deliveries"].as_array().unwrap() {
            let destination = delivery["destination"].as_str().unwrap();
            // its redrive is running
            if destination != "slow" {
                let state = delivery["state"].as_str().unwrap();
                let state = if ["queued", "blocked"].contains(&state) { "waiting" } else { state };
                assert_eq!(Some(state), event.state(destination), "{}: {now}", event.0);
            }
        }
        if event.is_stored() && event.state("slow").is_none() {
            assert_eq!((&now["interaction"], &now["sender_id"]), (&event.0["interaction"], &event.0["sender_id"]));
            let body = bench.admin("GET", &format!("/v1/events/{}/body", event.text("id")), b"").await;
            assert_eq!((body.status, body.text().as_str()), (200, event.text("body")));
        }
    }
}

async fn notes_and_overrides_are_kept(fixture: &Fixture) {
    let bench = &fixture.bench;
    for (name, reason) in
        [("crm", "new release of the CRM"), ("bulk", "to be imported by night"), ("bi", "maintenance")]
    {
        let state = bench.get(&format!("/v1/destinations/{name}")).await;
        assert!(state["blocked_by"].as_array().unwrap().iter().any(|blocker| blocker["reason"] == reason), "{state}");
        assert_eq!(state["paused"], name != "bi", "{state}");
        assert_eq!(fixture.receivers[name].count(), 0);
    }
    let audit = bench.get("/v1/audit?limit=100").await["items"].take();
    let audit: Vec<_> = audit.as_array().unwrap().iter().map(|a| json!([a["who"], a["what"]])).collect();
    let expected = fixture.expected["audit"].as_array().unwrap();
    // newer entries are by this test
    let known = audit.iter().position(|entry| *entry == expected[0]).unwrap_or_else(|| panic!("{audit:?}"));
    assert_eq!(audit[known..], expected[..]);
    let outages = bench.get("/v1/outages").await["items"].take();
    for from in fixture.expected["outages"].as_array().unwrap() {
        assert!(outages.as_array().unwrap().iter().any(|outage| outage["from"] == *from), "{outages}");
    }
    let quarantined = bench.get("/v1/quarantine").await["items"].take();
    assert_eq!((&quarantined[0]["source"], &quarantined[0]["size"]), (&json!("calls"), &json!(20)), "{quarantined}");
}

/// It may be stored already; afterwards it is stored exactly once.
async fn the_sender_repeats_what_was_not_acknowledged(fixture: &mut Fixture) {
    let mut event = fixture.expected["unacknowledged"].clone();
    if event.is_object() {
        let reply = fixture.bench.post_as("bulk", &[], event["body"].as_str().unwrap().as_bytes()).await;
        assert_eq!(reply.status, 202, "{}", reply.text());
        event["id"] = reply.json()["id"].take();
        fixture.events.push(Event(event));
    }
}

async fn duplicates_are_recognised(fixture: &Fixture) {
    // `c2-1` has two bodies
    for event in fixture.events.iter().filter(|e| e.text("source") != "legacy" && e.text("sender_id") != "c2-1") {
        let again = fixture.bench.post_as(event.text("source"), &[], event.text("body").as_bytes()).await;
        assert_eq!((again.status, &again.json()["status"]), (202, &json!("duplicate")), "{}", event.0);
        assert_eq!(again.json()["id"], event.0["id"]);
    }
}

async fn deliveries_go_out(fixture: &Fixture) {
    let bench = &fixture.bench;
    for name in ["crm", "bulk"] {
        bench.change(&format!("/v1/destinations/{name}/resume"), json!({})).await;
    }
    bench.change("/v1/destinations/bi/breaker", json!({"state": "closed"})).await;
    bench.clock.advance(Duration::from_secs(3600)); // the delayed delivery for `bi` is due
    for name in ["crm", "bi", "bulk"] {
        for event in fixture.of(name) {
            fixture.becomes(event, name, "delivered").await;
        }
    }
    fixture.assert_received("crm");
    fixture.assert_received("bi");
    fixture.assert_received("bulk");
}

async fn dead_letters_are_redriven(fixture: &Fixture) {
    let bench = &fixture.bench;
    assert_eq!(fixture.receivers["strict"].count(), 0, "the event after a dead letter waits");
    bench.change("/v1/dlq/redrive", json!({"filter": {"destination": "strict"}})).await;
    for sender_id in ["s1-1", "s1-2", "s2-1"] {
        fixture.becomes(fixture.find(sender_id), "strict", "delivered").await;
    }
    fixture.assert_received("strict");
    let redrives = bench.get("/v1/dlq/redrives").await["items"].take();
    assert_eq!((&redrives[0]["destination"], &redrives[0]["matched"]), (&json!("slow"), &json!(8)), "{redrives}");
    if redrives[0]["state"] == "goes_on" {
        bench.change("/v1/dlq/redrives/slow/stop", json!({})).await;
        bench.change("/v1/dlq/redrive", json!({"filter": {"destination": "slow"}})).await;
    }
    for event in fixture.of("slow") {
        fixture.becomes(event, "slow", "delivered").await;
    }
    fixture.assert_received("slow");
}

async fn the_removed_destination_returns(fixture: &mut Fixture) {
    let waiting = |status: &Value| status["queue"]["depth"].as_u64().unwrap();
    assert_eq!(waiting(&fixture.bench.status().await), 3, "its deliveries are kept");
    let receiver = Receiver::good().await;
    fixture.bench.stop().await;
    fixture.bench.settings.destinations.push(destination("legacy", &receiver.url()));
    fixture.bench.open().await;
    fixture.receivers.insert("legacy", receiver);
    for event in fixture.of("legacy") {
        fixture.becomes(event, "legacy", "delivered").await;
    }
    fixture.assert_received("legacy");
}

#[tokio::test]
async fn format_2_is_taken_over_after_a_stop() {
    is_taken_over("format-2-stopped").await;
}

#[tokio::test]
async fn format_2_is_taken_over_after_a_kill() {
    is_taken_over("format-2-killed").await;
}

#[tokio::test]
async fn format_3_is_taken_over_after_a_stop() {
    is_taken_over("format-3-stopped").await;
}

#[tokio::test]
async fn format_3_is_taken_over_after_a_kill() {
    is_taken_over("format-3-killed").await;
}

#[test]
fn backups_of_earlier_formats_are_restored() {
    for name in ["format-2", "format-3"] {
        let expected: Value =
            serde_json::from_slice(&std::fs::read(sample(&format!("{name}-stopped.json"))).unwrap()).unwrap();
        let data = tempfile::tempdir().unwrap();
        let found =
            restore(Cursor::new(unzipped(&format!("{name}.backup.gz"))), &data.path().join("d"), || {}).unwrap();
        assert_eq!(found.faults, Vec::<String>::new(), "{name}");
        let counts = (found.accepted, found.waiting, found.dead);
        let wanted = ["accepted", "waiting", "dead"].map(|n| expected[n].as_u64().unwrap());
        assert_eq!([counts.0, counts.1, counts.2], wanted, "{name}");
    }
}
