//! Events made up for tests.

use bytes::Bytes;
use holdline::event::{DestinationId, DestinationSet, Digest64, Event};
use holdline::time::Timestamp;

/// An event of an interaction, with the sender's id, for the destinations 0 to `destinations - 1`.
pub fn event(interaction: &str, id: &str, body: &[u8], destinations: u8, now: Timestamp) -> Event {
    Event {
        received_at: now,
        source: "default".to_owned(),
        to: (0..destinations).fold(DestinationSet::EMPTY, |set, d| set.with(DestinationId(d))),
        interaction: (!interaction.is_empty()).then(|| interaction.to_owned()),
        sender_id: (!id.is_empty()).then(|| id.to_owned()),
        kind: "interaction.completed".to_owned(),
        time: Some(Timestamp(1_715_634_000_000)),
        content_type: "application/json".to_owned(),
        headers: Default::default(),
        conflict: false,
        body_digest: Digest64::of(&[body]),
        body: Bytes::copy_from_slice(body),
    }
}
