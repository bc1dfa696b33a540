//! stub
use crate::cli::Failure;
use std::process::ExitCode;
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Events
    #[arg(long, value_name = "N", default_value = "2000", value_parser = clap::value_parser!(u64).range(10..=1_000_000))]
    events: u64,
    /// Seed
    #[arg(long, default_value = "1")]
    seed: u64,
    /// Keep
    #[arg(long)]
    keep: bool,
}
pub fn run(_: Args) -> Result<ExitCode, Failure> {
    Ok(ExitCode::SUCCESS)
}
