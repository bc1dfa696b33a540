//! `holdline dlq`: lists, shows, redrives and purges dead letters.

use crate::api::{self, Changed, RedriveAnswer};
use crate::cli::admin_connection::{AdminConnection, Form};
use crate::cli::client::{Admin, encoded, with_query};
use crate::cli::filter::{self, DeadFilter, Filter, Pages};
use crate::cli::table::{Column, Table};
use crate::cli::terminal::{Counter, with_progress};
use crate::cli::{Failure, events, format, hint, output, redrive, terminal};
use crate::time::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// The path of each change, and the counter that shows its progress.
const REDRIVE: (&str, Counter) = ("/v1/dlq/redrive", Counter::Redriven);
const PURGE: (&str, Counter) = ("/v1/dlq/purge", Counter::Discarded);

/// Arguments of `holdline dlq`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connection: AdminConnection,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List dead letters, oldest first
    List(List),
    /// Show one dead letter with every attempt and what was answered
    Show(Show),
    /// Send dead letters again; they go ahead of later events of their interaction
    Redrive(Redrive),
    /// Show how far redrives with --rate or --canary have come, and how the last ones ended
    Redrives,
    /// Discard dead letters for good
    Purge(Purge),
    /// Print dead letters with their bodies, one JSON object a line
    Export(Export),
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    dead: DeadFilter,
    #[command(flatten)]
    pages: Pages,
}

#[derive(Debug, clap::Args)]
struct Export {
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    dead: DeadFilter,
    /// Write to this file, which must not be there yet, instead of the standard output
    #[arg(long, value_name = "FILE")]
    to: Option<std::path::PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Show {
    /// The event's id, or EVENT/DESTINATION
    #[arg(value_name = "ID")]
    id: String,
    /// Print the body as it was received, and nothing else
    #[arg(long, conflicts_with = "json")]
    body: bool,
    /// The destination, where the event is dead for several
    #[arg(long, value_name = "NAME")]
    destination: Option<String>,
}

/// Which dead letters a change is about: ids, or all that pass the filters, or all.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("chosen").required(true).multiple(true)
    .args(["ids", "destination", "source", "kind", "interaction", "reason", "since", "until", "all"]))]
struct Choice {
    /// EVENT/DESTINATION, one dead letter; or EVENT: all dead letters of that event, or with --destination only that one
    #[arg(value_name = "ID", conflicts_with_all = ["source", "kind", "interaction", "reason", "since", "until", "all"])]
    ids: Vec<String>,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    dead: DeadFilter,
    /// All dead letters
    #[arg(long, conflicts_with_all = ["destination", "source", "kind", "interaction", "reason", "since", "until"])]
    all: bool,
    /// Only say how many it would be
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, clap::Args)]
#[command(override_usage = "holdline dlq redrive [OPTIONS] <ID...|FILTERS|--all|--cancel DESTINATION>")]
struct Redrive {
    #[command(flatten)]
    choice: Choice,
    #[command(flatten)]
    pace: redrive::Pace,
    /// End the redrive of this destination; what it has not queued again yet stays dead
    #[arg(long, value_name = "DESTINATION", group = "chosen", conflicts_with_all = ["ids", "destination", "source",
        "kind", "interaction", "reason", "since", "until", "all", "dry_run", "rate", "canary", "detach"])]
    cancel: Option<String>,
}

#[derive(Debug, clap::Args)]
#[command(override_usage = "holdline dlq purge [OPTIONS] <ID...|FILTERS|--all>")]
struct Purge {
    #[command(flatten)]
    choice: Choice,
    /// Do not ask first
    #[arg(long)]
    yes: bool,
}

impl Choice {
    /// The request body without `dry_run`.
    fn request(&self) -> Map<String, Value> {
        let mut request = Map::new();
        if self.all {
            request.insert("all".to_owned(), json!(true));
        } else if self.ids.is_empty() {
            let filter = filter::object(self.filter.pairs().chain(self.dead.pairs()));
            request.insert("filter".to_owned(), Value::Object(filter));
        } else {
            request.insert("ids".to_owned(), json!(self.ids));
            request.extend(filter::object(self.filter.pairs()));
        }
        request
    }
}

/// Runs a `dlq` command.
pub async fn run(args: Args) -> Result<(), Failure> {
    let admin = Admin::of(&args.connection)?;
    let form = args.connection.shared.form();
    match args.what {
        What::List(list) => self::list(&admin, &list, form).await,
        What::Show(show) => self::show(&admin, &show, form).await,
        What::Export(export) => {
            let pairs = export.filter.pairs().chain(export.dead.pairs());
            let path = with_query("/v1/dlq/export", pairs);
            crate::cli::download::lines(&admin, &path, export.to.as_deref()).await
        }
        What::Redrive(Redrive { cancel: Some(destination), .. }) => redrive::cancel(&admin, &destination, form).await,
        What::Redrive(redrive) => {
            let answer: RedriveAnswer = change(&admin, REDRIVE, &redrive.choice, redrive.pace.fields(), form).await?;
            match answer.redrives.as_slice() {
                [] => {
                    report(&answer, &answer.changed, &redrive.choice, ("would be queued again", "queued again"), form)?;
                    how_to_follow(&answer.changed, &redrive.choice, form)
                }
                begun => redrive::follow(&admin, begun, &redrive.pace, form).await,
            }
        }
        What::Redrives => redrive::list(&admin, form).await,
        What::Purge(purge) => {
            let shown =
                if purge.choice.dry_run || purge.yes { Map::new() } else { ask_first(&admin, &purge.choice).await? };
            let changed: Changed = change(&admin, PURGE, &purge.choice, shown, form).await?;
            report(&changed, &changed, &purge.choice, ("would be discarded", "discarded"), form)
        }
    }
}

async fn list(admin: &Admin, list: &List, form: Form) -> Result<(), Failure> {
    let pairs: Vec<(&str, &str)> = list.filter.pairs().chain(list.dead.pairs()).collect();
    match form {
        Form::Json => filter::print_json(admin, "/v1/dlq", &pairs, &list.pages).await,
        Form::Table => {
            let now = format::now();
            filter::print_tables(admin, "/v1/dlq", &pairs, &list.pages, |items| rows(items, now).for_stdout()).await
        }
    }
}

fn rows(items: &[api::DeadLetter], now: Timestamp) -> Table {
    let mut table = Table::new([
        Column::fixed("ID"),
        Column::fixed("REASON"),
        Column::dispensable("LAST", 2),
        Column::dispensable("DIED", 1),
        Column::dispensable("DESTINATION", 3),
        Column::dispensable("TRIES", 4).right(),
        Column::dispensable("TYPE", 5).shrinking_to(14),
        Column::dispensable("INTERACTION", 6).shrinking_to(14),
    ]);
    for dead_letter in items {
        let last = dead_letter.attempts.last();
        table.row([
            dead_letter.id.to_string(),
            dead_letter.reason.word().to_owned(),
            last.map_or_else(|| "-".to_owned(), last_outcome),
            format::ago(dead_letter.dead_at, now),
            format::line(&dead_letter.destination, 20),
            last.map_or(0, |last| last.number).to_string(),
            format::line(&dead_letter.event_type, 50),
            format::line(format::or_dash(dead_letter.interaction.as_deref()), 40),
        ]);
    }
    table
}

/// Like [`events::outcome`], but only the status of a response.
fn last_outcome(attempt: &api::Attempt) -> String {
    let outcome = events::outcome(attempt);
    outcome.strip_prefix("status ").map_or_else(|| outcome.clone(), str::to_owned)
}

async fn show(admin: &Admin, show: &Show, form: Form) -> Result<(), Failure> {
    let (event, destination) = filter::one(&show.id, show.destination.as_deref())?;
    let path = |tail: &str| {
        let destination = destination.map(|name| ("destination", name));
        with_query(&format!("/v1/dlq/{}{tail}", encoded(event)), destination)
    };
    if show.body {
        return output::bytes(&admin.get_bytes(&path("/body")).await?);
    }
    match form {
        Form::Json => output::json(&admin.get::<Value>(&path("")).await?),
        Form::Table => output::text(&detail(&admin.get(&path("")).await?, format::now())),
    }
}

/// One dead letter with all its attempts.
fn detail(of: &api::DeadLetter, now: Timestamp) -> String {
    let head = events::Head {
        id: of.id,
        sequence: of.sequence,
        source: &of.source,
        event_type: &of.event_type,
        interaction: of.interaction.as_deref(),
        sender_id: of.sender_id.as_deref(),
        event_time: of.event_time,
        received_at: of.received_at,
        size: of.size,
        conflict: of.conflict,
    };
    let died = format::ago(of.dead_at, now);
    let redriven = if of.redriven { ", redriven before" } else { "" };
    let mut text = events::head(&head, now);
    text.push_str(&format!(
        "{:<12} {}
",
        "destination", of.destination
    ));
    text.push_str(&format!(
        "{:<12} {}, {died}{redriven}

",
        "dead",
        of.reason.word()
    ));
    let others = of.also_dead_for.as_deref().unwrap_or_default();
    if !others.is_empty() {
        let others: Vec<String> = others.iter().map(|name| format::line(name, 63)).collect();
        text.push_str(&format!(
            "{:<12} {}

",
            "also dead for",
            others.join(", ")
        ));
    }
    match of.attempts.as_slice() {
        [] => text.push_str(
            "It was never attempted.
",
        ),
        attempts => text.push_str(&events::attempts(attempts, now)),
    }
    text
}

/// Requests a change of the selected dead letters; a dry run if that was requested.
async fn change<T: DeserializeOwned>(
    admin: &Admin,
    (path, counter): (&str, Counter),
    choice: &Choice,
    more: Map<String, Value>,
    form: Form,
) -> Result<T, Failure> {
    let mut request = choice.request();
    request.extend(more);
    request.insert("dry_run".to_owned(), json!(choice.dry_run));
    with_progress(admin, form, counter, admin.post(path, &Value::Object(request))).await
}

/// Prints the result of a change. Fails if an id matched nothing, or if the change is incomplete.
fn report(
    answer: &impl Serialize,
    changed: &Changed,
    choice: &Choice,
    (would, did): (&str, &str),
    form: Form,
) -> Result<(), Failure> {
    let (matched, done, scope) = (changed.matched as u64, changed.done as u64, filter::scope(changed));
    let dead_letters = format::counted(matched, "dead letter");
    match form {
        Form::Json => output::json(answer)?,
        Form::Table if choice.dry_run => output::text(&format!(
            "{dead_letters} {would}{scope}
"
        ))?,
        Form::Table => output::text(&format!(
            "{} {did}{scope}
",
            format::counted(done, "dead letter")
        ))?,
    }
    if matched == 0 && !choice.ids.is_empty() {
        let list = hint::command("dlq list");
        return Err(Failure::Operation(format!("no dead letter has these ids; `{list}` shows those there are")));
    }
    if !choice.dry_run && done < matched {
        return Err(Failure::Operation(format!(
            "{dead_letters} matched, but only {} {did}; the daemon's log says why",
            format::count(done)
        )));
    }
    Ok(())
}

/// Prints the commands that show the deliveries of a redrive.
fn how_to_follow(changed: &Changed, choice: &Choice, form: Form) -> Result<(), Failure> {
    if choice.dry_run || changed.done == 0 || form == Form::Json {
        return Ok(());
    }
    let command = |name: &String| hint::command(&format!("explain --destination {}", hint::quoted(name)));
    let commands: Vec<String> = changed
        .destinations
        .keys()
        .map(|name| {
            format!(
                "    {}
",
                command(name)
            )
        })
        .collect();
    output::text(&format!(
        "  to follow their deliveries:
{}",
        commands.concat()
    ))
}

/// Shows a dry run and asks for confirmation; returns the request, limited to what was shown.
async fn ask_first(admin: &Admin, choice: &Choice) -> Result<Map<String, Value>, Failure> {
    let mut request = choice.request();
    request.insert("dry_run".to_owned(), json!(true));
    let would: Changed = admin.post("/v1/dlq/purge", &Value::Object(request)).await?;
    let dead_letters = format::counted(would.matched as u64, "dead letter");
    terminal::confirm_discard(&format!("{dead_letters}{}", filter::scope(&would)))?;
    Ok(would.as_of.map(|as_of| ("as_of".to_owned(), json!(as_of))).into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn choice(line: &str) -> Choice {
        let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
        match cli.command {
            Command::Dlq(Args { what: What::Redrive(redrive), .. }) => redrive.choice,
            Command::Dlq(Args { what: What::Purge(purge), .. }) => purge.choice,
            _ => panic!("not a change"),
        }
    }

    #[test]
    fn a_choice_becomes_ids_or_a_filter() {
        let cases = [
            ("holdline dlq redrive --all", json!({"all": true})),
            ("holdline dlq purge a/crm b/erp", json!({"ids": ["a/crm", "b/erp"]})),
            ("holdline dlq redrive a b", json!({"ids": ["a", "b"]})),
            ("holdline dlq redrive a --destination crm", json!({"ids": ["a"], "destination": "crm"})),
            (
                "holdline dlq purge --destination crm --reason permanent --type t --dry-run",
                json!({"filter": {"destination": "crm", "reason": "permanent", "type": "t"}}),
            ),
        ];
        for (line, request) in cases {
            assert_eq!(Value::Object(choice(line).request()), request, "{line}");
        }
    }

    #[test]
    fn ids_that_match_nothing_fail_and_filters_do_not() {
        let report = |line: &str, matched: usize, done: usize| {
            let changed = Changed { matched, done, ..Changed::default() };
            super::report(&changed, &changed, &choice(line), ("", ""), Form::Json).map_err(|f| f.code())
        };
        assert_eq!(report("holdline dlq redrive a", 0, 0), Err(1));
        assert_eq!(report("holdline dlq redrive --all", 0, 0), Ok(()));
        assert_eq!(report("holdline dlq redrive --all", 3, 2), Err(1));
        assert_eq!(report("holdline dlq redrive --all --dry-run", 3, 0), Ok(()));
    }

    #[test]
    fn the_detail_view_shows_every_attempt_and_answer() {
        let now = format::instant("2026-03-19T22:04:48Z").unwrap();
        let attempt = |number: u32, outcome: &str, status: Option<u16>, error: &str, answer: &str| {
            json!({"number": number, "at": "2026-03-19T22:04:30Z", "latency_ms": 1200, "outcome": outcome,
                "ambiguous": false, "status": status, "error": error, "answer": answer})
        };
        let dead_letter = json!({"id": "0195b1c2-7a3e-7000-8000-0123456789ab", "sequence": 1, "destination": "crm",
            "reason": "permanent", "dead_at": "2026-03-19T22:04:38Z", "source": "genesys", "type": "t",
            "interaction": null, "sender_id": null, "event_time": null, "received_at": "2026-03-19T22:04:29Z",
            "size": 3, "conflict": false, "redriven": true, "attempts": [
                attempt(1, "timeout", None, "no answer", ""),
                attempt(2, "answered", Some(422), "", "{\"wrong\":\"field\"}")]});
        let text = detail(&serde_json::from_value(dead_letter).unwrap(), now);
        for part in ["permanent, 10s ago, redriven before", "timeout", "1.2s", "status 422", "answer 2: {\"wrong\""] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
    }
}
