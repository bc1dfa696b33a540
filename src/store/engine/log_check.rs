//! What sled would lose if it opened this log.
//!
//! sled reads the segments by their numbers. From the highest `stable` of all headers on, they must follow one another;
//! there the first message that does not verify is the end of the log, and all behind it is wiped. Before that, it skips
//! what is left of a segment, or a segment without a header, in silence; only segments from before its snapshot are not
//! read again, so that there nothing is skipped but what does not verify.
//!
//! *Invariants.* A log that a crash left has no faults: its end may be torn, because only what was not acknowledged lies
//! behind the tear, and a segment that was free may be half overwritten or half wiped.

use crate::store::model::codec;
use crate::store::model::record::Totals;
use crate::store::model::watermark::Watermark;
use crate::store::sled_log::message::{Kind, Message};
use crate::store::sled_log::node::{Data, Link, Node};
use crate::store::sled_log::segment::{SEGMENT_BYTES, Walk, first_message, walk};
use crate::store::sled_log::snapshot::Snapshot;
use crate::store::sled_log::{Log, Slot};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;

/// No batch begins so many segments before the tail and ends in it.
const LATE: u64 = 64;

/// What is wrong with a log, each in a line for the operator.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Examined {
    /// Opening it would lose something.
    pub faults: Vec<String>,
    /// Damage to what nobody needs any more.
    pub harmless: Vec<String>,
}

/// Looks through the whole log; `reached` is what had been durable.
pub fn examine(queue: &Path, reached: Option<Watermark>) -> io::Result<Examined> {
    let Some(log) = Log::open(queue)? else {
        return Ok(Examined { faults: too_short(Watermark::default(), reached), harmless: Vec::new() });
    };
    let stable = log.slots.iter().filter_map(|s| s.header).map(|h| h.stable).max().unwrap_or(0).max(0);
    let snapshot = Snapshot::read(queue)?;
    let replayed = snapshot.lsn / SEGMENT_BYTES as u64;
    let tail = (stable as u64 / SEGMENT_BYTES as u64).max(replayed);
    let mut seen = Seen { tail, replayed, expected: tail, ..Seen::default() };
    let mut bytes = Vec::new();
    for slot in log.slots.iter().filter(|slot| !snapshot.is_free(slot.offset, slot.number)) {
        log.read(slot.offset, &mut bytes)?;
        seen.segment(slot, &bytes);
    }
    for offset in &log.unreadable {
        seen.doubts
            .push(format!("bytes {offset} to {} of db hold nothing that can be read", offset + SEGMENT_BYTES as u64));
    }
    Ok(seen.judge(reached))
}

/// Something that sled would not see.
#[derive(Debug)]
struct Hole {
    lsn: u64,
    /// Pages of which it told, where that is known.
    pages: Option<Vec<u64>>,
    what: String,
}

#[derive(Clone, Copy, Debug, Default)]
struct Page {
    /// Where it was last written as a whole.
    base: Option<u64>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Number of the segment at which the tail begins.
    tail: u64,
    /// Number of the first segment that sled reads when it opens the log.
    replayed: u64,
    expected: u64,
    torn: Option<u64>,
    holes: Vec<Hole>,
    doubts: Vec<String>,
    pages: HashMap<u64, Page>,
    /// Where a batch begins, and where it ends; the last one.
    batch: Option<(u64, u64)>,
    end: u64,
    /// The counters whenever they were written, by the place of their message: those of the end, and the last before them.
    counters: BTreeMap<u64, Watermark>,
    before: Watermark,
}

impl Seen {
    fn segment(&mut self, slot: &Slot, bytes: &[u8]) {
        let walk = walk(bytes, slot.number);
        let base = slot.number * SEGMENT_BYTES as u64;
        if slot.number < self.tail {
            self.sealed(slot, bytes, &walk);
        } else if self.torn.is_none() {
            let first = walk.holes.first().map(|hole| hole.start).or(walk.open);
            if slot.header.is_none() || slot.number != self.expected {
                self.torn = Some(self.expected * SEGMENT_BYTES as u64);
            } else {
                self.torn = first.map(|at| base + at as u64);
            }
            self.expected = slot.number + 1;
        }
        let visible = slot.header.is_some();
        for message in &walk.messages {
            let lsn = base + message.at as u64;
            let within = visible && self.torn.is_none_or(|torn| lsn < torn);
            self.message(message, lsn, bytes, within);
            if within {
                self.end = base + message.body.end as u64;
            }
        }
    }

    /// A segment before the tail: it must be full, unless it was free and is being overwritten.
    fn sealed(&mut self, slot: &Slot, bytes: &[u8], walk: &Walk) {
        let base = slot.number * SEGMENT_BYTES as u64;
        let place = |at: usize| slot.offset + at as u64;
        if slot.header.is_none() {
            let pages = walk.messages.iter().filter(|m| tells(m)).map(|m| m.page).collect();
            let known = walk.holes.is_empty() && walk.open.is_none();
            let what = format!("the head of the segment at byte {} of db does not verify", slot.offset);
            self.holes.push(Hole { lsn: base, pages: known.then_some(pages), what });
            return;
        }
        for hole in &walk.holes {
            let claimed = Message::claimed(bytes, hole.start).filter(|m| m.body.end == hole.end);
            let what = format!("bytes {} to {} of db do not verify", place(hole.start), place(hole.end));
            let skipped =
                walk.messages.iter().filter(|m| m.at > hole.start && slot.number >= self.replayed && tells(m));
            let pages = claimed.map(|m| skipped.map(|m| m.page).chain([m.page]).collect());
            self.holes.push(Hole { lsn: base + hole.start as u64, pages, what });
        }
        if let Some(open) = walk.open
            && first_message(bytes, open).is_none_or(|m| m.segment < slot.number)
        {
            let what = format!("bytes {} to {} of db do not verify", place(open), place(SEGMENT_BYTES));
            self.holes.push(Hole { lsn: base + open as u64, pages: None, what });
        }
    }

    fn message(&mut self, message: &Message, lsn: u64, bytes: &[u8], within: bool) {
        let body = &bytes[message.body.clone()];
        if let Some(reached) = counters(message.kind, body) {
            if lsn / SEGMENT_BYTES as u64 + LATE >= self.tail {
                self.counters.insert(lsn, reached);
            } else {
                self.before = reached;
            }
        }
        if message.kind == Kind::Batch && within {
            self.batch = body.try_into().ok().map(|last| (lsn, u64::from_le_bytes(last)));
        }
        if tells(message) && within {
            let page = self.pages.entry(message.page).or_default();
            if message.kind != Kind::Link {
                page.base = Some(lsn);
            }
        }
    }

    fn judge(mut self, reached: Option<Watermark>) -> Examined {
        let mut cut = self.torn.unwrap_or(u64::MAX);
        if let Some((begins, ends)) = self.batch
            && self.torn.is_some()
            && ends > self.end.saturating_sub(1)
        {
            cut = begins;
        }
        let mut told = Examined { faults: Vec::new(), harmless: std::mem::take(&mut self.doubts) };
        for hole in &self.holes {
            let behind = (hole.lsn / SEGMENT_BYTES as u64 + 1) * SEGMENT_BYTES as u64;
            let dead = |page: &u64| self.pages.get(page).and_then(|p| p.base).is_some_and(|base| base >= behind);
            match &hole.pages {
                Some(pages) if pages.iter().all(dead) => told.harmless.push(hole.what.clone()),
                _ => told.faults.push(hole.what.clone()),
            }
        }
        let known = self.pages.keys().max().map_or(0, |max| max + 1);
        let based = self.pages.values().filter(|page| page.base.is_some()).count() as u64;
        if based < known {
            told.faults.push(format!("{} of sled's {known} pages are missing", known - based));
        }
        let last = self.counters.range(..cut).next_back().map_or(self.before, |(_, reached)| *reached);
        told.faults.extend(too_short(last, reached));
        let mut later: Vec<Watermark> = self.counters.range(cut..).map(|(_, reached)| *reached).collect();
        later.retain(|reached| *reached != last);
        later.dedup();
        // a commit is begun when the one before it is durable
        if later.len() > 1 && told.faults.is_empty() {
            told.faults.push(format!("{} commits lie behind a place at which the log breaks off", later.len()));
        }
        told
    }
}

/// The counters of the store, where a message holds them.
fn counters(kind: Kind, body: &[u8]) -> Option<Watermark> {
    let totals = |value: &[u8]| {
        let kind = codec::Kind::Totals;
        let totals = (value.first() == Some(&(kind as u8))).then(|| codec::decode::<Totals>(kind, value).ok())?;
        totals.map(|totals| totals.reached())
    };
    match kind {
        Kind::Link => match Link::read(body)? {
            Link::Set(_, value) => totals(value),
            _ => None,
        },
        Kind::Node => match Node::read(body)?.data {
            Data::Leaf(values) => values.into_iter().find_map(totals),
            Data::Index(_) => None,
        },
        _ => None,
    }
}

/// Whether a message says something of its page.
fn tells(message: &Message) -> bool {
    !matches!(message.kind, Kind::Canceled | Kind::Cap | Kind::Batch)
}

fn too_short(last: Watermark, reached: Option<Watermark>) -> Vec<String> {
    let told = |mark: Watermark| {
        let (events, settlements) = (mark.next_sequence, mark.next_settlement);
        let missing = |had: u64, has: u64| had.saturating_sub(has.max(1));
        format!(
            "{} events and {} settlements that had been durable are not before the place at which the log breaks off",
            missing(events, last.next_sequence),
            missing(settlements, last.next_settlement)
        )
    };
    reached.filter(|mark| last.falls_short_of(*mark)).map(told).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = SEGMENT_BYTES as u64;

    /// A hole in segment 3 that told of pages, of which page 0 was last written as a whole there.
    fn judged(pages: Option<Vec<u64>>, base: u64) -> (usize, usize) {
        let mut seen = Seen { tail: 9, ..Seen::default() };
        seen.pages.insert(0, Page { base: Some(base) });
        seen.holes.push(Hole { lsn: 3 * SEGMENT + 100, pages, what: "a hole".to_owned() });
        let told = seen.judge(None);
        (told.faults.len(), told.harmless.len())
    }

    #[test]
    fn a_hole_is_harmless_where_later_segments_rewrite_its_pages() {
        assert_eq!(judged(Some(vec![0]), 4 * SEGMENT), (0, 1));
        assert_eq!(judged(Some(vec![0]), 4 * SEGMENT - 1), (1, 0));
        assert_eq!(judged(Some(vec![0, 1]), 4 * SEGMENT), (1, 0), "of page 1 nothing is known");
        assert_eq!(judged(None, 4 * SEGMENT), (1, 0));
    }

    #[test]
    fn a_page_without_a_whole_copy_is_missing() {
        let mut seen = Seen::default();
        seen.pages.insert(0, Page { base: Some(5) });
        seen.pages.insert(2, Page { base: Some(6) });
        assert_eq!(seen.judge(None).faults, ["1 of sled's 3 pages are missing"]);
    }

    #[test]
    fn commits_after_a_torn_one_are_a_fault_from_the_second_on() {
        let reached = |n| Watermark { next_sequence: n, next_settlement: 1 };
        let told = |later: &[u64]| {
            let mut seen = Seen { torn: Some(1000), ..Seen::default() };
            seen.counters.insert(500, reached(7));
            seen.counters.extend((2000..).step_by(10).zip(later.iter().map(|n| reached(*n))));
            seen.judge(None).faults.len()
        };
        assert_eq!([&[][..], &[8], &[8, 8], &[7, 8], &[8, 9]].map(told), [0, 0, 0, 0, 1]);
    }

    #[test]
    fn durable_events_and_settlements_that_are_missing_are_counted() {
        let reached = |next_sequence, next_settlement| Watermark { next_sequence, next_settlement };
        assert_eq!(too_short(reached(7, 9), Some(reached(7, 9))), Vec::<String>::new());
        assert_eq!(too_short(reached(7, 9), None), Vec::<String>::new());
        let told = too_short(reached(7, 9), Some(reached(10, 11)));
        assert!(told.len() == 1 && told[0].starts_with("3 events and 2 settlements "), "{told:?}");
        let told = too_short(Watermark::default(), Some(reached(10, 11)));
        assert!(told.len() == 1 && told[0].starts_with("9 events and 10 settlements "), "{told:?}");
    }
}
