//! Handshakes of senders before their first event, and unusual encodings that senders use.

use crate::harness::bench::{Bench, Connection, Reply, START, body, message, request, source};
use crate::harness::receiver::{Receiver, status};
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use holdline::clock::Clock;
use holdline::config::settings::{Handshake, OnFault, Secret, Settings, Source, SourceAuth};
use holdline::signature::Scheme;
use serde_json::{Value, json};
use std::cell::Cell;
use std::io::Write as _;
use std::path::Path;

const JSON: (&str, &str) = ("Content-Type", "application/json");

fn secret(folder: &Path, value: &str) -> Secret {
    let path = folder.join(format!("{value}.secret"));
    std::fs::write(&path, value).unwrap();
    Secret::File(path)
}

fn hmac(secret: &str, text: &[u8]) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    ring::hmac::sign(&key, text).as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut to = GzEncoder::new(Vec::new(), Compression::default());
    to.write_all(body).unwrap();
    to.finish().unwrap()
}

async fn with_sources(sources: Vec<Source>) -> Bench {
    Bench::with(None, Clock::manual(START), |s: &mut Settings| s.sources = sources).await
}

/// Asserts that a response is a token in plain text which no browser takes for anything else.
fn assert_inert(reply: &Reply, kind: &str) {
    assert_eq!(reply.header("content-type"), Some(kind));
    assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
}

#[tokio::test]
async fn a_zoom_validation_is_answered_and_nothing_else_is_signed() {
    let folder = tempfile::tempdir().unwrap();
    let scheme = Scheme::preset("zoom").unwrap();
    let secrets = vec![secret(folder.path(), "older"), secret(folder.path(), "zoom-secret")];
    let auth = vec![SourceAuth::Hmac { scheme, secrets }];
    let zoom = Source { auth, ..source("zoom", "auto") };
    let bench =
        with_sources(vec![zoom.clone(), source("open", "auto"), source("genesys", "genesys-eventbridge")]).await;
    let stamp = (START.0 / 1000).to_string();
    let post = async |secret: &str, body: &str| {
        let signature = format!("v0={}", hmac(secret, format!("v0:{stamp}:{body}").as_bytes()));
        let headers = [JSON, ("x-zm-signature", signature.as_str()), ("x-zm-request-timestamp", stamp.as_str())];
        bench.post_as("zoom", &headers, body.as_bytes()).await
    };
    let ask = |token: &str| {
        let token = serde_json::to_string(token).unwrap();
        format!(r#"{{"payload":{{"plainToken":{token}}},"event_ts":1654503849680,"event":"endpoint.url_validation"}}"#)
    };
    for secret in ["zoom-secret", "older"] {
        let reply = post(secret, &ask("qgg8vlvZRS6UYooatFL8Aw")).await;
        let encrypted = hmac(secret, b"qgg8vlvZRS6UYooatFL8Aw");
        assert_eq!(reply.status, 200);
        assert_eq!(reply.json(), json!({"plainToken": "qgg8vlvZRS6UYooatFL8Aw", "encryptedToken": encrypted}));
        assert_inert(&reply, "application/json");
    }
    assert_eq!(post("wrong", &ask("token")).await.status, 401);
    assert_eq!(bench.post_as("zoom", &[JSON], ask("token").as_bytes()).await.status, 401, "not signed");
    // content that a request signature can cover is never signed as a token
    let message = format!("v0:{stamp}:{{}}");
    for token in [message.as_str(), "{}", "", "a b", "a:b", "\u{e9}", &"x".repeat(129)] {
        let reply = post("zoom-secret", &ask(token)).await;
        assert_eq!((reply.status, reply.code().as_str()), (400, "invalid_request"), "{token}");
        assert!(!reply.text().contains(&hmac("zoom-secret", token.as_bytes())));
    }
    let reply = bench.post_as("open", &[JSON], ask("token").as_bytes()).await;
    assert_eq!((reply.status, reply.code().as_str()), (400, "invalid_request"), "without a secret it is told so");
    assert_eq!(bench.count("/counters/accepted").await, 0);
    let event = r#"{"event":"meeting.started","payload":{"plainToken":"x"},"event_ts":1}"#;
    assert_eq!(post("zoom-secret", event).await.json()["status"], "queued", "any other event is one");
    assert_eq!(bench.post_as("genesys", &[JSON], ask("token").as_bytes()).await.json()["status"], "queued");
}

#[tokio::test]
async fn a_secret_of_another_scheme_answers_no_zoom_validation() {
    let folder = tempfile::tempdir().unwrap();
    let auth = vec![SourceAuth::Hmac {
        scheme: Scheme { signed: "{body}".parse().unwrap(), stamp: None, ..Scheme::preset("zoom").unwrap() },
        secrets: vec![secret(folder.path(), "zoom-secret")],
    }];
    let bench = with_sources(vec![Source { auth, ..source("zoom", "auto") }]).await;
    let ask = r#"{"payload":{"plainToken":"12345"},"event":"endpoint.url_validation"}"#;
    let signature = format!("v0={}", hmac("zoom-secret", ask.as_bytes()));
    let reply = bench.post_as("zoom", &[JSON, ("x-zm-signature", &signature)], ask.as_bytes()).await;
    assert_eq!(reply.status, 400, "the answer would be the signature of the body 12345");
    assert!(!reply.text().contains(&hmac("zoom-secret", b"12345")));
}

#[tokio::test]
async fn an_sns_confirmation_is_neither_fetched_nor_delivered() {
    let (receiver, bait) = (Receiver::good().await, Receiver::good().await);
    let bench = Bench::with(receiver.to(), Clock::system(), |s| {
        s.sources = vec![source("any", "auto"), source("sns", "sns"), source("genesys", "genesys-eventbridge")];
    })
    .await;
    let ask = |kind: &str| {
        json!({"Type": kind, "MessageId": "165545c9", "Token": "2336412f37", "TopicArn": "arn:aws:sns:us-west-2:1:t",
            "Message": "You have chosen to subscribe", "SubscribeURL": bait.url(), "Timestamp": "2012-04-26T20:45:04.751Z",
            "SignatureVersion": "1", "Signature": "EXAMPLE", "SigningCertURL": bait.url()})
        .to_string()
    };
    for source in ["any", "sns"] {
        for kind in ["SubscriptionConfirmation", "UnsubscribeConfirmation"] {
            let headers = [("Content-Type", "text/plain; charset=UTF-8"), ("x-amz-sns-message-type", kind)];
            let reply = bench.post_as(source, &headers, ask(kind).as_bytes()).await;
            assert_eq!((reply.status, reply.json()), (200, json!({"status": "ignored"})), "{source} {kind}");
        }
    }
    assert_eq!(bench.post_as("genesys", &[JSON], ask("SubscriptionConfirmation").as_bytes()).await.status, 202);
    let notification = json!({"Type": "Notification", "MessageId": "m", "TopicArn": "arn:aws:sns:us-west-2:1:t",
        "Message": String::from_utf8(body("K", "1")).unwrap(), "Timestamp": "2012-04-26T20:45:04.751Z"})
    .to_string();
    let id = bench.post_as("sns", &[JSON], notification.as_bytes()).await.json()["id"].clone();
    bench.reaches("/counters/delivered", 2).await;
    let got = receiver.of(id.as_str().unwrap()).remove(0);
    assert_eq!((got.interaction(), &got.body), ("K", &notification.clone().into_bytes()));
    assert_eq!(bait.count(), 0, "no address out of a body is ever fetched");
}

#[tokio::test]
async fn microsoft_graph_gets_its_token_as_plain_text() {
    let folder = tempfile::tempdir().unwrap();
    let token = vec![secret(folder.path(), "key")];
    let closed =
        Source { auth: vec![SourceAuth::Query { name: "key".to_owned(), values: token }], ..source("closed", "auto") };
    let named =
        Source { handshakes: Some(vec![Handshake::MicrosoftGraph]), name: "named".to_owned(), ..closed.clone() };
    let genesys = source("genesys", "genesys-eventbridge");
    let none = Source { handshakes: Some(Vec::new()), ..source("none", "auto") };
    let bench = with_sources(vec![source("open", "auto"), closed, named, genesys, none]).await;
    let post = async |path: &str, body: &[u8]| request(bench.intake, "POST", path, &[], body).await;
    let text = "Validation: Testing client application reachability for subscription Request-Id: 522a8e7e+x";
    let query = "validationToken=Validation%3a+Testing+client%20application+reachability+for+subscription+Request-Id%3a+522a8e7e%2Bx";
    for path in [format!("/in/open?{query}"), format!("/in/closed?key=key&{query}"), format!("/in/named?{query}")] {
        for body in [&b""[..], b" ", b"{}"] {
            if body.is_empty() || !path.starts_with("/in/named") {
                let reply = post(&path, body).await;
                assert_eq!((reply.status, reply.text().as_str()), (200, text), "{path}");
                assert_inert(&reply, "text/plain; charset=utf-8");
            }
        }
    }
    assert_eq!(post(&format!("/in/closed?{query}"), b"").await.status, 401);
    assert_eq!(post(&format!("/in/genesys?{query}"), b"").await.status, 400);
    assert_eq!(post(&format!("/in/none?{query}"), b"").await.status, 400);
    for hostile in ["<script>alert(1)</script>", "a%00b", "a%0D%0AX-Evil:1", "%C3%A9", "", &"x".repeat(1025)] {
        let reply = post(&format!("/in/open?validationToken={hostile}"), b"").await;
        assert_eq!((reply.status, reply.header("x-evil")), (400, None), "{hostile}");
        assert!(!reply.text().contains("script"));
    }
    assert_eq!(bench.count("/counters/accepted").await, 0);
    let event = post(&format!("/in/open?{query}"), &body("k", "1")).await;
    assert_eq!(event.json()["status"], "queued", "an event that asks nothing is an event");
}

#[tokio::test]
async fn a_meta_validation_is_answered_with_the_agreed_token() {
    let folder = tempfile::tempdir().unwrap();
    let auth = vec![SourceAuth::Hmac {
        scheme: Scheme::preset("github").unwrap(),
        secrets: vec![secret(folder.path(), "app-secret")],
    }];
    let verify_token = vec![secret(folder.path(), "meatyhamhock")];
    let meta = Source { auth, verify_token, ..source("meta", "custom") };
    let bench = with_sources(vec![meta, source("other", "auto")]).await;
    let get = async |path: &str| request(bench.intake, "GET", path, &[], b"").await;
    let asked = "hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=";
    let reply = get(&format!("/in/meta?{asked}meatyhamhock")).await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "1158201444"));
    assert_inert(&reply, "text/plain; charset=utf-8");
    for wrong in ["", "meatyhamhoc", "meatyhamhock1", "MEATYHAMHOCK"] {
        assert_eq!(get(&format!("/in/meta?{asked}{wrong}")).await.status, 401, "{wrong}");
    }
    for not in ["", "?hub.mode=unsubscribe&hub.challenge=1&hub.verify_token=meatyhamhock"] {
        assert_eq!(get(&format!("/in/meta{not}")).await.status, 405, "{not}");
    }
    let hostile = "hub.mode=subscribe&hub.verify_token=meatyhamhock&hub.challenge=%3Cscript%3E";
    assert_eq!(get(&format!("/in/meta?{hostile}")).await.status, 405);
    assert_eq!(get(&format!("/in/other?{asked}meatyhamhock")).await.status, 405, "where no token was agreed on");
}

#[tokio::test]
async fn okta_slack_ringcentral_and_plain_challenges_are_answered() {
    let folder = tempfile::tempdir().unwrap();
    let auth = vec![SourceAuth::Bearer { tokens: vec![secret(folder.path(), "s3cret")] }];
    let bench = with_sources(vec![source("open", "auto"), Source { auth, ..source("closed", "auto") }]).await;
    let send = async |method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]| {
        request(bench.intake, method, path, headers, body).await
    };
    let okta = ("x-okta-verification-challenge", "a1b2-c3");
    let bearer = ("Authorization", "Bearer s3cret");
    for (path, headers) in [("/in/open", vec![okta]), ("/in/closed", vec![okta, bearer])] {
        let reply = send("GET", path, &headers, b"").await;
        assert_eq!((reply.status, reply.json()), (200, json!({"verification": "a1b2-c3"})));
        assert_inert(&reply, "application/json");
    }
    assert_eq!(send("GET", "/in/closed", &[okta], b"").await.status, 405);
    assert_eq!(send("GET", "/in/open", &[("x-okta-verification-challenge", "<b>")], b"").await.status, 405);

    let slack = br#"{"token":"Jhj5dZrVaK7ZwHHjRyZWjbDl","challenge":"3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P","type":"url_verification"}"#;
    let reply = send("POST", "/in/open", &[JSON], slack).await;
    let answer = json!({"challenge": "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P"});
    assert_eq!((reply.status, reply.json()), (200, answer));
    assert_eq!(send("POST", "/in/closed", &[JSON], slack).await.status, 401);

    let reply = send("POST", "/in/open", &[("Validation-Token", "f00-ba4")], b"").await;
    assert_eq!((reply.status, reply.header("validation-token")), (200, Some("f00-ba4")));
    let event = send("POST", "/in/open", &[JSON, ("Validation-Token", "f00-ba4")], &body("k", "1")).await;
    assert_eq!(event.json()["status"], "queued");

    let reply = send("GET", "/in/open?challenge=abc123", &[], b"").await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "abc123"));
    assert_inert(&reply, "text/plain; charset=utf-8");
    assert_eq!(send("GET", "/in/closed?challenge=abc123", &[], b"").await.status, 405);
    assert_eq!(bench.count("/counters/accepted").await, 1);
}

#[tokio::test]
async fn a_401_lists_the_accepted_auth_schemes() {
    let folder = tempfile::tempdir().unwrap();
    let secrets = || vec![secret(folder.path(), "s3cret")];
    let bearer = || SourceAuth::Bearer { tokens: secrets() };
    let hmac = || SourceAuth::Hmac { scheme: Scheme::preset("github").unwrap(), secrets: secrets() };
    let header = SourceAuth::Header { name: "x-private-name".parse().unwrap(), values: secrets() };
    let query = SourceAuth::Query { name: "private-name".to_owned(), values: secrets() };
    let basic = SourceAuth::Basic { user: "private-user".to_owned(), passwords: secrets() };
    let cases: Vec<(Vec<SourceAuth>, Vec<&str>)> = vec![
        (vec![bearer()], vec![r#"Bearer realm="holdline""#]),
        (vec![basic], vec![r#"Basic realm="holdline", charset="UTF-8""#]),
        (vec![header, query], vec![r#"ApiKey realm="holdline""#]),
        (vec![hmac(), bearer()], vec![r#"Bearer realm="holdline""#, r#"HMAC realm="holdline""#]),
    ];
    let sources =
        cases.iter().enumerate().map(|(n, (auth, _))| Source { auth: auth.clone(), ..source(&n.to_string(), "auto") });
    let bench = with_sources(sources.collect()).await;
    let wrong = ("X-Hub-Signature-256", "sha256=00");
    for (n, (_, challenges)) in cases.iter().enumerate() {
        for headers in [vec![JSON], vec![JSON, wrong]] {
            let reply = bench.post_as(&n.to_string(), &headers, b"{}").await;
            let told: Vec<_> = reply.headers.iter().filter(|(name, _)| name == "www-authenticate").collect();
            assert_eq!(reply.status, 401);
            assert_eq!(told.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>(), *challenges);
            assert!(!format!("{:?}", reply.headers).contains("private"));
        }
    }
    let named = bench.post_as("nobody", &[JSON], b"{}").await;
    assert_eq!((named.status, named.header("www-authenticate")), (404, None));
}

#[tokio::test]
async fn i6_a_byte_order_mark_is_tolerated_signed_and_kept() {
    let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::good().await);
    let auth = vec![SourceAuth::Hmac {
        scheme: Scheme::preset("github").unwrap(),
        secrets: vec![secret(folder.path(), "s3cret")],
    }];
    let bench = Bench::with(receiver.to(), Clock::system(), |s| {
        s.sources.push(Source { auth, ..source("signed", "auto") });
    })
    .await;
    let marked = [b"\xEF\xBB\xBF".as_slice(), &body("K", "1")].concat();
    let signature = format!("sha256={}", hmac("s3cret", &marked));
    for (source, headers) in [("default", vec![JSON]), ("signed", vec![JSON, ("X-Hub-Signature-256", &signature)])] {
        let reply = bench.post_as(source, &headers, &marked).await;
        assert_eq!(reply.status, 202, "{}", reply.text());
    }
    for got in receiver.received(2).await {
        assert_eq!((got.interaction(), &got.body), ("K", &marked));
    }
}

#[tokio::test]
async fn i6_a_compressed_body_is_verified_as_sent_and_delivered_decoded() {
    let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::good().await);
    let auth = vec![SourceAuth::Hmac {
        scheme: Scheme::preset("github").unwrap(),
        secrets: vec![secret(folder.path(), "s3cret")],
    }];
    let bench = Bench::with(receiver.to(), Clock::system(), |s| {
        s.intake.max_body_bytes = 64 * 1024;
        s.sources.push(Source { auth, on_invalid_body: OnFault::Quarantine, ..source("signed", "auto") });
    })
    .await;
    let event = |n: u32| [body("K", &n.to_string()), b" ".repeat(60_000)].concat();
    let packed = gzip(&event(1));
    assert!(packed.len() < 1_000);
    let signature = format!("sha256={}", hmac("s3cret", &packed));
    let coding = ("Content-Encoding", "gzip");
    let signed = [JSON, coding, ("X-Hub-Signature-256", signature.as_str())];
    assert_eq!(bench.post_as("signed", &signed, &packed).await.json()["status"], "queued");
    let of_meaning = format!("sha256={}", hmac("s3cret", &event(1)));
    let reply = bench.post_as("signed", &[JSON, coding, ("X-Hub-Signature-256", &of_meaning)], &packed).await;
    assert_eq!(reply.status, 401, "what was meant is not what was signed");
    // compressed or not, it is the same event
    let plain = bench.post_as("signed", &[JSON, ("X-Hub-Signature-256", &of_meaning)], &event(1)).await;
    assert_eq!(plain.json()["status"], "duplicate");

    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
    zlib.write_all(&event(2)).unwrap();
    let zlib = zlib.finish().unwrap();
    let codings: [(&str, &[u8]); 6] = [
        ("deflate", &zlib),
        ("X-GZip", &gzip(&event(3))),
        ("", &event(4)),
        ("identity", &event(5)),
        ("utf-8", &event(6)),
        ("gzip", &event(7)),
    ];
    for (coding, body) in codings {
        let reply = bench.post_as("default", &[JSON, ("Content-Encoding", coding)], body).await;
        assert_eq!(reply.json()["status"], "queued", "{coding}: {}", reply.text());
    }
    let all = receiver.received(7).await;
    for n in 1..=7 {
        let got = all.iter().find(|got| got.sequence() == n).unwrap();
        assert_eq!((&got.body, got.header("content-encoding"), got.interaction()), (&event(n as u32), None, "K"));
    }
    bench.reaches("/counters/delivered", 7).await;

    let cut = &packed[..packed.len() - 4];
    let signature = format!("sha256={}", hmac("s3cret", cut));
    let reply = bench.post_as("signed", &[JSON, coding, ("X-Hub-Signature-256", &signature)], cut).await;
    assert_eq!(reply.json()["status"], "quarantined", "what does not unpack cannot be read");
    for (coding, body, status) in [
        ("gzip", gzip(&b" ".repeat(64 * 1024 + 1)), 413),
        ("gzip", gzip(&vec![0; 64 << 20]), 413),
        ("gzip", cut.to_vec(), 400),
        ("br", b"{}".to_vec(), 415),
        ("zstd", b"{}".to_vec(), 415),
        ("gzip, deflate", b"{}".to_vec(), 415),
        ("nonsense", b"not JSON".to_vec(), 415),
    ] {
        let reply = bench.post_as("default", &[JSON, ("Content-Encoding", coding)], &body).await;
        assert_eq!(reply.status, status, "{coding}");
        assert_eq!(reply.header("accept-encoding"), (status == 415).then_some("gzip, deflate"));
    }
    assert_eq!(bench.count("/counters/accepted").await, 7);
    assert_eq!(bench.post(&body("k", "9")).await.status, 202, "and what was set aside for them is given back");
}

#[tokio::test]
async fn every_spelling_of_a_path_reaches_its_source() {
    let bench = with_sources(vec![source("genesys", "auto")]).await;
    for path in ["/in/genesys", "/in/genesys/", "/in/gene%73ys", "//in/genesys", "/in/%67enesys/?x=/"] {
        let reply = request(bench.intake, "POST", path, &[JSON], &body("k", path)).await;
        assert_eq!(reply.json()["status"], "queued", "{path}");
    }
    for path in ["/in/genesys/x", "/in/gene%2573ys", "/in/genesys%2F", "/in/GENESYS", "/in/", "/genesys"] {
        let reply = request(bench.intake, "POST", path, &[JSON], &body("k", path)).await;
        assert_eq!((reply.status, reply.code().as_str()), (404, "unknown_source"), "{path}");
    }
}

#[tokio::test]
async fn i7_a_request_must_have_one_host() {
    let bench = with_sources(vec![source("default", "auto")]).await;
    let event = body("k", "1");
    let length = event.len();
    for (head, status) in [
        ("POST /in/default HTTP/1.1\r\nHost: a", 202),
        ("POST /in/default HTTP/1.0", 202),
        ("POST http://a/in/default HTTP/1.1\r\nHost: b", 202),
        ("POST /in/default HTTP/1.1", 400),
        ("POST /in/default HTTP/1.1\r\nHost: a\r\nHost: b", 400),
        ("POST /in/default HTTP/1.1\r\nHost: a\r\nX: y\r\nhost: a", 400),
        ("POST /in/default HTTP/1.0\r\nHost: a\r\nHost: b", 400),
        ("POST /in/default HTTP/1.1\r\nHost: a, b", 400),
        ("POST /in/default HTTP/1.1\r\nHost: user@a", 400),
        ("HEAD /in/default HTTP/1.1", 400),
    ] {
        let mut connection = Connection::open(bench.intake).await;
        connection.send(format!("{head}\r\nContent-Length: {length}\r\n\r\n").as_bytes()).await;
        connection.send(&event).await;
        let reply = connection.reply_to(&head[..4]).await.unwrap();
        assert_eq!(reply.status, status, "{head:?}");
    }
}

#[tokio::test]
async fn a_validation_request_does_not_count_as_traffic() {
    let bench = with_sources(vec![source("genesys", "auto")]).await;
    let silent = async || {
        let metrics = bench.admin("GET", "/metrics", b"").await.text();
        let line = metrics.lines().find(|l| l.starts_with("holdline_source_idle_seconds{")).unwrap().to_owned();
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    bench.clock.advance(std::time::Duration::from_secs(100));
    for (method, path) in [("HEAD", "/in/genesys"), ("OPTIONS", "/in/genesys"), ("GET", "/in/genesys?challenge=x")] {
        let mut connection = Connection::open(bench.intake).await;
        connection.send(&message(method, path, &[], b"")).await;
        assert_eq!(connection.reply_to(method).await.unwrap().status, 200);
    }
    assert_eq!(silent().await, 100.0);
    assert_eq!(bench.post_as("genesys", &[JSON], &Value::from(1).to_string().into_bytes()).await.status, 202);
    assert_eq!(silent().await, 0.0);
}

#[tokio::test]
async fn refusals_are_labelled_by_known_sources_only() {
    let folder = tempfile::tempdir().unwrap();
    let auth = vec![SourceAuth::Bearer { tokens: vec![secret(folder.path(), "s3cret")] }];
    let bench = with_sources(vec![source("open", "auto"), Source { auth, ..source("closed", "auto") }]).await;
    for _ in 0..3 {
        assert_eq!(bench.post_as("closed", &[JSON], b"{}").await.status, 401);
    }
    assert_eq!(bench.post_as("open", &[JSON], b"nonsense").await.status, 400);
    assert_eq!(bench.post_as("open", &[JSON, ("Content-Encoding", "br")], b"{}").await.status, 415);
    assert_eq!(bench.post_as("open", &[JSON], b"{}").await.status, 202);
    for n in 0..20 {
        let path = format!("/in/stranger-{n}");
        assert_eq!(request(bench.intake, "POST", &path, &[JSON], b"{}").await.status, 404);
    }
    let shown = bench.status().await;
    let of = |name: &str| {
        let all = shown["sources"].as_array().unwrap();
        all.iter().find(|item| item["name"] == name).cloned().unwrap_or_else(|| panic!("{name}: {shown}"))
    };
    let unauthorized = json!([{"status": 401, "code": "unauthorized", "count": 3}]);
    assert_eq!((&of("closed")["refused"], &of("closed")["refusals"]), (&json!(3), &unauthorized));
    assert_eq!((&of("closed")["last_event_at"], &of("open")["refused"]), (&json!(null), &json!(2)));
    assert_eq!(of("open")["last_event_at"], json!(START.to_string()));
    let unknown = json!([{"status": 404, "code": "unknown_source", "count": 20}]);
    assert_eq!((&of("(unknown)")["refusals"], shown["sources"].as_array().unwrap().len()), (&unknown, 3));
    let metrics = bench.admin("GET", "/metrics", b"").await.text();
    for line in [
        r#"holdline_intake_refused_total{source="closed",status="401",code="unauthorized"} 3"#,
        r#"holdline_intake_refused_total{source="open",status="415",code="unsupported_encoding"} 1"#,
        r#"holdline_intake_refused_total{source="(unknown)",status="404",code="unknown_source"} 20"#,
    ] {
        assert!(metrics.lines().any(|own| own == line), "{line}");
    }
    assert!(!metrics.contains("stranger") && !shown.to_string().contains("stranger"));
}

#[tokio::test]
async fn a_cloud_event_in_binary_mode_keeps_its_attributes_and_its_trace() {
    // also for an event that waits for its second attempt
    let receiver = Receiver::start(|r| if r.attempt() == 1 { status(503) } else { status(200) }).await;
    let bench = Bench::start(receiver.to()).await;
    let attributes = [
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "/s"),
        ("ce-type", "t"),
        ("ce-subject", "Euro%20%E2%82%AC"),
        ("ce-mine", "x: y"),
        ("tracestate", "a=1"),
        ("baggage", "k=v"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ];
    let secret = ("Authorization", "Bearer never");
    let sent = [&attributes[..], &[JSON, secret, ("X-Other", "1"), ("ce-", "1")]].concat();
    let id = bench.post_as("default", &sent, b"[1]").await.json()["id"].as_str().unwrap().to_owned();
    bench.reaches("/counters/delivered", 1).await;
    let all = receiver.of(&id);
    assert_eq!(all.len(), 2);
    for (got, (name, value)) in all.iter().flat_map(|got| attributes.iter().map(move |own| (got, own))) {
        assert_eq!(got.header(name), Some(*value), "{name}");
    }
    let got = &all[1];
    assert_eq!((got.header("authorization"), got.header("x-other"), got.header("ce-")), (None, None, None));
    assert_eq!(got.interaction(), "Euro %E2%82%AC");
    // the headers of a batch do not describe its events
    let batch = json!([{"specversion": "1.0", "id": "2", "source": "/s", "type": "t"}]).to_string();
    let kind = ("Content-Type", "application/cloudevents-batch+json");
    let reply = bench.post_as("default", &[kind, ("ce-subject", "x"), ("tracestate", "a=1")], batch.as_bytes()).await;
    let id = reply.json()["ids"][0].as_str().unwrap().to_owned();
    bench.reaches("/counters/delivered", 2).await;
    let got = receiver.of(&id).remove(0);
    assert_eq!((got.header("ce-subject"), got.header("tracestate"), got.interaction()), (None, Some("a=1"), ""));
}

#[tokio::test]
async fn events_beyond_the_memory_limit_get_503() {
    let bench = Bench::with(None, Clock::system(), |s: &mut Settings| {
        s.intake.max_buffered_bytes = 1 << 20;
        s.intake.max_body_bytes = 1 << 20;
        let key = vec![vec!["header:x-key".to_owned()]];
        let pointers =
            holdline::config::settings::Pointers { key: Some(key), split: Some(String::new()), ..Default::default() };
        s.sources.push(Source { pointers, ..source("batches", "custom") });
    })
    .await;
    let batch = format!("[{}]", vec!["1"; 900].join(","));
    let long = "k".repeat(30_000);
    let headers = [JSON, ("X-Key", long.as_str())];
    // alone it is accepted, although it needs more memory than the limit
    let reply = bench.post_as("batches", &headers, batch.as_bytes()).await;
    assert_eq!((reply.status, reply.json()["accepted"].clone()), (202, json!(900)));
    let shown = bench.get(&format!("/v1/events?interaction={long}&limit=1")).await;
    assert_eq!(shown["items"].as_array().map(Vec::len), Some(1), "a long key is found too: {shown}");
    // a body that is still being received is evicted for it
    let slow = message("POST", "/in/batches", &[JSON], &[b' '; 1000]);
    let mut other = Connection::open(bench.intake).await;
    other.send(&slow[..slow.len() - 1]).await;
    let answered = Cell::new(false);
    let batches = async {
        while !answered.get() {
            assert_eq!(bench.post_as("batches", &headers, batch.as_bytes()).await.status, 202);
        }
    };
    let gives_way = async {
        let reply = other.reply().await.unwrap();
        answered.set(true);
        reply
    };
    let (gave_way, ()) = tokio::join!(gives_way, batches);
    let is_for_memory = |reply: &Reply| reply.status == 503 && reply.text().contains("bodies are being received");
    assert!(is_for_memory(&gave_way), "{}", gave_way.text());
    // a body that has been received completely is not
    let whole = message("POST", "/in/batches", &headers, batch.as_bytes());
    let refused = crate::harness::bench::wait_for("there is no room", async || {
        let mut senders = Vec::new();
        for _ in 0..4 {
            let mut sender = Connection::open(bench.intake).await;
            sender.send(&whole).await;
            senders.push(sender);
        }
        let mut replies = Vec::new();
        for sender in &mut senders {
            replies.push(sender.reply().await.unwrap());
        }
        replies.into_iter().find(is_for_memory)
    })
    .await;
    assert_eq!(refused.header("retry-after"), Some("1"));
    let small = bench.post_as("default", &[JSON], &body("k", "1")).await;
    assert_eq!(small.status, 202, "a small one passes: {}", small.text());
}
