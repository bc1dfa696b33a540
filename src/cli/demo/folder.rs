//! Where the demo's data lies: a folder that was asked for and stays, or a temporary one that goes at the end.

use crate::cli::Failure;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The folder of one run.
#[derive(Debug)]
pub enum Folder {
    /// Stays.
    Given(PathBuf),
    /// Removed when dropped.
    Temporary(PathBuf),
}

impl Folder {
    /// The folder `given`, which must be empty because the demo counts from zero; else a new temporary one.
    pub fn make(given: Option<PathBuf>) -> Result<Self, Failure> {
        let Some(path) = given else { return Self::temporary() };
        let occupied = std::fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_some());
        if occupied {
            let path = path.display();
            return Err(Failure::Usage(format!("{path} is not empty; the demo counts from zero: name a new folder")));
        }
        Ok(Self::Given(path))
    }

    fn temporary() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("holdline-demo-{}", std::process::id()));
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|e| Failure::io(format!("cannot make {} (name a folder with --data)", path.display()), e))?;
        Ok(Self::Temporary(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        match self {
            Self::Given(path) | Self::Temporary(path) => path,
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Self::Temporary(path) = self {
            // what cannot be removed is for the system's cleaning of temporary files
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_folder_is_removed_and_a_given_one_is_kept() {
        let temporary = Folder::make(None).unwrap();
        let path = temporary.path().to_owned();
        std::fs::write(path.join("file"), "x").unwrap();
        drop(temporary);
        assert!(!path.exists());

        let outer = tempfile::tempdir().unwrap();
        drop(Folder::make(Some(outer.path().to_owned())).unwrap());
        assert!(outer.path().exists());
        std::fs::write(outer.path().join("file"), "x").unwrap();
        assert_eq!(Folder::make(Some(outer.path().to_owned())).unwrap_err().code(), 2);
    }
}
