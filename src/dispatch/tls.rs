//! TLS to a destination: trusted authorities, and the client certificate.
//!
//! *Invariants.* The certificate of a peer is always verified: its chain, its name, its period of validity. A private
//! authority replaces those of the system; the token endpoint, which often belongs to another organisation, may use
//! either.
//!
//! *Failure.* A file that cannot be read is reported at the start, with its path and what to do.

use super::error::SetupError;
use crate::config::settings::DestinationTls;
use crate::net::tls::{Certificate, Role, first_end_in};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::Arc;

/// Which certificate authorities are trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// None: TLS is not used.
    Nobody,
    /// The private authority if there is one, else those of the system.
    One,
    /// The private authority and those of the system.
    Both,
}

pub fn config(tls: &DestinationTls, trust: Trust) -> Result<Arc<ClientConfig>, SetupError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| SetupError::Tls(e.to_string()))?
        .with_root_certificates(authorities(tls, trust)?);
    let Some(identity) = &tls.identity else { return Ok(Arc::new(builder.with_no_client_auth())) };
    let key =
        PrivateKeyDer::from_pem_file(&identity.key).map_err(|e| SetupError::tls_file("tls.key", &identity.key, e))?;
    let chain = certificates("tls.cert", &identity.cert)?;
    let config = builder.with_client_auth_cert(chain, key).map_err(|e| SetupError::TlsIdentity {
        cert: identity.cert.display().to_string(),
        key: identity.key.display().to_string(),
        why: e.to_string(),
    })?;
    Ok(Arc::new(config))
}

/// The certificates in the settings of a destination, as they are now, and when they expire.
pub fn certificates_of(name: &str, tls: &DestinationTls) -> Vec<Certificate> {
    let files = [(Role::Own, tls.identity.as_ref().map(|i| &i.cert)), (Role::Authority, tls.ca.as_ref())];
    let found = files.into_iter().filter_map(|(role, path)| Some((role, first_end_in(path?)?)));
    found.map(|(role, ends)| Certificate { of: name.to_owned(), role, ends }).collect()
}

fn authorities(tls: &DestinationTls, trust: Trust) -> Result<RootCertStore, SetupError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = tls.ca.as_ref().filter(|_| trust != Trust::Nobody) {
        for certificate in certificates("tls.ca", path)? {
            roots.add(certificate).map_err(|e| SetupError::tls_file("tls.ca", path, e))?;
        }
    }
    let of_system = match trust {
        Trust::Nobody => false,
        Trust::One => tls.ca.is_none(),
        Trust::Both => true,
    };
    if of_system {
        let found = rustls_native_certs::load_native_certs();
        let _some_may_be_odd = roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let why = found.errors.first().map_or_else(|| "there are none".to_owned(), ToString::to_string);
            return Err(SetupError::SystemAuthorities(why));
        }
    }
    Ok(roots)
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|e| SetupError::tls_file(key, path, e))?;
    if certificates.is_empty() {
        return Err(SetupError::tls_file(key, path, "it holds no certificate"));
    }
    Ok(certificates)
}
