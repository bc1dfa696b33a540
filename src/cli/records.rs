//! `holdline outages`, `audit`, `damaged` and `quarantine`: lists of past occurrences and of data that was set aside; and
//! `holdline intake`, which closes and opens intake.

use crate::api::{AuditEntry, DamagedRecord, IntakeDecided, Outage, QuarantinedRequest, Readmitted};
use crate::cli::admin_connection::{AdminConnection, Form};
use crate::cli::client::Admin;
use crate::cli::filter::{self, Pages};
use crate::cli::table::{Column, Table};
use crate::cli::{Failure, format, output};
use crate::time::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// Arguments of `holdline outages` and `holdline audit`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connection: AdminConnection,
    #[command(flatten)]
    pages: Pages,
}

/// Arguments of `holdline damaged`.
#[derive(Debug, clap::Args)]
pub struct DamagedArgs {
    #[command(flatten)]
    connection: AdminConnection,
    #[command(subcommand)]
    what: Damaged,
}

#[derive(Debug, clap::Subcommand)]
enum Damaged {
    /// List stored records that did not verify, newest first
    List {
        #[command(flatten)]
        pages: Pages,
    },
}

/// Arguments of `holdline quarantine`.
#[derive(Debug, clap::Args)]
pub struct QuarantineArgs {
    #[command(flatten)]
    connection: AdminConnection,
    #[command(subcommand)]
    what: Quarantine,
}

#[derive(Debug, clap::Subcommand)]
enum Quarantine {
    /// List requests that were kept apart, oldest first
    List {
        #[command(flatten)]
        pages: Pages,
    },
    /// Check them by the configuration in force, and accept the events of those that pass now
    Readmit(Readmit),
}

#[derive(Debug, clap::Args)]
struct Readmit {
    /// Only those of this source
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Only say what would become of them
    #[arg(long)]
    dry_run: bool,
    /// Readmit, too, what came while the source asked for no proof, though it asks for one now: you answer for it
    #[arg(long, requires = "source")]
    accept_unproven: bool,
}

/// Arguments of `holdline intake`.
#[derive(Debug, clap::Args)]
pub struct IntakeArgs {
    #[command(flatten)]
    connection: AdminConnection,
    #[command(subcommand)]
    what: Intake,
}

#[derive(Debug, clap::Subcommand)]
enum Intake {
    /// Accept events again
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

/// Lists outages.
pub async fn outages(args: Args) -> Result<(), Failure> {
    let now = format::now();
    list(&args.connection, "/v1/outages", &args.pages, |items| outage_rows(items, now)).await
}

/// Lists the audit.
pub async fn audit(args: Args) -> Result<(), Failure> {
    let now = format::now();
    list(&args.connection, "/v1/audit", &args.pages, |items| audit_rows(items, now)).await
}

/// Lists damaged records.
pub async fn damaged(args: DamagedArgs) -> Result<(), Failure> {
    let (now, Damaged::List { pages }) = (format::now(), args.what);
    list(&args.connection, "/v1/damaged", &pages, |items| damaged_rows(items, now)).await
}

/// Lists quarantined requests, or readmits them.
pub async fn quarantine(args: QuarantineArgs) -> Result<(), Failure> {
    let readmit = match args.what {
        Quarantine::List { pages } => {
            let now = format::now();
            return list(&args.connection, "/v1/quarantine", &pages, |items| quarantine_rows(items, now)).await;
        }
        Quarantine::Readmit(readmit) => readmit,
    };
    let mut request = json!({"dry_run": readmit.dry_run});
    if let Some(source) = &readmit.source {
        request["source"] = json!(source);
    }
    if readmit.accept_unproven {
        request["accept_unproven"] = json!(true);
    }
    let readmitted: Readmitted = Admin::of(&args.connection)?.post("/v1/quarantine/readmit", &request).await?;
    match args.connection.shared.form() {
        Form::Json => output::json(&readmitted),
        Form::Table => output::text(&summary(&readmitted, readmit.dry_run)),
    }
}

/// Opens or closes intake.
pub async fn intake(args: IntakeArgs) -> Result<(), Failure> {
    let admin = Admin::of(&args.connection)?;
    let decided: IntakeDecided = match args.what {
        Intake::Open => admin.post("/v1/intake/open", &json!({})).await?,
        Intake::Close { reason, within } => {
            let mut body = Map::from_iter([("reason".to_owned(), json!(reason))]);
            body.extend(within.map(|within| ("for".to_owned(), json!(within))));
            admin.post("/v1/intake/close", &Value::Object(body)).await?
        }
    };
    match args.connection.shared.form() {
        Form::Json => output::json(&decided),
        Form::Table => output::text(&format!("{}\n", intake_state(&decided, format::now()))),
    }
}

async fn list<T: DeserializeOwned>(
    connection: &AdminConnection,
    path: &str,
    pages: &Pages,
    rows: impl Fn(&[T]) -> Table,
) -> Result<(), Failure> {
    let admin = Admin::of(connection)?;
    match connection.shared.form() {
        Form::Json => filter::print_json(&admin, path, &[], pages).await,
        Form::Table => filter::print_tables(&admin, path, &[], pages, |items| rows(items).for_stdout()).await,
    }
}

fn outage_rows(items: &[Outage], now: Timestamp) -> Table {
    let mut table = Table::new([
        Column::fixed("REASON"),
        Column::fixed("FROM"),
        Column::dispensable("", 2),
        Column::fixed("FOR"),
        Column::dispensable("REFUSED", 1).right(),
    ]);
    for Outage { from, until, reason, refused } in items {
        let lasted = match until {
            Some(until) => format::age(until.0.since(from.0)),
            None => format!("{}, and still", format::age(now.since(from.0))),
        };
        table.row([reason.clone(), from.to_string(), format::ago(*from, now), lasted, format::count(*refused)]);
    }
    table
}

fn audit_rows(items: &[AuditEntry], now: Timestamp) -> Table {
    let mut table = Table::new([
        Column::fixed("WHEN"),
        Column::fixed("WHO"),
        Column::fixed("WHAT"),
        Column::dispensable("HOW MANY", 1).right(),
    ]);
    for AuditEntry { at, since, who, what, count } in items {
        let first = since.map(|since| format!(", the first {}", format::ago(since, now))).unwrap_or_default();
        table.row([
            format::ago(*at, now),
            format::line(who, 20),
            format::line(what, 80),
            format!("{}{first}", format::count(*count)),
        ]);
    }
    table
}

fn damaged_rows(items: &[DamagedRecord], now: Timestamp) -> Table {
    let mut table = Table::new([
        Column::fixed("FOUND"),
        Column::fixed("TABLE"),
        Column::fixed("DELIVERY"),
        Column::dispensable("WHY", 1).shrinking_to(10),
        Column::dispensable("SIZE", 2).right(),
        Column::dispensable("ID", 3).right(),
    ]);
    for record in items {
        let event = match (&record.event, record.sequence) {
            (Some(event), _) => event.clone(),
            (None, Some(sequence)) => format!("sequence {sequence}"),
            (None, None) => "-".to_owned(),
        };
        let delivery = match &record.destination {
            Some(destination) => format!("{event}/{}", format::line(destination, 20)),
            None => event,
        };
        table.row([
            format::ago(record.found_at, now),
            record.table.clone(),
            delivery,
            format::line(&record.why, 80),
            format::bytes(record.size as u64),
            record.id.clone(),
        ]);
    }
    table
}

fn quarantine_rows(items: &[QuarantinedRequest], now: Timestamp) -> Table {
    let mut table = Table::new([
        Column::fixed("ID"),
        Column::fixed("CAUSE"),
        Column::dispensable("SOURCE", 2),
        Column::dispensable("RECEIVED", 1),
        Column::dispensable("SIZE", 3).right(),
    ]);
    for request in items {
        table.row([
            request.id.clone(),
            request.cause.clone(),
            format::line(&request.source, 30),
            format::ago(request.received_at, now),
            format::bytes(request.size as u64),
        ]);
    }
    table
}

/// The results of readmission, one line each.
fn summary(of: &Readmitted, dry_run: bool) -> String {
    let left = of.bad_signature + of.invalid_body + of.unproven + of.source_gone;
    let (passed, did) = if dry_run { (of.matched - left, "would be readmitted") } else { (of.done, "readmitted") };
    let requests = |n: usize| format::counted(n as u64, "request");
    let mut text = format!("{} {did}, with {}\n", requests(passed), format::counted(of.events as u64, "event"));
    for (n, why) in [
        (of.bad_signature, "whose signature does not verify: correct `auth` of the source"),
        (of.invalid_body, "whose body cannot be read: correct the pointers of the source"),
        (
            of.unproven,
            "which came while their source asked for no proof: --source NAME --accept-unproven readmits them",
        ),
        (of.source_gone, "whose source is not configured any more"),
    ] {
        if n > 0 {
            text.push_str(&format!("{} kept, {why}\n", requests(n)));
        }
    }
    text
}

fn intake_state(decided: &IntakeDecided, now: Timestamp) -> String {
    match (decided.open, decided.until) {
        (true, _) => "intake is open".to_owned(),
        (false, Some(until)) => format!("intake is closed until {until} ({})", format::ago(until, now)),
        (false, None) => format!("intake is closed ({})", format::or_dash(decided.reason.as_deref())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        format::instant("2026-03-19T22:04:48Z").unwrap()
    }

    fn read<T: DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn outages_and_changes_are_shown_with_their_times() {
        let outages: Vec<Outage> = read(json!([
            {"reason": "disk_low", "from": "2026-03-19T22:03:48Z", "until": null, "refused": 1200},
            {"reason": "crash", "from": "2026-03-19T20:00:00Z", "until": "2026-03-19T20:00:05Z", "refused": 0},
        ]));
        let text = outage_rows(&outages, now()).in_width(Some(100));
        for part in ["1m, and still", "1,200", "crash", "5.0s"] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        let audit: AuditEntry = read(json!({"at": "2026-03-19T22:04:38Z", "since": null, "who": "unix:root",
            "what": "dlq purge", "count": 3}));
        assert!(audit_rows(&[audit], now()).in_width(Some(80)).contains("10s ago"));
        let open = IntakeDecided { open: true, reason: None, until: None };
        assert_eq!(intake_state(&open, now()), "intake is open");
        let closed = read(json!({"open": false, "reason": "intake_closed", "until": "2026-03-19T22:05:48Z"}));
        assert_eq!(intake_state(&closed, now()), "intake is closed until 2026-03-19T22:05:48.000Z (in 1m)");
    }

    #[test]
    fn a_damaged_record_is_shown_in_80_columns_with_its_delivery() {
        let record: DamagedRecord = read(json!({"id": "7", "found_at": "2026-03-19T22:04:38Z", "table": "pages",
            "sequence": 4, "event": "0195b1c2-7a3e-7000-8000-0123456789ab", "destination": "crm",
            "why": "the checksum is 1 and not 2", "size": 2048}));
        let text = damaged_rows(&[record], now()).in_width(Some(80));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains("10s ago  pages  0195b1c2-7a3e-7000-8000-0123456789ab/crm"), "{text}");
    }

    #[test]
    fn the_result_of_a_readmission_is_shown() {
        let all = Readmitted {
            matched: 6,
            done: 2,
            events: 5,
            bad_signature: 1,
            invalid_body: 1,
            unproven: 2,
            source_gone: 0,
        };
        assert_eq!(
            summary(&all, false),
            "2 requests readmitted, with 5 events\n\
             1 request kept, whose signature does not verify: correct `auth` of the source\n\
             1 request kept, whose body cannot be read: correct the pointers of the source\n\
             2 requests kept, which came while their source asked for no proof: --source NAME --accept-unproven \
             readmits them\n"
        );
        let dry = Readmitted { matched: 1, events: 1, ..Readmitted::default() };
        assert_eq!(summary(&dry, true), "1 request would be readmitted, with 1 event\n");
    }

    #[test]
    fn a_quarantined_request_shows_its_cause_and_source() {
        let request: QuarantinedRequest = read(json!({"id": "7", "source": "genesys", "cause": "bad_signature",
            "received_at": "2026-03-19T22:03:48Z", "content_type": null, "size": 1100}));
        let text = quarantine_rows(&[request], now()).in_width(None);
        assert!(text.contains("bad_signature") && text.contains("genesys") && text.contains("1m"), "{text}");
    }
}
