//! The store with rows that are lost or do not verify: it uses the others and reports these.

use crate::clock::Clock;
use crate::delivery::{DeliveryId, Place};
use crate::event::{DestinationId, DestinationSet, Digest64, Event, Sequence};
use crate::store::engine::folder::Folder;
use crate::store::engine::{Engine, read};
use crate::store::handle::{Opened, Options, Store};
use crate::store::model::record::{DamagedRecord, EndKind};
use crate::store::model::table::{Rows, Table, WriteBatch, delay_key, number_key, redrive_key};
use crate::store::write::request::{Arrival, Erased, Erasure, Transition};
use crate::testing::stores::close;
use crate::time::Timestamp;
use std::path::Path;
use std::sync::Arc;

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const D: DestinationId = DestinationId(0);

fn open(path: &Path) -> Opened {
    crate::testing::stores::open(path, &Options::default(), &Clock::manual(NOW))
}

fn event(n: u64) -> Event {
    Event {
        received_at: NOW,
        source: "crm".to_owned(),
        interaction: Some("i".to_owned()),
        kind: "call".to_owned(),
        ..crate::testing::events::event(n)
    }
}

async fn accept(store: &Store, n: u64) {
    store.accept(vec![Arrival::new(event(n))]).await.unwrap();
}

fn id(n: u64) -> DeliveryId {
    DeliveryId { sequence: Sequence(n), destination: D }
}

async fn delivered(store: &Store, n: u64) {
    let id = id(n);
    store.record(Transition::Delivered { id, place: Place::Page, attempts: 1, status: 200, at: NOW });
    store.flush().await.unwrap();
}

/// Creates a store with events 1 to 6 in three runs, each commit with rows of its own; the odd ones are delivered.
async fn lived(path: &Path) {
    for n in [1, 3, 5] {
        let opened = open(path);
        opened.store.register(vec!["erp".to_owned()]).await.unwrap();
        accept(&opened.store, n).await;
        accept(&opened.store, n + 1).await;
        delivered(&opened.store, n).await;
        close(opened);
    }
}

/// Writes rows directly with the engine.
fn meddle(path: &Path, batch: WriteBatch) {
    let engine = crate::testing::stores::unlocked(|| Folder::open(path).and_then(Engine::open));
    engine.unwrap().commit(batch).unwrap();
}

fn lost(table: Table, key: Vec<u8>) -> WriteBatch {
    let mut batch = WriteBatch::default();
    batch.delete(table, key);
    batch
}

fn torn(table: Table, key: Vec<u8>) -> WriteBatch {
    let mut batch = WriteBatch::default();
    batch.put(table, key, b"torn".to_vec());
    batch
}

fn waiting(store: &Store) -> Vec<u64> {
    let (mut all, mut from) = (Vec::new(), store.floor());
    loop {
        let (tickets, next) = store.waiting(D, from).unwrap();
        all.extend(tickets.iter().map(|ticket| ticket.sequence.0));
        if next == from {
            return all;
        }
        from = next;
    }
}

#[tokio::test]
async fn events_whose_history_is_lost_are_delivered_from_their_pages() {
    for spoil in [lost, torn] {
        for n in [1, 2, 4, 6] {
            let dir = tempfile::tempdir().unwrap();
            lived(dir.path()).await;
            meddle(dir.path(), spoil(Table::History, number_key(n)));
            let opened = open(dir.path());
            let told = [
                format!("history of the events {n} to {n} is missing"),
                format!(
                    "{} of them are still in their pages; what was not delivered of these will be",
                    u64::from(n != 1)
                ),
            ];
            assert_eq!(opened.findings, told);
            assert_eq!(waiting(&opened.store), [2, 4, 6], "without the row of {n}");
            for n in [2, 4, 6] {
                assert_eq!(*opened.store.delivery(id(n), Place::Page).unwrap().event, event(n));
            }
            close(opened);
        }
    }
}

#[tokio::test]
async fn settlements_after_lost_ones_are_still_known() {
    for spoil in [lost, torn] {
        let dir = tempfile::tempdir().unwrap();
        lived(dir.path()).await;
        let opened = open(dir.path());
        let (head, end) = opened.store.settlement_numbers();
        assert_eq!(end - head, 3);
        close(opened);
        meddle(dir.path(), spoil(Table::Settled, number_key(head + 1)));
        let opened = open(dir.path());
        let told = format!("settlements {0} to {0} are missing; those deliveries may be made again", head + 1);
        assert_eq!(opened.findings, [told]);
        assert_eq!(opened.store.settled_from(head + 1).unwrap(), Some((Vec::new(), head + 2)));
        let all = (1..=6).map(Sequence).collect();
        let known = opened.store.settlements(&all).unwrap();
        assert_eq!(known.keys().copied().collect::<Vec<_>>(), [id(1), id(5)]);
        close(opened);
    }
}

#[tokio::test]
async fn a_settlement_row_says_nothing_about_other_events() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path());
    let store = &opened.store;
    for n in 1..=3 {
        accept(store, n).await;
    }
    delivered(store, 1).await;
    delivered(store, 2).await;
    let delivery = Arc::new(store.delivery(id(3), Place::Page).unwrap());
    store.record(Transition::Delayed { from: Place::Page, due: Timestamp(NOW.0 + 1000), delivery });
    store.flush().await.unwrap();
    let known = store.settlements(&[2, 3].map(Sequence).into()).unwrap();
    assert_eq!(known.iter().map(|(id, s)| (id.sequence.0, s.how)).collect::<Vec<_>>(), [(2, EndKind::Delivered)]);
    let entry = store.entry(Sequence(2)).unwrap().unwrap();
    assert_eq!(store.source_name(&entry).as_deref(), Some("crm"));
    assert_eq!(store.kind_name(&entry).as_deref(), Some("call"));
    close(opened);
}

#[tokio::test]
async fn a_damaged_delivery_is_set_aside_counted_and_erased_on_request() {
    let dir = tempfile::tempdir().unwrap();
    lived(dir.path()).await;
    let opened = open(dir.path());
    let store = &opened.store;
    let first_part = [number_key(4), vec![0, 0]].concat();
    let mut spoiled = store.shared.engine.row(Table::Pages, &first_part).unwrap().unwrap();
    *spoiled.last_mut().unwrap() ^= 1;
    let mut batch = WriteBatch::default();
    batch.put(Table::Pages, first_part, spoiled.clone());
    store.shared.engine.commit(batch).unwrap();
    let why = store.delivery(id(4), Place::Page).unwrap_err().to_string();
    store.record(Transition::Damaged { id: id(4), place: Place::Page, why: why.clone(), at: NOW });
    store.record(Transition::Damaged { id: id(4), place: Place::Page, why: why.clone(), at: NOW });
    store.flush().await.unwrap();
    let totals = store.totals();
    assert_eq!((totals.damaged, totals.next_damaged), (1, 2));
    assert_eq!((totals.counters_of(D).discarded, totals.counters_of(D).delivered), (1, 3));
    assert_eq!(waiting(store), [2, 6]);
    let record = DamagedRecord { at: NOW, table: "pages".to_owned(), id: id(4), why, bytes: spoiled };
    assert_eq!(record.delivery(), Some(id(4)));
    assert_eq!(store.damaged_records(u64::MAX, 9).unwrap(), [(1, record)]);
    assert_eq!(store.damaged_records(1, 9).unwrap(), []);
    assert_eq!(store.check().await.unwrap(), Vec::<String>::new());

    let traces = store.traces("i", None, Sequence(7)).unwrap();
    assert_eq!(traces.damaged, [1]);
    let erasure = Erasure { damaged: traces.damaged, ..Erasure::default() };
    let erased = store.erase(erasure, "root".to_owned()).await.unwrap();
    assert_eq!(erased, Erased { damaged: 1, ..Erased::default() });
    assert_eq!(store.damaged_records(u64::MAX, 9).unwrap(), []);
    close(opened);
}

#[tokio::test]
async fn a_sender_id_finds_the_earlier_event_after_an_erasure() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path());
    let store = &opened.store;
    store.set_windows(super::Windows { by_source: [("crm".to_owned(), std::time::Duration::from_secs(60))].into() });
    let other = Event { interaction: Some("other".to_owned()), body_digest: Digest64(9), ..event(1) };
    for e in [event(1), other, event(2)] {
        store.accept(vec![Arrival::new(e)]).await.unwrap();
    }
    assert_eq!(store.remembered("crm", "1"), Some(Sequence(2)));
    let erase = async |n: u64, key: &str| {
        let traces = store.traces(key, None, Sequence(4)).unwrap();
        let events = traces.events.into_iter().filter(|(sequence, _)| sequence.0 == n).collect();
        store.erase(Erasure { events, ..Erasure::default() }, "root".to_owned()).await.unwrap()
    };
    let one = Erased { waiting: 1, remembered: 1, ..Erased::default() };
    assert_eq!(erase(2, "other").await, one);
    assert_eq!(store.remembered("crm", "1"), Some(Sequence(1)));
    assert_eq!(erase(1, "i").await, one);
    assert_eq!((store.remembered("crm", "1"), store.remembered("crm", "2")), (None, Some(Sequence(3))));
    assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
    close(opened);
}

#[tokio::test]
async fn events_of_an_abandoned_page_still_wait_for_their_destinations() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path());
    let store = &opened.store;
    let gone = Event { interaction: Some("gone".to_owned()), ..event(2) };
    let others = Event { to: DestinationSet(0b10), ..event(3) };
    store.accept([event(1), gone, others].map(Arrival::new).into()).await.unwrap();
    let events = store.traces("gone", None, Sequence(9)).unwrap().events.into_iter().collect();
    store.erase(Erasure { events, ..Erasure::default() }, "root".to_owned()).await.unwrap();
    assert_eq!(store.left_in_page(Sequence(1)), DestinationSet::EMPTY);
    let of = |d: u8| {
        let (tickets, next) = store.waiting(DestinationId(d), Sequence(1)).unwrap();
        (tickets.iter().map(|ticket| (ticket.sequence.0, ticket.place)).collect::<Vec<_>>(), next.0)
    };
    assert_eq!((of(0), of(1)), ((vec![(1, Place::Page)], 4), (vec![(3, Place::Page)], 4)));
    assert_eq!(*store.delivery(id(1), Place::Page).unwrap().event, event(1));
    close(opened);

    let opened = open(dir.path());
    let due = delay_key(Timestamp::ZERO, id(1));
    assert!(read::keys(&opened.store.shared.engine, Table::Delay, None).any(|key| key.unwrap() == due));
    close(opened);
}

#[tokio::test]
async fn a_lost_redrive_record_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    lived(dir.path()).await;
    meddle(dir.path(), torn(Table::Meta, [redrive_key(D), vec![0, 0]].concat()));
    let opened = open(dir.path());
    assert_eq!(opened.findings.len(), 1);
    assert!(opened.findings[0].starts_with("how far a redrive had come is lost, start it again"));
    assert_eq!(opened.store.redrives(), []);
    close(opened);
}

#[tokio::test]
async fn the_store_check_reports_each_fault() {
    let dir = tempfile::tempdir().unwrap();
    lived(dir.path()).await;
    let opened = open(dir.path());
    assert_eq!(opened.store.check().await.unwrap(), Vec::<String>::new());
    opened.store.shared.engine.commit(lost(Table::Pages, [number_key(4), vec![0, 0]].concat())).unwrap();
    assert_ne!(opened.store.check().await.unwrap(), Vec::<String>::new());
    close(opened);
}

#[tokio::test]
async fn a_finished_store_that_is_damaged_stays_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    lived(dir.path()).await;
    let log = dir.path().join("queue/db");
    let mut bytes = std::fs::read(&log).unwrap();
    let named: Vec<usize> = (0..bytes.len() - 3).filter(|at| bytes[*at..*at + 3] == *b"crm").collect();
    assert!(!named.is_empty());
    named.into_iter().for_each(|at| bytes[at] ^= 1);
    std::fs::write(&log, &bytes).unwrap();
    let opened = crate::testing::stores::unlocked(|| Store::open(dir.path(), Options::default(), Clock::manual(NOW)));
    let refused = opened.map(drop).unwrap_err().to_string();
    assert!(refused.starts_with("the store is damaged and was not opened"));
    assert_eq!(std::fs::read(&log).unwrap(), bytes);
    assert!(!dir.path().join("set-aside.queue.1").exists());
}
