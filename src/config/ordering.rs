//! The section `[destination.ordering]`: what goes before what, and what becomes of what comes too late.

use super::section::Section;
use super::values;
use crate::rules::staleness::OnStale;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ordering {
    pub mode: OrderMode,
    pub on_dead_letter: OnDeadLetter,
    pub on_stale: OnStale,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderMode {
    /// One event of an interaction at a time, in the order of acceptance.
    Interaction,
    None,
}

/// What a dead letter means for the later events of its interaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDeadLetter {
    Continue,
    /// They wait until the dead letter is redriven or purged.
    Hold,
}

impl Default for Ordering {
    fn default() -> Self {
        Self { mode: OrderMode::Interaction, on_dead_letter: OnDeadLetter::Continue, on_stale: OnStale::Flag }
    }
}

pub(super) fn ordering(mut section: Section<'_>) -> Ordering {
    let absent = Ordering::default();
    let modes = [("interaction", OrderMode::Interaction), ("none", OrderMode::None)];
    let ends = [("continue", OnDeadLetter::Continue), ("hold", OnDeadLetter::Hold)];
    let stale = [
        ("deliver", OnStale::Deliver),
        ("flag", OnStale::Flag),
        ("discard", OnStale::Discard),
        ("dead-letter", OnStale::DeadLetter),
    ];
    Ordering {
        mode: section.take("mode", |v| values::choice(&v, &modes)).unwrap_or(absent.mode),
        on_dead_letter: section.take("on_dead_letter", |v| values::choice(&v, &ends)).unwrap_or(absent.on_dead_letter),
        on_stale: section.take("on_stale", |v| values::choice(&v, &stale)).unwrap_or(absent.on_stale),
    }
}
