//! Keys that belong to holdline's configuration but that this version does not act on. None is ever ignored in silence:
//! it is refused, unless its value asks for what the program does anyway.

use super::fault::Wrong;
use toml::de::{DeTable, DeValue};

/// Section (as a path without indices), key, and the value that is as good as its absence, in TOML.
const UNBUILT: &[(&str, &str, Option<&str>)] = &[
    ("", "alert", None),
    ("destination", "ttl", None),
    ("destination.ordering", "on_stale", Some(r#""deliver""#)),
    ("destination.ordering", "reorder_window", Some(r#""0s""#)),
];

pub(super) enum Verdict {
    /// Its value asks for what the program does anyway.
    Accepted,
    Refused(Wrong),
    NotListed,
}

/// What to say of a key that no reader took.
pub(super) fn judge(path: &str, key: &str, value: &DeValue<'_>) -> Verdict {
    let section = without_indices(path);
    let Some((_, _, anyway)) = UNBUILT.iter().find(|(s, k, _)| *s == section && *k == key) else {
        return Verdict::NotListed;
    };
    match anyway {
        None => Verdict::Refused(refusal(key, "remove it")),
        Some(text) => match DeValue::parse(text) {
            Ok(wanted) if same(wanted.get_ref(), value) => Verdict::Accepted,
            _ => Verdict::Refused(refusal(key, &format!("remove it or write {key} = {text}"))),
        },
    }
}

/// That `what` is no part of this version.
pub(super) fn refusal(what: &str, remedy: &str) -> Wrong {
    Wrong::new(format!("`{what}` is not supported by this version of holdline"), remedy)
}

/// `destination[0].ordering` -> `destination.ordering`.
fn without_indices(path: &str) -> String {
    path.split('.').map(|part| part.split('[').next().unwrap_or(part)).collect::<Vec<_>>().join(".")
}

/// Whether two values are equal; of the kinds that stand in the table above.
fn same(a: &DeValue<'_>, b: &DeValue<'_>) -> bool {
    let same_tables = |a: &DeTable<'_>, b: &DeTable<'_>| {
        a.len() == b.len() && a.iter().zip(b).all(|((ka, va), (kb, vb))| ka == kb && same(va.get_ref(), vb.get_ref()))
    };
    match (a, b) {
        (DeValue::Boolean(a), DeValue::Boolean(b)) => a == b,
        (DeValue::String(a), DeValue::String(b)) => a == b,
        (DeValue::Table(a), DeValue::Table(b)) => same_tables(a, b),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_that_is_as_good_as_absent_is_toml_and_accepted() {
        for (section, key, anyway) in UNBUILT {
            let Some(text) = anyway else { continue };
            let value = DeValue::parse(text).unwrap();
            assert!(matches!(judge(section, key, value.get_ref()), Verdict::Accepted), "{section}.{key}");
        }
    }
}
