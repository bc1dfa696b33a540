//! The comparison: bare and holdline in turn, round after round, so that a slow moment of the machine hits both.

use crate::connection::Client;
use crate::daemon::{Bare, Daemon, Does, Sink};
use crate::load::{self, Seen, Until};
use crate::report::{Report, Round, Waiting};
use crate::{disk, report};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Connections of the loaded measurements.
const MANY: usize = 128;

/// Events per second of the measurement of latency.
const STEADY: f64 = 5_000.0;

pub(crate) struct Plan {
    pub(crate) rounds: usize,
    pub(crate) length: Duration,
    /// With so many waiting intake is measured too; zero: it is not.
    pub(crate) waiting: u64,
    /// Threads of each server; none: as many as cores.
    pub(crate) workers: Option<usize>,
    pub(crate) binary: PathBuf,
}

/// A folder that goes when the run ends; in the target folder, since /tmp may lie in memory.
fn work_folder() -> Result<tempfile::TempDir> {
    let program = std::env::current_exe()?;
    let beside = program.parent().context("the benchmark lies in a folder")?;
    Ok(tempfile::Builder::new().prefix("throughput-").tempdir_in(beside)?)
}

pub(crate) async fn run(plan: &Plan) -> Result<Report> {
    let folder = work_folder()?;
    let bare = Bare::start(Does::Nothing, plan.workers).await?;
    let append = Bare::start(Does::Append(&folder.path().join("appended")), plan.workers).await?;
    let sink = Sink::start().await?;
    let proxy = Bare::start(Does::Forward(&sink.url), plan.workers).await?;
    let urls = Urls { bare: &bare.url, append: &append.url, proxy: &proxy.url, sink: &sink.url };
    let mut durability = serde_json::Value::Null;
    let mut rounds = Vec::new();
    for number in 1..=plan.rounds {
        eprintln!("round {number} of {}", plan.rounds);
        // a store of its own for each round, so that no round pays for what the ones before have left
        let held = Daemon::start(plan, &folder.path().join(format!("held-{number}")), None).await?;
        durability = held.status().await?["durability"].clone();
        warm_up([&bare.url, &append.url, &proxy.url, &held.url]).await?;
        rounds.push(one_round(plan, folder.path(), &urls, &held.url, number).await?);
    }
    let waiting = if plan.waiting > 0 { Some(with_many_waiting(plan, folder.path()).await?) } else { None };
    let durability = durability.as_str().map_or_else(|| durability.to_string(), str::to_owned);
    Ok(report::make(plan.length, disk::filesystem(folder.path())?, durability, rounds, waiting))
}

/// The servers to compare with, and where deliveries go.
struct Urls<'a> {
    bare: &'a str,
    append: &'a str,
    proxy: &'a str,
    sink: &'a str,
}

async fn warm_up(urls: [&str; 4]) -> Result<()> {
    for url in urls {
        load::post(Client::Sockets, url, MANY, Until::Elapsed(Duration::from_millis(300)), 0.0).await?;
    }
    Ok(())
}

async fn one_round(plan: &Plan, folder: &Path, urls: &Urls<'_>, held: &str, number: usize) -> Result<Round> {
    let Urls { bare, append, proxy, sink } = *urls;
    let until = Until::Elapsed(plan.length);
    disk::settle(folder)?;
    let bare_one = load::post(Client::Sockets, bare, 1, until, 0.0).await?;
    let append_before = disk::append_and_sync(folder, plan.length / 4)?;
    let held_one = load::post(Client::Sockets, held, 1, until, 0.0).await?;
    let append_after = disk::append_and_sync(folder, plan.length / 4)?;
    let bare_many = load::post(Client::Sockets, bare, MANY, until, 0.0).await?;
    let append_many = load::post(Client::Sockets, append, MANY, until, 0.0).await?;
    let held_many = load::post(Client::Sockets, held, MANY, until, 0.0).await?;
    let bare_hyper = load::post(Client::Hyper, bare, MANY, until, 0.0).await?;
    let held_hyper = load::post(Client::Hyper, held, MANY, until, 0.0).await?;
    let held_steady = load::post(Client::Sockets, held, MANY, until, STEADY).await?;
    let events = (held_many.per_second() * plan.length.as_secs_f64() / 2.0) as u64;
    disk::settle(folder)?;
    let forwarded = load::post(Client::Sockets, proxy, MANY, until, 0.0).await?;
    let delivered = end_to_end(plan, &folder.join(format!("delivered-{number}")), sink, events.max(100)).await?;
    let quantiles = |seen: &Seen| [seen.quantile_us(0.5), seen.quantile_us(0.99)];
    Ok(Round {
        append_us: (append_before + append_after).as_secs_f64() * 1e6 / 2.0,
        bare_1: bare_one.per_second(),
        holdline_1: held_one.per_second(),
        bare_128: bare_many.per_second(),
        append_128: append_many.per_second(),
        holdline_128: held_many.per_second(),
        bare_128_hyper: bare_hyper.per_second(),
        holdline_128_hyper: held_hyper.per_second(),
        ack_128_hyper_us: quantiles(&held_hyper),
        proxy_128: forwarded.per_second(),
        delivered_128: delivered,
        ack_steady_us: quantiles(&held_steady),
        ack_1_us: quantiles(&held_one),
        ack_128_us: quantiles(&held_many),
    })
}

/// Events per second from the first post to the last delivery settled, on a fresh daemon with a fast destination.
async fn end_to_end(plan: &Plan, data: &Path, sink: &str, events: u64) -> Result<f64> {
    let daemon = Daemon::start(plan, data, Some(sink)).await?;
    let begin = Instant::now();
    load::post(Client::Sockets, &daemon.url, MANY, Until::Events(events), 0.0).await?;
    daemon.until_drained().await?;
    Ok(events as f64 / begin.elapsed().as_secs_f64())
}

/// Intake with none waiting and with many, in turn; for those with none a fresh daemon each.
async fn with_many_waiting(plan: &Plan, folder: &Path) -> Result<Waiting> {
    eprintln!("{} events that wait", plan.waiting);
    let full = Daemon::start(plan, &folder.join("full"), None).await?;
    load::post(Client::Sockets, &full.url, MANY, Until::Events(plan.waiting), 0.0).await?;
    let until = Until::Elapsed(plan.length);
    let mut pairs = Vec::new();
    for number in 1..=plan.rounds {
        let empty = Daemon::start(plan, &folder.join(format!("empty-{number}")), None).await?;
        warm_up([&empty.url; 4]).await?;
        disk::settle(folder)?;
        let none = load::post(Client::Sockets, &empty.url, MANY, until, 0.0).await?;
        disk::settle(folder)?;
        let many = load::post(Client::Sockets, &full.url, MANY, until, 0.0).await?;
        pairs.push([none.per_second(), many.per_second()]);
    }
    Ok(Waiting { events: plan.waiting, none_and_many: pairs })
}
