//! A segment of sled's log: its header, and the messages one behind the other.
//!
//! *Format.* `crc32 u32 LE, inverted | lsn i64 LE, xor i64::MAX | stable lsn i64 LE, xor i64::MAX`, then messages. A
//! segment's number is its lsn divided by its size; each of its messages bears that number. It is full where a cap ends
//! it, or where fewer bytes are left than a header takes.

use super::message::{Kind, Message};
use std::ops::Range;

/// Fixed when a store is made: rows of 16 KiB stay inside their leaves (a blob file comes at a quarter of a segment).
pub const SEGMENT_BYTES: usize = 2 << 20;
pub const HEADER: usize = 20;
/// No message begins in the last bytes of a segment.
const RED_ZONE: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub number: u64,
    /// Everything up to here had been written when the segment was begun.
    pub stable: i64,
}

impl Header {
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..HEADER)?;
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

/// What was found in a segment.
#[derive(Debug, Default)]
pub struct Walk {
    pub messages: Vec<Message>,
    /// Between messages, what is none.
    pub holes: Vec<Range<usize>>,
    /// Behind the last message, where the segment is not full.
    pub open: Option<usize>,
}

/// Reads the messages of the segment with this number, across what does not verify.
pub fn walk(bytes: &[u8], number: u64) -> Walk {
    let (mut walk, mut at) = (Walk::default(), HEADER);
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
            None => match resume(bytes, at, number) {
                Some(next) => {
                    walk.holes.push(at..next);
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

/// Where the messages of a segment go on behind one that does not verify. What it says of its own length is tried first, so
/// that nothing inside of it is taken for a message.
fn resume(bytes: &[u8], at: usize, number: u64) -> Option<usize> {
    let own = |at: usize| {
        Message::claimed(bytes, at).is_some_and(|m| m.segment == number && Message::at(bytes, at).is_some())
    };
    let claimed = Message::claimed(bytes, at).filter(|m| m.segment == number).map(|m| m.body.end);
    claimed.filter(|end| own(*end)).or_else(|| (at + 1..used(bytes)).find(|at| own(*at)))
}

/// The first message of any segment at or behind an offset.
pub fn first_message(bytes: &[u8], from: usize) -> Option<Message> {
    (from..used(bytes)).find_map(|at| Message::at(bytes, at))
}

/// Length without the zeros at the end, in which no message begins.
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
        assert_eq!(Header::read(&header(3 * size, 77)[..HEADER - 1]), None);
        for bit in 0..HEADER * 8 {
            let mut bad = header(3 * size, 77);
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::read(&bad), None, "bit {bit}");
        }
    }

    /// A segment with these messages behind its header, each of so many bytes, and where they begin.
    fn segment(messages: &[(u8, Vec<u8>)]) -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut begins) = (header(0, 0), Vec::new());
        for (number, body) in messages {
            let head = [8, 249, 0, 0, *number, 7];
            let mut head = head.to_vec();
            // the length in the form that takes two bytes more
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
        let holes = walk.holes.iter().map(|hole| [hole.start, hole.end]).collect();
        (walk.messages.iter().map(|m| m.at).collect(), holes, walk.open)
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init)] // ranges are what is meant
    fn messages_are_read_past_damage_and_none_is_read_within_it() {
        let (inner, _) = segment(&[(3, vec![5; 2300])]);
        let body = [&inner[HEADER..HEADER + 2400], &[6; 1000]].concat();
        let (bytes, at) = segment(&[(3, vec![1; 3000]), (3, body), (3, vec![2; 2500]), (3, vec![4; 2600])]);
        let end = at[3] + 10 + 2600;
        assert_eq!(read(&bytes), (at.clone(), vec![], Some(end)));
        // its own length leads across it
        let mut bad = bytes.clone();
        bad[at[1] + 3000] ^= 1;
        assert_eq!(read(&bad), (vec![at[0], at[2], at[3]], vec![[at[1], at[2]]], Some(end)));
        // where that is spoiled too, the next byte at which a message verifies is taken
        bad[at[2] + 4] ^= 0x40;
        bad[at[2] + 6] ^= 1;
        assert_eq!(read(&bad).0.last(), Some(&at[3]));
        // nothing verifies behind it
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
