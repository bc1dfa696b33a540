//! `/v1/status`, `/v1/destinations` and `/v1/ages`: the state and the numbers of the daemon, all from the same moment.

use super::{Admin, Failure, Name, Shared, explain};
use crate::api::{self, Page, Time};
use crate::dispatch::{Destination, DestinationStatus};
use crate::event::DestinationId;
use crate::intake::UNKNOWN_SOURCE;
use crate::intake::admission::State as Admission;
use crate::rules::breaker;
use crate::store::{BreakerOverride, Counters, HistoryUsage, Outage, Position, Space, Totals};
use crate::time::{Timestamp, millis};
use axum::Json;
use axum::extract::State;
use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Upper bounds of ages in seconds; older deliveries are counted after the last.
const AGES_S: [u64; 7] = [10, 60, 300, 900, 3600, 14_400, 86_400];

/// Everything at a glance
#[utoipa::path(get, path = "/v1/status", tag = "status", responses((status = 200, body = api::Status), Failure))]
pub(super) async fn status(State(admin): Shared) -> Result<Json<api::Status>, Failure> {
    Ok(Json(Snapshot::take(&admin).await?.status(&admin).await))
}

/// All destinations
#[utoipa::path(get, path = "/v1/destinations", tag = "destinations", responses((status = 200, body = Page<api::Destination>), Failure))]
pub(super) async fn destinations(State(admin): Shared) -> Result<Json<Page<api::Destination>>, Failure> {
    let s = Snapshot::take(&admin).await?;
    Ok(Json(Page::whole(s.destinations(&admin))))
}

/// One destination
#[utoipa::path(get, path = "/v1/destinations/{name}", tag = "destinations", params(("name" = String, Path)), responses((status = 200, body = api::Destination), Failure))]
pub(super) async fn destination(State(admin): Shared, Name(name): Name) -> Result<Json<api::Destination>, Failure> {
    let s = Snapshot::take(&admin).await?;
    let known = admin.destinations.now();
    let destination = known.values().find(|d| d.name == name);
    let destination = destination.ok_or_else(|| Failure::not_found(format!("no destination is called `{name}`")))?;
    Ok(Json(s.destination(&admin, destination)))
}

/// What waits, by destination and age
#[utoipa::path(get, path = "/v1/ages", tag = "destinations", responses((status = 200, body = Page<api::Ages>), Failure))]
pub(super) async fn ages(State(admin): Shared) -> Result<Json<Page<api::Ages>>, Failure> {
    admin.has_started().await?;
    let now = admin.clock.now();
    let since: Vec<Timestamp> = AGES_S.iter().map(|s| now.before(Duration::from_secs(*s))).collect();
    let found = admin.read(move |store| store.ages(&since)).await?;
    let bounds = || AGES_S.iter().copied().map(Some).chain([None]);
    let item = |(d, counts): (DestinationId, Vec<u64>)| api::Ages {
        destination: admin.destination_name(d),
        ages: bounds().zip(counts).map(|(below_s, count)| api::AgeCount { below_s, count }).collect(),
    };
    Ok(Json(Page::whole(found.into_iter().map(item).collect())))
}

impl Admin {
    /// The last outage; none if there was none, or if it cannot be read.
    pub(super) async fn last_outage(&self) -> Option<Outage> {
        let newest = self.read(|store| store.outages(u64::MAX, 1)).await.ok()?;
        newest.into_iter().next().map(|(_, outage)| outage)
    }

    fn state(&self, admission: Admission) -> api::DaemonState {
        match admission {
            Admission::Draining => api::DaemonState::Draining,
            _ if !self.ready.load(Ordering::Relaxed) => api::DaemonState::Starting,
            _ => api::DaemonState::Running,
        }
    }

    fn certificate_items(&self) -> Vec<api::Certificate> {
        // by the wall clock, as peers validate them
        let now = self.clock.wall();
        let seconds = |millis: u64| i64::try_from(millis / 1000).unwrap_or(i64::MAX);
        let all = self.certificates().into_iter();
        all.map(|certificate| api::Certificate {
            of: certificate.of,
            role: certificate.role.word().to_owned(),
            ends_at: certificate.ends.into(),
            ends_in_s: seconds(certificate.ends.0) - seconds(now.0),
        })
        .collect()
    }

    /// All configured sources, then requests to names that no source has.
    fn sources(&self) -> Vec<api::Source> {
        let refused = self.counts.refusals.by_source();
        let mut received: BTreeMap<String, Option<Timestamp>> =
            self.counts.last_received().into_iter().map(|(name, at)| (name, Some(at))).collect();
        if refused.contains_key(UNKNOWN_SOURCE) {
            received.insert(UNKNOWN_SOURCE.to_owned(), None);
        }
        let source = |(name, at): (String, Option<Timestamp>)| {
            let refusals = refused.get(&name).map(Vec::as_slice).unwrap_or_default();
            let refusal = |of: &crate::intake::Refused| api::Refusal {
                status: of.status,
                code: of.code.to_owned(),
                count: of.count,
            };
            api::Source {
                last_event_at: at.filter(|at| *at > Timestamp::ZERO).map(Time),
                refused: refusals.iter().map(|refused| refused.count).sum(),
                refusals: refusals.iter().map(refusal).collect(),
                name,
            }
        };
        let mut items: Vec<api::Source> = received.into_iter().map(source).collect();
        items.sort_by_key(|item| item.name == UNKNOWN_SOURCE);
        items
    }
}

/// The numbers of one moment, for the status and the metrics.
pub(super) struct Snapshot {
    pub now: Timestamp,
    pub blob_files: usize,
    totals: Totals,
    lines: HashMap<DestinationId, DestinationStatus>,
    queue_bytes: u64,
    space: Space,
    used_bytes: u64,
    admission: Admission,
    ignored: u64,
    history: HistoryUsage,
    /// Permissions of the data folder.
    mode: Option<u32>,
}

impl Snapshot {
    pub(super) async fn take(admin: &Admin) -> Result<Self, Failure> {
        let lines = admin.lines().await?;
        let now = admin.clock.now();
        let (admission, ignored) = (admin.admission.state(), admin.counts.ignored());
        admin
            .read(move |store| {
                Ok(Self {
                    now,
                    totals: store.totals(),
                    lines,
                    queue_bytes: store.queue_bytes(),
                    space: store.space().unwrap_or_default(),
                    used_bytes: store.disk_bytes(),
                    mode: mode(store.path()),
                    blob_files: store.blob_files(),
                    admission,
                    ignored,
                    history: store.remembering(),
                })
            })
            .await
    }

    fn sum(&self, of: impl Fn(&DestinationStatus) -> usize) -> usize {
        self.lines.values().map(of).sum()
    }

    pub(super) async fn status(&self, admin: &Admin) -> api::Status {
        let totals = &self.totals;
        let depth = totals.sum(Counters::queued);
        let oldest = self.lines.values().filter_map(|line| line.oldest).min();
        api::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: admin.state(self.admission),
            started_at: admin.started_at.into(),
            durability: admin.store.durability().word().to_owned(),
            last_outage: admin.last_outage().await.map(outage),
            intake: api::IntakeState {
                open: self.admission == Admission::Open,
                reason: self.admission.code().map(str::to_owned),
            },
            counters: api::Counters {
                accepted: totals.accepted,
                duplicates: totals.duplicates,
                conflicts: totals.conflicts,
                ignored: self.ignored,
                delivered: totals.sum(|t| t.delivered),
                dead_lettered: totals.dead_lettered,
                discarded: totals.sum(|t| t.discarded),
                redriven: totals.redriven,
                damaged: totals.damaged,
            },
            queue: api::Queue {
                depth,
                bytes: self.queue_bytes,
                oldest_age_ms: oldest.map_or(0, |at| millis(self.now.since(at))),
                in_flight: self.sum(|line| line.in_flight),
                delayed: self.sum(|line| line.delayed),
                blocked: self.sum(|line| line.blocked),
            },
            dlq: api::DeadLetterQueue { depth: totals.sum(|t| t.dead), bytes: totals.dlq_bytes },
            disk: self.disk(admin),
            history: api::History {
                events: self.history.events,
                bytes: self.history.bytes,
                memory_bytes: self.history.memory_bytes,
                forgotten_early: self.history.forgotten_early,
            },
            rates: rates(admin, None),
            forecast: api::Forecast {
                drained_in_s: admin.trend.queue_empty_in(depth).map(|d| d.as_secs()),
                disk_full_in_s: admin.trend.disk_full_in().time().map(|d| d.as_secs()),
            },
            destinations: self.destinations(admin),
            sources: admin.sources(),
            certificates: admin.certificate_items(),
        }
    }

    fn disk(&self, admin: &Admin) -> api::Disk {
        api::Disk {
            free_bytes: self.space.free_bytes,
            reserve_bytes: admin.trend.disk_reserve(),
            growth_bytes: self.space.growth_bytes,
            ballast_bytes: self.space.ballast_bytes,
            used_bytes: self.used_bytes,
            path: admin.store.path().display().to_string(),
            mode: self.mode.map(|mode| format!("{mode:o}")),
        }
    }

    fn destinations(&self, admin: &Admin) -> Vec<api::Destination> {
        let known = admin.destinations.now();
        let mut all: Vec<_> = known.values().collect();
        all.sort_by_key(|destination| destination.id);
        all.into_iter().map(|destination| self.destination(admin, destination)).collect()
    }

    fn destination(&self, admin: &Admin, destination: &Destination) -> api::Destination {
        let d = destination.id;
        let (line, counters) = (self.lines.get(&d).cloned().unwrap_or_default(), self.totals.counters_of(d));
        let blocked_by = explain::of_destination(admin, d, &line);
        let (paused, breaker) = (explain::is_paused(&line), breaker(admin, d, &line));
        let behind = line.blocked_by_dead_letters;
        let queue = api::DestinationQueue {
            depth: counters.queued(),
            oldest_age_ms: line.oldest.map_or(0, |at| millis(self.now.since(at))),
            delayed: line.delayed,
            blocked: line.blocked,
            behind_dead_letters: api::BehindDeadLetters {
                interactions: behind.interactions,
                deliveries: behind.deliveries,
                oldest_age_ms: behind.oldest.map_or(0, |at| millis(self.now.since(at))),
            },
        };
        api::Destination {
            name: destination.name.clone(),
            url: destination.url().map(str::to_owned),
            state: api::DestinationState::of(paused, breaker.state, &blocked_by, &queue),
            paused,
            breaker,
            concurrency: api::Concurrency {
                limit: line.limit,
                max: destination.policy.limits.concurrency_max,
                in_flight: line.in_flight,
            },
            latency: api::Latency {
                usual_ms: line.usual_latency.map(millis),
                slow: line.slow.map(|breaker::Slow { of, slow }| api::SlowCalls { slow, of }),
            },
            blocked_by,
            queue,
            rates: rates(admin, Some(d)),
            counters: api::DestinationCounters {
                accepted: counters.accepted,
                delivered: counters.delivered,
                dead: counters.dead,
                discarded: counters.discarded,
            },
        }
    }
}

/// The rates of one destination, or of all.
fn rates(admin: &Admin, d: Option<DestinationId>) -> api::Rates {
    let rates = admin.trend.rates(d);
    let tenths = |r: f64| (r * 10.0).round() / 10.0;
    api::Rates {
        accepted_per_s: tenths(rates.accepted),
        delivered_per_s: tenths(rates.delivered),
        dead_per_s: tenths(rates.dead),
    }
}

pub(super) fn outage(outage: Outage) -> api::Outage {
    api::Outage {
        from: outage.from.into(),
        until: Time::unless_never(outage.until),
        reason: outage.reason,
        refused: outage.refused,
    }
}

fn breaker(admin: &Admin, d: DestinationId, line: &DestinationStatus) -> api::Breaker {
    let kept_closed = line.breaker == breaker::State::Closed && line.kept_closed_until.is_some();
    let in_force = |fixed: &BreakerOverride| match fixed.position {
        Position::Open => line.breaker != breaker::State::Closed,
        Position::Closed => kept_closed,
    };
    let fixed = admin.store.overrides(d).breaker.filter(in_force);
    let (state, until) = match line.breaker {
        breaker::State::Closed => (api::BreakerState::Closed, line.kept_closed_until),
        breaker::State::Open { until } => (api::BreakerState::Open, Some(until)),
        breaker::State::HalfOpen { .. } => (api::BreakerState::HalfOpen, line.kept_closed_until),
    };
    api::Breaker {
        state,
        since: line.breaker_since.map(Time),
        until: until.and_then(Time::unless_never),
        reason: fixed.as_ref().map(|fixed| fixed.reason.clone()),
        set_by: fixed.and_then(|fixed| fixed.who),
    }
}

/// Permissions of a folder; none if they cannot be read.
fn mode(folder: &Path) -> Option<u32> {
    let meta = std::fs::metadata(folder).ok()?;
    Some(meta.permissions().mode() & 0o777)
}
