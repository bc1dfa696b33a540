//! The sources as the status shows them: when each was last heard, and what of it was refused.

use super::Admin;
use crate::intake::{Refused, UNKNOWN_SOURCE};
use crate::time::Timestamp;
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// How a source stands.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SourceItem {
    /// `(unknown)` for what was sent to names that no source has.
    name: String,
    /// When something of it was last answered with a success; null where that was not since the start.
    #[schema(format = DateTime)]
    last_event_at: Option<String>,
    /// Requests refused since the start.
    refused: u64,
    /// Those by reason.
    refusals: Vec<RefusalItem>,
}

/// What was refused for one reason.
#[derive(Debug, Serialize, ToSchema)]
struct RefusalItem {
    status: u16,
    code: &'static str,
    count: u64,
}

impl From<&Refused> for RefusalItem {
    fn from(of: &Refused) -> Self {
        Self { status: of.status, code: of.code, count: of.count }
    }
}

/// All sources of the configuration, and behind them what was sent to none.
pub(super) fn all(admin: &Admin) -> Vec<SourceItem> {
    let refused = admin.counts.refusals.by_source();
    let mut heard: BTreeMap<String, Option<Timestamp>> =
        admin.counts.last_received().into_iter().map(|(name, at)| (name, Some(at))).collect();
    if refused.contains_key(UNKNOWN_SOURCE) {
        heard.insert(UNKNOWN_SOURCE.to_owned(), None);
    }
    let mut items: Vec<SourceItem> = heard
        .into_iter()
        .map(|(name, at)| {
            let refusals = refused.get(&name).map(Vec::as_slice).unwrap_or_default();
            SourceItem {
                last_event_at: at.filter(|at| *at > Timestamp::ZERO).map(|at| at.to_string()),
                refused: refusals.iter().map(|refused| refused.count).sum(),
                refusals: refusals.iter().map(RefusalItem::from).collect(),
                name,
            }
        })
        .collect();
    items.sort_by_key(|item| item.name == UNKNOWN_SOURCE);
    items
}
