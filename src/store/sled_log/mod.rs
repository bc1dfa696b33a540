//! sled's log, read without sled and without changing it: before sled opens it, and where sled no longer can.
//!
//! sled takes a damaged message for the end of its segment, or of the log, and wipes what lies behind it. So the log is
//! looked at first ([`examine()`]), and what cannot be opened without loss is read row by row ([`rows`]).
//!
//! *Layout.* `db` is a row of segments of 2 MiB, each in the place that was free when it was begun; their numbers give the
//! order in which they were written.

pub mod message;
pub mod node;
pub mod segment;
pub mod snapshot;

use segment::{Header, SEGMENT_BYTES};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A segment in its place in the file.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    pub offset: u64,
    pub number: u64,
    /// None where the header does not verify, and the messages say the number.
    pub header: Option<Header>,
}

/// The segments of a log, in the order in which they were written.
#[derive(Debug)]
pub struct Log {
    pub file: File,
    pub slots: Vec<Slot>,
    /// Segments of which nothing can be read, and which are not empty.
    pub unreadable: Vec<u64>,
}

impl Log {
    /// None where there is no log yet.
    pub fn open(queue: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(queue.join("db")) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let length = file.metadata()?.len();
        let mut log = Self { file, slots: Vec::new(), unreadable: Vec::new() };
        let mut bytes = Vec::new();
        for offset in (0..length).step_by(SEGMENT_BYTES) {
            let mut head = [0; segment::HEADER];
            let whole = length - offset >= segment::HEADER as u64;
            if whole {
                log.file.read_exact_at(&mut head, offset)?;
            }
            if let Some(header) = Header::read(&head) {
                log.slots.push(Slot { offset, number: header.number, header: Some(header) });
                continue;
            }
            log.read(offset, &mut bytes)?;
            match segment::first_message(&bytes, segment::HEADER) {
                Some(message) => log.slots.push(Slot { offset, number: message.segment, header: None }),
                None if segment::used(&bytes) == 0 => {}
                None => log.unreadable.push(offset),
            }
        }
        log.slots.sort_by_key(|slot| slot.number);
        Ok(Some(log))
    }

    /// Reads the segment at an offset, as far as the file goes.
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
