//! When an event happened, from the many ways in which senders write a time.
//!
//! *Format.* A number, bare or in a string, counts from the Unix epoch; its unit follows from its size. Counting seconds
//! passes 10^11 in the year 5138, counting milliseconds passed it in March 1973: below 10^11 it is seconds, from there
//! milliseconds, and in the same way from 10^14 microseconds and from 10^17 nanoseconds. Anything else is ISO 8601 in its
//! extended form: a date, then `T`, `t` or a space, a time with any number of fractional digits, and `Z`, `z`, an offset
//! (`+02:00`, `+0200`, `+02`) or nothing, which means UTC.
//!
//! *Failure.* What cannot be read, or lies before 1970 or after 9999, is no time: an event is never refused for it.

use crate::time::{Timestamp, iso8601_ms};

/// 9999-12-31T23:59:59.999Z, the last instant that RFC 3339 can write.
const LATEST_MS: u64 = 253_402_300_799_999;

/// Reads a time in any of the forms above.
pub(super) fn parse(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    number(text).or_else(|| iso8601_ms(text)).filter(|ms| *ms <= LATEST_MS).map(Timestamp)
}

/// Milliseconds from a number since the epoch. Whole numbers are cut to the millisecond, others rounded to it, since a
/// float seldom holds the fraction that was meant.
fn number(text: &str) -> Option<u64> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return match text.parse::<u64>().ok()? {
            s @ ..100_000_000_000 => Some(s * 1000),
            ms @ ..100_000_000_000_000 => Some(ms),
            us @ ..100_000_000_000_000_000 => Some(us / 1000),
            ns => Some(ns / 1_000_000),
        };
    }
    // The parser of floats would also take `inf` and `nan`.
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let value = text.parse::<f64>().ok()?;
    let ms = match value {
        ..1e11 => value * 1e3,
        ..1e14 => value,
        ..1e17 => value / 1e3,
        _ => value / 1e6,
    };
    // A float beyond what an integer holds becomes the greatest one, which lies after every readable time.
    Some(ms.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_read_in_every_form() {
        let noon = 1_649_237_444_949;
        let cases = [
            ("1649237444949", noon),
            ("1649237444", 1_649_237_444_000),
            ("1649237444.949", noon),
            ("1.649237444949e9", noon),
            ("1649237444949.4", noon),
            ("1649237444949123", noon),
            ("1649237444949123456", noon),
            ("10000", 10_000_000),
            ("99999999999", 99_999_999_999_000),
            ("100000000000", 100_000_000_000),
            ("0", 0),
            ("2022-04-06T09:30:44.949Z", noon),
            ("2022-04-06T09:30:44.949123456789Z", noon),
            ("2022-04-06T09:30:44.9499999Z", noon),
            ("2022-04-06T09:30:44,949Z", noon),
            ("2022-04-06t09:30:44.949z", noon),
            ("2022-04-06 09:30:44.949", noon),
            (" 2022-04-06T09:30:44.949 ", noon),
            ("2022-04-06T11:30:44.949+02:00", noon),
            ("2022-04-06T11:30:44.949+0200", noon),
            ("2022-04-06T11:30:44.949+02", noon),
            ("2022-04-06 11:30:44.949 +0200", noon),
            ("2022-04-06T04:00:44.949-05:30", noon),
            ("2022-04-05T23:30:44.949-1000", noon),
            ("2022-04-06T09:30:44.9Z", noon - 49),
            ("2022-04-06T09:30:44.94Z", noon - 9),
            ("2022-04-06T09:30:44Z", noon - 949),
            ("2022-04-06T09:30Z", noon - 44_949),
            ("2022-04-06", 1_649_203_200_000),
            ("2016-12-31T23:59:60Z", 1_483_228_800_000),
            ("2024-02-29T00:00:00Z", 1_709_164_800_000),
            ("2000-02-29T00:00:00Z", 951_782_400_000),
            ("1970-01-01T00:00:00Z", 0),
            ("9999-12-31T23:59:59.999Z", LATEST_MS),
        ];
        for (text, ms) in cases {
            assert_eq!(parse(text), Some(Timestamp(ms)), "{text}");
        }
    }

    #[test]
    fn an_invalid_timestamp_is_none() {
        let cases = "|x|true|inf|NaN|-1|-1649237444|+5|1e400|99999999999999999999|9223372036854775807e3|2022-|2022-04\
                     |2022-13-01|2022-00-01|2022-02-29|1900-02-29|2022-04-31|2022-04-00|2022-04-06T|2022-04-06T24:00:00Z\
                     |2022-04-06T09|2022-04-06T09:60:00Z|2022-04-06T09:30:61Z|2022-04-06T09:30:44.Z|2022-04-06T09:30:44+2\
                     |2022-04-06T09:30:44+24:00|2022-04-06T09:30:44+02:60|2022-04-06T09:30:44+02:00x|2022-04-06T09:30:44ZZ\
                     |2022-04-06T09:30:44+02:|2022-04-06x09:30:44Z|2022-04-06T09:30:44 UTC|1969-12-31T23:59:59Z\
                     |1970-01-01T00:00:00+01:00|9999-12-31T23:59:59-01:00|٢٠٢٢-04-06|2022-04-0é|+12022-04-06|2022-4-6";
        for text in cases.split('|') {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn dates_agree_with_the_writer_of_timestamps() {
        for day in (0..=LATEST_MS / 86_400_000).step_by(97) {
            let at = Timestamp(day * 86_400_000 + day % 86_400_000);
            assert_eq!(parse(&at.to_string()), Some(at));
        }
    }
}
