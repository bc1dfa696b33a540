//! Sample events and quarantined requests. Compiled into the integration tests and into the unit tests (`holdline::testing`).

use holdline::event::{DestinationSet, Digest64, Event};
use holdline::store::{Cause, Proof, QuarantinedRequest};
use holdline::time::Timestamp;

/// Event `n` of source `s` for destination 0: without an interaction, with `n` as its sender id, digest and body.
/// Tests change the fields that they are about: `Event { interaction: .., ..event(1) }`.
pub fn event(n: u64) -> Event {
    Event {
        received_at: Timestamp(1000),
        source: "s".to_owned(),
        to: DestinationSet(1),
        interaction: None,
        sender_id: Some(n.to_string()),
        kind: String::new(),
        time: None,
        content_type: String::new(),
        headers: Default::default(),
        conflict: false,
        body_digest: Digest64(n),
        body: vec![n as u8; 100].into(),
    }
}

/// A quarantined request of source `s` with this body, which came with a bad signature at 1,800,000,000 s.
pub fn quarantined(body: &[u8]) -> QuarantinedRequest {
    QuarantinedRequest {
        at: Timestamp(1_800_000_000_000),
        source: "s".to_owned(),
        cause: Cause::BadSignature,
        headers: vec![("x-sig".to_owned(), b"00".to_vec())],
        query: Some("a=b".to_owned()),
        body: body.to_vec(),
        proof: Proof::Nothing,
    }
}
