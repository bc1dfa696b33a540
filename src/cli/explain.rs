//! `holdline explain`: the state of an event, an interaction or a destination, what blocks it, until when, behind what, and
//! who set that.

use crate::api::{self, DeliveryState, Page};
use crate::cli::admin_connection::{AdminConnection, Form};
use crate::cli::client::{Admin, encoded, with_query};
use crate::cli::{Failure, events, format, output, status};
use crate::time::Timestamp;
use serde::Serialize;
use std::time::Duration;

/// Arguments of `holdline explain`.
#[derive(Debug, clap::Args)]
#[command(override_usage = "holdline explain [OPTIONS] <ID|--interaction KEY|--destination NAME>")]
#[command(group = clap::ArgGroup::new("what").required(true).args(["id", "interaction", "destination"]))]
pub struct Args {
    #[command(flatten)]
    connection: AdminConnection,
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

/// Events shown of a chain in which each waits for the next.
const CHAIN_MAX: usize = 8;
/// Events shown of an interaction.
const SHOWN: usize = 10;
/// Events shown of each state from the head of a destination's queue.
const FIRST: &str = "3";

/// The output.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Explanation {
    Event {
        /// The event, the event it waits for, and so on.
        chain: Vec<api::Event>,
    },
    Interaction {
        interaction: String,
        known: usize,
        last_ended: Option<Box<api::Event>>,
        waiting: Vec<api::Event>,
    },
    Destination {
        destination: Box<api::Destination>,
        first_in_line: Vec<api::Event>,
    },
}

pub async fn run(args: Args) -> Result<(), Failure> {
    let admin = Admin::of(&args.connection)?;
    let explanation = match (&args.id, &args.interaction, &args.destination) {
        (Some(id), ..) => event(&admin, id).await?,
        (None, Some(key), _) => interaction(&admin, key).await?,
        (None, None, Some(name)) => destination(&admin, name).await?,
        (None, None, None) => return Err(Failure::Usage("say which event, interaction or destination".into())),
    };
    match args.connection.shared.form() {
        Form::Json => output::json(&explanation),
        Form::Table => output::wrapped(&text(&explanation, format::now())),
    }
}

async fn event(admin: &Admin, id: &str) -> Result<Explanation, Failure> {
    let mut chain: Vec<api::Event> = vec![admin.get(&format!("/v1/events/{}", encoded(id))).await?];
    while let Some(behind) = chain.last().and_then(behind).filter(|_| chain.len() < CHAIN_MAX) {
        let next: api::Event = admin.get(&format!("/v1/events/{}", encoded(&behind))).await?;
        // events that move between two requests can form a cycle
        if chain.iter().any(|known| known.id == next.id) {
            break;
        }
        chain.push(next);
    }
    Ok(Explanation::Event { chain })
}

/// The event that the first blocked delivery of an event waits for.
fn behind(event: &api::Event) -> Option<String> {
    event.deliveries.iter().filter_map(|d| d.blocked_by.as_ref()?.behind.clone()).next()
}

async fn interaction(admin: &Admin, key: &str) -> Result<Explanation, Failure> {
    let mut all: Vec<api::Event> = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let pairs = [("interaction", Some(key)), ("limit", Some("500")), ("after", after.as_deref())];
        let pairs = pairs.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let page: Page<api::Event> = admin.get(&with_query("/v1/events", pairs)).await?;
        all.extend(page.items);
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    let known = all.len();
    let (waiting, ended): (Vec<_>, Vec<_>) = all.into_iter().partition(is_open);
    Ok(Explanation::Interaction {
        interaction: key.to_owned(),
        known,
        last_ended: ended.into_iter().next_back().map(Box::new),
        waiting,
    })
}

fn is_open(event: &api::Event) -> bool {
    let ended = |d: &api::Delivery| matches!(d.state, DeliveryState::Delivered | DeliveryState::Discarded);
    !event.deliveries.iter().all(ended)
}

async fn destination(admin: &Admin, name: &str) -> Result<Explanation, Failure> {
    let destination = admin.get(&format!("/v1/destinations/{}", encoded(name))).await?;
    let mut first_in_line: Vec<api::Event> = Vec::new();
    for state in DeliveryState::OPEN {
        let path = with_query("/v1/events", [("destination", name), ("state", state.word()), ("limit", FIRST)]);
        for event in admin.get::<Page<api::Event>>(&path).await?.items {
            // an event that changes state between two requests is shown as first seen
            if !first_in_line.iter().any(|known| known.id == event.id) {
                first_in_line.push(event);
            }
        }
    }
    Ok(Explanation::Destination { destination: Box::new(destination), first_in_line })
}

fn text(explanation: &Explanation, now: Timestamp) -> String {
    match explanation {
        Explanation::Event { chain } => {
            let events: Vec<String> = chain.iter().map(|event| events::detail(event, now)).collect();
            events.join("\nwhich is\n")
        }
        Explanation::Interaction { interaction, known, last_ended, waiting } => {
            let mut text = format!(
                "{}: {} known, {} of them not ended\n",
                format::line(interaction, 200),
                format::counted(*known as u64, "event"),
                format::count(waiting.len() as u64),
            );
            if let Some(last) = last_ended {
                text.push_str("\nlast that ended:\n");
                text.push_str(&lines(std::slice::from_ref(&**last), now));
            }
            if !waiting.is_empty() {
                text.push_str("\nnot ended, oldest first:\n");
                text.push_str(&lines(waiting, now));
            }
            text
        }
        Explanation::Destination { destination, first_in_line } => of_destination(destination, first_in_line, now),
    }
}

fn of_destination(destination: &api::Destination, first_in_line: &[api::Event], now: Timestamp) -> String {
    let api::Destination { name, queue, concurrency, counters, .. } = destination;
    let mut text = format!(
        "{name}: {} waiting ({} delayed, {} blocked), {} of {} in flight, {} dead\n",
        format::count(queue.depth),
        format::count(queue.delayed as u64),
        format::count(queue.blocked as u64),
        format::count(concurrency.in_flight as u64),
        format::count(concurrency.limit as u64),
        format::count(counters.dead),
    );
    if queue.depth > 0 {
        let oldest = Duration::from_millis(queue.oldest_age_ms);
        text.push_str(&format!("the oldest waits for {}\n", format::age(oldest)));
    }
    let behind = status::behind_dead_letters(destination);
    match destination.blocked_by.as_slice() {
        [] if behind.is_none() => text.push_str("nothing blocks it as a whole\n"),
        blockers if destination.state == api::DestinationState::Pacing => {
            let by: Vec<String> = blockers.iter().map(|by| events::blocker(by, now)).collect();
            text.push_str(&format!("pacing: it is sent to at its limit, {}\n", by.join(", and ")));
        }
        blockers => blockers.iter().for_each(|by| text.push_str(&format!("blocked {}\n", events::blocker(by, now)))),
    }
    text.push_str(&behind.unwrap_or_default());
    text.push_str(&kept_closed(&destination.breaker, now));
    if !first_in_line.is_empty() {
        text.push_str("\nfirst in line:\n");
        for event in first_in_line {
            let ours = event.deliveries.iter().filter(|delivery| delivery.destination == *name);
            ours.for_each(|delivery| text.push_str(&line(event, delivery, now)));
        }
    }
    text
}

/// The note for a breaker that an operator keeps closed: it does not open on failures.
fn kept_closed(breaker: &api::Breaker, now: Timestamp) -> String {
    match (breaker.state, &breaker.set_by, breaker.until.filter(|until| until.0 > now)) {
        (api::BreakerState::Closed, Some(who), Some(until)) => {
            let why = breaker.reason.as_deref().filter(|why| !why.is_empty());
            let why = why.map(|why| format!(" ({})", format::line(why, 200))).unwrap_or_default();
            format!(
                "its breaker is kept closed until {until} ({}), set by {who}{why}: it does not open meanwhile\n",
                format::ago(until, now)
            )
        }
        _ => String::new(),
    }
}

/// One line per delivery: event, destination, state, blocker.
fn lines(events: &[api::Event], now: Timestamp) -> String {
    let mut text = String::new();
    for event in events.iter().take(SHOWN) {
        event.deliveries.iter().for_each(|delivery| text.push_str(&line(event, delivery, now)));
    }
    if events.len() > SHOWN {
        text.push_str(&format!("  and {} more\n", format::count((events.len() - SHOWN) as u64)));
    }
    text
}

fn line(event: &api::Event, delivery: &api::Delivery, now: Timestamp) -> String {
    let by: Vec<String> = delivery.blockers().map(|by| events::blocker(by, now)).collect();
    let blocked = match (delivery.state, by.is_empty()) {
        (_, true) => String::new(),
        (DeliveryState::Blocked, false) => format!(" {}", by.join(", and ")),
        (_, false) => format!(", blocked {}", by.join(", and ")),
    };
    format!("  {} to {}: {}{blocked}\n", event.id, delivery.destination, events::progress(delivery, now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const FIRST_ID: &str = "0195b1c2-7a3e-7000-8000-000000000001";
    const SECOND_ID: &str = "0195b1c2-7a3e-7000-8000-000000000002";

    fn event(id: &str, delivery: Value) -> api::Event {
        events::sample(id, json!([delivery]))
    }

    fn now() -> Timestamp {
        format::instant("2026-03-19T22:04:48Z").unwrap()
    }

    #[test]
    fn explain_follows_a_chain_of_blockers_to_its_end() {
        let blocked = json!({"destination": "crm", "state": "blocked",
            "blocked_by": {"blocker": "order", "behind": FIRST_ID, "set_by": "ordering"}});
        let delayed = json!({"destination": "crm", "state": "delayed",
            "blocked_by": {"blocker": "retry_backoff", "until": "2026-03-19T22:05:48Z", "set_by": "retry"}});
        let (second, first) = (event(SECOND_ID, blocked), event(FIRST_ID, delayed));
        assert_eq!(behind(&second).as_deref(), Some(FIRST_ID));
        assert_eq!(behind(&first), None);
        let text = text(&Explanation::Event { chain: vec![second, first] }, now());
        let parts = [
            &format!("blocked by order, behind {FIRST_ID}, set by ordering"),
            "which is",
            "blocked by retry_backoff until",
        ];
        let found: Vec<_> = parts.iter().map(|p| text.find(*p).unwrap_or_else(|| panic!("{p}\n{text}"))).collect();
        assert!(found.is_sorted(), "{text}");
        assert!(text.contains("(in 1m)"), "{text}");
    }

    fn explained(destination: Value, first_in_line: Vec<api::Event>) -> String {
        let destination = Box::new(api::filled(destination));
        text(&Explanation::Destination { destination, first_in_line }, now())
    }

    #[test]
    fn explain_shows_blocking_dead_letters_and_a_forced_breaker() {
        let blocked = json!({"destination": "perm", "state": "blocked",
            "blocked_by": {"blocker": "dead_letter", "behind": SECOND_ID, "set_by": "ordering"}});
        let destination = json!({"name": "perm", "state": "blocked_by_dlq", "queue": {"depth": 2, "blocked": 2,
            "oldest_age_ms": 180_000,
            "behind_dead_letters": {"interactions": 1, "deliveries": 2, "oldest_age_ms": 180_000}},
            "breaker": {"state": "closed", "set_by": "ann", "until": "2026-03-19T22:34:48Z", "reason": "it is sound"}});
        let text = explained(destination, vec![event(FIRST_ID, blocked)]);
        for part in [
            "the oldest waits for 3m\n",
            "2 deliveries of 1 interaction wait behind dead letters of perm, the oldest for 3m",
            "holdline dlq redrive --destination perm",
            "its breaker is kept closed until 2026-03-19T22:34:48.000Z (in 30m), set by ann (it is sound)",
            &format!("{FIRST_ID} to perm: blocked by dead_letter, behind {SECOND_ID}"),
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains("nothing blocks it"), "{text}");
    }

    #[test]
    fn explain_prints_destinations_and_interactions_as_lines() {
        let destination = json!({"name": "crm", "state": "blocked", "concurrency": {"limit": 8, "in_flight": 1},
            "queue": {"depth": 5, "delayed": 2, "blocked": 1}, "counters": {"dead": 3},
            "blocked_by": [{"blocker": "retry_after", "until": "2026-03-19T22:05:48Z", "set_by": "destination",
                "reason": "Retry-After"}]});
        let queued = event(
            FIRST_ID,
            json!({"destination": "crm", "state": "queued",
                "blocked_by": {"blocker": "concurrency", "set_by": "configuration"}}),
        );
        let shown = explained(destination, vec![queued.clone()]);
        for part in [
            "crm: 5 waiting (2 delayed, 1 blocked), 1 of 8 in flight, 3 dead",
            "blocked by retry_after until",
            "(Retry-After)",
            "to crm: queued, blocked by concurrency",
        ] {
            assert!(shown.contains(part), "{part}\n{shown}");
        }
        assert!(explained(json!({"name": "crm"}), Vec::new()).contains("\nnothing blocks it as a whole\n"));
        let pacing = json!({"name": "crm", "state": "pacing", "blocked_by": [{"blocker": "rate", "set_by": "x"}]});
        let pacing = explained(pacing, Vec::new());
        assert!(pacing.contains("\npacing: it is sent to at its limit, by rate, set by x\n"), "{pacing}");
        let done = event(SECOND_ID, json!({"destination": "crm", "state": "delivered"}));
        assert!(!is_open(&done) && is_open(&queued));
        let of_interaction = Explanation::Interaction {
            interaction: "k".to_owned(),
            known: 2,
            last_ended: Some(Box::new(done)),
            waiting: vec![queued],
        };
        let text = text(&of_interaction, now());
        assert!(text.starts_with("k: 2 events known, 1 of them not ended\n"), "{text}");
    }
}
