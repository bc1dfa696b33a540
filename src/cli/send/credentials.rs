//! What a sender shows of itself: the credentials that the source asks for, by the configuration.

use crate::cli::client::encoded;
use crate::config::settings::{Source, SourceAuth};
use crate::signature::Verifier;
use crate::time::Timestamp;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use sha2::{Digest, Sha256};

/// With which a body is sent.
#[derive(Debug, Default)]
pub enum Credentials {
    /// None are asked for, or only by flags.
    #[default]
    Nothing,
    Header(HeaderName, HeaderValue),
    /// A parameter of the path, percent-encoded.
    Query(String),
    Signature(Box<Verifier>),
}

impl Credentials {
    /// The first of those that the source accepts, with the first of its secrets: any passes.
    ///
    /// # Errors
    /// Where its secret cannot be read or used; in words, which name its reference.
    pub fn of(source: &Source) -> Result<Self, String> {
        let Some(auth) = source.auth.first() else { return Ok(Self::Nothing) };
        let Some(secret) = auth.secrets().first() else { return Ok(Self::Nothing) };
        let value = secret.read()?;
        let value = value.expose();
        let line = |text: &str| {
            let line = HeaderValue::from_str(text).map_err(|_| format!("{secret} cannot stand in a header"))?;
            Ok::<_, String>(line)
        };
        Ok(match auth {
            SourceAuth::Bearer { .. } => Self::Header(header::AUTHORIZATION, line(&format!("Bearer {value}"))?),
            SourceAuth::Basic { user, .. } => {
                let pair = BASE64_STANDARD.encode(format!("{user}:{value}"));
                Self::Header(header::AUTHORIZATION, line(&format!("Basic {pair}"))?)
            }
            SourceAuth::Header { name, .. } => Self::Header(name.clone(), line(value)?),
            SourceAuth::Query { name, .. } => Self::Query(format!("{}={}", encoded(name), encoded(value))),
            SourceAuth::Hmac { scheme, .. } => {
                let verifier = Verifier::new(scheme.clone(), [value]);
                Self::Signature(Box::new(verifier.map_err(|fault| format!("{secret}: {fault}"))?))
            }
        })
    }

    /// What stands behind the path.
    pub fn query(&self) -> Option<&str> {
        match self {
            Self::Query(query) => Some(query),
            _ => None,
        }
    }

    /// Adds the headers of one body; what the headers have already stays.
    pub fn sign(&self, headers: &mut HeaderMap, body: &[u8], now: Timestamp) {
        match self {
            Self::Nothing | Self::Query(_) => {}
            Self::Header(name, value) => drop(headers.entry(name).or_insert_with(|| value.clone())),
            Self::Signature(verifier) => {
                // the same body has the same id, so that it can be sent again
                let digest = Sha256::digest(body);
                let id = digest.iter().take(16).fold("msg_".to_owned(), |id, byte| id + &format!("{byte:02x}"));
                for (name, value) in verifier.headers_for(body, &id, now) {
                    if let Ok(value) = HeaderValue::from_str(&value) {
                        headers.entry(name).or_insert(value);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::Secret;
    use crate::signature::{PRESETS, Scheme};
    use std::path::Path;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);
    const BODY: &[u8] = br#"{"a": 1}"#;

    fn secret(folder: &Path, value: &str) -> Secret {
        let path = folder.join("secret");
        std::fs::write(&path, value).unwrap();
        Secret::File(path)
    }

    fn source(auth: SourceAuth) -> Source {
        Source { auth: vec![auth], ..Source::named("s") }
    }

    fn signed(source: &Source) -> HeaderMap {
        let mut headers = HeaderMap::new();
        Credentials::of(source).unwrap().sign(&mut headers, BODY, NOW);
        headers
    }

    #[test]
    fn each_preset_verifies_what_it_signs() {
        let folder = tempfile::tempdir().unwrap();
        let written = format!("whsec_{}", BASE64_STANDARD.encode([7; 32]));
        for preset in PRESETS {
            let scheme = Scheme::preset(preset).unwrap();
            let secrets = vec![secret(folder.path(), &written)];
            let headers = signed(&source(SourceAuth::Hmac { scheme: scheme.clone(), secrets }));
            let verifier = Verifier::new(scheme, [written.as_str()]).unwrap();
            let claim = verifier.claim(&headers, NOW).unwrap_or_else(|| panic!("{preset}: {headers:?}"));
            assert!(verifier.verify(&claim, BODY) && !verifier.verify(&claim, b"{}"), "{preset}: {headers:?}");
        }
    }

    #[test]
    fn a_token_is_sent_where_the_source_reads_it_and_flags_override_it() {
        let folder = tempfile::tempdir().unwrap();
        let secrets = || vec![secret(folder.path(), "a b&c")];
        let bearer = source(SourceAuth::Bearer { tokens: secrets() });
        assert_eq!(signed(&bearer)[header::AUTHORIZATION], "Bearer a b&c");
        let basic = source(SourceAuth::Basic { user: "u".to_owned(), passwords: secrets() });
        assert_eq!(signed(&basic)[header::AUTHORIZATION], "Basic dTphIGImYw==");
        let name = HeaderName::from_static("x-api-key");
        let own = source(SourceAuth::Header { name: name.clone(), values: secrets() });
        assert_eq!(signed(&own)[&name], "a b&c");
        let query = source(SourceAuth::Query { name: "code".to_owned(), values: secrets() });
        assert_eq!(Credentials::of(&query).unwrap().query(), Some("code=a%20b%26c"));
        let mut headers = HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static("Bearer mine"))]);
        Credentials::of(&bearer).unwrap().sign(&mut headers, BODY, NOW);
        assert_eq!(headers[header::AUTHORIZATION], "Bearer mine");
        let absent = source(SourceAuth::Bearer { tokens: vec![Secret::File("/nowhere/token".into())] });
        assert!(Credentials::of(&absent).unwrap_err().contains("/nowhere/token cannot be read"));
    }
}
