//! Standard output: text and JSON. A closed output is not an error.
//!
//! *Invariants.* Content from senders, destinations and files never acts on the terminal. In text, control characters and
//! deceptive invisible characters are replaced; the values themselves are cleaned by [`cleaned`] before holdline adds its
//! own escape sequences. In JSON such characters are written as equivalent escapes.

use crate::cli::{Failure, format, table};
use serde::Serialize;
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{ErrorKind, IsTerminal, Write};

/// Moves the cursor home and erases everything after it; does not flicker like clearing the screen.
const HOME: &str = "\x1b[H\x1b[J";

/// Writes text for a person; of escape sequences only style sequences have an effect.
pub fn text(text: &str) -> Result<(), Failure> {
    raw(printable(text).as_bytes())
}

/// Like [`text`], but replaces the content of the screen.
pub fn screen(text: &str) -> Result<(), Failure> {
    raw(format!("{HOME}{}", printable(text)).as_bytes())
}

/// Writes lines for a person; wraps them if the standard output is a terminal.
pub fn wrapped(text: &str) -> Result<(), Failure> {
    self::text(&format::wrap(text, table::width()))
}

/// Writes `bytes` unchanged; on a terminal without what would act on it.
pub fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    if is_terminal() { raw(without_escapes(&String::from_utf8_lossy(bytes)).as_bytes()) } else { raw(bytes) }
}

fn raw(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|e| match e.kind() {
        ErrorKind::BrokenPipe => Failure::OutputClosed,
        _ => Failure::io("cannot write to the standard output", e),
    })
}

/// Writes `value` as JSON: indented on a terminal, else on one line.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = if is_terminal() { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
    json_text(
        &(text.expect("an answer holds only what JSON can")
            + "
"),
    )
}

/// Writes JSON text, or a part of it.
pub fn json_text(json: &str) -> Result<(), Failure> {
    raw(escaped(json).as_bytes())
}

/// Whether the standard output is a terminal.
pub fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Writes a note for a person to stderr.
pub fn note(text: &str) {
    // a closed stderr is not a failure of the command
    let _ = writeln!(std::io::stderr(), "{}", without_escapes(text));
}

/// Keeps line breaks, tabs and styles (`ESC [ digits m`), and replaces everything else that acts on a terminal.
fn printable(text: &str) -> String {
    let mut parts = text.split('\x1b');
    let mut out = without_escapes(parts.next().unwrap_or_default());
    for part in parts {
        let style =
            part.strip_prefix('[').map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';'));
        out.push(if style.is_some_and(|rest| rest.starts_with('m')) { '\x1b' } else { ' ' });
        out.push_str(&without_escapes(part));
    }
    out
}

/// Keeps line breaks and tabs, and replaces everything else that acts on a terminal.
pub fn without_escapes(text: &str) -> String {
    text.chars().map(|c| if matches!(c, '\n' | '\t') { c } else { format::harmless(c) }).collect()
}

/// Escapes characters in JSON that would act on a terminal; they occur only in its strings.
fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c == '\n' || format::harmless(c) == c {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}").expect("writing to a String cannot fail");
            }
        }
    }
    out
}

/// Cleans an API response for printing: each string is one line that cannot act on a terminal.
pub fn cleaned(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(text.chars().map(format::harmless).collect()),
        Value::Array(items) => Value::Array(items.into_iter().map(cleaned).collect()),
        Value::Object(fields) => {
            let clean = |(name, value): (String, Value)| (name.chars().map(format::harmless).collect(), cleaned(value));
            Value::Object(fields.into_iter().map(clean).collect())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const HOSTILE: &str = "a\x1b[2J\u{9b}2J\u{202e}b\r\x07\u{200b}\u{e0041}";

    #[test]
    fn json_output_escapes_control_characters_and_keeps_its_meaning() {
        let value = json!({"key": HOSTILE, "\u{202e}": ["\u{9d}"]});
        for text in [format!("{value}\n"), format!("{value:#}\n")] {
            let written = escaped(&text);
            assert!(written.chars().all(|c| c == '\n' || format::harmless(c) == c), "{written:?}");
            assert!(written.contains("\\u202e") && written.contains("\\udb40\\udc41"), "{written}");
            assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), value);
        }
    }

    #[test]
    fn only_holdlines_own_escape_sequences_reach_the_terminal() {
        let cleaned = cleaned(json!({"items": [{"key": HOSTILE}]}));
        assert_eq!(cleaned["items"][0]["key"], "a [2J 2J\u{FFFD}b  \u{FFFD}\u{FFFD}");
        assert_eq!(printable("\x1b[1mID\x1b[0m\n\ta\u{9b}b\u{202e}"), "\x1b[1mID\x1b[0m\n\ta b\u{FFFD}");
        assert_eq!(printable("a\x1b[2Jb\x1b]0;x\x07\x1b[1;31mc\x1b"), "a [2Jb ]0;x \x1b[1;31mc ");
        assert_eq!(without_escapes("no\x1b[1m such\n\u{85}"), "no [1m such\n ");
    }
}
