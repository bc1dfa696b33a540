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
    pub fn delivered(&self, order_key: Digest64, sequence: Sequence, time: Option<Timestamp>, at: Timestamp) {
        if order_key.is_none() {
            return;
        }
        let Generations { young, old } = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = young.get(&order_key).copied().or_else(|| old.remove(&order_key)).map(|last| last.newest);
        if young.len() == REMEMBERED && !young.contains_key(&order_key) {
            *old = std::mem::take(young);
        }
        let newest = time.unwrap_or_default().max(before.unwrap_or_default());
        young.insert(order_key, Last { sequence, at, newest });
    }

    /// Nothing is known of the interaction any more.
    pub fn forget(&self, order_key: Digest64) {
        let Generations { young, old } = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        young.remove(&order_key);
        old.remove(&order_key);
    }

    pub fn last(&self, order_key: Digest64) -> Option<Last> {
        let generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        generations.young.get(&order_key).or_else(|| generations.old.get(&order_key)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deliver(sequences: &LastDelivered, order_key: u64, sequence: u64, time: Option<u64>) {
        sequences.delivered(Digest64(order_key), Sequence(sequence), time.map(Timestamp), Timestamp(sequence));
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
    fn the_last_delivered_interactions_are_kept_within_a_bound() {
        let sequences = LastDelivered::default();
        let order_keys = 3 * REMEMBERED as u64 + 1;
        for order_key in 1..=order_keys {
            deliver(&sequences, order_key, order_key, Some(order_key));
            deliver(&sequences, 1, order_key, Some(1));
        }
        let known = |order_key: u64| sequences.last(Digest64(order_key)).is_some();
        assert!(known(1), "it was delivered to all the time");
        assert!((order_keys - REMEMBERED as u64 + 1..=order_keys).all(known));
        assert!((1..=order_keys).filter(|order_key| known(*order_key)).count() <= 2 * REMEMBERED);
        assert!(!known(2));
    }
}
