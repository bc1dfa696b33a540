//! Profiles: where the fields of an event lie in what a source's sender posts, and the reading of them.
//!
//! `pointer` is what an operator writes, `presets` the table of known senders, `detect` tells them apart, `scan` walks
//! through a body and `inside` through its parts, `origin` looks the fields up, `moment` reads times.
//!
//! *Invariants.* Nothing here asks a clock or does any IO: the same request gives the same fields. Only the form of a body
//! can be refused; a field that is missing is no fault, and such an event merely lacks it.

mod detect;
mod inside;
mod moment;
mod origin;
mod pointer;
mod presets;
mod scan;

pub use pointer::{Composite, Part, Pointer, PointerError};

use crate::time::Timestamp;
use bytes::Bytes;
use origin::Origin;
use presets::{Shape, Split};
use scan::{Places, Wanted};
use thiserror::Error;

/// The profile of a source, ready to read requests.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Never empty; more than one where the request decides.
    shapes: Vec<Shape>,
    /// What an operator set in place of the shape's own.
    split: Option<Pointer>,
    wanted: Wanted,
}

/// A field of an event whose place an operator can set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The interaction it belongs to, by which events are ordered.
    Key,
    /// The sender's own id, by which duplicates are known.
    Id,
    /// When it happened.
    Time,
    /// The event type.
    Kind,
}

/// What of a request a profile reads.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub headers: &'a http::HeaderMap,
    /// Without its `?`, still percent-encoded.
    pub query: Option<&'a str>,
    pub body: &'a Bytes,
}

/// What a body may be at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Levels of arrays and objects within each other.
    pub depth_max: usize,
    /// Events in one request.
    pub events_max: usize,
}

/// What a request holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The body is the event.
    One(Fields),
    /// The body holds an array of events; at least one.
    Batch(Vec<Fields>),
    /// A sign of life of the sender, by its type: to be acknowledged and forgotten.
    Dropped { kind: String },
}

impl Found {
    /// How many events it is.
    pub fn events(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Batch(all) => all.len(),
            Self::Dropped { .. } => 0,
        }
    }
}

/// The fields of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    /// The ordering key; none for an event that belongs to no interaction.
    pub interaction: Option<String>,
    /// The sender's own id.
    pub sender_id: Option<String>,
    /// When it happened, by the sender's word; none also where that word cannot be read.
    pub time: Option<Timestamp>,
    /// The event type; empty where the sender names none.
    pub kind: String,
    /// The body of the event, byte for byte: all of the request's, or one element of it. Shares the request's memory.
    pub body: Bytes,
}

/// Why a body is refused, for the sender to read; nothing of the body is quoted.
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
            Self::Kind => "type",
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
        ]
    }

    /// A preset by name: `auto` finds the one that fits each request, `custom` looks for nothing by itself.
    pub fn preset(name: &str) -> Option<Self> {
        let shapes = match name {
            "auto" => presets::shapes(),
            "custom" => vec![presets::bare()],
            name => vec![presets::shape(name)?],
        };
        let mut wanted = Wanted::default();
        shapes.iter().flat_map(Shape::pointers).for_each(|pointer| wanted.add(pointer));
        if shapes.len() > 1 {
            detect::pointers().for_each(|pointer| wanted.add(&pointer));
        }
        Some(Self { shapes, split: None, wanted })
    }

    /// Looks for a field elsewhere: the first alternative wins that gives a scalar other than null and the empty string.
    #[must_use]
    pub fn with(mut self, field: Field, alternatives: Vec<Composite>) -> Self {
        alternatives.iter().flat_map(Composite::pointers).for_each(|pointer| self.wanted.add(pointer));
        for shape in &mut self.shapes {
            match field {
                Field::Key => shape.key.clone_from(&alternatives),
                Field::Id => shape.id.clone_from(&alternatives),
                Field::Time => shape.time.clone_from(&alternatives),
                Field::Kind => {
                    shape.kind.clone_from(&alternatives);
                    shape.anonymous_kind = false;
                }
            }
        }
        self
    }

    /// Takes the array at the pointer for one event per element; `None` leaves it to the preset. Under `auto` each element
    /// is then told by itself.
    #[must_use]
    pub fn with_split(mut self, pointer: Option<Pointer>) -> Self {
        pointer.iter().for_each(|pointer| self.wanted.add(pointer));
        self.split = pointer.or(self.split);
        self
    }

    /// Every header and query parameter that a field is looked for in.
    pub fn outside_the_body(&self) -> impl Iterator<Item = &Part> {
        self.shapes.iter().flat_map(Shape::outside_the_body)
    }

    /// The fields that the shapes look for, and those of their places that lie outside the body, by whether one lies in it.
    pub fn fields_outside_the_body(&self) -> Vec<(Field, Vec<&Part>, bool)> {
        let mut fields = Vec::new();
        for shape in &self.shapes {
            for (field, alternatives) in shape.fields() {
                let parts = || alternatives.iter().flat_map(|Composite(parts)| parts);
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
        match &shape.split {
            // the body itself, where it should be an array, can only be one event that was sent without it
            Split::Array(pointer) if pointer.segments().next().is_none() && !is_array(&found, pointer) => {
                Ok(read_one(shape, request, &found, request.body.clone()))
            }
            Split::Array(pointer) => self.read_each(Some(shape), pointer, request, &found, limits),
            Split::Batch(pointer) if is_array(&found, pointer) && !request.headers.contains_key("ce-id") => {
                self.read_each(Some(shape), pointer, request, &found, limits)
            }
            Split::Batch(_) | Split::Whole => Ok(read_one(shape, request, &found, request.body.clone())),
        }
    }

    /// Reads each element of an array: by the given shape, or by the one that is found for it.
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
        let (mut events, mut dropped) = (Vec::with_capacity(elements.len()), None);
        for element in elements {
            let found = self.wanted.walk(element)?;
            let shape = shape.unwrap_or_else(|| self.shape(request, &found));
            match read_one(shape, request, &found, request.body.slice_ref(element.as_bytes())) {
                Found::One(event) => events.push(event),
                Found::Batch(batch) => events.extend(batch),
                Found::Dropped { kind } => dropped = Some(kind),
            }
        }
        match dropped {
            Some(kind) if events.is_empty() => Ok(Found::Dropped { kind }),
            _ if events.is_empty() => Err(Unreadable::Empty),
            _ => Ok(Found::Batch(events)),
        }
    }

    /// The shape of a body or element.
    fn shape(&self, request: &Request<'_>, found: &Places<'_, '_>) -> &Shape {
        let name = if self.shapes.len() > 1 { detect::claimant(request.headers, found) } else { self.shapes[0].name };
        self.shapes.iter().find(|shape| shape.name == name).expect("detection names presets only, as a test holds")
    }
}

/// One event, or a sign of life.
fn read_one(shape: &Shape, request: &Request<'_>, found: &Places<'_, '_>, body: Bytes) -> Found {
    if let Some((pointer, kind)) = &shape.heartbeat
        && found.scalar(pointer.segments()).as_deref() == Some(*kind)
    {
        return Found::Dropped { kind: (*kind).to_owned() };
    }
    Found::One(Origin { request, found, body }.fields(shape))
}

fn is_array(found: &Places<'_, '_>, pointer: &Pointer) -> bool {
    found.text(pointer.segments()).is_some_and(|text| text.starts_with('['))
}

#[cfg(test)]
mod sample_tests;
#[cfg(test)]
mod tests;
