//! The queue of one destination: all deliveries that wait for it, by interaction.
//!
//! *Invariants.* No delivery starts that [`FlowControl`] blocks. Of the deliveries in pages, only as many are in memory
//! as keep the destination busy: the rest is on disk from `cursor` on, and is loaded when fewer than [`READY_LOW`]
//! interactions are ready. Each delivery in memory takes 48 bytes; with few but long interactions, all of their
//! deliveries are in memory. A delivery that has left the queue is never reported as waiting, since it would seem to
//! wait for events accepted after it.

use super::flow_control::{FlowControl, Limits};
use super::interaction_queue::{self, DeadLetters, InteractionQueue, QueueKey, QueuedDelivery};
use super::queue_index::{BlockedSummary, Listing, QueueIndex};
use crate::delivery::{Blocked, Blocker, Place, Ticket};
use crate::event::{DestinationId, Digest64, Sequence, believed_time};
use crate::rules::breaker::{self, Epoch};
use crate::rules::verdict::Call;
use crate::rules::verdict::Verdict;
use crate::time::Timestamp;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// With fewer interactions ready than this, the queue asks for more.
const READY_LOW: usize = 2048;
/// With more interactions ready than this, new events stay on disk.
const READY_HIGH: usize = 8192;
/// With more interactions in memory than this, the queue asks for no more.
const INTERACTIONS_MAX: usize = 100_000;

/// How the deliveries of a destination are ordered and limited.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    pub limits: Limits,
    pub ordered: Ordered,
    pub dead_letters: DeadLetters,
    /// How long an event waits for earlier events of its interaction; zero: not at all.
    pub reorder_window: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ordered {
    #[default]
    ByInteraction,
    Not,
}

/// When the scheduler started. Acceptance times before the start come from another clock.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StartPoint {
    /// The first sequence accepted after the start.
    pub next: Sequence,
    pub at: Timestamp,
}

/// A delivery whose attempt starts now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    pub destination: DestinationId,
    pub sequence: Sequence,
    pub place: Place,
    pub queue_key: QueueKey,
    pub at: Timestamp,
    /// The state of the breaker in which it began.
    pub epoch: Epoch,
}

/// What a delivery waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryStatus {
    /// It starts when its destination can take it.
    Queued,
    /// Its attempt began then.
    InFlight { since: Timestamp },
    /// It has just left the queue; the caller looks up its place in the store again.
    Moved,
    /// It waits for its next attempt or for another event of its interaction.
    Blocked(Blocked),
}

impl DeliveryStatus {
    /// When its next attempt is due, where it waits for that.
    pub fn retry_at(self) -> Option<Timestamp> {
        match self {
            Self::Blocked(Blocked { by: Blocker::RetryBackoff, until, .. }) => until,
            _ => None,
        }
    }

    /// The event of its interaction that must end first.
    pub fn behind(self) -> Option<Sequence> {
        match self {
            Self::Blocked(blocked) => blocked.behind,
            _ => None,
        }
    }
}

/// The deliveries of an interaction to a destination that are in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interaction {
    /// Without order, each event has its own queue, and the fields below are empty.
    pub ordered: Ordered,
    pub in_flight: Option<Sequence>,
    /// The first waiting deliveries, in order.
    pub waiting: Vec<Sequence>,
    pub waiting_count: usize,
    /// Dead letters that block the others.
    pub blocked_by: Vec<Sequence>,
}

#[derive(Debug)]
pub struct DestinationQueue {
    pub(super) id: DestinationId,
    policy: Policy,
    queues: HashMap<QueueKey, InteractionQueue>,
    index: QueueIndex,
    /// Each with the start of its attempt.
    in_flight: BTreeMap<(Sequence, QueueKey), Timestamp>,
    flow: FlowControl,
    /// Every delivery in pages before this sequence is in memory or has left the queue.
    cursor: Sequence,
    loading: bool,
    start_point: StartPoint,
}

impl DestinationQueue {
    pub(super) fn new(id: DestinationId, policy: Policy, cursor: Sequence, start_point: StartPoint) -> Self {
        Self {
            id,
            flow: FlowControl::new(&policy.limits),
            policy,
            queues: HashMap::new(),
            index: QueueIndex::default(),
            in_flight: BTreeMap::new(),
            cursor,
            loading: false,
            start_point,
        }
    }

    /// See [`super::Scheduler::reconfigure`].
    pub(super) fn reconfigure(&mut self, policy: Policy) {
        self.flow.reconfigure(&self.policy.limits, &policy.limits);
        self.policy.limits = policy.limits;
    }

    pub fn flow(&self) -> &FlowControl {
        &self.flow
    }

    pub fn flow_mut(&mut self) -> &mut FlowControl {
        &mut self.flow
    }

    fn key(&self, order_key: Digest64, sequence: Sequence) -> QueueKey {
        if self.policy.ordered == Ordered::Not || order_key.is_none() {
            QueueKey::Alone(sequence)
        } else {
            QueueKey::Interaction(order_key)
        }
    }

    /// Changes the queue of an interaction and its place in the index.
    fn with<T>(&mut self, key: QueueKey, change: impl FnOnce(&mut InteractionQueue) -> T) -> T {
        let queue = self.queues.entry(key).or_default();
        let before = Listing::of(queue);
        let result = change(queue);
        if self.index.update(key, before, Listing::of(queue)) {
            self.queues.remove(&key);
        }
        result
    }

    /// The event was accepted and no attempt has been made.
    fn insert(&mut self, ticket: &Ticket) {
        let (key, delivery) = self.untried(ticket);
        let _already_there = !self.with(key, |queue| queue.insert(delivery));
    }

    fn untried(&self, ticket: &Ticket) -> (QueueKey, QueuedDelivery) {
        let (sequence, window) = (ticket.sequence, self.policy.reorder_window);
        let key = self.key(ticket.order_key, sequence);
        let (mut rank, mut not_before) = (Timestamp::ZERO, Timestamp::ZERO);
        if !window.is_zero() && matches!(key, QueueKey::Interaction(_)) {
            let before = sequence < self.start_point.next;
            let received_at = if before { ticket.received_at.min(self.start_point.at) } else { ticket.received_at };
            rank = interaction_queue::rank(window, received_at, believed_time(ticket.time, received_at));
            not_before = interaction_queue::opens_at(window, rank);
        }
        let (place, received_at) = (ticket.place, ticket.received_at);
        (key, QueuedDelivery { sequence, rank, place, not_before, received_at })
    }

    /// Events up to `next` were accepted; they are inserted only where everything before them is in memory.
    pub(super) fn accepted(&mut self, tickets: &[Ticket], next: Sequence) {
        if tickets.first().is_some_and(|first| self.accepts_directly(first.sequence)) {
            let id = self.id;
            for ticket in tickets.iter().filter(|t| t.to.has(id)) {
                self.insert(ticket);
            }
            self.cursor = next;
        }
    }

    fn accepts_directly(&self, first: Sequence) -> bool {
        let room = self.index.ready_len() < READY_HIGH && self.queues.len() < INTERACTIONS_MAX;
        room && self.cursor == first && !self.loading
    }

    /// The sequence from which the queue needs deliveries, if it needs any; `next` is the next sequence to be accepted.
    /// The caller then calls [`DestinationQueue::loaded`].
    pub(super) fn next_load(&mut self, next: Sequence) -> Option<Sequence> {
        let low = self.index.ready_len() < READY_LOW && self.queues.len() < INTERACTIONS_MAX;
        let needed = low && !self.loading && self.cursor < next;
        self.loading |= needed;
        needed.then_some(self.cursor)
    }

    /// Inserts the deliveries that were requested; everything before `next` is now in memory.
    pub fn loaded(&mut self, tickets: &[Ticket], next: Sequence) {
        for ticket in tickets {
            self.insert(ticket);
        }
        self.cursor = next;
        self.loading = false;
    }

    /// A delivery in the delay tree waits until `not_before`: restored at a start, or redriven. One that is stored there
    /// under due time zero has had no attempt.
    pub fn redriven(&mut self, ticket: &Ticket, not_before: Timestamp) {
        let (key, mut delivery) = self.untried(ticket);
        if !delivery.is_untried() {
            (delivery.rank, delivery.not_before) = (Timestamp::ZERO, not_before);
        }
        self.with(key, |queue| queue.redriven(delivery));
    }

    /// A dead letter from before the start blocks its interaction, where `dead_letters` says so.
    pub fn block_by_dead_letter(&mut self, order_key: Digest64, sequence: Sequence) {
        let key = self.key(order_key, sequence);
        if self.dead_letters(key) == DeadLetters::Hold {
            self.with(key, |queue| queue.block_by(sequence));
        }
    }

    /// What a dead letter means for its queue; an unordered delivery blocks nothing.
    fn dead_letters(&self, key: QueueKey) -> DeadLetters {
        match key {
            QueueKey::Interaction(_) => self.policy.dead_letters,
            QueueKey::Alone(_) => DeadLetters::Continue,
        }
    }

    /// A waiting delivery may start at once.
    pub fn retry_now(&mut self, order_key: Digest64, sequence: Sequence) {
        let key = self.key(order_key, sequence);
        if self.queues.contains_key(&key) {
            self.with(key, |queue| queue.retry_now(sequence));
        }
    }

    /// A dead letter or a waiting delivery is discarded. Without the order key of a dead letter whose record is damaged,
    /// its queue is searched for.
    pub fn discarded(&mut self, order_key: Digest64, sequence: Sequence) {
        let key = self.key(order_key, sequence);
        let key = if self.queues.contains_key(&key) {
            Some(key)
        } else if order_key.is_none() && self.policy.dead_letters == DeadLetters::Hold {
            self.queues.iter().find(|(_, queue)| queue.depends_on(sequence)).map(|(key, _)| *key)
        } else {
            None
        };
        if let Some(key) = key {
            self.with(key, |queue| queue.discarded(sequence));
        }
    }

    /// Starts the next delivery; otherwise returns when to ask again, none where only a call to this queue changes
    /// anything.
    pub(super) fn poll(&mut self, now: Timestamp) -> Result<Start, Option<Timestamp>> {
        let queues = &self.queues;
        let head = |key| queues.get(&key).and_then(|queue: &InteractionQueue| queue.waiting().front());
        self.index.release_due(now, |key| head(key).is_some_and(QueuedDelivery::is_untried));
        let queue_key = self.index.pick()?;
        self.flow.check(self.in_flight.len(), now).map_err(|blocked| blocked.until)?;
        let epoch = self.flow.began(now);
        self.index.starts();
        let delivery = self.with(queue_key, InteractionQueue::start).expect("a ready queue has a head");
        self.in_flight.insert((delivery.sequence, queue_key), now);
        let QueuedDelivery { sequence, place, .. } = delivery;
        Ok(Start { destination: self.id, sequence, place, queue_key, at: now, epoch })
    }

    /// An attempt has ended; without a `call` no request was made. The caller records a change of the breaker's state.
    pub fn ended(
        &mut self,
        start: &Start,
        verdict: Verdict,
        call: Option<&Call>,
        now: Timestamp,
    ) -> Option<breaker::Change> {
        let change = match call {
            Some(call) => self.flow.ended(start.epoch, call, self.in_flight.len(), now),
            None => {
                self.flow.withdrawn(start.epoch);
                None
            }
        };
        let (key, sequence) = (start.queue_key, start.sequence);
        let dead_letters = self.dead_letters(key);
        let found = self.with(key, |queue| {
            let delivery = queue.take_in_flight(sequence)?;
            match verdict {
                Verdict::Delivered | Verdict::Discarded => queue.ended(),
                Verdict::Retry { due } => {
                    let place = Place::Delay(due);
                    queue.put_back(QueuedDelivery { rank: Timestamp::ZERO, place, not_before: due, ..delivery });
                }
                Verdict::Postponed => queue.put_back(delivery),
                Verdict::Dead(_) => queue.died(sequence, dead_letters),
            }
            Some(())
        });
        if found.is_some() {
            self.in_flight.remove(&(sequence, key));
        }
        change
    }

    /// How many attempts are in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The events with a delivery in flight.
    pub fn events_in_flight(&self) -> impl Iterator<Item = Sequence> {
        self.in_flight.keys().map(|(sequence, _)| *sequence)
    }

    /// Deliveries in memory whose due time has not come.
    pub fn delayed(&self) -> usize {
        self.index.delayed_len()
    }

    /// Deliveries in memory that are blocked by others of their interaction.
    pub fn blocked(&self) -> usize {
        self.index.blocked_len()
    }

    /// What blocks the next delivery.
    pub fn blocked_by(&self, now: Timestamp) -> Option<Blocked> {
        self.flow.blocked(self.in_flight.len(), now)
    }

    /// When the oldest delivery in memory was accepted: the oldest of those that are in flight or first in their queues.
    pub fn oldest(&self) -> Option<Timestamp> {
        let keys = self.in_flight.keys().map(|(_, key)| *key).chain(self.index.oldest_heads());
        let first = |key: QueueKey| {
            let queue = self.queues.get(&key)?;
            queue.in_flight().or_else(|| queue.waiting().front()).map(|d| d.received_at)
        };
        keys.filter_map(first).min()
    }

    /// What one delivery waits for.
    pub fn status(&self, order_key: Digest64, sequence: Sequence, now: Timestamp) -> DeliveryStatus {
        let key = self.key(order_key, sequence);
        if let Some(since) = self.in_flight.get(&(sequence, key)) {
            return DeliveryStatus::InFlight { since: *since };
        }
        let queue = self.queues.get(&key);
        let waiting = queue.and_then(|queue| queue.find(sequence));
        if waiting.is_none() && sequence < self.cursor {
            return DeliveryStatus::Moved;
        }
        if let Some((by, behind)) = queue.and_then(|queue| queue.blocked_behind(sequence)) {
            return DeliveryStatus::Blocked(Blocked::behind(by, behind));
        }
        match waiting {
            Some(d) if d.not_before > now => {
                let by = if d.is_untried() { Blocker::Order } else { Blocker::RetryBackoff };
                DeliveryStatus::Blocked(Blocked::until(by, Some(d.not_before)))
            }
            _ => DeliveryStatus::Queued,
        }
    }

    /// The deliveries in memory that dead letters block.
    pub fn blocked_by_dead_letters(&self) -> BlockedSummary {
        let (summary, first) = self.index.blocked_by_dead_letters();
        let oldest = first.and_then(|key| self.queues.get(&key)).and_then(|queue| queue.waiting().front());
        BlockedSummary { oldest: oldest.map(|d| d.received_at), ..summary }
    }

    /// The deliveries of an interaction, with at most `waiting_max` waiting ones.
    pub fn interaction(&self, order_key: Digest64, waiting_max: usize) -> Interaction {
        let ordered = self.policy.ordered;
        let Some(queue) = self.queues.get(&QueueKey::Interaction(order_key)) else {
            return Interaction { ordered, ..Interaction::default() };
        };
        let waiting = queue.waiting();
        Interaction {
            ordered,
            in_flight: queue.in_flight().map(|d| d.sequence),
            waiting: waiting.iter().take(waiting_max).map(|d| d.sequence).collect(),
            waiting_count: waiting.len(),
            blocked_by: queue.dead_letters().iter().copied().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::Reason;
    use crate::event::DestinationSet;
    use crate::rules::concurrency::Adaptive;
    use crate::scheduler::{Scheduler, Step};

    const D: DestinationId = DestinationId(0);

    #[test]
    fn i14_dead_letters_without_an_interaction_block_nothing() {
        let policy = Policy { ordered: Ordered::ByInteraction, dead_letters: DeadLetters::Hold, ..Policy::default() };
        let mut queue = DestinationQueue::new(D, policy, Sequence(1), StartPoint::default());
        for n in 1..=INTERACTIONS_MAX as u64 {
            queue.block_by_dead_letter(Digest64::NONE, Sequence(n));
        }
        assert_eq!(queue.next_load(Sequence(200_000)), Some(Sequence(1)), "they are not in memory");
        queue.block_by_dead_letter(Digest64::of_interaction("k"), Sequence(1));
        queue.insert(&Ticket {
            sequence: Sequence(2),
            order_key: Digest64::of_interaction("k"),
            received_at: Timestamp::ZERO,
            time: None,
            to: DestinationSet::EMPTY.with(D),
            place: Place::Page,
        });
        assert_eq!(queue.poll(Timestamp(1)), Err(None));
        queue.discarded(Digest64::of_interaction("k"), Sequence(1));
        assert_eq!(queue.poll(Timestamp(1)).map(|start| start.sequence), Ok(Sequence(2)));
    }

    #[test]
    fn i14_untried_and_retried_alternate_while_every_second_poll_is_blocked() {
        let limits = Limits { concurrency_max: 1, adaptive: Adaptive::No, ..Limits::default() };
        let policy = Policy { limits, ..Policy::default() };
        let mut queue = DestinationQueue::new(D, policy, Sequence(1), StartPoint::default());
        let ticket = |n: u64, due: u64| Ticket {
            sequence: Sequence(n),
            order_key: Digest64::NONE,
            received_at: Timestamp::ZERO,
            time: None,
            to: DestinationSet::EMPTY.with(D),
            place: Place::under(Timestamp(due)),
        };
        (1..=4).for_each(|n| queue.insert(&ticket(n, 0)));
        (11..=13).for_each(|n| queue.redriven(&ticket(n, 5), Timestamp(5)));
        let mut order = Vec::new();
        while let Ok(start) = queue.poll(Timestamp(9)) {
            assert!(queue.poll(Timestamp(9)).is_err(), "one at once");
            order.push(start.sequence.0);
            assert_eq!(queue.ended(&start, Verdict::Delivered, None, Timestamp(9)), None);
        }
        assert_eq!(order, [11, 1, 12, 2, 13, 3, 4]);
    }

    fn ticket(sequence: u64, interaction: &str) -> Ticket {
        Ticket {
            sequence: Sequence(sequence),
            order_key: Digest64::of_interaction(interaction),
            received_at: Timestamp(sequence),
            time: None,
            to: DestinationSet::EMPTY.with(D),
            place: Place::Page,
        }
    }

    fn scheduler(policy: Policy, tickets: &[Ticket]) -> Scheduler {
        let mut scheduler = Scheduler::new([(D, policy)], Sequence(1), Sequence(1), Timestamp(1));
        for ticket in tickets {
            scheduler.accepted(std::slice::from_ref(ticket), Sequence(ticket.sequence.0 + 1));
        }
        scheduler
    }

    fn die(scheduler: &mut Scheduler, now: Timestamp) {
        let Step::Start(start) = scheduler.poll(now) else { panic!("nothing starts") };
        let queue = scheduler.queue_mut(D).unwrap();
        assert_eq!(queue.ended(&start, Verdict::Dead(Reason::Permanent), None, now), None);
    }

    #[test]
    fn a_dead_letter_does_not_wait_behind_a_later_event() {
        let mut scheduler = scheduler(Policy::default(), &[ticket(1, "k"), ticket(2, "k"), ticket(3, "k")]);
        let now = Timestamp(10);
        let status = |scheduler: &Scheduler, n: u64| {
            scheduler.queue(D).map(|queue| queue.status(Digest64::of_interaction("k"), Sequence(n), now))
        };
        die(&mut scheduler, now);
        assert_eq!(status(&scheduler, 1), Some(DeliveryStatus::Moved));
        let later = Timestamp(12);
        assert!(matches!(scheduler.poll(later), Step::Start(start) if start.sequence == Sequence(2)));
        assert_eq!(
            [1, 2, 3, 4].map(|n| status(&scheduler, n)),
            [
                Some(DeliveryStatus::Moved),
                Some(DeliveryStatus::InFlight { since: later }),
                Some(DeliveryStatus::Blocked(Blocked::behind(Blocker::Order, Sequence(2)))),
                Some(DeliveryStatus::Blocked(Blocked::behind(Blocker::Order, Sequence(2)))),
            ]
        );
    }

    #[test]
    fn deliveries_that_dead_letters_block_are_counted_with_the_oldest() {
        let policy = Policy { dead_letters: DeadLetters::Hold, ..Policy::default() };
        let of = [ticket(1, "a"), ticket(2, "a"), ticket(3, "b"), ticket(4, "b"), ticket(5, "b"), ticket(6, "c")];
        let mut scheduler = scheduler(policy, &of);
        let now = Timestamp(10);
        let blocked = |scheduler: &Scheduler| {
            let blocked = scheduler.queue(D).map(DestinationQueue::blocked_by_dead_letters).unwrap_or_default();
            (blocked.interactions, blocked.deliveries, blocked.oldest.map(|at| at.0))
        };
        assert_eq!(blocked(&scheduler), (0, 0, None));
        for seen in [(1, 1, Some(2)), (2, 3, Some(2)), (2, 3, Some(2))] {
            die(&mut scheduler, now);
            assert_eq!(blocked(&scheduler), seen);
        }
        assert_eq!(scheduler.poll(now), Step::Wait(None), "the rest is blocked");
        scheduler.queue_mut(D).unwrap().discarded(Digest64::of_interaction("a"), Sequence(1));
        assert_eq!(blocked(&scheduler), (1, 2, Some(4)));
        let redriven = Ticket { place: Place::Delay(now), ..ticket(3, "b") };
        scheduler.queue_mut(D).unwrap().redriven(&redriven, now);
        assert_eq!(blocked(&scheduler), (0, 0, None), "a redriven one goes first");
    }
}
