//! The document of the API, compared with the API itself.

use crate::harness::bench::{Bench, request};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Method, path, and whether a token is required, for each operation of the document.
fn operations(document: &Value) -> Vec<(String, String, bool)> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let open = operation["security"] == json!([{}]);
            all.push((method.to_uppercase(), path.clone(), !open));
        }
    }
    all
}

/// A path with a value for each of its parameters.
fn filled(path: &str) -> String {
    path.replace("{id}", "019a2b3c-4d5e-7000-8000-000004000000").replace("{name}", "default").replace("{key}", "k")
}

#[tokio::test]
async fn every_documented_path_exists_with_its_documented_guard() {
    let bench = Bench::start(None).await;
    let document = bench.get("/openapi.json").await;
    assert_eq!(document["openapi"], json!("3.1.0"));
    let operations = operations(&document);
    assert!(operations.len() > 10, "{operations:?}");
    for (method, path, guarded) in &operations {
        let path = filled(path);
        let reply = request(bench.admin, method, &path, &[], b"").await;
        if *guarded {
            assert_eq!((reply.status, reply.code().as_str()), (401, "unauthorized"), "{method} {path}");
        } else {
            assert_eq!(reply.status, 200, "{method} {path}");
        }
        let reply = bench.admin(method, &path, b"").await;
        assert_ne!(reply.status, 405, "{method} {path}");
        assert!(!reply.text().contains("there is nothing at this path"), "{method} {path}");
    }
}

/// Every route is added together with its documentation.
#[test]
fn every_path_is_documented() {
    let admin = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin");
    let mut undocumented = BTreeSet::new();
    for entry in std::fs::read_dir(admin).unwrap() {
        let path = entry.unwrap().path();
        let path = if path.is_dir() { path.join("mod.rs") } else { path };
        let text = std::fs::read_to_string(path).unwrap();
        let routes = text.split(".route(").skip(1);
        undocumented.extend(routes.map(|rest| rest.split('"').nth(1).unwrap().to_owned()));
    }
    assert_eq!(undocumented, ["/openapi.json".to_owned()].into(), "the document does not describe itself");
}

#[tokio::test]
async fn every_reference_in_the_document_resolves() {
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|v| references(v, found));
            }
            Value::Array(list) => list.iter().for_each(|v| references(v, found)),
            _ => {}
        }
    }
    let document = Bench::start(None).await.get("/openapi.json").await;
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.len() > 5);
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}
