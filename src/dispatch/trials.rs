//! Trials: deliveries whose next decisive end somebody wants to know.
//!
//! *Invariants.* Each is told once. What the destination only put off (429, `Retry-After`, a pause) is no end, as long as the
//! delivery is not dead of it.

use crate::event::Sequence;
use crate::rules::canary::End;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
pub struct Trials(Mutex<HashMap<Sequence, Option<End>>>);

impl Trials {
    /// From now on the end of these is kept until it is taken.
    pub fn watch(&self, deliveries: impl IntoIterator<Item = Sequence>) {
        self.lock().extend(deliveries.into_iter().map(|sequence| (sequence, None)));
    }

    /// The end of this one is not wanted after all.
    pub fn leave(&self, delivery: Sequence) {
        self.lock().remove(&delivery);
    }

    /// Those that have ended.
    pub fn take(&self) -> Vec<End> {
        self.lock().extract_if(|_, end| end.is_some()).filter_map(|(_, end)| end).collect()
    }

    /// Nobody wants to know any more.
    pub fn forget(&self) {
        self.lock().clear();
    }

    /// Of those that are watched; the first end counts.
    pub(super) fn tell(&self, delivery: Sequence, how: End) {
        if let Some(end) = self.lock().get_mut(&delivery) {
            end.get_or_insert(how);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Sequence, Option<End>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_end_of_what_is_watched_is_told_once() {
        let trials = Trials::default();
        trials.watch([Sequence(1), Sequence(2), Sequence(3)]);
        trials.tell(Sequence(1), End::Failed);
        trials.tell(Sequence(1), End::Well);
        trials.tell(Sequence(9), End::Well);
        assert_eq!(trials.take(), [End::Failed]);
        assert_eq!(trials.take(), []);
        trials.leave(Sequence(3));
        trials.tell(Sequence(3), End::Well);
        assert_eq!(trials.take(), []);
        trials.tell(Sequence(2), End::Gone);
        trials.forget();
        assert_eq!(trials.take(), []);
    }
}
