//! One attempt: send a delivery, see what came of it, record what follows.
//!
//! *Invariants.* What follows is recorded before the scheduler hears of it, so the next delivery of the interaction can
//! never be on disk before this one. Redirects are not followed. A status decides; a body that breaks off behind it
//! changes nothing.

use super::destination::Destination;
use crate::clock::Clock;
use crate::delivery::{Attempt, DeadLetter, Delivery, DeliveryId, Outcome, Place, Reason};
use crate::rules::retry_after::{self, Wish};
use crate::rules::verdict::{self, Ended, Verdict};
use crate::scheduler::{Landing, Start};
use crate::store::{Damaged, Store, StoreError, Transition};
use crate::time::{Timestamp, millis};
use http::header;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// So much of an answer is read, to keep its connection usable; a longer one costs the connection.
const ANSWER_READ_MAX: usize = 64 * 1024;

/// The newest attempts that are kept with a delivery; more than that takes many redrives.
const ATTEMPTS_KEPT: usize = 1000;

/// What the dispatcher needs to know of an attempt that has ended.
#[derive(Debug)]
pub struct Landed {
    pub start: Start,
    pub landing: Landing,
    pub hold: Option<Wish>,
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
    retry_after: Option<Duration>,
}

pub async fn run(context: Context, start: Start) -> Landed {
    let id = DeliveryId { sequence: start.sequence, destination: start.destination };
    let place = Place::under(start.lies_under);
    let delivery = match load(&context, id, place).await {
        Ok(delivery) => delivery,
        Err(error) => return unreadable(&context, start, id, place, &error),
    };
    if let Some(until) = context.destination.held(context.clock.now()) {
        return Landed { start, landing: Landing::Postponed, hold: Some(Wish { until, cut: false }) };
    }
    let began = context.clock.now();
    let reply = send(&context, &delivery).await;
    let now = context.clock.now();
    let counted = delivery.counted() + 1;
    let since = if delivery.redriven { first_since_redrive(&delivery, began) } else { delivery.event.received_at };
    let retry_after = reply.retry_after;
    let ended = Ended { id, outcome: &reply.outcome, retry_after, counted, since, now };
    let (verdict, wish) = verdict::judge(&context.destination.retry, ended);
    let landing = record(&context, delivery, place, verdict, reply, began, now);
    Landed { start, landing, hold: wish }
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

/// A record that does not verify is set aside, so that it blocks nothing; any other error is the store's end.
fn unreadable(context: &Context, start: Start, id: DeliveryId, place: Place, error: &StoreError) -> Landed {
    if let StoreError::Damaged(why) = error {
        tracing::error!(delivery = %id, %why, "a stored delivery does not verify; it is quarantined and not delivered");
        let (why, at) = (why.to_string(), context.clock.now());
        context.store.record(Transition::Damaged { id, place, why, at });
    } else {
        context.store.fail(error);
    }
    Landed { start, landing: Landing::Resolved, hold: None }
}

async fn send(context: &Context, delivery: &Delivery) -> Reply {
    let destination = &context.destination;
    let began = context.clock.now();
    let exchange = async {
        match destination.client.request(destination.request(delivery)).await {
            Ok(response) => Ok(response),
            Err(e) if e.is_connect() => Err((Outcome::NotConnected, chain(&e))),
            Err(e) => Err((Outcome::Broken, chain(&e))),
        }
    };
    let reply = |outcome, error| Reply { outcome, error, answer: Vec::new(), retry_after: None };
    match tokio::time::timeout(destination.timeout, exchange).await {
        Err(_) => {
            let timeout = humantime::format_duration(destination.timeout);
            reply(Outcome::TimedOut, format!("no answer within {timeout}"))
        }
        Ok(Err((outcome, error))) => reply(outcome, error),
        Ok(Ok(response)) => {
            let status = response.status().as_u16();
            let header = response.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok());
            let retry_after = header.and_then(|value| retry_after::parse(value, context.clock.wall()));
            if let Some(wish) = retry_after.filter(|_| destination.retry.statuses.contains(&status)) {
                // at once, for attempts that are about to be sent; the dispatcher hears of it when this one has landed
                let until = retry_after::grant(wish, destination.retry.retry_after_max, context.clock.now()).until;
                if destination.leave_alone(until) {
                    let reason = "Retry-After".to_owned();
                    context.store.record(Transition::Hold { destination: destination.id, until, reason });
                }
            }
            let left = destination.timeout.saturating_sub(context.clock.now().since(began));
            let body = tokio::time::timeout(left, read_answer(response.into_body()));
            let answer = body.await.unwrap_or_default();
            Reply { outcome: Outcome::Answered(status), error: String::new(), answer, retry_after }
        }
    }
}

/// The beginning of an answer's body; what cannot be read is left out.
async fn read_answer(mut body: Incoming) -> Vec<u8> {
    let (mut kept, mut read) = (Vec::new(), 0);
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        read += data.len();
        let room = Attempt::ANSWER_MAX - kept.len();
        kept.extend_from_slice(&data[..data.len().min(room)]);
        if read > ANSWER_READ_MAX {
            break;
        }
    }
    kept
}

fn record(
    context: &Context,
    mut delivery: Delivery,
    place: Place,
    verdict: Verdict,
    reply: Reply,
    began: Timestamp,
    now: Timestamp,
) -> Landing {
    let (id, number) = (delivery.id, delivery.next_attempt());
    let status = reply.outcome.status().unwrap_or(0);
    let latency = now.since(began);
    let event_id = delivery.event.id(id.sequence);
    let destination = &context.destination.name;
    if verdict != Verdict::Delivered {
        if delivery.attempts.len() >= ATTEMPTS_KEPT {
            delivery.attempts.remove(0);
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
            Landing::Resolved
        }
        Verdict::Retry { due } => {
            let outcome = reply.outcome.word();
            tracing::info!(%event_id, destination, attempt = number, outcome, status, %due, "attempt failed; tried again");
            context.store.record(Transition::Delayed { from: place, due, delivery: Arc::new(delivery) });
            Landing::Retry { due }
        }
        Verdict::Dead(reason) => {
            dead(context, delivery, place, reason, now);
            Landing::Dead
        }
    }
}

fn dead(context: &Context, delivery: Delivery, place: Place, reason: Reason, now: Timestamp) {
    let event_id = delivery.event.id(delivery.id.sequence);
    let (attempts, destination) = (delivery.attempts.len(), &context.destination.name);
    tracing::warn!(%event_id, destination, attempts, reason = reason.word(), "dead letter");
    let letter = DeadLetter { delivery, reason, dead_at: now };
    context.store.record(Transition::Dead { from: place, letter: Box::new(letter) });
}

fn first_since_redrive(delivery: &Delivery, now: Timestamp) -> Timestamp {
    delivery.attempts.iter().find(|a| a.number > delivery.forgiven).map_or(now, |a| a.at)
}

/// An error with its causes, innermost last. They name addresses and system errors, never headers or bodies.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
