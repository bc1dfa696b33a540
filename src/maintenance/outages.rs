//! Records outages: the times in which events could not be accepted, so that an operator can tell which events a sender
//! may have lost.
//!
//! An outage is open while intake is closed, or from the first refusal for lack of space until [`QUIET`] has passed
//! without one. A daemon that stops leaves its outage open, and the next start ends it. A running daemon writes a
//! heartbeat every [`HEARTBEAT_EVERY`], so the recorded outage of a killed one begins at most that much too early.

use crate::clock::Clock;
use crate::intake::Counts;
use crate::intake::admission::Admission;
use crate::store::{Change, Outage, Store, StoreError};
use crate::time::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const LOOK_EVERY: Duration = Duration::from_millis(500);
const HEARTBEAT_EVERY: Duration = Duration::from_secs(10);
/// An outage for lack of space ends when no request was refused for this long.
const QUIET: Duration = Duration::from_secs(10);
/// Refusals of events that had no fault, for lack of space.
const LACK_OF_ROOM: [(u16, &str); 4] =
    [(503, "queue_full"), (503, "memory_limit"), (503, "store_failed"), (429, "rate_limited")];
const KILLED: &str = "crash";

type Refused = BTreeMap<(u16, &'static str), u64>;

#[derive(Debug)]
struct Open {
    number: u64,
    outage: Outage,
    refused_before: u64,
    /// When it was last observed.
    last_seen: Timestamp,
}

/// Decides when outages begin and end.
#[derive(Debug)]
struct Recorder {
    next: u64,
    open: BTreeMap<&'static str, Open>,
    /// The counters at the last observation, and when that was.
    refused: Refused,
    observed_at: Timestamp,
}

impl Recorder {
    fn new(next: u64, refused: Refused, now: Timestamp) -> Self {
        Self { next, open: BTreeMap::new(), refused, observed_at: now }
    }

    /// The outages to write, by number. `closed` is the reason if intake is closed.
    fn observe(&mut self, now: Timestamp, closed: Option<&'static str>, refused: Refused) -> Vec<(u64, Outage)> {
        let count = |of: &Refused, code: &str| of.iter().filter(|((_, c), _)| *c == code).map(|(_, n)| n).sum::<u64>();
        let mut reasons: Vec<&'static str> = closed.into_iter().collect();
        for (status, code) in LACK_OF_ROOM {
            let of = |map: &Refused| map.get(&(status, code)).copied().unwrap_or(0);
            if of(&refused) > of(&self.refused) && !reasons.contains(&code) {
                reasons.push(code);
            }
        }
        let mut written = Vec::new();
        for reason in reasons {
            let refused_before = count(&self.refused, reason);
            if let Some(open) = self.open.get_mut(reason) {
                open.last_seen = now;
                continue;
            }
            let outage =
                Outage { from: self.observed_at, until: Timestamp::NEVER, reason: reason.to_owned(), refused: 0 };
            written.push((self.next, outage.clone()));
            self.open.insert(reason, Open { number: self.next, outage, refused_before, last_seen: now });
            self.next += 1;
        }
        self.open.retain(|reason, open| {
            let for_lack_of_room = LACK_OF_ROOM.iter().any(|(_, code)| code == reason);
            let over = closed != Some(*reason) && (!for_lack_of_room || now.since(open.last_seen) >= QUIET);
            if over {
                let refused = count(&refused, reason) - open.refused_before;
                let until = if for_lack_of_room { open.last_seen } else { now };
                written.push((open.number, Outage { until, refused, ..open.outage.clone() }));
            }
            !over
        });
        (self.refused, self.observed_at) = (refused, now);
        written
    }
}

/// Records the time before a start: ends the outage that a stop left open, or adds the one that a kill caused.
pub async fn record_downtime(store: &Store, now: Timestamp) -> Result<(), StoreError> {
    let reader = store.clone();
    let read = move || Ok::<_, StoreError>((reader.outages(u64::MAX, 100)?, reader.heartbeat()?));
    let (outages, heartbeat) = tokio::task::spawn_blocking(read).await.map_err(|_| StoreError::Failed)??;
    let open: Vec<_> = outages.into_iter().filter(|(_, outage)| outage.until == Timestamp::NEVER).collect();
    let stopped = open.iter().any(|(_, outage)| outage.reason == "draining");
    for (number, outage) in open {
        write(store, number, Outage { until: now.max(outage.from), ..outage }).await?;
    }
    if let Some(from) = heartbeat.filter(|heartbeat| !stopped && *heartbeat < now) {
        let outage = Outage { from, until: now, reason: KILLED.to_owned(), refused: 0 };
        write(store, store.next_outage(), outage).await?;
    }
    Ok(())
}

async fn write(store: &Store, number: u64, outage: Outage) -> Result<(), StoreError> {
    store.change(Change::Outage { number, outage }, String::new()).await.map(drop)
}

/// Records when intake was closed or refused requests for lack of space, until `stop`; then the outage of the stop
/// begins.
pub async fn watch_outages(
    store: Store,
    clock: Clock,
    admission: Arc<Admission>,
    counts: Arc<Counts>,
    stop: CancellationToken,
) {
    let mut recorder = Recorder::new(store.next_outage(), counts.refused(), clock.now());
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    let mut heartbeat_at = Timestamp::ZERO;
    loop {
        let goes_on = tokio::select! {
            () = stop.cancelled() => false,
            // also if intake is closed only briefly
            () = admission.changes() => true,
            _ = ticks.tick() => true,
        };
        let now = clock.now();
        for (number, outage) in recorder.observe(now, admission.state().code(), counts.refused()) {
            if write(&store, number, outage).await.is_err() {
                return; // the store has failed, and the daemon ends
            }
        }
        if !goes_on {
            return;
        }
        if now.since(heartbeat_at) >= HEARTBEAT_EVERY {
            heartbeat_at = now;
            if store.change(Change::Heartbeat, String::new()).await.is_err() {
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

    fn summary(written: &[(u64, Outage)]) -> Vec<(u64, &str, Option<u64>, u64)> {
        let end = |outage: &Outage| (outage.until < Timestamp::NEVER).then(|| (outage.until.0 - 1_000_000) / 1000);
        written.iter().map(|(n, outage)| (*n, outage.reason.as_str(), end(outage), outage.refused)).collect()
    }

    #[test]
    fn a_closed_intake_is_an_outage_with_its_refusals() {
        let mut recorder = Recorder::new(7, refused(0, 0), at(0));
        assert!(recorder.observe(at(1), None, refused(0, 0)).is_empty());
        assert_eq!(summary(&recorder.observe(at(2), Some("disk_low"), refused(0, 0))), [(7, "disk_low", None, 0)]);
        assert!(recorder.observe(at(3), Some("disk_low"), refused(0, 5)).is_empty());
        let change = recorder.observe(at(4), Some("intake_closed"), refused(0, 6));
        assert_eq!(summary(&change), [(8, "intake_closed", None, 0), (7, "disk_low", Some(4), 6)]);
        assert_eq!(summary(&recorder.observe(at(5), None, refused(0, 6))), [(8, "intake_closed", Some(5), 0)]);
    }

    #[test]
    fn refusals_for_lack_of_room_are_one_outage_until_they_end() {
        let mut recorder = Recorder::new(1, refused(3, 0), at(0));
        assert!(recorder.observe(at(1), None, refused(3, 0)).is_empty(), "those were before");
        assert_eq!(summary(&recorder.observe(at(2), None, refused(5, 0))), [(1, "memory_limit", None, 0)]);
        assert!(recorder.observe(at(9), None, refused(6, 0)).is_empty());
        assert!(recorder.observe(at(18), None, refused(6, 0)).is_empty());
        assert_eq!(summary(&recorder.observe(at(19), None, refused(6, 0))), [(1, "memory_limit", Some(9), 3)]);
    }
}
