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
