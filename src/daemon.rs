//! The daemon: starts all parts, connects them, and stops them in order.
//!
//! *Start order.* Listeners are bound first, so that connections wait and are not refused; then the store opens and
//! recovers; then intake accepts requests; then delayed deliveries are loaded and attempts begin.
//!
//! *Stop order.* First dispatch stops: no attempt starts, and those in flight may end. Then intake, which was open until
//! now, finishes its requests. Then the results are written, and the store closes. So on an inherited socket,
//! connections wait during a restart only while the store closes and opens.

mod listeners;
mod process;
mod reload;

pub use process::{Command, run};

use crate::admin::{self, AccessLog, Admin};
use crate::alert;
use crate::clock::Clock;
use crate::config::Settings;
use crate::dispatch::{self, Destination, DestinationMap, Destinations, Dispatcher, Question};
use crate::intake::admission::{self, Admission};
use crate::intake::memory::{MemoryBounds, MemoryLimit};
use crate::intake::{Bounds, Counts, Intake, Pace, SharedIntake, Source};
use crate::maintenance::{self, DlqOverflow, Trend};
use crate::scheduler::Scheduler;
use crate::store::{Bounds as Remembered, IntakeOverride, Opened, Options, Store, Windows};
use anyhow::{Context, anyhow};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Time limit for active requests when intake closes.
const INTAKE_DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
const BACKGROUND_END_TIMEOUT: Duration = Duration::from_secs(1);
const ADMIN_END_TIMEOUT: Duration = Duration::from_secs(1);
const STORE_CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
const QUESTIONS_MAX: usize = 64;

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    intake_addr: SocketAddr,
    admin_addr: Option<SocketAddr>,
    token: String,
    settings: Settings,
    clock: Clock,
    destinations: Destinations,
    shared_intake: SharedIntake,
    questions: mpsc::Sender<Question>,
    store: Store,
    committer: std::thread::JoinHandle<()>,
    admission: Arc<Admission>,
    background: TaskGroup,
    intake: TaskGroup,
    dispatch: (CancellationToken, JoinHandle<()>),
    admin: TaskGroup,
}

/// Tasks that end together: listeners and their connections, or background work.
#[derive(Debug)]
struct TaskGroup {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl TaskGroup {
    fn new() -> Self {
        Self { stop: CancellationToken::new(), tasks: TaskTracker::new() }
    }

    async fn end(&self, within: Duration) {
        self.stop.cancel();
        self.tasks.close();
        let _ = tokio::time::timeout(within, self.tasks.wait()).await; // remaining tasks are dropped with the runtime
    }
}

impl Daemon {
    /// Starts everything; returns when events are accepted and deliveries are sent.
    pub async fn start(settings: Settings, clock: Clock) -> anyhow::Result<Self> {
        let intake_listeners = listeners::bind_intake(&settings.intake)?;
        let (admin_listeners, sockets) = listeners::bind_admin(&settings.admin)?;
        let intake_addr = intake_listeners[0].local_addr()?;
        let admin_addr = admin_listeners.first().map(TcpListener::local_addr).transpose()?;
        let tls = listeners::load_tls(&settings.intake)?;
        let Opened { store, store_events, committer, .. } = open_store(&settings, clock.clone()).await?;
        let token = listeners::admin_token(&settings.admin.token, &settings.store.path)?;
        let destinations = Destinations::new(destinations(&store, &settings).await?);
        let admission = Arc::new(admission(&store));
        let counts = Arc::new(Counts::default());
        maintenance::record_downtime(&store, clock.now()).await?;
        let background = TaskGroup::new();
        let (trend, overflow) = maintain(&background, &store, &clock, &settings, &admission, &counts, &destinations);
        counts.set_sources(settings.sources.iter().map(|s| &s.name));
        let intake = build_intake(&store, &clock, &settings, &destinations.now(), admission.clone(), counts.clone())?;
        let shared_intake: SharedIntake = Arc::new(RwLock::new(Arc::new(intake)));
        let intake = listeners::serve_intake(intake_listeners, &shared_intake, tls.clone(), &settings.intake);
        let (question, questions) = mpsc::channel(QUESTIONS_MAX);
        let state = Arc::new(Admin {
            store: store.clone(),
            clock: clock.clone(),
            questions: question.clone(),
            destinations: destinations.clone(),
            admission: admission.clone(),
            intake: shared_intake.clone(),
            counts,
            tls,
            trend,
            dlq_overflow: overflow,
            grants: listeners::grants(&token, &settings.admin)?,
            access: record_access(&background, &store, &clock),
            own_uid: rustix::process::getuid().as_raw(),
            started_at: clock.now(),
            ready: Arc::default(),
        });
        let admin = listeners::serve_admin(admin_listeners, sockets, &admin::router(state.clone()), &settings.admin)?;
        run_alerts(&background, &state, &settings);
        let dispatcher = Dispatcher {
            store: store.clone(),
            clock: clock.clone(),
            scheduler: restored(&store, &destinations.now(), &clock).await?,
            destinations: destinations.now(),
            events: store_events,
            questions,
            reads: Arc::default(),
            stop: CancellationToken::new(),
            drain_timeout: settings.store.drain_timeout,
        };
        let dispatch = (dispatcher.stop.clone(), tokio::spawn(dispatcher.run()));
        state.ready.store(true, Ordering::Relaxed);
        tracing::info!(%intake_addr, admin_addr = admin_addr.map(tracing::field::display), durability = store.durability().word(), "holdline is ready");
        Ok(Self {
            intake_addr,
            admin_addr,
            token,
            settings,
            clock,
            destinations,
            shared_intake,
            questions: question,
            store,
            committer,
            admission,
            background,
            intake,
            dispatch,
            admin,
        })
    }

    /// The status line for the service manager.
    fn summary(&self) -> String {
        let (sources, destinations) = (self.settings.sources.len(), self.settings.destinations.len());
        format!("accepting events on {}, {sources} sources, {destinations} destinations", self.intake_addr)
    }

    /// The first address of intake.
    pub fn intake_addr(&self) -> SocketAddr {
        self.intake_addr
    }

    /// The first TCP address of the admin API.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin_addr
    }

    /// The token of the admin API.
    pub fn token(&self) -> &str {
        &self.token
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Stops in order; every acknowledged event is on disk.
    pub async fn stop(self) -> anyhow::Result<()> {
        let Self {
            store,
            committer,
            admission,
            background,
            intake,
            dispatch: (stop, dispatcher),
            admin,
            shared_intake,
            ..
        } = self;
        admission.announce_stop();
        stop.cancel();
        dispatcher.await.context("dispatch ended badly")?;
        intake.end(INTAKE_DRAIN_TIMEOUT).await;
        admission.set(admission::State::Draining);
        background.end(BACKGROUND_END_TIMEOUT).await; // it records the start of the outage caused by the stop
        drop(shared_intake);
        store.flush().await?;
        admin.end(ADMIN_END_TIMEOUT).await;
        drop(store);
        // connections that did not end in time may still use the store
        let closed = tokio::task::spawn_blocking(move || committer.join());
        match tokio::time::timeout(STORE_CLOSE_TIMEOUT, closed).await {
            Ok(joined) => joined?.map_err(|_| anyhow!("the store's thread ended badly")),
            Err(_) => Ok(()),
        }
    }
}

/// Starts the background tasks of [`maintenance`].
fn maintain(
    group: &TaskGroup,
    store: &Store,
    clock: &Clock,
    settings: &Settings,
    admission: &Arc<Admission>,
    counts: &Arc<Counts>,
    destinations: &Destinations,
) -> (Arc<Trend>, Arc<DlqOverflow>) {
    let trend = Arc::new(Trend::new(settings.intake.disk_reserve_bytes));
    let overflow: Arc<DlqOverflow> = Arc::default();
    let shared = || (store.clone(), clock.clone(), group.stop.clone());
    let (store, clock, stop) = shared();
    group.tasks.spawn(maintenance::watch_trend(store, clock, trend.clone(), stop));
    let (store, clock, stop) = shared();
    group.tasks.spawn(maintenance::watch_outages(store, clock, admission.clone(), counts.clone(), stop));
    let (store, clock, stop) = shared();
    group.tasks.spawn(maintenance::watch_intake(store, clock, settings.intake.clone(), admission.clone(), stop));
    let (store, clock, stop) = shared();
    group.tasks.spawn(maintenance::watch_dlq(store, settings.dlq.clone(), clock, overflow.clone(), stop));
    let (store, clock, stop) = shared();
    group.tasks.spawn(maintenance::watch_quarantine(store, settings.quarantine.clone(), clock, stop));
    let (store, clock, stop) = shared();
    group.tasks.spawn(maintenance::watch_history(store, clock, stop));
    let (store, clock, stop) = shared();
    group.tasks.spawn(maintenance::watch_redrives(store, clock, destinations.clone(), stop));
    (trend, overflow)
}

/// Starts the task that writes refused requests of the admin API into the audit log.
fn record_access(group: &TaskGroup, store: &Store, clock: &Clock) -> Arc<AccessLog> {
    let access: Arc<AccessLog> = Arc::default();
    let (log, store, clock, stop) = (access.clone(), store.clone(), clock.clone(), group.stop.clone());
    group.tasks.spawn(async move { log.keep(store, clock, stop).await });
    access
}

/// Starts the task that evaluates and sends alerts.
fn run_alerts(group: &TaskGroup, state: &Arc<Admin>, settings: &Settings) {
    let (clock, store, stop) = (state.clock.clone(), state.store.clone(), group.stop.clone());
    let state = state.clone();
    let inputs = move || {
        let state = state.clone();
        async move { state.facts().await }
    };
    group.tasks.spawn(alert::run(settings.alerts.clone(), clock, store, inputs, stop));
}

/// Intake is open unless an operator has closed it.
fn admission(store: &Store) -> Admission {
    let admission = Admission::default();
    if let Some(IntakeOverride::Closed { until, .. }) = store.intake_override() {
        admission.close_until(until);
    }
    admission
}

async fn open_store(settings: &Settings, clock: Clock) -> anyhow::Result<Opened> {
    let windows = Windows { by_source: settings.dedup_windows().into_iter().collect() };
    let options = Options {
        require_power_safe: settings.store.require_power_safe,
        windows,
        ballast_bytes: settings.store.ballast_bytes,
        reserve_bytes: settings.intake.disk_reserve_bytes,
    };
    let path = settings.store.path.clone();
    let own = clock.clone();
    let opened = tokio::task::spawn_blocking(move || Store::open(&path, options, own)).await?;
    let opened = opened.with_context(|| format!("cannot open the store in {}", settings.store.path.display()))?;
    maintenance::apply_clock_step(&opened.store, &clock).await?;
    opened.store.set_history_limits(history_limits(settings));
    opened.store.set_shared_keys(settings.shared_keys());
    opened.findings.iter().for_each(|finding| tracing::error!("{finding}"));
    Ok(opened)
}

fn history_limits(settings: &Settings) -> Remembered {
    Remembered {
        age: settings.history.retention,
        bytes_max: settings.history.max_bytes,
        memory_max: settings.history.max_memory,
    }
}

async fn destinations(store: &Store, settings: &Settings) -> anyhow::Result<DestinationMap> {
    let names = settings.destinations.iter().map(|d| d.name.clone()).collect();
    let ids = store.register(names).await?;
    let mut all = HashMap::new();
    for (id, destination) in ids.into_iter().zip(&settings.destinations) {
        let id = id.with_context(|| {
            format!("the store has 64 destinations already and no number left for `{}`", destination.name)
        })?;
        let destination =
            Destination::new(id, destination).map_err(|why| anyhow!("destination `{}`: {why}", destination.name))?;
        all.insert(id, Arc::new(destination));
    }
    for (d, name) in store.destinations() {
        let waiting = store.totals().counters_of(d).queued();
        if waiting > 0 && !all.contains_key(&d) {
            tracing::warn!(
                destination = name,
                waiting,
                "this destination is not configured any more; its deliveries wait until it is configured again"
            );
        }
    }
    Ok(Arc::new(all))
}

/// Builds intake from these settings.
fn build_intake(
    store: &Store,
    clock: &Clock,
    settings: &Settings,
    destinations: &DestinationMap,
    admission: Arc<Admission>,
    counts: Arc<Counts>,
) -> anyhow::Result<Intake> {
    let names: Vec<_> = destinations.values().map(|d| (d.name.clone(), d.id)).collect();
    let mut sources = HashMap::new();
    for source in &settings.sources {
        let used = Source::new(source, &names).map_err(|why| anyhow!("source `{}`: {why}", source.name))?;
        sources.insert(source.name.clone(), used);
    }
    let intake = &settings.intake;
    Ok(Intake {
        store: store.clone(),
        clock: clock.clone(),
        sources,
        bounds: Bounds {
            body_bytes_max: intake.max_body_bytes,
            body_pace: Pace {
                timeout: intake.body_timeout,
                grace: intake.body_grace,
                bytes_per_second_min: intake.min_body_rate,
            },
            depth_max: intake.max_json_depth,
            events_max: intake.max_batch,
            forwarded_bytes_max: intake.max_forwarded_header_bytes,
            success: http::StatusCode::from_u16(intake.success_status).unwrap_or(http::StatusCode::ACCEPTED),
        },
        memory: Arc::new(MemoryLimit::new(memory_bounds(settings))),
        admission,
        counts,
        quarantine: crate::intake::room(
            &settings.quarantine,
            settings.sources.iter().filter(|s| s.keeps_apart()).count(),
        ),
    })
}

/// Memory limits for bodies. By default, unverified requests share half of the memory, those of one address half of
/// that, and those of one connection a quarter. One source may use all of it only if it is the only one. The largest
/// body always fits.
fn memory_bounds(settings: &Settings) -> MemoryBounds {
    let intake = &settings.intake;
    let all = intake.max_buffered_bytes;
    let of_source = if settings.sources.len() > 1 { (all as f64 * intake.source_share) as usize } else { all };
    let part = |set: Option<usize>, absent: usize, of: usize| set.unwrap_or(absent).max(intake.max_body_bytes).min(of);
    let unverified = part(intake.max_unverified_bytes, all / 2, all);
    MemoryBounds {
        all,
        per_source: part(Some(of_source), all, all),
        unverified,
        per_address: part(intake.max_unverified_bytes_per_address, unverified / 2, unverified),
        per_connection: part(intake.max_unverified_bytes_per_connection, unverified / 4, unverified),
    }
}

async fn restored(store: &Store, destinations: &DestinationMap, clock: &Clock) -> anyhow::Result<Scheduler> {
    let policies = destinations.values().map(|d| (d.id, d.policy.clone()));
    let mut scheduler = Scheduler::new(policies, store.floor(), store.totals().next_sequence, clock.now());
    let (store, destinations, now) = (store.clone(), destinations.clone(), clock.now());
    tokio::task::spawn_blocking(move || {
        dispatch::restore(&mut scheduler, &store, &destinations, now)?;
        Ok(scheduler)
    })
    .await?
}
