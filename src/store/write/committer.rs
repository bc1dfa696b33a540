//! The committer: the one thread that writes.
//!
//! It collects the waiting requests, writes them in one commit, and replies to their callers when the commit is durable.
//! Commits grow with the load; a single event waits only for the disk. Transitions, for which no caller waits, are delayed
//! by [`LINGER`] so that they share a commit; a crash loses at most those. A `Retry-After` is not delayed: no request may be
//! sent before it has passed, and after a crash only the disk knows it.
//!
//! *Failure.* The first error ends the thread: it replies to no caller any more, and the daemon ends.

use super::request::{BackupCopy, StoreEvent, Transition};
use super::shared::Shared;
use super::transaction::{Finished, OpenRows, Transaction, Windows};
use crate::clock::Clock;
use crate::store::engine::error::StoreError;
use crate::store::index::check;
use crate::store::model::table::WriteBatch;
use crate::store::model::watermark::Watermark;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Delay of a commit that contains only transitions.
const LINGER: Duration = Duration::from_millis(5);
/// If the last commit had so many requests, the load is heavy and the next commit waits for further requests: more of them
/// then share a sync, which is most of the cost of a commit. A single event does not wait.
const BUSY: usize = 16;
const COMPANY: Duration = Duration::from_micros(50);
const COMPANY_MAX: usize = 4;
/// Interval of maintenance without requests.
const UPKEEP: Duration = Duration::from_secs(1);
/// Limit of the requests in one commit; the bytes of their events are limited too.
const REQUESTS_MAX: usize = 1024;
const BYTES_MAX: usize = 8 << 20;
/// Limit of the rows in one commit; further requests wait for the next one. sled looks up each row that it changes,
/// including rows of large bodies that are deleted, and blocks readers meanwhile.
const ROWS_MAX: usize = 512;

/// Sends the caller the result of its write when it is durable. The write is kept even if the caller is gone.
pub type Reply = Box<dyn FnOnce() + Send>;

/// Makes a write in the transaction of the next commit.
pub type Apply = Box<dyn FnOnce(&mut Transaction<'_>) -> Result<Reply, StoreError> + Send>;

/// Requests to the committer.
pub enum Request {
    /// The result of an attempt; no caller waits for it.
    Transition(Transition),
    /// A write whose caller waits until it is durable, and the bytes that it adds to a commit.
    Write { bytes: usize, apply: Apply },
    /// Starts or stops copying commits for a backup; answers false if they are copied for another one already.
    BackupCopy { backup_copy: Option<BackupCopy>, answer: oneshot::Sender<bool> },
    /// Checks the store between two commits.
    Check { answer: oneshot::Sender<Result<Vec<String>, StoreError>> },
}

pub struct Committer {
    pub shared: Arc<Shared>,
    pub requests: Receiver<Request>,
    pub store_events: mpsc::UnboundedSender<StoreEvent>,
    pub windows: watch::Receiver<Windows>,
    pub clock: Clock,
    pub tail: OpenRows,
    /// The receiver of copied commits while a backup is made.
    pub backup_copy: Option<BackupCopy>,
    /// Number of requests in the last commit.
    pub last: usize,
}

/// A commit that is ready to be written.
struct Written {
    finished: Finished,
    replies: Vec<Reply>,
    /// Number of its transitions, and the bytes that they write of their events.
    transitions: usize,
    copied_bytes: u64,
}

impl Committer {
    /// Runs until every handle of the store is gone, or until the first error.
    pub fn run(mut self) {
        let end = self.commits();
        if let Err(e) = end {
            tracing::error!(error = %e, "the store failed; nothing is acknowledged any more and the daemon stops");
            self.shared.failure.send_replace(Some(e.to_string()));
        }
    }

    fn commits(&mut self) -> Result<(), StoreError> {
        let mut gathered = Vec::new();
        while self.gather(&mut gathered) {
            let Written { finished, replies, transitions, copied_bytes } = self.write_up(&mut gathered)?;
            if let Some(batch) = finished.batch {
                self.commit(batch, finished.reached)?;
            }
            if !finished.events.is_empty() {
                let next = finished.first.plus(finished.events.len() as u64);
                self.shared.written_next.store(next.0, Ordering::Release);
                self.shared.cache.lock().expect("no holder panics").accepted(finished.first, finished.events);
            }
            self.shared.behind.done(transitions);
            self.shared.disk_space.remove_uncommitted(copied_bytes);
            self.last = replies.len();
            let mut unwritten = self.shared.unwritten.lock().expect("no holder panics");
            finished.written.iter().for_each(|key| drop(unwritten.remove(key)));
            drop(unwritten);
            // before the replies: a caller that then asks the dispatcher gets the new state
            for event in finished.store_events {
                let _ = self.store_events.send(event); // offline there is no dispatcher
            }
            replies.into_iter().for_each(|reply| reply());
        }
        Ok(())
    }

    fn commit(&mut self, batch: WriteBatch, reached: Watermark) -> Result<(), StoreError> {
        let copy = self.backup_copy.is_some().then(|| batch.clone());
        let engine = &self.shared.engine;
        self.shared.disk_space.before_commit(&batch, engine.folder(), engine.data());
        let began = self.clock.precise();
        engine.commit(batch)?;
        self.shared.disk_space.after_commit(engine.folder(), engine.data());
        self.shared.engine.set_watermark(reached);
        self.shared.commits.observe(self.clock.precise().saturating_sub(began));
        if let Some(copy) = copy
            && !self.backup_copy.as_ref().is_some_and(|backup_copy| backup_copy.copy(copy))
        {
            self.backup_copy = None; // the reader sees that the copying has ended
        }
        Ok(())
    }

    /// Waits for requests; false if there will be none any more.
    fn gather(&self, gathered: &mut Vec<Request>) -> bool {
        // otherwise requests are left from the last time
        if gathered.is_empty() {
            match self.requests.recv_timeout(UPKEEP) {
                Ok(request) => gathered.push(request),
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        if self.last >= BUSY {
            self.gather_company(gathered);
        }
        let mut bytes: usize = gathered.iter().map(size).sum();
        let mut is_urgent = gathered.iter().any(is_urgent);
        while gathered.len() < REQUESTS_MAX && bytes < BYTES_MAX {
            let next = match self.requests.try_recv() {
                Err(_) if is_urgent => break,
                Err(_) => self.requests.recv_timeout(LINGER).ok(),
                Ok(request) => Some(request),
            };
            let Some(request) = next else { break };
            bytes += size(&request);
            is_urgent |= self::is_urgent(&request);
            gathered.push(request);
        }
        true
    }

    /// Takes the requests that have arrived. Under heavy load it waits a little, until 40 % of the expected requests have
    /// arrived: these are committed while the others are being received.
    #[allow(clippy::disallowed_methods)] // affects only the size of the commit
    fn gather_company(&self, gathered: &mut Vec<Request>) {
        gathered.extend(self.requests.try_iter().take(REQUESTS_MAX.saturating_sub(gathered.len())));
        // callers of the last commit are expected to send their next requests soon
        let enough = ((self.last + gathered.len()) * 2 / 5).min(REQUESTS_MAX);
        for _ in 0..COMPANY_MAX {
            if gathered.len() >= enough {
                return;
            }
            std::thread::sleep(COMPANY);
            gathered.extend(self.requests.try_iter().take(REQUESTS_MAX.saturating_sub(gathered.len())));
        }
    }

    fn write_up(&mut self, gathered: &mut Vec<Request>) -> Result<Written, StoreError> {
        let shared = self.shared.clone();
        let windows = self.windows.borrow().clone();
        let mut index = shared.index.lock().expect("no holder panics");
        let mut transaction = Transaction::new(&shared, &mut index, &mut self.tail, &windows, self.clock.now());
        let (mut replies, mut transitions, mut copied_bytes) = (Vec::new(), 0, 0);
        let (mut checks, mut backup_copies) = (Vec::new(), Vec::new());
        let mut requests = std::mem::take(gathered).into_iter();
        while transaction.batch.rows() < ROWS_MAX
            && let Some(request) = requests.next()
        {
            match request {
                Request::Transition(transition) => {
                    copied_bytes += transition.copy_bytes();
                    transaction.transition(transition)?;
                    transitions += 1;
                }
                Request::Write { apply, .. } => replies.push(apply(&mut transaction)?),
                Request::Check { answer } => checks.push(answer),
                Request::BackupCopy { backup_copy, answer } => backup_copies.push((backup_copy, answer)),
            }
        }
        gathered.extend(requests);
        let mut finished = transaction.finish()?;
        if !checks.is_empty() || !backup_copies.is_empty() {
            if let Some(batch) = finished.batch.take() {
                self.commit(batch, finished.reached)?;
            }
            for (backup_copy, answer) in backup_copies {
                let free = backup_copy.is_none() || self.backup_copy.is_none();
                if free {
                    self.backup_copy = backup_copy;
                }
                let _ = answer.send(free);
            }
            for answer in checks {
                let _ = answer.send(check::check(&shared.engine, &index));
            }
        }
        Ok(Written { finished, replies, transitions, copied_bytes })
    }
}

/// Whether the request should be durable at once: a caller waits for it, or a destination sent a `Retry-After`.
fn is_urgent(request: &Request) -> bool {
    match request {
        Request::Transition(transition) => matches!(transition, Transition::Hold { .. }),
        _ => true,
    }
}

fn size(request: &Request) -> usize {
    match request {
        Request::Write { bytes, .. } => *bytes,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{DestinationId, Sequence};
    use crate::time::Timestamp;

    #[test]
    fn a_retry_after_commits_at_once_and_a_settlement_joins_a_group() {
        let hold = Transition::Hold { destination: DestinationId(0), until: Timestamp(9), reason: String::new() };
        assert!(is_urgent(&Request::Transition(hold)));
        let id = crate::delivery::DeliveryId { sequence: Sequence(1), destination: DestinationId(0) };
        let place = crate::delivery::Place::Page;
        let end = Transition::Discarded { id, place, attempts: 1, at: Timestamp(9) };
        assert!(!is_urgent(&Request::Transition(end)));
        assert!(is_urgent(&Request::Check { answer: oneshot::channel().0 }));
    }
}
