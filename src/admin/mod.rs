//! The admin API: JSON over HTTP for operators. Every call but the health checks and the dashboard page needs a bearer
//! token; on the unix socket root and the daemon's own user need none.
//!
//! *Invariants.* A change is answered after it is durable. No secret is shown. A body is returned only by the paths made for
//! it.

mod access;
mod access_log;
mod alert_facts;
mod answers;
mod audit_log;
mod backup;
mod dashboard;
mod discard;
mod dlq;
mod document;
mod erase;
mod event_actions;
mod event_lookup;
mod events;
mod explain;
mod export;
mod failure;
mod filter;
mod health;
mod interactions;
mod metrics;
mod object;
mod pace;
mod pending;
mod quarantine;
mod redrive;
mod selection;
mod socket;
mod status;
mod throttle;

pub use access::{Grant, Via};
pub use access_log::AccessLog;
pub use socket::{Socket, by_user};

use crate::clock::Clock;
use crate::config::settings::Scope;
use crate::dispatch::{DestinationStatus, Destinations, Question};
use crate::event::{DestinationId, EventId, Sequence};
use crate::intake::admission::Admission;
use crate::intake::{Counts, SharedIntake};
use crate::maintenance::{DlqOverflow, Trend};
use crate::net::tls::Tls;
use crate::store::{Store, StoreError};
use crate::time::Timestamp;
use axum::Router;
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::http::header;
use axum::http::request::Parts;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use failure::Failure;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The state that the handlers share.
#[derive(Debug)]
pub struct Admin {
    pub store: Store,
    pub clock: Clock,
    pub questions: mpsc::Sender<Question>,
    pub destinations: Destinations,
    pub admission: Arc<Admission>,
    pub intake: SharedIntake,
    pub counts: Arc<Counts>,
    /// The tokens with their scopes.
    pub grants: Vec<Grant>,
    /// Refusals that are not written yet.
    pub access: Arc<AccessLog>,
    /// The user that the daemon runs as.
    pub own_uid: u32,
    /// The certificates of intake, if it serves HTTPS.
    pub tls: Option<Arc<Tls>>,
    pub trend: Arc<Trend>,
    /// Dead letters over the limits of the dead letter queue.
    pub dlq_overflow: Arc<DlqOverflow>,
    pub started_at: Timestamp,
    /// Set when the daemon has started completely.
    pub ready: Arc<AtomicBool>,
}

/// Time that one list response may take; the caller continues with its `next`.
const ANSWER_WITHIN: Duration = Duration::from_millis(80);

type Shared = State<Arc<Admin>>;

/// The part of a path that names something.
#[derive(Debug, IntoParams)]
#[into_params(names("id"), parameter_in = Path)]
struct Name(
    /// The id of an event; or `SOURCE:ID`, with the sender's own one.
    #[param(pattern = "^([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[a-z0-9][a-z0-9_-]{0,62}:[ -~]{1,100})$")]
    String,
);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(name)| Self(name)).map_err(|e| Failure::bad(e.body_text()))
    }
}

/// The routes of the API, and its OpenAPI document.
pub fn router(admin: Arc<Admin>) -> Router {
    let (router, mut document) = routes(&admin).split_for_parts();
    document::complete(&mut document);
    let text = document.to_pretty_json().expect("the document holds only what JSON can");
    let described = move || {
        let text = text.clone();
        async move { ([(header::CONTENT_TYPE, "application/json")], text) }
    };
    let guard = middleware::from_fn_with_state((admin.clone(), Scope::Read), access::authorize);
    router
        .route("/openapi.json", get(described).route_layer(guard))
        .fallback(|| async { Failure::not_found("there is nothing at this path; /openapi.json lists the API") })
        .method_not_allowed_fallback(|| async { Failure::method() })
        .layer(middleware::from_fn_with_state(admin.clone(), access::same_site))
        .with_state(admin)
}

/// The routes by the scope that they require; each handler documents its own path.
fn routes(admin: &Arc<Admin>) -> OpenApiRouter<Arc<Admin>> {
    let guard = |scope: Scope| middleware::from_fn_with_state((admin.clone(), scope), access::authorize);
    let open = OpenApiRouter::with_openapi(document::frame())
        .routes(routes!(health::heartbeat))
        .routes(routes!(health::ready))
        .routes(routes!(dashboard::page));
    let read = OpenApiRouter::new()
        .routes(routes!(metrics::metrics))
        .routes(routes!(status::status))
        .routes(routes!(status::destinations))
        .routes(routes!(status::destination))
        .routes(routes!(status::ages))
        .routes(routes!(events::show))
        .routes(routes!(redrive::list))
        .route_layer(middleware::from_fn(refuse_query))
        .routes(routes!(interactions::show))
        .routes(routes!(events::list))
        .routes(routes!(dlq::list))
        .routes(routes!(dlq::show))
        .routes(routes!(audit_log::audit))
        .routes(routes!(audit_log::outages))
        .routes(routes!(audit_log::damaged))
        .routes(routes!(quarantine::list))
        .route_layer(guard(Scope::Read));
    let operate = OpenApiRouter::new()
        .routes(routes!(redrive::redrive))
        .routes(routes!(redrive::stop))
        .routes(routes!(dlq::purge))
        .routes(routes!(audit_log::open))
        .routes(routes!(audit_log::close))
        .routes(routes!(quarantine::readmit))
        .routes(routes!(pace::pause))
        .routes(routes!(pace::resume))
        .routes(routes!(pace::breaker))
        .routes(routes!(erase::erase))
        .routes(routes!(discard::discard))
        .route_layer(middleware::from_fn(refuse_query))
        .routes(routes!(event_actions::retry))
        .routes(routes!(event_actions::discard))
        .route_layer(guard(Scope::Operate));
    let reveal = OpenApiRouter::new()
        .routes(routes!(events::body))
        .routes(routes!(pending::pending))
        .route_layer(middleware::from_fn(refuse_query))
        .routes(routes!(dlq::body))
        .routes(routes!(export::export))
        .route_layer(middleware::from_fn_with_state(admin.clone(), access::note_read))
        // it writes its own audit entry, so that the backup contains it
        .merge(OpenApiRouter::new().routes(routes!(backup::backup)).route_layer(middleware::from_fn(refuse_query)))
        .route_layer(guard(Scope::Reveal));
    open.merge(read).merge(operate).merge(reveal)
}

/// Refuses query parameters of a path that has none, so that no caller relies on them.
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

    /// Returns once the deliveries stored before the start are loaded.
    async fn has_started(&self) -> Result<(), Failure> {
        self.ask(|to| Question::Deliveries(Vec::new(), to)).await.map(drop)
    }

    /// Returns once the dispatcher applies all earlier changes, or has ended and sends nothing more.
    async fn in_force(&self) {
        let _ = self.has_started().await;
    }

    async fn lines(&self) -> Result<HashMap<DestinationId, DestinationStatus>, Failure> {
        self.ask(Question::Destinations).await
    }

    /// Whether the response is due with what was found so far.
    fn has_taken_long(&self, began: Duration) -> bool {
        self.clock.precise().saturating_sub(began) >= ANSWER_WITHIN
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Failure> {
        let store = self.store.clone();
        let read = tokio::task::spawn_blocking(move || read(&store)).await;
        Ok(read.map_err(|_| Failure::unavailable("the read was abandoned"))??)
    }

    fn destination_name(&self, d: DestinationId) -> String {
        match self.destinations.get(d) {
            Some(destination) => destination.name.clone(),
            None => self.store.destination_name(d),
        }
    }
}

/// The sequence that an event id contains.
fn sequence_of(id: &str) -> Result<(EventId, Sequence), Failure> {
    let id: EventId = id.parse().map_err(|_| Failure::bad("the id is not an event id (a UUID that holdline gave)"))?;
    Ok((id, id.sequence()))
}
