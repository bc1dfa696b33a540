//! The request of a delivery: its headers, and how values that no header can hold are written.

use super::token::Token;
use crate::delivery::Delivery;
use crate::rules::signing::{self, Key};
use crate::time::Timestamp;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};
use http_body_util::Full;
use std::fmt::Write;

/// Of an interaction key or an event type.
const VALUE_BYTES_MAX: usize = 1024;

/// What the requests of a destination have in common.
#[derive(Debug)]
pub struct Common {
    pub url: Uri,
    /// Holds secrets, so its values are marked sensitive.
    pub headers: HeaderMap,
    /// By each of them a request is signed.
    pub keys: Vec<Key>,
}

/// The request of a delivery's next attempt, which is made now.
pub fn request(common: &Common, delivery: &Delivery, token: Option<&Token>, now: Timestamp) -> Request<Full<Bytes>> {
    let event = &delivery.event;
    let id = event.id(delivery.id.sequence).to_string();
    let mut headers = common.headers.clone();
    if let Some(token) = token {
        headers.insert(header::AUTHORIZATION, token.value.clone());
    }
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
    if !common.keys.is_empty() {
        let seconds = now.0 / 1000;
        set("webhook-id", &id);
        set("webhook-timestamp", &seconds.to_string());
        set("webhook-signature", &signing::signatures(&common.keys, &id, seconds, &event.body));
    }
    let mut request = Request::new(Full::new(event.body.clone()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = common.url.clone();
    *request.headers_mut() = headers;
    request
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
