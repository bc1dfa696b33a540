//! A segment of sled's log: its header, and the messages one behind the other.
//!
//! *Format.* `crc32 u32 LE, inverted | lsn i64 LE, xor i64::MAX | stable lsn i64 LE, xor i64::MAX`, then messages. A
//! segment's number is its lsn divided by its size; each of its messages bears that number. It is full where a cap ends
//! it, or where fewer bytes are left than a header takes.

use super::SEGMENT_BYTES;
use super::message::{Kind, Message};
use std::ops::Range;

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
