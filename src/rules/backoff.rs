//! How long a delivery waits before its next attempt: exponential backoff with full jitter.
//!
//! *Invariants.* The wait is in `[0, min(max, base * factor^(n-1))]`. It depends only on the delivery and the attempt
//! number, so simulations are reproducible and a restart computes the same wait.

use crate::delivery::{DeliveryId, Outcome};
use std::collections::BTreeSet;
use std::time::Duration;

/// When and for how long the deliveries of a destination are retried.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    pub base: Duration,
    pub factor: f64,
    pub max: Duration,
    pub jitter: Jitter,
    /// Maximum number of attempts that [count](Retry::counts), including the first; none: only `max_age` limits them.
    pub attempts: Option<u32>,
    /// Maximum age since acceptance at which an attempt is made.
    pub max_age: Duration,
    /// The longest `Retry-After` that is applied in full.
    pub retry_after_max: Duration,
    /// Statuses that are retried; every other status outside 2xx is permanent.
    pub statuses: BTreeSet<u16>,
    /// Permanent statuses that are caused by the content of an event. Any other permanent status is treated as a
    /// condition of the destination, see [`refusals`](super::refusals).
    pub permanent: BTreeSet<u16>,
    /// How long an event must get a permanent status that is not caused by content before it becomes a dead letter.
    pub permanent_after: Duration,
    pub on_ambiguous: OnAmbiguous,
}

/// What happens after an attempt whose outcome is ambiguous: the destination may have received the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnAmbiguous {
    /// The delivery is retried: at-least-once delivery.
    Retry,
    /// The delivery becomes a dead letter, for destinations that cannot deduplicate by the idempotency key.
    DeadLetter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Jitter {
    /// Uniform between zero and the exponential bound ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
    Full,
    /// Always the exponential bound.
    None,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(1),
            factor: 2.0,
            max: Duration::from_secs(300),
            jitter: Jitter::Full,
            attempts: None,
            max_age: Duration::from_secs(3 * 24 * 3600),
            retry_after_max: Duration::from_secs(3600),
            statuses: [408, 409, 425, 429].into_iter().chain(500..600).collect(),
            permanent: [400, 411, 413, 414, 415, 422, 431].into(),
            permanent_after: Duration::from_secs(300),
            on_ambiguous: OnAmbiguous::Retry,
        }
    }
}

impl Retry {
    /// Whether an attempt with this outcome counts against the limit: the destination has processed the event, or may
    /// have. An attempt that did not reach it does not count, and neither does an answer that may be a condition of the
    /// destination.
    pub fn counts(&self, outcome: &Outcome) -> bool {
        match outcome {
            Outcome::Answered(status) => self.statuses.contains(status),
            Outcome::TimedOut | Outcome::Broken | Outcome::Unsuccessful(_) => true,
            Outcome::NotConnected | Outcome::ConnectTimedOut | Outcome::NotSent => false,
        }
    }

    /// Whether the destination gave a permanent answer.
    pub fn is_permanent(&self, outcome: &Outcome) -> bool {
        matches!(outcome, Outcome::Answered(status) if !(200..300).contains(status) && !self.statuses.contains(status))
    }
}

/// The wait after failed attempt number `attempt` (from 1).
pub fn wait(retry: &Retry, delivery: DeliveryId, attempt: u32) -> Duration {
    let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
    let bound = (retry.base.as_secs_f64() * retry.factor.powi(exponent)).min(retry.max.as_secs_f64());
    let share = match retry.jitter {
        Jitter::None => 1.0,
        Jitter::Full => unit(delivery, attempt),
    };
    Duration::from_secs_f64(bound * share)
}

/// A number in `[0, 1)` from delivery and attempt, by the finalizer of SplitMix64 (Steele et al., OOPSLA 2014).
fn unit(delivery: DeliveryId, attempt: u32) -> f64 {
    let seed = delivery.sequence.0 << 16 | u64::from(delivery.destination.0) << 8 | u64::from(attempt & 0xFF);
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{DestinationId, Sequence};

    fn delivery(n: u64) -> DeliveryId {
        DeliveryId { sequence: Sequence(n), destination: DestinationId(3) }
    }

    #[test]
    fn full_jitter_fills_the_range_and_is_reproducible() {
        let retry = Retry::default();
        let waits: Vec<f64> = (0..10_000).map(|n| wait(&retry, delivery(n), 3).as_secs_f64()).collect();
        assert!(waits.iter().all(|w| (0.0..4.0).contains(w)));
        let mean = waits.iter().sum::<f64>() / waits.len() as f64;
        assert!((1.9..2.1).contains(&mean), "mean {mean}");
        assert_eq!(wait(&retry, delivery(7), 3), wait(&retry, delivery(7), 3));
        assert_ne!(wait(&retry, delivery(7), 3), wait(&retry, delivery(7), 4));
    }

    /// Deliveries that fail together are retried at different times: consecutive deliveries get uncorrelated waits.
    #[test]
    fn jitter_of_neighbouring_deliveries_is_spread_evenly() {
        let share = |n: u64, d: u8, attempt: u32| {
            unit(DeliveryId { sequence: Sequence(n), destination: DestinationId(d) }, attempt)
        };
        let together: [Vec<f64>; 3] = [
            (0..1000).map(|n| share(n, 0, 1)).collect(),
            (0..250).flat_map(|n| (0..4).map(move |d| share(n, d, 1))).collect(),
            (0..100).flat_map(|n| (1..=10).map(move |attempt| share(n, 3, attempt))).collect(),
        ];
        for mut shares in together {
            let mut tenths = [0; 10];
            shares.iter().for_each(|share| tenths[(share * 10.0) as usize] += 1);
            assert!(tenths.iter().all(|n| (70..=130).contains(n)), "{tenths:?}");
            shares.sort_by(f64::total_cmp);
            shares.dedup();
            assert_eq!(shares.len(), 1000);
        }
    }

    #[test]
    fn the_bound_doubles_up_to_the_maximum_and_never_overflows() {
        let retry = Retry { jitter: Jitter::None, ..Retry::default() };
        let seconds: Vec<u64> = [1, 2, 3, 9, 10, 40, u32::MAX].map(|n| wait(&retry, delivery(1), n).as_secs()).into();
        assert_eq!(seconds, [1, 2, 4, 256, 300, 300, 300]);
    }

    /// The published outputs of the generator for the seeds 0 and 1234567.
    #[test]
    fn jitter_values_match_splitmix64() {
        let share = |n: u64, d: u8, attempt: u32| {
            unit(DeliveryId { sequence: Sequence(n), destination: DestinationId(d) }, attempt)
        };
        let of = |number: u64| (number >> 11) as f64 / (1u64 << 53) as f64;
        assert_eq!(share(0, 0, 0), of(0xE220_A839_7B1D_CDAF));
        assert_eq!(share(0x12, 0xD6, 0x87), of(6_457_827_717_110_365_317));
    }
}
