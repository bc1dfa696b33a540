//! `holdline top`: the status as a live view, until Ctrl-C.

use crate::cli::client::Admin;
use crate::cli::reach::{Form, Reach};
use crate::cli::{Failure, item, output, status, table, words};
use crate::clock::Clock;
use serde_json::{Value, json};
use std::fmt::Write;
use std::time::Duration;

/// Arguments of `holdline top`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    reach: Reach,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
    /// End after so many looks
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

/// Cursor home, and everything behind it erased: no flicker as a cleared screen makes.
const HOME: &str = "\x1b[H\x1b[J";

/// Shows the status again and again. A daemon that does not answer is told in the view, and waited for.
pub async fn run(args: Args) -> Result<(), Failure> {
    let admin = Admin::of(&args.reach)?;
    let clock = Clock::system();
    let live = output::is_terminal();
    for n in 1.. {
        let asked = async {
            let (status, ages) = (admin.get("/v1/status").await?, admin.get("/v1/ages").await?);
            Ok::<_, Failure>(json!({"status": status, "ages": item::list(&ages, "items")}))
        };
        match (asked.await, args.reach.shared.form()) {
            (Ok(answer), Form::Json) => output::text(&format!("{answer}\n"))?,
            (Ok(answer), Form::Table) => {
                let lead = if live { HOME } else { "" };
                let now = words::now();
                let (status, ages) = (&answer["status"], item::list(&answer, "ages"));
                let screen = status::screen(status, now, table::width());
                output::text(&format!("{lead}{screen}\n{}{}", pace(status), shape(ages)))?;
            }
            (Err(Failure::Unreachable(why)), Form::Table) if live && n > 1 => {
                output::text(&format!("{HOME}{why}\n"))?;
            }
            (Err(failure), _) => return Err(failure),
        }
        if args.count.is_some_and(|count| n >= count) {
            return Ok(());
        }
        clock.sleep_until(clock.now().after(Duration::from_secs(args.every))).await;
    }
    Ok(())
}

/// What waits by age: a line for each destination, a column for each bound, as Postfix's qshape shows it.
fn shape(items: &[Value]) -> String {
    let mut text = String::new();
    for (n, of) in items.iter().enumerate() {
        let ages = item::list(of, "ages");
        if n == 0 {
            text.push_str(&format!("\n{:<22}", "WAITING FOR"));
            for age in ages {
                let below = item::duration_ms(age, "below_s").map(|s| words::age(s * 1000));
                text.push_str(&format!(" {:>8}", below.map_or_else(|| "older".to_owned(), |b| format!("<{b}"))));
            }
            text.push('\n');
        }
        text.push_str(&format!("{:<22}", words::line(&item::text(of, "destination"), 22)));
        for age in ages {
            text.push_str(&format!(" {:>8}", words::count(item::number(age, "count"))));
        }
        text.push('\n');
    }
    text
}

/// Rates and what follows from them.
fn pace(status: &Value) -> String {
    let rate = |path: &str| item::find(status, path).and_then(Value::as_f64).unwrap_or_default();
    let mut text = format!(
        "pace        {:.1}/s in, {:.1}/s delivered, {:.1}/s dead\n",
        rate("rates/accepted_per_s"),
        rate("rates/delivered_per_s"),
        rate("rates/dead_per_s")
    );
    for (path, what) in [("forecast/drained_in_s", "queue empty"), ("forecast/disk_full_in_s", "DISK FULL")] {
        if let Some(seconds) = item::find(status, path).and_then(Value::as_u64) {
            writeln!(text, "forecast    {what} in {}", words::age(Duration::from_secs(seconds)))
                .expect("writing to a String cannot fail");
        }
    }
    for d in item::list(status, "destinations") {
        let of = |path: &str| item::find(d, path).and_then(Value::as_f64).unwrap_or_default();
        writeln!(
            text,
            "  {:<20} {:>8.1}/s in {:>8.1}/s delivered {:>8.1}/s dead",
            words::line(&item::text(d, "name"), 20),
            of("rates/accepted_per_s"),
            of("rates/delivered_per_s"),
            of("rates/dead_per_s")
        )
        .expect("writing to a String cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_stand_in_columns_under_their_bounds() {
        let count = |below: Option<u64>, n: u64| json!({"below_s": below, "count": n});
        let ages = [count(Some(10), 3), count(Some(3600), 1200), count(None, 0)];
        let text = shape(&[json!({"destination": "crm", "ages": ages})]);
        let lines: Vec<&str> = text.trim_start().lines().collect();
        assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), ["WAITING", "FOR", "<10s", "<1h", "older"]);
        assert_eq!(lines[1].split_whitespace().collect::<Vec<_>>(), ["crm", "3", "1,200", "0"]);
        assert_eq!(shape(&[]), "");
    }

    #[test]
    fn pace_tells_rates_and_only_the_forecasts_that_there_are() {
        let status = json!({"rates": {"accepted_per_s": 12.5, "delivered_per_s": 20, "dead_per_s": 0},
            "forecast": {"drained_in_s": 90, "disk_full_in_s": null},
            "destinations": [{"name": "crm", "rates": {"delivered_per_s": 20}}]});
        let text = pace(&status);
        assert!(text.contains("12.5/s in, 20.0/s delivered") && text.contains("queue empty in 1m 30s"), "{text}");
        assert!(!text.contains("DISK") && text.contains("crm"), "{text}");
    }
}
