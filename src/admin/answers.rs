//! What the API answers: one struct for each thing that it shows, so that the document of the API is made from the code.

use super::access::Caller;
use super::explain::Held;
use crate::config::settings::Scope;
use crate::delivery::{Attempt, Delivery, Reason};
use crate::event::{EventId, Sequence};
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Asks for the next page as `after`; null where this is the last one.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// A list that is never longer than a page.
    pub fn whole(items: Vec<T>) -> Self {
        Self { items, next: None }
    }
}

/// An event, and where each of its deliveries is.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventItem {
    #[schema(value_type = String, format = Uuid)]
    pub id: EventId,
    #[schema(value_type = u64)]
    pub sequence: Sequence,
    pub source: String,
    #[serde(rename = "type")]
    pub kind: String,
    /// The key of its interaction, as long as the event itself lies here.
    pub interaction: Option<String>,
    pub sender_id: Option<String>,
    pub event_time: Option<String>,
    #[schema(format = DateTime)]
    pub received_at: String,
    pub size: usize,
    /// The same id had been seen with another body.
    pub conflict: bool,
    pub deliveries: Vec<DeliveryItem>,
}

/// One event for one destination. What is not known of a state is not there.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeliveryItem {
    pub destination: String,
    pub state: DeliveryState,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<Attempts>,
    /// In flight: when this attempt began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// In flight: when this attempt ends at the latest, by the destination's `timeout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// When its next attempt is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due: Option<String>,
    /// When it was delivered, died or was discarded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settled_at: Option<String>,
    /// Why it is dead.
    #[schema(value_type = Option<String>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// How the last attempt ended, where it failed; the words are those of the attempts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Of the last answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What went wrong in the last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The blocker that lasts longest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocked_by: Option<Held>,
    /// The other blockers, the one that lasts longest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub also_blocked_by: Vec<Held>,
}

impl DeliveryItem {
    /// One of which nothing but its state is known.
    pub fn bare(destination: String, state: DeliveryState) -> Self {
        Self {
            destination,
            state,
            attempts: None,
            since: None,
            until: None,
            due: None,
            settled_at: None,
            reason: None,
            outcome: None,
            status: None,
            error: None,
            blocked_by: None,
            also_blocked_by: Vec::new(),
        }
    }

    /// With how many attempts were made, and how the last of them failed.
    pub fn tried(self, delivery: &Delivery) -> Self {
        let last = delivery.attempts.last();
        Self {
            attempts: Some(Attempts::Count(delivery.next_attempt() - 1)),
            outcome: last.map(|a| a.outcome.word().to_owned()),
            status: last.and_then(|a| a.outcome.status()),
            error: last.map(|a| a.error.clone()).filter(|error| !error.is_empty()),
            ..self
        }
    }
}

/// The state of a delivery, as it is named in JSON and in filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    Queued,
    Delayed,
    Blocked,
    InFlight,
    Delivered,
    Dead,
    Discarded,
}

/// Bytes of JSON, near enough, after which a page of a list ends, whatever its `limit`: 1 MiB.
pub const PAGE_BYTES: usize = 1 << 20;
/// The newest attempts that an entry of a list holds; a single dead letter holds all of them.
const ATTEMPTS_LISTED: usize = 3;
/// Longest text in an entry of a list: of what names or describes an event, and of what was answered.
const NAME_LISTED: usize = 1024;
const ANSWER_LISTED: usize = 256;

/// The beginning of a text that is longer, with three dots behind it.
pub fn shortened(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let end = (0..=bytes_max).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}...", &text[..end])
}

/// The same of a field that may be long because a sender made it so.
pub fn listed(text: &str) -> String {
    shortened(text, NAME_LISTED)
}

/// How many attempts were made; or, of a single event that waits or is dead, all of them.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Attempts {
    Count(u32),
    All(Vec<AttemptItem>),
}

/// One try.
#[derive(Debug, Serialize, ToSchema)]
pub struct AttemptItem {
    pub number: u32,
    #[schema(format = DateTime)]
    pub at: String,
    pub latency_ms: u32,
    /// `answered`, `unsuccessful`, `timeout`, `broken`, `not_connected`, `connect_timeout` or `not_sent`.
    pub outcome: String,
    /// Whether the destination may have the event although it did not say so.
    pub ambiguous: bool,
    pub status: Option<u16>,
    pub error: String,
    /// The beginning of what came back; null to a token without the scope `reveal`, since it can repeat the event.
    pub answer: Option<String>,
}

/// Whether the text of a destination's answers is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    Shown,
    Hidden,
}

impl Answers {
    /// As this caller may see them.
    pub fn to(caller: &Caller) -> Self {
        if caller.may(Scope::Reveal) { Self::Shown } else { Self::Hidden }
    }
}

/// Every attempt of a delivery, oldest first.
pub fn attempts(delivery: &Delivery, answers: Answers) -> Vec<AttemptItem> {
    let one = |a: &Attempt| AttemptItem {
        number: a.number,
        at: a.at.to_string(),
        latency_ms: a.latency_ms,
        outcome: a.outcome.word().to_owned(),
        ambiguous: a.outcome.is_ambiguous(),
        status: a.outcome.status(),
        error: a.error.clone(),
        answer: (answers == Answers::Shown).then(|| String::from_utf8_lossy(&a.answer).into_owned()),
    };
    delivery.attempts.iter().map(one).collect()
}

impl LetterItem {
    /// As it stands in a list: its newest attempts, and no long text.
    pub fn listed(mut self) -> Self {
        self.attempts.drain(..self.attempts.len().saturating_sub(ATTEMPTS_LISTED));
        for attempt in &mut self.attempts {
            attempt.error = shortened(&attempt.error, ANSWER_LISTED);
            attempt.answer = attempt.answer.as_deref().map(|answer| shortened(answer, ANSWER_LISTED));
        }
        for text in [&mut self.interaction, &mut self.sender_id].into_iter().flatten() {
            *text = listed(text);
        }
        self.kind = listed(&self.kind);
        self
    }

    /// Bytes of its JSON, near enough.
    pub fn weight(&self) -> usize {
        let attempts = self.attempts.iter().map(|a| 160 + a.error.len() + a.answer.as_ref().map_or(0, String::len));
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        400 + self.kind.len() + text(&self.interaction) + text(&self.sender_id) + attempts.sum::<usize>()
    }
}

impl EventItem {
    /// As it stands in a list: without long text.
    pub fn listed(mut self) -> Self {
        for text in [&mut self.interaction, &mut self.sender_id].into_iter().flatten() {
            *text = listed(text);
        }
        self.kind = listed(&self.kind);
        for delivery in &mut self.deliveries {
            delivery.error = delivery.error.as_deref().map(|error| shortened(error, ANSWER_LISTED));
        }
        self
    }

    /// Bytes of its JSON, near enough.
    pub fn weight(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let deliveries = self.deliveries.iter().map(|d| 300 + text(&d.error));
        300 + self.kind.len() + text(&self.interaction) + text(&self.sender_id) + deliveries.sum::<usize>()
    }
}

/// A delivery that could not be made.
#[derive(Debug, Serialize, ToSchema)]
pub struct LetterItem {
    #[schema(value_type = String, format = Uuid)]
    pub id: EventId,
    #[schema(value_type = u64)]
    pub sequence: Sequence,
    pub destination: String,
    #[schema(value_type = String)]
    pub reason: Reason,
    #[schema(format = DateTime)]
    pub dead_at: String,
    pub source: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub interaction: Option<String>,
    pub sender_id: Option<String>,
    pub event_time: Option<String>,
    #[schema(format = DateTime)]
    pub received_at: String,
    pub size: usize,
    pub conflict: bool,
    pub redriven: bool,
    /// Oldest first; in a list the newest three, and their texts shortened.
    pub attempts: Vec<AttemptItem>,
    /// The other destinations for which the event is dead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub also_dead_for: Option<Vec<String>>,
}

/// What a change of deliveries or dead letters came to.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct Changed {
    pub matched: usize,
    /// Zero in a dry run, and for a redrive that takes its time.
    pub done: usize,
    /// How many were matched of each destination.
    pub destinations: BTreeMap<String, usize>,
    /// Of a dry run: given with the change itself, nothing that came later is in it.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_of: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_two_characters() {
        for (text, is) in
            [("", ""), ("abcd", "abcd"), ("abcde", "abcd..."), ("abc\u{e4}", "abc..."), ("ab\u{e4}", "ab\u{e4}")]
        {
            assert_eq!(shortened(text, 4), is);
        }
    }
}
