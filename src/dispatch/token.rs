//! Access tokens by OAuth2 client credentials (RFC 6749, 4.4).
//!
//! *Invariants.* At most one request to the token endpoint is in flight; others wait for its result. A token is replaced
//! before it expires. A refused token is not reused, and its delivery is resent once without counting an attempt; a
//! second refusal counts as the destination's answer. The client secret is read for each request, so a rotated one needs
//! no restart.
//!
//! *Failure.* Without a token no attempt fails: deliveries wait, and the endpoint is called again after 1, 2, 4 ...
//! seconds, at most a minute, or later if it asks for that. A token that is still valid is used meanwhile.

use super::exchange::{self, Answer, Bounds, HttpClient, Unanswered};
use super::head;
use crate::clock::Clock;
use crate::config::settings::{ClientAuth, OAuth2};
use crate::event::Sequence;
use crate::rules::header_time::AnsweredAt;
use crate::rules::retry_after;
use crate::time::Timestamp;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use form_urlencoded::{Serializer, byte_serialize};
use http::{HeaderValue, Method, Request, Uri, header};
use http_body_util::Full;
use serde_json::Value;
use std::collections::HashSet;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Mutex;

const WAIT_MAX: Duration = Duration::from_secs(60);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// Used if the endpoint does not give a lifetime (RFC 6749, 5.1 only recommends it).
const LIFETIME_UNSAID: Duration = Duration::from_secs(3600);
/// A token is replaced this long before it expires, or a fifth of its lifetime if that is less.
const MARGIN: Duration = Duration::from_secs(60);
/// Minimum interval between replacements of refused tokens, so a destination that refuses every token does not overload
/// the endpoint.
const RENEWALS_APART: Duration = Duration::from_secs(5);
/// Error codes that may be logged (RFC 6749, 5.2); any other text may contain secrets.
const ERRORS: [&str; 6] = [
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
];

#[derive(Clone, Debug)]
pub struct Token {
    /// For the header `Authorization`.
    pub value: HeaderValue,
    replace_at: Timestamp,
    ends_at: Timestamp,
    number: u64,
}

/// No token is available before then.
#[derive(Clone, Debug)]
pub struct Missing {
    pub until: Timestamp,
    pub why: String,
}

#[derive(Debug, Default)]
struct State {
    token: Option<Token>,
    /// Tokens received so far.
    given: u64,
    failures: u32,
    missing: Option<Missing>,
    renewed_at: Option<Timestamp>,
}

#[derive(Debug)]
pub struct Tokens {
    destination: String,
    client: HttpClient,
    /// The URI of the endpoint.
    uri: Uri,
    settings: OAuth2,
    timeout: Duration,
    state: Mutex<State>,
    /// Deliveries that are resent because their token was refused.
    spared: std::sync::Mutex<HashSet<Sequence>>,
}

impl Tokens {
    pub fn new(destination: &str, client: HttpClient, uri: Uri, settings: &OAuth2, timeout: Duration) -> Self {
        let (destination, settings) = (destination.to_owned(), settings.clone());
        Self { destination, client, uri, settings, timeout, state: Mutex::default(), spared: Default::default() }
    }

    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// The token to send with a request.
    pub async fn current(&self, clock: &Clock) -> Result<Token, Missing> {
        let mut state = self.state.lock().await;
        let now = clock.now();
        let good = state.token.clone().filter(|token| now < token.ends_at);
        if let Some(token) = good.clone().filter(|token| now < token.replace_at) {
            return Ok(token);
        }
        let asked = match state.missing.clone().filter(|missing| now < missing.until) {
            Some(missing) => Err(missing),
            None => self.ask(&mut state, clock).await,
        };
        asked.or_else(|missing| good.ok_or(missing))
    }

    /// The destination has refused a token. Returns whether the delivery is resent with another token; not if that was
    /// done before, or if the token was replaced just now.
    pub async fn refused(&self, token: &Token, delivery: Sequence, clock: &Clock) -> bool {
        if self.spared().contains(&delivery) {
            return false;
        }
        let mut state = self.state.lock().await;
        let now = clock.now();
        if state.token.as_ref().is_some_and(|present| present.number == token.number) {
            if state.renewed_at.is_some_and(|at| now < at.after(RENEWALS_APART)) {
                return false;
            }
            (state.renewed_at, state.token) = (Some(now), None);
        }
        self.spared().insert(delivery)
    }

    /// A delivery has ended, or has failed for another reason than its access token.
    pub fn delivery_ended(&self, delivery: Sequence) {
        self.spared().remove(&delivery);
    }

    fn spared(&self) -> MutexGuard<'_, HashSet<Sequence>> {
        self.spared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, state: &mut State, clock: &Clock) -> Result<Token, Missing> {
        let began = clock.now();
        match self.fetch(clock).await {
            Ok((value, lifetime)) => {
                state.given += 1;
                let margin = MARGIN.min(lifetime / 5);
                let ends_at = began.after(lifetime);
                let token = Token { value, replace_at: ends_at.before(margin), ends_at, number: state.given };
                (state.failures, state.missing) = (0, None);
                state.token = Some(token.clone());
                tracing::debug!(destination = self.destination, ?lifetime, "new access token");
                Ok(token)
            }
            Err((why, retry_after)) => {
                let wait = Duration::from_secs(1 << state.failures.min(6)).min(WAIT_MAX).max(retry_after);
                state.failures = state.failures.saturating_add(1);
                let why = format!("no access token: {why}");
                tracing::warn!(
                    destination = self.destination,
                    why,
                    ?wait,
                    "deliveries wait; the endpoint is asked again"
                );
                let missing = Missing { until: clock.now().after(wait), why };
                state.missing = Some(missing.clone());
                Err(missing)
            }
        }
    }

    /// A token and its lifetime; or why there is none, and how long to wait before the next request.
    async fn fetch(&self, clock: &Clock) -> Result<(HeaderValue, Duration), (String, Duration)> {
        let refused = |why| (why, Duration::ZERO);
        let secret = self.settings.client_secret.clone();
        let secret = tokio::task::spawn_blocking(move || secret.read()).await;
        let secret = secret
            .map_err(|_| refused("the read of its secret was abandoned".to_owned()))?
            .map_err(|why| refused(why.to_string()))?;
        let request = request(&self.settings, &self.uri, secret.expose()).map_err(refused)?;
        let bounds = Bounds { timeout: self.timeout, kept_bytes: exchange::BODY_BYTES_MAX };
        let answer = exchange::exchange(&self.client, request, bounds, || Some(()), |_| ()).await;
        let answer = answer.map_err(|end| match end {
            Unanswered::Failed(failure) => refused(format!("the token endpoint: {}", failure.error)),
            Unanswered::Blocked => refused("the token endpoint was not asked".to_owned()),
        })?;
        read(&answer).map_err(|why| {
            let values = |name: &str| head::values(&answer.headers, name);
            let at = AnsweredAt::new(clock.wall(), values(header::DATE.as_str()).first().copied());
            let asked = retry_after::asked(values, at);
            (why, asked.unwrap_or_default().min(RETRY_AFTER_MAX))
        })
    }
}

fn request(settings: &OAuth2, uri: &Uri, secret: &str) -> Result<Request<Full<Bytes>>, String> {
    let mut form = Serializer::new(String::new());
    form.append_pair("grant_type", "client_credentials");
    for (name, value) in [("scope", &settings.scope), ("audience", &settings.audience)] {
        if let Some(value) = value {
            form.append_pair(name, value);
        }
    }
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(uri.clone())
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(header::ACCEPT, "application/json");
    match settings.client_auth {
        ClientAuth::Basic => {
            let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
            let pair = format!("{}:{}", encoded(&settings.client_id), encoded(secret));
            let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair)))
                .map_err(|_| "its secret cannot stand in a header".to_owned())?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        ClientAuth::Body => {
            form.append_pair("client_id", &settings.client_id).append_pair("client_secret", secret);
        }
    }
    request.body(Full::new(form.finish().into())).map_err(|e| e.to_string())
}

/// RFC 6749, 5.1 and 5.2. Of an answer only its status and known error codes are repeated.
fn read(answer: &Answer) -> Result<(HeaderValue, Duration), String> {
    let json: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let text = |key: &str| json.get(key).and_then(Value::as_str);
    if !answer.status.is_success() {
        let known = text("error").and_then(|error| ERRORS.into_iter().find(|known| *known == error));
        let known = known.map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(format!("the token endpoint answered {}{known}", answer.status.as_u16()));
    }
    let Some(token) = text("access_token").filter(|token| !token.is_empty()) else {
        return Err("the answer of the token endpoint holds no `access_token`".to_owned());
    };
    if text("token_type").is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
        return Err("the token endpoint gives tokens that are not of the type Bearer".to_owned());
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| "the `access_token` holds characters that no header can".to_owned())?;
    value.set_sensitive(true);
    let seconds = json.get("expires_in").and_then(|v| v.as_u64().or_else(|| v.as_str()?.parse().ok()));
    let lifetime = seconds.map_or(LIFETIME_UNSAID, |s| Duration::from_secs(s.clamp(1, 365 * 86_400)));
    Ok((value, lifetime))
}
