//! A destination as dispatch uses it: its client, its request's fixed parts, its policy.

use super::attempt_counters::AttemptCounters;
use super::canary_results::CanaryResults;
use super::connections::{Connections, Keep};
use super::connector::Connector;
use super::exchange::HttpClient;
use super::last_delivered::{Last, LastDelivered};
use super::request::Common;
use super::send_gate::SendGate;
use super::tls::{self, Trust};
use super::token::{Missing, Token, Tokens};
use super::{credentials, request};
use crate::config::settings::{self, DestinationAuth, OnDeadLetter, OrderMode, Url};
use crate::delivery::Delivery;
use crate::event::{DestinationId, Digest64, Sequence};
use crate::latency::Latency;
use crate::net::tls::Certificate;
use crate::rules::backoff::{OnAmbiguous, Retry};
use crate::rules::lateness::Lateness;
use crate::rules::refusals::Refusals;
use crate::rules::staleness::{LateAction, OnStale};
use crate::rules::success::Success;
use crate::rules::verdict::{self, Ended, Judgement};
use crate::scheduler::{DeadLetters, Limits, Ordered, Policy};
use crate::time::Timestamp;
use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::Full;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

/// What was read again of a destination, not yet in use.
#[derive(Debug)]
pub struct Reread(Arc<Common>);

#[derive(Debug)]
pub struct Destination {
    pub id: DestinationId,
    pub name: String,
    pub retry: Retry,
    pub timeout: Duration,
    pub policy: Policy,
    /// How its attempts ended, since the start.
    pub attempts: Arc<AttemptCounters>,
    /// How long its attempts take.
    pub latency: Latency,
    /// From acceptance to delivery.
    pub end_to_end: Latency,
    /// Redriven deliveries that decide how their redrive goes on.
    pub trials: Arc<CanaryResults>,
    pub(super) client: HttpClient,
    pub(super) tokens: Option<Tokens>,
    pub(super) success: Option<Success>,
    pub(super) lateness: Lateness,
    /// What was delivered last; nothing where that does not matter.
    pub(super) sequences: Option<Arc<LastDelivered>>,
    /// Those it brings along, as they were read at the start.
    pub certificates: Vec<Certificate>,
    common: RwLock<Arc<Common>>,
    /// The URL as it may be shown; none where events are held.
    shown: Option<String>,
    pub(super) shutters: Arc<SendGate>,
    /// What its answers say of it, of all attempts since the start.
    refusals: Arc<Mutex<Refusals>>,
    /// Until when it is left alone, and why.
    held: Arc<Mutex<Option<(Timestamp, String)>>>,
}

impl Destination {
    /// Reads the secrets that the settings name. The error says which could not be read.
    pub fn new(id: DestinationId, settings: &settings::Destination) -> Result<Self, String> {
        let policy = Policy {
            pace: Limits {
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
            shown: settings.url.as_ref().map(|url| url.shown_as(&uri)),
            retry: settings.retry.clone(),
            timeout: settings.timeout,
            policy,
            attempts: Arc::default(),
            latency: Latency::default(),
            end_to_end: Latency::default(),
            trials: Arc::default(),
            client: client(settings, &uri)?,
            tokens: tokens(settings)?,
            success: settings.success.clone(),
            lateness: Lateness { on_stale: settings.ordering.on_stale, ttl: settings.ttl.clone() },
            sequences: (settings.ordering.on_stale != OnStale::Deliver).then(Arc::default),
            common: RwLock::new(Arc::new(common(settings)?)),
            certificates: tls::certificates_of(&settings.name, &settings.tls),
            shutters: Arc::default(),
            refusals: Arc::default(),
            held: Arc::default(),
        })
    }

    /// Everything for which [`Destination::new`] would refuse these settings.
    pub fn faults(settings: &settings::Destination) -> Vec<String> {
        let client = uri(settings).and_then(|uri| client(settings, &uri));
        let parts = [client.err(), tokens(settings).err(), credentials::fixed(settings).err()];
        let keys = settings.sign.iter().map(|secret| credentials::key(secret).err());
        let mut all: Vec<String> = parts.into_iter().chain(keys).flatten().collect();
        all.dedup(); // both ways out have the same certificates
        all
    }

    /// By the number that the store has given to its name.
    pub fn numbered(self, id: DestinationId) -> Self {
        Self { id, ..self }
    }

    /// The same destination by other settings; what was counted and decided of it goes on. Not for other settings of
    /// `ordering`, which say what is remembered.
    pub fn in_place_of(self, old: &Self) -> Self {
        Self {
            attempts: old.attempts.clone(),
            latency: old.latency.clone(),
            end_to_end: old.end_to_end.clone(),
            trials: old.trials.clone(),
            sequences: old.sequences.clone(),
            shutters: old.shutters.clone(),
            refusals: old.refusals.clone(),
            held: old.held.clone(),
            ..self
        }
    }

    /// Reads the secrets again that stand in its requests; they are used once they are put in place.
    pub fn reread(&self, settings: &settings::Destination) -> Result<Reread, String> {
        common(settings).map(|common| Reread(Arc::new(common)))
    }

    /// From now on requests carry these.
    pub fn put_in_place(&self, reread: Reread) {
        *self.common.write().unwrap_or_else(PoisonError::into_inner) = reread.0;
    }

    fn common(&self) -> Arc<Common> {
        self.common.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A delivery has come to what is not its access token's fault.
    pub(super) fn settled(&self, delivery: Sequence) {
        if let Some(tokens) = &self.tokens {
            tokens.settled(delivery);
        }
    }

    /// What an attempt that has ended comes to.
    pub(super) fn judge(&self, ended: &Ended<'_>) -> Judgement {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        verdict::judge(&self.retry, self.policy.pace.breaker.permanent_answers, &mut refusals, ended)
    }

    pub(super) fn lacks_token(&self, missing: Missing) {
        self.held_because(missing.until, &missing.why);
    }

    pub(super) fn held_because(&self, until: Timestamp, why: &str) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some((until, why.to_owned()));
    }

    /// Why it is left alone until then.
    pub fn held_why(&self, until: Timestamp) -> String {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let why = held.as_ref().filter(|(held, _)| *held == until).map(|(_, why)| why.clone());
        why.unwrap_or_else(|| "the destination asked for it".to_owned())
    }

    /// What was delivered last of an interaction, as far as that is remembered; none where `on_stale` is `deliver`.
    pub fn last(&self, order_key: Digest64) -> Option<Last> {
        self.sequences.as_ref().and_then(|sequences| sequences.last(order_key))
    }

    /// Forgets what was delivered of an interaction.
    pub fn forget(&self, order_key: Digest64) {
        if let Some(sequences) = &self.sequences {
            sequences.forget(order_key);
        }
    }

    /// The URL as it may be shown; none where events are held.
    pub fn url(&self) -> Option<&str> {
        self.shown.as_deref()
    }

    /// Whether it calls other URLs than these settings now lead to. The error says which cannot be read.
    pub fn is_elsewhere(&self, settings: &settings::Destination) -> Result<bool, String> {
        let of_tokens = token_uri(settings)?;
        Ok(self.common().url != uri(settings)? || self.tokens.as_ref().map(Tokens::uri) != of_tokens.as_ref())
    }

    /// The request of a delivery's next attempt.
    pub(super) fn request(
        &self,
        delivery: &Delivery,
        course: LateAction,
        token: Option<&Token>,
        now: Timestamp,
    ) -> Request<Full<Bytes>> {
        request::request(&self.common(), delivery, course, token, now)
    }

    /// What is to be done with a delivery whose turn it is, by its age and by the times of what was delivered before.
    ///
    /// `lane`: in which it is ordered.
    pub(super) fn course(&self, delivery: &Delivery, order_key: Digest64, now: Timestamp) -> LateAction {
        let last = self.last(order_key);
        self.lateness.course(delivery, last.and_then(|last| last.newest()), now)
    }

    pub(super) fn has(&self, delivery: &Delivery, order_key: Digest64, at: Timestamp) {
        if let Some(sequences) = &self.sequences {
            sequences.delivered(order_key, delivery.id.sequence, delivery.event.happened_at(), at);
        }
    }
}

fn common(settings: &settings::Destination) -> Result<Common, String> {
    Ok(Common {
        url: uri(settings)?,
        headers: credentials::fixed(settings)?,
        keys: settings.sign.iter().map(credentials::key).collect::<Result<_, _>>()?,
    })
}

/// Where events go; empty where they are held.
fn uri(settings: &settings::Destination) -> Result<Uri, String> {
    let uri = settings.url.as_ref().map_or_else(|| Ok(Uri::default()), Url::read)?;
    if settings.url.is_some() && !is_https(&uri) && matches!(settings.auth, Some(DestinationAuth::Mtls)) {
        return Err("the kind `mtls` needs TLS; write a URL that begins with \"https://\"".to_owned());
    }
    Ok(uri)
}

/// Where access tokens are asked for; none where none are.
fn token_uri(settings: &settings::Destination) -> Result<Option<Uri>, String> {
    match &settings.auth {
        Some(DestinationAuth::OAuth2(oauth2)) => oauth2.token_url.read().map(Some),
        _ => Ok(None),
    }
}

fn client(settings: &settings::Destination, uri: &Uri) -> Result<HttpClient, String> {
    let tls = tls::config(&settings.tls, if is_https(uri) { Trust::One } else { Trust::Nobody })?;
    let connector = Connector::new(tls, settings.reach, settings.timeout);
    // what dies on a connection that is being closed may have been taken, and may not be repeated here
    let keep = match settings.retry.on_ambiguous {
        OnAmbiguous::Retry => Keep::For(settings.connection_lifetime),
        OnAmbiguous::DeadLetter => Keep::Never,
    };
    Ok(Connections::new(connector, uri.clone(), settings.concurrency_max, keep))
}

fn tokens(settings: &settings::Destination) -> Result<Option<Tokens>, String> {
    let (Some(DestinationAuth::OAuth2(oauth2)), Some(uri)) = (&settings.auth, token_uri(settings)?) else {
        return Ok(None);
    };
    let tls = tls::config(&settings.tls, if is_https(&uri) { Trust::Both } else { Trust::Nobody })?;
    let connector = Connector::new(tls, settings.reach, settings.timeout);
    let client = Connections::new(connector, uri.clone(), 1, Keep::For(settings.connection_lifetime));
    Ok(Some(Tokens::new(&settings.name, client, uri, oauth2, settings.timeout)))
}

fn is_https(url: &Uri) -> bool {
    url.scheme_str() == Some("https")
}
