//! Changes to one event: retry it now, or discard it.

use super::access::Caller;
use super::event_lookup::Location;
use super::events::find;
use super::filter;
use super::{Admin, Failure, Name, Shared, audit_log, pace};
use crate::api::Changed;
use crate::delivery::{DeliveryId, Place};
use crate::dispatch::Question;
use crate::event::{DestinationId, Digest64};
use crate::scheduler::DeliveryStatus;
use crate::store::{Change, DlqAction};
use axum::Json;
use axum::extract::{Query as QueryOf, State, rejection::QueryRejection};
use serde::Deserialize;
use std::collections::BTreeMap;
use utoipa::IntoParams;

/// Which of an event's deliveries are meant.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct Deliveries {
    /// Only for this destination.
    destination: Option<String>,
    /// Only say how many it would be.
    dry_run: bool,
    /// Why; it stands in the audit.
    #[param(max_length = 500)]
    reason: String,
}

/// The unfinished deliveries of an event, by the action that applies to them.
struct Open {
    id: String,
    order_key: Digest64,
    waiting: Vec<(DeliveryId, Place, DeliveryStatus)>,
    dead: Vec<DeliveryId>,
}

impl Open {
    async fn find(
        admin: &Admin,
        id: &str,
        query: Result<QueryOf<Deliveries>, QueryRejection>,
    ) -> Result<(Self, Deliveries), Failure> {
        let QueryOf(query) = query.map_err(|e| Failure::bad(e.body_text()))?;
        audit_log::sound_reason(&query.reason)?;
        let only = filter::destination(query.destination.as_deref(), admin)?;
        let known = find(admin, id).await?;
        let delivery = |d: &DestinationId| DeliveryId { sequence: known.sequence, destination: *d };
        let (mut places, mut dead) = (Vec::new(), Vec::new());
        for (d, location) in known.places.iter().filter(|(d, _)| only.is_none_or(|only| only == **d)) {
            match location {
                Location::Waiting => places.push((delivery(d), Place::Page)),
                Location::Delayed { due, .. } => places.push((delivery(d), Place::under(*due))),
                Location::Dead(_) => dead.push(delivery(d)),
                Location::Gone => {}
            }
        }
        let asked = places.iter().map(|(id, _)| (id.destination, known.order_key, id.sequence)).collect();
        let delivery_statuses = admin.ask(|to| Question::Deliveries(asked, to)).await?;
        let waiting = places
            .into_iter()
            .zip(delivery_statuses)
            .map(|((id, place), delivery_status)| (id, place, delivery_status))
            .collect();
        Ok((Self { id: known.id.to_string(), order_key: known.order_key, waiting, dead }, query))
    }

    fn under_way(&self) -> bool {
        self.waiting.iter().any(|(.., delivery_status)| matches!(delivery_status, DeliveryStatus::InFlight { .. }))
    }
}

/// Has an event tried again now: what waits for its time need not, what is dead is redriven
#[utoipa::path(post, path = "/v1/events/{id}/retry", tag = "events", params(Name, Deliveries), responses((status = 200, body = Changed), Failure))]
pub(super) async fn retry(
    State(admin): Shared,
    caller: Caller,
    Name(id): Name,
    query: Result<QueryOf<Deliveries>, QueryRejection>,
) -> Result<Json<Changed>, Failure> {
    let (open, query) = Open::find(&admin, &id, query).await?;
    let delayed: Vec<(DeliveryId, Digest64)> = open
        .waiting
        .iter()
        .filter(|(.., delivery_status)| delivery_status.retry_at().is_some())
        .map(|(id, ..)| (*id, open.order_key))
        .collect();
    let dead: Vec<DeliveryId> = open.dead.iter().copied().filter(|id| admin.destinations.has(id.destination)).collect();
    if delayed.is_empty() && dead.is_empty() {
        return Err(Failure::conflict(
            "nothing of this event waits for a time or is dead; /v1/events/{id} tells where it is",
        ));
    }
    let mut done = 0;
    if !query.dry_run {
        if !delayed.is_empty() {
            let change = Change::RetryNow {
                what: format!("event retry {}{}", open.id, pace::because(&query.reason)),
                deliveries: delayed.clone(),
            };
            done += admin.store.change(change, caller.name.clone()).await?;
        }
        if !dead.is_empty() {
            done += admin.store.dlq(DlqAction::Redrive, dead.clone(), caller.name).await?;
        }
    }
    let of = delayed.iter().map(|(id, _)| id).chain(&dead).map(|id| id.destination);
    Ok(Json(changed(&admin, of, done)))
}

/// Gives an event up: what waits and what is dead is discarded for good
#[utoipa::path(delete, path = "/v1/events/{id}", tag = "events", params(Name, Deliveries), responses((status = 200, body = Changed), Failure))]
pub(super) async fn discard(
    State(admin): Shared,
    caller: Caller,
    Name(id): Name,
    query: Result<QueryOf<Deliveries>, QueryRejection>,
) -> Result<Json<Changed>, Failure> {
    let (open, query) = Open::find(&admin, &id, query).await?;
    let under_way = open.under_way();
    let waiting: Vec<(DeliveryId, Place, Digest64)> = open
        .waiting
        .iter()
        .filter(|(.., delivery_status)| !matches!(delivery_status, DeliveryStatus::InFlight { .. }))
        .map(|(id, place, _)| (*id, *place, open.order_key))
        .collect();
    let of: Vec<DestinationId> = waiting.iter().map(|(id, ..)| id).chain(&open.dead).map(|id| id.destination).collect();
    if of.is_empty() {
        return Err(Failure::conflict(if under_way {
            "it is being delivered at this moment; ask again when that has ended"
        } else {
            "nothing of this event waits or is dead any more"
        }));
    }
    let mut done = 0;
    if !query.dry_run {
        if !waiting.is_empty() {
            let change = Change::Discard {
                what: format!("event discard {}{}", open.id, pace::because(&query.reason)),
                deliveries: waiting,
            };
            done += admin.store.change(change, caller.name.clone()).await?;
        }
        if !open.dead.is_empty() {
            done += admin.store.dlq(DlqAction::Purge, open.dead, caller.name.clone()).await?;
            if !query.reason.is_empty() {
                // the audit entry of a purge names neither event nor reason
                let what = format!("event discard {}{}", open.id, pace::because(&query.reason));
                admin.store.change(Change::Note { what }, caller.name).await?;
            }
        }
    }
    Ok(Json(changed(&admin, of.into_iter(), done)))
}

/// The result of a change of an event's deliveries; an event has at most one per destination.
fn changed(admin: &Admin, of: impl Iterator<Item = DestinationId>, done: usize) -> Changed {
    let destinations: BTreeMap<String, usize> = of.map(|d| (admin.destination_name(d), 1)).collect();
    Changed { matched: destinations.len(), done, destinations, as_of: None }
}
