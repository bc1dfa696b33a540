//! TLS of a listener: its certificate, reloaded when the files change, without dropping a connection; and when certificates
//! end.
//!
//! *Invariants.* Certificate, key and client authorities are read and checked together, and only then replace the active
//! ones. Existing connections keep theirs. The end of a certificate is used for alerts only; one that cannot be read has
//! no end.
//!
//! *Failure.* Files that cannot be used are reported, and the active certificate stays.

use crate::time::Timestamp;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, crypto};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use thiserror::Error;
use tokio_rustls::TlsAcceptor;

const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// The paths of the files of a listener, in PEM.
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
    active: RwLock<Active>,
}

#[derive(Debug)]
struct Active {
    config: Arc<ServerConfig>,
    certificates: Vec<Certificate>,
    stamps: Vec<FileStamp>,
}

/// Why files cannot be used. Says nothing of their content.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TlsFilesError {
    #[error("{} cannot be used: {why}; write a file with {wanted} in PEM that holdline may read", path.display())]
    Unusable { path: PathBuf, why: String, wanted: &'static str },
    #[error("{} and {} do not belong together: {why}; write a certificate and its key", cert.display(), key.display())]
    Mismatch { cert: PathBuf, key: PathBuf, why: String },
    #[error("{0}")]
    Library(String),
}

/// Identifies the content of a file: inode, size and modification time. None where the file is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FileStamp(Option<(u64, u64, i64, i64)>);

/// The result of [`Tls::reload_if_changed`].
#[derive(Debug, PartialEq, Eq)]
pub enum ReloadResult {
    Unchanged,
    Reloaded,
    /// They changed and cannot be used.
    Unusable(TlsFilesError),
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// A file cannot be used.
    pub fn open(files: Files) -> Result<Self, TlsFilesError> {
        let active = Active { stamps: files.stamps(), config: files.read()?, certificates: files.certificates() };
        Ok(Self { files, active: RwLock::new(active) })
    }

    /// Reads the files again if they have changed. Blocks.
    pub fn reload_if_changed(&self) -> ReloadResult {
        let stamps = self.files.stamps();
        if stamps == self.active.read().expect("no holder panics").stamps {
            return ReloadResult::Unchanged;
        }
        let (result, config) = match self.files.read() {
            Ok(config) => (ReloadResult::Reloaded, Some(config)),
            Err(why) => (ReloadResult::Unusable(why), None),
        };
        let mut active = self.active.write().expect("no holder panics");
        // files that are being written change again once they are whole
        active.stamps = stamps;
        if let Some(config) = config {
            active.config = config;
            active.certificates = self.files.certificates();
        }
        result
    }

    /// The active certificates, and when they end.
    pub fn certificates(&self) -> Vec<Certificate> {
        self.active.read().expect("no holder panics").certificates.clone()
    }

    /// For the next connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.active.read().expect("no holder panics").config.clone())
    }
}

/// Whether the client chose HTTP/2.
pub fn is_http2(connection: &rustls::ServerConnection) -> bool {
    connection.alpn_protocol() == Some(HTTP2)
}

impl Files {
    fn stamps(&self) -> Vec<FileStamp> {
        let files = [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()];
        files.into_iter().flatten().map(|path| FileStamp(std::fs::metadata(path).ok().as_ref().map(stamp))).collect()
    }

    fn certificates(&self) -> Vec<Certificate> {
        let files = [(Role::Own, Some(&self.cert)), (Role::Authority, self.client_ca.as_ref())];
        let found = files.into_iter().filter_map(|(role, path)| Some((role, first_end_in(path?)?)));
        found.map(|(role, ends)| Certificate { of: "intake".to_owned(), role, ends }).collect()
    }

    fn read(&self) -> Result<Arc<ServerConfig>, TlsFilesError> {
        let provider = Arc::new(crypto::ring::default_provider());
        let chain = certificates(&self.cert)?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|e| unusable(&self.key, &e, "a private key"))?;
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|e| TlsFilesError::Library(e.to_string()))?;
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
            let (cert, key) = (self.cert.clone(), self.key.clone());
            TlsFilesError::Mismatch { cert, key, why: e.to_string() }
        })?;
        config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
        // senders that connect anew for each event need not make a full handshake each time
        config.ticketer = crypto::ring::Ticketer::new().map_err(|e| TlsFilesError::Library(e.to_string()))?;
        Ok(Arc::new(config))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFilesError> {
    let wanted = "certificates";
    let all = CertificateDer::pem_file_iter(path).map_err(|e| unusable(path, &e, wanted))?;
    let all = all.collect::<Result<Vec<_>, _>>().map_err(|e| unusable(path, &e, wanted))?;
    if all.is_empty() { Err(unusable(path, &"no certificate is in it", wanted)) } else { Ok(all) }
}

fn unusable(path: &Path, why: &dyn std::fmt::Display, wanted: &'static str) -> TlsFilesError {
    TlsFilesError::Unusable { path: path.to_owned(), why: why.to_string(), wanted }
}

fn stamp(file: &Metadata) -> (u64, u64, i64, i64) {
    (file.ino(), file.size(), file.mtime(), file.mtime_nsec())
}

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xA0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// A certificate in use, or several from one file, and when it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// `intake`, or the name of a destination.
    pub of: String,
    pub role: Role,
    pub ends: Timestamp,
}

/// What a certificate is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// It authenticates holdline.
    Own,
    /// It authenticates peers.
    Authority,
}

impl Role {
    pub fn word(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Authority => "authority",
        }
    }
}

/// When the first certificate of a file ends; none where nothing can be read.
pub fn first_end_in(path: &Path) -> Option<Timestamp> {
    let all = CertificateDer::pem_file_iter(path).ok()?;
    all.filter_map(|certificate| not_after(&certificate.ok()?)).min()
}

/// When a certificate ends (RFC 5280, 4.1.2.5); none where that cannot be read.
fn not_after(der: &[u8]) -> Option<Timestamp> {
    let (certificate, _) = contents(der, SEQUENCE)?;
    let (mut fields, _) = contents(certificate, SEQUENCE)?;
    if fields.first() == Some(&VERSION) {
        fields = element(fields)?.2;
    }
    // serial number, algorithm, issuer
    for _ in 0..3 {
        fields = element(fields)?.2;
    }
    let (validity, _) = contents(fields, SEQUENCE)?;
    let (_, _, rest) = element(validity)?;
    let (tag, text, _) = element(rest)?;
    parse_time(tag, std::str::from_utf8(text).ok()?)
}

fn contents(der: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    let (tag, content, rest) = element(der)?;
    (tag == wanted).then_some((content, rest))
}

/// The first element: its tag, its content, and what comes behind it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = der.split_first_chunk::<2>()?;
    let (length, rest) = match first {
        0..=0x7F => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

fn parse_time(tag: u8, text: &str) -> Option<Timestamp> {
    let digits = text.strip_suffix('Z').filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
    let digits = match (tag, digits.len()) {
        // two digits of the year: 1950 to 2049
        (UTC_TIME, 12) => format!("{}{digits}", if &digits[..2] >= "50" { "19" } else { "20" }),
        (GENERALIZED_TIME, 14) => digits.to_owned(),
        _ => return None,
    };
    let of = |range: std::ops::Range<usize>| &digits[range];
    let text = format!("{}-{}-{}T{}:{}:{}Z", of(0..4), of(4..6), of(6..8), of(8..10), of(10..12), of(12..14));
    humantime::parse_rfc3339(&text).ok().map(Timestamp::from_system)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(year: i32) -> rcgen::Certificate {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 3, 4);
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap()
    }

    #[test]
    fn a_certificate_expiry_is_read_in_both_forms() {
        for (year, end) in [(2031, "2031-03-04T00:00:00.000Z"), (2080, "2080-03-04T00:00:00.000Z")] {
            let found = not_after(certificate(year).der()).unwrap();
            assert_eq!(found.to_string(), end);
        }
    }

    #[test]
    fn the_earliest_expiry_counts_and_invalid_input_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("two.pem");
        std::fs::write(&path, [certificate(2050).pem(), certificate(2040).pem()].concat()).unwrap();
        assert_eq!(first_end_in(&path).unwrap().to_string(), "2040-03-04T00:00:00.000Z");
        assert_eq!(first_end_in(&folder.path().join("none.pem")), None);
        let der = certificate(2040).der().to_vec();
        // every truncation gives the same result or none, and never a panic
        for n in 0..der.len() {
            assert_eq!(not_after(&der[..n]), None, "{n}");
        }
        assert_eq!(parse_time(UTC_TIME, "99123123595Z"), None);
        assert_eq!(parse_time(UTC_TIME, "991332235959Z"), None);
    }
}
