//! One attempt: send a delivery, see what came of it, record what follows.
//!
//! *Invariants.* What follows is recorded before the scheduler hears of it, so the next delivery of the interaction can
//! never be on disk before this one.

use super::canary_results::{Failed, Fate};
use super::destination::Destination;
use super::exchange::{self, Answer, Bounds, End, Failure, Unanswered};
use super::token::{Missing, Token};
use crate::clock::Clock;
use crate::delivery::{Attempt, DeadLetter, Delivery, DeliveryId, Outcome, Place, Reason};
use crate::rules::call::{Call, Health};
use crate::rules::canary;
use crate::rules::header_time::AnsweredAt;
use crate::rules::quota;
use crate::rules::retry_after::{self, RetryAfter};
use crate::rules::staleness::LateAction;
use crate::rules::success::Success;
use crate::rules::verdict::{Ended, Judgement, Verdict};
use crate::scheduler::{Disposition, Start};
use crate::store::{Damaged, Store, StoreError, Transition};
use crate::time::{Timestamp, millis};
use http::header;
use http::response::Parts;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// Attempts that are kept with a delivery: the first, and the newest of the others. With the bound of `retry.max_age`, each
/// record is written again so often that all of them would be more than the event.
const ATTEMPTS_KEPT: usize = 100;
/// Of so many, the newest, what was answered is kept too.
const ANSWERS_KEPT: usize = 10;

/// What the dispatcher needs to know of an attempt that has ended.
#[derive(Debug)]
pub struct AttemptResult {
    pub start: Start,
    pub landing: Disposition,
    /// What it says of the destination; none where nothing was sent, or only a token was refused.
    pub call: Option<Call>,
    pub hold: Option<RetryAfter>,
}

pub struct Context {
    /// One read of the store at a time.
    pub reads: Arc<Mutex<()>>,
    pub store: Store,
    pub clock: Clock,
    pub destination: Arc<Destination>,
}

/// What came back.
struct Reply {
    outcome: Outcome,
    error: String,
    answer: Vec<u8>,
    /// `Retry-After`.
    asked: Option<RetryAfter>,
    /// Its headers say that nothing more is allowed until then.
    spent: Option<RetryAfter>,
    /// The time until a connection turned out to be closed, which says nothing of the destination.
    lost: Duration,
}

pub async fn run(context: Context, start: Start) -> AttemptResult {
    let id = DeliveryId { sequence: start.sequence, destination: start.destination };
    let place = Place::under(start.lies_under);
    let delivery = match load(&context, id, place).await {
        Ok(delivery) => delivery,
        Err(error) => return unreadable(&context, start, id, place, &error),
    };
    let token = match &context.destination.tokens {
        None => None,
        Some(tokens) => match tokens.current(&context.clock).await {
            Ok(token) => Some(token),
            Err(missing) => return without_token(&context, start, missing),
        },
    };
    if context.destination.shutters.pass(context.clock.now()).is_none() {
        return shut_out(&context, start);
    }
    let (began, began_precise) = (context.clock.now(), context.clock.precise());
    let course = context.destination.course(&delivery, context.store.order_key(&delivery.event), began);
    if let Some(landing) = not_sent(&context, &delivery, place, course, began) {
        context.destination.settled(id.sequence);
        return AttemptResult { start, landing, call: None, hold: None };
    }
    let Some(reply) = send(&context, &delivery, course, token.as_ref()).await else { return shut_out(&context, start) };
    if let (Outcome::Answered(401 | 403), Some(tokens), Some(token)) =
        (&reply.outcome, &context.destination.tokens, &token)
        && tokens.refused(token, id.sequence, &context.clock).await
    {
        tracing::info!(delivery = %id, "the access token was refused; it is replaced, and the delivery goes again");
        return postponed(start, later(reply.asked, reply.spent));
    }
    ended(&context, start, delivery, place, reply, (began, began_precise))
}

/// An attempt was made: what it means for its delivery, its destination and its redrive.
fn ended(
    context: &Context,
    start: Start,
    delivery: Delivery,
    place: Place,
    reply: Reply,
    (began, began_precise): (Timestamp, Duration),
) -> AttemptResult {
    let (id, now) = (delivery.id, context.clock.now());
    let (destination, spent, lost) = (&context.destination, reply.spent, reply.lost);
    let ended =
        Ended { retry_after: reply.asked, ..Ended::of(&delivery, &destination.retry, &reply.outcome, began, now) };
    let Judgement { verdict, wish, health, refuses_all } = destination.judge(&ended);
    destination.attempts.count(&reply.outcome);
    destination.settled(id.sequence);
    destination.latency.observe(context.clock.precise().saturating_sub(began_precise));
    if verdict == Verdict::Delivered {
        destination.end_to_end.observe(now.since(delivery.event.received_at));
    }
    if delivery.redriven {
        tell(context, &delivery, verdict, health, &reply);
    }
    let landing = record(context, delivery, place, verdict, reply, began, now);
    let call = Some(Call { began: start.at, latency: now.since(began).saturating_sub(lost), health, refuses_all });
    AttemptResult { start, landing, call, hold: later(wish, spent) }
}

/// To whoever watches how redriven deliveries fare.
fn tell(context: &Context, delivery: &Delivery, verdict: Verdict, health: Health, reply: &Reply) {
    let (trials, sequence) = (&context.destination.trials, delivery.id.sequence);
    let failed = || Failed {
        event: delivery.event.id(sequence),
        outcome: reply.outcome.word(),
        status: reply.outcome.status(),
        error: reply.error.clone(),
    };
    if let Some(end) = trial(verdict, health) {
        trials.tried(sequence, end, || (end == canary::End::Failed).then(failed));
    }
    match verdict {
        Verdict::Delivered => trials.over(sequence, Fate::Delivered),
        Verdict::Dead(_) => trials.over(sequence, Fate::Dead),
        Verdict::Retry { .. } => {}
    }
}

/// What it says to whoever watches how a redriven delivery fares; nothing yet where the destination only puts it off.
fn trial(verdict: Verdict, health: Health) -> Option<canary::End> {
    match (verdict, health) {
        (Verdict::Delivered, _) => Some(canary::End::Well),
        (Verdict::Retry { .. }, Health::Throttled) => None,
        (Verdict::Retry { .. } | Verdict::Dead(_), _) => Some(canary::End::Failed),
    }
}

fn later(one: Option<RetryAfter>, other: Option<RetryAfter>) -> Option<RetryAfter> {
    one.into_iter().chain(other).max_by_key(|wish| wish.until)
}

/// A delivery that comes to its end without being sent; none where it is to be sent.
fn not_sent(
    context: &Context,
    delivery: &Delivery,
    place: Place,
    course: LateAction,
    now: Timestamp,
) -> Option<Disposition> {
    match course {
        LateAction::Send | LateAction::SendFlagged => None,
        LateAction::Discard => {
            let (id, attempts) = (delivery.id, delivery.next_attempt() - 1);
            let event_id = delivery.event.id(id.sequence);
            tracing::info!(%event_id, destination = context.destination.name, attempts, "discarded: it is stale");
            context.store.record(Transition::Discarded { id, place, attempts, at: now });
            context.destination.trials.over(id.sequence, Fate::Gone);
            Some(Disposition::Resolved)
        }
        LateAction::Bury(reason) => {
            let sequence = delivery.id.sequence;
            dead(context, delivery.clone(), place, reason, "none", now);
            context.destination.trials.tried(sequence, canary::End::Failed, || {
                let error = format!("it was not sent: {}", reason.word());
                Some(Failed { event: delivery.event.id(sequence), outcome: "none", status: None, error })
            });
            context.destination.trials.over(sequence, Fate::Dead);
            Some(Disposition::Dead)
        }
    }
}

/// What was about to be sent when a shutter closed.
fn shut_out(context: &Context, start: Start) -> AttemptResult {
    postponed(start, context.destination.shutters.held(context.clock.now()).map(until))
}

/// It goes on waiting where it lies, with all others of its destination.
fn postponed(start: Start, hold: Option<RetryAfter>) -> AttemptResult {
    AttemptResult { start, landing: Disposition::Postponed, call: None, hold }
}

fn until(until: Timestamp) -> RetryAfter {
    RetryAfter { until, cut: false }
}

/// What no credentials can be had for is no failed attempt.
fn without_token(context: &Context, start: Start, missing: Missing) -> AttemptResult {
    let hold = until(missing.until);
    context.destination.lacks_token(missing);
    postponed(start, Some(hold))
}

async fn load(context: &Context, id: DeliveryId, place: Place) -> Result<Delivery, StoreError> {
    let store = &context.store;
    let cached = || store.cached(id.sequence).filter(|_| place == Place::Page);
    if let Some(event) = cached() {
        return Ok(Delivery::first(id, event));
    }
    // the others that wait for the same page then find it in the cache, and need no memory of their own
    let _turn = context.reads.lock().await;
    if let Some(event) = cached() {
        return Ok(Delivery::first(id, event));
    }
    match read(store, id, place).await {
        Err(StoreError::Damaged(Damaged::Missing)) => {
            // once all that was recorded before is written, a second look is final
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

/// A record that does not verify is set aside, so that it blocks nothing; any other error is the store's end, and until
/// the daemon has ended nothing behind it goes out.
fn unreadable(context: &Context, start: Start, id: DeliveryId, place: Place, error: &StoreError) -> AttemptResult {
    let StoreError::Damaged(why) = error else {
        context.store.fail(error);
        return postponed(start, Some(until(Timestamp::NEVER)));
    };
    tracing::error!(delivery = %id, %why, "a stored delivery does not verify; it is quarantined and not delivered");
    let (why, at) = (why.to_string(), context.clock.now());
    context.store.record(Transition::Damaged { id, place, why, at });
    context.destination.trials.over(id.sequence, Fate::Gone);
    context.destination.settled(id.sequence);
    AttemptResult { start, landing: Disposition::Resolved, call: None, hold: None }
}

/// Sends a delivery; none where a shutter closed before a byte of it was written.
async fn send(context: &Context, delivery: &Delivery, course: LateAction, token: Option<&Token>) -> Option<Reply> {
    let destination = &context.destination;
    let (mut asked, mut spent) = (None, None);
    // what is asked for is granted once, from the moment at which the head came
    let at_head = |head: &Parts| {
        let (now, wall) = (context.clock.now(), context.clock.wall());
        let grant = |wish| retry_after::grant(wish, destination.retry.retry_after_max, now);
        let values = |name: &str| exchange::values(&head.headers, name);
        let at = AnsweredAt::new(wall, values(header::DATE.as_str()).first().copied());
        asked = retry_after::asked(values, at).map(grant);
        if !head.status.is_success() {
            leave_alone(context, asked, "Retry-After");
        }
        spent = quota::spent(values, head.status.as_u16(), at).map(grant);
        leave_alone(context, spent, "its rate limit is spent");
    };
    let kept_bytes = if destination.success.is_some() { exchange::BODY_BYTES_MAX } else { Attempt::ANSWER_MAX };
    let bounds = Bounds { timeout: destination.timeout, kept_bytes };
    let request = destination.request(delivery, course, token, context.clock.wall());
    let gate = || destination.shutters.pass(context.clock.now());
    match exchange::exchange(&destination.client, request, bounds, gate, at_head).await {
        Ok(mut answer) => {
            let (outcome, error) = believe(destination.success.as_ref(), &answer);
            if !matches!(outcome, Outcome::Answered(200..300)) {
                leave_alone(context, asked, "Retry-After");
            }
            answer.body.truncate(Attempt::ANSWER_MAX);
            Some(Reply { outcome, error, answer: answer.body, asked, spent, lost: answer.lost })
        }
        Err(Unanswered::Failed(Failure { outcome, error, lost })) => {
            Some(Reply { outcome, error, answer: Vec::new(), asked: None, spent: None, lost })
        }
        Err(Unanswered::Blocked) => None,
    }
}

/// What an answer comes to, and what is wrong with it.
fn believe(success: Option<&Success>, answer: &Answer) -> (Outcome, String) {
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

/// At once, for attempts that are about to be sent; the dispatcher hears of it when this one has landed.
fn leave_alone(context: &Context, wish: Option<RetryAfter>, reason: &'static str) {
    let destination = &context.destination;
    if let Some(RetryAfter { until, .. }) = wish
        && destination.shutters.hold(until)
    {
        destination.held_because(until, reason);
        let reason = reason.to_owned();
        context.store.record(Transition::Hold { destination: destination.id, until, reason });
    }
}

fn record(
    context: &Context,
    mut delivery: Delivery,
    place: Place,
    verdict: Verdict,
    reply: Reply,
    began: Timestamp,
    now: Timestamp,
) -> Disposition {
    let (id, number) = (delivery.id, delivery.next_attempt());
    let status = reply.outcome.status().unwrap_or(0);
    let latency = now.since(began);
    let event_id = delivery.event.id(id.sequence);
    let destination = &context.destination.name;
    if verdict != Verdict::Delivered {
        if delivery.attempts.len() >= ATTEMPTS_KEPT {
            delivery.attempts.remove(1);
        }
        if let Some(old) = delivery.attempts.len().checked_sub(ANSWERS_KEPT) {
            delivery.attempts[old].answer = Vec::new();
        }
        delivery.attempts.push(Attempt {
            number,
            at: began,
            latency_ms: u32::try_from(millis(latency)).unwrap_or(u32::MAX),
            outcome: reply.outcome.clone(),
            error: reply.error,
            answer: reply.answer,
        });
    }
    match verdict {
        Verdict::Delivered => {
            tracing::debug!(%event_id, destination, attempt = number, status, ?latency, "delivered");
            context.store.record(Transition::Delivered { id, place, attempts: number, status, at: now });
            context.destination.has(&delivery, context.store.order_key(&delivery.event), now);
            Disposition::Resolved
        }
        Verdict::Retry { due } => {
            let outcome = reply.outcome.word();
            tracing::info!(%event_id, destination, attempt = number, outcome, status, %due, "attempt failed; tried again");
            context.store.record(Transition::Delayed { from: place, due, delivery: Arc::new(delivery) });
            Disposition::Retry { due }
        }
        Verdict::Dead(reason) => {
            dead(context, delivery, place, reason, reply.outcome.word(), now);
            Disposition::Dead
        }
    }
}

fn dead(context: &Context, delivery: Delivery, place: Place, reason: Reason, outcome: &str, now: Timestamp) {
    let event_id = delivery.event.id(delivery.id.sequence);
    let (attempts, destination) = (delivery.attempts.len(), &context.destination.name);
    tracing::warn!(%event_id, destination, attempts, outcome, reason = reason.word(), "dead letter");
    let letter = DeadLetter { delivery, reason, dead_at: now };
    context.store.record(Transition::Dead { from: place, letter: Box::new(letter) });
}
