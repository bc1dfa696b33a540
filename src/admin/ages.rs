//! `/v1/ages`: what waits, by destination and age, as Postfix's qshape shows a queue.

use super::answers::Page;
use super::{Failure, Shared};
use crate::time::Timestamp;
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use std::time::Duration;
use utoipa::ToSchema;

/// Upper bounds of ages in seconds; what is older is counted behind the last.
const BOUNDS_S: [u64; 7] = [10, 60, 300, 900, 3600, 14_400, 86_400];

/// How old what waits for a destination is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AgesItem {
    destination: String,
    ages: Vec<AgeCount>,
}

/// Deliveries younger than so many seconds, and older than the bound before.
#[derive(Debug, Serialize, ToSchema)]
struct AgeCount {
    /// Null where there is no bound.
    below_s: Option<u64>,
    count: u64,
}

/// What waits, by destination and age
#[utoipa::path(get, path = "/v1/ages", tag = "destinations", responses((status = 200, body = Page<AgesItem>), Failure))]
pub(super) async fn ages(State(admin): Shared) -> Result<Json<Page<AgesItem>>, Failure> {
    admin.has_started().await?;
    let now = admin.clock.now();
    let since: Vec<Timestamp> = BOUNDS_S.iter().map(|s| now.before(Duration::from_secs(*s))).collect();
    let found = admin.read(move |store| store.ages(&since)).await?;
    let bounds = || BOUNDS_S.iter().copied().map(Some).chain([None]);
    let item = |(d, counts): (crate::event::DestinationId, Vec<u64>)| AgesItem {
        destination: admin.destination_name(d),
        ages: bounds().zip(counts).map(|(below_s, count)| AgeCount { below_s, count }).collect(),
    };
    Ok(Json(Page::whole(found.into_iter().map(item).collect())))
}
