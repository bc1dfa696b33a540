//! Detained requests: what came in and was not accepted, kept apart until somebody mends what it failed by.
//!
//! *Invariants.* They are no events: nothing delivers them, and no sequence is theirs. Their bytes together are bounded, and
//! so is their number. The same request is kept once, with its first arrival time. One that is let in becomes events and
//! leaves in the same commit.

use super::codec::{self, Kind};
use super::draft::Table;
use super::engine::Engine;
use super::keys::{number_key, number_of};
use super::recovery::Findings;
use super::request::{Arrival, Receipt, Request};
use super::{Store, StoreError, read};
use crate::event::Digest64;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// No more are kept, whatever their size: each takes some memory too.
pub(super) const COUNT_MAX: usize = 65_536;

/// Why a request was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    BadSignature,
    Unparsable,
}

impl Cause {
    pub fn word(self) -> &'static str {
        match self {
            Self::BadSignature => "bad_signature",
            Self::Unparsable => "unparsable",
        }
    }
}

/// A request as it came, without its tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detained {
    /// When it first came.
    pub at: Timestamp,
    pub source: String,
    pub cause: Cause,
    pub headers: Vec<(String, Vec<u8>)>,
    pub query: Option<String>,
    pub body: Vec<u8>,
}

impl Detained {
    /// By what the same request is known when it comes again, with a signature of another moment.
    fn digest(&self) -> Digest64 {
        Digest64::of(&[self.source.as_bytes(), self.cause.word().as_bytes(), &self.body])
    }
}

/// What is known of them in memory.
#[derive(Debug, Default)]
pub(super) struct Detainees {
    by_number: BTreeMap<u64, Place>,
    by_digest: HashMap<Digest64, u64>,
    bytes: u64,
    next: u64,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    digest: Digest64,
    bytes: u64,
    at: Timestamp,
}

impl Detainees {
    /// Reads all of them; one that does not verify is told and stays where it is.
    pub(super) fn recover(engine: &Engine, findings: &mut Findings) -> Result<Self, StoreError> {
        let mut all = Self::default();
        for key in read::keys(engine, Table::Detained, None) {
            let number = number_of(&key?)?;
            all.next = number + 1;
            match read::record::<Detained>(engine, Table::Detained, Kind::Detained, &number_key(number)) {
                Ok(Some(detained)) => all.add(number, &detained, codec::encode(Kind::Detained, &detained).len()),
                Ok(None) => {}
                Err(StoreError::Damaged(why)) => findings.push(format!("a request kept apart is damaged: {why}")),
                Err(e) => return Err(e),
            }
        }
        Ok(all)
    }

    pub(super) fn add(&mut self, number: u64, detained: &Detained, bytes: usize) {
        let place = Place { digest: detained.digest(), bytes: bytes as u64, at: detained.at };
        self.by_number.insert(number, place);
        self.by_digest.insert(place.digest, number);
        self.bytes += place.bytes;
        self.next = self.next.max(number + 1);
    }

    /// Forgets one, and says how long it is; none where it is not here.
    pub(super) fn remove(&mut self, number: u64) -> Option<usize> {
        let place = self.by_number.remove(&number)?;
        self.by_digest.remove(&place.digest);
        self.bytes -= place.bytes;
        usize::try_from(place.bytes).ok()
    }

    pub(super) fn known(&self, detained: &Detained) -> Option<u64> {
        self.by_digest.get(&detained.digest()).copied()
    }

    pub(super) fn has_room(&self, bytes: usize, bytes_max: u64) -> bool {
        self.by_number.len() < COUNT_MAX && self.bytes + bytes as u64 <= bytes_max
    }

    pub(super) fn next(&self) -> u64 {
        self.next
    }
}

impl Store {
    /// Keeps a request apart, and returns its number when that is durable; that of the first where it came before, none
    /// where there is no room for it within `bytes_max` together.
    pub async fn detain(&self, detained: Detained, bytes_max: u64) -> Result<Option<u64>, StoreError> {
        self.ask(|answer| Request::Detain { detained: Box::new(detained), bytes_max, answer }).await
    }

    /// Accepts the events of a detained request and forgets it, in one commit; none where it is not there any more.
    pub async fn let_in(&self, number: u64, arrivals: Vec<Arrival>) -> Result<Option<Vec<Receipt>>, StoreError> {
        self.ask(|answer| Request::LetIn { number, arrivals, answer }).await
    }

    /// How many there are, and their bytes.
    pub fn detained_totals(&self) -> (usize, u64) {
        let index = self.index();
        (index.detainees.by_number.len(), index.detainees.bytes)
    }

    /// Numbers of those from `from` on, in the order in which they came.
    pub fn detained_from(&self, from: u64, limit: usize) -> Vec<u64> {
        self.index().detainees.by_number.range(from..).map(|(number, _)| *number).take(limit).collect()
    }

    /// Numbers of those that came before a moment.
    pub fn detained_before(&self, moment: Timestamp) -> Vec<u64> {
        let index = self.index();
        index.detainees.by_number.iter().filter(|(_, place)| place.at < moment).map(|(number, _)| *number).collect()
    }

    /// One of them; none where it is not there. Blocks.
    pub fn detained(&self, number: u64) -> Result<Option<Detained>, StoreError> {
        read::record(&self.shared.engine, Table::Detained, Kind::Detained, &number_key(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::event::{DestinationSet, Event};
    use crate::store::{Change, Opened, Options, Windows};
    use bytes::Bytes;
    use std::path::Path;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);
    const ROOM: u64 = 1 << 20;

    fn open(path: &Path) -> Store {
        let windows = Windows { by_source: [("s".to_owned(), Duration::from_secs(3600))].into_iter().collect() };
        let options = Options { require_power_safe: false, windows };
        for _ in 0..20_000 {
            match Store::open(path, options.clone(), Clock::manual(NOW)) {
                Ok(Opened { store, findings, .. }) => {
                    assert_eq!(findings, Findings::new());
                    return store;
                }
                Err(_) => std::thread::yield_now(),
            }
        }
        panic!("the store does not open again")
    }

    fn detained(body: &[u8]) -> Detained {
        Detained {
            at: NOW,
            source: "s".to_owned(),
            cause: Cause::BadSignature,
            headers: vec![("x-sig".to_owned(), b"00".to_vec())],
            query: Some("a=b".to_owned()),
            body: body.to_vec(),
        }
    }

    fn arrival(body: &'static [u8]) -> Arrival {
        Arrival::new(Event {
            received_at: Timestamp(NOW.0 - 1000),
            source: "s".to_owned(),
            to: DestinationSet(1),
            interaction: None,
            sender_id: Some("1".to_owned()),
            kind: String::new(),
            time: None,
            content_type: String::new(),
            traceparent: None,
            conflict: false,
            body_digest: Digest64::of(&[body]),
            body: Bytes::from_static(body),
        })
    }

    #[tokio::test]
    async fn they_are_kept_once_within_their_bound_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let big = vec![7u8; 100_000];
        let store = open(dir.path());
        assert_eq!(store.detain(detained(b"a"), ROOM).await.unwrap(), Some(0));
        assert_eq!(store.detain(detained(&big), ROOM).await.unwrap(), Some(1));
        let again = Detained { at: NOW.after(Duration::from_secs(9)), headers: Vec::new(), ..detained(b"a") };
        assert_eq!(store.detain(again, ROOM).await.unwrap(), Some(0), "the same body once more");
        assert_eq!(store.detain(detained(b"b"), 100_000).await.unwrap(), None, "no room");
        let (count, bytes) = store.detained_totals();
        assert!(count == 2 && bytes > 100_000);
        assert_eq!(store.totals().accepted, 0);
        drop(store);

        let store = open(dir.path());
        assert_eq!(store.detained_totals(), (2, bytes));
        assert_eq!(store.detained(0).unwrap(), Some(detained(b"a")));
        assert_eq!(store.detained(1).unwrap().unwrap().body, big);
        assert_eq!(store.detained_from(1, 10), [1]);
        assert_eq!(store.detain(detained(&big), ROOM).await.unwrap(), Some(1));
        assert_eq!(store.detained_before(NOW).len(), 0);
        assert_eq!(store.detained_before(Timestamp(NOW.0 + 1)), [0, 1]);
        let gone = Change::GiveUp { what: "too old".to_owned(), numbers: vec![1, 7] };
        assert_eq!(store.change(gone, "retention".to_owned()).await.unwrap(), 1);
        assert_eq!(store.detained_totals().0, 1);
        assert_eq!(store.detained(1).unwrap(), None);
        assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn one_that_is_let_in_is_an_event_from_then_on_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let number = store.detain(detained(b"{}"), ROOM).await.unwrap().unwrap();
        let receipts = store.let_in(number, vec![arrival(b"{}")]).await.unwrap().unwrap();
        assert!(matches!(receipts.as_slice(), [Receipt::Queued(_)]));
        assert_eq!(store.let_in(number, vec![arrival(b"{}")]).await.unwrap(), None, "asking twice is asking once");
        assert_eq!((store.totals().accepted, store.detained_totals()), (1, (0, 0)));
        let number = store.detain(detained(b"{} "), ROOM).await.unwrap().unwrap();
        assert_ne!(number, 0, "numbers are not given twice");
        let receipts = store.let_in(number, vec![arrival(b"{}")]).await.unwrap().unwrap();
        assert!(matches!(receipts.as_slice(), [Receipt::Duplicate(_)]));
        assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn one_that_does_not_verify_is_told_and_keeps_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        for (n, body) in [b"a", b"b"].into_iter().enumerate() {
            assert_eq!(store.detain(detained(body), ROOM).await.unwrap(), Some(n as u64));
        }
        let mut torn = super::super::draft::Draft::default();
        torn.put(Table::Detained, [number_key(1), vec![0, 0]].concat(), b"torn".to_vec());
        store.shared.engine.commit(torn).unwrap();
        let mut findings = Findings::new();
        let found = Detainees::recover(&store.shared.engine, &mut findings).unwrap();
        assert_eq!((findings.len(), found.by_number.len(), found.next()), (1, 1, 2));
    }

    /// What lies on disks out there must be read for ever; a change here is a new version of the record.
    #[test]
    fn golden_bytes_of_version_1() {
        let sealed = codec::encode(Kind::Detained, &Detained { at: Timestamp(1), ..detained(b"x") });
        let hex: String = sealed.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, GOLDEN);
    }

    const GOLDEN: &str = "1e0128c204dc4900000001000000000000000100000000000000730000000001000000000000000500000000000000782d73696702000000000000003030010300000000000000613d62010000000000000078";
}
