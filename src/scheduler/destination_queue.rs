//! A line: everything that waits for one destination.
//!
//! *Invariants.* No delivery starts against the line's [`FlowControl`]. Of the deliveries that lie in pages only so many are known here as are needed to keep the destination busy: the rest lies on
//! disk behind `cursor`, and is asked for when fewer than [`READY_LOW`] interactions could go. Each known one costs 40
//! bytes; those of a few long interactions are all known.

mod status;

pub use status::{DeliveryStatus, Interaction};

use super::blocked_by_dead_letters::BlockedByDeadLetters;
use super::flow_control::FlowControl;
use super::interaction_queue::{InteractionQueue, QueueKey, QueuedDelivery, Turn};
use super::policy::{DeadLetters, Ordered, Policy};
use super::ready::Ready;
use crate::delivery::{Blocked, Ticket};
use crate::event::{DestinationId, Digest64, Sequence, believed_time};
use crate::rules::breaker::{Epoch, Turn as BreakerTurn};
use crate::rules::call::Call;
use crate::rules::reorder;
use crate::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// With fewer lanes ready than this, more is asked for.
const READY_LOW: usize = 2048;
/// With more lanes ready than this, what arrives stays on disk.
const READY_HIGH: usize = 8192;
/// So many interactions can be blocked before the line asks for no more.
const LANES_MAX: usize = 100_000;

/// When a scheduler began. No clock of before says anything about the time since.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StartPoint {
    /// The first sequence that is accepted in its life.
    pub next: Sequence,
    pub at: Timestamp,
}

/// A delivery whose attempt is to start now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    pub destination: DestinationId,
    pub sequence: Sequence,
    /// See [`QueuedDelivery::lies_under`].
    pub lies_under: Timestamp,
    pub queue_key: QueueKey,
    pub at: Timestamp,
    /// The state of the breaker in which it began.
    pub epoch: Epoch,
}

#[derive(Debug)]
pub struct DestinationQueue {
    pub(super) id: DestinationId,
    pub(super) policy: Policy,
    lanes: HashMap<QueueKey, InteractionQueue>,
    ready: Ready,
    delayed: BTreeSet<(Timestamp, Sequence, QueueKey)>,
    /// With when each began.
    flying: BTreeMap<(Sequence, QueueKey), Timestamp>,
    /// Lanes with nothing in flight whose first delivery waits for a time or a dead letter, so that the oldest of all is found
    /// without a look at each.
    stalled: BTreeSet<(Sequence, QueueKey)>,
    dammed: BlockedByDeadLetters,
    waiting: usize,
    pub(super) pace: FlowControl,
    /// Everything in pages before it is known here.
    pub(super) cursor: Sequence,
    pub(super) loading: bool,
    birth: StartPoint,
}

impl DestinationQueue {
    pub(super) fn new(id: DestinationId, policy: Policy, cursor: Sequence, birth: StartPoint) -> Self {
        Self {
            id,
            pace: FlowControl::new(&policy.pace),
            policy,
            lanes: HashMap::new(),
            ready: Ready::default(),
            delayed: BTreeSet::new(),
            flying: BTreeMap::new(),
            stalled: BTreeSet::new(),
            dammed: BlockedByDeadLetters::default(),
            waiting: 0,
            cursor,
            loading: false,
            birth,
        }
    }

    /// See [`super::Scheduler::go_by`].
    pub(super) fn go_by(&mut self, policy: Policy) {
        self.pace.go_by(&self.policy.pace, &policy.pace);
        self.policy.pace = policy.pace;
    }

    pub(super) fn key(&self, lane: Digest64, sequence: Sequence) -> QueueKey {
        if self.policy.ordered == Ordered::Not || lane.is_none() {
            QueueKey::Alone(sequence)
        } else {
            QueueKey::Interaction(lane)
        }
    }

    /// Changes a lane and lists it anew where its turn stands.
    fn with<T>(&mut self, key: QueueKey, change: impl FnOnce(&mut InteractionQueue) -> T) -> T {
        let lane = self.lanes.entry(key).or_default();
        if let Turn::Head { sequence, not_before } = lane.turn() {
            self.ready.remove(sequence, key);
            self.delayed.remove(&(not_before, sequence, key));
        }
        let (before, stalled, dammed) = (lane.waiting().len(), lane.stalled(), lane.dammed());
        let result = change(lane);
        if stalled != lane.stalled() {
            stalled.map(|head| self.stalled.remove(&(head, key)));
            lane.stalled().map(|head| self.stalled.insert((head, key)));
        }
        self.dammed.turns(key, dammed, lane.dammed());
        self.waiting = self.waiting + lane.waiting().len() - before;
        match lane.turn() {
            Turn::Head { sequence, not_before } if not_before == Timestamp::ZERO => {
                self.ready.fresh(sequence, key);
            }
            Turn::Head { sequence, not_before } => {
                self.delayed.insert((not_before, sequence, key));
            }
            Turn::Blocked => {}
            Turn::Over => {
                self.lanes.remove(&key);
            }
        }
        result
    }

    /// A delivery that was not tried waits.
    pub(super) fn insert(&mut self, ticket: &Ticket) {
        let (key, waiter) = self.fresh(ticket);
        let _already_there = !self.with(key, |lane| lane.insert(waiter));
    }

    fn fresh(&self, ticket: &Ticket) -> (QueueKey, QueuedDelivery) {
        let (sequence, window) = (ticket.sequence, self.policy.reorder_window);
        let key = self.key(ticket.order_key, sequence);
        let (mut rank, mut not_before) = (Timestamp::ZERO, Timestamp::ZERO);
        if !window.is_zero() && matches!(key, QueueKey::Interaction(_)) {
            let before = sequence < self.birth.next;
            let received_at = if before { ticket.received_at.min(self.birth.at) } else { ticket.received_at };
            let said = Some(ticket.time).filter(|time| *time > Timestamp::ZERO);
            rank = reorder::rank(window, received_at, believed_time(said, received_at));
            not_before = reorder::opens_at(window, rank);
        }
        let (lies_under, received_at) = (ticket.place.due(), ticket.received_at);
        (key, QueuedDelivery { sequence, rank, lies_under, not_before, received_at })
    }

    /// Starts the delivery whose turn it is, or says when to ask again.
    pub(super) fn poll(&mut self, now: Timestamp) -> Result<Start, Option<Timestamp>> {
        self.promote(now);
        let Some(key) = self.ready.pick() else { return Err(self.delayed.first().map(|(due, ..)| *due)) };
        self.pace.check(self.flying.len(), now).map_err(|shut| shut.until)?;
        let epoch = self.pace.began(now);
        self.ready.starts();
        let waiter = self.with(key, InteractionQueue::start).expect("a ready lane has a head");
        self.flying.insert((waiter.sequence, key), now);
        Ok(Start {
            destination: self.id,
            sequence: waiter.sequence,
            lies_under: waiter.lies_under,
            queue_key: key,
            at: now,
            epoch,
        })
    }

    /// What has become due is ready, in order of acceptance.
    fn promote(&mut self, now: Timestamp) {
        while let Some((due, sequence, key)) = self.delayed.first().copied().filter(|(due, ..)| *due <= now) {
            self.delayed.remove(&(due, sequence, key));
            if self.lanes.get(&key).and_then(|lane| lane.waiting().front()).is_some_and(QueuedDelivery::is_fresh) {
                self.ready.fresh(sequence, key);
            } else {
                self.ready.tried(sequence, key);
            }
        }
    }

    /// What an attempt says of the destination, before its delivery lands; none where it was not made after all.
    pub(super) fn called(&mut self, began: Epoch, call: Option<&Call>, now: Timestamp) -> Option<BreakerTurn> {
        match call {
            Some(call) => self.pace.ended(began, call, self.flying.len(), now),
            None => {
                self.pace.withdrawn(began);
                None
            }
        }
    }

    /// An attempt has ended with its delivery resolved: delivered or discarded.
    pub(super) fn resolved(&mut self, key: QueueKey, sequence: Sequence) {
        self.land(key, sequence, |lane, _| lane.ended());
    }

    /// An attempt has failed; the delivery waits in the delay tree.
    pub(super) fn retry(&mut self, key: QueueKey, sequence: Sequence, due: Timestamp) {
        self.land(key, sequence, |lane, waiter| {
            lane.back(QueuedDelivery { rank: Timestamp::ZERO, lies_under: due, not_before: due, ..waiter });
        });
    }

    /// The attempt was not made after all; the delivery is where it was.
    pub(super) fn postponed(&mut self, key: QueueKey, sequence: Sequence) {
        self.land(key, sequence, |lane, waiter| {
            lane.back(waiter);
        });
    }

    /// A delivery need not wait for its time.
    pub(super) fn hastened(&mut self, lane: Digest64, sequence: Sequence) {
        let key = self.key(lane, sequence);
        if self.lanes.contains_key(&key) {
            self.with(key, |lane| lane.hastened(sequence));
        }
    }

    /// An attempt has failed for good.
    pub(super) fn died(&mut self, key: QueueKey, sequence: Sequence) {
        let dead_letters = self.dead_letters(key);
        self.land(key, sequence, |lane, _| lane.died(sequence, dead_letters));
    }

    /// What a dead letter means for its lane; one that is alone has nobody behind it to hold.
    fn dead_letters(&self, key: QueueKey) -> DeadLetters {
        match key {
            QueueKey::Interaction(_) => self.policy.dead_letters,
            QueueKey::Alone(_) => DeadLetters::Continue,
        }
    }

    fn land(&mut self, key: QueueKey, sequence: Sequence, then: impl FnOnce(&mut InteractionQueue, QueuedDelivery)) {
        let landed = self.with(key, |lane| lane.land(sequence).map(|waiter| then(lane, waiter)));
        if landed.is_some() {
            self.flying.remove(&(sequence, key));
        }
    }

    /// A dead letter of before the start holds its lane.
    pub(super) fn hold_lane(&mut self, key: QueueKey, dead: Sequence) {
        if self.dead_letters(key) == DeadLetters::Hold {
            self.with(key, |lane| lane.hold(dead));
        }
    }

    /// A delivery of the delay tree waits; one that lies there under due time zero was not tried.
    pub(super) fn redriven(&mut self, ticket: &Ticket, not_before: Timestamp) {
        let (key, mut waiter) = self.fresh(ticket);
        if !waiter.is_fresh() {
            (waiter.rank, waiter.not_before) = (Timestamp::ZERO, not_before);
        }
        self.with(key, |lane| lane.redriven(waiter));
    }

    /// A dead letter is gone for good. The lane of one that did not verify is not told, and is looked for.
    pub(super) fn purged(&mut self, lane: Digest64, dead: Sequence) {
        let key = self.key(lane, dead);
        let key = if self.lanes.contains_key(&key) {
            Some(key)
        } else if lane.is_none() && self.policy.dead_letters == DeadLetters::Hold {
            self.lanes.iter().find(|(_, lane)| lane.hangs_on(dead)).map(|(key, _)| *key)
        } else {
            None
        };
        if let Some(key) = key {
            self.with(key, |lane| lane.purged(dead));
        }
    }

    /// From where more is wanted, given that `next` has been reached by acceptance.
    pub(super) fn wants(&self, next: Sequence) -> Option<Sequence> {
        let low = self.ready.len() < READY_LOW && self.lanes.len() < LANES_MAX;
        (low && !self.loading && self.cursor < next).then_some(self.cursor)
    }

    /// Whether what arrives at `first` can be taken at once, because everything before it is known.
    pub(super) fn takes(&self, first: Sequence) -> bool {
        self.cursor == first && !self.loading && self.ready.len() < READY_HIGH && self.lanes.len() < LANES_MAX
    }

    pub fn in_flight(&self) -> usize {
        self.flying.len()
    }

    /// Known deliveries whose due time has not come.
    pub fn delayed(&self) -> usize {
        self.delayed.len()
    }

    /// Known deliveries that wait behind others of their interaction.
    pub fn held(&self) -> usize {
        self.waiting - self.ready.len() - self.delayed.len()
    }

    pub fn pace(&self) -> &FlowControl {
        &self.pace
    }

    /// What would hold back a delivery whose turn it is.
    pub fn shut(&self, now: Timestamp) -> Option<Blocked> {
        self.pace.shut(self.flying.len(), now)
    }

    /// When the oldest of the known deliveries was accepted: the oldest by sequence of those that fly, can go or are stalled.
    pub fn oldest(&self) -> Option<Timestamp> {
        let keys = self.flying.keys().map(|(_, key)| *key);
        let keys = keys.chain(self.ready.firsts()).chain(self.stalled.first().map(|(_, key)| *key));
        let head = |key: QueueKey| {
            let lane = self.lanes.get(&key)?;
            lane.in_flight().or_else(|| lane.waiting().front()).map(|w| w.received_at)
        };
        keys.filter_map(head).min()
    }

    /// What is in flight.
    pub fn flying(&self) -> impl Iterator<Item = Sequence> {
        self.flying.keys().map(|(sequence, _)| *sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::Place;
    use crate::event::DestinationSet;
    use crate::rules::concurrency::Adaptive;
    use crate::scheduler::flow_control;

    #[test]
    fn i14_dead_letters_without_an_interaction_block_nothing() {
        let policy = Policy { ordered: Ordered::ByInteraction, dead_letters: DeadLetters::Hold, ..Policy::default() };
        let mut line = DestinationQueue::new(DestinationId(0), policy, Sequence(1), StartPoint::default());
        for n in 1..=LANES_MAX as u64 {
            line.hold_lane(line.key(Digest64::NONE, Sequence(n)), Sequence(n));
        }
        assert_eq!(line.wants(Sequence(200_000)), Some(Sequence(1)), "they take the room of what could go");
        let lane = line.key(Digest64::of_interaction("k"), Sequence(1));
        line.hold_lane(lane, Sequence(1));
        line.insert(&Ticket {
            sequence: Sequence(2),
            order_key: Digest64::of_interaction("k"),
            received_at: Timestamp::ZERO,
            time: Timestamp::ZERO,
            to: DestinationSet::EMPTY.with(DestinationId(0)),
            place: Place::Page,
        });
        assert_eq!(line.poll(Timestamp(1)), Err(None));
        line.purged(Digest64::of_interaction("k"), Sequence(1));
        assert_eq!(line.poll(Timestamp(1)).map(|start| start.sequence), Ok(Sequence(2)));
    }

    #[test]
    fn i14_untried_and_retried_alternate_also_when_every_second_check_blocks() {
        let pace =
            flow_control::Limits { concurrency_max: 1, adaptive: Adaptive::No, ..flow_control::Limits::default() };
        let policy = Policy { pace, ..Policy::default() };
        let mut line = DestinationQueue::new(DestinationId(0), policy, Sequence(1), StartPoint::default());
        let ticket = |n: u64, due: u64| Ticket {
            sequence: Sequence(n),
            order_key: Digest64::NONE,
            received_at: Timestamp::ZERO,
            time: Timestamp::ZERO,
            to: DestinationSet::EMPTY.with(DestinationId(0)),
            place: Place::under(Timestamp(due)),
        };
        (1..=4).for_each(|n| line.insert(&ticket(n, 0)));
        (11..=13).for_each(|n| line.redriven(&ticket(n, 5), Timestamp(5)));
        let mut order = Vec::new();
        while let Ok(start) = line.poll(Timestamp(9)) {
            assert!(line.poll(Timestamp(9)).is_err(), "one at once");
            order.push(start.sequence.0);
            line.resolved(start.queue_key, start.sequence);
        }
        assert_eq!(order, [11, 1, 12, 2, 13, 3, 4]);
    }
}
