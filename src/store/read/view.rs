//! What others read from the store: what waits, what is due, what is dead, what is remembered. All of it blocks.

use crate::delivery::{DeadLetter, Delivery, DeliveryId, Place, Ticket};
use crate::event::{DestinationId, DestinationSet, Digest64, Event, Sequence, SharedKeys};
use crate::store::engine::error::StoreError;
use crate::store::engine::read;
use crate::store::handle::Store;
use crate::store::model::codec::Damaged;
use crate::store::model::event_record::Head;
use crate::store::model::record::{EndKind, Entry, HistoryRow, SettledRow, Settlement};
use crate::store::model::table::{Table, delay_key, delay_of, dlq_key, dlq_of, number_key, number_of};
use crate::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Consecutive remembered events, and the sequence behind the last of them.
pub type Remembered = (Vec<(Sequence, Entry)>, Sequence);

/// Events of a page without their bodies.
#[derive(Debug)]
pub struct PageHeads {
    first: Sequence,
    /// With the length of each body.
    events: Vec<(Arc<Event>, usize)>,
}

impl PageHeads {
    /// An event, and the length of its body, where it is of this page.
    pub fn get(&self, sequence: Sequence) -> Option<(Arc<Event>, usize)> {
        let n = usize::try_from(sequence.0.checked_sub(self.first.0)?).ok()?;
        self.events.get(n).cloned()
    }
}

/// A delivery in the delay tree, as the scheduler needs it.
#[derive(Clone, Copy, Debug)]
pub struct Delayed {
    pub destination: DestinationId,
    pub ticket: Ticket,
    pub attempts: u32,
}

impl Store {
    /// The first sequence that can still lie in a page.
    pub fn floor(&self) -> Sequence {
        let index = self.index();
        index.pages.oldest().map_or(index.totals.next_sequence, |(first, ..)| first)
    }

    /// Deliveries for one destination that lie in pages, from `from` on: one row of history at a time. Returns where
    /// to go on; nothing lies behind it yet where that is the next sequence.
    pub fn waiting(&self, d: DestinationId, from: Sequence) -> Result<(Vec<Ticket>, Sequence), StoreError> {
        let row = match read::covering::<HistoryRow>(&self.shared.engine, from.0) {
            Err(StoreError::Damaged(_)) => None,
            row => row?,
        };
        let Some((first, row)) = row else { return self.waiting_in_gap(d, from) };
        // what is not durable yet is nobody's to deliver
        let written = Sequence(self.shared.written_next.load(Ordering::Acquire));
        let next = Sequence(first + row.entries.len() as u64).min(written).max(from);
        let shared_keys = self.shared_keys();
        let in_page: Vec<(bool, Digest64)> = {
            let index = self.index();
            let source = |entry: &Entry| index.names.source_name(entry.source).unwrap_or_default();
            let order_key = |entry: &Entry| shared_keys.order_key(entry.interaction_hash, source(entry));
            let looked_at = (first..next.0).zip(&row.entries);
            looked_at.map(|(n, entry)| (index.pages.left(Sequence(n)).has(d), order_key(entry))).collect()
        };
        // looked at after the pages: what is given up is there before it leaves its page
        let given_up = self.given_up(d, Sequence(first), next)?;
        let tickets = (first..)
            .zip(&row.entries)
            .zip(in_page)
            .filter(|((n, _), (in_page, _))| *n >= from.0 && (*in_page || given_up.contains(&Sequence(*n))))
            .map(|((n, entry), (_, order_key))| Ticket {
                sequence: Sequence(n),
                order_key,
                received_at: entry.received_at,
                time: entry.event_time(),
                to: entry.to,
                place: Place::Page,
            })
            .collect();
        Ok((tickets, next))
    }

    /// Deliveries of `[from, to)` whose page was given up, so that they lie in the delay tree under due time zero.
    fn given_up(&self, d: DestinationId, from: Sequence, to: Sequence) -> Result<BTreeSet<Sequence>, StoreError> {
        let mut found: BTreeSet<Sequence> = {
            let unwritten = self.shared.unwritten.lock().expect("no holder panics");
            let keys = unwritten.keys().filter(|(id, due)| id.destination == d && *due == Timestamp::ZERO);
            keys.map(|(id, _)| id.sequence).filter(|s| (from..to).contains(s)).collect()
        };
        let key = |sequence| delay_key(Timestamp::ZERO, DeliveryId { sequence, destination: DestinationId(0) });
        for row in self.shared.engine.range(Table::Delay, key(from)..key(to)) {
            let (_, id) = delay_of(&row?.0)?;
            if id.destination == d {
                found.insert(id.sequence);
            }
        }
        Ok(found)
    }

    /// Where a row of history is lost, the pages say what waits.
    fn waiting_in_gap(&self, d: DestinationId, from: Sequence) -> Result<(Vec<Ticket>, Sequence), StoreError> {
        let engine = &self.shared.engine;
        let behind = match engine.range(Table::History, number_key(from.0 + 1)..).next() {
            Some(row) => Sequence(number_of(&row?.0)?),
            None => Sequence(self.shared.written_next.load(Ordering::Acquire)).max(from),
        };
        let pages: Vec<Sequence> = {
            let index = self.index();
            index.pages.iter().map(|(first, _)| first).filter(|first| (from..behind).contains(first)).collect()
        };
        let mut tickets = Vec::new();
        for first in pages {
            let events = match read::page(engine, first) {
                // all of it was delivered meanwhile
                Err(StoreError::Damaged(Damaged::Missing)) => continue,
                Err(StoreError::Damaged(why)) => {
                    tracing::error!(page = %first, %why, "what is known of these events is lost; they are not delivered");
                    continue;
                }
                events => events?,
            };
            for (n, event) in (first.0..).zip(events) {
                if self.index().pages.left(Sequence(n)).has(d) {
                    tickets.push(Ticket {
                        sequence: Sequence(n),
                        order_key: self.order_key(&event),
                        received_at: event.received_at,
                        time: event.time,
                        to: event.to,
                        place: Place::Page,
                    });
                }
            }
        }
        Ok((tickets, behind))
    }

    /// A delivery with its body, from where it lies.
    pub fn delivery(&self, id: DeliveryId, place: Place) -> Result<Delivery, StoreError> {
        match self.find(id, place) {
            // it was moved between two looks; the second one is sure to find it
            Err(StoreError::Damaged(Damaged::Missing)) => self.find(id, place),
            found => found,
        }
    }

    fn find(&self, id: DeliveryId, place: Place) -> Result<Delivery, StoreError> {
        if let Some(delivery) = self.shared.unwritten.lock().expect("no holder panics").get(&(id, place.due())) {
            return Ok(Delivery::clone(delivery));
        }
        let first = self.index().pages.page_of(id.sequence).filter(|_| place == Place::Page);
        if let Some(first) = first {
            match self.event_in_page(first, id.sequence) {
                Err(StoreError::Damaged(Damaged::Missing)) => {}
                event => return Ok(Delivery::first(id, event?)),
            }
        }
        let key = delay_key(place.due(), id);
        let found = read::compact(&self.shared.engine, Table::Delay, &key)?;
        found.ok_or(StoreError::Damaged(Damaged::Missing))
    }

    fn event_in_page(&self, first: Sequence, sequence: Sequence) -> Result<Arc<Event>, StoreError> {
        if let Some(event) = self.cached(sequence) {
            return Ok(event);
        }
        let events: Vec<Arc<Event>> = read::page(&self.shared.engine, first)?.into_iter().map(Arc::new).collect();
        let event = events.get((sequence.0 - first.0) as usize).cloned();
        self.shared.cache.lock().expect("no holder panics").read(first, events);
        event.ok_or(StoreError::Damaged(Damaged::Content))
    }

    /// Every delivery in the delay tree, by due time; damaged ones are told as such.
    pub fn delayed(&self) -> impl Iterator<Item = Result<Result<Delayed, (DeliveryId, Place, Damaged)>, StoreError>> {
        let shared_keys = self.shared_keys();
        read::keys(&self.shared.engine, Table::Delay, None).map(move |key| {
            let key = key?;
            let (due, id) = delay_of(&key)?;
            let place = Place::under(due);
            self.index().dues.found(id, due);
            match read::sized_head::<Delivery>(&self.shared.engine, Table::Delay, &key) {
                Ok(Some((Head { record, .. }, sealed_bytes))) => {
                    self.index().weigh(&record, sealed_bytes);
                    Ok(Ok(delayed(&record, place, &shared_keys)))
                }
                Ok(None) => Ok(Err((id, place, Damaged::Missing))),
                Err(StoreError::Damaged(why)) => Ok(Err((id, place, why))),
                Err(e) => Err(e),
            }
        })
    }

    /// Everything that lay in the delay tree before the start has been read.
    pub fn knows_delayed(&self) {
        self.index().dues.complete();
    }

    pub fn dead_letter(&self, id: DeliveryId) -> Result<Option<DeadLetter>, StoreError> {
        read::compact(&self.shared.engine, Table::Dlq, &dlq_key(id))
    }

    /// A dead letter without the body of its event; that costs the same however long the body is.
    pub fn dead_letter_head(&self, id: DeliveryId) -> Result<Option<Head<DeadLetter>>, StoreError> {
        read::head(&self.shared.engine, Table::Dlq, &dlq_key(id))
    }

    /// A delivery of the delay tree without the body of its event; none where it is no longer there.
    pub fn delayed_head(&self, id: DeliveryId, due: Timestamp) -> Result<Option<Head<Delivery>>, StoreError> {
        if let Some(delivery) = self.shared.unwritten.lock().expect("no holder panics").get(&(id, due)) {
            return Ok(Some(Head::of(delivery)));
        }
        read::head(&self.shared.engine, Table::Delay, &delay_key(due, id))
    }

    /// Bytes that a dead letter takes in the queue's count.
    pub fn dead_letter_bytes(&self, id: DeliveryId) -> Result<u64, StoreError> {
        Ok(read::sealed_length(&self.shared.engine, Table::Dlq, &dlq_key(id))?.map_or(0, |length| length as u64))
    }

    /// Ids of the dead letters behind `after`, in order of acceptance.
    pub fn dead_ids(&self, after: Option<DeliveryId>) -> impl Iterator<Item = Result<DeliveryId, StoreError>> {
        read::keys(&self.shared.engine, Table::Dlq, after.map(dlq_key)).map(|key| Ok(dlq_of(&key?)?))
    }

    /// What is remembered of the event, as long as it is.
    pub fn entry(&self, sequence: Sequence) -> Result<Option<Entry>, StoreError> {
        read::entry(&self.shared.engine, sequence)
    }

    /// The newest event that a source's sender calls by this id, as long as it is remembered.
    pub fn remembered(&self, source: &str, id: &str) -> Option<Sequence> {
        self.index().remembered.get(Digest64::of_sender_id(source, id))
    }

    /// Remembered events from `from` on, one row at a time, and where to go on; none behind the last.
    pub fn entries(&self, from: Sequence) -> Result<Option<Remembered>, StoreError> {
        let from = from.max(self.index().totals.history_head);
        let row = read::covering::<HistoryRow>(&self.shared.engine, from.0)?;
        Ok(row.map(|(first, row)| {
            let next = Sequence(first + row.entries.len() as u64);
            let entries = (first..).map(Sequence).zip(row.entries).filter(|(n, _)| *n >= from);
            (entries.collect(), next)
        }))
    }

    /// The events of the page in which this one lies, without their bodies; none where it lies in none.
    pub fn page_heads(&self, sequence: Sequence) -> Result<Option<PageHeads>, StoreError> {
        let Some(first) = self.index().pages.page_of(sequence) else { return Ok(None) };
        let bare = |event: Event| (Arc::new(Event { body: bytes::Bytes::new(), ..event.clone() }), event.body.len());
        let events = read::page(&self.shared.engine, first)?.into_iter().map(bare).collect();
        Ok(Some(PageHeads { first, events }))
    }

    /// The destinations for which the event still lies in a page.
    pub fn left_in_page(&self, sequence: Sequence) -> DestinationSet {
        self.index().pages.left(sequence)
    }

    pub fn source_name(&self, entry: &Entry) -> Option<String> {
        self.index().names.source_name(entry.source).map(str::to_owned)
    }

    pub fn kind_name(&self, entry: &Entry) -> Option<String> {
        self.index().names.kind_name(entry.kind).map(str::to_owned)
    }

    /// How the deliveries of these events ended, as far as it is remembered: the last settlement of each.
    pub fn settlements(&self, of: &BTreeSet<Sequence>) -> Result<BTreeMap<DeliveryId, Settlement>, StoreError> {
        let mut found = BTreeMap::new();
        let (head, ranges) = {
            let index = self.index();
            (index.totals.settled_head, index.spans.of(of))
        };
        for range in ranges {
            let mut next = range.start.max(head);
            while let Some((settlements, behind)) = self.settled_from(next)?.filter(|_| next < range.end) {
                next = behind;
                let of_them =
                    settlements.into_iter().filter(|s| of.contains(&s.id.sequence) && s.how != EndKind::Moved);
                found.extend(of_them.map(|s| (s.id, s)));
            }
        }
        Ok(found)
    }

    /// The number of the first settlement that is remembered, and that of the next one to come.
    pub fn settlement_numbers(&self) -> (u64, u64) {
        let totals = &self.index().totals;
        (totals.settled_head, totals.next_settlement)
    }

    /// Settlements from number `from` on, one row at a time, and where to go on; none behind the last. What does not verify
    /// is left out.
    pub fn settled_from(&self, from: u64) -> Result<Option<(Vec<Settlement>, u64)>, StoreError> {
        let row = match read::covering::<SettledRow>(&self.shared.engine, from) {
            Err(StoreError::Damaged(_)) => None,
            row => row?,
        };
        if let Some((first, mut row)) = row {
            let next = first + row.settlements.len() as u64;
            return Ok(Some((row.settlements.split_off((from - first) as usize), next)));
        }
        let behind = self.shared.engine.range(Table::Settled, number_key(from + 1)..).next().transpose()?;
        Ok(behind.map(|(key, _)| number_of(&key)).transpose()?.map(|next| (Vec::new(), next)))
    }

    /// Which sources order their interactions together; before anything that waits is read.
    pub fn share_keys(&self, shared: SharedKeys) {
        *self.shared.shared_keys.lock().expect("no holder panics") = shared;
    }

    pub fn shared_keys(&self) -> SharedKeys {
        self.shared.shared_keys.lock().expect("no holder panics").clone()
    }

    /// The lane in which an event is ordered.
    pub fn order_key(&self, event: &Event) -> Digest64 {
        self.shared_keys().order_key(event.interaction_hash(), &event.source)
    }

    /// The same by what is remembered of it.
    pub fn order_key_of(&self, entry: &Entry) -> Digest64 {
        self.shared_keys()
            .order_key(entry.interaction_hash, self.index().names.source_name(entry.source).unwrap_or_default())
    }

    /// The lanes of a key: of each source that this store has ever had, or of one, with its name; none with that of those
    /// that share theirs.
    pub fn order_keys_of(&self, key: &str, source: Option<&str>) -> Vec<(Option<String>, Digest64)> {
        let (interaction, shared) = (Digest64::of_interaction(key), self.shared_keys());
        let names: Vec<String> = match source {
            Some(source) => vec![source.to_owned()],
            None => self.index().names.sources().map(str::to_owned).collect(),
        };
        let order_key = |name: String| {
            Some(shared.order_key(interaction, &name))
                .filter(|order_key| *order_key != interaction)
                .map(|l| (Some(name), l))
        };
        let mut order_keys: Vec<_> = names.into_iter().filter_map(order_key).collect();
        if source.is_none_or(|source| shared.order_key(interaction, source) == interaction) {
            order_keys.push((None, interaction));
        }
        order_keys
    }

    /// The destination's number by its name, where the store has ever had it.
    pub fn destination_of(&self, name: &str) -> Option<DestinationId> {
        self.index().names.destination_of(name)
    }

    pub fn destination_name(&self, d: DestinationId) -> String {
        self.index().names.destination_name(d).to_owned()
    }
}

fn delayed(delivery: &Delivery, place: Place, shared_keys: &SharedKeys) -> Delayed {
    let ticket = Ticket {
        sequence: delivery.id.sequence,
        order_key: shared_keys.order_key(delivery.event.interaction_hash(), &delivery.event.source),
        received_at: delivery.event.received_at,
        time: delivery.event.time,
        to: DestinationSet::EMPTY.with(delivery.id.destination),
        place,
    };
    Delayed { destination: delivery.id.destination, ticket, attempts: delivery.tried_since_redrive() }
}
