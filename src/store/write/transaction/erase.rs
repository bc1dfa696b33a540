//! Erasure in a transaction: the deliveries, dead letters, pages and history entries of some events, in one commit.

use super::Transaction;
use crate::delivery::DeliveryId;
use crate::event::{Event, Sequence};
use crate::store::engine::error::StoreError;
use crate::store::model::event_record::{open_page, unpack};
use crate::store::model::record::{EndKind, HistoryRow};
use crate::store::model::table::{Table, number_key, number_of};
use crate::store::model::{codec, delta_encoding};
use crate::store::write::request::{Erased, Erasure, EventLocation, StoreEvent};
use std::collections::BTreeSet;

impl Transaction<'_> {
    pub fn erase(&mut self, erasure: &Erasure, who: &str) -> Result<Erased, StoreError> {
        let mut erased = Erased::default();
        let mut gone = Vec::new();
        for (sequence, trace) in &erasure.events {
            let ids = self.erase_deliveries(*sequence, trace, &mut erased)?;
            gone.extend(ids.into_iter().map(|id| (id, trace.order_key)));
        }
        let of: BTreeSet<Sequence> = erasure.events.iter().map(|(sequence, _)| *sequence).collect();
        for first in of.iter().filter_map(|s| self.index.pages.page_of(*s)).collect::<BTreeSet<_>>() {
            self.give_up_page(first)?;
        }
        for sequence in of {
            erased.remembered += u64::from(self.forget_entry(sequence)?);
        }
        for number in &erasure.damaged {
            let deleted = self.batch.delete_long(self.engine, Table::Damaged, &number_key(*number))?;
            erased.damaged += u64::from(deleted.is_some());
        }
        erased.quarantined = erasure.quarantined.iter().filter(|number| self.forget(**number)).count() as u64;
        self.audit(who, &erasure.what, usize::try_from(erased.total()).unwrap_or(usize::MAX));
        if !gone.is_empty() {
            self.store_events.push(StoreEvent::Discarded(gone));
        }
        Ok(erased)
    }

    /// Discards the waiting deliveries and dead letters, each where it was found.
    fn erase_deliveries(
        &mut self,
        sequence: Sequence,
        trace: &EventLocation,
        erased: &mut Erased,
    ) -> Result<Vec<DeliveryId>, StoreError> {
        let mut gone = Vec::new();
        for (destination, place) in &trace.waiting {
            let id = DeliveryId { sequence, destination: *destination };
            if self.remove_from_place(id, *place)? {
                erased.waiting += 1;
                gone.push(id);
            }
        }
        for destination in &trace.dead {
            let id = DeliveryId { sequence, destination: *destination };
            if self.unbury(id)? {
                erased.dead += 1;
                gone.push(id);
            }
        }
        for id in &gone {
            self.index.totals.counters_mut(id.destination).discarded += 1;
            self.record_end(*id, EndKind::Discarded, 0, 0, self.now);
        }
        Ok(gone)
    }

    /// Moves all deliveries that remain in a page to the delay tree, and deletes the page.
    fn give_up_page(&mut self, first: Sequence) -> Result<(), StoreError> {
        let sealed = match self.batch.get_long(self.engine, Table::Pages, &number_key(first.0)) {
            Err(StoreError::Damaged(_)) => return Ok(()),
            sealed => sealed?,
        };
        let Some(Ok(packed)) = sealed.map(|sealed| open_page(&sealed)) else { return Ok(()) };
        let Ok(records) = unpack(&packed) else { return Ok(()) };
        for (sequence, record) in (first.0..).map(Sequence).zip(records) {
            for destination in self.index.pages.left(sequence).iter() {
                self.give_up(DeliveryId { sequence, destination }, codec::from_payload::<Event>(record))?;
            }
        }
        Ok(())
    }

    /// Erases the content of a history entry; false if it was erased already.
    fn forget_entry(&mut self, sequence: Sequence) -> Result<bool, StoreError> {
        let Some(found) = self.engine.range(Table::History, ..=number_key(sequence.0)).next_back() else {
            return Ok(false);
        };
        let key = found?.0;
        let first = number_of(&key)?;
        // includes erasures in the same commit
        let Some(sealed) = self.batch.row(self.engine, Table::History, &key)? else { return Ok(false) };
        let Ok(mut row) = delta_encoding::decode::<HistoryRow>(&sealed) else { return Ok(false) };
        let Some(entry) = row.entries.get_mut((sequence.0 - first) as usize).filter(|e| !e.is_erased()) else {
            return Ok(false);
        };
        let (sender, prior) = (entry.sender, entry.prior);
        entry.erase();
        if self.index.remembered.get(sender) == Some(sequence) {
            // the previous event with this id, of another interaction, becomes the newest one again
            match prior {
                Sequence(0) => self.index.remembered.remove(sender),
                prior => self.index.remembered.insert(sender, prior),
            }
        }
        self.batch.put(Table::History, number_key(first), delta_encoding::encode(&row));
        self.tail.history.replace(first, row);
        self.changed = true;
        Ok(true)
    }
}
