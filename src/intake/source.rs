//! A source as intake uses it: its profile compiled, its routes resolved to numbers.
//!
//! *Invariants.* With a signature only signed places decide which event a request is: the body, and the headers in the
//! signed template; others only where the configuration trusts them by name. Where none of them holds an id, the signed
//! bytes are the id, so that a recorded request that is sent again makes no new event.

use super::authenticator::{Authenticator, SourceError};
use super::handshake::{Handshakes, Subscription};
use crate::config::settings::{self, OnFault, Pointers};
use crate::event::{DestinationId, DestinationSet, Digest64, EVENT_OVERHEAD, Event, ForwardedHeaders, bounded};
use crate::extract::{
    Composite, Field, Fields, Found, Limits, Part, Pointer, PointerError, Profile, Request, Unreadable,
};
use crate::rules::pattern::matches;
use crate::rules::rate::Gcra;
use crate::rules::rate::Throttle;
use crate::store::{Arrival, Cause, Proof};
use crate::time::Timestamp;
use bytes::Bytes;
use form_urlencoded::Serializer;
use http::{HeaderMap, HeaderName, header};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// Longest `Content-Type` that is kept.
const CONTENT_TYPE_BYTES_MAX: usize = 512;
/// Interval of log lines about subscriptions: every sender can cause them.
const NOTICE_EVERY: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Source {
    pub name: String,
    pub authenticator: Authenticator,
    profile: Profile,
    /// Trusted although no signature covers them.
    trusted: Vec<Part>,
    pub handshakes: Handshakes,
    /// Log lines about subscriptions.
    noticed: Mutex<Throttle>,
    to: DestinationSet,
    types: Vec<String>,
    limit: Option<Mutex<Gcra>>,
    on_bad_signature: OnFault,
    on_invalid_body: OnFault,
}

/// What all events of a request share.
#[derive(Debug)]
pub struct Common {
    content_type: String,
    headers: ForwardedHeaders,
}

impl Common {
    /// Bytes of memory that these events take until they are stored: each twice, as itself and as its record, with its
    /// copies of the shared parts.
    pub fn cost(&self, events: &[Fields]) -> usize {
        let common = self.content_type.len() + self.headers.bytes() + EVENT_OVERHEAD;
        events.iter().map(|fields| 2 * (fields.bytes() + common)).sum()
    }
}

impl Source {
    /// Reads its secrets. `destinations`: names and numbers of those that are configured.
    pub fn new(settings: &settings::Source, destinations: &[(String, DestinationId)]) -> Result<Self, SourceError> {
        let goes_to = |name: &String| settings.to.is_empty() || settings.to.contains(name);
        let to = destinations.iter().filter(|(name, _)| goes_to(name));
        Ok(Self {
            name: settings.name.clone(),
            trusted: trusted(settings)?,
            profile: profile(&settings.profile, &settings.pointers)?,
            authenticator: Authenticator::new(&settings.auth)?,
            handshakes: Handshakes::new(settings)?,
            noticed: Mutex::default(),
            to: to.fold(DestinationSet::EMPTY, |set, (_, d)| set.with(*d)),
            types: settings.types.clone(),
            on_bad_signature: settings.on_bad_signature,
            on_invalid_body: settings.on_invalid_body,
            limit: settings.rate_limit.map(|rate| Mutex::new(Gcra::new(rate, rate.count()))),
        })
    }

    /// Reads the events of a request from the places that its proof covers.
    pub fn read(&self, request: &Request<'_>, proof: &Proof, limits: &Limits) -> Result<Found, Unreadable> {
        let Proof::Signature { headers, timestamp } = proof else { return self.profile.read(request, limits) };
        let trusted = self.trusted.iter().filter_map(|part| match part {
            Part::Header(name) => Some(name.as_str()),
            _ => None,
        });
        let mut signed = HeaderMap::new();
        for name in headers.iter().map(String::as_str).chain(trusted) {
            if let Some((name, value)) = name.parse::<HeaderName>().ok().zip(request.headers.get(name)) {
                signed.insert(name, value.clone());
            }
        }
        let query = request.query.and_then(|query| self.trusted_query(query));
        let read = Request { headers: &signed, query: query.as_deref(), body: request.body };
        let mut found = self.profile.read(&read, limits)?;
        identify(&mut found, timestamp, request.body);
        Ok(found)
    }

    /// The trusted part of an unsigned query.
    fn trusted_query(&self, query: &str) -> Option<String> {
        let is_trusted = |name: &str| self.trusted.iter().any(|part| matches!(part, Part::Query(own) if own == name));
        let pairs = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| is_trusted(name));
        let query = Serializer::new(String::new()).extend_pairs(pairs).finish();
        (!query.is_empty()).then_some(query)
    }

    /// A place that the profile reads and this request fills, and that is ignored because it is unsigned.
    pub fn ignored_place(&self, request: &Request<'_>, proof: &Proof) -> Option<&Part> {
        let Proof::Signature { headers, .. } = proof else { return None };
        let is_there = |part: &&Part| match part {
            Part::Header(name) => request.headers.contains_key(name) && !headers.iter().any(|own| *name == **own),
            Part::Query(name) => {
                request.query.is_some_and(|query| form_urlencoded::parse(query.as_bytes()).any(|(own, _)| own == *name))
            }
            _ => false,
        };
        self.profile.outside_the_body().filter(|part| !self.trusted.contains(part)).find(is_there)
    }

    /// Whether a field is looked for in this header.
    pub fn reads_header(&self, name: &HeaderName) -> bool {
        self.profile.outside_the_body().any(|part| matches!(part, Part::Header(own) if own == name))
    }

    /// Whether a field is looked for in this query parameter.
    pub fn reads_parameter(&self, name: &str) -> bool {
        self.profile.outside_the_body().any(|part| matches!(part, Part::Query(own) if own == name))
    }

    /// Whether the rate limit allows a request, before its body is read; else when it does again.
    pub fn check_rate(&self, now: Timestamp) -> Result<(), Timestamp> {
        self.limit().map_or(Ok(()), |limit| limit.check(now))
    }

    /// Takes the events of a request from the rate limit, all or none; else when it allows them.
    pub fn take_from_rate(&self, events: usize, now: Timestamp) -> Result<(), Timestamp> {
        let events = u32::try_from(events).unwrap_or(u32::MAX);
        self.limit().map_or(Ok(()), |mut limit| limit.try_take_many(now, events))
    }

    fn limit(&self) -> Option<MutexGuard<'_, Gcra>> {
        self.limit.as_ref().map(|limit| limit.lock().expect("no holder panics"))
    }

    /// Logs the URL by which an operator confirms an SNS subscription; holdline opens no URL from a body.
    pub fn log_subscription(&self, subscription: &Subscription, now: Timestamp) {
        let Some(requests) = self.noticed.lock().expect("no holder panics").count(now, NOTICE_EVERY) else { return };
        let Subscription { topic, url, ends } = subscription;
        let (source, url) = (&self.name, url.as_deref());
        match (url, ends) {
            (None, _) => tracing::warn!(
                source,
                topic,
                requests,
                "a subscription was to be confirmed at an address that is not of Amazon SNS"
            ),
            (Some(url), false) => tracing::warn!(
                source,
                topic,
                requests,
                url,
                "Amazon SNS asks to confirm a subscription: open the URL if it is yours"
            ),
            (Some(url), true) => {
                tracing::warn!(source, topic, requests, url, "Amazon SNS has ended a subscription; the URL renews it")
            }
        }
    }

    /// What happens to a request that fails for this cause.
    pub fn on_fault(&self, cause: Cause) -> OnFault {
        match cause {
            // a token that is wrong is no signature that could be verified later
            Cause::BadSignature if !self.authenticator.verifies_signatures() => OnFault::Refuse,
            Cause::BadSignature => self.on_bad_signature,
            Cause::Unparsable => self.on_invalid_body,
        }
    }

    /// Whether a request that fails for this cause is quarantined.
    pub fn quarantines(&self, cause: Cause) -> bool {
        self.on_fault(cause) == OnFault::Quarantine
    }

    /// What the events of a request share. Of the attributes of a CloudEvent only trusted ones are forwarded.
    pub fn common(&self, headers: &HeaderMap, contents: Contents, forwarded_bytes_max: usize, proof: &Proof) -> Common {
        let is_trusted = |name: &str| self.trusted.iter().any(|part| matches!(part, Part::Header(own) if own == name));
        let is_believed = |name: &str| match proof {
            Proof::Signature { headers, .. } => headers.iter().any(|own| own == name) || is_trusted(name),
            _ => true,
        };
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let content_type = content_type.filter(|value| value.len() <= CONTENT_TYPE_BYTES_MAX);
        Common {
            content_type: content_type.unwrap_or("application/json").to_owned(),
            headers: forwarded_headers(headers, contents, forwarded_bytes_max, is_believed),
        }
    }

    /// The event to store; none where no destination wants its type.
    pub fn arrival(&self, common: &Common, fields: Fields, received_at: Timestamp) -> Option<Arrival> {
        let to = self.route(&fields.event_type);
        (!to.is_empty()).then(|| {
            Arrival::new(Event {
                received_at,
                source: self.name.clone(),
                to,
                interaction: fields.interaction,
                sender_id: fields.sender_id,
                kind: fields.event_type,
                // a time of zero means that the sender wrote none
                time: fields.time.filter(|t| *t > Timestamp::ZERO),
                content_type: common.content_type.clone(),
                headers: common.headers.clone(),
                conflict: false,
                body_digest: Digest64::of(&[&fields.body]),
                // a copy of its own: a slice would keep the connection's whole buffer alive
                body: Bytes::copy_from_slice(&fields.body),
            })
        })
    }

    /// The destinations of an event type; none where the type is not wanted.
    pub fn route(&self, event_type: &str) -> DestinationSet {
        let wanted = self.types.is_empty() || self.types.iter().any(|pattern| matches(pattern, event_type));
        if wanted { self.to } else { DestinationSet::EMPTY }
    }
}

/// Sets the id of events without one to the signed bytes: the digest of the body, after the timestamp where one is
/// signed, and in a batch with the index.
fn identify(found: &mut Found, timestamp: &str, body: &[u8]) {
    let is_bare = |fields: &Fields| fields.sender_id.is_none();
    let digest = || {
        let mut hash = Sha256::new();
        if !timestamp.is_empty() {
            hash.update(timestamp);
            hash.update(b".");
        }
        let hash = hash.chain_update(body).finalize();
        hash.iter().fold("sha256:".to_owned(), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("a String takes every write");
            hex
        })
    };
    match found {
        Found::One(fields) if is_bare(fields) => fields.sender_id = Some(digest()),
        Found::Batch(all) if all.iter().any(is_bare) => {
            let digest = digest();
            let bare = all.iter_mut().enumerate().filter(|(_, fields)| fields.sender_id.is_none());
            bare.for_each(|(n, fields)| fields.sender_id = Some(format!("{digest}/{n}")));
        }
        Found::One(_) | Found::Batch(_) | Found::Heartbeat { .. } => {}
    }
}

fn trusted(settings: &settings::Source) -> Result<Vec<Part>, PointerError> {
    settings.trust_unsigned.iter().flatten().map(|part| Part::parse(part)).collect()
}

fn profile(name: &str, pointers: &Pointers) -> Result<Profile, PointerError> {
    let mut profile = Profile::preset(name).expect("the configuration knows the presets' names, as a test holds");
    let fields = [
        (Field::Key, &pointers.key),
        (Field::Id, &pointers.id),
        (Field::Time, &pointers.time),
        (Field::EventType, &pointers.event_type),
    ];
    for (field, alternatives) in fields {
        if let Some(alternatives) = alternatives {
            let alternatives = alternatives.iter().map(|parts| Composite::parse(parts)).collect::<Result<_, _>>()?;
            profile = profile.with(field, alternatives);
        }
    }
    let split = pointers.split.as_deref().map(Pointer::parse).transpose()?;
    let unwrap = pointers.unwrap.as_deref().map(Pointer::parse).transpose()?;
    Ok(profile.with_split(split).with_unwrap(unwrap))
}

/// Longest name of a CloudEvents attribute, its `ce-` included.
const NAME_BYTES_MAX: usize = 64;
/// Longest trace header; a longer one is left out, since a part of it has another meaning.
const TRACE_BYTES_MAX: usize = 512;

/// Total for each event of a batch, which has its own copies.
const BATCH_BYTES_MAX: usize = 1024;

/// What a request holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// The request is one event.
    Event,
    /// It is a batch: its `ce-*` headers belong to no single event.
    Batch,
}

/// The trace context (W3C), then the attributes of a CloudEvent, then the baggage, up to `bytes_max` bytes of names and
/// values. A longer attribute is cut and hashed (see [`bounded`]); any other header that is too long is left out.
/// `is_believed`: whether an attribute is trusted.
fn forwarded_headers(
    headers: &HeaderMap,
    contents: Contents,
    bytes_max: usize,
    is_believed: impl Fn(&str) -> bool,
) -> ForwardedHeaders {
    let bytes_max = if contents == Contents::Event { bytes_max } else { bytes_max.min(BATCH_BYTES_MAX) };
    let trace =
        ["traceparent", "tracestate"].map(|name| (name, joined(headers, name).filter(|v| v.len() <= TRACE_BYTES_MAX)));
    let attributes = headers
        .keys()
        .map(http::HeaderName::as_str)
        .filter(|name| contents == Contents::Event && is_attribute(name) && is_believed(name));
    let attributes = attributes.map(|name| (name, text(headers, name).map(bounded)));
    let baggage = [("baggage", joined(headers, "baggage"))];
    let all = trace.into_iter().chain(attributes).chain(baggage);
    let mut left = bytes_max;
    let mut kept = Vec::new();
    for (name, value) in all.filter_map(|(name, value)| Some((name, value?))) {
        if let Some(rest) = left.checked_sub(name.len() + value.len()) {
            left = rest;
            kept.push((name, value));
        }
    }
    ForwardedHeaders::new(kept.iter().map(|(name, value)| (*name, value.as_str())))
}

fn is_attribute(name: &str) -> bool {
    let attribute = name.strip_prefix("ce-").filter(|_| name.len() <= NAME_BYTES_MAX);
    attribute
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)))
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    std::str::from_utf8(headers.get(name)?.as_bytes()).ok().map(str::to_owned)
}

/// The lines of one header, joined as HTTP allows for lists.
fn joined(headers: &HeaderMap, name: &str) -> Option<String> {
    let lines: Option<Vec<_>> = headers.get_all(name).iter().map(|line| line.to_str().ok()).collect();
    lines.filter(|lines| !lines.is_empty()).map(|lines| lines.join(","))
}

/// The source in a path: the name after `/in/`. Percent-encoded characters are decoded (RFC 3986, section 6.2.2) and empty
/// segments ignored, so that a trailing or doubled slash names the same source. None for any other path.
pub fn name_in_path(path: &str) -> Option<String> {
    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    let (room, name, more) = (segments.next()?, segments.next()?, segments.next());
    (more.is_none() && decoded(room)? == "in").then(|| decoded(name))?
}

/// None where a `%` is not followed by two digits, or the result is not UTF-8.
fn decoded(segment: &str) -> Option<String> {
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (mut bytes, mut out) = (segment.bytes(), Vec::with_capacity(segment.len()));
    while let Some(byte) = bytes.next() {
        out.push(if byte == b'%' { digit(bytes.next())? << 4 | digit(bytes.next())? } else { byte });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::PROFILES;
    use http::{HeaderName, HeaderValue};

    #[test]
    fn configuration_and_presets_have_the_same_names() {
        assert!(PROFILES.iter().all(|name| Profile::preset(name).is_some()));
        assert!(Profile::preset_names().iter().all(|name| PROFILES.contains(name)));
    }

    fn map(headers: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        map
    }

    fn kept(headers: &[(&str, &str)], contents: Contents, bytes_max: usize) -> Vec<(String, String)> {
        let kept = forwarded_headers(&map(headers), contents, bytes_max, |name| name != "ce-forged");
        kept.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn trace_attributes_and_baggage_are_kept_and_nothing_else() {
        let sent = [
            ("authorization", "Bearer x"),
            ("baggage", "a=1"),
            ("ce-id", "1"),
            ("ce-forged", "1"),
            ("ce-subject", "M%C3%BCller"),
            ("ce-", "x"),
            ("ce-a.b", "x"),
            ("content-type", "application/json"),
            ("traceparent", "00-1"),
            ("tracestate", "a=1"),
            ("tracestate", "b=2"),
            ("baggage", "b=2"),
            ("x-ce-id", "1"),
        ];
        let trace = [("traceparent", "00-1"), ("tracestate", "a=1,b=2")];
        let attributes = [("ce-id", "1"), ("ce-subject", "M%C3%BCller")];
        let owned =
            |all: &[(&str, &str)]| all.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect::<Vec<_>>();
        let baggage = [("baggage", "a=1,b=2")];
        assert_eq!(kept(&sent, Contents::Event, 4096), owned(&[&trace[..], &attributes, &baggage].concat()));
        assert_eq!(kept(&sent, Contents::Batch, 4096), owned(&[&trace[..], &baggage].concat()));
        assert_eq!(kept(&sent, Contents::Event, 0), []);
    }

    #[test]
    fn forwarded_headers_are_bounded_each_and_together() {
        let long = "x".repeat(30_000);
        let whole = kept(
            &[("ce-subject", &long), ("traceparent", &long), ("tracestate", &long), ("baggage", &long)],
            Contents::Event,
            4096,
        );
        assert_eq!(whole, [("ce-subject".to_owned(), bounded(long.clone()))]);
        let names: Vec<String> = (0..100).map(|n| format!("ce-a{n}")).collect();
        let long = "x".repeat(500);
        let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), long.as_str())).collect();
        let kept = kept(&many, Contents::Event, 4096);
        let bytes: usize = kept.iter().map(|(name, value)| name.len() + value.len()).sum();
        assert!(kept.len() == 8 && bytes <= 4096, "{bytes}");
    }

    #[test]
    fn every_spelling_of_a_path_names_the_same_source() {
        for path in ["/in/genesys", "/in/genesys/", "/in/genesys//", "//in/genesys", "/in//genesys", "/in/gene%73ys"] {
            assert_eq!(name_in_path(path).as_deref(), Some("genesys"), "{path}");
        }
        assert_eq!(name_in_path("/%69n/%67enesys/").as_deref(), Some("genesys"));
        assert_eq!(name_in_path("/in/a%2Fb").as_deref(), Some("a/b"), "no source has such a name");
        for path in ["", "/", "/in", "/in/", "/out/genesys", "/in/genesys/x", "/in/gene%7", "/in/%zz", "/in/%FF", "*"] {
            assert_eq!(name_in_path(path), None, "{path}");
        }
    }
}
