//! The engine: sled behind a guarded open and an atomic, durable commit.
//!
//! *Invariants.* [`Engine::commit`] returns `Ok` only when every write of the draft would survive a power cut. After one
//! error it never returns `Ok` again: a failed sync may have dropped what it should have written, and no retry can tell.
//!
//! *Failure.* Opening can panic inside sled; that is caught and told as an error. All errors here are fatal to the daemon.

use super::StoreError;
use super::draft::{Draft, Rows, Table};
use super::folder::{Durability, Folder};
use sled::transaction::{ConflictableTransactionError, TransactionError, Transactional};
use std::fs::File;
use std::ops::RangeBounds;
use std::sync::atomic::{AtomicBool, Ordering};

/// The developers' switch that makes acknowledgements worthless, so that the power-cut harness can be seen to bite.
const UNSAFE_SWITCH: &str = "HOLDLINE_DEV_UNSAFE_NO_SYNC";
/// Fixed when a store is made: rows of 16 KiB stay inside their leaves (a blob file comes at a quarter of a segment).
const SEGMENT_BYTES: usize = 2 << 20;
const CACHE_BYTES: u64 = 32 << 20;

#[derive(Debug)]
pub struct Engine {
    db: sled::Db,
    trees: Vec<sled::Tree>,
    folder: Folder,
    data: File,
    durability: Durability,
    failed: AtomicBool,
}

impl Engine {
    pub fn open(folder: Folder) -> Result<Self, StoreError> {
        let unsafe_switch = std::env::var_os(UNSAFE_SWITCH).is_some_and(|v| v == "1");
        let marked = !unsafe_switch && folder.mark_synchronous().is_some();
        let db = match open_guarded(&folder) {
            Err(StoreError::Corrupt(why)) => {
                tracing::error!(why, "the store does not open; setting its snapshots aside and reading the whole log");
                folder.set_snapshots_aside().map_err(|e| StoreError::Folder(e.to_string()))?;
                open_guarded(&folder)?
            }
            opened => opened?,
        };
        let mut trees = Vec::new();
        for table in Table::ALL {
            trees.push(db.open_tree(table.name()).map_err(StoreError::engine)?);
        }
        db.flush().map_err(StoreError::engine)?;
        let asleep = super::pool::quiet(&trees[0]);
        tracing::debug!(asleep, "threads of sled's pool that are not needed");
        let failed = |e: std::io::Error| StoreError::Folder(format!("{}: {e}", folder.queue().display()));
        let data = File::options().read(true).write(true).open(folder.queue().join("db")).map_err(failed)?;
        let durability = if unsafe_switch {
            tracing::error!("{UNSAFE_SWITCH} is set: acknowledged events do NOT survive a power cut");
            Durability::Unsafe
        } else if marked && folder.mark_files_synchronous().map_err(failed)? {
            Durability::InodeSync
        } else {
            data.sync_all().map_err(failed)?;
            Durability::Fdatasync
        };
        Ok(Self { db, trees, folder, data, durability, failed: AtomicBool::new(false) })
    }

    pub fn durability(&self) -> Durability {
        self.durability
    }

    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Makes all writes of the draft, or none, and returns when they would survive a power cut.
    pub fn commit(&self, draft: Draft) -> Result<(), StoreError> {
        if self.failed.load(Ordering::SeqCst) {
            return Err(StoreError::Failed);
        }
        let done = self.apply(draft).and_then(|()| self.make_durable());
        if done.is_err() {
            self.failed.store(true, Ordering::SeqCst);
        }
        done
    }

    fn apply(&self, draft: Draft) -> Result<(), StoreError> {
        let mut trees = Vec::new();
        let mut batches = Vec::new();
        for (tree, writes) in self.trees.iter().zip(draft.into_tables()) {
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
            return Ok(()); // which sled takes for a fault
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
        Ok(())
    }

    /// Rows of a table in a range of keys, in order; lazily read, each from the store as it is then.
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

fn open_guarded(folder: &Folder) -> Result<sled::Db, StoreError> {
    let config = sled::Config::new()
        .path(folder.queue())
        .segment_size(SEGMENT_BYTES)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(Some(500))
        .use_compression(false);
    let opened = std::thread::Builder::new()
        .name("store-open".to_owned())
        .spawn(move || config.open())
        .map_err(|e| StoreError::Folder(format!("cannot start a thread: {e}")))?
        .join();
    match opened {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(sled::Error::Corruption { .. } | sled::Error::ReportableBug(_))) => {
            Err(StoreError::Corrupt("sled reports corruption".to_owned()))
        }
        Ok(Err(e)) => Err(StoreError::engine(e)),
        Err(panic) => {
            let why = panic.downcast_ref::<String>().cloned();
            let why = why.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Err(StoreError::Corrupt(format!("sled panicked: {}", why.unwrap_or_default())))
        }
    }
}
