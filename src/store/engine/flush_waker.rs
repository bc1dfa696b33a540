//! The lookout: wakes whoever waits inside sled for a write that has failed.
//!
//! sled hands its writes to a pool. When one fails, the error is set aside for all to see, but on one of its two ways
//! nobody is woken: whoever waits for that write to be stable would wait for ever. Another flush meets the error first,
//! and wakes all.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often it looks.
pub const EVERY: Duration = Duration::from_millis(100);

/// Looks for as long as it lives; gone from the database when dropped.
#[derive(Debug)]
pub struct FlushWaker {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FlushWaker {
    /// `config` is what `db` was opened with.
    pub fn begin(config: sled::Config, db: sled::Db) -> std::io::Result<Self> {
        let (end, ended) = channel();
        let look = move || look(&config, &db, &ended);
        let thread = std::thread::Builder::new().name("store-lookout".to_owned()).spawn(look)?;
        Ok(Self { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for FlushWaker {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic has been told by the hook
        }
    }
}

fn look(config: &sled::Config, db: &sled::Db, ended: &Receiver<()>) {
    while ended.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
        if config.global_error().is_err() {
            let _ = db.flush(); // fails, and wakes those who wait; they tell the error
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_waker_releases_the_database_when_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let config = sled::Config::new().path(dir.path()).segment_size(1 << 16);
        for _ in 0..3 {
            // a second handle would find the file locked
            let db = config.clone().open().unwrap();
            let lookout = FlushWaker::begin(config.clone(), db.clone()).unwrap();
            db.insert(b"k", b"v").unwrap();
            drop(lookout);
            drop(db);
        }
    }
}
