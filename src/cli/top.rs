//! `holdline top`: a live view of the status, until Ctrl-C.

use crate::api;
use crate::cli::admin_connection::{AdminConnection, Form};
use crate::cli::client::Admin;
use crate::cli::status::{self, Columns};
use crate::cli::table::{self, Column, Table};
use crate::cli::{Failure, format, output, process};
use crate::clock::Clock;
use crate::time::Timestamp;
use serde_json::{Value, json};
use std::fmt::Write;
use std::time::Duration;

/// Arguments of `holdline top`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connection: AdminConnection,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
    /// End after so many looks
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

/// Shows the status repeatedly until Ctrl-C. If the daemon does not respond, the view says so and keeps trying.
pub async fn run(args: Args) -> Result<(), Failure> {
    let mut terminations = process::terminations().map_err(|e| Failure::io("cannot wait for signals", e))?;
    tokio::select! {
        ended = look(&args) => ended,
        _ = terminations.recv() => Ok(()),
    }
}

async fn look(args: &Args) -> Result<(), Failure> {
    let admin = Admin::of(&args.connection)?;
    let clock = Clock::system();
    let live = output::is_terminal();
    for n in 1.. {
        let shown = match args.connection.shared.form() {
            Form::Json => json_line(&admin).await.and_then(|line| output::json_text(&line)),
            Form::Table => match asked(&admin).await {
                Ok((status, ages)) => {
                    let room = Room { width: table::width(), height: table::height().filter(|_| live) };
                    let view = view(&status, &ages, format::now(), room);
                    if live { output::screen(&view) } else { output::text(&view) }
                }
                Err(Failure::Unreachable(why)) if live && n > 1 => output::screen(&format::wrap(&why, table::width())),
                Err(failure) => Err(failure),
            },
        };
        shown?;
        if args.count.is_some_and(|count| n >= count) {
            return Ok(());
        }
        clock.sleep_until(clock.now().after(Duration::from_secs(args.every))).await;
    }
    Ok(())
}

async fn asked(admin: &Admin) -> Result<(api::Status, Vec<api::Ages>), Failure> {
    let ages: api::Page<api::Ages> = admin.get("/v1/ages").await?;
    Ok((admin.get("/v1/status").await?, ages.items))
}

async fn json_line(admin: &Admin) -> Result<String, Failure> {
    let (status, ages): (Value, Value) = (admin.get("/v1/status").await?, admin.get("/v1/ages").await?);
    Ok(format!("{}\n", json!({"status": status, "ages": ages["items"]})))
}

/// The size of the terminal; none without one.
#[derive(Clone, Copy, Debug)]
struct Room {
    width: Option<usize>,
    height: Option<usize>,
}

/// The lines of a blank line and a heading.
const HEADING: usize = 2;

/// The whole view, within the size of the terminal; destinations are shown before ages.
fn view(status: &api::Status, ages: &[api::Ages], now: Timestamp, room: Room) -> String {
    let mut text = status::head(status, now);
    text.push_str(&rates(status));
    // the cursor needs a line after the last one
    let height = room.height.map_or(usize::MAX, |height| height.saturating_sub(1));
    let left = |text: &str| height.saturating_sub(text.lines().count() + HEADING);
    if left(&text) > 0 {
        text.push_str(&status::destinations(&status.destinations, now, room.width, left(&text), Columns::WithRates));
    }
    if left(&text) > 0 {
        text.push_str(&shape(ages, room.width, left(&text)));
    }
    let fits = |line: &str| match room.width {
        Some(width) if format::columns(line) > width => format::line(line, width),
        _ => line.to_owned(),
    };
    text.lines().take(height).map(|line| fits(line) + "\n").collect()
}

/// Waiting deliveries by age, in at most `lines` lines below the heading: a line per destination, a column per bound, like
/// Postfix's qshape. If the width is too small, the youngest columns are dropped.
fn shape(items: &[api::Ages], width: Option<usize>, lines: usize) -> String {
    let Some(first) = items.first() else { return String::new() };
    let mut heads = vec![Column::fixed("WAITING FOR")];
    heads.extend(first.ages.iter().enumerate().map(|(n, age)| {
        let below = age.below_s.map(|s| format::age(Duration::from_secs(s)));
        let rank = u8::try_from(first.ages.len() - n).unwrap_or(u8::MAX);
        Column::dispensable(below.map_or_else(|| "older".to_owned(), |below| format!("<{below}")), rank).right()
    }));
    let shown = if items.len() > lines { lines.saturating_sub(1) } else { items.len() };
    if shown == 0 {
        return String::new();
    }
    let mut table = Table::new(heads);
    for of in items.iter().take(shown) {
        let counts = of.ages.iter().map(|age| format::count(age.count));
        let name = format::line(&of.destination, 20);
        table.row([name].into_iter().chain(counts).collect::<Vec<_>>());
    }
    let more = match items.len() - shown {
        0 => String::new(),
        n => format!("and {}\n", format::counted(n as u64, "destination")),
    };
    format!("\n{}{more}", table.in_width(width))
}

/// Current rates and forecasts.
fn rates(status: &api::Status) -> String {
    let api::Rates { accepted_per_s, delivered_per_s, dead_per_s } = status.rates;
    let mut text = format!(
        "pace        {accepted_per_s:.1}/s in, {delivered_per_s:.1}/s delivered, {dead_per_s:.1}/s dead
"
    );
    let api::Forecast { drained_in_s, disk_full_in_s } = status.forecast;
    for (seconds, what) in [(drained_in_s, "queue empty"), (disk_full_in_s, "DISK FULL")] {
        if let Some(seconds) = seconds {
            writeln!(text, "forecast    {what} in {}", format::age(Duration::from_secs(seconds)))
                .expect("writing to a String cannot fail");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ages(destination: &str) -> api::Ages {
        let count = |below: Option<u64>, n: u64| json!({"below_s": below, "count": n});
        let bounds = [10, 60, 300, 1_800, 7_200, 28_800, 86_400].map(|below| count(Some(below), 3));
        let ages: Vec<Value> = bounds.into_iter().chain([count(None, 1_200)]).collect::<Vec<_>>();
        serde_json::from_value(json!({"destination": destination, "ages": ages})).unwrap()
    }

    #[test]
    fn ages_are_shown_in_columns_below_their_bounds() {
        let text = shape(&[ages("crm")], None, 10);
        let lines: Vec<&str> = text.trim_start().lines().collect();
        let heads: Vec<&str> = lines[0].split_whitespace().collect();
        assert_eq!(heads, ["WAITING", "FOR", "<10s", "<1m", "<5m", "<30m", "<2h", "<8h", "<1d", "older"]);
        assert_eq!(
            lines[1].split_whitespace().collect::<Vec<_>>(),
            ["crm", "3", "3", "3", "3", "3", "3", "3", "1,200"]
        );
        assert_eq!((shape(&[], None, 10), shape(&[ages("a"), ages("b")], None, 1)), (String::new(), String::new()));
    }

    #[test]
    fn the_view_fits_the_terminal_whatever_it_shows() {
        let name = |n: u64| format!("a-destination-with-a-name-{n}");
        let destinations: Vec<api::Destination> = (0..9)
            .map(|n| {
                api::filled(json!({"name": name(n), "breaker": {"state": "half_open"}, "concurrency": {"limit": 64, "in_flight": 64},
                    "blocked_by": [{"blocker": "breaker", "set_by": "x"},
                        {"blocker": "retry_after", "until": "2026-03-19T22:04:48Z", "set_by": "x"}],
                    "queue": {"depth": 1_234_567, "oldest_age_ms": 700_000_000, "delayed": 1_234, "blocked": 12_345,
                        "behind_dead_letters": {"interactions": 1_234, "deliveries": 12_345, "oldest_age_ms": 1}},
                    "rates": {"accepted_per_s": 12_345.6, "delivered_per_s": 12_345.6, "dead_per_s": 0.1}}))
            })
            .collect();
        let of_ages: Vec<api::Ages> = (0..9).map(|n| ages(&name(n))).collect();
        let status = api::Status {
            destinations,
            ..api::filled(json!({"version": "0.1.0", "state": "running", "intake": {"open": true},
                "last_outage": {"from": "2026-03-19T22:03:48Z", "until": "2026-03-19T22:04:48Z", "refused": 0,
                    "reason": "x".repeat(90)},
                "forecast": {"drained_in_s": 90, "disk_full_in_s": 90_000}}))
        };
        for (width, height) in [(80, 24), (80, 50), (60, 16), (132, 43), (80, 5), (200, 100)] {
            let text = view(&status, &of_ages, Timestamp::ZERO, Room { width: Some(width), height: Some(height) });
            assert!(text.lines().count() < height, "{width}x{height}: {}\n{text}", text.lines().count());
            let widest = text.lines().map(|line| line.chars().count()).max();
            assert!(widest <= Some(width), "{width}x{height}: {widest:?}\n{text}");
            assert!(text.starts_with("holdline    0.1.0"), "the head stays: {text}");
        }
        let text = view(&status, &of_ages, Timestamp::ZERO, Room { width: Some(80), height: Some(24) });
        assert!(text.contains("DESTINATION") && text.contains("a-destination-with-"), "{text}");
        let text = view(&status, &of_ages, Timestamp::ZERO, Room { width: None, height: None });
        assert_eq!(
            text.matches("a-destination-with-").count(),
            24,
            "all of both, and two notes that name theirs three times:\n{text}"
        );
    }

    #[test]
    fn the_view_shows_rates_and_the_forecasts_that_exist() {
        let status = api::filled(json!({"rates": {"accepted_per_s": 12.5, "delivered_per_s": 20, "dead_per_s": 0},
            "forecast": {"drained_in_s": 90, "disk_full_in_s": null}}));
        let text = rates(&status);
        assert!(text.contains("12.5/s in, 20.0/s delivered") && text.contains("queue empty in 1m 30s"), "{text}");
        assert!(!text.contains("DISK"), "{text}");
    }
}
