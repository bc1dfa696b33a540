//! Which sender's ids are remembered, in memory: the newest event that bears each of them.
//!
//! *Invariants.* The table lies in parts that grow one after the other, so that growing takes no second copy of all of it: an id
//! takes 20 to 39 bytes (measured, as the parts fill and double), and [`ID_BYTES`] are counted for it.

use crate::event::{Digest64, Sequence};
use std::collections::HashMap;

/// Parts of the table.
const PARTS: usize = 64;
/// What an id takes at most, by which [`Remembered::bytes`] counts.
pub const ID_BYTES: u64 = 40;

/// Digest of a sender's id -> the newest event that bears it.
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

    /// Memory that it is counted with.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|part| part.len() as u64).sum::<u64>() * ID_BYTES
    }
}

fn part(id: Digest64) -> usize {
    (id.0 % PARTS as u64) as usize
}

#[cfg(test)]
mod tests {
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
