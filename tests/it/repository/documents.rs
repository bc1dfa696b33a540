//! The pages under packaging/docs, compared with the program: commands, configurations, messages and metrics.

use crate::harness::authority::{Authority, Until};
use crate::harness::bench::request;
use crate::harness::process::{Process, run};
use base64::Engine;
use clap::Parser;
use clap::error::ErrorKind;
use holdline::cli::Cli;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const PAGES: [&str; 3] = ["packaging/docs/GENESYS.md", "packaging/docs/OPERATIONS.md", "packaging/docs/REFERENCE.md"];

pub(super) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(super) fn page(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap()
}

/// The fenced blocks of a page, each with its language.
fn blocks(text: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(language), None) => open = Some((language.to_owned(), String::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some((_, body))) => body.push_str(&format!("{line}\n")),
            (None, None) => {}
        }
    }
    blocks
}

/// The page without its fenced blocks.
fn prose(text: &str) -> String {
    let parts = text.split("\n```").enumerate();
    parts.filter(|(n, _)| n % 2 == 0).map(|(_, part)| part).collect::<Vec<_>>().join("\n")
}

fn code_spans(text: &str) -> Vec<String> {
    prose(text).split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Every command line of holdline in a page: in shell blocks, after `$ ` in outputs, and in code spans.
fn commands(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for (language, body) in blocks(text) {
        let joined = body.replace("\\\n", " ");
        let prompt = if language == "sh" { "" } else { "$ " };
        lines.extend(joined.lines().filter_map(|line| line.strip_prefix(prompt)).map(str::to_owned));
    }
    lines.extend(code_spans(text));
    let bare = |line: &String| line.trim().trim_start_matches("sudo ").trim_start_matches("-u holdline ").to_owned();
    lines.iter().map(bare).filter(|line| line.starts_with("holdline ")).collect()
}

/// The words of a command line as a shell passes them, up to a comment, a pipe or a redirection.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None::<char>);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => (quote, _) = (Some(c), word.get_or_insert_default()),
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, '#') if word.is_none() => break,
            (None, '|' | '<' | '>' | ';' | '&') => break,
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[test]
fn every_command_in_the_pages_parses() {
    let (mut seen, mut faults) = (0, Vec::new());
    for name in PAGES {
        for line in commands(&page(name)) {
            seen += 1;
            match Cli::try_parse_from(words(&line)) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::DisplayHelp => {}
                // the reference names commands without their arguments
                Err(error) if error.kind() == ErrorKind::MissingRequiredArgument && name == PAGES[2] => {}
                Err(error) => faults.push(format!("{name}: `{line}`: {error}")),
            }
        }
    }
    assert_eq!(faults, Vec::<String>::new());
    assert!(seen > 60, "{seen}");
}

/// Completes a block to a configuration, with its secrets and certificates in `folder`.
fn completed(block: &str, folder: &Path) -> String {
    let mut text = block.replace("/etc/holdline/", &format!("{}/", folder.display()));
    for section in ["source", "destination"] {
        if !text.contains(&format!("[[{section}]]")) {
            text.push_str(&format!("\n[[{section}]]\nname = \"other\"\n"));
        }
    }
    let authority = Authority::new();
    let own = authority.certify("localhost", Until::Long);
    let quoted = text.split('"').filter(|part| part.starts_with(&folder.display().to_string()));
    for path in quoted.map(PathBuf::from) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = path.file_name().unwrap().to_str().unwrap();
        let text = match (path.extension().and_then(|e| e.to_str()), file) {
            (Some("pem"), "key.pem") => std::fs::read_to_string(&own.key).unwrap(),
            (Some("pem"), "cert.pem") => std::fs::read_to_string(&own.cert).unwrap(),
            (Some("pem"), _) => std::fs::read_to_string(authority.ca()).unwrap(),
            (Some("url"), _) => "https://chat.internal/hooks/holdline".to_owned(),
            // valid as every kind of secret
            _ => format!("whsec_{}", base64::engine::general_purpose::STANDARD.encode(format!("{file:-<32}"))),
        };
        std::fs::write(&path, text).unwrap();
    }
    text
}

#[tokio::test]
async fn every_configuration_in_the_pages_passes_the_check() {
    for (name, least) in PAGES.into_iter().zip([6, 2, 0]) {
        let all = blocks(&page(name));
        let configurations: Vec<_> = all.iter().filter(|(language, _)| language == "toml").collect();
        assert!(configurations.len() >= least, "{name}: {}", configurations.len());
        for (_, block) in configurations {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("holdline.toml"), completed(block, folder.path())).unwrap();
            let ran = run(folder.path(), &["check", "--config", "holdline.toml"]).await;
            assert_eq!(ran.code, 0, "{name}: {ran:?}\n{block}");
        }
    }
}

/// The fragment identifier of each heading, as GitHub generates them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings =
        prose(text).lines().filter_map(|line| Some(line.strip_prefix('#')?.to_lowercase())).collect::<Vec<_>>();
    let slug = |heading: &String| {
        let words = heading.trim_start_matches('#').trim().chars().filter(|c| c.is_alphanumeric() || " -".contains(*c));
        words.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.iter().map(slug).collect()
}

#[test]
fn every_link_in_the_pages_leads_to_a_heading() {
    let mut seen = 0;
    for name in PAGES {
        let text = page(name);
        for link in prose(&text).split("](").skip(1).filter_map(|rest| rest.split(')').next().map(str::to_owned)) {
            let (file, clock_reference) = link.split_once('#').unwrap_or((&link, ""));
            let other = if file.is_empty() { text.clone() } else { page(&format!("packaging/docs/{file}")) };
            assert!(clock_reference.is_empty() || anchors(&other).contains(clock_reference), "{name}: {link}");
            seen += 1;
        }
    }
    assert!(seen > 15, "{seen}");
}

/// For each section with a source and a sample body: the name of the source, its block, the body.
fn trials(text: &str) -> Vec<(String, String, String)> {
    let sections = text.split("\n## ").filter_map(|section| {
        let all = blocks(section);
        let last = |wanted: &str| all.iter().rev().find(|(language, _)| language == wanted).map(|(_, body)| body);
        let (source, body) = (last("toml")?, last("json")?);
        let source = &source[source.find("[[source]]")?..];
        let name = source.split("name = \"").nth(1)?.split('"').next()?;
        Some((name.to_owned(), source.to_owned(), body.clone()))
    });
    sections.collect()
}

#[tokio::test]
async fn every_body_in_the_genesys_page_is_accepted_by_the_source_beside_it() {
    let trials = trials(&page(PAGES[0]));
    assert_eq!(trials.len(), 5);
    let folder = tempfile::tempdir().unwrap();
    let sources: String = trials.iter().map(|(_, source, _)| source.as_str()).collect();
    let sources = completed(&format!("{sources}\n[[destination]]\n"), folder.path()).replace("[[destination]]\n", "");
    let process = Process::start("http://127.0.0.1:9/", &sources).await;
    for (name, _, body) in &trials {
        std::fs::write(process.folder.path().join("body.json"), body).unwrap();
        let ran = process.run(&["send", "body.json", "--source", name]).await;
        assert!(ran.code == 0 && ran.out.contains("accepted 1"), "{name}: {ran:?}");
        let ran = process.run(&["events", "list", "--source", name, "--json"]).await;
        let list: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
        assert!(list["items"][0]["interaction"].is_string(), "{name}: {list}");
    }
}

/// The source files of the program, each with its path, without its tests.
pub(super) fn sources() -> Vec<(String, String)> {
    let (mut texts, mut folders) = (Vec::new(), vec![root().join("src")]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                folders.push(path);
            } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned();
                texts.push((path.strip_prefix(root()).unwrap().display().to_string(), text));
            }
        }
    }
    texts
}

/// The string literals of a Rust file, unescaped; those in comments are ignored.
pub(super) fn literals(source: &str) -> Vec<String> {
    let chars: Vec<char> = source.chars().collect();
    let (mut found, mut i) = (Vec::new(), 0);
    while i < chars.len() {
        let rest = &chars[i..];
        if rest.starts_with(&['/', '/']) {
            i += rest.iter().position(|c| *c == '\n').unwrap_or(rest.len());
        } else if rest.starts_with(&['\'', '"', '\'']) || rest.starts_with(&['\'', '\\']) {
            i += 3;
        } else if rest.starts_with(&['r', '#', '"']) {
            let end = (3..rest.len()).find(|n| rest[*n..].starts_with(&['"', '#'])).unwrap();
            found.push(rest[3..end].iter().collect());
            i += end + 2;
        } else if rest[0] == '"' {
            let end = closing_quote(rest);
            found.push(unescaped(&rest[1..end]));
            i += end + 1;
        } else {
            i += 1;
        }
    }
    found
}

fn closing_quote(text: &[char]) -> usize {
    let mut n = 1;
    while text[n] != '"' {
        n += if text[n] == '\\' { 2 } else { 1 };
    }
    n
}

fn unescaped(text: &[char]) -> String {
    let (mut plain, mut n) = (String::new(), 0);
    while n < text.len() {
        if text[n] != '\\' {
            plain.push(text[n]);
            n += 1;
            continue;
        }
        n += 2;
        match text[n - 1] {
            '\n' => n += text[n..].iter().take_while(|c| c.is_whitespace()).count(),
            'n' => plain.push('\n'),
            other => plain.push(other),
        }
    }
    plain
}

/// The messages in the first column of the tables under a heading.
fn messages(text: &str, heading: &str) -> Vec<String> {
    let section = text.split(&format!("\n## {heading}\n")).nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.flat_map(|row| code_spans(row.split(" | ").next().unwrap())).collect()
}

#[test]
fn literals_are_read_as_the_compiler_reads_them() {
    let source = "f(\"a \\\n   \\\"b\\\"\", '\"', r#\"c \"d\"\"#); // \"no\"\nlet e: &'static str = \"e\";";
    assert_eq!(literals(source), ["a \"b\"", "c \"d\"", "e"]);
}

#[test]
fn every_message_in_the_troubleshooting_tables_is_one_of_the_program() {
    let all: Vec<String> = sources().iter().flat_map(|(_, source)| literals(source)).collect();
    let quoted = messages(&page(PAGES[1]), "Troubleshooting by message");
    assert!(quoted.len() >= 40, "{}", quoted.len());
    for message in quoted {
        let parts: Vec<&str> = message.split("...").map(str::trim).filter(|part| part.len() > 3).collect();
        assert!(parts.iter().any(|part| part.len() >= 8), "{message}: it names no message");
        for part in parts {
            assert!(all.iter().any(|literal| literal.contains(part)), "`{message}`: no message holds {part:?}");
        }
    }
}

#[tokio::test]
async fn every_metric_in_the_pages_is_one_of_the_program() {
    let process = Process::start("http://127.0.0.1:9/", "").await;
    let token = std::fs::read_to_string(process.folder.path().join("data/admin.token")).unwrap();
    let bearer = format!("Bearer {}", token.trim());
    let all = request(process.admin, "GET", "/metrics", &[("authorization", &bearer)], b"").await.text();
    let mut seen = BTreeSet::new();
    for name in PAGES {
        for span in code_spans(&page(name)) {
            let metric: String = span.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            if metric.starts_with("holdline_") {
                assert!(all.contains(&format!(" {} ", metric.trim_end_matches("_total"))), "{name}: {metric}");
                seen.insert(metric);
            }
        }
    }
    assert!(seen.len() >= 10, "{seen:?}");
}
