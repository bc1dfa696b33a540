//! `holdline explain`: where an event, an interaction or a destination stands, what blocks it, until when, behind
//! what, and who set that.

use crate::cli::admin_connection::{AdminConnection, Form};
use crate::cli::client::{Admin, encoded, with_query};
use crate::cli::{Failure, events, format, item, output, status};
use crate::time::Timestamp;
use serde_json::{Value, json};
use std::fmt::Write;

/// Arguments of `holdline explain`.
#[derive(Debug, clap::Args)]
#[command(override_usage = "holdline explain [OPTIONS] <ID|--interaction KEY|--destination NAME>")]
#[command(group = clap::ArgGroup::new("what").required(true).args(["id", "interaction", "destination"]))]
pub struct Args {
    #[command(flatten)]
    reach: AdminConnection,
    /// The event's id, or SOURCE:ID with the sender's own id
    #[arg(value_name = "EVENT_ID")]
    id: Option<String>,
    /// All that is known of this interaction (conversation)
    #[arg(long, value_name = "KEY")]
    interaction: Option<String>,
    /// What blocks this destination
    #[arg(long, value_name = "NAME")]
    destination: Option<String>,
}

/// So many events of a chain, each waiting for the next, are told.
const CHAIN_MAX: usize = 8;
/// So many events of an interaction are told.
const SHOWN: usize = 10;
/// So many of each state are told of those first in line of a destination.
const FIRST: &str = "3";

/// Runs the command.
pub async fn run(args: Args) -> Result<(), Failure> {
    let admin = Admin::of(&args.reach)?;
    let answer = match (&args.id, &args.interaction, &args.destination) {
        (Some(id), ..) => json!({"chain": chain(&admin, id).await?}),
        (None, Some(key), _) => interaction(&admin, key).await?,
        (None, None, Some(name)) => destination(&admin, name).await?,
        (None, None, None) => return Err(Failure::Usage("say which event, interaction or destination".into())),
    };
    match args.reach.shared.form() {
        Form::Json => output::json(&answer),
        Form::Table => output::wrapped(&told(&answer, format::now())),
    }
}

/// The event, the one it waits for, and so on.
async fn chain(admin: &Admin, id: &str) -> Result<Vec<Value>, Failure> {
    let mut chain = vec![admin.get(&format!("/v1/events/{}", encoded(id))).await?];
    while let Some(behind) = chain.last().and_then(behind).filter(|_| chain.len() < CHAIN_MAX) {
        let next = admin.get(&format!("/v1/events/{}", encoded(&behind))).await?;
        // what moves meanwhile can make a ring, but never one that lasts
        if chain.iter().any(|known| known["id"] == next["id"]) {
            break;
        }
        chain.push(next);
    }
    Ok(chain)
}

/// The event that the first blocked delivery of an event waits for.
fn behind(event: &Value) -> Option<String> {
    let deliveries = item::list(event, "deliveries").iter();
    deliveries.filter_map(|d| item::some_text(d, "blocked_by/behind")).next().map(str::to_owned)
}

async fn interaction(admin: &Admin, key: &str) -> Result<Value, Failure> {
    let mut all = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let pairs = [("interaction", Some(key)), ("limit", Some("500")), ("after", after.as_deref())];
        let pairs = pairs.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let page = admin.get(&with_query("/v1/events", pairs)).await?;
        all.extend(item::list(&page, "items").iter().cloned());
        match item::some_text(&page, "next") {
            Some(next) => after = Some(next.to_owned()),
            None => break,
        }
    }
    let open: Vec<Value> = all.iter().filter(|e| is_open(e)).cloned().collect();
    let last = all.iter().rev().find(|e| !is_open(e)).cloned();
    Ok(json!({"interaction": key, "known": all.len(), "last_ended": last, "waiting": open}))
}

fn is_open(event: &Value) -> bool {
    let ended = |d: &Value| matches!(item::some_text(d, "state"), Some("delivered" | "discarded"));
    !item::list(event, "deliveries").iter().all(ended)
}

async fn destination(admin: &Admin, name: &str) -> Result<Value, Failure> {
    let stands = admin.get(&format!("/v1/destinations/{}", encoded(name))).await?;
    let mut first = Vec::new();
    for state in ["in_flight", "queued", "delayed", "blocked"] {
        let path = with_query("/v1/events", [("destination", name), ("state", state), ("limit", FIRST)]);
        for event in item::list(&admin.get(&path).await?, "items") {
            // one that moved on between two looks is told as it was seen first
            if !first.iter().any(|known: &Value| known["id"] == event["id"]) {
                first.push(event.clone());
            }
        }
    }
    Ok(json!({"destination": stands, "first_in_line": first}))
}

fn told(answer: &Value, now: Timestamp) -> String {
    if let Some(stands) = item::find(answer, "destination") {
        return of_destination(stands, item::list(answer, "first_in_line"), now);
    }
    if item::find(answer, "interaction").is_some() {
        return of_interaction(answer, now);
    }
    let mut text = String::new();
    for (n, event) in item::list(answer, "chain").iter().enumerate() {
        if n > 0 {
            text.push_str("\nwhich is\n");
        }
        text.push_str(&events::story(event, now));
    }
    text
}

fn of_destination(stands: &Value, first: &[Value], now: Timestamp) -> String {
    let n = |path| format::count(item::number(stands, path));
    let mut text = format!(
        "{}: {} waiting ({} delayed, {} blocked), {} of {} in flight, {} dead\n",
        item::text(stands, "name"),
        n("queue/depth"),
        n("queue/delayed"),
        n("queue/blocked"),
        n("concurrency/in_flight"),
        n("concurrency/limit"),
        n("counters/dead"),
    );
    if let Some(age) = item::duration_ms(stands, "queue/oldest_age_ms").filter(|_| n("queue/depth") != "0") {
        writeln!(text, "the oldest waits for {}", format::age(age)).expect("writing to a String cannot fail");
    }
    let (holds, behind) = (item::list(stands, "blocked_by"), status::behind_dead_letters(stands));
    if holds.is_empty() && behind.is_none() {
        text.push_str("nothing blocks it as a whole\n");
    }
    for hold in holds {
        writeln!(text, "blocked {}", events::blocker(hold, now)).expect("writing to a String cannot fail");
    }
    text.push_str(&behind.unwrap_or_default());
    text.push_str(&forced(stands, now));
    if !first.is_empty() {
        let name = item::some_text(stands, "name");
        let all = first.iter().flat_map(|e| item::list(e, "deliveries").iter().map(move |d| (e, d)));
        let ours = all.filter(|(_, d)| name.is_none_or(|name| item::some_text(d, "destination") == Some(name)));
        text.push_str("\nfirst in line:\n");
        ours.for_each(|(event, delivery)| text.push_str(&line(event, delivery, now)));
    }
    text
}

/// A breaker that stands closed by somebody's word does not open, whatever the calls say.
fn forced(stands: &Value, now: Timestamp) -> String {
    let until = item::some_text(stands, "breaker/until");
    let lasts = until.and_then(format::instant).is_some_and(|until| until > now);
    match (item::some_text(stands, "breaker/state"), item::some_text(stands, "breaker/set_by"), until) {
        (Some("closed"), Some(who), Some(until)) if lasts => {
            let why = item::some_text(stands, "breaker/reason").map(|why| format!(" ({})", format::line(why, 200)));
            let why = why.unwrap_or_default();
            format!(
                "its breaker is kept closed until {until} ({}), set by {who}{why}: it does not open meanwhile\n",
                format::ago(until, now)
            )
        }
        _ => String::new(),
    }
}

fn of_interaction(answer: &Value, now: Timestamp) -> String {
    let waiting = item::list(answer, "waiting");
    let mut text = format!(
        "{}: {} known, {} of them not ended\n",
        format::line(&item::text(answer, "interaction"), 200),
        format::counted(item::number(answer, "known"), "event"),
        format::count(waiting.len() as u64),
    );
    if let Some(last) = item::find(answer, "last_ended").filter(|l| l.is_object()) {
        text.push_str("\nlast that ended:\n");
        text.push_str(&lines(std::slice::from_ref(last), now));
    }
    if !waiting.is_empty() {
        text.push_str("\nnot ended, oldest first:\n");
        text.push_str(&lines(waiting, now));
    }
    text
}

/// A line for each delivery: event, destination, state, and what it waits for.
fn lines(events: &[Value], now: Timestamp) -> String {
    let mut text = String::new();
    for event in events.iter().take(SHOWN) {
        for delivery in item::list(event, "deliveries") {
            text.push_str(&line(event, delivery, now));
        }
    }
    if events.len() > SHOWN {
        writeln!(text, "  and {} more", format::count((events.len() - SHOWN) as u64))
            .expect("writing to a String cannot fail");
    }
    text
}

fn line(event: &Value, delivery: &Value, now: Timestamp) -> String {
    let by: Vec<String> = events::blockers(delivery).map(|by| events::blocker(by, now)).collect();
    let waits = match (item::text(delivery, "state").as_str(), by.is_empty()) {
        (_, true) => String::new(),
        ("blocked", false) => format!(" {}", by.join(", and ")),
        (_, false) => format!(", blocked {}", by.join(", and ")),
    };
    let (id, to) = (item::text(event, "id"), item::text(delivery, "destination"));
    format!("  {id} to {to}: {}{waits}\n", events::progress(delivery, now))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: &str, delivery: Value) -> Value {
        json!({"id": id, "received_at": "2026-03-19T22:04:38Z", "deliveries": [delivery]})
    }

    #[test]
    fn explain_follows_a_chain_of_blockers_to_its_end() {
        let now = format::instant("2026-03-19T22:04:48Z").unwrap();
        let held = json!({"destination": "crm", "state": "blocked",
            "blocked_by": {"blocker": "order", "behind": "first", "set_by": "ordering"}});
        let delayed = json!({"destination": "crm", "state": "delayed",
            "blocked_by": {"blocker": "retry_backoff", "until": "2026-03-19T22:05:48Z", "set_by": "retry"}});
        let (second, first) = (event("second", held), event("first", delayed));
        assert_eq!(behind(&second).as_deref(), Some("first"));
        assert_eq!(behind(&first), None);
        let text = told(&json!({"chain": [second, first]}), now);
        let parts = ["blocked by order, behind first, set by ordering", "which is", "blocked by retry_backoff until"];
        let found: Vec<_> = parts.iter().map(|p| text.find(p).unwrap_or_else(|| panic!("{p}\n{text}"))).collect();
        assert!(found.is_sorted(), "{text}");
        assert!(text.contains("(in 1m)"), "{text}");
    }

    #[test]
    fn explain_shows_blocking_dead_letters_and_a_forced_breaker() {
        let now = format::instant("2026-03-19T22:04:48Z").unwrap();
        let behind = json!({"interactions": 1, "deliveries": 2, "oldest_age_ms": 180_000});
        let held = event(
            "a",
            json!({"destination": "perm", "state": "blocked",
            "blocked_by": {"blocker": "order", "behind": "z", "set_by": "ordering"}}),
        );
        let stands = json!({"name": "perm", "queue": {"depth": 2, "blocked": 2, "oldest_age_ms": 180_000,
            "behind_dead_letters": behind}, "blocked_by": [], "breaker": {"state": "closed", "set_by": "ann",
            "until": "2026-03-19T22:34:48Z", "reason": "it is sound"}});
        let text = told(&json!({"destination": stands, "first_in_line": [held]}), now);
        for part in [
            "the oldest waits for 3m\n",
            "2 deliveries of 1 interaction wait behind dead letters of perm, the oldest for 3m",
            "holdline dlq redrive --destination perm",
            "its breaker is kept closed until 2026-03-19T22:34:48Z (in 30m), set by ann (it is sound)",
            "a to perm: blocked by order, behind z",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains("nothing blocks it"), "{text}");
    }

    #[test]
    fn explain_prints_destinations_and_interactions_as_lines() {
        let now = format::instant("2026-03-19T22:04:48Z").unwrap();
        let stands = json!({"name": "crm", "queue": {"depth": 5, "delayed": 2, "blocked": 1}, "counters": {"dead": 3},
            "concurrency": {"limit": 8, "in_flight": 1},
            "blocked_by": [{"blocker": "retry_after", "until": "2026-03-19T22:05:48Z", "set_by": "destination", "reason": "Retry-After"}]});
        let queued = event(
            "a",
            json!({"destination": "crm", "state": "queued",
            "blocked_by": {"blocker": "concurrency", "set_by": "configuration"}}),
        );
        let text = told(&json!({"destination": stands, "first_in_line": [queued]}), now);
        for part in [
            "crm: 5 waiting (2 delayed, 1 blocked), 1 of 8 in flight, 3 dead",
            "blocked by retry_after until",
            "(Retry-After)",
            "a to crm: queued, blocked by concurrency",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        let line = format!("\n{}", told(&json!({"destination": {"name": "crm"}, "first_in_line": []}), now));
        assert!(line.contains("\nnothing blocks it as a whole\n"), "{line}");
        let done = event("b", json!({"destination": "crm", "state": "delivered"}));
        assert!(!is_open(&done) && is_open(&queued));
        let text = told(&json!({"interaction": "k", "known": 2, "last_ended": done, "waiting": [queued]}), now);
        assert!(text.starts_with("k: 2 events known, 1 of them not ended\n"), "{text}");
    }
}
