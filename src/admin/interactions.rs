//! `/v1/interactions/{key}`: the state of an interaction at each destination.

use super::{Admin, Failure, Name, Shared};
use crate::api::{self, InteractionEvent, InteractionState, LastDelivered, Ordering};
use crate::dispatch::{Last, Question};
use crate::event::{DestinationId, Digest64, EventId, Sequence, bounded};
use crate::scheduler::{Interaction, Ordered};
use axum::Json;
use axum::extract::{Query as QueryOf, State, rejection::QueryRejection};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use utoipa::IntoParams;

/// Waiting events that are listed at most.
const WAITING_MAX: usize = 100;

/// Narrows an interaction.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct Of {
    /// Of this source only; a key of several sources is an interaction of each of them.
    source: Option<String>,
}

/// The state of the interaction at each destination.
type DeliveryStatuses = Vec<(DestinationId, Interaction)>;

/// What was delivered last, what is under way and what waits of an interaction, for each destination and source
#[utoipa::path(get, path = "/v1/interactions/{key}", tag = "events", params(("key" = String, Path, description = "The key of the interaction."), Of), responses((status = 200, body = api::Interaction), Failure))]
pub(super) async fn show(
    State(admin): Shared,
    Name(key): Name,
    of: Result<QueryOf<Of>, QueryRejection>,
) -> Result<Json<api::Interaction>, Failure> {
    let QueryOf(Of { source }) = of.map_err(|e| Failure::bad(e.body_text()))?;
    let order_keys = admin.store.order_keys_of(&bounded(key.clone()), source.as_deref());
    let asked = order_keys.iter().map(|(_, order_key)| *order_key).collect();
    let delivery_statuses = admin.ask(|to| Question::Interactions(asked, WAITING_MAX, to)).await?;
    let mut known: Vec<_> = order_keys
        .into_iter()
        .zip(delivery_statuses)
        .filter(|((_, order_key), of)| is_known(&admin, *order_key, of))
        .collect();
    if known.is_empty() {
        let order_key = Digest64::NONE;
        known.push((
            (source, order_key),
            admin.ask(|to| Question::Interactions(vec![order_key], 0, to)).await?.remove(0),
        ));
    }
    let mut destinations = Vec::new();
    for ((source, order_key), delivery_status) in known {
        let ids = ids(&admin, order_key, &delivery_status).await?;
        destinations.extend(delivery_status.into_iter().map(|(d, interaction)| {
            let last = admin.destinations.get(d).and_then(|destination| destination.last(order_key));
            state(admin.destination_name(d), source.clone(), interaction, last, &ids)
        }));
    }
    destinations.sort_by(|a, b| (&a.destination, &a.source).cmp(&(&b.destination, &b.source)));
    Ok(Json(api::Interaction { interaction: key, destinations }))
}

/// Whether any event of it waits or was delivered.
fn is_known(admin: &Admin, order_key: Digest64, delivery_statuses: &DeliveryStatuses) -> bool {
    delivery_statuses.iter().any(|(d, interaction)| {
        let is_here =
            interaction.waiting_count > 0 || interaction.in_flight.is_some() || !interaction.blocked_by.is_empty();
        is_here || admin.destinations.get(*d).is_some_and(|destination| destination.last(order_key).is_some())
    })
}

fn state(
    destination: String,
    source: Option<String>,
    interaction: Interaction,
    last: Option<Last>,
    ids: &BTreeMap<Sequence, EventId>,
) -> InteractionState {
    let member = |sequence: Sequence| InteractionEvent { sequence, id: ids.get(&sequence).copied() };
    InteractionState {
        destination,
        source,
        ordering: if interaction.ordered == Ordered::Not { Ordering::None } else { Ordering::Interaction },
        last_delivered: last.map(|last| {
            let newest_event_time = last.newest.map(api::Time);
            LastDelivered { event: member(last.sequence), at: last.at.into(), newest_event_time }
        }),
        in_flight: interaction.in_flight.map(member),
        waiting: interaction.waiting.into_iter().map(member).collect(),
        waiting_count: interaction.waiting_count,
        blocked_by: interaction.blocked_by.into_iter().map(member).collect(),
    }
}

async fn ids(
    admin: &Admin,
    order_key: Digest64,
    delivery_status: &DeliveryStatuses,
) -> Result<BTreeMap<Sequence, EventId>, Failure> {
    let named =
        delivery_status.iter().flat_map(|(_, i)| i.in_flight.iter().chain(&i.waiting).chain(&i.blocked_by)).copied();
    let destinations = admin.destinations.now();
    let last = destinations.values().filter_map(|destination| destination.last(order_key)).map(|last| last.sequence);
    let wanted: BTreeSet<Sequence> = named.chain(last).collect();
    admin
        .read(move |store| {
            let mut ids = BTreeMap::new();
            for sequence in wanted {
                if let Some(entry) = store.entry(sequence)? {
                    ids.insert(sequence, entry.id(sequence));
                }
            }
            Ok(ids)
        })
        .await
}
