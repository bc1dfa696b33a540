//! Messages of sled's log and their bodies, as sled 0.34.7 writes them: whole pages, changes of a page, the roots of trees.
//!
//! *Format.*
//! ```text
//! message  crc32 u32 LE, inverted | kind u8 | length varint | segment number varint | page varint | body
//! node     next varint | merging child varint | merging u8 | prefix length u8 | lo string | hi string | 0 leaf, 1 index
//!          | count varint | keys, strings | values, strings (leaf) or pages, varints (index)
//! link     0 | key string | value string;  1 | key string;  2 and more: merges, which change no row
//! meta     (name string | root varint)*
//! ```
//! The CRC covers the body and then the header without the CRC. A varint of up to 240 is one byte; 241 to 248 begin two
//! bytes, 249 three; 250 to 255 are followed by 3 to 8 bytes LE. Keys of a page lack the first `prefix length` bytes of its
//! `lo`. A page covers the keys from `lo` up to `hi`, not included; an empty `hi` stands for no upper bound.
//!
//! *Failure.* Bytes that do not verify are not a message. Nothing here panics on any bytes.

use std::ops::Range;

/// Limit of a header's length.
const HEADER_BYTES_MAX: usize = 32;

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Cancelled before it took effect.
    Canceled,
    /// Fills up a segment.
    Cap,
    /// Begins a batch; the body is the position at which the batch ends.
    Batch,
    Free,
    Counter,
    /// Names of trees and the pages at their roots.
    Meta,
    /// A whole page.
    Node,
    /// A change of a page.
    Link,
    /// Its body is in a blob file.
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

/// A message; `at` and `body` are offsets in its segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub kind: Kind,
    /// Number of the segment for which it was written.
    pub segment: u64,
    pub page: u64,
    pub at: usize,
    pub body: Range<usize>,
}

impl Message {
    /// The message at an offset of a segment's bytes, if its CRC verifies.
    pub fn at(bytes: &[u8], at: usize) -> Option<Self> {
        let message = Self::unverified(bytes, at)?;
        let crc = u32::from_le_bytes(bytes[at..at + 4].try_into().ok()?);
        let mut hash = crc32fast::Hasher::new();
        hash.update(&bytes[message.body.clone()]);
        hash.update(&bytes[at + 4..message.body.start]);
        (hash.finalize() ^ u32::MAX == crc).then_some(message)
    }

    /// As [`Message::at`], without checking the CRC.
    pub fn unverified(bytes: &[u8], at: usize) -> Option<Self> {
        let mut reader = Reader { bytes, at: at.checked_add(4)? };
        let kind = Kind::of(reader.byte()?)?;
        let (length, segment, page) = (reader.number()?, reader.number()?, reader.number()?);
        let start = reader.at;
        let end = start.checked_add(usize::try_from(length).ok()?).filter(|end| *end <= bytes.len())?;
        (start - at <= HEADER_BYTES_MAX).then_some(Self { kind, segment, page, at, body: start..end })
    }
}

/// Reads numbers and byte strings as sled writes them; `None` at the end of the bytes.
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

    /// A byte string that follows its length.
    pub fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(length)
    }

    pub fn is_at_end(&self) -> bool {
        self.at == self.bytes.len()
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct Node<'a> {
    pub next: Option<u64>,
    pub prefix: &'a [u8],
    pub lo: &'a [u8],
    pub hi: &'a [u8],
    pub keys: Vec<&'a [u8]>,
    pub data: Data<'a>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Data<'a> {
    /// The values of the keys.
    Leaf(Vec<&'a [u8]>),
    /// Its child pages.
    Index(Vec<u64>),
}

impl<'a> Node<'a> {
    pub fn read(body: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::of(body);
        let next = Some(reader.number()?).filter(|next| *next > 0);
        let _merging = (reader.number()?, reader.byte()?);
        let prefix_length = usize::from(reader.byte()?);
        let (lo, hi) = (reader.string()?, reader.string()?);
        let prefix = lo.get(..prefix_length)?;
        let (kind, count) = (reader.byte()?, reader.number()?);
        if count > body.len() as u64 {
            return None;
        }
        let keys = (0..count).map(|_| reader.string()).collect::<Option<_>>()?;
        let data = match kind {
            0 => Data::Leaf((0..count).map(|_| reader.string()).collect::<Option<_>>()?),
            1 => Data::Index((0..count).map(|_| reader.number()).collect::<Option<_>>()?),
            _ => return None,
        };
        reader.is_at_end().then_some(Self { next, prefix, lo, hi, keys, data })
    }
}

#[derive(Debug, PartialEq, Eq)]
pub enum Link<'a> {
    Set(&'a [u8], &'a [u8]),
    Del(&'a [u8]),
    /// A step of a merge.
    Other,
}

impl<'a> Link<'a> {
    pub fn read(body: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::of(body);
        Some(match reader.byte()? {
            0 => Self::Set(reader.string()?, reader.string()?),
            1 => Self::Del(reader.string()?),
            _ => Self::Other,
        })
    }
}

/// Names of trees and the pages at their roots.
pub fn roots(body: &[u8]) -> Option<Vec<(&[u8], u64)>> {
    let mut reader = Reader::of(body);
    let mut roots = Vec::new();
    while !reader.is_at_end() {
        roots.push((reader.string()?, reader.number()?));
    }
    Some(roots)
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
    fn a_reader_is_at_its_end_after_the_last_byte() {
        let mut reader = Reader::of(&[2, 7, 8]);
        assert!(!reader.is_at_end());
        assert_eq!((reader.string(), reader.is_at_end(), reader.byte()), (Some(&[7, 8][..]), true, None));
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
            assert_eq!((reader.number(), reader.is_at_end()), (Some(number), true));
            assert_eq!(Reader::of(&bytes[..bytes.len() - 1]).number(), None);
        }
    }

    fn string(bytes: &[u8]) -> Vec<u8> {
        [&[bytes.len() as u8][..], bytes].concat()
    }

    /// A page with right sibling `next` that covers `abc` up to `b`, its keys without their first two bytes.
    fn page(next: u8, kind: u8, keys: &[&[u8]], data: &[Vec<u8>]) -> Vec<u8> {
        let head = [&[next, 0, 0, 2][..], &string(b"abc"), &string(b"b"), &[kind, keys.len() as u8]].concat();
        let keys: Vec<Vec<u8>> = keys.iter().map(|key| string(key)).collect();
        [head, keys.concat(), data.concat()].concat()
    }

    #[test]
    fn a_page_is_read_only_at_its_exact_length() {
        let leaf = page(9, 0, &[b"c", b"d"], &[string(b"one"), string(b"")]);
        let is = Node {
            next: Some(9),
            prefix: b"ab",
            lo: b"abc",
            hi: b"b",
            keys: vec![b"c", b"d"],
            data: Data::Leaf(vec![b"one", b""]),
        };
        assert_eq!(Node::read(&leaf), Some(is));
        let index = page(0, 1, &[b"c", b"d"], &[vec![7], vec![8]]);
        let index = Node::read(&index).unwrap();
        assert_eq!((index.next, index.data), (None, Data::Index(vec![7, 8])));
        assert!((0..leaf.len()).all(|length| Node::read(&leaf[..length]).is_none()));
        assert_eq!(Node::read(&[&leaf[..], &[0]].concat()), None);
        assert_eq!(Node::read(&page(9, 2, &[], &[])), None);
    }

    #[test]
    fn page_changes_and_tree_roots_are_read() {
        let set = [&[0][..], &string(b"key"), &string(b"value")].concat();
        assert_eq!(Link::read(&set), Some(Link::Set(b"key", b"value")));
        assert_eq!(Link::read(&set[..5]), None);
        assert_eq!(Link::read(&[&[1][..], &string(b"key")].concat()), Some(Link::Del(b"key")));
        assert_eq!(Link::read(&[2, 7]), Some(Link::Other));
        let trees = [string(b"pages"), vec![5], string(b"dlq"), vec![6]].concat();
        assert_eq!(roots(&trees), Some(vec![(&b"pages"[..], 5), (b"dlq", 6)]));
        assert_eq!(roots(&trees[..trees.len() - 1]), None);
    }
}
