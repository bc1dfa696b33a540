//! Where an address or a URL lies: whether others reach it, and read what goes there. No name server is asked.

use crate::rules::address_policy::AddressPolicy;
use http::Uri;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

/// Whether there is anything behind its `?` that may be a secret.
pub fn has_values(uri: &Uri) -> bool {
    uri.query()
        .is_some_and(|query| query.split('&').any(|part| !part.split_once('=').map_or(part, |(_, v)| v).is_empty()))
}

/// Whether anybody can reach the address: it is everywhere, or of no private network.
pub fn is_public(address: SocketAddr) -> bool {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => !(ip.is_loopback() || ip.is_private() || ip.is_link_local()),
        IpAddr::V6(ip) => !(ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()),
    }
}

/// Whether what is sent there can be read on the way.
pub fn is_clear(uri: &Uri) -> bool {
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
pub fn leads_to(uri: &Uri, address: SocketAddr) -> bool {
    let port = uri.port_u16().unwrap_or_else(|| if uri.scheme_str() == Some("https") { 443 } else { 80 });
    let ip = address.ip().to_canonical();
    let same = host(uri).parse::<IpAddr>().is_ok_and(|of_url| of_url.to_canonical() == ip);
    port == address.port() && (same || ((ip.is_loopback() || ip.is_unspecified()) && is_own_machine(host(uri))))
}

/// The address in a URL, if it is one that is refused; also where it is written as one number or in hexadecimal.
pub fn refused(reach: AddressPolicy, uri: &Uri) -> Option<(IpAddr, &'static str)> {
    let host = host(uri);
    let numeric = host.starts_with(|c: char| c.is_ascii_digit())
        && host.chars().all(|c| c.is_ascii_hexdigit() || matches!(c, '.' | 'x' | 'X'));
    let ips = match host.parse::<IpAddr>() {
        Ok(ip) => vec![ip],
        // no name server is asked for a number
        Err(_) if numeric => {
            (host, 0).to_socket_addrs().map(|found| found.map(|a| a.ip()).collect()).unwrap_or_default()
        }
        Err(_) => Vec::new(),
    };
    ips.into_iter().find_map(|ip| Some((ip, reach.refusal(ip)?)))
}
