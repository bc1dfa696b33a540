//! The block `[[destination]]`: where events go, how often a delivery is tried, and in which order.

use super::destination_auth;
use super::names::Names;
use super::ordering;
use super::pace;
use super::section::Section;
use super::settings::Destination;
use super::url;
use super::values::{self, Limits, span};
use crate::rules::address_policy::AddressPolicy;
use crate::rules::backoff::{Jitter, OnAmbiguous, Retry};
use std::time::Duration;

const TIMEOUT: Limits<Duration> =
    Limits { min: (span("10ms"), ""), max: (span("10m"), "an attempt that does not end holds up its interaction") };
const CONNECTION_LIFETIME: Limits<Duration> = Limits {
    min: (span("0s"), ""),
    max: (span("24h"), "a busy connection stays with its address for so long, wherever the name leads meanwhile"),
};
const BASE: Limits<Duration> = Limits { min: (span("1ms"), ""), max: (span("1h"), "") };
const FACTOR: Limits<f64> = Limits { min: (1.0, "waits do not shrink from attempt to attempt"), max: (10.0, "") };
const MAX: Limits<Duration> = Limits { min: (span("1ms"), ""), max: (span("24h"), "") };
const ATTEMPTS: Limits<u64> =
    Limits { min: (1, "the first one counts"), max: (1000, r#"write "unlimited" for no limit but `max_age`"#) };
const MAX_AGE: Limits<Duration> = Limits { min: (span("1s"), ""), max: (span("90d"), "") };
const PERMANENT_AFTER: Limits<Duration> =
    Limits { min: (span("0s"), ""), max: (span("7d"), "so long it holds up its interaction") };
const RETRY_AFTER_MAX: Limits<Duration> =
    Limits { min: (span("1s"), ""), max: (span("7d"), "one answer can hold back the destination for so long") };

/// Reads one destination.
pub(super) fn destination<'r>(mut section: Section<'r>, names: &mut Names<'r>) -> Destination {
    let name = section.need("name", r#"name = "crm""#, |v| names.declare(&v));
    let absent = Destination::named(name.unwrap_or_default());
    let concurrency =
        pace::Concurrency { max: absent.concurrency_max, adaptive: absent.adaptive, ramp_up: absent.ramp_up };
    let pace::Concurrency { max, adaptive, ramp_up } =
        section.part("concurrency", concurrency, |section| pace::concurrency(section, concurrency));
    let destination = Destination {
        name: absent.name,
        url: section.take("url", url::url),
        timeout: section.take("timeout", |v| values::duration(&v, &TIMEOUT)).unwrap_or(absent.timeout),
        connection_lifetime: section
            .take("connection_lifetime", |v| values::duration(&v, &CONNECTION_LIFETIME))
            .unwrap_or(absent.connection_lifetime),
        concurrency_max: max,
        adaptive,
        ramp_up,
        rate: section.take("rate", |v| values::rate(&v)),
        breaker: section.part("breaker", absent.breaker, pace::breaker),
        retry: section.part("retry", absent.retry, retry),
        ordering: section.part("ordering", absent.ordering, ordering::ordering),
        ttl: section.take("ttl", ordering::ttl).unwrap_or_default(),
        auth: section.take("auth", destination_auth::auth),
        tls: section.part("tls", absent.tls, destination_auth::tls),
        sign: section.take("sign", destination_auth::sign).unwrap_or_default(),
        success: section.take("success", destination_auth::success),
        reach: match section.take("allow_link_local", |v| v.boolean()) {
            Some(true) => AddressPolicy::Anywhere,
            _ => AddressPolicy::Guarded,
        },
    };
    destination_auth::agree(&section, &destination);
    destination
}

fn retry(mut section: Section<'_>) -> Retry {
    let absent = Retry::default();
    let ambiguous = [("retry", OnAmbiguous::Retry), ("dead-letter", OnAmbiguous::DeadLetter)];
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
    let attempts = section.take("attempts", |v| values::whole_or(&v, "unlimited", &ATTEMPTS));
    let statuses = section.take("statuses", |v| values::statuses(&v));
    let permanent = section.take("permanent", |v| values::statuses(&v));
    if let (Some(statuses), Some(permanent)) = (&statuses, &permanent)
        && let Some(both) = statuses.intersection(permanent).next()
    {
        let message = format!("{both} stands in `statuses` too, and so is tried again");
        section.wrong_at("permanent", message, "leave it in one of them");
    }
    Retry {
        base,
        factor,
        max,
        jitter: section.take("jitter", |v| values::choice(&v, &jitters)).unwrap_or(absent.jitter),
        attempts: attempts.map_or(absent.attempts, |n| n.map(|n| u32::try_from(n).unwrap_or(u32::MAX))),
        max_age: section.take("max_age", |v| values::duration(&v, &MAX_AGE)).unwrap_or(absent.max_age),
        retry_after_max: section
            .take("retry_after_max", |v| values::duration(&v, &RETRY_AFTER_MAX))
            .unwrap_or(absent.retry_after_max),
        statuses: statuses.unwrap_or(absent.statuses),
        permanent: permanent.unwrap_or(absent.permanent),
        permanent_after: section
            .take("permanent_after", |v| values::duration(&v, &PERMANENT_AFTER))
            .unwrap_or(absent.permanent_after),
        on_ambiguous: section.take("on_ambiguous", |v| values::choice(&v, &ambiguous)).unwrap_or(absent.on_ambiguous),
    }
}
