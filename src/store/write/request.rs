//! What the committer can be asked, and what it answers.

use super::erasure::{Erased, Erasure};
use super::tee::Tee;
use crate::clock::{ClockReference, Step};
use crate::delivery::{DeadLetter, Delivery, DeliveryId, Place, Ticket};
use crate::event::{DestinationId, Digest64, EVENT_OVERHEAD, Event, EventId, Sequence};
use crate::store::engine::error::StoreError;
use crate::store::engine::room::COPY_OVERHEAD;
use crate::store::index::quarantine_index::{Full, Parcel, Room};
use crate::store::model::audit::Repeated;
use crate::store::model::overrides::{BreakerOverride, Pause};
use crate::store::model::record::{Gap, IntakeOverride};
use crate::store::model::redrive::{Fared, Redrive, RedriveEnded};
use crate::time::Timestamp;
use std::sync::Arc;
use tokio::sync::oneshot;

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
        letter: Box<DeadLetter>,
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
    Sent {
        destination: DestinationId,
        at: Timestamp,
    },
}

impl Transition {
    /// Bytes that it writes of its event.
    pub fn copy_bytes(&self) -> u64 {
        let event = match self {
            Self::Delayed { delivery, .. } => &delivery.event,
            Self::Dead { letter, .. } => &letter.delivery.event,
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
    Hasten {
        what: String,
        deliveries: Vec<(DeliveryId, Digest64)>,
    },
    IntakeOverride {
        what: String,
        door: IntakeOverride,
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
    RedriveOn {
        destination: DestinationId,
        letters: Vec<Sequence>,
    },
    /// What has become of the letters of the redrive that began then, also after its end.
    RedriveFared {
        destination: DestinationId,
        begun: Timestamp,
        fared: Box<Fared>,
    },
    RedriveEnd {
        destination: DestinationId,
        why: RedriveEnded,
    },
    /// A gap begins, or is brought up to date.
    Gap {
        number: u64,
        gap: Gap,
    },
    /// The daemon lives.
    Alive,
    /// A life begins with its clock anchored there. All that is to last for a while is moved by the step, if there was one.
    ClockReference {
        anchor: ClockReference,
        step: Option<Step>,
    },
    /// What those who want alerts were told, and what they are still to be told: JSON, which only the alerts read.
    Told {
        told: String,
    },
    /// Detained requests are given up.
    GiveUp {
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

#[derive(Debug)]
pub enum Request {
    Accept {
        arrivals: Vec<Arrival>,
        answer: oneshot::Sender<Vec<Receipt>>,
    },
    Transition(Transition),
    Register {
        names: Vec<String>,
        answer: oneshot::Sender<Vec<Option<DestinationId>>>,
    },
    Dlq {
        action: DlqAction,
        ids: Vec<DeliveryId>,
        who: String,
        answer: oneshot::Sender<usize>,
    },
    Change {
        change: Change,
        who: String,
        answer: oneshot::Sender<usize>,
    },
    Detain {
        parcel: Box<Parcel>,
        room: Room,
        answer: oneshot::Sender<Result<u64, Full>>,
    },
    LetIn {
        number: u64,
        arrivals: Vec<Arrival>,
        answer: oneshot::Sender<Option<Vec<Receipt>>>,
    },
    Erase {
        erasure: Box<Erasure>,
        who: String,
        answer: oneshot::Sender<Erased>,
    },
    /// From now on commits are copied, or no longer; false where they are copied elsewhere.
    Tee {
        tee: Option<Tee>,
        answer: oneshot::Sender<bool>,
    },
    /// Runs between two commits, with nothing half-written.
    Check {
        answer: oneshot::Sender<Result<Vec<String>, StoreError>>,
    },
    /// Answers when everything asked before it is durable.
    Flush {
        answer: oneshot::Sender<()>,
    },
}

/// What the dispatcher hears when a commit is durable.
#[derive(Clone, Debug)]
pub enum StoreEvent {
    /// Events up to, and not including, `next` lie in the store.
    Accepted { tickets: Arc<[Ticket]>, next: Sequence },
    /// Dead letters wait again.
    Redriven(Vec<Ticket>),
    /// Deliveries that wait for their time may go now.
    Hastened(Vec<(DeliveryId, Digest64)>),
    /// Deliveries that waited, or dead letters, are gone for good.
    Purged(Vec<(DeliveryId, Digest64)>),
    /// An operator has paused a destination, or resumed it.
    Paused(DestinationId, Option<Pause>),
    /// An operator has set a destination's breaker.
    Breaker(DestinationId, Option<BreakerOverride>),
}
