//! List entries and their size limits; attempts as a caller may see them.

use super::access::Caller;
use crate::api;
use crate::config::settings::Scope;
use crate::delivery::{Attempt, Delivery};

/// A page of a list ends when its JSON reaches about this size, independent of its `limit`: 1 MiB.
pub const PAGE_BYTES: usize = 1 << 20;
/// The newest attempts in a list entry; a single dead letter shows all of them.
const ATTEMPTS_LISTED: usize = 3;
/// Longest text in a list entry, in bytes: of names and descriptions of an event, and of the destination's answer.
const NAME_LISTED: usize = 1024;
const ANSWER_LISTED: usize = 256;

/// Cuts a longer text and appends three dots.
pub fn shortened(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let end = (0..=bytes_max).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}...", &text[..end])
}

/// Shortens a field whose length the sender controls.
pub fn listed(text: &str) -> String {
    shortened(text, NAME_LISTED)
}

/// Whether the text of a destination's answers is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    Shown,
    Hidden,
}

impl Answers {
    /// What this caller may see.
    pub fn to(caller: &Caller) -> Self {
        if caller.may(Scope::Reveal) { Self::Shown } else { Self::Hidden }
    }
}

/// Every attempt of a delivery, oldest first.
pub fn attempts(delivery: &Delivery, answers: Answers) -> Vec<api::Attempt> {
    let one = |a: &Attempt| api::Attempt {
        number: a.number,
        at: a.at.into(),
        latency_ms: a.latency_ms,
        outcome: a.outcome.word().to_owned(),
        ambiguous: a.outcome.is_ambiguous(),
        status: a.outcome.status(),
        error: a.error.clone(),
        answer: (answers == Answers::Shown).then(|| String::from_utf8_lossy(&a.answer).into_owned()),
    };
    delivery.attempts.iter().map(one).collect()
}

/// An entry of a list.
pub trait Entry: Sized {
    /// Shortens long texts.
    fn listed(self) -> Self;
    /// The approximate size of its JSON.
    fn json_bytes(&self) -> usize;
}

impl Entry for api::DeadLetter {
    /// Keeps only the newest attempts.
    fn listed(mut self) -> Self {
        self.attempts.drain(..self.attempts.len().saturating_sub(ATTEMPTS_LISTED));
        for attempt in &mut self.attempts {
            attempt.error = shortened(&attempt.error, ANSWER_LISTED);
            attempt.answer = attempt.answer.as_deref().map(|answer| shortened(answer, ANSWER_LISTED));
        }
        for text in [&mut self.interaction, &mut self.sender_id].into_iter().flatten() {
            *text = listed(text);
        }
        self.event_type = listed(&self.event_type);
        self
    }

    fn json_bytes(&self) -> usize {
        let attempts = self.attempts.iter().map(|a| 160 + a.error.len() + a.answer.as_ref().map_or(0, String::len));
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        400 + self.event_type.len() + text(&self.interaction) + text(&self.sender_id) + attempts.sum::<usize>()
    }
}

impl Entry for api::Event {
    fn listed(mut self) -> Self {
        for text in [&mut self.interaction, &mut self.sender_id].into_iter().flatten() {
            *text = listed(text);
        }
        self.event_type = listed(&self.event_type);
        for delivery in &mut self.deliveries {
            delivery.error = delivery.error.as_deref().map(|error| shortened(error, ANSWER_LISTED));
        }
        self
    }

    fn json_bytes(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let deliveries = self.deliveries.iter().map(|d| 300 + text(&d.error));
        300 + self.event_type.len() + text(&self.interaction) + text(&self.sender_id) + deliveries.sum::<usize>()
    }
}

/// Adds the number of attempts and the failure of the last one.
pub fn with_attempts(delivery: api::Delivery, of: &Delivery) -> api::Delivery {
    let last = of.attempts.last();
    api::Delivery {
        attempts: Some(api::Attempts::Count(of.next_attempt() - 1)),
        outcome: last.map(|a| a.outcome.word().to_owned()),
        status: last.and_then(|a| a.outcome.status()),
        error: last.map(|a| a.error.clone()).filter(|error| !error.is_empty()),
        ..delivery
    }
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
