//! Reload: applies new settings to a running daemon, all of them or none.
//!
//! *What a reload applies.* The sources with their secrets. The destinations, except `ordering`: added ones, changed
//! settings, secrets read again, and the removal of one for which no delivery waits. The limits that intake applies per
//! request: `max_body`, `max_json_depth`, `max_batch`, `body_timeout`, `body_grace`, `min_body_rate`,
//! `max_unverified_bytes` and its parts, `source_share`, `success_status`. Any other change needs a restart, which is
//! logged; then nothing is changed, so that a running daemon never uses half of a file.
//!
//! *Order.* Deliveries keep their places: an attempt in flight ends under the old settings, and the next one of its
//! interaction starts after it under the new ones. Intake uses the new sources only when dispatch has the new
//! destinations.
//!
//! *Failure.* All steps that can fail precede the first change.

use super::process::notify;
use super::{Daemon, build_intake};
use crate::config::Settings;
use crate::config::settings;
use crate::dispatch::{Destination, DestinationMap, Question, RequestTemplate, SetupError};
use crate::event::DestinationId;
use crate::intake::Intake;
use crate::store::Windows;
use anyhow::{Context, anyhow, bail};
use sd_notify::NotifyState;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::oneshot;

/// The destinations after a reload.
struct NewDestinations {
    all: DestinationMap,
    /// Secrets and certificates that were read again, for destinations with unchanged settings.
    templates: Vec<(Arc<Destination>, RequestTemplate)>,
}

impl Daemon {
    /// Reloads; the result is logged and sent to the service manager.
    pub(super) async fn reload_and_notify(&mut self, settings: Settings) {
        notify(&[NotifyState::Reloading]);
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            notify(&[now]); // newer service managers require it
        }
        match self.reload(settings).await {
            Ok(()) => tracing::info!("the configuration was reloaded"),
            Err(why) => tracing::error!("the configuration was not reloaded, nothing has changed: {why:#}"),
        }
        notify(&[NotifyState::Ready, NotifyState::Status(&self.summary())]);
    }

    /// Applies these settings. After an error, which says why they cannot be applied, nothing has changed.
    pub async fn reload(&mut self, settings: Settings) -> anyhow::Result<()> {
        let restart = needs_restart(&self.settings, &settings);
        if !restart.is_empty() {
            bail!("a restart is needed for what has changed in {}; systemctl restart holdline", restart.join(", "));
        }
        self.check_removed_destinations(&settings)?;
        let NewDestinations { all, templates } = self.new_destinations(&settings).await?;
        let old = self.shared_intake.read().expect("no holder panics").clone();
        let new = build_intake(&self.store, &self.clock, &settings, &all, old.admission.clone(), old.counts.clone())?;
        // bodies that are being read are charged to it
        let new = Intake { memory: old.memory.clone(), ..new };
        let (to, applied) = oneshot::channel();
        let gone = "dispatch has ended";
        self.questions.send(Question::Reconfigure(all.clone(), to)).await.context(gone)?;
        applied.await.context(gone)?;
        self.destinations.replace(all);
        for (destination, template) in templates {
            destination.use_template(template);
        }
        self.store.set_windows(Windows { by_source: settings.dedup_windows().into_iter().collect() });
        self.store.set_history_limits(super::history_limits(&settings));
        new.memory.set_bounds(super::memory_bounds(&settings));
        new.counts.set_sources(settings.sources.iter().map(|s| &s.name));
        *self.shared_intake.write().expect("no holder panics") = Arc::new(new);
        self.settings = settings;
        Ok(())
    }

    /// Fails if deliveries wait for a destination that is removed.
    fn check_removed_destinations(&self, settings: &Settings) -> anyhow::Result<()> {
        let totals = self.store.totals();
        for destination in self.destinations.now().values() {
            let (name, waiting) = (&destination.name, totals.counters_of(destination.id).queued());
            if waiting > 0 && settings.destinations.iter().all(|d| d.name != *name) {
                bail!(
                    "destination `{name}` is gone from the file, but {waiting} of its deliveries wait. Either take it out of \
                     the `to` of all sources, reload, and remove it when its queue is empty; or discard its deliveries, \
                     `holdline discard {name} --all --reason WHY`; or restart without it, and they wait until it is \
                     configured again"
                );
            }
        }
        Ok(())
    }

    /// The destinations for these settings; one with unchanged settings is kept.
    async fn new_destinations(&self, settings: &Settings) -> anyhow::Result<NewDestinations> {
        let old = self.destinations.now();
        let (mut all, mut added, mut templates) = (HashMap::new(), Vec::new(), Vec::new());
        for new in &settings.destinations {
            let in_file = |why: SetupError| anyhow!("destination `{}`: {why}", new.name);
            let Some(now) = old.values().find(|d| d.name == new.name) else {
                added.push(Destination::new(DestinationId(0), new).map_err(in_file)?);
                continue;
            };
            if self.settings.destinations.contains(new) && !now.has_moved(new).map_err(in_file)? {
                templates.push((now.clone(), now.read_template(new).map_err(in_file)?));
                all.insert(now.id, now.clone());
            } else {
                let changed = Destination::new(now.id, new).map_err(in_file)?.inherit_runtime(now);
                all.insert(now.id, Arc::new(changed));
            }
        }
        for (id, destination) in self.register_new(&added).await?.into_iter().zip(added) {
            all.insert(id, Arc::new(destination.with_id(id)));
        }
        Ok(NewDestinations { all: Arc::new(all), templates })
    }

    /// Registers destinations that are new to this store.
    async fn register_new(&self, added: &[Destination]) -> anyhow::Result<Vec<DestinationId>> {
        if added.is_empty() {
            return Ok(Vec::new());
        }
        let names: Vec<String> = added.iter().map(|d| d.name.clone()).collect();
        if let Some((_, name)) = self.store.destinations().into_iter().find(|(_, name)| names.contains(name)) {
            bail!("destination `{name}` was configured before; a restart is needed to read its stored state");
        }
        let numbers = self.store.register(names).await?;
        numbers.into_iter().collect::<Option<_>>().context("the store has 64 destinations and no number left")
    }
}

/// The changes that a reload does not apply.
fn needs_restart(old: &Settings, new: &Settings) -> Vec<String> {
    let applied = settings::Intake {
        max_body_bytes: new.intake.max_body_bytes,
        max_json_depth: new.intake.max_json_depth,
        max_batch: new.intake.max_batch,
        body_timeout: new.intake.body_timeout,
        body_grace: new.intake.body_grace,
        min_body_rate: new.intake.min_body_rate,
        max_unverified_bytes: new.intake.max_unverified_bytes,
        max_unverified_bytes_per_address: new.intake.max_unverified_bytes_per_address,
        max_unverified_bytes_per_connection: new.intake.max_unverified_bytes_per_connection,
        source_share: new.intake.source_share,
        success_status: new.intake.success_status,
        ..old.intake.clone()
    };
    let sections = [
        ("[intake]", applied == new.intake),
        ("[admin]", old.admin == new.admin),
        ("[store]", old.store == new.store),
        ("[[alert]]", old.alerts == new.alerts),
        ("[dlq]", old.dlq == new.dlq),
        ("[quarantine]", old.quarantine == new.quarantine),
    ];
    let sections = sections.into_iter().filter(|(_, same)| !same).map(|(section, _)| section.to_owned());
    let shares = |s: &&settings::Source| old.source(&s.name).is_some_and(|old| old.shared_keys);
    let keys = new.sources.iter().filter(|s| s.shared_keys != shares(s));
    let keys = keys.map(|s| format!("shared_keys of `{}`", s.name));
    let ordering =
        |d: &settings::Destination| new.destinations.iter().any(|new| new.name == d.name && new.ordering != d.ordering);
    let destinations = old.destinations.iter().filter(|d| ordering(d));
    sections.chain(keys).chain(destinations.map(|d| format!("ordering of `{}`", d.name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Flags;
    use crate::config::settings::Source;
    use std::time::Duration;

    #[test]
    fn settings_that_need_a_restart_are_named() {
        type Change = fn(&mut Settings);
        let cases: [(Change, &[&str]); 14] = [
            (|_| {}, &[]),
            (|s| s.sources[0].shared_keys = true, &["shared_keys of `default`"]),
            (|s| s.sources.push(Source { shared_keys: true, ..Source::named("other") }), &["shared_keys of `other`"]),
            (|s| s.sources.push(Source::named("other")), &[]),
            (|s| s.intake.max_body_bytes = 4096, &[]),
            (|s| s.intake.source_share = 0.5, &[]),
            (|s| s.dlq.source_share = 0.5, &["[dlq]"]),
            (|s| s.intake.inherit = true, &["[intake]"]),
            (|s| s.intake.header_timeout = Duration::from_secs(1), &["[intake]"]),
            (|s| s.admin.listen.clear(), &["[admin]"]),
            (|s| s.store.path = "/elsewhere".into(), &["[store]"]),
            (
                |s| {
                    s.destinations.push(settings::Destination::named("other"));
                    s.dlq.evict = true;
                },
                &["[dlq]"],
            ),
            (|s| s.destinations[0].timeout = Duration::from_secs(1), &[]),
            (|s| s.destinations[0].ordering.reorder_window = Duration::from_secs(1), &["ordering of `default`"]),
        ];
        for (i, (change, wanted)) in cases.into_iter().enumerate() {
            let old = Settings::embedded(&Flags::default()).unwrap();
            let mut new = old.clone();
            change(&mut new);
            assert_eq!(needs_restart(&old, &new), wanted, "case {i}");
        }
    }
}
