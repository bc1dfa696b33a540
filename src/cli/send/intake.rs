//! A sender's side of `POST /in/{source}`: one body, one answer.

use crate::cli::client::{self, USER_AGENT, encoded};
use crate::cli::send::credentials::Credentials;
use crate::time::Timestamp;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// As patient as the most patient sender.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Where a busy intake does not say when to come back.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);

/// What the intake made of a body.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// Safe on disk, or there already.
    Taken(Taken),
    /// 429 or 503: the same body may be sent again after this time.
    Busy { after: Duration, refusal: Refusal },
    /// Any other status: the body will not be taken.
    Refused(Refusal),
}

/// How many events a body held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// New ones.
    pub accepted: u64,
    /// Those that were there already.
    pub duplicates: u64,
    /// Of the event, or of the first that had it; none for a batch.
    pub id: Option<String>,
}

/// Why a body was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// The API's code for it.
    pub code: String,
    /// The same in words.
    pub message: String,
}

/// The intake of one source.
#[derive(Clone, Debug)]
pub struct Intake {
    url: String,
    headers: HeaderMap,
    credentials: Arc<Credentials>,
    http: Client<HttpConnector, Full<Bytes>>,
}

impl Intake {
    /// `base` is `http://host:port`; `headers` go with each body.
    pub fn new(base: &str, source: &str, mut headers: HeaderMap) -> Self {
        headers.entry(header::CONTENT_TYPE).or_insert(header::HeaderValue::from_static("application/json"));
        headers.entry(header::USER_AGENT).or_insert(header::HeaderValue::from_static(USER_AGENT));
        let (url, credentials) = (format!("{base}/in/{}", encoded(source)), Arc::default());
        Self { url, headers, credentials, http: client::http_client() }
    }

    /// The same, with what the source asks for.
    pub fn with(self, credentials: Credentials) -> Self {
        Self { credentials: Arc::new(credentials), ..self }
    }

    /// Where it posts to.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Posts one body. An error tells why there was no answer; sending the body again is then safe.
    pub async fn post(&self, body: Bytes, now: Timestamp) -> Result<Answer, String> {
        let mut headers = self.headers.clone();
        self.credentials.sign(&mut headers, &body, now);
        let url = self.credentials.query().map(|query| format!("{}?{query}", self.url));
        let url = url.as_ref().unwrap_or(&self.url);
        let mut request = Request::post(url).body(Full::new(body)).map_err(|e| format!("{}: {e}", self.url))?;
        *request.headers_mut() = headers;
        let exchange = async {
            let answer = self.http.request(request).await.map_err(|e| client::root(&e))?;
            let (head, body) = answer.into_parts();
            let body = body.collect().await.map_err(|e| client::root(&e))?.to_bytes();
            Ok(read(head.status, &head.headers, &body, now))
        };
        tokio::time::timeout(TIMEOUT, exchange)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} s", TIMEOUT.as_secs())))
    }
}

fn read(status: StatusCode, headers: &HeaderMap, body: &Bytes, now: Timestamp) -> Answer {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    if status.is_success() {
        return Answer::Taken(taken(&answer));
    }
    let refusal = Refusal {
        status: status.as_u16(),
        code: text(&answer["error"]["code"]),
        message: text(&answer["error"]["message"]),
    };
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            Answer::Busy { after: retry_after(headers, now), refusal }
        }
        _ => Answer::Refused(refusal),
    }
}

/// A text of an answer; `-` where it is missing.
fn text(value: &Value) -> String {
    value.as_str().filter(|text| !text.is_empty()).unwrap_or("-").to_owned()
}

fn taken(answer: &Value) -> Taken {
    let id = answer["id"].as_str().map(str::to_owned);
    match answer["status"].as_str() {
        // of a batch
        _ if answer["accepted"].is_u64() => {
            let n = |field: &str| answer[field].as_u64().unwrap_or(0);
            Taken { accepted: n("accepted"), duplicates: n("duplicates"), id }
        }
        Some("duplicate") => Taken { duplicates: 1, id, ..Taken::default() },
        _ => Taken { accepted: 1, id, ..Taken::default() },
    }
}

/// `Retry-After` in seconds or as a date (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Duration {
    let Some(text) = headers.get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()) else {
        return RETRY_AFTER_DEFAULT;
    };
    if let Ok(seconds) = text.trim().parse() {
        return Duration::from_secs(seconds);
    }
    httpdate::parse_http_date(text).map_or(RETRY_AFTER_DEFAULT, |date| Timestamp::from_system(date).since(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, retry_after: Option<&str>, body: &'static str) -> Answer {
        let mut headers = HeaderMap::new();
        if let Some(text) = retry_after {
            headers.insert(header::RETRY_AFTER, text.parse().unwrap());
        }
        let now = Timestamp(784_111_777_000);
        read(StatusCode::from_u16(status).unwrap(), &headers, &Bytes::from_static(body.as_bytes()), now)
    }

    #[test]
    fn one_event_a_duplicate_and_a_batch_are_counted() {
        let taken = |body| match answer(202, None, body) {
            Answer::Taken(taken) => (taken.accepted, taken.duplicates, taken.id),
            other => panic!("{other:?}"),
        };
        assert_eq!(taken(r#"{"status":"queued","id":"a"}"#), (1, 0, Some("a".into())));
        assert_eq!(taken(r#"{"status":"duplicate","id":"a"}"#), (0, 1, Some("a".into())));
        assert_eq!(taken(r#"{"status":"queued","accepted":3,"duplicates":2,"ids":["a"]}"#), (3, 2, None));
        assert_eq!(taken(""), (1, 0, None));
    }

    #[test]
    fn busy_says_when_to_come_back() {
        let after = |text| match answer(503, text, "") {
            Answer::Busy { after, .. } => after.as_secs(),
            other => panic!("{other:?}"),
        };
        assert_eq!(after(Some("7")), 7);
        assert_eq!(after(Some("Sun, 06 Nov 1994 08:49:57 GMT")), 20);
        assert_eq!(after(None), 1);
    }

    #[test]
    fn a_refusal_keeps_code_and_message() {
        let refusal = Refusal { status: 400, code: "invalid_json".into(), message: "not JSON".into() };
        let body = r#"{"error":{"code":"invalid_json","message":"not JSON"}}"#;
        assert_eq!(answer(400, None, body), Answer::Refused(refusal));
    }
}
