//! What the store knows of events, collected from all places where their deliveries are stored.
//!
//! Scheduler and store are read one after the other while deliveries move, so a delivery can be missed in between and seems
//! to be stored nowhere. [`ends`] tells such a delivery from one that has ended.

use super::filter::Filter;
use super::{Admin, Failure};
use crate::api::DeliveryState;
use crate::delivery::{DeadLetter, Delivery, DeliveryId, Place};
use crate::event::{DestinationId, DestinationSet, Digest64, Event, EventId, Sequence};
use crate::store::{EndKind, Entry, Head, PageHeads, Settlement, Store, StoreError};
use crate::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Delayed deliveries, and dead letters, that one step reads at most; more than one event can have. The step needs a limit
/// because any number of them can be older than the history.
const PLACES_MAX: usize = 4096;

/// What is known of one event without asking the scheduler.
#[derive(Debug)]
pub(super) struct KnownEvent {
    pub sequence: Sequence,
    pub id: EventId,
    /// The hash of its interaction key.
    pub interaction: Digest64,
    /// Its order key.
    pub order_key: Digest64,
    pub source: String,
    pub kind: String,
    pub time: Option<Timestamp>,
    pub received_at: Timestamp,
    pub size: usize,
    /// The event without its body, as long as it is stored.
    pub event: Option<Arc<Event>>,
    pub places: BTreeMap<DestinationId, Location>,
}

/// Where a delivery of an event is stored.
#[derive(Debug)]
pub(super) enum Location {
    Waiting,
    Delayed {
        due: Timestamp,
        delivery: Box<Delivery>,
    },
    /// None if its record is damaged.
    Dead(Option<Box<DeadLetter>>),
    Gone,
}

/// An event that may fit the filter, judged by its history entry and its places only.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub sequence: Sequence,
    entry: Option<Entry>,
    paged: DestinationSet,
    delayed: BTreeMap<DestinationId, Timestamp>,
    dead: Vec<DestinationId>,
}

impl Candidate {
    fn bare(sequence: Sequence, entry: Option<Entry>) -> Self {
        let (paged, delayed, dead) = (DestinationSet::EMPTY, BTreeMap::new(), Vec::new());
        Self { sequence, entry, paged, delayed, dead }
    }

    /// One event by its sequence, wherever it is stored.
    fn find(store: &Store, sequence: Sequence) -> Result<Self, StoreError> {
        // nothing is shown of an erased event
        let entry = store.entry(sequence)?.filter(|entry| !entry.is_erased());
        let (paged, delayed) = (store.left_in_page(sequence), store.delayed_of(sequence));
        let mut dead = Vec::new();
        for id in store.dead_ids(Some(before(sequence))) {
            let id = id?;
            if id.sequence != sequence {
                break;
            }
            dead.push(id.destination);
        }
        Ok(Self { sequence, entry, paged, delayed, dead })
    }

    /// Its waiting deliveries with their order key, as the scheduler is asked for them; none if the event is not in the
    /// history.
    pub fn waiting(&self, store: &Store) -> Option<Vec<(DestinationId, Digest64, Sequence)>> {
        let order_key = store.order_key_of(self.entry.as_ref()?);
        let delayed = self.delayed.keys().copied().filter(|d| !self.paged.has(*d));
        Some(self.paged.iter().chain(delayed).map(|d| (d, order_key, self.sequence)).collect())
    }

    /// Excludes events that cannot fit before they are read.
    fn may_fit(&self, store: &Store, filter: &Filter) -> bool {
        let Some(entry) = &self.entry else { return true };
        let waits = || !self.delayed.is_empty() || !self.paged.is_empty();
        let state = match filter.state {
            None => true,
            Some(DeliveryState::Dead) => !self.dead.is_empty(),
            Some(DeliveryState::Delayed) => !self.delayed.is_empty(),
            Some(DeliveryState::Queued | DeliveryState::Blocked | DeliveryState::InFlight) => waits(),
            Some(DeliveryState::Delivered | DeliveryState::Discarded) => self.paged != entry.to,
        };
        let same = |name: Option<String>, wanted: &Option<String>| match (name, wanted) {
            (Some(name), Some(wanted)) => name == *wanted,
            _ => true,
        };
        state
            && filter.destination.is_none_or(|d| entry.to.has(d))
            && filter.interaction.is_none_or(|i| i == entry.interaction_hash)
            && (filter.since..=filter.until).contains(&entry.received_at)
            && (filter.source.is_none() || same(store.source_name(entry), &filter.source))
            && (filter.kind.is_none() || same(store.kind_name(entry), &filter.kind))
    }
}

fn before(sequence: Sequence) -> DeliveryId {
    DeliveryId { sequence: Sequence(sequence.0.saturating_sub(1)), destination: DestinationId(u8::MAX) }
}

/// A scan through the history and all stored deliveries, limited in time.
pub(super) struct Look {
    pub candidates: Vec<Candidate>,
    pub examined: usize,
    /// Where to continue; none after the last event.
    pub next: Option<Sequence>,
}

impl Look {
    /// Scans from `from` on until `enough` candidates are found, or `over` returns true.
    pub fn take(
        store: &Store,
        filter: &Filter,
        from: Sequence,
        enough: usize,
        over: impl Fn(usize) -> bool,
    ) -> Result<Self, StoreError> {
        let mut look = Self { candidates: Vec::new(), examined: 0, next: Some(from) };
        while let Some(from) = look.next.filter(|_| look.candidates.len() < enough && !over(look.examined)) {
            look.row(store, filter, from)?;
        }
        Ok(look)
    }

    /// Examines only these events.
    pub fn at<'a>(
        store: &Store,
        filter: &Filter,
        sequences: impl Iterator<Item = &'a Sequence>,
    ) -> Result<Self, StoreError> {
        let found = sequences.map(|sequence| Candidate::find(store, *sequence)).collect::<Result<Vec<_>, _>>()?;
        let examined = found.len();
        let candidates = found.into_iter().filter(|candidate| candidate.may_fit(store, filter)).collect();
        Ok(Self { candidates, examined, next: None })
    }

    /// Scans one row of the history. The history covers everything from its first sequence on; before it there are only old
    /// deliveries.
    fn row(&mut self, store: &Store, filter: &Filter, from: Sequence) -> Result<(), StoreError> {
        let (entries, mut next) = match store.entries(from)? {
            Some((entries, next)) => (entries, Some(next)),
            None => (Vec::new(), None),
        };
        let delayed = store.delayed_between(from, next.unwrap_or(Sequence(u64::MAX)), PLACES_MAX);
        if delayed.len() == PLACES_MAX {
            next = delayed.last().map(|(id, _)| id.sequence);
        }
        let mut dead = Vec::new();
        for id in store.dead_ids(Some(before(from))) {
            let id = id?;
            if next.is_some_and(|end| id.sequence >= end) {
                break;
            }
            if dead.len() == PLACES_MAX {
                next = Some(id.sequence);
                break;
            }
            dead.push(id);
        }
        let end = next.unwrap_or(Sequence(u64::MAX));
        self.examined += entries.len().max(1);
        self.next = next;
        let of_row = entries.into_iter().filter(|(sequence, entry)| *sequence < end && !entry.is_erased());
        let mut all: BTreeMap<Sequence, Candidate> = of_row.map(|(s, e)| (s, Candidate::bare(s, Some(e)))).collect();
        for (id, due) in delayed.into_iter().filter(|(id, _)| id.sequence < end) {
            let candidate = all.entry(id.sequence).or_insert_with(|| Candidate::bare(id.sequence, None));
            candidate.delayed.insert(id.destination, due);
        }
        for id in dead.into_iter().filter(|id| id.sequence < end) {
            let candidate = all.entry(id.sequence).or_insert_with(|| Candidate::bare(id.sequence, None));
            candidate.dead.push(id.destination);
        }
        for (_, mut candidate) in all {
            candidate.paged = store.left_in_page(candidate.sequence);
            if candidate.may_fit(store, filter) {
                self.candidates.push(candidate);
            }
        }
        self.by_ending(store, filter.state)
    }

    /// Checks ended events by their settlements, which are more precise than their place.
    fn by_ending(&mut self, store: &Store, state: Option<DeliveryState>) -> Result<(), StoreError> {
        let wanted = match state {
            Some(DeliveryState::Discarded) => EndKind::Discarded,
            Some(DeliveryState::Delivered) => EndKind::Delivered,
            _ => return Ok(()),
        };
        let settled = store.settlements(&self.candidates.iter().map(|c| c.sequence).collect())?;
        self.candidates.retain(|candidate| {
            let first = DeliveryId { sequence: candidate.sequence, destination: DestinationId(0) };
            let last = DeliveryId { sequence: candidate.sequence, destination: DestinationId(u8::MAX) };
            let mut of = settled.range(first..=last).map(|(_, settlement)| settlement.how).peekable();
            // without a settlement in the history: delivered longer ago
            of.peek().is_none() && wanted == EndKind::Delivered || of.any(|how| how == wanted)
        });
        Ok(())
    }

    /// Reads the candidates, and keeps those that fit.
    pub fn know(store: &Store, filter: &Filter, candidates: Vec<Candidate>) -> Result<Vec<KnownEvent>, StoreError> {
        let mut page = None;
        let known = candidates.into_iter().map(|candidate| know_of(store, candidate, &mut page));
        let known = known.filter_map(Result::transpose).collect::<Result<Vec<_>, _>>()?;
        Ok(known.into_iter().filter(|known| fits(filter, known)).collect())
    }
}

/// Applies the filter to what was read: an event can be stored for longer than its history entry.
fn fits(filter: &Filter, known: &KnownEvent) -> bool {
    filter.interaction.is_none_or(|i| i == known.interaction)
        && (filter.since..=filter.until).contains(&known.received_at)
}

/// None for a record that is damaged or was just removed, so that lists leave it out.
fn unless_damaged<T>(read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match read {
        Err(StoreError::Damaged(_)) => Ok(None),
        read => read.map(Some),
    }
}

/// An event of a page without its body; none if it is no longer there or is damaged.
fn in_page(
    store: &Store,
    sequence: Sequence,
    page: &mut Option<PageHeads>,
) -> Result<Option<(Arc<Event>, usize)>, StoreError> {
    if page.as_ref().is_none_or(|page| page.get(sequence).is_none()) {
        *page = unless_damaged(store.page_heads(sequence))?.flatten();
    }
    Ok(page.as_ref().and_then(|page| page.get(sequence)))
}

/// The event with its body, from where it is stored.
pub(super) fn whole(store: &Store, known: &KnownEvent) -> Result<Option<Arc<Event>>, StoreError> {
    for (destination, location) in &known.places {
        let id = DeliveryId { sequence: known.sequence, destination: *destination };
        let event = match location {
            Location::Waiting => unless_damaged(store.delivery(id, Place::Page))?.map(|delivery| delivery.event),
            Location::Delayed { due, .. } => {
                unless_damaged(store.delivery(id, Place::under(*due)))?.map(|delivery| delivery.event)
            }
            Location::Dead(_) => {
                unless_damaged(store.dead_letter(id))?.flatten().map(|dead_letter| dead_letter.delivery.event)
            }
            Location::Gone => None,
        };
        if event.is_some() {
            return Ok(event);
        }
    }
    Ok(None)
}

/// All that the store knows of an event; none if that is nothing.
pub(super) fn know(store: &Store, sequence: Sequence) -> Result<Option<KnownEvent>, StoreError> {
    know_of(store, Candidate::find(store, sequence)?, &mut None)
}

/// `page` is the page read last: consecutive events are usually in the same page.
fn know_of(
    store: &Store,
    candidate: Candidate,
    page: &mut Option<PageHeads>,
) -> Result<Option<KnownEvent>, StoreError> {
    let Candidate { sequence, entry, paged, delayed, dead } = candidate;
    let mut event = if paged.is_empty() { None } else { in_page(store, sequence, page)? };
    let mut places: BTreeMap<DestinationId, Location> = BTreeMap::new();
    if let Some(entry) = &entry {
        places.extend(entry.to.iter().map(|d| (d, if paged.has(d) { Location::Waiting } else { Location::Gone })));
    }
    for (destination, due) in delayed {
        // meanwhile it may have been delivered
        let head = unless_damaged(store.delayed_head(DeliveryId { sequence, destination }, due))?.flatten();
        if let Some(Head { record: delivery, body_bytes }) = head {
            event.get_or_insert_with(|| (delivery.event.clone(), body_bytes));
            places.insert(destination, Location::Delayed { due, delivery: Box::new(delivery) });
        }
    }
    for destination in dead {
        let location = match store.dead_letter_head(DeliveryId { sequence, destination }) {
            Ok(None) => continue,
            Ok(Some(Head { record: dead_letter, body_bytes })) => {
                event.get_or_insert_with(|| (dead_letter.delivery.event.clone(), body_bytes));
                Location::Dead(Some(Box::new(dead_letter)))
            }
            Err(StoreError::Damaged(_)) => Location::Dead(None),
            Err(e) => return Err(e),
        };
        places.insert(destination, location);
    }
    Ok(match (&entry, &event) {
        (_, Some((e, size))) => Some(KnownEvent {
            sequence,
            id: e.id(sequence),
            interaction: e.interaction_hash(),
            order_key: store.order_key(e),
            source: e.source.clone(),
            kind: e.kind.clone(),
            time: e.time,
            received_at: e.received_at,
            size: *size,
            event: Some(e.clone()),
            places,
        }),
        (Some(e), None) => Some(KnownEvent {
            sequence,
            id: e.id(sequence),
            interaction: e.interaction_hash,
            order_key: store.order_key_of(e),
            source: store.source_name(e).unwrap_or_default(),
            kind: store.kind_name(e).unwrap_or_default(),
            time: (e.time > Timestamp::ZERO).then_some(e.time),
            received_at: e.received_at,
            size: e.size as usize,
            event: None,
            places,
        }),
        (None, None) => None,
    })
}

/// How the deliveries that are stored nowhere have ended. Those without an end are looked up again after the next commit,
/// which updates `known`. A delivery that then still has no end ended longer ago than the history reaches.
pub(super) async fn ends(
    admin: &Admin,
    known: &mut Vec<KnownEvent>,
) -> Result<BTreeMap<DeliveryId, Settlement>, Failure> {
    let settled = settlements(admin, known).await?;
    let open = |k: &KnownEvent| {
        let ended = |d: &DestinationId| {
            let id = DeliveryId { sequence: k.sequence, destination: *d };
            settled.get(&id).is_some_and(|s| s.how != EndKind::Dead)
        };
        k.places.iter().any(|(d, location)| matches!(location, Location::Gone) && !ended(d))
    };
    let again: BTreeSet<Sequence> = known.iter().filter(|k| open(k)).map(|k| k.sequence).collect();
    if again.is_empty() {
        return Ok(settled);
    }
    look_again(admin, known, again).await?;
    settlements(admin, known).await
}

/// Looks these events up again after the next commit; events that are then unknown are removed from `known`.
pub(super) async fn look_again(
    admin: &Admin,
    known: &mut Vec<KnownEvent>,
    again: BTreeSet<Sequence>,
) -> Result<(), Failure> {
    admin.store.flush().await?;
    let wanted = again.clone();
    let fresh = admin
        .read(move |store| {
            let known = wanted.into_iter().map(|sequence| know(store, sequence));
            known.filter_map(Result::transpose).collect::<Result<Vec<_>, _>>()
        })
        .await?;
    let mut fresh: BTreeMap<Sequence, KnownEvent> = fresh.into_iter().map(|k| (k.sequence, k)).collect();
    known.retain_mut(|k| match fresh.remove(&k.sequence) {
        Some(fresh) => {
            *k = fresh;
            true
        }
        None => !again.contains(&k.sequence),
    });
    Ok(())
}

async fn settlements(admin: &Admin, known: &[KnownEvent]) -> Result<BTreeMap<DeliveryId, Settlement>, Failure> {
    let gone = known.iter().filter(|k| k.places.values().any(|location| matches!(location, Location::Gone)));
    let gone: BTreeSet<Sequence> = gone.map(|k| k.sequence).collect();
    if gone.is_empty() { Ok(BTreeMap::new()) } else { admin.read(move |s| s.settlements(&gone)).await }
}
