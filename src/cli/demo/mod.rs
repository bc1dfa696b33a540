//! `holdline demo`: a daemon, a sender and a receiver in one process; sender and receiver keep their own counts.
//!
//! *Exit code.* 0 if all counts agree at the end, else 1.

pub mod endpoints;
pub mod summary;
pub mod tracker;
pub mod traffic;

use crate::api;
use crate::cli::admin_connection::DaemonAddress;
use crate::cli::client::Admin;
use crate::cli::send::client::Intake;
use crate::cli::{Failure, format, hint, output, process};
use crate::clock::Clock;
use crate::config::{Flags, Settings};
use crate::daemon::Daemon;
use crate::rules::backoff::Retry;
use endpoints::{Receiver, Sender};
use http::HeaderMap;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::HashSet;
use std::fs::DirBuilder;
use std::io::IsTerminal;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use summary::Summary;
use tokio::sync::mpsc::UnboundedReceiver;
use tracker::{Totals, Tracker};
use traffic::{Random, Traffic};

/// Arguments of `holdline demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many events are sent
    #[arg(long, value_name = "N", default_value = "2000", value_parser = clap::value_parser!(u64).range(10..=1_000_000))]
    events: u64,
    /// Seed of the random numbers: the same seed makes the same conversations and faults
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,
    /// Data folder; it is kept [default: a temporary one, removed at the end]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Leave daemon and receiver running at the end, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

const SOURCE: &str = "genesys";
const DESTINATION: &str = "crm";
const TICK: Duration = Duration::from_millis(200);
/// The demo ends with a failure after this long without any change.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

pub fn run(args: Args) -> Result<ExitCode, Failure> {
    process::start_logging(process::LogFormat::Human, tracing::Level::ERROR).map_err(Failure::Usage)?;
    let terminations = process::terminations().map_err(|e| Failure::io("cannot listen for signals", e))?;
    let folder = Folder::make(args.data.clone())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::io("cannot start the runtime", e))?;
    runtime.block_on(play(&args, folder.path(), terminations))
}

async fn play(
    args: &Args,
    data: &Path,
    mut terminations: UnboundedReceiver<&'static str>,
) -> Result<ExitCode, Failure> {
    let clock = Clock::system();
    let random = Random::new(args.seed);
    let traffic = Arc::new(Traffic::new(random, args.events, clock.wall()));
    let tracker = Arc::new(Tracker::new(&traffic));
    let receiver = Receiver::start(random, clock.clone(), tracker.clone(), traffic.poison.clone(), args.events)
        .await
        .map_err(|e| Failure::io("cannot start the receiver", e))?;
    let daemon = Daemon::start(settings(&receiver.url(), data)?, clock.clone()).await?;
    output::text(&introduction(&traffic, args.events))?;

    let show = Show { events: args.events, clock, admin: admin(&daemon), tracker };
    let intake = Intake::new(&format!("http://{}", daemon.intake_addr()), SOURCE, HeaderMap::new());
    let sender = Sender::new(traffic, args.events, intake, show.tracker.clone(), show.clock.clone());
    let Some(summary) = show.run(sender, &mut terminations).await? else {
        daemon.stop().await?;
        return Err(Failure::Operation("interrupted before the end".into()));
    };
    output::text(&summary.text())?;
    if args.keep {
        receiver.repair();
        output::text(&invitation(&daemon, data))?;
        terminations.recv().await;
    } else {
        let program = hint::program();
        output::text(&format!(
            "Next: `{program} demo --keep` to look around in it, `{program} serve --to URL` for the real thing.\n"
        ))?;
    }
    daemon.stop().await?;
    Ok(if summary.faults().is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// The embedded default configuration on free ports, with short retry delays.
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
    Admin::at(DaemonAddress {
        admin: format!("http://{}", admin_addr(daemon)),
        token: Some(daemon.token().to_owned()),
        token_from: "the daemon in this process".to_owned(),
    })
}

struct Show {
    events: u64,
    clock: Clock,
    admin: Admin,
    tracker: Arc<Tracker>,
}

impl Show {
    /// Sends everything and waits until all deliveries have ended. None if a signal stopped it.
    async fn run(
        &self,
        sender: Sender,
        terminations: &mut UnboundedReceiver<&'static str>,
    ) -> Result<Option<Summary>, Failure> {
        let started = self.clock.now();
        let sending = tokio::spawn(sender.run());
        let mut progress = Progress::new(self.events);
        let mut last = Totals::default();
        let mut changed = started;
        loop {
            let status: api::Status = self.admin.get("/v1/status").await.map_err(stopped)?;
            let totals = self.tracker.totals();
            progress.show(&totals, status.queue.depth);
            let now = self.clock.now();
            if totals != last {
                (last, changed) = (totals, now);
            }
            if (sending.is_finished() && settled(&status)) || now.since(changed) > STALL_TIMEOUT {
                progress.end();
                return self.summary(status, now.since(started)).await.map(Some);
            }
            tokio::select! {
                () = self.clock.sleep_until(now.after(TICK)) => {}
                _ = terminations.recv() => {
                    progress.end();
                    return Ok(None);
                }
            }
        }
    }

    async fn summary(&self, status: api::Status, took: Duration) -> Result<Summary, Failure> {
        let dead: api::Page<api::DeadLetter> = self.admin.get("/v1/dlq?limit=500").await.map_err(stopped)?;
        let dead: HashSet<String> = dead.items.iter().map(|dead_letter| dead_letter.id.to_string()).collect();
        let (totals, lost) = (self.tracker.totals(), self.tracker.lost(&dead));
        Ok(Summary { events: self.events, totals, lost, dead: dead.len() as u64, status, took })
    }
}

/// Replaces hints how to start or find a daemon: here it runs in this process.
fn stopped(failure: Failure) -> Failure {
    match failure {
        Failure::Unreachable(_) => Failure::Operation("the demo's daemon does not answer any more".into()),
        other => other,
    }
}

/// Whether no delivery waits and the counters are up to date.
fn settled(status: &api::Status) -> bool {
    let api::Queue { depth, in_flight, delayed, blocked, .. } = status.queue;
    let counters = &status.counters;
    depth == 0 && in_flight + delayed + blocked == 0 && counters.delivered + counters.dead_lettered >= counters.accepted
}

fn introduction(traffic: &Traffic, events: u64) -> String {
    format!(
        "{} of {} go to a daemon, some of them twice, and on to a\n\
         receiver that fails, stalls, answers 429, hangs up and never accepts one poison event.\n\n",
        format::counted(events, "event"),
        format::counted(traffic.conversations.len() as u64, "conversation"),
    )
}

fn invitation(daemon: &Daemon, data: &Path) -> String {
    let token = data.join("admin.token");
    let token = hint::quoted(&token.to_string_lossy());
    let (admin, intake, program) = (admin_addr(daemon), daemon.intake_addr(), hint::program());
    format!(
        "\nDaemon and receiver run until Ctrl-C. The receiver has been repaired: it would\n\
         now accept the dead letter too.\n\n\
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

/// The data folder of one run.
#[derive(Debug)]
pub enum Folder {
    /// Stays after the run.
    Given(PathBuf),
    /// Is removed on drop.
    Temporary(PathBuf),
}

impl Folder {
    /// The folder `given`, which must be empty because the demo counts from zero; else a new temporary one.
    pub fn make(given: Option<PathBuf>) -> Result<Self, Failure> {
        let Some(path) = given else { return Self::temporary() };
        let occupied = std::fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_some());
        if occupied {
            let path = path.display();
            return Err(Failure::Usage(format!("{path} is not empty; the demo counts from zero: name a new folder")));
        }
        Ok(Self::Given(path))
    }

    fn temporary() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("holdline-demo-{}", std::process::id()));
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|e| Failure::io(format!("cannot make {} (name a folder with --data)", path.display()), e))?;
        Ok(Self::Temporary(path))
    }

    pub fn path(&self) -> &Path {
        match self {
            Self::Given(path) | Self::Temporary(path) => path,
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Self::Temporary(path) = self {
            // on an error the folder stays in the system's temporary folder
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

/// Ticks between two lines without a terminal.
const TICKS_PER_LINE: u32 = 5;

/// The live view of one run.
pub struct Progress(View);

enum View {
    Bars { all: MultiProgress, accepted: ProgressBar, delivered: ProgressBar, trouble: ProgressBar },
    Lines { events: u64, ticks: u32 },
}

impl Progress {
    pub fn new(events: u64) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(View::Lines { events, ticks: 0 });
        }
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let bar = |name: &'static str, colour: &str| {
            let template = format!("{{prefix:>10}} {{bar:40.{colour}/black.bright}} {{human_pos}}/{{human_len}}");
            let style = ProgressStyle::with_template(&template).expect("the template is a constant");
            let bar = ProgressBar::new(events).with_style(style.progress_chars("━━─")).with_prefix(name);
            all.add(bar)
        };
        let accepted = bar("accepted", "cyan");
        let delivered = bar("delivered", "green");
        let style = ProgressStyle::with_template("{prefix:>10} {msg}").expect("the template is a constant");
        let trouble = all.add(ProgressBar::new_spinner().with_style(style).with_prefix("also"));
        Self(View::Bars { all, accepted, delivered, trouble })
    }

    /// Shows the counts; called five times a second. `waiting` is the daemon's queue depth.
    pub fn show(&mut self, totals: &Totals, waiting: u64) {
        let trouble = format!(
            "{} waiting, {} retried, {} duplicates dropped, {} in the DLQ",
            format::count(waiting),
            format::count(totals.retried),
            format::count(totals.duplicates),
            format::count(totals.refused)
        );
        match &mut self.0 {
            View::Bars { accepted, delivered, trouble: line, .. } => {
                accepted.set_position(totals.accepted);
                delivered.set_position(totals.delivered);
                line.set_message(trouble);
            }
            View::Lines { events, ticks } => {
                if ticks.is_multiple_of(TICKS_PER_LINE) {
                    let [accepted, events, delivered] = [totals.accepted, *events, totals.delivered].map(format::count);
                    output::note(&format!("{accepted} of {events} accepted, {delivered} delivered, {trouble}"));
                }
                *ticks += 1;
            }
        }
    }

    /// Removes the bars before the summary is printed.
    pub fn end(self) {
        if let View::Bars { all, .. } = self.0 {
            // a closed terminal has nothing to clear
            let _ = all.clear();
        }
    }
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

    #[test]
    fn a_temporary_folder_is_removed_and_a_given_one_is_kept() {
        let temporary = Folder::make(None).unwrap();
        let path = temporary.path().to_owned();
        std::fs::write(path.join("file"), "x").unwrap();
        drop(temporary);
        assert!(!path.exists());

        let outer = tempfile::tempdir().unwrap();
        drop(Folder::make(Some(outer.path().to_owned())).unwrap());
        assert!(outer.path().exists());
        std::fs::write(outer.path().join("file"), "x").unwrap();
        assert_eq!(Folder::make(Some(outer.path().to_owned())).unwrap_err().code(), 2);
    }
}
