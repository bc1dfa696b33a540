//! `/v1/dlq`: lists, shows and purges dead letters.

use super::access::Caller;
use super::answers::{Answers, Entry, PAGE_BYTES, attempts};
use super::filter::{Filter, Query, Which};
use super::object::Object;
use super::selection::{self, Chosen, Selection};
use super::{Admin, Failure, Name, Shared, sequence_of};
use crate::api::{self, Changed, Page};
use crate::delivery::{DeadLetter, DeliveryId};
use crate::event::{DestinationId, Sequence};
use crate::store::{DlqAction, Head, Store, StoreError};
use axum::Json;
use axum::extract::{Query as QueryOf, State, rejection::JsonRejection, rejection::QueryRejection};
use axum::http::header;
use axum::response::IntoResponse;

/// Dead letters that one page examines at most, so that a narrow filter cannot occupy the store.
const EXAMINED_MAX: usize = 5_000;

/// Dead letters, in order of acceptance
#[utoipa::path(get, path = "/v1/dlq", tag = "dead letters", params(Query), responses((status = 200, body = Page<api::DeadLetter>), Failure))]
pub(super) async fn list(
    State(admin): Shared,
    caller: Caller,
    query: Result<QueryOf<Query>, QueryRejection>,
) -> Result<Json<Page<api::DeadLetter>>, Failure> {
    let QueryOf(query) = query.map_err(|e| Failure::bad(e.body_text()))?;
    let filter = Filter::of(&query, &admin)?;
    let after = query.after.as_deref().map(cursor_of).transpose()?;
    let (answers, own) = (Answers::to(&caller), admin.clone());
    let _turn = admin.store.turn().await;
    let (items, next) = admin
        .read(move |store| {
            let began = own.clock.precise();
            let (mut items, mut bytes) = (Vec::new(), 0);
            let next = heads(store, &filter, after, |head| {
                let item = item(&own, &head.record, head.body_bytes, answers).listed();
                bytes += item.json_bytes();
                items.push(item);
                bytes >= PAGE_BYTES || own.has_taken_long(began)
            })?;
            Ok((items, next))
        })
        .await?;
    Ok(Json(Page { items, next: next.map(cursor) }))
}

/// One dead letter with every attempt
#[utoipa::path(get, path = "/v1/dlq/{id}", tag = "dead letters", params(("id" = String, Path, description = "The id of an event.", pattern = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"), Which), responses((status = 200, body = api::DeadLetter), Failure))]
pub(super) async fn show(
    State(admin): Shared,
    caller: Caller,
    Name(id): Name,
    which: Result<QueryOf<Which>, QueryRejection>,
) -> Result<Json<api::DeadLetter>, Failure> {
    let (dead_letter, others) = find(&admin, &id, which).await?;
    let also_dead_for = others.into_iter().map(|d| admin.destination_name(d)).collect();
    Ok(Json(api::DeadLetter {
        also_dead_for: Some(also_dead_for),
        ..item(&admin, &dead_letter, dead_letter.delivery.event.body.len(), Answers::to(&caller))
    }))
}

/// The body of a dead letter, byte for byte
#[utoipa::path(get, path = "/v1/dlq/{id}/body", tag = "dead letters", params(("id" = String, Path, description = "The id of an event.", pattern = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"), Which), responses((status = 200, description = "As it was received, with its Content-Type", content_type = "*/*"), Failure))]
pub(super) async fn body(
    State(admin): Shared,
    Name(id): Name,
    which: Result<QueryOf<Which>, QueryRejection>,
) -> Result<impl IntoResponse, Failure> {
    let (dead_letter, _) = find(&admin, &id, which).await?;
    let event = dead_letter.delivery.event;
    Ok(([(header::CONTENT_TYPE, event.content_type.clone())], event.body.clone()))
}

/// The dead letter of an event for the named destination, else the first one; and the other destinations for which it is
/// dead.
async fn find(
    admin: &Admin,
    id: &str,
    which: Result<QueryOf<Which>, QueryRejection>,
) -> Result<(DeadLetter, Vec<DestinationId>), Failure> {
    let QueryOf(which) = which.map_err(|e| Failure::bad(e.body_text()))?;
    let wanted = which.destination(admin)?;
    let (id, sequence) = sequence_of(id)?;
    let found = admin
        .read(move |store| {
            let dead = dead_for(store, sequence)?;
            let Some(d) = dead.iter().copied().find(|d| wanted.is_none_or(|w| w == *d)) else { return Ok(None) };
            let dead_letter = store.dead_letter(DeliveryId { sequence, destination: d })?;
            Ok(dead_letter.map(|dead_letter| (dead_letter, dead.into_iter().filter(|other| *other != d).collect())))
        })
        .await?;
    found.filter(|(dead_letter, _): &(DeadLetter, Vec<_>)| dead_letter.delivery.event.id(sequence) == id).ok_or_else(
        || Failure::not_found("this event is not in the dead letter queue; see /v1/events/{id} for where it is"),
    )
}

pub(super) fn dead_for(store: &Store, sequence: Sequence) -> Result<Vec<DestinationId>, StoreError> {
    let before = DeliveryId { sequence: Sequence(sequence.0.saturating_sub(1)), destination: DestinationId(u8::MAX) };
    let dead = store.dead_ids(Some(before)).take_while(|id| id.as_ref().map_or(true, |id| id.sequence == sequence));
    dead.map(|id| id.map(|id| id.destination)).collect()
}

/// Passes a page of dead letters without bodies to `show` until `show` returns true; returns where to continue, if anywhere.
pub(super) fn heads(
    store: &Store,
    filter: &Filter,
    after: Option<DeliveryId>,
    mut show: impl FnMut(Head<DeadLetter>) -> bool,
) -> Result<Option<DeliveryId>, StoreError> {
    let (mut shown, mut enough, mut last) = (0, false, None);
    for (n, id) in store.dead_ids(after).enumerate() {
        if n == EXAMINED_MAX || shown == filter.limit || enough {
            return Ok(last);
        }
        let id = id?;
        last = Some(id);
        if let Some(head) = head(store, id)?.filter(|head| filter.fits(&head.record)) {
            shown += 1;
            enough = show(head);
        }
    }
    Ok(None)
}

/// Lists leave out a dead letter that was redriven meanwhile or is damaged.
pub(super) fn read(store: &Store, id: DeliveryId) -> Result<Option<DeadLetter>, StoreError> {
    unless_damaged(id, store.dead_letter(id))
}

/// Like [`read`], without the body of the event.
pub(super) fn head(store: &Store, id: DeliveryId) -> Result<Option<Head<DeadLetter>>, StoreError> {
    unless_damaged(id, store.dead_letter_head(id))
}

fn unless_damaged<T>(id: DeliveryId, read: Result<Option<T>, StoreError>) -> Result<Option<T>, StoreError> {
    match read {
        Err(StoreError::Damaged(why)) => {
            tracing::error!(delivery = %id, %why, "a dead letter does not verify; redrive or purge sets it aside");
            Ok(None)
        }
        dead_letter => dead_letter,
    }
}

/// `size` is the length of the body, which `dead_letter` need not contain.
pub(super) fn item(admin: &Admin, dead_letter: &DeadLetter, size: usize, answers: Answers) -> api::DeadLetter {
    let (delivery, event) = (&dead_letter.delivery, &dead_letter.delivery.event);
    api::DeadLetter {
        id: event.id(delivery.id.sequence),
        sequence: delivery.id.sequence,
        destination: admin.destination_name(delivery.id.destination),
        reason: dead_letter.reason,
        dead_at: dead_letter.dead_at.into(),
        source: event.source.clone(),
        event_type: event.kind.clone(),
        interaction: event.interaction.clone(),
        sender_id: event.sender_id.clone(),
        event_time: event.time.map(api::Time),
        received_at: event.received_at.into(),
        size,
        conflict: event.conflict,
        redriven: delivery.redriven,
        attempts: attempts(delivery, answers),
        also_dead_for: None,
    }
}

/// Discards dead letters for good
#[utoipa::path(post, path = "/v1/dlq/purge", tag = "dead letters", request_body = Chosen, responses((status = 200, body = Changed), Failure))]
pub(super) async fn purge(
    State(admin): Shared,
    caller: Caller,
    selection: Result<Json<Object<Selection>>, JsonRejection>,
) -> Result<Json<Changed>, Failure> {
    let Json(Object(selection)) = selection.map_err(|e| Failure::bad(e.body_text()))?;
    let dry_run = selection.dry_run;
    let selected = selection::select(&admin, selection).await?;
    let done = if dry_run { 0 } else { selection::change(&admin, DlqAction::Purge, caller, &selected.ids).await? };
    Ok(Json(selected.changed(&admin, done, dry_run)))
}

/// The position after a dead letter, as the next page's `after`.
fn cursor(id: DeliveryId) -> String {
    format!("{}-{}", id.sequence, id.destination.0)
}

pub(super) fn cursor_of(text: &str) -> Result<DeliveryId, Failure> {
    let parse = || {
        // without a destination: after all dead letters of the event
        let (sequence, destination) = text.split_once('-').unwrap_or((text, "255"));
        Some(DeliveryId {
            sequence: Sequence(sequence.parse().ok()?),
            destination: DestinationId(destination.parse().ok()?),
        })
    };
    parse().ok_or_else(|| Failure::bad("`after` is the `next` of an earlier answer"))
}
