//! The disk of the store: durability of its filesystem, duration of a sync, permissions, free space, ballast.

use super::Finding;
use crate::api;
use crate::cli::{format, hint};
use crate::clock::Clock;
use crate::config::Settings;
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

const MIB: u64 = 1 << 20;
const SYNCS: usize = 20;
/// A slower sync is reported: each acknowledgement waits for one, and the disk is slow or failing.
const SLOW: Duration = Duration::from_millis(50);

/// Takes mode and durability from the `status` of a running daemon; without one it checks them here.
pub fn look(settings: &Settings, status: Option<&api::Status>) -> Vec<Finding> {
    let Some(status) = status else { return look_from_here(settings) };
    let path = &status.disk.path;
    let mode = status.disk.mode.as_deref().unwrap_or("700");
    let folder = match u32::from_str_radix(mode, 8) {
        Ok(mode) if mode & 0o077 != 0 => open_to_others(path, mode),
        _ => Finding::good("data folder", format!("{path}, mode {mode}")),
    };
    let filesystem = match status.durability.as_str() {
        "inode-sync" => Finding::good("filesystem", "durability is inode-sync"),
        other => Finding::doubtful("filesystem", format!("durability is {other}"), "put store.path on ext4 or XFS"),
    };
    let mut findings = vec![folder, filesystem];
    if let Ok((probe, file)) = tempfile_in(Path::new(path)) {
        findings.push(syncs(file));
        let _ = fs::remove_file(probe); // an empty file with a telling name
    }
    findings.push(enough(status.disk.free_bytes, status.disk.reserve_bytes, settings.intake.max_queue_bytes));
    findings.push(ballast(status.disk.ballast_bytes, settings.store.ballast_bytes));
    findings
}

fn look_from_here(settings: &Settings) -> Vec<Finding> {
    let path = &settings.store.path;
    let there = nearest(path);
    let mut findings = vec![rights(path)];
    match tempfile_in(&there) {
        Err(e) => {
            let remedy = "run doctor as the user that holdline runs as, or as root";
            findings.push(Finding::doubtful("filesystem", format!("cannot write in {}: {e}", there.display()), remedy));
        }
        Ok((probe, file)) => {
            findings.push(durability(&file));
            findings.push(syncs(file));
            let _ = fs::remove_file(probe); // an empty file with a telling name
        }
    }
    findings.push(room(&there, settings));
    if path.is_dir() {
        findings.push(ballast(ballast_on_disk(path), settings.store.ballast_bytes));
    }
    findings
}

/// The path itself, or its nearest existing parent.
fn nearest(path: &Path) -> PathBuf {
    path.ancestors().find(|p| p.is_dir()).map_or_else(|| ".".into(), Path::to_owned)
}

fn tempfile_in(folder: &Path) -> std::io::Result<(PathBuf, File)> {
    let path = folder.join(format!(".holdline-doctor-{}", std::process::id()));
    let file = File::options().create_new(true).read(true).write(true).open(&path)?;
    Ok((path, file))
}

fn rights(path: &Path) -> Finding {
    let what = "data folder";
    match fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            Finding::doubtful(what, format!("{} is not for this user", path.display()), "run doctor as root")
        }
        Err(_) => Finding::good(what, format!("{} is not there yet; it is made at the first start", path.display())),
        Ok(meta) if meta.permissions().mode() & 0o077 != 0 => {
            open_to_others(&path.display().to_string(), meta.permissions().mode() & 0o777)
        }
        Ok(meta) => Finding::good(what, format!("{}, only for user {}", path.display(), meta.uid())),
    }
}

fn open_to_others(path: &str, mode: u32) -> Finding {
    let found = format!("{path} is open to others (mode {mode:o})");
    Finding::doubtful("data folder", found, format!("chmod 700 {}", hint::quoted(path)))
}

/// Whether inode flags can make each write synchronous; only this survives every power cut.
fn durability(file: &File) -> Finding {
    let marked = ioctl_getflags(file).and_then(|flags| {
        ioctl_setflags(file, flags | IFlags::SYNC)?;
        ioctl_getflags(file)
    });
    match marked {
        Ok(flags) if flags.contains(IFlags::SYNC) => Finding::good("filesystem", "durability will be inode-sync"),
        _ => {
            let remedy = "put store.path on ext4 or XFS";
            Finding::doubtful("filesystem", "it has no SYNC flag: durability will be fdatasync", remedy)
        }
    }
}

fn syncs(mut file: File) -> Finding {
    let clock = Clock::system();
    let mut took = Vec::new();
    for _ in 0..SYNCS {
        let began = clock.precise();
        if let Err(e) = file.write_all(&[0; 4096]).and_then(|()| file.sync_data()) {
            return Finding::bad("fsync", format!("it fails: {e}"), "check the disk: dmesg, smartctl");
        }
        took.push(clock.precise().saturating_sub(began));
    }
    took.sort();
    let (median, worst) = (took[SYNCS / 2], took[SYNCS - 1]);
    let found = format!("{} in the middle, {} at worst", micros(median), micros(worst));
    if median <= SLOW {
        Finding::good("fsync", found)
    } else {
        Finding::doubtful("fsync", found, "a disk of its own, or one with power-loss protection, acknowledges faster")
    }
}

fn micros(d: Duration) -> String {
    if d < Duration::from_millis(10) { format!("{} us", d.as_micros()) } else { format!("{} ms", d.as_millis()) }
}

fn room(there: &Path, settings: &Settings) -> Finding {
    let Ok(s) = rustix::fs::statvfs(there) else {
        return Finding::bad("free disk", "it cannot be read", "check the mount of store.path");
    };
    enough(s.f_bavail * s.f_frsize, settings.intake.disk_reserve_bytes, settings.intake.max_queue_bytes)
}

fn enough(free: u64, reserve: u64, queue: u64) -> Finding {
    let found = format!("{} free, {} of it is reserve", format::bytes(free), format::bytes(reserve));
    if free < reserve {
        Finding::bad("free disk", found, "intake answers 503 until there is more: free some, or lower disk_reserve")
    } else if free - reserve < queue {
        let remedy = format!("the disk is full before max_queue_bytes ({}) is reached", format::bytes(queue));
        Finding::doubtful("free disk", found, remedy)
    } else {
        Finding::good("free disk", found)
    }
}

/// Bytes of the ballast in the data folder of a stopped daemon; zero if there is none or it cannot be read.
fn ballast_on_disk(data: &Path) -> u64 {
    fs::metadata(data.join("ballast")).map_or(0, |meta| meta.blocks() * 512)
}

/// `kept_bytes` is the rest of the ballast, in whole MiB.
fn ballast(kept_bytes: u64, wanted_bytes: u64) -> Finding {
    let what = "ballast";
    if wanted_bytes == 0 {
        let found = "store.ballast is 0: the store has no room of its own on a full disk";
        return Finding::doubtful(what, found, "set store.ballast, for example to \"32MiB\"");
    }
    let found = format!("{} of {} kept for a full disk", format::bytes(kept_bytes), format::bytes(wanted_bytes));
    if kept_bytes + MIB > wanted_bytes {
        return Finding::good(what, found);
    }
    let remedy = "free some disk; the running daemon then makes the ballast whole again";
    if kept_bytes >= wanted_bytes / 2 {
        Finding::doubtful(what, format!("{found}; the rest is used"), remedy)
    } else if kept_bytes > 0 {
        Finding::bad(what, format!("{found}: with less than half of it nothing new is sent on a full disk"), remedy)
    } else {
        Finding::bad(what, "it is missing: on a full disk nothing new is sent, and a start may fail", remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    #[test]
    fn the_ballast_is_whole_partly_used_or_missing() {
        for (kept, wanted, verdict, words) in [
            (32, 32, Verdict::Good, "32 MiB of 32 MiB"),
            (20, 32, Verdict::Doubtful, "the rest is used"),
            (16, 32, Verdict::Doubtful, "the rest is used"),
            (15, 32, Verdict::Bad, "nothing new is sent"),
            (0, 32, Verdict::Bad, "it is missing"),
            (0, 0, Verdict::Doubtful, "store.ballast is 0"),
        ] {
            let finding = ballast(kept * MIB, wanted * MIB);
            assert!(finding.verdict == verdict && finding.found.contains(words), "{kept} of {wanted}: {finding:?}");
            assert_eq!(finding.remedy.is_empty(), verdict == Verdict::Good);
        }
    }
}
