//! Where connections come from: a TCP socket, or a socket of another kind whose peers are known otherwise.

use super::peer::Peer;
use std::future::Future;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// After a failed accept (out of descriptors, say), this long until the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A socket that is listened on.
pub trait Listen: Send + Sync + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection, and who is at its other end.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Peer)>> + Send;
}

impl Listen for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Peer)> {
        let (stream, peer) = Self::accept(self).await?;
        let _ = stream.set_nodelay(true); // only latency is lost where it fails
        Ok((stream, Peer::Address(peer.ip().to_canonical())))
    }
}

/// A moment without trying again, after a failed accept.
#[allow(clippy::disallowed_methods)] // backing off from the kernel is no deadline that a test would move
pub async fn pause() {
    tokio::time::sleep(ACCEPT_PAUSE).await;
}
