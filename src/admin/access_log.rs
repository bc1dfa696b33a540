//! Audit entries about access to the API: refused requests, and reads of bodies.
//!
//! *Invariants.* A refused request causes no write. Refusals are counted in memory by caller and kind, and are written at
//! most once a minute and whenever the audit is read. An unauthenticated client can therefore neither cause disk writes nor
//! push entries out of the audit, and [`CALLERS_MAX`] bounds the memory. A read of bodies is durable before the first byte
//! of a body is sent.

use super::throttle::Throttle;
use crate::clock::Clock;
use crate::store::{Change, Repeated, Store, StoreError};
use crate::time::Timestamp;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The audit's name for all callers without a valid token.
pub const UNAUTHENTICATED: &str = "unauthenticated";
/// The shortest interval between two writes of refusals.
const WRITE_EVERY: Duration = Duration::from_secs(60);
/// Callers and kinds that are counted separately between two writes.
const CALLERS_MAX: usize = 256;

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    WrongToken,
    NoToken,
    /// The request comes from a page of another site, or names a host that is not this machine.
    OtherSite,
    /// The token is valid and lacks the required scope.
    Scope,
}

impl Refusal {
    fn words(self) -> &'static str {
        match self {
            Self::WrongToken => "refused, wrong token",
            Self::NoToken => "refused, no token",
            Self::OtherSite => "refused, from another site",
            Self::Scope => "refused, outside its scopes",
        }
    }
}

#[derive(Debug, Default)]
pub struct AccessLog {
    refused: Mutex<BTreeMap<(String, &'static str), Repeated>>,
    pending: Notify,
    throttle: Mutex<Throttle>,
}

impl AccessLog {
    /// Counts a refusal. `example` is the origin of the request, or its method and path.
    pub fn refused(&self, who: &str, why: Refusal, example: String, now: Timestamp) {
        let one = Repeated::once(why.words(), Some(example), now);
        let mut refused = lock(&self.refused);
        let who = if refused.len() < CALLERS_MAX { who } else { UNAUTHENTICATED };
        let key = (who.to_owned(), why.words());
        refused.entry(key).and_modify(|counted| counted.add(&one)).or_insert(one);
        drop(refused);
        self.pending.notify_one();
    }

    /// Counts a wrong token and returns the time until which its refusal is delayed.
    pub fn failed(&self, peer: Option<IpAddr>, now: Timestamp) -> Timestamp {
        lock(&self.throttle).failed(peer, now)
    }

    /// Writes the counted refusals. Errors are ignored here: a failed store ends the daemon.
    pub async fn write(&self, store: &Store) {
        let refused = std::mem::take(&mut *lock(&self.refused));
        for ((who, _), counted) in refused {
            let _ = store.change(Change::Repeated(counted), who).await;
        }
    }

    /// Writes the counted refusals at once and then at most once a minute, until `stop`.
    pub async fn keep(&self, store: Store, clock: Clock, stop: CancellationToken) {
        while stop.run_until_cancelled(self.pending.notified()).await.is_some() {
            self.write(&store).await;
            stop.run_until_cancelled(clock.sleep_until(clock.now().after(WRITE_EVERY))).await;
        }
        self.write(&store).await;
    }
}

/// Records that bodies are read at a path; returns when the entry is durable.
pub async fn read(store: &Store, who: &str, path: &str, now: Timestamp) -> Result<(), StoreError> {
    let (what, example) = what_is_read(path);
    let change = Change::Repeated(Repeated::once(what, example, now));
    store.change(change, who.to_owned()).await.map(drop)
}

/// The kind of read at a path, and the event or destination that it names. The sender's own event id is left out: it may be
/// personal data that is to be erased.
fn what_is_read(path: &str) -> (&'static str, Option<String>) {
    let inner = |before, after| path.strip_prefix(before).and_then(|rest: &str| rest.strip_suffix(after));
    if let Some(name) = inner("/v1/destinations/", "/pending") {
        return ("exported what waits, with bodies", Some(name.to_owned()));
    }
    match inner("/v1/events/", "/body").or_else(|| inner("/v1/dlq/", "/body")) {
        None => ("exported dead letters, with bodies", None),
        Some(id) => {
            let of_sender = id.split_once(':').or_else(|| id.split_once("%3A")).or_else(|| id.split_once("%3a"));
            let example = of_sender.map_or_else(|| id.to_owned(), |(source, _)| format!("{source}:*"));
            ("read bodies", Some(example))
        }
    }
}

/// The method and the start of the path, without the name in it.
pub fn asked(method: &http::Method, path: &str) -> String {
    let room: Vec<&str> = path.split('/').take(3).collect();
    format!("{method} {}", room.join("/"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_counted_by_caller_and_kind_within_bounds() {
        let log = AccessLog::default();
        for n in 0..1000 {
            log.refused(UNAUTHENTICATED, Refusal::WrongToken, format!("10.0.0.{n}"), Timestamp(n));
        }
        for n in 0..1000 {
            log.refused(&format!("token-{n}"), Refusal::Scope, "GET /v1/status".to_owned(), Timestamp(n));
        }
        let counted = lock(&log.refused);
        assert_eq!(counted.len(), CALLERS_MAX + 1, "further callers share an entry");
        let wrong = &counted[&(UNAUTHENTICATED.to_owned(), "refused, wrong token")];
        assert_eq!((wrong.count, wrong.since, wrong.at), (1000, Timestamp(0), Timestamp(999)));
        assert_eq!(counted.values().map(|r| r.count).sum::<u64>(), 2000, "none is lost");
    }

    #[test]
    fn a_read_names_the_event_but_not_the_senders_id() {
        let id = "0190a1b2-0000-7000-8000-000000000001";
        for (path, what, example) in [
            (format!("/v1/events/{id}/body"), "read bodies", Some(id)),
            (format!("/v1/dlq/{id}/body"), "read bodies", Some(id)),
            ("/v1/events/crm:jane@example/body".to_owned(), "read bodies", Some("crm:*")),
            ("/v1/events/crm%3Ajane/body".to_owned(), "read bodies", Some("crm:*")),
            ("/v1/destinations/crm/pending".to_owned(), "exported what waits, with bodies", Some("crm")),
            ("/v1/dlq/export".to_owned(), "exported dead letters, with bodies", None),
        ] {
            assert_eq!(what_is_read(&path), (what, example.map(str::to_owned)), "{path}");
        }
        assert_eq!(asked(&http::Method::POST, "/v1/interactions/jane/erase"), "POST /v1/interactions");
    }
}
