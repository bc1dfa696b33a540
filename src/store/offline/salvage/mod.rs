//! Salvage: copies the readable content of a store that sled can no longer open into a new store.
//!
//! *Invariants.* The damaged folder is only read. Every copied byte verifies twice: as a message of sled's log and as a
//! record of the store. A page is copied only if history does not contradict its events. The new store passes `check`.
//! Missing deliveries are counted and, where a record mentions them, named.
//!
//! # Levels
//! | level | module | purpose |
//! |---|---|---|
//! | 0 | [`scan`] | reads the records |
//! | 1 | [`resolve`] | decides the state of each delivery |
//! | 2 | [`write`] | writes the new store |

mod resolve;
mod scan;
mod write;

use crate::event::{DestinationId, Digest64, Sequence};
use crate::store::engine::Engine;
use crate::store::engine::error::StoreError;
use crate::store::engine::folder::{Folder, lock_existing};
use crate::store::index::names::Names;
use crate::store::model::record::Entry;
use crate::store::model::table::{Table, WriteBatch, number_key};
use crate::store::model::watermark::WatermarkFile;
use crate::store::offline::log_rows::LogRows;
use crate::store::offline::restore::{Inventory, finish};
use crate::time::Timestamp;
use resolve::{MissingReason, Resolution};
use scan::Scan;
use std::path::Path;
use write::Writer;

/// Result of a salvage.
#[derive(Clone, Debug)]
pub struct Salvaged {
    /// Content of the new store.
    pub inventory: Inventory,
    /// Number of copied records by table, in table order.
    pub copied: Vec<(&'static str, u64)>,
    /// Descriptions of the ranges of the log and the records that do not verify.
    pub damaged: Vec<String>,
    /// Descriptions of the deliveries that are not in the new store and have no known end.
    pub missing: Vec<String>,
    /// Number of deliveries that only the counters mention, including those of `missing`.
    pub unaccounted: u64,
    /// Number of events without any readable record.
    pub unidentified: u64,
}

impl Salvaged {
    /// Whether nothing is missing in the new store.
    pub fn is_whole(&self) -> bool {
        self.missing.is_empty() && self.unaccounted == 0 && self.unidentified == 0
    }
}

/// Creates a store in the folder `to`, which must not contain one, from what can be read in `from`, which no daemon may use.
pub fn salvage(from: &Path, to: &Path, now: Timestamp) -> Result<Salvaged, StoreError> {
    let queue = from.join("queue");
    if !queue.exists() {
        return Err(StoreError::Folder(format!("{} holds no store", from.display())));
    }
    if to.join("queue").exists() {
        let why = format!("{} holds a store already; give another, empty folder", to.display());
        return Err(StoreError::Folder(why));
    }
    let _lock = lock_existing(from)?;
    let failed = |e: std::io::Error| StoreError::Folder(format!("cannot read {}: {e}", queue.display()));
    let found = LogRows::read(&queue).map_err(failed)?;
    let mut scan = Scan::of(&found, WatermarkFile::read(from))?;
    let mut names = names(&found, &mut scan.damaged)?;
    let resolution = resolve::resolve(&mut scan, now, |_, first| entries(&found, first, &mut names))?;
    let known = names.destinations().count();
    pad_names(&mut names, &scan, &resolution);
    let lost: Vec<String> = names.destinations().skip(known).map(|(_, name)| format!("`{name}`")).collect();
    if !lost.is_empty() {
        let lost = lost.join(", ");
        scan.damaged.push(format!("names of destinations; configure them as {lost}, or discard their deliveries"));
    }
    let engine = Engine::open(Folder::open(to)?)?;
    let writer = Writer {
        engine: &engine,
        found: &found,
        scan: &scan,
        resolution: &resolution,
        now,
        batch: WriteBatch::default(),
        summary: write::CopySummary::default(),
    };
    let summary = writer.write(&mut names)?;
    let mut damaged = found.damaged_ranges.clone();
    damaged.extend(scan.damaged.iter().chain(&summary.damaged).cloned());
    if found.unplaced > 0 {
        damaged.push(format!("{} changes of rows could not be placed", found.unplaced));
    }
    let table = |t: Table| Some((t.name(), *summary.records.get(t.name())?));
    Ok(Salvaged {
        inventory: finish(&engine)?,
        copied: Table::ALL.into_iter().filter_map(table).collect(),
        damaged,
        missing: resolution.missing.iter().map(|(id, why)| describe(id, *why, &resolution, &names)).collect(),
        unaccounted: summary.unaccounted,
        unidentified: resolution.unidentified.len() as u64,
    })
}

/// The readable names; [`pad_names`] adds replacements for those that are lost.
fn names(found: &LogRows, damaged: &mut Vec<String>) -> Result<Names, StoreError> {
    let mut names = Names::read_each(found, |of, e| match e {
        StoreError::Damaged(why) => {
            damaged.push(format!("the names of {of}: {why}"));
            Ok(())
        }
        e => Err(e),
    })?;
    names.write_all();
    Ok(names)
}

/// Adds replacement names up to the highest number in use, so that no number is assigned again. Deliveries for a destination
/// with a replacement name wait until one is configured under that name.
fn pad_names(names: &mut Names, scan: &Scan, resolution: &Resolution) {
    let entries = resolution.pages.values().flat_map(|(_, entries)| entries);
    let to = entries.clone().map(|e| e.to.0).fold(0, std::ops::BitOr::bitor);
    let copies = scan.delayed.keys().chain(scan.dead.keys()).map(|id| id.destination);
    let last = (0..64).rev().find(|n| to >> n & 1 == 1).map(DestinationId).into_iter().chain(copies).max();
    let last_of =
        |of: fn(&Entry) -> u16| entries.clone().map(of).filter(|n| *n != crate::store::model::record::UNNAMED).max();
    let (source, kind) = (last_of(|e| e.source), last_of(|e| e.kind));
    names.pad(last, source, kind);
}

/// History entries for the events of a page.
fn entries(found: &LogRows, first: u64, names: &mut Names) -> Result<Vec<Entry>, StoreError> {
    let events = scan::events(found, &number_key(first))?;
    let entry = |event: &crate::event::Event| {
        let sender = event.sender_id.as_deref();
        let sender = sender.map_or(Digest64::NONE, |id| Digest64::of_sender_id(&event.source, id));
        let (source, kind) = (names.source(&event.source), names.kind(&event.kind));
        Entry::of(event, (sender, event.interaction_hash()), Sequence::default(), source, kind)
    };
    Ok(events.iter().map(entry).collect())
}

fn describe(id: &crate::delivery::DeliveryId, why: MissingReason, resolution: &Resolution, names: &Names) -> String {
    let page = resolution.pages.range(..=id.sequence.0).next_back();
    let entry = page.and_then(|(first, (_, entries))| entries.get((id.sequence.0 - first) as usize));
    let event = entry.map_or_else(|| format!("number {}", id.sequence), |e| e.id(id.sequence).to_string());
    let why = match why {
        MissingReason::Lost => "lost",
        MissingReason::Unknown => "its end is lost; it may have been delivered",
    };
    format!("event {event} for `{}`: {why}", names.destination_name(id.destination))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::{DeadLetter, DeliveryId, Place, Reason};
    use crate::event::DestinationSet;
    use crate::store::handle::{Opened, Options, Store};
    use crate::store::index::{check, recovery};
    use crate::store::model::codec;
    use crate::store::model::record::{PageShape, Totals, UNNAMED};
    use crate::store::write::request::{Arrival, DlqAction, Transition};

    #[test]
    fn lost_destination_names_are_padded_up_to_the_last_known_number() {
        let interaction_hash = Digest64(3);
        let entry = Entry {
            sender: Digest64::NONE,
            body: Digest64(2),
            interaction_hash,
            time: Timestamp(4),
            received_at: Timestamp(5),
            source: 1,
            kind: UNNAMED,
            to: DestinationSet::EMPTY.with(DestinationId(0)).with(DestinationId(2)),
            size: 9,
            prior: Sequence(0),
        };
        let shape = PageShape { count: 1, bytes: 1 };
        let resolution = Resolution { pages: [(1, (shape, vec![entry]))].into(), ..Resolution::default() };
        let mut names = Names::default();
        names.destination("crm");
        pad_names(&mut names, &Scan::default(), &resolution);
        let padded: Vec<&str> = names.destinations().map(|(_, name)| name).collect();
        assert_eq!((padded[0], padded.len()), ("crm", 3), "{padded:?}");
        assert_eq!([0, 1, 2].map(|n| names.source_name(n).is_some()), [true, true, false]);
        assert_eq!(names.kind_name(0), None);
    }

    fn id(n: u64) -> DeliveryId {
        DeliveryId { sequence: Sequence(n), destination: DestinationId(0) }
    }

    /// Creates a store with six events: 1 is delivered, 2 is a dead letter, 3 is delayed, 4 was a dead letter and is
    /// discarded, the others wait. Returns its counters.
    async fn store_with_six_events(path: &Path) -> Totals {
        let clock = crate::clock::Clock::manual(Timestamp(1000));
        let Opened { store, committer, .. } = Store::open(path, Options::default(), clock).unwrap();
        store.register(vec!["crm".to_owned()]).await.unwrap();
        for n in 1..=6 {
            store.accept(vec![Arrival::new(crate::testing::events::event(n))]).await.unwrap();
        }
        let (from, at) = (Place::Page, Timestamp(1000));
        let delivery = |n: u64| store.delivery(id(n), from).unwrap();
        store.record(Transition::Delivered { id: id(1), place: from, attempts: 1, status: 200, at });
        store.record(Transition::Delayed { from, due: Timestamp(5000), delivery: delivery(3).into() });
        let (destination, reason) = (DestinationId(0), "busy".to_owned());
        store.record(Transition::Hold { destination, until: Timestamp(9000), reason });
        for n in [2, 4] {
            let dead_letter = DeadLetter { delivery: delivery(n), reason: Reason::Permanent, dead_at: at };
            store.record(Transition::Dead { from, dead_letter: Box::new(dead_letter) });
        }
        store.flush().await.unwrap();
        store.dlq(DlqAction::Purge, vec![id(4)], "test".to_owned()).await.unwrap();
        drop(store);
        committer.join().unwrap();
        counters(path)
    }

    /// The counters of a store, after asserting its check, its destination, the hold and the audit entry.
    fn counters(path: &Path) -> Totals {
        let engine = crate::testing::stores::unlocked(|| Folder::open(path).and_then(Engine::open)).unwrap();
        let (index, findings) = recovery::recover(&engine).unwrap();
        assert_eq!(findings, Vec::<String>::new());
        assert_eq!(check::check(&engine, &index).unwrap(), Vec::<String>::new());
        assert_eq!(index.names.destination_of("crm"), Some(DestinationId(0)));
        assert!(index.holds.contains_key(&DestinationId(0)));
        assert_eq!(engine.range(Table::Audit, ..=number_key(2)).count(), 1, "the purge");
        index.totals
    }

    /// Damages every record of a kind in the log.
    fn spoil(path: &Path, kind: codec::Kind) {
        let db = path.join("queue/db");
        let mut bytes = std::fs::read(&db).unwrap();
        let begins = |at: &usize| {
            let length = codec::sealed_length(&bytes[*at..]).ok().filter(|_| bytes[*at] == kind as u8);
            length
                .and_then(|length| bytes.get(*at..at + length))
                .is_some_and(|sealed| codec::open_any(kind, sealed).is_ok())
        };
        let found: Vec<usize> = (0..bytes.len()).filter(begins).collect();
        assert!(!found.is_empty());
        found.iter().for_each(|at| bytes[at + codec::ENVELOPE] ^= 1);
        std::fs::write(db, bytes).unwrap();
    }

    #[tokio::test]
    async fn lost_counters_are_recounted() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let was = store_with_six_events(from.path()).await;
        spoil(from.path(), codec::Kind::Totals);
        let salvaged = salvage(from.path(), to.path(), Timestamp(2000)).unwrap();
        assert!(salvaged.is_whole(), "{salvaged:?}");
        let is = counters(to.path());
        // differences: the audit entry of the salvage, the damaged counters, and dead letters that are no longer stored
        let (next_audit, damaged) = (was.next_audit + 1, was.damaged + 1);
        let next_settlement = is.next_settlement;
        assert_eq!(is, Totals { next_audit, damaged, next_settlement, dead_lettered: 0, ..was });
        let counters = is.counters_of(DestinationId(0));
        assert_eq!((counters.accepted, counters.delivered, counters.discarded), (6, 1, 1));
        assert_eq!((counters.delayed, counters.dead, is.accepted), (1, 1, 6));
    }

    #[tokio::test]
    async fn a_lost_delivery_is_named_and_the_result_is_incomplete() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        store_with_six_events(from.path()).await;
        spoil(from.path(), codec::Kind::DeadLetter);
        let salvaged = salvage(from.path(), to.path(), Timestamp(2000)).unwrap();
        assert!(!salvaged.is_whole());
        let [missing] = &salvaged.missing[..] else { panic!("{salvaged:?}") };
        assert!(missing.starts_with("event ") && missing.ends_with(" for `crm`: lost"), "{missing}");
        let counters = counters(to.path()).counters_of(DestinationId(0));
        assert_eq!((counters.accepted, counters.delivered, counters.discarded, counters.dead), (6, 1, 2, 0));
    }
}
