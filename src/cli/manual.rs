//! `holdline completions` and `holdline man`: the files that packages ship beside the program, generated from the command
//! line definition and the commented default configuration.
//!
//! *Format* of `packaging/holdline.toml`, the source of the page `holdline.toml(5)` and of the reference: comment lines
//! directly above a header or a setting describe it; those above a blank line belong to the section; a comment after a value
//! lists the allowed values. A setting after `# ` has no default and shows an example; one without a description is a
//! further example of a key that is described above it.

use crate::cli::{Cli, Failure, output};
use clap::{CommandFactory, ValueEnum};
use clap_complete::Shell;
use clap_mangen::roff::{Roff, bold, roman};
use std::path::PathBuf;
use std::process::ExitCode;

const CONFIGURATION: &str = include_str!("../../packaging/holdline.toml");

/// Arguments of `holdline completions`.
#[derive(Debug, clap::Args)]
pub struct Completions {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

/// Arguments of `holdline man`.
#[derive(Debug, clap::Args)]
pub struct Man {
    /// An existing directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Prints the completions of a shell to stdout.
pub fn completions(args: &Completions) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "holdline", &mut script);
    let script = String::from_utf8(script).map_err(|e| Failure::Operation(format!("{}: {e}", named(args.shell))))?;
    output::text(&script)?;
    Ok(ExitCode::SUCCESS)
}

fn named(shell: Shell) -> String {
    shell.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
}

/// Writes a page for the program, one for each command, and one for the configuration.
pub fn man(args: &Man) -> Result<ExitCode, Failure> {
    let shown = args.directory.display();
    let cannot = |e| Failure::io(format!("cannot write manual pages to {shown}"), e);
    clap_mangen::generate_to(Cli::command(), &args.directory).map_err(cannot)?;
    std::fs::write(args.directory.join("holdline.toml.5"), configuration_page()).map_err(cannot)?;
    Ok(ExitCode::SUCCESS)
}

/// A section of the default configuration; the first one is the file as a whole.
#[derive(Debug, Default)]
pub struct Section {
    /// As written, `[intake]` or `[[source]]`; empty for the file.
    pub header: &'static str,
    /// The paragraphs of the description.
    pub about: Vec<String>,
    pub settings: Vec<Setting>,
}

/// A setting of the default configuration.
#[derive(Debug)]
pub struct Setting {
    pub key: &'static str,
    /// As written.
    pub value: &'static str,
    /// Whether the value is the default; if not, it is an example.
    pub is_default: bool,
    /// The allowed values; empty if `about` lists them.
    pub allowed: &'static str,
    /// Empty if an earlier setting describes the same key.
    pub about: String,
}

/// The commented default configuration.
pub fn default_configuration() -> Vec<Section> {
    let mut sections = vec![Section::default()];
    let mut comment = Vec::new();
    for line in CONFIGURATION.lines() {
        let text = line.strip_prefix('#').map_or(line, str::trim_start);
        let is_comment = line.starts_with('#');
        let last = sections.last_mut().expect("the file is the first section");
        if text.is_empty() {
            last.about.extend(paragraph(&mut comment));
        } else if (!is_comment || text.starts_with("[[")) && text.starts_with('[') {
            let about = paragraph(&mut comment);
            if last.header != text {
                sections.push(Section { header: text, about: about.into_iter().collect(), settings: Vec::new() });
            }
        } else if let Some((key, rest)) = setting(text) {
            let (value, allowed) = split_remark(rest);
            let about = paragraph(&mut comment).unwrap_or_default();
            last.settings.push(Setting { key, value, is_default: !is_comment, allowed, about });
        } else {
            comment.push(text);
        }
    }
    sections
}

fn paragraph(lines: &mut Vec<&str>) -> Option<String> {
    (!lines.is_empty()).then(|| std::mem::take(lines).join(" "))
}

fn setting(text: &str) -> Option<(&str, &str)> {
    text.split_once(" = ").filter(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
}

/// Splits a value from the comment after it.
fn split_remark(text: &str) -> (&str, &str) {
    let mut quoted = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '#' if !quoted => return (text[..at].trim_end(), text[at + 1..].trim_start()),
            _ => {}
        }
    }
    (text, "")
}

/// The page `holdline.toml(5)`.
fn configuration_page() -> String {
    let mut page = Roff::new();
    let version = concat!("holdline ", env!("CARGO_PKG_VERSION"));
    page.control("TH", ["holdline.toml", "5", "", version]);
    page.control("SH", ["NAME"]);
    page.text([roman("holdline.toml - configuration of holdline")]);
    page.control("SH", ["DESCRIPTION"]);
    for section in default_configuration() {
        if !section.header.is_empty() {
            page.control("SH", [section.header]);
        }
        for paragraph in section.about {
            page.control("PP", []);
            page.text([roman(paragraph)]);
        }
        for setting in section.settings.into_iter().filter(|setting| !setting.about.is_empty()) {
            let equals = if setting.is_default { " = " } else { ", for example " };
            page.control("TP", []);
            page.text([bold(setting.key), roman(equals), roman(setting.value)]);
            page.text([roman(setting.about)]);
            if !setting.allowed.is_empty() {
                page.text([roman(format!("Allowed: {}.", setting.allowed))]);
            }
        }
    }
    page.control("SH", ["FILES"]);
    page.text([roman("/etc/holdline/holdline.toml")]);
    page.control("SH", ["SEE ALSO"]);
    page.text([bold("holdline"), roman("(1), "), bold("holdline-check"), roman("(1)")]);
    page.render()
}
