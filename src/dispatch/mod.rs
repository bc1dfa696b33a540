//! Dispatch: polls the scheduler, runs the attempts that it starts, and returns their results to it.
//!
//! | level | file | purpose |
//! |---|---|---|
//! | 0 | [`error`] | why a destination cannot be set up |
//! | 0 | [`send_gate`] | closed by a pause, an open breaker or `Retry-After` |
//! | 0 | [`head`] | the head of an answer, rewritten where old servers break the rules |
//! | 0 | [`canary_results`], [`last_delivered`] | results of redriven deliveries; the last delivery of each interaction |
//! | 1 | [`tls`] | TLS settings of a destination |
//! | 1 | [`counted_stream`] | counts the bytes of a connection |
//! | 2 | [`connector`] | name lookup, TCP and TLS |
//! | 2 | [`connections`] | the pool of connections to one destination |
//! | 3 | [`exchange`] | one request and its answer |
//! | 4 | [`token`] | OAuth2 access tokens |
//! | 5 | [`request`] | the request of a delivery |
//! | 6 | [`destination`] | one destination; the configured ones |
//! | 7 | [`overrides`] | pauses, breaker overrides and the state of flow control |
//! | 8 | [`attempt`], [`restore`] | one attempt; the state at a start |
//! | 9 | [`Dispatcher`] | the task that owns the scheduler |
//!
//! *Invariants.* One task owns the scheduler; other tasks send it messages. No attempt starts while the store lags too
//! far behind with the results of earlier attempts, so a crash repeats a bounded number of them; nor while the disk has
//! no space for the result of an attempt.

mod attempt;
mod canary_results;
mod connections;
mod connector;
mod counted_stream;
mod destination;
mod error;
mod exchange;
mod head;
mod last_delivered;
mod overrides;
mod request;
mod restore;
mod send_gate;
mod tls;
mod token;

pub use canary_results::{DeliveryEnd, Failed, Report};
pub use destination::{Destination, DestinationMap, Destinations};
pub use error::SetupError;
pub use last_delivered::{Last, LastDelivered};
pub use request::RequestTemplate;
pub use restore::restore;
pub use tls::{Trust, config as tls_config};

use crate::clock::Clock;
use crate::delivery::{Blocked, Blocker, DeliveryId, Ticket};
use crate::event::{DestinationId, Digest64, Sequence};
use crate::rules::breaker;
use crate::rules::retry_after::RetryAfter;
use crate::rules::verdict::Judgement;
use crate::scheduler::{
    BlockedSummary, DeliveryStatus, DestinationQueue, Interaction, LimitReason, Scheduler, Start, Step,
};
use crate::store::{Store, StoreError, StoreEvent};
use crate::time::Timestamp;
use attempt::Context;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Maximum number of messages handled before the scheduler is polled again.
const MESSAGES_MAX: usize = 256;
/// Maximum number of history rows that one load reads.
const ROWS_PER_LOAD: usize = 16;

/// The state of a destination, for status and metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct DestinationStatus {
    pub in_flight: usize,
    pub delayed: usize,
    /// Deliveries blocked by others of their interaction.
    pub blocked: usize,
    /// When the oldest delivery was accepted.
    pub oldest: Option<Timestamp>,
    pub retry_after_until: Option<Timestamp>,
    pub paused_until: Option<Timestamp>,
    /// The concurrency limit now, and what sets it.
    pub limit: usize,
    pub limit_reason: LimitReason,
    pub blocked_by_dead_letters: BlockedSummary,
    pub breaker: breaker::State,
    /// None: closed since the start.
    pub breaker_since: Option<Timestamp>,
    /// Until when an operator keeps the breaker closed.
    pub kept_closed_until: Option<Timestamp>,
    /// What blocks the next delivery.
    pub blocked_by: Option<Blocked>,
    /// The latency with few requests in flight; none before the first success.
    pub usual_latency: Option<Duration>,
    /// Set if most answers take much longer than that.
    pub slow: Option<breaker::Slow>,
}

impl DestinationStatus {
    fn of(queue: &DestinationQueue, now: Timestamp) -> Self {
        let flow = queue.flow();
        Self {
            in_flight: queue.in_flight(),
            delayed: queue.delayed(),
            blocked: queue.blocked(),
            oldest: queue.oldest(),
            retry_after_until: flow.retry_after_until(),
            paused_until: flow.paused_until(),
            limit: flow.limit(now),
            limit_reason: flow.limit_reason(now),
            blocked_by_dead_letters: queue.blocked_by_dead_letters(),
            breaker: flow.breaker().stands(now),
            breaker_since: flow.breaker().since(now),
            kept_closed_until: flow.breaker().kept_closed_until(now),
            blocked_by: queue.blocked_by(now),
            usual_latency: flow.usual_latency(),
            slow: flow.breaker().slow(now),
        }
    }

    /// Whether deliveries wait only for the configured rate or concurrency: the destination drains at its own pace, and
    /// is not in trouble.
    pub fn is_pacing(&self) -> bool {
        let at_limit = match self.blocked_by.map(|blocked| blocked.by) {
            Some(Blocker::Rate) => true,
            Some(Blocker::Concurrency) => self.limit_reason == LimitReason::Configured,
            _ => false,
        };
        at_limit && self.breaker == breaker::State::Closed && self.slow.is_none()
    }
}

/// A message to the dispatcher; it replies between two steps.
#[derive(Debug)]
pub enum Question {
    Destinations(oneshot::Sender<HashMap<DestinationId, DestinationStatus>>),
    /// What deliveries in pages or the delay tree wait for, in the order of the request.
    Deliveries(Vec<(DestinationId, Digest64, Sequence)>, oneshot::Sender<Vec<DeliveryStatus>>),
    /// Each interaction at each destination, with at most this many waiting deliveries.
    Interactions(Vec<Digest64>, usize, oneshot::Sender<Vec<Vec<(DestinationId, Interaction)>>>),
    /// The events with a delivery in flight.
    InFlight(oneshot::Sender<BTreeSet<Sequence>>),
    /// Replaces the destinations. Waiting deliveries of removed destinations are sent as before.
    Reconfigure(DestinationMap, oneshot::Sender<()>),
}

pub struct Dispatcher {
    pub store: Store,
    pub clock: Clock,
    pub destinations: DestinationMap,
    pub scheduler: Scheduler,
    pub events: mpsc::UnboundedReceiver<StoreEvent>,
    pub questions: mpsc::Receiver<Question>,
    /// Locked during a read of the store for an attempt.
    pub reads: Arc<tokio::sync::Mutex<()>>,
    /// Once cancelled, no attempt starts; those in flight may end within `drain_timeout`.
    pub stop: CancellationToken,
    pub drain_timeout: Duration,
}

enum Message {
    Ended(Start, Judgement),
    Loaded(DestinationId, Vec<Ticket>, Sequence),
}

impl Dispatcher {
    /// Runs until stopped; returns when no attempt is in flight, or after `drain_timeout`.
    pub async fn run(mut self) {
        let (to_me, mut messages) = mpsc::unbounded_channel();
        let mut inbox = Vec::with_capacity(MESSAGES_MAX);
        // a delivery redriven while the delay tree was read is already restored from there: if its event were handled
        // only after the delivery was made, the delivery would be repeated
        while let Ok(event) = self.events.try_recv() {
            self.apply(event);
        }
        loop {
            let behind = self.store.is_behind();
            let wake = if behind { None } else { self.start_ready(&to_me) };
            let short = self.store.is_short_of_space();
            self.load_needed(&to_me);
            let clock = self.clock.clone();
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                n = messages.recv_many(&mut inbox, MESSAGES_MAX) => {
                    debug_assert!(n > 0, "this task holds a sender");
                    inbox.drain(..).for_each(|message| self.handle(message));
                }
                Some(event) = self.events.recv() => {
                    self.apply(event);
                    while let Ok(event) = self.events.try_recv() {
                        self.apply(event);
                    }
                }
                Some(question) = self.questions.recv() => self.answer(question),
                () = self.store.caught_up(), if behind => {}
                () = self.store.space_checked(), if short => {}
                () = async move {
                    match wake {
                        Some(wake) => clock.sleep_until(wake).await,
                        None => std::future::pending().await,
                    }
                } => {}
            }
        }
        self.drain(messages).await;
    }

    fn start_ready(&mut self, to: &mpsc::UnboundedSender<Message>) -> Option<Timestamp> {
        // each attempt may end with a write to the store
        while !self.store.is_short_of_space() {
            match self.scheduler.poll(self.clock.now()) {
                Step::Start(start) => self.start(start, to.clone()),
                Step::Wait(wake) => return wake,
            }
        }
        None
    }

    fn start(&self, start: Start, to: mpsc::UnboundedSender<Message>) {
        let destination = self.destinations[&start.destination].clone();
        let id = DeliveryId { sequence: start.sequence, destination: start.destination };
        let reservation = self.store.reserve_space(id, start.place);
        let reads = self.reads.clone();
        let recorded = destination.policy.limits.records_starts();
        let context = Context { reads, store: self.store.clone(), clock: self.clock.clone(), destination };
        tokio::spawn(async move {
            let judgement = if !recorded || overrides::record_start(&context.store, &start).await {
                attempt::run(context, start).await
            } else {
                Judgement::postponed(Some(RetryAfter { until: Timestamp::NEVER, clamped: false }))
            };
            drop(reservation); // the result is recorded
            let _ = to.send(Message::Ended(start, judgement)); // no receiver after the drain
        });
    }

    fn load_needed(&mut self, to: &mpsc::UnboundedSender<Message>) {
        while let Some((d, from)) = self.scheduler.next_load() {
            let (store, to) = (self.store.clone(), to.clone());
            tokio::task::spawn_blocking(move || {
                let message = match load(&store, d, from) {
                    Ok((tickets, next)) => Message::Loaded(d, tickets, next),
                    Err(error) => return store.fail(&error),
                };
                let _ = to.send(message); // no receiver after the drain
            });
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Ended(start, judgement) => self.ended(&start, &judgement),
            Message::Loaded(d, tickets, next) => {
                if let Some(queue) = self.scheduler.queue_mut(d) {
                    queue.loaded(&tickets, next);
                }
            }
        }
    }

    fn ended(&mut self, start: &Start, judgement: &Judgement) {
        let (d, now) = (start.destination, self.clock.now());
        let Some(queue) = self.scheduler.queue_mut(d) else { return };
        let destination = &self.destinations[&d];
        if let Some(change) = queue.ended(start, judgement.verdict, judgement.call.as_ref(), now) {
            self.store.record(overrides::breaker_changed(destination, change, now));
        }
        if let Some(asked) = judgement.retry_after {
            if asked.clamped {
                destination.attempts.count_clamped();
                let max = humantime::format_duration(destination.retry.retry_after_max);
                tracing::warn!(destination = destination.name, %max, "Retry-After is longer than retry_after_max and is cut to it");
            }
            queue.flow_mut().retry_after(asked.until);
        }
    }

    fn apply(&mut self, event: StoreEvent) {
        let now = self.clock.now();
        match event {
            StoreEvent::Accepted { tickets, next } => self.scheduler.accepted(&tickets, next),
            StoreEvent::Redriven(tickets) => {
                for ticket in tickets {
                    for d in ticket.to.iter() {
                        self.on_queue(d, |queue| queue.redriven(&ticket, Timestamp::ZERO));
                    }
                }
            }
            StoreEvent::RetryNow(ids) => {
                for (id, order_key) in ids {
                    self.on_queue(id.destination, |queue| queue.retry_now(order_key, id.sequence));
                }
            }
            StoreEvent::Paused(d, pause) => self.on_destination(d, |queue, destination| {
                overrides::pause(queue.flow_mut(), destination, pause.as_ref(), now);
            }),
            StoreEvent::Breaker(d, fixed) => self.on_destination(d, |queue, destination| {
                overrides::set_breaker(queue.flow_mut(), destination, fixed.as_ref(), now);
            }),
            StoreEvent::Discarded(ids) => {
                for (id, order_key) in ids {
                    self.on_queue(id.destination, |queue| queue.discarded(order_key, id.sequence));
                    if let Some(destination) = self.destinations.get(&id.destination) {
                        destination.canary_results.delivery_ended(id.sequence, DeliveryEnd::Gone);
                        destination.delivery_ended(id.sequence);
                    }
                }
            }
        }
    }

    fn on_queue(&mut self, d: DestinationId, change: impl FnOnce(&mut DestinationQueue)) {
        if let Some(queue) = self.scheduler.queue_mut(d) {
            change(queue);
        }
    }

    fn on_destination(&mut self, d: DestinationId, change: impl FnOnce(&mut DestinationQueue, &Destination)) {
        if let (Some(queue), Some(destination)) = (self.scheduler.queue_mut(d), self.destinations.get(&d)) {
            change(queue, destination);
        }
    }

    fn answer(&mut self, question: Question) {
        let now = self.clock.now();
        match question {
            Question::Destinations(to) => {
                let all = self.scheduler.queues().map(|(d, queue)| (d, DestinationStatus::of(queue, now)));
                let _ = to.send(all.collect());
            }
            Question::Deliveries(of, to) => {
                let status = |(d, order_key, sequence): &(DestinationId, Digest64, Sequence)| {
                    let queue = self.scheduler.queue(*d);
                    queue.map_or(DeliveryStatus::Queued, |queue| queue.status(*order_key, *sequence, now))
                };
                let _ = to.send(of.iter().map(status).collect());
            }
            Question::Interactions(order_keys, waiting_max, to) => {
                let of = |order_key: &Digest64| {
                    let queues = self.scheduler.queues();
                    queues.map(|(d, queue)| (d, queue.interaction(*order_key, waiting_max))).collect()
                };
                let _ = to.send(order_keys.iter().map(of).collect());
            }
            Question::InFlight(to) => {
                let _ = to.send(self.scheduler.queues().flat_map(|(_, queue)| queue.events_in_flight()).collect());
            }
            Question::Reconfigure(known, to) => {
                let mut all = (*known).clone();
                for (d, destination) in self.destinations.iter() {
                    all.entry(*d).or_insert_with(|| destination.clone());
                }
                for destination in known.values() {
                    overrides::clear_start_record(destination, &self.store);
                    self.scheduler.reconfigure(destination.id, destination.policy.clone(), now);
                }
                self.destinations = Arc::new(all);
                let _ = to.send(());
            }
        }
    }

    async fn drain(&mut self, mut messages: mpsc::UnboundedReceiver<Message>) {
        let in_flight = |s: &Scheduler| s.queues().map(|(_, queue)| queue.in_flight()).sum::<usize>();
        let drain_timeout = self.drain_timeout;
        let all = async {
            while in_flight(&self.scheduler) > 0 {
                let Some(message) = messages.recv().await else { break };
                self.handle(message);
            }
        };
        if tokio::time::timeout(drain_timeout, all).await.is_err() {
            let left = in_flight(&self.scheduler);
            tracing::warn!(left, "deliveries still in flight are given up; they are made again at the next start");
        }
    }
}

fn load(store: &Store, d: DestinationId, from: Sequence) -> Result<(Vec<Ticket>, Sequence), StoreError> {
    let (mut tickets, mut next) = (Vec::new(), from);
    for _ in 0..ROWS_PER_LOAD {
        let (more, behind) = store.waiting(d, next)?;
        tickets.extend(more);
        if behind == next {
            break;
        }
        next = behind;
    }
    Ok((tickets, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_that_drains_at_its_configured_limits_is_pacing() {
        use LimitReason::{Adaptive, Configured, Ramp};
        let open = breaker::State::Open { until: Timestamp(9) };
        let slow = Some(breaker::Slow { of: 20, slow: 20 });
        for (by, limit_reason, breaker, slow, pacing) in [
            (Some(Blocker::Rate), Configured, breaker::State::Closed, None, true),
            (Some(Blocker::Rate), Ramp, breaker::State::Closed, None, true),
            (Some(Blocker::Concurrency), Configured, breaker::State::Closed, None, true),
            (Some(Blocker::Concurrency), Adaptive, breaker::State::Closed, None, false),
            (Some(Blocker::Concurrency), Ramp, breaker::State::Closed, None, false),
            (Some(Blocker::Rate), Configured, breaker::State::Closed, slow, false),
            (Some(Blocker::Breaker), Configured, open, None, false),
            (Some(Blocker::Pause), Configured, breaker::State::Closed, None, false),
            (None, Configured, breaker::State::Closed, None, false),
        ] {
            let blocked_by = by.map(|by| Blocked::until(by, None));
            let status = DestinationStatus { blocked_by, limit_reason, breaker, slow, ..DestinationStatus::default() };
            assert_eq!(status.is_pacing(), pacing, "{by:?} {limit_reason:?}");
        }
    }
}
