//! `holdline dlq redrive` with a rate or a canary, `redrives`, `--cancel`: what takes its time is followed to its end.

use crate::cli::admin_connection::Form;
use crate::cli::client::{Admin, encoded};
use crate::cli::table::{Column, Table};
use crate::cli::{Failure, format, item, output};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// How often it is asked how far they have come.
const EVERY: Duration = Duration::from_millis(500);
/// After the end of a redrive its letters are waited for until so many looks have found nothing new of them.
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
    /// What the request says of it.
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

/// Follows redrives that have begun until the last of them has ended, and tells how; one that did not come to its end is
/// a failure. The daemon goes on with them when this program is stopped.
pub async fn follow(admin: &Admin, begun: &[Value], pace: &Pace, form: Form) -> Result<(), Failure> {
    if pace.detach {
        return tell(begun, form);
    }
    let bar = bar(begun.iter().map(|redrive| item::number(redrive, "matched")).sum());
    let mut ticks = tokio::time::interval(EVERY);
    let (mut known, mut quiet) = (0, 0);
    let ended = loop {
        ticks.tick().await;
        let now = admin.get("/v1/dlq/redrives").await?;
        let same = |new: &Value, old: &Value| {
            ["destination", "begun_at"].iter().all(|field| item::text(new, field) == item::text(old, field))
        };
        let all = item::list(&now, "items");
        let ours: Vec<Value> = all.iter().filter(|new| begun.iter().any(|old| same(new, old))).cloned().collect();
        let sum = |field: &str| ours.iter().map(|redrive| item::number(redrive, field)).sum::<u64>();
        bar.set_position(sum("taken"));
        bar.set_message(format!("{} delivered, {} dead again", sum("delivered"), sum("dead_again")));
        let ended = ["delivered", "dead_again", "gone"].map(sum).iter().sum();
        quiet = if ended == known { quiet + 1 } else { 0 };
        known = ended;
        let over = !ours.iter().any(|redrive| item::text(redrive, "state") == "goes_on");
        if over && (sum("under_way") == 0 || quiet >= QUIET_LOOKS) {
            break ours;
        }
    };
    bar.finish_and_clear();
    tell(&ended, form)?;
    match ended.iter().find(|redrive| item::text(redrive, "state") != "complete") {
        None => Ok(()),
        Some(redrive) => Err(Failure::Operation(format!(
            "the redrive of {} did not come to its end; what it had not come to is still dead",
            item::text(redrive, "destination")
        ))),
    }
}

/// On a terminal only.
fn bar(length: u64) -> ProgressBar {
    let bar = ProgressBar::new(length);
    bar.set_draw_target(ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent}% {human_pos} of {human_len} {elapsed} {msg}") {
        bar.set_style(style);
    }
    bar
}

fn tell(redrives: &[Value], form: Form) -> Result<(), Failure> {
    match form {
        Form::Json => output::json(&json!({ "items": redrives })),
        Form::Table => {
            let lines: String = redrives.iter().map(|redrive| sentence(redrive) + "\n").collect();
            output::text(&lines)
        }
    }
}

/// How a redrive stands, as a sentence; and, where a letter stopped it, which one and how in another.
fn sentence(redrive: &Value) -> String {
    let n = |field| item::number(redrive, field);
    let head = format!(
        "{}: {} of {} queued again{}",
        item::text(redrive, "destination"),
        format::count(n("done")),
        format::counted(n("matched"), "dead letter"),
        fared(redrive),
    );
    match item::text(redrive, "state").as_str() {
        "goes_on" => format!("{head}; it goes on"),
        "failing" => {
            let by = stopped_by(redrive).map(|by| format!("\n{by}")).unwrap_or_default();
            format!("{head}; then {} of {} failed and it stopped{by}", n("failed"), n("judged"))
        }
        "stopped" => format!("{head}; then it was stopped"),
        _ => head,
    }
}

/// What has become of those that are in the queue again, as far as it is known.
fn fared(redrive: &Value) -> String {
    let parts =
        [("delivered", "delivered"), ("dead_again", "dead again"), ("gone", "discarded"), ("under_way", "on the way")];
    let told: Vec<String> = parts
        .iter()
        .map(|(field, word)| (item::number(redrive, field), word))
        .filter(|(n, _)| *n > 0)
        .map(|(n, word)| format!("{} {word}", format::count(n)))
        .collect();
    if told.is_empty() { String::new() } else { format!(" ({})", told.join(", ")) }
}

/// The letter that stopped a redrive, how it failed, and what shows more of it.
fn stopped_by(redrive: &Value) -> Option<String> {
    let by = item::find(redrive, "stopped_by").filter(|by| by.is_object())?;
    let status = item::find(by, "status").and_then(Value::as_u64).map(|status| format!(" {status}"));
    let error = item::some_text(by, "error").filter(|error| !error.is_empty());
    let error = error.map(|error| format!(" ({})", format::line(error, 200)));
    let letter = format!("{}/{}", item::text(by, "event"), item::text(by, "destination"));
    Some(format!(
        "stopped by {letter}: {}{}{}",
        item::text(by, "outcome"),
        status.unwrap_or_default(),
        error.unwrap_or_default()
    ))
}

/// Shows the newest redrive with a rate or a canary of each destination.
pub async fn list(admin: &Admin, form: Form) -> Result<(), Failure> {
    let answer = admin.get("/v1/dlq/redrives").await?;
    match form {
        Form::Json => output::json(&answer),
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
            for redrive in item::list(&answer, "items") {
                table.row([
                    format::line(&item::text(redrive, "destination"), 30),
                    item::text(redrive, "state").replace('_', " "),
                    format::count(item::number(redrive, "done")),
                    format::count(item::number(redrive, "matched")),
                    format::count(item::number(redrive, "delivered")),
                    format::count(item::number(redrive, "dead_again")),
                    item::text(redrive, "rate"),
                    if item::is_set(redrive, "canary") { "yes" } else { "no" }.to_owned(),
                    format::ago(&item::text(redrive, "begun_at"), now),
                    format::line(&item::text(redrive, "by"), 20),
                ]);
            }
            let stops: String =
                item::list(&answer, "items").iter().filter_map(stopped_by).map(|by| by + "\n").collect();
            output::text(&(table.for_stdout() + &stops))
        }
    }
}

/// Ends the redrive of a destination.
pub async fn cancel(admin: &Admin, destination: &str, form: Form) -> Result<(), Failure> {
    let path = format!("/v1/dlq/redrives/{}/stop", encoded(destination));
    let ended = admin.post(&path, &json!({})).await?;
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
            sentence(&json!({"destination": "crm", "state": state, "matched": 1200, "taken": 12, "done": 11,
                "failed": 5, "judged": 10, "delivered": 5, "dead_again": 4, "gone": 0, "under_way": 2, "stopped_by":
                {"event": "0190", "destination": "crm", "outcome": "answered", "status": 422, "error": ""}}))
        };
        let head = "crm: 11 of 1,200 dead letters queued again (5 delivered, 4 dead again, 2 on the way)";
        assert_eq!(redrive("goes_on"), format!("{head}; it goes on"));
        assert_eq!(redrive("complete"), head);
        assert_eq!(
            redrive("failing"),
            format!("{head}; then 5 of 10 failed and it stopped\nstopped by 0190/crm: answered 422")
        );
        assert_eq!(redrive("stopped"), format!("{head}; then it was stopped"));
        let begun = json!({"destination": "crm", "state": "goes_on", "matched": 3, "done": 0});
        assert_eq!(sentence(&begun), "crm: 0 of 3 dead letters queued again; it goes on");
    }
}
