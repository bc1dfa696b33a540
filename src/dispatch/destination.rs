//! A destination as dispatch uses it: its client, its request's fixed parts, its policy.

use super::connector::Connector;
use super::exchange::{self, HttpClient};
use super::request::Common;
use super::tally::Tally;
use super::tls::{self, Trust};
use super::token::{Missing, Token, Tokens};
use super::{credentials, request};
use crate::config::settings::{self, DestinationAuth, OnDeadLetter, OrderMode};
use crate::delivery::Delivery;
use crate::event::DestinationId;
use crate::latency::Latency;
use crate::rules::backoff::Retry;
use crate::rules::success::Success;
use crate::scheduler::{DeadLetters, Ordered, Policy};
use crate::time::Timestamp;
use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::Full;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

#[derive(Debug)]
pub struct Destination {
    pub id: DestinationId,
    pub name: String,
    pub retry: Retry,
    pub timeout: Duration,
    pub policy: Policy,
    /// How its attempts ended, since the start.
    pub attempts: Tally,
    /// How long its attempts take.
    pub latency: Latency,
    /// From acceptance to delivery.
    pub end_to_end: Latency,
    pub(super) client: HttpClient,
    pub(super) tokens: Option<Tokens>,
    pub(super) success: Option<Success>,
    common: Common,
    /// Until when it asked to be left alone, in milliseconds since the epoch.
    held_until: AtomicU64,
    /// Why its last attempt that had no access token had none.
    missing: Mutex<Option<Missing>>,
}

impl Destination {
    /// Reads the secrets that the settings name. The error says which could not be read.
    pub fn new(id: DestinationId, settings: &settings::Destination) -> Result<Self, String> {
        let concurrency = if settings.url.is_some() { settings.concurrency_max } else { 0 };
        let policy = Policy {
            concurrency,
            ordered: match settings.ordering.mode {
                OrderMode::Interaction => Ordered::ByInteraction,
                OrderMode::None => Ordered::Not,
            },
            dead_letters: match settings.ordering.on_dead_letter {
                OnDeadLetter::Continue => DeadLetters::Continue,
                OnDeadLetter::Hold => DeadLetters::Hold,
            },
        };
        Ok(Self {
            id,
            name: settings.name.clone(),
            retry: settings.retry.clone(),
            timeout: settings.timeout,
            policy,
            attempts: Tally::default(),
            latency: Latency::default(),
            end_to_end: Latency::default(),
            client: client(settings)?,
            tokens: tokens(settings)?,
            success: settings.success.clone(),
            common: Common {
                url: settings.url.clone().unwrap_or_default(),
                headers: credentials::fixed(settings)?,
                keys: credentials::keys(settings)?,
            },
            held_until: AtomicU64::new(0),
            missing: Mutex::default(),
        })
    }

    /// False where it has asked to be left alone for longer already.
    pub(super) fn leave_alone(&self, until: Timestamp) -> bool {
        self.held_until.fetch_max(until.0, Ordering::SeqCst) < until.0
    }

    pub(super) fn lacks_token(&self, missing: Missing) {
        *self.missing.lock().unwrap_or_else(PoisonError::into_inner) = Some(missing);
    }

    /// Until when nothing may be sent to it; none where something may.
    pub(super) fn held(&self, now: Timestamp) -> Option<Timestamp> {
        Some(Timestamp(self.held_until.load(Ordering::SeqCst))).filter(|until| now < *until)
    }

    /// Why it is left alone until then.
    pub fn held_why(&self, until: Timestamp) -> String {
        let missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        let why = missing.as_ref().filter(|missing| missing.until == until).map(|missing| missing.why.clone());
        why.unwrap_or_else(|| "Retry-After".to_owned())
    }

    /// The URL as it may be shown; none where events are held.
    pub fn url(&self) -> Option<String> {
        (self.policy.concurrency > 0).then(|| self.common.url.to_string())
    }

    /// The request of a delivery's next attempt.
    pub(super) fn request(&self, delivery: &Delivery, token: Option<&Token>, now: Timestamp) -> Request<Full<Bytes>> {
        request::request(&self.common, delivery, token, now)
    }
}

fn client(settings: &settings::Destination) -> Result<HttpClient, String> {
    let https = settings.url.as_ref().is_some_and(is_https);
    let tls = tls::config(&settings.tls, if https { Trust::One } else { Trust::Nobody })?;
    Ok(exchange::client(Connector::new(tls, settings.reach, settings.timeout), settings.concurrency_max))
}

fn tokens(settings: &settings::Destination) -> Result<Option<Tokens>, String> {
    let Some(DestinationAuth::OAuth2(oauth2)) = &settings.auth else { return Ok(None) };
    let tls = tls::config(&settings.tls, if is_https(&oauth2.token_url) { Trust::Both } else { Trust::Nobody })?;
    let client = exchange::client(Connector::new(tls, settings.reach, settings.timeout), 1);
    Ok(Some(Tokens::new(&settings.name, client, oauth2, settings.timeout)))
}

fn is_https(url: &Uri) -> bool {
    url.scheme_str() == Some("https")
}
