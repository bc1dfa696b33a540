//! The index of pages, in memory: which deliveries each page still contains.
//!
//! *Invariants.* A page is in the index until its last delivery has left it. A page that no delivery has left takes constant
//! memory, so the memory for a backlog depends on the number of pages, not of events.

use super::shares::{Shares, SourceBytes, parts};
use crate::delivery::DeliveryId;
use crate::event::{DestinationSet, Sequence};
use crate::store::model::record::PageShape;
use crate::time::Timestamp;
use std::collections::BTreeMap;

#[derive(Debug)]
struct Page {
    shape: PageShape,
    received_at: Timestamp,
    left: Left,
    /// Bytes that each remaining delivery may take elsewhere if it fails.
    copy_bytes: u32,
    /// Bytes of the page by source.
    parts: Box<[SourceBytes]>,
    /// The source of each event; empty if there is only one source.
    owners: Box<[u16]>,
}

impl Page {
    /// The destinations for which event `n` is still in the page.
    fn set(&self, n: usize) -> DestinationSet {
        match &self.left {
            Left::All(set) => *set,
            Left::Some(sets) => sets[n],
        }
    }

    /// The source of event `n`; `None` until [`Pages::attribute`] has set it.
    fn owner(&self, n: usize) -> Option<u16> {
        self.owners.get(n).copied().or_else(|| self.parts.first().map(|part| part.source))
    }
}

/// The remaining deliveries of each event of a page.
#[derive(Debug)]
enum Left {
    /// All events have the same destinations, and no delivery has left.
    All(DestinationSet),
    Some(Box<[DestinationSet]>),
}

/// Result of removing a delivery.
#[derive(Debug, PartialEq, Eq)]
pub enum Departure {
    /// It was not in a page.
    NotHere,
    /// Other deliveries are still in its page.
    Stays,
    /// It was the last one of its page, which can be deleted.
    Emptied { first: Sequence, bytes: usize },
}

#[derive(Debug, Default)]
pub struct Pages {
    pages: BTreeMap<Sequence, Page>,
    bytes: u64,
    /// Events with at least one remaining delivery.
    live_events: u64,
    /// Bytes that all remaining deliveries may take elsewhere if they fail.
    growth: u64,
    shares: Shares,
}

impl Pages {
    /// Sets the source and the body length of each event of a page that no delivery has left.
    pub fn attribute(&mut self, first: Sequence, events: &[(u16, u32)]) {
        let Some(page) = self.pages.get_mut(&first) else { return };
        debug_assert_eq!(events.len(), usize::from(page.shape.count));
        page.parts = parts(page.shape.bytes, events.iter().copied());
        page.parts.iter().for_each(|part| self.shares.add(*part));
        if page.parts.len() > 1 {
            page.owners = events.iter().map(|(source, _)| *source).collect();
        }
        for (n, (source, _)) in events.iter().enumerate() {
            self.shares.grow(*source, page.set(n).count() * u64::from(page.copy_bytes));
        }
    }

    /// Bytes of all pages, by source.
    pub fn shares(&self) -> &Shares {
        &self.shares
    }

    /// Adds a page; `to` contains the destinations of each event, and each delivery may take `copy_bytes` elsewhere after it
    /// has failed. A page whose events have no destination is not added.
    pub fn insert(
        &mut self,
        first: Sequence,
        shape: PageShape,
        received_at: Timestamp,
        to: &[DestinationSet],
        copy_bytes: u32,
    ) -> bool {
        debug_assert_eq!(to.len(), usize::from(shape.count));
        let live = to.iter().filter(|set| !set.is_empty()).count();
        let Some(set) = to.first().filter(|_| live > 0) else { return false };
        let left = if to.iter().all(|s| s == set) { Left::All(*set) } else { Left::Some(to.into()) };
        self.live_events += live as u64;
        self.bytes += u64::from(shape.bytes);
        self.growth += u64::from(copy_bytes) * to.iter().map(|set| set.count()).sum::<u64>();
        self.pages.insert(
            first,
            Page { shape, received_at, left, copy_bytes, parts: Box::default(), owners: Box::default() },
        );
        true
    }

    /// Removes a delivery from its page.
    pub fn leave(&mut self, id: DeliveryId) -> Departure {
        let Some((first, page)) = self.pages.range_mut(..=id.sequence).next_back() else { return Departure::NotHere };
        let (first, n) = (*first, (id.sequence.0 - first.0) as usize);
        if n >= usize::from(page.shape.count) {
            return Departure::NotHere;
        }
        if let Left::All(set) = page.left {
            page.left = Left::Some(vec![set; usize::from(page.shape.count)].into());
        }
        let owner = page.owner(n);
        let Left::Some(sets) = &mut page.left else { return Departure::NotHere };
        if !sets[n].has(id.destination) {
            return Departure::NotHere;
        }
        sets[n] = sets[n].without(id.destination);
        self.growth -= u64::from(page.copy_bytes);
        if let Some(source) = owner {
            self.shares.shrink(source, u64::from(page.copy_bytes));
        }
        if !sets[n].is_empty() {
            return Departure::Stays;
        }
        self.live_events -= 1;
        if sets.iter().any(|set| !set.is_empty()) {
            return Departure::Stays;
        }
        let bytes = page.shape.bytes;
        self.bytes -= u64::from(bytes);
        let gone = self.pages.remove(&first);
        gone.iter().flat_map(|page| &page.parts).for_each(|part| self.shares.remove(*part));
        Departure::Emptied { first, bytes: bytes as usize }
    }

    /// The destinations for which this event is still in a page.
    pub fn left(&self, sequence: Sequence) -> DestinationSet {
        let Some((first, page)) = self.pages.range(..=sequence).next_back() else { return DestinationSet::EMPTY };
        let n = (sequence.0 - first.0) as usize;
        if n >= usize::from(page.shape.count) {
            return DestinationSet::EMPTY;
        }
        page.set(n)
    }

    /// First sequence of the page that contains this event; `None` if the page is not in the index.
    pub fn page_of(&self, sequence: Sequence) -> Option<Sequence> {
        let (first, page) = self.pages.range(..=sequence).next_back()?;
        (sequence.0 - first.0 < u64::from(page.shape.count)).then_some(*first)
    }

    /// Calls `tell` with the remaining deliveries of up to `pages` pages from `from` on, in order: first sequence,
    /// destinations, and the number of consecutive events with these destinations. Returns the first sequence of the next
    /// page.
    pub fn visit(
        &self,
        from: Sequence,
        pages: usize,
        mut tell: impl FnMut(Sequence, DestinationSet, u64),
    ) -> Option<Sequence> {
        let mut all = self.pages.range(from..);
        for (first, page) in all.by_ref().take(pages) {
            match &page.left {
                Left::All(set) => tell(*first, *set, u64::from(page.shape.count)),
                Left::Some(sets) => (first.0..).zip(sets).for_each(|(n, set)| tell(Sequence(n), *set, 1)),
            }
        }
        all.next().map(|(first, _)| *first)
    }

    /// The oldest page: first sequence, number of events, and time of receipt.
    pub fn oldest(&self) -> Option<(Sequence, u16, Timestamp)> {
        self.pages.first_key_value().map(|(first, p)| (*first, p.shape.count, p.received_at))
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that all remaining deliveries may take elsewhere if they fail.
    pub fn growth(&self) -> u64 {
        self.growth
    }

    /// Bytes that a delivery of this event may take elsewhere if it fails; `None` if its page is not in the index.
    pub fn grows_by(&self, sequence: Sequence) -> Option<u64> {
        let (first, page) = self.pages.range(..=sequence).next_back()?;
        (sequence.0 - first.0 < u64::from(page.shape.count)).then_some(u64::from(page.copy_bytes))
    }

    pub fn live_events(&self) -> u64 {
        self.live_events
    }

    /// First sequence and shape of every page, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Sequence, PageShape)> {
        self.pages.iter().map(|(first, page)| (*first, page.shape))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::DestinationId;
    use crate::store::index::shares::SourceUsage;

    fn id(sequence: u64, destination: u8) -> DeliveryId {
        DeliveryId { sequence: Sequence(sequence), destination: DestinationId(destination) }
    }

    #[test]
    fn a_page_is_removed_with_its_last_delivery() {
        let mut pages = Pages::default();
        let both = DestinationSet(0b11);
        let shape = PageShape { count: 2, bytes: 500 };
        assert!(pages.insert(Sequence(10), shape, Timestamp(1), &[both, both], 30));
        assert_eq!((pages.bytes(), pages.live_events(), pages.growth()), (500, 2, 120));
        assert_eq!([9, 10, 11, 12].map(|n| pages.grows_by(Sequence(n))), [None, Some(30), Some(30), None]);
        assert_eq!(pages.leave(id(9, 0)), Departure::NotHere);
        assert_eq!(pages.leave(id(12, 0)), Departure::NotHere);
        assert_eq!(pages.leave(id(10, 2)), Departure::NotHere);
        assert_eq!(pages.leave(id(10, 0)), Departure::Stays);
        assert_eq!(pages.leave(id(10, 0)), Departure::NotHere, "twice is once");
        assert_eq!((pages.left(Sequence(10)), pages.growth()), (DestinationSet(0b10), 90));
        assert_eq!(pages.leave(id(10, 1)), Departure::Stays);
        assert_eq!(pages.leave(id(11, 1)), Departure::Stays);
        assert_eq!(pages.leave(id(11, 0)), Departure::Emptied { first: Sequence(10), bytes: 500 });
        assert!(pages.oldest().is_none());
        assert_eq!((pages.bytes(), pages.live_events(), pages.growth()), (0, 0, 0));
    }

    #[test]
    fn page_bytes_are_accounted_by_source() {
        let mut pages = Pages::default();
        let shape = PageShape { count: 3, bytes: 900 };
        let (one, both) = (DestinationSet(1), DestinationSet(0b11));
        let held = |queue_bytes, growth_bytes| SourceUsage { queue_bytes, growth_bytes, dead_bytes: 0 };
        assert!(pages.insert(Sequence(10), shape, Timestamp(1), &[one, both, one], 30));
        pages.attribute(Sequence(10), &[(7, 0), (8, 0), (7, 0)]);
        assert!(pages.insert(Sequence(20), shape, Timestamp(1), &[both; 3], 100));
        pages.attribute(Sequence(20), &[(9, 1); 3]);
        pages.attribute(Sequence(30), &[(9, 1); 3]);
        let told = |pages: &Pages| {
            let all = pages.shares().iter().collect::<Vec<_>>();
            let sum = |of: fn(&SourceUsage) -> u64| all.iter().map(|(_, held)| of(held)).sum::<u64>();
            assert_eq!((sum(|h| h.queue_bytes), sum(|h| h.growth_bytes)), (pages.bytes(), pages.growth()));
            all
        };
        assert_eq!(told(&pages), [(7, held(600, 60)), (8, held(300, 60)), (9, held(900, 600))]);
        for gone in [id(10, 0), id(12, 0), id(11, 1), id(11, 1), id(20, 0)] {
            pages.leave(gone);
        }
        assert_eq!(told(&pages), [(7, held(600, 0)), (8, held(300, 30)), (9, held(900, 500))]);
        pages.leave(id(11, 0));
        assert_eq!(told(&pages), [(9, held(900, 500))]);
    }

    #[test]
    fn events_without_a_destination_make_no_page() {
        let mut pages = Pages::default();
        let (none, one) = (DestinationSet::EMPTY, DestinationSet(1));
        let shape = PageShape { count: 2, bytes: 5 };
        assert!(!pages.insert(Sequence(1), shape, Timestamp(1), &[none, none], 1));
        assert!(pages.insert(Sequence(3), shape, Timestamp(1), &[none, one], 1));
        assert_eq!(pages.leave(id(4, 0)), Departure::Emptied { first: Sequence(3), bytes: 5 });
    }

    #[test]
    fn an_event_just_behind_a_page_is_not_in_it() {
        let mut pages = Pages::default();
        let shape = PageShape { count: 2, bytes: 5 };
        assert!(pages.insert(Sequence(10), shape, Timestamp(1), &[DestinationSet(1); 2], 1));
        let page_of = [9, 10, 11, 12].map(|n| pages.page_of(Sequence(n)));
        assert_eq!(page_of, [None, Some(Sequence(10)), Some(Sequence(10)), None]);
    }
}
