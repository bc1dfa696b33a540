//! Terminal interaction: the progress of one long request, and a confirmation before data is discarded.

use crate::api;
use crate::cli::Failure;
use crate::cli::admin_connection::Form;
use crate::cli::client::Admin;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::future::Future;
use std::io::{IsTerminal, Write};
use std::time::Duration;

const TICK: Duration = Duration::from_millis(200);
/// The interval between two reads of the daemon's counter.
const POLL_EVERY: Duration = Duration::from_millis(500);

/// A counter of the status that grows while the daemon works.
#[derive(Clone, Copy, Debug)]
pub enum Counter {
    Discarded,
    Redriven,
}

impl Counter {
    fn of(self, status: &api::Status) -> u64 {
        match self {
            Self::Discarded => status.counters.discarded,
            Self::Redriven => status.counters.redriven,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Discarded => "discarded",
            Self::Redriven => "queued again",
        }
    }
}

/// Waits for `work` and shows its progress by a counter of the daemon; shows nothing without a terminal or with `--json`.
pub async fn with_progress<T>(admin: &Admin, form: Form, counter: Counter, work: impl Future<Output = T>) -> T {
    let bar = ProgressBar::new_spinner().with_message(counter.word());
    bar.set_draw_target(match form {
        Form::Json => ProgressDrawTarget::hidden(),
        Form::Table => ProgressDrawTarget::stderr(),
    });
    if bar.is_hidden() {
        return work.await;
    }
    if let Ok(style) = ProgressStyle::with_template("{spinner} {human_pos} {msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TICK);
    let count = async || admin.get("/v1/status").await.ok().map(|status| counter.of(&status));
    let before = count().await.unwrap_or(0);
    let mut polls = tokio::time::interval(POLL_EVERY);
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => {
                bar.finish_and_clear();
                return done;
            }
            _ = polls.tick() => {
                if let Some(now) = count().await {
                    bar.set_position(now.saturating_sub(before));
                }
            }
        }
    }
}

/// Asks whether to discard `what`; fails unless the answer is yes.
pub fn confirm_discard(what: &str) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Usage("no terminal to confirm on: add --yes, or --dry-run to see how many".into()));
    }
    let mut err = std::io::stderr();
    write!(err, "Discard {what} for good? [y/N] ")
        .and_then(|()| err.flush())
        .map_err(|e| Failure::io("cannot ask", e))?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(|e| Failure::io("cannot read the answer", e))?;
    match line.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::Operation("nothing was discarded".into())),
    }
}
