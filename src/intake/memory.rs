//! Memory for bodies: limits, and which body is evicted when one is reached.
//!
//! *Invariants.* The total never exceeds the limits, except for a body that is alone. Unauthenticated senders share a
//! part, of which each address and each connection has only a part; authenticated ones have a part for each source.
//! Where a part is full, the incomplete body that has been idle longest is evicted, and its memory is free before the
//! new one continues; a complete body is never evicted. A sender that does not complete its body therefore delays nobody
//! else.
//!
//! A body is idle since its last complete KiB, not since its last byte.

use crate::event::Digest64;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;

/// What a request takes beside its head and its body.
const REQUEST_BYTES: usize = 1024;
/// A body has made progress after this many bytes.
const PROGRESS_BYTES: usize = 1024;

/// In bytes; each at least as large as the largest body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryBounds {
    pub all: usize,
    /// Of the authenticated senders of one source.
    pub per_source: usize,
    /// Of unauthenticated senders.
    pub unverified: usize,
    pub per_address: usize,
    pub per_connection: usize,
}

/// The sender of a body.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    /// The connection, and where it comes from, where that is known.
    pub connection: Option<(u64, IpAddr)>,
    pub source: SourceId,
    /// It authenticated before the body.
    pub verified: bool,
}

/// Identifies a source by its name, also across a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceId(Digest64);

impl SourceId {
    pub fn of(name: &str) -> Self {
        Self(Digest64::of(&[b"source", name.as_bytes()]))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Part {
    Connection(u64),
    Address(IpAddr),
    Unverified,
    Source(SourceId),
    All,
}

#[derive(Debug)]
pub struct MemoryLimit(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    bounds: MemoryBounds,
    parts: HashMap<Part, Usage>,
    /// Orders changes, in place of a clock.
    sequence: u64,
}

#[derive(Debug, Default)]
struct Usage {
    bytes: usize,
    /// Bodies that are being received, the one idle longest first.
    receiving: BTreeMap<u64, Arc<Buffer>>,
}

/// A body as it comes. Its numbers change only while [`Inner`] is locked.
#[derive(Debug)]
struct Buffer {
    parts: Vec<Part>,
    charged: AtomicUsize,
    received: AtomicUsize,
    /// When it became idle, and at how many bytes.
    since: AtomicU64,
    moved: AtomicUsize,
    /// None after eviction, or when it was taken as a whole.
    bytes: Mutex<Option<Vec<u8>>>,
    evicted: Notify,
}

/// The limit is reached and no body can be evicted, or this one was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitReached;

/// The memory of one request, free again once this is dropped.
#[derive(Debug)]
pub struct Charge {
    limit: Arc<MemoryLimit>,
    buffer: Arc<Buffer>,
    verified: bool,
    /// The parts that it is charged to once its sender has authenticated.
    of_verified: [Part; 2],
}

impl MemoryLimit {
    pub fn new(bounds: MemoryBounds) -> Self {
        Self(Mutex::new(Inner { bounds, parts: HashMap::new(), sequence: 0 }))
    }

    pub fn set_bounds(&self, bounds: MemoryBounds) {
        self.inner().bounds = bounds;
    }

    /// Memory for a request whose head takes `head_bytes`.
    ///
    /// # Errors
    /// The limit is reached, and no body can be evicted.
    pub fn begin(self: &Arc<Self>, sender: Sender, head_bytes: usize) -> Result<Charge, LimitReached> {
        let of_verified = [Part::Source(sender.source), Part::All];
        let mut parts = Vec::with_capacity(4);
        if sender.verified {
            parts.extend(of_verified);
        } else {
            if let Some((connection, address)) = sender.connection {
                parts.extend([Part::Connection(connection), Part::Address(address)]);
            }
            parts.push(Part::Unverified);
            parts.push(Part::All);
        }
        let buffer = Arc::new(Buffer {
            parts,
            charged: AtomicUsize::new(0),
            received: AtomicUsize::new(0),
            since: AtomicU64::new(0),
            moved: AtomicUsize::new(0),
            bytes: Mutex::new(Some(Vec::new())),
            evicted: Notify::new(),
        });
        let charge = Charge { limit: self.clone(), buffer, verified: sender.verified, of_verified };
        let freed = {
            let mut inner = self.inner();
            let freed = inner.charge(&charge.buffer, charge.parts(), REQUEST_BYTES + head_bytes)?;
            inner.start_receiving(&charge.buffer);
            freed
        };
        drop(freed); // without holding others up
        Ok(charge)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no holder panics")
    }
}

impl Inner {
    fn bound(&self, part: Part) -> usize {
        match part {
            Part::Connection(_) => self.bounds.per_connection,
            Part::Address(_) => self.bounds.per_address,
            Part::Unverified => self.bounds.unverified,
            Part::Source(_) => self.bounds.per_source,
            Part::All => self.bounds.all,
        }
    }

    /// Charges `bytes` more of a body to these parts; returns the evicted bodies, to be freed without the lock.
    fn charge(&mut self, buffer: &Arc<Buffer>, parts: &[Part], bytes: usize) -> Result<Vec<Vec<u8>>, LimitReached> {
        let mut freed = Vec::new();
        let own = buffer.charged.load(Ordering::Relaxed);
        let is_verified = !parts.contains(&Part::Unverified);
        for &part in parts {
            freed.extend(self.make_room(buffer, part, is_verified, own, bytes)?);
        }
        for &part in parts {
            self.parts.entry(part).or_default().bytes += bytes;
        }
        buffer.charged.fetch_add(bytes, Ordering::Relaxed);
        Ok(freed)
    }

    /// Charges all bytes of a body to a further part; returns the evicted bodies, to be freed without the lock.
    fn admit(&mut self, buffer: &Arc<Buffer>, part: Part) -> Result<Vec<Vec<u8>>, LimitReached> {
        let bytes = buffer.charged.load(Ordering::Relaxed);
        let freed = self.make_room(buffer, part, true, 0, bytes)?;
        self.parts.entry(part).or_default().bytes += bytes;
        Ok(freed)
    }

    /// Evicts bodies until one that has `own` bytes of a part can take `bytes` more.
    fn make_room(
        &mut self,
        buffer: &Arc<Buffer>,
        part: Part,
        is_verified: bool,
        own: usize,
        bytes: usize,
    ) -> Result<Vec<Vec<u8>>, LimitReached> {
        let mut freed = Vec::new();
        loop {
            let used = self.parts.get(&part).map_or(0, |usage| usage.bytes);
            // a single body is never refused: the largest body fits, regardless of its head
            if used == own || used + bytes <= self.bound(part) {
                return Ok(freed);
            }
            let victim = self.victim(part, buffer, is_verified).ok_or(LimitReached)?;
            freed.extend(self.evict(&victim));
        }
    }

    /// The body to evict where a part is full. An unauthenticated body never evicts an authenticated one.
    fn victim(&self, part: Part, newcomer: &Arc<Buffer>, is_verified: bool) -> Option<Arc<Buffer>> {
        let idle_longest = |part| {
            let receiving = self.parts.get(&part).map(|usage| usage.receiving.values());
            receiving.into_iter().flatten().find(|other| !Arc::ptr_eq(other, newcomer)).cloned()
        };
        let unverified_gives_way = (part == Part::All).then(|| idle_longest(Part::Unverified)).flatten();
        unverified_gives_way.or_else(|| if part == Part::All && !is_verified { None } else { idle_longest(part) })
    }

    fn evict(&mut self, victim: &Arc<Buffer>) -> Option<Vec<u8>> {
        self.stop_receiving(victim);
        self.release(victim, &victim.parts);
        victim.evicted.notify_one();
        victim.bytes.lock().expect("no holder panics").take()
    }

    /// Marks a body as incomplete and idle from now on.
    fn start_receiving(&mut self, buffer: &Arc<Buffer>) {
        self.sequence += 1;
        buffer.since.store(self.sequence, Ordering::Relaxed);
        for &part in &buffer.parts {
            self.parts.entry(part).or_default().receiving.insert(self.sequence, buffer.clone());
        }
    }

    /// Marks a body as no longer waiting.
    fn stop_receiving(&mut self, buffer: &Buffer) {
        let since = buffer.since.swap(0, Ordering::Relaxed);
        for part in &buffer.parts {
            if let Some(usage) = self.parts.get_mut(part) {
                usage.receiving.remove(&since);
            }
        }
    }

    /// Gives back what a body takes of some of its parts.
    fn release(&mut self, buffer: &Buffer, parts: &[Part]) {
        let bytes = buffer.charged.load(Ordering::Relaxed);
        for part in parts {
            if let Some(usage) = self.parts.get_mut(part) {
                usage.bytes -= bytes;
                if usage.bytes == 0 && usage.receiving.is_empty() {
                    self.parts.remove(part);
                }
            }
        }
        if parts.contains(&Part::All) {
            buffer.charged.store(0, Ordering::Relaxed);
        }
    }
}

impl Charge {
    /// Takes in a piece of a body that has at most `bytes_max`.
    pub fn append(&self, piece: &[u8], bytes_max: usize) -> Result<(), LimitReached> {
        let received = self.buffer.received.fetch_add(piece.len(), Ordering::Relaxed) + piece.len();
        let capacity = self.bytes().as_ref().ok_or(LimitReached)?.capacity();
        let wanted = (capacity * 2).min(bytes_max).max(received);
        if received > capacity {
            self.grow(wanted - capacity)?;
        }
        {
            let mut bytes = self.bytes();
            let bytes = bytes.as_mut().ok_or(LimitReached)?;
            if received > capacity {
                bytes.reserve_exact(wanted - bytes.len());
            }
            bytes.extend_from_slice(piece);
        }
        // not while the bytes are locked: eviction locks the accounts first, then the bytes
        self.moves(received);
        Ok(())
    }

    /// Charges a body that has come in one piece, and is not kept here.
    pub fn whole(&self, bytes: usize) -> Result<(), LimitReached> {
        self.grow(bytes)
    }

    /// The received bytes; from now on it cannot be evicted.
    pub fn finish(&self) -> Result<Vec<u8>, LimitReached> {
        self.limit.inner().stop_receiving(&self.buffer);
        self.bytes().take().ok_or(LimitReached)
    }

    /// Charges what the request takes beside its body, once that is here.
    pub fn add(&self, bytes: usize) -> Result<(), LimitReached> {
        let freed = self.limit.inner().charge(&self.buffer, self.parts(), bytes)?;
        drop(freed); // without holding others up
        Ok(())
    }

    /// Its sender has authenticated: its bytes are charged to its source from now on.
    ///
    /// # Errors
    /// The source has reached its part, and none of its bodies can be evicted.
    pub fn verify(&mut self) -> Result<(), LimitReached> {
        if self.verified {
            return Ok(());
        }
        let freed = {
            let mut inner = self.limit.inner();
            let freed = inner.admit(&self.buffer, self.of_verified[0])?;
            let narrow: Vec<_> = self.buffer.parts.iter().copied().filter(|part| *part != Part::All).collect();
            inner.release(&self.buffer, &narrow);
            freed
        };
        drop(freed); // without holding others up
        self.verified = true;
        Ok(())
    }

    /// Bytes of the body so far.
    pub fn received(&self) -> usize {
        self.buffer.received.load(Ordering::Relaxed)
    }

    /// Returns when it was evicted.
    pub async fn evicted(&self) {
        self.buffer.evicted.notified().await;
    }

    fn grow(&self, bytes: usize) -> Result<(), LimitReached> {
        let freed = {
            let mut inner = self.limit.inner();
            if self.bytes().is_none() {
                return Err(LimitReached);
            }
            inner.charge(&self.buffer, self.parts(), bytes)?
        };
        drop(freed); // without holding others up
        Ok(())
    }

    /// The parts that it is charged to.
    fn parts(&self) -> &[Part] {
        if self.verified { &self.of_verified } else { &self.buffer.parts }
    }

    fn moves(&self, received: usize) {
        if received - self.buffer.moved.load(Ordering::Relaxed) < PROGRESS_BYTES {
            return;
        }
        self.buffer.moved.store(received, Ordering::Relaxed);
        let mut inner = self.limit.inner();
        if self.buffer.since.load(Ordering::Relaxed) != 0 {
            inner.stop_receiving(&self.buffer);
            inner.start_receiving(&self.buffer);
        }
    }

    fn bytes(&self) -> MutexGuard<'_, Option<Vec<u8>>> {
        self.buffer.bytes.lock().expect("no holder panics")
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut inner = self.limit.inner();
        inner.stop_receiving(&self.buffer);
        inner.release(&self.buffer, self.parts());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const BOUNDS: MemoryBounds = MemoryBounds {
        all: 100_000,
        per_source: 100_000,
        unverified: 50_000,
        per_address: 30_000,
        per_connection: 20_000,
    };

    fn limit() -> Arc<MemoryLimit> {
        Arc::new(MemoryLimit::new(BOUNDS))
    }

    fn stranger(connection: u64, address: u8) -> Sender {
        let address = Ipv4Addr::new(10, 0, 0, address).into();
        Sender { connection: Some((connection, address)), source: SourceId::of("s"), verified: false }
    }

    fn known(source: &str) -> Sender {
        Sender { connection: None, source: SourceId::of(source), verified: true }
    }

    fn receive(limit: &Arc<MemoryLimit>, sender: Sender, bytes: usize) -> Result<Charge, LimitReached> {
        let charge = limit.begin(sender, 0)?;
        charge.append(&vec![b'x'; bytes], 1 << 20).map(|()| charge)
    }

    fn gone(charge: &Charge) -> bool {
        charge.bytes().is_none()
    }

    fn used(limit: &MemoryLimit, part: Part) -> usize {
        limit.inner().parts.get(&part).map_or(0, |usage| usage.bytes)
    }

    #[test]
    fn the_body_idle_longest_is_evicted_and_freed_at_once() {
        let limit = limit();
        let inner: Vec<_> = (0..4).map(|n| receive(&limit, stranger(n, n as u8), 10_000).unwrap()).collect();
        inner[0].append(&[b'x'; 1024], 11_024).unwrap(); // it moves
        inner[1].append(b"x", 10_001).unwrap(); // a drip does not
        let newcomer = receive(&limit, stranger(9, 9), 12_000).unwrap();
        assert_eq!(inner.iter().map(gone).collect::<Vec<_>>(), [false, true, false, false]);
        assert!(used(&limit, Part::Unverified) <= BOUNDS.unverified);
        assert_eq!(inner[1].finish(), Err(LimitReached));
        assert_eq!(inner[1].append(b"x", 1 << 20), Err(LimitReached));
        assert_eq!(newcomer.finish().unwrap().len(), 12_000);
        drop((inner, newcomer));
        assert!(limit.inner().parts.is_empty(), "all is given back");
    }

    #[test]
    fn a_complete_body_stays_and_a_new_one_is_refused() {
        let limit = limit();
        let whole: Vec<_> = (0..4).map(|n| receive(&limit, stranger(n, n as u8), 11_000).unwrap()).collect();
        let kept: Vec<_> = whole.iter().map(|charge| charge.finish().unwrap()).collect();
        assert_eq!(receive(&limit, stranger(9, 9), 5_000).unwrap_err(), LimitReached);
        assert_eq!(kept.iter().map(Vec::len).sum::<usize>(), 44_000);
        drop(whole);
        assert!(receive(&limit, stranger(9, 9), 5_000).is_ok());
    }

    #[test]
    fn connections_and_addresses_evict_their_own_bodies() {
        let limit = limit();
        let other = receive(&limit, stranger(1, 1), 10_000).unwrap();
        let first = receive(&limit, stranger(2, 2), 10_000).unwrap();
        let second = receive(&limit, stranger(2, 2), 10_000).unwrap();
        assert!(gone(&first) && !gone(&second) && !gone(&other), "one connection");
        let third = receive(&limit, stranger(3, 2), 13_000).unwrap();
        let fourth = receive(&limit, stranger(4, 2), 13_000).unwrap();
        assert!(gone(&second) && !gone(&third) && !gone(&fourth) && !gone(&other), "one address");
        assert!(used(&limit, Part::Address(Ipv4Addr::new(10, 0, 0, 2).into())) <= BOUNDS.per_address);
    }

    #[test]
    fn unverified_bodies_leave_room_and_are_evicted_for_verified_ones() {
        let limit = limit();
        let strangers: Vec<_> = (0..4).map(|n| receive(&limit, stranger(n, n as u8), 11_000).unwrap()).collect();
        let with_proof: Vec<_> = (0..3).map(|_| receive(&limit, known("s"), 15_000).unwrap()).collect();
        assert!(!strangers.iter().any(gone));
        let more = receive(&limit, known("s"), 15_000).unwrap();
        assert!(gone(&strangers[0]) && !with_proof.iter().any(gone));
        // never the other way round
        let all: Vec<_> = (0..9).map(|_| receive(&limit, known("s"), 12_000)).collect();
        assert!(strangers.iter().all(gone) && all.iter().any(Result::is_ok));
        assert_eq!(receive(&limit, stranger(9, 9), 15_000).unwrap_err(), LimitReached);
        drop((with_proof, more));
    }

    #[test]
    fn a_verified_body_leaves_the_unverified_share() {
        let limit = limit();
        let mut charge = receive(&limit, stranger(1, 1), 19_000 - REQUEST_BYTES).unwrap();
        charge.finish().unwrap();
        charge.verify().unwrap();
        charge.verify().unwrap();
        let all = used(&limit, Part::All);
        assert_eq!((used(&limit, Part::Unverified), used(&limit, Part::Connection(1))), (0, 0));
        assert_eq!(used(&limit, Part::Source(SourceId::of("s"))), all, "it is in the part of its source");
        assert!((19_000..20_000).contains(&all), "{all}");
        drop(charge);
        assert!(limit.inner().parts.is_empty(), "all is given back");
    }

    /// Of 100,000 bytes a source may have 60,000.
    fn shared() -> Arc<MemoryLimit> {
        Arc::new(MemoryLimit::new(MemoryBounds { per_source: 60_000, ..BOUNDS }))
    }

    #[test]
    fn a_source_gives_up_what_is_its_own_and_leaves_the_rest_to_others() {
        let limit = shared();
        let busy: Vec<_> = (0..9).map(|_| receive(&limit, known("busy"), 10_000).unwrap()).collect();
        let gave_way: Vec<_> = busy.iter().map(gone).collect();
        assert_eq!(gave_way, [true, true, true, true, false, false, false, false, false], "those idle longest");
        let quiet: Vec<_> = (0..3).map(|_| receive(&limit, known("quiet"), 12_000).unwrap()).collect();
        for charge in &busy[4..] {
            charge.finish().unwrap();
        }
        assert_eq!(receive(&limit, known("busy"), 10_000).unwrap_err(), LimitReached, "what has come whole stays");
        assert!(receive(&limit, known("busy"), 3000).is_ok());
        assert!(!quiet.iter().any(gone));
        quiet.iter().for_each(|charge| assert_eq!(charge.finish().unwrap().len(), 12_000));
        drop((busy, quiet));
        assert!(limit.inner().parts.is_empty(), "all is given back");
    }

    #[test]
    fn a_sender_verified_by_its_body_counts_in_the_share_of_its_source() {
        let limit = shared();
        let slow = receive(&limit, known("s"), 10_000).unwrap();
        let whole = |n| {
            let mut charge = receive(&limit, stranger(n, n as u8), 15_000)?;
            charge.finish()?;
            charge.verify().map(|()| charge)
        };
        let first: Vec<_> = (0..3).map(|n| whole(n).unwrap()).collect();
        assert!(!gone(&slow));
        assert_eq!(
            whole(3).unwrap_err(),
            LimitReached,
            "48,000 and 16,000 are too many, and who is slow does not suffice"
        );
        assert!(gone(&slow));
        assert!(receive(&limit, known("other"), 15_000).is_ok());
        assert_eq!(used(&limit, Part::Unverified), 0);
        drop((slow, first));
        assert!(limit.inner().parts.is_empty(), "all is given back");
    }

    #[test]
    fn another_share_counts_from_the_next_body_on() {
        let limit = shared();
        let first: Vec<_> = (0..5).map(|_| receive(&limit, known("s"), 10_000).unwrap()).collect();
        limit.set_bounds(MemoryBounds { per_source: 30_000, ..BOUNDS });
        assert!(!first.iter().any(gone));
        let next = receive(&limit, known("s"), 10_000).unwrap();
        assert_eq!(first.iter().filter(|charge| gone(charge)).count(), 4);
        limit.set_bounds(BOUNDS);
        let more: Vec<_> = (0..6).map(|_| receive(&limit, known("s"), 10_000).unwrap()).collect();
        assert!(!gone(&next) && !more.iter().any(gone), "a single source may take all of it");
    }

    #[test]
    fn the_largest_body_fits_whatever_its_head_takes() {
        let limit = limit();
        let charge = limit.begin(stranger(1, 1), 60_000).unwrap();
        for _ in 0..100 {
            charge.append(&[b'x'; 1000], 100_000).unwrap();
        }
        assert_eq!(charge.finish().unwrap().len(), 100_000);
    }
}
