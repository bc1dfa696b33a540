//! The metrics show every number of the status, with the same value.

use crate::harness::bench::{Bench, START, body, destination, source};
use crate::harness::receiver::{Receiver, held, status};
use holdline::clock::Clock;
use holdline::rules::backoff::Jitter;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Each field of the status that has a metric, and the metric's name. A new field of the status must be added here
/// with its metric, or to `WORDS` below.
const METRICS: [(&str, &str); 82] = [
    ("version", "build_info"),
    ("state", "state"),
    ("started_at", "start_time_seconds"),
    ("durability", "build_info"),
    ("intake.open", "intake_open"),
    ("intake.reason", "intake_closed"),
    ("last_outage.from", "last_outage_from_timestamp_seconds"),
    ("last_outage.until", "last_outage_until_timestamp_seconds"),
    ("last_outage.reason", "last_outage_refused"),
    ("last_outage.refused", "last_outage_refused"),
    ("counters.accepted", "events_accepted"),
    ("counters.duplicates", "events_duplicate"),
    ("counters.conflicts", "events_conflict"),
    ("counters.ignored", "events_ignored"),
    ("counters.delivered", "deliveries_succeeded"),
    ("counters.dead_lettered", "deliveries_dead_lettered"),
    ("counters.discarded", "deliveries_discarded"),
    ("counters.redriven", "deliveries_redriven"),
    ("counters.damaged", "records_damaged"),
    ("queue.depth", "queue_depth"),
    ("queue.bytes", "queue_size_bytes"),
    ("queue.oldest_age_ms", "queue_oldest_age_seconds"),
    ("queue.in_flight", "queue_in_flight"),
    ("queue.delayed", "queue_delayed"),
    ("queue.blocked", "queue_blocked"),
    ("dlq.depth", "dlq_depth"),
    ("dlq.bytes", "dlq_size_bytes"),
    ("disk.free_bytes", "disk_free_bytes"),
    ("disk.reserve_bytes", "disk_reserve_bytes"),
    ("disk.used_bytes", "disk_used_bytes"),
    ("disk.growth_bytes", "disk_growth_bytes"),
    ("disk.ballast_bytes", "disk_ballast_bytes"),
    ("history.events", "history_events"),
    ("history.bytes", "history_size_bytes"),
    ("history.memory_bytes", "history_memory_bytes"),
    ("history.forgotten_early", "history_forgotten_early"),
    ("certificates[].of", "certificate_expiry_seconds"),
    ("certificates[].role", "certificate_expiry_seconds"),
    ("certificates[].ends_at", "certificate_expiry_seconds"),
    ("certificates[].ends_in_s", "certificate_expiry_seconds"),
    ("rates.accepted_per_s", "accepted_per_second"),
    ("rates.delivered_per_s", "delivered_per_second"),
    ("rates.dead_per_s", "dead_per_second"),
    ("forecast.drained_in_s", "queue_empty_eta_seconds"),
    ("forecast.disk_full_in_s", "disk_full_eta_seconds"),
    ("destinations[].name", "destination_queue_depth"),
    ("destinations[].paused", "destination_paused"),
    ("destinations[].state", "destination_state"),
    ("destinations[].latency.usual_ms", "destination_usual_latency_seconds"),
    ("destinations[].latency.slow.slow", "destination_slow"),
    ("destinations[].latency.slow.of", "destination_slow"),
    ("destinations[].breaker.state", "destination_breaker"),
    ("destinations[].breaker.since", "destination_breaker_since_timestamp_seconds"),
    ("destinations[].breaker.until", "destination_breaker_until_timestamp_seconds"),
    ("destinations[].concurrency.limit", "destination_concurrency_limit"),
    ("destinations[].concurrency.max", "destination_concurrency_max"),
    ("destinations[].concurrency.in_flight", "destination_in_flight"),
    ("destinations[].blocked_by[].blocker", "destination_blocked_seconds"),
    ("destinations[].blocked_by[].until", "destination_blocked_seconds"),
    ("destinations[].queue.depth", "destination_queue_depth"),
    ("destinations[].queue.oldest_age_ms", "destination_oldest_age_seconds"),
    ("destinations[].queue.delayed", "destination_delayed"),
    ("destinations[].queue.blocked", "destination_blocked"),
    ("destinations[].queue.behind_dead_letters.deliveries", "destination_behind_dead_letters"),
    ("destinations[].queue.behind_dead_letters.interactions", "destination_behind_dead_letters_interactions"),
    ("destinations[].queue.behind_dead_letters.oldest_age_ms", "destination_behind_dead_letters_oldest_age_seconds"),
    ("destinations[].rates.accepted_per_s", "destination_accepted_per_second"),
    ("destinations[].rates.delivered_per_s", "destination_delivered_per_second"),
    ("destinations[].rates.dead_per_s", "destination_dead_per_second"),
    ("destinations[].counters.accepted", "destination_accepted"),
    ("destinations[].counters.delivered", "destination_delivered"),
    ("destinations[].counters.dead", "destination_dead"),
    ("destinations[].counters.discarded", "destination_discarded"),
    ("sources[].name", "intake_refused"),
    ("sources[].last_event_at", "source_idle_seconds"),
    ("sources[].refused", "intake_refused"),
    ("sources[].refusals[].status", "intake_refused"),
    ("sources[].refusals[].code", "intake_refused"),
    ("sources[].refusals[].count", "intake_refused"),
    // not in the status
    ("", "dlq_over_limit"),
    ("", "destination_retry_after_cut"),
    ("", "source_idle_seconds"),
];

/// Fields that are free text or the id of an event: no metric has a label for them.
const WORDS: [&str; 8] = [
    "disk.mode",
    "disk.path",
    "destinations[].url",
    "destinations[].breaker.reason",
    "destinations[].breaker.set_by",
    "destinations[].blocked_by[].behind",
    "destinations[].blocked_by[].set_by",
    "destinations[].blocked_by[].reason",
];

/// The leaves of a schema.
fn leaves(document: &Value, schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    if let Some(name) = schema["$ref"].as_str() {
        let named = document.pointer(name.trim_start_matches('#')).unwrap_or_else(|| panic!("{name} is not there"));
        return leaves(document, named, path, found);
    }
    let either = ["oneOf", "anyOf", "allOf"].iter().find_map(|word| schema[*word].as_array());
    if let Some(either) = either.filter(|_| schema["properties"].is_null()) {
        return either.iter().filter(|s| s["type"] != "null").for_each(|s| leaves(document, s, path, found));
    }
    if let Some(properties) = schema["properties"].as_object() {
        for (name, inner) in properties {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            leaves(document, inner, &path, found);
        }
    } else if !schema["items"].is_null() {
        leaves(document, &schema["items"], &format!("{path}[]"), found);
    } else {
        found.insert(path.to_owned());
    }
}

#[tokio::test]
async fn each_field_of_the_status_has_a_metric() {
    let bench = Bench::start(None).await;
    let document = bench.get("/openapi.json").await;
    let mut fields = BTreeSet::new();
    leaves(&document, &document["components"]["schemas"]["Status"], "", &mut fields);
    let known = METRICS.iter().map(|(field, _)| *field).chain(WORDS).filter(|field| !field.is_empty());
    let known: BTreeSet<String> = known.map(str::to_owned).collect();
    let without: Vec<_> = fields.difference(&known).collect();
    assert!(without.is_empty(), "these fields of the status have no metric: {without:?}");
    let gone: Vec<_> = known.difference(&fields).collect();
    assert!(gone.is_empty(), "these are no fields of the status: {gone:?}");
    let text = bench.admin("GET", "/metrics", b"").await.text();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE holdline_"));
    let types: BTreeMap<&str, &str> = types.filter_map(|line| line.split_once(' ')).collect();
    for (field, metric) in METRICS {
        assert!(types.contains_key(metric), "{metric}, for {field}, is not among {types:?}");
    }
    // a value that never decreases is a counter
    for metric in ["destination_delivered", "destination_accepted", "destination_discarded", "dlq_over_limit_found"] {
        assert_eq!(types[metric], "counter", "{metric}");
    }
}

/// The value of a series.
fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{series} is not there\n{text}")).parse().unwrap()
}

/// Deliveries in all states, one paused destination, and one destination with an open breaker.
async fn zoo() -> (Bench, Receiver) {
    let receiver = Receiver::start(|r| match r.interaction() {
        "dead" => status(422),
        "late" => status(503),
        "stuck" => held(status(200)),
        _ => status(200),
    })
    .await;
    let bench = Bench::with(receiver.to(), Clock::manual(START), |s| {
        s.destinations[0].retry.jitter = Jitter::None;
        s.destinations.push(destination("wall", &receiver.url()));
        s.destinations.push(destination("crm", &receiver.url()));
        s.sources[0].to = vec!["default".to_owned()];
        s.sources.push(source("quiet", "auto"));
    })
    .await;
    for (n, (interaction, state)) in
        [("good", "delivered"), ("dead", "dead"), ("late", "delayed"), ("late", "blocked"), ("stuck", "in_flight")]
            .into_iter()
            .enumerate()
    {
        let id = bench.accept(interaction, &n.to_string()).await;
        bench.becomes(&id, state).await;
    }
    assert_eq!(bench.post(&body("late", "3")).await.json()["status"], "duplicate");
    bench.change("/v1/destinations/wall/pause", json!({"for": "30m"})).await;
    bench.change("/v1/destinations/crm/breaker", json!({"state": "open"})).await;
    bench.clock.advance(std::time::Duration::from_millis(500));
    (bench, receiver)
}

#[tokio::test]
async fn status_and_metrics_agree() {
    let (bench, receiver) = zoo().await;
    crate::harness::bench::wait_for("the breaker is open", async || {
        (bench.get("/v1/destinations/crm").await["breaker"]["state"] == "open").then_some(())
    })
    .await;
    let text = bench.admin("GET", "/metrics", b"").await.text();
    let status = bench.status().await;
    let mut compared = 0;
    for (field, metric) in METRICS {
        let pointer = format!("/{}", field.replace("[]", "/0").replace('.', "/"));
        let Some(told) = status.pointer(&pointer) else { continue };
        let told = told.as_f64().or_else(|| told.as_bool().map(|is| f64::from(u8::from(is))));
        // other programs use disk space, too; refusals have a test of their own (`senders`)
        let is_elsewhere = ["disk.", "rates.", "sources"].iter().any(|start| field.starts_with(start));
        let Some(told) = told.filter(|_| !is_elsewhere) else { continue };
        let told = if field.ends_with("_ms") { told / 1000.0 } else { told };
        let label = if field.starts_with("destinations") { "{destination=\"default\"}" } else { "" };
        let counter = format!("holdline_{metric}_total{label}");
        let is_counter = text.lines().any(|line| line.starts_with(&format!("{counter} ")));
        let series = if is_counter { counter } else { format!("holdline_{metric}{label}") };
        assert_eq!(value(&text, &series), told, "{field}");
        compared += 1;
    }
    assert!(compared >= 35, "{compared} fields compared");
    assert_eq!(value(&text, "holdline_queue_depth"), 3.0, "{status}");
    for (series, wanted) in [
        ("destination_paused{destination=\"wall\"}", 1.0),
        ("destination_blocked_seconds{destination=\"wall\",blocker=\"pause\"}", 1799.5),
        ("destination_blocked_seconds{destination=\"crm\",blocker=\"breaker\"}", f64::INFINITY),
        ("destination_breaker{destination=\"crm\",state=\"open\"}", 1.0),
        ("destination_breaker{destination=\"crm\",state=\"closed\"}", 0.0),
        ("destination_breaker{destination=\"wall\",state=\"closed\"}", 1.0),
        ("destination_breaker_since_timestamp_seconds{destination=\"crm\"}", START.0 as f64 / 1000.0),
        ("destination_concurrency_max{destination=\"default\"}", 64.0),
        ("source_idle_seconds{source=\"quiet\"}", 0.5),
        ("state{state=\"running\"}", 1.0),
        ("intake_closed{reason=\"disk_low\"}", 0.0),
        ("start_time_seconds", START.0 as f64 / 1000.0),
    ] {
        assert_eq!(value(&text, &format!("holdline_{series}")), wanted, "{series}");
    }
    let series: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.split(' ').next()).collect();
    assert_eq!(series.len(), series.iter().collect::<BTreeSet<_>>().len(), "each series is there once");
    receiver.release(1);
}
