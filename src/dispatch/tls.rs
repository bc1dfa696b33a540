//! TLS to a destination: whom it trusts, and the certificate with which it proves who it is.
//!
//! *Invariants.* The certificate of a peer is always checked: its chain, its name, its time. A private authority takes the
//! place of the system's; the token endpoint, which often belongs to somebody else, may have either.
//!
//! *Failure.* What cannot be read is told at the start, with the file and what to do.

use crate::config::settings::DestinationTls;
use crate::net::tls::{Certificate, Role, first_end_in};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::Arc;

/// Whose certificates are believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Nobody's: nothing is sent by TLS.
    Nobody,
    /// Those of the private authority if there is one, else those of the system's.
    One,
    /// Those of both.
    Both,
}

pub fn config(tls: &DestinationTls, trust: Trust) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS cannot be set up: {e}"))?
        .with_root_certificates(authorities(tls, trust)?);
    let Some(identity) = &tls.identity else { return Ok(Arc::new(builder.with_no_client_auth())) };
    let key = PrivateKeyDer::from_pem_file(&identity.key).map_err(|e| unreadable("tls.key", &identity.key, &e))?;
    let chain = certificates("tls.cert", &identity.cert)?;
    let config = builder.with_client_auth_cert(chain, key).map_err(|e| {
        let (cert, key) = (identity.cert.display(), identity.key.display());
        format!("`tls.cert` {cert} and `tls.key` {key} cannot be used: {e}; give a certificate and its own key")
    })?;
    Ok(Arc::new(config))
}

/// The certificates that a destination brings along, as they are now, and when they end.
pub fn certificates_of(name: &str, tls: &DestinationTls) -> Vec<Certificate> {
    let files = [(Role::Own, tls.identity.as_ref().map(|i| &i.cert)), (Role::Authority, tls.ca.as_ref())];
    let found = files.into_iter().filter_map(|(role, path)| Some((role, first_end_in(path?)?)));
    found.map(|(role, ends)| Certificate { of: name.to_owned(), role, ends }).collect()
}

fn authorities(tls: &DestinationTls, trust: Trust) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = tls.ca.as_ref().filter(|_| trust != Trust::Nobody) {
        for certificate in certificates("tls.ca", path)? {
            roots.add(certificate).map_err(|e| unreadable("tls.ca", path, &e))?;
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
            return Err(format!(
                "the system's certificate authorities cannot be read: {why}; install ca-certificates, or set `tls.ca`"
            ));
        }
    }
    Ok(roots)
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|e| unreadable(key, path, &e))?;
    if certificates.is_empty() {
        return Err(unreadable(key, path, &"it holds no certificate"));
    }
    Ok(certificates)
}

fn unreadable(key: &str, path: &Path, why: &dyn std::fmt::Display) -> String {
    format!("`{key}` {} cannot be read: {why}; give a PEM file that this process may read", path.display())
}
