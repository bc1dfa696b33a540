//! Flow control of one destination: pause, circuit breaker, `Retry-After`, concurrency limit and rate limit.
//!
//! *Invariants.* No call starts while the destination is paused, before the end of its `Retry-After`, or while its
//! breaker is open. The calls in flight never exceed the adaptive limit and the ramp-up. Calls keep to the rate limit. A
//! blocked call costs nothing: no attempt, no token of the rate limit. All of it holds over a restart: the caller
//! restores the state with [`FlowControl::pause`], [`FlowControl::set_breaker`], [`FlowControl::retry_after`],
//! [`FlowControl::ramp_up_from`] and [`FlowControl::sent`].

use crate::delivery::{Blocked, Blocker};
use crate::rules::breaker::{self, Breaker, Epoch};
use crate::rules::concurrency::Ramp;
use crate::rules::concurrency::{Adaptive, Concurrency};
use crate::rules::rate::{Gcra, Rate};
use crate::rules::verdict::Call;
use crate::time::Timestamp;
use std::time::Duration;

/// With at least this interval between calls, the start of each call is written to disk before the call, so a restart
/// causes no extra delay. With a shorter interval, the first call after a restart waits for one interval.
const RECORDED_INTERVAL_MIN: Duration = Duration::from_secs(5);

/// How fast a destination may be called.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Maximum number of calls in flight; zero if the destination has no URL.
    pub concurrency_max: usize,
    pub adaptive: Adaptive,
    pub rate: Option<Rate>,
    pub breaker: breaker::Limits,
    /// How long the concurrency limit takes to rise to its maximum after a pause or an open breaker.
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
    /// Whether the rate is so low that each start is written to disk.
    pub fn records_starts(&self) -> bool {
        self.rate.is_some_and(|rate| rate.interval() >= RECORDED_INTERVAL_MIN)
    }
}

/// What sets the concurrency limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LimitReason {
    #[default]
    Configured,
    /// The adaptive limit: the destination is slow or overloaded.
    Adaptive,
    /// The ramp-up after a pause or an open breaker.
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
    /// When the last call began, if known.
    sent_at: Option<Timestamp>,
    retry_after_until: Option<Timestamp>,
    paused_until: Option<Timestamp>,
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
            sent_at: None,
            retry_after_until: None,
            paused_until: None,
        }
    }

    /// Applies new limits; the state of the breaker, `Retry-After` and a pause are kept.
    pub fn reconfigure(&mut self, old: &Limits, limits: &Limits) {
        self.max = limits.concurrency_max;
        self.breaker.reconfigure(limits.breaker.clone());
        self.slow_call = limits.breaker.slow_call;
        self.concurrency.reconfigure(limits.concurrency_max, limits.adaptive);
        self.ramp.reconfigure(limits.ramp);
        if old.rate != limits.rate {
            self.rate = limits.rate.map(|rate| Gcra::new(rate, 1));
            self.sent_at.into_iter().for_each(|at| self.sent(at));
        }
    }

    /// Whether one more call may begin now, with this many in flight.
    pub fn check(&mut self, in_flight: usize, now: Timestamp) -> Result<(), Blocked> {
        let blocked = |by, until| Err(Blocked::until(by, until));
        if self.max == 0 {
            return blocked(Blocker::NoUrl, None);
        }
        if let Some(until) = self.paused_until {
            if now < until {
                return blocked(Blocker::Pause, Some(until));
            }
            self.resume(now);
        }
        if let Err(until) = self.breaker.check(now) {
            return blocked(Blocker::Breaker, until);
        }
        if let Some(until) = self.retry_after_until.filter(|until| now < *until) {
            return blocked(Blocker::RetryAfter, Some(until));
        }
        let (ramp, more_at) = self.ramp.allows(self.max, now);
        if in_flight >= self.concurrency.limit().min(ramp) {
            return blocked(Blocker::Concurrency, more_at);
        }
        match self.rate.as_ref().map(|rate| rate.check(now)) {
            Some(Err(until)) => blocked(Blocker::Rate, Some(until)),
            _ => Ok(()),
        }
    }

    /// A call begins; [`FlowControl::check`] allowed it.
    pub fn began(&mut self, now: Timestamp) -> Epoch {
        self.sent(now);
        self.breaker.began()
    }

    /// A call began at `at`, in this process or an earlier one; the rate limit counts from there.
    pub fn sent(&mut self, at: Timestamp) {
        self.sent_at = self.sent_at.max(Some(at));
        if let Some(rate) = &mut self.rate {
            let _allowed = rate.try_take(at);
        }
    }

    /// The ramp-up began at `at`, before the start of this process.
    pub fn ramp_up_from(&mut self, at: Timestamp) {
        self.ramp.begin(at);
    }

    /// A call has ended; `in_flight` counts it. The caller records a change of the breaker's state.
    pub fn ended(&mut self, began: Epoch, call: &Call, in_flight: usize, now: Timestamp) -> Option<breaker::Change> {
        let slow_from = self.concurrency.usual().map(|usual| usual + self.slow_call);
        let slow = slow_from.is_some_and(|from| call.latency >= from);
        self.concurrency.ended(call, in_flight, now);
        let change = self.breaker.ended(began, call, slow, now);
        if change == Some(breaker::Change::Closed) {
            self.ramp.begin(now);
        }
        change
    }

    /// A call that began in this epoch of the breaker was not made.
    pub fn withdrawn(&mut self, began: Epoch) {
        self.breaker.withdrawn(began);
    }

    /// Blocks all calls until then; an earlier end changes nothing.
    pub fn retry_after(&mut self, until: Timestamp) {
        self.retry_after_until = self.retry_after_until.max(Some(until));
    }

    /// Blocks all calls until then, in place of an earlier pause.
    pub fn pause(&mut self, until: Timestamp) {
        self.paused_until = Some(until);
    }

    /// Ends a pause; calls return with the ramp-up.
    pub fn resume(&mut self, now: Timestamp) {
        if let Some(until) = self.paused_until.take() {
            // the pause may have ended before this call
            self.ramp.begin(until.min(now));
        }
    }

    /// See [`Breaker::set`].
    pub fn set_breaker(
        &mut self,
        state: breaker::State,
        closed_until: Option<Timestamp>,
        since: Timestamp,
        now: Timestamp,
    ) {
        if state == breaker::State::Closed && self.breaker.state() != breaker::State::Closed {
            self.ramp.begin(now);
        }
        self.breaker.set(state, closed_until, since);
    }

    pub fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    pub fn retry_after_until(&self) -> Option<Timestamp> {
        self.retry_after_until
    }

    pub fn paused_until(&self) -> Option<Timestamp> {
        self.paused_until
    }

    /// The concurrency limit now.
    pub fn limit(&self, now: Timestamp) -> usize {
        self.concurrency.limit().min(self.ramp_at(now).allows(self.max, now).0)
    }

    /// The ramp-up, also if a pause has ended and no call has followed. A pause without an end never starts one.
    fn ramp_at(&self, now: Timestamp) -> Ramp {
        let mut ramp = self.ramp;
        if let Some(until) = self.paused_until.filter(|until| *until <= now && now < Timestamp::NEVER) {
            ramp.begin(until);
        }
        ramp
    }

    /// The latency of the destination with few calls in flight; none before its first success.
    pub fn usual_latency(&self) -> Option<Duration> {
        self.concurrency.usual()
    }

    /// What sets [`FlowControl::limit`].
    pub fn limit_reason(&self, now: Timestamp) -> LimitReason {
        let (adaptive, ramp) = (self.concurrency.limit(), self.ramp_at(now).allows(self.max, now).0);
        match adaptive.min(ramp) {
            limit if limit >= self.max => LimitReason::Configured,
            limit if limit == ramp => LimitReason::Ramp,
            _ => LimitReason::Adaptive,
        }
    }

    /// What blocks a call that would begin now.
    pub fn blocked(&self, in_flight: usize, now: Timestamp) -> Option<Blocked> {
        self.clone().check(in_flight, now).err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    const START: Timestamp = Timestamp(1_800_000_000_000);

    fn flow() -> FlowControl {
        FlowControl::new(&Limits { adaptive: Adaptive::No, ..Limits::default() })
    }

    #[test]
    fn after_a_pause_that_ended_the_limit_is_that_of_the_ramp_up() {
        let mut flow = flow();
        flow.pause(START);
        assert_eq!(
            (flow.limit(Timestamp(START.0 - 1)), flow.limit_reason(Timestamp(START.0 - 1))),
            (64, LimitReason::Configured)
        );
        assert_eq!((flow.limit(START), flow.limit_reason(START)), (1, LimitReason::Ramp));
        let half = START.after(Duration::from_secs(5));
        assert_eq!((flow.limit(half), flow.limit_reason(half)), (32, LimitReason::Ramp));
        let end = START.after(Duration::from_secs(10));
        assert_eq!((flow.limit(end), flow.limit_reason(end)), (64, LimitReason::Configured));
    }

    #[test]
    fn closing_an_open_breaker_starts_the_ramp_up() {
        let closed = |flow: &mut FlowControl| {
            flow.set_breaker(breaker::State::Closed, None, START, START);
            flow.limit(START)
        };
        let mut flow = flow();
        assert_eq!(closed(&mut flow), 64, "it was closed");
        let until = START.after(Duration::from_secs(30));
        flow.set_breaker(breaker::State::Open { until }, None, START, START);
        assert_eq!(flow.limit(START), 64, "it is the breaker that holds them back");
        assert_eq!(closed(&mut flow), 1);
    }

    #[test]
    fn starts_are_recorded_from_an_interval_of_five_seconds() {
        let notes = |count, seconds| {
            let rate = NonZeroU32::new(count).map(|count| Rate::new(count, Duration::from_secs(seconds)));
            Limits { rate, ..Limits::default() }.records_starts()
        };
        assert!(!Limits::default().records_starts());
        assert_eq!([notes(12, 60), notes(13, 60), notes(1, 4), notes(1, 5)], [true, false, false, true]);
    }
}
