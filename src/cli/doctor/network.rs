//! The way to each destination: its name, its port, its certificate; and the clock, by which certificates are judged.

use super::Finding;
use crate::cli::client::root;
use crate::cli::words;
use crate::clock::Clock;
use crate::config::settings::Destination;
use http_body_util::Empty;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(10);

/// Whether the kernel takes the clock for synchronised.
pub fn clock() -> Finding {
    let (wall, what) = (Clock::system().wall(), "clock");
    // what systemd-timesyncd and chrony leave where they have set the clock
    let set = ["/run/systemd/timesync/synchronized", "/run/chrony/chronyd.pid", "/run/ntpd.pid"];
    if set.iter().any(|path| std::path::Path::new(path).exists()) {
        Finding::good(what, format!("{wall}, kept by the network"))
    } else {
        let remedy = "run systemd-timesyncd or chrony: Retry-After dates and certificates go by the clock";
        Finding::doubtful(what, format!("{wall}, nobody seems to keep it"), remedy)
    }
}

pub async fn look(destination: &Destination) -> Vec<Finding> {
    let name = &destination.name;
    let Some(url) = &destination.url else {
        return vec![Finding::doubtful(format!("to {name}"), "no url: its events are held", "set its url")];
    };
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = url.port_u16().unwrap_or_else(|| if url.scheme_str() == Some("https") { 443 } else { 80 });
    let found = timeout(PATIENCE, tokio::net::lookup_host((host, port))).await;
    let addresses: Vec<_> = match found {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(e)) => {
            let remedy = "mend the name in its url, or the name server of this machine";
            return vec![Finding::bad(format!("dns {name}"), format!("{host}: {e}"), remedy)];
        }
        Err(_) => {
            let why = format!("{host}: no answer within {}", words::age(PATIENCE));
            return vec![Finding::bad(format!("dns {name}"), why, "look at /etc/resolv.conf and its name servers")];
        }
    };
    let mut findings = vec![Finding::good(format!("dns {name}"), format!("{host}: {} addresses", addresses.len()))];
    let Some(address) = addresses.first() else { return findings };
    let clock = Clock::system();
    let began = clock.precise();
    match timeout(PATIENCE, TcpStream::connect(addresses.as_slice())).await {
        Ok(Ok(_)) => {
            let took = clock.precise().saturating_sub(began);
            let found = format!("{address} answers after {} ms", took.as_millis());
            findings.push(Finding::good(format!("connect {name}"), found));
        }
        Ok(Err(e)) => {
            let remedy = "is it running, and does a firewall let this machine through?";
            findings.push(Finding::bad(format!("connect {name}"), format!("{address}: {e}"), remedy));
            return findings;
        }
        Err(_) => {
            let why = format!("{address}: nothing within {}", words::age(PATIENCE));
            findings.push(Finding::bad(format!("connect {name}"), why, "a firewall drops it, or the host is down"));
            return findings;
        }
    }
    if url.scheme_str() == Some("https") {
        findings.push(match &destination.tls.ca {
            None => tls(name, url).await,
            Some(ca) if ca.is_file() => Finding::good(format!("tls {name}"), "judged by an authority of its own"),
            Some(ca) => {
                let remedy = "make the file, readable for the user that holdline runs as";
                Finding::bad(format!("tls {name}"), format!("{} is not there", ca.display()), remedy)
            }
        });
    }
    findings
}

/// A handshake as a delivery would make it, with the authorities of the system; HEAD, so that nothing is delivered.
async fn tls(name: &str, url: &http::Uri) -> Finding {
    let what = format!("tls {name}");
    let connector = match hyper_rustls::HttpsConnectorBuilder::new().with_native_roots() {
        Ok(builder) => builder.https_only().enable_http1().build(),
        Err(e) => return Finding::bad(what, e.to_string(), "install ca-certificates"),
    };
    let client = Client::builder(TokioExecutor::new()).build::<_, Empty<bytes::Bytes>>(connector);
    let request = http::Request::head(url).body(Empty::new());
    let Ok(request) = request else { return Finding::bad(what, "its url cannot be asked", "mend its url") };
    match timeout(PATIENCE, client.request(request)).await {
        Ok(Err(e)) if e.is_connect() => {
            let remedy = "renew its certificate, or name its authority in the destination's tls.ca";
            Finding::bad(what, root(&e), remedy)
        }
        _ => Finding::good(what, "its certificate is good"),
    }
}
