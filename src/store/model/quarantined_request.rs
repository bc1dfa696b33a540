//! The stored form of a quarantined request.
//!
//! *Format.* Version 2 is written. Version 1 has no `proof`; it is decoded with the variant `Nothing`.

use super::codec::{self, Damaged, Kind};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

const VERSION: u8 = 2;

/// Headers that the transport sets and that may differ between two tries to send the same request; they have no effect on
/// the event.
const OF_TRANSPORT: [&str; 22] = [
    "accept-encoding",
    "b3",
    "connection",
    "content-length",
    "forwarded",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-amzn-trace-id",
    "x-cloud-trace-context",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
];

/// Why a request was quarantined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Cause {
    BadSignature,
    Unparsable,
}

impl Cause {
    pub fn word(self) -> &'static str {
        match self {
            Self::BadSignature => "bad_signature",
            Self::Unparsable => "invalid_body",
        }
    }
}

/// What a request proved about its sender when it was received.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Proof {
    /// Nothing: its source required no authentication then, or its signature did not verify.
    Nothing,
    /// It had a token that was valid then. The token is not stored.
    Token,
    /// Its signature verified then, over the body, these headers and this timestamp; empty if the scheme signs none.
    Signature { headers: Vec<String>, timestamp: String },
}

impl Proof {
    pub fn is_nothing(&self) -> bool {
        *self == Self::Nothing
    }
}

/// A request as received, without its credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantinedRequest {
    /// When it was first received.
    pub at: Timestamp,
    pub source: String,
    pub cause: Cause,
    pub headers: Vec<(String, Vec<u8>)>,
    pub query: Option<String>,
    pub body: Vec<u8>,
    pub proof: Proof,
}

/// Version 1 of the record.
#[derive(Deserialize)]
struct QuarantinedRequestV1 {
    at: Timestamp,
    source: String,
    cause: Cause,
    headers: Vec<(String, Vec<u8>)>,
    query: Option<String>,
    body: Vec<u8>,
}

/// SHA-256 of everything that identifies a request.
pub type Identity = [u8; 32];

impl QuarantinedRequest {
    /// The identity by which a repetition of the same request is recognized.
    pub fn identity(&self) -> Identity {
        let mut headers: Vec<_> =
            self.headers.iter().filter(|(name, _)| !OF_TRANSPORT.contains(&name.as_str())).collect();
        headers.sort_by(|(a, _), (b, _)| a.cmp(b)); // stable: the order of headers with the same name matters
        let decisive = (&self.source, self.cause, &self.proof, headers, &self.query, &self.body);
        Sha256::digest(codec::payload(&decisive)).into()
    }

    pub fn seal(&self) -> Vec<u8> {
        codec::seal_as(Kind::QuarantinedRequest, VERSION, &codec::payload(self))
    }

    /// Decodes both versions.
    pub fn open(sealed: &[u8]) -> Result<Self, Damaged> {
        let (version, payload) = codec::open_any(Kind::QuarantinedRequest, sealed)?;
        if version == VERSION {
            return codec::from_payload(payload);
        }
        let QuarantinedRequestV1 { at, source, cause, headers, query, body } = codec::from_payload(payload)?;
        Ok(Self { at, source, cause, headers, query, body, proof: Proof::Nothing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::events::quarantined;

    #[test]
    fn requests_differ_by_identifying_headers_not_by_transport_ones() {
        let one = || quarantined(b"x");
        let with = |name: &str, value: &str| {
            let mut more = one();
            more.headers.push((name.to_owned(), value.as_bytes().to_vec()));
            more
        };
        let proved = Proof::Signature { headers: vec!["webhook-id".to_owned()], timestamp: String::new() };
        let others = [
            QuarantinedRequest { source: "t".to_owned(), ..one() },
            QuarantinedRequest { cause: Cause::Unparsable, ..one() },
            QuarantinedRequest { query: None, ..one() },
            QuarantinedRequest { query: Some("a=c".to_owned()), ..one() },
            QuarantinedRequest { body: b"y".to_vec(), ..one() },
            QuarantinedRequest { proof: Proof::Token, ..one() },
            QuarantinedRequest { proof: proved, ..one() },
            QuarantinedRequest { headers: vec![("x-sig".to_owned(), b"01".to_vec())], ..one() },
            with("ce-id", "1"),
            with("ce-id", "2"),
            with("content-type", "text/plain"),
            with("x-sig", "00"),
        ];
        let identities: std::collections::HashSet<_> =
            others.iter().chain([&one()]).map(QuarantinedRequest::identity).collect();
        assert_eq!(identities.len(), others.len() + 1);
        for name in OF_TRANSPORT {
            assert_eq!(with(name, "9").identity(), one().identity(), "{name}");
        }
        assert_eq!(QuarantinedRequest { at: Timestamp(9), ..one() }.identity(), one().identity());
        let mut turned = with("ce-id", "1");
        turned.headers.reverse();
        assert_eq!(turned.identity(), with("ce-id", "1").identity(), "the order of different names does not count");
    }

    /// Records of existing stores must stay readable for ever; a changed format needs a new version of the record.
    #[test]
    fn both_versions_have_their_golden_bytes() {
        let hex = |sealed: &[u8]| sealed.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let bytes = |hex: &str| -> Vec<u8> {
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
        };
        let golden = QuarantinedRequest { at: Timestamp(1), ..quarantined(b"x") };
        assert_eq!(QuarantinedRequest::open(&bytes(GOLDEN_1)).unwrap(), golden);
        let proof = Proof::Signature { headers: vec!["id".to_owned()], timestamp: "7".to_owned() };
        let golden = QuarantinedRequest { proof, ..golden };
        assert_eq!(hex(&golden.seal()), GOLDEN_2);
        assert_eq!(QuarantinedRequest::open(&golden.seal()).unwrap(), golden);
    }

    const GOLDEN_1: &str = "1e0128c204dc4900000001000000000000000100000000000000730000000001000000000000000500000000000000782d73696702000000000000003030010300000000000000613d62010000000000000078";
    const GOLDEN_2: &str = "1e028a08f5cf6800000001000000000000000100000000000000730000000001000000000000000500000000000000782d73696702000000000000003030010300000000000000613d6201000000000000007802000000010000000000000002000000000000006964010000000000000037";
}
