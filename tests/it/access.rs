//! Who may ask the admin API for what: named tokens, the unix socket, and pages of other sites.

use crate::harness::{Bench, request};
use crate::receiver::{Receiver, status};
use holdline::cli::client::Admin;
use holdline::cli::reach::Place;
use holdline::clock::Clock;
use holdline::config::Secret;
use holdline::config::settings::{NamedToken, Scope};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;

async fn as_holder(bench: &Bench, token: &str, method: &str, path: &str, body: &[u8]) -> u16 {
    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
    request(bench.admin, method, path, &headers, body).await.status
}

#[tokio::test]
async fn a_named_token_opens_what_its_scopes_say() {
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
async fn over_the_unix_socket_its_owner_needs_no_token_and_the_file_goes_with_the_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    // a dead daemon left it behind
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let socket = path.clone();
    let mut bench = Bench::with(None, Clock::system(), |s| s.admin.sockets = vec![socket]).await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let client = |token: Option<&str>| {
        let admin = format!("unix:{}", path.display());
        Admin::at(Place { admin, token: token.map(str::to_owned), token_from: "nowhere".to_owned() })
    };
    assert_eq!(client(None).get("/v1/status").await.unwrap()["state"], json!("running"));
    assert_eq!(client(Some(&bench.token)).get("/v1/status").await.unwrap()["state"], json!("running"));
    assert_eq!(client(Some("wrong")).get("/v1/status").await.unwrap_err().code(), 1);
    bench.stop().await;
    assert!(!path.exists());
    assert_eq!(client(None).get("/v1/status").await.unwrap_err().code(), 3);
}

#[tokio::test]
async fn a_page_of_another_site_gets_nothing() {
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
