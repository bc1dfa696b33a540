//! Whether a request may begin: the last check of an attempt that has started.
//!
//! The scheduler starts no attempt that flow control blocks. But an attempt that it has started may still be reading its
//! body or connecting when the destination is paused, or when the answer to another request carries `Retry-After`. Such
//! an attempt is postponed.
//!
//! *Invariant.* Once the gate is closed, no request begins: the holder of a [`SendPermit`] has written the first byte
//! before the gate closes.

use crate::time::Timestamp;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Until when no request may be sent to a destination, for attempts that have started.
#[derive(Debug, Default)]
pub struct SendGate(RwLock<ClosedUntil>);

#[derive(Debug, Default)]
struct ClosedUntil {
    retry_after: Option<Timestamp>,
    pause: Option<Timestamp>,
    breaker: Option<Timestamp>,
}

/// The gate does not close while a permit exists.
#[derive(Debug)]
pub struct SendPermit<'a>(#[expect(dead_code, reason = "it is held, not read")] RwLockReadGuard<'a, ClosedUntil>);

impl SendGate {
    /// The destination asked for no requests until then; false if it has already asked for a later time.
    pub fn retry_after(&self, until: Timestamp) -> bool {
        let mut closed = self.write();
        let longer = closed.retry_after < Some(until);
        closed.retry_after = closed.retry_after.max(Some(until));
        longer
    }

    /// An operator paused the destination until then; none: resumed it.
    pub fn pause(&self, until: Option<Timestamp>) {
        self.write().pause = until;
    }

    /// The breaker is open until then; none: it is not open.
    pub fn breaker_open(&self, until: Option<Timestamp>) {
        self.write().breaker = until;
    }

    /// Until when the destination asked for no requests; none where that time has passed.
    pub fn retry_after_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.read().retry_after.filter(|until| now < *until)
    }

    /// Permits a request to begin; none where the gate is closed. Keep it only for a write that does not wait.
    pub fn permit(&self, now: Timestamp) -> Option<SendPermit<'_>> {
        let closed = self.read();
        let open = [closed.retry_after, closed.pause, closed.breaker].into_iter().flatten().all(|until| now >= until);
        open.then_some(SendPermit(closed))
    }

    fn read(&self) -> RwLockReadGuard<'_, ClosedUntil> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, ClosedUntil> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
