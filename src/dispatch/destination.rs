//! A destination as dispatch uses it: its HTTP client, the template of its requests, its policy and its counters.
//!
//! Secrets are read at the start and at a reload. Their values are marked sensitive, so that nothing shows them.

use super::canary_results::CanaryResults;
use super::connections::{Connections, Keep};
use super::connector::Connector;
use super::error::SetupError;
use super::exchange::HttpClient;
use super::last_delivered::{Last, LastDelivered};
use super::request::{self, RequestTemplate};
use super::send_gate::SendGate;
use super::tls::{self, Trust};
use super::token::{Missing, Token, Tokens};
use crate::config::settings::{self, DestinationAuth, OnDeadLetter, OrderMode, Url};
use crate::delivery::{Delivery, Outcome};
use crate::event::{DestinationId, Digest64, Sequence};
use crate::latency::Latency;
use crate::net::tls::Certificate;
use crate::rules::backoff::{OnAmbiguous, Retry};
use crate::rules::lateness::Lateness;
use crate::rules::lateness::{LateAction, OnStale};
use crate::rules::refusals::Refusals;
use crate::rules::verdict::Success;
use crate::rules::verdict::{self, EndedAttempt, Judgement};
use crate::scheduler::{DeadLetters, Limits, Ordered, Policy};
use crate::time::Timestamp;
use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::Full;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

/// The configured destinations at one moment.
pub type DestinationMap = Arc<HashMap<DestinationId, Arc<Destination>>>;

/// The configured destinations as of the last reload. Clones share them.
#[derive(Clone, Debug)]
pub struct Destinations(Arc<RwLock<DestinationMap>>);

impl Destinations {
    pub fn new(known: DestinationMap) -> Self {
        Self(Arc::new(RwLock::new(known)))
    }

    pub fn now(&self) -> DestinationMap {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn get(&self, d: DestinationId) -> Option<Arc<Destination>> {
        self.now().get(&d).cloned()
    }

    pub fn has(&self, d: DestinationId) -> bool {
        self.now().contains_key(&d)
    }

    pub fn replace(&self, known: DestinationMap) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = known;
    }
}

/// How many attempts of a destination ended with each outcome since the start.
#[derive(Debug, Default)]
pub struct AttemptCounters {
    ended: [AtomicU64; Outcome::WORDS.len()],
    clamped: AtomicU64,
}

impl AttemptCounters {
    pub(super) fn count(&self, outcome: &Outcome) {
        self.ended[outcome.place()].fetch_add(1, Ordering::Relaxed);
    }

    /// Each outcome's word and its count.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Outcome::WORDS.into_iter().zip(self.ended.iter().map(|n| n.load(Ordering::Relaxed)))
    }

    pub(super) fn count_clamped(&self) {
        self.clamped.fetch_add(1, Ordering::Relaxed);
    }

    /// How often a `Retry-After` was longer than `retry_after_max`.
    pub fn clamped(&self) -> u64 {
        self.clamped.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
pub struct Destination {
    pub id: DestinationId,
    pub name: String,
    pub retry: Retry,
    pub timeout: Duration,
    pub policy: Policy,
    pub attempts: Arc<AttemptCounters>,
    /// How long its attempts take.
    pub latency: Latency,
    /// From acceptance to delivery.
    pub end_to_end: Latency,
    /// Results of redriven deliveries, which decide whether their redrive continues.
    pub canary_results: Arc<CanaryResults>,
    pub(super) client: HttpClient,
    pub(super) tokens: Option<Tokens>,
    pub(super) success: Option<Success>,
    pub(super) lateness: Lateness,
    /// None where `on_stale` is `deliver`.
    pub(super) last_delivered: Option<Arc<LastDelivered>>,
    /// The certificates of its configuration, as read at the start.
    pub certificates: Vec<Certificate>,
    template: RwLock<Arc<RequestTemplate>>,
    /// The URL without secrets.
    shown_url: Option<String>,
    pub(super) send_gate: Arc<SendGate>,
    /// Evaluates all its answers since the start.
    refusals: Arc<Mutex<Refusals>>,
    /// Until when no request is sent to it, and why.
    blocked: Arc<Mutex<Option<(Timestamp, String)>>>,
}

impl Destination {
    /// Reads the secrets that the settings name.
    pub fn new(id: DestinationId, settings: &settings::Destination) -> Result<Self, SetupError> {
        let policy = Policy {
            limits: Limits {
                concurrency_max: if settings.url.is_some() { settings.concurrency_max } else { 0 },
                adaptive: settings.adaptive,
                rate: settings.rate,
                breaker: settings.breaker.clone(),
                ramp: settings.ramp_up,
            },
            ordered: match settings.ordering.mode {
                OrderMode::Interaction => Ordered::ByInteraction,
                OrderMode::None => Ordered::Not,
            },
            dead_letters: match settings.ordering.on_dead_letter {
                OnDeadLetter::Continue => DeadLetters::Continue,
                OnDeadLetter::Hold => DeadLetters::Hold,
            },
            reorder_window: settings.ordering.reorder_window,
        };
        let uri = uri(settings)?;
        Ok(Self {
            id,
            name: settings.name.clone(),
            shown_url: settings.url.as_ref().map(|url| url.shown_as(&uri)),
            retry: settings.retry.clone(),
            timeout: settings.timeout,
            policy,
            attempts: Arc::default(),
            latency: Latency::default(),
            end_to_end: Latency::default(),
            canary_results: Arc::default(),
            client: client(settings, &uri)?,
            tokens: tokens(settings)?,
            success: settings.success.clone(),
            lateness: Lateness { on_stale: settings.ordering.on_stale, ttl: settings.ttl.clone() },
            last_delivered: (settings.ordering.on_stale != OnStale::Deliver).then(Arc::default),
            template: RwLock::new(Arc::new(template(settings)?)),
            certificates: tls::certificates_of(&settings.name, &settings.tls),
            send_gate: Arc::default(),
            refusals: Arc::default(),
            blocked: Arc::default(),
        })
    }

    /// Every reason for which [`Destination::new`] refuses these settings.
    pub fn faults(settings: &settings::Destination) -> Vec<SetupError> {
        let client = uri(settings).and_then(|uri| client(settings, &uri));
        let parts = [client.err(), tokens(settings).err(), request::fixed_headers(settings).err()];
        let keys = settings.sign.iter().map(|secret| request::signing_key(secret).err());
        let mut all: Vec<SetupError> = parts.into_iter().chain(keys).flatten().collect();
        all.dedup(); // the client and the token client read the same certificates
        all
    }

    /// With the id that the store has given to its name.
    pub fn with_id(self, id: DestinationId) -> Self {
        Self { id, ..self }
    }

    /// Takes over counters and state of the same destination with its old settings. The settings of `ordering`, which
    /// decide what state is kept, must be the same.
    pub fn inherit_runtime(self, old: &Self) -> Self {
        Self {
            attempts: old.attempts.clone(),
            latency: old.latency.clone(),
            end_to_end: old.end_to_end.clone(),
            canary_results: old.canary_results.clone(),
            last_delivered: old.last_delivered.clone(),
            send_gate: old.send_gate.clone(),
            refusals: old.refusals.clone(),
            blocked: old.blocked.clone(),
            ..self
        }
    }

    /// Reads the secrets in its requests again, for [`Destination::use_template`].
    pub fn read_template(&self, settings: &settings::Destination) -> Result<RequestTemplate, SetupError> {
        template(settings)
    }

    /// Later requests are made from this template.
    pub fn use_template(&self, template: RequestTemplate) {
        *self.template.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(template);
    }

    fn template(&self) -> Arc<RequestTemplate> {
        self.template.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A delivery has ended, or has failed for another reason than its access token.
    pub(super) fn delivery_ended(&self, delivery: Sequence) {
        if let Some(tokens) = &self.tokens {
            tokens.delivery_ended(delivery);
        }
    }

    pub(super) fn judge(&self, ended: &EndedAttempt<'_>) -> Judgement {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        verdict::judge(&self.retry, self.policy.limits.breaker.permanent_answers, &mut refusals, ended)
    }

    pub(super) fn lacks_token(&self, missing: &Missing) {
        self.blocked_because(missing.until, &missing.why);
    }

    pub(super) fn blocked_because(&self, until: Timestamp, why: &str) {
        *self.blocked.lock().unwrap_or_else(PoisonError::into_inner) = Some((until, why.to_owned()));
    }

    /// Why no request is sent to it until then.
    pub fn retry_after_reason(&self, until: Timestamp) -> String {
        let blocked = self.blocked.lock().unwrap_or_else(PoisonError::into_inner);
        let why = blocked.as_ref().filter(|(end, _)| *end == until).map(|(_, why)| why.clone());
        why.unwrap_or_else(|| "the destination asked for it".to_owned())
    }

    /// The last delivery of an interaction, if known; none where `on_stale` is `deliver`.
    pub fn last(&self, order_key: Digest64) -> Option<Last> {
        self.last_delivered.as_ref().and_then(|all| all.last(order_key))
    }

    /// Removes the last delivery of an interaction.
    pub fn forget(&self, order_key: Digest64) {
        if let Some(all) = &self.last_delivered {
            all.forget(order_key);
        }
    }

    /// The URL without secrets; none where none is configured.
    pub fn url(&self) -> Option<&str> {
        self.shown_url.as_deref()
    }

    /// Whether the URLs in these settings differ from those it calls.
    pub fn has_moved(&self, settings: &settings::Destination) -> Result<bool, SetupError> {
        let of_tokens = token_uri(settings)?;
        Ok(self.template().url != uri(settings)? || self.tokens.as_ref().map(Tokens::uri) != of_tokens.as_ref())
    }

    /// The request of a delivery's next attempt.
    pub(super) fn request(
        &self,
        delivery: &Delivery,
        late_action: LateAction,
        token: Option<&Token>,
        now: Timestamp,
    ) -> Request<Full<Bytes>> {
        request::request(&self.template(), delivery, late_action, token, now)
    }

    /// Whether the next delivery is too late.
    pub(super) fn late_action(&self, delivery: &Delivery, order_key: Digest64, now: Timestamp) -> LateAction {
        let newest = self.last(order_key).and_then(|last| last.newest);
        self.lateness.action(delivery, newest, now)
    }

    pub(super) fn mark_delivered(&self, delivery: &Delivery, order_key: Digest64, at: Timestamp) {
        if let Some(all) = &self.last_delivered {
            all.record(order_key, delivery.id.sequence, delivery.event.happened_at(), at);
        }
    }
}

fn template(settings: &settings::Destination) -> Result<RequestTemplate, SetupError> {
    Ok(RequestTemplate {
        url: uri(settings)?,
        headers: request::fixed_headers(settings)?,
        keys: settings.sign.iter().map(request::signing_key).collect::<Result<_, _>>()?,
    })
}

/// Where events are sent; empty without a URL.
fn uri(settings: &settings::Destination) -> Result<Uri, SetupError> {
    let uri = settings.url.as_ref().map_or_else(|| Ok(Uri::default()), Url::read).map_err(SetupError::unreadable)?;
    if settings.url.is_some() && !is_https(&uri) && matches!(settings.auth, Some(DestinationAuth::Mtls)) {
        return Err(SetupError::MtlsWithoutTls);
    }
    Ok(uri)
}

fn token_uri(settings: &settings::Destination) -> Result<Option<Uri>, SetupError> {
    match &settings.auth {
        Some(DestinationAuth::OAuth2(oauth2)) => {
            oauth2.token_url.read().map(Some).map_err(String::from).map_err(SetupError::unreadable)
        }
        _ => Ok(None),
    }
}

fn client(settings: &settings::Destination, uri: &Uri) -> Result<HttpClient, SetupError> {
    let tls = tls::config(&settings.tls, if is_https(uri) { Trust::One } else { Trust::Nobody })?;
    let connector = Connector::new(tls, settings.address_policy, settings.timeout);
    // a request that fails on a connection that is being closed may have been received, and must not be repeated
    let keep = match settings.retry.on_ambiguous {
        OnAmbiguous::Retry => Keep::For(settings.connection_lifetime),
        OnAmbiguous::DeadLetter => Keep::Never,
    };
    Ok(Connections::new(connector, uri.clone(), settings.concurrency_max, keep))
}

fn tokens(settings: &settings::Destination) -> Result<Option<Tokens>, SetupError> {
    let (Some(DestinationAuth::OAuth2(oauth2)), Some(uri)) = (&settings.auth, token_uri(settings)?) else {
        return Ok(None);
    };
    let tls = tls::config(&settings.tls, if is_https(&uri) { Trust::Both } else { Trust::Nobody })?;
    let connector = Connector::new(tls, settings.address_policy, settings.timeout);
    let client = Connections::new(connector, uri.clone(), 1, Keep::For(settings.connection_lifetime));
    Ok(Some(Tokens::new(&settings.name, client, uri, oauth2, settings.timeout)))
}

fn is_https(url: &Uri) -> bool {
    url.scheme_str() == Some("https")
}
