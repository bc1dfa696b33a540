//! What the store knows in memory, rebuilt at every start from its queue-shaped rows.

use super::names::Names;
use super::pages::Pages;
use super::record::{Hold, Totals};
use crate::event::{DestinationId, DestinationSet, Digest64, Sequence};
use crate::time::Timestamp;
use std::collections::{BTreeMap, HashMap};

#[derive(Debug, Default)]
pub struct Index {
    pub pages: Pages,
    /// Digest of a sender's id -> the newest event that bears it.
    pub remembered: HashMap<Digest64, Sequence>,
    pub names: Names,
    pub totals: Totals,
    pub holds: BTreeMap<DestinationId, Hold>,
}

/// What the scheduler needs to know of an event that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub sequence: Sequence,
    /// Its interaction; none where it is unordered.
    pub lane: Digest64,
    pub received_at: Timestamp,
    /// The destinations for which it waits.
    pub to: DestinationSet,
    pub place: Place,
}

/// Where a delivery lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In its page; or, if that page was given up for its emptiness, in the delay tree under due time zero.
    Page,
    /// In the delay tree, under this due time.
    Delay(Timestamp),
}

impl Place {
    /// The due time under which it would lie in the delay tree.
    pub fn due(self) -> Timestamp {
        match self {
            Self::Page => Timestamp::ZERO,
            Self::Delay(due) => due,
        }
    }
}
