//! Until when a destination asks for no requests: `Retry-After` (RFC 9110, 10.2.3), and headers that report an exhausted
//! rate limit.
//!
//! Genesys Cloud sends `inin-ratelimit-count`, `-allowed` and `-reset`. Others send `X-RateLimit-Remaining` with
//! `-Reset` or `-Reset-After`, also as `X-Rate-Limit-*` and without `X-` (as in the first IETF draft), or the draft's
//! `RateLimit`, in its older form (`limit=100, remaining=0, reset=30`) and its current one (`"day";r=0;t=30`). Only the
//! remaining number counts, regardless of `-Limit`. [`header_time`] parses the numbers.

use super::header_time::{self, AnsweredAt};
use crate::time::Timestamp;
use std::time::Duration;

/// The same in milliseconds, which some gateways send in addition.
const IN_MILLISECONDS: [&str; 2] = ["retry-after-ms", "x-ms-retry-after-ms"];

/// The longest wait that `Retry-After` requests; none where no line can be read. `values` returns the values of all
/// lines of a header by its lower-case name.
pub fn asked<'h>(values: impl Fn(&str) -> Vec<&'h str>, at: AnsweredAt) -> Option<Duration> {
    let standard = values("retry-after").into_iter().filter_map(|value| header_time::longest(value, at));
    let milliseconds = IN_MILLISECONDS.into_iter().flat_map(values).filter_map(milliseconds);
    standard.chain(milliseconds).max()
}

fn milliseconds(value: &str) -> Option<Duration> {
    let milliseconds = value.trim().parse::<f64>().ok()?;
    Duration::try_from_secs_f64(milliseconds / 1000.0).ok()
}

/// No request is sent before `until`; `clamped`: the destination asked for more than `retry_after_max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryAfter {
    pub until: Timestamp,
    pub clamped: bool,
}

/// `now` is the time at which the answer arrived, rounded down to a millisecond; one millisecond is added for the
/// rounding.
pub fn grant(asked: Duration, max: Duration, now: Timestamp) -> RetryAfter {
    RetryAfter { until: now.after(asked.min(max)).after(Duration::from_millis(1)), clamped: asked > max }
}

/// Prefixes of the header names.
const FAMILIES: [&str; 4] = ["x-ratelimit-", "x-rate-limit-", "ratelimit-", "rate-limit-"];
const TOO_MANY_REQUESTS: u16 = 429;

/// How long the rate limit of a destination allows no more requests, according to its headers; none where it allows
/// some, or the headers do not say. `values`: see [`asked`]. With status 429 the limit counts as exhausted unless a
/// header says otherwise.
pub fn quota_spent<'h>(values: impl Fn(&str) -> Vec<&'h str>, status: u16, at: AnsweredAt) -> Option<Duration> {
    let common = FAMILIES.into_iter().filter_map(|family| common(&values, family, status, at));
    let draft = ietf_draft(&values("ratelimit").join(","), at);
    // the longest of several waits applies
    common.chain(genesys(&values, at)).chain(draft).max()
}

fn genesys<'h>(values: impl Fn(&str) -> Vec<&'h str>, at: AnsweredAt) -> Option<Duration> {
    let number = |name: &str| values(name).into_iter().find_map(count);
    let spent = number("inin-ratelimit-count")? >= number("inin-ratelimit-allowed")?;
    let reset = || values("inin-ratelimit-reset").into_iter().filter_map(|value| header_time::wait(value, at)).max();
    spent.then(reset).flatten()
}

/// Headers may list several limits, with remainders and resets in the same order; only exhausted limits count.
fn common<'h>(values: impl Fn(&str) -> Vec<&'h str>, family: &str, status: u16, at: AnsweredAt) -> Option<Duration> {
    let remaining = values(&format!("{family}remaining"));
    if remaining.is_empty() && status != TOO_MANY_REQUESTS {
        return None;
    }
    let remaining: Vec<_> = remaining.into_iter().flat_map(|line| line.split(',')).map(count).collect();
    let spent = |place: usize| remaining.is_empty() || remaining.get(place) == Some(&Some(0));
    if !remaining.is_empty() && !remaining.contains(&Some(0)) {
        return None;
    }
    let resets = |name: &str| {
        let lines = values(&format!("{family}{name}"));
        let listed: Vec<_> = lines.iter().flat_map(|line| line.split(',')).map(|r| header_time::wait(r, at)).collect();
        if listed.len() == remaining.len() && listed.iter().all(Option::is_some) {
            return listed.into_iter().enumerate().filter(|(place, _)| spent(*place)).filter_map(|(_, r)| r).max();
        }
        lines.into_iter().filter_map(|line| header_time::longest(line, at)).max()
    };
    resets("reset").max(resets("reset-after"))
}

/// Parses a number of requests.
fn count(text: &str) -> Option<u64> {
    let text = text.trim().trim_matches('"');
    text.parse().ok().or_else(|| text.parse::<f64>().ok().filter(|n| *n >= 0.0).map(|n| n.ceil() as u64))
}

/// The longest wait among the exhausted policies of a `RateLimit` header.
fn ietf_draft(header: &str, at: AnsweredAt) -> Option<Duration> {
    if header.contains("remaining=") {
        return policy(header.split(','), ["remaining", "reset"], at);
    }
    header.split(',').filter_map(|item| policy(item.split(';'), ["r", "t"], at)).max()
}

fn policy<'h>(
    parts: impl Iterator<Item = &'h str> + Clone,
    [remaining, reset]: [&str; 2],
    at: AnsweredAt,
) -> Option<Duration> {
    let part = |name: &str| {
        let mut named = parts.clone().filter_map(|part| part.trim().split_once('='));
        named.find(|(key, _)| key.trim() == name).map(|(_, value)| value)
    };
    (part(remaining).and_then(count)? == 0)
        .then(|| part(reset).and_then(|reset| header_time::wait(reset, at)))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    type Headers<'h> = &'h [(&'h str, &'h str)];

    #[test]
    fn the_longest_of_several_headers_counts() {
        // Sun, 06 Nov 1994 08:49:37 GMT
        let at = AnsweredAt::new(Timestamp(784_111_777_000), None);
        let cases: [(Headers, Option<u64>); 9] = [
            (&[], None),
            (&[("retry-after", "120")], Some(120_000)),
            (&[("retry-after", "5"), ("retry-after", "30"), ("retry-after", "10")], Some(30_000)),
            (&[("retry-after", "soon"), ("retry-after", "3")], Some(3000)),
            (&[("retry-after", "5"), ("retry-after", "Sun, 06 Nov 1994 08:50:37 GMT")], Some(60_000)),
            (&[("retry-after", "soon")], None),
            (&[("retry-after-ms", "1500")], Some(1500)),
            (&[("retry-after", "2"), ("x-ms-retry-after-ms", "2500.5")], Some(2500)),
            (&[("retry-after-ms", "-5")], None),
        ];
        for (lines, wait_ms) in cases {
            let values = |name: &str| lines.iter().filter(|(n, _)| *n == name).map(|(_, v)| *v).collect();
            let asked = asked(values, at).map(|wait| wait.as_millis() as u64);
            assert_eq!(asked, wait_ms, "{lines:?}");
        }
    }

    #[test]
    fn a_long_retry_after_is_clamped_and_reported() {
        let (now, max) = (Timestamp(1000), Duration::from_secs(10));
        assert_eq!(grant(Duration::from_secs(3), max, now), RetryAfter { until: Timestamp(4001), clamped: false });
        assert_eq!(grant(max, max, now), RetryAfter { until: Timestamp(11_001), clamped: false });
        assert_eq!(grant(Duration::MAX, max, now), RetryAfter { until: Timestamp(11_001), clamped: true });
    }

    /// Fri, 15 Jan 2027 08:00:00.500 GMT.
    const WALL: Timestamp = Timestamp(1_800_000_000_500);

    fn wait_ms(headers: Headers, status: u16) -> Option<u64> {
        let values = |name: &str| headers.iter().filter(|(n, _)| *n == name).map(|(_, v)| *v).collect();
        let date = headers.iter().find(|(name, _)| *name == "date").map(|(_, value)| *value);
        quota_spent(values, status, AnsweredAt::new(WALL, date))
            .map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
    }

    #[test]
    fn a_spent_quota_gives_the_time_of_its_reset() {
        let cases: [(Headers, Option<u64>); 25] = [
            (&[], None),
            (
                &[("inin-ratelimit-count", "300"), ("inin-ratelimit-allowed", "300"), ("inin-ratelimit-reset", "17")],
                Some(17_000),
            ),
            (
                &[("inin-ratelimit-count", "299"), ("inin-ratelimit-allowed", "300"), ("inin-ratelimit-reset", "17")],
                None,
            ),
            (&[("inin-ratelimit-count", "301"), ("inin-ratelimit-allowed", "300")], None),
            (&[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "30")], Some(30_000)),
            (&[("x-ratelimit-remaining", "1"), ("x-ratelimit-reset", "30")], None),
            (&[("x-ratelimit-remaining", "none"), ("x-ratelimit-reset", "30")], None),
            (&[("x-ratelimit-remaining", "0.0"), ("x-ratelimit-reset", "30")], Some(30_000)),
            (&[("x-rate-limit-remaining", "0"), ("x-rate-limit-reset", "30")], Some(30_000)),
            (&[("rate-limit-remaining", "0"), ("rate-limit-reset", "30")], Some(30_000)),
            (&[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset-after", "1.25")], Some(1250)),
            (
                &[
                    ("x-ratelimit-remaining", "0"),
                    ("x-ratelimit-reset", "1800000002.250"),
                    ("x-ratelimit-reset-after", "1"),
                ],
                Some(1750),
            ),
            (
                &[("ratelimit-limit", "100, 100;w=60"), ("ratelimit-remaining", "0"), ("ratelimit-reset", "40")],
                Some(40_000),
            ),
            (&[("ratelimit-remaining", "3"), ("ratelimit-reset", "40")], None),
            (&[("ratelimit-limit", "0"), ("ratelimit-reset", "40")], None),
            (&[("ratelimit", "limit=100, remaining=0, reset=50")], Some(50_000)),
            (&[("ratelimit", "limit=100, remaining=5, reset=50")], None),
            (&[("ratelimit", r#""minute";r=0;t=20, "day";r=90;t=4000"#)], Some(20_000)),
            (&[("ratelimit", r#""minute";r=0;t=20"#), ("ratelimit", r#""day";r=0;t=4000"#)], Some(4_000_000)),
            (&[("ratelimit", r#""minute";r=1;t=20"#)], None),
            (
                &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "3"), ("ratelimit", r#""d";r=0;t=9"#)],
                Some(9000),
            ),
            // several limits, each with its own reset
            (&[("x-ratelimit-remaining", "0, 4000"), ("x-ratelimit-reset", "1, 86400")], Some(1000)),
            (
                &[
                    ("x-ratelimit-remaining", "9"),
                    ("x-ratelimit-reset", "1"),
                    ("x-ratelimit-remaining", "0"),
                    ("x-ratelimit-reset", "60"),
                ],
                Some(60_000),
            ),
            (&[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "5"), ("x-ratelimit-reset", "7")], Some(7000)),
            (&[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "whenever")], None),
        ];
        for (headers, wait) in cases {
            assert_eq!(wait_ms(headers, 200), wait, "{headers:?}");
        }
    }

    #[test]
    fn a_reset_is_a_time_or_a_duration_by_its_size() {
        for (reset, wait) in [
            ("30", 30_000),
            ("1.2", 1200),
            ("86400", 86_400_000),
            ("1800000060", 59_500),
            ("1799999999", 0),
            ("1800000060250", 59_750),
            ("1799999999999", 0),
            ("1800000060250000", 59_750),
            ("\"1800000060250\"", 59_750),
            ("60000000", 60_000_000),
            ("2027-01-15T08:01:00Z", 59_500),
            ("Fri, 15 Jan 2027 08:01:00 GMT", 59_500),
            ("1m0s", 60_000),
            ("PT1M", 60_000),
        ] {
            let headers = [("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", reset)];
            assert_eq!(wait_ms(&headers, 429), Some(wait), "{reset}");
        }
        // by the clock that sent the header
        let headers = [
            ("date", "Fri, 15 Jan 2027 08:10:00 GMT"),
            ("x-ratelimit-remaining", "0"),
            ("x-ratelimit-reset", "1800000630000"),
        ];
        assert_eq!(wait_ms(&headers, 200), Some(30_000));
    }

    #[test]
    fn too_many_requests_means_that_nothing_is_left() {
        for (headers, wait) in [
            (&[("x-ratelimit-reset", "30")][..], Some(30_000)),
            (&[("x-ratelimit-remaining", "2"), ("x-ratelimit-reset", "30")], None),
            (&[("ratelimit-limit", "10")], None),
        ] {
            assert_eq!(wait_ms(headers, 429), wait, "{headers:?}");
            assert_eq!(wait_ms(headers, 503), None, "{headers:?}");
        }
    }
}
