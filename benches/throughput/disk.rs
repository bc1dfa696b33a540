//! What the disk under the data folder can do, measured in the same run, and a clean start for each round.

use anyhow::Result;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// Mean time of one append of 1 KiB and fdatasync, over `length`.
pub(crate) fn append_and_sync(folder: &Path, length: Duration) -> Result<Duration> {
    let path = folder.join("append");
    let mut file = File::create(&path)?;
    let (begin, mut appends) = (Instant::now(), 0);
    while begin.elapsed() < length || appends < 10 {
        file.write_all(&[b'x'; 1024])?;
        file.sync_data()?;
        appends += 1;
    }
    let each = begin.elapsed() / appends;
    std::fs::remove_file(path)?;
    Ok(each)
}

/// Writes out what earlier measurements left behind, so that the next does not pay for it.
pub(crate) fn settle(folder: &Path) -> Result<()> {
    Ok(rustix::fs::syncfs(File::open(folder)?)?)
}

/// The type of the filesystem that a folder lies on, as /proc/mounts calls it.
pub(crate) fn filesystem(folder: &Path) -> Result<String> {
    let folder = folder.canonicalize()?;
    let mounts = std::fs::read_to_string("/proc/mounts")?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let under = mounts.filter(|(place, _)| folder.starts_with(place)).max_by_key(|(place, _)| place.len());
    Ok(under.map_or("unknown", |(_, kind)| kind).to_owned())
}
