//! A client of `POST /in/{source}`: signs a body as the source requires, posts it, and parses the response.

use crate::cli::client::{self, USER_AGENT, encoded};
use crate::config::settings::{Source, SourceAuth};
use crate::signature::Verifier;
use crate::time::Timestamp;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::Duration;

/// The longest timeout of a known sender.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The delay if a busy intake sends no `Retry-After`.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);

/// The intake's response to a body.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// Accepted, or a duplicate.
    Taken(Taken),
    /// 429 or 503: the body can be sent again after this delay.
    Busy { after: Duration, refusal: Refusal },
    /// Any other status: a retry is useless.
    Refused(Refusal),
}

/// The events in a body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// New events.
    pub accepted: u64,
    /// Events that were already stored.
    pub duplicates: u64,
    /// The id of the event, or of its first copy; none for a batch.
    pub id: Option<String>,
}

/// Why a body was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// The API's error code.
    pub code: String,
    /// The API's error message.
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
    /// `base` is `http://host:port`; `headers` are sent with each body.
    pub fn new(base: &str, source: &str, mut headers: HeaderMap) -> Self {
        headers.entry(header::CONTENT_TYPE).or_insert(header::HeaderValue::from_static("application/json"));
        headers.entry(header::USER_AGENT).or_insert(header::HeaderValue::from_static(USER_AGENT));
        let (url, credentials) = (format!("{base}/in/{}", encoded(source)), Arc::default());
        Self { url, headers, credentials, http: client::http_client() }
    }

    /// Adds the credentials that the source requires.
    pub fn with(self, credentials: Credentials) -> Self {
        Self { credentials: Arc::new(credentials), ..self }
    }

    /// The URL for posts.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Posts one body. The error says why there was no response; the body can then safely be sent again.
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

/// A string from a response; `-` if it is missing.
fn text(value: &Value) -> String {
    value.as_str().filter(|text| !text.is_empty()).unwrap_or("-").to_owned()
}

fn taken(answer: &Value) -> Taken {
    let id = answer["id"].as_str().map(str::to_owned);
    match answer["status"].as_str() {
        // the response to a batch
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

/// How the sender authenticates.
#[derive(Debug, Default)]
pub enum Credentials {
    /// The source requires none, or flags set them.
    #[default]
    Nothing,
    Header(HeaderName, HeaderValue),
    /// A percent-encoded query parameter.
    Query(String),
    Signature(Box<Verifier>),
}

impl Credentials {
    /// The first method that the source accepts, with its first secret.
    ///
    /// # Errors
    /// If the secret cannot be read or used; the message names where it is configured.
    pub fn of(source: &Source) -> Result<Self, String> {
        let Some(auth) = source.auth.first() else { return Ok(Self::Nothing) };
        let Some(secret) = auth.secrets().first() else { return Ok(Self::Nothing) };
        let value = secret.read()?;
        let value = value.expose();
        let line = |text: &str| {
            let line = HeaderValue::from_str(text).map_err(|_| format!("{secret} cannot stand in a header"))?;
            Ok::<_, String>(line)
        };
        Ok(match auth {
            SourceAuth::Bearer { .. } => Self::Header(header::AUTHORIZATION, line(&format!("Bearer {value}"))?),
            SourceAuth::Basic { user, .. } => {
                let pair = BASE64_STANDARD.encode(format!("{user}:{value}"));
                Self::Header(header::AUTHORIZATION, line(&format!("Basic {pair}"))?)
            }
            SourceAuth::Header { name, .. } => Self::Header(name.clone(), line(value)?),
            SourceAuth::Query { name, .. } => Self::Query(format!("{}={}", encoded(name), encoded(value))),
            SourceAuth::Hmac { scheme, .. } => {
                let verifier = Verifier::new(scheme.clone(), [value]);
                Self::Signature(Box::new(verifier.map_err(|fault| format!("{secret}: {fault}"))?))
            }
        })
    }

    /// The query of the URL.
    pub fn query(&self) -> Option<&str> {
        match self {
            Self::Query(query) => Some(query),
            _ => None,
        }
    }

    /// Adds the authentication headers for one body; existing headers stay.
    pub fn sign(&self, headers: &mut HeaderMap, body: &[u8], now: Timestamp) {
        match self {
            Self::Nothing | Self::Query(_) => {}
            Self::Header(name, value) => drop(headers.entry(name).or_insert_with(|| value.clone())),
            Self::Signature(verifier) => {
                // the same body has the same id, so a retry is recognised as a duplicate
                let digest = Sha256::digest(body);
                let id = digest.iter().take(16).fold("msg_".to_owned(), |id, byte| id + &format!("{byte:02x}"));
                for (name, value) in verifier.headers_for(body, &id, now) {
                    if let Ok(value) = HeaderValue::from_str(&value) {
                        headers.entry(name).or_insert(value);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::Secret;
    use crate::signature::{PRESETS, Scheme};
    use std::path::Path;

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

    const NOW: Timestamp = Timestamp(1_800_000_000_000);
    const BODY: &[u8] = br#"{"a": 1}"#;

    fn secret(folder: &Path, value: &str) -> Secret {
        let path = folder.join("secret");
        std::fs::write(&path, value).unwrap();
        Secret::File(path)
    }

    fn source(auth: SourceAuth) -> Source {
        Source { auth: vec![auth], ..Source::named("s") }
    }

    fn signed(source: &Source) -> HeaderMap {
        let mut headers = HeaderMap::new();
        Credentials::of(source).unwrap().sign(&mut headers, BODY, NOW);
        headers
    }

    #[test]
    fn each_preset_verifies_what_it_signs() {
        let folder = tempfile::tempdir().unwrap();
        let written = format!("whsec_{}", BASE64_STANDARD.encode([7; 32]));
        for preset in PRESETS {
            let scheme = Scheme::preset(preset).unwrap();
            let secrets = vec![secret(folder.path(), &written)];
            let headers = signed(&source(SourceAuth::Hmac { scheme: scheme.clone(), secrets }));
            let verifier = Verifier::new(scheme, [written.as_str()]).unwrap();
            let claim = verifier.claim(&headers, NOW).unwrap_or_else(|| panic!("{preset}: {headers:?}"));
            assert!(verifier.verify(&claim, BODY) && !verifier.verify(&claim, b"{}"), "{preset}: {headers:?}");
        }
    }

    #[test]
    fn a_token_is_sent_where_the_source_reads_it_and_flags_override_it() {
        let folder = tempfile::tempdir().unwrap();
        let secrets = || vec![secret(folder.path(), "a b&c")];
        let bearer = source(SourceAuth::Bearer { tokens: secrets() });
        assert_eq!(signed(&bearer)[header::AUTHORIZATION], "Bearer a b&c");
        let basic = source(SourceAuth::Basic { user: "u".to_owned(), passwords: secrets() });
        assert_eq!(signed(&basic)[header::AUTHORIZATION], "Basic dTphIGImYw==");
        let name = HeaderName::from_static("x-api-key");
        let own = source(SourceAuth::Header { name: name.clone(), values: secrets() });
        assert_eq!(signed(&own)[&name], "a b&c");
        let query = source(SourceAuth::Query { name: "code".to_owned(), values: secrets() });
        assert_eq!(Credentials::of(&query).unwrap().query(), Some("code=a%20b%26c"));
        let mut headers = HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static("Bearer mine"))]);
        Credentials::of(&bearer).unwrap().sign(&mut headers, BODY, NOW);
        assert_eq!(headers[header::AUTHORIZATION], "Bearer mine");
        let absent = source(SourceAuth::Bearer { tokens: vec![Secret::File("/nowhere/token".into())] });
        assert!(Credentials::of(&absent).unwrap_err().contains("/nowhere/token cannot be read"));
    }
}
