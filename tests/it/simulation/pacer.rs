//! The judge of flow control: what may be sent to one destination now, derived from a plain list of events. It shares
//! only the settings with the scheduler's own checks.

use super::adaptive::AdaptiveLimit;
use super::judge::{Violation, violation};
use holdline::event::Sequence;
use holdline::rules::breaker::Change;
use holdline::rules::verdict::{Call, Health};
use holdline::scheduler::Limits;
use holdline::store::{BreakerOverride, Position};
use holdline::time::{Timestamp, millis};
use std::collections::BTreeSet;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Breaker {
    Closed,
    Open { until: Timestamp },
    HalfOpen { in_flight: u32, succeeded: u32, refused: u32 },
}

/// State that survives a restart.
#[derive(Clone, Copy, Debug, Default)]
pub struct Past {
    /// When a pause or an open breaker last ended, as far as that was committed.
    pub released_at: Option<Timestamp>,
    /// The last start of an attempt, recorded or not.
    pub last_start: Option<Timestamp>,
    /// The committed state: the end of the pause, and whether the breaker was open.
    paused_until: Option<Timestamp>,
    open: bool,
}

impl Past {
    pub fn keeps_pause(&mut self, until: Option<Timestamp>, now: Timestamp) {
        if let (Some(paused), None) = (self.paused_until, until) {
            self.released_at = self.released_at.max(Some(paused.min(now)));
        }
        self.paused_until = until;
    }

    pub fn keeps_breaker(&mut self, fixed: Option<&BreakerOverride>, now: Timestamp) {
        let open = fixed.is_some_and(|fixed| fixed.position == Position::Open);
        if self.open && !open {
            self.released_at = self.released_at.max(Some(now));
        }
        self.open = open;
    }
}

#[derive(Debug)]
pub struct Pacer {
    breaker: Breaker,
    /// The deliveries that started in this state of the breaker and have not ended.
    of_this: BTreeSet<Sequence>,
    kept_closed_until: Timestamp,
    /// For each call in this state: when it ended, and whether it failed.
    calls: Vec<(Timestamp, bool)>,
    paused_until: Timestamp,
    /// When the ramp began.
    ramp_from: Option<Timestamp>,
    last_start: Option<Timestamp>,
    /// The start of this run, if another one preceded it: starts need not be recorded for longer.
    born: Timestamp,
    pub adaptive: AdaptiveLimit,
}

impl Pacer {
    /// The state before anything has happened.
    pub fn new(limits: &Limits) -> Self {
        Self::restored(None, None, Past::default(), limits, Timestamp::ZERO)
    }

    /// The expected state at a start, from the committed data and from what really happened.
    pub fn restored(
        pause: Option<Timestamp>,
        fixed: Option<&BreakerOverride>,
        past: Past,
        limits: &Limits,
        now: Timestamp,
    ) -> Self {
        let mut pacer = Self {
            breaker: Breaker::Closed,
            of_this: BTreeSet::new(),
            kept_closed_until: Timestamp::ZERO,
            calls: Vec::new(),
            paused_until: pause.unwrap_or_default(),
            ramp_from: past.released_at.map(|at| at.min(now)),
            last_start: past.last_start.map(|at| at.min(now)),
            born: now,
            adaptive: AdaptiveLimit::new(limits),
        };
        if let Some(fixed) = fixed {
            let latest = if fixed.who.is_none() { now.after(limits.breaker.open_duration) } else { Timestamp::NEVER };
            pacer.fixed(Some(&BreakerOverride { until: fixed.until.min(latest), ..fixed.clone() }), now);
        }
        pacer
    }

    pub fn paused(&mut self, until: Option<Timestamp>, now: Timestamp) {
        if until.is_none() && self.paused_until > Timestamp::ZERO {
            self.ramp_from = self.ramp_from.max(Some(self.paused_until.min(now)));
        }
        self.paused_until = until.unwrap_or_default();
    }

    pub fn fixed(&mut self, fixed: Option<&BreakerOverride>, now: Timestamp) {
        let was = self.breaker;
        self.kept_closed_until = Timestamp::ZERO;
        match fixed {
            Some(BreakerOverride { position: Position::Open, until, .. }) => {
                self.enter(Breaker::Open { until: *until })
            }
            Some(BreakerOverride { position: Position::Closed, until, .. }) => {
                self.enter(Breaker::Closed);
                self.kept_closed_until = *until;
            }
            None => self.enter(Breaker::Closed),
        }
        if self.breaker == Breaker::Closed && was != Breaker::Closed {
            self.ramp_from = self.ramp_from.max(Some(now));
        }
    }

    fn enter(&mut self, breaker: Breaker) {
        self.breaker = breaker;
        self.of_this.clear();
        self.calls.clear();
    }

    /// An attempt starts, with `in_flight` others in flight.
    pub fn starts(
        &mut self,
        limits: &Limits,
        sequence: Sequence,
        in_flight: usize,
        now: Timestamp,
    ) -> Result<(), Violation> {
        if now < self.paused_until {
            return violation("I12", format!("a start, but it is paused until {:?}", self.paused_until));
        }
        if self.paused_until > Timestamp::ZERO {
            self.paused(None, now);
        }
        if let Breaker::Open { until } = self.breaker {
            if now < until {
                return violation("I12", format!("a start, but the breaker is open until {until:?}"));
            }
            self.enter(Breaker::HalfOpen { in_flight: 0, succeeded: 0, refused: 0 });
        }
        if let Breaker::HalfOpen { in_flight, succeeded, .. } = &mut self.breaker {
            if *in_flight + *succeeded >= limits.breaker.probes {
                return violation("I12", format!("a probe too many: {in_flight} in flight, {succeeded} succeeded"));
            }
            *in_flight += 1;
        }
        if in_flight >= self.ramp(limits, now) {
            return violation("ramp", format!("a start with {in_flight} in flight, above the ramp"));
        }
        if let (Some(rate), Some(last)) = (interval_ms(limits), self.last_start)
            && millis(now.since(last)) + 1 < rate
        {
            return violation("rate", format!("a start {:?} after the one before", now.since(last)));
        }
        if in_flight >= self.adaptive.limit {
            return violation(
                "concurrency",
                format!("a start with {in_flight} in flight, beyond {}", self.adaptive.limit),
            );
        }
        self.last_start = Some(now);
        self.of_this.insert(sequence);
        Ok(())
    }

    fn ramp(&self, limits: &Limits, now: Timestamp) -> usize {
        let max = limits.concurrency_max;
        match self.ramp_from {
            Some(from) if now.since(from) < limits.ramp => {
                let risen = (max as u64 - 1) * millis(now.since(from)) / millis(limits.ramp);
                1 + risen as usize
            }
            _ => max,
        }
    }

    /// An attempt has ended; `None`: it was not made.
    pub fn ends(
        &mut self,
        limits: &Limits,
        sequence: Sequence,
        call: Option<&Call>,
        turn: Option<Change>,
        now: Timestamp,
    ) -> Result<(), Violation> {
        let expected = self.turn(limits, sequence, call, now);
        let turned = turn.map(|turn| matches!(turn, Change::Opened { .. }));
        if expected != turned {
            return violation(
                "breaker",
                format!("it should turn {expected:?} and turns {turn:?} in {:?}", self.breaker),
            );
        }
        match turn {
            Some(Change::Opened { until, .. }) => {
                if until != now.after(limits.breaker.open_duration) {
                    return violation("breaker", format!("it opens until {until:?}"));
                }
                self.enter(Breaker::Open { until });
            }
            Some(Change::Closed) => {
                self.enter(Breaker::Closed);
                self.ramp_from = self.ramp_from.max(Some(now));
            }
            None => {}
        }
        Ok(())
    }

    /// Whether the end of a call opens the breaker (true) or closes it.
    fn turn(&mut self, limits: &Limits, sequence: Sequence, call: Option<&Call>, now: Timestamp) -> Option<bool> {
        if !self.of_this.remove(&sequence) {
            return None;
        }
        let limits = &limits.breaker;
        let failed = |health| matches!(health, Health::Rejected(_) | Health::Unavailable | Health::Failed);
        match (&mut self.breaker, call) {
            (Breaker::HalfOpen { .. }, Some(call)) if failed(call.health) => Some(true),
            (Breaker::HalfOpen { in_flight, succeeded, refused }, call) => {
                *in_flight = in_flight.saturating_sub(1);
                match call.map(|call| call.health) {
                    Some(Health::Delivered) => {
                        *succeeded += 1;
                        (*succeeded >= limits.probes).then_some(false)
                    }
                    Some(Health::Refused(_)) => {
                        *refused += 1;
                        (*refused == 10).then_some(true)
                    }
                    _ => None,
                }
            }
            (Breaker::Closed, Some(call)) => {
                self.calls.push((now, failed(call.health)));
                let tenth = (millis(limits.window) / 10).max(1);
                let counted: Vec<_> = self.calls.iter().filter(|(at, _)| at.0 / tenth + 10 > now.0 / tenth).collect();
                let bad = counted.iter().filter(|(_, failed)| *failed).count();
                let by_share = bad > 0 && bad as f64 / counted.len() as f64 >= limits.failure_ratio;
                let run: Vec<_> = self.calls.iter().rev().take_while(|(_, failed)| *failed).collect();
                let lasts = run.last().is_some_and(|(first, _)| now.since(*first) >= limits.window);
                let many = counted.len() >= limits.min_calls as usize;
                let failing = if many { by_share } else { lasts && run.len() >= limits.consecutive_failures as usize };
                let refused = call.refuses_all && matches!(call.health, Health::Refused(_) | Health::Rejected(_));
                ((failing || refused) && now >= self.kept_closed_until).then_some(true)
            }
            _ => None,
        }
    }

    /// When one more may start, as far as only time decides; none if something else must happen first.
    pub fn opens_at(&self, limits: &Limits, in_flight: usize, limit: usize, now: Timestamp) -> Option<Timestamp> {
        let mut at = self.paused_until;
        match self.breaker {
            Breaker::Open { until } => at = at.max(until),
            Breaker::HalfOpen { in_flight, succeeded, .. } if in_flight + succeeded >= limits.breaker.probes => {
                return None;
            }
            _ => {}
        }
        if let Some(rate) = interval_ms(limits) {
            at = at.max(Timestamp(self.last_start.unwrap_or_default().max(self.born).0 + rate + 1));
        }
        // the ramp rises with time, but one attempt may always start
        let held = in_flight >= limit || in_flight >= self.ramp(limits, now);
        let never = limits.concurrency_max == 0 || at == Timestamp::NEVER || in_flight > 0 && held;
        (!never).then_some(at)
    }
}

fn interval_ms(limits: &Limits) -> Option<u64> {
    limits.rate.map(|rate| millis(rate.per()) / u64::from(rate.count()))
}
