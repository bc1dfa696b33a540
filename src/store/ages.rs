//! How old what waits is: counts by destination and age, without reading a single body.
//!
//! Sequences rise with acceptance, so an age is a sequence: each bound is looked up once in `history`, and everything that
//! waits is sorted by its sequence alone.

use super::{Store, StoreError, read};
use crate::event::{DestinationId, Sequence};
use crate::time::Timestamp;
use std::collections::BTreeMap;

/// Counts by age, the youngest first.
pub type Ages = BTreeMap<DestinationId, Vec<u64>>;

/// Pages, and deliveries of the delay tree, that are counted at once.
const PAGES: usize = 512;
const DUES: usize = 4096;

impl Store {
    /// What waits, in pages and in the delay tree, by the bounds `since`: from the latest to the earliest time. The last
    /// count is of what is older than all of them. What moves while it is counted may be counted twice, or not.
    pub fn ages(&self, since: &[Timestamp]) -> Result<Ages, StoreError> {
        let bounds = since.iter().map(|at| self.first_after(*at)).collect::<Result<Vec<_>, _>>()?;
        let bucket = |sequence: Sequence| bounds.iter().position(|b| sequence >= *b).unwrap_or(bounds.len());
        let mut ages = Ages::new();
        let mut add = |d: DestinationId, sequence: Sequence, n: u64| {
            ages.entry(d).or_insert_with(|| vec![0; bounds.len() + 1])[bucket(sequence)] += n;
        };
        let mut from = Some(Sequence::default());
        while let Some(first) = from {
            // in pieces, so that no commit waits for all of them
            from =
                self.index().pages.visit(first, PAGES, |sequence, to, n| to.iter().for_each(|d| add(d, sequence, n)));
        }
        let mut from = Sequence::default();
        loop {
            let some = self.dues_between(from, Sequence(u64::MAX), DUES);
            let Some((last, _)) = some.last() else { return Ok(ages) };
            // of the last event there may be more
            let next = if some.len() < DUES { last.sequence.next() } else { last.sequence };
            some.iter().filter(|(id, _)| id.sequence < next).for_each(|(id, _)| add(id.destination, id.sequence, 1));
            from = next;
        }
    }

    /// The first sequence that was accepted after this time, as far as it is remembered.
    fn first_after(&self, at: Timestamp) -> Result<Sequence, StoreError> {
        let (mut low, mut high) = {
            let index = self.index();
            (index.totals.history_head.0, index.totals.next_sequence.0)
        };
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = read::entry(&self.shared.engine, Sequence(middle))?;
            if entry.is_some_and(|entry| entry.received_at > at) { high = middle } else { low = middle + 1 }
        }
        Ok(Sequence(low))
    }
}
