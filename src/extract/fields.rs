//! One event and the request that contained it: where the parts of its fields are looked up.
//!
//! *Format.* A number, bare or in a string, counts from the Unix epoch; its magnitude determines its unit. A count of
//! seconds reaches 10^11 in the year 5138, a count of milliseconds reached it in March 1973: below 10^11 the unit is
//! seconds, from there milliseconds, and correspondingly from 10^14 microseconds and from 10^17 nanoseconds. Any other
//! text is ISO 8601 in its extended form: a date, then `T`, `t` or a space, a time with any number of fractional digits,
//! and `Z`, `z`, an offset (`+02:00`, `+0200`, `+02`) or nothing, which means UTC.
//!
//! *Failure.* A value that cannot be read, or is before 1970 or after 9999, counts as no time: an event is never refused
//! for it.

use super::pointer::{Composite, Part};
use super::presets::Shape;
use super::scan::Places;
use super::{Fields, Request};
use crate::event::{FIELD_BYTES_MAX, bounded};
use crate::time::{Timestamp, iso8601_ms};
use bytes::Bytes;
use http::HeaderName;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::fmt::Write as _;
use uuid::Uuid;

/// Separates the parts of a composite.
const JOINT: char = '|';

/// An event before its fields are read.
pub(super) struct Extractor<'a> {
    pub(super) request: &'a Request<'a>,
    pub(super) found: &'a Places<'a, 'a>,
    /// The bytes of the event: the whole body, or one element of a batch.
    pub(super) body: Bytes,
}

impl Extractor<'_> {
    /// The fields according to the shape.
    pub(super) fn fields(self, shape: &Shape) -> Fields {
        let event_type = self.first(&shape.event_type).unwrap_or_default();
        Fields {
            interaction: self.first(&shape.key).map(bounded),
            sender_id: self.first(&shape.id).map(bounded),
            time: self.first(&shape.time).filter(|text| text.len() <= FIELD_BYTES_MAX).and_then(|t| parse_time(&t)),
            event_type: bounded(if shape.anonymize_type { without_uuids(&event_type) } else { event_type }),
            body: self.body,
        }
    }

    /// The first alternative that is present.
    fn first(&self, alternatives: &[Composite]) -> Option<String> {
        alternatives.iter().find_map(|composite| self.composite(composite))
    }

    fn composite(&self, Composite(parts): &Composite) -> Option<String> {
        if let [part] = parts.as_slice() {
            return self.part(part).map(Cow::into_owned);
        }
        let values: Vec<_> = parts.iter().map(|part| self.part(part)).collect();
        values.iter().any(Option::is_some).then(|| join(&values))
    }

    /// The value of one part; never empty.
    fn part(&self, part: &Part) -> Option<Cow<'_, str>> {
        let value = match part {
            Part::Body(pointer) => self.found.scalar(pointer.segments())?,
            Part::Header(name) => header(name, self.request.headers.get(name)?.as_bytes()),
            Part::Query(name) => {
                let mut pairs = form_urlencoded::parse(self.request.query?.as_bytes());
                pairs.find(|(key, value)| key == name && !value.is_empty())?.1
            }
            Part::BodySha256 => Cow::Owned(sha256_hex(&self.body)),
        };
        Some(value).filter(|value| !value.is_empty())
    }
}

/// The value of a header. An attribute of a CloudEvent is decoded (CloudEvents HTTP binding 1.0, section 3.1.3.2), so
/// that it equals the text in the body of an event in structured mode.
fn header<'a>(name: &HeaderName, value: &'a [u8]) -> Cow<'a, str> {
    if !name.as_str().starts_with("ce-") || !value.iter().any(|b| b"%\"".contains(b)) {
        return String::from_utf8_lossy(value);
    }
    let quoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    let (mut rest, mut out) = (quoted.unwrap_or(value), Vec::with_capacity(value.len()));
    while let [byte, behind @ ..] = rest {
        let (byte, length) = match (byte, behind) {
            (b'\\', [escaped, ..]) if quoted.is_some() => (*escaped, 2),
            (b'%', [high, low, ..]) => hex(*high, *low).map_or((b'%', 1), |byte| (byte, 3)),
            _ => (*byte, 1),
        };
        out.push(byte);
        rest = &rest[length..];
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

/// Joins parts so that different lists of parts never give the same text.
fn join(values: &[Option<Cow<'_, str>>]) -> String {
    let mut joined = String::new();
    for (i, value) in values.iter().enumerate() {
        if i > 0 {
            joined.push(JOINT);
        }
        for c in value.iter().flat_map(|value| value.chars()) {
            if c == JOINT || c == '\\' {
                joined.push('\\');
            }
            joined.push(c);
        }
    }
    joined
}

fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a String takes every write");
        hex
    })
}

/// A dotted name with `{id}` for each segment that is a UUID.
fn without_uuids(event_type: &str) -> String {
    let named = |segment| if is_uuid(segment) { "{id}" } else { segment };
    event_type.split('.').map(named).collect::<Vec<_>>().join(".")
}

/// Only the form with hyphens, without braces or prefix.
fn is_uuid(segment: &str) -> bool {
    segment.len() == 36 && Uuid::try_parse(segment).is_ok()
}

/// 9999-12-31T23:59:59.999Z, the last time that RFC 3339 can represent.
const LATEST_MS: u64 = 253_402_300_799_999;

/// Parses a time in any of the formats above.
fn parse_time(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    number(text).or_else(|| iso8601_ms(text)).filter(|ms| *ms <= LATEST_MS).map(Timestamp)
}

/// Milliseconds from a number since the epoch. Whole numbers are truncated to the millisecond, others rounded, since a
/// float rarely represents the intended fraction exactly.
fn number(text: &str) -> Option<u64> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return match text.parse::<u64>().ok()? {
            s @ ..100_000_000_000 => Some(s * 1000),
            ms @ ..100_000_000_000_000 => Some(ms),
            us @ ..100_000_000_000_000_000 => Some(us / 1000),
            ns => Some(ns / 1_000_000),
        };
    }
    // The float parser would also accept `inf` and `nan`.
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
    // A float above the range of the integer becomes its maximum, which is after every valid time.
    Some(ms.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_parts_never_collide() {
        let lists: [&[Option<&str>]; 8] = [
            &[Some("a"), Some("b"), None],
            &[Some("a"), None, Some("b")],
            &[None, Some("a"), Some("b")],
            &[Some("a|b"), None, None],
            &[Some("a\\"), Some("b"), None],
            &[Some("a\\|b"), None, None],
            &[Some("a"), Some("|b"), None],
            &[Some("a|"), Some("b"), None],
        ];
        let joined: std::collections::BTreeSet<_> =
            lists.iter().map(|list| join(&list.iter().map(|v| v.map(Cow::Borrowed)).collect::<Vec<_>>())).collect();
        assert_eq!(joined.len(), lists.len());
        assert!(joined.contains("a|b|") && joined.contains("a|\\|b|"));
    }

    #[test]
    fn uuids_are_removed_from_types() {
        let cases = [
            ("v2.users.438442b0-f5b6-50ef-aac3-4c45f2a65ddd.conversations", "v2.users.{id}.conversations"),
            ("v2.users.438442B0-F5B6-50EF-AAC3-4C45F2A65DDD", "v2.users.{id}"),
            ("v2.users.438442b0f5b650efaac34c45f2a65ddd.x", "v2.users.438442b0f5b650efaac34c45f2a65ddd.x"),
            ("v2.conversations.test-conversation-id.x", "v2.conversations.test-conversation-id.x"),
            ("", ""),
        ];
        for (event_type, named) in cases {
            assert_eq!(without_uuids(event_type), named);
        }
    }

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
            assert_eq!(parse_time(text), Some(Timestamp(ms)), "{text}");
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
            assert_eq!(parse_time(text), None, "{text}");
        }
    }

    #[test]
    fn dates_agree_with_the_writer_of_timestamps() {
        for day in (0..=LATEST_MS / 86_400_000).step_by(97) {
            let at = Timestamp(day * 86_400_000 + day % 86_400_000);
            assert_eq!(parse_time(&at.to_string()), Some(at));
        }
    }
}
