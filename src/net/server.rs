//! Accepts connections, with or without TLS, and serves their requests within limits of time and memory.
//!
//! *Invariants.* A connection is served only with a slot (see [`super::connection_limiter`]). A handshake, a head, and a
//! peer that reads nothing have a time limit. HTTP/2 is used where the client chose it by ALPN, with limits against
//! floods of streams, resets and headers. A peer that closes its writing side after a request is answered. An answer (a
//! refusal, a framing error, a TLS alert) is not destroyed by what the peer still sends (see [`super::stream::linger`]).
//! Unaccepted connections stay in the backlog until the restart; after `stop` active requests may end.

use super::answer;
use super::connection_limiter::{self, ConnectionLimiter, Slot};
use super::listener::{self, Listen};
use super::request::RequestBody;
use super::stream::{TrackedStream, linger};
use super::tls::{self, Tls};
use http::{HeaderValue, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Most headers of one request.
const HEADERS_MAX: usize = 100;
/// Requests at once over one connection (HTTP/2).
const STREAMS_MAX: u32 = 128;
/// Streams that a client may open and reset before it is cut off (CVE-2023-44487, rapid reset).
const RESETS_MAX: usize = 20;
/// Streams that are ended for a client's faults, until it is cut off (RUSTSEC-2024-0003).
const FAULTS_MAX: usize = 64;
/// What of a body may be under way on one stream, and on one connection (HTTP/2).
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// Connections over the limit of their address that get an answer at once; further ones are closed without.
const REFUSED_MAX: usize = 32;
/// Time limit for their heads, and for what they still send.
const REFUSED_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub head_bytes_max: usize,
    /// For a handshake, and for a head; also the longest time that a connection may stay idle.
    pub head_timeout: Duration,
    /// The longest time in which a peer may take nothing of what is sent.
    pub write_timeout: Duration,
    /// For discarding what a refused peer still sends, see [`super::stream::linger`].
    pub linger_timeout: Duration,
}

/// Shared by all listeners of one server.
#[derive(Clone, Debug)]
pub struct HttpServer {
    pub limiter: Arc<ConnectionLimiter>,
    /// For connections over the limit of their address.
    refused: Arc<ConnectionLimiter>,
    pub tls: Option<Arc<Tls>>,
    pub limits: Limits,
    pub stop: CancellationToken,
}

/// How a connection ended.
enum End {
    /// Everything is answered.
    Finished,
    /// Malformed HTTP, or over a limit; the peer has its answer.
    Malformed,
    HeadTimeout,
    /// It was evicted, or its peer has gone or reads nothing.
    Abandoned,
}

impl HttpServer {
    pub fn new(
        bounds: connection_limiter::Bounds,
        tls: Option<Arc<Tls>>,
        limits: Limits,
        stop: CancellationToken,
    ) -> Self {
        let refused = ConnectionLimiter::new(connection_limiter::Bounds { all: REFUSED_MAX, per_address: REFUSED_MAX });
        Self { limiter: ConnectionLimiter::new(bounds), refused, tls, limits, stop }
    }

    /// Serves connections until `stop`; returns when the last has ended. Each request carries its connection's [`Slot`]
    /// among its extensions.
    pub async fn serve<L, S, B>(self, listener: L, service: S)
    where
        L: Listen,
        S: Service<http::Request<RequestBody>, Response = http::Response<B>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send,
        B: hyper::body::Body<Error: std::error::Error + Send + Sync, Data: Send> + Send + 'static,
    {
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                biased; // unaccepted connections stay in the backlog until the restart
                () = self.stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    listener::pause().await;
                    continue;
                }
            };
            let slot = tokio::select! {
                biased; // an accepted connection is served, if there is a slot
                slot = self.limiter.acquire(peer) => slot,
                () = self.stop.cancelled() => break,
            };
            let server = self.clone();
            if let Some(slot) = slot {
                let service = service.clone();
                connections.spawn(async move { server.connection(stream, slot, service).await });
                continue;
            }
            tracing::debug!(%peer, "a connection over the limit of its address");
            if let Some(slot) = self.refused.try_acquire(peer) {
                connections.spawn(server.refuse(stream, slot));
            }
        }
        drop(listener);
        connections.close();
        connections.wait().await;
    }

    /// Answers that the address has reached its limit of connections.
    async fn refuse<I: AsyncRead + AsyncWrite + Unpin>(mut self, stream: I, slot: Slot) {
        self.limits.head_timeout = self.limits.head_timeout.min(REFUSED_TIMEOUT);
        self.limits.linger_timeout = self.limits.linger_timeout.min(REFUSED_TIMEOUT);
        let service = service_fn(|request: http::Request<RequestBody>| async {
            request.into_body().give_up();
            Ok::<_, Infallible>(answer::with(
                answer::with(too_many(), header::RETRY_AFTER, "1"),
                header::CONNECTION,
                "close",
            ))
        });
        let _ = tokio::time::timeout(REFUSED_TIMEOUT, self.connection(stream, slot, service)).await;
    }

    async fn connection<I, S, B>(self, stream: I, slot: Slot, service: S)
    where
        I: AsyncRead + AsyncWrite + Unpin,
        S: Service<http::Request<RequestBody>, Response = http::Response<B>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send,
        B: hyper::body::Body<Error: std::error::Error + Send + Sync, Data: Send> + Send + 'static,
    {
        let (slot_of_request, linger_timeout) = (slot.clone(), self.limits.linger_timeout);
        let service =
            service_fn(move |request| serve_request(service.clone(), slot_of_request.clone(), request, linger_timeout));
        let Some(tls) = &self.tls else { return self.http1(stream, &slot, service).await };
        let handshake = tokio::time::timeout(self.limits.head_timeout, tls.acceptor().accept(stream).into_fallible());
        let accepted = tokio::select! {
            () = slot.evicted() => return,
            () = drain_deadline(&self.stop, slot.first_request()) => return,
            accepted = handshake => accepted,
        };
        match accepted {
            Ok(Ok(stream)) if tls::is_http2(stream.get_ref().1) => self.http2(stream, &slot, service).await,
            Ok(Ok(stream)) => self.http1(stream, &slot, service).await,
            Ok(Err((error, mut stream))) => {
                tracing::debug!(%error, peer = %slot.peer(), "no TLS connection came about");
                // the alert says why
                self.linger(&mut stream, &slot).await;
            }
            Err(_) => tracing::debug!(peer = %slot.peer(), "a TLS handshake was too slow"),
        }
    }

    async fn http1<I, S, B>(&self, stream: I, slot: &Slot, service: S)
    where
        I: AsyncRead + AsyncWrite + Unpin,
        S: Service<http::Request<Incoming>, Response = http::Response<B>, Error = Infallible>,
        B: hyper::body::Body<Error: std::error::Error + Send + Sync> + 'static,
    {
        let mut stream = TrackedStream::new(stream, slot.clone());
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.head_timeout)
            .max_headers(HEADERS_MAX)
            .max_buf_size(self.limits.head_bytes_max)
            .half_close(true)
            .serve_connection(TokioIo::new(&mut stream), service);
        match self.drive(connection, http1::Connection::graceful_shutdown, slot).await {
            End::HeadTimeout if slot.has_begun_a_head() => {
                let response = head_timeout();
                let response = stream.write_all(response.as_bytes());
                if matches!(tokio::time::timeout(self.limits.head_timeout, response).await, Ok(Ok(()))) {
                    self.linger(&mut stream, slot).await;
                }
            }
            End::Malformed => self.linger(&mut stream, slot).await,
            End::Finished if slot.has_unread() => self.linger(&mut stream, slot).await,
            End::Finished | End::HeadTimeout | End::Abandoned => {}
        }
    }

    async fn http2<I, S, B>(&self, stream: I, slot: &Slot, service: S)
    where
        I: AsyncRead + AsyncWrite + Unpin,
        S: Service<http::Request<Incoming>, Response = http::Response<B>, Error = Infallible>,
        S::Future: Send + 'static,
        B: hyper::body::Body<Error: std::error::Error + Send + Sync, Data: Send> + Send + 'static,
    {
        let mut stream = TrackedStream::new(stream, slot.clone());
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(self.limits.head_timeout)
            .keep_alive_timeout(self.limits.head_timeout)
            .max_concurrent_streams(STREAMS_MAX)
            .max_pending_accept_reset_streams(RESETS_MAX)
            .max_local_error_reset_streams(FAULTS_MAX)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(u32::try_from(self.limits.head_bytes_max).unwrap_or(u32::MAX))
            .serve_connection(TokioIo::new(&mut stream), service);
        match self.drive(connection, http2::Connection::graceful_shutdown, slot).await {
            End::Malformed => self.linger(&mut stream, slot).await,
            End::Finished | End::HeadTimeout | End::Abandoned => {}
        }
    }

    /// Runs a connection to its end; `finish` asks it to end after the requests under way.
    async fn drive<C>(&self, connection: C, finish: impl FnOnce(Pin<&mut C>), slot: &Slot) -> End
    where
        C: Future<Output = hyper::Result<()>>,
    {
        let Limits { head_timeout: idle, write_timeout, .. } = self.limits;
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => Some(ended),
            () = slot.evicted() => return End::Abandoned,
            () = slot.write_stuck(write_timeout) => return End::Abandoned,
            () = drain_deadline(&self.stop, slot.first_request()) => None,
            () = slot.idle(idle) => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                finish(connection.as_mut());
                tokio::select! {
                    ended = connection => ended,
                    () = slot.evicted() => return End::Abandoned,
                    () = slot.write_stuck(write_timeout) => return End::Abandoned,
                    () = slot.idle(idle) => return End::Abandoned,
                }
            }
        };
        let Err(error) = ended else { return End::Finished };
        tracing::debug!(%error, "a connection ended early");
        match error {
            error if error.is_timeout() => End::HeadTimeout,
            error if error.is_parse() => End::Malformed,
            _ => End::Abandoned,
        }
    }

    /// Lingers so that the answer reaches the peer, unless the connection is evicted.
    async fn linger<I: AsyncRead + AsyncWrite + Unpin>(&self, stream: &mut I, slot: &Slot) {
        let _lingering = slot.linger();
        tokio::select! {
            () = slot.evicted() => {}
            () = linger(stream, self.limits.linger_timeout) => {}
        }
    }
}

/// A new connection has this long to send its first request once the listeners stop: hyper closes a connection of which
/// nothing was read at once, and its client sees a reset.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_millis(500);

/// Returns after `stop`, once the connection's first request has arrived or [`FIRST_REQUEST_TIMEOUT`] has passed.
async fn drain_deadline(stop: &CancellationToken, first_request: &CancellationToken) {
    stop.cancelled().await;
    let _ = tokio::time::timeout(FIRST_REQUEST_TIMEOUT, first_request.cancelled()).await;
}

/// The answer to an incomplete head; hyper does not write one.
fn head_timeout() -> String {
    let body = r#"{"error":{"code":"header_timeout","message":"the headers did not arrive in time"}}"#;
    let head = "HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length:";
    format!("{head} {}\r\n\r\n{body}", body.len())
}

fn too_many() -> answer::Answer {
    let message = "your address has all the connections that it may have; use those, or try again in a moment";
    answer::error(StatusCode::SERVICE_UNAVAILABLE, "too_many_connections", message)
}

/// Serves a request with its connection's slot among its extensions. Where a part of its body stays unread, the answer says
/// that the connection ends.
async fn serve_request<S, B>(
    service: S,
    slot: Slot,
    request: http::Request<Incoming>,
    linger_timeout: Duration,
) -> Result<http::Response<B>, Infallible>
where
    S: Service<http::Request<RequestBody>, Response = http::Response<B>, Error = Infallible>,
{
    let _in_hand = slot.start_request();
    let may_say = request.version() != http::Version::HTTP_2;
    let mut request = RequestBody::of(request, &slot, linger_timeout);
    request.extensions_mut().insert(slot.clone());
    let mut response = service.call(request).await?;
    if may_say && slot.has_unread() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body_util::Full;
    use std::future::pending;
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    async fn get(to: std::net::SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(to).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello").await.unwrap();
        stream
    }

    #[tokio::test]
    async fn a_connection_over_the_address_limit_is_answered() {
        let limits = Limits {
            head_bytes_max: 8192,
            head_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
            linger_timeout: Duration::from_secs(60),
        };
        let stop = CancellationToken::new();
        let server = HttpServer::new(connection_limiter::Bounds { all: 9, per_address: 1 }, None, limits, stop.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        // every request stays active
        let service = service_fn(|_| pending::<Result<http::Response<Full<Bytes>>, Infallible>>());
        let serving = tokio::spawn(server.clone().serve(listener, service));
        let first = get(to).await;
        let active = async || {
            while server.limiter.active() == 0 {
                tokio::task::yield_now().await
            }
        };
        tokio::time::timeout(Duration::from_secs(60), active()).await.unwrap();
        for _ in 0..3 {
            let mut response = String::new();
            get(to).await.read_to_string(&mut response).await.unwrap();
            assert!(response.starts_with("HTTP/1.1 503 ") && response.contains("too_many_connections"), "{response}");
            assert!(
                response.contains("retry-after: 1\r\n") && response.contains("connection: close\r\n"),
                "{response}"
            );
        }
        // as many as are answered, none of which sends anything; further ones are closed
        let mut silent = Vec::new();
        for _ in 0..REFUSED_MAX + 1 {
            silent.push(TcpStream::connect(to).await.unwrap());
        }
        let mut text = Vec::new();
        assert!(silent.last_mut().unwrap().read_to_end(&mut text).await.is_ok() && text.is_empty());
        drop(first);
        stop.cancel();
        serving.abort();
    }
}
