//! The block `[[alert]]`: who is woken, for what, and how often at most.

use super::renamed::renamed_condition;
use super::section::{Section, Value};
use super::settings::{Alert, AlertTo, Condition};
use super::url;
use super::values::{self, Limits, span};
use std::time::Duration;
use toml::de::DeValue;

const DIGEST: Limits<Duration> = Limits { min: (span("1s"), ""), max: (span("1d"), "") };
const DIGEST_ABSENT: Duration = Duration::from_secs(60);
const COMMAND_EXAMPLE: &str = r#"["/usr/local/bin/page", "oncall"]"#;

/// Reads the blocks; there need be none.
pub(super) fn alerts(root: &mut Section<'_>) -> Vec<Alert> {
    if !root.has("alert") {
        return Vec::new();
    }
    root.blocks("alert", r#"url = "https://..." and on = ["dead_letter"]"#).into_iter().filter_map(alert).collect()
}

fn alert(mut section: Section<'_>) -> Option<Alert> {
    let both = section.has("url") && section.has("command");
    let url = section.take("url", url::url).map(AlertTo::Webhook);
    let command = section.take("command", command).map(AlertTo::Command);
    if both || (!section.has("url") && !section.has("command")) {
        let what = if both { "url and command are given at once" } else { "nobody is told" };
        section.wrong::<()>(what, r#"write url = "https://..." or command = [...]"#);
    }
    let on = section.need("on", r#"on = ["dead_letter", "oldest_age > 5m"]"#, conditions);
    let digest = section.take("digest", |v| values::duration(&v, &DIGEST)).unwrap_or(DIGEST_ABSENT);
    Some(Alert { to: url.or(command)?, on: on?, digest })
}

fn command(value: Value<'_>) -> Option<Vec<String>> {
    let items = value.items()?;
    if items.is_empty() {
        return value.wrong("the command is empty", format!("write {COMMAND_EXAMPLE}"));
    }
    items.iter().map(|item| item.text(COMMAND_EXAMPLE).map(str::to_owned)).collect()
}

fn conditions(value: Value<'_>) -> Option<Vec<Condition>> {
    let items = value.items()?;
    if items.is_empty() {
        return value.wrong("there is nothing to tell", r#"name a condition, such as "dead_letter""#);
    }
    let all: Vec<_> = items.iter().map(condition).collect();
    all.into_iter().collect()
}

fn condition(value: &Value<'_>) -> Option<Condition> {
    let found = match value.raw() {
        DeValue::String(text) => match renamed_condition(text) {
            Some(new) => {
                return value.wrong(format!("{} is now {new:?}", value.written()), format!("write {new:?}"));
            }
            None => parse(text),
        },
        _ => None,
    };
    found.or_else(|| {
        let known = "dead_letter, breaker_open, disk_low, intake_refused, damaged, dlq_over_limit, history_full, retry_after_cut, \
                     \"queue_depth > 10000\", \"oldest_age > 5m\", \"silence > 15m\", \"disk_full < 6h\", \"outage > 30s\", \"certificate < 14d\"";
        value.wrong(format!("{} is not a condition", value.written()), format!("write one of {known}"))
    })
}

fn parse(text: &str) -> Option<Condition> {
    let mut words = text.split_whitespace();
    let (name, sign, bound, more) = (words.next()?, words.next(), words.next(), words.next());
    let above = |wanted: &str| bound.filter(|_| sign == Some(wanted) && more.is_none());
    let time = |text: &str| humantime::parse_duration(text).ok().filter(|d| !d.is_zero());
    match name {
        "queue_depth" => above(">")?.parse().ok().map(Condition::QueueDepth),
        "oldest_age" => above(">").and_then(time).map(Condition::OldestAge),
        "outage" => above(">").and_then(time).map(Condition::Outage),
        "silence" => above(">").and_then(time).map(Condition::Silence),
        "disk_full" => above("<").and_then(time).map(Condition::DiskFull),
        "certificate" if sign.is_some() => above("<").and_then(time).map(Condition::Certificate),
        "certificate" => Some(Condition::CERTIFICATE),
        _ if sign.is_some() => None,
        name => Condition::PLAIN.into_iter().find(|c| c.to_string() == name),
    }
}
