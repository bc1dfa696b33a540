//! A rate limit by the generic cell rate algorithm (ITU-T I.371, virtual scheduling), whose state is one number; and a
//! throttle for log messages.
//!
//! *Invariants.* In any period, at most `burst` more than the rate are allowed. A refused call uses no tokens; it
//! returns the earliest time at which the same call is allowed.

use crate::time::Timestamp;
use std::num::NonZeroU32;
use std::time::Duration;

const NANOS_PER_MS: u128 = 1_000_000;

/// A number per period, such as 200 per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    count: NonZeroU32,
    per: Duration,
}

impl Rate {
    pub fn new(count: NonZeroU32, per: Duration) -> Self {
        Self { count, per }
    }

    pub fn count(self) -> u32 {
        self.count.get()
    }

    pub fn per(self) -> Duration {
        self.per
    }

    /// The number per second, rounded up.
    pub fn in_a_second(self) -> u32 {
        let nanos = self.per.as_nanos().max(1);
        u32::try_from((u128::from(self.count.get()) * 1_000_000_000).div_ceil(nanos)).unwrap_or(u32::MAX)
    }

    /// The interval between two calls.
    pub fn interval(self) -> Duration {
        self.per / self.count.get()
    }

    /// The interval rounded up, so that rounding never exceeds the rate.
    fn interval_nanos(self) -> u128 {
        self.per.as_nanos().div_ceil(self.count.get().into()).max(1)
    }
}

/// As written in the configuration, such as `200/s`.
impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.per.as_millis() {
            1000 => write!(f, "{}/s", self.count),
            60_000 => write!(f, "{}/m", self.count),
            3_600_000 => write!(f, "{}/h", self.count),
            86_400_000 => write!(f, "{}/d", self.count),
            _ => write!(f, "{}/{}ms", self.count, self.per.as_millis()),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Gcra {
    interval_nanos: u128,
    /// How much earlier than its theoretical arrival time a call is allowed.
    tolerance_nanos: u128,
    /// The theoretical arrival time of the next call, if all before it had come at the exact rate.
    next_nanos: u128,
}

impl Gcra {
    /// `burst`: how many calls are allowed at once after a pause; at least one. The clock has a resolution of one
    /// millisecond, so as many calls as the rate gives in a millisecond are always allowed at once.
    pub fn new(rate: Rate, burst: u32) -> Self {
        let interval_nanos = rate.interval_nanos();
        let tolerance_nanos = interval_nanos * u128::from(burst.max(1) - 1);
        Self { interval_nanos, tolerance_nanos: tolerance_nanos.max(NANOS_PER_MS - 1), next_nanos: 0 }
    }

    /// Whether a call is allowed, without counting it; otherwise the earliest time at which it is.
    pub fn check(&self, now: Timestamp) -> Result<(), Timestamp> {
        let earliest = self.next_nanos.saturating_sub(self.tolerance_nanos);
        if nanos(now) >= earliest {
            return Ok(());
        }
        Err(Timestamp(u64::try_from(earliest.div_ceil(NANOS_PER_MS)).unwrap_or(u64::MAX)))
    }

    /// Counts a call if it is allowed; otherwise returns the earliest time at which it is.
    pub fn try_take(&mut self, now: Timestamp) -> Result<(), Timestamp> {
        self.try_take_many(now, 1)
    }

    /// Counts several calls as one unit: all are allowed as soon as one is, and later calls wait correspondingly longer.
    pub fn try_take_many(&mut self, now: Timestamp, count: u32) -> Result<(), Timestamp> {
        self.check(now)?;
        self.next_nanos = self.next_nanos.max(nanos(now)) + self.interval_nanos * u128::from(count);
        Ok(())
    }
}

fn nanos(at: Timestamp) -> u128 {
    u128::from(at.0) * NANOS_PER_MS
}

/// Limits how often one kind of message is logged.
#[derive(Clone, Copy, Debug, Default)]
pub struct Throttle {
    logged_at: Option<Timestamp>,
    /// Messages suppressed since then.
    suppressed: u64,
}

impl Throttle {
    /// Counts a message. Returns the number of messages since the last logged one, including this one, if that was at
    /// least `every` ago; none where this message is suppressed. The first message is logged at once.
    pub fn count(&mut self, now: Timestamp, every: Duration) -> Option<u64> {
        self.suppressed += 1;
        if self.logged_at.is_some_and(|at| now.since(at) < every && at <= now) {
            return None;
        }
        self.logged_at = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_800_000_000_000);

    fn rate(count: u32, per: Duration) -> Rate {
        Rate::new(NonZeroU32::new(count).unwrap(), per)
    }

    fn second(count: u32) -> Rate {
        rate(count, Duration::from_secs(1))
    }

    fn at(ms: u64) -> Timestamp {
        Timestamp(START.0 + ms)
    }

    #[test]
    fn a_rate_is_shown_in_its_configured_unit() {
        for (seconds, shown) in [(1.0, "7/s"), (60.0, "7/m"), (3600.0, "7/h"), (86_400.0, "7/d"), (1.5, "7/1500ms")] {
            assert_eq!(rate(7, Duration::from_secs_f64(seconds)).to_string(), shown);
        }
    }

    #[test]
    fn a_burst_passes_and_then_the_rate_applies() {
        let mut gcra = Gcra::new(second(200), 3);
        for _ in 0..3 {
            assert_eq!(gcra.try_take(START), Ok(()));
        }
        assert_eq!(gcra.try_take(START), Err(at(5)));
        assert_eq!(gcra.try_take(at(4)), Err(at(5)), "a refusal costs nothing");
        assert_eq!(gcra.check(at(5)), Ok(()));
        assert_eq!(gcra.try_take(at(5)), Ok(()), "neither does a question");
        assert_eq!(gcra.try_take(at(5)), Err(at(10)));
    }

    #[test]
    fn every_rate_admits_the_rate_and_one_burst() {
        for (rate, burst, seconds, expected) in [
            (second(1), 1, 10, 10),
            (second(200), 1, 10, 2000),
            (second(3), 1, 10, 30),
            (second(5000), 1, 10, 50_000), // one millisecond's worth is allowed at once
            (second(5000), 5000, 10, 54_995),
            (second(1_000_000), 1, 1, 1_000_000),
            (rate(60, Duration::from_secs(60)), 1, 120, 120),
            (rate(7, Duration::from_secs(3600)), 7, 7200, 20),
        ] {
            let mut gcra = Gcra::new(rate, burst);
            let mut passed = 0u32;
            for ms in 0..seconds * 1000 {
                while gcra.try_take(at(ms)).is_ok() {
                    passed += 1;
                }
            }
            assert!(passed.abs_diff(expected) <= 1, "{rate:?} {burst}: {passed} and not {expected}");
        }
    }

    #[test]
    fn a_refusal_names_the_earliest_permitted_time() {
        for count in [1, 3, 7, 200, 999, 1000, 4999] {
            let mut gcra = Gcra::new(second(count), 2);
            let mut now = START;
            for _ in 0..5000 {
                while gcra.try_take(now).is_ok() {}
                let until = gcra.check(now).unwrap_err();
                assert!(until > now);
                assert!(gcra.check(Timestamp(until.0 - 1)).is_err(), "{count}");
                assert_eq!(gcra.check(until), Ok(()), "{count}");
                now = until;
            }
        }
    }

    #[test]
    fn a_batch_passes_at_once_and_is_charged() {
        let mut gcra = Gcra::new(second(100), 1);
        assert_eq!(gcra.try_take_many(START, 50), Ok(()));
        assert_eq!(gcra.try_take(at(1)), Err(at(500)));
        assert_eq!(gcra.try_take_many(at(500), 2), Ok(()));
        assert_eq!(gcra.check(at(501)), Err(at(520)));
    }

    #[test]
    fn a_long_pause_allows_only_the_burst() {
        let mut gcra = Gcra::new(second(10), 4);
        let later = START.after(Duration::from_secs(86_400 * 365));
        assert_eq!((0..9).filter(|_| gcra.try_take(later).is_ok()).count(), 4);
        assert_eq!(Gcra::new(second(u32::MAX), u32::MAX).check(Timestamp::NEVER), Ok(()));
        assert_eq!(rate(60, Duration::from_secs(60)).in_a_second(), 1);
        assert_eq!(rate(61, Duration::from_secs(60)).in_a_second(), 2);
    }

    #[test]
    fn the_first_message_passes_and_later_ones_carry_a_count() {
        let mut throttle = Throttle::default();
        let every = Duration::from_secs(60);
        let mut at = |seconds: u64| throttle.count(Timestamp(1_000_000 + seconds * 1000), every);
        assert_eq!([at(0), at(1), at(59), at(60), at(61)], [Some(1), None, None, Some(3), None]);
        assert_eq!(at(600), Some(2));
        assert_eq!(at(500), Some(1), "a clock that was set back suppresses nothing for long");
    }
}
