//! The handle of a store: opens it, sends requests to its committer, and reports its state.

use crate::clock::Clock;
use crate::delivery::{DeliveryId, Place};
use crate::event::{DestinationId, Event, Sequence};
use crate::latency::Latency;
use crate::store::engine::disk_space::{AMPLE, COPY_OVERHEAD, Space, SpaceReservation};
use crate::store::engine::error::{Durability, StoreError};
use crate::store::engine::folder::{self, Free};
use crate::store::engine::{self, disk_space};
use crate::store::index::recovery::{self, Findings};
use crate::store::index::{self, history};
use crate::store::model::destination::{DestinationOverrides, PacingState};
use crate::store::model::record::{Hold, Totals};
use crate::store::write::committer::{Committer, Reply, Request};
use crate::store::write::request::{Arrival, Change, DlqAction, Receipt, StoreEvent, Transition};
use crate::store::write::shared::{Shared, Uncommitted};
use crate::store::write::transaction::{self, Transaction, Windows};
use std::io;
use std::path::Path;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, oneshot, watch};

/// Options with which a store is opened.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub require_power_safe: bool,
    pub windows: Windows,
    /// Size of the ballast in bytes.
    pub ballast_bytes: u64,
    /// Intake closes when fewer bytes are free.
    pub reserve_bytes: u64,
}

/// An opened store, and what its opener must handle.
#[derive(Debug)]
pub struct Opened {
    pub store: Store,
    /// Events for the dispatcher.
    pub store_events: mpsc::UnboundedReceiver<StoreEvent>,
    pub findings: Findings,
    pub committer: std::thread::JoinHandle<()>,
}

/// A handle of a store; the committer ends when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct Store {
    pub(super) shared: Arc<Shared>,
    pub(super) requests: Sender<Request>,
    windows: Arc<watch::Sender<Windows>>,
}

impl Store {
    /// Opens the store in a folder, or creates it if it is missing. Blocks during recovery.
    pub fn open(path: &Path, options: Options, clock: Clock) -> Result<Opened, StoreError> {
        let ballast = disk_space::Ballast::new(path, options.ballast_bytes);
        let folder = folder::Folder::open(path)?;
        let kept = disk_space::before_start(&ballast, &folder);
        let engine = engine::Engine::open(folder)?;
        let durability = engine.durability();
        if options.require_power_safe && durability != Durability::InodeSync {
            return Err(StoreError::NotPowerSafe { path: path.to_owned(), durability });
        }
        let (index, findings) = recovery::recover(&engine)?;
        if engine.folder().watermark().is_some_and(|mark| index.totals.reached().falls_short_of(mark)) {
            let why = "its log ends before what had been durable; a copy of it may hold more".to_owned();
            return Err(StoreError::Corrupt(why));
        }
        disk_space::after_start(&ballast, engine.folder(), kept);
        let shared = Arc::new(Shared {
            engine,
            disk_space: Arc::new(disk_space::DiskSpace::new(ballast, options.reserve_bytes)),
            written_next: index.totals.next_sequence.0.into(),
            index: Mutex::new(index),
            cache: Mutex::default(),
            unwritten: Mutex::default(),
            behind: Uncommitted::default(),
            commits: Latency::default(),
            history: Mutex::default(),
            shared_keys: Mutex::default(),
            failure: watch::Sender::new(None),
            lists: Semaphore::new(1),
        });
        let (requests, receiver) = std::sync::mpsc::channel();
        let (store_events_to, store_events) = mpsc::unbounded_channel();
        let (windows, windows_receiver) = watch::channel(options.windows);
        let committer = Committer {
            shared: shared.clone(),
            requests: receiver,
            store_events: store_events_to,
            windows: windows_receiver,
            clock,
            tail: transaction::OpenRows::default(),
            backup_copy: None,
            last: 0,
        };
        let committer = std::thread::Builder::new()
            .name("committer".to_owned())
            .spawn(move || committer.run())
            .map_err(|e| StoreError::Folder(format!("cannot start a thread: {e}")))?;
        let store = Self { shared, requests, windows: Arc::new(windows) };
        Ok(Opened { store, store_events, findings, committer })
    }

    /// Stores all of the events or none; returns when they are durable. A duplicate gets the id of its first copy, which is
    /// then durable too.
    pub async fn accept(&self, arrivals: Vec<Arrival>) -> Result<Vec<Receipt>, StoreError> {
        let bytes = arrivals.iter().map(Arrival::bytes).sum();
        self.ask(bytes, |t| arrivals.into_iter().map(|arrival| t.accept(arrival)).collect()).await
    }

    /// Queues the result of an attempt for the next commit; does not wait until it is durable.
    pub fn record(&self, transition: Transition) {
        if let Transition::Delayed { due, delivery, .. } = &transition {
            let key = (delivery.id, *due);
            self.shared.unwritten.lock().expect("no holder panics").insert(key, delivery.clone());
        }
        self.shared.behind.add();
        self.shared.disk_space.add_uncommitted(transition.copy_bytes());
        let _ = self.requests.send(Request::Transition(transition)); // `failure` reports a failed store
    }

    /// Whether so many transitions are recorded but not yet durable that no new attempt should start: after a crash all of
    /// them would be repeated.
    pub fn is_behind(&self) -> bool {
        self.shared.behind.is_far()
    }

    /// Returns when [`Store::is_behind`] is false; for one task at a time.
    pub async fn caught_up(&self) {
        self.shared.behind.caught_up().await;
    }

    /// The numbers of destinations; new names get one. `None` for a new name if the store already has as many as it can.
    pub async fn register(&self, names: Vec<String>) -> Result<Vec<Option<DestinationId>>, StoreError> {
        self.ask(0, move |t| Ok(t.register(&names))).await
    }

    /// Redrives or discards dead letters in one commit; returns how many of them still existed.
    pub async fn dlq(
        &self,
        action: DlqAction,
        ids: Vec<crate::delivery::DeliveryId>,
        who: String,
    ) -> Result<usize, StoreError> {
        self.ask(0, move |t| t.dlq(action, &ids, &who)).await
    }

    /// Makes a change and its audit entry in one commit; returns how many items it changed.
    pub async fn change(&self, change: Change, who: String) -> Result<usize, StoreError> {
        self.ask(0, move |t| t.change(change, &who)).await
    }

    /// Descriptions of all violated invariants. The committer waits during the check.
    pub async fn check(&self) -> Result<Vec<String>, StoreError> {
        let (to, answer) = oneshot::channel();
        self.requests.send(Request::Check { answer: to }).map_err(|_| StoreError::Failed)?;
        answer.await.map_err(|_| StoreError::Failed)?
    }

    /// Returns when everything recorded before is durable.
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.ask(0, |_| Ok(())).await
    }

    /// Makes a write in the next commit; returns its result when it is durable. `bytes` is the size that it adds to the
    /// commit.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        bytes: usize,
        write: impl FnOnce(&mut Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (to, answer) = oneshot::channel();
        let apply = move |transaction: &mut Transaction<'_>| -> Result<Reply, StoreError> {
            let result = write(transaction)?;
            Ok(Box::new(move || drop(to.send(result))))
        };
        self.requests.send(Request::Write { bytes, apply: Box::new(apply) }).map_err(|_| StoreError::Failed)?;
        answer.await.map_err(|_| StoreError::Failed)
    }

    /// Becomes `Some(reason)` when the store has failed; the daemon must then end.
    pub fn failure(&self) -> watch::Receiver<Option<String>> {
        self.shared.failure.subscribe()
    }

    /// Marks the store as failed, since it can no longer be read; the daemon must end.
    pub fn fail(&self, why: &StoreError) {
        tracing::error!(error = %why, "the store cannot be read; the daemon stops");
        self.shared.failure.send_replace(Some(why.to_string()));
    }

    /// Sets the deduplication window of each source.
    pub fn set_windows(&self, windows: Windows) {
        self.windows.send_replace(windows);
    }

    /// Latency of durable commits.
    pub fn commits(&self) -> Latency {
        self.shared.commits.clone()
    }

    /// Waits until no other list is being read; the next one waits until the permit is dropped.
    pub async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.shared.lists.acquire().await.ok() // the semaphore is never closed
    }

    pub fn durability(&self) -> Durability {
        self.shared.engine.durability()
    }

    pub fn totals(&self) -> Totals {
        self.index().totals.clone()
    }

    /// The `Retry-After` of a destination from before the restart.
    pub fn hold(&self, d: DestinationId) -> Option<Hold> {
        self.index().holds.get(&d).cloned()
    }

    /// The pause and the breaker override of a destination.
    pub fn overrides(&self, d: DestinationId) -> DestinationOverrides {
        self.index().overrides.get(&d).cloned().unwrap_or_default()
    }

    /// The pacing state of a destination from before the restart.
    pub fn paced(&self, d: DestinationId) -> PacingState {
        self.index().paced.get(&d).copied().unwrap_or_default()
    }

    /// Numbers and names of all destinations that this store has ever had.
    pub fn destinations(&self) -> Vec<(DestinationId, String)> {
        self.index().names.destinations().map(|(d, name)| (d, name.to_owned())).collect()
    }

    /// Bytes of the waiting events.
    pub fn queue_bytes(&self) -> u64 {
        let index = self.index();
        index.pages.bytes() + index.totals.delay_bytes
    }

    /// The data folder.
    pub fn path(&self) -> &Path {
        self.shared.engine.folder().path()
    }

    pub fn disk_bytes(&self) -> u64 {
        self.shared.engine.folder().disk_bytes()
    }

    pub fn free(&self) -> std::io::Result<Free> {
        self.shared.engine.folder().free()
    }

    pub fn blob_files(&self) -> usize {
        self.shared.engine.folder().blob_files()
    }

    /// An event, if it is in the cache.
    pub fn cached(&self, sequence: Sequence) -> Option<Arc<Event>> {
        self.shared.cache.lock().expect("no holder panics").get(sequence)
    }

    pub(super) fn index(&self) -> MutexGuard<'_, index::Index> {
        self.shared.index.lock().expect("no holder panics")
    }
}

impl Store {
    /// Whether no new attempt should start, because its outcome might not fit on the disk.
    pub fn is_short_of_space(&self) -> bool {
        self.shared.disk_space.is_short()
    }

    /// Whether nothing can be sent until more disk space is free.
    pub fn is_out_of_space(&self) -> bool {
        self.shared.disk_space.is_full()
    }

    /// Reserves disk space for a copy of this delivery; keep it until the outcome of the attempt is recorded.
    pub fn reserve_space(&self, id: DeliveryId, place: Place) -> SpaceReservation {
        let disk_space = &self.shared.disk_space;
        // with ample space the copy is not sized
        let ample = disk_space.available().is_some_and(|bytes| bytes > AMPLE);
        disk_space.reserve_for_attempt(if ample { 0 } else { self.copy_bytes(id, place) })
    }

    /// Bytes that a copy of this delivery may take.
    fn copy_bytes(&self, id: DeliveryId, place: Place) -> u64 {
        let index = self.index();
        let in_page = if place == Place::Page { index.pages.grows_by(id.sequence) } else { None };
        let delayed = index.totals.sum(|t| t.delayed).max(1);
        in_page.unwrap_or_else(|| index.totals.delay_bytes / delayed + COPY_OVERHEAD)
    }

    /// Estimate of the bytes of all records in sled's file.
    fn stored_bytes(&self) -> u64 {
        let index = self.index();
        let totals = &index.totals;
        index.pages.bytes() + totals.delay_bytes + totals.dlq_bytes + index.quarantine.bytes() + history::bytes(totals)
    }

    /// Returns after the next measurement of the disk space; for one task at a time.
    pub async fn space_checked(&self) {
        self.shared.disk_space.refreshed().await;
    }

    /// Measures the disk space, and restores the ballast if there is space for it. Blocks.
    pub fn check_space(&self) -> io::Result<Space> {
        let engine = &self.shared.engine;
        if let Err(e) = self.shared.disk_space.refresh(engine.folder(), engine.data(), self.stored_bytes()) {
            tracing::debug!(error = %e, "the ballast does not grow");
        }
        self.space()
    }

    /// The disk space, as last measured.
    pub fn space(&self) -> io::Result<Space> {
        let free = self.free()?.bytes;
        Ok(self.shared.disk_space.space(free, self.index().pages.growth(), self.shared.engine.data()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Bounds, HistoryUsage};
    use crate::testing::stores::close;
    use crate::time::Timestamp;
    use std::task::{Context, Waker};
    use std::time::Duration;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn event() -> Event {
        Event { received_at: NOW, body: vec![0; 1000].into(), ..crate::testing::events::event(1) }
    }

    #[tokio::test]
    async fn the_store_reports_its_backlog_and_its_failure() {
        let dir = tempfile::tempdir().unwrap();
        let opened = Store::open(dir.path(), Options::default(), Clock::manual(NOW)).unwrap();
        let store = &opened.store;
        assert_eq!(store.queue_bytes(), 0);
        store.accept(vec![Arrival::new(event())]).await.unwrap();
        let page = store.queue_bytes();
        assert!(page > 20 && store.disk_bytes() > page);
        let id = crate::delivery::DeliveryId { sequence: Sequence(1), destination: DestinationId(0) };
        let (from, due) = (crate::delivery::Place::Page, NOW.after(Duration::from_secs(9)));
        let delivery = Arc::new(store.delivery(id, from).unwrap());
        store.record(Transition::Delayed { from, due, delivery });
        store.flush().await.unwrap();
        assert_eq!(store.queue_bytes(), store.totals().delay_bytes);
        assert!(store.queue_bytes() > 20);

        assert!(!store.is_behind());
        (0..crate::store::write::shared::MOST).for_each(|_| store.shared.behind.add());
        assert!(store.is_behind());
        let mut waits = Box::pin(store.caught_up());
        assert!(waits.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        store.shared.behind.done(crate::store::write::shared::MOST);
        waits.await;

        let failure = store.failure();
        assert_eq!(*failure.borrow(), None);
        store.fail(&StoreError::Engine("no disk".to_owned()));
        assert!(failure.borrow().as_ref().is_some_and(|why| why.contains("no disk")));
        close(opened);
    }

    #[tokio::test]
    async fn an_id_is_known_for_the_current_dedup_window() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::manual(NOW);
        let windows = |s| Windows { by_source: [("s".to_owned(), Duration::from_secs(s))].into() };
        let options = Options { windows: windows(60), ..Options::default() };
        let opened = Store::open(dir.path(), options, clock.clone()).unwrap();
        let again = async || opened.store.accept(vec![Arrival::new(event())]).await.unwrap()[0];
        assert!(matches!(again().await, Receipt::Queued(_)));
        clock.advance(Duration::from_secs(50));
        assert!(matches!(again().await, Receipt::Duplicate(_)));
        opened.store.set_windows(windows(40));
        assert!(matches!(again().await, Receipt::Queued(_)));
        close(opened);
    }

    fn numbered(n: u64, at: Timestamp) -> Vec<Arrival> {
        vec![Arrival::new(Event { sender_id: Some(n.to_string()), received_at: at, ..event() })]
    }

    #[tokio::test]
    async fn history_is_kept_for_its_retention_and_for_waiting_events() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::manual(NOW);
        let windows = Windows { by_source: [("s".to_owned(), Duration::from_secs(60))].into() };
        let opened = Store::open(dir.path(), Options { windows, ..Options::default() }, clock.clone()).unwrap();
        let store = &opened.store;
        let accept = async |n, after| {
            clock.advance(Duration::from_secs(after));
            store.accept(numbered(n, clock.now())).await.unwrap();
        };
        let deliver = async |n| {
            let id = crate::delivery::DeliveryId { sequence: Sequence(n), destination: DestinationId(0) };
            let (place, at) = (crate::delivery::Place::Page, clock.now());
            store.record(Transition::Delivered { id, place, attempts: 1, status: 200, at });
            store.flush().await.unwrap();
        };
        let known = || {
            let all: Vec<u64> = (1..=5).collect();
            let events = all.iter().copied().filter(|n| store.entry(Sequence(*n)).unwrap().is_some());
            let settled = store.settlements(&all.iter().copied().map(Sequence).collect()).unwrap();
            (events.collect::<Vec<_>>(), settled.keys().map(|id| id.sequence.0).collect::<Vec<_>>())
        };
        accept(1, 0).await;
        deliver(1).await;
        accept(2, 60).await;
        assert_eq!(known(), (vec![1, 2], vec![1]));
        accept(3, 2).await;
        assert_eq!(known(), (vec![2, 3], vec![]));
        deliver(3).await;
        accept(4, 1000).await;
        accept(5, 1000).await;
        assert_eq!(known(), (vec![2, 3, 4, 5], vec![3]), "an event that waits keeps what came after it");
        deliver(2).await;
        accept(6, 2).await;
        assert_eq!(known(), (vec![4, 5], vec![2]));
        for n in [4, 5, 6] {
            deliver(n).await;
        }
        assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
        clock.advance(Duration::from_secs(61));
        store.change(Change::Heartbeat, String::new()).await.unwrap();
        assert_eq!((store.remembering(), known()), (HistoryUsage::default(), (vec![], vec![])));
        assert_eq!(store.remembered("s", "6"), None);

        clock.advance(Duration::from_secs(2));
        accept(7, 0).await;
        accept(8, 0).await;
        deliver(7).await;
        let full = store.remembering();
        assert_eq!((full.events, full.forgotten_early), (2, 0));
        let bound = async |bytes_max| {
            store.set_history_limits(Bounds { bytes_max, ..Bounds::default() });
            clock.advance(Duration::from_secs(2));
            store.change(Change::Heartbeat, String::new()).await.unwrap();
            (store.remembering().events, store.remembering().forgotten_early)
        };
        assert_eq!(bound(full.bytes).await, (2, 0));
        assert_eq!(bound(full.bytes - 1).await, (1, 1));
        store.set_history_limits(Bounds { memory_max: 0, ..Bounds::default() });
        clock.advance(Duration::from_secs(2));
        store.change(Change::Heartbeat, String::new()).await.unwrap();
        assert_eq!(store.remembering().forgotten_early, 1, "what still waits is never forgotten");
        deliver(8).await;
        clock.advance(Duration::from_secs(2));
        store.change(Change::Heartbeat, String::new()).await.unwrap();
        let now = store.remembering();
        assert_eq!(
            (now.events, now.forgotten_early, now.memory_bytes),
            (0, 2, 0),
            "the oldest goes, for want of memory"
        );
        assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
        close(opened);
    }

    #[tokio::test]
    async fn require_power_safe_refuses_an_unsafe_filesystem() {
        let dir = tempfile::tempdir().unwrap();
        let open = |require_power_safe| {
            let options = || Options { require_power_safe, ..Options::default() };
            crate::testing::stores::unlocked(|| Store::open(dir.path(), options(), Clock::manual(NOW)))
        };
        let opened = open(false).unwrap();
        let durability = opened.store.durability();
        close(opened);
        match open(true) {
            Ok(opened) => {
                assert_eq!(durability, Durability::InodeSync);
                close(opened);
            }
            Err(StoreError::NotPowerSafe { durability: told, .. }) => {
                assert_eq!(told, durability);
                assert_ne!(durability, Durability::InodeSync);
            }
            Err(e) => panic!("{e}"),
        }
    }
}
