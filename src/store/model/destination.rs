//! What is stored of a destination: pause, breaker override, pacing state and gradual redrives. All of it is kept over a
//! restart.
//!
//! *Invariants.* A destination has at most one running redrive, and the last finished one is kept. Each dead letter in the
//! list of a redrive is processed once, in order; one that was dead-lettered again after the redrive began is skipped.

use crate::rules::canary::Failing;
use crate::rules::rate::Rate;
use crate::store::model::codec::{self, Kind};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU32;
use std::time::Duration;

/// Whether a destination is called: decisions of an operator or of its breaker, kept over a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationOverrides {
    pub pause: Option<Pause>,
    /// `None` if the breaker is closed and works automatically.
    pub breaker: Option<BreakerOverride>,
}

impl DestinationOverrides {
    /// The time at which a change from `before` to this one, made at `now`, lets all deliveries be sent again; `None` if
    /// none were blocked, or if they still are.
    pub fn reopened_at(&self, before: &Self, now: Timestamp) -> Option<Timestamp> {
        let is_open =
            |overrides: &Self| overrides.breaker.as_ref().is_some_and(|fixed| fixed.position == Position::Open);
        // the pause may have expired earlier
        let resumed = before.pause.as_ref().filter(|_| self.pause.is_none()).map(|pause| pause.until.min(now));
        resumed.max((is_open(before) && !is_open(self)).then_some(now))
    }
}

/// What pacing needs of the time before a restart; zero if there is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacingState {
    /// When the last pause or override ended and the ramp-up began.
    pub released_at: Timestamp,
    /// When the last attempt started; only stored for rates so low that each start is recorded before the request is sent.
    pub sent_at: Timestamp,
}

/// Nothing is sent before `until`; [`Timestamp::NEVER`] if only an operator can end the pause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    pub who: String,
    pub reason: String,
    pub since: Timestamp,
    pub until: Timestamp,
}

impl Pause {
    /// Whether both are equal apart from the time of the command.
    pub fn is_same_as(&self, other: &Self) -> bool {
        (&self.who, &self.reason, self.until) == (&other.who, &other.reason, other.until)
    }
}

/// The state in which a breaker is kept until a given time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerOverride {
    pub position: Position,
    /// `None` if failed attempts have opened it.
    pub who: Option<String>,
    pub reason: String,
    pub since: Timestamp,
    pub until: Timestamp,
}

impl BreakerOverride {
    /// Whether both are equal apart from the time of the command.
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

/// A gradual redrive of one destination's dead letters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redrive {
    pub who: String,
    pub begun: Timestamp,
    /// Number of dead letters per number of milliseconds; `None` for as fast as they can be queued.
    rate: Option<(NonZeroU32, u64)>,
    /// Whether the results of the first dead letters decide if it continues.
    pub canary: bool,
    /// Number of dead letters in its list.
    pub matched: u64,
    /// How many of the list have been processed.
    pub taken: u64,
    /// How many of those still were dead letters and have been queued again.
    pub done: u64,
    pub end: Option<RedriveEnd>,
    /// Results of the queued dead letters; not in version 1 of the record.
    pub fared: RedriveResults,
}

/// Results of the dead letters that a redrive has queued.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedriveResults {
    pub delivered: u64,
    pub dead_again: u64,
    /// Neither delivered nor dead-lettered again: discarded or damaged.
    pub gone: u64,
    /// The dead letter whose failure stopped the canary.
    pub stopped_by: Option<StoppedBy>,
}

/// The failed delivery that stopped a redrive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoppedBy {
    /// Id of the event.
    pub event: String,
    /// Outcome of the attempt, as shown in the list of attempts.
    pub outcome: String,
    /// Status of the response; `None` if there was none.
    pub status: Option<u16>,
    /// At most [`StoppedBy::ERROR_MAX`] bytes; empty if there was a response.
    pub error: String,
}

impl StoppedBy {
    pub const ERROR_MAX: usize = 1024;

    /// Description of the dead letter and its failure.
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
    /// The whole list has been processed.
    Complete,
    /// The destination failed again: `failed` of `of` deliveries.
    Failing { failed: u64, of: u64 },
    /// An operator stopped it.
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

    /// Number of queued dead letters whose result is not known yet.
    pub fn under_way(&self) -> u64 {
        let RedriveResults { delivered, dead_again, gone, .. } = self.fared;
        self.done.saturating_sub(delivered + dead_again + gone)
    }

    pub fn encode(&self) -> Vec<u8> {
        codec::seal_as(Kind::Redrive, 2, &codec::payload(self))
    }

    /// Decodes both versions; version 1 ends before `fared`.
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
