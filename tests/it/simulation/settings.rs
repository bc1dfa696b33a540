//! What a seed decides before it runs: destinations, their policies, and the conditions of the run.

use fastrand::Rng;
use holdline::event::DestinationId;
use holdline::rules::backoff::{Jitter, Retry};
use holdline::rules::breaker;
use holdline::rules::concurrency::Adaptive;
use holdline::rules::lateness::OnStale;
use holdline::rules::rate::Rate;
use holdline::scheduler::{DeadLetters, Limits, Ordered, Policy};
use holdline::time::Timestamp;
use std::num::NonZeroU32;
use std::time::Duration;

pub const START: Timestamp = Timestamp(1_800_000_000_000);

#[derive(Clone, Debug)]
pub struct Destination {
    pub id: DestinationId,
    pub policy: Policy,
    pub retry: Retry,
    pub late: Late,
}

/// The types of events.
pub const KINDS: [&str; 3] = ["screen_pop.offer", "screen_pop.close", "call.end"];

/// How a destination handles late events.
#[derive(Clone, Debug)]
pub struct Late {
    pub on_stale: OnStale,
    /// Times to live, by patterns of event types.
    pub ttl: Vec<(String, Duration)>,
    /// The time to live of each of [`KINDS`], for the judge.
    pub worth: [Option<Duration>; 3],
}

impl Late {
    fn draw(rng: &mut Rng) -> Self {
        let kinds = [OnStale::Deliver, OnStale::Flag, OnStale::Discard, OnStale::DeadLetter];
        let on_stale = kinds[rng.usize(0..kinds.len())];
        let has_ttl = rng.u8(0..3) == 0;
        let mut ttl = || Some(Duration::from_millis(rng.u64(500..20_000))).filter(|_| has_ttl && rng.bool());
        let (offer, pop, any) = (ttl(), ttl(), ttl());
        let patterns = [("*", any), ("screen_pop.offer", offer), ("screen_pop.*", pop)];
        Self {
            on_stale,
            ttl: patterns.iter().filter_map(|(pattern, ttl)| ttl.map(|ttl| ((*pattern).to_owned(), ttl))).collect(),
            worth: [offer.or(pop).or(any), pop.or(any), any],
        }
    }
}

impl Destination {
    fn draw(rng: &mut Rng, id: DestinationId) -> Self {
        let base = Duration::from_millis(rng.u64(50..5000));
        let retry = Retry {
            base,
            factor: 1.0 + rng.f64() * 2.0,
            max: base * rng.u32(1..100),
            jitter: if rng.bool() { Jitter::Full } else { Jitter::None },
            attempts: Some(rng.u32(1..6)).filter(|_| rng.u8(0..4) > 0),
            permanent_after: Duration::from_millis(rng.u64(0..20_000)),
            max_age: Duration::from_secs(if rng.u8(0..4) == 0 { 60 } else { 2 * 365 * 86_400 }),
            retry_after_max: Duration::from_secs(rng.u64(5..600)),
            ..Retry::default()
        };
        Self { id, policy: policy(rng), retry, late: Late::draw(rng) }
    }

    /// The latest due time that is possible without clock errors.
    pub fn latest(&self, now: Timestamp) -> Timestamp {
        now.after(self.retry.max.max(self.retry.retry_after_max))
    }
}

fn limits(rng: &mut Rng) -> Limits {
    // occasionally so slow that starts are recorded
    let (most, per) = if rng.u8(0..4) == 0 { (3, 15) } else { (100, 1) };
    let rate = NonZeroU32::new(rng.u32(2..=most)).map(|count| Rate::new(count, Duration::from_secs(per)));
    Limits {
        concurrency_max: if rng.u8(0..16) == 0 { 0 } else { rng.usize(1..8) },
        adaptive: if rng.bool() { Adaptive::Yes } else { Adaptive::No },
        rate: rate.filter(|_| rng.u8(0..4) == 0),
        breaker: breaker::Limits {
            failure_ratio: 0.2 + rng.f64() * 0.8,
            window: Duration::from_millis(rng.u64(500..60_000)),
            min_calls: rng.u32(1..12),
            consecutive_failures: rng.u32(1..12),
            permanent_answers: rng.u32(3..8),
            slow_call: Duration::from_millis(rng.u64(100..4000)),
            slow_ratio: 0.2 + rng.f64() * 0.8,
            open_duration: Duration::from_millis(rng.u64(100..20_000)),
            probes: rng.u32(1..4),
        },
        ramp: Duration::from_millis(rng.u64(0..5000)),
    }
}

fn policy(rng: &mut Rng) -> Policy {
    Policy {
        limits: limits(rng),
        ordered: if rng.u8(0..4) == 0 { Ordered::Not } else { Ordered::ByInteraction },
        dead_letters: if rng.u8(0..5) < 2 { DeadLetters::Hold } else { DeadLetters::Continue },
        reorder_window: Duration::from_millis(if rng.u8(0..3) == 0 { rng.u64(1..6000) } else { 0 }),
    }
}

/// Conditions of a run; all shares are in percent.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub steps: usize,
    /// Maximum number of events at once.
    pub batch: usize,
    pub interactions: u64,
    pub unordered: u8,
    /// Share of attempts that fail.
    pub failing: u8,
    /// Share of steps after which the dispatcher does not run.
    pub lazy: u8,
    pub latency_ms: u64,
    /// Restarts per 1000 steps.
    pub restarts: u16,
    /// Maximum length of a row of history.
    pub row: u64,
    /// Responses report a quota.
    pub quotas: bool,
}

impl Weather {
    pub fn draw(rng: &mut Rng) -> Self {
        // occasionally a backlog longer than the destination queue in memory
        let flood = rng.u16(0..1000) == 0;
        Self {
            steps: rng.usize(60..400),
            batch: if flood { 1000 } else { rng.usize(1..8) },
            interactions: if flood { 20_000 } else { rng.u64(1..20) },
            unordered: rng.u8(0..40),
            failing: rng.u8(0..90),
            lazy: rng.u8(0..60),
            latency_ms: rng.u64(1..3000),
            restarts: rng.u16(0..30),
            row: if flood { 64 } else { rng.u64(1..40) },
            quotas: rng.u8(0..4) == 0,
        }
    }
}

pub fn destinations(rng: &mut Rng) -> Vec<Destination> {
    (0..rng.u8(1..5)).map(|d| Destination::draw(rng, DestinationId(d))).collect()
}

/// The operator edits the settings between two runs.
pub fn edit(rng: &mut Rng, destinations: &mut [Destination]) {
    for destination in destinations {
        if rng.u8(0..3) == 0 {
            destination.policy = policy(rng);
            destination.late = Late::draw(rng);
        }
    }
}
