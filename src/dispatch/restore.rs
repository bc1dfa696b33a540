//! What dispatch knew before the start, put back into the scheduler: what is delayed and dead, and what was decided about
//! each destination.

use super::Destination;
use super::stance;
use crate::event::DestinationId;
use crate::scheduler::Scheduler;
use crate::store::{Store, StoreError, Transition};
use crate::time::Timestamp;
use std::collections::HashMap;
use std::sync::Arc;

/// Puts what lay in the delay tree and the dead letter queue before the start into the scheduler. Blocks.
///
/// A due time that lies further ahead than any wait can be comes from a clock that jumped; it is cut to `wait_max`.
pub fn restore(
    scheduler: &mut Scheduler,
    store: &Store,
    destinations: &HashMap<DestinationId, Arc<Destination>>,
    now: Timestamp,
) -> Result<(), StoreError> {
    for delayed in store.delayed() {
        match delayed? {
            Ok(delayed) => {
                let Some(destination) = destinations.get(&delayed.destination) else { continue };
                let latest = now.after(destination.retry.max.max(destination.retry.retry_after_max));
                let not_before = delayed.ticket.place.due().min(latest);
                scheduler.waits(delayed.destination, &delayed.ticket, not_before);
            }
            Err((id, place, why)) => {
                tracing::error!(delivery = %id, %why, "a delayed delivery does not verify; it is quarantined");
                let why = why.to_string();
                store.record(Transition::Damaged { id, place, why, at: now });
            }
        }
    }
    for destination in destinations.values() {
        stance::restore(scheduler, destination, store.stance(destination.id), now);
        if let Some(hold) = store.hold(destination.id) {
            let until = hold.until.min(now.after(destination.retry.retry_after_max));
            scheduler.hold(destination.id, until);
            let _longest = destination.shutters.hold(until);
            destination.held_because(until, &hold.reason);
            if until < hold.until {
                // else every restart would wait as long again
                store.record(Transition::Hold { destination: destination.id, until, reason: hold.reason });
            }
        }
    }
    if destinations.values().any(|d| d.policy.dead_letters == crate::scheduler::DeadLetters::Hold) {
        for id in store.dead_ids(None) {
            let id = id?;
            let lane = match store.dead_letter(id) {
                Ok(letter) => letter.map(|letter| letter.delivery.event.lane()),
                Err(StoreError::Damaged(why)) => {
                    tracing::error!(delivery = %id, %why, "a dead letter does not verify; it still holds its interaction");
                    store.entry(id.sequence)?.map(|entry| entry.lane)
                }
                Err(e) => return Err(e),
            };
            if let Some(lane) = lane {
                scheduler.dead(id.destination, lane, id.sequence);
            }
        }
    }
    Ok(())
}
