//! One event and the request it came in: where the parts of its fields are looked up.

use super::pointer::{Composite, Part};
use super::presets::Shape;
use super::scan::Places;
use super::{Fields, Request, timestamp};
use crate::event::{FIELD_BYTES_MAX, bounded};
use bytes::Bytes;
use http::HeaderName;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::fmt::Write as _;
use uuid::Uuid;

/// Between the parts of a composite.
const JOINT: char = '|';

/// An event before its fields are read.
pub(super) struct Extractor<'a> {
    pub(super) request: &'a Request<'a>,
    pub(super) found: &'a Places<'a, 'a>,
    /// The bytes of the event: the whole body, or one element of a batch.
    pub(super) body: Bytes,
}

impl Extractor<'_> {
    /// The fields as the shape has them.
    pub(super) fn fields(self, shape: &Shape) -> Fields {
        let kind = self.first(&shape.kind).unwrap_or_default();
        Fields {
            interaction: self.first(&shape.key).map(bounded),
            sender_id: self.first(&shape.id).map(bounded),
            time: self
                .first(&shape.time)
                .filter(|text| text.len() <= FIELD_BYTES_MAX)
                .and_then(|t| timestamp::parse(&t)),
            kind: bounded(if shape.anonymous_kind { without_uuids(&kind) } else { kind }),
            body: self.body,
        }
    }

    /// The first alternative that is there.
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

/// The value of a header. An attribute of a CloudEvent is decoded (CloudEvents HTTP binding 1.0, section 3.1.3.2), so that it
/// is the same text as in the body of one that came whole.
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

/// Joins parts so that different ones never give the same text.
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
fn without_uuids(kind: &str) -> String {
    let named = |segment| if is_uuid(segment) { "{id}" } else { segment };
    kind.split('.').map(named).collect::<Vec<_>>().join(".")
}

/// Only the form with hyphens, without braces or prefix.
fn is_uuid(segment: &str) -> bool {
    segment.len() == 36 && Uuid::try_parse(segment).is_ok()
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
        for (kind, named) in cases {
            assert_eq!(without_uuids(kind), named);
        }
    }
}
