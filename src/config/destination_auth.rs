//! What a destination is proven to, and proves itself with: `auth`, `tls`, `sign`; and `success`, by which its answers
//! are believed.

use super::secret::secret;
use super::section::{Section, Value};
use super::settings::{ClientAuth, Destination, DestinationAuth, DestinationTls, Identity, OAuth2, Secret};
use super::source::check_pointer;
use super::url::Url;
use super::{url, values};
use crate::rules::success::Success;
use http::HeaderName;
use std::path::PathBuf;
use toml::de::DeValue;

#[derive(Clone, Copy)]
enum Kind {
    Bearer,
    Basic,
    Header,
    OAuth2,
    Mtls,
}

const KINDS: [(&str, Kind); 5] = [
    ("bearer", Kind::Bearer),
    ("basic", Kind::Basic),
    ("header", Kind::Header),
    ("oauth2", Kind::OAuth2),
    ("mtls", Kind::Mtls),
];

pub(super) fn auth(value: Value<'_>) -> Option<DestinationAuth> {
    let mut section = value.section()?;
    let kind = |v: Value<'_>| values::choice(&v, &KINDS);
    let Some(kind) = section.need("kind", r#"kind = "bearer", "basic", "header", "oauth2" or "mtls""#, kind) else {
        return section.abandon();
    };
    match kind {
        Kind::Bearer => {
            let token = section.need("token", r#"token = { file = "..." }"#, secret)?;
            Some(DestinationAuth::Bearer { token })
        }
        Kind::Basic => {
            let user = section.need("user", r#"user = "...""#, user);
            let password = section.need("password", r#"password = { file = "..." }"#, secret);
            Some(DestinationAuth::Basic { user: user?, password: password? })
        }
        Kind::Header => {
            let name = section.need("name", r#"name = "X-Api-Key""#, header_name);
            let value = section.need("value", r#"value = { file = "..." }"#, secret);
            Some(DestinationAuth::Header { name: name?, value: value? })
        }
        Kind::OAuth2 => oauth2(section),
        Kind::Mtls => Some(DestinationAuth::Mtls),
    }
}

fn oauth2(mut section: Section<'_>) -> Option<DestinationAuth> {
    let token_url = section.need("token_url", r#"token_url = "https://...""#, url::url);
    let client_id = section.need("client_id", r#"client_id = "...""#, |v| words(&v));
    let client_secret = section.need("client_secret", r#"client_secret = { file = "..." }"#, secret);
    let scope = section.take("scope", |v| words(&v));
    let audience = section.take("audience", |v| words(&v));
    let ways = [("basic", ClientAuth::Basic), ("body", ClientAuth::Body)];
    let client_auth = section.take("client_auth", |v| values::choice(&v, &ways)).unwrap_or(ClientAuth::Basic);
    let (token_url, client_id, client_secret) = (token_url?, client_id?, client_secret?);
    Some(DestinationAuth::OAuth2(OAuth2 { token_url, client_id, client_secret, scope, audience, client_auth }))
}

fn words(value: &Value<'_>) -> Option<String> {
    match value.text("a text, in quotes")? {
        "" => value.wrong("the text is empty", "write it, or remove the key"),
        text if text.contains(char::is_control) => value.wrong("the text has control characters", "remove them"),
        text => Some(text.into()),
    }
}

/// RFC 7617: a user has neither a colon nor control characters.
pub(super) fn user(value: Value<'_>) -> Option<String> {
    let text = value.text("a user name, in quotes")?;
    if text.contains(|c: char| c == ':' || c.is_control()) {
        return value.wrong("a user has no colon and no control characters", "write the name alone");
    }
    Some(text.into())
}

fn header_name(value: Value<'_>) -> Option<HeaderName> {
    const OWN: [&str; 11] = [
        "baggage",
        "connection",
        "content-length",
        "content-type",
        "expect",
        "host",
        "idempotency-key",
        "te",
        "traceparent",
        "tracestate",
        "transfer-encoding",
    ];
    let example = r#"a header such as "X-Api-Key""#;
    let text = value.text(example)?;
    let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
        return value.wrong(format!("{} is not the name of a header", value.written()), format!("write {example}"));
    };
    let prefixes = ["ce-", "holdline-", "webhook-"];
    let own = |name: &str| OWN.contains(&name) || prefixes.iter().any(|prefix| name.starts_with(prefix));
    if own(name.as_str()) {
        let message = format!("{} is set by holdline or by HTTP itself", value.written());
        return value.wrong(message, format!("write {example}"));
    }
    Some(name)
}

pub(super) fn tls(mut section: Section<'_>) -> DestinationTls {
    let ca = section.take("ca", |v| file(&v));
    let cert = section.take("cert", |v| file(&v));
    let key = section.take("key", |v| file(&v));
    for (one, other) in [("cert", "key"), ("key", "cert")] {
        if section.has(one) && !section.has(other) {
            section.wrong_at(
                one,
                format!("`{one}` is of no use without `{other}`"),
                format!("write both or remove `{one}`"),
            );
        }
    }
    DestinationTls { ca, identity: cert.zip(key).map(|(cert, key)| Identity { cert, key }) }
}

fn file(value: &Value<'_>) -> Option<PathBuf> {
    match value.text("the path of a PEM file, in quotes")? {
        "" => value.wrong("the path is empty", "write the path of a PEM file"),
        path => Some(value.in_folder(path)),
    }
}

/// One secret or several, with each of which is signed.
pub(super) fn sign(value: Value<'_>) -> Option<Vec<Secret>> {
    let mut section = value.section()?;
    section.need("secret", r#"secret = { file = "..." }"#, |v| {
        let items = v.one_or_items();
        if items.is_empty() {
            return v.wrong("the list is empty", r#"write { file = "..." }"#);
        }
        items.into_iter().map(secret).collect()
    })
}

pub(super) fn success(value: Value<'_>) -> Option<Success> {
    let mut section = value.section()?;
    let json_pointer = section.need("json_pointer", r#"json_pointer = "/status""#, |v| {
        let text = v.text(r#"a JSON pointer such as "/status""#)?;
        v.check(check_pointer(text)).map(|()| text.to_owned())
    });
    let equals = section.need("equals", r#"equals = "ok""#, |v| {
        let known = match v.raw() {
            DeValue::String(text) => Some(text.as_ref().into()),
            DeValue::Boolean(truth) => Some((*truth).into()),
            DeValue::Integer(n) => i64::from_str_radix(n.as_str(), n.radix()).ok().map(Into::into),
            _ => None,
        };
        known.or_else(|| {
            v.wrong("only a text, a whole number of 64 bits, true or false can be compared", r#"write "ok""#)
        })
    });
    Some(Success { json_pointer: json_pointer?, equals: equals? })
}

/// What cannot be told from one key alone.
pub(super) fn agree(section: &Section<'_>, destination: &Destination) {
    let https = match &destination.url {
        Some(Url::Written(uri)) => uri.scheme_str() == Some("https"),
        // what is kept elsewhere is judged when it is read
        Some(Url::Kept(_)) | None => true,
    };
    let certain = section.sound(&["url", "tls", "auth"]);
    if matches!(destination.auth, Some(DestinationAuth::Mtls)) && certain {
        if destination.tls.identity.is_none() {
            let remedy = r#"write tls = { cert = "...", key = "..." }"#;
            section.wrong_at("auth", "the kind `mtls` proves itself with a certificate, and none is given", remedy);
        } else if !https {
            section.wrong_at("url", "the kind `mtls` needs TLS", r#"write a URL that begins with "https://""#);
        }
    }
}
