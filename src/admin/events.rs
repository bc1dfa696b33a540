//! `/v1/events`: the state of each event and what blocks it.
//!
//! Lists are ordered by sequence and merged from the history, the delay tree and the dead letters, so the position of a page
//! stays valid while deliveries move.

use super::access::Caller;
use super::answers::{Answers, Entry, PAGE_BYTES, attempts, with_attempts};
use super::event_lookup::{self, Candidate, KnownEvent, Location, Look, know};
use super::explain::{self, Lasting};
use super::filter::{EventQuery, Filter, Query};
use super::{Admin, Failure, Name, Shared, sequence_of};
use crate::api::{self, Attempts, DeliveryState, Page};
use crate::delivery::{Blocked, Blocker, DeliveryId};
use crate::dispatch::{DestinationStatus, Question};
use crate::event::{DestinationId, EventId, Sequence};
use crate::scheduler::DeliveryStatus;
use crate::store::{EndKind, Settlement, Store, StoreError};
use axum::Json;
use axum::extract::{Query as QueryOf, State, rejection::QueryRejection};
use axum::http::header;
use axum::response::IntoResponse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// Events that one response examines at most; the caller continues with its `next`.
const EXAMINED_MAX: usize = 200_000;
/// Events that are read in one call.
const READ_AT_ONCE: usize = 100;
/// How often moving deliveries are looked up again before they are shown as last seen.
const LOOKS_MAX: usize = 5;

/// Events, oldest first, with where each of their deliveries is
#[utoipa::path(get, path = "/v1/events", tag = "events", params(EventQuery), responses((status = 200, body = Page<api::Event>), Failure))]
pub(super) async fn list(
    State(admin): Shared,
    query: Result<QueryOf<EventQuery>, QueryRejection>,
) -> Result<Json<Page<api::Event>>, Failure> {
    let QueryOf(query) = query.map_err(|e| Failure::bad(e.body_text()))?;
    let query = Query::from(query);
    let filter = Filter::of(&query, &admin)?;
    // the `next` of dead letters also names a destination; the list continues after the same event
    let after = query.after.as_deref().map(|after| after.split('-').next().unwrap_or_default());
    let after = after.map_or(Ok(0), str::parse::<u64>);
    let after = after.map_err(|_| Failure::bad("`after` is the `next` of an earlier answer"))?;
    let _turn = admin.store.turn().await;
    let (lines, began) = (admin.lines().await?, admin.clock.precise());
    let mut bytes = 0;
    let (mut items, mut from, mut examined) = (Vec::new(), Sequence(after.saturating_add(1)), 0);
    let next = loop {
        let look = look(&admin, &filter, from, examined, began).await?;
        examined += look.examined;
        let mut delivery_status = with_status(&admin, filter.state, look.candidates).await?.into_iter().peekable();
        let mut cut = None;
        while delivery_status.peek().is_some() && items.len() < filter.limit {
            // described together: the settlements are scanned once for all of them
            let room = (filter.limit - items.len()).min(READ_AT_ONCE);
            let some: Vec<_> = delivery_status.by_ref().take(room).collect();
            let last = some.last().map(|candidate| candidate.sequence);
            let filter_here = filter.clone();
            let known = admin.read(move |store| Look::know(store, &filter_here, some)).await?;
            let described = describe(&admin, &lines, known).await?;
            for item in described.into_iter().filter(|item| fits(&filter, item, &admin)).map(Entry::listed) {
                bytes += item.json_bytes();
                items.push(item);
            }
            if delivery_status.peek().is_some() && (bytes >= PAGE_BYTES || admin.has_taken_long(began)) {
                cut = last;
                break;
            }
        }
        match look.next {
            // after the last event that was read
            _ if cut.is_some() => break cut,
            // the page is full: continue after its last item
            _ if items.len() == filter.limit => break items.last().map(|item: &api::Event| item.sequence),
            None => break None,
            Some(next) if is_over(&admin, examined, began) => break Some(Sequence(next.0 - 1)),
            Some(next) => from = next,
        }
    };
    Ok(Json(Page { items, next: next.map(|s| s.to_string()) }))
}

/// Whether the response is due with what was found so far.
fn is_over(admin: &Admin, examined: usize, began: Duration) -> bool {
    examined >= EXAMINED_MAX || admin.has_taken_long(began)
}

/// Candidates from `from` on; those in flight are known without a scan.
async fn look(
    admin: &Arc<Admin>,
    filter: &Filter,
    from: Sequence,
    examined: usize,
    began: Duration,
) -> Result<Look, Failure> {
    let (filter, clocked) = (filter.clone(), admin.clone());
    if filter.state == Some(DeliveryState::InFlight) {
        let in_flight = admin.ask(Question::InFlight).await?;
        return admin.read(move |store| Look::at(store, &filter, in_flight.range(from..))).await;
    }
    let enough = filter.limit;
    let over = move |n: usize| is_over(&clocked, examined + n, began);
    admin.read(move |store| Look::take(store, &filter, from, enough, over)).await
}

/// Keeps the candidates that have a delivery in this state according to the scheduler, before more of them is read.
async fn with_status(
    admin: &Admin,
    state: Option<DeliveryState>,
    candidates: Vec<Candidate>,
) -> Result<Vec<Candidate>, Failure> {
    let Some(wanted @ (DeliveryState::Queued | DeliveryState::Delayed | DeliveryState::Blocked)) = state else {
        return Ok(candidates);
    };
    let waiting: Vec<_> = candidates.iter().map(|c| c.waiting(&admin.store)).collect();
    let asked = waiting.iter().flatten().flatten().copied().collect();
    let mut delivery_statuses = admin.ask(|to| Question::Deliveries(asked, to)).await?.into_iter();
    let mut stands = waiting.iter().map(|of| match of {
        None => true,
        // each candidate consumes its own statuses, so that the next one starts at its own
        Some(of) => delivery_statuses.by_ref().take(of.len()).filter(|s| state_of(*s) == wanted).count() > 0,
    });
    Ok(candidates.into_iter().filter(|_| stands.next().unwrap_or(true)).collect())
}

/// The scheduler's status as a state of the API.
fn state_of(delivery_status: DeliveryStatus) -> DeliveryState {
    match delivery_status {
        DeliveryStatus::InFlight { .. } => DeliveryState::InFlight,
        DeliveryStatus::Blocked(Blocked { by: Blocker::RetryBackoff, .. }) => DeliveryState::Delayed,
        DeliveryStatus::Blocked(Blocked { behind: Some(_), .. }) => DeliveryState::Blocked,
        DeliveryStatus::Blocked(_) | DeliveryStatus::Queued | DeliveryStatus::Moved => DeliveryState::Queued,
    }
}

/// One event: its deliveries, their attempts, and what they wait for
#[utoipa::path(get, path = "/v1/events/{id}", tag = "events", params(Name), responses((status = 200, body = api::Event), Failure))]
pub(super) async fn show(State(admin): Shared, caller: Caller, Name(id): Name) -> Result<Json<api::Event>, Failure> {
    let (mut known, lines) = (vec![find(&admin, &id).await?], admin.lines().await?);
    let told = gather(&admin, &lines, &mut known).await?;
    let known = known.pop().ok_or_else(|| Failure::not_found("the event has just ended"))?;
    let mut tried: BTreeMap<String, Attempts> = known
        .places
        .iter()
        .filter_map(|(d, location)| match location {
            Location::Delayed { delivery, .. } => Some((d, &**delivery)),
            Location::Dead(dead_letter) => dead_letter.as_ref().map(|dead_letter| (d, &dead_letter.delivery)),
            Location::Waiting | Location::Gone => None,
        })
        .map(|(d, delivery)| (admin.destination_name(*d), Attempts::All(attempts(delivery, Answers::to(&caller)))))
        .collect();
    let mut item = told.event(known);
    for delivery in &mut item.deliveries {
        delivery.attempts = tried.remove(&delivery.destination).or_else(|| delivery.attempts.take());
    }
    Ok(Json(item))
}

/// The body of an event that still lies here, byte for byte
#[utoipa::path(get, path = "/v1/events/{id}/body", tag = "events", params(Name), responses((status = 200, description = "As it was received, with its Content-Type", content_type = "*/*"), Failure))]
pub(super) async fn body(State(admin): Shared, Name(id): Name) -> Result<impl IntoResponse, Failure> {
    let known = find(&admin, &id).await?;
    let event = admin.read(move |store| event_lookup::whole(store, &known)).await?;
    let event = event.ok_or_else(|| Failure::not_found("the event was delivered; its body is no longer kept"))?;
    Ok(([(header::CONTENT_TYPE, event.content_type.clone())], event.body.clone()))
}

/// The event by its id, or by `SOURCE:ID` with the sender's own id: then the newest event with that id.
pub(super) async fn find(admin: &Admin, id: &str) -> Result<KnownEvent, Failure> {
    let (id, sequence) = place_of(admin, id)?;
    admin.has_started().await?;
    let known = admin.read(move |store| know(store, sequence)).await?;
    known.filter(|known| id.is_none_or(|id| known.id == id)).ok_or_else(unknown)
}

/// Those of these events that are known, without duplicates.
pub(super) async fn find_all(admin: &Admin, ids: &[String]) -> Result<Vec<KnownEvent>, Failure> {
    let mut wanted = BTreeMap::new();
    for id in ids {
        let place = place_of(admin, id).map(Some).or_else(Failure::unless_not_found)?;
        wanted.extend(place.map(|(id, sequence)| (sequence, id)));
    }
    admin.has_started().await?;
    admin
        .read(move |store| {
            let mut found = Vec::new();
            for (sequence, id) in wanted {
                found.extend(know(store, sequence)?.filter(|known| id.is_none_or(|id| known.id == id)));
            }
            Ok(found)
        })
        .await
}

fn place_of(admin: &Admin, id: &str) -> Result<(Option<EventId>, Sequence), Failure> {
    match id.split_once(':') {
        None => sequence_of(id).map(|(id, sequence)| (Some(id), sequence)),
        Some((source, of_sender)) => Ok((None, admin.store.remembered(source, of_sender).ok_or_else(unknown)?)),
    }
}

fn unknown() -> Failure {
    Failure::not_found("no event with this id is known: it was never accepted, or ended longer ago than is remembered")
}

/// Adds the scheduler's statuses and the settlements to what the store knows.
async fn describe(
    admin: &Admin,
    lines: &HashMap<DestinationId, DestinationStatus>,
    mut known: Vec<KnownEvent>,
) -> Result<Vec<api::Event>, Failure> {
    let told = gather(admin, lines, &mut known).await?;
    Ok(known.into_iter().map(|k| told.event(k)).collect())
}

type DeliveryStatuses = BTreeMap<DeliveryId, DeliveryStatus>;

/// The scheduler's statuses of the waiting deliveries.
async fn delivery_statuses(admin: &Admin, known: &[KnownEvent]) -> Result<DeliveryStatuses, Failure> {
    let waiting: Vec<_> = known
        .iter()
        .flat_map(|k| k.places.iter().map(move |(d, location)| (k, d, location)))
        .filter(|(.., location)| matches!(location, Location::Waiting | Location::Delayed { .. }))
        .map(|(k, d, _)| (*d, k.order_key, k.sequence))
        .collect();
    let delivery_statuses = admin.ask(|to| Question::Deliveries(waiting.clone(), to)).await?;
    let ids = waiting.iter().map(|(destination, _, s)| DeliveryId { sequence: *s, destination: *destination });
    Ok(ids.zip(delivery_statuses).collect())
}

/// Collects everything that is shown of some events. The store is read first, then the scheduler; what moved in between is
/// read again from both, which updates `known`.
async fn gather<'a>(
    admin: &'a Admin,
    lines: &HashMap<DestinationId, DestinationStatus>,
    known: &mut Vec<KnownEvent>,
) -> Result<DeliveryView<'a>, Failure> {
    let (mut settled, mut delivery_statuses) =
        (event_lookup::ends(admin, known).await?, delivery_statuses(admin, known).await?);
    for _ in 1..LOOKS_MAX {
        let moved = delivery_statuses.iter().filter(|(_, delivery_status)| **delivery_status == DeliveryStatus::Moved);
        let moved: BTreeSet<Sequence> = moved.map(|(id, _)| id.sequence).collect();
        if moved.is_empty() {
            break;
        }
        event_lookup::look_again(admin, known, moved).await?;
        (settled, delivery_statuses) =
            (event_lookup::ends(admin, known).await?, self::delivery_statuses(admin, known).await?);
    }
    let behind: BTreeSet<Sequence> = delivery_statuses.values().filter_map(|s| s.behind()).collect();
    let ids = admin.read(move |store| ids(store, behind)).await?;
    let line = |d: &DestinationId| lines.get(d).cloned().unwrap_or_default();
    let touched: BTreeSet<DestinationId> = known.iter().flat_map(|k| k.places.keys().copied()).collect();
    let blockers = touched.iter().map(|d| (*d, explain::lasting(admin, *d, &line(d)))).collect();
    Ok(DeliveryView { admin, settled, delivery_statuses, ids, blockers })
}

/// The ids of the events that others wait for.
fn ids(store: &Store, of: BTreeSet<Sequence>) -> Result<HashMap<Sequence, EventId>, StoreError> {
    let id = |s: Sequence| match store.entry(s)?.filter(|entry| !entry.is_erased()) {
        Some(entry) => Ok::<_, StoreError>(Some((s, entry.id(s)))),
        None => Ok(know(store, s)?.map(|known| (s, known.id))),
    };
    of.into_iter().filter_map(|s| id(s).transpose()).collect()
}

/// Everything needed to describe some events.
struct DeliveryView<'a> {
    admin: &'a Admin,
    settled: BTreeMap<DeliveryId, Settlement>,
    delivery_statuses: DeliveryStatuses,
    ids: HashMap<Sequence, EventId>,
    blockers: BTreeMap<DestinationId, Vec<Lasting>>,
}

impl DeliveryView<'_> {
    fn event(&self, k: KnownEvent) -> api::Event {
        let id = |d: &DestinationId| DeliveryId { sequence: k.sequence, destination: *d };
        api::Event {
            id: k.id,
            sequence: k.sequence,
            deliveries: k.places.iter().map(|(d, location)| self.delivery(id(d), location)).collect(),
            source: k.source,
            event_type: k.kind,
            interaction: k.event.as_ref().and_then(|e| e.interaction.clone()),
            sender_id: k.event.as_ref().and_then(|e| e.sender_id.clone()),
            event_time: k.time.map(api::Time),
            received_at: k.received_at.into(),
            size: k.size,
            conflict: k.event.as_ref().is_some_and(|e| e.conflict),
        }
    }

    fn delivery(&self, id: DeliveryId, location: &Location) -> api::Delivery {
        let bare = |state| api::Delivery::bare(self.admin.destination_name(id.destination), state);
        match (location, self.settled.get(&id)) {
            (Location::Dead(None), _) => {
                let error = "its record does not verify; redrive or purge sets it aside".to_owned();
                api::Delivery { error: Some(error), ..bare(DeliveryState::Dead) }
            }
            (Location::Dead(Some(dead_letter)), _) => api::Delivery {
                settled_at: Some(dead_letter.dead_at.into()),
                reason: Some(dead_letter.reason),
                ..with_attempts(bare(DeliveryState::Dead), &dead_letter.delivery)
            },
            // redriven, and not yet at its new place
            (Location::Gone, Some(s)) if s.how == EndKind::Dead => bare(DeliveryState::Queued),
            (Location::Gone, Some(s)) => api::Delivery {
                settled_at: Some(s.at.into()),
                attempts: Some(Attempts::Count(u32::from(s.attempts))),
                status: (s.status > 0).then_some(s.status),
                ..bare(if s.how == EndKind::Delivered { DeliveryState::Delivered } else { DeliveryState::Discarded })
            },
            (Location::Gone, None) => bare(DeliveryState::Delivered),
            (location, _) => {
                let delivery_status = self.delivery_statuses.get(&id).copied().unwrap_or(DeliveryStatus::Queued);
                let blockers = self.blockers.get(&id.destination).map_or(&[][..], Vec::as_slice);
                let named = |s: Sequence| self.ids.get(&s).map_or_else(|| format!("sequence {s}"), EventId::to_string);
                let mut by = explain::of_delivery(delivery_status, blockers, named).into_iter();
                let due = delivery_status.retry_at().map(api::Time);
                let (since, until) = self.under_way(id.destination, delivery_status).unzip();
                let bare = api::Delivery { attempts: Some(Attempts::Count(0)), ..bare(state_of(delivery_status)) };
                let tried = if let Location::Delayed { delivery, .. } = location {
                    with_attempts(bare, delivery)
                } else {
                    bare
                };
                let (blocked_by, also_blocked_by) = (by.next(), by.collect());
                api::Delivery { since, until, due, blocked_by, also_blocked_by, ..tried }
            }
        }
    }

    /// When the attempt in flight began, and when it ends at the latest.
    fn under_way(&self, d: DestinationId, delivery_status: DeliveryStatus) -> Option<(api::Time, api::Time)> {
        let DeliveryStatus::InFlight { since } = delivery_status else { return None };
        let timeout = self.admin.destinations.get(d).map(|destination| destination.timeout).unwrap_or_default();
        Some((since.into(), since.after(timeout).into()))
    }
}

/// Applies the rest of the filter to what is now known.
fn fits(filter: &Filter, item: &api::Event, admin: &Admin) -> bool {
    let wanted = filter.destination.map(|d| admin.destination_name(d));
    filter.source.as_ref().is_none_or(|s| item.source == *s)
        && filter.kind.as_ref().is_none_or(|k| item.event_type == *k)
        && item.deliveries.iter().any(|delivery| {
            wanted.as_ref().is_none_or(|w| delivery.destination == *w)
                && filter.state.is_none_or(|s| delivery.state == s)
        })
}
