//! Where a daemon is reached: the sockets of intake and of the admin API, and what is served on them.

use super::Part;
use crate::admin::{self, Socket};
use crate::config::settings;
use crate::intake::SharedIntake;
use crate::maintenance;
use crate::net::server::{self, HttpServer};
use crate::net::tls::{Files, Tls};
use crate::net::{connection_limiter, sockets};
use anyhow::{Context, anyhow, bail};
use axum::{Extension, Router, middleware};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// Of a request to the admin API: its head, and what may still come behind a refusal.
const ADMIN_HEAD_BYTES_MAX: usize = 64 * 1024;
const ADMIN_HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const ADMIN_LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// The sockets that were handed over, where they are asked for, and those of the addresses; at least one.
pub(super) fn intake(settings: &settings::Intake) -> anyhow::Result<Vec<TcpListener>> {
    let mut listeners = sockets::inherited()?;
    if settings.inherit && listeners.is_empty() {
        bail!(
            "intake.listen says \"systemd\", but systemd has passed no socket; start holdline through systemd with \
             holdline.socket enabled, or write an address"
        );
    }
    if !settings.inherit {
        for unwanted in listeners.drain(..) {
            let address = unwanted.local_addr()?;
            tracing::warn!(
                %address,
                "systemd has passed a socket that intake.listen does not name, and who connects there waits for ever; \
                 write listen = \"systemd\", or systemctl mask --now holdline.socket"
            );
        }
    }
    listeners.extend(sockets::bind(&settings.listen, "intake.listen")?);
    if listeners.is_empty() {
        bail!("intake.listen names no address");
    }
    Ok(listeners)
}

/// Addresses, unix sockets, or both.
pub(super) fn admin(settings: &settings::Admin) -> anyhow::Result<(Vec<TcpListener>, Vec<Socket>)> {
    let mut sockets = Vec::new();
    for path in &settings.sockets {
        let remedy = || format!("cannot listen on unix:{}; its directory must be writable", path.display());
        sockets.push(Socket::bind(path).with_context(remedy)?);
    }
    let listeners = sockets::bind(&settings.listen, "admin.listen")?;
    if listeners.is_empty() && sockets.is_empty() {
        bail!("admin.listen names no address");
    }
    Ok((listeners, sockets))
}

/// Read before the store is opened, so that a certificate that cannot be used is told at once.
pub(super) fn tls(settings: &settings::Intake) -> anyhow::Result<Option<Arc<Tls>>> {
    let Some(settings::ServerTls { cert, key, client_ca }) = settings.tls.clone() else { return Ok(None) };
    let tls = Tls::open(Files { cert, key, client_ca }).map_err(|why| anyhow!("intake.tls: {why}"))?;
    Ok(Some(Arc::new(tls)))
}

/// Serves intake on its sockets, each request by the door that is in place when it comes.
pub(super) fn serve(
    listeners: Vec<TcpListener>,
    door: &SharedIntake,
    tls: Option<Arc<Tls>>,
    settings: &settings::Intake,
) -> Part {
    let part = Part::new();
    if let Some(tls) = tls.clone() {
        part.tasks.spawn(maintenance::watch_certificate(tls, part.stop.clone()));
    }
    let limits = server::Limits {
        head_bytes_max: settings.max_header_bytes,
        head_timeout: settings.header_timeout,
        // an answer is short: whoever takes none of it for so long does not read
        write_timeout: settings.header_timeout,
        linger_timeout: settings.linger_timeout,
    };
    let all = settings.max_connections;
    let bounds = connection_limiter::Bounds { all, per_address: settings.max_connections_per_address.unwrap_or(all) };
    let entrance = HttpServer::new(bounds, tls, limits, part.stop.clone());
    for listener in listeners {
        let door = door.clone();
        let service = hyper::service::service_fn(move |request| {
            let door = door.read().expect("no holder panics").clone();
            async move { door.handle(request).await }
        });
        part.tasks.spawn(entrance.clone().serve(listener, service));
    }
    part
}

/// Serves the admin API on its sockets, which share their connections.
pub(super) fn serve_admin(
    listeners: Vec<TcpListener>,
    sockets: Vec<Socket>,
    api: &Router,
    settings: &settings::Admin,
) -> anyhow::Result<Part> {
    let part = Part::new();
    let limits = server::Limits {
        head_bytes_max: ADMIN_HEAD_BYTES_MAX,
        head_timeout: ADMIN_HEAD_TIMEOUT,
        write_timeout: settings.write_timeout,
        linger_timeout: ADMIN_LINGER_TIMEOUT,
    };
    let bounds = connection_limiter::Bounds { all: settings.max_connections, per_address: settings.max_connections };
    let entrance = HttpServer::new(bounds, None, limits, part.stop.clone());
    for listener in listeners {
        let via = Extension(admin::Via::Tcp(listener.local_addr()?));
        let service = TowerToHyperService::new(api.clone().layer(via));
        part.tasks.spawn(entrance.clone().serve(listener, service));
    }
    for socket in sockets {
        let service = TowerToHyperService::new(api.clone().layer(middleware::from_fn(admin::by_user)));
        part.tasks.spawn(entrance.clone().serve(socket, service));
    }
    Ok(part)
}
