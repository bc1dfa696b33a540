//! The request of a delivery: its headers, how their values are encoded, and the credentials of the destination.

use super::error::SetupError;
use super::token::Token;
use crate::config::settings::{Destination, DestinationAuth, Secret, SecretValue};
use crate::delivery::Delivery;
use crate::event::ForwardedHeaders;
use crate::rules::lateness::LateAction;
use crate::rules::signing::{self, Key};
use crate::time::Timestamp;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};
use http_body_util::Full;
use std::fmt::Write;

/// Maximum for an interaction key or an event type.
const VALUE_BYTES_MAX: usize = 1024;

/// The common parts of all requests to a destination.
#[derive(Debug)]
pub struct RequestTemplate {
    pub(super) url: Uri,
    /// Values that are secret are marked sensitive.
    pub(super) headers: HeaderMap,
    /// Each request is signed with each of these keys.
    pub(super) keys: Vec<Key>,
}

/// The request of a delivery's next attempt, which starts now.
pub fn request(
    template: &RequestTemplate,
    delivery: &Delivery,
    late_action: LateAction,
    token: Option<&Token>,
    now: Timestamp,
) -> Request<Full<Bytes>> {
    let event = &delivery.event;
    let id = event.id(delivery.id.sequence).to_string();
    let mut headers = forwarded(&event.headers);
    // set last: a sender cannot set the headers that holdline sets
    for (name, value) in &template.headers {
        headers.insert(name, value.clone());
    }
    if let Some(token) = token {
        headers.insert(header::AUTHORIZATION, token.value.clone());
    }
    headers.insert(header::CONTENT_TYPE, unchanged(&event.content_type));
    let mut set = |name: &'static str, value: &str| {
        headers.insert(HeaderName::from_static(name), encoded(value));
    };
    set("idempotency-key", &id);
    set("holdline-event-id", &id);
    set("holdline-source", &event.source);
    set("holdline-sequence", &delivery.id.sequence.to_string());
    set("holdline-attempt", &delivery.next_attempt().to_string());
    set("holdline-received-at", &event.received_at.to_string());
    if !event.kind.is_empty() {
        set("holdline-event-type", &event.kind);
    }
    if let Some(time) = event.time {
        set("holdline-event-time", &time.to_string());
    }
    if let Some(interaction) = &event.interaction {
        set("holdline-interaction-id", interaction);
    }
    if delivery.redriven {
        set("holdline-redriven", "true");
    }
    if late_action == LateAction::SendFlagged {
        set("holdline-stale", "true");
    }
    if !template.keys.is_empty() {
        let seconds = now.0 / 1000;
        set("webhook-id", &id);
        set("webhook-timestamp", &seconds.to_string());
        set("webhook-signature", &signing::signatures(&template.keys, &id, seconds, &event.body));
    }
    let mut request = Request::new(Full::new(event.body.clone()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = template.url.clone();
    *request.headers_mut() = headers;
    request
}

/// The headers that were received with the event, unchanged.
fn forwarded(headers: &ForwardedHeaders) -> HeaderMap {
    let header = |(name, value): (&str, &str)| {
        Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_bytes(value.as_bytes()).ok()?))
    };
    headers.iter().filter_map(header).collect()
}

/// The value of a header, unchanged if a header can contain it.
fn unchanged(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).ok().filter(|v| v.to_str().is_ok()).unwrap_or_else(|| encoded(text))
}

/// Encodes a header value so that percent-decoding (RFC 3986, 2.1) of UTF-8 gives the original text. Percent-encoded are
/// each `%`, each byte that is not visible ASCII, and a blank at either end, which HTTP would drop; nothing else.
///
/// Of a longer text only the first [`VALUE_BYTES_MAX`] bytes are sent: destinations refuse a request with an overlong
/// header.
fn encoded(text: &str) -> HeaderValue {
    let end = (0..=VALUE_BYTES_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let text = &text[..end];
    let inner = text.len() - text.trim_start_matches(' ').len()..text.trim_end_matches(' ').len();
    let mut encoded = String::with_capacity(text.len());
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b' ' if inner.contains(&at) => encoded.push(' '),
            b'%' | 0..=b' ' | 0x7F.. => write!(encoded, "%{byte:02X}").expect("writing to a string"),
            _ => encoded.push(char::from(byte)),
        }
    }
    HeaderValue::from_str(&encoded).expect("only visible ASCII is left")
}

/// The headers that all requests to a destination have, with its credentials.
pub fn fixed_headers(settings: &Destination) -> Result<HeaderMap, SetupError> {
    let mut headers = HeaderMap::new();
    let agent = concat!("holdline/", env!("CARGO_PKG_VERSION"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(agent));
    let (name, value) = match &settings.auth {
        None | Some(DestinationAuth::OAuth2(_) | DestinationAuth::Mtls) => return Ok(headers),
        Some(DestinationAuth::Bearer { token }) => {
            (header::AUTHORIZATION, format!("Bearer {}", secret(token)?.expose()))
        }
        Some(DestinationAuth::Basic { user, password }) => {
            let pair = format!("{user}:{}", secret(password)?.expose());
            (header::AUTHORIZATION, format!("Basic {}", base64(pair.as_bytes())))
        }
        Some(DestinationAuth::Header { name, value }) => (name.clone(), secret(value)?.expose().to_owned()),
    };
    let mut value = HeaderValue::from_str(&value).map_err(|_| SetupError::NoHeader(settings.name.clone()))?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(headers)
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The key with which requests are signed.
pub fn signing_key(of: &Secret) -> Result<Key, SetupError> {
    Key::decode(secret(of)?.expose()).map_err(|why| SetupError::SigningKey { secret: of.to_string(), why })
}

fn secret(secret: &Secret) -> Result<SecretValue, SetupError> {
    secret.read().map_err(SetupError::unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes a value as a destination does.
    fn decoded(value: &HeaderValue) -> String {
        let mut bytes = Vec::new();
        let mut rest = value.as_bytes();
        while let Some((byte, behind)) = rest.split_first() {
            rest = behind;
            bytes.push(match byte {
                b'%' => u8::from_str_radix(std::str::from_utf8(&behind[..2]).unwrap(), 16).unwrap(),
                byte => *byte,
            });
            rest = if *byte == b'%' { &behind[2..] } else { rest };
        }
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn encoded_values_decode_to_the_text() {
        for (text, value) in [
            ("did:plc:abc|x", "did:plc:abc|x"),
            ("Jane Doe", "Jane Doe"),
            ("100 %", "100 %25"),
            ("100 %25", "100 %2525"),
            ("M\u{fc}ller\n%", "M%C3%BCller%0A%25"),
            ("M%C3%BCller", "M%25C3%25BCller"),
            ("\u{7f}", "%7F"),
            (" a  b ", "%20a  b%20"),
            ("  ", "%20%20"),
            ("\ta", "%09a"),
            ("", ""),
        ] {
            assert_eq!(encoded(text), value);
            assert_eq!(decoded(&encoded(text)), text);
        }
        assert_eq!(encoded(&"\u{fc}".repeat(2000)).len(), VALUE_BYTES_MAX * 3, "a long one is cut between characters");
    }

    #[test]
    fn received_header_values_are_forwarded_unchanged() {
        let content_type = "application/json; profile=\"a%20b\"";
        assert_eq!(unchanged(content_type), content_type);
        assert_eq!(unchanged("text/\u{fc}"), "text/%C3%BC");
    }
}
