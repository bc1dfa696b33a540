//! Delivery of messages: POST to a webhook, or a command that reads them from its standard input; tried again until it
//! works.

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

/// One try may take so long.
const TRY_FOR: Duration = Duration::from_secs(20);
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(3600);

type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

pub struct Sender(Transport);

enum Transport {
    Webhook { url: Uri, client: Box<HttpClient> },
    Command(Vec<String>),
}

impl Sender {
    pub fn new(alert: &Alert) -> Result<Self, String> {
        match &alert.to {
            AlertTo::Command(command) => Ok(Self(Transport::Command(command.clone()))),
            AlertTo::Webhook(url) => {
                let url = url.read()?;
                let roots = HttpsConnectorBuilder::new().with_native_roots();
                let roots = roots.map_err(|e| format!("the system's certificate authorities cannot be read: {e}"))?;
                let connector = roots.https_or_http().enable_http1().build();
                let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
                Ok(Self(Transport::Webhook { url, client: Box::new(client) }))
            }
        }
    }

    /// Delivers one message after the other, until `stop`; `done` hears `place` whenever one is delivered or given up.
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
            let _ = done.send(place); // nobody listens after the end
        }
    }

    async fn deliver(&self, message: &Message, clock: &Clock) -> Result<(), String> {
        let text = serde_json::to_string(message).map_err(|e| e.to_string())?;
        let give_up = clock.now().after(GIVE_UP_AFTER);
        let mut pause = PAUSE_FIRST;
        loop {
            let tried = tokio::time::timeout(TRY_FOR, self.attempt(&text)).await;
            let why = match tried {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(why)) => why,
                Err(_) => "no end in time".to_owned(),
            };
            if clock.now() >= give_up {
                return Err(why);
            }
            tracing::warn!(alert = message.alert, why, "an alert is tried again");
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
                    .map_err(|_| "its url cannot be asked".to_owned())?;
                let answer = client.request(request).await;
                // the error of the library would name the whole url
                let status =
                    answer.map_err(|e| if e.is_connect() { "no connection" } else { "it broke off" })?.status();
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
