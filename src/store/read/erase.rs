//! Erasure: finds and deletes everything that is stored of an interaction.
//!
//! *Invariants.* Each erased delivery counts as discarded; the audit entry is in the same commit. An erased event leaves in
//! `history` only its time of acceptance, source and destinations: no digest of its id, body or interaction, no type, time
//! or size. A page with an erased event is deleted as a whole: the waiting deliveries of its other events move to the delay
//! tree, as for a sparse page.
//!
//! Each part of an erasure is one commit, and the scan is repeated until it finds nothing. So an interrupted erasure is
//! completed by repeating it, and repeating a completed one changes nothing.
//!
//! *Failure.* A page that does not verify is left unchanged; its damage is reported and set aside elsewhere.

use crate::delivery::{DeadLetter, Delivery, Place};
use crate::event::{Digest64, Event, Sequence};
use crate::store::engine::error::StoreError;
use crate::store::engine::read;
use crate::store::handle::Store;
use crate::store::model::codec::Kind;
use crate::store::model::record::{DamagedRecord, HistoryRow};
use crate::store::model::table::{Table, delay_of, dlq_of, number_key, number_of};
use crate::store::write::request::{Erased, Erasure, EventLocations};
use std::collections::BTreeSet;
use std::ops::Range;

/// A scan for the events of an interaction before a sequence.
struct ErasureScan<'a> {
    key: &'a str,
    /// `None` for all sources.
    source: Option<&'a str>,
    interaction_hash: Digest64,
    /// The first sequence in history.
    head: Sequence,
    end: Sequence,
    /// Events whose history is erased already, of which a delivery may have moved meanwhile.
    erased: BTreeSet<Sequence>,
    /// Events whose history is lost.
    lost_history: Vec<Range<Sequence>>,
    found: EventLocations,
}

impl ErasureScan<'_> {
    /// Whether a record belongs to the interaction, by its key alone; `None` if the record must be read.
    fn matches_by_key(&self, sequence: Sequence) -> Option<bool> {
        if sequence >= self.end {
            return Some(false);
        }
        if self.found.events.contains_key(&sequence) {
            return Some(true);
        }
        let lost = self.lost_history.iter().any(|range| range.contains(&sequence));
        let unknown = sequence < self.head || self.erased.contains(&sequence) || lost;
        (!unknown).then_some(false)
    }

    fn is_from(&self, source: &str) -> bool {
        self.source.is_none_or(|wanted| wanted == source)
    }

    fn is_of(&self, event: &Event) -> bool {
        event.interaction.as_deref() == Some(self.key) && self.is_from(&event.source)
    }
}

impl Store {
    /// Everything that is stored of an interaction, of events before `end`. Blocks while it reads the whole history;
    /// uncommitted changes are not included.
    pub fn traces(&self, key: &str, source: Option<&str>, end: Sequence) -> Result<EventLocations, StoreError> {
        let interaction_hash = Digest64::of_interaction(key);
        let head = self.index().totals.history_head;
        let (erased, lost_history, found) = (BTreeSet::new(), Vec::new(), EventLocations::default());
        let mut scan = ErasureScan { key, source, interaction_hash, head, end, erased, lost_history, found };
        self.scan_history(&mut scan)?;
        for (sequence, location) in &mut scan.found.events {
            let left = self.index().pages.left(*sequence);
            location.waiting.extend(left.iter().map(|d| (d, Place::Page)));
        }
        self.scan_delayed(&mut scan)?;
        self.scan_dead_letters(&mut scan)?;
        self.scan_damaged_records(&mut scan)?;
        Ok(scan.found)
    }

    /// Scans history; where it is lost, the pages instead. The other records are scanned later.
    fn scan_history(&self, scan: &mut ErasureScan<'_>) -> Result<(), StoreError> {
        let engine = &self.shared.engine;
        let mut next = scan.head;
        while next < scan.end {
            let row = match read::covering::<HistoryRow>(engine, next.0) {
                Err(StoreError::Damaged(_)) => None,
                row => row?,
            };
            let Some((first, row)) = row else {
                let following = engine.range(Table::History, number_key(next.0 + 1)..).next().transpose()?;
                let end = following.map(|(key, _)| number_of(&key)).transpose()?.map_or(scan.end, Sequence);
                self.scan_pages(scan, next, end)?;
                scan.lost_history.push(next..end);
                next = end;
                continue;
            };
            for (sequence, entry) in (first..).map(Sequence).zip(&row.entries).filter(|(s, _)| *s < scan.end) {
                if entry.is_erased() {
                    scan.erased.insert(sequence);
                } else if entry.interaction_hash == scan.interaction_hash
                    && scan.is_from(&self.source_name(entry).unwrap_or_default())
                {
                    scan.found.events.entry(sequence).or_default().order_key = self.order_key_of(entry);
                }
            }
            next = Sequence(first + row.entries.len() as u64);
        }
        Ok(())
    }

    fn scan_pages(&self, scan: &mut ErasureScan<'_>, from: Sequence, to: Sequence) -> Result<(), StoreError> {
        let pages: Vec<Sequence> = {
            let index = self.index();
            index.pages.iter().map(|(first, _)| first).filter(|first| (from..to).contains(first)).collect()
        };
        for first in pages {
            let events = match read::page(&self.shared.engine, first) {
                Err(StoreError::Damaged(_)) => continue,
                events => events?,
            };
            for (sequence, event) in (first.0..).map(Sequence).zip(events) {
                if sequence < scan.end && scan.is_of(&event) {
                    scan.found.events.entry(sequence).or_default().order_key = self.order_key(&event);
                }
            }
        }
        Ok(())
    }

    fn scan_delayed(&self, scan: &mut ErasureScan<'_>) -> Result<(), StoreError> {
        for key in read::keys(&self.shared.engine, Table::Delay, None) {
            let key = key?;
            let (due, id) = delay_of(&key)?;
            let order_key = match scan.matches_by_key(id.sequence) {
                Some(false) => continue,
                Some(true) => None,
                None => match read::head::<Delivery>(&self.shared.engine, Table::Delay, &key) {
                    Err(StoreError::Damaged(_)) => continue,
                    head => match head?.map(|head| head.record).filter(|delivery| scan.is_of(&delivery.event)) {
                        Some(delivery) => Some(self.order_key(&delivery.event)),
                        None => continue,
                    },
                },
            };
            let location = scan.found.trace(id.sequence, order_key);
            location.waiting.push((id.destination, Place::under(due)));
        }
        Ok(())
    }

    fn scan_dead_letters(&self, scan: &mut ErasureScan<'_>) -> Result<(), StoreError> {
        for key in read::keys(&self.shared.engine, Table::Dlq, None) {
            let key = key?;
            let id = dlq_of(&key)?;
            let order_key = match scan.matches_by_key(id.sequence) {
                Some(false) => continue,
                Some(true) => None,
                None => match read::head::<DeadLetter>(&self.shared.engine, Table::Dlq, &key) {
                    Err(StoreError::Damaged(_)) => continue,
                    head => match head?
                        .map(|head| head.record)
                        .filter(|dead_letter| scan.is_of(&dead_letter.delivery.event))
                    {
                        Some(dead_letter) => Some(self.order_key(&dead_letter.delivery.event)),
                        None => continue,
                    },
                },
            };
            scan.found.trace(id.sequence, order_key).dead.push(id.destination);
        }
        Ok(())
    }

    /// Damaged records: those of the found events, and those whose bytes contain the interaction's key.
    fn scan_damaged_records(&self, scan: &mut ErasureScan<'_>) -> Result<(), StoreError> {
        for key in read::keys(&self.shared.engine, Table::Damaged, None) {
            let number = number_of(&key?)?;
            let key = number_key(number);
            let record = read::record::<DamagedRecord>(&self.shared.engine, Table::Damaged, Kind::DamagedRecord, &key);
            let record = match record {
                Err(StoreError::Damaged(_)) => continue,
                record => record?,
            };
            let contains_key = |bytes: &[u8]| {
                !scan.key.is_empty() && bytes.windows(scan.key.len()).any(|window| window == scan.key.as_bytes())
            };
            if record.is_some_and(|r| scan.matches_by_key(r.id.sequence) == Some(true) || contains_key(&r.bytes)) {
                scan.found.damaged.push(number);
            }
        }
        Ok(())
    }

    /// Erases a part of what was found, in one commit with its audit entry.
    pub async fn erase(&self, erasure: Erasure, who: String) -> Result<Erased, StoreError> {
        self.ask(0, move |t| t.erase(&erasure, &who)).await
    }

    /// Removes erased events from the cache.
    pub fn forget_cached(&self, of: &BTreeSet<Sequence>) {
        self.shared.cache.lock().expect("no holder panics").forget(of);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::{DeliveryId, Reason};
    use crate::event::DestinationId;
    use crate::store::EventLocation;
    use crate::store::engine::Engine;
    use crate::store::engine::folder::Folder;
    use crate::store::handle::{Opened, Options};
    use crate::store::model::table::WriteBatch;
    use crate::store::write::request::{Arrival, Transition};
    use crate::testing::stores::close;
    use crate::time::Timestamp;
    use std::collections::BTreeMap;
    use std::path::Path;

    const DUE: Timestamp = Timestamp(5000);

    fn open(path: &Path) -> Opened {
        crate::testing::stores::open(path, &Options::default(), &crate::clock::Clock::manual(Timestamp(1000)))
    }

    fn event(n: u64, interaction: &str) -> Event {
        Event { interaction: Some(interaction.to_owned()), ..crate::testing::events::event(n) }
    }

    /// Creates a store with events 1 to 8, the odd ones of interaction `a`: 1 and 2 wait in a page, 3 and 4 are delayed, 5
    /// and 6 are dead letters, 7 and 8 are delivered.
    async fn store_with_eight_events(path: &Path) {
        let opened = open(path);
        let (store, from, at) = (&opened.store, Place::Page, Timestamp(1000));
        store.register(vec!["crm".to_owned()]).await.unwrap();
        for n in 1..=8 {
            store.accept(vec![Arrival::new(event(n, if n % 2 == 1 { "a" } else { "b" }))]).await.unwrap();
        }
        for n in 3..=8 {
            let id = DeliveryId { sequence: Sequence(n), destination: DestinationId(0) };
            let delivery = store.delivery(id, from).unwrap();
            store.record(match n {
                3 | 4 => Transition::Delayed { from, due: DUE, delivery: delivery.into() },
                5 | 6 => {
                    let dead_letter = DeadLetter { delivery, reason: Reason::Permanent, dead_at: at };
                    Transition::Dead { from, dead_letter: Box::new(dead_letter) }
                }
                _ => Transition::Delivered { id, place: from, attempts: 1, status: 200, at },
            });
        }
        store.flush().await.unwrap();
        close(opened);
    }

    fn delete_history(path: &Path) {
        let engine = crate::testing::stores::unlocked(|| Folder::open(path).and_then(Engine::open));
        let mut batch = WriteBatch::default();
        (1..=8).for_each(|n| batch.delete(Table::History, number_key(n)));
        engine.unwrap().commit(batch).unwrap();
    }

    fn location(waiting: &[Place], dead: usize) -> EventLocation {
        let here = DestinationId(0);
        let order_key = crate::event::SharedKeys::default().order_key(Digest64::of_interaction("a"), "s");
        EventLocation {
            order_key,
            waiting: waiting.iter().map(|place| (here, *place)).collect(),
            dead: vec![here; dead],
        }
    }

    #[tokio::test]
    async fn an_erasure_finds_exactly_the_interaction_before_an_event() {
        let dir = tempfile::tempdir().unwrap();
        store_with_eight_events(dir.path()).await;
        let opened = open(dir.path());
        let mut found = BTreeMap::from([
            (Sequence(1), location(&[Place::Page], 0)),
            (Sequence(3), location(&[Place::Delay(DUE)], 0)),
            (Sequence(5), location(&[], 1)),
            (Sequence(7), location(&[], 0)),
        ]);
        assert_eq!(opened.store.traces("a", None, Sequence(9)).unwrap().events, found);
        found.retain(|sequence, _| sequence.0 < 5);
        assert_eq!(opened.store.traces("a", None, Sequence(5)).unwrap().events, found);
        assert!(opened.store.traces("c", None, Sequence(9)).unwrap().is_empty());
        assert!(opened.store.traces("a", Some("t"), Sequence(9)).unwrap().is_empty());
        assert_eq!(opened.store.traces("a", Some("s"), Sequence(5)).unwrap().events, found);
        close(opened);
    }

    #[tokio::test]
    async fn an_erasure_finds_events_whose_history_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        store_with_eight_events(dir.path()).await;
        delete_history(dir.path());
        let opened = open(dir.path());
        let mut found = BTreeMap::from([
            (Sequence(1), location(&[Place::Page], 0)),
            (Sequence(3), location(&[Place::Delay(DUE)], 0)),
            (Sequence(5), location(&[], 1)),
        ]);
        assert_eq!(opened.store.traces("a", None, Sequence(9)).unwrap().events, found);
        found.retain(|sequence, _| sequence.0 < 3);
        assert_eq!(opened.store.traces("a", None, Sequence(3)).unwrap().events, found);
        close(opened);
    }
}
