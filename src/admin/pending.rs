//! `/v1/destinations/{name}/pending`: the waiting deliveries of a destination, for batch processing elsewhere during its
//! downtime.

use super::{Admin, Failure, Name, Shared, filter};
use crate::api::Time;
use crate::delivery::{Delivery, DeliveryId, Place};
use crate::event::{DestinationId, EventId, Sequence};
use crate::store::{Store, StoreError};
use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use base64::Engine;
use bytes::Bytes;
use http_body_util::channel::{Channel, Sender};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa::ToSchema;

/// Lines that wait to be sent.
const LINES_AHEAD: usize = 2;
/// Deliveries of the delay tree that are read in one call; more than there are destinations.
const DELAYED_AHEAD: usize = 4096;

/// A line: a delivery that waits, with its body.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Pending {
    #[schema(value_type = String, format = Uuid)]
    id: EventId,
    #[schema(value_type = u64)]
    sequence: Sequence,
    source: String,
    #[serde(rename = "type")]
    kind: String,
    interaction: Option<String>,
    sender_id: Option<String>,
    event_time: Option<Time>,
    received_at: Time,
    /// Made so far.
    attempts: usize,
    content_type: String,
    /// The body, where it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    /// The body in base64, where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

/// What waits for a destination, with bodies, in order of acceptance, one JSON object a line
#[utoipa::path(get, path = "/v1/destinations/{name}/pending", tag = "destinations", params(("name" = String, Path)), responses((status = 200, description = "NDJSON; each line is a `Pending`", body = Pending, content_type = "application/x-ndjson"), Failure))]
pub(super) async fn pending(State(admin): Shared, Name(name): Name) -> Result<impl IntoResponse, Failure> {
    let d = destination(&admin, &name)?;
    admin.has_started().await?;
    let (to, body) = Channel::<Bytes, StoreError>::new(LINES_AHEAD);
    tokio::spawn(lines(admin, d, to));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::new(body)))
}

pub(super) fn destination(admin: &Admin, name: &str) -> Result<DestinationId, Failure> {
    filter::destination(Some(name), admin)?.ok_or_else(|| Failure::not_found("there is no such destination"))
}

/// Reads one delivery after the other as fast as the client takes them; leaves out deliveries that end meanwhile.
async fn lines(admin: Arc<Admin>, d: DestinationId, mut to: Sender<Bytes, StoreError>) {
    let mut from = Sequence::default();
    loop {
        // the stream is incomplete, and the client must notice
        let Ok((places, next)) = admin.read(move |store| places(store, d, from)).await else {
            return to.abort(StoreError::Failed);
        };
        for (sequence, place) in places {
            let id = DeliveryId { sequence, destination: d };
            let line = match admin.read(move |store| read(store, id, place)).await {
                Ok(Some(delivery)) => line(&delivery),
                Ok(None) => continue,
                Err(_) => return to.abort(StoreError::Failed),
            };
            if to.send_data(line.into()).await.is_err() {
                return;
            }
        }
        match next {
            Some(next) => from = next,
            None => return,
        }
    }
}

/// Where some waiting deliveries from `from` on are stored, in order, and where to continue.
pub(super) fn places(
    store: &Store,
    d: DestinationId,
    from: Sequence,
) -> Result<(BTreeMap<Sequence, Place>, Option<Sequence>), StoreError> {
    let in_pages = from.max(store.floor());
    let (tickets, behind) = store.waiting(d, in_pages)?;
    let end = if behind == in_pages { Sequence(u64::MAX) } else { behind };
    let delayed = store.delayed_between(from, end, DELAYED_AHEAD);
    // if there are more, deliveries in pages after the last delayed one are left to the next call
    let full = delayed.len() == DELAYED_AHEAD;
    let next = if full { delayed.last().map_or(end, |(id, _)| id.sequence) } else { end };
    let of_d = delayed.into_iter().filter(|(id, _)| id.destination == d && id.sequence < next);
    let mut places: BTreeMap<Sequence, Place> = of_d.map(|(id, due)| (id.sequence, Place::under(due))).collect();
    places.extend(tickets.iter().filter(|t| t.sequence < next).map(|ticket| (ticket.sequence, ticket.place)));
    Ok((places, (next < Sequence(u64::MAX)).then_some(next)))
}

pub(super) fn read(store: &Store, id: DeliveryId, place: Place) -> Result<Option<Delivery>, StoreError> {
    match store.delivery(id, place) {
        Err(StoreError::Damaged(_)) => Ok(None),
        delivery => delivery.map(Some),
    }
}

fn line(delivery: &Delivery) -> Vec<u8> {
    let event = &delivery.event;
    let text = std::str::from_utf8(&event.body).ok();
    let pending = Pending {
        id: event.id(delivery.id.sequence),
        sequence: delivery.id.sequence,
        source: event.source.clone(),
        kind: event.kind.clone(),
        interaction: event.interaction.clone(),
        sender_id: event.sender_id.clone(),
        event_time: event.time.map(Time),
        received_at: event.received_at.into(),
        attempts: delivery.attempts.len(),
        content_type: event.content_type.clone(),
        body: text.map(str::to_owned),
        body_base64: text.is_none().then(|| base64::engine::general_purpose::STANDARD.encode(&event.body)),
    };
    let mut line = serde_json::to_vec(&pending).expect("it holds only what JSON can");
    line.push(b'\n');
    line
}
