//! Throttle: of many alike one is told in a while, with how many there were.

use crate::time::Timestamp;
use std::time::Duration;

/// What was told of one kind of thing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Throttle {
    told_at: Option<Timestamp>,
    /// Since then.
    withheld: u64,
}

impl Throttle {
    /// One more has happened: how many there were since the last that was told, this one included, where `every` has passed
    /// since then; none where it is too early to tell. The first is told at once.
    pub fn count(&mut self, now: Timestamp, every: Duration) -> Option<u64> {
        self.withheld += 1;
        if self.told_at.is_some_and(|at| now.since(at) < every && at <= now) {
            return None;
        }
        self.told_at = Some(now);
        Some(std::mem::take(&mut self.withheld))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_message_passes_and_later_ones_carry_a_count() {
        let mut throttle = Throttle::default();
        let every = Duration::from_secs(60);
        let mut at = |seconds: u64| throttle.count(Timestamp(1_000_000 + seconds * 1000), every);
        assert_eq!([at(0), at(1), at(59), at(60), at(61)], [Some(1), None, None, Some(3), None]);
        assert_eq!(at(600), Some(2));
        assert_eq!(at(500), Some(1), "a clock that was set back withholds nothing for long");
    }
}
