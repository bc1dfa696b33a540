//! A plain model of the store: the data on disk, records that are not yet committed, and what a crash leaves.
//!
//! A record is a row in a map, and a commit applies requests in their order of arrival. The model is kept simple, so
//! that it is easy to verify.

use holdline::delivery::{DeliveryId, Place, Ticket};
use holdline::event::{DestinationId, DestinationSet, Digest64, Sequence};
use holdline::store::{BreakerOverride, DestinationOverrides, PacingState, Pause, StoreEvent};
use holdline::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Where a delivery is stored, or how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    Page,
    /// Under this due time; zero if its page was compacted.
    Delay(Timestamp),
    Dead,
    Delivered,
    Discarded,
}

impl Location {
    pub fn waits(self) -> bool {
        matches!(self, Self::Page | Self::Delay(_))
    }

    pub fn is_over(self) -> bool {
        matches!(self, Self::Delivered | Self::Discarded)
    }

    pub fn due(self) -> Timestamp {
        match self {
            Self::Delay(due) => due,
            _ => Timestamp::ZERO,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub location: Location,
    pub order_key: Digest64,
    pub received_at: Timestamp,
    /// The time of the event; zero if unknown.
    pub time: Timestamp,
    /// Index into [`super::settings::KINDS`].
    pub kind: usize,
    /// All failed attempts.
    pub attempts: u32,
    /// Those before the last redrive.
    pub forgiven: u32,
    /// Those since the last redrive that do not count against a limit.
    pub free: u32,
    /// The ends of the first and the last permanent failure since the last redrive.
    pub refused: Option<(Timestamp, Timestamp)>,
    pub redriven: bool,
    /// The start of the first attempt since the last redrive.
    pub tried_at: Option<Timestamp>,
}

/// An event before its acceptance.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub order_key: Digest64,
    pub to: DestinationSet,
    pub received_at: Timestamp,
    pub time: Timestamp,
    pub kind: usize,
}

#[derive(Clone, Debug)]
pub enum Request {
    Accept(Vec<Arrival>),
    /// The result of an attempt: the delivery leaves `from`, and `record` is its new state.
    Moved {
        id: DeliveryId,
        from: Location,
        record: Record,
    },
    Hold {
        destination: DestinationId,
        until: Timestamp,
    },
    /// Calls have opened or closed the breaker.
    Turned {
        destination: DestinationId,
        fixed: Option<BreakerOverride>,
    },
    /// The operator pauses or resumes.
    Pause {
        destination: DestinationId,
        until: Option<Timestamp>,
    },
    /// The operator sets or resets the breaker override.
    Fix {
        destination: DestinationId,
        fixed: Option<BreakerOverride>,
    },
    Redrive(Vec<DeliveryId>),
    Purge(Vec<DeliveryId>),
}

#[derive(Debug, Default)]
pub struct Store {
    /// What remains after a crash.
    pub durable: BTreeMap<DeliveryId, Record>,
    /// What readers see: attempts are visible as soon as they are recorded.
    pub live: BTreeMap<DeliveryId, Record>,
    pub holds: BTreeMap<DestinationId, Timestamp>,
    pub pauses: BTreeMap<DestinationId, Option<Timestamp>>,
    pub breakers: BTreeMap<DestinationId, Option<BreakerOverride>>,
    pub paced: BTreeMap<DestinationId, PacingState>,
    pub next: Sequence,
    /// The dead letters on disk.
    pub dead: BTreeSet<DeliveryId>,
    pub pending: VecDeque<Request>,
    /// See [`super::rig::Break::KeepsLastHold`].
    keeps_last_hold: bool,
}

impl Store {
    pub fn new(keeps_last_hold: bool) -> Self {
        Self { next: Sequence(1), keeps_last_hold, ..Self::default() }
    }

    pub fn ask(&mut self, request: Request) {
        if let Request::Moved { id, record, .. } = &request {
            self.live.insert(*id, *record);
        }
        self.pending.push_back(request);
    }

    /// Commits the first `n` requests; returns the store events for the dispatcher, or the change whose delivery was
    /// gone.
    pub fn commit(&mut self, n: usize, now: Timestamp) -> Result<Vec<StoreEvent>, DeliveryId> {
        let (mut store_events, mut tickets) = (Vec::new(), Vec::new());
        for request in self.pending.drain(..n).collect::<Vec<_>>() {
            match request {
                Request::Accept(arrivals) => tickets.extend(arrivals.iter().map(|arrival| self.accept(arrival))),
                Request::Moved { id, from, record } => {
                    let row = self
                        .durable
                        .get_mut(&id)
                        .filter(|row| row.location.waits() && row.location.due() == from.due())
                        .ok_or(id)?;
                    *row = record;
                    if record.location == Location::Dead {
                        self.dead.insert(id);
                    }
                }
                Request::Hold { destination, until } => {
                    let hold = self.holds.entry(destination).or_default();
                    *hold = if self.keeps_last_hold { until } else { until.max(*hold) };
                }
                Request::Turned { destination, fixed } => {
                    self.stand(destination, now, |store| drop(store.breakers.insert(destination, fixed)));
                }
                Request::Fix { destination, fixed } => {
                    self.stand(destination, now, |store| drop(store.breakers.insert(destination, fixed.clone())));
                    store_events.push(StoreEvent::Breaker(destination, fixed));
                }
                Request::Pause { destination, until } => {
                    self.stand(destination, now, |store| {
                        store.pauses.insert(destination, until);
                    });
                    let (who, reason) = ("operator".to_owned(), String::new());
                    let pause = until.map(|until| Pause { who, reason, since: now, until });
                    store_events.push(StoreEvent::Paused(destination, pause));
                }
                Request::Redrive(ids) => {
                    let ids = self.change_dead(&ids, |row| {
                        let forgiven = row.attempts;
                        let (location, free, refused) = (Location::Delay(now), 0, None);
                        Record { location, forgiven, free, refused, redriven: true, tried_at: None, ..row }
                    });
                    store_events.push(StoreEvent::Redriven(ids.into_iter().map(|id| self.ticket(id)).collect()));
                }
                Request::Purge(ids) => {
                    let ids = self.change_dead(&ids, |row| Record { location: Location::Discarded, ..row });
                    store_events.push(StoreEvent::Discarded(
                        ids.into_iter().map(|id| (id, self.durable[&id].order_key)).collect(),
                    ));
                }
            }
        }
        if !tickets.is_empty() {
            store_events.push(StoreEvent::Accepted { tickets: tickets.into(), next: self.next });
        }
        Ok(store_events)
    }

    /// Changes the overrides of a destination, and records when this ends a pause or an open breaker.
    fn stand(&mut self, d: DestinationId, now: Timestamp, change: impl FnOnce(&mut Self)) {
        let before = self.overrides(d);
        change(self);
        if let Some(at) = self.overrides(d).reopened_at(&before, now) {
            let paced = self.paced.entry(d).or_default();
            paced.released_at = paced.released_at.max(at);
        }
    }

    fn overrides(&self, d: DestinationId) -> DestinationOverrides {
        let (who, reason, since) = (String::new(), String::new(), Timestamp::ZERO);
        let pause = self.pauses.get(&d).copied().flatten().map(|until| Pause { who, reason, since, until });
        DestinationOverrides { pause, breaker: self.breakers.get(&d).cloned().flatten() }
    }

    /// A start is on disk before it is made; zero: starts are no longer recorded.
    pub fn sent(&mut self, d: DestinationId, at: Timestamp) {
        self.paced.entry(d).or_default().sent_at = at;
    }

    fn accept(&mut self, arrival: &Arrival) -> Ticket {
        let Arrival { order_key, to, received_at, time, kind } = *arrival;
        let sequence = self.next;
        self.next = sequence.next();
        let (location, tried_at, refused, redriven) = (Location::Page, None, None, false);
        let (attempts, forgiven, free) = (0, 0, 0);
        let record = Record {
            location,
            order_key,
            received_at,
            time,
            kind,
            attempts,
            forgiven,
            free,
            refused,
            redriven,
            tried_at,
        };
        for destination in to.iter() {
            let id = DeliveryId { sequence, destination };
            self.durable.insert(id, record);
            self.live.insert(id, record);
        }
        Ticket { sequence, order_key, received_at, time: said(time), to, place: Place::Page }
    }

    /// Changes the given deliveries that are still dead letters; returns which they were.
    fn change_dead(&mut self, ids: &[DeliveryId], change: impl Fn(Record) -> Record) -> Vec<DeliveryId> {
        let mut changed = Vec::new();
        for id in ids {
            let Some(row) = self.durable.get_mut(id).filter(|row| row.location == Location::Dead) else { continue };
            *row = change(*row);
            self.dead.remove(id);
            self.live.insert(*id, *row);
            changed.push(*id);
        }
        changed
    }

    /// Compacts the page of these deliveries: they move to the delay tree, under due time zero.
    pub fn give_up_page(&mut self, ids: &[DeliveryId]) {
        for id in ids {
            for rows in [&mut self.durable, &mut self.live] {
                if let Some(row) = rows.get_mut(id).filter(|row| row.location == Location::Page) {
                    row.location = Location::Delay(Timestamp::ZERO);
                }
            }
        }
    }

    /// One row of history: the deliveries to a destination that wait in pages, and where to continue.
    pub fn waiting(&self, d: DestinationId, from: Sequence, span: u64) -> (Vec<Ticket>, Sequence) {
        let behind = self.next.min(from.plus(span));
        let first = DeliveryId { sequence: from, destination: DestinationId(0) };
        let rows = self.durable.range(first..).take_while(|(id, _)| id.sequence < behind);
        let here = rows.filter(|(id, row)| id.destination == d && row.location == Location::Page);
        (here.map(|(id, _)| self.ticket(*id)).collect(), behind)
    }

    pub fn ticket(&self, id: DeliveryId) -> Ticket {
        let row = self.durable[&id];
        let to = DestinationSet::EMPTY.with(id.destination);
        let place = Place::under(row.location.due());
        Ticket {
            sequence: id.sequence,
            order_key: row.order_key,
            received_at: row.received_at,
            time: said(row.time),
            to,
            place,
        }
    }

    /// The sequence of the first delivery in pages.
    pub fn floor(&self) -> Sequence {
        let in_page = self.durable.iter().find(|(_, row)| row.location == Location::Page);
        in_page.map_or(self.next, |(id, _)| id.sequence)
    }

    /// Uncommitted data is lost. Returns the deliveries with lost records: as they were, and as they are.
    pub fn crash(&mut self) -> Vec<(DeliveryId, Record, Record)> {
        self.pending.clear();
        let mut forgotten = Vec::new();
        for (id, live) in &mut self.live {
            let durable = self.durable[id];
            if *live != durable {
                forgotten.push((*id, *live, durable));
                *live = durable;
            }
        }
        forgotten
    }
}

fn said(time: Timestamp) -> Option<Timestamp> {
    Some(time).filter(|time| *time > Timestamp::ZERO)
}
