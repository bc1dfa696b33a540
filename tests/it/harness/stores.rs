//! Stores that are opened and closed again. Compiled into the integration tests and into the unit tests (`holdline::testing`).

use holdline::clock::{self, Clock};
use holdline::store::{Opened, Options, Store};
use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

/// Longer than any thread of sled needs to release the lock of a closed store.
const DEADLINE: Duration = Duration::from_secs(60);

/// Repeats `open` while a closed store of this process has not released its lock.
pub fn unlocked<T, E: Display>(open: impl Fn() -> Result<T, E>) -> Result<T, E> {
    let deadline = clock::monotonic() + DEADLINE;
    loop {
        match open() {
            Err(error) if is_locked(&error.to_string()) && clock::monotonic() < deadline => {
                std::thread::park_timeout(Duration::from_millis(1));
            }
            opened => return opened,
        }
    }
}

/// Whether an error says that another store has locked the folder, with holdline's lock or with sled's.
pub fn is_locked(error: &str) -> bool {
    error.contains("in use by another holdline") || error.contains("could not acquire lock")
}

/// Opens a store, also again in the same process.
pub fn open(path: &Path, options: &Options, clock: &Clock) -> Opened {
    unlocked(|| Store::open(path, options.clone(), clock.clone())).unwrap()
}

/// Closes a store.
pub fn close(opened: Opened) {
    let Opened { store, committer, store_events, .. } = opened;
    drop((store, store_events));
    committer.join().unwrap();
}
