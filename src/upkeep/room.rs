//! Room for more events: opens and closes intake as disk and queue allow, and as an operator's time runs out.

use crate::clock::Clock;
use crate::config::settings::Intake;
use crate::intake::admission::{self, Admission, Room};
use crate::store::{Change, Door, Store};
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
    while tokio::select! { () = stop.cancelled() => false, _ = ticks.tick() => true } {
        if admission.closed_until().is_some_and(|until| until <= clock.now()) {
            let change = Change::Door { what: "intake open: its time is over".to_owned(), door: Door::Open };
            if store.change(change, "timer".to_owned()).await.is_err() {
                return; // the store has failed, and the daemon ends
            }
            admission.let_in();
        }
        let Ok(free) = store.free() else { continue };
        let queue_bytes = store.queue_bytes();
        let room = Room { free_bytes: free.bytes, free_inodes: free.inodes, queue_bytes, disk_reserve, queue_max };
        let (was, is) = (admission.room(), admission::judge(admission.room(), room));
        if was != is {
            admission.set(is);
            tracing::warn!(from = ?was, to = ?is, free_bytes = free.bytes, queue_bytes, "intake changed its state");
        }
    }
}
