//! The lanes of a line whose first delivery can start now.
//!
//! *Invariants.* In order of acceptance, but fresh deliveries and tried ones take turns (as Postfix's queue manager takes
//! one new and one deferred message): many that fail again and again cannot starve the ones that never had a chance.

use super::lane::LaneKey;
use crate::event::Sequence;
use std::collections::BTreeSet;

#[derive(Debug, Default)]
pub struct Ready {
    fresh: BTreeSet<(Sequence, LaneKey)>,
    tried: BTreeSet<(Sequence, LaneKey)>,
    last: Last,
}

#[derive(Debug, Default)]
enum Last {
    #[default]
    Fresh,
    Tried,
}

impl Ready {
    pub fn fresh(&mut self, sequence: Sequence, key: LaneKey) {
        self.fresh.insert((sequence, key));
    }

    pub fn tried(&mut self, sequence: Sequence, key: LaneKey) {
        self.tried.insert((sequence, key));
    }

    pub fn remove(&mut self, sequence: Sequence, key: LaneKey) {
        if !self.fresh.remove(&(sequence, key)) {
            self.tried.remove(&(sequence, key));
        }
    }

    /// The lane whose turn it is; it stays until it is removed.
    pub fn pick(&mut self) -> Option<LaneKey> {
        let tried = match (self.fresh.is_empty(), self.tried.is_empty()) {
            (true, true) => return None,
            (fresh_empty, false) => fresh_empty || matches!(self.last, Last::Fresh),
            (false, true) => false,
        };
        let (from, last) = if tried { (&self.tried, Last::Tried) } else { (&self.fresh, Last::Fresh) };
        self.last = last;
        from.first().map(|(_, key)| *key)
    }

    /// The lanes with the oldest first delivery, of the fresh and of the tried ones.
    pub fn firsts(&self) -> impl Iterator<Item = LaneKey> {
        self.fresh.first().into_iter().chain(self.tried.first()).map(|(_, key)| *key)
    }

    pub fn len(&self) -> usize {
        self.fresh.len() + self.tried.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i14_fresh_and_tried_take_turns_each_in_order() {
        let mut ready = Ready::default();
        let lane = |n| LaneKey::Alone(Sequence(n));
        [1, 2, 3].iter().for_each(|n| ready.tried(Sequence(*n), lane(*n)));
        [7, 8].iter().for_each(|n| ready.fresh(Sequence(*n), lane(*n)));
        let mut picked = Vec::new();
        while let Some(LaneKey::Alone(sequence)) = ready.pick() {
            ready.remove(sequence, lane(sequence.0));
            picked.push(sequence.0);
        }
        assert_eq!(picked, [1, 7, 2, 8, 3]);
        assert_eq!(ready.len(), 0);
    }
}
