//! What several blocks refer to: names of blocks, secrets, URLs, users, parts of a request, and patterns of event types.

use crate::config::settings::{InvalidValue, Secret, Url, parse_url, quoted};
use crate::config::syntax::{Value, nearest, values};
use http::HeaderName;
use std::ffi::OsStr;
use std::path::Path;
use toml::de::DeValue;

/// The names of one kind of block, to find duplicates and unknown references.
pub(super) struct Names<'r> {
    kind: &'static str,
    places: Vec<(&'r str, Value<'r>)>,
}

impl<'r> Names<'r> {
    pub(super) fn of(kind: &'static str) -> Self {
        Self { kind, places: Vec::new() }
    }

    /// The name of a block.
    pub(super) fn declare(&mut self, value: &Value<'r>) -> Option<String> {
        if let DeValue::String(text) = value.raw() {
            if let Some((_, first)) = self.places.iter().find(|(name, _)| name == text) {
                let message =
                    format!("{} is the name of {} already", value.written(), first.path().trim_end_matches(".name"));
                return value.fault(message, "write another name");
            }
            // invalid names, too: a reference to one is no second fault
            self.places.push((text, value.clone()));
        }
        values::name(value)
    }

    /// A reference to one of them.
    pub(super) fn resolve(&self, value: &Value<'_>) -> Option<String> {
        let text = value.text(r#"a name such as "crm""#)?;
        let names = || self.places.iter().map(|(name, _)| *name);
        if self.places.is_empty() || names().any(|name| name == text) {
            return Some(text.into());
        }
        let remedy = match nearest(text, names()) {
            Some(near) => format!(r#"write "{near}""#),
            None => format!("write one of {}", names().map(|n| format!(r#""{n}""#)).collect::<Vec<_>>().join(", ")),
        };
        value.fault(format!("there is no {} {}", self.kind, value.written()), remedy)
    }
}

const REFERENCES: &str = "write { file = ... }, { env = ... } or { credential = ... }";

/// `{ file = "..." }`, `{ env = "..." }` or `{ credential = "NAME" }`. Nothing that may be a secret is echoed.
pub(super) fn secret(value: Value<'_>) -> Option<Secret> {
    match value.raw() {
        DeValue::Table(_) => {}
        DeValue::String(_) => return value.fault("a secret does not stand in the configuration itself", REFERENCES),
        _ => return value.fault("this is no reference to a secret", REFERENCES),
    }
    let mut section = value.section()?;
    let mut found = Vec::new();
    let mut written = Vec::new();
    for (key, parse) in [("file", file as fn(&Value<'_>) -> Option<Secret>), ("env", env), ("credential", credential)] {
        if section.has(key) {
            written.push(key);
        }
        found.extend(section.take(key, |v| parse(&v)));
    }
    match written.as_slice() {
        [] => section.fault("no secret is named", REFERENCES),
        [_] => found.pop(),
        several => section.fault(format!("{} are given at once", several.join(" and ")), "keep one of them"),
    }
}

fn file(value: &Value<'_>) -> Option<Secret> {
    match value.text(r#"the path of a file, in quotes"#)? {
        "" => value.fault("the path is empty", "write the path of a file that holds the secret"),
        path => Some(Secret::File(value.in_folder(path))),
    }
}

fn env(value: &Value<'_>) -> Option<Secret> {
    let name = value.text("the name of an environment variable, in quotes")?;
    let good = |(i, c): (usize, char)| c == '_' || c.is_ascii_alphabetic() || (i > 0 && c.is_ascii_digit());
    if name.is_empty() || !name.char_indices().all(good) {
        return value.fault("this is not the name of an environment variable", r#"write a name such as "CRM_TOKEN""#);
    }
    Some(Secret::Env(name.into()))
}

fn credential(value: &Value<'_>) -> Option<Secret> {
    let name = value.text("the name of a systemd credential, in quotes")?;
    let one_file = Path::new(name).file_name() == Some(OsStr::new(name));
    if !one_file || name.contains(|c: char| c == ':' || c.is_control()) {
        let remedy = "write the name that stands before the colon in LoadCredential=NAME:FILE";
        return value.fault("this is not the name of a systemd credential", remedy);
    }
    Some(Secret::Credential(name.into()))
}

/// A URL in quotes, or a reference to the secret that holds it: `{ file = "..." }`, `{ env = "..." }`, `{ credential = "..."
/// }`.
pub(super) fn url(value: Value<'_>) -> Option<Url> {
    if matches!(value.raw(), DeValue::Table(_)) {
        return secret(value).map(Url::FromSecret);
    }
    let text = value.text(r#"a URL such as "https://crm.internal/hooks", or { file = "..." } that holds it"#)?;
    value.check(parse_url(text, &quoted(text))).map(Url::Literal)
}

pub(super) const PART_EXAMPLE: &str =
    r#"a JSON pointer such as "/detail/id", "header:NAME", "query:NAME" or "body:sha256""#;

/// Whether a part of a composite is well-formed.
pub(super) fn check_part(text: &str) -> Result<(), InvalidValue> {
    if let Some(name) = text.strip_prefix("header:") {
        return match HeaderName::from_bytes(name.as_bytes()) {
            Ok(_) => Ok(()),
            Err(_) => {
                Err(InvalidValue::new(format!("{text:?} names no header"), r#"write it as in "header:X-Event-Id""#))
            }
        };
    }
    match text.strip_prefix("query:") {
        Some("") => Err(InvalidValue::new(r#""query:" names no parameter"#, r#"write it as in "query:event_id""#)),
        Some(_) => Ok(()),
        None if text == "body:sha256" => Ok(()),
        None => check_pointer(text),
    }
}

/// Whether a text is a JSON pointer (RFC 6901): empty, or `/` before each step, with `~` only in `~0` and `~1`.
pub(super) fn check_pointer(text: &str) -> Result<(), InvalidValue> {
    if !text.is_empty() && !text.starts_with('/') {
        let dotted = !text.contains([':', '/', ' ']);
        let steps = text.trim_start_matches("$.").replace('.', "/");
        let remedy = if dotted { format!(r#"write "/{steps}""#) } else { format!("write {PART_EXAMPLE}") };
        return Err(InvalidValue::new(format!("{text:?} is no pointer"), remedy));
    }
    if text.split('~').skip(1).any(|after| !after.starts_with(['0', '1'])) {
        return Err(InvalidValue::new(format!("{text:?} has a bare ~"), "write ~0 for ~ and ~1 for / within a step"));
    }
    Ok(())
}

pub(super) const PATTERN_EXAMPLE: &str = r#"a pattern such as "v2.detail.events.conversation.*""#;

/// Whether a text can be a pattern of event types.
pub(super) fn check_pattern(text: &str) -> Result<(), InvalidValue> {
    match text.trim() {
        "" => Err(InvalidValue::new("the pattern is empty", format!("write {PATTERN_EXAMPLE}"))),
        _ => Ok(()),
    }
}

/// RFC 7617: a user has neither a colon nor control characters.
pub(super) fn user(value: Value<'_>) -> Option<String> {
    let text = value.text("a user name, in quotes")?;
    if text.contains(|c: char| c == ':' || c.is_control()) {
        return value.fault("a user has no colon and no control characters", "write the name alone");
    }
    Some(text.into())
}
