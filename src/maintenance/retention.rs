//! Limits of what is kept: dead letters, quarantined requests, and the history that recognises duplicates.
//!
//! *Invariants.* Whatever is dropped is logged, counted and in the audit log. Without `dlq.evict` no dead letter is dropped; it
//! is only reported that they are over the limits.

use crate::clock::Clock;
use crate::config::settings::{Dlq, Quarantine};
use crate::delivery::DeliveryId;
use crate::store::{Change, DlqAction, Store, StoreError};
use crate::time::Timestamp;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const DLQ_EVERY: Duration = Duration::from_secs(60);
const QUARANTINE_EVERY: Duration = Duration::from_secs(10);
const HISTORY_EVERY: Duration = Duration::from_secs(1);
/// Events that left the history early are reported at most this often.
const HISTORY_REPORT_EVERY: Duration = Duration::from_secs(60);
/// Dead letters or quarantined requests dropped in one commit.
const DROPPED_PER_COMMIT: usize = 256;

/// Dead letters over the limits of their queue.
#[derive(Debug, Default)]
pub struct DlqOverflow {
    found: AtomicU64,
    dropped: AtomicU64,
    left: AtomicU64,
}

impl DlqOverflow {
    /// Found over the limits since the start, each once.
    pub fn found(&self) -> u64 {
        self.found.load(Ordering::Relaxed)
    }

    /// Dropped for it since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Those over the limits at the last look.
    pub fn left(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }
}

/// Keeps the dead letter queue within its limits, or reports that it is not, until `stop`.
pub async fn watch_dlq(store: Store, settings: Dlq, clock: Clock, overflow: Arc<DlqOverflow>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(DLQ_EVERY);
    let mut limiter = DlqLimiter { store, settings, overflow, next_expiry: Timestamp::ZERO, counts_before: (0, 0) };
    while tokio::select! { () = stop.cancelled() => false, _ = ticks.tick() => true } {
        if limiter.enforce(clock.now()).await.is_err() {
            return; // the store has failed, and the daemon ends
        }
    }
}

struct DlqLimiter {
    store: Store,
    settings: Dlq,
    overflow: Arc<DlqOverflow>,
    /// Until then no dead letter that was within the limits can be too old.
    next_expiry: Timestamp,
    /// At the last look: dead letters that there were, and that there have ever been.
    counts_before: (u64, u64),
}

impl DlqLimiter {
    /// Whether a scan of the dead letters can find anything else than the last one.
    fn may_differ(&self, now: Timestamp) -> bool {
        let totals = self.store.totals();
        let dead = totals.sum(|t| t.dead);
        let has_changed = self.counts_before != (dead, totals.dead_lettered);
        let left = self.overflow.left() > 0;
        (dead > 0 && (totals.dlq_bytes > self.settings.max_bytes || now >= self.next_expiry)) || (left && has_changed)
    }

    async fn enforce(&mut self, now: Timestamp) -> Result<(), StoreError> {
        if !self.may_differ(now) {
            return Ok(());
        }
        let totals = self.store.totals();
        self.counts_before = (totals.sum(|t| t.dead), totals.dead_lettered);
        let (reader, limits) = (self.store.clone(), self.settings.clone());
        let found = tokio::task::spawn_blocking(move || over_limits(&reader, &limits, now)).await;
        let Ok(Ok((found, next_expiry))) = found else { return Ok(()) };
        self.next_expiry = next_expiry;
        let count = found.len() as u64;
        // those that stay were counted when they were first found
        self.overflow.found.fetch_add(count.saturating_sub(self.overflow.left()), Ordering::Relaxed);
        let left = if self.settings.evict { 0 } else { count };
        self.overflow.left.store(left, Ordering::Relaxed);
        if !self.settings.evict {
            if count > 0 {
                tracing::warn!(
                    count,
                    "dead letters are over [dlq] retention or max_bytes; redrive or purge them, or set dlq.evict"
                );
            }
            return Ok(());
        }
        for chunk in found.chunks(DROPPED_PER_COMMIT) {
            self.store.dlq(DlqAction::Purge, chunk.to_vec(), "retention".to_owned()).await?;
            self.overflow.dropped.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        }
        if count > 0 {
            tracing::warn!(count, "the oldest dead letters were dropped, as dlq.evict says");
        }
        Ok(())
    }
}

/// The dead letters, oldest event first, that are older than `retention` or exceed `max_bytes`; and when the next of those
/// that stay will be too old.
fn over_limits(store: &Store, limits: &Dlq, now: Timestamp) -> Result<(Vec<DeliveryId>, Timestamp), StoreError> {
    let mut excess_bytes = store.totals().dlq_bytes.saturating_sub(limits.max_bytes);
    let (mut over, mut next_expiry) = (Vec::new(), now.after(limits.retention));
    for id in store.dead_ids(None) {
        let id = id?;
        let dead_letter = match store.dead_letter_head(id) {
            Ok(Some(head)) => head.record,
            Ok(None) | Err(StoreError::Damaged(_)) => continue,
            Err(e) => return Err(e),
        };
        if excess_bytes > 0 || now.since(dead_letter.dead_at) > limits.retention {
            excess_bytes = excess_bytes.saturating_sub(store.dead_letter_bytes(id)?);
            over.push(id);
        } else {
            next_expiry = next_expiry.min(dead_letter.dead_at.after(limits.retention));
        }
    }
    Ok((over, next_expiry))
}

/// Drops quarantined requests older than `retention`, until `stop`.
pub async fn watch_quarantine(store: Store, settings: Quarantine, clock: Clock, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(QUARANTINE_EVERY);
    while tokio::select! { () = stop.cancelled() => false, _ = ticks.tick() => true } {
        let old = store.detained_before(clock.now().before(settings.retention));
        for numbers in old.chunks(DROPPED_PER_COMMIT) {
            let what = "quarantine give up: older than quarantine.retention".to_owned();
            let change = Change::GiveUp { what, numbers: numbers.to_vec() };
            if store.change(change, "retention".to_owned()).await.is_err() {
                return; // the store has failed, and the daemon ends
            }
        }
        if !old.is_empty() {
            tracing::warn!(
                count = old.len(),
                "quarantined requests were older than quarantine.retention and were dropped"
            );
        }
    }
}

/// Reports events that left the history before their time, in the log and the audit log, until `stop`.
pub async fn watch_history(store: Store, clock: Clock, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(HISTORY_EVERY);
    let (mut reported, mut reported_at) = (0, None::<Timestamp>);
    while tokio::select! { () = stop.cancelled() => false, _ = ticks.tick() => true } {
        let (now, forgotten) = (clock.now(), store.remembering().forgotten_early);
        if forgotten == reported || reported_at.is_some_and(|at| now.since(at) < HISTORY_REPORT_EVERY) {
            continue;
        }
        let count = forgotten - reported;
        (reported, reported_at) = (forgotten, Some(now));
        tracing::warn!(
            count,
            "events left the history early, because history.max_bytes or max_memory is reached: a duplicate of them counts as \
             a new event; raise the limit, or shorten dedup_window and history.retention"
        );
        let what = format!("history: {count} events left it early, as history.max_bytes and max_memory say");
        if store.change(Change::Note { what }, "retention".to_owned()).await.is_err() {
            return; // the store has failed, and the daemon ends
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::{DeadLetter, Delivery, Place, Reason};
    use crate::event::{DestinationId, Event, Sequence};
    use crate::store::{Arrival, Opened, Options, Transition};

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn event(n: u8) -> Event {
        Event {
            received_at: NOW,
            sender_id: None,
            body: vec![n; 1000].into(),
            ..crate::testing::events::event(n.into())
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
            let dead_letter = DeadLetter { delivery, reason: Reason::Permanent, dead_at: NOW.after(hours(n)) };
            store.record(Transition::Dead { from: Place::Page, letter: Box::new(dead_letter) });
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
        let overflow = Arc::new(DlqOverflow::default());
        let counts_before = (0, 0);
        let mut limiter =
            DlqLimiter { store: store.clone(), settings, overflow, next_expiry: Timestamp::ZERO, counts_before };
        for (hour, purge, left, found) in [(2, None, 0, 0), (4, None, 2, 2), (4, Some(1), 1, 2), (5, None, 2, 3)] {
            if let Some(n) = purge {
                let id = DeliveryId { sequence: Sequence(n), destination: DestinationId(0) };
                store.dlq(DlqAction::Purge, vec![id], "admin".to_owned()).await.unwrap();
            }
            limiter.enforce(NOW.after(hours(hour)).after(Duration::from_secs(1))).await.unwrap();
            assert_eq!((limiter.overflow.left(), limiter.overflow.found()), (left, found), "hour {hour}");
        }
        limiter.settings.evict = true;
        limiter.enforce(NOW.after(hours(9))).await.unwrap();
        let overflow = &limiter.overflow;
        assert_eq!((overflow.left(), overflow.found(), overflow.dropped()), (0, 4, 3), "they were dropped");
        assert_eq!(store.totals().sum(|t| t.dead), 0);
    }

    #[tokio::test]
    async fn the_oldest_dead_letters_exceed_age_or_bytes() {
        let (_dir, store) = four().await;
        let bytes = store.totals().dlq_bytes;
        let limits = |hours_kept, max_bytes| Dlq { retention: hours(hours_kept), max_bytes, evict: true };
        let count = |limits: Dlq| over_limits(&store, &limits, NOW.after(hours(5))).unwrap().0.len();
        assert_eq!(count(limits(5, bytes)), 0);
        assert_eq!(count(limits(2, bytes)), 2, "dead for 4 and 3 hours");
        assert_eq!(count(limits(5, bytes - 1)), 1);
        assert_eq!(count(limits(5, bytes - bytes * 3 / 8)), 2, "one and a half");
    }
}
