//! How old what waits is: counts by destination and age, without reading a single body.
//!
//! Sequences rise with acceptance, so an age is a sequence: each bound is looked up once in `history`, and everything that
//! waits is sorted by its sequence alone.

use crate::delivery::{DeadLetter, DeliveryId};
use crate::event::{DestinationId, Sequence};
use crate::store::engine::error::StoreError;
use crate::store::engine::read;
use crate::store::handle::Store;
use crate::store::index::shares::Held;
use crate::store::model::table::{Table, dlq_of};
use crate::time::Timestamp;
use std::collections::BTreeMap;

/// Counts by age, the youngest first.
pub type Ages = BTreeMap<DestinationId, Vec<u64>>;

/// Pages, and deliveries of the delay tree, that are counted at once.
const PAGES: usize = 512;
const DUES: usize = 4096;

impl Store {
    /// What waits, in pages and in the delay tree, by the bounds `since`: from the latest to the earliest time. The last
    /// count is of what is older than all of them. What moves while it is counted may be counted twice, or not.
    pub fn ages(&self, since: &[Timestamp]) -> Result<Ages, StoreError> {
        let bounds = since.iter().map(|at| self.first_after(*at)).collect::<Result<Vec<_>, _>>()?;
        let bucket = |sequence: Sequence| bounds.iter().position(|b| sequence >= *b).unwrap_or(bounds.len());
        let mut ages = Ages::new();
        let mut add = |d: DestinationId, sequence: Sequence, n: u64| {
            ages.entry(d).or_insert_with(|| vec![0; bounds.len() + 1])[bucket(sequence)] += n;
        };
        let mut from = Some(Sequence::default());
        while let Some(first) = from {
            // in pieces, so that no commit waits for all of them
            from =
                self.index().pages.visit(first, PAGES, |sequence, to, n| to.iter().for_each(|d| add(d, sequence, n)));
        }
        let mut from = Sequence::default();
        loop {
            let some = self.dues_between(from, Sequence(u64::MAX), DUES);
            let Some((last, _)) = some.last() else { return Ok(ages) };
            // of the last event there may be more
            let next = if some.len() < DUES { last.sequence.next() } else { last.sequence };
            some.iter().filter(|(id, _)| id.sequence < next).for_each(|(id, _)| add(id.destination, id.sequence, 1));
            from = next;
        }
    }

    /// The first sequence that was accepted after this time, as far as it is remembered.
    fn first_after(&self, at: Timestamp) -> Result<Sequence, StoreError> {
        let (mut low, mut high) = {
            let index = self.index();
            (index.totals.history_head.0, index.totals.next_sequence.0)
        };
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = read::entry(&self.shared.engine, Sequence(middle))?;
            if entry.is_some_and(|entry| entry.received_at > at) { high = middle } else { low = middle + 1 }
        }
        Ok(Sequence(low))
    }

    /// Where the deliveries of an event lie in the delay tree, or will lie with the next commit.
    pub fn dues_of(&self, sequence: Sequence) -> BTreeMap<DestinationId, Timestamp> {
        let (first, last) = ids_between(sequence, sequence.next());
        let mut found: BTreeMap<DestinationId, Timestamp> = {
            let index = self.index();
            index.dues.known.range(first..last).map(|(id, due)| (id.destination, due.at)).collect()
        };
        let unwritten = self.shared.unwritten.lock().expect("no holder panics");
        let coming = unwritten.range((first, Timestamp::ZERO)..(last, Timestamp::ZERO));
        found.extend(coming.map(|((id, due), _)| (id.destination, *due)));
        found
    }

    /// What lies in the delay tree of the events in `[from, to)`, at most so many, in order.
    pub fn dues_between(&self, from: Sequence, to: Sequence, limit: usize) -> Vec<(DeliveryId, Timestamp)> {
        let (first, last) = ids_between(from, to);
        let index = self.index();
        index.dues.known.range(first..last).take(limit).map(|(id, due)| (*id, due.at)).collect()
    }

    /// What the events of each source take that wait or are dead, by its name.
    pub fn held_by_source(&self) -> Vec<(String, Held)> {
        let index = self.index();
        let mut all = BTreeMap::<u16, Held>::new();
        for (source, held) in index.pages.shares().iter().chain(index.dues.shares().iter()) {
            let sum = all.entry(source).or_default();
            sum.queue_bytes += held.queue_bytes;
            sum.growth_bytes += held.growth_bytes;
        }
        for (source, dead) in index.dead.shares().iter() {
            all.entry(source).or_default().dead_bytes += dead.queue_bytes;
        }
        let named = |(source, held)| Some((index.names.source_name(source)?.to_owned(), held));
        all.into_iter().filter_map(named).collect()
    }

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
        self.index().dead.all_found();
        Ok(())
    }

    /// Bytes of the dead letters of each source, by its name.
    pub fn dead_by_source(&self) -> BTreeMap<String, u64> {
        let index = self.index();
        let named = |(source, bytes)| Some((index.names.source_name(source)?.to_owned(), bytes));
        index.dead.shares().iter().map(|(source, held)| (source, held.queue_bytes)).filter_map(named).collect()
    }
}

fn ids_between(from: Sequence, to: Sequence) -> (DeliveryId, DeliveryId) {
    let first = |sequence| DeliveryId { sequence, destination: DestinationId(0) };
    (first(from), first(to))
}
