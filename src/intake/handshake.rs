//! Handshakes: how senders ask whether an address wants their events, before they send any.
//!
//! *Invariants.* Handshakes are neither stored nor delivered. Only a token of the sender is sent back: limited in
//! length, in visible ASCII without HTML characters, as plain text or JSON that browsers do not reinterpret. The secret
//! answers only Zoom, and only a request that the same secret has signed (see [`crate::signature`]). No URL from a body
//! is ever fetched.
//!
//! *Authentication.* A handshake must carry the credentials of `auth`; one that `handshakes` names and that cannot carry
//! credentials is answered without. Meta carries a token of its own, `verify_token`.

use super::authenticator::{self, AuthState, Hash};
use super::refusal::{self, Refusal};
use crate::config::settings::{Handshake, SecretError, Source, SourceAuth};
use crate::net::answer::{self, Answer};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body_util::Full;
use serde::Deserialize;
use serde_json::{Value, json};

/// The event type of the handshake of Event Grid.
const GRID_KIND: &str = "Microsoft.EventGrid.SubscriptionValidationEvent";
/// The event of the handshake of Zoom.
const ZOOM_EVENT: &str = "endpoint.url_validation";
/// Longest handshake body.
const BYTES_MAX: usize = 8 * 1024;
/// Longest token that is sent back.
const TOKEN_BYTES_MAX: usize = 1024;

/// The handshakes that a source answers.
#[derive(Debug)]
pub struct Handshakes {
    answered: Vec<Handshake>,
    /// Whether the configuration names them.
    chosen: bool,
    verify_tokens: Vec<Hash>,
}

/// A handshake and its answer.
#[derive(Debug)]
pub struct Answered {
    pub of: Handshake,
    pub answer: Answer,
    /// What the log shows to an operator.
    pub notice: Option<Subscription>,
}

/// The subscription that Amazon SNS wants confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    pub topic: String,
    /// None where it is no address of SNS.
    pub url: Option<String>,
    pub ends: bool,
}

impl Answered {
    fn new(of: Handshake, answer: Answer) -> Self {
        Self { of, answer, notice: None }
    }
}

impl Handshakes {
    /// Reads the secrets.
    ///
    /// # Errors
    /// Where one cannot be read.
    pub fn new(source: &Source) -> Result<Self, SecretError> {
        let of_profile = || {
            let signs_as_zoom = |auth: &SourceAuth| matches!(auth, SourceAuth::Hmac { scheme, .. } if scheme.is_zoom());
            let is_known = |handshake: &Handshake| match handshake {
                Handshake::AzureEventGrid | Handshake::CloudEvents => true,
                // without its secret Zoom cannot be answered, and where any sender is accepted the refusal says so
                Handshake::Zoom => source.auth.iter().any(signs_as_zoom) || source.takes_any_sender(),
                Handshake::Meta => !source.verify_token.is_empty(),
                Handshake::Sns => source.profile == "sns" || source.takes_any_sender(),
                Handshake::MicrosoftGraph
                | Handshake::Okta
                | Handshake::Slack
                | Handshake::RingCentral
                | Handshake::Challenge => source.takes_any_sender(),
            };
            Handshake::ALL.into_iter().filter(is_known).collect()
        };
        Ok(Self {
            answered: source.handshakes.clone().unwrap_or_else(of_profile),
            chosen: source.handshakes.is_some(),
            verify_tokens: authenticator::hashes(&source.verify_token, "")?,
        })
    }

    fn answers(&self, handshake: Handshake) -> bool {
        self.answered.contains(&handshake)
    }

    /// Whether a handshake without credentials is answered.
    fn is_open(&self, handshake: Handshake, auth: &AuthState<'_>) -> bool {
        self.answers(handshake) && (self.chosen || matches!(auth, AuthState::Open | AuthState::Authenticated))
    }

    /// CloudEvents abuse protection (webhook specification 1.0, 4.1): any origin may send, at any rate.
    pub fn options(&self, headers: &HeaderMap) -> Answer {
        let allowed = answer::with(Answer::default(), header::ALLOW, refusal::METHODS);
        match headers.get("webhook-request-origin").and_then(|o| o.to_str().ok()).filter(|o| is_token(o)) {
            Some(origin) if self.answers(Handshake::CloudEvents) => {
                let named = answer::with(allowed, HeaderName::from_static("webhook-allowed-origin"), origin);
                answer::with(named, HeaderName::from_static("webhook-allowed-rate"), "*")
            }
            _ => allowed,
        }
    }

    /// The answer to a handshake by GET; none where it is none.
    ///
    /// # Errors
    /// The token of Meta is wrong.
    pub fn get(&self, head: &Parts, auth: &AuthState<'_>) -> Result<Option<Answered>, Refusal> {
        let query = |name: &str| parameter(head, name);
        if self.answers(Handshake::Meta) && query("hub.mode").as_deref() == Some("subscribe") {
            let token = query("hub.verify_token").unwrap_or_default();
            if !authenticator::is_one_of(Some(token.into_bytes().into()), &self.verify_tokens) {
                return Err(Refusal::unauthorized([]));
            }
            return Ok(query("hub.challenge").filter(|c| is_token(c)).map(|c| Answered::new(Handshake::Meta, echo(c))));
        }
        let okta = head.headers.get("x-okta-verification-challenge").and_then(|c| c.to_str().ok());
        if let Some(challenge) = okta.filter(|c| is_token(c) && self.is_open(Handshake::Okta, auth)) {
            return Ok(Some(Answered::new(Handshake::Okta, reply(&json!({"verification": challenge})))));
        }
        let plain = query("challenge").filter(|c| is_token(c) && self.is_open(Handshake::Challenge, auth));
        Ok(plain.map(|challenge| Answered::new(Handshake::Challenge, echo(challenge))))
    }

    /// The answer to a handshake by POST without a body.
    pub fn empty_post(&self, head: &Parts, auth: &AuthState<'_>) -> Option<Answered> {
        if let Some(token) = parameter(head, "validationToken").filter(|token| is_token(token))
            && self.is_open(Handshake::MicrosoftGraph, auth)
        {
            return Some(Answered::new(Handshake::MicrosoftGraph, echo(token)));
        }
        let name = HeaderName::from_static("validation-token");
        let token = head.headers.get(&name)?.to_str().ok().filter(|token| is_token(token))?;
        let answer = answer::with(Answer::default(), name, token);
        self.is_open(Handshake::RingCentral, auth).then(|| Answered::new(Handshake::RingCentral, answer))
    }

    /// The answer to a handshake in the body of an authenticated request; none where it holds events.
    ///
    /// # Errors
    /// Zoom asks, and no secret of it is configured.
    pub fn body(&self, headers: &HeaderMap, auth: &AuthState<'_>, body: &[u8]) -> Result<Option<Answered>, Refusal> {
        let text = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body).trim_ascii();
        if self.answers(Handshake::AzureEventGrid)
            && let Some(answer) = grid(headers, text)
        {
            return Ok(Some(Answered::new(Handshake::AzureEventGrid, answer)));
        }
        if text.len() > BYTES_MAX || !text.starts_with(b"{") {
            return Ok(None);
        }
        if self.answers(Handshake::Zoom)
            && let Some(token) = zoom(text)
        {
            let hmac = auth.zoom_answer(body, &token).ok_or_else(Refusal::no_zoom_secret)?;
            let answer = reply(&json!({"plainToken": token, "encryptedToken": hmac}));
            return Ok(Some(Answered::new(Handshake::Zoom, answer)));
        }
        if self.answers(Handshake::Slack)
            && let Some(challenge) = slack(text)
        {
            return Ok(Some(Answered::new(Handshake::Slack, reply(&json!({"challenge": challenge})))));
        }
        let notice = self.answers(Handshake::Sns).then(|| subscription(text)).flatten();
        Ok(notice.map(|notice| {
            let answer = reply(&json!({"status": "ignored"}));
            Answered { notice: Some(notice), ..Answered::new(Handshake::Sns, answer) }
        }))
    }
}

fn parameter(head: &Parts, name: &str) -> Option<String> {
    let mut pairs = form_urlencoded::parse(head.uri.query()?.as_bytes());
    pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// Visible ASCII and blanks, without what HTML is made of.
fn is_token(text: &str) -> bool {
    (1..=TOKEN_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| matches!(b, b' '..=b'~') && !b"<>&\"'`".contains(&b))
}

/// A token sent back as it came.
fn echo(token: String) -> Answer {
    let mut answer = Answer::new(Full::from(Bytes::from(token)));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    inert(answer)
}

fn reply(body: &Value) -> Answer {
    inert(answer::json(StatusCode::OK, body))
}

/// Prevents content sniffing and caching.
fn inert(answer: Answer) -> Answer {
    let sure = answer::with(answer, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    answer::with(sure, header::CACHE_CONTROL, "no-store")
}

#[derive(Deserialize)]
struct GridEvent {
    #[serde(rename = "eventType", default)]
    event_type: String,
    data: GridCode,
}

#[derive(Deserialize)]
struct GridCode {
    #[serde(rename = "validationCode")]
    code: String,
}

/// The answer to Event Grid's question whether this is the endpoint of a subscription: its code, sent back.
fn grid(headers: &HeaderMap, text: &[u8]) -> Option<Answer> {
    let by_header = headers.get("aeg-event-type").is_some_and(|kind| kind == "SubscriptionValidation");
    // an array of one event; without the header only a short array is parsed
    let by_form = text.len() <= BYTES_MAX && text.starts_with(b"[");
    if !by_header && !by_form {
        return None;
    }
    let [asked] = serde_json::from_slice::<[GridEvent; 1]>(text).ok()?;
    let is_asked = by_header || asked.event_type == GRID_KIND;
    (is_asked && is_token(&asked.data.code)).then(|| reply(&json!({"validationResponse": asked.data.code})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ZoomEvent {
    event: String,
    payload: ZoomPayload,
    #[serde(rename = "event_ts", default)]
    _at: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ZoomPayload {
    #[serde(rename = "plainToken")]
    token: String,
}

/// The token of Zoom's `endpoint.url_validation`, of exactly that form.
fn zoom(text: &[u8]) -> Option<String> {
    let event: ZoomEvent = serde_json::from_slice(text).ok()?;
    (event.event == ZOOM_EVENT).then_some(event.payload.token)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SlackEvent {
    #[serde(rename = "type")]
    event_type: String,
    challenge: String,
    #[serde(rename = "token", default)]
    _token: Value,
}

/// The challenge of Slack's `url_verification`, of exactly that form.
fn slack(text: &[u8]) -> Option<String> {
    let event: SlackEvent = serde_json::from_slice(text).ok()?;
    (event.event_type == "url_verification" && is_token(&event.challenge)).then_some(event.challenge)
}

#[derive(Deserialize)]
struct SnsEvent {
    #[serde(rename = "Type")]
    event_type: String,
    #[serde(rename = "TopicArn")]
    topic: String,
    #[serde(rename = "MessageId")]
    _id: String,
    #[serde(rename = "Token")]
    _token: String,
    #[serde(rename = "SubscribeURL")]
    url: String,
}

/// What SNS asks about a subscription to a topic, if that is what it is.
fn subscription(text: &[u8]) -> Option<Subscription> {
    let event: SnsEvent = serde_json::from_slice(text).ok()?;
    let ends = match event.event_type.as_str() {
        "SubscriptionConfirmation" => false,
        "UnsubscribeConfirmation" => true,
        _ => return None,
    };
    let is_arn = |arn: &str| {
        arn.starts_with("arn:aws")
            && arn.len() <= 512
            && arn.bytes().all(|b| b.is_ascii_alphanumeric() || b":_-.".contains(&b))
    };
    is_arn(&event.topic).then(|| Subscription { url: sns_url(&event.url), topic: event.topic, ends })
}

/// A URL of SNS in one of its regions, over HTTPS; none for any other.
fn sns_url(url: &str) -> Option<String> {
    let is_shown = url.len() <= 2048 && url.bytes().all(|b| b.is_ascii_graphic() && !b"<>\"'`\\^{|}".contains(&b));
    let uri: http::Uri = is_shown.then(|| url.parse().ok())??;
    let region = uri.authority()?.as_str().strip_prefix("sns.")?;
    let region = region.strip_suffix(".amazonaws.com").or_else(|| region.strip_suffix(".amazonaws.com.cn"))?;
    let is_region =
        !region.is_empty() && region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    (uri.scheme_str() == Some("https") && is_region).then(|| url.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_text_that_no_browser_runs_is_echoed() {
        for token in ["Validation: Testing client application reachability", "1158201444", "a+b/c=", "{}"] {
            assert!(is_token(token), "{token}");
        }
        let long = "x".repeat(TOKEN_BYTES_MAX + 1);
        for not in ["", "<script>", "a>b", "&lt;", "\"", "'", "`", "a\nb", "\u{e4}", "\u{7f}", long.as_str()] {
            assert!(!is_token(not), "{not}");
        }
    }

    #[test]
    fn only_an_sns_url_is_logged() {
        for url in [
            "https://sns.us-west-2.amazonaws.com/?Action=ConfirmSubscription&TopicArn=arn:aws:sns:us-west-2:1:t&Token=2336",
            "https://sns.cn-north-1.amazonaws.com.cn/?Action=ConfirmSubscription",
        ] {
            assert_eq!(sns_url(url).as_deref(), Some(url));
        }
        for url in [
            "http://sns.us-west-2.amazonaws.com/",
            "https://sns.us-west-2.amazonaws.com.evil.example/",
            "https://evil.example/sns.us-west-2.amazonaws.com/",
            "https://sns.us-west-2.amazonaws.com@evil.example/",
            "https://user@sns.us-west-2.amazonaws.com/",
            "https://sns.us-west-2.amazonaws.com:8443/",
            "https://sns.a.b.amazonaws.com/",
            "https://sns..amazonaws.com/",
            "https://169.254.169.254/latest/meta-data/",
            "https://sns.us-west-2.amazonaws.com/\u{1b}[2J",
            "https://sns.us-west-2.amazonaws.com/ x",
            "file:///etc/passwd",
            "",
        ] {
            assert_eq!(sns_url(url), None, "{url}");
        }
    }

    #[test]
    fn only_an_exact_handshake_is_answered() {
        let token = |text: &str| zoom(text.as_bytes());
        assert_eq!(
            token(r#"{"payload":{"plainToken":"q"},"event_ts":1,"event":"endpoint.url_validation"}"#).as_deref(),
            Some("q")
        );
        for not in [
            r#"{"payload":{"plainToken":"q"},"event":"meeting.started"}"#,
            r#"{"payload":{"plainToken":"q","x":1},"event":"endpoint.url_validation"}"#,
            r#"{"payload":{"plainToken":"q"},"event":"endpoint.url_validation","x":1}"#,
            r#"{"payload":{"plainToken":1},"event":"endpoint.url_validation"}"#,
            r#"{"payload":{},"event":"endpoint.url_validation"}"#,
        ] {
            assert_eq!(token(not), None, "{not}");
        }
        let challenge = |text: &str| slack(text.as_bytes());
        assert_eq!(challenge(r#"{"token":"t","challenge":"c","type":"url_verification"}"#).as_deref(), Some("c"));
        for not in [
            r#"{"token":"t","challenge":"c","type":"event_callback"}"#,
            r#"{"token":"t","challenge":"c","type":"url_verification","event":{}}"#,
            r#"{"token":"t","challenge":"<c>","type":"url_verification"}"#,
        ] {
            assert_eq!(challenge(not), None, "{not}");
        }
    }
}
