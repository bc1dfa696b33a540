//! The pool of connections to one destination.
//!
//! *Invariants.* A connection belongs to one exchange at a time. An exchange that waits for its own new connection uses
//! the first one that becomes free. An idle connection is closed when its peer has closed it, or before the peer may
//! close it: after at most [`keep_alive::IDLE_MAX`], shortly before the announced timeout, or after the
//! [learned](Learned) limit. Each connection ends after its lifetime, so that requests use the current address of the
//! name. With [`Keep::Never`] each request has its own connection.

use super::counted_stream::{ByteCounts, CountedStream, HEAD_BYTES_MAX};
use super::head::values;
use crate::clock;
use crate::rules::keep_alive::{self, KeepAlive, Learned};
use bytes::Bytes;
use http::response::Parts;
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::rt::{Read, Write};
use std::collections::VecDeque;
use std::error::Error;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Waker};
use std::time::Duration;
use tokio::sync::oneshot;
use tower_service::Service;

/// Interval between checks of idle connections: those closed by their peers are dropped, and their idle time is learned.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

pub type BoxError = Box<dyn Error + Send + Sync>;

/// What happens to a connection after its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// It is reused until this long after it was made.
    For(Duration),
    /// It is closed: if a request fails on a connection that is being closed, it is unknown whether it was received.
    Never,
}

/// The connections to one destination.
#[derive(Debug)]
pub struct Connections<C> {
    connector: C,
    uri: Uri,
    /// The value of the header `Host`.
    pub host: HeaderValue,
    pub keep: Keep,
    idle_max: usize,
    made: AtomicU64,
    pool: Shared,
}

type Shared = Arc<Mutex<Pool>>;

#[derive(Default)]
struct Pool {
    /// Each with the start of its idle time, latest last.
    idle: Vec<(Duration, PooledConnection)>,
    waiting: VecDeque<oneshot::Sender<PooledConnection>>,
    learned: Learned,
    swept: bool,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("idle", &self.idle.len()).field("waiting", &self.waiting.len()).finish()
    }
}

impl<C, T> Connections<C>
where
    C: Service<Uri, Response = CountedStream<T>, Error: Into<BoxError>, Future: Send + 'static>
        + Clone
        + Send
        + 'static,
    T: Read + Write + Unpin + Send + 'static,
{
    /// Connects to the host of `uri`; keeps up to `idle_max` idle connections.
    pub fn new(connector: C, uri: Uri, idle_max: usize, keep: Keep) -> Self {
        let host = host(&uri);
        Self { connector, uri, host, keep, idle_max, made: AtomicU64::new(0), pool: Shared::default() }
    }

    /// An idle connection, or the first that becomes free or is made.
    pub async fn take(&self) -> Result<PooledConnection, BoxError> {
        if self.keep == Keep::Never {
            return self.make().await;
        }
        let mut turn = {
            let mut pool = lock(&self.pool);
            if let Some(connection) = pool.idle(clock::monotonic()) {
                return Ok(connection);
            }
            let (mine, turn) = oneshot::channel();
            while pool.waiting.front().is_some_and(oneshot::Sender::is_closed) {
                pool.waiting.pop_front();
            }
            pool.waiting.push_back(mine);
            turn
        };
        let mut connecting = Box::pin(self.make());
        tokio::select! {
            biased;
            Ok(free) = &mut turn => {
                let (pool, idle_max) = (self.pool.clone(), self.idle_max);
                // the next exchange can use the connection
                tokio::spawn(async move {
                    if let Ok(connection) = connecting.await {
                        put(&pool, idle_max, connection);
                    }
                });
                Ok(free)
            }
            connected = &mut connecting => {
                turn.close();
                match (connected, turn.try_recv()) {
                    (Ok(connection), Ok(free)) => {
                        self.put(free);
                        Ok(connection)
                    }
                    (Err(_), Ok(free)) => Ok(free),
                    (connected, Err(_)) => connected,
                }
            }
        }
    }

    /// A new connection, even if one is idle.
    pub fn make(&self) -> impl Future<Output = Result<PooledConnection, BoxError>> + Send + use<C, T> {
        let n = self.made.fetch_add(1, Ordering::Relaxed);
        let lives = match self.keep {
            Keep::For(lifetime) => keep_alive::lifetime(lifetime, n),
            Keep::Never => Duration::ZERO,
        };
        connect(self.connector.clone(), self.uri.clone(), move || clock::monotonic() + lives)
    }

    /// Returns a connection whose answer has been read; it is kept if it can be reused.
    pub fn put(&self, connection: PooledConnection) {
        put(&self.pool, self.idle_max, connection);
    }

    /// A connection was found closed after this idle time.
    pub fn found_closed(&self, idle: Duration) {
        lock(&self.pool).learned.closed(idle, clock::monotonic());
    }

    /// A connection carried an answer after this idle time.
    pub fn brought_answer(&self, idle: Duration) {
        lock(&self.pool).learned.answered(idle);
    }
}

impl Pool {
    fn idle(&mut self, now: Duration) -> Option<PooledConnection> {
        while let Some((since, mut connection)) = self.idle.pop() {
            let idle = now.saturating_sub(since);
            if !connection.is_ready() {
                self.learned.closed(idle, now);
            } else if self.may_be_used(&connection, idle, now) {
                connection.idled = Some(idle);
                return Some(connection);
            } else {
                connection.close();
            }
        }
        None
    }

    fn may_be_used(&self, connection: &PooledConnection, idle: Duration, now: Duration) -> bool {
        connection.idle_max(now).is_some_and(|max| idle < max.min(self.learned.idle_max(now)))
    }

    /// Removes the connections that must be closed; also returns whether idle ones remain.
    fn sweep(&mut self, now: Duration) -> (Vec<PooledConnection>, bool) {
        let (mut over, mut kept) = (Vec::new(), Vec::new());
        for (since, mut connection) in self.idle.drain(..) {
            let idle = now.saturating_sub(since);
            if !connection.is_ready() {
                self.learned.closed(idle, now);
            } else {
                kept.push((since, connection));
            }
        }
        for (since, connection) in kept {
            if self.may_be_used(&connection, now.saturating_sub(since), now) {
                self.idle.push((since, connection));
            } else {
                over.push(connection);
            }
        }
        self.swept = !self.idle.is_empty();
        (over, self.swept)
    }
}

fn lock(pool: &Shared) -> MutexGuard<'_, Pool> {
    pool.lock().unwrap_or_else(PoisonError::into_inner)
}

fn put(shared: &Shared, idle_max: usize, mut connection: PooledConnection) {
    let now = clock::monotonic();
    if !connection.is_ready() {
        return;
    }
    let mut pool = lock(shared);
    if !pool.may_be_used(&connection, Duration::ZERO, now) {
        drop(pool);
        return connection.close();
    }
    connection.idled = Some(Duration::ZERO);
    while let Some(turn) = pool.waiting.pop_front() {
        match turn.send(connection) {
            Ok(()) => return,
            Err(left) => connection = left,
        }
    }
    if pool.idle.len() >= idle_max || !pool.learned.keeps(now) {
        drop(pool);
        return connection.close();
    }
    pool.idle.push((now, connection));
    if !std::mem::replace(&mut pool.swept, true) {
        tokio::spawn(sweep(Arc::downgrade(shared)));
    }
}

/// Closes connections that have been idle for too long, until none is idle.
async fn sweep(pool: Weak<Mutex<Pool>>) {
    let mut checks = tokio::time::interval(CHECK_INTERVAL);
    checks.tick().await;
    loop {
        checks.tick().await;
        let Some(shared) = pool.upgrade() else { return };
        let (over, goes_on) = lock(&shared).sweep(clock::monotonic());
        over.into_iter().for_each(PooledConnection::close);
        if !goes_on {
            return;
        }
    }
}

/// The header `Host` (RFC 9110, 7.2): without a port that the scheme implies.
fn host(uri: &Uri) -> HeaderValue {
    let (name, https) = (uri.host().unwrap_or_default(), uri.scheme_str() == Some("https"));
    let port = uri.port_u16().filter(|port| *port != if https { 443 } else { 80 });
    let host = port.map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));
    HeaderValue::try_from(host).expect("a host is visible ASCII")
}

/// How long a connection may take to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// An answer with more headers is invalid.
const HEADERS_MAX: usize = 1000;

/// The answer to a request, or an error, which returns the request if no part of it was processed.
pub type Sent = Result<Response<Incoming>, TrySendError<Request<Full<Bytes>>>>;

/// A connection that one exchange uses.
///
/// It is polled only by the task that uses it: what was checked when a request was handed over still holds when its
/// first byte is written, and the previous answer was evaluated before the next exchange uses the connection.
pub struct PooledConnection {
    sender: SendRequest<Full<Bytes>>,
    /// The future that drives it; none once it has ended.
    driver: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    pub traffic: Arc<ByteCounts>,
    /// How long it had been idle when it was taken; none if it is new.
    pub idled: Option<Duration>,
    keep_alive: KeepAlive,
    /// The end of its lifetime, also while it is busy.
    ends_at: Duration,
}

impl PooledConnection {
    /// Hands over a request; nothing is written before [`PooledConnection::advance`].
    pub fn hand_over(&mut self, request: Request<Full<Bytes>>) -> impl Future<Output = Sent> + use<> {
        self.traffic.begin();
        self.sender.try_send_request(request)
    }

    /// The head of an answer has arrived.
    pub fn answered(&mut self, head: &Parts) {
        self.traffic.answered();
        self.keep_alive = self.keep_alive.and(KeepAlive::parse(values(&head.headers, "keep-alive")));
        if head.status == StatusCode::REQUEST_TIMEOUT {
            // its server is about to close (RFC 9110, 15.5.9)
            self.keep_alive.max = Some(0);
        }
    }

    /// Makes progress as far as possible now.
    pub fn advance(&mut self, cx: &mut Context<'_>) {
        if self.driver.as_mut().is_some_and(|driver| driver.as_mut().poll(cx).is_ready()) {
            self.driver = None;
        }
    }

    /// Makes progress while waiting for `what`, which arrives over it.
    pub async fn during<T>(&mut self, what: impl Future<Output = T>) -> T {
        let mut what = pin!(what);
        poll_fn(|cx| {
            self.advance(cx);
            what.as_mut().poll(cx)
        })
        .await
    }

    pub fn has_ended(&self) -> bool {
        self.driver.is_none()
    }

    /// Whether it can take a request, after processing what its peer has sent meanwhile.
    fn is_ready(&mut self) -> bool {
        self.advance(&mut Context::from_waker(Waker::noop()));
        !self.has_ended() && self.sender.is_ready()
    }

    /// How long it may be idle according to its peer; none where it must not carry another request.
    fn idle_max(&self, now: Duration) -> Option<Duration> {
        let sound = !self.traffic.is_lenient() && !self.traffic.write_failed();
        let allowed = sound && now < self.ends_at && self.keep_alive.allows_another(self.traffic.requests());
        allowed.then(|| self.keep_alive.idle_max())
    }

    /// Closes the connection cleanly, as TLS requires.
    fn close(self) {
        drop(self.sender);
        if let Some(driver) = self.driver {
            tokio::spawn(tokio::time::timeout(CLOSE_TIMEOUT, driver));
        }
    }
}

/// Connects; the lifetime of the connection ends at `ends_at`.
async fn connect<C, T>(
    mut connector: C,
    uri: Uri,
    ends_at: impl FnOnce() -> Duration,
) -> Result<PooledConnection, BoxError>
where
    C: Service<Uri, Response = CountedStream<T>, Error: Into<BoxError>>,
    T: Read + Write + Unpin + Send + 'static,
{
    poll_fn(|cx| connector.poll_ready(cx)).await.map_err(Into::into)?;
    let stream = connector.call(uri).await.map_err(Into::into)?;
    let traffic = stream.traffic();
    let (sender, driver) =
        Builder::new().max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX).handshake(stream).await?;
    // the request returns the error
    let driver = Box::pin(async move { drop(driver.await) });
    let (keep_alive, ends_at) = (KeepAlive::default(), ends_at());
    Ok(PooledConnection { sender, driver: Some(driver), traffic, idled: None, keep_alive, ends_at })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::keep_alive::IDLE_MAX;
    use hyper_util::rt::TokioIo;
    use std::future::{Ready, ready};
    use std::io;
    use std::task::{Context, Poll};
    use tokio::io::DuplexStream;

    #[test]
    fn the_host_header_omits_the_default_port() {
        for (uri, wanted) in [
            ("http://crm/x", "crm"),
            ("http://crm:80/x", "crm"),
            ("https://crm:443", "crm"),
            ("https://crm:80/", "crm:80"),
            ("http://u:p@crm:8080/", "crm:8080"),
            ("http://[::1]:8080/", "[::1]:8080"),
        ] {
            assert_eq!(host(&uri.parse().unwrap()), wanted, "{uri}");
        }
    }

    /// A listener that can be present or absent.
    #[derive(Clone)]
    struct Peer(Option<Arc<Mutex<Vec<DuplexStream>>>>);

    impl Service<Uri> for Peer {
        type Response = CountedStream<TokioIo<DuplexStream>>;
        type Error = io::Error;
        type Future = Ready<io::Result<Self::Response>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Uri) -> Self::Future {
            let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
            ready(self.0.as_ref().ok_or_else(refused).map(|theirs| {
                let (ours, other) = tokio::io::duplex(64);
                theirs.lock().unwrap().push(other);
                CountedStream::new(TokioIo::new(ours))
            }))
        }
    }

    fn peers() -> (Arc<Mutex<Vec<DuplexStream>>>, Peer) {
        let peers = Arc::new(Mutex::new(Vec::new()));
        (peers.clone(), Peer(Some(peers)))
    }

    fn uri() -> Uri {
        Uri::from_static("http://peer/")
    }

    const FOR_LONG: Keep = Keep::For(Duration::from_secs(120));

    #[tokio::test]
    async fn an_idle_connection_is_reused_until_closed_or_expired() {
        let (peers, peer) = peers();
        let connections = Connections::new(peer, uri(), 2, FOR_LONG);
        let (first, second, third) =
            (connections.take().await.unwrap(), connections.take().await.unwrap(), connections.take().await.unwrap());
        [first, second, third].into_iter().for_each(|connection| connections.put(connection));
        assert_eq!(lock(&connections.pool).idle.len(), 2, "no more than are kept");
        assert_eq!(peers.lock().unwrap().len(), 3);
        assert!(connections.take().await.unwrap().idled.is_some());
        peers.lock().unwrap().clear();
        assert!(connections.take().await.unwrap().idled.is_none(), "the other one was closed");
        // a new one, regardless of idle ones
        lock(&connections.pool).learned = Learned::default();
        let connection = connections.take().await.unwrap();
        connections.put(connection);
        assert!(connections.make().await.unwrap().idled.is_none());
        let since = lock(&connections.pool).idle[0].0;
        for (idle, left) in [(IDLE_MAX - Duration::from_millis(1), (0, true)), (IDLE_MAX, (1, false))] {
            let (over, goes_on) = lock(&connections.pool).sweep(since + idle);
            assert_eq!((over.len(), goes_on), left, "{idle:?}");
        }
    }

    #[tokio::test]
    async fn idle_time_shrinks_after_a_connection_was_found_closed() {
        let (peers, peer) = peers();
        let connections = Connections::new(peer, uri(), 9, FOR_LONG);
        let (one, other) = (connections.take().await.unwrap(), connections.take().await.unwrap());
        connections.put(one);
        peers.lock().unwrap().clear();
        let since = lock(&connections.pool).idle[0].0;
        let now = since + Duration::from_secs(4);
        assert_eq!(lock(&connections.pool).sweep(now).0.len(), 0);
        assert_eq!(lock(&connections.pool).learned.idle_max(now), Duration::from_secs(3));
        drop(other);
        connections.found_closed(Duration::ZERO);
        let connection = connections.take().await.unwrap();
        connections.put(connection);
        assert_eq!(lock(&connections.pool).idle.len(), 0, "nothing is kept for a moment");
    }

    #[tokio::test]
    async fn a_busy_connection_is_closed_at_its_lifetime() {
        let (_peers, peer) = peers();
        let connections = Connections::new(peer.clone(), uri(), 9, FOR_LONG);
        let mut connection = connections.take().await.unwrap();
        let left = connection.ends_at - clock::monotonic();
        assert!((95..=120).contains(&left.as_secs()), "{left:?}");
        connections.put(connection);
        connection = connections.take().await.unwrap();
        assert_eq!(connection.traffic.requests(), 0);
        connection.ends_at = clock::monotonic();
        connections.put(connection);
        assert!(lock(&connections.pool).idle.is_empty());
        for keep in [Keep::For(Duration::ZERO), Keep::Never] {
            let connections = Connections::new(peer.clone(), uri(), 9, keep);
            let connection = connections.take().await.unwrap();
            connections.put(connection);
            assert!(lock(&connections.pool).idle.is_empty(), "{keep:?}");
            assert!(connections.take().await.unwrap().idled.is_none(), "{keep:?}");
        }
    }

    #[tokio::test]
    async fn an_abandoned_wait_for_a_connection_leaves_nothing() {
        let connections = Connections::new(Peer(None), uri(), 2, FOR_LONG);
        for _ in 0..9 {
            assert!(connections.take().await.is_err());
        }
        assert!(lock(&connections.pool).waiting.len() <= 1);
    }
}
