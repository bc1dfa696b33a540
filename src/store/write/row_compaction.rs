//! Row compaction: rewrites small rows of consecutive numbers as full ones.
//!
//! Each commit writes a small row that is kept for hours, next to pages that are kept for moments, and so would keep a whole
//! segment of sled's log in use. So the last small rows are kept in memory and rewritten together as full ones.

use crate::store::model::delta_encoding::{self, Deltas};
use crate::store::model::table::{WriteBatch, number_key};
use std::collections::VecDeque;

/// Number of small rows that are rewritten at once.
const RUN_MAX: usize = 512;

/// The newest rows of a table, while they are small.
#[derive(Debug)]
pub struct Run<R>(VecDeque<(u64, R)>);

impl<R> Default for Run<R> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<R: Deltas> Run<R> {
    /// Writes a new row; when there are enough small rows before it, or the new one is not small, rewrites those as full
    /// ones.
    pub fn write(&mut self, batch: &mut WriteBatch, key: u64, row: R) {
        batch.put(R::TABLE, number_key(key), delta_encoding::encode(&row));
        if row.span() >= R::MAX / 2 {
            self.rewrite(batch);
        } else {
            self.0.push_back((key, row));
            if self.0.len() >= RUN_MAX {
                self.rewrite(batch);
            }
        }
    }

    /// Replaces the kept row, since it was rewritten.
    pub fn replace(&mut self, key: u64, row: R) {
        if let Some((_, kept)) = self.0.iter_mut().find(|(first, _)| *first == key) {
            *kept = row;
        }
    }

    /// Drops the kept rows before this number, since they were deleted.
    pub fn forget_before(&mut self, number: u64) {
        while self.0.front().is_some_and(|(key, _)| *key < number) {
            self.0.pop_front();
        }
    }

    fn rewrite(&mut self, batch: &mut WriteBatch) {
        let mut rows = std::mem::take(&mut self.0).into_iter();
        let Some((mut key, mut dense)) = rows.next() else { return };
        for (next_key, next) in rows {
            if dense.span() + next.span() > R::MAX {
                batch.put(R::TABLE, number_key(key), delta_encoding::encode(&dense));
                (key, dense) = (next_key, next);
            } else {
                batch.delete(R::TABLE, number_key(next_key));
                dense.append(next);
            }
        }
        batch.put(R::TABLE, number_key(key), delta_encoding::encode(&dense));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::DeliveryId;
    use crate::event::{DestinationId, DestinationSet, Digest64, Sequence};
    use crate::store::model::delta_encoding::Consecutive;
    use crate::store::model::record::{EndKind, Entry, HistoryRow, PageShape, SettledRow, Settlement};
    use crate::store::model::table::Table;
    use crate::store::model::table::number_of;
    use crate::time::Timestamp;
    use std::collections::BTreeMap;

    #[test]
    fn rows_of_history_become_dense_with_all_their_events_and_pages() {
        let entry = |n: u64| Entry {
            sender: Digest64(n),
            body: Digest64(n),
            interaction_hash: Digest64(n),
            time: Timestamp(n),
            received_at: Timestamp(n),
            source: 1,
            kind: 1,
            to: DestinationSet(1),
            size: 9,
            prior: Sequence(0),
        };
        let row = |from: u64, count: u16| HistoryRow {
            pages: vec![PageShape { count, bytes: 100 }],
            entries: (from..from + u64::from(count)).map(entry).collect(),
        };
        let (mut run, mut batch) = (Run::default(), WriteBatch::default());
        run.write(&mut batch, 1, row(1, 2));
        run.write(&mut batch, 3, row(3, 3));
        let most = HistoryRow::ENTRIES_MAX as u16;
        run.write(&mut batch, 6, row(6, most / 2));
        let rows = batch.into_tables()[Table::History as usize].clone();
        let read =
            |n: u64| rows[&number_key(n)].as_ref().map(|sealed| delta_encoding::decode::<HistoryRow>(sealed).unwrap());
        let dense =
            HistoryRow { pages: [row(1, 2).pages, row(3, 3).pages].concat(), entries: (1..6).map(entry).collect() };
        assert_eq!((read(1), read(3), read(6)), (Some(dense), None, Some(row(6, most / 2))));

        let (mut run, mut batch) = (Run::default(), WriteBatch::default());
        (1..=RUN_MAX as u64).for_each(|n| run.write(&mut batch, n, row(n, 1)));
        let rows = batch.into_tables()[Table::History as usize].clone().into_values().flatten();
        let settlement_index = rows.map(|sealed| delta_encoding::decode::<HistoryRow>(&sealed).unwrap().span());
        assert_eq!(settlement_index.collect::<Vec<_>>(), [230, 230, RUN_MAX - 460]);
    }

    #[test]
    fn small_rows_become_dense_and_cover_the_same_numbers() {
        let row = |n: u64| {
            let id = DeliveryId { sequence: Sequence(n), destination: DestinationId(0) };
            let s = Settlement { id, how: EndKind::Delivered, attempts: 1, status: 200, at: Timestamp(n) };
            SettledRow { settlements: vec![s] }
        };
        let (mut run, mut rows) = (Run::default(), BTreeMap::new());
        for n in 1..=1500u64 {
            let mut batch = WriteBatch::default();
            run.write(&mut batch, n, row(n));
            for (key, value) in batch.into_tables()[Table::Settled as usize].clone() {
                match value {
                    Some(value) => rows.insert(number_of(&key).unwrap(), value),
                    None => rows.remove(&number_of(&key).unwrap()),
                };
            }
        }
        assert_eq!(rows.len(), 2 + (1500 - 2 * RUN_MAX), "two dense rows and the small ones since");
        let mut next = 1;
        for (key, value) in rows {
            assert_eq!(key, next);
            let row: SettledRow = delta_encoding::decode(&value).unwrap();
            assert!(row.settlements.iter().enumerate().all(|(i, s)| s.at.0 == key + i as u64));
            next += row.span() as u64;
        }
        assert_eq!(next, 1501);
    }

    fn row(at: u64, n: usize) -> SettledRow {
        let id = DeliveryId { sequence: Sequence(1), destination: DestinationId(0) };
        let s = Settlement { id, how: EndKind::Delivered, attempts: 1, status: 200, at: Timestamp(at) };
        SettledRow { settlements: vec![s; n] }
    }

    /// Writes a row that is not small, which causes the rows before it to be rewritten; returns the content of the batch.
    fn rewritten(run: &mut Run<SettledRow>, key: u64) -> Vec<(u64, Option<SettledRow>)> {
        let mut batch = WriteBatch::default();
        run.write(&mut batch, key, row(key, SettledRow::MAX / 2));
        let read = |value: Vec<u8>| delta_encoding::decode(&value).unwrap();
        let rows = batch.into_tables()[Table::Settled as usize].clone();
        rows.into_iter().map(|(key, value)| (number_of(&key).unwrap(), value.map(read))).collect()
    }

    #[test]
    fn compaction_does_not_undo_concurrent_changes() {
        let (mut run, mut batch) = (Run::default(), WriteBatch::default());
        (1..=4).for_each(|n| run.write(&mut batch, n, row(n, 1)));
        run.forget_before(2);
        run.replace(3, row(33, 1));
        run.replace(9, row(99, 1));
        let written = rewritten(&mut run, 5);
        let [(2, Some(dense)), rest @ ..] = &written[..] else { panic!("{written:?}") };
        let times: Vec<u64> = dense.settlements.iter().map(|s| s.at.0).collect();
        assert_eq!(times, [2, 33, 4]);
        let rest: Vec<_> = rest.iter().map(|(key, row)| (*key, row.is_some())).collect();
        assert_eq!(rest, [(3, false), (4, false), (5, true)]);
    }
}
