//! Connections to one destination: made when one is needed, kept for the next request.
//!
//! *Invariants.* A connection belongs to one exchange at a time, and moves only in that exchange's own task: what is looked
//! at when a request is handed over still holds when its first byte is written, and whoever has it next finds the answer
//! before judged. Who waits while its own connection is being made takes the first one that comes free. An idle one goes after
//! at most [`IDLE_MAX`], or when its peer has closed it.

use super::wire::{Traffic, Wire};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::rt::{Read, Write};
use std::collections::VecDeque;
use std::error::Error;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;
use tokio::sync::oneshot;
use tower_service::Service;

/// Idle connections go before most peers close them, so that a request does not meet a connection that is being closed.
const IDLE_MAX: Duration = Duration::from_secs(20);
/// An idle one has this long to say goodbye.
const FAREWELL_MAX: Duration = Duration::from_secs(5);
/// A longer head is no answer.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// An answer with more headers is none.
const HEADERS_MAX: usize = 100;

pub type BoxError = Box<dyn Error + Send + Sync>;

/// What comes of a request: its answer, or an error, with the request itself where nothing of it was looked at.
pub type Sent = Result<Response<Incoming>, TrySendError<Request<Full<Bytes>>>>;

/// A connection that somebody has.
pub struct Link {
    sender: SendRequest<Full<Bytes>>,
    /// What moves it; none once it has ended.
    driver: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    pub traffic: Arc<Traffic>,
    /// Made for whoever has it, and never idle.
    pub fresh: bool,
}

impl Link {
    /// Gives it a request; nothing of it is written before [`Link::advance`].
    pub fn hand_over(&mut self, request: Request<Full<Bytes>>) -> impl Future<Output = Sent> + use<> {
        self.traffic.answered();
        self.sender.try_send_request(request)
    }

    /// Moves it as far as it goes now.
    pub fn advance(&mut self, cx: &mut Context<'_>) {
        if self.driver.as_mut().is_some_and(|driver| driver.as_mut().poll(cx).is_ready()) {
            self.driver = None;
        }
    }

    /// Moves it while something is waited for that comes over it.
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

    /// Whether it can take a request, after a look at what its peer has done meanwhile.
    fn is_ready(&mut self) -> bool {
        self.advance(&mut Context::from_waker(Waker::noop()));
        !self.has_ended() && self.sender.is_ready()
    }

    /// Ends in good order, as TLS asks for it.
    fn part(self) {
        drop(self.sender);
        if let Some(driver) = self.driver {
            tokio::spawn(tokio::time::timeout(FAREWELL_MAX, driver));
        }
    }
}

/// Those of one destination.
#[derive(Debug)]
pub struct Connections<C> {
    connector: C,
    uri: Uri,
    /// For the header of this name.
    pub host: HeaderValue,
    idle_max: usize,
    shelf: Shared,
}

type Shared = Arc<Mutex<Shelf>>;

#[derive(Default)]
struct Shelf {
    /// Each with the round of the sweep in which it was put here, the latest last.
    idle: Vec<(u64, Link)>,
    waiting: VecDeque<oneshot::Sender<Link>>,
    round: u64,
    swept: bool,
}

impl std::fmt::Debug for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shelf").field("idle", &self.idle.len()).field("waiting", &self.waiting.len()).finish()
    }
}

impl<C, T> Connections<C>
where
    C: Service<Uri, Response = Wire<T>, Error: Into<BoxError>, Future: Send + 'static> + Clone + Send + 'static,
    T: Read + Write + Unpin + Send + 'static,
{
    /// To the host of `uri`; keeps up to `idle_max` for the next requests.
    pub fn new(connector: C, uri: Uri, idle_max: usize) -> Self {
        let host = host(&uri);
        Self { connector, uri, host, idle_max, shelf: Shared::default() }
    }

    /// One that is idle, or the first that comes free or is made.
    pub async fn take(&self) -> Result<Link, BoxError> {
        let mut turn = {
            let mut shelf = lock(&self.shelf);
            if let Some(link) = shelf.idle() {
                return Ok(link);
            }
            let (mine, turn) = oneshot::channel();
            while shelf.waiting.front().is_some_and(oneshot::Sender::is_closed) {
                shelf.waiting.pop_front();
            }
            shelf.waiting.push_back(mine);
            turn
        };
        let mut connecting = Box::pin(connect(self.connector.clone(), self.uri.clone()));
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

    /// Takes one back whose answer has been read; it is kept as far as it can be used again.
    pub fn put(&self, link: Link) {
        put(&self.shelf, self.idle_max, link);
    }
}

impl Shelf {
    fn idle(&mut self) -> Option<Link> {
        while let Some((_, mut link)) = self.idle.pop() {
            if link.is_ready() {
                return Some(link);
            }
        }
        None
    }

    /// Those whose time is over, and whether there are others.
    fn next_round(&mut self) -> (Vec<Link>, bool) {
        self.round += 1;
        let round = self.round;
        let old = self.idle.extract_if(.., |(since, link)| *since + 1 < round || !link.is_ready());
        let old = old.map(|(_, link)| link).collect();
        self.swept = !self.idle.is_empty();
        (old, self.swept)
    }
}

fn lock(shelf: &Shared) -> MutexGuard<'_, Shelf> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}

fn put(shared: &Shared, idle_max: usize, mut link: Link) {
    if !link.is_ready() {
        return;
    }
    link.fresh = false;
    let mut shelf = lock(shared);
    while let Some(turn) = shelf.waiting.pop_front() {
        match turn.send(link) {
            Ok(()) => return,
            Err(left) => link = left,
        }
    }
    if shelf.idle.len() >= idle_max {
        drop(shelf);
        return link.part();
    }
    let round = shelf.round;
    shelf.idle.push((round, link));
    if !std::mem::replace(&mut shelf.swept, true) {
        tokio::spawn(sweep(Arc::downgrade(shared)));
    }
}

/// Parts with what has been idle for more than a round, as long as there is anything.
async fn sweep(shelf: std::sync::Weak<Mutex<Shelf>>) {
    let mut rounds = tokio::time::interval(IDLE_MAX / 2);
    rounds.tick().await;
    loop {
        rounds.tick().await;
        let Some(shared) = shelf.upgrade() else { return };
        let (old, goes_on) = lock(&shared).next_round();
        old.into_iter().for_each(Link::part);
        if !goes_on {
            return;
        }
    }
}

async fn connect<C, T>(mut connector: C, uri: Uri) -> Result<Link, BoxError>
where
    C: Service<Uri, Response = Wire<T>, Error: Into<BoxError>>,
    T: Read + Write + Unpin + Send + 'static,
{
    poll_fn(|cx| connector.poll_ready(cx)).await.map_err(Into::into)?;
    let wire = connector.call(uri).await.map_err(Into::into)?;
    let traffic = wire.traffic();
    let (sender, connection) =
        Builder::new().max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX).handshake(wire).await?;
    // its error is told to the request that it concerns
    let driver = Box::pin(async move { drop(connection.await) });
    Ok(Link { sender, driver: Some(driver), traffic, fresh: true })
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
    use hyper_util::rt::TokioIo;
    use std::future::{Ready, ready};
    use std::io;
    use std::task::Poll;
    use tokio::io::DuplexStream;

    #[test]
    fn a_host_names_only_a_port_that_is_not_implied() {
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
        type Response = Wire<TokioIo<DuplexStream>>;
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
                Wire::new(TokioIo::new(ours))
            }))
        }
    }

    #[tokio::test]
    async fn an_idle_one_is_used_again_until_its_peer_closes_it_or_its_time_is_over() {
        let peers = Arc::new(Mutex::new(Vec::new()));
        let connections = Connections::new(Peer(Some(peers.clone())), Uri::from_static("http://peer/"), 2);
        let (first, second, third) =
            (connections.take().await.unwrap(), connections.take().await.unwrap(), connections.take().await.unwrap());
        [first, second, third].into_iter().for_each(|link| connections.put(link));
        assert_eq!(lock(&connections.shelf).idle.len(), 2, "no more than are kept");
        assert_eq!(peers.lock().unwrap().len(), 3);
        assert!(!connections.take().await.unwrap().fresh);
        peers.lock().unwrap().clear();
        assert!(connections.take().await.unwrap().fresh, "the other one was closed");
        let link = connections.take().await.unwrap();
        connections.put(link);
        let rounds: Vec<_> =
            (0..2).map(|_| lock(&connections.shelf).next_round()).map(|(old, goes_on)| (old.len(), goes_on)).collect();
        assert_eq!(rounds, [(0, true), (1, false)]);
    }

    #[tokio::test]
    async fn who_waited_in_vain_leaves_nothing_behind() {
        let connections = Connections::new(Peer(None), Uri::from_static("http://peer/"), 2);
        for _ in 0..9 {
            assert!(connections.take().await.is_err());
        }
        assert!(lock(&connections.shelf).waiting.len() <= 1);
    }
}
