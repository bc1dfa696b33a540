//! Where the settlements of an event can lie: for each block of settlement numbers, from which to which sequence its
//! settlements speak.
//!
//! *Invariants.* Exact as long as the process lives: a block's span covers every settlement of it that is remembered.
//! 16 bytes for 1,024 settlements.

use crate::event::Sequence;
use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;

const BLOCK: u64 = 1024;

#[derive(Debug, Default)]
pub struct SettlementIndex {
    /// The number of the first block.
    first: u64,
    blocks: VecDeque<Option<(Sequence, Sequence)>>,
}

impl SettlementIndex {
    /// A settlement with this number speaks of this event.
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

    /// What has a number before this one is not remembered any more.
    pub fn forget_before(&mut self, number: u64) {
        while self.first < number / BLOCK && self.blocks.pop_front().is_some() {
            self.first += 1;
        }
    }

    /// Ranges of numbers among which settlements of these events can lie, in order.
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

    #[test]
    #[allow(clippy::single_range_in_vec_init)] // ranges are what is meant
    fn only_blocks_that_can_speak_of_an_event_are_named() {
        let mut spans = SettlementIndex::default();
        for number in 3000..10_000 {
            spans.add(number, Sequence(number * 10));
        }
        let of = |sequences: &[u64], spans: &SettlementIndex| {
            let named = spans.of(&sequences.iter().map(|s| Sequence(*s)).collect());
            named.into_iter().map(|range| (range.start, range.end)).collect::<Vec<_>>()
        };
        assert_eq!(of(&[50_000], &spans), [(4096, 5120)]);
        assert_eq!(of(&[51_190, 51_200], &spans), [(4096, 6144)]);
        assert_eq!(of(&[30_000, 50_000], &spans), [(2048, 3072), (4096, 5120)]);
        assert_eq!(of(&[29_999, 100_000], &spans), []);
        spans.forget_before(5000);
        assert_eq!(of(&[30_000, 50_000], &spans), [(4096, 5120)]);
        spans.forget_before(5120);
        assert_eq!(of(&[50_000], &spans), []);
        spans.add(10_240, Sequence(50_000));
        assert_eq!(of(&[50_000], &spans), [(10_240, 11_264)]);
    }
}
