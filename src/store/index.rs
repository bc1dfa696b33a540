//! What the store knows in memory, rebuilt at every start from its queue-shaped rows.

use super::audit::OpenEntries;
use super::dead::DeadShares;
use super::detained::Detainees;
use super::dues::Dues;
use super::names::Names;
use super::pages::Pages;
use super::record::{Door, Hold, Totals};
use super::redrive::Redrive;
use super::remembered::Remembered;
use super::spans::Spans;
use super::stance::{Paced, Stance};
use crate::delivery::{Delivery, DeliveryId};
use crate::event::DestinationId;
use crate::rules::anchor::Anchor;
use crate::time::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Deliveries on their way into the delay tree, by the due time under which they will lie there. Their next attempt may
/// start before the commit that puts them there is made.
pub type Unwritten = BTreeMap<(DeliveryId, Timestamp), Arc<Delivery>>;

#[derive(Debug, Default)]
pub struct Index {
    pub pages: Pages,
    pub remembered: Remembered,
    pub names: Names,
    pub totals: Totals,
    pub holds: BTreeMap<DestinationId, Hold>,
    pub stances: BTreeMap<DestinationId, Stance>,
    pub paced: BTreeMap<DestinationId, Paced>,
    /// What the stored times of this store go by; none before the first start that notes it.
    pub anchor: Option<Anchor>,
    pub redrives: BTreeMap<DestinationId, Redrive>,
    pub door: Option<Door>,
    pub next_gap: u64,
    /// Entries of the audit that stand for repetitions.
    pub repeated: OpenEntries,
    pub detainees: Detainees,
    pub dues: Dues,
    pub dead: DeadShares,
    pub spans: Spans,
    /// Events that were forgotten before their time, since the start.
    pub forgotten_early: u64,
}
