//! Standard output: text and JSON; a reader that has left is not an error.

use crate::cli::{Failure, table, words};
use serde_json::Value;
use std::io::{ErrorKind, IsTerminal, Write};

/// Writes `text` as it is.
pub fn text(text: &str) -> Result<(), Failure> {
    bytes(text.as_bytes())
}

/// Writes lines for a person, wrapped where the standard output is a terminal.
pub fn wrapped(text: &str) -> Result<(), Failure> {
    self::text(&words::wrap(text, table::width()))
}

/// Writes `bytes` as they are.
pub fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|e| match e.kind() {
        ErrorKind::BrokenPipe => Failure::OutputClosed,
        _ => Failure::io("cannot write to the standard output", e),
    })
}

/// Writes `value` as JSON: indented on a terminal, on one line for a script.
pub fn json(value: &Value) -> Result<(), Failure> {
    let text = if is_terminal() { format!("{value:#}\n") } else { format!("{value}\n") };
    self::text(&text)
}

/// Whether a person looks at the standard output.
pub fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Writes a note for a person to stderr.
pub fn note(text: &str) {
    // a note that nobody can read is no reason to fail
    let _ = writeln!(std::io::stderr(), "{text}");
}
