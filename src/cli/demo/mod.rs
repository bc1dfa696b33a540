//! `holdline demo`: the whole job in one process, with a sender and a receiver that keep books of their own.
//!
//! *Exit code.* 0 where every sum holds at the end, else 1.

pub mod dice;
pub mod folder;
pub mod ledger;
pub mod progress;
pub mod receiver;
pub mod sender;
pub mod summary;
pub mod traffic;

use crate::api;
use crate::cli::admin_connection::Place;
use crate::cli::client::Admin;
use crate::cli::send::intake::Intake;
use crate::cli::{Failure, format, hint, logs, output, signals};
use crate::clock::Clock;
use crate::config::{Flags, Settings};
use crate::daemon::Daemon;
use crate::rules::backoff::Retry;
use dice::Dice;
use folder::Folder;
use http::HeaderMap;
use ledger::{Ledger, Tally};
use progress::Progress;
use receiver::Receiver;
use sender::Sender;
use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use summary::Summary;
use tokio::sync::mpsc::UnboundedReceiver;
use traffic::Traffic;

/// Arguments of `holdline demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many events are sent
    #[arg(long, value_name = "N", default_value = "2000", value_parser = clap::value_parser!(u64).range(10..=1_000_000))]
    events: u64,
    /// Other conversations and faults with another seed, the same with the same
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,
    /// Where the data lies; the folder stays [default: a temporary one, removed at the end]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Leave daemon and receiver running at the end, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

const SOURCE: &str = "genesys";
const DESTINATION: &str = "crm";
const TICK: Duration = Duration::from_millis(200);
/// Without any change for so long, the demo ends and tells what does not hold.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the demo.
pub fn run(args: Args) -> Result<ExitCode, Failure> {
    logs::start(logs::Format::Human, tracing::Level::ERROR).map_err(Failure::Usage)?;
    let endings = signals::endings().map_err(|e| Failure::io("cannot listen for signals", e))?;
    let folder = Folder::make(args.data.clone())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::io("cannot start the runtime", e))?;
    runtime.block_on(play(&args, folder.path(), endings))
}

async fn play(args: &Args, data: &Path, mut endings: UnboundedReceiver<&'static str>) -> Result<ExitCode, Failure> {
    let clock = Clock::system();
    let dice = Dice::new(args.seed);
    let traffic = Arc::new(Traffic::new(dice, args.events, clock.wall()));
    let ledger = Arc::new(Ledger::new(&traffic));
    let receiver = Receiver::start(dice, clock.clone(), ledger.clone(), traffic.poison.clone(), args.events)
        .await
        .map_err(|e| Failure::io("cannot start the receiver", e))?;
    let daemon = Daemon::start(settings(&receiver.url(), data)?, clock.clone()).await?;
    output::text(&introduction(&traffic, args.events))?;

    let show = Show { events: args.events, clock, admin: admin(&daemon), ledger };
    let intake = Intake::new(&format!("http://{}", daemon.intake_addr()), SOURCE, HeaderMap::new());
    let sender = Sender::new(traffic, args.events, intake, show.ledger.clone(), show.clock.clone());
    let Some(summary) = show.run(sender, &mut endings).await? else {
        daemon.stop().await?;
        return Err(Failure::Operation("interrupted before the end".into()));
    };
    output::text(&summary.text())?;
    if args.keep {
        receiver.repair();
        output::text(&invitation(&daemon, data))?;
        endings.recv().await;
    } else {
        let program = hint::program();
        output::text(&format!(
            "Next: `{program} demo --keep` to look around in it, `{program} serve --to URL` for the real thing.\n"
        ))?;
    }
    daemon.stop().await?;
    Ok(if summary.faults().is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// The embedded default, on free ports, with waits that suit somebody who looks on.
fn settings(to: &str, data: &Path) -> Result<Settings, Failure> {
    let free = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let overrides = Flags { to: Some(to.to_owned()), data: Some(data.to_owned()), intake: free, admin: free };
    let mut settings = Settings::embedded(&overrides).map_err(|why| Failure::Operation(why.to_string()))?;
    for source in &mut settings.sources {
        source.name = SOURCE.to_owned();
        source.to.clear();
    }
    for destination in &mut settings.destinations {
        destination.name = DESTINATION.to_owned();
        let (base, max) = (Duration::from_millis(100), Duration::from_secs(2));
        destination.retry = Retry { base, max, ..destination.retry.clone() };
    }
    Ok(settings)
}

fn admin(daemon: &Daemon) -> Admin {
    Admin::at(Place {
        admin: format!("http://{}", admin_addr(daemon)),
        token: Some(daemon.token().to_owned()),
        token_from: "the daemon in this process".to_owned(),
    })
}

struct Show {
    events: u64,
    clock: Clock,
    admin: Admin,
    ledger: Arc<Ledger>,
}

impl Show {
    /// Lets the sender send, and watches until everything is settled. None where a signal came first.
    async fn run(
        &self,
        sender: Sender,
        endings: &mut UnboundedReceiver<&'static str>,
    ) -> Result<Option<Summary>, Failure> {
        let started = self.clock.now();
        let sending = tokio::spawn(sender.run());
        let mut progress = Progress::new(self.events);
        let mut last = Tally::default();
        let mut changed = started;
        loop {
            let status: api::Status = self.admin.get("/v1/status").await.map_err(stopped)?;
            let tally = self.ledger.tally();
            progress.show(&tally, status.queue.depth);
            let now = self.clock.now();
            if tally != last {
                (last, changed) = (tally, now);
            }
            if (sending.is_finished() && settled(&status)) || now.since(changed) > PATIENCE {
                progress.end();
                return self.summary(status, now.since(started)).await.map(Some);
            }
            tokio::select! {
                () = self.clock.sleep_until(now.after(TICK)) => {}
                _ = endings.recv() => {
                    progress.end();
                    return Ok(None);
                }
            }
        }
    }

    async fn summary(&self, status: api::Status, took: Duration) -> Result<Summary, Failure> {
        let dead: api::Page<api::DeadLetter> = self.admin.get("/v1/dlq?limit=500").await.map_err(stopped)?;
        let dead: HashSet<String> = dead.items.iter().map(|letter| letter.id.to_string()).collect();
        let (tally, lost) = (self.ledger.tally(), self.ledger.lost(&dead));
        Ok(Summary { events: self.events, tally, lost, dead: dead.len() as u64, status, took })
    }
}

/// The daemon is in this process: there is nothing to start or to look for where it does not answer.
fn stopped(failure: Failure) -> Failure {
    match failure {
        Failure::Unreachable(_) => Failure::Operation("the demo's daemon does not answer any more".into()),
        other => other,
    }
}

/// Whether nothing waits any more and the counters have caught up.
fn settled(status: &api::Status) -> bool {
    let api::Queue { depth, in_flight, delayed, blocked, .. } = status.queue;
    let counters = &status.counters;
    depth == 0 && in_flight + delayed + blocked == 0 && counters.delivered + counters.dead_lettered >= counters.accepted
}

fn introduction(traffic: &Traffic, events: u64) -> String {
    format!(
        "{} of {} go to a daemon, some of them twice, and on to a\n\
         receiver that fails, stalls, says 429, hangs up and never takes one poison event.\n\n",
        format::counted(events, "event"),
        format::counted(traffic.conversations.len() as u64, "conversation"),
    )
}

fn invitation(daemon: &Daemon, data: &Path) -> String {
    let token = data.join("admin.token");
    let token = hint::quoted(&token.to_string_lossy());
    let (admin, intake, program) = (admin_addr(daemon), daemon.intake_addr(), hint::program());
    format!(
        "\nDaemon and receiver run on, until Ctrl-C. The receiver has been repaired: it would\n\
         now take the dead letter too.\n\n\
         Admin API                http://{admin}/\n\
         Admin token              {token}\n\
         Intake                   http://{intake}/in/{SOURCE}\n\n\
         In another terminal:\n\n  \
         export HOLDLINE_ADMIN=http://{admin}\n  \
         export HOLDLINE_ADMIN_TOKEN=$(cat {token})\n  \
         {program} status\n  \
         {program} dlq list\n  \
         {program} dlq redrive --all\n  \
         {program} events list --limit 5\n  \
         echo '{{\"hello\": 1}}' | {program} send - --intake http://{intake} --source {SOURCE}\n\n"
    )
}

fn admin_addr(daemon: &Daemon) -> SocketAddr {
    daemon.admin_addr().expect("the demo's admin API listens on TCP")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_demo_ends_when_nothing_waits_and_the_counters_agree() {
        let status = |depth: u64, delivered: u64| {
            api::filled(
                json!({"queue": {"depth": depth}, "counters": {"accepted": 10, "delivered": delivered, "dead_lettered": 1}}),
            )
        };
        assert!(settled(&status(0, 9)));
        assert!(!settled(&status(1, 9)) && !settled(&status(0, 8)));
    }
}
