//! Detained requests: what came in and was not accepted, kept apart until somebody mends what it failed by.
//!
//! *Invariants.* They are no events: nothing delivers them, and no sequence is theirs. Their bytes together are bounded, and
//! so are their number and the shares of one source and of requests that did not prove their sender. A request is known
//! as the one that is kept already only if everything is the same that decides what it is: source, cause, what it
//! proved, query, body, and each header that is not of the transport. One that is let in becomes events and leaves in the
//! same commit.

use crate::store::engine::error::StoreError;
use crate::store::handle::Store;
use crate::store::index::quarantine_index::{Full, Parcel, Room};
use crate::store::model::keys::number_key;
use crate::store::model::quarantined_request::QuarantinedRequest;
use crate::store::model::table::{self, Table};
use crate::store::write::request::{Arrival, Receipt, Request};
use crate::time::Timestamp;

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
        let sealed = table::get_long(&self.shared.engine, Table::QuarantinedRequest, &number_key(number))?;
        Ok(sealed.map(|sealed| QuarantinedRequest::open(&sealed)).transpose()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::event::{Digest64, Event};
    use crate::store::engine::write_batch::WriteBatch;
    use crate::store::handle::{Opened, Options};
    use crate::store::index::Index;
    use crate::store::index::recovery::{self, Findings};
    use crate::store::model::codec::{self, Kind};
    use crate::store::model::quarantined_request::{Cause, Proof};
    use crate::store::write::request::Change;
    use crate::store::write::transaction::Windows;
    use bytes::Bytes;
    use std::path::Path;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);
    const ROOM: Room = Room { all: 1 << 20, source: 1 << 20, unverified: 1 << 20 };

    fn open(path: &Path) -> Store {
        let windows = Windows { by_source: [("s".to_owned(), Duration::from_secs(3600))].into_iter().collect() };
        let options = Options { windows, ..Options::default() };
        let Opened { store, findings, .. } = crate::testing::stores::open(path, &options, &Clock::manual(NOW));
        assert_eq!(findings, Findings::new());
        store
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
            body_digest: Digest64::of(&[body]),
            body: Bytes::from_static(body),
            ..crate::testing::events::event(1)
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
        let mut torn = WriteBatch::default();
        torn.put(Table::QuarantinedRequest, [number_key(1), vec![0, 0]].concat(), b"torn".to_vec());
        store.shared.engine.commit(torn).unwrap();
        let mut findings = Findings::new();
        let found = recovery::quarantined(&store.shared.engine, &mut findings).unwrap();
        assert_eq!((findings.len(), found.by_number.len(), found.next()), (1, 1, 2));
    }

    #[tokio::test]
    async fn a_version_1_request_is_found_counted_and_discarded() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let old = (NOW, "s", Cause::Unparsable, Vec::<(String, Vec<u8>)>::new(), None::<String>, vec![7u8; 40_000]);
        let sealed = codec::encode(Kind::QuarantinedRequest, &old);
        let mut draft = WriteBatch::default();
        draft.put_long(Table::QuarantinedRequest, &number_key(4), &sealed);
        store.shared.engine.commit(draft).unwrap();
        let mut findings = Findings::new();
        let found = recovery::quarantined(&store.shared.engine, &mut findings).unwrap();
        assert_eq!((found.all.bytes, found.unverified.count, found.next()), (sealed.len() as u64, 1, 5));
        *store.shared.index.lock().unwrap() = Index { detainees: found, ..Default::default() };
        assert_eq!(store.detained(4).unwrap().unwrap().proof, Proof::Nothing);
        let gone = Change::GiveUp { what: "too old".to_owned(), numbers: vec![4] };
        assert_eq!(store.change(gone, "retention".to_owned()).await.unwrap(), 1);
        assert_eq!(store.shared.engine.range(Table::QuarantinedRequest, ..).count(), 0, "all of its rows are gone");
    }
}
