//! Authentication of senders: whether a request comes from the configured sender.
//!
//! *Invariants.* Whatever the head alone decides is decided before the body is read. Tokens are compared in constant
//! time, as hashes, so that not even their length is disclosed. A refusal does not say which credential failed.

use crate::config::settings::{Secret, SecretError, SourceAuth};
use crate::extract::PointerError;
use crate::signature::{Claim, SecretFault, Verifier};
use crate::store::Proof;
use crate::time::Timestamp;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, HeaderName, header};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use subtle::ConstantTimeEq;
use thiserror::Error;

/// The credentials of a source, any of which is accepted; if none is configured, every request is accepted.
#[derive(Debug)]
pub struct Authenticator(Vec<Credential>);

#[derive(Debug)]
enum Credential {
    Token { place: TokenPlace, hashes: Vec<Hash> },
    Signature(Verifier),
}

/// Why a source cannot be used as it is configured. Names references, never a secret.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SourceError {
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(transparent)]
    Encoding(#[from] SecretFault),
    #[error(transparent)]
    Pointer(#[from] PointerError),
}

pub type Hash = [u8; 32];

#[derive(Debug)]
enum TokenPlace {
    /// `Authorization: Bearer TOKEN`.
    Bearer,
    /// `Authorization: Basic base64(USER:PASSWORD)`.
    Basic,
    Header(HeaderName),
    Query(String),
}

/// The result of a head.
#[derive(Debug)]
pub enum AuthState<'a> {
    /// No credential is configured.
    Open,
    /// It carries a valid token.
    Authenticated,
    Denied,
    /// The body decides.
    Claimed(Vec<(&'a Verifier, Claim<'a>)>),
}

impl Authenticator {
    /// Reads the secrets.
    ///
    /// # Errors
    /// A secret cannot be read, or is not written in its encoding.
    pub fn new(auths: &[SourceAuth]) -> Result<Self, SourceError> {
        auths.iter().map(credential).collect::<Result<_, _>>().map(Self)
    }

    /// Checks the head. `wall` is the wall clock, by which senders write their timestamps.
    pub fn authenticate<'a>(&'a self, headers: &'a HeaderMap, query: Option<&str>, wall: Timestamp) -> AuthState<'a> {
        let mut claims = Vec::new();
        for credential in &self.0 {
            match credential {
                Credential::Token { place, hashes } if is_one_of(place.token(headers, query), hashes) => {
                    return AuthState::Authenticated;
                }
                Credential::Token { .. } => {}
                Credential::Signature(verifier) => {
                    claims.extend(verifier.claim(headers, wall).map(|claim| (verifier, claim)))
                }
            }
        }
        match claims.as_slice() {
            _ if self.0.is_empty() => AuthState::Open,
            [] => AuthState::Denied,
            _ => AuthState::Claimed(claims),
        }
    }

    /// The challenges of a 401, each once.
    pub fn challenges(&self) -> Vec<&'static str> {
        let mut challenges: Vec<_> = self.0.iter().map(Credential::challenge).collect();
        challenges.sort_unstable();
        challenges.dedup();
        challenges
    }

    pub fn verifies_signatures(&self) -> bool {
        self.0.iter().any(|credential| matches!(credential, Credential::Signature(_)))
    }

    /// Whether every request is accepted.
    pub fn is_open(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a header holds a token of this source.
    pub fn has_token_in_header(&self, name: &HeaderName) -> bool {
        let is_here = |place: &TokenPlace| match place {
            TokenPlace::Bearer | TokenPlace::Basic => *name == header::AUTHORIZATION,
            TokenPlace::Header(own) => own == name,
            TokenPlace::Query(_) => false,
        };
        self.0.iter().any(|credential| matches!(credential, Credential::Token { place, .. } if is_here(place)))
    }

    /// Whether a query parameter holds a token of this source.
    pub fn has_token_in_query(&self, name: &str) -> bool {
        self.0.iter().any(
            |credential| matches!(credential, Credential::Token { place: TokenPlace::Query(own), .. } if own == name),
        )
    }

    /// Whether a signature is verified with this header.
    pub fn verifies_with(&self, name: &HeaderName) -> bool {
        let reads = |credential: &Credential| matches!(credential, Credential::Signature(v) if v.headers().any(|own| own == name));
        self.0.iter().any(reads)
    }
}

impl Credential {
    /// Bearer and Basic as RFC 6750 and RFC 7617 have them; for the others there is no registered scheme.
    fn challenge(&self) -> &'static str {
        match self {
            Self::Token { place: TokenPlace::Bearer, .. } => r#"Bearer realm="holdline""#,
            Self::Token { place: TokenPlace::Basic, .. } => r#"Basic realm="holdline", charset="UTF-8""#,
            Self::Token { .. } => r#"ApiKey realm="holdline""#,
            Self::Signature(_) => r#"HMAC realm="holdline""#,
        }
    }
}

impl AuthState<'_> {
    /// The answer to Zoom's handshake, where the request has Zoom's signature.
    pub fn zoom_answer(&self, body: &[u8], token: &str) -> Option<String> {
        let Self::Claimed(claims) = self else { return None };
        claims.iter().find_map(|(verifier, claim)| verifier.zoom_answer(claim, body, token))
    }

    /// What authenticated the request, now that its body is complete; none where it is not accepted.
    pub fn accepts(&self, body: &[u8]) -> Option<Proof> {
        match self {
            Self::Open => Some(Proof::Nothing),
            Self::Authenticated => Some(Proof::Token),
            Self::Denied => None,
            Self::Claimed(claims) => {
                let (verifier, claim) = claims.iter().find(|(verifier, claim)| verifier.verify(claim, body))?;
                let headers = verifier.scheme().signed_headers().map(|name| name.as_str().to_owned()).collect();
                Some(Proof::Signature { headers, timestamp: claim.timestamp().to_owned() })
            }
        }
    }
}

fn credential(auth: &SourceAuth) -> Result<Credential, SourceError> {
    let token = |place, secrets, lead: &str| Ok(Credential::Token { place, hashes: hashes(secrets, lead)? });
    match auth {
        SourceAuth::Bearer { tokens } => token(TokenPlace::Bearer, tokens, ""),
        SourceAuth::Basic { user, passwords } => token(TokenPlace::Basic, passwords, &format!("{user}:")),
        SourceAuth::Header { name, values } => token(TokenPlace::Header(name.clone()), values, ""),
        SourceAuth::Query { name, values } => token(TokenPlace::Query(name.clone()), values, ""),
        SourceAuth::Hmac { scheme, secrets } => {
            let values = secrets.iter().map(Secret::read).collect::<Result<Vec<_>, _>>()?;
            let verifier = Verifier::new(scheme.clone(), values.iter().map(|value| value.expose()));
            Ok(Credential::Signature(verifier?))
        }
    }
}

/// The hashes of what is expected: `lead` and each secret.
pub fn hashes(secrets: &[Secret], lead: &str) -> Result<Vec<Hash>, SecretError> {
    let hash =
        |secret: &Secret| Ok(Sha256::new().chain_update(lead).chain_update(secret.read()?.expose()).finalize().into());
    secrets.iter().map(hash).collect()
}

/// Whether a token is among these, compared in constant time.
pub fn is_one_of(token: Option<Cow<'_, [u8]>>, hashes: &[Hash]) -> bool {
    token.is_some_and(|token| {
        let hash: Hash = Sha256::digest(&token).into();
        hashes.iter().fold(false, |found, expected| found | bool::from(hash.ct_eq(expected)))
    })
}

impl TokenPlace {
    /// The token of a request, if one is there.
    fn token<'a>(&self, headers: &'a HeaderMap, query: Option<&'a str>) -> Option<Cow<'a, [u8]>> {
        match self {
            Self::Bearer => scheme(headers, "bearer").map(|token| Cow::Borrowed(token.as_bytes())),
            Self::Basic => BASE64_STANDARD.decode(scheme(headers, "basic")?).ok().map(Cow::Owned),
            Self::Header(name) => Some(Cow::Borrowed(headers.get(name)?.as_bytes())),
            Self::Query(name) => {
                let mut pairs = form_urlencoded::parse(query?.as_bytes());
                Some(Cow::Owned(pairs.find(|(key, _)| key == name)?.1.into_owned().into_bytes()))
            }
        }
    }
}

/// The credentials behind a scheme (in lower case) in `Authorization`.
fn scheme<'a>(headers: &'a HeaderMap, wanted: &str) -> Option<&'a str> {
    let (scheme, rest) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case(wanted).then(|| rest.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::Scheme;
    use std::io::Write as _;

    const WALL: Timestamp = Timestamp(1_749_589_385_000);

    fn secret(value: &str) -> Secret {
        let (mut file, path) = tempfile::NamedTempFile::new().unwrap().keep().unwrap();
        writeln!(file, "{value}").unwrap();
        Secret::File(path)
    }

    fn accepts(authenticator: &Authenticator, headers: &[(&'static str, &'static str)], query: Option<&str>) -> bool {
        let headers = headers.iter().map(|(n, v)| (HeaderName::from_static(n), v.parse().unwrap())).collect();
        authenticator.authenticate(&headers, query, WALL).accepts(b"{}").is_some()
    }

    #[test]
    fn each_auth_kind_accepts_a_known_secret() {
        let two = || vec![secret("s3cret"), secret("0ther")];
        let header_name = HeaderName::from_static("x-api-key");
        type Case = (SourceAuth, &'static [(&'static str, &'static str)], Option<&'static str>, bool);
        let bearer = || SourceAuth::Bearer { tokens: two() };
        let basic = || SourceAuth::Basic { user: "genesys".to_owned(), passwords: two() };
        let header = || SourceAuth::Header { name: header_name.clone(), values: two() };
        let query = || SourceAuth::Query { name: "token".to_owned(), values: two() };
        let cases: Vec<Case> = vec![
            (bearer(), &[("authorization", "Bearer s3cret")], None, true),
            (bearer(), &[("authorization", "bearer 0ther")], None, true),
            (bearer(), &[("authorization", "Bearer s3cre")], None, false),
            (bearer(), &[("authorization", "Bearer s3crets")], None, false),
            (bearer(), &[("authorization", "Bearer")], None, false),
            (bearer(), &[("authorization", "Basic s3cret")], None, false),
            (bearer(), &[("authorization", "s3cret")], None, false),
            (bearer(), &[], None, false),
            (basic(), &[("authorization", "Basic Z2VuZXN5czpzM2NyZXQ=")], None, true),
            (basic(), &[("authorization", "Basic Z2VuZXN5czowdGhlcg==")], None, true),
            (basic(), &[("authorization", "Basic b3RoZXI6czNjcmV0")], None, false),
            (basic(), &[("authorization", "Basic !")], None, false),
            (header(), &[("x-api-key", "s3cret")], None, true),
            (header(), &[("x-api-key", "S3cret")], None, false),
            (header(), &[("x-api-key", "")], None, false),
            (query(), &[], Some("a=b&token=s3cret"), true),
            (query(), &[], Some("token=%73%33cret"), true),
            (query(), &[], Some("token=wrong&token=s3cret"), false),
            (query(), &[], Some("token="), false),
            (query(), &[], None, false),
        ];
        for (auth, headers, asked, passes) in cases {
            let authenticator = Authenticator::new(std::slice::from_ref(&auth)).unwrap();
            assert_eq!(accepts(&authenticator, headers, asked), passes, "{auth:?} {headers:?} {asked:?}");
        }
    }

    #[test]
    fn without_auth_every_request_passes_and_any_of_several_is_enough() {
        assert!(accepts(&Authenticator::new(&[]).unwrap(), &[], None));
        let auths = [
            SourceAuth::Hmac { scheme: Scheme::preset("github").unwrap(), secrets: vec![secret("s3cret")] },
            SourceAuth::Header { name: HeaderName::from_static("x-api-key"), values: vec![secret("key")] },
        ];
        let authenticator = Authenticator::new(&auths).unwrap();
        let signed = "sha256=9df58e99c04db8e7f1ae13a4ae6a7ea53bcf5f6a9a1c2e6e2b5c4e7cf5d4a6e6";
        assert!(accepts(&authenticator, &[("x-api-key", "key")], None));
        assert!(accepts(&authenticator, &[("x-api-key", "key"), ("x-hub-signature-256", signed)], None));
        assert!(!accepts(&authenticator, &[("x-hub-signature-256", signed)], None));
        assert!(!accepts(&authenticator, &[], None));
    }

    #[test]
    fn a_head_that_cannot_authenticate_is_refused_before_the_body() {
        let auth = SourceAuth::Hmac { scheme: Scheme::preset("zoom").unwrap(), secrets: vec![secret("s3cret")] };
        let authenticator = Authenticator::new(&[auth]).unwrap();
        let auth = |headers: &[(&'static str, &'static str)]| {
            let headers = headers.iter().map(|(n, v)| (HeaderName::from_static(n), v.parse().unwrap())).collect();
            matches!(authenticator.authenticate(&headers, None, WALL), AuthState::Claimed(_))
        };
        assert!(auth(&[("x-zm-signature", "v0=00"), ("x-zm-request-timestamp", "1749589385")]));
        assert!(!auth(&[("x-zm-signature", "v0=00"), ("x-zm-request-timestamp", "1749580000")]));
        assert!(!auth(&[("x-zm-signature", "v0=0"), ("x-zm-request-timestamp", "1749589385")]));
        assert!(!auth(&[("x-zm-request-timestamp", "1749589385")]));
    }

    #[test]
    fn an_unreadable_secret_is_reported_and_none_is_shown() {
        let missing = SourceAuth::Bearer { tokens: vec![Secret::File("/nowhere/token".into())] };
        assert!(Authenticator::new(&[missing]).unwrap_err().to_string().contains("/nowhere/token"));
        let scheme = Scheme::preset("standard-webhooks").unwrap();
        let bad = SourceAuth::Hmac { scheme, secrets: vec![secret("hunter2!")] };
        let fault = Authenticator::new(&[bad]).unwrap_err().to_string();
        assert!(fault.contains("secret_encoding") && !fault.contains("hunter2"), "{fault}");
        let authenticator = Authenticator::new(&[SourceAuth::Bearer { tokens: vec![secret("hunter2!")] }]).unwrap();
        assert!(!format!("{authenticator:?}").contains("hunter2"));
    }
}
