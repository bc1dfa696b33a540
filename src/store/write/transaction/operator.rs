//! Changes by operators and by the daemon itself, each with its audit entry in the same commit.

use crate::clock::{ClockReference, Step};
use crate::delivery::{Delivery, DeliveryId, Place};
use crate::event::{DestinationId, Digest64};
use crate::store::engine::error::StoreError;
use crate::store::engine::read;
use crate::store::index::quarantine_index::{Full, PreparedRequest, Room};
use crate::store::model::audit::{AUDIT_MAX, Audit, Repeated};
use crate::store::model::codec::{self, Kind};
use crate::store::model::destination::{BreakerOverride, DestinationOverrides, PacingState, Pause};
use crate::store::model::event_record;
use crate::store::model::record::{EndKind, Hold, IntakeOverride};
use crate::store::model::table::{
    ALERT_STATE, CLOCK_REFERENCE, HEARTBEAT, INTAKE_OVERRIDE, Table, hold_key, number_key, overrides_key, pacing_key,
};
use crate::store::write::request::{Arrival, Change, Receipt, StoreEvent};
use crate::store::write::transaction::Transaction;
use crate::time::Timestamp;

/// Number of outages that are kept; older ones are deleted.
const OUTAGES_MAX: u64 = 10_000;

impl Transaction<'_> {
    /// Makes a change; returns how many items it changed.
    pub fn change(&mut self, change: Change, who: &str) -> Result<usize, StoreError> {
        match change {
            Change::Discard { what, deliveries } => self.discard(&deliveries, &what, who),
            Change::RetryNow { what, deliveries } => {
                let count = deliveries.len();
                self.audit(who, &what, count);
                self.store_events.push(StoreEvent::RetryNow(deliveries));
                Ok(count)
            }
            Change::IntakeOverride { what, intake_override } => {
                let changes = self.set_intake(intake_override);
                self.audit(who, &what, changes.into());
                Ok(1)
            }
            Change::Pause { what, destination, pause } => {
                let changes = self.pause(destination, pause.clone());
                self.store_events.push(StoreEvent::Paused(destination, pause));
                self.audit(who, &what, changes.into());
                Ok(1)
            }
            Change::Breaker { what, destination, fixed } => {
                let changes = self.fix_breaker(destination, fixed.clone(), self.now);
                self.store_events.push(StoreEvent::Breaker(destination, fixed));
                self.audit(who, &what, changes.into());
                Ok(1)
            }
            Change::RedriveBegin { what, destination, redrive, list } => {
                Ok(self.begin_redrive(destination, *redrive, &list, &what).into())
            }
            Change::RedriveNext { destination, dead_letters } => self.take_redrive_further(destination, &dead_letters),
            Change::RedriveResults { destination, begun, fared } => {
                Ok(self.set_redrive_results(destination, begun, *fared).into())
            }
            Change::RedriveEnd { destination, why } => Ok(self.end_redrive(destination, why, who)?.into()),
            Change::Outage { number, outage } => {
                self.batch.put_long(Table::Outages, &number_key(number), &codec::encode(Kind::Outage, &outage));
                if let Some(old) = number.checked_sub(OUTAGES_MAX) {
                    self.batch.delete_long(self.engine, Table::Outages, &number_key(old))?;
                }
                self.index.next_outage = self.index.next_outage.max(number + 1);
                self.changed = true;
                Ok(1)
            }
            Change::Heartbeat => {
                self.batch.put_long(Table::Meta, HEARTBEAT, &codec::encode(Kind::Heartbeat, &self.now));
                self.changed = true;
                Ok(1)
            }
            Change::ClockReference { clock_reference, step } => {
                self.apply_clock_step(clock_reference, step);
                Ok(1)
            }
            Change::AlertState { state } => {
                self.batch.delete_long(self.engine, Table::Meta, ALERT_STATE)?;
                self.batch.put_long(Table::Meta, ALERT_STATE, &codec::encode(Kind::AlertState, &state));
                self.changed = true;
                Ok(1)
            }
            Change::DiscardQuarantined { what, numbers } => Ok(self.discard_quarantined(&numbers, &what, who)),
            Change::Note { what } => {
                self.audit(who, &what, 1);
                Ok(1)
            }
            Change::Repeated(repeated) => {
                self.audit_repeated(who, &repeated);
                Ok(1)
            }
        }
    }

    /// Discards deliveries that are still where they were found; skips those that were moved.
    fn discard(
        &mut self,
        deliveries: &[(DeliveryId, Place, Digest64)],
        what: &str,
        who: &str,
    ) -> Result<usize, StoreError> {
        let mut gone = Vec::new();
        for (id, place, order_key) in deliveries {
            let (attempts, status) = self.tried(*id, *place)?;
            if self.remove_from_place(*id, *place)? {
                self.index.totals.counters_mut(id.destination).discarded += 1;
                self.record_end(*id, EndKind::Discarded, attempts, status, self.now);
                gone.push((*id, *order_key));
            }
        }
        let count = gone.len();
        self.audit(who, what, count);
        if count > 0 {
            self.store_events.push(StoreEvent::Discarded(gone));
        }
        Ok(count)
    }

    /// Returns whether it differs from the previous one.
    pub(super) fn set_intake(&mut self, intake_override: IntakeOverride) -> bool {
        let changes =
            !self.index.intake_override.as_ref().unwrap_or(&IntakeOverride::Open).is_same_as(&intake_override);
        self.batch.put_long(Table::Meta, INTAKE_OVERRIDE, &codec::encode(Kind::IntakeOverride, &intake_override));
        self.index.intake_override = Some(intake_override);
        changes
    }

    /// Number of attempts of a waiting delivery, and the status of its last response; zeros if its record is damaged.
    fn tried(&self, id: DeliveryId, place: Place) -> Result<(u32, u16), StoreError> {
        if place == Place::Page {
            return Ok((0, 0));
        }
        let (_, sealed) = self.raw(id, place)?;
        let delivery = sealed.and_then(|sealed| event_record::decode::<Delivery>(&sealed).ok());
        Ok(delivery.map_or((0, 0), |delivery| delivery.tried()))
    }

    /// Writes an audit entry, and logs it. Requests that changed nothing share an entry.
    pub(super) fn audit(&mut self, who: &str, what: &str, count: usize) {
        if count == 0 {
            return self.audit_repeated(who, &Repeated::no_change(what, self.now));
        }
        let record =
            Audit { at: self.now, who: who.to_owned(), what: what.to_owned(), count: count as u64, since: None };
        tracing::info!(target: "holdline::audit", who, what, count, "audit");
        self.put_audit(self.index.totals.next_audit, &record);
    }

    fn audit_repeated(&mut self, who: &str, repeated: &Repeated) {
        let Repeated { what, examples, count, .. } = repeated;
        tracing::info!(target: "holdline::audit", who, what, concerning = examples.join(", "), count, "audit");
        let (number, record) = self.index.repeated.take_up(who, repeated, self.index.totals.next_audit);
        self.put_audit(number, &record);
    }

    /// Writes an audit entry; one with the same number is replaced.
    fn put_audit(&mut self, number: u64, record: &Audit) {
        self.batch.put_long(Table::Audit, &number_key(number), &record.encode());
        self.changed = true;
        if number < self.index.totals.next_audit {
            return;
        }
        if let Some(old) = number.checked_sub(AUDIT_MAX) {
            // an entry is far shorter than a row
            self.batch.delete_parts(Table::Audit, &number_key(old), 1);
        }
        self.index.totals.next_audit = number + 1;
    }
}

impl Transaction<'_> {
    /// Returns whether it differs from the previous one.
    pub(super) fn pause(&mut self, d: DestinationId, pause: Option<Pause>) -> bool {
        let was = self.index.overrides.get(&d).and_then(|overrides| overrides.pause.as_ref());
        let changes = !same(was, pause.as_ref(), Pause::is_same_as);
        self.stand(d, self.now, |overrides| overrides.pause = pause);
        changes
    }

    /// Returns whether it differs from the previous one.
    pub(super) fn fix_breaker(&mut self, d: DestinationId, fixed: Option<BreakerOverride>, at: Timestamp) -> bool {
        let was = self.index.overrides.get(&d).and_then(|overrides| overrides.breaker.as_ref());
        let changes = !same(was, fixed.as_ref(), BreakerOverride::is_same_as);
        self.stand(d, at, |overrides| overrides.breaker = fixed);
        changes
    }

    /// Changes the overrides of a destination, and records the time if that lets all its deliveries be sent again.
    fn stand(&mut self, d: DestinationId, at: Timestamp, change: impl FnOnce(&mut DestinationOverrides)) {
        let overrides = self.index.overrides.entry(d).or_default();
        let before = overrides.clone();
        change(overrides);
        let released_at = overrides.reopened_at(&before, at);
        self.batch.put(Table::Meta, overrides_key(d), codec::encode(Kind::DestinationOverrides, overrides));
        if let Some(released_at) = released_at {
            let now = self.now;
            self.put_paced(d, |paced| paced.released_at = released_at.max(paced.released_at.min(now)));
        }
        self.changed = true;
    }

    pub(super) fn hold(&mut self, d: DestinationId, hold: Hold) {
        self.batch.put(Table::Meta, hold_key(d), codec::encode(Kind::Hold, &hold));
        self.index.holds.insert(d, hold);
        self.changed = true;
    }

    /// Records the start of an attempt; starts arrive in any order. A stored start in the future is due to a wrong clock and
    /// counts as now.
    pub(super) fn sent(&mut self, d: DestinationId, at: Timestamp) {
        let now = self.now;
        self.put_paced(d, |paced| {
            paced.sent_at = if at == Timestamp::ZERO { at } else { at.max(paced.sent_at.min(now)) }
        });
    }

    fn put_paced(&mut self, d: DestinationId, change: impl FnOnce(&mut PacingState)) {
        let paced = self.index.paced.entry(d).or_default();
        change(paced);
        self.batch.put(Table::Meta, pacing_key(d), codec::encode(Kind::PacingState, paced));
        self.changed = true;
    }

    /// Stores a new clock reference. If there was a clock step, future times move with it in the same commit, so that a kill
    /// leaves both or neither.
    pub(super) fn apply_clock_step(&mut self, clock_reference: ClockReference, step: Option<Step>) {
        self.batch.put(Table::Meta, CLOCK_REFERENCE.to_vec(), codec::encode(Kind::ClockReference, &clock_reference));
        self.index.clock_reference = Some(clock_reference);
        self.changed = true;
        let Some(step) = step else { return };
        if let Ok(Some(heartbeat)) = read::record::<Timestamp>(self.engine, Table::Meta, Kind::Heartbeat, HEARTBEAT) {
            // otherwise the reported downtime would be wrong by the step
            self.batch.put_long(Table::Meta, HEARTBEAT, &codec::encode(Kind::Heartbeat, &step.moved(heartbeat)));
        }
        for (d, hold) in self.index.holds.clone() {
            self.hold(d, Hold { until: step.moved(hold.until), ..hold });
        }
        for d in self.index.overrides.keys().copied().collect::<Vec<_>>() {
            self.stand(d, self.now, |overrides| {
                overrides.pause.iter_mut().for_each(|pause| pause.until = step.moved(pause.until));
                overrides.breaker.iter_mut().for_each(|fixed| fixed.until = step.moved(fixed.until));
            });
        }
        for d in self.index.paced.keys().copied().collect::<Vec<_>>() {
            self.put_paced(d, |paced| {
                (paced.released_at, paced.sent_at) = (step.moved(paced.released_at), step.moved(paced.sent_at));
            });
        }
        if let Some(IntakeOverride::Closed { who, reason, since, until }) = self.index.intake_override.clone() {
            self.set_intake(IntakeOverride::Closed { who, reason, since, until: step.moved(until) });
        }
    }
}

/// Whether both are equal, or both are `None`.
fn same<T>(was: Option<&T>, is: Option<&T>, is_same_as: fn(&T, &T) -> bool) -> bool {
    match (was, is) {
        (Some(was), Some(is)) => is_same_as(was, is),
        (was, is) => was.is_none() && is.is_none(),
    }
}

impl Transaction<'_> {
    pub fn quarantine(&mut self, prepared: &PreparedRequest, room: Room) -> Result<u64, Full> {
        if let Some(number) = self.index.quarantine.known(prepared) {
            return Ok(number);
        }
        self.index.quarantine.has_room(prepared, room)?;
        let number = self.index.quarantine.next();
        self.batch.put_long(Table::QuarantinedRequest, &number_key(number), &prepared.sealed);
        self.index.quarantine.add(number, prepared);
        self.changed = true;
        Ok(number)
    }

    pub fn readmit(&mut self, number: u64, arrivals: Vec<Arrival>) -> Result<Option<Vec<Receipt>>, StoreError> {
        if !self.forget(number) {
            return Ok(None);
        }
        arrivals.into_iter().map(|arrival| self.accept(arrival)).collect::<Result<_, _>>().map(Some)
    }

    pub(super) fn discard_quarantined(&mut self, numbers: &[u64], what: &str, who: &str) -> usize {
        let gone = numbers.iter().filter(|number| self.forget(**number)).count();
        self.audit(who, what, gone);
        gone
    }

    pub(super) fn forget(&mut self, number: u64) -> bool {
        let Some(length) = self.index.quarantine.remove(number) else { return false };
        self.batch.delete_parts(Table::QuarantinedRequest, &number_key(number), length);
        self.changed = true;
        true
    }
}
