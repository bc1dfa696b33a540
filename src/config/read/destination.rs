//! The block `[[destination]]`: where events go, how often a delivery is tried, and in which order.

use super::references::{Names, check_pattern, check_pointer, secret, url, user};
use crate::config::settings::{
    ClientAuth, Destination, DestinationAuth, DestinationTls, Identity, OAuth2, OnDeadLetter, OrderMode, Ordering,
    Secret, Url,
};
use crate::config::syntax::values::{self, Range, span};
use crate::config::syntax::{Section, Value};
use crate::rules::address_policy::AddressPolicy;
use crate::rules::backoff::{Jitter, OnAmbiguous, Retry};
use crate::rules::breaker;
use crate::rules::concurrency::Adaptive;
use crate::rules::lateness::OnStale;
use crate::rules::lateness::Ttl;
use crate::rules::verdict::Success;
use http::HeaderName;
use std::path::PathBuf;
use std::time::Duration;
use toml::de::DeValue;

const TIMEOUT: Range<Duration> =
    Range { min: (span("10ms"), ""), max: (span("10m"), "an attempt that does not end holds up its interaction") };
const CONNECTION_LIFETIME: Range<Duration> = Range {
    min: (span("0s"), ""),
    max: (span("24h"), "a busy connection stays with its address for so long, wherever the name leads meanwhile"),
};
const BASE: Range<Duration> = Range { min: (span("1ms"), ""), max: (span("1h"), "") };
const FACTOR: Range<f64> = Range { min: (1.0, "waits do not shrink from attempt to attempt"), max: (10.0, "") };
const BACKOFF_MAX: Range<Duration> = Range { min: (span("1ms"), ""), max: (span("24h"), "") };
const ATTEMPTS: Range<u64> =
    Range { min: (1, "the first one counts"), max: (1000, r#"write "unlimited" for no limit but `max_age`"#) };
const MAX_AGE: Range<Duration> = Range { min: (span("1s"), ""), max: (span("90d"), "") };
const PERMANENT_AFTER: Range<Duration> =
    Range { min: (span("0s"), ""), max: (span("7d"), "so long it holds up its interaction") };
const RETRY_AFTER_MAX: Range<Duration> =
    Range { min: (span("1s"), ""), max: (span("7d"), "one answer can hold back the destination for so long") };

/// Reads one destination.
pub(super) fn destination<'r>(mut section: Section<'r>, names: &mut Names<'r>) -> Destination {
    let name = section.require("name", r#"name = "crm""#, |v| names.declare(&v));
    let defaults = Destination::named(name.unwrap_or_default());
    let default_concurrency =
        Concurrency { max: defaults.concurrency_max, adaptive: defaults.adaptive, ramp_up: defaults.ramp_up };
    let Concurrency { max, adaptive, ramp_up } =
        section.subsection("concurrency", default_concurrency, |section| concurrency(section, default_concurrency));
    let destination = Destination {
        name: defaults.name,
        url: section.take("url", url),
        timeout: section.take("timeout", |v| values::duration(&v, &TIMEOUT)).unwrap_or(defaults.timeout),
        connection_lifetime: section
            .take("connection_lifetime", |v| values::duration(&v, &CONNECTION_LIFETIME))
            .unwrap_or(defaults.connection_lifetime),
        concurrency_max: max,
        adaptive,
        ramp_up,
        rate: section.take("rate", |v| values::rate(&v)),
        breaker: section.subsection("breaker", defaults.breaker, breaker),
        retry: section.subsection("retry", defaults.retry, retry),
        ordering: section.subsection("ordering", defaults.ordering, ordering),
        ttl: section.take("ttl", ttl).unwrap_or_default(),
        auth: section.take("auth", auth),
        tls: section.subsection("tls", defaults.tls, tls),
        sign: section.take("sign", sign).unwrap_or_default(),
        success: section.take("success", success),
        address_policy: match section.take("allow_link_local", |v| v.boolean()) {
            Some(true) => AddressPolicy::Anywhere,
            _ => AddressPolicy::Guarded,
        },
    };
    check_consistency(&section, &destination);
    destination
}

fn retry(mut section: Section<'_>) -> Retry {
    let defaults = Retry::default();
    let ambiguous = [("retry", OnAmbiguous::Retry), ("dead-letter", OnAmbiguous::DeadLetter)];
    let jitters = [("full", Jitter::Full), ("none", Jitter::None)];
    let base = section.take("base", |v| values::duration(&v, &BASE)).unwrap_or(defaults.base);
    let factor = section.take("factor", |v| values::number(&v, &FACTOR)).unwrap_or(defaults.factor);
    let max = section.take("max", |v| values::duration(&v, &BACKOFF_MAX)).unwrap_or(defaults.max);
    if base > max && section.is_valid(&["base", "max"]) {
        let at = if section.has("base") { "base" } else { "max" };
        let message = format!(
            "`base` is longer than `max` ({} and {})",
            values::shown_duration(base),
            values::shown_duration(max)
        );
        section.fault_at(at, message, "write a shorter `base` or a longer `max`");
    }
    let attempts = section.take("attempts", |v| values::whole_or(&v, "unlimited", &ATTEMPTS));
    let statuses = section.take("statuses", |v| values::statuses(&v));
    let permanent = section.take("permanent", |v| values::statuses(&v));
    if let (Some(statuses), Some(permanent)) = (&statuses, &permanent)
        && let Some(both) = statuses.intersection(permanent).next()
    {
        let message = format!("{both} stands in `statuses` too, and so is tried again");
        section.fault_at("permanent", message, "leave it in one of them");
    }
    Retry {
        base,
        factor,
        max,
        jitter: section.take("jitter", |v| values::choice(&v, &jitters)).unwrap_or(defaults.jitter),
        attempts: attempts.map_or(defaults.attempts, |n| n.map(|n| u32::try_from(n).unwrap_or(u32::MAX))),
        max_age: section.take("max_age", |v| values::duration(&v, &MAX_AGE)).unwrap_or(defaults.max_age),
        retry_after_max: section
            .take("retry_after_max", |v| values::duration(&v, &RETRY_AFTER_MAX))
            .unwrap_or(defaults.retry_after_max),
        statuses: statuses.unwrap_or(defaults.statuses),
        permanent: permanent.unwrap_or(defaults.permanent),
        permanent_after: section
            .take("permanent_after", |v| values::duration(&v, &PERMANENT_AFTER))
            .unwrap_or(defaults.permanent_after),
        on_ambiguous: section.take("on_ambiguous", |v| values::choice(&v, &ambiguous)).unwrap_or(defaults.on_ambiguous),
    }
}

const IN_FLIGHT: Range<u64> = Range { min: (1, ""), max: (4096, "each request in flight takes a connection") };
const RAMP_UP: Range<Duration> = Range { min: (span("0s"), ""), max: (span("1h"), "") };
const RATIO: Range<f64> = Range { min: (0.1, "less opens over a single call"), max: (1.0, "1.0 is all of the calls") };
const WINDOW: Range<Duration> = Range { min: (span("1s"), ""), max: (span("1h"), "what is older says little") };
const CALLS: Range<u64> = Range { min: (1, ""), max: (1_000_000, "") };
const RUN: Range<u64> =
    Range { min: (3, "they must concern three interactions"), max: (1_000_000, "so many never come in a row") };
const SLOW: Range<Duration> = Range { min: (span("1ms"), ""), max: (span("10m"), "no attempt takes longer") };
const OPEN_DURATION: Range<Duration> = Range { min: (span("100ms"), ""), max: (span("1h"), "") };
const PROBES: Range<u64> = Range { min: (1, ""), max: (1000, "") };

/// Requests in flight at once.
#[derive(Clone, Copy)]
struct Concurrency {
    pub max: usize,
    pub adaptive: Adaptive,
    pub ramp_up: Duration,
}

fn concurrency(mut section: Section<'_>, defaults: Concurrency) -> Concurrency {
    let max = section.take("max", |v| values::whole(&v, &IN_FLIGHT));
    let adaptive = section.take("adaptive", |v| v.boolean());
    Concurrency {
        max: max.map_or(defaults.max, |n| usize::try_from(n).unwrap_or(usize::MAX)),
        adaptive: adaptive.map_or(defaults.adaptive, |yes| if yes { Adaptive::Yes } else { Adaptive::No }),
        ramp_up: section.take("ramp_up", |v| values::duration(&v, &RAMP_UP)).unwrap_or(defaults.ramp_up),
    }
}

fn breaker(mut section: Section<'_>) -> breaker::Limits {
    let defaults = breaker::Limits::default();
    let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    breaker::Limits {
        failure_ratio: section.take("failure_ratio", |v| values::number(&v, &RATIO)).unwrap_or(defaults.failure_ratio),
        window: section.take("window", |v| values::duration(&v, &WINDOW)).unwrap_or(defaults.window),
        min_calls: section.take("min_calls", |v| values::whole(&v, &CALLS)).map_or(defaults.min_calls, small),
        consecutive_failures: section
            .take("consecutive_failures", |v| values::whole(&v, &CALLS))
            .map_or(defaults.consecutive_failures, small),
        permanent_answers: section
            .take("permanent_answers", |v| values::whole(&v, &RUN))
            .map_or(defaults.permanent_answers, small),
        slow_call: section.take("slow_call", |v| values::duration(&v, &SLOW)).unwrap_or(defaults.slow_call),
        slow_ratio: section.take("slow_ratio", |v| values::number(&v, &RATIO)).unwrap_or(defaults.slow_ratio),
        open_duration: section
            .take("open_duration", |v| values::duration(&v, &OPEN_DURATION))
            .unwrap_or(defaults.open_duration),
        probes: section.take("probes", |v| values::whole(&v, &PROBES)).map_or(defaults.probes, small),
    }
}

const REORDER_WINDOW: Range<Duration> =
    Range { min: (span("0s"), ""), max: (span("5m"), "every event can wait for so long") };
const TTL: Range<Duration> =
    Range { min: (span("1s"), ""), max: (span("90d"), "no delivery is tried for longer, see `retry.max_age`") };

fn ordering(mut section: Section<'_>) -> Ordering {
    let defaults = Ordering::default();
    let modes = [("interaction", OrderMode::Interaction), ("none", OrderMode::None)];
    let ends = [("continue", OnDeadLetter::Continue), ("hold", OnDeadLetter::Hold)];
    let stale = [
        ("deliver", OnStale::Deliver),
        ("flag", OnStale::Flag),
        ("discard", OnStale::Discard),
        ("dead-letter", OnStale::DeadLetter),
    ];
    Ordering {
        mode: section.take("mode", |v| values::choice(&v, &modes)).unwrap_or(defaults.mode),
        on_dead_letter: section
            .take("on_dead_letter", |v| values::choice(&v, &ends))
            .unwrap_or(defaults.on_dead_letter),
        on_stale: section.take("on_stale", |v| values::choice(&v, &stale)).unwrap_or(defaults.on_stale),
        reorder_window: section
            .take("reorder_window", |v| values::duration(&v, &REORDER_WINDOW))
            .unwrap_or(defaults.reorder_window),
    }
}

/// How long events stay deliverable, by patterns of their types.
fn ttl(value: Value<'_>) -> Option<Ttl> {
    let example = r#"{ "screen_pop.*" = "2m" }"#;
    let entries = value.entries(example)?;
    if entries.is_empty() {
        return value.fault("the table is empty", format!("write ttl = {example}, or remove it for no limit"));
    }
    let limit = |(pattern, value): (&str, Value<'_>)| {
        value.check(check_pattern(pattern))?;
        Some((pattern.to_owned(), values::duration(&value, &TTL)?))
    };
    Some(Ttl::new(entries.into_iter().filter_map(limit).collect()))
}

#[derive(Clone, Copy)]
enum Kind {
    Bearer,
    Basic,
    Header,
    OAuth2,
    Mtls,
}

const KINDS: [(&str, Kind); 5] = [
    ("bearer", Kind::Bearer),
    ("basic", Kind::Basic),
    ("header", Kind::Header),
    ("oauth2", Kind::OAuth2),
    ("mtls", Kind::Mtls),
];

fn auth(value: Value<'_>) -> Option<DestinationAuth> {
    let mut section = value.section()?;
    let kind = |v: Value<'_>| values::choice(&v, &KINDS);
    let Some(kind) = section.require("kind", r#"kind = "bearer", "basic", "header", "oauth2" or "mtls""#, kind) else {
        return section.skip_unknown_keys();
    };
    match kind {
        Kind::Bearer => {
            let token = section.require("token", r#"token = { file = "..." }"#, secret)?;
            Some(DestinationAuth::Bearer { token })
        }
        Kind::Basic => {
            let user = section.require("user", r#"user = "...""#, user);
            let password = section.require("password", r#"password = { file = "..." }"#, secret);
            Some(DestinationAuth::Basic { user: user?, password: password? })
        }
        Kind::Header => {
            let name = section.require("name", r#"name = "X-Api-Key""#, header_name);
            let value = section.require("value", r#"value = { file = "..." }"#, secret);
            Some(DestinationAuth::Header { name: name?, value: value? })
        }
        Kind::OAuth2 => oauth2(section),
        Kind::Mtls => Some(DestinationAuth::Mtls),
    }
}

fn oauth2(mut section: Section<'_>) -> Option<DestinationAuth> {
    let token_url = section.require("token_url", r#"token_url = "https://...""#, url);
    let client_id = section.require("client_id", r#"client_id = "...""#, |v| words(&v));
    let client_secret = section.require("client_secret", r#"client_secret = { file = "..." }"#, secret);
    let scope = section.take("scope", |v| words(&v));
    let audience = section.take("audience", |v| words(&v));
    let ways = [("basic", ClientAuth::Basic), ("body", ClientAuth::Body)];
    let client_auth = section.take("client_auth", |v| values::choice(&v, &ways)).unwrap_or(ClientAuth::Basic);
    let (token_url, client_id, client_secret) = (token_url?, client_id?, client_secret?);
    Some(DestinationAuth::OAuth2(OAuth2 { token_url, client_id, client_secret, scope, audience, client_auth }))
}

fn words(value: &Value<'_>) -> Option<String> {
    match value.text("a text, in quotes")? {
        "" => value.fault("the text is empty", "write it, or remove the key"),
        text if text.contains(char::is_control) => value.fault("the text has control characters", "remove them"),
        text => Some(text.into()),
    }
}

fn header_name(value: Value<'_>) -> Option<HeaderName> {
    const OWN: [&str; 11] = [
        "baggage",
        "connection",
        "content-length",
        "content-type",
        "expect",
        "host",
        "idempotency-key",
        "te",
        "traceparent",
        "tracestate",
        "transfer-encoding",
    ];
    let example = r#"a header such as "X-Api-Key""#;
    let text = value.text(example)?;
    let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
        return value.fault(format!("{} is not the name of a header", value.written()), format!("write {example}"));
    };
    let prefixes = ["ce-", "holdline-", "webhook-"];
    let own = |name: &str| OWN.contains(&name) || prefixes.iter().any(|prefix| name.starts_with(prefix));
    if own(name.as_str()) {
        let message = format!("{} is set by holdline or by HTTP itself", value.written());
        return value.fault(message, format!("write {example}"));
    }
    Some(name)
}

fn tls(mut section: Section<'_>) -> DestinationTls {
    let ca = section.take("ca", |v| file(&v));
    let cert = section.take("cert", |v| file(&v));
    let key = section.take("key", |v| file(&v));
    for (one, other) in [("cert", "key"), ("key", "cert")] {
        if section.has(one) && !section.has(other) {
            section.fault_at(
                one,
                format!("`{one}` is of no use without `{other}`"),
                format!("write both or remove `{one}`"),
            );
        }
    }
    DestinationTls { ca, identity: cert.zip(key).map(|(cert, key)| Identity { cert, key }) }
}

fn file(value: &Value<'_>) -> Option<PathBuf> {
    match value.text("the path of a PEM file, in quotes")? {
        "" => value.fault("the path is empty", "write the path of a PEM file"),
        path => Some(value.in_folder(path)),
    }
}

/// One secret or several, each of which signs.
fn sign(value: Value<'_>) -> Option<Vec<Secret>> {
    let mut section = value.section()?;
    section.require("secret", r#"secret = { file = "..." }"#, |v| {
        let items = v.one_or_items();
        if items.is_empty() {
            return v.fault("the list is empty", r#"write { file = "..." }"#);
        }
        items.into_iter().map(secret).collect()
    })
}

fn success(value: Value<'_>) -> Option<Success> {
    let mut section = value.section()?;
    let json_pointer = section.require("json_pointer", r#"json_pointer = "/status""#, |v| {
        let text = v.text(r#"a JSON pointer such as "/status""#)?;
        v.check(check_pointer(text)).map(|()| text.to_owned())
    });
    let equals = section.require("equals", r#"equals = "ok""#, |v| {
        let known = match v.raw() {
            DeValue::String(text) => Some(text.as_ref().into()),
            DeValue::Boolean(truth) => Some((*truth).into()),
            DeValue::Integer(n) => i64::from_str_radix(n.as_str(), n.radix()).ok().map(Into::into),
            _ => None,
        };
        known.or_else(|| {
            v.fault("only a text, a whole number of 64 bits, true or false can be compared", r#"write "ok""#)
        })
    });
    Some(Success { json_pointer: json_pointer?, equals: equals? })
}

/// Checks that need several keys.
fn check_consistency(section: &Section<'_>, destination: &Destination) {
    let https = match &destination.url {
        Some(Url::Literal(uri)) => uri.scheme_str() == Some("https"),
        // a URL from a secret is checked when it is read
        Some(Url::FromSecret(_)) | None => true,
    };
    let certain = section.is_valid(&["url", "tls", "auth"]);
    if matches!(destination.auth, Some(DestinationAuth::Mtls)) && certain {
        if destination.tls.identity.is_none() {
            let remedy = r#"write tls = { cert = "...", key = "..." }"#;
            section.fault_at("auth", "the kind `mtls` proves itself with a certificate, and none is given", remedy);
        } else if !https {
            section.fault_at("url", "the kind `mtls` needs TLS", r#"write a URL that begins with "https://""#);
        }
    }
}
