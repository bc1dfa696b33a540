//! How many bytes the dead letters of each source take, in memory.
//!
//! *Invariants.* In step with the dlq tree: what is taken out is taken off as it was added. What lies there at the start is
//! counted behind it, in the order of the tree, by [`Store::count_dead_letters`]; until that is through, a source has at
//! most what is told. A letter whose head does not verify belongs to no source.

use super::write_batch::Table;
use super::index::Index;
use super::keys::dlq_of;
use super::shares::{Part, Shares};
use super::{Store, StoreError, read};
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
    pub fn add(&mut self, id: DeliveryId, part: Part) {
        if let Some(counting) = self.counting.as_mut().filter(|counting| counting.is_behind(id)) {
            counting.changed.insert(id);
        }
        self.shares.add(part);
    }

    /// A letter has left the dlq tree.
    pub fn remove(&mut self, id: DeliveryId, part: Part) {
        let is_counted = match self.counting.as_mut().filter(|counting| counting.is_behind(id)) {
            Some(counting) => !counting.changed.insert(id),
            None => true,
        };
        if is_counted {
            self.shares.remove(part);
        }
    }

    /// A letter that lay there at the start; those come in order.
    fn found(&mut self, id: DeliveryId, part: Part) {
        let Some(counting) = &mut self.counting else { return };
        counting.upto = Some(id);
        if !counting.changed.remove(&id) {
            self.shares.add(part);
        }
    }

    pub fn shares(&self) -> &Shares {
        &self.shares
    }

    /// Bytes by source, once everything of before the start is counted.
    pub(super) fn all(&self) -> Option<BTreeMap<u16, u64>> {
        self.counting.is_none().then(|| self.shares.iter().map(|(source, held)| (source, held.queue_bytes)).collect())
    }
}

impl Index {
    /// What a dead letter takes, and whose it is.
    pub(super) fn part_of_dead(&mut self, letter: &DeadLetter, sealed_bytes: usize) -> Part {
        Part::of(self.names.source(&letter.delivery.event.source), sealed_bytes)
    }
}

impl Store {
    /// Counts the dead letters that lay there at the start, by their heads, until it is to stop. Once after each start; blocks.
    pub fn count_dead_letters(&self, is_to_stop: impl Fn() -> bool) -> Result<(), StoreError> {
        let engine = &self.shared.engine;
        for key in read::keys(engine, Table::Dlq, None) {
            if is_to_stop() {
                return Ok(());
            }
            let key = key?;
            let id = dlq_of(&key)?;
            match read::sized_head::<DeadLetter>(engine, Table::Dlq, &key) {
                Ok(Some((head, sealed_bytes))) => {
                    let mut index = self.index();
                    let part = index.part_of_dead(&head.record, sealed_bytes);
                    index.dead.found(id, part);
                }
                Ok(None) | Err(StoreError::Damaged(_)) => {}
                Err(e) => return Err(e),
            }
        }
        self.index().dead.counting = None;
        Ok(())
    }

    /// Bytes of the dead letters of each source, by its name.
    pub fn dead_by_source(&self) -> BTreeMap<String, u64> {
        let index = self.index();
        let named = |(source, bytes)| Some((index.names.source_name(source)?.to_owned(), bytes));
        index.dead.shares().iter().map(|(source, held)| (source, held.queue_bytes)).filter_map(named).collect()
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
    fn what_comes_and_goes_while_it_is_counted_is_counted_once() {
        let part = |bytes| Part { source: 7, bytes };
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
        dead.counting = None;
        assert_eq!(dead.all(), Some(BTreeMap::from([(7, 502_047)])));
        for (n, bytes) in [(0, 4), (2, 10), (4, 2000), (5, 3), (6, 30), (8, 500_000)] {
            dead.remove(id(n), part(bytes));
        }
        assert_eq!(told(&dead), []);
    }
}
