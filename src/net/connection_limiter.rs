//! Which connections there are, and which one is evicted when the limit is reached.
//!
//! A slot knows what its connection does: it waits for a request (no head, or a part of one, has arrived), it receives
//! bodies, it serves a request, or it lingers: everything is answered, and only the rest of a body is read and
//! discarded.
//!
//! *Invariants.* There are never more connections than the limit, in total and per address. A new connection over it
//! evicts one that lingers; else the one that has waited longest for its peer, for a request or for the rest of a body,
//! unauthenticated ones first. A connection that serves a request is never evicted. Slow senders therefore delay each
//! other and nobody else.

use super::listener::Peer;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How often a waiting connection looks again for one to evict.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub all: usize,
    /// Per address, or per user of a unix socket.
    pub per_address: usize,
}

#[derive(Debug)]
pub struct ConnectionLimiter {
    bounds: Bounds,
    connections: Mutex<Connections>,
    /// Notified when a slot becomes free.
    freed: Notify,
    /// Orders changes, in place of a clock.
    changes: AtomicU64,
}

#[derive(Debug, Default)]
struct Connections {
    slots: HashMap<u64, Arc<ConnectionInfo>>,
    per_peer: HashMap<Peer, usize>,
    next: u64,
}

/// The state of one connection.
#[derive(Debug)]
struct ConnectionInfo {
    peer: Peer,
    activity: Mutex<Activity>,
    evict: CancellationToken,
    /// Cancelled when the first request has arrived.
    first_request: CancellationToken,
    /// A part of a body was not read, so the connection ends with the answer.
    unread: AtomicBool,
    /// A part of the next head has arrived.
    head_begun: AtomicBool,
    /// A request of it was authenticated.
    authenticated: AtomicBool,
    /// The peer reads nothing of what is sent, for now.
    write_pending: AtomicBool,
    /// How many writes the peer has taken.
    writes: AtomicU64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Activity {
    /// Requests whose head has arrived and whose answer is not complete.
    requests: usize,
    /// Those of them whose body is being received.
    receiving: usize,
    /// Answered requests the rest of whose body is being discarded, and the connection itself at its end.
    lingering: usize,
    /// The number of the last change.
    since: u64,
}

impl Activity {
    /// Whether it can be evicted without losing an answer: it only waits for what its peer sends.
    fn is_evictable(self) -> bool {
        self.receiving >= self.requests
    }
}

impl ConnectionInfo {
    fn activity(&self) -> Activity {
        *self.activity.lock().expect("no holder panics")
    }

    /// The smallest rank is evicted first.
    fn rank(&self, activity: Activity) -> (Rank, u64) {
        let rank = match activity {
            Activity { lingering: 1.., requests: 0, .. } => Rank::Lingers,
            _ if self.authenticated.load(Ordering::Relaxed) => Rank::Authenticated,
            _ => Rank::Unauthenticated,
        };
        (rank, activity.since)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Lingers,
    Unauthenticated,
    Authenticated,
}

/// The slot of one connection; free again when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Slot(Arc<SlotInner>);

#[derive(Debug)]
struct SlotInner {
    limiter: Arc<ConnectionLimiter>,
    id: u64,
    info: Arc<ConnectionInfo>,
}

impl ConnectionLimiter {
    pub fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self { bounds, connections: Mutex::default(), freed: Notify::new(), changes: AtomicU64::new(0) })
    }

    /// A slot for a new connection; waits while every connection serves a request. None where its address has reached
    /// its limit and all of its connections are active.
    pub async fn acquire(self: &Arc<Self>, peer: Peer) -> Option<Slot> {
        loop {
            let freed = self.freed.notified();
            {
                let mut connections = self.connections();
                let of_address = connections.per_peer.get(&peer).copied().unwrap_or_default();
                let at_address_limit = of_address >= self.bounds.per_address;
                if !at_address_limit && connections.slots.len() < self.bounds.all {
                    return Some(self.insert(&mut connections, peer));
                }
                match connections.eviction(|info| !at_address_limit || info.peer == peer) {
                    Eviction::Pending => {}
                    Eviction::Evict(info) => info.evict.cancel(),
                    Eviction::None if at_address_limit => return None,
                    Eviction::None => {}
                }
            }
            let _ = tokio::time::timeout(RETRY_INTERVAL, freed).await; // either way it tries again
        }
    }

    /// A slot, if one is free now.
    pub fn try_acquire(self: &Arc<Self>, peer: Peer) -> Option<Slot> {
        let mut connections = self.connections();
        let of_address = connections.per_peer.get(&peer).copied().unwrap_or_default();
        let is_free = connections.slots.len() < self.bounds.all && of_address < self.bounds.per_address;
        is_free.then(|| self.insert(&mut connections, peer))
    }

    fn insert(self: &Arc<Self>, connections: &mut Connections, peer: Peer) -> Slot {
        let activity = Activity { since: self.next_change(), ..Activity::default() };
        let (evict, first_request) = (CancellationToken::new(), CancellationToken::new());
        let info = Arc::new(ConnectionInfo {
            peer,
            activity: Mutex::new(activity),
            evict,
            first_request,
            unread: AtomicBool::new(false),
            head_begun: AtomicBool::new(false),
            authenticated: AtomicBool::new(false),
            write_pending: AtomicBool::new(false),
            writes: AtomicU64::new(0),
        });
        let id = connections.next;
        connections.next += 1;
        connections.slots.insert(id, info.clone());
        *connections.per_peer.entry(peer).or_default() += 1;
        Slot(Arc::new(SlotInner { limiter: self.clone(), id, info }))
    }

    fn next_change(&self) -> u64 {
        self.changes.fetch_add(1, Ordering::Relaxed)
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().expect("no holder panics")
    }
}

/// Which connection makes room for a new one.
enum Eviction<'a> {
    /// One was asked to end and has not ended yet.
    Pending,
    Evict(&'a ConnectionInfo),
    None,
}

impl Connections {
    fn eviction(&self, may: impl Fn(&ConnectionInfo) -> bool) -> Eviction<'_> {
        let mut found = None;
        for info in self.slots.values().filter(|info| may(info)) {
            if info.evict.is_cancelled() {
                return Eviction::Pending;
            }
            let activity = info.activity();
            let rank = info.rank(activity);
            if activity.is_evictable() && found.is_none_or(|(first, _)| rank < first) {
                found = Some((rank, info.as_ref()));
            }
        }
        found.map_or(Eviction::None, |(_, info)| Eviction::Evict(info))
    }
}

impl Drop for SlotInner {
    fn drop(&mut self) {
        let mut connections = self.limiter.connections();
        connections.slots.remove(&self.id);
        if let Some(count) = connections.per_peer.get_mut(&self.info.peer) {
            *count -= 1;
            if *count == 0 {
                connections.per_peer.remove(&self.info.peer);
            }
        }
        drop(connections);
        self.limiter.freed.notify_one();
    }
}

/// A request that is being served.
#[derive(Debug)]
pub struct ActiveRequest(Slot);

/// A body that is being received.
#[derive(Debug)]
pub struct Receiving(Slot);

/// The rest of the body of an answered request is being discarded.
#[derive(Debug)]
pub struct Lingering(Slot);

impl Slot {
    /// Unique among all connections of this limiter, past ones included.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    pub fn peer(&self) -> Peer {
        self.0.info.peer
    }

    /// Marks the peer as authenticated. Returns whether its request may be served: at least `reserved` slots stay free for
    /// others.
    pub fn set_authenticated(&self, reserved: usize) -> bool {
        self.0.info.authenticated.store(true, Ordering::Relaxed);
        let connections = self.0.limiter.connections();
        let active = connections.slots.values().filter(|info| !info.activity().is_evictable()).count();
        active + reserved <= self.0.limiter.bounds.all
    }

    /// The peer has read a part of what is sent.
    pub fn wrote(&self) {
        self.0.info.write_pending.store(false, Ordering::Relaxed);
        self.0.info.writes.fetch_add(1, Ordering::Relaxed);
    }

    /// The peer reads nothing of what is sent at present.
    pub fn write_pends(&self) {
        self.0.info.write_pending.store(true, Ordering::Relaxed);
    }

    fn is_write_pending(&self) -> bool {
        self.0.info.write_pending.load(Ordering::Relaxed)
    }

    /// Returns when the peer has read nothing of what is sent for at least `span`.
    pub async fn write_stuck(&self, span: Duration) {
        let mut seen = None;
        let mut ticks = tokio::time::interval(span);
        loop {
            ticks.tick().await;
            let writes = self.is_write_pending().then(|| self.0.info.writes.load(Ordering::Relaxed));
            if writes.is_some() && writes == seen {
                return;
            }
            seen = writes;
        }
    }

    /// A request is served until the return value is dropped.
    pub fn start_request(&self) -> ActiveRequest {
        self.0.info.first_request.cancel();
        self.set_head_begun(false);
        self.change(|activity| activity.requests += 1);
        ActiveRequest(self.clone())
    }

    /// Cancelled once the first request has come.
    pub fn first_request(&self) -> &CancellationToken {
        &self.0.info.first_request
    }

    /// The body of a request is received until the return value is dropped.
    pub fn receive_body(&self) -> Receiving {
        self.change(|activity| activity.receiving += 1);
        Receiving(self.clone())
    }

    /// Incoming bytes are discarded until the return value is dropped.
    pub fn linger(&self) -> Lingering {
        self.change(|activity| activity.lingering += 1);
        Lingering(self.clone())
    }

    /// A part of a body stays unread.
    pub fn leave_unread(&self) {
        self.0.info.unread.store(true, Ordering::Relaxed);
    }

    pub fn has_unread(&self) -> bool {
        self.0.info.unread.load(Ordering::Relaxed)
    }

    /// Bytes have arrived.
    pub fn bytes_received(&self) {
        self.set_head_begun(true);
    }

    /// Whether a part of a head has arrived, and not all of it.
    pub fn has_begun_a_head(&self) -> bool {
        self.0.info.head_begun.load(Ordering::Relaxed)
    }

    fn set_head_begun(&self, begins: bool) {
        self.0.info.head_begun.store(begins, Ordering::Relaxed);
    }

    /// Returns when this connection must end to make room for another one.
    pub async fn evicted(&self) {
        self.0.info.evict.cancelled().await;
    }

    /// Returns when no request was active and no byte has arrived for at least `span`. A connection whose peer does not
    /// read is not idle, see [`Self::write_stuck`].
    pub async fn idle(&self, span: Duration) {
        let mut seen = None;
        let mut ticks = tokio::time::interval(span);
        loop {
            ticks.tick().await;
            let activity = self.activity();
            if seen == Some(activity.since) && activity.requests == 0 && !self.is_write_pending() {
                return;
            }
            seen = Some(activity.since);
        }
    }

    fn activity(&self) -> Activity {
        self.0.info.activity()
    }

    fn change(&self, change: impl FnOnce(&mut Activity)) {
        let mut activity = self.0.info.activity.lock().expect("no holder panics");
        change(&mut activity);
        activity.since = self.0.limiter.next_change();
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.set_head_begun(false);
        self.0.change(|activity| activity.requests -= 1);
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.0.change(|activity| activity.receiving -= 1);
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        self.0.set_head_begun(false);
        self.0.change(|activity| activity.lingering -= 1);
    }
}

#[cfg(test)]
impl ConnectionLimiter {
    pub fn active(&self) -> usize {
        self.connections().slots.values().map(|info| info.activity().requests).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn address(n: u8) -> Peer {
        Peer::Address(Ipv4Addr::new(10, 0, 0, n).into())
    }

    fn asked(slot: &Slot) -> bool {
        slot.0.info.evict.is_cancelled()
    }

    async fn full(per_address: usize) -> (Arc<ConnectionLimiter>, Vec<Slot>) {
        let slots = ConnectionLimiter::new(Bounds { all: 4, per_address });
        let mut connections = Vec::new();
        for n in 0..4 {
            connections.push(slots.acquire(address(n)).await.unwrap());
        }
        (slots, connections)
    }

    #[tokio::test]
    async fn the_longest_waiting_connection_is_evicted_and_no_active_one() {
        let (slots, mut connections) = full(4).await;
        let _in_hand = connections[0].start_request();
        let half = (connections[1].start_request(), connections[1].receive_body());
        drop(connections[2].start_request()); // an answered request: it waits anew
        let newcomer = |n| {
            let slots = slots.clone();
            tokio::spawn(async move { slots.acquire(address(n)).await.unwrap() })
        };
        let first = newcomer(8);
        connections[3].evicted().await;
        assert_eq!(connections.iter().filter(|slot| asked(slot)).count(), 1);
        drop(connections.pop());
        let _first_in_hand = first.await.unwrap().start_request();
        let second = newcomer(9);
        connections[1].evicted().await;
        assert!(!asked(&connections[0]) && !asked(&connections[2]), "active, and waiting for a shorter time");
        drop((connections.remove(1), half));
        second.await.unwrap();
    }

    #[tokio::test]
    async fn a_lingering_connection_is_evicted_first() {
        let (slots, connections) = full(4).await;
        drop(connections[2].start_request());
        let lingering = connections[2].linger();
        let newcomer = tokio::spawn(async move { slots.acquire(address(9)).await.unwrap() });
        connections[2].evicted().await;
        assert_eq!(connections.iter().filter(|slot| asked(slot)).count(), 1);
        drop((lingering, connections));
        newcomer.await.unwrap();
    }

    #[tokio::test]
    async fn unauthenticated_connections_are_evicted_first_and_trusted_ones_bounded() {
        let (slots, connections) = full(4).await;
        assert!(connections[0].set_authenticated(1), "nothing is active");
        let active: Vec<_> = connections[1..].iter().map(Slot::start_request).collect();
        assert!(connections[1].set_authenticated(1) && !connections[1].set_authenticated(2));
        drop(active);
        let newcomer = tokio::spawn(async move { slots.acquire(address(9)).await.unwrap() });
        connections[2].evicted().await;
        assert_eq!(connections.iter().filter(|slot| asked(slot)).count(), 1, "the first waits longest, but is known");
        drop(connections);
        newcomer.await.unwrap();
    }

    #[tokio::test]
    async fn a_connection_is_stalled_when_its_peer_reads_nothing() {
        let slots = ConnectionLimiter::new(Bounds { all: 1, per_address: 1 });
        let slot = slots.acquire(address(1)).await.unwrap();
        let span = Duration::from_millis(20);
        slot.wrote();
        assert!(tokio::time::timeout(span * 5, slot.write_stuck(span)).await.is_err());
        slot.write_pends();
        assert!(tokio::time::timeout(span * 5, slot.idle(span)).await.is_err(), "blocked is not idle");
        slot.write_stuck(span).await;
    }

    #[tokio::test]
    async fn an_address_evicts_only_its_own_connections() {
        let slots = ConnectionLimiter::new(Bounds { all: 10, per_address: 2 });
        let other = slots.acquire(address(1)).await.unwrap();
        let (first, second) = (slots.acquire(address(2)).await.unwrap(), slots.acquire(address(2)).await.unwrap());
        let _in_hand = first.start_request();
        let newcomer = tokio::spawn({
            let slots = slots.clone();
            async move { slots.acquire(address(2)).await }
        });
        second.evicted().await;
        drop(second);
        let third = newcomer.await.unwrap().unwrap();
        let _in_hand_too = third.start_request();
        assert!(slots.acquire(address(2)).await.is_none(), "both of its connections are in use");
        assert!(!asked(&other) && slots.acquire(address(3)).await.is_some());
    }

    #[tokio::test]
    async fn every_slot_is_returned() {
        let (slots, connections) = full(4).await;
        let active = connections[0].start_request();
        drop(connections);
        drop(active);
        assert!(slots.connections().slots.is_empty() && slots.connections().per_peer.is_empty());
    }

    #[tokio::test]
    async fn a_connection_is_idle_without_request_and_traffic() {
        let slots = ConnectionLimiter::new(Bounds { all: 1, per_address: 1 });
        let slot = slots.acquire(address(1)).await.unwrap();
        let span = Duration::from_millis(20);
        let active = slot.start_request();
        assert!(tokio::time::timeout(span * 5, slot.idle(span)).await.is_err());
        drop(active);
        slot.idle(span).await;
    }
}
