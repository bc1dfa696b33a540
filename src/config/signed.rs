//! What a signature covers, held against the places that decide which event a request is.
//!
//! Whoever overhears one signed request can send its body again under other headers and another query: what stands there
//! must not tell events apart, unless an operator trusts it by name. A source that several kinds of `auth` open is as strong
//! as the weakest signature among them.

use super::section::Section;
use super::settings::{Composite, Source, SourceAuth};
use super::values::shown_duration;
use crate::extract::{Part, Profile};
use crate::signature::Scheme;

/// Notes each pointer that names an unsigned place, each field of a preset that would be found nowhere, and a memory for ids
/// that is shorter than a signature is believed.
pub(super) fn check(section: &Section<'_>, source: &Source) {
    let schemes: Vec<&Scheme> = schemes(source).collect();
    if !section.sound(&["auth", "trust_unsigned", "profile"]) {
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
        section.wrong_at("dedup_window", message, remedy);
    }
}

/// Places outside the body that a named preset looks at, and that are ignored because no signature covers them.
pub fn ignored(source: &Source) -> Vec<String> {
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
            let message = format!(
                "{part:?} is not signed by `auth`: whoever overhears one request could send its body again under another one"
            );
            let remedy = format!(
                r#"name a place in the body, or "body:sha256"; or write trust_unsigned = [{part:?}] where only the sender can reach this address"#
            );
            section.wrong_at(key, message, remedy);
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
        section.wrong_at("profile", message, remedy);
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

/// Whether every signature covers a place, or it is trusted without.
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
        assert_eq!(ignored(&source("interaction", "github")), ["header:webhook-id"]);
        assert_eq!(ignored(&source("interaction", "standard-webhooks")), [""; 0]);
        assert_eq!(ignored(&source("auto", "github")), [""; 0]);
        assert_eq!(ignored(&Source { auth: Vec::new(), ..source("interaction", "github") }), [""; 0]);
        let mut trigger = source("genesys-trigger", "github");
        trigger.trust_unsigned = Some(vec!["header:X-Event-Type".to_owned()]);
        assert_eq!(ignored(&trigger), ["header:x-event-id", "query:type"]);
        trigger.pointers.id = Some(vec![vec!["/id".to_owned()]]);
        assert_eq!(ignored(&trigger), ["query:type"]);
    }
}
