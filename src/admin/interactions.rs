//! `/v1/interactions/{key}`: where an interaction stands with each destination.

use super::{Admin, Failure, Name, Shared};
use crate::dispatch::Question;
use crate::event::{DestinationId, Digest64, EventId, Sequence};
use crate::scheduler::{Interaction, Ordered};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use utoipa::ToSchema;

/// So many of those that wait are named.
const WAITING_MAX: usize = 100;

/// An interaction, by destination.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InteractionItem {
    interaction: String,
    destinations: Vec<InteractionState>,
}

/// How an interaction stands with a destination.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InteractionState {
    destination: String,
    /// `interaction`: its events go one after the other. `none` (`ordering.mode`): none waits for another, and of each only
    /// its own event tells; `in_flight`, `waiting`, `waiting_count` and `held_by` are then always empty, and
    /// `/v1/events?interaction=KEY` lists what is under way.
    ordering: &'static str,
    /// The newest delivery, by which a later one is known to be stale. Null where nothing was delivered, where that is no
    /// longer remembered, and always where `ordering.on_stale` is `deliver`: nothing is stale there, and nothing is
    /// remembered for it. `/v1/events?interaction=KEY&state=delivered` then lists what was delivered.
    last_delivered: Option<LastDelivered>,
    /// Null where none is, and always where `ordering` is `none`.
    in_flight: Option<Member>,
    /// The first hundred of those that wait, as far as they have been read ahead, in their order.
    waiting: Vec<Member>,
    waiting_count: usize,
    /// Dead letters that hold the others back.
    held_by: Vec<Member>,
}

#[derive(Debug, Serialize, ToSchema)]
struct LastDelivered {
    #[serde(flatten)]
    event: Member,
    #[schema(format = DateTime)]
    at: String,
    /// The latest event time of all that were delivered: what happened before it and comes later is stale.
    newest_event_time: Option<String>,
}

/// An event of the interaction.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct Member {
    #[schema(value_type = u64)]
    sequence: Sequence,
    /// Null where it is no longer remembered.
    #[schema(value_type = Option<String>, format = Uuid)]
    id: Option<EventId>,
}

/// What was delivered last, what is under way and what waits of an interaction, for each destination
#[utoipa::path(get, path = "/v1/interactions/{key}", tag = "events", params(("key" = String, Path, description = "The key of the interaction.")), responses((status = 200, body = InteractionItem), Failure))]
pub(super) async fn show(State(admin): Shared, Name(key): Name) -> Result<Json<InteractionItem>, Failure> {
    let lane = Digest64::of_interaction(&key);
    let standing = admin.ask(|to| Question::Interaction(lane, WAITING_MAX, to)).await?;
    let ids = ids(&admin, lane, &standing).await?;
    let member = |sequence: Sequence| Member { sequence, id: ids.get(&sequence).copied() };
    let mut destinations: Vec<InteractionState> = standing
        .into_iter()
        .map(|(d, interaction)| InteractionState {
            destination: admin.destination_name(d),
            ordering: if interaction.ordered == Ordered::Not { "none" } else { "interaction" },
            last_delivered: admin.destinations.get(d).and_then(|destination| destination.last(lane)).map(|last| {
                let newest_event_time = last.newest().map(|time| time.to_string());
                LastDelivered { event: member(last.sequence), at: last.at.to_string(), newest_event_time }
            }),
            in_flight: interaction.in_flight.map(member),
            waiting: interaction.waiting.into_iter().map(member).collect(),
            waiting_count: interaction.waiting_count,
            held_by: interaction.held_by.into_iter().map(member).collect(),
        })
        .collect();
    destinations.sort_by(|a, b| a.destination.cmp(&b.destination));
    Ok(Json(InteractionItem { interaction: key, destinations }))
}

async fn ids(
    admin: &Admin,
    lane: Digest64,
    standing: &[(DestinationId, Interaction)],
) -> Result<BTreeMap<Sequence, EventId>, Failure> {
    let named = standing.iter().flat_map(|(_, i)| i.in_flight.iter().chain(&i.waiting).chain(&i.held_by)).copied();
    let destinations = admin.destinations.now();
    let last = destinations.values().filter_map(|destination| destination.last(lane)).map(|last| last.sequence);
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
