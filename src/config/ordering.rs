//! The section `[destination.ordering]` and the key `ttl`: what goes before what, and what becomes of what comes too late.

use super::section::{Section, Value};
use super::source::check_pattern;
use super::values::{self, Limits, span};
use crate::rules::staleness::OnStale;
use crate::rules::ttl::Ttl;
use std::time::Duration;

const REORDER_WINDOW: Limits<Duration> =
    Limits { min: (span("0s"), ""), max: (span("5m"), "every event can wait for so long") };
const TTL: Limits<Duration> =
    Limits { min: (span("1s"), ""), max: (span("90d"), "no delivery is tried for longer, see `retry.max_age`") };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ordering {
    pub mode: OrderMode,
    pub on_dead_letter: OnDeadLetter,
    pub on_stale: OnStale,
    /// How long an event can be overtaken by one of its interaction that happened before it.
    pub reorder_window: Duration,
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
        Self {
            mode: OrderMode::Interaction,
            on_dead_letter: OnDeadLetter::Continue,
            on_stale: OnStale::Flag,
            reorder_window: Duration::ZERO,
        }
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
        reorder_window: section
            .take("reorder_window", |v| values::duration(&v, &REORDER_WINDOW))
            .unwrap_or(absent.reorder_window),
    }
}

/// How long events are worth sending, by patterns of their types.
pub(super) fn ttl(value: Value<'_>) -> Option<Ttl> {
    let example = r#"{ "screen_pop.*" = "2m" }"#;
    let entries = value.entries(example)?;
    if entries.is_empty() {
        return value.wrong("the table is empty", format!("write ttl = {example}, or remove it for no limit"));
    }
    let limit = |(pattern, value): (&str, Value<'_>)| {
        value.check(check_pattern(pattern))?;
        Some((pattern.to_owned(), values::duration(&value, &TTL)?))
    };
    Some(Ttl::new(entries.into_iter().filter_map(limit).collect()))
}
