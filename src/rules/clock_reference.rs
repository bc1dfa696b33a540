//! The anchor of a life's clock: where the time since the machine started, which nobody can set, met the clock on the wall.
//!
//! Two lives of one machine's run are compared by it: what the wall clock has gained between them beyond the time that has
//! passed is a step, and what was to last for a while is moved by it, so that it keeps its length. Time in which the machine
//! was suspended has not passed for a life, so it counts as a step, and what lasts lasts that much longer. When deliveries are
//! tried again is not moved: it comes no later than backoff and `Retry-After` may last from the start on. Across a restart of
//! the machine nothing can tell a step from time that has passed.

use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Less is no step, but how far apart the two clocks were read. What sets clocks (ntpd, chrony, systemd-timesyncd) slews
/// what is less than 128 ms, and a slew moves both.
const STEP_MIN_MS: u64 = 100;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockReference {
    /// Of which run of the machine: its boot id.
    pub boot: String,
    /// Since the machine started, but for the time in which it was suspended.
    pub since_boot: Duration,
    /// The clock on the wall at that moment, which is what this life's clock goes by.
    pub wall: Timestamp,
}

impl ClockReference {
    /// Whether it is of a later moment of the same run of the machine.
    pub fn goes_on_from(&self, before: &Self) -> bool {
        self.boot == before.boot && self.since_boot >= before.since_boot
    }

    /// How far the wall clock was stepped since an earlier life; none where it was not, or where nobody can tell.
    pub fn step_since(&self, before: &Self) -> Option<Step> {
        if !self.goes_on_from(before) {
            return None;
        }
        let expected = before.wall.after(self.since_boot - before.since_boot);
        let step = Step { from: expected, to: self.wall };
        (expected.0.abs_diff(self.wall.0) >= STEP_MIN_MS).then_some(step)
    }
}

/// A step of the wall clock: at the moment at which it would have shown `from` it showed `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    from: Timestamp,
    to: Timestamp,
}

impl Step {
    /// The same moment by the clock behind the step; what never comes, and what there is not, stay so.
    #[must_use]
    pub fn moved(self, at: Timestamp) -> Timestamp {
        if at == Timestamp::NEVER || at == Timestamp::ZERO {
            return at;
        }
        if self.to > self.from { at.after(self.to.since(self.from)) } else { at.before(self.from.since(self.to)) }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "from {} to {}", self.from, self.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anchor(boot: &str, since_boot_s: u64, wall_ms: u64) -> ClockReference {
        let since_boot = Duration::from_secs(since_boot_s);
        ClockReference { boot: boot.to_owned(), since_boot, wall: Timestamp(1_800_000_000_000 + wall_ms) }
    }

    #[test]
    fn durations_keep_their_length_over_a_clock_step_within_one_boot() {
        let before = anchor("a", 100, 0);
        let due = Timestamp(1_800_000_008_000);
        for (now, moved_by) in [
            (anchor("a", 102, 2000), None),
            (anchor("a", 102, 2099), None),
            (anchor("a", 102, 1901), None),
            (anchor("a", 102, 62_000), Some(60_000)),
            (anchor("a", 102, 2100), Some(100)),
            (anchor("a", 102, 0), Some(-2000)),
            (anchor("b", 102, 62_000), None),
            (anchor("a", 99, 62_000), None),
        ] {
            let moved = now.step_since(&before).map(|step| step.moved(due).0 as i64 - due.0 as i64);
            assert_eq!(moved, moved_by, "{now:?}");
        }
        let step = anchor("a", 102, 62_000).step_since(&before).unwrap();
        assert_eq!([Timestamp::ZERO, Timestamp::NEVER].map(|at| step.moved(at)), [Timestamp::ZERO, Timestamp::NEVER]);
    }
}
