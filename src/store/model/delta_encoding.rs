//! Encoding of the rows of `history` and `settled`: each record is stored as the differences from the one before it.
//!
//! These rows are kept longest and are the most numerous, so they decide the size of a store whose events have been
//! delivered. Consecutive records are made within milliseconds of each other, so that apart from their three digests the
//! differences are small.
//!
//! *Format.* Version 2 of both kinds: bincode 1 with integers of variable length, of [`HistoryDeltas`] and
//! [`SettledDeltas`]. Version 1, the plain records, is read too; it is also written if it is shorter, so that a full row
//! never exceeds its size limit.

use super::codec::{self, Damaged, Kind};
use super::record::{EndKind, Entry, HistoryRow, PageShape, SettledRow, Settlement};
use super::table::Table;
use crate::delivery::DeliveryId;
use crate::event::{DestinationId, DestinationSet, Digest64, Sequence};
use crate::time::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const PLAIN: u8 = 1;
const DELTAS: u8 = 2;

/// A row for consecutive numbers, the first of which is its key.
pub trait Consecutive {
    const TABLE: Table;
    const KIND: Kind;
    const MAX: usize;
    /// How many numbers the row covers.
    fn span(&self) -> usize;
    fn append(&mut self, next: Self);
}

impl Consecutive for HistoryRow {
    const TABLE: Table = Table::History;
    const KIND: Kind = Kind::History;
    const MAX: usize = Self::ENTRIES_MAX;
    fn span(&self) -> usize {
        self.entries.len()
    }
    fn append(&mut self, next: Self) {
        Self::append(self, next);
    }
}

impl Consecutive for SettledRow {
    const TABLE: Table = Table::Settled;
    const KIND: Kind = Kind::Settled;
    const MAX: usize = Self::SETTLEMENTS_MAX;
    fn span(&self) -> usize {
        self.settlements.len()
    }
    fn append(&mut self, next: Self) {
        self.settlements.extend(next.settlements);
    }
}

/// A row that can be encoded as differences.
pub trait Deltas: Consecutive + Serialize + DeserializeOwned {
    type Packed: Serialize + DeserializeOwned + for<'a> From<&'a Self> + Into<Self>;
}

/// The sealed record of a row, in the shorter of the two versions.
pub fn encode<R: Deltas>(row: &R) -> Vec<u8> {
    let packed = codec::packed(&R::Packed::from(row));
    if packed.len() as u64 <= codec::payload_length(row) {
        codec::seal_as(R::KIND, DELTAS, &packed)
    } else {
        codec::encode(R::KIND, row)
    }
}

pub fn decode<R: Deltas>(sealed: &[u8]) -> Result<R, Damaged> {
    match codec::open_any(R::KIND, sealed)? {
        (PLAIN, payload) => codec::from_payload(payload),
        (_, payload) => codec::from_packed::<R::Packed>(payload).map(Into::into),
    }
}

/// Difference of two numbers, with wraparound, so that it exists for all numbers; [`forth`] adds it again.
fn distance(from: u64, to: u64) -> i64 {
    to.wrapping_sub(from) as i64
}

fn forth(from: u64, by: i64) -> u64 {
    from.wrapping_add(by as u64)
}

#[derive(Serialize, Deserialize)]
pub struct HistoryDeltas {
    pages: Vec<PageShape>,
    entries: Vec<EntryDelta>,
}

#[derive(Serialize, Deserialize)]
struct EntryDelta {
    sender: [u8; 8],
    body: [u8; 8],
    interaction_hash: [u8; 8],
    /// Milliseconds since the time of the entry before; for the first one since 1970.
    received: i64,
    /// Milliseconds from the event's own time to its receipt; `None` if the sender gave no time.
    late: Option<i64>,
    source: u16,
    kind: u16,
    to: u64,
    size: u32,
    prior: u64,
}

impl Deltas for HistoryRow {
    type Packed = HistoryDeltas;
}

impl From<&HistoryRow> for HistoryDeltas {
    fn from(row: &HistoryRow) -> Self {
        let mut before = 0;
        let entries = row.entries.iter().map(|e| {
            let received = e.received_at.0;
            let late = (e.time != Timestamp::ZERO).then(|| distance(e.time.0, received));
            EntryDelta {
                sender: e.sender.0.to_le_bytes(),
                body: e.body.0.to_le_bytes(),
                interaction_hash: e.interaction_hash.0.to_le_bytes(),
                received: distance(std::mem::replace(&mut before, received), received),
                late,
                source: e.source,
                kind: e.kind,
                to: e.to.0,
                size: e.size,
                prior: e.prior.0,
            }
        });
        Self { entries: entries.collect(), pages: row.pages.clone() }
    }
}

impl From<HistoryDeltas> for HistoryRow {
    fn from(deltas: HistoryDeltas) -> Self {
        let mut received = 0;
        let digest = |bytes| Digest64(u64::from_le_bytes(bytes));
        let entries = deltas.entries.into_iter().map(|d| {
            received = forth(received, d.received);
            Entry {
                sender: digest(d.sender),
                body: digest(d.body),
                interaction_hash: digest(d.interaction_hash),
                time: d.late.map_or(Timestamp::ZERO, |late| Timestamp(received.wrapping_sub(late as u64))),
                received_at: Timestamp(received),
                source: d.source,
                kind: d.kind,
                to: DestinationSet(d.to),
                size: d.size,
                prior: Sequence(d.prior),
            }
        });
        Self { entries: entries.collect(), pages: deltas.pages }
    }
}

#[derive(Serialize, Deserialize)]
pub struct SettledDeltas(Vec<SettlementDelta>);

#[derive(Serialize, Deserialize)]
struct SettlementDelta {
    /// Difference from the sequence of the settlement before; for the first one from zero.
    sequence: i64,
    destination: u8,
    how: EndKind,
    attempts: u16,
    status: u16,
    /// Milliseconds since the settlement before; for the first one since 1970.
    at: i64,
}

impl Deltas for SettledRow {
    type Packed = SettledDeltas;
}

impl From<&SettledRow> for SettledDeltas {
    fn from(row: &SettledRow) -> Self {
        let (mut sequence, mut at) = (0, 0);
        let deltas = row.settlements.iter().map(|s| SettlementDelta {
            sequence: distance(std::mem::replace(&mut sequence, s.id.sequence.0), s.id.sequence.0),
            destination: s.id.destination.0,
            how: s.how,
            attempts: s.attempts,
            status: s.status,
            at: distance(std::mem::replace(&mut at, s.at.0), s.at.0),
        });
        Self(deltas.collect())
    }
}

impl From<SettledDeltas> for SettledRow {
    fn from(deltas: SettledDeltas) -> Self {
        let (mut sequence, mut at) = (0, 0);
        let settlements = deltas.0.into_iter().map(|d| {
            (sequence, at) = (forth(sequence, d.sequence), forth(at, d.at));
            let id = DeliveryId { sequence: Sequence(sequence), destination: DestinationId(d.destination) };
            Settlement { id, how: d.how, attempts: d.attempts, status: d.status, at: Timestamp(at) }
        });
        Self { settlements: settlements.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::model::table::ROW_MAX;
    use proptest::prelude::*;

    fn entries() -> impl Strategy<Value = Entry> {
        let digests = (any::<u64>(), any::<u64>(), any::<u64>());
        (digests, any::<(u64, u64, u16, u16)>(), any::<(u64, u32, u64)>()).prop_map(
            |((sender, body, interaction_hash), (time, received_at, source, kind), (to, size, prior))| Entry {
                sender: Digest64(sender),
                body: Digest64(body),
                interaction_hash: Digest64(interaction_hash),
                time: Timestamp(time),
                received_at: Timestamp(received_at),
                source,
                kind,
                to: DestinationSet(to),
                size,
                prior: Sequence(prior),
            },
        )
    }

    fn settlements() -> impl Strategy<Value = Settlement> {
        (any::<(u64, u8, u16, u16, u64)>(), 0u8..4).prop_map(|((sequence, destination, attempts, status, at), how)| {
            let id = DeliveryId { sequence: Sequence(sequence), destination: DestinationId(destination) };
            Settlement { id, how: EndKind::try_from(how).unwrap(), attempts, status, at: Timestamp(at) }
        })
    }

    proptest! {
        /// Rows with extreme values are decoded unchanged too, and a full row stays within its size limit.
        #[test]
        fn every_row_round_trips(
            entries in prop::collection::vec(entries(), 0..=HistoryRow::ENTRIES_MAX),
            shapes in prop::collection::vec(any::<(u16, u32)>(), 0..=HistoryRow::ENTRIES_MAX),
            settlements in prop::collection::vec(settlements(), 0..=SettledRow::SETTLEMENTS_MAX),
        ) {
            let pages = shapes.into_iter().map(|(count, bytes)| PageShape { count, bytes }).collect();
            let row = HistoryRow { pages, entries };
            let sealed = encode(&row);
            prop_assert!(sealed.len() <= ROW_MAX);
            prop_assert_eq!(decode::<HistoryRow>(&sealed), Ok(row));
            let row = SettledRow { settlements };
            let sealed = encode(&row);
            prop_assert!(sealed.len() <= ROW_MAX);
            prop_assert_eq!(decode::<SettledRow>(&sealed), Ok(row));
        }
    }

    /// Rows with typical events: some arrive a second late, each has about 1,100 bytes and is delivered at once.
    fn usual() -> (HistoryRow, SettledRow) {
        let now = 1_800_000_000_000;
        let (mut row, mut settled) = (HistoryRow::default(), SettledRow::default());
        for n in 0..200u64 {
            let digest = |part: u64| Digest64::of(&[&n.to_le_bytes(), &part.to_le_bytes()]);
            row.entries.push(Entry {
                sender: digest(1),
                body: digest(2),
                interaction_hash: digest(3),
                time: Timestamp(now + n * 3 - 900),
                received_at: Timestamp(now + n * 3),
                source: 1,
                kind: 4,
                to: DestinationSet(1),
                size: 1100,
                prior: Sequence::default(),
            });
            let id = DeliveryId { sequence: Sequence(5_000_000 + n), destination: DestinationId(0) };
            let at = Timestamp(now + n * 3 + 20);
            settled.settlements.push(Settlement { id, how: EndKind::Delivered, attempts: 1, status: 200, at });
        }
        (row, settled)
    }

    #[test]
    fn typical_rows_take_half_the_space() {
        let (row, settled) = usual();
        assert!(encode(&row).len() < 200 * 38, "{}", encode(&row).len());
        assert!(encode(&settled).len() < 200 * 7, "{}", encode(&settled).len());
    }

    #[test]
    fn rows_without_deltas_are_read() {
        let (row, settled) = usual();
        assert_eq!(decode::<HistoryRow>(&codec::encode(HistoryRow::KIND, &row)), Ok(row));
        assert_eq!(decode::<SettledRow>(&codec::encode(SettledRow::KIND, &settled)), Ok(settled));
    }

    #[test]
    fn no_input_panics() {
        let (row, _) = usual();
        let payload = codec::packed(&HistoryDeltas::from(&row));
        for length in 0..payload.len() {
            let cut = codec::seal_as(HistoryRow::KIND, DELTAS, &payload[..length]);
            assert_eq!(decode::<HistoryRow>(&cut), Err(Damaged::Content));
        }
    }
}
