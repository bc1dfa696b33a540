//! What became of each delivery, as far as the records say; and where they do not, at least once wins.
//!
//! *Law.* A delivery whose last settlement says that it was delivered or discarded is done, and copies of it are old. Of a
//! copy in the delay tree and one in the dead letter queue the newer counts, and either counts more than a copy in a page.
//! What has no copy and no end is lost, unless it is known to have left its place and settlements are missing: then it may
//! have been delivered.

use super::scan::{Page, Survey};
use crate::delivery::DeliveryId;
use crate::event::{DestinationId, DestinationSet, Sequence};
use crate::store::model::record::{EndKind, Entry, PageShape, Settlement};
use crate::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// Why a delivery is not in the new store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    Lost,
    /// It left its place, and what became of it was in a settlement that is lost.
    Unknown,
}

#[derive(Debug, Default)]
pub struct Fates {
    /// Every event from the head of history on, with its pages; those of which nothing is known go nowhere.
    pub packed: BTreeMap<u64, (PageShape, Vec<Entry>)>,
    pub settlements: Vec<Settlement>,
    pub missing: Vec<(DeliveryId, Missing)>,
    /// Events of which nothing at all is known.
    pub nameless: Vec<u64>,
    /// Deliveries left in pages, for each destination.
    pub left: BTreeMap<DestinationId, u64>,
    /// Pages with something left in them.
    pub live: BTreeSet<u64>,
}

/// `read` gives the entries of the events of a page that history no longer has.
pub fn decide<E>(
    survey: &mut Survey,
    now: Timestamp,
    read: impl FnMut(&Survey, u64) -> Result<Vec<Entry>, E>,
) -> Result<Fates, E> {
    let mut fates = Fates { settlements: survey.settlements.values().cloned().collect(), ..Fates::default() };
    let mut last: BTreeMap<DeliveryId, EndKind> = BTreeMap::new();
    for settlement in &fates.settlements {
        last.insert(settlement.id, settlement.how);
    }
    old_copies(survey, &last);
    pack(survey, &mut fates, read)?;
    let whole = survey.settlements_are_whole();
    let mut ended = Vec::new();
    for (first, (shape, entries)) in &fates.packed {
        let there = shape.bytes > 0;
        let emptied = survey.emptied.contains(first);
        let before_floor = *first < survey.totals.floor.0;
        for (n, entry) in (*first..).zip(entries) {
            for destination in entry.to.iter() {
                let id = DeliveryId { sequence: Sequence(n), destination };
                let elsewhere = if survey.delayed.contains_key(&id) {
                    Some(EndKind::Moved)
                } else {
                    survey.dead.contains_key(&id).then_some(EndKind::Dead)
                };
                let missing = match (last.get(&id), elsewhere) {
                    (Some(EndKind::Delivered | EndKind::Discarded), _) => continue,
                    (Some(_), Some(_)) => continue,
                    (None, Some(how)) => {
                        ended.push((id, how));
                        continue;
                    }
                    (None, None) if before_floor => continue,
                    (None, None) if there => {
                        *fates.left.entry(destination).or_default() += 1;
                        fates.live.insert(*first);
                        continue;
                    }
                    (None, None) if emptied => Missing::Unknown,
                    (Some(_), None) if survey.gone.contains(&id) && !whole => Missing::Unknown,
                    _ => Missing::Lost,
                };
                fates.missing.push((id, missing));
                ended.push((id, EndKind::Discarded));
            }
        }
    }
    fates.settlements.extend(ended.into_iter().map(|(id, how)| Settlement {
        id,
        how,
        attempts: 0,
        status: 0,
        at: now,
    }));
    Ok(fates)
}

/// Drops copies of what is done, and the older of two.
fn old_copies(survey: &mut Survey, last: &BTreeMap<DeliveryId, EndKind>) {
    let done = |id: &DeliveryId| matches!(last.get(id), Some(EndKind::Delivered | EndKind::Discarded));
    survey.delayed.retain(|id, _| !done(id));
    survey.dead.retain(|id, _| !done(id));
    let both: Vec<DeliveryId> = survey.dead.keys().filter(|id| survey.delayed.contains_key(id)).copied().collect();
    for id in both {
        let lsn = |of: &BTreeMap<DeliveryId, super::scan::Kept>| of.get(&id).map_or(0, |kept| kept.lsn);
        if lsn(&survey.dead) > lsn(&survey.delayed) {
            survey.delayed.remove(&id)
        } else {
            survey.dead.remove(&id)
        };
    }
}

/// Puts every number from the head of history on into a page: one that can be read, one that history tells of, or one that
/// holds the place of what is not known.
fn pack<E>(
    survey: &Survey,
    fates: &mut Fates,
    mut read: impl FnMut(&Survey, u64) -> Result<Vec<Entry>, E>,
) -> Result<(), E> {
    let end = survey.next_sequence();
    let oldest =
        survey.pages.keys().next().copied().unwrap_or(end).min(survey.entries.keys().next().copied().unwrap_or(end));
    let mut at = survey.totals.history_head.0.min(oldest).max(1);
    while at < end {
        let entries = |count: u64| (at..at + count).map(|n| survey.entries.get(&n).cloned()).collect::<Vec<_>>();
        let next_page = survey.pages.range(at + 1..).next().map_or(end, |(first, _)| *first);
        let (count, bytes) = match (survey.pages.get(&at), survey.shapes.get(&at)) {
            (Some(Page { count, bytes }), _) => (u64::from(*count), *bytes),
            (None, Some(shape)) => (u64::from(shape.count).min(next_page - at), 0),
            (None, None) => (1, 0),
        };
        let mut known = entries(count);
        if bytes > 0 && known.iter().any(Option::is_none) {
            known = read(survey, at)?.into_iter().map(Some).collect();
        }
        let named = |(n, entry): (u64, Option<Entry>)| {
            entry.unwrap_or_else(|| {
                fates.nameless.push(n);
                nobody()
            })
        };
        let filled = (at..).zip(known).map(named).collect();
        fates.packed.insert(at, (PageShape { count: count as u16, bytes }, filled));
        at += count;
    }
    Ok(())
}

/// Holds the place of an event of which nothing is known.
fn nobody() -> Entry {
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
    use crate::store::offline::salvage::scan::Kept;

    const HERE: DestinationId = DestinationId(2);

    fn id(n: u64) -> DeliveryId {
        DeliveryId { sequence: Sequence(n), destination: HERE }
    }

    fn entry() -> Entry {
        Entry { to: DestinationSet::EMPTY.with(HERE), ..nobody() }
    }

    fn settled(n: u64, how: EndKind) -> Settlement {
        Settlement { id: id(n), how, attempts: 1, status: 0, at: Timestamp(5) }
    }

    fn kept(lsn: u64) -> Kept {
        Kept { key: Vec::new(), lsn, bytes: 10 }
    }

    /// History remembers so many events, and the counters say as much.
    fn survey(events: u64, settlements: Vec<Settlement>) -> Survey {
        let mut survey = Survey { totals_known: true, ..Survey::default() };
        survey.entries = (1..=events).map(|n| (n, entry())).collect();
        survey.totals.next_sequence = Sequence(events + 1);
        survey.totals.next_settlement = 1 + settlements.len() as u64;
        survey.settlements = (1..).zip(settlements).collect();
        survey
    }

    fn decided(survey: &mut Survey) -> Fates {
        let no_page = |_: &Survey, first| Err(format!("page {first} is read"));
        decide(survey, Timestamp(9), no_page).unwrap()
    }

    /// Of eight events: 1 waits in its page and 2 is delivered, 3 waits for its time, 4 is a dead letter, 5 left for a place
    /// where it no longer is, of 6 nothing is known, and the page of 7 and 8 was emptied.
    fn mixed() -> Survey {
        let known = [
            settled(2, EndKind::Delivered),
            settled(3, EndKind::Moved),
            settled(5, EndKind::Moved),
            settled(8, EndKind::Delivered),
        ];
        let mut survey = survey(8, known.into());
        survey.pages.insert(1, Page { count: 2, bytes: 100 });
        survey.shapes.insert(7, PageShape { count: 2, bytes: 50 });
        survey.emptied.insert(7);
        survey.delayed.insert(id(3), kept(10));
        survey.dead.insert(id(4), kept(10));
        survey.gone.insert(id(5));
        survey
    }

    #[test]
    fn only_a_delivery_without_copy_and_end_is_missing() {
        let mut survey = mixed();
        let fates = decided(&mut survey);
        assert_eq!(fates.missing, [(id(5), Missing::Lost), (id(6), Missing::Lost), (id(7), Missing::Unknown)]);
        assert_eq!((fates.left, fates.live), (BTreeMap::from([(HERE, 1)]), BTreeSet::from([1])));
        assert_eq!(fates.nameless, Vec::<u64>::new());
        let packed: Vec<_> = fates.packed.iter().map(|(first, (_, entries))| (*first, entries.len())).collect();
        assert_eq!(packed, [(1, 2), (3, 1), (4, 1), (5, 1), (6, 1), (7, 2)]);
        let ends: Vec<_> = fates.settlements.iter().map(|s| (s.id.sequence.0, s.how)).collect();
        let known = [(2, EndKind::Delivered), (3, EndKind::Moved), (5, EndKind::Moved), (8, EndKind::Delivered)];
        let ended = [(4, EndKind::Dead), (5, EndKind::Discarded), (6, EndKind::Discarded), (7, EndKind::Discarded)];
        assert_eq!(ends, [known, ended].concat());
    }

    #[test]
    fn a_delivery_without_settlement_may_have_been_delivered() {
        let unknown = |mut survey: Survey| decided(&mut survey).missing.contains(&(id(5), Missing::Unknown));
        assert!(!unknown(mixed()));
        let mut cut = mixed();
        cut.reached.next_settlement = cut.totals.next_settlement + 1;
        assert!(unknown(cut), "the mark had come further");
        let mut gap = mixed();
        gap.settlements.remove(&1);
        assert!(unknown(gap));
        assert!(unknown(Survey { totals_known: false, ..mixed() }));
    }

    #[test]
    fn the_newer_of_two_copies_is_taken_and_none_of_a_settled_one() {
        let mut survey = survey(4, vec![settled(3, EndKind::Delivered), settled(4, EndKind::Discarded)]);
        for (n, delayed, dead) in [(1, 10, 20), (2, 20, 10), (3, 10, 20), (4, 20, 10)] {
            survey.delayed.insert(id(n), kept(delayed));
            survey.dead.insert(id(n), kept(dead));
        }
        let fates = decided(&mut survey);
        let of = |copies: &BTreeMap<DeliveryId, Kept>| copies.keys().map(|id| id.sequence.0).collect::<Vec<_>>();
        assert_eq!((of(&survey.delayed), of(&survey.dead), fates.missing), (vec![2], vec![1], Vec::new()));
    }

    #[test]
    fn an_event_without_history_is_read_from_its_page() {
        let mut survey = survey(4, Vec::new());
        survey.entries.clear();
        survey.pages.insert(2, Page { count: 2, bytes: 100 });
        let fates = decide(&mut survey, Timestamp(9), |_, first| match first {
            2 => Ok(vec![entry(), entry()]),
            _ => Err(format!("page {first} is read")),
        });
        let fates = fates.unwrap();
        assert_eq!(
            (fates.nameless, fates.live, fates.left),
            (vec![1, 4], BTreeSet::from([2]), BTreeMap::from([(HERE, 2)]))
        );
        assert_eq!(fates.packed.keys().copied().collect::<Vec<_>>(), [1, 2, 4]);
    }
}
