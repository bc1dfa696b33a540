//! The new store, made of what was found.

use super::fate::Fates;
use super::survey::{Kept, Survey};
use crate::delivery::DeliveryId;
use crate::event::{DestinationId, DestinationSet, Sequence};
use crate::store::StoreError;
use crate::store::codec::{self, Kind};
use crate::store::delta;
use crate::store::draft::{Draft, Rows, Table, get_long};
use crate::store::engine::Engine;
use crate::store::keys::{TOTALS, number_key, number_of};
use crate::store::log::rows::Found;
use crate::store::names::Names;
use crate::store::record::{Audit, HistoryRow, How, SettledRow, Tally, Totals};
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
    pub draft: Draft,
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
        self.draft.put(Table::History, number_key(first), delta::encode(&row));
        self.counted(Table::History, row.entries.len() as u64)
    }

    /// Numbers them anew, so that none is missing; returns the next number.
    fn settled(&mut self) -> Result<u64, StoreError> {
        let mut next = self.survey.totals.settled_head;
        for chunk in self.fates.settlements.chunks(SettledRow::SETTLEMENTS_MAX) {
            let row = SettledRow { settlements: chunk.to_vec() };
            self.draft.put(Table::Settled, number_key(next), delta::encode(&row));
            next += chunk.len() as u64;
            self.counted(Table::Settled, chunk.len() as u64)?;
        }
        Ok(next)
    }

    /// Records that nothing depends on are taken as they are, where they verify.
    fn notes(&mut self) -> Result<(), StoreError> {
        for (table, kind) in [
            (Table::Audit, Kind::Audit),
            (Table::Quarantine, Kind::Quarantined),
            (Table::Gaps, Kind::Gap),
            (Table::Detained, Kind::Detained),
        ] {
            for (key, _) in self.found.keys(table).filter(|(_, row)| row.is_there()) {
                match get_long(self.found, table, key)
                    .and_then(|s| Ok(codec::open(kind, &s.unwrap_or_default()).map(drop)?))
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
            next_quarantine: survey.totals.next_quarantine.max(next(Table::Quarantine)),
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
        let record =
            Audit { at: self.now, who: "holdline verify --salvage".to_owned(), what, count: self.accounts.unaccounted };
        self.draft.put_long(Table::Audit, &number_key(audit), &codec::encode(Kind::Audit, &record));
        Ok(totals)
    }

    /// The books of a destination balance again: what the counters know and nothing else is discarded.
    fn tally(&self, d: DestinationId) -> (Tally, u64) {
        let survey = self.survey;
        let count = |of: &BTreeMap<DeliveryId, Kept>| of.keys().filter(|id| id.destination == d).count() as u64;
        let (delayed, dead) = (count(&survey.delayed), count(&survey.dead));
        let present = self.fates.left.get(&d).copied().unwrap_or(0) + delayed + dead;
        let mut tally = Tally { delayed, dead, ..survey.totals.tally_of(d) };
        let since = if survey.totals_known { survey.totals.next_settlement } else { 0 };
        for (_, settlement) in survey.settlements.range(since..).filter(|(_, s)| s.id.destination == d) {
            match settlement.how {
                How::Delivered => tally.delivered += 1,
                How::Discarded => tally.discarded += 1,
                How::Dead | How::Moved => {}
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
