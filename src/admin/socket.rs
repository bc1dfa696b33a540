//! The unix socket of the admin API: whoever connects is known by word of the kernel.
//!
//! *Failure.* A socket that a dead daemon left behind is replaced; one that answers belongs to somebody else, and is an
//! error. The file is for the daemon's user and group.

use super::access::Via;
use crate::http::listener::{self, Limits};
use axum::{Extension, Router};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

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

    /// Serves connections until `stop`, then lets the requests under way finish.
    pub async fn serve(self, api: Router, limits: Limits, stop: CancellationToken) {
        let permits = Arc::new(Semaphore::new(limits.connections_max));
        let connections = TaskTracker::new();
        while let Some(permit) = stop.run_until_cancelled(permits.clone().acquire_owned()).await {
            let Some(accepted) = stop.run_until_cancelled(self.listener.accept()).await else { break };
            let Ok((stream, _)) = accepted else {
                tracing::warn!("a connection to the admin socket could not be accepted");
                listener::pause().await;
                continue;
            };
            // who cannot be told apart is nobody
            let uid = stream.peer_cred().map_or(u32::MAX, |peer| peer.uid());
            let service = TowerToHyperService::new(api.clone().layer(Extension(Via::Unix { uid })));
            let stop = stop.clone();
            connections.spawn(async move {
                let _permit = permit;
                listener::connection(stream, service, limits, stop).await;
            });
        }
        drop(self);
        connections.close();
        connections.wait().await;
    }
}
