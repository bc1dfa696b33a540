//! The state of the history in memory: sender ids, numbers of the settlements of each event, and the history limits.
//!
//! *Invariants.* The history of an event that still waits in a page is never deleted, even over the limits. Events whose
//! history is deleted before its age limit are counted.

use crate::event::{Digest64, Sequence};
use crate::store::model::record::Totals;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

/// Upper bound of the bytes per entry of `history` or `settled`: the size of the plain record. As stored it usually takes
/// half of that; with space in the log that sled has not reclaimed yet, it comes near to it again.
const ENTRY_BYTES: u64 = 64;
const SETTLEMENT_BYTES: u64 = 22;

/// Limits of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Age limit; the longest `dedup_window` is used instead if it is longer.
    pub age: Duration,
    /// Limit of the stored bytes; when it is exceeded, the oldest rows are deleted at any age.
    pub bytes_max: u64,
    /// Limit of the memory for sender ids; when it is exceeded, the oldest rows are deleted too.
    pub memory_max: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { age: Duration::ZERO, bytes_max: u64::MAX, memory_max: u64::MAX }
    }
}

/// Present size of the history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistoryUsage {
    pub events: u64,
    pub bytes: u64,
    /// Memory for sender ids in bytes.
    pub memory_bytes: u64,
    /// Events since the start whose history was deleted before the age limit, because of a size limit.
    pub forgotten_early: u64,
}

/// Estimate of the stored bytes of the history.
pub fn bytes(totals: &Totals) -> u64 {
    let events = totals.next_sequence.0 - totals.history_head.0;
    events * ENTRY_BYTES + (totals.next_settlement - totals.settled_head) * SETTLEMENT_BYTES
}

/// Number of parts of the hash table.
const PARTS: usize = 64;
/// Upper bound of the memory per sender id, used by [`Remembered::bytes`].
pub const ID_BYTES: u64 = 40;

/// Digest of a sender id -> the newest event with it.
#[derive(Debug)]
pub struct Remembered(Vec<HashMap<Digest64, Sequence>>);

impl Default for Remembered {
    fn default() -> Self {
        Self((0..PARTS).map(|_| HashMap::new()).collect())
    }
}

impl Remembered {
    pub fn get(&self, id: Digest64) -> Option<Sequence> {
        self.0[part(id)].get(&id).copied()
    }

    pub fn insert(&mut self, id: Digest64, sequence: Sequence) {
        self.0[part(id)].insert(id, sequence);
    }

    pub fn remove(&mut self, id: Digest64) {
        self.0[part(id)].remove(&id);
    }

    /// Memory in bytes, by [`ID_BYTES`] per id.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|part| part.len() as u64).sum::<u64>() * ID_BYTES
    }
}

fn part(id: Digest64) -> usize {
    (id.0 % PARTS as u64) as usize
}

const BLOCK: u64 = 1024;

#[derive(Debug, Default)]
pub struct SettlementIndex {
    /// Number of the first block.
    first: u64,
    blocks: VecDeque<Option<(Sequence, Sequence)>>,
}

impl SettlementIndex {
    /// Records that the settlement with this number is of this event.
    pub fn add(&mut self, number: u64, sequence: Sequence) {
        let block = number / BLOCK;
        if self.blocks.is_empty() {
            self.first = block;
        }
        let Some(at) = block.checked_sub(self.first).and_then(|n| usize::try_from(n).ok()) else { return };
        if self.blocks.len() <= at {
            self.blocks.resize(at + 1, None);
        }
        let span = self.blocks[at].get_or_insert((sequence, sequence));
        *span = (span.0.min(sequence), span.1.max(sequence));
    }

    /// Forgets the settlements with lower numbers.
    pub fn forget_before(&mut self, number: u64) {
        while self.first < number / BLOCK && self.blocks.pop_front().is_some() {
            self.first += 1;
        }
    }

    /// Ranges of numbers that can contain settlements of these events, in order.
    pub fn of(&self, wanted: &BTreeSet<Sequence>) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for (block, span) in (self.first..).zip(&self.blocks) {
            if !span.is_some_and(|(low, high)| wanted.range(low..=high).next().is_some()) {
                continue;
            }
            let (begin, end) = (block * BLOCK, (block + 1) * BLOCK);
            match ranges.last_mut() {
                Some(last) if last.end == begin => last.end = end,
                _ => ranges.push(begin..end),
            }
        }
        ranges
    }
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

#[cfg(test)]
mod dedup_tests {
    use super::*;

    #[test]
    fn each_id_is_found_in_its_shard_and_counted_once() {
        let mut ids = Remembered::default();
        (1..=1000).for_each(|n| ids.insert(Digest64(n), Sequence(n)));
        ids.insert(Digest64(7), Sequence(2000));
        assert_eq!((ids.get(Digest64(7)), ids.get(Digest64(1000))), (Some(Sequence(2000)), Some(Sequence(1000))));
        assert_eq!((ids.get(Digest64(1001)), ids.bytes()), (None, 1000 * ID_BYTES));
        ids.remove(Digest64(7));
        assert_eq!((ids.get(Digest64(7)), ids.bytes()), (None, 999 * ID_BYTES));
    }
}

#[cfg(test)]
mod settlement_index_tests {
    use super::*;

    #[test]
    #[allow(clippy::single_range_in_vec_init)] // a list of one range is meant
    fn only_blocks_that_can_speak_of_an_event_are_named() {
        let mut settlement_index = SettlementIndex::default();
        for number in 3000..10_000 {
            settlement_index.add(number, Sequence(number * 10));
        }
        let of = |sequences: &[u64], settlement_index: &SettlementIndex| {
            let named = settlement_index.of(&sequences.iter().map(|s| Sequence(*s)).collect());
            named.into_iter().map(|range| (range.start, range.end)).collect::<Vec<_>>()
        };
        assert_eq!(of(&[50_000], &settlement_index), [(4096, 5120)]);
        assert_eq!(of(&[51_190, 51_200], &settlement_index), [(4096, 6144)]);
        assert_eq!(of(&[30_000, 50_000], &settlement_index), [(2048, 3072), (4096, 5120)]);
        assert_eq!(of(&[29_999, 100_000], &settlement_index), []);
        settlement_index.forget_before(5000);
        assert_eq!(of(&[30_000, 50_000], &settlement_index), [(4096, 5120)]);
        settlement_index.forget_before(5120);
        assert_eq!(of(&[50_000], &settlement_index), []);
        settlement_index.add(10_240, Sequence(50_000));
        assert_eq!(of(&[50_000], &settlement_index), [(10_240, 11_264)]);
    }
}
