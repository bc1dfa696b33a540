//! `/v1/dlq/export`: dead letters as NDJSON, streamed in constant memory.

use super::answers::Answers;
use super::filter::{Filter, Query};
use super::{Admin, Failure, Shared, dlq};
use crate::api;
use crate::delivery::DeliveryId;
use crate::store::{Store, StoreError};
use axum::body::Body;
use axum::extract::{Query as QueryOf, State, rejection::QueryRejection};
use axum::http::header;
use axum::response::IntoResponse;
use base64::Engine;
use bytes::Bytes;
use http_body_util::channel::{Channel, Sender};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// Lines that wait to be sent.
const LINES_AHEAD: usize = 2;
/// Dead letter ids that are read in one call.
const FOUND_AHEAD: usize = 500;

/// A line of the export: a dead letter with its body.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Exported {
    #[serde(flatten)]
    dead_letter: api::DeadLetter,
    content_type: String,
    /// The body, where it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    /// The body in base64, where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

/// Dead letters with their bodies, one JSON object a line
#[utoipa::path(get, path = "/v1/dlq/export", tag = "dead letters", params(Query), responses((status = 200, description = "NDJSON; each line is an `Exported`", body = Exported, content_type = "application/x-ndjson"), Failure))]
pub(super) async fn export(
    State(admin): Shared,
    query: Result<QueryOf<Query>, QueryRejection>,
) -> Result<impl IntoResponse, Failure> {
    let QueryOf(query) = query.map_err(|e| Failure::bad(e.body_text()))?;
    let filter = Filter::of(&query, &admin)?;
    let after = query.after.as_deref().map(dlq::cursor_of).transpose()?;
    let (to, body) = Channel::<Bytes, StoreError>::new(LINES_AHEAD);
    tokio::spawn(lines(admin, filter, after, query.limit.unwrap_or(usize::MAX), to));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::new(body)))
}

/// Reads one dead letter after the other as fast as the client takes them; ends when the client disconnects.
async fn lines(
    admin: Arc<Admin>,
    filter: Filter,
    mut after: Option<DeliveryId>,
    mut limit: usize,
    mut to: Sender<Bytes, StoreError>,
) {
    loop {
        let wanted = filter.clone();
        let page = move |store: &Store| {
            let mut found = Vec::new();
            let next = dlq::heads(store, &wanted, after, |head| {
                found.push(head.record.delivery.id);
                found.len() == FOUND_AHEAD
            });
            Ok((found, next?))
        };
        // the stream is incomplete, and the client must notice
        let Ok((found, next)) = admin.read(page).await else { return to.abort(StoreError::Failed) };
        for id in found {
            // one body at a time
            let dead_letter = match admin.read(move |store| dlq::read(store, id)).await {
                Ok(Some(dead_letter)) => dead_letter,
                Ok(None) => continue,
                Err(_) => return to.abort(StoreError::Failed),
            };
            if limit == 0 {
                return;
            }
            limit -= 1;
            let event = &dead_letter.delivery.event;
            let text = std::str::from_utf8(&event.body).ok();
            let exported = Exported {
                dead_letter: dlq::item(&admin, &dead_letter, event.body.len(), Answers::Shown),
                content_type: event.content_type.clone(),
                body: text.map(str::to_owned),
                body_base64: text.is_none().then(|| base64::engine::general_purpose::STANDARD.encode(&event.body)),
            };
            let mut line = serde_json::to_vec(&exported).expect("a letter holds only what JSON can");
            line.push(b'\n');
            if to.send_data(line.into()).await.is_err() {
                return;
            }
        }
        match next {
            Some(next) => after = Some(next),
            None => return,
        }
    }
}
