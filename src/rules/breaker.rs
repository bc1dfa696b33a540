//! The circuit breaker of one destination.
//!
//! ```text
//!            too many failures in the window; a run of failures, where there are few calls;
//!            or the latest answers refuse every event
//!   closed ──────────────────────────────────────────────────────────────────────────> open <──┐
//!     ^                                                                                 │       │ a probe fails, or too
//!     │ `probes` calls succeed                                                `open_duration` │       │ many are refused
//!     └──────────────────────────────── half-open <─────────────────────────────────────┘───────┘
//! ```
//! *Invariants.* While it is open, no call starts; while it is half-open, at most `probes` calls are in flight. The
//! result of a call that began in an earlier state is ignored: calls that were in flight when the breaker opened neither
//! close it nor open it again. Only successes close it, and every success within the timeout counts as one. Slow calls
//! do not open it, because a successful probe could not disprove slowness; they are counted and reported.

use super::verdict::{Call, Health};
use crate::time::Timestamp;
use std::collections::VecDeque;
use std::time::Duration;

/// Slices per window; the window moves on by one slice at a time.
const SLICES: u64 = 10;

/// After this many probes that were refused for the content of their events, the breaker opens again.
const REFUSED_PROBES_MAX: u32 = 10;

/// When the breaker opens and closes, and which calls are reported as slow.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Opens when at least this share of the calls in the window failed.
    pub failure_ratio: f64,
    pub window: Duration,
    /// Minimum number of calls in the window for `failure_ratio` to apply.
    pub min_calls: u32,
    /// With fewer than `min_calls` in the window, it opens after this many consecutive failures that span at least the
    /// length of the window.
    pub consecutive_failures: u32,
    /// Opens after this many consecutive answers that refuse every event, see [`refusals`](super::refusals).
    pub permanent_answers: u32,
    /// A call is slow where it exceeds the usual latency by this much.
    pub slow_call: Duration,
    /// The destination is reported as slow when at least this share of the calls in the window was slow.
    pub slow_ratio: f64,
    pub open_duration: Duration,
    /// Successful calls that close a half-open breaker.
    pub probes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            failure_ratio: 0.5,
            window: Duration::from_secs(60),
            min_calls: 20,
            consecutive_failures: 10,
            permanent_answers: 10,
            slow_call: Duration::from_secs(2),
            slow_ratio: 0.8,
            open_duration: Duration::from_secs(30),
            probes: 3,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    #[default]
    Closed,
    /// No call starts before `until`.
    Open { until: Timestamp },
    /// Calls in flight, successful calls, and calls refused for the content of their events.
    HalfOpen { in_flight: u32, succeeded: u32, refused: u32 },
}

impl State {
    pub const WORDS: [&str; 3] = ["closed", "open", "half_open"];

    /// The word in JSON and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open { .. } => "open",
            Self::HalfOpen { .. } => "half_open",
        }
    }
}

/// Why it opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Failures {
        of: u32,
        failed: u32,
    },
    /// With fewer than `min_calls` in the window.
    Consecutive {
        failed: u32,
    },
    /// The latest answers refuse every event; `status` is that of the last one.
    PermanentAnswers {
        status: u16,
    },
    Probe,
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failures { of, failed } => write!(f, "{failed} of the last {of} calls failed"),
            Self::Consecutive { failed } => write!(f, "the last {failed} calls failed"),
            Self::PermanentAnswers { status } => {
                write!(f, "permanent_answers: whatever is sent is refused, the last time with status {status}")
            }
            Self::Probe => f.write_str("a probe failed"),
        }
    }
}

/// How many calls in the window were slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slow {
    pub of: u32,
    pub slow: u32,
}

/// Identifies one period in one state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch(u64);

/// A change of state caused by a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Opened { until: Timestamp, cause: Cause },
    Closed,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slice {
    number: u64,
    calls: u32,
    failed: u32,
    slow: u32,
}

#[derive(Clone, Debug)]
pub struct Breaker {
    limits: Limits,
    state: State,
    /// None: closed since it was created.
    since: Option<Timestamp>,
    /// Increases with each change of state.
    epoch: Epoch,
    /// Until when an operator keeps it closed.
    kept_closed_until: Option<Timestamp>,
    /// The slices of the window, oldest first.
    slices: VecDeque<Slice>,
    /// Consecutive failures, also across windows, and when the first of them ended.
    failed_in_a_row: u32,
    failing_since: Option<Timestamp>,
}

impl Breaker {
    pub fn new(limits: Limits) -> Self {
        let (since, kept_closed_until) = (None, None);
        let epoch = Epoch::default();
        let slices = VecDeque::new();
        Self {
            limits,
            state: State::Closed,
            since,
            epoch,
            kept_closed_until,
            slices,
            failed_in_a_row: 0,
            failing_since: None,
        }
    }

    /// Applies new limits; the counts are discarded where the length of the window changes.
    pub fn reconfigure(&mut self, limits: Limits) {
        if limits.window != self.limits.window {
            self.slices.clear();
        }
        self.limits = limits;
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// The current state. It is half-open once `open_duration` has passed, even if no call has followed.
    pub fn stands(&self, now: Timestamp) -> State {
        self.at(now).state
    }

    /// When it entered that state; none where it has been closed from the start.
    pub fn since(&self, now: Timestamp) -> Option<Timestamp> {
        self.at(now).since
    }

    /// Until when an operator keeps it closed.
    pub fn kept_closed_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.kept_closed_until.filter(|until| self.state == State::Closed && now < *until)
    }

    fn at(&self, now: Timestamp) -> Self {
        let mut breaker = self.clone();
        breaker.turn_half_open(now);
        breaker
    }

    /// Changes from open to half-open once `open_duration` has passed.
    fn turn_half_open(&mut self, now: Timestamp) {
        if let State::Open { until } = self.state
            && now >= until
        {
            self.enter(
                State::HalfOpen { in_flight: 0, succeeded: 0, refused: 0 },
                self.since.map_or(until, |since| until.max(since)),
            );
        }
    }

    /// Whether a call may begin; otherwise when to ask again, if that is known.
    pub fn check(&mut self, now: Timestamp) -> Result<(), Option<Timestamp>> {
        self.turn_half_open(now);
        match self.state {
            State::Open { until } => Err(Some(until)),
            State::HalfOpen { in_flight, succeeded, .. } if in_flight + succeeded >= self.limits.probes => Err(None),
            _ => Ok(()),
        }
    }

    /// An allowed call begins; returns the current epoch.
    pub fn began(&mut self) -> Epoch {
        if let State::HalfOpen { in_flight, .. } = &mut self.state {
            *in_flight += 1;
        }
        self.epoch
    }

    /// A call that began in this epoch was not made.
    pub fn withdrawn(&mut self, began: Epoch) {
        let counts = began == self.epoch;
        if let State::HalfOpen { in_flight, .. } = &mut self.state
            && counts
        {
            *in_flight = in_flight.saturating_sub(1);
        }
    }

    /// A call has ended; `slow`: it exceeded the expected latency.
    pub fn ended(&mut self, began: Epoch, call: &Call, slow: bool, now: Timestamp) -> Option<Change> {
        if began != self.epoch {
            return None;
        }
        match self.state {
            State::Open { .. } => None,
            State::Closed => {
                self.count(call.health.is_failure(), slow, now);
                let cause =
                    self.judge(call, now).filter(|_| self.kept_closed_until.is_none_or(|until| now >= until))?;
                Some(self.open_because(cause, now))
            }
            State::HalfOpen { in_flight, succeeded, refused } => {
                let in_flight = in_flight.saturating_sub(1);
                match call.health {
                    Health::Delivered if succeeded + 1 >= self.limits.probes => {
                        self.enter(State::Closed, now);
                        return Some(Change::Closed);
                    }
                    Health::Delivered => self.state = State::HalfOpen { in_flight, succeeded: succeeded + 1, refused },
                    Health::Throttled => self.state = State::HalfOpen { in_flight, succeeded, refused },
                    Health::Refused(_) if refused + 1 < REFUSED_PROBES_MAX => {
                        self.state = State::HalfOpen { in_flight, succeeded, refused: refused + 1 };
                    }
                    Health::Refused(status) | Health::Rejected(status) => {
                        return Some(self.open_because(Cause::PermanentAnswers { status }, now));
                    }
                    Health::Unavailable | Health::Failed => return Some(self.open_because(Cause::Probe, now)),
                }
                None
            }
        }
    }

    /// The slow calls in the window, if they reach `slow_ratio`.
    pub fn slow(&self, now: Timestamp) -> Option<Slow> {
        let first = self.number(now).saturating_sub(SLICES - 1);
        let slices = self.slices.iter().filter(|s| s.number >= first);
        let (of, slow) = slices.fold((0, 0), |(of, slow), s| (of + s.calls, slow + s.slow));
        let many = of >= self.limits.min_calls && reaches_ratio(slow, self.limits.slow_ratio, of);
        many.then_some(Slow { of, slow })
    }

    /// Sets the state as of `since`: by an operator, or restored at a start. A closed breaker stays closed at least
    /// until `closed_until`.
    pub fn set(&mut self, state: State, closed_until: Option<Timestamp>, since: Timestamp) {
        self.enter(state, since);
        self.kept_closed_until = closed_until;
    }

    fn open_because(&mut self, cause: Cause, now: Timestamp) -> Change {
        let until = now.after(self.limits.open_duration);
        self.enter(State::Open { until }, now);
        Change::Opened { until, cause }
    }

    fn enter(&mut self, state: State, now: Timestamp) {
        self.state = state;
        self.since = Some(now);
        self.epoch.0 += 1;
        self.slices.clear();
        self.failed_in_a_row = 0;
    }

    /// The number of the slice that contains this time.
    fn number(&self, now: Timestamp) -> u64 {
        now.0 / (self.limits.window.as_millis() as u64 / SLICES).max(1)
    }

    fn count(&mut self, failed: bool, slow: bool, now: Timestamp) {
        let number = self.number(now);
        if failed && self.failed_in_a_row == 0 {
            self.failing_since = Some(now);
        }
        self.failed_in_a_row = if failed { self.failed_in_a_row.saturating_add(1) } else { 0 };
        while self.slices.front().is_some_and(|s| s.number + SLICES <= number) {
            self.slices.pop_front();
        }
        if self.slices.back().is_none_or(|s| s.number < number) {
            self.slices.push_back(Slice { number, ..Slice::default() });
        }
        if let Some(slice) = self.slices.back_mut() {
            slice.calls += 1;
            slice.failed += u32::from(failed);
            slice.slow += u32::from(slow);
        }
    }

    fn judge(&self, last: &Call, now: Timestamp) -> Option<Cause> {
        if let (true, Health::Refused(status) | Health::Rejected(status)) = (last.refuses_all, last.health) {
            return Some(Cause::PermanentAnswers { status });
        }
        let sum = |of: fn(&Slice) -> u32| self.slices.iter().map(of).sum::<u32>();
        let (of, failed) = (sum(|s| s.calls), sum(|s| s.failed));
        let cause = if of >= self.limits.min_calls {
            reaches_ratio(failed, self.limits.failure_ratio, of).then_some(Cause::Failures { of, failed })
        } else {
            let (failed, lasted) =
                (self.failed_in_a_row, self.failing_since.map_or(Duration::ZERO, |since| now.since(since)));
            let long = failed >= self.limits.consecutive_failures && lasted >= self.limits.window;
            (long && failed > 0).then_some(Cause::Consecutive { failed })
        };
        match last.health {
            Health::Rejected(status) => cause.and(Some(Cause::PermanentAnswers { status })),
            _ => cause,
        }
    }
}

fn reaches_ratio(part: u32, ratio: f64, of: u32) -> bool {
    part > 0 && f64::from(part) >= ratio * f64::from(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_800_000_000_000);

    fn at(ms: u64) -> Timestamp {
        Timestamp(START.0 + ms)
    }

    fn call(began: u64, latency_ms: u64, health: Health) -> Call {
        let latency = Duration::from_millis(latency_ms);
        Call { began: at(began), latency, health, refuses_all: false }
    }

    /// Makes consecutive calls of 10 ms each; returns the last change of state.
    fn calls(breaker: &mut Breaker, from: u64, latency_ms: u64, healths: &[Health]) -> Option<Change> {
        let mut turn = None;
        for (n, health) in (0..).zip(healths) {
            let began = from + n * 10;
            assert_eq!(breaker.check(at(began)), Ok(()), "{began}");
            let epoch = breaker.began();
            turn = breaker.ended(epoch, &call(began, latency_ms, *health), latency_ms >= 2000, at(began + 10));
        }
        turn
    }

    #[test]
    fn it_opens_over_failures_once_the_minimum_of_calls_is_reached() {
        use Health::{Delivered, Failed};
        let mut breaker = Breaker::new(Limits::default());
        assert_eq!(calls(&mut breaker, 0, 5, &[Failed; 19]), None);
        let turn = calls(&mut breaker, 190, 5, &[Failed]);
        assert_eq!(turn, Some(Change::Opened { until: at(30_200), cause: Cause::Failures { of: 20, failed: 20 } }));
        assert_eq!(breaker.check(at(30_199)), Err(Some(at(30_200))));
        let mut breaker = Breaker::new(Limits::default());
        assert_eq!(calls(&mut breaker, 0, 5, &[Delivered; 11]), None);
        assert_eq!(calls(&mut breaker, 110, 5, &[Failed; 10]), None, "10 of 21 is less than a half");
        assert!(calls(&mut breaker, 210, 5, &[Failed]).is_some());
    }

    #[test]
    fn a_run_of_failures_opens_it_where_calls_are_rare() {
        let mut breaker = Breaker::new(Limits::default());
        for n in 0..9 {
            assert_eq!(calls(&mut breaker, n * 300_000, 5, &[Health::Failed]), None, "{n}");
        }
        let turn = calls(&mut breaker, 9 * 300_000, 5, &[Health::Failed]);
        assert!(matches!(turn, Some(Change::Opened { cause: Cause::Consecutive { failed: 10 }, .. })), "{turn:?}");
        // one success resets the count, and failures within a short time are not enough
        let mut breaker = Breaker::new(Limits::default());
        for n in 0..30 {
            let health = if n % 10 == 9 { Health::Delivered } else { Health::Failed };
            assert_eq!(calls(&mut breaker, n * 300_000, 5, &[health]), None, "{n}");
        }
        assert_eq!(calls(&mut breaker, 10_000_000, 5, &[Health::Failed; 19]), None);
        // with many calls, the ratio decides
        let mut breaker = Breaker::new(Limits::default());
        assert_eq!(calls(&mut breaker, 0, 5, &[Health::Delivered; 100]), None);
        assert_eq!(calls(&mut breaker, 1000, 5, &[Health::Failed; 99]), None);
        assert!(calls(&mut breaker, 2000, 5, &[Health::Failed]).is_some());
    }

    #[test]
    fn slow_calls_are_reported_and_open_nothing() {
        let mut breaker = Breaker::new(Limits::default());
        assert_eq!(calls(&mut breaker, 0, 1999, &[Health::Delivered; 40]), None);
        assert_eq!(breaker.slow(at(400)), None);
        assert_eq!(calls(&mut breaker, 60_000 * 5, 2000, &[Health::Delivered; 19]), None);
        assert_eq!(breaker.slow(at(60_000 * 5 + 200)), None, "too few to say so");
        assert_eq!(calls(&mut breaker, 60_000 * 5 + 200, 2000, &[Health::Delivered]), None);
        assert_eq!(breaker.slow(at(60_000 * 5 + 300)), Some(Slow { of: 20, slow: 20 }));
        assert_eq!(breaker.slow(at(60_000 * 6 + 6_000)), None, "a window later");
        // a slow probe counts as a success
        breaker.set(State::Open { until: at(1_000_000) }, None, at(0));
        assert_eq!(calls(&mut breaker, 1_000_000, 9_999, &[Health::Delivered; 3]), Some(Change::Closed));
    }

    #[test]
    fn it_opens_at_once_when_everything_is_refused() {
        for health in [Health::Rejected(404), Health::Refused(400)] {
            let mut breaker = Breaker::new(Limits::default());
            assert_eq!(calls(&mut breaker, 0, 5, &[Health::Delivered; 100]), None);
            let last = Call { refuses_all: true, ..call(1000, 5, health) };
            let epoch = breaker.began();
            let turn = breaker.ended(epoch, &last, false, at(1005));
            let Some(Change::Opened { cause, .. }) = turn else { panic!("{turn:?}") };
            assert!(cause.to_string().starts_with("permanent_answers: "), "{cause}");
        }
    }

    #[test]
    fn a_probe_succeeds_only_by_success() {
        let half_open = || {
            let mut breaker = Breaker::new(Limits::default());
            breaker.set(State::Open { until: at(1) }, None, at(0));
            breaker
        };
        let opened = |turn| matches!(turn, Some(Change::Opened { .. }));
        for health in [Health::Rejected(404), Health::Rejected(302), Health::Failed, Health::Unavailable] {
            assert!(opened(calls(&mut half_open(), 1, 5, &[health])), "{health:?}");
        }
        // a probe refused for its content decides nothing, but their number is limited
        let refused = Health::Refused(422);
        let mut breaker = half_open();
        assert_eq!(calls(&mut breaker, 1, 5, &[refused; 9]), None);
        assert_eq!(calls(&mut breaker, 100, 5, &[Health::Delivered; 3]), Some(Change::Closed));
        assert!(opened(calls(&mut half_open(), 1, 5, &[refused; 10])));
    }

    #[test]
    fn calls_leave_the_window_one_slice_after_the_other() {
        let mut breaker = Breaker::new(Limits { consecutive_failures: u32::MAX, ..Limits::default() });
        assert_eq!(calls(&mut breaker, 0, 5, &[Health::Failed; 9]), None);
        assert_eq!(calls(&mut breaker, 30_000, 5, &[Health::Failed; 10]), None);
        // the first 9 have left the window, the later 10 have not
        assert_eq!(calls(&mut breaker, 61_000, 5, &[Health::Failed; 9]), None);
        let turn = calls(&mut breaker, 61_090, 5, &[Health::Failed]);
        assert!(matches!(turn, Some(Change::Opened { cause: Cause::Failures { of: 20, failed: 20 }, .. })), "{turn:?}");
    }

    #[test]
    fn calls_outside_the_window_do_not_count() {
        let mut breaker = Breaker::new(Limits { consecutive_failures: u32::MAX, ..Limits::default() });
        assert_eq!(calls(&mut breaker, 0, 5, &[Health::Failed; 19]), None);
        assert_eq!(calls(&mut breaker, 61_000, 5, &[Health::Failed; 19]), None);
    }

    #[test]
    fn i12_half_open_sends_probes_and_closes_or_opens_by_them() {
        let mut breaker = Breaker::new(Limits::default());
        assert!(calls(&mut breaker, 0, 5, &[Health::Failed; 20]).is_some());
        let before = Epoch::default();
        let epochs = [(); 3].map(|()| {
            assert_eq!(breaker.check(at(30_200)), Ok(()));
            breaker.began()
        });
        assert_eq!(breaker.check(at(30_201)), Err(None), "three are under way");
        assert_eq!(
            breaker.ended(before, &call(100, 30_150, Health::Failed), false, at(30_250)),
            None,
            "it began long before"
        );
        assert_eq!(breaker.ended(epochs[0], &call(30_200, 60, Health::Delivered), false, at(30_260)), None);
        assert_eq!(breaker.check(at(30_260)), Err(None), "one was well, two are under way");
        breaker.withdrawn(epochs[1]);
        assert_eq!(breaker.check(at(30_260)), Ok(()));
        breaker.began();
        let turn = breaker.ended(epochs[2], &call(30_200, 70, Health::Failed), false, at(30_270));
        assert_eq!(turn, Some(Change::Opened { until: at(60_270), cause: Cause::Probe }));
        assert_eq!(calls(&mut breaker, 60_270, 5, &[Health::Delivered; 3]), Some(Change::Closed));
        assert_eq!(breaker.state(), State::Closed);
    }

    #[test]
    fn a_throttled_probe_decides_nothing() {
        let mut breaker = Breaker::new(Limits::default());
        breaker.set(State::Open { until: at(1) }, None, at(0));
        assert_eq!(calls(&mut breaker, 1, 5, &[Health::Throttled; 7]), None);
        assert_eq!(calls(&mut breaker, 100, 5, &[Health::Delivered; 3]), Some(Change::Closed));
    }

    #[test]
    fn it_becomes_half_open_after_its_open_duration() {
        let mut breaker = Breaker::new(Limits::default());
        breaker.set(State::Open { until: at(500) }, None, at(0));
        assert_eq!((breaker.stands(at(499)), breaker.since(at(499))), (State::Open { until: at(500) }, Some(at(0))));
        let probing = State::HalfOpen { in_flight: 0, succeeded: 0, refused: 0 };
        assert_eq!((breaker.stands(at(900)), breaker.since(at(900))), (probing, Some(at(500))));
        assert_eq!(breaker.check(at(950)), Ok(()));
        assert_eq!((breaker.state(), breaker.since(at(990))), (probing, Some(at(500))), "as it was shown");
    }

    #[test]
    fn an_operator_keeps_it_closed_for_a_time() {
        let mut breaker = Breaker::new(Limits::default());
        breaker.set(State::Closed, Some(at(1000)), at(0));
        assert_eq!([999, 1000].map(|ms| breaker.kept_closed_until(at(ms))), [Some(at(1000)), None]);
        assert_eq!(calls(&mut breaker, 0, 5, &[Health::Failed; 90]), None);
        assert!(calls(&mut breaker, 1000, 5, &[Health::Failed]).is_some());
    }

    #[test]
    fn new_limits_apply_at_once_and_a_new_window_length_starts_empty() {
        let limits = Limits { min_calls: 11, ..Limits::default() };
        let mut breaker = Breaker::new(Limits::default());
        assert_eq!(calls(&mut breaker, 0, 5, &[Health::Failed; 10]), None);
        breaker.reconfigure(limits.clone());
        assert!(calls(&mut breaker, 100, 5, &[Health::Failed]).is_some());
        let mut breaker = Breaker::new(Limits::default());
        assert_eq!(calls(&mut breaker, 0, 5, &[Health::Failed; 10]), None);
        breaker.reconfigure(Limits { window: Duration::from_secs(30), ..limits });
        assert_eq!(calls(&mut breaker, 100, 5, &[Health::Failed; 10]), None);
        assert!(calls(&mut breaker, 200, 5, &[Health::Failed]).is_some());
    }

    #[test]
    fn with_a_ratio_of_zero_only_a_failure_opens_it() {
        let limits = Limits { failure_ratio: 0.0, slow_ratio: 0.0, min_calls: 1, ..Limits::default() };
        let mut breaker = Breaker::new(limits);
        assert_eq!(calls(&mut breaker, 0, 5, &[Health::Delivered; 50]), None);
        assert!(calls(&mut breaker, 500, 5, &[Health::Failed]).is_some());
    }
}
