//! A redrive that takes its time, as it is kept: it outlives a restart.
//!
//! *Invariants.* A destination has at most one that goes on, and the newest one that has ended is remembered. Each letter
//! of its list is looked at once, in order; one that died again since it began is left alone.

use super::codec::{self, Kind};
use super::engine::Engine;
use super::keys::{redrive_key, redrive_list_key};
use super::names::Names;
use super::write_batch::{self, Table};
use super::{Findings, Store, StoreError};
use crate::event::{DestinationId, Sequence};
use crate::rules::canary::Failing;
use crate::rules::gcra::Rate;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

/// A redrive of one destination's dead letters, little by little.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redrive {
    pub who: String,
    pub begun: Timestamp,
    /// So many in so many milliseconds; none: as fast as they can be queued.
    rate: Option<(NonZeroU32, u64)>,
    /// Whether it looks at how the first ones fare.
    pub canary: bool,
    /// Letters in its list.
    pub matched: u64,
    /// So many of the list have been looked at.
    pub taken: u64,
    /// So many of them were still dead, and wait again.
    pub done: u64,
    pub end: Option<RedriveEnd>,
    /// What has become of them; not there in the first version of the record.
    pub fared: Fared,
}

/// What became of the letters that a redrive has put into the queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fared {
    pub delivered: u64,
    pub dead_again: u64,
    /// Neither: discarded meanwhile, or damaged.
    pub gone: u64,
    /// The letter whose failure was one too many for the canary.
    pub stopped_by: Option<StoppedBy>,
}

/// How the delivery failed that stopped a redrive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoppedBy {
    /// The id of the event.
    pub event: String,
    /// As the attempts are told.
    pub outcome: String,
    /// Of the answer, where there was one.
    pub status: Option<u16>,
    /// At most [`StoppedBy::ERROR_MAX`] bytes; empty where an answer came.
    pub error: String,
}

impl StoppedBy {
    pub const ERROR_MAX: usize = 1024;

    /// Which dead letter it is, and how it failed, in words.
    pub fn told(&self, destination: &str) -> String {
        let status = self.status.map(|status| format!(" {status}")).unwrap_or_default();
        let error = if self.error.is_empty() { String::new() } else { format!(" ({})", self.error) };
        format!("{}/{destination}: {}{status}{error}", self.event, self.outcome)
    }
}

/// How a redrive ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedriveEnd {
    pub at: Timestamp,
    pub why: RedriveEnded,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RedriveEnded {
    /// All of its list have been looked at.
    Complete,
    /// The destination failed again: so many of so many.
    Failing { failed: u64, of: u64 },
    /// An operator has stopped it.
    Stopped { who: String },
}

impl From<Failing> for RedriveEnded {
    fn from(failing: Failing) -> Self {
        Self::Failing { failed: failing.failed as u64, of: failing.of as u64 }
    }
}

impl Redrive {
    pub fn new(who: String, begun: Timestamp, rate: Option<Rate>, canary: bool, matched: usize) -> Self {
        let rate = rate.and_then(|rate| Some((NonZeroU32::new(rate.count())?, crate::time::millis(rate.per()))));
        Self {
            who,
            begun,
            rate,
            canary,
            matched: matched as u64,
            taken: 0,
            done: 0,
            end: None,
            fared: Fared::default(),
        }
    }

    pub fn rate(&self) -> Option<Rate> {
        self.rate.map(|(count, ms)| Rate::new(count, Duration::from_millis(ms)))
    }

    pub fn goes_on(&self) -> bool {
        self.end.is_none()
    }

    /// Letters in the queue whose end is not known yet.
    pub fn under_way(&self) -> u64 {
        let Fared { delivered, dead_again, gone, .. } = self.fared;
        self.done.saturating_sub(delivered + dead_again + gone)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        codec::seal_as(Kind::Redrive, 2, &codec::payload(self))
    }

    /// Reads both versions: the first ends before `fared`.
    pub(super) fn decode(sealed: &[u8]) -> Result<Self, codec::Damaged> {
        match codec::open_any(Kind::Redrive, sealed)? {
            (1, first) => codec::from_payload(&[first, &codec::payload(&Fared::default())].concat()),
            (_, second) => codec::from_payload(second),
        }
    }
}

impl Store {
    /// The redrive of each destination that goes on, or else the last one that took its time.
    pub fn redrives(&self) -> Vec<(DestinationId, Redrive)> {
        self.index().redrives.iter().map(|(d, redrive)| (*d, redrive.clone())).collect()
    }

    /// The redrive of a destination that goes on, or else the last one.
    pub fn redrive(&self, d: DestinationId) -> Option<Redrive> {
        self.index().redrives.get(&d).cloned()
    }

    /// The letters of a redrive that goes on, in order; blocks.
    pub fn redrive_list(&self, d: DestinationId) -> Result<Vec<Sequence>, StoreError> {
        let sealed = write_batch::get_long(&self.shared.engine, Table::Meta, &redrive_list_key(d))?;
        let sealed = sealed.ok_or(codec::Damaged::Missing)?;
        Ok(codec::decode(Kind::RedriveList, &sealed)?)
    }
}

/// At a start: those that are kept.
pub(super) fn recover(
    engine: &Engine,
    names: &Names,
    findings: &mut Findings,
) -> Result<BTreeMap<DestinationId, Redrive>, StoreError> {
    let mut found = BTreeMap::new();
    for (d, _) in names.destinations() {
        let Some(sealed) = write_batch::get_long(engine, Table::Meta, &redrive_key(d)).or_else(missing_if_damaged)?
        else {
            continue;
        };
        match Redrive::decode(&sealed) {
            Ok(redrive) => drop(found.insert(d, redrive)),
            Err(why) => findings.push(format!("how far a redrive had come is lost, start it again: {why}")),
        }
    }
    Ok(found)
}

/// What its own length cannot be read of does not decode either.
fn missing_if_damaged(e: StoreError) -> Result<Option<Vec<u8>>, StoreError> {
    match e {
        StoreError::Damaged(_) => Ok(Some(Vec::new())),
        e => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::store::{Change, Opened, Options};

    const NOW: Timestamp = Timestamp(1_800_000_000_000);
    const D: DestinationId = DestinationId(0);

    #[tokio::test]
    async fn one_redrive_runs_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let opened = Store::open(dir.path(), Options::default(), Clock::manual(NOW)).unwrap();
        let Opened { store, committer, .. } = opened;
        store.register(vec!["crm".to_owned()]).await.unwrap();
        let change = async |change| store.change(change, "ada".to_owned()).await.unwrap();
        let begin = async |n| {
            let redrive = Redrive::new("ada".to_owned(), NOW, None, false, n);
            let list = (1..=n as u64).map(Sequence).collect();
            change(Change::RedriveBegin {
                what: "dlq redrive".to_owned(),
                destination: D,
                redrive: Box::new(redrive),
                list,
            })
            .await
        };
        let end = async || change(Change::RedriveEnd { destination: D, why: RedriveEnded::Complete }).await;
        assert_eq!((end().await, begin(2).await, begin(3).await), (0, 1, 0));
        assert!(store.redrive(D).unwrap().goes_on());
        assert_eq!(store.redrive_list(D).unwrap(), [1, 2].map(Sequence));
        assert_eq!((end().await, end().await), (1, 0));
        assert!(!store.redrive(D).unwrap().goes_on());
        assert_eq!(begin(3).await, 1);
        assert_eq!((store.redrive(D).unwrap().matched, store.redrive(D).unwrap().goes_on()), (3, true));
        drop(store);
        committer.join().unwrap();
    }
}
