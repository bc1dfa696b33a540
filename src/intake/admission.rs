//! Admission: whether intake is open, and if not, why.
//!
//! *Invariants.* It closes before the disk is full, so that deliveries and their settlements still have room; it opens
//! again by itself, a little above the mark at which it closed. Slow destinations alone never close it.

use std::sync::atomic::{AtomicU8, Ordering};

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
    Draining,
}

impl State {
    /// The code of the answer while closed; none while open.
    pub fn code(self) -> Option<&'static str> {
        match self {
            Self::Open => None,
            Self::DiskLow => Some("disk_low"),
            Self::QueueFull => Some("overloaded"),
            Self::Draining => Some("draining"),
        }
    }

    pub fn message(self) -> &'static str {
        match self {
            Self::Open => "",
            Self::DiskLow => "the disk is nearly full; events are accepted again when there is room",
            Self::QueueFull => "too many events wait; events are accepted again when some are delivered",
            Self::Draining => "the service is stopping; try again in a moment",
        }
    }

    /// `Retry-After` in seconds.
    pub fn retry_after(self) -> u32 {
        match self {
            Self::DiskLow => 30,
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
pub struct Admission(AtomicU8);

impl Default for Admission {
    fn default() -> Self {
        Self(AtomicU8::new(State::Open as u8))
    }
}

impl Admission {
    pub fn state(&self) -> State {
        let states = [State::Open, State::DiskLow, State::QueueFull, State::Draining];
        states.into_iter().find(|s| *s as u8 == self.0.load(Ordering::Relaxed)).unwrap_or(State::Draining)
    }

    pub fn set(&self, state: State) {
        self.0.store(state as u8, Ordering::Relaxed);
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
