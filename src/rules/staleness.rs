//! What becomes of an event that is older than what its destination has already had of the same interaction.
//!
//! By the times that senders give: an event without one is never stale, and nothing is stale against it. What an operator
//! has redriven is sent in any case, since somebody has decided so; it is marked all the same.

use crate::delivery::{Delivery, Reason};
use crate::time::Timestamp;

/// What a destination wants of stale events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnStale {
    /// They are as good as any other.
    Deliver,
    /// They are delivered with a header that says so.
    #[default]
    Flag,
    Discard,
    DeadLetter,
}

/// What is done with a delivery whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LateAction {
    Send,
    SendFlagged,
    Discard,
    /// It is a dead letter, for this reason.
    DeadLetter(Reason),
}

/// `newest`: the latest believed time of the events of its interaction that were delivered to the same destination; none where there
/// is none.
pub fn judge(on_stale: OnStale, delivery: &Delivery, newest: Option<Timestamp>) -> LateAction {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::DeliveryId;
    use crate::event::{DestinationId, Event, Sequence};

    fn delivery(time: Option<u64>) -> Delivery {
        let event =
            Event { interaction: Some("k".to_owned()), time: time.map(Timestamp), ..crate::testing::events::event(1) };
        Delivery::first(DeliveryId { sequence: Sequence(1), destination: DestinationId(0) }, event.into())
    }

    #[test]
    fn only_an_event_older_than_the_newest_is_stale() {
        for (time, newest, course) in [
            (Some(99), Some(100), LateAction::Discard),
            (Some(100), Some(100), LateAction::Send),
            (Some(101), Some(100), LateAction::Send),
            (Some(1), None, LateAction::Send),
            (None, Some(100), LateAction::Send),
        ] {
            assert_eq!(judge(OnStale::Discard, &delivery(time), newest.map(Timestamp)), course, "{time:?} {newest:?}");
        }
    }

    #[test]
    fn each_policy_has_its_action_and_a_redriven_event_is_sent() {
        let (first, redriven) = (delivery(Some(1)), Delivery { redriven: true, ..delivery(Some(1)) });
        for (on_stale, course, again) in [
            (OnStale::Deliver, LateAction::Send, LateAction::Send),
            (OnStale::Flag, LateAction::SendFlagged, LateAction::SendFlagged),
            (OnStale::Discard, LateAction::Discard, LateAction::SendFlagged),
            (OnStale::DeadLetter, LateAction::DeadLetter(Reason::Stale), LateAction::SendFlagged),
        ] {
            let newest = Some(Timestamp(2));
            assert_eq!((judge(on_stale, &first, newest), judge(on_stale, &redriven, newest)), (course, again));
        }
    }
}
