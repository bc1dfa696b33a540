//! The only reader of time: the system clock, or a manual clock that a test advances.
//!
//! *Invariants.* `now` never goes back and never jumps: it is the wall clock at the start of the process plus the
//! monotonic time since then. So a step of the wall clock neither delays nor releases deliveries. `wall` is the wall
//! clock; it is only compared with dates from outside. Between two processes, a [`ClockReference`] distinguishes a step
//! of the wall clock from time that has passed.

use crate::time::{Timestamp, millis};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;

/// Changes with every boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// The wall clock is read between two reads of the time since boot; their difference must not exceed this.
const READS_APART_MAX: Duration = Duration::from_millis(10);
const READS_MAX: usize = 20;

#[derive(Clone, Debug)]
pub struct Clock(Kind);

#[derive(Clone, Debug)]
enum Kind {
    System { reference: ClockReference, start: Instant },
    Manual { now: Arc<watch::Sender<Timestamp>>, stepped_ms: Arc<AtomicU64> },
}

impl Clock {
    #[allow(clippy::disallowed_methods)] // the only code that reads time
    pub fn system() -> Self {
        // without a boot id, this boot counts as different from every other
        let boot = std::fs::read_to_string(BOOT_ID).map(|id| id.trim().to_owned()).unwrap_or_default();
        let mut reads = 0;
        loop {
            let (since_boot, start, wall) = (since_boot(), Instant::now(), Timestamp::from_system(SystemTime::now()));
            reads += 1;
            if self::since_boot().saturating_sub(since_boot) < READS_APART_MAX || reads == READS_MAX {
                return Self(Kind::System { reference: ClockReference { boot, since_boot, wall }, start });
            }
        }
    }

    /// A clock that stays at `now` until [`Clock::advance`] is called.
    pub fn manual(now: Timestamp) -> Self {
        Self(Kind::Manual { now: Arc::new(watch::Sender::new(now)), stepped_ms: Arc::default() })
    }

    /// The start of this clock; none if it cannot be compared with the clock of another process.
    pub fn reference(&self) -> Option<ClockReference> {
        match &self.0 {
            Kind::System { reference, .. } => Some(reference.clone()).filter(|reference| !reference.boot.is_empty()),
            Kind::Manual { now, stepped_ms } => {
                let wall = *now.borrow();
                let since_boot = Duration::from_millis(wall.0.saturating_sub(stepped_ms.load(Ordering::Relaxed)));
                Some(ClockReference { boot: "manual".to_owned(), since_boot, wall })
            }
        }
    }

    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Kind::System { reference, start } => reference.wall.after(start.elapsed()),
            Kind::Manual { now, .. } => *now.borrow(),
        }
    }

    /// The wall clock, which can be stepped at any time.
    #[allow(clippy::disallowed_methods)]
    pub fn wall(&self) -> Timestamp {
        match &self.0 {
            Kind::System { .. } => Timestamp::from_system(SystemTime::now()),
            Kind::Manual { now, .. } => *now.borrow(),
        }
    }

    /// The time since this clock was made; measures durations below one millisecond.
    pub fn precise(&self) -> Duration {
        match &self.0 {
            Kind::System { start, .. } => start.elapsed(),
            Kind::Manual { now, .. } => Duration::from_millis(now.borrow().0),
        }
    }

    /// Returns once `now` has reached `until`.
    #[allow(clippy::disallowed_methods)]
    pub async fn sleep_until(&self, until: Timestamp) {
        match &self.0 {
            Kind::System { .. } => {
                while self.now() < until {
                    tokio::time::sleep(until.since(self.now())).await;
                }
            }
            Kind::Manual { now, .. } => {
                let mut moved = now.subscribe();
                // `self` owns the sender, so waiting cannot fail
                let _ = moved.wait_for(|now| *now >= until).await;
            }
        }
    }

    /// Advances a manual clock; has no effect on the system clock.
    pub fn advance(&self, by: Duration) {
        if let Kind::Manual { now, .. } = &self.0 {
            now.send_modify(|now| *now = Timestamp(now.0 + millis(by)));
        }
    }

    /// Steps a manual clock forward between two processes: no time passes. Has no effect on the system clock.
    pub fn step(&self, by: Duration) {
        if let Kind::Manual { stepped_ms, .. } = &self.0 {
            stepped_ms.fetch_add(millis(by), Ordering::Relaxed);
            self.advance(by);
        }
    }
}

/// The time since boot, for connections, also if a test advances its own clock.
pub fn monotonic() -> Duration {
    since_boot()
}

fn since_boot() -> Duration {
    let since = clock_gettime(ClockId::Monotonic);
    Duration::new(since.tv_sec.unsigned_abs(), since.tv_nsec.unsigned_abs() as u32)
}

/// A smaller difference is not a step, but the interval between the reads of the two clocks. Time daemons (ntpd, chrony,
/// systemd-timesyncd) slew offsets below 128 ms, and a slew moves both clocks.
const STEP_MIN_MS: u64 = 100;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockReference {
    /// The boot id.
    pub boot: String,
    /// Time since boot, excluding suspension.
    pub since_boot: Duration,
    /// The wall clock at that time, at which the clock of this process starts.
    pub wall: Timestamp,
}

impl ClockReference {
    /// Whether it is a later time of the same boot.
    pub fn goes_on_from(&self, before: &Self) -> bool {
        self.boot == before.boot && self.since_boot >= before.since_boot
    }

    /// The step of the wall clock since an earlier process; none if it was not stepped, or after a reboot.
    pub fn step_since(&self, before: &Self) -> Option<Step> {
        if !self.goes_on_from(before) {
            return None;
        }
        let expected = before.wall.after(self.since_boot - before.since_boot);
        let step = Step { from: expected, to: self.wall };
        (expected.0.abs_diff(self.wall.0) >= STEP_MIN_MS).then_some(step)
    }
}

/// A step of the wall clock: at the time when it would have been `from`, it was `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    from: Timestamp,
    to: Timestamp,
}

impl Step {
    /// The same time by the stepped clock; [`Timestamp::NEVER`] and [`Timestamp::ZERO`] are unchanged.
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

    #[tokio::test]
    async fn a_manual_clock_wakes_its_sleepers_on_time() {
        let clock = Clock::manual(Timestamp(1000));
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move {
                clock.sleep_until(Timestamp(2000)).await;
                clock.now()
            }
        });
        clock.advance(Duration::from_millis(999));
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        clock.advance(Duration::from_millis(1));
        assert_eq!(sleeper.await.unwrap(), Timestamp(2000));
    }

    fn reference(boot: &str, since_boot_s: u64, wall_ms: u64) -> ClockReference {
        let since_boot = Duration::from_secs(since_boot_s);
        ClockReference { boot: boot.to_owned(), since_boot, wall: Timestamp(1_800_000_000_000 + wall_ms) }
    }

    #[test]
    fn durations_keep_their_length_over_a_clock_step_within_one_boot() {
        let before = reference("a", 100, 0);
        let due = Timestamp(1_800_000_008_000);
        for (now, moved_by) in [
            (reference("a", 102, 2000), None),
            (reference("a", 102, 2099), None),
            (reference("a", 102, 1901), None),
            (reference("a", 102, 62_000), Some(60_000)),
            (reference("a", 102, 2100), Some(100)),
            (reference("a", 102, 0), Some(-2000)),
            (reference("b", 102, 62_000), None),
            (reference("a", 99, 62_000), None),
        ] {
            let moved = now.step_since(&before).map(|step| step.moved(due).0 as i64 - due.0 as i64);
            assert_eq!(moved, moved_by, "{now:?}");
        }
        let step = reference("a", 102, 62_000).step_since(&before).unwrap();
        assert_eq!([Timestamp::ZERO, Timestamp::NEVER].map(|at| step.moved(at)), [Timestamp::ZERO, Timestamp::NEVER]);
    }
}
