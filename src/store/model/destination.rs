//! What is stored of a destination: pause, breaker override, pacing, and redrives that run in the background. All of it outlives a restart.
//!
//! *Invariants.* A destination has at most one running redrive, and the last one that ended is kept. Each dead letter of its list
//! is looked at once, in order; one that was dead-lettered again since the redrive began is left alone.

use crate::rules::canary::Failing;
use crate::rules::rate::Rate;
use crate::store::model::codec::{self, Kind};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU32;
use std::time::Duration;

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
    pub fn reopened_at(&self, before: &Self, now: Timestamp) -> Option<Timestamp> {
        let is_open =
            |overrides: &Self| overrides.breaker.as_ref().is_some_and(|fixed| fixed.position == Position::Open);
        // a pause may have run out before
        let resumed = before.pause.as_ref().filter(|_| self.pause.is_none()).map(|pause| pause.until.min(now));
        resumed.max((is_open(before) && !is_open(self)).then_some(now))
    }
}

/// What of a destination's past its pace goes by after a restart; zero where there is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacingState {
    /// When everything was let in again, and its ramp began.
    pub released_at: Timestamp,
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
    pub fn is_same_as(&self, other: &Self) -> bool {
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
    pub fn is_same_as(&self, other: &Self) -> bool {
        let word = |f: &Self| (f.position, f.who.clone(), f.reason.clone(), f.until);
        word(self) == word(other)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Position {
    Open,
    Closed,
}

/// A redrive of one destination's dead letters, little by little.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redrive {
    pub who: String,
    pub begun: Timestamp,
    /// So many in so many milliseconds; none: as fast as they can be queued.
    rate: Option<(NonZeroU32, u64)>,
    /// Whether it looks at how the first ones fare.
    pub canary: bool,
    /// Letters in its list.
    pub matched: u64,
    /// So many of the list have been looked at.
    pub taken: u64,
    /// So many of them were still dead, and wait again.
    pub done: u64,
    pub end: Option<RedriveEnd>,
    /// What has become of them; not there in the first version of the record.
    pub fared: RedriveResults,
}

/// What became of the letters that a redrive has put into the queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedriveResults {
    pub delivered: u64,
    pub dead_again: u64,
    /// Neither: discarded meanwhile, or damaged.
    pub gone: u64,
    /// The letter whose failure was one too many for the canary.
    pub stopped_by: Option<StoppedBy>,
}

/// How the delivery failed that stopped a redrive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoppedBy {
    /// The id of the event.
    pub event: String,
    /// As the attempts are told.
    pub outcome: String,
    /// Of the answer, where there was one.
    pub status: Option<u16>,
    /// At most [`StoppedBy::ERROR_MAX`] bytes; empty where an answer came.
    pub error: String,
}

impl StoppedBy {
    pub const ERROR_MAX: usize = 1024;

    /// Which dead letter it is, and how it failed, in words.
    pub fn told(&self, destination: &str) -> String {
        let status = self.status.map(|status| format!(" {status}")).unwrap_or_default();
        let error = if self.error.is_empty() { String::new() } else { format!(" ({})", self.error) };
        format!("{}/{destination}: {}{status}{error}", self.event, self.outcome)
    }
}

/// How a redrive ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedriveEnd {
    pub at: Timestamp,
    pub why: RedriveEnded,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RedriveEnded {
    /// All of its list have been looked at.
    Complete,
    /// The destination failed again: so many of so many.
    Failing { failed: u64, of: u64 },
    /// An operator has stopped it.
    Stopped { who: String },
}

impl From<Failing> for RedriveEnded {
    fn from(failing: Failing) -> Self {
        Self::Failing { failed: failing.failed as u64, of: failing.of as u64 }
    }
}

impl Redrive {
    pub fn new(who: String, begun: Timestamp, rate: Option<Rate>, canary: bool, matched: usize) -> Self {
        let rate = rate.and_then(|rate| Some((NonZeroU32::new(rate.count())?, crate::time::millis(rate.per()))));
        Self {
            who,
            begun,
            rate,
            canary,
            matched: matched as u64,
            taken: 0,
            done: 0,
            end: None,
            fared: RedriveResults::default(),
        }
    }

    pub fn rate(&self) -> Option<Rate> {
        self.rate.map(|(count, ms)| Rate::new(count, Duration::from_millis(ms)))
    }

    pub fn goes_on(&self) -> bool {
        self.end.is_none()
    }

    /// Letters in the queue whose end is not known yet.
    pub fn under_way(&self) -> u64 {
        let RedriveResults { delivered, dead_again, gone, .. } = self.fared;
        self.done.saturating_sub(delivered + dead_again + gone)
    }

    pub fn encode(&self) -> Vec<u8> {
        codec::seal_as(Kind::Redrive, 2, &codec::payload(self))
    }

    /// Reads both versions: the first ends before `fared`.
    pub fn decode(sealed: &[u8]) -> Result<Self, codec::Damaged> {
        match codec::open_any(Kind::Redrive, sealed)? {
            (1, first) => codec::from_payload(&[first, &codec::payload(&RedriveResults::default())].concat()),
            (_, second) => codec::from_payload(second),
        }
    }
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
            assert_eq!(after.reopened_at(before, Timestamp(50)), at.map(Timestamp), "{before:?} {after:?}");
        }
    }
}
