//! One exchange with a destination, as far as its pace is concerned.

use crate::time::Timestamp;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    pub began: Timestamp,
    /// From the start of the attempt to the end of the answer, or to the failure.
    pub latency: Duration,
    pub health: Health,
}

/// What an exchange tells of the destination's condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It answered and meant it: success, or a refusal of this one event.
    Well,
    /// It asked to be left alone for a while: too much for it, and no failure.
    Burdened,
    /// An error that may pass, no answer in time, no connection.
    Failing,
}
