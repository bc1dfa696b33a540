//! Entries of the audit log: changes and accesses, each one occurrence or several equal ones.
//!
//! *Format.* Version 1 is `at`, `who`, `what`, `count`, for one occurrence. Version 2 adds `since`, for several. The lower
//! version that suffices is written, so a store without repetitions contains version 1 only.
//!
//! *Bounds.* A repetition updates its entry in place for [`REPEATED_FOR`]. So a repeated request, at any rate, adds one
//! entry per hour and kind, and does not push other entries out of the [`AUDIT_MAX`] that are kept.

use super::codec::{self, Damaged, Kind};
use crate::time::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// Number of entries that are kept; older ones are deleted.
pub const AUDIT_MAX: u64 = 100_000;
/// Repetitions within this time of the first occurrence share its entry.
pub const REPEATED_FOR: Duration = Duration::from_secs(3600);
/// Number of different examples named in one entry; further ones are only counted.
pub const EXAMPLES_MAX: usize = 8;
/// Length to which an example is cut, in characters.
const EXAMPLE_CHARS_MAX: usize = 120;
/// Begins the text of an entry for a request that changed nothing.
const NO_CHANGE: &str = "changed nothing";

/// A change made by an operator, or an access to confidential data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Time of the occurrence; of the last one if there are several.
    pub at: Timestamp,
    /// The name of a token, `unix:` and a user, a component of the daemon, or `unauthenticated`.
    pub who: String,
    pub what: String,
    /// Number of changed items; for several occurrences, the number of occurrences.
    pub count: u64,
    /// Time of the first of several occurrences; `None` for a single one.
    pub since: Option<Timestamp>,
}

impl Audit {
    pub fn encode(&self) -> Vec<u8> {
        let once = (self.at, &self.who, &self.what, self.count);
        match self.since {
            None => codec::encode(Kind::Audit, &once),
            Some(since) => codec::seal_as(Kind::Audit, 2, &codec::payload(&(once, since))),
        }
    }

    pub fn decode(sealed: &[u8]) -> Result<Self, Damaged> {
        type Once = (Timestamp, String, String, u64);
        let ((at, who, what, count), since) = match codec::open_any(Kind::Audit, sealed)? {
            (2, payload) => {
                codec::from_payload::<(Once, Timestamp)>(payload).map(|(once, since)| (once, Some(since)))?
            }
            (_, payload) => (codec::from_payload::<Once>(payload)?, None),
        };
        Ok(Self { at, who, what, count, since })
    }
}

/// Occurrences of one kind. They share an entry with other occurrences of that kind by the same caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repeated {
    /// Description of the kind.
    pub what: String,
    /// Examples of affected items; at most [`EXAMPLES_MAX`] are named in the entry.
    pub examples: Vec<String>,
    /// Whether there were more examples than are named.
    pub more: bool,
    pub since: Timestamp,
    pub at: Timestamp,
    pub count: u64,
}

impl Repeated {
    /// One occurrence.
    pub fn once(what: impl Into<String>, example: Option<String>, at: Timestamp) -> Self {
        let examples = example.as_deref().map(shortened).into_iter().collect();
        Self { what: what.into(), examples, more: false, since: at, at, count: 1 }
    }

    /// A request that changed nothing.
    pub fn no_change(what: &str, at: Timestamp) -> Self {
        Self::once(NO_CHANGE, Some(what.to_owned()), at)
    }

    /// Adds later occurrences.
    pub fn add(&mut self, later: &Self) {
        for example in &later.examples {
            if self.examples.contains(example) {
                continue;
            }
            if self.examples.len() < EXAMPLES_MAX {
                self.examples.push(example.clone());
            } else {
                self.more = true;
            }
        }
        self.more |= later.more;
        self.since = self.since.min(later.since);
        self.at = self.at.max(later.at);
        self.count = self.count.saturating_add(later.count);
    }

    fn words(&self) -> String {
        let named = self.examples.join(", ");
        match (named.is_empty(), self.more) {
            (true, _) => self.what.clone(),
            (false, false) => format!("{}: {named}", self.what),
            (false, true) => format!("{}: {named} and others", self.what),
        }
    }

    fn entry(&self, who: &str) -> Audit {
        let since = (self.count > 1).then_some(self.since);
        Audit { at: self.at, who: who.to_owned(), what: self.words(), count: self.count, since }
    }
}

fn shortened(example: &str) -> String {
    match example.char_indices().nth(EXAMPLE_CHARS_MAX) {
        Some((cut, _)) => format!("{}...", &example[..cut]),
        None => example.to_owned(),
    }
}

/// The entries for repetitions that may still be updated, by caller and kind; only in memory.
#[derive(Debug, Default)]
pub struct OpenEntries(BTreeMap<(String, String), (u64, Repeated)>);

impl OpenEntries {
    /// The number of the entry for these occurrences (`next` for a new entry), and its present content.
    pub fn take_up(&mut self, who: &str, repeated: &Repeated, next: u64) -> (u64, Audit) {
        let now = repeated.at;
        self.0.retain(|_, (number, open)| {
            now < open.since.after(REPEATED_FOR) && open.since <= now && next - *number < AUDIT_MAX
        });
        let key = (who.to_owned(), repeated.what.clone());
        let (number, open) = self.0.entry(key).and_modify(|(_, open)| open.add(repeated)).or_insert_with(|| {
            (next, repeated.clone()) // the first within the hour
        });
        (*number, open.entry(who))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_800_000_000_000);

    fn at(seconds: u64) -> Timestamp {
        START.after(Duration::from_secs(seconds))
    }

    #[test]
    fn both_versions_are_read() {
        let once = Audit { at: at(1), who: "ada".into(), what: "dlq purge".into(), count: 3, since: None };
        let several = Audit { since: Some(at(0)), ..once.clone() };
        for (entry, version) in [(once, 1), (several, 2)] {
            let sealed = entry.encode();
            assert_eq!((sealed[1], Audit::decode(&sealed)), (version, Ok(entry)));
            assert!(Audit::decode(&sealed[..sealed.len() - 1]).is_err());
        }
    }

    #[test]
    fn repetitions_share_an_entry_for_an_hour() {
        let mut open = OpenEntries::default();
        let refused = |from: &str, seconds| Repeated::once("wrong token", Some(from.to_owned()), at(seconds));
        let (number, entry) = open.take_up("unauthenticated", &refused("10.0.0.1", 0), 7);
        assert_eq!((number, entry.since, entry.count), (7, None, 1));
        let (number, entry) = open.take_up("unauthenticated", &refused("10.0.0.2", 3599), 8);
        assert_eq!((number, entry.since, entry.at, entry.count), (7, Some(at(0)), at(3599), 2));
        assert_eq!(entry.what, "wrong token: 10.0.0.1, 10.0.0.2");
        assert_eq!(open.take_up("ada", &refused("10.0.0.1", 3599), 8).0, 8, "another caller");
        assert_eq!(open.take_up("unauthenticated", &refused("10.0.0.1", 3600), 9).0, 9, "another hour");
        assert_eq!(open.take_up("ada", &refused("10.0.0.1", 3601), 8 + AUDIT_MAX).0, 8 + AUDIT_MAX, "it is gone");
    }

    #[test]
    fn examples_are_bounded_in_number_and_length() {
        let mut all = Repeated::once("read bodies", Some("x".repeat(5000)), at(0));
        for n in 0..1000 {
            all.add(&Repeated::once("read bodies", Some(format!("id-{n}")), at(n)));
        }
        let entry = all.entry("ada");
        assert_eq!(entry.count, 1001);
        assert!(entry.what.len() < 300 && entry.what.ends_with("id-6 and others"), "{}", entry.what);
    }
}
