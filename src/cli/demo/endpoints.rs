//! The demo's sender and its destination.
//!
//! The sender sends several conversations in parallel, each in its order, and some bodies twice. The receiver answers most
//! events with 200, and fails for some in the ways real destinations do.

use super::tracker::{Key, Tracker};
use super::traffic::{Conversation, Sending, Traffic};
use super::traffic::{Purpose, Random};
use crate::cli::receive::serve;
use crate::cli::send::client::{Answer, Intake};
use crate::clock::Clock;
use crate::time::Timestamp;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Conversations that are sent in parallel.
const AT_A_TIME: usize = 16;
/// How long sending takes, so that a person can watch it.
const SPREAD_OVER: Duration = Duration::from_secs(10);
/// The lowest rate, for runs with few events.
const EVENTS_PER_SECOND_MIN: f64 = 100.0;
/// Attempts to send one body.
const ATTEMPTS_MAX: u32 = 20;

/// Sends all traffic once, and some bodies twice.
pub struct Sender {
    traffic: Arc<Traffic>,
    intake: Intake,
    tracker: Arc<Tracker>,
    clock: Clock,
    started: Timestamp,
    interval: Duration,
    next_conversation: AtomicUsize,
    sent: AtomicU64,
}

impl Sender {
    /// A sender that starts now.
    pub fn new(traffic: Arc<Traffic>, events: u64, intake: Intake, tracker: Arc<Tracker>, clock: Clock) -> Self {
        let rate = (events as f64 / SPREAD_OVER.as_secs_f64()).max(EVENTS_PER_SECOND_MIN);
        Self {
            traffic,
            intake,
            tracker,
            started: clock.now(),
            clock,
            interval: Duration::from_secs_f64(1.0 / rate),
            next_conversation: AtomicUsize::new(0),
            sent: AtomicU64::new(0),
        }
    }

    /// Sends everything; returns when each body has its response.
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

    /// Sends each event after the response to the one before, which defines their order.
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

    /// Posts a body until it is accepted or refused.
    async fn post(&self, body: &Bytes) {
        for _ in 0..ATTEMPTS_MAX {
            let wait = match self.intake.post(body.clone(), self.clock.wall()).await {
                Ok(Answer::Taken(taken)) if taken.accepted > 0 => return self.tracker.accepted(body, taken.id),
                Ok(Answer::Taken(_)) => return self.tracker.duplicate(),
                Ok(Answer::Refused(_)) => break,
                Ok(Answer::Busy { after, .. }) => after,
                Err(_) => Duration::from_millis(100),
            };
            self.clock.sleep_until(self.clock.now().after(wait)).await;
        }
        self.tracker.refused_by_intake();
    }
}

/// What the receiver does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// 200 after a few milliseconds.
    Accept,
    /// 200 after a long delay.
    AcceptSlowly,
    /// 503.
    Fail,
    /// 429 with `Retry-After: 1`.
    Busy,
    /// Closes the connection without a response.
    Drop,
    /// 422: the receiver never accepts this event.
    Refuse,
}

/// A server on a free loopback port.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    script: Arc<Script>,
}

#[derive(Debug)]
struct Script {
    random: Random,
    clock: Clock,
    tracker: Arc<Tracker>,
    poison: Bytes,
    /// Requests so far.
    requests: AtomicU64,
    /// One in this many requests gets 429.
    busy_every: u64,
    repaired: AtomicBool,
}

/// How many 429 responses a run has, independent of the number of events.
const BUSY_TIMES: u64 = 3;

impl Receiver {
    /// Starts the server; it runs until the runtime ends.
    pub async fn start(
        random: Random,
        clock: Clock,
        tracker: Arc<Tracker>,
        poison: Bytes,
        events: u64,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let script = Arc::new(Script {
            random,
            clock,
            tracker,
            poison,
            requests: AtomicU64::new(0),
            busy_every: (events / (BUSY_TIMES + 1)).max(2),
            repaired: AtomicBool::new(false),
        });
        let answering = script.clone();
        let service = service_fn(move |request| answer(answering.clone(), request));
        tokio::spawn(serve(listener, service, CancellationToken::new()));
        Ok(Self { address, script })
    }

    /// The URL for deliveries.
    pub fn url(&self) -> String {
        format!("http://{}/crm", self.address)
    }

    /// From now on answers every request with 200 at once.
    pub fn repair(&self) {
        self.script.repaired.store(true, Ordering::Relaxed);
    }
}

async fn answer(script: Arc<Script>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, anyhow::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    let Some((key, attempt)) = script.tracker.arrived(&body) else {
        return Ok(reply(StatusCode::OK, "not an event of this demo"));
    };
    let reaction = script.reaction(&body, key, attempt);
    let number = number(key, attempt);
    let latency = match reaction {
        Reaction::AcceptSlowly => 250 + script.random.below(Purpose::Latency, number, 600),
        _ => 1 + script.random.below(Purpose::Latency, number, 8),
    };
    script.clock.sleep_until(script.clock.now().after(Duration::from_millis(latency))).await;
    match reaction {
        Reaction::Accept | Reaction::AcceptSlowly => {
            script.tracker.delivered(key);
            Ok(reply(StatusCode::OK, "{\"status\":\"ok\"}"))
        }
        Reaction::Fail => Ok(reply(StatusCode::SERVICE_UNAVAILABLE, "the CRM is not available")),
        Reaction::Busy => {
            let mut busy = reply(StatusCode::TOO_MANY_REQUESTS, "slow down");
            busy.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
            Ok(busy)
        }
        Reaction::Refuse => {
            script.tracker.refused(key);
            Ok(reply(StatusCode::UNPROCESSABLE_ENTITY, "{\"error\":\"no such contact; this event cannot be stored\"}"))
        }
        Reaction::Drop => Err(anyhow::anyhow!("the script drops this connection")),
    }
}

impl Script {
    fn reaction(&self, body: &Bytes, key: Key, attempt: u32) -> Reaction {
        let request = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        if self.repaired.load(Ordering::Relaxed) {
            Reaction::Accept
        } else if *body == self.poison {
            Reaction::Refuse
        } else if request.is_multiple_of(self.busy_every) && request / self.busy_every <= BUSY_TIMES {
            Reaction::Busy
        } else {
            by_chance(self.random, key, attempt)
        }
    }
}

/// The reaction to an attempt if no other rule decides.
fn by_chance(random: Random, key: Key, attempt: u32) -> Reaction {
    match random.below(Purpose::Fault, number(key, attempt), 1000) {
        0..45 => Reaction::Fail,
        45..60 => Reaction::Drop,
        60..80 => Reaction::AcceptSlowly,
        _ => Reaction::Accept,
    }
}

/// A distinct number for each attempt of each event.
fn number(key: Key, attempt: u32) -> u64 {
    (key.conversation as u64) << 24 | (key.position as u64) << 8 | u64::from(attempt & 0xFF)
}

fn reply(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_repeat_with_the_seed_and_are_few() {
        let reactions = |seed: u64| -> Vec<Reaction> {
            let key = |n: usize| Key { conversation: n / 10, position: n % 10 };
            (0..5000).map(|n| by_chance(Random::new(seed), key(n), 1)).collect()
        };
        assert_eq!(reactions(1), reactions(1));
        assert_ne!(reactions(1), reactions(2));
        for (reaction, least, most) in
            [(Reaction::Fail, 150, 300), (Reaction::Drop, 40, 120), (Reaction::AcceptSlowly, 60, 150)]
        {
            let n = reactions(1).iter().filter(|p| **p == reaction).count();
            assert!((least..most).contains(&n), "{reaction:?}: {n}");
        }
    }
}
