//! Maintenance in each commit: deletes old history, and moves deliveries out of old pages with few of them left.

use super::Transaction;
use crate::delivery::{Delivery, DeliveryId, Place};
use crate::event::{Event, Sequence};
use crate::store::engine::error::StoreError;
use crate::store::index::history;
use crate::store::model::codec::{self, Damaged};
use crate::store::model::delta_encoding::{self, Consecutive, Deltas};
use crate::store::model::event_record::{open_page, unpack};
use crate::store::model::record::{EndKind, HistoryRow, SettledRow};
use crate::store::model::table::{Table, number_key, number_of};
use crate::store::write::request::Transition;
use crate::time::Timestamp;

/// Limit of the old rows of each kind that one commit deletes.
const TRIMMED_PER_COMMIT: usize = 4;
/// Minimum number of sequences after the first one of the oldest page for it to count as sparse.
const SPARSE_SPAN: u64 = 16_384;

impl Transaction<'_> {
    /// Deletes rows at the heads of `history` and `settled` that are older than every window and concern no remaining page.
    pub(super) fn trim(&mut self) -> Result<(), StoreError> {
        if self.now < self.tail.trim_not_before {
            return Ok(());
        }
        let window = self.windows.longest().max(self.history.age);
        let floor = self.index.pages.oldest().map_or(self.index.totals.next_sequence, |(first, ..)| first);
        let mut not_before = self.now.after(std::time::Duration::from_secs(1));
        for _ in 0..TRIMMED_PER_COMMIT {
            let head = self.index.totals.history_head;
            let Some(row) = self.head::<HistoryRow>(head.0)? else {
                self.index.totals.history_head = Sequence(self.skip_hole::<HistoryRow>(head.0)?);
                break;
            };
            let end = head.plus(row.span() as u64);
            let newest = row.entries.iter().map(|e| e.received_at).max().unwrap_or_default();
            let is_old = self.now.since(newest) > window;
            if end > floor || !(is_old || self.is_beyond()) {
                break;
            }
            if !is_old {
                self.index.forgotten_early += row.span() as u64;
            }
            for (n, entry) in (head.0..).zip(&row.entries) {
                if self.index.remembered.get(entry.sender) == Some(Sequence(n)) {
                    self.index.remembered.remove(entry.sender);
                }
            }
            self.batch.delete(Table::History, number_key(head.0));
            self.index.totals.history_head = end;
            self.tail.history.forget_before(end.0);
            self.changed = true;
            not_before = Timestamp::ZERO;
        }
        for _ in 0..TRIMMED_PER_COMMIT {
            let head = self.index.totals.settled_head;
            let Some(row) = self.head::<SettledRow>(head)? else {
                self.index.totals.settled_head = self.skip_hole::<SettledRow>(head)?;
                break;
            };
            let newest = row.settlements.iter().map(|s| s.at).max().unwrap_or_default();
            let speaks_of_live = row.settlements.iter().any(|s| s.id.sequence >= floor);
            if speaks_of_live || !(self.now.since(newest) > window || self.is_beyond()) {
                break;
            }
            self.batch.delete(Table::Settled, number_key(head));
            self.index.totals.settled_head = head + row.span() as u64;
            self.tail.settled.forget_before(self.index.totals.settled_head);
            self.index.settlement_index.forget_before(self.index.totals.settled_head);
            self.changed = true;
            not_before = Timestamp::ZERO;
        }
        self.tail.trim_not_before = not_before;
        Ok(())
    }

    /// Whether the history exceeds a size limit.
    fn is_beyond(&self) -> bool {
        history::bytes(&self.index.totals) > self.history.bytes_max
            || self.index.remembered.bytes() > self.history.memory_max
    }

    fn head<R: Deltas>(&self, key: u64) -> Result<Option<R>, StoreError> {
        let sealed = self.batch.row(self.engine, R::TABLE, &number_key(key))?;
        // a damaged row counts as missing
        Ok(sealed.and_then(|sealed| delta_encoding::decode(&sealed).ok()))
    }

    /// Moves the head over a hole left by damaged rows, which recovery has reported.
    fn skip_hole<R: Deltas>(&mut self, head: u64) -> Result<u64, StoreError> {
        match self.engine.range(R::TABLE, number_key(head + 1)..).next() {
            Some(row) => {
                self.batch.delete(R::TABLE, number_key(head));
                self.changed = true;
                Ok(number_of(&row?.0)?)
            }
            None => Ok(head),
        }
    }

    /// Moves the last deliveries of an old page to the delay tree, since the page prevents the deletion of all history after
    /// it.
    pub(super) fn move_out_sparse_page(&mut self) -> Result<(), StoreError> {
        let Some((first, count, _)) = self.index.pages.oldest() else { return Ok(()) };
        let span = self.index.totals.next_sequence.0 - first.0;
        if span < SPARSE_SPAN || self.index.pages.live_events() * 4 > span {
            return Ok(());
        }
        let sealed = match self.batch.get_long(self.engine, Table::Pages, &number_key(first.0)) {
            Ok(sealed) => sealed.ok_or(Damaged::Missing),
            Err(StoreError::Damaged(why)) => Err(why),
            Err(e) => return Err(e),
        };
        let packed = match &sealed {
            Ok(sealed) => open_page(sealed),
            Err(why) => Err(why.clone()),
        };
        let records = packed.as_ref().map_err(Clone::clone).and_then(|packed| unpack(packed));
        for n in 0..u64::from(count) {
            let sequence = first.plus(n);
            for destination in self.index.pages.left(sequence).iter() {
                let id = DeliveryId { sequence, destination };
                let record = records
                    .as_ref()
                    .map_err(Clone::clone)
                    .and_then(|records| codec::from_payload::<Event>(records.get(n as usize).ok_or(Damaged::Content)?));
                self.give_up(id, record)?;
            }
        }
        Ok(())
    }

    pub(super) fn give_up(&mut self, id: DeliveryId, record: Result<Event, Damaged>) -> Result<(), StoreError> {
        let place = Place::Page;
        match record {
            Ok(event) => {
                let delivery = Delivery::first(id, event.into());
                if self.remove_from_place(id, place)? {
                    let key = (id, place.due());
                    self.unwritten.lock().expect("no holder panics").insert(key, delivery.clone().into());
                    self.written.push(key);
                    self.record_end(id, EndKind::Moved, 0, 0, self.now);
                    self.delay(place.due(), &delivery);
                }
                Ok(())
            }
            Err(why) => {
                let at = self.now;
                self.transition(Transition::Damaged { id, place, why: why.to_string(), at })
            }
        }
    }
}
