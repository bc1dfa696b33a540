//! Answers: JSON bodies, and the one shape of every error, `{"error":{"code":"...","message":"..."}}`.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;
use serde_json::json;
use std::convert::Infallible;

pub type Answer = Response<Full<Bytes>>;

/// The type of a handler's answer, for services that cannot fail.
pub type Handled = Result<Answer, Infallible>;

/// A JSON body with a status.
pub fn json<T: Serialize>(status: StatusCode, body: &T) -> Answer {
    let body = serde_json::to_vec(body).expect("answers hold only strings, numbers and lists");
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// An error; the message says what to do, and never quotes a body or a secret.
pub fn error(status: StatusCode, code: &str, message: &str) -> Answer {
    json(status, &json!({"error": {"code": code, "message": message}}))
}

/// Adds a header to an answer.
pub fn with(mut answer: Answer, name: HeaderName, value: &str) -> Answer {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
    answer
}
