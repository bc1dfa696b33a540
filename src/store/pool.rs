//! sled's pool of threads, made smaller.
//!
//! sled writes through seven threads that live as long as the process, and rings all of them for each write; a commit is two
//! writes. Most of what a commit of a single event costs is then threads that wake up to find nothing. The pool knows no
//! size that could be set, so all but [`AWAKE`] are sent to sleep: whoever makes a flush by [`sled::Tree::flush_async`]
//! ready is one of them, and calls the waker.
//!
//! *Invariants.* As many stay awake as can wait for each other: the writes of one commit, one of sled's own flusher, and
//! the shortening of the file that the others may wait for. Where a thread cannot be sent to sleep, nothing is lost but time.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Wake};
use std::time::Duration;

/// Threads of sled's pool (`DESIRED_WAITING_THREADS` in 0.34.7).
const THREADS: usize = 7;
const AWAKE: usize = 4;
/// Sending one to sleep takes a flush of nothing.
const PATIENCE: Duration = Duration::from_millis(200);
const TRIES: usize = 50;

/// Puts the thread that wakes it to sleep for ever, once.
struct Lullaby {
    sung: AtomicBool,
    asleep: Sender<()>,
}

impl Wake for Lullaby {
    fn wake(self: Arc<Self>) {
        let ours = std::thread::current().name().is_some_and(|name| name.starts_with("sled-io-"));
        if ours && !self.sung.swap(true, Ordering::Relaxed) {
            let _ = self.asleep.send(());
            drop(self);
            loop {
                std::thread::park();
            }
        }
    }
}

/// Sends all but a few of the pool's threads to sleep, once in a process; how many sleep. `tree` has been flushed.
pub(super) fn quiet(tree: &sled::Tree) -> usize {
    static ASLEEP: OnceLock<usize> = OnceLock::new();
    *ASLEEP.get_or_init(|| (0..TRIES).filter(|_| send_one_to_sleep(tree)).take(THREADS - AWAKE).count())
}

fn send_one_to_sleep(tree: &sled::Tree) -> bool {
    let (asleep, told) = channel();
    let waker = Arc::new(Lullaby { sung: AtomicBool::new(false), asleep }).into();
    let mut flush = pin!(tree.flush_async());
    // where it is ready at once, nobody calls the waker
    flush.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() && told.recv_timeout(PATIENCE).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_writes_on_with_the_few_that_are_awake() {
        let folder = tempfile::tempdir().unwrap();
        let db = sled::Config::new().path(folder.path()).open().unwrap();
        db.flush().unwrap();
        assert_eq!(quiet(&db), THREADS - AWAKE);
        assert_eq!(quiet(&db), THREADS - AWAKE, "once is enough");
        for n in 0..100u32 {
            db.insert(n.to_be_bytes(), vec![7; 1000]).unwrap();
            db.flush().unwrap();
        }
        drop(db);
        assert_eq!(sled::Config::new().path(folder.path()).open().unwrap().len(), 100, "no handle is kept");
    }
}
