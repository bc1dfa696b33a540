//! The lanes of a line that wait for what becomes of a dead letter, counted without a look at each.

use super::interaction_queue::QueueKey;
use crate::event::Sequence;
use crate::time::Timestamp;
use std::collections::BTreeSet;

/// What waits behind dead letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockedSummary {
    pub interactions: usize,
    pub deliveries: usize,
    /// When the oldest of them was accepted.
    pub oldest: Option<Timestamp>,
}

#[derive(Debug, Default)]
pub(super) struct BlockedByDeadLetters {
    /// By the first delivery that waits.
    lanes: BTreeSet<(Sequence, QueueKey)>,
    deliveries: usize,
}

impl BlockedByDeadLetters {
    /// A lane has changed; each side is its first delivery and how many wait, none where no dead letter holds them.
    pub fn turns(&mut self, key: QueueKey, from: Option<(Sequence, usize)>, to: Option<(Sequence, usize)>) {
        if let Some((head, waiting)) = from {
            self.lanes.remove(&(head, key));
            self.deliveries -= waiting;
        }
        if let Some((head, waiting)) = to {
            self.lanes.insert((head, key));
            self.deliveries += waiting;
        }
    }

    pub fn sums(&self) -> BlockedSummary {
        BlockedSummary { interactions: self.lanes.len(), deliveries: self.deliveries, oldest: None }
    }

    /// The one whose first delivery is the oldest.
    pub fn first(&self) -> Option<QueueKey> {
        self.lanes.first().map(|(_, key)| *key)
    }
}
