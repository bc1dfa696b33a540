//! Guarantees of the store alone: acceptance, the place of a delivery, recovery, the check.

use crate::harness::bench::arriving as event;
use crate::harness::stores;
use holdline::clock::Clock;
use holdline::delivery::{Attempt, DeadLetter, Delivery, DeliveryId, Outcome, Place, Reason, Ticket};
use holdline::event::{DestinationId, Event, Sequence};
use holdline::store::{Arrival, DlqAction, Opened, Options, Receipt, Store, Transition, Windows};
use holdline::time::Timestamp;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const START: Timestamp = Timestamp(1_800_000_000_000);
const D: DestinationId = DestinationId(0);

fn options() -> Options {
    let by_source = HashMap::from([("default".to_owned(), Duration::from_secs(3600))]);
    Options { windows: Windows { by_source }, ..Options::default() }
}

struct Bench {
    store: Store,
    committer: std::thread::JoinHandle<()>,
    findings: Vec<String>,
}

impl Bench {
    fn open(path: &Path, clock: &Clock) -> Self {
        let Opened { store, committer, findings, .. } = stores::open(path, &options(), clock);
        Self { store, committer, findings }
    }

    /// Closes the store.
    fn close(self) {
        drop(self.store);
        self.committer.join().unwrap();
    }

    async fn accept(&self, events: Vec<Event>) -> Vec<Receipt> {
        self.store.accept(events.into_iter().map(Arrival::new).collect()).await.unwrap()
    }

    async fn sound(&self) {
        assert_eq!(self.store.check().await.unwrap(), Vec::<String>::new());
    }

    fn waiting(&self, d: DestinationId) -> Vec<Ticket> {
        let (mut all, mut from) = (Vec::new(), self.store.floor());
        loop {
            let (tickets, next) = self.store.waiting(d, from).unwrap();
            all.extend(tickets);
            if next == from {
                return all;
            }
            from = next;
        }
    }

    fn delivery(&self, sequence: u64, place: Place) -> Delivery {
        self.store.delivery(id(sequence), place).unwrap()
    }

    fn delivered(&self, id: DeliveryId, place: Place) {
        self.store.record(Transition::Delivered { id, place, attempts: 1, status: 200, at: START });
    }
}

fn id(sequence: u64) -> DeliveryId {
    DeliveryId { sequence: Sequence(sequence), destination: D }
}

fn failed(mut delivery: Delivery, n: u32) -> Arc<Delivery> {
    delivery.attempts.push(Attempt {
        number: n,
        at: START,
        latency_ms: 12,
        outcome: Outcome::Answered(503),
        error: String::new(),
        answer: vec![b'x'; Attempt::ANSWER_MAX],
    });
    Arc::new(delivery)
}

fn body(n: usize, size: usize) -> Vec<u8> {
    let mut body = format!("{{\"n\":{n},\"pad\":\"").into_bytes();
    body.resize(size.max(body.len()), b'x');
    body.extend(b"\"}");
    body
}

#[tokio::test]
async fn i1_i6_events_of_every_size_survive_a_restart() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let sizes = [0, 1, 100, 1100, 16_000, 16_384, 40_000, 262_144, 1_048_576];
    let bench = Bench::open(dir.path(), &clock);
    let mut sent = Vec::new();
    for round in 0..20 {
        let events: Vec<Event> = (0..sizes.len())
            .map(|n| event(&format!("i{n}"), &format!("{round}-{n}"), &body(n, sizes[n]), 2, clock.now()))
            .collect();
        sent.extend(events.clone());
        let receipts = bench.accept(events).await;
        assert!(receipts.iter().all(|r| matches!(r, Receipt::Queued(_))));
    }
    bench.sound().await;
    bench.close();
    let bench = Bench::open(dir.path(), &clock);
    assert!(bench.findings.is_empty());
    for d in [0, 1] {
        let waiting = bench.waiting(DestinationId(d));
        assert_eq!(waiting.len(), sent.len());
        for (ticket, event) in waiting.iter().zip(&sent) {
            let id = DeliveryId { sequence: ticket.sequence, destination: DestinationId(d) };
            assert_eq!(*bench.store.delivery(id, ticket.place).unwrap().event, *event);
        }
    }
    bench.sound().await;
    bench.close();
}

#[tokio::test]
async fn i4_i5_duplicates_are_known_over_a_restart_and_conflicts_are_kept() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let bench = Bench::open(dir.path(), &clock);
    let (a, b) = (event("k", "id-1", b"{\"a\":1}", 1, clock.now()), event("k", "id-1", b"{\"a\":2}", 1, clock.now()));
    let receipts = bench.accept(vec![a.clone(), a.clone(), b.clone(), a.clone(), b.clone()]).await;
    let Receipt::Queued(first) = receipts[0] else { panic!("{receipts:?}") };
    let Receipt::Queued(second) = receipts[2] else { panic!("{receipts:?}") };
    assert_eq!(receipts[1], Receipt::Duplicate(first));
    assert_eq!(receipts[3..], [Receipt::Duplicate(first), Receipt::Duplicate(second)]);
    bench.close();

    let bench = Bench::open(dir.path(), &clock);
    assert_eq!(bench.accept(vec![b.clone(), a.clone()]).await, [Receipt::Duplicate(second), Receipt::Duplicate(first)]);
    bench.close();

    // the counters of a batch of duplicates alone are durable too
    let bench = Bench::open(dir.path(), &clock);
    let totals = bench.store.totals();
    assert_eq!((totals.accepted, totals.duplicates, totals.conflicts), (2, 5, 1));
    let tickets = bench.waiting(D);
    assert!(!bench.delivery(tickets[0].sequence.0, Place::Page).event.conflict);
    assert!(bench.delivery(tickets[1].sequence.0, Place::Page).event.conflict);

    // an event without id is never a duplicate
    let without_id = event("k", "", b"{}", 1, clock.now());
    assert!(bench.accept(vec![without_id.clone(), without_id]).await.iter().all(|r| matches!(r, Receipt::Queued(_))));

    // after the window it is a new event
    clock.advance(Duration::from_secs(3601));
    assert!(matches!(bench.accept(vec![a]).await[0], Receipt::Queued(_)));
    bench.sound().await;
    bench.close();
}

#[tokio::test]
async fn a_changed_dedup_window_applies_at_once() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let bench = Bench::open(dir.path(), &clock);
    let a = event("k", "id-1", b"{}", 1, clock.now());
    bench.accept(vec![a.clone()]).await;
    clock.advance(Duration::from_secs(61));
    assert!(matches!(bench.accept(vec![a.clone()]).await[0], Receipt::Duplicate(_)));
    let by_source = HashMap::from([("default".to_owned(), Duration::from_secs(60))]);
    bench.store.set_windows(Windows { by_source });
    assert!(matches!(bench.accept(vec![a]).await[0], Receipt::Queued(_)));
    bench.close();
}

#[tokio::test]
async fn i24_a_delivery_is_always_in_exactly_one_place() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let mut bench = Bench::open(dir.path(), &clock);
    bench.accept((0..10).map(|n| event("k", &n.to_string(), &body(n, 3000), 1, START)).collect()).await;
    let due = START.after(Duration::from_secs(1));
    // 1 and 2 are delayed; 2 fails again in the same commit and becomes a dead letter; 3 is delivered
    bench.store.record(Transition::Delayed {
        from: Place::Page,
        due,
        delivery: failed(bench.delivery(1, Place::Page), 1),
    });
    let second = failed(bench.delivery(2, Place::Page), 1);
    bench.store.record(Transition::Delayed { from: Place::Page, due, delivery: second.clone() });
    let dead_letter = DeadLetter {
        delivery: Arc::unwrap_or_clone(failed(Delivery::clone(&second), 2)),
        reason: Reason::Exhausted,
        dead_at: START,
    };
    bench.store.record(Transition::Dead { from: Place::Delay(due), dead_letter: Box::new(dead_letter.clone()) });
    bench.delivered(id(3), Place::Page);
    bench.delivered(id(3), Place::Page);
    bench.sound().await;
    for _ in 0..2 {
        let counters = bench.store.totals().counters_of(D);
        assert_eq!(
            (counters.accepted, counters.delivered, counters.delayed, counters.dead, counters.queued()),
            (10, 1, 1, 1, 8)
        );
        assert_eq!(bench.waiting(D).iter().map(|t| t.sequence.0).collect::<Vec<_>>(), [4, 5, 6, 7, 8, 9, 10]);
        let delayed: Vec<_> = bench.store.delayed().map(|d| d.unwrap().unwrap()).collect();
        assert_eq!((delayed.len(), delayed[0].ticket.place, delayed[0].attempts), (1, Place::Delay(due), 1));
        assert_eq!(bench.store.dead_letter(id(2)).unwrap(), Some(dead_letter.clone()));
        bench.sound().await;
        bench.close();
        bench = Bench::open(dir.path(), &clock);
    }
    // a second redrive has no effect; attempts are kept
    let redriven = bench.store.dlq(DlqAction::Redrive, vec![id(2), id(3)], "test".to_owned()).await.unwrap();
    let again = bench.store.dlq(DlqAction::Redrive, vec![id(2)], "test".to_owned()).await.unwrap();
    assert_eq!((redriven, again), (1, 0));
    let delivery = bench.delivery(2, Place::Delay(clock.now()));
    assert!(delivery.redriven);
    assert_eq!((delivery.next_attempt(), delivery.tried_since_redrive(), delivery.attempts.len()), (3, 0, 2));
    bench.sound().await;
    bench.close();
}

#[tokio::test]
async fn a_damaged_delivery_is_set_aside_discarded_and_counted() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let bench = Bench::open(dir.path(), &clock);
    bench.accept((1..=3).map(|n| event("k", &format!("id-{n}"), b"{}", 1, clock.now())).collect()).await;
    for n in 1..=2 {
        let why = "as if it did not verify".to_owned();
        bench.store.record(Transition::Damaged { id: id(n), place: Place::Page, why, at: START });
    }
    bench.store.flush().await.unwrap();
    let totals = bench.store.totals();
    let counters = totals.counters_of(D);
    assert_eq!((counters.accepted, counters.queued(), counters.discarded), (3, 1, 2));
    assert_eq!((totals.damaged, totals.next_damaged), (2, 3));
    bench.sound().await;
    bench.close();
}

#[tokio::test]
async fn i18_old_rows_are_removed_and_a_nearly_empty_page_pins_nothing() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let bench = Bench::open(dir.path(), &clock);
    let mut waiting_events = BTreeSet::new();
    for batch in 0..80usize {
        let events = (0..256).map(|n| event("", &format!("{batch}-{n}"), b"{}", 1, clock.now())).collect();
        bench.accept(events).await;
        let first = batch as u64 * 256 + 1;
        for n in first..first + 256 {
            if n % 5000 == 1 {
                waiting_events.insert(n);
            } else {
                bench.delivered(id(n), Place::Page)
            }
        }
        clock.advance(Duration::from_secs(120));
    }
    bench.store.flush().await.unwrap();
    for n in 0..200 {
        // small commits, so that maintenance can follow
        bench.accept(vec![event("", &format!("late-{n}"), b"{}", 1, clock.now())]).await;
        clock.advance(Duration::from_secs(2));
    }
    bench.sound().await;
    let totals = bench.store.totals();
    assert!(totals.next_sequence.0 - totals.floor.0 <= 16_384 + 256, "waiting events pin all pages: {totals:?}");
    assert!(totals.history_head.0 > 4_000 && totals.settled_head > 4_000, "{totals:?}");
    let moved = totals.counters_of(D).delayed;
    assert!(moved > 0);
    for n in &waiting_events {
        assert_eq!(bench.delivery(*n, Place::Page).event.body.as_ref(), b"{}");
        bench.delivered(id(*n), Place::Page);
    }
    bench.sound().await;
    assert_eq!(bench.store.totals().counters_of(D).queued(), 200);
    bench.close();
}

#[tokio::test]
async fn i22_a_store_allows_one_process_and_no_newer_format() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let bench = Bench::open(dir.path(), &clock);
    let second = Store::open(dir.path(), options(), clock.clone()).unwrap_err().to_string();
    assert!(second.contains("in use by another holdline"), "{second}");
    bench.close();
    std::fs::write(dir.path().join("format"), "4\n").unwrap();
    let newer = Store::open(dir.path(), options(), clock.clone()).unwrap_err().to_string();
    assert!(newer.contains("newer holdline (format 4"), "{newer}");
}

#[tokio::test]
async fn i20_only_a_store_cut_short_in_creation_is_recreated() {
    let clock = Clock::manual(START);
    for format in [None, Some("")] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("queue")).unwrap();
        let tear = || std::fs::write(dir.path().join("queue/conf"), "segment_size: 2097152\nuse_compr").unwrap();
        tear();
        if let Some(text) = format {
            std::fs::write(dir.path().join("format"), text).unwrap();
        }
        let bench = Bench::open(dir.path(), &clock);
        bench.accept(vec![event("k", "1", b"{}", 1, START)]).await;
        bench.close();
        assert!(dir.path().join("set-aside.queue.1/conf").exists());
        assert_eq!(std::fs::read_to_string(dir.path().join("format")).unwrap(), "3\n");
        tear();
        let damaged = Store::open(dir.path(), options(), clock.clone()).unwrap_err().to_string();
        assert!(damaged.contains("damaged"), "{damaged}");
        assert!(!dir.path().join("set-aside.queue.2").exists());
    }
}

#[tokio::test]
async fn i20_a_half_made_snapshot_does_not_prevent_opening() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let bench = Bench::open(dir.path(), &clock);
    bench.accept(vec![event("k", "1", b"{}", 1, START)]).await;
    bench.close();
    for junk in ["snap.000000000FFFFFFF.generating", "snap.000000000FFFFFFE"] {
        std::fs::write(dir.path().join("queue").join(junk), b"torn").unwrap();
        let bench = Bench::open(dir.path(), &clock);
        assert_eq!(bench.waiting(D).len(), 1, "{junk}");
        bench.sound().await;
        bench.close();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i8_reading_waiting_events_during_writes_misses_none() {
    const EVENTS: usize = 600;
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let bench = Bench::open(dir.path(), &clock);
    let store = bench.store.clone();
    let reader = tokio::task::spawn_blocking(move || {
        let (mut seen, mut from) = (Vec::new(), store.floor());
        while from.0 <= EVENTS as u64 {
            let (tickets, next) = store.waiting(D, from).unwrap();
            seen.extend(tickets.iter().map(|t| t.sequence.0));
            from = next;
        }
        seen
    });
    for n in 0..EVENTS {
        bench.accept(vec![event("k", &n.to_string(), b"{}", 1, clock.now())]).await;
    }
    assert_eq!(reader.await.unwrap(), (1..=EVENTS as u64).collect::<Vec<_>>());
    bench.close();
}

#[tokio::test]
async fn i1_the_largest_incompressible_body_round_trips() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let bench = Bench::open(dir.path(), &clock);
    let mut random = fastrand::Rng::with_seed(1);
    let body: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(32 << 20).collect();
    bench.accept(vec![event("k", "1", &body, 1, START)]).await;
    let delivery = bench.delivery(1, Place::Page);
    assert_eq!(delivery.event.body.as_ref(), body);
    let due = START.after(Duration::from_secs(1));
    bench.store.record(Transition::Delayed { from: Place::Page, due, delivery: failed(delivery, 1) });
    bench.store.flush().await.unwrap();
    assert_eq!(bench.delivery(1, Place::Delay(due)).event.body.as_ref(), body);
    bench.close();
}

#[tokio::test]
async fn i7_many_bodies_under_one_id_are_kept_at_bounded_cost() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let bench = Bench::open(dir.path(), &clock);
    for n in 0..100 {
        let receipts = bench.accept(vec![event("k", "the same", &body(n, 10), 1, START)]).await;
        assert!(matches!(receipts[0], Receipt::Queued(_)));
    }
    // one of the newest bodies is a duplicate
    assert!(matches!(
        bench.accept(vec![event("k", "the same", &body(90, 10), 1, START)]).await[0],
        Receipt::Duplicate(_)
    ));
    assert_eq!(bench.store.totals().accepted, 100);
    bench.sound().await;
    bench.close();
}
