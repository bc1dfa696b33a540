//! `holdline discard`: discards waiting deliveries of a destination. `holdline erase`: removes everything stored of one
//! interaction.

use crate::api::{Changed, Erased, Remains};
use crate::cli::admin_connection::{AdminConnection, Form};
use crate::cli::client::{Admin, encoded};
use crate::cli::terminal::{Counter, with_progress};
use crate::cli::{Failure, format, output, terminal};
use serde_json::{Map, Value, json};

/// Arguments of `holdline discard`.
#[derive(Debug, clap::Args)]
#[command(override_usage = "holdline discard [OPTIONS] --reason <WHY> <DESTINATION> <ID...|--all>")]
#[command(group = clap::ArgGroup::new("chosen").required(true).args(["ids", "all"]))]
pub struct Args {
    #[command(flatten)]
    connection: AdminConnection,
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

/// Arguments of `holdline erase`.
#[derive(Debug, clap::Args)]
pub struct EraseArgs {
    #[command(flatten)]
    connection: AdminConnection,
    /// The key of the interaction
    #[arg(long, value_name = "KEY")]
    interaction: String,
    /// Why; it stands in the audit, so write nothing into it that is to be erased
    #[arg(long, default_value = "")]
    reason: String,
    /// Only say what there is
    #[arg(long)]
    dry_run: bool,
    /// Do not ask first
    #[arg(long)]
    yes: bool,
}

impl Args {
    /// The request; `as_of` of a dry run excludes deliveries that came later.
    fn request(&self, dry_run: bool, as_of: Option<String>) -> Value {
        let mut request =
            Map::from_iter([("reason".to_owned(), json!(self.reason)), ("dry_run".to_owned(), json!(dry_run))]);
        request.extend(as_of.map(|as_of| ("as_of".to_owned(), json!(as_of))));
        if self.all {
            request.insert("all".to_owned(), json!(true));
        } else {
            request.insert("ids".to_owned(), json!(self.ids));
        }
        Value::Object(request)
    }
}

/// Discards waiting deliveries of a destination.
pub async fn discard(args: Args) -> Result<(), Failure> {
    let admin = Admin::of(&args.connection)?;
    let path = format!("/v1/destinations/{}/discard", encoded(&args.destination));
    let mut as_of = None;
    if args.all && !args.dry_run && !args.yes {
        let would: Changed = admin.post(&path, &args.request(true, None)).await?;
        terminal::confirm_discard(&format!("{} for {}", format::deliveries(would.matched), args.destination))?;
        as_of = would.as_of;
    }
    let (form, request) = (args.connection.shared.form(), args.request(args.dry_run, as_of));
    let changed: Changed = with_progress(&admin, form, Counter::Discarded, admin.post(&path, &request)).await?;
    match form {
        Form::Json => output::json(&changed),
        Form::Table if args.dry_run => {
            output::text(&format!("{} would be discarded\n", format::deliveries(changed.matched)))
        }
        Form::Table => output::text(&format!("{} discarded\n", format::deliveries(changed.done))),
    }
}

/// Erases an interaction.
pub async fn erase(args: EraseArgs) -> Result<(), Failure> {
    let admin = Admin::of(&args.connection)?;
    let form = args.connection.shared.form();
    let path = format!("/v1/interactions/{}/erase", encoded(&args.interaction));
    if !args.dry_run && !args.yes {
        let would: Erased = admin.post(&path, &json!({"dry_run": true})).await?;
        terminal::confirm_discard(&counts(&would))?;
    }
    let request = json!({"reason": args.reason, "dry_run": args.dry_run});
    let erased: Erased = with_progress(&admin, form, Counter::Discarded, admin.post(&path, &request)).await?;
    match form {
        Form::Json => output::json(&erased),
        Form::Table => output::wrapped(&summary(&erased, args.dry_run)),
    }
}

/// The counts in one line.
fn counts(erased: &Erased) -> String {
    let counts = [
        (erased.waiting, "deliveries that waited"),
        (erased.dead, "dead letters"),
        (erased.remembered, "events remembered"),
        (erased.quarantined, "requests kept apart"),
        (erased.damaged, "damaged records"),
    ];
    counts.map(|(n, what)| format!("{} {what}", format::count(n))).join(", ")
}

fn summary(erased: &Erased, dry_run: bool) -> String {
    let did = if dry_run { "would be erased" } else { "erased" };
    let Remains { store_files, backups, destinations } = &erased.remains;
    let not_reached = [store_files, backups, destinations].map(|remains| format!("  not reached: {remains}\n"));
    format!("{did}: {}\n{}", counts(erased), not_reached.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_lists_what_was_erased_and_what_was_not_reached() {
        let answer = json!({"digest": "0a", "waiting": 1, "dead": 2, "remembered": 3, "quarantined": 2, "damaged": 0,
            "remains": {"store_files": "old space", "backups": "old copies", "destinations": "what was delivered"}});
        let erased: Erased = serde_json::from_value(answer).unwrap();
        assert_eq!(
            summary(&erased, false),
            "erased: 1 deliveries that waited, 2 dead letters, 3 events remembered, 2 requests kept apart, \
             0 damaged records\n  \
             not reached: old space\n  not reached: old copies\n  not reached: what was delivered\n"
        );
        assert!(summary(&erased, true).starts_with("would be erased: 1 deliveries"));
    }
}
