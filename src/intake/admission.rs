//! Admission: whether intake is open, and if not, why.
//!
//! *Invariants.* It closes before the disk is full, so that deliveries and their records still have room; it opens again by
//! itself, at a tenth more than the limit at which it closed. Slow destinations alone never close it.

use crate::store::SourceUsage;
use crate::time::Timestamp;
use std::collections::BTreeSet;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use tokio::sync::Notify;

/// Intake opens again at a tenth more room than the limit at which it closed.
const HYSTERESIS: u64 = 10;
/// Inodes below which intake closes; sled makes few files.
const INODES_MIN: u64 = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    Open,
    DiskLow,
    QueueFull,
    /// By an operator.
    Closed,
    Draining,
}

impl State {
    /// The codes of all closed states.
    pub const CODES: [&str; 4] = ["disk_low", "queue_full", "intake_closed", "draining"];

    /// The code of the answer while closed; none while open.
    pub fn code(self) -> Option<&'static str> {
        match self {
            Self::Open => None,
            Self::DiskLow => Some("disk_low"),
            Self::QueueFull => Some("queue_full"),
            Self::Closed => Some("intake_closed"),
            Self::Draining => Some("draining"),
        }
    }

    pub fn message(self) -> &'static str {
        match self {
            Self::Open => "",
            Self::DiskLow => "the disk is nearly full; events are accepted again when there is room",
            Self::QueueFull => "too many events wait; events are accepted again when some are delivered",
            Self::Closed => "an operator has closed intake; try again later",
            Self::Draining => "the service is stopping; try again in a moment",
        }
    }

    /// `Retry-After` in seconds.
    pub fn retry_after(self) -> u32 {
        match self {
            Self::DiskLow | Self::Closed => 30,
            Self::QueueFull => 10,
            Self::Open | Self::Draining => 2,
        }
    }
}

/// Free space and its limits.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub free_bytes: u64,
    pub free_inodes: u64,
    pub queue_bytes: u64,
    pub disk_reserve: u64,
    pub queue_max: u64,
    /// Bytes by which waiting events may grow when they fail.
    pub growth_bytes: u64,
    /// What dead letters take of the disk.
    pub dead_bytes: u64,
}

impl Room {
    /// Free bytes after the reserve and the growth of waiting events.
    fn left_on_disk(self) -> u64 {
        self.free_bytes.saturating_sub(self.reserve())
    }

    fn reserve(self) -> u64 {
        self.disk_reserve.saturating_add(self.growth_bytes)
    }
}

/// The next state; never leaves [`State::Draining`].
pub fn judge(now: State, room: Room) -> State {
    let more = |mark: u64, closed: State| if now == closed { mark + mark / HYSTERESIS } else { mark };
    let less = |mark: u64, closed: State| if now == closed { mark - mark / HYSTERESIS } else { mark };
    let disk_low =
        room.free_bytes < more(room.reserve(), State::DiskLow) || room.free_inodes < more(INODES_MIN, State::DiskLow);
    if now == State::Draining {
        State::Draining
    } else if disk_low {
        State::DiskLow
    } else if room.queue_bytes > less(room.queue_max, State::QueueFull) {
        State::QueueFull
    } else {
        State::Open
    }
}

/// The sources over their share, where there are several: `share` of the queue limit, or, with their possible growth and
/// their dead letters, of the usable disk. A source is over it until it has a tenth less.
pub fn over_share(
    now: &BTreeSet<String>,
    held: Vec<(String, SourceUsage)>,
    room: Room,
    share: f64,
) -> BTreeSet<String> {
    let sum = |parts: [u64; 3]| parts.into_iter().fold(0, u64::saturating_add);
    let on_disk = sum([room.queue_bytes, room.growth_bytes, room.dead_bytes]).saturating_add(room.left_on_disk());
    let is_beyond = |name: &String, bytes: u64, all: u64| {
        let most = (all as f64 * share) as u64;
        bytes > if now.contains(name) { most - most / HYSTERESIS } else { most }
    };
    let is_over_share = |(name, held): &(String, SourceUsage)| {
        is_beyond(name, held.queue_bytes, room.queue_max)
            || is_beyond(name, sum([held.queue_bytes, held.growth_bytes, held.dead_bytes]), on_disk)
    };
    held.into_iter().filter(is_over_share).map(|(name, _)| name).collect()
}

/// The state in force, shared by all requests.
#[derive(Debug)]
pub struct Admission {
    /// The state by free space; never [`State::Closed`].
    room: AtomicU8,
    /// Until when an operator has closed intake.
    closed_until: AtomicU64,
    /// A stop has begun; events are still accepted.
    stopping: AtomicBool,
    changed: Notify,
    /// Sources over their share.
    over_share: RwLock<BTreeSet<String>>,
}

impl Default for Admission {
    fn default() -> Self {
        let changed = Notify::new();
        Self {
            room: AtomicU8::new(State::Open as u8),
            closed_until: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            changed,
            over_share: RwLock::default(),
        }
    }
}

impl Admission {
    /// The state for a request: a stop takes precedence over an operator, and an operator over free space.
    pub fn state(&self) -> State {
        match self.room() {
            State::Draining => State::Draining,
            _ if self.closed_until().is_some() => State::Closed,
            room => room,
        }
    }

    /// The state for health checks: a stop is announced when it begins.
    pub fn announced(&self) -> State {
        if self.stopping.load(Ordering::Relaxed) { State::Draining } else { self.state() }
    }

    /// Announces a stop.
    pub fn announce_stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether a source is over its share.
    pub fn is_over_share(&self, source: &str) -> bool {
        self.over_share.read().expect("no holder panics").contains(source)
    }

    /// Updates the sources over their share; returns the new ones and those that no longer are.
    pub fn update_over_share(
        &self,
        held: Vec<(String, SourceUsage)>,
        room: Room,
        share: f64,
    ) -> (Vec<String>, Vec<String>) {
        let was = self.over_share.read().expect("no holder panics").clone();
        let is = over_share(&was, held, room, share);
        let without = |a: &BTreeSet<String>, b: &BTreeSet<String>| a.difference(b).cloned().collect::<Vec<_>>();
        let changed = (without(&is, &was), without(&was, &is));
        if is != was {
            *self.over_share.write().expect("no holder panics") = is;
        }
        changed
    }

    /// The state by free space alone.
    pub fn room(&self) -> State {
        let states = [State::Open, State::DiskLow, State::QueueFull, State::Draining];
        states.into_iter().find(|s| *s as u8 == self.room.load(Ordering::Relaxed)).unwrap_or(State::Draining)
    }

    pub fn set(&self, state: State) {
        self.room.store(state as u8, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// An operator closes intake until then.
    pub fn close_until(&self, until: Timestamp) {
        self.closed_until.store(until.0, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Opens intake again, by an operator or after the set time.
    pub fn reopen(&self) {
        self.closed_until.store(0, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Returns when the state may have changed since the last time; one task listens.
    pub async fn changes(&self) {
        self.changed.notified().await;
    }

    /// Until when an operator keeps intake closed.
    pub fn closed_until(&self) -> Option<Timestamp> {
        Some(Timestamp(self.closed_until.load(Ordering::Relaxed))).filter(|until| *until > Timestamp::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_over_its_share_is_refused_until_a_tenth_below_it() {
        let room = |free_bytes, growth_bytes| Room {
            free_bytes,
            free_inodes: 9999,
            queue_bytes: 900,
            disk_reserve: 100,
            queue_max: 1000,
            growth_bytes,
            dead_bytes: 0,
        };
        let look_at = |was: &[&str], a: (u64, u64), b: (u64, u64), free| {
            let was = was.iter().map(ToString::to_string).collect();
            let of = |(queue_bytes, growth_bytes)| SourceUsage { queue_bytes, growth_bytes, dead_bytes: 0 };
            let held = vec![("a".to_owned(), of(a)), ("b".to_owned(), of(b))];
            over_share(&was, held, room(free, a.1 + b.1), 0.8).into_iter().collect::<Vec<_>>()
        };
        let look = |was: &[&str], a, b, free| look_at(was, (a, 0), (b, 0), free);
        assert_eq!(look(&[], 800, 100, 9000), [""; 0]);
        assert_eq!(look(&[], 801, 99, 9000), ["a"]);
        assert_eq!(look(&["a"], 721, 99, 9000), ["a"]);
        assert_eq!(look(&["a"], 720, 99, 9000), [""; 0]);
        assert_eq!(look(&[], 721, 179, 100), ["a"], "what the disk still takes counts, too");
        assert_eq!(look(&[], 720, 180, 0), [""; 0]);
        assert_eq!(
            look_at(&[], (400, 6000), (500, 0), 6200),
            ["a"],
            "what may be written of it when it fails counts, too"
        );
        assert_eq!(look_at(&[], (400, 6000), (500, 0), 8000), [""; 0], "as it does for the room there is");
        assert_eq!(look_at(&[], (99, 0), (801, 9000), 99_000), ["b"], "the queue is full however large the disk is");
        assert_eq!(look_at(&[], (800, 9000), (100, 0), 99_000), [""; 0], "what it may grow by is not in the queue");
    }

    #[test]
    fn dead_letters_that_fill_the_disk_are_held_against_their_source_and_no_other() {
        let look = |a: u64, b: u64, waiting: u64, free: u64| {
            let dead = |dead_bytes| SourceUsage { dead_bytes, ..SourceUsage::default() };
            let held = vec![
                ("a".to_owned(), dead(a)),
                ("b".to_owned(), dead(b)),
                ("c".to_owned(), SourceUsage { queue_bytes: waiting, ..SourceUsage::default() }),
            ];
            let room = Room {
                free_bytes: 100 + free,
                free_inodes: 9999,
                queue_bytes: waiting,
                disk_reserve: 100,
                queue_max: 1000,
                growth_bytes: 0,
                dead_bytes: a + b,
            };
            over_share(&BTreeSet::new(), held, room, 0.8).into_iter().collect::<Vec<_>>()
        };
        assert_eq!(look(8000, 1000, 500, 500), [""; 0]);
        assert_eq!(look(8001, 999, 500, 500), ["a"]);
        assert_eq!(look(8001, 999, 500, 50_000), [""; 0], "there is disk enough");
        assert_eq!(look(9000, 0, 700, 300), ["a"], "not who waits on a disk full of another's dead letters");
        assert_eq!(look(50_000, 0, 0, 50_000), [""; 0], "dead letters are not in the queue");
    }

    #[test]
    fn i17_intake_closes_at_the_limit_and_opens_a_tenth_above_it() {
        let room = |free_bytes, free_inodes, queue_bytes| Room {
            free_bytes,
            free_inodes,
            queue_bytes,
            disk_reserve: 900,
            queue_max: 500,
            growth_bytes: 100,
            dead_bytes: 0,
        };
        for (now, free, inodes, queue, next) in [
            (State::Open, 1000, 9999, 500, State::Open),
            (State::Open, 999, 9999, 0, State::DiskLow),
            (State::Open, 5000, 255, 0, State::DiskLow),
            (State::DiskLow, 1099, 9999, 0, State::DiskLow),
            (State::DiskLow, 1100, 9999, 0, State::Open),
            (State::Open, 5000, 9999, 501, State::QueueFull),
            (State::QueueFull, 5000, 9999, 451, State::QueueFull),
            (State::QueueFull, 5000, 9999, 450, State::Open),
            (State::QueueFull, 999, 9999, 501, State::DiskLow),
            (State::Draining, 5000, 9999, 0, State::Draining),
        ] {
            assert_eq!(judge(now, room(free, inodes, queue)), next, "{now:?} {free} {inodes} {queue}");
        }
    }
}
