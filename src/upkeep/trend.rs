//! The trend: how fast events come and go, and when at this pace the queue is empty or the disk is full.
//!
//! Samples of the last minutes, taken at an even pace. Rates are those of the last minute; the forecast of the disk
//! looks further back, since a disk fills slowly.

use crate::clock::Clock;
use crate::event::DestinationId;
use crate::store::{Store, Tally, Totals};
use crate::time::Timestamp;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const SAMPLE_EVERY: Duration = Duration::from_secs(2);
/// Samples of ten minutes.
const SAMPLES_MAX: usize = 300;
const RATE_OVER: Duration = Duration::from_secs(60);
/// A shorter time says nothing about a disk.
const DISK_OVER_MIN: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
struct Sample {
    at: Timestamp,
    accepted: u64,
    tallies: Vec<Tally>,
    free_bytes: u64,
}

/// Per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    pub accepted: f64,
    pub delivered: f64,
    pub dead: f64,
}

#[derive(Debug, Default)]
pub struct Trend(Mutex<VecDeque<Sample>>);

impl Trend {
    pub fn sample(&self, at: Timestamp, totals: &Totals, free_bytes: u64) {
        let mut samples = self.0.lock().expect("no holder panics");
        if samples.len() == SAMPLES_MAX {
            samples.pop_front();
        }
        samples.push_back(Sample { at, accepted: totals.accepted, tallies: totals.tallies.clone(), free_bytes });
    }

    /// Of everything, and of deliveries to one destination.
    pub fn rates(&self, d: Option<DestinationId>) -> Rates {
        let samples = self.0.lock().expect("no holder panics");
        let Some(last) = samples.back() else { return Rates::default() };
        let first = samples.iter().find(|s| last.at.since(s.at) <= RATE_OVER).unwrap_or(last);
        let seconds = last.at.since(first.at).as_secs_f64();
        if seconds <= 0.0 {
            return Rates::default();
        }
        let per_second = |of: fn(&Tally) -> u64| {
            let sum = |s: &Sample| match d {
                Some(d) => s.tallies.get(usize::from(d.0)).map_or(0, of),
                None => s.tallies.iter().map(of).sum(),
            };
            sum(last).saturating_sub(sum(first)) as f64 / seconds
        };
        let accepted = match d {
            Some(_) => per_second(|t| t.accepted),
            None => last.accepted.saturating_sub(first.accepted) as f64 / seconds,
        };
        Rates { accepted, delivered: per_second(|t| t.delivered), dead: per_second(|t| t.dead) }
    }

    /// When the queue is empty at this pace; none where it does not shrink.
    pub fn drained_in(&self, depth: u64) -> Option<Duration> {
        let samples = self.0.lock().expect("no holder panics");
        let last = samples.back()?;
        let first = samples.iter().find(|s| last.at.since(s.at) <= RATE_OVER)?;
        let waiting = |s: &Sample| s.tallies.iter().map(Tally::queued).sum::<u64>();
        let shrunk = waiting(first).checked_sub(waiting(last)).filter(|n| *n > 0)?;
        let seconds = last.at.since(first.at).as_secs_f64();
        (depth > 0).then(|| Duration::from_secs_f64(seconds * depth as f64 / shrunk as f64))
    }

    /// When the disk is full at this pace; none where it does not fill.
    pub fn disk_full_in(&self) -> Option<Duration> {
        let samples = self.0.lock().expect("no holder panics");
        let (first, last) = (samples.front()?, samples.back()?);
        let over = last.at.since(first.at);
        let filled = first.free_bytes.checked_sub(last.free_bytes).filter(|n| *n > 0)?;
        (over >= DISK_OVER_MIN)
            .then(|| Duration::from_secs_f64(over.as_secs_f64() * last.free_bytes as f64 / filled as f64))
    }
}

/// Takes samples until `stop`.
pub async fn watch_trend(store: Store, clock: Clock, trend: Arc<Trend>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(SAMPLE_EVERY);
    while tokio::select! { () = stop.cancelled() => false, _ = ticks.tick() => true } {
        let free = store.free().map_or(0, |free| free.bytes);
        trend.sample(clock.now(), &store.totals(), free);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_last_minute_and_forecasts_of_what_changes() {
        let trend = Trend::default();
        let d = DestinationId(1);
        assert_eq!((trend.rates(None), trend.drained_in(5), trend.disk_full_in()), (Rates::default(), None, None));
        let mut totals = Totals::default();
        for n in 0..=60u64 {
            totals.accepted = 1000 + 20 * n;
            *totals.tally(d) = Tally { accepted: 1000 + 20 * n, delivered: 30 * n, ..Tally::default() };
            trend.sample(Timestamp(2000 * n), &totals, 1_000_000 - 1000 * n);
        }
        let rates = Rates { accepted: 10.0, delivered: 15.0, dead: 0.0 };
        assert_eq!((trend.rates(None), trend.rates(Some(d))), (rates, rates));
        assert_eq!(trend.rates(Some(DestinationId(0))), Rates::default());
        assert_eq!(trend.drained_in(400), Some(Duration::from_secs(80)), "it shrinks by 5 a second");
        assert_eq!(trend.disk_full_in(), Some(Duration::from_secs(1880)), "at 500 bytes a second");
    }
}
