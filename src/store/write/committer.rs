//! The committer: the one thread that writes.
//!
//! It gathers whatever is waiting, makes one commit of it, and tells everybody who waits when the commit is durable. Under
//! load commits grow by themselves; alone, an event waits for nothing but the disk. Transitions that nobody waits for
//! linger for a moment ([`LINGER`]) so that they share a commit; a crash forgets at most those. What a destination asked for
//! does not linger: nothing may be sent there, and after a crash only the disk knows.
//!
//! *Failure.* The first error ends the thread: it answers nobody any more, and the daemon ends with it.

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

/// How long transitions alone wait for company.
const LINGER: Duration = Duration::from_millis(5);
/// When so many waited for the last commit, the load is heavy, and the next one waits for company: each sync is then shared
/// by more, and its cost is most of a commit's. An event that is alone waits for nothing.
const BUSY: usize = 16;
const COMPANY: Duration = Duration::from_micros(50);
const COMPANY_MAX: usize = 4;
/// Without requests, upkeep runs this often.
const UPKEEP: Duration = Duration::from_secs(1);
/// A commit takes at most so many requests and so many bytes of events.
const REQUESTS_MAX: usize = 1024;
const BYTES_MAX: usize = 8 << 20;
/// With so many rows a commit is full, and the rest waits for the next: sled looks up each row that it changes, also those of
/// large bodies that are deleted, and nobody reads meanwhile.
const ROWS_MAX: usize = 512;

/// Tells the caller the result of its write, once that is durable. The caller may have gone; what was done stays done.
pub type Reply = Box<dyn FnOnce() + Send>;

/// Makes a write in the transaction of the next commit.
pub type Apply = Box<dyn FnOnce(&mut Transaction<'_>) -> Result<Reply, StoreError> + Send>;

/// What the committer can be asked.
pub enum Request {
    /// What follows from an attempt; nobody waits for it.
    Transition(Transition),
    /// A write whose caller waits until it is durable, and how many bytes it adds to a commit.
    Write { bytes: usize, apply: Apply },
    /// From now on commits are copied, or no longer; false where they are copied elsewhere.
    BackupCopy { backup_copy: Option<BackupCopy>, answer: oneshot::Sender<bool> },
    /// Runs between two commits, with nothing half-written.
    Check { answer: oneshot::Sender<Result<Vec<String>, StoreError>> },
}

pub struct Committer {
    pub shared: Arc<Shared>,
    pub requests: Receiver<Request>,
    pub store_events: mpsc::UnboundedSender<StoreEvent>,
    pub windows: watch::Receiver<Windows>,
    pub clock: Clock,
    pub tail: OpenRows,
    /// Where commits are copied to, while a backup is made.
    pub backup_copy: Option<BackupCopy>,
    /// How many waited for the last commit.
    pub last: usize,
}

/// A commit that is ready to be made.
struct Written {
    finished: Finished,
    replies: Vec<Reply>,
    /// How many transitions are in it, and what they write of their events.
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
            // before the replies: a caller that then asks the dispatcher finds that it knows
            for event in finished.store_events {
                let _ = self.store_events.send(event); // without a dispatcher nobody needs to know
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
        self.shared.engine.set_watermark(reached);
        self.shared.commits.observe(self.clock.precise().saturating_sub(began));
        if let Some(copy) = copy
            && !self.backup_copy.as_ref().is_some_and(|backup_copy| backup_copy.copy(copy))
        {
            self.backup_copy = None; // whoever reads finds the copies broken off
        }
        Ok(())
    }

    /// Waits for requests; false when there will be none any more.
    fn gather(&self, gathered: &mut Vec<Request>) -> bool {
        // else something is left of what was gathered before
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

    /// Takes what has come; and under heavy load waits a little, until two fifths of the crowd have come: those are then
    /// committed while the others are being received, and neither side waits for the other.
    #[allow(clippy::disallowed_methods)] // nothing depends on it but the size of the commit
    fn gather_company(&self, gathered: &mut Vec<Request>) {
        gathered.extend(self.requests.try_iter().take(REQUESTS_MAX.saturating_sub(gathered.len())));
        // those who waited for the last commit are about to come back; the rest is here
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

/// Whether it is to be durable at once: somebody waits for the answer, or a destination asked for silence.
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
