//! How much is remembered of what was accepted and settled, and what bounds that.
//!
//! *Invariants.* What is remembered of an event that still waits in a page is never forgotten, whatever the bounds say. What
//! goes before its time is counted.

use crate::store::model::record::Totals;
use std::time::Duration;

/// Bytes that an entry of `history`, and one of `settled`, takes in its row at most, which is as a plain record. As it usually
/// lies there it takes half; with the room that the log has not cleaned yet it comes near this again.
const ENTRY_BYTES: u64 = 64;
const SETTLEMENT_BYTES: u64 = 22;

/// The bounds of what is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// It is remembered for so long, or for the longest `dedup_window` if that is longer.
    pub age: Duration,
    /// It takes at most so many bytes; beyond it the oldest goes, however young.
    pub bytes_max: u64,
    /// Ids of senders take at most so many bytes of memory; beyond it the oldest goes, too.
    pub memory_max: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { age: Duration::ZERO, bytes_max: u64::MAX, memory_max: u64::MAX }
    }
}

/// What is remembered now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistoryUsage {
    pub events: u64,
    pub bytes: u64,
    /// Memory of the ids of senders.
    pub memory_bytes: u64,
    /// Events that were forgotten before their time, for want of room, since the start.
    pub forgotten_early: u64,
}

/// Bytes that are remembered.
pub fn bytes(totals: &Totals) -> u64 {
    let events = totals.next_sequence.0 - totals.history_head.0;
    events * ENTRY_BYTES + (totals.next_settlement - totals.settled_head) * SETTLEMENT_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::model::codec::{self, Kind};
    use crate::store::model::record::{Entry, HistoryRow, SettledRow, Settlement};

    #[test]
    fn a_history_entry_takes_at_most_its_estimate() {
        let sized = |n: usize| {
            let entry: Entry = codec::from_payload(&[0; 64]).unwrap();
            codec::encode(Kind::History, &HistoryRow { pages: Vec::new(), entries: vec![entry; n] }).len() as u64
        };
        assert_eq!(sized(3) - sized(2), ENTRY_BYTES);
        let settled = |n: usize| {
            let settlement: Settlement = codec::from_payload(&[0; 22]).unwrap();
            codec::encode(Kind::Settled, &SettledRow { settlements: vec![settlement; n] }).len() as u64
        };
        assert_eq!(settled(3) - settled(2), SETTLEMENT_BYTES);
    }

    #[test]
    fn history_is_counted_from_its_oldest_row() {
        let mut totals = Totals::default();
        assert_eq!(bytes(&totals), 0);
        (totals.history_head.0, totals.next_sequence.0) = (11, 18);
        (totals.settled_head, totals.next_settlement) = (21, 24);
        assert_eq!(bytes(&totals), 7 * ENTRY_BYTES + 3 * SETTLEMENT_BYTES);
    }
}
