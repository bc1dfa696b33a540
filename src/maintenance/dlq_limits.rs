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

/// Dead letters beyond the bounds of their queue.
#[derive(Debug, Default)]
pub struct DlqOverflow {
    found: AtomicU64,
    dropped: AtomicU64,
    left: AtomicU64,
}

impl DlqOverflow {
    /// Found beyond age or bytes since the start, each once.
    pub fn found(&self) -> u64 {
        self.found.load(Ordering::Relaxed)
    }

    /// Dropped for it since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Those that lie there beyond them, at the last look.
    pub fn left(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }
}

/// Keeps the dead letter queue within its bounds, or says that it is not, until `stop`.
pub async fn watch_dlq(store: Store, settings: Dlq, clock: Clock, beyond: Arc<DlqOverflow>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(DLQ_EVERY);
    let mut watch = Watch { store, settings, beyond, quiet_until: Timestamp::ZERO, looked_at: (0, 0) };
    while tokio::select! { () = stop.cancelled() => false, _ = ticks.tick() => true } {
        if watch.look(clock.now()).await.is_err() {
            return; // the store has failed, and the daemon ends
        }
    }
}

struct Watch {
    store: Store,
    settings: Dlq,
    beyond: Arc<DlqOverflow>,
    /// Until then no letter that was within the bounds can be too old.
    quiet_until: Timestamp,
    /// Dead letters that there were at the last look, and that there ever were.
    looked_at: (u64, u64),
}

impl Watch {
    /// Whether a look through the letters can find anything else than the last one.
    fn may_differ(&self, now: Timestamp) -> bool {
        let totals = self.store.totals();
        let dead = totals.sum(|t| t.dead);
        let moved = self.looked_at != (dead, totals.dead_lettered);
        let left = self.beyond.left() > 0;
        (dead > 0 && (totals.dlq_bytes > self.settings.max_bytes || now >= self.quiet_until)) || (left && moved)
    }

    async fn look(&mut self, now: Timestamp) -> Result<(), StoreError> {
        if !self.may_differ(now) {
            return Ok(());
        }
        let totals = self.store.totals();
        self.looked_at = (totals.sum(|t| t.dead), totals.dead_lettered);
        let (reader, bounds) = (self.store.clone(), self.settings.clone());
        let found = tokio::task::spawn_blocking(move || beyond(&reader, &bounds, now)).await;
        let Ok(Ok((found, next))) = found else { return Ok(()) };
        self.quiet_until = next;
        let count = found.len() as u64;
        // those that stay were counted when they were first beyond
        self.beyond.found.fetch_add(count.saturating_sub(self.beyond.left()), Ordering::Relaxed);
        let left = if self.settings.evict { 0 } else { count };
        self.beyond.left.store(left, Ordering::Relaxed);
        if !self.settings.evict {
            if count > 0 {
                tracing::warn!(
                    count,
                    "dead letters are older or more than [dlq] allows; redrive or purge them, or set dlq.evict"
                );
            }
            return Ok(());
        }
        for chunk in found.chunks(EVICTED_PER_COMMIT) {
            self.store.dlq(DlqAction::Purge, chunk.to_vec(), "retention".to_owned()).await?;
            self.beyond.dropped.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        }
        if count > 0 {
            tracing::warn!(count, "the oldest dead letters were dropped, as dlq.evict says");
        }
        Ok(())
    }
}

/// The dead letters, oldest event first, that are older than `retention` or more than `max_bytes`; and when the next of
/// those that stay will be too old.
fn beyond(store: &Store, bounds: &Dlq, now: Timestamp) -> Result<(Vec<DeliveryId>, Timestamp), StoreError> {
    let mut too_many = store.totals().dlq_bytes.saturating_sub(bounds.max_bytes);
    let (mut beyond, mut next) = (Vec::new(), now.after(bounds.retention));
    for id in store.dead_ids(None) {
        let id = id?;
        let letter = match store.dead_letter_head(id) {
            Ok(Some(head)) => head.record,
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
            headers: Default::default(),
            conflict: false,
            body_digest: Digest64(1),
            body: Bytes::from(vec![n; 1000]),
        }
    }

    /// A store with four dead letters, which died an hour after one another.
    async fn four() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let Opened { store, .. } = Store::open(dir.path(), Options::default(), Clock::manual(NOW)).unwrap();
        store.accept((0..4).map(|n| Arrival::new(event(n))).collect()).await.unwrap();
        for n in 1..=4 {
            let id = DeliveryId { sequence: Sequence(n), destination: DestinationId(0) };
            let delivery = Delivery::first(id, event(n as u8).into());
            let letter = DeadLetter { delivery, reason: Reason::Permanent, dead_at: NOW.after(hours(n)) };
            store.record(Transition::Dead { from: Place::Page, letter: Box::new(letter) });
        }
        store.flush().await.unwrap();
        (dir, store)
    }

    fn hours(n: u64) -> Duration {
        Duration::from_secs(3600 * n)
    }

    #[tokio::test]
    async fn dead_letters_over_the_limit_are_counted_until_they_are_gone() {
        let (_dir, store) = four().await;
        let settings = Dlq { retention: hours(2), max_bytes: u64::MAX, evict: false };
        let beyond = Arc::new(DlqOverflow::default());
        let looked_at = (0, 0);
        let mut watch = Watch { store: store.clone(), settings, beyond, quiet_until: Timestamp::ZERO, looked_at };
        for (hour, purge, left, found) in [(2, None, 0, 0), (4, None, 2, 2), (4, Some(1), 1, 2), (5, None, 2, 3)] {
            if let Some(n) = purge {
                let id = DeliveryId { sequence: Sequence(n), destination: DestinationId(0) };
                store.dlq(DlqAction::Purge, vec![id], "admin".to_owned()).await.unwrap();
            }
            watch.look(NOW.after(hours(hour)).after(Duration::from_secs(1))).await.unwrap();
            assert_eq!((watch.beyond.left(), watch.beyond.found()), (left, found), "hour {hour}");
        }
        watch.settings.evict = true;
        watch.look(NOW.after(hours(9))).await.unwrap();
        let beyond = &watch.beyond;
        assert_eq!((beyond.left(), beyond.found(), beyond.dropped()), (0, 4, 3), "they were dropped");
        assert_eq!(store.totals().sum(|t| t.dead), 0);
    }

    #[tokio::test]
    async fn the_oldest_dead_letters_exceed_age_or_bytes() {
        let (_dir, store) = four().await;
        let bytes = store.totals().dlq_bytes;
        let bounds = |hours_kept, max_bytes| Dlq { retention: hours(hours_kept), max_bytes, evict: true };
        let count = |bounds: Dlq| beyond(&store, &bounds, NOW.after(hours(5))).unwrap().0.len();
        assert_eq!(count(bounds(5, bytes)), 0);
        assert_eq!(count(bounds(2, bytes)), 2, "dead for 4 and 3 hours");
        assert_eq!(count(bounds(5, bytes - 1)), 1);
        assert_eq!(count(bounds(5, bytes - bytes * 3 / 8)), 2, "one and a half");
    }
}
