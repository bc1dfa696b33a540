//! The interaction queues of a destination by what their first deliveries wait for.
//!
//! *Invariants.* Each queue is listed in its state at the last [`QueueIndex::update`]: ready or delayed; also as head
//! waiting, and as blocked by dead letters, if that applies. Ready queues start in order of acceptance, but untried and
//! retried deliveries alternate (as Postfix's queue manager alternates new and deferred messages), so deliveries that
//! fail repeatedly cannot starve new ones. The turn changes when a delivery starts, not when one is picked and found
//! blocked.

use super::interaction_queue::{InteractionQueue, Next, QueueKey};
use crate::event::Sequence;
use crate::time::Timestamp;
use std::collections::BTreeSet;

/// Deliveries blocked by dead letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockedSummary {
    pub interactions: usize,
    pub deliveries: usize,
    /// When the oldest of them was accepted.
    pub oldest: Option<Timestamp>,
}

/// How a queue is listed.
#[derive(Clone, Copy, Debug)]
pub struct Listing {
    next: Next,
    head_waiting: Option<Sequence>,
    blocked: Option<(Sequence, usize)>,
    waiting: usize,
}

impl Listing {
    pub fn of(queue: &InteractionQueue) -> Self {
        Self {
            next: queue.next(),
            head_waiting: queue.head_waiting(),
            blocked: queue.blocked_by_dead_letter(),
            waiting: queue.waiting().len(),
        }
    }
}

#[derive(Debug, Default)]
pub struct QueueIndex {
    ready: Ready,
    delayed: BTreeSet<(Timestamp, Sequence, QueueKey)>,
    /// Queues with nothing in flight whose first delivery waits for a time or a dead letter.
    head_waiting: BTreeSet<(Sequence, QueueKey)>,
    blocked_by_dead_letters: BlockedByDeadLetters,
    /// Deliveries that wait in all queues.
    waiting: usize,
}

impl QueueIndex {
    /// Updates the listing of a queue that has changed; true if it is empty.
    pub fn update(&mut self, key: QueueKey, from: Listing, to: Listing) -> bool {
        if let Next::Head { sequence, not_before } = from.next {
            self.ready.remove(sequence, key);
            self.delayed.remove(&(not_before, sequence, key));
        }
        if from.head_waiting != to.head_waiting {
            from.head_waiting.map(|head| self.head_waiting.remove(&(head, key)));
            to.head_waiting.map(|head| self.head_waiting.insert((head, key)));
        }
        self.blocked_by_dead_letters.update(key, from.blocked, to.blocked);
        self.waiting = self.waiting + to.waiting - from.waiting;
        if let Next::Head { sequence, not_before } = to.next {
            if not_before == Timestamp::ZERO {
                self.ready.untried.insert((sequence, key));
            } else {
                self.delayed.insert((not_before, sequence, key));
            }
        }
        to.next == Next::Empty
    }

    /// Moves queues that are due at `now` to the ready ones.
    pub fn release_due(&mut self, now: Timestamp, is_untried: impl Fn(QueueKey) -> bool) {
        while let Some((due, sequence, key)) = self.delayed.first().copied().filter(|(due, ..)| *due <= now) {
            self.delayed.remove(&(due, sequence, key));
            let ready = if is_untried(key) { &mut self.ready.untried } else { &mut self.ready.retried };
            ready.insert((sequence, key));
        }
    }

    /// The next ready queue; otherwise when one is due.
    pub fn pick(&self) -> Result<QueueKey, Option<Timestamp>> {
        self.ready.pick().ok_or_else(|| self.delayed.first().map(|(due, ..)| *due))
    }

    /// The delivery of the picked queue starts.
    pub fn starts(&mut self) {
        self.ready.starts();
    }

    pub fn ready_len(&self) -> usize {
        self.ready.untried.len() + self.ready.retried.len()
    }

    pub fn delayed_len(&self) -> usize {
        self.delayed.len()
    }

    /// Deliveries that are neither ready nor delayed, but blocked by others.
    pub fn blocked_len(&self) -> usize {
        self.waiting - self.ready_len() - self.delayed_len()
    }

    /// Queues among which one has the oldest waiting delivery of all first deliveries.
    pub fn oldest_heads(&self) -> impl Iterator<Item = QueueKey> {
        let heads = [self.ready.untried.first(), self.ready.retried.first(), self.head_waiting.first()];
        heads.into_iter().flatten().map(|(_, key)| *key)
    }

    /// The deliveries blocked by dead letters, without `oldest`; and the queue of the oldest of them.
    pub fn blocked_by_dead_letters(&self) -> (BlockedSummary, Option<QueueKey>) {
        let BlockedByDeadLetters { queues, deliveries } = &self.blocked_by_dead_letters;
        let summary = BlockedSummary { interactions: queues.len(), deliveries: *deliveries, oldest: None };
        (summary, queues.first().map(|(_, key)| *key))
    }
}

#[derive(Debug, Default)]
struct BlockedByDeadLetters {
    /// By the first delivery that waits.
    queues: BTreeSet<(Sequence, QueueKey)>,
    deliveries: usize,
}

impl BlockedByDeadLetters {
    /// Each side is the first delivery of the queue and the number of waiting ones; none where no dead letter blocks
    /// them.
    fn update(&mut self, key: QueueKey, from: Option<(Sequence, usize)>, to: Option<(Sequence, usize)>) {
        if let Some((head, waiting)) = from {
            self.queues.remove(&(head, key));
            self.deliveries -= waiting;
        }
        if let Some((head, waiting)) = to {
            self.queues.insert((head, key));
            self.deliveries += waiting;
        }
    }
}

/// The queues whose first delivery can start now.
#[derive(Debug, Default)]
struct Ready {
    untried: BTreeSet<(Sequence, QueueKey)>,
    retried: BTreeSet<(Sequence, QueueKey)>,
    last: Last,
}

/// The kind of the last delivery that started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Last {
    #[default]
    Untried,
    Retried,
}

impl Ready {
    fn remove(&mut self, sequence: Sequence, key: QueueKey) {
        if !self.untried.remove(&(sequence, key)) {
            self.retried.remove(&(sequence, key));
        }
    }

    /// The kind of the next delivery.
    fn turn(&self) -> Last {
        let retried = !self.retried.is_empty() && (self.untried.is_empty() || self.last == Last::Untried);
        if retried { Last::Retried } else { Last::Untried }
    }

    /// The next queue; it stays listed until it is removed.
    fn pick(&self) -> Option<QueueKey> {
        let from = if self.turn() == Last::Retried { &self.retried } else { &self.untried };
        from.first().map(|(_, key)| *key)
    }

    fn starts(&mut self) {
        self.last = self.turn();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i14_untried_and_retried_alternate_each_in_order() {
        let mut ready = Ready::default();
        let alone = |n| (Sequence(n), QueueKey::Alone(Sequence(n)));
        ready.retried.extend([1, 2, 3].map(alone));
        ready.untried.extend([7, 8].map(alone));
        let mut picked = Vec::new();
        while let Some(key @ QueueKey::Alone(sequence)) = ready.pick() {
            assert_eq!(ready.pick(), Some(key), "picking takes no turn");
            ready.starts();
            ready.remove(sequence, key);
            picked.push(sequence.0);
        }
        assert_eq!(picked, [1, 7, 2, 8, 3]);
    }
}
