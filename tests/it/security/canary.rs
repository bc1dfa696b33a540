//! A canary in every body and in every secret: it appears only in responses of the paths that return it.

use crate::harness::bench::{request, wait_for};
use crate::harness::process::Process;
use crate::harness::receiver::{Act, Receiver};
use base64::Engine;
use rustix::process::Signal;
use std::path::Path;

const BODY: &str = "canary-body-5d41402abc4b2a76b9719d911017c592";
const ANSWER: &str = "canary-answer-0cc175b9c0f1b6a831c399e269772661";
const SECRETS: [&str; 4] = [
    "canary-bearer-92eb5ffee6ae2fec3ad71c777531578f",
    "canary-signing-4a8a08f09d37b73795649038408b5f33",
    "canary-hmac-8277e0910d750195b448797616e091ad",
    "canary-token-e1671797c52e15f763380b45e841ec32",
];

/// Writes each secret to a file of its own; returns the lines of the configuration that name them.
fn configuration(folder: &Path) -> String {
    let file = |n: usize| {
        let path = folder.join(format!("secret-{n}"));
        // a signing secret is written in base64
        let encoded = base64::engine::general_purpose::STANDARD.encode(SECRETS[n]);
        let text = if n == 1 { format!("whsec_{encoded}") } else { SECRETS[n].to_owned() };
        std::fs::write(&path, text).unwrap();
        format!("{{ file = {path:?} }}")
    };
    let alerts = folder.join("alerts");
    format!(
        "retry = {{ base = \"10ms\", max = \"20ms\", attempts = 2 }}\n\
         auth = {{ kind = \"bearer\", token = {} }}\nsign = {{ secret = {} }}\n\
         [[source]]\nname = \"signed\"\non_bad_signature = \"quarantine\"\n\
         auth = {{ kind = \"hmac\", preset = \"github\", secrets = [{}] }}\n\
         [[source]]\nname = \"tokened\"\nauth = {{ kind = \"bearer\", token = {} }}\n\
         [[alert]]\ncommand = [\"/bin/sh\", \"-c\", \"cat >> {}\"]\non = [\"dead_letter\", \"intake_refused\"]\ndigest = \"1s\"\n",
        file(0),
        file(1),
        file(2),
        file(3),
        alerts.display()
    )
}

fn event(id: &str) -> String {
    format!(r#"{{"eventType": "t", "eventId": "{id}", "data": {{"interactionId": "k", "note": "{BODY}"}}}}"#)
}

/// Everything that shows events and settings without a request for a body.
async fn told(process: &Process, folder: &Path) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let token = std::fs::read_to_string(process.folder.path().join("data/admin.token")).unwrap();
    let bearer = format!("Bearer {}", token.trim());
    for path in [
        "/metrics",
        "/openapi.json",
        "/v1/status",
        "/v1/destinations",
        "/v1/events?limit=1000",
        "/v1/audit",
        "/v1/outages",
        "/v1/damaged",
        "/v1/quarantine",
        "/v1/ages",
        "/v1/interactions/k",
        "/v1/events/nonsense",
        "/",
    ] {
        let reply = request(process.admin, "GET", path, &[("Authorization", &bearer)], b"").await;
        all.push((path.to_owned(), reply.text()));
    }
    for command in [
        &["status"] as &[&str],
        &["events", "list"],
        &["explain", "--interaction", "k"],
        &["explain", "--destination", "default"],
        &["audit"],
        &["quarantine", "list"],
        &["doctor"],
    ] {
        let ran = process.run(command).await;
        all.push((command.join(" "), ran.out + &ran.err));
    }
    let config = process.config.to_str().unwrap().to_owned();
    let ran = crate::harness::process::run(process.folder.path(), &["check", "--config", &config]).await;
    all.push(("check".to_owned(), ran.out + &ran.err));
    all.push(("alerts".to_owned(), std::fs::read_to_string(folder.join("alerts")).unwrap_or_default()));
    all.push(("log".to_owned(), process.log()));
    all
}

#[tokio::test]
async fn i26_a_marked_body_or_secret_appears_in_no_other_output() {
    let folder = tempfile::tempdir().unwrap();
    let receiver =
        Receiver::start(|_| Act::Answer { status: 503, headers: Vec::new(), body: ANSWER.as_bytes().to_vec() }).await;
    let mut process = Process::logging(&receiver.url(), &configuration(folder.path()), "warn,holdline=trace").await;
    assert_eq!(process.post(event("1").as_bytes()).await.status, 202);
    assert_eq!(process.post(event("1").replace("\"t\"", "\"u\"").as_bytes()).await.status, 202, "a conflict");
    process.has_dead(2).await;
    let mut answers = Vec::new();
    let unreadable = format!("{{\"note\": \"{BODY}");
    let wrong = format!("sha256={}", "0".repeat(64));
    for (source, headers) in [
        ("default", vec![]),
        ("tokened", vec![]),
        ("tokened", vec![("Authorization", "Bearer guess")]),
        ("signed", vec![("X-Hub-Signature-256", wrong.as_str())]),
        ("nobody", vec![]),
    ] {
        let reply = request(process.intake, "POST", &format!("/in/{source}"), &headers, unreadable.as_bytes()).await;
        answers.push((format!("intake {source}"), reply.text()));
    }
    let sent = receiver.all();
    assert!(sent.iter().all(|r| r.header("authorization") == Some(&format!("Bearer {}", SECRETS[0]))));
    assert!(sent.iter().all(|r| r.header("webhook-signature").is_some()));
    assert_eq!(process.run(&["pause", "default", "--reason", "rig", "--for", "1h"]).await.code, 0);
    assert_eq!(process.run(&["dlq", "redrive", "--all"]).await.code, 0);
    assert_eq!(process.run(&["resume", "default"]).await.code, 0);
    process.has_dead(2).await;
    assert_eq!(process.run(&["events", "discard", "default:1", "--yes"]).await.code, 0);
    wait_for("an alert is told", async || {
        std::fs::read_to_string(folder.path().join("alerts")).ok().filter(|text| text.contains("dead_letter"))
    })
    .await;
    let shown = process.run(&["dlq", "list", "--json"]).await;
    assert!(shown.out.contains(ANSWER), "what a destination answered is shown with the letter, and only there");
    answers.extend(told(&process, folder.path()).await);
    assert_eq!(process.run(&["backup", "copy"]).await.code, 0);
    let copy = std::fs::read(process.folder.path().join("copy/holdline.backup")).unwrap();
    process.signal(Signal::TERM);
    assert_eq!(process.ended().await, 0);
    answers.push(("log".to_owned(), process.log()));
    answers.retain(|(what, _)| !what.is_empty());
    assert!(answers.iter().any(|(what, text)| what == "log" && text.contains("dead letter")));
    for (what, text) in &answers {
        for word in SECRETS.iter().chain([&BODY, &ANSWER]) {
            assert!(!text.contains(word), "{word} is in {what}:\n{text}");
        }
    }
    for word in SECRETS {
        assert!(!copy.windows(word.len()).any(|w| w == word.as_bytes()), "{word} is in the backup");
    }
}

/// What a panic would print of them.
#[test]
fn i26_no_body_is_in_a_panic_message() {
    use holdline::delivery::{Delivery, DeliveryId};
    use holdline::event::{DestinationId, Sequence};
    let event = crate::harness::bench::arriving("k", "1", BODY.as_bytes(), 1, holdline::time::Timestamp(1));
    let id = DeliveryId { sequence: Sequence(1), destination: DestinationId(0) };
    for text in [format!("{event:?}"), format!("{:?}", Delivery::first(id, event.clone().into()))] {
        assert!(!text.contains(BODY) && text.contains("44 bytes"), "{text}");
    }
}
