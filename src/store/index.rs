//! What the store knows in memory, rebuilt at every start from its queue-shaped rows.

use super::audit::OpenEntries;
use super::dead::DeadShares;
use super::dedup::Remembered;
use super::delay_index::DelayIndex;
use super::names::Names;
use super::overrides::{DestinationOverrides, PacingState};
use super::pages::Pages;
use super::quarantine::QuarantineIndex;
use super::record::{Hold, IntakeOverride, Totals};
use super::redrive::Redrive;
use super::settlement_index::SettlementIndex;
use crate::delivery::{Delivery, DeliveryId};
use crate::event::DestinationId;
use crate::rules::clock_reference::ClockReference;
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
    pub stances: BTreeMap<DestinationId, DestinationOverrides>,
    pub paced: BTreeMap<DestinationId, PacingState>,
    /// What the stored times of this store go by; none before the first start that notes it.
    pub anchor: Option<ClockReference>,
    pub redrives: BTreeMap<DestinationId, Redrive>,
    pub door: Option<IntakeOverride>,
    pub next_gap: u64,
    /// Entries of the audit that stand for repetitions.
    pub repeated: OpenEntries,
    pub detainees: QuarantineIndex,
    pub dues: DelayIndex,
    pub dead: DeadShares,
    pub spans: SettlementIndex,
    /// Events that were forgotten before their time, since the start.
    pub forgotten_early: u64,
}
