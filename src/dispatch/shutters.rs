//! Until when nothing may be sent to a destination, for attempts that were about to start when that was decided.
//!
//! The scheduler starts nothing while its gates are shut; but an attempt that it has started may still be reading its body
//! when an answer to another asks for silence. It looks here last, and is then not made after all.

use crate::time::Timestamp;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Default)]
pub struct Shutters {
    /// All in milliseconds since the epoch.
    held_until: AtomicU64,
    paused_until: AtomicU64,
    open_until: AtomicU64,
}

impl Shutters {
    /// It asked to be left alone; false where it has asked for longer already.
    pub fn hold(&self, until: Timestamp) -> bool {
        self.held_until.fetch_max(until.0, Ordering::SeqCst) < until.0
    }

    /// An operator paused it; zero ends that.
    pub fn pause(&self, until: Timestamp) {
        self.paused_until.store(until.0, Ordering::SeqCst);
    }

    /// Its breaker is open; zero ends that.
    pub fn open(&self, until: Timestamp) {
        self.open_until.store(until.0, Ordering::SeqCst);
    }

    /// Until when it asked to be left alone; none where that is over.
    pub fn held(&self, now: Timestamp) -> Option<Timestamp> {
        after(&self.held_until, now)
    }

    /// Whether an operator or the breaker keeps everything back.
    pub fn are_shut(&self, now: Timestamp) -> bool {
        after(&self.paused_until, now).or_else(|| after(&self.open_until, now)).is_some()
    }
}

fn after(until: &AtomicU64, now: Timestamp) -> Option<Timestamp> {
    Some(Timestamp(until.load(Ordering::SeqCst))).filter(|until| now < *until)
}
