//! The pace of one destination: every gate that a call must pass, apart from its turn within its interaction.
//!
//! *Invariants.* Nothing passes while the destination is paused, while it has asked to be left alone, or while its breaker
//! is open; never more calls are under way than the adaptive limit and the ramp allow; what passes keeps to the rate. A
//! gate that is shut costs nothing: no attempt, no token of the rate. Each holds over a restart, by what is told of the time
//! before it: [`FlowControl::pause`], [`FlowControl::set_breaker`], [`FlowControl::hold`], [`FlowControl::let_in`], [`FlowControl::sent`].

use crate::delivery::{Blocked, Blocker};
use crate::rules::breaker::{self, Breaker, Epoch};
use crate::rules::call::Call;
use crate::rules::concurrency::{Adaptive, Concurrency};
use crate::rules::gcra::{Gcra, Rate};
use crate::rules::ramp::Ramp;
use crate::time::Timestamp;
use std::time::Duration;

/// Where calls are this far apart or farther, the start of each is noted on disk before it is made: a restart then costs
/// nothing. Where they are closer, the first one after a restart waits for as long as after a call.
const NOTED_FROM: Duration = Duration::from_secs(5);

/// How fast a destination may be called.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Most calls at once; zero where the destination has no URL and everything is held.
    pub concurrency_max: usize,
    pub adaptive: Adaptive,
    pub rate: Option<Rate>,
    pub breaker: breaker::Limits,
    /// How long it takes until everything is allowed again, after the breaker or an operator had closed it to everything.
    pub ramp: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            concurrency_max: 64,
            adaptive: Adaptive::Yes,
            rate: None,
            breaker: breaker::Limits::default(),
            ramp: Duration::from_secs(10),
        }
    }
}

impl Limits {
    /// Whether the rate is so slow that each start is noted.
    pub fn notes_starts(&self) -> bool {
        self.rate.is_some_and(|rate| rate.interval() >= NOTED_FROM)
    }
}

/// What bounds how many calls there are at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LimitReason {
    #[default]
    Configured,
    /// The limit was cut because the destination is slow or fails.
    Adaptive,
    /// Calls return little by little after a pause or an open breaker.
    Ramp,
}

#[derive(Clone, Debug)]
pub struct FlowControl {
    max: usize,
    breaker: Breaker,
    /// See [`breaker::Limits::slow_call`].
    slow_call: Duration,
    concurrency: Concurrency,
    ramp: Ramp,
    rate: Option<Gcra>,
    /// When the last call began, as far as that is known.
    sent_at: Timestamp,
    hold_until: Timestamp,
    /// Zero where it is not paused.
    paused_until: Timestamp,
}

impl FlowControl {
    pub fn new(limits: &Limits) -> Self {
        Self {
            max: limits.concurrency_max,
            breaker: Breaker::new(limits.breaker.clone()),
            slow_call: limits.breaker.slow_call,
            concurrency: Concurrency::new(limits.concurrency_max, limits.adaptive),
            ramp: Ramp::new(limits.ramp),
            rate: limits.rate.map(|rate| Gcra::new(rate, 1)),
            sent_at: Timestamp::ZERO,
            hold_until: Timestamp::ZERO,
            paused_until: Timestamp::ZERO,
        }
    }

    /// From now on it goes by these limits; the breaker, a hold and a pause stand as they did.
    pub fn go_by(&mut self, old: &Limits, limits: &Limits) {
        self.max = limits.concurrency_max;
        self.breaker.go_by(limits.breaker.clone());
        self.slow_call = limits.breaker.slow_call;
        self.concurrency.go_by(limits.concurrency_max, limits.adaptive);
        self.ramp.go_by(limits.ramp);
        if old.rate != limits.rate {
            self.rate = limits.rate.map(|rate| Gcra::new(rate, 1));
            self.sent(self.sent_at);
        }
    }

    /// Whether one more call may begin while so many are under way.
    pub fn check(&mut self, under_way: usize, now: Timestamp) -> Result<(), Blocked> {
        let shut = |by, until| Err(Blocked::until(by, until));
        if self.max == 0 {
            return shut(Blocker::NoUrl, None);
        }
        if now < self.paused_until {
            return shut(Blocker::Pause, Some(self.paused_until));
        }
        if self.paused_until != Timestamp::ZERO {
            self.resume(now);
        }
        if let Err(until) = self.breaker.check(now) {
            return shut(Blocker::Breaker, until);
        }
        if now < self.hold_until {
            return shut(Blocker::RetryAfter, Some(self.hold_until));
        }
        let (ramp, more_at) = self.ramp.allows(self.max, now);
        if under_way >= self.concurrency.limit().min(ramp) {
            return shut(Blocker::Concurrency, more_at);
        }
        match self.rate.as_ref().map(|rate| rate.check(now)) {
            Some(Err(until)) => shut(Blocker::Rate, Some(until)),
            _ => Ok(()),
        }
    }

    /// A call begins; it was allowed.
    pub fn began(&mut self, now: Timestamp) -> Epoch {
        self.sent(now);
        self.breaker.began()
    }

    /// A call has begun then, in this life or before it.
    pub fn sent(&mut self, at: Timestamp) {
        self.sent_at = self.sent_at.max(at);
        if let Some(rate) = self.rate.as_mut().filter(|_| at > Timestamp::ZERO) {
            let _allowed = rate.try_take(at);
        }
    }

    /// Everything was let in again then: calls return little by little.
    pub fn let_in(&mut self, at: Timestamp) {
        self.ramp.begin(at);
    }

    /// A call has ended; `under_way` counts it. What it turned is to be remembered over a restart.
    pub fn ended(&mut self, began: Epoch, call: &Call, under_way: usize, now: Timestamp) -> Option<breaker::Turn> {
        let slow_from = self.concurrency.usual().map(|usual| usual + self.slow_call);
        let slow = slow_from.is_some_and(|from| call.latency >= from);
        self.concurrency.ended(call, under_way, now);
        let turn = self.breaker.ended(began, call, slow, now);
        if turn == Some(breaker::Turn::Closed) {
            self.ramp.begin(now);
        }
        turn
    }

    /// A call that began then was not made after all.
    pub fn withdrawn(&mut self, began: Epoch) {
        self.breaker.withdrawn(began);
    }

    /// The destination is left alone until then; a shorter wish changes nothing.
    pub fn hold(&mut self, until: Timestamp) {
        self.hold_until = self.hold_until.max(until);
    }

    /// Nothing passes until then; a later word replaces an earlier one.
    pub fn pause(&mut self, until: Timestamp) {
        self.paused_until = until;
    }

    /// Calls return little by little; nothing happens where it was not paused.
    pub fn resume(&mut self, now: Timestamp) {
        if self.paused_until != Timestamp::ZERO {
            // a pause may have run out unnoticed
            self.ramp.begin(self.paused_until.min(now));
            self.paused_until = Timestamp::ZERO;
        }
    }

    /// See [`Breaker::set`].
    pub fn set_breaker(&mut self, state: breaker::State, closed_until: Timestamp, since: Timestamp, now: Timestamp) {
        if state == breaker::State::Closed && self.breaker.state() != breaker::State::Closed {
            self.ramp.begin(now);
        }
        self.breaker.set(state, closed_until, since);
    }

    pub fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    pub fn hold_until(&self) -> Timestamp {
        self.hold_until
    }

    /// Zero where it is not paused.
    pub fn paused_until(&self) -> Timestamp {
        self.paused_until
    }

    /// Most calls at once, as things are.
    pub fn limit(&self, now: Timestamp) -> usize {
        self.concurrency.limit().min(self.ramp_at(now).allows(self.max, now).0)
    }

    /// As it is where a pause has run out unnoticed, too; at the end of time none is begun.
    fn ramp_at(&self, now: Timestamp) -> Ramp {
        let mut ramp = self.ramp;
        if self.paused_until != Timestamp::ZERO && now >= self.paused_until && now < Timestamp::NEVER {
            ramp.begin(self.paused_until);
        }
        ramp
    }

    /// What the destination takes when little is asked of it; none before its first success.
    pub fn usual_latency(&self) -> Option<Duration> {
        self.concurrency.usual()
    }

    /// What makes [`FlowControl::limit`] what it is.
    pub fn bound(&self, now: Timestamp) -> LimitReason {
        let (adaptive, ramp) = (self.concurrency.limit(), self.ramp_at(now).allows(self.max, now).0);
        match adaptive.min(ramp) {
            limit if limit >= self.max => LimitReason::Configured,
            limit if limit == ramp => LimitReason::Ramp,
            _ => LimitReason::Adaptive,
        }
    }

    /// What would hold back a call that began now.
    pub fn shut(&self, under_way: usize, now: Timestamp) -> Option<Blocked> {
        self.clone().check(under_way, now).err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    const START: Timestamp = Timestamp(1_800_000_000_000);

    fn pace() -> FlowControl {
        FlowControl::new(&Limits { adaptive: Adaptive::No, ..Limits::default() })
    }

    #[test]
    fn the_limit_follows_the_ramp_after_an_expired_pause() {
        let mut pace = pace();
        pace.pause(START);
        assert_eq!(
            (pace.limit(Timestamp(START.0 - 1)), pace.bound(Timestamp(START.0 - 1))),
            (64, LimitReason::Configured)
        );
        assert_eq!((pace.limit(START), pace.bound(START)), (1, LimitReason::Ramp));
        let half = START.after(Duration::from_secs(5));
        assert_eq!((pace.limit(half), pace.bound(half)), (32, LimitReason::Ramp));
        let end = START.after(Duration::from_secs(10));
        assert_eq!((pace.limit(end), pace.bound(end)), (64, LimitReason::Configured));
    }

    #[test]
    fn closing_an_open_breaker_starts_a_ramp() {
        let closed = |pace: &mut FlowControl| {
            pace.set_breaker(breaker::State::Closed, Timestamp::ZERO, START, START);
            pace.limit(START)
        };
        let mut pace = pace();
        assert_eq!(closed(&mut pace), 64, "it was closed");
        let until = START.after(Duration::from_secs(30));
        pace.set_breaker(breaker::State::Open { until }, Timestamp::ZERO, START, START);
        assert_eq!(pace.limit(START), 64, "it is the breaker that holds them back");
        assert_eq!(closed(&mut pace), 1);
    }

    #[test]
    fn start_times_are_recorded_for_rare_calls() {
        let notes = |count, seconds| {
            let rate = NonZeroU32::new(count).map(|count| Rate::new(count, Duration::from_secs(seconds)));
            Limits { rate, ..Limits::default() }.notes_starts()
        };
        assert!(!Limits::default().notes_starts());
        assert_eq!([notes(12, 60), notes(13, 60), notes(1, 4), notes(1, 5)], [true, false, false, true]);
    }
}
