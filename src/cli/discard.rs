//! `holdline discard`: deliveries that wait for a destination are given up.

use crate::cli::admin_connection::{AdminConnection, Form};
use crate::cli::client::{Admin, encoded};
use crate::cli::progress::{Counter, watched};
use crate::cli::{Failure, confirm, format, item, output};
use serde_json::{Map, Value, json};

/// Arguments of `holdline discard`.
#[derive(Debug, clap::Args)]
#[command(override_usage = "holdline discard [OPTIONS] --reason <WHY> <DESTINATION> <ID...|--all>")]
#[command(group = clap::ArgGroup::new("chosen").required(true).args(["ids", "all"]))]
pub struct Args {
    #[command(flatten)]
    reach: AdminConnection,
    /// The destination
    #[arg(value_name = "DESTINATION")]
    destination: String,
    /// Events whose delivery to it was settled elsewhere
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// All that wait for it
    #[arg(long)]
    all: bool,
    /// Who settled them and where, or why nobody wants them; it stands in the audit
    #[arg(long, value_name = "WHY")]
    reason: String,
    /// Only say how many it would be
    #[arg(long)]
    dry_run: bool,
    /// Do not ask first
    #[arg(long)]
    yes: bool,
}

impl Args {
    /// `shown` is the `as_of` of a dry run: nothing beyond it goes.
    fn request(&self, dry_run: bool, shown: Option<Value>) -> Value {
        let mut request =
            Map::from_iter([("reason".to_owned(), json!(self.reason)), ("dry_run".to_owned(), json!(dry_run))]);
        request.extend(shown.map(|as_of| ("as_of".to_owned(), as_of)));
        if self.all {
            request.insert("all".to_owned(), json!(true));
        } else {
            request.insert("ids".to_owned(), json!(self.ids));
        }
        Value::Object(request)
    }
}

/// Runs the command.
pub async fn run(args: Args) -> Result<(), Failure> {
    let admin = Admin::of(&args.reach)?;
    let path = format!("/v1/destinations/{}/discard", encoded(&args.destination));
    let mut shown = None;
    if args.all && !args.dry_run && !args.yes {
        let would = admin.post(&path, &args.request(true, None)).await?;
        let count = deliveries(item::number(&would, "matched"));
        confirm::discard(&format!("{count} for {}", args.destination))?;
        shown = item::find(&would, "as_of").cloned();
    }
    let (form, request) = (args.reach.shared.form(), args.request(args.dry_run, shown));
    let answer = watched(&admin, form, Counter::Discarded, admin.post(&path, &request)).await?;
    match form {
        Form::Json => output::json(&answer),
        Form::Table => {
            let (field, done) = if args.dry_run { ("matched", "would be discarded") } else { ("done", "discarded") };
            output::text(&format!("{} {done}\n", deliveries(item::number(&answer, field))))
        }
    }
}

fn deliveries(n: u64) -> String {
    format!("{} {}", format::count(n), if n == 1 { "delivery" } else { "deliveries" })
}
