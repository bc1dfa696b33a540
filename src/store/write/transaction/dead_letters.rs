//! Dead letters: adds, redrives and discards them; and sets damaged records aside.

use crate::delivery::{DeadLetter, DeliveryId, Place, Ticket};
use crate::event::{DestinationId, DestinationSet, Digest64, Event, Sequence};
use crate::store::engine::error::StoreError;
use crate::store::engine::read;
use crate::store::model::codec::{self, Kind};
use crate::store::model::destination::{Redrive, RedriveEnd, RedriveEnded, RedriveResults};
use crate::store::model::event_record;
use crate::store::model::record::{DamagedRecord, EndKind};
use crate::store::model::table::{Table, dlq_key, number_key, redrive_key, redrive_list_key};
use crate::store::write::request::{DlqAction, StoreEvent};
use crate::store::write::transaction::Transaction;
use crate::time::Timestamp;

impl Transaction<'_> {
    pub(super) fn dead_letter(&mut self, dead_letter: &DeadLetter) {
        let sealed = event_record::encode(dead_letter);
        self.batch.put_long(Table::Dlq, &dlq_key(dead_letter.delivery.id), &sealed);
        let totals = &mut self.index.totals;
        totals.dlq_bytes += sealed.len() as u64;
        totals.dead_lettered += 1;
        totals.counters_mut(dead_letter.delivery.id.destination).dead += 1;
        let part = self.index.bytes_of_dead_letter(dead_letter, sealed.len());
        self.index.dead.add(dead_letter.delivery.id, part);
    }

    /// Removes a dead letter from its queue; false if it is not there.
    pub(super) fn unbury(&mut self, id: DeliveryId) -> Result<bool, StoreError> {
        let key = dlq_key(id);
        let head = match read::head_of::<DeadLetter, _>(&key, |row| self.batch.row(self.engine, Table::Dlq, row)) {
            Err(StoreError::Damaged(_)) => None,
            head => head?,
        };
        let Some(bytes) = self.batch.delete_long(self.engine, Table::Dlq, &key)? else { return Ok(false) };
        let totals = &mut self.index.totals;
        totals.dlq_bytes = totals.dlq_bytes.saturating_sub(bytes as u64);
        totals.counters_mut(id.destination).dead -= 1;
        if let Some((head, sealed_bytes)) = head {
            let part = self.index.bytes_of_dead_letter(&head.record, sealed_bytes);
            self.index.dead.remove(id, part);
        }
        Ok(true)
    }

    /// Stores bytes that do not verify as a damaged record, which is never deleted automatically.
    pub(super) fn set_aside(&mut self, id: DeliveryId, table: Table, why: String, bytes: Vec<u8>) {
        let n = self.index.totals.next_damaged;
        let record = DamagedRecord { at: self.now, table: table.name().to_owned(), id, why, bytes };
        self.batch.put_long(Table::Damaged, &number_key(n), &codec::encode(Kind::DamagedRecord, &record));
        self.index.totals.next_damaged += 1;
        self.index.totals.damaged += 1;
        self.changed = true;
    }

    /// Redrives or discards those of the dead letters that still exist; returns their number.
    pub fn dlq(&mut self, action: DlqAction, ids: &[DeliveryId], who: &str) -> Result<usize, StoreError> {
        let done = self.take_out(action, ids, Timestamp::NEVER)?;
        let what = if action == DlqAction::Redrive { "dlq redrive" } else { "dlq purge" };
        self.audit(who, what, done);
        Ok(done)
    }

    /// Removes those of the dead letters from the queue that still exist and were dead-lettered by then; returns their
    /// number.
    pub(super) fn take_out(
        &mut self,
        action: DlqAction,
        ids: &[DeliveryId],
        died_by: Timestamp,
    ) -> Result<usize, StoreError> {
        let (mut tickets, mut purged) = (Vec::new(), Vec::new());
        for id in ids {
            let dead_letter = match self.batch.get_long(self.engine, Table::Dlq, &dlq_key(*id)) {
                Ok(None) => continue,
                Ok(Some(sealed)) => event_record::decode::<DeadLetter>(&sealed).map_err(|why| (why, sealed)),
                Err(StoreError::Damaged(why)) => Err((why, Vec::new())),
                Err(e) => return Err(e),
            };
            if dead_letter.as_ref().is_ok_and(|dead_letter| dead_letter.dead_at > died_by) {
                continue;
            }
            if !self.unbury(*id)? {
                continue;
            }
            match dead_letter {
                Ok(dead_letter) if action == DlqAction::Redrive => tickets.push(self.redrive(dead_letter)),
                Ok(dead_letter) => {
                    purged.push((*id, self.order_key(&dead_letter.delivery.event), dead_letter.delivery.tried()))
                }
                Err((why, bytes)) => {
                    self.set_aside(*id, Table::Dlq, why.to_string(), bytes);
                    purged.push((*id, Digest64::NONE, (0, 0)));
                }
            }
        }
        for (id, _, (attempts, status)) in &purged {
            self.index.totals.counters_mut(id.destination).discarded += 1;
            self.record_end(*id, EndKind::Discarded, *attempts, *status, self.now);
        }
        let done = tickets.len() + purged.len();
        if !tickets.is_empty() {
            self.store_events.push(StoreEvent::Redriven(tickets));
        }
        if !purged.is_empty() {
            self.store_events
                .push(StoreEvent::Discarded(purged.into_iter().map(|(id, order_key, _)| (id, order_key)).collect()));
        }
        Ok(done)
    }

    /// The order key of an event.
    fn order_key(&self, event: &Event) -> Digest64 {
        self.shared_keys.order_key(event.interaction_hash(), &event.source)
    }

    /// Puts a dead letter back into the queue, due at once. Its attempts are kept, but not counted against the limits.
    fn redrive(&mut self, dead_letter: DeadLetter) -> Ticket {
        let mut delivery = dead_letter.delivery;
        delivery.forgiven = delivery.next_attempt() - 1;
        delivery.redriven = true;
        self.delay(self.now, &delivery);
        self.index.totals.redriven += 1;
        Ticket {
            sequence: delivery.id.sequence,
            order_key: self.order_key(&delivery.event),
            received_at: delivery.event.received_at,
            time: delivery.event.time,
            to: DestinationSet::EMPTY.with(delivery.id.destination),
            place: Place::Delay(self.now),
        }
    }
}

impl Transaction<'_> {
    /// Begins a redrive; false if one of that destination is running.
    pub(super) fn begin_redrive(&mut self, d: DestinationId, redrive: Redrive, list: &[Sequence], what: &str) -> bool {
        if self.index.redrives.get(&d).is_some_and(Redrive::goes_on) {
            return false;
        }
        self.batch.put_long(Table::Meta, &redrive_list_key(d), &codec::encode(Kind::RedriveList, &list));
        self.audit(&redrive.who, what, list.len());
        self.keep_redrive(d, redrive);
        true
    }

    /// Redrives the next dead letters of the list; returns how many of them still existed.
    pub(super) fn take_redrive_further(
        &mut self,
        d: DestinationId,
        dead_letters: &[Sequence],
    ) -> Result<usize, StoreError> {
        let Some(mut redrive) = self.index.redrives.get(&d).filter(|r| r.goes_on()).cloned() else { return Ok(0) };
        let ids: Vec<_> =
            dead_letters.iter().map(|sequence| DeliveryId { sequence: *sequence, destination: d }).collect();
        let done = self.take_out(DlqAction::Redrive, &ids, redrive.begun)?;
        redrive.taken += dead_letters.len() as u64;
        redrive.done += done as u64;
        self.keep_redrive(d, redrive);
        Ok(done)
    }

    /// Updates the results of a redrive; false if another one has begun since.
    pub(super) fn set_redrive_results(&mut self, d: DestinationId, begun: Timestamp, fared: RedriveResults) -> bool {
        let Some(mut redrive) = self.index.redrives.get(&d).filter(|r| r.begun == begun).cloned() else { return false };
        redrive.fared = fared;
        self.keep_redrive(d, redrive);
        true
    }

    /// Ends a redrive; false if none is running.
    pub(super) fn end_redrive(&mut self, d: DestinationId, why: RedriveEnded, who: &str) -> Result<bool, StoreError> {
        let Some(mut redrive) = self.index.redrives.get(&d).filter(|r| r.goes_on()).cloned() else { return Ok(false) };
        let name = self.index.names.destination_name(d);
        let RedriveResults { delivered, dead_again, .. } = redrive.fared;
        let so_far = format!("{delivered} delivered, {dead_again} dead again so far");
        let what = match &why {
            RedriveEnded::Complete => format!("dlq redrive for {name}: complete, {so_far}"),
            RedriveEnded::Failing { failed, of } => {
                let by = redrive.fared.stopped_by.as_ref().map(|by| format!("; stopped by {}", by.told(name)));
                format!("dlq redrive for {name}: ended, {failed} of {of} failed, {so_far}{}", by.unwrap_or_default())
            }
            RedriveEnded::Stopped { .. } => format!("dlq redrive for {name}: stopped, {so_far}"),
        };
        self.audit(who, &what, usize::try_from(redrive.done).unwrap_or(usize::MAX));
        redrive.end = Some(RedriveEnd { at: self.now, why });
        self.batch.delete_long(self.engine, Table::Meta, &redrive_list_key(d))?;
        self.keep_redrive(d, redrive);
        Ok(true)
    }

    fn keep_redrive(&mut self, d: DestinationId, redrive: Redrive) {
        self.batch.put_long(Table::Meta, &redrive_key(d), &redrive.encode());
        self.index.redrives.insert(d, redrive);
        self.changed = true;
    }
}
