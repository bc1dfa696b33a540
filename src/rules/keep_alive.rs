//! Whether a connection may carry another request: what its peer announced, and what was learned of when peers close.
//!
//! A peer that closes an idle connection can do so while the next request is under way to it. So a connection is not used again
//! once it has been idle for nearly as long as its peer has announced (`Keep-Alive: timeout=`), or as was seen to be too long.
//!
//! *What is learned.* A connection that was found closed after it had been idle for a time lowers the bound to three quarters of
//! that time. The bound holds for 1 s, and for twice as long with each further close, up to 10 minutes; then connections are tried
//! again without it. 100 requests over connections that were idle for longer than the bound begin the count anew: a peer that
//! restarts is not taken for one that keeps no connections.
//!
//! Moments are durations since any fixed point in time.

use std::time::Duration;

/// Idle connections go before most peers close them.
pub const IDLE_MAX: Duration = Duration::from_secs(20);
const MARGIN_MAX: Duration = Duration::from_secs(1);
const BOUND_LASTS: Duration = Duration::from_secs(1);
const BOUND_LASTS_MAX: Duration = Duration::from_secs(600);
const REUSES_FOR_TRUST: u32 = 100;
/// A connection that may be idle for less than this is not worth keeping.
const IDLE_WORTH_KEEPING: Duration = Duration::from_millis(20);

/// The header `Keep-Alive` of an answer (RFC 2068, 19.7.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeepAlive {
    /// For so long the peer keeps the connection when it is idle.
    pub timeout: Option<Duration>,
    /// So many requests it takes on the connection: as some count, from now on, as others do, in all.
    pub max: Option<u64>,
}

impl KeepAlive {
    /// Of the values of all lines of the header; the least counts, and what cannot be read says nothing.
    pub fn parse<'h>(values: impl IntoIterator<Item = &'h str>) -> Self {
        let mut said = Self::default();
        for (name, value) in
            values.into_iter().flat_map(|line| line.split([',', ';'])).filter_map(|p| p.split_once('='))
        {
            let value = value.trim().trim_matches('"');
            let Some(number) = value.parse::<f64>().ok().filter(|n| (0.0..1e9).contains(n)) else { continue };
            match name.trim().to_ascii_lowercase().as_str() {
                "timeout" => {
                    let timeout = Duration::from_secs_f64(number);
                    said.timeout = Some(said.timeout.map_or(timeout, |least| least.min(timeout)));
                }
                "max" => said.max = Some(said.max.map_or(number as u64, |least| least.min(number as u64))),
                _ => {}
            }
        }
        said
    }

    /// How long the connection may be idle before it is used again: less than was announced by a second, or by half of it
    /// where that is less, for the way of the next request to the peer.
    pub fn idle_max(self) -> Duration {
        self.timeout.map_or(IDLE_MAX, |timeout| IDLE_MAX.min(timeout - MARGIN_MAX.min(timeout / 2)))
    }

    /// Whether a connection that has carried `used` requests may carry another one.
    pub fn allows_another(self, used: u64) -> bool {
        self.max.is_none_or(|max| used < max)
    }

    /// What holds after a further answer on the same connection.
    pub fn and(self, later: Self) -> Self {
        let max = match (self.max, later.max) {
            (Some(_), Some(0)) => Some(0),
            (first, later) => first.or(later),
        };
        Self { timeout: later.timeout.or(self.timeout), max }
    }
}

/// What was learned of a destination.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    bound: Option<Duration>,
    /// Until when the bound holds.
    until: Duration,
    /// How often connections were found closed, without trust gained in between.
    closes: u32,
    /// Requests over connections that had been idle for longer than the bound.
    reuses: u32,
}

impl Learned {
    /// A connection was found closed after it had been idle for so long.
    pub fn closed(&mut self, idle: Duration, now: Duration) {
        let bound = idle * 3 / 4;
        if now < self.until {
            self.bound = Some(self.bound.map_or(bound, |least| least.min(bound)));
            return;
        }
        self.closes = if self.reuses >= REUSES_FOR_TRUST { 1 } else { self.closes.saturating_add(1) };
        let lasts = BOUND_LASTS * (1 << (self.closes - 1).min(16));
        (self.bound, self.reuses, self.until) = (Some(bound), 0, now + lasts.min(BOUND_LASTS_MAX));
    }

    /// A request was answered over a connection that had been idle for so long.
    pub fn answered(&mut self, idle: Duration) {
        if self.bound.is_some_and(|bound| idle >= bound) {
            self.reuses = self.reuses.saturating_add(1);
        }
    }

    /// A connection that has been idle for so long, or longer, is not used again; zero: none is.
    pub fn idle_max(&self, now: Duration) -> Duration {
        self.bound.filter(|_| now < self.until).map_or(IDLE_MAX, |bound| bound.min(IDLE_MAX))
    }

    /// Whether a connection that nobody waits for should be kept.
    pub fn keeps(&self, now: Duration) -> bool {
        self.idle_max(now) >= IDLE_WORTH_KEEPING
    }
}

/// How long the `n`th connection lives: between four fifths of `lifetime` and all of it, so that those that were made together
/// are not renewed together. Multiples of the golden ratio spread evenly (Knuth, "Sorting and Searching", 6.4).
pub fn lifetime(lifetime: Duration, n: u64) -> Duration {
    let spread = (n as f64 * 0.618_033_988_749_895).fract();
    lifetime.mul_f64(1.0 - spread / 5.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn keep_alive_parameters_bound_idle_time_and_requests() {
        for (lines, idle_ms, max) in [
            (&["timeout=5, max=100"][..], 4000, Some(100)),
            (&["timeout=5"], 4000, None),
            (&["timeout=1"], 500, None),
            (&["timeout=2"], 1000, None),
            (&["timeout=0.5"], 250, None),
            (&["timeout=0"], 0, None),
            (&["timeout=75"], 20_000, None),
            (&["Timeout = \"15\" , MAX=3"], 14_000, Some(3)),
            (&["timeout=15; max=0"], 14_000, Some(0)),
            (&["timeout=15", "timeout=5"], 4000, None),
            (&["timeout=soon, max=-1"], 20_000, None),
            (&["300"], 20_000, None),
            (&["timeout=99999999999999999999"], 20_000, None),
            (&[], 20_000, None),
        ] {
            let said = KeepAlive::parse(lines.iter().copied());
            assert_eq!((said.idle_max(), said.max), (idle_ms * MS, max), "{lines:?}");
        }
    }

    #[test]
    fn a_request_limit_is_obeyed_in_either_way_of_counting() {
        let max = |max| KeepAlive { max: Some(max), timeout: None };
        // from now on
        let said = (0..100).rev().fold(KeepAlive::default(), |said, left| said.and(max(left)));
        assert_eq!(said, max(0));
        let first = max(3).and(max(2)).and(max(1));
        assert!(first.allows_another(2) && !first.allows_another(3));
        // in all
        let same = max(2).and(max(2));
        assert!(same.allows_another(1) && !same.allows_another(2));
        assert!(!max(0).allows_another(1));
        assert!(KeepAlive::default().allows_another(u64::MAX));
    }

    #[test]
    fn an_idle_time_found_too_long_is_avoided_for_a_growing_time() {
        let mut learned = Learned::default();
        assert_eq!(learned.idle_max(Duration::ZERO), IDLE_MAX);
        let mut now = SECOND;
        for lasts in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600] {
            learned.closed(400 * MS, now);
            assert_eq!(learned.idle_max(now), 300 * MS);
            assert_eq!(learned.idle_max(now + lasts * SECOND - MS), 300 * MS, "{lasts}");
            now += lasts * SECOND;
            assert_eq!(learned.idle_max(now), IDLE_MAX, "tried again");
        }
        // those that are found closed together count once, and the shortest of them bounds
        learned.closed(8 * SECOND, now);
        learned.closed(4 * MS, now);
        learned.closed(16 * SECOND, now);
        assert_eq!(learned.idle_max(now), 3 * MS);
        assert!(!learned.keeps(now));
        learned.closed(Duration::ZERO, now);
        assert_eq!(learned.idle_max(now), Duration::ZERO);
    }

    #[test]
    fn a_peer_that_only_restarts_is_trusted_again() {
        let mut learned = Learned::default();
        learned.closed(8 * MS, SECOND);
        let mut now = 2 * SECOND;
        for _ in 0..5 {
            for _ in 0..100 {
                learned.answered(10 * MS);
            }
            learned.closed(8 * MS, now);
            assert_eq!(learned.idle_max(now), 6 * MS);
            now += SECOND;
            assert_eq!(learned.idle_max(now), IDLE_MAX);
        }
        // shorter ones say nothing about longer ones
        for _ in 0..1000 {
            learned.answered(MS);
        }
        learned.closed(8 * MS, now);
        assert_eq!(learned.idle_max(now + SECOND), 6 * MS);
    }

    #[test]
    fn lifetimes_spread_over_a_fifth() {
        let all: Vec<Duration> = (0..64).map(|n| lifetime(100 * SECOND, n)).collect();
        assert!(all.iter().all(|one| (80 * SECOND..=100 * SECOND).contains(one)), "{all:?}");
        for fifth in 0..4u32 {
            let part = (80 + 5 * fifth) * SECOND..(85 + 5 * fifth) * SECOND;
            assert!((10..24).contains(&all.iter().filter(|one| part.contains(*one)).count()), "{all:?}");
        }
        assert_eq!(lifetime(Duration::ZERO, 7), Duration::ZERO);
    }
}
