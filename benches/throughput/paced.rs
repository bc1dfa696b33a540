//! Sender and destination in one process: events at a steady rate, and a destination that takes as long as it is told.
//!
//! A line on its input is the time that each answer takes from then on, in milliseconds; the end of its input ends the
//! posting, and the destination goes on. An acknowledgement is measured from the moment at which its event was due, so
//! that a sender which had to wait for an answer does not hide how long the others would have waited.

use crate::body::INTERACTIONS;
use crate::connection::{Client, Connection};
use crate::server;
use anyhow::Result;
use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

#[derive(clap::Args, Clone)]
pub(crate) struct Arguments {
    /// The intake: http://HOST:PORT/PATH.
    #[arg(long)]
    to: String,
    /// Where the daemon delivers to.
    #[arg(long)]
    listen: SocketAddr,
    /// Events per second.
    #[arg(long)]
    rate: f64,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// How long an answer takes at first.
    #[arg(long, default_value_t = 0)]
    latency_ms: u64,
    /// Names the run: the ids of its events follow from it.
    #[arg(long)]
    seed: u64,
}

/// A highest number of each interaction is kept in so many places.
const PLACES: usize = INTERACTIONS as usize;

struct Paced {
    run: String,
    begin: Instant,
    rate: f64,
    over: AtomicBool,
    next: AtomicU64,
    acknowledged: AtomicU64,
    refused: AtomicU64,
    latency_ms: AtomicU64,
    answered: AtomicU64,
    under_way: AtomicU64,
    /// One more than the number of the last event of each interaction that came; zero where none has come.
    latest: Vec<AtomicU64>,
    backwards: AtomicU64,
    /// Of the acknowledgements since they were last told, in microseconds.
    latencies_us: Mutex<Vec<u32>>,
}

impl Paced {
    fn new(arguments: &Arguments) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            run: format!("seed{}", arguments.seed),
            begin: Instant::now(),
            rate: arguments.rate,
            over: AtomicBool::new(false),
            next: zero(),
            acknowledged: zero(),
            refused: zero(),
            latency_ms: AtomicU64::new(arguments.latency_ms),
            answered: zero(),
            under_way: zero(),
            latest: (0..PLACES).map(|_| zero()).collect(),
            backwards: zero(),
            latencies_us: Mutex::default(),
        }
    }

    async fn receive(&self, body: &[u8]) {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        if let Some(n) = number(body, &self.run) {
            let before = self.latest[(n % INTERACTIONS) as usize].fetch_max(n + 1, Ordering::Relaxed);
            self.backwards.fetch_add(u64::from(before > n + 1), Ordering::Relaxed);
        }
        let latency = Duration::from_millis(self.latency_ms.load(Ordering::Relaxed));
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// Does what its input says, until that ends. Blocks.
    fn listen(&self) {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if let Ok(latency_ms) = line.trim().parse() {
                self.latency_ms.store(latency_ms, Ordering::Relaxed);
            }
        }
        self.over.store(true, Ordering::Relaxed);
    }

    fn acknowledged(&self, due: Instant) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        let latency_us = u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX);
        self.latencies_us.lock().unwrap_or_else(PoisonError::into_inner).push(latency_us);
    }

    /// One line for the time since the last.
    fn say(&self) {
        let mut us = std::mem::take(&mut *self.latencies_us.lock().unwrap_or_else(PoisonError::into_inner));
        us.sort_unstable();
        let quantile = |share: f64| us.get((us.len().saturating_sub(1) as f64 * share).round() as usize);
        let number = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let line = serde_json::json!({
            "seconds": self.begin.elapsed().as_secs_f64(),
            "acknowledged": number(&self.acknowledged),
            "refused": number(&self.refused),
            "answered": number(&self.answered),
            "under_way": number(&self.under_way),
            "backwards": number(&self.backwards),
            "p50_us": quantile(0.5),
            "p99_us": quantile(0.99),
        });
        println!("{line}");
    }
}

/// The number of an event of this run, from its id.
fn number(body: &[u8], run: &str) -> Option<u64> {
    let text = std::str::from_utf8(body).ok()?;
    let (_, id) = text.split_once(&format!("\"id\":\"{run}-"))?;
    id.split_once('"')?.0.parse().ok()
}

async fn post(paced: Arc<Paced>, to: String) -> Result<()> {
    let mut connection = Connection::open(Client::Sockets, &to, &paced.run).await?;
    while !paced.over.load(Ordering::Relaxed) {
        let n = paced.next.fetch_add(1, Ordering::Relaxed);
        let due = paced.begin + Duration::from_secs_f64(n as f64 / paced.rate);
        tokio::time::sleep_until(due.into()).await;
        if connection.post(n).await? == 202 {
            paced.acknowledged(due);
        } else {
            paced.refused.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Says every second how it goes, as JSON, until it is killed.
pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let paced = Arc::new(Paced::new(&arguments));
    let received = paced.clone();
    let receive = move |body: Bytes| {
        let paced = received.clone();
        async move { paced.receive(&body).await }
    };
    tokio::spawn(server::serve(TcpListener::bind(arguments.listen).await?, 200, b"", receive));
    let told = paced.clone();
    std::thread::spawn(move || told.listen());
    let mut tasks = JoinSet::new();
    for _ in 0..arguments.connections {
        tasks.spawn(post(paced.clone(), arguments.to.clone()));
    }
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        paced.say();
        while let Some(done) = tasks.try_join_next() {
            done??;
        }
    }
}
