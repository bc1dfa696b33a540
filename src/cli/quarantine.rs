//! `holdline quarantine`: requests that were kept apart; to look at, and to give a second chance.

use crate::cli::admin_connection::{AdminConnection, Form};
use crate::cli::client::Admin;
use crate::cli::filter::{self, Pages};
use crate::cli::table::{Column, Table};
use crate::cli::{Failure, format, item, output};
use crate::time::Timestamp;
use serde_json::{Value, json};

/// Arguments of `holdline quarantine`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    reach: AdminConnection,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List requests that were kept apart, oldest first
    List(List),
    /// Judge them by the configuration in force, and let in those that pass now
    Readmit(Readmit),
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    pages: Pages,
}

#[derive(Debug, clap::Args)]
struct Readmit {
    /// Only those of this source
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Only say what would become of them
    #[arg(long)]
    dry_run: bool,
    /// Let in, too, what came while the source asked for no proof, though it asks for one now: you answer for it
    #[arg(long, requires = "source")]
    accept_unproven: bool,
}

/// Runs one of the commands about what was kept apart.
pub async fn run(args: Args) -> Result<(), Failure> {
    let admin = Admin::of(&args.reach)?;
    match (args.what, args.reach.shared.form()) {
        (What::List(list), Form::Json) => filter::print_json(&admin, PATH, &[], &list.pages).await,
        (What::List(list), Form::Table) => {
            let now = format::now();
            filter::print_tables(&admin, PATH, &[], &list.pages, |items| rows(items, now).for_stdout()).await
        }
        (What::Readmit(readmit), form) => {
            let mut request = json!({"dry_run": readmit.dry_run});
            if let Some(source) = &readmit.source {
                request["source"] = json!(source);
            }
            if readmit.accept_unproven {
                request["accept_unproven"] = json!(true);
            }
            let answer = admin.post("/v1/quarantine/readmit", &request).await?;
            match form {
                Form::Json => output::json(&answer),
                Form::Table => output::text(&told(&answer, readmit.dry_run)),
            }
        }
    }
}

const PATH: &str = "/v1/quarantine";

fn rows(items: &[Value], now: Timestamp) -> Table {
    let mut table = Table::new([
        Column::fixed("ID"),
        Column::fixed("CAUSE"),
        Column::dispensable("SOURCE", 2),
        Column::dispensable("RECEIVED", 1),
        Column::dispensable("SIZE", 3).right(),
    ]);
    for request in items {
        table.row([
            item::text(request, "id"),
            item::text(request, "cause"),
            format::line(&item::text(request, "source"), 30),
            item::some_text(request, "received_at").map_or_else(|| "-".to_owned(), |at| format::ago(at, now)),
            format::bytes(item::number(request, "size")),
        ]);
    }
    table
}

/// What became of them, a line for each end.
fn told(answer: &Value, dry_run: bool) -> String {
    let n = |key| item::number(answer, key);
    let left = n("bad_signature") + n("invalid_body") + n("unproven") + n("source_gone");
    let (passed, did) = if dry_run { (n("matched") - left, "would be let in") } else { (n("done"), "let in") };
    let mut text =
        format!("{} {did}, with {}\n", format::counted(passed, "request"), format::counted(n("events"), "event"));
    for (key, why) in [
        ("bad_signature", "whose signature does not verify: mend `auth` of the source"),
        ("invalid_body", "whose body cannot be read: mend the pointers of the source"),
        ("unproven", "which came while their source asked for no proof: --source NAME --accept-unproven lets them in"),
        ("source_gone", "whose source is not configured any more"),
    ] {
        if n(key) > 0 {
            text.push_str(&format!("{} kept, {why}\n", format::counted(n(key), "request")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_of_a_readmission_is_shown() {
        let answer = json!({"matched": 4, "done": 2, "events": 5, "bad_signature": 1, "invalid_body": 1, "unproven": 2,
                "source_gone": 0});
        assert_eq!(
            told(&answer, false),
            "2 requests let in, with 5 events\n\
             1 request kept, whose signature does not verify: mend `auth` of the source\n\
             1 request kept, whose body cannot be read: mend the pointers of the source\n\
             2 requests kept, which came while their source asked for no proof: --source NAME --accept-unproven lets them in\n"
        );
        let dry =
            json!({"matched": 1, "done": 0, "events": 1, "bad_signature": 0, "invalid_body": 0, "source_gone": 0});
        assert_eq!(told(&dry, true), "1 request would be let in, with 1 event\n");
    }

    #[test]
    fn a_row_shows_the_quarantined_request() {
        let items = [json!({"id": "7", "source": "genesys", "cause": "bad_signature",
            "received_at": "2026-03-19T22:04:38Z", "content_type": null, "size": 1100})];
        let now = format::instant("2026-03-19T22:05:38Z").unwrap();
        let text = rows(&items, now).in_width(None);
        assert!(text.contains("bad_signature") && text.contains("genesys") && text.contains("1m"), "{text}");
    }
}
