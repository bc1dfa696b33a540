//! Refusals: why a request was not accepted, as its sender reads it, and how often, by source and reason.
//!
//! *Invariants.* A refusal says what to do and, where the reason passes, when to try again. It holds nothing of the body
//! or of a secret, and does not say which credential failed. Counters have no more entries than sources and codes:
//! requests to a source that is not configured count under [`UNKNOWN_SOURCE`], and nothing that a sender chose is kept
//! or written.

use super::admission::State;
use super::body::{CODINGS_ACCEPTED, ReadError, UnsupportedCoding};
use crate::extract::Unreadable;
use crate::net::answer::{self, Answer};
use crate::rules::rate::Throttle;
use crate::time::{Timestamp, millis};
use http::{HeaderName, HeaderValue, StatusCode, header};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// Methods of a source.
pub const METHODS: &str = "POST, OPTIONS, HEAD";

pub struct Refusal {
    pub status: StatusCode,
    pub code: &'static str,
    message: String,
    retry_after: Option<u32>,
    /// Further headers of the answer.
    headers: Vec<(HeaderName, &'static str)>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after: None, headers: Vec::new() }
    }

    fn with(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    fn later(self, seconds: u32) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    pub fn unknown_source() -> Self {
        let message = "no such source; events go to POST /in/{source}, with a source of the configuration";
        Self::new(StatusCode::NOT_FOUND, "unknown_source", message)
    }

    pub fn method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "events are sent with POST")
    }

    pub fn encoding() -> Self {
        let message = "send the body as it is, or packed once with gzip or deflate";
        let refusal = Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", message);
        refusal.with(header::ACCEPT_ENCODING, CODINGS_ACCEPTED)
    }

    /// The Host is missing, repeated or malformed.
    pub fn host() -> Self {
        let message = "name the host once, in one well-formed Host header";
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", message)
    }

    pub fn closed(state: State, code: &'static str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, state.message()).later(state.retry_after())
    }

    /// The source is over its share of the queue, or of the disk.
    pub fn over_share() -> Self {
        let message =
            "too many events of this source wait or are dead letters; events are accepted again when some are gone";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "queue_full", message).later(10)
    }

    /// `challenges`: the accepted kinds of credentials (RFC 9110, section 11.6.1).
    pub fn unauthorized(challenges: impl IntoIterator<Item = &'static str>) -> Self {
        let message = "the request does not show that it comes from the sender; check its credentials and its clock";
        let refusal = Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message);
        challenges.into_iter().fold(refusal, |refusal, challenge| refusal.with(header::WWW_AUTHENTICATE, challenge))
    }

    /// Zoom asks for a proof that only its secret gives.
    pub fn no_zoom_secret() -> Self {
        let message = "Zoom validates this address, and the source has no Zoom secret that fits: set \
                       auth = { kind = \"hmac\", preset = \"zoom\", secrets = ... }";
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", message)
    }

    pub fn malformed_coding() -> Self {
        let message = "the body is not what its Content-Encoding says: it does not unpack";
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", message)
    }

    pub fn too_large(body_bytes_max: usize) -> Self {
        let message = format!("the body is longer than {body_bytes_max} bytes (intake.max_body)");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
    }

    /// The memory limit for bodies is reached.
    pub fn no_memory() -> Self {
        let message = "too many bodies are being received; try again in a moment";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "memory_limit", message).later(1)
    }

    /// The source may send again at `until`.
    pub fn limited(until: Timestamp, now: Timestamp) -> Self {
        let seconds = u32::try_from(millis(until.since(now)).div_ceil(1000).max(1)).unwrap_or(u32::MAX);
        let message = "this source sends more than its rate_limit allows; send it again later";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", message).later(seconds)
    }

    /// The store has failed, and the daemon ends.
    pub fn failed() -> Self {
        let message = "the event could not be stored; send it again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "store_failed", message).later(2)
    }

    pub fn unread(unread: ReadError, body_bytes_max: usize) -> Self {
        match unread {
            ReadError::TooLarge => Self::too_large(body_bytes_max),
            ReadError::TooSlow => {
                Self::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the body did not arrive in time")
            }
            ReadError::MemoryLimit => Self::no_memory(),
            ReadError::Broken => {
                Self::new(StatusCode::BAD_REQUEST, "invalid_request", "the body broke off or its framing is wrong")
            }
        }
    }

    pub fn answer(&self) -> Answer {
        let mut refused = answer::error(self.status, self.code, &self.message);
        if let Some(seconds) = self.retry_after {
            refused = answer::with(refused, header::RETRY_AFTER, &seconds.to_string());
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            refused = answer::with(refused, header::ALLOW, METHODS);
        }
        for (name, value) in &self.headers {
            refused.headers_mut().append(name, HeaderValue::from_static(value));
        }
        refused
    }
}

impl From<Unreadable> for Refusal {
    fn from(why: Unreadable) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_json", why.to_string())
    }
}

impl From<UnsupportedCoding> for Refusal {
    fn from(_: UnsupportedCoding) -> Self {
        Self::encoding()
    }
}

/// Interval of log lines per source and reason.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// The name under which requests to unknown sources count; no source can have it.
pub const UNKNOWN_SOURCE: &str = "(unknown)";

/// What was refused for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    pub status: u16,
    pub code: &'static str,
    pub count: u64,
}

type BySource = BTreeMap<String, BTreeMap<(u16, &'static str), (u64, Throttle)>>;

/// All refusals since the start.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<BySource>);

impl Refusals {
    /// `source`: one of the configuration; None for any other name.
    pub(super) fn count(&self, source: Option<&str>, refusal: &Refusal, now: Timestamp) {
        let source = source.unwrap_or(UNKNOWN_SOURCE);
        let (status, code) = (refusal.status.as_u16(), refusal.code);
        let mut all = self.all();
        if !all.contains_key(source) {
            all.insert(source.to_owned(), BTreeMap::new());
        }
        let Some(entry) = all.get_mut(source).map(|codes| codes.entry((status, code)).or_default()) else { return };
        entry.0 += 1;
        let logged = entry.1.count(now, LOG_INTERVAL);
        drop(all);
        if let Some(requests) = logged {
            tracing::warn!(source, status, code, requests, "requests are refused");
        }
    }

    /// By status and code, of all sources together.
    pub fn by_code(&self) -> BTreeMap<(u16, &'static str), u64> {
        let mut sums = BTreeMap::new();
        for (key, (count, _)) in self.all().values().flatten() {
            *sums.entry(*key).or_default() += count;
        }
        sums
    }

    /// By source, [`UNKNOWN_SOURCE`] among them.
    pub fn by_source(&self) -> BTreeMap<String, Vec<Refused>> {
        let list = |codes: &BTreeMap<(u16, &'static str), (u64, Throttle)>| {
            codes.iter().map(|((status, code), (count, _))| Refused { status: *status, code, count: *count }).collect()
        };
        self.all().iter().map(|(source, codes)| (source.clone(), list(codes))).collect()
    }

    fn all(&self) -> MutexGuard<'_, BySource> {
        self.0.lock().expect("no holder panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_counted_by_source_and_reason() {
        let refusals = Refusals::default();
        for (source, refusal) in [
            (Some("a"), Refusal::encoding()),
            (Some("a"), Refusal::encoding()),
            (Some("a"), Refusal::method()),
            (Some("b"), Refusal::encoding()),
            (None, Refusal::unknown_source()),
            (None, Refusal::unknown_source()),
        ] {
            refusals.count(source, &refusal, Timestamp(1));
        }
        let by_source = refusals.by_source();
        let of = |source: &str| by_source[source].iter().map(|r| (r.status, r.code, r.count)).collect::<Vec<_>>();
        assert_eq!(of("a"), [(405, "method_not_allowed", 1), (415, "unsupported_encoding", 2)]);
        assert_eq!(of("b"), [(415, "unsupported_encoding", 1)]);
        assert_eq!((of(UNKNOWN_SOURCE), by_source.len()), (vec![(404, "unknown_source", 2)], 3));
        assert_eq!(refusals.by_code()[&(415, "unsupported_encoding")], 3);
    }
}
