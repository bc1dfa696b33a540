//! Addresses: where holdline listens, and the URLs it delivers to.

use super::fault::Wrong;
use super::section::Value;
use http::Uri;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use toml::de::DeValue;

/// One address, or an array of them; each with its place.
pub(super) fn listen<'r>(value: Value<'r>) -> Option<Vec<(Value<'r>, SocketAddr)>> {
    each(value, r#"an address such as "127.0.0.1:8080""#, parse_listen)
}

/// Where the admin API listens.
pub(super) enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// As [`listen`], where a unix socket may be too.
pub(super) fn places<'r>(value: Value<'r>) -> Option<Vec<(Value<'r>, Place)>> {
    each(value, r#"an address such as "127.0.0.1:8081" or "unix:/run/holdline/admin.sock""#, parse_place)
}

fn each<'r, T>(
    value: Value<'r>,
    example: &str,
    parse: impl Fn(&str) -> Result<T, Wrong>,
) -> Option<Vec<(Value<'r>, T)>> {
    let items = value.one_or_items();
    if items.is_empty() {
        return value.wrong("the list is empty", format!("write {example}"));
    }
    let one = |item: Value<'r>| {
        let found = item.text(example).and_then(|text| item.check(parse(text)))?;
        Some((item, found))
    };
    Some(items.into_iter().filter_map(one).collect())
}

/// Where intake listens: as [`listen`], and whether the sockets of the service manager are among it ("systemd").
pub(super) fn listen_or_inherit<'r>(value: Value<'r>) -> Option<(Vec<(Value<'r>, SocketAddr)>, bool)> {
    let (inherited, others): (Vec<_>, Vec<_>) = value.one_or_items().into_iter().partition(is_systemd);
    if inherited.is_empty() {
        return listen(value).map(|addresses| (addresses, false));
    }
    Some((others.into_iter().filter_map(listen).flatten().collect(), true))
}

fn is_systemd(value: &Value<'_>) -> bool {
    matches!(value.raw(), DeValue::String(text) if text == "systemd")
}

fn parse_place(text: &str) -> Result<Place, Wrong> {
    let Some(path) = text.strip_prefix("unix:") else { return parse_listen(text).map(Place::Tcp) };
    // as long as the kernel takes it (sun_path)
    if !path.starts_with('/') || path.len() > 107 {
        let wrong = "this is not the absolute path of a socket, of at most 107 bytes";
        return Err(Wrong::new(wrong, r#"write "unix:/run/holdline/admin.sock""#));
    }
    Ok(Place::Unix(path.into()))
}

/// `IP:PORT`; port 0 takes a free one.
fn parse_listen(text: &str) -> Result<SocketAddr, Wrong> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if text == "systemd" {
        return Err(Wrong::new(
            "only intake.listen takes a socket of systemd",
            r#"write an address such as "127.0.0.1:8081""#,
        ));
    }
    if text.starts_with("unix:") {
        let message = format!("`{text}` is not supported by this version of holdline");
        return Err(Wrong::new(message, r#"write an address such as "127.0.0.1:8080""#));
    }
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        let example = SocketAddr::new(ip, 8080);
        return Err(Wrong::new(format!("{text:?} has no port"), format!(r#"write "{example}""#)));
    }
    let port = text.rsplit(':').next().and_then(|p| p.parse::<u16>().ok()).unwrap_or(8080);
    let not_ip = format!("{text:?} is not IP:PORT");
    Err(Wrong::new(not_ip, format!(r#"write "127.0.0.1:{port}" for this machine only, or "0.0.0.0:{port}" for all"#)))
}

/// Whether two listeners would want the same port of the same address.
pub(super) fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let (ip_a, ip_b) = (a.ip().to_canonical(), b.ip().to_canonical());
    // A socket on [::] takes IPv4 as well, unless told otherwise.
    let takes_all = |ip: IpAddr, other: IpAddr| ip.is_unspecified() && (ip.is_ipv6() || other.is_ipv4());
    a.port() != 0 && a.port() == b.port() && (ip_a == ip_b || takes_all(ip_a, ip_b) || takes_all(ip_b, ip_a))
}

/// A text that may be a URL, in quotes, for a fault.
pub(super) fn quoted(text: &str) -> String {
    format!("{:?}", super::url::text_shown(text))
}

/// A URL that is called: http or https, a host, neither user nor fragment. Faults call it `name`, and show nothing else of it.
pub(super) fn parse_url(text: &str, name: &str) -> Result<Uri, Wrong> {
    const EXAMPLE: &str = r#"write a URL such as "https://crm.internal/hooks""#;
    let authority = text.split_once("://").map_or(text, |(_, rest)| rest).split(['/', '?', '#']).next();
    if authority.is_some_and(|a| a.contains('@')) {
        let remedy = r#"take it out and write auth = { kind = "basic", user = "...", password = { file = "..." } }"#;
        return Err(Wrong::new("the URL has a user or password in it", remedy));
    }
    let Some((scheme, _)) = text.split_once("://") else {
        let remedy = match name.strip_prefix('"') {
            Some(rest) => format!("write \"https://{rest}"),
            None => EXAMPLE.to_owned(),
        };
        return Err(Wrong::new(format!("{name} has no scheme"), remedy));
    };
    if !matches!(scheme, "http" | "https") {
        return Err(Wrong::new(format!("{name} is neither http nor https"), EXAMPLE));
    }
    if text.contains('#') {
        return Err(Wrong::new(
            format!("{name} has a fragment (#...), which is never sent"),
            "leave out # and what follows",
        ));
    }
    if let Some(bad) = text.chars().find(|c| !c.is_ascii_graphic()) {
        let remedy = "percent-encode it in the path and query, write the host in its ASCII form (xn--...)";
        return Err(Wrong::new(format!("{name} has {bad:?} in it"), remedy));
    }
    let not_url = || match text.chars().find(|c| matches!(c, '{' | '}' | '<' | '>')) {
        Some(bad) => {
            let message = format!("{name} has {bad:?} in it, as a template has that was not filled in");
            Wrong::new(message, "write the value itself in its place; holdline fills in nothing")
        }
        None => Wrong::new(format!("{name} is not a URL"), EXAMPLE),
    };
    let uri: Uri = text.parse().map_err(|_| not_url())?;
    let authority = uri.authority().ok_or_else(not_url)?;
    let has_port = authority.as_str().len() > authority.host().len();
    if authority.host().is_empty() {
        return Err(Wrong::new(format!("{name} has no host"), EXAMPLE));
    }
    if has_port && !matches!(authority.port_u16(), Some(1..)) {
        return Err(Wrong::new(format!("{name} has a bad port"), "write a port from 1 to 65535, or none"));
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Uri, Wrong> {
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
