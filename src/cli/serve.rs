//! `holdline serve`: settings from file and flags, logging, signals; then the daemon until it is asked to stop.

use crate::cli::logs::{self, Format};
use crate::cli::{Failure, output, signals};
use crate::config::{Overrides, Settings};
use crate::daemon::{self, Stop};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::sync::mpsc::UnboundedReceiver;
use tracing::Level;

/// Arguments of `holdline serve`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the events go; without it they are accepted and held
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// Where the data lies
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Address on which events are accepted
    #[arg(long, value_name = "ADDR")]
    intake: Option<SocketAddr>,
    /// Address of the admin API
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// How log lines look
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "human")]
    log: Format,
    /// Least level of log lines: ERROR, WARN, INFO, DEBUG or TRACE (HOLDLINE_LOG, a filter, beats it)
    #[arg(long, value_name = "LEVEL", default_value = "INFO")]
    log_level: Level,
}

/// Runs the daemon until it has stopped; its exit code.
pub fn run(args: Args) -> Result<ExitCode, Failure> {
    let settings = settings(&args)?;
    logs::start(args.log, args.log_level).map_err(Failure::Usage)?;
    let endings = signals::endings().map_err(|e| Failure::io("cannot listen for signals", e))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::io("cannot start the runtime", e))?;
    runtime.block_on(daemon::run(settings, asked_to_stop(endings)))?;
    Ok(ExitCode::SUCCESS)
}

fn settings(args: &Args) -> Result<Settings, Failure> {
    let overrides = Overrides { to: args.to.clone(), data: args.data.clone(), intake: args.intake, admin: args.admin };
    let settings = match &args.config {
        None => Settings::embedded(&overrides),
        Some(path) => crate::config::load(path)
            .map_err(|faults| {
                output::note(&faults.to_string());
                Failure::Usage(format!("{} is not usable; nothing was started", path.display()))
            })?
            .with(&overrides),
    };
    settings.map_err(Failure::Usage)
}

/// Returns at the first SIGINT or SIGTERM. A second one ends the process at once.
async fn asked_to_stop(mut endings: UnboundedReceiver<&'static str>) -> Stop {
    // the thread that sends lives as long as the process
    let signal = endings.recv().await.unwrap_or("SIGTERM");
    tracing::info!(signal, "stopping: deliveries under way may end; a second signal stops at once");
    tokio::spawn(async move {
        if endings.recv().await.is_some() {
            output::note("holdline: stopped at once; nothing accepted is lost, deliveries under way are made again");
            std::process::exit(1);
        }
    });
    Stop::Drain
}
