//! Copies of commits, for a backup that is being made.

use crate::store::engine::write_batch::WriteBatch;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

/// Copied commits that may wait until a reader has taken what was before them; a slower reader gets no backup.
pub const BEHIND_MAX: usize = 256 << 20;

/// Where the committer copies its commits to.
#[derive(Debug)]
pub struct Tee {
    pub to: mpsc::Sender<WriteBatch>,
    pub behind: Arc<AtomicUsize>,
}

impl Tee {
    /// False where the reader is gone, or too slow.
    pub fn copy(&self, draft: WriteBatch) -> bool {
        let behind = self.behind.fetch_add(draft.bytes(), Ordering::Relaxed);
        behind < BEHIND_MAX && self.to.send(draft).is_ok()
    }
}
