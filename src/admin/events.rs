//! `/v1/events`: where each event is, and what it waits for.
//!
//! Everything is listed in order of sequence, merged from what is remembered, what lies in the delay tree and what is
//! dead; so a page stays where it is while things move.

use super::filter::{DeliveryState, Filter, Query};
use super::known::{self, Known, Lies, delay_tree, gather, know};
use super::{Admin, Failure, Name, Shared, sequence_of};
use crate::delivery::DeliveryId;
use crate::dispatch::{LineStatus, Question};
use crate::event::{DestinationId, Sequence};
use crate::scheduler::Standing;
use crate::store::{How, Settlement, StoreError};
use axum::Json;
use axum::extract::{Query as QueryOf, State, rejection::QueryRejection};
use axum::http::header;
use axum::response::IntoResponse;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// So many events are looked at for one answer.
const EXAMINED_MAX: usize = 200_000;

pub(super) async fn list(
    State(admin): Shared,
    query: Result<QueryOf<Query>, QueryRejection>,
) -> Result<Json<Value>, Failure> {
    let QueryOf(query) = query.map_err(|e| Failure::bad(e.body_text()))?;
    if query.asks_for_reason() {
        return Err(Failure::bad("only dead letters have a `reason`; ask /v1/dlq for them"));
    }
    let filter = Filter::of(&query, &admin)?;
    let after = query.after.as_deref().map_or(Ok(0), str::parse::<u64>);
    let after = after.map_err(|_| Failure::bad("`after` is the `next` of an earlier answer"))?;
    let tree = Arc::new(delay_tree(&admin).await?);
    let lines = admin.lines().await?;
    let (mut items, mut from, mut examined) = (Vec::new(), Sequence(after.saturating_add(1)), 0);
    // described together: the settlements are looked through once for all of them
    let mut gathered = Vec::new();
    let next = loop {
        let (filter_here, tree) = (filter.clone(), tree.clone());
        let (known, n, next) = admin.read(move |store| gather(store, &filter_here, &tree, from)).await?;
        examined += n;
        gathered.extend(known);
        if let Some(behind) = next.filter(|_| gathered.len() < filter.limit && examined < EXAMINED_MAX) {
            from = behind;
            continue;
        }
        for (known, item) in describe(&admin, &lines, std::mem::take(&mut gathered)).await? {
            if items.len() == filter.limit {
                break;
            }
            if fits(&filter, &item, &admin) {
                items.push((known, item));
            }
        }
        match next {
            // the page is full: go on behind its last item
            _ if items.len() == filter.limit => break items.last().map(|(sequence, _)| *sequence),
            None => break None,
            Some(next) if examined >= EXAMINED_MAX => break Some(Sequence(next.0 - 1)),
            Some(next) => from = next,
        }
    };
    let items: Vec<Value> = items.into_iter().map(|(_, item)| item).collect();
    Ok(Json(json!({"items": items, "next": next.map(|s| s.to_string())})))
}

pub(super) async fn show(State(admin): Shared, Name(id): Name) -> Result<Json<Value>, Failure> {
    let (known, lines) = (find(&admin, &id).await?, admin.lines().await?);
    let attempts: BTreeMap<String, Value> = known
        .places
        .iter()
        .filter_map(|(d, lies)| match lies {
            Lies::Delayed(delivery) => Some((admin.destination_name(*d), json!(super::attempts(delivery)))),
            _ => None,
        })
        .collect();
    let mut described = describe(&admin, &lines, vec![known]).await?;
    let (_, mut item) = described.pop().ok_or_else(|| Failure::not_found("the event has just ended"))?;
    for delivery in item["deliveries"].as_array_mut().into_iter().flatten() {
        if let Some(of_it) = delivery["destination"].as_str().and_then(|name| attempts.get(name)) {
            delivery["attempts"] = of_it.clone();
        }
    }
    Ok(Json(item))
}

pub(super) async fn body(State(admin): Shared, Name(id): Name) -> Result<impl IntoResponse, Failure> {
    let known = find(&admin, &id).await?;
    let event = known.event.ok_or_else(|| Failure::not_found("the event was delivered; its body is no longer kept"))?;
    Ok(([(header::CONTENT_TYPE, event.content_type.clone())], event.body.clone()))
}

async fn find(admin: &Admin, id: &str) -> Result<Known, Failure> {
    let (id, sequence) = sequence_of(id)?;
    let tree = delay_tree(admin).await?;
    let known = admin.read(move |store| know(store, &tree, sequence)).await?;
    known.filter(|known| known.id == id).ok_or_else(|| {
        Failure::not_found(
            "no event with this id is known: it was never accepted, or ended longer ago than is remembered",
        )
    })
}

/// Completes what the store knows with what the scheduler and the settlements say.
async fn describe(
    admin: &Admin,
    lines: &HashMap<DestinationId, LineStatus>,
    mut known: Vec<Known>,
) -> Result<Vec<(Sequence, Value)>, Failure> {
    let settled = known::ends(admin, &mut known).await?;
    let waiting: Vec<_> = known
        .iter()
        .flat_map(|k| k.places.iter().map(move |(d, lies)| (k, d, lies)))
        .filter(|(.., lies)| matches!(lies, Lies::Waiting | Lies::Delayed(_)))
        .map(|(k, d, _)| (*d, k.lane, k.sequence))
        .collect();
    let standings = admin.ask(|to| Question::Standings(waiting.clone(), to)).await?;
    let standings: BTreeMap<DeliveryId, Standing> = waiting
        .iter()
        .map(|(destination, _, s)| DeliveryId { sequence: *s, destination: *destination })
        .zip(standings)
        .collect();
    let behind: BTreeSet<Sequence> = standings
        .values()
        .filter_map(|s| if let Standing::Held { behind } = s { Some(*behind) } else { None })
        .collect();
    let ids = admin
        .read(move |store| {
            let id = |s: Sequence| Ok::<_, StoreError>(store.entry(s)?.map(|e| (s, e.id(s).to_string())));
            behind.into_iter().filter_map(|s| id(s).transpose()).collect::<Result<HashMap<_, _>, _>>()
        })
        .await?;
    Ok(known
        .into_iter()
        .map(|k| {
            let deliveries: Vec<Value> = k
                .places
                .iter()
                .map(|(d, lies)| {
                    let id = DeliveryId { sequence: k.sequence, destination: *d };
                    let line = lines.get(d).copied();
                    delivery(admin, id, lies, standings.get(&id), settled.get(&id), line, &ids)
                })
                .collect();
            (k.sequence, item(&k, deliveries))
        })
        .collect())
}

fn item(k: &Known, deliveries: Vec<Value>) -> Value {
    json!({
        "id": k.id,
        "sequence": k.sequence,
        "source": k.source,
        "type": k.kind,
        "interaction": k.event.as_ref().and_then(|e| e.interaction.clone()),
        "sender_id": k.event.as_ref().and_then(|e| e.sender_id.clone()),
        "event_time": k.time.map(|t| t.to_string()),
        "received_at": k.received_at.to_string(),
        "size": k.size,
        "conflict": k.event.as_ref().is_some_and(|e| e.conflict),
        "deliveries": deliveries,
    })
}

fn delivery(
    admin: &Admin,
    id: DeliveryId,
    lies: &Lies,
    standing: Option<&Standing>,
    settled: Option<&Settlement>,
    line: Option<LineStatus>,
    ids: &HashMap<Sequence, String>,
) -> Value {
    let name = admin.destination_name(id.destination);
    let state = |state: DeliveryState| state.word();
    match (lies, standing) {
        (Lies::Dead, _) => json!({"destination": name, "state": state(DeliveryState::Dead)}),
        (Lies::Gone, _) => match settled {
            // redriven, and not yet where it goes
            Some(s) if s.how == How::Dead => json!({"destination": name, "state": state(DeliveryState::Queued)}),
            Some(s) => {
                let ended = if s.how == How::Delivered { DeliveryState::Delivered } else { DeliveryState::Discarded };
                let status = (s.status > 0).then_some(s.status);
                json!({"destination": name, "state": state(ended), "settled_at": s.at.to_string(), "attempts": s.attempts,
                    "status": status})
            }
            None => json!({"destination": name, "state": state(DeliveryState::Delivered)}),
        },
        (lies, standing) => {
            let tried = if let Lies::Delayed(d) = lies { d.next_attempt() - 1 } else { 0 };
            let (word, due, waits) = match standing {
                Some(Standing::InFlight) => (DeliveryState::InFlight, None, Value::Null),
                Some(Standing::Delayed { until }) => {
                    let waits = json!({"gate": "delay", "until": until.to_string(), "set_by": "retry"});
                    (DeliveryState::Delayed, Some(until.to_string()), waits)
                }
                Some(Standing::Held { behind }) => {
                    let behind = ids.get(behind).cloned().unwrap_or_else(|| format!("sequence {behind}"));
                    (DeliveryState::Held, None, json!({"gate": "order", "behind": behind, "set_by": "ordering"}))
                }
                Some(Standing::Queued) | None => (DeliveryState::Queued, None, gate(admin, id.destination, line)),
            };
            json!({"destination": name, "state": state(word), "attempts": tried, "due": due, "waiting_for": waits})
        }
    }
}

/// What keeps a delivery waiting whose own turn has come.
fn gate(admin: &Admin, d: DestinationId, line: Option<LineStatus>) -> Value {
    let Some((destination, line)) = admin.destinations.get(&d).zip(line) else {
        return json!({"gate": "pause", "set_by": "configuration", "reason": "this destination is not configured any more"});
    };
    if destination.url().is_none() {
        json!({"gate": "pause", "set_by": "configuration", "reason": "no url is configured"})
    } else if line.hold_until > admin.clock.now() {
        let (until, reason) = (line.hold_until.to_string(), destination.held_why(line.hold_until));
        json!({"gate": "delay", "until": until, "set_by": "destination", "reason": reason})
    } else {
        json!({"gate": "concurrency", "set_by": "configuration"})
    }
}

/// The rest of the filter, on what is now known.
fn fits(filter: &Filter, item: &Value, admin: &Admin) -> bool {
    let wanted = filter.destination.map(|d| admin.destination_name(d));
    let is = |field: &str, wanted: &Option<String>| wanted.as_ref().is_none_or(|w| item[field] == **w);
    let deliveries = item["deliveries"].as_array();
    is("source", &filter.source)
        && is("type", &filter.kind)
        && deliveries.into_iter().flatten().any(|delivery| {
            wanted.as_ref().is_none_or(|w| delivery["destination"] == **w)
                && filter.state.is_none_or(|s| delivery["state"] == s.word())
        })
}
