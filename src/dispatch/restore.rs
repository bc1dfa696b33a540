//! What dispatch knew before the start: what is delayed and dead, and what was decided about each destination, put back into
//! the scheduler; and what each destination had of each interaction.

use super::Destination;
use super::{last_delivered, overrides};
use crate::event::{DestinationId, Sequence, believed_time};
use crate::scheduler::Scheduler;
use crate::store::{EndKind, Entry, Store, StoreError, Transition};
use crate::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet, HashMap};
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
    store.knows_delayed();
    remember_sequences(store, destinations)?;
    for destination in destinations.values() {
        overrides::restore(scheduler, destination, store, now);
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
            let order_key = match store.dead_letter_head(id) {
                Ok(head) => head.map(|head| store.order_key(&head.record.delivery.event)),
                Err(StoreError::Damaged(why)) => {
                    tracing::error!(delivery = %id, %why, "a dead letter does not verify; it still holds its interaction");
                    store.entry(id.sequence)?.map(|entry| store.order_key_of(&entry))
                }
                Err(e) => return Err(e),
            };
            if let Some(order_key) = order_key {
                scheduler.dead(id.destination, order_key, id.sequence);
            }
        }
    }
    Ok(())
}

/// Goes through the newest settlements, in their order, with what is remembered of their events.
fn remember_sequences(
    store: &Store,
    destinations: &HashMap<DestinationId, Arc<Destination>>,
) -> Result<(), StoreError> {
    let asks = |d| destinations.get(&d).and_then(|destination| destination.sequences.as_deref());
    if !destinations.keys().any(|d| asks(*d).is_some()) {
        return Ok(());
    }
    let (head, end) = store.settlement_numbers();
    let mut next = head.max(end.saturating_sub(last_delivered::LOOKED_THROUGH));
    while let Some((mut settled, behind)) = store.settled_from(next)? {
        next = behind;
        settled.retain(|s| s.how == EndKind::Delivered && asks(s.id.destination).is_some());
        let entries = entries_of(store, settled.iter().map(|s| s.id.sequence).collect())?;
        for settlement in settled {
            let id = settlement.id;
            if let (Some(sequences), Some(entry)) = (asks(id.destination), entries.get(&id.sequence)) {
                let said = Some(entry.time).filter(|time| *time > Timestamp::ZERO);
                let time = believed_time(said, entry.received_at);
                sequences.delivered(store.order_key_of(entry), id.sequence, time, settlement.at);
            }
        }
    }
    Ok(())
}

/// What is remembered of these events. Their rows are read once each, since settlements lie close to each other.
fn entries_of(store: &Store, mut of: BTreeSet<Sequence>) -> Result<BTreeMap<Sequence, Entry>, StoreError> {
    let mut found = BTreeMap::new();
    while let Some(first) = of.pop_first() {
        match store.entries(first) {
            Ok(Some((entries, behind))) => {
                of.retain(|sequence| *sequence >= behind);
                found.extend(entries);
            }
            Ok(None) | Err(StoreError::Damaged(_)) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(found)
}
