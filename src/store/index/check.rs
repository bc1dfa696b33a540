//! `check`: compares all rows of the store with the index, for every invariant that can be checked in this way.
//!
//! It runs between two commits of a running store, or on a store that was just recovered.

use super::Index;
use crate::delivery::{DeadLetter, Delivery};
use crate::event::{DestinationId, Sequence};
use crate::store::engine::error::StoreError;
use crate::store::engine::{Engine, read};
use crate::store::model::delta_encoding::{self, Deltas};
use crate::store::model::event_record::{self, Compact};
use crate::store::model::record::{HistoryRow, SettledRow};
use crate::store::model::table::{Table, delay_of, dlq_of, number_key, number_of};
use std::collections::{BTreeMap, BTreeSet};

/// Descriptions of all violated invariants.
pub fn check(engine: &Engine, index: &Index) -> Result<Vec<String>, StoreError> {
    let mut faults = Vec::new();
    let blobs = engine.folder().blob_files();
    if blobs > 0 {
        faults.push(format!("{blobs} blob files exist; they are never synced"));
    }
    let totals = &index.totals;
    covered::<HistoryRow>(engine, totals.history_head.0, totals.next_sequence.0, &mut faults)?;
    covered::<SettledRow>(engine, totals.settled_head, totals.next_settlement, &mut faults)?;
    pages(engine, index, &mut faults)?;
    let delayed = long::<Delivery>(engine, Table::Delay, &mut faults, |key, delivery| {
        delay_of(key).is_ok_and(|(_, id)| id == delivery.id)
    })?;
    let dead = long::<DeadLetter>(engine, Table::Dlq, &mut faults, |key, dead_letter| {
        dlq_of(key).is_ok_and(|id| id == dead_letter.delivery.id)
    })?;
    let count = |of: &BTreeMap<Vec<u8>, usize>, at: usize| -> BTreeMap<DestinationId, u64> {
        of.keys().filter_map(|key| dlq_of(&key[at..]).ok()).fold(BTreeMap::new(), |mut n, id| {
            *n.entry(id.destination).or_default() += 1;
            n
        })
    };
    let (delayed_by, dead_by) = (count(&delayed, 8), count(&dead, 0));
    for id in delayed.keys().filter_map(|key| delay_of(key).ok()).map(|(_, id)| id) {
        if index.pages.left(id.sequence).has(id.destination) {
            faults.push(format!("delivery {id} lies in a page and in the delay tree"));
        }
    }
    if let Some(delay_index) = index.delay_index.all() {
        let rows = delayed.keys().filter_map(|key| delay_of(key).ok());
        if !rows
            .map(|(due, id)| (id, due))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .eq(delay_index.iter().map(|(id, due)| (*id, due.at)))
        {
            faults.push(format!(
                "the index of `delay` has {} deliveries, and not those of its {} rows",
                delay_index.len(),
                delayed.len()
            ));
        }
    }
    for (what, rows, bytes) in [("delay", &delayed, totals.delay_bytes), ("dlq", &dead, totals.dlq_bytes)] {
        let found: usize = rows.values().sum();
        if found as u64 != bytes {
            faults.push(format!("`{what}` holds {found} bytes, the counters say {bytes}"));
        }
    }
    dead_by_source(engine, index, &mut faults)?;
    tallies(index, &delayed_by, &dead_by, &mut faults);
    Ok(faults)
}

/// Compares the counted bytes of dead letters of each source with the stored ones, once the count is complete.
fn dead_by_source(engine: &Engine, index: &Index, faults: &mut Vec<String>) -> Result<(), StoreError> {
    let Some(counted) = index.dead.all() else { return Ok(()) };
    let mut found = BTreeMap::<String, u64>::new();
    for key in read::keys(engine, Table::Dlq, None) {
        match read::sized_head::<DeadLetter>(engine, Table::Dlq, &key?) {
            Ok(Some((head, bytes))) => {
                *found.entry(head.record.delivery.event.source.clone()).or_default() += bytes as u64;
            }
            Ok(None) | Err(StoreError::Damaged(_)) => {}
            Err(e) => return Err(e),
        }
    }
    let named = |(source, bytes): (u16, u64)| Some((index.names.source_name(source)?.to_owned(), bytes));
    let counted: BTreeMap<String, u64> = counted.into_iter().filter_map(named).collect();
    found.retain(|source, _| index.names.sources().any(|named| named == source));
    if found != counted {
        faults.push(format!("dead letters by source: {found:?}, counted {counted:?}"));
    }
    Ok(())
}

fn covered<R: Deltas>(engine: &Engine, head: u64, end: u64, faults: &mut Vec<String>) -> Result<(), StoreError> {
    let mut next = head;
    for row in engine.range(R::TABLE, ..) {
        let (key, sealed) = row?;
        let first = number_of(&key)?;
        match delta_encoding::decode::<R>(&sealed) {
            Ok(row) if first == next => next += row.span() as u64,
            Ok(row) => {
                faults.push(format!("`{}` goes on at {first}, not at {next}", R::TABLE.name()));
                next = first + row.span() as u64;
            }
            Err(why) => faults.push(format!("`{}` row {first}: {why}", R::TABLE.name())),
        }
    }
    if next != end {
        faults.push(format!("`{}` ends at {next}, the counters say {end}", R::TABLE.name()));
    }
    Ok(())
}

/// Every page in the index exists and is complete, and no other page exists.
fn pages(engine: &Engine, index: &Index, faults: &mut Vec<String>) -> Result<(), StoreError> {
    let mut known = BTreeSet::new();
    for (first, shape) in index.pages.iter() {
        known.insert(number_key(first.0));
        match read::page(engine, first) {
            Ok(events) if events.len() == usize::from(shape.count) => {}
            Ok(events) => faults.push(format!("page {first} holds {} events, not {}", events.len(), shape.count)),
            Err(StoreError::Damaged(why)) => faults.push(format!("page {first}: {why}")),
            Err(e) => return Err(e),
        }
    }
    for key in read::keys(engine, Table::Pages, None) {
        let key = key?;
        if !known.contains(&key) {
            faults.push(format!("page {} has no delivery left and is still there", number_of(&key)?));
        }
    }
    Ok(())
}

/// Sealed lengths of all long records of a table, by key; damaged ones are reported as faults.
fn long<R: Compact>(
    engine: &Engine,
    table: Table,
    faults: &mut Vec<String>,
    belongs: impl Fn(&[u8], &R) -> bool,
) -> Result<BTreeMap<Vec<u8>, usize>, StoreError> {
    let mut found = BTreeMap::new();
    for key in read::keys(engine, table, None) {
        let key = key?;
        let sealed = crate::store::model::table::get_long(engine, table, &key);
        match sealed.and_then(|s| Ok((event_record::decode::<R>(s.as_deref().unwrap_or_default())?, s))) {
            Ok((record, sealed)) => {
                if !belongs(&key, &record) {
                    faults.push(format!("`{}` holds a record under another's key", table.name()));
                }
                found.insert(key, sealed.map_or(0, |s| s.len()));
            }
            Err(StoreError::Damaged(why)) => faults.push(format!("`{}` record: {why}", table.name())),
            Err(e) => return Err(e),
        }
    }
    Ok(found)
}

/// accepted = queued + delivered + dead + discarded, for every destination, compared with the stored records.
fn tallies(
    index: &Index,
    delayed: &BTreeMap<DestinationId, u64>,
    dead: &BTreeMap<DestinationId, u64>,
    faults: &mut Vec<String>,
) {
    let mut paged: BTreeMap<DestinationId, u64> = BTreeMap::new();
    for (first, shape) in index.pages.iter() {
        for n in 0..u64::from(shape.count) {
            for d in index.pages.left(Sequence(first.0 + n)).iter() {
                *paged.entry(d).or_default() += 1;
            }
        }
    }
    for (n, tally) in index.totals.counters.iter().enumerate() {
        let d = DestinationId(n as u8);
        let of = |map: &BTreeMap<_, u64>| map.get(&d).copied().unwrap_or(0);
        let (paged, delayed, dead) = (of(&paged), of(delayed), of(dead));
        if (delayed, dead) != (tally.delayed, tally.dead) || paged + delayed != tally.queued() {
            let name = index.names.destination_name(d);
            faults.push(format!(
                "`{name}`: {paged} in pages, {delayed} delayed, {dead} dead; the counters say {tally:?}"
            ));
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::delivery::DeliveryId;
    use crate::event::{DestinationSet, Event};
    use crate::store::engine::folder::Folder;
    use crate::store::model::codec;
    use crate::store::model::event_record::{pack, seal_page};
    use crate::store::model::record::{EndKind, PageShape, Settlement};
    use crate::store::model::table::WriteBatch;
    use crate::time::Timestamp;

    fn engine(path: &std::path::Path) -> Engine {
        Engine::open(Folder::open(path).unwrap()).unwrap()
    }

    fn event(n: u64) -> Event {
        Event {
            received_at: Timestamp(1),
            sender_id: None,
            body: vec![7; 10].into(),
            ..crate::testing::events::event(n)
        }
    }

    /// A page of two events that the index counts as three.
    pub fn short_page(path: &std::path::Path) -> (Engine, Index) {
        let engine = engine(path);
        let (mut packed, mut batch) = (Vec::new(), WriteBatch::default());
        (1..=2).for_each(|n| pack(&mut packed, &codec::payload(&event(n))));
        batch.put_long(Table::Pages, &number_key(1), &seal_page(&packed));
        engine.commit(batch).unwrap();
        let mut index = Index::default();
        index.pages.insert(Sequence(1), PageShape { count: 3, bytes: 9 }, Timestamp(1), &[DestinationSet(1); 3], 1);
        (engine, index)
    }

    #[test]
    fn a_page_that_disagrees_with_history_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let (engine, index) = short_page(dir.path());
        let mut faults = Vec::new();
        pages(&engine, &index, &mut faults).unwrap();
        assert_eq!(faults, ["page 1 holds 2 events, not 3"]);
    }

    #[test]
    fn a_gap_between_rows_is_reported_once() {
        let dir = tempfile::tempdir().unwrap();
        let (engine, mut batch) = (engine(dir.path()), WriteBatch::default());
        let id = DeliveryId { sequence: Sequence(1), destination: DestinationId(0) };
        let ended = Settlement { id, how: EndKind::Delivered, attempts: 1, status: 200, at: Timestamp(1) };
        for (first, count) in [(1, 2), (5, 1), (6, 2)] {
            let row = SettledRow { settlements: vec![ended.clone(); count] };
            batch.put(Table::Settled, number_key(first), delta_encoding::encode(&row));
        }
        engine.commit(batch).unwrap();
        let mut faults = Vec::new();
        covered::<SettledRow>(&engine, 1, 8, &mut faults).unwrap();
        assert_eq!(faults, ["`settled` goes on at 5, not at 3"]);
        covered::<SettledRow>(&engine, 1, 9, &mut faults).unwrap();
        assert_eq!(faults[2], "`settled` ends at 8, the counters say 9");
    }

    #[test]
    fn a_blob_file_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine(dir.path());
        assert_eq!(check(&engine, &Index::default()).unwrap(), Vec::<String>::new());
        let blobs = engine.folder().queue().join("blobs");
        std::fs::create_dir_all(&blobs).unwrap();
        std::fs::write(blobs.join("7"), b"x").unwrap();
        let faults = check(&engine, &Index::default()).unwrap();
        assert!(faults.len() == 1 && faults[0].starts_with("1 blob files "), "{faults:?}");
    }
}
