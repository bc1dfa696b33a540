//! Reading sled's log: segments, damage, rows.

use crate::event::Sequence;
use crate::store::engine::log_check::check_log;
use crate::store::model::codec;
use crate::store::model::record::Totals;
use crate::store::model::table::{ROW_MAX, Table};
use crate::store::model::watermark::Watermark;
use crate::store::offline::log_rows::LogRows;
use crate::store::sled_log::*;

fn head(number: u64, stable: u64) -> Vec<u8> {
    let lsn = (number as i64 * SEGMENT_BYTES as i64) ^ i64::MAX;
    let said = [lsn.to_le_bytes(), (stable as i64 ^ i64::MAX).to_le_bytes()].concat();
    [&(crc32fast::hash(&said) ^ u32::MAX).to_le_bytes()[..], &said].concat()
}

/// A number as sled writes it, in its longest form.
fn number(n: u64) -> Vec<u8> {
    [&[255][..], &n.to_le_bytes()].concat()
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [&number(bytes.len() as u64), bytes].concat()
}

fn message(kind: u8, segment: u64, page: u8, body: &[u8]) -> Vec<u8> {
    let said = [&[kind][..], &number(body.len() as u64), &[segment as u8, page]].concat();
    let crc = crc32fast::hash(&[body, &said].concat()) ^ u32::MAX;
    [&crc.to_le_bytes()[..], &said, body].concat()
}

const CAP: u8 = 2;
const BATCH: u8 = 3;
const FREE: u8 = 4;
const NODE: u8 = 8;
const LINK: u8 = 10;
/// Lengths of a whole page in these tests, and of the message that ends a segment.
const PAGE: usize = 50;
const END: usize = 16;

/// A segment with these messages (kind, page, body) after its header; everything was stable up to `stable`.
fn segment(number: u64, stable: u64, messages: &[(u8, u8, &[u8])]) -> Vec<u8> {
    let messages = messages.iter().map(|(kind, page, body)| message(*kind, number, *page, body));
    [head(number, stable), messages.collect::<Vec<_>>().concat()].concat()
}

/// A full segment that contains these pages as a whole.
fn full(number: u64, pages: &[u8]) -> Vec<u8> {
    let body = [7; PAGE - END];
    let messages = pages.iter().map(|page| (NODE, *page, &body[..])).chain([(CAP, 0, &[][..])]);
    segment(number, 0, &messages.collect::<Vec<_>>())
}

fn at(segment: u64) -> u64 {
    segment * SEGMENT_BYTES as u64
}

fn log(segments: &[Vec<u8>], after: &[u8]) -> (tempfile::TempDir, Log) {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = Vec::new();
    for (n, segment) in (1..).zip(segments) {
        bytes.extend(segment);
        bytes.resize(n * SEGMENT_BYTES, 0);
    }
    bytes.extend(after);
    std::fs::write(dir.path().join("db"), bytes).unwrap();
    let log = Log::open(dir.path()).unwrap().unwrap();
    (dir, log)
}

#[test]
fn segments_are_found_by_number_and_invalid_ones_are_reported() {
    let headerless = [vec![0; HEADER_BYTES], message(NODE, 3, 7, &[])].concat();
    let (_dir, log) = log(&[head(9, 0), Vec::new(), headerless, vec![1; 100]], &[1; 5]);
    let segments: Vec<_> = log.segments.iter().map(|s| (s.number, s.offset, s.header.is_some())).collect();
    assert_eq!(segments, [(3, at(2), false), (9, 0, true)]);
    assert_eq!(log.unreadable, [at(3), at(4)]);
}

#[test]
fn an_unreadable_log_differs_from_a_missing_one() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Log::open(dir.path()).unwrap().is_none());
    let file = dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    assert!(Log::open(&file).is_err());
}

/// Faults and harmless damage of a log with these segments.
fn checked(segments: &[Vec<u8>], reached: Option<Watermark>) -> (Vec<String>, Vec<String>) {
    let (dir, _) = log(segments, &[]);
    let found = check_log(dir.path(), reached).unwrap();
    (found.faults, found.harmless)
}

/// Three full segments and one that is being written.
fn whole() -> Vec<Vec<u8>> {
    vec![full(0, &[1, 2]), full(1, &[0, 3, 2]), full(2, &[1, 4]), segment(3, at(3), &[(NODE, 2, &[7; 9])])]
}

fn spoil(bytes: &mut [u8], page: usize) {
    bytes[HEADER_BYTES + page * PAGE + END + 3] ^= 1;
}

#[test]
fn damage_before_the_tail_is_a_fault_unless_rewritten_later() {
    assert_eq!(checked(&whole(), None), (vec![], vec![]));
    let counted = |segment: usize, page: usize| {
        let mut hit = whole();
        spoil(&mut hit[segment], page);
        let (faults, harmless) = checked(&hit, None);
        let from = segment * SEGMENT_BYTES + HEADER_BYTES + page * PAGE;
        let what = format!("bytes {from} to {} of db do not verify", from + PAGE);
        assert_eq!([&faults[..], &harmless].concat()[0], what);
        (faults.len(), harmless.len())
    };
    assert_eq!(counted(0, 1), (0, 1), "page 2 was written again");
    assert_eq!(counted(0, 0), (0, 1), "page 1, and page 2 after it, were written again");
    assert_eq!(counted(1, 2), (0, 1), "page 2 was written again");
    assert_eq!(counted(1, 1), (2, 0), "page 3 is missing");
    assert_eq!(counted(1, 0).0, 2, "page 0 is missing");
    assert_eq!(counted(2, 0), (1, 0), "page 1 was written only before, and page 4 is after it");
}

#[test]
fn a_damaged_segment_header_is_a_fault_unless_rewritten_later() {
    let counted = |segment: usize, also: &dyn Fn(&mut Vec<u8>)| {
        let mut hit = whole();
        hit[segment][5] ^= 1;
        also(&mut hit[segment]);
        let (faults, harmless) = checked(&hit, None);
        (faults.len(), harmless.len())
    };
    assert_eq!(counted(0, &|_| ()), (0, 1));
    assert_eq!(counted(0, &|bytes| bytes.truncate(bytes.len() - END)), (1, 0), "the rest of the segment is unknown");
    assert_eq!(counted(0, &|bytes| spoil(bytes, 0)), (1, 0), "its content is unknown");
    let mut hit = vec![full(0, &[0]), full(1, &[1]), full(2, &[2]), full(3, &[2]), segment(4, at(4), &[])];
    hit[3][5] ^= 1;
    assert_eq!(checked(&hit, None).0.len(), 1, "page 2 was only written before");
}

#[test]
fn a_short_segment_is_a_fault_unless_it_is_being_overwritten() {
    let counted = |after: &[u8]| {
        let mut hit = whole();
        let end = hit[1].len() - END;
        hit[1].truncate(end);
        hit[1].extend(after);
        checked(&hit, None).0
    };
    let from = SEGMENT_BYTES + HEADER_BYTES + 3 * PAGE;
    assert_eq!(counted(&[]), [format!("bytes {from} to {} of db do not verify", 2 * SEGMENT_BYTES)]);
    assert_eq!(counted(&message(NODE, 0, 9, &[])).len(), 1);
    assert_eq!(counted(&message(NODE, 9, 9, &[])), Vec::<String>::new());
}

#[test]
fn replay_skips_segments_before_the_snapshot() {
    let mut hit = whole();
    spoil(&mut hit[0], 0);
    (hit[1], hit[3]) = (full(1, &[0, 3]), segment(3, at(3), &[]));
    assert_eq!(checked(&hit, None).0.len(), 1, "page 2 is skipped with page 1");
    let (dir, _) = log(&hit, &[]);
    let part = |segment: u64| [&[1][..], &[0; 8], &[0], &number(at(segment) + 30), &[50]].concat();
    let pages = [part(0), part(1), part(2)].concat();
    let content = [&(at(2) + 1).to_le_bytes()[..], &number(at(3) + 1), &pages].concat();
    let end = [(content.len() as u64).to_le_bytes().to_vec(), crc32fast::hash(&content).to_le_bytes().to_vec()];
    std::fs::write(dir.path().join("snap.01"), [content, end.concat()].concat()).unwrap();
    let found = check_log(dir.path(), None).unwrap();
    assert_eq!((found.faults.len(), found.harmless.len()), (0, 1), "{found:?}");
}

fn counters(next_sequence: u64) -> (Watermark, Vec<u8>) {
    let totals = Totals { next_sequence: Sequence(next_sequence), ..Totals::default() };
    let sealed = codec::encode(codec::Kind::Totals, &totals);
    (totals.reached(), [&[0][..], &string(b"totals"), &string(&sealed)].concat())
}

#[test]
fn a_missing_segment_in_the_tail_is_noticed_by_the_watermark() {
    let ((five, at_five), (nine, at_nine)) = (counters(5), counters(9));
    let page = (NODE, 0, &[7; 9][..]);
    let second = segment(2, at(2), &[page, (LINK, 0, &at_five), (CAP, 0, &[])]);
    let faults = |n: u64, reached| {
        let third = segment(n, at(2), &[(LINK, 0, &at_nine)]);
        checked(&[second.clone(), third], Some(reached)).0
    };
    assert_eq!((faults(3, nine), faults(4, five)), (vec![], vec![]));
    let found = faults(4, nine);
    assert!(found.len() == 1 && found[0].starts_with("4 events and 0 settlements "), "{found:?}");
}

#[test]
fn an_incomplete_batch_at_the_end_counts_nothing() {
    let ((five, at_five), (nine, at_nine)) = (counters(5), counters(9));
    let faults = |ends: u64, reached| {
        let ends = ends.to_le_bytes();
        let all = [(NODE, 0, &[7; 9][..]), (LINK, 0, &at_five), (BATCH, 0, &ends), (LINK, 0, &at_nine)];
        checked(&[segment(2, at(2), &all)], Some(reached)).0.len()
    };
    let (within, after) = (at(2) + 60, at(2) + 2000);
    assert_eq!([faults(within, nine), faults(after, five), faults(after, nine)], [0, 0, 1]);
}

#[test]
fn an_incomplete_batch_is_dropped_and_damage_in_it_is_reported() {
    let settled = codec::encode(codec::Kind::Settled, &7u64);
    let set = |n: u8| [&[0][..], &string(&[0, 0, 0, 0, 0, 0, 0, n]), &string(&settled)].concat();
    let (one, two, three) = (set(1), set(2), set(3));
    let found = |ends: u64| {
        let ends = ends.to_le_bytes();
        let mut second = segment(3, 0, &[(LINK, 5, &one), (LINK, 5, &two), (BATCH, 0, &ends), (LINK, 5, &three)]);
        second[HEADER_BYTES + END + one.len() + END] ^= 1;
        let (dir, _) = log(&[full(2, &[]), second], &[]);
        LogRows::read(dir.path()).unwrap()
    };
    let keys = |found: &LogRows| found.rows(Table::Settled).map(|(key, _)| key[7]).collect::<Vec<_>>();
    let end = at(3) + (HEADER_BYTES + 4 * END + one.len() * 3 + 8) as u64;
    assert_eq!(keys(&found(end - 1)), [1, 3]);
    assert_eq!(keys(&found(end)), [1]);
    let from = SEGMENT_BYTES + HEADER_BYTES + END + one.len();
    assert_eq!(found(end).damaged_ranges, [format!("bytes {from} to {} of db", from + END + two.len())]);
}

/// A whole page, with all keys or all pages below it, in the order of its data.
fn node(kind: u8, keys: &[&[u8]], data: &[Vec<u8>]) -> Vec<u8> {
    let keys: Vec<Vec<u8>> = keys.iter().map(|key| string(key)).collect();
    [&[0, 0, 0, 0, 0, 0, kind, keys.len() as u8][..], &keys.concat(), &data.concat()].concat()
}

fn deleted(key: &[u8]) -> Vec<u8> {
    [&[1][..], &string(key)].concat()
}

const ONE: [u8; 8] = [0, 0, 0, 0, 0, 0, 0, 1];

fn rows(messages: &[(u8, u8, &[u8])], table: Table) -> (Vec<bool>, u64) {
    let (dir, _) = log(&[segment(0, 0, messages)], &[]);
    let found = LogRows::read(dir.path()).unwrap();
    (found.rows(table).map(|(_, row)| row.exists()).collect(), found.unplaced)
}

#[test]
fn a_reused_page_belongs_to_its_new_table() {
    let settled = string(&codec::encode(codec::Kind::Settled, &7u64));
    let aside = string(&codec::encode(codec::Kind::DamagedRecord, &7u64));
    let key = [&ONE[..], &[0, 0]].concat();
    let (old, new) = (node(0, &[&ONE], &[settled]), node(0, &[&key], &[aside]));
    let all = [(NODE, 5, &old[..]), (FREE, 5, &[]), (NODE, 5, &new), (LINK, 5, &deleted(&key))];
    assert_eq!(rows(&all, Table::Damaged), (vec![false], 0));
    assert_eq!(rows(&all, Table::Settled), (vec![true], 0));
}

#[test]
fn child_pages_share_the_table_of_any_identified_sibling() {
    let settled = string(&codec::encode(codec::Kind::Settled, &7u64));
    let (leaf, above) = (node(0, &[&[9; 8]], &[settled]), node(1, &[b"", &ONE], &[vec![5], vec![6]]));
    let all = [(NODE, 5, &leaf[..]), (NODE, 3, &above), (LINK, 6, &deleted(&ONE))];
    assert_eq!(rows(&all, Table::Settled), (vec![false, true], 0));
}

#[test]
fn a_change_is_placed_by_its_whole_record_or_first_part() {
    let key = [&ONE[..], &[0, 0]].concat();
    let placed = |length: usize, bytes: usize| {
        let sealed = codec::seal(codec::Kind::Page, &vec![7; length - codec::ENVELOPE]);
        let set = [&[0][..], &string(&key), &string(&sealed[..bytes])].concat();
        rows(&[(LINK, 5, &set)], Table::Pages)
    };
    let (stored, unplaced) = ((vec![true], 0), (vec![], 1));
    assert_eq!([placed(500, 500), placed(40_000, ROW_MAX)], [stored.clone(), stored]);
    assert_eq!([placed(500, 499), placed(40_000, 500)], [unplaced.clone(), unplaced]);
}

#[test]
fn a_change_outside_the_key_range_of_its_page_has_no_table() {
    let leaf = node(0, &[&ONE], &[string(&codec::encode(codec::Kind::Settled, &7u64))]);
    assert_eq!(rows(&[(NODE, 5, &leaf), (LINK, 5, &deleted(&ONE[..5]))], Table::Settled), (vec![true], 1));
}
