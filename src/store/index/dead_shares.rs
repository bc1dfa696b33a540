//! How many bytes the dead letters of each source take, in memory.
//!
//! *Invariants.* In step with the dlq tree: what is taken out is taken off as it was added. What lies there at the start is
//! counted behind it, in the order of the tree, by `Store::count_dead_letters`; until that is through, a source has at
//! most what is told. A letter whose head does not verify belongs to no source.

use super::Index;
use super::shares::{Shares, SourceBytes};
use crate::delivery::{DeadLetter, DeliveryId};
use std::collections::{BTreeMap, HashSet};

#[derive(Debug)]
pub struct DeadShares {
    shares: Shares,
    /// What of before the start is counted; none once all of it is.
    counting: Option<Counting>,
}

#[derive(Debug, Default)]
struct Counting {
    /// So far it has come.
    upto: Option<DeliveryId>,
    /// Letters behind that which have come or gone since the start: they are counted, or are not any more.
    changed: HashSet<DeliveryId>,
}

impl Counting {
    fn is_behind(&self, id: DeliveryId) -> bool {
        self.upto.is_none_or(|upto| id > upto)
    }
}

impl Default for DeadShares {
    fn default() -> Self {
        Self { shares: Shares::default(), counting: Some(Counting::default()) }
    }
}

impl DeadShares {
    /// A letter comes into the dlq tree.
    pub fn add(&mut self, id: DeliveryId, part: SourceBytes) {
        if let Some(counting) = self.counting.as_mut().filter(|counting| counting.is_behind(id)) {
            counting.changed.insert(id);
        }
        self.shares.add(part);
    }

    /// A letter has left the dlq tree.
    pub fn remove(&mut self, id: DeliveryId, part: SourceBytes) {
        let is_counted = match self.counting.as_mut().filter(|counting| counting.is_behind(id)) {
            Some(counting) => !counting.changed.insert(id),
            None => true,
        };
        if is_counted {
            self.shares.remove(part);
        }
    }

    /// A letter that lay there at the start; those come in order.
    pub fn found(&mut self, id: DeliveryId, part: SourceBytes) {
        let Some(counting) = &mut self.counting else { return };
        counting.upto = Some(id);
        if !counting.changed.remove(&id) {
            self.shares.add(part);
        }
    }

    pub fn shares(&self) -> &Shares {
        &self.shares
    }

    /// Everything that lay there at the start has been counted.
    pub fn all_found(&mut self) {
        self.counting = None;
    }

    /// Bytes by source, once everything of before the start is counted.
    pub fn all(&self) -> Option<BTreeMap<u16, u64>> {
        self.counting.is_none().then(|| self.shares.iter().map(|(source, held)| (source, held.queue_bytes)).collect())
    }
}

impl Index {
    /// What a dead letter takes, and whose it is.
    pub fn bytes_of_dead_letter(&mut self, dead_letter: &DeadLetter, sealed_bytes: usize) -> SourceBytes {
        SourceBytes::of(self.names.source(&dead_letter.delivery.event.source), sealed_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{DestinationId, Sequence};

    fn id(n: u64) -> DeliveryId {
        DeliveryId { sequence: Sequence(n), destination: DestinationId(0) }
    }

    fn told(dead: &DeadShares) -> Vec<(u16, u64)> {
        dead.shares().iter().map(|(source, held)| (source, held.queue_bytes)).collect()
    }

    #[test]
    fn letters_that_change_during_the_count_are_counted_once() {
        let part = |bytes| SourceBytes { source: 7, bytes };
        let mut dead = DeadShares::default();
        // 1 to 6 lie there
        dead.found(id(1), part(1));
        dead.found(id(2), part(10));
        dead.remove(id(1), part(1)); // was counted
        dead.remove(id(3), part(100)); // was not
        dead.remove(id(4), part(1000));
        dead.add(id(4), part(2000)); // has died again
        dead.add(id(0), part(4)); // is not found any more
        dead.add(id(9), part(40_000));
        dead.remove(id(9), part(40_000));
        dead.add(id(8), part(500_000));
        assert_eq!(told(&dead), [(7, 502_014)]);
        assert_eq!(dead.all(), None);
        // a reader may still see what has left, and see already what has come
        for (n, bytes) in [(3, 100), (4, 2000), (5, 3), (6, 30), (8, 500_000)] {
            dead.found(id(n), part(bytes));
        }
        dead.all_found();
        assert_eq!(dead.all(), Some(BTreeMap::from([(7, 502_047)])));
        for (n, bytes) in [(0, 4), (2, 10), (4, 2000), (5, 3), (6, 30), (8, 500_000)] {
            dead.remove(id(n), part(bytes));
        }
        assert_eq!(told(&dead), []);
    }
}
