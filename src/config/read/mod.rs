//! Reading: sections of TOML -> settings.
//!
//! *Failure.* All faults are reported at once, each with its line; no fault hides another one. Where the text is not
//! TOML, only its syntax errors are reported.
//!
//! | level | module | purpose |
//! |---|---|---|
//! | 1 | [`references`], [`strength`] | what several blocks refer to; how weak a secret is |
//! | 2 | [`intake`], [`destination`], [`source_auth`] | blocks that know no other block |
//! | 3 | [`source`] | a block that names destinations |
//! | 3 | [`flags`] | flags of the command line |
//! | 3 | [`warning`] | what may be written and is rarely meant |

mod destination;
mod flags;
mod intake;
mod references;
mod source;
mod source_auth;
mod strength;
mod warning;

pub use flags::Flags;
pub use source_auth::unsigned_places;
pub use warning::{Warning, warnings};

use super::settings::{Alert, AlertTo, Condition, Dlq, History, InvalidValue, Quarantine, Settings, Store};
use super::syntax::values::{self, GIB, KIB, MIB, Range, TIB, span};
use super::syntax::{Faults, Reading, Section, Value, renamed_condition};
use crate::event::DestinationSet;
use destination::destination;
use intake::{admin, check_overlaps, intake};
use references::{Names, url};
use source::source;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::de::{DeTable, DeValue};

/// Reads a configuration file.
///
/// # Errors
/// Every fault, in file order; also where the file cannot be read.
pub fn load(path: &Path) -> Result<Settings, Faults> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text, path),
        Err(e) => {
            let remedy = match e.kind() {
                io::ErrorKind::NotFound => "write the path of a file that is there, or leave out --config",
                io::ErrorKind::PermissionDenied => "make it readable for the user that holdline runs as",
                io::ErrorKind::InvalidData => "write it in UTF-8",
                _ => "write the path of a file",
            };
            Err(Faults::whole_file(path, InvalidValue::new(format!("cannot be read: {e}"), remedy)))
        }
    }
}

/// Parses the text of a configuration; `file` is its name in faults.
///
/// # Errors
/// Every fault, in file order.
pub fn parse(text: &str, file: &Path) -> Result<Settings, Faults> {
    let (root, errors) = DeTable::parse_recoverable(text);
    let reading = Reading::new(text, file);
    let settings = errors.is_empty().then(|| settings(Section::root(&reading, &root)));
    add_syntax_faults(&reading, text, &errors);
    match reading.faults() {
        Some(faults) => Err(faults),
        None => Ok(settings.expect("a text without a fault is TOML")),
    }
}

/// Adds one fault for each line that is not TOML; further errors of a line follow from the first.
fn add_syntax_faults(reading: &Reading<'_>, text: &str, errors: &[toml::de::Error]) {
    let mut line_ends = Vec::new();
    for error in errors {
        let span = error.span().unwrap_or(text.len()..text.len());
        let end = text.get(span.start..).and_then(|rest| rest.find('\n')).map(|n| span.start + n);
        if line_ends.contains(&end) {
            continue;
        }
        line_ends.push(end);
        let wrong = if error.message().starts_with("duplicate key") {
            let remedy = "keep one of them; blocks that may be repeated are [[source]] and [[destination]]";
            InvalidValue::new(format!("`{}` is written twice", text.get(span.clone()).unwrap_or_default()), remedy)
        } else {
            let remedy = "write [block] or key = value, with texts, durations and sizes in quotes";
            InvalidValue::new(format!("not TOML: {}", error.message()), remedy)
        };
        reading.add_fault(span.start, "", wrong);
    }
}

fn settings(mut root: Section<'_>) -> Settings {
    let (intake, intake_at) = root.subsection("intake", Default::default(), intake);
    let (admin, admin_at) = root.subsection("admin", Default::default(), admin);
    check_overlaps(&[("intake.listen", &intake.listen, &intake_at), ("admin.listen", &admin.listen, &admin_at)]);
    let store = root.subsection("store", Store::default(), store);

    let alerts = alerts(&mut root);
    let source_blocks = root.blocks("source", r#"name = "genesys""#);
    let mut destination_names = Names::of("destination");
    let mut destinations = Vec::new();
    for block in root.blocks("destination", r#"name = "crm" and url = "https://...""#) {
        if destinations.len() == DestinationSet::CAPACITY {
            let message = format!("there are more than {} destinations", DestinationSet::CAPACITY);
            block.fault::<()>(message, "remove some, or run a second holdline for them");
        }
        destinations.push(destination(block, &mut destination_names));
    }
    let mut source_names = Names::of("source");
    let sources: Vec<_> = source_blocks.into_iter().map(|b| source(b, &mut source_names, &destination_names)).collect();
    let dlq = root.subsection("dlq", Dlq::default(), dlq);
    let quarantine = root.subsection("quarantine", Default::default(), quarantine);
    let history = root.subsection("history", Default::default(), history);
    Settings { intake, admin, store, sources, destinations, dlq, quarantine, history, alerts }
}

const DRAIN_TIMEOUT: Range<Duration> =
    Range { min: (span("0s"), ""), max: (span("10m"), "a service manager kills what does not stop") };
const DLQ_RETENTION: Range<Duration> = Range { min: (span("1m"), ""), max: (span("365d"), "") };
const BALLAST: Range<u64> = Range { min: (0, ""), max: (64 * values::GIB, "") };
const DLQ_MAX: Range<u64> = Range { min: (values::MIB, ""), max: (16 * values::TIB, "") };

fn store(mut section: Section<'_>) -> Store {
    let defaults = Store::default();
    Store {
        path: section.take("path", |v| directory(&v)).unwrap_or(defaults.path),
        require_power_safe: section.take("require_power_safe", |v| v.boolean()).unwrap_or(defaults.require_power_safe),
        drain_timeout: section
            .take("drain_timeout", |v| values::duration(&v, &DRAIN_TIMEOUT))
            .unwrap_or(defaults.drain_timeout),
        ballast_bytes: section.take("ballast", |v| values::size(&v, &BALLAST)).unwrap_or(defaults.ballast_bytes),
    }
}

fn directory(value: &Value<'_>) -> Option<PathBuf> {
    let example = r#"the path of a directory, such as "/var/lib/holdline""#;
    match value.text(example)? {
        "" => value.fault("the path is empty", format!("write {example}")),
        path => Some(path.into()),
    }
}

fn dlq(mut section: Section<'_>) -> Dlq {
    let defaults = Dlq::default();
    Dlq {
        retention: section.take("retention", |v| values::duration(&v, &DLQ_RETENTION)).unwrap_or(defaults.retention),
        max_bytes: section.take("max_bytes", |v| values::size(&v, &DLQ_MAX)).unwrap_or(defaults.max_bytes),
        source_share: section
            .take("source_share", |v| values::number(&v, &values::SHARE))
            .unwrap_or(defaults.source_share),
        evict: section.take("evict", |v| v.boolean()).unwrap_or(defaults.evict),
    }
}

const HISTORY_RETENTION: Range<Duration> =
    Range { min: (span("0s"), ""), max: (span("365d"), "each event that is remembered takes memory") };
const HISTORY_BYTES: Range<u64> =
    Range { min: (MIB, "duplicates could not be recognised"), max: (TIB, "it is read at each start") };

fn history(mut section: Section<'_>) -> History {
    let defaults = History::default();
    History {
        retention: section
            .take("retention", |v| values::duration(&v, &HISTORY_RETENTION))
            .unwrap_or(defaults.retention),
        max_memory: section.take("max_memory", |v| values::size(&v, &HISTORY_BYTES)).unwrap_or(defaults.max_memory),
        max_bytes: section.take("max_bytes", |v| values::size(&v, &HISTORY_BYTES)).unwrap_or(defaults.max_bytes),
    }
}

const QUARANTINE_BYTES: Range<u64> = Range { min: (64 * KIB, ""), max: (16 * GIB, "all of it is read at each start") };
const QUARANTINE_RETENTION: Range<Duration> = Range { min: (span("1m"), ""), max: (span("365d"), "") };

fn quarantine(mut section: Section<'_>) -> Quarantine {
    let defaults = Quarantine::default();
    Quarantine {
        max_bytes: section.take("max_bytes", |v| values::size(&v, &QUARANTINE_BYTES)).unwrap_or(defaults.max_bytes),
        source_share: section
            .take("source_share", |v| values::number(&v, &values::SHARE))
            .unwrap_or(defaults.source_share),
        unverified_share: section
            .take("unverified_share", |v| values::number(&v, &values::SHARE))
            .unwrap_or(defaults.unverified_share),
        retention: section
            .take("retention", |v| values::duration(&v, &QUARANTINE_RETENTION))
            .unwrap_or(defaults.retention),
    }
}

const DIGEST: Range<Duration> = Range { min: (span("1s"), ""), max: (span("1d"), "") };
const DIGEST_ABSENT: Duration = Duration::from_secs(60);
const COMMAND_EXAMPLE: &str = r#"["/usr/local/bin/page", "oncall"]"#;

/// Reads the blocks, if there are any.
fn alerts(root: &mut Section<'_>) -> Vec<Alert> {
    if !root.has("alert") {
        return Vec::new();
    }
    root.blocks("alert", r#"url = "https://..." and on = ["dead_letter"]"#).into_iter().filter_map(alert).collect()
}

fn alert(mut section: Section<'_>) -> Option<Alert> {
    let both = section.has("url") && section.has("command");
    let url = section.take("url", url).map(AlertTo::Webhook);
    let command = section.take("command", command).map(AlertTo::Command);
    if both || (!section.has("url") && !section.has("command")) {
        let what = if both { "url and command are given at once" } else { "neither url nor command is given" };
        section.fault::<()>(what, r#"write url = "https://..." or command = [...]"#);
    }
    let on = section.require("on", r#"on = ["dead_letter", "oldest_age > 5m"]"#, conditions);
    let digest = section.take("digest", |v| values::duration(&v, &DIGEST)).unwrap_or(DIGEST_ABSENT);
    Some(Alert { to: url.or(command)?, on: on?, digest })
}

fn command(value: Value<'_>) -> Option<Vec<String>> {
    let items = value.items()?;
    if items.is_empty() {
        return value.fault("the command is empty", format!("write {COMMAND_EXAMPLE}"));
    }
    items.iter().map(|item| item.text(COMMAND_EXAMPLE).map(str::to_owned)).collect()
}

fn conditions(value: Value<'_>) -> Option<Vec<Condition>> {
    let items = value.items()?;
    if items.is_empty() {
        return value.fault("the list is empty", r#"name a condition, such as "dead_letter""#);
    }
    let all: Vec<_> = items.iter().map(condition).collect();
    all.into_iter().collect()
}

fn condition(value: &Value<'_>) -> Option<Condition> {
    let found = match value.raw() {
        DeValue::String(text) => match renamed_condition(text) {
            Some(new) => {
                return value.fault(format!("{} is now {new:?}", value.written()), format!("write {new:?}"));
            }
            None => condition_of(text),
        },
        _ => None,
    };
    found.or_else(|| {
        let known = "dead_letter, breaker_open, disk_low, intake_refused, damaged, dlq_over_limit, history_full, retry_after_cut, \
                     \"queue_depth > 10000\", \"oldest_age > 5m\", \"silence > 15m\", \"disk_full < 6h\", \"outage > 30s\", \"certificate < 14d\"";
        value.fault(format!("{} is not a condition", value.written()), format!("write one of {known}"))
    })
}

fn condition_of(text: &str) -> Option<Condition> {
    let mut words = text.split_whitespace();
    let (name, sign, bound, more) = (words.next()?, words.next(), words.next(), words.next());
    let above = |wanted: &str| bound.filter(|_| sign == Some(wanted) && more.is_none());
    let time = |text: &str| humantime::parse_duration(text).ok().filter(|d| !d.is_zero());
    match name {
        "queue_depth" => above(">")?.parse().ok().map(Condition::QueueDepth),
        "oldest_age" => above(">").and_then(time).map(Condition::OldestAge),
        "outage" => above(">").and_then(time).map(Condition::Outage),
        "silence" => above(">").and_then(time).map(Condition::Silence),
        "disk_full" => above("<").and_then(time).map(Condition::DiskFull),
        "certificate" if sign.is_some() => above("<").and_then(time).map(Condition::Certificate),
        "certificate" => Some(Condition::CERTIFICATE),
        _ if sign.is_some() => None,
        name => Condition::PLAIN.into_iter().find(|c| c.to_string() == name),
    }
}

#[cfg(test)]
mod tests;
