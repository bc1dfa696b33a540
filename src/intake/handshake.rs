//! Handshakes: how some senders ask whether an address wants their events, before they send any.

use super::refusal;
use crate::http::answer::{self, Answer};
use http::{HeaderMap, HeaderName, StatusCode, header};
use serde::Deserialize;
use serde_json::json;

/// The type of the event by which Event Grid asks.
const KIND: &str = "Microsoft.EventGrid.SubscriptionValidationEvent";
/// No such event is longer.
const BYTES_MAX: usize = 8 * 1024;
/// A validation code is a GUID; a longer one is none.
const CODE_BYTES_MAX: usize = 256;

/// CloudEvents abuse protection (webhook specification 1.0, 4.1): any origin may send, at any rate.
pub fn options(headers: &HeaderMap) -> Answer {
    let allowed = answer::with(Answer::default(), header::ALLOW, refusal::METHODS);
    match headers.get("webhook-request-origin").and_then(|o| o.to_str().ok()) {
        Some(origin) => {
            let named = answer::with(allowed, HeaderName::from_static("webhook-allowed-origin"), origin);
            answer::with(named, HeaderName::from_static("webhook-allowed-rate"), "*")
        }
        None => allowed,
    }
}

#[derive(Deserialize)]
struct Validation {
    #[serde(rename = "eventType", default)]
    kind: String,
    data: Code,
}

#[derive(Deserialize)]
struct Code {
    #[serde(rename = "validationCode")]
    validation_code: String,
}

/// The answer to Event Grid's question whether this is the endpoint of a subscription: its code, sent back. None where the
/// request holds events.
pub fn validation(headers: &HeaderMap, body: &[u8]) -> Option<Answer> {
    let by_header = headers.get("aeg-event-type").is_some_and(|kind| kind == "SubscriptionValidation");
    // it comes as an array of one; without the header only what could be one is looked at
    let by_form = body.len() <= BYTES_MAX && body.trim_ascii_start().starts_with(b"[");
    if !by_header && !by_form {
        return None;
    }
    let [asked] = serde_json::from_slice::<[Validation; 1]>(body).ok()?;
    let code = asked.data.validation_code;
    let is_asked = by_header || asked.kind == KIND;
    (is_asked && code.len() <= CODE_BYTES_MAX)
        .then(|| answer::json(StatusCode::OK, &json!({"validationResponse": code})))
}
