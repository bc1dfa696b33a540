//! The demo's traffic: many conversations, made from real bodies with other ids and times. The same seed makes the same
//! traffic.

use crate::time::Timestamp;
use bytes::Bytes;
use serde_json::Value;

/// A real body, and its texts that are replaced in each conversation.
struct Sample {
    text: &'static str,
    id: String,
    conversation: String,
    /// Milliseconds, as in most topics, or an RFC 3339 text.
    event_time: Value,
}

const CUSTOMER_START: &str = include_str!("../../../tests/samples/01_eb_customer_start.json");
const ACD_START: &str = include_str!("../../../tests/samples/21_eb_acd_start_schema.json");
const TRANSCRIPTION: &str = include_str!("../../../tests/samples/06_eb_transcription_ongoing.json");
const FLOW_OUTCOME: &str = include_str!("../../../tests/samples/04_eb_flow_outcome.json");
const USER_END: &str = include_str!("../../../tests/samples/23_eb_user_end_schema.json");
const CUSTOMER_END: &str = include_str!("../../../tests/samples/02_eb_customer_end.json");
/// From another platform: one event contains the whole interaction.
const COMPLETED: &str = include_str!("../../../tests/samples/26_seed_article.json");

/// Events of one interaction, in the order in which they happened.
#[derive(Debug, PartialEq, Eq)]
pub struct Conversation {
    /// Oldest first.
    pub events: Vec<Planned>,
}

/// An event to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The request body.
    pub body: Bytes,
    /// How often it is sent.
    pub sending: Sending,
}

/// How often a body is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    Once,
    /// Two requests at the same time.
    TwiceAtOnce,
    /// A second request after its conversation has ended.
    AgainLater,
}

/// Everything to send.
#[derive(Debug, PartialEq, Eq)]
pub struct Traffic {
    /// In the order in which they start.
    pub conversations: Vec<Conversation>,
    /// The body that the receiver never accepts.
    pub poison: Bytes,
}

/// One in this many conversations comes from the other platform.
const OTHER_PLATFORM: u64 = 12;

impl Traffic {
    /// Exactly `events` distinct events; the conversations start at `start`.
    pub fn new(random: Random, events: u64, start: Timestamp) -> Self {
        let samples = Samples::new();
        let mut conversations = Vec::new();
        let mut made = 0;
        while made < events {
            let number = conversations.len() as u64;
            let conversation = samples.conversation(random, number, made, events - made, start);
            made += conversation.events.len() as u64;
            conversations.push(conversation);
        }
        let poison = poison(&conversations);
        Self { conversations, poison }
    }
}

/// An event in the middle of the longest conversation near the middle, so that later events of its conversation follow.
fn poison(conversations: &[Conversation]) -> Bytes {
    let middle = conversations.len() / 2;
    let near = &conversations[middle..(middle + 5).min(conversations.len())];
    let longest = near.iter().max_by_key(|c| c.events.len());
    longest.map(|c| c.events[c.events.len() / 2].body.clone()).unwrap_or_default()
}

struct Samples {
    opening: [Sample; 2],
    talk: Sample,
    closing: [Sample; 3],
}

impl Samples {
    fn new() -> Self {
        Self {
            opening: [CUSTOMER_START, ACD_START].map(Sample::of),
            talk: Sample::of(TRANSCRIPTION),
            closing: [FLOW_OUTCOME, USER_END, CUSTOMER_END].map(Sample::of),
        }
    }

    /// Conversation `number`, of at most `room` events; `first` is the number of its first event among all.
    fn conversation(&self, random: Random, number: u64, first: u64, room: u64, start: Timestamp) -> Conversation {
        let key = random.uuid(number);
        let began = start.0 + number * 731;
        if number % OTHER_PLATFORM == OTHER_PLATFORM - 1 {
            let body = COMPLETED.replace("12345-abcde", &key).replace("1715634000000", &began.to_string());
            return Conversation { events: vec![Planned { body: body.into(), sending: Sending::Once }] };
        }
        let talks = 1 + random.below(Purpose::Length, number, 7) as usize;
        let talk = std::iter::repeat_n(&self.talk, talks);
        let series = self.opening.iter().chain(talk).chain(&self.closing);
        let events = series.take(usize::try_from(room).unwrap_or(usize::MAX)).enumerate().map(|(position, sample)| {
            let n = first + position as u64;
            // unique for the seed: conversations use the numbers from 0, events those from 2^32
            let id = random.uuid((1 << 32) + n);
            let at = Timestamp(began + position as u64 * 4_200);
            let sending = match random.below(Purpose::Duplicate, n, 100) {
                0..=1 => Sending::TwiceAtOnce,
                2..=4 => Sending::AgainLater,
                _ => Sending::Once,
            };
            Planned { body: sample.body(&id, &key, at), sending }
        });
        Conversation { events: events.collect() }
    }
}

impl Sample {
    fn of(text: &'static str) -> Self {
        let value: Value = serde_json::from_str(text).expect("the samples are JSON");
        let field = |pointer: &str| value.pointer(pointer).cloned().unwrap_or_default();
        let name = |pointer: &str| field(pointer).as_str().expect("the samples have ids").to_owned();
        Self {
            text,
            id: name("/id"),
            conversation: name("/detail/eventBody/conversationId"),
            event_time: field("/detail/eventBody/eventTime"),
        }
    }

    /// The sample's text with another event id, conversation and event time; the rest is unchanged.
    fn body(&self, id: &str, conversation: &str, at: Timestamp) -> Bytes {
        let time = match &self.event_time {
            Value::String(text) => self.text.replace(text.as_str(), &at.to_string()),
            number => self.text.replace(&number.to_string(), &at.0.to_string()),
        };
        time.replace(&self.conversation, conversation).replace(&self.id, id).into()
    }
}

/// What a random number is used for; numbers of different purposes are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Ids of events and conversations.
    Identity,
    /// How many events a conversation has.
    Length,
    /// How often a body is sent.
    Duplicate,
    /// How the receiver treats a request.
    Fault,
    /// How long the receiver takes to answer.
    Latency,
}

/// Random numbers that depend only on seed, purpose and index.
#[derive(Clone, Copy, Debug)]
pub struct Random {
    seed: u64,
}

impl Random {
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The 64 bits at index `n` for this purpose.
    pub fn bits(self, purpose: Purpose, n: u64) -> u64 {
        mix(mix(mix(self.seed).wrapping_add(purpose as u64)).wrapping_add(n))
    }

    /// The number at index `n` for this purpose, below `bound`.
    pub fn below(self, purpose: Purpose, n: u64, bound: u64) -> u64 {
        self.bits(purpose, n) % bound.max(1)
    }

    /// An id in the form of a random UUID (version 4).
    pub fn uuid(self, n: u64) -> String {
        let bits =
            u128::from(self.bits(Purpose::Identity, 2 * n)) << 64 | u128::from(self.bits(Purpose::Identity, 2 * n + 1));
        uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid().to_string()
    }
}

/// One step of SplitMix64 (Steele et al., OOPSLA 2014).
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn traffic(seed: u64, events: u64) -> Traffic {
        Traffic::new(Random::new(seed), events, Timestamp(1_773_957_888_128))
    }

    #[test]
    fn the_same_seed_makes_the_same_traffic() {
        assert_eq!(traffic(5, 300), traffic(5, 300));
        assert_ne!(traffic(5, 300), traffic(6, 300));
    }

    #[test]
    fn each_body_is_the_next_event_of_its_conversation() {
        let traffic = traffic(1, 500);
        let mut ids = HashSet::new();
        let mut keys = HashSet::new();
        for conversation in traffic.conversations.iter().filter(|c| c.events.len() > 1) {
            let mut key = None;
            let mut last = 0;
            for event in &conversation.events {
                let value: Value = serde_json::from_slice(&event.body).unwrap();
                let body = &value["detail"]["eventBody"];
                assert!(ids.insert(value["id"].as_str().unwrap().to_owned()));
                let this = body["conversationId"].as_str().unwrap().to_owned();
                assert!(value["detail"]["topicName"].as_str().unwrap().contains(&this));
                assert_eq!(key.get_or_insert_with(|| this.clone()), &this);
                let time = match &body["eventTime"] {
                    Value::String(text) => crate::cli::format::instant(text).unwrap().0,
                    number => number.as_u64().unwrap(),
                };
                assert!(time > last);
                last = time;
            }
            assert!(keys.insert(key.unwrap()));
        }
        assert!(keys.len() > 30);
    }

    #[test]
    fn the_requested_number_of_events_is_made_with_one_poison_event() {
        for events in [10, 11, 57, 500] {
            let traffic = traffic(1, events);
            let bodies: Vec<&Planned> = traffic.conversations.iter().flat_map(|c| &c.events).collect();
            assert_eq!(bodies.len() as u64, events);
            assert_eq!(bodies.iter().filter(|p| p.body == traffic.poison).count(), 1);
            let distinct: HashSet<&[u8]> = bodies.iter().map(|p| p.body.as_ref()).collect();
            assert_eq!(distinct.len() as u64, events);
        }
    }

    #[test]
    fn some_bodies_are_sent_twice() {
        let traffic = traffic(1, 2000);
        let count =
            |sending| traffic.conversations.iter().flat_map(|c| &c.events).filter(|p| p.sending == sending).count();
        assert!(count(Sending::TwiceAtOnce) > 20 && count(Sending::AgainLater) > 30);
    }

    #[test]
    fn the_same_seed_gives_the_same_values() {
        let (a, b) = (Random::new(7), Random::new(8));
        assert_eq!(a.uuid(3), Random::new(7).uuid(3));
        assert_ne!(a.uuid(3), b.uuid(3));
        assert_ne!(a.uuid(3), a.uuid(4));
        assert_eq!(a.uuid(3).as_bytes()[14], b'4');
        let hits = (0..6000).filter(|&n| a.below(Purpose::Fault, n, 6) == 5).count();
        assert!((850..1150).contains(&hits), "{hits}");
    }
}
