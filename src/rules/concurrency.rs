//! How many calls to a destination may be under way at once: additive increase, multiplicative decrease over measured
//! latency and errors, as TCP finds the capacity of a path (Chiu and Jain 1989; the latency signal as in TCP Vegas).
//!
//! *Invariants.* The limit lies between 1 and `max`. It grows only while it is what holds calls back. It is cut at most once
//! for the calls that were under way together: those that began before a cut cannot cut again.
//!
//! *What is slow.* The mean of the last few answers against a baseline, which is what the destination takes when little is
//! asked of it: it follows faster answers at any time, and slower ones only while few calls are under way; so a queue that
//! the limit itself has filled is never taken for normal, and a destination that has become slower for good is.

use super::call::{Call, Health};
use crate::time::Timestamp;
use std::time::Duration;

/// Where an adaptive limit begins.
const FIRST: f64 = 4.0;
/// A cut leaves this part of the limit. Since answers are slow from twice the baseline on, what is left still keeps the
/// destination busy.
const CUT: f64 = 0.5;
/// Answers are slow when they take this many times the baseline, and [`SLACK`] more.
const TOLERANCE: f64 = 2.0;
/// So much more latency harms nobody, whatever the baseline.
const SLACK: Duration = Duration::from_millis(50);
/// Weight of one answer in the mean of the last few, and in the baseline.
const RECENT: f64 = 0.2;
const SETTLED: f64 = 0.05;
/// With so few calls under way, an answer tells what the destination takes by itself.
const FEW: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adaptive {
    Yes,
    No,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Growth {
    /// By one for each answer: doubles in a round, until the first cut.
    Doubling,
    /// By one for each round.
    Additive,
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
    last_cut: Timestamp,
}

impl Concurrency {
    pub fn new(max: usize, adaptive: Adaptive) -> Self {
        let max = max as f64;
        let limit = if adaptive == Adaptive::Yes { FIRST.min(max) } else { max };
        Self { max, adaptive, limit, growth: Growth::Doubling, baseline: None, recent: 0.0, last_cut: Timestamp::ZERO }
    }

    /// From now on it goes by these; what it has found of the destination stays.
    pub fn go_by(&mut self, max: usize, adaptive: Adaptive) {
        (self.max, self.adaptive) = (max as f64, adaptive);
        let (fixed, least) = (adaptive == Adaptive::No, 1f64.min(self.max));
        self.limit = if fixed { self.max } else { self.limit.clamp(least, self.max) };
    }

    /// Most calls under way at once.
    pub fn limit(&self) -> usize {
        self.limit as usize
    }

    /// A call has ended; `under_way` counts it.
    pub fn ended(&mut self, call: &Call, under_way: usize, now: Timestamp) {
        if self.adaptive == Adaptive::No {
            return;
        }
        match call.health {
            Health::Well => {
                self.measure(call.latency.as_secs_f64(), under_way);
                if self.is_slow() {
                    self.cut(call, now);
                } else if under_way + 1 >= self.limit() {
                    self.grow();
                }
            }
            Health::Burdened | Health::Failing => self.cut(call, now),
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

    fn is_slow(&self) -> bool {
        self.baseline.is_some_and(|baseline| self.recent > baseline * TOLERANCE + SLACK.as_secs_f64())
    }

    fn grow(&mut self) {
        let step = match self.growth {
            Growth::Doubling => 1.0,
            Growth::Additive => 1.0 / self.limit,
        };
        self.limit = (self.limit + step).min(self.max);
    }

    fn cut(&mut self, call: &Call, now: Timestamp) {
        if call.began < self.last_cut {
            return;
        }
        self.limit = (self.limit * CUT).max(1.0).min(self.max);
        self.growth = Growth::Additive;
        self.last_cut = now;
        // judged anew by what begins from now on
        self.recent = self.baseline.unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const START: Timestamp = Timestamp(1_800_000_000_000);

    /// A destination with `workers` that take `service_ms` for each call, kept busy with as many calls as the limit
    /// allows, for so many seconds. Returns the limit at the end.
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
                health: Health::Well,
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
    fn one_that_is_slower_for_good_is_the_new_normal() {
        let (mut limit, mut now) = (Concurrency::new(64, Adaptive::Yes), 0);
        busy(&mut limit, &mut now, 20, 100, 20);
        let after = busy(&mut limit, &mut now, 120, 100, 400);
        assert!(after >= 30, "{after}");
    }

    #[test]
    fn calls_that_fail_together_cut_once() {
        let mut limit = Concurrency::new(64, Adaptive::Yes);
        limit.limit = 40.0;
        let fail = |limit: &mut Concurrency, began: u64, ended: u64| {
            let latency = Duration::from_millis(ended - began);
            let began = START.after(Duration::from_millis(began));
            limit.ended(
                &Call { began, latency, health: Health::Failing },
                40,
                START.after(Duration::from_millis(ended)),
            );
        };
        (0..40).for_each(|n| fail(&mut limit, 0, 100 + n));
        assert_eq!(limit.limit(), 20);
        fail(&mut limit, 101, 200);
        assert_eq!(limit.limit(), 10);
        (0..100).for_each(|n| fail(&mut limit, 300 + n, 300 + n));
        assert_eq!(limit.limit(), 1);
    }

    #[test]
    fn one_slow_call_among_quick_ones_cuts_nothing() {
        let mut limit = Concurrency::new(64, Adaptive::Yes);
        let mut end = |ms: u64, under_way: usize| {
            let call = Call { began: START, latency: Duration::from_millis(ms), health: Health::Well };
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
        let call = Call { began: START, latency: Duration::from_millis(5), health: Health::Well };
        let mut limit = Concurrency::new(64, Adaptive::Yes);
        (0..1000).for_each(|_| limit.ended(&call, 1, START));
        assert_eq!(limit.limit(), 4);
        let mut fixed = Concurrency::new(64, Adaptive::No);
        fixed.ended(&Call { health: Health::Failing, ..call }, 64, START);
        assert_eq!(fixed.limit(), 64);
        assert_eq!(Concurrency::new(0, Adaptive::Yes).limit(), 0, "no URL, nothing goes");
    }

    #[test]
    fn other_bounds_are_gone_by_at_once_and_what_was_found_stays() {
        let mut concurrency = Concurrency::new(64, Adaptive::Yes);
        let limits =
            [(32, Adaptive::Yes), (2, Adaptive::Yes), (64, Adaptive::Yes), (10, Adaptive::No), (0, Adaptive::Yes)].map(
                |(max, adaptive)| {
                    concurrency.go_by(max, adaptive);
                    concurrency.limit()
                },
            );
        assert_eq!(limits, [4, 2, 2, 10, 0]);
    }

    #[test]
    fn the_baseline_follows_faster_answers_also_while_many_calls_are_under_way() {
        let mut limit = Concurrency::new(64, Adaptive::Yes);
        let mut answers = |latency_ms, under_way, count| {
            for _ in 0..count {
                let latency = Duration::from_millis(latency_ms);
                limit.ended(&Call { began: START, latency, health: Health::Well }, under_way, START);
            }
            limit.limit()
        };
        answers(1000, 1, 1);
        let most = answers(100, 60, 200);
        assert!(answers(400, 60, 20) < most, "slow for what it has become");
    }
}
