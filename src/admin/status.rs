//! `/v1/status` and `/v1/destinations`: the numbers, all taken at one moment.

use super::answers::Page;
use super::audit_log::OutageItem;
use super::breaker::BreakerItem;
use super::certificates::CertificateItem;
use super::disk::Disk;
use super::explain::{self, Held};
use super::snapshot::Snapshot;
use super::sources::{self, SourceItem};
use super::{Admin, Failure, Name, Shared};
use crate::delivery::{Blocked, Blocker};
use crate::dispatch::{Destination, DestinationStatus};
use crate::intake::admission::State as IntakeOverride;
use crate::maintenance::Rates;
use crate::rules::breaker;
use crate::scheduler::BlockedSummary;
use crate::store::HistoryUsage;
use crate::time::{Timestamp, millis};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use std::sync::atomic::Ordering;
use utoipa::ToSchema;

/// How the daemon is doing.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Status {
    version: &'static str,
    /// `starting`, `running` or `draining`.
    state: &'static str,
    #[schema(format = DateTime)]
    started_at: String,
    /// What stands between an acknowledged event and a power cut: `inode-sync`, `fdatasync` or `unsafe`.
    durability: &'static str,
    intake: IntakeState,
    /// The last time in which events could not be accepted.
    last_outage: Option<OutageItem>,
    counters: Counters,
    queue: Queue,
    dlq: DeadLetters,
    disk: Disk,
    history: HistoryItem,
    certificates: Vec<CertificateItem>,
    rates: RatesItem,
    forecast: Forecast,
    destinations: Vec<DestinationItem>,
    sources: Vec<SourceItem>,
}

#[derive(Debug, Serialize, ToSchema)]
struct IntakeState {
    open: bool,
    reason: Option<&'static str>,
}

/// Since the store was made.
#[derive(Debug, Serialize, ToSchema)]
struct Counters {
    accepted: u64,
    duplicates: u64,
    conflicts: u64,
    ignored: u64,
    delivered: u64,
    dead_lettered: u64,
    discarded: u64,
    redriven: u64,
    damaged: u64,
}

/// Deliveries that wait.
#[derive(Debug, Serialize, ToSchema)]
struct Queue {
    depth: u64,
    bytes: u64,
    oldest_age_ms: u64,
    in_flight: usize,
    delayed: usize,
    blocked: usize,
}

#[derive(Debug, Serialize, ToSchema)]
struct DeadLetters {
    depth: u64,
    bytes: u64,
}

/// What is remembered of events, to recognise duplicates and late ones: on disk, and the ids of senders in memory.
#[derive(Debug, Serialize, ToSchema)]
struct HistoryItem {
    events: u64,
    bytes: u64,
    memory_bytes: u64,
    /// Forgotten before their time since the start, because `history.max_bytes` or `history.max_memory` is reached.
    forgotten_early: u64,
}

impl From<HistoryUsage> for HistoryItem {
    fn from(of: HistoryUsage) -> Self {
        Self { events: of.events, bytes: of.bytes, memory_bytes: of.memory_bytes, forgotten_early: of.forgotten_early }
    }
}

/// Per second, over the last minute.
#[derive(Debug, Serialize, ToSchema)]
struct RatesItem {
    accepted_per_s: f64,
    delivered_per_s: f64,
    dead_per_s: f64,
}

impl From<Rates> for RatesItem {
    fn from(rates: Rates) -> Self {
        let tenths = |r: f64| (r * 10.0).round() / 10.0;
        Self {
            accepted_per_s: tenths(rates.accepted),
            delivered_per_s: tenths(rates.delivered),
            dead_per_s: tenths(rates.dead),
        }
    }
}

/// What follows at the pace of now.
#[derive(Debug, Serialize, ToSchema)]
struct Forecast {
    /// Null where the queue does not shrink.
    drained_in_s: Option<u64>,
    /// When the free bytes of the disk come down to `intake.disk_reserve`, whoever takes them; then intake closes. Null
    /// where they do not fall steadily, or where that is further away than the trend can tell: two days at most.
    disk_full_in_s: Option<u64>,
}

/// How a destination stands.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DestinationItem {
    name: String,
    /// Without the values of its query; of one that is kept as a secret only scheme, host and port. Null where its events are
    /// held.
    url: Option<String>,
    paused: bool,
    breaker: BreakerItem,
    concurrency: Concurrency,
    latency: Latency,
    /// Every gate that holds everything that waits for it, what lasts longest first.
    blocked_by: Vec<Held>,
    queue: DestinationQueue,
    rates: RatesItem,
    counters: DestinationCounters,
}

#[derive(Debug, Serialize, ToSchema)]
struct Concurrency {
    /// Most requests in flight, as latency and errors are now.
    limit: usize,
    max: usize,
    in_flight: usize,
}

/// How long its answers take.
#[derive(Debug, Serialize, ToSchema)]
struct Latency {
    /// When little is asked of it; null before its first success.
    usual_ms: Option<u64>,
    /// Where at least `breaker.slow_ratio` of the requests of the window took `breaker.slow_call` longer than that: how many
    /// of how many. They succeed, so nothing is held back but by the adaptive limit.
    slow: Option<SlowCalls>,
}

#[derive(Debug, Serialize, ToSchema)]
struct SlowCalls {
    slow: u32,
    of: u32,
}

#[derive(Debug, Serialize, ToSchema)]
struct DestinationQueue {
    depth: u64,
    oldest_age_ms: u64,
    delayed: usize,
    blocked: usize,
    behind_dead_letters: BehindDeadLetters,
}

/// What waits for what becomes of dead letters, as far as it has been read ahead; only where `ordering.on_dead_letter` is
/// `hold`.
#[derive(Debug, Serialize, ToSchema)]
struct BehindDeadLetters {
    interactions: usize,
    deliveries: usize,
    oldest_age_ms: u64,
}

impl BehindDeadLetters {
    fn of(behind: BlockedSummary, now: Timestamp) -> Self {
        Self {
            interactions: behind.interactions,
            deliveries: behind.deliveries,
            oldest_age_ms: behind.oldest.map_or(0, |at| millis(now.since(at))),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
struct DestinationCounters {
    accepted: u64,
    delivered: u64,
    dead: u64,
    discarded: u64,
}

/// The states of the daemon.
pub(super) const STATES: [&str; 3] = ["starting", "running", "draining"];

impl Admin {
    pub(super) fn state(&self, door: IntakeOverride) -> &'static str {
        let [starting, running, draining] = STATES;
        match door {
            IntakeOverride::Draining => draining,
            _ if !self.ready.load(Ordering::Relaxed) => starting,
            _ => running,
        }
    }
}

pub(super) fn is_paused(line: &DestinationStatus) -> bool {
    matches!(line.blocked_by, Some(Blocked { by: Blocker::Pause, .. }))
}

/// Everything at a glance
#[utoipa::path(get, path = "/v1/status", tag = "status", responses((status = 200, body = Status), Failure))]
pub(super) async fn status(State(admin): Shared) -> Result<Json<Status>, Failure> {
    let s = Snapshot::take(&admin).await?;
    let totals = &s.totals;
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        state: admin.state(s.door),
        started_at: admin.started_at.to_string(),
        durability: admin.store.durability().word(),
        last_outage: admin.last_outage().await.map(OutageItem::of),
        intake: IntakeState { open: s.door == IntakeOverride::Open, reason: s.door.code() },
        counters: Counters {
            accepted: totals.accepted,
            duplicates: totals.duplicates,
            conflicts: totals.conflicts,
            ignored: s.ignored,
            delivered: totals.sum(|t| t.delivered),
            dead_lettered: totals.dead_lettered,
            discarded: totals.sum(|t| t.discarded),
            redriven: totals.redriven,
            damaged: totals.damaged,
        },
        queue: Queue {
            depth: totals.sum(crate::store::Counters::queued),
            bytes: s.queue_bytes,
            oldest_age_ms: s.oldest_age_ms(),
            in_flight: s.sum(|line| line.in_flight),
            delayed: s.sum(|line| line.delayed),
            blocked: s.sum(|line| line.blocked),
        },
        dlq: DeadLetters { depth: totals.sum(|t| t.dead), bytes: totals.dlq_bytes },
        disk: Disk::of(&admin, &s),
        history: s.remembering.into(),
        rates: admin.trend.rates(None).into(),
        forecast: Forecast {
            drained_in_s: admin.trend.queue_empty_in(totals.sum(crate::store::Counters::queued)).map(|d| d.as_secs()),
            disk_full_in_s: admin.trend.disk_full_in().time().map(|d| d.as_secs()),
        },
        destinations: all(&admin, &s),
        sources: sources::all(&admin),
        certificates: s.certificates,
    }))
}

/// All destinations
#[utoipa::path(get, path = "/v1/destinations", tag = "destinations", responses((status = 200, body = Page<DestinationItem>), Failure))]
pub(super) async fn destinations(State(admin): Shared) -> Result<Json<Page<DestinationItem>>, Failure> {
    let s = Snapshot::take(&admin).await?;
    Ok(Json(Page::whole(all(&admin, &s))))
}

/// One destination
#[utoipa::path(get, path = "/v1/destinations/{name}", tag = "destinations", params(("name" = String, Path)), responses((status = 200, body = DestinationItem), Failure))]
pub(super) async fn destination(State(admin): Shared, Name(name): Name) -> Result<Json<DestinationItem>, Failure> {
    let s = Snapshot::take(&admin).await?;
    let known = admin.destinations.now();
    let destination = known.values().find(|d| d.name == name);
    let destination = destination.ok_or_else(|| Failure::not_found(format!("no destination is called `{name}`")))?;
    Ok(Json(one(&admin, &s, destination)))
}

fn all(admin: &Admin, s: &Snapshot) -> Vec<DestinationItem> {
    let known = admin.destinations.now();
    let mut all: Vec<_> = known.values().collect();
    all.sort_by_key(|destination| destination.id);
    all.into_iter().map(|destination| one(admin, s, destination)).collect()
}

fn one(admin: &Admin, s: &Snapshot, destination: &Destination) -> DestinationItem {
    let d = destination.id;
    let (line, tally) = (s.line(d), s.totals.counters_of(d));
    DestinationItem {
        name: destination.name.clone(),
        url: destination.url().map(str::to_owned),
        paused: is_paused(&line),
        breaker: BreakerItem::of(&admin.store, d, &line),
        concurrency: Concurrency {
            limit: line.limit,
            max: destination.policy.limits.concurrency_max,
            in_flight: line.in_flight,
        },
        latency: Latency {
            usual_ms: line.usual_latency.map(millis),
            slow: line.slow.map(|breaker::Slow { of, slow }| SlowCalls { slow, of }),
        },
        blocked_by: explain::of_destination(admin, d, &line),
        queue: DestinationQueue {
            depth: tally.queued(),
            oldest_age_ms: line.oldest.map_or(0, |at| millis(s.now.since(at))),
            delayed: line.delayed,
            blocked: line.blocked,
            behind_dead_letters: BehindDeadLetters::of(line.blocked_by_dead_letters, s.now),
        },
        rates: admin.trend.rates(Some(d)).into(),
        counters: DestinationCounters {
            accepted: tally.accepted,
            delivered: tally.delivered,
            dead: tally.dead,
            discarded: tally.discarded,
        },
    }
}
