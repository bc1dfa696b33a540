//! `holdline backup`, `holdline restore`, `holdline verify`: copies a running daemon's data consistently, makes a store from
//! a backup, and checks every record of a store while no daemon runs.

use crate::api;
use crate::cli::admin_connection::{AdminConnection, Form};
use crate::cli::client::Admin;
use crate::cli::download::{bar, new_file, pieces};
use crate::cli::{Failure, format, hint, output};
use crate::store::{
    Inventory, Salvaged, repair as repair_store, restore as restore_store, salvage as salvage_store,
    verify as verify_store,
};
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The name of the backup file in its folder.
const FILE: &str = "holdline.backup";

/// Arguments of `holdline backup`.
#[derive(Debug, clap::Args)]
pub struct BackupArgs {
    #[command(flatten)]
    connection: AdminConnection,
    /// A folder for the backup; it is made, and must not hold one yet
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Back up to the filesystem of the data folder even if its free space may not suffice
    #[arg(long)]
    force: bool,
}

/// Arguments of `holdline restore`.
#[derive(Debug, clap::Args)]
pub struct RestoreArgs {
    /// The folder of a backup
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// The data folder to make; it must be empty, or not there yet
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Print JSON, for scripts
    #[arg(long)]
    json: bool,
}

/// Arguments of `holdline verify`.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// The data folder of a daemon that does not run
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Set damaged records aside and list them; nothing is deleted
    #[arg(long)]
    repair: bool,
    /// Copy all readable records into a new data folder and list the rest; for a store that cannot be opened. The damaged
    /// folder is only read
    #[arg(long, value_name = "NEW", conflicts_with = "repair")]
    salvage: Option<PathBuf>,
    /// Print JSON, for scripts
    #[arg(long)]
    json: bool,
}

pub async fn backup(args: BackupArgs) -> Result<(), Failure> {
    let admin = Admin::of(&args.connection)?;
    let failed = |e: std::io::Error| Failure::io(format!("cannot write in {}", args.dir.display()), e);
    std::fs::create_dir_all(&args.dir).map_err(failed)?;
    let (whole, part) = (args.dir.join(FILE), args.dir.join(format!("{FILE}.part")));
    if whole.exists() {
        return Err(Failure::Usage(format!("{} is there already; give another folder", whole.display())));
    }
    let _ = std::fs::remove_file(&part); // left by an interrupted backup
    if !args.force {
        check_space(&admin, &args.dir).await?;
    }
    let mut file = new_file(&part)?;
    let bar = bar("bytes");
    pieces(&admin, "/v1/backup", |piece| {
        bar.inc(piece.len() as u64);
        file.write_all(piece).map_err(failed)
    })
    .await?;
    file.sync_all().map_err(failed)?;
    std::fs::rename(&part, &whole).map_err(failed)?;
    File::open(&args.dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
    bar.finish_and_clear();
    match args.connection.shared.form() {
        Form::Json => output::json(&json!({"file": whole, "bytes": bar.position()})),
        Form::Table => output::text(&format!("{}: {}\n", whole.display(), format::bytes(bar.position()))),
    }
}

/// Fails if the backup is on the filesystem of the data folder and may leave less free space than `intake.disk_reserve`,
/// which closes intake. The check is skipped for a daemon on another machine, and if the token may not read the status.
async fn check_space(admin: &Admin, dir: &Path) -> Result<(), Failure> {
    let Ok(status) = admin.get::<api::Status>("/v1/status").await else { return Ok(()) };
    let device = |path: &Path| std::fs::metadata(path).map(|meta| meta.dev()).ok();
    let is_shared = device(Path::new(&status.disk.path)).is_some_and(|data| Some(data) == device(dir));
    match lack_of_space(&status.disk, dir).filter(|_| is_shared) {
        None => Ok(()),
        Some(why) => Err(Failure::Operation(why)),
    }
}

/// Why a backup in `dir` on the filesystem of the data folder may fill the disk.
fn lack_of_space(disk: &api::Disk, dir: &Path) -> Option<String> {
    let spare_bytes = disk.free_bytes.saturating_sub(disk.reserve_bytes);
    (spare_bytes < disk.used_bytes).then(|| {
        format!(
            "{} is on the filesystem of the data folder, where {} are free beyond intake.disk_reserve; a backup can take {}, \
             and intake would close. Choose another filesystem, or add --force",
            dir.display(),
            format::bytes(spare_bytes),
            format::bytes(disk.used_bytes)
        )
    })
}

/// Makes a store from a backup, and checks it.
pub fn restore(args: &RestoreArgs) -> Result<(), Failure> {
    let path = args.dir.join(FILE);
    let file = File::open(&path).map_err(|e| Failure::io(format!("cannot read {}", path.display()), e))?;
    let bar = bar("rows");
    let made = restore_store(file, &args.data, || bar.inc(1)).map_err(|e| Failure::Operation(e.to_string()))?;
    bar.finish_and_clear();
    print_inventory(&args.data, &made, args.json.then(Map::new))
}

pub fn verify(args: &VerifyArgs) -> Result<(), Failure> {
    let failed = |e: crate::store::StoreError| Failure::Operation(e.to_string());
    if let Some(new) = &args.salvage {
        return salvaged(args, new, &salvage_store(&args.data, new, format::now()).map_err(failed)?);
    }
    let mut more = Map::new();
    let found = if args.repair {
        let (done, found) = repair_store(&args.data, format::now()).map_err(failed)?;
        if args.json {
            more.insert("set_aside".to_owned(), json!(done));
        } else {
            output::text(&done.iter().map(|line| format!("set aside: {line}\n")).collect::<String>())?;
        }
        found
    } else {
        verify_store(&args.data).map_err(failed)?
    };
    print_inventory(&args.data, &found, args.json.then_some(more))
}

/// The file in a salvaged folder that lists everything that is missing.
const REPORT: &str = "salvage.txt";
/// Entries of each list that are also printed.
const LISTED_MAX: usize = 20;

fn salvaged(args: &VerifyArgs, new: &Path, done: &Salvaged) -> Result<(), Failure> {
    let heading = |what: &str, lines: &[String]| match lines.len() {
        0 => String::new(),
        n => format!("{what}: {n}\n"),
    };
    let (damaged, missing) = (heading("does not verify", &done.damaged), heading("missing", &done.missing));
    let full = |lines: &[String]| lines.iter().map(|line| format!("  {line}\n")).collect::<String>();
    let copied: Vec<String> =
        done.copied.iter().map(|(name, count)| format!("{name} {}", format::count(*count))).collect();
    let sums = format!(
        "salvaged from {}: {}\n{} that the counters know are not in it; of {} nothing is known\n",
        args.data.display(),
        copied.join(", "),
        format::counted(done.unaccounted, "delivery").replace("deliverys", "deliveries"),
        format::counted(done.unidentified, "event"),
    );
    let report = new.join(REPORT);
    let whole = format!("{sums}{damaged}{}{missing}{}", full(&done.damaged), full(&done.missing));
    std::fs::write(&report, whole).map_err(|e| Failure::io(format!("cannot write {}", report.display()), e))?;
    let short = |lines: &[String]| match lines.len() {
        n if n > LISTED_MAX => {
            format!("{}  and {} more, in {}\n", full(&lines[..LISTED_MAX]), n - LISTED_MAX, report.display())
        }
        _ => full(lines),
    };
    if args.json {
        let copied: Map<String, Value> =
            done.copied.iter().map(|(name, count)| ((*name).to_owned(), json!(count))).collect();
        let more = json!({"salvaged_from": args.data, "report": report, "copied": copied, "does_not_verify": done.damaged,
            "missing": done.missing, "unaccounted": done.unaccounted, "unidentified": done.unidentified});
        print_inventory(new, &done.inventory, Some(more.as_object().cloned().unwrap_or_default()))?;
    } else {
        output::text(&format!("{sums}{damaged}{}{missing}{}", short(&done.damaged), short(&done.missing)))?;
        print_inventory(new, &done.inventory, None)?;
    }
    if done.is_whole() {
        return Ok(());
    }
    Err(Failure::Operation(format!(
        "something is missing, see {}; the new folder is sound and can be started on: set store.path to it",
        report.display()
    )))
}

/// Prints the inventory of a store; JSON has the fields of `more` too.
fn print_inventory(data: &Path, found: &Inventory, more: Option<Map<String, Value>>) -> Result<(), Failure> {
    match more {
        Some(more) => output::json(&as_json(data, found, more))?,
        None => output::text(&as_text(data, found))?,
    }
    match found.faults.len() {
        0 => Ok(()),
        n => Err(Failure::Operation(format!(
            "{}; `{} --data {} --repair` sets damaged records aside",
            format::counted(n as u64, "fault"),
            hint::command("verify"),
            hint::quoted(&data.to_string_lossy())
        ))),
    }
}

fn as_json(data: &Path, found: &Inventory, more: Map<String, Value>) -> Value {
    let mut all = json!({"data": data, "accepted": found.accepted, "waiting": found.waiting, "dead": found.dead,
        "damaged": found.damaged, "faults": found.faults});
    if let Some(all) = all.as_object_mut() {
        all.extend(more);
    }
    all
}

fn as_text(data: &Path, found: &Inventory) -> String {
    let mut text = format!(
        "{}: {} accepted, {} deliveries waiting, {} dead, {} damaged records set aside\n",
        data.display(),
        format::count(found.accepted),
        format::count(found.waiting),
        format::count(found.dead),
        format::count(found.damaged),
    );
    for fault in &found.faults {
        text.push_str(&format!("  {fault}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_beside_the_data_needs_space_beyond_the_reserve() {
        let disk = |free_bytes| api::Disk { free_bytes, reserve_bytes: 100, used_bytes: 50, ..api::Disk::default() };
        assert_eq!(lack_of_space(&disk(150), Path::new("/b")), None);
        let why = lack_of_space(&disk(149), Path::new("/b")).unwrap();
        assert!(
            why.starts_with("/b is on the filesystem of the data folder, where 49 B are free")
                && why.contains("--force")
        );
        assert!(lack_of_space(&disk(20), Path::new("/b")).is_some());
    }
}
