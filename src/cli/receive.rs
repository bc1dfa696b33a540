//! `holdline receive`: a test destination. It prints each request and can fail on purpose.
//!
//! *Invariants.* Whether a request fails depends only on its event id and attempt, so runs are reproducible. Content of
//! requests is printed without anything that acts on the terminal.

use crate::cli::{Failure, format, output, process};
use crate::clock::Clock;
use crate::config::settings::Secret;
use crate::net::listener;
use crate::signature::{Scheme, Verifier};
use crate::time::Timestamp;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Arguments of `holdline receive`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to listen: an address with its port, or a port on 127.0.0.1
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:9000", value_parser = parse_address)]
    address: SocketAddr,
    /// Share of the requests that get --status, from 0 to 1; the same event and attempt always get the same answer
    /// [default: 0, or 1 with --status]
    #[arg(long, value_name = "RATIO", value_parser = parse_ratio)]
    fail: Option<f64>,
    /// What a failing request is answered with [default: 503]
    #[arg(long, value_name = "STATUS", value_parser = clap::value_parser!(u16).range(200..=599))]
    status: Option<u16>,
    /// Wait before each answer (200ms, 5s)
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    delay: Option<Duration>,
    /// Check the signature of each request (Standard Webhooks) with the secret in this file or environment variable
    #[arg(long, value_name = "FILE|env:NAME")]
    verify: Option<String>,
    /// End after this many requests
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Print the bodies too
    #[arg(long)]
    body: bool,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// The longest body that is read.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The time limit for sending the last responses after the last request was printed.
const END_TIMEOUT: Duration = Duration::from_secs(2);

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.trim_start_matches(':').parse() {
        return Ok((IpAddr::V4(Ipv4Addr::LOCALHOST), port).into());
    }
    text.parse().map_err(|_| "write IP:PORT, such as 127.0.0.1:9000, or a port".to_owned())
}

fn parse_ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| "write a number from 0 to 1, such as 0.1".to_owned())
}

/// Receives and prints requests until Ctrl-C, or until `--count` requests have arrived.
pub async fn run(args: Args) -> Result<(), Failure> {
    let mut terminations = process::terminations().map_err(|e| Failure::io("cannot listen for signals", e))?;
    let verifier = args.verify.as_deref().map(verifier).transpose()?;
    let listener = TcpListener::bind(args.address).await.map_err(|e| {
        Failure::io(format!("cannot listen on {} (name another address: holdline receive ADDR)", args.address), e)
    })?;
    let address = listener.local_addr().map_err(|e| Failure::io("cannot read the address listened on", e))?;
    let (send, mut requests) = mpsc::unbounded_channel();
    let receiver = Arc::new(Receiver {
        clock: Clock::system(),
        fail: args.fail.unwrap_or_else(|| if args.status.is_some() { 1.0 } else { 0.0 }),
        status: StatusCode::from_u16(args.status.unwrap_or(503)).unwrap_or(StatusCode::SERVICE_UNAVAILABLE),
        delay: args.delay.unwrap_or_default(),
        verifier,
        received: AtomicU64::new(0),
        count: args.count.unwrap_or(u64::MAX),
        requests: send,
    });
    output::note(&format!("listening on http://{address}/; Ctrl-C ends it"));
    let (stop, clock) = (CancellationToken::new(), receiver.clock.clone());
    let service = service_fn(move |request| answer(receiver.clone(), request));
    let server = tokio::spawn(serve(listener, service, stop.clone()));
    let printed = tokio::select! {
        printed = print(&mut requests, &args) => printed,
        _ = terminations.recv() => Ok(()),
    };
    stop.cancel();
    let deadline = clock.now().after(args.delay.unwrap_or_default() + END_TIMEOUT);
    tokio::select! {
        _ = server => {}
        _ = terminations.recv() => {}
        () = clock.sleep_until(deadline) => {}
    }
    printed
}

fn verifier(place: &str) -> Result<Verifier, Failure> {
    let secret = match place.strip_prefix("env:") {
        Some(name) => Secret::Env(name.to_owned()),
        None => Secret::File(place.into()),
    };
    let value = secret.read().map_err(|why| Failure::Usage(format!("--verify: {why}")))?;
    let scheme = Scheme::preset("standard-webhooks").expect("the preset is in the table");
    Verifier::new(scheme, [value.expose()]).map_err(|fault| Failure::Usage(format!("--verify: {secret}: {fault}")))
}

/// Prints requests as they arrive; returns after `--count` of them.
async fn print(requests: &mut UnboundedReceiver<Received>, args: &Args) -> Result<(), Failure> {
    let mut printed = 0;
    while let Some(request) = requests.recv().await {
        if args.json {
            output::json_text(&format!("{}\n", request.json(args.body)))?;
        } else {
            output::text(&request.text(args.body))?;
        }
        printed += 1;
        if args.count == Some(printed) {
            break;
        }
    }
    Ok(())
}

/// Serves HTTP/1.1 connections until `stop`; returns when the requests in progress have their responses.
pub async fn serve<S>(listener: TcpListener, service: S, stop: CancellationToken)
where
    S: Service<Request<Incoming>, Response = Response<Full<Bytes>>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            listener::pause().await;
            continue;
        };
        let (service, stop) = (service.clone(), stop.clone());
        connections.spawn(async move {
            let mut connection = pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            tokio::select! {
                // the service or the client closed the connection early
                _ = connection.as_mut() => return,
                () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
        });
    }
    connections.close();
    connections.wait().await;
}

/// How requests are answered, and the channel that reports them.
struct Receiver {
    clock: Clock,
    fail: f64,
    status: StatusCode,
    delay: Duration,
    verifier: Option<Verifier>,
    received: AtomicU64,
    /// The number of requests that are answered; later ones are refused.
    count: u64,
    requests: UnboundedSender<Received>,
}

/// Reports a request, waits, and answers it.
async fn answer(receiver: Arc<Receiver>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, anyhow::Error> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map_err(anyhow::Error::from_boxed)?.to_bytes();
    if receiver.received.fetch_add(1, Ordering::Relaxed) >= receiver.count {
        return Ok(response(StatusCode::SERVICE_UNAVAILABLE));
    }
    let header = |name: &str| head.headers.get(name).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    let event_id = header("holdline-event-id");
    let attempt = header("holdline-attempt").and_then(|text| text.parse().ok());
    let at = receiver.clock.wall();
    let received = Received {
        at,
        method: head.method.to_string(),
        path: head.uri.to_string(),
        status: receiver.status_for(event_id.as_deref(), attempt, &body),
        event_id,
        event_type: header("holdline-event-type"),
        interaction: header("holdline-interaction-id"),
        attempt,
        signature: receiver.verifier.as_ref().map(|verifier| Signature::of(verifier, &head.headers, &body, at)),
        body,
    };
    let status = received.status;
    // the printer has ended, and the command is about to end too
    let _ = receiver.requests.send(received);
    receiver.clock.sleep_until(receiver.clock.now().after(receiver.delay)).await;
    Ok(response(status))
}

fn response(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

impl Receiver {
    /// The status for an attempt. A request without an event id is identified by its body.
    fn status_for(&self, event_id: Option<&str>, attempt: Option<u32>, body: &[u8]) -> StatusCode {
        let mut hash = Sha256::new();
        hash.update(event_id.map_or(body, str::as_bytes));
        hash.update(attempt.unwrap_or_default().to_be_bytes());
        let digest = hash.finalize();
        let number = digest.iter().take(4).fold(0, |number, byte| number << 8 | u32::from(*byte));
        if f64::from(number) < self.fail * (f64::from(u32::MAX) + 1.0) { self.status } else { StatusCode::OK }
    }
}

/// The result of a signature check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signature {
    Good,
    /// Wrong secret, modified body, or a timestamp too far from now.
    Bad,
    Missing,
}

impl Signature {
    fn of(verifier: &Verifier, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Self {
        if !headers.contains_key(&verifier.scheme().header) {
            return Self::Missing;
        }
        match verifier.claim(headers, now) {
            Some(claim) if verifier.verify(&claim, body) => Self::Good,
            _ => Self::Bad,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Bad => "bad",
            Self::Missing => "missing",
        }
    }
}

/// A request, and the status of its response.
#[derive(Debug)]
struct Received {
    at: Timestamp,
    method: String,
    path: String,
    status: StatusCode,
    event_id: Option<String>,
    event_type: Option<String>,
    interaction: Option<String>,
    attempt: Option<u32>,
    signature: Option<Signature>,
    body: Bytes,
}

impl Received {
    /// One line; with `bodies` also the body, indented if it is JSON.
    fn text(&self, bodies: bool) -> String {
        let time = self.at.to_string();
        let mut line = format!(
            "{} {} {} {}  {}  {}",
            time.get(11..23).unwrap_or(&time),
            self.method,
            self.path,
            self.status.as_u16(),
            self.event_id.as_deref().unwrap_or("-"),
            self.event_type.as_deref().unwrap_or("-"),
        );
        if let Some(interaction) = &self.interaction {
            line.push_str(&format!("  interaction {interaction}"));
        }
        if let Some(attempt) = self.attempt {
            line.push_str(&format!("  attempt {attempt}"));
        }
        line.push_str(&format!("  {}", format::bytes(self.body.len() as u64)));
        if let Some(signature) = self.signature {
            line.push_str(&format!("  signature {}", signature.word()));
        }
        let mut text: String = line.chars().map(format::harmless).collect();
        text.push('\n');
        if bodies {
            match serde_json::from_slice::<Value>(&self.body) {
                Ok(value) => text.push_str(&format!("{:#}", output::cleaned(value))),
                Err(_) => text.push_str(&output::without_escapes(&String::from_utf8_lossy(&self.body))),
            }
            text.push('\n');
        }
        text
    }

    fn json(&self, bodies: bool) -> Value {
        let mut value = json!({
            "at": self.at.to_string(), "method": self.method, "path": self.path, "status": self.status.as_u16(),
            "event_id": self.event_id, "type": self.event_type, "interaction": self.interaction,
            "attempt": self.attempt, "bytes": self.body.len(),
        });
        if let Some(signature) = self.signature {
            value["signature"] = signature.word().into();
        }
        if bodies {
            let text = || String::from_utf8_lossy(&self.body).into_owned().into();
            value["body"] = serde_json::from_slice(&self.body).unwrap_or_else(|_| text());
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receiver(fail: f64) -> Receiver {
        Receiver {
            clock: Clock::manual(Timestamp(0)),
            fail,
            status: StatusCode::BAD_GATEWAY,
            delay: Duration::ZERO,
            verifier: None,
            received: AtomicU64::new(0),
            count: u64::MAX,
            requests: mpsc::unbounded_channel().0,
        }
    }

    fn received() -> Received {
        Received {
            at: Timestamp(1_773_957_888_128),
            method: "POST".to_owned(),
            path: "/hooks".to_owned(),
            status: StatusCode::OK,
            event_id: Some("a:1".to_owned()),
            event_type: Some("v2.x".to_owned()),
            interaction: Some("k".to_owned()),
            attempt: Some(2),
            signature: Some(Signature::Good),
            body: Bytes::from_static(b"{\"a\":\"\x7f\"}"),
        }
    }

    #[test]
    fn the_failing_share_is_as_large_as_asked_and_repeats() {
        let fails = |fail: f64| -> Vec<bool> {
            let receiver = receiver(fail);
            (0..2000).map(|n| receiver.status_for(Some(&n.to_string()), Some(1), b"") != StatusCode::OK).collect()
        };
        let count = |fail| fails(fail).into_iter().filter(|failed| *failed).count();
        assert_eq!((count(0.0), count(1.0)), (0, 2000));
        assert!((350..450).contains(&count(0.2)), "{}", count(0.2));
        assert_eq!(fails(0.2), fails(0.2));
        let receiver = receiver(0.5);
        let of = |attempt| (1..20).any(|n| receiver.status_for(Some("a"), Some(n), b"") != attempt);
        assert!(of(StatusCode::OK) && of(StatusCode::BAD_GATEWAY), "attempts of one event differ");
    }

    #[test]
    fn a_request_is_one_line_and_its_body_is_indented() {
        let line = "22:04:48.128 POST /hooks 200  a:1  v2.x  interaction k  attempt 2  9 B  signature good\n";
        assert_eq!(received().text(false), line);
        assert_eq!(received().text(true), format!("{line}{{\n  \"a\": \" \"\n}}\n"));
        let bare = Received { event_id: None, event_type: None, interaction: None, attempt: None, ..received() };
        let bare = Received { signature: None, path: "/\u{9b}x".to_owned(), ..bare };
        assert_eq!(bare.text(false), "22:04:48.128 POST / x 200  -  -  9 B\n");
        let value = received().json(true);
        assert_eq!(
            (&value["status"], &value["attempt"], &value["body"]["a"]),
            (&json!(200), &json!(2), &json!("\x7f"))
        );
    }

    #[test]
    fn addresses_and_ratios_are_checked() {
        assert_eq!(parse_address("9000").unwrap(), "127.0.0.1:9000".parse().unwrap());
        assert_eq!(parse_address(":0").unwrap(), "127.0.0.1:0".parse().unwrap());
        assert_eq!(parse_address("[::1]:5").unwrap(), "[::1]:5".parse().unwrap());
        assert!(parse_address("localhost").is_err() && parse_address("70000").is_err());
        assert_eq!(parse_ratio("0.25"), Ok(0.25));
        assert!(["-0.1", "1.1", "NaN", "x"].iter().all(|text| parse_ratio(text).is_err()));
    }

    #[test]
    fn a_signature_is_good_bad_or_missing() {
        let secret =
            |byte: u8| format!("whsec_{}", base64::Engine::encode(&base64::prelude::BASE64_STANDARD, [byte; 32]));
        let scheme = Scheme::preset("standard-webhooks").unwrap();
        let verifier = Verifier::new(scheme, [secret(1).as_str()]).unwrap();
        let now = Timestamp(1_800_000_000_000);
        let signed = verifier.headers_for(b"{}", "msg_1", now);
        let headers: HeaderMap = signed.into_iter().map(|(name, value)| (name, value.parse().unwrap())).collect();
        let found = |body: &[u8], now| Signature::of(&verifier, &headers, body, now);
        assert_eq!(found(b"{}", now), Signature::Good);
        assert_eq!(found(b"{ }", now), Signature::Bad);
        assert_eq!(found(b"{}", now.after(Duration::from_secs(3600))), Signature::Bad);
        assert_eq!(Signature::of(&verifier, &HeaderMap::new(), b"{}", now), Signature::Missing);
    }
}
