//! A store made from a backup, and the check of a store that nobody runs.
//!
//! *Failure.* A backup is read through and its hash compared before anything is written. A folder that holds a store
//! already is refused.

use crate::store::engine::Engine;
use crate::store::engine::error::StoreError;
use crate::store::engine::folder::Folder;
use crate::store::index::Index;
use crate::store::index::{check, recovery};
use crate::store::model::record::Counters;
use crate::store::model::table::Table;
use crate::store::model::table::WriteBatch;
use crate::store::read::backup::{Kind, MAGIC, OLDER_MAGIC};
use crate::time::Timestamp;
use sha2::{Digest, Sha256};
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

/// About so many bytes go into one commit.
const COMMIT: usize = 4 << 20;

/// What a store holds, and what is wrong with it.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    pub accepted: u64,
    pub waiting: u64,
    pub dead: u64,
    pub damaged: u64,
    /// Every fault in words; empty where all is well.
    pub faults: Vec<String>,
}

struct Frame {
    kind: Kind,
    table: String,
    key: Vec<u8>,
    value: Vec<u8>,
}

/// Reads a backup from its beginning.
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
            return Err(StoreError::Folder("this is no backup that this holdline knows".to_owned()));
        }
        let mut hash = Sha256::new();
        hash.update(&magic);
        Ok(Self { from, hash, ended: false })
    }

    fn bytes(&mut self, length: usize) -> Result<Vec<u8>, StoreError> {
        let mut bytes = vec![0; length];
        self.from.read_exact(&mut bytes).map_err(|e| broken(&e))?;
        Ok(bytes)
    }

    /// The next frame; none behind the end, whose hash has then been compared.
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

fn broken(e: &io::Error) -> StoreError {
    StoreError::Folder(format!("the backup is not whole: {e}"))
}

/// Makes a store in an empty folder from a backup; `progress` hears of each row.
pub fn restore(from: impl Read + Seek, path: &Path, mut progress: impl FnMut()) -> Result<Inventory, StoreError> {
    must_be_free(path)?;
    let mut from = BufReader::new(from);
    let mut frames = Frames::new(&mut from)?;
    while frames.next()?.is_some() {}
    let engine = Engine::open(Folder::open(path)?)?;
    // rows first, then what later commits made of them
    for later in [Pass::Rows, Pass::Commits] {
        from.rewind().map_err(|e| broken(&e))?;
        let (mut frames, mut draft) = (Frames::new(&mut from)?, WriteBatch::default());
        while let Some(frame) = frames.next()? {
            if (frame.kind == Kind::Row) != (later == Pass::Rows) {
                continue;
            }
            let table = Table::ALL.into_iter().find(|t| t.name() == frame.table);
            let newer = || StoreError::Folder(format!("a newer holdline wrote this backup: `{}`", frame.table));
            let table = table.ok_or_else(newer)?;
            match frame.kind {
                Kind::Deleted => draft.delete(table, frame.key),
                _ => draft.put(table, frame.key, frame.value),
            }
            progress();
            if draft.bytes() >= COMMIT {
                engine.commit(std::mem::take(&mut draft))?;
            }
        }
        engine.commit(draft)?;
    }
    completed(&engine)
}

/// A folder that is made, or holds nothing: what lies there otherwise would be taken for a part of the store.
fn must_be_free(path: &Path) -> Result<(), StoreError> {
    let shown = path.display();
    let why = match std::fs::read_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => format!("{shown} cannot be read: {e}"),
        Ok(mut files) => match files.next() {
            None => return Ok(()),
            Some(_) if path.join("queue").exists() => {
                format!("{shown} holds a store already; give another, empty folder")
            }
            Some(_) => format!("{shown} is not empty; give another, empty folder, or one that is not there yet"),
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
    inventory(&Engine::open(Folder::open(path)?)?)
}

/// As [`verify`], but first what does not verify is set aside; returns what that was too.
pub fn repair(path: &Path, now: Timestamp) -> Result<(Vec<String>, Inventory), StoreError> {
    if !path.join("queue").exists() {
        return Err(StoreError::Folder(format!("{} holds no store", path.display())));
    }
    let engine = Engine::open(Folder::open(path)?)?;
    let (mut index, _) = recovery::recover(&engine)?;
    let done = crate::store::offline::repair::repair(&engine, &mut index, now)?;
    Ok((done, completed(&engine)?))
}

/// What a store holds to which no more is written now. Its mark says so from here on: without it damage to the last commit,
/// and a small store is a single one, would pass for what a power cut had torn.
pub fn completed(engine: &Engine) -> Result<Inventory, StoreError> {
    let (index, faults) = recovery::recover(engine)?;
    engine.note(index.totals.reached());
    take_stock(engine, &index, faults)
}

fn inventory(engine: &Engine) -> Result<Inventory, StoreError> {
    let (index, faults) = recovery::recover(engine)?;
    take_stock(engine, &index, faults)
}

fn take_stock(engine: &Engine, index: &Index, mut faults: Vec<String>) -> Result<Inventory, StoreError> {
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
    use crate::store::model::table::Rows;
    use crate::store::model::table::{TOTALS, hold_key};
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
        let made = restore(Cursor::new(copied), &path, || ()).unwrap();
        assert_eq!(made.faults, Vec::<String>::new());
        let engine = crate::testing::stores::unlocked(|| Folder::open(&path).and_then(Engine::open)).unwrap();
        let is = [0, 1, 2].map(|d| engine.row(Table::Meta, &key(d)).unwrap());
        assert_eq!(is, [None, Some(hold(2)), None]);
    }
}
