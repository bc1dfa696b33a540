//! What blocks a delivery, or everything that waits for a destination.

use super::Time;
use crate::delivery::Blocker;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Why a delivery, or a whole destination, cannot go now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BlockedBy {
    pub blocker: Blocker,
    /// Missing where no time ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
    /// Id of the event that must end first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<String>,
    /// `retry`, `ordering`, `destination`, `breaker`, `configuration`, `daemon`, `adaptive` or `ramp` (what lowered the
    /// configured limit), or the name of the operator.
    pub set_by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
