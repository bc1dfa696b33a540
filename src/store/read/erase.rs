//! Erasure: all that lies here of one interaction, found and taken out.
//!
//! *Invariants.* An erasure counts each delivery that it takes as discarded, and stands in the audit in the same commit.
//! What an event left in `history` then says only that there was one, when, from which source and for whom: no digest of
//! its id, body or interaction is left, and no type, time or size. A page that held such an event goes as a whole: what
//! still waits of the others in it moves to the delay tree, as for a sparse page.
//!
//! Each part of an erasure is one commit, and finding is repeated until nothing is found: so one that was broken off is
//! completed by asking again, and asking twice is asking once.
//!
//! *Failure.* A page that does not verify stays as it was found, for its own damage to be told and set aside.

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

/// An interaction by its key, looked for below a sequence.
struct ErasureScan<'a> {
    key: &'a str,
    /// None: of every source.
    source: Option<&'a str>,
    interaction_hash: Digest64,
    /// Nothing of before is remembered.
    head: Sequence,
    end: Sequence,
    /// Events whose entry is erased already, of which a part may have moved on meanwhile.
    erased: BTreeSet<Sequence>,
    /// Of these events what was remembered is lost.
    lost: Vec<Range<Sequence>>,
    found: EventLocations,
}

impl ErasureScan<'_> {
    /// Whether the key alone says that the record under it is of the interaction; none where the record must be read.
    fn tells(&self, sequence: Sequence) -> Option<bool> {
        if sequence >= self.end {
            return Some(false);
        }
        if self.found.events.contains_key(&sequence) {
            return Some(true);
        }
        let lost = self.lost.iter().any(|lost| lost.contains(&sequence));
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
    /// All that lies here of an interaction, of events before `end`. Blocks, for as long as it takes to read what is
    /// remembered; what was recorded and is not written yet is not seen.
    pub fn traces(&self, key: &str, source: Option<&str>, end: Sequence) -> Result<EventLocations, StoreError> {
        let interaction_hash = Digest64::of_interaction(key);
        let head = self.index().totals.history_head;
        let (erased, lost, found) = (BTreeSet::new(), Vec::new(), EventLocations::default());
        let mut hunt = ErasureScan { key, source, interaction_hash, head, end, erased, lost, found };
        self.hunt_history(&mut hunt)?;
        for (sequence, trace) in &mut hunt.found.events {
            let left = self.index().pages.left(*sequence);
            trace.waiting.extend(left.iter().map(|d| (d, Place::Page)));
        }
        self.hunt_delayed(&mut hunt)?;
        self.hunt_dead(&mut hunt)?;
        self.hunt_damaged(&mut hunt)?;
        Ok(hunt.found)
    }

    /// What is remembered; and where that is lost, the pages themselves, and later the other records.
    fn hunt_history(&self, hunt: &mut ErasureScan<'_>) -> Result<(), StoreError> {
        let engine = &self.shared.engine;
        let mut next = hunt.head;
        while next < hunt.end {
            let row = match read::covering::<HistoryRow>(engine, next.0) {
                Err(StoreError::Damaged(_)) => None,
                row => row?,
            };
            let Some((first, row)) = row else {
                let behind = engine.range(Table::History, number_key(next.0 + 1)..).next().transpose()?;
                let behind = behind.map(|(key, _)| number_of(&key)).transpose()?.map_or(hunt.end, Sequence);
                self.hunt_pages(hunt, next, behind)?;
                hunt.lost.push(next..behind);
                next = behind;
                continue;
            };
            for (sequence, entry) in (first..).map(Sequence).zip(&row.entries).filter(|(s, _)| *s < hunt.end) {
                if entry.is_erased() {
                    hunt.erased.insert(sequence);
                } else if entry.interaction_hash == hunt.interaction_hash
                    && hunt.is_from(&self.source_name(entry).unwrap_or_default())
                {
                    hunt.found.events.entry(sequence).or_default().order_key = self.order_key_of(entry);
                }
            }
            next = Sequence(first + row.entries.len() as u64);
        }
        Ok(())
    }

    fn hunt_pages(&self, hunt: &mut ErasureScan<'_>, from: Sequence, to: Sequence) -> Result<(), StoreError> {
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
                if sequence < hunt.end && hunt.is_of(&event) {
                    hunt.found.events.entry(sequence).or_default().order_key = self.order_key(&event);
                }
            }
        }
        Ok(())
    }

    fn hunt_delayed(&self, hunt: &mut ErasureScan<'_>) -> Result<(), StoreError> {
        for key in read::keys(&self.shared.engine, Table::Delay, None) {
            let key = key?;
            let (due, id) = delay_of(&key)?;
            let order_key = match hunt.tells(id.sequence) {
                Some(false) => continue,
                Some(true) => None,
                None => match read::head::<Delivery>(&self.shared.engine, Table::Delay, &key) {
                    Err(StoreError::Damaged(_)) => continue,
                    head => match head?.map(|head| head.record).filter(|delivery| hunt.is_of(&delivery.event)) {
                        Some(delivery) => Some(self.order_key(&delivery.event)),
                        None => continue,
                    },
                },
            };
            let trace = hunt.found.trace(id.sequence, order_key);
            trace.waiting.push((id.destination, Place::under(due)));
        }
        Ok(())
    }

    fn hunt_dead(&self, hunt: &mut ErasureScan<'_>) -> Result<(), StoreError> {
        for key in read::keys(&self.shared.engine, Table::Dlq, None) {
            let key = key?;
            let id = dlq_of(&key)?;
            let order_key = match hunt.tells(id.sequence) {
                Some(false) => continue,
                Some(true) => None,
                None => match read::head::<DeadLetter>(&self.shared.engine, Table::Dlq, &key) {
                    Err(StoreError::Damaged(_)) => continue,
                    head => match head?.map(|head| head.record).filter(|letter| hunt.is_of(&letter.delivery.event)) {
                        Some(letter) => Some(self.order_key(&letter.delivery.event)),
                        None => continue,
                    },
                },
            };
            hunt.found.trace(id.sequence, order_key).dead.push(id.destination);
        }
        Ok(())
    }

    /// Records that did not verify: those of its events, and those whose bytes name it.
    fn hunt_damaged(&self, hunt: &mut ErasureScan<'_>) -> Result<(), StoreError> {
        for key in read::keys(&self.shared.engine, Table::Damaged, None) {
            let number = number_of(&key?)?;
            let key = number_key(number);
            let record = read::record::<DamagedRecord>(&self.shared.engine, Table::Damaged, Kind::DamagedRecord, &key);
            let record = match record {
                Err(StoreError::Damaged(_)) => continue,
                record => record?,
            };
            let names = |bytes: &[u8]| {
                !hunt.key.is_empty() && bytes.windows(hunt.key.len()).any(|window| window == hunt.key.as_bytes())
            };
            if record.is_some_and(|r| hunt.tells(r.id.sequence) == Some(true) || names(&r.bytes)) {
                hunt.found.damaged.push(number);
            }
        }
        Ok(())
    }

    /// Takes a part of what was found out, in one commit with its audit entry.
    pub async fn erase(&self, erasure: Erasure, who: String) -> Result<Erased, StoreError> {
        self.ask(0, move |t| t.erase(&erasure, &who)).await
    }

    /// Forgets what memory holds of events that were erased.
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

    /// Events 1 to 8, the odd ones of interaction `a`: the first two wait in a page, the next two for a time, the next two
    /// are dead letters, the last two are delivered.
    async fn lived(path: &Path) {
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
                    let letter = DeadLetter { delivery, reason: Reason::Permanent, dead_at: at };
                    Transition::Dead { from, letter: Box::new(letter) }
                }
                _ => Transition::Delivered { id, place: from, attempts: 1, status: 200, at },
            });
        }
        store.flush().await.unwrap();
        close(opened);
    }

    fn forget_history(path: &Path) {
        let engine = crate::testing::stores::unlocked(|| Folder::open(path).and_then(Engine::open));
        let mut draft = WriteBatch::default();
        (1..=8).for_each(|n| draft.delete(Table::History, number_key(n)));
        engine.unwrap().commit(draft).unwrap();
    }

    fn trace(waiting: &[Place], dead: usize) -> EventLocation {
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
        lived(dir.path()).await;
        let opened = open(dir.path());
        let mut found = BTreeMap::from([
            (Sequence(1), trace(&[Place::Page], 0)),
            (Sequence(3), trace(&[Place::Delay(DUE)], 0)),
            (Sequence(5), trace(&[], 1)),
            (Sequence(7), trace(&[], 0)),
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
        lived(dir.path()).await;
        forget_history(dir.path());
        let opened = open(dir.path());
        let mut found = BTreeMap::from([
            (Sequence(1), trace(&[Place::Page], 0)),
            (Sequence(3), trace(&[Place::Delay(DUE)], 0)),
            (Sequence(5), trace(&[], 1)),
        ]);
        assert_eq!(opened.store.traces("a", None, Sequence(9)).unwrap().events, found);
        found.retain(|sequence, _| sequence.0 < 3);
        assert_eq!(opened.store.traces("a", None, Sequence(3)).unwrap().events, found);
        close(opened);
    }
}
