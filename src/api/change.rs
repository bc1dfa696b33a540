//! What a change did.

use super::Time;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// What a change of deliveries or dead letters did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Changed {
    pub matched: usize,
    /// Zero in a dry run, and for a redrive with a rate or a canary.
    pub done: usize,
    /// How many were matched of each destination.
    pub destinations: BTreeMap<String, usize>,
    /// Of a dry run: given with the change itself, it excludes what came later.
    #[schema(nullable = false)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<String>,
}

/// What a redrive did; with a rate or a canary, what has begun.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RedriveAnswer {
    #[serde(flatten)]
    pub changed: Changed,
    /// With `rate` or `canary`: one for each destination; `/v1/dlq/redrives` shows their progress.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub redrives: Vec<Redrive>,
}

/// The state of a redrive with a rate or a canary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RedriveState {
    #[default]
    GoesOn,
    /// All of its dead letters have been looked at.
    Complete,
    /// What it sent again failed, and the rest is still dead.
    Failing,
    /// By an operator; the rest is still dead.
    Stopped,
}

impl RedriveState {
    /// The word for it in tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::GoesOn => "goes on",
            Self::Complete => "complete",
            Self::Failing => "failing",
            Self::Stopped => "stopped",
        }
    }
}

/// A redrive of one destination's dead letters with a rate or a canary.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Redrive {
    pub destination: String,
    pub state: RedriveState,
    pub by: String,
    pub begun_at: Time,
    /// As `50/s`.
    pub rate: Option<String>,
    pub canary: bool,
    /// Dead letters that it is about.
    pub matched: u64,
    /// How many of them it has looked at.
    pub taken: u64,
    /// How many were still dead, and are queued again. What died again since it began is left alone.
    pub done: u64,
    pub ended_at: Option<Time>,
    /// Of `judged` that were looked at so many failed, where that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judged: Option<u64>,
    /// Of those queued again so many are delivered; it counts on after the end.
    pub delivered: u64,
    /// So many have died again.
    pub dead_again: u64,
    /// So many were discarded meanwhile, or are damaged.
    pub gone: u64,
    /// Of so many the end is not known yet, or was not noted before a restart.
    pub under_way: u64,
    /// The dead letter whose failure was one too many for the canary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_by: Option<StoppedBy>,
}

/// The dead letter that stopped a redrive, and how its delivery failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StoppedBy {
    #[schema(format = Uuid)]
    pub event: String,
    pub destination: String,
    /// As in the attempts; `none` where it was not sent.
    pub outcome: String,
    pub status: Option<u16>,
    pub error: String,
}

/// The destination, and until when the change lasts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Decided {
    pub destination: String,
    /// Null where no time ends it.
    pub until: Option<Time>,
}

/// The state of intake after the change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IntakeDecided {
    pub open: bool,
    /// Why not, in one word.
    pub reason: Option<String>,
    /// When it opens by itself.
    pub until: Option<Time>,
}

/// What was erased; in a dry run, what there is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Erased {
    /// What the audit calls the interaction: a digest of its key.
    pub digest: String,
    /// Deliveries that waited; they count as discarded.
    pub waiting: u64,
    /// Dead letters; they count as discarded.
    pub dead: u64,
    /// Events that were remembered, to recognise duplicates and late ones; one that is sent again is a new event.
    pub remembered: u64,
    /// Quarantined requests that held an event of it.
    pub quarantined: u64,
    /// Damaged records that had been set aside.
    pub damaged: u64,
    /// What an erasure does not reach.
    pub remains: Remains,
}

/// Where the data may still be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Remains {
    /// The store's files keep what was deleted until the space is used again.
    pub store_files: String,
    pub backups: String,
    pub destinations: String,
}

/// What became of quarantined requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Readmitted {
    /// Requests that were checked.
    pub matched: usize,
    /// Requests that were readmitted; zero in a dry run.
    pub done: usize,
    /// Events that they held, duplicates among them.
    pub events: usize,
    /// Requests whose signature still does not verify.
    pub bad_signature: usize,
    /// Requests whose body still cannot be read.
    pub invalid_body: usize,
    /// Requests that came while their source asked for no proof, and now it asks for one.
    pub unproven: usize,
    /// Requests of a source that is not configured any more.
    pub source_gone: usize,
}
