//! `/v1/dlq/redrive`: queues dead letters again, at once or with a rate or a canary; and the progress of redrives.

use super::access::Caller;
use super::filter::{self, Query};
use super::object::Object;
use super::selection::{self, DeadLetterId, Selection, only_true};
use super::{Admin, Failure, Name, Shared};
use crate::api::{self, Page, RedriveAnswer, RedriveState};
use crate::config::rate_of;
use crate::delivery::DeliveryId;
use crate::event::{DestinationId, Sequence};
use crate::rules::rate::Rate;
use crate::store::{Change, DlqAction, Redrive, RedriveEnded};
use axum::Json;
use axum::extract::{State, rejection::JsonRejection};
use serde::Deserialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// What to redrive, as the document of the API tells it: by ids or by a filter.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it is only described; `Wish` is what is read")]
pub(super) enum Redriven {
    Ids(RedriveIds),
    Filter(RedriveFilter),
    All(RedriveAll),
}

/// These dead letters.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "it is only described")]
pub(super) struct RedriveIds {
    ids: Vec<DeadLetterId>,
    /// Of each event only its dead letter for this destination.
    destination: Option<String>,
    /// Only those that had died by then: the `as_of` of a dry run.
    as_of: Option<String>,
    #[schema(nullable = false)]
    dry_run: Option<bool>,
    /// At most so many in a second, minute or hour, as `50/s`.
    #[schema(pattern = "^[1-9][0-9]{0,5}/(s|m|h|d)$")]
    rate: Option<String>,
    /// One, then ten, then the rest, as long as the share that fails stays below the destination's
    /// `breaker.failure_ratio`.
    #[schema(nullable = false)]
    canary: Option<bool>,
}

/// All dead letters that the filter fits; one that excludes nothing is refused.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "it is only described")]
pub(super) struct RedriveFilter {
    filter: Query,
    /// Only those that had died by then: the `as_of` of a dry run.
    as_of: Option<String>,
    #[schema(nullable = false)]
    dry_run: Option<bool>,
    /// At most so many in a second, minute or hour, as `50/s`.
    #[schema(pattern = "^[1-9][0-9]{0,5}/(s|m|h|d)$")]
    rate: Option<String>,
    /// One, then ten, then the rest, as long as the share that fails stays below the destination's
    /// `breaker.failure_ratio`.
    #[schema(nullable = false)]
    canary: Option<bool>,
}

/// All dead letters.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "it is only described")]
pub(super) struct RedriveAll {
    #[schema(schema_with = only_true)]
    all: bool,
    /// Only those that had died by then: the `as_of` of a dry run.
    as_of: Option<String>,
    #[schema(nullable = false)]
    dry_run: Option<bool>,
    /// At most so many in a second, minute or hour, as `50/s`.
    #[schema(pattern = "^[1-9][0-9]{0,5}/(s|m|h|d)$")]
    rate: Option<String>,
    /// One, then ten, then the rest, as long as the share that fails stays below the destination's
    /// `breaker.failure_ratio`.
    #[schema(nullable = false)]
    canary: Option<bool>,
}

/// A redrive as the request contains it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RedriveRequest {
    ids: Option<Vec<String>>,
    destination: Option<String>,
    filter: Option<Object<Query>>,
    #[serde(default)]
    all: bool,
    as_of: Option<String>,
    #[serde(default)]
    dry_run: bool,
    rate: Option<String>,
    #[serde(default)]
    canary: bool,
}

fn shown(destination: String, redrive: &Redrive) -> api::Redrive {
    let (state, failing) = match redrive.end.as_ref().map(|end| &end.why) {
        None => (RedriveState::GoesOn, None),
        Some(RedriveEnded::Complete) => (RedriveState::Complete, None),
        Some(RedriveEnded::Failing { failed, of }) => (RedriveState::Failing, Some((*failed, *of))),
        Some(RedriveEnded::Stopped { .. }) => (RedriveState::Stopped, None),
    };
    let results = redrive.fared.clone();
    let stopped_by = results.stopped_by.map(|by| api::StoppedBy {
        event: by.event,
        destination: destination.clone(),
        outcome: by.outcome,
        status: by.status,
        error: by.error,
    });
    api::Redrive {
        destination,
        state,
        by: redrive.who.clone(),
        begun_at: redrive.begun.into(),
        rate: redrive.rate().map(|rate| rate.to_string()),
        canary: redrive.canary,
        matched: redrive.matched,
        taken: redrive.taken,
        done: redrive.done,
        ended_at: redrive.end.as_ref().map(|end| end.at.into()),
        failed: failing.map(|(failed, _)| failed),
        judged: failing.map(|(_, of)| of),
        delivered: results.delivered,
        dead_again: results.dead_again,
        gone: results.gone,
        under_way: redrive.under_way(),
        stopped_by,
    }
}

/// Sends dead letters again; they go ahead of later events of their interaction
#[utoipa::path(post, path = "/v1/dlq/redrive", tag = "dead letters", request_body = Redriven, responses((status = 200, body = RedriveAnswer), Failure))]
pub(super) async fn redrive(
    State(admin): Shared,
    caller: Caller,
    requested: Result<Json<Object<RedriveRequest>>, JsonRejection>,
) -> Result<Json<RedriveAnswer>, Failure> {
    let Json(Object(requested)) = requested.map_err(|e| Failure::bad(e.body_text()))?;
    let rate = requested.rate.as_deref().map(rate_of).transpose();
    let rate = rate.map_err(|why| Failure::bad(format!("`rate`: {why}")))?;
    let (dry_run, canary) = (requested.dry_run, requested.canary);
    let RedriveRequest { ids, destination, filter, all, as_of, .. } = requested;
    let selection = Selection { ids, destination, filter, all, as_of, dry_run };
    let mut selected = selection::select(&admin, selection).await?;
    // no delivery is made to a destination that is not configured
    selected.ids.retain(|id| admin.destinations.has(id.destination));
    let (mut done, mut redrives) = (0, Vec::new());
    if dry_run {
        // nothing changes: the response has the counts
    } else if rate.is_some() || canary {
        redrives = begin(&admin, &caller, selected.ids.clone(), rate, canary).await?;
    } else {
        done = selection::change(&admin, DlqAction::Redrive, caller, &selected.ids).await?;
    }
    Ok(Json(RedriveAnswer { changed: selected.changed(&admin, done, dry_run), redrives }))
}

/// Begins one redrive per destination, so that a failing destination ends only its own.
async fn begin(
    admin: &Admin,
    caller: &Caller,
    ids: Vec<DeliveryId>,
    rate: Option<Rate>,
    canary: bool,
) -> Result<Vec<api::Redrive>, Failure> {
    let mut lists: BTreeMap<DestinationId, Vec<Sequence>> = BTreeMap::new();
    ids.into_iter().for_each(|id| lists.entry(id.destination).or_default().push(id.sequence));
    if let Some(d) = lists.keys().find(|d| admin.store.redrive(**d).is_some_and(|redrive| redrive.goes_on())) {
        return Err(goes_on(&admin.destination_name(*d)));
    }
    let mut begun = Vec::new();
    for (destination, list) in lists {
        let name = admin.destination_name(destination);
        let redrive = Redrive::new(caller.name.clone(), admin.clock.now(), rate, canary, list.len());
        let item = shown(name.clone(), &redrive);
        let how = [rate.map(|rate| format!("at most {rate}")), canary.then(|| "1, then 10, then the rest".to_owned())];
        let what =
            format!("dlq redrive for {name} begins: {}", how.into_iter().flatten().collect::<Vec<_>>().join(", "));
        let change = Change::RedriveBegin { what, destination, redrive: Box::new(redrive), list };
        if admin.store.change(change, caller.name.clone()).await? == 0 {
            return Err(goes_on(&name));
        }
        begun.push(item);
    }
    Ok(begun)
}

fn goes_on(name: &str) -> Failure {
    Failure::conflict(format!(
        "a redrive of {name} goes on already; wait for its end, or cancel it (`holdline dlq redrive --cancel {name}`)"
    ))
}

/// The newest redrive with a rate or a canary of each destination, and how far it has come
#[utoipa::path(get, path = "/v1/dlq/redrives", tag = "dead letters", responses((status = 200, body = Page<api::Redrive>), Failure))]
pub(super) async fn list(State(admin): Shared) -> Result<Json<Page<api::Redrive>>, Failure> {
    let all = admin.store.redrives();
    let items = all.iter().map(|(d, redrive)| shown(admin.destination_name(*d), redrive));
    Ok(Json(Page::whole(items.collect())))
}

/// Stops the redrive of a destination; what it had not come to stays dead
#[utoipa::path(post, path = "/v1/dlq/redrives/{name}/stop", tag = "dead letters", params(("name" = String, Path)), responses((status = 200, body = api::Redrive), Failure))]
pub(super) async fn stop(
    State(admin): Shared,
    caller: Caller,
    Name(name): Name,
) -> Result<Json<api::Redrive>, Failure> {
    let d = filter::destination(Some(&name), &admin)?;
    let d = d.ok_or_else(|| Failure::not_found("there is no such destination"))?;
    let why = RedriveEnded::Stopped { who: caller.name.clone() };
    if admin.store.change(Change::RedriveEnd { destination: d, why }, caller.name).await? == 0 {
        return Err(Failure::conflict(format!("no redrive of {name} goes on")));
    }
    let ended = admin.store.redrive(d).ok_or_else(|| Failure::unavailable("it was there a moment ago"))?;
    Ok(Json(shown(name, &ended)))
}
