//! The page of proof (tests/PROOF.md) compared with the sources: every promise has its row, and everything that a row
//! names exists.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const PROMISES: usize = 26;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below a folder whose name ends with `end`.
fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, end));
        } else if path.to_string_lossy().ends_with(end) {
            found.push(path);
        }
    }
    found
}

/// Names of all test functions: those after an attribute `#[test]` or `#[tokio::test]`.
pub(super) fn tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for path in files(&root().join("src"), ".rs").into_iter().chain(files(&root().join("tests/it"), ".rs")) {
        let text = std::fs::read_to_string(path).unwrap();
        for (at, attribute) in text
            .match_indices("test")
            .filter(|(at, _)| text[..*at].ends_with("#[") || text[..*at].ends_with("#[tokio::"))
        {
            let behind = &text[at + attribute.len()..];
            let Some((_, function)) = behind.split_once("fn ") else { continue };
            names.insert(function.split('(').next().unwrap().to_owned());
        }
    }
    assert!(names.len() > 300, "{}", names.len());
    names
}

/// The texts between backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn each_promise_has_its_row_and_each_row_names_existing_tests() {
    let page = std::fs::read_to_string(root().join("tests/PROOF.md")).unwrap();
    let tests = tests();
    let mut promises = Vec::new();
    for line in page.lines().filter(|line| line.starts_with("| I")) {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [promise, _, by_tests, by_rigs] = cells[..] else { panic!("not four cells: {line}") };
        promises.push(promise.to_owned());
        assert!(quoted(by_tests).next().is_some(), "{promise} has no test");
        for name in quoted(by_tests) {
            assert!(tests.contains(name), "{promise}: there is no test `{name}`");
        }
        for name in quoted(by_rigs) {
            assert!(root().join("tests/rigs").join(name).is_file(), "{promise}: there is no harness `{name}`");
        }
    }
    assert_eq!(promises, (1..=PROMISES).map(|n| format!("I{n}")).collect::<Vec<_>>());
}

#[test]
fn each_promise_in_a_test_name_has_a_row() {
    let page = std::fs::read_to_string(root().join("tests/PROOF.md")).unwrap();
    for name in tests().iter().filter(|name| name.starts_with('i')) {
        for number in name.split('_').map_while(|part| part.strip_prefix('i')?.parse::<usize>().ok()) {
            let row = page.lines().find(|line| line.starts_with(&format!("| I{number} |")));
            assert!(row.is_some(), "`{name}` is named for a promise that the page does not know");
        }
    }
}

#[test]
fn each_mutant_patch_applies_and_has_its_harness() {
    let folder = root().join("tests/mutants");
    let runner = std::fs::read_to_string(folder.join("run.py")).unwrap();
    let patches = files(&folder, ".patch");
    assert!(patches.len() >= 5);
    for patch in patches {
        let name = patch.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(runner.contains(&format!("    \"{name}\": [(")), "{name} has no row in run.py");
        // outside of any repository, so that neither the index nor a parent folder has an effect
        let checked = std::process::Command::new("git")
            .args(["apply", "--check"])
            .arg(&patch)
            .current_dir(root())
            .env("GIT_DIR", "/nonexistent")
            .output()
            .unwrap();
        assert!(checked.status.success(), "{name} does not apply: {}", String::from_utf8_lossy(&checked.stderr));
    }
}

#[test]
fn the_page_of_the_rigs_lists_every_rig_and_no_other() {
    let folder = root().join("tests/rigs");
    let page = std::fs::read_to_string(folder.join("README.md")).unwrap();
    let shared = ["all.py", "books.py", "common.py", "samples.py"];
    let names = files(&folder, ".py").into_iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned());
    let rigs: BTreeSet<String> = names.filter(|name| !shared.contains(&name.as_str())).collect();
    let rows: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    assert_eq!(rows.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>(), rigs);
    assert_eq!(rows.len(), 2 * rigs.len(), "a row in each of the two tables");
}
