//! The admin API: what the operator sees and does. JSON over HTTP, each call with a bearer token but the health checks.
//!
//! *Invariants.* A change is answered when it is durable. No secret is shown; a body only where it is asked for by its
//! own path.

mod dlq;
mod events;
mod filter;
mod health;
mod known;
mod metrics;
mod status;

use crate::clock::Clock;
use crate::delivery::{Attempt, Delivery};
use crate::dispatch::{Destination, LineStatus, Question};
use crate::event::{DestinationId, EventId, Sequence};
use crate::intake::Counts;
use crate::intake::admission::Admission;
use crate::store::{Store, StoreError};
use crate::time::Timestamp;
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use subtle::ConstantTimeEq;
use tokio::sync::{mpsc, oneshot};

/// What the handlers work on.
#[derive(Debug)]
pub struct Admin {
    pub store: Store,
    pub clock: Clock,
    pub questions: mpsc::Sender<Question>,
    pub destinations: HashMap<DestinationId, Arc<Destination>>,
    pub admission: Arc<Admission>,
    pub counts: Arc<Counts>,
    pub token: String,
    pub started_at: Timestamp,
    /// Set when everything runs.
    pub ready: Arc<AtomicBool>,
}

type Shared = State<Arc<Admin>>;

/// A failed call, in the one shape of every error.
#[derive(Debug)]
pub struct Failure {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Failure {
    fn bad(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code: "invalid_request", message: message.into() }
    }

    fn not_found(message: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, code: "not_found", message: message.into() }
    }

    fn unavailable(message: impl Into<String>) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, code: "unavailable", message: message.into() }
    }
}

impl From<StoreError> for Failure {
    fn from(e: StoreError) -> Self {
        match e {
            StoreError::Damaged(why) => Self {
                status: StatusCode::INTERNAL_SERVER_ERROR,
                code: "damaged",
                message: format!("a stored record does not verify: {why}"),
            },
            e => Self::unavailable(e.to_string()),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, Json(json!({"error": {"code": self.code, "message": self.message}}))).into_response()
    }
}

/// The part of a path that names something.
#[derive(Debug)]
struct Name(String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(name)| Self(name)).map_err(|e| Failure::bad(e.body_text()))
    }
}

/// The routes of the API.
pub fn router(admin: Arc<Admin>) -> Router {
    let guarded = Router::new()
        .route("/metrics", get(metrics::metrics))
        .route("/v1/status", get(status::status))
        .route("/v1/destinations", get(status::destinations))
        .route("/v1/destinations/{name}", get(status::destination))
        .route("/v1/events/{id}", get(events::show))
        .route("/v1/events/{id}/body", get(events::body))
        .route("/v1/dlq/redrive", post(dlq::redrive))
        .route("/v1/dlq/purge", post(dlq::purge))
        .route_layer(middleware::from_fn(refuse_query))
        .route("/v1/events", get(events::list))
        .route("/v1/dlq", get(dlq::list))
        .route("/v1/dlq/{id}", get(dlq::show))
        .route("/v1/dlq/{id}/body", get(dlq::body))
        .route_layer(middleware::from_fn_with_state(admin.clone(), authorize));
    Router::new()
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .merge(guarded)
        .fallback(|| async { Failure::not_found("there is nothing at this path; the README lists the API") })
        .method_not_allowed_fallback(|| async {
            let message = "this path does not take that method".to_owned();
            Failure { status: StatusCode::METHOD_NOT_ALLOWED, code: "method_not_allowed", message }
        })
        .with_state(admin)
}

async fn authorize(State(admin): Shared, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    let given = given.and_then(|v| v.strip_prefix("Bearer ")).unwrap_or_default();
    if bool::from(given.as_bytes().ct_eq(admin.token.as_bytes())) {
        return next.run(request).await;
    }
    let message =
        "send `Authorization: Bearer TOKEN`; the token is in the data folder, in `admin.token`, if none is configured";
    let failure = Failure { status: StatusCode::UNAUTHORIZED, code: "unauthorized", message: message.to_owned() };
    let mut response = failure.into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// What a path does not know is refused, lest somebody rely on it.
async fn refuse_query(request: Request, next: Next) -> Response {
    match request.uri().query() {
        None | Some("") => next.run(request).await,
        Some(_) => Failure::bad("this path takes nothing behind a `?`").into_response(),
    }
}

impl Admin {
    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Result<T, Failure> {
        let (to, answer) = oneshot::channel();
        let stopping = || Failure::unavailable("the daemon is stopping");
        self.questions.send(question(to)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }

    async fn lines(&self) -> Result<HashMap<DestinationId, LineStatus>, Failure> {
        self.ask(Question::Lines).await
    }

    /// Runs a read of the store where it may block.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Failure> {
        let store = self.store.clone();
        let read = tokio::task::spawn_blocking(move || read(&store)).await;
        Ok(read.map_err(|_| Failure::unavailable("the read was abandoned"))??)
    }

    fn destination_name(&self, d: DestinationId) -> String {
        match self.destinations.get(&d) {
            Some(destination) => destination.name.clone(),
            None => self.store.destination_name(d),
        }
    }
}

/// Every attempt of a delivery, oldest first.
fn attempts(delivery: &Delivery) -> Vec<Value> {
    let one = |a: &Attempt| {
        json!({
            "number": a.number,
            "at": a.at.to_string(),
            "latency_ms": a.latency_ms,
            "outcome": a.outcome.word(),
            "status": a.outcome.status(),
            "ambiguous": a.outcome.is_ambiguous(),
            "error": a.error,
            "answer": String::from_utf8_lossy(&a.answer),
        })
    };
    delivery.attempts.iter().map(one).collect()
}

/// The sequence that an event id carries.
fn sequence_of(id: &str) -> Result<(EventId, Sequence), Failure> {
    let id: EventId = id.parse().map_err(|_| Failure::bad("the id is not an event id (a UUID that holdline gave)"))?;
    Ok((id, id.sequence()))
}
