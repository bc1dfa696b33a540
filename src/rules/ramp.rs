//! The ramp: after a destination was closed to everything, calls return to it little by little.
//!
//! *Invariants.* From its beginning the number of calls allowed at once rises evenly from 1 to `max` within `length`.

use crate::time::Timestamp;
use std::time::Duration;

#[derive(Clone, Copy, Debug)]
pub struct Ramp {
    length: Duration,
    /// None where it is over.
    since: Option<Timestamp>,
}

impl Ramp {
    pub fn new(length: Duration) -> Self {
        Self { length, since: None }
    }

    /// One that is under way ends when it would with this length.
    pub fn reconfigure(&mut self, length: Duration) {
        self.length = length;
    }

    /// Begins then, if it has not begun later.
    pub fn begin(&mut self, at: Timestamp) {
        self.since = self.since.max(Some(at));
    }

    /// Most calls at once, and when it will be one more; that is none where the ramp is over.
    pub fn allows(&mut self, max: usize, now: Timestamp) -> (usize, Option<Timestamp>) {
        let Some(since) = self.since else { return (max, None) };
        let (length, passed) = (self.length.as_millis(), now.since(since).as_millis());
        if passed >= length {
            self.since = None;
            return (max, None);
        }
        let allowed = 1 + (max.saturating_sub(1) as u128 * passed / length) as usize;
        let next = (allowed as u128 * length).div_ceil(max.saturating_sub(1).max(1) as u128).min(length);
        (allowed.min(max), Some(since.after(Duration::from_millis(next as u64))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_rises_evenly_and_gives_the_time_of_the_next_slot() {
        let start = Timestamp(1_800_000_000_000);
        for (max, length_ms) in [(64, 10_000), (1, 10_000), (7, 10), (3, 1), (2, 999), (4096, 1000)] {
            let mut ramp = Ramp::new(Duration::from_millis(length_ms));
            assert_eq!(ramp.allows(max, start), (max, None));
            ramp.begin(start);
            assert_eq!(ramp.allows(max, start).0, 1);
            let (mut now, mut last) = (start, 1);
            while let (allowed, Some(next)) = ramp.allows(max, now) {
                assert!(next > now && allowed >= last && allowed <= max, "{max} {length_ms} {allowed}");
                let before = Timestamp(next.0 - 1);
                assert_eq!(ramp.clone().allows(max, before).0, allowed, "not earlier than said");
                (now, last) = (next, allowed);
            }
            assert_eq!(now.since(start), Duration::from_millis(length_ms));
        }
    }

    #[test]
    fn a_running_ramp_adopts_a_new_length() {
        let start = Timestamp(1_800_000_000_000);
        let mut ramp = Ramp::new(Duration::from_secs(10));
        ramp.begin(start);
        ramp.reconfigure(Duration::from_secs(20));
        assert_eq!(ramp.allows(64, start.after(Duration::from_secs(10))).0, 32);
        ramp.reconfigure(Duration::from_secs(5));
        assert_eq!(ramp.allows(64, start.after(Duration::from_secs(5))), (64, None));
    }
}
