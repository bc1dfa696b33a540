//! Responses as real servers write them: `Retry-After` in every form, and response heads that violate the grammar.

use crate::harness::bench::{Bench, START, let_pass, wait_for};
use crate::harness::receiver::{Act, Receiver, status};
use holdline::clock::Clock;
use holdline::rules::backoff::Jitter;
use serde_json::{Value, json};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
/// Long enough to see that an unexpected request does not arrive.
const A_WHILE: Duration = Duration::from_millis(50);

/// The first attempt of an event, which has failed temporarily.
async fn failed(bench: &Bench, id: &str) -> Value {
    bench.becomes(id, "delayed").await;
    let path = format!("/v1/events/{id}");
    let at = "/deliveries/0/attempts/0";
    wait_for("the attempt is written", async || bench.get(&path).await.pointer(at).cloned()).await
}

fn raw(head: &str) -> Act {
    Act::Raw(format!("{head}\r\nContent-Length: 0\r\n\r\n").into_bytes())
}

/// Each head asks for 30 s and some milliseconds, independent of the server's clock. The manual clock is at
/// 2027-01-15T08:00:00Z.
#[tokio::test]
async fn i12_a_destination_is_not_called_within_its_retry_after() {
    let moment_s = START.0 / 1000 + 30;
    for (lines, extra_ms) in [
        ("Retry-After: 30".to_owned(), 0),
        (format!("Retry-After: {moment_s}"), 0),
        (format!("Retry-After: {moment_s}250"), 250),
        ("Retry-After: 5\r\nRetry-After: 30\r\nRetry-After: 10".to_owned(), 0),
        ("Retry-After: 2027-01-15T08:00:30.5Z".to_owned(), 500),
        ("Retry-After: Fri, 15 Jan 2027 08:00:30 -0000".to_owned(), 0),
        ("Date: Fri, 15 Jan 2027 08:07:00 GMT\r\nRetry-After: Fri, 15 Jan 2027 08:07:30 GMT".to_owned(), 0),
        ("Date: Fri, 15 Jan 2027 07:00:00 GMT\r\nRetry-After: Fri, 15 Jan 2027 07:00:30 GMT".to_owned(), 0),
        (format!("X-RateLimit-Remaining: 0\r\nX-RateLimit-Reset: {moment_s}000"), 0),
        (format!("X-Rate-Limit-Remaining: 0\r\nX-Rate-Limit-Reset: {moment_s}"), 0),
        ("X-RateLimit-Remaining: 0\r\nX-RateLimit-Reset: 2027-01-15T08:00:30Z".to_owned(), 0),
        ("X-RateLimit-Remaining: 0\r\nX-RateLimit-Reset-After: 30.125".to_owned(), 125),
    ] {
        let head = format!("HTTP/1.1 429 Too Many Requests\r\n{lines}");
        let receiver = Receiver::start(move |r| if r.n == 0 { raw(&head) } else { status(200) }).await;
        let bench = Bench::with(receiver.to(), Clock::manual(START), |s| {
            s.destinations[0].retry.jitter = Jitter::None;
        })
        .await;
        let id = bench.accept("k", "1").await;
        bench.becomes(&id, "delayed").await;
        let wait = 30 * SECOND + extra_ms * MS;
        let until = json!(START.after(wait + MS).to_string());
        assert_eq!(bench.get("/v1/destinations/default").await["blocked_by"][0]["until"], until, "{lines}");
        bench.clock.advance(wait);
        let_pass(A_WHILE).await;
        assert_eq!(receiver.count(), 1, "{lines}: early");
        bench.clock.advance(MS);
        bench.becomes(&id, "delivered").await;
    }
}

/// Heads that violate the grammar but have a readable status: the event was accepted and is not sent again. None of
/// their connections is reused.
#[tokio::test]
async fn a_status_that_can_be_read_decides() {
    let many: String = (0..200).map(|n| format!("X-{n}: y\r\n")).collect();
    let heads = [
        "HTTP/1.1 200 OK\r\nServer : x\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok".to_owned(),
        "HTTP/1.1 200 OK\r\nX-Folded: a\r\n  b\r\n\tc\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "HTTP/1.1 200 OK\r\nX-Control: \u{1}\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "HTTP/1.1 200 OK\r\nM\u{fc}ller: x\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "HTTP/1.1 200 OK\r\nno header\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "HTTP/1.1 200 OK\nContent-Length: 2\n\nok".to_owned(),
        "http/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "HTTP/1.1  200  OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_owned(),
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nServer : x\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        format!("HTTP/1.1 200 OK\r\n{many}Content-Length: 2\r\n\r\nok"),
    ];
    // the last two follow the rules
    let used_again = 2;
    let answers = heads.clone();
    let receiver = Receiver::start(move |r| match r.interaction().parse::<usize>() {
        Ok(n) => Act::Bytes(answers[n].clone().into_bytes()),
        Err(_) => status(200),
    })
    .await;
    let bench = Bench::with(receiver.to(), Clock::manual(START), |s| {
        s.destinations[0].retry.jitter = Jitter::None;
        s.destinations[0].concurrency_max = 1;
    })
    .await;
    for (n, head) in heads.iter().enumerate() {
        let id = bench.accept(&n.to_string(), &n.to_string()).await;
        bench.reaches("/queue/in_flight", 0).await;
        let delivery = bench.get(&format!("/v1/events/{id}")).await["deliveries"][0].clone();
        assert_eq!(delivery["state"], json!("delivered"), "{head:?}: {delivery}");
        let open = usize::from(n + used_again >= heads.len());
        wait_for(&format!("{open} are open after {head:?}"), async || (receiver.open() == open).then_some(())).await;
    }
    assert_eq!(receiver.count(), heads.len(), "each was sent once");
}

/// A malformed head means the same as the correct one, also when it arrives in pieces.
#[tokio::test]
async fn retry_after_in_a_lenient_head_is_obeyed() {
    let receiver = Receiver::start(|r| match r.n {
        0 => Act::Pieces(vec![
            b"http/1.1 50".to_vec(),
            b"3 Busy\r\nRetry-After ".to_vec(),
            b": 30\r\nX: \x01\r".to_vec(),
            b"\n\r\nno".to_vec(),
        ]),
        _ => status(200),
    })
    .await;
    let bench = Bench::with(receiver.to(), Clock::manual(START), |s| {
        s.destinations[0].retry.jitter = Jitter::None;
    })
    .await;
    let id = bench.accept("k", "1").await;
    let attempt = failed(&bench, &id).await;
    assert_eq!((&attempt["status"], &attempt["answer"]), (&json!(503), &json!("no")));
    let until = json!(START.after(30 * SECOND + MS).to_string());
    assert_eq!(bench.get("/v1/destinations/default").await["blocked_by"][0]["until"], until);
}

/// Where the end of the body is ambiguous, so is the request that the next response belongs to.
#[tokio::test]
async fn an_answer_with_ambiguous_framing_is_a_failure() {
    let answers = [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length : 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok",
        "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 OK\r\n\r\nok",
        "220 mail.internal ESMTP\r\n",
    ];
    // it keeps the connection open, but holdline does not wait for it
    let receiver =
        Receiver::start(move |r| Act::Bytes(answers[r.interaction().parse::<usize>().unwrap()].into())).await;
    let bench = Bench::with(receiver.to(), Clock::manual(START), |s| {
        s.destinations[0].retry.jitter = Jitter::None;
        s.destinations[0].timeout = 600 * SECOND;
    })
    .await;
    for (n, answer) in answers.iter().enumerate() {
        let id = bench.accept(&n.to_string(), &n.to_string()).await;
        let attempt = failed(&bench, &id).await;
        assert_eq!(attempt["outcome"], json!("broken"), "{answer:?}: {attempt}");
        wait_for("the connection is closed", async || (receiver.open() == 0).then_some(())).await;
    }
}
