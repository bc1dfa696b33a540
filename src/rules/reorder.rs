//! In which order the events of an interaction go that were accepted within a short time of each other.
//!
//! An event goes when the window has passed since it happened. Whatever happened before it and was accepted until then goes
//! before it: a later one cannot come, since nothing counts as having happened more than the window before its acceptance.

use crate::time::Timestamp;
use std::time::Duration;

/// What the events of an interaction are ordered by: when each happened, as far as it is known and can be believed. Nothing
/// happens after it was accepted.
pub fn rank(window: Duration, received_at: Timestamp, time: Option<Timestamp>) -> Timestamp {
    time.unwrap_or(received_at).clamp(received_at.before(window), received_at)
}

/// When an event of this rank can no longer be overtaken.
pub fn opens_at(window: Duration, rank: Timestamp) -> Timestamp {
    rank.after(window)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_counts_from_when_it_happened_within_the_window() {
        let window = Duration::from_millis(100);
        for (time, wanted) in [(None, 1000), (Some(1001), 1000), (Some(1000), 1000), (Some(950), 950), (Some(5), 900)] {
            assert_eq!(rank(window, Timestamp(1000), time.map(Timestamp)), Timestamp(wanted), "{time:?}");
        }
    }

    #[test]
    fn a_later_arrival_does_not_overtake_a_started_event() {
        let window = Duration::from_millis(100);
        for time in 850..=1000 {
            let first = rank(window, Timestamp(1000), Some(Timestamp(time)));
            let open = opens_at(window, first);
            assert!(open >= Timestamp(1000) && open <= Timestamp(1100));
            assert!(rank(window, open, Some(Timestamp(1))) >= first);
        }
    }
}
