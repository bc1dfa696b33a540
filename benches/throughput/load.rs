//! The load generator: keep-alive connections that post the next event when the one before is answered.

use crate::body::run_name;
use crate::connection::{Client, Connection, split};
use anyhow::{Result, bail};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

#[derive(clap::Args, Clone)]
pub(crate) struct Arguments {
    /// Where to: http://HOST:PORT/PATH.
    #[arg(long)]
    pub(crate) to: String,
    #[arg(long)]
    pub(crate) events: u64,
    #[arg(long, default_value_t = 128)]
    pub(crate) connections: usize,
    /// Events per second in all; 0: as fast as they are answered.
    #[arg(long, default_value_t = 0.0)]
    pub(crate) rate: f64,
    #[arg(long, value_enum, default_value_t = Client::Sockets)]
    pub(crate) client: Client,
}

/// When a run of the load ends.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    Events(u64),
    Elapsed(Duration),
}

/// What one run of the load saw.
pub(crate) struct Seen {
    pub(crate) acknowledged: u64,
    pub(crate) elapsed: Duration,
    latencies_us: Vec<u32>,
}

impl Seen {
    pub(crate) fn per_second(&self) -> f64 {
        self.acknowledged as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency that `share` of the answers stayed within.
    pub(crate) fn quantile_us(&self, share: f64) -> f64 {
        let last = self.latencies_us.len().saturating_sub(1);
        self.latencies_us.get((last as f64 * share).round() as usize).map_or(0.0, |us| f64::from(*us))
    }
}

/// What the connections of one run have in common.
pub(crate) struct LateAction {
    address: String,
    path: String,
    run: String,
    begin: Instant,
    until: Until,
    rate: f64,
    client: Client,
    next: AtomicU64,
}

impl LateAction {
    /// The number of the next event, or none when the run is over; waits where a rate asks for it.
    async fn next(&self) -> Option<u64> {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let over = match self.until {
            Until::Events(events) => n >= events,
            Until::Elapsed(length) => self.begin.elapsed() >= length,
        };
        if over {
            return None;
        }
        if self.rate > 0.0 {
            let due = self.begin + Duration::from_secs_f64(n as f64 / self.rate);
            tokio::time::sleep_until(due.into()).await;
        }
        Some(n)
    }
}

/// Posts on `connections` connections at once; any answer but 202 ends the run.
pub(crate) async fn post(client: Client, to: &str, connections: usize, until: Until, rate: f64) -> Result<Seen> {
    let (address, path) = split(to)?;
    let course = Arc::new(LateAction {
        address,
        path,
        run: run_name(),
        begin: Instant::now(),
        until,
        rate,
        client,
        next: 0.into(),
    });
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        tasks.spawn(post_on_one(course.clone()));
    }
    let mut latencies_us = Vec::new();
    while let Some(done) = tasks.join_next().await {
        latencies_us.append(&mut done??);
    }
    let elapsed = course.begin.elapsed();
    latencies_us.sort_unstable();
    Ok(Seen { acknowledged: latencies_us.len() as u64, elapsed, latencies_us })
}

async fn post_on_one(course: Arc<LateAction>) -> Result<Vec<u32>> {
    let to = format!("http://{}{}", course.address, course.path);
    let mut connection = Connection::open(course.client, &to, &course.run).await?;
    let mut latencies_us = Vec::new();
    while let Some(n) = course.next().await {
        let begin = Instant::now();
        let status = connection.post(n).await?;
        if status != 202 {
            bail!("event {n} was answered {status}");
        }
        latencies_us.push(u32::try_from(begin.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    Ok(latencies_us)
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let seen =
        post(arguments.client, &arguments.to, arguments.connections, Until::Events(arguments.events), arguments.rate)
            .await?;
    let line = serde_json::json!({
        "acknowledged": seen.acknowledged,
        "seconds": seen.elapsed.as_secs_f64(),
        "per_second": seen.per_second().round(),
        "p50_us": seen.quantile_us(0.5),
        "p99_us": seen.quantile_us(0.99),
    });
    println!("{line}");
    Ok(())
}
