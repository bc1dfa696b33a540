//! What the bodies of sled's messages hold: whole pages, changes of a page, the roots of trees.
//!
//! *Format.*
//! ```text
//! node  next varint | merging child varint | merging u8 | prefix length u8 | lo string | hi string | 0 leaf, 1 index
//!       | count varint | keys, strings | values, strings (leaf) or pages, varints (index)
//! link  0 | key string | value string;  1 | key string;  2 and more: merges, which move no row
//! meta  (name string | root varint)*
//! ```
//! Keys of a page lack the first `prefix length` bytes of its `lo`. A page covers the keys from `lo` up to `hi`; an empty
//! `hi` is the end of all keys.

use super::message::Reader;

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
    /// The values of its keys.
    Leaf(Vec<&'a [u8]>),
    /// Pages below it.
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
        reader.ended().then_some(Self { next, prefix, lo, hi, keys, data })
    }
}

#[derive(Debug, PartialEq, Eq)]
pub enum Link<'a> {
    Set(&'a [u8], &'a [u8]),
    Del(&'a [u8]),
    /// Part of a merge.
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
    while !reader.ended() {
        roots.push((reader.string()?, reader.number()?));
    }
    Some(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(bytes: &[u8]) -> Vec<u8> {
        [&[bytes.len() as u8][..], bytes].concat()
    }

    /// A page beside page `next` that covers `abc` up to `b`, its keys without their first two bytes.
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
