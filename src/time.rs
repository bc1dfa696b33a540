//! A point in time: milliseconds since the Unix epoch, as read from [`crate::clock::Clock`].
//!
//! Everything below the shells takes such a `now` as an argument; nothing here reads a clock.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch (UTC).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

impl Timestamp {
    pub const ZERO: Self = Self(0);
    /// Later than anything that will happen.
    pub const NEVER: Self = Self(u64::MAX);
    /// The last instant that RFC 3339 can write (9999-12-31T23:59:59.999Z).
    const RFC3339_MAX: u64 = 253_402_300_799_999;

    /// The instant `by` after this one; saturates at [`Timestamp::NEVER`].
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(millis(by)))
    }

    /// The instant `by` before this one; saturates at zero.
    pub fn before(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(millis(by)))
    }

    /// How long ago `earlier` was; zero where it lies in the future.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    pub fn from_system(at: SystemTime) -> Self {
        Self(at.duration_since(UNIX_EPOCH).map_or(0, millis))
    }

    pub fn to_system(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.0.min(Self::RFC3339_MAX))
    }
}

/// RFC 3339 in UTC with milliseconds, as in `2026-03-19T22:04:48.128Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_rfc3339_millis(self.to_system()))
    }
}

/// A duration in whole milliseconds; saturates.
pub fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_and_shows_rfc3339() {
        let t = Timestamp(1_773_957_888_128);
        assert_eq!(t.to_string(), "2026-03-19T22:04:48.128Z");
        assert_eq!(t.after(Duration::from_secs(1)).since(t), Duration::from_secs(1));
        assert_eq!(t.since(t.after(Duration::from_secs(1))), Duration::ZERO);
        assert_eq!(Timestamp::NEVER.after(Duration::from_secs(1)), Timestamp::NEVER);
        assert_eq!(Timestamp(5).before(Duration::from_secs(1)), Timestamp::ZERO);
        assert!(Timestamp::NEVER.to_string().starts_with("9999-12-31"));
    }
}
