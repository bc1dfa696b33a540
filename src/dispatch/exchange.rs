//! One exchange: a request and its answer, or why there is none.
//!
//! *Invariants.* Redirects are not followed. Of an answer, at most the head that [`Connections`] allow and about
//! [`BODY_BYTES_MAX`] of body are read, within the timeout. The outcome depends on the status; a body that ends
//! prematurely does not change it.

use super::connections::{BoxError, Connections, Keep, PooledConnection, Sent};
use super::connector::Connector;
use super::counted_stream::{ByteCounts, CountedStream};
use super::head::values;
use crate::clock;
use crate::delivery::Outcome;
use crate::net::tls_fault::TlsFault;
use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::Duration;
use tower_service::Service;

/// At most this much of a body is read, to keep the connection usable; with a longer body the connection is closed.
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
    /// The time until a pooled connection turned out to be closed.
    pub lost: Duration,
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
    /// The gate is closed. Nothing was written, or only to a connection that its peer was closing.
    Blocked,
    Failed(Failure),
}

/// What went wrong.
#[derive(Debug)]
pub struct Failure {
    pub outcome: Outcome,
    /// Names addresses and system errors, never headers or bodies.
    pub error: String,
    /// See [`Answer`].
    pub lost: Duration,
}

impl Failure {
    fn new(outcome: Outcome, error: String) -> Self {
        Self { outcome, error, lost: Duration::ZERO }
    }
}

/// How long an exchange may take, and how much of the answer's body is kept.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub timeout: Duration,
    pub kept_bytes: usize,
}

/// What ends an exchange before its answer.
enum Stop {
    Blocked,
    NotConnected(BoxError),
    Broken(hyper::Error),
    /// The peer was closing the connection.
    Stale(Box<Request<Full<Bytes>>>),
}

/// Over which connection a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Any,
    New,
}

/// How one try to get an answer ended.
enum Tried {
    Ended(Result<Answer, Unanswered>),
    Stale(Request<Full<Bytes>>),
}

/// Sends a request and reads its answer. `gate` is called when the connection exists, and its permit is kept until the
/// first byte is written; without a permit nothing is written. `at_head` is called before the body is read, and before
/// another exchange gets the connection.
///
/// A request on a reused connection that the peer was closing is resent once on a new connection, immediately and with
/// the whole timeout; that is not a failure. The peer was closing the connection if it sent no byte of an answer, or
/// only a 408 that announces the close (RFC 9110, 15.5.9). `gate` is called again before the first byte of the resent
/// request.
pub async fn exchange<C, T, P>(
    connections: &Connections<C>,
    request: Request<Full<Bytes>>,
    bounds: Bounds,
    gate: impl Fn() -> Option<P>,
    mut at_head: impl FnMut(&Parts),
) -> Result<Answer, Unanswered>
where
    C: Service<Uri, Response = CountedStream<T>, Error: Into<BoxError>, Future: Send + 'static>
        + Clone
        + Send
        + 'static,
    T: Read + Write + Unpin + Send + 'static,
{
    let began = clock::monotonic();
    let first =
        exchange_once(connections, addressed(request, connections), Over::Any, bounds, &gate, &mut at_head).await;
    let again = match first {
        Tried::Ended(end) => return end,
        Tried::Stale(again) => again,
    };
    let lost = clock::monotonic() - began;
    match exchange_once(connections, again, Over::New, bounds, &gate, &mut at_head).await {
        Tried::Ended(Ok(answer)) => Ok(Answer { lost, ..answer }),
        Tried::Ended(Err(Unanswered::Failed(failure))) => Err(Unanswered::Failed(Failure { lost, ..failure })),
        Tried::Ended(blocked) => blocked,
        Tried::Stale(_) => unreachable!("a new connection is never stale"),
    }
}

async fn exchange_once<C, T, P>(
    connections: &Connections<C>,
    request: Request<Full<Bytes>>,
    over: Over,
    bounds: Bounds,
    gate: &impl Fn() -> Option<P>,
    at_head: &mut impl FnMut(&Parts),
) -> Tried
where
    C: Service<Uri, Response = CountedStream<T>, Error: Into<BoxError>, Future: Send + 'static>
        + Clone
        + Send
        + 'static,
    T: Read + Write + Unpin + Send + 'static,
{
    let mut request = Some(request);
    let mut link: Option<PooledConnection> = None;
    let mut begun: Option<(Parts, Vec<u8>)> = None;
    let whole = async {
        let answer = answer_head(connections, over, &mut link, &mut request, gate).await?;
        let (parts, body) = answer.into_parts();
        let taken = link.as_mut().expect("the answer came over it");
        taken.answered(&parts);
        if let Some(idle) = taken.idled {
            connections.brought_answer(idle);
        }
        at_head(&parts);
        let (_, kept) = begun.insert((parts, Vec::new()));
        Ok(taken.during(read(body, kept, bounds.kept_bytes)).await)
    };
    let end = tokio::time::timeout(bounds.timeout, whole).await;
    let traffic = link.as_ref().map(|link| link.traffic.clone());
    let failed = |failure| Tried::Ended(Err(Unanswered::Failed(failure)));
    let end = match end {
        Ok(Ok(end)) => end,
        Ok(Err(Stop::Blocked)) => {
            // a connection that has the request would write it when it is next polled
            if request.is_some() {
                link.into_iter().for_each(|unused| connections.put(unused));
            }
            return Tried::Ended(Err(Unanswered::Blocked));
        }
        Ok(Err(Stop::Stale(again))) => return Tried::Stale(*again),
        Ok(Err(Stop::NotConnected(error))) => return failed(not_connected(&error, bounds.timeout)),
        Ok(Err(Stop::Broken(error))) => return failed(broken(&error, traffic.as_deref())),
        Err(_) => End::TimedOut,
    };
    let Some((parts, body)) = begun else {
        return failed(timed_out(traffic.as_deref(), bounds.timeout));
    };
    if parts.status.is_success() && traffic.is_some_and(|traffic| traffic.write_failed()) {
        let error = format!("answered {}, but closed before it had the whole request", parts.status.as_u16());
        return failed(Failure::new(Outcome::Broken, error));
    }
    if end == End::Whole {
        link.into_iter().for_each(|used| connections.put(used));
    }
    Tried::Ended(Ok(Answer { status: parts.status, headers: parts.headers, body, end, lost: Duration::ZERO }))
}

/// Takes a connection, and another one as long as idle ones turn out to be closed; sends the request over it, and waits
/// for the head of its answer. The connection is in `link` as soon as there is one.
async fn answer_head<C, T, P>(
    connections: &Connections<C>,
    over: Over,
    link: &mut Option<PooledConnection>,
    request: &mut Option<Request<Full<Bytes>>>,
    gate: &impl Fn() -> Option<P>,
) -> Result<Response<Incoming>, Stop>
where
    C: Service<Uri, Response = CountedStream<T>, Error: Into<BoxError>, Future: Send + 'static>
        + Clone
        + Send
        + 'static,
    T: Read + Write + Unpin + Send + 'static,
{
    loop {
        *link = None;
        let taken = match over {
            Over::Any => connections.take().await,
            Over::New => connections.make().await,
        };
        let taken = link.insert(taken.map_err(Stop::NotConnected)?);
        let idled = taken.idled;
        let spare = idled.and_then(|_| request.clone()).map(Box::new);
        let sent = send(taken, request, gate).await.ok_or(Stop::Blocked)?;
        let stale = match &sent {
            Ok(answer) => announces_close(answer),
            Err(e) => e.message().is_some() || !taken.traffic.received(),
        };
        let Some((idle, spare)) = idled.zip(spare).filter(|_| stale) else {
            return sent.map_err(|e| Stop::Broken(e.into_error()));
        };
        connections.found_closed(idle);
        match sent {
            // no part of it was processed, so it can be sent over another connection
            Err(mut e) if e.message().is_some() => *request = e.take_message(),
            _ => return Err(Stop::Stale(spare)),
        }
    }
}

/// Whether this is the 408 that some servers send before they close an idle connection, not an answer to the request.
fn announces_close(answer: &Response<Incoming>) -> bool {
    let headers = answer.headers();
    let mut connection = values(headers, "connection").into_iter().flat_map(|line| line.split(','));
    let closes = answer.version() == Version::HTTP_10 || connection.any(|o| o.trim().eq_ignore_ascii_case("close"));
    answer.status() == StatusCode::REQUEST_TIMEOUT && closes && !headers.contains_key(header::RETRY_AFTER)
}

/// In origin form: only path and query in the first line (RFC 9112, 3.2.1).
fn addressed<C>(mut request: Request<Full<Bytes>>, connections: &Connections<C>) -> Request<Full<Bytes>> {
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    request.headers_mut().entry(header::HOST).or_insert_with(|| connections.host.clone());
    if connections.keep == Keep::Never {
        request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    request
}

/// Sends a request and waits for the head of its answer; none where the gate closed before the first byte was written.
async fn send<P>(
    link: &mut PooledConnection,
    request: &mut Option<Request<Full<Bytes>>>,
    gate: &impl Fn() -> Option<P>,
) -> Option<Sent> {
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

/// Reads a body, and keeps its first `kept_max` bytes.
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

fn timed_out(traffic: Option<&ByteCounts>, timeout: Duration) -> Failure {
    let outcome = match traffic {
        None => Outcome::ConnectTimedOut,
        Some(traffic) if traffic.wrote() => Outcome::TimedOut,
        Some(_) => Outcome::NotSent,
    };
    let error = late(&outcome, timeout);
    Failure::new(outcome, error)
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
        let error = late(&outcome, timeout);
        return Failure::new(outcome, error);
    }
    let (error, fault) = (words(error.as_ref()), TlsFault::of(error.as_ref()));
    let error = fault.map(|fault| format!("{}; {} ({error})", fault.words(), fault.remedy())).unwrap_or(error);
    Failure::new(Outcome::NotConnected, error)
}

fn broken(error: &hyper::Error, traffic: Option<&ByteCounts>) -> Failure {
    if let Some(refusal) = traffic.and_then(ByteCounts::refusal) {
        return Failure::new(Outcome::NotConnected, format!("TLS: {refusal}"));
    }
    let outcome = if traffic.is_some_and(ByteCounts::wrote) { Outcome::Broken } else { Outcome::NotSent };
    Failure::new(outcome, words(error))
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

    /// A peer that reads this many bytes, and then closes or is silent.
    #[derive(Clone, Copy, Debug)]
    struct Peer {
        takes: usize,
        then: Then,
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Then {
        Close,
        Silence,
        /// There is no peer.
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
        type Response = CountedStream<Self>;
        type Error = io::Error;
        type Future = Pin<Box<dyn Future<Output = io::Result<CountedStream<Self>>> + Send>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Uri) -> Self::Future {
            let peer = *self;
            Box::pin(async move {
                match peer.then {
                    Then::NoConnection => std::future::pending().await,
                    _ => Ok(CountedStream::new(peer)),
                }
            })
        }
    }

    const KEEP: Keep = Keep::For(Duration::from_secs(120));

    #[tokio::test]
    async fn one_written_byte_makes_an_attempt_ambiguous() {
        for (takes, then, outcome) in [
            (0, Then::NoConnection, Outcome::ConnectTimedOut),
            (0, Then::Close, Outcome::NotSent),
            (0, Then::Silence, Outcome::NotSent),
            (1, Then::Close, Outcome::Broken),
            (1, Then::Silence, Outcome::TimedOut),
            (100_000, Then::Silence, Outcome::TimedOut),
        ] {
            let peer = Peer { takes, then };
            let connections = Connections::new(peer, Uri::from_static("http://peer/"), 1, KEEP);
            let body = Bytes::from(vec![b'x'; 5_000]);
            let request = Request::post("http://peer/").body(Full::new(body)).unwrap();
            let bounds = Bounds { timeout: Duration::from_millis(30), kept_bytes: 10 };
            let end = exchange(&connections, request, bounds, || Some(()), |_| ()).await;
            let Err(Unanswered::Failed(failure)) = end else { panic!("{peer:?}: {end:?}") };
            assert_eq!(failure.outcome, outcome, "{peer:?}: {}", failure.error);
        }
    }

    #[tokio::test]
    async fn a_blocked_send_writes_nothing_and_its_connection_is_reused() {
        let peer = Peer { takes: 100_000, then: Then::Silence };
        let connections = Connections::new(peer, Uri::from_static("http://peer/"), 1, KEEP);
        let request = || Request::post("http://peer/").body(Full::new(Bytes::from_static(b"x"))).unwrap();
        let bounds = Bounds { timeout: Duration::from_millis(30), kept_bytes: 10 };
        let end = exchange(&connections, request(), bounds, || None::<()>, |_| ()).await;
        assert!(matches!(end, Err(Unanswered::Blocked)), "{end:?}");
        let link = connections.take().await.unwrap();
        assert!(link.idled.is_some() && !link.traffic.wrote());
        // a gate that closes while the connection accepts no bytes also prevents the request
        let (full, asked) = (Peer { takes: 0, ..peer }, AtomicU32::new(0));
        let connections = Connections::new(full, Uri::from_static("http://peer/"), 1, KEEP);
        let gate = || (asked.fetch_add(1, Ordering::SeqCst) < 3).then_some(());
        let end = exchange(&connections, request(), bounds, gate, |_| ()).await;
        assert!(matches!(end, Err(Unanswered::Blocked)), "{end:?}");
        assert!(connections.take().await.unwrap().idled.is_none(), "it had a request already");
    }
}
