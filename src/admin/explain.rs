//! Why a delivery waits: its blockers, until when, behind which event, and who set them.
//!
//! *Invariants.* Every waiting delivery has a named blocker; there is no "unknown". All blockers are listed, the
//! longest-lasting first, because nothing is sent before it ends. A new blocker needs a variant of [`Blocker`] and a line in
//! [`shut`]; lists, single events, destinations, dashboard and command line then show it.

use super::Admin;
use crate::api::BlockedBy;
use crate::delivery::{Blocked, Blocker};
use crate::dispatch::{Destination, DestinationStatus};
use crate::event::{DestinationId, Sequence};
use crate::rules::breaker;
use crate::scheduler::{DeliveryStatus, LimitReason};
use crate::store::Store;
use crate::time::Timestamp;

/// The reason shown when a full disk blocks every destination.
const DISK_FULL: &str = "the disk is full, and what fails could not be written; free some disk, or purge dead letters";

/// A blocker and its duration for sorting; zero if it can end with the next request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lasting {
    by: BlockedBy,
    lasts: Timestamp,
}

impl Lasting {
    fn new(blocker: Blocker, set_by: &str) -> Self {
        let lasts = if blocker.is_pacing() { Timestamp::ZERO } else { Timestamp::NEVER };
        Self { by: BlockedBy { blocker, until: None, behind: None, set_by: set_by.to_owned(), reason: None }, lasts }
    }

    fn until(self, until: Timestamp) -> Self {
        Self { by: BlockedBy { until: Some(until.into()), ..self.by }, lasts: self.lasts.min(until) }
    }

    fn momentary(self) -> Self {
        Self { lasts: Timestamp::ZERO, ..self }
    }

    fn because(self, reason: &str) -> Self {
        Self { by: BlockedBy { reason: Some(reason.to_owned()), ..self.by }, ..self }
    }
}

pub(super) fn is_paused(line: &DestinationStatus) -> bool {
    matches!(line.blocked_by, Some(Blocked { by: Blocker::Pause, .. }))
}

/// What blocks all deliveries of a destination, the longest-lasting first; empty if nothing does.
pub(super) fn of_destination(admin: &Admin, d: DestinationId, line: &DestinationStatus) -> Vec<BlockedBy> {
    lasting(admin, d, line).into_iter().map(|blocker| blocker.by).collect()
}

/// The blockers of a destination with their durations.
pub(super) fn lasting(admin: &Admin, d: DestinationId, line: &DestinationStatus) -> Vec<Lasting> {
    let mut found = Vec::new();
    if admin.store.is_out_of_space() {
        found.push(Lasting::new(Blocker::Disk, "daemon").because(DISK_FULL));
    }
    match admin.destinations.get(d) {
        None => {
            found.push(
                Lasting::new(Blocker::NoUrl, "configuration").because("this destination is not configured any more"),
            );
        }
        Some(destination) => {
            found.extend(shut(line, admin.clock.now()).map(|shut| described(&admin.store, &destination, line, shut)));
        }
    }
    longest_first(found)
}

fn longest_first(mut found: Vec<Lasting>) -> Vec<Lasting> {
    found.sort_by_key(|found| std::cmp::Reverse(found.lasts));
    found
}

/// All blockers of a destination; its status names only the first.
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

/// The blocker with who set it and why.
fn described(store: &Store, destination: &Destination, line: &DestinationStatus, shut: Blocked) -> Lasting {
    let overrides = store.overrides(destination.id);
    let found = match shut.by {
        Blocker::NoUrl => Lasting::new(Blocker::NoUrl, "configuration").because("no url is configured"),
        Blocker::Pause => {
            let pause = overrides.pause;
            let who = pause.as_ref().map_or("operator", |pause| &pause.who);
            Lasting::new(Blocker::Pause, who).because(pause.as_ref().map_or("", |pause| &pause.reason))
        }
        Blocker::Breaker => {
            let fixed = overrides.breaker;
            let who = fixed.as_ref().and_then(|fixed| fixed.who.as_deref()).unwrap_or("breaker");
            let found = Lasting::new(Blocker::Breaker, who);
            match fixed {
                Some(fixed) if matches!(line.breaker, breaker::State::Open { .. }) => found.because(&fixed.reason),
                _ => found.because("probes are under way").momentary(),
            }
        }
        Blocker::RetryAfter => {
            let until = shut.until.unwrap_or_default();
            Lasting::new(Blocker::RetryAfter, "destination").because(&destination.retry_after_reason(until))
        }
        Blocker::Concurrency => concurrency(line, destination.policy.limits.concurrency_max),
        Blocker::Rate => Lasting::new(Blocker::Rate, "configuration"),
        Blocker::Order | Blocker::RetryBackoff | Blocker::DeadLetter | Blocker::Disk => {
            unreachable!("a destination as a whole is not blocked by {}", shut.by.word())
        }
    };
    match shut.until.filter(|until| *until < Timestamp::NEVER) {
        Some(until) => found.until(until),
        None => found,
    }
}

/// What set the concurrency limit.
fn concurrency(line: &DestinationStatus, max: usize) -> Lasting {
    let limit = line.limit;
    let (set_by, reason) = match line.limit_reason {
        LimitReason::Configured => ("configuration", format!("{limit} at once")),
        LimitReason::Adaptive => ("adaptive", format!("{limit} at once of {max}, as the destination answers")),
        LimitReason::Ramp => ("ramp", format!("{limit} at once of {max}; deliveries return little by little")),
    };
    Lasting::new(Blocker::Concurrency, set_by).because(&reason)
}

/// What blocks one delivery, the longest-lasting first; empty if it is in flight. `behind` returns the id of an event by its
/// sequence.
pub(super) fn of_delivery(
    delivery_status: DeliveryStatus,
    of_destination: &[Lasting],
    behind: impl Fn(Sequence) -> String,
) -> Vec<BlockedBy> {
    let own = match delivery_status {
        DeliveryStatus::InFlight { .. } => return Vec::new(),
        DeliveryStatus::Blocked(blocked) => {
            let set_by = if blocked.by == Blocker::RetryBackoff { "retry" } else { "ordering" };
            let found = Lasting::new(blocked.by, set_by);
            let found = if let Some(until) = blocked.until { found.until(until) } else { found };
            Lasting { by: BlockedBy { behind: blocked.behind.map(behind), ..found.by }, ..found }
        }
        DeliveryStatus::Queued | DeliveryStatus::Moved if of_destination.is_empty() => {
            Lasting::new(Blocker::Concurrency, "configuration").because("its turn comes behind those before it")
        }
        DeliveryStatus::Queued | DeliveryStatus::Moved => {
            return of_destination.iter().map(|blocker| blocker.by.clone()).collect();
        }
    };
    // a blocker that can end with the next request matters only to the delivery whose turn it is
    let lasting = of_destination.iter().filter(|found| found.lasts > Timestamp::ZERO).cloned();
    let all = longest_first([own].into_iter().chain(lasting).collect());
    all.into_iter().map(|blocker| blocker.by).collect()
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
        let nowhere = Lasting::new(Blocker::NoUrl, "configuration").because("no url");
        let until = |blocker, n| Lasting::new(blocker, "x").until(Timestamp(n));
        let rate = until(Blocker::Rate, 99);
        for (delivery_status, holds, gates) in [
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
            let told: Vec<Blocker> =
                of_delivery(delivery_status, &holds, name).iter().map(|found| found.blocker).collect();
            assert_eq!(told, gates, "{delivery_status:?} {holds:?}");
        }
        let found = of_delivery(BEHIND, &[], name);
        assert_eq!(found[0].behind.as_deref(), Some("id of 3"));
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
            let found = concurrency(&DestinationStatus { limit_reason, limit, ..DestinationStatus::default() }, 64);
            (found.by.set_by, found.by.reason.unwrap_or_default())
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
