//! One exchange with a destination, as far as its pace is concerned.

use crate::time::Timestamp;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    pub began: Timestamp,
    /// From the start of the attempt to the end of the answer, or to the failure.
    pub latency: Duration,
    pub health: Health,
    /// The latest answers of the destination, this one included, refuse whatever is sent: see
    /// [`refusals`](super::refusals).
    pub refuses_all: bool,
}

/// What an exchange tells of the destination's condition.
///
/// | | breaker, closed | breaker, half-open | adaptive concurrency |
/// |---|---|---|---|
/// | `Delivered` | a success | a success | latency is measured |
/// | `Refused` | no failure | decides nothing | nothing |
/// | `Rejected` | a failure | opens it again | nothing |
/// | `Throttled` | no failure | decides nothing | a sign of overload |
/// | `Unavailable` | a failure | opens it again | a sign of overload |
/// | `Failed` | a failure | opens it again | nothing |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It took the event.
    Delivered,
    /// It refused this event with this status, for what the event is; others may fare well.
    Refused(u16),
    /// It answered with this status as it would answer any event: not found, not allowed, moved elsewhere.
    Rejected(u16),
    /// It asked to be left alone for a while (429, or `Retry-After`): too much for it, and no failure.
    Throttled,
    /// It cannot be reached or does not keep up: 503, 504, no answer in time, no connection.
    Unavailable,
    /// Another failure that may pass: 500, 502, a broken connection, a 2xx that says it was no success.
    Failed,
}

impl Health {
    /// Whether the breaker counts it as a failure.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Rejected(_) | Self::Unavailable | Self::Failed)
    }

    /// Whether it says that the destination gets more than it can bear.
    pub fn is_overload(self) -> bool {
        matches!(self, Self::Throttled | Self::Unavailable)
    }
}
