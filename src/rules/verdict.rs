//! What the outcome of an attempt means for its delivery and for its destination.
//!
//! *Invariants.* A condition of the destination never makes a dead letter: an outcome that may be one is retried, and
//! does not count against the limit of attempts.

use super::backoff::{self, OnAmbiguous, Retry};
use super::refusals::{Bounds, Finding, Refusal, Refusals};
use super::retry_after::RetryAfter;
use crate::delivery::{Attempt, Delivery, DeliveryId, Outcome, Reason};
use crate::event::Digest64;
use crate::time::Timestamp;
use serde_json::Value;
use std::time::Duration;

/// The result of one request, for flow control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    pub began: Timestamp,
    /// From the start of the attempt to the end of the answer, or to the failure.
    pub latency: Duration,
    pub health: Health,
    /// The latest answers of the destination, including this one, refuse every event: see [`refusals`](super::refusals).
    pub refuses_all: bool,
}

/// What the result of a request says about the condition of the destination.
///
/// | | breaker, closed | breaker, half-open | adaptive concurrency |
/// |---|---|---|---|
/// | `Delivered` | a success | a success | latency is measured |
/// | `Refused` | no failure | decides nothing | nothing |
/// | `Rejected` | a failure | opens it again | nothing |
/// | `Throttled` | no failure | decides nothing | a sign of overload |
/// | `Unavailable` | a failure | opens it again | a sign of overload |
/// | `Failed` | a failure | opens it again | nothing |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// The event was accepted.
    Delivered,
    /// This event was refused for its content, with this status; others may succeed.
    Refused(u16),
    /// The status is one that every event would get: not found, not allowed, moved.
    Rejected(u16),
    /// The destination asked to wait (429, or `Retry-After`): a sign of overload, not a failure.
    Throttled,
    /// The destination cannot be reached or is overloaded: 503, 504, timeout, no connection.
    Unavailable,
    /// Another temporary failure: 500, 502, a broken connection, a 2xx whose body reports a failure.
    Failed,
}

impl Health {
    /// Whether the breaker counts it as a failure.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Rejected(_) | Self::Unavailable | Self::Failed)
    }

    /// Whether it is a sign of overload.
    pub fn is_overload(self) -> bool {
        matches!(self, Self::Throttled | Self::Unavailable)
    }
}

/// What happens to a delivery whose attempt was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Delivered,
    /// It is not sent: it is stale, or its record is damaged.
    Discarded,
    /// The next attempt starts at `due` or later.
    Retry {
        due: Timestamp,
    },
    /// No request was made; the delivery keeps its place.
    Postponed,
    Dead(Reason),
}

/// An attempt that has ended, with everything that its verdict depends on.
#[derive(Clone, Copy, Debug)]
pub struct EndedAttempt<'a> {
    pub id: DeliveryId,
    /// The hash of the event's interaction; for an event without one, any value unique to it.
    pub interaction: Digest64,
    pub outcome: &'a Outcome,
    /// The `Retry-After` of the answer, counted from the arrival of its head.
    pub retry_after: Option<RetryAfter>,
    /// Attempts since the last redrive, including this one.
    pub attempts: u32,
    /// The earlier ones among them that count against the limit.
    pub counted: u32,
    /// When the first and the latest earlier attempt ended with a permanent answer, since the last redrive.
    pub refused: Option<(Timestamp, Timestamp)>,
    pub redriven: bool,
    /// The start of the age: acceptance, or the last redrive.
    pub since: Timestamp,
    pub began: Timestamp,
    pub now: Timestamp,
    /// When the scheduler started the attempt.
    pub started: Timestamp,
    /// Excludes the time until a pooled connection turned out to be closed.
    pub latency: Duration,
}

impl<'a> EndedAttempt<'a> {
    /// The attempt of a delivery that began at `began` and has just ended.
    pub fn of(delivery: &Delivery, retry: &Retry, outcome: &'a Outcome, began: Timestamp, now: Timestamp) -> Self {
        let order_key = delivery.event.interaction_hash();
        let interaction = if order_key.is_none() { Digest64(delivery.id.sequence.0) } else { order_key };
        let recent = || delivery.attempts.iter().filter(|a| a.number > delivery.forgiven);
        let ended = |a: &Attempt| a.at.after(Duration::from_millis(a.latency_ms.into()));
        let mut refusals = recent().filter(|a| retry.is_permanent(&a.outcome)).map(ended);
        let first = refusals.next();
        let since = match delivery.redriven {
            true => recent().next().map_or(began, |a| a.at),
            false => delivery.event.received_at,
        };
        Self {
            id: delivery.id,
            interaction,
            outcome,
            retry_after: None,
            attempts: delivery.tried_since_redrive() + 1,
            counted: delivery.counted(|outcome| retry.counts(outcome)),
            redriven: delivery.redriven,
            refused: first.map(|first| (first, refusals.next_back().unwrap_or(first))),
            since,
            began,
            now,
            started: began,
            latency: now.since(began),
        }
    }

    fn call(&self, health: Health, refuses_all: bool) -> Call {
        Call { began: self.started, latency: self.latency, health, refuses_all }
    }
}

/// The result of an attempt for its delivery and its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub verdict: Verdict,
    /// Until when no request may be sent to the destination. A `Retry-After` applies with every outcome except a
    /// success.
    pub retry_after: Option<RetryAfter>,
    /// None where no request was made, or only an access token was refused.
    pub call: Option<Call>,
}

impl Judgement {
    /// No request was made.
    pub fn without_call(verdict: Verdict) -> Self {
        Self { verdict, retry_after: None, call: None }
    }

    /// No request was made; the delivery keeps its place, and its destination is blocked meanwhile.
    pub fn postponed(retry_after: Option<RetryAfter>) -> Self {
        Self { retry_after, ..Self::without_call(Verdict::Postponed) }
    }
}

/// `run`: see [`Bounds::run`]. Every success and every permanent answer updates `refusals`.
pub fn judge(retry: &Retry, run: u32, refusals: &mut Refusals, ended: &EndedAttempt<'_>) -> Judgement {
    let bounds = Bounds { run, permanent_after: retry.permanent_after };
    if matches!(ended.outcome, Outcome::Answered(200..300)) {
        refusals.delivered(ended.began, bounds);
        let call = Some(ended.call(Health::Delivered, false));
        return Judgement { verdict: Verdict::Delivered, retry_after: None, call };
    }
    let retry_after = ended.retry_after;
    let (mut verdict, mut refuses_all) = (retried(retry, ended), false);
    if let (Outcome::Answered(status), true) = (ended.outcome, retry.is_permanent(ended.outcome)) {
        let of_content = retry.permanent.contains(status);
        let refusal = Refusal { interaction: ended.interaction, of_content, before: ended.refused, now: ended.now };
        // redriven dead letters do not represent the events that the destination receives
        let found = match ended.redriven && of_content {
            true => Finding { of_event: true, refuses_all: false },
            false => refusals.refused(&refusal, bounds),
        };
        refuses_all = found.refuses_all;
        if found.of_event {
            verdict = Verdict::Dead(Reason::Permanent);
        }
    } else if ended.outcome.is_ambiguous() && retry.on_ambiguous == OnAmbiguous::DeadLetter {
        verdict = Verdict::Dead(Reason::Ambiguous);
    }
    let call = Some(ended.call(health(retry, ended.outcome, retry_after), refuses_all));
    Judgement { verdict, retry_after, call }
}

fn retried(retry: &Retry, ended: &EndedAttempt<'_>) -> Verdict {
    let backoff = ended.now.after(backoff::wait(retry, ended.id, ended.attempts));
    let due = ended.retry_after.map_or(backoff, |asked| asked.until.max(backoff));
    let counted = ended.counted + u32::from(retry.counts(ended.outcome));
    let spent = retry.counts(ended.outcome) && retry.attempts.is_some_and(|limit| counted >= limit);
    if spent || due.since(ended.since) > retry.max_age {
        return Verdict::Dead(Reason::Exhausted);
    }
    Verdict::Retry { due }
}

/// What a failed attempt says about the condition of the destination.
fn health(retry: &Retry, outcome: &Outcome, retry_after: Option<RetryAfter>) -> Health {
    match outcome {
        Outcome::Answered(429) => Health::Throttled,
        _ if retry_after.is_some() => Health::Throttled,
        Outcome::Answered(status) if retry.is_permanent(outcome) => match retry.permanent.contains(status) {
            true => Health::Refused(*status),
            false => Health::Rejected(*status),
        },
        Outcome::Answered(503 | 504) => Health::Unavailable,
        Outcome::TimedOut | Outcome::NotConnected | Outcome::ConnectTimedOut => Health::Unavailable,
        Outcome::Answered(_) | Outcome::Unsuccessful(_) | Outcome::Broken | Outcome::NotSent => Health::Failed,
    }
}

/// What the body of a 2xx must contain to be a success.
#[derive(Clone, Debug, PartialEq)]
pub struct Success {
    /// A pointer by RFC 6901.
    pub json_pointer: String,
    /// A string, number or boolean.
    pub equals: Value,
}

impl Success {
    /// Why a body is not a success; none where it is one. Does not quote the value found.
    pub fn refusal(&self, body: &[u8]) -> Option<String> {
        let Self { json_pointer, equals } = self;
        match serde_json::from_slice::<Value>(body) {
            Err(_) => Some("its body is not JSON".to_owned()),
            Ok(document) => match document.pointer(json_pointer) {
                None => Some(format!("there is nothing at `{json_pointer}` of its body")),
                Some(found) if same(found, equals) => None,
                Some(_) => Some(format!("`{json_pointer}` of its body is not {equals}")),
            },
        }
    }
}

/// 1 and 1.0 are equal.
fn same(a: &Value, b: &Value) -> bool {
    a == b || a.as_f64().is_some_and(|a| Some(a) == b.as_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{DestinationId, Sequence};
    use crate::rules::backoff::Jitter;
    use serde_json::json;

    const NOW: Timestamp = Timestamp(1_000_000_000);
    const RUN: u32 = 5;

    fn no_jitter() -> Retry {
        Retry { jitter: Jitter::None, ..Retry::default() }
    }

    fn ended(outcome: &Outcome, retry_after: Option<u64>, attempt: u32, age: u64) -> EndedAttempt<'_> {
        EndedAttempt {
            id: DeliveryId { sequence: Sequence(1), destination: DestinationId(0) },
            interaction: Digest64(7),
            outcome,
            retry_after: retry_after.map(asked),
            attempts: attempt,
            counted: attempt - 1,
            refused: None,
            redriven: false,
            since: NOW.before(Duration::from_secs(age)),
            began: NOW,
            now: NOW,
            started: NOW,
            latency: Duration::ZERO,
        }
    }

    /// The judgement of the first answer of a destination.
    fn judged(retry: &Retry, ended: &EndedAttempt<'_>) -> Judgement {
        judge(retry, RUN, &mut Refusals::default(), ended)
    }

    fn verdict(outcome: Outcome, retry_after: Option<u64>, attempt: u32, age: u64) -> (Verdict, Option<RetryAfter>) {
        let judgement = judged(&no_jitter(), &ended(&outcome, retry_after, attempt, age));
        (judgement.verdict, judgement.retry_after)
    }

    fn asked(seconds: u64) -> RetryAfter {
        RetryAfter { until: NOW.after(Duration::from_secs(seconds)), clamped: false }
    }

    fn after(seconds: u64) -> Verdict {
        Verdict::Retry { due: NOW.after(Duration::from_secs(seconds)) }
    }

    #[test]
    fn every_status_has_its_documented_meaning() {
        for status in 100..=599u16 {
            let (expected, health) = match status {
                200..=299 => (Verdict::Delivered, Health::Delivered),
                400 | 411 | 413 | 414 | 415 | 422 | 431 => (Verdict::Dead(Reason::Permanent), Health::Refused(status)),
                429 => (after(1), Health::Throttled),
                503 | 504 => (after(1), Health::Unavailable),
                408 | 409 | 425 | 500..=599 => (after(1), Health::Failed),
                _ => (after(1), Health::Rejected(status)),
            };
            let outcome = Outcome::Answered(status);
            let judgement = judged(&no_jitter(), &ended(&outcome, None, 1, 0));
            assert_eq!(
                (judgement.verdict, judgement.call.map(|call| call.health)),
                (expected, Some(health)),
                "{status}"
            );
        }
    }

    /// All failures without an answer, and an answer whose body contradicts its 2xx.
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
    fn failures_are_retried_and_ambiguous_ones_as_configured() {
        for (outcome, sent) in FAILURES {
            assert_eq!(outcome.is_ambiguous(), sent == Sent::Perhaps, "{outcome:?}");
            assert_eq!(verdict(outcome.clone(), None, 2, 0).0, after(2), "{outcome:?}");
            let retry = Retry { on_ambiguous: OnAmbiguous::DeadLetter, ..no_jitter() };
            let wanted = if sent == Sent::Perhaps { Verdict::Dead(Reason::Ambiguous) } else { after(2) };
            assert_eq!(judged(&retry, &ended(&outcome, None, 2, 0)).verdict, wanted, "{outcome:?}");
        }
    }

    #[test]
    fn by_default_only_age_ends_failing_deliveries() {
        for outcome in [503, 500, 408, 404, 403, 302].map(Outcome::Answered).into_iter().chain(FAILURES.map(|f| f.0)) {
            assert_eq!(verdict(outcome.clone(), None, 1_000_000, 0).0, after(300), "{outcome:?}");
            let day = 24 * 3600;
            assert_eq!(verdict(outcome.clone(), None, 1, 3 * day - 1).0, after(1), "{outcome:?}");
            assert_eq!(verdict(outcome.clone(), None, 1, 3 * day).0, Verdict::Dead(Reason::Exhausted), "{outcome:?}");
        }
    }

    #[test]
    fn the_attempt_limit_counts_answers_about_the_event() {
        let retry = Retry { attempts: Some(3), ..no_jitter() };
        let at = |outcome: &Outcome, counted| {
            judged(&retry, &EndedAttempt { counted, ..ended(outcome, None, counted + 1, 0) }).verdict
        };
        for outcome in [Outcome::Answered(500), Outcome::TimedOut, Outcome::Broken, Outcome::Unsuccessful(200)] {
            assert_eq!(at(&outcome, 1), after(2), "{outcome:?}");
            assert_eq!(at(&outcome, 2), Verdict::Dead(Reason::Exhausted), "{outcome:?}");
        }
        for outcome in [Outcome::NotConnected, Outcome::ConnectTimedOut, Outcome::NotSent, Outcome::Answered(404)] {
            assert_eq!(at(&outcome, 2), after(4), "{outcome:?}");
        }
    }

    #[test]
    fn a_content_status_is_permanent_unless_every_event_gets_it() {
        let mut refusals = Refusals::default();
        let mut ask = |status, interaction| {
            let outcome = Outcome::Answered(status);
            let ended = EndedAttempt { interaction: Digest64(interaction), ..ended(&outcome, None, 1, 0) };
            let judgement = judge(&no_jitter(), RUN, &mut refusals, &ended);
            (judgement.verdict, judgement.call.is_some_and(|call| call.refuses_all))
        };
        let dead = Verdict::Dead(Reason::Permanent);
        assert_eq!(
            [(1, 422), (2, 404), (3, 422), (4, 400)].map(|(n, status)| ask(status, n)),
            [(dead, false), (after(1), false), (dead, false), (dead, false)]
        );
        assert_eq!([(5, 422), (6, 404), (7, 400)].map(|(n, status)| ask(status, n)), [(after(1), true); 3]);
        assert_eq!(ask(200, 8), (Verdict::Delivered, false));
        assert_eq!(ask(422, 9), (dead, false));
    }

    #[test]
    fn content_statuses_are_configurable() {
        let retry = Retry { permanent: [404].into(), ..no_jitter() };
        let dies = |status| judged(&retry, &ended(&Outcome::Answered(status), None, 1, 0)).verdict;
        assert_eq!([404, 422].map(dies), [Verdict::Dead(Reason::Permanent), after(1)]);
    }

    #[test]
    fn retry_after_blocks_the_destination_and_the_delivery() {
        let granted = asked(30);
        assert_eq!(
            verdict(Outcome::Answered(429), Some(30), 1, 0),
            (Verdict::Retry { due: granted.until }, Some(granted))
        );
        // also where the delivery has exceeded its age limit
        let old = 3 * 24 * 3600;
        assert_eq!(
            verdict(Outcome::Answered(503), Some(30), 12, old),
            (Verdict::Dead(Reason::Exhausted), Some(granted))
        );
        assert_eq!(verdict(Outcome::Answered(200), Some(30), 1, 0), (Verdict::Delivered, None));
        assert_eq!(verdict(Outcome::Unsuccessful(200), Some(30), 1, 0).1, Some(granted));
        // an answer that is not retried still applies
        let permanent = Verdict::Dead(Reason::Permanent);
        for (status, verdict_of) in [(302, Verdict::Retry { due: granted.until }), (400, permanent)] {
            assert_eq!(verdict(Outcome::Answered(status), Some(30), 1, 0), (verdict_of, Some(granted)), "{status}");
        }
        let retry = Retry { on_ambiguous: OnAmbiguous::DeadLetter, ..Retry::default() };
        assert_eq!(judged(&retry, &ended(&Outcome::Broken, Some(30), 1, 0)).retry_after, Some(granted));
    }

    #[test]
    fn an_answer_with_retry_after_counts_as_throttled() {
        for (outcome, seconds, expected) in [
            (Outcome::Answered(429), None, Health::Throttled),
            (Outcome::Answered(403), Some(1), Health::Throttled),
            (Outcome::Answered(422), Some(1), Health::Throttled),
            (Outcome::Answered(503), Some(1), Health::Throttled),
            (Outcome::TimedOut, None, Health::Unavailable),
            (Outcome::NotConnected, None, Health::Unavailable),
            (Outcome::Broken, None, Health::Failed),
        ] {
            let health = judged(&no_jitter(), &ended(&outcome, seconds, 1, 0)).call.map(|call| call.health);
            assert_eq!(health, Some(expected), "{outcome:?}");
        }
        let retry = Retry { statuses: [500].into(), ..no_jitter() };
        let health = judged(&retry, &ended(&Outcome::Answered(429), None, 1, 0)).call.map(|call| call.health);
        assert_eq!(health, Some(Health::Throttled));
    }

    #[test]
    fn a_body_is_a_success_or_has_a_reason() {
        let deep = "[".repeat(10_000);
        let cases = [
            ("/status", json!("ok"), r#"{"status":"ok"}"#, None),
            ("/status", json!("ok"), r#"{"status":"OK"}"#, Some(r#"`/status` of its body is not "ok""#)),
            ("/status", json!("ok"), r#"{"status":null}"#, Some(r#"`/status` of its body is not "ok""#)),
            ("/status", json!("ok"), r#"{"state":"ok"}"#, Some("there is nothing at `/status` of its body")),
            ("/status", json!("ok"), r#""ok""#, Some("there is nothing at `/status` of its body")),
            ("", json!("ok"), r#""ok""#, None),
            ("/status", json!("ok"), "ok", Some("its body is not JSON")),
            ("/status", json!("ok"), "", Some("its body is not JSON")),
            ("/status", json!("ok"), r#"{"status":"ok"} and more"#, Some("its body is not JSON")),
            ("/status", json!("ok"), &deep, Some("its body is not JSON")),
            ("/r/0/a~1b", json!(true), r#"{"r":[{"a/b":true}]}"#, None),
            ("/code", json!(0), r#"{"code":0}"#, None),
            ("/code", json!(0), r#"{"code":0.0}"#, None),
            ("/code", json!(0), r#"{"code":"0"}"#, Some("`/code` of its body is not 0")),
            ("/code", json!(0), r#"{"code":false}"#, Some("`/code` of its body is not 0")),
        ];
        for (pointer, equals, body, wanted) in cases {
            let success = Success { json_pointer: pointer.to_owned(), equals };
            assert_eq!(success.refusal(body.as_bytes()).as_deref(), wanted, "{body}");
        }
    }
}
