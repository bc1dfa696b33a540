//! TLS at intake: versions, client certificates, HTTP/2 and floods of frames, and a certificate that is replaced at
//! run time.

use crate::harness::bench::{Bench, Connection, Reply, body, message, read_message, wait_for};
use holdline::clock::Clock;
use holdline::config::settings::{Identity, ServerTls};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const JSON: (&str, &str) = ("Content-Type", "application/json");

/// A certificate authority, and a folder with the certificates that it issues.
pub struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { folder, issuer }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a new certificate for `localhost` and its key.
    pub fn issue(&self, name: &str) {
        self.issue_until(name, 2090);
    }

    fn issue_until(&self, name: &str, year: i32) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 3, 4);
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.path(&format!("{name}.pem")), cert.pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    pub fn files(&self, client_ca: Option<PathBuf>) -> ServerTls {
        ServerTls { cert: self.path("server.pem"), key: self.path("server.key"), client_ca }
    }
}

async fn daemon(tls: ServerTls) -> Bench {
    Bench::with(None, Clock::system(), |s| {
        s.intake.tls = Some(tls);
        s.intake.header_timeout = Duration::from_millis(1500);
    })
    .await
}

pub struct Client {
    config: ClientConfig,
}

impl Client {
    pub fn new(authority: &Authority, versions: &[&'static SupportedProtocolVersion]) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(authority.issuer.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        Self { config: config.with_root_certificates(roots).with_no_client_auth() }
    }

    pub fn with_certificate(authority: &Authority, name: &str) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(authority.issuer.der().clone()).unwrap();
        let cert = CertificateDer::from_pem_file(authority.path(&format!("{name}.pem"))).unwrap();
        let key = PrivateKeyDer::from_pem_file(authority.path(&format!("{name}.key"))).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        Self { config: config.with_root_certificates(roots).with_client_auth_cert(vec![cert], key).unwrap() }
    }

    pub fn with_http2(mut self) -> Self {
        self.config.alpn_protocols = vec![b"h2".to_vec()];
        self
    }

    pub async fn connect(&self, bench: &Bench) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(bench.intake).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(self.config.clone())).connect(name, stream).await
    }

    /// Posts one event on a connection of its own; none if there is no response.
    async fn post(&self, bench: &Bench, body: &[u8]) -> Option<Reply> {
        post_over(&mut self.connect(bench).await.ok()?, body).await
    }
}

async fn post_over(stream: &mut TlsStream<TcpStream>, body: &[u8]) -> Option<Reply> {
    stream.write_all(&message("POST", "/in/default", &[JSON], body)).await.ok()?;
    let (first, headers, body) = read_message(&mut BufReader::new(stream), false).await?;
    Some(Reply { status: first.split(' ').nth(1)?.parse().ok()?, headers, body })
}

#[tokio::test]
async fn events_come_in_over_tls_1_2_and_1_3_and_not_in_the_clear() {
    let authority = Authority::new();
    authority.issue("server");
    let bench = daemon(authority.files(None)).await;
    for (n, version) in [&rustls::version::TLS12, &rustls::version::TLS13].into_iter().enumerate() {
        let client = Client::new(&authority, &[version]);
        let mut stream = client.connect(&bench).await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
        for m in 0..3 {
            let reply = post_over(&mut stream, &body("k", &format!("{n}-{m}"))).await.unwrap();
            assert_eq!(reply.json()["status"], "queued");
        }
    }
    let mut clear = Connection::open(bench.intake).await;
    clear.send(&message("POST", "/in/default", &[JSON], &body("k", "clear"))).await;
    let mut rest = Vec::new();
    let _ = clear.0.read_to_end(&mut rest).await;
    assert!(!rest.starts_with(b"HTTP/"), "a TLS alert at most");
    assert_eq!(bench.count("/counters/accepted").await, 6);
}

#[tokio::test]
async fn a_sender_without_the_right_certificate_stays_outside() {
    let (authority, other) = (Authority::new(), Authority::new());
    authority.issue("server");
    authority.issue("sender");
    other.issue("sender");
    let bench = daemon(authority.files(Some(authority.path("ca.pem")))).await;
    assert_eq!(Client::with_certificate(&authority, "sender").post(&bench, &body("k", "1")).await.unwrap().status, 202);
    assert!(Client::new(&authority, rustls::ALL_VERSIONS).post(&bench, &body("k", "2")).await.is_none());
    let mut stranger = Client::with_certificate(&other, "sender");
    stranger.config = Client::with_certificate(&authority, "sender").config;
    stranger.config.client_auth_cert_resolver =
        Client::with_certificate(&other, "sender").config.client_auth_cert_resolver;
    assert!(stranger.post(&bench, &body("k", "3")).await.is_none());
    assert_eq!(bench.count("/counters/accepted").await, 1);
}

#[tokio::test]
async fn a_renewed_certificate_is_loaded_without_dropping_connections() {
    let authority = Authority::new();
    authority.issue("server");
    let bench = daemon(authority.files(None)).await;
    let client = Client::new(&authority, rustls::ALL_VERSIONS);
    let shown = |stream: &TlsStream<TcpStream>| stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();
    let mut before = client.connect(&bench).await.unwrap();
    let old = shown(&before);

    // half-written files: the active certificate stays active
    std::fs::write(authority.path("server.pem"), "-----BEGIN CERTIFICATE-----\n").unwrap();
    for n in 0..3 {
        assert_eq!(post_over(&mut before, &body("k", &format!("a{n}"))).await.unwrap().status, 202);
        assert_eq!(shown(&client.connect(&bench).await.unwrap()), old);
    }
    authority.issue("server");
    let fresh = wait_for("the new certificate is shown", async || {
        // the older connection is in use all the time
        assert_eq!(post_over(&mut before, &body("k", "b")).await.unwrap().status, 202);
        let stream = client.connect(&bench).await.unwrap();
        (shown(&stream) != old).then_some(stream)
    })
    .await;
    let own = CertificateDer::from_pem_file(authority.path("server.pem")).unwrap();
    assert_eq!(shown(&fresh), own);
    assert_eq!(post_over(&mut before, &body("k", "c")).await.unwrap().status, 202);
}

#[test]
fn unusable_tls_files_are_reported_at_the_start() {
    use holdline::net::tls::{Files, Tls};
    let (authority, other) = (Authority::new(), Authority::new());
    authority.issue("server");
    other.issue("server");
    let files = |cert: PathBuf, key: PathBuf, client_ca: Option<PathBuf>| Files { cert, key, client_ca };
    let (cert, key) = (authority.path("server.pem"), authority.path("server.key"));
    assert!(Tls::open(files(cert.clone(), key.clone(), None)).is_ok());
    for (files, named) in [
        (files(authority.path("none.pem"), key.clone(), None), "none.pem"),
        (files(key.clone(), key.clone(), None), "no certificate is in it"),
        (files(cert.clone(), cert.clone(), None), "a private key"),
        (files(cert.clone(), other.path("server.key"), None), "do not belong together"),
        (files(cert, key.clone(), Some(key)), "no certificate is in it"),
    ] {
        let why = Tls::open(files).unwrap_err().to_string();
        assert!(why.contains(named) && !why.contains("BEGIN"), "{named}: {why}");
    }
}

#[tokio::test]
async fn http2_is_negotiated_by_alpn() {
    let authority = Authority::new();
    authority.issue("server");
    let bench = daemon(authority.files(None)).await;
    let client = Client::new(&authority, rustls::ALL_VERSIONS).with_http2();
    let stream = client.connect(&bench).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let post = async |body: Vec<u8>| {
        let request = http::Request::post("https://localhost/in/default").body(Full::new(bytes::Bytes::from(body)));
        let answer = sender.clone().send_request(request.unwrap()).await.unwrap();
        (answer.status().as_u16(), answer.into_body().collect().await.unwrap().to_bytes())
    };
    for n in 0..200 {
        assert_eq!(post(body("k", &n.to_string())).await.0, 202);
    }
    let (status, refusal) = post(b"nonsense".to_vec()).await;
    assert_eq!((status, refusal.starts_with(b"{\"error\"")), (400, true));
    assert_eq!(post(vec![b' '; 2 << 20]).await.0, 413, "a body that is too large ends its stream");
    assert_eq!(post(body("k", "last")).await.0, 202, "and not the connection");
    assert_eq!(bench.count("/counters/accepted").await, 201);
}

/// One frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Frames that a hostile client repeats until it is disconnected.
async fn flood(bench: &Bench, client: &Client, what: &str, mut frames: impl FnMut(u32) -> Vec<u8>) {
    let (mut reader, mut writer) = tokio::io::split(client.connect(bench).await.unwrap());
    let open = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(4, 0, 0, &[])].concat();
    writer.write_all(&open).await.unwrap();
    let reading = tokio::spawn(async move {
        let mut all = Vec::new();
        let _ = reader.read_to_end(&mut all).await;
    });
    for n in 0..200_000 {
        if writer.write_all(&frames(2 * n + 1)).await.is_err() {
            reading.await.unwrap();
            return;
        }
        if reading.is_finished() {
            return;
        }
    }
    panic!("{what}: never cut off");
}

#[tokio::test]
async fn http2_floods_are_cut_off_and_delay_no_one() {
    const HEADERS: u8 = 1;
    const RESET: u8 = 3;
    const CONTINUATION: u8 = 9;
    let authority = Authority::new();
    authority.issue("server");
    let bench = daemon(authority.files(None)).await;
    let hostile = Client::new(&authority, rustls::ALL_VERSIONS).with_http2();
    // POST https / with authority x
    let head = [0x83, 0x87, 0x84, 0x41, 0x01, b'x'];
    flood(&bench, &hostile, "rapid reset", |stream| {
        [frame(HEADERS, 0x4, stream, &head), frame(RESET, 0, stream, &8u32.to_be_bytes())].concat()
    })
    .await;
    flood(&bench, &hostile, "streams without an end", |stream| frame(HEADERS, 0x4, stream, &head)).await;
    flood(&bench, &hostile, "headers without an end", |stream| {
        if stream == 1 { frame(HEADERS, 0, 1, &head) } else { frame(CONTINUATION, 0, 1, &[0x40, 1, b'a', 1, b'b']) }
    })
    .await;
    flood(&bench, &hostile, "empty data", |stream| {
        if stream == 1 { frame(HEADERS, 0x4, 1, &head) } else { frame(0, 0, 1, &[]) }
    })
    .await;
    let honest = Client::new(&authority, rustls::ALL_VERSIONS);
    assert_eq!(honest.post(&bench, &body("k", "1")).await.unwrap().status, 202);
}

#[tokio::test]
async fn unfinished_handshakes_and_idle_connections_are_closed() {
    let authority = Authority::new();
    authority.issue("server");
    let bench = daemon(authority.files(None)).await;
    let mut silent = Connection::open(bench.intake).await;
    let mut half = Connection::open(bench.intake).await;
    half.send(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).await;
    let mut idle = Client::new(&authority, rustls::ALL_VERSIONS).connect(&bench).await.unwrap();
    let client = Client::new(&authority, rustls::ALL_VERSIONS).with_http2();
    let (sender, connection) = http2::handshake::<_, _, Full<bytes::Bytes>>(
        TokioExecutor::new(),
        TokioIo::new(client.connect(&bench).await.unwrap()),
    )
    .await
    .unwrap();
    let http2_ends = tokio::spawn(connection);
    assert!(silent.ends().await && half.ends().await);
    assert_eq!(idle.read(&mut [0; 100]).await.unwrap_or(0), 0);
    let _ = http2_ends.await.unwrap();
    assert!(sender.is_closed());
}

/// (source, purpose, end of validity) of each certificate in use.
async fn ends(bench: &Bench) -> Vec<(String, String, String)> {
    let status = bench.status().await;
    let text = |v: &serde_json::Value| v.as_str().unwrap().to_owned();
    let all = status["certificates"].as_array().unwrap().iter();
    all.map(|c| (text(&c["of"]), text(&c["role"]), text(&c["ends_at"])[..10].to_owned())).collect()
}

#[tokio::test]
async fn the_expiry_of_each_certificate_in_use_is_shown() {
    let authority = Authority::new();
    authority.issue_until("server", 2091);
    authority.issue_until("client", 2033);
    let bench = Bench::with(None, Clock::system(), |s| {
        s.intake.tls = Some(authority.files(Some(authority.path("ca.pem"))));
        let mut crm = crate::harness::bench::destination("crm", "https://127.0.0.1:9/");
        crm.tls.ca = Some(authority.path("ca.pem"));
        crm.tls.identity = Some(Identity { cert: authority.path("client.pem"), key: authority.path("client.key") });
        s.destinations.push(crm);
    })
    .await;
    let of = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
    let found = ends(&bench).await;
    assert_eq!(
        (found.len(), &found[0], &found[2]),
        (4, &of("crm", "own", "2033-03-04"), &of("intake", "own", "2091-03-04"))
    );
    assert_eq!((found[1].1.as_str(), found[3].1.as_str()), ("authority", "authority"));
    let metrics = bench.admin("GET", "/metrics", b"").await.text();
    let line = metrics.lines().find(|l| l.starts_with("holdline_certificate_expiry_seconds{of=\"crm\",role=\"own\"}"));
    let seconds: f64 = line.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(seconds < 4_000_000_000.0, "{line:?}");
    authority.issue_until("server", 2044);
    wait_for("the one in force is told", async || {
        (ends(&bench).await[2] == of("intake", "own", "2044-03-04")).then_some(())
    })
    .await;
}
