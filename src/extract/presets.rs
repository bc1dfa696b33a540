//! The presets: where known senders write each field; and which preset applies to a request under `auto`.

use super::Field;
use super::pointer::{Composite, Part, Pointer};
use super::scan::Places;
use http::HeaderMap;

/// How a body is divided into events.
#[derive(Clone, Debug)]
pub(super) enum Split<P = Pointer> {
    /// One event.
    Whole,
    /// The array at the pointer holds one event per element.
    Array(P),
    /// Like [`Split::Array`] if there is an array, otherwise one event.
    Batch(P),
}

/// The places of the fields of an event: a list of alternatives for each.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) name: &'static str,
    pub(super) split: Split,
    pub(super) key: Vec<Composite>,
    pub(super) id: Vec<Composite>,
    pub(super) time: Vec<Composite>,
    pub(super) event_type: Vec<Composite>,
    /// Whether UUIDs among the dotted segments of the type are replaced by `{id}`.
    pub(super) anonymize_type: bool,
    /// The place and value that mark a heartbeat instead of an event.
    pub(super) heartbeat: Option<(Pointer, &'static str)>,
    /// The place of a text that is itself JSON and contains the event; the fields above are then those of its envelope,
    /// and are used if the event lacks one.
    pub(super) unwrap: Option<Pointer>,
    /// The shape if the headers contain the event's attributes and the body is its data (CloudEvents HTTP binding 1.0,
    /// section 3.1).
    pub(super) binary: Option<Box<Self>>,
}

/// A list of alternatives, each a list of parts.
type Alternatives = &'static [&'static [&'static str]];

struct Row {
    name: &'static str,
    split: Split<&'static str>,
    key: Alternatives,
    id: Alternatives,
    time: Alternatives,
    event_type: Alternatives,
    anonymize_type: bool,
    heartbeat: Option<(&'static str, &'static str)>,
    unwrap: Option<&'static str>,
    binary: Option<&'static Self>,
}

/// No field at all; the base of every row.
const BARE: Row = Row {
    name: "custom",
    split: Split::Whole,
    key: &[],
    id: &[],
    time: &[],
    event_type: &[],
    anonymize_type: false,
    heartbeat: None,
    unwrap: None,
    binary: None,
};

/// CloudEvents in binary mode: each attribute is a header, and the body is the content of `/data` in structured mode. So
/// an event has the same fields in both modes.
const BINARY: Row = Row {
    name: "cloudevents",
    key: &[
        &["header:ce-partitionkey"],
        &["header:ce-subject"],
        &["/messageSid"],
        &["/callSid"],
        &["/interactionId"],
        &["/conversationId"],
    ],
    id: &[&["header:ce-source", "header:ce-id"]],
    time: &[&["header:ce-time"]],
    event_type: &[&["header:ce-type"]],
    ..BARE
};

const TABLE: [Row; 9] = [
    Row {
        name: "genesys-eventbridge",
        key: &[&["/detail/eventBody/conversationId"], &["/detail/eventBody/entity/id"], &["/detail/eventBody/id"]],
        id: &[&["/id"]],
        time: &[&["/detail/eventBody/eventTime"], &["/detail/timestamp"], &["/time"]],
        event_type: &[&["/detail-type"]],
        ..BARE
    },
    Row {
        name: "genesys-notification",
        key: &[&["/eventBody/conversationId"], &["/eventBody/id"]],
        // A state snapshot has no id of its own; two of them can have the same correlation id.
        id: &[&["/topicName", "/metadata/CorrelationId", "body:sha256"]],
        time: &[&["/eventBody/eventTime"]],
        event_type: &[&["/topicName"]],
        anonymize_type: true,
        heartbeat: Some(("/topicName", "channel.metadata")),
        ..BARE
    },
    Row {
        name: "genesys-open-messaging",
        key: &[&["/channel/id", "/channel/to/id"]],
        // A receipt has the `/id` of the message that it acknowledges.
        id: &[&["/id", "/type", "/status", "/channel/time", "/events/0/eventType"]],
        time: &[&["/channel/time"]],
        event_type: &[&["/type"]],
        ..BARE
    },
    Row {
        name: "azure-event-grid",
        split: Split::Array(""),
        key: &[&["/data/message/detail/eventBody/conversationId"], &["/subject"]],
        id: &[&["/id"]],
        time: &[&["/eventTime"]],
        event_type: &[&["/data/message/detail-type"], &["/eventType"]],
        ..BARE
    },
    Row {
        name: "cloudevents",
        split: Split::Batch(""),
        // never `/source`: it identifies the producer, so all of its events would be one interaction
        key: &[
            &["/partitionkey"],
            &["/subject"],
            &["/data/messageSid"],
            &["/data/callSid"],
            &["/data/interactionId"],
            &["/data/conversationId"],
        ],
        id: &[&["/source", "/id"]],
        time: &[&["/time"]],
        event_type: &[&["/type"]],
        binary: Some(&BINARY),
        ..BARE
    },
    // The envelope of an Amazon SNS notification; a sender's event is in `/Message`.
    Row {
        name: "sns",
        id: &[&["/MessageId"]],
        time: &[&["/Timestamp"]],
        event_type: &[&["/Type"]],
        unwrap: Some("/Message"),
        ..BARE
    },
    Row {
        name: "genesys-engage-interactions",
        split: Split::Array("/data/entities"),
        key: &[&["/entity/id"]],
        id: &[&["/entity/id", "/event", "body:sha256"]],
        event_type: &[&["/event"]],
        ..BARE
    },
    Row {
        name: "genesys-trigger",
        key: &[&["/conversationId"]],
        id: &[
            &["header:x-event-id"],
            &["header:x-event-type", "/conversationId", "/sessionId", "/participantId", "/eventTime"],
        ],
        time: &[&["/eventTime"]],
        event_type: &[&["header:x-event-type"], &["query:type"]],
        ..BARE
    },
    Row {
        name: "interaction",
        key: &[&["/data/interactionId"], &["/data/conversationId"], &["/data/id"]],
        id: &[&["header:webhook-id"], &["/eventId"], &["/id"], &["/eventType", "/timestamp", "/data/id"]],
        time: &[&["/timestamp"]],
        event_type: &[&["/eventType"]],
        ..BARE
    },
];

/// The shape of one sender.
pub(super) fn shape(name: &str) -> Option<Shape> {
    TABLE.iter().find(|row| row.name == name).map(compile)
}

/// The shapes of all known senders, in the order of [`TABLE`].
pub(super) fn shapes() -> Vec<Shape> {
    TABLE.iter().map(compile).collect()
}

/// The shape without any field.
pub(super) fn bare() -> Shape {
    compile(&BARE)
}

fn compile(row: &Row) -> Shape {
    Shape {
        name: row.name,
        split: match row.split {
            Split::Whole => Split::Whole,
            Split::Array(at) => Split::Array(pointer(at)),
            Split::Batch(at) => Split::Batch(pointer(at)),
        },
        key: alternatives(row.key),
        id: alternatives(row.id),
        time: alternatives(row.time),
        event_type: alternatives(row.event_type),
        anonymize_type: row.anonymize_type,
        heartbeat: row.heartbeat.map(|(at, event_type)| (pointer(at), event_type)),
        unwrap: row.unwrap.map(pointer),
        binary: row.binary.map(|row| Box::new(compile(row))),
    }
}

fn alternatives(table: Alternatives) -> Vec<Composite> {
    let read = |parts: &&[&str]| Composite::parse(parts).expect("the parts of each preset are read by a test");
    table.iter().map(read).collect()
}

fn pointer(text: &str) -> Pointer {
    Pointer::parse(text).expect("the pointers of each preset are read by a test")
}

impl Shape {
    /// The alternatives of each field.
    pub(super) fn fields(&self) -> [(Field, &[Composite]); 4] {
        [
            (Field::Key, &self.key),
            (Field::Id, &self.id),
            (Field::Time, &self.time),
            (Field::EventType, &self.event_type),
        ]
    }

    /// Every header and query parameter that this shape reads.
    pub(super) fn outside_the_body(&self) -> Vec<&Part> {
        let composites = self.fields().into_iter().flat_map(|(_, alternatives)| alternatives);
        let own = composites.flat_map(|Composite(parts)| parts).filter(|part| part.is_outside_the_body());
        own.chain(self.binary.iter().flat_map(|binary| binary.outside_the_body())).collect()
    }

    /// Replaces the places of a field, in every mode.
    pub(super) fn set(&mut self, field: Field, alternatives: &[Composite]) {
        if let Some(binary) = &mut self.binary {
            binary.set(field, alternatives);
        }
        match field {
            Field::Key => self.key = alternatives.to_vec(),
            Field::Id => self.id = alternatives.to_vec(),
            Field::Time => self.time = alternatives.to_vec(),
            Field::EventType => (self.event_type, self.anonymize_type) = (alternatives.to_vec(), false),
        }
    }

    /// Every place in the body that this shape reads.
    pub(super) fn pointers(&self) -> Vec<&Pointer> {
        let split = match &self.split {
            Split::Whole => None,
            Split::Array(pointer) | Split::Batch(pointer) => Some(pointer),
        };
        let fields = [&self.key, &self.id, &self.time, &self.event_type].into_iter().flatten();
        let others = split.into_iter().chain(self.heartbeat.as_ref().map(|(at, _)| at)).chain(&self.unwrap);
        let own = fields.flat_map(Composite::pointers).chain(others);
        own.chain(self.binary.iter().flat_map(|binary| binary.pointers())).collect()
    }
}

/// The prefix of the media types of CloudEvents in structured and batched mode.
const CLOUDEVENTS: &str = "application/cloudevents";

/// The places that distinguish bodies; [`detect_preset`] reads each of them.
const SIGNS: [&str; 18] = [
    "/Type",
    "/TopicArn",
    "/MessageId",
    "/Message",
    "/source",
    "/topicName",
    "/channel/platform",
    "/specversion",
    "/conversationId",
    "/data/entities",
    "/data/entities/0",
    "/0",
    "/0/specversion",
    "/0/id",
    "/0/subject",
    "/0/eventType",
    "/0/eventTime",
    "",
];

/// The places that a walk must collect for [`detect_preset`].
pub(super) fn sign_pointers() -> impl Iterator<Item = Pointer> {
    SIGNS.iter().map(|sign| Pointer::parse(sign).expect("each sign is read by a test"))
}

/// Whether the headers contain a CloudEvent's attributes and the body is its data: any of the required attributes is a
/// header, and the media type does not mark the body as the whole event (CloudEvents HTTP binding 1.0, section 3).
pub(super) fn is_binary(headers: &HeaderMap) -> bool {
    let media_type = headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let whole =
        media_type.trim_start().get(..CLOUDEVENTS.len()).is_some_and(|start| start.eq_ignore_ascii_case(CLOUDEVENTS));
    !whole && ["ce-id", "ce-specversion", "ce-type", "ce-source"].iter().any(|name| headers.contains_key(*name))
}

/// The name of the preset that applies to a request; a plain interaction if no other applies. The most specific sign is
/// checked first. The first element of an array decides, so no preset applies to an empty one.
pub(super) fn detect_preset(headers: &HeaderMap, found: &Places<'_, '_>) -> &'static str {
    let has = |segments: &[&str]| found.scalar(segments.iter().copied()).is_some();
    let starts = |name: &str, prefix: &str| found.scalar([name]).is_some_and(|value| value.starts_with(prefix));
    let array = |segments: &[&str]| found.text(segments.iter().copied()).is_some_and(|text| text.starts_with('['));

    let sns = ["MessageId", "Message"].iter().all(|field| has(&[field])) && starts("TopicArn", "arn:aws");
    if sns && found.scalar(["Type"]).as_deref() == Some("Notification") {
        return "sns";
    }
    if starts("source", "aws.partner/genesys.com") {
        return "genesys-eventbridge";
    }
    if starts("topicName", "v2.") || found.scalar(["topicName"]).as_deref() == Some("channel.metadata") {
        return "genesys-notification";
    }
    if found.scalar(["channel", "platform"]).as_deref() == Some("Open") {
        return "genesys-open-messaging";
    }
    let grid_header = headers.contains_key("aeg-event-type") && found.text(["0"]).is_some();
    let grid_fields = ["id", "subject", "eventType", "eventTime"].iter().all(|field| has(&["0", field]));
    if array(&[]) && (grid_header || grid_fields) && !has(&["0", "specversion"]) {
        return "azure-event-grid";
    }
    if is_binary(headers) || has(&["specversion"]) || (array(&[]) && has(&["0", "specversion"])) {
        return "cloudevents";
    }
    if array(&["data", "entities"]) && found.text(["data", "entities", "0"]).is_some() {
        return "genesys-engage-interactions";
    }
    if headers.contains_key("x-event-type") || has(&["conversationId"]) {
        return "genesys-trigger";
    }
    "interaction"
}
