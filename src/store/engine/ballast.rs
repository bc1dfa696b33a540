//! The ballast: room on the disk that is kept for the store itself, so that it can be started and worked on when the disk is full.
//!
//! A file beside `queue/` holds the room. When the disk is nearly full, a piece is cut off it and allocated behind the end of
//! sled's file, which grows into it: no other program can take it on the way. Empty files beside it hold inodes likewise.
//!
//! *Invariants.* What counts is what is allocated, never the length of a file. Nothing here is needed for what is stored: each
//! of its files may be missing.
//!
//! *Failure.* A ballast that cannot be made or grown is told by its size; whoever cuts it off goes on with what there is.

use rustix::fs::{FallocateFlags, fallocate};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Empty files that hold an inode each; sled makes two at a start.
const INODES: usize = 4;
/// It is cut off and grows in steps of 1 MiB.
const STEP: u64 = 1 << 20;

/// The files that hold room, in the data folder.
#[derive(Debug)]
pub struct Ballast {
    file: PathBuf,
    /// Bytes that it holds while there is room.
    wanted: u64,
}

impl Ballast {
    pub fn new(folder: &Path, wanted: u64) -> Self {
        Self { file: folder.join("ballast"), wanted }
    }

    pub fn wanted(&self) -> u64 {
        self.wanted
    }

    /// Bytes that it holds.
    pub fn held(&self) -> u64 {
        fs::metadata(&self.file).map_or(0, |file| (file.blocks() * 512).min(file.len()))
    }

    /// Lets go of at least so many bytes, or of all that it holds, and says how many are left.
    pub fn cut(&self, bytes: u64) -> u64 {
        let held = self.held();
        let left = held.saturating_sub(bytes.div_ceil(STEP) * STEP);
        if left < held {
            let cut = OpenOptions::new().write(true).open(&self.file).and_then(|file| {
                file.set_len(left)?;
                // freed blocks can be allocated anew only once it is known that they are free
                file.sync_all()
            });
            if let Err(e) = cut {
                tracing::warn!(error = %e, file = %self.file.display(), "cannot release room that is kept");
            }
        }
        self.held()
    }

    /// Grows by at most so many bytes, and not beyond what is wanted; says how many it holds then.
    pub fn grow(&self, bytes: u64) -> io::Result<u64> {
        let held = self.held();
        let target = self.wanted.min(held.saturating_add(bytes)) / STEP * STEP;
        if target <= held {
            return Ok(held);
        }
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&self.file)?;
        file.set_len(held)?;
        let grown = allocate(&file, held, target - held);
        if grown.is_err() {
            file.set_len(held)?;
        }
        file.sync_all()?;
        grown.map(|()| self.held())
    }

    /// Gives the room away again that is not wanted any more.
    pub fn shrink_to_wanted(&self) {
        let held = self.held();
        if held > self.wanted {
            self.cut(held - self.wanted);
        }
    }

    /// Holds inodes, as far as there are some.
    pub fn hold_inodes(&self) {
        for file in self.inodes().filter(|file| !file.exists()) {
            // what fails here is tried again at the next look
            let _ = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(file);
        }
    }

    /// Lets go of the inodes that it holds.
    pub fn release_inodes(&self) {
        for file in self.inodes() {
            let _ = fs::remove_file(file); // it may be missing
        }
    }

    fn inodes(&self) -> impl Iterator<Item = PathBuf> {
        let held = if self.wanted == 0 { 0 } else { INODES };
        (1..=held).map(|n| self.file.with_extension(n.to_string()))
    }
}

/// Allocates a part of a file that lies behind its end: by the filesystem, or byte for byte where it cannot.
fn allocate(file: &File, from: u64, bytes: u64) -> io::Result<()> {
    let before = file.metadata()?.blocks() * 512;
    let allocated = fallocate(file, FallocateFlags::empty(), from, bytes);
    if allocated == Err(rustix::io::Errno::NOSPC) {
        return Err(io::ErrorKind::StorageFull.into());
    }
    if allocated.is_ok() && file.metadata()?.blocks() * 512 >= before + bytes {
        return Ok(());
    }
    file.set_len(from)?;
    let mut to = io::BufWriter::with_capacity(1 << 16, file);
    io::Seek::seek(&mut to, io::SeekFrom::Start(from))?;
    // bytes that no filesystem makes shorter
    let mut state = from | 1;
    for _ in 0..bytes / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        to.write_all(&state.to_le_bytes())?;
    }
    to.flush()
}

/// Bytes that are allocated behind the end of a file.
pub fn spare(file: &File) -> u64 {
    file.metadata().map_or(0, |file| (file.blocks() * 512).saturating_sub(file.len()))
}

/// Allocates room behind the end of a file, without making it longer; as much as there is.
pub fn reserve(file: &File, bytes: u64) {
    let Ok(length) = file.metadata().map(|file| file.len()) else { return };
    let mut bytes = bytes.next_multiple_of(STEP);
    // a filesystem that cannot do it leaves the room free, which is nearly as good
    while bytes >= STEP && fallocate(file, FallocateFlags::KEEP_SIZE, length, bytes) == Err(rustix::io::Errno::NOSPC) {
        bytes /= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_ballast_grows_to_its_size_and_shrinks_in_steps() {
        let dir = tempfile::tempdir().unwrap();
        let ballast = Ballast::new(dir.path(), 5 * MIB);
        assert_eq!((ballast.held(), ballast.cut(MIB)), (0, 0));
        assert_eq!(ballast.grow(2 * MIB).unwrap(), 2 * MIB);
        assert_eq!(ballast.grow(u64::MAX).unwrap(), 5 * MIB);
        let blocks = fs::metadata(dir.path().join("ballast")).unwrap().blocks();
        assert!(blocks * 512 >= 5 * MIB, "it is allocated, not only long");
        assert_eq!(ballast.cut(1), 4 * MIB);
        assert_eq!(ballast.cut(MIB + 1), 2 * MIB);
        assert_eq!(ballast.cut(u64::MAX / 2), 0);
        assert_eq!(ballast.grow(MIB).unwrap(), MIB, "and made again");
        let less = Ballast::new(dir.path(), 0);
        less.shrink_to_wanted();
        assert_eq!((less.held(), less.grow(MIB).unwrap()), (0, 0));
    }

    #[test]
    fn a_sparse_file_reserves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join("ballast")).unwrap().set_len(8 * MIB).unwrap();
        let ballast = Ballast::new(dir.path(), 8 * MIB);
        assert_eq!(ballast.held(), 0);
        assert_eq!(ballast.grow(8 * MIB).unwrap(), 8 * MIB);
    }

    #[test]
    fn space_allocated_past_the_end_keeps_the_file_length() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = File::create(dir.path().join("db")).unwrap();
        file.write_all(&[1; 4096]).unwrap();
        file.sync_all().unwrap();
        reserve(&file, 3 * MIB);
        assert_eq!(file.metadata().unwrap().len(), 4096);
        assert!(spare(&file) >= 3 * MIB - 4096, "{}", spare(&file));
        file.write_all(&vec![1; MIB as usize]).unwrap();
        file.sync_all().unwrap();
        assert!(spare(&file) < 3 * MIB - 4096, "it grows into it");
    }

    #[test]
    fn inodes_are_reserved_with_the_ballast_and_released() {
        let dir = tempfile::tempdir().unwrap();
        let files = || fs::read_dir(dir.path()).unwrap().count();
        let ballast = Ballast::new(dir.path(), MIB);
        for _ in 0..2 {
            ballast.hold_inodes();
            assert_eq!(files(), INODES);
        }
        ballast.release_inodes();
        assert_eq!(files(), 0);
        Ballast::new(dir.path(), 0).hold_inodes();
        assert_eq!(files(), 0);
    }
}
