//! The accept loop: bounded connections, bounded heads, and an end that lets requests finish.
//!
//! *Invariants.* A permit is taken before a connection is accepted, so beyond the limit connections wait in the kernel's
//! queue and are not refused. A head that does not arrive in time closes its connection.

use super::answer::Answer;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Most headers of one request.
const HEADERS_MAX: usize = 100;
/// After a failed accept (out of descriptors, say), this long until the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The other end of a connection; stands in the extensions of its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub connections_max: usize,
    pub head_bytes_max: usize,
    /// Also the longest time that a connection may stay idle.
    pub head_timeout: Duration,
}

/// Serves connections until `stop`, then lets the requests under way finish; returns when the last has.
pub async fn serve<S, B>(listener: TcpListener, service: S, limits: Limits, stop: CancellationToken)
where
    S: Service<http::Request<Incoming>, Response = http::Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: hyper::body::Body<Error: std::error::Error + Send + Sync, Data: Send> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(limits.connections_max));
    let connections = TaskTracker::new();
    loop {
        let permit = tokio::select! {
            () = stop.cancelled() => break,
            permit = permits.clone().acquire_owned() => permit.expect("the semaphore is never closed"),
        };
        let (stream, peer) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    pause().await;
                    continue;
                }
            },
        };
        let (service, stop) = (service.clone(), stop.clone());
        connections.spawn(async move {
            let _permit = permit;
            let _ = stream.set_nodelay(true); // only latency is lost where it fails
            let service = service_fn(move |mut request: http::Request<Incoming>| {
                request.extensions_mut().insert(Peer(peer));
                service.call(request)
            });
            connection(stream, service, limits, stop).await;
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Serves the requests of one connection, until it ends or, after `stop`, the request under way has.
pub async fn connection<S, B, I>(stream: I, service: S, limits: Limits, stop: CancellationToken)
where
    S: Service<http::Request<Incoming>, Response = http::Response<B>, Error = Infallible>,
    B: hyper::body::Body<Error: std::error::Error + Send + Sync> + 'static,
    I: AsyncRead + AsyncWrite + Unpin,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_headers(HEADERS_MAX)
        .max_buf_size(limits.head_bytes_max)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// A moment without trying again, after a failed accept.
#[allow(clippy::disallowed_methods)] // backing off from the kernel is no deadline that a test would move
pub async fn pause() {
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// The type of a handler's answer, for services that cannot fail.
pub type Handled = Result<Answer, Infallible>;
