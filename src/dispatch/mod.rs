//! Dispatch: asks the scheduler what goes now, runs the attempts, and tells it how they ended.
//!
//! *Invariants.* One task owns the scheduler; everybody else sends it messages. It holds no policy. Nothing new is sent while the
//! store is too far behind with what was recorded of earlier attempts, so that a crash repeats a bounded number of them; nor while
//! the disk has no room for what may come of it.

mod attempt;
mod attempt_counters;
mod canary_results;
mod connections;
mod connector;
mod counted_stream;
mod credentials;
mod destination;
mod destinations;
mod exchange;
mod head;
mod last_delivered;
mod overrides;
mod pooled_connection;
mod request;
mod resolver;
mod restore;
mod send_gate;
mod tls;
mod token;

pub use canary_results::{Failed, Fate, Report};
pub use destination::{Destination, Reread};
pub use destinations::{Destinations, Known};
pub use last_delivered::{Last, LastDelivered};
pub use restore::restore;
pub use tls::{Trust, config as tls_config};

use crate::clock::Clock;
use crate::delivery::{Blocked, DeliveryId, Place, Ticket};
use crate::event::{DestinationId, Digest64, Sequence};
use crate::rules::breaker;
use crate::rules::retry_after::RetryAfter;
use crate::scheduler::{
    BlockedSummary, DeliveryStatus, DestinationQueue, Disposition, Interaction, LimitReason, Scheduler, Start, Step,
};
use crate::store::{Store, StoreEvent};
use crate::time::Timestamp;
use attempt::{AttemptResult, Context};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// So many messages are taken in before the scheduler is asked again.
const MESSAGES_MAX: usize = 256;
/// Rows of history that one load reads at most.
const ROWS_PER_LOAD: usize = 16;

/// How a line stands, for status and metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct DestinationStatus {
    pub in_flight: usize,
    pub delayed: usize,
    pub held: usize,
    pub hold_until: Timestamp,
    pub oldest: Option<Timestamp>,
    /// Most deliveries in flight, as things are.
    pub limit: usize,
    /// What makes it what it is.
    pub bound: LimitReason,
    /// Zero where it is not paused.
    pub paused_until: Timestamp,
    /// What waits behind dead letters.
    pub behind: BlockedSummary,
    pub breaker: breaker::State,
    pub breaker_since: Timestamp,
    /// Until when an operator keeps the breaker closed, where one does.
    pub kept_closed_until: Option<Timestamp>,
    /// What would hold back a delivery whose turn it is.
    pub shut: Option<Blocked>,
    /// What it takes when little is asked of it; none before its first success.
    pub usual_latency: Option<Duration>,
    /// Where most of its answers took much longer than that.
    pub slow: Option<breaker::Slow>,
}

impl DestinationStatus {
    fn of(line: &DestinationQueue, now: Timestamp) -> Self {
        let pace = line.pace();
        Self {
            in_flight: line.in_flight(),
            delayed: line.delayed(),
            held: line.held(),
            hold_until: pace.hold_until(),
            oldest: line.oldest(),
            limit: pace.limit(now),
            bound: pace.bound(now),
            paused_until: pace.paused_until(),
            behind: line.behind_dead_letters(),
            breaker: pace.breaker().stands(now),
            breaker_since: pace.breaker().since(now),
            kept_closed_until: pace.breaker().kept_closed_until(now),
            shut: line.shut(now),
            usual_latency: pace.usual_latency(),
            slow: pace.breaker().slow(now),
        }
    }
}

/// A question to the dispatcher; it answers between two steps.
#[derive(Debug)]
pub enum Question {
    Lines(oneshot::Sender<HashMap<DestinationId, DestinationStatus>>),
    /// Where deliveries of pages or the delay tree stand, in the order of the question.
    Standings(Vec<(DestinationId, Digest64, Sequence)>, oneshot::Sender<Vec<DeliveryStatus>>),
    /// How an interaction stands with each destination, with at most so many of those that wait.
    Interactions(Vec<Digest64>, usize, oneshot::Sender<Vec<Vec<(DestinationId, Interaction)>>>),
    /// The events of which a delivery is in flight.
    InFlight(oneshot::Sender<BTreeSet<Sequence>>),
    /// Not a question: from now on these are the destinations. What still waits for others is delivered as before.
    GoBy(Known, oneshot::Sender<()>),
}

pub struct Dispatcher {
    pub store: Store,
    pub clock: Clock,
    pub destinations: Known,
    pub scheduler: Scheduler,
    pub news: mpsc::UnboundedReceiver<StoreEvent>,
    pub questions: mpsc::Receiver<Question>,
    /// Taken by whoever reads the store for an attempt.
    pub reads: Arc<tokio::sync::Mutex<()>>,
    /// No attempt starts any more; those in flight may end within the time given.
    pub stop: CancellationToken,
    pub drain_timeout: Duration,
}

enum Message {
    AttemptResult(AttemptResult),
    Loaded(DestinationId, Vec<Ticket>, Sequence),
}

impl Dispatcher {
    /// Runs until stopped, and returns when no attempt is in flight, or when its time to drain is over.
    pub async fn run(mut self) {
        let (to_me, mut messages) = mpsc::unbounded_channel();
        let mut inbox = Vec::with_capacity(MESSAGES_MAX);
        // what was redriven while the delay tree was read is known from there too: told only after its delivery it would be
        // delivered again, as long as the first one is not written
        while let Ok(news) = self.news.try_recv() {
            self.learn(news);
        }
        loop {
            let behind = self.store.is_behind();
            let wake = if behind { None } else { self.start_what_can(&to_me) };
            let short = self.store.is_short_of_room();
            self.load_what_is_wanted(&to_me);
            let clock = self.clock.clone();
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                n = messages.recv_many(&mut inbox, MESSAGES_MAX) => {
                    debug_assert!(n > 0, "this task holds a sender");
                    inbox.drain(..).for_each(|message| self.hear(message));
                }
                Some(news) = self.news.recv() => {
                    self.learn(news);
                    while let Ok(news) = self.news.try_recv() {
                        self.learn(news);
                    }
                }
                Some(question) = self.questions.recv() => self.answer(question),
                () = self.store.caught_up(), if behind => {}
                () = self.store.room_looked_at(), if short => {}
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

    fn start_what_can(&mut self, to: &mpsc::UnboundedSender<Message>) -> Option<Timestamp> {
        // each attempt may end in a write
        while !self.store.is_short_of_room() {
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
        let promise = self.store.promise(id, Place::under(start.lies_under));
        let reads = self.reads.clone();
        let noted = destination.policy.pace.notes_starts();
        let context = Context { reads, store: self.store.clone(), clock: self.clock.clone(), destination };
        tokio::spawn(async move {
            let landed = if !noted || overrides::note(&context.store, &start).await {
                attempt::run(context, start).await
            } else {
                let hold = Some(RetryAfter { until: Timestamp::NEVER, cut: false });
                AttemptResult { start, landing: Disposition::Postponed, call: None, hold }
            };
            drop(promise); // what came of it is recorded
            let _ = to.send(Message::AttemptResult(landed)); // nobody listens after the drain
        });
    }

    fn load_what_is_wanted(&mut self, to: &mpsc::UnboundedSender<Message>) {
        while let Some((d, from)) = self.scheduler.wants() {
            let (store, to) = (self.store.clone(), to.clone());
            tokio::task::spawn_blocking(move || {
                let message = match load(&store, d, from) {
                    Ok((tickets, next)) => Message::Loaded(d, tickets, next),
                    Err(error) => return store.fail(&error),
                };
                let _ = to.send(message); // nobody listens after the drain
            });
        }
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::AttemptResult(landed) => {
                let (d, now) = (landed.start.destination, self.clock.now());
                let turn = self.scheduler.landed(&landed.start, landed.landing, landed.call.as_ref(), now);
                if let Some(turn) = turn {
                    self.store.record(overrides::turned(&self.destinations[&d], turn, now));
                }
                if let Some(wish) = landed.hold {
                    self.hold(d, wish);
                }
            }
            Message::Loaded(d, tickets, next) => self.scheduler.loaded(d, &tickets, next),
        }
    }

    /// Leaves a destination alone; a shorter wish changes nothing.
    fn hold(&mut self, d: DestinationId, wish: RetryAfter) {
        let destination = &self.destinations[&d];
        if wish.cut {
            destination.attempts.count_cut();
            let max = humantime::format_duration(destination.retry.retry_after_max);
            tracing::warn!(destination = destination.name, %max, "Retry-After is longer than retry_after_max and is cut to it");
        }
        self.scheduler.hold(d, wish.until);
    }

    fn learn(&mut self, news: StoreEvent) {
        match news {
            StoreEvent::Accepted { tickets, next } => self.scheduler.accepted(&tickets, next),
            StoreEvent::Redriven(tickets) => {
                for ticket in tickets {
                    ticket.to.iter().for_each(|d| self.scheduler.waits(d, &ticket, Timestamp::ZERO));
                }
            }
            StoreEvent::Hastened(ids) => {
                ids.iter().for_each(|(id, order_key)| self.scheduler.hastened(id.destination, *order_key, id.sequence));
            }
            StoreEvent::Paused(d, pause) => {
                if let Some(destination) = self.destinations.get(&d) {
                    overrides::pause(&mut self.scheduler, destination, pause.as_ref(), self.clock.now());
                }
            }
            StoreEvent::Breaker(d, fixed) => {
                if let Some(destination) = self.destinations.get(&d) {
                    overrides::fix(&mut self.scheduler, destination, fixed.as_ref(), self.clock.now());
                }
            }
            StoreEvent::Purged(ids) => {
                for (id, order_key) in ids {
                    self.scheduler.purged(id.destination, order_key, id.sequence);
                    if let Some(destination) = self.destinations.get(&id.destination) {
                        destination.trials.over(id.sequence, Fate::Gone);
                        destination.settled(id.sequence);
                    }
                }
            }
        }
    }

    fn answer(&mut self, question: Question) {
        match question {
            Question::Lines(to) => {
                let now = self.clock.now();
                let _ =
                    to.send(self.scheduler.lines().map(|(d, line)| (d, DestinationStatus::of(line, now))).collect());
            }
            Question::Standings(of, to) => {
                let now = self.clock.now();
                let standing = |(d, order_key, sequence): &(DestinationId, Digest64, Sequence)| {
                    self.scheduler
                        .line(*d)
                        .map_or(DeliveryStatus::Queued, |line| line.standing(*order_key, *sequence, now))
                };
                let _ = to.send(of.iter().map(standing).collect());
            }
            Question::Interactions(order_keys, waiting_max, to) => {
                let of = |order_key: &Digest64| {
                    self.scheduler.lines().map(|(d, line)| (d, line.interaction(*order_key, waiting_max))).collect()
                };
                let _ = to.send(order_keys.iter().map(of).collect());
            }
            Question::InFlight(to) => {
                let _ = to.send(self.scheduler.lines().flat_map(|(_, line)| line.flying()).collect());
            }
            Question::GoBy(known, to) => {
                let mut all = (*known).clone();
                for (d, destination) in self.destinations.iter() {
                    all.entry(*d).or_insert_with(|| destination.clone());
                }
                for destination in known.values() {
                    overrides::notes_starts(destination, &self.store);
                    self.scheduler.go_by(destination.id, destination.policy.clone(), self.clock.now());
                }
                self.destinations = Arc::new(all);
                let _ = to.send(());
            }
        }
    }

    async fn drain(&mut self, mut messages: mpsc::UnboundedReceiver<Message>) {
        let in_flight = |s: &Scheduler| s.lines().map(|(_, line)| line.in_flight()).sum::<usize>();
        let drain_timeout = self.drain_timeout;
        let all = async {
            while in_flight(&self.scheduler) > 0 {
                let Some(message) = messages.recv().await else { break };
                self.hear(message);
            }
        };
        if tokio::time::timeout(drain_timeout, all).await.is_err() {
            let left = in_flight(&self.scheduler);
            tracing::warn!(left, "deliveries still in flight are given up; they are made again at the next start");
        }
    }
}

fn load(store: &Store, d: DestinationId, from: Sequence) -> Result<(Vec<Ticket>, Sequence), crate::store::StoreError> {
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
