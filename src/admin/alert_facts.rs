//! Collects the inputs of the alert rules.

use super::Admin;
use crate::alert::AlertInputs;
use crate::maintenance::Forecast;
use crate::net::tls::Certificate;
use crate::rules::breaker;
use crate::store::Counters;
use std::collections::BTreeMap;

/// Refusals that are caused by holdline, not by the sender.
fn is_ours((status, _): (u16, &str)) -> bool {
    status >= 500 || status == 429
}

impl Admin {
    /// The certificates in use, with their owner.
    pub(super) fn certificates(&self) -> Vec<Certificate> {
        let of_intake = self.tls.iter().flat_map(|tls| tls.certificates());
        let mut all: Vec<Certificate> = of_intake.collect();
        all.extend(self.destinations.now().values().flat_map(|destination| destination.certificates.clone()));
        all.sort_by(|a, b| (&a.of, a.role).cmp(&(&b.of, b.role)));
        all
    }

    /// None while the daemon starts or stops.
    pub async fn facts(&self) -> Option<AlertInputs> {
        let lines = self.lines().await.ok()?;
        let totals = self.store.totals();
        let now = self.clock.now();
        let mut refused = BTreeMap::new();
        for ((_, code), n) in self.counts.refused().into_iter().filter(|(key, _)| is_ours(*key)) {
            *refused.entry(code.to_owned()).or_default() += n;
        }
        let outlook = self.trend.disk_full_in();
        Some(AlertInputs {
            dead_lettered: totals.dead_lettered,
            dead: totals.sum(|t| t.dead),
            queue_depth: totals.sum(Counters::queued),
            oldest_age: lines.values().filter_map(|line| line.oldest).min().map(|at| now.since(at)).unwrap_or_default(),
            closed: self.admission.state().code(),
            sending_stopped: self.store.space().is_ok_and(|space| space.is_full),
            refused,
            damaged: totals.damaged,
            forgotten_early: self.store.remembering().forgotten_early,
            certificates: {
                let all = self.certificates().into_iter();
                all.map(|c| (format!("{} ({})", c.of, c.role.word()), c.ends)).collect()
            },
            dlq_over_limit: self.dlq_overflow.left(),
            dlq_dropped: self.dlq_overflow.dropped(),
            clamped_retry_after: self
                .destinations
                .now()
                .values()
                .map(|d| (d.name.clone(), d.attempts.clamped()))
                .collect(),
            disk_full_in: outlook.time(),
            disk_forecast_known: outlook != Forecast::Unknown,
            breakers: {
                let open = lines.iter().filter(|(_, line)| !matches!(line.breaker, breaker::State::Closed));
                let why = |d| self.store.overrides(d).breaker.map(|fixed| fixed.reason).unwrap_or_default();
                open.map(|(d, _)| (self.destination_name(*d), why(*d))).collect()
            },
            last_outage: self.last_outage().await,
            last_received: self.counts.last_received(),
        })
    }
}
