//! Results of watched deliveries: those of a redrive, which decide whether it continues.
//!
//! *Invariants.* For each watched delivery, its first conclusive attempt is reported once, and then its end, once. An
//! attempt that the destination only postponed (429, `Retry-After`) is not conclusive, unless it made the delivery a
//! dead letter.

use crate::event::{EventId, Sequence};
use crate::rules::canary::End;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryEnd {
    Delivered,
    Dead,
    /// Discarded, or its record is damaged.
    Gone,
}

/// How an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    pub event: EventId,
    /// See [`crate::delivery::Outcome::word`].
    pub outcome: &'static str,
    pub status: Option<u16>,
    pub error: String,
}

/// What happened to a watched delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// Its first conclusive attempt, and how it failed, if known.
    Attempt(End, Option<Failed>),
    Ended(DeliveryEnd),
}

#[derive(Debug, Default)]
pub struct CanaryResults(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Whether the first conclusive attempt has been reported.
    watched: HashMap<Sequence, bool>,
    reports: Vec<Report>,
}

impl CanaryResults {
    /// Reports on these deliveries are kept until they are taken.
    pub fn watch(&self, deliveries: impl IntoIterator<Item = Sequence>) {
        self.lock().watched.extend(deliveries.into_iter().map(|sequence| (sequence, false)));
    }

    /// Reports only the end of these deliveries.
    pub fn watch_end(&self, deliveries: impl IntoIterator<Item = Sequence>) {
        self.lock().watched.extend(deliveries.into_iter().map(|sequence| (sequence, true)));
    }

    pub fn unwatch(&self, delivery: Sequence) {
        self.lock().watched.remove(&delivery);
    }

    /// The reports since the last call.
    pub fn take(&self) -> Vec<Report> {
        std::mem::take(&mut self.lock().reports)
    }

    /// Stops watching all deliveries.
    pub fn clear(&self) {
        *self.lock() = State::default();
    }

    /// How many watched deliveries have not ended.
    pub fn open(&self) -> usize {
        self.lock().watched.len()
    }

    /// A conclusive attempt has ended; only the first one counts.
    pub(super) fn attempt_ended(&self, delivery: Sequence, end: End, how: impl FnOnce() -> Option<Failed>) {
        let state = &mut *self.lock();
        if let Some(reported) = state.watched.get_mut(&delivery)
            && !std::mem::replace(reported, true)
        {
            state.reports.push(Report::Attempt(end, how()));
        }
    }

    /// A delivery has ended.
    pub(super) fn delivery_ended(&self, delivery: Sequence, end: DeliveryEnd) {
        let state = &mut *self.lock();
        let Some(reported) = state.watched.remove(&delivery) else { return };
        if !reported {
            let result = match end {
                DeliveryEnd::Delivered => End::Delivered,
                DeliveryEnd::Dead => End::Failed,
                DeliveryEnd::Gone => End::Gone,
            };
            state.reports.push(Report::Attempt(result, None));
        }
        state.reports.push(Report::Ended(end));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_decisive_attempt_is_reported_once_and_then_the_end() {
        let results = CanaryResults::default();
        results.watch([Sequence(1), Sequence(2), Sequence(3)]);
        let failed = Failed {
            event: EventId::new(crate::time::Timestamp(1), Sequence(1), crate::event::Digest64(1)),
            outcome: "answered",
            status: Some(503),
            error: String::new(),
        };
        results.attempt_ended(Sequence(1), End::Failed, || Some(failed.clone()));
        results.attempt_ended(Sequence(1), End::Failed, || panic!("only the first"));
        results.attempt_ended(Sequence(9), End::Delivered, || panic!("not watched"));
        assert_eq!(results.take(), [Report::Attempt(End::Failed, Some(failed))]);
        results.delivery_ended(Sequence(1), DeliveryEnd::Delivered);
        results.delivery_ended(Sequence(1), DeliveryEnd::Dead);
        assert_eq!((results.take(), results.open()), (vec![Report::Ended(DeliveryEnd::Delivered)], 2));
        results.unwatch(Sequence(3));
        results.delivery_ended(Sequence(3), DeliveryEnd::Delivered);
        assert_eq!(results.take(), []);
        results.delivery_ended(Sequence(2), DeliveryEnd::Gone);
        assert_eq!(results.take(), [Report::Attempt(End::Gone, None), Report::Ended(DeliveryEnd::Gone)]);
        results.watch_end([Sequence(5)]);
        results.attempt_ended(Sequence(5), End::Delivered, || panic!("not wanted"));
        results.delivery_ended(Sequence(5), DeliveryEnd::Dead);
        assert_eq!(results.take(), [Report::Ended(DeliveryEnd::Dead)]);
        results.watch([Sequence(4)]);
        results.delivery_ended(Sequence(4), DeliveryEnd::Gone);
        results.clear();
        assert_eq!((results.take(), results.open()), (vec![], 0));
    }
}
