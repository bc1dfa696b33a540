//! `holdline serve`: reads settings from file and flags, sets up logging and signals, and runs the daemon until it is
//! stopped.

use crate::cli::{Failure, admin_connection, check, output, process};
use crate::config::{Flags, Settings, warnings};
use crate::daemon::{self, Command};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tracing::Level;

/// Arguments of `holdline serve`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration (TOML) [default: /etc/holdline/holdline.toml, where it is there]
    #[arg(long, value_name = "FILE", env = admin_connection::CONFIG)]
    config: Option<PathBuf>,
    /// Where events are delivered; without it they are accepted and queued
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// Data folder
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Address on which events are accepted
    #[arg(long, value_name = "ADDR")]
    intake: Option<SocketAddr>,
    /// Address of the admin API
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// Form of log lines
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "human")]
    log: process::LogFormat,
    /// Least level of log lines: ERROR, WARN, INFO, DEBUG or TRACE (HOLDLINE_LOG, a filter, takes precedence)
    #[arg(long, value_name = "LEVEL", default_value = "INFO")]
    log_level: Level,
}

/// Runs the daemon until it has stopped; returns its exit code.
pub fn run(args: Args) -> Result<ExitCode, Failure> {
    let settings = settings(&args)?;
    check_secrets(&settings)?;
    process::start_logging(args.log, args.log_level).map_err(Failure::Usage)?;
    warn(&settings, &args);
    let failed = |e| Failure::io("cannot listen for signals", e);
    let (terminations, hangups) = (process::terminations().map_err(failed)?, process::hangups().map_err(failed)?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::io("cannot start the runtime", e))?;
    let (send, commands) = mpsc::unbounded_channel();
    runtime.spawn(reload_when_asked(hangups, args, send.clone()));
    runtime.spawn(stop_when_asked(terminations, send));
    runtime.block_on(daemon::run(settings, commands))?;
    Ok(ExitCode::SUCCESS)
}

fn settings(args: &Args) -> Result<Settings, Failure> {
    let overrides = Flags { to: args.to.clone(), data: args.data.clone(), intake: args.intake, admin: args.admin };
    let settings = match admin_connection::found(args.config.as_deref()) {
        None => Settings::embedded(&overrides),
        Some(path) => crate::config::load(&path)
            .map_err(|faults| {
                output::note(&faults.to_string());
                Failure::Usage(format!("{} is not usable; nothing was started", path.display()))
            })?
            .with(&overrides),
    };
    settings.map_err(|why| Failure::Usage(why.to_string()))
}

/// Logs the warnings about a configuration.
fn warn(settings: &Settings, args: &Args) {
    for warning in warnings(settings, admin_connection::found(args.config.as_deref()).as_deref()) {
        tracing::warn!("{warning}");
    }
}

/// Fails before the start if a secret or certificate cannot be read.
fn check_secrets(settings: &Settings) -> Result<(), Failure> {
    match check::faults(settings).as_slice() {
        [] => Ok(()),
        faults => Err(Failure::Usage(format!("nothing was started:\n{}", faults.join("\n")))),
    }
}

/// Stops the daemon at the first SIGINT or SIGTERM. A second one ends the process at once.
async fn stop_when_asked(mut terminations: UnboundedReceiver<&'static str>, commands: UnboundedSender<Command>) {
    // the sender is a thread that lives as long as the process
    let signal = terminations.recv().await.unwrap_or("SIGTERM");
    tracing::info!(signal, "stopping: attempts in flight may end; a second signal stops at once");
    let _ = commands.send(Command::Stop); // a daemon that is ending needs no command
    if terminations.recv().await.is_some() {
        output::note("holdline: stopped at once; nothing accepted is lost, attempts in flight are made again");
        std::process::exit(1);
    }
}

/// Reads the configuration again at each SIGHUP, and reloads it if it has no fault.
async fn reload_when_asked(mut hangups: UnboundedReceiver<()>, args: Args, commands: UnboundedSender<Command>) {
    while hangups.recv().await.is_some() {
        if admin_connection::found(args.config.as_deref()).is_none() {
            tracing::warn!("SIGHUP: there is no configuration file to read again (--config)");
            continue;
        }
        match settings(&args) {
            Ok(settings) => {
                warn(&settings, &args);
                drop(commands.send(Command::Reload(Box::new(settings))));
            }
            Err(_) => {
                tracing::error!("the configuration was not reloaded, nothing has changed: it has the faults above")
            }
        }
    }
}
