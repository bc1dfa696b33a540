//! Why a destination cannot be set up from its settings.

use crate::rules::signing::KeyError;
use std::fmt::Display;
use std::path::Path;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// A secret or a URL; the text names it.
    #[error("{0}")]
    Unreadable(String),
    #[error("the kind `mtls` needs TLS; write a URL that begins with \"https://\"")]
    MtlsWithoutTls,
    #[error("the secret of destination `{0}` holds characters that no header can")]
    NoHeader(String),
    #[error("{secret}: {why}")]
    SigningKey { secret: String, why: KeyError },
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    #[error("`{key}` {path} cannot be read: {why}; give a PEM file that this process may read")]
    TlsFile { key: &'static str, path: String, why: String },
    #[error("`tls.cert` {cert} and `tls.key` {key} cannot be used: {why}; give a certificate and its own key")]
    TlsIdentity { cert: String, key: String, why: String },
    #[error("the system's certificate authorities cannot be read: {0}; install ca-certificates, or set `tls.ca`")]
    SystemAuthorities(String),
}

impl SetupError {
    pub(super) fn unreadable(why: impl Display) -> Self {
        Self::Unreadable(why.to_string())
    }

    pub(super) fn tls_file(key: &'static str, path: &Path, why: impl Display) -> Self {
        Self::TlsFile { key, path: path.display().to_string(), why: why.to_string() }
    }
}
