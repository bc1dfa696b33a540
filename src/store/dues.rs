//! Which deliveries lie in the delay tree, and under which due times: in memory, by sequence.
//!
//! *Invariants.* The ledger keeps it in step with every commit. What lay there before the start is added while it is read
//! for the scheduler; what has left meanwhile is not added any more. About 40 bytes a delivery.

use super::Store;
use crate::delivery::DeliveryId;
use crate::event::{DestinationId, Sequence};
use crate::time::Timestamp;
use std::collections::{BTreeMap, HashSet};

#[derive(Debug)]
pub struct Dues {
    known: BTreeMap<DeliveryId, Timestamp>,
    /// What has left since the start; none once everything of before is known.
    left: Option<HashSet<(DeliveryId, Timestamp)>>,
}

impl Default for Dues {
    fn default() -> Self {
        Self { known: BTreeMap::new(), left: Some(HashSet::new()) }
    }
}

impl Dues {
    pub fn insert(&mut self, id: DeliveryId, due: Timestamp) {
        self.known.insert(id, due);
    }

    pub fn remove(&mut self, id: DeliveryId, due: Timestamp) {
        if self.known.get(&id) == Some(&due) {
            self.known.remove(&id);
        }
        if let Some(left) = &mut self.left {
            left.insert((id, due));
        }
    }

    /// One that lay there before the start.
    pub(super) fn found(&mut self, id: DeliveryId, due: Timestamp) {
        if self.left.as_ref().is_some_and(|left| !left.contains(&(id, due))) {
            self.known.entry(id).or_insert(due);
        }
    }

    /// Everything that lay there before the start has been found.
    pub(super) fn complete(&mut self) {
        self.left = None;
    }

    /// All of them, once they are all known.
    pub(super) fn all(&self) -> Option<&BTreeMap<DeliveryId, Timestamp>> {
        self.left.is_none().then_some(&self.known)
    }
}

impl Store {
    /// Where the deliveries of an event lie in the delay tree, or will lie with the next commit.
    pub fn dues_of(&self, sequence: Sequence) -> BTreeMap<DestinationId, Timestamp> {
        let (first, last) = bounds(sequence, sequence.next());
        let mut found: BTreeMap<DestinationId, Timestamp> = {
            let index = self.index();
            index.dues.known.range(first..last).map(|(id, due)| (id.destination, *due)).collect()
        };
        let unwritten = self.shared.unwritten.lock().expect("no holder panics");
        let coming = unwritten.range((first, Timestamp::ZERO)..(last, Timestamp::ZERO));
        found.extend(coming.map(|((id, due), _)| (id.destination, *due)));
        found
    }

    /// What lies in the delay tree of the events in `[from, to)`, at most so many, in order.
    pub fn dues_between(&self, from: Sequence, to: Sequence, limit: usize) -> Vec<(DeliveryId, Timestamp)> {
        let (first, last) = bounds(from, to);
        let index = self.index();
        index.dues.known.range(first..last).take(limit).map(|(id, due)| (*id, *due)).collect()
    }
}

fn bounds(from: Sequence, to: Sequence) -> (DeliveryId, DeliveryId) {
    let first = |sequence| DeliveryId { sequence, destination: DestinationId(0) };
    (first(from), first(to))
}
