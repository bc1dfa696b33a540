//! One event and the request it came in: where the parts of its fields are looked up.

use super::pointer::{Composite, Part};
use super::presets::Shape;
use super::scan::Places;
use super::{Fields, Request, moment};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::fmt::Write as _;
use uuid::Uuid;

/// Between the parts of a composite.
const JOINT: char = '|';

/// An event before its fields are read.
pub(super) struct Origin<'a> {
    pub(super) request: &'a Request<'a>,
    pub(super) found: &'a Places<'a, 'a>,
    /// The bytes of the event: the whole body, or one element of a batch.
    pub(super) body: Bytes,
}

impl Origin<'_> {
    /// The fields as the shape has them.
    pub(super) fn fields(self, shape: &Shape) -> Fields {
        let kind = self.first(&shape.kind).unwrap_or_default();
        Fields {
            interaction: self.first(&shape.key),
            sender_id: self.first(&shape.id),
            time: self.first(&shape.time).and_then(|text| moment::parse(&text)),
            kind: if shape.anonymous_kind { without_uuids(&kind) } else { kind },
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
            Part::Header(name) => String::from_utf8_lossy(self.request.headers.get(name)?.as_bytes()),
            Part::Query(name) => {
                let mut pairs = form_urlencoded::parse(self.request.query?.as_bytes());
                pairs.find(|(key, value)| key == name && !value.is_empty())?.1
            }
            Part::BodySha256 => Cow::Owned(sha256_hex(&self.body)),
        };
        Some(value).filter(|value| !value.is_empty())
    }
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
    fn uuids_give_way_in_types() {
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
