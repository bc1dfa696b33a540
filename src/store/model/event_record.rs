//! How events are stored: packed in pages; and in deliveries and dead letters, whose head can be read without the body.
//!
//! Lists, filters and a start need only the head, which is small, so they neither read bodies nor keep them in memory. Head,
//! body and page are compressed (LZ4 block format), so that an event takes about the same space wherever it is stored.
//!
//! *Format.* A page is the bare records of its events, each after its length (u32 LE), compressed. Version 2 of a delivery
//! and of a dead letter has this payload after the envelope:
//! ```text
//! head length u32 LE | unpacked head length u32 LE | crc32 of the head u32 LE | head | body
//! ```
//! The unpacked head is bincode 1 with integers of variable length: the record with an empty body, then the length of the
//! body. A part is stored uncompressed if its stored and unpacked lengths are equal; otherwise it is an LZ4 block. A short
//! head is never compressed, so that an interaction key can be found in a damaged record. Version 1, the plain record, is
//! read too.
//!
//! *Failure.* The head has its own checksum, since the envelope's also covers the body.

use crate::delivery::{DeadLetter, Delivery, DeliveryId};
use crate::event::Event;
use crate::store::model::codec::{self, Damaged, ENVELOPE, Kind};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

const PLAIN: u8 = 1;
const PARTED: u8 = 2;
/// Size of the three numbers before the head, in bytes.
const NUMBERS: usize = 12;
/// Heads of at least this size in bytes are compressed.
const HEAD_PACKED_FROM: usize = 1024;
/// Limit of the unpacked size of a head or a body: 256 MiB.
const UNPACKED_MAX: usize = 256 << 20;

/// A record that contains an event.
pub trait Compact: Clone + Serialize + DeserializeOwned {
    const KIND: Kind;

    fn id(&self) -> DeliveryId;

    fn event(&self) -> &Event;

    /// The same record with another event.
    fn with_event(self, event: Arc<Event>) -> Self;
}

impl Compact for Delivery {
    const KIND: Kind = Kind::Delivery;

    fn id(&self) -> DeliveryId {
        self.id
    }

    fn event(&self) -> &Event {
        &self.event
    }

    fn with_event(self, event: Arc<Event>) -> Self {
        Self { event, ..self }
    }
}

impl Compact for DeadLetter {
    const KIND: Kind = Kind::DeadLetter;

    fn id(&self) -> DeliveryId {
        self.delivery.id
    }

    fn event(&self) -> &Event {
        &self.delivery.event
    }

    fn with_event(self, event: Arc<Event>) -> Self {
        Self { delivery: self.delivery.with_event(event), ..self }
    }
}

/// A record whose event has an empty body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head<R> {
    pub record: R,
    /// Length of the omitted body.
    pub body_bytes: usize,
}

impl<R: Compact> Head<R> {
    pub fn of(record: &R) -> Self {
        let event = Event { body: Bytes::new(), ..record.event().clone() };
        Self { record: record.clone().with_event(Arc::new(event)), body_bytes: record.event().body.len() }
    }
}

/// The sealed record.
pub fn encode<R: Compact>(record: &R) -> Vec<u8> {
    let Head { record: bare, body_bytes } = Head::of(record);
    let unpacked = codec::packed(&(bare, u32::try_from(body_bytes).expect("a body is far smaller than 4 GiB")));
    let head = if unpacked.len() < HEAD_PACKED_FROM { unpacked.clone() } else { compress(&unpacked) };
    let number = |n: usize| u32::try_from(n).expect("a head is far smaller than 4 GiB").to_le_bytes();
    let body = compress(&record.event().body);
    let mut payload = Vec::with_capacity(NUMBERS + head.len() + body.len());
    payload.extend(number(head.len()));
    payload.extend(number(unpacked.len()));
    payload.extend(crc32fast::hash(&head).to_le_bytes());
    payload.extend(head);
    payload.extend(body);
    codec::seal_as(R::KIND, PARTED, &payload)
}

/// Decodes a sealed record of either version.
pub fn decode<R: Compact>(sealed: &[u8]) -> Result<R, Damaged> {
    match codec::open_any(R::KIND, sealed)? {
        (PLAIN, payload) => codec::from_payload(payload),
        (_, payload) => {
            let (Head { record, body_bytes }, body) = parts::<R>(payload)?;
            let body = decompress(body, body_bytes)?;
            let event = Event { body: body.into(), ..record.event().clone() };
            Ok(record.with_event(Arc::new(event)))
        }
    }
}

/// Number of bytes at the beginning of a sealed record that contain its head; the whole length for version 1. `beginning`
/// must have at least a few dozen bytes.
pub fn head_bytes(beginning: &[u8]) -> Result<usize, Damaged> {
    let whole = codec::sealed_length(beginning)?;
    if beginning.get(1) == Some(&PLAIN) {
        return Ok(whole);
    }
    let length = number(beginning.get(ENVELOPE..).unwrap_or_default(), 0)?;
    ENVELOPE.checked_add(NUMBERS + length).filter(|bytes| *bytes <= whole).ok_or(Damaged::Content)
}

/// Decodes the head from the first [`head_bytes`] of a sealed record.
pub fn head<R: Compact>(beginning: &[u8]) -> Result<Head<R>, Damaged> {
    if beginning.get(1) == Some(&PLAIN) {
        return decode(beginning).map(|record: R| Head::of(&record));
    }
    if codec::kind_of(beginning) != Some(R::KIND) {
        let (found, wanted) = (beginning.first().copied().unwrap_or_default(), R::KIND as u8);
        let version = Damaged::Version(beginning.get(1).copied().unwrap_or_default());
        return Err(if found == wanted { version } else { Damaged::Kind { found, wanted } });
    }
    parts(beginning.get(ENVELOPE..).ok_or(Damaged::Short)?).map(|(head, _)| head)
}

/// The head, and the bytes after it.
fn parts<R: Compact>(payload: &[u8]) -> Result<(Head<R>, &[u8]), Damaged> {
    let (length, unpacked, crc) = (number(payload, 0)?, number(payload, 4)?, number(payload, 8)?);
    let (head, body) = payload[NUMBERS..].split_at_checked(length).ok_or(Damaged::Short)?;
    if crc32fast::hash(head) as usize != crc {
        return Err(Damaged::Checksum);
    }
    let (record, body_bytes) = codec::from_packed::<(R, u32)>(&decompress(head, unpacked)?)?;
    Ok((Head { record, body_bytes: body_bytes as usize }, body))
}

fn number(bytes: &[u8], at: usize) -> Result<usize, Damaged> {
    let bytes = bytes.get(at..at + 4).ok_or(Damaged::Short)?;
    Ok(u32::from_le_bytes(bytes.try_into().expect("four bytes were taken")) as usize)
}

/// Compresses the bytes; returns them unchanged if that is not shorter.
fn compress(bytes: &[u8]) -> Vec<u8> {
    let packed = lz4_flex::compress(bytes);
    if packed.len() < bytes.len() { packed } else { bytes.to_vec() }
}

fn decompress(packed: &[u8], length: usize) -> Result<Vec<u8>, Damaged> {
    if packed.len() == length {
        return Ok(packed.to_vec());
    }
    if length > UNPACKED_MAX {
        return Err(Damaged::Content);
    }
    let unpacked = lz4_flex::decompress(packed, length).map_err(|_| Damaged::Content)?;
    if unpacked.len() == length { Ok(unpacked) } else { Err(Damaged::Content) }
}

/// Limit of the unpacked size of a page: 256 MiB.
const PACKED_MAX: usize = 256 << 20;

/// Appends the bare record of an event to the payload of a page.
pub fn pack(payload: &mut Vec<u8>, record: &[u8]) {
    let length = u32::try_from(record.len()).expect("a record is smaller than 64 MiB");
    payload.extend(length.to_le_bytes());
    payload.extend(record);
}

/// Compresses and seals the packed records of a page (LZ4 block format). Bodies of one commit are similar, and every byte
/// that sled need not write shortens the wait for the acknowledgement.
pub fn seal_page(packed: &[u8]) -> Vec<u8> {
    codec::seal(Kind::Page, &lz4_flex::compress_prepend_size(packed))
}

/// The packed records of a sealed page.
pub fn open_page(sealed: &[u8]) -> Result<Vec<u8>, Damaged> {
    let compressed = codec::open(Kind::Page, sealed)?;
    let (length, block) = lz4_flex::block::uncompressed_size(compressed).map_err(|_| Damaged::Content)?;
    if length > PACKED_MAX {
        return Err(Damaged::Content);
    }
    lz4_flex::decompress(block, length).map_err(|_| Damaged::Content)
}

/// Splits the packed records of a page into the bare records.
pub fn unpack(packed: &[u8]) -> Result<Vec<&[u8]>, Damaged> {
    let mut rest = packed;
    let mut records = Vec::new();
    while !rest.is_empty() {
        let (length, behind) = rest.split_at_checked(4).ok_or(Damaged::Content)?;
        let length = u32::from_le_bytes(length.try_into().expect("four bytes were split off"));
        let (record, behind) = behind.split_at_checked(length as usize).ok_or(Damaged::Content)?;
        records.push(record);
        rest = behind;
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::{Attempt, Outcome, Reason};
    use crate::event::{DestinationId, Sequence};
    use crate::time::Timestamp;

    fn dead_letter(body: Vec<u8>, attempts: u32) -> DeadLetter {
        let event = Event {
            received_at: Timestamp(1),
            interaction: Some("call-17".to_owned()),
            kind: "k".to_owned(),
            content_type: "application/json".to_owned(),
            body: body.into(),
            ..crate::testing::events::event(1)
        };
        let attempt = |number| Attempt {
            number,
            at: Timestamp(5),
            latency_ms: 6,
            outcome: Outcome::Answered(503),
            error: String::new(),
            answer: vec![b'x'; Attempt::ANSWER_MAX],
        };
        let id = DeliveryId { sequence: Sequence(7), destination: DestinationId(0) };
        let attempts = (1..=attempts).map(attempt).collect();
        let delivery = Delivery { id, event: event.into(), attempts, forgiven: 0, redriven: false };
        DeadLetter { delivery, reason: Reason::Permanent, dead_at: Timestamp(9) }
    }

    /// Incompressible bytes.
    fn noise(bytes: usize) -> Vec<u8> {
        let mut state = 1u64;
        let next = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..bytes).map(next).collect()
    }

    #[test]
    fn records_of_every_size_round_trip_and_heads_are_read_alone() {
        let bodies = [vec![], vec![7], b"{}".to_vec(), vec![b'a'; 1_000_000], noise(100_000)];
        for body in bodies {
            for attempts in [0, 1, 1000] {
                let dead_letter = dead_letter(body.clone(), attempts);
                let sealed = encode(&dead_letter);
                assert_eq!(decode::<DeadLetter>(&sealed), Ok(dead_letter.clone()));
                let plain = codec::encode(Kind::DeadLetter, &dead_letter);
                assert_eq!(decode::<DeadLetter>(&plain), Ok(dead_letter.clone()), "of the first version");
                let bytes = head_bytes(&sealed[..40]).unwrap();
                let read: Head<DeadLetter> = head(&sealed[..bytes]).unwrap();
                assert_eq!(read.body_bytes, body.len());
                assert_eq!(read, Head::of(&dead_letter));
                assert_eq!(head::<DeadLetter>(&plain), Ok(read), "of the first version");
                assert_eq!(head_bytes(&plain[..40]), Ok(plain.len()));
            }
        }
    }

    #[test]
    fn compressible_records_shrink_and_others_do_not_grow() {
        let alike = dead_letter(br#"{"a":"the same again and again"}"#.repeat(1000), 3);
        assert!(encode(&alike).len() < 1000, "{}", encode(&alike).len());
        let noise = dead_letter(noise(10_000), 1);
        assert!(encode(&noise).len() < codec::encode(Kind::DeadLetter, &noise).len());
        assert!(encode(&noise).windows(7).any(|part| part == b"call-17"), "a short head is found by its key");
    }

    #[test]
    fn a_record_of_another_kind_or_version_is_refused() {
        let (dead_letter, delivery) = (encode(&dead_letter(vec![1], 1)), encode(&dead_letter(vec![1], 1).delivery));
        let wrong = Damaged::Kind { found: Kind::Delivery as u8, wanted: Kind::DeadLetter as u8 };
        assert_eq!(head::<DeadLetter>(&delivery), Err(wrong.clone()));
        assert_eq!(decode::<DeadLetter>(&delivery), Err(wrong));
        let newer = [&[dead_letter[0], 3], &dead_letter[2..]].concat();
        assert_eq!(head::<DeadLetter>(&newer), Err(Damaged::Version(3)));
    }

    #[test]
    fn no_flipped_bit_or_truncation_panics_or_passes_in_a_head() {
        let sealed = encode(&dead_letter(b"{\"a\":1}".repeat(9), 2));
        let bytes = head_bytes(&sealed).unwrap();
        let whole = head::<DeadLetter>(&sealed[..bytes]).unwrap();
        for bit in ENVELOPE * 8..bytes * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode::<DeadLetter>(&bad).is_err());
            let read = head_bytes(&bad).and_then(|n| head::<DeadLetter>(&bad[..n]));
            assert!(read.is_err() || read == Ok(whole.clone()), "bit {bit}");
        }
        for length in 0..bytes {
            assert!(head::<DeadLetter>(&sealed[..length]).is_err(), "cut to {length}");
            let _ = head_bytes(&sealed[..length]); // must not panic
        }
        // if the claimed size exceeds the limit, nothing is unpacked
        let mut bomb = sealed[ENVELOPE..].to_vec();
        bomb[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        let bomb = codec::seal_as(Kind::DeadLetter, PARTED, &bomb);
        assert_eq!(decode::<DeadLetter>(&bomb), Err(Damaged::Content));
    }
}

#[cfg(test)]
mod page_tests {
    use super::*;

    #[test]
    fn a_page_round_trips_and_refuses_invalid_bytes() {
        let mut payload = Vec::new();
        for record in [b"one".as_slice(), b"", b"three"] {
            pack(&mut payload, record);
        }
        let sealed = seal_page(&payload);
        assert_eq!(open_page(&sealed).unwrap(), payload);
        assert_eq!(unpack(&payload).unwrap(), [b"one".as_slice(), b"", b"three"]);
        for n in [1, 5, payload.len() - 1] {
            assert!(unpack(&payload[..n]).is_err());
        }
        let bomb = [u32::MAX.to_le_bytes().as_slice(), b"x"].concat();
        assert_eq!(open_page(&codec::seal(Kind::Page, &bomb)), Err(Damaged::Content));
    }
}
