//! Where the deliveries and interactions of a line stand, for whoever asks.
//!
//! *Invariants.* What has left the line is never told as if it waited: it would seem to wait behind those that came after.

use super::DestinationQueue;
use crate::delivery::{Blocked, Blocker};
use crate::event::{Digest64, Sequence};
use crate::scheduler::blocked_by_dead_letters::BlockedSummary;
use crate::scheduler::interaction_queue::QueueKey;
use crate::scheduler::policy::Ordered;
use crate::time::Timestamp;

/// Where a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryStatus {
    /// Its turn comes when the destination's does.
    Queued,
    /// Its attempt began then.
    InFlight { since: Timestamp },
    /// It was here, and has just moved on: where it lies is to be looked up again.
    Moved,
    /// It cannot go for a reason of its own: its next attempt is not due, or one of its interaction goes first.
    Blocked(Blocked),
}

/// How an interaction stands with a destination, as far as it has been read ahead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interaction {
    /// Where they are not, each event is a lane of its own, and nothing is told of the interaction.
    pub ordered: Ordered,
    pub in_flight: Option<Sequence>,
    /// The first of those that wait, in their order.
    pub waiting: Vec<Sequence>,
    pub waiting_count: usize,
    /// Dead letters that hold the others back.
    pub held_by: Vec<Sequence>,
}

impl DeliveryStatus {
    /// When its next attempt is due, where it waits for that.
    pub fn retry_at(self) -> Option<Timestamp> {
        match self {
            Self::Blocked(Blocked { by: Blocker::RetryBackoff, until, .. }) => until,
            _ => None,
        }
    }

    /// The event of its interaction that must end first.
    pub fn behind(self) -> Option<Sequence> {
        match self {
            Self::Blocked(blocked) => blocked.behind,
            _ => None,
        }
    }
}

impl DestinationQueue {
    pub fn standing(&self, lane: Digest64, sequence: Sequence, now: Timestamp) -> DeliveryStatus {
        let key = self.key(lane, sequence);
        if let Some(since) = self.flying.get(&(sequence, key)) {
            return DeliveryStatus::InFlight { since: *since };
        }
        let lane = self.lanes.get(&key);
        let waits = lane.and_then(|lane| lane.find(sequence));
        if waits.is_none() && sequence < self.cursor {
            return DeliveryStatus::Moved;
        }
        if let Some((by, behind)) = lane.and_then(|lane| lane.ahead_of(sequence)) {
            return DeliveryStatus::Blocked(Blocked::behind(by, behind));
        }
        match waits {
            Some(w) if w.not_before > now => {
                let by = if w.is_fresh() { Blocker::Order } else { Blocker::RetryBackoff };
                DeliveryStatus::Blocked(Blocked::until(by, Some(w.not_before)))
            }
            _ => DeliveryStatus::Queued,
        }
    }

    /// What waits behind dead letters, of the known deliveries.
    pub fn behind_dead_letters(&self) -> BlockedSummary {
        let oldest = self.dammed.first().and_then(|key| self.lanes.get(&key)).and_then(|lane| lane.waiting().front());
        BlockedSummary { oldest: oldest.map(|w| w.received_at), ..self.dammed.sums() }
    }

    /// How an interaction stands, with at most `waiting_max` of those that wait.
    pub fn interaction(&self, lane: Digest64, waiting_max: usize) -> Interaction {
        let ordered = self.policy.ordered;
        let Some(lane) = self.lanes.get(&QueueKey::Interaction(lane)) else {
            return Interaction { ordered, ..Interaction::default() };
        };
        let waiting = lane.waiting();
        Interaction {
            ordered,
            in_flight: lane.in_flight().map(|w| w.sequence),
            waiting: waiting.iter().take(waiting_max).map(|w| w.sequence).collect(),
            waiting_count: waiting.len(),
            held_by: lane.held_by().iter().copied().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::{Place, Ticket};
    use crate::event::{DestinationId, DestinationSet};
    use crate::scheduler::{DeadLetters, Disposition, Policy, Scheduler, Step};

    const D: DestinationId = DestinationId(0);

    fn ticket(sequence: u64, interaction: &str) -> Ticket {
        Ticket {
            sequence: Sequence(sequence),
            order_key: Digest64::of_interaction(interaction),
            received_at: Timestamp(sequence),
            time: Timestamp::ZERO,
            to: DestinationSet::EMPTY.with(D),
            place: Place::Page,
        }
    }

    fn scheduler(policy: Policy, tickets: &[Ticket]) -> Scheduler {
        let mut scheduler = Scheduler::new([(D, policy)], Sequence(1), Sequence(1), Timestamp(1));
        for ticket in tickets {
            scheduler.accepted(std::slice::from_ref(ticket), Sequence(ticket.sequence.0 + 1));
        }
        scheduler
    }

    fn dies(scheduler: &mut Scheduler, now: Timestamp) {
        let Step::Start(start) = scheduler.poll(now) else { panic!("nothing starts") };
        assert_eq!(scheduler.landed(&start, Disposition::Dead, None, now), None);
    }

    #[test]
    fn a_dead_letter_does_not_wait_behind_a_later_event() {
        let mut scheduler = scheduler(Policy::default(), &[ticket(1, "k"), ticket(2, "k"), ticket(3, "k")]);
        let now = Timestamp(10);
        let standing = |scheduler: &Scheduler, n: u64| {
            scheduler.line(D).map(|line| line.standing(Digest64::of_interaction("k"), Sequence(n), now))
        };
        dies(&mut scheduler, now);
        assert_eq!(standing(&scheduler, 1), Some(DeliveryStatus::Moved));
        let later = Timestamp(12);
        assert!(matches!(scheduler.poll(later), Step::Start(start) if start.sequence == Sequence(2)));
        assert_eq!(
            [1, 2, 3, 4].map(|n| standing(&scheduler, n)),
            [
                Some(DeliveryStatus::Moved),
                Some(DeliveryStatus::InFlight { since: later }),
                Some(DeliveryStatus::Blocked(Blocked::behind(Blocker::Order, Sequence(2)))),
                Some(DeliveryStatus::Blocked(Blocked::behind(Blocker::Order, Sequence(2)))),
            ]
        );
    }

    #[test]
    fn deliveries_behind_dead_letters_are_counted_with_the_oldest_age() {
        let policy = Policy { dead_letters: DeadLetters::Hold, ..Policy::default() };
        let of = [ticket(1, "a"), ticket(2, "a"), ticket(3, "b"), ticket(4, "b"), ticket(5, "b"), ticket(6, "c")];
        let mut scheduler = scheduler(policy, &of);
        let now = Timestamp(10);
        let behind = |scheduler: &Scheduler| {
            let behind = scheduler.line(D).map(DestinationQueue::behind_dead_letters).unwrap_or_default();
            (behind.interactions, behind.deliveries, behind.oldest.map(|at| at.0))
        };
        assert_eq!(behind(&scheduler), (0, 0, None));
        for seen in [(1, 1, Some(2)), (2, 3, Some(2)), (2, 3, Some(2))] {
            dies(&mut scheduler, now);
            assert_eq!(behind(&scheduler), seen);
        }
        assert_eq!(scheduler.poll(now), Step::Wait(None), "all the rest is held");
        scheduler.purged(D, Digest64::of_interaction("a"), Sequence(1));
        assert_eq!(behind(&scheduler), (1, 2, Some(4)));
        scheduler.waits(D, &Ticket { place: Place::Delay(now), ..ticket(3, "b") }, now);
        assert_eq!(behind(&scheduler), (0, 0, None), "a redriven one goes first");
    }
}
