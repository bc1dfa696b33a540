//! One message of sled's log, as sled 0.34.7 writes it.
//!
//! *Format.*
//! ```text
//! crc32 u32 LE, inverted | kind u8 | length varint | segment number varint | page varint | body
//! ```
//! The CRC covers the body and then the header behind the CRC. A varint of up to 240 is one byte; 241 to 248 begin two
//! bytes, 249 three; 250 to 255 are followed by 3 to 8 bytes LE.
//!
//! *Failure.* What does not verify is no message. Nothing here panics on what it reads.

use std::ops::Range;

/// No message has a longer header.
const HEADER_MAX: usize = 32;

/// What a message says of its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Written, and taken back before it counted.
    Canceled,
    /// Fills up a segment.
    Cap,
    /// Where the batch that begins here ends.
    Batch,
    Free,
    Counter,
    /// Names of trees and their roots.
    Meta,
    /// A whole page.
    Node,
    /// A change of a page.
    Link,
    /// Its body lies in a blob file.
    Blob,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Canceled,
            2 => Self::Cap,
            3 => Self::Batch,
            4 => Self::Free,
            5 => Self::Counter,
            6 => Self::Meta,
            8 => Self::Node,
            10 => Self::Link,
            7 | 9 | 11 => Self::Blob,
            _ => return None,
        })
    }
}

/// A message that verifies; its places are offsets in its segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub kind: Kind,
    /// Of the segment for which it was written.
    pub segment: u64,
    pub page: u64,
    pub at: usize,
    pub body: Range<usize>,
}

impl Message {
    /// The message at an offset of a segment's bytes.
    pub fn at(bytes: &[u8], at: usize) -> Option<Self> {
        let message = Self::claimed(bytes, at)?;
        let crc = u32::from_le_bytes(bytes[at..at + 4].try_into().ok()?);
        let mut hash = crc32fast::Hasher::new();
        hash.update(&bytes[message.body.clone()]);
        hash.update(&bytes[at + 4..message.body.start]);
        (hash.finalize() ^ u32::MAX == crc).then_some(message)
    }

    /// As [`Message::at`], but nobody has looked at the CRC.
    pub fn claimed(bytes: &[u8], at: usize) -> Option<Self> {
        let mut reader = Reader { bytes, at: at.checked_add(4)? };
        let kind = Kind::of(reader.byte()?)?;
        let (length, segment, page) = (reader.number()?, reader.number()?, reader.number()?);
        let start = reader.at;
        let end = start.checked_add(usize::try_from(length).ok()?).filter(|end| *end <= bytes.len())?;
        (start - at <= HEADER_MAX).then_some(Self { kind, segment, page, at, body: start..end })
    }
}

/// Reads numbers and byte strings as sled writes them; none where they are not there.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
}

impl<'a> Reader<'a> {
    pub fn of(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub fn byte(&mut self) -> Option<u8> {
        let byte = self.bytes.get(self.at).copied()?;
        self.at += 1;
        Some(byte)
    }

    pub fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let end = self.at.checked_add(usize::try_from(length).ok()?)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    pub fn number(&mut self) -> Option<u64> {
        let first = self.byte()?;
        Some(match first {
            0..=240 => u64::from(first),
            241..=248 => 240 + 256 * (u64::from(first) - 241) + u64::from(self.byte()?),
            249 => 2288 + 256 * u64::from(self.byte()?) + u64::from(self.byte()?),
            _ => {
                let mut number = [0; 8];
                let bytes = self.take(u64::from(first) - 247)?;
                number[..bytes.len()].copy_from_slice(bytes);
                u64::from_le_bytes(number)
            }
        })
    }

    /// A byte string behind its length.
    pub fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(length)
    }

    pub fn ended(&self) -> bool {
        self.at == self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(kind: u8, segment: u8, page: u8, body: &[u8]) -> Vec<u8> {
        let head = [&[kind, body.len() as u8, segment, page], &[][..]].concat();
        let mut hash = crc32fast::Hasher::new();
        hash.update(body);
        hash.update(&head);
        [&(hash.finalize() ^ u32::MAX).to_le_bytes()[..], &head, body].concat()
    }

    #[test]
    fn a_reader_ends_where_no_bytes_are_left() {
        let mut reader = Reader::of(&[2, 7, 8]);
        assert!(!reader.ended());
        assert_eq!((reader.string(), reader.ended(), reader.byte()), (Some(&[7, 8][..]), true, None));
    }

    #[test]
    fn a_message_is_read_and_a_flipped_bit_is_detected() {
        let bytes = [written(8, 3, 7, b"node"), written(1, 3, 7, b"")].concat();
        let first = Message::at(&bytes, 0).unwrap();
        assert_eq!((first.kind, first.segment, first.page), (Kind::Node, 3, 7));
        assert_eq!(&bytes[first.body.clone()], b"node");
        assert_eq!(Message::at(&bytes, first.body.end).unwrap().kind, Kind::Canceled);
        for bit in 0..first.body.end * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Message::at(&bad, 0), None, "bit {bit}");
        }
        for length in 0..first.body.end {
            assert_eq!(Message::at(&bytes[..length], 0), None);
        }
        assert_eq!(Message::at(&bytes, usize::MAX), None);
    }

    #[test]
    fn numbers_of_every_length_are_read() {
        for (bytes, number) in [
            (&[240][..], 240),
            (&[241, 1], 241),
            (&[248, 255], 2287),
            (&[249, 0, 0], 2288),
            (&[249, 255, 255], 67823),
            (&[250, 1, 2, 3], 0x03_0201),
            (&[255, 1, 0, 0, 0, 0, 0, 0, 0x80], 1 | 1 << 63),
        ] {
            let mut reader = Reader::of(bytes);
            assert_eq!((reader.number(), reader.ended()), (Some(number), true));
            assert_eq!(Reader::of(&bytes[..bytes.len() - 1]).number(), None);
        }
    }
}
