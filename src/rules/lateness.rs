//! What happens to a late delivery: one that is older than its time to live, or stale.
//!
//! A delivery is stale where an event of the same interaction with a later event time was delivered to the same
//! destination before. An event without an event time is never stale. The age of an event is counted from its event
//! time, or from its acceptance where the event time is unknown or later. A redriven delivery is always sent; a stale
//! one is flagged.
//!
//! *Invariants.* A delivery older than its time to live becomes a dead letter, regardless of the setting for stale
//! events.

use super::pattern::matches;
use crate::delivery::{Delivery, Reason};
use crate::time::Timestamp;
use std::cmp::Reverse;
use std::time::Duration;

/// The settings of a destination for late events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lateness {
    pub on_stale: OnStale,
    pub ttl: Ttl,
}

impl Lateness {
    /// What happens to the next delivery. `newest`: see [`stale_action`].
    pub fn action(&self, delivery: &Delivery, newest: Option<Timestamp>, now: Timestamp) -> LateAction {
        if self.ttl.is_over(delivery, now) {
            return LateAction::DeadLetter(Reason::Expired);
        }
        stale_action(self.on_stale, delivery, newest)
    }
}

/// The setting of a destination for stale events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnStale {
    /// They are delivered unchanged.
    Deliver,
    /// They are delivered with the header `Holdline-Stale`.
    #[default]
    Flag,
    Discard,
    DeadLetter,
}

/// What happens to the next delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LateAction {
    Send,
    SendFlagged,
    Discard,
    DeadLetter(Reason),
}

/// What happens to a delivery that may be stale. `newest`: the latest event time among the deliveries of its interaction
/// to the same destination.
fn stale_action(on_stale: OnStale, delivery: &Delivery, newest: Option<Timestamp>) -> LateAction {
    let (Some(time), Some(newest)) = (delivery.event.happened_at(), newest) else { return LateAction::Send };
    match on_stale {
        _ if time >= newest => LateAction::Send,
        OnStale::Deliver => LateAction::Send,
        OnStale::Flag => LateAction::SendFlagged,
        _ if delivery.redriven => LateAction::SendFlagged,
        OnStale::Discard => LateAction::Discard,
        OnStale::DeadLetter => LateAction::DeadLetter(Reason::Stale),
    }
}

/// Patterns of event types, each with the time to live of its events. The longest matching pattern applies.
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

    /// Whether the delivery is older than its time to live.
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

    fn stale_candidate(time: Option<u64>) -> Delivery {
        let event =
            Event { interaction: Some("k".to_owned()), time: time.map(Timestamp), ..crate::testing::events::event(1) };
        Delivery::first(DeliveryId { sequence: Sequence(1), destination: DestinationId(0) }, event.into())
    }

    #[test]
    fn only_an_event_older_than_the_newest_is_stale() {
        for (time, newest, action) in [
            (Some(99), Some(100), LateAction::Discard),
            (Some(100), Some(100), LateAction::Send),
            (Some(101), Some(100), LateAction::Send),
            (Some(1), None, LateAction::Send),
            (None, Some(100), LateAction::Send),
        ] {
            assert_eq!(
                stale_action(OnStale::Discard, &stale_candidate(time), newest.map(Timestamp)),
                action,
                "{time:?} {newest:?}"
            );
        }
    }

    #[test]
    fn each_policy_has_its_action_and_a_redriven_event_is_sent() {
        let (first, redriven) = (stale_candidate(Some(1)), Delivery { redriven: true, ..stale_candidate(Some(1)) });
        for (on_stale, action, again) in [
            (OnStale::Deliver, LateAction::Send, LateAction::Send),
            (OnStale::Flag, LateAction::SendFlagged, LateAction::SendFlagged),
            (OnStale::Discard, LateAction::Discard, LateAction::SendFlagged),
            (OnStale::DeadLetter, LateAction::DeadLetter(Reason::Stale), LateAction::SendFlagged),
        ] {
            let newest = Some(Timestamp(2));
            assert_eq!(
                (stale_action(on_stale, &first, newest), stale_action(on_stale, &redriven, newest)),
                (action, again)
            );
        }
    }

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
