//! Quarantined requests: they could not be accepted, are never delivered, are limited in number, and are readmitted
//! once the configuration is repaired.

use crate::harness::bench::{Bench, body, request, source, wait_for};
use crate::harness::process::Process;
use crate::harness::receiver::{Receiver, status};
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
        let (on_bad_signature, on_invalid_body) = (OnFault::Quarantine, OnFault::Quarantine);
        s.sources.push(Source { auth, on_bad_signature, on_invalid_body, ..source("signed", "auto") });
        s.quarantine.max_bytes = 64 * 1024;
    }
}

async fn kept(bench: &Bench) -> usize {
    bench.get("/v1/quarantine").await["items"].as_array().unwrap().len()
}

#[tokio::test]
async fn a_wrong_secret_costs_no_event() {
    let (secrets, receiver) = (tempfile::tempdir().unwrap(), Receiver::start(|_| status(200)).await);
    let clock = Clock::manual(crate::harness::bench::START);
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

    let verified = bench.change("/v1/quarantine/readmit", json!({})).await;
    assert_eq!((verified["done"].as_u64(), verified["bad_signature"].as_u64()), (Some(0), Some(3)));

    bench.settings.sources[1].auth.extend(signed_by(secrets.path(), "new"));
    bench.restart().await;
    assert_eq!(bench.count("/counters/accepted").await, 1, "a restart lets nothing in by itself");
    let dry = bench.change("/v1/quarantine/readmit", json!({"dry_run": true, "source": "signed"})).await;
    assert_eq!((dry["matched"].as_u64(), dry["done"].as_u64(), dry["events"].as_u64()), (Some(3), Some(0), Some(3)));
    assert_eq!(bench.change("/v1/quarantine/readmit", json!({"source": "default"})).await["matched"], 0);
    let verified = bench.change("/v1/quarantine/readmit", json!({})).await;
    assert_eq!((verified["done"].as_u64(), verified["events"].as_u64()), (Some(3), Some(3)));
    assert_eq!(kept(&bench).await, 0);
    wait_for("they are delivered", async || (receiver.all().len() == 4).then_some(())).await;
    let arrived: Vec<String> =
        receiver.all().iter().skip(1).map(|got| got.header("holdline-received-at").unwrap().to_owned()).collect();
    assert_eq!(arrived, ["2027-01-15T08:00:00.000Z", "2027-01-15T08:01:00.000Z", "2027-01-15T08:02:00.000Z"]);
    assert_eq!(post(&bench, "new", &body("k", "2")).await.json()["status"], "duplicate", "the sender's own retry");
    let audit = bench.get("/v1/audit").await;
    assert!(audit.to_string().contains("quarantine readmit: 3 requests let in with 3 events"), "{audit}");
    bench.sound().await;
}

#[tokio::test]
async fn unreadable_requests_are_kept_without_their_tokens() {
    let secrets = tempfile::tempdir().unwrap();
    std::fs::write(secrets.path().join("token"), "s3cret").unwrap();
    let token = vec![Secret::File(secrets.path().join("token"))];
    let mut bench = Bench::with(None, Clock::system(), |s| {
        let auth = vec![SourceAuth::Query { name: "token".to_owned(), values: token }];
        let on_invalid_body = OnFault::Quarantine;
        s.sources.push(Source { auth, on_invalid_body, ..source("batches", "custom") });
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
    assert_eq!((item["cause"].as_str(), item["size"].as_u64()), (Some("invalid_body"), Some(batch.len() as u64)));

    bench.settings.sources[1].pointers.split = Some("/events".to_owned());
    bench.restart().await;
    let verified = bench.change("/v1/quarantine/readmit", json!({})).await;
    assert_eq!((verified["done"].as_u64(), verified["events"].as_u64()), (Some(1), Some(2)));
    assert_eq!(verified["invalid_body"], 1, "what is no JSON stays");
    assert_eq!(post(&bench, "batches?token=s3cret&x=7", batch).await.json()["duplicates"], 2);
    bench.settings.sources.pop();
    bench.restart().await;
    assert_eq!(bench.change("/v1/quarantine/readmit", json!({})).await["source_gone"], 1);
    bench.stop().await;
    let everything = std::fs::read(bench.folder.path().join("queue/db")).unwrap();
    assert!(!everything.windows(6).any(|w| w == b"s3cret"), "a token is in the store");
}

#[tokio::test]
async fn the_quarantine_is_bounded_in_bytes_and_age() {
    let secrets = tempfile::tempdir().unwrap();
    let clock = Clock::manual(crate::harness::bench::START);
    let bench = Bench::with(None, clock.clone(), signed(secrets.path())).await;
    let mut statuses = Vec::new();
    for n in 0..10 {
        let body = format!("{{\"n\":{n},\"x\":\"{}\"}}", "x".repeat(10_000));
        statuses.push(bench.post_as("signed", &[JSON], body.as_bytes()).await.status);
    }
    assert_eq!(statuses, [202, 202, 202, 202, 401, 401, 401, 401, 401, 401], "beyond its bound it refuses again");
    assert_eq!(kept(&bench).await, 4);
    clock.advance(bench.settings.quarantine.retention + Duration::from_secs(1));
    wait_for("they are given up", async || (kept(&bench).await == 0).then_some(())).await;
    let audit = bench.get("/v1/audit").await["items"][0].clone();
    assert_eq!((audit["who"].as_str(), audit["count"].as_u64()), (Some("retention"), Some(4)));
    assert_eq!(bench.post_as("signed", &[JSON], b"{}").await.status, 202, "there is room again");
}

#[tokio::test]
async fn nothing_is_quarantined_unless_configured() {
    let secrets = tempfile::tempdir().unwrap();
    let auth = signed_by(secrets.path(), "old");
    let bench =
        Bench::with(None, Clock::system(), |s| s.sources.push(Source { auth, ..source("signed", "auto") })).await;
    assert_eq!(bench.post_as("signed", &[JSON], b"{}").await.status, 401);
    assert_eq!(bench.post(b"{").await.status, 400);
    assert_eq!(kept(&bench).await, 0);
}

/// An event in binary mode: everything but its data is in headers.
fn cloud_event(id: &str) -> [(&str, &str); 5] {
    [JSON, ("ce-id", id), ("ce-source", "s"), ("ce-specversion", "1.0"), ("ce-type", "t")]
}

#[tokio::test]
async fn requests_with_one_body_are_distinguished_by_their_headers() {
    let (secrets, receiver) = (tempfile::tempdir().unwrap(), Receiver::start(|_| status(200)).await);
    let mut bench = Bench::with(receiver.to(), Clock::manual(crate::harness::bench::START), |s| {
        let (auth, on_bad_signature) = (signed_by(secrets.path(), "old"), OnFault::Quarantine);
        s.sources.push(Source { auth, on_bad_signature, ..source("signed", "cloudevents") });
        s.sources[1].trust_unsigned = Some(vec!["header:ce-id".to_owned(), "header:ce-source".to_owned()]);
        s.sources.push(Source { on_invalid_body: OnFault::Quarantine, ..source("unreadable", "cloudevents") });
        s.sources[2].pointers.split = Some("/wrong".to_owned());
    })
    .await;
    let body = br#"{"n":1}"#;
    let signature = signature("new", body);
    let post = async |bench: &Bench, source: &str, id: &str, more: (&str, &str)| {
        let headers: Vec<_> =
            cloud_event(id).into_iter().chain([("X-Hub-Signature-256", signature.as_str()), more]).collect();
        bench.post_as(source, &headers, body).await.json()["status"].as_str().unwrap().to_owned()
    };
    for id in ["1", "2", "3", "3"] {
        for source in ["signed", "unreadable"] {
            let traced = ("traceparent", if source == "signed" { "00-1" } else { "00-2" });
            assert_eq!(post(&bench, source, id, traced).await, "quarantined");
        }
    }
    assert_eq!(post(&bench, "unreadable?call=7", "3", ("via", "proxy")).await, "quarantined", "another query");
    assert_eq!(kept(&bench).await, 7);
    bench.crash();
    bench.settings.sources[1].auth.extend(signed_by(secrets.path(), "new"));
    bench.settings.sources[2].pointers.split = None;
    bench.open().await;
    assert_eq!(post(&bench, "signed", "1", ("via", "proxy")).await, "queued", "its sender has sent it again");
    let verified = bench.change("/v1/quarantine/readmit", json!({})).await;
    assert_eq!((verified["done"].as_u64(), verified["events"].as_u64()), (Some(7), Some(7)), "{verified}");
    bench.reaches("/counters/delivered", 6).await;
    assert_eq!(bench.count("/counters/duplicates").await, 2);
    bench.sound().await;
}

#[tokio::test]
async fn an_earlier_forged_request_hides_no_genuine_one() {
    let secrets = tempfile::tempdir().unwrap();
    let mut bench = Bench::with(None, Clock::system(), signed(secrets.path())).await;
    let body = body("k", "1");
    let (forged, honest) = (signature("guess", &body), signature("new", &body));
    for signature in [&forged, &honest, &forged] {
        let reply = bench.post_as("signed", &[JSON, ("X-Hub-Signature-256", signature)], &body).await;
        assert_eq!(reply.json()["status"], "quarantined");
    }
    assert_eq!(bench.post_as("signed", &[JSON], &body).await.json()["status"], "quarantined", "without any");
    assert_eq!(kept(&bench).await, 3);
    bench.settings.sources[1].auth.extend(signed_by(secrets.path(), "new"));
    bench.restart().await;
    let verified = bench.change("/v1/quarantine/readmit", json!({})).await;
    assert_eq!((verified["done"].as_u64(), verified["bad_signature"].as_u64()), (Some(1), Some(2)));
}

#[tokio::test]
async fn an_unauthenticated_request_is_readmitted_only_by_an_operator() {
    let secrets = tempfile::tempdir().unwrap();
    std::fs::write(secrets.path().join("token"), "s3cret").unwrap();
    let token = || vec![SourceAuth::Bearer { tokens: vec![Secret::File(secrets.path().join("token"))] }];
    let mut bench = Bench::with(None, Clock::system(), |s| {
        s.sources.push(Source { on_invalid_body: OnFault::Quarantine, ..source("late", "custom") });
        s.sources[1].pointers.split = Some("/wrong".to_owned());
    })
    .await;
    let batch = br#"{"events":[{"n":1}]}"#;
    let signed = [("X-Hub-Signature-256", signature("new", batch))];
    let quarantined = async |bench: &Bench, headers: &[(&str, &str)]| {
        assert_eq!(bench.post_as("late", headers, batch).await.json()["status"], "quarantined");
    };
    quarantined(&bench, &[JSON]).await;
    quarantined(&bench, &[JSON, ("Authorization", "Bearer s3cret"), ("X-N", "2")]).await;
    bench.settings.sources[1].auth = token();
    bench.restart().await;
    quarantined(&bench, &[JSON, ("Authorization", "Bearer s3cret")]).await;
    assert_eq!(bench.post_as("late", &[JSON], batch).await.status, 401);
    assert_eq!(kept(&bench).await, 3, "what proves who it is is another request than what does not");

    bench.settings.sources[1].pointers.split = Some("/events".to_owned());
    bench.restart().await;
    let verified = bench.change("/v1/quarantine/readmit", json!({})).await;
    assert_eq!((verified["done"].as_u64(), verified["unproven"].as_u64()), (Some(1), Some(2)), "{verified}");
    let everybody = bench.admin("POST", "/v1/quarantine/readmit", br#"{"accept_unproven":true}"#).await;
    assert_eq!(everybody.status, 400, "{}", everybody.text());
    bench.settings.sources[1].auth = signed_by(secrets.path(), "new");
    bench.restart().await;
    let dry = json!({"source": "late", "dry_run": true, "accept_unproven": true});
    let dry = bench.change("/v1/quarantine/readmit", dry).await;
    assert_eq!((dry["events"].as_u64(), dry["unproven"].as_u64()), (Some(2), Some(0)));
    let accepted = bench.change("/v1/quarantine/readmit", json!({"source": "late", "accept_unproven": true})).await;
    assert_eq!(accepted["done"], 2);
    let audit = bench.get("/v1/audit").await.to_string();
    assert!(audit.contains("2 requests let in with 2 events, without proof where they had none"), "{audit}");

    // a stored signature can be verified later; a request whose signature does not verify is never readmitted
    bench.settings.sources[1].auth = Vec::new();
    bench.settings.sources[1].pointers.split = Some("/wrong".to_owned());
    bench.restart().await;
    quarantined(&bench, &[("X-Hub-Signature-256", signed[0].1.as_str())]).await;
    bench.settings.sources[1].auth = signed_by(secrets.path(), "new");
    bench.settings.sources[1].on_bad_signature = OnFault::Quarantine;
    bench.settings.sources[1].pointers.split = Some("/events".to_owned());
    bench.restart().await;
    quarantined(&bench, &[("X-Hub-Signature-256", "sha256=00")]).await;
    let accepted = bench.change("/v1/quarantine/readmit", json!({"source": "late", "accept_unproven": true})).await;
    assert_eq!((accepted["done"].as_u64(), accepted["bad_signature"].as_u64()), (Some(1), Some(1)), "{accepted}");
}

#[tokio::test]
async fn a_request_keeps_its_signature_scheme_after_its_secret_is_gone() {
    let secrets = tempfile::tempdir().unwrap();
    let mut bench = Bench::with(None, Clock::system(), signed(secrets.path())).await;
    bench.settings.sources[1].pointers.split = Some("/wrong".to_owned());
    bench.restart().await;
    let body = br#"{"events":[{"n":1},{"n":1}]}"#;
    let signature = signature("old", body);
    for id in ["1", "2"] {
        let headers = [JSON, ("X-Hub-Signature-256", signature.as_str()), ("ce-id", id)];
        assert_eq!(bench.post_as("signed", &headers, body).await.json()["status"], "quarantined");
    }
    bench.settings.sources[1].pointers.split = Some("/events".to_owned());
    bench.settings.sources[1].auth = signed_by(secrets.path(), "new");
    bench.restart().await;
    let verified = bench.change("/v1/quarantine/readmit", json!({})).await;
    assert_eq!((verified["done"].as_u64(), verified["events"].as_u64()), (Some(2), Some(4)), "{verified}");
    assert_eq!(
        bench.count("/counters/accepted").await,
        2,
        "the signed bytes are the same, so these are the same events"
    );
}

#[tokio::test]
async fn unverified_requests_and_sources_fill_only_their_share() {
    let secrets = tempfile::tempdir().unwrap();
    std::fs::write(secrets.path().join("token"), "s3cret").unwrap();
    let token = Secret::File(secrets.path().join("token"));
    let bench = Bench::with(None, Clock::system(), |s| {
        let (on_bad_signature, on_invalid_body) = (OnFault::Quarantine, OnFault::Quarantine);
        let mut auth = signed_by(secrets.path(), "old");
        auth.push(SourceAuth::Bearer { tokens: vec![token] });
        let signed = Source { auth, on_bad_signature, on_invalid_body, ..source("a", "auto") };
        s.sources.push(Source { name: "b".to_owned(), ..signed.clone() });
        s.sources.push(signed);
        s.quarantine.max_bytes = 200 * 1024;
        s.quarantine.unverified_share = 0.2;
    })
    .await;
    let fill = async |source: &str, headers: &[(&str, &str)], lead: &str| {
        let mut taken = 0;
        for n in 0..40 {
            let body = format!("{lead}{n} {}", "x".repeat(10_000));
            let reply = bench.post_as(source, headers, body.as_bytes()).await;
            match reply.status {
                202 => taken += 1,
                400 | 401 => {}
                other => panic!("{other}"),
            }
        }
        taken
    };
    let known = [("Authorization", "Bearer s3cret")];
    assert_eq!(fill("a", &[JSON], "stranger").await, 4, "a fifth of it");
    assert_eq!(fill("b", &[JSON], "stranger").await, 0, "of all sources together");
    assert_eq!(fill("a", &known, "{").await, 6, "half of it, with what strangers sent there");
    assert_eq!(fill("b", &known, "{").await, 10);
    assert_eq!(kept(&bench).await, 20, "every 202 is there");
}

#[tokio::test]
async fn no_credential_is_stored_and_signatures_are() {
    const CANARY: &str = "canary-92eb5ffee6ae2fec3ad71c777531578f";
    let secrets = tempfile::tempdir().unwrap();
    let mut bench = Bench::with(None, Clock::system(), |s| {
        let (on_bad_signature, on_invalid_body) = (OnFault::Quarantine, OnFault::Quarantine);
        let auth = signed_by(secrets.path(), "old");
        s.sources.push(Source { auth, on_bad_signature, on_invalid_body, ..source("signed", "cloudevents") });
        s.sources.push(Source { on_invalid_body, ..source("open", "auto") });
    })
    .await;
    let body = br#"{"n":1}"#;
    let signature = signature("new", body);
    let mut headers = vec![JSON, ("X-Hub-Signature-256", signature.as_str()), ("ce-partitionkey", "kept-7")];
    for name in [
        "Authorization",
        "Proxy-Authorization",
        "Cookie",
        "X-Api-Key",
        "X-Auth-Token",
        "X-Gitlab-Token",
        "Ocp-Apim-Subscription-Key",
        "X-Amz-Security-Token",
        "X-Client-Secret",
        "X-Functions-Key",
    ] {
        headers.push((name, CANARY));
    }
    let query =
        format!("?token={CANARY}&code={CANARY}&api_key={CANARY}&access_token={CANARY}&sig={CANARY}&call=kept-8");
    assert_eq!(bench.post_as(&format!("open{query}"), &headers, b"{").await.json()["status"], "quarantined");
    let query = query.replace("sig=", "password=");
    assert_eq!(bench.post_as(&format!("signed{query}"), &headers, body).await.json()["status"], "quarantined");
    bench.stop().await;
    let everything = std::fs::read(bench.folder.path().join("queue/db")).unwrap();
    let holds = |text: &str| everything.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(!holds(CANARY), "a credential is in the store");
    assert!(holds("kept-7") && holds("kept-8"));
    bench.settings.sources[1].auth = signed_by(secrets.path(), "new");
    bench.open().await;
    assert_eq!(bench.change("/v1/quarantine/readmit", json!({"source": "signed"})).await["done"], 1);
}

#[tokio::test]
async fn quarantined_requests_survive_a_kill_and_are_logged_sparingly() {
    let secrets = tempfile::tempdir().unwrap();
    std::fs::write(secrets.path().join("s"), "old").unwrap();
    let extra = format!(
        "[[source]]\nname = \"signed\"\non_bad_signature = \"quarantine\"\n\
         auth = {{ kind = \"hmac\", preset = \"github\", secrets = [{{ file = {:?} }}] }}\n\
         [quarantine]\nmax_bytes = \"64KiB\"\nunverified_share = 1.0\n",
        secrets.path().join("s")
    );
    let mut process = Process::start("http://127.0.0.1:9/", &extra).await;
    let mut taken = 0;
    for n in 0..100 {
        let body = format!("{{\"n\":{n},\"x\":\"{}\"}}", "x".repeat(1000));
        let reply = request(process.intake, "POST", "/in/signed", &[JSON], body.as_bytes()).await;
        assert!(reply.status == 401 || reply.json()["status"] == "quarantined", "{}", reply.text());
        taken += usize::from(reply.status == 202);
    }
    assert!((40..70).contains(&taken), "{taken}");
    process.kill().await;
    process.open().await;
    let listed = process.run(&["quarantine", "list", "--json", "--limit", "1000"]).await;
    assert_eq!(listed.out.matches("bad_signature").count(), taken, "{}", listed.out);
    let log = process.log();
    assert_eq!(log.matches("requests are kept apart").count(), 1, "{log}");
    assert_eq!(log.matches("the quarantine is full").count(), 1, "{log}");
}
