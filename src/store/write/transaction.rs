//! The transaction: turns requests into the writes of one commit, and updates the index with them.
//!
//! *Invariants.* An event, its deduplication record, its sequence and the counters are written in one commit. A delivery is
//! stored in exactly one place (page, delay tree, dead letter queue) or has a settlement. A change whose delivery is not in
//! the expected place any more changes nothing, so changes are idempotent.

use super::request::{Arrival, Receipt, StoreEvent, Transition};
use super::row_compaction::Run;
use super::shared::Shared;
use crate::delivery::{Delivery, DeliveryId, Place, Ticket};
use crate::event::{DestinationId, DestinationSet, Digest64, Event, Sequence, SharedKeys};
use crate::store::engine::error::StoreError;
use crate::store::engine::{Engine, read};
use crate::store::index::history::Bounds;
use crate::store::index::pages::Departure;
use crate::store::index::{Index, Unwritten};
use crate::store::model::codec::{self, Kind};
use crate::store::model::event_record::{self, pack, seal_page};
use crate::store::model::record::{EndKind, Entry, HistoryRow, Hold, PageShape, SettledRow, Settlement};
use crate::store::model::table::{TOTALS, Table, WriteBatch, delay_key, number_key};
use crate::store::model::watermark::Watermark;
use crate::time::Timestamp;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Limit of the packed records of a page before compression: 64 KiB. A longer event gets a page of its own.
const PAGE_PACKED_MAX: usize = 64 << 10;
const PAGE_EVENTS_MAX: usize = 128;
/// Limit of the bodies with one id that are compared with a new one: the cost must stay low even if a sender uses a constant
/// as its id.
const VARIANTS_MAX: usize = 32;

/// State that is kept from one commit to the next, apart from the index.
#[derive(Debug, Default)]
pub struct OpenRows {
    pub history: Run<HistoryRow>,
    pub settled: Run<SettledRow>,
    /// Before this time no row is old enough to be deleted.
    pub trim_not_before: Timestamp,
}

/// The deduplication window of each source.
#[derive(Clone, Debug, Default)]
pub struct Windows {
    pub by_source: HashMap<String, Duration>,
}

impl Windows {
    pub fn longest(&self) -> Duration {
        self.by_source.values().max().copied().unwrap_or_default()
    }
}

/// The writes of one commit while they are decided.
pub struct Transaction<'a> {
    engine: &'a Engine,
    unwritten: &'a Mutex<Unwritten>,
    pub index: &'a mut Index,
    pub tail: &'a mut OpenRows,
    pub windows: &'a Windows,
    history: Bounds,
    shared_keys: SharedKeys,
    pub now: Timestamp,
    pub batch: WriteBatch,
    pub store_events: Vec<StoreEvent>,
    /// Entries accepted in this commit are in `fresh`; this is the sequence of the first.
    fresh_first: Sequence,
    fresh: Vec<Entry>,
    events: Vec<Arc<Event>>,
    shapes: Vec<PageShape>,
    page: Vec<u8>,
    page_events: usize,
    settlements: Vec<Settlement>,
    written: Vec<(DeliveryId, Timestamp)>,
    changed: bool,
}

/// The writes of one commit, and the events to send when it is durable.
pub struct Finished {
    pub batch: Option<WriteBatch>,
    pub store_events: Vec<StoreEvent>,
    /// First sequence of its accepted events.
    pub first: Sequence,
    pub events: Vec<Arc<Event>>,
    /// Deliveries that the commit writes to the delay tree.
    pub written: Vec<(DeliveryId, Timestamp)>,
    /// The watermark after the commit.
    pub reached: Watermark,
}

impl<'a> Transaction<'a> {
    pub fn new(
        shared: &'a Shared,
        index: &'a mut Index,
        tail: &'a mut OpenRows,
        windows: &'a Windows,
        now: Timestamp,
    ) -> Self {
        let fresh_first = index.totals.next_sequence;
        Self {
            engine: &shared.engine,
            unwritten: &shared.unwritten,
            index,
            tail,
            windows,
            history: *shared.history.lock().expect("no holder panics"),
            shared_keys: shared.shared_keys.lock().expect("no holder panics").clone(),
            now,
            batch: WriteBatch::default(),
            store_events: Vec::new(),
            fresh_first,
            fresh: Vec::new(),
            events: Vec::new(),
            shapes: Vec::new(),
            page: Vec::new(),
            page_events: 0,
            settlements: Vec::new(),
            written: Vec::new(),
            changed: false,
        }
    }

    /// Accepts an event, or recognizes it as a duplicate.
    pub fn accept(&mut self, arrival: Arrival) -> Result<Receipt, StoreError> {
        let Arrival { mut event, sender, interaction_hash, mut record } = arrival;
        let prior = match self.known(sender, &event)? {
            SenderIdMatch::Duplicate(receipt) => {
                self.index.totals.duplicates += 1;
                self.changed = true;
                return Ok(receipt);
            }
            SenderIdMatch::Conflict(prior) => {
                self.index.totals.conflicts += 1;
                event.conflict = true;
                record = codec::payload(&event);
                prior
            }
            SenderIdMatch::New => Sequence::default(),
        };
        let sequence = self.index.totals.next_sequence;
        if self.page_events == PAGE_EVENTS_MAX || self.page.len() + 4 + record.len() > PAGE_PACKED_MAX {
            self.close_page();
        }
        pack(&mut self.page, &record);
        self.page_events += 1;
        let (source, kind) = (self.index.names.source(&event.source), self.index.names.kind(&event.kind));
        self.fresh.push(Entry::of(&event, (sender, interaction_hash), prior, source, kind));
        if !sender.is_none() {
            self.index.remembered.insert(sender, sequence);
        }
        let totals = &mut self.index.totals;
        totals.next_sequence = sequence.next();
        totals.accepted += 1;
        for d in event.to.iter() {
            totals.counters_mut(d).accepted += 1;
        }
        let id = event.id(sequence);
        self.events.push(Arc::new(event));
        Ok(Receipt::Queued(id))
    }

    /// A duplicate has the same id and the same body within the window. An event with the same id and another body is new,
    /// and flagged.
    fn known(&self, sender: Digest64, event: &Event) -> Result<SenderIdMatch, StoreError> {
        let Some(newest) = self.index.remembered.get(sender).filter(|_| !sender.is_none()) else {
            return Ok(SenderIdMatch::New);
        };
        let window = self.windows.by_source.get(&event.source).copied().unwrap_or_default();
        let mut known = SenderIdMatch::New;
        let mut at = newest;
        for _ in 0..VARIANTS_MAX {
            if at == Sequence::default() {
                break;
            }
            let Some(entry) = self.entry(at)?.filter(|e| e.sender == sender) else { break };
            if self.now.since(entry.received_at) > window {
                break;
            }
            if entry.body == event.body_digest {
                return Ok(SenderIdMatch::Duplicate(Receipt::Duplicate(entry.id(at))));
            }
            known = SenderIdMatch::Conflict(newest);
            at = entry.prior;
        }
        Ok(known)
    }

    fn entry(&self, at: Sequence) -> Result<Option<Entry>, StoreError> {
        if at >= self.fresh_first {
            return Ok(self.fresh.get((at.0 - self.fresh_first.0) as usize).cloned());
        }
        read::entry(self.engine, at)
    }

    fn close_page(&mut self) {
        if self.page_events == 0 {
            return;
        }
        let n = self.fresh.len() - self.page_events;
        let first = self.fresh_first.plus(n as u64);
        let sealed = seal_page(&self.page);
        self.page.clear();
        let shape = PageShape { count: self.page_events as u16, bytes: sealed.len() as u32 };
        let to: Vec<DestinationSet> = self.fresh[n..].iter().map(|e| e.to).collect();
        let copy_bytes = Entry::copy_bytes(&self.fresh[n..]);
        if self.index.pages.insert(first, shape, self.fresh[n].received_at, &to, copy_bytes) {
            self.batch.put_long(Table::Pages, &number_key(first.0), &sealed);
            self.index.pages.attribute(first, &Entry::owners(&self.fresh[n..]));
        }
        self.shapes.push(shape);
        self.page_events = 0;
    }

    pub fn transition(&mut self, transition: Transition) -> Result<(), StoreError> {
        match transition {
            Transition::Delivered { id, place, attempts, status, at } => {
                if self.remove_from_place(id, place)? {
                    self.index.totals.counters_mut(id.destination).delivered += 1;
                    self.record_end(id, EndKind::Delivered, attempts, status, at);
                }
            }
            Transition::Delayed { from, due, delivery } => {
                let id = delivery.id;
                self.written.push((id, due));
                if self.remove_from_place(id, from)? {
                    if from == Place::Page {
                        self.record_end(id, EndKind::Moved, delivery.next_attempt() - 1, 0, self.now);
                    }
                    self.delay(due, &delivery);
                }
            }
            Transition::Dead { from, dead_letter } => {
                let id = dead_letter.delivery.id;
                if self.remove_from_place(id, from)? {
                    let (attempts, last) = dead_letter.delivery.tried();
                    self.record_end(id, EndKind::Dead, attempts, last, dead_letter.dead_at);
                    self.dead_letter(&dead_letter);
                }
            }
            Transition::Discarded { id, place, attempts, at } => {
                if self.remove_from_place(id, place)? {
                    self.index.totals.counters_mut(id.destination).discarded += 1;
                    self.record_end(id, EndKind::Discarded, attempts, 0, at);
                }
            }
            Transition::Damaged { id, place, why, at } => {
                let (table, found) = self.raw(id, place)?;
                if self.remove_from_place(id, place)? {
                    self.index.totals.counters_mut(id.destination).discarded += 1;
                    self.record_end(id, EndKind::Discarded, 0, 0, at);
                    self.set_aside(id, table, why, found.unwrap_or_default());
                }
            }
            Transition::Breaker { destination, fixed, at } => {
                self.fix_breaker(destination, fixed, at);
            }
            Transition::Hold { destination, until, reason } => self.hold(destination, Hold { until, reason }),
            Transition::AttemptStarted { destination, at } => self.sent(destination, at),
        }
        Ok(())
    }

    /// Removes a delivery from its place; false if it is not there any more.
    fn remove_from_place(&mut self, id: DeliveryId, place: Place) -> Result<bool, StoreError> {
        if place == Place::Page {
            match self.index.pages.leave(id) {
                Departure::Emptied { first, bytes } => {
                    self.batch.delete_parts(Table::Pages, &number_key(first.0), bytes);
                    return Ok(true);
                }
                Departure::Stays => return Ok(true),
                Departure::NotHere => {}
            }
        }
        let Some(bytes) = self.batch.delete_long(self.engine, Table::Delay, &delay_key(place.due(), id))? else {
            return Ok(false);
        };
        let totals = &mut self.index.totals;
        // the length of a damaged record may be wrong
        totals.delay_bytes = totals.delay_bytes.saturating_sub(bytes as u64);
        let tally = totals.counters_mut(id.destination);
        tally.delayed = tally.delayed.saturating_sub(1);
        self.index.delay_index.remove(id, place.due());
        Ok(true)
    }

    fn delay(&mut self, due: Timestamp, delivery: &Delivery) {
        let sealed = event_record::encode(delivery);
        self.batch.put_long(Table::Delay, &delay_key(due, delivery.id), &sealed);
        self.index.totals.delay_bytes += sealed.len() as u64;
        self.index.totals.counters_mut(delivery.id.destination).delayed += 1;
        self.index.add_delayed(due, delivery, sealed.len());
        self.changed = true;
    }

    fn record_end(&mut self, id: DeliveryId, how: EndKind, attempts: u32, status: u16, at: Timestamp) {
        let attempts = u16::try_from(attempts).unwrap_or(u16::MAX);
        self.settlements.push(Settlement { id, how, attempts, status, at });
    }

    /// The sealed bytes of a delivery and their table; `None` for the bytes if rows are missing or cannot be assembled.
    fn raw(&self, id: DeliveryId, place: Place) -> Result<(Table, Option<Vec<u8>>), StoreError> {
        let (table, key) = match self.index.pages.page_of(id.sequence).filter(|_| place == Place::Page) {
            Some(first) => (Table::Pages, number_key(first.0)),
            None => (Table::Delay, delay_key(place.due(), id)),
        };
        match self.batch.get_long(self.engine, table, &key) {
            Err(StoreError::Damaged(_)) => Ok((table, None)),
            read => Ok((table, read?)),
        }
    }

    pub fn register(&mut self, names: &[String]) -> Vec<Option<DestinationId>> {
        self.changed = true;
        names.iter().map(|name| self.index.names.destination(name)).collect()
    }

    /// Writes the rows that summarize the commit; `None` for the batch if nothing has changed.
    pub fn finish(mut self) -> Result<Finished, StoreError> {
        self.close_page();
        self.move_out_sparse_page()?;
        self.write_history();
        self.write_settled();
        self.trim()?;
        if !self.changed {
            return Ok(self.told(None));
        }
        let index = &mut *self.index;
        index.names.write(&mut self.batch);
        index.totals.floor = index.pages.oldest().map_or(index.totals.next_sequence, |(first, ..)| first);
        index.totals.page_bytes = index.pages.bytes();
        self.batch.put_long(Table::Meta, TOTALS, &codec::encode(Kind::Totals, &index.totals));
        let batch = std::mem::take(&mut self.batch);
        Ok(self.told(Some(batch)))
    }

    fn told(self, batch: Option<WriteBatch>) -> Finished {
        let (first, reached) = (self.fresh_first, self.index.totals.reached());
        Finished { batch, store_events: self.store_events, first, events: self.events, written: self.written, reached }
    }

    fn write_history(&mut self) {
        if self.fresh.is_empty() {
            return;
        }
        self.changed = true;
        let tickets: Vec<Ticket> = (self.fresh_first.0..)
            .zip(&self.fresh)
            .map(|(n, e)| Ticket {
                sequence: Sequence(n),
                order_key: self
                    .shared_keys
                    .order_key(e.interaction_hash, self.index.names.source_name(e.source).unwrap_or_default()),
                received_at: e.received_at,
                time: e.event_time(),
                to: e.to,
                place: Place::Page,
            })
            .collect();
        self.store_events.push(StoreEvent::Accepted { tickets: tickets.into(), next: self.index.totals.next_sequence });
        let mut key = self.fresh_first.0;
        let mut entries = std::mem::take(&mut self.fresh).into_iter();
        let mut row = HistoryRow::default();
        for shape in std::mem::take(&mut self.shapes) {
            if row.entries.len() + usize::from(shape.count) > HistoryRow::ENTRIES_MAX {
                let full = std::mem::take(&mut row);
                let span = full.entries.len() as u64;
                self.tail.history.write(&mut self.batch, key, full);
                key += span;
            }
            row.pages.push(shape);
            row.entries.extend(entries.by_ref().take(usize::from(shape.count)));
        }
        self.tail.history.write(&mut self.batch, key, row);
    }

    fn write_settled(&mut self) {
        let settlements = std::mem::take(&mut self.settlements);
        for chunk in settlements.chunks(SettledRow::SETTLEMENTS_MAX) {
            let key = self.index.totals.next_settlement;
            self.tail.settled.write(&mut self.batch, key, SettledRow { settlements: chunk.to_vec() });
            self.index.totals.next_settlement += chunk.len() as u64;
            (key..).zip(chunk).for_each(|(number, s)| self.index.settlement_index.add(number, s.id.sequence));
            self.changed = true;
        }
    }
}

enum SenderIdMatch {
    New,
    Duplicate(Receipt),
    /// The newest event with the same id.
    Conflict(Sequence),
}

mod dead_letters;
mod erase;
mod maintenance;
mod operator;
