//! Gaps: the times in which events could not be accepted, so that next week somebody can say what a sender may have lost.
//!
//! A gap is open while intake is closed, or from the first refusal for want of room until [`QUIET`] has passed without
//! one. A daemon that stops leaves its gap open, and the next start ends it; one that was killed had noted every
//! [`ALIVE_EVERY`] that it lives, so its gap begins at most that much too early.

use crate::clock::Clock;
use crate::intake::Counts;
use crate::intake::admission::Admission;
use crate::store::{Change, Gap, Store, StoreError};
use crate::time::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const LOOK_EVERY: Duration = Duration::from_millis(500);
const ALIVE_EVERY: Duration = Duration::from_secs(10);
/// Without a refusal for so long, a gap for want of room is over.
const QUIET: Duration = Duration::from_secs(10);
/// Refusals that mean an event was not accepted though nothing was wrong with it.
const WANT_OF_ROOM: [(u16, &str); 4] =
    [(503, "queue_full"), (503, "memory_limit"), (503, "store_failed"), (429, "rate_limited")];
const REASON_OF_A_KILL: &str = "crash";

type Refused = BTreeMap<(u16, &'static str), u64>;

#[derive(Debug)]
struct Open {
    number: u64,
    gap: Gap,
    refused_before: u64,
    /// When it was last seen to go on.
    last: Timestamp,
}

/// The gaps that are open, and those that begin and end with what is seen.
#[derive(Debug)]
struct Watch {
    next: u64,
    open: BTreeMap<&'static str, Open>,
    /// As it was at the last look.
    refused: Refused,
    looked: Timestamp,
}

impl Watch {
    fn new(next: u64, refused: Refused, now: Timestamp) -> Self {
        Self { next, open: BTreeMap::new(), refused, looked: now }
    }

    /// What is to be written, by number. `closed` is why intake is closed, if it is.
    fn look(&mut self, now: Timestamp, closed: Option<&'static str>, refused: Refused) -> Vec<(u64, Gap)> {
        let count = |of: &Refused, code: &str| of.iter().filter(|((_, c), _)| *c == code).map(|(_, n)| n).sum::<u64>();
        let mut going_on: Vec<&'static str> = closed.into_iter().collect();
        for (status, code) in WANT_OF_ROOM {
            let of = |map: &Refused| map.get(&(status, code)).copied().unwrap_or(0);
            if of(&refused) > of(&self.refused) && !going_on.contains(&code) {
                going_on.push(code);
            }
        }
        let mut written = Vec::new();
        for reason in going_on {
            let refused_before = count(&self.refused, reason);
            if let Some(open) = self.open.get_mut(reason) {
                open.last = now;
                continue;
            }
            let gap = Gap { from: self.looked, until: Timestamp::NEVER, reason: reason.to_owned(), refused: 0 };
            written.push((self.next, gap.clone()));
            self.open.insert(reason, Open { number: self.next, gap, refused_before, last: now });
            self.next += 1;
        }
        self.open.retain(|reason, open| {
            let by_refusals = WANT_OF_ROOM.iter().any(|(_, code)| code == reason);
            let over = closed != Some(*reason) && (!by_refusals || now.since(open.last) >= QUIET);
            if over {
                let refused = count(&refused, reason) - open.refused_before;
                let until = if by_refusals { open.last } else { now };
                written.push((open.number, Gap { until, refused, ..open.gap.clone() }));
            }
            !over
        });
        (self.refused, self.looked) = (refused, now);
        written
    }
}

/// Notes what a start finds: the gap that a stop left open ends, and a kill has made one.
pub async fn since_last_time(store: &Store, now: Timestamp) -> Result<(), StoreError> {
    let reader = store.clone();
    let read = move || Ok::<_, StoreError>((reader.gaps(u64::MAX, 100)?, reader.alive()?));
    let (gaps, alive) = tokio::task::spawn_blocking(read).await.map_err(|_| StoreError::Failed)??;
    let open: Vec<_> = gaps.into_iter().filter(|(_, gap)| gap.until == Timestamp::NEVER).collect();
    let stopped = open.iter().any(|(_, gap)| gap.reason == "draining");
    for (number, gap) in open {
        write(store, number, Gap { until: now.max(gap.from), ..gap }).await?;
    }
    if let Some(from) = alive.filter(|alive| !stopped && *alive < now) {
        let gap = Gap { from, until: now, reason: REASON_OF_A_KILL.to_owned(), refused: 0 };
        write(store, store.next_gap(), gap).await?;
    }
    Ok(())
}

async fn write(store: &Store, number: u64, gap: Gap) -> Result<(), StoreError> {
    store.change(Change::Gap { number, gap }, String::new()).await.map(drop)
}

/// Looks at the door again and again and writes down when it was closed, until `stop`; then the gap of the stop begins.
pub async fn watch_gaps(
    store: Store,
    clock: Clock,
    admission: Arc<Admission>,
    counts: Arc<Counts>,
    stop: CancellationToken,
) {
    let mut watch = Watch::new(store.next_gap(), counts.refused(), clock.now());
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    let mut alive_at = Timestamp::ZERO;
    loop {
        let going_on = tokio::select! {
            () = stop.cancelled() => false,
            // a door that is closed for a moment only is a gap too
            () = admission.changes() => true,
            _ = ticks.tick() => true,
        };
        let now = clock.now();
        for (number, gap) in watch.look(now, admission.state().code(), counts.refused()) {
            if write(&store, number, gap).await.is_err() {
                return; // the store has failed, and the daemon ends
            }
        }
        if !going_on {
            return;
        }
        if now.since(alive_at) >= ALIVE_EVERY {
            alive_at = now;
            if store.change(Change::Alive, String::new()).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp(1_000_000 + seconds * 1000)
    }

    fn refused(full: u64, low: u64) -> Refused {
        [((503, "memory_limit"), full), ((503, "disk_low"), low), ((400, "invalid_json"), 99)].into()
    }

    fn told(written: &[(u64, Gap)]) -> Vec<(u64, &str, Option<u64>, u64)> {
        let end = |gap: &Gap| (gap.until < Timestamp::NEVER).then(|| (gap.until.0 - 1_000_000) / 1000);
        written.iter().map(|(n, gap)| (*n, gap.reason.as_str(), end(gap), gap.refused)).collect()
    }

    #[test]
    fn a_closed_intake_is_an_outage_with_its_refusals() {
        let mut watch = Watch::new(7, refused(0, 0), at(0));
        assert!(watch.look(at(1), None, refused(0, 0)).is_empty());
        assert_eq!(told(&watch.look(at(2), Some("disk_low"), refused(0, 0))), [(7, "disk_low", None, 0)]);
        assert!(watch.look(at(3), Some("disk_low"), refused(0, 5)).is_empty());
        let change = watch.look(at(4), Some("intake_closed"), refused(0, 6));
        assert_eq!(told(&change), [(8, "intake_closed", None, 0), (7, "disk_low", Some(4), 6)]);
        assert_eq!(told(&watch.look(at(5), None, refused(0, 6))), [(8, "intake_closed", Some(5), 0)]);
    }

    #[test]
    fn refusals_for_lack_of_room_are_one_outage_until_they_end() {
        let mut watch = Watch::new(1, refused(3, 0), at(0));
        assert!(watch.look(at(1), None, refused(3, 0)).is_empty(), "those were before");
        assert_eq!(told(&watch.look(at(2), None, refused(5, 0))), [(1, "memory_limit", None, 0)]);
        assert!(watch.look(at(9), None, refused(6, 0)).is_empty());
        assert!(watch.look(at(18), None, refused(6, 0)).is_empty());
        assert_eq!(told(&watch.look(at(19), None, refused(6, 0))), [(1, "memory_limit", Some(9), 3)]);
    }
}
