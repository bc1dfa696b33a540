//! Intake: HTTP in. A request becomes events, the events become durable, and only then is it answered 2xx.
//!
//! *Invariants.* Nothing is stored for a refused request. A duplicate gets the success status too: a 4xx would make some
//! senders drop the event. The body is stored byte for byte.
//!
//! | level | module | purpose |
//! |---|---|---|
//! | 1 | [`admission`] | whether intake is open, and if not, why |
//! | 1 | [`memory`] | memory for bodies, and which one is evicted |
//! | 1 | [`authenticator`] | whether a request comes from the sender |
//! | 2 | [`body`] | reads and unpacks a body |
//! | 3 | [`refusal`] | answers to requests that are not accepted |
//! | 4 | [`handshake`] | answers to senders that ask before they send |
//! | 5 | [`source`] | a source's settings, compiled |
//! | 6 | [`quarantine`] | requests kept apart, and readmitted |

pub mod admission;
mod authenticator;
mod body;
mod handshake;
pub mod memory;
mod quarantine;
mod refusal;
mod source;

pub use authenticator::SourceError;
pub use body::Pace;
pub use quarantine::{Unproven, Verdict, room};
pub use refusal::{Refusals, Refused, UNKNOWN_SOURCE};
pub use source::Source;

use crate::clock::Clock;
use crate::event::EventId;
use crate::extract::{Fields, Found, Limits, Request, Unreadable};
use crate::latency::Latency;
use crate::net::answer::{self, Answer, Handled};
use crate::net::connection_limiter::Slot;
use crate::net::request::{self, RequestBody};
use crate::rules::rate::Throttle;
use crate::store::{Arrival, Cause, Proof, Receipt, Room, Store};
use crate::time::Timestamp;
use admission::Admission;
use authenticator::AuthState;
use body::{BufferedBody, Coding, UnpackError};
use bytes::Bytes;
use handshake::Answered;
use http::request::Parts;
use http::{Method, StatusCode, header};
use hyper::body::Body;
use memory::{MemoryLimit, Sender, SourceId};
use refusal::Refusal;
use serde::Serialize;
use serde_json::{Value, json};
use source::{Common, Contents};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

/// Interval of the log lines about unsigned places of a source.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Answers load balancers on the port of intake: 200 while events are accepted, else 503 with the reason. From the
/// beginning of a stop it says `draining`, while events are still accepted. It needs no token and is not counted.
const HEALTH_PATH: &str = "/healthz";
/// A store that has failed ends the daemon; the next one is expected this soon.
const FAILED_RETRY_AFTER: u32 = 2;

/// Limits of one request.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub body_bytes_max: usize,
    pub body_pace: Pace,
    pub depth_max: usize,
    pub events_max: usize,
    /// Headers that are forwarded with an event.
    pub forwarded_bytes_max: usize,
    pub success: StatusCode,
}

/// Counters of intake.
#[derive(Debug, Default)]
pub struct Counts {
    pub refusals: Refusals,
    /// Acknowledged and not stored: unwanted event types, and heartbeats.
    ignored: AtomicU64,
    by_source: Mutex<BTreeMap<String, SourceStats>>,
    quarantine_log: quarantine::LogThrottles,
    /// By source: log lines about unsigned places, which are ignored.
    ignored_places: Mutex<BTreeMap<String, Throttle>>,
}

impl Counts {
    /// Refusals by status and code.
    pub fn refused(&self) -> BTreeMap<(u16, &'static str), u64> {
        self.refusals.by_code()
    }

    pub fn ignored(&self) -> u64 {
        self.ignored.load(Ordering::Relaxed)
    }

    /// Sets the configured sources. Statistics are kept only for these; those of sources that stay are kept.
    pub fn set_sources<'a>(&self, sources: impl Iterator<Item = &'a String>) {
        let mut by_source = self.by_source.lock().expect("no holder panics");
        let mut old = std::mem::take(&mut *by_source);
        *by_source = sources.map(|name| (name.clone(), old.remove(name).unwrap_or_default())).collect();
    }

    fn acknowledged(&self, source: &str, now: Timestamp, took: Duration) {
        if let Some(stats) = self.by_source.lock().expect("no holder panics").get_mut(source) {
            stats.last_received = now;
            stats.latency.observe(took);
        }
    }

    /// When each source was last answered with a success; zero for never.
    pub fn last_received(&self) -> BTreeMap<String, Timestamp> {
        self.by_source
            .lock()
            .expect("no holder panics")
            .iter()
            .map(|(name, stats)| (name.clone(), stats.last_received))
            .collect()
    }

    /// How long each source waits for its acknowledgements.
    pub fn latencies(&self) -> Vec<(String, Latency)> {
        let by_source = self.by_source.lock().expect("no holder panics");
        by_source.iter().map(|(name, stats)| (name.clone(), stats.latency.clone())).collect()
    }
}

/// Statistics of one source.
#[derive(Debug, Default)]
struct SourceStats {
    last_received: Timestamp,
    latency: Latency,
}

/// The intake that serves new requests; a reload replaces it.
pub type SharedIntake = Arc<RwLock<Arc<Intake>>>;

#[derive(Debug)]
pub struct Intake {
    pub store: Store,
    pub clock: Clock,
    pub sources: HashMap<String, Source>,
    pub bounds: Bounds,
    /// Memory for bodies, shared by all requests.
    pub memory: Arc<MemoryLimit>,
    pub admission: Arc<Admission>,
    pub counts: Arc<Counts>,
    /// Limits of the quarantine.
    pub quarantine: Room,
}

/// The answer to a single event.
#[derive(Serialize)]
struct AcceptedBody {
    status: &'static str,
    id: EventId,
}

/// The result of a request that was not refused.
enum Processed {
    /// Its events are stored, duplicates, or unwanted.
    Events(Answer),
    /// A handshake is answered.
    Handshake(Answer),
}

impl Intake {
    pub async fn handle(&self, request: http::Request<RequestBody>) -> Handled {
        if request.uri().path() == HEALTH_PATH {
            return Ok(self.health(request.method()));
        }
        let began = self.clock.precise();
        let source = source::name_in_path(request.uri().path()).unwrap_or_default();
        Ok(match self.process_request(&source, request).await {
            Ok(Processed::Events(answer)) => {
                self.counts.acknowledged(&source, self.clock.now(), self.clock.precise().saturating_sub(began));
                answer
            }
            Ok(Processed::Handshake(answer)) => answer,
            Err(refusal) => {
                tracing::debug!(status = refusal.status.as_u16(), code = refusal.code, "request refused");
                let known = self.sources.get(&source).map(|source| source.name.as_str());
                self.counts.refusals.count(known, &refusal, self.clock.now());
                refusal.answer()
            }
        })
    }

    fn health(&self, method: &Method) -> Answer {
        if !matches!(*method, Method::GET | Method::HEAD) {
            let refused = answer::error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "ask with GET or HEAD");
            return answer::with(refused, header::ALLOW, "GET, HEAD");
        }
        let state = self.admission.announced();
        let answer = match state.code() {
            Some(code) => unhealthy(code, state.message(), state.retry_after()),
            None if self.store.failure().borrow().is_some() => {
                unhealthy("store_failed", "the store has failed; the service ends", FAILED_RETRY_AFTER)
            }
            None => answer::json(StatusCode::OK, &json!({"status": "ok"})),
        };
        answer::with(answer, header::CACHE_CONTROL, "no-store")
    }

    async fn process_request(&self, source: &str, request: http::Request<RequestBody>) -> Result<Processed, Refusal> {
        let (head, body) = request.into_parts();
        if !request::has_valid_host(head.version, &head.uri, &head.headers) {
            return Err(Refusal::host());
        }
        let source = self.sources.get(source).ok_or_else(Refusal::unknown_source)?;
        let auth = source.authenticator.authenticate(&head.headers, head.uri.query(), self.clock.wall());
        if let Some(answer) = self.asked_by_head(source, &head, &auth, body.is_end_stream())? {
            return Ok(Processed::Handshake(answer));
        }
        let state = self.admission.state();
        if let Some(code) = state.code() {
            return Err(Refusal::closed(state, code));
        }
        if self.sources.len() > 1 && self.admission.is_over_share(&source.name) {
            return Err(Refusal::over_share());
        }
        let coding = body::declared_coding(&head.headers)?;
        if matches!(auth, AuthState::Denied) && !source.quarantines(Cause::BadSignature) {
            return Err(Refusal::unauthorized(source.authenticator.challenges()));
        }
        source.check_rate(self.clock.now()).map_err(|until| self.limited(until))?;
        let verified = matches!(auth, AuthState::Authenticated);
        let mut buffered = self.receive_body(source, &head, body, verified).await?;
        let Some(proof) = auth.accepts(&buffered.bytes) else {
            let (why, refusal) =
                ((Cause::BadSignature, Proof::Nothing), Refusal::unauthorized(source.authenticator.challenges()));
            return self.quarantine_request(source, &head, &buffered.bytes, why, refusal).await.map(Processed::Events);
        };
        if !source.authenticator.is_open() {
            buffered.verify().map_err(|_| Refusal::no_memory())?;
        }
        if let Some(answered) = self.asked_by_body(source, &head, &auth, &buffered.bytes)? {
            return Ok(Processed::Handshake(answered));
        }
        self.accept_events(source, &head, proof, coding, &buffered).await.map(Processed::Events)
    }

    /// The answer to a handshake in a head without a body.
    fn asked_by_head(
        &self,
        source: &Source,
        head: &Parts,
        auth: &AuthState<'_>,
        is_empty: bool,
    ) -> Result<Option<Answer>, Refusal> {
        match head.method {
            Method::POST if !is_empty => Ok(None),
            Method::POST => Ok(source.handshakes.empty_post(head, auth).map(|asked| self.answered(source, asked))),
            Method::HEAD => Ok(Some(Answer::default())),
            Method::OPTIONS => Ok(Some(source.handshakes.options(&head.headers))),
            Method::GET => {
                let asked = source.handshakes.get(head, auth)?.ok_or_else(Refusal::method)?;
                Ok(Some(self.answered(source, asked)))
            }
            _ => Err(Refusal::method()),
        }
    }

    /// The answer to a handshake in a body, or in a head with a blank body.
    fn asked_by_body(
        &self,
        source: &Source,
        head: &Parts,
        auth: &AuthState<'_>,
        body: &Bytes,
    ) -> Result<Option<Answer>, Refusal> {
        let asked = match body.trim_ascii() {
            b"" | b"{}" => source.handshakes.empty_post(head, auth),
            _ => source.handshakes.body(&head.headers, auth, body)?,
        };
        Ok(asked.map(|asked| self.answered(source, asked)))
    }

    fn answered(&self, source: &Source, Answered { of, answer, notice }: Answered) -> Answer {
        tracing::debug!(source = source.name, of = of.word(), "a handshake is answered");
        if let Some(subscription) = notice {
            source.log_subscription(&subscription, self.clock.now());
        }
        answer
    }

    /// Accepts the events of an authenticated request. The memory of its events is charged in addition to the body.
    async fn accept_events(
        &self,
        source: &Source,
        head: &Parts,
        proof: Proof,
        coding: Coding,
        buffered: &BufferedBody,
    ) -> Result<Answer, Refusal> {
        let (body, max) = (&buffered.bytes, self.bounds.body_bytes_max);
        let unpacked = match body::unpack(coding, body, max, |bytes| buffered.charge(bytes)).await {
            Ok(unpacked) => unpacked,
            Err(UnpackError::Malformed) => {
                let refusal = Refusal::malformed_coding();
                return self.quarantine_request(source, head, body, (Cause::Unparsable, proof), refusal).await;
            }
            Err(UnpackError::TooLarge) => return Err(Refusal::too_large(max)),
            Err(UnpackError::MemoryLimit) => return Err(Refusal::no_memory()),
        };
        let read = Request { headers: &head.headers, query: head.uri.query(), body: &unpacked };
        let found = match source.read(&read, &proof, &self.limits()) {
            Ok(found) => found,
            Err(Unreadable::NotJson { .. }) if coding == Coding::Unknown => return Err(Refusal::encoding()),
            Err(why) => {
                return self.quarantine_request(source, head, body, (Cause::Unparsable, proof), why.into()).await;
            }
        };
        self.log_ignored_place(source, &read, &proof);
        let contents = if matches!(found, Found::Batch(_)) { Contents::Batch } else { Contents::Event };
        let common = source.common(&head.headers, contents, self.bounds.forwarded_bytes_max, &proof);
        buffered.charge(common.cost(found.all())).map_err(|_| Refusal::no_memory())?;
        source.take_from_rate(found.events(), self.clock.now()).map_err(|until| self.limited(until))?;
        match found {
            Found::One(fields) => self.accept_one(source, &common, fields).await,
            Found::Batch(all) => self.accept_batch(source, &common, all).await,
            Found::Heartbeat { .. } => Ok(self.ignore(1)),
        }
    }

    /// Logs which place of a profile is ignored because no signature covers it, at most once per [`LOG_INTERVAL`].
    fn log_ignored_place(&self, source: &Source, request: &Request<'_>, proof: &Proof) {
        let Some(place) = source.ignored_place(request, proof) else { return };
        let mut throttles = self.counts.ignored_places.lock().expect("no holder panics");
        if let Some(requests) = throttles.entry(source.name.clone()).or_default().count(self.clock.now(), LOG_INTERVAL)
        {
            let what =
                "the signature does not cover this place, so it is ignored; name it in trust_unsigned to believe it";
            tracing::warn!(source = source.name, %place, requests, "{what}");
        }
    }

    fn limited(&self, until: Timestamp) -> Refusal {
        Refusal::limited(until, self.clock.now())
    }

    /// Reads the body, charged to the memory limit with its head.
    async fn receive_body(
        &self,
        source: &Source,
        head: &Parts,
        body: RequestBody,
        verified: bool,
    ) -> Result<BufferedBody, Refusal> {
        let slot = head.extensions.get::<Slot>();
        let connection = slot.and_then(|slot| Some((slot.id(), slot.peer().address()?)));
        let sender = Sender { connection, source: SourceId::of(&source.name), verified };
        let charge = self.memory.begin(sender, head_bytes(head));
        let _receiving = slot.map(Slot::receive_body);
        let max = self.bounds.body_bytes_max;
        let read = match charge {
            Ok(charge) => body::read(body, max, self.bounds.body_pace, charge).await,
            Err(no_room) => Err(no_room.into()),
        };
        read.map_err(|unread| Refusal::unread(unread, max))
    }

    async fn accept_one(&self, source: &Source, common: &Common, fields: Fields) -> Result<Answer, Refusal> {
        let Some(arrival) = source.arrival(common, fields, self.clock.now()) else { return Ok(self.ignore(1)) };
        let receipts = self.store(vec![arrival]).await?;
        let receipt = receipts.first().ok_or_else(Refusal::failed)?;
        let status = if matches!(receipt, Receipt::Duplicate(_)) { "duplicate" } else { "queued" };
        Ok(answer::json(self.bounds.success, &AcceptedBody { status, id: receipt.id() }))
    }

    async fn accept_batch(&self, source: &Source, common: &Common, all: Vec<Fields>) -> Result<Answer, Refusal> {
        let count = all.len();
        let arrivals: Vec<Arrival> =
            all.into_iter().filter_map(|f| source.arrival(common, f, self.clock.now())).collect();
        self.counts.ignored.fetch_add((count - arrivals.len()) as u64, Ordering::Relaxed);
        let receipts = if arrivals.is_empty() { Vec::new() } else { self.store(arrivals).await? };
        let duplicates = receipts.iter().filter(|r| matches!(r, Receipt::Duplicate(_))).count();
        let ids = receipts.iter().map(|r| json!(r.id())).collect::<Vec<Value>>();
        let accepted = receipts.len() - duplicates;
        let body = json!({"status": "queued", "accepted": accepted, "duplicates": duplicates, "ids": ids});
        Ok(answer::json(self.bounds.success, &body))
    }

    async fn store(&self, arrivals: Vec<Arrival>) -> Result<Vec<Receipt>, Refusal> {
        self.store.accept(arrivals).await.map_err(|_| Refusal::failed())
    }

    fn limits(&self) -> Limits {
        Limits { depth_max: self.bounds.depth_max, events_max: self.bounds.events_max }
    }

    /// Acknowledged, counted, and not stored.
    fn ignore(&self, count: u64) -> Answer {
        self.counts.ignored.fetch_add(count, Ordering::Relaxed);
        answer::json(self.bounds.success, &json!({"status": "ignored"}))
    }
}

fn unhealthy(code: &str, message: &str, retry_after: u32) -> Answer {
    let refused = answer::error(StatusCode::SERVICE_UNAVAILABLE, code, message);
    answer::with(refused, header::RETRY_AFTER, &retry_after.to_string())
}

/// The approximate memory of a head.
fn head_bytes(head: &Parts) -> usize {
    let path = head.uri.path_and_query().map_or(0, |path| path.as_str().len());
    path + head.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>()
}
