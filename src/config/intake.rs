//! The block `[intake]`: where holdline listens, and what it takes in.

use super::address;
use super::section::{Section, Value};
use super::settings::{Intake, ServerTls};
use super::values::{self, GIB, KIB, Limits, MIB, TIB, span};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

const MAX_BODY: Limits<u64> = Limits { min: (KIB, ""), max: (32 * MIB, "a body is held in memory as a whole") };
const MAX_HEADERS: Limits<u64> = Limits { min: (8 * KIB, "the HTTP reader needs 8 KiB"), max: (MIB, "") };
const MAX_CONNECTIONS: Limits<u64> = Limits { min: (1, ""), max: (100_000, "each takes a file descriptor") };
const MAX_JSON_DEPTH: Limits<u64> = Limits { min: (1, ""), max: (127, "the JSON parser goes no deeper") };
const MAX_BATCH: Limits<u64> = Limits { min: (1, ""), max: (10_000, "a batch is one commit") };
const MAX_FORWARDED: Limits<u64> =
    Limits { min: (0, ""), max: (64 * KIB, "destinations refuse a request for long headers") };
const MAX_BUFFERED: Limits<u64> = Limits { min: (KIB, ""), max: (64 * GIB, "") };
const HEADER_TIMEOUT: Limits<Duration> = Limits { min: (span("10ms"), ""), max: (span("5m"), "") };
const BODY_TIMEOUT: Limits<Duration> = Limits { min: (span("10ms"), ""), max: (span("10m"), "") };
const BODY_GRACE: Limits<Duration> = Limits { min: (span("0s"), ""), max: (span("10m"), "") };
const MIN_BODY_RATE: Limits<u64> = Limits { min: (0, ""), max: (MIB, "slower networks are honest, too") };
const LINGER_TIMEOUT: Limits<Duration> = Limits { min: (span("0s"), ""), max: (span("5m"), "") };
const DISK_RESERVE: Limits<u64> = Limits { min: (MIB, "delivery goes on and needs room to write"), max: (TIB, "") };
const MAX_QUEUE: Limits<u64> = Limits { min: (KIB, ""), max: (16 * TIB, "") };
/// Addresses and where they stand; empty where they are the default.
pub(super) type Listeners<'r> = Vec<(Value<'r>, SocketAddr)>;

/// Reads `[intake]`.
pub(super) fn intake(mut section: Section<'_>) -> (Intake, Listeners<'_>) {
    let absent = Intake::default();
    let (listen, inherit, places) = match section.take("listen", address::listen_or_inherit) {
        Some((places, inherit)) => (places.iter().map(|(_, address)| *address).collect(), inherit, places),
        None => (absent.listen, false, Vec::new()),
    };
    let count = |v: Value<'_>, limits| values::whole(&v, limits).and_then(|n| usize::try_from(n).ok());
    let statuses = |v: Value<'_>| match v.raw().as_integer().map(|i| i.as_str()) {
        Some("200") => Some(200),
        Some("202") => Some(202),
        _ => v.wrong(format!("{} is not 200 or 202", v.written()), "write 202, or 200 for senders that insist"),
    };
    let intake = Intake {
        listen,
        inherit,
        max_body_bytes: section.take("max_body", |v| values::memory(&v, &MAX_BODY)).unwrap_or(absent.max_body_bytes),
        max_header_bytes: section
            .take("max_headers", |v| values::memory(&v, &MAX_HEADERS))
            .unwrap_or(absent.max_header_bytes),
        max_connections: section
            .take("max_connections", |v| count(v, &MAX_CONNECTIONS))
            .unwrap_or(absent.max_connections),
        tls: section.take("tls", tls),
        max_connections_per_address: section.take("max_connections_per_address", |v| count(v, &MAX_CONNECTIONS)),
        max_json_depth: section.take("max_json_depth", |v| count(v, &MAX_JSON_DEPTH)).unwrap_or(absent.max_json_depth),
        max_batch: section.take("max_batch", |v| count(v, &MAX_BATCH)).unwrap_or(absent.max_batch),
        max_forwarded_header_bytes: section
            .take("max_forwarded_headers", |v| values::memory(&v, &MAX_FORWARDED))
            .unwrap_or(absent.max_forwarded_header_bytes),
        max_buffered_bytes: section
            .take("max_buffered_bytes", |v| values::memory(&v, &MAX_BUFFERED))
            .unwrap_or(absent.max_buffered_bytes),
        header_timeout: section
            .take("header_timeout", |v| values::duration(&v, &HEADER_TIMEOUT))
            .unwrap_or(absent.header_timeout),
        body_timeout: section
            .take("body_timeout", |v| values::duration(&v, &BODY_TIMEOUT))
            .unwrap_or(absent.body_timeout),
        max_unverified_bytes: section.take("max_unverified_bytes", |v| values::memory(&v, &MAX_BUFFERED)),
        max_unverified_bytes_per_address: section
            .take("max_unverified_bytes_per_address", |v| values::memory(&v, &MAX_BUFFERED)),
        max_unverified_bytes_per_connection: section
            .take("max_unverified_bytes_per_connection", |v| values::memory(&v, &MAX_BUFFERED)),
        source_share: section
            .take("source_share", |v| values::number(&v, &values::SHARE))
            .unwrap_or(absent.source_share),
        body_grace: section.take("body_grace", |v| values::duration(&v, &BODY_GRACE)).unwrap_or(absent.body_grace),
        min_body_rate: section
            .take("min_body_rate", |v| values::memory(&v, &MIN_BODY_RATE))
            .unwrap_or(absent.min_body_rate),
        linger_timeout: section
            .take("linger_timeout", |v| values::duration(&v, &LINGER_TIMEOUT))
            .unwrap_or(absent.linger_timeout),
        success_status: section.take("success_status", statuses).unwrap_or(absent.success_status),
        disk_reserve_bytes: section
            .take("disk_reserve", |v| values::size(&v, &DISK_RESERVE))
            .unwrap_or(absent.disk_reserve_bytes),
        max_queue_bytes: section
            .take("max_queue_bytes", |v| values::size(&v, &MAX_QUEUE))
            .unwrap_or(absent.max_queue_bytes),
        queue_share: section.take("queue_share", |v| values::number(&v, &values::SHARE)).unwrap_or(absent.queue_share),
    };
    check_body_fits(&section, &intake);
    (intake, places)
}

/// The largest body must fit into everything that bounds bodies.
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
        if bytes < body && section.sound(&[key, "max_body"]) {
            let at = if section.has(key) { key } else { "max_body" };
            let message = format!(
                "`{key}` is less than `max_body` ({} and {})",
                values::shown_size(bytes),
                values::shown_size(body)
            );
            section.wrong_at(at, message, format!("write a larger `{key}` or a smaller `max_body`"));
        }
    }
}

fn tls(value: Value<'_>) -> Option<ServerTls> {
    let mut section = value.section()?;
    let cert = section.need("cert", r#"cert = "/etc/holdline/tls/cert.pem""#, |v| file(&v));
    let key = section.need("key", r#"key = "/etc/holdline/tls/key.pem""#, |v| file(&v));
    let client_ca = section.take("client_ca", |v| file(&v));
    // one that is there and wrong is a fault, and never taken for none
    section.sound(&["client_ca"]).then_some(())?;
    Some(ServerTls { cert: cert?, key: key?, client_ca })
}

fn file(value: &Value<'_>) -> Option<PathBuf> {
    match value.text("the path of a file in PEM, in quotes")? {
        "" => value.wrong("the path is empty", "write the path of a file in PEM"),
        path => Some(value.in_folder(path)),
    }
}

/// Two listeners on one port: noted at the later one that is written.
pub(super) fn note_overlaps(groups: &[(&str, &[SocketAddr], &Listeners<'_>)]) {
    let mut seen: Vec<(SocketAddr, Option<&Value<'_>>, String)> = Vec::new();
    for (key, addresses, places) in groups {
        for (i, &address) in addresses.iter().enumerate() {
            let place = places.get(i).map(|(value, _)| value);
            let shown = place.map_or_else(|| format!("{key} (by default)"), |v| v.path().to_owned());
            if let Some((other, other_place, other_shown)) = seen.iter().find(|(a, ..)| address::overlap(*a, address)) {
                let (at, taken, by) = match place {
                    Some(_) => (place, *other, other_shown),
                    None => (*other_place, address, &shown),
                };
                if let Some(value) = at {
                    value.wrong::<()>(format!("the port is taken by {by}, {taken}"), "write another port");
                }
            }
            seen.push((address, place, shown));
        }
    }
}
