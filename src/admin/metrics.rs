//! `/metrics`: the numbers of the status as Prometheus text.

use super::status::Snapshot;
use super::{Admin, Failure, Shared};
use crate::dispatch::Destination;
use crate::latency::Latency;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::sync::Arc;

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByDestination {
    destination: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BySource {
    source: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    destination: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByUse {
    of: String,
    role: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    status: u32,
    code: String,
}

/// The numbers of the status as Prometheus text
#[utoipa::path(get, path = "/metrics", tag = "status", responses((status = 200, description = "OpenMetrics", body = String, content_type = "application/openmetrics-text"), Failure))]
pub(super) async fn metrics(State(admin): Shared) -> Result<impl IntoResponse, Failure> {
    let s = Snapshot::take(&admin).await?;
    let mut registry = Registry::with_prefix("holdline");
    totals(&mut registry, &s);
    gauges(&mut registry, &s, admin.beyond.found());
    refusals(&mut registry, &s);
    certificates(&mut registry, &s);
    let names: Vec<_> = admin.destinations.now().values().map(|d| (d.id, d.name.clone())).collect();
    by_destination(&mut registry, &s, &names);
    latencies(&mut registry, &admin);
    attempts(&mut registry, admin.destinations.now().values());
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|e| Failure::unavailable(e.to_string()))?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text))
}

fn totals(registry: &mut Registry, s: &Snapshot) {
    let t = &s.totals;
    for (name, help, value) in [
        ("events_accepted", "Events answered with a success status and stored", t.accepted),
        ("events_duplicate", "Events recognised as duplicates", t.duplicates),
        ("events_conflict", "Events that share their id with another body", t.conflicts),
        ("events_ignored", "Events acknowledged and not stored, since they go nowhere", s.ignored),
        ("deliveries_made", "Deliveries answered 2xx", t.sum(|t| t.delivered)),
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

fn gauges(registry: &mut Registry, s: &Snapshot, beyond: u64) {
    let t = &s.totals;
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let big = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    for (name, help, value) in [
        ("queue_depth", "Deliveries that wait", big(t.sum(crate::store::Tally::queued))),
        ("queue_in_flight", "Deliveries being attempted", count(s.sum(|line| line.in_flight))),
        ("queue_delayed", "Deliveries that wait for their due time", count(s.sum(|line| line.delayed))),
        ("queue_held", "Deliveries that wait behind others of their interaction", count(s.sum(|line| line.held))),
        ("dlq_depth", "Dead letters", big(t.sum(|t| t.dead))),
        ("dlq_beyond_bounds", "Dead letters found beyond age or bytes since the start", big(beyond)),
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
        ("disk_free", "Free bytes of the store's filesystem", s.free_bytes),
        ("disk_used", "Bytes that the store takes", s.used_bytes),
    ] {
        registry.register_with_unit(name, help, Unit::Bytes, ConstGauge::new(big(value)));
    }
    let age = ConstGauge::new(s.oldest_age_ms() as f64 / 1000.0);
    registry.register_with_unit("queue_oldest_age", "Age of the oldest delivery that waits", Unit::Seconds, age);
}

/// Histograms that were fed elsewhere, as one metric with a label each.
#[derive(Debug)]
struct Labelled<L>(Vec<(L, Histogram)>);

impl<L: EncodeLabelSet> EncodeMetric for Labelled<L> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.iter().try_for_each(|(labels, histogram)| histogram.encode(encoder.encode_family(labels)?))
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
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
    let family = Family::<Refused, prometheus_client::metrics::counter::Counter>::default();
    for ((status, code), count) in &s.refused {
        let labels = Refused { status: u32::from(*status), code: (*code).to_owned() };
        family.get_or_create(&labels).inc_by(*count);
    }
    registry.register("intake_refused", "Requests refused at the door", family);
}

fn certificates(registry: &mut Registry, s: &Snapshot) {
    let family = Family::<ByUse, Gauge>::default();
    for certificate in &s.certificates {
        let labels = ByUse { of: certificate.of.clone(), role: certificate.role };
        family.get_or_create(&labels).set(certificate.ends_in_s);
    }
    let help = "Time until a certificate in use ends; below zero where it has ended";
    registry.register_with_unit("certificate_expiry", help, Unit::Seconds, family);
}

fn attempts<'a>(registry: &mut Registry, destinations: impl Iterator<Item = &'a Arc<Destination>>) {
    let family = Family::<Ended, prometheus_client::metrics::counter::Counter>::default();
    for destination in destinations {
        for (outcome, count) in destination.attempts.all() {
            let labels = Ended { destination: destination.name.clone(), outcome };
            family.get_or_create(&labels).inc_by(count);
        }
    }
    registry.register("destination_attempts", "Attempts since the start, by how they ended", family);
}

fn by_destination(registry: &mut Registry, s: &Snapshot, names: &[(crate::event::DestinationId, String)]) {
    type Of = fn(&Snapshot, crate::event::DestinationId) -> i64;
    let gauges: [(&str, &str, Of); 5] = [
        ("destination_queue_depth", "Deliveries that wait for it", |s, d| s.totals.tally_of(d).queued() as i64),
        ("destination_in_flight", "Deliveries being attempted to it", |s, d| s.line(d).in_flight as i64),
        ("destination_delayed", "Its deliveries that wait for their due time", |s, d| s.line(d).delayed as i64),
        ("destination_dead", "Its dead letters", |s, d| s.totals.tally_of(d).dead as i64),
        ("destination_delivered", "Deliveries to it answered 2xx", |s, d| s.totals.tally_of(d).delivered as i64),
    ];
    for (name, help, of) in gauges {
        let family = Family::<ByDestination, Gauge>::default();
        for (d, destination) in names {
            family.get_or_create(&ByDestination { destination: destination.clone() }).set(of(s, *d));
        }
        registry.register(name, help, family);
    }
}
