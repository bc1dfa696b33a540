//! Redrives that take their time: begun, taken further, ended.

use super::Transaction;
use crate::delivery::DeliveryId;
use crate::event::{DestinationId, Sequence};
use crate::store::engine::error::StoreError;
use crate::store::model::codec::{self, Kind};
use crate::store::model::keys::{redrive_key, redrive_list_key};
use crate::store::model::redrive::{Fared, Redrive, RedriveEnd, RedriveEnded};
use crate::store::model::table::Table;
use crate::store::write::request::DlqAction;
use crate::time::Timestamp;

impl Transaction<'_> {
    /// Begins a redrive; nothing happens where one of that destination goes on already.
    pub(super) fn begin_redrive(&mut self, d: DestinationId, redrive: Redrive, list: &[Sequence], what: &str) -> bool {
        if self.index.redrives.get(&d).is_some_and(Redrive::goes_on) {
            return false;
        }
        self.draft.put_long(Table::Meta, &redrive_list_key(d), &codec::encode(Kind::RedriveList, &list));
        self.audit(&redrive.who, what, list.len());
        self.keep_redrive(d, redrive);
        true
    }

    /// Redrives the next letters of the list, and says how many of them were still dead.
    pub(super) fn take_redrive_further(&mut self, d: DestinationId, letters: &[Sequence]) -> Result<usize, StoreError> {
        let Some(mut redrive) = self.index.redrives.get(&d).filter(|r| r.goes_on()).cloned() else { return Ok(0) };
        let ids: Vec<_> = letters.iter().map(|sequence| DeliveryId { sequence: *sequence, destination: d }).collect();
        let done = self.take_out(DlqAction::Redrive, &ids, redrive.begun)?;
        redrive.taken += letters.len() as u64;
        redrive.done += done as u64;
        self.keep_redrive(d, redrive);
        Ok(done)
    }

    /// Notes what has become of its letters; false where another one has begun since.
    pub(super) fn redrive_fares(&mut self, d: DestinationId, begun: Timestamp, fared: Fared) -> bool {
        let Some(mut redrive) = self.index.redrives.get(&d).filter(|r| r.begun == begun).cloned() else { return false };
        redrive.fared = fared;
        self.keep_redrive(d, redrive);
        true
    }

    /// Ends a redrive; false where none goes on.
    pub(super) fn end_redrive(&mut self, d: DestinationId, why: RedriveEnded, who: &str) -> Result<bool, StoreError> {
        let Some(mut redrive) = self.index.redrives.get(&d).filter(|r| r.goes_on()).cloned() else { return Ok(false) };
        let name = self.index.names.destination_name(d);
        let Fared { delivered, dead_again, .. } = redrive.fared;
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
        self.draft.delete_long(self.engine, Table::Meta, &redrive_list_key(d))?;
        self.keep_redrive(d, redrive);
        Ok(true)
    }

    fn keep_redrive(&mut self, d: DestinationId, redrive: Redrive) {
        self.draft.put_long(Table::Meta, &redrive_key(d), &redrive.encode());
        self.index.redrives.insert(d, redrive);
        self.changed = true;
    }
}
