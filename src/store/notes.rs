//! Reading what the daemon and its operators noted: the audit, the gaps, the state of the door, what was told. All of it blocks.

use super::codec::Kind;
use super::draft::Table;
use super::keys::{ALIVE, TOLD, number_key, number_of};
use super::record::{Audit, Door, Gap};
use super::{Store, StoreError, read};
use crate::rules::anchor::Anchor;
use crate::time::Timestamp;
use serde::de::DeserializeOwned;

impl Store {
    /// Entries of the audit with numbers below `before`, the newest first.
    pub fn audit(&self, before: u64, limit: usize) -> Result<Vec<(u64, Audit)>, StoreError> {
        self.newest(Table::Audit, Kind::Audit, before, limit)
    }

    /// When events could not be accepted: numbers below `before`, the newest first.
    pub fn gaps(&self, before: u64, limit: usize) -> Result<Vec<(u64, Gap)>, StoreError> {
        self.newest(Table::Gaps, Kind::Gap, before, limit)
    }

    fn newest<T: DeserializeOwned>(
        &self,
        table: Table,
        kind: Kind,
        before: u64,
        limit: usize,
    ) -> Result<Vec<(u64, T)>, StoreError> {
        let mut found = Vec::new();
        for row in self.shared.engine.range(table, ..number_key(before)).rev() {
            let (key, _) = row?;
            // the key of a long record ends in its part number
            let Some(number) = key.strip_suffix(&[0, 0]).map(number_of).transpose()? else { continue };
            match read::record(&self.shared.engine, table, kind, &number_key(number)) {
                Ok(Some(record)) => found.push((number, record)),
                // one that does not verify is left out
                Ok(None) | Err(StoreError::Damaged(_)) => {}
                Err(e) => return Err(e),
            }
            if found.len() == limit {
                break;
            }
        }
        Ok(found)
    }

    /// The number of the next gap.
    pub fn next_gap(&self) -> u64 {
        self.index().next_gap
    }

    /// What an operator last did to intake.
    pub fn door(&self) -> Option<Door> {
        self.index().door.clone()
    }

    /// What the stored times go by; none where no life has noted it.
    pub fn anchor(&self) -> Option<Anchor> {
        self.index().anchor.clone()
    }

    /// When the daemon last noted that it lives; none in a new store.
    pub fn alive(&self) -> Result<Option<Timestamp>, StoreError> {
        match read::record(&self.shared.engine, Table::Meta, Kind::Alive, ALIVE) {
            Err(StoreError::Damaged(_)) => Ok(None),
            read => read,
        }
    }
    /// What those who want alerts were told, as it was last noted; none where nothing was, or where it does not verify.
    pub fn told(&self) -> Result<Option<String>, StoreError> {
        match read::record(&self.shared.engine, Table::Meta, Kind::Told, TOLD) {
            Err(StoreError::Damaged(_)) => Ok(None),
            read => read,
        }
    }
}
