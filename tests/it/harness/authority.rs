//! A certificate authority for tests, and a TLS proxy in front of a receiver.

use crate::harness::bench::wait_for;
use rcgen::{
    CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Creates certificates, and stores them and their keys as PEM files.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

/// The files of a certificate and its key.
pub struct Certified {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// How long a certificate is valid.
#[derive(Clone, Copy)]
pub enum Until {
    Long,
    Yesteryear,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        // the name distinguishes authorities
        params.distinguished_name.push(DnType::CommonName, folder.path().display().to_string());
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    /// The file of the authority's own certificate.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for a name, valid for servers and clients.
    pub fn certify(&self, name: &str, until: Until) -> Certified {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = match until {
            Until::Long => date_time_ymd(2100, 1, 1),
            Until::Yesteryear => date_time_ymd(2021, 1, 1),
        };
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let pair = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&pair, &self.issuer).unwrap();
        let file = |kind: &str| self.folder.path().join(format!("{name}.{kind}"));
        let certified = Certified { cert: file("pem"), key: file("key") };
        std::fs::write(&certified.cert, certificate.pem()).unwrap();
        std::fs::write(&certified.key, pair.serialize_pem()).unwrap();
        certified
    }
}

/// Terminates TLS in front of a receiver that speaks plain HTTP.
#[derive(Clone)]
pub struct TlsFront {
    pub addr: SocketAddr,
    refused: Arc<AtomicUsize>,
}

impl TlsFront {
    /// With `clients`, only clients with a certificate of that authority are accepted.
    pub async fn start(server: &Certified, clients: Option<&Authority>, receiver: SocketAddr) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let builder = builder.unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_file(authority.ca()).unwrap()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
                builder.with_client_cert_verifier(verifier)
            }
        };
        let chain = vec![CertificateDer::from_pem_file(&server.cert).unwrap()];
        let config = builder.with_single_cert(chain, PrivateKeyDer::from_pem_file(&server.key).unwrap()).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let front = Self { addr: listener.local_addr().unwrap(), refused: Arc::default() };
        let it = front.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, it) = (acceptor.clone(), it.clone());
                tokio::spawn(async move { it.serve(acceptor, stream, receiver).await });
            }
        });
        front
    }

    pub fn url(&self, name: &str) -> String {
        format!("https://{name}:{}/hook", self.addr.port())
    }

    /// Waits until `n` handshakes have failed.
    pub async fn refused(&self, n: usize) {
        let count = || self.refused.load(Ordering::SeqCst);
        wait_for("so many handshakes have failed", async || (count() >= n).then_some(())).await;
        assert_eq!(count(), n);
    }

    async fn serve(&self, acceptor: TlsAcceptor, stream: TcpStream, receiver: SocketAddr) {
        match acceptor.accept(stream).into_fallible().await {
            Ok(mut stream) => {
                let mut inner = TcpStream::connect(receiver).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut inner).await;
            }
            Err((_, mut stream)) => {
                self.refused.fetch_add(1, Ordering::SeqCst);
                // reads what the client has sent meanwhile; otherwise its kernel discards the TLS alert
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest).await;
            }
        }
    }
}
