//! The snapshot from which sled starts: the lsn up to which it goes, and the segments in which it has pages.
//!
//! sled writes a snapshot after it has read its log, and then wipes every segment without pages, one after another from the
//! front. A crash in between leaves such a segment half wiped. So a segment from before the snapshot in which the snapshot
//! has no page contains nothing that is still needed.
//!
//! *Format.* `lsn i64 LE | active segment varint | pages | length u64 LE | crc32 u32 LE` over all before the length. The
//! first two are stored plus one; zero stands for none. A page: `parts u8`, 0 for a free page, which has one; each part `lsn
//! i64 LE | 0 | offset varint`, or `1 | offset varint | lsn i64 LE` for a blob; then `length varint`, except for a free
//! page.

use super::SEGMENT_BYTES;
use super::message::Reader;
use std::collections::HashSet;
use std::io;
use std::path::Path;

#[derive(Debug, Default)]
pub struct Snapshot {
    /// The snapshot contains everything before this lsn; zero if no snapshot verifies.
    pub lsn: u64,
    /// Offsets of the segment that was being written and of those with pages; `None` if that cannot be read.
    used: Option<HashSet<u64>>,
}

impl Snapshot {
    /// The newest snapshot of a folder, which is the one that sled uses.
    pub fn read(queue: &Path) -> io::Result<Self> {
        let names = std::fs::read_dir(queue)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        let snapshots =
            names.into_iter().filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("snap.")));
        let Some(newest) = snapshots.max() else { return Ok(Self::default()) };
        Ok(Self::parse(&std::fs::read(newest)?).unwrap_or_default())
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (content, end) = bytes.split_last_chunk::<12>()?;
        if crc32fast::hash(content).to_le_bytes() != end[8..] {
            return None;
        }
        let (lsn, rest) = content.split_first_chunk::<8>()?;
        Some(Self { lsn: u64::from_le_bytes(*lsn).saturating_sub(1), used: used(Reader::of(rest)) })
    }

    /// Whether nothing that was written to this segment under this number is still in use.
    pub fn is_free(&self, offset: u64, number: u64) -> bool {
        number < self.lsn / SEGMENT_BYTES as u64 && self.used.as_ref().is_some_and(|used| !used.contains(&offset))
    }
}

fn used(mut reader: Reader) -> Option<HashSet<u64>> {
    let mut used = HashSet::new();
    used.extend(reader.number()?.checked_sub(1).map(segment_of));
    while !reader.is_at_end() {
        let parts = reader.byte()?;
        for _ in 0..parts.max(1) {
            reader.take(8)?;
            let blob = reader.byte()? == 1;
            used.insert(segment_of(reader.number()?));
            if blob {
                reader.take(8)?;
            }
            if parts > 0 {
                reader.number()?;
            }
        }
    }
    Some(used)
}

fn segment_of(offset: u64) -> u64 {
    offset - offset % SEGMENT_BYTES as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = SEGMENT_BYTES as u64;

    fn sealed(content: &[u8]) -> Vec<u8> {
        let length = content.len() as u64;
        [content, &length.to_le_bytes(), &crc32fast::hash(content).to_le_bytes()].concat()
    }

    /// A number as sled writes it, in its longest form.
    fn number(n: u64) -> Vec<u8> {
        [&[255][..], &n.to_le_bytes()].concat()
    }

    #[test]
    fn the_newest_snapshot_is_read_if_it_verifies() {
        let dir = tempfile::tempdir().unwrap();
        let read = || Snapshot::read(dir.path()).unwrap().lsn;
        assert_eq!(read(), 0);
        let snapshot = |lsn: u64| sealed(&[&(lsn + 1).to_le_bytes()[..], &[0]].concat());
        for (name, bytes) in [("snap.0A", snapshot(7)), ("snap.0B", snapshot(9)), ("db", vec![1])] {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        assert_eq!(read(), 9);
        std::fs::write(dir.path().join("snap.0C"), [1; 30]).unwrap();
        assert_eq!(read(), 0);
    }

    #[test]
    fn segments_without_a_page_from_before_the_snapshot_are_free() {
        let lsn = 9 * SEGMENT + 5;
        let part = |offset: u64| [&[0; 8][..], &[0], &number(offset), &[200]].concat();
        let content = [
            (lsn + 1).to_le_bytes().to_vec(),
            number(2 * SEGMENT + 1),
            [&[2][..], &part(20), &part(3 * SEGMENT + 7)].concat(),
            [&[0][..], &[0; 8], &[0], &number(5 * SEGMENT + 1)].concat(),
            [&[1][..], &[0; 8], &[1], &number(6 * SEGMENT + 1), &[0; 8], &[200]].concat(),
        ]
        .concat();
        let snapshot = Snapshot::parse(&sealed(&content)).unwrap();
        assert_eq!(snapshot.lsn, lsn);
        let free: Vec<u64> = (0..8).filter(|n| snapshot.is_free(n * SEGMENT, 8)).collect();
        assert_eq!(free, [1, 4, 7]);
        assert!(!snapshot.is_free(SEGMENT, 9), "it may have been written after the snapshot");

        // if the pages cannot be read, no segment counts as free
        let short = Snapshot::parse(&sealed(&content[..content.len() - 1])).unwrap();
        assert_eq!((short.lsn, short.is_free(SEGMENT, 8)), (lsn, false));
        let mut changed = sealed(&content);
        changed[9] ^= 1;
        assert!(Snapshot::parse(&changed).is_none());
        assert!(!Snapshot::default().is_free(0, 0));
    }
}
