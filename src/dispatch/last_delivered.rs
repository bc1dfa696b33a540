//! What of each interaction was delivered to a destination last, by which a stale event is known.
//!
//! *Invariants.* Of the [`REMEMBERED`] interactions that were delivered to last nothing is forgotten, and at most twice as
//! many are known: interactions lie in two generations, and the older one goes when the younger is full. One that is known
//! takes some 35 to 70 bytes.
//!
//! *Failure.* Of an interaction that is forgotten nothing is stale. After a start, that is one whose last delivery lies
//! before the last [`LOOKED_THROUGH`] settlements, or is no longer remembered by the store.

use crate::event::{Digest64, Sequence};
use crate::time::Timestamp;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

const REMEMBERED: usize = 100_000;
/// So many settlements, the newest, are looked through at a start.
pub(super) const LOOKED_THROUGH: u64 = 1_000_000;

/// The deliveries of an interaction so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last {
    /// Of the one that was delivered last.
    pub sequence: Sequence,
    /// When that was.
    pub at: Timestamp,
    /// The latest event time of all of them; zero where none has one.
    newest: Timestamp,
}

impl Last {
    /// The latest event time of what was delivered.
    pub fn newest(&self) -> Option<Timestamp> {
        Some(self.newest).filter(|time| *time > Timestamp::ZERO)
    }
}

#[derive(Debug, Default)]
pub struct LastDelivered(Mutex<Generations>);

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Digest64, Last>,
    old: HashMap<Digest64, Last>,
}

impl LastDelivered {
    /// Notes a delivery of an interaction. `time` is that of its event, if it has one.
    pub fn delivered(&self, lane: Digest64, sequence: Sequence, time: Option<Timestamp>, at: Timestamp) {
        if lane.is_none() {
            return;
        }
        let Generations { young, old } = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = young.get(&lane).copied().or_else(|| old.remove(&lane)).map(|last| last.newest);
        if young.len() == REMEMBERED && !young.contains_key(&lane) {
            *old = std::mem::take(young);
        }
        let newest = time.unwrap_or_default().max(before.unwrap_or_default());
        young.insert(lane, Last { sequence, at, newest });
    }

    /// Nothing is known of the interaction any more.
    pub fn forget(&self, lane: Digest64) {
        let Generations { young, old } = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        young.remove(&lane);
        old.remove(&lane);
    }

    pub fn last(&self, lane: Digest64) -> Option<Last> {
        let generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        generations.young.get(&lane).or_else(|| generations.old.get(&lane)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deliver(sequences: &LastDelivered, lane: u64, sequence: u64, time: Option<u64>) {
        sequences.delivered(Digest64(lane), Sequence(sequence), time.map(Timestamp), Timestamp(sequence));
    }

    #[test]
    fn the_newest_stays_the_newest() {
        let sequences = LastDelivered::default();
        let newest = || sequences.last(Digest64(7)).and_then(|last| last.newest());
        for (sequence, time, wanted) in
            [(1, None, None), (2, Some(20), Some(20)), (3, Some(10), Some(20)), (4, None, Some(20))]
        {
            deliver(&sequences, 7, sequence, time);
            assert_eq!(newest(), wanted.map(Timestamp), "{sequence}");
        }
        let last = sequences.last(Digest64(7)).unwrap();
        assert_eq!((last.sequence, last.at), (Sequence(4), Timestamp(4)));
        deliver(&sequences, 0, 5, Some(1));
        assert_eq!(sequences.last(Digest64::NONE), None, "events without an interaction have nothing in common");
    }

    #[test]
    fn the_interactions_that_were_delivered_to_last_are_known_and_the_others_are_bounded() {
        let sequences = LastDelivered::default();
        let lanes = 3 * REMEMBERED as u64 + 1;
        for lane in 1..=lanes {
            deliver(&sequences, lane, lane, Some(lane));
            deliver(&sequences, 1, lane, Some(1));
        }
        let known = |lane: u64| sequences.last(Digest64(lane)).is_some();
        assert!(known(1), "it was delivered to all the time");
        assert!((lanes - REMEMBERED as u64 + 1..=lanes).all(known));
        assert!((1..=lanes).filter(|lane| known(*lane)).count() <= 2 * REMEMBERED);
        assert!(!known(2));
    }
}
