//! The module graph, read from the sources: no import circle anywhere, and inside a room only imports from lower levels.
//!
//! A module imports another one if a path in its code (`use` or inline) names the other one or an item that the other
//! one defines; an item that an ancestor re-exports counts as imported from the module that defines it. A `mod.rs`
//! composes its children, so paths between it and them are no circle.

use super::architecture::{Source, none, sources};
use std::collections::{BTreeMap, BTreeSet};

/// Rooms with more files than this must have a table of levels.
const FILES_WITHOUT_LEVELS: usize = 4;

/// Rooms without a table.
const WITHOUT_LEVELS: [&str; 4] = ["admin/mod.rs", "cli/demo/mod.rs", "cli/mod.rs", "daemon.rs"];

/// Rooms with circles.
const WITH_CIRCLES: [&str; 1] = ["admin"];

type Path = Vec<String>;

/// Modules with the modules that they import.
struct Graph {
    imports: BTreeMap<Path, BTreeSet<Path>>,
}

/// `store/read/view.rs` -> `["store", "read", "view"]`; `store/mod.rs` -> `["store"]`.
fn module_of(path: &str) -> Path {
    let path = path.trim_end_matches(".rs").trim_end_matches("/mod");
    path.split('/').map(str::to_owned).collect()
}

impl Graph {
    fn of(all: &[Source]) -> Self {
        let sources: BTreeMap<Path, &Source> = all
            .iter()
            .filter(|s| !["main.rs", "lib.rs"].contains(&&*s.path))
            .map(|s| (module_of(&s.path), s))
            .collect();
        let re_exports = sources.iter().map(|(module, s)| (module.clone(), named_by_use(module, &s.code))).collect();
        let resolver = Resolver { modules: sources.keys().cloned().collect(), re_exports };
        let mut imports = BTreeMap::new();
        for (module, source) in sources.iter().filter(|(_, s)| !s.is_test()) {
            let of = paths(&source.code).into_iter().filter_map(|path| resolver.module(module, &path));
            // paths between a module and its own children are no imports
            let related = |other: &Path| other.starts_with(module) || module.starts_with(other);
            imports.insert(module.clone(), of.filter(|other| !related(other)).collect());
        }
        Self { imports }
    }

    /// Groups of modules in which each module imports each other one, directly or indirectly.
    fn circles(&self) -> Vec<Vec<Path>> {
        let reached: BTreeMap<&Path, BTreeSet<&Path>> =
            self.imports.keys().map(|from| (from, self.reach(from))).collect();
        let mut circles: Vec<Vec<Path>> = Vec::new();
        for module in self.imports.keys().filter(|module| reached[module].contains(module)) {
            let mutual = |other: &&Path| reached[module].contains(*other) && reached[*other].contains(module);
            let circle: Vec<Path> = self.imports.keys().filter(mutual).cloned().collect();
            if !circles.contains(&circle) {
                circles.push(circle);
            }
        }
        circles
    }

    fn reach<'g>(&'g self, from: &Path) -> BTreeSet<&'g Path> {
        let mut found = BTreeSet::new();
        let mut open: Vec<&Path> = self.imports[from].iter().collect();
        while let Some(module) = open.pop() {
            if found.insert(module) {
                open.extend(self.imports.get(module).into_iter().flatten());
            }
        }
        found
    }
}

struct Resolver {
    modules: BTreeSet<Path>,
    /// For each module: names that its `use` declarations import, with their absolute paths.
    re_exports: BTreeMap<Path, BTreeMap<String, Path>>,
}

impl Resolver {
    /// The module that defines the item that `path` names inside `from`; none if it is not of this crate.
    fn module(&self, from: &Path, path: &[String]) -> Option<Path> {
        let mut absolute = self.absolute(from, path)?;
        for _ in 0..8 {
            let deepest = (1..=absolute.len()).rev().find(|n| self.modules.contains(&absolute[..*n]))?;
            let (module, rest) = (absolute[..deepest].to_vec(), &absolute[deepest..]);
            match rest.first().and_then(|name| self.re_exports[&module].get(name)) {
                Some(elsewhere) if *elsewhere != absolute => {
                    absolute = elsewhere.iter().chain(&rest[1..]).cloned().collect();
                }
                _ => return Some(module),
            }
        }
        None
    }

    fn absolute(&self, from: &Path, path: &[String]) -> Option<Path> {
        let absolute = absolute(from, path);
        if absolute.is_some() {
            return absolute;
        }
        let child: Path = from.iter().chain(path.first()).cloned().collect();
        self.modules.contains(&child).then(|| from.iter().chain(path).cloned().collect())
    }
}

/// A path that begins with `crate`, `super` or `self`, from the root of the crate.
fn absolute(from: &Path, path: &[String]) -> Option<Path> {
    let supers = path.iter().take_while(|segment| *segment == "super").count();
    match path.first()?.as_str() {
        "crate" => Some(path[1..].to_vec()),
        "self" => Some(from.iter().chain(&path[1..]).cloned().collect()),
        "super" => Some(from[..from.len().saturating_sub(supers)].iter().chain(&path[supers..]).cloned().collect()),
        _ => None,
    }
}

/// The names that the `use` declarations of a module import, with their paths from the root.
fn named_by_use(module: &Path, code: &str) -> BTreeMap<String, Path> {
    let mut names = BTreeMap::new();
    for path in use_declarations(code) {
        let (name, path) = match path.iter().position(|segment| segment == "as") {
            Some(at) => (path.get(at + 1), &path[..at]),
            None => (path.last(), &path[..]),
        };
        let child = || Some(module.iter().chain(path).cloned().collect());
        let known = absolute(module, path)
            .or_else(|| path.first().filter(|s| code.contains(&format!("mod {s};"))).and_then(|_| child()));
        if let (Some(name), Some(path)) = (name, known) {
            names.insert(name.clone(), path);
        }
    }
    names
}

/// Every path of the `use` declarations, and every path in the code that begins with `crate`, `super` or `self`.
fn paths(code: &str) -> Vec<Path> {
    let mut all = use_declarations(code);
    for path in &mut all {
        path.truncate(path.iter().position(|segment| segment == "as").unwrap_or(path.len()));
    }
    for start in ["crate::", "super::"] {
        for (at, _) in code.match_indices(start) {
            if code[..at].chars().next_back().is_none_or(|c| !c.is_alphanumeric() && !"_:".contains(c)) {
                all.push(plain_path(&code[at..]));
            }
        }
    }
    all
}

/// `a::b::C` at the beginning of `text`.
fn plain_path(text: &str) -> Path {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(text.len());
    text[..end].split("::").filter(|segment| !segment.is_empty()).map(str::to_owned).collect()
}

fn use_declarations(code: &str) -> Vec<Path> {
    let mut all = Vec::new();
    for (at, found) in code.match_indices("use ") {
        let line = code[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let before = code[line..at].trim();
        if before.is_empty() || before == "pub" || before.starts_with("pub(") {
            let rest = &code[at + found.len()..];
            expand(&Vec::new(), &rest[..rest.find(';').unwrap()], &mut all);
        }
    }
    all
}

/// `a::{b, c::{d as e}}` as `a::b` and `a::c::d as e`.
fn expand(prefix: &Path, tree: &str, all: &mut Vec<Path>) {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let words = tree.replace("::", " ");
        let path = words.split_whitespace().filter(|word| *word != "self" || prefix.is_empty());
        all.push(prefix.iter().cloned().chain(path.map(str::to_owned)).collect());
        return;
    };
    let mut prefix = prefix.clone();
    prefix.extend(plain_path(tree[..open].trim()));
    let inner = &tree[open + 1..tree.rfind('}').unwrap()];
    let (mut depth, mut from) = (0, 0);
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&prefix, &inner[from..at], all);
                from = at + 1;
            }
            _ => {}
        }
    }
    if !inner[from..].trim().is_empty() {
        expand(&prefix, &inner[from..], all);
    }
}

/// The levels of a room's modules, from the table in the comment at the head of its file: `| 2 | [`read`] | purpose |`.
fn levels(source: &Source) -> BTreeMap<String, u32> {
    let mut levels = BTreeMap::new();
    for line in source.text.lines().filter_map(|line| line.strip_prefix("//! | ")) {
        let mut cells = line.split(" | ");
        let Some(level) = cells.next().and_then(|cell| cell.parse::<u32>().ok()) else { continue };
        for module in cells.next().unwrap_or_default().split('`').skip(1).step_by(2) {
            levels.insert(module.to_owned(), level);
        }
    }
    levels
}

fn shown(path: &Path) -> String {
    path.join("::")
}

#[test]
fn no_modules_import_each_other_in_a_circle() {
    let graph = Graph::of(&sources());
    let circles = graph.circles();
    let new = circles.iter().filter(|circle| !WITH_CIRCLES.contains(&&*circle[0][0]));
    none(new.map(|circle| circle.iter().map(shown).collect::<Vec<_>>().join(" ")).collect());
}

#[test]
fn modules_of_a_room_import_only_from_lower_levels() {
    let all = sources();
    let graph = Graph::of(&all);
    let mut faults = Vec::new();
    for source in all.iter().filter(|s| s.path != "lib.rs" && s.path != "main.rs") {
        let (room, levels) = (module_of(&source.path), levels(source));
        let inside: BTreeSet<&String> = graph
            .imports
            .keys()
            .filter(|m| m.len() > room.len() && m.starts_with(&room))
            .map(|m| &m[room.len()])
            .collect();
        if levels.is_empty() {
            if inside.len() > FILES_WITHOUT_LEVELS && !WITHOUT_LEVELS.contains(&&*source.path) {
                faults.push(format!("{} has {} modules and no table of their levels", source.path, inside.len()));
            }
            continue;
        }
        faults.extend(
            inside
                .iter()
                .filter(|m| !levels.contains_key(**m))
                .map(|m| format!("{}: {m} is not in its table", source.path)),
        );
        for (from, to) in graph.imports.iter().flat_map(|(from, all)| all.iter().map(move |to| (from, to))) {
            let level =
                |m: &Path| (m.len() > room.len() && m.starts_with(&room)).then(|| levels.get(&m[room.len()])).flatten();
            if let (Some(a), Some(b)) = (level(from), level(to))
                && from[room.len()] != to[room.len()]
                && b >= a
            {
                faults.push(format!("{} (level {a}) imports {} (level {b})", shown(from), shown(to)));
            }
        }
    }
    none(faults);
}

#[test]
fn paths_are_found_in_use_trees_and_in_code() {
    let code =
        "pub use a::{self, b::{C, D as E}};\nuse super::x::Y;\nfn f() { crate::g::h(); super::super::k::l::<T>() }\n";
    let found: Vec<String> = paths(code).iter().map(shown).collect();
    assert_eq!(found, ["a", "a::b::C", "a::b::D", "super::x::Y", "crate::g::h", "super::x::Y", "super::super::k::l"]);
    let module = |path: &str| path.split("::").map(str::to_owned).collect::<Path>();
    let resolver = Resolver {
        modules: ["m", "m::a", "m::b", "n"].map(module).into(),
        re_exports: BTreeMap::from([
            (module("m"), BTreeMap::from([("A".to_owned(), module("m::a::A"))])),
            (module("m::a"), BTreeMap::new()),
            (module("m::b"), BTreeMap::new()),
            (module("n"), BTreeMap::new()),
        ]),
    };
    for (from, path, is) in [
        ("m::b", "super::A", Some("m::a")),
        ("m::b", "super::B", Some("m")),
        ("n", "crate::m::A::new", Some("m::a")),
        ("m", "a::f", Some("m::a")),
        ("n", "std::fmt", None),
    ] {
        assert_eq!(resolver.module(&module(from), &module(path)), is.map(module), "{path} in {from}");
    }
}
