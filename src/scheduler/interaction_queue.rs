//! A lane: the deliveries of one interaction for one destination, in order.
//!
//! *Invariants.* At most one delivery of a lane is in flight. The next one may start only when every earlier one is
//! delivered, discarded, or dead; where dead letters hold their interaction, none may lie before it. Earlier is what has the
//! lower rank, then what was accepted before. An event without a key has a lane of its own.

use super::policy::DeadLetters;
use crate::delivery::Blocker;
use crate::event::{Digest64, Sequence};
use crate::time::Timestamp;
use std::collections::{BTreeSet, VecDeque};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QueueKey {
    Interaction(Digest64),
    Alone(Sequence),
}

/// A delivery that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuedDelivery {
    pub sequence: Sequence,
    /// Zero where only acceptance gives the order, and for what was tried or redriven, which goes first.
    pub rank: Timestamp,
    /// The due time under which it lies in the delay tree; zero where it lies in a page.
    pub lies_under: Timestamp,
    pub not_before: Timestamp,
    pub received_at: Timestamp,
}

impl QueuedDelivery {
    fn order(&self) -> (Timestamp, Sequence) {
        (self.rank, self.sequence)
    }

    /// Whether it was never tried and lies where it was accepted.
    pub fn is_fresh(&self) -> bool {
        self.lies_under == Timestamp::ZERO
    }
}

/// What a lane can do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Its first delivery may start at or after this time.
    Head { sequence: Sequence, not_before: Timestamp },
    /// Nothing before something else happens.
    Blocked,
    /// It has nothing to say any more.
    Over,
}

/// What became of a dead letter of which the lane does not know yet: the news of the store can be faster than the landing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meanwhile {
    Redriven(QueuedDelivery),
    Purged,
}

#[derive(Debug, Default)]
pub struct InteractionQueue {
    /// In order.
    waiting: VecDeque<QueuedDelivery>,
    in_flight: Option<QueuedDelivery>,
    /// What was told of the delivery in flight.
    meanwhile: Option<Meanwhile>,
    /// Dead letters that hold the lane until they are redriven or purged.
    held_by: BTreeSet<Sequence>,
}

impl InteractionQueue {
    /// Takes a delivery in at its place; one that is there already is not taken twice.
    #[must_use]
    pub fn insert(&mut self, waiter: QueuedDelivery) -> bool {
        if self.flies(waiter.sequence) {
            return false;
        }
        match self.waiting.binary_search_by_key(&waiter.order(), QueuedDelivery::order) {
            Ok(_) => false,
            Err(at) => {
                self.waiting.insert(at, waiter);
                true
            }
        }
    }

    fn flies(&self, sequence: Sequence) -> bool {
        self.in_flight.is_some_and(|w| w.sequence == sequence)
    }

    pub fn turn(&self) -> Turn {
        let Some(head) = self.waiting.front() else {
            return if self.in_flight.is_none() && self.held_by.is_empty() { Turn::Over } else { Turn::Blocked };
        };
        let held = self.held_by.first().is_some_and(|dead| *dead < head.sequence);
        if held || self.in_flight.is_some() {
            return Turn::Blocked;
        }
        Turn::Head { sequence: head.sequence, not_before: head.not_before }
    }

    /// The first delivery goes into flight.
    pub fn start(&mut self) -> Option<QueuedDelivery> {
        debug_assert!(self.in_flight.is_none(), "one in flight");
        self.in_flight = self.waiting.pop_front();
        self.in_flight
    }

    /// The delivery in flight has landed; none where it was not this one.
    pub fn land(&mut self, sequence: Sequence) -> Option<QueuedDelivery> {
        self.in_flight.take_if(|w| w.sequence == sequence)
    }

    /// A delivery that has landed is dead, unless it was redriven or purged already.
    pub fn died(&mut self, dead: Sequence, dead_letters: DeadLetters) {
        match self.meanwhile.take() {
            Some(Meanwhile::Redriven(waiter)) => {
                let _first = self.insert(waiter);
            }
            Some(Meanwhile::Purged) => {}
            None if dead_letters == DeadLetters::Hold => self.hold(dead),
            None => {}
        }
    }

    pub fn hold(&mut self, dead: Sequence) {
        self.held_by.insert(dead);
    }

    /// A dead letter waits again.
    pub fn redriven(&mut self, waiter: QueuedDelivery) {
        if self.flies(waiter.sequence) {
            self.meanwhile = Some(Meanwhile::Redriven(waiter));
            return;
        }
        self.held_by.remove(&waiter.sequence);
        let _first = self.insert(waiter);
    }

    /// Whether it waits for what becomes of this one.
    pub fn hangs_on(&self, dead: Sequence) -> bool {
        self.held_by.contains(&dead) || self.flies(dead)
    }

    /// The delivery in flight waits again, unless it was discarded meanwhile.
    pub fn back(&mut self, waiter: QueuedDelivery) {
        if self.meanwhile.take() != Some(Meanwhile::Purged) {
            let _first = self.insert(waiter);
        }
    }

    /// The delivery in flight has come to its end; what was told of it meanwhile means nothing more.
    pub fn ended(&mut self) {
        self.meanwhile = None;
    }

    /// A delivery that waits for its time may go now; where it lies does not change.
    pub fn hastened(&mut self, sequence: Sequence) {
        if let Some(waiter) = self.waiting.iter_mut().find(|w| w.sequence == sequence) {
            waiter.not_before = Timestamp::ZERO;
        }
    }

    /// A dead letter, or a delivery that waits, is gone for good.
    pub fn purged(&mut self, gone: Sequence) {
        if self.flies(gone) {
            self.meanwhile = Some(Meanwhile::Purged);
        }
        self.waiting.retain(|w| w.sequence != gone);
        self.held_by.remove(&gone);
    }

    pub fn in_flight(&self) -> Option<&QueuedDelivery> {
        self.in_flight.as_ref()
    }

    pub fn waiting(&self) -> &VecDeque<QueuedDelivery> {
        &self.waiting
    }

    /// One that waits.
    pub fn find(&self, sequence: Sequence) -> Option<&QueuedDelivery> {
        // the last has the highest rank: where that is none, the order is that of acceptance
        if self.waiting.back().is_none_or(|last| last.rank == Timestamp::ZERO) {
            return self.waiting.get(self.waiting.binary_search_by_key(&sequence, |w| w.sequence).ok()?);
        }
        self.waiting.iter().find(|w| w.sequence == sequence)
    }

    /// Its first delivery, where nothing is in flight and that one waits for a time or a dead letter.
    pub fn stalled(&self) -> Option<Sequence> {
        let head = self.waiting.front().filter(|_| self.in_flight.is_none())?;
        let ready = matches!(self.turn(), Turn::Head { not_before: Timestamp::ZERO, .. });
        (!ready).then_some(head.sequence)
    }

    /// Its first delivery and how many wait, where that one waits for what becomes of a dead letter.
    pub fn dammed(&self) -> Option<(Sequence, usize)> {
        let (head, dead) = (self.waiting.front()?, self.held_by.first()?);
        (*dead < head.sequence).then_some((head.sequence, self.waiting.len()))
    }

    /// Dead letters that hold the lane.
    pub fn held_by(&self) -> &BTreeSet<Sequence> {
        &self.held_by
    }

    /// What this delivery waits for: one that goes before it and has not ended.
    pub fn ahead_of(&self, sequence: Sequence) -> Option<(Blocker, Sequence)> {
        let waits = self.find(sequence).is_some();
        // one that is not here yet comes behind those of before it, and behind no other
        let goes_before = |s: &Sequence| *s != sequence && (waits || *s < sequence);
        let first = self.waiting.front().map(|w| w.sequence).filter(goes_before);
        let dead = self.held_by.first().copied().filter(|dead| *dead < sequence);
        let in_flight = self.in_flight.map(|w| w.sequence).filter(goes_before);
        let living = in_flight.into_iter().chain(first).map(|s| (Blocker::Order, s));
        living.chain(dead.map(|s| (Blocker::DeadLetter, s))).min_by_key(|(_, s)| *s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiter(sequence: u64, not_before: u64) -> QueuedDelivery {
        QueuedDelivery {
            sequence: Sequence(sequence),
            rank: Timestamp::ZERO,
            lies_under: Timestamp(not_before),
            not_before: Timestamp(not_before),
            received_at: Timestamp(0),
        }
    }

    fn head(sequence: u64, not_before: u64) -> Turn {
        Turn::Head { sequence: Sequence(sequence), not_before: Timestamp(not_before) }
    }

    #[test]
    fn events_go_one_by_one_and_a_redriven_one_first() {
        let mut lane = InteractionQueue::default();
        assert_eq!(lane.turn(), Turn::Over);
        assert!(lane.insert(waiter(5, 0)) && lane.insert(waiter(7, 0)) && !lane.insert(waiter(7, 0)));
        assert_eq!(lane.start().unwrap().sequence, Sequence(5));
        assert_eq!(lane.turn(), Turn::Blocked);
        assert!(!lane.insert(waiter(5, 0)), "it is in flight");
        assert!(lane.insert(waiter(3, 9)), "redriven");
        assert_eq!(lane.ahead_of(Sequence(7)), Some((Blocker::Order, Sequence(3))));
        assert_eq!(
            lane.ahead_of(Sequence(3)),
            Some((Blocker::Order, Sequence(5))),
            "what is in flight comes to its end first"
        );
        assert_eq!(lane.land(Sequence(9)), None);
        assert!(lane.land(Sequence(5)).is_some());
        assert_eq!(lane.turn(), head(3, 9));
    }

    #[test]
    fn the_earlier_event_goes_first_until_one_was_tried() {
        let mut lane = InteractionQueue::default();
        let ranked = |sequence, rank| QueuedDelivery { rank: Timestamp(rank), ..waiter(sequence, 0) };
        assert!(lane.insert(ranked(5, 20)) && lane.insert(ranked(7, 10)) && lane.insert(ranked(8, 20)));
        assert!(!lane.insert(ranked(7, 10)));
        assert_eq!(lane.turn(), head(7, 0));
        let behind = |n| lane.ahead_of(Sequence(n)).map(|(_, ahead)| ahead.0);
        assert_eq!([5, 7, 8].map(behind), [Some(7), None, Some(7)]);
        let started = lane.start().unwrap();
        assert!(lane.insert(ranked(9, 5)));
        lane.land(Sequence(7));
        lane.back(QueuedDelivery { rank: Timestamp::ZERO, ..started });
        let order = [7, 9, 5, 8].map(Sequence);
        assert_eq!(
            std::iter::from_fn(|| {
                lane.start()?;
                lane.in_flight.take()
            })
            .map(|w| w.sequence)
            .collect::<Vec<_>>(),
            order
        );
    }

    #[test]
    fn a_dead_letter_blocks_only_later_events() {
        let mut lane = InteractionQueue::default();
        lane.hold(Sequence(4));
        assert!(lane.insert(waiter(6, 0)));
        assert_eq!(lane.turn(), Turn::Blocked);
        assert_eq!(
            [4, 6].map(|n| lane.ahead_of(Sequence(n))),
            [None, Some((Blocker::DeadLetter, Sequence(4)))],
            "none waits for itself"
        );
        assert_eq!(lane.held_by(), &BTreeSet::from([Sequence(4)]));
        assert!(lane.insert(waiter(2, 0)));
        assert_eq!(lane.turn(), head(2, 0));
        lane.start();
        lane.land(Sequence(2));
        lane.purged(Sequence(4));
        assert_eq!(lane.turn(), head(6, 0));
        lane.start();
        lane.land(Sequence(6));
        assert_eq!(lane.turn(), Turn::Over);
    }

    #[test]
    fn a_discarded_delivery_does_not_come_back() {
        let mut lane = InteractionQueue::default();
        assert!(lane.insert(waiter(5, 9)) && lane.insert(waiter(7, 9)) && lane.insert(waiter(8, 0)));
        lane.purged(Sequence(7));
        lane.hastened(Sequence(5));
        assert_eq!(lane.turn(), head(5, 0));
        let started = lane.start().unwrap();
        assert_eq!(started.lies_under, Timestamp(9), "it lies where it lay");
        lane.purged(Sequence(5));
        lane.land(Sequence(5));
        lane.back(started);
        assert_eq!(lane.turn(), head(8, 0));
        let started = lane.start().unwrap();
        lane.land(Sequence(8));
        lane.back(started);
        assert_eq!(lane.turn(), head(8, 0), "the next one is not meant");
    }

    #[test]
    fn a_dead_letter_can_be_redriven_before_its_commit_is_reported() {
        for (redriven, turn) in [(true, head(5, 0)), (false, head(7, 0))] {
            let mut lane = InteractionQueue::default();
            assert!(lane.insert(waiter(5, 0)) && lane.insert(waiter(7, 0)));
            lane.start();
            if redriven {
                lane.redriven(waiter(5, 0))
            } else {
                lane.purged(Sequence(5))
            }
            assert_eq!(lane.turn(), Turn::Blocked);
            assert!(lane.land(Sequence(5)).is_some());
            lane.died(Sequence(5), DeadLetters::Hold);
            assert_eq!(lane.turn(), turn);
        }
    }
}
