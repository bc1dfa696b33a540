//! What the store knows in memory, rebuilt at every start from its queue-shaped rows.
//!
//! | level | module | purpose |
//! |---|---|---|
//! | 0 | [`names`] | numbers of names |
//! | 0 | [`history`] | sender ids, where settlements are, how much history is kept |
//! | 0 | [`shares`] | bytes by source |
//! | 0 | [`quarantine_index`] | requests that were kept apart |
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
    pub overrides: BTreeMap<DestinationId, DestinationOverrides>,
    pub paced: BTreeMap<DestinationId, PacingState>,
    /// What the stored times of this store go by; none before the first start that notes it.
    pub clock_reference: Option<ClockReference>,
    pub redrives: BTreeMap<DestinationId, Redrive>,
    pub intake_override: Option<IntakeOverride>,
    pub next_outage: u64,
    /// Entries of the audit that stand for repetitions.
    pub repeated: OpenEntries,
    pub quarantine: QuarantineIndex,
    pub delay_index: DelayIndex,
    pub dead: DeadShares,
    pub settlement_index: SettlementIndex,
    /// Events that were forgotten before their time, since the start.
    pub forgotten_early: u64,
}

impl Index {
    /// A delivery comes into the delay tree, where it takes so many bytes.
    pub fn add_delayed(&mut self, due: Timestamp, delivery: &Delivery, sealed_bytes: usize) {
        let source = self.names.source(&delivery.event.source);
        self.delay_index.insert(delivery.id, due, SourceBytes::of(source, sealed_bytes));
    }

    /// What a delivery takes that was found in the delay tree before it was read.
    pub fn weigh(&mut self, delivery: &Delivery, sealed_bytes: usize) {
        let source = self.names.source(&delivery.event.source);
        self.delay_index.weigh(delivery.id, SourceBytes::of(source, sealed_bytes));
    }
}
