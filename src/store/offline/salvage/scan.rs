//! Reads all readable records of a damaged store; each is verified by its own checksum.

use crate::delivery::{DeadLetter, Delivery, DeliveryId};
use crate::event::Event;
use crate::store::engine::error::StoreError;
use crate::store::model::codec::{self, Damaged, Kind};
use crate::store::model::delta_encoding::{self, Deltas};
use crate::store::model::event_record::{self, Compact, open_page, unpack};
use crate::store::model::record::{Entry, HistoryRow, PageShape, SettledRow, Settlement, Totals};
use crate::store::model::table::{Rows, TOTALS, Table, delay_of, dlq_of, get_long, number_of};
use crate::store::model::watermark::Watermark;
use crate::store::offline::log_rows::LogRows;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};

/// A page, or its description in history.
#[derive(Clone, Debug)]
pub struct Page {
    pub count: u16,
    /// Sealed length; zero if the page cannot be read.
    pub bytes: u32,
}

/// The stored copy of a delayed delivery or a dead letter.
#[derive(Clone, Debug)]
pub struct StoredCopy {
    pub key: Vec<u8>,
    pub lsn: u64,
    pub bytes: usize,
}

/// All readable records that concern events and deliveries.
#[derive(Debug, Default)]
pub struct Scan {
    /// From the watermark file; zero if there is none.
    pub watermark: Watermark,
    pub totals: Totals,
    pub totals_known: bool,
    pub entries: BTreeMap<u64, Entry>,
    pub pages: BTreeMap<u64, Page>,
    /// First sequences of pages that were deleted.
    pub emptied: BTreeSet<u64>,
    /// Pages as history describes them, by first sequence.
    pub shapes: BTreeMap<u64, PageShape>,
    pub settlements: BTreeMap<u64, Settlement>,
    /// The newest copy of each delivery.
    pub delayed: BTreeMap<DeliveryId, StoredCopy>,
    pub dead: BTreeMap<DeliveryId, StoredCopy>,
    /// Deliveries that were removed from the delay tree or the dead letter queue.
    pub removed: BTreeSet<DeliveryId>,
    /// Descriptions of the records that do not verify.
    pub damaged: Vec<String>,
}

impl Scan {
    pub fn of(found: &LogRows, watermark: Option<Watermark>) -> Result<Self, StoreError> {
        let mut scan = Self { watermark: watermark.unwrap_or_default(), ..Self::default() };
        match long_record::<Totals>(found, Table::Meta, Kind::Totals, TOTALS) {
            Ok(Some((totals, _))) => (scan.totals, scan.totals_known) = (totals, true),
            Ok(None) => scan.damaged.push("the counters are missing; they are recounted".to_owned()),
            Err(StoreError::Damaged(why)) => scan.damaged.push(format!("the counters: {why}; they are recounted")),
            Err(e) => return Err(e),
        }
        scan.history(found)?;
        scan.settled(found)?;
        scan.pages(found)?;
        scan.delayed = scan.long_records::<Delivery>(found, Table::Delay)?;
        scan.dead = scan.long_records::<DeadLetter>(found, Table::Dlq)?;
        Ok(scan)
    }

    /// The next free sequence, according to all readable records.
    pub fn next_sequence(&self) -> u64 {
        let pages = self.pages.last_key_value().map(|(first, page)| first + u64::from(page.count));
        let entries = self.entries.last_key_value().map(|(n, _)| n + 1);
        [pages, entries]
            .into_iter()
            .flatten()
            .fold(self.totals.next_sequence.0.max(self.watermark.next_sequence), u64::max)
    }

    /// Whether all settlements can be read.
    pub fn settlements_are_whole(&self) -> bool {
        let (head, next) = (self.totals.settled_head, self.totals.next_settlement);
        let all = self.settlements.range(head..next).count() as u64 == next - head;
        self.totals_known && all && next >= self.watermark.next_settlement
    }

    fn history(&mut self, found: &LogRows) -> Result<(), StoreError> {
        for (first, row) in numbered_rows::<HistoryRow>(found, &mut self.damaged)? {
            let mut at = first;
            for shape in &row.pages {
                self.shapes.entry(at).or_insert(*shape);
                at += u64::from(shape.count);
            }
            self.entries.extend((first..).zip(row.entries));
        }
        let head = self.totals.history_head.0;
        self.entries = self.entries.split_off(&head);
        self.shapes = self.shapes.split_off(&head);
        Ok(())
    }

    fn settled(&mut self, found: &LogRows) -> Result<(), StoreError> {
        for (first, row) in numbered_rows::<SettledRow>(found, &mut self.damaged)? {
            self.settlements.extend((first..).zip(row.settlements));
        }
        self.settlements = self.settlements.split_off(&self.totals.settled_head);
        Ok(())
    }

    /// Reads the pages; one whose events contradict history is reported as damaged.
    fn pages(&mut self, found: &LogRows) -> Result<(), StoreError> {
        for (key, row) in found.keys(Table::Pages) {
            let first = number_of(key)?;
            if !row.exists() {
                self.emptied.insert(first);
                continue;
            }
            let events = match events(found, key) {
                Ok(events) => events,
                Err(StoreError::Damaged(why)) => {
                    self.damaged.push(format!("the page of the events from {first} on: {why}"));
                    continue;
                }
                Err(e) => return Err(e),
            };
            let known = |n: u64| self.entries.get(&n);
            let is_consistent = |(n, event): (u64, &Event)| {
                known(n).is_none_or(|e| e.body == event.body_digest && e.received_at == event.received_at)
            };
            if !(first..).zip(&events).all(is_consistent) {
                self.damaged.push(format!("the page of the events from {first} on contains other events"));
                continue;
            }
            let bytes = found.row(Table::Pages, &[key, &[0, 0]].concat())?.ok_or(Damaged::Missing)?;
            let bytes = codec::sealed_length(&bytes)? as u32;
            self.pages.insert(first, Page { count: events.len() as u16, bytes });
        }
        Ok(())
    }

    fn long_records<R: Compact>(
        &mut self,
        found: &LogRows,
        table: Table,
    ) -> Result<BTreeMap<DeliveryId, StoredCopy>, StoreError> {
        let mut copies: BTreeMap<DeliveryId, StoredCopy> = BTreeMap::new();
        for (key, row) in found.keys(table) {
            let id = if table == Table::Delay { delay_of(key).map(|(_, id)| id)? } else { dlq_of(key)? };
            if !row.exists() {
                self.removed.insert(id);
                continue;
            }
            match record::<R>(found, table, key) {
                Ok(Some((record, bytes))) if record.id() == id => {
                    let this = StoredCopy { key: key.to_vec(), lsn: row.lsn, bytes };
                    let newest = copies.entry(id).or_insert_with(|| this.clone());
                    if newest.lsn < this.lsn {
                        *newest = this;
                    }
                }
                Ok(_) => {
                    self.damaged.push(format!("`{}` record of {id}: it belongs to another delivery", table.name()))
                }
                Err(StoreError::Damaged(why)) => {
                    self.damaged.push(format!("`{}` record of {id}: {why}", table.name()));
                }
                Err(e) => return Err(e),
            }
        }
        Ok(copies)
    }
}

/// The events of a page.
pub fn events(found: &LogRows, key: &[u8]) -> Result<Vec<Event>, StoreError> {
    let sealed = get_long(found, Table::Pages, key)?.ok_or(Damaged::Missing)?;
    unpack(&open_page(&sealed)?)?.into_iter().map(|record| Ok(codec::from_payload(record)?)).collect()
}

/// A delivery or a dead letter, and its sealed length.
fn record<R: Compact>(found: &LogRows, table: Table, key: &[u8]) -> Result<Option<(R, usize)>, StoreError> {
    match get_long(found, table, key)? {
        Some(sealed) => Ok(Some((event_record::decode(&sealed)?, sealed.len()))),
        None => Ok(None),
    }
}

/// A long record and its sealed length.
fn long_record<T: DeserializeOwned>(
    found: &LogRows,
    table: Table,
    kind: Kind,
    key: &[u8],
) -> Result<Option<(T, usize)>, StoreError> {
    match get_long(found, table, key)? {
        Some(sealed) => Ok(Some((codec::decode(kind, &sealed)?, sealed.len()))),
        None => Ok(None),
    }
}

/// All readable rows of a table with consecutive numbers.
fn numbered_rows<R: Deltas>(found: &LogRows, damaged: &mut Vec<String>) -> Result<Vec<(u64, R)>, StoreError> {
    let table = R::TABLE;
    let mut rows = Vec::new();
    for (key, _) in found.rows(table).filter(|(_, row)| row.exists()) {
        let first = number_of(key)?;
        match found.row(table, key)?.map(|sealed| delta_encoding::decode::<R>(&sealed)) {
            Some(Ok(row)) => rows.push((first, row)),
            Some(Err(why)) => damaged.push(format!("`{}` row {first}: {why}", table.name())),
            None => {}
        }
    }
    Ok(rows)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::event::{Digest64, Sequence};
    use crate::store::engine::Engine;
    use crate::store::engine::folder::Folder;
    use crate::store::model::event_record::{pack, seal_page};
    use crate::store::model::table::{WriteBatch, number_key};
    use crate::store::offline::salvage::resolve::resolve;
    use crate::time::Timestamp;

    /// The rows of a log that contains these writes.
    pub fn found(write: impl FnOnce(&mut WriteBatch)) -> (tempfile::TempDir, LogRows) {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(Folder::open(dir.path()).unwrap()).unwrap();
        let mut batch = WriteBatch::default();
        write(&mut batch);
        engine.commit(batch).unwrap();
        let found = LogRows::read(&dir.path().join("queue")).unwrap();
        (dir, found)
    }

    fn event(n: u64) -> Event {
        Event {
            received_at: Timestamp(n),
            sender_id: None,
            body: vec![7; 10].into(),
            ..crate::testing::events::event(n)
        }
    }

    fn entry(event: &Event) -> Entry {
        Entry::of(event, (Digest64::NONE, Digest64(1)), Sequence(0), 0, 0)
    }

    fn put_history(batch: &mut WriteBatch, first: u64, counts: &[u16], entries: Vec<Entry>) {
        let pages = counts.iter().map(|count| PageShape { count: *count, bytes: 100 }).collect();
        batch.put(Table::History, number_key(first), delta_encoding::encode(&HistoryRow { pages, entries }));
    }

    fn put_page(batch: &mut WriteBatch, first: u64, events: &[Event]) {
        let mut packed = Vec::new();
        events.iter().for_each(|event| pack(&mut packed, &codec::payload(event)));
        batch.put_long(Table::Pages, &number_key(first), &seal_page(&packed));
    }

    #[test]
    fn history_gives_page_starts_and_the_watermark_gives_the_end() {
        let (_dir, found) = found(|batch| {
            put_history(batch, 1, &[2, 3, 1], (1..=6).map(|n| entry(&event(n))).collect());
            put_page(batch, 20, &[event(20), event(21), event(22)]);
        });
        let mut scan = Scan::of(&found, None).unwrap();
        assert_eq!(scan.shapes.keys().copied().collect::<Vec<_>>(), [1, 3, 6]);
        assert_eq!(scan.entries.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
        assert_eq!(scan.next_sequence(), 23);
        scan.pages.clear();
        assert_eq!(scan.next_sequence(), 7);
        scan.watermark.next_sequence = 9;
        assert_eq!(scan.next_sequence(), 9);
        scan.totals.next_sequence = Sequence(11);
        assert_eq!(scan.next_sequence(), 11);
    }

    #[test]
    fn a_page_that_contradicts_history_is_ignored() {
        let others = [event(2), Event { received_at: Timestamp(9), ..event(3) }];
        let (_dir, found) = found(|batch| {
            put_history(batch, 1, &[1, 1, 1], (1..=3).map(|n| entry(&event(n))).collect());
            put_page(batch, 1, &[event(1)]);
            put_page(batch, 2, &[Event { body_digest: Digest64(9), ..others[0].clone() }]);
            put_page(batch, 3, &others[1..]);
        });
        let scan = Scan::of(&found, None).unwrap();
        assert_eq!(scan.pages.keys().copied().collect::<Vec<_>>(), [1]);
        let expected = ["the counters", "the page of the events from 2 on", "the page of the events from 3 on"];
        assert!(
            scan.damaged.iter().zip(expected).all(|(line, expected)| line.starts_with(expected)),
            "{:?}",
            scan.damaged
        );
        assert_eq!(scan.damaged.len(), expected.len());
    }

    #[test]
    fn deliveries_before_the_oldest_page_are_settled() {
        let entries = (1..=4).map(|n| (n, entry(&event(n)))).collect();
        let mut scan = Scan { totals_known: true, entries, ..Scan::default() };
        (scan.totals.next_sequence, scan.totals.floor) = (Sequence(5), Sequence(3));
        let resolution = resolve(&mut scan, Timestamp(9), |_, first| Err(first)).unwrap();
        let missing: Vec<u64> = resolution.missing.iter().map(|(id, _)| id.sequence.0).collect();
        assert_eq!(missing, [3, 4]);
    }
}
