//! The disk space of the store: free space, the ballast that is kept for the store, and when sending must stop.
//!
//! The ballast is a file beside `queue/`, so that the store can be started and operated while the disk is full. When the
//! disk is nearly full, a part of the ballast is released and preallocated after the end of sled's file, which grows into
//! it: no other program can take the space in between. Empty files beside it reserve inodes in the same way.
//!
//! Unused space inside sled's file counts as free too: sled fills it before the file grows, and shortens the file only while
//! it writes. sled does not report its size, so it is estimated as the file size less [`FILE_FACTOR`] times the stored
//! bytes.
//!
//! *Invariants.* Each attempt may end in a write: a dead letter or a delayed delivery contains a copy of its event. So
//! nothing new is sent once the space, less uncommitted copies and the possible copies of attempts in flight, is down to the
//! floor: half of the ballast. The rest is for starts, for operator commands and for attempts in flight. The ballast counts
//! by allocated blocks, never by file length. The stored data does not depend on it: each of its files may be missing.
//!
//! *Failure.* If the ballast cannot be created or grown, its size shows it; a release frees as much as there is.

use crate::store::engine::folder::Folder;
use crate::store::model::table::{ROW_MAX, WriteBatch};
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

pub const MIB: u64 = 1 << 20;
/// Bytes that sled writes per byte: it rewrites leaves as a whole, and cleans segments when others are full.
const WRITE_FACTOR: u64 = 3;
/// Segments that a commit of any size may begin: 4 MiB.
const COMMIT_BYTES_MIN: u64 = 4 * MIB;
/// Upper bound for the file bytes per stored byte, and minimum size of the file: 16 MiB.
const FILE_FACTOR: u64 = 3;
const FILE_MIN: u64 = 16 * MIB;
/// At least a quarter of the floor must be free or kept, for any size of sled's file.
const FREE_SHARE: u64 = 4;
/// With less free space than a commit needs plus 24 MiB, the disk counts as nearly full and space is preallocated.
const NEARLY_FULL: u64 = 24 * MIB;
/// The ballast grows by at most 16 MiB at once, and only while 32 MiB stay free.
const FREE_MIN: u64 = 32 * MIB;
const GROWTH_BYTES: u64 = 16 * MIB;
/// Space for a start: 8 MiB for segments, and a snapshot of sled's page table, at most 1/64 of its file.
const START_MIN: u64 = 8 * MIB;
const START_SHARE: u64 = 64;
/// A start creates at most 4 files. Inodes are reserved only while more than 64 are free.
const INODES_START: u64 = 4;
const INODES_FREE_MIN: u64 = 64;
/// Preallocated for sled's file before a start on a full disk, since it fills up its last segment: 4 MiB.
const START_PREALLOCATED: u64 = 4 * MIB;
/// With 256 MiB above the floor, the copies of attempts are not counted.
pub const AMPLE: u64 = 256 * MIB;
/// Size of a delivery and its attempts without the body: 2 KiB.
pub const COPY_OVERHEAD: u64 = 2048;

/// Shared by the committer, which uses space, and by readers.
#[derive(Debug)]
pub struct DiskSpace {
    ballast: Mutex<Ballast>,
    floor: u64,
    /// Free bytes, as last measured.
    free: AtomicU64,
    /// The ballast, and bytes preallocated after the end of sled's file.
    kept: AtomicU64,
    /// Bytes of recorded copies that are not committed yet.
    uncommitted: AtomicU64,
    /// Bytes that attempts in flight may need.
    reserved: AtomicU64,
    /// Estimate of the unused bytes in sled's file.
    reclaimable: AtomicU64,
    changed: Notify,
}

/// A measurement of the disk space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    pub free_bytes: u64,
    /// The ballast, and the bytes preallocated for sled's file; in whole MiB.
    pub ballast_bytes: u64,
    /// Bytes by which waiting deliveries may grow.
    pub growth_bytes: u64,
    /// Estimate of the unused bytes in sled's file.
    pub reclaimable_bytes: u64,
    /// Nothing is sent, since its outcome might not fit.
    pub is_full: bool,
    /// Less than half of the ballast is free or kept.
    pub is_low: bool,
}

impl DiskSpace {
    /// `reserve_bytes` is the free space at which intake closes; without ballast the floor is a sixteenth of it.
    pub fn new(ballast: Ballast, reserve_bytes: u64) -> Self {
        let floor = if ballast.target_bytes() > 0 { ballast.target_bytes() / 2 } else { reserve_bytes / 16 };
        Self {
            ballast: Mutex::new(ballast),
            floor,
            // until the first measurement
            free: AtomicU64::new(u64::MAX / 2),
            kept: AtomicU64::default(),
            uncommitted: AtomicU64::default(),
            reserved: AtomicU64::default(),
            reclaimable: AtomicU64::default(),
            changed: Notify::new(),
        }
    }

    /// Preallocates the space of a commit if the disk is nearly full.
    pub fn before_commit(&self, batch: &WriteBatch, folder: &Folder, data: &File) {
        let Ok(free) = folder.free().map(|free| free.bytes) else { return };
        // each row that is written or deleted may cause its neighbours to be rewritten
        let need = batch.bytes() as u64 * WRITE_FACTOR + (batch.rows() * ROW_MAX) as u64 + COMMIT_BYTES_MIN;
        if free < need + NEARLY_FULL {
            let ballast = self.ballast.lock().expect("no holder panics");
            let missing = need.saturating_sub(preallocated_bytes(data));
            if missing > free {
                ballast.release(missing - free);
            }
            if missing > 0 {
                preallocate(data, need);
            }
            let kept = ballast.allocated_bytes() + preallocated_bytes(data);
            self.kept.store(kept, Ordering::Relaxed);
        }
        self.free.store(folder.free().map_or(free, |free| free.bytes), Ordering::Relaxed);
    }

    /// Measures the space that a commit has left on a disk that is nearly full. Its copies count as uncommitted until then: between
    /// the commit and the next measurement, deliveries would otherwise be sent into space that the commit has used.
    pub fn after_commit(&self, folder: &Folder, data: &File) {
        if self.free.load(Ordering::Relaxed) > AMPLE {
            return;
        }
        let kept = self.ballast.lock().expect("no holder panics").allocated_bytes() + preallocated_bytes(data);
        self.kept.store(kept, Ordering::Relaxed);
        if let Ok(free) = folder.free() {
            self.free.store(free.bytes, Ordering::Relaxed);
        }
    }

    /// Restores the ballast if there is space for it, and measures the space. `stored_bytes` are the bytes of all records in
    /// sled's file.
    pub fn refresh(&self, folder: &Folder, data: &File, stored_bytes: u64) -> io::Result<()> {
        let needs = stored_bytes.saturating_mul(FILE_FACTOR) + FILE_MIN;
        self.reclaimable.store(data.metadata()?.len().saturating_sub(needs), Ordering::Relaxed);
        let free = folder.free()?;
        let ballast = self.ballast.lock().expect("no holder panics");
        if free.inodes > INODES_FREE_MIN {
            ballast.reserve_inodes();
        }
        if ballast.allocated_bytes() < ballast.target_bytes() && free.bytes > FREE_MIN {
            ballast.grow((free.bytes - FREE_MIN).min(GROWTH_BYTES))?;
        }
        let kept = ballast.allocated_bytes() + preallocated_bytes(data);
        drop(ballast);
        self.kept.store(kept, Ordering::Relaxed);
        self.free.store(folder.free()?.bytes, Ordering::Relaxed);
        self.changed.notify_one();
        Ok(())
    }

    /// Counts copies of this size as recorded and not committed.
    pub fn add_uncommitted(&self, bytes: u64) {
        self.uncommitted.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts them as committed.
    pub fn remove_uncommitted(&self, bytes: u64) {
        self.uncommitted.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes above the floor, less uncommitted and reserved copies; `None` if negative.
    pub fn available(&self) -> Option<u64> {
        let of = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let total = of(&self.free).saturating_add(of(&self.kept)).saturating_add(of(&self.reclaimable));
        let copies = of(&self.uncommitted).saturating_add(of(&self.reserved));
        total.checked_sub(self.floor)?.checked_sub(copies.saturating_mul(WRITE_FACTOR))
    }

    /// Whether nothing new should be sent until attempts in flight have ended.
    pub fn is_short(&self) -> bool {
        self.available().is_none() || self.free_or_kept() < self.floor / FREE_SHARE
    }

    /// Whether nothing new should be sent even after attempts in flight have ended.
    pub fn is_full(&self) -> bool {
        self.free_or_kept().saturating_add(self.reclaimable.load(Ordering::Relaxed)) < self.floor
            || self.free_or_kept() < self.floor / FREE_SHARE
    }

    /// Free and kept bytes.
    fn free_or_kept(&self) -> u64 {
        self.free.load(Ordering::Relaxed).saturating_add(self.kept.load(Ordering::Relaxed))
    }
}

impl DiskSpace {
    /// Reserves bytes until the reservation is dropped.
    pub fn reserve_for_attempt(self: &Arc<Self>, bytes: u64) -> SpaceReservation {
        self.reserved.fetch_add(bytes, Ordering::Relaxed);
        SpaceReservation { disk_space: self.clone(), bytes }
    }

    /// The disk space as last measured, with these free bytes and this growth of waiting deliveries.
    pub fn space(&self, free_bytes: u64, growth_bytes: u64, data: &File) -> Space {
        let ballast_bytes = self.ballast.lock().expect("no holder panics").allocated_bytes();
        Space {
            free_bytes,
            ballast_bytes: (ballast_bytes + preallocated_bytes(data)) / MIB * MIB,
            growth_bytes,
            reclaimable_bytes: self.reclaimable.load(Ordering::Relaxed),
            is_full: self.is_full(),
            is_low: self.free_or_kept() < self.floor,
        }
    }

    /// Returns after the next measurement; for one task at a time.
    pub async fn refreshed(&self) {
        self.changed.notified().await;
    }
}

/// Space for the outcome of an attempt; dropping it releases the space.
#[derive(Debug)]
pub struct SpaceReservation {
    disk_space: Arc<DiskSpace>,
    bytes: u64,
}

impl Drop for SpaceReservation {
    fn drop(&mut self) {
        self.disk_space.reserved.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Releases as much ballast as a start needs on a full disk; returns the ballast before it.
pub fn before_start(ballast: &Ballast, folder: &Folder) -> u64 {
    let allocated_bytes = ballast.allocated_bytes();
    let Ok(free) = folder.free() else { return allocated_bytes };
    if free.inodes < INODES_START {
        ballast.release_inodes();
    }
    let db = folder.queue().join("db");
    let need = START_MIN + db.metadata().map_or(0, |db| db.len() / START_SHARE);
    if free.bytes < need && allocated_bytes > 0 {
        let ballast_bytes = ballast.release(need - free.bytes);
        tracing::warn!(
            free_bytes = free.bytes,
            ballast_bytes,
            "the disk is full; the start uses space of store.ballast"
        );
        if let Ok(db) = File::options().write(true).open(db) {
            preallocate(&db, START_PREALLOCATED);
        }
    }
    allocated_bytes
}

/// Restores the released ballast that the start did not use.
pub fn after_start(ballast: &Ballast, folder: &Folder, before: u64) {
    ballast.shrink_to_target();
    ballast.reserve_inodes();
    let Ok(free) = folder.free() else { return };
    let back = before.saturating_sub(ballast.allocated_bytes()).min(free.bytes.saturating_sub(MIB));
    if let Err(e) = ballast.grow(back) {
        tracing::warn!(error = %e, "cannot restore the ballast after the start");
    }
}

/// Number of empty files that reserve an inode each; sled creates two at a start.
const INODES: usize = 4;
/// The ballast grows and is released in steps of 1 MiB.
const STEP: u64 = 1 << 20;

/// The ballast file and the inode files in the data folder.
#[derive(Debug)]
pub struct Ballast {
    file: PathBuf,
    /// Size while the disk is not full.
    target_bytes: u64,
}

impl Ballast {
    pub fn new(folder: &Path, target_bytes: u64) -> Self {
        Self { file: folder.join("ballast"), target_bytes }
    }

    pub fn target_bytes(&self) -> u64 {
        self.target_bytes
    }

    /// Allocated bytes of the file.
    pub fn allocated_bytes(&self) -> u64 {
        fs::metadata(&self.file).map_or(0, |file| (file.blocks() * 512).min(file.len()))
    }

    /// Releases at least this many bytes, or all of them; returns how many remain.
    pub fn release(&self, bytes: u64) -> u64 {
        let allocated_bytes = self.allocated_bytes();
        let remaining = allocated_bytes.saturating_sub(bytes.div_ceil(STEP) * STEP);
        if remaining < allocated_bytes {
            let released = OpenOptions::new().write(true).open(&self.file).and_then(|file| {
                file.set_len(remaining)?;
                // freed blocks can be allocated again only after the sync
                file.sync_all()
            });
            if let Err(e) = released {
                tracing::warn!(error = %e, file = %self.file.display(), "cannot release the ballast");
            }
        }
        self.allocated_bytes()
    }

    /// Grows by at most this many bytes, up to the target; returns the allocated bytes.
    pub fn grow(&self, bytes: u64) -> io::Result<u64> {
        let allocated_bytes = self.allocated_bytes();
        let target = self.target_bytes.min(allocated_bytes.saturating_add(bytes)) / STEP * STEP;
        if target <= allocated_bytes {
            return Ok(allocated_bytes);
        }
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&self.file)?;
        file.set_len(allocated_bytes)?;
        let grown = allocate(&file, allocated_bytes, target - allocated_bytes);
        if grown.is_err() {
            file.set_len(allocated_bytes)?;
        }
        file.sync_all()?;
        grown.map(|()| self.allocated_bytes())
    }

    /// Releases the bytes above the target.
    pub fn shrink_to_target(&self) {
        let allocated_bytes = self.allocated_bytes();
        if allocated_bytes > self.target_bytes {
            self.release(allocated_bytes - self.target_bytes);
        }
    }

    /// Reserves inodes, as far as some are free.
    pub fn reserve_inodes(&self) {
        for file in self.inodes().filter(|file| !file.exists()) {
            // retried at the next measurement
            let _ = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(file);
        }
    }

    /// Releases the reserved inodes.
    pub fn release_inodes(&self) {
        for file in self.inodes() {
            let _ = fs::remove_file(file); // it may be missing
        }
    }

    fn inodes(&self) -> impl Iterator<Item = PathBuf> {
        let count = if self.target_bytes == 0 { 0 } else { INODES };
        (1..=count).map(|n| self.file.with_extension(n.to_string()))
    }
}

/// Extends a file with allocated blocks: by `fallocate`, or by writing bytes if the filesystem does not support it.
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
    // random bytes, which no filesystem compresses
    let mut state = from | 1;
    for _ in 0..bytes / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        to.write_all(&state.to_le_bytes())?;
    }
    to.flush()
}

/// Bytes allocated after the end of a file.
pub fn preallocated_bytes(file: &File) -> u64 {
    file.metadata().map_or(0, |file| (file.blocks() * 512).saturating_sub(file.len()))
}

/// Allocates bytes after the end of a file without changing its length, as many as are free.
pub fn preallocate(file: &File, bytes: u64) {
    let Ok(length) = file.metadata().map(|file| file.len()) else { return };
    let mut bytes = bytes.next_multiple_of(STEP);
    // if the filesystem does not support it, the space stays free, which is nearly as good
    while bytes >= STEP && fallocate(file, FallocateFlags::KEEP_SIZE, length, bytes) == Err(rustix::io::Errno::NOSPC) {
        bytes /= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk_space(free: u64, kept: u64) -> (tempfile::TempDir, DiskSpace) {
        let dir = tempfile::tempdir().unwrap();
        let disk_space = DiskSpace::new(Ballast::new(dir.path(), 32 * MIB), 512 * MIB);
        disk_space.free.store(free, Ordering::Relaxed);
        disk_space.kept.store(kept, Ordering::Relaxed);
        (dir, disk_space)
    }

    #[test]
    fn space_that_a_commit_has_used_is_not_counted_as_kept() {
        let (dir, disk_space) = disk_space(0, 32 * MIB);
        let folder = Folder::open(dir.path()).unwrap();
        let data = File::create(dir.path().join("data")).unwrap();
        assert!(!disk_space.is_short());
        disk_space.after_commit(&folder, &data);
        assert_eq!(disk_space.kept.load(Ordering::Relaxed), 0, "there is no ballast in this folder");
        disk_space.free.store(2 * AMPLE, Ordering::Relaxed);
        disk_space.kept.store(7, Ordering::Relaxed);
        disk_space.after_commit(&folder, &data);
        assert_eq!(disk_space.kept.load(Ordering::Relaxed), 7, "with ample space nothing is measured");
    }

    #[test]
    fn space_is_short_below_half_of_the_ballast_less_uncommitted_copies() {
        for (free, kept, uncommitted, reserved, short) in [
            (0, 32, 0, 0, false),
            (0, 16, 0, 0, false),
            (0, 15, 0, 0, true),
            (15, 0, 0, 0, true),
            (10, 10, 0, 0, false),
            (0, 32, 5, 0, false),
            (0, 32, 6, 0, true),
            (0, 32, 0, 5, false),
            (0, 32, 0, 6, true),
            (0, 32, 3, 3, true),
            (1000, 0, 300, 0, false),
            (1000, 0, 0, 330, true),
        ] {
            let (_dir, disk_space) = disk_space(free * MIB, kept * MIB);
            disk_space.uncommitted.store(uncommitted * MIB, Ordering::Relaxed);
            disk_space.reserved.store(reserved * MIB, Ordering::Relaxed);
            assert_eq!(disk_space.is_short(), short, "{free} {kept} {uncommitted} {reserved}");
        }
    }

    #[test]
    fn unused_space_in_the_file_counts_as_free() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, file) = (Folder::open(dir.path()).unwrap(), File::create(dir.path().join("db")).unwrap());
        file.set_len(100 * MIB).unwrap();
        for (kept, stored_bytes, full) in
            [(4, 20, false), (4, 25, true), (12, 24, false), (3, 0, true), (16, 99, false)]
        {
            let (_dir, disk_space) = disk_space(0, 0);
            let ballast = Ballast::new(dir.path(), 0);
            *disk_space.ballast.lock().unwrap() = ballast;
            disk_space.refresh(&folder, &file, stored_bytes * MIB).unwrap();
            disk_space.free.store(0, Ordering::Relaxed);
            disk_space.kept.store(kept * MIB, Ordering::Relaxed);
            assert_eq!((disk_space.is_full(), disk_space.is_short()), (full, full), "{kept} {stored_bytes}");
        }
    }

    #[test]
    fn without_ballast_a_sixteenth_of_the_reserve_is_the_floor() {
        let dir = tempfile::tempdir().unwrap();
        let disk_space = DiskSpace::new(Ballast::new(dir.path(), 0), 48 * MIB);
        for (free, short) in [(3 * MIB, false), (3 * MIB - 1, true)] {
            disk_space.free.store(free, Ordering::Relaxed);
            assert_eq!(disk_space.is_short(), short);
        }
    }

    #[test]
    fn space_is_assumed_before_the_first_measurement() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!DiskSpace::new(Ballast::new(dir.path(), 32 * MIB), 0).is_short());
    }
}

#[cfg(test)]
mod ballast_tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_ballast_grows_to_its_size_and_shrinks_in_steps() {
        let dir = tempfile::tempdir().unwrap();
        let ballast = Ballast::new(dir.path(), 5 * MIB);
        assert_eq!((ballast.allocated_bytes(), ballast.release(MIB)), (0, 0));
        assert_eq!(ballast.grow(2 * MIB).unwrap(), 2 * MIB);
        assert_eq!(ballast.grow(u64::MAX).unwrap(), 5 * MIB);
        let blocks = fs::metadata(dir.path().join("ballast")).unwrap().blocks();
        assert!(blocks * 512 >= 5 * MIB, "its blocks are allocated");
        assert_eq!(ballast.release(1), 4 * MIB);
        assert_eq!(ballast.release(MIB + 1), 2 * MIB);
        assert_eq!(ballast.release(u64::MAX / 2), 0);
        assert_eq!(ballast.grow(MIB).unwrap(), MIB, "it grows again");
        let less = Ballast::new(dir.path(), 0);
        less.shrink_to_target();
        assert_eq!((less.allocated_bytes(), less.grow(MIB).unwrap()), (0, 0));
    }

    #[test]
    fn a_sparse_file_reserves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join("ballast")).unwrap().set_len(8 * MIB).unwrap();
        let ballast = Ballast::new(dir.path(), 8 * MIB);
        assert_eq!(ballast.allocated_bytes(), 0);
        assert_eq!(ballast.grow(8 * MIB).unwrap(), 8 * MIB);
    }

    #[test]
    fn space_allocated_past_the_end_keeps_the_file_length() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = File::create(dir.path().join("db")).unwrap();
        file.write_all(&[1; 4096]).unwrap();
        file.sync_all().unwrap();
        preallocate(&file, 3 * MIB);
        assert_eq!(file.metadata().unwrap().len(), 4096);
        assert!(preallocated_bytes(&file) >= 3 * MIB - 4096, "{}", preallocated_bytes(&file));
        file.write_all(&vec![1; MIB as usize]).unwrap();
        file.sync_all().unwrap();
        assert!(preallocated_bytes(&file) < 3 * MIB - 4096, "the file uses the preallocated bytes");
    }

    #[test]
    fn inodes_are_reserved_with_the_ballast_and_released() {
        let dir = tempfile::tempdir().unwrap();
        let files = || fs::read_dir(dir.path()).unwrap().count();
        let ballast = Ballast::new(dir.path(), MIB);
        for _ in 0..2 {
            ballast.reserve_inodes();
            assert_eq!(files(), INODES);
        }
        ballast.release_inodes();
        assert_eq!(files(), 0);
        Ballast::new(dir.path(), 0).reserve_inodes();
        assert_eq!(files(), 0);
    }
}
