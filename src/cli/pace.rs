//! `holdline pause`, `resume` and `breaker`: an operator's overrides of a destination.

use crate::api::{Decided, Time};
use crate::cli::admin_connection::{AdminConnection, Form};
use crate::cli::client::{Admin, encoded};
use crate::cli::{Failure, format, output};
use crate::time::Timestamp;
use clap::ValueEnum;
use serde_json::{Map, Value, json};

/// Arguments of `holdline pause`.
#[derive(Debug, clap::Args)]
pub struct PauseArgs {
    #[command(flatten)]
    connection: AdminConnection,
    /// The destination
    destination: String,
    #[command(flatten)]
    why: Why,
}

/// Arguments of `holdline resume`.
#[derive(Debug, clap::Args)]
pub struct ResumeArgs {
    #[command(flatten)]
    connection: AdminConnection,
    /// The destination
    destination: String,
}

/// Arguments of `holdline breaker`.
#[derive(Debug, clap::Args)]
pub struct BreakerArgs {
    #[command(flatten)]
    connection: AdminConnection,
    /// The destination
    destination: String,
    /// Nothing passes; everything passes; or a few requests decide
    state: State,
    #[command(flatten)]
    why: Why,
}

#[derive(Debug, clap::Args)]
struct Why {
    /// Why; it stands in the audit and in `explain`
    #[arg(long, default_value = "")]
    reason: String,
    /// Ends by itself after this time (30m, 2h)
    #[arg(long = "for", value_name = "DURATION")]
    within: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum State {
    Open,
    Closed,
    HalfOpen,
}

impl Why {
    fn body(self) -> Map<String, Value> {
        let mut body = Map::from_iter([("reason".to_owned(), json!(self.reason))]);
        body.extend(self.within.map(|within| ("for".to_owned(), json!(within))));
        body
    }
}

/// Pauses a destination.
pub async fn pause(args: PauseArgs) -> Result<(), Failure> {
    decide(&args.connection, &args.destination, "pause", args.why.body(), "is paused").await
}

/// Resumes a destination.
pub async fn resume(args: ResumeArgs) -> Result<(), Failure> {
    decide(&args.connection, &args.destination, "resume", Map::new(), "is resumed").await
}

/// Sets the breaker of a destination.
pub async fn breaker(args: BreakerArgs) -> Result<(), Failure> {
    let (word, done) = match args.state {
        State::Open => ("open", "has its breaker open"),
        State::Closed => ("closed", "has its breaker closed"),
        State::HalfOpen => ("half_open", "is probed"),
    };
    let mut body = args.why.body();
    body.insert("state".to_owned(), json!(word));
    decide(&args.connection, &args.destination, "breaker", body, done).await
}

async fn decide(
    connection: &AdminConnection,
    destination: &str,
    what: &str,
    body: Map<String, Value>,
    done: &str,
) -> Result<(), Failure> {
    let admin = Admin::of(connection)?;
    let path = format!("/v1/destinations/{}/{what}", encoded(destination));
    let decided: Decided = admin.post(&path, &Value::Object(body)).await?;
    match connection.shared.form() {
        Form::Json => output::json(&decided),
        Form::Table => output::text(&sentence(destination, done, decided.until, format::now())),
    }
}

/// The result in one sentence, with the end if there is one. An end in the past is the time of the change itself, and is not
/// shown.
fn sentence(destination: &str, done: &str, until: Option<Time>, now: Timestamp) -> String {
    let until = until.filter(|until| until.0 > now);
    let until = until.map(|until| format!(" until {until} ({})", format::ago(until, now)));
    format!("{destination} {done}{}\n", until.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_in_the_past_is_not_shown_as_an_end() {
        let now = format::instant("2026-03-19T22:04:48Z").unwrap();
        let said = |until: Option<&str>| {
            let until = until.and_then(format::instant).map(Time);
            sentence("crm", "has its breaker closed", until, now)
        };
        assert_eq!(said(Some("2026-03-19T22:04:47.998Z")), "crm has its breaker closed\n");
        assert_eq!(said(None), "crm has its breaker closed\n");
        let lasting = "crm has its breaker closed until 2026-03-19T22:34:48.000Z (in 30m)\n";
        assert_eq!(said(Some("2026-03-19T22:34:48Z")), lasting);
    }
}
