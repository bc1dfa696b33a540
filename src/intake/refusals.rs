//! Refusals counted: which source's requests are refused and why, for the status, the metrics and the log.
//!
//! *Invariants.* There are no more entries than sources and codes: what is sent to a source that is not configured counts under
//! none, whatever it calls itself. Nothing that a sender chose is kept or written.

use super::refusal::Refusal;
use crate::rules::throttle::Throttle;
use crate::time::Timestamp;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// Of refusals of one source for one reason a line is written once in so long.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// What requests count under that name no source of the configuration; no source can be called so.
pub const UNKNOWN_SOURCE: &str = "(unknown)";

/// What was refused for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    pub status: u16,
    pub code: &'static str,
    pub count: u64,
}

type BySource = BTreeMap<String, BTreeMap<(u16, &'static str), (u64, Throttle)>>;

/// All refusals since the start.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<BySource>);

impl Refusals {
    /// `source`: one of the configuration; None for any other name.
    pub(super) fn count(&self, source: Option<&str>, refusal: &Refusal, now: Timestamp) {
        let source = source.unwrap_or(UNKNOWN_SOURCE);
        let (status, code) = (refusal.status.as_u16(), refusal.code);
        let mut all = self.all();
        if !all.contains_key(source) {
            all.insert(source.to_owned(), BTreeMap::new());
        }
        let Some(entry) = all.get_mut(source).map(|codes| codes.entry((status, code)).or_default()) else { return };
        entry.0 += 1;
        let told = entry.1.count(now, TOLD_EVERY);
        drop(all);
        if let Some(requests) = told {
            tracing::warn!(source, status, code, requests, "requests are refused");
        }
    }

    /// By status and code, of all sources together.
    pub fn by_code(&self) -> BTreeMap<(u16, &'static str), u64> {
        let mut sums = BTreeMap::new();
        for (key, (count, _)) in self.all().values().flatten() {
            *sums.entry(*key).or_default() += count;
        }
        sums
    }

    /// By source, [`UNKNOWN_SOURCE`] among them.
    pub fn by_source(&self) -> BTreeMap<String, Vec<Refused>> {
        let list = |codes: &BTreeMap<(u16, &'static str), (u64, Throttle)>| {
            codes.iter().map(|((status, code), (count, _))| Refused { status: *status, code, count: *count }).collect()
        };
        self.all().iter().map(|(source, codes)| (source.clone(), list(codes))).collect()
    }

    fn all(&self) -> MutexGuard<'_, BySource> {
        self.0.lock().expect("no holder panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_counted_by_source_and_reason() {
        let refusals = Refusals::default();
        for (source, refusal) in [
            (Some("a"), Refusal::encoding()),
            (Some("a"), Refusal::encoding()),
            (Some("a"), Refusal::method()),
            (Some("b"), Refusal::encoding()),
            (None, Refusal::unknown_source()),
            (None, Refusal::unknown_source()),
        ] {
            refusals.count(source, &refusal, Timestamp(1));
        }
        let by_source = refusals.by_source();
        let of = |source: &str| by_source[source].iter().map(|r| (r.status, r.code, r.count)).collect::<Vec<_>>();
        assert_eq!(of("a"), [(405, "method_not_allowed", 1), (415, "unsupported_encoding", 2)]);
        assert_eq!(of("b"), [(415, "unsupported_encoding", 1)]);
        assert_eq!((of(UNKNOWN_SOURCE), by_source.len()), (vec![(404, "unknown_source", 2)], 3));
        assert_eq!(refusals.by_code()[&(415, "unsupported_encoding")], 3);
    }
}
