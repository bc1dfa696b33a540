//! The state of the store in memory, rebuilt at every start from the stored rows.
//!
//! | level | module | purpose |
//! |---|---|---|
//! | 0 | [`names`] | numbers of names |
//! | 0 | [`history`] | sender ids, numbers of settlements, history limits |
//! | 0 | [`shares`] | bytes by source |
//! | 0 | [`quarantine_index`] | quarantined requests |
//! | 0 | [`check`] | compares rows and index |
//! | 1 | [`pages`] | deliveries in pages |
//! | 1 | [`dead_shares`] | bytes of dead letters by source |
//! | 1 | [`delay_index`] | deliveries in the delay tree |
//! | 2 | [`recovery`] | rebuilds the index |

pub mod check;
pub mod dead_shares;
pub mod delay_index;
pub mod history;
pub mod names;
pub mod pages;
pub mod quarantine_index;
pub mod recovery;
pub mod shares;

use crate::clock::ClockReference;
use crate::delivery::{Delivery, DeliveryId};
use crate::event::DestinationId;
use crate::store::model::audit::OpenEntries;
use crate::store::model::destination::{DestinationOverrides, PacingState, Redrive};
use crate::store::model::record::{Hold, IntakeOverride, Totals};
use crate::time::Timestamp;
use dead_shares::DeadShares;
use delay_index::DelayIndex;
use history::{Remembered, SettlementIndex};
use names::Names;
use pages::Pages;
use quarantine_index::QuarantineIndex;
use shares::SourceBytes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Deliveries whose move to the delay tree is not committed yet, by id and due time. Their next attempt may start before
/// that commit.
pub type Unwritten = BTreeMap<(DeliveryId, Timestamp), Arc<Delivery>>;

#[derive(Debug, Default)]
pub struct Index {
    pub pages: Pages,
    pub remembered: Remembered,
    pub names: Names,
    pub totals: Totals,
    pub holds: BTreeMap<DestinationId, Hold>,
    pub overrides: BTreeMap<DestinationId, DestinationOverrides>,
    pub paced: BTreeMap<DestinationId, PacingState>,
    /// The clock reference of the stored times; `None` until the first start that stores one.
    pub clock_reference: Option<ClockReference>,
    pub redrives: BTreeMap<DestinationId, Redrive>,
    pub intake_override: Option<IntakeOverride>,
    pub next_outage: u64,
    /// Audit entries for repetitions that may still be updated.
    pub repeated: OpenEntries,
    pub quarantine: QuarantineIndex,
    pub delay_index: DelayIndex,
    pub dead: DeadShares,
    pub settlement_index: SettlementIndex,
    /// Events since the start whose history was deleted before the age limit.
    pub forgotten_early: u64,
}

impl Index {
    /// Adds a delivery to the delay index, with its sealed size.
    pub fn add_delayed(&mut self, due: Timestamp, delivery: &Delivery, sealed_bytes: usize) {
        let source = self.names.source(&delivery.event.source);
        self.delay_index.insert(delivery.id, due, SourceBytes::of(source, sealed_bytes));
    }

    /// Sets the size of a delivery that was added to the delay index without it.
    pub fn weigh(&mut self, delivery: &Delivery, sealed_bytes: usize) {
        let source = self.names.source(&delivery.event.source);
        self.delay_index.weigh(delivery.id, SourceBytes::of(source, sealed_bytes));
    }
}
