//! Requests to write events, transitions of deliveries and changes; and the events that the store sends when they are
//! durable.

use crate::clock::{ClockReference, Step};
use crate::delivery::{DeadLetter, Delivery, DeliveryId, Place, Ticket};
use crate::event::{DestinationId, Digest64, EVENT_OVERHEAD, Event, EventId, Sequence};
use crate::store::engine::disk_space::COPY_OVERHEAD;
use crate::store::model::audit::Repeated;
use crate::store::model::destination::{BreakerOverride, Pause, Redrive, RedriveEnded, RedriveResults};
use crate::store::model::record::{IntakeOverride, Outage};
use crate::store::model::table::WriteBatch;
use crate::time::Timestamp;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

/// A received event, with everything that can be computed before it has a sequence.
#[derive(Debug)]
pub struct Arrival {
    pub event: Event,
    pub sender: Digest64,
    pub interaction_hash: Digest64,
    pub record: Vec<u8>,
}

impl Arrival {
    pub fn new(event: Event) -> Self {
        let sender = event.sender_id.as_deref().map_or(Digest64::NONE, |id| Digest64::of_sender_id(&event.source, id));
        Self {
            record: crate::store::model::codec::payload(&event),
            sender,
            interaction_hash: event.interaction_hash(),
            event,
        }
    }
}

impl Arrival {
    /// Bytes that it adds to a commit: its record, its history entry and its index entries.
    pub fn bytes(&self) -> usize {
        self.record.len() + EVENT_OVERHEAD
    }
}

/// The result for an arrival; returned only when it is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipt {
    Queued(EventId),
    /// The id of the first copy.
    Duplicate(EventId),
}

impl Receipt {
    /// The id under which the event is stored.
    pub fn id(self) -> EventId {
        match self {
            Self::Queued(id) | Self::Duplicate(id) => id,
        }
    }
}

/// The result of an attempt.
#[derive(Debug)]
pub enum Transition {
    Delivered {
        id: DeliveryId,
        place: Place,
        attempts: u32,
        status: u16,
        at: Timestamp,
    },
    Delayed {
        from: Place,
        due: Timestamp,
        delivery: Arc<Delivery>,
    },
    Dead {
        from: Place,
        dead_letter: Box<DeadLetter>,
    },
    /// A rule decided that it need not be delivered.
    Discarded {
        id: DeliveryId,
        place: Place,
        attempts: u32,
        at: Timestamp,
    },
    /// The record of the delivery does not verify; it becomes a damaged record.
    Damaged {
        id: DeliveryId,
        place: Place,
        why: String,
        at: Timestamp,
    },
    Hold {
        destination: DestinationId,
        until: Timestamp,
        reason: String,
    },
    /// The results of attempts opened or closed the breaker of a destination at this time.
    Breaker {
        destination: DestinationId,
        fixed: Option<BreakerOverride>,
        at: Timestamp,
    },
    /// An attempt starts at this time; zero if starts are not recorded any more.
    AttemptStarted {
        destination: DestinationId,
        at: Timestamp,
    },
}

impl Transition {
    /// Bytes that it writes of its event.
    pub fn copy_bytes(&self) -> u64 {
        let event = match self {
            Self::Delayed { delivery, .. } => &delivery.event,
            Self::Dead { dead_letter, .. } => &dead_letter.delivery.event,
            _ => return 0,
        };
        event.body.len() as u64 + COPY_OVERHEAD
    }
}

/// What to do with dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DlqAction {
    Redrive,
    Purge,
}

/// A change requested by an operator or by the daemon itself. `what` is its description in the audit log.
#[derive(Debug)]
pub enum Change {
    /// Discards waiting deliveries.
    Discard {
        what: String,
        deliveries: Vec<(DeliveryId, Place, Digest64)>,
    },
    /// Retries delayed deliveries at once.
    RetryNow {
        what: String,
        deliveries: Vec<(DeliveryId, Digest64)>,
    },
    IntakeOverride {
        what: String,
        intake_override: IntakeOverride,
    },
    /// Pauses a destination; `None` resumes it.
    Pause {
        what: String,
        destination: DestinationId,
        pause: Option<Pause>,
    },
    /// Overrides the breaker of a destination; `None` closes it and lets it work automatically.
    Breaker {
        what: String,
        destination: DestinationId,
        fixed: Option<BreakerOverride>,
    },
    /// Begins a gradual redrive of a destination's dead letters; no change if one is running.
    RedriveBegin {
        what: String,
        destination: DestinationId,
        redrive: Box<Redrive>,
        list: Vec<Sequence>,
    },
    /// Redrives the next dead letters of the list.
    RedriveNext {
        destination: DestinationId,
        dead_letters: Vec<Sequence>,
    },
    /// Updates the results of the redrive that began at `begun`, also after its end.
    RedriveResults {
        destination: DestinationId,
        begun: Timestamp,
        fared: Box<RedriveResults>,
    },
    RedriveEnd {
        destination: DestinationId,
        why: RedriveEnded,
    },
    /// Begins or updates an outage.
    Outage {
        number: u64,
        outage: Outage,
    },
    /// Records that the daemon is running.
    Heartbeat,
    /// Sets the clock reference of this run of the daemon. If there was a clock step, the stored times that lie in the
    /// future move with it.
    ClockReference {
        clock_reference: ClockReference,
        step: Option<Step>,
    },
    /// The alerts sent and those still to be sent: JSON that only the alerts read.
    AlertState {
        state: String,
    },
    /// Discards quarantined requests.
    DiscardQuarantined {
        what: String,
        numbers: Vec<u64>,
    },
    /// An audit entry without a change in the store.
    Note {
        what: String,
    },
    /// As `Note`, for what may be repeated without limit: occurrences of a kind share an entry.
    Repeated(Repeated),
}

/// An event for the dispatcher, sent when its commit is durable.
#[derive(Clone, Debug)]
pub enum StoreEvent {
    /// All events before `next` are stored.
    Accepted { tickets: Arc<[Ticket]>, next: Sequence },
    /// Dead letters were queued again.
    Redriven(Vec<Ticket>),
    /// Delayed deliveries may be sent at once.
    RetryNow(Vec<(DeliveryId, Digest64)>),
    /// Waiting deliveries or dead letters were discarded.
    Discarded(Vec<(DeliveryId, Digest64)>),
    /// An operator paused a destination; `None` if it was resumed.
    Paused(DestinationId, Option<Pause>),
    /// An operator changed the breaker override of a destination.
    Breaker(DestinationId, Option<BreakerOverride>),
}

/// What is stored of one event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventLocation {
    /// The order key of the event.
    pub order_key: Digest64,
    /// Waiting deliveries, and where they are stored.
    pub waiting: Vec<(DestinationId, Place)>,
    pub dead: Vec<DestinationId>,
}

/// All that is stored of an interaction.
#[derive(Clone, Debug, Default)]
pub struct EventLocations {
    pub events: BTreeMap<Sequence, EventLocation>,
    /// Numbers of damaged records.
    pub damaged: Vec<u64>,
}

impl EventLocations {
    /// The location of an event, which is added if it is missing; sets its order key if one is given.
    pub fn trace(&mut self, sequence: Sequence, order_key: Option<Digest64>) -> &mut EventLocation {
        let trace = self.events.entry(sequence).or_default();
        trace.order_key = order_key.unwrap_or(trace.order_key);
        trace
    }

    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.damaged.is_empty()
    }
}

/// A part of an erasure that is made in one commit.
#[derive(Clone, Debug, Default)]
pub struct Erasure {
    /// Description in the audit log.
    pub what: String,
    pub events: Vec<(Sequence, EventLocation)>,
    pub damaged: Vec<u64>,
    /// Quarantined requests.
    pub quarantined: Vec<u64>,
}

/// Numbers of erased items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    /// Waiting deliveries.
    pub waiting: u64,
    pub dead: u64,
    /// Events in the history.
    pub remembered: u64,
    pub damaged: u64,
    pub quarantined: u64,
}

impl Erased {
    pub fn total(&self) -> u64 {
        self.waiting + self.dead + self.remembered + self.damaged + self.quarantined
    }

    pub fn add(&mut self, other: &Self) {
        self.waiting += other.waiting;
        self.dead += other.dead;
        self.remembered += other.remembered;
        self.damaged += other.damaged;
        self.quarantined += other.quarantined;
    }
}

/// Limit of the copied commits that the reader of a backup has not taken yet, in bytes; a slower reader gets no backup.
pub const BEHIND_MAX: usize = 256 << 20;

/// The receiver of copied commits.
#[derive(Debug)]
pub struct BackupCopy {
    pub to: mpsc::Sender<WriteBatch>,
    pub behind: Arc<AtomicUsize>,
}

impl BackupCopy {
    /// False if the reader is gone or too slow.
    pub fn copy(&self, batch: WriteBatch) -> bool {
        let behind = self.behind.fetch_add(batch.bytes(), Ordering::Relaxed);
        behind < BEHIND_MAX && self.to.send(batch).is_ok()
    }
}
