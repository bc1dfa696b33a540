//! TLS of a listener: its certificate, taken anew from the files when they change, without a connection being dropped.
//!
//! *Invariants.* What is in force is whole: certificate, key and client authorities are read and checked together, and only
//! then take the place of those before. Connections that are there keep what they began with.
//!
//! *Failure.* Files that cannot be used are told, and what was in force stays in force.

use super::certificate::{Certificate, Role, first_end_in};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, crypto};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use tokio_rustls::TlsAcceptor;

const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// Where the files of a listener lie, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The chain, the server's own certificate first.
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Authorities, one of which must have signed a client's certificate; none where clients need no certificate.
    pub client_ca: Option<PathBuf>,
}

#[derive(Debug)]
pub struct Tls {
    files: Files,
    in_force: RwLock<InForce>,
}

#[derive(Debug)]
struct InForce {
    config: Arc<ServerConfig>,
    certificates: Vec<Certificate>,
    prints: Vec<Print>,
}

/// By what a changed file is known.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Print(Option<(u64, u64, i64, i64)>);

/// What came of looking at the files.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    Unchanged,
    Renewed,
    /// They changed and cannot be used; why.
    Unusable(String),
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// In words, which name the file and what to do.
    pub fn open(files: Files) -> Result<Self, String> {
        let in_force = InForce { prints: files.prints(), config: files.read()?, certificates: files.certificates() };
        Ok(Self { files, in_force: RwLock::new(in_force) })
    }

    /// Takes the files anew if they have changed. Blocks.
    pub fn look(&self) -> Look {
        let prints = self.files.prints();
        if prints == self.in_force.read().expect("no holder panics").prints {
            return Look::Unchanged;
        }
        let (look, config) = match self.files.read() {
            Ok(config) => (Look::Renewed, Some(config)),
            Err(why) => (Look::Unusable(why), None),
        };
        let mut in_force = self.in_force.write().expect("no holder panics");
        // files that are being written change again once they are whole
        in_force.prints = prints;
        if let Some(config) = config {
            in_force.config = config;
            in_force.certificates = self.files.certificates();
        }
        look
    }

    /// Those in force, and when they end.
    pub fn certificates(&self) -> Vec<Certificate> {
        self.in_force.read().expect("no holder panics").certificates.clone()
    }

    /// For the next connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.in_force.read().expect("no holder panics").config.clone())
    }
}

/// Whether the client chose HTTP/2.
pub fn is_http2(connection: &rustls::ServerConnection) -> bool {
    connection.alpn_protocol() == Some(HTTP2)
}

impl Files {
    fn prints(&self) -> Vec<Print> {
        let files = [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()];
        files.into_iter().flatten().map(|path| Print(std::fs::metadata(path).ok().as_ref().map(print))).collect()
    }

    fn certificates(&self) -> Vec<Certificate> {
        let files = [(Role::Own, Some(&self.cert)), (Role::Authority, self.client_ca.as_ref())];
        let found = files.into_iter().filter_map(|(role, path)| Some((role, first_end_in(path?)?)));
        found.map(|(role, ends)| Certificate { of: "intake".to_owned(), role, ends }).collect()
    }

    fn read(&self) -> Result<Arc<ServerConfig>, String> {
        let provider = Arc::new(crypto::ring::default_provider());
        let chain = certificates(&self.cert)?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|e| unusable(&self.key, &e, "a private key"))?;
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|e| e.to_string())?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut authorities = RootCertStore::empty();
                for authority in certificates(path)? {
                    authorities.add(authority).map_err(|e| unusable(path, &e, "certificates of authorities"))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|e| unusable(path, &e, "certificates"))?)
            }
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|e| {
            let (cert, key) = (self.cert.display(), self.key.display());
            format!("{cert} and {key} do not belong together: {e}; write a certificate and its key")
        })?;
        config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
        // senders that connect anew for each event need not make a full handshake each time
        config.ticketer = crypto::ring::Ticketer::new().map_err(|e| e.to_string())?;
        Ok(Arc::new(config))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wanted = "certificates";
    let all = CertificateDer::pem_file_iter(path).map_err(|e| unusable(path, &e, wanted))?;
    let all = all.collect::<Result<Vec<_>, _>>().map_err(|e| unusable(path, &e, wanted))?;
    if all.is_empty() { Err(unusable(path, &"no certificate is in it", wanted)) } else { Ok(all) }
}

/// Nothing of the file's content is told.
fn unusable(path: &Path, why: &dyn std::fmt::Display, wanted: &str) -> String {
    format!("{} cannot be used: {why}; write a file with {wanted} in PEM that holdline may read", path.display())
}

fn print(file: &Metadata) -> (u64, u64, i64, i64) {
    (file.ino(), file.size(), file.mtime(), file.mtime_nsec())
}
