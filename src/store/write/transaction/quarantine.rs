//! Detention: requests kept apart, let in, and given up.

use super::Transaction;
use crate::store::engine::error::StoreError;
use crate::store::index::quarantine_index::{Full, Parcel, Room};
use crate::store::model::keys::number_key;
use crate::store::model::table::Table;
use crate::store::write::request::{Arrival, Receipt};

impl Transaction<'_> {
    pub fn detain(&mut self, parcel: &Parcel, room: Room) -> Result<u64, Full> {
        if let Some(number) = self.index.detainees.known(parcel) {
            return Ok(number);
        }
        self.index.detainees.has_room(parcel, room)?;
        let number = self.index.detainees.next();
        self.draft.put_long(Table::QuarantinedRequest, &number_key(number), &parcel.sealed);
        self.index.detainees.add(number, parcel);
        self.changed = true;
        Ok(number)
    }

    pub fn let_in(&mut self, number: u64, arrivals: Vec<Arrival>) -> Result<Option<Vec<Receipt>>, StoreError> {
        if !self.forget(number) {
            return Ok(None);
        }
        arrivals.into_iter().map(|arrival| self.accept(arrival)).collect::<Result<_, _>>().map(Some)
    }

    pub(super) fn give_up_detained(&mut self, numbers: &[u64], what: &str, who: &str) -> usize {
        let gone = numbers.iter().filter(|number| self.forget(**number)).count();
        self.audit(who, what, gone);
        gone
    }

    pub(super) fn forget(&mut self, number: u64) -> bool {
        let Some(length) = self.index.detainees.remove(number) else { return false };
        self.draft.delete_parts(Table::QuarantinedRequest, &number_key(number), length);
        self.changed = true;
        true
    }
}
