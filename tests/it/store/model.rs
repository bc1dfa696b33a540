//! The store against a plain model: after any sequence of operations, crashes and restarts, the store contains what the model
//! contains, byte for byte, and its own check finds no fault.
//!
//! Every sequence of steps is valid: a step chooses its object by a number among those that exist, and does nothing if there is none.
//! So a failing sequence shrinks by leaving out steps.

use crate::harness::bench::arriving as event;
use crate::harness::events::quarantined;
use crate::harness::stores;
use holdline::clock::Clock;
use holdline::delivery::{Attempt, DeadLetter, Delivery, DeliveryId, Outcome, Place, Reason};
use holdline::event::{DestinationId, Event, Sequence};
use holdline::store::{
    Arrival, Change, DlqAction, IntakeOverride, Opened, Options, Outage, Pause, QuarantinedRequest, Receipt, Room,
    Store, Transition, Windows,
};
use holdline::time::Timestamp;
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, RngAlgorithm, TestRng, TestRunner};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const START: Timestamp = Timestamp(1_800_000_000_000);
const WINDOW: Duration = Duration::from_secs(600);
const NAMES: [&str; 3] = ["crm", "wallboard", "analytics"];

/// An operation on a store. Numbers choose among the objects that exist.
#[derive(Clone, Debug)]
enum Step {
    /// Events: the sender's id (0: none), the body, its length, and to how many destinations.
    Accept(Vec<(u8, u8, u16, u8)>),
    Deliver(usize),
    Delay(usize, u16),
    Bury(usize),
    GiveUp(usize),
    /// Records an outcome of a delivery that has moved or ended.
    Late(usize),
    Discard(usize),
    Redrive(usize),
    Purge(usize),
    Pause(u8, bool),
    Hold(u8, u16),
    IntakeOverride(bool),
    Outage,
    Detain(u8),
    LetIn(usize),
    Pass(u16),
    Reopen,
    /// Ends without closing the store; only durable data remains.
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let arrival = (0..6u8, 0..3u8, prop_oneof![9 => 2..900u16, 1 => 15_000..40_000u16], 0..4u8);
    prop_oneof![
        6 => prop::collection::vec(arrival, 1..5).prop_map(Step::Accept),
        5 => any::<usize>().prop_map(Step::Deliver),
        4 => (any::<usize>(), 1..900u16).prop_map(|(n, s)| Step::Delay(n, s)),
        4 => any::<usize>().prop_map(Step::Bury),
        1 => any::<usize>().prop_map(Step::GiveUp),
        1 => any::<usize>().prop_map(Step::Late),
        1 => any::<usize>().prop_map(Step::Discard),
        2 => any::<usize>().prop_map(Step::Redrive),
        1 => any::<usize>().prop_map(Step::Purge),
        1 => (0..3u8, any::<bool>()).prop_map(|(d, on)| Step::Pause(d, on)),
        1 => (0..3u8, 1..900u16).prop_map(|(d, s)| Step::Hold(d, s)),
        1 => any::<bool>().prop_map(Step::IntakeOverride),
        1 => Just(Step::Outage),
        1 => (0..4u8).prop_map(Step::Detain),
        1 => any::<usize>().prop_map(Step::LetIn),
        2 => (1..900u16).prop_map(Step::Pass),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
    ]
}

#[derive(Clone, Debug, PartialEq)]
enum Where {
    Waits(Place),
    Dead,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Sums {
    accepted: u64,
    delivered: u64,
    discarded: u64,
}

/// The expected content of the store.
#[derive(Debug, Default)]
struct Model {
    /// Every accepted event, in the order of their sequences.
    events: Vec<Event>,
    lie: BTreeMap<DeliveryId, (Where, Delivery)>,
    sums: BTreeMap<DestinationId, Sums>,
    duplicates: u64,
    conflicts: u64,
    redriven: u64,
    dead_lettered: u64,
    paused: BTreeMap<DestinationId, Option<Pause>>,
    holds: BTreeMap<DestinationId, Timestamp>,
    intake_override: Option<IntakeOverride>,
    outages: usize,
    quarantined: BTreeMap<u64, QuarantinedRequest>,
}

impl Model {
    /// Accepts an event as the contract requires; returns its sequence and whether it is new.
    fn accept(&mut self, mut event: Event, now: Timestamp) -> (u64, bool) {
        if event.sender_id.is_some() {
            let same = |e: &&(usize, &Event)| e.1.sender_id == event.sender_id;
            let all: Vec<(usize, &Event)> = self.events.iter().enumerate().collect();
            let remembered = all.iter().rev().filter(same).take_while(|(_, e)| now.since(e.received_at) <= WINDOW);
            for (n, known) in remembered {
                if known.body_digest == event.body_digest {
                    self.duplicates += 1;
                    return (*n as u64 + 1, false);
                }
                event.conflict = true;
            }
            self.conflicts += u64::from(event.conflict);
        }
        let sequence = Sequence(self.events.len() as u64 + 1);
        for destination in event.to.iter() {
            let id = DeliveryId { sequence, destination };
            self.sums.entry(destination).or_default().accepted += 1;
            self.lie.insert(id, (Where::Waits(Place::Page), Delivery::first(id, Arc::new(event.clone()))));
        }
        self.events.push(event);
        (sequence.0, true)
    }

    fn pick(&self, n: usize, dead: bool) -> Option<DeliveryId> {
        let there: Vec<_> =
            self.lie.iter().filter(|(_, (at, _))| (*at == Where::Dead) == dead).map(|(id, _)| *id).collect();
        (!there.is_empty()).then(|| there[n % there.len()])
    }

    fn waiting(&self, n: usize) -> Option<(DeliveryId, Place, Delivery)> {
        let id = self.pick(n, false)?;
        match &self.lie[&id] {
            (Where::Waits(place), delivery) => Some((id, *place, delivery.clone())),
            _ => None,
        }
    }

    fn end(&mut self, id: DeliveryId) -> &mut Sums {
        self.lie.remove(&id);
        self.sums.entry(id.destination).or_default()
    }
}

struct Bench {
    committer: Option<std::thread::JoinHandle<()>>,
    handle: Option<Store>,
    clock: Clock,
    dir: tempfile::TempDir,
    model: Model,
}

fn folder() -> tempfile::TempDir {
    // in memory if possible: the disk does not matter here
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

fn open(path: &Path, clock: &Clock) -> Opened {
    let windows = Windows { by_source: HashMap::from([("default".to_owned(), WINDOW)]) };
    let options = Options { windows, ..Options::default() };
    let opened = stores::open(path, &options, clock);
    assert!(opened.findings.is_empty(), "{:?}", opened.findings);
    opened
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (entry, target) = entry.map(|e| (e.path(), to.join(e.file_name()))).unwrap();
        if entry.is_dir() { copy(&entry, &target) } else { assert!(std::fs::copy(entry, target).is_ok()) }
    }
}

impl Bench {
    async fn new() -> Self {
        let (dir, clock) = (folder(), Clock::manual(START));
        let Opened { store, committer, .. } = open(dir.path(), &clock);
        store.register(NAMES.map(str::to_owned).to_vec()).await.unwrap();
        Self { committer: Some(committer), handle: Some(store), clock, dir, model: Model::default() }
    }

    fn store(&self) -> &Store {
        self.handle.as_ref().expect("it is open")
    }

    fn close(&mut self) {
        self.handle = None;
        self.committer.take().expect("it was open").join().unwrap();
    }

    fn open_again(&mut self) {
        let Opened { store, committer, .. } = open(self.dir.path(), &self.clock);
        (self.handle, self.committer) = (Some(store), Some(committer));
    }

    async fn take(&mut self, step: &Step) {
        let now = self.clock.now();
        match step {
            Step::Accept(arrivals) => self.accept(arrivals).await,
            Step::Deliver(n) => {
                if let Some((id, place, _)) = self.model.waiting(*n) {
                    self.store().record(Transition::Delivered { id, place, attempts: 1, status: 200, at: now });
                    self.model.end(id).delivered += 1;
                }
            }
            Step::Delay(n, seconds) => self.delay(*n, now.after(Duration::from_secs((*seconds).into()))),
            Step::Bury(n) => self.bury(*n),
            Step::GiveUp(n) => {
                if let Some((id, place, _)) = self.model.waiting(*n) {
                    self.store().record(Transition::Discarded { id, place, attempts: 0, at: now });
                    self.model.end(id).discarded += 1;
                }
            }
            Step::Late(n) => self.late(*n),
            Step::Discard(n) => {
                if let Some((id, place, delivery)) = self.model.waiting(*n) {
                    let change = Change::Discard {
                        what: "x".to_owned(),
                        deliveries: vec![(id, place, delivery.event.interaction_hash())],
                    };
                    assert_eq!(self.store().change(change, "test".to_owned()).await.unwrap(), 1);
                    self.model.end(id).discarded += 1;
                }
            }
            Step::Redrive(n) => self.redrive(*n).await,
            Step::Purge(n) => {
                if let Some(id) = self.model.pick(*n, true) {
                    let twice = vec![id, id];
                    assert_eq!(self.store().dlq(DlqAction::Purge, twice, "test".to_owned()).await.unwrap(), 1);
                    self.model.end(id).discarded += 1;
                }
            }
            Step::Pass(seconds) => self.clock.advance(Duration::from_secs((*seconds).into())),
            Step::Reopen => {
                self.close();
                self.open_again();
            }
            Step::Crash => self.crash().await,
            other => self.note(other).await,
        }
    }

    async fn accept(&mut self, arrivals: &[(u8, u8, u16, u8)]) {
        let now = self.clock.now();
        let made = arrivals.iter().map(|(sender, body, length, to)| {
            let mut bytes = vec![b'a' + body; usize::from(*length)];
            bytes[0] = b'{';
            let id = if *sender == 0 { String::new() } else { format!("id-{sender}") };
            event(&format!("call-{}", sender % 3), &id, &bytes, *to, now)
        });
        let made: Vec<Event> = made.collect();
        let receipts = self.store().accept(made.iter().cloned().map(Arrival::new).collect()).await.unwrap();
        for (event, receipt) in made.into_iter().zip(receipts) {
            self.receipt(event, receipt);
        }
    }

    fn receipt(&mut self, event: Event, receipt: Receipt) {
        let (sequence, new) = self.model.accept(event, self.clock.now());
        assert_eq!((receipt.id().sequence().0, matches!(receipt, Receipt::Queued(_))), (sequence, new));
    }

    fn delay(&mut self, n: usize, due: Timestamp) {
        let Some((id, from, mut delivery)) = self.model.waiting(n) else { return };
        fail(&mut delivery, self.clock.now());
        if from == Place::Delay(due) {
            return;
        }
        self.store().record(Transition::Delayed { from, due, delivery: Arc::new(delivery.clone()) });
        self.model.lie.insert(id, (Where::Waits(Place::Delay(due)), delivery));
    }

    fn bury(&mut self, n: usize) {
        let Some((id, from, mut delivery)) = self.model.waiting(n) else { return };
        fail(&mut delivery, self.clock.now());
        let dead_letter =
            DeadLetter { delivery: delivery.clone(), reason: Reason::Exhausted, dead_at: self.clock.now() };
        self.store().record(Transition::Dead { from, dead_letter: Box::new(dead_letter) });
        self.model.lie.insert(id, (Where::Dead, delivery));
        self.model.dead_lettered += 1;
    }

    /// Records outcomes of deliveries that have ended or moved, which must have no effect.
    fn late(&mut self, n: usize) {
        let now = self.clock.now();
        let Some(sequence) = self.model.events.len().checked_sub(1).map(|last| Sequence((n % (last + 1)) as u64 + 1))
        else {
            return;
        };
        for destination in (0..NAMES.len() as u8).map(DestinationId) {
            let id = DeliveryId { sequence, destination };
            if !matches!(self.model.lie.get(&id), Some((Where::Waits(_), _))) {
                self.store().record(Transition::Delivered {
                    id,
                    place: Place::Page,
                    attempts: 1,
                    status: 200,
                    at: now,
                });
                let place = Place::Delay(now);
                self.store().record(Transition::Discarded { id, place, attempts: 1, at: now });
            }
        }
    }

    async fn redrive(&mut self, n: usize) {
        let Some(id) = self.model.pick(n, true) else { return };
        assert_eq!(self.store().dlq(DlqAction::Redrive, vec![id, id], "test".to_owned()).await.unwrap(), 1);
        let (_, mut delivery) = self.model.lie.remove(&id).unwrap();
        delivery.forgiven = delivery.next_attempt() - 1;
        delivery.redriven = true;
        self.model.lie.insert(id, (Where::Waits(Place::Delay(self.clock.now())), delivery));
        self.model.redriven += 1;
    }

    async fn crash(&mut self) {
        self.store().flush().await.unwrap();
        let dir = folder();
        copy(self.dir.path(), dir.path());
        self.close();
        self.dir = dir;
        self.open_again();
    }

    /// A command of an operator, or a record of the daemon.
    async fn note(&mut self, step: &Step) {
        let (now, who) = (self.clock.now(), "test".to_owned());
        let store = self.store().clone();
        let change = |change| store.change(change, who.clone());
        match step {
            Step::Pause(d, on) => {
                let until = now.after(WINDOW);
                let pause = on.then(|| Pause { who: who.clone(), reason: "r".to_owned(), since: now, until });
                let destination = DestinationId(*d);
                change(Change::Pause { what: "p".to_owned(), destination, pause: pause.clone() }).await.unwrap();
                self.model.paused.insert(destination, pause);
            }
            Step::Hold(d, seconds) => {
                let (destination, until) = (DestinationId(*d), now.after(Duration::from_secs((*seconds).into())));
                self.store().record(Transition::Hold { destination, until, reason: "Retry-After".to_owned() });
                self.model.holds.insert(destination, until);
            }
            Step::IntakeOverride(open) => {
                let closed = IntakeOverride::Closed {
                    who: who.clone(),
                    reason: "r".to_owned(),
                    since: now,
                    until: Timestamp::NEVER,
                };
                let intake_override = if *open { IntakeOverride::Open } else { closed };
                change(Change::IntakeOverride { what: "d".to_owned(), intake_override: intake_override.clone() })
                    .await
                    .unwrap();
                self.model.intake_override = Some(intake_override);
            }
            Step::Outage => {
                let outage = Outage { from: now, until: now, reason: "disk_low".to_owned(), refused: 1 };
                change(Change::Outage { number: self.store().next_outage(), outage }).await.unwrap();
                self.model.outages += 1;
            }
            Step::Detain(body) => {
                let quarantined = QuarantinedRequest { at: now, ..quarantined(&[*body]) };
                let number =
                    self.store().quarantine(quarantined.clone(), Room::undivided(1 << 20)).await.unwrap().unwrap();
                if !self.model.quarantined.values().any(|known| known.body == quarantined.body) {
                    self.model.quarantined.insert(number, quarantined);
                }
            }
            Step::LetIn(n) => {
                let all: Vec<u64> = self.model.quarantined.keys().copied().collect();
                let Some(number) = all.get(n % all.len().max(1)) else { return };
                let event = event("call", "", b"{}", 2, now);
                let arrivals = vec![Arrival::new(event.clone())];
                let receipts = self.store().readmit(*number, arrivals).await.unwrap().unwrap();
                self.model.quarantined.remove(number);
                self.receipt(event, receipts[0]);
            }
            _ => unreachable!("not a command"),
        }
    }

    /// Asserts that the store contains exactly what the model contains.
    async fn compare(&self) {
        assert_eq!(self.store().check().await.unwrap(), Vec::<String>::new());
        let (store, model) = (self.store(), &self.model);
        let mut found: BTreeMap<DeliveryId, (Where, Delivery)> = BTreeMap::new();
        for destination in (0..NAMES.len() as u8).map(DestinationId) {
            let mut from = store.floor();
            loop {
                let (tickets, next) = store.waiting(destination, from).unwrap();
                for ticket in tickets {
                    let id = DeliveryId { sequence: ticket.sequence, destination };
                    let delivery = store.delivery(id, ticket.place).unwrap();
                    assert!(found.insert(id, (Where::Waits(ticket.place), delivery)).is_none(), "{id} waits twice");
                }
                if next == from {
                    break;
                }
                from = next;
            }
        }
        for delayed in store.delayed() {
            let delayed = delayed.unwrap().unwrap();
            let id = DeliveryId { sequence: delayed.ticket.sequence, destination: delayed.destination };
            let delivery = store.delivery(id, delayed.ticket.place).unwrap();
            assert!(
                found.insert(id, (Where::Waits(delayed.ticket.place), delivery)).is_none(),
                "{id} is delayed twice"
            );
        }
        for id in store.dead_ids(None) {
            let id = id.unwrap();
            let dead_letter = store.dead_letter(id).unwrap().unwrap();
            assert!(found.insert(id, (Where::Dead, dead_letter.delivery)).is_none(), "{id} is dead and waits");
        }
        assert_eq!(found, model.lie);
        let totals = store.totals();
        assert_eq!(totals.accepted, model.events.len() as u64);
        let counted = (totals.duplicates, totals.conflicts, totals.redriven, totals.dead_lettered);
        assert_eq!(counted, (model.duplicates, model.conflicts, model.redriven, model.dead_lettered));
        for (d, sums) in &model.sums {
            let tally = totals.counters_of(*d);
            let (accepted, delivered, discarded) = (tally.accepted, tally.delivered, tally.discarded);
            assert_eq!(Sums { accepted, delivered, discarded }, *sums, "{d:?}");
        }
        self.compare_notes();
    }

    fn compare_notes(&self) {
        let (store, model) = (self.store(), &self.model);
        for (d, pause) in &model.paused {
            assert_eq!(store.overrides(*d).pause, *pause);
        }
        for (d, until) in &model.holds {
            assert_eq!(store.hold(*d).map(|hold| hold.until), Some(*until));
        }
        assert_eq!(store.intake_override(), model.intake_override);
        assert_eq!(store.outages(u64::MAX, 10_000).unwrap().len(), model.outages);
        let kept: BTreeMap<u64, QuarantinedRequest> = store
            .quarantined_from(0, 10_000)
            .into_iter()
            .map(|n| (n, store.quarantined(n).unwrap().unwrap()))
            .collect();
        assert_eq!(kept, model.quarantined);
    }
}

fn fail(delivery: &mut Delivery, at: Timestamp) {
    let (number, outcome) = (delivery.next_attempt(), Outcome::Answered(503));
    delivery.attempts.push(Attempt {
        number,
        at,
        latency_ms: 3,
        outcome,
        error: String::new(),
        answer: b"busy".to_vec(),
    });
}

/// A number from an environment variable, for runs longer than the suite's.
fn number(name: &str, otherwise: u32) -> u32 {
    std::env::var(name).map_or(otherwise, |given| given.parse().unwrap_or_else(|e| panic!("{name}={given}: {e}")))
}

/// Runs `HOLDLINE_MODEL_CASES` sequences of steps from the seed `HOLDLINE_MODEL_SEED`.
#[test]
fn i24_the_store_agrees_with_a_plain_model() {
    let (cases, seed) = (number("HOLDLINE_MODEL_CASES", 100), number("HOLDLINE_MODEL_SEED", 0));
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&seed.to_le_bytes());
    let chance = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let persistence = Some(Box::new(FileFailurePersistence::Off) as _);
    let config = Config { cases, failure_persistence: persistence, max_shrink_iters: 2_000, ..Config::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let run = |steps: Vec<Step>| {
        runtime.block_on(async {
            let mut bench = Bench::new().await;
            for step in &steps {
                bench.take(step).await;
                bench.compare().await;
            }
            bench.crash().await;
            bench.compare().await;
            bench.close();
        });
        Ok(())
    };
    TestRunner::new_with_rng(config, chance).run(&prop::collection::vec(step(), 1..60), run).unwrap();
}
