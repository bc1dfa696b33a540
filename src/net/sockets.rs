//! Listening sockets: bound by ourselves, or handed over by the service manager.
//!
//! *Invariants.* A socket that was handed over outlives this process: what connects while nobody accepts waits in its
//! queue, and whoever takes it next serves it.

use anyhow::{Context, bail};
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use tokio::net::TcpListener;

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
        // SAFETY: systemd passed this descriptor open, and nobody in this process closes it.
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
