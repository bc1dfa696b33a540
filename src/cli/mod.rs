//! The command line: a file or folder for each command or group of commands, and shared modules.
//!
//! *Exit codes.* 0 success, 1 the operation failed, 2 invalid arguments or configuration, 3 the daemon is not reachable.
//!
//! # Levels: a module imports only from modules of lower levels
//! | level | module | purpose |
//! |---|---|---|
//! | 0 | [`failure`] | failures and their exit codes |
//! | 0 | [`hint`] | commands to paste, in messages |
//! | 0 | [`process`] | logs and signals of this process |
//! | 1 | [`admin_connection`] | address and token of the daemon |
//! | 1 | [`format`] | numbers, times and names as text |
//! | 2 | [`table`] | tables for a terminal |
//! | 3 | [`output`] | standard output, and notes on stderr |
//! | 4 | [`check`] | `check` |
//! | 4 | [`client`] | HTTP client of the admin API |
//! | 4 | [`manual`] | completions and manual pages |
//! | 4 | [`receive`] | `receive` |
//! | 5 | [`doctor`] | `doctor` |
//! | 5 | [`download`] | downloads of any length |
//! | 5 | [`filter`] | filters and pages of lists |
//! | 5 | [`pace`] | `pause`, `resume`, `breaker` |
//! | 5 | [`redrive`] | redrives of `dlq` |
//! | 5 | [`send`] | `send` |
//! | 5 | [`serve`] | `serve` |
//! | 5 | [`status`] | `status` |
//! | 5 | [`terminal`] | progress and confirmation |
//! | 6 | [`backup`] | `backup`, `restore`, `verify` |
//! | 6 | [`demo`] | `demo` |
//! | 6 | [`discard`] | `discard`, `erase` |
//! | 6 | [`events`] | `events` |
//! | 6 | [`records`] | `outages`, `audit`, `intake`, `quarantine`, `damaged` |
//! | 6 | [`top`] | `top` |
//! | 7 | [`dlq`] | `dlq` |
//! | 7 | [`explain`] | `explain` |

pub mod admin_connection;
pub mod backup;
pub mod check;
pub mod client;
pub mod demo;
pub mod discard;
pub mod dlq;
pub mod doctor;
pub mod download;
pub mod events;
pub mod explain;
pub mod failure;
pub mod filter;
pub mod format;
pub mod hint;
pub mod manual;
pub mod output;
pub mod pace;
pub mod process;
pub mod receive;
pub mod records;
mod redrive;
pub mod send;
pub mod serve;
pub mod status;
pub mod table;
pub mod terminal;
pub mod top;

pub use failure::Failure;

use clap::{Parser, Subcommand};
use rustix::fs::Mode;
use std::future::Future;
use std::process::ExitCode;

/// Accepts contact-centre event webhooks durably and delivers them in order, at a pace the destination can bear.
#[derive(Debug, Parser)]
#[command(name = "holdline", version, max_term_width = 80, after_help = AFTER_HELP)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
Start with `holdline demo`; it needs nothing else.

Exit codes: 0 done, 1 the operation failed, 2 wrong use or configuration, 3 the daemon is not reachable.";

/// What `holdline` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon
    ///
    /// Without a configuration (--config, HOLDLINE_CONFIG, /etc/holdline/holdline.toml): intake on 127.0.0.1:8080, admin API on 127.0.0.1:8081, data in ./holdline-data, one source
    /// `default` that detects the kind of each event, one destination `default` at --to. Flags take precedence over the file.
    Serve(serve::Args),
    /// Run a demonstration: daemon, flaky receiver and sender in one process
    ///
    /// Starts a daemon on free ports with its data in a temporary folder, a receiver that fails in many ways, and a sender
    /// that replays real Genesys events. Ends with the counts; exit code 1 if they do not agree.
    Demo(demo::Args),
    /// Validate a configuration and print every fault in it
    Check(check::Args),
    /// Show the state of the daemon: queue, destinations, dead letters, disk
    Status(status::Args),
    /// Show the same as a live view, with rates and forecasts, until Ctrl-C
    Top(top::Args),
    /// Explain the state of an event, an interaction or a destination: what blocks it, until when, who set that
    Explain(explain::Args),
    /// Check what the daemon needs of this machine and its destinations, with a remedy for each fault
    Doctor(doctor::Args),
    /// List and show events: the state of each and what blocks it
    Events(events::Args),
    /// List and show dead letters, send them again or discard them
    Dlq(dlq::Args),
    /// List quarantined requests, and readmit those that pass now
    Quarantine(records::QuarantineArgs),
    /// List damaged records: stored records that did not verify
    Damaged(records::DamagedArgs),
    /// Erase all that is stored of one interaction
    ///
    /// Queued events, dead letters, quarantined requests, and the history that recognises duplicates. An event that is in
    /// flight is not erased: the command then fails, and must be run again.
    Erase(discard::EraseArgs),
    /// Close intake for a while, or open it again
    Intake(records::IntakeArgs),
    /// Stop deliveries to a destination, for a while or until it is resumed
    Pause(pace::PauseArgs),
    /// Resume deliveries to a paused destination, with rising concurrency
    Resume(pace::ResumeArgs),
    /// Discard queued deliveries of a destination
    Discard(discard::Args),
    /// Open or close the breaker of a destination, or set it to half-open
    Breaker(pace::BreakerArgs),
    /// List when events could not be accepted, and why
    Outages(records::Args),
    /// List who changed what
    Audit(records::Args),
    /// Copy all data of a running daemon, consistently
    Backup(backup::BackupArgs),
    /// Make a data folder from a backup, and check it
    Restore(backup::RestoreArgs),
    /// Check every record of a data folder on which no daemon runs
    Verify(backup::VerifyArgs),
    /// Post event bodies to the intake as a sender would
    ///
    /// Sends one after the other, so that their order is kept. A file holds one body; or one per line, if it is named .ndjson
    /// or .jsonl, or if it is not one JSON value but each of its lines is. A busy intake is tried again. Requests carry the
    /// credentials that the source requires, made with the first of its secrets in the configuration.
    Send(send::Args),
    /// Receive requests and print them: a destination to try the daemon with
    ///
    /// Answers 200; with --fail, a share of the requests gets another status. Without a configuration, the daemon delivers
    /// here with `holdline serve --to http://127.0.0.1:9000/`.
    Receive(receive::Args),
    /// Print the completions of a shell
    ///
    /// Packages contain them. By hand, for example: holdline completions bash > /etc/bash_completion.d/holdline
    Completions(manual::Completions),
    /// Write the manual pages into a directory, as packaging does
    #[command(hide = true)]
    Man(manual::Man),
}

/// Parses the arguments of this process and runs the command.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // the exit code reports the failure even if nothing can be printed
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    restrict_modes(&cli.command);
    match dispatch(cli.command) {
        Ok(code) => code,
        Err(failure) => report(&failure),
    }
}

/// Prints a failure to stderr; returns its exit code.
fn report(failure: &Failure) -> ExitCode {
    if let Failure::Operation(text) | Failure::Usage(text) | Failure::Unreachable(text) = failure {
        output::note(&format!("holdline: {text}"));
    }
    ExitCode::from(failure.code())
}

/// Makes files and folders accessible to the user only (0600, 0700) under any umask of the caller; manual pages stay
/// readable for all.
fn restrict_modes(command: &Command) {
    let forbidden = if matches!(command, Command::Man(_)) { Mode::WGRP | Mode::WOTH } else { Mode::RWXG | Mode::RWXO };
    rustix::process::umask(forbidden);
}

fn dispatch(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Serve(args) => serve::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Check(args) => check::run(&args),
        Command::Status(args) => client(status::run(args)),
        Command::Backup(args) => client(backup::backup(args)),
        Command::Restore(args) => backup::restore(&args).map(|()| ExitCode::SUCCESS),
        Command::Verify(args) => backup::verify(&args).map(|()| ExitCode::SUCCESS),
        Command::Top(args) => client(top::run(args)),
        Command::Explain(args) => client(explain::run(args)),
        Command::Doctor(args) => client(doctor::run(args)),
        Command::Erase(args) => client(discard::erase(args)),
        Command::Intake(args) => client(records::intake(args)),
        Command::Discard(args) => client(discard::discard(args)),
        Command::Pause(args) => client(pace::pause(args)),
        Command::Resume(args) => client(pace::resume(args)),
        Command::Breaker(args) => client(pace::breaker(args)),
        Command::Outages(args) => client(records::outages(args)),
        Command::Audit(args) => client(records::audit(args)),
        Command::Events(args) => client(events::run(args)),
        Command::Dlq(args) => client(dlq::run(args)),
        Command::Quarantine(args) => client(records::quarantine(args)),
        Command::Damaged(args) => client(records::damaged(args)),
        Command::Send(args) => client(send::run(args)),
        Command::Receive(args) => client(receive::run(args)),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
    }
}

/// Runs a command that talks to a daemon, on this thread.
fn client(command: impl Future<Output = Result<(), Failure>>) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::Operation(format!("cannot start the runtime: {e}")))?;
    runtime.block_on(command).map(|()| ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn valid_command_lines_are_accepted() {
        for line in [
            "holdline serve",
            "holdline serve --to http://127.0.0.1:9000/ --data /tmp/d --intake 127.0.0.1:1 --admin [::1]:2 --log json",
            "holdline demo --events 50 --seed 3 --keep",
            "holdline check --config holdline.toml",
            "holdline check",
            "holdline status --json --admin http://127.0.0.1:1",
            "holdline events list --state dead --destination crm --limit 5 --all",
            "holdline events show genesys:abc --json",
            "holdline events retry 0190 --destination crm --dry-run",
            "holdline events discard genesys:abc --reason why --yes",
            "holdline events list --since 1h --until 2026-03-19T22:04:48Z",
            "holdline verify --data /tmp/d --json",
            "holdline restore /tmp/b --data /tmp/d --json",
            "holdline explain 0190",
            "holdline explain --interaction k",
            "holdline explain --destination crm --json",
            "holdline top --every 1 --count 2",
            "holdline doctor --config h.toml",
            "holdline intake close --reason why --for 30m",
            "holdline intake open",
            "holdline pause crm --reason migration --for 30m",
            "holdline resume crm",
            "holdline discard crm a b --reason settled",
            "holdline discard crm --all --reason gone --yes",
            "holdline breaker crm half-open",
            "holdline backup /tmp/b",
            "holdline restore /tmp/b --data /tmp/d",
            "holdline verify --data /tmp/d",
            "holdline verify --data /tmp/d --salvage /tmp/e",
            "holdline outages --limit 5",
            "holdline audit --all --json",
            "holdline dlq export --reason permanent --to dead.ndjson",
            "holdline dlq --json list --reason permanent --since 2h",
            "holdline dlq show 0190 --body",
            "holdline dlq redrive a b --destination crm --dry-run",
            "holdline dlq redrive --all",
            "holdline dlq redrive --destination crm --rate 50/s --canary --detach",
            "holdline dlq redrives",
            "holdline dlq redrive --cancel crm",
            "holdline dlq purge --type v2.* --yes",
            "holdline damaged list --limit 5 --json",
            "holdline quarantine list --limit 5",
            "holdline quarantine readmit --source genesys --dry-run",
            "holdline erase --interaction k --reason why --yes",
            "holdline erase --interaction k --dry-run --json",
            "holdline completions zsh",
            "holdline man /tmp",
            "holdline receive",
            "holdline receive 9001 --fail 0.1 --delay 200ms --status 500 --count 3 --body --json",
            "holdline receive 0.0.0.0:9000 --verify env:SECRET",
            "holdline send a.json - --source genesys --intake http://127.0.0.1:1",
        ] {
            assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
        }
    }

    #[test]
    fn every_reason_is_accepted() {
        for word in crate::delivery::Reason::ALL.map(crate::delivery::Reason::word) {
            for command in ["list", "redrive", "purge", "export"] {
                let line = format!("holdline dlq {command} --reason {word}");
                assert!(parse(&line).is_ok(), "{line}");
            }
        }
    }

    #[test]
    fn no_help_is_wider_than_80_columns() {
        fn look(mut command: clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            for text in [command.render_help().to_string(), command.render_long_help().to_string()] {
                for line in text.lines() {
                    assert!(line.chars().count() <= 80, "{path}: {line}");
                }
            }
            for sub in command.get_subcommands() {
                look(sub.clone(), &path);
            }
        }
        let mut whole = Cli::command().term_width(80);
        whole.build();
        look(whole, "");
    }

    #[test]
    fn invalid_command_lines_are_refused() {
        for line in [
            "holdline",
            "holdline serve --intake nowhere",
            "holdline completions cmd",
            "holdline events list --state lost",
            "holdline events list --limit 0",
            "holdline dlq list --reason because",
            "holdline events list --since yesterday",
            "holdline dlq list --since yesterday",
            "holdline dlq redrive",
            "holdline dlq redrive --all --type x",
            "holdline dlq redrive a --type x",
            "holdline dlq purge --all b",
            "holdline discard crm --all",
            "holdline discard crm --reason why",
            "holdline send",
            "holdline explain",
            "holdline explain a --destination crm",
            "holdline top --every 0",
            "holdline intake",
            "holdline events retry",
            "holdline verify --data /tmp/d --repair --salvage /tmp/e",
            "holdline demo --events 3",
            "holdline erase",
            "holdline receive nowhere",
            "holdline receive --fail 2",
            "holdline receive --status 99",
            "holdline receive --count 0",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
