//! One exchange: a request goes out, and what comes back is named.
//!
//! *Invariants.* Redirects are not followed. Of an answer no more than the head that [`Connections`] allow and
//! about [`BODY_BYTES_MAX`] of body are read, and for no longer than the timeout. A status decides; a body that breaks off
//! behind it changes nothing.

use super::connections::{BoxError, Connections, Link};
use super::connector::Connector;
use super::wire::{Traffic, Wire};
use crate::delivery::Outcome;
use crate::http::tls_fault::TlsFault;
use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::rt::{Read, Write};
use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::Duration;
use tower_service::Service;

/// So much of an answer's body is read, to keep its connection usable; a longer one costs the connection.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

/// Connections over which requests go.
pub type HttpClient = Connections<Connector>;

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
pub enum Unanswered {
    /// Nothing was written, since it may not be sent any more.
    Shut,
    Failed(Failure),
}

/// What went wrong.
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

/// What ends an exchange before its answer.
enum Stop {
    Shut,
    NotConnected(BoxError),
    Broken(hyper::Error),
}

/// Sends a request and reads its answer. `gate` is asked when the connection is there, and what it gives is held until the
/// first byte is written: where it gives none, nothing is written. `at_head` hears of the answer before its body is read,
/// and before anybody else has the connection.
pub async fn exchange<C, T, P>(
    connections: &Connections<C>,
    request: Request<Full<Bytes>>,
    bounds: Bounds,
    gate: impl Fn() -> Option<P>,
    at_head: impl FnOnce(&Parts),
) -> Result<Answer, Unanswered>
where
    C: Service<Uri, Response = Wire<T>, Error: Into<BoxError>, Future: Send + 'static> + Clone + Send + 'static,
    T: Read + Write + Unpin + Send + 'static,
{
    let mut request = Some(addressed(request, connections));
    let mut link: Option<Link> = None;
    let mut begun: Option<(Parts, Vec<u8>)> = None;
    let whole = async {
        let answer = loop {
            link = None;
            let taken = link.insert(connections.take().await.map_err(Stop::NotConnected)?);
            match send(taken, &mut request, &gate).await.ok_or(Stop::Shut)? {
                Ok(answer) => break answer,
                // its peer closed it while it was idle, and nothing of the request was looked at
                Err(mut e) if !taken.fresh && e.message().is_some() => request = e.take_message(),
                Err(e) => return Err(Stop::Broken(e.into_error())),
            }
        };
        let (parts, body) = answer.into_parts();
        let taken = link.as_mut().expect("the answer came over it");
        taken.traffic.answered();
        at_head(&parts);
        let (_, kept) = begun.insert((parts, Vec::new()));
        Ok(taken.during(read(body, kept, bounds.kept_bytes)).await)
    };
    let end = tokio::time::timeout(bounds.timeout, whole).await;
    let traffic = link.as_ref().map(|link| link.traffic.clone());
    let failed = |failure| Err(Unanswered::Failed(failure));
    let end = match end {
        Ok(Ok(end)) => end,
        Ok(Err(Stop::Shut)) => {
            // a connection that was given the request would write it when it is moved the next time
            if request.is_some() {
                link.into_iter().for_each(|unused| connections.put(unused));
            }
            return Err(Unanswered::Shut);
        }
        Ok(Err(Stop::NotConnected(error))) => return failed(not_connected(&error, bounds.timeout)),
        Ok(Err(Stop::Broken(error))) => return failed(broken(&error, traffic.as_deref())),
        Err(_) => End::TimedOut,
    };
    let Some((parts, body)) = begun else {
        return failed(timed_out(traffic.as_deref(), bounds.timeout));
    };
    if end == End::Whole {
        link.into_iter().for_each(|used| connections.put(used));
    }
    Ok(Answer { status: parts.status, headers: parts.headers, body, end })
}

/// The values of all lines of a header; those that are no text are left out.
pub fn values<'h>(headers: &'h HeaderMap, name: &str) -> Vec<&'h str> {
    headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok()).collect()
}

/// As it goes to the host itself: only path and query in its first line (RFC 9112, 3.2.1).
fn addressed<C>(mut request: Request<Full<Bytes>>, connections: &Connections<C>) -> Request<Full<Bytes>> {
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    request.headers_mut().entry(header::HOST).or_insert_with(|| connections.host.clone());
    request
}

/// Hands a request over and waits for the head of its answer; none where the gate shut before its first byte was written.
async fn send<P>(
    link: &mut Link,
    request: &mut Option<Request<Full<Bytes>>>,
    gate: impl Fn() -> Option<P>,
) -> Option<Result<Response<Incoming>, TrySendError<Request<Full<Bytes>>>>> {
    let mut answer = None;
    poll_fn(|cx| {
        let Some(_pass) = gate() else { return Poll::Ready(None) };
        if let Some(request) = request.take() {
            answer = Some(link.hand_over(request));
        }
        link.advance(cx);
        if link.traffic.wrote() || link.has_ended() { Poll::Ready(Some(())) } else { Poll::Pending }
    })
    .await?;
    Some(link.during(answer?).await)
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

fn not_connected(error: &BoxError, timeout: Duration) -> Failure {
    let mut io = causes(error.as_ref()).filter_map(|e| e.downcast_ref::<io::Error>());
    if io.any(|e| e.kind() == io::ErrorKind::TimedOut) {
        let outcome = Outcome::ConnectTimedOut;
        return Failure { error: late(&outcome, timeout), outcome };
    }
    let (error, fault) = (words(error.as_ref()), TlsFault::of(error.as_ref()));
    let error = fault.map(|fault| format!("{}; {} ({error})", fault.words(), fault.remedy())).unwrap_or(error);
    Failure { outcome: Outcome::NotConnected, error }
}

fn broken(error: &hyper::Error, traffic: Option<&Traffic>) -> Failure {
    if let Some(refusal) = traffic.and_then(Traffic::refusal) {
        return Failure { outcome: Outcome::NotConnected, error: format!("TLS: {refusal}") };
    }
    let outcome = if traffic.is_some_and(Traffic::wrote) { Outcome::Broken } else { Outcome::NotSent };
    Failure { outcome, error: words(error) }
}

fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |e| (*e).source())
}

fn words(error: &(dyn Error + 'static)) -> String {
    causes(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::rt::ReadBufCursor;
    use std::pin::Pin;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Context;

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
            let connections = Connections::new(peer, Uri::from_static("http://peer/"), 1);
            let body = Bytes::from(vec![b'x'; 5_000]);
            let request = Request::post("http://peer/").body(Full::new(body)).unwrap();
            let bounds = Bounds { timeout: Duration::from_millis(30), kept_bytes: 10 };
            let end = exchange(&connections, request, bounds, || Some(()), |_| ()).await;
            let Err(Unanswered::Failed(failure)) = end else { panic!("{peer:?}: {end:?}") };
            assert_eq!(failure.outcome, outcome, "{peer:?}: {}", failure.error);
        }
    }

    #[tokio::test]
    async fn what_is_shut_out_writes_nothing_and_leaves_its_connection_to_the_next() {
        let peer = Peer { takes: 100_000, then: Then::Silence };
        let connections = Connections::new(peer, Uri::from_static("http://peer/"), 1);
        let request = || Request::post("http://peer/").body(Full::new(Bytes::from_static(b"x"))).unwrap();
        let bounds = Bounds { timeout: Duration::from_millis(30), kept_bytes: 10 };
        let end = exchange(&connections, request(), bounds, || None::<()>, |_| ()).await;
        assert!(matches!(end, Err(Unanswered::Shut)), "{end:?}");
        let link = connections.take().await.unwrap();
        assert!(!link.fresh && !link.traffic.wrote());
        // a gate that shuts while the connection takes nothing shuts out as well
        let (full, asked) = (Peer { takes: 0, ..peer }, AtomicU32::new(0));
        let connections = Connections::new(full, Uri::from_static("http://peer/"), 1);
        let gate = || (asked.fetch_add(1, Ordering::SeqCst) < 3).then_some(());
        let end = exchange(&connections, request(), bounds, gate, |_| ()).await;
        assert!(matches!(end, Err(Unanswered::Shut)), "{end:?}");
        assert!(connections.take().await.unwrap().fresh, "it had a request already");
    }
}
