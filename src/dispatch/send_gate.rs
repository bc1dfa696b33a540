//! Until when nothing may be sent to a destination, for attempts that were about to start when that was decided.
//!
//! The scheduler starts nothing while its gates are shut; but an attempt that it has started may still be reading its body,
//! or connecting, when an answer to another asks for silence. It looks here last, and is then not made after all.
//!
//! *Invariant.* Once a shutter is closed, no request begins: who has been let [pass](Shutters::pass) has written its first byte
//! before the shutter closes.

use crate::time::Timestamp;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

#[derive(Debug, Default)]
pub struct SendGate(RwLock<Until>);

#[derive(Debug, Default)]
struct Until {
    held: Timestamp,
    paused: Timestamp,
    open: Timestamp,
}

/// As long as somebody has it, no shutter closes.
#[derive(Debug)]
pub struct SendPermit<'a>(#[expect(dead_code, reason = "it is held, not read")] RwLockReadGuard<'a, Until>);

impl SendGate {
    /// It asked to be left alone; false where it has asked for longer already.
    pub fn hold(&self, until: Timestamp) -> bool {
        let mut all = self.write();
        let longer = all.held < until;
        all.held = all.held.max(until);
        longer
    }

    /// An operator paused it; zero ends that.
    pub fn pause(&self, until: Timestamp) {
        self.write().paused = until;
    }

    /// Its breaker is open; zero ends that.
    pub fn open(&self, until: Timestamp) {
        self.write().open = until;
    }

    /// Until when it asked to be left alone; none where that is over.
    pub fn held(&self, now: Timestamp) -> Option<Timestamp> {
        Some(self.read().held).filter(|until| now < *until)
    }

    /// Lets a request begin; none where one of them is closed. Held for no longer than it takes to write without waiting.
    pub fn pass(&self, now: Timestamp) -> Option<SendPermit<'_>> {
        let all = self.read();
        (now >= all.held && now >= all.paused && now >= all.open).then_some(SendPermit(all))
    }

    fn read(&self) -> RwLockReadGuard<'_, Until> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Until> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
