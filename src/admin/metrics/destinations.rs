//! The metrics of each destination.

use super::{ByDestination, Labelled, one_of, seconds, timestamp};
use crate::admin::Admin;
use crate::api;
use crate::time::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    destination: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByState {
    destination: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct ByBlocker {
    destination: String,
    blocker: &'static str,
}

/// Samples of one destination: metric name, help text, value.
type Samples<V> = Vec<(&'static str, &'static str, V)>;

pub(super) fn register(registry: &mut Registry, all: &[api::Destination], now: Timestamp) {
    let label = |of: &api::Destination| ByDestination { destination: of.name.clone() };
    let each: Vec<(ByDestination, Numbers)> = all.iter().map(|of| (label(of), numbers(of))).collect();
    let Some((_, first)) = each.first() else { return };
    for (n, (name, help, _)) in first.gauges.iter().enumerate() {
        let samples = each.iter().map(|(label, of)| (label.clone(), ConstGauge::new(of.gauges[n].2))).collect();
        registry.register(format!("destination_{name}"), *help, Labelled(samples));
    }
    for (n, (name, help, _)) in first.seconds.iter().enumerate() {
        let samples = each.iter().map(|(label, of)| (label.clone(), ConstGauge::new(of.seconds[n].2))).collect();
        registry.register_with_unit(format!("destination_{name}"), *help, Unit::Seconds, Labelled(samples));
    }
    for (n, (name, help, _)) in first.counters.iter().enumerate() {
        let samples = each.iter().map(|(label, of)| (label.clone(), ConstCounter::new(of.counters[n].2))).collect();
        registry.register(format!("destination_{name}"), *help, Labelled(samples));
    }
    let states = all.iter().flat_map(|of| {
        let labels = |state| ByState { destination: of.name.clone(), state };
        one_of(api::DestinationState::ALL.map(api::DestinationState::word), of.state.word(), labels)
    });
    registry.register("destination_state", "1 for its state", Labelled(states.collect()));
    breakers(registry, all);
    blockers(registry, all, now);
}

/// The numeric fields of a destination.
struct Numbers {
    gauges: Samples<f64>,
    seconds: Samples<f64>,
    counters: Samples<u64>,
}

fn numbers(of: &api::Destination) -> Numbers {
    // the url has no metric; states, breaker and blockers have their own
    let api::Destination {
        name: _,
        url: _,
        state: _,
        paused,
        breaker: _,
        concurrency: api::Concurrency { limit, max, in_flight },
        latency: api::Latency { usual_ms, slow },
        blocked_by: _,
        queue: api::DestinationQueue { depth, oldest_age_ms, delayed, blocked, behind_dead_letters: behind },
        rates: api::Rates { accepted_per_s, delivered_per_s, dead_per_s },
        counters: api::DestinationCounters { accepted, delivered, dead, discarded },
    } = of;
    let flag = |is: bool| f64::from(u8::from(is));
    Numbers {
        gauges: vec![
            ("queue_depth", "Deliveries that wait for it", *depth as f64),
            ("in_flight", "Deliveries being attempted to it", *in_flight as f64),
            ("delayed", "Its deliveries that wait for their due time", *delayed as f64),
            ("blocked", "Its deliveries that wait behind others of their interaction", *blocked as f64),
            ("behind_dead_letters", "Its deliveries that wait behind dead letters", behind.deliveries as f64),
            (
                "behind_dead_letters_interactions",
                "Interactions of which deliveries wait behind dead letters",
                behind.interactions as f64,
            ),
            ("dead", "Its dead letters", *dead as f64),
            ("paused", "1 while an operator has paused it", flag(*paused)),
            ("concurrency_limit", "Most requests in flight, as latency and errors are now", *limit as f64),
            ("concurrency_max", "Most requests in flight, as configured", *max as f64),
            ("slow", "1 while most of its answers take breaker.slow_call longer than usual", flag(slow.is_some())),
            ("accepted_per_second", "Deliveries accepted for it, over the last minute", *accepted_per_s),
            ("delivered_per_second", "Deliveries to it answered 2xx, over the last minute", *delivered_per_s),
            ("dead_per_second", "Dead letters for it, over the last minute", *dead_per_s),
        ],
        seconds: vec![
            ("oldest_age", "Age of the oldest delivery that waits for it", seconds(*oldest_age_ms)),
            (
                "usual_latency",
                "Usual time of an answer under little load; zero before its first success",
                seconds(usual_ms.unwrap_or_default()),
            ),
            (
                "behind_dead_letters_oldest_age",
                "Age of the oldest delivery that waits behind dead letters",
                seconds(behind.oldest_age_ms),
            ),
        ],
        counters: vec![
            ("accepted", "Deliveries accepted for it", *accepted),
            ("delivered", "Deliveries to it answered 2xx", *delivered),
            ("discarded", "Its deliveries discarded by decision", *discarded),
        ],
    }
}

/// Counters of attempts since the start, which the status does not contain.
pub(super) fn attempts(registry: &mut Registry, admin: &Admin) {
    let known = admin.destinations.now();
    let mut all: Vec<_> = known.values().collect();
    all.sort_by_key(|destination| destination.id);
    let cut =
        all.iter().map(|d| (ByDestination { destination: d.name.clone() }, ConstCounter::new(d.attempts.clamped())));
    let help = "Its Retry-After values that were cut to retry_after_max, since the start";
    registry.register("destination_retry_after_cut", help, Labelled(cut.collect()));
    let attempts = all.iter().flat_map(|d| {
        let ended = |outcome| ByOutcome { destination: d.name.clone(), outcome };
        d.attempts.all().map(move |(outcome, count)| (ended(outcome), ConstCounter::new(count)))
    });
    let help = "Attempts since the start, by outcome";
    registry.register("destination_attempts", help, Labelled(attempts.collect()));
}

fn breakers(registry: &mut Registry, all: &[api::Destination]) {
    let states = all.iter().flat_map(|of| {
        let labels = |state| ByState { destination: of.name.clone(), state };
        one_of(api::BreakerState::ALL.map(api::BreakerState::word), of.breaker.state.word(), labels)
    });
    registry.register("destination_breaker", "1 for the state of its breaker", Labelled(states.collect()));
    let at = |time: fn(&api::Breaker) -> Option<api::Time>| {
        let sample = |of: &api::Destination| {
            let label = ByDestination { destination: of.name.clone() };
            Some((label, ConstGauge::new(timestamp(time(&of.breaker)?.0))))
        };
        Labelled(all.iter().filter_map(sample).collect())
    };
    let help = "When its breaker came into its state; absent where it never changed";
    registry.register("destination_breaker_since_timestamp_seconds", help, at(|breaker| breaker.since));
    let open_until = at(|breaker| breaker.until.filter(|_| breaker.state == api::BreakerState::Open));
    let help = "Until when its breaker is open; absent where no time ends it";
    registry.register("destination_breaker_until_timestamp_seconds", help, open_until);
}

fn blockers(registry: &mut Registry, all: &[api::Destination], now: Timestamp) {
    // two blockers of the same kind share a series, with the longer time
    let mut left: BTreeMap<ByBlocker, f64> = BTreeMap::new();
    for destination in all {
        for by in &destination.blocked_by {
            let seconds = by.until.map_or(f64::INFINITY, |until| until.0.since(now).as_secs_f64());
            let labels = ByBlocker { destination: destination.name.clone(), blocker: by.blocker.word() };
            let of = left.entry(labels).or_default();
            *of = of.max(seconds);
        }
    }
    let left = Labelled(left.into_iter().map(|(labels, seconds)| (labels, ConstGauge::new(seconds))).collect());
    let help = "How long a blocker still keeps back everything that waits for it; infinite where no time ends it";
    registry.register_with_unit("destination_blocked", help, Unit::Seconds, left);
}
