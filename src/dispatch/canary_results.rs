//! Trials: deliveries of which somebody wants to know how they fare, and how they end.
//!
//! *Invariants.* Of each its first decisive end is told once, and then what became of it, once. What the destination only put
//! off (429, `Retry-After`, a pause) is no end, as long as the delivery is not dead of it.

use crate::event::{EventId, Sequence};
use crate::rules::canary::End;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Delivered,
    Dead,
    /// Purged, discarded, or its record does not verify.
    Gone,
}

/// How an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    pub event: EventId,
    /// As the attempts are told.
    pub outcome: &'static str,
    pub status: Option<u16>,
    pub error: String,
}

/// News of what is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// Its first attempt that decides anything ended so; how, where it failed and that is known.
    Tried(End, Option<Failed>),
    /// Nothing more comes of it.
    Over(Fate),
}

#[derive(Debug, Default)]
pub struct CanaryResults(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Whether its first end has been told.
    watched: HashMap<Sequence, bool>,
    reports: Vec<Report>,
}

impl CanaryResults {
    /// From now on what happens to these is kept until it is taken.
    pub fn watch(&self, deliveries: impl IntoIterator<Item = Sequence>) {
        self.lock().watched.extend(deliveries.into_iter().map(|sequence| (sequence, false)));
    }

    /// Of these it is only wanted what becomes of them.
    pub fn watch_fate(&self, deliveries: impl IntoIterator<Item = Sequence>) {
        self.lock().watched.extend(deliveries.into_iter().map(|sequence| (sequence, true)));
    }

    /// This one is not watched after all.
    pub fn leave(&self, delivery: Sequence) {
        self.lock().watched.remove(&delivery);
    }

    /// What has happened since.
    pub fn take(&self) -> Vec<Report> {
        std::mem::take(&mut self.lock().reports)
    }

    /// Nobody wants to know any more.
    pub fn forget(&self) {
        *self.lock() = State::default();
    }

    /// How many are watched of which nothing final is known.
    pub fn open(&self) -> usize {
        self.lock().watched.len()
    }

    /// An attempt has decided something; the first one counts.
    pub(super) fn tried(&self, delivery: Sequence, end: End, how: impl FnOnce() -> Option<Failed>) {
        let state = &mut *self.lock();
        if let Some(told) = state.watched.get_mut(&delivery)
            && !std::mem::replace(told, true)
        {
            state.reports.push(Report::Tried(end, how()));
        }
    }

    /// It has come to its end.
    pub(super) fn over(&self, delivery: Sequence, fate: Fate) {
        let state = &mut *self.lock();
        let Some(told) = state.watched.remove(&delivery) else { return };
        if !told {
            let end = match fate {
                Fate::Delivered => End::Well,
                Fate::Dead => End::Failed,
                Fate::Gone => End::Gone,
            };
            state.reports.push(Report::Tried(end, None));
        }
        state.reports.push(Report::Over(fate));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watched_delivery_reports_its_first_result_once_and_then_its_end() {
        let trials = CanaryResults::default();
        trials.watch([Sequence(1), Sequence(2), Sequence(3)]);
        let failed = Failed {
            event: EventId::new(crate::time::Timestamp(1), Sequence(1), crate::event::Digest64(1)),
            outcome: "answered",
            status: Some(503),
            error: String::new(),
        };
        trials.tried(Sequence(1), End::Failed, || Some(failed.clone()));
        trials.tried(Sequence(1), End::Failed, || panic!("only the first"));
        trials.tried(Sequence(9), End::Well, || panic!("not watched"));
        assert_eq!(trials.take(), [Report::Tried(End::Failed, Some(failed))]);
        trials.over(Sequence(1), Fate::Delivered);
        trials.over(Sequence(1), Fate::Dead);
        assert_eq!((trials.take(), trials.open()), (vec![Report::Over(Fate::Delivered)], 2));
        trials.leave(Sequence(3));
        trials.over(Sequence(3), Fate::Delivered);
        assert_eq!(trials.take(), []);
        trials.over(Sequence(2), Fate::Gone);
        assert_eq!(trials.take(), [Report::Tried(End::Gone, None), Report::Over(Fate::Gone)]);
        trials.watch_fate([Sequence(5)]);
        trials.tried(Sequence(5), End::Well, || panic!("not wanted"));
        trials.over(Sequence(5), Fate::Dead);
        assert_eq!(trials.take(), [Report::Over(Fate::Dead)]);
        trials.watch([Sequence(4)]);
        trials.over(Sequence(4), Fate::Gone);
        trials.forget();
        assert_eq!((trials.take(), trials.open()), (vec![], 0));
    }
}
