//! A store with damaged files: no wrong bytes are delivered, and all losses are reported.

use crate::harness::bench::arriving as event;
use crate::harness::stores::{close, unlocked};
use holdline::clock::Clock;
use holdline::delivery::{Attempt, DeadLetter, Delivery, DeliveryId, Outcome, Place, Reason};
use holdline::event::{DestinationId, Event, Sequence};
use holdline::store::{Arrival, DlqAction, Opened, Options, Store, StoreError, Transition, Windows, restore, salvage};
use holdline::time::Timestamp;
use std::collections::{BTreeMap, HashMap};
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const START: Timestamp = Timestamp(1_800_000_000_000);
const DESTINATIONS: [DestinationId; 2] = [DestinationId(0), DestinationId(1)];

/// Place and event of each delivery that has not ended.
type Content = BTreeMap<DeliveryId, (&'static str, Event)>;

fn options() -> Options {
    let by_source = HashMap::from([("default".to_owned(), Duration::from_secs(3600))]);
    Options { windows: Windows { by_source }, ..Options::default() }
}

fn open(path: &Path) -> Result<Opened, StoreError> {
    unlocked(|| Store::open(path, options(), Clock::manual(START)))
}

/// Reads all deliveries that have not ended.
fn content(store: &Store) -> Result<Content, StoreError> {
    let mut all = Content::new();
    for destination in DESTINATIONS {
        let mut from = store.floor();
        loop {
            let (tickets, next) = store.waiting(destination, from)?;
            for ticket in tickets {
                let id = DeliveryId { sequence: ticket.sequence, destination };
                let delivery = store.delivery(id, ticket.place)?;
                all.insert(id, ("page", Event::clone(&delivery.event)));
            }
            if next == from {
                break;
            }
            from = next;
        }
    }
    for delayed in store.delayed() {
        let Ok(delayed) = delayed? else { continue };
        let id = DeliveryId { sequence: delayed.ticket.sequence, destination: delayed.destination };
        all.insert(id, ("delay", Event::clone(&store.delivery(id, delayed.ticket.place)?.event)));
    }
    for id in store.dead_ids(None) {
        let id = id?;
        if let Some(dead_letter) = store.dead_letter(id)? {
            all.insert(id, ("dlq", Event::clone(&dead_letter.delivery.event)));
        }
    }
    Ok(all)
}

fn failed(mut delivery: Delivery) -> Delivery {
    let number = delivery.next_attempt();
    let outcome = Outcome::Answered(503);
    delivery.attempts.push(Attempt {
        number,
        at: START,
        latency_ms: 12,
        outcome,
        error: String::new(),
        answer: vec![],
    });
    delivery
}

/// Gives a delivery a random outcome.
fn play(store: &Store, rng: &mut fastrand::Rng, id: DeliveryId) {
    let due = START.after(Duration::from_secs(rng.u64(1..500)));
    let delivery = || failed(store.delivery(id, Place::Page).unwrap());
    match rng.u8(0..10) {
        0..5 => store.record(Transition::Delivered { id, place: Place::Page, attempts: 1, status: 200, at: START }),
        5 => {
            store.record(Transition::Delayed { from: Place::Page, due, delivery: Arc::new(delivery()) });
            if rng.bool() {
                let place = Place::Delay(due);
                store.record(Transition::Delivered { id, place, attempts: 2, status: 200, at: START });
            }
        }
        6 => {
            let dead_letter = DeadLetter { delivery: delivery(), reason: Reason::Permanent, dead_at: START };
            store.record(Transition::Dead { from: Place::Page, dead_letter: Box::new(dead_letter) });
        }
        _ => {}
    }
}

/// Creates a store in three runs with this many commits each; returns its content.
async fn store_with_traffic(path: &Path, seed: u64, commits: u64) -> Content {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut sequence = 0;
    for life in 0..3 {
        let opened = open(path).unwrap();
        let store = opened.store.clone();
        store.register(vec!["crm".to_owned(), "wallboard".to_owned()]).await.unwrap();
        for commit in 0..commits {
            let count = rng.u64(1..8);
            let arrivals = (0..count).map(|n| {
                let longest = if rng.u8(0..10) == 0 { 60_000 } else { 3000 };
                let body: Vec<u8> = (0..rng.usize(2..longest)).map(|_| rng.u8(..)).collect();
                let id = format!("{life}-{commit}-{n}");
                Arrival::new(event(&format!("call-{}", rng.u8(0..20)), &id, &body, 2, START))
            });
            store.accept(arrivals.collect()).await.unwrap();
            for n in sequence + 1..=sequence + count {
                for destination in DESTINATIONS {
                    play(&store, &mut rng, DeliveryId { sequence: Sequence(n), destination });
                }
            }
            sequence += count;
        }
        store.flush().await.unwrap();
        let dead: Vec<DeliveryId> = store.dead_ids(None).map(|id| id.unwrap()).collect();
        let (redriven, purged) = (dead[..dead.len() / 4].to_vec(), dead[dead.len() / 4..dead.len() / 3].to_vec());
        store.dlq(DlqAction::Redrive, redriven, "test".to_owned()).await.unwrap();
        store.dlq(DlqAction::Purge, purged, "test".to_owned()).await.unwrap();
        assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
        drop(store);
        close(opened);
    }
    let opened = open(path).unwrap();
    let content = content(&opened.store).unwrap();
    close(opened);
    content
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    Flip,
    ZeroPage,
    Cut,
    Garbage,
}

/// Damages a file at a random offset; returns a description.
fn damage_file(file: &Path, rng: &mut fastrand::Rng, kind: Damage) -> String {
    let mut bytes = std::fs::read(file).unwrap();
    let used = bytes.iter().rposition(|b| *b != 0).map_or(1, |last| last + 1);
    let at = rng.usize(0..used);
    match kind {
        Damage::Flip => bytes[at] ^= 1 << rng.u8(0..8),
        Damage::ZeroPage => {
            let from = at / 4096 * 4096;
            let to = (from + 4096).min(bytes.len());
            bytes[from..to].fill(0);
        }
        Damage::Cut => bytes.truncate(at),
        Damage::Garbage => {
            let to = (at + rng.usize(1..20_000)).min(bytes.len());
            bytes[at..to].iter_mut().for_each(|b| *b = rng.u8(..));
        }
    }
    std::fs::write(file, bytes).unwrap();
    format!("{kind:?} at {at} of {used} in {}", file.file_name().unwrap().to_string_lossy())
}

fn files(path: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir(path.join("queue")).unwrap().map(|e| e.unwrap().path());
    let mut all: Vec<_> = all.filter(|p| p.is_file()).collect();
    all.sort();
    all
}

/// Deliveries that are missing, and the number of those that returned; panics if one has another event.
fn compare(was: &Content, is: &Content, what: &str) -> (Vec<DeliveryId>, usize) {
    let mut returned = 0;
    for (id, (_, event)) in is {
        match was.get(id) {
            Some((_, sent)) => assert_eq!(event, sent, "{what}: {id} carries another event"),
            None => returned += 1,
        }
    }
    (was.keys().filter(|id| !is.contains_key(id)).copied().collect(), returned)
}

/// Counts over all rounds.
#[derive(Debug, Default)]
struct Outcomes {
    refused: u64,
    opened: u64,
    /// Salvaged without loss.
    whole: u64,
    lost: usize,
    returned: usize,
}

/// Damages copies of a store in one place each; asserts that losses are reported, and salvages each copy.
fn damage(source: &Path, was: &Content, seeds: std::ops::Range<u64>) -> Outcomes {
    let dir = tempfile::tempdir().unwrap();
    let kinds = [Damage::Flip, Damage::ZeroPage, Damage::Cut, Damage::Garbage];
    let mut outcomes = Outcomes::default();
    for seed in seeds {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (damaged, new) = (dir.path().join("hit"), dir.path().join("new"));
        copy(source, &damaged);
        let all = files(&damaged);
        let file = if rng.u8(0..4) > 0 { damaged.join("queue/db") } else { all[rng.usize(0..all.len())].clone() };
        let kind = kinds[rng.usize(0..kinds.len())];
        let what = format!("seed {seed}: {}", damage_file(&file, &mut rng, kind));
        // sled opens another copy, since it writes and salvage only reads
        let opened_copy = dir.path().join("tried");
        copy(&damaged, &opened_copy);
        match open(&opened_copy) {
            Err(why) => {
                outcomes.refused += 1;
                assert!(why.to_string().contains("--salvage"), "{what}: {why}");
            }
            Ok(opened) => {
                let is = content(&opened.store).unwrap_or_else(|why| panic!("{what}: opened, and then {why}"));
                let (missing, returned) = compare(was, &is, &what);
                let reported = !opened.findings.is_empty();
                assert!(
                    (missing.is_empty() && returned == 0) || reported,
                    "{what}: {missing:?} missing, {returned} returned, not reported"
                );
                outcomes.opened += 1;
                close(opened);
            }
        }
        let (missing, returned) = salvaged(&damaged, &new, was, &what);
        (outcomes.lost, outcomes.returned) = (outcomes.lost + missing, outcomes.returned + returned);
        outcomes.whole += u64::from(missing == 0);
        for folder in [&damaged, &new, &opened_copy] {
            std::fs::remove_dir_all(folder).unwrap();
        }
    }
    outcomes
}

/// Number of deliveries that are missing after a salvage, all reported, and of those that returned.
fn salvaged(damaged: &Path, new: &Path, was: &Content, what: &str) -> (usize, usize) {
    let done = salvage(damaged, new, START).unwrap_or_else(|why| panic!("{what}: {why}"));
    assert_eq!(done.inventory.faults, Vec::<String>::new(), "{what}");
    let opened = open(new).unwrap();
    assert!(opened.findings.is_empty(), "{what}: {:?}", opened.findings);
    let is = content(&opened.store).unwrap();
    close(opened);
    let (missing, returned) = compare(was, &is, what);
    let reported = done.unaccounted.max(done.missing.len() as u64) + done.unidentified;
    assert!(
        missing.len() as u64 <= reported,
        "{what}: {} missing, {reported} reported: {missing:?} {done:?}",
        missing.len()
    );
    println!("{what}: {:?}, {} missing, {reported} reported, {returned} returned", done.damaged, missing.len());
    (missing.len(), returned)
}

/// The rounds to run; environment variables set the first one and the number.
fn rounds(usual: u64) -> std::ops::Range<u64> {
    let of = |name: &str, usual| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(usual);
    let first = of("HOLDLINE_DAMAGE_FIRST", 2);
    first..first + of("HOLDLINE_DAMAGE_ROUNDS", usual)
}

#[tokio::test]
async fn i23_damage_anywhere_is_reported_and_salvage_recovers_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let was = store_with_traffic(dir.path(), 7, 60).await;
    assert!(was.len() > 200, "{}", was.len());
    let outcomes = damage(dir.path(), &was, rounds(6));
    println!("{outcomes:?}");
    assert!(outcomes.refused > 0 && outcomes.whole > 0);
}

/// A restored store may consist of one commit, and a damaged last commit looks like one torn by a power cut.
#[tokio::test]
async fn i23_damage_to_a_restored_store_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let (source, restored) = (dir.path().join("source"), dir.path().join("restored"));
    let was = store_with_traffic(&source, 8, 5).await;
    let opened = open(&source).unwrap();
    let store = opened.store.clone();
    let copied = tokio::task::spawn_blocking(move || {
        let mut copied = Vec::new();
        store.backup(|piece| copied.write_all(&piece).is_ok()).unwrap();
        copied
    });
    let copied = copied.await.unwrap();
    close(opened);
    let inventory = restore(Cursor::new(copied), &restored, || ()).unwrap();
    assert_eq!(inventory.faults, Vec::<String>::new());
    let outcomes = damage(&restored, &was, rounds(12));
    println!("{outcomes:?}");
    assert!(outcomes.refused > 0 && outcomes.whole > 0);
}

const SEGMENT: usize = 2 << 20;

/// After sled has read its log it wipes the segments without pages. A kill in the middle of that leaves one half wiped: messages
/// without the header of their segment.
#[tokio::test]
async fn i20_a_kill_while_segments_are_wiped_does_not_prevent_opening() {
    let dir = tempfile::tempdir().unwrap();
    let (source, started) = (dir.path().join("source"), dir.path().join("started"));
    store_with_traffic(&source, 11, 60).await;
    // enough traffic that segments become free
    let opened = open(&source).unwrap();
    let mut rng = fastrand::Rng::with_seed(11);
    let mut body = || (0..100_000).map(|_| rng.u8(..)).collect::<Vec<u8>>();
    for round in 0..12 {
        let arrivals = (0..20).map(|n| Arrival::new(event("gone", &format!("{round}-{n}"), &body(), 1, START)));
        for receipt in opened.store.accept(arrivals.collect()).await.unwrap() {
            let id = DeliveryId { sequence: receipt.id().sequence(), destination: DESTINATIONS[0] };
            opened.store.record(Transition::Delivered { id, place: Place::Page, attempts: 1, status: 200, at: START });
        }
        opened.store.flush().await.unwrap();
    }
    let was = content(&opened.store).unwrap();
    close(opened);
    copy(&source, &started);
    close(open(&started).unwrap());
    let db = |folder: &Path| std::fs::read(folder.join("queue/db")).unwrap();
    let (before, after) = (db(&source), db(&started));
    let wiped = |at: &usize| {
        let whole = |bytes: &[u8], is: fn(&[u8]) -> bool| bytes.get(*at..*at + SEGMENT).is_some_and(is);
        whole(&before, |old| old.iter().any(|b| *b != 0)) && whole(&after, |new| new.iter().all(|b| *b == 0))
    };
    let free: Vec<usize> = (0..before.len()).step_by(SEGMENT).filter(wiped).collect();
    let kills: Vec<(usize, usize)> = free.iter().flat_map(|at| [1, 40, 300].map(|pages| (*at, pages * 4096))).collect();
    assert!(kills.len() >= 6, "segments become free: {free:?}");
    for (at, done) in &kills[..6] {
        let damaged = dir.path().join("hit");
        copy(&started, &damaged);
        let mut bytes = after.clone();
        bytes[*at + done..*at + SEGMENT].copy_from_slice(&before[*at + done..*at + SEGMENT]);
        std::fs::write(damaged.join("queue/db"), bytes).unwrap();
        let opened = open(&damaged).unwrap_or_else(|why| panic!("{done} bytes wiped at {at}: {why}"));
        assert!(opened.findings.is_empty());
        assert_eq!(content(&opened.store).unwrap(), was);
        close(opened);
        std::fs::remove_dir_all(&damaged).unwrap();
    }
}
