//! Whether a connection may carry another request: from what its peer announced, and from when peers were found to close
//! connections.
//!
//! A peer can close an idle connection while the next request is on its way to it. So a connection is not reused once it
//! has been idle for almost as long as its peer announced (`Keep-Alive: timeout=`), or for longer than the learned
//! limit.
//!
//! *Learned limit.* When a connection is found closed, the limit becomes three quarters of its idle time. The limit
//! applies for 1 s, and for twice as long after each further close, up to 10 minutes; then longer idle times are tried
//! again. 100 requests over connections that were idle for longer than the limit reset the count, so that a restart of
//! the peer has no lasting effect.
//!
//! Times are durations since an arbitrary fixed point.

use std::time::Duration;

/// Idle connections are closed before most peers close them.
pub const IDLE_MAX: Duration = Duration::from_secs(20);
const MARGIN_MAX: Duration = Duration::from_secs(1);
const BOUND_LASTS: Duration = Duration::from_secs(1);
const BOUND_LASTS_MAX: Duration = Duration::from_secs(600);
const REUSES_FOR_TRUST: u32 = 100;
/// Connections are not kept where the permitted idle time is shorter than this.
const IDLE_WORTH_KEEPING: Duration = Duration::from_millis(20);

/// The header `Keep-Alive` of an answer (RFC 2068, 19.7.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeepAlive {
    /// How long the peer keeps an idle connection.
    pub timeout: Option<Duration>,
    /// How many requests the peer accepts on the connection: some servers count the remaining ones, others the total.
    pub max: Option<u64>,
}

impl KeepAlive {
    /// Parses the values of all lines of the header; the smallest value counts, unreadable ones are ignored.
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

    /// How long the connection may be idle and still be reused: the announced timeout minus one second, or half of it
    /// where that is less, to allow for the latency of the next request.
    pub fn idle_max(self) -> Duration {
        self.timeout.map_or(IDLE_MAX, |timeout| IDLE_MAX.min(timeout - MARGIN_MAX.min(timeout / 2)))
    }

    /// Whether a connection that has carried `used` requests may carry another one.
    pub fn allows_another(self, used: u64) -> bool {
        self.max.is_none_or(|max| used < max)
    }

    /// Combines this with a later answer on the same connection.
    pub fn and(self, later: Self) -> Self {
        let max = match (self.max, later.max) {
            (Some(_), Some(0)) => Some(0),
            (first, later) => first.or(later),
        };
        Self { timeout: later.timeout.or(self.timeout), max }
    }
}

/// The learned idle limit of a destination.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    bound: Option<Duration>,
    /// Until when the limit applies.
    until: Duration,
    /// How often connections were found closed since the last reset.
    closes: u32,
    /// Requests over connections that had been idle for longer than the limit.
    reuses: u32,
}

impl Learned {
    /// A connection was found closed after this idle time.
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

    /// A request was answered over a connection that had been idle for this long.
    pub fn answered(&mut self, idle: Duration) {
        if self.bound.is_some_and(|bound| idle >= bound) {
            self.reuses = self.reuses.saturating_add(1);
        }
    }

    /// The idle time from which a connection is not reused; zero: connections are never reused.
    pub fn idle_max(&self, now: Duration) -> Duration {
        self.bound.filter(|_| now < self.until).map_or(IDLE_MAX, |bound| bound.min(IDLE_MAX))
    }

    /// Whether an idle connection should be kept.
    pub fn keeps(&self, now: Duration) -> bool {
        self.idle_max(now) >= IDLE_WORTH_KEEPING
    }
}

/// The lifetime of the `n`th connection: between four fifths of `lifetime` and all of it, so that connections made
/// together are not renewed together. Multiples of the golden ratio are evenly distributed (Knuth, "Sorting and
/// Searching", 6.4).
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
        // counts the remaining requests
        let said = (0..100).rev().fold(KeepAlive::default(), |said, left| said.and(max(left)));
        assert_eq!(said, max(0));
        let first = max(3).and(max(2)).and(max(1));
        assert!(first.allows_another(2) && !first.allows_another(3));
        // counts all requests
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
        // connections found closed together count once, and the shortest idle time sets the limit
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
        // short idle times do not confirm long ones
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
