//! Selects the dead letters of a change. A dead letter is one event for one destination, and this pair is selected.
//!
//! *Invariants.* A missing field never widens a selection: only `all` selects all dead letters, never an empty list or an
//! empty filter. With `as_of`, a change excludes what became dead after its dry run.

use super::access::Caller;
use super::dlq::{dead_for, head};
use super::filter::{self, Filter, Query};
use super::object::Object;
use super::{Admin, Failure, sequence_of};
use crate::api::Changed;
use crate::delivery::DeliveryId;
use crate::event::{DestinationId, EventId, Sequence};
use crate::store::{DlqAction, Store, StoreError};
use crate::time::Timestamp;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object as Described, ObjectBuilder, Type};

/// Dead letters that change in one commit.
const CHUNK: usize = 32;

/// What to purge, as the document of the API tells it.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it is only described; `Selection` is what is read")]
pub(super) enum Chosen {
    Ids(ByIds),
    Filter(ByFilter),
    All(AllDeadLetters),
}

/// `EVENT/DESTINATION` is one dead letter; `EVENT` alone is all of that event's dead letters, whatever their destination.
#[derive(ToSchema)]
#[schema(pattern = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(/[a-z0-9][a-z0-9_-]{0,62})?$", value_type = String)]
#[expect(dead_code, reason = "it is only described")]
pub(super) struct DeadLetterId(String);

/// These dead letters.
#[derive(ToSchema)]
#[schema(as = ByIds)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "it is only described")]
pub(super) struct ByIds {
    ids: Vec<DeadLetterId>,
    /// Of each event only its dead letter for this destination.
    destination: Option<String>,
    /// Only those that had died by then: the `as_of` of a dry run.
    as_of: Option<String>,
    #[schema(nullable = false)]
    dry_run: Option<bool>,
}

/// All dead letters that the filter fits; one that excludes nothing is refused.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "it is only described")]
pub(super) struct ByFilter {
    filter: Query,
    /// Only those that had died by then: the `as_of` of a dry run.
    as_of: Option<String>,
    #[schema(nullable = false)]
    dry_run: Option<bool>,
}

/// All dead letters.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "it is only described")]
pub(super) struct AllDeadLetters {
    #[schema(schema_with = only_true)]
    all: bool,
    /// Only those that had died by then: the `as_of` of a dry run.
    as_of: Option<String>,
    #[schema(nullable = false)]
    dry_run: Option<bool>,
}

pub(super) fn only_true() -> Described {
    ObjectBuilder::new().schema_type(Type::Boolean).enum_values(Some([true])).build()
}

/// A selection as the request contains it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Selection {
    pub(super) ids: Option<Vec<String>>,
    /// With `ids`: only for this destination.
    pub(super) destination: Option<String>,
    pub(super) filter: Option<Object<Query>>,
    #[serde(default)]
    pub(super) all: bool,
    /// Only what had become dead by this time.
    pub(super) as_of: Option<String>,
    #[serde(default)]
    pub(super) dry_run: bool,
}

/// The selected dead letters.
#[derive(Debug)]
pub(super) struct Selected {
    /// In order, without duplicates.
    pub(super) ids: Vec<DeliveryId>,
    /// Each of them became dead at this time or earlier; later ones became dead after the selection.
    as_of: Timestamp,
}

impl Selected {
    /// The response of a change. A dry run includes its `as_of`.
    pub(super) fn changed(&self, admin: &Admin, done: usize, dry_run: bool) -> Changed {
        let mut destinations = BTreeMap::new();
        for id in &self.ids {
            *destinations.entry(admin.destination_name(id.destination)).or_default() += 1;
        }
        Changed { matched: self.ids.len(), done, destinations, as_of: dry_run.then(|| self.as_of.to_string()) }
    }
}

/// A checked selection.
enum Wanted {
    DeadLetters(BTreeSet<(EventId, Sequence, Option<DestinationId>)>),
    Fitting(Box<Filter>),
}

/// Finds the selected dead letters.
pub(super) async fn select(admin: &Admin, selection: Selection) -> Result<Selected, Failure> {
    let died_by = filter::moment(selection.as_of.as_deref(), "as_of")?.unwrap_or(Timestamp::NEVER);
    let wanted = selection.checked(admin)?;
    let now = admin.clock.now();
    admin.store.flush().await?; // so that all earlier dead letters are visible
    let found = admin
        .read(move |store| match wanted {
            Wanted::DeadLetters(dead_letters) => named(store, &dead_letters, died_by),
            Wanted::Fitting(filter) => fitting(store, &filter, died_by),
        })
        .await?;
    // after the clock was set back, a dead letter can be dated later than now
    let as_of = found.values().copied().fold(now, Timestamp::max);
    Ok(Selected { ids: found.into_keys().collect(), as_of })
}

impl Selection {
    fn checked(self, admin: &Admin) -> Result<Wanted, Failure> {
        let without_ids = self.ids.is_none();
        match (self.ids, self.filter, self.all) {
            _ if without_ids && self.destination.is_some() => {
                Err(Failure::bad("`destination` goes with `ids`; with a filter, write it into the filter"))
            }
            (Some(ids), None, false) => {
                let only = self.destination.as_deref();
                ids.iter().map(|id| dead_letter_of(id, only, admin)).collect::<Result<_, _>>().map(Wanted::DeadLetters)
            }
            (None, Some(Object(query)), false) if query.pages() => {
                Err(Failure::bad("`limit` and `after` are for lists; a filter here means all that it fits"))
            }
            (None, Some(Object(query)), false) if query.excludes_nothing() => {
                Err(Failure::bad("this filter excludes nothing; where all dead letters are meant, say `all`: true"))
            }
            (None, Some(Object(query)), false) => Ok(Wanted::Fitting(Box::new(Filter::of(&query, admin)?))),
            (None, None, true) => Ok(Wanted::Fitting(Box::new(Filter::of(&Query::default(), admin)?))),
            _ => Err(Failure::bad("give one of `ids`, `filter`, and `all`: true")),
        }
    }
}

/// A dead letter by its name `EVENT/DESTINATION`; or all of an event, `EVENT`, if no destination is given separately.
fn dead_letter_of(
    named: &str,
    only: Option<&str>,
    admin: &Admin,
) -> Result<(EventId, Sequence, Option<DestinationId>), Failure> {
    let (event, destination) = match named.split_once('/') {
        Some((event, destination)) => (event, Some(destination)),
        None => (named, None),
    };
    let (id, sequence) = sequence_of(event)?;
    let destination = match (destination, only) {
        (Some(one), Some(other)) if one != other => {
            return Err(Failure::bad(format!("`{named}` is not for `{other}`, which `destination` names")));
        }
        (Some(one), _) | (None, Some(one)) => filter::destination(Some(one), admin)?,
        (None, None) => None,
    };
    Ok((id, sequence, destination))
}

/// Dead letters with the times at which they became dead.
type Found = BTreeMap<DeliveryId, Timestamp>;

fn named(
    store: &Store,
    dead_letters: &BTreeSet<(EventId, Sequence, Option<DestinationId>)>,
    died_by: Timestamp,
) -> Result<Found, StoreError> {
    let mut found = Found::new();
    for (event, sequence, only) in dead_letters {
        let dead = dead_for(store, *sequence)?.into_iter().filter(|d| only.is_none_or(|only| only == *d));
        for destination in dead {
            let id = DeliveryId { sequence: *sequence, destination };
            found.extend(death_of(store, id, *event)?.filter(|at| *at <= died_by).map(|at| (id, at)));
        }
    }
    Ok(found)
}

fn fitting(store: &Store, filter: &Filter, died_by: Timestamp) -> Result<Found, StoreError> {
    let mut found = Found::new();
    for id in store.dead_ids(None) {
        let id = id?;
        let dead_letter = head(store, id)?.map(|head| head.record);
        let dead_letter = dead_letter.filter(|dead_letter| dead_letter.dead_at <= died_by && filter.fits(dead_letter));
        found.extend(dead_letter.map(|dead_letter| (id, dead_letter.dead_at)));
    }
    Ok(found)
}

/// When a dead letter of this event became dead; none if it belongs to another event, since an id of another store can
/// contain the same sequence. A damaged dead letter is counted as a match, so that an operator can set it aside.
fn death_of(store: &Store, id: DeliveryId, event: EventId) -> Result<Option<Timestamp>, StoreError> {
    match store.dead_letter_head(id) {
        Ok(head) => {
            let dead_letter = head.map(|head| head.record);
            Ok(dead_letter.filter(|l| l.delivery.event.id(id.sequence) == event).map(|l| l.dead_at))
        }
        Err(StoreError::Damaged(_)) => Ok(Some(Timestamp::ZERO)),
        Err(e) => Err(e),
    }
}

/// Redrives or purges the dead letters at once, and returns how many still existed.
pub(super) async fn change(
    admin: &Admin,
    action: DlqAction,
    caller: Caller,
    ids: &[DeliveryId],
) -> Result<usize, Failure> {
    let mut done = 0;
    for chunk in ids.chunks(CHUNK) {
        done += admin.store.dlq(action, chunk.to_vec(), caller.name.clone()).await?;
    }
    tracing::info!(?action, who = caller.name, matched = ids.len(), done, "dead letters changed by an operator");
    Ok(done)
}
