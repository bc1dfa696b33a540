//! What is done with a delivery whose turn it is: whether it comes too late by its age, or by what was delivered before it.
//!
//! *Invariants.* What is too old to be worth sending is a dead letter, whatever becomes of stale events.

use super::staleness::{self, LateAction, OnStale};
use super::ttl::Ttl;
use crate::delivery::{Delivery, Reason};
use crate::time::Timestamp;

/// What a destination wants of events that come late.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lateness {
    pub on_stale: OnStale,
    pub ttl: Ttl,
}

impl Lateness {
    /// `newest`: see [`staleness::judge`].
    pub fn action(&self, delivery: &Delivery, newest: Option<Timestamp>, now: Timestamp) -> LateAction {
        if self.ttl.is_over(delivery, now) {
            return LateAction::DeadLetter(Reason::Expired);
        }
        staleness::judge(self.on_stale, delivery, newest)
    }
}
