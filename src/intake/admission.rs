//! Admission: whether intake is open, and if not, why.
//!
//! *Invariants.* It closes before the disk is full, so that deliveries and their settlements still have room; it opens
//! again by itself, a little above the mark at which it closed. Slow destinations alone never close it.

use crate::time::Timestamp;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use tokio::sync::Notify;

/// Intake opens again when there is this much more room than at the mark where it closed: a tenth.
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
    /// The codes of all that is not open.
    pub const CODES: [&str; 4] = ["disk_low", "overloaded", "intake_closed", "draining"];

    /// The code of the answer while closed; none while open.
    pub fn code(self) -> Option<&'static str> {
        match self {
            Self::Open => None,
            Self::DiskLow => Some("disk_low"),
            Self::QueueFull => Some("overloaded"),
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

/// What there is, and what there must be.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub free_bytes: u64,
    pub free_inodes: u64,
    pub queue_bytes: u64,
    pub disk_reserve: u64,
    pub queue_max: u64,
}

/// The state that follows; never leaves [`State::Draining`].
pub fn judge(now: State, room: Room) -> State {
    let more = |mark: u64, closed: State| if now == closed { mark + mark / HYSTERESIS } else { mark };
    let less = |mark: u64, closed: State| if now == closed { mark - mark / HYSTERESIS } else { mark };
    let disk_low = room.free_bytes < more(room.disk_reserve, State::DiskLow)
        || room.free_inodes < more(INODES_MIN, State::DiskLow);
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

/// The state in force, shared by all requests.
#[derive(Debug)]
pub struct Admission {
    /// What room there is; never [`State::Closed`].
    room: AtomicU8,
    /// An operator keeps events out until then, in milliseconds since the epoch; zero where none does.
    closed_until: AtomicU64,
    /// A stop has begun; events are still accepted.
    leaving: AtomicBool,
    changed: Notify,
}

impl Default for Admission {
    fn default() -> Self {
        let changed = Notify::new();
        Self {
            room: AtomicU8::new(State::Open as u8),
            closed_until: AtomicU64::new(0),
            leaving: AtomicBool::new(false),
            changed,
        }
    }
}

impl Admission {
    /// What a request meets: an operator's word beats the room there is, a stop beats both.
    pub fn state(&self) -> State {
        match self.room() {
            State::Draining => State::Draining,
            _ if self.closed_until().is_some() => State::Closed,
            room => room,
        }
    }

    /// What is said to who asks whether events are accepted: a stop is announced as soon as it begins.
    pub fn announced(&self) -> State {
        if self.leaving.load(Ordering::Relaxed) { State::Draining } else { self.state() }
    }

    /// Announces a stop.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// The state by room alone.
    pub fn room(&self) -> State {
        let states = [State::Open, State::DiskLow, State::QueueFull, State::Draining];
        states.into_iter().find(|s| *s as u8 == self.room.load(Ordering::Relaxed)).unwrap_or(State::Draining)
    }

    pub fn set(&self, state: State) {
        self.room.store(state as u8, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// An operator closes intake until then.
    pub fn keep_out(&self, until: Timestamp) {
        self.closed_until.store(until.0, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// An operator, or the time that was set, opens it again.
    pub fn let_in(&self) {
        self.closed_until.store(0, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Returns when the state may have changed since the last time; one task listens.
    pub async fn changes(&self) {
        self.changed.notified().await;
    }

    /// Until when an operator keeps events out.
    pub fn closed_until(&self) -> Option<Timestamp> {
        Some(Timestamp(self.closed_until.load(Ordering::Relaxed))).filter(|until| *until > Timestamp::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i17_it_closes_at_the_mark_and_opens_a_tenth_above_it() {
        let room = |free_bytes, free_inodes, queue_bytes| Room {
            free_bytes,
            free_inodes,
            queue_bytes,
            disk_reserve: 1000,
            queue_max: 500,
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
