//! The adaptive concurrency limit of a destination: additive increase, multiplicative decrease, driven by measured
//! latency and signs of overload, as TCP finds the capacity of a path (Chiu and Jain 1989; the latency signal as in TCP
//! Vegas, the proportional decrease as in Netflix's concurrency-limits).
//!
//! *Invariants.* The limit is between 1 and `max`. It grows only while it blocks calls. Calls that were in flight
//! together reduce it at most once: a call that began before a reduction cannot reduce it again.
//!
//! *Overload.* [`Health::is_overload`]: 429, 503, 504, timeouts, no connection. The share of such calls is computed per
//! round; a round has as many calls as the limit, and at least [`ROUND_MIN`]. A share of up to [`TOLERATED`] is normal;
//! above it, the limit is reduced by half of that share. Errors that do not indicate load (a 500 for one event, a
//! refusal) have no effect.
//!
//! *Slowness.* The mean of the latest answers is compared with a baseline: the latency with few calls in flight. The
//! baseline follows faster answers at any time and slower ones only while few calls are in flight. So latency caused by
//! the limit's own queue does not raise the baseline, and a permanently slower destination does.

use super::verdict::{Call, Health};
use crate::time::Timestamp;
use std::time::Duration;

/// The initial adaptive limit.
const FIRST: f64 = 4.0;
/// A reduction keeps at least this share of the limit. Answers count as slow from twice the baseline on, so the
/// remaining calls still keep the destination busy.
const CUT_MOST: f64 = 0.5;
/// A reduction keeps at most this share, so that it has an effect.
const CUT_LEAST: f64 = 0.95;
/// The share of overloaded calls in a round up to which the limit is not reduced.
const TOLERATED: f64 = 0.1;
/// Minimum number of calls in a round, unless all of them, and at least [`ALL_MIN`], show overload.
const ROUND_MIN: u32 = 10;
const ALL_MIN: u32 = 3;
/// Answers are slow from this many times the baseline, plus [`SLACK`].
const TOLERANCE: f64 = 2.0;
/// Additional latency that is always tolerated.
const SLACK: Duration = Duration::from_millis(50);
/// Weight of one answer in the mean of the latest answers, and in the baseline.
const RECENT: f64 = 0.2;
const SETTLED: f64 = 0.05;
/// With at most this many calls in flight, an answer updates the baseline.
const FEW: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adaptive {
    Yes,
    No,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Growth {
    /// By one per answer: doubles in each round, until the first reduction.
    Doubling,
    /// By one per round.
    Additive,
}

/// Calls that began after the last reduction and have ended since the last evaluation.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    calls: u32,
    overloaded: u32,
}

#[derive(Clone, Debug)]
pub struct Concurrency {
    max: f64,
    adaptive: Adaptive,
    limit: f64,
    growth: Growth,
    /// In seconds; none before the first answer.
    baseline: Option<f64>,
    recent: f64,
    round: Round,
    last_cut: Timestamp,
}

impl Concurrency {
    pub fn new(max: usize, adaptive: Adaptive) -> Self {
        let max = max as f64;
        let limit = if adaptive == Adaptive::Yes { FIRST.min(max) } else { max };
        Self {
            max,
            adaptive,
            limit,
            growth: Growth::Doubling,
            baseline: None,
            recent: 0.0,
            round: Round::default(),
            last_cut: Timestamp::ZERO,
        }
    }

    /// Applies new bounds; the learned limit and baseline are kept.
    pub fn reconfigure(&mut self, max: usize, adaptive: Adaptive) {
        (self.max, self.adaptive) = (max as f64, adaptive);
        let (fixed, least) = (adaptive == Adaptive::No, 1f64.min(self.max));
        self.limit = if fixed { self.max } else { self.limit.clamp(least, self.max) };
    }

    /// Maximum number of calls in flight.
    pub fn limit(&self) -> usize {
        self.limit as usize
    }

    /// The latency with few calls in flight; none before the first success.
    pub fn usual(&self) -> Option<Duration> {
        self.baseline.map(Duration::from_secs_f64)
    }

    /// A call has ended; `under_way` includes it.
    pub fn ended(&mut self, call: &Call, under_way: usize, now: Timestamp) {
        if call.health == Health::Delivered {
            self.measure(call.latency.as_secs_f64(), under_way);
        }
        if self.adaptive == Adaptive::No {
            return;
        }
        if call.began >= self.last_cut {
            self.round.calls += 1;
            self.round.overloaded += u32::from(call.health.is_overload());
            if let Some(left) = self.judge_round().or_else(|| self.judge_latency(call)) {
                self.cut(left, now);
                return;
            }
        }
        if call.health == Health::Delivered && !self.is_slow() && under_way + 1 >= self.limit() {
            self.grow();
        }
    }

    fn measure(&mut self, seconds: f64, under_way: usize) {
        let Some(baseline) = &mut self.baseline else {
            (self.baseline, self.recent) = (Some(seconds), seconds);
            return;
        };
        self.recent += RECENT * (seconds - self.recent);
        if under_way <= FEW {
            *baseline += RECENT * (seconds - *baseline);
        } else if seconds < *baseline {
            *baseline += SETTLED * (seconds - *baseline);
        }
    }

    /// The share of the limit to keep after a round with too much overload; none where the round is not complete or has
    /// little.
    fn judge_round(&mut self) -> Option<f64> {
        let Round { calls, overloaded } = self.round;
        let over = calls >= (self.limit as u32).max(ROUND_MIN) || overloaded == calls && calls >= ALL_MIN;
        if !over {
            return None;
        }
        self.round = Round::default();
        let part = f64::from(overloaded) / f64::from(calls);
        (part > TOLERATED).then_some(1.0 - part / 2.0)
    }

    /// The share of the limit to keep after slow answers.
    fn judge_latency(&self, call: &Call) -> Option<f64> {
        let slow = call.health == Health::Delivered && self.is_slow();
        slow.then(|| self.slow_from() / self.recent)
    }

    fn is_slow(&self) -> bool {
        self.recent > self.slow_from()
    }

    /// The latency in seconds from which answers are slow.
    fn slow_from(&self) -> f64 {
        self.baseline.map_or(f64::INFINITY, |baseline| baseline * TOLERANCE + SLACK.as_secs_f64())
    }

    fn grow(&mut self) {
        let step = match self.growth {
            Growth::Doubling => 1.0,
            Growth::Additive => 1.0 / self.limit,
        };
        self.limit = (self.limit + step).min(self.max);
    }

    fn cut(&mut self, left: f64, now: Timestamp) {
        self.limit = (self.limit * left.clamp(CUT_MOST, CUT_LEAST)).max(1.0).min(self.max);
        self.growth = Growth::Additive;
        self.last_cut = now;
        self.round = Round::default();
        // only calls that begin from now on are evaluated
        self.recent = self.baseline.unwrap_or_default();
    }
}

/// After a pause or an open breaker, the limit rises linearly from 1 to `max` within `length`.
#[derive(Clone, Copy, Debug)]
pub struct Ramp {
    length: Duration,
    /// None where it has ended.
    since: Option<Timestamp>,
}

impl Ramp {
    pub fn new(length: Duration) -> Self {
        Self { length, since: None }
    }

    /// A ramp in progress gets the new length.
    pub fn reconfigure(&mut self, length: Duration) {
        self.length = length;
    }

    /// Starts at `at`, unless it started later.
    pub fn begin(&mut self, at: Timestamp) {
        self.since = self.since.max(Some(at));
    }

    /// The limit now, and when it rises by one; none where the ramp has ended.
    pub fn allows(&mut self, max: usize, now: Timestamp) -> (usize, Option<Timestamp>) {
        let Some(since) = self.since else { return (max, None) };
        let (length, passed) = (self.length.as_millis(), now.since(since).as_millis());
        if passed >= length {
            self.since = None;
            return (max, None);
        }
        let allowed = 1 + (max.saturating_sub(1) as u128 * passed / length) as usize;
        let next = (allowed as u128 * length).div_ceil(max.saturating_sub(1).max(1) as u128).min(length);
        (allowed.min(max), Some(since.after(Duration::from_millis(next as u64))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const START: Timestamp = Timestamp(1_800_000_000_000);

    /// Simulates a destination with `workers` that need `service_ms` per call, and as many calls as the limit allows,
    /// for `seconds`. Returns the limit at the end.
    fn busy(limit: &mut Concurrency, from: &mut u64, seconds: u64, workers: usize, service_ms: u64) -> usize {
        let (end, mut free) = (*from + seconds * 1000, vec![*from; workers]);
        let mut under_way: BTreeMap<(u64, u64), u64> = BTreeMap::new(); // (end, number) -> began
        let mut number = 0;
        while *from < end {
            while under_way.len() < limit.limit() {
                let worker = free.iter_mut().min().unwrap();
                *worker = (*worker).max(*from) + service_ms;
                under_way.insert((*worker, number), *from);
                number += 1;
            }
            let ((ended, n), began) = under_way.pop_first().unwrap();
            let _ = n;
            *from = ended;
            let call = Call {
                began: START.after(Duration::from_millis(began)),
                latency: Duration::from_millis(ended - began),
                health: Health::Delivered,
                refuses_all: false,
            };
            limit.ended(&call, under_way.len() + 1, START.after(Duration::from_millis(ended)));
        }
        limit.limit()
    }

    #[test]
    fn it_finds_the_capacity_from_below() {
        for (workers, service_ms) in [(10, 50), (20, 200), (5, 1000)] {
            let (mut limit, mut now) = (Concurrency::new(1000, Adaptive::Yes), 0);
            assert_eq!(limit.limit(), 4);
            let found = busy(&mut limit, &mut now, 120, workers, service_ms);
            let most = (workers as f64 * (TOLERANCE + 50.0 / service_ms as f64) * 1.2) as usize + 1;
            assert!(found >= workers && found <= most, "{workers} workers of {service_ms} ms: {found}, at most {most}");
        }
    }

    #[test]
    fn it_backs_off_when_the_destination_slows_and_returns_when_it_recovers() {
        let (mut limit, mut now) = (Concurrency::new(64, Adaptive::Yes), 0);
        let before = busy(&mut limit, &mut now, 60, 64, 50);
        assert_eq!(before, 64, "more is not allowed");
        let slowed = busy(&mut limit, &mut now, 30, 4, 500);
        assert!(slowed <= 12, "{slowed}");
        let recovered = busy(&mut limit, &mut now, 60, 64, 50);
        assert!(recovered >= 60, "{recovered}");
    }

    #[test]
    fn a_lasting_slowdown_becomes_the_new_baseline() {
        let (mut limit, mut now) = (Concurrency::new(64, Adaptive::Yes), 0);
        busy(&mut limit, &mut now, 20, 100, 20);
        let after = busy(&mut limit, &mut now, 120, 100, 400);
        assert!(after >= 30, "{after}");
    }

    fn ends(limit: &mut Concurrency, health: Health, began: u64, ended: u64) {
        let (latency, at) = (Duration::from_millis(ended - began), |ms| START.after(Duration::from_millis(ms)));
        let under_way = limit.limit();
        limit.ended(&Call { began: at(began), latency, health, refuses_all: false }, under_way, at(ended));
    }

    #[test]
    fn simultaneous_overload_signals_reduce_the_limit_once() {
        for health in [Health::Unavailable, Health::Throttled] {
            let mut limit = Concurrency::new(64, Adaptive::Yes);
            limit.limit = 40.0;
            (0..40).for_each(|n| ends(&mut limit, health, 0, 100 + n));
            assert_eq!(limit.limit(), 20);
            (0..3).for_each(|n| ends(&mut limit, health, 103 + n, 200 + n));
            assert_eq!(limit.limit(), 10);
            (0..100).for_each(|n| ends(&mut limit, health, 300 + n, 300 + n));
            assert_eq!(limit.limit(), 1);
        }
    }

    /// The limit after this many calls with a latency of 100 ms, of which the `n`th has the health `health(n)`.
    fn after(calls: u64, health: impl Fn(u64) -> Health) -> usize {
        let mut limit = Concurrency::new(64, Adaptive::Yes);
        for n in 0..calls {
            // as many calls in flight as the limit allows
            let now = n * 100 / 64;
            ends(&mut limit, health(n), now, now + 100);
        }
        limit.limit()
    }

    #[test]
    fn errors_unrelated_to_load_do_not_reduce_the_limit() {
        for health in [Health::Failed, Health::Refused(422), Health::Rejected(404)] {
            for one_in in [2, 3, 20, 100] {
                let found = after(2000, |n| if n % one_in == 1 { health } else { Health::Delivered });
                assert_eq!(found, 64, "{health:?} once in {one_in}");
            }
        }
    }

    #[test]
    fn overload_reduces_the_limit_in_proportion_above_a_tolerance() {
        let one_in =
            |many: u64| after(6000, move |n| if n % many == 1 { Health::Unavailable } else { Health::Delivered });
        assert_eq!([one_in(100), one_in(33), one_in(20)], [64, 64, 64]);
        let found = [one_in(8), one_in(4), one_in(2)];
        assert!(found.is_sorted_by(|a, b| a > b) && found[0] < 40 && found[2] < 16, "{found:?}");
    }

    #[test]
    fn one_slow_call_among_fast_ones_does_not_reduce_the_limit() {
        let mut limit = Concurrency::new(64, Adaptive::Yes);
        let mut end = |ms: u64, under_way: usize| {
            let call = Call {
                began: START,
                latency: Duration::from_millis(ms),
                health: Health::Delivered,
                refuses_all: false,
            };
            limit.ended(&call, under_way, START.after(Duration::from_millis(ms)));
            limit.limit()
        };
        assert_eq!(end(10, 1), 4);
        assert_eq!(end(200, 1), 4, "a share of it counts, and the first is not forgotten");
        assert_eq!(end(10, 3), 5, "one short of the limit is as good as full: this one has just ended");
        assert_eq!(end(10, 3), 5);
    }

    #[test]
    fn an_idle_limit_does_not_grow_and_a_fixed_one_never_moves() {
        let latency = Duration::from_millis(5);
        let call = Call { began: START, latency, health: Health::Delivered, refuses_all: false };
        let mut limit = Concurrency::new(64, Adaptive::Yes);
        (0..1000).for_each(|_| limit.ended(&call, 1, START));
        assert_eq!(limit.limit(), 4);
        let mut fixed = Concurrency::new(64, Adaptive::No);
        fixed.ended(&Call { health: Health::Unavailable, ..call }, 64, START);
        assert_eq!(fixed.limit(), 64);
        assert_eq!(Concurrency::new(0, Adaptive::Yes).limit(), 0, "no URL, nothing goes");
    }

    #[test]
    fn new_bounds_apply_at_once_and_the_learned_limit_stays() {
        let mut concurrency = Concurrency::new(64, Adaptive::Yes);
        let limits =
            [(32, Adaptive::Yes), (2, Adaptive::Yes), (64, Adaptive::Yes), (10, Adaptive::No), (0, Adaptive::Yes)].map(
                |(max, adaptive)| {
                    concurrency.reconfigure(max, adaptive);
                    concurrency.limit()
                },
            );
        assert_eq!(limits, [4, 2, 2, 10, 0]);
    }

    #[test]
    fn the_baseline_follows_faster_answers_under_load() {
        let mut limit = Concurrency::new(64, Adaptive::Yes);
        let mut answers = |latency_ms, under_way, count| {
            for _ in 0..count {
                let latency = Duration::from_millis(latency_ms);
                limit.ended(
                    &Call { began: START, latency, health: Health::Delivered, refuses_all: false },
                    under_way,
                    START,
                );
            }
            limit.limit()
        };
        answers(1000, 1, 1);
        let most = answers(100, 60, 200);
        assert!(answers(400, 60, 20) < most, "slow for what it has become");
    }

    #[test]
    fn a_ramp_rises_evenly_and_gives_the_time_of_the_next_slot() {
        let start = Timestamp(1_800_000_000_000);
        for (max, length_ms) in [(64, 10_000), (1, 10_000), (7, 10), (3, 1), (2, 999), (4096, 1000)] {
            let mut ramp = Ramp::new(Duration::from_millis(length_ms));
            assert_eq!(ramp.allows(max, start), (max, None));
            ramp.begin(start);
            assert_eq!(ramp.allows(max, start).0, 1);
            let (mut now, mut last) = (start, 1);
            while let (allowed, Some(next)) = ramp.allows(max, now) {
                assert!(next > now && allowed >= last && allowed <= max, "{max} {length_ms} {allowed}");
                let before = Timestamp(next.0 - 1);
                assert_eq!(ramp.clone().allows(max, before).0, allowed, "not earlier than said");
                (now, last) = (next, allowed);
            }
            assert_eq!(now.since(start), Duration::from_millis(length_ms));
        }
    }

    #[test]
    fn a_running_ramp_adopts_a_new_length() {
        let start = Timestamp(1_800_000_000_000);
        let mut ramp = Ramp::new(Duration::from_secs(10));
        ramp.begin(start);
        ramp.reconfigure(Duration::from_secs(20));
        assert_eq!(ramp.allows(64, start.after(Duration::from_secs(10))).0, 32);
        ramp.reconfigure(Duration::from_secs(5));
        assert_eq!(ramp.allows(64, start.after(Duration::from_secs(5))), (64, None));
    }
}
