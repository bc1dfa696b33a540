//! Repairs a store that no daemon runs on: moves damaged records unchanged to the table of damaged records and reports them.
//!
//! *Invariants.* Nothing is deleted: the bytes of a damaged record are kept as a [`DamagedRecord`]. A delivery that was lost
//! with its record gets a settlement and counts as discarded, so that the counters balance. Each step is a separate commit,
//! so an interrupted repair can be run again.

use crate::delivery::{DeadLetter, Delivery, DeliveryId};
use crate::event::Sequence;
use crate::store::engine::Engine;
use crate::store::engine::error::StoreError;
use crate::store::engine::read;
use crate::store::index::Index;
use crate::store::model::codec::{self, Damaged, Kind};
use crate::store::model::delta_encoding;
use crate::store::model::event_record::Compact;
use crate::store::model::record::{DamagedRecord, EndKind, SettledRow, Settlement};
use crate::store::model::table::{TOTALS, Table, WriteBatch, delay_of, dlq_of, number_key};
use crate::time::Timestamp;

/// Sets aside the damaged records; returns their descriptions.
pub fn repair(engine: &Engine, index: &mut Index, now: Timestamp) -> Result<Vec<String>, StoreError> {
    let mut repair = Repair { engine, index, now, done: Vec::new() };
    repair.pages()?;
    repair.records::<Delivery>(Table::Delay, |key| delay_of(key).map(|(_, id)| id))?;
    repair.records::<DeadLetter>(Table::Dlq, dlq_of)?;
    repair.count()?;
    Ok(repair.done)
}

struct Repair<'a> {
    engine: &'a Engine,
    index: &'a mut Index,
    now: Timestamp,
    done: Vec<String>,
}

impl Repair<'_> {
    /// Sets aside the pages whose events cannot be read.
    fn pages(&mut self) -> Result<(), StoreError> {
        let all: Vec<_> = self.index.pages.iter().collect();
        for (first, shape) in all {
            let why = match read::page(self.engine, first) {
                Ok(events) if events.len() == usize::from(shape.count) => continue,
                Ok(_) => Damaged::Content,
                Err(StoreError::Damaged(why)) => why,
                Err(e) => return Err(e),
            };
            let lost: Vec<DeliveryId> = (0..u64::from(shape.count))
                .map(|n| first.plus(n))
                .flat_map(|sequence| {
                    let left = self.index.pages.left(sequence);
                    left.iter().map(move |destination| DeliveryId { sequence, destination }).collect::<Vec<_>>()
                })
                .collect();
            let mut batch = WriteBatch::default();
            for id in &lost {
                self.index.pages.leave(*id);
            }
            self.set_aside(&mut batch, Table::Pages, &number_key(first.0), &lost, &why)?;
            self.commit(batch)?;
        }
        Ok(())
    }

    /// Sets aside damaged records of the delay tree or the dead letter queue.
    fn records<R: Compact>(
        &mut self,
        table: Table,
        id_of: impl Fn(&[u8]) -> Result<DeliveryId, Damaged>,
    ) -> Result<(), StoreError> {
        let keys: Vec<_> = read::keys(self.engine, table, None).collect::<Result<_, _>>()?;
        for key in keys {
            let why = match read::compact::<R>(self.engine, table, &key) {
                Ok(_) => continue,
                Err(StoreError::Damaged(why)) => why,
                Err(e) => return Err(e),
            };
            let Ok(id) = id_of(&key) else { continue };
            let mut batch = WriteBatch::default();
            self.set_aside(&mut batch, table, &key, &[id], &why)?;
            self.commit(batch)?;
        }
        Ok(())
    }

    /// Moves the rows of a record to the damaged records, and settles the deliveries that were lost with it.
    fn set_aside(
        &mut self,
        batch: &mut WriteBatch,
        table: Table,
        key: &[u8],
        lost: &[DeliveryId],
        why: &Damaged,
    ) -> Result<(), StoreError> {
        let mut bytes = Vec::new();
        let end = [key, &[0xFF; 2]].concat();
        for row in self.engine.range(table, [key, &[0; 2]].concat()..=end) {
            let (row_key, value) = row?;
            // a longer key with this prefix belongs to another record
            if row_key.len() == key.len() + 2 {
                bytes.extend(value.as_ref());
                batch.delete(table, row_key.to_vec());
            }
        }
        let id = lost.first().copied().unwrap_or_else(|| DeliveryId {
            sequence: Sequence::default(),
            destination: crate::event::DestinationId(0),
        });
        self.done.push(format!(
            "`{}` record of {}: {why}; {} bytes set aside",
            table.name(),
            describe(lost),
            bytes.len()
        ));
        let totals = &mut self.index.totals;
        let record = DamagedRecord { at: self.now, table: table.name().to_owned(), id, why: why.to_string(), bytes };
        let sealed = codec::encode(Kind::DamagedRecord, &record);
        batch.put_long(Table::Damaged, &number_key(totals.next_damaged), &sealed);
        totals.next_damaged += 1;
        totals.damaged += 1;
        for chunk in lost.chunks(SettledRow::SETTLEMENTS_MAX) {
            let discarded =
                |id: &DeliveryId| Settlement { id: *id, how: EndKind::Discarded, attempts: 0, status: 0, at: self.now };
            let row = SettledRow { settlements: chunk.iter().map(discarded).collect() };
            batch.put(Table::Settled, number_key(totals.next_settlement), delta_encoding::encode(&row));
            totals.next_settlement += chunk.len() as u64;
        }
        for id in lost {
            totals.counters_mut(id.destination).discarded += 1;
        }
        Ok(())
    }

    /// Recounts the delay tree and the dead letter queue.
    fn count(&mut self) -> Result<(), StoreError> {
        for counters in &mut self.index.totals.counters {
            (counters.delayed, counters.dead) = (0, 0);
        }
        let (mut delay_bytes, mut dlq_bytes) = (0, 0);
        for key in read::keys(self.engine, Table::Delay, None) {
            let key = key?;
            self.index.totals.counters_mut(delay_of(&key)?.1.destination).delayed += 1;
            delay_bytes += sealed_bytes(self.engine, Table::Delay, &key)?;
        }
        for key in read::keys(self.engine, Table::Dlq, None) {
            let key = key?;
            self.index.totals.counters_mut(dlq_of(&key)?.destination).dead += 1;
            dlq_bytes += sealed_bytes(self.engine, Table::Dlq, &key)?;
        }
        (self.index.totals.delay_bytes, self.index.totals.dlq_bytes) = (delay_bytes, dlq_bytes);
        self.commit(WriteBatch::default())
    }

    fn commit(&mut self, mut batch: WriteBatch) -> Result<(), StoreError> {
        let totals = &mut self.index.totals;
        totals.page_bytes = self.index.pages.bytes();
        totals.floor = self.index.pages.oldest().map_or(totals.next_sequence, |(first, ..)| first);
        batch.put_long(Table::Meta, TOTALS, &codec::encode(Kind::Totals, totals));
        self.engine.commit(batch)
    }
}

fn sealed_bytes(engine: &Engine, table: Table, key: &[u8]) -> Result<u64, StoreError> {
    Ok(crate::store::model::table::get_long(engine, table, key)?.map_or(0, |sealed| sealed.len() as u64))
}

fn describe(lost: &[DeliveryId]) -> String {
    match lost {
        [] => "no delivery".to_owned(),
        [one] => format!("delivery {one}"),
        [first, .., last] => format!("deliveries {first} to {last}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::{Place, Reason};
    use crate::event::DestinationId;
    use crate::store::engine::folder::Folder;
    use crate::store::handle::{Opened, Options, Store};
    use crate::store::index::{check, recovery};
    use crate::store::model::table::dlq_key;
    use crate::store::offline::restore;
    use crate::store::write::request::{Arrival, Transition};
    use crate::testing::events::event;

    fn engine(path: &std::path::Path) -> Engine {
        crate::testing::stores::unlocked(|| Folder::open(path).and_then(Engine::open)).unwrap()
    }

    fn id(n: u64) -> DeliveryId {
        DeliveryId { sequence: Sequence(n), destination: DestinationId(0) }
    }

    /// Creates a store with four events: two are dead letters and two wait.
    async fn store_with_four_events(path: &std::path::Path) -> Engine {
        let clock = crate::clock::Clock::manual(Timestamp(1000));
        let Opened { store, committer, .. } = Store::open(path, Options::default(), clock).unwrap();
        store.register(vec!["crm".to_owned()]).await.unwrap();
        for n in 1..=4 {
            store.accept(vec![Arrival::new(event(n))]).await.unwrap();
        }
        for n in 1..=2u64 {
            let delivery = Delivery::first(id(n), event(n).into());
            let dead_letter = DeadLetter { delivery, reason: Reason::Permanent, dead_at: Timestamp(1000) };
            store.record(Transition::Dead { from: Place::Page, dead_letter: Box::new(dead_letter) });
        }
        store.flush().await.unwrap();
        drop(store);
        committer.join().unwrap();
        engine(path)
    }

    #[test]
    fn a_page_with_fewer_events_than_it_must_have_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let (engine, mut index) = check::tests::short_page(dir.path());
        let done = repair(&engine, &mut index, Timestamp(2000)).unwrap();
        assert_eq!(done.len(), 1, "{done:?}");
        assert_eq!(index.totals.counters_of(DestinationId(0)).discarded, 3);
        assert_eq!(engine.range(Table::Pages, ..).count(), 0);
    }

    #[tokio::test]
    async fn a_damaged_record_is_set_aside_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let engine = store_with_four_events(dir.path()).await;
        let (mut batch, mut damaged_rows) = (WriteBatch::default(), Vec::new());
        for (table, key) in [(Table::Pages, number_key(3)), (Table::Dlq, dlq_key(id(1))), (Table::Dlq, dlq_key(id(2)))]
        {
            let key = [&key[..], &[0, 0]].concat();
            let mut row = engine.range(table, key.clone()..=key.clone()).next().unwrap().unwrap().1.to_vec();
            row[codec::ENVELOPE] ^= 1;
            damaged_rows.push((table.name().to_owned(), row.clone()));
            batch.put(table, key, row);
        }
        engine.commit(batch).unwrap();
        drop(engine);
        let repaired = crate::testing::stores::unlocked(|| restore::repair(dir.path(), Timestamp(2000)));
        let (done, inventory) = repaired.unwrap();
        assert_eq!((done.len(), &inventory.faults), (3, &Vec::new()), "{done:?}");
        assert_eq!((inventory.accepted, inventory.waiting, inventory.dead, inventory.damaged), (4, 1, 0, 3));
        let engine = self::engine(dir.path());
        let aside = read::keys(&engine, Table::Damaged, None).map(|key| {
            let record = read::record(&engine, Table::Damaged, Kind::DamagedRecord, &key.unwrap());
            let DamagedRecord { table, bytes, .. } = record.unwrap().unwrap();
            (table, bytes)
        });
        assert_eq!(aside.collect::<Vec<_>>(), damaged_rows);
        let settled: u64 = engine
            .range(Table::Settled, ..)
            .map(|row| delta_encoding::decode::<SettledRow>(&row.unwrap().1).unwrap().settlements.len() as u64)
            .sum();
        let (index, _) = recovery::recover(&engine).unwrap();
        assert_eq!(settled, index.totals.next_settlement - index.totals.settled_head);
    }

    #[tokio::test]
    async fn a_missing_row_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let engine = store_with_four_events(dir.path()).await;
        for table in [Table::History, Table::Settled] {
            let (key, row) = engine.range(table, ..).next().unwrap().unwrap();
            let (index, _) = recovery::recover(&engine).unwrap();
            assert_eq!(check::check(&engine, &index).unwrap(), Vec::<String>::new());
            let mut batch = WriteBatch::default();
            batch.delete(table, key.to_vec());
            engine.commit(batch).unwrap();
            let faults = check::check(&engine, &index).unwrap();
            assert!(faults.iter().any(|fault| fault.starts_with(&format!("`{}` ", table.name()))), "{faults:?}");
            let mut back = WriteBatch::default();
            back.put(table, key.to_vec(), row.to_vec());
            engine.commit(back).unwrap();
        }
    }

    #[tokio::test]
    async fn damaged_records_are_set_aside_and_the_counters_balance() {
        let dir = tempfile::tempdir().unwrap();
        let engine = store_with_four_events(dir.path()).await;
        let mut batch = WriteBatch::default();
        for (table, key) in [(Table::Dlq, dlq_key(id(1))), (Table::Pages, number_key(3))] {
            let key = [&key[..], &[0, 0]].concat();
            let mut row = engine.range(table, key.clone()..=key.clone()).next().unwrap().unwrap().1.to_vec();
            let last = row.len() - 1;
            row[last] ^= 1;
            batch.put(table, key, row);
        }
        engine.commit(batch).unwrap();
        let (mut index, _) = recovery::recover(&engine).unwrap();
        assert_eq!(check::check(&engine, &index).unwrap().len(), 4, "both records, and the counters of both tables");
        let done = repair(&engine, &mut index, Timestamp(2000)).unwrap();
        assert_eq!(done.len(), 2, "{done:?}");
        assert!(done[0].contains("delivery") && done[1].contains("delivery"), "{done:?}");
        assert_eq!(read::keys(&engine, Table::Damaged, None).count(), 2, "with different numbers");
        let (mut index, findings) = recovery::recover(&engine).unwrap();
        assert_eq!(findings, Vec::<String>::new());
        assert_eq!(check::check(&engine, &index).unwrap(), Vec::<String>::new());
        let counters = index.totals.counters_of(DestinationId(0));
        assert_eq!((counters.accepted, counters.queued(), counters.dead, counters.discarded), (4, 1, 1, 2));
        assert_eq!(index.totals.damaged, 2);
        assert_eq!(
            repair(&engine, &mut index, Timestamp(3000)).unwrap(),
            Vec::<String>::new(),
            "a second repair finds nothing"
        );
    }

    #[tokio::test]
    async fn waiting_events_are_found_without_their_history() {
        let dir = tempfile::tempdir().unwrap();
        let engine = store_with_four_events(dir.path()).await;
        let (before, _) = recovery::recover(&engine).unwrap();
        let mut batch = WriteBatch::default();
        (3..=4).for_each(|n| batch.delete(Table::History, number_key(n)));
        engine.commit(batch).unwrap();
        let (index, findings) = recovery::recover(&engine).unwrap();
        assert!(findings.iter().any(|line| line.starts_with("2 of them are still in their pages;")), "{findings:?}");
        assert!((3..=4).all(|n| index.pages.left(Sequence(n)).has(DestinationId(0))));
        assert_eq!(index.pages.bytes(), before.pages.bytes());
    }
}
