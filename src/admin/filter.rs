//! Filters of the lists: the same words for events and dead letters.

use super::{Admin, Failure};
use crate::delivery::{DeadLetter, Reason};
use crate::event::{DestinationId, Digest64};
use crate::time::Timestamp;
use serde::Deserialize;

/// Items of a page where `limit` is not given, and at most.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 1000;

/// As written in a query or a request's `filter`. An unknown word is an error, lest a typo widen a purge.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Query {
    state: Option<String>,
    destination: Option<String>,
    source: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    interaction: Option<String>,
    reason: Option<Reason>,
    since: Option<String>,
    until: Option<String>,
    pub(super) after: Option<String>,
    limit: Option<usize>,
}

impl Query {
    /// Whether it asks for what only dead letters have.
    pub(super) fn asks_for_reason(&self) -> bool {
        self.reason.is_some()
    }

    /// Whether it asks for a page rather than for all that fits.
    pub(super) fn pages(&self) -> bool {
        self.after.is_some() || self.limit.is_some()
    }
}

/// Which of an event's dead letters is meant.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Which {
    destination: Option<String>,
}

impl Which {
    pub fn destination(&self, admin: &Admin) -> Result<Option<DestinationId>, Failure> {
        destination(self.destination.as_deref(), admin)
    }
}

/// The state of a delivery, as it is named in JSON and in filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryState {
    Queued,
    Delayed,
    Held,
    InFlight,
    Delivered,
    Dead,
    Discarded,
}

impl DeliveryState {
    const ALL: [Self; 7] =
        [Self::Queued, Self::Delayed, Self::Held, Self::InFlight, Self::Delivered, Self::Dead, Self::Discarded];

    pub fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Delayed => "delayed",
            Self::Held => "held",
            Self::InFlight => "in_flight",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
            Self::Discarded => "discarded",
        }
    }

    fn of(word: &str) -> Result<Self, Failure> {
        let known = || Self::ALL.map(Self::word).join(", ");
        Self::ALL
            .into_iter()
            .find(|s| s.word() == word)
            .ok_or_else(|| Failure::bad(format!("state is one of {}", known())))
    }
}

/// A filter as used.
#[derive(Clone, Debug)]
pub struct Filter {
    pub state: Option<DeliveryState>,
    pub destination: Option<DestinationId>,
    pub source: Option<String>,
    pub kind: Option<String>,
    pub interaction: Option<Digest64>,
    pub reason: Option<Reason>,
    pub since: Timestamp,
    pub until: Timestamp,
    pub limit: usize,
}

impl Filter {
    pub fn of(query: &Query, admin: &Admin) -> Result<Self, Failure> {
        Ok(Self {
            state: query.state.as_deref().map(DeliveryState::of).transpose()?,
            destination: destination(query.destination.as_deref(), admin)?,
            source: query.source.clone(),
            kind: query.kind.clone(),
            interaction: query.interaction.as_deref().map(Digest64::of_interaction),
            reason: query.reason,
            since: moment(query.since.as_deref(), "since")?.unwrap_or(Timestamp::ZERO),
            until: moment(query.until.as_deref(), "until")?.unwrap_or(Timestamp::NEVER),
            limit: query.limit.unwrap_or(LIMIT).clamp(1, LIMIT_MAX),
        })
    }

    /// Whether a dead letter is meant; `since` and `until` speak of when it died.
    pub fn fits(&self, letter: &DeadLetter) -> bool {
        let event = &letter.delivery.event;
        self.destination.is_none_or(|d| d == letter.delivery.id.destination)
            && self.source.as_ref().is_none_or(|s| *s == event.source)
            && self.kind.as_ref().is_none_or(|k| *k == event.kind)
            && self.interaction.is_none_or(|i| i == event.lane())
            && self.reason.is_none_or(|r| r == letter.reason)
            && (self.since..=self.until).contains(&letter.dead_at)
            && self.state.is_none_or(|s| s == DeliveryState::Dead)
    }
}

pub(super) fn destination(name: Option<&str>, admin: &Admin) -> Result<Option<DestinationId>, Failure> {
    let Some(name) = name else { return Ok(None) };
    let known = admin.store.destination_of(name);
    known.map(Some).ok_or_else(|| Failure::bad(format!("no destination is called `{name}`")))
}

fn moment(text: Option<&str>, name: &str) -> Result<Option<Timestamp>, Failure> {
    let Some(text) = text else { return Ok(None) };
    let at = humantime::parse_rfc3339_weak(text.trim_end_matches('Z'));
    let at = at.or_else(|_| humantime::parse_rfc3339(text));
    at.map(|at| Some(Timestamp::from_system(at)))
        .map_err(|_| Failure::bad(format!("{name} is not a time; write it as 2026-03-19T22:04:48Z")))
}
