//! Waiting deliveries by age and by source, without reading bodies.
//!
//! Sequences are assigned in the order of acceptance, so each age bound is looked up once in `history` as a sequence, and
//! deliveries are sorted into buckets by their sequence alone.

use crate::delivery::{DeadLetter, DeliveryId};
use crate::event::{DestinationId, Sequence};
use crate::store::engine::error::StoreError;
use crate::store::engine::read;
use crate::store::handle::Store;
use crate::store::index::shares::SourceUsage;
use crate::store::model::table::{Table, dlq_of};
use crate::time::Timestamp;
use std::collections::BTreeMap;

/// Number of waiting deliveries per age bucket, the youngest first.
pub type Ages = BTreeMap<DestinationId, Vec<u64>>;

/// Pages, and delayed deliveries, that are counted under one lock of the index.
const PAGES_PER_STEP: usize = 512;
const DELAYED_PER_STEP: usize = 4096;

impl Store {
    /// Counts the waiting deliveries, in pages and in the delay tree, by the bounds `since`, the latest time first. The last
    /// bucket is for older ones. A delivery that moves during the count may be counted twice or not at all.
    pub fn ages(&self, since: &[Timestamp]) -> Result<Ages, StoreError> {
        let bounds = since.iter().map(|at| self.first_after(*at)).collect::<Result<Vec<_>, _>>()?;
        let bucket = |sequence: Sequence| bounds.iter().position(|b| sequence >= *b).unwrap_or(bounds.len());
        let mut ages = Ages::new();
        let mut add = |d: DestinationId, sequence: Sequence, n: u64| {
            ages.entry(d).or_insert_with(|| vec![0; bounds.len() + 1])[bucket(sequence)] += n;
        };
        let mut from = Some(Sequence::default());
        while let Some(first) = from {
            // in steps, so that no commit waits for the whole count
            from = self
                .index()
                .pages
                .visit(first, PAGES_PER_STEP, |sequence, to, n| to.iter().for_each(|d| add(d, sequence, n)));
        }
        let mut from = Sequence::default();
        loop {
            let chunk = self.delayed_between(from, Sequence(u64::MAX), DELAYED_PER_STEP);
            let Some((last, _)) = chunk.last() else { return Ok(ages) };
            // the last event may have more deliveries in the next step
            let next = if chunk.len() < DELAYED_PER_STEP { last.sequence.next() } else { last.sequence };
            chunk.iter().filter(|(id, _)| id.sequence < next).for_each(|(id, _)| add(id.destination, id.sequence, 1));
            from = next;
        }
    }

    /// The first sequence in history that was accepted after this time.
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

    /// Due times of the delayed deliveries of an event, uncommitted ones included.
    pub fn delayed_of(&self, sequence: Sequence) -> BTreeMap<DestinationId, Timestamp> {
        let (first, last) = ids_between(sequence, sequence.next());
        let mut due: BTreeMap<DestinationId, Timestamp> = {
            let index = self.index();
            index.delay_index.known.range(first..last).map(|(id, due)| (id.destination, due.at)).collect()
        };
        let unwritten = self.shared.unwritten.lock().expect("no holder panics");
        let uncommitted = unwritten.range((first, Timestamp::ZERO)..(last, Timestamp::ZERO));
        due.extend(uncommitted.map(|((id, due), _)| (id.destination, *due)));
        due
    }

    /// The first `limit` delayed deliveries of the events in `[from, to)`, in order, with their due times.
    pub fn delayed_between(&self, from: Sequence, to: Sequence, limit: usize) -> Vec<(DeliveryId, Timestamp)> {
        let (first, last) = ids_between(from, to);
        let index = self.index();
        index.delay_index.known.range(first..last).take(limit).map(|(id, due)| (*id, due.at)).collect()
    }

    /// Bytes of the waiting events and dead letters of each source, by its name.
    pub fn usage_by_source(&self) -> Vec<(String, SourceUsage)> {
        let index = self.index();
        let mut all = BTreeMap::<u16, SourceUsage>::new();
        for (source, usage) in index.pages.shares().iter().chain(index.delay_index.shares().iter()) {
            let sum = all.entry(source).or_default();
            sum.queue_bytes += usage.queue_bytes;
            sum.growth_bytes += usage.growth_bytes;
        }
        for (source, dead) in index.dead.shares().iter() {
            all.entry(source).or_default().dead_bytes += dead.queue_bytes;
        }
        let named = |(source, usage)| Some((index.names.source_name(source)?.to_owned(), usage));
        all.into_iter().filter_map(named).collect()
    }

    /// Counts the dead letters that existed at the start, by their heads, until it should stop. Call once after each start;
    /// blocks.
    pub fn count_dead_letters(&self, should_stop: impl Fn() -> bool) -> Result<(), StoreError> {
        let engine = &self.shared.engine;
        for key in read::keys(engine, Table::Dlq, None) {
            if should_stop() {
                return Ok(());
            }
            let key = key?;
            let id = dlq_of(&key)?;
            match read::sized_head::<DeadLetter>(engine, Table::Dlq, &key) {
                Ok(Some((head, sealed_bytes))) => {
                    let mut index = self.index();
                    let part = index.bytes_of_dead_letter(&head.record, sealed_bytes);
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
        index.dead.shares().iter().map(|(source, usage)| (source, usage.queue_bytes)).filter_map(named).collect()
    }
}

fn ids_between(from: Sequence, to: Sequence) -> (DeliveryId, DeliveryId) {
    let first = |sequence| DeliveryId { sequence, destination: DestinationId(0) };
    (first(from), first(to))
}
