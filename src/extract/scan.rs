//! The walk through a body: checks all of it and extracts the texts at the wanted places, without building a tree.
//!
//! *Invariants.* The whole body is one JSON value in UTF-8, nested no deeper than allowed, including the parts that are
//! not extracted. A result is a slice of the body, byte for byte, so numbers keep their digits. Of several members with
//! the same name the last counts. Stack use does not depend on the body: a walk is as deep as the longest pointer, and
//! everything else is checked without recursion.
//!
//! *Format.* The first level is read directly from the body, which validates it to its end. A wanted value that contains
//! wanted places is then read one level deeper, and so on: each byte is read once, and those that contain a wanted place
//! once more per level.

use super::Unreadable;
use super::pointer::Pointer;
use super::raw_json;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

/// JSON whitespace (RFC 8259, section 2).
const SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// The body as text, without an initial byte order mark (RFC 8259, section 8.1, permits a reader to ignore it); refuses
/// an empty body, or one that is not UTF-8.
pub(super) fn text(body: &[u8]) -> Result<&str, Unreadable> {
    let refuse = |message: String| Err(Unreadable::NotJson { message });
    let body = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body);
    if body.starts_with(b"\xFF\xFE") || body.starts_with(b"\xFE\xFF") {
        return refuse("it is encoded in UTF-16; send UTF-8".to_owned());
    }
    match std::str::from_utf8(body) {
        Ok(text) if text.trim_matches(SPACE).is_empty() => Err(Unreadable::Empty),
        Ok(text) => Ok(text),
        Err(error) => {
            let before = &body[..error.valid_up_to()];
            let line = before.iter().filter(|b| **b == b'\n').count() + 1;
            let column = before.iter().rev().take_while(|b| **b != b'\n').count() + 1;
            refuse(format!("invalid UTF-8 at line {line} column {column}; send UTF-8"))
        }
    }
}

/// Refuses arrays and objects nested more than `max` deep. Examines only brackets and quotes, which is exact for JSON;
/// for any other text the walk finds the fault.
pub(super) fn bound_depth(text: &str, max: usize) -> Result<(), Unreadable> {
    // the nesting cannot exceed the number of opening brackets, quoted or not: most events need no further check
    if opening(text.as_bytes()) <= max {
        return Ok(());
    }
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => {
                depth += 1;
                if depth > max {
                    return Err(Unreadable::TooDeep { max });
                }
            }
            b']' | b'}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// Counts opening brackets. In chunks whose count fits into a byte, so that the compiler can vectorize the loop.
fn opening(bytes: &[u8]) -> usize {
    let count = |part: &[u8]| part.iter().fold(0u8, |n, b| n + u8::from(matches!(b, b'[' | b'{')));
    bytes.chunks(usize::from(u8::MAX)).map(|part| usize::from(count(part))).sum()
}

/// The wanted places, as a tree of segments; the first node is the whole body.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    nodes: Vec<Children>,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { nodes: vec![Children::default()] }
    }
}

/// The nodes below one node, by their segments.
#[derive(Clone, Debug, Default)]
struct Children {
    by_segment: BTreeMap<String, usize>,
    /// A bit for each length of a segment, modulo 64: it rules out most member names without a comparison.
    lengths: u64,
}

impl Children {
    fn insert(&mut self, segment: &str, node: usize) {
        self.lengths |= length_bit(segment.len());
        self.by_segment.insert(segment.to_owned(), node);
    }

    fn get(&self, segment: &str) -> Option<usize> {
        self.by_segment.get(segment).copied()
    }

    /// The child of a member, by its name as written in the JSON.
    fn named(&self, name: &str) -> Option<usize> {
        let as_long_as_one = self.lengths & length_bit(name.len().wrapping_sub(2)) != 0;
        // a name with escapes is longer than its decoded form
        if !as_long_as_one && !name.contains('\\') {
            return None;
        }
        string(name).ok().and_then(|name| self.get(&name))
    }
}

fn length_bit(length: usize) -> u64 {
    1 << (length % 64)
}

impl Wanted {
    pub(super) fn add(&mut self, pointer: &Pointer) {
        let mut node = 0;
        for segment in pointer.segments() {
            node = self.nodes[node].get(segment).unwrap_or_else(|| {
                let next = self.nodes.len();
                self.nodes.push(Children::default());
                self.nodes[node].insert(segment, next);
                next
            });
        }
    }

    /// Walks one JSON value; an error comes from the JSON.
    pub(super) fn walk<'a>(&self, text: &'a str) -> Result<Places<'_, 'a>, Unreadable> {
        let mut texts = vec![None; self.nodes.len()];
        texts[0] = Some(text.trim_matches(SPACE));
        for (child, inside) in level(&self.nodes[0], text).map_err(not_json)? {
            self.look_inside(child, inside, &mut texts);
        }
        Ok(Places { wanted: self, texts })
    }

    /// The same for deeper levels, where the JSON is known to be valid.
    fn look_inside<'a>(&self, node: usize, text: &'a str, texts: &mut [Option<&'a str>]) {
        texts[node] = Some(text);
        let wanted = &self.nodes[node];
        if wanted.by_segment.is_empty() {
            return;
        }
        let mut found = BTreeMap::new();
        let mut elements = 0usize;
        raw_json::each(text, |name, inside| {
            let child = if name.is_empty() {
                elements += 1;
                let at = |(segment, _): &(&String, _)| index(segment) == Some(elements - 1);
                wanted.by_segment.iter().find(at).map(|(_, child)| *child)
            } else {
                wanted.named(name)
            };
            if let Some(child) = child {
                found.insert(child, inside);
            }
        });
        found.into_iter().for_each(|(child, inside)| self.look_inside(child, inside, texts));
    }
}

/// The texts of the wanted children of one value, by their nodes.
fn level<'a>(wanted: &Children, text: &'a str) -> serde_json::Result<BTreeMap<usize, &'a str>> {
    let mut found = BTreeMap::new();
    let mut json = serde_json::Deserializer::from_str(text);
    let level = Level { wanted, found: &mut found };
    match text.trim_start_matches(SPACE).bytes().next() {
        Some(b'{') => json.deserialize_map(level)?,
        Some(b'[') => json.deserialize_seq(level)?,
        _ => IgnoredAny::deserialize(&mut json).map(|_| ())?,
    }
    json.end()?;
    Ok(found)
}

struct Level<'w, 'f, 'a> {
    wanted: &'w Children,
    found: &'f mut BTreeMap<usize, &'a str>,
}

impl<'a> Visitor<'a> for Level<'_, '_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<M: MapAccess<'a>>(self, mut members: M) -> Result<(), M::Error> {
        // Names are compared in raw form: one that cannot be decoded (a lone surrogate) is valid JSON and never wanted.
        while let Some(name) = members.next_key::<&RawValue>()? {
            match self.wanted.named(name.get()) {
                Some(child) => drop(self.found.insert(child, members.next_value::<&RawValue>()?.get())),
                None => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }

    fn visit_seq<S: SeqAccess<'a>>(self, mut elements: S) -> Result<(), S::Error> {
        let wanted: BTreeMap<usize, usize> =
            self.wanted.by_segment.iter().filter_map(|(segment, child)| Some((index(segment)?, *child))).collect();
        for i in 0.. {
            let Some(child) = wanted.get(&i) else {
                if elements.next_element::<IgnoredAny>()?.is_none() {
                    break;
                }
                continue;
            };
            let Some(element) = elements.next_element::<&RawValue>()? else { break };
            self.found.insert(*child, element.get());
        }
        Ok(())
    }
}

/// A segment as a position in an array: digits without a leading zero.
fn index(segment: &str) -> Option<usize> {
    let canonical = segment == "0" || (!segment.starts_with('0') && segment.bytes().all(|b| b.is_ascii_digit()));
    segment.parse().ok().filter(|_| canonical)
}

/// What a walk found.
#[derive(Debug)]
pub(super) struct Places<'w, 'a> {
    wanted: &'w Wanted,
    texts: Vec<Option<&'a str>>,
}

impl<'a> Places<'_, 'a> {
    /// The JSON text at a wanted place; none if the body has nothing there.
    pub(super) fn text<'s>(&self, segments: impl IntoIterator<Item = &'s str>) -> Option<&'a str> {
        let node = segments.into_iter().try_fold(0, |node, segment| self.wanted.nodes[node].get(segment))?;
        self.texts[node]
    }

    /// The scalar at a place: a string decoded, a number or boolean as its JSON text; none for null, the empty string,
    /// objects and arrays.
    pub(super) fn scalar<'s>(&self, segments: impl IntoIterator<Item = &'s str>) -> Option<Cow<'a, str>> {
        let text = self.text(segments)?;
        match text.bytes().next()? {
            b'{' | b'[' | b'n' => None,
            // A string with a lone surrogate cannot be decoded; its raw form still distinguishes events.
            b'"' => Some(string(text).unwrap_or(Cow::Borrowed(text))).filter(|s| !s.is_empty()),
            _ => Some(Cow::Borrowed(text)),
        }
    }
}

/// A decoded JSON string; the input includes the quotes.
fn string(json: &str) -> serde_json::Result<Cow<'_, str>> {
    if json.contains('\\') {
        return serde_json::from_str::<String>(json).map(Cow::Owned);
    }
    // within a string each quote is escaped
    Ok(Cow::Borrowed(json.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(json)))
}

/// The elements of a JSON array found by a walk, byte for byte; none if it is not an array.
pub(super) fn elements(text: &str, max: usize) -> Result<Option<Vec<&str>>, Unreadable> {
    if !text.starts_with('[') {
        return Ok(None);
    }
    // Counts the elements before it stores them: an ignored element takes no memory.
    if serde_json::from_str::<Vec<IgnoredAny>>(text).map_err(not_json)?.len() > max {
        return Err(Unreadable::TooManyEvents { max });
    }
    let elements = serde_json::from_str::<Vec<&RawValue>>(text).map_err(not_json)?;
    Ok(Some(elements.into_iter().map(RawValue::get).collect()))
}

/// The error and its position. The parser's own messages quote no content; any other message is replaced by its
/// position.
fn not_json(error: serde_json::Error) -> Unreadable {
    let message = match error.classify() {
        serde_json::error::Category::Syntax | serde_json::error::Category::Eof => error.to_string(),
        _ => format!("unexpected value at line {} column {}", error.line(), error.column()),
    };
    Unreadable::NotJson { message }
}
