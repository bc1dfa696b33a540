//! What the store knows of events, gathered from the places where their deliveries lie.
//!
//! Scheduler and store are asked one after the other while deliveries move, so a delivery can be missed in between: it
//! then seems to lie nowhere. [`ends`] tells such a one from one that has ended.

use super::answers::DeliveryState;
use super::filter::Filter;
use super::{Admin, Failure};
use crate::delivery::{Delivery, DeliveryId, Place};
use crate::dispatch::Question;
use crate::event::{DestinationId, DestinationSet, Digest64, Event, EventId, Sequence};
use crate::store::{Entry, How, Settlement, Store, StoreError};
use crate::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What lies in the delay tree: under which due times.
pub(super) type DelayTree = BTreeMap<DeliveryId, Timestamp>;

/// What is known of one event without asking the scheduler.
#[derive(Debug)]
pub(super) struct Known {
    pub sequence: Sequence,
    pub id: EventId,
    pub lane: Digest64,
    pub source: String,
    pub kind: String,
    pub time: Option<Timestamp>,
    pub received_at: Timestamp,
    pub size: usize,
    /// The event itself, while it lies somewhere.
    pub event: Option<Arc<Event>>,
    pub places: BTreeMap<DestinationId, Lies>,
}

/// Where a delivery of an event lies.
#[derive(Debug)]
pub(super) enum Lies {
    Waiting,
    Delayed { due: Timestamp, delivery: Box<Delivery> },
    Dead,
    Gone,
}

pub(super) async fn delay_tree(admin: &Admin) -> Result<DelayTree, Failure> {
    let all = admin.ask(Question::DelayTree).await?;
    let id = |destination, sequence| DeliveryId { sequence, destination };
    let mut tree: DelayTree = all.into_iter().map(|(d, sequence, due)| (id(d, sequence), due)).collect();
    // the scheduler knows nothing of a destination that is not configured any more
    let totals = admin.store.totals();
    let abandoned = |d: DestinationId| !admin.destinations.has(d) && totals.tally_of(d).delayed > 0;
    let abandoned: BTreeSet<DestinationId> =
        admin.store.destinations().into_iter().map(|(d, _)| d).filter(|d| abandoned(*d)).collect();
    let rest = admin.read(move |store| {
        let mut rest = Vec::new();
        for delayed in store.delayed() {
            let Ok(delayed) = delayed? else { continue };
            let due = delayed.ticket.place.due();
            // by due time: first those whose page was given up, which are not delayed at all
            if due > Timestamp::ZERO && abandoned.is_empty() {
                break;
            }
            if due == Timestamp::ZERO || abandoned.contains(&delayed.destination) {
                rest.push((id(delayed.destination, delayed.ticket.sequence), due));
            }
        }
        Ok(rest)
    });
    tree.extend(rest.await?);
    Ok(tree)
}

/// The next events from `from` on that can fit, how many were looked at, and where to go on.
pub(super) fn gather(
    store: &Store,
    filter: &Filter,
    tree: &DelayTree,
    from: Sequence,
) -> Result<(Vec<Known>, usize, Option<Sequence>), StoreError> {
    let remembered = store.entries(from)?;
    // what is remembered covers everything from its first sequence on; before it lie only old deliveries
    let (entries, row_end) = match remembered {
        Some((entries, next)) => (entries, Some(next)),
        None => (Vec::new(), None),
    };
    let mut sequences: BTreeMap<Sequence, Option<Entry>> = entries.into_iter().map(|(s, e)| (s, Some(e))).collect();
    let end = row_end.unwrap_or(Sequence(u64::MAX));
    let first = DeliveryId { sequence: from, destination: DestinationId(0) };
    let (mut delayed, mut dead) = (BTreeSet::new(), BTreeSet::new());
    for id in tree.range(first..).map(|(id, _)| *id).take_while(|id| id.sequence < end) {
        delayed.insert(id.sequence);
    }
    let before = DeliveryId { sequence: Sequence(from.0 - 1), destination: DestinationId(u8::MAX) };
    for id in store.dead_ids(Some(before)) {
        let id = id?;
        if id.sequence >= end {
            break;
        }
        dead.insert(id.sequence);
    }
    for sequence in delayed.iter().chain(&dead) {
        sequences.entry(*sequence).or_default();
    }
    let examined = sequences.len();
    let mut known = Vec::new();
    for (sequence, entry) in sequences {
        let lies = [delayed.contains(&sequence), dead.contains(&sequence)];
        if entry.as_ref().is_none_or(|entry| may_fit(store, filter, sequence, entry, lies)) {
            known.extend(know(store, tree, sequence)?.filter(|known| fits(filter, known)));
        }
    }
    Ok((known, examined, row_end))
}

/// Spares the reading of events that cannot fit.
fn may_fit(store: &Store, filter: &Filter, sequence: Sequence, entry: &Entry, [delayed, dead]: [bool; 2]) -> bool {
    let paged = || store.left_in_page(sequence);
    let state = match filter.state {
        None => true,
        Some(DeliveryState::Dead) => dead,
        Some(DeliveryState::Delayed) => delayed,
        Some(DeliveryState::Queued | DeliveryState::Held | DeliveryState::InFlight) => delayed || !paged().is_empty(),
        Some(DeliveryState::Delivered | DeliveryState::Discarded) => paged() != entry.to,
    };
    let same = |name: Option<String>, wanted: &Option<String>| match (name, wanted) {
        (Some(name), Some(wanted)) => name == *wanted,
        _ => true,
    };
    state
        && filter.destination.is_none_or(|d| entry.to.has(d))
        && filter.interaction.is_none_or(|i| i == entry.lane)
        && same(store.source_name(entry), &filter.source)
        && same(store.kind_name(entry), &filter.kind)
        && (filter.since..=filter.until).contains(&entry.received_at)
}

/// The same of what is known; an event can lie somewhere for longer than its entry is remembered.
fn fits(filter: &Filter, known: &Known) -> bool {
    filter.interaction.is_none_or(|i| i == known.lane) && (filter.since..=filter.until).contains(&known.received_at)
}

/// A record that does not verify, or has just gone, is left out of lists.
fn unless_damaged<T>(read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match read {
        Err(StoreError::Damaged(_)) => Ok(None),
        read => read.map(Some),
    }
}

/// All that the store knows of an event; none where that is nothing.
pub(super) fn know(store: &Store, tree: &DelayTree, sequence: Sequence) -> Result<Option<Known>, StoreError> {
    let entry = store.entry(sequence)?;
    let paged = store.left_in_page(sequence);
    let mut event = if paged.is_empty() { None } else { unless_damaged(store.event(sequence))?.flatten() };
    let mut places: BTreeMap<DestinationId, Lies> = BTreeMap::new();
    if let Some(entry) = &entry {
        places.extend(entry.to.iter().map(|d| (d, if paged.has(d) { Lies::Waiting } else { Lies::Gone })));
    }
    for d in (0..=u8::MAX).map(DestinationId).take(DestinationSet::CAPACITY) {
        let id = DeliveryId { sequence, destination: d };
        if let Some(due) = tree.get(&id) {
            // between the question and this read it may have been delivered
            if let Ok(delivery) = store.delivery(id, Place::under(*due)) {
                event.get_or_insert_with(|| delivery.event.clone());
                places.insert(d, Lies::Delayed { due: *due, delivery: Box::new(delivery) });
            }
        }
    }
    let before = DeliveryId { sequence: Sequence(sequence.0.saturating_sub(1)), destination: DestinationId(u8::MAX) };
    for id in store.dead_ids(Some(before)) {
        let id = id?;
        if id.sequence != sequence {
            break;
        }
        if let Some(letter) = store.dead_letter(id)? {
            event.get_or_insert_with(|| letter.delivery.event.clone());
            places.insert(id.destination, Lies::Dead);
        }
    }
    Ok(match (&entry, &event) {
        (_, Some(e)) => Some(Known {
            sequence,
            id: e.id(sequence),
            lane: e.lane(),
            source: e.source.clone(),
            kind: e.kind.clone(),
            time: e.time,
            received_at: e.received_at,
            size: e.body.len(),
            event: event.clone(),
            places,
        }),
        (Some(e), None) => Some(Known {
            sequence,
            id: e.id(sequence),
            lane: e.lane,
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

/// How the deliveries that lie nowhere have ended. Those that have not are looked for again behind the next commit, and
/// `known` is brought up to date; what then has no end ended longer ago than is remembered.
pub(super) async fn ends(admin: &Admin, known: &mut [Known]) -> Result<BTreeMap<DeliveryId, Settlement>, Failure> {
    let settled = settlements(admin, known).await?;
    let open = |k: &Known| {
        let ended = |d: &DestinationId| {
            let id = DeliveryId { sequence: k.sequence, destination: *d };
            settled.get(&id).is_some_and(|s| s.how != How::Dead)
        };
        k.places.iter().any(|(d, lies)| matches!(lies, Lies::Gone) && !ended(d))
    };
    let again: BTreeSet<Sequence> = known.iter().filter(|k| open(k)).map(|k| k.sequence).collect();
    if again.is_empty() {
        return Ok(settled);
    }
    admin.store.flush().await?;
    let tree = delay_tree(admin).await?;
    let fresh = admin
        .read(move |store| {
            let known = again.into_iter().map(|sequence| know(store, &tree, sequence));
            known.filter_map(Result::transpose).collect::<Result<Vec<_>, _>>()
        })
        .await?;
    for fresh in fresh {
        if let Some(stale) = known.iter_mut().find(|k| k.sequence == fresh.sequence) {
            *stale = fresh;
        }
    }
    settlements(admin, known).await
}

async fn settlements(admin: &Admin, known: &[Known]) -> Result<BTreeMap<DeliveryId, Settlement>, Failure> {
    let gone = known.iter().filter(|k| k.places.values().any(|lies| matches!(lies, Lies::Gone)));
    let gone: BTreeSet<Sequence> = gone.map(|k| k.sequence).collect();
    if gone.is_empty() { Ok(BTreeMap::new()) } else { admin.read(move |s| s.settlements(&gone)).await }
}
