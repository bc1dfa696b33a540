//! `/v1/backup`: a consistent copy of the store, streamed while the daemon runs.

use super::access::Caller;
use super::{Failure, Shared};
use crate::store::{Change, Repeated, StoreError};
use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use bytes::Bytes;
use http_body_util::channel::Channel;
use tokio::sync::mpsc;

/// Chunks that wait to be sent.
const PIECES_AHEAD: usize = 16;

/// Everything that the store holds, in the format that `holdline restore` reads
#[utoipa::path(get, path = "/v1/backup", tag = "notes", responses((status = 200, description = "A backup; whole only with its end", content_type = "application/octet-stream"), Failure))]
pub(super) async fn backup(State(admin): Shared, caller: Caller) -> Result<impl IntoResponse, Failure> {
    let backup = Repeated::once("backup", None, admin.clock.now());
    admin.store.change(Change::Repeated(backup), caller.name).await?;
    let (pieces_to, mut pieces) = mpsc::channel::<Bytes>(PIECES_AHEAD);
    let store = admin.store.clone();
    let made = tokio::task::spawn_blocking(move || store.backup(|piece| pieces_to.blocking_send(piece).is_ok()));
    let (mut to, body) = Channel::<Bytes, StoreError>::new(1);
    tokio::spawn(async move {
        while let Some(piece) = pieces.recv().await {
            if to.send_data(piece).await.is_err() {
                return;
            }
        }
        // an interrupted stream has no end marker, and `restore` refuses it
        if let Ok(Err(error)) = made.await {
            tracing::error!(%error, "a backup could not be made");
            to.abort(error);
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], Body::new(body)))
}
