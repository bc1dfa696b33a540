//! Alerts as a webhook and a command receive them; and every metric that the shipped alert rules name exists.

use crate::harness::bench::{Bench, START, body, destination, let_pass, wait_for};
use crate::harness::receiver::{Received, Receiver, retry_after, status};
use holdline::clock::Clock;
use holdline::config::settings::{Alert, AlertTo, Condition};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn alert(to: AlertTo, on: &[Condition]) -> Alert {
    Alert { to, on: on.to_vec(), digest: Duration::from_secs(60) }
}

#[tokio::test]
async fn a_dead_letter_alert_is_retried_until_the_webhook_accepts_it() {
    let receiver = Receiver::start(|_| status(422)).await;
    let tries = std::sync::atomic::AtomicUsize::new(0);
    let hook = Receiver::start(move |_| {
        let n = tries.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        status(if n == 0 { 500 } else { 200 })
    })
    .await;
    let url = hook.url().parse().unwrap();
    let bench = Bench::with(receiver.to(), Clock::system(), |s| {
        s.alerts = vec![alert(AlertTo::Webhook(url), &[Condition::DeadLetter, Condition::QueueDepth(1000)])];
    })
    .await;
    bench.reaches("/queue/depth", 0).await;
    // dead letters that exist at the first evaluation raise no alert
    wait_for("the facts have been looked at", async || (bench.heartbeat().is_some()).then_some(())).await;
    tokio::time::timeout(Duration::from_secs(30), async {
        for n in 0.. {
            bench.accept("secret-key", &format!("secret-body-{n}")).await;
            if hook.count() >= 2 {
                break;
            }
            wait_for("it is dead", async || (bench.count("/queue/depth").await == 0).then_some(())).await;
        }
    })
    .await
    .unwrap();
    let told = hook.received(2).await;
    let message: Value = serde_json::from_slice(&told[1].body).unwrap();
    assert_eq!((message["alert"].as_str(), message["state"].as_str()), (Some("dead_letter"), Some("firing")));
    assert!(message["text"].as_str().unwrap().contains("holdline dlq list"), "{message}");
    assert!(message["count"].as_u64().unwrap() >= 1);
    assert_eq!(told[0].body, told[1].body, "the same message, tried again");
    assert!(!message.to_string().contains("secret"), "{message}");
}

fn message(told: &Received) -> Value {
    serde_json::from_slice(&told.body).unwrap()
}

/// A daemon whose first evaluation is done, which sends `hook` a message about a condition at most once a second.
async fn watched(to: &Receiver, hook: &Receiver, clock: Clock, on: Condition) -> Bench {
    let url = hook.url().parse().unwrap();
    let bench = Bench::with(to.to(), clock, |s| {
        s.destinations.push(destination("wall", "http://127.0.0.1:9/"));
        s.sources[0].to = vec!["default".to_owned()];
        s.alerts = vec![Alert { digest: Duration::from_secs(1), ..alert(AlertTo::Webhook(url), &[on]) }];
    })
    .await;
    wait_for("the facts have been looked at", async || bench.has_looked().then_some(())).await;
    bench
}

#[tokio::test]
async fn a_second_open_breaker_is_alerted_beside_the_first() {
    let (receiver, hook) = (Receiver::good().await, Receiver::good().await);
    let bench = watched(&receiver, &hook, Clock::system(), Condition::BreakerOpen).await;
    let open = json!({"state": "open", "for": "30m"});
    bench.change("/v1/destinations/default/breaker", open.clone()).await;
    assert_eq!(message(&hook.received(1).await[0])["names"], json!(["default"]));
    bench.change("/v1/destinations/wall/breaker", open).await;
    let told = message(&hook.received(2).await[1]);
    assert_eq!((&told["names"], &told["new"]), (&json!(["default", "wall"]), &json!(["wall"])), "{told}");
    assert!(told["text"].as_str().unwrap().contains("default, wall (new: wall)"), "{told}");
}

#[tokio::test]
async fn a_dead_letter_alert_does_not_resolve() {
    let (receiver, hook) = (Receiver::start(|_| status(422)).await, Receiver::good().await);
    let bench = watched(&receiver, &hook, Clock::manual(START), Condition::DeadLetter).await;
    bench.accept("k", "1").await;
    assert_eq!(message(&hook.received(1).await[0])["count"], 1);
    bench.clock.advance(Duration::from_secs(61));
    let told = message(&hook.received(2).await[1]);
    let calm = "holdline: dead_letter: no more dead letters for a minute; 1 in the queue, see `holdline dlq list`";
    assert_eq!((told["state"].as_str(), told["text"].as_str()), (Some("resolved"), Some(calm)));
}

/// A webhook that fails is sent an alert about a dead letter; the daemon ends, and the webhook is repaired.
async fn told_after_the_next_start(end: impl AsyncFn(&mut Bench)) {
    let receiver = Receiver::start(|_| status(422)).await;
    let mended = Arc::new(AtomicBool::new(false));
    let is_mended = mended.clone();
    let hook = Receiver::start(move |_| status(if is_mended.load(Ordering::SeqCst) { 200 } else { 500 })).await;
    let mut bench = watched(&receiver, &hook, Clock::system(), Condition::DeadLetter).await;
    bench.accept("k", "1").await;
    hook.received(2).await;
    end(&mut bench).await;
    let tries = hook.count();
    mended.store(true, Ordering::SeqCst);
    bench.open().await;
    let told = wait_for("it is told", async || hook.all().into_iter().nth(tries)).await;
    assert_eq!((&message(&told)["alert"], &message(&told)["count"]), (&json!("dead_letter"), &json!(1)));
    // a second dead letter raises an alert of its own: the first one is finished
    let_pass(Duration::from_secs(1)).await;
    bench.accept("k", "2").await;
    let told = hook.received(tries + 2).await;
    assert_eq!(message(&told[tries + 1])["count"], 1, "each letter is told once");
    bench.restart().await;
    wait_for("the facts have been looked at", async || bench.has_looked().then_some(())).await;
    let_pass(Duration::from_millis(1500)).await;
    assert_eq!(hook.count(), tries + 2, "what was delivered is not told again");
}

#[tokio::test]
async fn an_undelivered_alert_is_sent_after_a_restart() {
    told_after_the_next_start(Bench::stop).await;
}

#[tokio::test]
async fn an_undelivered_alert_is_sent_after_a_crash() {
    told_after_the_next_start(async |bench: &mut Bench| bench.crash()).await;
}

#[tokio::test]
async fn a_retry_after_beyond_the_maximum_is_clamped_counted_and_alerted() {
    let receiver = Receiver::start(|r| if r.n == 0 { retry_after(503, 7200) } else { status(200) }).await;
    let hook = Receiver::good().await;
    let bench = watched(&receiver, &hook, Clock::manual(START), Condition::RetryAfterCut).await;
    bench.accept("k", "1").await;
    let told = message(&hook.received(1).await[0]);
    assert_eq!((&told["alert"], &told["names"]), (&json!("retry_after_cut"), &json!(["default"])), "{told}");
    let text = bench.admin("GET", "/metrics", b"").await.text();
    for line in [
        "holdline_destination_retry_after_cut_total{destination=\"default\"} 1",
        "holdline_destination_retry_after_cut_total{destination=\"wall\"} 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn a_command_reads_the_message_from_its_standard_input() {
    let folder = tempfile::tempdir().unwrap();
    let (file, done) = (folder.path().join("told"), folder.path().join("done"));
    let script = format!("cat > '{}' && touch '{}'", file.display(), done.display());
    let command = vec!["/bin/sh".to_owned(), "-c".to_owned(), script];
    let bench = Bench::with(None, Clock::system(), |s| {
        s.alerts = vec![alert(AlertTo::Command(command), &[Condition::QueueDepth(2)])];
    })
    .await;
    for n in 0..3 {
        assert_eq!(bench.post(&body("k", &n.to_string())).await.status, 202);
    }
    wait_for("the command has run", async || done.exists().then_some(())).await;
    let message: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(message["alert"].as_str(), Some("queue_depth > 2"));
    assert_eq!(message["text"].as_str(), Some("holdline: queue_depth > 2: 3 deliveries wait; see `holdline status`"));
}

/// Names in a text that begin with `holdline_`.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|w| w.starts_with("holdline_")).map(str::to_owned).collect()
}

#[tokio::test]
async fn the_shipped_rules_and_dashboard_use_existing_metrics() {
    let receiver = Receiver::good().await;
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&ca, certificate.cert.pem()).unwrap();
    let bench =
        Bench::with(receiver.to(), Clock::system(), |settings| settings.destinations[0].tls.ca = Some(ca)).await;
    bench.accept("k", "1").await;
    bench.post(b"nonsense").await;
    bench.reaches("/counters/delivered", 1).await;
    let text = bench.admin("GET", "/metrics", b"").await.text();
    let there = names(&text);
    let shipped = [
        include_str!("../../../packaging/prometheus/holdline.rules.yml"),
        include_str!("../../../packaging/grafana/holdline.json"),
    ];
    for name in shipped.into_iter().flat_map(names) {
        assert!(there.contains(&name), "{name} is not among {there:?}");
    }
    for (series, count) in [
        ("holdline_ack_seconds_count{source=\"default\"}", 1.0),
        ("holdline_delivery_seconds_count{destination=\"default\"}", 1.0),
        ("holdline_end_to_end_seconds_count{destination=\"default\"}", 1.0),
    ] {
        let line = text.lines().find(|l| l.starts_with(series)).unwrap_or_else(|| panic!("{series}\n{text}"));
        let value: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(value >= count, "{line}");
    }
    let types: Vec<&str> = text.lines().filter(|l| l.starts_with("# TYPE")).collect();
    assert_eq!(types.len(), types.iter().collect::<BTreeSet<_>>().len(), "each metric is described once");
}
