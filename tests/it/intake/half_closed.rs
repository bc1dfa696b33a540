//! Senders that close their writing side after a request get a response; senders that disconnect occupy no slot.

use crate::harness::bench::{Bench, Connection, Reply, body, message, read_message, wait_for};
use crate::intake::tls::{Authority, Client};
use holdline::clock::Clock;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

const JSON: (&str, &str) = ("Content-Type", "application/json");

/// Sends bytes and closes the writing side, then reads until the end.
async fn ask(to: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    String::from_utf8(all).unwrap()
}

fn statuses(answers: &str) -> Vec<&str> {
    answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect()
}

#[tokio::test]
async fn a_half_closed_sender_is_answered() {
    let bench = Bench::start(None).await;
    for n in 0..40 {
        let answer = ask(bench.intake, &message("POST", "/in/default", &[JSON], &body("k", &n.to_string()))).await;
        assert!(answer.starts_with("HTTP/1.1 202 ") && answer.contains("\"queued\""), "{n}: {answer}");
    }
    assert_eq!(bench.count("/counters/accepted").await, 40);
}

#[tokio::test]
async fn a_half_close_after_any_kind_of_request_is_answered() {
    let bench = Bench::with(None, Clock::system(), |s| s.intake.max_body_bytes = 64 * 1024).await;
    let post = |id: &str| message("POST", "/in/default", &[JSON], &body("k", id));
    let old = String::from_utf8(post("old")).unwrap().replace("HTTP/1.1", "HTTP/1.0").into_bytes();
    let mut chunked = message("POST", "/in/default", &[JSON, ("Transfer-Encoding", "chunked")], b"");
    let event = body("k", "chunked");
    chunked.extend(format!("{:x}\r\n", event.len()).as_bytes());
    chunked.extend([&event[..], b"\r\n0\r\n\r\n"].concat());
    let whole = post("half");
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("two requests", [post("1"), post("2")].concat(), &["202", "202"]),
        ("chunked", chunked, &["202"]),
        ("a refusal", message("POST", "/in/nobody", &[JSON], b"{}"), &["404"]),
        ("a large refused one", message("POST", "/in/default", &[JSON], &[b' '; 100_000]), &["413"]),
        ("half a body", whole[..whole.len() - 5].to_vec(), &["400"]),
        ("a request, and half of one", [post("3"), whole[..whole.len() - 5].to_vec()].concat(), &["202", "400"]),
        ("no request", Vec::new(), &[]),
    ];
    for (what, bytes, wanted) in cases {
        assert_eq!(statuses(&ask(bench.intake, &bytes).await), wanted, "{what}");
    }
    let answer = ask(bench.intake, &old).await;
    assert!(answer.starts_with("HTTP/1.0 202 ") || answer.starts_with("HTTP/1.1 202 "), "{answer}");
    assert_eq!(bench.count("/counters/accepted").await, 5);
}

#[tokio::test]
async fn a_half_closed_admin_client_is_answered() {
    let bench = Bench::start(None).await;
    let auth = format!("Bearer {}", bench.token);
    for path in ["/healthz", "/v1/status", "/v1/events"] {
        let answer = ask(bench.admin, &message("GET", path, &[("Authorization", &auth)], b"")).await;
        assert_eq!(statuses(&answer), ["200"], "{path}: {answer}");
    }
}

#[tokio::test]
async fn a_tls_close_notify_after_the_request_is_answered() {
    let authority = Authority::new();
    authority.issue("server");
    let bench = Bench::with(None, Clock::system(), |s| s.intake.tls = Some(authority.files(None))).await;
    for (n, version) in [&rustls::version::TLS12, &rustls::version::TLS13].into_iter().enumerate() {
        for orderly in [true, false] {
            let mut stream = Client::new(&authority, &[version]).connect(&bench).await.unwrap();
            let event = body("k", &format!("{n}-{orderly}"));
            stream.write_all(&message("POST", "/in/default", &[JSON], &event)).await.unwrap();
            if orderly {
                stream.shutdown().await.unwrap(); // sends close_notify and shuts down the writing side
            } else {
                stream.flush().await.unwrap();
                stream.get_mut().0.shutdown().await.unwrap(); // shuts down TCP only, without close_notify
            }
            let (first, headers, body) = read_message(&mut BufReader::new(stream), false).await.unwrap();
            let reply = Reply { status: first[9..12].parse().unwrap(), headers, body };
            assert_eq!((reply.status, reply.json()["status"].as_str()), (202, Some("queued")));
        }
    }
}

/// A sender that disconnects at any point of a request occupies no slot: with one slot, a second sender is accepted.
#[tokio::test]
async fn i19_a_sender_that_left_occupies_no_slot() {
    let bench = Bench::with(None, Clock::system(), |s| {
        s.intake.max_connections = 1;
        s.intake.header_timeout = Duration::from_secs(300);
        s.intake.body_timeout = Duration::from_secs(300);
    })
    .await;
    let whole = message("POST", "/in/default", &[JSON], &body("k", "left"));
    for cut in [whole.len(), whole.len() - 1, 30, 0] {
        let mut gone = Connection::open(bench.intake).await;
        gone.send(&whole[..cut]).await;
        drop(gone);
        // the daemon notices the disconnect a moment later
        let next = body("k", &cut.to_string());
        wait_for("there is room", async || (bench.post(&next).await.status == 202).then_some(())).await;
    }
    for cut in [whole.len() - 1, 30, 0] {
        // half closed, and nothing that could be accepted: the connection ends by itself
        let answer = ask(bench.intake, &whole[..cut]).await;
        assert!(statuses(&answer).iter().all(|status| *status == "400"), "{cut}: {answer}");
    }
}
