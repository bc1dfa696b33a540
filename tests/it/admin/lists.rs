//! Lists contain no bodies: their pages are bounded in bytes, and long fields are shown in full only for a single entry.

use crate::harness::bench::Bench;
use crate::harness::receiver::{Act, Receiver};
use holdline::clock::Clock;
use holdline::config::settings::Settings;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

/// Length of the destination's response to each event; all of it is stored.
const SAID: usize = 1000;

fn says(status: u16) -> Act {
    Act::Answer { status, headers: Vec::new(), body: "s".repeat(SAID).into_bytes() }
}

/// Every item of a list, over all pages, and the length of the longest page in bytes.
async fn all(bench: &Bench, path: &str) -> (Vec<Value>, usize) {
    let (mut items, mut longest, mut after) = (Vec::new(), 0, String::new());
    loop {
        let reply = bench.admin("GET", &format!("{path}?limit=1000{after}"), b"").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        longest = longest.max(reply.text().len());
        let page = reply.json();
        items.extend(page["items"].as_array().unwrap().iter().cloned());
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return (items, longest),
        }
    }
}

#[tokio::test]
async fn pages_end_by_bytes_and_list_every_entry_once() {
    const EVENTS: usize = 700;
    let receiver = Receiver::start(|_| says(422)).await;
    let all_refused = |s: &mut Settings| s.destinations[0].breaker.permanent_answers = u32::MAX;
    let bench = Bench::with(receiver.to(), Clock::system(), all_refused).await;
    for n in 0..EVENTS {
        let event = json!({"eventId": n, "eventType": "t".repeat(900), "data": {"interactionId": n.to_string()}});
        assert_eq!(bench.post(event.to_string().as_bytes()).await.status, 202);
    }
    bench.reaches("/dlq/depth", EVENTS as u64).await;
    for path in ["/v1/dlq", "/v1/events"] {
        let (items, longest) = all(&bench, path).await;
        let ids: BTreeSet<_> = items.iter().map(|item| item["id"].as_str().unwrap()).collect();
        assert_eq!((items.len(), ids.len()), (EVENTS, EVENTS), "{path}");
        assert!(longest < (1 << 20) + (64 << 10), "{path}: {longest}");
        assert!(items.iter().all(|item| item["size"].as_u64().unwrap() > 900), "{path}");
    }
}

#[tokio::test]
async fn a_list_shortens_attempts_and_a_single_entry_has_all() {
    let receiver = Receiver::start(|_| says(503)).await;
    let bench = Bench::with(receiver.to(), Clock::system(), |s| {
        let retry = &mut s.destinations[0].retry;
        (retry.attempts, retry.base, retry.max) = (Some(5), Duration::from_millis(1), Duration::from_millis(1));
    })
    .await;
    let id = bench.accept("k", "1").await;
    bench.becomes(&id, "dead").await;
    let listed = &bench.get("/v1/dlq").await["items"][0];
    let numbers = |of: &Value| -> Vec<u64> {
        of["attempts"].as_array().unwrap().iter().map(|a| a["number"].as_u64().unwrap()).collect()
    };
    assert_eq!(numbers(listed), [3, 4, 5]);
    assert_eq!(listed["attempts"][2]["answer"], format!("{}...", "s".repeat(256)));
    let single = bench.get(&format!("/v1/dlq/{id}")).await;
    assert_eq!(numbers(&single), [1, 2, 3, 4, 5]);
    assert_eq!(single["attempts"][4]["answer"], "s".repeat(SAID));
    // the body is returned by its own path, and by the export
    let body = bench.admin("GET", &format!("/v1/events/{id}/body"), b"").await;
    assert_eq!(body.json(), bench.admin("GET", &format!("/v1/dlq/{id}/body"), b"").await.json());
    let exported = bench.admin("GET", "/v1/dlq/export", b"").await.json();
    assert_eq!((numbers(&exported).len(), exported["body"].as_str().unwrap().len()), (5, body.text().len()));
}
