//! What an operator changes, and what the daemon notes about its own life; each with its audit entry in the same commit.

use super::Transaction;
use crate::delivery::{Delivery, DeliveryId, Place};
use crate::event::Digest64;
use crate::store::engine::error::StoreError;
use crate::store::model::audit::{AUDIT_MAX, Audit, Repeated};
use crate::store::model::codec::{self, Kind};
use crate::store::model::compact;
use crate::store::model::keys::{ALIVE, DOOR, TOLD, number_key};
use crate::store::model::record::{EndKind, IntakeOverride};
use crate::store::model::table::Table;
use crate::store::write::request::{Change, StoreEvent};

/// So many gaps are kept; the oldest go.
const GAPS_MAX: u64 = 10_000;

impl Transaction<'_> {
    /// Makes a change, and says how many things it concerned.
    pub fn change(&mut self, change: Change, who: &str) -> Result<usize, StoreError> {
        match change {
            Change::Discard { what, deliveries } => self.discard(&deliveries, &what, who),
            Change::Hasten { what, deliveries } => {
                let count = deliveries.len();
                self.audit(who, &what, count);
                self.news.push(StoreEvent::Hastened(deliveries));
                Ok(count)
            }
            Change::IntakeOverride { what, door } => {
                let changes = self.put_door(door);
                self.audit(who, &what, changes.into());
                Ok(1)
            }
            Change::Pause { what, destination, pause } => {
                let changes = self.pause(destination, pause.clone());
                self.news.push(StoreEvent::Paused(destination, pause));
                self.audit(who, &what, changes.into());
                Ok(1)
            }
            Change::Breaker { what, destination, fixed } => {
                let changes = self.fix_breaker(destination, fixed.clone(), self.now);
                self.news.push(StoreEvent::Breaker(destination, fixed));
                self.audit(who, &what, changes.into());
                Ok(1)
            }
            Change::RedriveBegin { what, destination, redrive, list } => {
                Ok(self.begin_redrive(destination, *redrive, &list, &what).into())
            }
            Change::RedriveOn { destination, letters } => self.take_redrive_further(destination, &letters),
            Change::RedriveFared { destination, begun, fared } => {
                Ok(self.redrive_fares(destination, begun, *fared).into())
            }
            Change::RedriveEnd { destination, why } => Ok(self.end_redrive(destination, why, who)?.into()),
            Change::Gap { number, gap } => {
                self.draft.put_long(Table::Gaps, &number_key(number), &codec::encode(Kind::Gap, &gap));
                if let Some(old) = number.checked_sub(GAPS_MAX) {
                    self.draft.delete_long(self.engine, Table::Gaps, &number_key(old))?;
                }
                self.index.next_gap = self.index.next_gap.max(number + 1);
                self.changed = true;
                Ok(1)
            }
            Change::Alive => {
                self.draft.put_long(Table::Meta, ALIVE, &codec::encode(Kind::Alive, &self.now));
                self.changed = true;
                Ok(1)
            }
            Change::ClockReference { anchor, step } => {
                self.drop_anchor(anchor, step);
                Ok(1)
            }
            Change::Told { told } => {
                self.draft.delete_long(self.engine, Table::Meta, TOLD)?;
                self.draft.put_long(Table::Meta, TOLD, &codec::encode(Kind::Told, &told));
                self.changed = true;
                Ok(1)
            }
            Change::GiveUp { what, numbers } => Ok(self.give_up_detained(&numbers, &what, who)),
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

    /// Discards deliveries that still lie where they were seen; one that has moved on is left alone.
    fn discard(
        &mut self,
        deliveries: &[(DeliveryId, Place, Digest64)],
        what: &str,
        who: &str,
    ) -> Result<usize, StoreError> {
        let mut gone = Vec::new();
        for (id, place, order_key) in deliveries {
            let (attempts, status) = self.tried(*id, *place)?;
            if self.leave(*id, *place)? {
                self.index.totals.tally(id.destination).discarded += 1;
                self.settle(*id, EndKind::Discarded, attempts, status, self.now);
                gone.push((*id, *order_key));
            }
        }
        let count = gone.len();
        self.audit(who, what, count);
        if count > 0 {
            self.news.push(StoreEvent::Purged(gone));
        }
        Ok(count)
    }

    /// Whether that is another word than before.
    pub(super) fn put_door(&mut self, door: IntakeOverride) -> bool {
        let changes = !self.index.door.as_ref().unwrap_or(&IntakeOverride::Open).says_as(&door);
        self.draft.put_long(Table::Meta, DOOR, &codec::encode(Kind::IntakeOverride, &door));
        self.index.door = Some(door);
        changes
    }

    /// How often a delivery that waits was tried, and the status of its last answer; what does not verify cannot say.
    fn tried(&self, id: DeliveryId, place: Place) -> Result<(u32, u16), StoreError> {
        if place == Place::Page {
            return Ok((0, 0));
        }
        let (_, sealed) = self.raw(id, place)?;
        let delivery = sealed.and_then(|sealed| compact::decode::<Delivery>(&sealed).ok());
        Ok(delivery.map_or((0, 0), |delivery| delivery.tried()))
    }

    /// Writes an entry of the audit, to the log too. What changed nothing shares an entry with other such requests.
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

    /// Under the number of an entry that is there, it takes its place.
    fn put_audit(&mut self, number: u64, record: &Audit) {
        self.draft.put_long(Table::Audit, &number_key(number), &record.encode());
        self.changed = true;
        if number < self.index.totals.next_audit {
            return;
        }
        if let Some(old) = number.checked_sub(AUDIT_MAX) {
            // an entry is far shorter than a row
            self.draft.delete_parts(Table::Audit, &number_key(old), 1);
        }
        self.index.totals.next_audit = number + 1;
    }
}
