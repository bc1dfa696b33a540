//! Settings of destinations: where events go, how often a delivery is tried, and in which order.

use super::{Secret, Url};
use crate::rules::address_policy::AddressPolicy;
use crate::rules::backoff::Retry;
use crate::rules::breaker;
use crate::rules::concurrency::Adaptive;
use crate::rules::lateness::OnStale;
use crate::rules::lateness::Ttl;
use crate::rules::rate::Rate;
use crate::rules::verdict::Success;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq)]
pub struct Destination {
    pub name: String,
    /// `http` or `https`. None: events wait (`holdline serve` without `--to`).
    pub url: Option<Url>,
    /// Of one attempt, from connecting to the last byte of the answer.
    pub timeout: Duration,
    /// Of a connection, however busy it is; zero: each request has one of its own.
    pub connection_lifetime: Duration,
    /// Requests in flight at once.
    pub concurrency_max: usize,
    /// Whether the limit is lowered by latency and errors.
    pub adaptive: Adaptive,
    /// How long requests take to return to the limit after a pause or an open breaker.
    pub ramp_up: Duration,
    pub rate: Option<Rate>,
    pub breaker: breaker::Limits,
    pub retry: Retry,
    pub ordering: Ordering,
    pub ttl: Ttl,
    /// Sent with each request.
    pub auth: Option<DestinationAuth>,
    pub tls: DestinationTls,
    /// Secrets, each of which signs every request as in Standard Webhooks.
    pub sign: Vec<Secret>,
    /// What the body of a 2xx must hold.
    pub success: Option<Success>,
    /// Which addresses its name may resolve to.
    pub address_policy: AddressPolicy,
}

/// Files in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DestinationTls {
    /// Certificates of authorities, trusted in place of those of the system.
    pub ca: Option<PathBuf>,
    pub identity: Option<Identity>,
}

/// A client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The certificate, and those between it and its authority.
    pub cert: PathBuf,
    pub key: PathBuf,
}

#[derive(Clone, Debug, PartialEq)]
pub enum DestinationAuth {
    Bearer {
        token: Secret,
    },
    Basic {
        user: String,
        password: Secret,
    },
    Header {
        name: http::HeaderName,
        value: Secret,
    },
    OAuth2(OAuth2),
    /// The certificate of `tls`, and nothing else.
    Mtls,
}

impl DestinationAuth {
    pub fn secret(&self) -> Option<&Secret> {
        match self {
            Self::Bearer { token: secret }
            | Self::Basic { password: secret, .. }
            | Self::Header { value: secret, .. }
            | Self::OAuth2(OAuth2 { client_secret: secret, .. }) => Some(secret),
            Self::Mtls => None,
        }
    }
}

/// Client credentials (RFC 6749, 4.4).
#[derive(Clone, Debug, PartialEq)]
pub struct OAuth2 {
    pub token_url: Url,
    pub client_id: String,
    pub client_secret: Secret,
    pub scope: Option<String>,
    pub audience: Option<String>,
    pub client_auth: ClientAuth,
}

/// How a client sends its id and secret to a token endpoint (RFC 6749, 2.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    Basic,
    Body,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ordering {
    pub mode: OrderMode,
    pub on_dead_letter: OnDeadLetter,
    pub on_stale: OnStale,
    /// How long an event waits for one of its interaction that happened before it.
    pub reorder_window: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderMode {
    /// One event of an interaction at a time, in the order of acceptance.
    Interaction,
    None,
}

/// What a dead letter means for the later events of its interaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDeadLetter {
    Continue,
    /// They wait until the dead letter is redriven or purged.
    Hold,
}

impl Default for Ordering {
    fn default() -> Self {
        Self {
            mode: OrderMode::Interaction,
            on_dead_letter: OnDeadLetter::Continue,
            on_stale: OnStale::Flag,
            reorder_window: Duration::ZERO,
        }
    }
}

impl Destination {
    /// A destination with only its name set: its events wait.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            url: None,
            timeout: Duration::from_secs(10),
            connection_lifetime: Duration::from_secs(120),
            concurrency_max: 64,
            adaptive: Adaptive::Yes,
            ramp_up: Duration::from_secs(10),
            rate: None,
            breaker: breaker::Limits::default(),
            retry: Retry::default(),
            ordering: Ordering::default(),
            ttl: Ttl::default(),
            auth: None,
            tls: DestinationTls::default(),
            sign: Vec::new(),
            success: None,
            address_policy: AddressPolicy::Guarded,
        }
    }
}
