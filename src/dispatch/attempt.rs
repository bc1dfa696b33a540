//! One attempt: send a delivery, evaluate the answer, record the result.
//!
//! *Invariants.* The result is recorded before the scheduler gets it, so the next delivery of the interaction is never
//! on disk before this one.

use super::canary_results::{DeliveryEnd, Failed};
use super::destination::Destination;
use super::exchange::{self, Answer, Bounds, End, Failure, Unanswered};
use super::head;
use super::token::{Missing, Token};
use crate::clock::Clock;
use crate::delivery::{Attempt, DeadLetter, Delivery, DeliveryId, Outcome, Place, Reason};
use crate::rules::canary;
use crate::rules::header_time::AnsweredAt;
use crate::rules::lateness::LateAction;
use crate::rules::retry_after::{self, RetryAfter};
use crate::rules::verdict::Health;
use crate::rules::verdict::Success;
use crate::rules::verdict::{EndedAttempt, Judgement, Verdict};
use crate::scheduler::Start;
use crate::store::{Damaged, Store, StoreError, Transition};
use crate::time::{Timestamp, millis};
use http::header;
use http::response::Parts;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// Attempts kept with a delivery: the first, and the newest of the others. With the default `retry.max_age` a record is
/// rewritten so often that all attempts would take more bytes than the event.
const ATTEMPTS_KEPT: usize = 100;
/// The latest attempts that keep the body of the answer.
const ANSWERS_KEPT: usize = 10;

pub struct Context {
    /// One read of the store at a time.
    pub reads: Arc<Mutex<()>>,
    pub store: Store,
    pub clock: Clock,
    pub destination: Arc<Destination>,
}

/// The result of a request.
struct Reply {
    attempt: Attempt,
    retry_after: Option<RetryAfter>,
    /// Rate limit headers report that no request is allowed until then.
    quota: Option<RetryAfter>,
    /// The time until a pooled connection turned out to be closed.
    lost: Duration,
}

pub async fn run(context: Context, start: Start) -> Judgement {
    let id = DeliveryId { sequence: start.sequence, destination: start.destination };
    let delivery = match load(&context, id, start.place).await {
        Ok(delivery) => delivery,
        Err(error) => return unreadable(&context, id, start.place, &error),
    };
    let token = match &context.destination.tokens {
        None => None,
        Some(tokens) => match tokens.current(&context.clock).await {
            Ok(token) => Some(token),
            Err(missing) => return without_token(&context, &missing),
        },
    };
    if context.destination.send_gate.permit(context.clock.now()).is_none() {
        return gate_closed(&context);
    }
    let (began, began_precise) = (context.clock.now(), context.clock.precise());
    let order_key = context.store.order_key(&delivery.event);
    let late_action = context.destination.late_action(&delivery, order_key, began);
    if let Some(verdict) = not_sent(&context, &delivery, start.place, late_action, began) {
        context.destination.delivery_ended(id.sequence);
        return Judgement::without_call(verdict);
    }
    let Some(reply) = send(&context, &delivery, late_action, token.as_ref(), began).await else {
        return gate_closed(&context);
    };
    if let (Outcome::Answered(401 | 403), Some(tokens), Some(token)) =
        (&reply.attempt.outcome, &context.destination.tokens, &token)
        && tokens.refused(token, id.sequence, &context.clock).await
    {
        tracing::info!(delivery = %id, "the access token was refused; it is replaced, and the delivery goes again");
        return Judgement::postponed(later(reply.retry_after, reply.quota));
    }
    ended(&context, &start, delivery, reply, began_precise)
}

/// Records what an attempt means for its delivery, its destination and its redrive.
fn ended(context: &Context, start: &Start, delivery: Delivery, reply: Reply, began_precise: Duration) -> Judgement {
    let (id, now, destination) = (delivery.id, context.clock.now(), &context.destination);
    let Reply { attempt, retry_after, quota, lost } = reply;
    let ended = EndedAttempt {
        retry_after,
        started: start.at,
        latency: now.since(attempt.at).saturating_sub(lost),
        ..EndedAttempt::of(&delivery, &destination.retry, &attempt.outcome, attempt.at, now)
    };
    let judgement = destination.judge(&ended);
    destination.attempts.count(&attempt.outcome);
    destination.delivery_ended(id.sequence);
    destination.latency.observe(context.clock.precise().saturating_sub(began_precise));
    if judgement.verdict == Verdict::Delivered {
        destination.end_to_end.observe(now.since(delivery.event.received_at));
    }
    if delivery.redriven {
        report_redriven(context, &delivery, &judgement, &attempt);
    }
    record(context, delivery, start.place, judgement.verdict, attempt, now);
    Judgement { retry_after: later(judgement.retry_after, quota), ..judgement }
}

/// Reports the attempt of a redriven delivery to its redrive.
fn report_redriven(context: &Context, delivery: &Delivery, judgement: &Judgement, attempt: &Attempt) {
    let (results, sequence) = (&context.destination.canary_results, delivery.id.sequence);
    let failed = || Failed {
        event: delivery.event.id(sequence),
        outcome: attempt.outcome.word(),
        status: attempt.outcome.status(),
        error: attempt.error.clone(),
    };
    if let Some(end) = canary_end(judgement) {
        results.attempt_ended(sequence, end, || (end == canary::End::Failed).then(failed));
    }
    match judgement.verdict {
        Verdict::Delivered => results.delivery_ended(sequence, DeliveryEnd::Delivered),
        Verdict::Dead(_) => results.delivery_ended(sequence, DeliveryEnd::Dead),
        Verdict::Retry { .. } | Verdict::Discarded | Verdict::Postponed => {}
    }
}

/// The result of an attempt for the redrive; none where the destination only asked to wait.
fn canary_end(judgement: &Judgement) -> Option<canary::End> {
    let throttled = judgement.call.is_some_and(|call| call.health == Health::Throttled);
    match judgement.verdict {
        Verdict::Delivered => Some(canary::End::Delivered),
        Verdict::Retry { .. } if throttled => None,
        Verdict::Retry { .. } | Verdict::Dead(_) => Some(canary::End::Failed),
        Verdict::Discarded | Verdict::Postponed => None,
    }
}

fn later(one: Option<RetryAfter>, other: Option<RetryAfter>) -> Option<RetryAfter> {
    one.into_iter().chain(other).max_by_key(|asked| asked.until)
}

/// The end of a late delivery; none where it is to be sent.
fn not_sent(
    context: &Context,
    delivery: &Delivery,
    place: Place,
    late_action: LateAction,
    now: Timestamp,
) -> Option<Verdict> {
    let (id, results) = (delivery.id, &context.destination.canary_results);
    match late_action {
        LateAction::Send | LateAction::SendFlagged => None,
        LateAction::Discard => {
            let attempts = delivery.next_attempt() - 1;
            let event_id = delivery.event.id(id.sequence);
            tracing::info!(%event_id, destination = context.destination.name, attempts, "discarded: it is stale");
            context.store.record(Transition::Discarded { id, place, attempts, at: now });
            results.delivery_ended(id.sequence, DeliveryEnd::Gone);
            Some(Verdict::Discarded)
        }
        LateAction::DeadLetter(reason) => {
            dead(context, delivery.clone(), place, reason, "none", now);
            results.attempt_ended(id.sequence, canary::End::Failed, || {
                let error = format!("it was not sent: {}", reason.word());
                Some(Failed { event: delivery.event.id(id.sequence), outcome: "none", status: None, error })
            });
            results.delivery_ended(id.sequence, DeliveryEnd::Dead);
            Some(Verdict::Dead(reason))
        }
    }
}

/// The send gate closed before a byte of the request was written.
fn gate_closed(context: &Context) -> Judgement {
    Judgement::postponed(context.destination.send_gate.retry_after_until(context.clock.now()).map(until))
}

fn until(until: Timestamp) -> RetryAfter {
    RetryAfter { until, clamped: false }
}

/// A missing access token is not a failed attempt.
fn without_token(context: &Context, missing: &Missing) -> Judgement {
    context.destination.lacks_token(missing);
    Judgement::postponed(Some(until(missing.until)))
}

async fn load(context: &Context, id: DeliveryId, place: Place) -> Result<Delivery, StoreError> {
    let store = &context.store;
    let cached = || store.cached(id.sequence).filter(|_| place == Place::Page);
    if let Some(event) = cached() {
        return Ok(Delivery::first(id, event));
    }
    // attempts that wait for the same page find it in the cache afterwards, and need no memory of their own
    let _turn = context.reads.lock().await;
    if let Some(event) = cached() {
        return Ok(Delivery::first(id, event));
    }
    match read(store, id, place).await {
        Err(StoreError::Damaged(Damaged::Missing)) => {
            // once everything recorded before is written, a second read is conclusive
            store.flush().await?;
            read(store, id, place).await
        }
        read => read,
    }
}

async fn read(store: &Store, id: DeliveryId, place: Place) -> Result<Delivery, StoreError> {
    let store = store.clone();
    let read = tokio::task::spawn_blocking(move || store.delivery(id, place)).await;
    read.map_err(|_| StoreError::Failed)?
}

/// Moves a damaged record to the damaged records and ends its delivery, so that it blocks nothing. Any other error means
/// that the store has failed: the daemon ends, and until then nothing more is sent to the destination.
fn unreadable(context: &Context, id: DeliveryId, place: Place, error: &StoreError) -> Judgement {
    let StoreError::Damaged(why) = error else {
        context.store.fail(error);
        return Judgement::postponed(Some(until(Timestamp::NEVER)));
    };
    tracing::error!(delivery = %id, %why, "a stored delivery does not verify; it is quarantined and not delivered");
    let (why, at) = (why.to_string(), context.clock.now());
    context.store.record(Transition::Damaged { id, place, why, at });
    context.destination.canary_results.delivery_ended(id.sequence, DeliveryEnd::Gone);
    context.destination.delivery_ended(id.sequence);
    Judgement::without_call(Verdict::Discarded)
}

/// Sends a delivery; none where the send gate closed before a byte of the request was written.
async fn send(
    context: &Context,
    delivery: &Delivery,
    late_action: LateAction,
    token: Option<&Token>,
    began: Timestamp,
) -> Option<Reply> {
    let destination = &context.destination;
    let (mut retry_after, mut quota) = (None, None);
    // each wait is counted from the arrival of the head
    let at_head = |head: &Parts| {
        let (now, wall) = (context.clock.now(), context.clock.wall());
        let grant = |wait| retry_after::grant(wait, destination.retry.retry_after_max, now);
        let values = |name: &str| head::values(&head.headers, name);
        let at = AnsweredAt::new(wall, values(header::DATE.as_str()).first().copied());
        retry_after = retry_after::asked(values, at).map(grant);
        if !head.status.is_success() {
            hold_destination(context, retry_after, "Retry-After");
        }
        quota = retry_after::quota_spent(values, head.status.as_u16(), at).map(grant);
        hold_destination(context, quota, "its rate limit is spent");
    };
    let kept_bytes = if destination.success.is_some() { exchange::BODY_BYTES_MAX } else { Attempt::ANSWER_MAX };
    let bounds = Bounds { timeout: destination.timeout, kept_bytes };
    let request = destination.request(delivery, late_action, token, context.clock.wall());
    let gate = || destination.send_gate.permit(context.clock.now());
    let answer = exchange::exchange(&destination.client, request, bounds, gate, at_head).await;
    let (outcome, error, body, lost) = match answer {
        Ok(mut answer) => {
            let (outcome, error) = evaluate_body(destination.success.as_ref(), &answer);
            if !matches!(outcome, Outcome::Answered(200..300)) {
                hold_destination(context, retry_after, "Retry-After");
            }
            answer.body.truncate(Attempt::ANSWER_MAX);
            (outcome, error, answer.body, answer.lost)
        }
        Err(Unanswered::Failed(Failure { outcome, error, lost })) => {
            (retry_after, quota) = (None, None);
            (outcome, error, Vec::new(), lost)
        }
        Err(Unanswered::Blocked) => return None,
    };
    let latency_ms = u32::try_from(millis(context.clock.now().since(began))).unwrap_or(u32::MAX);
    let attempt = Attempt { number: delivery.next_attempt(), at: began, latency_ms, outcome, error, answer: body };
    Some(Reply { attempt, retry_after, quota, lost })
}

/// The outcome of an answer, and a description of its fault.
fn evaluate_body(success: Option<&Success>, answer: &Answer) -> (Outcome, String) {
    let status = answer.status.as_u16();
    let Some(success) = success.filter(|_| answer.status.is_success()) else {
        return (Outcome::Answered(status), String::new());
    };
    let (outcome, why) = match answer.end {
        End::Whole => match success.refusal(&answer.body) {
            None => return (Outcome::Answered(status), String::new()),
            Some(why) => (Outcome::Unsuccessful(status), why),
        },
        End::TooLong => {
            (Outcome::Unsuccessful(status), format!("its body is longer than {} bytes", exchange::BODY_BYTES_MAX))
        }
        End::Broken => (Outcome::Broken, "its body, which decides, broke off".to_owned()),
        End::TimedOut => (Outcome::TimedOut, "its body, which decides, took too long".to_owned()),
    };
    (outcome, format!("answered {status}, but {why}"))
}

/// Closes the send gate immediately, for attempts that are about to send; the scheduler is informed when this attempt
/// has ended.
fn hold_destination(context: &Context, asked: Option<RetryAfter>, reason: &'static str) {
    let destination = &context.destination;
    if let Some(RetryAfter { until, .. }) = asked
        && destination.send_gate.retry_after(until)
    {
        destination.blocked_because(until, reason);
        let reason = reason.to_owned();
        context.store.record(Transition::Hold { destination: destination.id, until, reason });
    }
}

fn record(context: &Context, mut delivery: Delivery, place: Place, verdict: Verdict, attempt: Attempt, now: Timestamp) {
    let (id, number) = (delivery.id, attempt.number);
    let (outcome, status) = (attempt.outcome.word(), attempt.outcome.status().unwrap_or(0));
    let latency = now.since(attempt.at);
    let event_id = delivery.event.id(id.sequence);
    let destination = &context.destination.name;
    if verdict != Verdict::Delivered {
        if delivery.attempts.len() >= ATTEMPTS_KEPT {
            delivery.attempts.remove(1);
        }
        if let Some(old) = delivery.attempts.len().checked_sub(ANSWERS_KEPT) {
            delivery.attempts[old].answer = Vec::new();
        }
        delivery.attempts.push(attempt);
    }
    match verdict {
        Verdict::Delivered => {
            tracing::debug!(%event_id, destination, attempt = number, status, ?latency, "delivered");
            context.store.record(Transition::Delivered { id, place, attempts: number, status, at: now });
            context.destination.mark_delivered(&delivery, context.store.order_key(&delivery.event), now);
        }
        Verdict::Retry { due } => {
            tracing::info!(%event_id, destination, attempt = number, outcome, status, %due, "attempt failed; tried again");
            context.store.record(Transition::Delayed { from: place, due, delivery: Arc::new(delivery) });
        }
        Verdict::Dead(reason) => dead(context, delivery, place, reason, outcome, now),
        Verdict::Discarded | Verdict::Postponed => {}
    }
}

fn dead(context: &Context, delivery: Delivery, place: Place, reason: Reason, outcome: &str, now: Timestamp) {
    let event_id = delivery.event.id(delivery.id.sequence);
    let (attempts, destination) = (delivery.attempts.len(), &context.destination.name);
    tracing::warn!(%event_id, destination, attempts, outcome, reason = reason.word(), "dead letter");
    let dead_letter = DeadLetter { delivery, reason, dead_at: now };
    context.store.record(Transition::Dead { from: place, dead_letter: Box::new(dead_letter) });
}
