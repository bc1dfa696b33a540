//! How far the daemon has come with one long request, on a terminal; nothing where stderr is none, or with `--json`.

use crate::api;
use crate::cli::admin_connection::Form;
use crate::cli::client::Admin;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::future::Future;
use std::time::Duration;

const TICK: Duration = Duration::from_millis(200);
/// How often the daemon is asked how far it has come.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What the daemon counts while it works, as the status names it.
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

/// Waits for `work`, and shows how much of it is done by what the daemon counts meanwhile.
pub async fn watched<T>(admin: &Admin, form: Form, counter: Counter, work: impl Future<Output = T>) -> T {
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
    let mut looks = tokio::time::interval(LOOK_EVERY);
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => {
                bar.finish_and_clear();
                return done;
            }
            _ = looks.tick() => {
                if let Some(now) = count().await {
                    bar.set_position(now.saturating_sub(before));
                }
            }
        }
    }
}
