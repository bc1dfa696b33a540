//! The scheduler and the judge as the simulation drives them, and as they would be with one rule broken.

use super::courses::Courses;
use super::settings::Destination;
use super::store::{Location, Record};
use holdline::delivery::{DeliveryId, Place, Ticket};
use holdline::event::{DestinationId, DestinationSet, Digest64, Sequence};
use holdline::rules::backoff::Retry;
use holdline::rules::breaker::{Change, Epoch, State};
use holdline::rules::concurrency::Adaptive;
use holdline::rules::header_time::AnsweredAt;
use holdline::rules::lateness::LateAction;
use holdline::rules::refusals::Refusals;
use holdline::rules::retry_after::{self, RetryAfter};
use holdline::rules::verdict::{self, EndedAttempt, Judgement, Verdict};
use holdline::rules::verdict::{Call, Health};
use holdline::scheduler::{DestinationQueue, Policy, QueueKey, Scheduler, Start, Step};
use holdline::store::{BreakerOverride, Position};
use holdline::time::Timestamp;
use std::time::Duration;

/// A rule that is broken on purpose, to see that the simulation notices it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    Nothing,
    /// A second delivery of an interaction starts while one is in flight.
    SecondInFlight,
    /// Some events lose their interaction.
    LosesLane,
    OneTooMany,
    ForgetsHoldAtStart,
    IgnoresHold,
    RetriesEarly,
    IgnoresDeadLetter,
    DropsLoaded,
    DropsRedriven,
    /// The scheduler learns of a redriven delivery only after others have started.
    RedrivenLast,
    ForgetsAttempt,
    NeverGivesUp,
    /// Any permanent failure is attributed to its event.
    BelievesEveryAnswer,
    CountsWhatWasNotSent,
    Oversleeps,
    SpinsInPlace,
    DoesNotClamp,
    DeliversTwice,
    /// The store keeps the last retry-after time of a destination instead of the longest.
    KeepsLastHold,
    IgnoresPause,
    ForgetsPauseAtStart,
    BreakerNeverOpens,
    ForgetsBreakerAtStart,
    ProbeTooMany,
    IgnoresRate,
    IgnoresRamp,
    /// An attempt that was not made counts as a probe that is still in flight.
    KeepsPostponedProbe,
    /// The store compacts a page that the scheduler has not read.
    GivesUpUnknownPage,
    IgnoresWindow,
    HalvesWindow,
    IgnoresEventTime,
    /// Events accepted before a start count as accepted in the future.
    TrustsOldClock,
    IgnoresStale,
    /// An event with the same time as the newest one counts as older.
    StaleWhenEqual,
    /// A failed attempt counts as a delivery.
    StaleAgainstTried,
    RemembersLastOnly,
    ForgetsDeliveredAtStart,
    FlagsNothing,
    DeliversInsteadOfDiscarding,
    DiscardsInsteadOfBurying,
    JudgesRedrivenStale,
    IgnoresTtl,
    LetsRedrivenExpire,
    /// The age of an event starts at its acceptance, even if it was old then.
    AgesFromAcceptance,
    /// An event of a sender whose clock is ahead counts as newer than is possible.
    AgesFromTheFuture,
    BelievesTheFuture,
    /// A shorter pattern of a type takes precedence over a longer one.
    TakesShorterPattern,
    ForgetsRampAtStart,
    ForgetsRateAtStart,
    /// The concurrency limit never falls.
    NeverCuts,
    /// A response that asks for less load counts as a success.
    GrowsWhenThrottled,
    /// Each of several concurrent calls cuts the limit.
    CutsForEach,
    IgnoresQuota,
    /// Deliveries that have become due count as untried.
    TakesNoTurns,
}

#[derive(Debug)]
pub struct Rig {
    scheduler: Scheduler,
    broken: Break,
    calls: u64,
    /// Redriven deliveries that the scheduler learns of late.
    late: Vec<(DestinationId, Ticket, Timestamp)>,
    courses: Courses,
    /// Retries requested only when they have become due, if that rule is broken.
    due: Vec<(Timestamp, DestinationId, Digest64, Sequence)>,
}

impl Rig {
    pub fn new(broken: Break, destinations: &[Destination], floor: Sequence, next: Sequence, now: Timestamp) -> Self {
        let more = usize::from(broken == Break::OneTooMany);
        let change = |mut policy: Policy| {
            policy.limits.concurrency_max += more;
            match broken {
                Break::BreakerNeverOpens => policy.limits.breaker.min_calls = u32::MAX,
                Break::ProbeTooMany => policy.limits.breaker.probes += 1,
                Break::IgnoresRate => policy.limits.rate = None,
                Break::IgnoresRamp => policy.limits.ramp = Duration::ZERO,
                Break::IgnoresWindow => policy.reorder_window = Duration::ZERO,
                Break::HalvesWindow => policy.reorder_window /= 2,
                Break::NeverCuts => policy.limits.adaptive = Adaptive::No,
                _ => {}
            }
            policy
        };
        let lines = destinations.iter().map(|d| (d.id, change(d.policy.clone())));
        let now = if broken == Break::TrustsOldClock { Timestamp::NEVER } else { now };
        let scheduler = Scheduler::new(lines, floor, next, now);
        Self {
            scheduler,
            broken,
            calls: 0,
            late: Vec::new(),
            due: Vec::new(),
            courses: Courses::new(broken, destinations),
        }
    }

    /// True every third time, if `what` is the broken rule.
    fn breaks(&mut self, what: Break) -> bool {
        self.calls += 1;
        self.broken == what && self.calls.is_multiple_of(3)
    }

    pub fn queue(&self, d: DestinationId) -> &DestinationQueue {
        self.scheduler.queue(d).unwrap()
    }

    fn queue_mut(&mut self, d: DestinationId) -> &mut DestinationQueue {
        self.scheduler.queue_mut(d).unwrap()
    }

    pub fn accepted(&mut self, tickets: &[Ticket], next: Sequence) {
        let mut tickets = tickets.to_vec();
        if self.breaks(Break::LosesLane) {
            tickets.iter_mut().for_each(|t| t.order_key = Digest64::NONE);
        }
        if self.broken == Break::IgnoresEventTime {
            tickets.iter_mut().for_each(|t| t.time = None);
        }
        self.scheduler.accepted(&tickets, next);
    }

    pub fn next_load(&mut self) -> Option<(DestinationId, Sequence)> {
        self.scheduler.next_load()
    }

    pub fn loaded(&mut self, d: DestinationId, tickets: &[Ticket], next: Sequence) {
        let tickets = if self.breaks(Break::DropsLoaded) { tickets.get(1..).unwrap_or_default() } else { tickets };
        self.queue_mut(d).loaded(tickets, next);
    }

    /// State at a start; `due` is the store's value, `cut` what a broken rule leaves of it.
    pub fn restored(&mut self, d: DestinationId, ticket: &Ticket, due: Timestamp, cut: Timestamp) {
        let not_before = if self.broken == Break::DoesNotClamp { due } else { cut };
        self.queue_mut(d).redriven(ticket, not_before);
    }

    pub fn redriven(&mut self, d: DestinationId, ticket: &Ticket) {
        if self.breaks(Break::DropsRedriven) {
            return;
        }
        if self.broken == Break::RedrivenLast {
            return self.late.push((d, *ticket, Timestamp::ZERO));
        }
        self.queue_mut(d).redriven(ticket, Timestamp::ZERO);
    }

    pub fn dead(&mut self, d: DestinationId, order_key: Digest64, sequence: Sequence) {
        self.queue_mut(d).block_by_dead_letter(order_key, sequence);
    }

    pub fn purged(&mut self, d: DestinationId, order_key: Digest64, sequence: Sequence) {
        self.queue_mut(d).discarded(order_key, sequence);
    }

    pub fn hold(&mut self, d: DestinationId, until: Timestamp) {
        if self.broken != Break::IgnoresHold {
            self.queue_mut(d).flow_mut().retry_after(until);
        }
    }

    pub fn held_at_start(&mut self, d: DestinationId, until: Timestamp) {
        if self.broken != Break::ForgetsHoldAtStart {
            self.queue_mut(d).flow_mut().retry_after(until);
        }
    }

    pub fn paused(&mut self, d: DestinationId, until: Option<Timestamp>, now: Timestamp) {
        match until {
            Some(until) if self.broken != Break::IgnoresPause => self.queue_mut(d).flow_mut().pause(until),
            Some(_) => {}
            None => self.queue_mut(d).flow_mut().resume(now),
        }
    }

    pub fn paused_at_start(&mut self, d: DestinationId, until: Option<Timestamp>) {
        if let Some(until) = until.filter(|_| self.broken != Break::ForgetsPauseAtStart) {
            self.queue_mut(d).flow_mut().pause(until);
        }
    }

    pub fn fixed(&mut self, d: DestinationId, fixed: Option<&BreakerOverride>, now: Timestamp) {
        let (state, closed_until) = match fixed {
            Some(BreakerOverride { position: Position::Open, until, .. }) => (State::Open { until: *until }, None),
            Some(BreakerOverride { position: Position::Closed, until, .. }) => (State::Closed, Some(*until)),
            None => (State::Closed, None),
        };
        self.queue_mut(d).flow_mut().set_breaker(state, closed_until, now, now);
    }

    pub fn fixed_at_start(&mut self, d: DestinationId, fixed: &BreakerOverride, now: Timestamp) {
        if self.broken != Break::ForgetsBreakerAtStart {
            self.fixed(d, Some(fixed), now);
        }
    }

    pub fn paced_at_start(&mut self, d: DestinationId, released_at: Timestamp, sent_at: Timestamp) {
        if self.broken != Break::ForgetsRampAtStart && released_at > Timestamp::ZERO {
            self.queue_mut(d).flow_mut().ramp_up_from(released_at);
        }
        if self.broken != Break::ForgetsRateAtStart && sent_at > Timestamp::ZERO {
            self.queue_mut(d).flow_mut().sent(sent_at);
        }
    }

    /// A call as it is reported to the scheduler.
    fn heard(&self, d: DestinationId, call: &Call) -> Call {
        // a closed breaker uses other criteria
        let closed = self.queue(d).flow().breaker().state() == State::Closed;
        match self.broken {
            Break::GrowsWhenThrottled if closed && call.health == Health::Throttled => {
                Call { health: Health::Delivered, ..*call }
            }
            Break::CutsForEach => Call { began: Timestamp::NEVER, ..*call },
            _ => *call,
        }
    }

    pub fn ended(&mut self, start: &Start, verdict: Verdict, call: Option<&Call>, now: Timestamp) -> Option<Change> {
        let ticket = |place| {
            let order_key =
                if let QueueKey::Interaction(order_key) = start.queue_key { order_key } else { Digest64::NONE };
            let to = DestinationSet::EMPTY.with(start.destination);
            Ticket { sequence: start.sequence, order_key, received_at: Timestamp::ZERO, time: None, to, place }
        };
        let call = call.map(|call| self.heard(start.destination, call));
        let call = call.as_ref();
        if let (Break::TakesNoTurns, Verdict::Retry { due }) = (self.broken, verdict) {
            self.due.push((due, start.destination, ticket(Place::Page).order_key, start.sequence));
        }
        let d = start.destination;
        let verdict = match verdict {
            Verdict::Dead(_) if self.broken == Break::IgnoresDeadLetter => Verdict::Discarded,
            Verdict::Retry { due } if self.broken == Break::RetriesEarly => {
                let change = self.queue_mut(d).ended(start, Verdict::Discarded, call, now);
                let early = due.before(Duration::from_millis(due.0 % 400));
                self.queue_mut(d).redriven(&ticket(Place::under(due)), early);
                return change;
            }
            Verdict::Delivered | Verdict::Discarded if self.breaks(Break::DeliversTwice) => {
                let change = self.queue_mut(d).ended(start, verdict, call, now);
                self.queue_mut(d).redriven(&ticket(start.place), Timestamp::ZERO);
                return change;
            }
            verdict => verdict,
        };
        let forgotten = Start { epoch: Epoch::default(), ..*start };
        let start = if self.broken == Break::KeepsPostponedProbe { &forgotten } else { start };
        self.queue_mut(d).ended(start, verdict, call, now)
    }

    pub fn poll(&mut self, now: Timestamp) -> Step {
        while let Some(at) = self.due.iter().position(|(due, ..)| *due <= now) {
            let (_, d, order_key, sequence) = self.due.swap_remove(at);
            self.queue_mut(d).retry_now(order_key, sequence);
        }
        let step = self.scheduler.poll(now);
        match step {
            Step::Start(start) if self.breaks(Break::SecondInFlight) => {
                self.queue_mut(start.destination).ended(&start, Verdict::Delivered, None, now);
            }
            Step::Start(_) => {
                for (d, ticket, not_before) in std::mem::take(&mut self.late) {
                    self.queue_mut(d).redriven(&ticket, not_before);
                }
            }
            Step::Wait(Some(wake)) if self.broken == Break::Oversleeps => {
                return Step::Wait(Some(wake.after(Duration::from_millis(1))));
            }
            Step::Wait(Some(_)) if self.broken == Break::SpinsInPlace => return Step::Wait(Some(now)),
            Step::Wait(_) => {}
        }
        step
    }

    /// An attempt has ended; `record` is the delivery after it.
    pub fn tried(&mut self, id: DeliveryId, record: &Record, at: Timestamp) {
        if record.location == Location::Delivered || self.broken == Break::StaleAgainstTried {
            self.courses.delivered(id, record, at);
        }
    }

    pub fn delivered_before_start(&mut self, id: DeliveryId, record: &Record, now: Timestamp) {
        if self.broken != Break::ForgetsDeliveredAtStart {
            self.courses.delivered(id, record, now);
        }
    }

    pub fn course(&self, id: DeliveryId, record: &Record, now: Timestamp) -> LateAction {
        self.courses.of(id, record, now)
    }

    /// What the headers of a response say about the destination's quota.
    pub fn quota(&self, retry: &Retry, headers: &[(&str, String)], now: Timestamp) -> Option<RetryAfter> {
        let values = |name: &str| headers.iter().filter(|(n, _)| *n == name).map(|(_, value)| value.as_str()).collect();
        let spent = retry_after::quota_spent(values, 200, AnsweredAt::new(now, None))
            .filter(|_| self.broken != Break::IgnoresQuota);
        spent.map(|wish| retry_after::grant(wish, retry.retry_after_max, now))
    }

    pub fn judge(&self, to: &Destination, refusals: &mut Refusals, ended: &EndedAttempt<'_>) -> Judgement {
        let retry = match self.broken {
            Break::NeverGivesUp => &Retry { attempts: None, ..to.retry.clone() },
            Break::BelievesEveryAnswer => &Retry { permanent: (300..600).collect(), ..to.retry.clone() },
            _ => &to.retry,
        };
        let counted = match self.broken {
            Break::ForgetsAttempt => ended.counted.saturating_sub(1),
            Break::CountsWhatWasNotSent => ended.attempts - 1,
            _ => ended.counted,
        };
        verdict::judge(retry, to.policy.limits.breaker.permanent_answers, refusals, &EndedAttempt { counted, ..*ended })
    }
}
