//! Reads rows and records, from any thread, while the committer writes.
//!
//! *Invariants.* sled's iterators are not snapshots, and the committer merges small rows. So consecutive rows are read by
//! seeking the next number; the code never assumes that the next row begins there.

use super::Engine;
use super::error::StoreError;
use crate::event::{Event, Sequence};
use crate::store::model::codec::{self, Damaged, Kind};
use crate::store::model::delta_encoding::{self, Deltas};
use crate::store::model::event_record::{self, Compact, Head, open_page, unpack};
use crate::store::model::record::{Entry, HistoryRow};
use crate::store::model::table::{self, ROW_MAX, Rows, Table, number_key, number_of, part_key};
use serde::de::DeserializeOwned;
use std::ops::Bound;

/// From this length on [`keys`] seeks the next record, which costs less than reading the rows of this one.
const SKIP_BYTES_MIN: usize = 4 * ROW_MAX;

/// The row that contains `number`, and the number at which the row begins.
pub fn covering<R: Deltas>(engine: &Engine, number: u64) -> Result<Option<(u64, R)>, StoreError> {
    let Some(row) = engine.range(R::TABLE, ..=number_key(number)).next_back() else { return Ok(None) };
    let (key, sealed) = row?;
    let first = number_of(&key)?;
    let row: R = delta_encoding::decode(&sealed)?;
    Ok((number < first + row.span() as u64).then_some((first, row)))
}

/// The history entry of an event; `None` if it was deleted or does not verify.
pub fn entry(engine: &Engine, at: Sequence) -> Result<Option<Entry>, StoreError> {
    match covering::<HistoryRow>(engine, at.0) {
        Ok(row) => Ok(row.and_then(|(first, row)| row.entries.get((at.0 - first) as usize).cloned())),
        Err(StoreError::Damaged(_)) => Ok(None),
        Err(e) => Err(e),
    }
}

/// All events of the page that begins at `first`.
pub fn page(engine: &Engine, first: Sequence) -> Result<Vec<Event>, StoreError> {
    let sealed = table::get_long(engine, Table::Pages, &number_key(first.0))?.ok_or(Damaged::Missing)?;
    unpack(&open_page(&sealed)?)?.into_iter().map(|record| Ok(codec::from_payload(record)?)).collect()
}

/// A long record by its key, decoded.
pub fn record<T: DeserializeOwned>(
    engine: &Engine,
    table: Table,
    kind: Kind,
    key: &[u8],
) -> Result<Option<T>, StoreError> {
    match table::get_long(engine, table, key)? {
        Some(sealed) => Ok(Some(codec::decode(kind, &sealed)?)),
        None => Ok(None),
    }
}

/// A delivery or a dead letter by its key.
pub fn compact<R: Compact>(engine: &Engine, table: Table, key: &[u8]) -> Result<Option<R>, StoreError> {
    let sealed = table::get_long(engine, table, key)?;
    Ok(sealed.map(|sealed| event_record::decode(&sealed)).transpose()?)
}

/// The head of a delivery or a dead letter by its key; reads only the rows that contain the head.
pub fn head<R: Compact>(engine: &Engine, table: Table, key: &[u8]) -> Result<Option<Head<R>>, StoreError> {
    Ok(sized_head(engine, table, key)?.map(|(head, _)| head))
}

/// The head of a delivery or a dead letter, and the sealed length of the whole record.
pub fn sized_head<R: Compact>(
    engine: &Engine,
    table: Table,
    key: &[u8],
) -> Result<Option<(Head<R>, usize)>, StoreError> {
    head_of(key, |row| engine.row(table, row))
}

/// As [`sized_head`], of rows that are not yet all written.
pub fn head_of<R: Compact, B: AsRef<[u8]>>(
    key: &[u8],
    row: impl Fn(&[u8]) -> Result<Option<B>, StoreError>,
) -> Result<Option<(Head<R>, usize)>, StoreError> {
    let Some(first) = row(&part_key(key, 0))? else { return Ok(None) };
    let mut beginning = first.as_ref().to_vec();
    let (bytes, sealed_bytes) = (event_record::head_bytes(&beginning)?, codec::sealed_length(&beginning)?);
    for part in 1..bytes.div_ceil(ROW_MAX) {
        beginning.extend(row(&part_key(key, part))?.ok_or(Damaged::Short)?.as_ref());
    }
    beginning.truncate(bytes);
    Ok(Some((event_record::head(&beginning)?, sealed_bytes)))
}

/// Sealed length of a long record, from its first row.
pub fn sealed_length(engine: &Engine, table: Table, key: &[u8]) -> Result<Option<usize>, StoreError> {
    let first = engine.row(table, &part_key(key, 0))?;
    Ok(first.map(|first| codec::sealed_length(&first)).transpose()?)
}

/// The keys of long records after `after`, each once, in order. Does not read all rows of a record with many rows.
pub fn keys(
    engine: &Engine,
    table: Table,
    after: Option<Vec<u8>>,
) -> impl Iterator<Item = Result<Vec<u8>, StoreError>> {
    let after_key = move |key: Option<Vec<u8>>| {
        let from = key.map_or(Bound::Unbounded, |key| Bound::Excluded([&key[..], &[0xFF; 2]].concat()));
        engine.range(table, (from, Bound::Unbounded))
    };
    let mut rows = after_key(after);
    std::iter::from_fn(move || {
        loop {
            let (key, value) = match rows.next()? {
                Ok(row) => row,
                Err(e) => return Some(Err(e)),
            };
            // the key of a long record ends in its part number
            if let Some(key) = key.strip_suffix(&[0, 0]).map(<[u8]>::to_vec) {
                if codec::sealed_length(&value).is_ok_and(|length| length > SKIP_BYTES_MIN) {
                    rows = after_key(Some(key.clone()));
                }
                return Some(Ok(key));
            }
        }
    })
}
