//! Reload: a running daemon goes by other settings, all of them or none.
//!
//! *What a reload applies.* The sources with their secrets, the secrets in requests to destinations (`auth` by bearer,
//! basic or header, and `sign`), both read again; and what intake bounds of one request: `max_body`, `max_json_depth`,
//! `max_batch`, `body_timeout`, `success_status`. Everything else needs a restart, which the log says; then nothing is
//! changed, so that a running daemon never goes by half of a file.
//!
//! *Failure.* Whatever could fail is done before anything is changed.

use super::life::tell;
use super::{Daemon, door};
use crate::config::Settings;
use crate::config::settings;
use crate::dispatch::{Destination, Reread};
use crate::intake::Intake;
use crate::store::Windows;
use anyhow::{anyhow, bail};
use sd_notify::NotifyState;
use std::sync::Arc;

impl Daemon {
    /// Reloads, and tells the log and the service manager how it went.
    pub(super) fn reload_and_tell(&mut self, settings: Settings) {
        tell(&[NotifyState::Reloading]);
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            tell(&[now]); // newer service managers insist
        }
        match self.reload(settings) {
            Ok(()) => tracing::info!("the configuration was reloaded"),
            Err(why) => tracing::error!("the configuration was not reloaded, nothing is changed: {why:#}"),
        }
        tell(&[NotifyState::Ready, NotifyState::Status(&self.summary())]);
    }

    /// Goes by these settings from now on. The error says why that cannot be; then everything is as before.
    pub fn reload(&mut self, settings: Settings) -> anyhow::Result<()> {
        let restart = needs_restart(&self.settings, &settings);
        if !restart.is_empty() {
            bail!("a restart is needed for what has changed in {}; systemctl restart holdline", restart.join(", "));
        }
        let old = self.door.read().expect("no holder panics").clone();
        let (admission, counts) = (old.admission.clone(), old.counts.clone());
        let rereads = self.reread(&settings)?;
        let new = door(&self.store, &self.clock, &settings, &self.destinations, admission, counts)?;
        // bodies that are being read hold their room in it
        let new = Intake { room: old.room.clone(), ..new };
        self.store.set_windows(Windows { by_source: settings.dedup_windows().into_iter().collect() });
        self.store.bound_history(super::remembered(&settings));
        for (destination, reread) in rereads {
            destination.put_in_place(reread);
        }
        *self.door.write().expect("no holder panics") = Arc::new(new);
        self.settings = settings;
        Ok(())
    }

    /// The secrets that stand in requests to destinations, read again.
    fn reread(&self, settings: &Settings) -> anyhow::Result<Vec<(Arc<Destination>, Reread)>> {
        let of = |destination: &Arc<Destination>| {
            let settings = settings.destinations.iter().find(|d| d.name == destination.name)?;
            let reread = destination.reread(settings);
            Some(
                reread
                    .map(|r| (destination.clone(), r))
                    .map_err(|why| anyhow!("destination `{}`: {why}", settings.name)),
            )
        };
        self.destinations.values().filter_map(of).collect()
    }
}

/// The sections in which something has changed that a reload does not apply.
fn needs_restart(old: &Settings, new: &Settings) -> Vec<&'static str> {
    let applied = settings::Intake {
        max_body_bytes: new.intake.max_body_bytes,
        max_json_depth: new.intake.max_json_depth,
        max_batch: new.intake.max_batch,
        body_timeout: new.intake.body_timeout,
        success_status: new.intake.success_status,
        ..old.intake.clone()
    };
    let sections = [
        ("[intake]", applied == new.intake),
        ("[admin]", old.admin == new.admin),
        ("[store]", old.store == new.store),
        ("[[destination]]", old.destinations == new.destinations),
        ("[dlq]", old.dlq == new.dlq),
        ("[quarantine]", old.quarantine == new.quarantine),
    ];
    sections.into_iter().filter(|(_, same)| !same).map(|(section, _)| section).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;
    use crate::config::settings::Source;
    use std::time::Duration;

    #[test]
    fn what_a_reload_does_not_apply_is_named() {
        type Change = fn(&mut Settings);
        let cases: [(Change, &[&str]); 8] = [
            (|_| {}, &[]),
            (|s| s.sources.push(Source::named("other")), &[]),
            (|s| s.intake.max_body_bytes = 4096, &[]),
            (|s| s.intake.inherit = true, &["[intake]"]),
            (|s| s.intake.header_timeout = Duration::from_secs(1), &["[intake]"]),
            (|s| s.admin.listen.clear(), &["[admin]"]),
            (|s| s.store.path = "/elsewhere".into(), &["[store]"]),
            (
                |s| {
                    s.destinations.push(settings::Destination::named("other"));
                    s.dlq.evict = true;
                },
                &["[[destination]]", "[dlq]"],
            ),
        ];
        for (i, (change, wanted)) in cases.into_iter().enumerate() {
            let old = Settings::embedded(&Overrides::default()).unwrap();
            let mut new = old.clone();
            change(&mut new);
            assert_eq!(needs_restart(&old, &new), wanted, "case {i}");
        }
    }
}
