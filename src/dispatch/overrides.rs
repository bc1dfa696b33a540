//! Pauses, breaker overrides and the state of flow control of a destination: applied, recorded and restored.
//!
//! *Invariants.* The scheduler, the send gate and the store get the same state. A change of the breaker's state is recorded
//! when it happens, so a restart restores it.

use super::Destination;
use crate::rules::breaker::{Change, State};
use crate::scheduler::{FlowControl, Start};
use crate::store::{BreakerOverride, Pause, Position, Store, Transition};
use crate::time::Timestamp;

/// An operator pauses a destination, or resumes it.
pub fn pause(flow: &mut FlowControl, destination: &Destination, pause: Option<&Pause>, now: Timestamp) {
    destination.send_gate.pause(pause.map(|pause| pause.until));
    match pause {
        Some(pause) => flow.pause(pause.until),
        None => flow.resume(now),
    }
}

/// Sets the breaker by operator command; without an override it is closed and works automatically.
pub fn set_breaker(flow: &mut FlowControl, destination: &Destination, fixed: Option<&BreakerOverride>, now: Timestamp) {
    let (open_until, closed_until) = match fixed {
        Some(BreakerOverride { position: Position::Open, until, .. }) => (Some(*until), None),
        Some(BreakerOverride { position: Position::Closed, until, .. }) => (None, Some(*until)),
        None => (None, None),
    };
    destination.send_gate.breaker_open(open_until);
    let state = open_until.map_or(State::Closed, |until| State::Open { until });
    let since = fixed.map_or(now, |fixed| fixed.since.min(now));
    flow.set_breaker(state, closed_until, since, now);
}

/// The result of a call changed the breaker's state. Returns what is to be recorded.
pub fn breaker_changed(destination: &Destination, change: Change, now: Timestamp) -> Transition {
    let name = &destination.name;
    let fixed = match change {
        Change::Opened { until, cause } => {
            tracing::warn!(destination = name, %cause, %until, "the breaker opens; deliveries wait, and no attempt counts");
            destination.send_gate.breaker_open(Some(until));
            let reason = cause.to_string();
            Some(BreakerOverride { position: Position::Open, who: None, reason, since: now, until })
        }
        Change::Closed => {
            tracing::info!(destination = name, "the breaker closes; deliveries return little by little");
            destination.send_gate.breaker_open(None);
            None
        }
    };
    Transition::Breaker { destination: destination.id, fixed, at: now }
}

/// Restores flow control as it was before the start. A breaker opened by calls stays open for at most `open_duration`;
/// one set by an operator is unchanged.
pub fn restore(flow: &mut FlowControl, destination: &Destination, store: &Store, now: Timestamp) {
    let (d, overrides, paced) = (destination.id, store.overrides(destination.id), store.paced(destination.id));
    if let Some(paused) = &overrides.pause {
        pause(flow, destination, Some(paused), now);
    }
    if let Some(mut fixed) = overrides.breaker {
        if fixed.who.is_none() {
            fixed.until = fixed.until.min(now.after(destination.policy.limits.breaker.open_duration));
        }
        set_breaker(flow, destination, Some(&fixed), now);
    }
    if paced.released_at > Timestamp::ZERO {
        flow.ramp_up_from(paced.released_at.min(now));
    }
    if paced.sent_at > Timestamp::ZERO && paced.sent_at <= now {
        flow.sent(paced.sent_at);
    } else if store.totals().counters_of(d).accepted > 0 {
        // the time of the last request is not known, but it was before now
        flow.sent(now);
        if destination.policy.limits.records_starts() {
            // otherwise every restart would restart the wait
            store.record(Transition::AttemptStarted { destination: d, at: now });
        }
    }
    clear_start_record(destination, store);
}

/// Deletes the recorded start of the last attempt if starts are no longer recorded: a later process would use it.
pub fn clear_start_record(destination: &Destination, store: &Store) {
    if !destination.policy.limits.records_starts() && store.paced(destination.id).sent_at > Timestamp::ZERO {
        store.record(Transition::AttemptStarted { destination: destination.id, at: Timestamp::ZERO });
    }
}

/// Records that an attempt starts; false if the store has failed, and then nothing may be sent.
pub async fn record_start(store: &Store, start: &Start) -> bool {
    store.record(Transition::AttemptStarted { destination: start.destination, at: start.at });
    store.flush().await.is_ok()
}
