//! The room that the store has: what is free on its disk, and what is kept for it; and when there is too little to go on sending.
//!
//! What sled's file holds and does not need is room too: sled fills it before its file grows, and shortens the file only while it
//! writes. How much that is nobody tells, so it is taken to be what the file has beyond [`TAKES_TIMES`] of what lies in it.
//!
//! *Invariants.* Each attempt may end in a write: a dead letter or a delayed delivery holds a copy of its event. So nothing new is
//! sent once what there is, less what is owed and what may come of attempts under way, is down to the floor: half of the
//! ballast. What is below is for a start, for what an operator does, and for what was already under way.

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
/// sled writes so many bytes for one: leaves are written anew as a whole, and a segment is cleaned when others are full.
const WRITTEN_TIMES: u64 = 3;
/// Segments that one commit may begin, whatever is in it: 4 MiB.
const COMMIT_MIN: u64 = 4 * MIB;
/// sled's file takes so many bytes for one that lies in it, at most, and this in any case: 16 MiB.
const TAKES_TIMES: u64 = 3;
const FILE_MIN: u64 = 16 * MIB;
/// This share of the floor must be free or kept, whatever sled's file holds.
const SURE_SHARE: u64 = 4;
/// With less than this beyond what a commit needs the disk counts as full, and the room for it is taken beforehand: 24 MiB.
const NEAR: u64 = 24 * MIB;
/// The ballast grows only where so much stays free: 32 MiB; and by so much at once: 16 MiB.
const LEFT_FREE: u64 = 32 * MIB;
const GROWS_BY: u64 = 16 * MIB;
/// What a start takes: segments, and a snapshot of sled's page table, of at most a sixty-fourth of its file.
const START_MIN: u64 = 8 * MIB;
const START_SHARE: u64 = 64;
/// Files that a start makes, at most; and so many inodes stay free where some are held.
const INODES_START: u64 = 4;
const INODES_LEFT_FREE: u64 = 64;
/// Of what is free before a start so much is kept for sled's file, since it fills up its last segment: 4 MiB.
const START_SPARE: u64 = 4 * MIB;
/// With this much more than the floor nobody counts what attempts may come to: 256 MiB.
pub const PLENTY: u64 = 256 * MIB;
/// What a delivery takes beside its body, with its attempts: 2 KiB.
pub const COPY_OVERHEAD: u64 = 2048;

/// Shared by the committer, which takes room, and those who ask whether there is some.
#[derive(Debug)]
pub struct Room {
    ballast: Mutex<Ballast>,
    floor: u64,
    /// Free for everybody, as last seen.
    free: AtomicU64,
    /// Kept for the store: the ballast, and what is allocated behind the end of sled's file.
    kept: AtomicU64,
    /// Copies of events that were recorded and are not written yet.
    owed: AtomicU64,
    /// Copies that may come of attempts under way.
    promised: AtomicU64,
    /// What sled's file holds beyond what it needs for what lies in it.
    reclaimable: AtomicU64,
    changed: Notify,
}

/// How much room there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    pub free_bytes: u64,
    /// Kept for the store: the ballast, and what was taken of it for sled's file and is not used yet; in whole MiB.
    pub ballast_bytes: u64,
    /// Bytes that what waits may take beside what it takes now.
    pub growth_bytes: u64,
    /// In sled's file, beyond what it needs for what lies in it.
    pub reclaimable_bytes: u64,
    /// Nothing new is sent, since its end might not find room.
    pub is_full: bool,
    /// Less than half of the ballast is free or kept: what there is else may not be enough.
    pub is_low: bool,
}

impl Room {
    /// `reserve` is the mark at which intake closes; without ballast a sixteenth of it is the floor.
    pub fn new(ballast: Ballast, reserve: u64) -> Self {
        let floor = if ballast.wanted() > 0 { ballast.wanted() / 2 } else { reserve / 16 };
        Self {
            ballast: Mutex::new(ballast),
            floor,
            // until it is looked at
            free: AtomicU64::new(u64::MAX / 2),
            kept: AtomicU64::default(),
            owed: AtomicU64::default(),
            promised: AtomicU64::default(),
            reclaimable: AtomicU64::default(),
            changed: Notify::new(),
        }
    }

    /// Makes sure that a commit finds its room, where the disk is nearly full.
    pub fn before_commit(&self, draft: &WriteBatch, folder: &Folder, data: &File) {
        let Ok(free) = folder.free().map(|free| free.bytes) else { return };
        // each row that is written or deleted may have its neighbours written anew
        let need = draft.bytes() as u64 * WRITTEN_TIMES + (draft.rows() * ROW_MAX) as u64 + COMMIT_MIN;
        if free < need + NEAR {
            let ballast = self.ballast.lock().expect("no holder panics");
            let missing = need.saturating_sub(spare(data));
            if missing > free {
                ballast.cut(missing - free);
            }
            if missing > 0 {
                reserve(data, need);
            }
            let kept = ballast.held() + spare(data);
            self.kept.store(kept, Ordering::Relaxed);
        }
        self.free.store(folder.free().map_or(free, |free| free.bytes), Ordering::Relaxed);
    }

    /// Makes the ballast again where there is room for it, and looks how much there is. `lies_there` are the bytes of all that
    /// sled's file holds.
    pub fn look(&self, folder: &Folder, data: &File, lies_there: u64) -> io::Result<()> {
        let needs = lies_there.saturating_mul(TAKES_TIMES) + FILE_MIN;
        self.reclaimable.store(data.metadata()?.len().saturating_sub(needs), Ordering::Relaxed);
        let free = folder.free()?;
        let ballast = self.ballast.lock().expect("no holder panics");
        if free.inodes > INODES_LEFT_FREE {
            ballast.hold_inodes();
        }
        if ballast.held() < ballast.wanted() && free.bytes > LEFT_FREE {
            ballast.grow((free.bytes - LEFT_FREE).min(GROWS_BY))?;
        }
        let kept = ballast.held() + spare(data);
        drop(ballast);
        self.kept.store(kept, Ordering::Relaxed);
        self.free.store(folder.free()?.bytes, Ordering::Relaxed);
        self.changed.notify_one();
        Ok(())
    }

    /// Copies of so many bytes were recorded, and are not written yet.
    pub fn owes(&self, bytes: u64) {
        self.owed.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn paid(&self, bytes: u64) {
        self.owed.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// What there is above the floor, less what is owed and promised; none where that is less than nothing.
    pub fn left(&self) -> Option<u64> {
        let of = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let has = of(&self.free).saturating_add(of(&self.kept)).saturating_add(of(&self.reclaimable));
        let copies = of(&self.owed).saturating_add(of(&self.promised));
        has.checked_sub(self.floor)?.checked_sub(copies.saturating_mul(WRITTEN_TIMES))
    }

    /// Whether nothing new should be sent, if only until what is under way has ended.
    pub fn is_short(&self) -> bool {
        self.left().is_none() || self.has() < self.floor / SURE_SHARE
    }

    /// Whether nothing new is sent whatever ends.
    pub fn is_full(&self) -> bool {
        self.has().saturating_add(self.reclaimable.load(Ordering::Relaxed)) < self.floor
            || self.has() < self.floor / SURE_SHARE
    }

    /// Free, or kept.
    fn has(&self) -> u64 {
        self.free.load(Ordering::Relaxed).saturating_add(self.kept.load(Ordering::Relaxed))
    }
}

impl Room {
    /// Room for so many bytes is kept until the promise is dropped.
    pub fn promise(self: &Arc<Self>, bytes: u64) -> Promise {
        self.promised.fetch_add(bytes, Ordering::Relaxed);
        Promise { room: self.clone(), bytes }
    }

    /// How much room there is, as it was last looked at, where so much is free and what waits may grow by so much.
    pub fn space(&self, free_bytes: u64, growth_bytes: u64, data: &File) -> Space {
        let held = self.ballast.lock().expect("no holder panics").held();
        Space {
            free_bytes,
            ballast_bytes: (held + spare(data)) / MIB * MIB,
            growth_bytes,
            reclaimable_bytes: self.reclaimable.load(Ordering::Relaxed),
            is_full: self.is_full(),
            is_low: self.has() < self.floor,
        }
    }

    /// Returns when it was looked at again; for one task at a time.
    pub async fn looked_at(&self) {
        self.changed.notified().await;
    }
}

/// Room for what may come of an attempt, given back when it is dropped.
#[derive(Debug)]
pub struct Promise {
    room: Arc<Room>,
    bytes: u64,
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.room.promised.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Lets go of as much ballast as a start needs on a full disk; returns how much there was.
pub fn before_start(ballast: &Ballast, folder: &Folder) -> u64 {
    let held = ballast.held();
    let Ok(free) = folder.free() else { return held };
    if free.inodes < INODES_START {
        ballast.release_inodes();
    }
    let db = folder.queue().join("db");
    let need = START_MIN + db.metadata().map_or(0, |db| db.len() / START_SHARE);
    if free.bytes < need && held > 0 {
        let left = ballast.cut(need - free.bytes);
        tracing::warn!(free_bytes = free.bytes, left, "the disk is full; the start takes room from store.ballast");
        if let Ok(db) = File::options().write(true).open(db) {
            reserve(&db, START_SPARE);
        }
    }
    held
}

/// Takes back what a start has not used, of what it let go.
pub fn after_start(ballast: &Ballast, folder: &Folder, before: u64) {
    ballast.shrink_to_wanted();
    ballast.hold_inodes();
    let Ok(free) = folder.free() else { return };
    let back = before.saturating_sub(ballast.held()).min(free.bytes.saturating_sub(MIB));
    if let Err(e) = ballast.grow(back) {
        tracing::warn!(error = %e, "cannot take back the room that the start has left");
    }
}

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

    fn room(free: u64, kept: u64) -> (tempfile::TempDir, Room) {
        let dir = tempfile::tempdir().unwrap();
        let room = Room::new(Ballast::new(dir.path(), 32 * MIB), 512 * MIB);
        room.free.store(free, Ordering::Relaxed);
        room.kept.store(kept, Ordering::Relaxed);
        (dir, room)
    }

    #[test]
    fn room_is_short_below_half_of_the_ballast_with_debts_counted() {
        for (free, kept, owed, promised, short) in [
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
            let (_dir, room) = room(free * MIB, kept * MIB);
            room.owed.store(owed * MIB, Ordering::Relaxed);
            room.promised.store(promised * MIB, Ordering::Relaxed);
            assert_eq!(room.is_short(), short, "{free} {kept} {owed} {promised}");
        }
    }

    #[test]
    fn unused_file_space_counts_as_room() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, file) = (Folder::open(dir.path()).unwrap(), File::create(dir.path().join("db")).unwrap());
        file.set_len(100 * MIB).unwrap();
        for (kept, lies_there, full) in [(4, 20, false), (4, 25, true), (12, 24, false), (3, 0, true), (16, 99, false)]
        {
            let (_dir, room) = room(0, 0);
            let ballast = Ballast::new(dir.path(), 0);
            *room.ballast.lock().unwrap() = ballast;
            room.look(&folder, &file, lies_there * MIB).unwrap();
            room.free.store(0, Ordering::Relaxed);
            room.kept.store(kept * MIB, Ordering::Relaxed);
            assert_eq!((room.is_full(), room.is_short()), (full, full), "{kept} {lies_there}");
        }
    }

    #[test]
    fn without_ballast_a_sixteenth_of_the_reserve_is_the_floor() {
        let dir = tempfile::tempdir().unwrap();
        let room = Room::new(Ballast::new(dir.path(), 0), 48 * MIB);
        for (free, short) in [(3 * MIB, false), (3 * MIB - 1, true)] {
            room.free.store(free, Ordering::Relaxed);
            assert_eq!(room.is_short(), short);
        }
    }

    #[test]
    fn room_is_assumed_before_the_first_check() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!Room::new(Ballast::new(dir.path(), 32 * MIB), 0).is_short());
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
