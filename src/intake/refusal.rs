//! Refusals: why a request was not taken, as its sender is told.
//!
//! *Invariants.* A refusal says what to do, when it can be otherwise later, and nothing of the body, of a secret, or of which
//! proof failed.

use super::admission::State;
use super::body::Unread;
use crate::http::answer::{self, Answer};
use crate::profile::Unreadable;
use crate::time::{Timestamp, millis};
use http::{StatusCode, header};

/// What can be done at a source's address.
pub const METHODS: &str = "POST, OPTIONS, HEAD";

pub struct Refusal {
    pub status: StatusCode,
    pub code: &'static str,
    message: String,
    retry_after: Option<u32>,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after: None }
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
        let message = "send the body as it is, without Content-Encoding";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", message)
    }

    pub fn closed(state: State, code: &'static str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, state.message()).later(state.retry_after())
    }

    /// The source holds so much of the queue that nothing would be left for others.
    pub fn crowding() -> Self {
        let message = "too many events of this source wait; they are accepted again when some are delivered";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message).later(10)
    }

    pub fn unauthorized() -> Self {
        let message = "the request does not show that it comes from the sender; check its credentials and its clock";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    /// The source may send again at `until`.
    pub fn limited(until: Timestamp, now: Timestamp) -> Self {
        let seconds = u32::try_from(millis(until.since(now)).div_ceil(1000).max(1)).unwrap_or(u32::MAX);
        let message = "this source sends more than its rate_limit allows; send it again later";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", message).later(seconds)
    }

    /// A store that has failed says nothing more; the daemon is ending.
    pub fn failed() -> Self {
        let message = "the event could not be stored; send it again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message).later(2)
    }

    pub fn unread(unread: Unread, body_bytes_max: usize) -> Self {
        match unread {
            Unread::TooLarge => {
                let message = format!("the body is longer than {body_bytes_max} bytes (intake.max_body)");
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
            }
            Unread::TooSlow => {
                Self::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the body did not arrive in time")
            }
            Unread::NoRoom => {
                let message = "too many bodies are being received; try again in a moment";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message).later(1)
            }
            Unread::Broken => {
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
        refused
    }
}

impl From<Unreadable> for Refusal {
    fn from(why: Unreadable) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_json", why.to_string())
    }
}
