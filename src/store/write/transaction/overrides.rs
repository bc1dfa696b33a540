//! What a destination's pace goes by after a restart, and what becomes of it when the clock was stepped between two lives.

use super::Transaction;
use crate::clock::{ClockReference, Step};
use crate::event::DestinationId;
use crate::store::engine::read;
use crate::store::model::codec::{self, Kind};
use crate::store::model::keys::{ALIVE, ANCHOR, hold_key, paced_key, stance_key};
use crate::store::model::overrides::{BreakerOverride, DestinationOverrides, PacingState, Pause};
use crate::store::model::record::{Hold, IntakeOverride};
use crate::store::model::table::Table;
use crate::time::Timestamp;

impl Transaction<'_> {
    /// Whether that is another word than before.
    pub(super) fn pause(&mut self, d: DestinationId, pause: Option<Pause>) -> bool {
        let was = self.index.stances.get(&d).and_then(|stance| stance.pause.as_ref());
        let changes = !same(was, pause.as_ref(), Pause::says_as);
        self.stand(d, self.now, |stance| stance.pause = pause);
        changes
    }

    /// Whether that is another word than before.
    pub(super) fn fix_breaker(&mut self, d: DestinationId, fixed: Option<BreakerOverride>, at: Timestamp) -> bool {
        let was = self.index.stances.get(&d).and_then(|stance| stance.breaker.as_ref());
        let changes = !same(was, fixed.as_ref(), BreakerOverride::says_as);
        self.stand(d, at, |stance| stance.breaker = fixed);
        changes
    }

    /// Changes a stance, and notes with it that everything is let in again, where it is.
    fn stand(&mut self, d: DestinationId, at: Timestamp, change: impl FnOnce(&mut DestinationOverrides)) {
        let stance = self.index.stances.entry(d).or_default();
        let before = stance.clone();
        change(stance);
        let let_in_at = stance.lets_in(&before, at);
        self.draft.put(Table::Meta, stance_key(d), codec::encode(Kind::DestinationOverrides, stance));
        if let Some(let_in_at) = let_in_at {
            let now = self.now;
            self.put_paced(d, |paced| paced.let_in_at = let_in_at.max(paced.let_in_at.min(now)));
        }
        self.changed = true;
    }

    pub(super) fn hold(&mut self, d: DestinationId, hold: Hold) {
        self.draft.put(Table::Meta, hold_key(d), codec::encode(Kind::Hold, &hold));
        self.index.holds.insert(d, hold);
        self.changed = true;
    }

    /// An attempt starts; starts are told of in no certain order. A note of the future is of a clock that went wrong.
    pub(super) fn sent(&mut self, d: DestinationId, at: Timestamp) {
        let now = self.now;
        self.put_paced(d, |paced| {
            paced.sent_at = if at == Timestamp::ZERO { at } else { at.max(paced.sent_at.min(now)) }
        });
    }

    fn put_paced(&mut self, d: DestinationId, change: impl FnOnce(&mut PacingState)) {
        let paced = self.index.paced.entry(d).or_default();
        change(paced);
        self.draft.put(Table::Meta, paced_key(d), codec::encode(Kind::PacingState, paced));
        self.changed = true;
    }

    /// From now on stored times go by this anchor; those that are to last for a while are moved by the step in the same
    /// commit, so that a kill leaves both or neither.
    pub(super) fn drop_anchor(&mut self, anchor: ClockReference, step: Option<Step>) {
        self.draft.put(Table::Meta, ANCHOR.to_vec(), codec::encode(Kind::ClockReference, &anchor));
        self.index.anchor = Some(anchor);
        self.changed = true;
        let Some(step) = step else { return };
        if let Ok(Some(alive)) = read::record::<Timestamp>(self.engine, Table::Meta, Kind::Alive, ALIVE) {
            // or the time without a daemon would be told as longer or shorter than it was
            self.draft.put_long(Table::Meta, ALIVE, &codec::encode(Kind::Alive, &step.moved(alive)));
        }
        for (d, hold) in self.index.holds.clone() {
            self.hold(d, Hold { until: step.moved(hold.until), ..hold });
        }
        for d in self.index.stances.keys().copied().collect::<Vec<_>>() {
            self.stand(d, self.now, |stance| {
                stance.pause.iter_mut().for_each(|pause| pause.until = step.moved(pause.until));
                stance.breaker.iter_mut().for_each(|fixed| fixed.until = step.moved(fixed.until));
            });
        }
        for d in self.index.paced.keys().copied().collect::<Vec<_>>() {
            self.put_paced(d, |paced| {
                (paced.let_in_at, paced.sent_at) = (step.moved(paced.let_in_at), step.moved(paced.sent_at));
            });
        }
        if let Some(IntakeOverride::Closed { who, reason, since, until }) = self.index.door.clone() {
            self.put_door(IntakeOverride::Closed { who, reason, since, until: step.moved(until) });
        }
    }
}

/// Whether both say the same, or neither anything.
fn same<T>(was: Option<&T>, is: Option<&T>, says_as: fn(&T, &T) -> bool) -> bool {
    match (was, is) {
        (Some(was), Some(is)) => says_as(was, is),
        (was, is) => was.is_none() && is.is_none(),
    }
}
