//! Quarantine: requests that cannot be accepted are kept apart where their source is configured so, and readmitted once the
//! configuration is corrected.
//!
//! *Invariants.* Quarantined requests are never delivered. Credentials are not stored. Unauthenticated requests can fill
//! only a part of the quarantine, and each source only its own part. A signature is verified as of the time at which the
//! request arrived. A request that arrived while its source had no `auth` is not readmitted once it has one, unless an
//! operator says so. A readmitted event keeps its original time of arrival.
//!
//! *Failure.* Where the quarantine is full, the request is refused.

use super::refusal::Refusal;
use super::source::Contents;
use super::{Intake, Source, body};
use crate::config::settings::{OnFault, Quarantine};
use crate::extract::{Fields, Found, Request};
use crate::net::answer::{self, Answer};
use crate::rules::credential::{Secrecy, secrecy};
use crate::rules::rate::Throttle;
use crate::store::{Arrival, Cause, Full, Proof, QuarantinedRequest, Room, StoreError};
use crate::time::Timestamp;
use bytes::Bytes;
use form_urlencoded::Serializer;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

/// Interval of log lines per source and cause; each line has the number of requests.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The result of checking a quarantined request again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passes, with this many events.
    Passes(usize),
    StillBad(Cause),
    /// It arrived while its source had no `auth`, and now the source has one.
    Unproven,
    /// Its source is no longer configured.
    SourceGone,
}

/// Whether an unauthenticated request is readmitted to a source that has `auth` now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unproven {
    #[default]
    Keep,
    /// An operator vouches for it.
    Accept,
}

/// Limits the log lines.
#[derive(Debug, Default)]
pub(super) struct LogThrottles(Mutex<BTreeMap<(String, Cause, &'static str), Throttle>>);

impl LogThrottles {
    /// The number of requests for the next log line; none where it is too early.
    fn count(&self, source: &Source, cause: Cause, what: &'static str, now: Timestamp) -> Option<u64> {
        let mut throttles = self.0.lock().expect("no holder panics");
        throttles.entry((source.name.clone(), cause, what)).or_default().count(now, LOG_INTERVAL)
    }
}

/// The limits of the quarantine for a source; `sources`: how many quarantine requests.
pub fn room(settings: &Quarantine, sources: usize) -> Room {
    let part = |share: f64| (settings.max_bytes as f64 * share) as u64;
    let source = if sources > 1 { part(settings.source_share) } else { settings.max_bytes };
    Room { all: settings.max_bytes, source, unverified: part(settings.unverified_share) }
}

impl Intake {
    /// Quarantines a request where its source is configured so; else returns the refusal.
    pub(super) async fn quarantine_request(
        &self,
        source: &Source,
        head: &Parts,
        body: &Bytes,
        (cause, proof): (Cause, Proof),
        refusal: Refusal,
    ) -> Result<Answer, Refusal> {
        if source.on_fault(cause) == OnFault::Refuse {
            return Err(refusal);
        }
        let (name, now) = (&source.name, self.clock.now());
        let quarantined = self.quarantined(source, head, body, (cause, proof));
        match self.store.quarantine(quarantined, self.quarantine).await {
            Ok(Ok(number)) => {
                if let Some(requests) = self.counts.quarantine_log.count(source, cause, "kept", now) {
                    tracing::warn!(source = name, cause = cause.word(), requests, number, "requests are kept apart");
                }
                Ok(answer::json(self.bounds.success, &json!({"status": "quarantined"})))
            }
            Ok(Err(full)) => {
                if let Some(requests) = self.counts.quarantine_log.count(source, cause, full.setting(), now) {
                    let bound = full.setting();
                    tracing::error!(source = name, cause = cause.word(), requests, bound, "{}", no_room(full));
                }
                Err(refusal)
            }
            Err(_) => Err(Refusal::failed()),
        }
    }

    fn quarantined(
        &self,
        source: &Source,
        head: &Parts,
        body: &Bytes,
        (cause, proof): (Cause, Proof),
    ) -> QuarantinedRequest {
        let kept = head.headers.iter().filter(|(name, _)| source.stores_header(name));
        let query = head.uri.query().map(|query| {
            let pairs = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| source.stores_parameter(name));
            Serializer::new(String::new()).extend_pairs(pairs).finish()
        });
        QuarantinedRequest {
            at: self.clock.now(),
            source: source.name.clone(),
            cause,
            headers: kept.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect(),
            query,
            body: body.to_vec(),
            proof,
        }
    }

    /// Checks a quarantined request against the current configuration; its events where it passes.
    pub fn judge(&self, quarantined: &QuarantinedRequest, unproven: Unproven) -> (Verdict, Vec<Arrival>) {
        let Some(source) = self.sources.get(&quarantined.source) else { return (Verdict::SourceGone, Vec::new()) };
        let headers: HeaderMap = quarantined.headers.iter().filter_map(|(name, value)| header(name, value)).collect();
        let (query, body) = (quarantined.query.as_deref(), Bytes::copy_from_slice(&quarantined.body));
        let proof = match source.authenticator.authenticate(&headers, query, quarantined.at).accepts(&body) {
            Some(proof) => proof,
            None if quarantined.cause == Cause::BadSignature => {
                return (Verdict::StillBad(Cause::BadSignature), Vec::new());
            }
            // the secret may have changed since, and the token was not stored
            None if !quarantined.proof.is_nothing() || unproven == Unproven::Accept => quarantined.proof.clone(),
            None => return (Verdict::Unproven, Vec::new()),
        };
        let Some(body) = self.unpacked(&headers, &body) else {
            return (Verdict::StillBad(Cause::Unparsable), Vec::new());
        };
        let read = source.read(&Request { headers: &headers, query, body: &body }, &proof, &self.limits());
        let (fields, contents) = match read {
            Ok(Found::One(fields)) => (vec![fields], Contents::Event),
            Ok(Found::Batch(all)) => (all, Contents::Batch),
            Ok(Found::Heartbeat { .. }) => (Vec::new(), Contents::Event),
            Err(_) => return (Verdict::StillBad(Cause::Unparsable), Vec::new()),
        };
        let common = source.common(&headers, contents, self.bounds.forwarded_bytes_max, &proof);
        let arrivals: Vec<_> = fields.into_iter().filter_map(|f| source.arrival(&common, f, quarantined.at)).collect();
        (Verdict::Passes(arrivals.len()), arrivals)
    }

    /// Whether a quarantined request holds an event of this interaction, read with its headers or without; where it holds no
    /// key, whether the key occurs as a whole string in the body, a header or the query.
    pub fn concerns(&self, quarantined: &QuarantinedRequest, key: &str) -> bool {
        let headers: HeaderMap = quarantined.headers.iter().filter_map(|(name, value)| header(name, value)).collect();
        let (query, body) = (quarantined.query.as_deref(), Bytes::copy_from_slice(&quarantined.body));
        let body = self.unpacked(&headers, &body).unwrap_or(body);
        let read = Request { headers: &headers, query, body: &body };
        let bare = Proof::Signature { headers: Vec::new(), timestamp: String::new() };
        let mut has_key = false;
        for proof in [&Proof::Nothing, &quarantined.proof, &bare] {
            let source = self.sources.get(&quarantined.source);
            let fields = match source.and_then(|source| source.read(&read, proof, &self.limits()).ok()) {
                Some(Found::One(fields)) => vec![fields],
                Some(Found::Batch(all)) => all,
                Some(Found::Heartbeat { .. }) | None => continue,
            };
            let is_of = |fields: &Fields| fields.interaction.as_deref() == Some(key);
            if fields.iter().any(is_of) {
                return true;
            }
            has_key |= fields.iter().any(|fields| fields.interaction.is_some());
        }
        if has_key {
            return false;
        }
        let quoted = json!(key).to_string();
        let in_body = body.windows(quoted.len()).any(|window| window == quoted.as_bytes());
        let in_query = || form_urlencoded::parse(query.unwrap_or_default().as_bytes()).any(|(_, v)| v == key);
        in_body || in_query() || quarantined.headers.iter().any(|(_, value)| value == key.as_bytes())
    }

    /// The unpacked body of a quarantined request: it is stored as received, since its signature covers that.
    fn unpacked(&self, headers: &HeaderMap, body: &Bytes) -> Option<Bytes> {
        body::unpack_stored(body::declared_coding(headers).ok()?, body, self.bounds.body_bytes_max)
    }

    /// Accepts the events of a quarantined request, if it passes now; none where it no longer exists.
    pub async fn readmit(
        &self,
        number: u64,
        quarantined: &QuarantinedRequest,
        unproven: Unproven,
    ) -> Result<Option<Verdict>, StoreError> {
        let (verdict, arrivals) = self.judge(quarantined, unproven);
        match verdict {
            Verdict::Passes(_) => Ok(self.store.readmit(number, arrivals).await?.map(|_| verdict)),
            Verdict::StillBad(_) | Verdict::Unproven | Verdict::SourceGone => Ok(Some(verdict)),
        }
    }
}

impl Source {
    /// Whether a header is stored: those that the profile reads, and every signature header where signatures are verified,
    /// since its name may be what has to be corrected.
    fn stores_header(&self, name: &HeaderName) -> bool {
        let needed = || self.reads_header(name) || self.authenticator.verifies_with(name);
        let harmless = || self.is_harmless(name.as_str());
        !self.authenticator.has_token_in_header(name) && (needed() || harmless())
    }

    fn stores_parameter(&self, name: &str) -> bool {
        !self.authenticator.has_token_in_query(name) && (self.reads_parameter(name) || self.is_harmless(name))
    }

    fn is_harmless(&self, name: &str) -> bool {
        match secrecy(name) {
            Secrecy::Plain => true,
            Secrecy::Signature => self.authenticator.verifies_signatures(),
            Secrecy::Credential => false,
        }
    }
}

fn no_room(full: Full) -> &'static str {
    match full {
        Full::All => "the quarantine is full; requests are refused",
        Full::Source => "the quarantine holds as much of this source as it may; its requests are refused",
        Full::Unverified => "the quarantine holds as many requests without proof as it may; such are refused",
    }
}

fn header(name: &str, value: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    Some((name.parse().ok()?, HeaderValue::from_bytes(value).ok()?))
}
