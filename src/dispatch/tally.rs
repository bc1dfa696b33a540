//! How many attempts of a destination ended in which way, since the start.

use crate::delivery::Outcome;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Default)]
pub struct Tally([AtomicU64; Outcome::WORDS.len()]);

impl Tally {
    pub(super) fn count(&self, outcome: &Outcome) {
        self.0[outcome.place()].fetch_add(1, Ordering::Relaxed);
    }

    /// Each outcome's word and how often it was seen.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Outcome::WORDS.into_iter().zip(self.0.iter().map(|n| n.load(Ordering::Relaxed)))
    }
}
