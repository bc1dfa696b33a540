//! Names that are not used any more: those that users knew before 0.1.0, and those that the code had for its own things.

use super::architecture::{none, sources};
use std::path::{Path, PathBuf};

/// Commands, paths, keys, fields, metrics and codes that were renamed. CHANGELOG.md has the new names.
const OUTSIDE: [&str; 26] = [
    "holdline gaps",
    "/v1/gaps",
    "quarantine verify",
    "quarantine/verify",
    "dlq stop",
    "max_in_flight",
    "max_unverified_per_address",
    "max_unverified_per_connection",
    "on_unparsable",
    "unparsable",
    "\"overloaded\"",
    "`overloaded`",
    "503 overloaded",
    "forecast_drained",
    "forecast_disk_full",
    "source_silent",
    "destination_hold_seconds",
    "deliveries_made",
    "dlq_beyond",
    "dlq_full",
    "last_gap",
    "queue_held",
    "waiting_for",
    "held_by",
    "HELD BY",
    "gap >",
];

/// Where old names stand on purpose: the table that names the new key for an old one, its tests, and state that older builds saved.
const MAY_NAME_THEM: [&str; 6] = [
    "src/config/syntax/fault.rs",
    "src/alert/mod.rs",
    "tests/it/cli/commands.rs",
    "tests/it/repository/words.rs",
    "tests/samples/store/make.py",
    "tests/it/store/takeover.rs",
];

/// Words that name nothing in the code, alone or as a part of an identifier.
const IN_CODE: [&str; 43] = [
    "anchor",
    "buried",
    "bury",
    "course",
    "dammed",
    "detained",
    "detainees",
    "detention",
    "door",
    "dues",
    "entrance",
    "fare",
    "fares",
    "farewell",
    "fate",
    "fates",
    "flying",
    "gaps",
    "hasten",
    "hastened",
    "heard",
    "hunt",
    "lane",
    "lanes",
    "ledger",
    "lies",
    "lookout",
    "nameless",
    "news",
    "parcel",
    "seat",
    "seats",
    "shutters",
    "sight",
    "sitting",
    "spans",
    "spell",
    "stance",
    "stances",
    "tee",
    "tells",
    "trial",
    "wish",
];

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "__pycache__") {
            files(&path, found);
        } else if path.extension().is_some_and(|e| {
            ["rs", "py", "md", "toml", "json", "yml", "html", "js", "service", "socket", "sh"]
                .contains(&e.to_str().unwrap())
        }) {
            found.push(path);
        }
    }
}

#[test]
fn renamed_commands_keys_fields_and_metrics_do_not_occur() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut all = vec![root.join("README.md")];
    for folder in ["src", "tests", "packaging", "systemd", "benches"] {
        files(&root.join(folder), &mut all);
    }
    let mut faults = Vec::new();
    for path in all {
        let name = path.strip_prefix(&root).unwrap().display().to_string();
        if MAY_NAME_THEM.contains(&&*name) {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        faults.extend(OUTSIDE.iter().filter(|old| text.contains(**old)).map(|old| format!("{name} has {old}")));
    }
    none(faults);
}

/// `DeadLetterId` and `dead_letter_id` as `dead`, `letter`, `id`.
fn words(identifier: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for c in identifier.chars() {
        if c == '_' || c.is_uppercase() && !words.last().unwrap().ends_with(char::is_uppercase) {
            words.push(String::new());
        }
        if c != '_' {
            words.last_mut().unwrap().push(c);
        }
    }
    words.iter().filter(|word| !word.is_empty()).map(|word| word.to_lowercase()).collect()
}

#[test]
fn identifiers_have_none_of_the_old_words() {
    let mut faults = Vec::new();
    for source in sources() {
        let code = source.code.split(|c: char| !c.is_alphanumeric() && c != '_');
        for identifier in code.filter(|word| word.starts_with(|c: char| c.is_alphabetic() || c == '_')) {
            if let Some(word) = words(identifier).iter().find(|word| IN_CODE.contains(&&***word)) {
                faults.push(format!("{}: {identifier} ({word})", source.path));
            }
        }
    }
    faults.dedup();
    none(faults);
}

#[test]
fn identifiers_are_parted_into_words() {
    assert_eq!(words("DeadLetterId"), ["dead", "letter", "id"]);
    assert_eq!(words("dead_letter_IDS"), ["dead", "letter", "ids"]);
    assert_eq!(words("LANE_MAX"), ["lane", "max"]);
}
