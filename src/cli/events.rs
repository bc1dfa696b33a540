//! `holdline events`: lists events, and shows one with all its deliveries and attempts.

use crate::api::{self, Attempts, BlockedBy, Changed, DeliveryState, Time};
use crate::cli::admin_connection::{AdminConnection, Form};
use crate::cli::client::{Admin, encoded, with_query};
use crate::cli::filter::{self, Accepted, Filter, Pages};
use crate::cli::table::{Column, Table};
use crate::cli::{Failure, format, hint, output, terminal};
use crate::event::{EventId, Sequence};
use crate::time::Timestamp;
use clap::builder::PossibleValuesParser;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// Arguments of `holdline events`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connection: AdminConnection,
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
            let changed = admin.delete(&path(event, "", destination, self.change.dry_run, &self.reason)).await?;
            return self.change.report(&changed, "discarded", form);
        }
        let would: Changed = admin.delete(&path(event, "", destination, true, "")).await?;
        terminal::confirm_discard(&format!("{}{}", format::deliveries(would.matched), filter::scope(&would)))?;
        // only for the destinations that were shown, not for later ones
        let mut done = 0;
        for destination in would.destinations.keys() {
            match admin.delete::<Changed>(&path(event, "", Some(destination), false, &self.reason)).await {
                Ok(changed) => done += changed.done,
                Err(Failure::Operation(why)) => output::note(&format!("{destination}: {why}")),
                Err(failure) => return Err(failure),
            }
        }
        self.change.report(&Changed { done, ..would }, "discarded", form)
    }
}

/// The path and query of a change of an event's deliveries.
fn path(event: &str, tail: &str, destination: Option<&str>, dry_run: bool, reason: &str) -> String {
    let destination = destination.map(|name| ("destination", name));
    let dry = dry_run.then_some(("dry_run", "true"));
    let reason = (!reason.is_empty()).then_some(("reason", reason));
    let query = destination.into_iter().chain(dry).chain(reason);
    with_query(&format!("/v1/events/{}{tail}", encoded(event)), query)
}

impl Change {
    /// Prints the result of a change; fails if it is incomplete.
    fn report(&self, changed: &Changed, did: &str, form: Form) -> Result<(), Failure> {
        let (matched, done, scope) = (changed.matched, changed.done, filter::scope(changed));
        let deliveries = format::deliveries;
        match form {
            Form::Json => output::json(changed)?,
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
    #[arg(long, value_parser = PossibleValuesParser::new(DeliveryState::ALL.map(DeliveryState::word)))]
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

/// Runs an `events` command.
pub async fn run(args: Args) -> Result<(), Failure> {
    let admin = Admin::of(&args.connection)?;
    let form = args.connection.shared.form();
    match args.what {
        What::Retry(change) => {
            let (event, destination) = filter::one(&change.id, change.destination.as_deref())?;
            let changed = admin.post(&path(event, "/retry", destination, change.dry_run, ""), &json!({})).await?;
            change.report(&changed, "tried again now", form)
        }
        What::Discard(discard) => discard.run(&admin, form).await,
        What::List(list) => self::list(&admin, &list, form).await,
        What::Show(show) => {
            let path = format!("/v1/events/{}", encoded(&show.id));
            match form {
                Form::Json => output::json(&admin.get::<Value>(&path).await?),
                Form::Table => output::wrapped(&detail(&admin.get(&path).await?, format::now())),
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

fn rows(items: &[api::Event], now: Timestamp) -> Table {
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
            event.id.to_string(),
            state(&event.deliveries),
            format::ago(event.received_at, now),
            format::line(&event.event_type, 50),
            format::line(format::or_dash(event.interaction.as_deref()), 40),
            format::line(&event.source, 20),
            format::bytes(event.size as u64),
        ]);
    }
    table
}

/// The states of an event's deliveries: one word if they agree, else a count for each state.
fn state(deliveries: &[api::Delivery]) -> String {
    let mut states: BTreeMap<&str, usize> = BTreeMap::new();
    for delivery in deliveries {
        *states.entry(delivery.state.word()).or_default() += 1;
    }
    match states.len() {
        0 => "-".to_owned(),
        1 => states.into_keys().collect(),
        _ => states.iter().map(|(state, n)| format!("{n} {state}")).collect::<Vec<_>>().join(", "),
    }
}

/// The fields that events and dead letters share.
#[derive(Debug)]
pub(super) struct Head<'a> {
    pub id: EventId,
    pub sequence: Sequence,
    pub source: &'a str,
    pub event_type: &'a str,
    pub interaction: Option<&'a str>,
    pub sender_id: Option<&'a str>,
    pub event_time: Option<Time>,
    pub received_at: Time,
    pub size: usize,
    pub conflict: bool,
}

/// The head of an event or dead letter, one field per line.
pub(super) fn head(of: &Head<'_>, now: Timestamp) -> String {
    let time = |at: Time| format!("{at} ({})", format::ago(at, now));
    let conflict = if of.conflict { ", differs from another event with the sender's id" } else { "" };
    let lines = [
        ("event", of.id.to_string()),
        ("sequence", of.sequence.to_string()),
        ("source", of.source.to_owned()),
        ("type", format::or_dash(Some(of.event_type)).to_owned()),
        ("interaction", format::or_dash(of.interaction).to_owned()),
        ("sender's id", format::or_dash(of.sender_id).to_owned()),
        ("event time", of.event_time.map_or_else(|| "-".to_owned(), time)),
        ("received", time(of.received_at)),
        ("body", format!("{}{conflict}", format::bytes(of.size as u64))),
    ];
    lines
        .map(|(name, value)| {
            format!(
                "{name:<12} {}
",
                format::line(&value, 200)
            )
        })
        .concat()
}

/// One event with its deliveries, what blocks each, and its attempts.
pub(super) fn detail(event: &api::Event, now: Timestamp) -> String {
    let mut text = head(
        &Head {
            id: event.id,
            sequence: event.sequence,
            source: &event.source,
            event_type: &event.event_type,
            interaction: event.interaction.as_deref(),
            sender_id: event.sender_id.as_deref(),
            event_time: event.event_time,
            received_at: event.received_at,
            size: event.size,
            conflict: event.conflict,
        },
        now,
    );
    for delivery in &event.deliveries {
        text.push_str(&format!(
            "
to {}: {}
",
            delivery.destination,
            progress(delivery, now)
        ));
        for (n, by) in delivery.blockers().enumerate() {
            let lead = if n == 0 { "blocked" } else { "and" };
            text.push_str(&format!(
                "  {lead} {}
",
                blocker(by, now)
            ));
        }
        text.push_str(&what_to_do(event, delivery));
        if let Some(Attempts::All(attempts)) = delivery.attempts.as_ref().filter(|attempts| attempts.count() > 0) {
            text.push_str(&self::attempts(attempts, now));
        }
    }
    text
}

/// What an operator can do about a delivery that does not continue by itself.
fn what_to_do(event: &api::Event, delivery: &api::Delivery) -> String {
    let id = match event.deliveries.len() {
        0 | 1 => event.id.to_string(),
        _ => format!("{}/{}", event.id, delivery.destination),
    };
    match delivery.state {
        DeliveryState::Dead => format!(
            "  to look at it, send it again, or give it up:\n    {}\n    {}\n    {}\n",
            hint::command(&format!("dlq show {id}")),
            hint::command(&format!("dlq redrive {id}")),
            hint::command(&format!("dlq purge {id}")),
        ),
        DeliveryState::Discarded => {
            format!("  who gave it up: {}, or the rules of its destination did\n", hint::command("audit"))
        }
        DeliveryState::Delivered if delivery.settled_at.is_none() => {
            "  longer ago than its end is remembered\n".to_owned()
        }
        _ => String::new(),
    }
}

/// The state of a delivery, how its last attempt ended, and its times.
pub(super) fn progress(delivery: &api::Delivery, now: Timestamp) -> String {
    let mut text = delivery.state.word().to_owned();
    if let Some(reason) = delivery.reason {
        text.push_str(&format!(" ({})", reason.word()));
    }
    match (delivery.outcome.as_deref().filter(|outcome| *outcome != ANSWERED), delivery.status) {
        (Some(outcome), Some(status)) => text.push_str(&format!(", {outcome} {status}")),
        (Some(outcome), None) => text.push_str(&format!(", {outcome}")),
        (None, Some(status)) => text.push_str(&format!(", answered {status}")),
        (None, None) => {}
    }
    if let Some(error) = delivery.error.as_deref().filter(|error| !error.is_empty()) {
        text.push_str(&format!(" ({})", format::line(error, 200)));
    }
    if let Some(since) = delivery.since {
        text.push_str(&format!(", begun {}", format::ago(since, now)));
    }
    if let Some(until) = delivery.until {
        text.push_str(&format!(", ends {until} at the latest ({})", format::ago(until, now)));
    }
    if let Some(at) = delivery.settled_at {
        text.push_str(&format!(", {at} ({})", format::ago(at, now)));
    }
    if let Some(attempts) = delivery.attempts.as_ref().map(Attempts::count).filter(|n| *n > 0) {
        text.push_str(&format!(", {}", format::counted(attempts as u64, "attempt")));
    }
    if let Some(due) = delivery.due {
        text.push_str(&format!(", due {}", format::ago(due, now)));
    }
    text
}

/// The outcome of an attempt that got a response; the status says the rest.
const ANSWERED: &str = "answered";
/// The outcome of an attempt with a 2xx response whose body reports a failure.
const UNSUCCESSFUL: &str = "unsuccessful";

/// The outcome of an attempt in one or two words.
pub(super) fn outcome(attempt: &api::Attempt) -> String {
    match attempt.status {
        Some(status) if attempt.outcome == UNSUCCESSFUL => format!("unsuccessful {status}"),
        Some(status) => format!("status {status}"),
        None => attempt.outcome.clone(),
    }
}

/// What blocks a delivery, until when, behind what, and who set it, in one sentence.
pub(super) fn blocker(by: &BlockedBy, now: Timestamp) -> String {
    let mut text = format!("by {}", by.blocker.word());
    if let Some(until) = by.until {
        text.push_str(&format!(" until {until} ({})", format::ago(until, now)));
    }
    if let Some(behind) = &by.behind {
        text.push_str(&format!(", behind {behind}"));
    }
    text.push_str(&format!(", set by {}", by.set_by));
    if let Some(reason) = by.reason.as_deref().filter(|reason| !reason.is_empty()) {
        text.push_str(&format!(" ({})", format::line(reason, 200)));
    }
    text
}

/// A table with one row per attempt, followed by the responses.
pub(super) fn attempts(attempts: &[api::Attempt], now: Timestamp) -> String {
    let mut table = Table::new([
        Column::fixed("  ATTEMPT").right(),
        Column::fixed("WHEN"),
        Column::fixed("OUTCOME"),
        Column::dispensable("LATENCY", 2).right(),
        Column::dispensable("ERROR", 1),
    ]);
    for attempt in attempts {
        table.row([
            attempt.number.to_string(),
            format::ago(attempt.at, now),
            outcome(attempt),
            format::age(Duration::from_millis(attempt.latency_ms.into())),
            format::line(format::or_dash(Some(&attempt.error)), 80),
        ]);
    }
    let mut text = table.for_stdout();
    for attempt in attempts {
        if let Some(answer) = attempt.answer.as_deref().filter(|answer| !answer.is_empty()) {
            text.push_str(&format!(
                "  answer {}: {}
",
                attempt.number,
                format::line(answer, 1024)
            ));
        }
    }
    text
}

/// An event with these deliveries.
#[cfg(test)]
pub(super) fn sample(id: &str, deliveries: Value) -> api::Event {
    let event = json!({"id": id, "sequence": 1, "source": "genesys", "type": "v2.start", "interaction": "k",
        "sender_id": null, "event_time": null, "received_at": "2026-03-19T22:04:38Z", "size": 1100, "conflict": true,
        "deliveries": deliveries});
    serde_json::from_value(event).expect("it is a whole event")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0195b1c2-7a3e-7000-8000-0123456789ab";

    #[test]
    fn the_detail_view_shows_blocker_attempts_and_outcome() {
        let now = format::instant("2026-03-19T22:04:48Z").unwrap();
        let attempt = json!({"number": 1, "at": "2026-03-19T22:04:40Z", "latency_ms": 12, "outcome": "answered",
            "ambiguous": false, "status": 503, "error": "", "answer": "try\nlater"});
        let deliveries = json!([
            {"destination": "crm", "state": "blocked", "attempts": [], "blocked_by":
                {"blocker": "order", "until": null, "behind": "018f", "set_by": "interaction"}},
            {"destination": "wallboard", "state": "delayed", "due": "2026-03-19T22:04:50Z", "attempts": [attempt]},
            {"destination": "bi", "state": "delivered", "attempts": 2, "status": 200,
                "settled_at": "2026-03-19T22:04:47Z"}]);
        let text = detail(&sample(ID, deliveries), now);
        for part in [
            "received     2026-03-19T22:04:38.000Z (10s ago)",
            "differs from another event",
            "to crm: blocked\n  blocked by order, behind 018f, set by interaction",
            "to wallboard: delayed, 1 attempt, due in 2.0s",
            "status 503",
            "answer 1: try later",
            "to bi: delivered, answered 200, 2026-03-19T22:04:47.000Z (1.0s ago), 2 attempts",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
    }

    #[test]
    fn a_dead_letter_shows_its_reason_and_an_attempt_its_deadline() {
        let now = format::instant("2026-03-19T22:04:48Z").unwrap();
        let dead = json!({"destination": "crm", "state": "dead", "reason": "exhausted", "outcome": "timeout",
            "error": "no answer within 10s", "settled_at": "2026-03-19T22:04:38Z", "attempts": 12});
        let in_flight = json!({"destination": "bi", "state": "in_flight", "since": "2026-03-19T22:04:46Z",
            "until": "2026-03-19T22:04:56Z", "attempts": 0});
        let paused = json!({"destination": "wall", "state": "delayed",
            "blocked_by": {"blocker": "pause", "until": "2026-03-19T22:34:48Z", "set_by": "ann"},
            "also_blocked_by": [{"blocker": "retry_backoff", "until": "2026-03-19T22:05:48Z", "set_by": "retry"}]});
        let text = detail(&sample(ID, json!([dead, in_flight, paused])), now);
        for part in [
            "to crm: dead (exhausted), timeout (no answer within 10s), 2026-03-19T22:04:38.000Z (10s ago), 12 attempts\n",
            &format!("holdline dlq show {ID}/crm\n"),
            &format!("holdline dlq redrive {ID}/crm\n"),
            "to bi: in_flight, begun 2.0s ago, ends 2026-03-19T22:04:56.000Z at the latest (in 8.0s)\n",
            "  blocked by pause until 2026-03-19T22:34:48.000Z (in 30m), set by ann\n  and by retry_backoff until",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        let alone = detail(&sample(ID, json!([{"destination": "crm", "state": "dead"}])), now);
        assert!(alone.contains(&format!("holdline dlq show {ID}\n")), "{alone}");
    }

    #[test]
    fn the_state_of_an_event_is_that_of_its_deliveries() {
        let of = |states: &[DeliveryState]| {
            let deliveries: Vec<_> = states.iter().map(|s| api::Delivery::bare("crm".to_owned(), *s)).collect();
            state(&deliveries)
        };
        use DeliveryState::{Blocked, Dead, Delivered};
        assert_eq!(of(&[Dead]), "dead");
        assert_eq!(of(&[Delivered, Delivered]), "delivered");
        assert_eq!(of(&[Delivered, Blocked, Delivered]), "1 blocked, 2 delivered");
        assert_eq!(of(&[]), "-");
    }

    #[test]
    fn rows_fit_80_columns() {
        let event = api::Event {
            event_type: "v2.detail.events.conversation.{id}.customer.start".to_owned(),
            interaction: Some("2f7bf00a-0fc2-4d6a-9b56-92238191433e".to_owned()),
            ..sample(ID, json!([{"destination": "crm", "state": "in_flight"}]))
        };
        let text = rows(&[event], format::instant("2026-03-19T22:04:48Z").unwrap()).in_width(Some(80));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains("customer.start") && !text.contains("INTERACTION"), "{text}");
    }
}
