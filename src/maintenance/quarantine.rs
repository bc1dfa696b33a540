//! The quarantine: what has been kept apart for longer than it may be is given up, and that stands in the audit.

use crate::clock::Clock;
use crate::config::settings::Quarantine;
use crate::store::{Change, Store};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often it is looked what is too old.
const EVERY: Duration = Duration::from_secs(10);
/// So many requests go in one commit.
const GIVEN_UP_PER_COMMIT: usize = 256;

/// Gives up what is older than `retention`, until `stop`.
pub async fn watch_quarantine(store: Store, settings: Quarantine, clock: Clock, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(EVERY);
    while tokio::select! { () = stop.cancelled() => false, _ = ticks.tick() => true } {
        let old = store.detained_before(clock.now().before(settings.retention));
        for numbers in old.chunks(GIVEN_UP_PER_COMMIT) {
            let what = "quarantine give up: older than quarantine.retention".to_owned();
            let change = Change::GiveUp { what, numbers: numbers.to_vec() };
            if store.change(change, "retention".to_owned()).await.is_err() {
                return; // the store has failed, and the daemon ends
            }
        }
        if !old.is_empty() {
            tracing::warn!(count = old.len(), "requests kept apart were too old and are given up");
        }
    }
}
