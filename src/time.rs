//! A point in time: milliseconds since the Unix epoch, as read from [`crate::clock::Clock`].
//!
//! Modules that do no IO take `now` as an argument; this module reads no clock.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY_S: i64 = 86_400;

/// Milliseconds since the Unix epoch (UTC).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

impl Timestamp {
    pub const ZERO: Self = Self(0);
    /// After every other time.
    pub const NEVER: Self = Self(u64::MAX);
    /// The last time that RFC 3339 can represent (9999-12-31T23:59:59.999Z).
    const RFC3339_MAX: u64 = 253_402_300_799_999;

    /// The time `by` after this one; saturates at [`Timestamp::NEVER`].
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(millis(by)))
    }

    /// The time `by` before this one; saturates at zero.
    pub fn before(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(millis(by)))
    }

    /// The duration since `earlier`; zero if that is in the future.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    pub fn from_system(at: SystemTime) -> Self {
        Self(at.duration_since(UNIX_EPOCH).map_or(0, millis))
    }

    pub fn to_system(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.0.min(Self::RFC3339_MAX))
    }
}

/// RFC 3339 in UTC with milliseconds, as in `2026-03-19T22:04:48.128Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_rfc3339_millis(self.to_system()))
    }
}

/// A duration in whole milliseconds; saturates.
pub fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds since the epoch, from ISO 8601 in its extended form: a date, then `T`, `t` or a space, a time with any
/// number of fractional digits, and `Z`, `z`, an offset (`+02:00`, `+0200`, `+02`) or nothing, which means UTC. None for
/// any other text, and for a time before 1970.
pub fn iso8601_ms(text: &str) -> Option<u64> {
    let mut rest = Digits(text);
    let (year, month, day) = (rest.take(4)?, rest.after(b'-')?.take(2)?, rest.after(b'-')?.take(2)?);
    if !(1..=12).contains(&month) || !(1..=days_in(year, month)).contains(&day) {
        return None;
    }
    let midnight = days_since_epoch(year, month, day) * DAY_S;
    if rest.0.is_empty() {
        return u64::try_from(midnight * 1000).ok();
    }
    rest = Digits(rest.0.strip_prefix(['T', 't', ' '])?);
    let (hour, minute) = (rest.take(2)?, rest.after(b':')?.take(2)?);
    let second = if rest.after(b':').is_some() { rest.take(2)? } else { 0 };
    // A leap second (60) counts as the first second of the next minute.
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let fraction_ms = rest.fraction_ms()?;
    let local = midnight + hour * 3600 + minute * 60 + second;
    u64::try_from((local - offset_s(rest)?) * 1000 + fraction_ms).ok()
}

/// The offset of the local time from UTC in seconds; the whole rest must be the offset.
fn offset_s(rest: Digits<'_>) -> Option<i64> {
    let text = rest.0.trim_start();
    let ahead = match text.bytes().next() {
        None => return Some(0),
        Some(b'Z' | b'z') => return (text.len() == 1).then_some(0),
        Some(b'+') => 1,
        Some(b'-') => -1,
        Some(_) => return None,
    };
    let mut rest = Digits(&text[1..]);
    let hours = rest.take(2)?;
    // The colon is optional, and so are the minutes.
    let minutes = if rest.after(b':').is_some() || !rest.0.is_empty() { rest.take(2)? } else { 0 };
    (rest.0.is_empty() && hours <= 23 && minutes <= 59).then_some(ahead * (hours * 3600 + minutes * 60))
}

/// The unread rest of a text.
struct Digits<'a>(&'a str);

impl Digits<'_> {
    /// The next `n` characters, all of them digits.
    fn take(&mut self, n: usize) -> Option<i64> {
        let (digits, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        digits.bytes().try_fold(0, |sum, b| b.is_ascii_digit().then(|| sum * 10 + i64::from(b - b'0')))
    }

    /// Consumes `sign`; none if something else comes next, and then nothing is consumed.
    fn after(&mut self, sign: u8) -> Option<&mut Self> {
        self.0 = self.0.strip_prefix(char::from(sign))?;
        Some(self)
    }

    /// Parses an optional fraction of a second: digits after the third are discarded.
    fn fraction_ms(&mut self) -> Option<i64> {
        if !self.0.starts_with(['.', ',']) {
            return Some(0);
        }
        let tail = &self.0[1..];
        let length = tail.bytes().take_while(u8::is_ascii_digit).count();
        self.0 = &tail[length..];
        let digits = tail[..length].bytes().chain(*b"00").take(3);
        (length > 0).then(|| digits.fold(0, |ms, b| ms * 10 + i64::from(b - b'0')))
    }
}

/// The number of days of a month, 1 to 12.
pub fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01, by the algorithm `days_from_civil` (Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms").
pub fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_and_shows_rfc3339() {
        let t = Timestamp(1_773_957_888_128);
        assert_eq!(t.to_string(), "2026-03-19T22:04:48.128Z");
        assert_eq!(t.after(Duration::from_secs(1)).since(t), Duration::from_secs(1));
        assert_eq!(t.since(t.after(Duration::from_secs(1))), Duration::ZERO);
        assert_eq!(Timestamp::NEVER.after(Duration::from_secs(1)), Timestamp::NEVER);
        assert_eq!(Timestamp(5).before(Duration::from_secs(1)), Timestamp::ZERO);
        assert!(Timestamp::NEVER.to_string().starts_with("9999-12-31"));
    }
}
