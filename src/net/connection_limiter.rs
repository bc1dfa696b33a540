//! Seats: which connections there are, and who gives way when all seats are taken.
//!
//! A seat knows what its connection does: it waits for a request (its head is still to come, or none was sent), it receives
//! bodies, it has something in hand, or it lingers: all is answered, and only a rest is read and discarded.
//!
//! *Invariants.* There are never more connections than seats, in all and for one address. When a new one comes and none is
//! free, one that lingers gives way; else the connection that has waited longest for its peer, be it for a request or for
//! the rest of a body, and strangers before those who have shown who they are; what is in hand is never cut off. So slow senders hold each other up and nobody else: who sends at
//! once waits for a short time only, and is never the first.

use super::listener::Peer;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How long a newcomer waits for a seat until it is looked again who could give way.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub all: usize,
    /// For one address, or one user.
    pub per_address: usize,
}

#[derive(Debug)]
pub struct ConnectionLimiter {
    bounds: Bounds,
    taken: Mutex<Taken>,
    /// Rings when a seat becomes free.
    freed: Notify,
    /// Orders what happens, in place of a clock.
    moments: AtomicU64,
}

#[derive(Debug, Default)]
struct Taken {
    seats: HashMap<u64, Arc<ConnectionInfo>>,
    per_peer: HashMap<Peer, usize>,
    next: u64,
}

/// One connection, as others see it.
#[derive(Debug)]
struct ConnectionInfo {
    peer: Peer,
    doing: Mutex<Doing>,
    give_way: CancellationToken,
    /// Its first request has come.
    begun: CancellationToken,
    /// Something of a body was left unread, so that the connection ends with the answer.
    unread: AtomicBool,
    /// Something has come since the last request was answered: the beginning of a head.
    head_begun: AtomicBool,
    /// It has shown who it is.
    trusted: AtomicBool,
    /// Its peer does not take what is sent, for now.
    blocked: AtomicBool,
    /// How often its peer took something.
    taken: AtomicU64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Doing {
    /// Requests whose head has come and whose answer is not made.
    requests: usize,
    /// Those of them whose body is being received.
    receiving: usize,
    /// Answered requests the rest of whose body is discarded, and the connection itself at its end.
    lingering: usize,
    /// The moment of the last change.
    since: u64,
}

impl Doing {
    /// Whether nothing is in hand that would be lost: it waits for what its peer sends.
    fn can_give_way(self) -> bool {
        self.receiving >= self.requests
    }
}

impl ConnectionInfo {
    fn doing(&self) -> Doing {
        *self.doing.lock().expect("no holder panics")
    }

    /// Who comes first gives way first.
    fn rank(&self, doing: Doing) -> (Rank, u64) {
        let rank = match doing {
            Doing { lingering: 1.., requests: 0, .. } => Rank::Lingers,
            _ if self.trusted.load(Ordering::Relaxed) => Rank::Known,
            _ => Rank::Stranger,
        };
        (rank, doing.since)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Lingers,
    Stranger,
    Known,
}

/// The seat of one connection; free again once the last clone is gone.
#[derive(Clone, Debug)]
pub struct Slot(Arc<Held>);

#[derive(Debug)]
struct Held {
    seats: Arc<ConnectionLimiter>,
    number: u64,
    sitting: Arc<ConnectionInfo>,
}

impl ConnectionLimiter {
    pub fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self { bounds, taken: Mutex::default(), freed: Notify::new(), moments: AtomicU64::new(0) })
    }

    /// A seat for a connection that has come; waits where everybody has something in hand. None where its address has all
    /// that it may have, and needs them.
    pub async fn take(self: &Arc<Self>, peer: Peer) -> Option<Slot> {
        loop {
            let freed = self.freed.notified();
            {
                let mut taken = self.taken();
                let of_address = taken.per_peer.get(&peer).copied().unwrap_or_default();
                let crowded = of_address >= self.bounds.per_address;
                if !crowded && taken.seats.len() < self.bounds.all {
                    return Some(self.sit(&mut taken, peer));
                }
                match taken.candidate(|sitting| !crowded || sitting.peer == peer) {
                    Candidate::Asked => {}
                    Candidate::Found(sitting) => sitting.give_way.cancel(),
                    Candidate::None if crowded => return None,
                    Candidate::None => {}
                }
            }
            let _ = tokio::time::timeout(LOOK_AGAIN, freed).await; // either way it is looked again
        }
    }

    /// A seat that is free at this moment, if there is one.
    pub fn take_free(self: &Arc<Self>, peer: Peer) -> Option<Slot> {
        let mut taken = self.taken();
        let of_address = taken.per_peer.get(&peer).copied().unwrap_or_default();
        let is_free = taken.seats.len() < self.bounds.all && of_address < self.bounds.per_address;
        is_free.then(|| self.sit(&mut taken, peer))
    }

    fn sit(self: &Arc<Self>, taken: &mut Taken, peer: Peer) -> Slot {
        let doing = Doing { since: self.moment(), ..Doing::default() };
        let (give_way, begun) = (CancellationToken::new(), CancellationToken::new());
        let sitting = Arc::new(ConnectionInfo {
            peer,
            doing: Mutex::new(doing),
            give_way,
            begun,
            unread: AtomicBool::new(false),
            head_begun: AtomicBool::new(false),
            trusted: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
            taken: AtomicU64::new(0),
        });
        let number = taken.next;
        taken.next += 1;
        taken.seats.insert(number, sitting.clone());
        *taken.per_peer.entry(peer).or_default() += 1;
        Slot(Arc::new(Held { seats: self.clone(), number, sitting }))
    }

    fn moment(&self) -> u64 {
        self.moments.fetch_add(1, Ordering::Relaxed)
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().expect("no holder panics")
    }
}

/// Who gives way to a newcomer.
enum Candidate<'a> {
    /// Somebody who was asked to is about to.
    Asked,
    Found(&'a ConnectionInfo),
    None,
}

impl Taken {
    fn candidate(&self, may: impl Fn(&ConnectionInfo) -> bool) -> Candidate<'_> {
        let mut found = None;
        for sitting in self.seats.values().filter(|sitting| may(sitting)) {
            if sitting.give_way.is_cancelled() {
                return Candidate::Asked;
            }
            let doing = sitting.doing();
            let rank = sitting.rank(doing);
            if doing.can_give_way() && found.is_none_or(|(first, _)| rank < first) {
                found = Some((rank, sitting.as_ref()));
            }
        }
        found.map_or(Candidate::None, |(_, sitting)| Candidate::Found(sitting))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut taken = self.seats.taken();
        taken.seats.remove(&self.number);
        if let Some(count) = taken.per_peer.get_mut(&self.sitting.peer) {
            *count -= 1;
            if *count == 0 {
                taken.per_peer.remove(&self.sitting.peer);
            }
        }
        drop(taken);
        self.seats.freed.notify_one();
    }
}

/// A request that is being served.
#[derive(Debug)]
pub struct ActiveRequest(Slot);

/// A body that is being received.
#[derive(Debug)]
pub struct Receiving(Slot);

/// What is still to come of an answered request is discarded.
#[derive(Debug)]
pub struct Lingering(Slot);

impl Slot {
    /// No other connection of these seats has it, or ever had.
    pub fn number(&self) -> u64 {
        self.0.number
    }

    pub fn peer(&self) -> Peer {
        self.0.sitting.peer
    }

    /// Its peer has shown who it is. Says whether its request may be served: with all that is in hand at least `kept` seats
    /// stay for others.
    pub fn trust(&self, kept: usize) -> bool {
        self.0.sitting.trusted.store(true, Ordering::Relaxed);
        let taken = self.0.seats.taken();
        let in_hand = taken.seats.values().filter(|sitting| !sitting.doing().can_give_way()).count();
        in_hand + kept <= self.0.seats.bounds.all
    }

    /// Something was sent, or the peer did not take it: then it is blocked.
    pub fn sends(&self, blocked: bool) {
        self.0.sitting.blocked.store(blocked, Ordering::Relaxed);
        if !blocked {
            self.0.sitting.taken.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn is_blocked(&self) -> bool {
        self.0.sitting.blocked.load(Ordering::Relaxed)
    }

    /// Returns when the peer has taken nothing of what was to be sent for at least `span`.
    pub async fn stalled(&self, span: Duration) {
        let mut seen = None;
        let mut ticks = tokio::time::interval(span);
        loop {
            ticks.tick().await;
            let taken = self.is_blocked().then(|| self.0.sitting.taken.load(Ordering::Relaxed));
            if taken.is_some() && taken == seen {
                return;
            }
            seen = taken;
        }
    }

    /// Until it is dropped, a request is served.
    pub fn serve(&self) -> ActiveRequest {
        self.0.sitting.begun.cancel();
        self.head_begins(false);
        self.change(|doing| doing.requests += 1);
        ActiveRequest(self.clone())
    }

    /// Cancelled once the first request has come.
    pub fn begun(&self) -> &CancellationToken {
        &self.0.sitting.begun
    }

    /// Until it is dropped, the body of a request that is served is received.
    pub fn receive(&self) -> Receiving {
        self.change(|doing| doing.receiving += 1);
        Receiving(self.clone())
    }

    /// Until it is dropped, what comes is discarded.
    pub fn linger(&self) -> Lingering {
        self.change(|doing| doing.lingering += 1);
        Lingering(self.clone())
    }

    /// Something of a body is left unread.
    pub fn leave_unread(&self) {
        self.0.sitting.unread.store(true, Ordering::Relaxed);
    }

    pub fn has_unread(&self) -> bool {
        self.0.sitting.unread.load(Ordering::Relaxed)
    }

    /// Bytes have come.
    pub fn hear(&self) {
        self.head_begins(true);
    }

    /// Whether a request was begun whose head is not whole.
    pub fn has_begun_a_head(&self) -> bool {
        self.0.sitting.head_begun.load(Ordering::Relaxed)
    }

    fn head_begins(&self, begins: bool) {
        self.0.sitting.head_begun.store(begins, Ordering::Relaxed);
    }

    /// Returns when another connection needs this seat.
    pub async fn needed(&self) {
        self.0.sitting.give_way.cancelled().await;
    }

    /// Returns when nothing has been in hand, and nothing has come, for at least `span`. Who does not take what is sent is
    /// not idle, see [`Self::stalled`].
    pub async fn idle(&self, span: Duration) {
        let mut seen = None;
        let mut ticks = tokio::time::interval(span);
        loop {
            ticks.tick().await;
            let doing = self.doing();
            if seen == Some(doing.since) && doing.requests == 0 && !self.is_blocked() {
                return;
            }
            seen = Some(doing.since);
        }
    }

    fn doing(&self) -> Doing {
        self.0.sitting.doing()
    }

    fn change(&self, change: impl FnOnce(&mut Doing)) {
        let mut doing = self.0.sitting.doing.lock().expect("no holder panics");
        change(&mut doing);
        doing.since = self.0.seats.moment();
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.head_begins(false);
        self.0.change(|doing| doing.requests -= 1);
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.0.change(|doing| doing.receiving -= 1);
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        self.0.head_begins(false);
        self.0.change(|doing| doing.lingering -= 1);
    }
}

#[cfg(test)]
impl ConnectionLimiter {
    pub fn in_hand(&self) -> usize {
        self.taken().seats.values().map(|sitting| sitting.doing().requests).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn address(n: u8) -> Peer {
        Peer::Address(Ipv4Addr::new(10, 0, 0, n).into())
    }

    fn asked(seat: &Slot) -> bool {
        seat.0.sitting.give_way.is_cancelled()
    }

    async fn full(per_address: usize) -> (Arc<ConnectionLimiter>, Vec<Slot>) {
        let seats = ConnectionLimiter::new(Bounds { all: 4, per_address });
        let mut taken = Vec::new();
        for n in 0..4 {
            taken.push(seats.take(address(n)).await.unwrap());
        }
        (seats, taken)
    }

    #[tokio::test]
    async fn the_longest_waiting_connection_is_evicted_and_no_active_one() {
        let (seats, mut taken) = full(4).await;
        let _in_hand = taken[0].serve();
        let half = (taken[1].serve(), taken[1].receive());
        drop(taken[2].serve()); // an answered request: it waits anew
        let newcomer = |n| {
            let seats = seats.clone();
            tokio::spawn(async move { seats.take(address(n)).await.unwrap() })
        };
        let first = newcomer(8);
        taken[3].needed().await;
        assert_eq!(taken.iter().filter(|seat| asked(seat)).count(), 1);
        drop(taken.pop());
        let _first_in_hand = first.await.unwrap().serve();
        let second = newcomer(9);
        taken[1].needed().await;
        assert!(!asked(&taken[0]) && !asked(&taken[2]), "in hand, and waiting for a shorter time");
        drop((taken.remove(1), half));
        second.await.unwrap();
    }

    #[tokio::test]
    async fn a_lingering_connection_is_evicted_first() {
        let (seats, taken) = full(4).await;
        drop(taken[2].serve());
        let lingering = taken[2].linger();
        let newcomer = tokio::spawn(async move { seats.take(address(9)).await.unwrap() });
        taken[2].needed().await;
        assert_eq!(taken.iter().filter(|seat| asked(seat)).count(), 1);
        drop((lingering, taken));
        newcomer.await.unwrap();
    }

    #[tokio::test]
    async fn unauthenticated_connections_are_evicted_first_and_trusted_ones_bounded() {
        let (seats, taken) = full(4).await;
        assert!(taken[0].trust(1), "nothing is in hand");
        let in_hand: Vec<_> = taken[1..].iter().map(Slot::serve).collect();
        assert!(taken[1].trust(1) && !taken[1].trust(2));
        drop(in_hand);
        let newcomer = tokio::spawn(async move { seats.take(address(9)).await.unwrap() });
        taken[2].needed().await;
        assert_eq!(taken.iter().filter(|seat| asked(seat)).count(), 1, "the first waits longest, but is known");
        drop(taken);
        newcomer.await.unwrap();
    }

    #[tokio::test]
    async fn a_connection_is_stalled_when_its_peer_reads_nothing() {
        let seats = ConnectionLimiter::new(Bounds { all: 1, per_address: 1 });
        let seat = seats.take(address(1)).await.unwrap();
        let span = Duration::from_millis(20);
        seat.sends(false);
        assert!(tokio::time::timeout(span * 5, seat.stalled(span)).await.is_err());
        seat.sends(true);
        assert!(tokio::time::timeout(span * 5, seat.idle(span)).await.is_err(), "blocked is not idle");
        seat.stalled(span).await;
    }

    #[tokio::test]
    async fn an_address_evicts_only_its_own_connections() {
        let seats = ConnectionLimiter::new(Bounds { all: 10, per_address: 2 });
        let other = seats.take(address(1)).await.unwrap();
        let (first, second) = (seats.take(address(2)).await.unwrap(), seats.take(address(2)).await.unwrap());
        let _in_hand = first.serve();
        let newcomer = tokio::spawn({
            let seats = seats.clone();
            async move { seats.take(address(2)).await }
        });
        second.needed().await;
        drop(second);
        let third = newcomer.await.unwrap().unwrap();
        let _in_hand_too = third.serve();
        assert!(seats.take(address(2)).await.is_none(), "both of its connections are in use");
        assert!(!asked(&other) && seats.take(address(3)).await.is_some());
    }

    #[tokio::test]
    async fn every_slot_is_returned() {
        let (seats, taken) = full(4).await;
        let in_hand = taken[0].serve();
        drop(taken);
        drop(in_hand);
        assert!(seats.taken().seats.is_empty() && seats.taken().per_peer.is_empty());
    }

    #[tokio::test]
    async fn a_connection_is_idle_without_request_and_traffic() {
        let seats = ConnectionLimiter::new(Bounds { all: 1, per_address: 1 });
        let seat = seats.take(address(1)).await.unwrap();
        let span = Duration::from_millis(20);
        let in_hand = seat.serve();
        assert!(tokio::time::timeout(span * 5, seat.idle(span)).await.is_err());
        drop(in_hand);
        seat.idle(span).await;
    }
}
