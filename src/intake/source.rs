//! A source as intake uses it: its profile compiled, its routes resolved to numbers.

use super::guard::Guard;
use crate::config::settings::{self, OnFault, Pointers};
use crate::event::{DestinationId, DestinationSet, Digest64, Event};
use crate::profile::{Composite, Field, Fields, Pointer, PointerError, Profile};
use crate::rules::gcra::Gcra;
use crate::store::{Arrival, Cause};
use crate::time::Timestamp;
use bytes::Bytes;
use http::HeaderMap;
use std::sync::{Mutex, MutexGuard};

/// Longest `Content-Type` and `traceparent` that are kept.
const HEADER_BYTES_MAX: usize = 512;

#[derive(Debug)]
pub struct Source {
    pub name: String,
    pub profile: Profile,
    pub guard: Guard,
    to: DestinationSet,
    types: Vec<String>,
    limit: Option<Mutex<Gcra>>,
    on_bad_signature: OnFault,
    on_unparsable: OnFault,
}

impl Source {
    /// Reads its secrets. `destinations`: names and numbers of those that are configured.
    pub fn new(settings: &settings::Source, destinations: &[(String, DestinationId)]) -> Result<Self, String> {
        let goes_to = |name: &String| settings.to.is_empty() || settings.to.contains(name);
        let to = destinations.iter().filter(|(name, _)| goes_to(name));
        Ok(Self {
            name: settings.name.clone(),
            profile: profile(&settings.profile, &settings.pointers).map_err(|fault| fault.to_string())?,
            guard: Guard::new(&settings.auth)?,
            to: to.fold(DestinationSet::EMPTY, |set, (_, d)| set.with(*d)),
            types: settings.types.clone(),
            on_bad_signature: settings.on_bad_signature,
            on_unparsable: settings.on_unparsable,
            limit: settings.rate_limit.map(|rate| Mutex::new(Gcra::new(rate, rate.count()))),
        })
    }

    /// Whether its rate leaves room for a request, before anything of it is read; else not before when.
    pub fn has_room(&self, now: Timestamp) -> Result<(), Timestamp> {
        self.limit().map_or(Ok(()), |limit| limit.check(now))
    }

    /// Takes the events of a request from its rate, all or none; else not before when.
    pub fn take(&self, events: usize, now: Timestamp) -> Result<(), Timestamp> {
        let events = u32::try_from(events).unwrap_or(u32::MAX);
        self.limit().map_or(Ok(()), |mut limit| limit.try_take_many(now, events))
    }

    fn limit(&self) -> Option<MutexGuard<'_, Gcra>> {
        self.limit.as_ref().map(|limit| limit.lock().expect("no holder panics"))
    }

    /// What becomes of a request that fails by this.
    pub fn on_fault(&self, cause: Cause) -> OnFault {
        match cause {
            // a token that is wrong is no signature that could be verified later
            Cause::BadSignature if !self.guard.verifies_signatures() => OnFault::Refuse,
            Cause::BadSignature => self.on_bad_signature,
            Cause::Unparsable => self.on_unparsable,
        }
    }

    /// Whether a request that fails by this is kept apart.
    pub fn keeps(&self, cause: Cause) -> bool {
        self.on_fault(cause) == OnFault::Quarantine
    }

    /// An event at the door; none where it goes nowhere.
    pub fn arrival(&self, headers: &HeaderMap, fields: Fields, received_at: Timestamp) -> Option<Arrival> {
        let to = self.route(&fields.kind);
        let text = |name: &str| {
            let value = headers.get(name)?.to_str().ok()?;
            (value.len() <= HEADER_BYTES_MAX).then(|| value.to_owned())
        };
        (!to.is_empty()).then(|| {
            Arrival::new(Event {
                received_at,
                source: self.name.clone(),
                to,
                interaction: fields.interaction,
                sender_id: fields.sender_id,
                kind: fields.kind,
                // zero stands for "not said"
                time: fields.time.filter(|t| *t > Timestamp::ZERO),
                content_type: text("content-type").unwrap_or_else(|| "application/json".to_owned()),
                traceparent: text("traceparent"),
                conflict: false,
                body_digest: Digest64::of(&[&fields.body]),
                // a copy of its own: a slice would keep the connection's whole buffer alive
                body: Bytes::copy_from_slice(&fields.body),
            })
        })
    }

    /// Where an event of this type goes; nowhere where its type is not wanted.
    pub fn route(&self, kind: &str) -> DestinationSet {
        let wanted = self.types.is_empty() || self.types.iter().any(|pattern| matches(pattern, kind));
        if wanted { self.to } else { DestinationSet::EMPTY }
    }
}

fn profile(name: &str, pointers: &Pointers) -> Result<Profile, PointerError> {
    let mut profile = Profile::preset(name).expect("the configuration knows the presets' names, as a test holds");
    let fields = [
        (Field::Key, &pointers.key),
        (Field::Id, &pointers.id),
        (Field::Time, &pointers.time),
        (Field::Kind, &pointers.event_type),
    ];
    for (field, alternatives) in fields {
        if let Some(alternatives) = alternatives {
            let alternatives = alternatives.iter().map(|parts| Composite::parse(parts)).collect::<Result<_, _>>()?;
            profile = profile.with(field, alternatives);
        }
    }
    let split = pointers.split.as_deref().map(Pointer::parse).transpose()?;
    Ok(profile.with_split(split))
}

/// Whether a pattern, in which `*` stands for anything, fits a name.
pub fn matches(pattern: &str, name: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(head) else { return false };
    let mut rest = rest;
    while let Some((middle, behind)) = rest.split_once('*') {
        let Some(at) = name.find(middle) else { return false };
        (name, rest) = (&name[at + middle.len()..], behind);
    }
    name.ends_with(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::PROFILES;

    #[test]
    fn patterns() {
        for (pattern, name, fits) in [
            ("v2.detail.events.conversation.*", "v2.detail.events.conversation.{id}.customer.end", true),
            ("v2.detail.events.conversation.*", "v2.users.{id}.activity", false),
            ("*", "", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c", false),
            ("ab*ba", "aba", false),
            ("exact", "exact", true),
            ("exact", "exactly", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn the_configuration_and_the_presets_know_the_same_names() {
        assert!(PROFILES.iter().all(|name| Profile::preset(name).is_some()));
        assert!(Profile::preset_names().iter().all(|name| PROFILES.contains(name)));
    }
}
