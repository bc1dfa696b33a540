//! One exchange: a request goes out, and what comes back is named.
//!
//! *Invariants.* Redirects are not followed. Of an answer no more than [`HEAD_BYTES_MAX`] of head and about
//! [`BODY_BYTES_MAX`] of body are read, and for no longer than the timeout. A status decides; a body that breaks off
//! behind it changes nothing.

use super::connector::Connector;
use super::wire::{self, Traffic};
use crate::delivery::Outcome;
use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::{Connect, capture_connection};
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// So much of an answer's body is read, to keep its connection usable; a longer one costs the connection.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// A longer head is no answer.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// An answer with more headers is none.
const HEADERS_MAX: usize = 100;
/// Idle connections go before most peers close them, so that a request does not meet a connection that is being closed.
const IDLE_MAX: Duration = Duration::from_secs(20);

pub type HttpClient = Client<Connector, Full<Bytes>>;

/// A client that keeps up to `idle_max` connections for the next requests.
pub fn client(connector: Connector, idle_max: usize) -> HttpClient {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_MAX)
        .pool_max_idle_per_host(idle_max)
        .http1_max_buf_size(HEAD_BYTES_MAX)
        .http1_max_headers(HEADERS_MAX)
        .build(connector)
}

/// An answer, with as much of its body as is kept.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub end: End,
}

/// How the body of an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Whole,
    TooLong,
    Broken,
    TimedOut,
}

/// Why there is no answer.
#[derive(Debug)]
pub struct Failure {
    pub outcome: Outcome,
    /// In words. They name addresses and system errors, never headers or bodies.
    pub error: String,
}

/// How long an exchange may take, and how much of the answer's body is kept.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub timeout: Duration,
    pub kept_bytes: usize,
}

/// Sends a request and reads its answer. `at_head` hears of the answer before its body is read.
pub async fn exchange<C: Connect + Clone + Send + Sync + 'static>(
    client: &Client<C, Full<Bytes>>,
    mut request: Request<Full<Bytes>>,
    bounds: Bounds,
    at_head: impl FnOnce(&Parts),
) -> Result<Answer, Failure> {
    let captured = capture_connection(&mut request);
    let mut begun: Option<(Parts, Vec<u8>)> = None;
    let whole = async {
        let (parts, body) = client.request(request).await?.into_parts();
        if let Some(traffic) = parts.extensions.get::<Arc<Traffic>>() {
            traffic.answered();
        }
        at_head(&parts);
        let (_, kept) = begun.insert((parts, Vec::new()));
        Ok(read(body, kept, bounds.kept_bytes).await)
    };
    let end = match tokio::time::timeout(bounds.timeout, whole).await {
        Ok(Ok(end)) => end,
        Ok(Err(error)) => return Err(failed(&error, Traffic::of(&captured).as_deref(), bounds.timeout)),
        Err(_) => End::TimedOut,
    };
    match begun {
        Some((parts, body)) => Ok(Answer { status: parts.status, headers: parts.headers, body, end }),
        None => Err(timed_out(Traffic::of(&captured).as_deref(), bounds.timeout)),
    }
}

/// Reads a body, and keeps so much of its beginning.
async fn read(mut body: Incoming, kept: &mut Vec<u8>, kept_max: usize) -> End {
    let mut read = 0;
    loop {
        match body.frame().await {
            None => return End::Whole,
            Some(Err(_)) => return End::Broken,
            Some(Ok(frame)) => {
                let Ok(data) = frame.into_data() else { continue };
                read += data.len();
                let room = kept_max - kept.len();
                kept.extend_from_slice(&data[..data.len().min(room)]);
            }
        }
        if read > BODY_BYTES_MAX {
            return End::TooLong;
        }
    }
}

fn timed_out(traffic: Option<&Traffic>, timeout: Duration) -> Failure {
    let outcome = match traffic {
        None => Outcome::ConnectTimedOut,
        Some(traffic) if traffic.wrote() => Outcome::TimedOut,
        Some(_) => Outcome::NotSent,
    };
    Failure { outcome: outcome.clone(), error: late(&outcome, timeout) }
}

fn late(outcome: &Outcome, timeout: Duration) -> String {
    let timeout = humantime::format_duration(timeout);
    match outcome {
        Outcome::ConnectTimedOut => format!("no connection within {timeout}"),
        Outcome::NotSent => format!("nothing could be written within {timeout}"),
        _ => format!("no answer within {timeout}"),
    }
}

fn failed(error: &ClientError, traffic: Option<&Traffic>, timeout: Duration) -> Failure {
    let causes = || std::iter::successors(Some(error as &dyn Error), |e| (*e).source());
    let io = || causes().filter_map(|e| e.downcast_ref::<io::Error>());
    if let Some(refusal) = traffic.and_then(Traffic::refusal) {
        return Failure { outcome: Outcome::NotConnected, error: format!("TLS: {refusal}") };
    }
    let outcome = if error.is_connect() {
        if io().any(|e| e.kind() == io::ErrorKind::TimedOut) {
            let outcome = Outcome::ConnectTimedOut;
            return Failure { error: late(&outcome, timeout), outcome };
        }
        Outcome::NotConnected
    } else {
        match traffic {
            None if io().any(wire::refuses_client) => Outcome::NotConnected,
            Some(traffic) if traffic.wrote() => Outcome::Broken,
            _ => Outcome::NotSent,
        }
    };
    let error = causes().map(ToString::to_string).collect::<Vec<_>>().join(": ");
    Failure { outcome, error }
}

#[cfg(test)]
mod tests {
    use super::super::wire::Wire;
    use super::*;
    use http::Uri;
    use hyper::rt::{Read, ReadBufCursor, Write};
    use hyper_util::client::legacy::connect::{Connected, Connection};
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use tower_service::Service;

    /// A peer that takes so many bytes, and then closes or is silent.
    #[derive(Clone, Copy, Debug)]
    struct Peer {
        takes: usize,
        then: Then,
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Then {
        Close,
        Silence,
        /// It is not even there.
        NoConnection,
    }

    impl Connection for Peer {
        fn connected(&self) -> Connected {
            Connected::new()
        }
    }

    impl Read for Peer {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
            if self.takes == 0 && self.then == Then::Close { Poll::Ready(Ok(())) } else { Poll::Pending }
        }
    }

    impl Write for Peer {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let taken = self.takes.min(bytes.len());
            self.takes -= taken;
            cx.waker().wake_by_ref();
            if taken > 0 { Poll::Ready(Ok(taken)) } else { Poll::Pending }
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl Service<Uri> for Peer {
        type Response = Wire<Self>;
        type Error = io::Error;
        type Future = Pin<Box<dyn Future<Output = io::Result<Wire<Self>>> + Send>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Uri) -> Self::Future {
            let peer = *self;
            Box::pin(async move {
                match peer.then {
                    Then::NoConnection => std::future::pending().await,
                    _ => Ok(Wire::new(peer)),
                }
            })
        }
    }

    #[tokio::test]
    async fn one_written_byte_makes_the_difference() {
        for (takes, then, outcome) in [
            (0, Then::NoConnection, Outcome::ConnectTimedOut),
            (0, Then::Close, Outcome::NotSent),
            (0, Then::Silence, Outcome::NotSent),
            (1, Then::Close, Outcome::Broken),
            (1, Then::Silence, Outcome::TimedOut),
            (100_000, Then::Silence, Outcome::TimedOut),
        ] {
            let peer = Peer { takes, then };
            let client = Client::builder(TokioExecutor::new()).build(peer);
            let body = Bytes::from(vec![b'x'; 5_000]);
            let request = Request::post("http://peer/").body(Full::new(body)).unwrap();
            let bounds = Bounds { timeout: Duration::from_millis(30), kept_bytes: 10 };
            let failure = exchange(&client, request, bounds, |_| ()).await.unwrap_err();
            assert_eq!(failure.outcome, outcome, "{peer:?}: {}", failure.error);
        }
    }
}
