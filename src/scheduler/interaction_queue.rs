//! The queue of one interaction: its deliveries to one destination, in order.
//!
//! *Invariants.* At most one delivery of an interaction is in flight. The next one may start only when every earlier one
//! is delivered, discarded or dead; if dead letters block their interaction, no dead letter may precede it. Deliveries
//! are ordered by rank, then by acceptance. An event without an interaction key has its own queue.

use crate::delivery::{Blocker, Place};
use crate::event::{Digest64, Sequence};
use crate::time::Timestamp;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// Identifies a queue of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QueueKey {
    Interaction(Digest64),
    Alone(Sequence),
}

/// Whether the deliveries of an interaction continue after a dead letter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeadLetters {
    #[default]
    Continue,
    Hold,
}

/// A waiting delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuedDelivery {
    pub sequence: Sequence,
    /// The event time within the reorder window. Zero, which sorts first, without a reorder window and for deliveries
    /// that were attempted or redriven.
    pub rank: Timestamp,
    pub place: Place,
    /// Zero: it may start immediately.
    pub not_before: Timestamp,
    pub received_at: Timestamp,
}

impl QueuedDelivery {
    fn order(&self) -> (Timestamp, Sequence) {
        (self.rank, self.sequence)
    }

    pub fn is_untried(&self) -> bool {
        self.place == Place::Page
    }
}

/// What an interaction can do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Its first delivery may start at or after this time.
    Head { sequence: Sequence, not_before: Timestamp },
    /// Its first delivery waits for another event, or no delivery waits.
    Blocked,
    /// The queue is empty and can be removed.
    Empty,
}

/// A change to the delivery in flight that arrived before the result of its attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EarlyChange {
    Redriven(QueuedDelivery),
    Discarded,
}

#[derive(Debug, Default)]
pub struct InteractionQueue {
    /// In order.
    waiting: VecDeque<QueuedDelivery>,
    in_flight: Option<QueuedDelivery>,
    early_change: Option<EarlyChange>,
    /// Dead letters that block the deliveries after them until they are redriven or discarded.
    dead_letters: BTreeSet<Sequence>,
}

impl InteractionQueue {
    /// Inserts a delivery at its position; false if it is already waiting or in flight.
    pub fn insert(&mut self, delivery: QueuedDelivery) -> bool {
        if self.is_in_flight(delivery.sequence) {
            return false;
        }
        match self.waiting.binary_search_by_key(&delivery.order(), QueuedDelivery::order) {
            Ok(_) => false,
            Err(at) => {
                self.waiting.insert(at, delivery);
                true
            }
        }
    }

    fn is_in_flight(&self, sequence: Sequence) -> bool {
        self.in_flight.is_some_and(|d| d.sequence == sequence)
    }

    pub fn next(&self) -> Next {
        match self.waiting.front() {
            None if self.in_flight.is_none() && self.dead_letters.is_empty() => Next::Empty,
            Some(head) if self.in_flight.is_none() && self.blocked_by_dead_letter().is_none() => {
                Next::Head { sequence: head.sequence, not_before: head.not_before }
            }
            _ => Next::Blocked,
        }
    }

    /// Moves the first delivery into flight.
    pub fn start(&mut self) -> Option<QueuedDelivery> {
        debug_assert!(self.in_flight.is_none(), "one in flight");
        self.in_flight = self.waiting.pop_front();
        self.in_flight
    }

    /// Removes the delivery from flight; none where another one or none is in flight.
    pub fn take_in_flight(&mut self, sequence: Sequence) -> Option<QueuedDelivery> {
        self.in_flight.take_if(|d| d.sequence == sequence)
    }

    /// The delivery removed from flight is delivered or discarded.
    pub fn ended(&mut self) {
        self.early_change = None;
    }

    /// The delivery removed from flight waits again, unless it was discarded meanwhile.
    pub fn put_back(&mut self, delivery: QueuedDelivery) {
        if self.early_change.take() != Some(EarlyChange::Discarded) {
            let _first = self.insert(delivery);
        }
    }

    /// The delivery removed from flight is a dead letter, unless it was redriven or discarded meanwhile.
    pub fn died(&mut self, dead: Sequence, dead_letters: DeadLetters) {
        match self.early_change.take() {
            Some(EarlyChange::Redriven(delivery)) => {
                let _first = self.insert(delivery);
            }
            Some(EarlyChange::Discarded) => {}
            None if dead_letters == DeadLetters::Hold => self.block_by(dead),
            None => {}
        }
    }

    /// A dead letter blocks the deliveries after it.
    pub fn block_by(&mut self, dead: Sequence) {
        self.dead_letters.insert(dead);
    }

    /// A dead letter waits again.
    pub fn redriven(&mut self, delivery: QueuedDelivery) {
        if self.is_in_flight(delivery.sequence) {
            self.early_change = Some(EarlyChange::Redriven(delivery));
            return;
        }
        self.dead_letters.remove(&delivery.sequence);
        let _first = self.insert(delivery);
    }

    /// A waiting delivery may start immediately; its place in the store does not change.
    pub fn retry_now(&mut self, sequence: Sequence) {
        if let Some(delivery) = self.waiting.iter_mut().find(|d| d.sequence == sequence) {
            delivery.not_before = Timestamp::ZERO;
        }
    }

    /// A dead letter or a waiting delivery is discarded.
    pub fn discarded(&mut self, sequence: Sequence) {
        if self.is_in_flight(sequence) {
            self.early_change = Some(EarlyChange::Discarded);
        }
        self.waiting.retain(|d| d.sequence != sequence);
        self.dead_letters.remove(&sequence);
    }

    /// Whether this delivery is in flight, or is a dead letter that blocks others.
    pub fn depends_on(&self, sequence: Sequence) -> bool {
        self.dead_letters.contains(&sequence) || self.is_in_flight(sequence)
    }

    pub fn in_flight(&self) -> Option<&QueuedDelivery> {
        self.in_flight.as_ref()
    }

    pub fn waiting(&self) -> &VecDeque<QueuedDelivery> {
        &self.waiting
    }

    /// Dead letters that block deliveries after them.
    pub fn dead_letters(&self) -> &BTreeSet<Sequence> {
        &self.dead_letters
    }

    /// Finds a waiting delivery.
    pub fn find(&self, sequence: Sequence) -> Option<&QueuedDelivery> {
        // the last one has the highest rank: if that is zero, the queue is in order of acceptance
        if self.waiting.back().is_none_or(|last| last.rank == Timestamp::ZERO) {
            return self.waiting.get(self.waiting.binary_search_by_key(&sequence, |d| d.sequence).ok()?);
        }
        self.waiting.iter().find(|d| d.sequence == sequence)
    }

    /// The first delivery, if none is in flight and it waits for a time or a dead letter.
    pub fn head_waiting(&self) -> Option<Sequence> {
        let head = self.waiting.front().filter(|_| self.in_flight.is_none())?;
        let ready = matches!(self.next(), Next::Head { not_before: Timestamp::ZERO, .. });
        (!ready).then_some(head.sequence)
    }

    /// The first delivery and the number of waiting ones, if a dead letter precedes it.
    pub fn blocked_by_dead_letter(&self) -> Option<(Sequence, usize)> {
        let (head, dead) = (self.waiting.front()?, self.dead_letters.first()?);
        (*dead < head.sequence).then_some((head.sequence, self.waiting.len()))
    }

    /// The event that must end before this delivery can start.
    pub fn blocked_behind(&self, sequence: Sequence) -> Option<(Blocker, Sequence)> {
        let waits = self.find(sequence).is_some();
        // one that is not in the queue follows only those accepted before it
        let goes_before = |s: &Sequence| *s != sequence && (waits || *s < sequence);
        let first = self.waiting.front().map(|d| d.sequence).filter(goes_before);
        let in_flight = self.in_flight.map(|d| d.sequence).filter(goes_before);
        let order = in_flight.into_iter().chain(first).map(|s| (Blocker::Order, s));
        let dead = self.dead_letters.first().copied().filter(|dead| *dead < sequence);
        order.chain(dead.map(|s| (Blocker::DeadLetter, s))).min_by_key(|(_, s)| *s)
    }
}

/// The rank of an event within a reorder window: its event time, if that is known and within the window before
/// acceptance.
///
/// An event starts when the window has passed since its event time. All events that happened before it and were accepted
/// until then start before it. No later arrival can precede it, since the rank is never more than the window before
/// acceptance.
pub fn rank(window: Duration, received_at: Timestamp, time: Option<Timestamp>) -> Timestamp {
    time.unwrap_or(received_at).clamp(received_at.before(window), received_at)
}

/// When no other event can precede an event of this rank any more.
pub fn opens_at(window: Duration, rank: Timestamp) -> Timestamp {
    rank.after(window)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queued(sequence: u64, not_before: u64) -> QueuedDelivery {
        QueuedDelivery {
            sequence: Sequence(sequence),
            rank: Timestamp::ZERO,
            place: Place::under(Timestamp(not_before)),
            not_before: Timestamp(not_before),
            received_at: Timestamp(0),
        }
    }

    fn head(sequence: u64, not_before: u64) -> Next {
        Next::Head { sequence: Sequence(sequence), not_before: Timestamp(not_before) }
    }

    #[test]
    fn deliveries_go_one_after_the_other_and_a_redriven_one_first() {
        let mut queue = InteractionQueue::default();
        assert_eq!(queue.next(), Next::Empty);
        assert!(queue.insert(queued(5, 0)) && queue.insert(queued(7, 0)) && !queue.insert(queued(7, 0)));
        assert_eq!(queue.start().unwrap().sequence, Sequence(5));
        assert_eq!(queue.next(), Next::Blocked);
        assert!(!queue.insert(queued(5, 0)), "it is in flight");
        assert!(queue.insert(queued(3, 9)), "redriven");
        assert_eq!(queue.blocked_behind(Sequence(7)), Some((Blocker::Order, Sequence(3))));
        assert_eq!(
            queue.blocked_behind(Sequence(3)),
            Some((Blocker::Order, Sequence(5))),
            "what is in flight comes to its end first"
        );
        assert_eq!(queue.take_in_flight(Sequence(9)), None);
        assert!(queue.take_in_flight(Sequence(5)).is_some());
        assert_eq!(queue.next(), head(3, 9));
    }

    #[test]
    fn the_earlier_event_goes_first_until_one_was_tried() {
        let mut queue = InteractionQueue::default();
        let ranked = |sequence, rank| QueuedDelivery { rank: Timestamp(rank), ..queued(sequence, 0) };
        assert!(queue.insert(ranked(5, 20)) && queue.insert(ranked(7, 10)) && queue.insert(ranked(8, 20)));
        assert!(!queue.insert(ranked(7, 10)));
        assert_eq!(queue.next(), head(7, 0));
        let behind = |n| queue.blocked_behind(Sequence(n)).map(|(_, ahead)| ahead.0);
        assert_eq!([5, 7, 8].map(behind), [Some(7), None, Some(7)]);
        let started = queue.start().unwrap();
        assert!(queue.insert(ranked(9, 5)));
        queue.take_in_flight(Sequence(7));
        queue.put_back(QueuedDelivery { rank: Timestamp::ZERO, ..started });
        let order = [7, 9, 5, 8].map(Sequence);
        assert_eq!(
            std::iter::from_fn(|| {
                queue.start()?;
                queue.in_flight.take()
            })
            .map(|w| w.sequence)
            .collect::<Vec<_>>(),
            order
        );
    }

    #[test]
    fn a_dead_letter_blocks_only_what_comes_after_it() {
        let mut queue = InteractionQueue::default();
        queue.block_by(Sequence(4));
        assert!(queue.insert(queued(6, 0)));
        assert_eq!(queue.next(), Next::Blocked);
        assert_eq!(
            [4, 6].map(|n| queue.blocked_behind(Sequence(n))),
            [None, Some((Blocker::DeadLetter, Sequence(4)))],
            "none waits for itself"
        );
        assert_eq!(queue.dead_letters(), &BTreeSet::from([Sequence(4)]));
        assert!(queue.insert(queued(2, 0)));
        assert_eq!(queue.next(), head(2, 0));
        queue.start();
        queue.take_in_flight(Sequence(2));
        queue.discarded(Sequence(4));
        assert_eq!(queue.next(), head(6, 0));
        queue.start();
        queue.take_in_flight(Sequence(6));
        assert_eq!(queue.next(), Next::Empty);
    }

    #[test]
    fn a_discarded_delivery_does_not_come_back() {
        let mut queue = InteractionQueue::default();
        assert!(queue.insert(queued(5, 9)) && queue.insert(queued(7, 9)) && queue.insert(queued(8, 0)));
        queue.discarded(Sequence(7));
        queue.retry_now(Sequence(5));
        assert_eq!(queue.next(), head(5, 0));
        let started = queue.start().unwrap();
        assert_eq!(started.place, Place::Delay(Timestamp(9)), "it is where it was");
        queue.discarded(Sequence(5));
        queue.take_in_flight(Sequence(5));
        queue.put_back(started);
        assert_eq!(queue.next(), head(8, 0));
        let started = queue.start().unwrap();
        queue.take_in_flight(Sequence(8));
        queue.put_back(started);
        assert_eq!(queue.next(), head(8, 0), "the next one is not meant");
    }

    #[test]
    fn a_dead_letter_is_redriven_or_discarded_before_its_attempt_ends() {
        for (redriven, next) in [(true, head(5, 0)), (false, head(7, 0))] {
            let mut queue = InteractionQueue::default();
            assert!(queue.insert(queued(5, 0)) && queue.insert(queued(7, 0)));
            queue.start();
            if redriven {
                queue.redriven(queued(5, 0))
            } else {
                queue.discarded(Sequence(5))
            }
            assert_eq!(queue.next(), Next::Blocked);
            assert!(queue.take_in_flight(Sequence(5)).is_some());
            queue.died(Sequence(5), DeadLetters::Hold);
            assert_eq!(queue.next(), next);
        }
    }

    #[test]
    fn an_event_counts_from_when_it_happened_within_the_window() {
        let window = Duration::from_millis(100);
        for (time, wanted) in [(None, 1000), (Some(1001), 1000), (Some(1000), 1000), (Some(950), 950), (Some(5), 900)] {
            assert_eq!(rank(window, Timestamp(1000), time.map(Timestamp)), Timestamp(wanted), "{time:?}");
        }
    }

    #[test]
    fn a_later_arrival_does_not_overtake_a_started_event() {
        let window = Duration::from_millis(100);
        for time in 850..=1000 {
            let first = rank(window, Timestamp(1000), Some(Timestamp(time)));
            let open = opens_at(window, first);
            assert!(open >= Timestamp(1000) && open <= Timestamp(1100));
            assert!(rank(window, open, Some(Timestamp(1))) >= first);
        }
    }
}
