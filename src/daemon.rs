//! The daemon: wires the rooms together and lives: open, start, drain, stop.
//!
//! *Order of a start.* Listeners are bound first, so that connections wait and are not refused; then the store opens and
//! recovers; then intake accepts; then what lay in the delay tree is read and deliveries begin.
//!
//! *Order of a stop.* Intake closes and finishes its requests; no attempt starts any more and those in flight may end;
//! what they meant is written; then the store closes.

mod access;
mod care;

use crate::admin::{self, Admin, Socket};
use crate::clock::Clock;
use crate::config::Settings;
use crate::config::settings;
use crate::dispatch::{self, Destination, Dispatcher};
use crate::event::DestinationId;
use crate::http::entrance::{self, Entrance};
use crate::http::tls::{Files, Tls};
use crate::http::{listener, seats};
use crate::intake::admission::{self, Admission};
use crate::intake::{Bounds, Counts, Intake, Source};
use crate::scheduler::Scheduler;
use crate::store::{Door, Opened, Options, Store, Windows};
use crate::upkeep;
use anyhow::{Context, anyhow, bail};
use axum::{Extension, Router};
use hyper_util::service::TowerToHyperService;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Requests under way may take this long to end when intake closes.
const INTAKE_DRAIN: Duration = Duration::from_secs(10);
const QUESTIONS_MAX: usize = 64;
/// The admin API is for few.
const ADMIN_LIMITS: listener::Limits =
    listener::Limits { connections_max: 256, head_bytes_max: 64 * 1024, head_timeout: Duration::from_secs(10) };
/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    intake_addr: SocketAddr,
    admin_addr: Option<SocketAddr>,
    token: String,
    store: Store,
    committer: std::thread::JoinHandle<()>,
    admission: Arc<Admission>,
    intake: Part,
    dispatch: (CancellationToken, JoinHandle<()>),
    admin: Part,
}

/// Listeners and their connections, which end together.
#[derive(Debug)]
struct Part {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Part {
    fn new() -> Self {
        Self { stop: CancellationToken::new(), tasks: TaskTracker::new() }
    }

    async fn end(&self, within: Duration) {
        self.stop.cancel();
        self.tasks.close();
        let _ = tokio::time::timeout(within, self.tasks.wait()).await; // what is left then is cut off
    }
}

/// What makes a daemon stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// What is in flight may end within `store.drain_timeout`.
    Drain,
}

/// Runs a daemon until `stop`, or until its store fails, which is an error.
pub async fn run(settings: Settings, stop: impl Future<Output = Stop>) -> anyhow::Result<()> {
    end_with_any_panic();
    let daemon = Daemon::start(settings, Clock::system()).await?;
    let mut failure = daemon.store.failure();
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]); // not under systemd there is nobody to tell
    let failed = tokio::select! {
        Stop::Drain = stop => None,
        why = failed(&mut failure) => Some(why),
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    if let Some(why) = failed {
        bail!("the store failed ({why}); nothing was acknowledged since. Look at the disk, then start again");
    }
    tracing::info!("stopping: intake closes, what is in flight may end");
    daemon.stop().await
}

async fn failed(failure: &mut watch::Receiver<Option<String>>) -> String {
    match failure.wait_for(Option::is_some).await {
        Ok(why) => why.clone().unwrap_or_default(),
        Err(_) => "its thread has ended".to_owned(),
    }
}

/// A panic in any task ends the daemon: half a daemon is worse than none. It tells the place, never what it spoke of,
/// since that may hold a body. Opening the store is guarded by itself.
fn end_with_any_panic() {
    std::panic::set_hook(Box::new(|panic| {
        if std::thread::current().name() == Some("store-open") {
            return;
        }
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "internal error; the daemon ends, and nothing acknowledged is lost");
        std::process::exit(70); // EX_SOFTWARE of sysexits.h
    }));
}

impl Daemon {
    /// Starts everything; returns when events are accepted and deliveries go on.
    pub async fn start(settings: Settings, clock: Clock) -> anyhow::Result<Self> {
        let intake_listeners = bind(&settings.intake.listen, "intake.listen").await?;
        let (admin_listeners, sockets) = admin_listeners(&settings.admin).await?;
        let intake_addr = intake_listeners[0].local_addr()?;
        let admin_addr = admin_listeners.first().map(TcpListener::local_addr).transpose()?;
        let tls = tls(&settings.intake)?;
        let Opened { store, news, findings, committer } = open_store(&settings.store, &settings, clock.clone()).await?;
        for finding in &findings {
            tracing::error!("{finding}");
        }
        let token = access::token(&settings.admin.token, &settings.store.path)?;
        let destinations = destinations(&store, &settings).await?;
        let scheduler = Scheduler::new(
            destinations.values().map(|d| (d.id, d.policy)),
            store.floor(),
            store.totals().next_sequence,
        );
        let admission = Arc::new(Admission::default());
        let counts = Arc::new(Counts::default());
        let intake = Part::new();
        upkeep::since_last_time(&store, clock.now()).await?;
        if let Some(Door::Closed { until, .. }) = store.door() {
            admission.keep_out(until);
        }
        let (trend, beyond) = care::look_after(&intake, &store, &clock, &settings, &admission, &counts);
        counts.knows(settings.sources.iter().map(|s| &s.name));
        let door = door(&store, &clock, &settings, &destinations, admission.clone(), counts.clone())?;
        if let Some(tls) = tls.clone() {
            intake.tasks.spawn(upkeep::watch_certificate(tls, intake.stop.clone()));
        }
        serve_intake(&intake, intake_listeners, door, tls, &settings.intake);
        let (question, questions) = mpsc::channel(QUESTIONS_MAX);
        let ready = Arc::new(AtomicBool::new(false));
        let admin = Part::new();
        let state = Arc::new(Admin {
            store: store.clone(),
            clock: clock.clone(),
            questions: question,
            destinations: destinations.clone(),
            admission: admission.clone(),
            counts,
            trend,
            beyond,
            grants: access::grants(&token, &settings.admin)?,
            own_uid: rustix::process::getuid().as_raw(),
            started_at: clock.now(),
            ready: ready.clone(),
        });
        let api = admin::router(state.clone());
        care::raise_alerts(&admin, &state, &settings);
        serve_admin(&admin, admin_listeners, sockets, &api)?;
        let dispatcher = Dispatcher {
            store: store.clone(),
            clock: clock.clone(),
            scheduler: restored(scheduler, &store, &destinations, &clock).await?,
            destinations,
            news,
            questions,
            reads: Arc::default(),
            stop: CancellationToken::new(),
            drain_timeout: settings.store.drain_timeout,
        };
        let dispatch = (dispatcher.stop.clone(), tokio::spawn(dispatcher.run()));
        ready.store(true, Ordering::Relaxed);
        tracing::info!(%intake_addr, admin_addr = admin_addr.map(tracing::field::display), durability = store.durability().word(), "holdline is ready");
        Ok(Self { intake_addr, admin_addr, token, store, committer, admission, intake, dispatch, admin })
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

    /// Ends in order; everything that was told to anybody is on disk.
    pub async fn stop(self) -> anyhow::Result<()> {
        let Self { store, committer, admission, intake, dispatch: (stop, dispatcher), admin, .. } = self;
        admission.set(admission::State::Draining);
        intake.end(INTAKE_DRAIN).await;
        stop.cancel();
        dispatcher.await.context("dispatch ended badly")?;
        store.flush().await?;
        admin.end(Duration::from_secs(1)).await;
        drop(store);
        // connections that outlived their time may still hold the store
        let closed = tokio::task::spawn_blocking(move || committer.join());
        match tokio::time::timeout(Duration::from_secs(2), closed).await {
            Ok(joined) => joined?.map_err(|_| anyhow!("the store's thread ended badly")),
            Err(_) => Ok(()),
        }
    }
}

async fn bind(addresses: &[SocketAddr], key: &str) -> anyhow::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for address in addresses {
        let listener = TcpListener::bind(address).await;
        let remedy = || format!("cannot listen on {address}; is another program there? Change {key} or stop that one");
        listeners.push(listener.with_context(remedy)?);
    }
    if listeners.is_empty() {
        bail!("{key} names no address");
    }
    Ok(listeners)
}

/// Where the admin API is reached: addresses, unix sockets, or both.
async fn admin_listeners(settings: &settings::Admin) -> anyhow::Result<(Vec<TcpListener>, Vec<Socket>)> {
    let mut sockets = Vec::new();
    for path in &settings.sockets {
        let remedy = || format!("cannot listen on unix:{}; its directory must be writable", path.display());
        sockets.push(Socket::bind(path).with_context(remedy)?);
    }
    let tcp = if sockets.is_empty() || !settings.listen.is_empty() {
        bind(&settings.listen, "admin.listen").await?
    } else {
        Vec::new()
    };
    Ok((tcp, sockets))
}

async fn open_store(settings: &settings::Store, all: &Settings, clock: Clock) -> anyhow::Result<Opened> {
    let windows = Windows { by_source: all.dedup_windows().into_iter().collect() };
    let options = Options { require_power_safe: settings.require_power_safe, windows };
    let path = settings.path.clone();
    let opened = tokio::task::spawn_blocking(move || Store::open(&path, options, clock)).await?;
    opened.with_context(|| format!("cannot open the store in {}", settings.path.display()))
}

async fn destinations(store: &Store, settings: &Settings) -> anyhow::Result<HashMap<DestinationId, Arc<Destination>>> {
    let names = settings.destinations.iter().map(|d| d.name.clone()).collect();
    let ids = store.register(names).await?;
    let mut all = HashMap::new();
    for (id, destination) in ids.into_iter().zip(&settings.destinations) {
        let id = id.with_context(|| {
            format!("the store knows 64 destinations already and has no number left for `{}`", destination.name)
        })?;
        let destination =
            Destination::new(id, destination).map_err(|why| anyhow!("destination `{}`: {why}", destination.name))?;
        all.insert(id, Arc::new(destination));
    }
    for (d, name) in store.destinations() {
        let waiting = store.totals().tally_of(d).queued();
        if waiting > 0 && !all.contains_key(&d) {
            tracing::warn!(
                destination = name,
                waiting,
                "this destination is not configured any more; its deliveries are held"
            );
        }
    }
    Ok(all)
}

fn door(
    store: &Store,
    clock: &Clock,
    settings: &Settings,
    destinations: &HashMap<DestinationId, Arc<Destination>>,
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
            body_timeout: intake.body_timeout,
            depth_max: intake.max_json_depth,
            events_max: intake.max_batch,
            success: http::StatusCode::from_u16(intake.success_status).unwrap_or(http::StatusCode::ACCEPTED),
        },
        room: Arc::new(Semaphore::new(intake.max_in_flight_bytes.min(Semaphore::MAX_PERMITS))),
        admission,
        counts,
    })
}

/// Read before the store is opened, so that a certificate that cannot be used is told at once.
fn tls(settings: &settings::Intake) -> anyhow::Result<Option<Arc<Tls>>> {
    let Some(settings::ServerTls { cert, key, client_ca }) = settings.tls.clone() else { return Ok(None) };
    let tls = Tls::open(Files { cert, key, client_ca }).map_err(|why| anyhow!("intake.tls: {why}"))?;
    Ok(Some(Arc::new(tls)))
}

fn serve_intake(
    part: &Part,
    listeners: Vec<TcpListener>,
    door: Intake,
    tls: Option<Arc<Tls>>,
    settings: &settings::Intake,
) {
    let door = Arc::new(door);
    let limits = entrance::Limits { head_bytes_max: settings.max_header_bytes, head_timeout: settings.header_timeout };
    let all = settings.max_connections;
    let bounds = seats::Bounds { all, per_address: settings.max_connections_per_address.unwrap_or(all) };
    let entrance = Entrance::new(bounds, tls, limits, part.stop.clone());
    for listener in listeners {
        let door = door.clone();
        let service = hyper::service::service_fn(move |request| {
            let door = door.clone();
            async move { door.handle(request).await }
        });
        part.tasks.spawn(entrance.clone().serve(listener, service));
    }
}

fn serve_admin(part: &Part, listeners: Vec<TcpListener>, sockets: Vec<Socket>, api: &Router) -> anyhow::Result<()> {
    for listener in listeners {
        let via = Extension(admin::Via::Tcp(listener.local_addr()?));
        let service = TowerToHyperService::new(api.clone().layer(via));
        part.tasks.spawn(listener::serve(listener, service, ADMIN_LIMITS, part.stop.clone()));
    }
    for socket in sockets {
        part.tasks.spawn(socket.serve(api.clone(), ADMIN_LIMITS, part.stop.clone()));
    }
    Ok(())
}

async fn restored(
    mut scheduler: Scheduler,
    store: &Store,
    destinations: &HashMap<DestinationId, Arc<Destination>>,
    clock: &Clock,
) -> anyhow::Result<Scheduler> {
    let (store, destinations, now) = (store.clone(), destinations.clone(), clock.now());
    tokio::task::spawn_blocking(move || {
        dispatch::restore(&mut scheduler, &store, &destinations, now)?;
        Ok(scheduler)
    })
    .await?
}
