//! A client of the admin API.
//!
//! *Failure.* [`Failure::Unreachable`]: no connection, or no complete response in time. [`Failure::Usage`]: the API rejects
//! the request as invalid. [`Failure::Operation`]: any other error of the API, or a response that is not the API's.

use crate::cli::admin_connection::{AdminConnection, DaemonAddress, Form};
use crate::cli::{Failure, hint, output};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

/// The `User-Agent` of all of holdline's own clients.
pub const USER_AGENT: &str = concat!("holdline/", env!("CARGO_PKG_VERSION"));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// The timeout of a change, which can concern millions of dead letters.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(600);

/// An HTTP client that reuses connections, with a connect timeout of five seconds.
pub fn http_client() -> Client<HttpConnector, Full<Bytes>> {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).build(connector)
}

/// The admin API of one daemon.
#[derive(Clone, Debug)]
pub struct Admin {
    base: String,
    token: Option<String>,
    token_from: String,
    way: Transport,
    /// The output format.
    form: Form,
}

/// The transport to the daemon.
#[derive(Clone, Debug)]
enum Transport {
    Tcp(Box<Client<HttpConnector, Full<Bytes>>>),
    Socket(PathBuf),
}

impl Transport {
    /// Sends a request and returns when the head of the response has arrived. The error is the innermost cause.
    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, String> {
        match self {
            Self::Tcp(client) => client.request(request).await.map_err(|e| root(&e)),
            Self::Socket(path) => {
                let stream = tokio::net::UnixStream::connect(path).await.map_err(|e| e.to_string())?;
                let io = TokioIo::new(stream);
                let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(|e| root(&e))?;
                tokio::spawn(connection); // ends with the response
                sender.send_request(request).await.map_err(|e| root(&e))
            }
        }
    }
}

impl Admin {
    /// A client for the daemon that the arguments select.
    pub fn of(connection: &AdminConnection) -> Result<Self, Failure> {
        let place = connection.resolve(|name| std::env::var(name).ok())?;
        Ok(Self { form: connection.shared.form(), ..Self::at(place) })
    }

    /// A client for a resolved address.
    pub fn at(place: DaemonAddress) -> Self {
        let way = match place.admin.strip_prefix("unix:") {
            Some(path) => Transport::Socket(path.into()),
            None => Transport::Tcp(Box::new(http_client())),
        };
        Self { base: place.admin, token: place.token, token_from: place.token_from, way, form: Form::Json }
    }

    /// Gets `path`, which begins with `/` and is already encoded.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.parsed(Method::GET, path, Bytes::new()).await
    }

    /// Gets the body at `path`, byte for byte.
    pub async fn get_bytes(&self, path: &str) -> Result<Bytes, Failure> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    /// Posts a change; returns once it is durable.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).expect("a request holds only what JSON can");
        self.parsed(Method::POST, path, body.into()).await
    }

    /// Deletes what is at `path`.
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.parsed(Method::DELETE, path, Bytes::new()).await
    }

    async fn parsed<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, Failure> {
        let answer = self.call(method, path, body).await?;
        let answer: Value =
            serde_json::from_slice(&answer).map_err(|e| self.stranger(&format!("an answer that is not JSON ({e})")))?;
        let answer = if self.form == Form::Table { output::cleaned(answer) } else { answer };
        serde_json::from_value(answer).map_err(|e| {
            let this = env!("CARGO_PKG_VERSION");
            self.stranger(&format!("an answer that holdline {this} does not understand ({e})"))
        })
    }

    async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, Failure> {
        let timeout = if method == Method::GET { READ_TIMEOUT } else { CHANGE_TIMEOUT };
        let exchange = async {
            let answer = self.open(method, path, body).await?;
            let body = answer.into_body().collect().await.map_err(|e| self.unreachable(&root(&e)))?;
            Ok(body.to_bytes())
        };
        let late = || Err(self.unreachable(&format!("no answer within {} s", timeout.as_secs())));
        tokio::time::timeout(timeout, exchange).await.unwrap_or_else(|_| late())
    }

    /// Sends a request and returns when the head of a successful response has arrived.
    pub async fn open(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, Failure> {
        let (uri, host) = match &self.way {
            Transport::Tcp(_) => (format!("{}{path}", self.base), None),
            Transport::Socket(_) => (path.to_owned(), Some("localhost")),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::ACCEPT, "application/json");
        if let Some(host) = host {
            request = request.header(header::HOST, host);
        }
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body)).map_err(|e| {
            Failure::Usage(format!("{}{path} or the token from {} cannot be sent: {e}", self.base, self.token_from))
        })?;
        let answer = self.way.send(request).await.map_err(|why| self.unreachable(&why))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let body = answer.into_body().collect().await.map_err(|e| self.unreachable(&root(&e)))?;
        Err(self.refused(status, &body.to_bytes()))
    }

    fn refused(&self, status: StatusCode, body: &Bytes) -> Failure {
        let error: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |field: &str| error["error"][field].as_str();
        let code = text("code");
        if status == StatusCode::UNAUTHORIZED {
            let found = if self.token.is_some() { "the token from" } else { "no token was found in" };
            return Failure::Operation(format!(
                "{} does not let us in: {found} {}.\nGive the daemon's token with --token-file FILE or {}.\nIt lies in \
                 DATA/admin.token or where admin.token of the configuration says; --config FILE finds it",
                self.base,
                self.token_from,
                crate::cli::admin_connection::TOKEN
            ));
        }
        let Some(code) = code else {
            return self.stranger(&format!("status {}", status.as_u16()));
        };
        let message = text("message").unwrap_or_default();
        let text = format!("{message} ({code}, status {})", status.as_u16());
        if status == StatusCode::BAD_REQUEST { Failure::Usage(text) } else { Failure::Operation(text) }
    }

    fn unreachable(&self, why: &str) -> Failure {
        Failure::Unreachable(format!(
            "the daemon at {} does not answer: {why}.\nStart it with `{}`, or say with --admin URL, {} or --config FILE \
             where it is",
            self.base,
            hint::start(),
            crate::cli::admin_connection::ADMIN
        ))
    }

    fn stranger(&self, what: &str) -> Failure {
        Failure::Operation(format!(
            "{} gave {what}: that is not how holdline's admin API answers. Is the address right?",
            self.base
        ))
    }
}

/// The innermost cause of an error, which is the most specific.
pub fn root(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}

/// Percent-encodes a path segment or a query value (RFC 3986; unreserved characters stay).
pub fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => write!(out, "%{byte:02X}").expect("writing to a String cannot fail"),
        }
    }
    out
}

/// A path with the query parameters that have a value.
pub fn with_query<'a>(path: &str, parameters: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut out = path.to_owned();
    for (i, (name, value)) in parameters.into_iter().enumerate() {
        let mark = if i == 0 { '?' } else { '&' };
        write!(out, "{mark}{name}={}", encoded(value)).expect("writing to a String cannot fail");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn admin(base: &str) -> Admin {
        Admin::at(DaemonAddress { admin: base.into(), token: None, token_from: "DIR/admin.token".into() })
    }

    #[test]
    fn path_segments_are_percent_encoded() {
        assert_eq!(encoded("genesys:a b/ü"), "genesys%3Aa%20b%2F%C3%BC");
        assert_eq!(with_query("/v1/dlq", [("type", "v2.*"), ("limit", "5")]), "/v1/dlq?type=v2.%2A&limit=5");
        assert_eq!(with_query("/v1/dlq", []), "/v1/dlq");
    }

    #[test]
    fn errors_say_what_to_do_next() {
        let admin = admin("http://a");
        let body = json!({"error": {"code": "not_found", "message": "no such event"}}).to_string().into();
        assert_eq!(
            admin.refused(StatusCode::NOT_FOUND, &body),
            Failure::Operation("no such event (not_found, status 404)".into())
        );
        let body = json!({"error": {"code": "invalid_request", "message": "no time"}}).to_string().into();
        assert_eq!(admin.refused(StatusCode::BAD_REQUEST, &body).code(), 2);
        let Failure::Operation(text) = admin.refused(StatusCode::UNAUTHORIZED, &Bytes::new()) else { panic!() };
        assert!(text.contains("no token was found in DIR/admin.token"), "{text}");
        let Failure::Operation(text) = admin.refused(StatusCode::BAD_GATEWAY, &"<html>".into()) else { panic!() };
        assert!(text.contains("Is the address right?"), "{text}");
    }

    #[tokio::test]
    async fn a_closed_port_is_unreachable() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let failure = admin(&base).get::<Value>("/v1/status").await.unwrap_err();
        assert_eq!(failure.code(), 3, "{failure:?}");
    }
}
