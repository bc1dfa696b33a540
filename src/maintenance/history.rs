//! What is remembered: where some of it went before its time, that is told, and stands in the audit.

use crate::clock::Clock;
use crate::store::{Change, Store};
use crate::time::Timestamp;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often it is looked, and how often at most it is told.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Tells of what was forgotten before its time, until `stop`.
pub async fn watch_history(store: Store, clock: Clock, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    let (mut told, mut told_at) = (0, None::<Timestamp>);
    while tokio::select! { () = stop.cancelled() => false, _ = ticks.tick() => true } {
        let (now, forgotten) = (clock.now(), store.remembering().forgotten_early);
        if forgotten == told || told_at.is_some_and(|at| now.since(at) < TOLD_EVERY) {
            continue;
        }
        let count = forgotten - told;
        (told, told_at) = (forgotten, Some(now));
        tracing::warn!(
            count,
            "events were forgotten before their time, since history.max_bytes or max_memory is reached: a duplicate of them is a new \
             event; raise it, or shorten dedup_window and history.retention"
        );
        let what =
            format!("history: {count} events forgotten before their time, as history.max_bytes and max_memory say");
        if store.change(Change::Note { what }, "retention".to_owned()).await.is_err() {
            return; // the store has failed, and the daemon ends
        }
    }
}
