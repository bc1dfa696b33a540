//! Liveness and readiness, for whoever watches the process; no token needed.

use super::Shared;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;

pub(super) async fn alive() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// 503 with reasons as long as events would not be accepted.
pub(super) async fn ready(State(admin): Shared) -> (StatusCode, Json<Value>) {
    let mut reasons = Vec::new();
    if !admin.ready.load(Ordering::Relaxed) {
        reasons.push("starting");
    }
    reasons.extend(admin.admission.state().code());
    if admin.store.failure().borrow().is_some() {
        reasons.push("store_failed");
    }
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({"ready": reasons.is_empty(), "reasons": reasons})))
}
