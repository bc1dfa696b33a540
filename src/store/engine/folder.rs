//! The data folder: lock, format version, and the durability of writes in it.
//!
//! *Layout.* `lock`, `format`, `mark` (the durable watermark), `admin.token` (written by the daemon), and `queue/`,
//! which belongs to sled.
//!
//! *Durability.* sled's own flush ends in `sync_file_range`, which does not protect against a power cut. So `queue/` gets
//! the inode flags SYNC and DIRSYNC before sled opens it, and sled's files get SYNC: each write is then synchronous, and a
//! failed sync is a failed write. If the filesystem does not support these flags (tmpfs, overlay, btrfs), each commit ends
//! in an `fdatasync` of sled's file instead; this is sufficient as long as no blob file exists.

use super::error::StoreError;
use crate::store::model::watermark::{Watermark, WatermarkFile};
use rustix::fs::{FlockOperation, IFlags, flock, ioctl_getflags, ioctl_setflags};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Version of the folder's format. A newer one is refused; an older one is upgraded when the store is opened. Version 2
/// stores the rows of `history` and `settled` as differences, version 3 compresses deliveries and dead letters.
const FORMAT: u32 = 3;
/// Number of tries in [`try_lock`].
const LOCK_TRIES: u32 = 30;

/// The folder of one store, locked for this process until dropped.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// `None` if the store was never opened completely, so nothing was ever accepted.
    format: Option<u32>,
    _lock: File,
}

impl Folder {
    /// Creates the folder if it is missing, takes its lock and checks its format.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |what: &str, e: io::Error| StoreError::Folder(format!("{what} {}: {e}", path.display()));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| failed("cannot create", e))?;
        let lock = lock(path)?;
        let format = format_of(path)?;
        let queue = path.join("queue");
        if !queue.exists() {
            private_folder(&queue).map_err(|e| failed("cannot create queue/ in", e))?;
        }
        sync_folder(path).map_err(|e| failed("cannot sync", e))?;
        if let Some(parent) = path.canonicalize().ok().and_then(|p| p.parent().map(Path::to_owned)) {
            // makes the folder's own directory entry durable; a parent that cannot be opened existed before
            let _ = sync_folder(&parent);
        }
        let folder = Self { path: path.to_owned(), format, _lock: lock };
        folder.clean_up().map_err(|e| failed("cannot clean up queue/ in", e))?;
        Ok(folder)
    }

    /// Whether the store was never opened completely, so nothing was ever accepted.
    pub fn is_unfinished(&self) -> bool {
        self.format.is_none()
    }

    /// Sets aside an unfinished `queue/` and creates a new one.
    pub fn recreate_queue(&self) -> io::Result<()> {
        let aside = (1..).map(|n| self.path.join(format!("set-aside.queue.{n}"))).find(|path| !path.exists());
        fs::rename(self.queue(), aside.unwrap_or_default())?;
        private_folder(&self.queue())?;
        let _ = self.mark_synchronous(); // the flags are read back from the files later
        sync_folder(&self.path)
    }

    /// Writes the format version atomically, after the store was opened for the first time in this version.
    pub fn write_format(&self) -> io::Result<()> {
        if self.format == Some(FORMAT) {
            return Ok(());
        }
        let part = self.path.join("format.part");
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&part)?;
        writeln!(file, "{FORMAT}")?;
        file.sync_all()?;
        fs::rename(&part, self.path.join("format"))?;
        sync_folder(&self.path)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The durable watermark, as last written.
    pub fn watermark(&self) -> Option<Watermark> {
        WatermarkFile::read(&self.path)
    }

    /// The folder that belongs to sled.
    pub fn queue(&self) -> PathBuf {
        self.path.join("queue")
    }

    /// Removes incomplete snapshots: a kill while sled starts leaves one, which sled would treat as complete.
    fn clean_up(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.queue())? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "generating" || e == "in___motion") {
                tracing::warn!(file = %path.display(), "removing an incomplete snapshot left by a kill");
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Sets sled's snapshots aside, so that it reads its whole log. A snapshot contains no data of its own.
    pub fn set_snapshots_aside(&self) -> io::Result<usize> {
        let mut moved = 0;
        for entry in fs::read_dir(self.queue())? {
            let path = entry?.path();
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            if name.starts_with("snap.") {
                fs::rename(&path, self.path.join(format!("set-aside.{name}")))?;
                moved += 1;
            }
        }
        Ok(moved)
    }

    /// Sets the flags by which new files in `queue/` are written synchronously; `None` if the filesystem does not support
    /// them.
    pub fn mark_synchronous(&self) -> Option<()> {
        let queue = self.queue();
        set_flags(&queue, IFlags::SYNC | IFlags::DIRSYNC).then_some(())
    }

    /// Sets the flags of sled's files and folders, syncs them, and reads the flags back; false if one is not set.
    pub fn mark_files_synchronous(&self) -> io::Result<bool> {
        let mut all = true;
        for entry in fs::read_dir(self.queue())? {
            let entry = entry?;
            let flags = if entry.file_type()?.is_dir() { IFlags::SYNC | IFlags::DIRSYNC } else { IFlags::SYNC };
            all &= set_flags(&entry.path(), flags);
            File::open(entry.path())?.sync_all()?;
        }
        sync_folder(&self.queue())?;
        Ok(all)
    }

    /// Number of blob files. There must be none: sled never syncs and never reclaims them.
    pub fn blob_files(&self) -> usize {
        fs::read_dir(self.queue().join("blobs")).map_or(0, Iterator::count)
    }

    /// Disk usage of `queue/` in bytes.
    pub fn disk_bytes(&self) -> u64 {
        fn size(path: &Path) -> u64 {
            use std::os::unix::fs::MetadataExt;
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            entries
                .map(|e| if e.path().is_dir() { size(&e.path()) } else { e.metadata().map_or(0, |m| m.blocks() * 512) })
                .sum()
        }
        size(&self.queue())
    }

    /// Bytes and inodes that are free for an unprivileged process on the folder's filesystem.
    pub fn free(&self) -> io::Result<Free> {
        let s = rustix::fs::statvfs(&self.path)?;
        // filesystems without an inode limit (btrfs) report zero in total
        let inodes = if s.f_files == 0 { u64::MAX } else { s.f_favail };
        Ok(Free { bytes: s.f_bavail * s.f_frsize, inodes })
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Free {
    pub bytes: u64,
    pub inodes: u64,
}

fn private_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)
}

fn lock(path: &Path) -> Result<File, StoreError> {
    let file = path.join("lock");
    let failed = |e: io::Error| StoreError::Folder(format!("cannot open {}: {e}", file.display()));
    let mut lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&file)
        .map_err(failed)?;
    if !try_lock(&lock) {
        let mut pid = String::new();
        let _ = lock.read_to_string(&mut pid); // only for the message
        return Err(StoreError::Locked { path: path.to_owned(), pid: pid.trim().to_owned() });
    }
    lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id())).map_err(failed)?;
    Ok(lock)
}

/// Takes the lock if it is free. A child process that is being started keeps a copy of this process's locks until its exec,
/// so a lock that was just released may still be taken: up to [`LOCK_TRIES`] tries, 10 ms apart.
fn try_lock(lock: &File) -> bool {
    (0..LOCK_TRIES).any(|_| {
        let taken = flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok();
        if !taken {
            std::thread::park_timeout(Duration::from_millis(10));
        }
        taken
    })
}

/// Takes the lock of a folder that is only read; `None` if it has no lock file.
pub fn lock_existing(path: &Path) -> Result<Option<File>, StoreError> {
    let file = path.join("lock");
    let mut lock = match File::open(&file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|e| StoreError::Folder(format!("cannot open {}: {e}", file.display())))?,
    };
    if !try_lock(&lock) {
        let mut pid = String::new();
        let _ = lock.read_to_string(&mut pid); // only for the message
        return Err(StoreError::Locked { path: path.to_owned(), pid: pid.trim().to_owned() });
    }
    Ok(Some(lock))
}

/// The format version of the folder; `None` while a store is being created. An unknown version is an error.
fn format_of(path: &Path) -> Result<Option<u32>, StoreError> {
    let file = path.join("format");
    match fs::read(&file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()) {
        Ok(text) if text.trim().is_empty() => Ok(None),
        Ok(text) => match text.trim().parse::<u32>() {
            Ok(found) if found <= FORMAT => Ok(Some(found)),
            Ok(found) => Err(StoreError::NewerFormat { path: path.to_owned(), found, known: FORMAT }),
            Err(_) => Err(StoreError::Folder(format!(
                "{} does not hold a format version; restore the folder from a backup, or write {FORMAT} into that file \
                 if this version of holdline made it",
                file.display()
            ))),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(StoreError::Folder(format!("cannot read {}: {e}", file.display()))),
    }
}

fn set_flags(path: &Path, wanted: IFlags) -> bool {
    let set = || -> io::Result<bool> {
        let file = File::open(path)?;
        let flags = ioctl_getflags(&file)?;
        if !flags.contains(wanted) {
            ioctl_setflags(&file, flags | wanted)?;
        }
        Ok(ioctl_getflags(&file)?.contains(wanted))
    };
    set().unwrap_or(false)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reopened(path: &Path) -> Folder {
        crate::testing::stores::unlocked(|| Folder::open(path)).unwrap()
    }

    #[test]
    fn a_folder_is_unfinished_until_its_format_is_written_and_a_newer_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let folder = Folder::open(&path).unwrap();
        assert!(folder.is_unfinished() && folder.queue().is_dir());
        folder.write_format().unwrap();
        drop(folder);
        let folder = reopened(&path);
        assert!(!folder.is_unfinished());
        drop(folder);
        for text in ["", " \n"] {
            fs::write(path.join("format"), text).unwrap();
            assert!(reopened(&path).is_unfinished());
        }
        let with = |text: String| {
            fs::write(path.join("format"), text).unwrap();
            format_of(&path)
        };
        assert!((1..=FORMAT).all(|n| with(format!("{n}\n")).is_ok_and(|found| found == Some(n))));
        let known = FORMAT;
        let newer = with(format!("{}\n", FORMAT + 1)).unwrap_err();
        assert!(matches!(newer, StoreError::NewerFormat { found, known: k, .. } if found == known + 1 && k == known));
        assert!(matches!(with("two".to_owned()).unwrap_err(), StoreError::Folder(_)));
    }

    #[test]
    fn only_files_left_incomplete_by_a_kill_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        drop(Folder::open(dir.path()).unwrap());
        let queue = dir.path().join("queue");
        for name in ["conf", "db", "snap.0A", "snap.0B.generating", "snap.0C.in___motion"] {
            fs::write(queue.join(name), "x").unwrap();
        }
        let folder = reopened(dir.path());
        let names = || {
            let mut all: Vec<_> = fs::read_dir(&queue).unwrap().map(|e| e.unwrap().file_name()).collect();
            all.sort();
            all
        };
        assert_eq!(names(), ["conf", "db", "snap.0A"]);
        assert_eq!(folder.set_snapshots_aside().unwrap(), 1);
        assert_eq!(names(), ["conf", "db"]);
        assert!(dir.path().join("set-aside.snap.0A").exists());
    }

    #[test]
    fn a_folder_reports_used_and_free_space() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        let empty = folder.disk_bytes();
        fs::create_dir(folder.queue().join("blobs")).unwrap();
        let mut file = File::create(folder.queue().join("blobs/1")).unwrap();
        file.write_all(&vec![1; 300_000]).unwrap();
        file.sync_all().unwrap();
        let taken = folder.disk_bytes() - empty;
        assert!((300_000..3_000_000).contains(&taken), "{taken} bytes");
        assert_eq!(folder.blob_files(), 1);
        let (free, stat) = (folder.free().unwrap(), rustix::fs::statvfs(dir.path()).unwrap());
        assert!(free.bytes <= stat.f_blocks * stat.f_frsize);
        assert!(free.bytes > stat.f_bavail / 2 * stat.f_frsize);
        assert_eq!(free.inodes == u64::MAX, stat.f_files == 0);
    }

    #[test]
    fn a_folder_opened_for_reading_is_locked_too() {
        let dir = tempfile::tempdir().unwrap();
        assert!(lock_existing(dir.path()).unwrap().is_none());
        let folder = Folder::open(dir.path()).unwrap();
        assert!(matches!(lock_existing(dir.path()).unwrap_err(), StoreError::Locked { .. }));
        drop(folder);
        let no_folder = dir.path().join("lock/under-a-file");
        assert!(matches!(lock_existing(&no_folder).unwrap_err(), StoreError::Folder(_)));
    }
}
