//! The reader: the text of a configuration -> settings, or every fault in it.
//!
//! *Failure.* A fault never hides another one. Where the text is not TOML, only that is told: what was meant is unknown.

use super::admin::admin;
use super::destination::destination;
use super::fault::{Faults, Wrong};
use super::history::history;
use super::intake::{intake, note_overlaps};
use super::names::Names;
use super::quarantine::quarantine;
use super::section::{Reading, Section, Value};
use super::settings::{Dlq, Settings, Store};
use super::source::source;
use super::values::{self, Limits, span};
use crate::event::DestinationSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::de::DeTable;

/// Reads a configuration file.
///
/// # Errors
/// Every fault, in file order; also where the file cannot be read.
pub fn load(path: &Path) -> Result<Settings, Faults> {
    match std::fs::read_to_string(path) {
        Ok(text) => read(&text, path),
        Err(e) => {
            let remedy = match e.kind() {
                io::ErrorKind::NotFound => "write the path of a file that is there, or leave out --config",
                io::ErrorKind::PermissionDenied => "make it readable for the user that holdline runs as",
                io::ErrorKind::InvalidData => "write it in UTF-8",
                _ => "write the path of a file",
            };
            Err(Faults::whole_file(path, Wrong::new(format!("cannot be read: {e}"), remedy)))
        }
    }
}

/// Reads the text of a configuration; `file` is what faults call it.
///
/// # Errors
/// Every fault, in file order.
pub fn read(text: &str, file: &Path) -> Result<Settings, Faults> {
    let (root, errors) = DeTable::parse_recoverable(text);
    let reading = Reading::new(text, file);
    let settings = errors.is_empty().then(|| settings(Section::root(&reading, &root)));
    note_syntax(&reading, text, &errors);
    match reading.faults() {
        Some(faults) => Err(faults),
        None => Ok(settings.expect("a text without a fault is TOML")),
    }
}

/// One fault for each line that is not TOML; what follows on the same line is a consequence.
fn note_syntax(reading: &Reading<'_>, text: &str, errors: &[toml::de::Error]) {
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
            Wrong::new(format!("`{}` is written twice", text.get(span.clone()).unwrap_or_default()), remedy)
        } else {
            let remedy = "write [block] or key = value, with texts, durations and sizes in quotes";
            Wrong::new(format!("not TOML: {}", error.message()), remedy)
        };
        reading.note(span.start, "", wrong);
    }
}

fn settings(mut root: Section<'_>) -> Settings {
    let (intake, intake_at) = root.part("intake", Default::default(), intake);
    let (admin, admin_at) = root.part("admin", Default::default(), admin);
    note_overlaps(&[("intake.listen", &intake.listen, &intake_at), ("admin.listen", &admin.listen, &admin_at)]);
    let store = root.part("store", Store::default(), store);

    let alerts = super::alert::alerts(&mut root);
    let source_blocks = root.blocks("source", r#"name = "genesys""#);
    let mut destination_names = Names::of("destination");
    let mut destinations = Vec::new();
    for block in root.blocks("destination", r#"name = "crm" and url = "https://...""#) {
        if destinations.len() == DestinationSet::CAPACITY {
            let message = format!("there are more than {} destinations", DestinationSet::CAPACITY);
            block.wrong::<()>(message, "remove some, or run a second holdline for them");
        }
        destinations.push(destination(block, &mut destination_names));
    }
    let mut source_names = Names::of("source");
    let sources: Vec<_> = source_blocks.into_iter().map(|b| source(b, &mut source_names, &destination_names)).collect();
    let dlq = root.part("dlq", Dlq::default(), dlq);
    let quarantine = root.part("quarantine", Default::default(), quarantine);
    let history = root.part("history", Default::default(), history);
    Settings { intake, admin, store, sources, destinations, dlq, quarantine, history, alerts }
}

const DRAIN_TIMEOUT: Limits<Duration> =
    Limits { min: (span("0s"), ""), max: (span("10m"), "a service manager kills what does not stop") };
const RETENTION: Limits<Duration> = Limits { min: (span("1m"), ""), max: (span("365d"), "") };
const BALLAST: Limits<u64> = Limits { min: (0, ""), max: (64 * values::GIB, "") };
const DLQ_MAX: Limits<u64> = Limits { min: (values::MIB, ""), max: (16 * values::TIB, "") };

fn store(mut section: Section<'_>) -> Store {
    let absent = Store::default();
    Store {
        path: section.take("path", |v| directory(&v)).unwrap_or(absent.path),
        require_power_safe: section.take("require_power_safe", |v| v.boolean()).unwrap_or(absent.require_power_safe),
        drain_timeout: section
            .take("drain_timeout", |v| values::duration(&v, &DRAIN_TIMEOUT))
            .unwrap_or(absent.drain_timeout),
        ballast_bytes: section.take("ballast", |v| values::size(&v, &BALLAST)).unwrap_or(absent.ballast_bytes),
    }
}

fn directory(value: &Value<'_>) -> Option<PathBuf> {
    let example = r#"the path of a directory, such as "/var/lib/holdline""#;
    match value.text(example)? {
        "" => value.wrong("the path is empty", format!("write {example}")),
        path => Some(path.into()),
    }
}

fn dlq(mut section: Section<'_>) -> Dlq {
    let absent = Dlq::default();
    Dlq {
        retention: section.take("retention", |v| values::duration(&v, &RETENTION)).unwrap_or(absent.retention),
        max_bytes: section.take("max_bytes", |v| values::size(&v, &DLQ_MAX)).unwrap_or(absent.max_bytes),
        source_share: section
            .take("source_share", |v| values::number(&v, &values::SHARE))
            .unwrap_or(absent.source_share),
        evict: section.take("evict", |v| v.boolean()).unwrap_or(absent.evict),
    }
}

#[cfg(test)]
mod tests;
