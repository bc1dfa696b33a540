//! Sender and destination in one process, so that a fixed number of events waits in the daemon between them.
//!
//! The senders pause while more than that wait; the destination holds its answers while fewer do. When all are
//! posted, it lets everything through.

use crate::body::run_name;
use crate::connection::{Client, Connection};
use crate::server;
use anyhow::{Result, bail};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
    #[arg(long)]
    events: u64,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Events that wait in the daemon.
    #[arg(long, default_value_t = 5_000)]
    waiting: u64,
}

struct Flow {
    events: u64,
    waiting: u64,
    next: AtomicU64,
    acknowledged: AtomicU64,
    received: AtomicU64,
}

impl Flow {
    fn in_between(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed).saturating_sub(self.received.load(Ordering::Relaxed))
    }

    fn is_posted(&self) -> bool {
        self.acknowledged.load(Ordering::Relaxed) >= self.events
    }

    /// Waits until there is room for one more; the slack keeps both sides moving.
    async fn room(&self) {
        while self.in_between() > self.waiting + self.waiting / 10 + 128 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// One event came: waits until enough wait behind it.
    async fn receive(&self) {
        while self.in_between() < self.waiting && !self.is_posted() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.received.fetch_add(1, Ordering::Relaxed);
    }
}

async fn post(flow: Arc<Flow>, to: String, run: String) -> Result<()> {
    let mut connection = Connection::open(Client::Sockets, &to, &run).await?;
    loop {
        let n = flow.next.fetch_add(1, Ordering::Relaxed);
        if n >= flow.events {
            return Ok(());
        }
        flow.room().await;
        let status = connection.post(n).await?;
        if status != 202 {
            bail!("event {n} was answered {status}");
        }
        flow.acknowledged.fetch_add(1, Ordering::Relaxed);
    }
}

fn say(flow: &Flow, begin: Instant) {
    let (acknowledged, received) = (flow.acknowledged.load(Ordering::Relaxed), flow.received.load(Ordering::Relaxed));
    let seconds = begin.elapsed().as_secs_f64();
    println!("{}", serde_json::json!({ "acknowledged": acknowledged, "received": received, "seconds": seconds }));
}

/// Ends when every event came back; prints its progress every second, as JSON.
pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let Arguments { to, listen, events, connections, waiting } = arguments;
    let zero = || AtomicU64::new(0);
    let flow = Arc::new(Flow { events, waiting, next: zero(), acknowledged: zero(), received: zero() });
    let (begin, run) = (Instant::now(), run_name());
    let received = flow.clone();
    let receive = move |_| {
        let flow = received.clone();
        async move { flow.receive().await }
    };
    tokio::spawn(server::serve(TcpListener::bind(listen).await?, 200, b"", receive));
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        tasks.spawn(post(flow.clone(), to.clone(), run.clone()));
    }
    while flow.received.load(Ordering::Relaxed) < events {
        tokio::time::sleep(Duration::from_secs(1)).await;
        say(&flow, begin);
        while let Some(done) = tasks.try_join_next() {
            done??;
        }
    }
    Ok(())
}
