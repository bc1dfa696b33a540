//! The setup of a command's process: logs on stderr, and signal handling.
//!
//! Log lines are readable text on a terminal, one compact line each elsewhere, and JSON lines with `--log json`.

use clap::ValueEnum;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::fmt;
use std::io::IsTerminal;
use tokio::sync::mpsc;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Environment variable for a filter such as `holdline=debug,sled=info`, which takes precedence over `--log-level`.
pub const FILTER: &str = "HOLDLINE_LOG";

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people: coloured on a terminal
    Human,
    /// One JSON object a line, for collectors
    Json,
}

/// Starts logging: holdline's own lines from `level` on, those of libraries from warnings on.
pub fn start_logging(format: LogFormat, level: Level) -> Result<(), String> {
    let filter = match std::env::var(FILTER) {
        Ok(text) => EnvFilter::try_new(&text).map_err(|e| {
            format!("{FILTER}={text} is not a log filter ({e}); write for example {FILTER}=holdline=debug")
        })?,
        Err(_) => EnvFilter::new(format!("{},holdline={level}", level.min(Level::WARN))),
    };
    let terminal = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal);
    let started = match format {
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).try_init(),
        LogFormat::Human if terminal => lines.with_target(false).try_init(),
        // the journal adds the time
        LogFormat::Human if std::env::var_os("JOURNAL_STREAM").is_some() => {
            lines.compact().without_time().map_event_format(Prioritised).try_init()
        }
        LogFormat::Human => lines.compact().try_init(),
    };
    started.map_err(|e| format!("cannot start logging: {e}"))
}

/// Prefixes each line with its priority for the journal (sd-daemon(3)), so that `journalctl -p err` finds errors.
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

/// The syslog priority.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// Receives SIGINT and SIGTERM on a separate thread; they no longer end the process.
pub fn terminations() -> std::io::Result<mpsc::UnboundedReceiver<&'static str>> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let (send, receive) = mpsc::unbounded_channel();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            let name = if signal == SIGINT { "SIGINT" } else { "SIGTERM" };
            if send.send(name).is_err() {
                return;
            }
        }
    })?;
    Ok(receive)
}

/// Receives SIGHUP, which no longer ends the process.
pub fn hangups() -> std::io::Result<mpsc::UnboundedReceiver<()>> {
    let mut signals = Signals::new([SIGHUP])?;
    let (send, receive) = mpsc::unbounded_channel();
    std::thread::Builder::new().name("hangups".to_owned()).spawn(move || {
        for _ in signals.forever() {
            if send.send(()).is_err() {
                return;
            }
        }
    })?;
    Ok(receive)
}
