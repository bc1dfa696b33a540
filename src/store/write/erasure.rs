//! What an erasure takes, and what it has taken.

use crate::delivery::Place;
use crate::event::{DestinationId, Digest64, Sequence};
use std::collections::BTreeMap;

/// What lies here of one event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventLocation {
    /// In which the event is ordered.
    pub order_key: Digest64,
    /// Deliveries that wait, with where they lie.
    pub waiting: Vec<(DestinationId, Place)>,
    pub dead: Vec<DestinationId>,
}

/// All that lies here of an interaction.
#[derive(Clone, Debug, Default)]
pub struct EventLocations {
    pub events: BTreeMap<Sequence, EventLocation>,
    /// Numbers of records that did not verify and are kept.
    pub damaged: Vec<u64>,
}

impl EventLocations {
    /// That of an event, which is new where its order key is known from its record alone.
    pub fn trace(&mut self, sequence: Sequence, order_key: Option<Digest64>) -> &mut EventLocation {
        let trace = self.events.entry(sequence).or_default();
        trace.order_key = order_key.unwrap_or(trace.order_key);
        trace
    }

    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.damaged.is_empty()
    }
}

/// A part of an erasure, to be made in one commit.
#[derive(Clone, Debug, Default)]
pub struct Erasure {
    /// As the audit tells it.
    pub what: String,
    pub events: Vec<(Sequence, EventLocation)>,
    pub damaged: Vec<u64>,
    /// Requests that were kept apart.
    pub detained: Vec<u64>,
}

/// What an erasure has taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    /// Deliveries that waited.
    pub waiting: u64,
    pub dead: u64,
    /// Events that were remembered.
    pub remembered: u64,
    pub damaged: u64,
    pub detained: u64,
}

impl Erased {
    pub fn total(&self) -> u64 {
        self.waiting + self.dead + self.remembered + self.damaged + self.detained
    }

    pub fn add(&mut self, other: &Self) {
        self.waiting += other.waiting;
        self.dead += other.dead;
        self.remembered += other.remembered;
        self.damaged += other.damaged;
        self.detained += other.detained;
    }
}
