//! `/v1/destinations/{name}/discard`: discards waiting deliveries that were handled elsewhere or are no longer needed.

use super::access::Caller;
use super::event_lookup::Location;
use super::events::find_all;
use super::object::Object;
use super::pending::{destination, places, read};
use super::selection::only_true;
use super::{Admin, Failure, Name, Shared, audit_log};
use crate::api::Changed;
use crate::delivery::{DeliveryId, Place};
use crate::dispatch::Question;
use crate::event::{DestinationId, Digest64, Sequence};
use crate::scheduler::DeliveryStatus;
use crate::store::{Change, Store, StoreError};
use axum::Json;
use axum::extract::{State, rejection::JsonRejection};
use serde::Deserialize;
use utoipa::ToSchema;

/// Events of one request.
const IDS_MAX: usize = 10_000;

/// Which deliveries, as the document of the API tells it: by ids, or all that wait.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it is only described; `GivenUp` is what is read")]
pub(super) enum SettledElsewhere {
    Ids(SettledIds),
    All(SettledAll),
}

/// Those of these events.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "it is only described")]
pub(super) struct SettledIds {
    /// Of events, as they stand in the lines of `pending`.
    #[schema(value_type = Vec<uuid::Uuid>, max_items = 10_000)]
    ids: Vec<String>,
    /// It stands in the audit.
    #[schema(min_length = 1, max_length = 500)]
    reason: String,
    #[schema(nullable = false)]
    dry_run: Option<bool>,
}

/// All that wait.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "it is only described")]
pub(super) struct SettledAll {
    #[schema(schema_with = only_true)]
    all: bool,
    /// The `as_of` of a dry run: what was accepted after it is left alone.
    #[schema(pattern = "^[0-9]{1,15}$")]
    as_of: Option<String>,
    /// It stands in the audit.
    #[schema(min_length = 1, max_length = 500)]
    reason: String,
    #[schema(nullable = false)]
    dry_run: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GivenUp {
    ids: Option<Vec<String>>,
    #[serde(default)]
    all: bool,
    as_of: Option<String>,
    reason: String,
    #[serde(default)]
    dry_run: bool,
}

type Waiting = Vec<(DeliveryId, Place, Digest64)>;

/// A running discard: the destination, the audit text, the caller, and the result so far.
struct Giving<'a> {
    admin: &'a Admin,
    d: DestinationId,
    what: String,
    who: String,
    dry_run: bool,
    changed: Changed,
}

/// Discards deliveries that wait for a destination; what is under way is left alone
#[utoipa::path(post, path = "/v1/destinations/{name}/discard", tag = "destinations", params(("name" = String, Path)), request_body = SettledElsewhere, responses((status = 200, body = Changed), Failure))]
pub(super) async fn discard(
    State(admin): Shared,
    caller: Caller,
    Name(name): Name,
    body: Result<Json<Object<GivenUp>>, JsonRejection>,
) -> Result<Json<Changed>, Failure> {
    let Json(Object(given_up)) = body.map_err(|e| Failure::bad(e.body_text()))?;
    audit_log::sound_reason(&given_up.reason)?;
    if given_up.reason.trim().is_empty() {
        return Err(Failure::bad("write a `reason`: who settled these, and where"));
    }
    let d = destination(&admin, &name)?;
    let what = format!("discard for {name}: {}", given_up.reason);
    let as_of = given_up.as_of.as_deref().map(last_of).transpose()?;
    let changed = Changed::default();
    let mut giving = Giving { admin: &admin, d, what, who: caller.name, dry_run: given_up.dry_run, changed };
    match (given_up.ids, given_up.all) {
        (Some(_), _) if as_of.is_some() => {
            return Err(Failure::bad("`as_of` goes with `all`; ids say already what is meant"));
        }
        (Some(ids), false) if ids.len() > IDS_MAX => {
            return Err(Failure::bad("at most 10000 ids at once; send them in several requests"));
        }
        (Some(ids), false) => {
            let named = giving.named(&ids).await?;
            giving.give_up(named).await?;
        }
        (None, true) => giving.give_up_all(as_of).await?,
        _ => return Err(Failure::bad("give either `ids`, or `all`: true")),
    }
    if giving.changed.matched > 0 {
        giving.changed.destinations.insert(name, giving.changed.matched);
    }
    Ok(Json(giving.changed))
}

impl Giving<'_> {
    async fn named(&self, ids: &[String]) -> Result<Waiting, Failure> {
        let mut waiting = Vec::new();
        for known in find_all(self.admin, ids).await? {
            let place = match known.places.get(&self.d) {
                Some(Location::Waiting) => Place::Page,
                Some(Location::Delayed { due, .. }) => Place::under(*due),
                _ => continue,
            };
            waiting.push((DeliveryId { sequence: known.sequence, destination: self.d }, place, known.order_key));
        }
        Ok(waiting)
    }

    /// Discards all waiting deliveries in order of acceptance, up to and including `last`.
    async fn give_up_all(&mut self, last: Option<Sequence>) -> Result<(), Failure> {
        let (admin, d) = (self.admin, self.d);
        admin.store.flush().await?; // deliveries on their way from a page into the delay tree are found there afterwards
        admin.has_started().await?;
        let (mut from, mut seen) = (Some(Sequence::default()), Sequence::default());
        while let Some(begin) = from {
            let (mut waiting, next) = admin.read(move |store| waiting(store, d, begin)).await?;
            waiting.retain(|(id, ..)| last.is_none_or(|last| id.sequence <= last));
            seen = waiting.last().map_or(seen, |(id, ..)| id.sequence);
            self.give_up(waiting).await?;
            from = next.filter(|next| last.is_none_or(|last| *next <= last));
        }
        self.changed.as_of = self.dry_run.then(|| seen.to_string());
        Ok(())
    }

    async fn give_up(&mut self, mut waiting: Waiting) -> Result<(), Failure> {
        let asked: Vec<_> = waiting.iter().map(|(id, _, order_key)| (self.d, *order_key, id.sequence)).collect();
        let delivery_statuses = self.admin.ask(|to| Question::Deliveries(asked, to)).await?;
        let mut delivery_statuses = delivery_statuses.into_iter();
        waiting.retain(|_| !matches!(delivery_statuses.next(), Some(DeliveryStatus::InFlight { .. })));
        self.changed.matched += waiting.len();
        if !self.dry_run && !waiting.is_empty() {
            let change = Change::Discard { what: self.what.clone(), deliveries: waiting };
            self.changed.done += self.admin.store.change(change, self.who.clone()).await?;
        }
        Ok(())
    }
}

/// The newest sequence that the dry run covered.
fn last_of(as_of: &str) -> Result<Sequence, Failure> {
    as_of.parse().map(Sequence).map_err(|_| Failure::bad("`as_of` is what a dry run answered"))
}

/// Some waiting deliveries from `from` on with their interactions, and where to continue.
fn waiting(store: &Store, d: DestinationId, from: Sequence) -> Result<(Waiting, Option<Sequence>), StoreError> {
    let (places, next) = places(store, d, from)?;
    let mut waiting = Vec::new();
    for (sequence, place) in places {
        let id = DeliveryId { sequence, destination: d };
        let order_key = match store.entry(sequence)? {
            Some(entry) => Some(store.order_key_of(&entry)),
            None => read(store, id, place)?.map(|delivery| store.order_key(&delivery.event)),
        };
        waiting.extend(order_key.map(|order_key| (id, place, order_key)));
    }
    Ok((waiting, next))
}
