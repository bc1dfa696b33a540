//! How a sender signs: which header holds what, what is signed, how the secret is written; and the presets of known senders.
//!
//! *Format.* A [`Template`] is the signed text with places for the body, the timestamp and the id, as in `v0:{ts}:{body}`.

use crate::time::Timestamp;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::HeaderName;
use ring::hmac;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use thiserror::Error;

/// The HMAC of no algorithm is longer (SHA-512).
const MAC_BYTES_MAX: usize = 64;
/// Below it a number counts seconds since the epoch, from there on milliseconds (see [`crate::extract`]).
const MILLISECONDS_FROM: u64 = 100_000_000_000;

const PADDING: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
/// The alphabet of RFC 4648, section 4, with its padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, PADDING);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheme {
    /// The header with the signatures, which may come several times.
    pub header: HeaderName,
    pub algorithm: Algorithm,
    pub encoding: Encoding,
    /// The text before each signature; an item without it is no signature.
    pub prefix: String,
    /// Between several signatures in one header; none where it holds one.
    pub separator: Option<char>,
    pub signed: Template,
    /// Present where `signed` has a timestamp.
    pub stamp: Option<Stamp>,
    /// The header with the id, where `signed` has one.
    pub id: Option<HeaderName>,
    pub secret_encoding: SecretEncoding,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Sha1,
    Sha256,
    Sha512,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Hex,
    Base64,
}

/// The time at which a request was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub place: StampPlace,
    pub unit: StampUnit,
    /// Largest difference from the wall clock, both ways.
    pub tolerance: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StampPlace {
    Header(HeaderName),
    /// In the header with the signatures, as `NAME=VALUE` among them.
    Field(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StampUnit {
    /// Seconds or milliseconds by its size, or RFC 3339.
    Auto,
    Seconds,
    Milliseconds,
}

impl Algorithm {
    pub(super) fn of_ring(self) -> hmac::Algorithm {
        match self {
            Self::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha512 => hmac::HMAC_SHA512,
        }
    }
}

impl Scheme {
    /// Headers that the signature covers. Beside them it covers the body, and nothing else of a request: no other header, no
    /// query, no path.
    pub fn signed_headers(&self) -> impl Iterator<Item = &HeaderName> {
        let stamp = self.stamp.as_ref().filter(|_| self.signed.has_timestamp()).and_then(|stamp| match &stamp.place {
            StampPlace::Header(name) => Some(name),
            StampPlace::Field(_) => None,
        });
        let id = self.id.as_ref().filter(|_| self.signed.has_id());
        [stamp, id].into_iter().flatten()
    }

    /// Whether it signs as Zoom does, with any tolerance.
    pub fn is_zoom(&self) -> bool {
        Self::preset("zoom").is_some_and(|zoom| {
            (&self.header, self.algorithm, &self.prefix, &self.signed)
                == (&zoom.header, zoom.algorithm, &zoom.prefix, &zoom.signed)
        })
    }

    /// What a header's value holds, one by one.
    pub(super) fn items<'a>(&self, value: &'a str) -> impl Iterator<Item = &'a str> {
        let separator = self.separator;
        value.split(move |c| Some(c) == separator).map(str::trim)
    }

    /// The signature that an item is, if it is one.
    pub(super) fn signature_in(&self, item: &str) -> Option<Vec<u8>> {
        let written = item.strip_prefix(&self.prefix)?;
        let bytes = match self.encoding {
            Encoding::Hex => hex(written)?,
            Encoding::Base64 => BASE64.decode(written).ok()?,
        };
        (bytes.len() <= MAC_BYTES_MAX).then_some(bytes)
    }

    /// A signature as written in the header.
    pub(super) fn write(&self, signature: &[u8]) -> String {
        let written = match self.encoding {
            Encoding::Hex => signature.iter().map(|byte| format!("{byte:02x}")).collect(),
            Encoding::Base64 => BASE64.encode(signature),
        };
        format!("{}{written}", self.prefix)
    }

    /// The timestamp that an item is, if it is the one.
    pub(super) fn stamp_in<'a>(&self, item: &'a str) -> Option<&'a str> {
        match &self.stamp.as_ref()?.place {
            StampPlace::Field(name) => item.strip_prefix(name.as_str())?.strip_prefix('='),
            StampPlace::Header(_) => None,
        }
    }
}

impl Stamp {
    /// Whether a timestamp as sent is within the tolerance.
    pub(super) fn is_near(&self, text: &str, wall: Timestamp) -> bool {
        self.read(text).is_some_and(|at| wall.since(at).max(at.since(wall)) <= self.tolerance)
    }

    /// A time as a sender writes it.
    pub(super) fn write(&self, at: Timestamp) -> String {
        match self.unit {
            StampUnit::Milliseconds => at.0.to_string(),
            StampUnit::Auto | StampUnit::Seconds => (at.0 / 1000).to_string(),
        }
    }

    fn read(&self, text: &str) -> Option<Timestamp> {
        let number = || text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok())?;
        let seconds = |n: u64| n.checked_mul(1000).map(Timestamp);
        match (self.unit, number()) {
            (StampUnit::Seconds, n) => seconds(n?),
            (StampUnit::Milliseconds, n) => n.map(Timestamp),
            (StampUnit::Auto, Some(n)) if n < MILLISECONDS_FROM => seconds(n),
            (StampUnit::Auto, Some(n)) => Some(Timestamp(n)),
            (StampUnit::Auto, None) => humantime::parse_rfc3339(text).ok().map(Timestamp::from_system),
        }
    }
}

/// Bytes from pairs of hexadecimal digits.
fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let byte = |[high, low]: &[u8; 2]| Some(digit(*high)? << 4 | digit(*low)?);
    rest.is_empty().then(|| pairs.iter().map(byte).collect())?
}

/// Names that [`Scheme::preset`] knows.
pub const PRESETS: [&str; 7] =
    ["genesys-open-messaging", "genesys-engage", "github", "standard-webhooks", "zendesk", "zoom", "stripe"];

impl Scheme {
    /// Default tolerance of a timestamp (Standard Webhooks).
    pub const TOLERANCE: Duration = Duration::from_secs(300);

    /// HMAC-SHA256 of the body in hexadecimal, the most common scheme.
    pub fn plain(header: HeaderName) -> Self {
        Self {
            header,
            algorithm: Algorithm::Sha256,
            encoding: Encoding::Hex,
            prefix: String::new(),
            separator: None,
            signed: "{body}".parse().expect("it signs the body"),
            stamp: None,
            id: None,
            secret_encoding: SecretEncoding::Utf8,
        }
    }

    /// The scheme of a known sender.
    pub fn preset(name: &str) -> Option<Self> {
        let plain = |header| Self::plain(HeaderName::from_static(header));
        Some(match name {
            "genesys-open-messaging" => {
                let plain = plain("x-hub-signature-256");
                Self { encoding: Encoding::Base64, prefix: "sha256=".to_owned(), ..plain }
            }
            "genesys-engage" => {
                let plain = plain("x-hub-signature");
                Self { algorithm: Algorithm::Sha1, prefix: "sha1=".to_owned(), ..plain }
            }
            "github" => Self { prefix: "sha256=".to_owned(), ..plain("x-hub-signature-256") },
            "standard-webhooks" => Self {
                encoding: Encoding::Base64,
                prefix: "v1,".to_owned(),
                separator: Some(' '),
                id: Some(HeaderName::from_static("webhook-id")),
                secret_encoding: SecretEncoding::Whsec,
                ..plain("webhook-signature").stamped("{id}.{ts}.{body}", in_header("webhook-timestamp"))
            },
            "zendesk" => {
                let stamp = in_header("x-zendesk-webhook-signature-timestamp");
                let plain = plain("x-zendesk-webhook-signature").stamped("{ts}{body}", stamp);
                Self { encoding: Encoding::Base64, ..plain }
            }
            "zoom" => {
                let plain = plain("x-zm-signature").stamped("v0:{ts}:{body}", in_header("x-zm-request-timestamp"));
                Self { prefix: "v0=".to_owned(), ..plain }
            }
            "stripe" => {
                let plain = plain("stripe-signature").stamped("{ts}.{body}", StampPlace::Field("t".to_owned()));
                Self { prefix: "v1=".to_owned(), separator: Some(','), ..plain }
            }
            _ => return None,
        })
    }

    fn stamped(self, signed: &str, place: StampPlace) -> Self {
        let signed = signed.parse().expect("the templates of the table are read by a test");
        Self { signed, stamp: Some(Stamp { place, unit: StampUnit::Auto, tolerance: Self::TOLERANCE }), ..self }
    }
}

fn in_header(name: &'static str) -> StampPlace {
    StampPlace::Header(HeaderName::from_static(name))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretEncoding {
    /// The text itself is the key.
    Utf8,
    Hex,
    Base64,
    /// Base64 behind `whsec_`, which may be missing (Standard Webhooks).
    Whsec,
}

/// A secret is not written in its encoding. Does not show the secret.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("a secret is not written in {wanted}; mend it, or change `secret_encoding`")]
pub struct SecretFault {
    wanted: &'static str,
}

impl SecretEncoding {
    pub fn decode(self, secret: &str) -> Result<Vec<u8>, SecretFault> {
        let (key, wanted) = match self {
            Self::Utf8 => (Some(secret.as_bytes().to_vec()), "UTF-8"),
            Self::Hex => (hex(secret), "hexadecimal"),
            Self::Base64 => (BASE64.decode(secret).ok(), "base64"),
            Self::Whsec => {
                (BASE64.decode(secret.strip_prefix("whsec_").unwrap_or(secret)).ok(), "base64, as in `whsec_...`")
            }
        };
        key.filter(|key| !key.is_empty()).ok_or(SecretFault { wanted })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Text(String),
    Timestamp,
    Id,
    Body,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TemplateFault {
    #[error("`{{{0}}}` is not known: write `{{body}}`, `{{ts}}` or `{{id}}`")]
    UnknownPlace(String),
    #[error("a `{{` has no `}}`: write `{{body}}`, `{{ts}}` or `{{id}}`")]
    Unclosed,
    #[error("it does not sign the body: write `{{body}}` once")]
    NoBody,
}

impl Template {
    pub(super) fn pieces(&self) -> &[Piece] {
        &self.0
    }

    /// Whether a timestamp is signed.
    pub fn has_timestamp(&self) -> bool {
        self.0.contains(&Piece::Timestamp)
    }

    /// Whether an id is signed.
    pub fn has_id(&self) -> bool {
        self.0.contains(&Piece::Id)
    }
}

impl FromStr for Template {
    type Err = TemplateFault;

    fn from_str(text: &str) -> Result<Self, TemplateFault> {
        let (mut pieces, mut rest) = (Vec::new(), text);
        while let Some((before, behind)) = rest.split_once('{') {
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            let (name, behind) = behind.split_once('}').ok_or(TemplateFault::Unclosed)?;
            pieces.push(match name {
                "body" => Piece::Body,
                "ts" => Piece::Timestamp,
                "id" => Piece::Id,
                other => return Err(TemplateFault::UnknownPlace(other.to_owned())),
            });
            rest = behind;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        if pieces.iter().filter(|piece| **piece == Piece::Body).count() != 1 {
            return Err(TemplateFault::NoBody);
        }
        Ok(Self(pieces))
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|piece| {
            f.write_str(match piece {
                Piece::Text(text) => text,
                Piece::Timestamp => "{ts}",
                Piece::Id => "{id}",
                Piece::Body => "{body}",
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_round_trip() {
        for text in ["{body}", "{ts}{body}", "{ts}.{body}", "v0:{ts}:{body}", "{id}.{ts}.{body}", "{body}}"] {
            assert_eq!(text.parse::<Template>().unwrap().to_string(), text);
        }
        for (text, fault) in [
            ("", TemplateFault::NoBody),
            ("body", TemplateFault::NoBody),
            ("{ts}", TemplateFault::NoBody),
            ("{body}{body}", TemplateFault::NoBody),
            ("{body", TemplateFault::Unclosed),
            ("{t}.{body}", TemplateFault::UnknownPlace("t".to_owned())),
            ("{{body}}", TemplateFault::UnknownPlace("{body".to_owned())),
        ] {
            assert_eq!(text.parse::<Template>(), Err(fault), "{text}");
        }
    }
}
