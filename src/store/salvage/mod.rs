//! Salvage: what a store that sled cannot open any more still holds, put into a new one.
//!
//! *Invariants.* The damaged folder is only read. No byte is taken that does not verify twice, as a message of sled's log
//! and as a record of ours; a page is only taken in the place where history remembers its events. The new store passes
//! `check`. What is not in it is counted and, as far as anything tells, named.

mod fate;
mod survey;
mod write;

use super::StoreError;
use super::draft::{Draft, Table};
use super::engine::Engine;
use super::folder::{Folder, hold};
use super::keys::number_key;
use super::log::mark::Mark;
use super::log::rows::Found;
use super::names::Names;
use super::record::Entry;
use super::restore::{Inventory, completed};
use crate::event::{DestinationId, Digest64, Sequence};
use crate::time::Timestamp;
use fate::{Fates, Missing};
use std::path::Path;
use survey::Survey;
use write::Writer;

/// What came of a salvage.
#[derive(Clone, Debug)]
pub struct Salvaged {
    /// What the new store holds.
    pub inventory: Inventory,
    /// How many there are of what, in the order of the tables.
    pub copied: Vec<(&'static str, u64)>,
    /// What did not verify: places in the log, and records.
    pub damaged: Vec<String>,
    /// Each delivery that is not in the new store and is not known to have ended, in words.
    pub missing: Vec<String>,
    /// Deliveries that the counters know and nothing else, those of `missing` among them.
    pub unaccounted: u64,
    /// Events of which nothing is known but that there were so many.
    pub nameless: u64,
}

impl Salvaged {
    /// Whether the new store has all that the old one had.
    pub fn is_whole(&self) -> bool {
        self.missing.is_empty() && self.unaccounted == 0 && self.nameless == 0
    }
}

/// Makes a store in the folder `to`, which must hold none, of what can be read in `from`, on which no daemon may run.
pub fn salvage(from: &Path, to: &Path, now: Timestamp) -> Result<Salvaged, StoreError> {
    let queue = from.join("queue");
    if !queue.exists() {
        return Err(StoreError::Folder(format!("{} holds no store", from.display())));
    }
    if to.join("queue").exists() {
        let why = format!("{} holds a store already; give another, empty folder", to.display());
        return Err(StoreError::Folder(why));
    }
    let _held = hold(from)?;
    let failed = |e: std::io::Error| StoreError::Folder(format!("cannot read {}: {e}", queue.display()));
    let found = Found::read(&queue).map_err(failed)?;
    let mut survey = Survey::of(&found, Mark::read(from))?;
    let mut names = names(&found, &mut survey.damaged)?;
    let fates = fate::decide(&mut survey, now, |_, first| entries(&found, first, &mut names))?;
    let known = names.destinations().count();
    pad(&mut names, &survey, &fates);
    let lost: Vec<String> = names.destinations().skip(known).map(|(_, name)| format!("`{name}`")).collect();
    if !lost.is_empty() {
        let lost = lost.join(", ");
        survey
            .damaged
            .push(format!("names of destinations; configure them under {lost}, or discard what waits for them"));
    }
    let engine = Engine::open(Folder::open(to)?)?;
    let writer = Writer {
        engine: &engine,
        found: &found,
        survey: &survey,
        fates: &fates,
        now,
        draft: Draft::default(),
        accounts: write::Accounts::default(),
    };
    let accounts = writer.write(&mut names)?;
    let mut damaged = found.holes.clone();
    damaged.extend(survey.damaged.iter().chain(&accounts.damaged).cloned());
    if found.unplaced > 0 {
        damaged.push(format!("{} changes of rows could not be placed", found.unplaced));
    }
    let table = |t: Table| Some((t.name(), *accounts.copied.get(t.name())?));
    Ok(Salvaged {
        inventory: completed(&engine)?,
        copied: Table::ALL.into_iter().filter_map(table).collect(),
        damaged,
        missing: fates.missing.iter().map(|(id, why)| told(id, *why, &fates, &names)).collect(),
        unaccounted: accounts.unaccounted,
        nameless: fates.nameless.len() as u64,
    })
}

/// The names that can be read; what they lack is called lost, see [`pad`].
fn names(found: &Found, damaged: &mut Vec<String>) -> Result<Names, StoreError> {
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

/// Numbers whose names are lost are not given to others: what waits for such a destination waits until one is configured
/// under the name that it is told by.
fn pad(names: &mut Names, survey: &Survey, fates: &Fates) {
    let entries = fates.packed.values().flat_map(|(_, entries)| entries);
    let to = entries.clone().map(|e| e.to.0).fold(0, std::ops::BitOr::bitor);
    let kept = survey.delayed.keys().chain(survey.dead.keys()).map(|id| id.destination);
    let last = (0..64).rev().find(|n| to >> n & 1 == 1).map(DestinationId).into_iter().chain(kept).max();
    let last_of = |of: fn(&Entry) -> u16| entries.clone().map(of).filter(|n| *n != super::names::UNNAMED).max();
    let (source, kind) = (last_of(|e| e.source), last_of(|e| e.kind));
    names.pad(last, source, kind);
}

/// What history should remember of the events of a page.
fn entries(found: &Found, first: u64, names: &mut Names) -> Result<Vec<Entry>, StoreError> {
    let events = survey::events(found, &number_key(first))?;
    let entry = |event: &crate::event::Event| {
        let sender = event.sender_id.as_deref();
        let sender = sender.map_or(Digest64::NONE, |id| Digest64::of_sender_id(&event.source, id));
        let (source, kind) = (names.source(&event.source), names.kind(&event.kind));
        Entry::of(event, (sender, event.lane()), Sequence::default(), source, kind)
    };
    Ok(events.iter().map(entry).collect())
}

fn told(id: &crate::delivery::DeliveryId, why: Missing, fates: &Fates, names: &Names) -> String {
    let packed = fates.packed.range(..=id.sequence.0).next_back();
    let entry = packed.and_then(|(first, (_, entries))| entries.get((id.sequence.0 - first) as usize));
    let event = entry.map_or_else(|| format!("number {}", id.sequence), |e| e.id(id.sequence).to_string());
    let why = match why {
        Missing::Lost => "lost",
        Missing::Unknown => "its end is lost; it may have been delivered",
    };
    format!("event {event} for `{}`: {why}", names.destination_name(id.destination))
}
