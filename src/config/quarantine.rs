//! The block `[quarantine]`: bounds of what is kept apart.

use super::section::Section;
use super::settings::Quarantine;
use super::values::{self, GIB, KIB, Limits, span};
use std::time::Duration;

const MAX_BYTES: Limits<u64> = Limits { min: (64 * KIB, ""), max: (16 * GIB, "all of it is read at each start") };
const RETENTION: Limits<Duration> = Limits { min: (span("1m"), ""), max: (span("365d"), "") };

pub(super) fn quarantine(mut section: Section<'_>) -> Quarantine {
    let absent = Quarantine::default();
    Quarantine {
        max_bytes: section.take("max_bytes", |v| values::size(&v, &MAX_BYTES)).unwrap_or(absent.max_bytes),
        source_share: section
            .take("source_share", |v| values::number(&v, &values::SHARE))
            .unwrap_or(absent.source_share),
        unverified_share: section
            .take("unverified_share", |v| values::number(&v, &values::SHARE))
            .unwrap_or(absent.unverified_share),
        retention: section.take("retention", |v| values::duration(&v, &RETENTION)).unwrap_or(absent.retention),
    }
}
