//! A consistent copy of a running store, as one stream; and a store made from such a stream.
//!
//! While all rows are read, which takes its time and is no snapshot, every commit is copied as well. Rows first and the
//! copied commits after them give the store as it was when the last of these commits was made: what a commit has touched
//! is overwritten by its copy, and what none has touched was the same all the time.
//!
//! *Format.*
//! ```text
//! "holdline backup 3\n"                          (1 or 2 where the rows are of an earlier format of the folder)
//! frames: kind u8 | table name length u8 | key length u16 LE | value length u32 LE | table name | key | value
//!   kind 1: a row; 2: written by a later commit; 3: deleted by one; 9: the end, its value the SHA-256 of all before it
//! ```
//! *Failure.* A stream without its end is not restored. Rows are copied as they lie, so what did not verify does not
//! verify there either, and is found by the same checks.

use crate::store::engine::error::StoreError;
use crate::store::handle::Store;
use crate::store::model::table::{Table, WriteBatch};
use crate::store::write::committer::Request;
use crate::store::write::request::{BEHIND_MAX, Tee};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use tokio::sync::oneshot;

pub const MAGIC: &[u8] = b"holdline backup 3\n";
/// Those of a holdline before the folder's present format; its rows are read as well.
pub const OLDER_MAGIC: [&[u8]; 2] = [b"holdline backup 1\n", b"holdline backup 2\n"];
/// About so many bytes are sent at once.
const PIECE: usize = 64 << 10;

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

/// The stream in the making.
struct Writer<F> {
    piece: Vec<u8>,
    hash: Sha256,
    send: F,
}

impl<F: FnMut(Bytes) -> bool> Writer<F> {
    fn frame(&mut self, kind: Kind, table: &str, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let mut head = vec![kind as u8, table.len() as u8];
        head.extend((key.len() as u16).to_le_bytes());
        head.extend((value.len() as u32).to_le_bytes());
        for part in [&head[..], table.as_bytes(), key, value] {
            self.piece.extend(part);
        }
        if self.piece.len() >= PIECE { self.send_off() } else { Ok(()) }
    }

    fn send_off(&mut self) -> Result<(), StoreError> {
        let piece = std::mem::take(&mut self.piece);
        self.hash.update(&piece);
        let gone = || StoreError::Folder("the reader of the backup has gone".to_owned());
        (self.send)(piece.into()).then_some(()).ok_or_else(gone)
    }

    fn later(&mut self, draft: WriteBatch) -> Result<(), StoreError> {
        for (table, writes) in Table::ALL.into_iter().zip(draft.into_tables()) {
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
        self.send_off()?;
        let hash = self.hash.clone().finalize();
        self.frame(Kind::End, "", &[], &hash)?;
        self.send_off()
    }
}

impl Store {
    /// Sends a copy of everything, as it is at the end of the copy; everything acknowledged before the call is in it.
    /// `send` is false when nobody listens any more. Blocks for as long as that takes; one at a time.
    pub fn backup(&self, mut send: impl FnMut(Bytes) -> bool) -> Result<(), StoreError> {
        let (to, commits) = mpsc::channel();
        let behind = Arc::new(AtomicUsize::new(0));
        if !self.tee(Some(Tee { to, behind: behind.clone() }))? {
            return Err(StoreError::Folder("another backup is being made".to_owned()));
        }
        let mut writer = Writer { piece: MAGIC.to_vec(), hash: Sha256::new(), send: &mut send };
        let copied = self.copy(&mut writer, &commits, &behind);
        self.tee(None)?;
        copied?;
        // the committer has let go of its end
        while let Ok(draft) = commits.recv() {
            writer.later(draft)?;
        }
        if behind.load(Ordering::Relaxed) >= BEHIND_MAX {
            return Err(StoreError::Folder("the backup was read too slowly".to_owned()));
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
                while let Ok(draft) = commits.try_recv() {
                    behind.fetch_sub(draft.bytes(), Ordering::Relaxed);
                    writer.later(draft)?;
                }
            }
        }
        Ok(())
    }

    /// Begins or ends the copying of commits, between two of them; false where it is going on already.
    fn tee(&self, tee: Option<Tee>) -> Result<bool, StoreError> {
        let (to, answer) = oneshot::channel();
        self.requests.send(Request::Tee { tee, answer: to }).map_err(|_| StoreError::Failed)?;
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
            body: std::iter::repeat_with(|| rng.u8(..)).take(PIECE).collect::<Vec<_>>().into(),
            ..crate::testing::events::event(1)
        }
    }

    fn id(n: u64) -> DeliveryId {
        DeliveryId { sequence: Sequence(n), destination: DestinationId(0) }
    }

    /// What moves from where nothing was read yet to where all was read is in none of the rows.
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
            let letter = Box::new(DeadLetter { delivery, reason: Reason::Permanent, dead_at: NOW });
            store.record(Transition::Dead { from: Place::Page, letter });
        }
        store.flush().await.unwrap();
        let (handle, of, mut copy) = (tokio::runtime::Handle::current(), store.clone(), Vec::new());
        let copied = tokio::task::spawn_blocking(move || {
            let mut told = None;
            of.backup(|piece| {
                if copy.is_empty() {
                    for n in [4, 5] {
                        let redriven = of.dlq(DlqAction::Redrive, vec![id(n)], "ada".to_owned());
                        assert_eq!(handle.block_on(redriven).unwrap(), 1);
                    }
                    told = of.backup(|_| true).err();
                }
                copy.extend(piece);
                true
            })
            .unwrap();
            assert!(told.unwrap().to_string().contains("another backup is being made"));
            assert!(of.backup(|_| false).is_err(), "nobody listens");
            assert!(of.backup(|_| true).is_ok());
            copy
        });
        let made = restore(Cursor::new(copied.await.unwrap()), &dir.path().join("restored"), || {}).unwrap();
        assert_eq!((made.faults, made.accepted, made.dead, made.waiting), (Vec::new(), 5, 3, 2));
        drop(store);
        committer.join().unwrap();
    }
}
