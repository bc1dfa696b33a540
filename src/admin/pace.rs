//! Operator overrides of a destination: pause, resume, breaker.

use super::access::Caller;
use super::audit_log;
use super::object::Object;
use super::{Admin, Failure, Name, Shared, filter};
use crate::api::{Decided, Time};
use crate::event::DestinationId;
use crate::store::{BreakerOverride, Change, Pause, Position};
use crate::time::Timestamp;
use axum::Json;
use axum::extract::{State, rejection::JsonRejection};
use serde::Deserialize;
use utoipa::ToSchema;

/// Why nothing is delivered, and for how long.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = PauseOf)]
pub(super) struct PauseFor {
    #[schema(max_length = 500)]
    reason: String,
    /// A duration as `30m`; without it, until it is resumed by hand.
    #[serde(rename = "for")]
    #[schema(value_type = Option<String>, pattern = "^[1-9][0-9]{0,3}(s|m|h)$")]
    within: Option<String>,
}

/// The requested state of the breaker.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Wanted {
    /// Nothing is sent until `for` is over, or until it is set again.
    Open,
    /// Closes now, and stays closed until `for` is over even if requests fail.
    Closed,
    /// A few probe requests decide.
    HalfOpen,
}

/// How a breaker is to stand, as the document of the API tells it: for a time, or until its probes have ended.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it is only described; `SetBreaker` is what is read")]
pub(super) enum Stand {
    Forced(Forced),
    Probed(Probed),
}

/// Open or closed by hand.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "it is only described")]
pub(super) struct Forced {
    state: ForcedState,
    #[schema(max_length = 500, nullable = false)]
    reason: Option<String>,
    /// A duration as `30m`. Closed without it: now, and left to itself from then on.
    #[serde(rename = "for")]
    #[schema(pattern = "^[1-9][0-9]{0,3}(s|m|h)$")]
    within: Option<String>,
}

#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "it is only described")]
enum ForcedState {
    /// Nothing passes until `for` is over, or until it is set again.
    Open,
    /// Closed now; and it stays closed for as long as `for` says, whatever the calls say.
    Closed,
}

/// A few requests are let through, which decide.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "it is only described")]
pub(super) struct Probed {
    state: ProbedState,
    #[schema(max_length = 500, nullable = false)]
    reason: Option<String>,
}

#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "it is only described")]
enum ProbedState {
    HalfOpen,
}

/// A request to set the breaker.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SetBreaker {
    state: Wanted,
    #[serde(default)]
    reason: String,
    #[serde(rename = "for", default)]
    within: Option<String>,
}

/// Delivers nothing to a destination, until it is resumed or `for` is over
#[utoipa::path(post, path = "/v1/destinations/{name}/pause", tag = "destinations", params(("name" = String, Path)), request_body = PauseFor, responses((status = 200, body = Decided), Failure))]
pub(super) async fn pause(
    State(admin): Shared,
    caller: Caller,
    Name(name): Name,
    body: Result<Json<Object<PauseFor>>, JsonRejection>,
) -> Result<Json<Decided>, Failure> {
    let Json(Object(requested)) = body.map_err(|e| Failure::bad(e.body_text()))?;
    let destination = known(&admin, &name)?;
    let since = admin.clock.now();
    let until = audit_log::until(since, &requested.reason, requested.within.as_deref())?;
    let what = format!("pause {name}{}", because(&requested.reason));
    let pause = Pause { who: caller.name.clone(), reason: requested.reason, since, until };
    admin.store.change(Change::Pause { what, destination, pause: Some(pause) }, caller.name).await?;
    admin.in_force().await;
    Ok(decided(name, until))
}

/// Delivers to a paused destination again, little by little
#[utoipa::path(post, path = "/v1/destinations/{name}/resume", tag = "destinations", params(("name" = String, Path)), responses((status = 200, body = Decided), Failure))]
pub(super) async fn resume(State(admin): Shared, caller: Caller, Name(name): Name) -> Result<Json<Decided>, Failure> {
    let destination = known(&admin, &name)?;
    let change = Change::Pause { what: format!("resume {name}"), destination, pause: None };
    admin.store.change(change, caller.name).await?;
    admin.in_force().await;
    Ok(decided(name, Timestamp::NEVER))
}

/// Opens the breaker of a destination, closes it, or lets it find out
#[utoipa::path(post, path = "/v1/destinations/{name}/breaker", tag = "destinations", params(("name" = String, Path)), request_body = Stand, responses((status = 200, body = Decided), Failure))]
pub(super) async fn breaker(
    State(admin): Shared,
    caller: Caller,
    Name(name): Name,
    body: Result<Json<Object<SetBreaker>>, JsonRejection>,
) -> Result<Json<Decided>, Failure> {
    let Json(Object(requested)) = body.map_err(|e| Failure::bad(e.body_text()))?;
    let destination = known(&admin, &name)?;
    let since = admin.clock.now();
    let asked = audit_log::until(since, &requested.reason, requested.within.as_deref())?;
    let (position, until) = match (requested.state, &requested.within) {
        (Wanted::Open, _) => (Position::Open, asked),
        (Wanted::Closed, Some(_)) => (Position::Closed, asked),
        // closed once, automatic from then on
        (Wanted::Closed, None) => (Position::Closed, since),
        (Wanted::HalfOpen, None) => (Position::Open, since),
        (Wanted::HalfOpen, Some(_)) => {
            return Err(Failure::bad("half_open lasts until its probes have ended, and takes no `for`"));
        }
    };
    let what = format!("breaker {name} {}{}", word(requested.state), because(&requested.reason));
    let fixed = BreakerOverride { position, who: Some(caller.name.clone()), reason: requested.reason, since, until };
    admin.store.change(Change::Breaker { what, destination, fixed: Some(fixed) }, caller.name).await?;
    admin.in_force().await;
    Ok(decided(name, until))
}

fn known(admin: &Admin, name: &str) -> Result<DestinationId, Failure> {
    let found = filter::destination(Some(name), admin)?.filter(|d| admin.destinations.has(*d));
    found.ok_or_else(|| Failure::conflict("this destination is not configured any more; nothing is delivered to it"))
}

pub(super) fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}

fn word(state: Wanted) -> &'static str {
    match state {
        Wanted::Open => "open",
        Wanted::Closed => "closed",
        Wanted::HalfOpen => "half_open",
    }
}

fn decided(destination: String, until: Timestamp) -> Json<Decided> {
    Json(Decided { destination, until: Time::unless_never(until) })
}
