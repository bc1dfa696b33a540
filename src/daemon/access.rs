//! Who may use the admin API: the tokens, from the configuration or made at the first start.

use crate::admin::Grant;
use crate::config::settings::{self, Scope, Token};
use anyhow::{Context, anyhow};
use std::path::Path;

/// The token that may do everything, and those that the configuration names.
pub(super) fn grants(token: &str, settings: &settings::Admin) -> anyhow::Result<Vec<Grant>> {
    let mut grants = vec![Grant::new("admin".to_owned(), token, Scope::ALL.to_vec())];
    for named in &settings.tokens {
        let token = named.token.read().map_err(|why| anyhow!("admin.tokens, `{}`: {why}", named.name))?;
        let (name, scopes) = (named.name.clone(), named.scopes.clone());
        grants.push(Grant::new(name, token.expose(), scopes));
    }
    Ok(grants)
}

/// The admin token: the configured one, or the one in the data folder, made where it is missing.
pub(super) fn token(from: &Token, data: &Path) -> anyhow::Result<String> {
    use std::io::{Read, Write};
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    if let Token::Given(secret) = from {
        return Ok(secret.read().map_err(|why| anyhow!("admin.token: {why}"))?.expose().to_owned());
    }
    let path = data.join("admin.token");
    if let Ok(bytes) = std::fs::read(&path) {
        match std::str::from_utf8(bytes.trim_ascii()) {
            Ok(token) if !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic()) => {
                return Ok(token.to_owned());
            }
            _ => {
                tracing::warn!(path = %path.display(), "it holds no token that a request could carry; it is made anew")
            }
        }
    }
    let mut random = [0u8; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut random))
        .context("cannot read /dev/urandom")?;
    let token: String = random.iter().map(|b| format!("{b:02x}")).collect();
    let mut file = std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&path);
    // one that was there keeps its mode otherwise
    let private = std::fs::Permissions::from_mode(0o600);
    let written = file
        .as_mut()
        .map(|f| f.set_permissions(private).and_then(|()| writeln!(f, "{token}")).and_then(|()| f.sync_all()));
    written
        .map_err(|e| anyhow!("{e}"))
        .and_then(|r| Ok(r?))
        .with_context(|| format!("cannot write {}", path.display()))?;
    tracing::info!(path = %path.display(), "made the admin token");
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_token_is_kept_and_an_unusable_one_is_replaced() {
        let data = tempfile::tempdir().unwrap();
        let file = data.path().join("admin.token");
        let made = token(&Token::Made, data.path()).unwrap();
        assert_eq!(token(&Token::Made, data.path()).unwrap(), made);
        std::fs::write(&file, "  by-hand\n").unwrap();
        assert_eq!(token(&Token::Made, data.path()).unwrap(), "by-hand");
        for damaged in [b"".as_slice(), b"\0\0\0", b"to\xffken", "to\u{6a6}ken".as_bytes(), b"two words"] {
            std::fs::write(&file, damaged).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
            let anew = token(&Token::Made, data.path()).unwrap();
            assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!((anew.len(), std::fs::read_to_string(&file).unwrap()), (64, format!("{anew}\n")));
        }
    }
}
