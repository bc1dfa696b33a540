//! `holdline check`: every fault of a configuration, or that there is none.

use crate::cli::{Failure, output, words};
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `holdline check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration to validate
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Prints faults to stderr with exit code 2, else one line to stdout.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let settings = match crate::config::load(&args.config) {
        Ok(settings) => settings,
        Err(faults) => {
            output::note(&faults.to_string());
            return Ok(ExitCode::from(2));
        }
    };
    let sources = words::counted(settings.sources.len() as u64, "source");
    let destinations = words::counted(settings.destinations.len() as u64, "destination");
    output::text(&format!("{}: ok ({sources}, {destinations})\n", args.config.display()))?;
    Ok(ExitCode::SUCCESS)
}
