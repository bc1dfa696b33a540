//! Connections to one destination: made when one is needed, kept for the next request.
//!
//! *Invariants.* A connection belongs to one exchange at a time. Who waits while its own connection is being made takes the
//! first one that comes free. An idle one goes when its peer has closed it, or before it may do so: after at most
//! [`keep_alive::IDLE_MAX`], after nearly as long as the peer announced, or as was [learned](Learned). Each ends after its lifetime, so that
//! requests follow the name to another address. Where [`Keep::Never`] is set each request has a connection of its own.

use super::counted_stream::CountedStream;
use super::pooled_connection::{PooledConnection, connect};
use crate::clock;
use crate::rules::keep_alive::{self, Learned};
use http::{HeaderValue, Uri};
use hyper::rt::{Read, Write};
use std::collections::VecDeque;
use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::oneshot;
use tower_service::Service;

/// Idle connections are looked at so often: what their peers have closed is not kept, and when they did so is known.
const LOOKS_APART: Duration = Duration::from_secs(1);

pub type BoxError = Box<dyn Error + Send + Sync>;

/// What becomes of a connection behind its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// It is used again, up to so long after it was made.
    For(Duration),
    /// It is closed: a request that meets a connection which is being closed could not be told from one that was taken.
    Never,
}

/// Those of one destination.
#[derive(Debug)]
pub struct Connections<C> {
    connector: C,
    uri: Uri,
    /// For the header of this name.
    pub host: HeaderValue,
    pub keep: Keep,
    idle_max: usize,
    made: AtomicU64,
    shelf: Shared,
}

type Shared = Arc<Mutex<Shelf>>;

#[derive(Default)]
struct Shelf {
    /// Each with the moment since when it is idle, the latest last.
    idle: Vec<(Duration, PooledConnection)>,
    waiting: VecDeque<oneshot::Sender<PooledConnection>>,
    learned: Learned,
    swept: bool,
}

impl std::fmt::Debug for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shelf").field("idle", &self.idle.len()).field("waiting", &self.waiting.len()).finish()
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
    /// To the host of `uri`; keeps up to `idle_max` for the next requests.
    pub fn new(connector: C, uri: Uri, idle_max: usize, keep: Keep) -> Self {
        let host = host(&uri);
        Self { connector, uri, host, keep, idle_max, made: AtomicU64::new(0), shelf: Shared::default() }
    }

    /// One that is idle, or the first that comes free or is made.
    pub async fn take(&self) -> Result<PooledConnection, BoxError> {
        if self.keep == Keep::Never {
            return self.make().await;
        }
        let mut turn = {
            let mut shelf = lock(&self.shelf);
            if let Some(link) = shelf.idle(clock::monotonic()) {
                return Ok(link);
            }
            let (mine, turn) = oneshot::channel();
            while shelf.waiting.front().is_some_and(oneshot::Sender::is_closed) {
                shelf.waiting.pop_front();
            }
            shelf.waiting.push_back(mine);
            turn
        };
        let mut connecting = Box::pin(self.make());
        tokio::select! {
            biased;
            Ok(free) = &mut turn => {
                let (shelf, idle_max) = (self.shelf.clone(), self.idle_max);
                // what was begun is of use to the next one
                tokio::spawn(async move {
                    if let Ok(link) = connecting.await {
                        put(&shelf, idle_max, link);
                    }
                });
                Ok(free)
            }
            connected = &mut connecting => {
                turn.close();
                match (connected, turn.try_recv()) {
                    (Ok(link), Ok(free)) => {
                        self.put(free);
                        Ok(link)
                    }
                    (Err(_), Ok(free)) => Ok(free),
                    (connected, Err(_)) => connected,
                }
            }
        }
    }

    /// A new one, whatever is idle.
    pub fn make(&self) -> impl Future<Output = Result<PooledConnection, BoxError>> + Send + use<C, T> {
        let n = self.made.fetch_add(1, Ordering::Relaxed);
        let lives = match self.keep {
            Keep::For(lifetime) => keep_alive::lifetime(lifetime, n),
            Keep::Never => Duration::ZERO,
        };
        connect(self.connector.clone(), self.uri.clone(), move || clock::monotonic() + lives)
    }

    /// Takes one back whose answer has been read; it is kept as far as it can be used again.
    pub fn put(&self, link: PooledConnection) {
        put(&self.shelf, self.idle_max, link);
    }

    /// A connection that had been idle for so long was found closed.
    pub fn found_closed(&self, idle: Duration) {
        lock(&self.shelf).learned.closed(idle, clock::monotonic());
    }

    /// A connection that had been idle for so long brought an answer.
    pub fn brought_answer(&self, idle: Duration) {
        lock(&self.shelf).learned.answered(idle);
    }
}

impl Shelf {
    fn idle(&mut self, now: Duration) -> Option<PooledConnection> {
        while let Some((since, mut link)) = self.idle.pop() {
            let idle = now.saturating_sub(since);
            if !link.is_ready() {
                self.learned.closed(idle, now);
            } else if self.may_be_used(&link, idle, now) {
                link.idled = Some(idle);
                return Some(link);
            } else {
                link.part();
            }
        }
        None
    }

    fn may_be_used(&self, link: &PooledConnection, idle: Duration, now: Duration) -> bool {
        link.idle_max(now).is_some_and(|max| idle < max.min(self.learned.idle_max(now)))
    }

    /// Those whose time is over, and whether there are others.
    fn sweep(&mut self, now: Duration) -> (Vec<PooledConnection>, bool) {
        let (mut over, mut kept) = (Vec::new(), Vec::new());
        for (since, mut link) in self.idle.drain(..) {
            let idle = now.saturating_sub(since);
            if !link.is_ready() {
                self.learned.closed(idle, now);
            } else {
                kept.push((since, link));
            }
        }
        for (since, link) in kept {
            if self.may_be_used(&link, now.saturating_sub(since), now) {
                self.idle.push((since, link));
            } else {
                over.push(link);
            }
        }
        self.swept = !self.idle.is_empty();
        (over, self.swept)
    }
}

fn lock(shelf: &Shared) -> MutexGuard<'_, Shelf> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}

fn put(shared: &Shared, idle_max: usize, mut link: PooledConnection) {
    let now = clock::monotonic();
    if !link.is_ready() {
        return;
    }
    let mut shelf = lock(shared);
    if !shelf.may_be_used(&link, Duration::ZERO, now) {
        drop(shelf);
        return link.part();
    }
    link.idled = Some(Duration::ZERO);
    while let Some(turn) = shelf.waiting.pop_front() {
        match turn.send(link) {
            Ok(()) => return,
            Err(left) => link = left,
        }
    }
    if shelf.idle.len() >= idle_max || !shelf.learned.keeps(now) {
        drop(shelf);
        return link.part();
    }
    shelf.idle.push((now, link));
    if !std::mem::replace(&mut shelf.swept, true) {
        tokio::spawn(sweep(Arc::downgrade(shared)));
    }
}

/// Parts with what has been idle for too long, as long as there is anything.
async fn sweep(shelf: Weak<Mutex<Shelf>>) {
    let mut looks = tokio::time::interval(LOOKS_APART);
    looks.tick().await;
    loop {
        looks.tick().await;
        let Some(shared) = shelf.upgrade() else { return };
        let (over, goes_on) = lock(&shared).sweep(clock::monotonic());
        over.into_iter().for_each(PooledConnection::part);
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

    /// A listener that is there or not, without a word.
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
        [first, second, third].into_iter().for_each(|link| connections.put(link));
        assert_eq!(lock(&connections.shelf).idle.len(), 2, "no more than are kept");
        assert_eq!(peers.lock().unwrap().len(), 3);
        assert!(connections.take().await.unwrap().idled.is_some());
        peers.lock().unwrap().clear();
        assert!(connections.take().await.unwrap().idled.is_none(), "the other one was closed");
        // a new one, whatever is idle
        lock(&connections.shelf).learned = Learned::default();
        let link = connections.take().await.unwrap();
        connections.put(link);
        assert!(connections.make().await.unwrap().idled.is_none());
        let since = lock(&connections.shelf).idle[0].0;
        for (idle, left) in [(IDLE_MAX - Duration::from_millis(1), (0, true)), (IDLE_MAX, (1, false))] {
            let (over, goes_on) = lock(&connections.shelf).sweep(since + idle);
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
        let since = lock(&connections.shelf).idle[0].0;
        let now = since + Duration::from_secs(4);
        assert_eq!(lock(&connections.shelf).sweep(now).0.len(), 0);
        assert_eq!(lock(&connections.shelf).learned.idle_max(now), Duration::from_secs(3));
        drop(other);
        connections.found_closed(Duration::ZERO);
        let link = connections.take().await.unwrap();
        connections.put(link);
        assert_eq!(lock(&connections.shelf).idle.len(), 0, "nothing is kept for a moment");
    }

    #[tokio::test]
    async fn a_busy_connection_is_closed_at_its_lifetime() {
        let (_peers, peer) = peers();
        let connections = Connections::new(peer.clone(), uri(), 9, FOR_LONG);
        let mut link = connections.take().await.unwrap();
        let left = link.ends_at - clock::monotonic();
        assert!((95..=120).contains(&left.as_secs()), "{left:?}");
        connections.put(link);
        link = connections.take().await.unwrap();
        assert_eq!(link.traffic.requests(), 0);
        link.ends_at = clock::monotonic();
        connections.put(link);
        assert!(lock(&connections.shelf).idle.is_empty());
        for keep in [Keep::For(Duration::ZERO), Keep::Never] {
            let connections = Connections::new(peer.clone(), uri(), 9, keep);
            let link = connections.take().await.unwrap();
            connections.put(link);
            assert!(lock(&connections.shelf).idle.is_empty(), "{keep:?}");
            assert!(connections.take().await.unwrap().idled.is_none(), "{keep:?}");
        }
    }

    #[tokio::test]
    async fn an_abandoned_wait_for_a_connection_leaves_nothing() {
        let connections = Connections::new(Peer(None), uri(), 2, FOR_LONG);
        for _ in 0..9 {
            assert!(connections.take().await.is_err());
        }
        assert!(lock(&connections.shelf).waiting.len() <= 1);
    }
}
