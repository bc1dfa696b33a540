//! Room for more events: opens and closes intake as disk and queue allow, and as an operator's time runs out; and keeps the
//! ballast of the store.

use crate::clock::Clock;
use crate::config::settings::Intake;
use crate::intake::admission::{self, Admission, Room};
use crate::store::{Change, IntakeOverride, Space, Store};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often it is looked whether there is room for more events.
const ADMISSION_EVERY: Duration = Duration::from_millis(250);

/// Looks at disk and queue again and again, and opens or closes intake, until `stop`.
pub async fn watch_admission(
    store: Store,
    clock: Clock,
    settings: Intake,
    admission: Arc<Admission>,
    stop: CancellationToken,
) {
    let (disk_reserve, queue_max) = (settings.disk_reserve_bytes, settings.max_queue_bytes);
    let mut ticks = tokio::time::interval(ADMISSION_EVERY);
    let mut was_full = false;
    while tokio::select! { () = stop.cancelled() => false, _ = ticks.tick() => true } {
        if admission.closed_until().is_some_and(|until| until <= clock.now()) {
            let change =
                Change::IntakeOverride { what: "intake open: its time is over".to_owned(), door: IntakeOverride::Open };
            if store.change(change, "timer".to_owned()).await.is_err() {
                return; // the store has failed, and the daemon ends
            }
            admission.let_in();
        }
        let looking = store.clone();
        let Ok(Ok(space)) = tokio::task::spawn_blocking(move || looking.look_at_room()).await else { continue };
        if space.is_full != std::mem::replace(&mut was_full, space.is_full) {
            tell_of_dispatch(&space);
        }
        let Ok(free) = store.free() else { continue };
        let queue_bytes = store.queue_bytes();
        // what waits may grow when it fails, and finds its room then
        let growth_bytes = space.growth_bytes;
        // sled's file fills what it has before it grows
        let free_bytes = if space.is_low { 0 } else { free.bytes.saturating_add(space.reclaimable_bytes) };
        let dead_bytes = store.totals().dlq_bytes;
        let free_inodes = free.inodes;
        let room = Room { free_bytes, free_inodes, queue_bytes, disk_reserve, queue_max, growth_bytes, dead_bytes };
        let (was, is) = (admission.room(), admission::judge(admission.room(), room));
        if was != is {
            admission.set(is);
            tracing::warn!(from = ?was, to = ?is, free_bytes = free.bytes, queue_bytes, growth_bytes, "intake changed its state");
        }
        let held = store.held_by_source();
        let (full, again) = admission.look_for_crowding(held, room, settings.queue_share);
        if !full.is_empty() || !again.is_empty() {
            tracing::warn!(
                ?full,
                ?again,
                "sources hold more of the queue, or of the disk, than intake.queue_share, or no longer"
            );
        }
    }
}

fn tell_of_dispatch(space: &Space) {
    let Space { free_bytes, ballast_bytes, .. } = space;
    if space.is_full {
        tracing::error!(
            free_bytes,
            ballast_bytes,
            "the disk is full: nothing new is sent, since what fails could not be written; free some disk, or purge dead letters"
        );
    } else {
        tracing::warn!(free_bytes, ballast_bytes, "there is room on the disk again: deliveries go on");
    }
}
