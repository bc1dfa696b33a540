//! Authentication and authorization of admin API requests: tokens with scopes, users of the unix socket, and a check against
//! requests from pages of other sites.
//!
//! *Invariants.* A token is compared by its SHA-256 digest with every configured token, in constant time; response times
//! reveal neither its content nor its length. The caller's scope is checked before the handler runs. Every refusal is
//! counted for the audit and has the same text; after repeated wrong tokens the refusal of a wrong token is delayed.
//! Requests over loopback are answered only for loopback host names, which prevents DNS rebinding. A request that declares
//! another site as its origin is refused on every listener.

use super::access_log::{self, Refusal, UNAUTHENTICATED};
use super::{Admin, Failure};
use crate::config::settings::Scope;
use crate::net::answer::TrackedBody;
use crate::net::connection_limiter::Slot;
use axum::body::{Body, to_bytes};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use subtle::ConstantTimeEq;

/// Connections that authenticated requests cannot occupy, so that health checks are answered under any load.
const KEPT_FOR_OTHERS: usize = 16;
/// The largest request body in bytes, and the longest time to receive it.
const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// A token, its scopes, and its name in the audit.
#[derive(Clone)]
pub struct Grant {
    name: String,
    /// SHA-256 of the token.
    token: [u8; 32],
    scopes: Vec<Scope>,
}

impl Grant {
    pub fn new(name: String, token: &str, scopes: Vec<Scope>) -> Self {
        Self { name, token: Sha256::digest(token).into(), scopes }
    }
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grant").field("name", &self.name).field("scopes", &self.scopes).finish_non_exhaustive()
    }
}

/// How a request arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// Over TCP, to this local address.
    Tcp(SocketAddr),
    /// Over the unix socket, from a process of this user according to the kernel.
    Unix { uid: u32 },
}

/// The caller as the audit names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub name: String,
    scopes: Vec<Scope>,
}

impl Caller {
    pub(super) fn may(&self, scope: Scope) -> bool {
        // `operate` includes `read`
        self.scopes.contains(&scope) || (scope == Scope::Read && self.scopes.contains(&Scope::Operate))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        parts.extensions.get::<Self>().cloned().ok_or_else(Failure::unauthorized)
    }
}

/// Identifies the caller. On the unix socket root and the daemon's own user need no token: both can read the data files
/// anyway.
fn caller(grants: &[Grant], own_uid: u32, via: Option<Via>, headers: &HeaderMap) -> Result<Caller, Refusal> {
    match headers.get(header::AUTHORIZATION) {
        None => match via {
            Some(Via::Unix { uid }) if uid == 0 || uid == own_uid => {
                let name = if uid == 0 { "unix:root".to_owned() } else { format!("unix:{uid}") };
                Ok(Caller { name, scopes: Scope::ALL.to_vec() })
            }
            _ => Err(Refusal::NoToken),
        },
        Some(given) => {
            let digest: [u8; 32] = Sha256::digest(bearer(given.as_bytes())).into();
            let mut found = None;
            for grant in grants {
                if bool::from(digest.ct_eq(&grant.token)) {
                    found = Some(grant);
                }
            }
            let grant = found.ok_or(Refusal::WrongToken)?;
            Ok(Caller { name: grant.name.clone(), scopes: grant.scopes.clone() })
        }
    }
}

/// The token of `Bearer TOKEN`, empty if there is none. The scheme name is case-insensitive (RFC 9110, 11.1).
fn bearer(given: &[u8]) -> &[u8] {
    match given.split_at_checked(7) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => token,
        _ => b"",
    }
}

/// The remote address; none for the unix socket.
fn peer(request: &Request) -> Option<IpAddr> {
    request.extensions().get::<Slot>()?.peer().address()
}

/// The origin of a request as the audit names it.
fn origin(via: Option<Via>, peer: Option<IpAddr>) -> String {
    match (via, peer) {
        (_, Some(ip)) => ip.to_string(),
        (Some(Via::Unix { uid }), None) => format!("unix:{uid}"),
        _ => "an unknown address".to_owned(),
    }
}

/// Passes a request on if its caller has the scope that the path requires.
pub async fn authorize(
    State((admin, scope)): State<(Arc<Admin>, Scope)>,
    mut request: Request,
    next: Next,
) -> Response {
    let via = request.extensions().get::<Via>().copied();
    let (peer, slot) = (peer(&request), request.extensions().get::<Slot>().cloned());
    match caller(&admin.grants, admin.own_uid, via, request.headers()) {
        Ok(caller) if caller.may(scope) => {
            if slot.as_ref().is_some_and(|slot| !slot.set_authenticated(KEPT_FOR_OTHERS)) {
                let message = "as many requests with a token are served as may be; try again in a moment";
                return Failure::unavailable(message).into_response();
            }
            request.extensions_mut().insert(caller);
            let request = match with_body(request).await {
                Ok(request) => request,
                Err(failure) => return failure.into_response(),
            };
            match slot.map(|slot| slot.start_request()) {
                // a streamed response counts as an active request until its body ends
                Some(in_hand) => next.run(request).await.map(|body| Body::new(TrackedBody::new(body, in_hand))),
                None => next.run(request).await,
            }
        }
        Ok(caller) => {
            let asked = access_log::asked(request.method(), request.uri().path());
            admin.access.refused(&caller.name, Refusal::Scope, asked, admin.clock.now());
            let message = format!("this needs the scope `{}`, which `{}` does not have", scope.word(), caller.name);
            Failure::forbidden(message).into_response()
        }
        Err(why) => {
            let now = admin.clock.now();
            admin.access.refused(UNAUTHENTICATED, why, origin(via, peer), now);
            if why == Refusal::WrongToken {
                let until = admin.access.failed(peer, now);
                if until > now {
                    // while the refusal is delayed, the connection can be evicted
                    let _waiting = slot.as_ref().map(Slot::receive_body);
                    admin.clock.sleep_until(until).await;
                }
            }
            Failure::unauthorized().into_response()
        }
    }
}

/// Reads the whole body of the request.
async fn with_body(request: Request) -> Result<Request, Failure> {
    let (head, body) = request.into_parts();
    let body = match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(bytes)) => Body::from(bytes),
        Ok(Err(_)) => {
            return Err(Failure::bad(format!("the body broke off, or is longer than {BODY_BYTES_MAX} bytes")));
        }
        Err(_) => return Err(Failure::timeout("the body did not arrive in time")),
    };
    Ok(Request::from_parts(head, body))
}

/// Writes an audit entry durably before any body is returned.
pub async fn note_read(State(admin): State<Arc<Admin>>, caller: Caller, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let response = next.run(request).await;
    if !response.status().is_success() {
        return response;
    }
    match access_log::read(&admin.store, &caller.name, &path, admin.clock.now()).await {
        Ok(()) => response,
        Err(why) => Failure::from(why).into_response(),
    }
}

/// Refuses requests that a web page of another site may have sent.
pub async fn same_site(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    let via = request.extensions().get::<Via>().copied();
    let Some(why) = foreign(via, request.headers()) else { return next.run(request).await };
    admin.access.refused(UNAUTHENTICATED, Refusal::OtherSite, origin(via, peer(&request)), admin.clock.now());
    Failure::forbidden(why).into_response()
}

fn foreign(via: Option<Via>, headers: &HeaderMap) -> Option<&'static str> {
    let Some(Via::Tcp(local)) = via else { return None };
    let text = |name| headers.get(name).map(|v: &header::HeaderValue| v.to_str().unwrap_or("?"));
    let host = text(header::HOST).unwrap_or_default();
    if local.ip().is_loopback() && !names_loopback(host) {
        return Some("over loopback the Host header must be localhost or a loopback address");
    }
    let origin = text(header::ORIGIN)?;
    let same = origin.split_once("://").is_some_and(|(scheme, from)| scheme.starts_with("http") && from == host);
    (!same).then_some("the Origin header names another site")
}

fn names_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(header::HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), header::HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_token_allows_its_scopes_and_root_on_the_socket_everything() {
        let grant = |name: &str, token: &str, scopes: &[Scope]| Grant::new(name.to_owned(), token, scopes.to_vec());
        let grants = [grant("admin", "aaa", &Scope::ALL), grant("grafana", "bbb", &[Scope::Read])];
        let tcp = Some(Via::Tcp("127.0.0.1:1".parse().unwrap()));
        let of = |via, auth: Option<&'static str>| {
            let given: Vec<_> = auth.map(|a| (header::AUTHORIZATION, a)).into_iter().collect();
            caller(&grants, 900, via, &headers(&given)).ok()
        };
        let scopes = |c: &Caller| Scope::ALL.map(|s| c.may(s));
        let admin = of(tcp, Some("Bearer aaa")).unwrap();
        assert_eq!((admin.name.as_str(), scopes(&admin)), ("admin", [true; 3]));
        let grafana = of(tcp, Some("Bearer bbb")).unwrap();
        assert_eq!((grafana.name.as_str(), scopes(&grafana)), ("grafana", [true, false, false]));
        assert_eq!(of(tcp, Some("bearer bbb")).unwrap().name, "grafana", "a scheme is in any case");
        for auth in [None, Some("Bearer "), Some("bbb"), Some("Bearer bbbb"), Some("Basic bbb"), Some("Bearer bb")] {
            assert_eq!(of(tcp, auth), None, "{auth:?}");
        }
        let odd = HeaderMap::from_iter([(header::AUTHORIZATION, header::HeaderValue::from_bytes(b"\xff").unwrap())]);
        let refusal = caller(&grants, 900, Some(Via::Unix { uid: 0 }), &odd);
        assert_eq!(refusal, Err(Refusal::WrongToken), "what is no text is a wrong token too");
        for (uid, open) in [(0, true), (900, true), (901, false)] {
            assert_eq!(of(Some(Via::Unix { uid }), None).is_some(), open, "{uid}");
        }
        assert_eq!(of(Some(Via::Unix { uid: 0 }), Some("Bearer wrong")), None, "a wrong token is never overlooked");
        let operator = Caller { name: String::new(), scopes: vec![Scope::Operate] };
        assert_eq!(scopes(&operator), [true, true, false]);
    }

    #[test]
    fn other_sites_and_rebound_names_are_foreign() {
        let loopback = Some(Via::Tcp("127.0.0.1:8081".parse().unwrap()));
        let lan = Some(Via::Tcp("10.0.0.1:8081".parse().unwrap()));
        for (via, host, origin, ok) in [
            (loopback, "127.0.0.1:8081", None, true),
            (loopback, "localhost:8081", None, true),
            (loopback, "LOCALHOST", None, true),
            (loopback, "[::1]:8081", None, true),
            (loopback, "evil.example:8081", None, false),
            (loopback, "localhost.evil.example", None, false),
            (loopback, "127.0.0.1.evil.example", None, false),
            (loopback, "", None, false),
            (lan, "ops.example:8081", None, true),
            (lan, "ops.example:8081", Some("https://ops.example:8081"), true),
            (lan, "ops.example:8081", Some("http://evil.example"), false),
            (loopback, "localhost:8081", Some("http://localhost:8081"), true),
            (loopback, "localhost:8081", Some("http://localhost:3000"), false),
            (loopback, "localhost:8081", Some("null"), false),
            (Some(Via::Unix { uid: 5 }), "x", Some("http://evil.example"), true),
        ] {
            let mut given = vec![(header::HOST, host)];
            given.extend(origin.map(|o| (header::ORIGIN, o)));
            assert_eq!(foreign(via, &headers(&given)).is_none(), ok, "{via:?} {host} {origin:?}");
        }
    }
}
