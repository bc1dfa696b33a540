//! Authentication of senders: every kind of credential over HTTP; a request without a valid one causes no write and
//! does not learn the reason.

use crate::harness::bench::{Bench, Connection, body, message, source, wait_for};
use holdline::clock::Clock;
use holdline::config::settings::{Secret, Source, SourceAuth};
use holdline::rules::rate::Rate;
use holdline::signature::Scheme;
use holdline::time::Timestamp;
use http::HeaderName;
use std::num::NonZeroU32;
use std::time::Duration;

const JSON: (&str, &str) = ("Content-Type", "application/json");
/// When the requests of the vectors were signed.
const SIGNED_AT: Timestamp = Timestamp(1_749_589_385_000);
const GITHUB: (&str, &str) =
    ("X-Hub-Signature-256", "sha256=1447e70cfb3198a29c776b9fb2833cbc9f66640b7df5168992e099cf50e9b308");

/// The body of the vectors: the sample in compact form.
fn signed_body() -> Vec<u8> {
    let sample = include_str!("../../samples/15_om_outbound_text_2025.json");
    let mut quoted = false;
    let mut keep = |c: char| {
        quoted ^= c == '"';
        quoted || !c.is_whitespace()
    };
    assert!(!sample.contains('\\'));
    sample.chars().filter(|c| keep(*c)).collect::<String>().into_bytes()
}

/// A daemon with one source that requires authentication, `guarded`; the secrets are stored in its folder.
async fn guarded(
    rate_limit: Option<Rate>,
    auths: impl FnOnce(&dyn Fn(&str) -> Vec<Secret>) -> Vec<SourceAuth>,
) -> Bench {
    let secrets = tempfile::tempdir().unwrap();
    let secret = |value: &str| {
        let path = secrets.path().join(value);
        std::fs::write(&path, format!("{value}\n")).unwrap();
        vec![Secret::File(path)]
    };
    let auth = auths(&secret);
    Bench::with(None, Clock::manual(SIGNED_AT), |s| {
        s.sources.push(Source { auth, rate_limit, ..source("guarded", "auto") });
        s.intake.body_timeout = Duration::from_secs(5);
    })
    .await
}

#[tokio::test]
async fn i7_only_a_known_secret_is_accepted() {
    let bench = guarded(None, |secret| {
        vec![
            SourceAuth::Hmac { scheme: Scheme::preset("github").unwrap(), secrets: secret("whatever-secret-token") },
            SourceAuth::Bearer { tokens: secret("b") },
            SourceAuth::Basic { user: "u".to_owned(), passwords: secret("p") },
            SourceAuth::Header { name: HeaderName::from_static("x-api-key"), values: secret("h") },
            SourceAuth::Query { name: "token".to_owned(), values: secret("q") },
        ]
    })
    .await;
    let signed = signed_body();
    let reply = bench.post_as("guarded", &[JSON, GITHUB], &signed).await;
    assert_eq!((reply.status, reply.json()["status"].as_str()), (202, Some("queued")), "{}", reply.text());
    let good = [("Authorization", "Bearer b"), ("Authorization", "Basic dTpw"), ("X-Api-Key", "h")];
    for (n, header) in good.into_iter().enumerate() {
        assert_eq!(
            bench.post_as("guarded", &[JSON, header], &body("k", &n.to_string())).await.status,
            202,
            "{header:?}"
        );
    }
    assert_eq!(bench.post_as("guarded?token=q", &[JSON], &body("k", "q")).await.status, 202);
    assert_eq!(bench.count("/counters/accepted").await, 5);

    let other = [&signed[..], b" "].concat();
    let mut answers = std::collections::BTreeSet::new();
    type Sent<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [u8]);
    let bad: [Sent<'_>; 7] = [
        ("guarded", &[JSON], &signed),
        ("guarded", &[JSON, GITHUB], &other),
        ("guarded", &[JSON, ("X-Hub-Signature-256", "sha256=00")], &signed),
        ("guarded", &[JSON, ("Authorization", "Bearer x")], &signed),
        ("guarded", &[JSON, ("Authorization", "Basic dTp4")], &signed),
        ("guarded?token=x", &[JSON, ("X-Api-Key", "q")], &signed),
        ("guarded", &[JSON], b"not even JSON"),
    ];
    for (path, headers, body) in bad {
        let reply = bench.post_as(path, headers, body).await;
        assert_eq!((reply.status, reply.code().as_str()), (401, "unauthorized"), "{path} {headers:?}");
        answers.insert(reply.body);
    }
    assert_eq!(answers.len(), 1, "the answer never says what was wrong");
    assert_eq!(bench.count("/counters/accepted").await, 5);
}

#[tokio::test]
async fn i7_a_request_that_cannot_authenticate_is_refused_before_its_body() {
    let bench = guarded(None, |secret| {
        vec![SourceAuth::Hmac { scheme: Scheme::preset("zoom").unwrap(), secrets: secret("whatever-secret-token") }]
    })
    .await;
    let stale = [JSON, ("x-zm-signature", "v0=00"), ("x-zm-request-timestamp", "1749580000")];
    for headers in [&[JSON][..], &stale] {
        let mut connection = Connection::open(bench.intake).await;
        let whole = message("POST", "/in/guarded", headers, &[b' '; 100_000]);
        connection.send(&whole[..whole.len() - 100_000]).await;
        let reply = connection.reply().await.unwrap();
        assert_eq!((reply.status, reply.header("connection")), (401, Some("close")));
        assert!(connection.ends().await);
    }
}

#[tokio::test]
async fn an_intercepted_request_cannot_be_replayed_later() {
    let bench = guarded(None, |secret| {
        vec![SourceAuth::Hmac { scheme: Scheme::preset("zoom").unwrap(), secrets: secret("whatever-secret-token") }]
    })
    .await;
    let headers = [
        JSON,
        ("x-zm-signature", "v0=13e2e996b32d8144c927585043f33625edb28924f7a09211387950e5f1b209d8"),
        ("x-zm-request-timestamp", "1749589385"),
    ];
    assert_eq!(bench.post_as("guarded", &headers, &signed_body()).await.json()["status"], "queued");
    bench.clock.advance(Duration::from_secs(300));
    assert_eq!(bench.post_as("guarded", &headers, &signed_body()).await.json()["status"], "duplicate");
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(bench.post_as("guarded", &headers, &signed_body()).await.status, 401);
}

#[tokio::test]
async fn refusals_are_counted_and_do_not_use_the_rate() {
    let rate = Rate::new(NonZeroU32::MIN, Duration::from_secs(60));
    let bench = guarded(Some(rate), |secret| vec![SourceAuth::Bearer { tokens: secret("b") }]).await;
    for _ in 0..20 {
        assert_eq!(bench.post_as("guarded", &[JSON, ("Authorization", "Bearer x")], b"{}").await.status, 401);
    }
    assert_eq!(bench.post_as("guarded", &[JSON, ("Authorization", "Bearer b")], b"{}").await.status, 202);
    assert_eq!(bench.post_as("guarded", &[JSON, ("Authorization", "Bearer b")], b"{}").await.status, 429);
    wait_for("the refusals are counted", async || {
        let metrics = bench.admin("GET", "/metrics", b"").await.text();
        metrics.lines().any(|l| l.contains("unauthorized") && l.ends_with(" 20")).then_some(())
    })
    .await;
}
