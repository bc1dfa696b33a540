//! Reading of what the API answers: a field that is missing shows as `-` or zero, never as a crash.

use serde_json::Value;
use std::time::Duration;

/// A field by its path (`queue/depth`), as text; `-` where it is missing, null or empty.
pub fn text(value: &Value, path: &str) -> String {
    match find(value, path) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) if text.is_empty() => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// A field as text, where there is one.
pub fn some_text<'a>(value: &'a Value, path: &str) -> Option<&'a str> {
    find(value, path).and_then(Value::as_str).filter(|text| !text.is_empty())
}

/// A field as a whole number; zero where it is none.
pub fn number(value: &Value, path: &str) -> u64 {
    find(value, path).and_then(Value::as_u64).unwrap_or(0)
}

/// A field in milliseconds as a duration, where there is one.
pub fn duration_ms(value: &Value, path: &str) -> Option<Duration> {
    find(value, path).and_then(Value::as_u64).map(Duration::from_millis)
}

/// The elements of an array; none where there is no array.
pub fn list<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    find(value, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Whether a field is `true`.
pub fn is_set(value: &Value, path: &str) -> bool {
    find(value, path).and_then(Value::as_bool).unwrap_or(false)
}

/// A field by its path.
pub fn find<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('/').try_fold(value, |value, name| value.get(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn missing_fields_are_shown_as_missing() {
        let v = json!({"a": {"b": 3, "c": null, "d": "", "e": "x", "f": [1, 2], "g": true}});
        assert_eq!(["a/b", "a/c", "a/d", "a/e", "a/z", "z/a"].map(|p| text(&v, p)), ["3", "-", "-", "x", "-", "-"]);
        assert_eq!((number(&v, "a/b"), number(&v, "a/e"), number(&v, "q")), (3, 0, 0));
        assert_eq!((list(&v, "a/f").len(), list(&v, "a/b").len()), (2, 0));
        assert!(is_set(&v, "a/g") && !is_set(&v, "a/b"));
        assert_eq!((some_text(&v, "a/e"), some_text(&v, "a/d")), (Some("x"), None));
        assert_eq!(duration_ms(&v, "a/b"), Some(Duration::from_millis(3)));
        assert_eq!(text(&json!(7), "a"), "-");
    }
}
