//! URLs in output, files on disk and terminal output: they contain no secret, no other user can read the files, and
//! no control character reaches a terminal.

use crate::harness::authority::{Authority, TlsFront, Until};
use crate::harness::bench::Bench;
use crate::harness::process::{Process, run, run_with_umask};
use crate::harness::receiver::{Receiver, status};
use holdline::config::Secret;
use holdline::config::settings::Url;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Everything that the admin API shows with the scope `read`, and without a token.
async fn shown(bench: &Bench, event: &str) -> String {
    let mut all = String::new();
    for path in [
        "/v1/status",
        "/v1/destinations",
        "/v1/destinations/default",
        &format!("/v1/events/{event}"),
        "/v1/events",
        "/v1/dlq",
        "/v1/audit",
        "/v1/outages",
        "/v1/damaged",
        "/metrics",
        "/openapi.json",
        "/",
    ] {
        all.push_str(&bench.admin("GET", path, b"").await.text());
    }
    all
}

#[tokio::test]
async fn a_url_is_called_in_full_and_shown_without_query_values() {
    let receiver = Receiver::start(|_| status(400)).await;
    let url = format!("http://{}/api/f?code=S3CRET==&S3CRET", receiver.addr);
    let mut bench = Bench::start(Some(url)).await;
    let event = bench.accept("k", "1").await;
    bench.becomes(&event, "dead").await;
    assert_eq!(receiver.all()[0].line.trim(), "POST /api/f?code=S3CRET==&S3CRET HTTP/1.1");
    let url = json!(format!("http://{}/api/f?code=***&***", receiver.addr));
    assert_eq!(bench.status().await["destinations"][0]["url"], url);
    assert!(!shown(&bench, &event).await.contains("S3CRET"));
    assert!(!format!("{:?}", bench.settings).contains("S3CRET"));
    bench.reload(|s| s.destinations[0].url = Some("http://127.0.0.1:9/x?code=S3CRET".parse().unwrap())).await.unwrap();
    let unreachable = bench.accept("k", "2").await;
    let error = bench.becomes(&unreachable, "delayed").await["attempts"].to_string();
    assert!(!error.contains("S3CRET") && !shown(&bench, &unreachable).await.contains("S3CRET"), "{error}");
}

#[tokio::test]
async fn a_url_in_a_file_is_read_at_start_and_reload() {
    let (old, new) = (Receiver::good().await, Receiver::good().await);
    let secrets = tempfile::tempdir().unwrap();
    let path = secrets.path().join("url");
    let write = |to: &Receiver| std::fs::write(&path, format!("http://{}/in/S3CRET?code=S3CRET\n", to.addr)).unwrap();
    write(&old);
    let kept = Url::FromSecret(Secret::File(path.clone()));
    let mut bench = Bench::with(None, holdline::clock::Clock::system(), |s| s.destinations[0].url = Some(kept)).await;
    let first = bench.accept("k", "1").await;
    bench.becomes(&first, "delivered").await;
    assert_eq!(old.all()[0].line.trim(), "POST /in/S3CRET?code=S3CRET HTTP/1.1");
    assert_eq!(bench.status().await["destinations"][0]["url"], json!(format!("http://{}/***", old.addr)));
    assert!(!shown(&bench, &first).await.contains("S3CRET"));
    write(&new);
    bench.reload(|_| {}).await.unwrap();
    let second = bench.accept("k", "2").await;
    bench.becomes(&second, "delivered").await;
    assert_eq!((old.count(), new.count()), (1, 1), "a changed file leads elsewhere");
    std::fs::write(&path, "S3CRET").unwrap();
    let refused = bench.reload(|_| {}).await.unwrap_err();
    assert!(refused.contains("has no scheme") && !refused.contains("S3CRET"), "{refused}");
    let third = bench.accept("k", "3").await;
    bench.becomes(&third, "delivered").await;
    assert_eq!(new.count(), 2, "nothing is changed");
}

/// Everything under a folder that users other than its owner can access.
fn lax(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let (path, meta) = entry.map(|e| (e.path(), e.metadata().unwrap())).unwrap();
        let mode = meta.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            found.push(format!("{} {mode:o}", path.display()));
        }
        if meta.is_dir() {
            found.extend(lax(&path));
        }
    }
    found
}

#[tokio::test]
async fn written_files_are_private_whatever_the_umask() {
    let receiver = Receiver::start(|_| status(400)).await;
    let mut process = Process::start(&receiver.url(), "").await;
    process.kill().await;
    let folder = process.folder.path().to_owned();
    std::fs::remove_dir_all(folder.join("data")).unwrap();
    process.open_with_umask("000").await;
    process.accept("k", "1").await;
    process.has_dead(1).await;
    let made = folder.join("made");
    std::fs::create_dir(&made).unwrap();
    let config = process.config.to_str().unwrap();
    for line in [
        vec!["backup", "made/backup", "--config", config],
        vec!["dlq", "export", "--to", "made/letters.ndjson", "--config", config],
        vec!["restore", "made/backup", "--data", "made/restored"],
        vec!["verify", "--data", "made/restored", "--salvage", "made/salvaged"],
    ] {
        let ran = run_with_umask(&folder, "000", &line).await;
        assert_eq!(ran.code, 0, "{line:?}: {ran:?}");
    }
    process.kill().await;
    let data = std::fs::metadata(folder.join("data")).unwrap().permissions().mode() & 0o777;
    assert_eq!((data, lax(&folder.join("data")), lax(&made)), (0o700, vec![], vec![]));
    assert!(folder.join("data/queue/db").exists() && made.join("restored/queue/db").exists());
}

#[tokio::test]
async fn no_event_text_controls_the_terminal() {
    let receiver = Receiver::start(|_| status(400)).await;
    let process = Process::start(&receiver.url(), "").await;
    let hostile = "a\u{1b}[2J\u{9b}2J\u{85}\u{202e}b\u{2066}\u{200f}\u{61c}\u{feff}\r\u{7f}";
    let event = json!({"eventType": format!("type{hostile}"), "eventId": format!("id{hostile}"),
        "timestamp": "2026-03-19T22:04:48.128Z", "data": {"interactionId": format!("key{hostile}")}});
    let reply = process.post(event.to_string().as_bytes()).await;
    assert_eq!(reply.status, 202, "{}", reply.text());
    let id = reply.json()["id"].as_str().unwrap().to_owned();
    process.has_dead(1).await;
    let acts = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            || matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{200E}' | '\u{200F}' | '\u{61C}' | '\u{FEFF}')
    };
    for line in [
        vec!["events", "list"],
        vec!["events", "show", &id],
        vec!["dlq", "list"],
        vec!["dlq", "show", &id],
        vec!["explain", &id],
        vec!["explain", "--interaction", &format!("key{hostile}")],
        vec!["audit"],
        vec!["status"],
        vec!["top", "--count", "1"],
        vec!["events", "list", "--json"],
        vec!["events", "list", "--json", "--all"],
        vec!["dlq", "show", &id, "--json"],
        vec!["dlq", "purge", &format!("no{hostile}"), "--yes"],
    ] {
        let ran = process.run(&line).await;
        for text in [&ran.out, &ran.err] {
            assert_eq!(text.chars().find(|c| acts(*c)), None, "{line:?}: {text:?}");
        }
        if line.contains(&"--json") {
            let value: Value = serde_json::from_str(&ran.out).unwrap();
            assert!(value.to_string().contains(&json!(format!("key{hostile}")).to_string()), "it means the same");
        }
    }
}

#[tokio::test]
async fn check_and_doctor_warn_without_changing_their_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("weak", "changeme\n");
    write("url", "http://169.254.169.254/x?code=S3CRET\n");
    write(
        "holdline.toml",
        &format!(
            "[intake]\nlisten = \"0.0.0.0:0\"\n[admin]\nlisten = \"127.0.0.1:9\"\ntoken = {{ file = {:?} }}\n[store]\npath = {:?}\n\
             [[source]]\nname = \"open\"\n[[destination]]\nname = \"crm\"\nurl = {{ file = {:?} }}\n\
             [[alert]]\nurl = \"https://no-such-host.invalid/x?key=S3CRET\"\non = [\"dead_letter\"]\n",
            folder.path().join("weak"),
            folder.path().join("data"),
            folder.path().join("url"),
        ),
    );
    let ran = run(folder.path(), &["check", "--config", "holdline.toml"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "holdline.toml: ok (1 source, 1 destination)\n"), "{ran:?}");
    for warned in [
        "warning: source `open`: everybody may send, and intake listens on 0.0.0.0:0; write auth = ",
        "is a placeholder, or one of the first that are tried; make one with `openssl rand -hex 32`",
        "warning: destination `crm`: url leads to 169.254.169.254, a link-local address, which is refused; write ",
    ] {
        assert!(ran.err.contains(warned), "{warned}\n{}", ran.err);
    }
    let ran = run(folder.path(), &["doctor", "--json", "--config", "holdline.toml"]).await;
    let findings: Value = serde_json::from_str(&ran.out).unwrap();
    let verdict = |what: &str, found: &str| {
        let all = findings.as_array().unwrap().iter();
        let mut fitting = all.filter(|f| f["what"] == what && f["found"].as_str().unwrap().contains(found));
        fitting.next().map(|f| f["verdict"].as_str().unwrap().to_owned())
    };
    assert_eq!(ran.code, 1, "{ran:?}");
    for (what, found, wanted) in [
        ("source `open`", "everybody may send", "warn"),
        ("admin.token", "is a placeholder", "warn"),
        ("destination `crm`", "url leads to 169.254.169.254", "warn"),
        ("dns crm", "169.254.169.254, a link-local address, which is refused", "bad"),
        ("dns alert[0]", "no-such-host.invalid", "bad"),
    ] {
        assert_eq!(verdict(what, found).as_deref(), Some(wanted), "{what}: {findings:#}");
    }
    assert!(!ran.out.contains("S3CRET") && !ran.err.contains("S3CRET"), "{ran:?}");
}

#[tokio::test]
async fn doctor_says_what_is_wrong_with_tls() {
    let receiver = Receiver::good().await;
    let (ours, other) = (Authority::new(), Authority::new());
    let front = async |by: &Authority, name: &str, until| {
        TlsFront::start(&by.certify(name, until), None, receiver.addr).await.addr
    };
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        (front(&ours, "localhost", Until::Long).await, None),
        (front(&other, "localhost", Until::Long).await, Some("unknown issuer")),
        (front(&ours, "elsewhere", Until::Long).await, Some("for another name")),
        (front(&ours, "localhost", Until::Yesteryear).await, Some("has expired")),
        (receiver.addr, Some("does not speak TLS")),
    ];
    for (addr, wrong) in cases {
        let config = format!(
            "[admin]\nlisten = \"127.0.0.1:9\"\n[store]\npath = {:?}\n[[source]]\nname = \"a\"\n\
             [[destination]]\nname = \"crm\"\nurl = \"https://localhost:{}/\"\ntls = {{ ca = {:?} }}\n",
            folder.path().join("data"),
            addr.port(),
            ours.ca(),
        );
        std::fs::write(folder.path().join("holdline.toml"), config).unwrap();
        let ran = run(folder.path(), &["doctor", "--json", "--config", "holdline.toml"]).await;
        let findings: Value = serde_json::from_str(&ran.out).unwrap();
        let tls = findings.as_array().unwrap().iter().find(|f| f["what"] == "tls crm").unwrap();
        let said = tls["found"].as_str().unwrap();
        assert_eq!(tls["verdict"], if wrong.is_some() { "bad" } else { "ok" }, "{tls}");
        assert!(wrong.is_none_or(|wrong| said.contains(wrong)), "{tls}");
        assert_eq!(tls["remedy"].as_str().unwrap().is_empty(), wrong.is_none(), "{tls}");
    }
}
