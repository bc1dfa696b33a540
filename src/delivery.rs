//! The delivery: one event for one destination, from its first attempt to its end.
//!
//! *States and transitions:*
//! ```text
//! queued ──attempt──> in flight ──delivered──> delivered
//!   ^ ^                  │ │
//!   │ └──due── delayed <─┘ └──> dead ──redrive──> delayed (due at once)
//!   │                             └───purge───> discarded
//!   └ blocked behind an earlier delivery of the same interaction
//! ```
//! The place in the store determines the state: a page (queued), the delay tree (delayed), the dead letter queue (dead),
//! or none (delivered or discarded). Only the memory of the daemon records what is in flight.

use crate::event::{DestinationId, DestinationSet, Digest64, Event, Sequence};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use utoipa::ToSchema;

/// The outcome of sending an event to its destination.
///
/// Only [`Outcome::TimedOut`] and [`Outcome::Broken`] are ambiguous: the destination may have received the event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The destination answered with this HTTP status.
    Answered(u16),
    /// The request, or a part of it, was written; no answer came within the destination's `timeout`.
    TimedOut,
    /// Nothing was sent: the name did not resolve, the address or the connection was refused, or TLS failed.
    NotConnected,
    /// The request, or a part of it, was written; then the connection broke, or the answer was not HTTP.
    Broken,
    /// Nothing was sent: there was no connection within the destination's `timeout`.
    ConnectTimedOut,
    /// Nothing was sent: the connection ended before the first byte of the request was written.
    NotSent,
    /// The destination answered with this 2xx status, but the body reports a failure.
    Unsuccessful(u16),
}

impl Outcome {
    /// Every [`Outcome::word`].
    pub const WORDS: [&str; 7] =
        ["answered", "timeout", "not_connected", "broken", "connect_timeout", "not_sent", "unsuccessful"];

    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Answered(status) | Self::Unsuccessful(status) => Some(*status),
            _ => None,
        }
    }

    /// Whether the destination may have received the event without confirming it.
    pub fn is_ambiguous(&self) -> bool {
        matches!(self, Self::TimedOut | Self::Broken)
    }

    /// The word in JSON and metrics.
    pub fn word(&self) -> &'static str {
        Self::WORDS[self.place()]
    }

    /// The index of its word in [`Outcome::WORDS`].
    pub fn place(&self) -> usize {
        match self {
            Self::Answered(_) => 0,
            Self::TimedOut => 1,
            Self::NotConnected => 2,
            Self::Broken => 3,
            Self::ConnectTimedOut => 4,
            Self::NotSent => 5,
            Self::Unsuccessful(_) => 6,
        }
    }
}

/// One attempt, as kept with a delivery that has not succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// From 1; continues after a redrive.
    pub number: u32,
    pub at: Timestamp,
    pub latency_ms: u32,
    pub outcome: Outcome,
    /// A description of the error; empty if an answer arrived.
    pub error: String,
    /// The first [`Attempt::ANSWER_MAX`] bytes of the answer's body.
    pub answer: Vec<u8>,
}

impl Attempt {
    pub const ANSWER_MAX: usize = 1024;
}

/// Why a delivery is in the dead letter queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The limit of attempts or age was reached.
    Exhausted,
    /// The destination gave a permanent answer.
    Permanent,
    /// Older than its `ttl`.
    Expired,
    /// Older than an event that was already delivered.
    Stale,
    /// By an operator.
    Manual,
    /// The destination may have received it, and `retry.on_ambiguous` forbids a retry.
    Ambiguous,
}

impl Reason {
    pub const ALL: [Self; 6] =
        [Self::Exhausted, Self::Permanent, Self::Expired, Self::Stale, Self::Manual, Self::Ambiguous];

    pub fn word(self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::Permanent => "permanent",
            Self::Expired => "expired",
            Self::Stale => "stale",
            Self::Manual => "manual",
            Self::Ambiguous => "ambiguous",
        }
    }
}

/// Why a delivery, or everything that waits for a destination, cannot be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Blocker {
    /// An earlier event of the interaction has not ended, or may still arrive within the reorder window.
    Order,
    /// The last attempt failed; the next one is not due yet.
    RetryBackoff,
    /// The destination asked for no requests until a time.
    RetryAfter,
    /// The circuit breaker is open, or half-open with all its probes in flight.
    Breaker,
    /// As many requests are in flight as the concurrency limit allows.
    Concurrency,
    /// The configured rate limit.
    Rate,
    /// An operator paused the destination.
    Pause,
    /// The destination has no URL.
    NoUrl,
    /// A dead letter of the interaction, where `on_dead_letter = "hold"`.
    DeadLetter,
    /// The disk is full: the result of an attempt could not be written.
    Disk,
}

impl Blocker {
    pub const ALL: [Self; 10] = [
        Self::Order,
        Self::RetryBackoff,
        Self::RetryAfter,
        Self::Breaker,
        Self::Concurrency,
        Self::Rate,
        Self::Pause,
        Self::NoUrl,
        Self::DeadLetter,
        Self::Disk,
    ];

    /// The word in JSON and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::RetryBackoff => "retry_backoff",
            Self::RetryAfter => "retry_after",
            Self::Breaker => "breaker",
            Self::Concurrency => "concurrency",
            Self::Rate => "rate",
            Self::Pause => "pause",
            Self::NoUrl => "no_url",
            Self::DeadLetter => "dead_letter",
            Self::Disk => "disk",
        }
    }

    /// Whether it passes without intervention from one request to the next: the destination is called at its limit.
    pub fn is_pacing(self) -> bool {
        matches!(self, Self::Concurrency | Self::Rate)
    }
}

/// What blocks a delivery, and when to ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocked {
    pub by: Blocker,
    /// None where only another event ends it.
    pub until: Option<Timestamp>,
    /// The event that must end first.
    pub behind: Option<Sequence>,
}

impl Blocked {
    pub fn until(by: Blocker, until: Option<Timestamp>) -> Self {
        Self { by, until: until.filter(|until| *until < Timestamp::NEVER), behind: None }
    }

    pub fn behind(by: Blocker, behind: Sequence) -> Self {
        Self { by, until: None, behind: Some(behind) }
    }
}

/// Identifies one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeliveryId {
    pub sequence: Sequence,
    pub destination: DestinationId,
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.sequence, self.destination.0)
    }
}

/// A delivery with everything that its next attempt needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    pub id: DeliveryId,
    pub event: Arc<Event>,
    /// Every failed attempt so far, oldest first.
    pub attempts: Vec<Attempt>,
    /// How many of the attempts were made before the last redrive; they do not count against the limit.
    pub forgiven: u32,
    pub redriven: bool,
}

impl Delivery {
    /// A delivery without attempts.
    pub fn first(id: DeliveryId, event: Arc<Event>) -> Self {
        Self { id, event, attempts: Vec::new(), forgiven: 0, redriven: false }
    }

    /// The number of the next attempt, as in `Holdline-Attempt`.
    pub fn next_attempt(&self) -> u32 {
        self.attempts.last().map_or(1, |a| a.number + 1)
    }

    /// The number of attempts, and the status of the last answer; zero where there was none.
    pub fn tried(&self) -> (u32, u16) {
        let last = self.attempts.last().and_then(|a| a.outcome.status());
        (self.next_attempt() - 1, last.unwrap_or(0))
    }

    /// Attempts since the last redrive.
    pub fn tried_since_redrive(&self) -> u32 {
        (self.next_attempt() - 1).saturating_sub(self.forgiven)
    }

    /// How many attempts count against the limit, where `counts` decides by outcome. Attempts that are no longer kept
    /// all count.
    pub fn counted(&self, counts: impl Fn(&Outcome) -> bool) -> u32 {
        let free = self.attempts.iter().filter(|a| a.number > self.forgiven && !counts(&a.outcome)).count();
        self.tried_since_redrive().saturating_sub(u32::try_from(free).unwrap_or(u32::MAX))
    }
}

/// A delivery that failed finally, with its attempts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    pub delivery: Delivery,
    pub reason: Reason,
    pub dead_at: Timestamp,
}

/// What the scheduler stores of a waiting event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub sequence: Sequence,
    /// Events with the same order key are delivered in order; none: it is unordered.
    pub order_key: Digest64,
    pub received_at: Timestamp,
    /// When it happened, according to its sender.
    pub time: Option<Timestamp>,
    /// The destinations for which it waits.
    pub to: DestinationSet,
    pub place: Place,
}

/// Where a delivery is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In its page; or, if that page was dissolved because it was nearly empty, in the delay tree under due time zero.
    Page,
    /// In the delay tree, under this due time.
    Delay(Timestamp),
}

impl Place {
    /// The place with this [`Place::due`].
    pub fn under(due: Timestamp) -> Self {
        if due == Timestamp::ZERO { Self::Page } else { Self::Delay(due) }
    }

    /// The due time under which the delay tree stores it.
    pub fn due(self) -> Timestamp {
        match self {
            Self::Page => Timestamp::ZERO,
            Self::Delay(due) => due,
        }
    }
}
