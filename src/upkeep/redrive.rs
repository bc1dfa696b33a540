//! Redrives that take their time: a rate, or a canary, decides when the next dead letters wait again.
//!
//! *Invariants.* Where one stands lies in the store, so a restart goes on from there; its canary begins anew, with one.
//! What has not been redriven stays a dead letter, whatever ends it.

use crate::clock::Clock;
use crate::dispatch::{Destination, Destinations};
use crate::event::{DestinationId, Sequence};
use crate::rules::canary::{Canary, End};
use crate::rules::gcra::Gcra;
use crate::store::{Change, Redrive, RedriveEnded, Store, StoreError};
use crate::time::Timestamp;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often they are taken further.
const EVERY: Duration = Duration::from_millis(100);
/// So many change in one commit; with a canary one by one, since each counts.
const PER_COMMIT: usize = 32;

/// One that goes on.
struct Run {
    begun: Timestamp,
    list: Vec<Sequence>,
    /// So many of the list have been looked at.
    taken: usize,
    gcra: Option<Gcra>,
    canary: Option<Canary>,
}

/// Takes redrives further until `stop`.
pub async fn watch_redrives(store: Store, clock: Clock, destinations: Destinations, stop: CancellationToken) {
    let mut runs = HashMap::new();
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while tokio::select! { () = stop.cancelled() => false, _ = ticks.tick() => true } {
        let mut going: HashMap<_, _> = store.redrives().into_iter().filter(|(_, redrive)| redrive.goes_on()).collect();
        runs.retain(|d, run: &mut Run| going.get(d).is_some_and(|redrive| redrive.begun == run.begun));
        for (d, redrive) in going.drain() {
            let Some(destination) = destinations.get(d) else { continue };
            let run = match runs.entry(d) {
                Entry::Occupied(run) => run.into_mut(),
                Entry::Vacant(place) => match Run::of(&store, &destination, &redrive).await {
                    Ok(run) => place.insert(run),
                    Err(error) => {
                        tracing::error!(destination = destination.name, %error, "the list of a redrive cannot be read; it is stopped");
                        let why = RedriveEnded::Stopped { who: "damage".to_owned() };
                        if end(&store, d, why).await.is_err() {
                            return; // the store has failed, and the daemon ends
                        }
                        continue;
                    }
                },
            };
            if run.go_on(&store, &clock, &destination).await.is_err() {
                return;
            }
        }
    }
}

impl Run {
    async fn of(store: &Store, destination: &Destination, redrive: &Redrive) -> Result<Self, StoreError> {
        let (reader, d) = (store.clone(), destination.id);
        let list =
            tokio::task::spawn_blocking(move || reader.redrive_list(d)).await.map_err(|_| StoreError::Failed)??;
        destination.trials.forget();
        let failure_ratio = destination.policy.pace.breaker.failure_ratio;
        Ok(Self {
            begun: redrive.begun,
            list,
            taken: usize::try_from(redrive.taken).unwrap_or(usize::MAX),
            // a look's worth may go at once
            gcra: redrive.rate().map(|rate| Gcra::new(rate, rate.in_a_second() / 10 + 1)),
            canary: redrive.canary.then(|| Canary::new(failure_ratio)),
        })
    }

    async fn go_on(&mut self, store: &Store, clock: &Clock, destination: &Destination) -> Result<(), StoreError> {
        if let Some(canary) = &mut self.canary {
            destination.trials.take().into_iter().for_each(|end| canary.ended(end));
            if let Some(failing) = canary.failing() {
                tracing::warn!(
                    destination = destination.name,
                    failed = failing.failed,
                    of = failing.of,
                    "a redrive has ended: what it sends again fails; what it had not come to is still dead"
                );
                return end(store, destination.id, failing.into()).await;
            }
        }
        while self.goes_on(store, destination.id) {
            let count = self.may_go(clock.now());
            let letters = self.list.get(self.taken..self.taken + count).unwrap_or_default().to_vec();
            let Some(first) = letters.first().copied() else { break };
            if self.canary.is_some() {
                destination.trials.watch([first]);
            }
            let done = store.change(Change::RedriveOn { destination: destination.id, letters }, String::new()).await?;
            self.taken += count;
            if let Some(canary) = &mut self.canary {
                canary.sent(1);
                if done == 0 {
                    destination.trials.leave(first);
                    canary.ended(End::Gone);
                }
            }
        }
        let all_known = self.canary.as_ref().is_none_or(|canary| canary.under_way() == 0);
        if self.taken >= self.list.len() && all_known {
            tracing::info!(destination = destination.name, letters = self.list.len(), "a redrive is complete");
            end(store, destination.id, RedriveEnded::Complete).await?;
        }
        Ok(())
    }

    /// Whether nobody has stopped it meanwhile.
    fn goes_on(&self, store: &Store, d: DestinationId) -> bool {
        store.redrive(d).is_some_and(|redrive| redrive.goes_on() && redrive.begun == self.begun)
    }

    /// How many letters of the list go in the next commit; takes what they cost of the rate.
    fn may_go(&mut self, now: Timestamp) -> usize {
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
