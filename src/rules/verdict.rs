//! What an attempt's outcome means for the delivery, and for its whole destination.

use super::backoff::{self, OnAmbiguous, Retry};
use super::call::Health;
use super::retry_after::Wish;
use crate::delivery::{DeliveryId, Outcome, Reason};
use crate::time::Timestamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Delivered,
    /// Not before `due`.
    Retry {
        due: Timestamp,
    },
    Dead(Reason),
}

/// An attempt that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended<'a> {
    pub id: DeliveryId,
    pub outcome: &'a Outcome,
    /// What the answer asked for, if it did, as it was granted when its head came.
    pub retry_after: Option<Wish>,
    /// Attempts that count against the limit, this one included.
    pub counted: u32,
    /// From when the age is counted: acceptance, or the last redrive.
    pub since: Timestamp,
    pub now: Timestamp,
}

/// The verdict, and until when the whole destination must be left alone: whatever an answer means for its delivery, what it
/// asks for is granted, unless it is a success.
pub fn judge(retry: &Retry, ended: Ended<'_>) -> (Verdict, Option<Wish>) {
    if let Outcome::Answered(status) = ended.outcome {
        if (200..300).contains(status) {
            return (Verdict::Delivered, None);
        }
        if !retry.statuses.contains(status) {
            return (Verdict::Dead(Reason::Permanent), ended.retry_after);
        }
    }
    if ended.outcome.is_ambiguous() && retry.on_ambiguous == OnAmbiguous::DeadLetter {
        return (Verdict::Dead(Reason::Ambiguous), ended.retry_after);
    }
    let wish = ended.retry_after;
    let backoff = ended.now.after(backoff::wait(retry, ended.id, ended.counted));
    let due = wish.map_or(backoff, |wish| wish.until.max(backoff));
    let spent = ended.counted >= retry.attempts || due.since(ended.since) > retry.max_age;
    (if spent { Verdict::Dead(Reason::Exhausted) } else { Verdict::Retry { due } }, wish)
}

/// What an attempt says of its destination's condition, given what it came to.
pub fn health(outcome: &Outcome, verdict: Verdict, wish: Option<Wish>) -> Health {
    match (outcome, verdict) {
        (_, Verdict::Delivered) => Health::Well,
        (Outcome::Answered(429), _) => Health::Burdened,
        _ if wish.is_some() => Health::Burdened,
        (Outcome::Answered(_), Verdict::Dead(Reason::Permanent)) => Health::Well,
        _ => Health::Failing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{DestinationId, Sequence};
    use crate::rules::backoff::Jitter;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp(1_000_000_000);

    fn verdict(outcome: Outcome, retry_after: Option<u64>, counted: u32, age: u64) -> (Verdict, Option<Wish>) {
        let retry = Retry { jitter: Jitter::None, ..Retry::default() };
        judge(&retry, ended(&outcome, retry_after, counted, age))
    }

    fn ended(outcome: &Outcome, retry_after: Option<u64>, counted: u32, age: u64) -> Ended<'_> {
        Ended {
            id: DeliveryId { sequence: Sequence(1), destination: DestinationId(0) },
            outcome,
            retry_after: retry_after.map(wish),
            counted,
            since: NOW.before(Duration::from_secs(age)),
            now: NOW,
        }
    }

    fn wish(seconds: u64) -> Wish {
        Wish { until: NOW.after(Duration::from_secs(seconds)), cut: false }
    }

    fn after(seconds: u64) -> Verdict {
        Verdict::Retry { due: NOW.after(Duration::from_secs(seconds)) }
    }

    #[test]
    fn every_status_means_what_the_contract_says() {
        for status in 100..=599u16 {
            let expected = match status {
                200..=299 => Verdict::Delivered,
                408 | 409 | 425 | 429 | 500..=599 => after(1),
                _ => Verdict::Dead(Reason::Permanent),
            };
            assert_eq!(verdict(Outcome::Answered(status), None, 1, 0), (expected, None), "{status}");
        }
    }

    /// All that is no answer, and an answer that takes its 2xx back.
    const FAILURES: [(Outcome, Sent); 6] = [
        (Outcome::TimedOut, Sent::Perhaps),
        (Outcome::Broken, Sent::Perhaps),
        (Outcome::NotConnected, Sent::No),
        (Outcome::ConnectTimedOut, Sent::No),
        (Outcome::NotSent, Sent::No),
        (Outcome::Unsuccessful(200), Sent::No),
    ];

    #[derive(Clone, Copy, PartialEq)]
    enum Sent {
        No,
        Perhaps,
    }

    #[test]
    fn failures_are_tried_again_and_ambiguous_ones_as_is_set() {
        for (outcome, sent) in FAILURES {
            assert_eq!(outcome.is_ambiguous(), sent == Sent::Perhaps, "{outcome:?}");
            assert_eq!(verdict(outcome.clone(), None, 2, 0).0, after(2), "{outcome:?}");
            let retry = Retry { jitter: Jitter::None, on_ambiguous: OnAmbiguous::DeadLetter, ..Retry::default() };
            let wanted = if sent == Sent::Perhaps { Verdict::Dead(Reason::Ambiguous) } else { after(2) };
            assert_eq!(judge(&retry, ended(&outcome, None, 2, 0)).0, wanted, "{outcome:?}");
        }
    }

    #[test]
    fn attempts_and_age_are_bounded() {
        let failed = Outcome::Answered(503);
        assert_eq!(verdict(failed.clone(), None, 11, 0).0, after(300));
        assert_eq!(verdict(failed.clone(), None, 12, 0).0, Verdict::Dead(Reason::Exhausted));
        assert_eq!(verdict(failed.clone(), None, 1, 24 * 3600 - 1).0, after(1));
        assert_eq!(verdict(failed, None, 1, 24 * 3600).0, Verdict::Dead(Reason::Exhausted));
    }

    #[test]
    fn retry_after_holds_the_destination_and_the_delivery() {
        let wish = wish(30);
        assert_eq!(verdict(Outcome::Answered(429), Some(30), 1, 0), (Verdict::Retry { due: wish.until }, Some(wish)));
        // also when this delivery's own attempts are spent
        assert_eq!(verdict(Outcome::Answered(503), Some(30), 12, 0), (Verdict::Dead(Reason::Exhausted), Some(wish)));
        assert_eq!(verdict(Outcome::Answered(200), Some(30), 1, 0), (Verdict::Delivered, None));
        assert_eq!(verdict(Outcome::Unsuccessful(200), Some(30), 1, 0).1, Some(wish));
        // an answer that is not tried again says what it says all the same
        let permanent = Verdict::Dead(Reason::Permanent);
        for status in [302, 403, 400] {
            assert_eq!(verdict(Outcome::Answered(status), Some(30), 1, 0), (permanent, Some(wish)), "{status}");
        }
        let retry = Retry { on_ambiguous: OnAmbiguous::DeadLetter, ..Retry::default() };
        assert_eq!(judge(&retry, ended(&Outcome::Broken, Some(30), 1, 0)).1, Some(wish));
    }

    #[test]
    fn only_what_asks_to_be_left_alone_is_burdened() {
        let wish = Some(Wish { until: NOW, cut: false });
        let (retry, permanent) = (after(1), Verdict::Dead(Reason::Permanent));
        for (outcome, verdict, wish, expected) in [
            (Outcome::Answered(200), Verdict::Delivered, None, Health::Well),
            (Outcome::Answered(400), permanent, None, Health::Well),
            (Outcome::Answered(429), retry, None, Health::Burdened),
            (Outcome::Answered(429), permanent, None, Health::Burdened),
            (Outcome::Answered(403), permanent, wish, Health::Burdened),
            (Outcome::Answered(503), retry, wish, Health::Burdened),
            (Outcome::Answered(503), retry, None, Health::Failing),
            (Outcome::TimedOut, retry, None, Health::Failing),
            (Outcome::Answered(503), Verdict::Dead(Reason::Exhausted), None, Health::Failing),
        ] {
            assert_eq!(health(&outcome, verdict, wish), expected, "{outcome:?}, {verdict:?}, {wish:?}");
        }
    }
}
