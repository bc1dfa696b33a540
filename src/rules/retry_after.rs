//! `Retry-After` (RFC 9110, 10.2.3): how long a destination wants to be left alone.

use crate::time::Timestamp;
use std::time::Duration;

/// The wait a header's value asks for: whole or fractional seconds, or an HTTP date, compared with the clock on the wall.
/// A date that has passed is no wait; none where the value is neither.
pub fn parse(value: &str, wall: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if value.bytes().all(|b| b.is_ascii_digit()) && !value.is_empty() {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(Timestamp::from_system(date).since(wall))
}

/// What a wish comes to: not before `until`; `cut` where it was longer than what is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    pub until: Timestamp,
    pub cut: bool,
}

/// `now` is the moment at which the answer had arrived, cut to a millisecond; one more makes up for the cut.
pub fn grant(wish: Duration, max: Duration, now: Timestamp) -> Wish {
    Wish { until: now.after(wish.min(max)).after(Duration::from_millis(1)), cut: wish > max }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_dates_and_nonsense() {
        // Sun, 06 Nov 1994 08:49:37 GMT
        let wall = Timestamp(784_111_777_000);
        for (value, seconds) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("99999999999999999999", Some(u64::MAX)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sunday, 06-Nov-94 08:49:39 GMT", Some(2)),
            ("Sun Nov  6 08:49:38 1994", Some(1)),
            ("Sun, 06 Nov 1994 08:40:00 GMT", Some(0)),
            ("-3", None),
            ("soon", None),
            ("", None),
            ("NaN", None),
        ] {
            assert_eq!(parse(value, wall), seconds.map(Duration::from_secs), "{value:?}");
        }
        assert_eq!(parse("1.5", wall), Some(Duration::from_millis(1500)));
    }

    #[test]
    fn a_long_wish_is_cut_and_said_to_be() {
        let (now, max) = (Timestamp(1000), Duration::from_secs(10));
        assert_eq!(grant(Duration::from_secs(3), max, now), Wish { until: Timestamp(4001), cut: false });
        assert_eq!(grant(max, max, now), Wish { until: Timestamp(11_001), cut: false });
        assert_eq!(grant(Duration::MAX, max, now), Wish { until: Timestamp(11_001), cut: true });
    }
}
