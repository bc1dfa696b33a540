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

/// Puts the thread that wakes it to sleep for ever, unless it is taken back before.
struct Lullaby {
    /// Sung, or taken back: whoever sets it decides.
    decided: AtomicBool,
    asleep: Sender<()>,
}

impl Wake for Lullaby {
    fn wake(self: Arc<Self>) {
        let ours = std::thread::current().name().is_some_and(|name| name.starts_with("sled-io-"));
        if ours && !self.decided.swap(true, Ordering::SeqCst) {
            let _ = self.asleep.send(());
            drop(self);
            loop {
                std::thread::park();
            }
        }
    }
}

/// What came of trying to send one to sleep.
#[derive(PartialEq, Eq)]
enum Came {
    Asleep,
    /// Its flush was ready before anybody could wait for it.
    TooQuick,
    /// It is not heard of in time, and stays awake.
    TooSlow,
}

/// Sends all but a few of the pool's threads to sleep, once in a process; how many sleep. `tree` has been flushed.
pub(super) fn quiet(tree: &sled::Tree) -> usize {
    static ASLEEP: OnceLock<usize> = OnceLock::new();
    *ASLEEP.get_or_init(|| {
        let tries = (0..TRIES).map(|_| send_one_to_sleep(tree)).take_while(|came| *came != Came::TooSlow);
        tries.filter(|came| *came == Came::Asleep).take(THREADS - AWAKE).count()
    })
}

fn send_one_to_sleep(tree: &sled::Tree) -> Came {
    let (asleep, told) = channel();
    let lullaby = Arc::new(Lullaby { decided: AtomicBool::new(false), asleep });
    let waker = lullaby.clone().into();
    let mut flush = pin!(tree.flush_async());
    if flush.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
        return Came::TooQuick;
    }
    // nobody falls asleep uncounted: who has not done so by now never will
    let heard = told.recv_timeout(PATIENCE).is_ok() || lullaby.decided.swap(true, Ordering::SeqCst);
    if heard { Came::Asleep } else { Came::TooSlow }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lullaby_that_was_taken_back_or_is_sung_elsewhere_puts_nobody_to_sleep() {
        let (asleep, told) = channel();
        let lullaby = Arc::new(Lullaby { decided: AtomicBool::new(false), asleep });
        lullaby.clone().wake(); // this thread is none of the pool's
        lullaby.decided.store(true, Ordering::SeqCst);
        let of_the_pool = std::thread::Builder::new().name("sled-io-7".to_owned());
        of_the_pool.spawn(move || lullaby.wake()).unwrap().join().unwrap();
        assert!(told.try_recv().is_err());
    }

    #[test]
    fn the_pool_writes_on_with_the_few_that_are_awake() {
        let folder = tempfile::tempdir().unwrap();
        let db = sled::Config::new().path(folder.path()).open().unwrap();
        db.flush().unwrap();
        let asleep = quiet(&db);
        assert!(asleep <= THREADS - AWAKE);
        assert_eq!(quiet(&db), asleep, "once is enough");
        for n in 0..100u32 {
            db.insert(n.to_be_bytes(), vec![7; 1000]).unwrap();
            db.flush().unwrap();
        }
        drop(db);
        assert_eq!(sled::Config::new().path(folder.path()).open().unwrap().len(), 100, "no handle is kept");
    }
}
