//! References to secrets, and URLs; what of them may be shown.
//!
//! *Invariants.* The configuration holds references to secrets, never their values. A URL is never shown whole, because
//! `?code=...` or a user in it is a secret: what is shown, logged or answered has no user and no values of its query; of
//! a URL from a secret only scheme, host and port are shown. `Debug` and `Display` comply.

use http::Uri;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use thiserror::Error;

/// What is wrong with a value, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}; {remedy}")]
pub struct InvalidValue {
    pub message: String,
    pub remedy: String,
}

impl InvalidValue {
    pub fn new(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { message: message.into(), remedy: remedy.into() }
    }
}

/// Why a secret, or a URL from a secret, cannot be used: the reference and what to do, never the value.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SecretError {
    #[error("{secret} cannot be read: {error}; check the path and its permissions")]
    UnreadableFile { secret: Secret, error: String },
    #[error("{secret} cannot be read: {error}; add LoadCredential={name}:FILE to the unit")]
    UnreadableCredential { secret: Secret, name: String, error: String },
    #[error("{0} is not set; set it for the service")]
    NotSet(Secret),
    #[error("{0} is not UTF-8; write it in UTF-8")]
    NotUtf8(Secret),
    #[error(
        "{secret} was not passed: $CREDENTIALS_DIRECTORY is not set; add LoadCredential={name}:FILE to the unit and start \
         holdline through systemd"
    )]
    NotPassed { secret: Secret, name: String },
    #[error("{0} is empty; put the secret there")]
    Empty(Secret),
    #[error("the URL that is {secret}: {invalid}")]
    NotUrl { secret: Secret, invalid: InvalidValue },
}

impl From<SecretError> for String {
    fn from(error: SecretError) -> Self {
        error.to_string()
    }
}

/// A reference to a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// A relative path is relative to the folder of the configuration.
    File(PathBuf),
    Env(String),
    /// A systemd credential: a file in `$CREDENTIALS_DIRECTORY`.
    Credential(String),
}

/// The value of a secret. It cannot be shown or compared by accident: only [`SecretValue::expose`] returns it.
#[derive(Clone)]
pub struct SecretValue(String);

impl SecretValue {
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The reference, in words.
impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "the secret in file {}", path.display()),
            Self::Env(name) => write!(f, "the secret in environment variable {name}"),
            Self::Credential(name) => write!(f, "the secret in credential {name}"),
        }
    }
}

/// Longest secret; a device or a log given by mistake is not read to its end.
const BYTES_MAX: u64 = 64 * 1024;

impl Secret {
    /// The value, without one newline at its end.
    ///
    /// # Errors
    /// It cannot be read, or is empty.
    pub fn read(&self) -> Result<SecretValue, SecretError> {
        let text = match self {
            Self::File(path) => {
                let unreadable =
                    |e: io::Error| SecretError::UnreadableFile { secret: self.clone(), error: e.to_string() };
                read_file(path).map_err(unreadable)?
            }
            Self::Env(name) => std::env::var(name).map_err(|e| match e {
                std::env::VarError::NotPresent => SecretError::NotSet(self.clone()),
                std::env::VarError::NotUnicode(_) => SecretError::NotUtf8(self.clone()),
            })?,
            Self::Credential(name) => self.read_credential(name, std::env::var_os("CREDENTIALS_DIRECTORY"))?,
        };
        let text = text.strip_suffix('\n').map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t));
        if text.is_empty() {
            return Err(SecretError::Empty(self.clone()));
        }
        Ok(SecretValue(text.into()))
    }

    /// Whether the reference is valid only in the environment of the service: it is not set in this one.
    pub fn is_elsewhere(&self) -> bool {
        match self {
            Self::File(_) => false,
            Self::Env(name) => std::env::var_os(name).is_none(),
            Self::Credential(_) => std::env::var_os("CREDENTIALS_DIRECTORY").is_none(),
        }
    }

    fn read_credential(&self, name: &str, directory: Option<OsString>) -> Result<String, SecretError> {
        let Some(directory) = directory else {
            return Err(SecretError::NotPassed { secret: self.clone(), name: name.to_owned() });
        };
        read_file(&Path::new(&directory).join(name)).map_err(|error| SecretError::UnreadableCredential {
            secret: self.clone(),
            name: name.to_owned(),
            error: error.to_string(),
        })
    }
}

fn read_file(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > BYTES_MAX {
        return Err(io::Error::other("it is longer than 64 KiB"));
    }
    Ok(text)
}

/// The URL of something that holdline calls; `http` or `https`, with a host.
#[derive(Clone, PartialEq, Eq)]
pub enum Url {
    /// It is written in the configuration.
    Literal(Uri),
    /// It is read from a secret, at the start and at a reload.
    FromSecret(Secret),
}

impl Url {
    /// The URL itself.
    ///
    /// # Errors
    /// The secret cannot be read, or holds no URL; nothing of what was read is shown.
    pub fn read(&self) -> Result<Uri, SecretError> {
        let secret = match self {
            Self::Literal(uri) => return Ok(uri.clone()),
            Self::FromSecret(secret) => secret,
        };
        let text = secret.read()?;
        parse_url(text.expose(), "it").map_err(|invalid| SecretError::NotUrl { secret: secret.clone(), invalid })
    }

    /// The secret that holds it, if any.
    pub fn secret(&self) -> Option<&Secret> {
        match self {
            Self::Literal(_) => None,
            Self::FromSecret(secret) => Some(secret),
        }
    }

    /// Distinguishes this URL from others. Must not be shown.
    pub fn identity(&self) -> String {
        match self {
            Self::Literal(uri) => uri.to_string(),
            Self::FromSecret(secret) => secret.to_string(),
        }
    }

    /// How `uri`, read from this URL, is shown.
    pub fn shown_as(&self, uri: &Uri) -> String {
        match self {
            Self::Literal(_) => shown_url(uri),
            Self::FromSecret(_) => format!("{}/***", origin(uri)),
        }
    }
}

/// Without its secrets.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(uri) => f.write_str(&shown_url(uri)),
            Self::FromSecret(secret) => secret.fmt(f),
        }
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl FromStr for Url {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        parse_url(text, &quoted(text)).map(Self::Literal)
    }
}

/// A URL without its user and the values of its query.
pub fn shown_url(uri: &Uri) -> String {
    let query = uri.query().map(|query| format!("?{}", without_values(query)));
    format!("{}{}{}", origin(uri), uri.path(), query.unwrap_or_default())
}

/// `https://host:port`, without a user.
fn origin(uri: &Uri) -> String {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{}://{host}", uri.scheme_str().unwrap_or_default())
}

/// As [`shown_url`], for a text that may not be a URL.
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

/// A text that may be a URL, quoted for a fault, without its secrets.
pub fn quoted(text: &str) -> String {
    format!("{:?}", text_shown(text))
}

/// Parses a URL to call: http or https, a host, neither user nor fragment. Faults call it `name`, and show nothing else
/// of it.
pub fn parse_url(text: &str, name: &str) -> Result<Uri, InvalidValue> {
    const EXAMPLE: &str = r#"write a URL such as "https://crm.internal/hooks""#;
    let authority = text.split_once("://").map_or(text, |(_, rest)| rest).split(['/', '?', '#']).next();
    if authority.is_some_and(|a| a.contains('@')) {
        let remedy = r#"take it out and write auth = { kind = "basic", user = "...", password = { file = "..." } }"#;
        return Err(InvalidValue::new("the URL has a user or password in it", remedy));
    }
    let Some((scheme, _)) = text.split_once("://") else {
        let remedy = match name.strip_prefix('"') {
            Some(rest) => format!("write \"https://{rest}"),
            None => EXAMPLE.to_owned(),
        };
        return Err(InvalidValue::new(format!("{name} has no scheme"), remedy));
    };
    if !matches!(scheme, "http" | "https") {
        return Err(InvalidValue::new(format!("{name} is neither http nor https"), EXAMPLE));
    }
    if text.contains('#') {
        return Err(InvalidValue::new(
            format!("{name} has a fragment (#...), which is never sent"),
            "leave out # and what follows",
        ));
    }
    if let Some(bad) = text.chars().find(|c| !c.is_ascii_graphic()) {
        let remedy = "percent-encode it in the path and query, write the host in its ASCII form (xn--...)";
        return Err(InvalidValue::new(format!("{name} has {bad:?} in it"), remedy));
    }
    let not_url = || match text.chars().find(|c| matches!(c, '{' | '}' | '<' | '>')) {
        Some(bad) => {
            let message = format!("{name} has {bad:?} in it, as a template has that was not filled in");
            InvalidValue::new(message, "write the value itself in its place; holdline fills in nothing")
        }
        None => InvalidValue::new(format!("{name} is not a URL"), EXAMPLE),
    };
    let uri: Uri = text.parse().map_err(|_| not_url())?;
    let authority = uri.authority().ok_or_else(not_url)?;
    let has_port = authority.as_str().len() > authority.host().len();
    if authority.host().is_empty() {
        return Err(InvalidValue::new(format!("{name} has no host"), EXAMPLE));
    }
    if has_port && !matches!(authority.port_u16(), Some(1..)) {
        return Err(InvalidValue::new(format!("{name} has a bad port"), "write a port from 1 to 65535, or none"));
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_file_loses_one_newline_and_is_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        for (written, wanted) in
            [("s3cret", "s3cret"), ("s3cret\n", "s3cret"), ("s3cret\r\n", "s3cret"), ("a\n\n", "a\n")]
        {
            std::fs::write(&path, written).unwrap();
            let value = Secret::File(path.clone()).read().unwrap();
            assert_eq!(value.expose(), wanted);
            assert_eq!(format!("{value:?}"), "***");
        }
    }

    #[test]
    fn errors_name_the_reference_and_not_the_value() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let shown = path.display();
        let error = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            Secret::File(path.clone()).read().unwrap_err().to_string()
        };
        assert_eq!(error(b"\n"), format!("the secret in file {shown} is empty; put the secret there"));
        let too_long = error(&[b'x'; 65 * 1024]);
        assert_eq!(
            too_long,
            format!(
                "the secret in file {shown} cannot be read: it is longer than 64 KiB; check the path and its permissions"
            )
        );
        assert!(error(b"\xff\xfe").contains("cannot be read: stream did not contain valid UTF-8"));
        std::fs::remove_file(&path).unwrap();
        let missing = Secret::File(path.clone()).read().unwrap_err().to_string();
        assert!(missing.contains("cannot be read: No such file"), "{missing}");
        assert_eq!(
            Secret::Env("HOLDLINE_NOT_SET_ANYWHERE".into()).read().unwrap_err().to_string(),
            "the secret in environment variable HOLDLINE_NOT_SET_ANYWHERE is not set; set it for the service"
        );
    }

    #[test]
    fn a_variable_and_a_credential_are_found() {
        assert_eq!(Secret::Env("PATH".into()).read().unwrap().expose(), std::env::var("PATH").unwrap());
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("crm"), "abc").unwrap();
        let crm = Secret::Credential("crm".into());
        assert_eq!(crm.read_credential("crm", Some(dir.path().into())).unwrap(), "abc");
        let unset = crm.read_credential("crm", None).unwrap_err().to_string();
        assert!(unset.contains("add LoadCredential=crm:FILE to the unit"), "{unset}");
    }

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
            assert_eq!(
                (shown_url(&uri), format!("{:?}", Url::Literal(uri))),
                (wanted.to_owned(), format!("{wanted:?}"))
            );
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
            Url::FromSecret(Secret::File(path.clone()))
        };
        let url = kept("https://crm.internal:8443/in/S3CRET?code=S3CRET\n");
        let uri = url.read().unwrap();
        assert_eq!(uri, "https://crm.internal:8443/in/S3CRET?code=S3CRET");
        assert_eq!(url.shown_as(&uri), "https://crm.internal:8443/***");
        for shown in [url.to_string(), format!("{url:?}")] {
            assert!(shown.contains("the secret in file") && !shown.contains("S3CRET"), "{shown}");
        }
        for text in ["S3CRET", "ftp://S3CRET", "https://a/S3CRET#x", "https://u:S3CRET@a/", "https://a/S 3CRET", " "] {
            let why = kept(text).read().unwrap_err().to_string();
            assert!(why.contains("the secret in file") && why.contains("; write ") || why.contains("; "), "{why}");
            assert!(!why.contains("S3CRET") && !why.contains("S 3CRET"), "{why}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(url.read().unwrap_err().to_string().contains("cannot be read"));
    }

    fn parse(text: &str) -> Result<Uri, InvalidValue> {
        parse_url(text, &quoted(text))
    }

    #[test]
    fn urls() {
        for good in ["http://a", "https://crm.internal:8443/hooks?x=1", "http://[::1]:9000/", "http://10.0.0.1"] {
            assert_eq!(parse(good).unwrap().to_string().trim_end_matches('/'), good.trim_end_matches('/'));
        }
        let bad = [
            ("crm.internal/x", r#""crm.internal/x" has no scheme; write "https://crm.internal/x""#),
            ("", r#""" has no scheme; write "https://""#),
            ("ftp://a", r#""ftp://a" is neither http nor https; write a URL such as "https://crm.internal/hooks""#),
            ("https://", r#""https://" is not a URL; write a URL such as "https://crm.internal/hooks""#),
            ("https:///x", r#""https:///x" is not a URL; write a URL such as "https://crm.internal/hooks""#),
            ("https://:80/", r#""https://:80/" has no host; write a URL such as "https://crm.internal/hooks""#),
            ("http://a:0/", r#""http://a:0/" has a bad port; write a port from 1 to 65535, or none"#),
            ("http://a:/", r#""http://a:/" has a bad port; write a port from 1 to 65535, or none"#),
            ("http://a:70000/", r#""http://a:70000/" has a bad port; write a port from 1 to 65535, or none"#),
            (
                "http://a/#x",
                r##""http://a/#***" has a fragment (#...), which is never sent; leave out # and what follows"##,
            ),
            ("crm/x?code=s", r#""crm/x?code=***" has no scheme; write "https://crm/x?code=***""#),
            (
                "https://{tenant}.crm/",
                r#""https://{tenant}.crm/" has '{' in it, as a template has that was not filled in; write the value itself in its place; holdline fills in nothing"#,
            ),
        ];
        for (text, wanted) in bad {
            assert_eq!(parse(text).unwrap_err().to_string(), wanted, "{text}");
        }
        for text in ["http://u:hunter2@a/", "hunter2@a", "ftp://hunter2@a", "http://hunter2@a#x", "http://hunter2@ä"] {
            let shown = parse(text).unwrap_err().to_string();
            assert!(shown.starts_with("the URL has a user or password in it") && !shown.contains("hunter2"), "{shown}");
        }
        assert!(parse("http://a/b c").unwrap_err().message.ends_with("has ' ' in it"));
    }
}
