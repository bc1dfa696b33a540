//! `packaging/docs/REFERENCE.md`, compared with the program: its commands, settings, metrics and API are rendered
//! from the program, and each table of words below a line `<!-- words: NAME -->` lists the words that the program
//! has.

use super::documents::{literals, page, root, sources};
use crate::harness::authority::Authority;
use crate::harness::bench::{Bench, request};
use clap::{ArgAction, CommandFactory};
use holdline::cli::Cli;
use holdline::cli::manual::{Section, Setting, default_configuration};
use holdline::clock::Clock;
use holdline::config::settings::{Handshake, PROFILES, Scope};
use holdline::delivery::{Blocker, Outcome, Reason};
use holdline::rules::breaker;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const PAGE: &str = "packaging/docs/REFERENCE.md";
const REFRESH: &str = "HOLDLINE_WRITE_REFERENCE=1 cargo test --test it repository::reference";

/// The metrics and the API document of a daemon in which every metric has a sample, where possible.
async fn observed() -> (String, Value) {
    let authority = Authority::new();
    let bench = Bench::with(None, Clock::system(), |settings| {
        settings.destinations[0].tls.ca = Some(authority.ca());
    })
    .await;
    assert_eq!(request(bench.intake, "POST", "/in/nowhere", &[], b"{}").await.status, 404);
    bench.change("/v1/intake/close", json!({"reason": "reference"})).await;
    bench.change("/v1/intake/open", json!({})).await;
    bench
        .change("/v1/destinations/default/breaker", json!({"state": "open", "for": "1h", "reason": "reference"}))
        .await;
    (bench.admin("GET", "/metrics", b"").await.text(), bench.get("/openapi.json").await)
}

#[tokio::test]
async fn the_generated_sections_are_those_of_the_program() {
    let (text, document) = observed().await;
    let written = page(PAGE);
    let mut wanted = written.clone();
    for (name, text) in [
        ("commands", commands()),
        ("settings", settings()),
        ("metrics", metrics(&text)),
        ("calls", calls(&document)),
        ("fields", fields(&document)),
    ] {
        wanted = replaced(&wanted, name, &text);
    }
    if std::env::var_os("HOLDLINE_WRITE_REFERENCE").is_some() {
        std::fs::write(root().join(PAGE), wanted).unwrap();
        return;
    }
    let differs = written.lines().zip(wanted.lines()).find(|(old, new)| old != new);
    assert!(written == wanted, "{PAGE} is not what the program says; run {REFRESH}\nfirst difference: {differs:?}");
}

/// The page with the text between the markers of a section replaced.
fn replaced(page: &str, name: &str, text: &str) -> String {
    let (begin, end) = (format!("<!-- begin generated: {name} -->\n"), "<!-- end generated -->");
    let (before, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("{PAGE} has no {begin}"));
    let (_, after) = rest.split_once(end).unwrap_or_else(|| panic!("{PAGE}: {begin} has no end"));
    format!("{before}{begin}\n{}\n\n{end}{after}", text.trim())
}

/// Text for a cell of a Markdown table: on one line, with its special characters escaped.
fn cell(text: &str) -> String {
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let parts = flat.split('`').enumerate();
    let parts = parts.map(|(n, part)| if n % 2 == 1 { part.to_owned() } else { escaped(part) });
    parts.collect::<Vec<_>>().join("`").replace('|', "\\|")
}

fn escaped(text: &str) -> String {
    text.replace('<', "&lt;").replace('*', "\\*")
}

fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: Vec<&str>| format!("| {} |\n", cells.join(" | "));
    let mut text = line(heads.to_vec()) + &format!("|{}\n", "---|".repeat(heads.len()));
    for row in rows {
        text.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    text
}

/// Arguments that only select the daemon; they are listed once.
const CLIENT: &str = "Finding the daemon";

fn commands() -> String {
    let mut program = Cli::command();
    program.build();
    let (mut text, mut client) = (String::new(), BTreeMap::new());
    command(&program, "holdline", &mut text, &mut client);
    let client: Vec<Vec<String>> = client.into_iter().map(|(arg, help)| vec![format!("`{arg}`"), help]).collect();
    format!(
        "**Finding the daemon.** Commands that speak with it take:\n\n{}\n{text}",
        table(&["option", "meaning"], &client)
    )
}

fn command(command: &clap::Command, name: &str, text: &mut String, client: &mut BTreeMap<String, String>) {
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        self::command(inner, &format!("{name} {}", inner.get_name()), text, client);
    }
    if command.has_subcommands() {
        return;
    }
    let about = command.get_long_about().or_else(|| command.get_about()).map(ToString::to_string).unwrap_or_default();
    text.push_str(&format!("### {name}\n\n"));
    for paragraph in about.split("\n\n").filter(|paragraph| !paragraph.is_empty()) {
        text.push_str(&format!("{}\n\n", cell(paragraph.trim_end_matches('.')).replace("\\|", "|") + "."));
    }
    let (mut rows, mut finding) = (Vec::new(), Vec::new());
    for arg in command.get_arguments().filter(|arg| !is_of_clap(arg)) {
        if arg.get_help_heading() == Some(CLIENT) {
            finding.push(format!("`--{}`", arg.get_long().unwrap_or_default()));
            client.insert(arg.to_string(), help(arg));
        } else {
            rows.push(vec![format!("`{}`", arg.to_string().replace('|', "\\|")), help(arg)]);
        }
    }
    if !rows.is_empty() {
        text.push_str(&format!("{}\n", table(&["argument", "meaning"], &rows)));
    }
    if !finding.is_empty() {
        text.push_str(&format!("{CLIENT}: {}.\n\n", finding.join(", ")));
    }
}

fn is_of_clap(arg: &clap::Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version)
}

fn help(arg: &clap::Arg) -> String {
    let help = arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let mut text = cell(&help);
    if arg.get_action().takes_values() {
        let values: Vec<_> = arg.get_possible_values().iter().map(|v| format!("`{}`", v.get_name())).collect();
        let defaults: Vec<_> = arg.get_default_values().iter().map(|v| format!("`{}`", v.to_string_lossy())).collect();
        for (of, words) in [("one of", values), ("default:", defaults)].iter().filter(|(_, words)| !words.is_empty()) {
            text.push_str(&format!("; {of} {}", words.join(", ")));
        }
    }
    match arg.get_env() {
        Some(env) => format!("{text} (environment: `{}`)", env.to_string_lossy()),
        None => text,
    }
}

fn settings() -> String {
    let mut text = String::new();
    for section in default_configuration() {
        if !section.header.is_empty() {
            text.push_str(&format!("### `{}`\n\n", section.header));
        }
        for paragraph in &section.about {
            text.push_str(&format!("{}\n\n", cell(paragraph)));
        }
        let rows: Vec<_> = section.settings.iter().filter(|s| !s.about.is_empty()).map(setting_row).collect();
        if !rows.is_empty() {
            text.push_str(&format!("{}\n", table(&["key", "default", "allowed", "meaning"], &rows)));
        }
    }
    text
}

fn setting_row(setting: &Setting) -> Vec<String> {
    let value = format!("`{}`", setting.value.replace('|', "\\|"));
    let (default, example) =
        if setting.is_default { (value, String::new()) } else { ("none".to_owned(), format!(" Example: {value}")) };
    vec![format!("`{}`", setting.key), default, cell(setting.allowed), cell(&setting.about) + &example]
}

fn metrics(text: &str) -> String {
    let mut rows = Vec::new();
    for (name, help) in text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' ')) {
        let kind = text.lines().find_map(|line| line.strip_prefix(&format!("# TYPE {name} "))).unwrap();
        let end = match kind {
            "counter" => "_total",
            "histogram" => "_bucket",
            _ => "",
        };
        let labels: BTreeSet<&str> = labels(text, &format!("{name}{end}{{")).into_iter().collect();
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        let name = format!("`{name}{}`", end.trim_end_matches("_bucket"));
        rows.push(vec![name, kind.to_owned(), labels.join(", "), cell(help)]);
    }
    assert!(rows.len() > 60, "{}", rows.len());
    table(&["metric", "type", "labels", "meaning"], &rows)
}

/// The labels of the first sample that begins with `begin`.
fn labels<'t>(text: &'t str, begin: &str) -> Vec<&'t str> {
    let sample = text.lines().find_map(|line| line.strip_prefix(begin)).unwrap_or_default();
    let names = sample.split("=\"").map(|part| part.rsplit(['"', ',']).next().unwrap_or(part));
    let mut names: Vec<&str> = names.collect();
    names.pop();
    names.into_iter().filter(|name| *name != "le").collect()
}

/// Every call of the admin API.
fn calls(document: &Value) -> String {
    let mut rows = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let parameters =
                parameters.filter(|p| p["in"] == "query").map(|p| format!("`{}`", p["name"].as_str().unwrap()));
            let body = &operation["requestBody"]["content"]["application/json"]["schema"];
            let body = if body.is_null() { String::new() } else { kind_of(body) };
            let text = ["summary", "description"].iter().filter_map(|word| operation[*word].as_str());
            rows.push(vec![
                format!("`{} {path}`", method.to_uppercase()),
                parameters.collect::<Vec<_>>().join(", "),
                body,
                cell(&text.collect::<Vec<_>>().join(". ")),
            ]);
        }
    }
    assert!(rows.len() > 30, "{}", rows.len());
    table(&["call", "query", "body", "meaning"], &rows)
}

/// Every schema of the admin API with its fields.
fn fields(document: &Value) -> String {
    let mut text = String::new();
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        text.push_str(&format!("#### {name}\n\n"));
        if let Some(about) = schema["description"].as_str() {
            text.push_str(&format!("{}\n\n", cell(about)));
        }
        let Some(properties) = schema["properties"].as_object() else {
            text.push_str(&format!("{}.\n\n", kind_of(schema)));
            continue;
        };
        let row = |(field, of): (&String, &Value)| {
            let inlined = name.strip_prefix("Page_").filter(|_| field == "items");
            let kind = inlined.map_or_else(|| kind_of(of), |item| format!("array of {item}"));
            vec![format!("`{field}`"), kind, cell(&about(of))]
        };
        let rows: Vec<_> = properties.iter().map(row).collect();
        text.push_str(&format!("{}\n", table(&["field", "type", "meaning"], &rows)));
    }
    text
}

fn about(schema: &Value) -> String {
    let inner = ["oneOf", "anyOf", "allOf"].iter().find_map(|word| schema[*word].as_array()).into_iter().flatten();
    let all = std::iter::once(schema).chain(inner);
    all.filter_map(|schema| schema["description"].as_str()).next().unwrap_or_default().to_owned()
}

/// The type of a schema, in words.
fn kind_of(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str() {
        return name.rsplit('/').next().unwrap_or(name).to_owned();
    }
    if let Some(either) = ["oneOf", "anyOf", "allOf"].iter().find_map(|word| schema[*word].as_array()) {
        return either.iter().map(kind_of).collect::<Vec<_>>().join(" or ");
    }
    if let Some(words) = schema["enum"].as_array() {
        return words
            .iter()
            .map(|word| format!("`{}`", word.to_string().trim_matches('"')))
            .collect::<Vec<_>>()
            .join(", ");
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        kind => kind.as_str().into_iter().collect(),
    };
    let kind = |kind: &str| match (kind, schema["format"].as_str()) {
        ("array", _) => format!("array of {}", kind_of(&schema["items"])),
        ("object", _) if schema["additionalProperties"].is_object() => {
            format!("object of {}", kind_of(&schema["additionalProperties"]))
        }
        ("string", Some("date-time")) => "time".to_owned(),
        ("string", Some("uuid")) => "UUID".to_owned(),
        (kind, _) => kind.to_owned(),
    };
    kinds.into_iter().map(kind).collect::<Vec<_>>().join(" or ")
}

/// The words in the first column of the table below a marker.
fn words(name: &str) -> BTreeSet<String> {
    let page = page(PAGE);
    let marker = format!("<!-- words: {name} -->\n");
    let (_, rest) = page.split_once(&marker).unwrap_or_else(|| panic!("{PAGE} has no {marker}"));
    let rows = rest.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|')).skip(2);
    let first = rows.map(|row| row.split(" | ").next().unwrap_or_default().to_owned());
    first.flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()).collect()
}

fn set<'w>(words: impl IntoIterator<Item = &'w str>) -> BTreeSet<String> {
    words.into_iter().map(str::to_owned).collect()
}

#[tokio::test]
async fn the_tables_of_words_list_the_words_of_the_program() {
    let (text, document) = observed().await;
    let values = |metric: &str, label: &str| -> BTreeSet<String> {
        let samples = text.lines().filter(|line| line.starts_with(&format!("{metric}{{")));
        samples
            .filter_map(|line| Some(line.split_once(&format!("{label}=\""))?.1.split('"').next()?.to_owned()))
            .collect()
    };
    let states = &document["components"]["schemas"]["DeliveryState"]["enum"];
    for (name, wanted) in [
        ("outcomes", set(Outcome::WORDS)),
        ("reasons", set(Reason::ALL.map(Reason::word))),
        ("blockers", set(Blocker::ALL.map(Blocker::word))),
        ("delivery states", set(states.as_array().unwrap().iter().filter_map(Value::as_str))),
        ("daemon states", values("holdline_state", "state")),
        ("breaker states", set(breaker::State::WORDS)),
        ("closed", values("holdline_intake_closed", "reason")),
        ("scopes", set(Scope::ALL.map(Scope::word))),
        ("profiles", set(PROFILES)),
        ("presets", set(holdline::signature::PRESETS)),
        ("handshakes", set(Handshake::ALL.map(Handshake::word))),
        ("conditions", conditions()),
        ("intake codes", codes(&["src/intake", "src/net"])),
        ("admin codes", codes(&["src/admin"])),
        ("headers out", headers_out()),
    ] {
        assert!(wanted.len() > 2, "{name}: {wanted:?}");
        assert_eq!(words(name), wanted, "{PAGE}, the table of {name}");
    }
}

/// The conditions of alerts, as a configuration error lists them.
fn conditions() -> BTreeSet<String> {
    let faults = faults(r#"alert = [{ url = "https://a.b", on = ["zzzzzzzzz"] }]"#);
    let known = faults.iter().find_map(|fault| fault.split_once("write one of ")).unwrap().1;
    known.split(", ").map(|one| one.trim_matches('"').to_owned()).collect()
}

/// The codes in the sources: `413 body_too_large`, and codes whose status is decided elsewhere.
fn codes(folders: &[&str]) -> BTreeSet<String> {
    let status = |name: &str| {
        (400..600).filter_map(|n| http::StatusCode::from_u16(n).ok()).find(|status| {
            let reason = status.canonical_reason().unwrap_or_default().to_uppercase();
            reason.replace([' ', '-'], "_") == name
        })
    };
    let mut found = BTreeSet::new();
    for text in sources().into_iter().filter(|(path, _)| folders.iter().any(|folder| path.starts_with(folder))) {
        for rest in text.1.split("StatusCode::").skip(1) {
            let Some((name, rest)) = rest.split_once(',') else { continue };
            let code = rest.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next());
            found.extend(code.zip(status(name)).map(|(code, status)| format!("{} {code}", status.as_u16())));
        }
    }
    if folders.contains(&"src/intake") {
        found.extend(holdline::intake::admission::State::CODES.map(|code| format!("503 {code}")));
        found.insert("408 header_timeout".to_owned());
    }
    found
}

/// The headers that a request to a destination gets, in addition to those of HTTP itself and to forwarded ones.
fn headers_out() -> BTreeSet<String> {
    let (_, text) = sources().into_iter().find(|(path, _)| path == "src/dispatch/request.rs").unwrap();
    let names = literals(&text).into_iter();
    names.filter(|name| name.contains('-') && name.chars().all(|c| c.is_ascii_lowercase() || c == '-')).collect()
}

/// The errors of a configuration that is complete except for this text.
fn faults(text: &str) -> Vec<String> {
    let mut text = text.to_owned();
    for block in
        ["source", "destination"].iter().filter(|block| !text.contains(&format!("{block} = ["))).collect::<Vec<_>>()
    {
        text.push_str(&format!("\n{block} = [{{ name = \"x\" }}]"));
    }
    match holdline::config::parse(&text, Path::new("h.toml")) {
        Ok(_) => Vec::new(),
        Err(faults) => faults.iter().map(ToString::to_string).collect(),
    }
}

/// A text with `settings` in a section, whose header the default configuration has.
fn in_section(header: &str, settings: &str) -> String {
    let bare = header.trim_matches(['[', ']']);
    match bare.strip_prefix("destination.") {
        Some(inner) => format!(r#"destination = [{{ name = "d", {inner} = {{ {settings} }} }}]"#),
        None if header == "[[alert]]" => {
            format!(r#"alert = [{{ url = "https://a.b", on = ["damaged"], {settings} }}]"#)
        }
        None if header.starts_with("[[") && !settings.starts_with("name ") => {
            format!(r#"{bare} = [{{ name = "n", {settings} }}]"#)
        }
        None if header.starts_with("[[") => format!("{bare} = [{{ {settings} }}]"),
        None => format!("{bare} = {{ {settings} }}"),
    }
}

const UNKNOWN: &str = "zzzzzzzzzzzzzzzz = 1";

/// The known keys that the error about an unknown key in `text` lists.
fn known(text: &str) -> BTreeSet<String> {
    let faults = faults(text);
    let known = faults.iter().find_map(|fault| fault.split_once("known here: "));
    set(known.unwrap_or_else(|| panic!("{text}: {faults:?}")).1.split(", "))
}

#[test]
fn the_default_configuration_describes_every_key_that_the_reader_knows() {
    let sections = default_configuration();
    let headers = || sections.iter().map(|section| section.header).filter(|header| !header.is_empty());
    let blocks = headers().filter(|header| !header.contains('.')).map(|header| header.trim_matches(['[', ']']));
    let alert = in_section("[[alert]]", r#"digest = "1m""#);
    assert_eq!(known(&format!("{UNKNOWN}\n{alert}")), set(blocks), "the blocks");
    for section in sections.iter().filter(|section| !section.header.is_empty()) {
        let mut described: BTreeSet<String> = section.settings.iter().map(|setting| setting.key.to_owned()).collect();
        let inner = format!("[{}.", section.header.trim_matches(['[', ']']));
        described
            .extend(headers().filter_map(|header| Some(header.strip_prefix(&inner)?.trim_matches(']').to_owned())));
        assert_eq!(described, known(&in_section(section.header, UNKNOWN)), "{}", section.header);
        for setting in &section.settings {
            let first = section.settings.iter().find(|other| other.key == setting.key).unwrap();
            assert!(!first.about.is_empty(), "{} {} has no description", section.header, setting.key);
        }
    }
}

/// The tables in an example, each with the keys that it describes.
fn inner_keys(sections: &[Section], header: &str, key: &str, kind: Option<&str>) -> BTreeSet<String> {
    let section = sections.iter().find(|section| section.header == header).unwrap();
    let mut keys = BTreeSet::new();
    for setting in section.settings.iter().filter(|setting| setting.key == key) {
        let example: toml::Table = toml::from_str(&format!("x = {}", setting.value)).unwrap();
        let table = example["x"].as_array().map_or(&example["x"], |items| &items[0]).as_table().unwrap().clone();
        if table.get("kind").and_then(toml::Value::as_str) == kind {
            keys.extend(table.keys().cloned());
        }
    }
    keys
}

#[test]
fn the_examples_of_tables_show_every_key_that_the_reader_knows() {
    let (sections, secret) = (default_configuration(), r#"{ file = "/f" }"#);
    let cases = [
        ("[intake]", "tls", None, String::new()),
        ("[admin]", "tokens", None, String::new()),
        ("[[source]]", "auth", Some("bearer"), String::new()),
        ("[[source]]", "auth", Some("basic"), String::new()),
        ("[[source]]", "auth", Some("header"), String::new()),
        ("[[source]]", "auth", Some("query"), String::new()),
        ("[[source]]", "auth", Some("hmac"), format!(r#"header = "X-Sig", secrets = {secret}, "#)),
        ("[[destination]]", "auth", Some("bearer"), String::new()),
        ("[[destination]]", "auth", Some("basic"), String::new()),
        ("[[destination]]", "auth", Some("header"), String::new()),
        ("[[destination]]", "auth", Some("oauth2"), String::new()),
        ("[[destination]]", "tls", None, String::new()),
        ("[[destination]]", "sign", None, String::new()),
        ("[[destination]]", "success", None, String::new()),
    ];
    for (header, key, kind, settings) in cases {
        let kind_setting = kind.map(|kind| format!("kind = \"{kind}\", ")).unwrap_or_default();
        let table = format!("{{ {kind_setting}{settings}{UNKNOWN} }}");
        let table = if key == "tokens" { format!("[{table}]") } else { table };
        let known = known(&in_section(header, &format!("{key} = {table}")));
        assert_eq!(inner_keys(&sections, header, key, kind), known, "{header} {key} {kind:?}");
    }
    let text = sections[0].about.join(" ");
    for key in known(&in_section("[admin]", &format!("token = {{ file = \"/f\", {UNKNOWN} }}"))) {
        assert!(text.contains(&format!("{{ {key} = ")), "{key}, by which a secret is referred to");
    }
}

/// A value below every minimum and one above every maximum, of the same type as `value`; none if the type has no bounds.
fn extremes(value: &str) -> Option<[&'static str; 2]> {
    let text = value.trim_matches('"');
    let digits = text.trim_start_matches(|c: char| c.is_ascii_digit());
    match (value.starts_with('"'), digits) {
        (false, "") => Some(["0", "999999999999"]),
        (false, rest) if rest.starts_with('.') => Some(["0.0", "99999.0"]),
        (true, "ms" | "s" | "m" | "h" | "d") => Some(["\"0s\"", "\"40000d\""]),
        (true, "B" | "KiB" | "MiB" | "GiB" | "TiB") => Some(["\"0B\"", "\"99999TiB\""]),
        _ => None,
    }
}

#[test]
fn the_default_configuration_gives_the_bounds_of_the_reader() {
    let same = |one: &str, other: &str| {
        let duration = |text: &str| humantime::parse_duration(text).ok();
        one == other || duration(one).is_some_and(|d| Some(d) == duration(other))
    };
    let mut seen = 0;
    for section in default_configuration() {
        for setting in &section.settings {
            let Some(extremes) = extremes(setting.value) else { continue };
            let allowed = setting.allowed.split([',', ';']).next().unwrap_or_default();
            for (n, word) in ["or more", "or less"].iter().enumerate() {
                let text = in_section(section.header, &format!("{} = {}", setting.key, extremes[n]));
                let faults = faults(&text);
                let at = format!("{}: ", setting.key);
                let found = faults.iter().find(|fault| fault.contains(&at) && fault.ends_with(word));
                let Some(bound) = found.and_then(|fault| fault.rsplit_once("; write ")) else { continue };
                let bound = bound.1.trim_end_matches(word).trim().trim_matches('"');
                let written = allowed.split(" to ").nth(n).unwrap_or_default();
                let is_another_key = written.starts_with("max_");
                assert!(
                    is_another_key || same(written, bound),
                    "{} {}: {written:?}, {bound:?}",
                    section.header,
                    setting.key
                );
                seen += 1;
            }
        }
    }
    assert!(seen > 60, "{seen}");
}
