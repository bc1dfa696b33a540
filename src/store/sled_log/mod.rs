//! sled's log, read without sled and without changing it: before sled opens it, and where sled no longer can.
//!
//! sled treats a damaged message as the end of its segment or of the log, and wipes what comes after it. So the daemon
//! checks the log before sled opens it, and salvage reads the rows of a log that sled cannot open without loss.
//!
//! *Format.* `db` is a sequence of segments of 2 MiB. A new segment takes any free place in the file; segment numbers give
//! the order of writing. A segment:
//! ```text
//! crc32 u32 LE, inverted | lsn i64 LE, xor i64::MAX | stable lsn i64 LE, xor i64::MAX | messages
//! ```
//! The number of a segment is its lsn divided by its size; each of its messages contains that number. A segment is full if
//! its last message is a cap, or if fewer bytes are left than a message header takes.
//!
//! # Levels
//! | level | module | purpose |
//! |---|---|---|
//! | 0 | [`message`] | messages and their bodies |
//! | 1 | [`snapshot`] | the snapshot from which sled starts |

pub mod message;
pub mod snapshot;

use message::{Kind, Message};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Fixed when a store is created: rows of 16 KiB stay in their leaves (sled makes a blob file from a quarter of a segment
/// on).
pub const SEGMENT_BYTES: usize = 2 << 20;
pub const HEADER_BYTES: usize = 20;
/// No message begins in the last 32 bytes of a segment.
const RED_ZONE: usize = 32;

/// A segment and its place in the file.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pub offset: u64,
    pub number: u64,
    /// `None` if the header does not verify; the number is then that of the first message.
    pub header: Option<Header>,
}

/// The segments of a log, in the order in which they were written.
#[derive(Debug)]
pub struct Log {
    pub file: File,
    pub segments: Vec<Segment>,
    /// Offsets of segments that are not empty and contain nothing readable.
    pub unreadable: Vec<u64>,
}

impl Log {
    /// `None` if there is no log yet.
    pub fn open(queue: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(queue.join("db")) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let length = file.metadata()?.len();
        let mut log = Self { file, segments: Vec::new(), unreadable: Vec::new() };
        let mut bytes = Vec::new();
        for offset in (0..length).step_by(SEGMENT_BYTES) {
            let mut head = [0; HEADER_BYTES];
            let whole = length - offset >= HEADER_BYTES as u64;
            if whole {
                log.file.read_exact_at(&mut head, offset)?;
            }
            if let Some(header) = Header::read(&head) {
                log.segments.push(Segment { offset, number: header.number, header: Some(header) });
                continue;
            }
            log.read(offset, &mut bytes)?;
            match first_message(&bytes, HEADER_BYTES) {
                Some(message) => log.segments.push(Segment { offset, number: message.segment, header: None }),
                None if used(&bytes) == 0 => {}
                None => log.unreadable.push(offset),
            }
        }
        log.segments.sort_by_key(|segment| segment.number);
        Ok(Some(log))
    }

    /// Reads the segment at an offset; fewer bytes at the end of the file.
    pub fn read(&self, offset: u64, into: &mut Vec<u8>) -> io::Result<()> {
        into.resize(SEGMENT_BYTES, 0);
        let mut length = 0;
        while length < SEGMENT_BYTES {
            match self.file.read_at(&mut into[length..], offset + length as u64)? {
                0 => break,
                n => length += n,
            }
        }
        into.truncate(length);
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub number: u64,
    /// All bytes up to this lsn were written when sled began the segment.
    pub stable: i64,
}

impl Header {
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..HEADER_BYTES)?;
        let crc = u32::from_le_bytes(bytes[..4].try_into().ok()?) ^ u32::MAX;
        if crc32fast::hash(&bytes[4..]) != crc {
            return None;
        }
        let lsn = i64::from_le_bytes(bytes[4..12].try_into().ok()?) ^ i64::MAX;
        let stable = i64::from_le_bytes(bytes[12..].try_into().ok()?) ^ i64::MAX;
        let whole = lsn >= 0 && lsn % SEGMENT_BYTES as i64 == 0;
        whole.then_some(Self { number: lsn as u64 / SEGMENT_BYTES as u64, stable })
    }
}

/// The messages of a segment, and the ranges that do not verify.
#[derive(Debug, Default)]
pub struct Walk {
    pub messages: Vec<Message>,
    /// Ranges between messages that do not verify.
    pub damaged_ranges: Vec<Range<usize>>,
    /// End of the last message, if the segment is not full.
    pub open: Option<usize>,
}

/// Reads the messages of the segment with this number, and continues after damaged ranges.
pub fn walk(bytes: &[u8], number: u64) -> Walk {
    let (mut walk, mut at) = (Walk::default(), HEADER_BYTES);
    while at + RED_ZONE <= SEGMENT_BYTES {
        match Message::at(bytes, at).filter(|m| m.segment == number) {
            Some(message) => {
                at = message.body.end;
                let cap = message.kind == Kind::Cap;
                walk.messages.push(message);
                if cap {
                    return walk;
                }
            }
            None => match next_message(bytes, at, number) {
                Some(next) => {
                    walk.damaged_ranges.push(at..next);
                    at = next;
                }
                None => {
                    walk.open = Some(at);
                    return walk;
                }
            },
        }
    }
    walk
}

/// Offset of the next message after one that does not verify. The damaged message's own length is tried first, so that no
/// bytes inside it are read as a message.
fn next_message(bytes: &[u8], at: usize, number: u64) -> Option<usize> {
    let verifies = |at: usize| {
        Message::unverified(bytes, at).is_some_and(|m| m.segment == number && Message::at(bytes, at).is_some())
    };
    let unverified = Message::unverified(bytes, at).filter(|m| m.segment == number).map(|m| m.body.end);
    unverified.filter(|end| verifies(*end)).or_else(|| (at + 1..used(bytes)).find(|at| verifies(*at)))
}

/// The first message at or after an offset, of any segment number.
pub fn first_message(bytes: &[u8], from: usize) -> Option<Message> {
    (from..used(bytes)).find_map(|at| Message::at(bytes, at))
}

/// Length without the zeros at the end.
pub fn used(mut bytes: &[u8]) -> usize {
    while let Some(rest) = bytes.strip_suffix(&[0; 4096]) {
        bytes = rest;
    }
    bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn used_bytes_end_at_the_last_non_zero_byte() {
        for (length, last) in [(10, 3), (4096, 4095), (20_000, 0), (20_000, 8191), (20_000, 19_999)] {
            let mut bytes = vec![0; length];
            assert_eq!(used(&bytes), 0);
            bytes[last] = 1;
            assert_eq!(used(&bytes), last + 1, "{length}");
        }
    }

    fn header(lsn: i64, stable: i64) -> Vec<u8> {
        let said = [(lsn ^ i64::MAX).to_le_bytes(), (stable ^ i64::MAX).to_le_bytes()].concat();
        [&(crc32fast::hash(&said) ^ u32::MAX).to_le_bytes()[..], &said].concat()
    }

    #[test]
    fn a_segment_header_is_read_only_when_it_verifies() {
        let size = SEGMENT_BYTES as i64;
        assert_eq!(Header::read(&header(3 * size, 77)), Some(Header { number: 3, stable: 77 }));
        assert_eq!(Header::read(&header(3 * size + 1, 77)), None);
        assert_eq!(Header::read(&header(-size, 77)), None);
        assert_eq!(Header::read(&header(3 * size, 77)[..HEADER_BYTES - 1]), None);
        for bit in 0..HEADER_BYTES * 8 {
            let mut bad = header(3 * size, 77);
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::read(&bad), None, "bit {bit}");
        }
    }

    /// A segment with these messages (segment number, body), and the offsets at which they begin.
    fn segment(messages: &[(u8, Vec<u8>)]) -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut begins) = (header(0, 0), Vec::new());
        for (number, body) in messages {
            let head = [8, 249, 0, 0, *number, 7];
            let mut head = head.to_vec();
            // a varint of three bytes
            (head[2], head[3]) = (((body.len() - 2288) / 256) as u8, ((body.len() - 2288) % 256) as u8);
            let crc = crc32fast::hash(&[body, &head[..]].concat()) ^ u32::MAX;
            begins.push(bytes.len());
            bytes.extend([&crc.to_le_bytes()[..], &head, body].concat());
        }
        bytes.resize(SEGMENT_BYTES, 0);
        (bytes, begins)
    }

    fn read(bytes: &[u8]) -> (Vec<usize>, Vec<[usize; 2]>, Option<usize>) {
        let walk = walk(bytes, 3);
        let damaged_ranges = walk.damaged_ranges.iter().map(|range| [range.start, range.end]).collect();
        (walk.messages.iter().map(|m| m.at).collect(), damaged_ranges, walk.open)
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init)] // ranges are what is meant
    fn messages_are_read_past_damage_and_none_is_read_within_it() {
        let (inner, _) = segment(&[(3, vec![5; 2300])]);
        let body = [&inner[HEADER_BYTES..HEADER_BYTES + 2400], &[6; 1000]].concat();
        let (bytes, at) = segment(&[(3, vec![1; 3000]), (3, body), (3, vec![2; 2500]), (3, vec![4; 2600])]);
        let end = at[3] + 10 + 2600;
        assert_eq!(read(&bytes), (at.clone(), vec![], Some(end)));
        // the damaged message's own length is used
        let mut bad = bytes.clone();
        bad[at[1] + 3000] ^= 1;
        assert_eq!(read(&bad), (vec![at[0], at[2], at[3]], vec![[at[1], at[2]]], Some(end)));
        // if the length is damaged too, the next offset at which a message verifies is used
        bad[at[2] + 4] ^= 0x40;
        bad[at[2] + 6] ^= 1;
        assert_eq!(read(&bad).0.last(), Some(&at[3]));
        // no message after it verifies
        bad = bytes.clone();
        bad[at[3] + 100] ^= 1;
        assert_eq!(read(&bad), (at[..3].to_vec(), vec![], Some(at[3])));
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init)] // ranges are what is meant
    fn a_message_of_another_segment_is_recognised_and_not_read() {
        let (bytes, at) = segment(&[(3, vec![1; 3000]), (2, vec![2; 3000]), (3, vec![4; 3000])]);
        assert_eq!(read(&bytes), (vec![at[0], at[2]], vec![[at[1], at[2]]], Some(at[2] + 3010)));
        assert_eq!(first_message(&bytes, at[0] + 1).map(|m| (m.at, m.segment)), Some((at[1], 2)));
        assert_eq!(first_message(&bytes, at[2] + 1), None);
    }
}
