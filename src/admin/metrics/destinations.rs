//! The metrics of each destination.

use super::{ByDestination, Labelled, one_of, timestamp};
use crate::admin::Admin;
use crate::admin::explain;
use crate::admin::snapshot::Snapshot;
use crate::admin::status::is_paused;
use crate::dispatch::{Destination, DestinationStatus};
use crate::maintenance::Rates;
use crate::rules::breaker;
use crate::store::Counters;
use crate::time::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    destination: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Stands {
    destination: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct HeldBy {
    destination: String,
    blocker: &'static str,
}

/// A destination at one moment.
struct Seen {
    destination: Arc<Destination>,
    line: DestinationStatus,
    tally: Counters,
    rates: Rates,
    now: Timestamp,
}

impl Seen {
    fn label(&self) -> ByDestination {
        ByDestination { destination: self.name() }
    }

    fn name(&self) -> String {
        self.destination.name.clone()
    }

    fn oldest_age_s(&self) -> f64 {
        self.line.oldest.map_or(0.0, |at| self.now.since(at).as_secs_f64())
    }
}

pub(super) fn register(registry: &mut Registry, admin: &Admin, s: &Snapshot) {
    let known = admin.destinations.now();
    let mut all: Vec<Seen> = known
        .values()
        .map(|destination| Seen {
            destination: destination.clone(),
            line: s.line(destination.id),
            tally: s.totals.counters_of(destination.id),
            rates: admin.trend.rates(Some(destination.id)),
            now: s.now,
        })
        .collect();
    all.sort_by_key(|seen| seen.destination.id);
    gauges(registry, &all);
    counters(registry, &all);
    breakers(registry, &all);
    holds(registry, admin, &all);
}

fn gauges(registry: &mut Registry, all: &[Seen]) {
    type Of = fn(&Seen) -> f64;
    let gauges: [(&str, &str, Of); 14] = [
        ("queue_depth", "Deliveries that wait for it", |of| of.tally.queued() as f64),
        ("in_flight", "Deliveries being attempted to it", |of| of.line.in_flight as f64),
        ("delayed", "Its deliveries that wait for their due time", |of| of.line.delayed as f64),
        ("blocked", "Its deliveries that wait behind others of their interaction", |of| of.line.blocked as f64),
        ("behind_dead_letters", "Its deliveries that wait for what becomes of dead letters", |of| {
            of.line.blocked_by_dead_letters.deliveries as f64
        }),
        ("behind_dead_letters_interactions", "Interactions that wait for that", |of| {
            of.line.blocked_by_dead_letters.interactions as f64
        }),
        ("dead", "Its dead letters", |of| of.tally.dead as f64),
        ("paused", "1 while an operator has paused it", |of| f64::from(u8::from(is_paused(&of.line)))),
        ("concurrency_limit", "Most requests in flight, as latency and errors are now", |of| of.line.limit as f64),
        ("concurrency_max", "Most requests in flight, as configured", |of| {
            of.destination.policy.limits.concurrency_max as f64
        }),
        ("slow", "1 while most of its answers take breaker.slow_call longer than usual", |of| {
            f64::from(u8::from(of.line.slow.is_some()))
        }),
        ("accepted_per_second", "Deliveries accepted for it, over the last minute", |of| of.rates.accepted),
        ("delivered_per_second", "Deliveries to it answered 2xx, over the last minute", |of| of.rates.delivered),
        ("dead_per_second", "Dead letters for it, over the last minute", |of| of.rates.dead),
    ];
    let samples = |of: Of| Labelled(all.iter().map(|seen| (seen.label(), ConstGauge::new(of(seen)))).collect());
    for (name, help, of) in gauges {
        registry.register(format!("destination_{name}"), help, samples(of));
    }
    let help = "Age of the oldest delivery that waits for it";
    registry.register_with_unit("destination_oldest_age", help, Unit::Seconds, samples(Seen::oldest_age_s));
    let usual = samples(|of| of.line.usual_latency.unwrap_or_default().as_secs_f64());
    let help = "What it takes to answer when little is asked of it; zero before its first success";
    registry.register_with_unit("destination_usual_latency", help, Unit::Seconds, usual);
    let behind = samples(|of| of.line.blocked_by_dead_letters.oldest.map_or(0.0, |at| of.now.since(at).as_secs_f64()));
    let help = "Age of the oldest delivery that waits for what becomes of dead letters";
    registry.register_with_unit("destination_behind_dead_letters_oldest_age", help, Unit::Seconds, behind);
}

fn counters(registry: &mut Registry, all: &[Seen]) {
    type Of = fn(&Seen) -> u64;
    let counters: [(&str, &str, Of); 4] = [
        ("accepted", "Deliveries accepted for it", |of| of.tally.accepted),
        ("delivered", "Deliveries to it answered 2xx", |of| of.tally.delivered),
        ("discarded", "Its deliveries discarded by decision", |of| of.tally.discarded),
        ("retry_after_cut", "Its wishes of Retry-After that were cut to retry_after_max, since the start", |of| {
            of.destination.attempts.clamped()
        }),
    ];
    for (name, help, of) in counters {
        let samples = Labelled(all.iter().map(|seen| (seen.label(), ConstCounter::new(of(seen)))).collect());
        registry.register(format!("destination_{name}"), help, samples);
    }
    let attempts = all.iter().flat_map(|seen| {
        let ended = |outcome| Ended { destination: seen.name(), outcome };
        seen.destination.attempts.all().map(move |(outcome, count)| (ended(outcome), ConstCounter::new(count)))
    });
    let help = "Attempts since the start, by how they ended";
    registry.register("destination_attempts", help, Labelled(attempts.collect()));
}

fn breakers(registry: &mut Registry, all: &[Seen]) {
    let states = all.iter().flat_map(|seen| {
        let stands = |state| Stands { destination: seen.name(), state };
        one_of(&breaker::State::WORDS, seen.line.breaker.word(), stands)
    });
    registry.register("destination_breaker", "1 for the state of its breaker", Labelled(states.collect()));
    let at = |of: fn(&DestinationStatus) -> Option<Timestamp>| {
        let sample = |seen: &Seen| Some((seen.label(), ConstGauge::new(timestamp(of(&seen.line)?))));
        Labelled(all.iter().filter_map(sample).collect())
    };
    let since = at(|line| line.breaker_since);
    let help = "When its breaker came into its state; absent where it never turned";
    registry.register("destination_breaker_since_timestamp_seconds", help, since);
    let until = at(|line| match line.breaker {
        breaker::State::Open { until } if until < Timestamp::NEVER => Some(until),
        _ => None,
    });
    let help = "Until when its breaker is open; absent where no time ends it";
    registry.register("destination_breaker_until_timestamp_seconds", help, until);
}

fn holds(registry: &mut Registry, admin: &Admin, all: &[Seen]) {
    // two of the same blocker are one series, of which the longer counts
    let mut left: BTreeMap<HeldBy, f64> = BTreeMap::new();
    for seen in all {
        for held in explain::of_destination(admin, seen.destination.id, &seen.line) {
            let until = held.until.as_deref().and_then(|until| humantime::parse_rfc3339(until).ok());
            let seconds =
                until.map_or(f64::INFINITY, |until| Timestamp::from_system(until).since(seen.now).as_secs_f64());
            let of = left.entry(HeldBy { destination: seen.name(), blocker: held.blocker.word() }).or_default();
            *of = of.max(seconds);
        }
    }
    let left = Labelled(left.into_iter().map(|(labels, seconds)| (labels, ConstGauge::new(seconds))).collect());
    let help = "How long a blocker keeps back everything that waits for it; infinite where no time ends it";
    registry.register_with_unit("destination_blocked", help, Unit::Seconds, left);
}
