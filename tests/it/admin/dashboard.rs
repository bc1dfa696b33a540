//! The dashboard: only its own styles and scripts can run in it, and it loads nothing from other hosts.
//! `tests/rigs/dashboard.py` shows in a browser that each button works.

use crate::harness::bench::{Bench, request};
use base64::Engine;
use holdline::delivery::Reason;
use sha2::{Digest, Sha256};

/// Every text between `open` and `close`.
fn between<'a>(text: &'a str, open: &str, close: &str) -> Vec<&'a str> {
    text.split(open).skip(1).map(|rest| rest.split(close).next().unwrap()).collect()
}

fn hash(text: &str) -> String {
    format!("'sha256-{}'", base64::engine::general_purpose::STANDARD.encode(Sha256::digest(text)))
}

#[tokio::test]
async fn the_policy_lets_its_own_style_and_script_run_and_nothing_else() {
    let bench = Bench::start(None).await;
    let reply = request(bench.admin, "GET", "/", &[], b"").await;
    assert_eq!((reply.status, reply.header("x-content-type-options")), (200, Some("nosniff")));
    let (page, policy) = (reply.text(), reply.header("content-security-policy").unwrap().to_owned());
    let directives: Vec<(&str, &str)> =
        policy.split("; ").map(|d| d.split_once(' ').unwrap_or_else(|| panic!("{d}"))).collect();
    let (styles, scripts) = (between(&page, "<style>", "</style>"), between(&page, "<script>", "</script>"));
    assert_eq!((styles.len(), scripts.len(), page.matches("<script").count()), (1, 1, 1));
    let (style, script) = (hash(styles[0]), hash(scripts[0]));
    assert_eq!(
        directives,
        [
            ("default-src", "'none'"),
            ("script-src", script.as_str()),
            ("style-src", style.as_str()),
            ("connect-src", "'self'"),
            ("img-src", "data:"),
            ("base-uri", "'none'"),
            ("form-action", "'none'"),
            ("frame-ancestors", "'none'"),
            ("require-trusted-types-for", "'script'"),
            ("trusted-types", "'none'"),
        ]
    );
    assert!(!page.contains(&bench.token), "the page holds no data");
}

#[tokio::test]
async fn the_page_loads_nothing_and_renders_data_as_text() {
    let bench = Bench::start(None).await;
    let page = request(bench.admin, "GET", "/", &[], b"").await.text();
    let script = between(&page, "<script>", "</script>")[0];
    for banned in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "srcdoc"] {
        assert!(!script.contains(banned), "{banned}");
    }
    let markup = page.replace(script, "");
    for banned in [" src=", " style=", " onclick=", " onload=", "@import", "url("] {
        assert!(!markup.contains(banned), "{banned}");
    }
    let links: Vec<&str> = between(&markup, "href=\"", "\"");
    assert!(links.iter().all(|l| l.starts_with('#') || *l == "data:,"), "{links:?}");
    let elsewhere = page.replace("http://www.w3.org/2000/svg", ""); // an XML namespace, never fetched
    assert!(!elsewhere.contains("http://") && !elsewhere.contains("https://"));
}

#[tokio::test]
async fn the_filter_has_every_reason_and_explanations_refresh() {
    let bench = Bench::start(None).await;
    let page = request(bench.admin, "GET", "/", &[], b"").await.text();
    let select = between(&page, "<select name=\"reason\">", "</select>")[0];
    let options: Vec<&str> = between(select, "<option>", "</option>");
    let words = Reason::ALL.map(Reason::word);
    assert!(words.iter().all(|word| options.contains(word)) && options.len() == words.len(), "{options:?}");
    let tick = between(&page, "async function poll()", "\n}\n")[0];
    assert!(tick.contains("await explainAgain()"), "{tick}");
}
