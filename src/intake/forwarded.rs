//! The headers that an event takes along to its destination, chosen from those of its request and bounded.

use crate::event::{ForwardedHeaders, bounded};
use http::HeaderMap;

/// Longest name of a CloudEvents attribute, its `ce-` included.
const NAME_BYTES_MAX: usize = 64;
/// Each but `ce-*` and `baggage` is at most so long; a longer one is left out, since a part of it would mean something else.
const TRACE_BYTES_MAX: usize = 512;

/// All that each event of a batch takes along: it has copies of its own.
const BATCH_BYTES_MAX: usize = 1024;

/// Whose headers they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// The request is one event.
    One,
    /// It is many: its `ce-*` headers say nothing of any of them.
    Batch,
}

/// The trace context (W3C), then the attributes of a CloudEvent, then the baggage, as far as all of them together take at most
/// `bytes_max` bytes of names and values. A longer attribute is its beginning and its hash (see [`bounded`]); of anything else that
/// is too long nothing is left. `is_believed`: whether an attribute is what the sender said.
pub fn forwarded(
    headers: &HeaderMap,
    of: Of,
    bytes_max: usize,
    is_believed: impl Fn(&str) -> bool,
) -> ForwardedHeaders {
    let bytes_max = if of == Of::One { bytes_max } else { bytes_max.min(BATCH_BYTES_MAX) };
    let trace =
        ["traceparent", "tracestate"].map(|name| (name, joined(headers, name).filter(|v| v.len() <= TRACE_BYTES_MAX)));
    let attributes = headers
        .keys()
        .map(http::HeaderName::as_str)
        .filter(|name| of == Of::One && is_attribute(name) && is_believed(name));
    let attributes = attributes.map(|name| (name, text(headers, name).map(bounded)));
    let baggage = [("baggage", joined(headers, "baggage"))];
    let all = trace.into_iter().chain(attributes).chain(baggage);
    let mut left = bytes_max;
    let mut kept = Vec::new();
    for (name, value) in all.filter_map(|(name, value)| Some((name, value?))) {
        if let Some(rest) = left.checked_sub(name.len() + value.len()) {
            left = rest;
            kept.push((name, value));
        }
    }
    ForwardedHeaders::new(kept.iter().map(|(name, value)| (*name, value.as_str())))
}

fn is_attribute(name: &str) -> bool {
    let attribute = name.strip_prefix("ce-").filter(|_| name.len() <= NAME_BYTES_MAX);
    attribute
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)))
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    std::str::from_utf8(headers.get(name)?.as_bytes()).ok().map(str::to_owned)
}

/// The lines of one header as one, as HTTP lets a list be written.
fn joined(headers: &HeaderMap, name: &str) -> Option<String> {
    let lines: Option<Vec<_>> = headers.get_all(name).iter().map(|line| line.to_str().ok()).collect();
    lines.filter(|lines| !lines.is_empty()).map(|lines| lines.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn map(headers: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        map
    }

    fn kept(headers: &[(&str, &str)], of: Of, bytes_max: usize) -> Vec<(String, String)> {
        let kept = forwarded(&map(headers), of, bytes_max, |name| name != "ce-forged");
        kept.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn trace_attributes_and_baggage_are_kept_and_nothing_else() {
        let sent = [
            ("authorization", "Bearer x"),
            ("baggage", "a=1"),
            ("ce-id", "1"),
            ("ce-forged", "1"),
            ("ce-subject", "M%C3%BCller"),
            ("ce-", "x"),
            ("ce-a.b", "x"),
            ("content-type", "application/json"),
            ("traceparent", "00-1"),
            ("tracestate", "a=1"),
            ("tracestate", "b=2"),
            ("baggage", "b=2"),
            ("x-ce-id", "1"),
        ];
        let trace = [("traceparent", "00-1"), ("tracestate", "a=1,b=2")];
        let attributes = [("ce-id", "1"), ("ce-subject", "M%C3%BCller")];
        let owned =
            |all: &[(&str, &str)]| all.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect::<Vec<_>>();
        let baggage = [("baggage", "a=1,b=2")];
        assert_eq!(kept(&sent, Of::One, 4096), owned(&[&trace[..], &attributes, &baggage].concat()));
        assert_eq!(kept(&sent, Of::Batch, 4096), owned(&[&trace[..], &baggage].concat()));
        assert_eq!(kept(&sent, Of::One, 0), []);
    }

    #[test]
    fn forwarded_headers_are_bounded_each_and_together() {
        let long = "x".repeat(30_000);
        let whole = kept(
            &[("ce-subject", &long), ("traceparent", &long), ("tracestate", &long), ("baggage", &long)],
            Of::One,
            4096,
        );
        assert_eq!(whole, [("ce-subject".to_owned(), bounded(long.clone()))]);
        let names: Vec<String> = (0..100).map(|n| format!("ce-a{n}")).collect();
        let long = "x".repeat(500);
        let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), long.as_str())).collect();
        let kept = kept(&many, Of::One, 4096);
        let bytes: usize = kept.iter().map(|(name, value)| name.len() + value.len()).sum();
        assert!(kept.len() == 8 && bytes <= 4096, "{bytes}");
    }
}
