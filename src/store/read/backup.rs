//! Backup: a consistent copy of a running store, as one stream.
//!
//! Reading all rows takes time and is not a snapshot, so every commit made meanwhile is copied too. All rows, followed by
//! these commits, give the store as it was after the last of them: rows that a commit changed are overwritten by its copy,
//! and all other rows were unchanged the whole time.
//!
//! *Format.*
//! ```text
//! "holdline backup 3\n"                          (1 or 2 if the rows are of an earlier format of the folder)
//! frames: kind u8 | table name length u8 | key length u16 LE | value length u32 LE | table name | key | value
//!   kind 1: a row; 2: written by a commit during the backup; 3: deleted by one; 9: the end, with the SHA-256 of all bytes
//!   before it
//! ```
//! *Failure.* A stream without its end is not restored. Rows are copied unchanged, so the same checks find the same damaged
//! records in the restored store.

use crate::store::engine::error::StoreError;
use crate::store::handle::Store;
use crate::store::model::table::{Table, WriteBatch};
use crate::store::write::committer::Request;
use crate::store::write::request::{BEHIND_MAX, BackupCopy};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use tokio::sync::oneshot;

pub const MAGIC: &[u8] = b"holdline backup 3\n";
/// Of earlier formats of the folder, whose rows can be read too.
pub const OLDER_MAGIC: [&[u8]; 2] = [b"holdline backup 1\n", b"holdline backup 2\n"];
/// Size from which a chunk is sent.
const CHUNK_BYTES: usize = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Row = 1,
    Written = 2,
    Deleted = 3,
    End = 9,
}

impl Kind {
    pub fn of(n: u8) -> Option<Self> {
        [Self::Row, Self::Written, Self::Deleted, Self::End].into_iter().find(|k| *k as u8 == n)
    }
}

/// Writes the frames of a backup.
struct Writer<F> {
    chunk: Vec<u8>,
    hash: Sha256,
    send: F,
}

impl<F: FnMut(Bytes) -> bool> Writer<F> {
    fn frame(&mut self, kind: Kind, table: &str, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let mut head = vec![kind as u8, table.len() as u8];
        head.extend((key.len() as u16).to_le_bytes());
        head.extend((value.len() as u32).to_le_bytes());
        for part in [&head[..], table.as_bytes(), key, value] {
            self.chunk.extend(part);
        }
        if self.chunk.len() >= CHUNK_BYTES { self.send_chunk() } else { Ok(()) }
    }

    fn send_chunk(&mut self) -> Result<(), StoreError> {
        let chunk = std::mem::take(&mut self.chunk);
        self.hash.update(&chunk);
        let gone = || StoreError::Folder("the receiver of the backup has disconnected".to_owned());
        (self.send)(chunk.into()).then_some(()).ok_or_else(gone)
    }

    fn commit(&mut self, batch: WriteBatch) -> Result<(), StoreError> {
        for (table, writes) in Table::ALL.into_iter().zip(batch.into_tables()) {
            for (key, value) in writes {
                match value {
                    Some(value) => self.frame(Kind::Written, table.name(), &key, &value)?,
                    None => self.frame(Kind::Deleted, table.name(), &key, &[])?,
                }
            }
        }
        Ok(())
    }

    fn end(mut self) -> Result<(), StoreError> {
        self.send_chunk()?;
        let hash = self.hash.clone().finalize();
        self.frame(Kind::End, "", &[], &hash)?;
        self.send_chunk()
    }
}

impl Store {
    /// Sends a copy of the store as it is when the copy ends; it contains everything acknowledged before the call. `send`
    /// returns false if the receiver has disconnected. Blocks; only one backup runs at a time.
    pub fn backup(&self, mut send: impl FnMut(Bytes) -> bool) -> Result<(), StoreError> {
        let (to, commits) = mpsc::channel();
        let behind = Arc::new(AtomicUsize::new(0));
        if !self.backup_copy(Some(BackupCopy { to, behind: behind.clone() }))? {
            return Err(StoreError::Folder("another backup is running".to_owned()));
        }
        let mut writer = Writer { chunk: MAGIC.to_vec(), hash: Sha256::new(), send: &mut send };
        let copied = self.copy(&mut writer, &commits, &behind);
        self.backup_copy(None)?;
        copied?;
        // ends when the committer has dropped its sender
        while let Ok(batch) = commits.recv() {
            writer.commit(batch)?;
        }
        if behind.load(Ordering::Relaxed) >= BEHIND_MAX {
            return Err(StoreError::Folder("the receiver of the backup was too slow".to_owned()));
        }
        writer.end()
    }

    fn copy<F: FnMut(Bytes) -> bool>(
        &self,
        writer: &mut Writer<F>,
        commits: &mpsc::Receiver<WriteBatch>,
        behind: &AtomicUsize,
    ) -> Result<(), StoreError> {
        for table in Table::ALL {
            for row in self.shared.engine.range(table, ..) {
                let (key, value) = row?;
                writer.frame(Kind::Row, table.name(), &key, &value)?;
                while let Ok(batch) = commits.try_recv() {
                    behind.fetch_sub(batch.bytes(), Ordering::Relaxed);
                    writer.commit(batch)?;
                }
            }
        }
        Ok(())
    }

    /// Starts or stops the copying of commits, between two of them; false if it is running already.
    fn backup_copy(&self, backup_copy: Option<BackupCopy>) -> Result<bool, StoreError> {
        let (to, answer) = oneshot::channel();
        self.requests.send(Request::BackupCopy { backup_copy, answer: to }).map_err(|_| StoreError::Failed)?;
        answer.blocking_recv().map_err(|_| StoreError::Failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::delivery::{DeadLetter, DeliveryId, Place, Reason};
    use crate::event::{DestinationId, Digest64, Event, Sequence};
    use crate::store::handle::{Opened, Options};
    use crate::store::offline::restore::restore;
    use crate::store::write::request::{Arrival, DlqAction, Transition};
    use crate::time::Timestamp;
    use std::io::Cursor;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn event(rng: &mut fastrand::Rng) -> Event {
        Event {
            received_at: NOW,
            sender_id: None,
            body_digest: Digest64(rng.u64(..)),
            body: std::iter::repeat_with(|| rng.u8(..)).take(CHUNK_BYTES).collect::<Vec<_>>().into(),
            ..crate::testing::events::event(1)
        }
    }

    fn id(n: u64) -> DeliveryId {
        DeliveryId { sequence: Sequence(n), destination: DestinationId(0) }
    }

    /// Events that move from a table not yet read to one already read are only in the copied commits.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_backup_has_events_moved_meanwhile_and_runs_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let Opened { store, committer, .. } = Store::open(&path, Options::default(), Clock::manual(NOW)).unwrap();
        store.register(vec!["crm".to_owned()]).await.unwrap();
        let mut rng = fastrand::Rng::with_seed(7);
        for n in 1..=5 {
            store.accept(vec![Arrival::new(event(&mut rng))]).await.unwrap();
            let delivery = store.delivery(id(n), Place::Page).unwrap();
            let dead_letter = Box::new(DeadLetter { delivery, reason: Reason::Permanent, dead_at: NOW });
            store.record(Transition::Dead { from: Place::Page, dead_letter });
        }
        store.flush().await.unwrap();
        let (handle, of, mut copy) = (tokio::runtime::Handle::current(), store.clone(), Vec::new());
        let copied = tokio::task::spawn_blocking(move || {
            let mut error = None;
            of.backup(|chunk| {
                if copy.is_empty() {
                    for n in [4, 5] {
                        let redriven = of.dlq(DlqAction::Redrive, vec![id(n)], "ada".to_owned());
                        assert_eq!(handle.block_on(redriven).unwrap(), 1);
                    }
                    error = of.backup(|_| true).err();
                }
                copy.extend(chunk);
                true
            })
            .unwrap();
            assert!(error.unwrap().to_string().contains("another backup is running"));
            assert!(of.backup(|_| false).is_err(), "the receiver has disconnected");
            assert!(of.backup(|_| true).is_ok());
            copy
        });
        let restored = restore(Cursor::new(copied.await.unwrap()), &dir.path().join("restored"), || {}).unwrap();
        assert_eq!((restored.faults, restored.accepted, restored.dead, restored.waiting), (Vec::new(), 5, 3, 2));
        drop(store);
        committer.join().unwrap();
    }
}
