//! The index of quarantined requests, in memory. Their bytes and their number are limited in total, per source, and for
//! requests that did not prove their sender.

use crate::store::model::quarantined_request::{Identity, QuarantinedRequest};
use crate::time::Timestamp;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Limit of their number at any size, since each takes some memory.
const COUNT_MAX: usize = 65_536;

/// Limits of the quarantine in bytes of records; the number of records is limited in the same proportion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub all: u64,
    /// Limit for the source of the request.
    pub source: u64,
    /// Limit for all requests that did not prove their sender.
    pub unverified: u64,
}

impl Room {
    /// The whole limit for each source and for unverified requests.
    pub fn undivided(all: u64) -> Self {
        Self { all, source: all, unverified: all }
    }
}

/// The limit that a request would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    All,
    Source,
    Unverified,
}

impl Full {
    /// The setting of `[quarantine]` for this limit.
    pub fn setting(self) -> &'static str {
        match self {
            Self::All => "max_bytes",
            Self::Source => "source_share",
            Self::Unverified => "unverified_share",
        }
    }
}

/// A request to be quarantined, with everything that can be computed before it has a number.
#[derive(Debug)]
pub struct PreparedRequest {
    pub sealed: Vec<u8>,
    identity: Identity,
    place: Place,
}

impl PreparedRequest {
    pub fn new(quarantined: &QuarantinedRequest) -> Self {
        Self::of(quarantined, quarantined.seal())
    }

    pub fn of(quarantined: &QuarantinedRequest, sealed: Vec<u8>) -> Self {
        let place = Place {
            identity: quarantined.identity(),
            bytes: sealed.len() as u64,
            at: quarantined.at,
            source: quarantined.source.as_str().into(),
            verified: !quarantined.proof.is_nothing(),
        };
        Self { identity: place.identity, sealed, place }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Used {
    pub bytes: u64,
    pub count: usize,
}

impl Used {
    fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.count += 1;
    }

    fn remove(&mut self, bytes: u64) {
        self.bytes -= bytes;
        self.count -= 1;
    }

    /// Whether a request of this size in bytes fits into `part`, which is a part of the limit `all`.
    fn takes(self, bytes: u64, part: u64, all: u64) -> bool {
        let count_max = u128::from(part.min(all)) * COUNT_MAX as u128 / u128::from(all.max(1));
        (self.count as u128) < count_max && self.bytes + bytes <= part
    }
}

/// The quarantined requests by number and by identity, and their sums.
#[derive(Debug, Default)]
pub struct QuarantineIndex {
    pub by_number: BTreeMap<u64, Place>,
    by_identity: HashMap<Identity, u64>,
    pub all: Used,
    pub unverified: Used,
    by_source: HashMap<Arc<str>, Used>,
    pub next: u64,
}

#[derive(Clone, Debug)]
pub struct Place {
    identity: Identity,
    bytes: u64,
    pub at: Timestamp,
    source: Arc<str>,
    verified: bool,
}

impl QuarantineIndex {
    pub fn add(&mut self, number: u64, prepared: &PreparedRequest) {
        let mut place = prepared.place.clone();
        if let Some((known, _)) = self.by_source.get_key_value(&place.source) {
            place.source = known.clone();
        }
        self.all.add(place.bytes);
        self.by_source.entry(place.source.clone()).or_default().add(place.bytes);
        if !place.verified {
            self.unverified.add(place.bytes);
        }
        self.by_identity.insert(place.identity, number);
        self.by_number.insert(number, place);
        self.next = self.next.max(number + 1);
    }

    /// Removes a request and returns its size; `None` if it does not exist.
    pub fn remove(&mut self, number: u64) -> Option<usize> {
        let place = self.by_number.remove(&number)?;
        if self.by_identity.get(&place.identity) == Some(&number) {
            self.by_identity.remove(&place.identity);
        }
        self.all.remove(place.bytes);
        if !place.verified {
            self.unverified.remove(place.bytes);
        }
        if let Some(used) = self.by_source.get_mut(&place.source) {
            used.remove(place.bytes);
            if used.count == 0 {
                self.by_source.remove(&place.source);
            }
        }
        usize::try_from(place.bytes).ok()
    }

    pub fn known(&self, prepared: &PreparedRequest) -> Option<u64> {
        self.by_identity.get(&prepared.identity).copied()
    }

    /// Whether a request fits; otherwise the limit that it would exceed.
    pub fn has_room(&self, prepared: &PreparedRequest, room: Room) -> Result<(), Full> {
        let place = &prepared.place;
        let of_source = self.by_source.get(&place.source).copied().unwrap_or_default();
        let takes = |used: Used, part| used.takes(place.bytes, part, room.all);
        if !takes(self.all, room.all) {
            Err(Full::All)
        } else if !takes(of_source, room.source) {
            Err(Full::Source)
        } else if !place.verified && !takes(self.unverified, room.unverified) {
            Err(Full::Unverified)
        } else {
            Ok(())
        }
    }

    pub fn bytes(&self) -> u64 {
        self.all.bytes
    }

    pub fn next(&self) -> u64 {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::model::quarantined_request::Proof;
    use crate::testing::events::quarantined;

    #[test]
    fn each_quarantine_share_bounds_bytes_and_number_and_frees_them() {
        let mut all = QuarantineIndex::default();
        let of = |source: &str, proof: Proof, n: usize| {
            let body = n.to_string().into_bytes();
            PreparedRequest::new(&QuarantinedRequest { source: source.to_owned(), proof, ..quarantined(&body) })
        };
        let bytes = of("a", Proof::Nothing, 0).place.bytes;
        let room = Room { all: bytes * 10, source: bytes * 6, unverified: bytes * 4 };
        let mut fill = |source, proof: Proof, from: usize| {
            let taken = (from..from + 10).take_while(|n| {
                let prepared = of(source, proof.clone(), *n);
                let fits = all.has_room(&prepared, room).is_ok();
                if fits {
                    let next = all.next();
                    all.add(next, &prepared);
                }
                fits
            });
            let taken = taken.count();
            (taken, all.has_room(&of(source, proof, from + 9), room).unwrap_err())
        };
        assert_eq!(fill("a", Proof::Nothing, 0), (4, Full::Unverified));
        assert_eq!(fill("b", Proof::Nothing, 0), (0, Full::Unverified), "whoever it is");
        assert_eq!(fill("a", Proof::Token, 0), (2, Full::Source));
        assert_eq!(fill("b", Proof::Token, 0), (4, Full::All));
        assert!((0..all.next()).all(|n| all.remove(n).is_some()));
        assert!(all.by_source.is_empty() && all.by_identity.is_empty());
        assert_eq!((all.all.bytes, all.all.count, all.unverified.bytes, all.unverified.count), (0, 0, 0, 0));
        let small = Used { bytes: 0, count: COUNT_MAX / 2 };
        assert!(!small.takes(1, 50, 100) && small.takes(1, 51, 100));
    }
}
