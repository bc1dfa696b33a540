//! Access to the admin API: named tokens, the unix socket, and requests from pages of other sites.

use crate::harness::bench::{Bench, Connection, START, message, request, wait_for};
use crate::harness::receiver::{Receiver, status};
use holdline::cli::admin_connection::DaemonAddress;
use holdline::cli::client::Admin;
use holdline::clock::Clock;
use holdline::config::Secret;
use holdline::config::settings::{NamedToken, Scope};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::pin::pin;
use std::time::Duration;

async fn as_holder(bench: &Bench, token: &str, method: &str, path: &str, body: &[u8]) -> u16 {
    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
    request(bench.admin, method, path, &headers, body).await.status
}

#[tokio::test]
async fn a_named_token_allows_what_its_scopes_say() {
    let secrets = tempfile::tempdir().unwrap();
    let token = |name: &str, scopes: &[Scope]| {
        let path = secrets.path().join(name);
        std::fs::write(&path, format!("secret-of-{name}\n")).unwrap();
        NamedToken { name: name.to_owned(), token: Secret::File(path), scopes: scopes.to_vec() }
    };
    let receiver = Receiver::start(|_| status(400)).await;
    let bench = Bench::with(receiver.to(), Clock::system(), |s| {
        s.admin.tokens = vec![
            token("reader", &[Scope::Read]),
            token("operator", &[Scope::Operate]),
            token("revealer", &[Scope::Read, Scope::Reveal]),
        ];
    })
    .await;
    let id = bench.accept("k", "1").await;
    bench.becomes(&id, "dead").await;
    let purge = json!({"ids": [id], "dry_run": true}).to_string();
    let body = format!("/v1/dlq/{id}/body");
    for (holder, read, operate, reveal) in
        [("reader", 200, 403, 403), ("operator", 200, 200, 403), ("revealer", 200, 403, 200), ("nobody", 401, 401, 401)]
    {
        let token = format!("secret-of-{holder}");
        let got = (
            as_holder(&bench, &token, "GET", "/v1/status", b"").await,
            as_holder(&bench, &token, "POST", "/v1/dlq/purge", purge.as_bytes()).await,
            as_holder(&bench, &token, "GET", &body, b"").await,
        );
        assert_eq!(got, (read, operate, reveal), "{holder}");
    }
}

#[tokio::test]
async fn the_socket_owner_needs_no_token_and_the_file_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    // a socket file left by a dead daemon
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let socket = path.clone();
    let mut bench = Bench::with(None, Clock::system(), |s| s.admin.sockets = vec![socket]).await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let client = |token: Option<&str>| {
        let admin = format!("unix:{}", path.display());
        Admin::at(DaemonAddress { admin, token: token.map(str::to_owned), token_from: "nowhere".to_owned() })
    };
    assert_eq!(client(None).get::<serde_json::Value>("/v1/status").await.unwrap()["state"], json!("running"));
    assert_eq!(
        client(Some(&bench.token)).get::<serde_json::Value>("/v1/status").await.unwrap()["state"],
        json!("running")
    );
    assert_eq!(client(Some("wrong")).get::<serde_json::Value>("/v1/status").await.unwrap_err().code(), 1);
    bench.stop().await;
    assert!(!path.exists());
    assert_eq!(client(None).get::<serde_json::Value>("/v1/status").await.unwrap_err().code(), 3);
}

#[tokio::test]
async fn a_page_of_another_site_is_refused() {
    let bench = Bench::start(None).await;
    let bearer = format!("Bearer {}", bench.token);
    for (header, value, wanted) in [
        ("Origin", "http://evil.example", 403),
        ("Origin", "null", 403),
        ("Origin", "http://localhost", 200),
        ("X-Other", "x", 200),
    ] {
        for path in ["/v1/status", "/healthz"] {
            let headers = [("Authorization", bearer.as_str()), (header, value)];
            let reply = request(bench.admin, "GET", path, &headers, b"").await;
            assert_eq!(reply.status, wanted, "{header}: {value} {path}");
        }
    }
}

/// The audit log as (caller, action, number), newest first.
async fn audit(bench: &Bench) -> Vec<(String, String, u64)> {
    let audit = bench.get("/v1/audit").await;
    let text = |v: &serde_json::Value| v.as_str().unwrap().to_owned();
    let items = audit["items"].as_array().unwrap().iter();
    items.map(|i| (text(&i["who"]), text(&i["what"]), i["count"].as_u64().unwrap())).collect()
}

fn entry(who: &str, what: &str, count: u64) -> (String, String, u64) {
    (who.to_owned(), what.to_owned(), count)
}

/// The number of commits so far.
async fn commits(bench: &Bench) -> u64 {
    let metrics = bench.admin("GET", "/metrics", b"").await.text();
    let line = metrics.lines().find_map(|l| l.strip_prefix("holdline_commit_seconds_count ")).unwrap().to_owned();
    line.parse().unwrap()
}

#[tokio::test]
async fn refused_requests_share_entries_and_cause_no_writes() {
    let secrets = tempfile::tempdir().unwrap();
    let path = secrets.path().join("reader");
    std::fs::write(&path, "secret-of-reader\n").unwrap();
    let reader = NamedToken { name: "reader".to_owned(), token: Secret::File(path), scopes: vec![Scope::Read] };
    let mut bench = Bench::with(None, Clock::manual(START), |s| s.admin.tokens = vec![reader]).await;
    assert_eq!(request(bench.admin, "GET", "/v1/status", &[], b"").await.status, 401);
    let before = commits(&bench).await;
    for _ in 0..5 {
        assert_eq!(as_holder(&bench, "wrong", "GET", "/v1/status", b"").await, 401);
    }
    for n in 0..100 {
        assert_eq!(request(bench.admin, "GET", &format!("/v1/events/{n}"), &[], b"").await.status, 401);
        let discard = format!("/v1/events/{n}?reason=r{n}");
        assert_eq!(as_holder(&bench, "secret-of-reader", "DELETE", &discard, b"").await, 403);
        let foreign = [("Origin", "http://evil.example")];
        assert_eq!(request(bench.admin, "GET", "/healthz", &foreign, b"").await.status, 403);
    }
    assert!(commits(&bench).await <= before + 2, "the clock stands, so nothing of this is written");
    let entries = [
        entry("unauthenticated", "refused, wrong token: 127.0.0.1", 5),
        entry("unauthenticated", "refused, no token: 127.0.0.1", 101),
        entry("unauthenticated", "refused, from another site: 127.0.0.1", 100),
        entry("reader", "refused, outside its scopes: DELETE /v1/events", 100),
    ];
    let found = audit(&bench).await;
    assert_eq!(found.len(), 4, "{found:?}");
    assert!(entries.iter().all(|entry| found.contains(entry)), "{found:?}");
    let since = bench.get("/v1/audit").await["items"][0]["since"].as_str().map(str::to_owned);
    assert_eq!(since, Some(START.to_string()));
    assert_eq!(request(bench.admin, "GET", "/v1/status", &[], b"").await.status, 401);
    bench.restart().await;
    assert!(audit(&bench).await.contains(&entry("unauthenticated", "refused, no token: 127.0.0.1", 102)), "it is kept");
    bench.sound().await;
}

#[tokio::test]
async fn only_repeated_wrong_tokens_are_delayed_and_never_a_good_one() {
    let bench = Bench::with(None, Clock::manual(START), |_| {}).await;
    for _ in 0..5 {
        assert_eq!(as_holder(&bench, "wrong", "GET", "/v1/status", b"").await, 401);
    }
    let mut sixth = Connection::open(bench.admin).await;
    sixth.send(&message("GET", "/v1/status", &[("Authorization", "Bearer wrong")], b"")).await;
    let counted = entry("unauthenticated", "refused, wrong token: 127.0.0.1", 6);
    wait_for("it is counted", async || audit(&bench).await.contains(&counted).then_some(())).await;
    assert_eq!(request(bench.admin, "GET", "/v1/status", &[], b"").await.status, 401, "no guess, no wait");
    assert_eq!(bench.status().await["state"], json!("running"), "a good token does not wait");
    {
        let mut waiting = pin!(sixth.reply());
        let held = std::future::poll_fn(|cx| std::task::Poll::Ready(waiting.as_mut().poll(cx).is_pending())).await;
        assert!(held, "its refusal is held back");
        bench.clock.advance(Duration::from_millis(100));
        assert_eq!(waiting.await.unwrap().status, 401);
    }
}

#[tokio::test]
async fn reading_bodies_is_audited_before_they_are_sent() {
    let receiver = Receiver::start(|_| status(400)).await;
    let bench = Bench::with(receiver.to(), Clock::manual(START), |_| {}).await;
    let (one, two) = (bench.accept("k", "1").await, bench.accept("l", "2").await);
    bench.becomes(&one, "dead").await;
    bench.becomes(&two, "dead").await;
    for path in [
        format!("/v1/events/{one}/body"),
        format!("/v1/dlq/{two}/body"),
        format!("/v1/events/{one}/body"),
        "/v1/events/default:2/body".to_owned(),
        "/v1/dlq/export".to_owned(),
        "/v1/destinations/default/pending".to_owned(),
    ] {
        assert_eq!(bench.admin("GET", &path, b"").await.status, 200, "{path}");
    }
    assert_eq!(bench.admin("GET", "/v1/events/default:none/body", b"").await.status, 404);
    let wanted = [
        entry("admin", "exported what waits, with bodies: default", 1),
        entry("admin", "exported dead letters, with bodies", 1),
        entry("admin", &format!("read bodies: {one}, {two}, default:*"), 4),
    ];
    assert_eq!(audit(&bench).await, wanted);
    bench.clock.advance(Duration::from_secs(3600));
    assert_eq!(bench.admin("GET", &format!("/v1/events/{one}/body"), b"").await.status, 200);
    assert_eq!(
        audit(&bench).await[0],
        entry("admin", &format!("read bodies: {one}"), 1),
        "another hour, another entry"
    );
}

#[tokio::test]
async fn changes_without_effect_evict_no_audit_entry() {
    let bench = Bench::with(None, Clock::manual(START), |_| {}).await;
    for n in 0..20 {
        bench.change("/v1/dlq/purge", json!({"filter": {"type": "none"}})).await;
        bench.change("/v1/intake/open", json!({})).await;
        bench.change("/v1/destinations/default/resume", json!({})).await;
        bench.change("/v1/destinations/default/pause", json!({"reason": "move"})).await;
        bench.change("/v1/destinations/default/pause", json!({"reason": "move"})).await;
        bench.change("/v1/interactions/nobody/erase", json!({"reason": format!("ticket {n}")})).await;
    }
    let found = audit(&bench).await;
    let (nothing, changed): (Vec<_>, Vec<_>) = found.into_iter().partition(|(_, what, _)| what.starts_with("changed"));
    assert_eq!(changed.len(), 20 + 19, "{changed:?}: each pause, and each resumption but the first");
    assert_eq!(nothing.len(), 1, "{nothing:?}");
    assert!(nothing[0].1.contains("intake open") && nothing[0].1.ends_with(" and others"), "{nothing:?}");
}
