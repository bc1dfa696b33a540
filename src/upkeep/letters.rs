//! The bounds of the dead letter queue.
//!
//! *Invariants.* Nothing is dropped in silence: without `dlq.evict` dead letters stay and it is only said that they are
//! too old or too many; with it, each that goes is counted as discarded and stands in the audit.

use crate::clock::Clock;
use crate::config::settings::Dlq;
use crate::delivery::DeliveryId;
use crate::store::{DlqAction, Store, StoreError};
use crate::time::Timestamp;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often the dead letter queue is looked through.
const DLQ_EVERY: Duration = Duration::from_secs(60);
/// So many dead letters go in one commit.
const EVICTED_PER_COMMIT: usize = 256;

/// Keeps the dead letter queue within its bounds, or says that it is not, until `stop`.
pub async fn watch_dlq(
    store: Store,
    settings: Dlq,
    clock: Clock,
    beyond_ever: Arc<AtomicU64>,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(DLQ_EVERY);
    // until then no letter that is there can be too old
    let mut quiet_until = Timestamp::ZERO;
    let mut stayed = 0;
    while tokio::select! { () = stop.cancelled() => false, _ = ticks.tick() => true } {
        if store.totals().sum(|t| t.dead) == 0
            || (store.totals().dlq_bytes <= settings.max_bytes && clock.now() < quiet_until)
        {
            continue;
        }
        let (reader, bounds, now) = (store.clone(), settings.clone(), clock.now());
        let beyond = tokio::task::spawn_blocking(move || beyond(&reader, &bounds, now)).await;
        let Ok(Ok((beyond, next))) = beyond else { continue };
        quiet_until = next;
        if beyond.is_empty() {
            continue;
        }
        let count = beyond.len();
        // those that stay were counted when they were first beyond
        beyond_ever.fetch_add(count.saturating_sub(stayed) as u64, Ordering::Relaxed);
        stayed = if settings.evict { 0 } else { count };
        if !settings.evict {
            tracing::warn!(
                count,
                "dead letters are older or more than [dlq] allows; redrive or purge them, or set dlq.evict"
            );
            continue;
        }
        for chunk in beyond.chunks(EVICTED_PER_COMMIT) {
            if store.dlq(DlqAction::Purge, chunk.to_vec(), "retention".to_owned()).await.is_err() {
                return; // the store has failed, and the daemon ends
            }
        }
        tracing::warn!(count, "the oldest dead letters were dropped, as dlq.evict says");
    }
}

/// The dead letters, oldest event first, that are older than `retention` or more than `max_bytes`; and when the next of
/// those that stay will be too old.
fn beyond(store: &Store, bounds: &Dlq, now: Timestamp) -> Result<(Vec<DeliveryId>, Timestamp), StoreError> {
    let mut too_many = store.totals().dlq_bytes.saturating_sub(bounds.max_bytes);
    let (mut beyond, mut next) = (Vec::new(), now.after(bounds.retention));
    for id in store.dead_ids(None) {
        let id = id?;
        let letter = match store.dead_letter(id) {
            Ok(Some(letter)) => letter,
            Ok(None) | Err(StoreError::Damaged(_)) => continue,
            Err(e) => return Err(e),
        };
        if too_many > 0 || now.since(letter.dead_at) > bounds.retention {
            too_many = too_many.saturating_sub(store.dead_letter_bytes(id)?);
            beyond.push(id);
        } else {
            next = next.min(letter.dead_at.after(bounds.retention));
        }
    }
    Ok((beyond, next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::{DeadLetter, Delivery, Place, Reason};
    use crate::event::{DestinationId, DestinationSet, Digest64, Event, Sequence};
    use crate::store::{Arrival, Opened, Options, Transition};
    use bytes::Bytes;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn event(n: u8) -> Event {
        Event {
            received_at: NOW,
            source: "s".to_owned(),
            to: DestinationSet(1),
            interaction: None,
            sender_id: None,
            kind: String::new(),
            time: None,
            content_type: String::new(),
            traceparent: None,
            conflict: false,
            body_digest: Digest64(1),
            body: Bytes::from(vec![n; 1000]),
        }
    }

    #[tokio::test]
    async fn the_oldest_dead_letters_are_beyond_age_or_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let Opened { store, .. } = Store::open(dir.path(), Options::default(), Clock::manual(NOW)).unwrap();
        store.accept((0..4).map(|n| Arrival::new(event(n))).collect()).await.unwrap();
        let hours = |n| Duration::from_secs(3600 * n);
        for n in 1..=4 {
            let id = DeliveryId { sequence: Sequence(n), destination: DestinationId(0) };
            let delivery = Delivery::first(id, event(n as u8).into());
            let letter = DeadLetter { delivery, reason: Reason::Permanent, dead_at: NOW.after(hours(n)) };
            store.record(Transition::Dead { from: Place::Page, letter: Box::new(letter) });
        }
        store.flush().await.unwrap();
        let bytes = store.totals().dlq_bytes;
        let bounds = |hours_kept, max_bytes| Dlq { retention: hours(hours_kept), max_bytes, evict: true };
        let count = |bounds: Dlq| beyond(&store, &bounds, NOW.after(hours(5))).unwrap().0.len();
        assert_eq!(count(bounds(5, bytes)), 0);
        assert_eq!(count(bounds(2, bytes)), 2, "dead for 4 and 3 hours");
        assert_eq!(count(bounds(5, bytes - 1)), 1);
        assert_eq!(count(bounds(5, bytes - 1500)), 2);
    }
}
