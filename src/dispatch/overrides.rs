//! What is decided about calling a destination: pauses by an operator, and the position of its breaker; and what its ramp
//! and its rate go by after a restart.
//!
//! *Invariants.* The scheduler, the shutters and the store hear the same; what the breaker does by itself is recorded as
//! soon as it does it, so that a restart finds it as it was.

use super::Destination;
use crate::rules::breaker::{State, Turn};
use crate::scheduler::{Scheduler, Start};
use crate::store::{BreakerOverride, Pause, Position, Store, Transition};
use crate::time::Timestamp;

/// An operator pauses a destination, or resumes it.
pub fn pause(scheduler: &mut Scheduler, destination: &Destination, pause: Option<&Pause>, now: Timestamp) {
    destination.shutters.pause(pause.map_or(Timestamp::ZERO, |pause| pause.until));
    match pause {
        Some(pause) => scheduler.pause(destination.id, pause.until),
        None => scheduler.resume(destination.id, now),
    }
}

/// The breaker takes the position that an operator wants; without one it is closed and left to itself.
pub fn fix(scheduler: &mut Scheduler, destination: &Destination, fixed: Option<&BreakerOverride>, now: Timestamp) {
    let (state, closed_until) = match fixed {
        Some(BreakerOverride { position: Position::Open, until, .. }) => {
            (State::Open { until: *until }, Timestamp::ZERO)
        }
        Some(BreakerOverride { position: Position::Closed, until, .. }) => (State::Closed, *until),
        None => (State::Closed, Timestamp::ZERO),
    };
    destination.shutters.open(if let State::Open { until } = state { until } else { Timestamp::ZERO });
    let since = fixed.map_or(now, |fixed| fixed.since.min(now));
    scheduler.set_breaker(destination.id, state, closed_until, since, now);
}

/// The calls have turned the breaker. Returns what is to be recorded.
pub fn turned(destination: &Destination, turn: Turn, now: Timestamp) -> Transition {
    let name = &destination.name;
    let fixed = match turn {
        Turn::Opened { until, cause } => {
            tracing::warn!(destination = name, %cause, %until, "the breaker opens; deliveries wait, and no attempt counts");
            destination.shutters.open(until);
            let reason = cause.to_string();
            Some(BreakerOverride { position: Position::Open, who: None, reason, since: now, until })
        }
        Turn::Closed => {
            tracing::info!(destination = name, "the breaker closes; deliveries return little by little");
            destination.shutters.open(Timestamp::ZERO);
            None
        }
    };
    Transition::Breaker { destination: destination.id, fixed, at: now }
}

/// As it was before the start. What the calls had decided lasts no longer than it can; what an operator wanted stays.
pub fn restore(scheduler: &mut Scheduler, destination: &Destination, store: &Store, now: Timestamp) {
    let (d, stance, paced) = (destination.id, store.stance(destination.id), store.paced(destination.id));
    if let Some(paused) = &stance.pause {
        pause(scheduler, destination, Some(paused), now);
    }
    if let Some(mut fixed) = stance.breaker {
        if fixed.who.is_none() {
            fixed.until = fixed.until.min(now.after(destination.policy.pace.breaker.open_duration));
        }
        fix(scheduler, destination, Some(&fixed), now);
    }
    if paced.let_in_at > Timestamp::ZERO {
        scheduler.let_in_before(d, paced.let_in_at.min(now));
    }
    let known = paced.sent_at > Timestamp::ZERO && paced.sent_at <= now;
    if known {
        scheduler.sent_before(d, paced.sent_at);
    } else if store.totals().tally_of(d).accepted > 0 {
        // nothing says when, but it was before now
        scheduler.sent_before(d, now);
        if destination.policy.pace.notes_starts() {
            // else every restart would begin the wait anew
            store.record(Transition::Sent { destination: d, at: now });
        }
    }
    notes_starts(destination, store);
}

/// Notes of starts that are not kept up would be believed at a later start.
pub fn notes_starts(destination: &Destination, store: &Store) {
    if !destination.policy.pace.notes_starts() && store.paced(destination.id).sent_at > Timestamp::ZERO {
        store.record(Transition::Sent { destination: destination.id, at: Timestamp::ZERO });
    }
}

/// Notes that an attempt starts; false where the store has failed, and then nothing may be sent.
pub async fn note(store: &Store, start: &Start) -> bool {
    store.record(Transition::Sent { destination: start.destination, at: start.at });
    store.flush().await.is_ok()
}
