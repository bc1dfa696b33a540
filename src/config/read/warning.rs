//! Warnings: settings that are valid and rarely intended. `check`, `doctor` and the log at the start show them; none
//! prevents the start.
//!
//! *Failure.* What cannot be read here is not checked; a fault reports that elsewhere. No warning shows a secret, or the
//! values of a URL.

use super::strength::{self, Weakness};
use crate::config::settings::{
    Alert, AlertTo, Destination, DestinationAuth, DestinationTls, OAuth2, Secret, Settings, Source, SourceAuth, Token,
    Url,
};
use crate::rules::address_policy::AddressPolicy;
use crate::signature::SecretEncoding;
use http::Uri;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A setting that works and is rarely intended. Shown as `PLACE: MESSAGE; REMEDY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The setting, or the block by its name.
    pub place: String,
    pub message: String,
    /// What to write or do instead.
    pub remedy: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.place, self.message, self.remedy)
    }
}

/// All warnings, in the order of the configuration. `file` is the configuration file, if there is one. Reads secrets and the
/// modes of files; does no network access.
pub fn warnings(settings: &Settings, file: Option<&Path>) -> Vec<Warning> {
    let mut found = Warnings::default();
    if let Some(file) = file {
        found.configuration(file, settings);
    }
    found.listeners(settings);
    found.files(settings);
    for destination in &settings.destinations {
        found.destination(destination);
    }
    for (n, alert) in settings.alerts.iter().enumerate() {
        found.alert(&format!("alert[{n}]"), alert, settings);
    }
    found.secrets(&secrets(settings));
    found.0
}

#[derive(Default)]
struct Warnings(Vec<Warning>);

impl Warnings {
    fn add(&mut self, place: impl Into<String>, message: impl Into<String>, remedy: impl Into<String>) {
        self.0.push(Warning { place: place.into(), message: message.into(), remedy: remedy.into() });
    }

    fn configuration(&mut self, file: &Path, settings: &Settings) {
        let Some(mode) = mode(file) else { return };
        let (place, shown) = ("the configuration", file.display());
        if mode & 0o002 != 0 {
            self.add(place, format!("everybody may write it (mode {mode:o})"), format!("chmod o-w {shown}"));
        }
        if is_open_folder(file) {
            self.add(place, "everybody may put another file in its place", "chmod o-w its folder");
        }
        if mode & 0o004 != 0 && urls(settings).any(has_values) {
            let message = format!("everybody may read it (mode {mode:o}), and a URL in it has values behind its `?`");
            self.add(place, message, format!(r#"write url = {{ file = "..." }}, or chmod o-r {shown}"#));
        }
    }

    fn listeners(&mut self, settings: &Settings) {
        let intake = &settings.intake;
        let certificates = intake.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        let open = intake.listen.iter().find(|address| is_public(**address));
        for source in settings.sources.iter().filter(|source| source.auth.is_empty() && !certificates) {
            let Some(address) = open else { break };
            let message = format!("everybody may send, and intake listens on {address}");
            let remedy = r#"write auth = { kind = "hmac", ... } or another kind, or listen on a private address"#;
            self.add(source_place(source), message, remedy);
        }
        let plain =
            intake.tls.is_none().then(|| intake.listen.iter().find(|a| is_public(**a) && !a.ip().is_unspecified()));
        if let Some(address) = plain.flatten()
            && let Some(source) = settings.sources.iter().find(|source| source.auth.iter().any(sends_secret))
        {
            let message = format!("its token goes over the network in clear text at {address}");
            self.add(source_place(source), message, r#"set intake.tls, or write auth = { kind = "hmac", ... }"#);
        }
        for address in settings.admin.listen.iter().filter(|address| !address.ip().to_canonical().is_loopback()) {
            let message = format!("tokens and bodies go over the network in clear text at {address}");
            let remedy =
                "listen on 127.0.0.1 or unix:/run/holdline/admin.sock, and reach it through a proxy with TLS or ssh -L";
            self.add("admin.listen", message, remedy);
        }
    }

    /// Private files, and the data folder.
    fn files(&mut self, settings: &Settings) {
        let data = &settings.store.path;
        if let Some(mode) = mode(data).filter(|mode| mode & 0o077 != 0) {
            let message = format!("{} is open to others (mode {mode:o})", data.display());
            self.add("store.path", message, format!("chmod 700 {}", data.display()));
        }
        if settings.admin.token == Token::Generated {
            self.made_token(&data.join("admin.token"));
        }
        if let Some(tls) = &settings.intake.tls {
            self.private_file("intake.tls.key", &tls.key);
        }
        for destination in &settings.destinations {
            if let Some(identity) = &destination.tls.identity {
                self.private_file(&destination_place(destination), &identity.key);
            }
        }
    }

    /// The generated token; it may have been replaced.
    fn made_token(&mut self, path: &Path) {
        self.private_file("admin.token", path);
        let Ok(token) = std::fs::read_to_string(path) else { return };
        for weakness in strength::weaknesses(token.trim()) {
            self.add("admin.token", format!("{} {}", path.display(), weakness.words()), remedy_of(weakness));
        }
    }

    fn private_file(&mut self, place: &str, path: &Path) {
        let Some(mode) = mode(path) else { return };
        let shown = path.display();
        if mode & 0o027 != 0 {
            let who = if mode & 0o007 != 0 { "others" } else { "its group" };
            let message = format!("{shown} is open to {who} (mode {mode:o})");
            self.add(place, message, format!("chmod 600 {shown}, or 640 with the group that holdline runs as"));
        }
        if is_open_folder(path) {
            self.add(place, format!("everybody may put another file in the place of {shown}"), "chmod o-w its folder");
        }
    }

    fn destination(&mut self, destination: &Destination) {
        let place = destination_place(destination);
        let url = destination.url.as_ref().and_then(|url| self.url(&place, "url", url));
        let mut token_url = None;
        if let Some(DestinationAuth::OAuth2(OAuth2 { token_url: url, .. })) = &destination.auth {
            token_url = self.url(&place, "token_url", url);
        }
        let clear = |url: &Option<Uri>| url.as_ref().is_some_and(is_unencrypted);
        if clear(&token_url) {
            let message = "token_url is plain http: the client secret goes over the network in clear text";
            self.add(&place, message, r#"write a token_url that begins with "https://""#);
        }
        if clear(&url) && destination.auth.is_some() {
            let message = "url is plain http: its credentials go over the network in clear text";
            self.add(&place, message, r#"write a url that begins with "https://""#);
        }
        let http = |url: &Option<Uri>| url.as_ref().is_none_or(|url| url.scheme_str() == Some("http"));
        if destination.tls != DestinationTls::default() && url.is_some() && http(&url) && http(&token_url) {
            let remedy = r#"write a url that begins with "https://", or remove `tls`"#;
            self.add(&place, "`tls` has no effect, because url is plain http", remedy);
        }
        for (key, url) in [("url", &url), ("token_url", &token_url)] {
            let Some(url) = url else { continue };
            if let Some((ip, kind)) = refused_address(destination.address_policy, url) {
                let message = format!("{key} leads to {ip}, {kind}, which is refused");
                self.add(&place, message, "write another host, or `allow_link_local = true` if it is meant");
            }
        }
    }

    fn alert(&mut self, place: &str, alert: &Alert, settings: &Settings) {
        let AlertTo::Webhook(url) = &alert.to else { return };
        let Some(uri) = self.url(place, "url", url) else { return };
        if is_unencrypted(&uri) {
            let message = "url is plain http: alerts, and what is secret in the url, go over the network in clear text";
            self.add(place, message, r#"write a url that begins with "https://""#);
        }
        let own = settings.admin.listen.iter().chain(&settings.intake.listen);
        if own.into_iter().any(|address| is_address_of(&uri, *address)) {
            self.add(place, "url is an address of holdline itself", "write the url of the receiver of alerts");
        }
    }

    /// Checks a URL; returns it where it can be read here.
    fn url(&mut self, place: &str, key: &str, url: &Url) -> Option<Uri> {
        if url.secret().is_some_and(Secret::is_elsewhere) {
            return None;
        }
        let uri = url.read().ok()?;
        let braces = uri.to_string().contains(['{', '}']) || uri.path().to_ascii_lowercase().contains("%7b");
        if braces {
            let message = format!("{key} has braces in it, as a template has that was not filled in");
            self.add(place, message, "write the value itself in their place; holdline fills in nothing");
        }
        Some(uri)
    }

    fn secrets(&mut self, secrets: &[Used<'_>]) {
        let mut values: BTreeMap<String, (&str, Party)> = BTreeMap::new();
        for Used { place, secret, party, encoding } in secrets {
            if let Secret::File(path) = secret {
                self.private_file(place, path);
            }
            if secret.is_elsewhere() {
                continue;
            }
            let Ok(value) = secret.read() else { continue };
            if *party == Party::Url {
                continue;
            }
            let mut weaknesses = strength::weaknesses(value.expose());
            let key = encoding.and_then(|encoding| encoding.decode(value.expose()).ok());
            if weaknesses.is_empty() && key.is_some_and(|key| key.len() < strength::BYTES_MIN) {
                weaknesses.push(Weakness::Short);
            }
            for weakness in weaknesses {
                self.add(place, format!("{secret} {}", weakness.words()), remedy_of(weakness));
            }
            match values.get(value.expose()) {
                None => drop(values.insert(value.expose().to_owned(), (place, *party))),
                // two destinations of one system may have the same secret
                Some((_, Party::Destination)) if *party == Party::Destination => {}
                Some((other, _)) => {
                    let message = format!("{secret} is the same as that of {other}: who knows one knows both");
                    self.add(place, message, "give each its own");
                }
            }
        }
    }
}

fn remedy_of(weakness: Weakness) -> String {
    match weakness {
        Weakness::Short | Weakness::Uniform | Weakness::Placeholder => {
            "make one with `openssl rand -hex 32`".to_owned()
        }
        Weakness::ByteOrderMark => "write it without, as `printf %s SECRET > FILE` does".to_owned(),
        Weakness::Blanks | Weakness::LineBreaks | Weakness::Controls => {
            "write it alone on one line, as `printf %s SECRET > FILE` does".to_owned()
        }
        Weakness::Quotes => "write it without quotes".to_owned(),
        Weakness::Assignment => "write only what stands behind the `=`".to_owned(),
    }
}

/// Whose secret it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Party {
    Admin,
    Source,
    Destination,
    /// It holds a URL, and is checked as one.
    Url,
}

struct Used<'s> {
    place: String,
    secret: &'s Secret,
    party: Party,
    /// The encoding of the key of a signature.
    encoding: Option<SecretEncoding>,
}

/// All secrets of a configuration, and where they are used.
fn secrets(settings: &Settings) -> Vec<Used<'_>> {
    let mut all = Vec::new();
    let mut add = |place: String, secret, party| all.push(Used { place, secret, party, encoding: None });
    if let Token::Given(secret) = &settings.admin.token {
        add("admin.token".to_owned(), secret, Party::Admin);
    }
    for named in &settings.admin.tokens {
        add(format!("admin.tokens, `{}`", named.name), &named.token, Party::Admin);
    }
    for (source, auth) in settings.sources.iter().flat_map(|source| source.auth.iter().map(move |auth| (source, auth)))
    {
        let encoding = match auth {
            SourceAuth::Hmac { scheme, .. } => Some(scheme.secret_encoding),
            _ => None,
        };
        let used = |secret| Used { place: source_place(source), secret, party: Party::Source, encoding };
        all.extend(auth.secrets().iter().map(used));
    }
    let mut add = |place: String, secret, party| all.push(Used { place, secret, party, encoding: None });
    for destination in &settings.destinations {
        let place = || destination_place(destination);
        let own = destination.auth.as_ref().and_then(DestinationAuth::secret);
        own.into_iter().chain(&destination.sign).for_each(|secret| add(place(), secret, Party::Destination));
        let mut located = vec![destination.url.as_ref()];
        if let Some(DestinationAuth::OAuth2(oauth2)) = &destination.auth {
            located.push(Some(&oauth2.token_url));
        }
        located.into_iter().flatten().filter_map(Url::secret).for_each(|s| add(place(), s, Party::Url));
    }
    for (n, alert) in settings.alerts.iter().enumerate() {
        if let AlertTo::Webhook(Url::FromSecret(secret)) = &alert.to {
            add(format!("alert[{n}]"), secret, Party::Url);
        }
    }
    all
}

/// Whether a sender transmits the secret itself.
fn sends_secret(auth: &SourceAuth) -> bool {
    !matches!(auth, SourceAuth::Hmac { .. })
}

fn source_place(source: &Source) -> String {
    format!("source `{}`", source.name)
}

fn destination_place(destination: &Destination) -> String {
    format!("destination `{}`", destination.name)
}

/// URLs that are written in the configuration.
fn urls(settings: &Settings) -> impl Iterator<Item = &Uri> {
    let destinations = settings.destinations.iter().flat_map(|d| {
        let token = d.auth.as_ref().and_then(|auth| match auth {
            DestinationAuth::OAuth2(oauth2) => Some(&oauth2.token_url),
            _ => None,
        });
        d.url.iter().chain(token)
    });
    let alerts = settings.alerts.iter().filter_map(|alert| match &alert.to {
        AlertTo::Webhook(url) => Some(url),
        AlertTo::Command(_) => None,
    });
    destinations.chain(alerts).filter_map(|url| match url {
        Url::Literal(uri) => Some(uri),
        Url::FromSecret(_) => None,
    })
}

/// The permissions of a file or folder, where it is there.
fn mode(path: &Path) -> Option<u32> {
    let meta = std::fs::metadata(path).ok()?;
    (meta.is_file() || meta.is_dir()).then(|| meta.permissions().mode() & 0o7777)
}

/// Whether every user can replace a file in its folder.
fn is_open_folder(path: &Path) -> bool {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    mode(folder).is_some_and(|mode| mode & 0o002 != 0 && mode & 0o1000 == 0)
}

/// Whether its query has values, which may be secrets.
fn has_values(uri: &Uri) -> bool {
    uri.query()
        .is_some_and(|query| query.split('&').any(|part| !part.split_once('=').map_or(part, |(_, v)| v).is_empty()))
}

/// Whether the address is reachable from outside: unspecified, or in no private network.
fn is_public(address: SocketAddr) -> bool {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => !(ip.is_loopback() || ip.is_private() || ip.is_link_local()),
        IpAddr::V6(ip) => !(ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()),
    }
}

/// Whether requests can be read on the network.
fn is_unencrypted(uri: &Uri) -> bool {
    uri.scheme_str() == Some("http") && !is_own_machine(host(uri))
}

fn is_own_machine(host: &str) -> bool {
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    let ip = host.parse::<IpAddr>();
    name == "localhost" || name.ends_with(".localhost") || ip.is_ok_and(|ip| ip.to_canonical().is_loopback())
}

fn host(uri: &Uri) -> &str {
    uri.host().unwrap_or_default().trim_matches(['[', ']'])
}

/// Whether a URL is that of a listener on this address.
fn is_address_of(uri: &Uri, address: SocketAddr) -> bool {
    let port = uri.port_u16().unwrap_or_else(|| if uri.scheme_str() == Some("https") { 443 } else { 80 });
    let ip = address.ip().to_canonical();
    let same = host(uri).parse::<IpAddr>().is_ok_and(|of_url| of_url.to_canonical() == ip);
    port == address.port() && (same || ((ip.is_loopback() || ip.is_unspecified()) && is_own_machine(host(uri))))
}

/// The IP address in a URL, if the address policy refuses it; also as one number or in hexadecimal.
fn refused_address(address_policy: AddressPolicy, uri: &Uri) -> Option<(IpAddr, &'static str)> {
    let host = host(uri);
    let numeric = host.starts_with(|c: char| c.is_ascii_digit())
        && host.chars().all(|c| c.is_ascii_hexdigit() || matches!(c, '.' | 'x' | 'X'));
    let ips = match host.parse::<IpAddr>() {
        Ok(ip) => vec![ip],
        // such a host is never resolved by a name server
        Err(_) if numeric => {
            (host, 0).to_socket_addrs().map(|found| found.map(|a| a.ip()).collect()).unwrap_or_default()
        }
        Err(_) => Vec::new(),
    };
    ips.into_iter().find_map(|ip| Some((ip, address_policy.refusal(ip)?)))
}

#[cfg(test)]
#[path = "warning_tests.rs"]
mod tests;
