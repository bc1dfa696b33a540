//! Delivers messages: POST to a webhook, or a command that reads them from its standard input. A failed delivery is
//! retried for [`GIVE_UP_AFTER`].

use super::evaluator::Message;
use crate::clock::Clock;
use crate::config::settings::{Alert, AlertTo};
use bytes::Bytes;
use http::{Method, Request, Uri, header};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Timeout of one attempt.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(20);
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(3600);

type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Why messages cannot be delivered at all.
#[derive(Debug, thiserror::Error)]
pub enum SenderError {
    #[error("{0}")]
    Url(String),
    #[error("the system's certificate authorities cannot be read: {0}")]
    Roots(std::io::Error),
}

pub struct Sender(Transport);

enum Transport {
    Webhook { url: Uri, client: Box<HttpClient> },
    Command(Vec<String>),
}

impl Sender {
    pub fn new(alert: &Alert) -> Result<Self, SenderError> {
        match &alert.to {
            AlertTo::Command(command) => Ok(Self(Transport::Command(command.clone()))),
            AlertTo::Webhook(url) => {
                let url = url.read().map_err(|why| SenderError::Url(why.to_string()))?;
                let roots = HttpsConnectorBuilder::new().with_native_roots();
                let roots = roots.map_err(SenderError::Roots)?;
                let connector = roots.https_or_http().enable_http1().build();
                let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
                Ok(Self(Transport::Webhook { url, client: Box::new(client) }))
            }
        }
    }

    /// Delivers messages in order, until `stop`; `done` gets `place` whenever one is delivered or dropped.
    pub async fn run(
        self,
        mut messages: mpsc::UnboundedReceiver<Message>,
        (place, done): (usize, mpsc::UnboundedSender<usize>),
        clock: Clock,
        stop: CancellationToken,
    ) {
        while let Some(Some(message)) = stop.run_until_cancelled(messages.recv()).await {
            let delivered = stop.run_until_cancelled(self.deliver(&message, &clock)).await;
            let Some(delivered) = delivered else { return };
            if let Err(why) = delivered {
                tracing::error!(alert = message.alert, why, "an alert could not be delivered and is dropped");
            }
            let _ = done.send(place); // the receiver has ended during a stop
        }
    }

    async fn deliver(&self, message: &Message, clock: &Clock) -> Result<(), String> {
        let text = serde_json::to_string(message).map_err(|e| e.to_string())?;
        let give_up = clock.now().after(GIVE_UP_AFTER);
        let mut pause = PAUSE_FIRST;
        loop {
            let attempt = tokio::time::timeout(ATTEMPT_TIMEOUT, self.attempt(&text)).await;
            let why = match attempt {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(why)) => why,
                Err(_) => "it took longer than 20 s".to_owned(),
            };
            if clock.now() >= give_up {
                return Err(why);
            }
            tracing::warn!(alert = message.alert, why, "an alert was not delivered and is tried again");
            clock.sleep_until(clock.now().after(pause)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn attempt(&self, text: &str) -> Result<(), String> {
        match &self.0 {
            Transport::Webhook { url, client } => {
                let request = Request::builder()
                    .method(Method::POST)
                    .uri(url.clone())
                    .header(header::CONTENT_TYPE, "application/json")
                    .header(header::USER_AGENT, concat!("holdline/", env!("CARGO_PKG_VERSION")))
                    .body(Full::from(text.to_owned()))
                    .map_err(|_| "its URL is not usable in a request".to_owned())?;
                let answer = client.request(request).await;
                // the library's error would show the whole URL
                let status = answer
                    .map_err(|e| if e.is_connect() { "no connection" } else { "the connection broke off" })?
                    .status();
                if status.is_success() { Ok(()) } else { Err(format!("answered {}", status.as_u16())) }
            }
            Transport::Command(command) => run(command, text).await,
        }
    }
}

async fn run(command: &[String], text: &str) -> Result<(), String> {
    let Some((program, arguments)) = command.split_first() else { return Err("no command".to_owned()) };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("{program}: {e}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(text.as_bytes()).await; // a command need not read it
    }
    let status = child.wait().await.map_err(|e| format!("{program}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{program} ended with {status}")) }
}
