//! A sign of life on a terminal while the daemon works on one request; nothing where stderr is none, or with `--json`.

use crate::cli::reach::Form;
use indicatif::{ProgressBar, ProgressDrawTarget};
use std::future::Future;
use std::time::Duration;

const TICK: Duration = Duration::from_millis(200);

/// Waits for `work` under a spinner that says `doing`.
pub async fn while_working<T>(form: Form, doing: &'static str, work: impl Future<Output = T>) -> T {
    let spinner = ProgressBar::new_spinner().with_message(doing);
    spinner.set_draw_target(target(form));
    spinner.enable_steady_tick(TICK);
    let done = work.await;
    spinner.finish_and_clear();
    done
}

/// Where progress is drawn.
pub fn target(form: Form) -> ProgressDrawTarget {
    match form {
        Form::Json => ProgressDrawTarget::hidden(),
        Form::Table => ProgressDrawTarget::stderr(),
    }
}
