//! What a seed decides before it runs: destinations, their policies, and the weather.

use fastrand::Rng;
use holdline::event::DestinationId;
use holdline::rules::backoff::{Jitter, Retry};
use holdline::scheduler::{DeadLetters, Ordered, Policy};
use holdline::time::Timestamp;
use std::time::Duration;

pub const START: Timestamp = Timestamp(1_800_000_000_000);

#[derive(Clone, Debug)]
pub struct Destination {
    pub id: DestinationId,
    pub policy: Policy,
    pub retry: Retry,
}

impl Destination {
    fn draw(rng: &mut Rng, id: DestinationId) -> Self {
        let base = Duration::from_millis(rng.u64(50..5000));
        let retry = Retry {
            base,
            factor: 1.0 + rng.f64() * 2.0,
            max: base * rng.u32(1..100),
            jitter: if rng.bool() { Jitter::Full } else { Jitter::None },
            attempts: rng.u32(1..6),
            max_age: Duration::from_secs(if rng.u8(0..4) == 0 { 60 } else { 2 * 365 * 86_400 }),
            retry_after_max: Duration::from_secs(rng.u64(5..600)),
            ..Retry::default()
        };
        Self { id, policy: policy(rng), retry }
    }

    /// No due time of an honest clock lies further ahead.
    pub fn latest(&self, now: Timestamp) -> Timestamp {
        now.after(self.retry.max.max(self.retry.retry_after_max))
    }
}

fn policy(rng: &mut Rng) -> Policy {
    Policy {
        concurrency: if rng.u8(0..16) == 0 { 0 } else { rng.usize(1..5) },
        ordered: if rng.u8(0..4) == 0 { Ordered::Not } else { Ordered::ByInteraction },
        dead_letters: if rng.u8(0..5) < 2 { DeadLetters::Hold } else { DeadLetters::Continue },
    }
}

/// How a run goes; all shares are of 100.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub steps: usize,
    /// Events at once, at most.
    pub batch: usize,
    pub interactions: u64,
    pub unordered: u8,
    /// Attempts that fail.
    pub failing: u8,
    /// The dispatcher does not look after a step.
    pub lazy: u8,
    pub latency_ms: u64,
    /// Restarts, of 1000 steps.
    pub restarts: u16,
    /// Longest row of history.
    pub row: u64,
}

impl Weather {
    pub fn draw(rng: &mut Rng) -> Self {
        // now and then a backlog that is longer than what a line keeps in memory
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
        }
    }
}

pub fn destinations(rng: &mut Rng) -> Vec<Destination> {
    (0..rng.u8(1..5)).map(|d| Destination::draw(rng, DestinationId(d))).collect()
}

/// The operator edits the settings between two lives.
pub fn edit(rng: &mut Rng, destinations: &mut [Destination]) {
    for destination in destinations {
        if rng.u8(0..3) == 0 {
            destination.policy = policy(rng);
        }
    }
}
