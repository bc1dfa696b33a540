//! Detained requests: what came in and was not accepted, kept apart until somebody mends what it failed by.
//!
//! *Invariants.* They are no events: nothing delivers them, and no sequence is theirs. Their bytes together are bounded, and
//! so are their number and the shares of one source and of requests that did not prove their sender. A request is known
//! as the one that is kept already only if everything is the same that decides what it is: source, cause, what it
//! proved, query, body, and each header that is not of the transport. One that is let in becomes events and leaves in the
//! same commit.
//!
//! *Format.* Version 1 has no `proof`: it is read as if nothing had been proved. Version 2 is what is written.

use super::codec::{self, Damaged, Kind};
use super::engine::Engine;
use super::keys::{number_key, number_of};
use super::recovery::Findings;
use super::request::{Arrival, Receipt, Request};
use super::write_batch::{self, Table};
use super::{Store, StoreError, read};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// No more are kept, whatever their size: each takes some memory too.
pub(super) const COUNT_MAX: usize = 65_536;
const VERSION: u8 = 2;

/// Headers that the transport makes and changes from one attempt to the next, and that decide nothing about an event.
const OF_TRANSPORT: [&str; 22] = [
    "accept-encoding",
    "b3",
    "connection",
    "content-length",
    "forwarded",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-amzn-trace-id",
    "x-cloud-trace-context",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
];

/// Why a request was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
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

/// What a request proved about its sender when it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Proof {
    /// Nothing: its source asked for nothing then, or its signature did not verify.
    Nothing,
    /// It showed a token that was right then. The token is not kept.
    Token,
    /// Its signature verified then, over the body, these headers, and this timestamp; empty where it signs none.
    Signature { headers: Vec<String>, timestamp: String },
}

impl Proof {
    pub fn is_nothing(&self) -> bool {
        *self == Self::Nothing
    }
}

/// A request as it came, without its credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantinedRequest {
    /// When it first came.
    pub at: Timestamp,
    pub source: String,
    pub cause: Cause,
    pub headers: Vec<(String, Vec<u8>)>,
    pub query: Option<String>,
    pub body: Vec<u8>,
    pub proof: Proof,
}

/// The first version of the record.
#[derive(Deserialize)]
struct QuarantinedRequestV1 {
    at: Timestamp,
    source: String,
    cause: Cause,
    headers: Vec<(String, Vec<u8>)>,
    query: Option<String>,
    body: Vec<u8>,
}

/// SHA-256 of everything that decides what a request is.
type Identity = [u8; 32];

impl QuarantinedRequest {
    /// By what the same request is known when it comes again.
    fn identity(&self) -> Identity {
        let mut headers: Vec<_> =
            self.headers.iter().filter(|(name, _)| !OF_TRANSPORT.contains(&name.as_str())).collect();
        headers.sort_by(|(a, _), (b, _)| a.cmp(b)); // stable: of one name the order counts
        let decisive = (&self.source, self.cause, &self.proof, headers, &self.query, &self.body);
        Sha256::digest(codec::payload(&decisive)).into()
    }

    fn seal(&self) -> Vec<u8> {
        codec::seal_as(Kind::QuarantinedRequest, VERSION, &codec::payload(self))
    }

    fn open(sealed: &[u8]) -> Result<Self, Damaged> {
        let (version, payload) = codec::open_any(Kind::QuarantinedRequest, sealed)?;
        if version == VERSION {
            return codec::from_payload(payload);
        }
        let QuarantinedRequestV1 { at, source, cause, headers, query, body } = codec::from_payload(payload)?;
        Ok(Self { at, source, cause, headers, query, body, proof: Proof::Nothing })
    }
}

/// Bounds of what is kept apart, in bytes of records; the number of records is bounded in the same proportion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub all: u64,
    /// Of it, for this source.
    pub source: u64,
    /// Of it, for all requests that did not prove their sender.
    pub unverified: u64,
}

impl Room {
    /// Everything for everybody.
    pub fn undivided(all: u64) -> Self {
        Self { all, source: all, unverified: all }
    }
}

/// Which bound left no room for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    All,
    Source,
    Unverified,
}

impl Full {
    /// The setting of `[quarantine]` that bounds it.
    pub fn setting(self) -> &'static str {
        match self {
            Self::All => "max_bytes",
            Self::Source => "source_share",
            Self::Unverified => "unverified_share",
        }
    }
}

/// A request that is to be kept apart, with everything that can be computed before it has a number.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) sealed: Vec<u8>,
    identity: Identity,
    place: Place,
}

impl Parcel {
    pub(super) fn new(detained: &QuarantinedRequest) -> Self {
        Self::of(detained, detained.seal())
    }

    fn of(detained: &QuarantinedRequest, sealed: Vec<u8>) -> Self {
        let place = Place {
            identity: detained.identity(),
            bytes: sealed.len() as u64,
            at: detained.at,
            source: detained.source.as_str().into(),
            verified: !detained.proof.is_nothing(),
        };
        Self { identity: place.identity, sealed, place }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Used {
    bytes: u64,
    count: usize,
}

impl Used {
    fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.count += 1;
    }

    fn remove(&mut self, bytes: u64) {
        self.bytes -= bytes;
        self.count -= 1;
    }

    /// Whether so many bytes more stay within a part of all.
    fn takes(self, bytes: u64, part: u64, all: u64) -> bool {
        let count_max = u128::from(part.min(all)) * COUNT_MAX as u128 / u128::from(all.max(1));
        (self.count as u128) < count_max && self.bytes + bytes <= part
    }
}

/// What is known of them in memory.
#[derive(Debug, Default)]
pub(super) struct QuarantineIndex {
    by_number: BTreeMap<u64, Place>,
    by_identity: HashMap<Identity, u64>,
    all: Used,
    unverified: Used,
    by_source: HashMap<Arc<str>, Used>,
    next: u64,
}

#[derive(Clone, Debug)]
struct Place {
    identity: Identity,
    bytes: u64,
    at: Timestamp,
    source: Arc<str>,
    verified: bool,
}

impl QuarantineIndex {
    /// Reads all of them; one that does not verify is told and stays where it is.
    pub(super) fn recover(engine: &Engine, findings: &mut Findings) -> Result<Self, StoreError> {
        let mut all = Self::default();
        for key in read::keys(engine, Table::QuarantinedRequest, None) {
            let number = number_of(&key?)?;
            all.next = number + 1;
            let sealed = write_batch::get_long(engine, Table::QuarantinedRequest, &number_key(number));
            match sealed
                .and_then(|sealed| Ok(sealed.map(|s| QuarantinedRequest::open(&s).map(|d| (d, s))).transpose()?))
            {
                Ok(Some((detained, sealed))) => all.add(number, &Parcel::of(&detained, sealed)),
                Ok(None) => {}
                Err(StoreError::Damaged(why)) => findings.push(format!("a request kept apart is damaged: {why}")),
                Err(e) => return Err(e),
            }
        }
        Ok(all)
    }

    pub(super) fn add(&mut self, number: u64, parcel: &Parcel) {
        let mut place = parcel.place.clone();
        if let Some((known, _)) = self.by_source.get_key_value(&place.source) {
            place.source = known.clone();
        }
        self.all.add(place.bytes);
        self.by_source.entry(place.source.clone()).or_default().add(place.bytes);
        if !place.verified {
            self.unverified.add(place.bytes);
        }
        self.by_identity.insert(place.identity, number);
        self.by_number.insert(number, place);
        self.next = self.next.max(number + 1);
    }

    /// Forgets one, and says how long it is; none where it is not here.
    pub(super) fn remove(&mut self, number: u64) -> Option<usize> {
        let place = self.by_number.remove(&number)?;
        if self.by_identity.get(&place.identity) == Some(&number) {
            self.by_identity.remove(&place.identity);
        }
        self.all.remove(place.bytes);
        if !place.verified {
            self.unverified.remove(place.bytes);
        }
        if let Some(used) = self.by_source.get_mut(&place.source) {
            used.remove(place.bytes);
            if used.count == 0 {
                self.by_source.remove(&place.source);
            }
        }
        usize::try_from(place.bytes).ok()
    }

    pub(super) fn known(&self, parcel: &Parcel) -> Option<u64> {
        self.by_identity.get(&parcel.identity).copied()
    }

    /// Whether there is room for a request; else by which bound there is none.
    pub(super) fn has_room(&self, parcel: &Parcel, room: Room) -> Result<(), Full> {
        let place = &parcel.place;
        let of_source = self.by_source.get(&place.source).copied().unwrap_or_default();
        let takes = |used: Used, part| used.takes(place.bytes, part, room.all);
        if !takes(self.all, room.all) {
            Err(Full::All)
        } else if !takes(of_source, room.source) {
            Err(Full::Source)
        } else if !place.verified && !takes(self.unverified, room.unverified) {
            Err(Full::Unverified)
        } else {
            Ok(())
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.all.bytes
    }

    pub(super) fn next(&self) -> u64 {
        self.next
    }
}

impl Store {
    /// Keeps a request apart, and returns its number when that is durable; that of the first where the same one came before;
    /// which bound is reached where there is no room for it.
    pub async fn detain(&self, detained: QuarantinedRequest, room: Room) -> Result<Result<u64, Full>, StoreError> {
        let parcel = Box::new(Parcel::new(&detained));
        self.ask(|answer| Request::Detain { parcel, room, answer }).await
    }

    /// Accepts the events of a detained request and forgets it, in one commit; none where it is not there any more.
    pub async fn let_in(&self, number: u64, arrivals: Vec<Arrival>) -> Result<Option<Vec<Receipt>>, StoreError> {
        self.ask(|answer| Request::LetIn { number, arrivals, answer }).await
    }

    /// How many there are, and their bytes.
    pub fn detained_totals(&self) -> (usize, u64) {
        let all = self.index().detainees.all;
        (all.count, all.bytes)
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
    pub fn detained(&self, number: u64) -> Result<Option<QuarantinedRequest>, StoreError> {
        let sealed = write_batch::get_long(&self.shared.engine, Table::QuarantinedRequest, &number_key(number))?;
        Ok(sealed.map(|sealed| QuarantinedRequest::open(&sealed)).transpose()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::event::{DestinationSet, Digest64, Event};
    use crate::store::{Change, Opened, Options, Windows};
    use bytes::Bytes;
    use std::path::Path;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);
    const ROOM: Room = Room { all: 1 << 20, source: 1 << 20, unverified: 1 << 20 };

    fn open(path: &Path) -> Store {
        let windows = Windows { by_source: [("s".to_owned(), Duration::from_secs(3600))].into_iter().collect() };
        let options = Options { windows, ..Options::default() };
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

    fn detained(body: &[u8]) -> QuarantinedRequest {
        QuarantinedRequest {
            at: NOW,
            source: "s".to_owned(),
            cause: Cause::BadSignature,
            headers: vec![("x-sig".to_owned(), b"00".to_vec())],
            query: Some("a=b".to_owned()),
            body: body.to_vec(),
            proof: Proof::Nothing,
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
            headers: Default::default(),
            conflict: false,
            body_digest: Digest64::of(&[body]),
            body: Bytes::from_static(body),
        })
    }

    #[tokio::test]
    async fn quarantined_requests_are_stored_once_within_their_limit() {
        let dir = tempfile::tempdir().unwrap();
        let big = vec![7u8; 100_000];
        let store = open(dir.path());
        assert_eq!(store.detain(detained(b"a"), ROOM).await.unwrap(), Ok(0));
        assert_eq!(store.detain(detained(&big), ROOM).await.unwrap(), Ok(1));
        let again = QuarantinedRequest { at: NOW.after(Duration::from_secs(9)), ..detained(b"a") };
        assert_eq!(store.detain(again, ROOM).await.unwrap(), Ok(0), "the same request once more");
        assert_eq!(store.detain(detained(b"b"), Room::undivided(100_000)).await.unwrap(), Err(Full::All));
        let (count, bytes) = store.detained_totals();
        assert!(count == 2 && bytes > 100_000);
        assert_eq!(store.totals().accepted, 0);
        drop(store);

        let store = open(dir.path());
        assert_eq!(store.detained_totals(), (2, bytes));
        assert_eq!(store.detained(0).unwrap(), Some(detained(b"a")));
        assert_eq!(store.detained(1).unwrap().unwrap().body, big);
        assert_eq!(store.detained_from(1, 10), [1]);
        assert_eq!(store.detain(detained(&big), ROOM).await.unwrap(), Ok(1));
        assert_eq!(store.detained_before(NOW).len(), 0);
        assert_eq!(store.detained_before(Timestamp(NOW.0 + 1)), [0, 1]);
        let gone = Change::GiveUp { what: "too old".to_owned(), numbers: vec![1, 7] };
        assert_eq!(store.change(gone, "retention".to_owned()).await.unwrap(), 1);
        assert_eq!(store.detained_totals().0, 1);
        assert_eq!(store.detained(1).unwrap(), None);
        assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_readmitted_request_becomes_an_event_once() {
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
    async fn a_damaged_quarantined_request_is_reported_and_keeps_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        for (n, body) in [b"a", b"b"].into_iter().enumerate() {
            assert_eq!(store.detain(detained(body), ROOM).await.unwrap(), Ok(n as u64));
        }
        let mut torn = super::super::write_batch::WriteBatch::default();
        torn.put(Table::QuarantinedRequest, [number_key(1), vec![0, 0]].concat(), b"torn".to_vec());
        store.shared.engine.commit(torn).unwrap();
        let mut findings = Findings::new();
        let found = QuarantineIndex::recover(&store.shared.engine, &mut findings).unwrap();
        assert_eq!((findings.len(), found.by_number.len(), found.next()), (1, 1, 2));
    }

    #[test]
    fn requests_differ_by_identifying_headers_not_by_transport_ones() {
        let one = || detained(b"x");
        let with = |name: &str, value: &str| {
            let mut more = one();
            more.headers.push((name.to_owned(), value.as_bytes().to_vec()));
            more
        };
        let proved = Proof::Signature { headers: vec!["webhook-id".to_owned()], timestamp: String::new() };
        let others = [
            QuarantinedRequest { source: "t".to_owned(), ..one() },
            QuarantinedRequest { cause: Cause::Unparsable, ..one() },
            QuarantinedRequest { query: None, ..one() },
            QuarantinedRequest { query: Some("a=c".to_owned()), ..one() },
            QuarantinedRequest { body: b"y".to_vec(), ..one() },
            QuarantinedRequest { proof: Proof::Token, ..one() },
            QuarantinedRequest { proof: proved, ..one() },
            QuarantinedRequest { headers: vec![("x-sig".to_owned(), b"01".to_vec())], ..one() },
            with("ce-id", "1"),
            with("ce-id", "2"),
            with("content-type", "text/plain"),
            with("x-sig", "00"),
        ];
        let identities: std::collections::HashSet<_> =
            others.iter().chain([&one()]).map(QuarantinedRequest::identity).collect();
        assert_eq!(identities.len(), others.len() + 1);
        for name in OF_TRANSPORT {
            assert_eq!(with(name, "9").identity(), one().identity(), "{name}");
        }
        assert_eq!(QuarantinedRequest { at: Timestamp(9), ..one() }.identity(), one().identity());
        let mut turned = with("ce-id", "1");
        turned.headers.reverse();
        assert_eq!(turned.identity(), with("ce-id", "1").identity(), "the order of different names does not count");
    }

    #[test]
    fn each_quarantine_share_bounds_bytes_and_number_and_frees_them() {
        let mut all = QuarantineIndex::default();
        let of = |source: &str, proof: Proof, n: usize| {
            let body = n.to_string().into_bytes();
            Parcel::new(&QuarantinedRequest { source: source.to_owned(), proof, ..detained(&body) })
        };
        let bytes = of("a", Proof::Nothing, 0).place.bytes;
        let room = Room { all: bytes * 10, source: bytes * 6, unverified: bytes * 4 };
        let mut fill = |source, proof: Proof, from: usize| {
            let taken = (from..from + 10).take_while(|n| {
                let parcel = of(source, proof.clone(), *n);
                let fits = all.has_room(&parcel, room).is_ok();
                if fits {
                    let next = all.next();
                    all.add(next, &parcel);
                }
                fits
            });
            let taken = taken.count();
            (taken, all.has_room(&of(source, proof, from + 9), room).unwrap_err())
        };
        assert_eq!(fill("a", Proof::Nothing, 0), (4, Full::Unverified));
        assert_eq!(fill("b", Proof::Nothing, 0), (0, Full::Unverified), "whoever it is");
        assert_eq!(fill("a", Proof::Token, 0), (2, Full::Source));
        assert_eq!(fill("b", Proof::Token, 0), (4, Full::All));
        assert!((0..all.next()).all(|n| all.remove(n).is_some()));
        assert!(all.by_source.is_empty() && all.by_identity.is_empty());
        assert_eq!((all.all.bytes, all.all.count, all.unverified.bytes, all.unverified.count), (0, 0, 0, 0));
        let small = Used { bytes: 0, count: COUNT_MAX / 2 };
        assert!(!small.takes(1, 50, 100) && small.takes(1, 51, 100));
    }

    /// What lies on disks out there must be read for ever; a change here is a new version of the record.
    #[test]
    fn both_versions_have_their_golden_bytes() {
        let hex = |sealed: &[u8]| sealed.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let bytes = |hex: &str| -> Vec<u8> {
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
        };
        let golden = QuarantinedRequest { at: Timestamp(1), ..detained(b"x") };
        assert_eq!(QuarantinedRequest::open(&bytes(GOLDEN_1)).unwrap(), golden);
        let proof = Proof::Signature { headers: vec!["id".to_owned()], timestamp: "7".to_owned() };
        let golden = QuarantinedRequest { proof, ..golden };
        assert_eq!(hex(&golden.seal()), GOLDEN_2);
        assert_eq!(QuarantinedRequest::open(&golden.seal()).unwrap(), golden);
    }

    #[tokio::test]
    async fn a_version_1_request_is_found_counted_and_discarded() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let old = (NOW, "s", Cause::Unparsable, Vec::<(String, Vec<u8>)>::new(), None::<String>, vec![7u8; 40_000]);
        let sealed = codec::encode(Kind::QuarantinedRequest, &old);
        let mut draft = super::super::write_batch::WriteBatch::default();
        draft.put_long(Table::QuarantinedRequest, &number_key(4), &sealed);
        store.shared.engine.commit(draft).unwrap();
        let mut findings = Findings::new();
        let found = QuarantineIndex::recover(&store.shared.engine, &mut findings).unwrap();
        assert_eq!((found.all.bytes, found.unverified.count, found.next()), (sealed.len() as u64, 1, 5));
        *store.shared.index.lock().unwrap() = super::super::index::Index { detainees: found, ..Default::default() };
        assert_eq!(store.detained(4).unwrap().unwrap().proof, Proof::Nothing);
        let gone = Change::GiveUp { what: "too old".to_owned(), numbers: vec![4] };
        assert_eq!(store.change(gone, "retention".to_owned()).await.unwrap(), 1);
        assert_eq!(store.shared.engine.range(Table::QuarantinedRequest, ..).count(), 0, "all of its rows are gone");
    }

    const GOLDEN_1: &str = "1e0128c204dc4900000001000000000000000100000000000000730000000001000000000000000500000000000000782d73696702000000000000003030010300000000000000613d62010000000000000078";
    const GOLDEN_2: &str = "1e028a08f5cf6800000001000000000000000100000000000000730000000001000000000000000500000000000000782d73696702000000000000003030010300000000000000613d6201000000000000007802000000010000000000000002000000000000006964010000000000000037";
}
