//! OAuth2 client credentials: when and how often a token is requested, and what happens without one.

use crate::harness::bench::{Bench, START, let_pass, wait_for};
use crate::harness::receiver::{Act, Receiver, held, status};
use holdline::clock::Clock;
use holdline::config::Secret;
use holdline::config::settings::{ClientAuth, DestinationAuth, OAuth2, Settings};
use holdline::rules::backoff::Jitter;
use holdline::rules::rate::Rate;
use serde_json::json;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

const SECOND: Duration = Duration::from_secs(1);
const A_WHILE: Duration = Duration::from_millis(80);

/// Token number `n`.
fn token(n: usize, expires_in: u64) -> Act {
    let body = json!({"access_token": format!("t{n}"), "token_type": "Bearer", "expires_in": expires_in});
    Act::Answer { status: 200, headers: Vec::new(), body: body.to_string().into_bytes() }
}

fn oauth2(tokens: &Receiver, secret: PathBuf) -> OAuth2 {
    OAuth2 {
        token_url: tokens.url().parse().unwrap(),
        client_id: "hold line".into(),
        client_secret: Secret::File(secret),
        scope: None,
        audience: None,
        client_auth: ClientAuth::Basic,
    }
}

/// A daemon with a manual clock that delivers with tokens of that endpoint; its secret is `s+cret`.
async fn bench(receiver: &Receiver, tokens: &Receiver, change: impl FnOnce(&mut OAuth2)) -> (Bench, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "s+cret\n").unwrap();
    let mut oauth2 = oauth2(tokens, secret);
    change(&mut oauth2);
    let bench = Bench::with(receiver.to(), Clock::manual(START), |s: &mut Settings| {
        s.destinations[0].retry.jitter = Jitter::None;
        s.destinations[0].auth = Some(DestinationAuth::OAuth2(oauth2));
    });
    (bench.await, folder)
}

/// The tokens that the requests carried.
fn shown(receiver: &Receiver) -> Vec<String> {
    receiver.all().iter().map(|r| r.header("authorization").unwrap().to_owned()).collect()
}

async fn delivered(bench: &Bench, n: u64) {
    bench.reaches("/counters/delivered", n).await;
}

#[tokio::test]
async fn a_token_is_asked_for_once_and_replaced_before_it_expires() {
    let (receiver, tokens) = (Receiver::good().await, Receiver::start(|r| token(r.n, 100)).await);
    let (bench, _folder) = bench(&receiver, &tokens, |_| {}).await;
    for n in 0..5 {
        bench.accept(&n.to_string(), &n.to_string()).await;
    }
    delivered(&bench, 5).await;
    assert_eq!(shown(&receiver), ["Bearer t0"; 5]);
    let asked = tokens.all();
    assert_eq!((asked.len(), asked[0].line.as_str()), (1, "POST /hook?x=1 HTTP/1.1"));
    // RFC 6749, 2.3.1: both are form-encoded first; `hold+line:s%2Bcret`
    assert_eq!(asked[0].header("authorization"), Some("Basic aG9sZCtsaW5lOnMlMkJjcmV0"));
    assert_eq!(asked[0].header("content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!(asked[0].body, b"grant_type=client_credentials");
    // a fifth of 100 s before its end
    bench.clock.advance(80 * SECOND - Duration::from_millis(1));
    bench.accept("a", "a").await;
    delivered(&bench, 6).await;
    bench.clock.advance(Duration::from_millis(1));
    bench.accept("b", "b").await;
    delivered(&bench, 7).await;
    assert_eq!(shown(&receiver)[5..], ["Bearer t0", "Bearer t1"]);
}

#[tokio::test]
async fn client_credentials_are_sent_in_the_form_where_configured() {
    let (receiver, tokens) = (Receiver::good().await, Receiver::start(|r| token(r.n, 100)).await);
    let (bench, _folder) = bench(&receiver, &tokens, |o| {
        o.client_auth = ClientAuth::Body;
        o.scope = Some("a b".into());
        o.audience = Some("crm".into());
    })
    .await;
    bench.accept("k", "1").await;
    delivered(&bench, 1).await;
    let asked = tokens.all().remove(0);
    assert_eq!(asked.header("authorization"), None);
    let form = "grant_type=client_credentials&scope=a+b&audience=crm&client_id=hold+line&client_secret=s%2Bcret";
    assert_eq!(String::from_utf8(asked.body).unwrap(), form);
}

#[tokio::test]
async fn all_waiting_deliveries_share_one_token_request() {
    let (receiver, tokens) = (Receiver::good().await, Receiver::start(|r| held(token(r.n, 100))).await);
    let (bench, _folder) = bench(&receiver, &tokens, |_| {}).await;
    for n in 0..20 {
        bench.accept(&n.to_string(), &n.to_string()).await;
    }
    bench.reaches("/queue/in_flight", 20).await;
    let_pass(A_WHILE).await;
    assert_eq!((tokens.count(), receiver.count()), (1, 0));
    tokens.release(1);
    delivered(&bench, 20).await;
    assert_eq!(tokens.count(), 1);
}

#[tokio::test]
async fn a_refused_token_is_replaced_once_and_costs_no_attempt() {
    let receiver = Receiver::start(|r| match r.header("authorization") {
        Some("Bearer t0") => held(status(401)),
        _ => status(200),
    })
    .await;
    let tokens = Receiver::start(|r| token(r.n, 100)).await;
    let (bench, _folder) = bench(&receiver, &tokens, |_| {}).await;
    for n in 0..8 {
        bench.accept(&n.to_string(), &n.to_string()).await;
    }
    receiver.received(8).await;
    receiver.release(8);
    delivered(&bench, 8).await;
    assert_eq!((tokens.count(), receiver.count()), (2, 16));
    assert!(receiver.all().iter().all(|r| r.attempt() == 1));
}

#[tokio::test]
async fn a_refusal_with_a_new_token_counts_and_spares_the_endpoint() {
    let (receiver, tokens) = (Receiver::start(|_| status(401)).await, Receiver::start(|r| token(r.n, 100)).await);
    let (bench, _folder) = bench(&receiver, &tokens, |_| {}).await;
    for n in 0..5 {
        let id = bench.accept(&n.to_string(), &n.to_string()).await;
        bench.becomes(&id, "delayed").await;
        let event = bench.get(&format!("/v1/events/{id}")).await;
        assert_eq!(event["deliveries"][0]["attempts"].as_array().unwrap().len(), 1, "{event}");
    }
    assert_eq!((tokens.count(), receiver.count()), (2, 6));
    bench.clock.advance(5 * SECOND);
    bench.accept("later", "later").await;
    wait_for("the endpoint is asked once more", async || (tokens.count() == 3).then_some(())).await;
}

/// Refuses the first token with these headers, and accepts every other one.
async fn refuses_the_first(headers: &'static [(&'static str, &'static str)]) -> Receiver {
    Receiver::start(move |r| match r.header("authorization") {
        Some("Bearer t0") => {
            let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
            Act::Answer { status: 401, headers, body: Vec::new() }
        }
        _ => status(200),
    })
    .await
}

#[tokio::test]
async fn i12_a_request_repeated_with_a_new_token_waits_for_its_permit() {
    let headers: [&[(&str, &str)]; 3] =
        [&[("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", "5")], &[("Retry-After", "5")], &[]];
    for headers in headers {
        let (receiver, tokens) = (refuses_the_first(headers).await, Receiver::start(|r| token(r.n, 100)).await);
        let (mut bench, _folder) = bench(&receiver, &tokens, |_| {}).await;
        if headers.is_empty() {
            let slow = NonZeroU32::new(1).map(|one| Rate::new(one, 5 * SECOND));
            bench.reload(|s| s.destinations[0].rate = slow).await.unwrap();
        }
        bench.accept("k", "1").await;
        receiver.received(1).await;
        bench.reaches("/queue/in_flight", 0).await;
        bench.clock.advance(5 * SECOND - Duration::from_millis(1));
        let_pass(A_WHILE).await;
        assert_eq!(receiver.count(), 1, "{headers:?}: early");
        bench.clock.advance(Duration::from_millis(2));
        delivered(&bench, 1).await;
        assert_eq!(shown(&receiver), ["Bearer t0", "Bearer t1"]);
        assert!(receiver.all().iter().all(|r| r.attempt() == 1), "{headers:?}");
    }
}

#[tokio::test]
async fn i12_a_pause_during_a_token_request_takes_effect() {
    let receiver = refuses_the_first(&[]).await;
    let tokens = Receiver::start(|r| if r.n == 1 { held(token(1, 100)) } else { token(r.n, 100) }).await;
    let (bench, _folder) = bench(&receiver, &tokens, |_| {}).await;
    bench.accept("k", "1").await;
    tokens.received(2).await;
    bench.change("/v1/destinations/default/pause", json!({})).await;
    wait_for("the pause stands", async || {
        (!bench.get("/v1/destinations/default").await["blocked_by"].as_array()?.is_empty()).then_some(())
    })
    .await;
    tokens.release(1);
    bench.reaches("/queue/in_flight", 0).await;
    let_pass(A_WHILE).await;
    assert_eq!(receiver.count(), 1, "nothing follows a pause");
    bench.change("/v1/destinations/default/resume", json!({})).await;
    delivered(&bench, 1).await;
    assert_eq!(receiver.all()[1].attempt(), 1);
}

#[tokio::test]
async fn i11_a_destination_that_refuses_every_token_gets_each_delivery_twice() {
    let (receiver, tokens) = (Receiver::start(|_| status(401)).await, Receiver::start(|r| token(r.n, 3600)).await);
    let (mut bench, _folder) = bench(&receiver, &tokens, |_| {}).await;
    let slow = NonZeroU32::new(1).map(|one| Rate::new(one, 10 * SECOND));
    bench.reload(|s| s.destinations[0].rate = slow).await.unwrap();
    let id = bench.accept("k", "1").await;
    for n in 1..=2 {
        receiver.received(n).await;
        bench.reaches("/queue/in_flight", 0).await;
        bench.clock.advance(10 * SECOND * (2 - n as u32));
    }
    bench.becomes(&id, "delayed").await;
    let event = bench.get(&format!("/v1/events/{id}")).await;
    assert_eq!(event["deliveries"][0]["attempts"].as_array().unwrap().len(), 1, "{event}");
    assert_eq!((tokens.count(), receiver.count()), (2, 2));
}

#[tokio::test]
async fn i12_without_a_token_nothing_is_sent_and_no_attempt_is_consumed() {
    let answers = [
        (Act::Reset, "the token endpoint: connection "),
        (
            Act::Answer {
                status: 401,
                headers: Vec::new(),
                body: br#"{"error":"invalid_client","x":"hunter2"}"#.to_vec(),
            },
            "the token endpoint answered 401 (invalid_client)",
        ),
        (
            Act::Answer { status: 500, headers: Vec::new(), body: br#"{"error":"hunter2"}"#.to_vec() },
            "the token endpoint answered 500",
        ),
        (status(200), "the answer of the token endpoint holds no `access_token`"),
    ];
    let acts: Vec<Act> = answers.iter().map(|(act, _)| act.clone()).collect();
    let tokens = Receiver::start(move |r| acts.get(r.n).cloned().unwrap_or_else(|| token(r.n, 100))).await;
    let receiver = Receiver::good().await;
    let (bench, _folder) = bench(&receiver, &tokens, |_| {}).await;
    for n in 0..3 {
        bench.accept(&n.to_string(), &n.to_string()).await;
    }
    let mut now = START;
    for (n, (_, why)) in answers.iter().enumerate() {
        let wait = SECOND * (1 << n);
        let until = now.after(wait).to_string();
        let hold = json!([{"blocker": "retry_after", "until": until, "reason": format!("no access token: {why}"), "set_by": "destination"}]);
        wait_for("it waits, and says why", async || {
            let shown = bench.get("/v1/destinations/default").await;
            let text = shown["blocked_by"][0]["reason"].as_str().unwrap_or_default().to_owned();
            (text.contains(why) && (n == 0 || shown["blocked_by"] == hold) && !text.contains("hunter2")).then_some(())
        })
        .await;
        bench.reaches("/queue/in_flight", 0).await;
        assert_eq!((tokens.count(), receiver.count()), (n + 1, 0), "one request for all who wait");
        bench.clock.advance(wait - Duration::from_millis(1));
        let_pass(A_WHILE).await;
        assert_eq!(tokens.count(), n + 1, "early");
        bench.clock.advance(Duration::from_millis(1));
        now = now.after(wait);
    }
    delivered(&bench, 3).await;
    assert!(receiver.all().iter().all(|r| r.attempt() == 1 && r.header("authorization") == Some("Bearer t4")));
    assert_eq!(bench.count("/dlq/depth").await, 0);
    bench.sound().await;
}

#[tokio::test]
async fn a_valid_token_is_used_while_its_endpoint_is_down() {
    let tokens = Receiver::start(|r| if r.n == 0 { token(0, 100) } else { status(503) }).await;
    let receiver = Receiver::good().await;
    let (bench, _folder) = bench(&receiver, &tokens, |_| {}).await;
    for (n, advance) in [(1, 85), (2, 0), (3, 0)] {
        bench.accept(&n.to_string(), &n.to_string()).await;
        delivered(&bench, n).await;
        bench.clock.advance(advance * SECOND);
    }
    assert_eq!((shown(&receiver), tokens.count()), (vec!["Bearer t0".to_owned(); 3], 2));
    bench.clock.advance(15 * SECOND);
    bench.accept("late", "late").await;
    tokens.received(3).await;
    bench.reaches("/queue/in_flight", 0).await;
    assert_eq!(receiver.count(), 3, "an expired one is not used");
}

#[tokio::test]
async fn a_rotated_secret_needs_no_restart() {
    let (receiver, tokens) = (Receiver::good().await, Receiver::start(|r| token(r.n, 10)).await);
    let (bench, folder) = bench(&receiver, &tokens, |o| o.client_auth = ClientAuth::Body).await;
    for (n, secret) in [(1, "first"), (2, "second")] {
        std::fs::write(folder.path().join("secret"), secret).unwrap();
        bench.accept(secret, secret).await;
        delivered(&bench, n).await;
        bench.clock.advance(10 * SECOND);
    }
    let forms: Vec<String> = tokens.all().into_iter().map(|r| String::from_utf8(r.body).unwrap()).collect();
    assert!(forms[0].ends_with("client_secret=first") && forms[1].ends_with("client_secret=second"), "{forms:?}");
    std::fs::remove_file(folder.path().join("secret")).unwrap();
    bench.accept("third", "third").await;
    wait_for("it says what is missing", async || {
        let holds = bench.get("/v1/destinations/default").await["blocked_by"].to_string();
        holds.contains("no access token: the secret in file").then_some(())
    })
    .await;
    assert_eq!((tokens.count(), receiver.count()), (2, 2));
}
