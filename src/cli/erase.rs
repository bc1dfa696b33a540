//! `holdline erase`: takes out all that lies here of one interaction.

use crate::cli::admin_connection::{AdminConnection, Form};
use crate::cli::client::{Admin, encoded};
use crate::cli::progress::{Counter, watched};
use crate::cli::{Failure, confirm, format, item, output};
use serde_json::{Value, json};

/// Arguments of `holdline erase`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    reach: AdminConnection,
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

/// Erases an interaction.
pub async fn run(args: Args) -> Result<(), Failure> {
    let admin = Admin::of(&args.reach)?;
    let form = args.reach.shared.form();
    let path = format!("/v1/interactions/{}/erase", encoded(&args.interaction));
    if !args.dry_run && !args.yes {
        let there = admin.post(&path, &json!({"dry_run": true})).await?;
        confirm::discard(&counts(&there))?;
    }
    let wish = json!({"reason": args.reason, "dry_run": args.dry_run});
    let answer = watched(&admin, form, Counter::Discarded, admin.post(&path, &wish)).await?;
    match form {
        Form::Json => output::json(&answer),
        Form::Table => output::text(&told(&answer, args.dry_run)),
    }
}

/// What it is, in one line.
fn counts(answer: &Value) -> String {
    let kinds = [
        ("waiting", "deliveries that waited"),
        ("dead", "dead letters"),
        ("remembered", "events remembered"),
        ("quarantined", "requests kept apart"),
        ("damaged", "damaged records"),
    ];
    let count = |(key, what): (&str, &str)| format!("{} {what}", format::count(item::number(answer, key)));
    kinds.map(count).join(", ")
}

fn told(answer: &Value, dry_run: bool) -> String {
    let did = if dry_run { "would be erased" } else { "erased" };
    let mut text = format!("{did}: {}\n", counts(answer));
    for key in ["store_files", "backups", "destinations"] {
        if let Some(remains) = item::some_text(answer, &format!("remains/{key}")) {
            text.push_str(&format!("  not reached: {remains}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_lists_what_was_erased_and_what_was_not_reached() {
        let answer = json!({"digest": "0a", "waiting": 1, "dead": 2, "remembered": 3, "quarantined": 2, "damaged": 0,
            "remains": {"store_files": "old space", "backups": "old copies", "destinations": "what was delivered"}});
        assert_eq!(
            told(&answer, false),
            "erased: 1 deliveries that waited, 2 dead letters, 3 events remembered, 2 requests kept apart, \
             0 damaged records\n  \
             not reached: old space\n  not reached: old copies\n  not reached: what was delivered\n"
        );
        assert!(told(&answer, true).starts_with("would be erased: 1 deliveries"));
    }
}
