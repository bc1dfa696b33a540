//! The body of a request, and what happens to the rest of it after the answer; and whether its Host is valid.
//!
//! *Invariants.* A body that is dropped before its end does not prevent the sender from reading the answer. A short rest
//! is read and discarded, and the connection stays open; over HTTP/2 any rest is, within the limits of
//! [`super::stream::linger`]. Otherwise the connection ends with the answer, and lingers.

use super::connection_limiter::Slot;
use super::stream::{LINGER_BYTES_MAX, LINGER_SILENCE};
use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderMap, Uri, Version, header};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// Up to this length reading the rest costs less than a new connection.
const SHORT_BYTES_MAX: u64 = 64 * 1024;

#[derive(Debug)]
pub struct RequestBody {
    /// None once it was handed on, or given up.
    body: Option<Incoming>,
    slot: Slot,
    framing: Framing,
    linger_timeout: Duration,
}

/// Where the end of a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// HTTP/1: the next request follows the body.
    InOrder,
    /// HTTP/1, and the sender waits for `100 Continue`: after a refusal it may send the body or not.
    Expected,
    /// HTTP/2: a stream of its own.
    Stream,
}

impl RequestBody {
    /// The request with its body; `linger_timeout` bounds how long a rest is read.
    pub fn of(request: http::Request<Incoming>, slot: &Slot, linger_timeout: Duration) -> http::Request<Self> {
        let framing = match request.version() {
            http::Version::HTTP_2 => Framing::Stream,
            _ if request.headers().contains_key(http::header::EXPECT) => Framing::Expected,
            _ => Framing::InOrder,
        };
        request.map(|body| Self { body: Some(body), slot: slot.clone(), framing, linger_timeout })
    }

    /// Nothing more of it is read: the sender is too slow, or its framing is wrong.
    pub fn give_up(mut self) {
        self.leave();
    }

    fn leave(&mut self) {
        if self.body.take().is_some() && self.framing != Framing::Stream {
            self.slot.leave_unread();
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        match &frame {
            None => self.body = None,
            Some(Err(_)) => self.leave(),
            Some(Ok(_)) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if self.is_end_stream() {
            return;
        }
        let is_short = self.size_hint().upper().is_some_and(|rest| rest <= SHORT_BYTES_MAX);
        let goes_on = self.framing == Framing::Stream || (self.framing == Framing::InOrder && is_short);
        match (tokio::runtime::Handle::try_current(), self.body.take_if(|_| goes_on)) {
            (Ok(runtime), Some(body)) => {
                runtime.spawn(discard(body, self.slot.clone(), self.framing, self.linger_timeout));
            }
            _ => self.leave(),
        }
    }
}

/// Reads what is left, within bounds.
async fn discard(mut body: Incoming, slot: Slot, framing: Framing, timeout: Duration) {
    let _lingering = slot.linger();
    let (mut left, silence) = (LINGER_BYTES_MAX, LINGER_SILENCE.min(timeout));
    let read = tokio::time::timeout(timeout, async {
        while left > 0 {
            match tokio::time::timeout(silence, body.frame()).await {
                Ok(Some(Ok(frame))) => left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len)),
                Ok(None) => return true,
                Ok(Some(Err(_))) | Err(_) => return false,
            }
        }
        false
    });
    if !matches!(read.await, Ok(true)) && framing != Framing::Stream {
        slot.leave_unread();
    }
}

/// Whether the Host is valid for the version. HTTP/1.1 requires exactly one `Host` line, HTTP/1.0 allows at most one; in
/// HTTP/2 it may be absent where `:authority` is present, and must not contradict it. In HTTP/1.1 a target in absolute
/// form counts and its `Host` is ignored (RFC 9112, section 3.2.2).
pub fn has_valid_host(version: Version, uri: &Uri, headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::HOST).iter();
    let (first, second) = (lines.next(), lines.next());
    if second.is_some() {
        return false;
    }
    let Some(host) = first else {
        return version < Version::HTTP_11 || (version >= Version::HTTP_2 && uri.host().is_some());
    };
    let Some(host) = host.to_str().ok().filter(|host| is_host(host)) else { return false };
    match uri.authority() {
        Some(authority) if version >= Version::HTTP_2 => authority.as_str().eq_ignore_ascii_case(host),
        _ => true,
    }
}

/// A host with or without a port, without a user name; the grammar allows an empty one.
fn is_host(text: &str) -> bool {
    text.is_empty() || (!text.contains('@') && text.parse::<Authority>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn sound(version: Version, uri: &str, hosts: &[&'static str]) -> bool {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(header::HOST, HeaderValue::from_static(host));
        }
        has_valid_host(version, &uri.parse().unwrap(), &headers)
    }

    #[test]
    fn a_request_has_one_host_as_its_version_requires() {
        let (old, one, two) = (Version::HTTP_10, Version::HTTP_11, Version::HTTP_2);
        let cases: [(Version, &str, &[&'static str], bool); 19] = [
            (one, "/in/a", &["holdline.internal"], true),
            (one, "/in/a", &["holdline.internal:8080"], true),
            (one, "/in/a", &["[::1]:8080"], true),
            (one, "/in/a", &["under_score"], true),
            (one, "/in/a", &[""], true),
            (one, "/in/a", &[], false),
            (one, "/in/a", &["a", "b"], false),
            (one, "/in/a", &["a", "a"], false),
            (one, "/in/a", &["a b"], false),
            (one, "/in/a", &["a, b"], false),
            (one, "/in/a", &["user@a"], false),
            (one, "/in/a", &["a/b"], false),
            (one, "http://a/in/a", &["b"], true),
            (one, "http://a/in/a", &[], false),
            (old, "/in/a", &[], true),
            (old, "/in/a", &["a", "b"], false),
            (two, "https://a/in/a", &[], true),
            (two, "https://a/in/a", &["A"], true),
            (two, "https://a/in/a", &["b"], false),
        ];
        for (version, uri, hosts, is) in cases {
            assert_eq!(sound(version, uri, hosts), is, "{version:?} {uri} {hosts:?}");
        }
    }
}
