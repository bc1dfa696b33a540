//! Answers: JSON bodies, and the one shape of every error, `{"error":{"code":"...","message":"..."}}`.

use super::connection_limiter::ActiveRequest;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use serde::Serialize;
use serde_json::json;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

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

/// The body of an answer; the request counts as active until it is sent or dropped.
#[derive(Debug)]
pub struct TrackedBody<B> {
    body: B,
    request: Option<ActiveRequest>,
}

impl<B> TrackedBody<B> {
    pub fn new(body: B, request: ActiveRequest) -> Self {
        Self { body, request: Some(request) }
    }
}

impl<B: Body + Unpin> Body for TrackedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() {
            self.request = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
