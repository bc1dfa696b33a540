//! The life of a daemon as a process: starts, tells the service manager, hears orders, stops.
//!
//! *Failure.* A store that fails ends it with an error; a panic anywhere ends it with code 70.

use super::{Daemon, watchdog};
use crate::clock::Clock;
use crate::config::Settings;
use anyhow::bail;
use sd_notify::NotifyState;
use tokio::sync::{mpsc, watch};

/// What is asked of a running daemon.
#[derive(Debug)]
pub enum Order {
    /// Go by these settings from now on.
    Reload(Box<Settings>),
    /// Stop; what is in flight may end within `store.drain_timeout`.
    Stop,
}

/// Runs a daemon until it is told to stop, or until its store fails, which is an error.
pub async fn run(settings: Settings, mut orders: mpsc::UnboundedReceiver<Order>) -> anyhow::Result<()> {
    end_with_any_panic();
    let mut daemon = Daemon::start(settings, Clock::system()).await?;
    tell(&[NotifyState::Ready, NotifyState::Status(&daemon.summary())]);
    let watchdog = tokio::spawn(watchdog::feed(daemon.store.clone(), daemon.questions.clone()));
    let mut failure = daemon.store.failure();
    let failed = loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Reload(settings)) => daemon.reload_and_tell(*settings).await,
                Some(Order::Stop) | None => break None,
            },
            why = failed(&mut failure) => break Some(why),
        }
    };
    tell(&[NotifyState::Stopping]);
    watchdog.abort();
    if let Some(why) = failed {
        bail!("the store failed ({why}); nothing was acknowledged since. Look at the disk, then start again");
    }
    tracing::info!("stopping: what is in flight may end, then intake closes");
    daemon.stop().await
}

/// Tells the service manager, if there is one.
pub(super) fn tell(what: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}

async fn failed(failure: &mut watch::Receiver<Option<String>>) -> String {
    match failure.wait_for(Option::is_some).await {
        Ok(why) => why.clone().unwrap_or_default(),
        Err(_) => "its thread has ended".to_owned(),
    }
}

/// A panic in any task ends the daemon: half a daemon is worse than none. It tells the place, never what it spoke of,
/// since that may hold a body. Opening the store is guarded by itself.
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
