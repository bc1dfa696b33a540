//! The delivery ids in the delay tree with their due times, in memory, by sequence.
//!
//! *Invariants.* The transaction updates it with every commit. Deliveries that were delayed before the start are added while
//! the scheduler reads them; those that were removed meanwhile are not added. It takes about 50 bytes per delivery.

use super::shares::{Shares, SourceBytes};
use crate::delivery::DeliveryId;
use crate::time::Timestamp;
use std::collections::{BTreeMap, HashSet};

/// Due time and size of a delivery; the size is zero until its record has been read.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    pub at: Timestamp,
    part: SourceBytes,
}

#[derive(Debug)]
pub struct DelayIndex {
    pub known: BTreeMap<DeliveryId, Due>,
    shares: Shares,
    /// Deliveries removed since the start; `None` when all from before the start are known.
    left: Option<HashSet<(DeliveryId, Timestamp)>>,
}

impl Default for DelayIndex {
    fn default() -> Self {
        Self { known: BTreeMap::new(), shares: Shares::default(), left: Some(HashSet::new()) }
    }
}

impl DelayIndex {
    pub fn insert(&mut self, id: DeliveryId, at: Timestamp, part: SourceBytes) {
        self.shares.add(part);
        if let Some(old) = self.known.insert(id, Due { at, part }) {
            self.shares.remove(old.part);
        }
    }

    /// Sets the size of a delivery that was added without it.
    pub fn weigh(&mut self, id: DeliveryId, part: SourceBytes) {
        if let Some(due) = self.known.get_mut(&id).filter(|due| due.part == SourceBytes::default()) {
            due.part = part;
            self.shares.add(part);
        }
    }

    /// Bytes of all deliveries that have been read, by source.
    pub fn shares(&self) -> &Shares {
        &self.shares
    }

    pub fn remove(&mut self, id: DeliveryId, due: Timestamp) {
        if self.known.get(&id).is_some_and(|known| known.at == due)
            && let Some(gone) = self.known.remove(&id)
        {
            self.shares.remove(gone.part);
        }
        if let Some(left) = &mut self.left {
            left.insert((id, due));
        }
    }

    /// Adds a delivery from before the start.
    pub fn found(&mut self, id: DeliveryId, due: Timestamp) {
        if self.left.as_ref().is_some_and(|left| !left.contains(&(id, due))) {
            self.known.entry(id).or_insert_with(|| Due { at: due, part: SourceBytes::default() });
        }
    }

    /// Marks all deliveries from before the start as known.
    pub fn complete(&mut self) {
        self.left = None;
    }

    /// All deliveries; `None` until all from before the start are known.
    pub fn all(&self) -> Option<&BTreeMap<DeliveryId, Due>> {
        self.left.is_none().then_some(&self.known)
    }
}
