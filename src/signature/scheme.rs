//! How a sender signs: which header holds what, and what is signed how.

use super::secret::SecretEncoding;
use super::template::Template;
use crate::time::Timestamp;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::HeaderName;
use ring::hmac;
use std::time::Duration;

/// The HMAC of no algorithm is longer (SHA-512).
const MAC_BYTES_MAX: usize = 64;
/// Below it a number counts seconds since the epoch, from there on milliseconds (see `profile::moment`).
const MILLISECONDS_FROM: u64 = 100_000_000_000;

const PADDING: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
/// The alphabet of RFC 4648, section 4, with its padding or without.
pub(super) const BASE64: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, PADDING);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheme {
    /// The header with the signatures, which may come several times.
    pub header: HeaderName,
    pub algorithm: Algorithm,
    pub encoding: Encoding,
    /// What stands before each signature; what does not begin with it is no signature.
    pub prefix: String,
    /// Between several signatures in one header; none where it holds one.
    pub separator: Option<char>,
    pub signed: Template,
    /// There where `signed` speaks of a timestamp.
    pub stamp: Option<Stamp>,
    /// The header with the id, where `signed` speaks of one.
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

/// The moment at which a request was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub place: StampPlace,
    pub unit: StampUnit,
    /// How far it may lie from the clock on the wall, both ways.
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
    /// A number of seconds or milliseconds, told by its size, or RFC 3339.
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

    /// Whether it signs as Zoom does, whatever its tolerance.
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

    /// A signature as it stands in the header.
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
    /// Whether a timestamp as it was sent lies within the tolerance.
    pub(super) fn is_near(&self, text: &str, wall: Timestamp) -> bool {
        self.read(text).is_some_and(|at| wall.since(at).max(at.since(wall)) <= self.tolerance)
    }

    /// A moment as a sender writes it.
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
pub(super) fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let byte = |[high, low]: &[u8; 2]| Some(digit(*high)? << 4 | digit(*low)?);
    rest.is_empty().then(|| pairs.iter().map(byte).collect())?
}
