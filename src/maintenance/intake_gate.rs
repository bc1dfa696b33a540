//! Opens and closes intake: by free disk space, by the size of the queue, and at the end of the time for which an
//! operator has closed it. Each check also refills the ballast of the store.

use crate::clock::Clock;
use crate::config::settings::Intake;
use crate::intake::admission::{self, Admission, Room};
use crate::store::{Change, IntakeOverride, Space, Store};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const CHECK_EVERY: Duration = Duration::from_millis(250);

/// Opens or closes intake according to disk and queue, until `stop`.
pub async fn watch_intake(
    store: Store,
    clock: Clock,
    settings: Intake,
    admission: Arc<Admission>,
    stop: CancellationToken,
) {
    let (disk_reserve, queue_max) = (settings.disk_reserve_bytes, settings.max_queue_bytes);
    let mut ticks = tokio::time::interval(CHECK_EVERY);
    let mut sending_stopped = false;
    while tokio::select! { () = stop.cancelled() => false, _ = ticks.tick() => true } {
        if admission.closed_until().is_some_and(|until| until <= clock.now()) {
            let change = Change::IntakeOverride {
                what: "intake open: its time is over".to_owned(),
                intake_override: IntakeOverride::Open,
            };
            if store.change(change, "timer".to_owned()).await.is_err() {
                return; // the store has failed, and the daemon ends
            }
            admission.reopen();
        }
        let checked = store.clone();
        let Ok(Ok(space)) = tokio::task::spawn_blocking(move || checked.check_space()).await else { continue };
        if space.is_full != std::mem::replace(&mut sending_stopped, space.is_full) {
            log_sending(&space);
        }
        let Ok(free) = store.free() else { continue };
        let queue_bytes = store.queue_bytes();
        let growth_bytes = space.growth_bytes;
        // sled reuses the free space in its file before the file grows
        let free_bytes = if space.is_low { 0 } else { free.bytes.saturating_add(space.reclaimable_bytes) };
        let dead_bytes = store.totals().dlq_bytes;
        let free_inodes = free.inodes;
        let room = Room { free_bytes, free_inodes, queue_bytes, disk_reserve, queue_max, growth_bytes, dead_bytes };
        let (was, is) = (admission.room(), admission::judge(admission.room(), room));
        if was != is {
            admission.set(is);
            tracing::warn!(from = ?was, to = ?is, free_bytes = free.bytes, queue_bytes, growth_bytes, "intake: its state has changed");
        }
        let by_source = store.usage_by_source();
        let (full, again) = admission.update_over_share(by_source, room, settings.queue_share);
        if !full.is_empty() || !again.is_empty() {
            tracing::warn!(
                ?full,
                ?again,
                "the sources that use more of the queue or the disk than intake.queue_share have changed"
            );
        }
    }
}

fn log_sending(space: &Space) {
    let Space { free_bytes, ballast_bytes, .. } = space;
    if space.is_full {
        tracing::error!(
            free_bytes,
            ballast_bytes,
            "the disk is full: nothing new is sent, because a failure could not be recorded; free some disk, or purge dead letters"
        );
    } else {
        tracing::warn!(free_bytes, ballast_bytes, "there is room on the disk again: deliveries continue");
    }
}
