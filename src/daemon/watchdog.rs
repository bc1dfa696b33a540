//! The service manager's watchdog: fed only while the store's thread and dispatch answer.
//!
//! *Failure.* Where one of them does not answer in time, the log says which, and nothing is fed until it does; systemd
//! then ends the process and starts it again, and nothing that was acknowledged is lost.

use crate::dispatch::Question;
use crate::store::Store;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Asked so many times within the time after which systemd loses its patience.
const ROUNDS: u32 = 4;

/// Feeds the watchdog for as long as it is polled; for ever idle where there is none.
pub(super) async fn feed(store: Store, questions: mpsc::Sender<Question>) {
    let Some(patience) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    let every = patience / ROUNDS;
    let mut rounds = tokio::time::interval(every);
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        if let Some(who) = silent(&store, &questions, every).await {
            tracing::error!(who, waited = ?every, "no answer; if it stays silent, systemd starts the daemon again");
            continue;
        }
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]); // unfed, systemd acts, which is right
    }
}

/// Who has not answered within `patience`, if anybody.
async fn silent(store: &Store, questions: &mpsc::Sender<Question>, patience: Duration) -> Option<&'static str> {
    if !matches!(tokio::time::timeout(patience, store.flush()).await, Ok(Ok(()))) {
        return Some("the store's thread");
    }
    let dispatch = async {
        let (to, answer) = oneshot::channel();
        questions.send(Question::Lines(to)).await.is_ok() && answer.await.is_ok()
    };
    (!matches!(tokio::time::timeout(patience, dispatch).await, Ok(true))).then_some("dispatch")
}
