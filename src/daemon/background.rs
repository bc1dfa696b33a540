//! Care: the tasks by which the daemon looks after itself.

use super::Part;
use crate::admin::{AccessLog, Admin};
use crate::alert;
use crate::clock::Clock;
use crate::config::Settings;
use crate::dispatch::Destinations;
use crate::intake::Counts;
use crate::intake::admission::Admission;
use crate::maintenance::{self, DlqOverflow, Trend};
use crate::store::Store;
use std::sync::Arc;

/// Starts what the daemon looks after by itself.
pub(super) fn start(
    part: &Part,
    store: &Store,
    clock: &Clock,
    settings: &Settings,
    admission: &Arc<Admission>,
    counts: &Arc<Counts>,
    destinations: &Destinations,
) -> (Arc<Trend>, Arc<DlqOverflow>) {
    let trend = Arc::new(Trend::new(settings.intake.disk_reserve_bytes));
    let beyond: Arc<DlqOverflow> = Arc::default();
    let of = || (store.clone(), clock.clone(), part.stop.clone());
    let (store, clock, stop) = of();
    part.tasks.spawn(maintenance::watch_trend(store, clock, trend.clone(), stop));
    let (store, clock, stop) = of();
    part.tasks.spawn(maintenance::watch_gaps(store, clock, admission.clone(), counts.clone(), stop));
    let (store, clock, stop) = of();
    part.tasks.spawn(maintenance::watch_admission(store, clock, settings.intake.clone(), admission.clone(), stop));
    let (store, clock, stop) = of();
    part.tasks.spawn(maintenance::watch_dlq(store, settings.dlq.clone(), clock, beyond.clone(), stop));
    let (store, clock, stop) = of();
    part.tasks.spawn(maintenance::watch_quarantine(store, settings.quarantine.clone(), clock, stop));
    let (store, clock, stop) = of();
    part.tasks.spawn(maintenance::watch_history(store, clock, stop));
    let (store, clock, stop) = of();
    part.tasks.spawn(maintenance::watch_redrives(store, clock, destinations.clone(), stop));
    (trend, beyond)
}

/// Starts what writes refused requests into the audit.
pub(super) fn note_access(part: &Part, store: &Store, clock: &Clock) -> Arc<AccessLog> {
    let access: Arc<AccessLog> = Arc::default();
    let (log, store, clock, stop) = (access.clone(), store.clone(), clock.clone(), part.stop.clone());
    part.tasks.spawn(async move { log.keep(store, clock, stop).await });
    access
}

/// Starts what tells somebody when something is wrong.
pub(super) fn raise_alerts(part: &Part, state: &Arc<Admin>, settings: &Settings) {
    let (clock, store, stop) = (state.clock.clone(), state.store.clone(), part.stop.clone());
    let state = state.clone();
    let facts = move || {
        let state = state.clone();
        async move { state.facts().await }
    };
    part.tasks.spawn(alert::watch(settings.alerts.clone(), clock, store, facts, stop));
}
