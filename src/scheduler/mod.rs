//! The scheduler: which delivery goes now, and if none, when to ask again.
//!
//! Pure: it takes `now`, knows neither tokio nor sled nor hyper, and cannot fail. `dispatch` drives it; a simulation drives
//! it through days of traffic in a second.
//!
//! *Invariants.* Per (destination, interaction) a delivery starts only when the one before it is resolved; lines share
//! nothing, so a destination in trouble costs the others nothing.

mod blocked_by_dead_letters;
mod destination_queue;
mod flow_control;
mod interaction_queue;
mod policy;
mod ready;

pub use blocked_by_dead_letters::BlockedSummary;
pub use destination_queue::{DeliveryStatus, DestinationQueue, Interaction, Start};
pub use flow_control::{FlowControl, LimitReason, Limits};
pub use interaction_queue::QueueKey;
pub use policy::{DeadLetters, Ordered, Policy};

use crate::delivery::Ticket;
use crate::event::{DestinationId, Digest64, Sequence};
use crate::rules::breaker;
use crate::rules::call::Call;
use crate::time::Timestamp;
use destination_queue::StartPoint;

/// What an ended attempt means for its place in the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Delivered, or discarded by decision.
    Resolved,
    Retry {
        due: Timestamp,
    },
    /// Nothing was sent, since the destination asked to be left alone meanwhile.
    Postponed,
    Dead,
}

/// The scheduler's answer.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Start(Start),
    /// Nothing starts before this time, or before something is told.
    Wait(Option<Timestamp>),
}

#[derive(Debug)]
pub struct Scheduler {
    lines: Vec<DestinationQueue>,
    /// The line that is asked first; goes round, so that none starves.
    first: usize,
    /// Everything before it has been accepted.
    next: Sequence,
}

impl Scheduler {
    /// `floor`: everything in pages lies at or behind it. `next`: the next sequence to be given. `now`: whatever was accepted
    /// before, was accepted until then.
    pub fn new(
        lines: impl IntoIterator<Item = (DestinationId, Policy)>,
        floor: Sequence,
        next: Sequence,
        now: Timestamp,
    ) -> Self {
        let birth = StartPoint { next, at: now };
        let lines = lines.into_iter().map(|(id, policy)| DestinationQueue::new(id, policy, floor, birth)).collect();
        Self { lines, first: 0, next }
    }

    /// A destination goes by this policy from now on. How it orders and what its dead letters hold stays as it was; one
    /// that was not known has nothing that waits.
    pub fn go_by(&mut self, d: DestinationId, policy: Policy, now: Timestamp) {
        match self.line_mut(d) {
            Some(line) => line.go_by(policy),
            None => {
                self.lines.push(DestinationQueue::new(d, policy, self.next, StartPoint { next: self.next, at: now }))
            }
        }
    }

    pub fn line(&self, d: DestinationId) -> Option<&DestinationQueue> {
        self.lines.iter().find(|line| line.id == d)
    }

    fn line_mut(&mut self, d: DestinationId) -> Option<&mut DestinationQueue> {
        self.lines.iter_mut().find(|line| line.id == d)
    }

    /// Events up to `next` have been accepted.
    pub fn accepted(&mut self, tickets: &[Ticket], next: Sequence) {
        self.next = next;
        let Some(first) = tickets.first() else { return };
        for line in self.lines.iter_mut().filter(|line| line.takes(first.sequence)) {
            let id = line.id;
            for ticket in tickets.iter().filter(|t| t.to.has(id)) {
                line.insert(ticket);
            }
            line.cursor = next;
        }
    }

    /// A line that has run low, and from where it wants more. It is then taken to be loading.
    pub fn wants(&mut self) -> Option<(DestinationId, Sequence)> {
        let next = self.next;
        let (line, from) = self.lines.iter_mut().find_map(|line| line.wants(next).map(|from| (line, from)))?;
        line.loading = true;
        Some((line.id, from))
    }

    /// What was asked for; the line knows everything before `next`.
    pub fn loaded(&mut self, d: DestinationId, tickets: &[Ticket], next: Sequence) {
        let Some(line) = self.line_mut(d) else { return };
        for ticket in tickets {
            line.insert(ticket);
        }
        line.cursor = next;
        line.loading = false;
    }

    /// A delivery of the delay tree waits until `not_before`: at a start, or because it was redriven.
    pub fn waits(&mut self, d: DestinationId, ticket: &Ticket, not_before: Timestamp) {
        let Some(line) = self.line_mut(d) else { return };
        line.redriven(ticket, not_before);
    }

    /// A dead letter of before the start; it holds its interaction where the destination says so.
    pub fn dead(&mut self, d: DestinationId, lane: Digest64, sequence: Sequence) {
        if let Some(line) = self.line_mut(d) {
            line.hold_lane(line.key(lane, sequence), sequence);
        }
    }

    /// A delivery need not wait for its time.
    pub fn hastened(&mut self, d: DestinationId, lane: Digest64, sequence: Sequence) {
        if let Some(line) = self.line_mut(d) {
            line.hastened(lane, sequence);
        }
    }

    /// A dead letter, or a delivery that waits, is gone for good; `lane` is none also where the letter did not verify and its lane is not known.
    pub fn purged(&mut self, d: DestinationId, lane: Digest64, sequence: Sequence) {
        if let Some(line) = self.line_mut(d) {
            line.purged(lane, sequence);
        }
    }

    /// The destination is left alone until then.
    pub fn hold(&mut self, d: DestinationId, until: Timestamp) {
        if let Some(line) = self.line_mut(d) {
            line.pace.hold(until);
        }
    }

    /// Nothing starts for the destination before `until`.
    pub fn pause(&mut self, d: DestinationId, until: Timestamp) {
        if let Some(line) = self.line_mut(d) {
            line.pace.pause(until);
        }
    }

    /// Deliveries return to the destination little by little.
    pub fn resume(&mut self, d: DestinationId, now: Timestamp) {
        if let Some(line) = self.line_mut(d) {
            line.pace.resume(now);
        }
    }

    /// The breaker as an operator wants it, or as it was before a restart; it has stood so `since` then.
    pub fn set_breaker(
        &mut self,
        d: DestinationId,
        state: breaker::State,
        closed_until: Timestamp,
        since: Timestamp,
        now: Timestamp,
    ) {
        if let Some(line) = self.line_mut(d) {
            line.pace.set_breaker(state, closed_until, since, now);
        }
    }

    /// Before this start everything was let in to the destination again, and its ramp may go on.
    pub fn let_in_before(&mut self, d: DestinationId, at: Timestamp) {
        if let Some(line) = self.line_mut(d) {
            line.pace.let_in(at);
        }
    }

    /// The last attempt before this start began then, or later is not known of; the rate goes on from there.
    pub fn sent_before(&mut self, d: DestinationId, at: Timestamp) {
        if let Some(line) = self.line_mut(d) {
            line.pace.sent(at);
        }
    }

    /// An attempt has ended; without a `call` it was not made after all. What it has turned is to be remembered over a
    /// restart.
    pub fn landed(
        &mut self,
        start: &Start,
        landing: Disposition,
        call: Option<&Call>,
        now: Timestamp,
    ) -> Option<breaker::Turn> {
        let line = self.line_mut(start.destination)?;
        let turn = line.called(start.epoch, call, now);
        match landing {
            Disposition::Resolved => line.resolved(start.queue_key, start.sequence),
            Disposition::Retry { due } => line.retry(start.queue_key, start.sequence, due),
            Disposition::Postponed => line.postponed(start.queue_key, start.sequence),
            Disposition::Dead => line.died(start.queue_key, start.sequence),
        }
        turn
    }

    /// What goes now, else when to ask again.
    pub fn poll(&mut self, now: Timestamp) -> Step {
        let mut wake: Option<Timestamp> = None;
        let n = self.lines.len();
        for i in 0..n {
            let at = (self.first + i) % n;
            match self.lines[at].poll(now) {
                Ok(start) => {
                    self.first = (at + 1) % n;
                    return Step::Start(start);
                }
                Err(Some(due)) => wake = Some(wake.map_or(due, |wake| wake.min(due))),
                Err(None) => {}
            }
        }
        Step::Wait(wake)
    }

    pub fn lines(&self) -> impl Iterator<Item = (DestinationId, &DestinationQueue)> {
        self.lines.iter().map(|line| (line.id, line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::Place;
    use crate::event::{DestinationSet, Digest64};

    #[test]
    fn destinations_take_turns() {
        let all = [0, 1, 2].map(DestinationId);
        let lines = all.map(|d| (d, Policy::default()));
        let mut scheduler = Scheduler::new(lines, Sequence(1), Sequence(1), Timestamp(1));
        for n in 1..=3 {
            let ticket = Ticket {
                sequence: Sequence(n),
                order_key: Digest64::NONE,
                received_at: Timestamp(n),
                time: Timestamp::ZERO,
                to: all.into_iter().fold(DestinationSet::EMPTY, DestinationSet::with),
                place: Place::Page,
            };
            scheduler.accepted(&[ticket], Sequence(n + 1));
        }
        let started = std::iter::from_fn(|| match scheduler.poll(Timestamp(10)) {
            Step::Start(start) => Some((start.destination.0, start.sequence.0)),
            Step::Wait(_) => None,
        });
        let in_turn = [(0, 1), (1, 1), (2, 1), (0, 2), (1, 2), (2, 2), (0, 3), (1, 3), (2, 3)];
        assert_eq!(started.collect::<Vec<_>>(), in_turn);
    }
}
