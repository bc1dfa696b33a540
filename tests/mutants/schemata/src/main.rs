//! Puts many mutants into one source: each place where some stand asks at run time which of them it is to be.
//!
//! In: on standard input the list of `cargo mutants --list --json`, each with its `number`; as arguments the folder of the
//! sources and the folder to write them to. Out: the rewritten files, and on standard output where in them each mutant lies
//! (bytes), and which mutants have no place and why.
//!
//! A mutated expression becomes a `match` over the mutants that stand there, with the unchanged expression as its first arm,
//! in which further mutants may lie; the other arms are made of the text as it was, since only one mutant is there at a
//! time. A changed function returns at once, and a match arm that is to be missing has a guard that says no.

mod find;
mod write;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Clone, Copy, Deserialize)]
struct Position {
    line: usize,
    column: usize,
}

#[derive(Clone, Copy, Deserialize)]
struct Extent {
    start: Position,
}

/// One entry of the list.
#[derive(Deserialize)]
struct Mutant {
    number: u32,
    file: String,
    genre: String,
    replacement: String,
    span: Extent,
}

/// What is told of all files.
#[derive(Default, Serialize)]
struct Told {
    /// File -> start, end and number of each mutant's text.
    texts: BTreeMap<String, Vec<(usize, usize, u32)>>,
    /// Number -> why it has no place.
    without_place: BTreeMap<u32, &'static str>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folders: Vec<String> = std::env::args().skip(1).collect();
    let [from, to] = &folders[..] else { return Err("usage: schemata FROM TO < list".into()) };
    let list: Vec<Mutant> = serde_json::from_reader(std::io::stdin())?;
    let mut files: BTreeMap<&str, Vec<&Mutant>> = BTreeMap::new();
    for mutant in &list {
        files.entry(&mutant.file).or_default().push(mutant);
    }
    let mut told = Told::default();
    for (name, mutants) in files {
        let text = std::fs::read_to_string(Path::new(from).join(name))?;
        let found = find::places(&text, &mutants)?;
        let (rewritten, texts) = write::rewritten(&text, &found.places);
        std::fs::write(Path::new(to).join(name), rewritten)?;
        told.texts.insert(name.to_owned(), texts);
        told.without_place.extend(found.without_place);
    }
    serde_json::to_writer(std::io::stdout(), &told)?;
    Ok(())
}
