//! The dashboard: one page that calls the API. Style and script are inline; the page loads nothing else.
//!
//! *Invariants.* The page itself holds no data and needs no token. Its content security policy lists style and script by
//! their hashes, so content of an event can neither run nor change the style. Trusted types prevent that text is assigned as
//! markup.

use axum::http::{HeaderName, header};
use axum::response::{Html, IntoResponse};
use base64::Engine;
use sha2::{Digest, Sha256};
use std::sync::LazyLock;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

static WHOLE: LazyLock<(String, String)> = LazyLock::new(|| {
    let page = PAGE.replace("{{style}}", STYLE).replace("{{script}}", SCRIPT);
    let hash = |text: &str| base64::engine::general_purpose::STANDARD.encode(Sha256::digest(text));
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
         trusted-types 'none'",
        hash(SCRIPT),
        hash(STYLE),
    );
    (page, policy)
});

/// The dashboard
#[utoipa::path(get, path = "/", tag = "status", security(()), responses((status = 200, description = "A page", body = String, content_type = "text/html")))]
pub(super) async fn page() -> impl IntoResponse {
    let (page, policy) = &*WHOLE;
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy.as_str()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    (headers, Html(page.as_str()))
}
