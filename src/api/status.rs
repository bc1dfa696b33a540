//! The state and the numbers of the daemon, of its destinations and of its sources.

use super::{BlockedBy, Outage, Time};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How the daemon is doing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    pub version: String,
    pub state: DaemonState,
    pub started_at: Time,
    /// What stands between an acknowledged event and a power cut: `inode-sync`, `fdatasync` or `unsafe`.
    pub durability: String,
    pub intake: IntakeState,
    /// The last time in which events could not be accepted.
    pub last_outage: Option<Outage>,
    pub counters: Counters,
    pub queue: Queue,
    pub dlq: DeadLetterQueue,
    pub disk: Disk,
    pub history: History,
    pub certificates: Vec<Certificate>,
    pub rates: Rates,
    pub forecast: Forecast,
    pub destinations: Vec<Destination>,
    pub sources: Vec<Source>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DaemonState {
    #[default]
    Starting,
    Running,
    Draining,
}

impl DaemonState {
    pub const ALL: [Self; 3] = [Self::Starting, Self::Running, Self::Draining];

    /// The word for it in JSON, metrics and tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Draining => "draining",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IntakeState {
    pub open: bool,
    pub reason: Option<String>,
}

/// Since the store was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counters {
    pub accepted: u64,
    pub duplicates: u64,
    pub conflicts: u64,
    pub ignored: u64,
    pub delivered: u64,
    pub dead_lettered: u64,
    pub discarded: u64,
    pub redriven: u64,
    pub damaged: u64,
}

/// Deliveries that wait.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Queue {
    pub depth: u64,
    pub bytes: u64,
    pub oldest_age_ms: u64,
    pub in_flight: usize,
    pub delayed: usize,
    /// Those that wait behind others of their interaction.
    pub blocked: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterQueue {
    pub depth: u64,
    pub bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Disk {
    pub free_bytes: u64,
    /// Free bytes below which intake closes.
    pub reserve_bytes: u64,
    /// Beside the reserve, what waits may take once it has failed: intake closes with less free than both.
    pub growth_bytes: u64,
    /// Kept for the daemon itself; below half of `store.ballast`, with nothing free, nothing new is sent.
    pub ballast_bytes: u64,
    pub used_bytes: u64,
    /// The data folder.
    pub path: String,
    /// Its permissions, as `700`; null where they cannot be read.
    pub mode: Option<String>,
}

/// What is remembered of events, to recognise duplicates and late ones: on disk, and the ids of senders in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct History {
    pub events: u64,
    pub bytes: u64,
    pub memory_bytes: u64,
    /// Forgotten before their time since the start, because `history.max_bytes` or `history.max_memory` is reached.
    pub forgotten_early: u64,
}

/// A certificate in use, or the first to end of several in one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Certificate {
    /// `intake`, or the name of a destination.
    pub of: String,
    /// `own`: it proves who holdline is. `authority`: it proves who others are.
    pub role: String,
    pub ends_at: Time,
    /// Below zero where it has ended.
    pub ends_in_s: i64,
}

/// Per second, over the last minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Rates {
    pub accepted_per_s: f64,
    pub delivered_per_s: f64,
    pub dead_per_s: f64,
}

/// What follows at the current rates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Forecast {
    /// Null where the queue does not shrink.
    pub drained_in_s: Option<u64>,
    /// When the free bytes of the disk come down to `intake.disk_reserve`, whoever takes them; then intake closes. Null
    /// where they do not fall steadily, or where that is further away than the trend can show: two days at most.
    pub disk_full_in_s: Option<u64>,
}

/// The state of a destination as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DestinationState {
    #[default]
    Ok,
    /// Deliveries go on at its concurrency limit or its rate; nothing is wrong.
    Pacing,
    /// Some deliveries wait for their next attempt.
    Retrying,
    /// Some deliveries wait behind dead letters of their interaction.
    BlockedByDlq,
    /// Nothing is sent; `blocked_by` says why.
    Blocked,
    BreakerOpen,
    BreakerHalfOpen,
    Paused,
}

impl DestinationState {
    pub const ALL: [Self; 8] = [
        Self::Ok,
        Self::Pacing,
        Self::Retrying,
        Self::BlockedByDlq,
        Self::Blocked,
        Self::BreakerOpen,
        Self::BreakerHalfOpen,
        Self::Paused,
    ];

    /// The word for it in JSON and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Pacing => "pacing",
            Self::Retrying => "retrying",
            Self::BlockedByDlq => "blocked_by_dlq",
            Self::Blocked => "blocked",
            Self::BreakerOpen => "breaker_open",
            Self::BreakerHalfOpen => "breaker_half_open",
            Self::Paused => "paused",
        }
    }

    /// Whether the state needs an operator's attention.
    pub fn is_trouble(self) -> bool {
        !matches!(self, Self::Ok | Self::Pacing)
    }

    /// The state that follows from the other fields of a destination.
    pub fn of(paused: bool, breaker: BreakerState, blocked_by: &[BlockedBy], queue: &DestinationQueue) -> Self {
        match breaker {
            _ if paused => Self::Paused,
            BreakerState::Open => Self::BreakerOpen,
            BreakerState::HalfOpen => Self::BreakerHalfOpen,
            BreakerState::Closed if blocked_by.iter().any(|by| !by.blocker.is_pacing()) => Self::Blocked,
            BreakerState::Closed if queue.behind_dead_letters.deliveries > 0 => Self::BlockedByDlq,
            BreakerState::Closed if !blocked_by.is_empty() => Self::Pacing,
            BreakerState::Closed if queue.delayed > 0 => Self::Retrying,
            BreakerState::Closed => Self::Ok,
        }
    }
}

/// A destination.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Destination {
    pub name: String,
    /// Without the values of its query; of one that is kept as a secret only scheme, host and port. Null where its events
    /// wait for a URL.
    pub url: Option<String>,
    pub state: DestinationState,
    pub paused: bool,
    pub breaker: Breaker,
    pub concurrency: Concurrency,
    pub latency: Latency,
    /// What blocks everything that waits for it, the one that lasts longest first.
    pub blocked_by: Vec<BlockedBy>,
    pub queue: DestinationQueue,
    pub rates: Rates,
    pub counters: DestinationCounters,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    #[default]
    Closed,
    Open,
    HalfOpen,
}

impl BreakerState {
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// The word for it in JSON and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// A circuit breaker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Breaker {
    /// As the next request would find it.
    pub state: BreakerState,
    /// Since when; null where it was closed when the daemon started and nobody set it.
    pub since: Option<Time>,
    /// When its state ends by itself: an open one is half-open from then on, one that is kept closed is left to itself.
    /// Null where no time ends it.
    pub until: Option<Time>,
    /// Null where it is closed and left to itself.
    pub reason: Option<String>,
    /// Who set it; null where the calls did.
    pub set_by: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Concurrency {
    /// Most requests in flight, as latency and errors are now.
    pub limit: usize,
    pub max: usize,
    pub in_flight: usize,
}

/// How long its answers take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Latency {
    /// When little is asked of it; null before its first success.
    pub usual_ms: Option<u64>,
    /// Where at least `breaker.slow_ratio` of the requests of the window took `breaker.slow_call` longer than that: how many
    /// of how many. They succeed, so nothing is blocked but by the adaptive limit.
    pub slow: Option<SlowCalls>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SlowCalls {
    pub slow: u32,
    pub of: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DestinationQueue {
    pub depth: u64,
    pub oldest_age_ms: u64,
    pub delayed: usize,
    /// Those that wait behind others of their interaction.
    pub blocked: usize,
    pub behind_dead_letters: BehindDeadLetters,
}

/// Deliveries that wait behind dead letters, as far as they have been read ahead; only where `ordering.on_dead_letter` is
/// `hold`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BehindDeadLetters {
    pub interactions: usize,
    pub deliveries: usize,
    pub oldest_age_ms: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DestinationCounters {
    pub accepted: u64,
    pub delivered: u64,
    pub dead: u64,
    pub discarded: u64,
}

/// A source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Source {
    /// `(unknown)` for what was sent to names that no source has.
    pub name: String,
    /// When something of it was last answered with a success; null where that was not since the start.
    pub last_event_at: Option<Time>,
    /// Requests refused since the start.
    pub refused: u64,
    /// Those by reason.
    pub refusals: Vec<Refusal>,
}

/// What was refused for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Refusal {
    pub status: u16,
    pub code: String,
    pub count: u64,
}

/// How old what waits for a destination is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ages {
    pub destination: String,
    pub ages: Vec<AgeCount>,
}

/// Deliveries younger than so many seconds, and older than the bound before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AgeCount {
    /// Null where there is no bound.
    pub below_s: Option<u64>,
    pub count: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::Blocker;

    #[test]
    fn a_destination_at_its_limit_is_pacing_and_not_in_trouble() {
        let by = |blocker| BlockedBy { blocker, until: None, behind: None, set_by: "x".into(), reason: None };
        let idle = DestinationQueue::default();
        let retrying = DestinationQueue { delayed: 1, ..DestinationQueue::default() };
        let of = |blocked: &[BlockedBy], queue| DestinationState::of(false, BreakerState::Closed, blocked, queue);
        let pacing = of(&[by(Blocker::Concurrency), by(Blocker::Rate)], &retrying);
        assert_eq!((pacing, pacing.is_trouble()), (DestinationState::Pacing, false));
        assert_eq!(of(&[by(Blocker::Concurrency), by(Blocker::RetryAfter)], &idle), DestinationState::Blocked);
        assert_eq!((of(&[], &retrying), of(&[], &idle)), (DestinationState::Retrying, DestinationState::Ok));
        let open = DestinationState::of(false, BreakerState::Open, &[by(Blocker::Breaker)], &idle);
        assert_eq!((open, open.is_trouble()), (DestinationState::BreakerOpen, true));
        assert_eq!(DestinationState::of(true, BreakerState::Open, &[], &idle), DestinationState::Paused);
        for state in DestinationState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.word());
        }
    }
}
