//! Redrives with a rate or a canary, which decide when the next dead letters are queued again.
//!
//! *Invariants.* The progress of a redrive is in the store, so a restart continues it; its canary starts again with one
//! delivery. However a redrive ends, deliveries that were not redriven stay dead letters.

use crate::clock::Clock;
use crate::delivery::DeliveryId;
use crate::dispatch::{DeliveryEnd, Destination, Destinations, Failed, Report};
use crate::event::{DestinationId, Sequence};
use crate::rules::canary::{Canary, End};
use crate::rules::rate::Gcra;
use crate::store::{Change, Redrive, RedriveEnded, RedriveResults, StoppedBy, Store, StoreError};
use crate::time::Timestamp;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Interval at which each redrive advances.
const ADVANCE_EVERY: Duration = Duration::from_millis(100);
/// Dead letters redriven in one commit; one at a time with a canary, because each result counts.
const PER_COMMIT: usize = 32;

/// An active redrive.
struct Run {
    begun: Timestamp,
    list: Vec<Sequence>,
    /// Number of list entries that have been processed.
    taken: usize,
    gcra: Option<Gcra>,
    canary: Option<Canary>,
    /// The results so far, and the results in the store.
    results: RedriveResults,
    saved: RedriveResults,
}

/// Advances redrives until `stop`.
pub async fn watch_redrives(store: Store, clock: Clock, destinations: Destinations, stop: CancellationToken) {
    let mut runs = HashMap::new();
    let mut ticks = tokio::time::interval(ADVANCE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while tokio::select! { () = stop.cancelled() => false, _ = ticks.tick() => true } {
        let mut all: HashMap<_, _> = store.redrives().into_iter().collect();
        runs.retain(|d, run: &mut Run| all.get(d).is_some_and(|redrive| redrive.begun == run.begun));
        for (d, redrive) in all.drain() {
            let Some(destination) = destinations.get(d) else { continue };
            let run = match runs.entry(d) {
                Entry::Occupied(run) => run.into_mut(),
                Entry::Vacant(_) if !redrive.goes_on() => continue,
                Entry::Vacant(place) => match Run::of(&store, &destination, &redrive).await {
                    Ok(run) => place.insert(run),
                    Err(error) => {
                        tracing::error!(destination = destination.name, %error, "the list of a redrive cannot be read; it is cancelled");
                        let why = RedriveEnded::Stopped { who: "damage".to_owned() };
                        if end(&store, d, why).await.is_err() {
                            return; // the store has failed, and the daemon ends
                        }
                        continue;
                    }
                },
            };
            let goes_on = redrive.goes_on();
            let advanced = if goes_on { run.advance(&store, &clock, &destination).await } else { Ok(()) };
            if advanced.is_err() || run.save_results(&store, &destination).await.is_err() {
                return;
            }
            if !goes_on && destination.canary_results.open() == 0 {
                runs.remove(&d); // all results are known
            }
        }
    }
}

impl Run {
    async fn of(store: &Store, destination: &Destination, redrive: &Redrive) -> Result<Self, StoreError> {
        let (reader, d) = (store.clone(), destination.id);
        let taken = usize::try_from(redrive.taken).unwrap_or(usize::MAX);
        // sent before a restart: while a result is missing, it can belong to any of them that is not dead
        let sent = if redrive.under_way() == 0 { 0 } else { taken };
        let read = move || {
            let list = reader.redrive_list(d)?;
            let mut open = Vec::new();
            for sequence in list.iter().take(sent) {
                if reader.dead_letter_bytes(DeliveryId { sequence: *sequence, destination: d })? == 0 {
                    open.push(*sequence);
                }
            }
            Ok::<_, StoreError>((open, list))
        };
        let (open, list) = tokio::task::spawn_blocking(read).await.map_err(|_| StoreError::Failed)??;
        destination.canary_results.clear();
        destination.canary_results.watch_end(open);
        let canary = redrive.canary.then(|| Canary::new(destination.policy.limits.breaker.failure_ratio));
        Ok(Self {
            begun: redrive.begun,
            list,
            taken,
            // those of one interval may be sent at once
            gcra: redrive.rate().map(|rate| Gcra::new(rate, rate.in_a_second() / 10 + 1)),
            canary,
            saved: redrive.fared.clone(),
            results: redrive.fared.clone(),
        })
    }

    /// Collects the results of sent deliveries; [`Run::save_results`] writes them.
    fn collect_results(&mut self, destination: &Destination) {
        for report in destination.canary_results.take() {
            match report {
                Report::Attempt(end, how) => self.tried(end, how),
                Report::Ended(DeliveryEnd::Delivered) => self.results.delivered += 1,
                Report::Ended(DeliveryEnd::Dead) => self.results.dead_again += 1,
                Report::Ended(DeliveryEnd::Gone) => self.results.gone += 1,
            }
        }
    }

    fn tried(&mut self, end: End, how: Option<Failed>) {
        let Some(canary) = &mut self.canary else { return };
        if canary.failing().is_some() {
            return;
        }
        canary.ended(end);
        if canary.failing().is_some() {
            self.results.stopped_by = how.map(|how| StoppedBy {
                event: how.event.to_string(),
                outcome: how.outcome.to_owned(),
                status: how.status,
                error: how.error.chars().take(StoppedBy::ERROR_MAX / 4).collect(),
            });
        }
    }

    /// Writes the results if they have changed.
    async fn save_results(&mut self, store: &Store, destination: &Destination) -> Result<(), StoreError> {
        self.collect_results(destination);
        if self.results != self.saved {
            let (begun, fared) = (self.begun, Box::new(self.results.clone()));
            store.change(Change::RedriveResults { destination: destination.id, begun, fared }, String::new()).await?;
            self.saved = self.results.clone();
        }
        Ok(())
    }

    async fn advance(&mut self, store: &Store, clock: &Clock, destination: &Destination) -> Result<(), StoreError> {
        self.collect_results(destination);
        if let Some(failing) = self.canary.as_ref().and_then(Canary::failing) {
            self.save_results(store, destination).await?;
            let by = self.results.stopped_by.as_ref().map(|by| by.told(&destination.name));
            tracing::warn!(
                destination = destination.name,
                failed = failing.failed,
                of = failing.of,
                stopped_by = by,
                "a redrive has ended, because what it sent failed; the rest is still in the dead letter queue"
            );
            return end(store, destination.id, failing.into()).await;
        }
        while self.goes_on(store, destination.id) {
            let count = self.batch_size(clock.now());
            let batch = self.list.get(self.taken..self.taken + count).unwrap_or_default().to_vec();
            if batch.is_empty() {
                break;
            }
            let dead = self.still_dead(store, destination.id, &batch).await?;
            destination.canary_results.watch(dead.iter().copied());
            let sent = dead.len();
            let done = store
                .change(Change::RedriveNext { destination: destination.id, dead_letters: batch }, String::new())
                .await?;
            self.taken += count;
            if let Some(canary) = &mut self.canary {
                canary.sent(sent);
            }
            if done == 0 {
                dead.iter().for_each(|sequence| destination.canary_results.unwatch(*sequence));
                self.canary.iter_mut().for_each(|canary| dead.iter().for_each(|_| canary.ended(End::Gone)));
            }
        }
        let all_known = self.canary.as_ref().is_none_or(|canary| canary.under_way() == 0);
        if self.taken >= self.list.len() && all_known {
            self.save_results(store, destination).await?;
            tracing::info!(destination = destination.name, dead_letters = self.list.len(), "a redrive is complete");
            end(store, destination.id, RedriveEnded::Complete).await?;
        }
        Ok(())
    }

    /// The entries that were dead letters before the redrive began and still are; the others are unchanged.
    async fn still_dead(
        &self,
        store: &Store,
        d: DestinationId,
        sequences: &[Sequence],
    ) -> Result<Vec<Sequence>, StoreError> {
        let (store, sequences, begun) = (store.clone(), sequences.to_vec(), self.begun);
        let dead =
            move |sequence: &Sequence| match store.dead_letter(DeliveryId { sequence: *sequence, destination: d }) {
                Ok(dead_letter) => Ok(dead_letter.is_some_and(|dead_letter| dead_letter.dead_at <= begun)),
                // the read before its attempt records the damage
                Err(StoreError::Damaged(_)) => Ok(true),
                Err(e) => Err(e),
            };
        let read = move || {
            let mut found = Vec::new();
            for sequence in sequences {
                if dead(&sequence)? {
                    found.push(sequence);
                }
            }
            Ok(found)
        };
        tokio::task::spawn_blocking(read).await.map_err(|_| StoreError::Failed)?
    }

    /// Whether it was not cancelled meanwhile.
    fn goes_on(&self, store: &Store, d: DestinationId) -> bool {
        store.redrive(d).is_some_and(|redrive| redrive.goes_on() && redrive.begun == self.begun)
    }

    /// The number of dead letters in the next commit; takes them from the rate limit.
    fn batch_size(&mut self, now: Timestamp) -> usize {
        let left = self.list.len().saturating_sub(self.taken);
        let most = self.canary.as_ref().map_or(PER_COMMIT, |canary| canary.allows().min(1)).min(left);
        match &mut self.gcra {
            None => most,
            Some(gcra) => (0..most).take_while(|_| gcra.try_take(now).is_ok()).count(),
        }
    }
}

async fn end(store: &Store, destination: DestinationId, why: RedriveEnded) -> Result<(), StoreError> {
    store.change(Change::RedriveEnd { destination, why }, "redrive".to_owned()).await.map(drop)
}
