//! The events that are posted: the shape of a Genesys Cloud event as EventBridge sends it, about 1.1 KiB, of which a
//! third is random as in real ones (ids, times, numbers); unique ids, 10,000 interactions.

use std::fmt::Write;

/// Interactions that the events of one run belong to.
pub(crate) const INTERACTIONS: u64 = 10_000;

/// About the length of a body.
const BODY_BYTES: usize = 1126;

/// Random version 4 UUIDs that depend on the event only, by SplitMix64.
struct Uuids(u64);

impl Uuids {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn next(&mut self) -> uuid::fmt::Hyphenated {
        uuid::Builder::from_random_bytes(((u128::from(self.word()) << 64) | u128::from(self.word())).to_be_bytes())
            .into_uuid()
            .hyphenated()
    }
}

/// Writes requests into a buffer that is used again, so that making them costs little.
pub(crate) struct Requests {
    run: String,
    host: String,
    path: String,
    body: String,
}

impl Requests {
    /// `run` keeps the ids of one run apart from those of every other.
    pub(crate) fn new(run: String, host: String, path: String) -> Self {
        Self { run, host, path, body: String::with_capacity(2 * BODY_BYTES) }
    }

    /// The body of event `n`.
    pub(crate) fn body(&mut self, n: u64) -> &str {
        let (run, interaction) = (&self.run, n % INTERACTIONS);
        let body = &mut self.body;
        body.clear();
        let mut random = Uuids(n);
        let _ = write!(
            body,
            "{{\"version\":\"0\",\"id\":\"{run}-{n}\",\"detail-type\":\"v2.detail.events.conversation.{{id}}.user.end\",\"source\":\"aws.partner/genesys.com/cloud/c4bbb228-ecc9-5a33-8849-e65b2108f2aa/genesys_acme\",\"account\":\"123456789012\",\"time\":\"2025-12-12T15:02:01Z\",\"region\":\"us-east-1\",\"resources\":[],\"detail\":{{\"topicName\":\"v2.detail.events.conversation.{run}-call-{interaction}.user.end\",\"version\":\"2\",\"eventBody\":{{\"eventTime\":{},\"conversationId\":\"{run}-call-{interaction}\"",
            1_765_551_721_800 + n
        );
        for field in ["participantId", "sessionId", "userId", "divisionId", "queueId", "externalContactId"] {
            let _ = write!(body, ",\"{field}\":\"{}\"", random.next());
        }
        let _ = write!(
            body,
            ",\"mediaType\":\"VOICE\",\"provider\":\"Edge\",\"direction\":\"INBOUND\",\"ani\":\"tel:+1555{:07}\",\"dnis\":\"tel:+15555550000\",\"disconnectType\":\"PEER\",\"interactingDurationMs\":{},\"heldDurationMs\":0,\"alertingDurationMs\":{},\"conversationExternalContactIds\":[\"{}\"]}},\"metadata\":{{\"CorrelationId\":\"{}\"}},\"timestamp\":\"2025-12-12T15:02:01.920Z\"}}}}",
            n % 9_999_999,
            n % 600_000,
            n % 30_000,
            random.next(),
            random.next()
        );
        body
    }

    /// Writes the whole request for event `n` into `out`.
    pub(crate) fn write(&mut self, n: u64, out: &mut String) {
        self.body(n);
        out.clear();
        let (host, path, length) = (&self.host, &self.path, self.body.len());
        let _ = write!(
            out,
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        out.push_str(&self.body);
    }
}

/// A name that no other run has.
pub(crate) fn run_name() -> String {
    format!("{:08x}", fastrand::u32(..))
}
