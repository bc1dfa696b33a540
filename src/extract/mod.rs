//! Profiles: where senders write the fields of an event, and how they are extracted.
//!
//! | level | module | purpose |
//! |---|---|---|
//! | 1 | [`pointer`] | a place in a request, as an operator writes it |
//! | 1 | [`raw_json`] | members and elements of valid JSON, without parsing it again |
//! | 2 | [`scan`] | one walk through a body, which finds all wanted places |
//! | 3 | [`presets`] | where known senders write each field; which preset a request fits |
//! | 4 | [`fields`] | the fields of one event |
//!
//! *Invariants.* No clock and no IO: the same request gives the same fields. Only the form of a body can be refused; a
//! missing field is not an error.

mod fields;
mod pointer;
mod presets;
mod raw_json;
mod scan;

pub use pointer::{Composite, Part, Pointer, PointerError};

use crate::time::Timestamp;
use bytes::Bytes;
use fields::Extractor;
use presets::{Shape, Split};
use scan::{Places, Wanted};
use thiserror::Error;

/// The profile of a source, ready to read requests.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Never empty; with more than one, each request determines which applies.
    shapes: Vec<Shape>,
    /// Set by an operator in place of the shape's own.
    split: Option<Pointer>,
    /// The shape of an envelope around every event, if it says where the event is.
    envelope: Shape,
    wanted: Wanted,
}

/// A field of an event whose place an operator can configure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The interaction key, by which events are ordered.
    Key,
    /// The sender's own id, by which duplicates are recognised.
    Id,
    /// When it happened.
    Time,
    /// The event type.
    EventType,
}

/// The parts of a request that a profile reads.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub headers: &'a http::HeaderMap,
    /// Without its `?`, still percent-encoded.
    pub query: Option<&'a str>,
    pub body: &'a Bytes,
}

/// Limits of a body.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Nesting of arrays and objects.
    pub depth_max: usize,
    /// Events in one request.
    pub events_max: usize,
}

/// The contents of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The body is the event.
    One(Fields),
    /// The body holds an array of events; at least one.
    Batch(Vec<Fields>),
    /// A heartbeat of the sender, by its type: it is acknowledged and not stored.
    Heartbeat { event_type: String },
}

impl Found {
    /// Its events.
    pub fn all(&self) -> &[Fields] {
        match self {
            Self::One(fields) => std::slice::from_ref(fields),
            Self::Batch(all) => all,
            Self::Heartbeat { .. } => &[],
        }
    }

    /// The number of events.
    pub fn events(&self) -> usize {
        self.all().len()
    }
}

/// The fields of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    /// The interaction key; none for an event without an interaction.
    pub interaction: Option<String>,
    /// The sender's own id.
    pub sender_id: Option<String>,
    /// When it happened, according to the sender; none also if that value cannot be read.
    pub time: Option<Timestamp>,
    /// The event type; empty if the sender gives none.
    pub event_type: String,
    /// The body of the event, byte for byte: all of the request's, or one element of it. Shares the request's memory.
    pub body: Bytes,
}

impl Fields {
    /// Bytes of its texts and its body.
    pub fn bytes(&self) -> usize {
        let texts = [self.interaction.as_ref(), self.sender_id.as_ref(), Some(&self.event_type)];
        texts.into_iter().flatten().map(String::len).sum::<usize>() + self.body.len()
    }

    /// Fills missing fields from those of an envelope.
    fn or(self, around: Self) -> Self {
        Self {
            interaction: self.interaction.or(around.interaction),
            sender_id: self.sender_id.or(around.sender_id),
            time: self.time.or(around.time),
            event_type: if self.event_type.is_empty() { around.event_type } else { self.event_type },
            body: self.body,
        }
    }
}

/// Why a body is refused, for the sender; does not quote the body.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unreadable {
    #[error("the body is not JSON: {message}")]
    NotJson { message: String },
    #[error("the JSON is nested more than {max} levels deep")]
    TooDeep { max: usize },
    #[error("the body holds more than {max} events: send fewer in one request")]
    TooManyEvents { max: usize },
    #[error("there is no array of events at {}", place(pointer))]
    NotAnArray { pointer: String },
    #[error("the body holds no event: send a JSON value, or an array with at least one event")]
    Empty,
}

fn place(pointer: &str) -> String {
    if pointer.is_empty() { "the top of the body".to_owned() } else { format!("`{pointer}`") }
}

impl Field {
    /// The key of its pointers in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Id => "id",
            Self::Time => "time",
            Self::EventType => "type",
        }
    }
}

impl Profile {
    /// Names that [`Profile::preset`] knows.
    pub fn preset_names() -> &'static [&'static str] {
        &[
            "auto",
            "custom",
            "genesys-eventbridge",
            "genesys-notification",
            "genesys-open-messaging",
            "genesys-trigger",
            "genesys-engage-interactions",
            "interaction",
            "cloudevents",
            "azure-event-grid",
            "sns",
        ]
    }

    /// A preset by name: `auto` uses the one that fits each request, `custom` extracts no field by default.
    pub fn preset(name: &str) -> Option<Self> {
        let shapes = match name {
            // the event in a notification is detected separately
            "auto" | "sns" => presets::shapes(),
            "custom" => vec![presets::bare()],
            name => vec![presets::shape(name)?],
        };
        let mut wanted = Wanted::default();
        shapes.iter().flat_map(Shape::pointers).for_each(|pointer| wanted.add(pointer));
        let envelope = presets::shape(name).filter(|shape| shape.unwrap.is_some()).unwrap_or_else(presets::bare);
        if shapes.len() > 1 {
            presets::sign_pointers().for_each(|pointer| wanted.add(&pointer));
        }
        Some(Self { shapes, split: None, envelope, wanted })
    }

    /// Looks for a field in other places: the first alternative that gives a scalar other than null and the empty string
    /// is used.
    #[must_use]
    pub fn with(mut self, field: Field, alternatives: Vec<Composite>) -> Self {
        alternatives.iter().flat_map(Composite::pointers).for_each(|pointer| self.wanted.add(pointer));
        self.shapes.iter_mut().chain([&mut self.envelope]).for_each(|shape| shape.set(field, &alternatives));
        self
    }

    /// Treats the text at the pointer as JSON that contains the event, if it is `Some`; `None` leaves this to the
    /// preset. Pointers are looked up in that JSON first, and then in the body around it.
    #[must_use]
    pub fn with_unwrap(mut self, pointer: Option<Pointer>) -> Self {
        pointer.iter().for_each(|pointer| self.wanted.add(pointer));
        self.envelope.unwrap = pointer.or(self.envelope.unwrap);
        self
    }

    /// Treats the array at the pointer as one event per element; `None` leaves this to the preset. With `auto`, the
    /// preset of each element is then detected separately.
    #[must_use]
    pub fn with_split(mut self, pointer: Option<Pointer>) -> Self {
        pointer.iter().for_each(|pointer| self.wanted.add(pointer));
        self.split = pointer.or(self.split);
        self
    }

    /// Every header and query parameter in which a field is looked up.
    pub fn outside_the_body(&self) -> impl Iterator<Item = &Part> {
        self.shapes.iter().flat_map(Shape::outside_the_body)
    }

    /// The fields that the shapes look up, with their places outside the body, and whether there is a place inside it.
    pub fn fields_outside_the_body(&self) -> Vec<(Field, Vec<&Part>, bool)> {
        let mut fields = Vec::new();
        for shape in &self.shapes {
            let binary = shape.binary.as_ref().map(|binary| binary.fields());
            for (n, (field, alternatives)) in shape.fields().into_iter().enumerate() {
                let of_binary = binary.map_or(&[][..], |fields| fields[n].1);
                let parts = || alternatives.iter().chain(of_binary).flat_map(|Composite(parts)| parts);
                let outside: Vec<&Part> = parts().filter(|part| part.is_outside_the_body()).collect();
                if !outside.is_empty() {
                    fields.push((field, outside, parts().any(|part| !part.is_outside_the_body())));
                }
            }
        }
        fields
    }

    /// Checks the body and reads the fields of its events.
    pub fn read(&self, request: &Request<'_>, limits: &Limits) -> Result<Found, Unreadable> {
        let text = scan::text(request.body)?;
        scan::bound_depth(text, limits.depth_max)?;
        let found = self.wanted.walk(text)?;
        if let Some(pointer) = &self.split {
            return self.read_each(None, pointer, request, &found, limits);
        }
        let shape = self.shape(request, &found);
        let shape = shape.binary.as_deref().filter(|_| presets::is_binary(request.headers)).unwrap_or(shape);
        match &shape.split {
            // an envelope around it contains no array
            _ if self.envelope.unwrap.is_some() => {}
            // if the body itself should be an array and is not, it is one event that was sent without one
            Split::Array(pointer) if pointer.segments().next().is_none() && !is_array(&found, pointer) => {}
            Split::Batch(pointer) if !is_array(&found, pointer) => {}
            Split::Array(pointer) | Split::Batch(pointer) => {
                return self.read_each(Some(shape), pointer, request, &found, limits);
            }
            Split::Whole => {}
        }
        Ok(self.read_one(shape, request, &found, request.body.clone(), limits))
    }

    /// Reads each element of an array: by the given shape, or by the detected one.
    fn read_each(
        &self,
        shape: Option<&Shape>,
        pointer: &Pointer,
        request: &Request<'_>,
        found: &Places<'_, '_>,
        limits: &Limits,
    ) -> Result<Found, Unreadable> {
        let elements = match found.text(pointer.segments()) {
            Some(text) => scan::elements(text, limits.events_max)?,
            None => None,
        };
        let elements = elements.ok_or_else(|| Unreadable::NotAnArray { pointer: pointer.to_string() })?;
        let (mut events, mut heartbeat) = (Vec::with_capacity(elements.len()), None);
        for element in elements {
            let found = self.wanted.walk(element)?;
            let shape = shape.unwrap_or_else(|| self.shape(request, &found));
            let body = request.body.slice_ref(element.as_bytes());
            match self.read_one(shape, request, &found, body, limits) {
                Found::One(event) => events.push(event),
                Found::Batch(batch) => events.extend(batch),
                Found::Heartbeat { event_type } => heartbeat = Some(event_type),
            }
        }
        match heartbeat {
            Some(event_type) if events.is_empty() => Ok(Found::Heartbeat { event_type }),
            _ if events.is_empty() => Err(Unreadable::Empty),
            _ => Ok(Found::Batch(events)),
        }
    }

    /// The shape of a body or element.
    fn shape(&self, request: &Request<'_>, found: &Places<'_, '_>) -> &Shape {
        let name =
            if self.shapes.len() > 1 { presets::detect_preset(request.headers, found) } else { self.shapes[0].name };
        self.shapes.iter().find(|shape| shape.name == name).expect("detection names presets only, as a test holds")
    }

    /// One event, or a heartbeat. An event in an envelope has its own fields, and those of the envelope for missing
    /// ones.
    fn read_one(
        &self,
        shape: &Shape,
        request: &Request<'_>,
        found: &Places<'_, '_>,
        body: Bytes,
        limits: &Limits,
    ) -> Found {
        let envelope = [&self.envelope, shape].into_iter().find(|shape| shape.unwrap.is_some());
        let text_at = |shape: &Shape| found.scalar(shape.unwrap.as_ref()?.segments());
        let Some((envelope, text)) = envelope.and_then(|envelope| Some((envelope, text_at(envelope)?))) else {
            return plain(shape, request, found, body);
        };
        if scan::bound_depth(&text, limits.depth_max).is_ok()
            && let Ok(inside) = self.wanted.walk(&text)
        {
            return match plain(self.shape(request, &inside), request, &inside, body.clone()) {
                Found::One(fields) => Found::One(fields.or(Extractor { request, found, body }.fields(envelope))),
                other => other,
            };
        }
        // a text that is not JSON has only the fields of its envelope
        plain(envelope, request, found, body)
    }
}

/// An event without an envelope, or a heartbeat.
fn plain(shape: &Shape, request: &Request<'_>, found: &Places<'_, '_>, body: Bytes) -> Found {
    if let Some((pointer, event_type)) = &shape.heartbeat
        && found.scalar(pointer.segments()).as_deref() == Some(*event_type)
    {
        return Found::Heartbeat { event_type: (*event_type).to_owned() };
    }
    Found::One(Extractor { request, found, body }.fields(shape))
}

fn is_array(found: &Places<'_, '_>, pointer: &Pointer) -> bool {
    found.text(pointer.segments()).is_some_and(|text| text.starts_with('['))
}

#[cfg(test)]
mod sample_tests;
#[cfg(test)]
mod tests;
