//! Liveness and readiness for process monitoring; no token needed.

use super::Shared;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use std::sync::atomic::Ordering;
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Liveness {
    status: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Ready {
    ready: bool,
    /// Why events would not be accepted.
    reasons: Vec<&'static str>,
}

/// Whether the process answers; no token needed
#[utoipa::path(get, path = "/healthz", tag = "health", security(()), responses((status = 200, body = Liveness)))]
pub(super) async fn heartbeat() -> Json<Liveness> {
    Json(Liveness { status: "ok" })
}

/// 503 with reasons as long as events would not be accepted; no token needed
#[utoipa::path(get, path = "/readyz", tag = "health", security(()), responses((status = 200, body = Ready), (status = 503, body = Ready)))]
pub(super) async fn ready(State(admin): Shared) -> (StatusCode, Json<Ready>) {
    let mut reasons = Vec::new();
    if !admin.ready.load(Ordering::Relaxed) {
        reasons.push("starting");
    }
    reasons.extend(admin.admission.state().code());
    if admin.store.failure().borrow().is_some() {
        reasons.push("store_failed");
    }
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Ready { ready: reasons.is_empty(), reasons }))
}
