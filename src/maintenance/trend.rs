//! Rates of events, and forecasts of when the queue is empty and when the disk is full.
//!
//! Rates are those of the last minute, from samples taken every [`SAMPLE_EVERY`].
//!
//! *The disk* counts as full when its free bytes reach the reserve at which intake closes, regardless of which program
//! uses the disk. A disk fills slowly and unevenly, so the forecast uses samples of up to an hour. A forecast is made
//! only if the free bytes have decreased from each part of that time to the next, and it covers at most
//! [`DISK_FORECAST_FACTOR`] times the sampled time.

use crate::clock::Clock;
use crate::event::DestinationId;
use crate::store::{Counters, Store, Totals};
use crate::time::Timestamp;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const SAMPLE_EVERY: Duration = Duration::from_secs(2);
/// Samples of ten minutes.
const SAMPLES_MAX: usize = 300;
const RATE_OVER: Duration = Duration::from_secs(60);
/// Interval between samples of the free bytes of the disk; the samples of an hour are kept.
const DISK_EVERY: Duration = Duration::from_secs(10);
const DISK_SAMPLES_MAX: usize = 360;
/// Minimum sampled time for a forecast.
const DISK_SAMPLED_MIN: Duration = Duration::from_secs(300);
/// The sampled time is divided into this many parts; the disk must be fuller in each than in the one before.
const DISK_PARTS: usize = 6;
/// With samples of an hour, a forecast covers at most two days.
const DISK_FORECAST_FACTOR: u32 = 48;

#[derive(Clone, Debug)]
struct Sample {
    at: Timestamp,
    accepted: u64,
    tallies: Vec<Counters>,
}

/// Per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    pub accepted: f64,
    pub delivered: f64,
    pub dead: f64,
}

/// When the disk is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forecast {
    /// There are too few samples.
    Unknown,
    /// It does not fill, or not steadily, or not soon.
    NotFilling,
    In(Duration),
}

impl Forecast {
    pub fn time(self) -> Option<Duration> {
        if let Self::In(time) = self { Some(time) } else { None }
    }
}

#[derive(Debug)]
pub struct Trend {
    samples: Mutex<VecDeque<Sample>>,
    /// Free bytes of the disk.
    free: Mutex<VecDeque<(Timestamp, u64)>>,
    /// Free bytes below which intake closes.
    reserve: u64,
}

impl Trend {
    pub fn new(reserve: u64) -> Self {
        Self { samples: Mutex::default(), free: Mutex::default(), reserve }
    }

    /// Free bytes below which intake closes.
    pub fn disk_reserve(&self) -> u64 {
        self.reserve
    }

    /// Adds a sample; `free_bytes` is none if the disk cannot be read.
    pub fn sample(&self, at: Timestamp, totals: &Totals, free_bytes: Option<u64>) {
        let mut samples = self.samples.lock().expect("no holder panics");
        if samples.len() == SAMPLES_MAX {
            samples.pop_front();
        }
        samples.push_back(Sample { at, accepted: totals.accepted, tallies: totals.counters.clone() });
        let mut free = self.free.lock().expect("no holder panics");
        if let Some(bytes) = free_bytes.filter(|_| free.back().is_none_or(|(last, _)| at.since(*last) >= DISK_EVERY)) {
            if free.len() == DISK_SAMPLES_MAX {
                free.pop_front();
            }
            free.push_back((at, bytes));
        }
    }

    /// The rates of one destination, or of all destinations together.
    pub fn rates(&self, d: Option<DestinationId>) -> Rates {
        let samples = self.samples.lock().expect("no holder panics");
        let Some(last) = samples.back() else { return Rates::default() };
        let first = samples.iter().find(|s| last.at.since(s.at) <= RATE_OVER).unwrap_or(last);
        let seconds = last.at.since(first.at).as_secs_f64();
        if seconds <= 0.0 {
            return Rates::default();
        }
        let per_second = |of: fn(&Counters) -> u64| {
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

    /// The time until the queue is empty at the current rate; none if it does not shrink.
    pub fn queue_empty_in(&self, depth: u64) -> Option<Duration> {
        let samples = self.samples.lock().expect("no holder panics");
        let last = samples.back()?;
        let first = samples.iter().find(|s| last.at.since(s.at) <= RATE_OVER)?;
        let queued = |s: &Sample| s.tallies.iter().map(Counters::queued).sum::<u64>();
        let shrunk = queued(first).checked_sub(queued(last)).filter(|n| *n > 0)?;
        let seconds = last.at.since(first.at).as_secs_f64();
        (depth > 0).then(|| Duration::from_secs_f64(seconds * depth as f64 / shrunk as f64))
    }

    /// When the free bytes reach the reserve at the current rate.
    pub fn disk_full_in(&self) -> Forecast {
        let free = self.free.lock().expect("no holder panics");
        let (Some((first, _)), Some((last, bytes))) = (free.front(), free.back()) else { return Forecast::Unknown };
        let Some(left) = bytes.checked_sub(self.reserve).filter(|left| *left > 0) else {
            return Forecast::In(Duration::ZERO);
        };
        let over = last.since(*first);
        if over < DISK_SAMPLED_MIN || free.len() < 2 * DISK_PARTS {
            return Forecast::Unknown;
        }
        let mut parts = [(0.0, 0.0, 0.0); DISK_PARTS];
        for (n, (at, bytes)) in free.iter().enumerate() {
            let (count, seconds, sum) = &mut parts[n * DISK_PARTS / free.len()];
            *count += 1.0;
            *seconds += at.since(*first).as_secs_f64();
            *sum += *bytes as f64;
        }
        let means = parts.map(|(count, seconds, sum)| (seconds / count, sum / count));
        let [(from, before), .., (to, now)] = means;
        if to <= from || means.windows(2).any(|two| two[0].1 <= two[1].1) {
            return Forecast::NotFilling;
        }
        let seconds = left as f64 * (to - from) / (before - now);
        let time = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        if time > over * DISK_FORECAST_FACTOR { Forecast::NotFilling } else { Forecast::In(time) }
    }
}

/// Takes samples until `stop`.
pub async fn watch_trend(store: Store, clock: Clock, trend: Arc<Trend>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(SAMPLE_EVERY);
    while tokio::select! { () = stop.cancelled() => false, _ = ticks.tick() => true } {
        let free = store.free().ok().map(|free| free.bytes);
        trend.sample(clock.now(), &store.totals(), free);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_cover_the_last_minute_and_give_the_drain_time() {
        let trend = Trend::new(0);
        let d = DestinationId(1);
        assert_eq!((trend.rates(None), trend.queue_empty_in(5)), (Rates::default(), None));
        let mut totals = Totals::default();
        for n in 0..=60u64 {
            totals.accepted = 1000 + 20 * n;
            *totals.counters_mut(d) = Counters { accepted: 1000 + 20 * n, delivered: 30 * n, ..Counters::default() };
            trend.sample(Timestamp(2000 * n), &totals, None);
        }
        let rates = Rates { accepted: 10.0, delivered: 15.0, dead: 0.0 };
        assert_eq!((trend.rates(None), trend.rates(Some(d))), (rates, rates));
        assert_eq!(trend.rates(Some(DestinationId(0))), Rates::default());
        assert_eq!(trend.queue_empty_in(400), Some(Duration::from_secs(80)), "it shrinks by 5 a second");
        assert_eq!(trend.disk_full_in(), Forecast::Unknown, "the disk could not be read");
    }

    const GIB: u64 = 1 << 30;

    /// The forecast after this many seconds, for a disk with a reserve of half a GiB.
    fn forecast(seconds: u64, free: impl Fn(u64) -> u64) -> Forecast {
        let trend = Trend::new(GIB / 2);
        for at in (0..=seconds).step_by(2) {
            trend.sample(Timestamp(1000 * at), &Totals::default(), Some(free(at)));
        }
        trend.disk_full_in()
    }

    #[test]
    fn the_disk_is_full_at_the_reserve() {
        let steady = |at| 2 * GIB - at * 100_000;
        let Forecast::In(time) = forecast(600, steady) else { panic!("it fills steadily") };
        let wanted = (3 * GIB / 2 - 600 * 100_000) / 100_000;
        assert!(time.as_secs().abs_diff(wanted) <= 1, "{time:?}, not {wanted} s");
        assert_eq!(forecast(600, |_| GIB / 2), Forecast::In(Duration::ZERO), "it is down to it");
        assert_eq!(forecast(0, |_| GIB / 4), Forecast::In(Duration::ZERO), "it is below it already");
    }

    #[test]
    fn noise_gives_no_trend() {
        let noise = |at: u64| at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 44; // up to a MiB
        for seconds in [300, 400, 900, 1800, 3600, 7200] {
            for disk in [3 * GIB / 5, GIB, 100 * GIB] {
                assert_eq!(
                    forecast(seconds, |at| disk - noise(at / 10)),
                    Forecast::NotFilling,
                    "{seconds} s, {disk} bytes"
                );
            }
            // a file of 100 MiB that grows gradually and is then removed
            let saw = forecast(seconds, |at| 2 * GIB - (at % 120) * 1_000_000);
            assert_eq!(saw, Forecast::NotFilling, "{seconds} s");
        }
        assert_eq!(forecast(298, |at| 2 * GIB - at * 1_000_000), Forecast::Unknown, "too short a time");
        assert_eq!(forecast(600, |at| GIB + at * 1000), Forecast::NotFilling, "it empties");
        let step = |at| if at < 300 { 2 * GIB } else { GIB };
        assert_eq!(forecast(600, step), Forecast::NotFilling, "one large file is no rate");
        let slow = |at| GIB + GIB / 2 - at * 1000;
        assert_eq!(forecast(3600, slow), Forecast::NotFilling, "twelve days are too far ahead for samples of one hour");
    }
}
