//! Reads deliveries, dead letters, history and settlements. All functions block.

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

/// Consecutive history entries, and the sequence after the last.
pub type HistoryEntries = (Vec<(Sequence, Entry)>, Sequence);

/// Events of a page without their bodies.
#[derive(Debug)]
pub struct PageHeads {
    first: Sequence,
    /// Each with the length of its body.
    events: Vec<(Arc<Event>, usize)>,
}

impl PageHeads {
    /// An event of this page, and the length of its body.
    pub fn get(&self, sequence: Sequence) -> Option<(Arc<Event>, usize)> {
        let n = usize::try_from(sequence.0.checked_sub(self.first.0)?).ok()?;
        self.events.get(n).cloned()
    }
}

/// A delayed delivery, as the scheduler needs it.
#[derive(Clone, Copy, Debug)]
pub struct Delayed {
    pub destination: DestinationId,
    pub ticket: Ticket,
    pub attempts: u32,
}

impl Store {
    /// The first sequence that can still be in a page.
    pub fn floor(&self) -> Sequence {
        let index = self.index();
        index.pages.oldest().map_or(index.totals.next_sequence, |(first, ..)| first)
    }

    /// Deliveries for one destination that wait in pages, from `from` on, one row of history per call. Also returns where to
    /// continue; at the next sequence to be assigned there are no more yet.
    pub fn waiting(&self, d: DestinationId, from: Sequence) -> Result<(Vec<Ticket>, Sequence), StoreError> {
        let row = match read::covering::<HistoryRow>(&self.shared.engine, from.0) {
            Err(StoreError::Damaged(_)) => None,
            row => row?,
        };
        let Some((first, row)) = row else { return self.waiting_by_pages(d, from) };
        // events that are not durable yet are not delivered
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
        // read after the pages: a delivery is in the delay tree before it is removed from its page
        let moved_from_pages = self.moved_from_pages(d, Sequence(first), next)?;
        let tickets = (first..)
            .zip(&row.entries)
            .zip(in_page)
            .filter(|((n, _), (in_page, _))| *n >= from.0 && (*in_page || moved_from_pages.contains(&Sequence(*n))))
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

    /// Deliveries of `[from, to)` that were moved from a sparse page to the delay tree, with due time zero.
    fn moved_from_pages(
        &self,
        d: DestinationId,
        from: Sequence,
        to: Sequence,
    ) -> Result<BTreeSet<Sequence>, StoreError> {
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

    /// Waiting deliveries by the pages alone, for a lost row of history.
    fn waiting_by_pages(&self, d: DestinationId, from: Sequence) -> Result<(Vec<Ticket>, Sequence), StoreError> {
        let engine = &self.shared.engine;
        let end = match engine.range(Table::History, number_key(from.0 + 1)..).next() {
            Some(row) => Sequence(number_of(&row?.0)?),
            None => Sequence(self.shared.written_next.load(Ordering::Acquire)).max(from),
        };
        let pages: Vec<Sequence> = {
            let index = self.index();
            index.pages.iter().map(|(first, _)| first).filter(|first| (from..end).contains(first)).collect()
        };
        let mut tickets = Vec::new();
        for first in pages {
            let events = match read::page(engine, first) {
                // all of its deliveries have ended meanwhile
                Err(StoreError::Damaged(Damaged::Missing)) => continue,
                Err(StoreError::Damaged(why)) => {
                    tracing::error!(page = %first, %why, "a page and its history are damaged; its events are not delivered");
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
        Ok((tickets, end))
    }

    /// A delivery with its body.
    pub fn delivery(&self, id: DeliveryId, place: Place) -> Result<Delivery, StoreError> {
        match self.find(id, place) {
            // it was moved during the first try; the second one finds it
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

    /// Every delayed delivery, by due time; damaged ones as an inner error.
    pub fn delayed(&self) -> impl Iterator<Item = Result<Result<Delayed, (DeliveryId, Place, Damaged)>, StoreError>> {
        let shared_keys = self.shared_keys();
        read::keys(&self.shared.engine, Table::Delay, None).map(move |key| {
            let key = key?;
            let (due, id) = delay_of(&key)?;
            let place = Place::under(due);
            self.index().delay_index.found(id, due);
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

    /// Marks the delay tree as read completely after a start.
    pub fn delay_index_complete(&self) {
        self.index().delay_index.complete();
    }

    pub fn dead_letter(&self, id: DeliveryId) -> Result<Option<DeadLetter>, StoreError> {
        read::compact(&self.shared.engine, Table::Dlq, &dlq_key(id))
    }

    /// A dead letter without the body of its event; the cost does not depend on the body.
    pub fn dead_letter_head(&self, id: DeliveryId) -> Result<Option<Head<DeadLetter>>, StoreError> {
        read::head(&self.shared.engine, Table::Dlq, &dlq_key(id))
    }

    /// A delayed delivery without the body of its event.
    pub fn delayed_head(&self, id: DeliveryId, due: Timestamp) -> Result<Option<Head<Delivery>>, StoreError> {
        if let Some(delivery) = self.shared.unwritten.lock().expect("no holder panics").get(&(id, due)) {
            return Ok(Some(Head::of(delivery)));
        }
        read::head(&self.shared.engine, Table::Delay, &delay_key(due, id))
    }

    /// Sealed length of a dead letter.
    pub fn dead_letter_bytes(&self, id: DeliveryId) -> Result<u64, StoreError> {
        Ok(read::sealed_length(&self.shared.engine, Table::Dlq, &dlq_key(id))?.map_or(0, |length| length as u64))
    }

    /// Ids of the dead letters after `after`, in order of acceptance.
    pub fn dead_ids(&self, after: Option<DeliveryId>) -> impl Iterator<Item = Result<DeliveryId, StoreError>> {
        read::keys(&self.shared.engine, Table::Dlq, after.map(dlq_key)).map(|key| Ok(dlq_of(&key?)?))
    }

    /// The history entry of an event.
    pub fn entry(&self, sequence: Sequence) -> Result<Option<Entry>, StoreError> {
        read::entry(&self.shared.engine, sequence)
    }

    /// The newest event in history with this sender id, of a source.
    pub fn remembered(&self, source: &str, id: &str) -> Option<Sequence> {
        self.index().remembered.get(Digest64::of_sender_id(source, id))
    }

    /// History entries from `from` on, one row per call, and where to continue; `None` after the last.
    pub fn entries(&self, from: Sequence) -> Result<Option<HistoryEntries>, StoreError> {
        let from = from.max(self.index().totals.history_head);
        let row = read::covering::<HistoryRow>(&self.shared.engine, from.0)?;
        Ok(row.map(|(first, row)| {
            let next = Sequence(first + row.entries.len() as u64);
            let entries = (first..).map(Sequence).zip(row.entries).filter(|(n, _)| *n >= from);
            (entries.collect(), next)
        }))
    }

    /// The events of the page that contains this one, without bodies; `None` if no page contains it.
    pub fn page_heads(&self, sequence: Sequence) -> Result<Option<PageHeads>, StoreError> {
        let Some(first) = self.index().pages.page_of(sequence) else { return Ok(None) };
        let bare = |event: Event| (Arc::new(Event { body: bytes::Bytes::new(), ..event.clone() }), event.body.len());
        let events = read::page(&self.shared.engine, first)?.into_iter().map(bare).collect();
        Ok(Some(PageHeads { first, events }))
    }

    /// The destinations for which the event still waits in a page.
    pub fn left_in_page(&self, sequence: Sequence) -> DestinationSet {
        self.index().pages.left(sequence)
    }

    pub fn source_name(&self, entry: &Entry) -> Option<String> {
        self.index().names.source_name(entry.source).map(str::to_owned)
    }

    pub fn kind_name(&self, entry: &Entry) -> Option<String> {
        self.index().names.kind_name(entry.kind).map(str::to_owned)
    }

    /// The last settlement of each delivery of these events, as far as history contains it.
    pub fn settlements(&self, of: &BTreeSet<Sequence>) -> Result<BTreeMap<DeliveryId, Settlement>, StoreError> {
        let mut found = BTreeMap::new();
        let (head, ranges) = {
            let index = self.index();
            (index.totals.settled_head, index.settlement_index.of(of))
        };
        for range in ranges {
            let mut next = range.start.max(head);
            while let Some((settlements, end)) = self.settled_from(next)?.filter(|_| next < range.end) {
                next = end;
                let of_them =
                    settlements.into_iter().filter(|s| of.contains(&s.id.sequence) && s.how != EndKind::Moved);
                found.extend(of_them.map(|s| (s.id, s)));
            }
        }
        Ok(found)
    }

    /// The number of the first stored settlement, and the next number.
    pub fn settlement_numbers(&self) -> (u64, u64) {
        let totals = &self.index().totals;
        (totals.settled_head, totals.next_settlement)
    }

    /// Settlements from number `from` on, one row per call, and where to continue; `None` after the last. Damaged rows are
    /// left out.
    pub fn settled_from(&self, from: u64) -> Result<Option<(Vec<Settlement>, u64)>, StoreError> {
        let row = match read::covering::<SettledRow>(&self.shared.engine, from) {
            Err(StoreError::Damaged(_)) => None,
            row => row?,
        };
        if let Some((first, mut row)) = row {
            let next = first + row.settlements.len() as u64;
            return Ok(Some((row.settlements.split_off((from - first) as usize), next)));
        }
        let end = self.shared.engine.range(Table::Settled, number_key(from + 1)..).next().transpose()?;
        Ok(end.map(|(key, _)| number_of(&key)).transpose()?.map(|next| (Vec::new(), next)))
    }

    /// Sets which sources share their interactions; call it before any delivery is read.
    pub fn set_shared_keys(&self, shared: SharedKeys) {
        *self.shared.shared_keys.lock().expect("no holder panics") = shared;
    }

    pub fn shared_keys(&self) -> SharedKeys {
        self.shared.shared_keys.lock().expect("no holder panics").clone()
    }

    /// The ordering key of an event.
    pub fn order_key(&self, event: &Event) -> Digest64 {
        self.shared_keys().order_key(event.interaction_hash(), &event.source)
    }

    /// The ordering key of an event, from its history entry.
    pub fn order_key_of(&self, entry: &Entry) -> Digest64 {
        self.shared_keys()
            .order_key(entry.interaction_hash, self.index().names.source_name(entry.source).unwrap_or_default())
    }

    /// The ordering keys of an interaction: for one source or each known source, with its name, and without a name for the
    /// sources that share interactions.
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

    /// The id of a destination by its name, if the store has ever known it.
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
