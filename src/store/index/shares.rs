//! Bytes of the queue by source: pages in proportion to the bodies, delayed deliveries by their size; and the bytes by which
//! deliveries in pages may grow when they fail.
//!
//! *Invariants.* In memory only, and updated with pages and delay tree: what is removed subtracts what it added.

use std::collections::BTreeMap;

/// Estimated size of an event in a page without its body.
const EVENT_BYTES: u64 = 128;

/// Bytes of waiting events and dead letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceUsage {
    pub queue_bytes: u64,
    /// Bytes that deliveries in pages may take elsewhere when they fail.
    pub growth_bytes: u64,
    /// Bytes of dead letters.
    pub dead_bytes: u64,
}

/// Usage by the number of the source.
#[derive(Debug, Default)]
pub struct Shares(BTreeMap<u16, SourceUsage>);

/// Source and size of one stored item.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceBytes {
    pub source: u16,
    pub bytes: u32,
}

impl SourceBytes {
    /// An event with a record of its own.
    pub fn of(source: u16, sealed_bytes: usize) -> Self {
        Self { source, bytes: u32::try_from(sealed_bytes).unwrap_or(u32::MAX) }
    }
}

impl Shares {
    pub fn add(&mut self, part: SourceBytes) {
        if part.bytes > 0 {
            self.0.entry(part.source).or_default().queue_bytes += u64::from(part.bytes);
        }
    }

    pub fn remove(&mut self, part: SourceBytes) {
        self.less(part.source, |held| held.queue_bytes = held.queue_bytes.saturating_sub(u64::from(part.bytes)));
    }

    /// Adds to the bytes by which deliveries may grow.
    pub fn grow(&mut self, source: u16, bytes: u64) {
        if bytes > 0 {
            self.0.entry(source).or_default().growth_bytes += bytes;
        }
    }

    /// Subtracts from the bytes by which deliveries may grow.
    pub fn shrink(&mut self, source: u16, bytes: u64) {
        self.less(source, |held| held.growth_bytes = held.growth_bytes.saturating_sub(bytes));
    }

    fn less(&mut self, source: u16, change: impl FnOnce(&mut SourceUsage)) {
        if let Some(held) = self.0.get_mut(&source) {
            change(held);
            if *held == SourceUsage::default() {
                self.0.remove(&source);
            }
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (u16, SourceUsage)> {
        self.0.iter().map(|(source, held)| (*source, *held))
    }
}

/// Divides the bytes of a page among its sources, by source and body length of each event.
pub fn parts(page_bytes: u32, events: impl Iterator<Item = (u16, u32)>) -> Box<[SourceBytes]> {
    let mut of = BTreeMap::<u16, u64>::new();
    events.for_each(|(source, size)| *of.entry(source).or_default() += u64::from(size) + EVENT_BYTES);
    let all = of.values().sum::<u64>().max(1);
    let part =
        |bytes: u64| u32::try_from(u128::from(page_bytes) * u128::from(bytes) / u128::from(all)).unwrap_or(u32::MAX);
    of.into_iter().map(|(source, bytes)| SourceBytes { source, bytes: part(bytes) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_charged_and_released_by_its_content() {
        let of = |source, bytes| SourceBytes { source, bytes };
        assert_eq!(*parts(1000, [(7, 0), (7, 0)].into_iter()), [of(7, 1000)]);
        let two = parts(1000, [(1, 872), (2, 2872), (1, 0), (1, 0)].into_iter());
        assert_eq!(*two, [of(1, 295), of(2, 704)]);
        assert_eq!(*parts(1000, std::iter::empty()), []);
        let mut shares = Shares::default();
        two.iter().chain([&of(1, 6), &of(3, 0)]).for_each(|part| shares.add(*part));
        shares.grow(2, 40);
        shares.grow(3, 0);
        let held = |queue_bytes, growth_bytes| SourceUsage { queue_bytes, growth_bytes, dead_bytes: 0 };
        assert_eq!(shares.iter().collect::<Vec<_>>(), [(1, held(301, 0)), (2, held(704, 40))]);
        two.iter().for_each(|part| shares.remove(*part));
        assert_eq!(shares.iter().collect::<Vec<_>>(), [(1, held(6, 0)), (2, held(0, 40))]);
        shares.shrink(2, 40);
        assert_eq!(shares.iter().collect::<Vec<_>>(), [(1, held(6, 0))]);
    }
}
