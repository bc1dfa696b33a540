//! What a destination says of its own rate limit: whether it is spent, and for how long.
//!
//! Genesys Cloud sends `inin-ratelimit-count`, `-allowed` and `-reset` (seconds from now). Others send
//! `X-RateLimit-Remaining` and `-Reset` (epoch seconds, or seconds from now where that is small), the same without `X-` as the
//! IETF draft had it first, or its `RateLimit`, both in its older form (`limit=100, remaining=0, reset=30`) and its present
//! one (`"day";r=0;t=30`). Whatever `-Limit` says, only what is left counts.

use crate::time::Timestamp;
use std::time::Duration;

/// A reset below this is seconds from now, above it seconds since the epoch: the epoch's first year against 1971.
const EPOCH_FROM: u64 = 31_536_000;

/// How long nothing more is allowed; none where something is, or where the headers do not say. `value` gives a header's
/// value by its name in lower case; `wall` is the clock on the wall.
pub fn spent<'h>(value: impl Fn(&str) -> Option<&'h str>, wall: Timestamp) -> Option<Duration> {
    let number = |name: &str| value(name).and_then(whole);
    let genesys = || {
        let spent = number("inin-ratelimit-count")? >= number("inin-ratelimit-allowed")?;
        spent.then(|| number("inin-ratelimit-reset").map(Duration::from_secs)).flatten()
    };
    let common = |remaining: &str, reset: &str| {
        let spent = number(remaining)? == 0;
        spent.then(|| number(reset).map(|reset| from_now(reset, wall))).flatten()
    };
    let (with_x, without) =
        (common("x-ratelimit-remaining", "x-ratelimit-reset"), common("ratelimit-remaining", "ratelimit-reset"));
    let draft = || value("ratelimit").and_then(draft);
    // the longest counts, where there are several
    [genesys(), with_x, without, draft()].into_iter().flatten().max()
}

fn whole(text: &str) -> Option<u64> {
    let text = text.trim();
    text.parse().ok().or_else(|| text.parse::<f64>().ok().filter(|n| *n >= 0.0).map(|n| n.ceil() as u64))
}

fn from_now(reset: u64, wall: Timestamp) -> Duration {
    if reset < EPOCH_FROM {
        return Duration::from_secs(reset);
    }
    Timestamp(reset.saturating_mul(1000)).since(wall)
}

/// The longest wait among the policies of a `RateLimit` header that are spent.
fn draft(header: &str) -> Option<Duration> {
    if header.contains("remaining=") {
        return policy(header.split(','), "remaining", "reset");
    }
    header.split(',').filter_map(|item| policy(item.split(';'), "r", "t")).max()
}

fn policy<'h>(parts: impl Iterator<Item = &'h str> + Clone, remaining: &str, reset: &str) -> Option<Duration> {
    let part = |name: &str| {
        let mut named = parts.clone().filter_map(|part| part.trim().split_once('='));
        named.find(|(key, _)| key.trim() == name).and_then(|(_, number)| whole(number))
    };
    (part(remaining)? == 0).then(|| part(reset).map(Duration::from_secs)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Headers<'h> = &'h [(&'h str, &'h str)];

    #[test]
    fn what_is_spent_and_for_how_long() {
        let wall = Timestamp(1_800_000_000_500);
        let cases: [(Headers, Option<u64>); 18] = [
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
            (&[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1800000060")], Some(59_500)),
            (&[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1799999999")], Some(0)),
            (&[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1.2")], Some(2000)),
            (&[("x-ratelimit-remaining", "none"), ("x-ratelimit-reset", "30")], None),
            (
                &[("ratelimit-limit", "100, 100;w=60"), ("ratelimit-remaining", "0"), ("ratelimit-reset", "40")],
                Some(40_000),
            ),
            (&[("ratelimit-remaining", "3"), ("ratelimit-reset", "40")], None),
            (&[("ratelimit-limit", "0"), ("ratelimit-reset", "40")], None),
            (&[("ratelimit", "limit=100, remaining=0, reset=50")], Some(50_000)),
            (&[("ratelimit", "limit=100, remaining=5, reset=50")], None),
            (&[("ratelimit", r#""minute";r=0;t=20, "day";r=90;t=4000"#)], Some(20_000)),
            (&[("ratelimit", r#""minute";r=1;t=20"#)], None),
            (
                &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "3"), ("ratelimit", r#""d";r=0;t=9"#)],
                Some(9000),
            ),
        ];
        for (headers, wait_ms) in cases {
            let value = |name: &str| headers.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
            assert_eq!(spent(value, wall), wait_ms.map(Duration::from_millis), "{headers:?}");
        }
    }
}
