//! `holdline events`: which events there are, and the whole story of one.

use crate::cli::admin_connection::{AdminConnection, Form};
use crate::cli::client::{Admin, encoded, with_query};
use crate::cli::filter::{self, Accepted, Filter, Pages};
use crate::cli::table::{Column, Table};
use crate::cli::{Failure, confirm, format, hint, item, output};
use crate::time::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Arguments of `holdline events`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    reach: AdminConnection,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List events, oldest first
    List(List),
    /// Show one event: its deliveries, their attempts, and what they wait for
    Show(Show),
    /// Try an event again now: what waits for its time need not, what is dead is redriven
    Retry(Change),
    /// Give an event up: what waits and what is dead is discarded for good
    Discard(Discard),
}

#[derive(Debug, clap::Args)]
struct Change {
    /// The event's id, or SOURCE:ID with the sender's own id; EVENT/DESTINATION is one of its deliveries
    #[arg(value_name = "ID")]
    id: String,
    /// Only its delivery to this destination
    #[arg(long, value_name = "NAME")]
    destination: Option<String>,
    /// Only say how many deliveries it would be
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, clap::Args)]
struct Discard {
    #[command(flatten)]
    change: Change,
    /// Why; it stands in the audit
    #[arg(long, value_name = "WHY", default_value = "")]
    reason: String,
    /// Do not ask first
    #[arg(long)]
    yes: bool,
}

impl Discard {
    async fn run(&self, admin: &Admin, form: Form) -> Result<(), Failure> {
        let (event, destination) = filter::one(&self.change.id, self.change.destination.as_deref())?;
        if self.change.dry_run || self.yes {
            let answer = admin.delete(&path(event, "", destination, self.change.dry_run, &self.reason)).await?;
            return self.change.told(&answer, "discarded", form);
        }
        let would = admin.delete(&path(event, "", destination, true, "")).await?;
        confirm::discard(&format!("{}{}", deliveries(item::number(&would, "matched")), filter::scope(&would)))?;
        // what was shown goes, and nothing that has come since
        let mut done = 0;
        for (destination, _) in item::find(&would, "destinations").and_then(Value::as_object).into_iter().flatten() {
            match admin.delete(&path(event, "", Some(destination), false, &self.reason)).await {
                Ok(answer) => done += item::number(&answer, "done"),
                Err(Failure::Operation(why)) => output::note(&format!("{destination}: {why}")),
                Err(failure) => return Err(failure),
            }
        }
        let mut answer = would;
        answer["done"] = json!(done);
        self.change.told(&answer, "discarded", form)
    }
}

fn deliveries(n: u64) -> String {
    if n == 1 { "1 delivery".to_owned() } else { format!("{} deliveries", format::count(n)) }
}

/// Where a change of an event's deliveries is asked for.
fn path(event: &str, tail: &str, destination: Option<&str>, dry_run: bool, reason: &str) -> String {
    let destination = destination.map(|name| ("destination", name));
    let dry = dry_run.then_some(("dry_run", "true"));
    let reason = (!reason.is_empty()).then_some(("reason", reason));
    let query = destination.into_iter().chain(dry).chain(reason);
    with_query(&format!("/v1/events/{}{tail}", encoded(event)), query)
}

impl Change {
    /// Says what was changed; one that was not made in full is a failure.
    fn told(&self, answer: &Value, did: &str, form: Form) -> Result<(), Failure> {
        let (matched, done) = (item::number(answer, "matched"), item::number(answer, "done"));
        let scope = filter::scope(answer);
        match form {
            Form::Json => output::json(answer)?,
            Form::Table if self.dry_run => output::text(&format!("{} would be {did}{scope}\n", deliveries(matched)))?,
            Form::Table => output::text(&format!("{} {did}{scope}\n", deliveries(done)))?,
        }
        if !self.dry_run && done < matched {
            let left = deliveries(matched - done);
            return Err(Failure::Operation(format!(
                "{left} moved on meanwhile; `{}` tells where it is",
                hint::command(&format!("explain {}", hint::quoted(filter::pair(&self.id).0)))
            )));
        }
        Ok(())
    }
}

#[derive(Debug, clap::Args)]
struct List {
    /// Only those with a delivery in this state
    #[arg(long, value_parser = ["queued", "delayed", "blocked", "in_flight", "delivered", "dead", "discarded"])]
    state: Option<String>,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    accepted: Accepted,
    #[command(flatten)]
    pages: Pages,
}

#[derive(Debug, clap::Args)]
struct Show {
    /// The event's id, or SOURCE:ID with the sender's own id
    #[arg(value_name = "ID")]
    id: String,
}

/// Runs one of the commands about events.
pub async fn run(args: Args) -> Result<(), Failure> {
    let admin = Admin::of(&args.reach)?;
    let form = args.reach.shared.form();
    match args.what {
        What::Retry(change) => {
            let (event, destination) = filter::one(&change.id, change.destination.as_deref())?;
            let answer = admin.post(&path(event, "/retry", destination, change.dry_run, ""), &Value::Null).await?;
            change.told(&answer, "tried again now", form)
        }
        What::Discard(discard) => discard.run(&admin, form).await,
        What::List(list) => self::list(&admin, &list, form).await,
        What::Show(show) => {
            let event = admin.get(&format!("/v1/events/{}", encoded(&show.id))).await?;
            match form {
                Form::Json => output::json(&event),
                Form::Table => output::wrapped(&story(&event, format::now())),
            }
        }
    }
}

async fn list(admin: &Admin, list: &List, form: Form) -> Result<(), Failure> {
    let state = list.state.as_deref().map(|state| ("state", state));
    let pairs: Vec<(&str, &str)> = state.into_iter().chain(list.filter.pairs()).chain(list.accepted.pairs()).collect();
    match form {
        Form::Json => filter::print_json(admin, "/v1/events", &pairs, &list.pages).await,
        Form::Table => {
            let now = format::now();
            filter::print_tables(admin, "/v1/events", &pairs, &list.pages, |items| rows(items, now).for_stdout()).await
        }
    }
}

fn rows(items: &[Value], now: Timestamp) -> Table {
    let mut table = Table::new([
        Column::fixed("ID"),
        Column::fixed("STATE"),
        Column::dispensable("RECEIVED", 1),
        Column::dispensable("TYPE", 2).shrinking_to(14),
        Column::dispensable("INTERACTION", 3).shrinking_to(14),
        Column::dispensable("SOURCE", 4),
        Column::dispensable("SIZE", 5).right(),
    ]);
    for event in items {
        table.row([
            item::text(event, "id"),
            state(event),
            item::some_text(event, "received_at").map_or_else(|| "-".to_owned(), |at| format::ago(at, now)),
            format::line(&item::text(event, "type"), 50),
            format::line(&item::text(event, "interaction"), 40),
            format::line(&item::text(event, "source"), 20),
            format::bytes(item::number(event, "size")),
        ]);
    }
    table
}

/// The state of an event's deliveries: one word where they agree, else how many are in which.
fn state(event: &Value) -> String {
    let mut states: BTreeMap<String, usize> = BTreeMap::new();
    for delivery in item::list(event, "deliveries") {
        *states.entry(item::text(delivery, "state")).or_default() += 1;
    }
    match states.len() {
        0 => item::text(event, "state"),
        1 => states.into_keys().collect(),
        _ => states.iter().map(|(state, n)| format!("{n} {state}")).collect::<Vec<_>>().join(", "),
    }
}

/// The head of an event or dead letter, one field a line.
pub(super) fn head(event: &Value, now: Timestamp) -> String {
    let mut text = String::new();
    for (name, field) in [
        ("event", "id"),
        ("sequence", "sequence"),
        ("source", "source"),
        ("type", "type"),
        ("interaction", "interaction"),
        ("sender's id", "sender_id"),
        ("event time", "event_time"),
        ("received", "received_at"),
    ] {
        let mut value = format::line(&item::text(event, field), 200);
        if let Some(at) = format::instant(&value) {
            write!(value, " ({})", format::ago(&at.to_string(), now)).expect("writing to a String cannot fail");
        }
        writeln!(text, "{name:<12} {value}").expect("writing to a String cannot fail");
    }
    let conflict =
        if item::is_set(event, "conflict") { ", differs from another event with the sender's id" } else { "" };
    writeln!(text, "{:<12} {}{conflict}", "body", format::bytes(item::number(event, "size")))
        .expect("writing to a String cannot fail");
    text
}

pub(super) fn story(event: &Value, now: Timestamp) -> String {
    let mut text = head(event, now);
    let all = item::list(event, "deliveries");
    for delivery in all {
        writeln!(text, "\nto {}: {}", item::text(delivery, "destination"), progress(delivery, now))
            .expect("writing to a String cannot fail");
        for (n, waiting) in blockers(delivery).enumerate() {
            let lead = if n == 0 { "blocked" } else { "and" };
            writeln!(text, "  {lead} {}", blocker(waiting, now)).expect("writing to a String cannot fail");
        }
        text.push_str(&what_to_do(event, delivery, all.len()));
        let attempts = item::list(delivery, "attempts");
        if !attempts.is_empty() {
            text.push_str(&self::attempts(attempts, now));
        }
    }
    text
}

/// Every blocker of a delivery, what lasts longest first.
pub(super) fn blockers(delivery: &Value) -> impl Iterator<Item = &Value> {
    let first = item::find(delivery, "blocked_by").filter(|w| w.is_object());
    first.into_iter().chain(item::list(delivery, "also_blocked_by"))
}

/// What an operator can do about a delivery that goes nowhere by itself.
fn what_to_do(event: &Value, delivery: &Value, deliveries: usize) -> String {
    let id = item::text(event, "id");
    let id = match deliveries {
        0 | 1 => id,
        _ => format!("{id}/{}", item::text(delivery, "destination")),
    };
    match item::text(delivery, "state").as_str() {
        "dead" => format!(
            "  to look at it, send it again, or give it up:\n    {}\n    {}\n    {}\n",
            hint::command(&format!("dlq show {id}")),
            hint::command(&format!("dlq redrive {id}")),
            hint::command(&format!("dlq purge {id}")),
        ),
        "discarded" => {
            format!("  who gave it up: {}, or the rules of its destination did\n", hint::command("audit"))
        }
        "delivered" if item::some_text(delivery, "settled_at").is_none() => {
            "  longer ago than its end is remembered\n".to_owned()
        }
        _ => String::new(),
    }
}

pub(super) fn progress(delivery: &Value, now: Timestamp) -> String {
    let mut text = item::text(delivery, "state");
    let attempts = match item::find(delivery, "attempts") {
        Some(Value::Array(list)) => list.len() as u64,
        _ => item::number(delivery, "attempts"),
    };
    if let Some(reason) = item::some_text(delivery, "reason") {
        text.push_str(&format!(" ({reason})"));
    }
    let outcome = item::some_text(delivery, "outcome").filter(|outcome| *outcome != "answered");
    match (outcome, item::find(delivery, "status").and_then(Value::as_u64)) {
        (Some(outcome), Some(status)) => text.push_str(&format!(", {outcome} {status}")),
        (Some(outcome), None) => text.push_str(&format!(", {outcome}")),
        (None, Some(status)) => text.push_str(&format!(", answered {status}")),
        (None, None) => {}
    }
    if let Some(error) = item::some_text(delivery, "error") {
        text.push_str(&format!(" ({})", format::line(error, 200)));
    }
    if let Some(since) = item::some_text(delivery, "since") {
        text.push_str(&format!(", begun {}", format::ago(since, now)));
    }
    if let Some(until) = item::some_text(delivery, "until") {
        text.push_str(&format!(", ends {until} at the latest ({})", format::ago(until, now)));
    }
    if let Some(at) = item::some_text(delivery, "settled_at") {
        text.push_str(&format!(", {at} ({})", format::ago(at, now)));
    }
    if attempts > 0 {
        text.push_str(&format!(", {}", format::counted(attempts, "attempt")));
    }
    if let Some(due) = item::some_text(delivery, "due") {
        text.push_str(&format!(", due {}", format::ago(due, now)));
    }
    text
}

/// What blocks a delivery, until when, behind what, and who set it, in one sentence.
pub(super) fn blocker(waiting: &Value, now: Timestamp) -> String {
    let mut text = format!("by {}", item::text(waiting, "blocker"));
    if let Some(until) = item::some_text(waiting, "until") {
        text.push_str(&format!(" until {until} ({})", format::ago(until, now)));
    }
    if let Some(behind) = item::find(waiting, "behind").filter(|b| !b.is_null()) {
        let behind = behind.as_str().map_or_else(|| behind.to_string(), str::to_owned);
        text.push_str(&format!(", behind {behind}"));
    }
    if let Some(by) = item::some_text(waiting, "set_by") {
        text.push_str(&format!(", set by {by}"));
    }
    if let Some(reason) = item::some_text(waiting, "reason") {
        text.push_str(&format!(" ({})", format::line(reason, 200)));
    }
    text
}

/// Every attempt, one a row, and below the table what was answered.
pub(super) fn attempts(attempts: &[Value], now: Timestamp) -> String {
    let mut table = Table::new([
        Column::fixed("  ATTEMPT").right(),
        Column::fixed("WHEN"),
        Column::fixed("OUTCOME"),
        Column::dispensable("LATENCY", 2).right(),
        Column::dispensable("ERROR", 1),
    ]);
    for attempt in attempts {
        let outcome = match item::find(attempt, "status").and_then(Value::as_u64) {
            Some(status) if item::text(attempt, "outcome") == "unsuccessful" => format!("unsuccessful {status}"),
            Some(status) if status > 0 => format!("status {status}"),
            _ => item::text(attempt, "outcome"),
        };
        table.row([
            item::text(attempt, "number"),
            item::some_text(attempt, "at").map_or_else(|| "-".to_owned(), |at| format::ago(at, now)),
            outcome,
            item::duration_ms(attempt, "latency_ms").map_or_else(|| "-".to_owned(), format::age),
            format::line(&item::text(attempt, "error"), 80),
        ]);
    }
    let mut text = table.for_stdout();
    for attempt in attempts {
        if let Some(answer) = item::some_text(attempt, "answer") {
            writeln!(text, "  answer {}: {}", item::text(attempt, "number"), format::line(answer, 1024))
                .expect("writing to a String cannot fail");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_detail_view_shows_blocker_attempts_and_outcome() {
        let now = format::instant("2026-03-19T22:04:48Z").unwrap();
        let event = json!({"id": "0190", "received_at": "2026-03-19T22:04:38Z", "size": 1100, "conflict": true,
            "deliveries": [
                {"destination": "crm", "state": "blocked", "attempts": [], "blocked_by":
                    {"blocker": "order", "until": null, "behind": "018f", "set_by": "interaction"}},
                {"destination": "wallboard", "state": "delayed", "due": "2026-03-19T22:04:50Z", "attempts": [
                    {"number": 1, "at": "2026-03-19T22:04:40Z", "latency_ms": 12, "outcome": "answered",
                     "status": 503, "error": "", "answer": "try\nlater"}]},
                {"destination": "bi", "state": "delivered", "attempts": 2, "status": 200,
                    "settled_at": "2026-03-19T22:04:47Z"}]});
        let text = story(&event, now);
        for part in [
            "received     2026-03-19T22:04:38.000Z (10s ago)",
            "differs from another event",
            "to crm: blocked\n  blocked by order, behind 018f, set by interaction",
            "to wallboard: delayed, 1 attempt, due in 2.0s",
            "status 503",
            "answer 1: try later",
            "to bi: delivered, answered 200, 2026-03-19T22:04:47Z (1.0s ago), 2 attempts",
        ] {
            assert!(text.replace("T22:04:38Z", "T22:04:38.000Z").contains(part), "{part}:\n{text}");
        }
    }

    #[test]
    fn a_dead_letter_shows_its_reason_and_an_attempt_its_deadline() {
        let now = format::instant("2026-03-19T22:04:48Z").unwrap();
        let dead = json!({"destination": "crm", "state": "dead", "reason": "exhausted", "outcome": "timeout",
            "error": "no answer within 10s", "settled_at": "2026-03-19T22:04:38Z", "attempts": 12});
        let flies = json!({"destination": "bi", "state": "in_flight", "since": "2026-03-19T22:04:46Z",
            "until": "2026-03-19T22:04:56Z", "attempts": 0});
        let paused = json!({"destination": "wall", "state": "delayed",
            "blocked_by": {"blocker": "pause", "until": "2026-03-19T22:34:48Z", "set_by": "ann"},
            "also_blocked_by": [{"blocker": "retry_backoff", "until": "2026-03-19T22:05:48Z", "set_by": "retry"}]});
        let text = story(&json!({"id": "0190", "deliveries": [dead, flies, paused]}), now);
        for part in [
            "to crm: dead (exhausted), timeout (no answer within 10s), 2026-03-19T22:04:38Z (10s ago), 12 attempts\n",
            "holdline dlq show 0190/crm\n",
            "holdline dlq redrive 0190/crm\n",
            "to bi: in_flight, begun 2.0s ago, ends 2026-03-19T22:04:56Z at the latest (in 8.0s)\n",
            "  blocked by pause until 2026-03-19T22:34:48Z (in 30m), set by ann\n  and by retry_backoff until",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        let alone = story(&json!({"id": "0190", "deliveries": [{"destination": "crm", "state": "dead"}]}), now);
        assert!(alone.contains("holdline dlq show 0190\n"), "{alone}");
    }

    #[test]
    fn the_state_of_an_event_is_that_of_its_deliveries() {
        let of = |states: &[&str]| {
            let deliveries: Vec<Value> = states.iter().map(|s| json!({"state": s})).collect();
            state(&json!({"deliveries": deliveries}))
        };
        assert_eq!(of(&["dead"]), "dead");
        assert_eq!(of(&["delivered", "delivered"]), "delivered");
        assert_eq!(of(&["delivered", "blocked", "delivered"]), "1 blocked, 2 delivered");
        assert_eq!(state(&json!({})), "-");
    }

    #[test]
    fn rows_fit_80_columns() {
        let event = json!({"id": "0195b1c2-7a3e-7000-8000-0123456789ab", "source": "genesys", "size": 1100,
            "type": "v2.detail.events.conversation.{id}.customer.start", "received_at": "2026-03-19T22:04:38Z",
            "interaction": "2f7bf00a-0fc2-4d6a-9b56-92238191433e", "deliveries": [{"state": "in_flight"}]});
        let text = rows(&[event], format::instant("2026-03-19T22:04:48Z").unwrap()).in_width(Some(80));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains("customer.start") && !text.contains("INTERACTION"), "{text}");
    }
}
