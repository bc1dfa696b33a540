//! The rows that a damaged log still holds, without sled: of each row the newest write, or the newest word that it is gone.
//!
//! A whole page that verifies says of its range of keys which rows there were when it was written, and which were not; a
//! change says it of one row. So the messages are taken in the order in which they were written, and what lies in a hole is
//! simply not heard. Which tree a page belongs to is said by the roots, by the pages above and beside it, and by the
//! records in it.
//!
//! *Invariants.* No value is taken from bytes whose message does not verify. A batch that was not written to its end, at
//! the end of the log, is not taken: it was never acknowledged.

use crate::store::engine::error::StoreError;
use crate::store::model::codec;
use crate::store::model::table::{ROW_MAX, Rows, Table};
use crate::store::sled_log::Log;
use crate::store::sled_log::message::{Kind, Message};
use crate::store::sled_log::node::{Data, Link, Node, roots};
use crate::store::sled_log::segment::SEGMENT_BYTES;
use crate::store::sled_log::segment::walk;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The newest that is known of a row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Where in the order of writes this was said.
    pub lsn: u64,
    /// Offset and length in the file; none where the row is gone.
    value: Option<(u64, u32)>,
}

impl Row {
    pub fn is_there(&self) -> bool {
        self.value.is_some()
    }
}

/// All that could be read.
#[derive(Debug)]
pub struct Found {
    log: Log,
    tables: [BTreeMap<Vec<u8>, Row>; Table::ALL.len()],
    /// Ranges of bytes of `db` that do not verify, in words.
    pub holes: Vec<String>,
    /// Changes of rows whose place could not be told, and that no later word covers.
    pub unplaced: u64,
}

impl Found {
    pub fn read(queue: &Path) -> io::Result<Self> {
        let log = Log::open(queue)?.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no `db` in it"))?;
        let mut found = Self { log, tables: Default::default(), holes: Vec::new(), unplaced: 0 };
        let until = found.holes_and_end()?;
        let mut trees = Trees::default();
        found.visit(until, |_, _, message, body| trees.learn(message, body))?;
        trees.forget_places();
        let mut tables = std::mem::take(&mut found.tables);
        found.visit(until, |lsn, offset, message, body| {
            Replay { tables: &mut tables, trees: &mut trees, lsn, offset, base: body }.take(message, body);
        })?;
        found.tables = tables;
        found.unplaced = trees.lives.iter().map(|life| life.unplaced).sum();
        Ok(found)
    }

    /// All rows of a table of which something is known, in the order of their keys.
    pub fn rows(&self, table: Table) -> impl Iterator<Item = (&[u8], &Row)> {
        self.tables[table as usize].iter().map(|(key, row)| (key.as_slice(), row))
    }

    /// Keys of long records of a table, as they are without the number of the part, with what is known of the first part.
    pub fn keys(&self, table: Table) -> impl Iterator<Item = (&[u8], &Row)> {
        self.rows(table).filter_map(|(key, row)| Some((key.strip_suffix(&[0, 0])?, row)))
    }

    pub fn known(&self, table: Table, key: &[u8]) -> Option<&Row> {
        self.tables[table as usize].get(key)
    }

    /// Where the log ends, without a batch that was not written to its end; notes what does not verify.
    fn holes_and_end(&mut self) -> io::Result<u64> {
        let (mut end, mut batch, mut bytes) = (0, None, Vec::new());
        for slot in self.log.slots.clone() {
            self.log.read(slot.offset, &mut bytes)?;
            let walk = walk(&bytes, slot.number);
            let base = slot.number * SEGMENT_BYTES as u64;
            for hole in &walk.holes {
                let (from, to) = (slot.offset + hole.start as u64, slot.offset + hole.end as u64);
                self.holes.push(format!("bytes {from} to {to} of db"));
            }
            if slot.header.is_none() {
                self.holes.push(format!("the head of the segment at byte {} of db", slot.offset));
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
            self.holes.push(format!("bytes {offset} to {} of db", offset + SEGMENT_BYTES as u64));
        }
        Ok(batch.filter(|(_, last)| *last >= end).map_or(u64::MAX, |(begin, _)| begin))
    }

    fn visit(&self, until: u64, mut each: impl FnMut(u64, u64, &Message, &[u8])) -> io::Result<()> {
        let mut bytes = Vec::new();
        for slot in &self.log.slots {
            self.log.read(slot.offset, &mut bytes)?;
            for message in &walk(&bytes, slot.number).messages {
                let lsn = slot.number * SEGMENT_BYTES as u64 + message.at as u64;
                if lsn < until {
                    let offset = slot.offset + message.body.start as u64;
                    each(lsn, offset, message, &bytes[message.body.clone()]);
                }
            }
        }
        Ok(())
    }
}

impl Rows for Found {
    type Error = StoreError;
    fn row(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let Some((offset, length)) = self.known(table, key).and_then(|row| row.value) else { return Ok(None) };
        let mut value = vec![0; length as usize];
        self.log.file.read_exact_at(&mut value, offset).map_err(|e| StoreError::Engine(e.to_string()))?;
        Ok(Some(value))
    }
}

/// A page from its first whole write to the word that it is free.
#[derive(Debug, Default)]
struct Life {
    /// Another life of the same tree; itself at the end of the chain.
    same: usize,
    table: Option<Table>,
    lo: Option<Vec<u8>>,
    prefix: usize,
    /// Changes that could not be placed since it was last written as a whole.
    unplaced: u64,
}

#[derive(Debug, Default)]
struct Trees {
    lives: Vec<Life>,
    /// The life that a page has now, and how many it has had.
    now: HashMap<u64, usize>,
    had: HashMap<u64, usize>,
    known: HashMap<(u64, usize), usize>,
}

impl Trees {
    fn life(&mut self, page: u64) -> usize {
        if let Some(life) = self.now.get(&page) {
            return *life;
        }
        let n = self.had.get(&page).copied().unwrap_or(0);
        let lives = &mut self.lives;
        let life = *self.known.entry((page, n)).or_insert_with(|| {
            lives.push(Life { same: lives.len(), ..Life::default() });
            lives.len() - 1
        });
        self.now.insert(page, life);
        life
    }

    fn end(&mut self, page: u64) {
        if self.now.remove(&page).is_some() {
            *self.had.entry(page).or_default() += 1;
        }
    }

    fn root(&self, mut life: usize) -> usize {
        while self.lives[life].same != life {
            life = self.lives[life].same;
        }
        life
    }

    /// Two pages are of the same tree.
    fn join(&mut self, page: u64, other: u64) {
        let (one, two) = (self.life(page), self.life(other));
        let (one, two) = (self.root(one), self.root(two));
        if one == two {
            return;
        }
        match (self.lives[one].table, self.lives[two].table) {
            (Some(a), Some(b)) if a != b => {} // the word that a page became free was lost
            (None, _) => self.lives[one].same = two,
            _ => self.lives[two].same = one,
        }
    }

    fn is_of(&mut self, page: u64, table: Table) {
        let life = self.life(page);
        let root = self.root(life);
        self.lives[root].table.get_or_insert(table);
    }

    fn table(&mut self, page: u64) -> Option<Table> {
        let life = self.life(page);
        self.lives[self.root(life)].table
    }

    /// First pass: which pages there are, and of which trees.
    fn learn(&mut self, message: &Message, body: &[u8]) {
        match message.kind {
            Kind::Meta => {
                for (name, root) in roots(body).unwrap_or_default() {
                    if let Some(table) = Table::ALL.into_iter().find(|t| t.name().as_bytes() == name) {
                        self.is_of(root, table);
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
                        let said = node.keys.iter().zip(values).find_map(|(k, v)| table_of(prefix + k.len(), v));
                        said.into_iter().for_each(|table| self.is_of(message.page, table));
                    }
                }
            }
            Kind::Link => {
                let Some(Link::Set(key, value)) = Link::read(body) else { return };
                if let Some(table) = table_of(key.len(), value).or_else(|| table_by_kind(value)) {
                    self.is_of(message.page, table);
                }
            }
            _ => {}
        }
    }

    /// Before the second pass: the same lives come again, in the same order.
    fn forget_places(&mut self) {
        self.now.clear();
        self.had.clear();
    }
}

/// Second pass, one message of it.
struct Replay<'a> {
    tables: &'a mut [BTreeMap<Vec<u8>, Row>; Table::ALL.len()],
    trees: &'a mut Trees,
    lsn: u64,
    /// Where the body lies in the file.
    offset: u64,
    base: &'a [u8],
}

impl Replay<'_> {
    fn take(&mut self, message: &Message, body: &[u8]) {
        let life = self.trees.life(message.page);
        let placed = match message.kind {
            Kind::Free => {
                self.trees.lives[life].unplaced = 0; // its rows were written elsewhere before
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
        self.trees.lives[life].unplaced += u64::from(!placed);
    }

    fn place(&self, value: &[u8]) -> (u64, u32) {
        let at = value.as_ptr() as usize - self.base.as_ptr() as usize;
        (self.offset + at as u64, value.len() as u32)
    }

    fn node(&mut self, page: u64, node: &Node<'_>) -> bool {
        let life = self.trees.life(page);
        self.trees.lives[life].lo = Some(node.lo.to_vec());
        self.trees.lives[life].prefix = node.prefix.len();
        self.trees.lives[life].unplaced = 0;
        let Data::Leaf(values) = &node.data else { return true };
        let keys: Vec<Vec<u8>> = node.keys.iter().map(|key| [node.prefix, key].concat()).collect();
        let said = keys.iter().zip(values).find_map(|(key, value)| table_of(key.len(), value));
        let Some(table) = said.or_else(|| self.trees.table(page)) else { return values.is_empty() };
        let to = if node.hi.is_empty() { Bound::Unbounded } else { Bound::Excluded(node.hi.to_vec()) };
        for (_, row) in self.tables[table as usize].range_mut((Bound::Included(node.lo.to_vec()), to)) {
            *row = Row { lsn: self.lsn, value: None };
        }
        for (key, value) in keys.into_iter().zip(values) {
            let row = Row { lsn: self.lsn, value: Some(self.place(value)) };
            self.tables[table as usize].insert(key, row);
        }
        true
    }

    fn change(&mut self, page: u64, key: &[u8], value: Option<&[u8]>) -> bool {
        let life = self.trees.life(page);
        let by_kind = value.and_then(table_by_kind);
        let Some(table) = by_kind.or_else(|| self.trees.table(page)) else { return false };
        let Life { lo, prefix, .. } = &self.trees.lives[life];
        // a whole write that was lost may have changed the prefix, and never the place at which the page begins
        let missing = key_length(table).map_or(Some(*prefix), |length| length.checked_sub(key.len()));
        let prefix = match (lo, missing) {
            (_, Some(0)) => &[][..],
            (Some(lo), Some(missing)) if missing <= lo.len() => &lo[..missing],
            _ => return false,
        };
        let row = Row { lsn: self.lsn, value: value.map(|value| self.place(value)) };
        self.tables[table as usize].insert([prefix, key].concat(), row);
        true
    }
}

/// The table of a row, by the record of which it is the beginning; none where it is none, or where the key does not fit.
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
        codec::Kind::Gap => Table::Gaps,
        codec::Kind::QuarantinedRequest => Table::QuarantinedRequest,
        codec::Kind::Totals | codec::Kind::Names | codec::Kind::Hold => Table::Meta,
        codec::Kind::IntakeOverride | codec::Kind::Alive | codec::Kind::DestinationOverrides => Table::Meta,
        codec::Kind::Redrive | codec::Kind::RedriveList | codec::Kind::Told => Table::Meta,
        codec::Kind::PacingState | codec::Kind::ClockReference => Table::Meta,
    })
}

/// Bytes of a row's key; none where they differ.
fn key_length(table: Table) -> Option<usize> {
    match table {
        Table::History | Table::Settled => Some(8),
        Table::Pages | Table::Audit | Table::Damaged | Table::Gaps | Table::QuarantinedRequest => Some(10),
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

    /// A page above [`LEAF`], at a root.
    fn above() -> (Kind, u64, Vec<u8>) {
        node(ROOT, 1, &[b""], vec![number(LEAF)])
    }

    fn set(key: &[u8], value: &[u8]) -> (Kind, u64, Vec<u8>) {
        (Kind::Link, LEAF, [vec![0], string(key), string(value)].concat())
    }

    fn gone(key: &[u8]) -> (Kind, u64, Vec<u8>) {
        (Kind::Link, LEAF, [vec![1], string(key)].concat())
    }

    /// What is found in these messages: the keys that are there or gone, of each table, and changes without a place.
    fn found(messages: &[(Kind, u64, Vec<u8>)]) -> (Vec<(Table, Vec<u8>, bool)>, u64) {
        let (mut trees, mut tables) = (Trees::default(), <[BTreeMap<_, _>; Table::ALL.len()]>::default());
        let message = |kind, page, body: &[u8]| Message { kind, segment: 0, page, at: 0, body: 0..body.len() };
        for (kind, page, body) in messages {
            trees.learn(&message(*kind, *page, body), body);
        }
        trees.forget_places();
        for (lsn, (kind, page, body)) in (0..).zip(messages) {
            let mut replay = Replay { tables: &mut tables, trees: &mut trees, lsn, offset: 0, base: body };
            replay.take(&message(*kind, *page, body), body);
        }
        let of =
            |table: Table| tables[table as usize].iter().map(move |(key, row)| (table, key.clone(), row.is_there()));
        (Table::ALL.into_iter().flat_map(of).collect(), trees.lives.iter().map(|life| life.unplaced).sum())
    }

    fn settled() -> Vec<u8> {
        codec::encode(codec::Kind::Settled, &7u64)
    }

    const ONE: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 1];
    const TWO: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 2];

    fn is(key: &[u8], there: bool) -> (Table, Vec<u8>, bool) {
        (Table::Settled, key.to_vec(), there)
    }

    #[test]
    fn a_page_gets_its_table_from_records_changes_or_root() {
        let both = vec![is(ONE, true), is(TWO, false)];
        assert_eq!(found(&[leaf(&[(ONE, &settled())]), gone(TWO)]), (both.clone(), 0), "its records");
        assert_eq!(found(&[gone(TWO), set(ONE, &settled())]), (both, 0), "a change, though it comes later");
        assert_eq!(found(&[meta(Table::Settled), above(), gone(TWO)]), (vec![is(TWO, false)], 0), "the root");
        assert_eq!(found(&[above(), gone(TWO)]), (vec![], 1), "nothing says it");
    }

    #[test]
    fn a_whole_page_decides_every_row_in_its_range() {
        let rows = [leaf(&[(ONE, &settled()), (TWO, &settled())]), leaf(&[(TWO, &settled())])];
        assert_eq!(found(&rows), (vec![is(ONE, false), is(TWO, true)], 0));
    }

    #[test]
    fn a_page_whose_free_record_was_lost_keeps_its_table() {
        let messages = [meta(Table::Dlq), leaf(&[(ONE, &settled())]), above(), gone(ONE)];
        assert_eq!(found(&messages), (vec![is(ONE, false)], 0));
    }

    #[test]
    fn changes_to_freed_or_rewritten_pages_need_no_table() {
        let free = (Kind::Free, LEAF, Vec::new());
        assert_eq!(found(&[gone(ONE)]), (vec![], 1));
        assert_eq!(found(&[gone(ONE), free.clone()]), (vec![], 0));
        let quarantined = codec::encode(codec::Kind::DamagedRecord, &7u64);
        let key = [ONE, &[0, 0]].concat();
        let other = (Table::Damaged, key.clone(), true);
        assert_eq!(
            found(&[leaf(&[(ONE, &settled())]), free, leaf(&[(&key, &quarantined)])]),
            (vec![is(ONE, true), other], 0),
            "in its next life it is another's, and says nothing of what it held in its last one"
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
