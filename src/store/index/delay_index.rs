//! Which deliveries lie in the delay tree, and under which due times: in memory, by sequence.
//!
//! *Invariants.* The ledger keeps it in step with every commit. What lay there before the start is added while it is read
//! for the scheduler; what has left meanwhile is not added any more. About 50 bytes a delivery.

use super::shares::{Shares, SourceBytes};
use crate::delivery::DeliveryId;
use crate::time::Timestamp;
use std::collections::{BTreeMap, HashSet};

/// When a delivery is due, and what it takes; nothing as long as that was not read.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    pub at: Timestamp,
    part: SourceBytes,
}

#[derive(Debug)]
pub struct DelayIndex {
    pub known: BTreeMap<DeliveryId, Due>,
    shares: Shares,
    /// What has left since the start; none once everything of before is known.
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

    /// What one takes that was found without being read.
    pub fn weigh(&mut self, id: DeliveryId, part: SourceBytes) {
        if let Some(due) = self.known.get_mut(&id).filter(|due| due.part == SourceBytes::default()) {
            due.part = part;
            self.shares.add(part);
        }
    }

    /// Bytes of all of them that were read, by source.
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

    /// One that lay there before the start.
    pub fn found(&mut self, id: DeliveryId, due: Timestamp) {
        if self.left.as_ref().is_some_and(|left| !left.contains(&(id, due))) {
            self.known.entry(id).or_insert_with(|| Due { at: due, part: SourceBytes::default() });
        }
    }

    /// Everything that lay there before the start has been found.
    pub fn complete(&mut self) {
        self.left = None;
    }

    /// All of them, once they are all known.
    pub fn all(&self) -> Option<&BTreeMap<DeliveryId, Due>> {
        self.left.is_none().then_some(&self.known)
    }
}
