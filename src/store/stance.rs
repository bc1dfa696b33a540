//! What was decided about calling a destination, as it is kept.

use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// What was decided about calling a destination, by an operator or by its breaker; it outlives a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stance {
    pub pause: Option<Pause>,
    /// None where the breaker is closed and left to itself.
    pub breaker: Option<Fixed>,
}

/// Nothing is delivered before `until`; [`Timestamp::NEVER`] where only a hand ends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    pub who: String,
    pub reason: String,
    pub since: Timestamp,
    pub until: Timestamp,
}

/// How a breaker is kept until then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fixed {
    pub position: Position,
    /// None where the calls have opened it.
    pub who: Option<String>,
    pub reason: String,
    pub since: Timestamp,
    pub until: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Position {
    Open,
    Closed,
}
