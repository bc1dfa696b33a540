//! Settings as used: every value checked, every default filled in.

mod destination;
mod secret;
mod source;

pub use destination::{
    ClientAuth, Destination, DestinationAuth, DestinationTls, Identity, OAuth2, OnDeadLetter, OrderMode, Ordering,
};
pub use secret::{InvalidValue, Secret, SecretError, SecretValue, Url, parse_url, quoted, shown_url, text_shown};
pub use source::{Composite, Handshake, OnFault, PROFILES, Pointers, Source, SourceAuth};

use crate::event::SharedKeys;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub intake: Intake,
    pub admin: Admin,
    pub store: Store,
    pub sources: Vec<Source>,
    pub destinations: Vec<Destination>,
    pub dlq: Dlq,
    pub quarantine: Quarantine,
    pub history: History,
    pub alerts: Vec<Alert>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Intake {
    pub listen: Vec<SocketAddr>,
    /// Whether it also listens on the sockets of the service manager ("systemd").
    pub inherit: bool,
    pub max_body_bytes: usize,
    /// Request line and headers together.
    pub max_header_bytes: usize,
    /// None: plain HTTP.
    pub tls: Option<ServerTls>,
    pub max_connections: usize,
    /// The limit for one address.
    pub max_connections_per_address: Option<usize>,
    /// Deepest nesting of JSON that is accepted.
    pub max_json_depth: usize,
    /// Most events of one request, where a body holds an array of them.
    pub max_batch: usize,
    /// Names and values of the headers that are forwarded with an event.
    pub max_forwarded_header_bytes: usize,
    /// Bodies of all requests that are being read or wait for the disk; at least `max_body_bytes`.
    pub max_buffered_bytes: usize,
    /// The part of it for unauthenticated senders; at least `max_body_bytes`.
    pub max_unverified_bytes: Option<usize>,
    pub max_unverified_bytes_per_address: Option<usize>,
    pub max_unverified_bytes_per_connection: Option<usize>,
    /// The part of `max_buffered_bytes` that the verified requests of one source may hold where there are several; 0 to 1.
    pub source_share: f64,
    /// From the first byte of a connection, or the end of the last request, to the end of the headers.
    pub header_timeout: Duration,
    /// From the end of the headers to the end of the body.
    pub body_timeout: Duration,
    /// After this time the average rate must be at least `min_body_rate`.
    pub body_grace: Duration,
    /// Bytes per second; zero: any rate.
    pub min_body_rate: usize,
    /// How long the rest of a refused request is read and discarded, so that the answer arrives.
    pub linger_timeout: Duration,
    /// 200 or 202.
    pub success_status: u16,
    /// Free bytes below which intake answers 503.
    pub disk_reserve_bytes: u64,
    /// Bytes of waiting events above which intake answers 503.
    pub max_queue_bytes: u64,
    /// The part of it that one source may hold where there are several; 0 to 1.
    pub queue_share: f64,
}

/// Files in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// The chain, the server's own certificate first.
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Authorities, one of which must have signed the certificate of a sender.
    pub client_ca: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    pub listen: Vec<SocketAddr>,
    /// Paths of unix sockets.
    pub sockets: Vec<PathBuf>,
    /// On all of them together.
    pub max_connections: usize,
    /// Longest time in which a peer may read nothing of an answer.
    pub write_timeout: Duration,
    /// The token with all scopes.
    pub token: Token,
    /// Further tokens, each with a name and scopes.
    pub tokens: Vec<NamedToken>,
}

/// A token of the admin API with some scopes.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedToken {
    /// As written in the audit log.
    pub name: String,
    pub token: Secret,
    pub scopes: Vec<Scope>,
}

/// What a token allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything but bodies.
    Read,
    /// Changes; includes reading.
    Operate,
    /// Bodies of events.
    Reveal,
}

impl Scope {
    pub const ALL: [Self; 3] = [Self::Read, Self::Operate, Self::Reveal];

    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Reveal => "reveal",
        }
    }
}

/// Where the admin token comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    /// Generated at the first start, in `DATA/admin.token`.
    Generated,
    Given(Secret),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Store {
    pub path: PathBuf,
    pub require_power_safe: bool,
    /// How long in-flight deliveries may take to end when the daemon is asked to stop.
    pub drain_timeout: Duration,
    /// Bytes kept on the disk, so that the store can be started and worked on when it is full.
    pub ballast_bytes: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Dlq {
    /// How long a dead letter is kept at least.
    pub retention: Duration,
    pub max_bytes: u64,
    /// The part of it that one source may have where several have dead letters, 0 to 1.
    pub source_share: f64,
    /// Whether the oldest dead letters are deleted when `max_bytes` or `retention` is exceeded.
    pub evict: bool,
}

/// Limits of the history of accepted and settled events.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    /// At least the longest `dedup_window`.
    pub retention: Duration,
    /// Above it the oldest events are evicted, regardless of their age.
    pub max_bytes: u64,
    /// Memory for the ids of senders; above it the oldest are evicted, too.
    pub max_memory: u64,
}

/// Limits of the quarantine.
#[derive(Clone, Debug, PartialEq)]
pub struct Quarantine {
    pub max_bytes: u64,
    /// The part of it for one source, where several quarantine requests; 0 to 1.
    pub source_share: f64,
    /// The part of it for all unauthenticated requests; 0 to 1.
    pub unverified_share: f64,
    /// Older requests are deleted.
    pub retention: Duration,
}

/// A receiver of alerts, and its conditions.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    pub to: AlertTo,
    pub on: Vec<Condition>,
    /// At most one message of a kind in this time.
    pub digest: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub enum AlertTo {
    Webhook(Url),
    /// Program and arguments; it reads the message from standard input.
    Command(Vec<String>),
}

/// When an alert is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    DeadLetter,
    BreakerOpen,
    DiskLow,
    IntakeRefused,
    Damaged,
    DlqOverLimit,
    /// Events were evicted from the history early.
    HistoryFull,
    /// A destination sent a Retry-After longer than `retry_after_max`, which was cut to that.
    RetryAfterCut,
    /// A certificate in use ends within this time.
    Certificate(Duration),
    QueueDepth(u64),
    OldestAge(Duration),
    Silence(Duration),
    DiskFull(Duration),
    /// Events could not be accepted for longer than this.
    Outage(Duration),
}

impl Condition {
    /// Conditions without a limit.
    pub const PLAIN: [Self; 8] = [
        Self::DeadLetter,
        Self::BreakerOpen,
        Self::DiskLow,
        Self::IntakeRefused,
        Self::Damaged,
        Self::DlqOverLimit,
        Self::HistoryFull,
        Self::RetryAfterCut,
    ];
    /// `certificate` alone: 14 days.
    pub const CERTIFICATE: Self = Self::Certificate(Duration::from_secs(14 * 86_400));
}

/// As written in the configuration.
impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let time = |d: &Duration| humantime::format_duration(*d).to_string();
        match self {
            Self::DeadLetter => f.write_str("dead_letter"),
            Self::BreakerOpen => f.write_str("breaker_open"),
            Self::DiskLow => f.write_str("disk_low"),
            Self::IntakeRefused => f.write_str("intake_refused"),
            Self::Damaged => f.write_str("damaged"),
            Self::DlqOverLimit => f.write_str("dlq_over_limit"),
            Self::HistoryFull => f.write_str("history_full"),
            Self::RetryAfterCut => f.write_str("retry_after_cut"),
            Self::Certificate(d) => write!(f, "certificate < {}", time(d)),
            Self::QueueDepth(n) => write!(f, "queue_depth > {n}"),
            Self::OldestAge(d) => write!(f, "oldest_age > {}", time(d)),
            Self::Silence(d) => write!(f, "silence > {}", time(d)),
            Self::DiskFull(d) => write!(f, "disk_full < {}", time(d)),
            Self::Outage(d) => write!(f, "outage > {}", time(d)),
        }
    }
}

impl Default for History {
    fn default() -> Self {
        Self { retention: Duration::ZERO, max_bytes: 4 * GIB, max_memory: GIB }
    }
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: u64 = 1 << 30;

const fn hours(n: u64) -> Duration {
    Duration::from_secs(n * 3600)
}

impl Default for Intake {
    fn default() -> Self {
        Self {
            listen: vec![(Ipv4Addr::LOCALHOST, 8080).into()],
            inherit: false,
            max_body_bytes: MIB,
            max_header_bytes: 64 * KIB,
            tls: None,
            max_connections: 1024,
            max_connections_per_address: None,
            max_json_depth: 64,
            max_batch: 1000,
            max_forwarded_header_bytes: 4 * KIB,
            max_buffered_bytes: 64 * MIB,
            max_unverified_bytes: None,
            max_unverified_bytes_per_address: None,
            max_unverified_bytes_per_connection: None,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            body_grace: Duration::from_secs(10),
            min_body_rate: KIB,
            linger_timeout: Duration::from_secs(10),
            success_status: 202,
            disk_reserve_bytes: GIB / 2,
            max_queue_bytes: 20 * GIB,
            queue_share: 0.8,
            source_share: 0.8,
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            listen: vec![(Ipv4Addr::LOCALHOST, 8081).into()],
            sockets: Vec::new(),
            max_connections: 256,
            write_timeout: Duration::from_secs(60),
            token: Token::Generated,
            tokens: Vec::new(),
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self {
            path: "/var/lib/holdline".into(),
            require_power_safe: false,
            drain_timeout: Duration::from_secs(25),
            ballast_bytes: 32 << 20,
        }
    }
}

impl Default for Dlq {
    fn default() -> Self {
        Self { retention: hours(7 * 24), max_bytes: 5 * GIB, source_share: 0.8, evict: false }
    }
}

impl Default for Quarantine {
    fn default() -> Self {
        Self { max_bytes: 64 * MIB as u64, source_share: 0.5, unverified_share: 0.75, retention: hours(7 * 24) }
    }
}

impl Settings {
    pub fn source(&self, name: &str) -> Option<&Source> {
        self.sources.iter().find(|s| s.name == name)
    }

    /// The sources whose keys are shared.
    pub fn shared_keys(&self) -> SharedKeys {
        SharedKeys::of(self.sources.iter().filter(|s| s.shared_keys).map(|s| s.name.clone()))
    }

    /// The names of the sources and their dedup windows.
    pub fn dedup_windows(&self) -> BTreeMap<String, Duration> {
        self.sources.iter().map(|s| (s.name.clone(), s.dedup_window)).collect()
    }
}
