//! Resolves the address of the daemon's admin API, and the token.
//!
//! *Configuration*: that of `--config` or `HOLDLINE_CONFIG`, else `/etc/holdline/holdline.toml` if it exists.
//!
//! *Precedence.* Address: `--admin`, `HOLDLINE_ADMIN`, the configuration's `admin.listen`, the default. Token:
//! `--token-file`, `HOLDLINE_ADMIN_TOKEN`, the configuration's `admin.token`, `DATA/admin.token`.

use crate::cli::{Failure, hint};
use crate::config::Settings;
use crate::config::settings::text_shown;
use crate::config::settings::{Secret, Token};
use http::Uri;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// The default address of the admin API.
pub const DEFAULT_ADMIN: &str = "http://127.0.0.1:8081";
/// Environment variable for the address of the admin API.
pub const ADMIN: &str = "HOLDLINE_ADMIN";
/// Environment variable for the admin token itself.
pub const TOKEN: &str = "HOLDLINE_ADMIN_TOKEN";
const DEFAULT_DATA: &str = "./holdline-data";
/// Environment variable for the path of the configuration.
pub const CONFIG: &str = "HOLDLINE_CONFIG";
/// The path at which packages install the configuration.
pub const PACKAGED_CONFIG: &str = "/etc/holdline/holdline.toml";

/// Arguments of every command that uses the admin API.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct AdminConnection {
    /// Where the admin API is, http://HOST:PORT or unix:PATH [default: the configuration's, else http://127.0.0.1:8081]
    #[arg(long, global = true, value_name = "URL", env = ADMIN, help_heading = HEADING)]
    admin: Option<String>,
    /// File that holds the admin token [default: HOLDLINE_ADMIN_TOKEN, the configuration's, DATA/admin.token]
    #[arg(long, global = true, value_name = "FILE", help_heading = HEADING)]
    token_file: Option<PathBuf>,
    /// Configuration and form.
    #[command(flatten)]
    pub shared: Shared,
}

/// Arguments of every command that talks to a daemon.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Shared {
    /// Configuration of the daemon, to find it [default: /etc/holdline/holdline.toml, where it is there]
    #[arg(long, global = true, value_name = "FILE", env = CONFIG, help_heading = HEADING)]
    config: Option<PathBuf>,
    /// Print JSON, for scripts
    #[arg(long, global = true)]
    json: bool,
}

const HEADING: &str = "Finding the daemon";

/// The form of what a command prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For people
    Table,
    /// For scripts
    Json,
}

/// The address of the daemon, and the token for it.
#[derive(Debug, PartialEq, Eq)]
pub struct DaemonAddress {
    /// `http://host:port` without a trailing slash, or `unix:PATH`.
    pub admin: String,
    /// The token, if one was found.
    pub token: Option<String>,
    /// Where the token was found, for the message of a refused token.
    pub token_from: String,
}

impl Shared {
    /// The output format.
    pub fn form(&self) -> Form {
        if self.json { Form::Json } else { Form::Table }
    }

    /// The path of the configuration, if there is one.
    pub fn file(&self) -> Option<PathBuf> {
        found(self.config.as_deref())
    }

    /// The settings of the configuration, if there is one.
    pub fn settings(&self) -> Result<Option<Settings>, Failure> {
        found(self.config.as_deref()).map(|path| load(&path)).transpose()
    }

    /// Whether no configuration is given and this user cannot read the packaged one.
    fn is_hidden(&self) -> bool {
        given(self.config.as_deref()).is_none() && hidden(Path::new(PACKAGED_CONFIG))
    }
}

fn given(config: Option<&Path>) -> Option<&Path> {
    config.filter(|path| !path.as_os_str().is_empty())
}

/// The given configuration, else the packaged one if it exists.
pub fn found(config: Option<&Path>) -> Option<PathBuf> {
    let packaged = Path::new(PACKAGED_CONFIG);
    given(config).or_else(|| packaged.exists().then_some(packaged)).map(Path::to_owned)
}

fn hidden(path: &Path) -> bool {
    std::fs::File::open(path).is_err_and(|e| e.kind() == std::io::ErrorKind::PermissionDenied)
}

fn load(path: &Path) -> Result<Settings, Failure> {
    crate::config::load(path).map_err(|faults| Failure::Usage(format!("{} is not usable:\n{faults}", path.display())))
}

impl AdminConnection {
    /// Resolves address and token. `variable` reads an environment variable.
    pub fn resolve(&self, variable: impl Fn(&str) -> Option<String>) -> Result<DaemonAddress, Failure> {
        let given = self.admin.as_deref().filter(|given| !given.is_empty());
        // the configuration is not needed if address and token are given
        let token_is_known = self.token_file.is_some() || variable(TOKEN).is_some_and(|t| !t.trim().is_empty());
        let settings = match self.shared.is_hidden() {
            true if given.is_some() && token_is_known => None,
            true => return Err(Failure::Usage(for_root(&format!("{PACKAGED_CONFIG} is not readable by this user")))),
            false => self.shared.settings()?,
        };
        let admin = match (given, &settings) {
            (Some(given), _) => address(given)?,
            (None, Some(settings)) => listening(settings)?,
            (None, None) => DEFAULT_ADMIN.to_owned(),
        };
        let (token, token_from) = self.token(settings.as_ref(), variable)?;
        Ok(DaemonAddress { admin, token, token_from })
    }

    fn token(
        &self,
        settings: Option<&Settings>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<(Option<String>, String), Failure> {
        if let Some(path) = &self.token_file {
            let token = read(path).map_err(|e| Failure::Usage(format!("--token-file {}: {e}", path.display())))?;
            return Ok((Some(token), path.display().to_string()));
        }
        if let Some(token) = variable(TOKEN).filter(|t| !t.trim().is_empty()) {
            return Ok((Some(token.trim().to_owned()), format!("the environment variable {TOKEN}")));
        }
        let path = match settings.map(|s| (&s.admin.token, &s.store.path)) {
            None => Path::new(DEFAULT_DATA).join("admin.token"),
            Some((Token::Generated, data)) => data.join("admin.token"),
            Some((Token::Given(Secret::File(path)), _)) => path.clone(),
            Some((Token::Given(Secret::Env(name)), _)) => {
                return Ok((variable(name), format!("the environment variable {name}, as the configuration says")));
            }
            Some((Token::Given(Secret::Credential(name)), _)) => match variable("CREDENTIALS_DIRECTORY") {
                Some(folder) => Path::new(&folder).join(name),
                None => return Ok((None, format!("the systemd credential {name}, which only the service sees"))),
            },
        };
        // the daemon decides whether a token is needed
        Ok(match read(&path) {
            Ok(token) => (Some(token), path.display().to_string()),
            Err(e) => (None, format!("{} ({e})", path.display())),
        })
    }
}

/// A message with the command to run as root.
fn for_root(why: &str) -> String {
    format!("{why}; run the same as root: sudo {}", hint::this_command())
}

fn read(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    match text.trim() {
        "" => Err("the file is empty".to_owned()),
        token => Ok(token.to_owned()),
    }
}

/// Validates an address, and normalizes it to the form of [`DaemonAddress::admin`].
pub fn address(given: &str) -> Result<String, Failure> {
    if let Some(path) = given.strip_prefix("unix:") {
        return match path {
            "" => Err(Failure::Usage("unix: needs the path of a socket, as in unix:/run/holdline/admin.sock".into())),
            _ => Ok(given.to_owned()),
        };
    }
    let wrong =
        |what: &str| Failure::Usage(format!("{}: {what}; write for example {DEFAULT_ADMIN}", text_shown(given)));
    let uri: Uri = given.parse().map_err(|e| wrong(&format!("not a URL ({e})")))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return Err(wrong("https is not supported by this version")),
        _ => return Err(wrong("not an http:// URL")),
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(wrong("a user and password are not used here; give the token with --token-file"));
    }
    if uri.query().is_some() || uri.host().is_none_or(str::is_empty) {
        return Err(wrong("only http://HOST:PORT is expected"));
    }
    Ok(given.trim_end_matches('/').to_owned())
}

fn listening(settings: &Settings) -> Result<String, Failure> {
    match (settings.admin.listen.first(), settings.admin.sockets.first()) {
        (Some(address), _) => Ok(format!("http://{}", reachable(*address))),
        (None, Some(path)) => Ok(format!("unix:{}", path.display())),
        (None, None) => Err(Failure::Usage(format!(
            "the configuration has no address in admin.listen; give the daemon's address with --admin or {ADMIN}"
        ))),
    }
}

/// The address at which this machine reaches a listener: loopback if it listens on all addresses.
pub fn reachable(listener: SocketAddr) -> SocketAddr {
    let ip = match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listener.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Flags;

    fn nothing(_: &str) -> Option<String> {
        None
    }

    fn token_in_env(name: &str) -> Option<String> {
        (name == TOKEN).then(|| "from-env\n".to_owned())
    }

    #[test]
    fn flags_beat_the_environment_and_the_default() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "from-file\n").unwrap();

        let place = AdminConnection::default().resolve(token_in_env).unwrap();
        assert_eq!(place.admin, DEFAULT_ADMIN);
        assert_eq!(place.token.as_deref(), Some("from-env"));

        let connection = AdminConnection {
            admin: Some("http://[::1]:9/".into()),
            token_file: Some(file),
            ..AdminConnection::default()
        };
        let place = connection.resolve(token_in_env).unwrap();
        assert_eq!(place.admin, "http://[::1]:9");
        assert_eq!(place.token.as_deref(), Some("from-file"));
    }

    #[test]
    fn the_configuration_gives_address_and_token() {
        let overrides = Flags { data: Some("/data".into()), ..Flags::default() };
        let mut settings = Settings::embedded(&overrides).unwrap();
        settings.admin.listen = vec!["0.0.0.0:7000".parse().unwrap()];
        assert_eq!(listening(&settings).unwrap(), "http://127.0.0.1:7000");
        let from = |settings: &Settings| AdminConnection::default().token(Some(settings), nothing).unwrap().1;
        assert!(from(&settings).starts_with("/data/admin.token ("));
        settings.admin.token = Token::Given(Secret::File("/etc/token".into()));
        assert!(from(&settings).starts_with("/etc/token ("));
        settings.admin.token = Token::Given(Secret::Env("OURS".into()));
        assert!(from(&settings).contains("OURS"));
        settings.admin.listen.clear();
        assert_eq!(listening(&settings).unwrap_err().code(), 2);
    }

    #[test]
    fn a_missing_token_is_reported_with_its_path() {
        let connection = AdminConnection { token_file: Some("/nowhere/token".into()), ..AdminConnection::default() };
        assert_eq!(connection.resolve(nothing).unwrap_err().code(), 2);
        let (token, from) = AdminConnection::default().token(None, nothing).unwrap();
        assert_eq!(token, None);
        assert!(from.starts_with("./holdline-data/admin.token ("), "{from}");
    }

    #[test]
    fn addresses_are_checked() {
        assert_eq!(address("http://example.com:81/base/").unwrap(), "http://example.com:81/base");
        assert_eq!(address("unix:/run/admin.sock").unwrap(), "unix:/run/admin.sock");
        for shown in ["http://u:S3CRET@a:1", "http://a/?S3CRET", "https://u:S3CRET@a"] {
            let Failure::Usage(text) = address(shown).unwrap_err() else { panic!("{shown}") };
            assert!(!text.contains("S3CRET"), "{text}");
        }
        for wrong in ["unix:", "127.0.0.1:8081", "https://a:1", "http://a/?b", "ftp://a", ""] {
            assert_eq!(address(wrong).unwrap_err().code(), 2, "{wrong}");
        }
    }

    #[test]
    fn a_listener_everywhere_is_reached_on_loopback() {
        let cases = [("0.0.0.0:8081", "127.0.0.1:8081"), ("[::]:1", "[::1]:1"), ("10.0.0.1:2", "10.0.0.1:2")];
        for (listener, reached) in cases {
            assert_eq!(reachable(listener.parse().unwrap()).to_string(), reached);
        }
    }
}
