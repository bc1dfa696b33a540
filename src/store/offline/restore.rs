//! Restores a store from a backup; checks and repairs a store that no daemon runs on.
//!
//! *Failure.* The whole backup is read and its hash compared before anything is written. A folder that is not empty is
//! refused.

use crate::store::engine::Engine;
use crate::store::engine::error::StoreError;
use crate::store::engine::folder::Folder;
use crate::store::index::{Index, check, recovery};
use crate::store::model::record::Counters;
use crate::store::model::table::{Table, WriteBatch};
use crate::store::read::backup::{Kind, MAGIC, OLDER_MAGIC};
use crate::time::Timestamp;
use sha2::{Digest, Sha256};
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

/// Size from which a batch is committed.
const COMMIT_BYTES: usize = 4 << 20;

/// Content of a store, and its faults.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    pub accepted: u64,
    pub waiting: u64,
    pub dead: u64,
    pub damaged: u64,
    /// A description of each fault.
    pub faults: Vec<String>,
}

struct Frame {
    kind: Kind,
    table: String,
    key: Vec<u8>,
    value: Vec<u8>,
}

/// The frames of a backup.
struct Frames<R> {
    from: R,
    hash: Sha256,
    ended: bool,
}

impl<R: Read> Frames<R> {
    fn new(mut from: R) -> Result<Self, StoreError> {
        let mut magic = vec![0; MAGIC.len()];
        let read = from.read_exact(&mut magic);
        if read.is_err() || (magic != MAGIC && !OLDER_MAGIC.contains(&&magic[..])) {
            return Err(StoreError::Folder("not a holdline backup, or an unsupported version".to_owned()));
        }
        let mut hash = Sha256::new();
        hash.update(&magic);
        Ok(Self { from, hash, ended: false })
    }

    fn bytes(&mut self, length: usize) -> Result<Vec<u8>, StoreError> {
        let mut bytes = vec![0; length];
        self.from.read_exact(&mut bytes).map_err(|e| incomplete(&e))?;
        Ok(bytes)
    }

    /// The next frame; `None` at the end, after comparing the hash.
    fn next(&mut self) -> Result<Option<Frame>, StoreError> {
        if self.ended {
            return Ok(None);
        }
        let head = self.bytes(8)?;
        let kind = Kind::of(head[0]).ok_or_else(|| StoreError::Folder("the backup is damaged".to_owned()))?;
        let key_length = usize::from(u16::from_le_bytes([head[2], head[3]]));
        let value_length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        if value_length > crate::store::model::table::ROW_MAX {
            return Err(StoreError::Folder("the backup is damaged".to_owned()));
        }
        let (table, key) = (self.bytes(usize::from(head[1]))?, self.bytes(key_length)?);
        let value = self.bytes(value_length)?;
        if kind == Kind::End {
            self.ended = true;
            let whole = value[..] == self.hash.clone().finalize()[..];
            return whole.then_some(None).ok_or_else(|| StoreError::Folder("the backup is damaged".to_owned()));
        }
        for part in [&head, &table, &key, &value] {
            self.hash.update(part);
        }
        let table = String::from_utf8_lossy(&table).into_owned();
        Ok(Some(Frame { kind, table, key, value }))
    }
}

fn incomplete(e: &io::Error) -> StoreError {
    StoreError::Folder(format!("the backup is incomplete: {e}"))
}

/// Creates a store in an empty folder from a backup; calls `progress` for each row.
pub fn restore(from: impl Read + Seek, path: &Path, mut progress: impl FnMut()) -> Result<Inventory, StoreError> {
    require_empty(path)?;
    let mut from = BufReader::new(from);
    let mut frames = Frames::new(&mut from)?;
    while frames.next()?.is_some() {}
    let engine = Engine::open(Folder::open(path)?)?;
    // first the rows, then the commits made during the backup
    for pass in [Pass::Rows, Pass::Commits] {
        from.rewind().map_err(|e| incomplete(&e))?;
        let (mut frames, mut batch) = (Frames::new(&mut from)?, WriteBatch::default());
        while let Some(frame) = frames.next()? {
            if (frame.kind == Kind::Row) != (pass == Pass::Rows) {
                continue;
            }
            let table = Table::ALL.into_iter().find(|t| t.name() == frame.table);
            let newer =
                || StoreError::Folder(format!("the backup is from a newer holdline: unknown table `{}`", frame.table));
            let table = table.ok_or_else(newer)?;
            match frame.kind {
                Kind::Deleted => batch.delete(table, frame.key),
                _ => batch.put(table, frame.key, frame.value),
            }
            progress();
            if batch.bytes() >= COMMIT_BYTES {
                engine.commit(std::mem::take(&mut batch))?;
            }
        }
        engine.commit(batch)?;
    }
    finish(&engine)
}

/// Refuses a folder that is not empty: its files would become part of the store.
fn require_empty(path: &Path) -> Result<(), StoreError> {
    let shown = path.display();
    let why = match std::fs::read_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => format!("{shown} cannot be read: {e}"),
        Ok(mut files) => match files.next() {
            None => return Ok(()),
            Some(_) if path.join("queue").exists() => {
                format!("{shown} holds a store already; give another, empty folder")
            }
            Some(_) => format!("{shown} is not empty; give an empty folder, or one that does not exist yet"),
        },
    };
    Err(StoreError::Folder(why))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Rows,
    Commits,
}

/// Checks every record of a store that no daemon runs on.
pub fn verify(path: &Path) -> Result<Inventory, StoreError> {
    if !path.join("queue").exists() {
        return Err(StoreError::Folder(format!("{} holds no store", path.display())));
    }
    let engine = Engine::open(Folder::open(path)?)?;
    let (index, faults) = recovery::recover(&engine)?;
    inventory(&engine, &index, faults)
}

/// Sets aside the damaged records, then checks as [`verify`]; also returns descriptions of these records.
pub fn repair(path: &Path, now: Timestamp) -> Result<(Vec<String>, Inventory), StoreError> {
    if !path.join("queue").exists() {
        return Err(StoreError::Folder(format!("{} holds no store", path.display())));
    }
    let engine = Engine::open(Folder::open(path)?)?;
    let (mut index, _) = recovery::recover(&engine)?;
    let done = crate::store::offline::repair::repair(&engine, &mut index, now)?;
    Ok((done, finish(&engine)?))
}

/// Checks a store after the last write and sets its watermark. Without the watermark, damage to the last commit would be
/// taken for a write torn by a power cut, and a small store consists of a single commit.
pub fn finish(engine: &Engine) -> Result<Inventory, StoreError> {
    let (index, faults) = recovery::recover(engine)?;
    engine.set_watermark(index.totals.reached());
    inventory(engine, &index, faults)
}

fn inventory(engine: &Engine, index: &Index, mut faults: Vec<String>) -> Result<Inventory, StoreError> {
    faults.extend(check::check(engine, index)?);
    let totals = &index.totals;
    Ok(Inventory {
        accepted: totals.accepted,
        waiting: totals.sum(Counters::queued),
        dead: totals.sum(|t| t.dead),
        damaged: totals.damaged,
        faults,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::DestinationId;
    use crate::store::model::codec;
    use crate::store::model::record::{Hold, Totals};
    use crate::store::model::table::{Rows, TOTALS, hold_key};
    use std::io::Cursor;

    fn backup(frames: &[(Kind, &[u8], &[u8])]) -> Vec<u8> {
        let frame = |kind: Kind, table: &str, key: &[u8], value: &[u8]| {
            let (key_length, length) = ((key.len() as u16).to_le_bytes(), (value.len() as u32).to_le_bytes());
            let head = [&[kind as u8, table.len() as u8][..], &key_length, &length].concat();
            [&head[..], table.as_bytes(), key, value].concat()
        };
        let mut bytes = MAGIC.to_vec();
        frames.iter().for_each(|(kind, key, value)| bytes.extend(frame(*kind, "meta", key, value)));
        let hash = Sha256::digest(&bytes);
        bytes.extend(frame(Kind::End, "", &[], &hash));
        bytes
    }

    #[test]
    fn a_restore_has_rows_as_committed_during_the_backup() {
        let hold = |n| codec::encode(codec::Kind::Hold, &Hold { until: Timestamp(n), reason: String::new() });
        let key = |d| hold_key(DestinationId(d));
        let totals = codec::encode(codec::Kind::Totals, &Totals::default());
        let copied = backup(&[
            (Kind::Row, &[TOTALS, &[0, 0]].concat(), &totals),
            (Kind::Row, &key(0), &hold(1)),
            (Kind::Deleted, &key(2), b""),
            (Kind::Written, &key(1), &hold(2)),
            (Kind::Deleted, &key(0), b""),
            (Kind::Row, &key(1), &hold(1)),
            (Kind::Row, &key(2), &hold(1)),
        ]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("restored");
        let restored = restore(Cursor::new(copied), &path, || ()).unwrap();
        assert_eq!(restored.faults, Vec::<String>::new());
        let engine = crate::testing::stores::unlocked(|| Folder::open(&path).and_then(Engine::open)).unwrap();
        let rows = [0, 1, 2].map(|d| engine.row(Table::Meta, &key(d)).unwrap());
        assert_eq!(rows, [None, Some(hold(2)), None]);
    }
}
