//! Events, their deliveries and attempts, dead letters, and interactions.

use super::{BlockedBy, Time};
use crate::delivery::Reason;
use crate::event::{EventId, Sequence};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An event, and the state of each of its deliveries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    #[schema(value_type = String, format = Uuid)]
    pub id: EventId,
    #[schema(value_type = u64)]
    pub sequence: Sequence,
    pub source: String,
    #[serde(rename = "type")]
    pub event_type: String,
    /// The key of its interaction, as long as the event itself is stored.
    pub interaction: Option<String>,
    pub sender_id: Option<String>,
    pub event_time: Option<Time>,
    pub received_at: Time,
    pub size: usize,
    /// The same id had been seen with another body.
    pub conflict: bool,
    pub deliveries: Vec<Delivery>,
}

/// One event for one destination. What is not known of a state is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Delivery {
    pub destination: String,
    pub state: DeliveryState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<Attempts>,
    /// In flight: when this attempt began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// In flight: when this attempt ends at the latest, by the destination's `timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
    /// When its next attempt is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Time>,
    /// When it was delivered, died or was discarded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled_at: Option<Time>,
    /// Why it is dead.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// How the last attempt ended, where it failed; the words are those of the attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Of the last answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What went wrong in the last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The blocker that lasts longest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_by: Option<BlockedBy>,
    /// The other blockers, the one that lasts longest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also_blocked_by: Vec<BlockedBy>,
}

impl Delivery {
    /// A delivery of which only the state is known.
    pub fn bare(destination: String, state: DeliveryState) -> Self {
        Self {
            destination,
            state,
            attempts: None,
            since: None,
            until: None,
            due: None,
            settled_at: None,
            reason: None,
            outcome: None,
            status: None,
            error: None,
            blocked_by: None,
            also_blocked_by: Vec::new(),
        }
    }

    /// All blockers, the longest-lasting first.
    pub fn blockers(&self) -> impl Iterator<Item = &BlockedBy> {
        self.blocked_by.iter().chain(&self.also_blocked_by)
    }
}

/// The state of a delivery, as it is named in JSON and in filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    Queued,
    /// It waits for its next attempt.
    Delayed,
    /// It waits behind another event of its interaction.
    Blocked,
    InFlight,
    Delivered,
    Dead,
    Discarded,
}

impl DeliveryState {
    pub const ALL: [Self; 7] =
        [Self::Queued, Self::Delayed, Self::Blocked, Self::InFlight, Self::Delivered, Self::Dead, Self::Discarded];
    /// The states of unfinished deliveries.
    pub const OPEN: [Self; 4] = [Self::InFlight, Self::Queued, Self::Delayed, Self::Blocked];

    /// The word for it in JSON, filters and tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Delayed => "delayed",
            Self::Blocked => "blocked",
            Self::InFlight => "in_flight",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
            Self::Discarded => "discarded",
        }
    }
}

/// How many attempts were made; or, of a single event that waits or is dead, all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Attempts {
    Count(u32),
    All(Vec<Attempt>),
}

impl Attempts {
    pub fn count(&self) -> usize {
        match self {
            Self::Count(n) => *n as usize,
            Self::All(all) => all.len(),
        }
    }
}

/// One try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Attempt {
    pub number: u32,
    pub at: Time,
    pub latency_ms: u32,
    /// `answered`, `unsuccessful`, `timeout`, `broken`, `not_connected`, `connect_timeout` or `not_sent`.
    pub outcome: String,
    /// Whether the destination may have the event although it did not say so.
    pub ambiguous: bool,
    pub status: Option<u16>,
    pub error: String,
    /// The beginning of what came back; null to a token without the scope `reveal`, since it can repeat the event.
    pub answer: Option<String>,
}

/// A delivery that could not be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeadLetter {
    #[schema(value_type = String, format = Uuid)]
    pub id: EventId,
    #[schema(value_type = u64)]
    pub sequence: Sequence,
    pub destination: String,
    #[schema(value_type = String)]
    pub reason: Reason,
    pub dead_at: Time,
    pub source: String,
    #[serde(rename = "type")]
    pub event_type: String,
    pub interaction: Option<String>,
    pub sender_id: Option<String>,
    pub event_time: Option<Time>,
    pub received_at: Time,
    pub size: usize,
    pub conflict: bool,
    pub redriven: bool,
    /// Oldest first; in a list the newest three, and their texts shortened.
    pub attempts: Vec<Attempt>,
    /// The other destinations for which the event is dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub also_dead_for: Option<Vec<String>>,
}

/// An interaction, by destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Interaction {
    pub interaction: String,
    pub destinations: Vec<InteractionState>,
}

/// Whether the events of an interaction wait for one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ordering {
    Interaction,
    None,
}

/// The state of an interaction with a destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InteractionState {
    pub destination: String,
    /// The source whose interaction it is; null where it is one of all sources with `shared_keys`, and where nothing is
    /// known of it.
    pub source: Option<String>,
    /// `interaction`: its events go one after the other. `none` (`ordering.mode`): none waits for another, and only each
    /// event itself has a state; `in_flight`, `waiting`, `waiting_count` and `blocked_by` are then always empty, and
    /// `/v1/events?interaction=KEY` lists what is under way.
    pub ordering: Ordering,
    /// The newest delivery, by which a later one is known to be stale. Null where nothing was delivered, where that is no
    /// longer remembered, and always where `ordering.on_stale` is `deliver`: nothing is stale there, and nothing is
    /// remembered for it. `/v1/events?interaction=KEY&state=delivered` then lists what was delivered.
    pub last_delivered: Option<LastDelivered>,
    /// Null where none is, and always where `ordering` is `none`.
    pub in_flight: Option<InteractionEvent>,
    /// The first hundred of those that wait, as far as they have been read ahead, in their order.
    pub waiting: Vec<InteractionEvent>,
    pub waiting_count: usize,
    /// Dead letters that block the others.
    pub blocked_by: Vec<InteractionEvent>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LastDelivered {
    #[serde(flatten)]
    pub event: InteractionEvent,
    pub at: Time,
    /// The latest event time of all that were delivered: what happened before it and comes later is stale.
    pub newest_event_time: Option<Time>,
}

/// An event of an interaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InteractionEvent {
    #[schema(value_type = u64)]
    pub sequence: Sequence,
    /// Null where it is no longer remembered.
    #[schema(value_type = Option<String>, format = Uuid)]
    pub id: Option<EventId>,
}
