//! The demo's destination: it answers most events, and treats some as real ones do on a bad day.

use super::dice::{Dice, Throw};
use super::ledger::{Key, Ledger};
use crate::cli::receive::serve;
use crate::clock::Clock;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What the receiver does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Play {
    /// 200 after a few milliseconds.
    Take,
    /// 200 after a long while.
    TakeSlowly,
    /// 503.
    Fail,
    /// 429 with `Retry-After: 1`.
    Busy,
    /// The connection is closed without an answer.
    Drop,
    /// 422: this event will never be taken.
    Refuse,
}

/// A server on a free port of the loopback.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    script: Arc<Script>,
}

#[derive(Debug)]
struct Script {
    dice: Dice,
    clock: Clock,
    ledger: Arc<Ledger>,
    poison: Bytes,
    /// Requests so far.
    requests: AtomicU64,
    /// One request in so many is answered with 429.
    busy_every: u64,
    repaired: AtomicBool,
}

/// How often the receiver is too busy, whatever the number of events.
const BUSY_TIMES: u64 = 3;

impl Receiver {
    /// Starts it; it serves until the runtime ends.
    pub async fn start(
        dice: Dice,
        clock: Clock,
        ledger: Arc<Ledger>,
        poison: Bytes,
        events: u64,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let script = Arc::new(Script {
            dice,
            clock,
            ledger,
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

    /// Where events are delivered to.
    pub fn url(&self) -> String {
        format!("http://{}/crm", self.address)
    }

    /// From now on every request is taken at once.
    pub fn repair(&self) {
        self.script.repaired.store(true, Ordering::Relaxed);
    }
}

async fn answer(script: Arc<Script>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, anyhow::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    let Some((key, attempt)) = script.ledger.arrived(&body) else {
        return Ok(reply(StatusCode::OK, "unknown here, but welcome"));
    };
    let play = script.play(&body, key, attempt);
    let number = number(key, attempt);
    let latency = match play {
        Play::TakeSlowly => 250 + script.dice.throw(Throw::Latency, number, 600),
        _ => 1 + script.dice.throw(Throw::Latency, number, 8),
    };
    script.clock.sleep_until(script.clock.now().after(Duration::from_millis(latency))).await;
    match play {
        Play::Take | Play::TakeSlowly => {
            script.ledger.delivered(key);
            Ok(reply(StatusCode::OK, "{\"status\":\"ok\"}"))
        }
        Play::Fail => Ok(reply(StatusCode::SERVICE_UNAVAILABLE, "the CRM is having a moment")),
        Play::Busy => {
            let mut busy = reply(StatusCode::TOO_MANY_REQUESTS, "slow down");
            busy.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
            Ok(busy)
        }
        Play::Refuse => {
            script.ledger.refused(key);
            Ok(reply(StatusCode::UNPROCESSABLE_ENTITY, "{\"error\":\"no such contact; this event cannot be stored\"}"))
        }
        Play::Drop => Err(anyhow::anyhow!("the connection is dropped, as the script says")),
    }
}

impl Script {
    fn play(&self, body: &Bytes, key: Key, attempt: u32) -> Play {
        let request = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        if self.repaired.load(Ordering::Relaxed) {
            Play::Take
        } else if *body == self.poison {
            Play::Refuse
        } else if request.is_multiple_of(self.busy_every) && request / self.busy_every <= BUSY_TIMES {
            Play::Busy
        } else {
            by_chance(self.dice, key, attempt)
        }
    }
}

/// How an attempt goes where nothing else decides.
fn by_chance(dice: Dice, key: Key, attempt: u32) -> Play {
    match dice.throw(Throw::Fault, number(key, attempt), 1000) {
        0..45 => Play::Fail,
        45..60 => Play::Drop,
        60..80 => Play::TakeSlowly,
        _ => Play::Take,
    }
}

/// Names an attempt of an event among all.
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
        let plays = |seed: u64| -> Vec<Play> {
            let key = |n: usize| Key { conversation: n / 10, position: n % 10 };
            (0..5000).map(|n| by_chance(Dice::new(seed), key(n), 1)).collect()
        };
        assert_eq!(plays(1), plays(1));
        assert_ne!(plays(1), plays(2));
        for (play, least, most) in [(Play::Fail, 150, 300), (Play::Drop, 40, 120), (Play::TakeSlowly, 60, 150)] {
            let n = plays(1).iter().filter(|p| **p == play).count();
            assert!((least..most).contains(&n), "{play:?}: {n}");
        }
    }
}
