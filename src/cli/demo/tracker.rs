//! What sender and receiver of the demo have seen of each event, without asking the daemon.
//!
//! *Invariants.* An event is identified by its body, byte for byte; a modified body counts as unknown.

use super::traffic::Traffic;
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Identifies an event of the demo by its conversation and its position there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The index in [`Traffic::conversations`].
    pub conversation: usize,
    /// The index in the conversation.
    pub position: usize,
}

#[derive(Clone, Debug, Default)]
struct Entry {
    /// The daemon's id, from its response to the sender.
    id: Option<String>,
    attempts: u32,
    /// 2xx responses of the receiver.
    delivered: u32,
    /// The receiver refused it permanently.
    refused: bool,
}

/// Shared by sender and receiver.
#[derive(Debug)]
pub struct Tracker {
    keys: HashMap<Bytes, Key>,
    records: Mutex<Records>,
}

#[derive(Debug, Default)]
struct Records {
    conversations: Vec<Vec<Entry>>,
    totals: Totals,
}

/// The counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests of the sender with a 2xx response.
    pub answered: u64,
    /// Events that the daemon reported as accepted.
    pub accepted: u64,
    /// Requests that the daemon reported as duplicates.
    pub duplicates: u64,
    /// Requests that the daemon refused permanently.
    pub refused_by_intake: u64,
    /// Requests that reached the receiver.
    pub arrived: u64,
    /// Distinct events that the receiver answered with 2xx.
    pub delivered: u64,
    /// 2xx responses for events that already had one.
    pub repeated: u64,
    /// Distinct events that the receiver refused permanently.
    pub refused: u64,
    /// Attempts after the first, of any event.
    pub retried: u64,
    /// Requests that arrived while an earlier event of the conversation was neither delivered nor refused permanently.
    pub out_of_order: u64,
    /// Bodies that were never sent in this form.
    pub unknown: u64,
}

impl Tracker {
    /// A tracker for all events of the run.
    pub fn new(traffic: &Traffic) -> Self {
        let mut keys = HashMap::new();
        let mut conversations = Vec::new();
        for (conversation, planned) in traffic.conversations.iter().enumerate() {
            for (position, event) in planned.events.iter().enumerate() {
                keys.insert(event.body.clone(), Key { conversation, position });
            }
            conversations.push(vec![Entry::default(); planned.events.len()]);
        }
        Self { keys, records: Mutex::new(Records { conversations, totals: Totals::default() }) }
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        // the counts are plain numbers, and stay valid if another task panicked
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The daemon accepted the event under this id.
    pub fn accepted(&self, body: &Bytes, id: Option<String>) {
        let mut records = self.records();
        records.totals.answered += 1;
        records.totals.accepted += 1;
        if let Some(key) = self.keys.get(body) {
            records.entry(*key).id = id;
        }
    }

    /// The daemon reported the event as a duplicate.
    pub fn duplicate(&self) {
        let mut records = self.records();
        records.totals.answered += 1;
        records.totals.duplicates += 1;
    }

    /// The daemon refused the event permanently.
    pub fn refused_by_intake(&self) {
        self.records().totals.refused_by_intake += 1;
    }

    /// Counts a body that reached the receiver; returns its key and the number of the attempt, from 1. None for an unknown
    /// body.
    pub fn arrived(&self, body: &Bytes) -> Option<(Key, u32)> {
        let mut records = self.records();
        records.totals.arrived += 1;
        let Some(&key) = self.keys.get(body) else {
            records.totals.unknown += 1;
            return None;
        };
        let earlier = &records.conversations[key.conversation][..key.position];
        let overtaken = earlier.iter().any(|e| e.delivered == 0 && !e.refused);
        let entry = records.entry(key);
        entry.attempts += 1;
        let attempt = entry.attempts;
        records.totals.out_of_order += u64::from(overtaken);
        records.totals.retried += u64::from(attempt > 1);
        Some((key, attempt))
    }

    /// The receiver is about to answer 2xx.
    pub fn delivered(&self, key: Key) {
        let mut records = self.records();
        records.entry(key).delivered += 1;
        let first = records.entry(key).delivered == 1;
        records.totals.delivered += u64::from(first);
        records.totals.repeated += u64::from(!first);
    }

    /// The receiver is about to refuse the event permanently.
    pub fn refused(&self, key: Key) {
        let mut records = self.records();
        let before = std::mem::replace(&mut records.entry(key).refused, true);
        records.totals.refused += u64::from(!before);
    }

    /// The counts so far.
    pub fn totals(&self) -> Totals {
        self.records().totals
    }

    /// Events that were accepted, and neither delivered nor among the `dead`, which are ids of the daemon.
    pub fn lost(&self, dead: &HashSet<String>) -> u64 {
        let records = self.records();
        let entries = records.conversations.iter().flatten();
        let lost = entries.filter(|e| e.delivered == 0 && e.id.as_ref().is_some_and(|id| !dead.contains(id)));
        lost.count() as u64
    }
}

impl Records {
    fn entry(&mut self, key: Key) -> &mut Entry {
        &mut self.conversations[key.conversation][key.position]
    }
}

#[cfg(test)]
mod tests {
    use super::super::traffic::Random;
    use super::*;
    use crate::time::Timestamp;

    fn records() -> (Tracker, Vec<Bytes>) {
        let traffic = Traffic::new(Random::new(1), 40, Timestamp(1_773_957_888_128));
        let first = traffic.conversations[0].events.iter().map(|e| e.body.clone()).collect();
        (Tracker::new(&traffic), first)
    }

    #[test]
    fn an_event_that_overtakes_is_noticed() {
        let (tracker, bodies) = records();
        let (first, attempt) = tracker.arrived(&bodies[0]).unwrap();
        assert_eq!((first, attempt), (Key { conversation: 0, position: 0 }, 1));
        tracker.arrived(&bodies[1]);
        assert_eq!(tracker.totals().out_of_order, 1, "the first has no answer yet");
        tracker.delivered(first);
        assert_eq!(tracker.arrived(&bodies[1]).unwrap().1, 2);
        let totals = tracker.totals();
        assert_eq!((totals.out_of_order, totals.retried, totals.delivered), (1, 1, 1));
    }

    #[test]
    fn after_a_dead_letter_the_next_is_in_order() {
        let (tracker, bodies) = records();
        let (first, _) = tracker.arrived(&bodies[0]).unwrap();
        tracker.refused(first);
        tracker.arrived(&bodies[1]);
        assert_eq!((tracker.totals().out_of_order, tracker.totals().refused), (0, 1));
    }

    #[test]
    fn an_event_neither_delivered_nor_dead_counts_as_lost() {
        let (tracker, bodies) = records();
        for (n, body) in bodies.iter().take(3).enumerate() {
            tracker.accepted(body, Some(n.to_string()));
        }
        let (first, _) = tracker.arrived(&bodies[0]).unwrap();
        tracker.delivered(first);
        tracker.delivered(first);
        assert_eq!(tracker.lost(&HashSet::new()), 2);
        assert_eq!(tracker.lost(&HashSet::from(["1".to_owned()])), 1);
        assert_eq!(tracker.totals().repeated, 1);
    }

    #[test]
    fn a_changed_body_counts_as_unknown() {
        let (tracker, bodies) = records();
        let changed = Bytes::from([bodies[0].as_ref(), b" "].concat());
        assert_eq!(tracker.arrived(&changed), None);
        assert_eq!(tracker.totals().unknown, 1);
    }
}
