//! Faults: what is wrong in a configuration, where, and what to write instead.

use crate::config::settings::InvalidValue;
use std::fmt;
use std::path::{Path, PathBuf};

/// One thing that is wrong. Shown as `FILE:LINE:COLUMN: KEY: MESSAGE; REMEDY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub file: PathBuf,
    /// From 1; 0 for the whole file.
    pub line: usize,
    /// From 1, in characters; 0 for the whole file.
    pub column: usize,
    /// Dotted, as in `destination[1].retry.base`; empty where the fault has no key.
    pub key: String,
    /// What is wrong. Never holds a secret.
    pub message: String,
    /// What to write or do instead.
    pub remedy: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if self.line > 0 {
            write!(f, "{}:{}:", self.line, self.column)?;
        }
        if !self.key.is_empty() {
            write!(f, " {}:", self.key)?;
        }
        write!(f, " {}; {}", self.message, self.remedy)
    }
}

/// Every fault of one configuration, in file order; at least one. Shown as one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// The file as a whole cannot be used.
    pub fn whole_file(file: &Path, wrong: InvalidValue) -> Self {
        let InvalidValue { message, remedy } = wrong;
        Self(vec![Fault { file: file.into(), line: 0, column: 0, key: String::new(), message, remedy }])
    }

    /// None where there are none.
    pub fn of(mut faults: Vec<Fault>) -> Option<Self> {
        faults.sort_by_key(|f| (f.line, f.column));
        (!faults.is_empty()).then_some(Self(faults))
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Fault> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Faults {
    type Item = &'a Fault;
    type IntoIter = std::slice::Iter<'a, Fault>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// The known word closest to `written`, if any is close.
pub fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = written.to_lowercase();
    let distance_max = (lower.chars().count() / 3).clamp(1, 4);
    known
        .into_iter()
        .map(|k| (strsim::damerau_levenshtein(&lower, k), k))
        .filter(|(distance, _)| *distance <= distance_max)
        .min()
        .map(|(_, k)| k)
}

/// Place, old name, new name. The place is the dotted key of the table, without the numbers of blocks.
pub const RENAMED: &[(&str, &str, &str)] = &[
    ("intake", "max_in_flight", "max_buffered_bytes"),
    ("intake", "max_unverified", "max_unverified_bytes"),
    ("intake", "max_unverified_per_address", "max_unverified_bytes_per_address"),
    ("intake", "max_unverified_per_connection", "max_unverified_bytes_per_connection"),
    ("source", "on_unparsable", "on_invalid_body"),
    ("destination.breaker", "open_for", "open_duration"),
    ("destination.concurrency", "ramp", "ramp_up"),
    (CONDITIONS, "gap", "outage"),
    (CONDITIONS, "dlq_full", "dlq_over_limit"),
];

/// The place of the conditions of alerts.
const CONDITIONS: &str = "alert.on";

/// The new name of a key. `path` is the dotted key of its table, as in `destination[1].breaker`.
pub fn renamed_key(path: &str, key: &str) -> Option<&'static str> {
    let place: String = path.split(['[', ']']).step_by(2).collect();
    RENAMED.iter().find(|(at, old, _)| *at == place && *old == key).map(|(_, _, new)| *new)
}

/// An alert condition under its new name, where it is written under its old one: `outage > 30s` for `outage > 30s`.
pub fn renamed_condition(text: &str) -> Option<String> {
    let name = text.split_whitespace().next()?;
    let (_, _, new) = RENAMED.iter().find(|(at, old, _)| *at == CONDITIONS && *old == name)?;
    Some(text.trim_start().replacen(name, new, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_near() {
        let known = ["timeout", "types", "to", "retry"];
        let cases = [
            ("timeuot", Some("timeout")),
            ("Time-Out", Some("timeout")),
            ("type", Some("types")),
            ("t", Some("to")),
            ("colour", None),
            ("", None),
        ];
        for (written, wanted) in cases {
            assert_eq!(nearest(written, known), wanted, "{written}");
        }
    }
}
