//! Which mutant this process is, by `HOLDLINE_MUTANT`, and which ones it came by, into the file `HOLDLINE_MUTANTS_SEEN`.
//! This file is put into the copy of the sources that `tests/mutants/sources.py` rewrites.

use std::fs::File;
use std::io::Write;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

const MOST: usize = 1 << 14;

static CHOSEN: LazyLock<u32> =
    LazyLock::new(|| std::env::var("HOLDLINE_MUTANT").ok().and_then(|n| n.parse().ok()).unwrap_or(0));
static SEEN: LazyLock<Option<File>> = LazyLock::new(|| {
    let path = std::env::var_os("HOLDLINE_MUTANTS_SEEN")?;
    File::options().append(true).create(true).open(path).ok()
});
static KNOWN: [AtomicBool; MOST] = [const { AtomicBool::new(false) }; MOST];

/// The one of those that stand here which this process is; 0 for none.
#[inline]
pub fn of(here: &[u32]) -> u32 {
    if let Some(file) = &*SEEN {
        note(here, file);
    }
    let chosen = *CHOSEN;
    if here.contains(&chosen) { chosen } else { 0 }
}

fn note(here: &[u32], mut file: &File) {
    for n in here {
        if !KNOWN[*n as usize].load(Ordering::Relaxed) && !KNOWN[*n as usize].swap(true, Ordering::Relaxed) {
            let _ = file.write_all(format!("{n}\n").as_bytes());
        }
    }
}
