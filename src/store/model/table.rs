//! The tables of the store, their keys, rows and long records, and the writes of one commit.
//!
//! *Format.* Keys are big-endian numbers, so that byte order is number order. No row is longer than [`ROW_MAX`]: otherwise
//! sled would move the leaf to a blob file, which it never syncs and never reclaims. A longer record is split over rows
//! whose keys end in a part number; all parts are written and deleted together.

use crate::delivery::DeliveryId;
use crate::event::{DestinationId, Sequence};
use crate::store::model::codec::{self, Damaged};
use crate::time::Timestamp;
use std::collections::BTreeMap;

/// The tables; each is a tree of sled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum Table {
    /// First sequence -> packed events of one commit.
    Pages,
    /// First settlement number -> packed settlements.
    Settled,
    /// (due time, sequence, destination) -> a delivery that was moved out of its page.
    Delay,
    /// (sequence, destination) -> dead letter.
    Dlq,
    /// First sequence -> packed history entries.
    History,
    /// Totals, names, holds, overrides and other single records.
    Meta,
    /// Number -> audit entry.
    Audit,
    /// Number -> a damaged record, with its bytes.
    Damaged,
    /// Number -> outage.
    Outages,
    /// Number -> quarantined request.
    QuarantinedRequest,
}

impl Table {
    pub const ALL: [Self; 10] = [
        Self::Pages,
        Self::Settled,
        Self::Delay,
        Self::Dlq,
        Self::History,
        Self::Meta,
        Self::Audit,
        Self::Damaged,
        Self::Outages,
        Self::QuarantinedRequest,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Pages => "pages",
            Self::Settled => "settled",
            Self::Delay => "delay",
            Self::Dlq => "dlq",
            Self::History => "history",
            Self::Meta => "meta",
            Self::Audit => "audit",
            Self::Damaged => "quarantine",
            Self::Outages => "gaps",
            Self::QuarantinedRequest => "detained",
        }
    }
}

/// Longest value of a row: 16 KiB.
pub const ROW_MAX: usize = 16 * 1024;

/// Reads rows: from the engine, or in tests from a map.
pub trait Rows {
    type Error: From<Damaged>;
    fn row(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Self::Error>;
}

/// Reads a record that may be split over rows; `None` if it does not exist.
pub fn get_long<R: Rows>(rows: &R, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, R::Error> {
    assemble(key, |key| rows.row(table, key))
}

/// As [`get_long`], with `row` to read the rows.
pub fn assemble<E: From<Damaged>>(
    key: &[u8],
    row: impl Fn(&[u8]) -> Result<Option<Vec<u8>>, E>,
) -> Result<Option<Vec<u8>>, E> {
    let Some(mut sealed) = row(&part_key(key, 0))? else { return Ok(None) };
    let length = codec::sealed_length(&sealed)?;
    for part in 1..length.div_ceil(ROW_MAX) {
        sealed.extend(row(&part_key(key, part))?.ok_or(Damaged::Short)?);
    }
    Ok(Some(sealed))
}

/// The key of one row of a long record.
pub fn part_key(key: &[u8], part: usize) -> Vec<u8> {
    let part = u16::try_from(part).expect("a record has at most 256 MiB, so 16,384 parts");
    [key, &part.to_be_bytes()].concat()
}

pub const TOTALS: &[u8] = b"totals";
pub const INTAKE_OVERRIDE: &[u8] = b"door";
pub const HEARTBEAT: &[u8] = b"alive";
pub const CLOCK_REFERENCE: &[u8] = b"anchor";
pub const ALERT_STATE: &[u8] = b"told";

pub fn number_key(n: u64) -> Vec<u8> {
    n.to_be_bytes().to_vec()
}

pub fn number_of(key: &[u8]) -> Result<u64, Damaged> {
    key.get(..8).and_then(|k| k.try_into().ok()).map(u64::from_be_bytes).ok_or(Damaged::Content)
}

pub fn dlq_key(id: DeliveryId) -> Vec<u8> {
    let mut key = number_key(id.sequence.0);
    key.push(id.destination.0);
    key
}

pub fn delay_key(due: Timestamp, id: DeliveryId) -> Vec<u8> {
    [number_key(due.0), dlq_key(id)].concat()
}

pub fn hold_key(d: DestinationId) -> Vec<u8> {
    [b"hold.".as_slice(), &[d.0]].concat()
}

pub fn overrides_key(d: DestinationId) -> Vec<u8> {
    [b"stance.".as_slice(), &[d.0]].concat()
}

pub fn pacing_key(d: DestinationId) -> Vec<u8> {
    [b"paced.".as_slice(), &[d.0]].concat()
}

pub fn redrive_key(d: DestinationId) -> Vec<u8> {
    [b"redrive.".as_slice(), &[d.0]].concat()
}

pub fn redrive_list_key(d: DestinationId) -> Vec<u8> {
    [b"redrive-list.".as_slice(), &[d.0]].concat()
}

/// Due time and delivery of a key of the delay tree.
pub fn delay_of(key: &[u8]) -> Result<(Timestamp, DeliveryId), Damaged> {
    Ok((Timestamp(number_of(key)?), dlq_of(key.get(8..).unwrap_or_default())?))
}

pub fn dlq_of(key: &[u8]) -> Result<DeliveryId, Damaged> {
    let destination = *key.get(8).ok_or(Damaged::Content)?;
    Ok(DeliveryId { sequence: Sequence(number_of(key)?), destination: DestinationId(destination) })
}

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

    /// Writes a sealed record under `key`, in as many rows as it needs.
    pub fn put_long(&mut self, table: Table, key: &[u8], sealed: &[u8]) {
        for (part, chunk) in sealed.chunks(ROW_MAX).enumerate() {
            self.put(table, part_key(key, part), chunk.to_vec());
        }
    }

    /// Deletes a record written with [`WriteBatch::put_long`]; returns its sealed length, or `None` if it does not exist.
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

    /// Reads a record as it will be after this batch.
    pub fn get_long<R: Rows>(&self, rows: &R, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, R::Error> {
        assemble(key, |key| self.row(rows, table, key))
    }

    /// Reads a row as it will be after this batch.
    pub fn row<R: Rows>(&self, rows: &R, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, R::Error> {
        match self.tables[table as usize].get(key) {
            Some(written) => Ok(written.clone()),
            None => rows.row(table, key),
        }
    }

    /// Number of rows that it writes or deletes.
    pub fn rows(&self) -> usize {
        self.tables.iter().map(BTreeMap::len).sum()
    }

    /// Size of its keys and values in bytes.
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
mod keys_tests {
    use super::*;

    #[test]
    fn keys_sort_as_numbers_and_round_trip() {
        let id = |s, d| DeliveryId { sequence: Sequence(s), destination: DestinationId(d) };
        let keys = [
            delay_key(Timestamp(1), id(900, 0)),
            delay_key(Timestamp(255), id(1, 1)),
            delay_key(Timestamp(256), id(1, 0)),
            delay_key(Timestamp(256), id(1, 1)),
        ];
        assert!(keys.is_sorted());
        assert_eq!(delay_of(&keys[3]), Ok((Timestamp(256), id(1, 1))));
        assert_eq!(dlq_of(&dlq_key(id(77, 5))), Ok(id(77, 5)));
        assert_eq!(delay_of(&keys[0][..9]), Err(Damaged::Content));
    }

    #[test]
    fn each_destination_has_a_key_of_its_own() {
        let of =
            |d| [hold_key, overrides_key, pacing_key, redrive_key, redrive_list_key].map(|key| key(DestinationId(d)));
        let single = [TOTALS, INTAKE_OVERRIDE, HEARTBEAT, CLOCK_REFERENCE, ALERT_STATE].map(<[u8]>::to_vec);
        let keys: std::collections::BTreeSet<Vec<u8>> = (0..3).flat_map(of).chain(single).collect();
        assert_eq!(keys.len(), 20);
    }
}

#[cfg(test)]
mod write_batch_tests {
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
        fn apply(&mut self, batch: WriteBatch) {
            for (table, writes) in Table::ALL.into_iter().zip(batch.into_tables()) {
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
        let mut batch = WriteBatch::default();
        assert_eq!((batch.rows(), batch.bytes()), (0, 0));
        batch.put(Table::Pages, vec![1; 10], vec![1; 100]);
        batch.put(Table::Meta, vec![1; 4], vec![1; 30]);
        batch.delete(Table::Dlq, vec![1; 11]);
        assert_eq!((batch.rows(), batch.bytes()), (3, 155));
    }

    #[test]
    fn a_long_record_is_split_and_comes_back_whole() {
        for size in [0, 1, ROW_MAX - 30, ROW_MAX, 5 * ROW_MAX + 17] {
            let (mut map, mut batch) = (Map::default(), WriteBatch::default());
            let sealed = encode(Kind::Delivery, &vec![7u8; size]);
            batch.put_long(Table::Delay, b"key", &sealed);
            assert_eq!(batch.get_long(&map, Table::Delay, b"key"), Ok(Some(sealed.clone())), "in the draft");
            map.apply(batch);
            assert_eq!(map.0.len(), sealed.len().div_ceil(ROW_MAX));
            assert_eq!(get_long(&map, Table::Delay, b"key"), Ok(Some(sealed.clone())));
            let mut batch = WriteBatch::default();
            assert_eq!(batch.delete_long(&map, Table::Delay, b"key"), Ok(Some(sealed.len())));
            map.apply(batch);
            assert!(map.0.is_empty());
        }
    }

    #[test]
    fn a_record_written_and_deleted_in_one_batch_is_gone() {
        let (map, mut batch) = (Map::default(), WriteBatch::default());
        batch.put_long(Table::Delay, b"key", &encode(Kind::Delivery, &vec![7u8; 3 * ROW_MAX]));
        assert!(batch.delete_long(&map, Table::Delay, b"key").unwrap().is_some());
        assert_eq!(batch.get_long(&map, Table::Delay, b"key"), Ok(None));
        assert_eq!(batch.delete_long(&map, Table::Delay, b"key"), Ok(None));
    }

    #[test]
    fn a_missing_part_is_damage() {
        let (mut map, mut batch) = (Map::default(), WriteBatch::default());
        batch.put_long(Table::Pages, b"k", &encode(Kind::Page, &vec![1u8; 2 * ROW_MAX]));
        map.apply(batch);
        map.0.remove(&(Table::Pages, part_key(b"k", 1)));
        assert_eq!(get_long(&map, Table::Pages, b"k"), Err(Damaged::Short));
    }
}
