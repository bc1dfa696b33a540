//! The unix socket of the admin API; the kernel identifies the user of each connection.
//!
//! *Failure.* A socket file that a dead daemon left is replaced. One that accepts connections belongs to another process,
//! and is an error. Only the daemon's user and group can connect.

use super::access::Via;
use crate::net::connection_limiter::Slot;
use crate::net::listener::Listen;
use crate::net::listener::Peer;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::net::{UnixListener, UnixStream};

const MODE: u32 = 0o660;

/// A listening socket; its file is removed on drop.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path); // a remaining file is replaced at the next start
    }
}

impl Socket {
    pub fn bind(path: &Path) -> io::Result<Self> {
        if std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket()) {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::Error::other("another process answers on it"));
            }
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE))?;
        Ok(Self { listener, path: path.to_owned() })
    }
}

impl Listen for Socket {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, Peer)> {
        let (stream, _) = self.listener.accept().await?;
        // an unidentified peer gets a user id without rights
        let uid = stream.peer_cred().map_or(u32::MAX, |peer| peer.uid());
        Ok((stream, Peer::User(uid)))
    }
}

/// Adds the user of the connection to a request.
pub async fn by_user(mut request: Request, next: Next) -> Response {
    if let Some(Peer::User(uid)) = request.extensions().get::<Slot>().map(Slot::peer) {
        request.extensions_mut().insert(Via::Unix { uid });
    }
    next.run(request).await
}
