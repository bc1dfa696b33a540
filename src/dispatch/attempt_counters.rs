//! How many attempts of a destination ended in which way, since the start, and how many wishes of it were cut.

use crate::delivery::Outcome;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Default)]
pub struct AttemptCounters {
    ended: [AtomicU64; Outcome::WORDS.len()],
    cut: AtomicU64,
}

impl AttemptCounters {
    pub(super) fn count(&self, outcome: &Outcome) {
        self.ended[outcome.place()].fetch_add(1, Ordering::Relaxed);
    }

    /// Each outcome's word and how often it was seen.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Outcome::WORDS.into_iter().zip(self.ended.iter().map(|n| n.load(Ordering::Relaxed)))
    }

    pub(super) fn count_cut(&self) {
        self.cut.fetch_add(1, Ordering::Relaxed);
    }

    /// How often it asked to be left alone for longer than is allowed.
    pub fn cut(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }
}
