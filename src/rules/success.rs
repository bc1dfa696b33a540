//! Success by body: a 2xx that says in its body that it was none.

use serde_json::Value;

/// What must stand where in the body of a 2xx.
#[derive(Clone, Debug, PartialEq)]
pub struct Success {
    /// RFC 6901.
    pub json_pointer: String,
    /// A string, number or boolean.
    pub equals: Value,
}

impl Success {
    /// Why a body is no success; none where it is one. What the body says instead is not repeated.
    pub fn refusal(&self, body: &[u8]) -> Option<String> {
        let Self { json_pointer, equals } = self;
        match serde_json::from_slice::<Value>(body) {
            Err(_) => Some("its body is not JSON".to_owned()),
            Ok(document) => match document.pointer(json_pointer) {
                None => Some(format!("there is nothing at `{json_pointer}` of its body")),
                Some(found) if same(found, equals) => None,
                Some(_) => Some(format!("`{json_pointer}` of its body is not {equals}")),
            },
        }
    }
}

/// 1 and 1.0 are one number.
fn same(a: &Value, b: &Value) -> bool {
    a == b || a.as_f64().is_some_and(|a| Some(a) == b.as_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_body_is_a_success_or_has_a_reason() {
        let deep = "[".repeat(10_000);
        let cases = [
            ("/status", json!("ok"), r#"{"status":"ok"}"#, None),
            ("/status", json!("ok"), r#"{"status":"OK"}"#, Some(r#"`/status` of its body is not "ok""#)),
            ("/status", json!("ok"), r#"{"status":null}"#, Some(r#"`/status` of its body is not "ok""#)),
            ("/status", json!("ok"), r#"{"state":"ok"}"#, Some("there is nothing at `/status` of its body")),
            ("/status", json!("ok"), r#""ok""#, Some("there is nothing at `/status` of its body")),
            ("", json!("ok"), r#""ok""#, None),
            ("/status", json!("ok"), "ok", Some("its body is not JSON")),
            ("/status", json!("ok"), "", Some("its body is not JSON")),
            ("/status", json!("ok"), r#"{"status":"ok"} and more"#, Some("its body is not JSON")),
            ("/status", json!("ok"), &deep, Some("its body is not JSON")),
            ("/r/0/a~1b", json!(true), r#"{"r":[{"a/b":true}]}"#, None),
            ("/code", json!(0), r#"{"code":0}"#, None),
            ("/code", json!(0), r#"{"code":0.0}"#, None),
            ("/code", json!(0), r#"{"code":"0"}"#, Some("`/code` of its body is not 0")),
            ("/code", json!(0), r#"{"code":false}"#, Some("`/code` of its body is not 0")),
        ];
        for (pointer, equals, body, wanted) in cases {
            let success = Success { json_pointer: pointer.to_owned(), equals };
            assert_eq!(success.refusal(body.as_bytes()).as_deref(), wanted, "{body}");
        }
    }
}
