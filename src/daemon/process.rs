//! Runs the daemon as a process: notifies the service manager, executes commands, feeds the watchdog.
//!
//! *Failure.* A store that fails ends the process with an error; a panic in any task ends it with code 70. If the
//! store's thread or dispatch does not answer in time, this is logged, and the watchdog is not fed until it does;
//! systemd then kills and restarts the process, and no acknowledged event is lost.

use super::Daemon;
use crate::clock::Clock;
use crate::config::Settings;
use crate::dispatch::Question;
use crate::store::Store;
use anyhow::bail;
use sd_notify::NotifyState;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// A command to a running daemon.
#[derive(Debug)]
pub enum Command {
    /// Apply these settings.
    Reload(Box<Settings>),
    /// Stop; attempts in flight may end within `store.drain_timeout`.
    Stop,
}

/// Runs a daemon until [`Command::Stop`], or until its store fails, which is an error.
pub async fn run(settings: Settings, mut commands: mpsc::UnboundedReceiver<Command>) -> anyhow::Result<()> {
    end_with_any_panic();
    let mut daemon = Daemon::start(settings, Clock::system()).await?;
    notify(&[NotifyState::Ready, NotifyState::Status(&daemon.summary())]);
    let watchdog = tokio::spawn(feed_watchdog(daemon.store.clone(), daemon.questions.clone()));
    let mut failure = daemon.store.failure();
    let failed = loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Reload(settings)) => daemon.reload_and_notify(*settings).await,
                Some(Command::Stop) | None => break None,
            },
            why = failed(&mut failure) => break Some(why),
        }
    };
    notify(&[NotifyState::Stopping]);
    watchdog.abort();
    if let Some(why) = failed {
        bail!("the store failed ({why}); no event was acknowledged since. Check the disk, then start again");
    }
    tracing::info!("stopping: attempts in flight may end, then intake closes");
    daemon.stop().await
}

/// Notifies the service manager, if there is one.
pub(super) fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager cannot be notified");
    }
}

async fn failed(failure: &mut watch::Receiver<Option<String>>) -> String {
    match failure.wait_for(Option::is_some).await {
        Ok(why) => why.clone().unwrap_or_default(),
        Err(_) => "its thread has ended".to_owned(),
    }
}

/// A panic in any task ends the daemon, because the other tasks would continue without that task. The log contains the
/// location of the panic, never its message, which may contain a body. A panic while the store is opened is handled
/// there.
fn end_with_any_panic() {
    std::panic::set_hook(Box::new(|panic| {
        if std::thread::current().name() == Some("store-open") {
            return;
        }
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "internal error; the daemon ends, and nothing acknowledged is lost");
        std::process::exit(70); // EX_SOFTWARE of sysexits.h
    }));
}

/// Number of checks within the watchdog's timeout.
const WATCHDOG_CHECKS: u32 = 4;

/// Feeds the service manager's watchdog while the store's thread and dispatch answer; never returns.
async fn feed_watchdog(store: Store, questions: mpsc::Sender<Question>) {
    let Some(timeout) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    let every = timeout / WATCHDOG_CHECKS;
    let mut rounds = tokio::time::interval(every);
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        if let Some(who) = unresponsive(&store, &questions, every).await {
            tracing::error!(who, waited = ?every, "no answer; unless it answers soon, systemd starts the daemon again");
            continue;
        }
        let _ = sd_notify::notify(&[NotifyState::Watchdog]); // if it fails, systemd restarts the process, as intended
    }
}

/// The part that has not answered within `timeout`, if any.
async fn unresponsive(store: &Store, questions: &mpsc::Sender<Question>, timeout: Duration) -> Option<&'static str> {
    if !matches!(tokio::time::timeout(timeout, store.flush()).await, Ok(Ok(()))) {
        return Some("the store's thread");
    }
    let dispatch = async {
        let (to, answer) = oneshot::channel();
        questions.send(Question::Destinations(to)).await.is_ok() && answer.await.is_ok()
    };
    (!matches!(tokio::time::timeout(timeout, dispatch).await, Ok(true))).then_some("dispatch")
}
