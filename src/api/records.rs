//! Lists of what happened and what was set aside: audit, outages, quarantined requests, damaged records.

use super::Time;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A change that somebody made, or access to bodies, or requests that were refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// When; of several occurrences the last.
    pub at: Time,
    /// The first of several occurrences of a kind within an hour, which share an entry; null where it happened once.
    pub since: Option<Time>,
    /// The name of a token, `unix:` and a user, a part of the daemon, or `unauthenticated`.
    pub who: String,
    pub what: String,
    /// How many things it concerned; of several occurrences, how many they were.
    pub count: u64,
}

/// A time in which events could not be accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Outage {
    pub from: Time,
    /// Null while it lasts.
    pub until: Option<Time>,
    /// `disk_low`, `queue_full`, `memory_limit`, `store_failed`, `rate_limited`, `intake_closed`, `draining` (until the
    /// next start) or `crash`.
    pub reason: String,
    /// Requests refused in it, as far as they reached the daemon.
    pub refused: u64,
}

/// A request that is kept apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QuarantinedRequest {
    pub id: String,
    pub source: String,
    /// `bad_signature` or `invalid_body`.
    pub cause: String,
    pub received_at: Time,
    pub content_type: Option<String>,
    pub size: usize,
}

/// A damaged record: a stored record that did not verify. Its bytes are kept apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DamagedRecord {
    pub id: String,
    pub found_at: Time,
    /// The table that it was in.
    pub table: String,
    /// Of the delivery that was lost with it; null where it was of none.
    pub sequence: Option<u64>,
    /// The id of its event; null where it is not known.
    pub event: Option<String>,
    pub destination: Option<String>,
    /// What did not verify.
    pub why: String,
    pub size: usize,
}
