//! `/v1/audit`, `/v1/outages`, `/v1/damaged`, `/v1/intake`: the audit, outages, damaged records, and closing and opening
//! intake.

use super::access::Caller;
use super::object::Object;
use super::{Failure, Shared, event_lookup, filter, status};
use crate::api::{self, AuditEntry, IntakeDecided, Outage, Page, Time};
use crate::store::{Change, IntakeOverride};
use crate::time::Timestamp;
use axum::Json;
use axum::extract::{Query as QueryOf, State, rejection::JsonRejection, rejection::QueryRejection};
use serde::Deserialize;
use std::time::Duration;
use utoipa::{IntoParams, ToSchema};

const REASON_MAX: usize = 500;
/// The longest `for` of an override: more than a year.
const FOR_MAX: Duration = Duration::from_secs(9999 * 3600);

/// A page of a list whose newest entries come first.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct Newest {
    /// The `next` of an earlier answer.
    #[param(value_type = Option<String>, pattern = "^[0-9]{1,18}$")]
    after: Option<String>,
    /// Items of a page.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

impl Newest {
    fn bounds(query: Result<QueryOf<Self>, QueryRejection>) -> Result<(u64, usize), Failure> {
        let QueryOf(query) = query.map_err(|e| Failure::bad(e.body_text()))?;
        let before = query.after.as_deref().map_or(Ok(u64::MAX), str::parse);
        let before = before.map_err(|_| Failure::bad("`after` is the `next` of an earlier answer"))?;
        Ok((before, filter::limit(query.limit)?))
    }
}

/// Makes a page of what the store returned; a full page may have a successor.
fn page<R, T>(found: Vec<(u64, R)>, limit: usize, item: impl Fn(R) -> T) -> Page<T> {
    let next = found.last().filter(|(n, _)| found.len() == limit && *n > 1).map(|(n, _)| n.to_string());
    Page { items: found.into_iter().map(|(_, record)| item(record)).collect(), next }
}

/// Every change made through this API, every read of bodies, and requests that were refused, the newest first
#[utoipa::path(get, path = "/v1/audit", tag = "notes", params(Newest), responses((status = 200, body = Page<AuditEntry>), Failure))]
pub(super) async fn audit(
    State(admin): Shared,
    query: Result<QueryOf<Newest>, QueryRejection>,
) -> Result<Json<Page<AuditEntry>>, Failure> {
    let (before, limit) = Newest::bounds(query)?;
    admin.access.write(&admin.store).await;
    let found = admin.read(move |store| store.audit(before, limit)).await?;
    Ok(Json(page(found, limit, |a| AuditEntry {
        at: a.at.into(),
        since: a.since.map(Time),
        who: a.who,
        what: a.what,
        count: a.count,
    })))
}

/// When events could not be accepted and why, the newest first
#[utoipa::path(get, path = "/v1/outages", tag = "notes", params(Newest), responses((status = 200, body = Page<Outage>), Failure))]
pub(super) async fn outages(
    State(admin): Shared,
    query: Result<QueryOf<Newest>, QueryRejection>,
) -> Result<Json<Page<Outage>>, Failure> {
    let (before, limit) = Newest::bounds(query)?;
    let found = admin.read(move |store| store.outages(before, limit)).await?;
    Ok(Json(page(found, limit, status::outage)))
}

/// Stored records that did not verify and were set aside, the newest first
#[utoipa::path(get, path = "/v1/damaged", tag = "notes", params(Newest), responses((status = 200, body = Page<api::DamagedRecord>), Failure))]
pub(super) async fn damaged(
    State(admin): Shared,
    query: Result<QueryOf<Newest>, QueryRejection>,
) -> Result<Json<Page<api::DamagedRecord>>, Failure> {
    let (before, limit) = Newest::bounds(query)?;
    let found = admin
        .read(move |store| {
            let mut found = Vec::new();
            for (number, record) in store.damaged_records(before, limit)? {
                // its event may be stored for another destination, or no longer
                let sequence = record.delivery().map(|delivery| delivery.sequence);
                let event = sequence.map(|sequence| event_lookup::know(store, sequence)).transpose()?.flatten();
                found.push((number, (number, record, event.map(|event| event.id))));
            }
            Ok(found)
        })
        .await?;
    Ok(Json(page(found, limit, |(number, record, event)| {
        let delivery = record.delivery();
        api::DamagedRecord {
            id: number.to_string(),
            found_at: record.at.into(),
            table: record.table,
            sequence: delivery.map(|delivery| delivery.sequence.0),
            event: event.map(|event| event.to_string()),
            destination: delivery.map(|delivery| admin.destination_name(delivery.destination)),
            why: record.why,
            size: record.bytes.len(),
        }
    })))
}

/// Why intake is closed, and for how long.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Close {
    #[schema(max_length = 500)]
    reason: String,
    /// A duration as `30m`; without it, until it is opened by hand.
    #[serde(rename = "for")]
    #[schema(value_type = Option<String>, pattern = "^[1-9][0-9]{0,3}(s|m|h)$")]
    within: Option<String>,
}

pub(super) fn sound_reason(reason: &str) -> Result<(), Failure> {
    if reason.chars().count() > REASON_MAX {
        return Err(Failure::bad("a reason has at most 500 characters"));
    }
    Ok(())
}

/// When a change made now ends; checks the reason and the duration.
pub(super) fn until(now: Timestamp, reason: &str, within: Option<&str>) -> Result<Timestamp, Failure> {
    sound_reason(reason)?;
    match within.map(humantime::parse_duration) {
        None => Ok(Timestamp::NEVER),
        Some(Ok(within)) if !within.is_zero() && within <= FOR_MAX => Ok(now.after(within)),
        Some(_) => Err(Failure::bad("`for` is a duration of at most a year, such as `30m`")),
    }
}

/// Lets events in again
#[utoipa::path(post, path = "/v1/intake/open", tag = "intake", responses((status = 200, body = IntakeDecided), Failure))]
pub(super) async fn open(State(admin): Shared, caller: Caller) -> Result<Json<IntakeDecided>, Failure> {
    let change = Change::IntakeOverride { what: "intake open".to_owned(), intake_override: IntakeOverride::Open };
    admin.store.change(change, caller.name).await?;
    admin.admission.reopen();
    let state = admin.admission.state();
    Ok(Json(IntakeDecided { open: state.code().is_none(), reason: state.code().map(str::to_owned), until: None }))
}

/// Answers 503 to every event, until it is opened again or `for` is over
#[utoipa::path(post, path = "/v1/intake/close", tag = "intake", request_body = Close, responses((status = 200, body = IntakeDecided), Failure))]
pub(super) async fn close(
    State(admin): Shared,
    caller: Caller,
    body: Result<Json<Object<Close>>, JsonRejection>,
) -> Result<Json<IntakeDecided>, Failure> {
    let Json(Object(close)) = body.map_err(|e| Failure::bad(e.body_text()))?;
    let since = admin.clock.now();
    let until = until(since, &close.reason, close.within.as_deref())?;
    let why = if close.reason.is_empty() { String::new() } else { format!(": {}", close.reason) };
    let intake_override = IntakeOverride::Closed { who: caller.name.clone(), reason: close.reason, since, until };
    // intake is closed before the change is written, so that no event is accepted after the response
    admin.admission.close_until(until);
    admin
        .store
        .change(Change::IntakeOverride { what: format!("intake close{why}"), intake_override }, caller.name)
        .await?;
    let state = admin.admission.state();
    Ok(Json(IntakeDecided { open: false, reason: state.code().map(str::to_owned), until: Time::unless_never(until) }))
}
