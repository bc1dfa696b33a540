//! How fast holdline is, next to a server that stores nothing; and a load generator for the long rigs.
//!
//! `cargo bench --bench throughput -- [--short] [--seconds N] [--waiting N] [--workers N] [--json FILE]` compares. The
//! commands `load`, `sink`, `flow`, `paced` and `bare` are what the comparison and `tests/rigs` drive as processes of
//! their own.
#![allow(clippy::disallowed_methods)] // a benchmark reads the clock

mod body;
mod compare;
mod connection;
mod daemon;
mod disk;
mod flow;
mod load;
mod paced;
mod report;
mod server;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Parser)]
#[command(about = "Throughput of holdline, next to a server that stores nothing")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// About 20 seconds in all; fails on a gross regression only.
    #[arg(long)]
    short: bool,
    /// Length of one measurement.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Measurements of each kind, bare and holdline in turn.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Also measures intake with so many events waiting, next to intake with none (1000000 takes a minute and 1.5 GB).
    #[arg(long, default_value_t = 0)]
    waiting: u64,
    /// Threads on which each server serves: holdline and those it is compared with alike; default: one a core.
    #[arg(long, global = true)]
    workers: Option<usize>,
    /// Where the numbers go as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// The daemon; default: the one built with this benchmark.
    #[arg(long)]
    bin: Option<PathBuf>,
    /// Cargo passes it.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Post events; prints one line of JSON.
    #[command(hide = true)]
    Load(load::Arguments),
    /// Answer every request with 200; prints what came, every second, as JSON.
    #[command(hide = true)]
    Sink {
        #[arg(long)]
        listen: SocketAddr,
    },
    /// Post events and receive them again, keeping a fixed number waiting in between.
    #[command(hide = true)]
    Flow(flow::Arguments),
    /// Post events at a steady rate to a destination whose latency is told on the input.
    #[command(hide = true)]
    Paced(paced::Arguments),
    /// The server that stores nothing: reads the body, answers 202.
    #[command(hide = true)]
    Bare {
        #[arg(long)]
        listen: SocketAddr,
        /// Appends each body to this file, and answers after an fdatasync.
        #[arg(long)]
        append: Option<PathBuf>,
        /// Posts each body there, and answers when that has answered.
        #[arg(long, conflicts_with = "append")]
        forward: Option<http::Uri>,
    },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    match (&arguments.command, arguments.workers) {
        (Some(Command::Bare { .. }), Some(workers)) => runtime.worker_threads(workers),
        (Some(Command::Bare { .. }), None) => &mut runtime,
        _ => runtime.worker_threads(2),
    };
    let runtime = runtime.enable_all().build()?;
    let passed = runtime.block_on(async {
        match arguments.command {
            Some(Command::Load(arguments)) => load::run(arguments).await.map(|()| true),
            Some(Command::Sink { listen }) => server::sink(listen).await.map(|()| true),
            Some(Command::Flow(arguments)) => flow::run(arguments).await.map(|()| true),
            Some(Command::Paced(arguments)) => paced::run(arguments).await.map(|()| true),
            Some(Command::Bare { listen, append, forward }) => match (append, forward) {
                (Some(file), _) => server::append(listen, &file).await.map(|()| true),
                (None, Some(to)) => server::proxy(listen, to).await.map(|()| true),
                (None, None) => server::bare(listen).await.map(|()| true),
            },
            None => {
                let plan = compare::Plan {
                    rounds: if arguments.short { 3 } else { arguments.rounds },
                    length: Duration::from_secs_f64(if arguments.short { 1.0 } else { arguments.seconds }),
                    waiting: arguments.waiting,
                    workers: arguments.workers,
                    binary: arguments.bin.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_holdline"))),
                };
                let report = compare::run(&plan).await?;
                report.print();
                if let Some(path) = arguments.json {
                    std::fs::write(path, serde_json::to_string_pretty(&report)? + "\n")?;
                }
                Ok(report.passes())
            }
        }
    })?;
    std::process::exit(i32::from(!passed));
}
