//! `holdline status`: how the daemon is doing, on one screen of 80 columns.

use crate::cli::admin_connection::{AdminConnection, Form};
use crate::cli::client::Admin;
use crate::cli::table::{self, Column, Table};
use crate::cli::{Failure, format, hint, item, output};
use crate::time::Timestamp;
use serde_json::Value;
use std::fmt::Write;

/// Arguments of `holdline status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    reach: AdminConnection,
}

/// Destinations shown in full; the rest is counted, so that the answer stays on one screen.
const SHOWN: usize = 12;

/// Prints `/v1/status`.
pub async fn run(args: Args) -> Result<(), Failure> {
    let status = Admin::of(&args.reach)?.get("/v1/status").await?;
    match args.reach.shared.form() {
        Form::Json => output::json(&status),
        Form::Table => output::text(&screen(&status, format::now(), table::width())),
    }
}

fn screen(status: &Value, now: Timestamp, width: Option<usize>) -> String {
    let mut text = head(status, now);
    text.push_str(&destinations(item::list(status, "destinations"), now, width, SHOWN, Columns::Standing));
    text
}

/// Everything but the destinations, a line each.
pub(super) fn head(status: &Value, now: Timestamp) -> String {
    let n = |path| format::count(item::number(status, path));
    let size = |path| format::bytes(item::number(status, path));
    let started = item::some_text(status, "started_at").map_or_else(|| "-".to_owned(), |at| format::ago(at, now));
    let oldest = match item::duration_ms(status, "queue/oldest_age_ms") {
        Some(age) if item::number(status, "queue/depth") > 0 => format!(", the oldest for {}", format::age(age)),
        _ => String::new(),
    };
    let intake = match (item::is_set(status, "intake/open"), item::some_text(status, "intake/reason")) {
        (true, _) => match item::some_text(status, "last_outage/until") {
            Some(until) => {
                let why = item::text(status, "last_outage/reason");
                format!(
                    "open; last not accepting until {} ({why}), see {}",
                    format::ago(until, now),
                    hint::command("outages")
                )
            }
            None => "open".to_owned(),
        },
        (false, Some(reason)) => format!("CLOSED: {reason}"),
        (false, None) => "CLOSED".to_owned(),
    };
    let lines = [
        ("holdline", format!("{}, {}, started {started}", item::text(status, "version"), item::text(status, "state"))),
        ("durability", item::text(status, "durability")),
        ("intake", intake),
        ("accepted", format!("{}, and {} duplicates dropped", n("counters/accepted"), n("counters/duplicates"))),
        (
            "settled",
            format!(
                "{} delivered, {} dead-lettered, {} discarded, {} redriven",
                n("counters/delivered"),
                n("counters/dead_lettered"),
                n("counters/discarded"),
                n("counters/redriven")
            ),
        ),
        ("waiting", format!("{} ({}){oldest}", n("queue/depth"), size("queue/bytes"))),
        (
            "of these",
            format!(
                "{} in flight, {} delayed, {} blocked",
                n("queue/in_flight"),
                n("queue/delayed"),
                n("queue/blocked")
            ),
        ),
        (
            "DLQ",
            format!("{} ({})", format::counted(item::number(status, "dlq/depth"), "dead letter"), size("dlq/bytes")),
        ),
        ("disk", format!("{} free, {} used", size("disk/free_bytes"), size("disk/used_bytes"))),
    ];
    let mut text = String::new();
    for (name, value) in lines {
        writeln!(text, "{name:<11} {value}").expect("writing to a String cannot fail");
    }
    text
}

/// What is told of each destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Columns {
    Standing,
    WithRates,
}

/// In at most `lines` lines below the heading; those in trouble and those with the longest queue first.
pub(super) fn destinations(
    all: &[Value],
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
    let mut sorted: Vec<&Value> = all.iter().collect();
    sorted.sort_by_key(|d| (condition(d) == "ok", std::cmp::Reverse(item::number(d, "queue/depth"))));
    let rates: &[(&'static str, &str)] = match columns {
        Columns::Standing => &[],
        Columns::WithRates => {
            &[("IN/S", "rates/accepted_per_s"), ("OUT/S", "rates/delivered_per_s"), ("DEAD/S", "rates/dead_per_s")]
        }
    };
    let mut heads = vec![
        Column::fixed("DESTINATION"),
        Column::fixed("STATE"),
        Column::fixed("QUEUE").right(),
        Column::dispensable("IN FLIGHT", 4).right(),
        Column::dispensable("DELAYED", 5).right(),
        Column::dispensable("BLOCKED", 1).right(),
        Column::fixed("OLDEST").right(),
    ];
    heads.extend(rates.iter().map(|(name, _)| Column::dispensable(*name, 2).right()));
    heads.push(Column::dispensable("BLOCKED BY", 3));
    let mut table = Table::new(heads);
    for d in sorted.iter().take(shown) {
        let limit = item::number(d, "concurrency/limit");
        let of_limit = if limit > 0 { format!("/{limit}") } else { String::new() };
        let oldest = item::duration_ms(d, "queue/oldest_age_ms").filter(|_| item::number(d, "queue/depth") > 0);
        let mut row = vec![
            format::line(&item::text(d, "name"), 20),
            condition(d),
            format::count(item::number(d, "queue/depth")),
            format!("{}{of_limit}", item::number(d, "concurrency/in_flight")),
            format::count(item::number(d, "queue/delayed")),
            format::count(item::number(d, "queue/blocked")),
            oldest.map_or_else(|| "-".to_owned(), format::age),
        ];
        let rate = |path| item::find(d, path).and_then(Value::as_f64).unwrap_or_default();
        row.extend(rates.iter().map(|(_, path)| format!("{:.1}", rate(path))));
        row.push(blocked_by(d, now));
        table.row(row);
    }
    let more = match all.len().saturating_sub(shown) {
        0 => String::new(),
        n => format!("and {} (--json shows all)\n", format::counted(n as u64, "destination")),
    };
    format!("\n{}{more}{notes}", table.in_width(width))
}

/// So many destinations with something behind their dead letters are told in full.
const NOTES: usize = 2;

fn notes(all: &[Value], width: Option<usize>) -> String {
    let told: Vec<String> = all.iter().filter_map(behind_dead_letters).collect();
    let mut text: String = told.iter().take(NOTES).map(|note| format::wrap(note, width)).collect();
    if told.len() > NOTES {
        writeln!(text, "and so for {} more", format::counted((told.len() - NOTES) as u64, "destination"))
            .expect("writing to a String cannot fail");
    }
    text
}

/// What of a destination waits behind dead letters, and what lets it go; none where nothing does.
pub(super) fn behind_dead_letters(destination: &Value) -> Option<String> {
    let n = |field: &str| item::number(destination, &format!("queue/behind_dead_letters/{field}"));
    let deliveries = match n("deliveries") {
        0 => return None,
        1 => "1 delivery".to_owned(),
        n => format!("{} deliveries", format::count(n)),
    };
    let wait = if n("deliveries") == 1 { "waits" } else { "wait" };
    let oldest = format::age(std::time::Duration::from_millis(n("oldest_age_ms")));
    let name = format::line(&item::text(destination, "name"), 64);
    Some(format!(
        "{deliveries} of {} {wait} behind dead letters of {name}, the oldest for {oldest}\n  \
         to let them go, send them again or discard them:\n    {}\n    {}\n",
        format::counted(n("interactions"), "interaction"),
        hint::command(&format!("dlq redrive --destination {name}")),
        hint::command(&format!("dlq purge --destination {name}")),
    ))
}

fn condition(destination: &Value) -> String {
    let breaker = item::some_text(destination, "breaker/state").unwrap_or("closed");
    if item::is_set(destination, "paused") {
        "paused".to_owned()
    } else if breaker != "closed" {
        format!("breaker {}", breaker.replace('_', " "))
    } else if !item::list(destination, "blocked_by").is_empty() {
        "blocked".to_owned()
    } else if item::number(destination, "queue/behind_dead_letters/deliveries") > 0 {
        "blocked by DLQ".to_owned()
    } else if item::number(destination, "queue/delayed") > 0 {
        "retrying".to_owned()
    } else {
        "ok".to_owned()
    }
}

fn blocked_by(destination: &Value, now: Timestamp) -> String {
    let holds: Vec<String> = item::list(destination, "blocked_by")
        .iter()
        .map(|hold| match item::some_text(hold, "until").and_then(format::instant) {
            Some(until) => format!("{} ({})", item::text(hold, "blocker"), format::age(until.since(now))),
            None => item::text(hold, "blocker"),
        })
        .collect();
    if holds.is_empty() { "-".to_owned() } else { format::line(&holds.join(", "), 30) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn destination(name: &str, depth: u64) -> Value {
        json!({"name": name, "paused": false, "breaker": {"state": "closed"},
            "concurrency": {"limit": 64, "in_flight": 3}, "blocked_by": [],
            "queue": {"depth": depth, "oldest_age_ms": 61_000, "delayed": 0}})
    }

    #[test]
    fn the_status_fits_one_screen_with_any_number_of_destinations() {
        let mut all: Vec<Value> = (0..60).map(|n| destination(&format!("destination-{n}"), n)).collect();
        all[0]["paused"] = json!(true);
        all[1]["blocked_by"] = json!([{"blocker": "retry_after", "until": "2026-03-19T22:05:00Z"}]);
        let status = json!({"version": "0.1.0", "state": "running", "started_at": "2026-03-19T21:04:48Z",
            "intake": {"open": false, "reason": "disk_low"}, "queue": {"depth": 5, "oldest_age_ms": 3_600_000},
            "destinations": all});
        let text = screen(&status, format::instant("2026-03-19T22:04:48Z").unwrap(), Some(80));
        assert!(text.lines().count() < 25, "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains("CLOSED: disk_low") && text.contains("started 1h ago"), "{text}");
        assert!(text.contains("and 49 destinations"), "{text}");
        let rows: Vec<&str> = text.lines().skip_while(|l| !l.starts_with("DESTINATION")).skip(1).collect();
        assert!(rows[0].starts_with("destination-1 ") && rows[0].contains("blocked"), "{text}");
        assert!(rows[1].starts_with("destination-0 ") && rows[1].contains("paused"), "{text}");
        assert!(rows[2].starts_with("destination-59 "), "{text}");
    }

    #[test]
    fn blocking_dead_letters_are_a_warning_with_a_remedy() {
        let mut perm = destination("perm", 1);
        perm["queue"]["blocked"] = json!(7);
        perm["queue"]["behind_dead_letters"] = json!({"interactions": 1, "deliveries": 7, "oldest_age_ms": 180_000});
        let text = screen(&json!({"destinations": [destination("sound", 5), perm]}), Timestamp::ZERO, Some(80));
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
    fn an_answer_with_nothing_in_it_is_shown_too() {
        let text = screen(&json!({}), Timestamp::ZERO, Some(80));
        assert!(text.contains("CLOSED") && text.contains("0 dead letters"), "{text}");
    }
}
