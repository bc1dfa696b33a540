//! The scheduler: which delivery starts now, and if none, when to ask again.
//!
//! It takes `now` as an argument, knows neither tokio nor sled nor hyper, and cannot fail. `dispatch` drives it; a
//! simulation drives it through days of traffic in a second.
//!
//! | level | file | purpose |
//! |---|---|---|
//! | 0 | [`flow_control`] | pause, breaker, `Retry-After`, concurrency and rate of one destination |
//! | 0 | [`interaction_queue`] | the order of the deliveries of one interaction |
//! | 1 | [`queue_index`] | which interactions are ready, delayed or blocked |
//! | 2 | [`destination_queue`] | all deliveries to one destination |
//! | 3 | [`Scheduler`] | all destinations, taking turns |
//!
//! *Invariants.* Per destination and interaction, a delivery starts only when the one before it has ended. Destinations
//! share nothing, so a destination in trouble does not delay the others.

mod destination_queue;
mod flow_control;
mod interaction_queue;
mod queue_index;

pub use destination_queue::{DeliveryStatus, DestinationQueue, Interaction, Ordered, Policy, Start};
pub use flow_control::{FlowControl, LimitReason, Limits};
pub use interaction_queue::{DeadLetters, QueueKey};
pub use queue_index::BlockedSummary;

use crate::delivery::Ticket;
use crate::event::{DestinationId, Sequence};
use crate::time::Timestamp;
use destination_queue::StartPoint;

/// The scheduler's answer.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Start(Start),
    /// Nothing starts before this time; none: before the next call to the scheduler.
    Wait(Option<Timestamp>),
}

#[derive(Debug)]
pub struct Scheduler {
    queues: Vec<DestinationQueue>,
    /// The queue that is polled first; it advances with each start, so that no queue starves.
    first: usize,
    /// The next sequence to be accepted.
    next: Sequence,
}

impl Scheduler {
    /// `floor`: all deliveries in pages are at or after it. `next`: the next sequence to be accepted. `now`: an upper
    /// bound of the acceptance times before `next`.
    pub fn new(
        policies: impl IntoIterator<Item = (DestinationId, Policy)>,
        floor: Sequence,
        next: Sequence,
        now: Timestamp,
    ) -> Self {
        let start_point = StartPoint { next, at: now };
        let queues = policies.into_iter().map(|(id, policy)| DestinationQueue::new(id, policy, floor, start_point));
        Self { queues: queues.collect(), first: 0, next }
    }

    /// Applies a new policy to a destination, or adds the destination with an empty queue. For a known destination the
    /// order of deliveries, and what its dead letters block, does not change.
    pub fn reconfigure(&mut self, d: DestinationId, policy: Policy, now: Timestamp) {
        let start_point = StartPoint { next: self.next, at: now };
        match self.queue_mut(d) {
            Some(queue) => queue.reconfigure(policy),
            None => self.queues.push(DestinationQueue::new(d, policy, start_point.next, start_point)),
        }
    }

    pub fn queue(&self, d: DestinationId) -> Option<&DestinationQueue> {
        self.queues.iter().find(|queue| queue.id == d)
    }

    pub fn queue_mut(&mut self, d: DestinationId) -> Option<&mut DestinationQueue> {
        self.queues.iter_mut().find(|queue| queue.id == d)
    }

    pub fn queues(&self) -> impl Iterator<Item = (DestinationId, &DestinationQueue)> {
        self.queues.iter().map(|queue| (queue.id, queue))
    }

    /// Events up to `next` have been accepted.
    pub fn accepted(&mut self, tickets: &[Ticket], next: Sequence) {
        self.next = next;
        for queue in &mut self.queues {
            queue.accepted(tickets, next);
        }
    }

    /// A destination that needs deliveries from the store, and the sequence from which it needs them. It is not returned
    /// again before [`DestinationQueue::loaded`] was called.
    pub fn next_load(&mut self) -> Option<(DestinationId, Sequence)> {
        let next = self.next;
        self.queues.iter_mut().find_map(|queue| queue.next_load(next).map(|from| (queue.id, from)))
    }

    /// Starts the next delivery, otherwise returns when to ask again.
    pub fn poll(&mut self, now: Timestamp) -> Step {
        let mut wake: Option<Timestamp> = None;
        let n = self.queues.len();
        for i in 0..n {
            let at = (self.first + i) % n;
            match self.queues[at].poll(now) {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::Place;
    use crate::event::{DestinationSet, Digest64};

    #[test]
    fn destinations_take_turns() {
        let all = [0, 1, 2].map(DestinationId);
        let queues = all.map(|d| (d, Policy::default()));
        let mut scheduler = Scheduler::new(queues, Sequence(1), Sequence(1), Timestamp(1));
        for n in 1..=3 {
            let ticket = Ticket {
                sequence: Sequence(n),
                order_key: Digest64::NONE,
                received_at: Timestamp(n),
                time: None,
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
