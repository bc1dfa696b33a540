//! How far what is durable lags behind what was recorded of attempts.
//!
//! *Invariants.* Deliveries whose end is recorded and not durable are made again after a crash. While there are [`MOST`] of them
//! nothing new is sent, however long the disk takes; so a crash repeats at most so many, and those in flight.

use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;

/// What may be recorded and not durable while deliveries still begin.
pub const MOST: usize = 512;

#[derive(Debug, Default)]
pub struct Uncommitted {
    recorded: AtomicUsize,
    caught_up: Notify,
}

impl Uncommitted {
    pub fn add(&self) {
        self.recorded.fetch_add(1, Ordering::SeqCst);
    }

    /// So many have become durable.
    pub fn done(&self, transitions: usize) {
        let before = self.recorded.fetch_sub(transitions, Ordering::SeqCst);
        if before >= MOST && before - transitions < MOST {
            self.caught_up.notify_one();
        }
    }

    pub fn is_far(&self) -> bool {
        self.recorded.load(Ordering::SeqCst) >= MOST
    }

    /// Returns when it is not far behind; for one task at a time.
    pub async fn caught_up(&self) {
        while self.is_far() {
            self.caught_up.notified().await; // also where it was told of before anybody waited
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    #[test]
    fn a_waiter_is_woken_when_uncommitted_work_falls_below_the_limit() {
        let (behind, mut context) = (Uncommitted::default(), Context::from_waker(Waker::noop()));
        (1..MOST).for_each(|_| behind.add());
        assert!(!behind.is_far());
        assert_eq!(pin!(behind.caught_up()).poll(&mut context), Poll::Ready(()));
        (0..2).for_each(|_| behind.add());
        let mut waits = pin!(behind.caught_up());
        assert!(behind.is_far() && waits.as_mut().poll(&mut context).is_pending());
        behind.done(1);
        assert!(behind.is_far() && waits.as_mut().poll(&mut context).is_pending());
        behind.done(1);
        assert!(!behind.is_far() && waits.as_mut().poll(&mut context).is_ready());
        // what was told while nobody waited does not let one pass who waits later
        behind.add();
        behind.done(1);
        behind.add();
        assert!(pin!(behind.caught_up()).poll(&mut context).is_pending());
    }
}
