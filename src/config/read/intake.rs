//! The blocks `[intake]` and `[admin]`: addresses, limits, and the tokens of the admin API.

use super::references::{Names, secret};
use crate::config::settings::{Admin, Intake, InvalidValue, NamedToken, Scope, ServerTls, Token};
use crate::config::syntax::values::{self, GIB, KIB, MIB, Range, TIB, span};
use crate::config::syntax::{Section, Value};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use toml::de::DeValue;

const MAX_BODY: Range<u64> = Range { min: (KIB, ""), max: (32 * MIB, "a body is held in memory as a whole") };
const MAX_HEADERS: Range<u64> = Range { min: (8 * KIB, "the HTTP reader needs 8 KiB"), max: (MIB, "") };
const MAX_CONNECTIONS: Range<u64> = Range { min: (1, ""), max: (100_000, "each takes a file descriptor") };
const MAX_JSON_DEPTH: Range<u64> = Range { min: (1, ""), max: (127, "the JSON parser goes no deeper") };
const MAX_BATCH: Range<u64> = Range { min: (1, ""), max: (10_000, "a batch is one commit") };
const MAX_FORWARDED: Range<u64> =
    Range { min: (0, ""), max: (64 * KIB, "destinations refuse a request for long headers") };
const MAX_BUFFERED: Range<u64> = Range { min: (KIB, ""), max: (64 * GIB, "") };
const HEADER_TIMEOUT: Range<Duration> = Range { min: (span("10ms"), ""), max: (span("5m"), "") };
const BODY_TIMEOUT: Range<Duration> = Range { min: (span("10ms"), ""), max: (span("10m"), "") };
const BODY_GRACE: Range<Duration> = Range { min: (span("0s"), ""), max: (span("10m"), "") };
const MIN_BODY_RATE: Range<u64> = Range { min: (0, ""), max: (MIB, "slower networks are honest, too") };
const LINGER_TIMEOUT: Range<Duration> = Range { min: (span("0s"), ""), max: (span("5m"), "") };
const DISK_RESERVE: Range<u64> = Range { min: (MIB, "delivery goes on and needs room to write"), max: (TIB, "") };
const MAX_QUEUE: Range<u64> = Range { min: (KIB, ""), max: (16 * TIB, "") };
/// Addresses and their values; empty for the default.
pub(super) type Listeners<'r> = Vec<(Value<'r>, SocketAddr)>;

/// Reads `[intake]`.
pub(super) fn intake(mut section: Section<'_>) -> (Intake, Listeners<'_>) {
    let defaults = Intake::default();
    let (listen, inherit, places) = match section.take("listen", listen_or_inherit) {
        Some((places, inherit)) => (places.iter().map(|(_, address)| *address).collect(), inherit, places),
        None => (defaults.listen, false, Vec::new()),
    };
    let count = |v: Value<'_>, limits| values::whole(&v, limits).and_then(|n| usize::try_from(n).ok());
    let statuses = |v: Value<'_>| match v.raw().as_integer().map(|i| i.as_str()) {
        Some("200") => Some(200),
        Some("202") => Some(202),
        _ => v.fault(format!("{} is not 200 or 202", v.written()), "write 202, or 200 for senders that insist"),
    };
    let intake = Intake {
        listen,
        inherit,
        max_body_bytes: section.take("max_body", |v| values::memory(&v, &MAX_BODY)).unwrap_or(defaults.max_body_bytes),
        max_header_bytes: section
            .take("max_headers", |v| values::memory(&v, &MAX_HEADERS))
            .unwrap_or(defaults.max_header_bytes),
        max_connections: section
            .take("max_connections", |v| count(v, &MAX_CONNECTIONS))
            .unwrap_or(defaults.max_connections),
        tls: section.take("tls", tls),
        max_connections_per_address: section.take("max_connections_per_address", |v| count(v, &MAX_CONNECTIONS)),
        max_json_depth: section
            .take("max_json_depth", |v| count(v, &MAX_JSON_DEPTH))
            .unwrap_or(defaults.max_json_depth),
        max_batch: section.take("max_batch", |v| count(v, &MAX_BATCH)).unwrap_or(defaults.max_batch),
        max_forwarded_header_bytes: section
            .take("max_forwarded_headers", |v| values::memory(&v, &MAX_FORWARDED))
            .unwrap_or(defaults.max_forwarded_header_bytes),
        max_buffered_bytes: section
            .take("max_buffered_bytes", |v| values::memory(&v, &MAX_BUFFERED))
            .unwrap_or(defaults.max_buffered_bytes),
        header_timeout: section
            .take("header_timeout", |v| values::duration(&v, &HEADER_TIMEOUT))
            .unwrap_or(defaults.header_timeout),
        body_timeout: section
            .take("body_timeout", |v| values::duration(&v, &BODY_TIMEOUT))
            .unwrap_or(defaults.body_timeout),
        max_unverified_bytes: section.take("max_unverified_bytes", |v| values::memory(&v, &MAX_BUFFERED)),
        max_unverified_bytes_per_address: section
            .take("max_unverified_bytes_per_address", |v| values::memory(&v, &MAX_BUFFERED)),
        max_unverified_bytes_per_connection: section
            .take("max_unverified_bytes_per_connection", |v| values::memory(&v, &MAX_BUFFERED)),
        source_share: section
            .take("source_share", |v| values::number(&v, &values::SHARE))
            .unwrap_or(defaults.source_share),
        body_grace: section.take("body_grace", |v| values::duration(&v, &BODY_GRACE)).unwrap_or(defaults.body_grace),
        min_body_rate: section
            .take("min_body_rate", |v| values::memory(&v, &MIN_BODY_RATE))
            .unwrap_or(defaults.min_body_rate),
        linger_timeout: section
            .take("linger_timeout", |v| values::duration(&v, &LINGER_TIMEOUT))
            .unwrap_or(defaults.linger_timeout),
        success_status: section.take("success_status", statuses).unwrap_or(defaults.success_status),
        disk_reserve_bytes: section
            .take("disk_reserve", |v| values::size(&v, &DISK_RESERVE))
            .unwrap_or(defaults.disk_reserve_bytes),
        max_queue_bytes: section
            .take("max_queue_bytes", |v| values::size(&v, &MAX_QUEUE))
            .unwrap_or(defaults.max_queue_bytes),
        queue_share: section
            .take("queue_share", |v| values::number(&v, &values::SHARE))
            .unwrap_or(defaults.queue_share),
    };
    check_body_fits(&section, &intake);
    (intake, places)
}

/// The largest body must fit into every limit of bodies.
fn check_body_fits(section: &Section<'_>, intake: &Intake) {
    let of_senders = [
        ("max_unverified_bytes", intake.max_unverified_bytes),
        ("max_unverified_bytes_per_address", intake.max_unverified_bytes_per_address),
        ("max_unverified_bytes_per_connection", intake.max_unverified_bytes_per_connection),
    ];
    let of_senders = of_senders.into_iter().filter_map(|(key, bytes)| Some((key, bytes? as u64)));
    let of_all =
        [("max_buffered_bytes", intake.max_buffered_bytes as u64), ("max_queue_bytes", intake.max_queue_bytes)];
    for (key, bytes) in of_all.into_iter().chain(of_senders) {
        let body = intake.max_body_bytes as u64;
        if bytes < body && section.is_valid(&[key, "max_body"]) {
            let at = if section.has(key) { key } else { "max_body" };
            let message = format!(
                "`{key}` is less than `max_body` ({} and {})",
                values::shown_size(bytes),
                values::shown_size(body)
            );
            section.fault_at(at, message, format!("write a larger `{key}` or a smaller `max_body`"));
        }
    }
}

fn tls(value: Value<'_>) -> Option<ServerTls> {
    let mut section = value.section()?;
    let cert = section.require("cert", r#"cert = "/etc/holdline/tls/cert.pem""#, |v| file(&v));
    let key = section.require("key", r#"key = "/etc/holdline/tls/key.pem""#, |v| file(&v));
    let client_ca = section.take("client_ca", |v| file(&v));
    // with an invalid client_ca there is no TLS, rather than TLS without it
    section.is_valid(&["client_ca"]).then_some(())?;
    Some(ServerTls { cert: cert?, key: key?, client_ca })
}

fn file(value: &Value<'_>) -> Option<PathBuf> {
    match value.text("the path of a file in PEM, in quotes")? {
        "" => value.fault("the path is empty", "write the path of a file in PEM"),
        path => Some(value.in_folder(path)),
    }
}

/// Adds a fault for two listeners on one port, at the later one that is written.
pub(super) fn check_overlaps(groups: &[(&str, &[SocketAddr], &Listeners<'_>)]) {
    let mut seen: Vec<(SocketAddr, Option<&Value<'_>>, String)> = Vec::new();
    for (key, addresses, places) in groups {
        for (i, &address) in addresses.iter().enumerate() {
            let place = places.get(i).map(|(value, _)| value);
            let shown = place.map_or_else(|| format!("{key} (by default)"), |v| v.path().to_owned());
            if let Some((other, other_place, other_shown)) = seen.iter().find(|(a, ..)| overlap(*a, address)) {
                let (at, taken, by) = match place {
                    Some(_) => (place, *other, other_shown),
                    None => (*other_place, address, &shown),
                };
                if let Some(value) = at {
                    value.fault::<()>(format!("the port is taken by {by}, {taken}"), "write another port");
                }
            }
            seen.push((address, place, shown));
        }
    }
}

const ADMIN_CONNECTIONS: Range<u64> =
    Range { min: (32, "16 are kept for health checks"), max: (100_000, "each takes a file descriptor") };
const WRITE_TIMEOUT: Range<Duration> = Range { min: (span("100ms"), ""), max: (span("1h"), "") };

/// Reads `[admin]`.
pub(super) fn admin(mut section: Section<'_>) -> (Admin, Listeners<'_>) {
    let (mut listen, mut sockets, mut at) = (Admin::default().listen, Vec::new(), Vec::new());
    if let Some(places) = section.take("listen", places) {
        listen = Vec::new();
        for (value, place) in places {
            match place {
                Place::Tcp(address) => {
                    listen.push(address);
                    at.push((value, address));
                }
                Place::Unix(path) => sockets.push(path),
            }
        }
    }
    let token = section.take("token", secret).map_or(Token::Generated, Token::Given);
    let tokens = section.take("tokens", named_tokens).unwrap_or_default();
    let defaults = Admin::default();
    let count = |v: Value<'_>| values::whole(&v, &ADMIN_CONNECTIONS).and_then(|n| usize::try_from(n).ok());
    let max_connections = section.take("max_connections", count).unwrap_or(defaults.max_connections);
    let write_timeout =
        section.take("write_timeout", |v| values::duration(&v, &WRITE_TIMEOUT)).unwrap_or(defaults.write_timeout);
    (Admin { listen, sockets, max_connections, write_timeout, token, tokens }, at)
}

fn named_tokens(value: Value<'_>) -> Option<Vec<NamedToken>> {
    let mut names = Names::of("token");
    let items = value.items()?;
    let tokens: Vec<_> = items.into_iter().map(|item| item.section().and_then(|s| named(s, &mut names))).collect();
    tokens.into_iter().collect()
}

fn named<'r>(mut section: Section<'r>, names: &mut Names<'r>) -> Option<NamedToken> {
    let name = section.require("name", r#"name = "grafana""#, |v| names.declare(&v));
    let token = section.require("token", r#"token = { file = "..." }"#, secret);
    let scopes = section.require("scopes", r#"scopes = ["read"]"#, scopes);
    Some(NamedToken { name: name?, token: token?, scopes: scopes? })
}

fn scopes(value: Value<'_>) -> Option<Vec<Scope>> {
    let known = Scope::ALL.map(Scope::word).join(", ");
    let one = |item: Value<'_>| {
        let found = match item.raw() {
            DeValue::String(word) => Scope::ALL.into_iter().find(|s| s.word() == word),
            _ => None,
        };
        found.or_else(|| item.fault(format!("{} is not a scope", item.written()), format!("write one of {known}")))
    };
    let items = value.items()?;
    if items.is_empty() {
        return value.fault("a token without a scope opens nothing", format!("write some of {known}"));
    }
    items.into_iter().map(one).collect()
}

/// One address, or an array of them; each with its place.
fn listen<'r>(value: Value<'r>) -> Option<Vec<(Value<'r>, SocketAddr)>> {
    each(value, r#"an address such as "127.0.0.1:8080""#, parse_listen)
}

/// Where the admin API listens.
enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// As [`listen`], or a unix socket.
fn places<'r>(value: Value<'r>) -> Option<Vec<(Value<'r>, Place)>> {
    each(value, r#"an address such as "127.0.0.1:8081" or "unix:/run/holdline/admin.sock""#, parse_place)
}

fn each<'r, T>(
    value: Value<'r>,
    example: &str,
    parse: impl Fn(&str) -> Result<T, InvalidValue>,
) -> Option<Vec<(Value<'r>, T)>> {
    let items = value.one_or_items();
    if items.is_empty() {
        return value.fault("the list is empty", format!("write {example}"));
    }
    let one = |item: Value<'r>| {
        let found = item.text(example).and_then(|text| item.check(parse(text)))?;
        Some((item, found))
    };
    Some(items.into_iter().filter_map(one).collect())
}

/// As [`listen`], and whether the sockets of the service manager ("systemd") are among the addresses.
fn listen_or_inherit<'r>(value: Value<'r>) -> Option<(Vec<(Value<'r>, SocketAddr)>, bool)> {
    let (inherited, others): (Vec<_>, Vec<_>) = value.one_or_items().into_iter().partition(is_systemd);
    if inherited.is_empty() {
        return listen(value).map(|addresses| (addresses, false));
    }
    Some((others.into_iter().filter_map(listen).flatten().collect(), true))
}

fn is_systemd(value: &Value<'_>) -> bool {
    matches!(value.raw(), DeValue::String(text) if text == "systemd")
}

fn parse_place(text: &str) -> Result<Place, InvalidValue> {
    let Some(path) = text.strip_prefix("unix:") else { return parse_listen(text).map(Place::Tcp) };
    // the longest path that the kernel accepts (sun_path)
    if !path.starts_with('/') || path.len() > 107 {
        let wrong = "this is not the absolute path of a socket, of at most 107 bytes";
        return Err(InvalidValue::new(wrong, r#"write "unix:/run/holdline/admin.sock""#));
    }
    Ok(Place::Unix(path.into()))
}

/// `IP:PORT`; port 0 binds a free one.
fn parse_listen(text: &str) -> Result<SocketAddr, InvalidValue> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if text == "systemd" {
        return Err(InvalidValue::new(
            "only intake.listen takes a socket of systemd",
            r#"write an address such as "127.0.0.1:8081""#,
        ));
    }
    if text.starts_with("unix:") {
        let message = format!("`{text}` is not supported by this version of holdline");
        return Err(InvalidValue::new(message, r#"write an address such as "127.0.0.1:8080""#));
    }
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        let example = SocketAddr::new(ip, 8080);
        return Err(InvalidValue::new(format!("{text:?} has no port"), format!(r#"write "{example}""#)));
    }
    let port = text.rsplit(':').next().and_then(|p| p.parse::<u16>().ok()).unwrap_or(8080);
    let not_ip = format!("{text:?} is not IP:PORT");
    Err(InvalidValue::new(
        not_ip,
        format!(r#"write "127.0.0.1:{port}" for this machine only, or "0.0.0.0:{port}" for all"#),
    ))
}

/// Whether two listeners need the same port of the same address.
pub(super) fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let (ip_a, ip_b) = (a.ip().to_canonical(), b.ip().to_canonical());
    // a socket on [::] accepts IPv4, too, unless it is set to IPv6 only
    let takes_all = |ip: IpAddr, other: IpAddr| ip.is_unspecified() && (ip.is_ipv6() || other.is_ipv4());
    a.port() != 0 && a.port() == b.port() && (ip_a == ip_b || takes_all(ip_a, ip_b) || takes_all(ip_b, ip_a))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_addresses() {
        let bad = [
            ("127.0.0.1", r#""127.0.0.1" has no port; write "127.0.0.1:8080""#),
            ("::1", r#""::1" has no port; write "[::1]:8080""#),
            ("systemd", r#"only intake.listen takes a socket of systemd; write an address such as "127.0.0.1:8081""#),
            (
                ":9090",
                r#"":9090" is not IP:PORT; write "127.0.0.1:9090" for this machine only, or "0.0.0.0:9090" for all"#,
            ),
        ];
        for (text, wanted) in bad {
            assert_eq!(parse_listen(text).unwrap_err().to_string(), wanted, "{text}");
        }
    }

    #[test]
    fn overlaps() {
        let cases = [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("0.0.0.0:80", "127.0.0.2:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("[::]:80", "127.0.0.1:80", true),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80", true),
            ("127.0.0.1:0", "127.0.0.1:0", false),
        ];
        for (a, b, wanted) in cases {
            let (a, b) = (a.parse().unwrap(), b.parse().unwrap());
            assert_eq!((overlap(a, b), overlap(b, a)), (wanted, wanted), "{a} {b}");
        }
    }
}
