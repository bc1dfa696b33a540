//! What could not be accepted and is kept apart: never delivered, bounded, and let in once the configuration is mended.

use crate::harness::{Bench, body, source, wait_for};
use crate::receiver::{Receiver, status};
use holdline::clock::Clock;
use holdline::config::settings::{OnFault, Secret, Settings, Source, SourceAuth};
use holdline::signature::Scheme;
use serde_json::json;
use std::path::Path;
use std::time::Duration;

const JSON: (&str, &str) = ("Content-Type", "application/json");

fn signed_by(folder: &Path, secret: &str) -> Vec<SourceAuth> {
    let path = folder.join(format!("{secret}.secret"));
    std::fs::write(&path, secret).unwrap();
    let scheme = Scheme::preset("github").unwrap();
    vec![SourceAuth::Hmac { scheme, secrets: vec![Secret::File(path)] }]
}

/// Signs as GitHub does.
fn signature(secret: &str, body: &[u8]) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    let tag = ring::hmac::sign(&key, body);
    format!("sha256={}", tag.as_ref().iter().map(|b| format!("{b:02x}")).collect::<String>())
}

fn signed(secrets: &Path) -> impl FnOnce(&mut Settings) {
    let auth = signed_by(secrets, "old");
    move |s| {
        let (on_bad_signature, on_unparsable) = (OnFault::Quarantine, OnFault::Quarantine);
        s.sources.push(Source { auth, on_bad_signature, on_unparsable, ..source("signed", "auto") });
        s.quarantine.max_bytes = 64 * 1024;
    }
}

async fn kept(bench: &Bench) -> usize {
    bench.get("/v1/quarantine").await["items"].as_array().unwrap().len()
}

#[tokio::test]
async fn a_wrong_secret_costs_no_event() {
    let (secrets, receiver) = (tempfile::tempdir().unwrap(), Receiver::start(|_| status(200)).await);
    let clock = Clock::manual(crate::harness::START);
    let mut bench = Bench::with(receiver.to(), clock.clone(), signed(secrets.path())).await;
    let post = async |bench: &Bench, secret: &str, body: &[u8]| {
        bench.post_as("signed", &[JSON, ("X-Hub-Signature-256", &signature(secret, body))], body).await
    };
    for n in 0..3 {
        let reply = post(&bench, "new", &body("k", &n.to_string())).await;
        assert_eq!((reply.status, reply.json()), (202, json!({"status": "quarantined"})));
        clock.advance(Duration::from_secs(60));
    }
    assert_eq!(post(&bench, "new", &body("k", "1")).await.status, 202, "sent again, and kept once");
    assert_eq!(post(&bench, "old", &body("k", "old")).await.json()["status"], "queued");
    wait_for("the accepted one is delivered", async || (receiver.all().len() == 1).then_some(())).await;
    let items = bench.get("/v1/quarantine?limit=2").await;
    assert_eq!(items["items"][0]["cause"], "bad_signature");
    assert_eq!(items["items"][0]["received_at"], "2027-01-15T08:00:00.000Z");
    let rest = bench.get(&format!("/v1/quarantine?after={}", items["next"].as_str().unwrap())).await;
    assert_eq!((rest["items"].as_array().unwrap().len(), rest["next"].as_str()), (1, None));

    let verified = bench.change("/v1/quarantine/verify", json!({})).await;
    assert_eq!((verified["done"].as_u64(), verified["bad_signature"].as_u64()), (Some(0), Some(3)));

    bench.settings.sources[1].auth.extend(signed_by(secrets.path(), "new"));
    bench.restart().await;
    assert_eq!(bench.count("/counters/accepted").await, 1, "a restart lets nothing in by itself");
    let dry = bench.change("/v1/quarantine/verify", json!({"dry_run": true, "source": "signed"})).await;
    assert_eq!((dry["matched"].as_u64(), dry["done"].as_u64(), dry["events"].as_u64()), (Some(3), Some(0), Some(3)));
    assert_eq!(bench.change("/v1/quarantine/verify", json!({"source": "default"})).await["matched"], 0);
    let verified = bench.change("/v1/quarantine/verify", json!({})).await;
    assert_eq!((verified["done"].as_u64(), verified["events"].as_u64()), (Some(3), Some(3)));
    assert_eq!(kept(&bench).await, 0);
    wait_for("they are delivered", async || (receiver.all().len() == 4).then_some(())).await;
    let arrived: Vec<String> =
        receiver.all().iter().skip(1).map(|got| got.header("holdline-received-at").unwrap().to_owned()).collect();
    assert_eq!(arrived, ["2027-01-15T08:00:00.000Z", "2027-01-15T08:01:00.000Z", "2027-01-15T08:02:00.000Z"]);
    assert_eq!(post(&bench, "new", &body("k", "2")).await.json()["status"], "duplicate", "the sender's own retry");
    let audit = bench.get("/v1/audit").await;
    assert!(audit.to_string().contains("quarantine verify: 3 requests let in with 3 events"), "{audit}");
    bench.sound().await;
}

#[tokio::test]
async fn what_cannot_be_read_is_kept_and_tokens_are_not() {
    let secrets = tempfile::tempdir().unwrap();
    std::fs::write(secrets.path().join("token"), "s3cret").unwrap();
    let token = vec![Secret::File(secrets.path().join("token"))];
    let mut bench = Bench::with(None, Clock::system(), |s| {
        let auth = vec![SourceAuth::Query { name: "token".to_owned(), values: token }];
        let on_unparsable = OnFault::Quarantine;
        s.sources.push(Source { auth, on_unparsable, ..source("batches", "custom") });
        s.sources[1].pointers.split = Some("/wrong".to_owned());
        s.sources[1].pointers.id = Some(vec![vec!["/n".to_owned(), "query:x".to_owned()]]);
    })
    .await;
    let post = async |bench: &Bench, path: &str, body: &[u8]| bench.post_as(path, &[JSON], body).await;
    let batch = br#"{"events":[{"n":1},{"n":2}]}"#;
    assert_eq!(post(&bench, "batches?token=s3cret&x=7", batch).await.json()["status"], "quarantined");
    assert_eq!(post(&bench, "batches?token=wrong&x=7", batch).await.status, 401, "a wrong token is refused");
    assert_eq!(post(&bench, "batches?token=s3cret", b"{").await.json()["status"], "quarantined");
    let item = bench.get("/v1/quarantine").await["items"][0].clone();
    assert_eq!((item["cause"].as_str(), item["size"].as_u64()), (Some("unparsable"), Some(batch.len() as u64)));

    bench.settings.sources[1].pointers.split = Some("/events".to_owned());
    bench.restart().await;
    let verified = bench.change("/v1/quarantine/verify", json!({})).await;
    assert_eq!((verified["done"].as_u64(), verified["events"].as_u64()), (Some(1), Some(2)));
    assert_eq!(verified["unparsable"], 1, "what is no JSON stays");
    assert_eq!(post(&bench, "batches?token=s3cret&x=7", batch).await.json()["duplicates"], 2);
    bench.settings.sources.pop();
    bench.restart().await;
    assert_eq!(bench.change("/v1/quarantine/verify", json!({})).await["source_gone"], 1);
    bench.stop().await;
    let everything = std::fs::read(bench.folder.path().join("queue/db")).unwrap();
    assert!(!everything.windows(6).any(|w| w == b"s3cret"), "a token is in the store");
}

#[tokio::test]
async fn what_is_kept_is_bounded_in_bytes_and_age() {
    let secrets = tempfile::tempdir().unwrap();
    let clock = Clock::manual(crate::harness::START);
    let bench = Bench::with(None, clock.clone(), signed(secrets.path())).await;
    let mut statuses = Vec::new();
    for n in 0..10 {
        let body = format!("{{\"n\":{n},\"x\":\"{}\"}}", "x".repeat(10_000));
        statuses.push(bench.post_as("signed", &[JSON], body.as_bytes()).await.status);
    }
    assert_eq!(statuses, [202, 202, 202, 202, 202, 202, 401, 401, 401, 401], "beyond its bound it refuses again");
    assert_eq!(kept(&bench).await, 6);
    clock.advance(bench.settings.quarantine.retention + Duration::from_secs(1));
    wait_for("they are given up", async || (kept(&bench).await == 0).then_some(())).await;
    let audit = bench.get("/v1/audit").await["items"][0].clone();
    assert_eq!((audit["who"].as_str(), audit["count"].as_u64()), (Some("retention"), Some(6)));
    assert_eq!(bench.post_as("signed", &[JSON], b"{}").await.status, 202, "there is room again");
}

#[tokio::test]
async fn nothing_is_kept_where_it_is_not_wished() {
    let secrets = tempfile::tempdir().unwrap();
    let auth = signed_by(secrets.path(), "old");
    let bench =
        Bench::with(None, Clock::system(), |s| s.sources.push(Source { auth, ..source("signed", "auto") })).await;
    assert_eq!(bench.post_as("signed", &[JSON], b"{}").await.status, 401);
    assert_eq!(bench.post(b"{").await.status, 400);
    assert_eq!(kept(&bench).await, 0);
}
