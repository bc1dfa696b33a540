//! The numbers of one moment, for the status and the metrics.

use super::certificates::CertificateItem;
use super::{Admin, Failure, disk};
use crate::dispatch::DestinationStatus;
use crate::event::DestinationId;
use crate::intake::Refused;
use crate::intake::admission::State as IntakeOverride;
use crate::store::{HistoryUsage, Space, Totals};
use crate::time::{Timestamp, millis};
use std::collections::{BTreeMap, HashMap};

/// Everything that the status shows, so that metrics and JSON tell the same.
pub(super) struct Snapshot {
    pub now: Timestamp,
    pub totals: Totals,
    pub lines: HashMap<DestinationId, DestinationStatus>,
    pub queue_bytes: u64,
    pub space: Space,
    pub used_bytes: u64,
    pub blob_files: usize,
    pub door: IntakeOverride,
    pub refused: BTreeMap<String, Vec<Refused>>,
    pub ignored: u64,
    pub remembering: HistoryUsage,
    /// Permissions of the data folder.
    pub mode: Option<u32>,
    pub certificates: Vec<CertificateItem>,
}

impl Snapshot {
    pub(super) async fn take(admin: &Admin) -> Result<Self, Failure> {
        let lines = admin.lines().await?;
        let now = admin.clock.now();
        let certificates = admin.certificate_items();
        let (door, refused, ignored) =
            (admin.admission.state(), admin.counts.refusals.by_source(), admin.counts.ignored());
        admin
            .read(move |store| {
                Ok(Self {
                    now,
                    totals: store.totals(),
                    lines,
                    queue_bytes: store.queue_bytes(),
                    space: store.space().unwrap_or_default(),
                    used_bytes: store.disk_bytes(),
                    mode: disk::mode(store.path()),
                    blob_files: store.blob_files(),
                    door,
                    refused,
                    ignored,
                    remembering: store.remembering(),
                    certificates,
                })
            })
            .await
    }

    pub(super) fn sum(&self, of: impl Fn(&DestinationStatus) -> usize) -> usize {
        self.lines.values().map(of).sum()
    }

    pub(super) fn oldest_age_ms(&self) -> u64 {
        self.lines.values().filter_map(|line| line.oldest).min().map_or(0, |at| millis(self.now.since(at)))
    }

    pub(super) fn line(&self, d: DestinationId) -> DestinationStatus {
        self.lines.get(&d).cloned().unwrap_or_default()
    }
}
