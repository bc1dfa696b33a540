//! The load generator: keep-alive connections that post the next event when the one before is answered.

use crate::body::{Requests, run_name};
use anyhow::{Context, Result, bail};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
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
pub(crate) struct Course {
    address: String,
    path: String,
    run: String,
    begin: Instant,
    until: Until,
    rate: f64,
    next: AtomicU64,
}

impl Course {
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

/// One keep-alive connection to an intake.
pub(crate) struct Connection {
    stream: TcpStream,
    requests: Requests,
    out: String,
    answer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(to: &str, run: &str) -> Result<Self> {
        let (address, path) = split(to)?;
        let stream = TcpStream::connect(&address).await.with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        let requests = Requests::new(run.to_owned(), address, path);
        Ok(Self { stream, requests, out: String::new(), answer: vec![0; 16 * 1024] })
    }

    /// Posts event `n` -> the status of the answer.
    pub(crate) async fn post(&mut self, n: u64) -> Result<u16> {
        self.requests.write(n, &mut self.out);
        self.stream.write_all(self.out.as_bytes()).await?;
        let mut filled = 0;
        loop {
            let got = self.stream.read(&mut self.answer[filled..]).await?;
            if got == 0 {
                bail!("the connection was closed before the answer");
            }
            filled += got;
            if let Some(status) = complete(&self.answer[..filled])? {
                return Ok(status);
            }
        }
    }
}

/// The status of an answer, once its last byte is there.
fn complete(answer: &[u8]) -> Result<Option<u16>> {
    let Some(head) = answer.windows(4).position(|w| w == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&answer[..head])?;
    let status = text.split(' ').nth(1).context("no status in the answer")?.parse()?;
    let length = text.lines().filter_map(|line| line.split_once(':'));
    let length = length.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: usize = length.map(|(_, value)| value.trim()).next().unwrap_or("0").parse()?;
    Ok((answer.len() >= head + 4 + length).then_some(status))
}

/// `http://host:port/path` -> (`host:port`, `/path`).
fn split(url: &str) -> Result<(String, String)> {
    let rest = url.strip_prefix("http://").context("the URL begins with http://")?;
    let (address, path) = rest.split_once('/').unwrap_or((rest, ""));
    Ok((address.to_owned(), format!("/{path}")))
}

/// Posts on `connections` connections at once; any answer but 202 ends the run.
pub(crate) async fn post(to: &str, connections: usize, until: Until, rate: f64) -> Result<Seen> {
    let (address, path) = split(to)?;
    let course =
        Arc::new(Course { address, path, run: run_name(), begin: Instant::now(), until, rate, next: 0.into() });
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

async fn post_on_one(course: Arc<Course>) -> Result<Vec<u32>> {
    let to = format!("http://{}{}", course.address, course.path);
    let mut connection = Connection::open(&to, &course.run).await?;
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
    let seen = post(&arguments.to, arguments.connections, Until::Events(arguments.events), arguments.rate).await?;
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
