//! What was decided about calling a destination, as it is kept.

use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// What was decided about calling a destination, by an operator or by its breaker; it outlives a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationOverrides {
    pub pause: Option<Pause>,
    /// None where the breaker is closed and left to itself.
    pub breaker: Option<BreakerOverride>,
}

impl DestinationOverrides {
    /// When everything is let in again by a change of `before` into this one at `now`; none where nothing was kept out, or
    /// still is.
    pub fn lets_in(&self, before: &Self, now: Timestamp) -> Option<Timestamp> {
        let is_open = |stance: &Self| stance.breaker.as_ref().is_some_and(|fixed| fixed.position == Position::Open);
        // a pause may have run out before
        let resumed = before.pause.as_ref().filter(|_| self.pause.is_none()).map(|pause| pause.until.min(now));
        resumed.max((is_open(before) && !is_open(self)).then_some(now))
    }
}

/// What of a destination's past its pace goes by after a restart; zero where there is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacingState {
    /// When everything was let in again, and its ramp began.
    pub let_in_at: Timestamp,
    /// When its last attempt started; only where its rate is so slow that each start is noted before it is made.
    pub sent_at: Timestamp,
}

/// Nothing is delivered before `until`; [`Timestamp::NEVER`] where only a hand ends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    pub who: String,
    pub reason: String,
    pub since: Timestamp,
    pub until: Timestamp,
}

impl Pause {
    /// Whether both are of the same word, apart from when it was given.
    pub fn says_as(&self, other: &Self) -> bool {
        (&self.who, &self.reason, self.until) == (&other.who, &other.reason, other.until)
    }
}

/// How a breaker is kept until then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerOverride {
    pub position: Position,
    /// None where the calls have opened it.
    pub who: Option<String>,
    pub reason: String,
    pub since: Timestamp,
    pub until: Timestamp,
}

impl BreakerOverride {
    /// Whether both are of the same word, apart from when it was given.
    pub fn says_as(&self, other: &Self) -> bool {
        let word = |f: &Self| (f.position, f.who.clone(), f.reason.clone(), f.until);
        word(self) == word(other)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Position {
    Open,
    Closed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifted_pause_or_open_breaker_gives_its_time() {
        let pause = |until| DestinationOverrides {
            pause: Some(Pause {
                who: String::new(),
                reason: String::new(),
                since: Timestamp(1),
                until: Timestamp(until),
            }),
            breaker: None,
        };
        let breaker = |position| DestinationOverrides {
            pause: None,
            breaker: Some(BreakerOverride {
                position,
                who: None,
                reason: String::new(),
                since: Timestamp(1),
                until: Timestamp(9),
            }),
        };
        let (open, closed, free) =
            (breaker(Position::Open), breaker(Position::Closed), DestinationOverrides::default());
        for (before, after, at) in [
            (&free, &free, None),
            (&free, &pause(90), None),
            (&pause(90), &pause(40), None),
            (&pause(90), &free, Some(50)),
            (&pause(40), &free, Some(40)),
            (&free, &open, None),
            (&open, &open, None),
            (&open, &closed, Some(50)),
            (&open, &free, Some(50)),
            (&closed, &free, None),
            (&free, &closed, None),
        ] {
            assert_eq!(after.lets_in(before, Timestamp(50)), at.map(Timestamp), "{before:?} {after:?}");
        }
    }
}
