//! The sockets of intake and of the admin API, what is served on them, and the tokens of the admin API.

use super::TaskGroup;
use crate::admin::{self, Grant, Socket};
use crate::config::settings::{self, Scope, Token};
use crate::intake::SharedIntake;
use crate::maintenance;
use crate::net::server::{HttpServer, Limits};
use crate::net::tls::{Files, Tls};
use crate::net::{connection_limiter, listener};
use anyhow::{Context, anyhow, bail};
use axum::{Extension, Router, middleware};
use hyper_util::service::TowerToHyperService;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// Limits of a request to the admin API.
const ADMIN_HEAD_BYTES_MAX: usize = 64 * 1024;
const ADMIN_HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const ADMIN_LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// The listeners of intake: sockets passed by systemd, if the settings say so, and those of the addresses; at least one.
pub(super) fn bind_intake(settings: &settings::Intake) -> anyhow::Result<Vec<TcpListener>> {
    let mut listeners = listener::inherited()?;
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
                "systemd has passed a socket that intake.listen does not name, and connections to it are never accepted; \
                 write listen = \"systemd\", or systemctl mask --now holdline.socket"
            );
        }
    }
    listeners.extend(listener::bind(&settings.listen, "intake.listen")?);
    if listeners.is_empty() {
        bail!("intake.listen names no address");
    }
    Ok(listeners)
}

/// The listeners of the admin API: addresses, unix sockets, or both.
pub(super) fn bind_admin(settings: &settings::Admin) -> anyhow::Result<(Vec<TcpListener>, Vec<Socket>)> {
    let mut sockets = Vec::new();
    for path in &settings.sockets {
        let remedy = || format!("cannot listen on unix:{}; its directory must be writable", path.display());
        sockets.push(Socket::bind(path).with_context(remedy)?);
    }
    let listeners = listener::bind(&settings.listen, "admin.listen")?;
    if listeners.is_empty() && sockets.is_empty() {
        bail!("admin.listen names no address");
    }
    Ok((listeners, sockets))
}

/// Loads the certificate of intake. Called before the store is opened, so that an unusable one is reported at once.
pub(super) fn load_tls(settings: &settings::Intake) -> anyhow::Result<Option<Arc<Tls>>> {
    let Some(settings::ServerTls { cert, key, client_ca }) = settings.tls.clone() else { return Ok(None) };
    let tls = Tls::open(Files { cert, key, client_ca }).map_err(|why| anyhow!("intake.tls: {why}"))?;
    Ok(Some(Arc::new(tls)))
}

/// Serves intake on its sockets; each request uses the settings that are active when it arrives.
pub(super) fn serve_intake(
    listeners: Vec<TcpListener>,
    intake: &SharedIntake,
    tls: Option<Arc<Tls>>,
    settings: &settings::Intake,
) -> TaskGroup {
    let group = TaskGroup::new();
    if let Some(tls) = tls.clone() {
        group.tasks.spawn(maintenance::watch_certificate(tls, group.stop.clone()));
    }
    let limits = Limits {
        head_bytes_max: settings.max_header_bytes,
        head_timeout: settings.header_timeout,
        // answers are short: a peer that takes none of one for this long is not reading
        write_timeout: settings.header_timeout,
        linger_timeout: settings.linger_timeout,
    };
    let all = settings.max_connections;
    let bounds = connection_limiter::Bounds { all, per_address: settings.max_connections_per_address.unwrap_or(all) };
    let server = HttpServer::new(bounds, tls, limits, group.stop.clone());
    for listener in listeners {
        let intake = intake.clone();
        let service = hyper::service::service_fn(move |request| {
            let intake = intake.read().expect("no holder panics").clone();
            async move { intake.handle(request).await }
        });
        group.tasks.spawn(server.clone().serve(listener, service));
    }
    group
}

/// Serves the admin API on its sockets, which share their connections.
pub(super) fn serve_admin(
    listeners: Vec<TcpListener>,
    sockets: Vec<Socket>,
    api: &Router,
    settings: &settings::Admin,
) -> anyhow::Result<TaskGroup> {
    let group = TaskGroup::new();
    let limits = Limits {
        head_bytes_max: ADMIN_HEAD_BYTES_MAX,
        head_timeout: ADMIN_HEAD_TIMEOUT,
        write_timeout: settings.write_timeout,
        linger_timeout: ADMIN_LINGER_TIMEOUT,
    };
    let bounds = connection_limiter::Bounds { all: settings.max_connections, per_address: settings.max_connections };
    let server = HttpServer::new(bounds, None, limits, group.stop.clone());
    for listener in listeners {
        let via = Extension(admin::Via::Tcp(listener.local_addr()?));
        let service = TowerToHyperService::new(api.clone().layer(via));
        group.tasks.spawn(server.clone().serve(listener, service));
    }
    for socket in sockets {
        let service = TowerToHyperService::new(api.clone().layer(middleware::from_fn(admin::by_user)));
        group.tasks.spawn(server.clone().serve(socket, service));
    }
    Ok(group)
}

/// Who may use the admin API: the admin token with all scopes, and the tokens of the configuration.
pub(super) fn grants(token: &str, settings: &settings::Admin) -> anyhow::Result<Vec<Grant>> {
    let mut grants = vec![Grant::new("admin".to_owned(), token, Scope::ALL.to_vec())];
    for named in &settings.tokens {
        let token = named.token.read().map_err(|why| anyhow!("admin.tokens, `{}`: {why}", named.name))?;
        let (name, scopes) = (named.name.clone(), named.scopes.clone());
        grants.push(Grant::new(name, token.expose(), scopes));
    }
    Ok(grants)
}

/// The admin token: the configured one, or the one in the data folder, which is created if it is missing.
pub(super) fn admin_token(from: &Token, data: &Path) -> anyhow::Result<String> {
    use std::io::{Read, Write};
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    if let Token::Given(secret) = from {
        return Ok(secret.read().map_err(|why| anyhow!("admin.token: {why}"))?.expose().to_owned());
    }
    let path = data.join("admin.token");
    if let Ok(bytes) = std::fs::read(&path) {
        match std::str::from_utf8(bytes.trim_ascii()) {
            Ok(token) if !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic()) => {
                return Ok(token.to_owned());
            }
            _ => {
                tracing::warn!(path = %path.display(), "the file holds no usable token; a new one is made")
            }
        }
    }
    let mut random = [0u8; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut random))
        .context("cannot read /dev/urandom")?;
    let token: String = random.iter().map(|b| format!("{b:02x}")).collect();
    let mut file = std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&path);
    // an existing file would keep its mode
    let private = std::fs::Permissions::from_mode(0o600);
    let written = file
        .as_mut()
        .map(|f| f.set_permissions(private).and_then(|()| writeln!(f, "{token}")).and_then(|()| f.sync_all()));
    written
        .map_err(|e| anyhow!("{e}"))
        .and_then(|r| Ok(r?))
        .with_context(|| format!("cannot write {}", path.display()))?;
    tracing::info!(path = %path.display(), "made the admin token");
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_token_is_kept_and_an_unusable_one_is_replaced() {
        let data = tempfile::tempdir().unwrap();
        let file = data.path().join("admin.token");
        let made = admin_token(&Token::Generated, data.path()).unwrap();
        assert_eq!(admin_token(&Token::Generated, data.path()).unwrap(), made);
        std::fs::write(&file, "  by-hand\n").unwrap();
        assert_eq!(admin_token(&Token::Generated, data.path()).unwrap(), "by-hand");
        for damaged in [b"".as_slice(), b"\0\0\0", b"to\xffken", "to\u{6a6}ken".as_bytes(), b"two words"] {
            std::fs::write(&file, damaged).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
            let anew = admin_token(&Token::Generated, data.path()).unwrap();
            assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!((anew.len(), std::fs::read_to_string(&file).unwrap()), (64, format!("{anew}\n")));
        }
    }
}
