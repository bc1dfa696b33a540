//! Connections to the peers that holdline calls (destinations, token endpoints, alert webhooks): name resolution, port,
//! certificate; and the clock, which decides whether certificates are valid. Nothing is sent but the TLS handshake.

use super::Finding;
use crate::cli::format;
use crate::clock::Clock;
use crate::config::settings::{Alert, AlertTo, Destination, DestinationAuth, DestinationTls, Url};
use crate::dispatch::{Trust, tls_config};
use crate::net::tls_fault::TlsFault;
use crate::rules::address_policy::AddressPolicy;
use http::Uri;
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Whether a time service synchronizes the clock.
pub fn clock() -> Finding {
    let (wall, what) = (Clock::system().wall(), "clock");
    // files of systemd-timesyncd, chrony and ntpd
    let set = ["/run/systemd/timesync/synchronized", "/run/chrony/chronyd.pid", "/run/ntpd.pid"];
    if set.iter().any(|path| std::path::Path::new(path).exists()) {
        Finding::good(what, format!("{wall}, kept by the network"))
    } else {
        let remedy = "run systemd-timesyncd or chrony: Retry-After dates and certificates depend on the clock";
        Finding::doubtful(what, format!("{wall}, no time service was found"), remedy)
    }
}

/// A peer that holdline calls.
struct Peer<'s> {
    /// Its name in findings.
    name: String,
    url: &'s Url,
    connection: AddressPolicy,
    tls: DestinationTls,
    trust: Trust,
}

/// Checks the connection to a destination, and to its token endpoint.
pub async fn look(destination: &Destination) -> Vec<Finding> {
    let (name, connection, tls) = (destination.name.clone(), destination.address_policy, &destination.tls);
    let Some(url) = &destination.url else {
        return vec![Finding::doubtful(format!("to {name}"), "no url: its deliveries wait", "set its url")];
    };
    let mut findings = check(&Peer { name: name.clone(), url, connection, tls: tls.clone(), trust: Trust::One }).await;
    if let Some(DestinationAuth::OAuth2(oauth2)) = &destination.auth {
        let (name, url) = (format!("{name} token_url"), &oauth2.token_url);
        findings.extend(check(&Peer { name, url, connection, tls: tls.clone(), trust: Trust::Both }).await);
    }
    findings
}

/// Checks the connection to the webhook of an alert.
pub async fn look_at_alert(n: usize, alert: &Alert) -> Vec<Finding> {
    let AlertTo::Webhook(url) = &alert.to else { return Vec::new() };
    let (name, tls) = (format!("alert[{n}]"), DestinationTls::default());
    check(&Peer { name, url, connection: AddressPolicy::Anywhere, tls, trust: Trust::One }).await
}

async fn check(peer: &Peer<'_>) -> Vec<Finding> {
    let name = &peer.name;
    let url = match peer.url.read() {
        Ok(url) => url,
        Err(why) => {
            let remedy = "put the url there, readable for the user that holdline runs as, and run doctor as that user";
            return vec![Finding::doubtful(format!("to {name}"), why.to_string(), remedy)];
        }
    };
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = url.port_u16().unwrap_or_else(|| if url.scheme_str() == Some("https") { 443 } else { 80 });
    let (mut findings, addresses) = match resolve(peer, host, port).await {
        Ok(found) => found,
        Err(finding) => return vec![finding],
    };
    let stream = match connect(name, &addresses).await {
        Ok((finding, stream)) => {
            findings.push(finding);
            stream
        }
        Err(finding) => {
            findings.push(finding);
            return findings;
        }
    };
    if url.scheme_str() == Some("https") {
        findings.push(tls(peer, &url, stream).await);
    }
    findings
}

/// The addresses that the address policy allows.
async fn resolve(peer: &Peer<'_>, host: &str, port: u16) -> Result<(Vec<Finding>, Vec<SocketAddr>), Finding> {
    let what = format!("dns {}", peer.name);
    let found = timeout(TIMEOUT, tokio::net::lookup_host((host, port))).await;
    let all: Vec<SocketAddr> = match found {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(e)) => {
            let remedy = "correct the host in its url, or the name server of this machine";
            return Err(Finding::bad(what, format!("{host}: {e}"), remedy));
        }
        Err(_) => {
            let why = format!("{host}: no answer within {}", format::age(TIMEOUT));
            return Err(Finding::bad(what, why, "check /etc/resolv.conf and its name servers"));
        }
    };
    let count = all.len();
    let refused = all.iter().find_map(|address| Some((address.ip(), peer.connection.refusal(address.ip())?)));
    let allowed: Vec<SocketAddr> = all.into_iter().filter(|a| peer.connection.refusal(a.ip()).is_none()).collect();
    let remedy = "correct the host, or set `allow_link_local = true` if this destination is meant to be there";
    match refused {
        Some((ip, kind)) if allowed.is_empty() => {
            Err(Finding::bad(what, format!("{host} resolves to {ip}, {kind}, which is refused"), remedy))
        }
        Some((ip, kind)) => {
            let found = format!("{host}: {count} addresses, of which {ip}, {kind}, is refused");
            Ok((vec![Finding::doubtful(what, found, remedy)], allowed))
        }
        None if allowed.is_empty() => {
            Err(Finding::bad(what, format!("{host}: no address"), "correct the host in its url"))
        }
        None => Ok((vec![Finding::good(what, format!("{host}: {count} addresses"))], allowed)),
    }
}

async fn connect(name: &str, addresses: &[SocketAddr]) -> Result<(Finding, TcpStream), Finding> {
    let what = format!("connect {name}");
    let clock = Clock::system();
    let began = clock.precise();
    let first = addresses.first().map(ToString::to_string).unwrap_or_default();
    match timeout(TIMEOUT, TcpStream::connect(addresses)).await {
        Ok(Ok(stream)) => {
            let took = clock.precise().saturating_sub(began);
            let address = stream.peer_addr().map_or(first, |address| address.to_string());
            Ok((Finding::good(what, format!("{address} answers after {} ms", took.as_millis())), stream))
        }
        Ok(Err(e)) => {
            let remedy = "is it running, and does a firewall let this machine through?";
            Err(Finding::bad(what, format!("{first}: {e}"), remedy))
        }
        Err(_) => {
            let why = format!("{first}: no answer within {}", format::age(TIMEOUT));
            Err(Finding::bad(what, why, "a firewall drops it, or the host is down"))
        }
    }
}

/// Makes a handshake like a delivery's, with the same authorities and client certificate.
async fn tls(peer: &Peer<'_>, url: &Uri, stream: TcpStream) -> Finding {
    let what = format!("tls {}", peer.name);
    let config = match tls_config(&peer.tls, peer.trust) {
        Ok(config) => config,
        Err(why) => {
            return Finding::bad(what, why.to_string(), "make the file, readable for the user that holdline runs as");
        }
    };
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let Ok(name) = ServerName::try_from(host.to_owned()) else {
        return Finding::bad(
            what,
            format!("no certificate can be for the name {host}"),
            "write another name in its url",
        );
    };
    match timeout(TIMEOUT, TlsConnector::from(config).connect(name, stream)).await {
        Ok(Ok(_)) => Finding::good(what, "its certificate is good"),
        Ok(Err(e)) => match TlsFault::of_handshake(&e) {
            Some(fault) => Finding::bad(what, format!("{} ({e})", fault.words()), fault.remedy()),
            None => Finding::bad(what, e.to_string(), "see the log of the other side"),
        },
        Err(_) => {
            let why = format!("the handshake did not end within {}", format::age(TIMEOUT));
            Finding::bad(what, why, "is it the port on which it speaks TLS?")
        }
    }
}
