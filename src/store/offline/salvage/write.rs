//! The new store, made of what was found.

use super::resolve::Fates;
use super::scan::{Kept, Survey};
use crate::delivery::DeliveryId;
use crate::event::{DestinationId, DestinationSet, Sequence};
use crate::store::engine::Engine;
use crate::store::engine::error::StoreError;
use crate::store::index::names::Names;
use crate::store::model::audit::Audit;
use crate::store::model::codec::{self, Kind};
use crate::store::model::delta_encoding;
use crate::store::model::record::{Counters, EndKind, HistoryRow, SettledRow, Totals};
use crate::store::model::table::WriteBatch;
use crate::store::model::table::{Rows, Table, get_long};
use crate::store::model::table::{TOTALS, number_key, number_of};
use crate::store::offline::log_rows::Found;
use crate::time::Timestamp;
use std::collections::BTreeMap;

/// About so many bytes go into one commit.
const COMMIT: usize = 4 << 20;

/// What the counters say beside the records.
#[derive(Debug, Default)]
pub struct Accounts {
    /// Deliveries that the counters know and nothing else.
    pub unaccounted: u64,
    /// Records of other kinds that do not verify.
    pub damaged: Vec<String>,
    pub copied: BTreeMap<&'static str, u64>,
}

pub struct Writer<'a> {
    pub engine: &'a Engine,
    pub found: &'a Found,
    pub survey: &'a Survey,
    pub fates: &'a Fates,
    pub now: Timestamp,
    pub draft: WriteBatch,
    pub accounts: Accounts,
}

impl Writer<'_> {
    pub fn write(mut self, names: &mut Names) -> Result<Accounts, StoreError> {
        self.history()?;
        let next_settlement = self.settled()?;
        for first in &self.fates.live {
            self.copy_long(Table::Pages, &number_key(*first))?;
        }
        for (table, kept) in [(Table::Delay, &self.survey.delayed), (Table::Dlq, &self.survey.dead)] {
            for Kept { key, .. } in kept.values() {
                self.copy_long(table, key)?;
            }
        }
        self.notes()?;
        self.meta()?;
        let totals = self.totals(names, next_settlement)?;
        names.write(&mut self.draft);
        self.draft.put_long(Table::Meta, TOTALS, &codec::encode(Kind::Totals, &totals));
        self.commit()?;
        Ok(self.accounts)
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        self.engine.commit(std::mem::take(&mut self.draft))
    }

    fn counted(&mut self, table: Table, count: u64) -> Result<(), StoreError> {
        *self.accounts.copied.entry(table.name()).or_default() += count;
        if self.draft.bytes() >= COMMIT { self.commit() } else { Ok(()) }
    }

    fn copy_long(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        if let Some(sealed) = get_long(self.found, table, key)? {
            self.draft.put_long(table, key, &sealed);
        }
        self.counted(table, 1)
    }

    fn history(&mut self) -> Result<(), StoreError> {
        let (mut first, mut row) = (0, HistoryRow::default());
        for (at, (shape, entries)) in &self.fates.packed {
            if row.entries.len() + entries.len() > HistoryRow::ENTRIES_MAX {
                self.history_row(first, std::mem::take(&mut row))?;
            }
            if row.entries.is_empty() {
                first = *at;
            }
            row.pages.push(*shape);
            row.entries.extend(entries.iter().cloned());
        }
        self.history_row(first, row)
    }

    fn history_row(&mut self, first: u64, row: HistoryRow) -> Result<(), StoreError> {
        if row.entries.is_empty() {
            return Ok(());
        }
        self.draft.put(Table::History, number_key(first), delta_encoding::encode(&row));
        self.counted(Table::History, row.entries.len() as u64)
    }

    /// Numbers them anew, so that none is missing; returns the next number.
    fn settled(&mut self) -> Result<u64, StoreError> {
        let mut next = self.survey.totals.settled_head;
        for chunk in self.fates.settlements.chunks(SettledRow::SETTLEMENTS_MAX) {
            let row = SettledRow { settlements: chunk.to_vec() };
            self.draft.put(Table::Settled, number_key(next), delta_encoding::encode(&row));
            next += chunk.len() as u64;
            self.counted(Table::Settled, chunk.len() as u64)?;
        }
        Ok(next)
    }

    /// Records that nothing depends on are taken as they are, where they verify.
    fn notes(&mut self) -> Result<(), StoreError> {
        for (table, kind) in [
            (Table::Audit, Kind::Audit),
            (Table::Damaged, Kind::DamagedRecord),
            (Table::Gaps, Kind::Gap),
            (Table::QuarantinedRequest, Kind::QuarantinedRequest),
        ] {
            for (key, _) in self.found.keys(table).filter(|(_, row)| row.is_there()) {
                match get_long(self.found, table, key)
                    .and_then(|s| Ok(codec::open_any(kind, &s.unwrap_or_default()).map(drop)?))
                {
                    Ok(()) => self.copy_long(table, key)?,
                    Err(StoreError::Damaged(why)) => {
                        self.accounts.damaged.push(format!("`{}` record {}: {why}", table.name(), number_of(key)?));
                    }
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(())
    }

    /// What is known of destinations, and the door; names and counters are written for themselves.
    fn meta(&mut self) -> Result<(), StoreError> {
        let own = |key: &[u8]| key.starts_with(TOTALS) || key.starts_with(b"names.");
        for (row_key, _) in self.found.rows(Table::Meta).filter(|(key, row)| row.is_there() && !own(key)) {
            let Some(value) = self.found.row(Table::Meta, row_key)? else { continue };
            let verifies = |sealed: &[u8]| codec::kind_of(sealed).is_some_and(|kind| codec::open(kind, sealed).is_ok());
            if verifies(&value) {
                self.draft.put(Table::Meta, row_key.to_vec(), value);
                continue;
            }
            let (key, part) = row_key.split_at(row_key.len().saturating_sub(2));
            if part != [0, 0] && self.found.known(Table::Meta, &[key, &[0, 0]].concat()).is_some() {
                continue; // it is written with the first part
            }
            match get_long(self.found, Table::Meta, key) {
                Ok(Some(sealed)) if verifies(&sealed) => self.draft.put_long(Table::Meta, key, &sealed),
                Ok(_) | Err(StoreError::Damaged(_)) => {
                    self.accounts.damaged.push(format!("`meta` record {}", String::from_utf8_lossy(key)));
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn totals(&mut self, names: &Names, next_settlement: u64) -> Result<Totals, StoreError> {
        let survey = self.survey;
        let next_sequence = survey.next_sequence().max(1);
        let history_head = self.fates.packed.keys().next().copied().unwrap_or(next_sequence);
        let bytes = |of: &BTreeMap<DeliveryId, Kept>| of.values().map(|kept| kept.bytes as u64).sum();
        let next =
            |table: Table| self.found.keys(table).filter_map(|(key, _)| number_of(key).ok()).max().map_or(1, |n| n + 1);
        let audit = survey.totals.next_audit.max(next(Table::Audit));
        let mut totals = Totals {
            next_sequence: Sequence(next_sequence),
            next_settlement,
            next_audit: audit + 1,
            next_damaged: survey.totals.next_damaged.max(next(Table::Damaged)),
            history_head: Sequence(history_head),
            floor: Sequence(self.fates.live.first().copied().unwrap_or(next_sequence)),
            accepted: survey.totals.accepted.max(if survey.totals_known { 0 } else { next_sequence - 1 }),
            damaged: survey.totals.damaged + survey.damaged.len() as u64,
            page_bytes: self
                .fates
                .live
                .iter()
                .filter_map(|first| survey.pages.get(first))
                .map(|p| u64::from(p.bytes))
                .sum(),
            delay_bytes: bytes(&survey.delayed),
            dlq_bytes: bytes(&survey.dead),
            ..survey.totals.clone()
        };
        if survey.totals_known {
            totals.accepted += next_sequence - survey.totals.next_sequence.0;
        }
        for (d, _) in names.destinations() {
            let (tally, unaccounted) = self.tally(d);
            self.accounts.unaccounted += unaccounted;
            *totals.tally(d) = tally;
        }
        let what = "salvaged from a damaged store".to_owned();
        let (who, count) = ("holdline verify --salvage".to_owned(), self.accounts.unaccounted);
        let record = Audit { at: self.now, who, what, count, since: None };
        self.draft.put_long(Table::Audit, &number_key(audit), &record.encode());
        Ok(totals)
    }

    /// The books of a destination balance again: what the counters know and nothing else is discarded.
    fn tally(&self, d: DestinationId) -> (Counters, u64) {
        let survey = self.survey;
        let count = |of: &BTreeMap<DeliveryId, Kept>| of.keys().filter(|id| id.destination == d).count() as u64;
        let (delayed, dead) = (count(&survey.delayed), count(&survey.dead));
        let present = self.fates.left.get(&d).copied().unwrap_or(0) + delayed + dead;
        let mut tally = Counters { delayed, dead, ..survey.totals.tally_of(d) };
        let since = if survey.totals_known { survey.totals.next_settlement } else { 0 };
        for (_, settlement) in survey.settlements.range(since..).filter(|(_, s)| s.id.destination == d) {
            match settlement.how {
                EndKind::Delivered => tally.delivered += 1,
                EndKind::Discarded => tally.discarded += 1,
                EndKind::Dead | EndKind::Moved => {}
            }
        }
        let uncounted = |n: u64| !survey.totals_known || n >= survey.totals.next_sequence.0;
        for (first, (_, entries)) in &self.fates.packed {
            let to = |(n, to): &(u64, DestinationSet)| uncounted(*n) && to.has(d);
            tally.accepted += (*first..).zip(entries.iter().map(|e| e.to)).filter(to).count() as u64;
        }
        let ended = tally.delivered + tally.discarded;
        tally.accepted = tally.accepted.max(present);
        let expected = tally.accepted.saturating_sub(ended);
        if expected < present {
            // at least once: some that were counted as delivered are made again
            tally.delivered = tally.delivered.saturating_sub(present - expected);
            tally.accepted = tally.accepted.max(tally.delivered + tally.discarded + present);
            return (tally, 0);
        }
        tally.discarded += expected - present;
        (tally, expected - present)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Digest64;
    use crate::store::engine::folder::Folder;
    use crate::store::model::record::{Entry, Gap, Hold, PageShape, Settlement};
    use crate::store::model::table::{hold_key, redrive_list_key};
    use crate::store::offline::salvage::scan::tests::found;

    const HERE: DestinationId = DestinationId(1);

    /// Rows as they lie in a store.
    type Lying = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

    /// What a writer of these writes; the rows that lie in the new store then come with it.
    fn written<T>(
        found: &Found,
        survey: &Survey,
        fates: &Fates,
        write: impl FnOnce(&mut Writer) -> T,
    ) -> (T, Accounts, Lying) {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(Folder::open(dir.path()).unwrap()).unwrap();
        let now = Timestamp(9);
        let (draft, accounts) = (WriteBatch::default(), Accounts::default());
        let mut writer = Writer { engine: &engine, found, survey, fates, now, draft, accounts };
        let made = write(&mut writer);
        writer.commit().unwrap();
        let accounts = writer.accounts;
        let rows = Table::ALL.into_iter().flat_map(|table| {
            engine
                .range(table, ..)
                .map(move |row| row.map(|(key, value)| ((table, key.to_vec()), value.to_vec())).unwrap())
        });
        (made, accounts, rows.collect())
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
        let gap = Gap { from: Timestamp(1), until: Timestamp(2), reason: "disk".to_owned(), refused: 3 };
        let good = [
            (Table::Audit, 1, audit("one")),
            (Table::Audit, 3, audit(&"long ".repeat(5000))),
            (Table::Gaps, 1, codec::encode(Kind::Gap, &gap)),
            (Table::Damaged, 1, codec::encode(Kind::DamagedRecord, &7u64)),
            (Table::QuarantinedRequest, 4, codec::encode(Kind::QuarantinedRequest, &7u64)),
        ];
        let mut was = WriteBatch::default();
        good.iter().for_each(|(table, n, sealed)| was.put_long(*table, &number_key(*n), sealed));
        let (_dir, found) = found(|draft| {
            *draft = was.clone();
            draft.put_long(Table::Audit, &number_key(2), &spoiled(audit("two")));
            draft.put_long(Table::Gaps, &number_key(2), &spoiled(codec::encode(Kind::Gap, &gap)));
        });
        let (survey, fates) = (Survey::default(), Fates::default());
        let (done, accounts, rows) = written(&found, &survey, &fates, |writer| writer.notes());
        done.unwrap();
        let damaged = ["`audit` record 2: ", "`gaps` record 2: "];
        assert!(accounts.damaged.iter().zip(damaged).all(|(is, must)| is.starts_with(must)), "{:?}", accounts.damaged);
        assert_eq!(accounts.damaged.len(), damaged.len());
        assert_eq!(accounts.copied, BTreeMap::from([("audit", 2), ("gaps", 1), ("quarantine", 1), ("detained", 1)]));
        let must = Table::ALL.into_iter().zip(was.into_tables());
        let must = must.flat_map(|(table, rows)| rows.into_iter().map(move |(key, row)| ((table, key), row.unwrap())));
        assert_eq!(rows, must.collect());
    }

    #[test]
    fn destination_records_are_salvaged_or_named() {
        let hold = |until| codec::encode(Kind::Hold, &Hold { until: Timestamp(until), reason: String::new() });
        let list = codec::encode(Kind::RedriveList, &vec![7u64; 5000]);
        let (_dir, found) = found(|draft| {
            draft.put(Table::Meta, hold_key(DestinationId(0)), hold(1));
            draft.put(Table::Meta, hold_key(HERE), spoiled(hold(2)));
            draft.put_long(Table::Meta, &redrive_list_key(DestinationId(2)), &list);
            draft.put_long(Table::Meta, &redrive_list_key(DestinationId(3)), &spoiled(list.clone()));
            draft.put_long(Table::Meta, TOTALS, &codec::encode(Kind::Totals, &Totals::default()));
            draft.put_long(Table::Meta, b"names.kinds", &codec::encode(Kind::Names, &vec!["a"]));
        });
        let (survey, fates) = (Survey::default(), Fates::default());
        let (done, accounts, rows) = written(&found, &survey, &fates, |writer| writer.meta());
        done.unwrap();
        let mut must = WriteBatch::default();
        must.put(Table::Meta, hold_key(DestinationId(0)), hold(1));
        must.put_long(Table::Meta, &redrive_list_key(DestinationId(2)), &list);
        let must = must.into_tables()[Table::Meta as usize].clone();
        assert_eq!(rows, must.into_iter().map(|(key, row)| ((Table::Meta, key), row.unwrap())).collect());
        let damaged = ["`meta` record hold", "`meta` record redrive-list.\u{3}"];
        assert!(accounts.damaged.iter().zip(damaged).all(|(is, must)| is.starts_with(must)), "{:?}", accounts.damaged);
        assert_eq!(accounts.damaged.len(), damaged.len());
    }

    #[test]
    fn a_damaged_name_list_affects_no_other_list() {
        let list = |names: &[&str]| codec::encode(Kind::Names, &names);
        let (_dir, found) = found(|draft| {
            draft.put_long(Table::Meta, b"names.destinations", &list(&["crm", "wallboard"]));
            draft.put_long(Table::Meta, b"names.sources", &list(&["pbx"]));
            draft.put_long(Table::Meta, b"names.kinds", &spoiled(list(&["call.ended"])));
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

    /// So many events to [`HERE`] in each page.
    fn packed(first: u64, counts: &[u16]) -> BTreeMap<u64, (PageShape, Vec<Entry>)> {
        let begins = counts.iter().scan(first, |at, count| Some(std::mem::replace(at, *at + u64::from(*count))));
        let page = |count: u16| (PageShape { count, bytes: 10 }, vec![entry(HERE); usize::from(count)]);
        begins.zip(counts).map(|(first, count)| (first, page(*count))).collect()
    }

    #[test]
    fn history_rows_have_whole_pages_within_their_limit() {
        let (_dir, found) = found(|_| ());
        let fates = Fates { packed: packed(5, &[100, 100, 30, 1, 100]), ..Fates::default() };
        let survey = Survey::default();
        let (done, accounts, rows) = written(&found, &survey, &fates, |writer| writer.history());
        done.unwrap();
        let row = |((_, key), sealed): (&(Table, Vec<u8>), &Vec<u8>)| {
            let row = delta_encoding::decode::<HistoryRow>(sealed).unwrap();
            (number_of(key).unwrap(), row.pages.iter().map(|page| page.count).collect::<Vec<_>>(), row.entries.len())
        };
        assert_eq!(rows.iter().map(row).collect::<Vec<_>>(), [(5, vec![100, 100, 30], 230), (235, vec![1, 100], 101)]);
        assert_eq!(accounts.copied, BTreeMap::from([("history", 331)]));
    }

    fn kept(destination: DestinationId, of: &[u64]) -> BTreeMap<DeliveryId, Kept> {
        let id = |n: &u64| DeliveryId { sequence: Sequence(*n), destination };
        of.iter().map(|n| (id(n), Kept { key: Vec::new(), lsn: 1, bytes: 10 })).collect()
    }

    /// The tally of [`HERE`], and what is unaccounted, where the counters know of ten that were accepted before event 11, of
    /// which four were delivered and one discarded, settlements 1 to 5; two are dead and one waits for its time.
    fn tally(totals_known: bool, left: u64, later: &[EndKind]) -> ((u64, u64, u64, u64, u64), u64) {
        let (_dir, found) = found(|_| ());
        let mut survey =
            Survey { totals_known, delayed: kept(HERE, &[8]), dead: kept(HERE, &[6, 7]), ..Survey::default() };
        survey.dead.extend(kept(DestinationId(2), &[6]));
        let settled = |n: u64, how| {
            let id = DeliveryId { sequence: Sequence(n), destination: HERE };
            (n, Settlement { id, how, attempts: 1, status: 0, at: Timestamp(1) })
        };
        let before =
            [EndKind::Delivered, EndKind::Delivered, EndKind::Delivered, EndKind::Delivered, EndKind::Discarded];
        survey.settlements = (1..).zip(before.iter().chain(later)).map(|(n, how)| settled(n, *how)).collect();
        let mut other = settled(90, EndKind::Delivered);
        other.1.id.destination = DestinationId(2);
        survey.settlements.extend([other]);
        if totals_known {
            survey.totals.next_sequence = Sequence(11);
            survey.totals.next_settlement = 6;
            let known = Counters { accepted: 10, delivered: 4, discarded: 1, dead: 9, delayed: 9 };
            *survey.totals.tally(HERE) = known;
        }
        let fates = Fates { packed: packed(1, &[9, 3]), left: [(HERE, left)].into(), ..Fates::default() };
        let ((is, unaccounted), ..) = written(&found, &survey, &fates, |writer| writer.tally(HERE));
        assert_eq!(is.accepted, is.delivered + is.discarded + is.dead + is.delayed + left, "the books balance");
        ((is.accepted, is.delivered, is.discarded, is.dead, is.delayed), unaccounted)
    }

    #[test]
    fn salvaged_counters_balance_by_the_records_found() {
        // events 11 and 12 came behind the counters, and what settled behind them counts, too
        let later = [EndKind::Delivered, EndKind::Moved, EndKind::Discarded, EndKind::Dead];
        assert_eq!(tally(true, 2, &later), ((12, 5, 2, 2, 1), 0));
        assert_eq!(tally(true, 4, &[]), ((12, 4, 1, 2, 1), 0));
        // what is known and not there is given up, and told
        assert_eq!(tally(true, 1, &[]), ((12, 4, 4, 2, 1), 3));
        // what is there and was counted as delivered is made again
        assert_eq!(tally(true, 6, &[]), ((12, 2, 1, 2, 1), 0));
        assert_eq!(tally(true, 20, &[]), ((24, 0, 1, 2, 1), 0));
        // without counters all is counted anew
        assert_eq!(tally(false, 2, &later), ((12, 5, 2, 2, 1), 0));
        assert_eq!(tally(false, 0, &[]), ((12, 4, 5, 2, 1), 4));
    }
}
