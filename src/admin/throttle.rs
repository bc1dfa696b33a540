//! Delays the refusal of repeated wrong tokens.
//!
//! *Invariants.* Only the refusal of a wrong token is delayed. A valid token is never delayed, even if its address sent
//! wrong ones before, so no one can lock an operator out. The response is the same at each repetition. The table is
//! bounded.

use crate::time::Timestamp;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// Wrong tokens that are refused without delay, so that a typing error costs nothing.
const FREE: u32 = 5;
/// The delay after the first wrong token over [`FREE`]; each further one doubles it.
const WAIT_FIRST: Duration = Duration::from_millis(100);
/// The longest delay.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// An address is removed after this time without a wrong token.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
/// Addresses in the table; a further one replaces the address with the oldest wrong token.
const ADDRESSES_MAX: usize = 1024;

/// Wrong tokens by address.
#[derive(Debug, Default)]
pub struct Throttle(BTreeMap<ClientAddress, Failures>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ClientAddress {
    V4([u8; 4]),
    /// A /64 network: usually assigned to one party.
    V6([u16; 4]),
    /// A unix socket.
    Local,
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    last: Timestamp,
}

impl Throttle {
    /// Counts a wrong token from `peer` (none for a unix socket); returns the time until which its refusal is delayed.
    pub fn failed(&mut self, peer: Option<IpAddr>, now: Timestamp) -> Timestamp {
        let origin = origin(peer);
        if !self.0.contains_key(&origin) && self.0.len() >= ADDRESSES_MAX {
            let silent = self.0.iter().min_by_key(|(_, failures)| failures.last).map(|(origin, _)| *origin);
            silent.map(|origin| self.0.remove(&origin));
        }
        let failures = self.0.entry(origin).or_insert(Failures { count: 0, last: now });
        if now.since(failures.last) >= FORGOTTEN_AFTER {
            failures.count = 0;
        }
        *failures = Failures { count: failures.count.saturating_add(1), last: now };
        now.after(wait(failures.count))
    }
}

/// How long the refusal of the `count`th wrong token is delayed.
fn wait(count: u32) -> Duration {
    match count.checked_sub(FREE + 1) {
        None => Duration::ZERO,
        Some(excess) => WAIT_FIRST.saturating_mul(1 << excess.min(16)).min(WAIT_MAX),
    }
}

fn origin(peer: Option<IpAddr>) -> ClientAddress {
    match peer.map(|ip| ip.to_canonical()) {
        None => ClientAddress::Local,
        Some(IpAddr::V4(ip)) => ClientAddress::V4(ip.octets()),
        Some(IpAddr::V6(ip)) => {
            let [a, b, c, d, ..] = ip.segments();
            ClientAddress::V6([a, b, c, d])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn held(throttle: &mut Throttle, peer: &str, now: Timestamp) -> u64 {
        throttle.failed(Some(peer.parse().unwrap()), now).0 - now.0
    }

    #[test]
    fn wrong_tokens_beyond_a_few_are_delayed_longer_each_time() {
        let mut throttle = Throttle::default();
        let waits: Vec<u64> = (0..13).map(|_| held(&mut throttle, "10.0.0.1", NOW)).collect();
        assert_eq!(waits, [0, 0, 0, 0, 0, 100, 200, 400, 800, 1600, 2000, 2000, 2000]);
        assert_eq!(held(&mut throttle, "10.0.0.2", NOW), 0, "another address");
        assert_eq!(held(&mut throttle, "::ffff:10.0.0.1", NOW), 2000, "the same address, mapped");
        assert_eq!(throttle.failed(None, NOW), NOW, "a unix socket");
        assert_eq!(held(&mut throttle, "10.0.0.1", NOW.after(FORGOTTEN_AFTER)), 0, "it is forgotten");
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address_and_the_table_is_bounded() {
        let mut throttle = Throttle::default();
        for n in 0..20 {
            held(&mut throttle, &format!("2001:db8:0:1::{n:x}"), NOW);
        }
        assert_eq!(held(&mut throttle, "2001:db8:0:1::ffff", NOW), 2000);
        assert_eq!(held(&mut throttle, "2001:db8:0:2::1", NOW), 0);
        for n in 0..5000u32 {
            throttle.failed(Some(std::net::Ipv4Addr::from(n).into()), NOW.after(Duration::from_millis(u64::from(n))));
        }
        assert_eq!(throttle.0.len(), ADDRESSES_MAX);
    }
}
