//! Signatures of senders: an HMAC over the request shows that its sender knows a secret.
//!
//! Verification has two steps, so that a request which cannot pass is refused before its body is read: a [`Claim`] is
//! what its headers say, and [`Verifier::verify`] compares it with the body.
//!
//! *Invariants.* The body is verified as received. Signatures are compared in constant time. The work for one request is
//! limited: one HMAC for each secret, and at most [`SIGNATURES_MAX`] signatures. A failure has no reason, and no secret
//! is ever shown.

mod scheme;

pub use scheme::{
    Algorithm, Encoding, PRESETS, Scheme, SecretEncoding, SecretFault, Stamp, StampPlace, StampUnit, Template,
    TemplateFault,
};

use crate::time::Timestamp;
use http::{HeaderMap, HeaderName};
use ring::hmac;
use scheme::Piece;
use std::fmt;
use subtle::ConstantTimeEq;

/// Signatures of one request that are looked at: a sender that rotates its secret sends two.
pub const SIGNATURES_MAX: usize = 16;

/// Zoom's own tokens have 22.
const ZOOM_TOKEN_BYTES_MAX: usize = 128;

/// A scheme with the secrets that are in force, any of which may have signed.
pub struct Verifier {
    scheme: Scheme,
    keys: Vec<hmac::Key>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("scheme", &self.scheme).field("keys", &self.keys.len()).finish()
    }
}

/// What the headers of a request say: well-formed signatures, and a timestamp that is near enough.
#[derive(Debug)]
pub struct Claim<'a> {
    signatures: Vec<Vec<u8>>,
    timestamp: &'a str,
    id: &'a str,
}

impl<'a> Claim<'a> {
    /// The timestamp that is signed, as it was sent; empty where none is.
    pub fn timestamp(&self) -> &'a str {
        self.timestamp
    }
}

impl Verifier {
    /// `secrets` as they are written, in any order.
    ///
    /// # Errors
    /// Where one cannot be decoded.
    pub fn new<'s>(scheme: Scheme, secrets: impl IntoIterator<Item = &'s str>) -> Result<Self, SecretFault> {
        let key = |secret| Ok(hmac::Key::new(scheme.algorithm.of_ring(), &scheme.secret_encoding.decode(secret)?));
        let keys = secrets.into_iter().map(key).collect::<Result<_, _>>()?;
        Ok(Self { scheme, keys })
    }

    /// Headers that it reads.
    pub fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        let stamp = self.scheme.stamp.as_ref().and_then(|stamp| match &stamp.place {
            StampPlace::Header(name) => Some(name),
            StampPlace::Field(_) => None,
        });
        [Some(&self.scheme.header), stamp, self.scheme.id.as_ref()].into_iter().flatten()
    }

    /// How its sender signs.
    pub fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// None where a request with these headers cannot pass. `wall` is the wall clock.
    pub fn claim<'a>(&self, headers: &'a HeaderMap, wall: Timestamp) -> Option<Claim<'a>> {
        let single = |name: &HeaderName| headers.get(name)?.to_str().ok();
        let (mut signatures, mut field) = (Vec::new(), None);
        for value in headers.get_all(&self.scheme.header) {
            for item in self.scheme.items(value.to_str().ok()?) {
                field = field.or_else(|| self.scheme.stamp_in(item));
                if signatures.len() < SIGNATURES_MAX {
                    signatures.extend(self.scheme.signature_in(item));
                }
            }
        }
        let timestamp = match &self.scheme.stamp {
            None => "",
            Some(stamp) => {
                let text = match &stamp.place {
                    StampPlace::Header(name) => single(name)?,
                    StampPlace::Field(_) => field?,
                };
                stamp.is_near(text, wall).then_some(text)?
            }
        };
        let id = self.scheme.id.as_ref().map_or(Some(""), single)?;
        (!signatures.is_empty()).then_some(Claim { signatures, timestamp, id })
    }

    /// Whether one of the secrets made one of the signatures.
    #[must_use]
    pub fn verify(&self, claim: &Claim<'_>, body: &[u8]) -> bool {
        self.keys.iter().fold(false, |passed, key| {
            let tag = self.sign(key, claim, body);
            claim.signatures.iter().fold(passed, |passed, s| passed | bool::from(tag.as_ref().ct_eq(s)))
        })
    }

    /// The headers of a request that is signed as a sender would: by the first secret, now. `id` goes where the scheme has a
    /// place for one. Empty where there is no secret.
    pub fn headers_for(&self, body: &[u8], id: &str, wall: Timestamp) -> Vec<(HeaderName, String)> {
        let Some(key) = self.keys.first() else { return Vec::new() };
        let scheme = &self.scheme;
        let timestamp = scheme.stamp.as_ref().map(|stamp| stamp.write(wall)).unwrap_or_default();
        let claim = Claim { signatures: Vec::new(), timestamp: &timestamp, id };
        let signature = scheme.write(self.sign(key, &claim, body).as_ref());
        let mut headers = Vec::new();
        let mut value = signature;
        match scheme.stamp.as_ref().map(|stamp| &stamp.place) {
            Some(StampPlace::Header(name)) => headers.push((name.clone(), timestamp.clone())),
            Some(StampPlace::Field(name)) => {
                value = format!("{name}={timestamp}{}{value}", scheme.separator.unwrap_or(','));
            }
            None => {}
        }
        headers.extend(scheme.id.clone().map(|name| (name, id.to_owned())));
        headers.push((scheme.header.clone(), value));
        headers
    }

    /// The HMAC of a token, in hexadecimal, by the secret that signed the request: how Zoom has an endpoint show that it
    /// knows the secret. None where the request is not signed as Zoom signs, or the token is none of Zoom's.
    ///
    /// A token is letters, digits and `+ / = - _`. What Zoom signs has colons and braces in it, so no answer is ever the
    /// signature of a request, regardless of who chose the token.
    pub fn zoom_answer(&self, claim: &Claim<'_>, body: &[u8], token: &str) -> Option<String> {
        let is_token = (1..=ZOOM_TOKEN_BYTES_MAX).contains(&token.len())
            && token.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=-_".contains(&b));
        if !is_token || !self.scheme.is_zoom() {
            return None;
        }
        let is_signer = |key: &&hmac::Key| {
            let tag = self.sign(key, claim, body);
            claim.signatures.iter().fold(false, |passed, s| passed | bool::from(tag.as_ref().ct_eq(s)))
        };
        let tag = hmac::sign(self.keys.iter().find(is_signer)?, token.as_bytes());
        Some(tag.as_ref().iter().fold(String::with_capacity(64), |hex, byte| hex + &format!("{byte:02x}")))
    }

    fn sign(&self, key: &hmac::Key, claim: &Claim<'_>, body: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(key);
        for piece in self.scheme.signed.pieces() {
            context.update(match piece {
                Piece::Text(text) => text.as_bytes(),
                Piece::Timestamp => claim.timestamp.as_bytes(),
                Piece::Id => claim.id.as_bytes(),
                Piece::Body => body,
            });
        }
        context.sign()
    }
}

#[cfg(test)]
mod tests;
