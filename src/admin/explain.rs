//! Why something waits: what blocks it, until when, behind which event, and who set it.
//!
//! *Invariants.* Whatever waits has a blocker with a name; there is no "unknown". All blockers are listed, the one that
//! lasts longest first: until it ends nothing is sent. A new blocker is a variant of [`Blocker`] and a line in [`shut`];
//! lists, single events, destinations, dashboard and command line follow.

use super::Admin;
use crate::delivery::{Blocked, Blocker};
use crate::dispatch::{Destination, DestinationStatus};
use crate::event::{DestinationId, Sequence};
use crate::rules::breaker;
use crate::scheduler::{DeliveryStatus, LimitReason};
use crate::store::Store;
use crate::time::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

/// Why nothing is sent to any destination.
const DISK_FULL: &str = "the disk is full, and what fails could not be written; free some disk, or purge dead letters";

/// What holds a delivery, or a whole destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Held {
    pub blocker: Blocker,
    /// RFC 3339; missing where no time ends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Id of the event that must be resolved first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind: Option<String>,
    /// `retry`, `ordering`, `destination`, `breaker`, `configuration`, `adaptive` or `ramp` for what cut the configured
    /// limit, or the name of who did it.
    pub set_by: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How long it lasts beside others; zero where it opens and shuts from one request to the next.
    #[serde(skip)]
    lasts: Timestamp,
}

impl Held {
    fn by(blocker: Blocker, set_by: &str) -> Self {
        let lasts = match blocker {
            Blocker::Concurrency | Blocker::Rate => Timestamp::ZERO,
            _ => Timestamp::NEVER,
        };
        Self { blocker, until: None, behind: None, set_by: set_by.to_owned(), reason: None, lasts }
    }

    fn until(self, until: Timestamp) -> Self {
        Self { until: Some(until.to_string()), lasts: self.lasts.min(until), ..self }
    }

    fn momentary(self) -> Self {
        Self { lasts: Timestamp::ZERO, ..self }
    }

    fn since(self, reason: &str) -> Self {
        Self { reason: Some(reason.to_owned()), ..self }
    }
}

/// What holds everything that waits for a destination, what lasts longest first; empty where its deliveries go on.
pub fn of_destination(admin: &Admin, d: DestinationId, line: &DestinationStatus) -> Vec<Held> {
    let mut held = Vec::new();
    if admin.store.is_out_of_space() {
        held.push(Held::by(Blocker::Disk, "daemon").since(DISK_FULL));
    }
    match admin.destinations.get(d) {
        None => {
            held.push(Held::by(Blocker::NoUrl, "configuration").since("this destination is not configured any more"));
        }
        Some(destination) => {
            held.extend(shut(line, admin.clock.now()).map(|shut| gate(&admin.store, &destination, line, shut)));
        }
    }
    longest_first(held)
}

fn longest_first(mut held: Vec<Held>) -> Vec<Held> {
    held.sort_by_key(|held| std::cmp::Reverse(held.lasts));
    held
}

/// Every gate that is shut; the line itself tells only the first that it meets.
fn shut(line: &DestinationStatus, now: Timestamp) -> impl Iterator<Item = Blocked> {
    let timed =
        |by, until: Option<Timestamp>| until.filter(|until| now < *until).map(|until| Blocked::until(by, Some(until)));
    let opens = if let breaker::State::Open { until } = line.breaker { Some(until) } else { None };
    let met = |of: &[Blocker]| line.blocked_by.filter(|shut| of.contains(&shut.by));
    let all = [
        met(&[Blocker::NoUrl]),
        timed(Blocker::Pause, line.paused_until),
        timed(Blocker::Breaker, opens).or_else(|| met(&[Blocker::Breaker])),
        timed(Blocker::RetryAfter, line.retry_after_until),
        met(&[Blocker::Concurrency, Blocker::Rate]),
    ];
    all.into_iter().flatten()
}

/// A gate of its pace that is shut.
fn gate(store: &Store, destination: &Destination, line: &DestinationStatus, shut: Blocked) -> Held {
    let stance = store.overrides(destination.id);
    let held = match shut.by {
        Blocker::NoUrl => Held::by(Blocker::NoUrl, "configuration").since("no url is configured"),
        Blocker::Pause => {
            let pause = stance.pause;
            let who = pause.as_ref().map_or("operator", |pause| &pause.who);
            Held::by(Blocker::Pause, who).since(pause.as_ref().map_or("", |pause| &pause.reason))
        }
        Blocker::Breaker => {
            let fixed = stance.breaker;
            let who = fixed.as_ref().and_then(|fixed| fixed.who.as_deref()).unwrap_or("breaker");
            let held = Held::by(Blocker::Breaker, who);
            match fixed {
                Some(fixed) if matches!(line.breaker, breaker::State::Open { .. }) => held.since(&fixed.reason),
                _ => held.since("probes are under way").momentary(),
            }
        }
        Blocker::RetryAfter => {
            let until = shut.until.unwrap_or_default();
            Held::by(Blocker::RetryAfter, "destination").since(&destination.retry_after_reason(until))
        }
        Blocker::Concurrency => concurrency(line, destination.policy.limits.concurrency_max),
        Blocker::Rate => Held::by(Blocker::Rate, "configuration"),
        Blocker::Order | Blocker::RetryBackoff | Blocker::DeadLetter | Blocker::Disk => {
            unreachable!("a destination as a whole is not blocked by {}", shut.by.word())
        }
    };
    match shut.until.filter(|until| *until < Timestamp::NEVER) {
        Some(until) => held.until(until),
        None => held,
    }
}

/// What makes the limit what it is.
fn concurrency(line: &DestinationStatus, max: usize) -> Held {
    let limit = line.limit;
    let (set_by, reason) = match line.limit_reason {
        LimitReason::Configured => ("configuration", format!("{limit} at once")),
        LimitReason::Adaptive => ("adaptive", format!("{limit} at once of {max}, as the destination answers")),
        LimitReason::Ramp => ("ramp", format!("{limit} at once of {max}; deliveries return little by little")),
    };
    Held::by(Blocker::Concurrency, set_by).since(&reason)
}

/// What one delivery waits for, what lasts longest first; empty where it is under way. `behind` names an event by its
/// sequence.
pub fn of_delivery(
    standing: DeliveryStatus,
    of_destination: &[Held],
    behind: impl Fn(Sequence) -> String,
) -> Vec<Held> {
    let own = match standing {
        DeliveryStatus::InFlight { .. } => return Vec::new(),
        DeliveryStatus::Blocked(blocked) => {
            let set_by = if blocked.by == Blocker::RetryBackoff { "retry" } else { "ordering" };
            let held = Held::by(blocked.by, set_by);
            let held = if let Some(until) = blocked.until { held.until(until) } else { held };
            Held { behind: blocked.behind.map(behind), ..held }
        }
        DeliveryStatus::Queued | DeliveryStatus::Moved if of_destination.is_empty() => {
            Held::by(Blocker::Concurrency, "configuration").since("its turn comes behind those before it")
        }
        DeliveryStatus::Queued | DeliveryStatus::Moved => return of_destination.to_vec(),
    };
    // what opens and shuts from one request to the next says nothing before its turn has come
    let lasting = of_destination.iter().filter(|held| held.lasts > Timestamp::ZERO).cloned();
    longest_first([own].into_iter().chain(lasting).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Sequence;

    const DELAYED: DeliveryStatus =
        DeliveryStatus::Blocked(Blocked { by: Blocker::RetryBackoff, until: Some(Timestamp(5)), behind: None });
    const BEHIND: DeliveryStatus =
        DeliveryStatus::Blocked(Blocked { by: Blocker::Order, until: None, behind: Some(Sequence(3)) });

    fn name(s: Sequence) -> String {
        format!("id of {s}")
    }

    #[test]
    fn every_waiting_delivery_has_a_blocker_and_the_longest_comes_first() {
        let nowhere = Held::by(Blocker::NoUrl, "configuration").since("no url");
        let until = |blocker, n| Held::by(blocker, "x").until(Timestamp(n));
        let rate = until(Blocker::Rate, 99);
        for (standing, holds, gates) in [
            (DeliveryStatus::InFlight { since: Timestamp(1) }, vec![nowhere.clone()], vec![]),
            (DeliveryStatus::Queued, vec![], vec![Blocker::Concurrency]),
            (DeliveryStatus::Queued, vec![nowhere.clone()], vec![Blocker::NoUrl]),
            (DeliveryStatus::Queued, vec![nowhere.clone(), rate.clone()], vec![Blocker::NoUrl, Blocker::Rate]),
            (DELAYED, vec![], vec![Blocker::RetryBackoff]),
            (DELAYED, vec![rate.clone()], vec![Blocker::RetryBackoff]),
            (DELAYED, vec![until(Blocker::Pause, 9)], vec![Blocker::Pause, Blocker::RetryBackoff]),
            (DELAYED, vec![until(Blocker::Pause, 4)], vec![Blocker::RetryBackoff, Blocker::Pause]),
            (DELAYED, vec![nowhere.clone()], vec![Blocker::NoUrl, Blocker::RetryBackoff]),
            (
                DeliveryStatus::Blocked(Blocked::until(Blocker::Order, Some(Timestamp(5)))),
                vec![until(Blocker::Breaker, 6)],
                vec![Blocker::Breaker, Blocker::Order],
            ),
            (BEHIND, vec![nowhere], vec![Blocker::Order, Blocker::NoUrl]),
        ] {
            let told: Vec<Blocker> = of_delivery(standing, &holds, name).iter().map(|held| held.blocker).collect();
            assert_eq!(told, gates, "{standing:?} {holds:?}");
        }
        let held = of_delivery(BEHIND, &[], name);
        assert_eq!(held[0].behind.as_deref(), Some("id of 3"));
    }

    #[test]
    fn every_blocker_is_listed() {
        let now = Timestamp(10);
        let met = Some(Blocked::until(Blocker::Pause, Some(Timestamp(20))));
        let line = DestinationStatus {
            blocked_by: met,
            paused_until: Some(Timestamp(20)),
            breaker: breaker::State::Open { until: Timestamp(30) },
            retry_after_until: Some(Timestamp(40)),
            ..DestinationStatus::default()
        };
        let gates = |line: &DestinationStatus| shut(line, now).map(|shut| shut.by).collect::<Vec<_>>();
        assert_eq!(gates(&line), [Blocker::Pause, Blocker::Breaker, Blocker::RetryAfter]);
        let line =
            DestinationStatus { paused_until: Some(Timestamp(10)), retry_after_until: Some(Timestamp(9)), ..line };
        assert_eq!(gates(&line), [Blocker::Breaker]);
        let probes = DestinationStatus {
            blocked_by: Some(Blocked::until(Blocker::Breaker, None)),
            breaker: breaker::State::Open { until: Timestamp(9) },
            ..DestinationStatus::default()
        };
        assert_eq!(gates(&probes), [Blocker::Breaker]);
        assert_eq!(gates(&DestinationStatus::default()), []);
    }

    #[test]
    fn a_reduced_limit_names_its_cause() {
        let by = |limit_reason, limit| {
            let held = concurrency(&DestinationStatus { limit_reason, limit, ..DestinationStatus::default() }, 64);
            (held.set_by, held.reason.unwrap_or_default())
        };
        assert_eq!(by(LimitReason::Configured, 64), ("configuration".into(), "64 at once".into()));
        assert_eq!(
            by(LimitReason::Adaptive, 2),
            ("adaptive".into(), "2 at once of 64, as the destination answers".into())
        );
        let ramp = "1 at once of 64; deliveries return little by little";
        assert_eq!(by(LimitReason::Ramp, 1), ("ramp".into(), ramp.into()));
    }
}
