//! The unix socket of the admin API: whoever connects is known by word of the kernel.
//!
//! *Failure.* A socket that a dead daemon left behind is replaced; one that answers belongs to somebody else, and is an
//! error. The file is for the daemon's user and group.

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

/// Owner and group may connect.
const MODE: u32 = 0o660;

/// A socket that is listened on; its file goes when it is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path); // a file that stays is replaced at the next start
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
        // who cannot be told apart is nobody
        let uid = stream.peer_cred().map_or(u32::MAX, |peer| peer.uid());
        Ok((stream, Peer::User(uid)))
    }
}

/// Lets a request say from which user it came.
pub async fn by_user(mut request: Request, next: Next) -> Response {
    if let Some(Peer::User(uid)) = request.extensions().get::<Slot>().map(Slot::peer) {
        request.extensions_mut().insert(Via::Unix { uid });
    }
    next.run(request).await
}
