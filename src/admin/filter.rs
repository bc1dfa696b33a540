//! Filters of the lists: the same parameters for events and dead letters.

use super::{Admin, Failure};
use crate::api::DeliveryState;
use crate::delivery::{DeadLetter, Reason};
use crate::event::{DestinationId, Digest64, bounded};
use crate::time::Timestamp;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

/// Default and largest number of items in a page.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 1000;

/// As written in a query or a request's `filter`. An unknown word is an error, lest a typo widen a purge.
#[derive(Clone, Debug, Default, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct Query {
    /// Only with a delivery in this state.
    state: Option<DeliveryState>,
    /// Only for the destination of this name.
    destination: Option<String>,
    /// Only through the source of this name.
    source: Option<String>,
    /// Only of this event type.
    #[serde(rename = "type")]
    #[param(rename = "type")]
    kind: Option<String>,
    /// Only of the interaction with this key.
    interaction: Option<String>,
    /// Dead letters only: why they died.
    #[param(value_type = Option<ReasonWord>)]
    #[schema(value_type = Option<ReasonWord>)]
    reason: Option<Reason>,
    /// Not before this time (RFC 3339): accepted, or for dead letters, died.
    #[param(value_type = Option<String>, pattern = r"^20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]{3})?Z$")]
    #[schema(
        pattern = r"^20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]{3})?Z$"
    )]
    since: Option<String>,
    /// Not after this time.
    #[param(value_type = Option<String>, pattern = r"^20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]{3})?Z$")]
    #[schema(
        pattern = r"^20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]{3})?Z$"
    )]
    until: Option<String>,
    /// The `next` of an earlier answer.
    #[param(value_type = Option<String>, pattern = "^[0-9]{1,15}(-[0-9]{1,2})?$")]
    #[schema(ignore)]
    pub(super) after: Option<String>,
    /// Items of a page.
    #[param(minimum = 1, maximum = 1000)]
    #[schema(ignore)]
    pub(super) limit: Option<usize>,
}

/// The reasons as the document of the API lists them.
#[derive(ToSchema)]
#[schema(as = Reason, rename_all = "snake_case")]
#[expect(dead_code, reason = "it is only described")]
pub(super) enum ReasonWord {
    Exhausted,
    Permanent,
    Expired,
    Stale,
    Ambiguous,
    Manual,
}

/// The same for events, which have no reason.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct EventQuery {
    /// Only with a delivery in this state.
    state: Option<DeliveryState>,
    /// Only for the destination of this name.
    destination: Option<String>,
    /// Only through the source of this name.
    source: Option<String>,
    /// Only of this event type.
    #[serde(rename = "type")]
    #[param(rename = "type")]
    kind: Option<String>,
    /// Only of the interaction with this key.
    interaction: Option<String>,
    /// Not accepted before this time (RFC 3339).
    #[param(value_type = Option<String>, pattern = r"^20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]{3})?Z$")]
    since: Option<String>,
    /// Not accepted after this time.
    #[param(value_type = Option<String>, pattern = r"^20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]{3})?Z$")]
    until: Option<String>,
    /// The `next` of an earlier answer.
    #[param(value_type = Option<String>, pattern = "^[0-9]{1,15}(-[0-9]{1,2})?$")]
    after: Option<String>,
    /// Items of a page.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

impl From<EventQuery> for Query {
    fn from(q: EventQuery) -> Self {
        let EventQuery { state, destination, source, kind, interaction, since, until, after, limit } = q;
        Self { state, destination, source, kind, interaction, reason: None, since, until, after, limit }
    }
}

impl Query {
    /// Whether the request asks for a page rather than for everything that fits.
    pub(super) fn pages(&self) -> bool {
        self.after.is_some() || self.limit.is_some()
    }

    /// Whether every dead letter fits; `state=dead` excludes none.
    pub(super) fn excludes_nothing(&self) -> bool {
        let Self { state, destination, source, kind, interaction, reason, since, until, after: _, limit: _ } = self;
        let texts = [destination, source, kind, interaction, since, until];
        texts.into_iter().all(Option::is_none) && reason.is_none() && state.is_none_or(|s| s == DeliveryState::Dead)
    }
}

/// Which of an event's dead letters is meant.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct Which {
    /// The destination, where the event is dead for several.
    destination: Option<String>,
}

impl Which {
    pub fn destination(&self, admin: &Admin) -> Result<Option<DestinationId>, Failure> {
        destination(self.destination.as_deref(), admin)
    }
}

/// A checked filter.
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
            state: query.state,
            destination: destination(query.destination.as_deref(), admin)?,
            source: query.source.clone(),
            kind: query.kind.clone(),
            interaction: query.interaction.clone().map(|key| Digest64::of_interaction(&bounded(key))),
            reason: query.reason,
            since: moment(query.since.as_deref(), "since")?.unwrap_or(Timestamp::ZERO),
            until: moment(query.until.as_deref(), "until")?.unwrap_or(Timestamp::NEVER),
            limit: limit(query.limit)?,
        })
    }

    /// Whether a dead letter fits; `since` and `until` apply to the time at which it became dead.
    pub fn fits(&self, dead_letter: &DeadLetter) -> bool {
        let event = &dead_letter.delivery.event;
        self.destination.is_none_or(|d| d == dead_letter.delivery.id.destination)
            && self.source.as_ref().is_none_or(|s| *s == event.source)
            && self.kind.as_ref().is_none_or(|k| *k == event.kind)
            && self.interaction.is_none_or(|i| i == event.interaction_hash())
            && self.reason.is_none_or(|r| r == dead_letter.reason)
            && (self.since..=self.until).contains(&dead_letter.dead_at)
            && self.state.is_none_or(|s| s == DeliveryState::Dead)
    }
}

pub(super) fn destination(name: Option<&str>, admin: &Admin) -> Result<Option<DestinationId>, Failure> {
    let Some(name) = name else { return Ok(None) };
    let known = admin.store.destination_of(name);
    known.map(Some).ok_or_else(|| Failure::not_found(format!("no destination is called `{name}`")))
}

/// The number of items in a page.
pub(super) fn limit(given: Option<usize>) -> Result<usize, Failure> {
    match given {
        None => Ok(LIMIT),
        Some(n @ 1..=LIMIT_MAX) => Ok(n),
        Some(_) => Err(Failure::bad("`limit` is a number from 1 to 1000")),
    }
}

pub(super) fn moment(text: Option<&str>, name: &str) -> Result<Option<Timestamp>, Failure> {
    let Some(text) = text else { return Ok(None) };
    let at = humantime::parse_rfc3339_weak(text.trim_end_matches('Z'));
    let at = at.or_else(|_| humantime::parse_rfc3339(text));
    at.map(|at| Some(Timestamp::from_system(at)))
        .map_err(|_| Failure::bad(format!("{name} is not a time; write it as 2026-03-19T22:04:48Z")))
}
