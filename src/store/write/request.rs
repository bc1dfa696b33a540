//! What is written: events, transitions of deliveries, changes; and what is told when it is durable.

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

/// An event at the door, with everything that can be computed before it has a sequence.
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
    /// Bytes that it adds to a commit: its record, and its entries in the history and the index.
    pub fn bytes(&self) -> usize {
        self.record.len() + EVENT_OVERHEAD
    }
}

/// What became of an arrival; told only when it would survive a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipt {
    Queued(EventId),
    /// The id of the first copy.
    Duplicate(EventId),
}

impl Receipt {
    /// The id under which the event is known.
    pub fn id(self) -> EventId {
        match self {
            Self::Queued(id) | Self::Duplicate(id) => id,
        }
    }
}

/// What follows from an attempt.
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
    /// A rule says that it need not be delivered.
    Discarded {
        id: DeliveryId,
        place: Place,
        attempts: u32,
        at: Timestamp,
    },
    /// The record of the delivery does not verify; its bytes are set aside.
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
    /// The calls have opened or closed a destination's breaker then.
    Breaker {
        destination: DestinationId,
        fixed: Option<BreakerOverride>,
        at: Timestamp,
    },
    /// An attempt is about to start then; zero: from now on starts are not noted.
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

/// What the operator wants with some dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DlqAction {
    Redrive,
    Purge,
}

/// What an operator, or the daemon about itself, wants written. `what` is how the audit tells it.
#[derive(Debug)]
pub enum Change {
    /// Deliveries that wait are given up.
    Discard {
        what: String,
        deliveries: Vec<(DeliveryId, Place, Digest64)>,
    },
    /// Deliveries that wait for their time need not wait for it.
    RetryNow {
        what: String,
        deliveries: Vec<(DeliveryId, Digest64)>,
    },
    IntakeOverride {
        what: String,
        intake_override: IntakeOverride,
    },
    /// A destination is paused; none: it is resumed.
    Pause {
        what: String,
        destination: DestinationId,
        pause: Option<Pause>,
    },
    /// A destination's breaker is kept as it says; none: it is left to itself, and closed.
    Breaker {
        what: String,
        destination: DestinationId,
        fixed: Option<BreakerOverride>,
    },
    /// Dead letters of a destination begin to be redriven little by little; nothing where such a redrive goes on already.
    RedriveBegin {
        what: String,
        destination: DestinationId,
        redrive: Box<Redrive>,
        list: Vec<Sequence>,
    },
    /// The next letters of the list are redriven.
    RedriveNext {
        destination: DestinationId,
        dead_letters: Vec<Sequence>,
    },
    /// What has become of the letters of the redrive that began then, also after its end.
    RedriveResults {
        destination: DestinationId,
        begun: Timestamp,
        fared: Box<RedriveResults>,
    },
    RedriveEnd {
        destination: DestinationId,
        why: RedriveEnded,
    },
    /// A gap begins, or is brought up to date.
    Outage {
        number: u64,
        outage: Outage,
    },
    /// The daemon lives.
    Heartbeat,
    /// A life begins with its clock anchored there. All that is to last for a while is moved by the step, if there was one.
    ClockReference {
        clock_reference: ClockReference,
        step: Option<Step>,
    },
    /// What those who want alerts were told, and what they are still to be told: JSON, which only the alerts read.
    AlertState {
        state: String,
    },
    /// Detained requests are given up.
    DiscardQuarantined {
        what: String,
        numbers: Vec<u64>,
    },
    /// Something that changes nothing in the store and yet belongs into the audit.
    Note {
        what: String,
    },
    /// The same, where it may be repeated without end: occurrences of a kind share an entry.
    Repeated(Repeated),
}

/// What the dispatcher hears when a commit is durable.
#[derive(Clone, Debug)]
pub enum StoreEvent {
    /// Events up to, and not including, `next` lie in the store.
    Accepted { tickets: Arc<[Ticket]>, next: Sequence },
    /// Dead letters wait again.
    Redriven(Vec<Ticket>),
    /// Deliveries that wait for their time may go now.
    RetryNow(Vec<(DeliveryId, Digest64)>),
    /// Deliveries that waited, or dead letters, are gone for good.
    Discarded(Vec<(DeliveryId, Digest64)>),
    /// An operator has paused a destination, or resumed it.
    Paused(DestinationId, Option<Pause>),
    /// An operator has set a destination's breaker.
    Breaker(DestinationId, Option<BreakerOverride>),
}

/// What lies here of one event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventLocation {
    /// In which the event is ordered.
    pub order_key: Digest64,
    /// Deliveries that wait, with where they lie.
    pub waiting: Vec<(DestinationId, Place)>,
    pub dead: Vec<DestinationId>,
}

/// All that lies here of an interaction.
#[derive(Clone, Debug, Default)]
pub struct EventLocations {
    pub events: BTreeMap<Sequence, EventLocation>,
    /// Numbers of records that did not verify and are kept.
    pub damaged: Vec<u64>,
}

impl EventLocations {
    /// That of an event, which is new where its order key is known from its record alone.
    pub fn trace(&mut self, sequence: Sequence, order_key: Option<Digest64>) -> &mut EventLocation {
        let trace = self.events.entry(sequence).or_default();
        trace.order_key = order_key.unwrap_or(trace.order_key);
        trace
    }

    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.damaged.is_empty()
    }
}

/// A part of an erasure, to be made in one commit.
#[derive(Clone, Debug, Default)]
pub struct Erasure {
    /// As the audit tells it.
    pub what: String,
    pub events: Vec<(Sequence, EventLocation)>,
    pub damaged: Vec<u64>,
    /// Requests that were kept apart.
    pub quarantined: Vec<u64>,
}

/// What an erasure has taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    /// Deliveries that waited.
    pub waiting: u64,
    pub dead: u64,
    /// Events that were remembered.
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

/// Copied commits that may wait until a reader has taken what was before them; a slower reader gets no backup.
pub const BEHIND_MAX: usize = 256 << 20;

/// Where the committer copies its commits to.
#[derive(Debug)]
pub struct BackupCopy {
    pub to: mpsc::Sender<WriteBatch>,
    pub behind: Arc<AtomicUsize>,
}

impl BackupCopy {
    /// False where the reader is gone, or too slow.
    pub fn copy(&self, batch: WriteBatch) -> bool {
        let behind = self.behind.fetch_add(batch.bytes(), Ordering::Relaxed);
        behind < BEHIND_MAX && self.to.send(batch).is_ok()
    }
}
