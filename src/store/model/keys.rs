//! The keys under which everything lies.
//!
//! *Format.* Big-endian numbers, by hand, so that byte order is number order.

use super::codec::Damaged;
use crate::delivery::DeliveryId;
use crate::event::{DestinationId, Sequence};
use crate::time::Timestamp;

pub const TOTALS: &[u8] = b"totals";
pub const DOOR: &[u8] = b"door";
pub const ALIVE: &[u8] = b"alive";
pub const ANCHOR: &[u8] = b"anchor";
pub const TOLD: &[u8] = b"told";

pub fn number_key(n: u64) -> Vec<u8> {
    n.to_be_bytes().to_vec()
}

pub fn number_of(key: &[u8]) -> Result<u64, Damaged> {
    key.get(..8).and_then(|k| k.try_into().ok()).map(u64::from_be_bytes).ok_or(Damaged::Content)
}

pub fn dlq_key(id: DeliveryId) -> Vec<u8> {
    let mut key = number_key(id.sequence.0);
    key.push(id.destination.0);
    key
}

pub fn delay_key(due: Timestamp, id: DeliveryId) -> Vec<u8> {
    [number_key(due.0), dlq_key(id)].concat()
}

pub fn hold_key(d: DestinationId) -> Vec<u8> {
    [b"hold.".as_slice(), &[d.0]].concat()
}

pub fn stance_key(d: DestinationId) -> Vec<u8> {
    [b"stance.".as_slice(), &[d.0]].concat()
}

pub fn paced_key(d: DestinationId) -> Vec<u8> {
    [b"paced.".as_slice(), &[d.0]].concat()
}

pub fn redrive_key(d: DestinationId) -> Vec<u8> {
    [b"redrive.".as_slice(), &[d.0]].concat()
}

pub fn redrive_list_key(d: DestinationId) -> Vec<u8> {
    [b"redrive-list.".as_slice(), &[d.0]].concat()
}

/// (due, delivery) of a key in the delay tree.
pub fn delay_of(key: &[u8]) -> Result<(Timestamp, DeliveryId), Damaged> {
    Ok((Timestamp(number_of(key)?), dlq_of(key.get(8..).unwrap_or_default())?))
}

pub fn dlq_of(key: &[u8]) -> Result<DeliveryId, Damaged> {
    let destination = *key.get(8).ok_or(Damaged::Content)?;
    Ok(DeliveryId { sequence: Sequence(number_of(key)?), destination: DestinationId(destination) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_numbers_and_round_trip() {
        let id = |s, d| DeliveryId { sequence: Sequence(s), destination: DestinationId(d) };
        let keys = [
            delay_key(Timestamp(1), id(900, 0)),
            delay_key(Timestamp(255), id(1, 1)),
            delay_key(Timestamp(256), id(1, 0)),
            delay_key(Timestamp(256), id(1, 1)),
        ];
        assert!(keys.is_sorted());
        assert_eq!(delay_of(&keys[3]), Ok((Timestamp(256), id(1, 1))));
        assert_eq!(dlq_of(&dlq_key(id(77, 5))), Ok(id(77, 5)));
        assert_eq!(delay_of(&keys[0][..9]), Err(Damaged::Content));
    }

    #[test]
    fn each_destination_has_a_key_of_its_own() {
        let of = |d| [hold_key, stance_key, paced_key, redrive_key, redrive_list_key].map(|key| key(DestinationId(d)));
        let single = [TOTALS, DOOR, ALIVE, ANCHOR, TOLD].map(<[u8]>::to_vec);
        let keys: std::collections::BTreeSet<Vec<u8>> = (0..3).flat_map(of).chain(single).collect();
        assert_eq!(keys.len(), 20);
    }
}
