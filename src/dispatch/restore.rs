//! Restores the scheduler at a start: delayed deliveries, dead letters that block, flow control; and the last delivery
//! of each interaction.

use super::Destination;
use super::last_delivered::SETTLEMENTS_READ;
use super::overrides;
use crate::event::{DestinationId, Sequence, believed_time};
use crate::scheduler::{DeadLetters, Scheduler};
use crate::store::{EndKind, Entry, Store, StoreError, Transition};
use crate::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Loads the delay tree and the dead letter queue into the scheduler. Blocks.
///
/// A due time further ahead than the longest possible wait comes from a clock that jumped; it is limited to that wait.
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
                if let Some(queue) = scheduler.queue_mut(delayed.destination) {
                    queue.redriven(&delayed.ticket, not_before);
                }
            }
            Err((id, place, why)) => {
                tracing::error!(delivery = %id, %why, "a delayed delivery does not verify; it is quarantined");
                let why = why.to_string();
                store.record(Transition::Damaged { id, place, why, at: now });
            }
        }
    }
    store.delay_index_complete();
    restore_last_delivered(store, destinations)?;
    for destination in destinations.values() {
        let Some(queue) = scheduler.queue_mut(destination.id) else { continue };
        overrides::restore(queue.flow_mut(), destination, store, now);
        if let Some(hold) = store.hold(destination.id) {
            let until = hold.until.min(now.after(destination.retry.retry_after_max));
            queue.flow_mut().retry_after(until);
            let _longest = destination.send_gate.retry_after(until);
            destination.blocked_because(until, &hold.reason);
            if until < hold.until {
                // otherwise every restart would wait as long again
                store.record(Transition::Hold { destination: destination.id, until, reason: hold.reason });
            }
        }
    }
    restore_dead_letters(scheduler, store, destinations)
}

/// Dead letters block their interactions if the destination is configured so.
fn restore_dead_letters(
    scheduler: &mut Scheduler,
    store: &Store,
    destinations: &HashMap<DestinationId, Arc<Destination>>,
) -> Result<(), StoreError> {
    if destinations.values().any(|d| d.policy.dead_letters == DeadLetters::Hold) {
        for id in store.dead_ids(None) {
            let id = id?;
            let order_key = match store.dead_letter_head(id) {
                Ok(head) => head.map(|head| store.order_key(&head.record.delivery.event)),
                Err(StoreError::Damaged(why)) => {
                    tracing::error!(delivery = %id, %why, "a dead letter does not verify; it still blocks its interaction");
                    store.entry(id.sequence)?.map(|entry| store.order_key_of(&entry))
                }
                Err(e) => return Err(e),
            };
            if let (Some(order_key), Some(queue)) = (order_key, scheduler.queue_mut(id.destination)) {
                queue.block_by_dead_letter(order_key, id.sequence);
            }
        }
    }
    Ok(())
}

/// Reads the newest settlements, in their order, with the entries of their events.
fn restore_last_delivered(
    store: &Store,
    destinations: &HashMap<DestinationId, Arc<Destination>>,
) -> Result<(), StoreError> {
    let last_of = |d| destinations.get(&d).and_then(|destination| destination.last_delivered.as_deref());
    if !destinations.keys().any(|d| last_of(*d).is_some()) {
        return Ok(());
    }
    let (head, end) = store.settlement_numbers();
    let mut next = head.max(end.saturating_sub(SETTLEMENTS_READ));
    while let Some((mut settled, behind)) = store.settled_from(next)? {
        next = behind;
        settled.retain(|s| s.how == EndKind::Delivered && last_of(s.id.destination).is_some());
        let entries = entries_of(store, settled.iter().map(|s| s.id.sequence).collect())?;
        for settlement in settled {
            let id = settlement.id;
            if let (Some(last_delivered), Some(entry)) = (last_of(id.destination), entries.get(&id.sequence)) {
                let time = believed_time(entry.event_time(), entry.received_at);
                last_delivered.record(store.order_key_of(entry), id.sequence, time, settlement.at);
            }
        }
    }
    Ok(())
}

/// The entries of these events. Each row is read once, since settlements are close to each other.
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
