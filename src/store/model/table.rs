//! The tables of the store, and how long records lie in their rows.
//!
//! *Format.* No row is longer than [`ROW_MAX`]. A longer record is split over rows whose keys end in a part number.

use super::codec::{self, Damaged};

/// The trees of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum Table {
    /// First sequence -> packed events of one commit.
    Pages,
    /// First settlement number -> packed ends of deliveries.
    Settled,
    /// (due, sequence, destination) -> a delivery that waits outside its page.
    Delay,
    /// (sequence, destination) -> dead letter.
    Dlq,
    /// First sequence -> what is remembered of each event.
    History,
    /// Totals, names, holds.
    Meta,
    /// Number -> a change made through the admin API.
    Audit,
    /// Number -> a damaged record, with its bytes as found.
    Damaged,
    /// Number -> a time in which events could not be accepted.
    Gaps,
    /// Number -> a request that was not accepted, kept apart.
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
        Self::Gaps,
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
            Self::Gaps => "gaps",
            Self::QuarantinedRequest => "detained",
        }
    }
}

/// Longest value of a row: 16 KiB.
pub const ROW_MAX: usize = 16 * 1024;

/// Reads rows; the engine does, and a map does in tests.
pub trait Rows {
    type Error: From<Damaged>;
    fn row(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Self::Error>;
}

/// Reads a record that may be split over rows; none where there is no such record.
pub fn get_long<R: Rows>(rows: &R, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, R::Error> {
    assemble(key, |key| rows.row(table, key))
}

/// As [`get_long`], where `row` gives the rows.
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

/// The key of one of the rows of a long record.
pub fn part_key(key: &[u8], part: usize) -> Vec<u8> {
    let part = u16::try_from(part).expect("a record has at most 256 MiB, so 16,384 parts");
    [key, &part.to_be_bytes()].concat()
}
