//! Reading the rows, from any thread, while the committer writes.
//!
//! *Invariants.* sled's iterators are no snapshot, and the committer rewrites small rows as dense ones; so consecutive
//! rows are read by seeking the number that comes next, never by trusting that the next row begins there.

use super::StoreError;
use super::codec::{self, Damaged, Kind};
use super::delta::{self, Deltas};
use super::draft::{self, Table};
use super::engine::Engine;
use super::keys::{number_key, number_of};
use super::page::{open_page, unpack};
use super::record::{Entry, HistoryRow};
use crate::event::{Event, Sequence};
use serde::de::DeserializeOwned;

/// The row that covers `number`, with the number at which it begins; none where no row does.
pub(super) fn covering<R: Deltas>(engine: &Engine, number: u64) -> Result<Option<(u64, R)>, StoreError> {
    let Some(row) = engine.range(R::TABLE, ..=number_key(number)).next_back() else { return Ok(None) };
    let (key, sealed) = row?;
    let first = number_of(&key)?;
    let row: R = delta::decode(&sealed)?;
    Ok((number < first + row.span() as u64).then_some((first, row)))
}

/// What is remembered of an event; none where it is no longer, or does not verify.
pub(super) fn entry(engine: &Engine, at: Sequence) -> Result<Option<Entry>, StoreError> {
    match covering::<HistoryRow>(engine, at.0) {
        Ok(row) => Ok(row.and_then(|(first, row)| row.entries.get((at.0 - first) as usize).cloned())),
        Err(StoreError::Damaged(_)) => Ok(None),
        Err(e) => Err(e),
    }
}

/// All events of the page that begins at `first`.
pub(super) fn page(engine: &Engine, first: Sequence) -> Result<Vec<Event>, StoreError> {
    let sealed = draft::get_long(engine, Table::Pages, &number_key(first.0))?.ok_or(Damaged::Missing)?;
    unpack(&open_page(&sealed)?)?.into_iter().map(|record| Ok(codec::from_payload(record)?)).collect()
}

/// A long record by its key, decoded.
pub(super) fn record<T: DeserializeOwned>(
    engine: &Engine,
    table: Table,
    kind: Kind,
    key: &[u8],
) -> Result<Option<T>, StoreError> {
    match draft::get_long(engine, table, key)? {
        Some(sealed) => Ok(Some(codec::decode(kind, &sealed)?)),
        None => Ok(None),
    }
}

/// The keys of long records from `after` on (not included), each once, in order.
pub(super) fn keys(
    engine: &Engine,
    table: Table,
    after: Option<Vec<u8>>,
) -> impl Iterator<Item = Result<Vec<u8>, StoreError>> {
    let from = after.map_or(std::ops::Bound::Unbounded, |mut key| {
        key.extend([0xFF; 2]);
        std::ops::Bound::Excluded(key)
    });
    engine.range(table, (from, std::ops::Bound::Unbounded)).filter_map(|row| match row {
        // the key of a long record ends in its part number
        Ok((key, _)) => key.strip_suffix(&[0, 0]).map(|key| Ok(key.to_vec())),
        Err(e) => Some(Err(e)),
    })
}
