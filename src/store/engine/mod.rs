//! The engine: sled behind a guarded open and an atomic, durable commit.
//!
//! *Invariants.* [`Engine::commit`] returns `Ok` only when every write of the batch would survive a power cut. After one
//! error it never returns `Ok` again: a failed sync may have dropped writes, and a retry cannot find out.
//!
//! *Failure.* sled can panic while it opens; the panic becomes an error. All errors here are fatal to the daemon.
//!
//! # Levels
//! | level | module | purpose |
//! |---|---|---|
//! | 0 | [`error`] | why the store fails |
//! | 0 | [`log_check`] | finds damage in the log before sled opens it |
//! | 1 | [`folder`] | the data folder: lock, format version, durability |
//! | 1 | [`read`] | reads records from rows |
//! | 2 | [`disk_space`] | free, kept and reserved disk space |

pub mod disk_space;
pub mod error;
pub mod folder;
pub mod log_check;
pub mod read;

use crate::store::model::table::{Rows, Table, WriteBatch};
use crate::store::model::watermark::{Watermark, WatermarkFile};
use crate::store::sled_log::SEGMENT_BYTES;
use error::{Durability, StoreError};
use folder::Folder;
use log_check::check_log;
use sled::transaction::{ConflictableTransactionError, TransactionError, Transactional};
use std::fs::File;
use std::ops::RangeBounds;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Environment variable for developers: commits are not durable, to prove that the power-cut harness detects losses.
const UNSAFE_SWITCH: &str = "HOLDLINE_DEV_UNSAFE_NO_SYNC";
const CACHE_BYTES: u64 = 32 << 20;
/// An opening that does not end is abandoned after sled reports an error this many times.
const FAILURES_MAX: u32 = 10;

#[derive(Debug)]
pub struct Engine {
    /// First, since it must release the database before the other fields.
    _flush_waker: FlushWaker,
    config: sled::Config,
    db: sled::Db,
    trees: Vec<sled::Tree>,
    folder: Folder,
    data: File,
    durability: Durability,
    watermark: WatermarkFile,
    failed: AtomicBool,
}

impl Engine {
    pub fn open(folder: Folder) -> Result<Self, StoreError> {
        let unsafe_switch = std::env::var_os(UNSAFE_SWITCH).is_some_and(|v| v == "1");
        match check_log_before_open(&folder) {
            Err(StoreError::Corrupt(why)) if folder.is_unfinished() => recreate_queue(&folder, &why)?,
            checked => checked?,
        }
        let flags_set = !unsafe_switch && folder.mark_synchronous().is_some();
        let config = sled::Config::new()
            .path(folder.queue())
            .segment_size(SEGMENT_BYTES)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(Some(500))
            .use_compression(false);
        let db = match open_guarded(&config) {
            Err(StoreError::Corrupt(why)) if folder.is_unfinished() => {
                recreate_queue(&folder, &why)?;
                open_guarded(&config)?
            }
            Err(StoreError::Corrupt(why)) => {
                tracing::error!(why, "the store does not open; setting its snapshots aside and reading the whole log");
                folder.set_snapshots_aside().map_err(|e| StoreError::Folder(e.to_string()))?;
                open_guarded(&config)?
            }
            opened => opened?,
        };
        let no_thread = |e| StoreError::Folder(format!("cannot start a thread: {e}"));
        let flush_waker = FlushWaker::begin(config.clone(), db.clone()).map_err(no_thread)?;
        let mut trees = Vec::new();
        for table in Table::ALL {
            trees.push(db.open_tree(table.name()).map_err(StoreError::engine)?);
        }
        db.flush().map_err(StoreError::engine)?;
        let failed = |e: std::io::Error| StoreError::Folder(format!("{}: {e}", folder.queue().display()));
        let data = File::options().read(true).write(true).open(folder.queue().join("db")).map_err(failed)?;
        let durability = if unsafe_switch {
            tracing::error!("{UNSAFE_SWITCH} is set: acknowledged events do NOT survive a power cut");
            Durability::Unsafe
        } else if flags_set && folder.mark_files_synchronous().map_err(failed)? {
            Durability::InodeSync
        } else {
            data.sync_all().map_err(failed)?;
            Durability::Fdatasync
        };
        folder.write_format().map_err(|e| StoreError::Folder(format!("cannot write the format version: {e}")))?;
        let watermark = WatermarkFile::open(folder.path()).map_err(failed)?;
        let failed = AtomicBool::new(false);
        Ok(Self { _flush_waker: flush_waker, config, db, trees, folder, data, durability, watermark, failed })
    }

    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// sled's file, for which space is preallocated.
    pub fn data(&self) -> &File {
        &self.data
    }

    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Writes the durable watermark. If that fails, the old one remains, and less damage can be detected later.
    pub fn set_watermark(&self, watermark: Watermark) {
        if let Err(e) = self.watermark.set(watermark) {
            tracing::warn!(error = %e, "cannot write the durable watermark");
        }
    }

    /// Makes all writes of the batch or none; returns when they would survive a power cut.
    pub fn commit(&self, batch: WriteBatch) -> Result<(), StoreError> {
        if self.failed.load(Ordering::SeqCst) {
            return Err(StoreError::Failed);
        }
        let done = self.apply(batch).and_then(|()| self.make_durable());
        if done.is_err() {
            self.failed.store(true, Ordering::SeqCst);
        }
        done
    }

    fn apply(&self, batch: WriteBatch) -> Result<(), StoreError> {
        let mut trees = Vec::new();
        let mut batches = Vec::new();
        for (tree, writes) in self.trees.iter().zip(batch.into_tables()) {
            if writes.is_empty() {
                continue;
            }
            let mut batch = sled::Batch::default();
            for (key, value) in writes {
                match value {
                    Some(value) => batch.insert(key, value),
                    None => batch.remove(key),
                }
            }
            trees.push(tree.clone());
            batches.push(batch);
        }
        if trees.is_empty() {
            return Ok(()); // sled refuses an empty transaction
        }
        trees
            .as_slice()
            .transaction(|trees| {
                for (tree, batch) in trees.iter().zip(&batches) {
                    tree.apply_batch(batch)?;
                }
                Ok::<(), ConflictableTransactionError<()>>(())
            })
            .map_err(|e| match e {
                TransactionError::Storage(e) => StoreError::engine(e),
                TransactionError::Abort(()) => StoreError::Engine("a transaction was aborted".to_owned()),
            })
    }

    fn make_durable(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(StoreError::engine)?;
        if self.durability == Durability::Fdatasync {
            self.data.sync_data().map_err(|e| StoreError::Engine(format!("fdatasync: {e}")))?;
        }
        // includes writes that no caller waited for
        self.config.global_error().map_err(StoreError::engine)
    }

    /// Rows of a table in a range of keys, in order. Each is read when the iterator reaches it; this is not a snapshot.
    pub fn range<R: RangeBounds<Vec<u8>>>(
        &self,
        table: Table,
        range: R,
    ) -> impl DoubleEndedIterator<Item = Result<(sled::IVec, sled::IVec), StoreError>> {
        self.trees[table as usize].range(range).map(|row| row.map_err(StoreError::engine))
    }
}

impl Rows for Engine {
    type Error = StoreError;
    fn row(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.trees[table as usize].get(key).map_err(StoreError::engine)?.map(|v| v.to_vec()))
    }
}

fn recreate_queue(folder: &Folder, why: &str) -> Result<(), StoreError> {
    tracing::warn!(why, "the store was never opened completely, so nothing was accepted; creating it again");
    folder.recreate_queue().map_err(|e| StoreError::Folder(e.to_string()))
}

/// Refuses a log with damage that sled would treat as the end of its log.
fn check_log_before_open(folder: &Folder) -> Result<(), StoreError> {
    let checked = check_log(&folder.queue(), folder.watermark())
        .map_err(|e| StoreError::Folder(format!("cannot read {}: {e}", folder.queue().display())))?;
    for line in &checked.harmless {
        tracing::warn!(line, "the store has damage to data that it no longer needs");
    }
    for line in &checked.faults {
        tracing::error!(line, "the store is damaged");
    }
    match checked.faults.first() {
        None => Ok(()),
        Some(first) => {
            let more = checked.faults.len() - 1;
            let more = if more == 0 { String::new() } else { format!(", and {more} more") };
            Err(StoreError::Corrupt(format!("{first}{more}")))
        }
    }
}

/// Opens sled in a separate thread: it can panic, or wait forever for a failed write.
fn open_guarded(config: &sled::Config) -> Result<sled::Db, StoreError> {
    let (to, opened) = channel();
    let opening = config.clone();
    let thread = std::thread::Builder::new()
        .name("store-open".to_owned())
        .spawn(move || to.send(opening.open()))
        .map_err(|e| StoreError::Folder(format!("cannot start a thread: {e}")))?;
    let mut failed = 0;
    let opened = loop {
        match opened.recv_timeout(CHECK_INTERVAL) {
            Ok(opened) => break Ok(opened),
            Err(RecvTimeoutError::Disconnected) => {
                break thread.join().map(|_| Err(sled::Error::ReportableBug("it returned nothing".to_owned())));
            }
            Err(RecvTimeoutError::Timeout) => {
                if let Err(e) = config.global_error() {
                    failed += 1;
                    if failed == FAILURES_MAX {
                        break Ok(Err(e));
                    }
                }
            }
        }
    };
    match opened {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(sled::Error::Corruption { .. } | sled::Error::ReportableBug(_))) => {
            Err(StoreError::Corrupt("sled reports corruption".to_owned()))
        }
        // also if the version in its file is damaged
        Ok(Err(sled::Error::Unsupported(why))) => Err(StoreError::Corrupt(why)),
        Ok(Err(e)) => Err(StoreError::engine(e)),
        Err(panic) => {
            let why = panic.downcast_ref::<String>().cloned();
            let why = why.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Err(StoreError::Corrupt(format!("sled panicked: {}", why.unwrap_or_default())))
        }
    }
}

/// How often the waker checks for a failed write.
pub const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Wakes threads that wait inside sled for a failed write.
///
/// sled hands its writes to a thread pool. If one fails, sled stores the error, but on one of two paths it does not wake the
/// threads that wait for this write. The next flush finds the error and wakes all of them. Dropping the waker releases the
/// database.
#[derive(Debug)]
pub struct FlushWaker {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FlushWaker {
    /// `config` is the one with which `db` was opened.
    pub fn begin(config: sled::Config, db: sled::Db) -> std::io::Result<Self> {
        let (end, ended) = channel();
        let run = move || flush_after_failure(&config, &db, &ended);
        let thread = std::thread::Builder::new().name("store-waker".to_owned()).spawn(run)?;
        Ok(Self { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for FlushWaker {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // the panic hook has logged it
        }
    }
}

fn flush_after_failure(config: &sled::Config, db: &sled::Db, ended: &Receiver<()>) {
    while ended.recv_timeout(CHECK_INTERVAL) == Err(RecvTimeoutError::Timeout) {
        if config.global_error().is_err() {
            let _ = db.flush(); // fails, and wakes the waiting threads, which report the error
        }
    }
}

#[cfg(test)]
mod flush_waker_tests {
    use super::*;

    #[test]
    fn the_waker_releases_the_database_when_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let config = sled::Config::new().path(dir.path()).segment_size(1 << 16);
        for _ in 0..3 {
            // while a handle exists, the file is locked
            let db = config.clone().open().unwrap();
            let flush_waker = FlushWaker::begin(config.clone(), db.clone()).unwrap();
            db.insert(b"k", b"v").unwrap();
            drop(flush_waker);
            drop(db);
        }
    }
}
