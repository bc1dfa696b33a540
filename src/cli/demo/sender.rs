//! The demo's sender: several conversations at a time, each in its order; some bodies twice.

use super::ledger::Ledger;
use super::traffic::{Conversation, Sending, Traffic};
use crate::cli::send::intake::{Answer, Intake};
use crate::clock::Clock;
use crate::time::Timestamp;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// Conversations under way at a time.
const AT_A_TIME: usize = 16;
/// How long the sending should take, so that there is something to look at.
const SPREAD_OVER: Duration = Duration::from_secs(10);
/// No slower than this, where there are few events.
const EVENTS_PER_SECOND_MIN: f64 = 100.0;
/// How often a body is offered before the sender gives up on it.
const TRIES_MAX: u32 = 20;

/// Sends all of the traffic once, and some of it twice.
pub struct Sender {
    traffic: Arc<Traffic>,
    intake: Intake,
    ledger: Arc<Ledger>,
    clock: Clock,
    started: Timestamp,
    interval: Duration,
    next_conversation: AtomicUsize,
    sent: AtomicU64,
}

impl Sender {
    /// A sender that begins now.
    pub fn new(traffic: Arc<Traffic>, events: u64, intake: Intake, ledger: Arc<Ledger>, clock: Clock) -> Self {
        let rate = (events as f64 / SPREAD_OVER.as_secs_f64()).max(EVENTS_PER_SECOND_MIN);
        Self {
            traffic,
            intake,
            ledger,
            started: clock.now(),
            clock,
            interval: Duration::from_secs_f64(1.0 / rate),
            next_conversation: AtomicUsize::new(0),
            sent: AtomicU64::new(0),
        }
    }

    /// Sends everything; returns when each body has its answer.
    pub async fn run(self) {
        let sender = Arc::new(self);
        let mut workers = JoinSet::new();
        for _ in 0..AT_A_TIME {
            let sender = sender.clone();
            workers.spawn(async move {
                loop {
                    let next = sender.next_conversation.fetch_add(1, Ordering::Relaxed);
                    let Some(conversation) = sender.traffic.conversations.get(next) else { return };
                    sender.conversation(conversation).await;
                }
            });
        }
        while workers.join_next().await.is_some() {}
    }

    /// An event is sent when the one before it has been answered: that answer is what gives the order.
    async fn conversation(&self, conversation: &Conversation) {
        for event in &conversation.events {
            let n = self.sent.fetch_add(1, Ordering::Relaxed);
            let turn = self.interval.mul_f64(n as f64);
            self.clock.sleep_until(self.started.after(turn)).await;
            match event.sending {
                Sending::TwiceAtOnce => {
                    tokio::join!(self.post(&event.body), self.post(&event.body));
                }
                Sending::Once | Sending::AgainLater => self.post(&event.body).await,
            }
        }
        for event in conversation.events.iter().filter(|e| e.sending == Sending::AgainLater) {
            self.post(&event.body).await;
        }
    }

    /// Posts a body until it is taken or refused, as a sender would.
    async fn post(&self, body: &Bytes) {
        for _ in 0..TRIES_MAX {
            let wait = match self.intake.post(body.clone(), self.clock.wall()).await {
                Ok(Answer::Taken(taken)) if taken.accepted > 0 => return self.ledger.accepted(body, taken.id),
                Ok(Answer::Taken(_)) => return self.ledger.duplicate(),
                Ok(Answer::Refused(_)) => break,
                Ok(Answer::Busy { after, .. }) => after,
                Err(_) => Duration::from_millis(100),
            };
            self.clock.sleep_until(self.clock.now().after(wait)).await;
        }
        self.ledger.turned_away();
    }
}
