//! `holdline status`: the state of the daemon on one screen of 80 columns.

use crate::api;
use crate::cli::admin_connection::{AdminConnection, Form};
use crate::cli::client::Admin;
use crate::cli::table::{self, Column, Table};
use crate::cli::{Failure, format, hint, output};
use crate::time::Timestamp;
use serde_json::Value;
use std::fmt::Write;
use std::time::Duration;

/// Arguments of `holdline status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connection: AdminConnection,
}

/// Destinations shown in full; the others are counted, so that the output fits one screen.
const SHOWN: usize = 12;

/// Prints `/v1/status`.
pub async fn run(args: Args) -> Result<(), Failure> {
    let admin = Admin::of(&args.connection)?;
    match args.connection.shared.form() {
        Form::Json => output::json(&admin.get::<Value>("/v1/status").await?),
        Form::Table => output::text(&screen(&admin.get("/v1/status").await?, format::now(), table::width())),
    }
}

fn screen(status: &api::Status, now: Timestamp, width: Option<usize>) -> String {
    let mut text = head(status, now);
    text.push_str(&destinations(&status.destinations, now, width, SHOWN, Columns::State));
    text
}

/// Everything but the destinations, one line each.
pub(super) fn head(status: &api::Status, now: Timestamp) -> String {
    let api::Status { version, state, started_at, durability, counters, queue, dlq, disk, .. } = status;
    let started = format::ago(*started_at, now);
    let count = format::count;
    let oldest = match queue.depth {
        0 => String::new(),
        _ => format!(", the oldest for {}", format::age(Duration::from_millis(queue.oldest_age_ms))),
    };
    let lines = [
        ("holdline", format!("{version}, {}, started {started}", state.word())),
        ("durability", durability.clone()),
        ("intake", intake(status, now)),
        ("accepted", format!("{}, and {} duplicates dropped", count(counters.accepted), count(counters.duplicates))),
        (
            "settled",
            format!(
                "{} delivered, {} dead-lettered, {} discarded, {} redriven",
                count(counters.delivered),
                count(counters.dead_lettered),
                count(counters.discarded),
                count(counters.redriven)
            ),
        ),
        ("waiting", format!("{} ({}){oldest}", count(queue.depth), format::bytes(queue.bytes))),
        (
            "of these",
            format!(
                "{} in flight, {} delayed, {} blocked",
                count(queue.in_flight as u64),
                count(queue.delayed as u64),
                count(queue.blocked as u64)
            ),
        ),
        ("DLQ", format!("{} ({})", format::counted(dlq.depth, "dead letter"), format::bytes(dlq.bytes))),
        ("disk", format!("{} free, {} used", format::bytes(disk.free_bytes), format::bytes(disk.used_bytes))),
    ];
    let mut text = String::new();
    for (name, value) in lines {
        writeln!(text, "{name:<11} {value}").expect("writing to a String cannot fail");
    }
    if counters.damaged > 0 {
        let damaged = format::counted(counters.damaged, "record");
        writeln!(text, "{:<11} {damaged}, see {}", "damaged", hint::command("damaged list"))
            .expect("writing to a String cannot fail");
    }
    text
}

fn intake(status: &api::Status, now: Timestamp) -> String {
    let last = status.last_outage.as_ref().and_then(|outage| Some((outage, outage.until?)));
    match (&status.intake, last) {
        (api::IntakeState { open: true, .. }, Some((outage, until))) => format!(
            "open; last not accepting until {} ({}), see {}",
            format::ago(until, now),
            outage.reason,
            hint::command("outages")
        ),
        (api::IntakeState { open: true, .. }, None) => "open".to_owned(),
        (api::IntakeState { reason: Some(reason), .. }, _) => format!("CLOSED: {reason}"),
        (api::IntakeState { reason: None, .. }, _) => "CLOSED".to_owned(),
    }
}

/// How destinations are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Columns {
    State,
    WithRates,
}

/// A table of at most `lines` lines below the heading; destinations in trouble and with the longest queues come first.
pub(super) fn destinations(
    all: &[api::Destination],
    now: Timestamp,
    width: Option<usize>,
    lines: usize,
    columns: Columns,
) -> String {
    if all.is_empty() {
        return String::new();
    }
    let notes = notes(all, width);
    let lines = lines.saturating_sub(notes.lines().count()).max(1);
    let shown = if all.len() > lines { lines.saturating_sub(1).max(1) } else { all.len() };
    let mut sorted: Vec<&api::Destination> = all.iter().collect();
    sorted.sort_by_key(|d| (!d.state.is_trouble(), std::cmp::Reverse(d.queue.depth)));
    let mut heads = vec![
        Column::fixed("DESTINATION"),
        Column::fixed("STATE"),
        Column::fixed("QUEUE").right(),
        Column::dispensable("IN FLIGHT", 4).right(),
        Column::dispensable("DELAYED", 5).right(),
        Column::dispensable("BLOCKED", 1).right(),
        Column::fixed("OLDEST").right(),
    ];
    if columns == Columns::WithRates {
        heads.extend(["IN/S", "OUT/S", "DEAD/S"].map(|title| Column::dispensable(title, 2).right()));
    }
    heads.push(Column::dispensable("BLOCKED BY", 3));
    let mut table = Table::new(heads);
    for d in sorted.iter().take(shown) {
        let of_limit = if d.concurrency.limit > 0 { format!("/{}", d.concurrency.limit) } else { String::new() };
        let oldest = Duration::from_millis(d.queue.oldest_age_ms);
        let mut row = vec![
            format::line(&d.name, 20),
            state(d.state),
            format::count(d.queue.depth),
            format!("{}{of_limit}", d.concurrency.in_flight),
            format::count(d.queue.delayed as u64),
            format::count(d.queue.blocked as u64),
            if d.queue.depth > 0 { format::age(oldest) } else { "-".to_owned() },
        ];
        if columns == Columns::WithRates {
            let api::Rates { accepted_per_s, delivered_per_s, dead_per_s } = d.rates;
            row.extend([accepted_per_s, delivered_per_s, dead_per_s].map(|rate| format!("{rate:.1}")));
        }
        row.push(blocked_by(d, now));
        table.row(row);
    }
    let more = match all.len().saturating_sub(shown) {
        0 => String::new(),
        n => format!("and {} (--json shows all)\n", format::counted(n as u64, "destination")),
    };
    format!("\n{}{more}{notes}", table.in_width(width))
}

fn state(state: api::DestinationState) -> String {
    state.word().replace('_', " ").replace("dlq", "DLQ")
}

/// Destinations whose blocking dead letters are explained in full.
const NOTES: usize = 2;

fn notes(all: &[api::Destination], width: Option<usize>) -> String {
    let notes: Vec<String> = all.iter().filter_map(behind_dead_letters).collect();
    let mut text: String = notes.iter().take(NOTES).map(|note| format::wrap(note, width)).collect();
    if notes.len() > NOTES {
        writeln!(text, "and so for {} more", format::counted((notes.len() - NOTES) as u64, "destination"))
            .expect("writing to a String cannot fail");
    }
    text
}

/// The deliveries of a destination that dead letters block, and the commands that unblock them; none if there are none.
pub(super) fn behind_dead_letters(destination: &api::Destination) -> Option<String> {
    let behind = &destination.queue.behind_dead_letters;
    if behind.deliveries == 0 {
        return None;
    }
    let wait = if behind.deliveries == 1 { "waits" } else { "wait" };
    let oldest = format::age(Duration::from_millis(behind.oldest_age_ms));
    let name = format::line(&destination.name, 64);
    Some(format!(
        "{} of {} {wait} behind dead letters of {name}, the oldest for {oldest}\n  \
         to let them go, send them again or discard them:\n    {}\n    {}\n",
        format::deliveries(behind.deliveries),
        format::counted(behind.interactions as u64, "interaction"),
        hint::command(&format!("dlq redrive --destination {name}")),
        hint::command(&format!("dlq purge --destination {name}")),
    ))
}

fn blocked_by(destination: &api::Destination, now: Timestamp) -> String {
    let blockers: Vec<String> = destination
        .blocked_by
        .iter()
        .map(|by| match by.until {
            Some(until) => format!("{} ({})", by.blocker.word(), format::age(until.0.since(now))),
            None => by.blocker.word().to_owned(),
        })
        .collect();
    if blockers.is_empty() { "-".to_owned() } else { format::line(&blockers.join(", "), 30) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn destination(name: &str, depth: u64) -> api::Destination {
        api::filled(json!({"name": name, "concurrency": {"limit": 64, "in_flight": 3},
            "queue": {"depth": depth, "oldest_age_ms": 61_000}}))
    }

    #[test]
    fn the_status_fits_one_screen_with_many_destinations() {
        let mut all: Vec<api::Destination> = (0..60).map(|n| destination(&format!("destination-{n}"), n)).collect();
        all[0].state = api::DestinationState::Paused;
        all[1].state = api::DestinationState::Blocked;
        let until = json!({"blocker": "retry_after", "until": "2026-03-19T22:05:00Z", "set_by": "destination"});
        all[1].blocked_by = vec![serde_json::from_value(until).unwrap()];
        all[2].state = api::DestinationState::Pacing;
        let status = api::Status {
            destinations: all,
            ..api::filled(json!({"version": "0.1.0", "state": "running", "started_at": "2026-03-19T21:04:48Z",
                "intake": {"open": false, "reason": "disk_low"}, "queue": {"depth": 5, "oldest_age_ms": 3_600_000}}))
        };
        let text = screen(&status, format::instant("2026-03-19T22:04:48Z").unwrap(), Some(80));
        assert!(text.lines().count() < 25, "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains("CLOSED: disk_low") && text.contains("started 1h ago"), "{text}");
        assert!(text.contains("and 49 destinations"), "{text}");
        let rows: Vec<&str> = text.lines().skip_while(|l| !l.starts_with("DESTINATION")).skip(1).collect();
        assert!(rows[0].starts_with("destination-1 ") && rows[0].contains("blocked"), "{text}");
        assert!(rows[0].contains("retry_after (12s)"), "{text}");
        assert!(rows[1].starts_with("destination-0 ") && rows[1].contains("paused"), "{text}");
        assert!(rows[2].starts_with("destination-59 "), "one that is pacing is not in trouble: {text}");
    }

    #[test]
    fn blocking_dead_letters_are_shown_with_the_commands_to_release_them() {
        let mut perm = destination("perm", 1);
        perm.state = api::DestinationState::BlockedByDlq;
        perm.queue.blocked = 7;
        perm.queue.behind_dead_letters =
            api::BehindDeadLetters { interactions: 1, deliveries: 7, oldest_age_ms: 180_000 };
        let status = api::Status { destinations: vec![destination("sound", 5), perm], ..api::Status::default() };
        let text = screen(&status, Timestamp::ZERO, Some(80));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        let rows: Vec<&str> = text.lines().skip_while(|l| !l.starts_with("DESTINATION")).collect();
        assert!(rows[0].contains("BLOCKED"), "{text}");
        assert!(rows[1].starts_with("perm") && rows[1].contains("blocked by DLQ") && rows[1].contains('7'), "{text}");
        let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let note = "7 deliveries of 1 interaction wait behind dead letters of perm, the oldest for 3m";
        assert!(flat.contains(note), "{text}");
        assert!(text.contains("holdline dlq redrive --destination perm"), "{text}");
    }

    #[test]
    fn a_daemon_without_destinations_and_with_damaged_records_is_shown() {
        let text = screen(&api::filled(json!({"counters": {"damaged": 2}})), Timestamp::ZERO, Some(80));
        assert!(text.contains("CLOSED") && text.contains("0 dead letters"), "{text}");
        assert!(text.contains("2 records, see holdline damaged list"), "{text}");
    }
}
