//! `/metrics`: the numbers of the status as Prometheus text.
//!
//! *Invariants.* Every number of the status is here too; a test holds it. There are no more series than what is configured
//! asks for: labels are names of sources and destinations, and words of which there are few.

mod destinations;

use super::snapshot::Snapshot;
use super::status::STATES;
use super::{Admin, Failure, Shared};
use crate::dispatch::Destination;
use crate::intake::admission::State as AdmissionState;
use crate::latency::Latency;
use crate::store::Gap;
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

const BEYOND_HELP: &str = "Dead letters found beyond age or bytes since the start, each once";
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
    role: &'static str,
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
    whole(&mut registry, &admin, &s);
    totals(&mut registry, &s);
    registry.register("dlq_over_limit_found", BEYOND_HELP, ConstCounter::new(admin.beyond.found()));
    gauges(&mut registry, &admin, &s);
    refusals(&mut registry, &s);
    certificates(&mut registry, &s);
    last_outage(&mut registry, admin.last_outage().await);
    sources(&mut registry, &admin, s.now);
    latencies(&mut registry, &admin);
    destinations::register(&mut registry, &admin, &s);
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|e| Failure::unavailable(e.to_string()))?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text))
}

/// What the daemon is.
fn whole(registry: &mut Registry, admin: &Admin, s: &Snapshot) {
    let build = [("version", env!("CARGO_PKG_VERSION")), ("durability", admin.store.durability().word())];
    let help = "Version, and what stands between an acknowledged event and a power cut";
    registry.register("build_info", help, Labelled(vec![(build, ConstGauge::new(1))]));
    let started = ConstGauge::new(timestamp(admin.started_at));
    registry.register_with_unit("start_time", "When the daemon started, since 1970", Unit::Seconds, started);
    let state = Labelled(one_of(&STATES, admin.state(s.door), |state| [("state", state)]));
    registry.register("state", "1 for the state of the daemon", state);
    let closed =
        Labelled(one_of(&AdmissionState::CODES, s.door.code().unwrap_or_default(), |reason| [("reason", reason)]));
    registry.register("intake_closed", "1 for the reason why intake is closed", closed);
}

pub(super) fn timestamp(at: Timestamp) -> f64 {
    at.0 as f64 / 1000.0
}

/// The last time in which events could not be accepted.
fn last_outage(registry: &mut Registry, gap: Option<Gap>) {
    let of = |value: &dyn Fn(&Gap) -> Option<f64>| {
        let sample =
            gap.as_ref().and_then(|gap| Some(([("reason", gap.reason.clone())], ConstGauge::new(value(gap)?))));
        Labelled(sample.into_iter().collect())
    };
    let from = of(&|gap| Some(timestamp(gap.from)));
    registry.register("last_outage_from_timestamp_seconds", "Since when events could not be accepted", from);
    let until = of(&|gap| (gap.until < Timestamp::NEVER).then(|| timestamp(gap.until)));
    registry.register("last_outage_until_timestamp_seconds", "Until when; absent while that lasts", until);
    let refused = of(&|gap| Some(gap.refused as f64));
    registry.register("last_outage_refused", "Requests refused meanwhile", refused);
}

fn sources(registry: &mut Registry, admin: &Admin, now: Timestamp) {
    let silent = |at: Timestamp| ConstGauge::new(now.since(at.max(admin.started_at)).as_secs_f64());
    let heard = admin.counts.last_received().into_iter();
    let silent = Labelled(heard.map(|(source, at)| (BySource { source }, silent(at))).collect());
    let help = "Time since something of the source was acknowledged, or since the start";
    registry.register_with_unit("source_idle", help, Unit::Seconds, silent);
}

fn totals(registry: &mut Registry, s: &Snapshot) {
    let t = &s.totals;
    for (name, help, value) in [
        ("events_accepted", "Events answered with a success status and stored", t.accepted),
        ("events_duplicate", "Events recognised as duplicates", t.duplicates),
        ("events_conflict", "Events that share their id with another body", t.conflicts),
        ("events_ignored", "Events acknowledged and not stored, since they go nowhere", s.ignored),
        ("deliveries_succeeded", "Deliveries answered 2xx", t.sum(|t| t.delivered)),
        ("deliveries_dead_lettered", "Deliveries that went to the dead letter queue", t.dead_lettered),
        ("deliveries_discarded", "Deliveries discarded by decision", t.sum(|t| t.discarded)),
        ("deliveries_redriven", "Dead letters that were sent again", t.redriven),
        ("records_damaged", "Records that did not verify", t.damaged),
        (
            "history_forgotten_early",
            "Events forgotten before their time since the start, for want of room",
            s.remembering.forgotten_early,
        ),
    ] {
        registry.register(name, help, ConstCounter::new(value));
    }
}

fn gauges(registry: &mut Registry, admin: &Admin, s: &Snapshot) {
    let t = &s.totals;
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let big = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    for (name, help, value) in [
        ("queue_depth", "Deliveries that wait", big(t.sum(crate::store::Counters::queued))),
        ("queue_in_flight", "Deliveries being attempted", count(s.sum(|line| line.in_flight))),
        ("queue_delayed", "Deliveries that wait for their due time", count(s.sum(|line| line.delayed))),
        ("queue_blocked", "Deliveries that wait behind others of their interaction", count(s.sum(|line| line.blocked))),
        ("dlq_depth", "Dead letters", big(t.sum(|t| t.dead))),
        ("dlq_over_limit", "Dead letters that lie beyond age or bytes", big(admin.beyond.left())),
        ("history_events", "Events that are remembered", big(s.remembering.events)),
        ("intake_open", "1 while events are accepted", i64::from(s.door.code().is_none())),
        ("store_blob_files", "Files that sled made and never syncs; must be 0", count(s.blob_files)),
    ] {
        registry.register(name, help, ConstGauge::new(value));
    }
    for (name, help, value) in [
        ("queue_size", "Bytes of deliveries that wait", s.queue_bytes),
        ("dlq_size", "Bytes of dead letters", t.dlq_bytes),
        ("history_size", "Bytes of what is remembered of events", s.remembering.bytes),
        ("history_memory", "Bytes of memory of the ids that are remembered", s.remembering.memory_bytes),
        ("disk_free", "Free bytes of the store's filesystem", s.space.free_bytes),
        ("disk_reserve", "Free bytes below which intake closes", admin.trend.disk_reserve()),
        ("disk_used", "Bytes that the store takes", s.used_bytes),
        ("disk_growth", "Bytes that what waits may take once it has failed", s.space.growth_bytes),
        ("disk_ballast", "Bytes of the disk that are kept for the daemon itself", s.space.ballast_bytes),
    ] {
        registry.register_with_unit(name, help, Unit::Bytes, ConstGauge::new(big(value)));
    }
    let age = ConstGauge::new(s.oldest_age_ms() as f64 / 1000.0);
    registry.register_with_unit("queue_oldest_age", "Age of the oldest delivery that waits", Unit::Seconds, age);
    let rates = admin.trend.rates(None);
    for (name, help, value) in [
        ("accepted_per_second", "Events accepted, over the last minute", rates.accepted),
        ("delivered_per_second", "Deliveries answered 2xx, over the last minute", rates.delivered),
        ("dead_per_second", "Dead letters, over the last minute", rates.dead),
    ] {
        registry.register(name, help, ConstGauge::new(value));
    }
    let seconds = |time: std::time::Duration| time.as_secs_f64();
    let drained = admin.trend.queue_empty_in(t.sum(crate::store::Counters::queued)).map(seconds);
    let help = "Time until the queue is empty at this pace; absent where it does not shrink";
    registry.register_with_unit("queue_empty_eta", help, Unit::Seconds, optional(drained));
    let full = admin.trend.disk_full_in().time().map(seconds);
    let help = "Time until free bytes of the disk come down to its reserve at this pace; absent where they do not";
    registry.register_with_unit("disk_full_eta", help, Unit::Seconds, optional(full));
}

/// One metric: its samples, each with its labels.
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

/// A number that need not be there.
fn optional(value: Option<f64>) -> Labelled<[(&'static str, &'static str); 0], ConstGauge<f64>> {
    Labelled(value.map(|value| ([], ConstGauge::new(value))).into_iter().collect())
}

/// For each of the words 1 where it is the one that holds, else 0.
pub(super) fn one_of<L>(
    words: &[&'static str],
    is: &str,
    labels: impl Fn(&'static str) -> L,
) -> Vec<(L, ConstGauge<i64>)> {
    words.iter().map(|word| (labels(word), ConstGauge::new(i64::from(*word == is)))).collect()
}

/// How long things take. Sources and destinations are those that are configured, so there are no more series than these.
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

fn refusals(registry: &mut Registry, s: &Snapshot) {
    let of = |source: &String, refused: &crate::intake::Refused| {
        let labels = Refused { source: source.clone(), status: refused.status.into(), code: refused.code.to_owned() };
        (labels, ConstCounter::new(refused.count))
    };
    let refused = s.refused.iter().flat_map(|(source, all)| all.iter().map(move |refused| of(source, refused)));
    registry.register(
        "intake_refused",
        "Requests refused at the door, by source; `(unknown)` for those to no source that there is",
        Labelled(refused.collect()),
    );
}

fn certificates(registry: &mut Registry, s: &Snapshot) {
    let ends = s.certificates.iter().map(|certificate| {
        let labels = ByUse { of: certificate.of.clone(), role: certificate.role };
        (labels, ConstGauge::new(certificate.ends_in_s))
    });
    let help = "Time until a certificate in use ends; below zero where it has ended";
    registry.register_with_unit("certificate_expiry", help, Unit::Seconds, Labelled(ends.collect()));
}
