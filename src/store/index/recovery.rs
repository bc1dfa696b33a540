//! Recovery: rebuilds the index from `meta`, `history` and `settled`, without reading bodies.
//!
//! *Invariants.* It can be interrupted and repeated without effect. sled silently skips damaged records, so every range of
//! numbers is checked against the totals, and all that is missing is reported.

use super::Index;
use super::names::Names;
use super::pages::Pages;
use super::quarantine_index::{PreparedRequest, QuarantineIndex};
use crate::event::{DestinationId, Digest64, Sequence};
use crate::store::engine::error::StoreError;
use crate::store::engine::{Engine, read};
use crate::store::model::codec::{self, Damaged, Kind};
use crate::store::model::delta_encoding::{self, Deltas};
use crate::store::model::destination::Redrive;
use crate::store::model::quarantined_request::QuarantinedRequest;
use crate::store::model::record::{Entry, HistoryRow, PageShape, SettledRow, Totals};
use crate::store::model::table::{
    self, CLOCK_REFERENCE, INTAKE_OVERRIDE, Rows, TOTALS, Table, number_key, number_of, redrive_key,
};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::ops::Bound;

/// Descriptions of what was missing or damaged at a start, each a line for the operator.
pub type Findings = Vec<String>;

pub fn recover(engine: &Engine) -> Result<(Index, Findings), StoreError> {
    let mut findings = Findings::new();
    let mut index = Index { totals: totals(engine)?, names: names(engine)?, ..Index::default() };
    let lost = "what a destination asked for with Retry-After";
    index.holds = of_destinations(engine, ("hold", Kind::Hold), lost, &mut findings)?;
    let lost = "whether a destination was paused, or its breaker open,";
    index.overrides = of_destinations(engine, ("stance", Kind::DestinationOverrides), lost, &mut findings)?;
    let lost = "how far a destination's ramp and rate had come";
    index.paced = of_destinations(engine, ("paced", Kind::PacingState), lost, &mut findings)?;
    notes(engine, &mut index, &mut findings)?;
    index.redrives = redrives(engine, &index.names, &mut findings)?;
    index.quarantine = quarantined(engine, &mut findings)?;
    let (head, end) = (index.totals.history_head.0, index.totals.next_sequence.0);
    let outages =
        consecutive::<HistoryRow>(engine, head, end, |first, row| remember(&mut index, Sequence(first), row))?;
    for (from, to) in outages {
        findings.push(format!("history of the events {from} to {} is missing", to - 1));
        heal(engine, &mut index, from, to, &mut findings)?;
    }
    let (head, end) = (index.totals.settled_head, index.totals.next_settlement);
    let Index { pages, settlement_index, .. } = &mut index;
    let outages = consecutive::<SettledRow>(engine, head, end, |first, row| {
        for (number, settlement) in (first..).zip(row.settlements) {
            settlement_index.add(number, settlement.id.sequence);
            pages.leave(settlement.id);
        }
    })?;
    for (from, to) in outages {
        findings.push(format!("settlements {from} to {} are missing; those deliveries may be made again", to - 1));
    }
    Ok((index, findings))
}

fn names(engine: &Engine) -> Result<Names, StoreError> {
    Names::read(engine).map_err(|e| match e {
        StoreError::Damaged(why) => StoreError::Corrupt(format!("the names of destinations and sources: {why}")),
        e => e,
    })
}

/// The counters; if a store has rows but no counters, the counters were lost.
fn totals(engine: &Engine) -> Result<Totals, StoreError> {
    let Some(totals) = read::record::<Totals>(engine, Table::Meta, Kind::Totals, TOTALS)? else {
        let any = |table| engine.range(table, ..).next().is_some();
        return match Table::ALL.into_iter().find(|table| any(*table)) {
            None => Ok(Totals::default()),
            Some(table) => {
                Err(StoreError::Corrupt(format!("`{}` has rows but the counters are missing", table.name())))
            }
        };
    };
    Ok(totals)
}

/// The records of all destinations under a prefix, which a dot follows; `lost` is the description for a record that does not
/// verify.
fn of_destinations<T: DeserializeOwned>(
    engine: &Engine,
    (prefix, kind): (&str, Kind),
    lost: &str,
    findings: &mut Findings,
) -> Result<BTreeMap<DestinationId, T>, StoreError> {
    let mut found = BTreeMap::new();
    for row in engine.range(Table::Meta, format!("{prefix}.").into_bytes()..format!("{prefix}/").into_bytes()) {
        let (key, sealed) = row?;
        let d = *key.last().ok_or(Damaged::Content)?;
        match codec::decode(kind, &sealed) {
            Ok(record) => drop(found.insert(DestinationId(d), record)),
            Err(why) => findings.push(format!("{lost} is lost: {why}")),
        }
    }
    Ok(found)
}

/// Reads the intake override, the clock reference, and the number of the next outage.
fn notes(engine: &Engine, index: &mut Index, findings: &mut Findings) -> Result<(), StoreError> {
    match read::record(engine, Table::Meta, Kind::IntakeOverride, INTAKE_OVERRIDE) {
        Err(StoreError::Damaged(why)) => findings.push(format!("whether intake was closed by hand is lost: {why}")),
        intake_override => index.intake_override = intake_override?,
    }
    match engine
        .row(Table::Meta, CLOCK_REFERENCE)?
        .map(|sealed| codec::decode(Kind::ClockReference, &sealed))
        .transpose()
    {
        Err(why) => findings.push(format!("what the stored times go by is lost: {why}")),
        Ok(clock_reference) => index.clock_reference = clock_reference,
    }
    let last = engine.range(Table::Outages, ..).next_back().transpose()?;
    index.next_outage = last.map(|(key, _)| number_of(&key)).transpose()?.map_or(1, |last| last + 1);
    Ok(())
}

/// Visits all rows of `[head, end)` in order and returns the ranges of numbers that no readable row covers.
fn consecutive<R: Deltas>(
    engine: &Engine,
    head: u64,
    end: u64,
    mut visit: impl FnMut(u64, R),
) -> Result<Vec<(u64, u64)>, StoreError> {
    let (mut outages, mut next) = (Vec::new(), head);
    for row in engine.range(R::TABLE, (Bound::Included(number_key(head)), Bound::Excluded(number_key(end)))) {
        let (key, sealed) = row?;
        let first = number_of(&key)?;
        let Ok(row) = delta_encoding::decode::<R>(&sealed) else { continue };
        if first > next {
            outages.push((next, first));
        }
        next = first + row.span() as u64;
        visit(first, row);
    }
    if next < end {
        outages.push((next, end));
    }
    Ok(outages)
}

fn remember(index: &mut Index, first: Sequence, row: HistoryRow) {
    for (n, entry) in (first.0..).zip(&row.entries) {
        if !entry.sender.is_none() {
            index.remembered.insert(entry.sender, Sequence(n));
        }
    }
    let mut at = 0;
    for shape in row.pages {
        let entries = &row.entries[at..at + usize::from(shape.count)];
        add_page(&mut index.pages, index.totals.floor, first.plus(at as u64), shape, entries);
        at += usize::from(shape.count);
    }
}

fn add_page(pages: &mut Pages, floor: Sequence, first: Sequence, shape: PageShape, entries: &[Entry]) {
    if first >= floor {
        let to: Vec<_> = entries.iter().map(|e| e.to).collect();
        pages.insert(first, shape, entries[0].received_at, &to, Entry::copy_bytes(entries));
        pages.attribute(first, &Entry::owners(entries));
    }
}

/// Rebuilds lost history entries from the pages that contain the events.
fn heal(engine: &Engine, index: &mut Index, from: u64, to: u64, findings: &mut Findings) -> Result<(), StoreError> {
    let mut healed = 0;
    let keys: Result<Vec<_>, _> = engine
        .range(Table::Pages, (Bound::Included(number_key(from)), Bound::Excluded(number_key(to))))
        .map(|row| row.map(|(key, _)| key))
        .collect();
    for key in keys? {
        let Some(first) = key.strip_suffix(&[0, 0]).map(number_of).transpose()? else { continue };
        let events = match read::page(engine, Sequence(first)) {
            Ok(events) if !events.is_empty() => events,
            Ok(_) => continue,
            Err(StoreError::Damaged(why)) => {
                findings.push(format!("the page at event {first} does not verify: {why}"));
                continue;
            }
            Err(e) => return Err(e),
        };
        let row = engine.row(Table::Pages, &key)?.ok_or(Damaged::Missing)?;
        let shape = PageShape { count: events.len() as u16, bytes: codec::sealed_length(&row)? as u32 };
        let entries: Vec<Entry> = events
            .iter()
            .map(|event| {
                let sender = event.sender_id.as_deref();
                let sender = sender.map_or(Digest64::NONE, |id| Digest64::of_sender_id(&event.source, id));
                let (source, kind) = (index.names.source(&event.source), index.names.kind(&event.kind));
                Entry::of(event, (sender, event.interaction_hash()), Sequence::default(), source, kind)
            })
            .collect();
        healed += entries.len();
        add_page(&mut index.pages, Sequence(first), Sequence(first), shape, &entries);
    }
    findings.push(format!("{healed} of them are still in their pages; what was not delivered of these will be"));
    Ok(())
}

/// Reads all quarantined requests; a damaged one is reported and stays where it is.
pub fn quarantined(engine: &Engine, findings: &mut Findings) -> Result<QuarantineIndex, StoreError> {
    let mut all = QuarantineIndex::default();
    for key in read::keys(engine, Table::QuarantinedRequest, None) {
        let number = number_of(&key?)?;
        all.next = number + 1;
        let sealed = table::get_long(engine, Table::QuarantinedRequest, &number_key(number));
        match sealed.and_then(|sealed| Ok(sealed.map(|s| QuarantinedRequest::open(&s).map(|d| (d, s))).transpose()?)) {
            Ok(Some((quarantined, sealed))) => all.add(number, &PreparedRequest::of(&quarantined, sealed)),
            Ok(None) => {}
            Err(StoreError::Damaged(why)) => findings.push(format!("a request kept apart is damaged: {why}")),
            Err(e) => return Err(e),
        }
    }
    Ok(all)
}

/// Reads the redrive of each destination.
fn redrives(
    engine: &Engine,
    names: &Names,
    findings: &mut Findings,
) -> Result<BTreeMap<DestinationId, Redrive>, StoreError> {
    let mut found = BTreeMap::new();
    for (d, _) in names.destinations() {
        let Some(sealed) = table::get_long(engine, Table::Meta, &redrive_key(d)).or_else(missing_if_damaged)? else {
            continue;
        };
        match Redrive::decode(&sealed) {
            Ok(redrive) => drop(found.insert(d, redrive)),
            Err(why) => findings.push(format!("how far a redrive had come is lost, start it again: {why}")),
        }
    }
    Ok(found)
}

/// Turns damage into an empty record, which then fails to decode.
fn missing_if_damaged(e: StoreError) -> Result<Option<Vec<u8>>, StoreError> {
    match e {
        StoreError::Damaged(_) => Ok(Some(Vec::new())),
        e => Err(e),
    }
}
