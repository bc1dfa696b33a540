//! What the store knows in memory, rebuilt at every start from its queue-shaped rows.

use super::names::Names;
use super::pages::Pages;
use super::record::{Hold, Totals};
use crate::event::{DestinationId, Digest64, Sequence};
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
