//! How a breaker stands, as it is shown.

use crate::dispatch::DestinationStatus;
use crate::event::DestinationId;
use crate::rules::breaker;
use crate::store::{BreakerOverride, Position, Store};
use crate::time::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BreakerItem {
    /// `closed`, `open` or `half_open`, as the next request would find it.
    state: &'static str,
    /// Since when it stands so; null where it was closed when the daemon started and nobody set it.
    #[schema(format = DateTime)]
    since: Option<String>,
    /// When its state ends by itself: an open one is half-open from then on, one that is kept closed is left to itself.
    /// Null where no time ends it.
    #[schema(format = DateTime)]
    until: Option<String>,
    /// Null where it is closed and left to itself.
    reason: Option<String>,
    /// Who set it; null where the calls did.
    set_by: Option<String>,
}

impl BreakerItem {
    pub(super) fn of(store: &Store, d: DestinationId, line: &DestinationStatus) -> Self {
        let kept_closed = line.breaker == breaker::State::Closed && line.kept_closed_until.is_some();
        let in_force = |fixed: &BreakerOverride| match fixed.position {
            Position::Open => line.breaker != breaker::State::Closed,
            Position::Closed => kept_closed,
        };
        let fixed = store.overrides(d).breaker.filter(in_force);
        let until =
            if let breaker::State::Open { until } = line.breaker { Some(until) } else { line.kept_closed_until };
        Self {
            state: line.breaker.word(),
            since: line.breaker_since.map(|since| since.to_string()),
            until: until.filter(|until| *until < Timestamp::NEVER).map(|until| until.to_string()),
            reason: fixed.as_ref().map(|fixed| fixed.reason.clone()),
            set_by: fixed.and_then(|fixed| fixed.who),
        }
    }
}
