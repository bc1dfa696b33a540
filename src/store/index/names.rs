//! The permanent numbers of the names of destinations, sources and event types.
//!
//! *Invariants.* The name of a number never changes. The number of destinations is limited to [`DestinationSet::CAPACITY`],
//! that of sources and of types to [`INTERNED_MAX`]; further names get [`UNNAMED`] and are read from the event itself.

use crate::event::{DestinationId, DestinationSet};
use crate::store::model::codec::{self, Kind};
use crate::store::model::record::UNNAMED;
use crate::store::model::table::{self, Rows, Table, WriteBatch};
use std::collections::HashMap;

/// Limit of the number of names; senders choose the event types.
pub const INTERNED_MAX: usize = 2000;
/// Longer names get no number.
const NAME_BYTES_MAX: usize = 200;

#[derive(Debug, Default)]
struct List {
    names: Vec<String>,
    numbers: HashMap<String, u16>,
    changed: bool,
}

impl List {
    fn of(names: Vec<String>) -> Self {
        let numbers = names.iter().enumerate().map(|(n, name)| (name.clone(), n as u16)).collect();
        Self { names, numbers, changed: false }
    }

    fn intern(&mut self, name: &str, max: usize) -> Option<u16> {
        if let Some(n) = self.numbers.get(name) {
            return Some(*n);
        }
        if self.names.len() >= max || name.len() > NAME_BYTES_MAX {
            return None;
        }
        let n = self.names.len() as u16;
        self.names.push(name.to_owned());
        self.numbers.insert(name.to_owned(), n);
        self.changed = true;
        Some(n)
    }
}

#[derive(Debug, Default)]
pub struct Names {
    destinations: List,
    sources: List,
    kinds: List,
}

const KEYS: [&[u8]; 3] = [b"names.destinations", b"names.sources", b"names.kinds"];

impl List {
    fn read<R: Rows>(rows: &R, key: &[u8]) -> Result<Self, R::Error> {
        match table::get_long(rows, Table::Meta, key)? {
            Some(sealed) => Ok(Self::of(codec::decode(Kind::Names, &sealed)?)),
            None => Ok(Self::default()),
        }
    }
}

impl Names {
    pub fn read<R: Rows>(rows: &R) -> Result<Self, R::Error> {
        Self::read_each(rows, |_, damaged| Err(damaged))
    }

    /// As [`Names::read`]; `without` gets the kind and the error of each list that cannot be read, which is then empty
    /// unless it returns an error.
    pub fn read_each<R: Rows>(
        rows: &R,
        mut without: impl FnMut(&str, R::Error) -> Result<(), R::Error>,
    ) -> Result<Self, R::Error> {
        let mut list = |key, of: &str| List::read(rows, key).or_else(|e| without(of, e).map(|()| List::default()));
        Ok(Self {
            destinations: list(KEYS[0], "destinations")?,
            sources: list(KEYS[1], "sources")?,
            kinds: list(KEYS[2], "types")?,
        })
    }

    /// Writes the lists that have grown since the last write.
    pub fn write(&mut self, batch: &mut WriteBatch) {
        for (key, list) in KEYS.iter().zip([&mut self.destinations, &mut self.sources, &mut self.kinds]) {
            if std::mem::take(&mut list.changed) {
                batch.put_long(Table::Meta, key, &codec::encode(Kind::Names, &list.names));
            }
        }
    }

    /// Includes all lists in the next write.
    pub fn write_all(&mut self) {
        for list in [&mut self.destinations, &mut self.sources, &mut self.kinds] {
            list.changed = true;
        }
    }

    /// Adds replacement names up to these numbers, so that they are not assigned again.
    pub fn pad(&mut self, destination: Option<DestinationId>, source: Option<u16>, kind: Option<u16>) {
        let lasts = [destination.map(|d| u16::from(d.0)), source, kind];
        for (list, last) in [&mut self.destinations, &mut self.sources, &mut self.kinds].into_iter().zip(lasts) {
            let Some(last) = last else { continue };
            for n in list.names.len()..=usize::from(last) {
                list.intern(&format!("lost-name-{n}"), INTERNED_MAX);
            }
        }
    }

    /// The number of a destination; `None` if the store already has as many as it can.
    pub fn destination(&mut self, name: &str) -> Option<DestinationId> {
        self.destinations.intern(name, DestinationSet::CAPACITY).map(|n| DestinationId(n as u8))
    }

    pub fn source(&mut self, name: &str) -> u16 {
        self.sources.intern(name, INTERNED_MAX).unwrap_or(UNNAMED)
    }

    pub fn kind(&mut self, name: &str) -> u16 {
        self.kinds.intern(name, INTERNED_MAX).unwrap_or(UNNAMED)
    }

    pub fn destination_name(&self, d: DestinationId) -> &str {
        self.destinations.names.get(usize::from(d.0)).map_or("", String::as_str)
    }

    pub fn destination_of(&self, name: &str) -> Option<DestinationId> {
        self.destinations.numbers.get(name).map(|n| DestinationId(*n as u8))
    }

    pub fn source_name(&self, n: u16) -> Option<&str> {
        self.sources.names.get(usize::from(n)).map(String::as_str)
    }

    /// Names of every source that this store has ever had.
    pub fn sources(&self) -> impl Iterator<Item = &str> {
        self.sources.names.iter().map(String::as_str)
    }

    pub fn kind_name(&self, n: u16) -> Option<&str> {
        self.kinds.names.get(usize::from(n)).map(String::as_str)
    }

    /// Names and numbers of every destination that this store has ever had.
    pub fn destinations(&self) -> impl Iterator<Item = (DestinationId, &str)> {
        self.destinations.names.iter().enumerate().map(|(n, name)| (DestinationId(n as u8), name.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_senders_are_bounded_in_number_and_length() {
        let mut names = Names::default();
        assert_eq!(names.kind(&"x".repeat(NAME_BYTES_MAX + 1)), UNNAMED);
        assert_eq!(names.kind(&"x".repeat(NAME_BYTES_MAX)), 0);
        for n in 1..INTERNED_MAX {
            assert_eq!(usize::from(names.kind(&n.to_string())), n);
        }
        assert_eq!(names.kind("one more"), UNNAMED);
        assert_eq!((names.kind("7"), names.source("crm"), names.source("erp")), (7, 0, 1));
        assert_eq!((names.source_name(1), names.source_name(2)), (Some("erp"), None));
    }
}
