//! Fuzzing of input from clients and operators: bodies by pointers, batches, signatures, configurations. Mutates real
//! inputs from seeds, for one second each or for `HOLDLINE_FUZZ_SECONDS`.
//!
//! Checked beside "no panic": two parses agree, events are parts of the body, no forged signature verifies, and a
//! configuration is either read or has errors.

use bytes::Bytes;
use fastrand::Rng;
use holdline::config;
use holdline::extract::{Composite, Field, Found, Limits, Pointer, Profile, Request};
use holdline::signature::{PRESETS, Scheme, Verifier};
use holdline::time::Timestamp;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::path::Path;
use std::time::{Duration, Instant};

const LIMITS: Limits = Limits { depth_max: 64, events_max: 100 };
/// Tokens that the parsers treat specially.
const WORDS: [&str; 32] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "\\u0061",
    "\\ud83d",
    "null",
    "true",
    "-1.5e9",
    "1e999",
    "0",
    "\"id\":",
    "\"/a~1b\"",
    "~0",
    "~1",
    "~",
    "/",
    "header:",
    "query:",
    "body:sha256",
    " ",
    "\n",
    "\u{feff}",
    "é",
    "\"\"",
    "{\"a\":",
    "99999999999999999999",
    "..",
];

/// Runs `case` on one random seed after the other until the time is over.
#[allow(clippy::disallowed_methods)] // the duration of the run is not what is tested
fn fuzz(name: &str, mut case: impl FnMut(&mut Rng)) {
    let seconds = std::env::var("HOLDLINE_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let first: u64 = std::env::var("HOLDLINE_FUZZ_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let (begin, mut seed) = (Instant::now(), first);
    while begin.elapsed() < Duration::from_secs(seconds) {
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(&mut Rng::with_seed(seed))));
        assert!(run.is_ok(), "{name}: run it again with HOLDLINE_FUZZ_SEED={seed}");
        seed += 1;
    }
    println!("{name}: {} cases from seed {first} on", seed - first);
}

fn one<T: Clone>(rng: &mut Rng, all: &[T]) -> T {
    all[rng.usize(..all.len())].clone()
}

fn mutated(rng: &mut Rng, text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..rng.usize(0..12) {
        let at = rng.usize(..=bytes.len());
        let end = (at + rng.usize(..20)).min(bytes.len());
        match rng.u8(..7) {
            0 => drop(bytes.splice(at..at, WORDS[rng.usize(..WORDS.len())].bytes())),
            1 => drop(bytes.drain(at..end)),
            2 => drop(bytes.splice(at..end, WORDS[rng.usize(..WORDS.len())].bytes())),
            3 => {
                let copy = bytes[at..end].to_vec();
                let to = rng.usize(..=bytes.len());
                drop(bytes.splice(to..to, copy));
            }
            4 => bytes.truncate(at),
            5 => {
                let copy = bytes.iter().copied().cycle().take(bytes.len() * rng.usize(1..3)).collect();
                bytes = copy;
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = rng.u8(..);
                }
            }
        }
        bytes.truncate(100_000);
    }
    bytes
}

fn samples() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|p| p.extension().is_some_and(|e| e == "json")).map(|p| std::fs::read_to_string(p).unwrap()).collect()
}

fn headers(rng: &mut Rng, names: &[&'static str], values: &[&str]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for _ in 0..rng.usize(..4) {
        let value = one(rng, values);
        let value = mutated(rng, value);
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            map.append(HeaderName::from_static(names[rng.usize(..names.len())]), value);
        }
    }
    map
}

fn pieces_of(found: &Found, body: &Bytes) {
    let (from, to) = (body.as_ptr() as usize, body.as_ptr() as usize + body.len());
    let inside =
        |piece: &Bytes| (from..=to).contains(&(piece.as_ptr() as usize)) && piece.as_ptr() as usize + piece.len() <= to;
    match found {
        Found::One(fields) => assert!(inside(&fields.body)),
        Found::Batch(all) => {
            assert!(!all.is_empty() && all.len() <= LIMITS.events_max);
            assert!(all.iter().all(|f| inside(&f.body)), "an event is a piece of the body");
            assert!(all.iter().all(|f| serde_json::from_slice::<serde::de::IgnoredAny>(&f.body).is_ok()), "and JSON");
        }
        Found::Heartbeat { .. } => {}
    }
}

#[test]
fn fuzzed_pointers_never_panic() {
    let samples = samples();
    let names = Profile::preset_names();
    fuzz("pointers", |rng| {
        let mut profile = Profile::preset(names[rng.usize(..names.len())]).unwrap();
        for field in [Field::Key, Field::Id, Field::Time, Field::EventType] {
            let text = ["/detail/eventBody/conversationId", "/0/id", "", "header:x-a", "query:a", "body:sha256"]
                [rng.usize(..6)];
            let text = String::from_utf8_lossy(&mutated(rng, text)).into_owned();
            if let Ok(composite) = Composite::parse(&[text.as_str(), "/id"]) {
                assert_eq!(composite.0[0].to_string().parse(), Ok(composite.0[0].clone()), "{text:?}");
                profile = profile.with(field, vec![composite]);
            }
        }
        let sample = one(rng, &samples);
        let body = Bytes::from(mutated(rng, &sample));
        let headers =
            headers(rng, &["ce-id", "ce-type", "x-a", "aeg-event-type", "x-event-type"], &["a", "Notification", "é"]);
        let query = String::from_utf8_lossy(&mutated(rng, "a=b&c=%41%zz&type=x")).into_owned();
        let request = Request { headers: &headers, query: Some(&query), body: &body };
        let found = profile.read(&request, &LIMITS);
        assert_eq!(found, profile.read(&request, &LIMITS), "two readings agree");
        match found {
            Ok(found) => pieces_of(&found, &body),
            Err(why) => assert!(why.to_string().len() < 300, "a refusal does not quote the body"),
        }
    });
}

#[test]
fn fuzzed_batches_never_panic() {
    let samples = samples();
    fuzz("batches", |rng| {
        let count = rng.usize(..130);
        let events: Vec<String> = (0..count)
            .map(|_| match rng.u8(..4) {
                0 => samples[rng.usize(..samples.len())].clone(),
                1 => String::from_utf8_lossy(&mutated(rng, "{\"id\":1,\"specversion\":\"1.0\"}")).into_owned(),
                _ => format!("{{\"id\": {}, \"x\":[\"]\", \"\\\"\"]}}", rng.u32(..)),
            })
            .collect();
        let array = format!("[{}]", events.join([",", " ,\n"][rng.usize(..2)]));
        let (text, pointer) = match rng.u8(..3) {
            0 => (array, ""),
            1 => (format!("{{\"data\":{{\"entities\":{array}}}}}"), "/data/entities"),
            _ => (format!("{{\"a\":[0,{{\"b\":{array}}}]}}"), "/a/1/b"),
        };
        let profile = Profile::preset(["auto", "custom", "cloudevents"][rng.usize(..3)]).unwrap();
        let profile = profile.with_split(Some(Pointer::parse(pointer).unwrap()));
        let body = Bytes::from(if rng.bool() { text.into_bytes() } else { mutated(rng, &text) });
        let request = Request { headers: &HeaderMap::new(), query: None, body: &body };
        if let Ok(found) = profile.read(&request, &LIMITS) {
            pieces_of(&found, &body);
        }
    });
}

#[test]
fn fuzzed_signatures_never_verify() {
    let secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let body = b"{\"a\":1}";
    let stamp = "1749589385";
    let names = [
        "x-hub-signature-256",
        "x-hub-signature",
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
        "x-zm-signature",
        "x-zm-request-timestamp",
        "stripe-signature",
        "x-zendesk-webhook-signature",
        "x-zendesk-webhook-signature-timestamp",
    ];
    let forged = [
        "sha256=1447e70cfb3198a29c776b9fb2833cbc9f66640b7df5168992e099cf50e9b308",
        "sha1=effcdf6ae5eb2fa2d27416d5f184df9c259a7c79",
        "v1,exXG4JNSumQ6sFzuKoHRcWuTDfM6DYC/QFq9n1fp+KU= v1,AAAA",
        "t=1749589385,v1=57588a50890877e87ce830de,v1=00",
        stamp,
        "2025-06-10T21:03:05Z",
        "v0=13e2",
        "",
    ];
    let verifiers: Vec<Verifier> =
        PRESETS.iter().map(|name| Verifier::new(Scheme::preset(name).unwrap(), [secret]).unwrap()).collect();
    fuzz("signatures", |rng| {
        let headers = headers(rng, &names, &forged);
        for verifier in &verifiers {
            if let Some(claim) = verifier.claim(&headers, Timestamp(1_749_589_385_000)) {
                assert!(!verifier.verify(&claim, body), "a forgery passes: {headers:?}");
            }
        }
        let template = String::from_utf8_lossy(&mutated(rng, "v0:{id}.{ts}.{body}")).into_owned();
        if let Ok(template) = template.parse::<holdline::signature::Template>() {
            assert_eq!(template.to_string().parse(), Ok(template));
        }
    });
}

#[test]
fn fuzzed_configurations_never_panic() {
    let shipped = include_str!("../../../packaging/holdline.toml");
    let examples = shipped.lines().map(|l| l.strip_prefix("# ").filter(|l| l.contains(" = ")).unwrap_or(l));
    let all: String = examples.map(|l| format!("{l}\n")).collect();
    fuzz("configurations", |rng| {
        let text = if rng.bool() { shipped } else { &all };
        let text = String::from_utf8_lossy(&mutated(rng, text)).into_owned();
        match config::parse(&text, Path::new("h.toml")) {
            Ok(settings) => assert!(!settings.sources.is_empty() && !settings.destinations.is_empty()),
            Err(faults) => assert!(faults.iter().count() > 0),
        }
    });
}
