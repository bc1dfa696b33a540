//! How a secret is written, and the key that it stands for.

use super::scheme::{BASE64, hex};
use base64::Engine as _;
use thiserror::Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretEncoding {
    /// The text itself is the key.
    Utf8,
    Hex,
    Base64,
    /// Base64 behind `whsec_`, which may be missing (Standard Webhooks).
    Whsec,
}

/// That a secret is not written as its scheme has it; never what is written.
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
