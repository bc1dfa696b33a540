//! Lists that operators read: audit, outages, damaged records, redrives, and quarantined requests. All functions block,
//! unless async.
//!
//! *Invariants.* A quarantined request is not an event: it has no sequence and is not delivered. Number and bytes are
//! limited, in total, per source, and for requests that did not prove their sender. Two requests are the same only if
//! source, cause, credentials, query, body and every header that is not of the transport are equal. A readmitted request
//! becomes events and is deleted in the same commit.

use crate::clock::ClockReference;
use crate::event::{DestinationId, Sequence};
use crate::store::engine::error::StoreError;
use crate::store::engine::read;
use crate::store::handle::Store;
use crate::store::index::history::{self, Bounds, HistoryUsage};
use crate::store::index::quarantine_index::{Full, PreparedRequest, Room};
use crate::store::model::audit::Audit;
use crate::store::model::codec::{self, Damaged, Kind};
use crate::store::model::destination::Redrive;
use crate::store::model::quarantined_request::QuarantinedRequest;
use crate::store::model::record::{DamagedRecord, IntakeOverride, Outage};
use crate::store::model::table::{self, ALERT_STATE, HEARTBEAT, Table, number_key, number_of, redrive_list_key};
use crate::store::write::request::{Arrival, Receipt};
use crate::time::Timestamp;

impl Store {
    /// Entries of the audit with numbers below `before`, the newest first.
    pub fn audit(&self, before: u64, limit: usize) -> Result<Vec<(u64, Audit)>, StoreError> {
        self.newest(Table::Audit, Audit::decode, before, limit)
    }

    /// Outages with numbers below `before`, the newest first.
    pub fn outages(&self, before: u64, limit: usize) -> Result<Vec<(u64, Outage)>, StoreError> {
        self.newest(Table::Outages, |sealed| codec::decode(Kind::Outage, sealed), before, limit)
    }

    /// Damaged records with numbers below `before`, the newest first. Entries that do not verify themselves are left out.
    pub fn damaged_records(&self, before: u64, limit: usize) -> Result<Vec<(u64, DamagedRecord)>, StoreError> {
        self.newest(Table::Damaged, |sealed| codec::decode(Kind::DamagedRecord, sealed), before, limit)
    }

    fn newest<T>(
        &self,
        table: Table,
        decode: impl Fn(&[u8]) -> Result<T, Damaged>,
        before: u64,
        limit: usize,
    ) -> Result<Vec<(u64, T)>, StoreError> {
        let mut found = Vec::new();
        for row in self.shared.engine.range(table, ..number_key(before)).rev() {
            let (key, _) = row?;
            // the key of a long record ends in its part number
            let Some(number) = key.strip_suffix(&[0, 0]).map(number_of).transpose()? else { continue };
            match table::get_long(&self.shared.engine, table, &number_key(number)) {
                Ok(sealed) => {
                    found.extend(sealed.and_then(|sealed| decode(&sealed).ok()).map(|record| (number, record)))
                }
                Err(StoreError::Damaged(_)) => {}
                Err(e) => return Err(e),
            }
            if found.len() == limit {
                break;
            }
        }
        Ok(found)
    }

    /// The number of the next outage.
    pub fn next_outage(&self) -> u64 {
        self.index().next_outage
    }

    /// The last command of an operator that opened or closed intake.
    pub fn intake_override(&self) -> Option<IntakeOverride> {
        self.index().intake_override.clone()
    }

    /// The clock reference of the stored times; `None` in a new store.
    pub fn clock_reference(&self) -> Option<ClockReference> {
        self.index().clock_reference.clone()
    }

    /// The time of the last heartbeat; `None` in a new store.
    pub fn heartbeat(&self) -> Result<Option<Timestamp>, StoreError> {
        match read::record(&self.shared.engine, Table::Meta, Kind::Heartbeat, HEARTBEAT) {
            Err(StoreError::Damaged(_)) => Ok(None),
            read => read,
        }
    }

    /// The alert state as last written; `None` if there is none or it does not verify.
    pub fn told(&self) -> Result<Option<String>, StoreError> {
        match read::record(&self.shared.engine, Table::Meta, Kind::AlertState, ALERT_STATE) {
            Err(StoreError::Damaged(_)) => Ok(None),
            read => read,
        }
    }

    /// The running redrive of each destination, or else the last one.
    pub fn redrives(&self) -> Vec<(DestinationId, Redrive)> {
        self.index().redrives.iter().map(|(d, redrive)| (*d, redrive.clone())).collect()
    }

    /// The running redrive of a destination, or else the last one.
    pub fn redrive(&self, d: DestinationId) -> Option<Redrive> {
        self.index().redrives.get(&d).cloned()
    }

    /// The dead letters of a running redrive, in order.
    pub fn redrive_list(&self, d: DestinationId) -> Result<Vec<Sequence>, StoreError> {
        let sealed = table::get_long(&self.shared.engine, Table::Meta, &redrive_list_key(d))?;
        let sealed = sealed.ok_or(codec::Damaged::Missing)?;
        Ok(codec::decode(Kind::RedriveList, &sealed)?)
    }

    /// Sets the limits of history.
    pub fn set_history_limits(&self, bounds: Bounds) {
        *self.shared.history.lock().expect("no holder panics") = bounds;
    }

    pub fn remembering(&self) -> HistoryUsage {
        let index = self.index();
        HistoryUsage {
            events: index.totals.next_sequence.0 - index.totals.history_head.0,
            bytes: history::bytes(&index.totals),
            memory_bytes: index.remembered.bytes(),
            forgotten_early: index.forgotten_early,
        }
    }
}

impl Store {
    /// Quarantines a request; returns its number when it is durable, or the number of the same earlier request, or the limit
    /// that it would exceed.
    pub async fn quarantine(
        &self,
        quarantined: QuarantinedRequest,
        room: Room,
    ) -> Result<Result<u64, Full>, StoreError> {
        let prepared = PreparedRequest::new(&quarantined);
        self.ask(prepared.sealed.len(), move |t| Ok(t.quarantine(&prepared, room))).await
    }

    /// Accepts the events of a quarantined request and deletes it, in one commit; `None` if it does not exist.
    pub async fn readmit(&self, number: u64, arrivals: Vec<Arrival>) -> Result<Option<Vec<Receipt>>, StoreError> {
        let bytes = arrivals.iter().map(Arrival::bytes).sum();
        self.ask(bytes, move |t| t.readmit(number, arrivals)).await
    }

    /// Number of quarantined requests, and their bytes.
    pub fn quarantine_usage(&self) -> (usize, u64) {
        let all = self.index().quarantine.all;
        (all.count, all.bytes)
    }

    /// Numbers of the quarantined requests from `from` on, the oldest first.
    pub fn quarantined_from(&self, from: u64, limit: usize) -> Vec<u64> {
        self.index().quarantine.by_number.range(from..).map(|(number, _)| *number).take(limit).collect()
    }

    /// Numbers of the quarantined requests from before a time.
    pub fn quarantined_before(&self, moment: Timestamp) -> Vec<u64> {
        let index = self.index();
        index.quarantine.by_number.iter().filter(|(_, place)| place.at < moment).map(|(number, _)| *number).collect()
    }

    /// A quarantined request by its number.
    pub fn quarantined(&self, number: u64) -> Result<Option<QuarantinedRequest>, StoreError> {
        let sealed = table::get_long(&self.shared.engine, Table::QuarantinedRequest, &number_key(number))?;
        Ok(sealed.map(|sealed| QuarantinedRequest::open(&sealed)).transpose()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::event::DestinationId;
    use crate::store::handle::{Opened, Options};
    use crate::store::write::request::{Change, Transition};
    use crate::testing::stores::close;
    use std::path::Path;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn open(path: &Path) -> Opened {
        crate::testing::stores::open(path, &Options::default(), &Clock::manual(NOW))
    }

    async fn change(store: &Store, change: Change) {
        assert_eq!(store.change(change, "holdline".to_owned()).await.unwrap(), 1);
    }

    fn outage(n: u64) -> Outage {
        Outage { from: Timestamp(n), until: Timestamp::NEVER, reason: "no disk".to_owned(), refused: n }
    }

    #[tokio::test]
    async fn an_outage_keeps_its_number_and_is_updated_over_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let opened = open(dir.path());
        assert_eq!(opened.store.next_outage(), 1);
        change(&opened.store, Change::Outage { number: 1, outage: outage(1) }).await;
        change(&opened.store, Change::Outage { number: 2, outage: outage(2) }).await;
        change(&opened.store, Change::Outage { number: 1, outage: outage(7) }).await;
        let told = vec![(2, outage(2)), (1, outage(7))];
        assert_eq!((opened.store.next_outage(), opened.store.outages(u64::MAX, 9).unwrap()), (3, told.clone()));
        close(opened);
        let opened = open(dir.path());
        assert_eq!((opened.store.next_outage(), opened.store.outages(u64::MAX, 9).unwrap()), (3, told));
        assert_eq!(opened.store.outages(2, 9).unwrap(), [(1, outage(7))]);
        assert_eq!(opened.store.outages(u64::MAX, 1).unwrap(), [(2, outage(2))]);
        close(opened);
    }

    #[tokio::test]
    async fn notes_are_kept_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let opened = open(dir.path());
        let store = &opened.store;
        assert_eq!(
            (store.intake_override(), store.clock_reference(), store.heartbeat().unwrap(), store.told().unwrap()),
            (None, None, None, None)
        );
        let closed =
            IntakeOverride::Closed { who: "ada".to_owned(), reason: "move".to_owned(), since: NOW, until: NOW };
        let clock_reference = ClockReference { boot: "b".to_owned(), since_boot: Duration::from_secs(5), wall: NOW };
        change(store, Change::IntakeOverride { what: "close".to_owned(), intake_override: closed.clone() }).await;
        change(store, Change::ClockReference { clock_reference: clock_reference.clone(), step: None }).await;
        change(store, Change::Heartbeat).await;
        change(store, Change::AlertState { state: "[1]".to_owned() }).await;
        let (d, names) = (DestinationId(1), ["crm", "erp"].map(str::to_owned).to_vec());
        store.register(names).await.unwrap();
        let until = NOW.after(Duration::from_secs(60));
        store.record(Transition::Hold { destination: d, until, reason: "asked".to_owned() });
        store.record(Transition::AttemptStarted { destination: d, at: NOW });
        store.flush().await.unwrap();
        close(opened);
        let opened = open(dir.path());
        let store = &opened.store;
        assert_eq!((store.intake_override(), store.clock_reference()), (Some(closed), Some(clock_reference)));
        assert_eq!((store.heartbeat().unwrap(), store.told().unwrap().as_deref()), (Some(NOW), Some("[1]")));
        assert_eq!(store.hold(d).map(|hold| (hold.until, hold.reason)), Some((until, "asked".to_owned())));
        assert_eq!((store.hold(DestinationId(0)), store.paced(d).sent_at), (None, NOW));
        let known = [(DestinationId(0), "crm".to_owned()), (d, "erp".to_owned())];
        assert_eq!((store.destinations(), store.destination_of("erp")), (known.to_vec(), Some(d)));
        let given = store.register(["new", "erp"].map(str::to_owned).to_vec()).await.unwrap();
        assert_eq!(given, [Some(DestinationId(2)), Some(d)]);
        close(opened);
    }

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
                destination: DestinationId(0),
                redrive: Box::new(redrive),
                list,
            })
            .await
        };
        let end = async || {
            change(Change::RedriveEnd { destination: DestinationId(0), why: crate::store::RedriveEnded::Complete })
                .await
        };
        assert_eq!((end().await, begin(2).await, begin(3).await), (0, 1, 0));
        assert!(store.redrive(DestinationId(0)).unwrap().goes_on());
        assert_eq!(store.redrive_list(DestinationId(0)).unwrap(), [1, 2].map(Sequence));
        assert_eq!((end().await, end().await), (1, 0));
        assert!(!store.redrive(DestinationId(0)).unwrap().goes_on());
        assert_eq!(begin(3).await, 1);
        assert_eq!(
            (store.redrive(DestinationId(0)).unwrap().matched, store.redrive(DestinationId(0)).unwrap().goes_on()),
            (3, true)
        );
        drop(store);
        committer.join().unwrap();
    }
}

#[cfg(test)]
mod quarantine_tests {
    use super::*;
    use crate::clock::Clock;
    use crate::event::{Digest64, Event};
    use crate::store::handle::{Opened, Options};
    use crate::store::index::Index;
    use crate::store::index::recovery::{self, Findings};
    use crate::store::model::codec::{self, Kind};
    use crate::store::model::quarantined_request::{Cause, Proof};
    use crate::store::model::table::WriteBatch;
    use crate::store::write::request::Change;
    use crate::store::write::transaction::Windows;
    use crate::testing::events::quarantined;
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
        assert_eq!(store.quarantine(quarantined(b"a"), ROOM).await.unwrap(), Ok(0));
        assert_eq!(store.quarantine(quarantined(&big), ROOM).await.unwrap(), Ok(1));
        let again = QuarantinedRequest { at: NOW.after(Duration::from_secs(9)), ..quarantined(b"a") };
        assert_eq!(store.quarantine(again, ROOM).await.unwrap(), Ok(0), "the same request once more");
        assert_eq!(store.quarantine(quarantined(b"b"), Room::undivided(100_000)).await.unwrap(), Err(Full::All));
        let (count, bytes) = store.quarantine_usage();
        assert!(count == 2 && bytes > 100_000);
        assert_eq!(store.totals().accepted, 0);
        drop(store);

        let store = open(dir.path());
        assert_eq!(store.quarantine_usage(), (2, bytes));
        assert_eq!(store.quarantined(0).unwrap(), Some(quarantined(b"a")));
        assert_eq!(store.quarantined(1).unwrap().unwrap().body, big);
        assert_eq!(store.quarantined_from(1, 10), [1]);
        assert_eq!(store.quarantine(quarantined(&big), ROOM).await.unwrap(), Ok(1));
        assert_eq!(store.quarantined_before(NOW).len(), 0);
        assert_eq!(store.quarantined_before(Timestamp(NOW.0 + 1)), [0, 1]);
        let gone = Change::DiscardQuarantined { what: "too old".to_owned(), numbers: vec![1, 7] };
        assert_eq!(store.change(gone, "retention".to_owned()).await.unwrap(), 1);
        assert_eq!(store.quarantine_usage().0, 1);
        assert_eq!(store.quarantined(1).unwrap(), None);
        assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_readmitted_request_becomes_an_event_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let number = store.quarantine(quarantined(b"{}"), ROOM).await.unwrap().unwrap();
        let receipts = store.readmit(number, vec![arrival(b"{}")]).await.unwrap().unwrap();
        assert!(matches!(receipts.as_slice(), [Receipt::Queued(_)]));
        assert_eq!(store.readmit(number, vec![arrival(b"{}")]).await.unwrap(), None, "asking twice is asking once");
        assert_eq!((store.totals().accepted, store.quarantine_usage()), (1, (0, 0)));
        let number = store.quarantine(quarantined(b"{} "), ROOM).await.unwrap().unwrap();
        assert_ne!(number, 0, "numbers are not given twice");
        let receipts = store.readmit(number, vec![arrival(b"{}")]).await.unwrap().unwrap();
        assert!(matches!(receipts.as_slice(), [Receipt::Duplicate(_)]));
        assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_damaged_quarantined_request_is_reported_and_keeps_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        for (n, body) in [b"a", b"b"].into_iter().enumerate() {
            assert_eq!(store.quarantine(quarantined(body), ROOM).await.unwrap(), Ok(n as u64));
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
        let mut batch = WriteBatch::default();
        batch.put_long(Table::QuarantinedRequest, &number_key(4), &sealed);
        store.shared.engine.commit(batch).unwrap();
        let mut findings = Findings::new();
        let found = recovery::quarantined(&store.shared.engine, &mut findings).unwrap();
        assert_eq!((found.all.bytes, found.unverified.count, found.next()), (sealed.len() as u64, 1, 5));
        *store.shared.index.lock().unwrap() = Index { quarantine: found, ..Default::default() };
        assert_eq!(store.quarantined(4).unwrap().unwrap().proof, Proof::Nothing);
        let gone = Change::DiscardQuarantined { what: "too old".to_owned(), numbers: vec![4] };
        assert_eq!(store.change(gone, "retention".to_owned()).await.unwrap(), 1);
        assert_eq!(store.shared.engine.range(Table::QuarantinedRequest, ..).count(), 0, "all of its rows are gone");
    }
}
