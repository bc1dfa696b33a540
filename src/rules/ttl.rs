//! Until when an event is worth sending, by its type: what is worthless when late is not sent late.
//!
//! The age is counted from when the event happened, or from its acceptance where that is not known or would lie behind it,
//! as with a sender whose clock is ahead. What an operator has redriven is sent in any case.

use super::pattern::matches;
use crate::delivery::Delivery;
use crate::time::Timestamp;
use std::cmp::Reverse;
use std::time::Duration;

/// Patterns of event types and how long their events are worth sending. Of several that fit, the longest counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ttl(Vec<(String, Duration)>);

impl Ttl {
    pub fn new(mut by_pattern: Vec<(String, Duration)>) -> Self {
        by_pattern.sort_by_key(|(pattern, ttl)| (Reverse(pattern.len()), *ttl));
        Self(by_pattern)
    }

    fn of(&self, kind: &str) -> Option<Duration> {
        self.0.iter().find(|(pattern, _)| matches(pattern, kind)).map(|(_, ttl)| *ttl)
    }

    /// Whether the turn of this delivery comes too late.
    pub fn is_over(&self, delivery: &Delivery, now: Timestamp) -> bool {
        let event = &delivery.event;
        let Some(ttl) = self.of(&event.kind).filter(|_| !delivery.redriven) else { return false };
        let since = event.happened_at().unwrap_or(event.received_at);
        now.since(since) > ttl
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::DeliveryId;
    use crate::event::{DestinationId, Event, Sequence};

    const RECEIVED: Timestamp = Timestamp(1_000_000);

    fn delivery(time: Option<Timestamp>) -> Delivery {
        let event = Event { received_at: RECEIVED, kind: "a.b".to_owned(), time, ..crate::testing::events::event(1) };
        Delivery::first(DeliveryId { sequence: Sequence(1), destination: DestinationId(0) }, event.into())
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn the_longest_matching_pattern_counts() {
        let ttl = |patterns_match_with_wildcards: &[(&str, u64)]| {
            Ttl::new(
                patterns_match_with_wildcards.iter().map(|(pattern, s)| ((*pattern).to_owned(), seconds(*s))).collect(),
            )
        };
        let several = ttl(&[("*", 60), ("screen_pop.late", 9), ("screen_pop.*", 2)]);
        for (kind, wanted) in [("screen_pop.x", 2), ("screen_pop.late", 9), ("other", 60), ("", 60)] {
            assert_eq!(several.of(kind), Some(seconds(wanted)), "{kind}");
        }
        assert_eq!(ttl(&[("screen_pop.*", 2)]).of("other"), None);
        assert_eq!(ttl(&[("a.*", 5), ("*.b", 2)]).of("a.b"), Some(seconds(2)));
    }

    #[test]
    fn age_is_measured_from_the_event_time_or_the_acceptance() {
        let ttl = Ttl::new(vec![("a.*".to_owned(), seconds(10))]);
        for (time, since) in [
            (None, RECEIVED),
            (Some(RECEIVED.before(seconds(4))), RECEIVED.before(seconds(4))),
            (Some(RECEIVED.after(seconds(4))), RECEIVED),
        ] {
            let delivery = delivery(time);
            assert!(!ttl.is_over(&delivery, since.after(seconds(10))), "{time:?}");
            let late = since.after(Duration::from_millis(10_001));
            assert!(ttl.is_over(&delivery, late), "{time:?}");
            assert!(!ttl.is_over(&Delivery { redriven: true, ..delivery.clone() }, late), "{time:?}");
            assert!(!Ttl::default().is_over(&delivery, late));
        }
    }
}
