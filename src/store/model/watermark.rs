//! The durable watermark: how far the store was durable, stored in a file beside sled's log, so that a truncated log is
//! detected.
//!
//! *Invariants.* The file is written after a commit is durable and is never synced. So after a power cut it may be older
//! than the log, but never newer.
//!
//! *Format.* `next sequence u64 LE | next settlement u64 LE | crc32 u32 LE`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const BYTES: usize = 20;

/// The next sequence and the next settlement of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watermark {
    pub next_sequence: u64,
    pub next_settlement: u64,
}

impl Watermark {
    /// Whether `other` is ahead of this one in either number.
    pub fn falls_short_of(self, other: Self) -> bool {
        self.next_sequence < other.next_sequence || self.next_settlement < other.next_settlement
    }
}

/// The file that contains the watermark.
#[derive(Debug)]
pub struct WatermarkFile(File);

impl WatermarkFile {
    pub fn path(folder: &Path) -> PathBuf {
        folder.join("mark")
    }

    pub fn open(folder: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(Self::path(folder))?;
        Ok(Self(file))
    }

    pub fn set(&self, reached: Watermark) -> io::Result<()> {
        let mut bytes = [reached.next_sequence.to_le_bytes(), reached.next_settlement.to_le_bytes()].concat();
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        self.0.write_all_at(&bytes, 0)
    }

    /// The watermark of a folder; `None` if there is none or it does not verify.
    pub fn read(folder: &Path) -> Option<Watermark> {
        let bytes = std::fs::read(Self::path(folder)).ok().filter(|bytes| bytes.len() == BYTES)?;
        let number = |at: usize| bytes[at..at + 8].try_into().ok().map(u64::from_le_bytes);
        let crc = u32::from_le_bytes(bytes[16..].try_into().ok()?);
        let reached = Watermark { next_sequence: number(0)?, next_settlement: number(8)? };
        (crc32fast::hash(&bytes[..16]) == crc).then_some(reached)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watermark_round_trips_and_a_damaged_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(WatermarkFile::read(dir.path()), None);
        let mark = WatermarkFile::open(dir.path()).unwrap();
        let reached = Watermark { next_sequence: 700, next_settlement: 1 << 40 };
        mark.set(Watermark { next_sequence: 600, ..reached }).unwrap();
        mark.set(reached).unwrap();
        assert_eq!(WatermarkFile::read(dir.path()), Some(reached));
        let mut bytes = std::fs::read(WatermarkFile::path(dir.path())).unwrap();
        bytes[3] ^= 1;
        std::fs::write(WatermarkFile::path(dir.path()), bytes).unwrap();
        assert_eq!(WatermarkFile::read(dir.path()), None);
    }

    #[test]
    fn a_watermark_that_lacks_a_part_falls_short() {
        let reached = |next_sequence, next_settlement| Watermark { next_sequence, next_settlement };
        for (has, other, short) in [
            (reached(7, 9), reached(7, 9), false),
            (reached(7, 9), reached(8, 9), true),
            (reached(7, 9), reached(7, 10), true),
            (reached(7, 9), reached(6, 10), true),
            (reached(7, 9), reached(6, 8), false),
        ] {
            assert_eq!(has.falls_short_of(other), short, "{has:?} {other:?}");
        }
    }
}
