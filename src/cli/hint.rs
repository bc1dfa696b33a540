//! Commands that messages suggest, written so that they work when pasted into this terminal.
//!
//! *Invariants.* A hint begins with the program as it was called: with its path if it was called by path. It finds the same
//! daemon as the command that prints it, because it repeats that command's connection flags; environment variables need no
//! repetition. After a call through `sudo` the hint includes `sudo`.

use std::fmt::Write;
use std::path::Path;

/// Flags that select the daemon; each has a value.
const FLAGS: [&str; 3] = ["--config", "--admin", "--token-file"];
/// Where packages install the systemd unit.
const UNITS: [&str; 2] = ["/usr/lib/systemd/system/holdline.service", "/etc/systemd/system/holdline.service"];

/// `holdline REST` for the daemon that this command uses.
pub fn command(rest: &str) -> String {
    built(rest, &arguments(), std::env::var_os("SUDO_USER").is_some())
}

/// The program and its arguments. Unit tests run under another program name, with other arguments.
fn arguments() -> Vec<String> {
    if cfg!(test) {
        return vec!["holdline".to_owned()];
    }
    std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect()
}

fn built(rest: &str, arguments: &[String], sudo: bool) -> String {
    let mut text = format!("{}{} {rest}", if sudo { "sudo " } else { "" }, called(arguments));
    for (flag, value) in connection(arguments.get(1..).unwrap_or_default()) {
        write!(text, " {flag} {}", quoted(&value)).expect("writing to a String cannot fail");
    }
    text
}

/// This command as it was given.
pub fn this_command() -> String {
    let arguments = arguments();
    let words = arguments.iter().skip(1).map(|word| format!(" {}", quoted(word)));
    format!("{}{}", called(&arguments), words.collect::<String>())
}

/// The program as it was called.
pub fn program() -> String {
    called(&arguments())
}

/// The path if it was called by path, else the name.
fn called(arguments: &[String]) -> String {
    match arguments.first().filter(|name| name.contains('/')) {
        Some(place) => quoted(place),
        None => "holdline".to_owned(),
    }
}

/// Whether a line of text is a command to paste.
pub fn is_command(line: &str) -> bool {
    let line = line.trim_start().trim_start_matches("sudo ");
    if line.strip_prefix(&program()).is_some_and(|rest| rest.starts_with(' ')) {
        return true;
    }
    let mut words = line.split_whitespace();
    words.next().is_some_and(|word| word == "holdline" || word.ends_with("/holdline"))
}

/// The command that starts the daemon on this machine.
pub fn start() -> &'static str {
    if UNITS.iter().any(|unit| Path::new(unit).exists()) { "sudo systemctl start holdline" } else { "holdline serve" }
}

/// The flags among the arguments that select the daemon; the last of several counts.
fn connection(arguments: &[String]) -> Vec<(&'static str, String)> {
    let written = arguments.split(|word| word == "--").next().unwrap_or_default();
    let value = |flag: &'static str| {
        let after = written.iter().enumerate().rev().find_map(|(n, word)| match word.strip_prefix(flag)? {
            "" => written.get(n + 1).cloned(),
            rest => rest.strip_prefix('=').map(str::to_owned),
        });
        after.map(|value| (flag, value))
    };
    FLAGS.into_iter().filter_map(value).collect()
}

/// Quotes a word for a shell.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;

    fn told(line: &[&str], sudo: bool) -> String {
        built("dlq show 0190/crm", &line.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>(), sudo)
    }

    #[test]
    fn a_hint_addresses_the_same_daemon_as_its_command() {
        for (line, sudo, wanted) in [
            (&["holdline", "status"] as &[&str], false, "holdline dlq show 0190/crm"),
            (&["holdline", "status"], true, "sudo holdline dlq show 0190/crm"),
            (&["h", "explain", "x", "--config", "a b.toml"], false, "holdline dlq show 0190/crm --config 'a b.toml'"),
            (
                &["h", "--admin=unix:/run/a.sock", "status", "--token-file", "t"],
                true,
                "sudo holdline dlq show 0190/crm --admin unix:/run/a.sock --token-file t",
            ),
            (&["h", "status", "--config", "a", "--config=b"], false, "holdline dlq show 0190/crm --config b"),
            (&["h", "dlq", "show", "--", "--config", "x"], false, "holdline dlq show 0190/crm"),
            (&["target/release/holdline", "status"], false, "target/release/holdline dlq show 0190/crm"),
        ] {
            let hint = told(line, sudo);
            assert_eq!(hint, wanted);
            let words = hint.replace("'a b.toml'", "a_b.toml");
            let words = words.split_whitespace().filter(|word| *word != "sudo");
            assert!(is_command(&hint) && !is_command("waits for holdline"), "{hint}");
            assert!(Cli::try_parse_from(words).is_ok(), "{hint}");
        }
    }

    #[test]
    fn a_word_is_quoted_for_the_shell() {
        for (word, wanted) in [("a/b.c", "a/b.c"), ("", "''"), ("a b", "'a b'"), ("a'b", "'a'\\''b'"), ("$x", "'$x'")] {
            assert_eq!(quoted(word), wanted);
        }
    }
}
