//! The facts that alerts judge by, gathered from where they are known.

use super::Admin;
use crate::alert::Facts;
use crate::http::certificate::Certificate;
use crate::rules::breaker;
use crate::store::{Gap, Tally};
use std::sync::atomic::Ordering;

/// Refusals for which the sender can do nothing.
fn is_ours((status, _): (u16, &str)) -> bool {
    status >= 500 || status == 429
}

impl Admin {
    /// The last time in which events could not be accepted; none where there was none, or where it cannot be read.
    pub(super) async fn last_gap(&self) -> Option<Gap> {
        let newest = self.read(|store| store.gaps(u64::MAX, 1)).await.ok()?;
        newest.into_iter().next().map(|(_, gap)| gap)
    }

    /// The certificates in use, by whose they are.
    pub(super) fn certificates(&self) -> Vec<Certificate> {
        let of_intake = self.tls.iter().flat_map(|tls| tls.certificates());
        let mut all: Vec<Certificate> = of_intake.collect();
        all.extend(self.destinations.now().values().flat_map(|destination| destination.certificates.clone()));
        all.sort_by(|a, b| (&a.of, a.role).cmp(&(&b.of, b.role)));
        all
    }

    /// None while the daemon starts or stops.
    pub async fn facts(&self) -> Option<Facts> {
        let lines = self.lines().await.ok()?;
        let totals = self.store.totals();
        let now = self.clock.now();
        let refused = self.counts.refused();
        Some(Facts {
            dead_lettered: totals.dead_lettered,
            queue_depth: totals.sum(Tally::queued),
            oldest_age: lines.values().filter_map(|line| line.oldest).min().map(|at| now.since(at)).unwrap_or_default(),
            closed: self.admission.state().code(),
            refused: refused.iter().filter(|(key, _)| is_ours(**key)).map(|(_, n)| n).sum(),
            damaged: totals.damaged,
            forgotten_early: self.store.remembering().forgotten_early,
            certificates: {
                let all = self.certificates().into_iter();
                all.map(|c| (format!("{} ({})", c.of, c.role.word()), c.ends)).collect()
            },
            dlq_beyond: self.beyond.load(Ordering::Relaxed),
            disk_full_in: self.trend.disk_full_in(),
            breakers: {
                let open = lines.iter().filter(|(_, line)| !matches!(line.breaker, breaker::State::Closed));
                let mut names: Vec<String> = open.map(|(d, _)| self.destination_name(*d)).collect();
                names.sort();
                names
            },
            gap: self.last_gap().await,
            heard: self.counts.heard(),
        })
    }
}
