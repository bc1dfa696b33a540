//! A draft: the writes of one commit, gathered before any of them is made.
//!
//! *Invariants.* No row is longer than [`ROW_MAX`]: a longer one would push sled's leaf over the size beyond which it
//! goes to a blob file, which is never synced and never reclaimed. A record longer than a row is split over rows whose
//! keys end in a part number; all parts are written and deleted together.

use crate::store::model::codec;
use crate::store::model::table::{ROW_MAX, Rows, Table, assemble, part_key};
use std::collections::BTreeMap;

type Writes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

#[derive(Clone, Debug, Default)]
pub struct WriteBatch {
    tables: [Writes; Table::ALL.len()],
}

impl WriteBatch {
    pub fn put(&mut self, table: Table, key: Vec<u8>, value: Vec<u8>) {
        assert!(value.len() <= ROW_MAX, "a row of {} bytes would become a blob file", value.len());
        self.tables[table as usize].insert(key, Some(value));
    }

    pub fn delete(&mut self, table: Table, key: Vec<u8>) {
        self.tables[table as usize].insert(key, None);
    }

    /// Writes a sealed record under `key`, over as many rows as it needs.
    pub fn put_long(&mut self, table: Table, key: &[u8], sealed: &[u8]) {
        for (part, chunk) in sealed.chunks(ROW_MAX).enumerate() {
            self.put(table, part_key(key, part), chunk.to_vec());
        }
    }

    /// Deletes a record written with [`WriteBatch::put_long`]; its sealed length, or none where there is no such record.
    pub fn delete_long<R: Rows>(&mut self, rows: &R, table: Table, key: &[u8]) -> Result<Option<usize>, R::Error> {
        let Some(first) = self.row(rows, table, &part_key(key, 0))? else { return Ok(None) };
        let length = codec::sealed_length(&first).unwrap_or(first.len());
        self.delete_parts(table, key, length);
        Ok(Some(length))
    }

    /// Deletes a record whose sealed length is known.
    pub fn delete_parts(&mut self, table: Table, key: &[u8], length: usize) {
        for part in 0..length.div_ceil(ROW_MAX) {
            self.delete(table, part_key(key, part));
        }
    }

    /// Reads a record as it will be after this draft.
    pub fn get_long<R: Rows>(&self, rows: &R, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, R::Error> {
        assemble(key, |key| self.row(rows, table, key))
    }

    /// Reads a row as it will be after this draft.
    pub fn row<R: Rows>(&self, rows: &R, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, R::Error> {
        match self.tables[table as usize].get(key) {
            Some(written) => Ok(written.clone()),
            None => rows.row(table, key),
        }
    }

    /// Rows that it writes or deletes.
    pub fn rows(&self) -> usize {
        self.tables.iter().map(BTreeMap::len).sum()
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        let writes = self.tables.iter().flatten();
        writes.map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum()
    }

    /// The writes of each table, in the order of [`Table::ALL`].
    pub fn into_tables(self) -> [Writes; Table::ALL.len()] {
        self.tables
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::model::codec::Damaged;
    use crate::store::model::codec::{Kind, encode};
    use crate::store::model::table::get_long;

    #[derive(Default)]
    struct Map(BTreeMap<(Table, Vec<u8>), Vec<u8>>);

    impl Rows for Map {
        type Error = Damaged;
        fn row(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Damaged> {
            Ok(self.0.get(&(table, key.to_vec())).cloned())
        }
    }

    impl Map {
        fn apply(&mut self, draft: WriteBatch) {
            for (table, writes) in Table::ALL.into_iter().zip(draft.into_tables()) {
                for (key, value) in writes {
                    match value {
                        Some(value) => self.0.insert((table, key), value),
                        None => self.0.remove(&(table, key)),
                    };
                }
            }
        }
    }

    #[test]
    fn the_rows_of_all_tables_and_their_bytes_are_counted() {
        let mut draft = WriteBatch::default();
        assert_eq!((draft.rows(), draft.bytes()), (0, 0));
        draft.put(Table::Pages, vec![1; 10], vec![1; 100]);
        draft.put(Table::Meta, vec![1; 4], vec![1; 30]);
        draft.delete(Table::Dlq, vec![1; 11]);
        assert_eq!((draft.rows(), draft.bytes()), (3, 155));
    }

    #[test]
    fn a_long_record_is_split_and_comes_back_whole() {
        for size in [0, 1, ROW_MAX - 30, ROW_MAX, 5 * ROW_MAX + 17] {
            let (mut map, mut draft) = (Map::default(), WriteBatch::default());
            let sealed = encode(Kind::Delivery, &vec![7u8; size]);
            draft.put_long(Table::Delay, b"key", &sealed);
            assert_eq!(draft.get_long(&map, Table::Delay, b"key"), Ok(Some(sealed.clone())), "in the draft");
            map.apply(draft);
            assert_eq!(map.0.len(), sealed.len().div_ceil(ROW_MAX));
            assert_eq!(get_long(&map, Table::Delay, b"key"), Ok(Some(sealed.clone())));
            let mut draft = WriteBatch::default();
            assert_eq!(draft.delete_long(&map, Table::Delay, b"key"), Ok(Some(sealed.len())));
            map.apply(draft);
            assert!(map.0.is_empty());
        }
    }

    #[test]
    fn a_record_written_and_deleted_in_one_batch_is_gone() {
        let (map, mut draft) = (Map::default(), WriteBatch::default());
        draft.put_long(Table::Delay, b"key", &encode(Kind::Delivery, &vec![7u8; 3 * ROW_MAX]));
        assert!(draft.delete_long(&map, Table::Delay, b"key").unwrap().is_some());
        assert_eq!(draft.get_long(&map, Table::Delay, b"key"), Ok(None));
        assert_eq!(draft.delete_long(&map, Table::Delay, b"key"), Ok(None));
    }

    #[test]
    fn a_missing_part_is_damage() {
        let (mut map, mut draft) = (Map::default(), WriteBatch::default());
        draft.put_long(Table::Pages, b"k", &encode(Kind::Page, &vec![1u8; 2 * ROW_MAX]));
        map.apply(draft);
        map.0.remove(&(Table::Pages, part_key(b"k", 1)));
        assert_eq!(get_long(&map, Table::Pages, b"k"), Err(Damaged::Short));
    }
}
