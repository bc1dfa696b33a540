//! Secrets: what the configuration refers to but never holds.

use super::section::Value;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use toml::de::DeValue;

/// A secret by reference; its value never stands in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// In a configuration a relative path counts from the folder of the configuration.
    File(PathBuf),
    Env(String),
    /// A systemd credential: a file in `$CREDENTIALS_DIRECTORY`.
    Credential(String),
}

/// The value of a secret. It is never shown, compared or written by accident: only [`SecretValue::expose`] gives it.
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

/// The reference, as an operator knows it.
impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "the secret in file {}", path.display()),
            Self::Env(name) => write!(f, "the secret in environment variable {name}"),
            Self::Credential(name) => write!(f, "the secret in credential {name}"),
        }
    }
}

/// No secret is longer; a device or a log given by mistake is not read to its end.
const BYTES_MAX: u64 = 64 * 1024;

impl Secret {
    /// The value, without one newline at its end. An error names the reference and what to do, never the value.
    pub fn read(&self) -> Result<SecretValue, String> {
        let text = match self {
            Self::File(path) => read_file(path)
                .map_err(|e| format!("{self} cannot be read: {e}; check the path and its permissions"))?,
            Self::Env(name) => std::env::var(name).map_err(|e| match e {
                std::env::VarError::NotPresent => format!("{self} is not set; set it for the service"),
                std::env::VarError::NotUnicode(_) => format!("{self} is not UTF-8; write it in UTF-8"),
            })?,
            Self::Credential(name) => self.read_credential(name, std::env::var_os("CREDENTIALS_DIRECTORY"))?,
        };
        let text = text.strip_suffix('\n').map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t));
        if text.is_empty() {
            return Err(format!("{self} is empty; put the secret there"));
        }
        Ok(SecretValue(text.into()))
    }

    /// Whether only the environment of the service may have it: it is not set in this one.
    pub fn is_elsewhere(&self) -> bool {
        match self {
            Self::File(_) => false,
            Self::Env(name) => std::env::var_os(name).is_none(),
            Self::Credential(_) => std::env::var_os("CREDENTIALS_DIRECTORY").is_none(),
        }
    }

    fn read_credential(&self, name: &str, directory: Option<OsString>) -> Result<String, String> {
        let Some(directory) = directory else {
            let remedy = format!("add LoadCredential={name}:FILE to the unit and start holdline through systemd");
            return Err(format!("{self} was not passed: $CREDENTIALS_DIRECTORY is not set; {remedy}"));
        };
        read_file(&Path::new(&directory).join(name))
            .map_err(|e| format!("{self} cannot be read: {e}; add LoadCredential={name}:FILE to the unit"))
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

const REFERENCES: &str = "write { file = ... }, { env = ... } or { credential = ... }";

/// `{ file = "..." }`, `{ env = "..." }` or `{ credential = "NAME" }`. Nothing that may be a secret is echoed.
pub(super) fn secret(value: Value<'_>) -> Option<Secret> {
    match value.raw() {
        DeValue::Table(_) => {}
        DeValue::String(_) => return value.wrong("a secret does not stand in the configuration itself", REFERENCES),
        _ => return value.wrong("this is no reference to a secret", REFERENCES),
    }
    let mut section = value.section()?;
    let mut found = Vec::new();
    let mut written = Vec::new();
    for (key, parse) in [("file", file as fn(&Value<'_>) -> Option<Secret>), ("env", env), ("credential", credential)] {
        if section.has(key) {
            written.push(key);
        }
        found.extend(section.take(key, |v| parse(&v)));
    }
    match written.as_slice() {
        [] => section.wrong("no secret is named", REFERENCES),
        [_] => found.pop(),
        several => section.wrong(format!("{} are given at once", several.join(" and ")), "keep one of them"),
    }
}

fn file(value: &Value<'_>) -> Option<Secret> {
    match value.text(r#"the path of a file, in quotes"#)? {
        "" => value.wrong("the path is empty", "write the path of a file that holds the secret"),
        path => Some(Secret::File(value.in_folder(path))),
    }
}

fn env(value: &Value<'_>) -> Option<Secret> {
    let name = value.text("the name of an environment variable, in quotes")?;
    let good = |(i, c): (usize, char)| c == '_' || c.is_ascii_alphabetic() || (i > 0 && c.is_ascii_digit());
    if name.is_empty() || !name.char_indices().all(good) {
        return value.wrong("this is not the name of an environment variable", r#"write a name such as "CRM_TOKEN""#);
    }
    Some(Secret::Env(name.into()))
}

fn credential(value: &Value<'_>) -> Option<Secret> {
    let name = value.text("the name of a systemd credential, in quotes")?;
    let one_file = Path::new(name).file_name() == Some(OsStr::new(name));
    if !one_file || name.contains(|c: char| c == ':' || c.is_control()) {
        let remedy = "write the name that stands before the colon in LoadCredential=NAME:FILE";
        return value.wrong("this is not the name of a systemd credential", remedy);
    }
    Some(Secret::Credential(name.into()))
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
            Secret::File(path.clone()).read().unwrap_err()
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
        let missing = Secret::File(path.clone()).read().unwrap_err();
        assert!(missing.contains("cannot be read: No such file"), "{missing}");
        assert_eq!(
            Secret::Env("HOLDLINE_NOT_SET_ANYWHERE".into()).read().unwrap_err(),
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
        let unset = crm.read_credential("crm", None).unwrap_err();
        assert!(unset.contains("add LoadCredential=crm:FILE to the unit"), "{unset}");
    }
}
