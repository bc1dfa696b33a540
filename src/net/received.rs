//! The body of a request as it comes, and what becomes of the rest where nobody wants it.
//!
//! *Invariants.* A body that is dropped before its end hinders nobody from reading the answer. A short rest is read and
//! discarded, and the connection goes on; over HTTP/2 any rest is, within the bounds of [`super::linger`]. Otherwise the
//! connection ends with the answer, and lingers.

use super::connection_limiter::Slot;
use super::linger;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// Up to here reading the rest costs less than a new connection.
const SHORT_BYTES_MAX: u64 = 64 * 1024;

#[derive(Debug)]
pub struct Received {
    /// None once it was handed on, or given up.
    body: Option<Incoming>,
    seat: Slot,
    framing: Framing,
    linger_timeout: Duration,
}

/// How the end of a body is known, as far as its rest is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// HTTP/1: what comes next on the connection stands behind the body.
    InOrder,
    /// HTTP/1, and the sender waits for `100 Continue`: after a refusal it may send the body or not.
    Expected,
    /// HTTP/2: a stream of its own.
    Stream,
}

impl Received {
    /// The request with its body; `linger_timeout` bounds how long a rest is read.
    pub fn of(request: http::Request<Incoming>, seat: &Slot, linger_timeout: Duration) -> http::Request<Self> {
        let framing = match request.version() {
            http::Version::HTTP_2 => Framing::Stream,
            _ if request.headers().contains_key(http::header::EXPECT) => Framing::Expected,
            _ => Framing::InOrder,
        };
        request.map(|body| Self { body: Some(body), seat: seat.clone(), framing, linger_timeout })
    }

    /// Nothing more of it is read: the sender is too slow, or its framing is wrong.
    pub fn give_up(mut self) {
        self.leave();
    }

    fn leave(&mut self) {
        if self.body.take().is_some() && self.framing != Framing::Stream {
            self.seat.leave_unread();
        }
    }
}

impl Body for Received {
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

impl Drop for Received {
    fn drop(&mut self) {
        if self.is_end_stream() {
            return;
        }
        let is_short = self.size_hint().upper().is_some_and(|rest| rest <= SHORT_BYTES_MAX);
        let goes_on = self.framing == Framing::Stream || (self.framing == Framing::InOrder && is_short);
        match (tokio::runtime::Handle::try_current(), self.body.take_if(|_| goes_on)) {
            (Ok(runtime), Some(body)) => {
                runtime.spawn(discard(body, self.seat.clone(), self.framing, self.linger_timeout));
            }
            _ => self.leave(),
        }
    }
}

/// Reads what is left, within bounds.
async fn discard(mut body: Incoming, seat: Slot, framing: Framing, timeout: Duration) {
    let _lingering = seat.linger();
    let (mut left, silence) = (linger::BYTES_MAX, linger::SILENCE.min(timeout));
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
        seat.leave_unread();
    }
}
