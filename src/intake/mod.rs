//! Intake: HTTP in. A request becomes events, the events become durable, and only then is it answered 2xx.
//!
//! *Invariants.* Nothing is stored for a request that is refused. A duplicate gets the success status too: a 4xx would
//! make some senders give up the event. The body goes into the store byte for byte.

pub mod admission;
mod body;
mod source;

pub use source::Source;

use crate::clock::Clock;
use crate::event::{Digest64, Event, EventId};
use crate::http::answer::{self, Answer};
use crate::http::listener::Handled;
use crate::profile::{Fields, Found, Limits, Request, Unreadable};
use crate::store::{Arrival, Receipt, Store};
use crate::time::{Timestamp, millis};
use admission::{Admission, State};
use body::Unread;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use hyper::body::Incoming;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Longest `Content-Type` and `traceparent` that are kept.
const HEADER_BYTES_MAX: usize = 512;

/// The bounds of one request.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub body_bytes_max: usize,
    pub body_timeout: Duration,
    pub depth_max: usize,
    pub events_max: usize,
    pub success: StatusCode,
}

/// What happened at the door, counted.
#[derive(Debug, Default)]
pub struct Counts {
    refused: Mutex<BTreeMap<(u16, &'static str), u64>>,
    /// Acknowledged and not stored: types that go nowhere, and signs of life.
    ignored: AtomicU64,
}

impl Counts {
    /// Refusals by status and code.
    pub fn refused(&self) -> BTreeMap<(u16, &'static str), u64> {
        self.refused.lock().expect("no holder panics").clone()
    }

    pub fn ignored(&self) -> u64 {
        self.ignored.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
pub struct Intake {
    pub store: Store,
    pub clock: Clock,
    pub sources: HashMap<String, Source>,
    pub bounds: Bounds,
    /// Bytes of bodies that may be held at once.
    pub room: Arc<Semaphore>,
    pub admission: Arc<Admission>,
    pub counts: Arc<Counts>,
}

/// The answer to a single event.
#[derive(Serialize)]
struct Told {
    status: &'static str,
    id: EventId,
}

/// Why a request was not taken.
struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
    retry_after: Option<u32>,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after: None }
    }

    fn closed(state: State, code: &'static str) -> Self {
        let retry_after = Some(state.retry_after());
        Self { retry_after, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, state.message()) }
    }

    /// The source may send again at `until`.
    fn limited(until: Timestamp, now: Timestamp) -> Self {
        let seconds = u32::try_from(millis(until.since(now)).div_ceil(1000).max(1)).unwrap_or(u32::MAX);
        let message = "this source sends more than its rate_limit allows; send it again later";
        Self { retry_after: Some(seconds), ..Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", message) }
    }

    fn answer(&self) -> Answer {
        let mut refused = answer::error(self.status, self.code, &self.message);
        if let Some(seconds) = self.retry_after {
            refused = answer::with(refused, header::RETRY_AFTER, &seconds.to_string());
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            refused = answer::with(refused, header::ALLOW, "POST, OPTIONS, HEAD");
        }
        // the rest of a body that was not read would be taken for the next request
        let unread = matches!(self.status.as_u16(), 408 | 413 | 429 | 503);
        if unread { answer::with(refused, header::CONNECTION, "close") } else { refused }
    }
}

impl Intake {
    pub async fn handle(&self, request: http::Request<Incoming>) -> Handled {
        Ok(match self.take(request).await {
            Ok(answer) => answer,
            Err(refusal) => {
                tracing::debug!(status = refusal.status.as_u16(), code = refusal.code, "request refused");
                let key = (refusal.status.as_u16(), refusal.code);
                *self.counts.refused.lock().expect("no holder panics").entry(key).or_default() += 1;
                refusal.answer()
            }
        })
    }

    async fn take(&self, request: http::Request<Incoming>) -> Result<Answer, Refusal> {
        let (head, body) = request.into_parts();
        let name = head.uri.path().strip_prefix("/in/").unwrap_or_default();
        let Some(source) = self.sources.get(name) else {
            let message = "no such source; events go to POST /in/{source}, with a source of the configuration";
            return Err(Refusal::new(StatusCode::NOT_FOUND, "unknown_source", message));
        };
        match head.method {
            Method::POST => {}
            Method::HEAD => return Ok(Answer::default()),
            Method::OPTIONS => return Ok(handshake(&head.headers)),
            _ => {
                let message = "events are sent with POST";
                return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message));
            }
        }
        let state = self.admission.state();
        if let Some(code) = state.code() {
            return Err(Refusal::closed(state, code));
        }
        if head.headers.get(header::CONTENT_ENCODING).is_some_and(|e| !e.as_bytes().eq_ignore_ascii_case(b"identity")) {
            let message = "send the body as it is, without Content-Encoding";
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", message));
        }
        let limited = |until| Refusal::limited(until, self.clock.now());
        source.has_room(self.clock.now()).map_err(limited)?;
        let held = body::read(body, self.bounds.body_bytes_max, self.bounds.body_timeout, &self.room);
        let held = held.await.map_err(|unread| self.unread(unread))?;
        let limits = Limits { depth_max: self.bounds.depth_max, events_max: self.bounds.events_max };
        let read = Request { headers: &head.headers, query: head.uri.query(), body: &held.bytes };
        let found = source.profile.read(&read, &limits).map_err(unreadable)?;
        source.take(found.events(), self.clock.now()).map_err(limited)?;
        match found {
            Found::One(fields) => self.accept_one(source, &head.headers, fields).await,
            Found::Batch(fields) => self.accept_batch(source, &head.headers, fields).await,
            Found::Dropped { .. } => Ok(self.ignore(1)),
        }
    }

    fn unread(&self, unread: Unread) -> Refusal {
        match unread {
            Unread::TooLarge => {
                let message = format!("the body is longer than {} bytes (intake.max_body)", self.bounds.body_bytes_max);
                Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
            }
            Unread::TooSlow => {
                Refusal::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the body did not arrive in time")
            }
            Unread::NoRoom => {
                let message = "too many bodies are being received; try again in a moment";
                let full = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message);
                Refusal { retry_after: Some(1), ..full }
            }
            Unread::Broken => {
                Refusal::new(StatusCode::BAD_REQUEST, "invalid_request", "the body broke off or its framing is wrong")
            }
        }
    }

    async fn accept_one(&self, source: &Source, headers: &HeaderMap, fields: Fields) -> Result<Answer, Refusal> {
        let Some(arrival) = self.arrival(source, headers, fields) else { return Ok(self.ignore(1)) };
        let receipts = self.store(vec![arrival]).await?;
        let receipt = receipts.first().ok_or_else(failed)?;
        let status = if matches!(receipt, Receipt::Duplicate(_)) { "duplicate" } else { "queued" };
        Ok(answer::json(self.bounds.success, &Told { status, id: receipt.id() }))
    }

    async fn accept_batch(&self, source: &Source, headers: &HeaderMap, all: Vec<Fields>) -> Result<Answer, Refusal> {
        let count = all.len();
        let arrivals: Vec<Arrival> = all.into_iter().filter_map(|f| self.arrival(source, headers, f)).collect();
        self.counts.ignored.fetch_add((count - arrivals.len()) as u64, Ordering::Relaxed);
        let receipts = if arrivals.is_empty() { Vec::new() } else { self.store(arrivals).await? };
        let duplicates = receipts.iter().filter(|r| matches!(r, Receipt::Duplicate(_))).count();
        let ids = receipts.iter().map(|r| json!(r.id())).collect::<Vec<Value>>();
        let accepted = receipts.len() - duplicates;
        let body = json!({"status": "queued", "accepted": accepted, "duplicates": duplicates, "ids": ids});
        Ok(answer::json(self.bounds.success, &body))
    }

    async fn store(&self, arrivals: Vec<Arrival>) -> Result<Vec<Receipt>, Refusal> {
        self.store.accept(arrivals).await.map_err(|_| failed())
    }

    /// None where the event goes nowhere.
    fn arrival(&self, source: &Source, headers: &HeaderMap, fields: Fields) -> Option<Arrival> {
        let to = source.route(&fields.kind);
        let text = |name: &str| {
            let value = headers.get(name)?.to_str().ok()?;
            (value.len() <= HEADER_BYTES_MAX).then(|| value.to_owned())
        };
        (!to.is_empty()).then(|| {
            Arrival::new(Event {
                received_at: self.clock.now(),
                source: source.name.clone(),
                to,
                interaction: fields.interaction,
                sender_id: fields.sender_id,
                kind: fields.kind,
                // zero stands for "not said"
                time: fields.time.filter(|t| *t > Timestamp::ZERO),
                content_type: text("content-type").unwrap_or_else(|| "application/json".to_owned()),
                traceparent: text("traceparent"),
                conflict: false,
                body_digest: Digest64::of(&[&fields.body]),
                // a copy of its own: a slice would keep the connection's whole buffer alive
                body: Bytes::copy_from_slice(&fields.body),
            })
        })
    }

    /// Acknowledged, counted, and not stored.
    fn ignore(&self, count: u64) -> Answer {
        self.counts.ignored.fetch_add(count, Ordering::Relaxed);
        answer::json(self.bounds.success, &json!({"status": "ignored"}))
    }
}

/// A store that has failed says nothing more; the daemon is ending.
fn failed() -> Refusal {
    let message = "the event could not be stored; send it again";
    Refusal { retry_after: Some(2), ..Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message) }
}

fn unreadable(why: Unreadable) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "invalid_json", why.to_string())
}

/// CloudEvents abuse protection (webhook specification 1.0, 4.1): any origin may send, at any rate.
fn handshake(headers: &HeaderMap) -> Answer {
    let allowed = answer::with(Answer::default(), header::ALLOW, "POST, OPTIONS, HEAD");
    match headers.get("webhook-request-origin").and_then(|o| o.to_str().ok()) {
        Some(origin) => {
            let named = answer::with(allowed, http::HeaderName::from_static("webhook-allowed-origin"), origin);
            answer::with(named, http::HeaderName::from_static("webhook-allowed-rate"), "*")
        }
        None => allowed,
    }
}
