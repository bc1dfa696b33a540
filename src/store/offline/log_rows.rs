//! The rows that a damaged log still contains, read without sled: for each row its newest value, or that it was deleted.
//!
//! A whole page that verifies defines every row in its range of keys: those that it contains exist, all others do not. A
//! change defines one row. Messages are applied in the order in which they were written; damaged ranges are skipped. The
//! table of a page is found by the roots, by its parent and sibling pages, and by the records in it.
//!
//! *Invariants.* No value is read from a message that does not verify. An incomplete batch at the end of the log is ignored:
//! it was never acknowledged.

use crate::store::engine::error::StoreError;
use crate::store::model::codec;
use crate::store::model::table::{ROW_MAX, Rows, Table};
use crate::store::sled_log::message::{Data, Kind, Link, Message, Node, roots};
use crate::store::sled_log::{Log, SEGMENT_BYTES, walk};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The newest state of a row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Position in the order of writes.
    pub lsn: u64,
    /// Offset and length in the file; `None` if the row was deleted.
    value: Option<(u64, u32)>,
}

impl Row {
    pub fn exists(&self) -> bool {
        self.value.is_some()
    }
}

/// All rows that could be read.
#[derive(Debug)]
pub struct LogRows {
    log: Log,
    tables: [BTreeMap<Vec<u8>, Row>; Table::ALL.len()],
    /// Descriptions of the byte ranges of `db` that do not verify.
    pub damaged_ranges: Vec<String>,
    /// Changes whose table or key is unknown, and that no later write of their page supersedes.
    pub unplaced: u64,
}

impl LogRows {
    pub fn read(queue: &Path) -> io::Result<Self> {
        let log = Log::open(queue)?.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no `db` in it"))?;
        let mut found = Self { log, tables: Default::default(), damaged_ranges: Vec::new(), unplaced: 0 };
        let until = found.scan_end()?;
        let mut trees = Trees::default();
        found.for_each_message(until, |_, _, message, body| trees.observe(message, body))?;
        trees.restart();
        let mut tables = std::mem::take(&mut found.tables);
        found.for_each_message(until, |lsn, offset, message, body| {
            Replay { tables: &mut tables, trees: &mut trees, lsn, offset, body }.apply(message, body);
        })?;
        found.tables = tables;
        found.unplaced = trees.page_uses.iter().map(|page_use| page_use.unplaced).sum();
        Ok(found)
    }

    /// All known rows of a table, deleted ones included, in key order.
    pub fn rows(&self, table: Table) -> impl Iterator<Item = (&[u8], &Row)> {
        self.tables[table as usize].iter().map(|(key, row)| (key.as_slice(), row))
    }

    /// Keys of the long records of a table, without the part number, with the state of the first part.
    pub fn keys(&self, table: Table) -> impl Iterator<Item = (&[u8], &Row)> {
        self.rows(table).filter_map(|(key, row)| Some((key.strip_suffix(&[0, 0])?, row)))
    }

    pub fn get(&self, table: Table, key: &[u8]) -> Option<&Row> {
        self.tables[table as usize].get(key)
    }

    /// The lsn at which the log ends, without an incomplete batch at its end; collects the damaged ranges.
    fn scan_end(&mut self) -> io::Result<u64> {
        let (mut end, mut batch, mut bytes) = (0, None, Vec::new());
        for segment in self.log.segments.clone() {
            self.log.read(segment.offset, &mut bytes)?;
            let walk = walk(&bytes, segment.number);
            let base = segment.number * SEGMENT_BYTES as u64;
            for range in &walk.damaged_ranges {
                let (from, to) = (segment.offset + range.start as u64, segment.offset + range.end as u64);
                self.damaged_ranges.push(format!("bytes {from} to {to} of db"));
            }
            if segment.header.is_none() {
                self.damaged_ranges.push(format!("the header of the segment at byte {} of db", segment.offset));
            }
            for message in &walk.messages {
                end = base + message.body.end as u64;
                if message.kind == Kind::Batch {
                    let last = bytes[message.body.clone()].try_into().map_or(0, u64::from_le_bytes);
                    batch = Some((base + message.at as u64, last));
                }
            }
        }
        for offset in &self.log.unreadable {
            self.damaged_ranges.push(format!("bytes {offset} to {} of db", offset + SEGMENT_BYTES as u64));
        }
        Ok(batch.filter(|(_, last)| *last >= end).map_or(u64::MAX, |(begin, _)| begin))
    }

    fn for_each_message(&self, until: u64, mut each: impl FnMut(u64, u64, &Message, &[u8])) -> io::Result<()> {
        let mut bytes = Vec::new();
        for segment in &self.log.segments {
            self.log.read(segment.offset, &mut bytes)?;
            for message in &walk(&bytes, segment.number).messages {
                let lsn = segment.number * SEGMENT_BYTES as u64 + message.at as u64;
                if lsn < until {
                    let offset = segment.offset + message.body.start as u64;
                    each(lsn, offset, message, &bytes[message.body.clone()]);
                }
            }
        }
        Ok(())
    }
}

impl Rows for LogRows {
    type Error = StoreError;
    fn row(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let Some((offset, length)) = self.get(table, key).and_then(|row| row.value) else { return Ok(None) };
        let mut value = vec![0; length as usize];
        self.log.file.read_exact_at(&mut value, offset).map_err(|e| StoreError::Engine(e.to_string()))?;
        Ok(Some(value))
    }
}

/// One use of a page number, from its first write until it is freed.
#[derive(Debug, Default)]
struct PageUse {
    /// Another page of the same tree (union-find); itself at the root of the chain.
    joined: usize,
    table: Option<Table>,
    lo: Option<Vec<u8>>,
    prefix: usize,
    /// Changes that could not be placed since the page was last written as a whole.
    unplaced: u64,
}

#[derive(Debug, Default)]
struct Trees {
    page_uses: Vec<PageUse>,
    /// The current use of each page number, and how many have ended.
    current: HashMap<u64, usize>,
    ended_uses: HashMap<u64, usize>,
    uses: HashMap<(u64, usize), usize>,
}

impl Trees {
    fn page_use(&mut self, page: u64) -> usize {
        if let Some(page_use) = self.current.get(&page) {
            return *page_use;
        }
        let n = self.ended_uses.get(&page).copied().unwrap_or(0);
        let page_uses = &mut self.page_uses;
        let page_use = *self.uses.entry((page, n)).or_insert_with(|| {
            page_uses.push(PageUse { joined: page_uses.len(), ..PageUse::default() });
            page_uses.len() - 1
        });
        self.current.insert(page, page_use);
        page_use
    }

    fn end(&mut self, page: u64) {
        if self.current.remove(&page).is_some() {
            *self.ended_uses.entry(page).or_default() += 1;
        }
    }

    fn root(&self, mut page_use: usize) -> usize {
        while self.page_uses[page_use].joined != page_use {
            page_use = self.page_uses[page_use].joined;
        }
        page_use
    }

    /// Records that two pages belong to the same tree.
    fn join(&mut self, page: u64, other: u64) {
        let (one, two) = (self.page_use(page), self.page_use(other));
        let (one, two) = (self.root(one), self.root(two));
        if one == two {
            return;
        }
        match (self.page_uses[one].table, self.page_uses[two].table) {
            (Some(a), Some(b)) if a != b => {} // the message that freed one of the pages was lost
            (None, _) => self.page_uses[one].joined = two,
            _ => self.page_uses[two].joined = one,
        }
    }

    fn assign_table(&mut self, page: u64, table: Table) {
        let page_use = self.page_use(page);
        let root = self.root(page_use);
        self.page_uses[root].table.get_or_insert(table);
    }

    fn table(&mut self, page: u64) -> Option<Table> {
        let page_use = self.page_use(page);
        self.page_uses[self.root(page_use)].table
    }

    /// First pass: finds the pages and their trees.
    fn observe(&mut self, message: &Message, body: &[u8]) {
        match message.kind {
            Kind::Meta => {
                for (name, root) in roots(body).unwrap_or_default() {
                    if let Some(table) = Table::ALL.into_iter().find(|t| t.name().as_bytes() == name) {
                        self.assign_table(root, table);
                    }
                }
            }
            Kind::Free => self.end(message.page),
            Kind::Node => {
                let Some(node) = Node::read(body) else { return };
                if let Some(next) = node.next {
                    self.join(message.page, next);
                }
                match &node.data {
                    Data::Index(below) => below.iter().for_each(|page| self.join(message.page, *page)),
                    Data::Leaf(values) => {
                        let prefix = node.prefix.len();
                        let by_record = node.keys.iter().zip(values).find_map(|(k, v)| table_of(prefix + k.len(), v));
                        by_record.into_iter().for_each(|table| self.assign_table(message.page, table));
                    }
                }
            }
            Kind::Link => {
                let Some(Link::Set(key, value)) = Link::read(body) else { return };
                if let Some(table) = table_of(key.len(), value).or_else(|| table_by_kind(value)) {
                    self.assign_table(message.page, table);
                }
            }
            _ => {}
        }
    }

    /// Before the second pass, in which the same uses follow in the same order.
    fn restart(&mut self) {
        self.current.clear();
        self.ended_uses.clear();
    }
}

/// Second pass: applies one message.
struct Replay<'a> {
    tables: &'a mut [BTreeMap<Vec<u8>, Row>; Table::ALL.len()],
    trees: &'a mut Trees,
    lsn: u64,
    /// Offset of the body in the file.
    offset: u64,
    body: &'a [u8],
}

impl Replay<'_> {
    fn apply(&mut self, message: &Message, body: &[u8]) {
        let page_use = self.trees.page_use(message.page);
        let placed = match message.kind {
            Kind::Free => {
                self.trees.page_uses[page_use].unplaced = 0; // its rows were written to other pages before
                self.trees.end(message.page);
                true
            }
            Kind::Node => Node::read(body).is_none_or(|node| self.node(message.page, &node)),
            Kind::Link => match Link::read(body) {
                Some(Link::Set(key, value)) => self.change(message.page, key, Some(value)),
                Some(Link::Del(key)) => self.change(message.page, key, None),
                _ => true,
            },
            _ => true,
        };
        self.trees.page_uses[page_use].unplaced += u64::from(!placed);
    }

    fn location(&self, value: &[u8]) -> (u64, u32) {
        let at = value.as_ptr() as usize - self.body.as_ptr() as usize;
        (self.offset + at as u64, value.len() as u32)
    }

    fn node(&mut self, page: u64, node: &Node<'_>) -> bool {
        let page_use = self.trees.page_use(page);
        self.trees.page_uses[page_use].lo = Some(node.lo.to_vec());
        self.trees.page_uses[page_use].prefix = node.prefix.len();
        self.trees.page_uses[page_use].unplaced = 0;
        let Data::Leaf(values) = &node.data else { return true };
        let keys: Vec<Vec<u8>> = node.keys.iter().map(|key| [node.prefix, key].concat()).collect();
        let by_record = keys.iter().zip(values).find_map(|(key, value)| table_of(key.len(), value));
        let Some(table) = by_record.or_else(|| self.trees.table(page)) else { return values.is_empty() };
        let to = if node.hi.is_empty() { Bound::Unbounded } else { Bound::Excluded(node.hi.to_vec()) };
        for (_, row) in self.tables[table as usize].range_mut((Bound::Included(node.lo.to_vec()), to)) {
            *row = Row { lsn: self.lsn, value: None };
        }
        for (key, value) in keys.into_iter().zip(values) {
            let row = Row { lsn: self.lsn, value: Some(self.location(value)) };
            self.tables[table as usize].insert(key, row);
        }
        true
    }

    fn change(&mut self, page: u64, key: &[u8], value: Option<&[u8]>) -> bool {
        let page_use = self.trees.page_use(page);
        let by_record = value.and_then(table_by_kind);
        let Some(table) = by_record.or_else(|| self.trees.table(page)) else { return false };
        let PageUse { lo, prefix, .. } = &self.trees.page_uses[page_use];
        // a lost write of the page may have changed its prefix, but never its lower bound
        let missing = key_length(table).map_or(Some(*prefix), |length| length.checked_sub(key.len()));
        let prefix = match (lo, missing) {
            (_, Some(0)) => &[][..],
            (Some(lo), Some(missing)) if missing <= lo.len() => &lo[..missing],
            _ => return false,
        };
        let row = Row { lsn: self.lsn, value: value.map(|value| self.location(value)) };
        self.tables[table as usize].insert([prefix, key].concat(), row);
        true
    }
}

/// The table of a row, by the record that begins in its value; `None` if there is none or the key has another length.
fn table_of(key_bytes: usize, value: &[u8]) -> Option<Table> {
    table_by_kind(value).filter(|table| key_length(*table).is_none_or(|length| length == key_bytes))
}

fn table_by_kind(value: &[u8]) -> Option<Table> {
    let length = codec::sealed_length(value).ok()?;
    let whole = length == value.len() || (length > ROW_MAX && value.len() == ROW_MAX);
    Some(match codec::kind_of(value).filter(|_| whole)? {
        codec::Kind::Page => Table::Pages,
        codec::Kind::History => Table::History,
        codec::Kind::Settled => Table::Settled,
        codec::Kind::Delivery => Table::Delay,
        codec::Kind::DeadLetter => Table::Dlq,
        codec::Kind::Audit => Table::Audit,
        codec::Kind::DamagedRecord => Table::Damaged,
        codec::Kind::Outage => Table::Outages,
        codec::Kind::QuarantinedRequest => Table::QuarantinedRequest,
        codec::Kind::Totals | codec::Kind::Names | codec::Kind::Hold => Table::Meta,
        codec::Kind::IntakeOverride | codec::Kind::Heartbeat | codec::Kind::DestinationOverrides => Table::Meta,
        codec::Kind::Redrive | codec::Kind::RedriveList | codec::Kind::AlertState => Table::Meta,
        codec::Kind::PacingState | codec::Kind::ClockReference => Table::Meta,
    })
}

/// Length of the keys of a table in bytes; `None` if it varies.
fn key_length(table: Table) -> Option<usize> {
    match table {
        Table::History | Table::Settled => Some(8),
        Table::Pages | Table::Audit | Table::Damaged | Table::Outages | Table::QuarantinedRequest => Some(10),
        Table::Dlq => Some(11),
        Table::Delay => Some(19),
        Table::Meta => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: u64 = 3;
    const LEAF: u64 = 5;

    /// A number as sled writes it, in its longest form.
    fn number(n: u64) -> Vec<u8> {
        [&[255][..], &n.to_le_bytes()].concat()
    }

    fn string(bytes: &[u8]) -> Vec<u8> {
        [&number(bytes.len() as u64), bytes].concat()
    }

    fn meta(table: Table) -> (Kind, u64, Vec<u8>) {
        (Kind::Meta, 0, [string(table.name().as_bytes()), number(ROOT)].concat())
    }

    fn node(page: u64, kind: u8, keys: &[&[u8]], data: Vec<Vec<u8>>) -> (Kind, u64, Vec<u8>) {
        let head = [number(0), number(0), vec![0, 0], string(b""), string(b""), vec![kind]].concat();
        let keys = keys.iter().map(|key| string(key)).collect::<Vec<_>>();
        (Kind::Node, page, [head, number(keys.len() as u64), keys.concat(), data.concat()].concat())
    }

    /// A whole page of rows.
    fn leaf(rows: &[(&[u8], &[u8])]) -> (Kind, u64, Vec<u8>) {
        let keys: Vec<&[u8]> = rows.iter().map(|(key, _)| *key).collect();
        node(LEAF, 0, &keys, rows.iter().map(|(_, value)| string(value)).collect())
    }

    /// The parent of [`LEAF`], at a root.
    fn parent_page() -> (Kind, u64, Vec<u8>) {
        node(ROOT, 1, &[b""], vec![number(LEAF)])
    }

    fn set(key: &[u8], value: &[u8]) -> (Kind, u64, Vec<u8>) {
        (Kind::Link, LEAF, [vec![0], string(key), string(value)].concat())
    }

    fn deleted(key: &[u8]) -> (Kind, u64, Vec<u8>) {
        (Kind::Link, LEAF, [vec![1], string(key)].concat())
    }

    /// The rows in these messages (table, key, whether the row exists), and the number of unplaced changes.
    fn found(messages: &[(Kind, u64, Vec<u8>)]) -> (Vec<(Table, Vec<u8>, bool)>, u64) {
        let (mut trees, mut tables) = (Trees::default(), <[BTreeMap<_, _>; Table::ALL.len()]>::default());
        let message = |kind, page, body: &[u8]| Message { kind, segment: 0, page, at: 0, body: 0..body.len() };
        for (kind, page, body) in messages {
            trees.observe(&message(*kind, *page, body), body);
        }
        trees.restart();
        for (lsn, (kind, page, body)) in (0..).zip(messages) {
            let mut replay = Replay { tables: &mut tables, trees: &mut trees, lsn, offset: 0, body };
            replay.apply(&message(*kind, *page, body), body);
        }
        let of = |table: Table| tables[table as usize].iter().map(move |(key, row)| (table, key.clone(), row.exists()));
        (Table::ALL.into_iter().flat_map(of).collect(), trees.page_uses.iter().map(|page_use| page_use.unplaced).sum())
    }

    fn settled() -> Vec<u8> {
        codec::encode(codec::Kind::Settled, &7u64)
    }

    const ONE: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 1];
    const TWO: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 2];

    fn is(key: &[u8], exists: bool) -> (Table, Vec<u8>, bool) {
        (Table::Settled, key.to_vec(), exists)
    }

    #[test]
    fn a_page_gets_its_table_from_records_changes_or_root() {
        let both = vec![is(ONE, true), is(TWO, false)];
        assert_eq!(found(&[leaf(&[(ONE, &settled())]), deleted(TWO)]), (both.clone(), 0), "its records");
        assert_eq!(found(&[deleted(TWO), set(ONE, &settled())]), (both, 0), "a later change");
        assert_eq!(found(&[meta(Table::Settled), parent_page(), deleted(TWO)]), (vec![is(TWO, false)], 0), "the root");
        assert_eq!(found(&[parent_page(), deleted(TWO)]), (vec![], 1), "no indication");
    }

    #[test]
    fn a_whole_page_decides_every_row_in_its_range() {
        let rows = [leaf(&[(ONE, &settled()), (TWO, &settled())]), leaf(&[(TWO, &settled())])];
        assert_eq!(found(&rows), (vec![is(ONE, false), is(TWO, true)], 0));
    }

    #[test]
    fn a_page_whose_free_record_was_lost_keeps_its_table() {
        let messages = [meta(Table::Dlq), leaf(&[(ONE, &settled())]), parent_page(), deleted(ONE)];
        assert_eq!(found(&messages), (vec![is(ONE, false)], 0));
    }

    #[test]
    fn changes_to_freed_or_rewritten_pages_need_no_table() {
        let free = (Kind::Free, LEAF, Vec::new());
        assert_eq!(found(&[deleted(ONE)]), (vec![], 1));
        assert_eq!(found(&[deleted(ONE), free.clone()]), (vec![], 0));
        let quarantined = codec::encode(codec::Kind::DamagedRecord, &7u64);
        let key = [ONE, &[0, 0]].concat();
        let other = (Table::Damaged, key.clone(), true);
        assert_eq!(
            found(&[leaf(&[(ONE, &settled())]), free, leaf(&[(&key, &quarantined)])]),
            (vec![is(ONE, true), other], 0),
            "the next use of the page belongs to another table and says nothing about its earlier rows"
        );
    }

    #[test]
    fn the_first_part_of_a_long_record_names_its_table() {
        let long = codec::encode(codec::Kind::DeadLetter, &vec![7u8; ROW_MAX]);
        assert_eq!(table_by_kind(&long[..ROW_MAX]), Some(Table::Dlq));
        assert_eq!(table_by_kind(&long[..ROW_MAX - 1]), None);
        let short = settled();
        assert_eq!(table_by_kind(&short), Some(Table::Settled));
        assert_eq!(table_by_kind(&short[..short.len() - 1]), None);
        assert_eq!(table_by_kind(&[&short[..], &vec![0; ROW_MAX - short.len()]].concat()), None);
    }
}
