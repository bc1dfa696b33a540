//! The admin API: who may call it, what it shows, what it changes, and that it ignores no parameter.

use crate::harness::bench::{Bench, START, body, destination, request, source, wait_for};
use crate::harness::receiver::{Act, Receiver, held, status};
use holdline::clock::Clock;
use holdline::config::settings::Destination;
use holdline::rules::backoff::Jitter;
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

const UNKNOWN_ID: &str = "019a2b3c-4d5e-7000-8000-00fffc000000";

const GUARDED: [(&str, &str); 13] = [
    ("GET", "/metrics"),
    ("GET", "/v1/status"),
    ("GET", "/v1/destinations"),
    ("GET", "/v1/destinations/default"),
    ("GET", "/v1/events"),
    ("GET", "/v1/events/019a2b3c-4d5e-7000-8000-000004000000"),
    ("GET", "/v1/events/019a2b3c-4d5e-7000-8000-000004000000/body"),
    ("GET", "/v1/dlq"),
    ("GET", "/v1/dlq/019a2b3c-4d5e-7000-8000-000004000000"),
    ("GET", "/v1/dlq/019a2b3c-4d5e-7000-8000-000004000000/body"),
    ("POST", "/v1/dlq/redrive"),
    ("POST", "/v1/dlq/purge"),
    ("DELETE", "/v1/status"),
];

/// One event in each state a delivery can have, by the state's name; and the receiver, which has one of them in flight.
struct Zoo {
    bench: Bench,
    receiver: Receiver,
    ids: HashMap<&'static str, String>,
}

async fn zoo() -> Zoo {
    let receiver = Receiver::start(|r| match r.interaction() {
        "dead" | "purged" => Act::Answer { status: 422, headers: Vec::new(), body: b"no such order".to_vec() },
        "late" => status(503),
        "stuck" => held(status(200)),
        _ => status(200),
    })
    .await;
    let bench = Bench::with(receiver.to(), Clock::manual(START), |s| {
        s.destinations[0].retry.jitter = Jitter::None;
        s.destinations.push(Destination::named("nowhere"));
        s.sources[0].to = vec!["default".to_owned()];
        let mut held = source("held", "auto");
        held.to = vec!["nowhere".to_owned()];
        s.sources.push(held);
    })
    .await;
    let mut ids = HashMap::new();
    for (name, interaction, state) in [
        ("delivered", "good", "delivered"),
        ("dead", "dead", "dead"),
        ("discarded", "purged", "dead"),
        ("delayed", "late", "delayed"),
        ("blocked", "late", "blocked"),
        ("in_flight", "stuck", "in_flight"),
    ] {
        let id = bench.accept(interaction, name).await;
        bench.becomes(&id, state).await;
        ids.insert(name, id);
    }
    bench.change("/v1/dlq/purge", json!({"ids": [ids["discarded"]]})).await;
    let queued = bench.post_as("held", &[], &body("k", "queued")).await.json();
    ids.insert("queued", queued["id"].as_str().unwrap().to_owned());
    Zoo { bench, receiver, ids }
}

fn ids(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn every_path_but_the_health_checks_requires_the_token() {
    let bench = Bench::with(None, Clock::manual(START), |_| {}).await;
    let right = format!("Bearer {}", bench.token);
    let wrong = [
        None,
        Some("Bearer "),
        Some("Bearer wrong"),
        Some(bench.token.as_str()),
        Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
        Some(&right[..right.len() - 1]),
    ];
    for (method, path) in GUARDED {
        bench.clock.advance(Duration::from_secs(600)); // the limit on wrong tokens counts only recent ones
        for given in wrong {
            let headers: Vec<(&str, &str)> = given.map(|value| ("Authorization", value)).into_iter().collect();
            let reply = request(bench.admin, method, path, &headers, b"{\"all\": true}").await;
            if method == "DELETE" && reply.status == 405 {
                continue; // not found, with or without a token
            }
            assert_eq!((reply.status, reply.code().as_str()), (401, "unauthorized"), "{method} {path} {given:?}");
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
            assert!(!reply.text().contains(&bench.token));
        }
        assert_ne!(bench.admin(method, path, b"{\"all\": true}").await.status, 401, "{path}");
    }
    for path in ["/healthz", "/readyz"] {
        let reply = request(bench.admin, "GET", path, &[], b"").await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    }
}

#[tokio::test]
async fn the_token_is_made_once_and_readable_by_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let mut bench = Bench::start(None).await;
    let path = bench.folder.path().join("admin.token");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let token = std::fs::read_to_string(&path).unwrap().trim().to_owned();
    assert_eq!((token.len(), &token), (64, &bench.token));
    bench.restart().await;
    assert_eq!(bench.token, token);
}

#[tokio::test]
async fn a_wrong_request_is_refused_and_never_ignored() {
    let zoo = zoo().await;
    let dead = &zoo.ids["dead"];
    for path in [
        "/v1/events?stat=dead",
        "/v1/events?state=lost",
        "/v1/events?limit=many",
        "/v1/events?limit=-1",
        "/v1/events?limit=0",
        "/v1/dlq?limit=1001",
        "/v1/audit?limit=0",
        "/v1/events?after=soon",
        "/v1/events?since=yesterday",
        "/v1/events?reason=permanent",
        "/v1/events/abc",
        "/v1/events/abc/body",
        &format!("/v1/events/{dead}?destination=default"),
        &format!("/v1/events/{dead}/body?x=1"),
        "/v1/dlq?reason=bad-luck",
        "/v1/dlq?until=tomorrow",
        "/v1/dlq?typ=x",
        "/v1/dlq/abc",
        &format!("/v1/dlq/{dead}?stat=x"),
        &format!("/v1/dlq/{dead}?interaction=other"),
        "/v1/status?verbose=1",
        "/v1/destinations?name=default",
        "/v1/destinations/default?x=1",
        "/metrics?name=x",
    ] {
        let reply = zoo.bench.admin("GET", path, b"").await;
        assert_eq!((reply.status, reply.code().as_str()), (400, "invalid_request"), "{path}: {}", reply.text());
    }
    for body in [
        "".to_owned(),
        "nonsense".to_owned(),
        "{}".to_owned(),
        "[]".to_owned(),
        json!({"ids": [dead], "filter": {"destination": "default"}}).to_string(),
        json!({"ids": [dead], "all": true}).to_string(),
        json!({"filter": {"destination": "default"}, "all": true}).to_string(),
        json!({"all": false}).to_string(),
        json!({"all": true, "destination": "default"}).to_string(),
        json!({"ids": [format!("{dead}/default")], "destination": "other"}).to_string(),
        json!({"ids": [format!("{dead}/default")], "as_of": "soon"}).to_string(),
        json!({"filter": {}}).to_string(),
        json!({"filter": {"state": "dead"}}).to_string(),
        json!({"filter": {"destination": null, "since": null}}).to_string(),
        json!({"ids": ["abc"]}).to_string(),
        json!({"ids": [dead], "dryrun": true}).to_string(),
        json!({"filter": []}).to_string(),
        json!({"filter": [null, null]}).to_string(),
        json!([null, null, {}, false]).to_string(),
        json!({"filter": {}, "destination": "nowhere"}).to_string(),
        json!({"filter": {"typ": "x"}}).to_string(),
        json!({"filter": {"limit": 1}}).to_string(),
        json!({"filter": {"after": "1-0"}}).to_string(),
        json!({"filter": {"reason": "x"}}).to_string(),
        json!({"filter": {"until": "x"}}).to_string(),
    ] {
        for path in ["/v1/dlq/redrive", "/v1/dlq/purge"] {
            let reply = zoo.bench.admin("POST", path, body.as_bytes()).await;
            assert_eq!((reply.status, reply.code().as_str()), (400, "invalid_request"), "{path} {body}");
        }
    }
    for path in ["/v1/events/%FF", "/v1/events/%FF/body", "/v1/dlq/%FF", "/v1/dlq/%FF/body", "/v1/destinations/%FF"] {
        let reply = zoo.bench.admin("GET", path, b"").await;
        assert_eq!((reply.status, reply.code().as_str()), (400, "invalid_request"), "{path}");
    }
    let all = json!({"all": true, "dry_run": true}).to_string();
    assert_eq!(zoo.bench.admin("POST", "/v1/dlq/purge?dry_run=true", all.as_bytes()).await.status, 400);
    for path in [
        "/v1/nothing",
        &format!("/v1/events/{UNKNOWN_ID}"),
        &format!("/v1/events/{UNKNOWN_ID}/body"),
        &format!("/v1/dlq/{UNKNOWN_ID}"),
        &format!("/v1/dlq/{}", zoo.ids["delivered"]),
        &format!("/v1/events/{}/body", zoo.ids["delivered"]),
        "/v1/destinations/nobody",
        "/v1/events?destination=nobody",
        &format!("/v1/dlq/{}?destination=nobody", zoo.ids["dead"]),
    ] {
        let reply = zoo.bench.admin("GET", path, b"").await;
        assert_eq!((reply.status, reply.code().as_str()), (404, "not_found"), "{path}: {}", reply.text());
    }
    let reply = zoo.bench.admin("DELETE", "/v1/status", b"").await;
    assert_eq!((reply.status, reply.code().as_str()), (405, "method_not_allowed"));
    assert_eq!(zoo.bench.count("/dlq/depth").await, 1, "nothing was changed");
}

#[tokio::test]
async fn ids_at_the_limits_are_unknown() {
    let zoo = zoo().await;
    for id in ["00000000-0000-7000-8000-000000000000", "ffffffff-ffff-7fff-bfff-ffffffffffff"] {
        for list in ["events", "dlq"] {
            assert_eq!(zoo.bench.admin("GET", &format!("/v1/{list}/{id}"), b"").await.status, 404, "{list} {id}");
        }
        let done = zoo.bench.change("/v1/dlq/redrive", json!({"ids": [id]})).await;
        assert_eq!(done, json!({"matched": 0, "done": 0, "destinations": {}}));
    }
    for after in ["0", "281474976710655", "18446744073709551614", "18446744073709551615"] {
        let list = zoo.bench.get(&format!("/v1/events?after={after}")).await;
        assert_eq!(ids(&list).len(), if after == "0" { 7 } else { 0 }, "{after}: {list}");
        zoo.bench.get(&format!("/v1/dlq?after={after}-255")).await;
    }
    // an id of another store, with the sequence of a dead letter of this one
    let stranger = format!("019a2b3c{}", &zoo.ids["dead"][8..]);
    let done = zoo.bench.change("/v1/dlq/purge", json!({"ids": [stranger]})).await;
    assert_eq!(done, json!({"matched": 0, "done": 0, "destinations": {}}));
}

#[tokio::test]
async fn i24_the_status_adds_up_and_metrics_say_the_same() {
    let mut zoo = zoo().await;
    let refused = zoo.bench.post(b"nonsense").await;
    assert_eq!(refused.status, 400);
    let s = zoo.bench.status().await;
    assert_eq!(s["version"], json!(env!("CARGO_PKG_VERSION")));
    assert_eq!((&s["state"], &s["started_at"]), (&json!("running"), &json!(START.to_string())));
    assert!(s["durability"].is_string());
    assert_eq!(s["intake"], json!({"open": true, "reason": null}));
    for (path, value) in [
        ("/counters/accepted", 7),
        ("/counters/duplicates", 0),
        ("/counters/delivered", 1),
        ("/counters/dead_lettered", 2),
        ("/counters/discarded", 1),
        ("/counters/redriven", 0),
        ("/queue/depth", 4),
        ("/queue/in_flight", 1),
        ("/queue/delayed", 1),
        ("/queue/oldest_age_ms", 0),
        ("/dlq/depth", 1),
    ] {
        assert_eq!(s.pointer(path), Some(&json!(value)), "{path} in {s}");
    }
    for path in ["/queue/bytes", "/dlq/bytes", "/disk/free_bytes", "/disk/used_bytes"] {
        assert!(s.pointer(path).and_then(Value::as_u64).is_some_and(|n| n > 0), "{path} in {s}");
    }
    for d in s["destinations"].as_array().unwrap() {
        let n = |path: &str| d.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path} in {d}"));
        let parts = ["/queue/depth", "/counters/delivered", "/counters/dead", "/counters/discarded"];
        assert_eq!(n("/counters/accepted"), parts.into_iter().map(n).sum::<u64>(), "{d}");
        assert_eq!(zoo.bench.get(&format!("/v1/destinations/{}", d["name"].as_str().unwrap())).await, *d);
    }
    let nowhere = &s["destinations"][1];
    assert_eq!((&nowhere["url"], &nowhere["blocked_by"][0]["blocker"]), (&json!(null), &json!("no_url")));
    metrics_agree(&zoo.bench, &s).await;
    zoo.bench.sound().await;
    zoo.receiver.release(1);
    zoo.bench.becomes(&zoo.ids["in_flight"], "delivered").await;
    zoo.bench.restart().await;
    // after the start, deliveries in pages are read with a delay
    let s =
        wait_for("the backlog is read", async || Some(zoo.bench.status().await).filter(|s| s["queue"]["blocked"] == 1))
            .await;
    assert_eq!((&s["counters"]["delivered"], &s["queue"]["depth"]), (&json!(2), &json!(3)));
    metrics_agree(&zoo.bench, &s).await;
}

async fn metrics_agree(bench: &Bench, status: &Value) {
    let reply = bench.admin("GET", "/metrics", b"").await;
    assert!(reply.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    let text = reply.text();
    assert!(text.ends_with("# EOF\n"));
    let mut values = HashMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
        assert!(name.starts_with("holdline_"), "{line}");
        assert_eq!(values.insert(name.to_owned(), value), None, "{name} is there twice");
    }
    for (metric, path) in [
        ("holdline_events_accepted_total", "/counters/accepted"),
        ("holdline_events_duplicate_total", "/counters/duplicates"),
        ("holdline_events_conflict_total", "/counters/conflicts"),
        ("holdline_events_ignored_total", "/counters/ignored"),
        ("holdline_deliveries_succeeded_total", "/counters/delivered"),
        ("holdline_deliveries_dead_lettered_total", "/counters/dead_lettered"),
        ("holdline_deliveries_discarded_total", "/counters/discarded"),
        ("holdline_deliveries_redriven_total", "/counters/redriven"),
        ("holdline_records_damaged_total", "/counters/damaged"),
        ("holdline_queue_depth", "/queue/depth"),
        ("holdline_queue_size_bytes", "/queue/bytes"),
        ("holdline_queue_in_flight", "/queue/in_flight"),
        ("holdline_queue_delayed", "/queue/delayed"),
        ("holdline_queue_blocked", "/queue/blocked"),
        ("holdline_dlq_depth", "/dlq/depth"),
        ("holdline_dlq_size_bytes", "/dlq/bytes"),
        ("holdline_destination_queue_depth{destination=\"default\"}", "/destinations/0/queue/depth"),
        ("holdline_destination_queue_depth{destination=\"nowhere\"}", "/destinations/1/queue/depth"),
        ("holdline_destination_dead{destination=\"default\"}", "/destinations/0/counters/dead"),
        ("holdline_destination_delivered_total{destination=\"default\"}", "/destinations/0/counters/delivered"),
    ] {
        let wanted = status.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path}"));
        assert_eq!(values.get(metric), Some(&wanted), "{metric} is {path}");
    }
    assert_eq!(values.get("holdline_intake_open"), Some(&1.0));
    assert_eq!(values.get("holdline_store_blob_files"), Some(&0.0));
}

#[tokio::test]
async fn an_event_is_shown_in_each_state_with_its_blocker() {
    let zoo = zoo().await;
    for (state, waits) in [
        ("delivered", Value::Null),
        ("dead", Value::Null),
        ("discarded", Value::Null),
        (
            "delayed",
            json!({"blocker": "retry_backoff", "until": START.after(Duration::from_secs(1)).to_string(), "set_by": "retry"}),
        ),
        ("blocked", json!({"blocker": "order", "behind": zoo.ids["delayed"], "set_by": "ordering"})),
        ("in_flight", Value::Null),
        ("queued", json!({"blocker": "no_url", "set_by": "configuration", "reason": "no url is configured"})),
    ] {
        let id = &zoo.ids[state];
        let event = zoo.bench.get(&format!("/v1/events/{id}")).await;
        let deliveries = event["deliveries"].as_array().unwrap();
        assert_eq!((deliveries.len(), &deliveries[0]["state"]), (1, &json!(state)), "{event}");
        assert_eq!(deliveries[0]["blocked_by"], waits, "{event}");
        assert_eq!((&event["id"], &event["type"]), (&json!(id), &json!("interaction.completed")));
        assert_eq!(event["event_time"], json!("2026-03-19T22:04:48.128Z"));
        let listed = zoo.bench.get(&format!("/v1/events?state={state}")).await;
        assert_eq!(ids(&listed), [id], "{listed}");
    }
    let delivered = zoo.bench.get(&format!("/v1/events/{}", zoo.ids["delivered"])).await;
    let delivery = &delivered["deliveries"][0];
    assert_eq!((&delivery["attempts"], &delivery["status"]), (&json!(1), &json!(200)));
    assert_eq!(delivery["settled_at"], json!(START.to_string()));
    for (name, interaction) in
        [("dead", "dead"), ("delayed", "late"), ("blocked", "late"), ("in_flight", "stuck"), ("queued", "k")]
    {
        let reply = zoo.bench.admin("GET", &format!("/v1/events/{}/body", zoo.ids[name]), b"").await;
        assert_eq!((reply.status, reply.body), (200, body(interaction, name)), "{name}");
    }
}

#[tokio::test]
async fn lists_apply_every_documented_filter() {
    let zoo = zoo().await;
    let other = b"{\"eventType\": \"agent.login\", \"eventId\": \"9\", \"data\": {\"interactionId\": \"dead\"}}";
    let login = zoo.bench.post(other).await.json()["id"].as_str().unwrap().to_owned();
    zoo.bench.becomes(&login, "dead").await;
    let of = |names: &[&str]| names.iter().map(|name| zoo.ids[name].clone()).collect::<BTreeSet<_>>();
    let everything = ["delivered", "dead", "discarded", "delayed", "blocked", "in_flight", "queued"];
    for (query, mut wanted, and_login) in [
        ("", of(&everything), true),
        ("destination=nowhere", of(&["queued"]), false),
        ("source=held", of(&["queued"]), false),
        ("source=nobody", of(&[]), false),
        ("type=agent.login", of(&[]), true),
        ("interaction=late", of(&["delayed", "blocked"]), false),
        ("interaction=dead", of(&["dead"]), true),
        ("interaction=dead&type=interaction.completed", of(&["dead"]), false),
        ("state=dead&destination=default", of(&["dead"]), true),
        ("state=dead&destination=nowhere", of(&[]), false),
        ("since=2027-01-15T08:00:00Z", of(&everything), true),
        ("since=2027-01-15T08:00:01Z", of(&[]), false),
        ("until=2027-01-15T07:59:59Z", of(&[]), false),
    ] {
        if and_login {
            wanted.insert(login.clone());
        }
        let list = zoo.bench.get(&format!("/v1/events?{query}")).await;
        assert_eq!(ids(&list).into_iter().map(str::to_owned).collect::<BTreeSet<_>>(), wanted, "events?{query}");
    }
    for (query, wanted) in [
        ("", vec![&zoo.ids["dead"], &login]),
        ("destination=default", vec![&zoo.ids["dead"], &login]),
        ("destination=nowhere", vec![]),
        ("source=default", vec![&zoo.ids["dead"], &login]),
        ("source=held", vec![]),
        ("type=agent.login", vec![&login]),
        ("interaction=dead&type=interaction.completed", vec![&zoo.ids["dead"]]),
        ("interaction=late", vec![]),
        ("reason=permanent", vec![&zoo.ids["dead"], &login]),
        ("reason=exhausted", vec![]),
        ("state=dead", vec![&zoo.ids["dead"], &login]),
        ("state=queued", vec![]),
        ("since=2027-01-15T08:00:00Z&until=2027-01-15T08:00:00Z", vec![&zoo.ids["dead"], &login]),
        ("until=2027-01-15T07:59:59Z", vec![]),
        ("limit=1", vec![&zoo.ids["dead"]]),
    ] {
        let list = zoo.bench.get(&format!("/v1/dlq?{query}")).await;
        assert_eq!(ids(&list), wanted, "dlq?{query}");
    }
}

#[tokio::test]
async fn pages_of_a_list_are_complete_during_changes() {
    let receiver = Receiver::start(|r| status(if r.sequence() % 3 == 0 { 400 } else { 200 })).await;
    let bench = Bench::start(receiver.to()).await;
    let mut wanted = Vec::new();
    for n in 0..25 {
        wanted.push(bench.accept(&format!("k{}", n % 4), &n.to_string()).await);
    }
    let (mut seen, mut after, mut round) = (Vec::new(), "0".to_owned(), 0);
    loop {
        let page = bench.get(&format!("/v1/events?limit=4&after={after}")).await;
        assert!(ids(&page).len() <= 4);
        seen.extend(ids(&page).into_iter().map(str::to_owned));
        // meanwhile events are accepted and delivered
        bench.accept("k0", &format!("later {round}")).await;
        round += 1;
        match page["next"].as_str() {
            Some(next) if seen.len() < wanted.len() => after = next.to_owned(),
            _ => break,
        }
    }
    assert_eq!(seen[..wanted.len()], wanted);
    bench.reaches("/queue/depth", 0).await;
    let depth = bench.count("/dlq/depth").await;
    let (mut dead, mut after) = (Vec::new(), String::new());
    loop {
        let page = bench.get(&format!("/v1/dlq?limit=2{after}")).await;
        dead.extend(ids(&page).into_iter().map(str::to_owned));
        if let Some(first) = dead.first().filter(|_| dead.len() == 2) {
            bench.change("/v1/dlq/purge", json!({"ids": [first]})).await;
        }
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(dead.len() as u64, depth);
    assert_eq!(dead.iter().collect::<BTreeSet<_>>().len(), dead.len());
}

#[tokio::test]
async fn i15_dead_letters_are_shown_redriven_and_purged_as_chosen() {
    let (receiver, second) = (
        Receiver::start(|r| status(if r.attempt() == 1 { 400 } else { 200 })).await,
        Receiver::start(|_| status(400)).await,
    );
    let mut bench = Bench::with(receiver.to(), Clock::system(), |s| {
        s.destinations.push(destination("second", &second.url()));
    })
    .await;
    let mut all = Vec::new();
    for n in 0..6 {
        all.push(bench.accept(&format!("k{}", n % 2), &n.to_string()).await);
    }
    bench.reaches("/dlq/depth", 12).await;
    let dead_letter = bench.get(&format!("/v1/dlq/{}", all[0])).await;
    assert_eq!((&dead_letter["destination"], &dead_letter["also_dead_for"]), (&json!("default"), &json!(["second"])));
    assert_eq!(
        (&dead_letter["reason"], &dead_letter["sender_id"], &dead_letter["interaction"]),
        (&json!("permanent"), &json!("0"), &json!("k0"))
    );
    let attempt = &dead_letter["attempts"][0];
    assert_eq!((&attempt["status"], &attempt["answer"]), (&json!(400), &json!("{\"said\":\"so\"}")));
    let of_second = bench.get(&format!("/v1/dlq/{}?destination=second", all[0])).await;
    assert_eq!((&of_second["destination"], &of_second["also_dead_for"]), (&json!("second"), &json!(["default"])));
    let reply = bench.admin("GET", &format!("/v1/dlq/{}/body", all[0]), b"").await;
    assert_eq!((reply.header("content-type"), &reply.body), (Some("application/json"), &body("k0", "0")));

    let done = async |path: &str, selection: Value| {
        let answer = bench.change(path, selection).await;
        (answer["matched"].as_u64().unwrap(), answer["done"].as_u64().unwrap())
    };
    let k1_of_default = json!({"destination": "default", "interaction": "k1"});
    assert_eq!(done("/v1/dlq/redrive", json!({"filter": k1_of_default, "dry_run": true})).await, (3, 0));
    assert_eq!(done("/v1/dlq/purge", json!({"filter": {"reason": "exhausted"}})).await, (0, 0));
    assert_eq!(bench.count("/dlq/depth").await, 12);
    assert_eq!(done("/v1/dlq/redrive", json!({"filter": k1_of_default})).await, (3, 3));
    bench.reaches("/counters/delivered", 3).await;
    let redriven: Vec<u64> = receiver.all()[6..].iter().map(|r| r.sequence()).collect();
    assert_eq!(redriven, [2, 4, 6], "in their order");
    assert_eq!(done("/v1/dlq/redrive", json!({"ids": [all[0]], "destination": "second"})).await, (1, 1));
    wait_for("it has died again", async || (second.of(&all[0]).len() == 2).then_some(())).await;
    bench.reaches("/dlq/depth", 9).await;
    assert_eq!(done("/v1/dlq/purge", json!({"ids": [all[0], all[0]]})).await.1, 2, "both destinations, once each");
    assert_eq!(done("/v1/dlq/purge", json!({"filter": {"destination": "second"}})).await, (5, 5));
    assert_eq!(done("/v1/dlq/purge", json!({"all": true})).await, (2, 2));
    bench.sound().await;
    bench.restart().await;
    let status = bench.status().await;
    let counters =
        ["delivered", "discarded", "redriven", "dead_lettered"].map(|c| status["counters"][c].as_u64().unwrap());
    assert_eq!((counters, status["dlq"]["depth"].as_u64()), ([3, 9, 4, 13], Some(0)));
}

#[tokio::test]
async fn an_event_that_is_dying_is_never_shown_as_delivered() {
    let receiver = Receiver::start(|r| status(if r.attempt() == 1 { 503 } else { 400 })).await;
    let bench = Bench::with(receiver.to(), Clock::system(), |s| {
        s.destinations[0].retry.base = Duration::from_millis(5);
        s.destinations[0].retry.jitter = Jitter::None;
        s.destinations[0].breaker.permanent_answers = u32::MAX;
    })
    .await;
    let mut seen = BTreeSet::new();
    for n in 0..40 {
        let id = bench.accept(&n.to_string(), &n.to_string()).await;
        loop {
            let event = bench.get(&format!("/v1/events/{id}")).await;
            let state = event["deliveries"][0]["state"].as_str().unwrap().to_owned();
            seen.insert(state.clone());
            if state == "dead" {
                break;
            }
        }
    }
    let possible = ["queued", "in_flight", "delayed", "dead"];
    assert!(seen.iter().all(|state| possible.contains(&state.as_str())), "{seen:?}");
}

#[tokio::test]
async fn a_filter_applies_to_events_older_than_history() {
    let receiver = Receiver::start(|r| status(if r.interaction() == "good" { 200 } else { 400 })).await;
    let bench = Bench::with(receiver.to(), Clock::manual(START), |s| {
        s.sources[0].dedup_window = Duration::from_secs(60);
    })
    .await;
    let dead = bench.accept("dead", "1").await;
    bench.becomes(&dead, "dead").await;
    for n in 0..5 {
        bench.clock.advance(Duration::from_secs(3_600));
        let good = bench.accept("good", &format!("good {n}")).await;
        bench.becomes(&good, "delivered").await;
    }
    for (query, found) in [
        ("state=dead", true),
        ("interaction=dead", true),
        ("interaction=good&state=dead", false),
        ("type=other", false),
        ("until=2027-01-15T08:00:00Z", true),
        ("since=2027-01-15T09:00:00Z&state=dead", false),
    ] {
        let list = bench.get(&format!("/v1/events?{query}")).await;
        assert_eq!(ids(&list).contains(&dead.as_str()), found, "{query}: {list}");
    }
}

#[tokio::test]
async fn i25_an_answered_redrive_is_durable() {
    let receiver = Receiver::start(|r| if r.attempt() == 1 { status(400) } else { held(status(200)) }).await;
    let mut bench = Bench::start(receiver.to()).await;
    let id = bench.accept("k", "1").await;
    bench.becomes(&id, "dead").await;
    bench.change("/v1/dlq/redrive", json!({"ids": [id]})).await;
    bench.crash();
    receiver.release(10);
    bench.open().await;
    bench.becomes(&id, "delivered").await;
    assert_eq!(bench.count("/dlq/depth").await, 0);
    bench.sound().await;
}
