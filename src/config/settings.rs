//! Settings as used: every value checked, every default filled in. `reader.rs` makes them from what an operator wrote.

use crate::profile::Profile;
use crate::rules::backoff::Retry;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct Settings {
    pub intake: Intake,
    pub admin: Admin,
    pub store: Store,
    pub sources: Vec<Source>,
    pub destinations: Vec<Destination>,
    pub dlq: Dlq,
}

#[derive(Clone, Debug)]
pub struct Intake {
    pub listen: Vec<SocketAddr>,
    pub max_body_bytes: usize,
    pub max_header_bytes: usize,
    pub max_connections: usize,
    /// Deepest nesting of JSON that is accepted.
    pub max_json_depth: usize,
    /// Bodies of requests that are being read or wait for the disk, together.
    pub max_in_flight_bytes: usize,
    /// From the first byte of a connection, or the end of the last request, to the end of the headers.
    pub header_timeout: Duration,
    pub body_timeout: Duration,
    /// 200 or 202.
    pub success_status: u16,
    /// Free bytes below which intake answers 503.
    pub disk_reserve_bytes: u64,
    /// Bytes of events that wait, beyond which intake answers 503.
    pub max_queue_bytes: u64,
}

#[derive(Clone, Debug)]
pub struct Admin {
    pub listen: Vec<SocketAddr>,
    pub token: Token,
}

/// Where the admin token comes from.
#[derive(Clone, Debug)]
pub enum Token {
    /// Made at the first start, in `DATA/admin.token`.
    Made,
    Given(Secret),
}

/// A secret by reference; its value never stands in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    File(PathBuf),
    Env(String),
    /// A systemd credential: a file in `$CREDENTIALS_DIRECTORY`.
    Credential(String),
}

#[derive(Clone, Debug)]
pub struct Store {
    pub path: PathBuf,
    pub require_power_safe: bool,
    /// How long in-flight deliveries may take to end when the daemon is asked to stop.
    pub drain_timeout: Duration,
}

#[derive(Clone, Debug)]
pub struct Source {
    pub name: String,
    pub profile: Profile,
    pub dedup_window: Duration,
    /// Names of destinations; empty: all.
    pub to: Vec<String>,
    /// Patterns (`*` matches anything) of the event types that go on; empty: all.
    pub types: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Destination {
    pub name: String,
    /// `http` or `https`. None: events are held (`holdline serve` without `--to`).
    pub url: Option<http::Uri>,
    pub timeout: Duration,
    pub concurrency_max: usize,
    pub retry: Retry,
    pub ordering: Ordering,
    /// Sent with each request.
    pub auth: Option<DestinationAuth>,
}

#[derive(Clone, Debug)]
pub enum DestinationAuth {
    Bearer { token: Secret },
    Basic { user: String, password: Secret },
    Header { name: http::HeaderName, value: Secret },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ordering {
    pub mode: OrderMode,
    pub on_dead_letter: OnDeadLetter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderMode {
    Interaction,
    None,
}

/// What a dead letter means for the later events of its interaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDeadLetter {
    Continue,
    Hold,
}

#[derive(Clone, Debug)]
pub struct Dlq {
    pub retention: Duration,
    pub max_bytes: u64,
    /// Whether the oldest dead letters go when `max_bytes` or `retention` is passed.
    pub evict: bool,
}

impl Settings {
    pub fn source(&self, name: &str) -> Option<&Source> {
        self.sources.iter().find(|s| s.name == name)
    }

    /// Names of the sources and how long each remembers its events.
    pub fn dedup_windows(&self) -> BTreeMap<String, Duration> {
        self.sources.iter().map(|s| (s.name.clone(), s.dedup_window)).collect()
    }
}
