//! Writes the readable records into the new store.

use super::resolve::Resolution;
use super::scan::{Scan, StoredCopy};
use crate::delivery::DeliveryId;
use crate::event::{DestinationId, DestinationSet, Sequence};
use crate::store::engine::Engine;
use crate::store::engine::error::StoreError;
use crate::store::index::names::Names;
use crate::store::model::audit::Audit;
use crate::store::model::codec::{self, Kind};
use crate::store::model::delta_encoding;
use crate::store::model::record::{Counters, EndKind, HistoryRow, SettledRow, Totals};
use crate::store::model::table::{Rows, TOTALS, Table, WriteBatch, get_long, number_key, number_of};
use crate::store::offline::log_rows::LogRows;
use crate::time::Timestamp;
use std::collections::BTreeMap;

/// Size from which a batch is committed.
const COMMIT_BYTES: usize = 4 << 20;

/// Result of the copy.
#[derive(Debug, Default)]
pub struct CopySummary {
    /// Deliveries that only the counters mention.
    pub unaccounted: u64,
    /// Descriptions of audit, outage, quarantine and similar records that do not verify.
    pub damaged: Vec<String>,
    /// Number of copied records by table name.
    pub records: BTreeMap<&'static str, u64>,
}

pub struct Writer<'a> {
    pub engine: &'a Engine,
    pub found: &'a LogRows,
    pub scan: &'a Scan,
    pub resolution: &'a Resolution,
    pub now: Timestamp,
    pub batch: WriteBatch,
    pub summary: CopySummary,
}

impl Writer<'_> {
    pub fn write(mut self, names: &mut Names) -> Result<CopySummary, StoreError> {
        self.write_history()?;
        let next_settlement = self.write_settlements()?;
        for first in &self.resolution.nonempty_pages {
            self.copy_long(Table::Pages, &number_key(*first))?;
        }
        for (table, copies) in [(Table::Delay, &self.scan.delayed), (Table::Dlq, &self.scan.dead)] {
            for StoredCopy { key, .. } in copies.values() {
                self.copy_long(table, key)?;
            }
        }
        self.copy_independent_records()?;
        self.copy_meta()?;
        let totals = self.totals(names, next_settlement)?;
        names.write(&mut self.batch);
        self.batch.put_long(Table::Meta, TOTALS, &codec::encode(Kind::Totals, &totals));
        self.commit()?;
        Ok(self.summary)
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        self.engine.commit(std::mem::take(&mut self.batch))
    }

    fn count_copied(&mut self, table: Table, count: u64) -> Result<(), StoreError> {
        *self.summary.records.entry(table.name()).or_default() += count;
        if self.batch.bytes() >= COMMIT_BYTES { self.commit() } else { Ok(()) }
    }

    fn copy_long(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        if let Some(sealed) = get_long(self.found, table, key)? {
            self.batch.put_long(table, key, &sealed);
        }
        self.count_copied(table, 1)
    }

    fn write_history(&mut self) -> Result<(), StoreError> {
        let (mut first, mut row) = (0, HistoryRow::default());
        for (at, (shape, entries)) in &self.resolution.pages {
            if row.entries.len() + entries.len() > HistoryRow::ENTRIES_MAX {
                self.write_history_row(first, std::mem::take(&mut row))?;
            }
            if row.entries.is_empty() {
                first = *at;
            }
            row.pages.push(*shape);
            row.entries.extend(entries.iter().cloned());
        }
        self.write_history_row(first, row)
    }

    fn write_history_row(&mut self, first: u64, row: HistoryRow) -> Result<(), StoreError> {
        if row.entries.is_empty() {
            return Ok(());
        }
        self.batch.put(Table::History, number_key(first), delta_encoding::encode(&row));
        self.count_copied(Table::History, row.entries.len() as u64)
    }

    /// Renumbers the settlements without holes; returns the next number.
    fn write_settlements(&mut self) -> Result<u64, StoreError> {
        let mut next = self.scan.totals.settled_head;
        for chunk in self.resolution.settlements.chunks(SettledRow::SETTLEMENTS_MAX) {
            let row = SettledRow { settlements: chunk.to_vec() };
            self.batch.put(Table::Settled, number_key(next), delta_encoding::encode(&row));
            next += chunk.len() as u64;
            self.count_copied(Table::Settled, chunk.len() as u64)?;
        }
        Ok(next)
    }

    /// Copies records without references to others unchanged, if they verify.
    fn copy_independent_records(&mut self) -> Result<(), StoreError> {
        for (table, kind) in [
            (Table::Audit, Kind::Audit),
            (Table::Damaged, Kind::DamagedRecord),
            (Table::Outages, Kind::Outage),
            (Table::QuarantinedRequest, Kind::QuarantinedRequest),
        ] {
            for (key, _) in self.found.keys(table).filter(|(_, row)| row.exists()) {
                match get_long(self.found, table, key)
                    .and_then(|s| Ok(codec::open_any(kind, &s.unwrap_or_default()).map(drop)?))
                {
                    Ok(()) => self.copy_long(table, key)?,
                    Err(StoreError::Damaged(why)) => {
                        self.summary.damaged.push(format!("`{}` record {}: {why}", table.name(), number_of(key)?));
                    }
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(())
    }

    /// Copies the records of `meta`, except names and counters, which are written separately.
    fn copy_meta(&mut self) -> Result<(), StoreError> {
        let own = |key: &[u8]| key.starts_with(TOTALS) || key.starts_with(b"names.");
        for (row_key, _) in self.found.rows(Table::Meta).filter(|(key, row)| row.exists() && !own(key)) {
            let Some(value) = self.found.row(Table::Meta, row_key)? else { continue };
            let verifies = |sealed: &[u8]| codec::kind_of(sealed).is_some_and(|kind| codec::open(kind, sealed).is_ok());
            if verifies(&value) {
                self.batch.put(Table::Meta, row_key.to_vec(), value);
                continue;
            }
            let (key, part) = row_key.split_at(row_key.len().saturating_sub(2));
            if part != [0, 0] && self.found.get(Table::Meta, &[key, &[0, 0]].concat()).is_some() {
                continue; // it is copied with its first part
            }
            match get_long(self.found, Table::Meta, key) {
                Ok(Some(sealed)) if verifies(&sealed) => self.batch.put_long(Table::Meta, key, &sealed),
                Ok(_) | Err(StoreError::Damaged(_)) => {
                    self.summary.damaged.push(format!("`meta` record {}", String::from_utf8_lossy(key)));
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn totals(&mut self, names: &Names, next_settlement: u64) -> Result<Totals, StoreError> {
        let scan = self.scan;
        let next_sequence = scan.next_sequence().max(1);
        let history_head = self.resolution.pages.keys().next().copied().unwrap_or(next_sequence);
        let bytes = |of: &BTreeMap<DeliveryId, StoredCopy>| of.values().map(|copy| copy.bytes as u64).sum();
        let next =
            |table: Table| self.found.keys(table).filter_map(|(key, _)| number_of(key).ok()).max().map_or(1, |n| n + 1);
        let audit = scan.totals.next_audit.max(next(Table::Audit));
        let mut totals = Totals {
            next_sequence: Sequence(next_sequence),
            next_settlement,
            next_audit: audit + 1,
            next_damaged: scan.totals.next_damaged.max(next(Table::Damaged)),
            history_head: Sequence(history_head),
            floor: Sequence(self.resolution.nonempty_pages.first().copied().unwrap_or(next_sequence)),
            accepted: scan.totals.accepted.max(if scan.totals_known { 0 } else { next_sequence - 1 }),
            damaged: scan.totals.damaged + scan.damaged.len() as u64,
            page_bytes: self
                .resolution
                .nonempty_pages
                .iter()
                .filter_map(|first| scan.pages.get(first))
                .map(|p| u64::from(p.bytes))
                .sum(),
            delay_bytes: bytes(&scan.delayed),
            dlq_bytes: bytes(&scan.dead),
            ..scan.totals.clone()
        };
        if scan.totals_known {
            totals.accepted += next_sequence - scan.totals.next_sequence.0;
        }
        for (d, _) in names.destinations() {
            let (counters, unaccounted) = self.counters(d);
            self.summary.unaccounted += unaccounted;
            *totals.counters_mut(d) = counters;
        }
        let what = "salvaged from a damaged store".to_owned();
        let (who, count) = ("holdline verify --salvage".to_owned(), self.summary.unaccounted);
        let record = Audit { at: self.now, who, what, count, since: None };
        self.batch.put_long(Table::Audit, &number_key(audit), &record.encode());
        Ok(totals)
    }

    /// The counters of a destination, balanced: deliveries that only the old counters mention count as discarded. Also
    /// returns their number.
    fn counters(&self, d: DestinationId) -> (Counters, u64) {
        let scan = self.scan;
        let count = |of: &BTreeMap<DeliveryId, StoredCopy>| of.keys().filter(|id| id.destination == d).count() as u64;
        let (delayed, dead) = (count(&scan.delayed), count(&scan.dead));
        let present = self.resolution.waiting_in_pages.get(&d).copied().unwrap_or(0) + delayed + dead;
        let mut counters = Counters { delayed, dead, ..scan.totals.counters_of(d) };
        let since = if scan.totals_known { scan.totals.next_settlement } else { 0 };
        for (_, settlement) in scan.settlements.range(since..).filter(|(_, s)| s.id.destination == d) {
            match settlement.how {
                EndKind::Delivered => counters.delivered += 1,
                EndKind::Discarded => counters.discarded += 1,
                EndKind::Dead | EndKind::Moved => {}
            }
        }
        let uncounted = |n: u64| !scan.totals_known || n >= scan.totals.next_sequence.0;
        for (first, (_, entries)) in &self.resolution.pages {
            let to = |(n, to): &(u64, DestinationSet)| uncounted(*n) && to.has(d);
            counters.accepted += (*first..).zip(entries.iter().map(|e| e.to)).filter(to).count() as u64;
        }
        let ended = counters.delivered + counters.discarded;
        counters.accepted = counters.accepted.max(present);
        let expected = counters.accepted.saturating_sub(ended);
        if expected < present {
            // some deliveries that were counted as delivered are made again
            counters.delivered = counters.delivered.saturating_sub(present - expected);
            counters.accepted = counters.accepted.max(counters.delivered + counters.discarded + present);
            return (counters, 0);
        }
        counters.discarded += expected - present;
        (counters, expected - present)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Digest64;
    use crate::store::engine::folder::Folder;
    use crate::store::model::record::{Entry, Hold, Outage, PageShape, Settlement};
    use crate::store::model::table::{hold_key, redrive_list_key};
    use crate::store::offline::salvage::scan::tests::found;

    const HERE: DestinationId = DestinationId(1);

    /// All rows of a store.
    type StoredRows = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

    /// Runs `write`, and returns its result, the summary and all rows of the new store.
    fn written<T>(
        found: &LogRows,
        scan: &Scan,
        resolution: &Resolution,
        write: impl FnOnce(&mut Writer) -> T,
    ) -> (T, CopySummary, StoredRows) {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(Folder::open(dir.path()).unwrap()).unwrap();
        let now = Timestamp(9);
        let (batch, summary) = (WriteBatch::default(), CopySummary::default());
        let mut writer = Writer { engine: &engine, found, scan, resolution, now, batch, summary };
        let made = write(&mut writer);
        writer.commit().unwrap();
        let summary = writer.summary;
        let rows = Table::ALL.into_iter().flat_map(|table| {
            engine
                .range(table, ..)
                .map(move |row| row.map(|(key, value)| ((table, key.to_vec()), value.to_vec())).unwrap())
        });
        (made, summary, rows.collect())
    }

    fn spoiled(mut sealed: Vec<u8>) -> Vec<u8> {
        *sealed.last_mut().unwrap() ^= 1;
        sealed
    }

    #[test]
    fn independent_records_are_salvaged_or_named() {
        let audit = |what: &str| {
            let (who, what) = ("admin".to_owned(), what.to_owned());
            Audit { at: Timestamp(1), who, what, count: 2, since: Some(Timestamp(1)) }.encode()
        };
        let outage = Outage { from: Timestamp(1), until: Timestamp(2), reason: "disk".to_owned(), refused: 3 };
        let good = [
            (Table::Audit, 1, audit("one")),
            (Table::Audit, 3, audit(&"long ".repeat(5000))),
            (Table::Outages, 1, codec::encode(Kind::Outage, &outage)),
            (Table::Damaged, 1, codec::encode(Kind::DamagedRecord, &7u64)),
            (Table::QuarantinedRequest, 4, codec::encode(Kind::QuarantinedRequest, &7u64)),
        ];
        let mut was = WriteBatch::default();
        good.iter().for_each(|(table, n, sealed)| was.put_long(*table, &number_key(*n), sealed));
        let (_dir, found) = found(|batch| {
            *batch = was.clone();
            batch.put_long(Table::Audit, &number_key(2), &spoiled(audit("two")));
            batch.put_long(Table::Outages, &number_key(2), &spoiled(codec::encode(Kind::Outage, &outage)));
        });
        let (scan, resolution) = (Scan::default(), Resolution::default());
        let (done, summary, rows) = written(&found, &scan, &resolution, |writer| writer.copy_independent_records());
        done.unwrap();
        let damaged = ["`audit` record 2: ", "`gaps` record 2: "];
        assert!(summary.damaged.iter().zip(damaged).all(|(is, must)| is.starts_with(must)), "{:?}", summary.damaged);
        assert_eq!(summary.damaged.len(), damaged.len());
        assert_eq!(summary.records, BTreeMap::from([("audit", 2), ("gaps", 1), ("quarantine", 1), ("detained", 1)]));
        let must = Table::ALL.into_iter().zip(was.into_tables());
        let must = must.flat_map(|(table, rows)| rows.into_iter().map(move |(key, row)| ((table, key), row.unwrap())));
        assert_eq!(rows, must.collect());
    }

    #[test]
    fn destination_records_are_salvaged_or_named() {
        let hold = |until| codec::encode(Kind::Hold, &Hold { until: Timestamp(until), reason: String::new() });
        let list = codec::encode(Kind::RedriveList, &vec![7u64; 5000]);
        let (_dir, found) = found(|batch| {
            batch.put(Table::Meta, hold_key(DestinationId(0)), hold(1));
            batch.put(Table::Meta, hold_key(HERE), spoiled(hold(2)));
            batch.put_long(Table::Meta, &redrive_list_key(DestinationId(2)), &list);
            batch.put_long(Table::Meta, &redrive_list_key(DestinationId(3)), &spoiled(list.clone()));
            batch.put_long(Table::Meta, TOTALS, &codec::encode(Kind::Totals, &Totals::default()));
            batch.put_long(Table::Meta, b"names.kinds", &codec::encode(Kind::Names, &vec!["a"]));
        });
        let (scan, resolution) = (Scan::default(), Resolution::default());
        let (done, summary, rows) = written(&found, &scan, &resolution, |writer| writer.copy_meta());
        done.unwrap();
        let mut must = WriteBatch::default();
        must.put(Table::Meta, hold_key(DestinationId(0)), hold(1));
        must.put_long(Table::Meta, &redrive_list_key(DestinationId(2)), &list);
        let must = must.into_tables()[Table::Meta as usize].clone();
        assert_eq!(rows, must.into_iter().map(|(key, row)| ((Table::Meta, key), row.unwrap())).collect());
        let damaged = ["`meta` record hold", "`meta` record redrive-list.\u{3}"];
        assert!(summary.damaged.iter().zip(damaged).all(|(is, must)| is.starts_with(must)), "{:?}", summary.damaged);
        assert_eq!(summary.damaged.len(), damaged.len());
    }

    #[test]
    fn a_damaged_name_list_affects_no_other_list() {
        let list = |names: &[&str]| codec::encode(Kind::Names, &names);
        let (_dir, found) = found(|batch| {
            batch.put_long(Table::Meta, b"names.destinations", &list(&["crm", "wallboard"]));
            batch.put_long(Table::Meta, b"names.sources", &list(&["pbx"]));
            batch.put_long(Table::Meta, b"names.kinds", &spoiled(list(&["call.ended"])));
        });
        let mut damaged = Vec::new();
        let names = super::super::names(&found, &mut damaged).unwrap();
        let destinations: Vec<&str> = names.destinations().map(|(_, name)| name).collect();
        assert_eq!(
            (destinations, names.source_name(0), names.kind_name(0)),
            (vec!["crm", "wallboard"], Some("pbx"), None)
        );
        assert!(damaged.len() == 1 && damaged[0].starts_with("the names of types: "), "{damaged:?}");
    }

    fn entry(to: DestinationId) -> Entry {
        Entry {
            sender: Digest64(1),
            body: Digest64(2),
            interaction_hash: Digest64(3),
            time: Timestamp(4),
            received_at: Timestamp(5),
            source: 6,
            kind: 7,
            to: DestinationSet::EMPTY.with(to),
            size: 9,
            prior: Sequence(0),
        }
    }

    /// Pages with these numbers of events for [`HERE`].
    fn pages(first: u64, counts: &[u16]) -> BTreeMap<u64, (PageShape, Vec<Entry>)> {
        let begins = counts.iter().scan(first, |at, count| Some(std::mem::replace(at, *at + u64::from(*count))));
        let page = |count: u16| (PageShape { count, bytes: 10 }, vec![entry(HERE); usize::from(count)]);
        begins.zip(counts).map(|(first, count)| (first, page(*count))).collect()
    }

    #[test]
    fn history_rows_have_whole_pages_within_their_limit() {
        let (_dir, found) = found(|_| ());
        let resolution = Resolution { pages: pages(5, &[100, 100, 30, 1, 100]), ..Resolution::default() };
        let scan = Scan::default();
        let (done, summary, rows) = written(&found, &scan, &resolution, |writer| writer.write_history());
        done.unwrap();
        let row = |((_, key), sealed): (&(Table, Vec<u8>), &Vec<u8>)| {
            let row = delta_encoding::decode::<HistoryRow>(sealed).unwrap();
            (number_of(key).unwrap(), row.pages.iter().map(|page| page.count).collect::<Vec<_>>(), row.entries.len())
        };
        assert_eq!(rows.iter().map(row).collect::<Vec<_>>(), [(5, vec![100, 100, 30], 230), (235, vec![1, 100], 101)]);
        assert_eq!(summary.records, BTreeMap::from([("history", 331)]));
    }

    fn copies(destination: DestinationId, of: &[u64]) -> BTreeMap<DeliveryId, StoredCopy> {
        let id = |n: &u64| DeliveryId { sequence: Sequence(*n), destination };
        of.iter().map(|n| (id(n), StoredCopy { key: Vec::new(), lsn: 1, bytes: 10 })).collect()
    }

    /// The counters of [`HERE`], and the number of unaccounted deliveries. The old counters are those before event 11: ten
    /// accepted, four delivered and one discarded (settlements 1 to 5); two are dead letters and one is delayed.
    fn counters(totals_known: bool, waiting_in_pages: u64, later: &[EndKind]) -> ((u64, u64, u64, u64, u64), u64) {
        let (_dir, found) = found(|_| ());
        let mut scan =
            Scan { totals_known, delayed: copies(HERE, &[8]), dead: copies(HERE, &[6, 7]), ..Scan::default() };
        scan.dead.extend(copies(DestinationId(2), &[6]));
        let settled = |n: u64, how| {
            let id = DeliveryId { sequence: Sequence(n), destination: HERE };
            (n, Settlement { id, how, attempts: 1, status: 0, at: Timestamp(1) })
        };
        let before =
            [EndKind::Delivered, EndKind::Delivered, EndKind::Delivered, EndKind::Delivered, EndKind::Discarded];
        scan.settlements = (1..).zip(before.iter().chain(later)).map(|(n, how)| settled(n, *how)).collect();
        let mut other = settled(90, EndKind::Delivered);
        other.1.id.destination = DestinationId(2);
        scan.settlements.extend([other]);
        if totals_known {
            scan.totals.next_sequence = Sequence(11);
            scan.totals.next_settlement = 6;
            let known = Counters { accepted: 10, delivered: 4, discarded: 1, dead: 9, delayed: 9 };
            *scan.totals.counters_mut(HERE) = known;
        }
        let resolution = Resolution {
            pages: pages(1, &[9, 3]),
            waiting_in_pages: [(HERE, waiting_in_pages)].into(),
            ..Resolution::default()
        };
        let ((is, unaccounted), ..) = written(&found, &scan, &resolution, |writer| writer.counters(HERE));
        assert_eq!(
            is.accepted,
            is.delivered + is.discarded + is.dead + is.delayed + waiting_in_pages,
            "the counters balance"
        );
        ((is.accepted, is.delivered, is.discarded, is.dead, is.delayed), unaccounted)
    }

    #[test]
    fn salvaged_counters_balance_by_the_records_found() {
        // events 11 and 12 and their settlements are newer than the counters
        let later = [EndKind::Delivered, EndKind::Moved, EndKind::Discarded, EndKind::Dead];
        assert_eq!(counters(true, 2, &later), ((12, 5, 2, 2, 1), 0));
        assert_eq!(counters(true, 4, &[]), ((12, 4, 1, 2, 1), 0));
        // deliveries without a copy are discarded and reported
        assert_eq!(counters(true, 1, &[]), ((12, 4, 4, 2, 1), 3));
        // deliveries that are stored and were counted as delivered are made again
        assert_eq!(counters(true, 6, &[]), ((12, 2, 1, 2, 1), 0));
        assert_eq!(counters(true, 20, &[]), ((24, 0, 1, 2, 1), 0));
        // without counters everything is recounted
        assert_eq!(counters(false, 2, &later), ((12, 5, 2, 2, 1), 0));
        assert_eq!(counters(false, 0, &[]), ((12, 4, 5, 2, 1), 4));
    }
}
