//! Logs, always on stderr: for a person on a terminal, one compact line each elsewhere, JSON lines where asked.

use clap::ValueEnum;
use std::fmt;
use std::io::IsTerminal;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Holds a filter such as `holdline=debug,sled=info`; beats `--log-level`.
pub const FILTER: &str = "HOLDLINE_LOG";

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people: coloured on a terminal
    Human,
    /// One JSON object a line, for collectors
    Json,
}

/// Starts logging: holdline itself from `level`, the libraries from warnings.
pub fn start(format: Format, level: Level) -> Result<(), String> {
    let filter = match std::env::var(FILTER) {
        Ok(text) => EnvFilter::try_new(&text).map_err(|e| {
            format!("{FILTER}={text} is not a log filter ({e}); write for example {FILTER}=holdline=debug")
        })?,
        Err(_) => EnvFilter::new(format!("{},holdline={level}", level.min(Level::WARN))),
    };
    let terminal = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal);
    let started = match format {
        Format::Json => lines.json().flatten_event(true).with_current_span(false).try_init(),
        Format::Human if terminal => lines.with_target(false).try_init(),
        // the journal writes the time itself
        Format::Human if std::env::var_os("JOURNAL_STREAM").is_some() => {
            lines.compact().without_time().map_event_format(Prioritised).try_init()
        }
        Format::Human => lines.compact().try_init(),
    };
    started.map_err(|e| format!("cannot start logging: {e}"))
}

/// Puts the priority before each line, as the journal reads it (sd-daemon(3)): `journalctl -p err` then finds errors.
struct Prioritised<F>(F);

impl<S, N, F> FormatEvent<S, N> for Prioritised<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

/// Of syslog.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}
