//! The demo's own books, kept by sender and receiver without asking the daemon: what was sent, and what became of it.
//!
//! *Invariants.* An event is known by its body, byte for byte: one that arrives changed is a stranger.

use super::traffic::Traffic;
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Names an event of the demo: conversation and position in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Its place in [`Traffic::conversations`].
    pub conversation: usize,
    /// Its place in the conversation, from 0.
    pub position: usize,
}

#[derive(Clone, Debug, Default)]
struct Entry {
    /// The daemon's id, from its answer to the sender.
    id: Option<String>,
    attempts: u32,
    /// How often the receiver answered 2xx.
    delivered: u32,
    /// Answered with a status that means "never".
    refused: bool,
}

/// Shared by sender and receiver.
#[derive(Debug)]
pub struct Ledger {
    keys: HashMap<Bytes, Key>,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    conversations: Vec<Vec<Entry>>,
    tally: Tally,
}

/// The sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests of the sender that were answered with 2xx.
    pub answered: u64,
    /// Events that the daemon said it took.
    pub accepted: u64,
    /// Requests that the daemon said it had already.
    pub duplicates: u64,
    /// Requests that the daemon refused for good.
    pub turned_away: u64,
    /// Requests that reached the receiver.
    pub arrived: u64,
    /// Different events the receiver answered with 2xx.
    pub delivered: u64,
    /// 2xx answers for an event that had one already.
    pub repeated: u64,
    /// Different events the receiver refused for good.
    pub refused: u64,
    /// Attempts after the first, of any event.
    pub retried: u64,
    /// Arrivals while an earlier event of the conversation was neither delivered nor refused for good.
    pub out_of_order: u64,
    /// Bodies that were never sent in this form.
    pub strangers: u64,
}

impl Ledger {
    /// Books with every event that is going to be sent.
    pub fn new(traffic: &Traffic) -> Self {
        let mut keys = HashMap::new();
        let mut conversations = Vec::new();
        for (conversation, planned) in traffic.conversations.iter().enumerate() {
            for (position, event) in planned.events.iter().enumerate() {
                keys.insert(event.body.clone(), Key { conversation, position });
            }
            conversations.push(vec![Entry::default(); planned.events.len()]);
        }
        Self { keys, books: Mutex::new(Books { conversations, tally: Tally::default() }) }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        // the sums are plain numbers; they are right also where another task has panicked
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The daemon took the event, under this id.
    pub fn accepted(&self, body: &Bytes, id: Option<String>) {
        let mut books = self.books();
        books.tally.answered += 1;
        books.tally.accepted += 1;
        if let Some(key) = self.keys.get(body) {
            books.entry(*key).id = id;
        }
    }

    /// The daemon had the event already.
    pub fn duplicate(&self) {
        let mut books = self.books();
        books.tally.answered += 1;
        books.tally.duplicates += 1;
    }

    /// The daemon refused the event for good.
    pub fn turned_away(&self) {
        self.books().tally.turned_away += 1;
    }

    /// A body reached the receiver: its key, and which attempt this is, from 1. None for a stranger.
    pub fn arrived(&self, body: &Bytes) -> Option<(Key, u32)> {
        let mut books = self.books();
        books.tally.arrived += 1;
        let Some(&key) = self.keys.get(body) else {
            books.tally.strangers += 1;
            return None;
        };
        let earlier = &books.conversations[key.conversation][..key.position];
        let overtaken = earlier.iter().any(|e| e.delivered == 0 && !e.refused);
        let entry = books.entry(key);
        entry.attempts += 1;
        let attempt = entry.attempts;
        books.tally.out_of_order += u64::from(overtaken);
        books.tally.retried += u64::from(attempt > 1);
        Some((key, attempt))
    }

    /// The receiver is about to answer 2xx.
    pub fn delivered(&self, key: Key) {
        let mut books = self.books();
        books.entry(key).delivered += 1;
        let first = books.entry(key).delivered == 1;
        books.tally.delivered += u64::from(first);
        books.tally.repeated += u64::from(!first);
    }

    /// The receiver is about to refuse the event for good.
    pub fn refused(&self, key: Key) {
        let mut books = self.books();
        let before = std::mem::replace(&mut books.entry(key).refused, true);
        books.tally.refused += u64::from(!before);
    }

    /// The sums so far.
    pub fn tally(&self) -> Tally {
        self.books().tally
    }

    /// How many events were accepted, but neither delivered nor lie among the `dead`, by the daemon's ids.
    pub fn lost(&self, dead: &HashSet<String>) -> u64 {
        let books = self.books();
        let entries = books.conversations.iter().flatten();
        let lost = entries.filter(|e| e.delivered == 0 && e.id.as_ref().is_some_and(|id| !dead.contains(id)));
        lost.count() as u64
    }
}

impl Books {
    fn entry(&mut self, key: Key) -> &mut Entry {
        &mut self.conversations[key.conversation][key.position]
    }
}

#[cfg(test)]
mod tests {
    use super::super::dice::Dice;
    use super::*;
    use crate::time::Timestamp;

    fn books() -> (Ledger, Vec<Bytes>) {
        let traffic = Traffic::new(Dice::new(1), 40, Timestamp(1_773_957_888_128));
        let first = traffic.conversations[0].events.iter().map(|e| e.body.clone()).collect();
        (Ledger::new(&traffic), first)
    }

    #[test]
    fn an_event_that_overtakes_is_noticed() {
        let (ledger, bodies) = books();
        let (first, attempt) = ledger.arrived(&bodies[0]).unwrap();
        assert_eq!((first, attempt), (Key { conversation: 0, position: 0 }, 1));
        ledger.arrived(&bodies[1]);
        assert_eq!(ledger.tally().out_of_order, 1, "the first has no answer yet");
        ledger.delivered(first);
        assert_eq!(ledger.arrived(&bodies[1]).unwrap().1, 2);
        let tally = ledger.tally();
        assert_eq!((tally.out_of_order, tally.retried, tally.delivered), (1, 1, 1));
    }

    #[test]
    fn after_a_dead_letter_the_next_is_in_order() {
        let (ledger, bodies) = books();
        let (first, _) = ledger.arrived(&bodies[0]).unwrap();
        ledger.refused(first);
        ledger.arrived(&bodies[1]);
        assert_eq!((ledger.tally().out_of_order, ledger.tally().refused), (0, 1));
    }

    #[test]
    fn an_event_neither_delivered_nor_dead_counts_as_lost() {
        let (ledger, bodies) = books();
        for (n, body) in bodies.iter().take(3).enumerate() {
            ledger.accepted(body, Some(n.to_string()));
        }
        let (first, _) = ledger.arrived(&bodies[0]).unwrap();
        ledger.delivered(first);
        ledger.delivered(first);
        assert_eq!(ledger.lost(&HashSet::new()), 2);
        assert_eq!(ledger.lost(&HashSet::from(["1".to_owned()])), 1);
        assert_eq!(ledger.tally().repeated, 1);
    }

    #[test]
    fn a_changed_body_counts_as_unknown() {
        let (ledger, bodies) = books();
        let changed = Bytes::from([bodies[0].as_ref(), b" "].concat());
        assert_eq!(ledger.arrived(&changed), None);
        assert_eq!(ledger.tally().strangers, 1);
    }
}
