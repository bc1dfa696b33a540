//! `holdline outages`, `holdline audit` and `holdline intake`: when events could not be accepted, who changed what, and
//! closing and opening the door.

use crate::cli::admin_connection::{AdminConnection, Form};
use crate::cli::client::Admin;
use crate::cli::filter::{self, Pages};
use crate::cli::table::{Column, Table};
use crate::cli::{Failure, format, item, output};
use crate::time::Timestamp;
use serde_json::{Map, Value, json};

/// Arguments of `holdline outages` and `holdline audit`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    reach: AdminConnection,
    #[command(flatten)]
    pages: Pages,
}

/// Arguments of `holdline intake`.
#[derive(Debug, clap::Args)]
pub struct IntakeArgs {
    #[command(flatten)]
    reach: AdminConnection,
    #[command(subcommand)]
    what: IntakeOverride,
}

#[derive(Debug, clap::Subcommand)]
enum IntakeOverride {
    /// Let events in again
    Open,
    /// Answer 503 to every event; deliveries go on
    Close {
        /// Why; it stands in the audit
        #[arg(long, default_value = "")]
        reason: String,
        /// Open again by itself after this time (30m, 2h)
        #[arg(long = "for", value_name = "DURATION")]
        within: Option<String>,
    },
}

/// Prints when events could not be accepted.
pub async fn outages(args: Args) -> Result<(), Failure> {
    let now = format::now();
    list(&args, "/v1/outages", |items| outage_rows(items, now)).await
}

/// Prints who changed what.
pub async fn audit(args: Args) -> Result<(), Failure> {
    let now = format::now();
    list(&args, "/v1/audit", |items| audit_rows(items, now)).await
}

async fn list(args: &Args, path: &str, rows: impl Fn(&[Value]) -> Table) -> Result<(), Failure> {
    let admin = Admin::of(&args.reach)?;
    match args.reach.shared.form() {
        Form::Json => filter::print_json(&admin, path, &[], &args.pages).await,
        Form::Table => filter::print_tables(&admin, path, &[], &args.pages, |items| rows(items).for_stdout()).await,
    }
}

fn outage_rows(items: &[Value], now: Timestamp) -> Table {
    let mut table = Table::new([
        Column::fixed("REASON"),
        Column::fixed("FROM"),
        Column::dispensable("", 2),
        Column::fixed("FOR"),
        Column::dispensable("REFUSED", 1).right(),
    ]);
    for gap in items {
        let from = item::text(gap, "from");
        let begin = format::instant(&from);
        let lasted = match (begin, item::some_text(gap, "until").and_then(format::instant)) {
            (Some(begin), Some(end)) => format::age(end.since(begin)),
            (Some(begin), None) => format!("{}, and still", format::age(now.since(begin))),
            _ => "-".to_owned(),
        };
        let ago = format::ago(&from, now);
        table.row([item::text(gap, "reason"), from, ago, lasted, format::count(item::number(gap, "refused"))]);
    }
    table
}

fn audit_rows(items: &[Value], now: Timestamp) -> Table {
    let mut table = Table::new([
        Column::fixed("WHEN"),
        Column::fixed("WHO"),
        Column::fixed("WHAT"),
        Column::dispensable("HOW MANY", 1).right(),
    ]);
    for change in items {
        table.row([
            item::some_text(change, "at").map_or_else(|| "-".to_owned(), |at| format::ago(at, now)),
            format::line(&item::text(change, "who"), 20),
            format::line(&item::text(change, "what"), 80),
            match item::some_text(change, "since").and_then(format::instant) {
                None => format::count(item::number(change, "count")),
                Some(since) => format!(
                    "{}, the first {}",
                    format::count(item::number(change, "count")),
                    format::ago(&since.to_string(), now)
                ),
            },
        ]);
    }
    table
}

/// Opens or closes the door.
pub async fn intake(args: IntakeArgs) -> Result<(), Failure> {
    let admin = Admin::of(&args.reach)?;
    let answer = match args.what {
        IntakeOverride::Open => admin.post("/v1/intake/open", &json!({})).await?,
        IntakeOverride::Close { reason, within } => {
            let mut body = Map::from_iter([("reason".to_owned(), json!(reason))]);
            body.extend(within.map(|within| ("for".to_owned(), json!(within))));
            admin.post("/v1/intake/close", &Value::Object(body)).await?
        }
    };
    match args.reach.shared.form() {
        Form::Json => output::json(&answer),
        Form::Table => output::text(&format!("{}\n", door(&answer, format::now()))),
    }
}

fn door(answer: &Value, now: Timestamp) -> String {
    match (item::is_set(answer, "open"), item::some_text(answer, "until")) {
        (true, _) => "intake is open".to_owned(),
        (false, Some(until)) => format!("intake is closed until {until} ({})", format::ago(until, now)),
        (false, None) => format!("intake is closed ({})", item::text(answer, "reason")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outages_and_changes_are_shown_with_their_times() {
        let now = format::instant("2026-03-19T22:04:48Z").unwrap();
        let gaps = [
            json!({"reason": "disk_low", "from": "2026-03-19T22:03:48Z", "until": null, "refused": 1200}),
            json!({"reason": "crash", "from": "2026-03-19T20:00:00Z", "until": "2026-03-19T20:00:05Z", "refused": 0}),
        ];
        let text = outage_rows(&gaps, now).in_width(Some(100));
        for part in ["1m, and still", "1,200", "crash", "5.0s"] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        let audit = [json!({"at": "2026-03-19T22:04:38Z", "who": "unix:root", "what": "dlq purge", "count": 3})];
        assert!(audit_rows(&audit, now).in_width(Some(80)).contains("10s ago"));
        assert_eq!(door(&json!({"open": true}), now), "intake is open");
        let closed = json!({"open": false, "reason": "intake_closed", "until": "2026-03-19T22:05:48Z"});
        assert_eq!(door(&closed, now), "intake is closed until 2026-03-19T22:05:48Z (in 1m)");
    }
}
