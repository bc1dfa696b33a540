//! Downloads of any length: written as they arrive, with a progress bar on a terminal.

use crate::cli::client::{Admin, root};
use crate::cli::{Failure, output};
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Gets `path` and passes each chunk of the response to `take`, in order.
pub async fn pieces(
    admin: &Admin,
    path: &str,
    mut take: impl FnMut(&Bytes) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut body = admin.open(Method::GET, path, Bytes::new()).await?.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Failure::Operation(format!("the answer broke off: {}", root(&e))))?;
        if let Ok(data) = frame.into_data() {
            take(&data)?;
        }
    }
    Ok(())
}

/// Writes the response to a new file, or to the standard output.
pub async fn lines(admin: &Admin, path: &str, to: Option<&Path>) -> Result<(), Failure> {
    let Some(to) = to else { return pieces(admin, path, |data| output::bytes(data)).await };
    let failed = |e: std::io::Error| Failure::io(format!("cannot write {}", to.display()), e);
    let mut file = new_file(to)?;
    let bar = bar("lines");
    pieces(admin, path, |data| {
        bar.inc(data.iter().filter(|b| **b == b'\n').count() as u64);
        file.write_all(data).map_err(failed)
    })
    .await?;
    file.sync_all().map_err(failed)?;
    bar.finish_and_clear();
    output::note(&format!("{}: {} lines", to.display(), bar.position()));
    Ok(())
}

/// Makes a new file that only its owner can read; fails if it exists.
pub fn new_file(path: &Path) -> Result<File, Failure> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.map_err(|e| Failure::io(format!("cannot make {}", path.display()), e))
}

/// A progress bar of unknown length on stderr; hidden without a terminal.
pub fn bar(unit: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    bar.set_draw_target(ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template(&format!("{{spinner}} {{human_pos}} {unit} {{elapsed}}")) {
        bar.set_style(style);
    }
    bar
}
