//! Bytes of the dead letters of each source, in memory.
//!
//! *Invariants.* It is updated with every change of the dead letter queue: a dead letter subtracts what it added. Dead
//! letters that existed at the start are counted in the background, in key order, by `Store::count_dead_letters`; until it
//! has finished, the real numbers may be higher. A dead letter whose head does not verify is counted for no source.

use super::Index;
use super::shares::{Shares, SourceBytes};
use crate::delivery::{DeadLetter, DeliveryId};
use std::collections::{BTreeMap, HashSet};

#[derive(Debug)]
pub struct DeadShares {
    shares: Shares,
    /// Progress of the count of dead letters that existed at the start; `None` when it is complete.
    counting: Option<Counting>,
}

#[derive(Debug, Default)]
struct Counting {
    /// The last counted one.
    upto: Option<DeliveryId>,
    /// Dead letters after it that were added or removed since the start: added ones are counted already, removed ones are
    /// not counted any more.
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
    /// Counts a dead letter that is added to the queue.
    pub fn add(&mut self, id: DeliveryId, part: SourceBytes) {
        if let Some(counting) = self.counting.as_mut().filter(|counting| counting.is_behind(id)) {
            counting.changed.insert(id);
        }
        self.shares.add(part);
    }

    /// Subtracts a dead letter that is removed from the queue.
    pub fn remove(&mut self, id: DeliveryId, part: SourceBytes) {
        let is_counted = match self.counting.as_mut().filter(|counting| counting.is_behind(id)) {
            Some(counting) => !counting.changed.insert(id),
            None => true,
        };
        if is_counted {
            self.shares.remove(part);
        }
    }

    /// Counts a dead letter that existed at the start; call it in key order.
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

    /// Marks the count of dead letters that existed at the start as complete.
    pub fn all_found(&mut self) {
        self.counting = None;
    }

    /// Bytes by source; `None` until the count is complete.
    pub fn all(&self) -> Option<BTreeMap<u16, u64>> {
        self.counting.is_none().then(|| self.shares.iter().map(|(source, held)| (source, held.queue_bytes)).collect())
    }
}

impl Index {
    /// Source and size of a dead letter.
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
        // 1 to 6 exist at the start
        dead.found(id(1), part(1));
        dead.found(id(2), part(10));
        dead.remove(id(1), part(1)); // was counted
        dead.remove(id(3), part(100)); // was not counted yet
        dead.remove(id(4), part(1000));
        dead.add(id(4), part(2000)); // dead-lettered again
        dead.add(id(0), part(4)); // added after the count has passed its key
        dead.add(id(9), part(40_000));
        dead.remove(id(9), part(40_000));
        dead.add(id(8), part(500_000));
        assert_eq!(told(&dead), [(7, 502_014)]);
        assert_eq!(dead.all(), None);
        // a reader may still see removed dead letters, and may already see new ones
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
