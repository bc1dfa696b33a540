//! The entrance: connections of strangers, with or without TLS, each of which can take little and hold up nobody.
//!
//! *Invariants.* A connection is served only on a seat (see [`super::seats`]). A handshake, a head, and a peer that reads
//! nothing have a time within which they must end. HTTP/2 is spoken where a client chose it by ALPN, with bounds against
//! floods of streams, resets and headers. After `stop` the requests under way may end.

use super::farewell;
use super::seats::{self, Seat, Seats};
use super::tls::{self, Tls};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
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

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub head_bytes_max: usize,
    /// For a handshake, and for a head; also the longest time that a connection may stay idle.
    pub head_timeout: Duration,
}

/// What all listeners of an entrance share.
#[derive(Clone, Debug)]
pub struct Entrance {
    pub seats: Arc<Seats>,
    pub tls: Option<Arc<Tls>>,
    pub limits: Limits,
    pub stop: CancellationToken,
}

impl Entrance {
    pub fn new(bounds: seats::Bounds, tls: Option<Arc<Tls>>, limits: Limits, stop: CancellationToken) -> Self {
        Self { seats: Seats::new(bounds), tls, limits, stop }
    }

    /// Serves connections until `stop`; returns when the last has ended. Each request carries its connection's [`Seat`]
    /// among its extensions.
    pub async fn serve<S, B>(self, listener: TcpListener, service: S)
    where
        S: Service<http::Request<Incoming>, Response = http::Response<B>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
        B: hyper::body::Body<Error: std::error::Error + Send + Sync, Data: Send> + Send + 'static,
    {
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                biased; // who is not accepted any more waits for the next life
                () = self.stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    super::listener::pause().await;
                    continue;
                }
            };
            let seat = tokio::select! {
                biased; // and who is accepted is heard, if there is a seat
                seat = self.seats.take(peer.ip().to_canonical()) => seat,
                () = self.stop.cancelled() => break,
            };
            let Some(seat) = seat else {
                tracing::debug!(address = %peer.ip(), "a connection beyond those of one address");
                continue;
            };
            let (entrance, service) = (self.clone(), service.clone());
            connections.spawn(async move { entrance.connection(stream, seat, service).await });
        }
        drop(listener);
        connections.close();
        connections.wait().await;
    }

    async fn connection<S, B>(self, stream: TcpStream, seat: Seat, service: S)
    where
        S: Service<http::Request<Incoming>, Response = http::Response<B>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
        B: hyper::body::Body<Error: std::error::Error + Send + Sync, Data: Send> + Send + 'static,
    {
        let _ = stream.set_nodelay(true); // only latency is lost where it fails
        let sitting = seat.clone();
        let service = service_fn(move |request| seated(service.clone(), sitting.clone(), request));
        let Some(tls) = &self.tls else { return self.http1(stream, &seat, service).await };
        let handshake = tokio::time::timeout(self.limits.head_timeout, tls.acceptor().accept(stream));
        let shaken = tokio::select! {
            () = seat.needed() => return,
            () = farewell::due(&self.stop, seat.begun()) => return,
            shaken = handshake => shaken,
        };
        match shaken {
            Ok(Ok(stream)) if tls::is_http2(stream.get_ref().1) => self.http2(stream, &seat, service).await,
            Ok(Ok(stream)) => self.http1(stream, &seat, service).await,
            Ok(Err(error)) => tracing::debug!(%error, address = %seat.address(), "no TLS connection came about"),
            Err(_) => tracing::debug!(address = %seat.address(), "a TLS handshake was too slow"),
        }
    }

    async fn http1<I, S, B>(&self, stream: I, seat: &Seat, service: S)
    where
        I: AsyncRead + AsyncWrite + Unpin + 'static,
        S: Service<http::Request<Incoming>, Response = http::Response<B>, Error = Infallible>,
        B: hyper::body::Body<Error: std::error::Error + Send + Sync> + 'static,
    {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.head_timeout)
            .max_headers(HEADERS_MAX)
            .max_buf_size(self.limits.head_bytes_max)
            .half_close(false)
            .serve_connection(TokioIo::new(stream), service);
        self.drive(connection, seat).await;
    }

    async fn http2<I, S, B>(&self, stream: I, seat: &Seat, service: S)
    where
        I: AsyncRead + AsyncWrite + Unpin + 'static,
        S: Service<http::Request<Incoming>, Response = http::Response<B>, Error = Infallible>,
        S::Future: Send + 'static,
        B: hyper::body::Body<Error: std::error::Error + Send + Sync, Data: Send> + Send + 'static,
    {
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
            .serve_connection(TokioIo::new(stream), service);
        self.drive(connection, seat).await;
    }

    async fn drive<C: GracefulConnection<Error: std::fmt::Display>>(&self, connection: C, seat: &Seat) {
        let idle = self.limits.head_timeout;
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => Some(ended),
            () = seat.needed() => return,
            () = farewell::due(&self.stop, seat.begun()) => None,
            () = seat.idle(idle) => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection => ended,
                    () = seat.needed() => return,
                    () = seat.idle(idle) => return, // a peer that reads no answer
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended early");
        }
    }
}

/// Serves a request with its connection's seat at hand.
async fn seated<S, B>(
    service: S,
    seat: Seat,
    mut request: http::Request<Incoming>,
) -> Result<http::Response<B>, Infallible>
where
    S: Service<http::Request<Incoming>, Response = http::Response<B>, Error = Infallible>,
{
    let _in_hand = seat.serve();
    request.extensions_mut().insert(seat.clone());
    service.call(request).await
}
