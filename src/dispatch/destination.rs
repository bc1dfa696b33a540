//! A destination as dispatch uses it: its client, its request's fixed parts, its policy.

use super::resolver::Resolver;
use crate::config::settings::{self, DestinationAuth, OnDeadLetter, OrderMode};
use crate::delivery::Delivery;
use crate::event::DestinationId;
use crate::rules::backoff::Retry;
use crate::scheduler::{DeadLetters, Ordered, Policy};
use crate::time::Timestamp;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Of an interaction key or an event type.
const VALUE_BYTES_MAX: usize = 1024;
/// Idle connections go before most peers close them, so that a request does not meet a connection that is being closed.
const IDLE_MAX: Duration = Duration::from_secs(20);

type HttpClient = Client<HttpsConnector<HttpConnector<Resolver>>, Full<Bytes>>;

#[derive(Debug)]
pub struct Destination {
    pub id: DestinationId,
    pub name: String,
    pub retry: Retry,
    pub timeout: Duration,
    pub policy: Policy,
    pub(super) client: HttpClient,
    url: Uri,
    /// Until when it asked to be left alone, in milliseconds since the epoch.
    held_until: AtomicU64,
    /// Sent with each request; holds secrets, so its values are marked sensitive.
    fixed: HeaderMap,
}

impl Destination {
    /// Reads the secrets that the settings name. The error says which could not be read.
    pub fn new(id: DestinationId, settings: &settings::Destination) -> Result<Self, String> {
        let concurrency = if settings.url.is_some() { settings.concurrency_max } else { 0 };
        let policy = Policy {
            concurrency,
            ordered: match settings.ordering.mode {
                OrderMode::Interaction => Ordered::ByInteraction,
                OrderMode::None => Ordered::Not,
            },
            dead_letters: match settings.ordering.on_dead_letter {
                OnDeadLetter::Continue => DeadLetters::Continue,
                OnDeadLetter::Hold => DeadLetters::Hold,
            },
        };
        Ok(Self {
            id,
            name: settings.name.clone(),
            retry: settings.retry.clone(),
            timeout: settings.timeout,
            policy,
            client: client(settings)?,
            url: settings.url.clone().unwrap_or_default(),
            held_until: AtomicU64::new(0),
            fixed: fixed_headers(settings)?,
        })
    }

    /// False where it has asked to be left alone for longer already.
    pub(super) fn leave_alone(&self, until: Timestamp) -> bool {
        self.held_until.fetch_max(until.0, Ordering::SeqCst) < until.0
    }

    /// Until when nothing may be sent to it; none where something may.
    pub(super) fn held(&self, now: Timestamp) -> Option<Timestamp> {
        Some(Timestamp(self.held_until.load(Ordering::SeqCst))).filter(|until| now < *until)
    }

    /// The URL as it may be shown; none where events are held.
    pub fn url(&self) -> Option<String> {
        (self.policy.concurrency > 0).then(|| self.url.to_string())
    }

    /// The request of a delivery's next attempt.
    pub(super) fn request(&self, delivery: &Delivery) -> Request<Full<Bytes>> {
        let event = &delivery.event;
        let id = event.id(delivery.id.sequence).to_string();
        let mut headers = self.fixed.clone();
        let mut set = |name: &'static str, value: &str| {
            headers.insert(HeaderName::from_static(name), visible(value));
        };
        set("idempotency-key", &id);
        set("holdline-event-id", &id);
        set("holdline-source", &event.source);
        set("holdline-sequence", &delivery.id.sequence.to_string());
        set("holdline-attempt", &delivery.next_attempt().to_string());
        set("holdline-received-at", &event.received_at.to_string());
        set("content-type", &event.content_type);
        if !event.kind.is_empty() {
            set("holdline-event-type", &event.kind);
        }
        if let Some(time) = event.time {
            set("holdline-event-time", &time.to_string());
        }
        if let Some(interaction) = &event.interaction {
            set("holdline-interaction-id", interaction);
        }
        if let Some(traceparent) = &event.traceparent {
            set("traceparent", traceparent);
        }
        if delivery.redriven {
            set("holdline-redriven", "true");
        }
        let mut request = Request::new(Full::new(event.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.url.clone();
        *request.headers_mut() = headers;
        request
    }
}

fn client(settings: &settings::Destination) -> Result<HttpClient, String> {
    let mut tcp = HttpConnector::new_with_resolver(Resolver::default());
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(settings.timeout));
    let tls = HttpsConnectorBuilder::new()
        .with_native_roots()
        .map_err(|e| format!("the system's certificate authorities cannot be read: {e}; install ca-certificates"));
    // without TLS there is no need of authorities
    let https = settings.url.as_ref().is_some_and(|url| url.scheme_str() == Some("https"));
    let tls = match tls {
        Ok(tls) => tls,
        Err(why) if https => return Err(why),
        Err(_) => HttpsConnectorBuilder::new().with_tls_config(no_authorities()),
    };
    Ok(Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_MAX)
        .pool_max_idle_per_host(settings.concurrency_max)
        .build(tls.https_or_http().enable_http1().wrap_connector(tcp)))
}

fn no_authorities() -> rustls::ClientConfig {
    rustls::ClientConfig::builder().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
}

fn fixed_headers(settings: &settings::Destination) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let agent = concat!("holdline/", env!("CARGO_PKG_VERSION"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(agent));
    let (name, value) = match &settings.auth {
        None => return Ok(headers),
        Some(DestinationAuth::Bearer { token }) => {
            (header::AUTHORIZATION, format!("Bearer {}", token.read()?.expose()))
        }
        Some(DestinationAuth::Basic { user, password }) => {
            let pair = format!("{user}:{}", password.read()?.expose());
            (header::AUTHORIZATION, format!("Basic {}", base64(pair.as_bytes())))
        }
        Some(DestinationAuth::Header { name, value }) => (name.clone(), value.read()?.expose().to_owned()),
    };
    let mut value = HeaderValue::from_str(&value)
        .map_err(|_| format!("the secret of destination `{}` holds characters that no header can", settings.name))?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(headers)
}

/// A header's value: whatever is not visible ASCII, and `%`, is percent-encoded (RFC 3986) in UTF-8.
///
/// Of a longer text only the first [`VALUE_BYTES_MAX`] bytes are sent: destinations refuse a request for one long header.
fn visible(text: &str) -> HeaderValue {
    let end = (0..=VALUE_BYTES_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let text = &text[..end];
    HeaderValue::from_str(text).ok().filter(|v| v.to_str().is_ok()).unwrap_or_else(|| {
        let mut encoded = String::with_capacity(text.len() * 3);
        for byte in text.bytes() {
            match byte {
                b'%' | 0..0x20 | 0x7F.. => write!(encoded, "%{byte:02X}").expect("writing to a string"),
                _ => encoded.push(char::from(byte)),
            }
        }
        HeaderValue::from_str(&encoded).expect("only visible ASCII is left")
    })
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_no_header_can_hold_are_encoded() {
        for (text, value) in [
            ("did:plc:abc|x", "did:plc:abc|x"),
            ("100 %", "100 %"),
            ("M\u{fc}ller\n%", "M%C3%BCller%0A%25"),
            ("\u{7f}", "%7F"),
        ] {
            assert_eq!(visible(text), value);
        }
        assert_eq!(visible(&"\u{fc}".repeat(2000)).len(), VALUE_BYTES_MAX * 3, "a long one is cut between characters");
    }
}
