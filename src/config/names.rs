//! Names of sources and destinations, and what refers to them.

use super::fault::nearest;
use super::section::Value;
use super::values;
use toml::de::DeValue;

/// The names of one kind of block, to find those that are given twice and those that are meant elsewhere.
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
                return value.wrong(message, "write another name");
            }
            // Bad names too: who refers to one has not made a second fault.
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
        value.wrong(format!("there is no {} {}", self.kind, value.written()), remedy)
    }
}
