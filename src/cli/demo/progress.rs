//! What the demo shows while it runs: bars on a terminal, a line every second elsewhere.

use super::ledger::Tally;
use crate::cli::{format, output};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

/// Ticks between two lines where there is no terminal.
const TICKS_PER_LINE: u32 = 5;

/// The live view of one run.
pub struct Progress(View);

enum View {
    Bars { all: MultiProgress, accepted: ProgressBar, delivered: ProgressBar, trouble: ProgressBar },
    Lines { events: u64, ticks: u32 },
}

impl Progress {
    /// For `events` events.
    pub fn new(events: u64) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(View::Lines { events, ticks: 0 });
        }
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let bar = |name: &'static str, colour: &str| {
            let template = format!("{{prefix:>10}} {{bar:40.{colour}/black.bright}} {{human_pos}}/{{human_len}}");
            let style = ProgressStyle::with_template(&template).expect("the template is a constant");
            let bar = ProgressBar::new(events).with_style(style.progress_chars("━━─")).with_prefix(name);
            all.add(bar)
        };
        let accepted = bar("accepted", "cyan");
        let delivered = bar("delivered", "green");
        let style = ProgressStyle::with_template("{prefix:>10} {msg}").expect("the template is a constant");
        let trouble = all.add(ProgressBar::new_spinner().with_style(style).with_prefix("meanwhile"));
        Self(View::Bars { all, accepted, delivered, trouble })
    }

    /// Shows the sums; called five times a second. `waiting` is what the daemon has in its queue.
    pub fn show(&mut self, tally: &Tally, waiting: u64) {
        let trouble = format!(
            "{} waiting, {} retried, {} duplicates dropped, {} in the DLQ",
            format::count(waiting),
            format::count(tally.retried),
            format::count(tally.duplicates),
            format::count(tally.refused)
        );
        match &mut self.0 {
            View::Bars { accepted, delivered, trouble: line, .. } => {
                accepted.set_position(tally.accepted);
                delivered.set_position(tally.delivered);
                line.set_message(trouble);
            }
            View::Lines { events, ticks } => {
                if ticks.is_multiple_of(TICKS_PER_LINE) {
                    let [accepted, events, delivered] = [tally.accepted, *events, tally.delivered].map(format::count);
                    output::note(&format!("{accepted} of {events} accepted, {delivered} delivered, {trouble}"));
                }
                *ticks += 1;
            }
        }
    }

    /// Takes the bars away; what comes next is the summary.
    pub fn end(self) {
        if let View::Bars { all, .. } = self.0 {
            // where the terminal is gone, there is nothing to clear
            let _ = all.clear();
        }
    }
}
