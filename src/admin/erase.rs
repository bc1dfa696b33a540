//! `/v1/interactions/{key}/erase`: removes everything stored of one interaction.
//!
//! *Invariants.* A delivery in flight is not touched, and the request then fails even if the rest was erased. A success
//! therefore means that nothing accepted before the request is left. A repeated request continues where the last one ended.
//! The audit names the interaction by its digest, not by its key.

use super::access::Caller;
use super::object::Object;
use super::{Admin, Failure, Name, Shared, audit_log, pace};
use crate::api::{self, Remains};
use crate::dispatch::Question;
use crate::event::{Digest64, Sequence, bounded};
use crate::scheduler::DeliveryStatus;
use crate::store::{Change, Erased, Erasure, EventLocation, EventLocations, QuarantinedRequest, Repeated, StoreError};
use axum::Json;
use axum::extract::State;
use bytes::Bytes;
use serde::Deserialize;
use std::collections::BTreeSet;
use utoipa::ToSchema;

/// Events of one commit. Each commit rewrites the pages of its events, and other writes wait for it.
const CHUNK: usize = 8;
/// How often the scan is repeated for deliveries that moved during it.
const ROUNDS_MAX: usize = 10;

/// Why an interaction is erased.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Erase {
    /// It stands in the audit; write no name or key into it that is to be erased.
    #[schema(max_length = 500)]
    reason: String,
    /// Of this source only; without it, of every source.
    source: Option<String>,
    /// Only say what there is.
    dry_run: bool,
}

fn remains() -> Remains {
    Remains {
        store_files: "nothing reads them any more, but deleted bytes stay in the store's files until later events take their \
                      place, which has no fixed time; a store made by `holdline backup` and `holdline restore` has none of \
                      them"
            .to_owned(),
        backups: "backups and exports made before still hold it; delete them, or erase again after a restore".to_owned(),
        destinations: "what was delivered is stored at the destinations".to_owned(),
    }
}

/// Erases all that lies here of an interaction: what waits, is dead, kept apart or remembered
#[utoipa::path(post, path = "/v1/interactions/{key}/erase", tag = "events", params(("key" = String, Path, description = "The key of the interaction.")), request_body(content = Option<Erase>), responses((status = 200, body = api::Erased), Failure))]
pub(super) async fn erase(
    State(admin): Shared,
    caller: Caller,
    Name(key): Name,
    body: Bytes,
) -> Result<Json<api::Erased>, Failure> {
    let requested = requested(&body)?;
    audit_log::sound_reason(&requested.reason)?;
    let key = bounded(key);
    let digest = format!("{:016x}", Digest64::of_interaction(&key).0);
    let scan = ErasureScan { source: requested.source, end: admin.store.totals().next_sequence, key };
    if requested.dry_run {
        return Ok(Json(item(digest, &scan.count(&admin).await?)));
    }
    let of = scan.source.as_ref().map_or_else(String::new, |source| format!(" of {source}"));
    let what = format!("erase interaction {digest}{of}{}", pace::because(&requested.reason));
    let erased = scan.erase(&admin, &what, &caller).await?;
    for (_, order_key) in admin.store.order_keys_of(&scan.key, scan.source.as_deref()) {
        admin.destinations.now().values().for_each(|destination| destination.forget(order_key));
    }
    if erased == Erased::default() {
        admin.store.change(Change::Repeated(Repeated::no_change(&what, admin.clock.now())), caller.name).await?;
    }
    Ok(Json(item(digest, &erased)))
}

/// An empty body is a request without options.
fn requested(body: &Bytes) -> Result<Erase, Failure> {
    if body.is_empty() {
        return Ok(Erase::default());
    }
    let requested = serde_json::from_slice::<Option<Object<Erase>>>(body);
    requested
        .map(|requested| requested.map_or_else(Erase::default, |Object(requested)| requested))
        .map_err(|e| Failure::bad(format!("the body is not what is described: {e}")))
}

fn item(digest: String, erased: &Erased) -> api::Erased {
    api::Erased {
        digest,
        waiting: erased.waiting,
        dead: erased.dead,
        remembered: erased.remembered,
        quarantined: erased.quarantined,
        damaged: erased.damaged,
        remains: remains(),
    }
}

/// Finds everything of an interaction that was accepted before a sequence.
struct ErasureScan {
    key: String,
    source: Option<String>,
    end: Sequence,
}

impl ErasureScan {
    async fn traces(&self, admin: &Admin) -> Result<EventLocations, Failure> {
        // recorded transitions must be written before the scan
        admin.store.flush().await?;
        let (key, source, end) = (self.key.clone(), self.source.clone(), self.end);
        admin.read(move |store| store.traces(&key, source.as_deref(), end)).await
    }

    async fn count(&self, admin: &Admin) -> Result<Erased, Failure> {
        let found = self.traces(admin).await?;
        let sum = |of: fn(&EventLocation) -> usize| found.events.values().map(of).sum::<usize>() as u64;
        Ok(Erased {
            waiting: sum(|trace| trace.waiting.len()),
            dead: sum(|trace| trace.dead.len()),
            remembered: found.events.len() as u64,
            damaged: found.damaged.len() as u64,
            quarantined: self.quarantined(admin).await?.len() as u64,
        })
    }

    async fn erase(&self, admin: &Admin, what: &str, caller: &Caller) -> Result<Erased, Failure> {
        let mut erased = Erased::default();
        let part = || Erasure { what: what.to_owned(), ..Erasure::default() };
        let mut quarantined = self.quarantined(admin).await?;
        for _ in 0..ROUNDS_MAX {
            let mut found = self.traces(admin).await?;
            let under_way = self.under_way(admin, &found).await?;
            found.events.retain(|sequence, _| !under_way.contains(sequence));
            if found.is_empty() && quarantined.is_empty() {
                return if under_way.is_empty() { Ok(erased) } else { Err(refusal(&erased, under_way.len())) };
            }
            let (events, damaged) = (found.events.into_iter().collect::<Vec<_>>(), found.damaged);
            let apart = Erasure { damaged, quarantined: std::mem::take(&mut quarantined), ..part() };
            if !apart.damaged.is_empty() || !apart.quarantined.is_empty() {
                erased.add(&admin.store.erase(apart, caller.name.clone()).await?);
            }
            for chunk in events.chunks(CHUNK) {
                let erasure = Erasure { events: chunk.to_vec(), ..part() };
                erased.add(&admin.store.erase(erasure, caller.name.clone()).await?);
            }
            let of: BTreeSet<Sequence> = events.into_iter().map(|(sequence, _)| sequence).collect();
            admin.store.forget_cached(&of);
        }
        Err(refusal(&erased, 0))
    }

    /// The events that have a delivery in flight.
    async fn under_way(&self, admin: &Admin, found: &EventLocations) -> Result<BTreeSet<Sequence>, Failure> {
        let waiting: Vec<_> = found
            .events
            .iter()
            .flat_map(|(sequence, trace)| trace.waiting.iter().map(|(d, _)| (*d, trace.order_key, *sequence)))
            .collect();
        let asked = waiting.clone();
        let delivery_statuses = admin.ask(|to| Question::Deliveries(asked, to)).await?;
        let under_way = waiting
            .iter()
            .zip(delivery_statuses)
            .filter(|(_, delivery_status)| matches!(delivery_status, DeliveryStatus::InFlight { .. }));
        Ok(under_way.map(|((_, _, sequence), _)| *sequence).collect())
    }

    /// Quarantined requests that contain an event of the interaction.
    async fn quarantined(&self, admin: &Admin) -> Result<Vec<u64>, Failure> {
        let intake = admin.intake.read().expect("no holder panics").clone();
        let (key, source) = (self.key.clone(), self.source.clone());
        let is_from =
            move |quarantined: &QuarantinedRequest| source.as_ref().is_none_or(|source| *source == quarantined.source);
        admin
            .read(move |store| {
                let mut found = Vec::new();
                for number in store.quarantined_from(0, usize::MAX) {
                    let quarantined = match store.quarantined(number) {
                        // a damaged request cannot be readmitted either; the start reports the damage
                        Err(StoreError::Damaged(_)) => continue,
                        quarantined => quarantined?,
                    };
                    if quarantined
                        .is_some_and(|quarantined| is_from(&quarantined) && intake.concerns(&quarantined, &key))
                    {
                        found.push(number);
                    }
                }
                Ok(found)
            })
            .await
    }
}

fn refusal(erased: &Erased, under_way: usize) -> Failure {
    Failure::conflict(format!(
        "{under_way} events of it are being delivered at this moment and are still here; {} things were erased. Ask again \
         when those deliveries have ended",
        erased.total()
    ))
}
