//! Reload: a running daemon goes by other settings, all of them or none.
//!
//! *What a reload applies.* The sources with their secrets; the destinations, apart from `ordering`: new ones, other
//! settings, secrets read again, and the end of one for which nothing waits; and what intake bounds of one request:
//! `max_body`, `max_json_depth`, `max_batch`, `body_timeout`, `body_grace`, `min_body_rate`, `max_unverified_bytes` and its parts,
//! `source_share`, `success_status`. Everything else needs a restart, which the
//! log says; then nothing is changed, so that a running daemon never goes by half of a file.
//!
//! *Order.* Deliveries keep their places: what is under way ends as it began, and the next one of its interaction starts
//! after it, by the new settings. Intake goes by the new sources only when dispatch knows the new destinations.
//!
//! *Failure.* Whatever could fail is done before anything is changed.

use super::process::tell;
use super::{Daemon, door};
use crate::config::Settings;
use crate::config::settings;
use crate::dispatch::{Destination, Known, Question, Reread};
use crate::event::DestinationId;
use crate::intake::Intake;
use crate::store::Windows;
use anyhow::{Context, anyhow, bail};
use sd_notify::NotifyState;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::oneshot;

/// The destinations as they will be.
struct Fleet {
    known: Known,
    /// Of those whose settings stay.
    rereads: Vec<(Arc<Destination>, Reread)>,
}

impl Daemon {
    /// Reloads, and tells the log and the service manager how it went.
    pub(super) async fn reload_and_tell(&mut self, settings: Settings) {
        tell(&[NotifyState::Reloading]);
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            tell(&[now]); // newer service managers insist
        }
        match self.reload(settings).await {
            Ok(()) => tracing::info!("the configuration was reloaded"),
            Err(why) => tracing::error!("the configuration was not reloaded, nothing is changed: {why:#}"),
        }
        tell(&[NotifyState::Ready, NotifyState::Status(&self.summary())]);
    }

    /// Goes by these settings from now on. The error says why that cannot be; then everything is as before.
    pub async fn reload(&mut self, settings: Settings) -> anyhow::Result<()> {
        let restart = needs_restart(&self.settings, &settings);
        if !restart.is_empty() {
            bail!("a restart is needed for what has changed in {}; systemctl restart holdline", restart.join(", "));
        }
        self.nothing_is_left_behind(&settings)?;
        let Fleet { known, rereads } = self.fleet(&settings).await?;
        let old = self.door.read().expect("no holder panics").clone();
        let new = door(&self.store, &self.clock, &settings, &known, old.admission.clone(), old.counts.clone())?;
        // bodies that are being read are charged to it
        let new = Intake { memory: old.memory.clone(), ..new };
        let (to, heard) = oneshot::channel();
        let gone = "dispatch has ended";
        self.questions.send(Question::GoBy(known.clone(), to)).await.context(gone)?;
        heard.await.context(gone)?;
        self.destinations.replace(known);
        for (destination, reread) in rereads {
            destination.put_in_place(reread);
        }
        self.store.set_windows(Windows { by_source: settings.dedup_windows().into_iter().collect() });
        self.store.bound_history(super::remembered(&settings));
        new.memory.set_bounds(super::memory_bounds(&settings));
        new.counts.knows(settings.sources.iter().map(|s| &s.name));
        *self.door.write().expect("no holder panics") = Arc::new(new);
        self.settings = settings;
        Ok(())
    }

    /// Whether nothing waits for the destinations that go.
    fn nothing_is_left_behind(&self, settings: &Settings) -> anyhow::Result<()> {
        let totals = self.store.totals();
        for destination in self.destinations.now().values() {
            let (name, waiting) = (&destination.name, totals.tally_of(destination.id).queued());
            if waiting > 0 && settings.destinations.iter().all(|d| d.name != *name) {
                bail!(
                    "destination `{name}` is gone from the file, but {waiting} of its deliveries wait. Decide: take it out \
                     of the `to` of all sources, reload, and remove it when it has drained; or give up what waits, \
                     `holdline discard {name} --all --reason WHY`; or restart without it, and they are held until it is \
                     configured again"
                );
            }
        }
        Ok(())
    }

    /// The destinations by these settings; one whose settings stay, stays.
    async fn fleet(&self, settings: &Settings) -> anyhow::Result<Fleet> {
        let old = self.destinations.now();
        let (mut fleet, mut joining, mut rereads) = (HashMap::new(), Vec::new(), Vec::new());
        for new in &settings.destinations {
            let in_file = |why: String| anyhow!("destination `{}`: {why}", new.name);
            let Some(now) = old.values().find(|d| d.name == new.name) else {
                joining.push(Destination::new(DestinationId(0), new).map_err(in_file)?);
                continue;
            };
            if self.settings.destinations.contains(new) && !now.is_elsewhere(new).map_err(in_file)? {
                rereads.push((now.clone(), now.reread(new).map_err(in_file)?));
                fleet.insert(now.id, now.clone());
            } else {
                let changed = Destination::new(now.id, new).map_err(in_file)?.in_place_of(now);
                fleet.insert(now.id, Arc::new(changed));
            }
        }
        for (id, destination) in self.numbers(&joining).await?.into_iter().zip(joining) {
            fleet.insert(id, Arc::new(destination.numbered(id)));
        }
        Ok(Fleet { known: Arc::new(fleet), rereads })
    }

    /// Numbers for destinations that this store has never had.
    async fn numbers(&self, joining: &[Destination]) -> anyhow::Result<Vec<DestinationId>> {
        if joining.is_empty() {
            return Ok(Vec::new());
        }
        let names: Vec<String> = joining.iter().map(|d| d.name.clone()).collect();
        if let Some((_, name)) = self.store.destinations().into_iter().find(|(_, name)| names.contains(name)) {
            bail!("destination `{name}` was configured before; a restart is needed to take up what is known of it");
        }
        let numbers = self.store.register(names).await?;
        numbers.into_iter().collect::<Option<_>>().context("the store knows 64 destinations and has no number left")
    }
}

/// What has changed that a reload does not apply.
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
    use crate::config::Overrides;
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
            let old = Settings::embedded(&Overrides::default()).unwrap();
            let mut new = old.clone();
            change(&mut new);
            assert_eq!(needs_restart(&old, &new), wanted, "case {i}");
        }
    }
}
