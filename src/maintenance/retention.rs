//! Limits of stored data: dead letters, quarantined requests, and the history that recognises duplicates.
//!
//! *Invariants.* Everything dropped is logged, counted and recorded in the audit log. Without `dlq.evict` no dead letter
//! is dropped; only its excess over the limits is reported. A source over its share (`dlq.source_share`) loses its own
//! dead letters before any other source does.

use crate::clock::Clock;
use crate::config::settings::{Dlq, Quarantine};
use crate::delivery::{DeadLetter, DeliveryId};
use crate::store::{Change, DlqAction, Store, StoreError};
use crate::time::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const DLQ_EVERY: Duration = Duration::from_secs(60);
const QUARANTINE_EVERY: Duration = Duration::from_secs(10);
const HISTORY_EVERY: Duration = Duration::from_secs(1);
/// Minimum interval between reports of events that were evicted from the history early.
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
    /// Found over the limits since the start, each counted once.
    pub fn found(&self) -> u64 {
        self.found.load(Ordering::Relaxed)
    }

    /// Dropped for that reason since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Number over the limits at the last check.
    pub fn left(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }
}

/// Keeps the dead letter queue within its limits, or reports the excess, until `stop`.
pub async fn watch_dlq(store: Store, settings: Dlq, clock: Clock, overflow: Arc<DlqOverflow>, stop: CancellationToken) {
    let (counting, stopped) = (store.clone(), stop.clone());
    match tokio::task::spawn_blocking(move || counting.count_dead_letters(|| stopped.is_cancelled())).await {
        Ok(Ok(())) => {}
        Ok(Err(why)) => return store.fail(&why),
        Err(_) => return, // the daemon ends
    }
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
    /// Until then no dead letter that is within the limits exceeds `retention`.
    next_expiry: Timestamp,
    /// At the last check: current dead letters, and dead letters since the store was created.
    counts_before: (u64, u64),
}

impl DlqLimiter {
    /// Whether a scan of the dead letters can give another result than the last one.
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
        // those that stay were counted when first found
        self.overflow.found.fetch_add(count.saturating_sub(self.overflow.left()), Ordering::Relaxed);
        let left = if self.settings.evict { 0 } else { count };
        self.overflow.left.store(left, Ordering::Relaxed);
        if !self.settings.evict {
            if count > 0 {
                tracing::warn!(
                    count,
                    sources = ?over_share(&self.store, &self.settings).into_keys().collect::<Vec<_>>(),
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

/// The bytes by which the dead letters of each source exceed its share, if several sources have dead letters.
fn over_share(store: &Store, limits: &Dlq) -> BTreeMap<String, u64> {
    let bytes = store.dead_by_source();
    let share = if bytes.len() > 1 { (limits.max_bytes as f64 * limits.source_share) as u64 } else { u64::MAX };
    bytes
        .into_iter()
        .map(|(source, bytes)| (source, bytes.saturating_sub(share)))
        .filter(|(_, more)| *more > 0)
        .collect()
}

/// The dead letters, oldest event first, that are older than `retention` or exceed `max_bytes`; and when the next of the
/// others will exceed `retention`. Excess bytes are taken from sources over their share, as far as that suffices.
fn over_limits(store: &Store, limits: &Dlq, now: Timestamp) -> Result<(Vec<DeliveryId>, Timestamp), StoreError> {
    let mut excess_bytes = store.totals().dlq_bytes.saturating_sub(limits.max_bytes);
    let mut more = over_share(store, limits);
    let any_source = more.is_empty();
    let (mut found, mut next_expiry) = (Vec::new(), now.after(limits.retention));
    for id in store.dead_ids(None) {
        let id = id?;
        let Some(dead_letter) = head(store, id)? else { continue };
        let own = more.get_mut(&dead_letter.delivery.event.source);
        let is_excess = excess_bytes > 0 && (any_source || own.as_ref().is_some_and(|own| **own > 0));
        if !is_excess && now.since(dead_letter.dead_at) <= limits.retention {
            next_expiry = next_expiry.min(dead_letter.dead_at.after(limits.retention));
            continue;
        }
        let bytes = store.dead_letter_bytes(id)?;
        excess_bytes = excess_bytes.saturating_sub(bytes);
        if let Some(own) = own {
            *own = own.saturating_sub(bytes);
        }
        found.push(id);
    }
    // the remaining excess is taken from the other sources
    let (mut oldest, first) = (store.dead_ids(None), found.len());
    while excess_bytes > 0
        && let Some(id) = oldest.next().transpose()?
    {
        if found[..first].binary_search(&id).is_err() && head(store, id)?.is_some() {
            excess_bytes = excess_bytes.saturating_sub(store.dead_letter_bytes(id)?);
            found.push(id);
        }
    }
    found.sort_unstable();
    Ok((found, next_expiry))
}

/// A dead letter without the body of its event; none if it no longer exists or does not verify.
fn head(store: &Store, id: DeliveryId) -> Result<Option<DeadLetter>, StoreError> {
    match store.dead_letter_head(id) {
        Ok(head) => Ok(head.map(|head| head.record)),
        Err(StoreError::Damaged(_)) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Drops quarantined requests older than `retention`, until `stop`.
pub async fn watch_quarantine(store: Store, settings: Quarantine, clock: Clock, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(QUARANTINE_EVERY);
    while tokio::select! { () = stop.cancelled() => false, _ = ticks.tick() => true } {
        let old = store.quarantined_before(clock.now().before(settings.retention));
        for numbers in old.chunks(DROPPED_PER_COMMIT) {
            let what = "quarantine give up: older than quarantine.retention".to_owned();
            let change = Change::DiscardQuarantined { what, numbers: numbers.to_vec() };
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

/// Reports events that were evicted from the history early, in the log and the audit log, until `stop`.
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
    use crate::delivery::{Delivery, Place, Reason};
    use crate::event::{DestinationId, Event, Sequence};
    use crate::store::{Arrival, Opened, Options, Transition};

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn event(source: &str, n: u8) -> Event {
        Event {
            received_at: NOW,
            source: source.to_owned(),
            sender_id: None,
            body: vec![n; 1000].into(),
            ..crate::testing::events::event(n.into())
        }
    }

    /// A store with four dead letters, which died at intervals of an hour.
    async fn four() -> (tempfile::TempDir, Store) {
        dead_of(&["s"; 4]).await
    }

    /// A store with a dead letter for each of these sources, in this order.
    async fn dead_of(sources: &[&str]) -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let Opened { store, .. } = Store::open(dir.path(), Options::default(), Clock::manual(NOW)).unwrap();
        store.accept((0..).zip(sources).map(|(n, source)| Arrival::new(event(source, n))).collect()).await.unwrap();
        for (n, source) in (1..).zip(sources) {
            let id = id(n);
            let delivery = Delivery::first(id, event(source, n as u8).into());
            let dead_letter = DeadLetter { delivery, reason: Reason::Permanent, dead_at: NOW.after(hours(n)) };
            store.record(Transition::Dead { from: Place::Page, dead_letter: Box::new(dead_letter) });
        }
        store.flush().await.unwrap();
        (dir, store)
    }

    fn id(n: u64) -> DeliveryId {
        DeliveryId { sequence: Sequence(n), destination: DestinationId(0) }
    }

    fn hours(n: u64) -> Duration {
        Duration::from_secs(3600 * n)
    }

    #[tokio::test]
    async fn dead_letters_over_the_limit_are_counted_until_they_are_gone() {
        let (_dir, store) = four().await;
        let settings = Dlq { retention: hours(2), max_bytes: u64::MAX, source_share: 0.8, evict: false };
        let overflow = Arc::new(DlqOverflow::default());
        let counts_before = (0, 0);
        let mut limiter =
            DlqLimiter { store: store.clone(), settings, overflow, next_expiry: Timestamp::ZERO, counts_before };
        for (hour, purge, left, found) in [(2, None, 0, 0), (4, None, 2, 2), (4, Some(1), 1, 2), (5, None, 2, 3)] {
            if let Some(n) = purge {
                store.dlq(DlqAction::Purge, vec![id(n)], "admin".to_owned()).await.unwrap();
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
        let bounds =
            |hours_kept, max_bytes| Dlq { retention: hours(hours_kept), max_bytes, source_share: 0.8, evict: true };
        let count = |bounds: Dlq| over_limits(&store, &bounds, NOW.after(hours(5))).unwrap().0.len();
        assert_eq!(count(bounds(5, bytes)), 0);
        assert_eq!(count(bounds(2, bytes)), 2, "dead for 4 and 3 hours");
        assert_eq!(count(bounds(5, bytes - 1)), 1);
        assert_eq!(count(bounds(5, bytes - bytes * 3 / 8)), 2, "one and a half");
    }
    /// The numbers of the dead letters that are dropped with these limits.
    fn go(store: &Store, dead_letters_max: u64, source_share: f64) -> Vec<u64> {
        let one = store.dead_letter_bytes(id(store.dead_ids(None).next().unwrap().unwrap().sequence.0)).unwrap();
        let bounds = Dlq { retention: hours(99), max_bytes: one * dead_letters_max, source_share, evict: true };
        let (found, _) = over_limits(store, &bounds, NOW.after(hours(9))).unwrap();
        found.into_iter().map(|id| id.sequence.0).collect()
    }

    #[tokio::test]
    async fn a_source_over_its_share_loses_its_own_dead_letters_first() {
        let (_dir, store) = dead_of(&["b", "b", "a", "a", "a", "a", "a", "a", "a", "a"]).await;
        assert_eq!(go(&store, 10, 0.5), [0; 0], "as many as there may be");
        assert_eq!(go(&store, 8, 0.5), [3, 4]);
        assert_eq!(go(&store, 5, 0.5), [3, 4, 5, 6, 7]);
        assert_eq!(go(&store, 4, 0.5), [3, 4, 5, 6, 7, 8], "the others have no more than their part of it");
        assert_eq!(go(&store, 3, 0.7), [1, 3, 4, 5, 6, 7, 8], "b has more than what a leaves to it");
        assert_eq!(go(&store, 8, 1.0), [1, 2], "without shares the oldest go");
        let (_dir, store) = dead_of(&["a", "b", "a", "b", "a", "b"]).await;
        assert_eq!(go(&store, 4, 0.8), [1, 2], "no source is over its share");
        let (_dir, store) = dead_of(&["a"; 5]).await;
        assert_eq!(go(&store, 3, 0.1), [1, 2], "a source that is alone has no share");
    }

    #[tokio::test]
    async fn bytes_by_source_follow_dead_letters_also_after_a_start() {
        let (dir, store) = dead_of(&["a", "b", "a", "b"]).await;
        let one = store.dead_letter_bytes(id(1)).unwrap();
        let has = |store: &Store| {
            let bytes = store.dead_by_source();
            ["a", "b"].map(|source| bytes.get(source).map_or(0, |bytes| bytes / one))
        };
        assert_eq!(has(&store), [2, 2]);
        store.dlq(DlqAction::Purge, vec![id(1)], "admin".to_owned()).await.unwrap();
        store.dlq(DlqAction::Redrive, vec![id(2)], "admin".to_owned()).await.unwrap();
        assert_eq!(has(&store), [1, 1]);
        store.flush().await.unwrap();
        drop(store);
        let opened = (0..20_000).find_map(|_| {
            std::thread::yield_now();
            Store::open(dir.path(), Options::default(), Clock::manual(NOW)).ok()
        });
        let store = opened.unwrap().store;
        assert_eq!(has(&store), [0, 0], "not yet counted");
        store.dlq(DlqAction::Purge, vec![id(4)], "admin".to_owned()).await.unwrap();
        store.count_dead_letters(|| false).unwrap();
        assert_eq!(has(&store), [1, 0]);
        assert_eq!(store.check().await.unwrap(), [""; 0]);
        assert_eq!(store.usage_by_source().iter().map(|(_, held)| held.dead_bytes).sum::<u64>(), one);
    }
}
