//! The judge: a flat list of what each delivery may do now, searched from end to end, to which every decision of the
//! scheduler is compared. It shares only data types with the scheduler.

use super::latecomers::Latecomers;
use super::pacer::{Pacer, Past};
use super::settings::Destination;
use super::store::{Location, Record, Store};
use holdline::delivery::{DeliveryId, Ticket};
use holdline::event::{DestinationId, Digest64, Sequence};
use holdline::rules::verdict::Verdict;
use holdline::scheduler::{DeadLetters, Ordered, Start};
use holdline::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::RangeInclusive;

/// With more open deliveries than this for a destination, the judge does not check whether they take turns.
const OPEN_MANY: usize = 200;

/// A violated invariant of the product: its number, and how it was violated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub invariant: &'static str,
    pub how: String,
}

pub fn violation<T>(invariant: &'static str, how: String) -> Result<T, Violation> {
    Err(Violation { invariant, how })
}

/// What the scheduler knows of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// It is in a page, and the scheduler must read the page in time.
    Page,
    Waiting {
        not_before: Timestamp,
    },
    InFlight,
    Dead,
}

/// What the scheduler learned of a dead letter before it learned the end of its last attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meanwhile {
    Redriven,
    Purged,
}

#[derive(Clone, Debug)]
struct Fate {
    order_key: Digest64,
    /// As estimated in this run.
    received_at: Timestamp,
    /// Zero if unknown.
    time: Timestamp,
    /// No attempt is known.
    fresh: bool,
    /// None if it has ended.
    seen: Option<Seen>,
    meanwhile: Option<Meanwhile>,
    /// What the scheduler knew of it before it was in flight.
    before: Option<Seen>,
    redriven: bool,
    clamped: bool,
    /// It was attempted while its destination was unordered, or not ordered by acceptance alone.
    disordered: bool,
    /// Attempts since acceptance or the last redrive, and how many of them a crash has lost.
    tried: u32,
    lost: u32,
    /// Those of them that count against no limit.
    free: u32,
    successes: u32,
    /// Successes that a crash has lost.
    forgotten: u32,
}

type Key = (DestinationId, Sequence);

/// The interaction queue of a delivery; each unordered delivery is alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Mates {
    Interaction(Digest64),
    None(Sequence),
}

#[derive(Debug, Default)]
pub struct Judge {
    fates: BTreeMap<Key, Fate>,
    /// Deliveries that have not ended, by interaction.
    mates: HashMap<(DestinationId, Digest64), BTreeSet<Sequence>>,
    /// The keys of deliveries that have not ended.
    open: BTreeSet<Key>,
    flying: BTreeSet<Key>,
    /// The scheduler knows every delivery in pages before this sequence.
    known: BTreeMap<DestinationId, Sequence>,
    /// The retry-after time of each destination in this run, and the committed part of it.
    holds: BTreeMap<DestinationId, Timestamp>,
    committed: BTreeMap<DestinationId, Timestamp>,
    pub pacers: BTreeMap<DestinationId, Pacer>,
    pasts: BTreeMap<DestinationId, Past>,
    /// Whether to check that untried deliveries and retries take turns; and whether the last one to start was untried.
    watches_turns: bool,
    last_fresh: BTreeMap<DestinationId, bool>,
    pub latecomers: Latecomers,
}

fn all(d: DestinationId) -> RangeInclusive<Key> {
    (d, Sequence(0))..=(d, Sequence(u64::MAX))
}

fn key(id: DeliveryId) -> Key {
    (id.destination, id.sequence)
}

fn mates(destination: &Destination, fate: &Fate, sequence: Sequence) -> Mates {
    if destination.policy.ordered == Ordered::Not || fate.order_key.is_none() {
        Mates::None(sequence)
    } else {
        Mates::Interaction(fate.order_key)
    }
}

/// Position within the interaction; the lower goes first.
fn order(to: &Destination, fate: &Fate, sequence: Sequence) -> (Timestamp, Sequence) {
    (happened(to, fate).unwrap_or_default(), sequence)
}

/// The time of the event, limited to the window before its acceptance; none if it has no effect.
fn happened(to: &Destination, fate: &Fate) -> Option<Timestamp> {
    let window = to.policy.reorder_window;
    if window.is_zero() || !fate.fresh || to.policy.ordered == Ordered::Not || fate.order_key.is_none() {
        return None;
    }
    let (latest, earliest) = (fate.received_at, fate.received_at.before(window));
    Some(if fate.time == Timestamp::ZERO || fate.time > latest {
        latest
    } else if fate.time < earliest {
        earliest
    } else {
        fate.time
    })
}

fn not_before_of(to: &Destination, fate: &Fate) -> Timestamp {
    match (happened(to, fate), fate.seen) {
        (Some(happened), _) => happened.after(to.policy.reorder_window),
        (None, Some(Seen::Waiting { not_before })) => not_before,
        _ => Timestamp::ZERO,
    }
}

impl Judge {
    pub fn new(destinations: &[Destination], watches_turns: bool) -> Self {
        let pacer = |d: &Destination| (d.id, Pacer::new(&d.policy.limits));
        Self { pacers: destinations.iter().map(pacer).collect(), watches_turns, ..Self::default() }
    }

    fn fate(&mut self, id: DeliveryId) -> &mut Fate {
        self.fates.get_mut(&key(id)).expect("accepted")
    }

    /// Records what the scheduler has learned.
    fn sees(&mut self, id: DeliveryId, seen: Option<Seen>) {
        let key = key(id);
        let fate = self.fate(id);
        fate.seen = seen;
        let order_key = (id.destination, fate.order_key);
        let mates = self.mates.entry(order_key).or_default();
        let _ = if seen.is_some() { mates.insert(id.sequence) } else { mates.remove(&id.sequence) };
        let _ = if seen.is_some() { self.open.insert(key) } else { self.open.remove(&key) };
        let _ = if seen == Some(Seen::InFlight) { self.flying.insert(key) } else { self.flying.remove(&key) };
    }

    /// Deliveries that have not ended, in the order of acceptance.
    fn of(&self, d: DestinationId) -> impl Iterator<Item = (Sequence, &Fate)> {
        self.open.range(all(d)).map(|key| (key.1, &self.fates[key]))
    }

    pub fn in_flight(&self, d: DestinationId) -> usize {
        self.flying.range(all(d)).count()
    }

    /// The number of deliveries that have not ended, as far as the scheduler knows.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    pub fn accepted(&mut self, id: DeliveryId, ticket: &Ticket) {
        let fate = Fate {
            order_key: ticket.order_key,
            received_at: ticket.received_at,
            time: ticket.time.unwrap_or_default(),
            fresh: true,
            seen: Some(Seen::Page),
            meanwhile: None,
            before: None,
            redriven: false,
            clamped: false,
            disordered: false,
            tried: 0,
            lost: 0,
            free: 0,
            successes: 0,
            forgotten: 0,
        };
        self.fates.insert(key(id), fate);
        self.sees(id, Some(Seen::Page));
    }

    /// The store has put a dead letter back; its attempts count no longer.
    pub fn forgiven(&mut self, id: DeliveryId) {
        let fate = self.fate(id);
        (fate.tried, fate.lost, fate.free) = (0, 0, 0);
    }

    pub fn hears_redriven(&mut self, id: DeliveryId) {
        let fate = self.fate(id);
        fate.redriven = true;
        fate.fresh &= fate.seen == Some(Seen::InFlight);
        if fate.seen == Some(Seen::InFlight) {
            fate.meanwhile = Some(Meanwhile::Redriven);
        } else {
            self.sees(id, Some(Seen::Waiting { not_before: Timestamp::ZERO }));
        }
    }

    pub fn hears_purged(&mut self, id: DeliveryId) {
        let fate = self.fate(id);
        if fate.seen == Some(Seen::InFlight) {
            fate.meanwhile = Some(Meanwhile::Purged);
        } else {
            self.sees(id, None);
        }
    }

    pub fn hears_ended(&mut self, id: DeliveryId, verdict: Verdict) {
        let fate = self.fate(id);
        fate.clamped = false;
        fate.fresh &= verdict == Verdict::Postponed;
        let seen = match (verdict, fate.meanwhile.take()) {
            (Verdict::Postponed, _) => fate.before,
            (Verdict::Delivered | Verdict::Discarded, _) | (Verdict::Dead(_), Some(Meanwhile::Purged)) => None,
            (Verdict::Retry { due }, _) => Some(Seen::Waiting { not_before: due }),
            (Verdict::Dead(_), Some(Meanwhile::Redriven)) => Some(Seen::Waiting { not_before: Timestamp::ZERO }),
            (Verdict::Dead(_), None) => Some(Seen::Dead),
        };
        self.sees(id, seen);
    }

    /// An attempt that had started was not made.
    pub fn takes_back(&mut self, id: DeliveryId) {
        self.fate(id).tried -= 1;
    }

    /// An attempt has ended in a way that counts against no limit.
    pub fn is_free(&mut self, id: DeliveryId) {
        self.fate(id).free += 1;
    }

    /// The state that survives a restart.
    pub fn past(&mut self, d: DestinationId) -> &mut Past {
        self.pasts.entry(d).or_default()
    }

    pub fn pacer(&mut self, d: DestinationId) -> &mut Pacer {
        self.pacers.get_mut(&d).expect("every destination has one")
    }

    /// The scheduler knows every delivery in pages before `next`.
    pub fn knows(&mut self, d: DestinationId, next: Sequence) {
        let known = self.known.entry(d).or_default();
        *known = next.max(*known);
    }

    pub fn hears_hold(&mut self, d: DestinationId, until: Timestamp) {
        let hold = self.holds.entry(d).or_default();
        *hold = until.max(*hold);
    }

    /// A retry-after time is on disk.
    pub fn keeps_hold(&mut self, d: DestinationId, until: Timestamp) {
        let hold = self.committed.entry(d).or_default();
        *hold = until.max(*hold);
    }

    /// An attempt has succeeded at the receiver.
    pub fn succeeded(&mut self, id: DeliveryId) -> Result<(), Violation> {
        let fate = self.fate(id);
        fate.successes += 1;
        if fate.successes > 1 + fate.forgotten {
            return violation("I10", format!("{id} was delivered {} times", fate.successes));
        }
        Ok(())
    }

    /// A crash during an attempt; the receiver may have got the request.
    pub fn cut_off(&mut self, id: DeliveryId, received: bool) {
        let fate = self.fate(id);
        fate.lost += 1;
        fate.successes += u32::from(received);
        fate.forgotten += u32::from(received);
    }

    /// A crash has lost what was recorded.
    pub fn forgets(&mut self, id: DeliveryId, was: Record, is: Record) {
        let fate = self.fate(id);
        let delivered = u32::from(was.location == Location::Delivered);
        fate.lost += was.attempts - is.attempts + delivered;
        fate.forgotten += delivered;
    }

    /// A new run begins with the data on disk.
    pub fn restarts(&mut self, store: &Store, before: &[Destination], after: &[Destination], now: Timestamp) {
        self.known.clear();
        self.last_fresh.clear();
        self.latecomers = Latecomers::restored(store);
        for (id, record) in &store.durable {
            let d = usize::from(id.destination.0);
            let (was, is) = (&before[d].policy, &after[d]);
            let fate = self.fate(*id);
            fate.meanwhile = None;
            let by_acceptance = was.ordered != Ordered::Not && was.reorder_window.is_zero();
            fate.disordered |= !by_acceptance && is.policy.ordered != Ordered::Not && record.location != Location::Page;
            fate.received_at = record.received_at.min(now);
            fate.fresh = record.location.waits() && record.location.due() == Timestamp::ZERO;
            let mut clamped = false;
            let seen = match record.location {
                Location::Page => Some(Seen::Page),
                Location::Delay(due) => {
                    clamped = due > is.latest(now);
                    Some(Seen::Waiting { not_before: due.min(is.latest(now)) })
                }
                Location::Dead => Some(Seen::Dead),
                Location::Delivered | Location::Discarded => None,
            };
            fate.clamped = clamped;
            self.sees(*id, seen);
        }
        for destination in after {
            let pause = store.pauses.get(&destination.id).copied().flatten();
            let fixed = store.breakers.get(&destination.id).and_then(Option::as_ref);
            let pacer = Pacer::restored(pause, fixed, *self.past(destination.id), &destination.policy.limits, now);
            self.pacers.insert(destination.id, pacer);
            let latest = now.after(destination.retry.retry_after_max);
            let hold = self.committed.get(&destination.id).copied().unwrap_or_default();
            self.holds.insert(destination.id, hold.min(latest));
        }
    }

    /// Checks whether this delivery may start now.
    pub fn starts(&mut self, start: &Start, to: &Destination, store: &Store, now: Timestamp) -> Result<(), Violation> {
        let id = DeliveryId { sequence: start.sequence, destination: start.destination };
        let (Some(fate), Some(record)) = (self.fates.get(&key(id)), store.live.get(&id)) else {
            return violation("I8", format!("{id} was never accepted"));
        };
        if !record.location.waits() {
            return violation("I10", format!("{id} starts, but it is {:?}", record.location));
        }
        self.in_its_turn(id, fate, to, store)?;
        let not_before = not_before_of(to, fate);
        if now < not_before {
            return violation("I16", format!("{id} starts before {not_before:?}"));
        }
        if let Some(hold) = self.holds.get(&id.destination).filter(|hold| now < **hold) {
            return violation("I12", format!("{id} starts, but its destination is held until {hold:?}"));
        }
        if record.location.due() != start.place.due() {
            return violation("I8", format!("{id} is looked for in {:?}, but is {:?}", start.place, record.location));
        }
        let in_flight = self.in_flight(id.destination);
        if in_flight >= to.policy.limits.concurrency_max {
            return violation("concurrency", format!("{id} starts beyond {}", to.policy.limits.concurrency_max));
        }
        let counted = record.attempts - record.forgiven - record.free;
        let tried = fate.tried.saturating_sub(fate.lost + fate.free);
        if let Some(limit) = to.retry.attempts.filter(|limit| tried >= *limit || counted >= *limit) {
            return violation("I11", format!("{id} is tried more than {limit} times"));
        }
        self.takes_its_turn(id, to, now)?;
        self.pacer(id.destination).starts(&to.policy.limits, id.sequence, in_flight, now)?;
        self.past(id.destination).last_start = Some(now);
        let fate = self.fate(id);
        fate.tried += 1;
        fate.before = fate.seen;
        self.sees(id, Some(Seen::InFlight));
        Ok(())
    }

    /// Untried deliveries, or those that need not wait, take turns with deliveries that have become due, as long as
    /// there are both.
    fn takes_its_turn(&mut self, id: DeliveryId, to: &Destination, now: Timestamp) -> Result<(), Violation> {
        if !self.watches_turns {
            return Ok(());
        }
        let is_fresh = |fate: &Fate| fate.fresh || not_before_of(to, fate) == Timestamp::ZERO;
        let fresh = is_fresh(&self.fates[&key(id)]);
        let last = self.last_fresh.insert(id.destination, fresh).unwrap_or(true);
        if last != fresh || self.open.range(all(id.destination)).count() > OPEN_MANY {
            return Ok(());
        }
        let known = self.known.get(&id.destination).copied().unwrap_or_default();
        let other = self.heads(to).into_iter().find(|(n, fate)| {
            let told = fate.seen != Some(Seen::Page) || *n < known;
            told && is_fresh(fate) != fresh && not_before_of(to, fate) <= now
        });
        match other {
            Some((n, _)) => violation("turns", format!("{id} starts, fresh {fresh} as the one before, and {n} could")),
            None => Ok(()),
        }
    }

    /// No delivery of its interaction is in flight, and none before it must go first.
    fn in_its_turn(&self, id: DeliveryId, fate: &Fate, to: &Destination, store: &Store) -> Result<(), Violation> {
        let mine = mates(to, fate, id.sequence);
        let mut flying = self.flying.range(all(id.destination)).map(|key| key.1);
        if let Some(other) = flying.find(|n| mates(to, &self.fates[&(id.destination, *n)], *n) == mine) {
            return violation("I13", format!("{id} starts while {other} is in flight"));
        }
        if mine == Mates::None(id.sequence) {
            return Ok(());
        }
        let known = self.known.get(&id.destination).copied().unwrap_or_default();
        let end = if to.policy.reorder_window.is_zero() { id.sequence } else { known.max(id.sequence) };
        for sequence in
            self.mates[&(id.destination, fate.order_key)].range(..end).copied().filter(|s| *s != id.sequence)
        {
            let mate = &self.fates[&(id.destination, sequence)];
            let location = store.live[&DeliveryId { sequence, ..id }].location;
            if location == Location::Dead && to.policy.dead_letters == DeadLetters::Hold && sequence < id.sequence {
                return violation("I13", format!("{id} starts behind the dead letter {sequence}"));
            }
            // a redriven dead letter goes first as soon as the scheduler knows of it
            let unread = fate.disordered && mate.seen == Some(Seen::Page);
            let first = order(to, mate, sequence) < order(to, fate, id.sequence);
            if first && location.waits() && mate.seen != Some(Seen::Dead) && !unread {
                let invariant = if mate.redriven { "I15" } else { "I13" };
                return violation(invariant, format!("{id} starts before {sequence}"));
            }
        }
        Ok(())
    }

    /// Checks that nothing could start, and that the scheduler does not sleep too long. `settled`: the destinations
    /// whose scheduler has got every load that it requested.
    pub fn waits(
        &self,
        wake: Option<Timestamp>,
        now: Timestamp,
        to: &[Destination],
        settled: &[bool],
        limits: &[usize],
    ) -> Result<(), Violation> {
        if wake.is_some_and(|wake| wake <= now) {
            return violation("I14", format!("it waits until {wake:?}, which has been"));
        }
        for ((destination, settled), limit) in to.iter().zip(settled).zip(limits) {
            let (pace, in_flight) = (&destination.policy.limits, self.in_flight(destination.id));
            let most = pace.concurrency_max;
            if !(most.min(1)..=most).contains(limit) {
                return violation("concurrency", format!("the limit of {} is {limit}, of {most}", destination.id.0));
            }
            let Some((at, sequence)) = self.earliest(destination, *settled) else { continue };
            let Some(open) = self.pacers[&destination.id].opens_at(pace, in_flight, *limit, now) else { continue };
            let at = at.max(open);
            let fate = &self.fates[&(destination.id, sequence)];
            let invariant = match fate {
                Fate { redriven: true, .. } => "I15",
                Fate { clamped: true, .. } => "I16",
                _ => "I14",
            };
            let what = format!("{sequence}/{} ({:?})", destination.id.0, fate.seen);
            if at <= now {
                return violation(invariant, format!("{what} could start, but does not"));
            }
            if wake.is_none_or(|wake| wake > at) {
                return violation(invariant, format!("{what} could start at {at:?}, but is slept over until {wake:?}"));
            }
        }
        Ok(())
    }

    /// The earliest time at which a delivery to a destination can start.
    fn earliest(&self, to: &Destination, settled: bool) -> Option<(Timestamp, Sequence)> {
        let heads = self.heads(to).into_iter().filter(|(_, fate)| settled || fate.seen != Some(Seen::Page));
        let (not_before, n) = heads.map(|(n, fate)| (not_before_of(to, fate), n)).min()?;
        Some((not_before.max(self.holds.get(&to.id).copied().unwrap_or_default()), n))
    }

    /// The first delivery of each interaction, where no other blocks it.
    fn heads(&self, to: &Destination) -> Vec<(Sequence, &Fate)> {
        let flying = self.flying.range(all(to.id));
        let flying: HashSet<Mates> = flying.map(|key| mates(to, &self.fates[key], key.1)).collect();
        let (mut heads, mut held) = (HashMap::new(), HashMap::new());
        for (n, fate) in self.of(to.id) {
            let mates = mates(to, fate, n);
            if flying.contains(&mates) {
                continue;
            }
            if fate.seen == Some(Seen::Dead) {
                held.entry(mates).or_insert(n);
                continue;
            }
            let head = heads.entry(mates).or_insert((n, fate));
            if order(to, fate, n) < order(to, head.1, head.0) {
                *head = (n, fate);
            }
        }
        let holds = to.policy.dead_letters == DeadLetters::Hold;
        let can_go =
            |(mates, (n, _)): &(Mates, (Sequence, &Fate))| !(holds && held.get(mates).is_some_and(|dead| dead < n));
        heads.into_iter().filter(can_go).map(|(_, head)| head).collect()
    }

    /// At the end of the run: every delivery has ended, and was delivered as often as it should be.
    pub fn ends(&self, store: &Store) -> Result<(), Violation> {
        for (id, record) in &store.durable {
            let fate = &self.fates[&key(*id)];
            let due = u32::from(record.location == Location::Delivered);
            if !record.location.is_over() {
                return violation("I8", format!("{id} is still {:?}", record.location));
            }
            if !(due..=due + fate.forgotten).contains(&fate.successes) {
                return violation("I10", format!("{id} is {:?}, with {} successes", record.location, fate.successes));
            }
        }
        Ok(())
    }
}
