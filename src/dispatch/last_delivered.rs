//! The last delivery of each interaction to a destination, from which stale events are recognised.
//!
//! *Invariants.* At least the [`INTERACTIONS_KEPT`] interactions with the latest deliveries are kept, and at most twice
//! as many: in two generations, the older of which is dropped when the younger is full. Each takes 45 to 95 bytes.
//!
//! *Failure.* No event of an interaction that is not kept is stale. After a start, those are the interactions whose last
//! delivery is older than the last [`SETTLEMENTS_READ`] settlements, or is no longer in the store.

use crate::event::{Digest64, Sequence};
use crate::time::Timestamp;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

const INTERACTIONS_KEPT: usize = 100_000;
/// How many of the latest settlements are read at a start.
pub(super) const SETTLEMENTS_READ: u64 = 1_000_000;

/// The last delivery of an interaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last {
    pub sequence: Sequence,
    /// When it was delivered.
    pub at: Timestamp,
    /// The latest event time of all deliveries of the interaction.
    pub newest: Option<Timestamp>,
}

#[derive(Debug, Default)]
pub struct LastDelivered(Mutex<Generations>);

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Digest64, Last>,
    old: HashMap<Digest64, Last>,
}

impl LastDelivered {
    /// Records a delivery; `time` is the event time.
    pub fn record(&self, order_key: Digest64, sequence: Sequence, time: Option<Timestamp>, at: Timestamp) {
        if order_key.is_none() {
            return;
        }
        let Generations { young, old } = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = young.get(&order_key).copied().or_else(|| old.remove(&order_key)).and_then(|last| last.newest);
        if young.len() == INTERACTIONS_KEPT && !young.contains_key(&order_key) {
            *old = std::mem::take(young);
        }
        let newest = time.max(before);
        young.insert(order_key, Last { sequence, at, newest });
    }

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

    fn deliver(last: &LastDelivered, order_key: u64, sequence: u64, time: Option<u64>) {
        last.record(Digest64(order_key), Sequence(sequence), time.map(Timestamp), Timestamp(sequence));
    }

    #[test]
    fn the_newest_event_time_is_kept() {
        let last = LastDelivered::default();
        let newest = || last.last(Digest64(7)).and_then(|last| last.newest);
        for (sequence, time, wanted) in
            [(1, None, None), (2, Some(20), Some(20)), (3, Some(10), Some(20)), (4, None, Some(20))]
        {
            deliver(&last, 7, sequence, time);
            assert_eq!(newest(), wanted.map(Timestamp), "{sequence}");
        }
        let delivery = last.last(Digest64(7)).unwrap();
        assert_eq!((delivery.sequence, delivery.at), (Sequence(4), Timestamp(4)));
        deliver(&last, 0, 5, Some(1));
        assert_eq!(last.last(Digest64::NONE), None, "events without an interaction are not related");
    }

    #[test]
    fn the_interactions_with_the_latest_deliveries_are_known() {
        let last = LastDelivered::default();
        let order_keys = 3 * INTERACTIONS_KEPT as u64 + 1;
        for order_key in 1..=order_keys {
            deliver(&last, order_key, order_key, Some(order_key));
            deliver(&last, 1, order_key, Some(1));
        }
        let known = |order_key: u64| last.last(Digest64(order_key)).is_some();
        assert!(known(1), "it has the latest deliveries");
        assert!((order_keys - INTERACTIONS_KEPT as u64 + 1..=order_keys).all(known));
        assert!((1..=order_keys).filter(|order_key| known(*order_key)).count() <= 2 * INTERACTIONS_KEPT);
        assert!(!known(2));
    }
}
