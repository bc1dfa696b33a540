//! One connection, while somebody has it or while it is idle.
//!
//! *Invariant.* It moves only in the task of who has it: what is looked at when a request is handed over still holds when its
//! first byte is written, and whoever has it next finds the answer before judged.

use super::connections::BoxError;
use super::counted_stream::{ByteCounts, CountedStream, HEAD_BYTES_MAX};
use super::exchange;
use crate::rules::keep_alive::KeepAlive;
use bytes::Bytes;
use http::response::Parts;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::rt::{Read, Write};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;
use tower_service::Service;

/// An idle one has this long to say goodbye.
const FAREWELL_MAX: Duration = Duration::from_secs(5);
/// An answer with more headers is none.
const HEADERS_MAX: usize = 1000;

/// What comes of a request: its answer, or an error, with the request itself where nothing of it was looked at.
pub type Sent = Result<Response<Incoming>, TrySendError<Request<Full<Bytes>>>>;

/// A connection that somebody has.
pub struct PooledConnection {
    sender: SendRequest<Full<Bytes>>,
    /// What moves it; none once it has ended.
    driver: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    pub traffic: Arc<ByteCounts>,
    /// How long it had been idle when it was taken; none where it was made for whoever has it.
    pub idled: Option<Duration>,
    said: KeepAlive,
    /// When its time is over, however busy it is.
    pub(super) ends_at: Duration,
}

impl PooledConnection {
    /// Gives it a request; nothing of it is written before [`PooledConnection::advance`].
    pub fn hand_over(&mut self, request: Request<Full<Bytes>>) -> impl Future<Output = Sent> + use<> {
        self.traffic.begin();
        self.sender.try_send_request(request)
    }

    /// The head of an answer has come.
    pub fn answered(&mut self, head: &Parts) {
        self.traffic.answered();
        self.said = self.said.and(KeepAlive::parse(exchange::values(&head.headers, "keep-alive")));
        if head.status == StatusCode::REQUEST_TIMEOUT {
            // its server is about to close (RFC 9110, 15.5.9)
            self.said.max = Some(0);
        }
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
    pub(super) fn is_ready(&mut self) -> bool {
        self.advance(&mut Context::from_waker(Waker::noop()));
        !self.has_ended() && self.sender.is_ready()
    }

    /// For how long it may be idle, as its peer said; none where it should carry no further request.
    pub(super) fn idle_max(&self, now: Duration) -> Option<Duration> {
        let sound = !self.traffic.is_bent() && !self.traffic.write_failed();
        let allowed = sound && now < self.ends_at && self.said.allows_another(self.traffic.requests());
        allowed.then(|| self.said.idle_max())
    }

    /// Ends in good order, as TLS asks for it.
    pub(super) fn part(self) {
        drop(self.sender);
        if let Some(driver) = self.driver {
            tokio::spawn(tokio::time::timeout(FAREWELL_MAX, driver));
        }
    }
}

/// Connects; the link's time is over at `ends_at`.
pub async fn connect<C, T>(
    mut connector: C,
    uri: Uri,
    ends_at: impl FnOnce() -> Duration,
) -> Result<PooledConnection, BoxError>
where
    C: Service<Uri, Response = CountedStream<T>, Error: Into<BoxError>>,
    T: Read + Write + Unpin + Send + 'static,
{
    poll_fn(|cx| connector.poll_ready(cx)).await.map_err(Into::into)?;
    let wire = connector.call(uri).await.map_err(Into::into)?;
    let traffic = wire.traffic();
    let (sender, connection) =
        Builder::new().max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX).handshake(wire).await?;
    // its error is told to the request that it concerns
    let driver = Box::pin(async move { drop(connection.await) });
    let (said, ends_at) = (KeepAlive::default(), ends_at());
    Ok(PooledConnection { sender, driver: Some(driver), traffic, idled: None, said, ends_at })
}
