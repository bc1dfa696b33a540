//! Why the store cannot be opened, read or written.

use crate::store::model::codec::Damaged;
use std::path::PathBuf;

/// How a commit is made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Every write is synchronous, by inode flags.
    InodeSync,
    /// An `fdatasync` ends each commit.
    Fdatasync,
    /// Nothing: switched off by a developer, to prove that the power-cut harness detects losses.
    Unsafe,
}

impl Durability {
    pub fn word(self) -> &'static str {
        match self {
            Self::InodeSync => "inode-sync",
            Self::Fdatasync => "fdatasync",
            Self::Unsafe => "unsafe",
        }
    }
}

/// Why a store operation failed. All are fatal except [`StoreError::Damaged`], which concerns one record.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{0}")]
    Folder(String),
    #[error(
        "{} is in use by another holdline (process {pid}); stop that one, or give this one another store.path",
        path.display()
    )]
    Locked { path: PathBuf, pid: String },
    #[error(
        "{} was written by a newer holdline (format {found}, this one knows up to {known}); install that version again",
        path.display()
    )]
    NewerFormat { path: PathBuf, found: u32, known: u32 },
    #[error(
        "{}: this filesystem cannot make each write power-safe (durability would be `{}`), and store.require_power_safe is \
         set; use ext4 or XFS, or set it to false",
        path.display(), durability.word()
    )]
    NotPowerSafe { path: PathBuf, durability: Durability },
    #[error(
        "the store is damaged and was not opened, so that nothing more is lost ({0}); take what can be read into a new \
         folder with `holdline verify --data OLD --salvage NEW` and start on that, or restore a backup"
    )]
    Corrupt(String),
    #[error("the store failed to write or read: {0}")]
    Engine(String),
    #[error(transparent)]
    Damaged(Damaged),
    #[error("the store has failed; restart the daemon")]
    Failed,
}

impl StoreError {
    pub fn engine(e: sled::Error) -> Self {
        Self::Engine(e.to_string())
    }
}

impl From<Damaged> for StoreError {
    fn from(damaged: Damaged) -> Self {
        Self::Damaged(damaged)
    }
}
