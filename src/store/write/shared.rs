//! What the committer shares with readers: the engine, the index, recent events, and the number of uncommitted transitions.
//!
//! *Invariants.* After a crash, attempts whose result was recorded but not durable are made again. While there are [`MOST`]
//! of them no new attempt starts, however slow the disk is. So a crash repeats at most these and the attempts in flight.

use crate::event::{Event, Sequence, SharedKeys};
use crate::latency::Latency;
use crate::store::engine::Engine;
use crate::store::engine::disk_space::DiskSpace;
use crate::store::index::history::Bounds;
use crate::store::index::{Index, Unwritten};
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, Semaphore, watch};

#[derive(Debug)]
pub struct Shared {
    pub engine: Engine,
    pub disk_space: Arc<DiskSpace>,
    pub index: Mutex<Index>,
    pub cache: Mutex<Cache>,
    pub unwritten: Mutex<Unwritten>,
    pub behind: Uncommitted,
    /// Latency of durable commits.
    pub commits: Latency,
    /// Limits of the history.
    pub history: Mutex<Bounds>,
    /// Sources that share the order of their interactions.
    pub shared_keys: Mutex<SharedKeys>,
    /// All events before this sequence are durable; the index is ahead of it by one commit.
    pub written_next: AtomicU64,
    /// The reason why nothing is acknowledged any more.
    pub failure: watch::Sender<Option<String>>,
    /// Lists are read one at a time, so that any number of them leaves time for acknowledgements.
    pub lists: Semaphore,
}

/// No new attempt starts while so many transitions are recorded but not durable.
pub const MOST: usize = 512;

#[derive(Debug, Default)]
pub struct Uncommitted {
    recorded: AtomicUsize,
    caught_up: Notify,
}

impl Uncommitted {
    pub fn add(&self) {
        self.recorded.fetch_add(1, Ordering::SeqCst);
    }

    /// Counts this many transitions as durable.
    pub fn done(&self, transitions: usize) {
        let before = self.recorded.fetch_sub(transitions, Ordering::SeqCst);
        if before >= MOST && before - transitions < MOST {
            self.caught_up.notify_one();
        }
    }

    pub fn is_far(&self) -> bool {
        self.recorded.load(Ordering::SeqCst) >= MOST
    }

    /// Returns when fewer than [`MOST`] are recorded but not durable; for one task at a time.
    pub async fn caught_up(&self) {
        while self.is_far() {
            self.caught_up.notified().await; // also returns if it was notified before it waits
        }
    }
}

/// Limit of the cached bytes of new events, and of those of pages: 16 MiB each.
const BYTES_MAX: usize = 16 << 20;

#[derive(Debug, Default)]
pub struct Cache {
    /// In order of sequence.
    newest: VecDeque<(Sequence, Arc<Event>)>,
    newest_bytes: usize,
    /// First sequence of a page and its events; the page read last is at the back.
    pages: VecDeque<(Sequence, Vec<Arc<Event>>)>,
    pages_bytes: usize,
}

impl Cache {
    pub fn accepted(&mut self, first: Sequence, events: Vec<Arc<Event>>) {
        for (n, event) in (first.0..).zip(events) {
            self.newest_bytes += weight(&event);
            self.newest.push_back((Sequence(n), event));
        }
        while self.newest_bytes > BYTES_MAX {
            let Some((_, old)) = self.newest.pop_front() else { break };
            self.newest_bytes -= weight(&old);
        }
    }

    pub fn read(&mut self, first: Sequence, events: Vec<Arc<Event>>) {
        if self.pages.iter().any(|(known, _)| *known == first) {
            return;
        }
        self.pages_bytes += events.iter().map(weight).sum::<usize>();
        self.pages.push_back((first, events));
        while self.pages_bytes > BYTES_MAX && self.pages.len() > 1 {
            let Some((_, old)) = self.pages.pop_front() else { break };
            self.pages_bytes -= old.iter().map(weight).sum::<usize>();
        }
    }

    /// Removes these events and the pages that contain them.
    pub fn forget(&mut self, of: &BTreeSet<Sequence>) {
        self.newest.retain(|(sequence, _)| !of.contains(sequence));
        self.newest_bytes = self.newest.iter().map(|(_, event)| weight(event)).sum();
        self.pages.retain(|(first, events)| of.range(*first..first.plus(events.len() as u64)).next().is_none());
        self.pages_bytes = self.pages.iter().flat_map(|(_, events)| events).map(weight).sum();
    }

    pub fn get(&self, sequence: Sequence) -> Option<Arc<Event>> {
        if let Ok(n) = self.newest.binary_search_by_key(&sequence, |(s, _)| *s) {
            return Some(self.newest[n].1.clone());
        }
        let n_of = |first: Sequence| sequence.0.checked_sub(first.0).and_then(|n| usize::try_from(n).ok());
        self.pages.iter().rev().find_map(|(first, events)| events.get(n_of(*first)?).cloned())
    }
}

fn weight(event: &Arc<Event>) -> usize {
    event.weight()
}

#[cfg(test)]
mod uncommitted_tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    #[test]
    fn a_waiter_is_woken_when_uncommitted_work_falls_below_the_limit() {
        let (behind, mut context) = (Uncommitted::default(), Context::from_waker(Waker::noop()));
        (1..MOST).for_each(|_| behind.add());
        assert!(!behind.is_far());
        assert_eq!(pin!(behind.caught_up()).poll(&mut context), Poll::Ready(()));
        (0..2).for_each(|_| behind.add());
        let mut waits = pin!(behind.caught_up());
        assert!(behind.is_far() && waits.as_mut().poll(&mut context).is_pending());
        behind.done(1);
        assert!(behind.is_far() && waits.as_mut().poll(&mut context).is_pending());
        behind.done(1);
        assert!(!behind.is_far() && waits.as_mut().poll(&mut context).is_ready());
        // a notification from before does not wake a task that waits later
        behind.add();
        behind.done(1);
        behind.add();
        assert!(pin!(behind.caught_up()).poll(&mut context).is_pending());
    }
}

#[cfg(test)]
mod cache_tests {
    use super::*;
    use crate::event::{EVENT_OVERHEAD as OVERHEAD, ForwardedHeaders};

    fn event(size: usize) -> Arc<Event> {
        Arc::new(Event {
            source: String::new(),
            sender_id: None,
            body: vec![0; size].into(),
            ..crate::testing::events::event(1)
        })
    }

    #[test]
    fn the_cache_stays_within_its_bounds_and_evicts_the_oldest() {
        let mut cache = Cache::default();
        for n in 1..=100 {
            cache.accepted(Sequence(n), vec![event(1 << 20)]);
            cache.read(Sequence(1000 + 10 * n), vec![event(1 << 20), event(0)]);
        }
        assert!(cache.newest_bytes <= BYTES_MAX && cache.pages_bytes <= BYTES_MAX);
        assert!(cache.get(Sequence(100)).is_some() && cache.get(Sequence(1)).is_none());
        assert!(cache.get(Sequence(2001)).is_some() && cache.get(Sequence(2002)).is_none());
        assert!(cache.get(Sequence(1010)).is_none());
    }

    #[test]
    fn erased_events_leave_the_cache_with_their_pages() {
        let mut cache = Cache::default();
        cache.accepted(Sequence(1), vec![event(10), event(10), event(10)]);
        cache.read(Sequence(100), vec![event(10), event(10)]);
        cache.read(Sequence(200), vec![event(10)]);
        cache.forget(&[2, 101].map(Sequence).into());
        let there = [1, 2, 3, 100, 101, 200].map(|n| cache.get(Sequence(n)).is_some());
        assert_eq!(there, [true, false, true, false, false, true]);
        assert_eq!((cache.newest_bytes, cache.pages_bytes), (2 * (10 + OVERHEAD), 10 + OVERHEAD));
    }

    #[test]
    fn every_part_of_an_event_is_weighed() {
        let mut heavy = Event::clone(&event(0));
        let long = "x".repeat(1 << 20);
        heavy.interaction = Some(long.clone());
        heavy.headers = ForwardedHeaders::new([("ce-a", long.as_str())]);
        let mut cache = Cache::default();
        (1..=20).for_each(|n| cache.accepted(Sequence(n), vec![Arc::new(heavy.clone())]));
        assert_eq!(cache.newest.len(), BYTES_MAX / heavy.weight());
        assert!(heavy.weight() > 2 << 20 && cache.newest_bytes <= BYTES_MAX);
    }

    #[test]
    fn the_cache_keeps_as_many_pages_as_fit() {
        let mut cache = Cache::default();
        (1..=20).for_each(|n| cache.read(Sequence(n), vec![event(BYTES_MAX / 4 - OVERHEAD)]));
        assert_eq!((cache.pages.len(), cache.pages_bytes), (4, BYTES_MAX / 4 * 4));
    }
}
