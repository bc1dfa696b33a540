//! The block `[history]`: how much is remembered of what was accepted and settled.

use super::section::Section;
use super::settings::History;
use super::values::{self, Limits, MIB, TIB, span};
use std::time::Duration;

const RETENTION: Limits<Duration> =
    Limits { min: (span("0s"), ""), max: (span("365d"), "each event that is remembered takes memory") };
const MAX_BYTES: Limits<u64> =
    Limits { min: (MIB, "duplicates could not be recognised"), max: (TIB, "it is read at each start") };

pub(super) fn history(mut section: Section<'_>) -> History {
    let absent = History::default();
    History {
        retention: section.take("retention", |v| values::duration(&v, &RETENTION)).unwrap_or(absent.retention),
        max_memory: section.take("max_memory", |v| values::size(&v, &MAX_BYTES)).unwrap_or(absent.max_memory),
        max_bytes: section.take("max_bytes", |v| values::size(&v, &MAX_BYTES)).unwrap_or(absent.max_bytes),
    }
}
