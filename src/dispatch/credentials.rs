//! What a destination's requests prove themselves with, where that is the same for all of them; and the keys by which
//! each is signed.
//!
//! Secrets are read at the start. Their values are marked sensitive, so that nothing shows them.

use crate::config::settings::{Destination, DestinationAuth, Secret};
use crate::rules::signing::Key;
use http::{HeaderMap, HeaderValue, header};

/// What is sent with each request. The error says which secret could not be read.
pub fn fixed(settings: &Destination) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let agent = concat!("holdline/", env!("CARGO_PKG_VERSION"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(agent));
    let (name, value) = match &settings.auth {
        None | Some(DestinationAuth::OAuth2(_) | DestinationAuth::Mtls) => return Ok(headers),
        Some(DestinationAuth::Bearer { token }) => {
            (header::AUTHORIZATION, format!("Bearer {}", token.read()?.expose()))
        }
        Some(DestinationAuth::Basic { user, password }) => {
            let pair = format!("{user}:{}", password.read()?.expose());
            (header::AUTHORIZATION, format!("Basic {}", base64(pair.as_bytes())))
        }
        Some(DestinationAuth::Header { name, value }) => (name.clone(), value.read()?.expose().to_owned()),
    };
    let mut value = HeaderValue::from_str(&value)
        .map_err(|_| format!("the secret of destination `{}` holds characters that no header can", settings.name))?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(headers)
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The key of a signature. The error says what is wrong with its secret.
pub fn key(secret: &Secret) -> Result<Key, String> {
    Key::decode(secret.read()?.expose()).map_err(|why| format!("{secret}: {why}"))
}
