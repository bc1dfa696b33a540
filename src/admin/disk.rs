//! The disk and the data folder, as the status shows them.

use super::Admin;
use super::snapshot::Snapshot;
use serde::Serialize;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Disk {
    free_bytes: u64,
    /// Free bytes below which intake closes.
    reserve_bytes: u64,
    /// Beside the reserve, what waits may take once it has failed: intake closes with less free than both.
    growth_bytes: u64,
    /// Kept for the daemon itself; below half of `store.ballast`, with nothing free, nothing new is sent.
    ballast_bytes: u64,
    used_bytes: u64,
    /// The data folder.
    path: String,
    /// Its permissions, as `700`; null where they cannot be read.
    mode: Option<String>,
}

impl Disk {
    pub(super) fn of(admin: &Admin, s: &Snapshot) -> Self {
        Self {
            free_bytes: s.space.free_bytes,
            reserve_bytes: admin.trend.disk_reserve(),
            growth_bytes: s.space.growth_bytes,
            ballast_bytes: s.space.ballast_bytes,
            used_bytes: s.used_bytes,
            path: admin.store.path().display().to_string(),
            mode: s.mode.map(|mode| format!("{mode:o}")),
        }
    }
}

/// Permissions of a folder; none where they cannot be read.
pub(super) fn mode(folder: &Path) -> Option<u32> {
    let meta = std::fs::metadata(folder).ok()?;
    Some(meta.permissions().mode() & 0o777)
}
