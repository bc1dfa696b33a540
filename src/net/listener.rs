//! Listening sockets, bound by this process or handed over by the service manager, and who connects to them.
//!
//! *Invariants.* A socket that was handed over outlives this process: connections that arrive while nobody accepts wait
//! in its backlog, and the next process serves them.

use anyhow::{Context, bail};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// After a failed accept (out of descriptors, say), this long until the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A socket that is listened on.
pub trait Listen: Send + Sync + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection and its peer.
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

/// Waits after a failed accept.
#[allow(clippy::disallowed_methods)] // backing off from the kernel is no deadline that a test would move
pub async fn pause() {
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    Address(IpAddr),
    /// A process of this user, as the kernel reports it.
    User(u32),
}

impl Peer {
    /// None for a unix socket.
    pub fn address(self) -> Option<IpAddr> {
        match self {
            Self::Address(address) => Some(address),
            Self::User(_) => None,
        }
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::User(uid) => write!(f, "unix:{uid}"),
        }
    }
}

/// The queue of connections that wait to be accepted; the kernel cuts it to net.core.somaxconn.
const BACKLOG: u32 = 4096;

/// Listens on each address. `key` is where they were written, for the error.
pub fn bind(addresses: &[SocketAddr], key: &str) -> anyhow::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for address in addresses {
        let remedy = || format!("cannot listen on {address}; is another program there? Change {key} or stop that one");
        listeners.push(listen(*address).with_context(remedy)?);
    }
    Ok(listeners)
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?; // what still closes on this port hinders no restart
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The TCP sockets that the service manager has handed over; none where it is not systemd that started this process.
pub fn inherited() -> anyhow::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for fd in sd_notify::listen_fds().context("what systemd says of its sockets cannot be read")? {
        // SAFETY: systemd passed this descriptor open, and this process never closes it.
        let socket = unsafe { BorrowedFd::borrow_raw(fd) };
        let own: OwnedFd = socket.try_clone_to_owned().context("a socket of systemd cannot be taken")?;
        let listener = std::net::TcpListener::from(own);
        if listener.local_addr().is_err() {
            bail!("systemd passed something that is no TCP socket; write ListenStream=IP:PORT in holdline.socket");
        }
        listener.set_nonblocking(true)?;
        listeners.push(TcpListener::from_std(listener).context("a socket of systemd cannot be used")?);
    }
    Ok(listeners)
}
