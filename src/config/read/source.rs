//! The block `[[source]]`: a sender, and where the fields of its events are.

use super::references::{Names, PART_EXAMPLE, PATTERN_EXAMPLE, check_part, check_pattern, check_pointer};
use super::source_auth;
use crate::config::settings::{Composite, Handshake, OnFault, PROFILES, Pointers, Source, SourceAuth};
use crate::config::syntax::values::{self, Range, span};
use crate::config::syntax::{Section, Value};
use std::time::Duration;

const DEDUP_WINDOW: Range<Duration> =
    Range { min: (span("1s"), ""), max: (span("30d"), "each remembered id takes room on disk") };

const ON_FAULT: [(&str, OnFault); 2] = [("refuse", OnFault::Refuse), ("quarantine", OnFault::Quarantine)];

/// Reads one source. `destinations` are those that `to` can name.
pub(super) fn source<'r>(mut section: Section<'r>, sources: &mut Names<'r>, destinations: &Names<'r>) -> Source {
    let name = section.require("name", r#"name = "genesys""#, |v| sources.declare(&v));
    let defaults = Source::named(name.unwrap_or_default());
    let profiles = PROFILES.map(|p| (p, p));
    let source = Source {
        profile: section.take("profile", |v| values::choice(&v, &profiles)).map_or(defaults.profile, Into::into),
        pointers: Pointers {
            key: section.take("key", composites),
            id: section.take("id", composites),
            time: section.take("time", composites),
            event_type: section.take("type", composites),
            split: section.take("split", pointer),
            unwrap: section.take("unwrap", pointer),
        },
        dedup_window: section
            .take("dedup_window", |v| values::duration(&v, &DEDUP_WINDOW))
            .unwrap_or(defaults.dedup_window),
        auth: section.take("auth", source_auth::auths).unwrap_or_default(),
        trust_unsigned: section.take("trust_unsigned", trusted),
        on_bad_signature: section
            .take("on_bad_signature", |v| values::choice(&v, &ON_FAULT))
            .unwrap_or(OnFault::Refuse),
        on_invalid_body: section.take("on_invalid_body", |v| values::choice(&v, &ON_FAULT)).unwrap_or(OnFault::Refuse),
        rate_limit: section.take("rate_limit", |v| values::rate(&v)),
        shared_keys: section.take("shared_keys", |v| v.boolean()).unwrap_or(defaults.shared_keys),
        handshakes: section.take("handshakes", handshakes),
        verify_token: section.take("verify_token", source_auth::secrets).unwrap_or_default(),
        to: section
            .take("to", |v| values::words(&v, "all destinations", |item| destinations.resolve(item)))
            .unwrap_or_default(),
        types: section.take("types", |v| values::words(&v, "all types", type_pattern)).unwrap_or_default(),
        name: defaults.name,
    };
    source_auth::check_signed_places(&section, &source);
    check_handshakes(&section, &source);
    source
}

/// Headers and query parameters; an empty list is a decision, too.
fn trusted(value: Value<'_>) -> Option<Vec<String>> {
    let place = |v: &Value<'_>| {
        let text = v.text(r#""header:NAME" or "query:NAME""#)?;
        if !text.starts_with("header:") && !text.starts_with("query:") {
            return v.fault(format!("{} is in the body, which is signed", v.written()), "remove it");
        }
        v.check(check_part(text)).map(|()| text.to_owned())
    };
    Some(value.items()?.iter().filter_map(place).collect())
}

/// Names of handshakes, each once; an empty list is none at all.
fn handshakes(value: Value<'_>) -> Option<Vec<Handshake>> {
    let known = Handshake::ALL.map(|kind| (kind.word(), kind));
    let items = value.items()?;
    let mut named: Vec<_> = items.iter().filter_map(|item| values::choice(item, &known)).collect();
    let all_known = named.len() == items.len();
    named.sort_unstable();
    named.dedup();
    all_known.then_some(named)
}

/// A handshake has the secret that it needs, and a secret has its handshake.
fn check_handshakes(section: &Section<'_>, source: &Source) {
    let Some(named) = source.handshakes.as_ref().filter(|_| section.is_valid(&["handshakes", "verify_token", "auth"]))
    else {
        return;
    };
    let knows_zoom = source.auth.iter().any(|a| matches!(a, SourceAuth::Hmac { scheme, .. } if scheme.is_zoom()));
    for (kind, has_secret, remedy) in [
        (Handshake::Meta, !source.verify_token.is_empty(), r#"write verify_token = { file = "..." }"#),
        (Handshake::Zoom, knows_zoom, r#"write auth = { kind = "hmac", preset = "zoom", secrets = ... }"#),
    ] {
        if named.contains(&kind) && !has_secret {
            section.fault_at("handshakes", format!("{:?} cannot be answered without its secret", kind.word()), remedy);
        }
    }
    if !source.verify_token.is_empty() && !named.contains(&Handshake::Meta) {
        let remedy = r#"add "meta" to `handshakes`, or remove it"#;
        section.fault_at("verify_token", "no handshake looks at it", remedy);
    }
}

/// Alternatives: a part, or an array whose elements are parts or arrays of parts that form one value.
fn composites(value: Value<'_>) -> Option<Vec<Composite>> {
    let items = value.one_or_items();
    if items.is_empty() {
        return value.fault("the list is empty", "name at least one pointer, or remove it for that of the profile");
    }
    Some(items.iter().filter_map(composite).collect())
}

fn composite(value: &Value<'_>) -> Option<Composite> {
    let parts = value.one_or_items();
    if parts.is_empty() {
        return value.fault("the list is empty", "name at least one pointer, or remove it");
    }
    let part = |v: &Value<'_>| {
        let text = v.text(PART_EXAMPLE)?;
        v.check(check_part(text)).map(|()| text.to_owned())
    };
    Some(parts.iter().filter_map(part).collect())
}

fn pointer(value: Value<'_>) -> Option<String> {
    let text = value.text(r#"a JSON pointer such as "/events""#)?;
    value.check(check_pointer(text)).map(|()| text.into())
}

fn type_pattern(value: &Value<'_>) -> Option<String> {
    let text = value.text(PATTERN_EXAMPLE)?;
    value.check(check_pattern(text)).map(|()| text.into())
}
