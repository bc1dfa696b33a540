//! Waits and times in the headers of an answer, in all formats that servers use.
//!
//! *Format.* The magnitude of a number, whole or with a fraction, decides its unit:
//! ```text
//!           below 31 536 000   seconds from now (up to a year)
//!      below  1 000 000 000    milliseconds from now: waits of years are not given in seconds
//!      below 10^11             a time in seconds since the epoch (2001 to 5138)
//!      below 10^14             a time in milliseconds since the epoch (1973 to 5138)
//!      below 10^17, above      a time in microseconds, in nanoseconds
//!      over 64 bits            forever
//! ```
//! Durations with units (`30s`, `1m30s`, `500 ms`, `PT1M30S`), ISO 8601 and RFC 3339 dates, and dates with the name of
//! the month are accepted, too: HTTP (RFC 9110, 5.6.7), email (RFC 5322, also with `-0000`), asctime. A value may be
//! quoted.
//!
//! *Failure.* A value that cannot be read, or is negative, requests no wait. A time in the past is a wait of zero. The
//! caller limits each wait, so a misread value causes at most that wait.

use crate::time::{Timestamp, days_in, days_since_epoch, iso8601_ms};
use std::time::Duration;

const DAY: Duration = Duration::from_secs(86_400);
const SECONDS_MAX: f64 = 31_536_000.0;
const MILLIS_MAX: f64 = 1e9;

/// When an answer arrived, by the clocks of both ends.
#[derive(Clone, Copy, Debug)]
pub struct AnsweredAt {
    wall: Timestamp,
    date: Option<Timestamp>,
}

impl AnsweredAt {
    /// `wall` is the local wall clock; `date` is the value of the answer's header `Date`.
    pub fn new(wall: Timestamp, date: Option<&str>) -> Self {
        Self { wall, date: date.and_then(|text| moment(unquoted(text))) }
    }

    /// How long from the answer to a time that the answer names; zero where it is in the past.
    ///
    /// The time is compared with the answer's own `Date`, since the same clock wrote both. Where `Date` differs from the
    /// local clock by more than a day, it is used only if the resulting wait is at most a day: then the remote clock is
    /// wrong but consistent.
    fn until(self, moment: Timestamp) -> Duration {
        let by_wall = moment.since(self.wall);
        let Some(date) = self.date else { return by_wall };
        let by_date = moment.since(date);
        let apart = self.wall.since(date).max(date.since(self.wall));
        let usable = apart <= DAY || (moment >= date && by_date <= DAY);
        if usable { by_date } else { by_wall }
    }
}

/// The wait that the value of a header requests, counted from the arrival of the answer.
pub fn wait(value: &str, at: AnsweredAt) -> Option<Duration> {
    let value = unquoted(value);
    number(value, at).or_else(|| units(value)).or_else(|| moment(value).map(|moment| at.until(moment)))
}

/// The longest wait in a list of values; a comma may also be part of a date.
pub fn longest(values: &str, at: AnsweredAt) -> Option<Duration> {
    wait(values, at).or_else(|| {
        let parts: Vec<&str> = values.split(',').collect();
        let dates = parts.windows(2).filter_map(|pair| wait(&pair.join(","), at));
        parts.iter().filter_map(|part| wait(part, at)).chain(dates).max()
    })
}

fn unquoted(value: &str) -> &str {
    let value = value.trim();
    let inner = ['"', '\''].into_iter().find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
    inner.map_or(value, str::trim)
}

fn number(text: &str, at: AnsweredAt) -> Option<Duration> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None; // the float parser would also accept `inf` and `nan`
    }
    let value: f64 = text.parse().ok()?;
    if value < 0.0 {
        return None;
    }
    let moment = match value {
        ..SECONDS_MAX => return Some(Duration::from_secs_f64(value)),
        ..MILLIS_MAX => return Some(Duration::from_secs_f64(value / 1000.0)),
        ..1e11 => (value * 1000.0).ceil() as u64,
        ..1e14 => value.ceil() as u64,
        ..1e17 => (value / 1e3).ceil() as u64,
        _ if value < u64::MAX as f64 => (value / 1e6).ceil() as u64,
        _ => return Some(Duration::MAX),
    };
    Some(at.until(Timestamp(moment)))
}

/// A sum of numbers with units, as written by people and by Go, or an ISO 8601 duration (without months and years, whose
/// lengths vary).
fn units(text: &str) -> Option<Duration> {
    const PLAIN: [(&str, f64); 23] = [
        ("ns", 1e-9),
        ("us", 1e-6),
        ("\u{b5}s", 1e-6),
        ("ms", 1e-3),
        ("msec", 1e-3),
        ("millis", 1e-3),
        ("milliseconds", 1e-3),
        ("s", 1.0),
        ("sec", 1.0),
        ("secs", 1.0),
        ("second", 1.0),
        ("seconds", 1.0),
        ("m", 60.0),
        ("min", 60.0),
        ("mins", 60.0),
        ("minute", 60.0),
        ("minutes", 60.0),
        ("h", 3600.0),
        ("hr", 3600.0),
        ("hour", 3600.0),
        ("hours", 3600.0),
        ("d", 86_400.0),
        ("days", 86_400.0),
    ];
    let lower = text.to_ascii_lowercase();
    let seconds = match lower.strip_prefix('p') {
        None => sum(&lower, &PLAIN)?,
        Some(iso) => {
            let (days, time) = iso.split_once('t').unwrap_or((iso, ""));
            let days = if days.is_empty() { None } else { Some(sum(days, &[("w", 604_800.0), ("d", 86_400.0)])?) };
            let time = if time.is_empty() { None } else { Some(sum(time, &[("h", 3600.0), ("m", 60.0), ("s", 1.0)])?) };
            days.into_iter().chain(time).reduce(|a, b| a + b)?
        }
    };
    Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

/// Parses a text that consists only of numbers, each with one of the units.
fn sum(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let (mut rest, mut seconds) = (text.trim(), None);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|at| *at > 0)?;
        let (number, tail) = rest.split_at(digits);
        let tail = tail.trim_start();
        let (unit, tail) = tail.split_at(tail.find(|c: char| !c.is_alphabetic()).unwrap_or(tail.len()));
        let (_, worth) = units.iter().find(|(name, _)| *name == unit)?;
        seconds = Some(seconds.unwrap_or(0.0) + number.parse::<f64>().ok()? * worth);
        rest = tail.trim_start();
    }
    seconds
}

fn moment(text: &str) -> Option<Timestamp> {
    iso8601_ms(text).or_else(|| basic_iso(text)).or_else(|| with_month_name(text)).map(Timestamp)
}

/// ISO 8601 basic format, `20261201T083000Z`.
fn basic_iso(text: &str) -> Option<u64> {
    let (date, time) = text.split_once(['T', 't'])?;
    let part = |text: &str, at: usize, n: usize| text.get(at..at + n).map(str::to_owned);
    let (day, seconds) = ((part(date, 0, 4)?, part(date, 4, 2)?, part(date, 6, 2)?), part(time, 4, 2)?);
    if date.len() != 8 {
        return None;
    }
    let clock = format!("{}:{}:{seconds}{}", part(time, 0, 2)?, part(time, 2, 2)?, time.get(6..)?);
    iso8601_ms(&format!("{}-{}-{}T{clock}", day.0, day.1, day.2))
}

/// A date with the name of its month, in any unambiguous order, UTC where it has no zone. In milliseconds since the
/// epoch; zero for a date before it.
fn with_month_name(text: &str) -> Option<u64> {
    let (mut day, mut month, mut year, mut time_ms, mut ahead_s) = (None, None, None, None, None);
    let text = text.split('(').next()?; // a comment
    let tokens = text.split([' ', '\t', ',']).filter(|token| !token.is_empty());
    // RFC 850 dates contain hyphens
    let tokens = tokens.flat_map(|token| {
        let dated = token.starts_with(|c: char| c.is_ascii_digit()) && !token.contains(':');
        token.split(if dated { '-' } else { ' ' })
    });
    for token in tokens {
        if token.contains(':') && time_ms.is_none() && token.starts_with(|c: char| c.is_ascii_digit()) {
            time_ms = Some(time_of_day_ms(token)?);
        } else if token.bytes().all(|b| b.is_ascii_digit()) {
            let number = token.parse::<i64>().ok()?;
            match day {
                None if token.len() <= 2 => day = Some(number),
                _ if year.is_none() && token.len() == 2 => {
                    year = Some(number + if number < 70 { 2000 } else { 1900 });
                }
                _ if year.is_none() && token.len() == 4 => year = Some(number),
                _ => return None,
            }
        } else if let Some(named) = name_of(token, &MONTHS) {
            month = Some(month.xor(Some(named + 1))?);
        } else if name_of(token, &WEEKDAYS).is_none() {
            ahead_s = Some(ahead_s.xor(Some(zone_s(token)?))?);
        }
    }
    let (day, month, year) = (day?, month?, year?);
    if !(1..=days_in(year, month)).contains(&day) {
        return None;
    }
    let midnight_s = days_since_epoch(year, month, day) * 86_400;
    let ms = (midnight_s - ahead_s.unwrap_or(0)) * 1000 + time_ms?;
    Some(u64::try_from(ms).unwrap_or(0))
}

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
const WEEKDAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

/// The index of the name, given in full or abbreviated to three letters or more.
fn name_of(token: &str, names: &[&str]) -> Option<i64> {
    let token = token.trim_end_matches('.').to_ascii_lowercase();
    let at = names.iter().position(|name| token.len() >= 3 && name.starts_with(&token))?;
    i64::try_from(at).ok()
}

/// `HH:MM` or `HH:MM:SS`, also with a fraction, in milliseconds since midnight.
fn time_of_day_ms(token: &str) -> Option<i64> {
    let mut parts = token.split(':');
    let (hour, minute) = (parts.next()?.parse::<i64>().ok()?, parts.next()?.parse::<i64>().ok()?);
    let second = parts.next().map_or(Some(0.0), |second| second.parse::<f64>().ok())?;
    let sound = (0..24).contains(&hour) && (0..60).contains(&minute) && (0.0..61.0).contains(&second);
    (sound && parts.next().is_none()).then(|| (hour * 60 + minute) * 60_000 + (second * 1000.0).ceil() as i64)
}

/// The offset of a zone from UTC in seconds: a name of RFC 5322, an offset, or both (`GMT+0100`).
fn zone_s(token: &str) -> Option<i64> {
    let upper = token.to_ascii_uppercase();
    let named = upper.trim_start_matches("GMT").trim_start_matches("UTC");
    match named {
        "" | "Z" | "UT" => return Some(0),
        "EDT" => return Some(-4 * 3600),
        "EST" | "CDT" => return Some(-5 * 3600),
        "CST" | "MDT" => return Some(-6 * 3600),
        "MST" | "PDT" => return Some(-7 * 3600),
        "PST" => return Some(-8 * 3600),
        _ => {}
    }
    let ahead = if named.starts_with('-') { -1 } else { 1 };
    let digits: String = named.strip_prefix(['+', '-'])?.chars().filter(|c| *c != ':').collect();
    let hours_minutes = digits.parse::<i64>().ok().filter(|_| digits.len() == 4)?;
    let (hours, minutes) = (hours_minutes / 100, hours_minutes % 100);
    (hours < 24 && minutes < 60).then_some(ahead * (hours * 60 + minutes) * 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mon, 30 Nov 2026 22:00:00.500 GMT.
    const WALL: Timestamp = Timestamp(1_796_076_000_500);

    fn at(date: Option<&str>) -> AnsweredAt {
        AnsweredAt::new(WALL, date)
    }

    #[test]
    fn numbers_are_interpreted_by_their_size() {
        for (text, ms) in [
            ("120", 120_000),
            (" 0 ", 0),
            ("-0000", 0),
            ("+5", 5000),
            ("1.5", 1500),
            (".25", 250),
            ("1.", 1000),
            ("\"30\"", 30_000),
            ("' 30 '", 30_000),
            ("\t7\t", 7000),
            ("86400", 86_400_000),
            ("31535999", 31_535_999_000),
            // a day and more in milliseconds
            ("86400000", 86_400_000),
            ("999999999", 999_999_999),
            // absolute times
            ("1796076030", 29_500),
            ("1796076030.25", 29_750),
            ("1796075999", 0),
            ("1000000000", 0),
            ("1796076030250", 29_750),
            ("1796075999999", 0),
            ("1796076030250000", 29_750),
            ("1796076030250000000", 29_750),
            ("1.79607603e9", 29_500),
            ("1796076030250.75", 29_751),
            ("100000000000", 0),
        ] {
            assert_eq!(wait(text, at(None)), Some(Duration::from_millis(ms)), "{text:?}");
        }
        for text in ["99999999999999999999", "1e300"] {
            assert_eq!(wait(text, at(None)), Some(Duration::MAX), "{text}");
        }
    }

    #[test]
    fn durations_have_units() {
        for (text, ms) in [
            ("30s", 30_000),
            ("500ms", 500),
            ("1m30s", 90_000),
            ("6m0s", 360_000),
            ("1.5s", 1500),
            ("1h 2m 3s", 3_723_000),
            ("30 seconds", 30_000),
            ("2 Minutes", 120_000),
            ("1d", 86_400_000),
            ("PT30S", 30_000),
            ("pt1m30s", 90_000),
            ("PT0.5S", 500),
            ("PT1H", 3_600_000),
            ("P1D", 86_400_000),
            ("P1DT1S", 86_401_000),
            ("P1W", 604_800_000),
        ] {
            assert_eq!(wait(text, at(None)), Some(Duration::from_millis(ms)), "{text:?}");
        }
    }

    #[test]
    fn dates_are_read_in_every_form() {
        for (text, ms) in [
            ("Mon, 30 Nov 2026 22:01:00 GMT", 59_500),
            ("Monday, 30-Nov-26 22:01:00 GMT", 59_500),
            ("Mon Nov 30 22:01:00 2026", 59_500),
            ("Mon, 30 Nov 2026 22:01:00 -0000", 59_500),
            ("Mon, 30 Nov 2026 22:01:00 +0000", 59_500),
            ("Mon, 30 Nov 2026 23:01:00 +0100", 59_500),
            ("30 Nov 2026 17:01:00 EST", 59_500),
            ("30 Nov 2026 22:01:00", 59_500),
            ("30 november 2026 22:01 UTC", 59_500),
            ("Mon Nov 30 2026 23:01:00 GMT+0100 (Central European Standard Time)", 59_500),
            ("Mon, 30 Nov 2026 22:01:00.25 GMT", 59_750),
            ("2026-11-30T22:01:00Z", 59_500),
            ("2026-11-30T23:01:00+01:00", 59_500),
            ("2026-11-30T22:01:00.25Z", 59_750),
            ("2026-11-30 22:01:00", 59_500),
            ("20261130T220100Z", 59_500),
            ("\"2026-11-30T22:01:00Z\"", 59_500),
            ("Mon, 30 Nov 2026 21:00:00 GMT", 0),
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Sun, 31 Dec 1899 00:00:00 GMT", 0),
            ("Sun, 06 Nov 94 08:49:37 GMT", 0),
        ] {
            assert_eq!(wait(text, at(None)), Some(Duration::from_millis(ms)), "{text:?}");
        }
    }

    #[test]
    fn an_invalid_wait_is_none() {
        let cases = "|-3|-1.5|soon|NaN|inf|infinity|1x|1s2|s|.|PT|P|P1M|P1Y|PTS|PT1|1.2.3|--5|0x10|\"\"|\"5|30 parsecs|1s-2s\
                     |Mon, 31 Nov 2026 22:01:00 GMT|Mon, 30 Nov 2026 24:01:00 GMT|Mon, 30 Nov 2026 22:01:61 GMT\
                     |Mon, 30 Nov 2026 22:01:00 XYZ|Mon, 30 Nov 2026 10:01:00 PM|Mon, 30 Nov 2026|30 Nov Dec 2026 22:01:00\
                     |Mon, 30 Nov 2026 22:01:00 +2500|2026-13-01T00:00:00Z|2026-11-30T22:01:00+99:00|\u{fc}|1\u{fc}|\u{663}";
        for text in cases.split('|') {
            assert_eq!(wait(text, at(None)), None, "{text:?}");
        }
    }

    #[test]
    fn a_date_is_measured_by_the_clock_of_its_server() {
        let date = |date: &str, text: &str, ms: u64| {
            assert_eq!(wait(text, at(Some(date))), Some(Duration::from_millis(ms)), "{text:?} at {date:?}");
        };
        // the remote clock is five minutes ahead, five minutes behind, and hours off by a wrong zone
        date("Mon, 30 Nov 2026 22:05:00 GMT", "Mon, 30 Nov 2026 22:05:30 GMT", 30_000);
        date("Mon, 30 Nov 2026 21:55:00 GMT", "Mon, 30 Nov 2026 21:55:30 GMT", 30_000);
        date("Tue, 01 Dec 2026 03:00:00 GMT", "2026-12-01T03:00:30Z", 30_000);
        date("Mon, 30 Nov 2026 22:05:00 GMT", "1796076330", 30_000);
        date("Mon, 30 Nov 2026 22:05:00 -0000", "1796076330500", 30_500);
        // in the past by the remote clock, not by the local one
        date("Mon, 30 Nov 2026 22:05:00 GMT", "Mon, 30 Nov 2026 22:04:00 GMT", 0);
        // a clock that was never set, but is consistent
        date("Thu, 01 Jan 1970 00:10:00 GMT", "Thu, 01 Jan 1970 00:10:30 GMT", 30_000);
        // an invalid `Date`, or one that cannot come from the same clock
        date("Thu, 01 Jan 1970 00:10:00 GMT", "Mon, 30 Nov 2026 22:01:00 GMT", 59_500);
        date("Thu, 01 Jan 2099 00:10:00 GMT", "Mon, 30 Nov 2026 22:01:00 GMT", 59_500);
        date("yesterday", "Mon, 30 Nov 2026 22:01:00 GMT", 59_500);
        date("", "1796076060", 59_500);
        // a duration does not depend on a clock
        date("Mon, 30 Nov 2026 23:00:00 GMT", "30", 30_000);
    }

    #[test]
    fn the_longest_of_a_list_counts() {
        for (text, seconds) in [
            ("5, 30, 10", Some(30)),
            ("120", Some(120)),
            ("5, Mon, 30 Nov 2026 22:01:00 GMT", Some(60)),
            ("Mon, 30 Nov 2026 22:01:00 GMT, Mon, 30 Nov 2026 22:02:00 GMT", Some(120)),
            ("soon, 7", Some(7)),
            ("soon, later", None),
        ] {
            let date = AnsweredAt::new(Timestamp(WALL.0 - 500), None);
            assert_eq!(longest(text, date), seconds.map(Duration::from_secs), "{text:?}");
        }
    }
}
