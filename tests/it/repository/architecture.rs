//! Checks of the source text: the map in `src/lib.rs`, and the rules of the house style.

use super::proof::tests;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
const TEST_NAME_MAX: usize = 80;

/// A source file, its path below `src`, and its text without comments, strings and tests.
pub(super) struct Source {
    pub path: String,
    pub text: String,
    pub code: String,
}

impl Source {
    /// The room of the file: the first part of its path.
    fn room(&self) -> &str {
        self.path.split(['/', '.']).next().unwrap()
    }

    pub fn is_test(&self) -> bool {
        self.path.ends_with("tests.rs")
    }
}

pub(super) fn sources() -> Vec<Source> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                all.push(source(&root, &path));
            }
        }
    }
    all.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(all.len() > 30);
    all
}

fn source(root: &Path, path: &Path) -> Source {
    let text = std::fs::read_to_string(path).unwrap();
    // the tests of a file are at its end
    let tested = without_tests(&text);
    let code = bare(tested);
    Source { path: path.strip_prefix(root).unwrap().display().to_string(), text, code }
}

/// Code without comments and the content of strings; line ends are kept.
fn bare(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(c) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(hashes) = raw_string(rest) {
            let end = format!("\"{}", "#".repeat(hashes));
            let open = hashes + 2;
            open + rest[open..].find(&end).unwrap() + end.len()
        } else if c == '"' {
            string_end(rest)
        } else if rest.starts_with("'\"'") {
            3
        } else if rest.starts_with("'\\") {
            rest[3..].find('\'').unwrap() + 4
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        out.extend(rest[..length].chars().filter(|c| *c == '\n'));
        rest = &rest[length..];
    }
    out
}

fn raw_string(rest: &str) -> Option<usize> {
    let hashes = rest.strip_prefix('r')?.bytes().take_while(|b| *b == b'#').count();
    rest[1 + hashes..].starts_with('"').then_some(hashes)
}

fn string_end(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    panic!("a string without an end: {rest}")
}

/// Rooms with their levels, in the order of the table in `src/lib.rs`.
fn levels(all: &[Source]) -> BTreeMap<String, (u32, usize)> {
    let map = &all.iter().find(|s| s.path == "lib.rs").unwrap().text;
    let mut rooms = BTreeMap::new();
    for line in map.lines().filter_map(|line| line.strip_prefix("//! | ")) {
        let mut cells = line.split(" | ");
        let Some(level) = cells.next().and_then(|cell| cell.parse::<u32>().ok()) else { continue };
        for room in cells.next().unwrap().split('`').skip(1).step_by(2) {
            let place = rooms.len();
            rooms.insert(room.to_owned(), (level, place));
        }
    }
    assert!(rooms.len() > 12, "{rooms:?}");
    rooms
}

/// Each word after `crate::`, and each first word in `use crate::{...}`.
fn imports(code: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for (at, found) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + found.len()..];
        match rest.strip_prefix('{') {
            None => rooms.push(word(rest)),
            Some(group) => {
                let mut depth = 0;
                let mut part = String::new();
                for c in group.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => rooms.push(word(std::mem::take(&mut part).trim())),
                        _ => {}
                    }
                    if c != ',' || depth > 0 {
                        part.push(c);
                    }
                }
                rooms.push(word(part.trim()));
            }
        }
    }
    rooms.retain(|room| !room.is_empty());
    rooms
}

/// The text before the module of tests, which is the last one in its file.
fn without_tests(text: &str) -> &str {
    let begins = |rest: &str| rest.lines().next().is_some_and(|line| line.contains("mod ") && line.ends_with('{'));
    let mut found = text.match_indices("\n#[cfg(test)]\n").filter(|(at, head)| begins(&text[at + head.len()..]));
    found.next().map_or(text, |(at, _)| &text[..at])
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn uses(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let whole = |c: Option<char>| !c.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '-');
        whole(code[..at].chars().next_back()) && whole(code[at + name.len()..].chars().next())
    })
}

pub(super) fn none(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn a_room_imports_only_from_lower_ones() {
    let all = sources();
    let levels = levels(&all);
    let mut faults = Vec::new();
    for source in all.iter().filter(|s| !["main", "lib"].contains(&s.room()) && !s.is_test()) {
        let Some((level, place)) = levels.get(source.room()) else {
            faults.push(format!("{}: its room is not on the map", source.path));
            continue;
        };
        for import in imports(&source.code).into_iter().filter(|import| import != source.room()) {
            // the modules of level 0 import those listed before them
            let allowed = levels.get(&import).is_some_and(|(l, p)| l < level || (*level == 0 && *l == 0 && p < place));
            if !allowed {
                faults.push(format!("{} (level {level}) imports crate::{import}", source.path));
            }
        }
    }
    none(faults);
}

#[test]
fn libraries_stay_in_their_rooms() {
    let all = sources();
    let levels = levels(&all);
    let pure = |s: &Source| levels.get(s.room()).is_some_and(|(level, _)| *level <= 1) || s.room() == "scheduler";
    let mut faults = Vec::new();
    for source in all.iter().filter(|s| !s.is_test()) {
        for (name, allowed) in [
            ("sled", source.room() == "store"),
            ("bincode", source.room() == "store"),
            ("hyper", !pure(source) && source.room() != "store"),
            ("tokio", !pure(source)),
            ("SystemTime::now", source.path == "clock.rs"),
            ("Instant::now", source.path == "clock.rs"),
        ] {
            if !allowed && uses(&source.code, name) {
                faults.push(format!("{} uses {name}", source.path));
            }
        }
    }
    none(faults);
}

#[test]
fn files_say_what_they_are_and_stay_short() {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|s| !s.is_test()) {
        if !source.text.starts_with("//! ") {
            faults.push(format!("{} does not begin with its purpose", source.path));
        }
        let lines = without_tests(&source.text).lines().count();
        if lines > LINES_MAX {
            faults.push(format!("{} has {lines} lines", source.path));
        }
    }
    none(faults);
}

#[test]
fn functions_stay_short() {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|s| !s.is_test()) {
        let mut open: Option<(usize, usize, String)> = None;
        for (n, line) in source.code.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let starts = line.trim_start().trim_start_matches("pub ").trim_start_matches("async ");
            let named = starts.starts_with("fn ") || (starts.starts_with("pub(") && starts.contains(") fn "));
            match &open {
                None if named && !line.trim_end().ends_with(['}', ';']) => {
                    open = Some((n, indent, line.trim().to_owned()))
                }
                Some((start, depth, name)) if *depth == indent && line.trim() == "}" => {
                    if n - start + 1 > FUNCTION_LINES_MAX {
                        faults.push(format!("{}: {name} has {} lines", source.path, n - start + 1));
                    }
                    open = None;
                }
                _ => {}
            }
        }
        assert!(open.is_none(), "{}: the end of {open:?} was not found", source.path);
    }
    none(faults);
}

#[test]
fn test_names_are_short_and_have_a_subject() {
    let mut faults = Vec::new();
    for name in tests() {
        // the name begins with the promises that it proves
        let is_promise = |part: &&str| part.strip_prefix('i').is_some_and(|n| n.parse::<u32>().is_ok());
        let subject = name.split('_').find(|part| !is_promise(part));
        if name.len() > TEST_NAME_MAX {
            faults.push(format!("{name} has {} characters", name.len()));
        }
        if subject.is_none_or(|word| ["what", "whatever", "who", "whoever"].contains(&word)) {
            faults.push(format!("{name} begins with no subject"));
        }
    }
    none(faults);
}

#[test]
fn nothing_is_left_unfinished() {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|s| !s.is_test()) {
        for banned in [".unwrap()", "dbg!", "todo!", "unimplemented!", "#[ignore"] {
            if source.code.contains(banned) {
                faults.push(format!("{} has {banned}", source.path));
            }
        }
        for banned in ["TODO", "FIXME", "XXX"] {
            if source.text.contains(banned) {
                faults.push(format!("{} has {banned}", source.path));
            }
        }
    }
    none(faults);
}

#[test]
fn code_is_separated_from_comments_and_strings() {
    let code = bare("a(\"// \\\" x\"); // sled\nb('\"', r#\"tokio \"\"#, '\\'', 'c'); c\n");
    assert_eq!(code, "a(); \nb(, , , 'c'); c\n");
    assert_eq!(imports("use crate::{a::{b, c}, d}; x::macrate::e; crate::f::g()"), ["a", "d", "f"]);
    assert!(uses("use sled::Db;", "sled") && !uses("unsled", "sled") && !uses("hyper_util::x", "hyper"));
}
