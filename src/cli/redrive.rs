//! `holdline dlq redrive` with a rate or a canary, `redrives`, `--cancel`: shows the progress of redrives until they end.

use crate::api::{self, Page, RedriveState};
use crate::cli::admin_connection::Form;
use crate::cli::client::{Admin, encoded};
use crate::cli::table::{Column, Table};
use crate::cli::{Failure, format, output};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// The interval between two reads of the progress.
const EVERY: Duration = Duration::from_millis(500);
/// After a redrive has ended, its deliveries are awaited until this many reads show no change.
const QUIET_LOOKS: u32 = 10;

/// How quickly dead letters wait again.
#[derive(Debug, clap::Args)]
pub struct Pace {
    /// At most so many in a second, minute or hour, such as 50/s
    #[arg(long, value_name = "RATE")]
    rate: Option<String>,
    /// Send 1, then 10, then the rest, and stop by itself when too many of them fail again
    #[arg(long)]
    canary: bool,
    /// With --rate or --canary: do not wait for the end; `holdline dlq redrives` shows how far it has come
    #[arg(long)]
    detach: bool,
}

impl Pace {
    /// Its fields in the request.
    pub fn fields(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        if let Some(rate) = &self.rate {
            fields.insert("rate".to_owned(), json!(rate));
        }
        if self.canary {
            fields.insert("canary".to_owned(), json!(true));
        }
        fields
    }
}

/// Waits until all these redrives have ended, and prints the results. Fails if one did not complete. The daemon continues
/// them if this program is stopped.
pub async fn follow(admin: &Admin, begun: &[api::Redrive], pace: &Pace, form: Form) -> Result<(), Failure> {
    if pace.detach {
        return report(begun, form);
    }
    let bar = bar(begun.iter().map(|redrive| redrive.matched).sum());
    let mut ticks = tokio::time::interval(EVERY);
    let (mut known, mut quiet) = (0, 0);
    let ended = loop {
        ticks.tick().await;
        let now: Page<api::Redrive> = admin.get("/v1/dlq/redrives").await?;
        let is_ours = |new: &api::Redrive| {
            begun.iter().any(|old| (&new.destination, new.begun_at) == (&old.destination, old.begun_at))
        };
        let ours: Vec<api::Redrive> = now.items.into_iter().filter(is_ours).collect();
        let sum = |field: fn(&api::Redrive) -> u64| ours.iter().map(field).sum::<u64>();
        bar.set_position(sum(|redrive| redrive.taken));
        let (delivered, dead_again) = (sum(|redrive| redrive.delivered), sum(|redrive| redrive.dead_again));
        bar.set_message(format!("{delivered} delivered, {dead_again} dead again"));
        let ended = delivered + dead_again + sum(|redrive| redrive.gone);
        quiet = if ended == known { quiet + 1 } else { 0 };
        known = ended;
        let over = !ours.iter().any(|redrive| redrive.state == RedriveState::GoesOn);
        if over && (sum(|redrive| redrive.under_way) == 0 || quiet >= QUIET_LOOKS) {
            break ours;
        }
    };
    bar.finish_and_clear();
    report(&ended, form)?;
    match ended.iter().find(|redrive| redrive.state != RedriveState::Complete) {
        None => Ok(()),
        Some(redrive) => Err(Failure::Operation(format!(
            "the redrive of {} did not come to its end; what it had not come to is still dead",
            redrive.destination
        ))),
    }
}

/// Hidden without a terminal.
fn bar(length: u64) -> ProgressBar {
    let bar = ProgressBar::new(length);
    bar.set_draw_target(ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent}% {human_pos} of {human_len} {elapsed} {msg}") {
        bar.set_style(style);
    }
    bar
}

fn report(redrives: &[api::Redrive], form: Form) -> Result<(), Failure> {
    match form {
        Form::Json => output::json(&json!({ "items": redrives })),
        Form::Table => {
            let lines: String = redrives.iter().map(|redrive| sentence(redrive) + "\n").collect();
            output::text(&lines)
        }
    }
}

/// The state of a redrive as a sentence; and a second one about the dead letter that stopped it, if any.
fn sentence(redrive: &api::Redrive) -> String {
    let head = format!(
        "{}: {} of {} queued again{}",
        redrive.destination,
        format::count(redrive.done),
        format::counted(redrive.matched, "dead letter"),
        results(redrive),
    );
    match redrive.state {
        RedriveState::GoesOn => format!("{head}; it goes on"),
        RedriveState::Failing => {
            let by = stopped_by(redrive)
                .map(|by| {
                    format!(
                        "
{by}"
                    )
                })
                .unwrap_or_default();
            let (failed, judged) = (redrive.failed.unwrap_or_default(), redrive.judged.unwrap_or_default());
            format!("{head}; then {failed} of {judged} failed and it stopped{by}")
        }
        RedriveState::Stopped => format!("{head}; then it was stopped"),
        RedriveState::Complete => head,
    }
}

/// The known results of the dead letters that were queued again.
fn results(redrive: &api::Redrive) -> String {
    let parts = [
        (redrive.delivered, "delivered"),
        (redrive.dead_again, "dead again"),
        (redrive.gone, "discarded"),
        (redrive.under_way, "under way"),
    ];
    let shown = parts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{} {word}", format::count(*n)));
    let shown: Vec<String> = shown.collect();
    if shown.is_empty() { String::new() } else { format!(" ({})", shown.join(", ")) }
}

/// The dead letter that stopped a redrive, how it failed, and the command that shows more.
fn stopped_by(redrive: &api::Redrive) -> Option<String> {
    let by = redrive.stopped_by.as_ref()?;
    let status = by.status.map(|status| format!(" {status}")).unwrap_or_default();
    let error = if by.error.is_empty() { String::new() } else { format!(" ({})", format::line(&by.error, 200)) };
    Some(format!("stopped by {}/{}: {}{status}{error}", by.event, by.destination, by.outcome))
}

/// Lists the newest redrive with a rate or a canary of each destination.
pub async fn list(admin: &Admin, form: Form) -> Result<(), Failure> {
    let all: Page<api::Redrive> = admin.get("/v1/dlq/redrives").await?;
    match form {
        Form::Json => output::json(&all),
        Form::Table if all.items.is_empty() => {
            output::note("None.");
            Ok(())
        }
        Form::Table => {
            let mut table = Table::new([
                Column::fixed("DESTINATION"),
                Column::fixed("STATE"),
                Column::fixed("DONE").right(),
                Column::fixed("OF").right(),
                Column::fixed("DELIVERED").right(),
                Column::fixed("DEAD AGAIN").right(),
                Column::dispensable("RATE", 1),
                Column::dispensable("CANARY", 2),
                Column::dispensable("BEGUN", 3),
                Column::dispensable("BY", 4),
            ]);
            let now = format::now();
            for redrive in &all.items {
                table.row([
                    format::line(&redrive.destination, 30),
                    redrive.state.word().to_owned(),
                    format::count(redrive.done),
                    format::count(redrive.matched),
                    format::count(redrive.delivered),
                    format::count(redrive.dead_again),
                    format::or_dash(redrive.rate.as_deref()).to_owned(),
                    if redrive.canary { "yes" } else { "no" }.to_owned(),
                    format::ago(redrive.begun_at, now),
                    format::line(&redrive.by, 20),
                ]);
            }
            let stops: String = all.items.iter().filter_map(stopped_by).map(|by| by + "\n").collect();
            output::text(&(table.for_stdout() + &stops))
        }
    }
}

/// Cancels the redrive of a destination.
pub async fn cancel(admin: &Admin, destination: &str, form: Form) -> Result<(), Failure> {
    let path = format!("/v1/dlq/redrives/{}/stop", encoded(destination));
    let ended: api::Redrive = admin.post(&path, &json!({})).await?;
    match form {
        Form::Json => output::json(&ended),
        Form::Table => output::text(&(sentence(&ended) + "\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_redrive_state_has_a_sentence() {
        let redrive = |state: &str| {
            sentence(&api::filled(
                json!({"destination": "crm", "state": state, "matched": 1200, "taken": 12, "done": 11,
                "failed": 5, "judged": 10, "delivered": 5, "dead_again": 4, "gone": 0, "under_way": 2, "stopped_by":
                {"event": "0190", "destination": "crm", "outcome": "answered", "status": 422, "error": ""}}),
            ))
        };
        let head = "crm: 11 of 1,200 dead letters queued again (5 delivered, 4 dead again, 2 under way)";
        assert_eq!(redrive("goes_on"), format!("{head}; it goes on"));
        assert_eq!(redrive("complete"), head);
        assert_eq!(
            redrive("failing"),
            format!("{head}; then 5 of 10 failed and it stopped\nstopped by 0190/crm: answered 422")
        );
        assert_eq!(redrive("stopped"), format!("{head}; then it was stopped"));
        let begun = json!({"destination": "crm", "state": "goes_on", "matched": 3, "done": 0});
        assert_eq!(sentence(&api::filled(begun)), "crm: 0 of 3 dead letters queued again; it goes on");
    }
}
