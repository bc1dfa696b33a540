//! Decides the state of each delivery from the records that could be read; in doubt a delivery is made again.
//!
//! *Rules.* A delivery whose last settlement is `Delivered` or `Discarded` is done, and all copies of it are stale. If it is
//! both in the delay tree and in the dead letter queue, the newer copy is used; either is preferred over a copy in a page. A
//! delivery without copy and settlement is lost. If its copy was removed and settlements are missing, its end is unknown: it
//! may have been delivered.

use super::scan::{Page, Scan};
use crate::delivery::DeliveryId;
use crate::event::{DestinationId, DestinationSet, Sequence};
use crate::store::model::record::{EndKind, Entry, PageShape, Settlement};
use crate::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// Why a delivery is not in the new store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingReason {
    /// Neither its event nor its end can be read.
    Lost,
    /// Its copy was removed, and the settlement that says why is lost.
    Unknown,
}

/// The state of all events and deliveries, as the new store will have it.
#[derive(Debug, Default)]
pub struct Resolution {
    /// Pages by first sequence, without holes from the head of history on; unidentified events have no destination.
    pub pages: BTreeMap<u64, (PageShape, Vec<Entry>)>,
    pub settlements: Vec<Settlement>,
    pub missing: Vec<(DeliveryId, MissingReason)>,
    /// Sequences of events without any readable record.
    pub unidentified: Vec<u64>,
    /// Number of deliveries that wait in pages, by destination.
    pub waiting_in_pages: BTreeMap<DestinationId, u64>,
    /// First sequences of the pages with waiting deliveries.
    pub nonempty_pages: BTreeSet<u64>,
}

/// `read` returns the history entries of a page's events, for pages without history.
pub fn resolve<E>(
    scan: &mut Scan,
    now: Timestamp,
    read: impl FnMut(&Scan, u64) -> Result<Vec<Entry>, E>,
) -> Result<Resolution, E> {
    let mut resolution =
        Resolution { settlements: scan.settlements.values().cloned().collect(), ..Resolution::default() };
    let mut last: BTreeMap<DeliveryId, EndKind> = BTreeMap::new();
    for settlement in &resolution.settlements {
        last.insert(settlement.id, settlement.how);
    }
    drop_stale_copies(scan, &last);
    assign_pages(scan, &mut resolution, read)?;
    let whole = scan.settlements_are_whole();
    let mut new_ends = Vec::new();
    for (first, (shape, entries)) in &resolution.pages {
        let is_readable = shape.bytes > 0;
        let emptied = scan.emptied.contains(first);
        let before_floor = *first < scan.totals.floor.0;
        for (n, entry) in (*first..).zip(entries) {
            for destination in entry.to.iter() {
                let id = DeliveryId { sequence: Sequence(n), destination };
                let other_copy = if scan.delayed.contains_key(&id) {
                    Some(EndKind::Moved)
                } else {
                    scan.dead.contains_key(&id).then_some(EndKind::Dead)
                };
                let missing = match (last.get(&id), other_copy) {
                    (Some(EndKind::Delivered | EndKind::Discarded), _) => continue,
                    (Some(_), Some(_)) => continue,
                    (None, Some(how)) => {
                        new_ends.push((id, how));
                        continue;
                    }
                    (None, None) if before_floor => continue,
                    (None, None) if is_readable => {
                        *resolution.waiting_in_pages.entry(destination).or_default() += 1;
                        resolution.nonempty_pages.insert(*first);
                        continue;
                    }
                    (None, None) if emptied => MissingReason::Unknown,
                    (Some(_), None) if scan.removed.contains(&id) && !whole => MissingReason::Unknown,
                    _ => MissingReason::Lost,
                };
                resolution.missing.push((id, missing));
                new_ends.push((id, EndKind::Discarded));
            }
        }
    }
    resolution.settlements.extend(new_ends.into_iter().map(|(id, how)| Settlement {
        id,
        how,
        attempts: 0,
        status: 0,
        at: now,
    }));
    Ok(resolution)
}

/// Drops copies of finished deliveries, and the older of two copies.
fn drop_stale_copies(scan: &mut Scan, last: &BTreeMap<DeliveryId, EndKind>) {
    let done = |id: &DeliveryId| matches!(last.get(id), Some(EndKind::Delivered | EndKind::Discarded));
    scan.delayed.retain(|id, _| !done(id));
    scan.dead.retain(|id, _| !done(id));
    let both: Vec<DeliveryId> = scan.dead.keys().filter(|id| scan.delayed.contains_key(id)).copied().collect();
    for id in both {
        let lsn = |of: &BTreeMap<DeliveryId, super::scan::StoredCopy>| of.get(&id).map_or(0, |copy| copy.lsn);
        if lsn(&scan.dead) > lsn(&scan.delayed) {
            scan.delayed.remove(&id)
        } else {
            scan.dead.remove(&id)
        };
    }
}

/// Assigns every sequence from the head of history on to a page: one that can be read, one that history describes, or a
/// placeholder.
fn assign_pages<E>(
    scan: &Scan,
    resolution: &mut Resolution,
    mut read: impl FnMut(&Scan, u64) -> Result<Vec<Entry>, E>,
) -> Result<(), E> {
    let end = scan.next_sequence();
    let oldest =
        scan.pages.keys().next().copied().unwrap_or(end).min(scan.entries.keys().next().copied().unwrap_or(end));
    let mut at = scan.totals.history_head.0.min(oldest).max(1);
    while at < end {
        let entries = |count: u64| (at..at + count).map(|n| scan.entries.get(&n).cloned()).collect::<Vec<_>>();
        let next_page = scan.pages.range(at + 1..).next().map_or(end, |(first, _)| *first);
        let (count, bytes) = match (scan.pages.get(&at), scan.shapes.get(&at)) {
            (Some(Page { count, bytes }), _) => (u64::from(*count), *bytes),
            (None, Some(shape)) => (u64::from(shape.count).min(next_page - at), 0),
            (None, None) => (1, 0),
        };
        let mut known = entries(count);
        if bytes > 0 && known.iter().any(Option::is_none) {
            known = read(scan, at)?.into_iter().map(Some).collect();
        }
        let named = |(n, entry): (u64, Option<Entry>)| {
            entry.unwrap_or_else(|| {
                resolution.unidentified.push(n);
                placeholder()
            })
        };
        let filled = (at..).zip(known).map(named).collect();
        resolution.pages.insert(at, (PageShape { count: count as u16, bytes }, filled));
        at += count;
    }
    Ok(())
}

/// The entry of an unidentified event.
fn placeholder() -> Entry {
    Entry {
        sender: Default::default(),
        body: Default::default(),
        interaction_hash: Default::default(),
        time: Timestamp::ZERO,
        received_at: Timestamp::ZERO,
        source: u16::MAX,
        kind: u16::MAX,
        to: DestinationSet::EMPTY,
        size: 0,
        prior: Sequence::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::offline::salvage::scan::StoredCopy;

    const HERE: DestinationId = DestinationId(2);

    fn id(n: u64) -> DeliveryId {
        DeliveryId { sequence: Sequence(n), destination: HERE }
    }

    fn entry() -> Entry {
        Entry { to: DestinationSet::EMPTY.with(HERE), ..placeholder() }
    }

    fn settled(n: u64, how: EndKind) -> Settlement {
        Settlement { id: id(n), how, attempts: 1, status: 0, at: Timestamp(5) }
    }

    fn copy(lsn: u64) -> StoredCopy {
        StoredCopy { key: Vec::new(), lsn, bytes: 10 }
    }

    /// A scan with history and counters of this many events.
    fn scan(events: u64, settlements: Vec<Settlement>) -> Scan {
        let mut scan = Scan { totals_known: true, ..Scan::default() };
        scan.entries = (1..=events).map(|n| (n, entry())).collect();
        scan.totals.next_sequence = Sequence(events + 1);
        scan.totals.next_settlement = 1 + settlements.len() as u64;
        scan.settlements = (1..).zip(settlements).collect();
        scan
    }

    fn resolved(scan: &mut Scan) -> Resolution {
        let no_page = |_: &Scan, first| Err(format!("page {first} is read"));
        resolve(scan, Timestamp(9), no_page).unwrap()
    }

    /// Eight events: 1 waits in its page, 2 is delivered, 3 is delayed, 4 is a dead letter, 5 was moved and its copy
    /// removed, 6 has only its history, and the page of 7 and 8 was emptied.
    fn mixed() -> Scan {
        let known = [
            settled(2, EndKind::Delivered),
            settled(3, EndKind::Moved),
            settled(5, EndKind::Moved),
            settled(8, EndKind::Delivered),
        ];
        let mut scan = scan(8, known.into());
        scan.pages.insert(1, Page { count: 2, bytes: 100 });
        scan.shapes.insert(7, PageShape { count: 2, bytes: 50 });
        scan.emptied.insert(7);
        scan.delayed.insert(id(3), copy(10));
        scan.dead.insert(id(4), copy(10));
        scan.removed.insert(id(5));
        scan
    }

    #[test]
    fn only_a_delivery_without_copy_and_end_is_missing() {
        let mut scan = mixed();
        let resolution = resolved(&mut scan);
        assert_eq!(
            resolution.missing,
            [(id(5), MissingReason::Lost), (id(6), MissingReason::Lost), (id(7), MissingReason::Unknown)]
        );
        assert_eq!(
            (resolution.waiting_in_pages, resolution.nonempty_pages),
            (BTreeMap::from([(HERE, 1)]), BTreeSet::from([1]))
        );
        assert_eq!(resolution.unidentified, Vec::<u64>::new());
        let pages: Vec<_> = resolution.pages.iter().map(|(first, (_, entries))| (*first, entries.len())).collect();
        assert_eq!(pages, [(1, 2), (3, 1), (4, 1), (5, 1), (6, 1), (7, 2)]);
        let ends: Vec<_> = resolution.settlements.iter().map(|s| (s.id.sequence.0, s.how)).collect();
        let known = [(2, EndKind::Delivered), (3, EndKind::Moved), (5, EndKind::Moved), (8, EndKind::Delivered)];
        let ended = [(4, EndKind::Dead), (5, EndKind::Discarded), (6, EndKind::Discarded), (7, EndKind::Discarded)];
        assert_eq!(ends, [known, ended].concat());
    }

    #[test]
    fn a_delivery_without_settlement_may_have_been_delivered() {
        let unknown = |mut scan: Scan| resolved(&mut scan).missing.contains(&(id(5), MissingReason::Unknown));
        assert!(!unknown(mixed()));
        let mut cut = mixed();
        cut.watermark.next_settlement = cut.totals.next_settlement + 1;
        assert!(unknown(cut), "the watermark is higher");
        let mut outage = mixed();
        outage.settlements.remove(&1);
        assert!(unknown(outage));
        assert!(unknown(Scan { totals_known: false, ..mixed() }));
    }

    #[test]
    fn the_newer_of_two_copies_is_taken_and_none_of_a_settled_one() {
        let mut scan = scan(4, vec![settled(3, EndKind::Delivered), settled(4, EndKind::Discarded)]);
        for (n, delayed, dead) in [(1, 10, 20), (2, 20, 10), (3, 10, 20), (4, 20, 10)] {
            scan.delayed.insert(id(n), copy(delayed));
            scan.dead.insert(id(n), copy(dead));
        }
        let resolution = resolved(&mut scan);
        let of = |copies: &BTreeMap<DeliveryId, StoredCopy>| copies.keys().map(|id| id.sequence.0).collect::<Vec<_>>();
        assert_eq!((of(&scan.delayed), of(&scan.dead), resolution.missing), (vec![2], vec![1], Vec::new()));
    }

    #[test]
    fn an_event_without_history_is_read_from_its_page() {
        let mut scan = scan(4, Vec::new());
        scan.entries.clear();
        scan.pages.insert(2, Page { count: 2, bytes: 100 });
        let resolution = resolve(&mut scan, Timestamp(9), |_, first| match first {
            2 => Ok(vec![entry(), entry()]),
            _ => Err(format!("page {first} is read")),
        });
        let resolution = resolution.unwrap();
        assert_eq!(
            (resolution.unidentified, resolution.nonempty_pages, resolution.waiting_in_pages),
            (vec![1, 4], BTreeSet::from([2]), BTreeMap::from([(HERE, 2)]))
        );
        assert_eq!(resolution.pages.keys().copied().collect::<Vec<_>>(), [1, 2, 4]);
    }
}
