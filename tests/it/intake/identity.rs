//! What identifies an event in a signed request: signed fields, fields that are trusted by name, and the signed bytes
//! themselves.

use crate::harness::bench::{Bench, START, request, source};
use crate::harness::receiver::{Receiver, status};
use base64::Engine as _;
use holdline::clock::Clock;
use holdline::config::settings::{Secret, Source, SourceAuth};
use holdline::signature::{PRESETS, Scheme};
use ring::hmac;
use serde_json::json;
use std::path::Path;

const SECRET: &str = "bm90LWEtc2VjcmV0LWJ1dC1sb25nLWVub3VnaA==";
const STAMP: &str = "1800000000";

type Headers = Vec<(&'static str, String)>;

fn auth(folder: &Path, preset: &str) -> Vec<SourceAuth> {
    let path = folder.join(preset);
    std::fs::write(&path, SECRET).unwrap();
    vec![SourceAuth::Hmac { scheme: Scheme::preset(preset).unwrap(), secrets: vec![Secret::File(path)] }]
}

fn hex(tag: &hmac::Tag) -> String {
    tag.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// Signs as a preset does, with `stamp` and `id` if the preset signs these.
fn signed(preset: &str, id: &str, stamp: &str, body: &[u8]) -> Headers {
    let base64 = base64::prelude::BASE64_STANDARD;
    let sign = |algorithm, key: &[u8], lead: &str| {
        hmac::sign(&hmac::Key::new(algorithm, key), &[lead.as_bytes(), body].concat())
    };
    let of_body = |lead: &str| sign(hmac::HMAC_SHA256, SECRET.as_bytes(), lead);
    match preset {
        "genesys-open-messaging" => {
            vec![("X-Hub-Signature-256", format!("sha256={}", base64.encode(of_body(""))))]
        }
        "genesys-engage" => {
            let tag = sign(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, SECRET.as_bytes(), "");
            vec![("X-Hub-Signature", format!("sha1={}", hex(&tag)))]
        }
        "github" => vec![("X-Hub-Signature-256", format!("sha256={}", hex(&of_body(""))))],
        "standard-webhooks" => {
            let key = base64.decode(SECRET).unwrap();
            let tag = sign(hmac::HMAC_SHA256, &key, &format!("{id}.{stamp}."));
            vec![
                ("webhook-id", id.to_owned()),
                ("webhook-timestamp", stamp.to_owned()),
                ("webhook-signature", format!("v1,{}", base64.encode(tag))),
            ]
        }
        "zendesk" => vec![
            ("X-Zendesk-Webhook-Signature-Timestamp", stamp.to_owned()),
            ("X-Zendesk-Webhook-Signature", base64.encode(of_body(stamp))),
        ],
        "zoom" => vec![
            ("X-Zm-Request-Timestamp", stamp.to_owned()),
            ("X-Zm-Signature", format!("v0={}", hex(&of_body(&format!("v0:{stamp}:"))))),
        ],
        _ => vec![("Stripe-Signature", format!("t={stamp},v1={}", hex(&of_body(&format!("{stamp}.")))))],
    }
}

/// Posts an event; returns the status that the response reports.
async fn post(bench: &Bench, path: &str, headers: &Headers, more: &[(&str, &str)], body: &[u8]) -> String {
    let mut all: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
    all.extend(more);
    let reply = bench.post_as(path, &all, body).await;
    assert_eq!(reply.status, 202, "{}", reply.text());
    reply.json()["status"].as_str().unwrap().to_owned()
}

/// What an attacker who has recorded a request may add to its body.
const FORGED: [&[(&str, &str)]; 7] = [
    &[("ce-id", "forged"), ("ce-source", "x"), ("ce-specversion", "1.0"), ("ce-type", "paid")],
    &[("ce-id", "forged-2"), ("ce-subject", "other"), ("ce-time", "2020-01-01T00:00:00Z")],
    &[("webhook-id", "forged")],
    &[("x-event-id", "forged"), ("x-event-type", "paid")],
    &[("x-github-delivery", "forged"), ("x-github-event", "paid")],
    &[("aeg-event-type", "Notification")],
    &[("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")],
];

#[tokio::test]
async fn one_signed_body_is_one_event_whatever_its_other_headers() {
    let folder = tempfile::tempdir().unwrap();
    let profiles = ["auto", "cloudevents", "interaction", "genesys-trigger", "custom"];
    let name = |preset: &str, profile: &str| format!("{preset}-{profile}");
    let bench = Bench::with(None, Clock::manual(START), |s| {
        for (preset, profile) in PRESETS.iter().flat_map(|preset| profiles.map(|profile| (preset, profile))) {
            let auth = auth(folder.path(), preset);
            let mut source = Source { auth, ..source(&name(preset, profile), profile) };
            if profile == "custom" {
                source.pointers.id = Some(vec![vec!["header:x-github-delivery".into()], vec!["query:id".into()]]);
            }
            s.sources.push(source);
        }
    })
    .await;
    let bodies: [&[u8]; 4] = [
        br#"{"amount": 7}"#,
        br#"{"id":"1","source":"s","conversationId":"c"}"#,
        b"[1, 2]",
        br#"{"eventId":"e","type":"t"}"#,
    ];
    for (preset, profile) in PRESETS.iter().flat_map(|preset| profiles.map(|profile| (preset, profile))) {
        let source = name(preset, profile);
        for body in bodies {
            let before = bench.count("/counters/accepted").await;
            let headers = signed(preset, "msg-1", STAMP, body);
            assert_eq!(post(&bench, &source, &headers, &[], body).await, "queued", "{source}");
            for forged in FORGED {
                // a signed header comes first, and the first of several with one name counts
                let again = post(&bench, &source, &headers, forged, body).await;
                assert!(again == "duplicate" || body == b"[1, 2]", "{source} {forged:?}: {again}");
            }
            let query = format!("{source}?type=paid&id=forged");
            post(&bench, &query, &headers, &[], body).await;
            let events = bench.count("/counters/accepted").await - before;
            let batch = body == b"[1, 2]" && ["auto", "cloudevents"].contains(&profile);
            assert!(events == 1 || (batch && events == 2), "{source} made {events} events of {body:?}");
        }
    }
    bench.sound().await;
}

#[tokio::test]
async fn only_signed_fields_distinguish_events() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::with(None, Clock::manual(START), |s| {
        for preset in PRESETS {
            s.sources.push(Source { auth: auth(folder.path(), preset), ..source(preset, "interaction") });
        }
    })
    .await;
    // preset, whether it signs an id, whether it signs a timestamp
    let table = [
        ("genesys-open-messaging", false, false),
        ("genesys-engage", false, false),
        ("github", false, false),
        ("standard-webhooks", true, true),
        ("zendesk", false, true),
        ("zoom", false, true),
        ("stripe", false, true),
    ];
    assert_eq!(table.map(|(preset, ..)| preset), PRESETS);
    for (preset, has_id, has_stamp) in table {
        let scheme = Scheme::preset(preset).unwrap();
        assert_eq!((scheme.signed.has_id(), scheme.signed.has_timestamp()), (has_id, has_stamp), "{preset}");
        let body = br#"{"amount": 7}"#;
        let status =
            async |id: &str, stamp: &str| post(&bench, preset, &signed(preset, id, stamp, body), &[], body).await;
        assert_eq!(status("a", STAMP).await, "queued");
        assert_eq!(status("a", STAMP).await, "duplicate", "{preset}");
        assert_eq!(status("b", STAMP).await, if has_id { "queued" } else { "duplicate" }, "{preset}");
        // if the id is signed, a later timestamp is a repetition of the same event
        let later = status("a", "1800000060").await;
        assert_eq!(later, if has_stamp && !has_id { "queued" } else { "duplicate" }, "{preset}");
    }
}

#[tokio::test]
async fn unsigned_fields_count_where_trusted_or_with_a_token() {
    let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::start(|_| status(200)).await);
    std::fs::write(folder.path().join("token"), "s3cret").unwrap();
    let token = || SourceAuth::Bearer { tokens: vec![Secret::File(folder.path().join("token"))] };
    let bench = Bench::with(receiver.to(), Clock::manual(START), |s| {
        let trusted = ["header:ce-id", "header:ce-source", "header:ce-subject", "query:type"];
        let mut both = Source { auth: auth(folder.path(), "github"), ..source("both", "cloudevents") };
        both.auth.push(token());
        s.sources.push(Source { name: "trusting".to_owned(), ..both.clone() });
        s.sources[1].trust_unsigned = Some(trusted.map(str::to_owned).to_vec());
        s.sources[1].pointers.event_type = Some(vec![vec!["query:type".to_owned()]]);
        s.sources.push(both);
    })
    .await;
    let body = br#"{"amount": 7}"#;
    let headers = signed("github", "", "", body);
    let event = |id: &'static str| [("ce-id", id), ("ce-source", "s"), ("ce-subject", "call"), ("ce-type", "paid")];
    for (id, wanted) in [("1", "queued"), ("2", "queued"), ("2", "duplicate")] {
        assert_eq!(post(&bench, "trusting?type=t&x=y", &headers, &event(id), body).await, wanted);
    }
    let bearer: Headers = vec![("Authorization", "Bearer s3cret".to_owned())];
    for (id, wanted) in [("1", "queued"), ("2", "queued"), ("2", "duplicate")] {
        assert_eq!(post(&bench, "both", &bearer, &event(id), body).await, wanted, "who has the token is believed");
    }
    for (id, wanted) in [("3", "queued"), ("4", "duplicate")] {
        assert_eq!(post(&bench, "both", &headers, &event(id), body).await, wanted);
    }
    bench.reaches("/counters/delivered", 5).await;
    let mut seen: Vec<_> = receiver
        .all()
        .iter()
        .map(|got| {
            let header = |name| got.header(name).unwrap_or_default().to_owned();
            [header("holdline-source"), header("holdline-event-type"), header("holdline-interaction-id")].join(" ")
        })
        .collect();
    seen.sort();
    assert_eq!(seen, ["both  ", "both paid call", "both paid call", "trusting t call", "trusting t call"]);
}

#[tokio::test]
async fn batch_elements_without_id_are_identified_by_their_position() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::with(None, Clock::manual(START), |s| {
        s.sources.push(Source { auth: auth(folder.path(), "github"), ..source("batches", "custom") });
        s.sources[1].pointers.split = Some("/all".to_owned());
    })
    .await;
    let answer = async |body: &[u8]| {
        let headers = signed("github", "", "", body);
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let reply = request(bench.intake, "POST", "/in/batches", &headers, body).await.json();
        (reply["accepted"].as_u64().unwrap(), reply["duplicates"].as_u64().unwrap())
    };
    assert_eq!(answer(br#"{"all":[{"n":1},{"n":1}]}"#).await, (2, 0), "alike, and two all the same");
    assert_eq!(answer(br#"{"all":[{"n":1},{"n":1}]}"#).await, (0, 2));
    assert_eq!(answer(br#"{"all":[{"n":1}]}"#).await, (1, 0), "another request");
    let found = bench.get("/v1/events?source=batches").await;
    assert_eq!(found["items"].as_array().unwrap().len(), 3, "{}", json!(found));
}
