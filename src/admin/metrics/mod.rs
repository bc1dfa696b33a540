//! `/metrics`: the numbers of the status in Prometheus text format.
//!
//! *Invariants.* Every field of the status is exported: its structs are destructured field by field, so a new field does not
//! compile until it has a metric or is excluded by name. The configuration bounds the number of series: labels are names of
//! sources and destinations, and words from small fixed sets.

mod destinations;

use super::status::Snapshot;
use super::{Admin, Failure, Shared};
use crate::api;
use crate::dispatch::Destination;
use crate::intake::UNKNOWN_SOURCE;
use crate::intake::admission::State as Admission;
use crate::latency::Latency;
use crate::time::Timestamp;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Registry, Unit};

const OVER_LIMIT_HELP: &str = "Dead letters found over the age or size limit since the start, each once";
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByDestination {
    pub destination: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BySource {
    source: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByUse {
    of: String,
    role: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    source: String,
    status: u32,
    code: String,
}

/// The numbers of the status as Prometheus text
#[utoipa::path(get, path = "/metrics", tag = "status", responses((status = 200, description = "OpenMetrics", body = String, content_type = "application/openmetrics-text"), Failure))]
pub(super) async fn metrics(State(admin): Shared) -> Result<impl IntoResponse, Failure> {
    let s = Snapshot::take(&admin).await?;
    let mut registry = Registry::with_prefix("holdline");
    of_status(&mut registry, s.status(&admin).await, s.now);
    beside_the_status(&mut registry, &admin, &s);
    destinations::attempts(&mut registry, &admin);
    latencies(&mut registry, &admin);
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|e| Failure::unavailable(e.to_string()))?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text))
}

fn of_status(registry: &mut Registry, status: api::Status, now: Timestamp) {
    let api::Status {
        version,
        state,
        started_at,
        durability,
        intake,
        last_outage: outage,
        counters: since_store_was_made,
        queue: waiting,
        dlq,
        disk: bytes_of_disk,
        history: remembered,
        certificates: in_use,
        rates: per_second,
        forecast: foreseen,
        destinations: all,
        sources: of_sources,
    } = status;
    let build = [("version", version), ("durability", durability)];
    let help = "Version, and what stands between an acknowledged event and a power cut";
    registry.register("build_info", help, Labelled(vec![(build, ConstGauge::new(1))]));
    let started = ConstGauge::new(timestamp(started_at.0));
    registry.register_with_unit("start_time", "When the daemon started, since 1970", Unit::Seconds, started);
    let states = Labelled(one_of(api::DaemonState::ALL.map(api::DaemonState::word), state.word(), |s| [("state", s)]));
    registry.register("state", "1 for the state of the daemon", states);
    intake_state(registry, &intake);
    last_outage(registry, outage.as_ref());
    counters(registry, &since_store_was_made);
    queue(registry, &waiting, &dlq);
    disk(registry, &bytes_of_disk);
    history(registry, &remembered);
    certificates(registry, in_use);
    rates(registry, per_second);
    forecast(registry, &foreseen);
    destinations::register(registry, &all, now);
    sources(registry, of_sources, started_at.0, now);
}

/// Metrics that the status does not show.
fn beside_the_status(registry: &mut Registry, admin: &Admin, s: &Snapshot) {
    registry.register("dlq_over_limit_found", OVER_LIMIT_HELP, ConstCounter::new(admin.dlq_overflow.found()));
    let help = "Dead letters over the age or size limit";
    registry.register("dlq_over_limit", help, ConstGauge::new(whole(admin.dlq_overflow.left())));
    let help = "Files that sled made and never syncs; must be 0";
    registry.register("store_blob_files", help, ConstGauge::new(whole(s.blob_files as u64)));
}

pub(super) fn timestamp(at: Timestamp) -> f64 {
    at.0 as f64 / 1000.0
}

pub(super) fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

fn whole(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn intake_state(registry: &mut Registry, intake: &api::IntakeState) {
    let api::IntakeState { open, reason } = intake;
    registry.register("intake_open", "1 while events are accepted", ConstGauge::new(i64::from(*open)));
    let reason = reason.as_deref().unwrap_or_default();
    let closed = Labelled(one_of(Admission::CODES, reason, |reason| [("reason", reason)]));
    registry.register("intake_closed", "1 for the reason why intake is closed", closed);
}

/// The last outage.
fn last_outage(registry: &mut Registry, outage: Option<&api::Outage>) {
    let of = |value: &dyn Fn(&api::Outage) -> Option<f64>| {
        let sample =
            |outage: &api::Outage| Some(([("reason", outage.reason.clone())], ConstGauge::new(value(outage)?)));
        Labelled(outage.and_then(sample).into_iter().collect())
    };
    let from = of(&|outage| Some(timestamp(outage.from.0)));
    registry.register("last_outage_from_timestamp_seconds", "Since when events could not be accepted", from);
    let until = of(&|outage| outage.until.map(|until| timestamp(until.0)));
    registry.register("last_outage_until_timestamp_seconds", "Until when; absent while that lasts", until);
    let refused = of(&|outage| Some(outage.refused as f64));
    registry.register("last_outage_refused", "Requests refused meanwhile", refused);
}

fn counters(registry: &mut Registry, counters: &api::Counters) {
    let api::Counters {
        accepted,
        duplicates,
        conflicts,
        ignored,
        delivered,
        dead_lettered,
        discarded,
        redriven,
        damaged,
    } = counters;
    for (name, help, value) in [
        ("events_accepted", "Events answered with a success status and stored", accepted),
        ("events_duplicate", "Events recognised as duplicates", duplicates),
        ("events_conflict", "Events that share their id with another body", conflicts),
        ("events_ignored", "Events acknowledged and not stored, since they go nowhere", ignored),
        ("deliveries_succeeded", "Deliveries answered 2xx", delivered),
        ("deliveries_dead_lettered", "Deliveries that went to the dead letter queue", dead_lettered),
        ("deliveries_discarded", "Deliveries discarded by decision", discarded),
        ("deliveries_redriven", "Dead letters that were sent again", redriven),
        ("records_damaged", "Records that did not verify", damaged),
    ] {
        registry.register(name, help, ConstCounter::new(*value));
    }
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: u64) {
    registry.register(name, help, ConstGauge::new(whole(value)));
}

fn bytes(registry: &mut Registry, name: &str, help: &str, value: u64) {
    registry.register_with_unit(name, help, Unit::Bytes, ConstGauge::new(whole(value)));
}

fn queue(registry: &mut Registry, queue: &api::Queue, dlq: &api::DeadLetterQueue) {
    let api::Queue { depth, bytes: size, oldest_age_ms, in_flight, delayed, blocked } = queue;
    gauge(registry, "queue_depth", "Deliveries that wait", *depth);
    bytes(registry, "queue_size", "Bytes of deliveries that wait", *size);
    let age = ConstGauge::new(seconds(*oldest_age_ms));
    registry.register_with_unit("queue_oldest_age", "Age of the oldest delivery that waits", Unit::Seconds, age);
    gauge(registry, "queue_in_flight", "Deliveries being attempted", *in_flight as u64);
    gauge(registry, "queue_delayed", "Deliveries that wait for their due time", *delayed as u64);
    gauge(registry, "queue_blocked", "Deliveries that wait behind others of their interaction", *blocked as u64);
    let api::DeadLetterQueue { depth, bytes: size } = dlq;
    gauge(registry, "dlq_depth", "Dead letters", *depth);
    bytes(registry, "dlq_size", "Bytes of dead letters", *size);
}

fn disk(registry: &mut Registry, disk: &api::Disk) {
    // path and mode are text: they have no metric
    let api::Disk { free_bytes, reserve_bytes, growth_bytes, ballast_bytes, used_bytes, path: _, mode: _ } = disk;
    for (name, help, value) in [
        ("disk_free", "Free bytes of the store's filesystem", free_bytes),
        ("disk_reserve", "Free bytes below which intake closes", reserve_bytes),
        ("disk_used", "Bytes that the store takes", used_bytes),
        ("disk_growth", "Bytes that what waits may take once it has failed", growth_bytes),
        ("disk_ballast", "Bytes of the disk that are kept for the daemon itself", ballast_bytes),
    ] {
        bytes(registry, name, help, *value);
    }
}

fn history(registry: &mut Registry, history: &api::History) {
    let api::History { events, bytes: size, memory_bytes, forgotten_early } = history;
    gauge(registry, "history_events", "Events that are remembered", *events);
    bytes(registry, "history_size", "Bytes of what is remembered of events", *size);
    bytes(registry, "history_memory", "Bytes of memory of the ids that are remembered", *memory_bytes);
    let help = "Events forgotten before their time since the start, because the history is full";
    registry.register("history_forgotten_early", help, ConstCounter::new(*forgotten_early));
}

fn rates(registry: &mut Registry, rates: api::Rates) {
    let api::Rates { accepted_per_s, delivered_per_s, dead_per_s } = rates;
    for (name, help, value) in [
        ("accepted_per_second", "Events accepted, over the last minute", accepted_per_s),
        ("delivered_per_second", "Deliveries answered 2xx, over the last minute", delivered_per_s),
        ("dead_per_second", "Dead letters, over the last minute", dead_per_s),
    ] {
        registry.register(name, help, ConstGauge::new(value));
    }
}

fn forecast(registry: &mut Registry, forecast: &api::Forecast) {
    let api::Forecast { drained_in_s, disk_full_in_s } = forecast;
    let help = "Time until the queue is empty at the current rates; absent where it does not shrink";
    registry.register_with_unit("queue_empty_eta", help, Unit::Seconds, optional(drained_in_s.map(|s| s as f64)));
    let help =
        "Time until free bytes of the disk come down to its reserve at the current rates; absent where they do not";
    registry.register_with_unit("disk_full_eta", help, Unit::Seconds, optional(disk_full_in_s.map(|s| s as f64)));
}

/// A metric with its labelled samples.
#[derive(Debug)]
pub(super) struct Labelled<L, M>(pub Vec<(L, M)>);

impl<L: EncodeLabelSet, M: EncodeMetric + TypedMetric> EncodeMetric for Labelled<L, M> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.iter().try_for_each(|(labels, metric)| metric.encode(encoder.encode_family(labels)?))
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }
}

/// A gauge without samples if there is no value.
fn optional(value: Option<f64>) -> Labelled<[(&'static str, &'static str); 0], ConstGauge<f64>> {
    Labelled(value.map(|value| ([], ConstGauge::new(value))).into_iter().collect())
}

/// For each of the words a series: 1 for the current one, 0 for the others.
pub(super) fn one_of<L>(
    words: impl IntoIterator<Item = &'static str>,
    is: &str,
    labels: impl Fn(&'static str) -> L,
) -> Vec<(L, ConstGauge<i64>)> {
    words.into_iter().map(|word| (labels(word), ConstGauge::new(i64::from(word == is)))).collect()
}

/// Latency histograms, one series per configured source and destination.
fn latencies(registry: &mut Registry, admin: &Admin) {
    let mut seconds = |name, help, metric| registry.register_with_unit(name, help, Unit::Seconds, metric);
    let of = |which: fn(&Destination) -> &Latency| {
        let known = admin.destinations.now();
        let mut all: Vec<_> = known.values().collect();
        all.sort_by_key(|d| d.id);
        let label = |d: &Destination| ByDestination { destination: d.name.clone() };
        Labelled(all.into_iter().map(|d| (label(d), which(d).histogram())).collect())
    };
    seconds("delivery", "Time of one attempt", of(|d| &d.latency));
    seconds("end_to_end", "Time from acceptance to delivery", of(|d| &d.end_to_end));
    let sources = admin.counts.latencies().into_iter();
    let ack = Labelled(sources.map(|(source, latency)| (BySource { source }, latency.histogram())).collect());
    registry.register_with_unit("ack", "Time from a request to its acknowledgement", Unit::Seconds, ack);
    let commit = admin.store.commits().histogram();
    registry.register_with_unit("commit", "Time of a commit until it is durable", Unit::Seconds, commit);
}

fn sources(registry: &mut Registry, all: Vec<api::Source>, started_at: Timestamp, now: Timestamp) {
    let (mut idle, mut refused) = (Vec::new(), Vec::new());
    for api::Source { name, last_event_at, refused: _, refusals } in all {
        for api::Refusal { status, code, count } in refusals {
            let labels = Refused { source: name.clone(), status: status.into(), code };
            refused.push((labels, ConstCounter::new(count)));
        }
        if name != UNKNOWN_SOURCE {
            let since = last_event_at.map_or(started_at, |at| at.0.max(started_at));
            idle.push((BySource { source: name }, ConstGauge::new(now.since(since).as_secs_f64())));
        }
    }
    let help = "Time since something of the source was acknowledged, or since the start";
    registry.register_with_unit("source_idle", help, Unit::Seconds, Labelled(idle));
    let help = "Requests refused, by source; `(unknown)` for those to names that no source has";
    registry.register("intake_refused", help, Labelled(refused));
}

fn certificates(registry: &mut Registry, all: Vec<api::Certificate>) {
    let ends = all
        .into_iter()
        .map(|api::Certificate { of, role, ends_at: _, ends_in_s }| (ByUse { of, role }, ConstGauge::new(ends_in_s)));
    let help = "Time until a certificate in use ends; below zero where it has ended";
    registry.register_with_unit("certificate_expiry", help, Unit::Seconds, Labelled(ends.collect()));
}
