//! The lanes of a line whose first delivery can start now.
//!
//! *Invariants.* In order of acceptance, but fresh deliveries and tried ones take turns (as Postfix's queue manager takes
//! one new and one deferred message): many that fail again and again cannot starve the ones that never had a chance. A turn
//! is over when its delivery starts: one that is looked at while a gate is shut still has it.

use super::interaction_queue::QueueKey;
use crate::event::Sequence;
use std::collections::BTreeSet;

#[derive(Debug, Default)]
pub struct Ready {
    fresh: BTreeSet<(Sequence, QueueKey)>,
    tried: BTreeSet<(Sequence, QueueKey)>,
    last: Last,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Last {
    #[default]
    Fresh,
    Tried,
}

impl Ready {
    pub fn fresh(&mut self, sequence: Sequence, key: QueueKey) {
        self.fresh.insert((sequence, key));
    }

    pub fn tried(&mut self, sequence: Sequence, key: QueueKey) {
        self.tried.insert((sequence, key));
    }

    pub fn remove(&mut self, sequence: Sequence, key: QueueKey) {
        if !self.fresh.remove(&(sequence, key)) {
            self.tried.remove(&(sequence, key));
        }
    }

    /// Of which kind the next one is.
    fn turn(&self) -> Last {
        let tried = match (self.fresh.is_empty(), self.tried.is_empty()) {
            (fresh_empty, false) => fresh_empty || matches!(self.last, Last::Fresh),
            (_, true) => false,
        };
        if tried { Last::Tried } else { Last::Fresh }
    }

    /// The lane whose turn it is; it stays until it is removed.
    pub fn pick(&self) -> Option<QueueKey> {
        let from = if self.turn() == Last::Tried { &self.tried } else { &self.fresh };
        from.first().map(|(_, key)| *key)
    }

    /// The one that was picked starts.
    pub fn starts(&mut self) {
        self.last = self.turn();
    }

    /// The lanes with the oldest first delivery, of the fresh and of the tried ones.
    pub fn firsts(&self) -> impl Iterator<Item = QueueKey> {
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
    fn i14_untried_and_retried_alternate_each_in_order() {
        let mut ready = Ready::default();
        let lane = |n| QueueKey::Alone(Sequence(n));
        [1, 2, 3].iter().for_each(|n| ready.tried(Sequence(*n), lane(*n)));
        [7, 8].iter().for_each(|n| ready.fresh(Sequence(*n), lane(*n)));
        let mut picked = Vec::new();
        while let Some(QueueKey::Alone(sequence)) = ready.pick() {
            assert_eq!(ready.pick(), Some(lane(sequence.0)), "a look takes no turn");
            ready.starts();
            ready.remove(sequence, lane(sequence.0));
            picked.push(sequence.0);
        }
        assert_eq!(picked, [1, 7, 2, 8, 3]);
        assert_eq!(ready.len(), 0);
    }
}
