//! Finds what sled would lose if it opened this log.
//!
//! sled reads the segments in the order of their numbers. The tail begins at the highest `stable` lsn of all headers: there
//! the numbers must be consecutive, and sled treats the first message that does not verify as the end of the log and wipes
//! everything after it. Before the tail, sled silently skips the rest of a segment after a damaged message, and segments
//! without a header. It does not read segments from before its snapshot again, so there it loses only the damaged messages.
//!
//! *Invariants.* A log left by a crash has no faults: its end may be torn, because nothing after the tear was acknowledged,
//! and a free segment may be half overwritten or half wiped.

use crate::store::model::codec;
use crate::store::model::record::Totals;
use crate::store::model::watermark::Watermark;
use crate::store::sled_log::message::{Data, Kind, Link, Message, Node};
use crate::store::sled_log::snapshot::Snapshot;
use crate::store::sled_log::{Log, SEGMENT_BYTES, Segment, Walk, first_message, walk};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;

/// A batch that ends in the tail begins less than this many segments before it.
const LATE: u64 = 64;

/// Result of the check; each line is for the operator.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct LogCheck {
    /// Damage through which sled would lose data.
    pub faults: Vec<String>,
    /// Damage to data that is no longer needed.
    pub harmless: Vec<String>,
}

/// Checks the whole log; everything up to `watermark` was durable.
pub fn check_log(queue: &Path, watermark: Option<Watermark>) -> io::Result<LogCheck> {
    let Some(log) = Log::open(queue)? else {
        return Ok(LogCheck { faults: missing_commits(Watermark::default(), watermark), harmless: Vec::new() });
    };
    let stable = log.segments.iter().filter_map(|s| s.header).map(|h| h.stable).max().unwrap_or(0).max(0);
    let snapshot = Snapshot::read(queue)?;
    let replayed = snapshot.lsn / SEGMENT_BYTES as u64;
    let tail = (stable as u64 / SEGMENT_BYTES as u64).max(replayed);
    let mut checker = Checker { tail, replayed, expected: tail, ..Checker::default() };
    let mut bytes = Vec::new();
    for segment in log.segments.iter().filter(|segment| !snapshot.is_free(segment.offset, segment.number)) {
        log.read(segment.offset, &mut bytes)?;
        checker.segment(segment, &bytes);
    }
    for offset in &log.unreadable {
        checker
            .unreadable
            .push(format!("bytes {offset} to {} of db contain nothing readable", offset + SEGMENT_BYTES as u64));
    }
    Ok(checker.finish(watermark))
}

/// A range that sled would skip.
#[derive(Debug)]
struct DamagedRange {
    lsn: u64,
    /// Pages that the messages in it change; `None` if unknown.
    pages: Option<Vec<u64>>,
    description: String,
}

#[derive(Clone, Copy, Debug, Default)]
struct PageState {
    /// Lsn of its last whole write.
    base: Option<u64>,
}

#[derive(Debug, Default)]
struct Checker {
    /// Number of the first segment of the tail.
    tail: u64,
    /// Number of the first segment that sled reads when it opens the log.
    replayed: u64,
    /// Number of the next segment of the tail.
    expected: u64,
    /// Lsn at which the tail ends, if it is torn.
    torn: Option<u64>,
    damaged_ranges: Vec<DamagedRange>,
    unreadable: Vec<String>,
    pages: HashMap<u64, PageState>,
    /// Lsns of the begin and the end of the last batch.
    batch: Option<(u64, u64)>,
    end: u64,
    /// Each write of the counters near the tail, by lsn; and the last write before those.
    counters: BTreeMap<u64, Watermark>,
    counters_before_tail: Watermark,
}

impl Checker {
    fn segment(&mut self, segment: &Segment, bytes: &[u8]) {
        let walk = walk(bytes, segment.number);
        let base = segment.number * SEGMENT_BYTES as u64;
        if segment.number < self.tail {
            self.full_segment(segment, bytes, &walk);
        } else if self.torn.is_none() {
            let first = walk.damaged_ranges.first().map(|range| range.start).or(walk.open);
            if segment.header.is_none() || segment.number != self.expected {
                self.torn = Some(self.expected * SEGMENT_BYTES as u64);
            } else {
                self.torn = first.map(|at| base + at as u64);
            }
            self.expected = segment.number + 1;
        }
        let visible = segment.header.is_some();
        for message in &walk.messages {
            let lsn = base + message.at as u64;
            let within = visible && self.torn.is_none_or(|torn| lsn < torn);
            self.message(message, lsn, bytes, within);
            if within {
                self.end = base + message.body.end as u64;
            }
        }
    }

    /// Checks a segment before the tail: it must be full, unless it was free and is being overwritten.
    fn full_segment(&mut self, segment: &Segment, bytes: &[u8], walk: &Walk) {
        let base = segment.number * SEGMENT_BYTES as u64;
        let offset = |at: usize| segment.offset + at as u64;
        if segment.header.is_none() {
            let pages = walk.messages.iter().filter(|m| changes_page(m)).map(|m| m.page).collect();
            let known = walk.damaged_ranges.is_empty() && walk.open.is_none();
            let description = format!("the header of the segment at byte {} of db does not verify", segment.offset);
            self.damaged_ranges.push(DamagedRange { lsn: base, pages: known.then_some(pages), description });
            return;
        }
        for range in &walk.damaged_ranges {
            let unverified = Message::unverified(bytes, range.start).filter(|m| m.body.end == range.end);
            let description = format!("bytes {} to {} of db do not verify", offset(range.start), offset(range.end));
            let skipped = walk
                .messages
                .iter()
                .filter(|m| m.at > range.start && segment.number >= self.replayed && changes_page(m));
            let pages = unverified.map(|m| skipped.map(|m| m.page).chain([m.page]).collect());
            self.damaged_ranges.push(DamagedRange { lsn: base + range.start as u64, pages, description });
        }
        if let Some(open) = walk.open
            && first_message(bytes, open).is_none_or(|m| m.segment < segment.number)
        {
            let description = format!("bytes {} to {} of db do not verify", offset(open), offset(SEGMENT_BYTES));
            self.damaged_ranges.push(DamagedRange { lsn: base + open as u64, pages: None, description });
        }
    }

    fn message(&mut self, message: &Message, lsn: u64, bytes: &[u8], within: bool) {
        let body = &bytes[message.body.clone()];
        if let Some(watermark) = counters(message.kind, body) {
            if lsn / SEGMENT_BYTES as u64 + LATE >= self.tail {
                self.counters.insert(lsn, watermark);
            } else {
                self.counters_before_tail = watermark;
            }
        }
        if message.kind == Kind::Batch && within {
            self.batch = body.try_into().ok().map(|last| (lsn, u64::from_le_bytes(last)));
        }
        if changes_page(message) && within {
            let page = self.pages.entry(message.page).or_default();
            if message.kind != Kind::Link {
                page.base = Some(lsn);
            }
        }
    }

    fn finish(mut self, watermark: Option<Watermark>) -> LogCheck {
        let mut cut = self.torn.unwrap_or(u64::MAX);
        if let Some((begins, ends)) = self.batch
            && self.torn.is_some()
            && ends > self.end.saturating_sub(1)
        {
            cut = begins;
        }
        let mut found = LogCheck { faults: Vec::new(), harmless: std::mem::take(&mut self.unreadable) };
        for range in &self.damaged_ranges {
            let next_segment = (range.lsn / SEGMENT_BYTES as u64 + 1) * SEGMENT_BYTES as u64;
            let is_rewritten =
                |page: &u64| self.pages.get(page).and_then(|p| p.base).is_some_and(|base| base >= next_segment);
            match &range.pages {
                Some(pages) if pages.iter().all(is_rewritten) => found.harmless.push(range.description.clone()),
                _ => found.faults.push(range.description.clone()),
            }
        }
        let known = self.pages.keys().max().map_or(0, |max| max + 1);
        let based = self.pages.values().filter(|page| page.base.is_some()).count() as u64;
        if based < known {
            found.faults.push(format!("{} of sled's {known} pages are missing", known - based));
        }
        let last =
            self.counters.range(..cut).next_back().map_or(self.counters_before_tail, |(_, watermark)| *watermark);
        found.faults.extend(missing_commits(last, watermark));
        let mut later: Vec<Watermark> = self.counters.range(cut..).map(|(_, watermark)| *watermark).collect();
        later.retain(|watermark| *watermark != last);
        later.dedup();
        // a commit begins when the one before it is durable, so at most one can be incomplete
        if later.len() > 1 && found.faults.is_empty() {
            found.faults.push(format!("{} commits follow the place at which the log ends", later.len()));
        }
        found
    }
}

/// The counters of the store, if the message contains them.
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

/// Whether a message changes its page.
fn changes_page(message: &Message) -> bool {
    !matches!(message.kind, Kind::Canceled | Kind::Cap | Kind::Batch)
}

fn missing_commits(last: Watermark, watermark: Option<Watermark>) -> Vec<String> {
    let describe = |mark: Watermark| {
        let (events, settlements) = (mark.next_sequence, mark.next_settlement);
        let missing = |had: u64, has: u64| had.saturating_sub(has.max(1));
        format!(
            "{} events and {} settlements that were durable are missing: the log ends before them",
            missing(events, last.next_sequence),
            missing(settlements, last.next_settlement)
        )
    };
    watermark.filter(|mark| last.falls_short_of(*mark)).map(describe).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = SEGMENT_BYTES as u64;

    /// Faults and harmless lines for a damaged range in segment 3 that changed these pages; page 0 was last written whole at
    /// `base`.
    fn finished(pages: Option<Vec<u64>>, base: u64) -> (usize, usize) {
        let mut checker = Checker { tail: 9, ..Checker::default() };
        checker.pages.insert(0, PageState { base: Some(base) });
        checker.damaged_ranges.push(DamagedRange { lsn: 3 * SEGMENT + 100, pages, description: "a range".to_owned() });
        let found = checker.finish(None);
        (found.faults.len(), found.harmless.len())
    }

    #[test]
    fn a_damaged_range_is_harmless_if_later_segments_rewrite_its_pages() {
        assert_eq!(finished(Some(vec![0]), 4 * SEGMENT), (0, 1));
        assert_eq!(finished(Some(vec![0]), 4 * SEGMENT - 1), (1, 0));
        assert_eq!(finished(Some(vec![0, 1]), 4 * SEGMENT), (1, 0), "page 1 has no whole write");
        assert_eq!(finished(None, 4 * SEGMENT), (1, 0));
    }

    #[test]
    fn a_page_without_a_whole_copy_is_missing() {
        let mut checker = Checker::default();
        checker.pages.insert(0, PageState { base: Some(5) });
        checker.pages.insert(2, PageState { base: Some(6) });
        assert_eq!(checker.finish(None).faults, ["1 of sled's 3 pages are missing"]);
    }

    #[test]
    fn a_second_commit_after_a_torn_one_is_a_fault() {
        let watermark = |n| Watermark { next_sequence: n, next_settlement: 1 };
        let found = |later: &[u64]| {
            let mut checker = Checker { torn: Some(1000), ..Checker::default() };
            checker.counters.insert(500, watermark(7));
            checker.counters.extend((2000..).step_by(10).zip(later.iter().map(|n| watermark(*n))));
            checker.finish(None).faults.len()
        };
        assert_eq!([&[][..], &[8], &[8, 8], &[7, 8], &[8, 9]].map(found), [0, 0, 0, 0, 1]);
    }

    #[test]
    fn durable_events_and_settlements_that_are_missing_are_counted() {
        let watermark = |next_sequence, next_settlement| Watermark { next_sequence, next_settlement };
        assert_eq!(missing_commits(watermark(7, 9), Some(watermark(7, 9))), Vec::<String>::new());
        assert_eq!(missing_commits(watermark(7, 9), None), Vec::<String>::new());
        let found = missing_commits(watermark(7, 9), Some(watermark(10, 11)));
        assert!(found.len() == 1 && found[0].starts_with("3 events and 2 settlements "), "{found:?}");
        let found = missing_commits(Watermark::default(), Some(watermark(10, 11)));
        assert!(found.len() == 1 && found[0].starts_with("9 events and 10 settlements "), "{found:?}");
    }
}
