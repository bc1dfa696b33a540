//! The block `[[destination]]`: where events go, how often a delivery is tried, and in which order.

use super::address;
use super::names::Names;
use super::section::{Section, Value};
use super::settings::{Destination, DestinationAuth, OnDeadLetter, OrderMode, Ordering};
use super::unbuilt;
use super::values::{self, Limits, span};
use crate::rules::backoff::{Jitter, Retry};
use http::HeaderName;
use std::time::Duration;

const TIMEOUT: Limits<Duration> =
    Limits { min: (span("10ms"), ""), max: (span("10m"), "an attempt that does not end holds up its interaction") };
const CONCURRENCY: Limits<u64> = Limits { min: (1, ""), max: (4096, "each request in flight takes a connection") };
const BASE: Limits<Duration> = Limits { min: (span("1ms"), ""), max: (span("1h"), "") };
const FACTOR: Limits<f64> = Limits { min: (1.0, "waits do not shrink from attempt to attempt"), max: (10.0, "") };
const MAX: Limits<Duration> = Limits { min: (span("1ms"), ""), max: (span("24h"), "") };
const ATTEMPTS: Limits<u64> =
    Limits { min: (1, "the first one counts"), max: (1000, "every attempt is kept with its event") };
const MAX_AGE: Limits<Duration> = Limits { min: (span("1s"), ""), max: (span("90d"), "") };
const RETRY_AFTER_MAX: Limits<Duration> =
    Limits { min: (span("1s"), ""), max: (span("7d"), "one answer can hold back the destination for so long") };

/// Reads one destination.
pub(super) fn destination<'r>(mut section: Section<'r>, names: &mut Names<'r>) -> Destination {
    let name = section.need("name", r#"name = "crm""#, |v| names.declare(&v));
    let absent = Destination::named(name.unwrap_or_default());
    Destination {
        name: absent.name,
        url: section.take("url", |v| address::url(&v)),
        timeout: section.take("timeout", |v| values::duration(&v, &TIMEOUT)).unwrap_or(absent.timeout),
        concurrency_max: section.part("concurrency", absent.concurrency_max, |mut concurrency| {
            let max = concurrency.take("max", |v| values::whole(&v, &CONCURRENCY));
            max.map_or(absent.concurrency_max, |n| usize::try_from(n).unwrap_or(usize::MAX))
        }),
        retry: section.part("retry", absent.retry, retry),
        ordering: section.part("ordering", absent.ordering, ordering),
        auth: section.take("auth", auth),
    }
}

fn retry(mut section: Section<'_>) -> Retry {
    let absent = Retry::default();
    let jitters = [("full", Jitter::Full), ("none", Jitter::None)];
    let base = section.take("base", |v| values::duration(&v, &BASE)).unwrap_or(absent.base);
    let factor = section.take("factor", |v| values::number(&v, &FACTOR)).unwrap_or(absent.factor);
    let max = section.take("max", |v| values::duration(&v, &MAX)).unwrap_or(absent.max);
    if base > max && section.sound(&["base", "max"]) {
        let at = if section.has("base") { "base" } else { "max" };
        let message = format!(
            "`base` is longer than `max` ({} and {})",
            values::shown_duration(base),
            values::shown_duration(max)
        );
        section.wrong_at(at, message, "write a shorter `base` or a longer `max`");
    }
    let attempts = section.take("attempts", |v| values::whole(&v, &ATTEMPTS));
    Retry {
        base,
        factor,
        max,
        jitter: section.take("jitter", |v| values::choice(&v, &jitters)).unwrap_or(absent.jitter),
        attempts: attempts.map_or(absent.attempts, |n| u32::try_from(n).unwrap_or(u32::MAX)),
        max_age: section.take("max_age", |v| values::duration(&v, &MAX_AGE)).unwrap_or(absent.max_age),
        retry_after_max: section
            .take("retry_after_max", |v| values::duration(&v, &RETRY_AFTER_MAX))
            .unwrap_or(absent.retry_after_max),
        statuses: section.take("statuses", |v| values::statuses(&v)).unwrap_or(absent.statuses),
    }
}

fn ordering(mut section: Section<'_>) -> Ordering {
    let absent = Ordering::default();
    let modes = [("interaction", OrderMode::Interaction), ("none", OrderMode::None)];
    let ends = [("continue", OnDeadLetter::Continue), ("hold", OnDeadLetter::Hold)];
    Ordering {
        mode: section.take("mode", |v| values::choice(&v, &modes)).unwrap_or(absent.mode),
        on_dead_letter: section.take("on_dead_letter", |v| values::choice(&v, &ends)).unwrap_or(absent.on_dead_letter),
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Bearer,
    Basic,
    Header,
}

fn auth(value: Value<'_>) -> Option<DestinationAuth> {
    let mut section = value.section()?;
    let Some(kind) = section.need("kind", r#"kind = "bearer", "basic" or "header""#, kind) else {
        return section.abandon();
    };
    match kind {
        Kind::Bearer => Some(DestinationAuth::Bearer {
            token: section.need("token", r#"token = { file = "..." }"#, super::secret::secret)?,
        }),
        Kind::Basic => {
            let user = section.need("user", r#"user = "...""#, user);
            let password = section.need("password", r#"password = { file = "..." }"#, super::secret::secret);
            Some(DestinationAuth::Basic { user: user?, password: password? })
        }
        Kind::Header => {
            let name = section.need("name", r#"name = "X-Api-Key""#, header_name);
            let value = section.need("value", r#"value = { file = "..." }"#, super::secret::secret);
            Some(DestinationAuth::Header { name: name?, value: value? })
        }
    }
}

fn kind(value: Value<'_>) -> Option<Kind> {
    if let Some(later) = value.raw().as_str().filter(|k| matches!(*k, "oauth2" | "mtls")) {
        return value.check(Err(unbuilt::refusal(later, r#"write "bearer", "basic" or "header""#)));
    }
    values::choice(&value, &[("bearer", Kind::Bearer), ("basic", Kind::Basic), ("header", Kind::Header)])
}

/// RFC 7617: a user has neither a colon nor control characters.
pub(super) fn user(value: Value<'_>) -> Option<String> {
    let text = value.text("a user name, in quotes")?;
    if text.contains(|c: char| c == ':' || c.is_control()) {
        return value.wrong("a user has no colon and no control characters", "write the name alone");
    }
    Some(text.into())
}

fn header_name(value: Value<'_>) -> Option<HeaderName> {
    const OWN: [&str; 9] = [
        "connection",
        "content-length",
        "content-type",
        "expect",
        "host",
        "idempotency-key",
        "te",
        "traceparent",
        "transfer-encoding",
    ];
    let example = r#"a header such as "X-Api-Key""#;
    let text = value.text(example)?;
    let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
        return value.wrong(format!("{} is not the name of a header", value.written()), format!("write {example}"));
    };
    if OWN.contains(&name.as_str()) || name.as_str().starts_with("holdline-") {
        let message = format!("{} is set by holdline or by HTTP itself", value.written());
        return value.wrong(message, format!("write {example}"));
    }
    Some(name)
}
