//! `GET /healthz` on the intake port: it reports whether events are accepted, and does nothing else.

use crate::harness::bench::{Bench, body, request, source, wait_for};
use crate::harness::receiver::{Receiver, held, status};
use holdline::clock::Clock;
use serde_json::json;
use std::pin::pin;

async fn health(bench: &Bench) -> (u16, String) {
    let reply = request(bench.intake, "GET", "/healthz", &[], b"").await;
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    assert_eq!(reply.header("retry-after").is_some(), reply.status == 503);
    let word = if reply.status == 503 { reply.code() } else { reply.json()["status"].as_str().unwrap().to_owned() };
    (reply.status, word)
}

fn ok() -> (u16, String) {
    (200, "ok".to_owned())
}

#[tokio::test]
async fn intake_health_follows_the_operator() {
    let bench = Bench::start(None).await;
    assert_eq!(health(&bench).await, ok());
    bench.change("/v1/intake/close", json!({"reason": "maintenance", "for": "1h"})).await;
    assert_eq!(health(&bench).await, (503, "intake_closed".to_owned()));
    bench.change("/v1/intake/open", json!({})).await;
    assert_eq!(health(&bench).await, ok());
}

#[tokio::test]
async fn intake_health_follows_disk_and_queue() {
    let full = Bench::with(None, Clock::system(), |s| s.intake.disk_reserve_bytes = 1 << 60).await;
    let refused = wait_for("the disk is low", async || Some(health(&full).await).filter(|h| h.0 == 503)).await;
    assert_eq!(refused.1, "disk_low");
    let receiver = Receiver::start(|_| held(status(200))).await;
    let bench = Bench::with(receiver.to(), Clock::system(), |s| s.intake.max_queue_bytes = 4_000).await;
    let mut sent = 0;
    let refused = wait_for("the queue is full", async || {
        sent += 1;
        let large = json!({"eventId": sent, "data": {"interactionId": sent}, "pad": "x".repeat(1_000)}).to_string();
        bench.post(large.as_bytes()).await;
        Some(health(&bench).await).filter(|h| h.0 == 503)
    })
    .await;
    let event = bench.post(&body("k", "late")).await;
    assert_eq!((event.status, event.code()), refused, "the same word as for events");
    receiver.release(1_000);
    wait_for("intake opens", async || (health(&bench).await == ok()).then_some(())).await;
}

/// A load balancer learns of a stop before events are refused.
#[tokio::test]
async fn health_says_draining_as_soon_as_a_stop_begins() {
    let receiver = Receiver::start(|_| held(status(200))).await;
    let mut bench = Bench::start(receiver.to()).await;
    bench.accept("k", "1").await;
    wait_for("it is in flight", async || (receiver.count() == 1).then_some(())).await;
    let intake = bench.intake;
    let mut stop = pin!(bench.stop());
    let mut said = pin!(wait_for("a stop is announced", async || {
        let reply = request(intake, "GET", "/healthz", &[], b"").await;
        (reply.status == 503).then_some(reply)
    }));
    let reply = tokio::select! {
        () = &mut stop => panic!("the delivery in flight was not waited for"),
        reply = &mut said => reply,
    };
    assert_eq!((reply.code().as_str(), reply.header("retry-after")), ("draining", Some("2")));
    let event = request(intake, "POST", "/in/default", &[], &body("k", "2")).await;
    assert_eq!(event.status, 202, "events are accepted until the door closes");
    receiver.release(1_000);
    stop.await;
}

#[tokio::test]
async fn a_health_check_is_no_event_and_hides_no_source() {
    let bench = Bench::with(None, Clock::system(), |s| s.sources.push(source("healthz", "auto"))).await;
    let before = bench.admin("GET", "/metrics", b"").await.text();
    let intake_lines = |metrics: &str| {
        let lines = metrics.lines().filter(|line| line.contains("refused") || line.contains("_accepted"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let head = request(bench.intake, "HEAD", "/healthz", &[], b"").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    for path in ["/healthz", "/healthz?from=lb"] {
        assert_eq!(request(bench.intake, "GET", path, &[], b"").await.status, 200, "{path}");
    }
    for method in ["POST", "PUT", "OPTIONS"] {
        let reply = request(bench.intake, method, "/healthz", &[], b"{}").await;
        assert_eq!((reply.status, reply.code().as_str()), (405, "method_not_allowed"), "{method}");
        assert_eq!(reply.header("allow"), Some("GET, HEAD"));
    }
    assert_eq!(intake_lines(&bench.admin("GET", "/metrics", b"").await.text()), intake_lines(&before));
    for path in ["/healthz/", "/healthz/x", "/Healthz"] {
        assert_eq!(request(bench.intake, "GET", path, &[], b"").await.status, 404, "{path}");
    }
    assert_eq!(bench.post_as("healthz", &[], &body("k", "1")).await.status, 202);
    assert_eq!(bench.count("/counters/accepted").await, 1);
}
