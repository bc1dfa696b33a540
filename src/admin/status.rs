//! `/v1/status` and `/v1/destinations`: the numbers, all taken at one moment.

use super::{Admin, Failure, Name, Shared};
use crate::dispatch::LineStatus;
use crate::event::DestinationId;
use crate::intake::admission::State as Door;
use crate::store::Totals;
use crate::time::{Timestamp, millis};
use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;

/// Everything that the status shows, so that metrics and JSON tell the same.
pub(super) struct Snapshot {
    pub now: Timestamp,
    pub totals: Totals,
    pub lines: HashMap<DestinationId, LineStatus>,
    pub queue_bytes: u64,
    pub free_bytes: u64,
    pub used_bytes: u64,
    pub blob_files: usize,
    pub door: Door,
    pub refused: BTreeMap<(u16, &'static str), u64>,
    pub ignored: u64,
}

impl Snapshot {
    pub(super) async fn take(admin: &Admin) -> Result<Self, Failure> {
        let lines = admin.lines().await?;
        let now = admin.clock.now();
        let (door, refused, ignored) = (admin.admission.state(), admin.counts.refused(), admin.counts.ignored());
        admin
            .read(move |store| {
                Ok(Self {
                    now,
                    totals: store.totals(),
                    lines,
                    queue_bytes: store.queue_bytes(),
                    free_bytes: store.free().map_or(0, |free| free.bytes),
                    used_bytes: store.disk_bytes(),
                    blob_files: store.blob_files(),
                    door,
                    refused,
                    ignored,
                })
            })
            .await
    }

    pub(super) fn sum(&self, of: impl Fn(&LineStatus) -> usize) -> usize {
        self.lines.values().map(of).sum()
    }

    pub(super) fn oldest_age_ms(&self) -> u64 {
        self.lines.values().filter_map(|line| line.oldest).min().map_or(0, |at| millis(self.now.since(at)))
    }

    pub(super) fn line(&self, d: DestinationId) -> LineStatus {
        self.lines.get(&d).copied().unwrap_or_default()
    }
}

pub(super) async fn status(State(admin): Shared) -> Result<Json<Value>, Failure> {
    let s = Snapshot::take(&admin).await?;
    let state = match s.door {
        Door::Draining => "draining",
        _ if !admin.ready.load(Ordering::Relaxed) => "starting",
        _ => "running",
    };
    let totals = &s.totals;
    Ok(Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "state": state,
        "started_at": admin.started_at.to_string(),
        "durability": admin.store.durability().word(),
        "intake": {"open": s.door == Door::Open, "reason": s.door.code()},
        "counters": {
            "accepted": totals.accepted,
            "duplicates": totals.duplicates,
            "conflicts": totals.conflicts,
            "ignored": s.ignored,
            "delivered": totals.sum(|t| t.delivered),
            "dead_lettered": totals.dead_lettered,
            "discarded": totals.sum(|t| t.discarded),
            "redriven": totals.redriven,
            "damaged": totals.damaged,
        },
        "queue": {
            "depth": totals.sum(crate::store::Tally::queued),
            "bytes": s.queue_bytes,
            "oldest_age_ms": s.oldest_age_ms(),
            "in_flight": s.sum(|line| line.in_flight),
            "delayed": s.sum(|line| line.delayed),
            "held": s.sum(|line| line.held),
        },
        "dlq": {"depth": totals.sum(|t| t.dead), "bytes": totals.dlq_bytes},
        "disk": {"free_bytes": s.free_bytes, "used_bytes": s.used_bytes},
        "destinations": all(&admin, &s),
    })))
}

pub(super) async fn destinations(State(admin): Shared) -> Result<Json<Value>, Failure> {
    let s = Snapshot::take(&admin).await?;
    Ok(Json(json!({"items": all(&admin, &s), "next": null})))
}

pub(super) async fn destination(State(admin): Shared, Name(name): Name) -> Result<Json<Value>, Failure> {
    let s = Snapshot::take(&admin).await?;
    let d = admin.destinations.values().find(|d| d.name == name).map(|d| d.id);
    let d = d.ok_or_else(|| Failure::not_found(format!("no destination is called `{name}`")))?;
    Ok(Json(one(&admin, &s, d)))
}

fn all(admin: &Admin, s: &Snapshot) -> Vec<Value> {
    let mut ids: Vec<DestinationId> = admin.destinations.keys().copied().collect();
    ids.sort();
    ids.into_iter().map(|d| one(admin, s, d)).collect()
}

fn one(admin: &Admin, s: &Snapshot, d: DestinationId) -> Value {
    let (destination, line, tally) = (&admin.destinations[&d], s.line(d), s.totals.tally_of(d));
    let mut holds = Vec::new();
    if line.hold_until > s.now {
        let until = line.hold_until.to_string();
        holds.push(json!({"gate": "delay", "until": until, "reason": destination.held_why(line.hold_until), "set_by": "destination"}));
    }
    if destination.url().is_none() {
        let reason = "no url is configured; events are held";
        holds.push(json!({"gate": "pause", "until": null, "reason": reason, "set_by": "configuration"}));
    }
    json!({
        "name": destination.name,
        "url": destination.url(),
        "concurrency": {"limit": destination.policy.concurrency, "in_flight": line.in_flight},
        "holds": holds,
        "queue": {
            "depth": tally.queued(),
            "oldest_age_ms": line.oldest.map_or(0, |at| millis(s.now.since(at))),
            "delayed": line.delayed,
            "held": line.held,
        },
        "counters": {
            "accepted": tally.accepted,
            "delivered": tally.delivered,
            "dead": tally.dead,
            "discarded": tally.discarded,
        },
    })
}
