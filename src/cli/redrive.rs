//! `holdline dlq redrive` with a rate or a canary, `redrives`, `stop`: what takes its time is followed to its end.

use crate::cli::client::{Admin, encoded};
use crate::cli::reach::Form;
use crate::cli::table::{Column, Table};
use crate::cli::{Failure, item, output, words};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// How often it is asked how far they have come.
const EVERY: Duration = Duration::from_millis(500);

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
    let ended = loop {
        ticks.tick().await;
        let now = admin.get("/v1/dlq/redrives").await?;
        let same = |new: &Value, old: &Value| {
            ["destination", "begun_at"].iter().all(|field| item::text(new, field) == item::text(old, field))
        };
        let all = item::list(&now, "items");
        let ours: Vec<Value> = all.iter().filter(|new| begun.iter().any(|old| same(new, old))).cloned().collect();
        bar.set_position(ours.iter().map(|redrive| item::number(redrive, "taken")).sum());
        if !ours.iter().any(|redrive| item::text(redrive, "state") == "goes_on") {
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
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent}% {human_pos} of {human_len} {elapsed}") {
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

/// How a redrive stands, as a sentence.
fn sentence(redrive: &Value) -> String {
    let n = |field| item::number(redrive, field);
    let head = format!(
        "{}: {} of {} queued again",
        item::text(redrive, "destination"),
        words::count(n("done")),
        words::counted(n("matched"), "dead letter"),
    );
    match item::text(redrive, "state").as_str() {
        "goes_on" => format!("{head} so far; it goes on"),
        "failing" => format!("{head}, then {} of {} failed and it stopped", n("failed"), n("judged")),
        "stopped" => format!("{head}, then it was stopped"),
        _ => head,
    }
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
                Column::dispensable("RATE", 1),
                Column::dispensable("CANARY", 2),
                Column::dispensable("BEGUN", 3),
                Column::dispensable("BY", 4),
            ]);
            let now = words::now();
            for redrive in item::list(&answer, "items") {
                table.row([
                    words::line(&item::text(redrive, "destination"), 30),
                    item::text(redrive, "state").replace('_', " "),
                    words::count(item::number(redrive, "done")),
                    words::count(item::number(redrive, "matched")),
                    item::text(redrive, "rate"),
                    if item::is_set(redrive, "canary") { "yes" } else { "no" }.to_owned(),
                    words::ago(&item::text(redrive, "begun_at"), now),
                    words::line(&item::text(redrive, "by"), 20),
                ]);
            }
            output::text(&table.for_stdout())
        }
    }
}

/// Stops the redrive of a destination.
pub async fn stop(admin: &Admin, destination: &str, form: Form) -> Result<(), Failure> {
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
    fn a_sentence_for_each_state() {
        let redrive = |state: &str| {
            sentence(&json!({"destination": "crm", "state": state, "matched": 1200, "taken": 12, "done": 11,
                "failed": 5, "judged": 10}))
        };
        assert_eq!(redrive("goes_on"), "crm: 11 of 1,200 dead letters queued again so far; it goes on");
        assert_eq!(redrive("complete"), "crm: 11 of 1,200 dead letters queued again");
        assert_eq!(
            redrive("failing"),
            "crm: 11 of 1,200 dead letters queued again, then 5 of 10 failed and it stopped"
        );
        assert_eq!(redrive("stopped"), "crm: 11 of 1,200 dead letters queued again, then it was stopped");
    }
}
