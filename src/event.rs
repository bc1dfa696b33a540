//! The event: one request of a sender, or one element of a batch, with its body, as accepted.
//!
//! *Invariants.* The body is byte for byte what the sender sent. A sequence is unique, increases with acceptance and
//! orders an interaction. The id contains the sequence, so an id leads to its event without an index.

use crate::time::Timestamp;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Increases by one with each accepted event, also across restarts; the first is 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The largest value that fits into the id: 48 bits.
    pub const MAX: u64 = (1 << 48) - 1;

    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    pub fn plus(self, n: u64) -> Self {
        Self(self.0 + n)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// UUID version 7 (RFC 9562): 48 bits of Unix milliseconds, then the sequence in the 12 bits of `rand_a` and the upper
/// 36 bits of `rand_b`, then 26 bits of the body's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(Uuid);

impl EventId {
    pub fn new(received_at: Timestamp, sequence: Sequence, body: Digest64) -> Self {
        let time = u128::from(received_at.0 & 0xFFFF_FFFF_FFFF) << 80;
        let s = u128::from(sequence.0 & Sequence::MAX);
        let (high, low) = ((s >> 36) << 64, (s & 0xF_FFFF_FFFF) << 26);
        let bits = time | 0x7 << 76 | high | 0b10 << 62 | low | u128::from(body.0 & 0x3FF_FFFF);
        Self(Uuid::from_u128(bits))
    }

    pub fn sequence(self) -> Sequence {
        let bits = self.0.as_u128();
        let (high, low) = ((bits >> 64) & 0xFFF, (bits >> 26) & 0xF_FFFF_FFFF);
        Sequence((high << 36 | low) as u64)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for EventId {
    type Err = uuid::Error;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(s).map(Self)
    }
}

impl Serialize for EventId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EventId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The first 64 bits of a SHA-256; never zero, since zero means "none".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest64(pub u64);

impl Digest64 {
    pub const NONE: Self = Self(0);

    /// Hashes each part after its length, so that different lists of parts have different hashes.
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let first: [u8; 8] = hash.finalize()[..8].try_into().expect("a SHA-256 has 32 bytes");
        Self(u64::from_be_bytes(first).max(1))
    }

    /// The hash of an interaction key as the sender wrote it; [`SharedKeys::order_key`] gives the order key.
    pub fn of_interaction(key: &str) -> Self {
        Self::of(&[b"interaction", key.as_bytes()])
    }

    /// The hash of the sender's id of an event, within its source.
    pub fn of_sender_id(source: &str, id: &str) -> Self {
        Self::of(&[b"id", source.as_bytes(), id.as_bytes()])
    }

    pub fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// Maximum length of each text that is stored with an event's body: key, id and type.
pub const FIELD_BYTES_MAX: usize = 1024;
/// Separates the beginning of a longer text from its hash.
const DIGEST_MARK: &str = "~sha256:";

/// The stored form of a text. A text longer than [`FIELD_BYTES_MAX`] becomes its beginning, `~sha256:` and the SHA-256
/// of the whole text in hexadecimal, with at most that total length. So equal texts stay equal, different ones stay
/// different, and applying it again changes nothing.
pub fn bounded(text: String) -> String {
    if text.len() <= FIELD_BYTES_MAX {
        return text;
    }
    let hash = Sha256::digest(text.as_bytes());
    let longest = FIELD_BYTES_MAX - DIGEST_MARK.len() - 2 * hash.len();
    let end = (0..=longest).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let hex = hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("{}{DIGEST_MARK}{hex}", &text[..end])
}

/// A set of destinations by id; one store knows at most [`DestinationSet::CAPACITY`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DestinationSet(pub u64);

/// The number that a store has assigned to a destination's name, permanently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DestinationId(pub u8);

impl DestinationSet {
    pub const CAPACITY: usize = 64;
    pub const EMPTY: Self = Self(0);

    pub fn with(self, d: DestinationId) -> Self {
        Self(self.0 | 1 << d.0)
    }

    pub fn without(self, d: DestinationId) -> Self {
        Self(self.0 & !(1 << d.0))
    }

    pub fn has(self, d: DestinationId) -> bool {
        self.0 & 1 << d.0 != 0
    }

    /// The number of destinations in it.
    pub fn count(self) -> u64 {
        self.0.count_ones().into()
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn iter(self) -> impl Iterator<Item = DestinationId> {
        (0..Self::CAPACITY as u8).map(DestinationId).filter(move |d| self.has(*d))
    }
}

/// How far a sender's clock may be ahead; a time further in the future is discarded.
const CLOCK_AHEAD_MAX: Duration = Duration::from_secs(60);

/// The event time, if it is plausible: no event happened after it was accepted.
///
/// A time slightly after the acceptance is replaced by the time of acceptance. A later one is discarded: replaced in the
/// same way, it would make other events stale that happened earlier and were accepted later.
pub fn believed_time(said: Option<Timestamp>, received_at: Timestamp) -> Option<Timestamp> {
    said.filter(|time| *time <= received_at.after(CLOCK_AHEAD_MAX)).map(|time| time.min(received_at))
}

/// Memory of an event besides its texts and its body: its fields, the allocator's overhead, and its entries in queues.
pub const EVENT_OVERHEAD: usize = 512;

/// The headers of a request that are forwarded to the destination with its event: `traceparent`, `tracestate`,
/// `baggage`, and the attributes of a CloudEvent (`ce-*`).
///
/// *Format.* On disk a text, or none: the first line is the value of `traceparent`, or empty; each further line is
/// `name: value` of another header. No value contains a line end. An older record that contains only a `traceparent` is
/// the same text without further lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ForwardedHeaders(Option<String>);

impl ForwardedHeaders {
    pub const TRACEPARENT: &str = "traceparent";

    /// From lower-case names and their values; a header whose value contains a line end is omitted.
    pub fn new<'a>(headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let (mut trace, mut lines) = (None, String::new());
        for (name, value) in headers.into_iter().filter(|(_, value)| !value.contains(['\r', '\n'])) {
            if name == Self::TRACEPARENT {
                trace = Some(value);
            } else {
                lines.extend(["\n", name, ": ", value]);
            }
        }
        Self((trace.is_some() || !lines.is_empty()).then(|| trace.unwrap_or_default().to_owned() + &lines))
    }

    /// Lower-case names and their values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut lines = self.0.as_deref().unwrap_or_default().split('\n');
        let trace = lines.next().filter(|trace| !trace.is_empty()).map(|trace| (Self::TRACEPARENT, trace));
        trace.into_iter().chain(lines.filter_map(|line| line.split_once(": ")))
    }

    /// Total bytes of the names and values.
    pub fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, String::len)
    }
}

/// An event as it is stored, under its sequence.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub received_at: Timestamp,
    /// The name of its source.
    pub source: String,
    pub to: DestinationSet,
    /// The interaction key; an event without one is unordered.
    pub interaction: Option<String>,
    /// The sender's own id; an event without one is never recognised as a duplicate.
    pub sender_id: Option<String>,
    /// The event type (`Holdline-Event-Type`); empty if the sender gives none.
    pub kind: String,
    /// When it happened, according to the sender; see [`believed_time`].
    pub time: Option<Timestamp>,
    pub content_type: String,
    pub headers: ForwardedHeaders,
    /// The same sender id was received before with another body.
    pub conflict: bool,
    pub body_digest: Digest64,
    pub body: Bytes,
}

/// Omits the body, so that no log and no panic message contains it.
impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("received_at", &self.received_at)
            .field("source", &self.source)
            .field("to", &self.to)
            .field("interaction", &self.interaction)
            .field("sender_id", &self.sender_id)
            .field("kind", &self.kind)
            .field("time", &self.time)
            .field("conflict", &self.conflict)
            .field("body", &format_args!("{} bytes, digest {:016x}", self.body.len(), self.body_digest.0))
            .finish_non_exhaustive()
    }
}

impl Event {
    pub fn id(&self, sequence: Sequence) -> EventId {
        EventId::new(self.received_at, sequence, self.body_digest)
    }

    /// When it happened, if that is known and plausible.
    pub fn happened_at(&self) -> Option<Timestamp> {
        believed_time(self.time, self.received_at)
    }

    /// Memory of the event in bytes: its texts, its body and [`EVENT_OVERHEAD`].
    pub fn weight(&self) -> usize {
        let texts = [Some(&self.source), self.interaction.as_ref(), self.sender_id.as_ref(), Some(&self.kind)];
        let texts: usize = texts.into_iter().flatten().map(String::len).sum();
        texts + self.content_type.len() + self.headers.bytes() + self.body.len() + EVENT_OVERHEAD
    }

    /// The hash of its interaction key; none where it has none. [`SharedKeys::order_key`] gives the order key.
    pub fn interaction_hash(&self) -> Digest64 {
        self.interaction.as_deref().map_or(Digest64::NONE, Digest64::of_interaction)
    }
}

/// The sources that order their interactions together: the same key in any of them is the same interaction. A key of any
/// other source is an interaction of that source alone, so that a sender cannot block the events of another source.
///
/// Stored records contain key and source, not the order key: which sources share keys is decided at each start, also for
/// waiting events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SharedKeys(Arc<BTreeSet<String>>);

impl SharedKeys {
    pub fn of(sources: impl IntoIterator<Item = String>) -> Self {
        Self(Arc::new(sources.into_iter().collect()))
    }

    /// The order key: events with the same one are delivered in order. None for events without an interaction key.
    pub fn order_key(&self, interaction: Digest64, source: &str) -> Digest64 {
        if interaction.is_none() || self.0.contains(source) {
            return interaction;
        }
        Digest64::of(&[b"order_key", source.as_bytes(), &interaction.0.to_be_bytes()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_v7_uuid_that_carries_its_sequence() {
        for s in [1, 4095, 1 << 36, (1 << 40) + 12345, Sequence::MAX] {
            let id = EventId::new(Timestamp(1_773_957_888_128), Sequence(s), Digest64(u64::MAX));
            assert_eq!(id.sequence(), Sequence(s));
            assert_eq!(id.0.get_version_num(), 7);
            assert_eq!(id.0.get_variant(), uuid::Variant::RFC4122);
            assert_eq!(id.to_string().parse::<EventId>().unwrap(), id);
        }
    }

    #[test]
    fn an_event_time_after_acceptance_is_the_acceptance_time() {
        let accepted = Timestamp(1_800_000_000_000);
        let day = 86_400_000;
        for (said_ms, believed_ms) in [
            (Some(-day), Some(-day)),
            (Some(-1), Some(-1)),
            (Some(0), Some(0)),
            (Some(1), Some(0)),
            (Some(60_000), Some(0)),
            (Some(60_001), None),
            (Some(day), None),
            (Some(8_000 * 365 * day), None),
            (None, None),
        ] {
            let at = |ms: i64| Timestamp(accepted.0.saturating_add_signed(ms));
            assert_eq!(believed_time(said_ms.map(at), accepted), believed_ms.map(at), "{said_ms:?}");
        }
        assert_eq!(believed_time(Some(Timestamp::NEVER), accepted), None);
    }

    #[test]
    fn a_long_text_becomes_its_beginning_and_its_hash() {
        let exact = "x".repeat(FIELD_BYTES_MAX);
        assert_eq!(bounded(exact.clone()), exact);
        let long = bounded("x".repeat(FIELD_BYTES_MAX + 1));
        assert_eq!(long.len(), FIELD_BYTES_MAX);
        assert!(long.starts_with(&"x".repeat(952)) && long[952..].starts_with("~sha256:"), "{long}");
        assert_eq!(bounded(long.clone()), long, "twice is once");
        assert_ne!(long, bounded("x".repeat(FIELD_BYTES_MAX + 2)));
        let wide = bounded("\u{1F600}".repeat(300));
        assert!(wide.len() <= FIELD_BYTES_MAX && wide.starts_with('\u{1F600}'), "it is cut between characters");
    }

    #[test]
    fn forwarded_headers_round_trip() {
        let all = [("traceparent", "00-1"), ("ce-subject", "a: b"), ("tracestate", ""), ("baggage", "k=v;x=y")];
        for headers in [&all[..], &all[1..], &all[..1], &[]] {
            let forwarded = ForwardedHeaders::new(headers.iter().copied());
            assert_eq!(forwarded.iter().collect::<Vec<_>>(), headers);
            assert_eq!(forwarded == ForwardedHeaders::default(), headers.is_empty());
        }
        let split = ForwardedHeaders::new([("ce-a", "x\nauthorization: y"), ("ce-b", "x\r"), ("ce-c", "z")]);
        assert_eq!(split.iter().collect::<Vec<_>>(), [("ce-c", "z")]);
    }

    #[test]
    fn digests_separate_their_parts() {
        assert_ne!(Digest64::of_sender_id("a", "bc"), Digest64::of_sender_id("ab", "c"));
        assert_ne!(Digest64::of_interaction(""), Digest64::NONE);
    }

    #[test]
    fn a_key_belongs_to_its_source_unless_both_say_that_they_share() {
        let shared = SharedKeys::of(["a".to_owned(), "b".to_owned()]);
        let order_key = |key: &str, source: &str| shared.order_key(Digest64::of_interaction(key), source);
        assert_eq!(order_key("k", "a"), order_key("k", "b"));
        assert_eq!(order_key("k", "c"), order_key("k", "c"));
        let order_keys =
            [order_key("k", "a"), order_key("k", "c"), order_key("k", "d"), order_key("l", "c"), order_key("l", "a")];
        assert_eq!(order_keys.iter().collect::<BTreeSet<_>>().len(), 5);
        assert_eq!(shared.order_key(Digest64::NONE, "c"), Digest64::NONE, "without a key there is no order");
    }

    #[test]
    fn a_set_of_destinations_adds_and_removes() {
        let (a, b) = (DestinationId(0), DestinationId(63));
        let set = DestinationSet::EMPTY.with(a).with(b);
        assert_eq!(set.iter().collect::<Vec<_>>(), [a, b]);
        assert!(set.without(a).without(b).is_empty());
    }
}
