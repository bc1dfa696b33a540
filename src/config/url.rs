//! URLs that holdline calls: destinations, token endpoints, alerts. They stand in the configuration, or are kept as secrets.
//!
//! *Invariants.* A URL is never shown whole, because `?code=...` or a user in it is a secret. What is shown, logged or answered
//! has no user and no values of its query; of one that is kept as a secret only scheme, host and port are shown. `Debug` and
//! `Display` hold to that.

use super::address::{parse_url, quoted};
use super::secret::{self, Secret};
use super::section::Value;
use http::Uri;
use std::fmt;
use std::str::FromStr;
use toml::de::DeValue;

/// The URL of something that holdline calls; `http` or `https`, with a host.
#[derive(Clone, PartialEq, Eq)]
pub enum Url {
    /// It stands in the configuration.
    Written(Uri),
    /// It is read from elsewhere at the start, and at a reload.
    Kept(Secret),
}

impl Url {
    /// The URL itself. An error names the reference and what to do, and shows nothing of what was read.
    pub fn read(&self) -> Result<Uri, String> {
        let secret = match self {
            Self::Written(uri) => return Ok(uri.clone()),
            Self::Kept(secret) => secret,
        };
        let text = secret.read()?;
        parse_url(text.expose(), "it").map_err(|wrong| format!("the URL that is {secret}: {wrong}"))
    }

    /// Where it is kept, if it does not stand in the configuration.
    pub fn secret(&self) -> Option<&Secret> {
        match self {
            Self::Written(_) => None,
            Self::Kept(secret) => Some(secret),
        }
    }

    /// What tells this URL from another one. It is not to be shown.
    pub fn identity(&self) -> String {
        match self {
            Self::Written(uri) => uri.to_string(),
            Self::Kept(secret) => secret.to_string(),
        }
    }

    /// How `uri`, which was read from it, is shown.
    pub fn shown_as(&self, uri: &Uri) -> String {
        match self {
            Self::Written(_) => shown(uri),
            Self::Kept(_) => format!("{}/***", origin(uri)),
        }
    }
}

/// As it may be shown.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Written(uri) => f.write_str(&shown(uri)),
            Self::Kept(secret) => secret.fmt(f),
        }
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl FromStr for Url {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        parse_url(text, &quoted(text)).map(Self::Written).map_err(|wrong| wrong.to_string())
    }
}

/// A URL without its user and the values of its query.
pub fn shown(uri: &Uri) -> String {
    let query = uri.query().map(|query| format!("?{}", without_values(query)));
    format!("{}{}{}", origin(uri), uri.path(), query.unwrap_or_default())
}

/// `https://host:port`, without a user.
fn origin(uri: &Uri) -> String {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{}://{host}", uri.scheme_str().unwrap_or_default())
}

/// As [`shown`], for a text that may not be a URL.
pub fn text_shown(text: &str) -> String {
    let (text, fragment) = text.split_once('#').map_or((text, ""), |(before, _)| (before, "#***"));
    let (before, query) = text.split_once('?').map_or((text, None), |(before, query)| (before, Some(query)));
    let (scheme, rest) = before.split_once("://").map_or(("", before), |(scheme, rest)| (scheme, rest));
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let between = if scheme.is_empty() { "" } else { "://" };
    let query = query.map(|query| format!("?{}", without_values(query))).unwrap_or_default();
    format!("{scheme}{between}{host}{path}{query}{fragment}")
}

/// `a=1&b=2` as `a=***&b=***`; a part without a name is a value.
fn without_values(query: &str) -> String {
    let part = |part: &str| match part.split_once('=') {
        Some((name, _)) => format!("{name}=***"),
        None if part.is_empty() => String::new(),
        None => "***".to_owned(),
    };
    query.split(['&', ';']).map(part).collect::<Vec<_>>().join("&")
}

/// A URL in quotes, or a reference to where it is kept: `{ file = "..." }`, `{ env = "..." }`, `{ credential = "..." }`.
pub(super) fn url(value: Value<'_>) -> Option<Url> {
    if matches!(value.raw(), DeValue::Table(_)) {
        return secret::secret(value).map(Url::Kept);
    }
    let text = value.text(r#"a URL such as "https://crm.internal/hooks", or { file = "..." } that holds it"#)?;
    value.check(parse_url(text, &quoted(text))).map(Url::Written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_url_has_no_user_and_no_query_values() {
        for (url, wanted) in [
            ("https://crm/hooks", "https://crm/hooks"),
            ("https://crm:8443", "https://crm:8443/"),
            (
                "https://app.azure.net/api/f?code=S3CRET==&clientId=S3CRET",
                "https://app.azure.net/api/f?code=***&clientId=***",
            ),
            ("https://crm/?S3CRET", "https://crm/?***"),
            ("https://crm/?a&b=S3CRET;c=S3CRET", "https://crm/?***&b=***&c=***"),
            ("http://u:S3CRET@crm:81/x", "http://crm:81/x"),
            ("http://[::1]:9/x?=S3CRET", "http://[::1]:9/x?=***"),
        ] {
            let uri: Uri = url.parse().unwrap();
            assert_eq!((shown(&uri), format!("{:?}", Url::Written(uri))), (wanted.to_owned(), format!("{wanted:?}")));
        }
        for (text, wanted) in [
            ("crm/x?code=S3CRET", "crm/x?code=***"),
            ("ftp://u:S3CRET@crm/x?S3CRET#S3CRET", "ftp://crm/x?***#***"),
            ("", ""),
        ] {
            assert_eq!(text_shown(text), wanted);
        }
    }

    #[test]
    fn a_url_from_a_secret_is_validated_like_a_literal_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("url");
        let kept = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Url::Kept(Secret::File(path.clone()))
        };
        let url = kept("https://crm.internal:8443/in/S3CRET?code=S3CRET\n");
        let uri = url.read().unwrap();
        assert_eq!(uri, "https://crm.internal:8443/in/S3CRET?code=S3CRET");
        assert_eq!(url.shown_as(&uri), "https://crm.internal:8443/***");
        for shown in [url.to_string(), format!("{url:?}")] {
            assert!(shown.contains("the secret in file") && !shown.contains("S3CRET"), "{shown}");
        }
        for text in ["S3CRET", "ftp://S3CRET", "https://a/S3CRET#x", "https://u:S3CRET@a/", "https://a/S 3CRET", " "] {
            let why = kept(text).read().unwrap_err();
            assert!(why.contains("the secret in file") && why.contains("; write ") || why.contains("; "), "{why}");
            assert!(!why.contains("S3CRET") && !why.contains("S 3CRET"), "{why}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(url.read().unwrap_err().contains("cannot be read"));
    }
}
