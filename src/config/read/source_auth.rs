//! The setting `auth` of `[[source]]`: how senders authenticate, and which places a signature must cover.
//!
//! A recorded signed request can be sent again with other headers and another query: an unsigned place must not decide which
//! event it is, unless an operator trusts it by name. Of several kinds of `auth` the weakest signature counts.

use crate::config::settings::{Composite, Secret, Source, SourceAuth};
use crate::config::syntax::values::{self, Range, shown_duration, span};
use crate::config::syntax::{Section, Value};
use crate::extract::{Part, Profile};
use crate::signature::{Algorithm, Encoding, PRESETS, Scheme, SecretEncoding, Stamp, StampPlace, StampUnit, Template};
use http::HeaderName;
use std::time::Duration;
use toml::de::DeValue;

/// Every secret is tried on a request, so their number limits the work for a forged one.
const AUTHS_MAX: usize = 8;
const SECRETS_MAX: usize = 8;
const TOLERANCE: Range<Duration> =
    Range { min: (span("1s"), ""), max: (span("1d"), "within it a request that was overheard can be sent again") };

/// One, or several of which any is accepted; `{ kind = "none" }` is none at all.
pub(super) fn auths(value: Value<'_>) -> Option<Vec<SourceAuth>> {
    let items = value.one_or_items();
    if items.is_empty() {
        return value.fault("the list is empty", r#"name at least one, or write { kind = "none" }"#);
    }
    if items.len() > AUTHS_MAX {
        return value.fault(format!("there are more than {AUTHS_MAX}"), "remove some");
    }
    let several = items.len() > 1;
    let mut auths = Vec::new();
    for item in items {
        match auth(item.clone()) {
            Some(Some(auth)) => auths.push(auth),
            Some(None) if several => {
                item.fault::<()>(r#"with "none" among them everybody passes"#, "remove it, or all the others");
            }
            Some(None) | None => {}
        }
    }
    Some(auths)
}

#[derive(Clone, Copy)]
enum Kind {
    None,
    Bearer,
    Basic,
    Header,
    Query,
    Hmac,
}

const KINDS: [(&str, Kind); 6] = [
    ("none", Kind::None),
    ("bearer", Kind::Bearer),
    ("basic", Kind::Basic),
    ("header", Kind::Header),
    ("query", Kind::Query),
    ("hmac", Kind::Hmac),
];

/// `Some(None)` for kind `none`.
fn auth(value: Value<'_>) -> Option<Option<SourceAuth>> {
    let mut section = value.section()?;
    let Some(kind) = section.require("kind", r#"kind = "hmac""#, |v| values::choice(&v, &KINDS)) else {
        return section.skip_unknown_keys();
    };
    Some(Some(match kind {
        Kind::None => return Some(None),
        Kind::Bearer => SourceAuth::Bearer { tokens: section.require("token", TOKEN, secrets)? },
        Kind::Basic => {
            let user = section.require("user", r#"user = "...""#, super::references::user);
            let passwords = section.require("password", r#"password = { file = "..." }"#, secrets);
            SourceAuth::Basic { user: user?, passwords: passwords? }
        }
        Kind::Header => {
            let name = section.require("name", r#"name = "X-Api-Key""#, |v| header(&v));
            let values = section.require("value", VALUE, secrets);
            SourceAuth::Header { name: name?, values: values? }
        }
        Kind::Query => {
            let name = section.require("name", r#"name = "token""#, |v| filled(&v, r#"a parameter such as "token""#));
            let values = section.require("value", VALUE, secrets);
            SourceAuth::Query { name: name?, values: values? }
        }
        Kind::Hmac => hmac(&mut section)?,
    }))
}

const TOKEN: &str = r#"token = { file = "..." }"#;
const VALUE: &str = r#"value = { file = "..." }"#;

/// A reference to a secret, or several that are valid at once during a rotation.
pub(super) fn secrets(value: Value<'_>) -> Option<Vec<Secret>> {
    let items = value.one_or_items();
    if items.is_empty() {
        return value.fault("the list is empty", "name at least one secret");
    }
    if items.len() > SECRETS_MAX {
        return value.fault(format!("there are more than {SECRETS_MAX} secrets"), "remove those that are out of use");
    }
    items.into_iter().map(super::references::secret).collect()
}

fn header(value: &Value<'_>) -> Option<HeaderName> {
    let example = r#"a header such as "X-Api-Key""#;
    let text = value.text(example)?;
    match HeaderName::from_bytes(text.as_bytes()) {
        Ok(name) => Some(name),
        Err(_) => value.fault(format!("{} is not the name of a header", value.written()), format!("write {example}")),
    }
}

fn filled(value: &Value<'_>, example: &str) -> Option<String> {
    match value.text(example)? {
        "" => value.fault("it is empty", format!("write {example}")),
        text => Some(text.into()),
    }
}

/// A preset, of which each parameter can be overridden, or all parameters.
fn hmac(section: &mut Section<'_>) -> Option<SourceAuth> {
    let presets = PRESETS.map(|p| (p, p));
    let named = section.has("preset");
    let preset = section.take("preset", |v| values::choice(&v, &presets)).and_then(Scheme::preset);
    let given = section.take("header", |v| header(&v));
    if !named && given.is_none() && !section.has("header") {
        section.fault::<()>("neither `preset` nor `header` is there", r#"write preset = "github" or header = "X-...""#);
    }
    let fallback = given.clone().map(Scheme::plain);
    let secrets = section.require("secrets", r#"secrets = [{ file = "..." }]"#, secrets);
    let Some(defaults) = preset.or(fallback) else {
        take_parameters(section, Scheme::plain(HeaderName::from_static("x")));
        return None;
    };
    let scheme =
        take_parameters(section, Scheme { header: given.unwrap_or_else(|| defaults.header.clone()), ..defaults });
    check_places(section, &scheme)?;
    Some(SourceAuth::Hmac { scheme, secrets: secrets? })
}

fn take_parameters(section: &mut Section<'_>, defaults: Scheme) -> Scheme {
    let algorithms = [("sha1", Algorithm::Sha1), ("sha256", Algorithm::Sha256), ("sha512", Algorithm::Sha512)];
    let encodings = [("hex", Encoding::Hex), ("base64", Encoding::Base64)];
    let secret_encodings = [
        ("utf8", SecretEncoding::Utf8),
        ("hex", SecretEncoding::Hex),
        ("base64", SecretEncoding::Base64),
        ("whsec", SecretEncoding::Whsec),
    ];
    let units = [("auto", StampUnit::Auto), ("s", StampUnit::Seconds), ("ms", StampUnit::Milliseconds)];
    let place = section.take("timestamp", |v| place(&v));
    let unit = section.take("timestamp_unit", |v| values::choice(&v, &units));
    let tolerance = section.take("tolerance", |v| values::duration(&v, &TOLERANCE));
    let of_preset = defaults.stamp.as_ref();
    let stamp = place.or_else(|| of_preset.map(|s| s.place.clone())).map(|place| Stamp {
        place,
        unit: unit.or_else(|| Some(of_preset?.unit)).unwrap_or(StampUnit::Auto),
        tolerance: tolerance.or_else(|| Some(of_preset?.tolerance)).unwrap_or(Scheme::TOLERANCE),
    });
    Scheme {
        header: defaults.header,
        algorithm: section.take("algorithm", |v| values::choice(&v, &algorithms)).unwrap_or(defaults.algorithm),
        encoding: section.take("encoding", |v| values::choice(&v, &encodings)).unwrap_or(defaults.encoding),
        prefix: section
            .take("prefix", |v| v.text(r#"a text such as "sha256=""#).map(Into::into))
            .unwrap_or(defaults.prefix),
        separator: section.take("separator", |v| separator(&v)).or(defaults.separator),
        signed: section.take("signed", |v| template(&v)).unwrap_or(defaults.signed),
        stamp,
        id: section.take("id_header", |v| header(&v)).or(defaults.id),
        secret_encoding: section
            .take("secret_encoding", |v| values::choice(&v, &secret_encodings))
            .unwrap_or(defaults.secret_encoding),
    }
}

/// The signed template and the places of its parts must match: a timestamp that is not signed proves nothing.
fn check_places(section: &Section<'_>, scheme: &Scheme) -> Option<()> {
    if !section.is_valid(&["signed", "timestamp", "id_header"]) {
        return None;
    }
    let at = |key| if section.has("signed") { "signed" } else { key };
    let pairs = [
        (
            "{ts}",
            "timestamp",
            r#"timestamp = "header:X-Timestamp""#,
            scheme.signed.has_timestamp(),
            scheme.stamp.is_some(),
        ),
        ("{id}", "id_header", r#"id_header = "X-Id""#, scheme.signed.has_id(), scheme.id.is_some()),
    ];
    let mut is_valid = Some(());
    for (place, key, example, is_signed, is_there) in pairs {
        if is_signed && !is_there {
            section.fault_at("signed", format!("it is not said where {place} stands"), format!("write {example}"));
            is_valid = None;
        } else if is_there && !is_signed {
            let remedy = format!("write {place} in `signed`, or remove `{key}`");
            section.fault_at(at(key), format!("`{key}` is not signed and proves nothing"), remedy);
            is_valid = None;
        }
    }
    if scheme.stamp.is_none() {
        for key in ["timestamp_unit", "tolerance"].into_iter().filter(|key| section.has(key)) {
            section.fault_at(
                key,
                format!("`{key}` speaks of a timestamp that there is not"),
                "write `timestamp`, or remove it",
            );
            is_valid = None;
        }
    }
    is_valid
}

fn place(value: &Value<'_>) -> Option<StampPlace> {
    let example = r#"write "header:X-Timestamp", or "field:t" where it stands beside the signatures as t=..."#;
    let text = value.text(r#""header:X-Timestamp""#)?;
    match text.split_once(':') {
        Some(("header", name)) => match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) => Some(StampPlace::Header(name)),
            Err(_) => value.fault(format!("{} names no header", value.written()), example),
        },
        Some(("field", name)) if !name.is_empty() => Some(StampPlace::Field(name.into())),
        _ => value.fault(format!("{} is no place of a timestamp", value.written()), example),
    }
}

fn separator(value: &Value<'_>) -> Option<char> {
    let text = value.text(r#"one character such as ",""#)?;
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(one), None) => Some(one),
        _ => value.fault(format!("{} is not one character", value.written()), r#"write one, such as ",""#),
    }
}

fn template(value: &Value<'_>) -> Option<Template> {
    match value.raw() {
        DeValue::String(text) => match text.parse() {
            Ok(template) => Some(template),
            Err(fault) => value.fault(format!("{fault}"), r#"write what is signed, as in "{ts}.{body}""#),
        },
        _ => value.wrong_type("string", r#"what is signed, as in "{ts}.{body}""#),
    }
}

/// Adds a fault for each pointer to an unsigned place, for each field of a preset that would never be found, and for a dedup
/// window shorter than the tolerance of a signature.
pub(super) fn check_signed_places(section: &Section<'_>, source: &Source) {
    let schemes: Vec<&Scheme> = schemes(source).collect();
    if !section.is_valid(&["auth", "trust_unsigned", "profile"]) {
        return;
    }
    if schemes.is_empty() {
        return; // who has the token, or may come without one, is believed in everything
    }
    check_pointers(section, source);
    check_preset(section, source);
    let tolerance = schemes.iter().filter_map(|scheme| Some(scheme.stamp.as_ref()?.tolerance)).max();
    if let Some(twice) = tolerance.map(|tolerance| tolerance * 2).filter(|twice| source.dedup_window < *twice) {
        let message = format!(
            "ids are forgotten after {} while a signature is believed for {} (`tolerance` before and after)",
            shown_duration(source.dedup_window),
            shown_duration(twice)
        );
        let remedy = format!(r#"write dedup_window = "{}" or longer, or a shorter tolerance"#, shown_duration(twice));
        section.fault_at("dedup_window", message, remedy);
    }
}

/// Places outside the body that a named preset reads, and that are ignored because no signature covers them.
pub fn unsigned_places(source: &Source) -> Vec<String> {
    let named = source.profile != "auto" && schemes(source).next().is_some();
    let Some(profile) = Profile::preset(&source.profile).filter(|_| named) else { return Vec::new() };
    let mut places: Vec<String> = Vec::new();
    for (field, outside, _) in profile.fields_outside_the_body() {
        if pointer(source, field.word()).is_none() {
            places.extend(outside.iter().map(ToString::to_string).filter(|part| !is_believed(source, part)));
        }
    }
    places.sort();
    places.dedup();
    places
}

fn check_pointers(section: &Section<'_>, source: &Source) {
    for key in ["key", "id", "time", "type"] {
        let parts = pointer(source, key).into_iter().flatten().flatten();
        for part in parts.filter(|part| is_outside(part) && !is_believed(source, part)) {
            let message =
                format!("{part:?} is not signed by `auth`: a recorded request could be sent again with another one");
            let remedy = format!(
                r#"name a place in the body, or "body:sha256"; or write trust_unsigned = [{part:?}] where only the sender can reach this address"#
            );
            section.fault_at(key, message, remedy);
        }
    }
}

fn check_preset(section: &Section<'_>, source: &Source) {
    if source.profile == "auto" || source.trust_unsigned.is_some() {
        return;
    }
    let Some(profile) = Profile::preset(&source.profile) else { return };
    for (field, outside, also_inside) in profile.fields_outside_the_body() {
        let is_found = || outside.iter().any(|part| is_believed(source, &part.to_string()));
        if also_inside || pointer(source, field.word()).is_some() || is_found() {
            continue;
        }
        let places = outside.iter().map(|part| format!("{:?}", part.to_string())).collect::<Vec<_>>().join(", ");
        let (key, profile) = (field.word(), &source.profile);
        let message = format!("`{profile}` takes the {key} of an event from {places}, which `auth` does not sign");
        let remedy = format!(
            "write {key} = [...] with a place in the body, or trust_unsigned = [{places}] where only the sender can reach this \
             address, or trust_unsigned = [] to go without a {key}"
        );
        section.fault_at("profile", message, remedy);
    }
}

fn schemes(source: &Source) -> impl Iterator<Item = &Scheme> {
    source.auth.iter().filter_map(|auth| match auth {
        SourceAuth::Hmac { scheme, .. } => Some(scheme),
        _ => None,
    })
}

fn pointer<'s>(source: &'s Source, key: &str) -> Option<&'s Vec<Composite>> {
    let pointers = &source.pointers;
    match key {
        "key" => pointers.key.as_ref(),
        "id" => pointers.id.as_ref(),
        "time" => pointers.time.as_ref(),
        _ => pointers.event_type.as_ref(),
    }
}

fn is_outside(part: &str) -> bool {
    Part::parse(part).is_ok_and(|part| part.is_outside_the_body())
}

/// Whether every signature covers a place, or it is trusted.
fn is_believed(source: &Source, part: &str) -> bool {
    let Ok(part) = Part::parse(part) else { return true };
    let is_signed = |scheme: &Scheme| match &part {
        Part::Header(name) => scheme.signed_headers().any(|own| own == name),
        Part::Query(_) => false,
        Part::Body(_) | Part::BodySha256 => true,
    };
    let trusted = source.trust_unsigned.iter().flatten().any(|own| Part::parse(own).as_ref() == Ok(&part));
    trusted || schemes(source).all(is_signed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_no_signature_covers_are_named() {
        let source = |profile: &str, preset: &str| Source {
            profile: profile.to_owned(),
            auth: vec![SourceAuth::Hmac { scheme: Scheme::preset(preset).unwrap(), secrets: Vec::new() }],
            ..Source::named("s")
        };
        assert_eq!(unsigned_places(&source("interaction", "github")), ["header:webhook-id"]);
        assert_eq!(unsigned_places(&source("interaction", "standard-webhooks")), [""; 0]);
        assert_eq!(unsigned_places(&source("auto", "github")), [""; 0]);
        assert_eq!(unsigned_places(&Source { auth: Vec::new(), ..source("interaction", "github") }), [""; 0]);
        let mut trigger = source("genesys-trigger", "github");
        trigger.trust_unsigned = Some(vec!["header:X-Event-Type".to_owned()]);
        assert_eq!(unsigned_places(&trigger), ["header:x-event-id", "query:type"]);
        trigger.pointers.id = Some(vec![vec!["/id".to_owned()]]);
        assert_eq!(unsigned_places(&trigger), ["query:type"]);
    }
}
