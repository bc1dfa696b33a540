//! Answers as servers really write them: how long they ask to be left alone, in every form, and heads that bend the grammar.

use crate::harness::{Bench, START, let_pass};
use crate::receiver::{Act, Receiver, status};
use holdline::clock::Clock;
use holdline::rules::backoff::Jitter;
use serde_json::json;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
/// Long enough for a request that should not come to come.
const A_WHILE: Duration = Duration::from_millis(50);

fn raw(head: &str) -> Act {
    Act::Raw(format!("{head}\r\nContent-Length: 0\r\n\r\n").into_bytes())
}

/// Each head asks for 30 s and its milliseconds, whatever the clock of its server says. The clock stands at 2027-01-15T08:00:00Z.
#[tokio::test]
async fn i12_a_destination_is_left_alone_for_as_long_as_it_asks_in_any_form() {
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
        assert_eq!(bench.get("/v1/destinations/default").await["holds"][0]["until"], until, "{lines}");
        bench.clock.advance(wait);
        let_pass(A_WHILE).await;
        assert_eq!(receiver.count(), 1, "{lines}: early");
        bench.clock.advance(MS);
        bench.becomes(&id, "delivered").await;
    }
}
