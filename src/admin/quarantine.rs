//! `/v1/quarantine`: lists and readmits quarantined requests.

use super::access::Caller;
use super::answers::listed;
use super::{Failure, Shared, filter};
use crate::api::{self, Page, Readmitted};
use crate::intake::{Unproven, Verdict};
use crate::store::{Change, QuarantinedRequest};
use axum::Json;
use axum::extract::{Query as QueryOf, State, rejection::JsonRejection, rejection::QueryRejection};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

/// A page ends after this many bytes of requests were read for it: 16 MiB.
const READ_BYTES: usize = 16 << 20;

/// A page of the list, the oldest first.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct Oldest {
    /// The `next` of an earlier answer.
    #[param(value_type = Option<String>, pattern = "^[0-9]{1,18}$")]
    after: Option<String>,
    /// Items of a page.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

fn shown(number: u64, request: QuarantinedRequest) -> api::QuarantinedRequest {
    let content_type = request.headers.iter().find(|(name, _)| name == "content-type");
    api::QuarantinedRequest {
        id: number.to_string(),
        source: request.source,
        cause: request.cause.word().to_owned(),
        received_at: request.at.into(),
        content_type: content_type.map(|(_, value)| listed(&String::from_utf8_lossy(value))),
        size: request.body.len(),
    }
}

/// Requests that were kept apart, the oldest first
#[utoipa::path(get, path = "/v1/quarantine", tag = "quarantine", params(Oldest), responses((status = 200, body = Page<api::QuarantinedRequest>), Failure))]
pub(super) async fn list(
    State(admin): Shared,
    query: Result<QueryOf<Oldest>, QueryRejection>,
) -> Result<Json<Page<api::QuarantinedRequest>>, Failure> {
    let QueryOf(query) = query.map_err(|e| Failure::bad(e.body_text()))?;
    let after = query.after.as_deref().map(str::parse::<u64>).transpose();
    let after = after.map_err(|_| Failure::bad("`after` is the `next` of an earlier answer"))?;
    let limit = filter::limit(query.limit)?;
    let _turn = admin.store.turn().await;
    let page = admin
        .read(move |store| {
            let numbers = store.quarantined_from(after.map_or(0, |after| after.saturating_add(1)), limit + 1);
            let next = (numbers.len() > limit).then(|| numbers[limit - 1].to_string());
            let (mut items, mut read) = (Vec::new(), 0);
            for number in numbers.into_iter().take(limit) {
                let Some(quarantined) = store.quarantined(number)? else { continue };
                read += quarantined.body.len();
                items.push(shown(number, quarantined));
                if read >= READ_BYTES {
                    return Ok(Page { items, next: Some(number.to_string()) });
                }
            }
            Ok(Page { items, next })
        })
        .await?;
    Ok(Json(page))
}

/// Which of them are judged anew.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Readmit {
    /// Of this source only.
    source: Option<String>,
    /// Only say what would become of them.
    dry_run: bool,
    /// Let in, too, what came while its source asked for no proof, though it asks for one now; `source` must be given.
    accept_unproven: bool,
}

/// Judges them by the configuration of today; those that pass become events, with the time at which they first came
#[utoipa::path(post, path = "/v1/quarantine/readmit", tag = "quarantine", request_body = Readmit, responses((status = 200, body = Readmitted), Failure))]
pub(super) async fn readmit(
    State(admin): Shared,
    caller: Caller,
    body: Result<Json<Readmit>, JsonRejection>,
) -> Result<Json<Readmitted>, Failure> {
    let Json(requested) = body.map_err(|e| Failure::bad(e.body_text()))?;
    let unproven = if requested.accept_unproven { Unproven::Accept } else { Unproven::Keep };
    if requested.accept_unproven && requested.source.is_none() {
        return Err(Failure::bad("`accept_unproven` needs `source`: name the source whose requests you answer for"));
    }
    let intake = admin.intake.read().expect("no holder panics").clone();
    let mut all = Readmitted::default();
    let mut from = 0;
    while let Some(number) = admin.store.quarantined_from(from, 1).first().copied() {
        from = number + 1;
        let Some(quarantined) = admin.read(move |store| store.quarantined(number)).await? else { continue };
        if requested.source.as_ref().is_some_and(|source| *source != quarantined.source) {
            continue;
        }
        let verdict = match requested.dry_run {
            true => Some(intake.judge(&quarantined, unproven).0),
            false => intake.readmit(number, &quarantined, unproven).await?,
        };
        let Some(verdict) = verdict else { continue };
        all.matched += 1;
        match verdict {
            Verdict::Passes(events) => {
                all.events += events;
                all.done += usize::from(!requested.dry_run);
            }
            Verdict::StillBad(crate::store::Cause::BadSignature) => all.bad_signature += 1,
            Verdict::StillBad(crate::store::Cause::Unparsable) => all.invalid_body += 1,
            Verdict::Unproven => all.unproven += 1,
            Verdict::SourceGone => all.source_gone += 1,
        }
    }
    if all.done > 0 {
        let answered_for = if requested.accept_unproven { ", without proof where they had none" } else { "" };
        let what = format!("quarantine readmit: {} requests let in with {} events{answered_for}", all.done, all.events);
        admin.store.change(Change::Note { what }, caller.name).await?;
    }
    Ok(Json(all))
}
