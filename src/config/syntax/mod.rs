//! Tables (`Section`) and values (`Value`) of a TOML text, each of which knows its line and key.
//!
//! A fault does not end the reading: it is collected with its place, the value is `None`, and all faults are returned
//! together.

mod fault;
pub mod values;

#[cfg(test)]
pub use fault::RENAMED;
pub use fault::{Fault, Faults, nearest, renamed_condition};

use super::settings::InvalidValue;
use fault::renamed_key;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A text and the faults found in it.
pub struct Reading<'r> {
    file: &'r Path,
    text: &'r str,
    faults: RefCell<Vec<Fault>>,
}

impl<'r> Reading<'r> {
    pub fn new(text: &'r str, file: &'r Path) -> Self {
        Self { file, text, faults: RefCell::default() }
    }

    /// Adds a fault at a byte of the text.
    pub fn add_fault(&self, offset: usize, key: &str, wrong: InvalidValue) {
        let (line, column) = self.position(offset);
        let InvalidValue { message, remedy } = wrong;
        self.faults.borrow_mut().push(Fault { file: self.file.into(), line, column, key: key.into(), message, remedy });
    }

    pub fn faults(self) -> Option<Faults> {
        Faults::of(self.faults.into_inner())
    }

    /// Line and column (in characters), both from 1.
    fn position(&self, offset: usize) -> (usize, usize) {
        let mut end = offset.min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &self.text[..end];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

/// A table that is being read. When it is dropped, every key that was not taken is a fault.
pub struct Section<'r> {
    reading: &'r Reading<'r>,
    path: String,
    table: &'r DeTable<'r>,
    offset: usize,
    known: Vec<&'static str>,
    /// Keys with a fault.
    faulty: Vec<&'static str>,
    skips_unknown_keys: bool,
}

impl<'r> Section<'r> {
    pub fn root(reading: &'r Reading<'r>, root: &'r Spanned<DeTable<'r>>) -> Self {
        Self {
            reading,
            path: String::new(),
            table: root.get_ref(),
            offset: 0,
            known: Vec::new(),
            faulty: Vec::new(),
            skips_unknown_keys: false,
        }
    }

    /// The value of a key as `parse` reads it; None where it is absent or has a fault.
    pub fn take<T>(&mut self, key: &'static str, parse: impl FnOnce(Value<'r>) -> Option<T>) -> Option<T> {
        self.known.push(key);
        let raw = self.table.get(key)?;
        let got = parse(Value { reading: self.reading, path: self.path_of(key), raw });
        if got.is_none() {
            self.faulty.push(key);
        }
        got
    }

    /// As `take`; absence is a fault.
    pub fn require<T>(
        &mut self,
        key: &'static str,
        example: &str,
        parse: impl FnOnce(Value<'r>) -> Option<T>,
    ) -> Option<T> {
        if !self.table.contains_key(key) {
            self.fault::<()>(format!("`{key}` is missing"), format!("write {example}"));
        }
        self.take(key, parse)
    }

    /// The table under a key; `defaults` where it is absent.
    pub fn subsection<T>(&mut self, key: &'static str, defaults: T, read: impl FnOnce(Self) -> T) -> T {
        match self.take(key, |v| v.section()) {
            Some(section) => read(section),
            None => defaults,
        }
    }

    /// The blocks `[[key]]`, in file order; having none is a fault.
    pub fn blocks(&mut self, key: &'static str, example: &str) -> Vec<Self> {
        let (none, remedy) = (format!("there is no [[{key}]]"), format!("add [[{key}]] with {example}"));
        if !self.has(key) {
            self.fault::<()>(none.as_str(), remedy.as_str());
        }
        let blocks = self.take(key, |v| match v.raw.get_ref() {
            DeValue::Array(array) if array.is_empty() => v.fault(none, remedy),
            DeValue::Array(_) => v.items(),
            _ => {
                v.fault(format!("`{key}` is one of several blocks"), format!("write it in double brackets, [[{key}]]"))
            }
        });
        blocks.unwrap_or_default().into_iter().filter_map(|v| v.section()).collect()
    }

    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Whether these keys can be compared: none of them has a fault.
    pub fn is_valid(&self, keys: &[&str]) -> bool {
        !keys.iter().any(|key| self.faulty.contains(key))
    }

    /// Adds a fault of the table as a whole.
    pub fn fault<T>(&self, message: impl Into<String>, remedy: impl Into<String>) -> Option<T> {
        self.reading.add_fault(self.offset, &self.path, InvalidValue::new(message, remedy));
        None
    }

    /// Adds a fault of the value of a key, or of the table where the key is absent.
    pub fn fault_at(&self, key: &str, message: impl Into<String>, remedy: impl Into<String>) {
        let offset = self.table.get(key).map_or(self.offset, |value| value.span().start);
        self.reading.add_fault(offset, &self.path_of(key), InvalidValue::new(message, remedy));
    }

    /// Ignores the keys that were not taken, because it is unknown which are allowed.
    pub fn skip_unknown_keys<T>(mut self) -> Option<T> {
        self.skips_unknown_keys = true;
        None
    }

    fn path_of(&self, key: &str) -> String {
        path_of(&self.path, key)
    }

    fn unknown_key(&self, key: &str) -> InvalidValue {
        if let Some(new) = renamed_key(&self.path, key) {
            let message = format!("{} is now {}", self.path_of(key), self.path_of(new));
            return InvalidValue::new(message, format!("write `{new}`"));
        }
        if let Some(near) = nearest(key, self.known.iter().copied()) {
            return InvalidValue::new("unknown key", format!("write `{near}`"));
        }
        InvalidValue::new("unknown key", format!("remove it; known here: {}", self.known.join(", ")))
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        if self.skips_unknown_keys {
            return;
        }
        for key in self.table.keys() {
            let name: &str = key.get_ref();
            if self.known.contains(&name) {
                continue;
            }
            self.reading.add_fault(key.span().start, &self.path_of(name), self.unknown_key(name));
        }
    }
}

/// The dotted key of `key` in the table `path`.
fn path_of(path: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    let key = if bare { key.to_owned() } else { format!("{key:?}") };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

/// A value with its place.
#[derive(Clone)]
pub struct Value<'r> {
    reading: &'r Reading<'r>,
    path: String,
    raw: &'r Spanned<DeValue<'r>>,
}

impl<'r> Value<'r> {
    pub fn raw(&self) -> &'r DeValue<'r> {
        self.raw.get_ref()
    }

    /// The dotted key.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The value as written, quotes included; a long one is cut.
    pub fn written(&self) -> String {
        const SHOWN_MAX: usize = 80;
        let text = self.reading.text.get(self.raw.span()).unwrap_or_default();
        let flat = text.replace(|c: char| c.is_control(), " ");
        match flat.char_indices().nth(SHOWN_MAX) {
            Some((cut, _)) => format!("{}...", &flat[..cut]),
            None => flat,
        }
    }

    /// Adds a fault of this value. Returns None, so that a parser can end with it.
    pub fn fault<T>(&self, message: impl Into<String>, remedy: impl Into<String>) -> Option<T> {
        self.reading.add_fault(self.raw.span().start, &self.path, InvalidValue::new(message, remedy));
        None
    }

    /// Adds the fault of an `Err`.
    pub fn check<T>(&self, result: Result<T, InvalidValue>) -> Option<T> {
        result.map_err(|w| self.reading.add_fault(self.raw.span().start, &self.path, w)).ok()
    }

    /// Adds the fault of a wrong type.
    pub fn wrong_type<T>(&self, wanted: &str, example: &str) -> Option<T> {
        let article = |word: &str| if word.starts_with(['a', 'i']) { "an" } else { "a" }.to_owned() + " " + word;
        let found = self.raw().type_str();
        self.fault(format!("expected {}, found {}", article(wanted), article(found)), format!("write {example}"))
    }

    pub fn text(&self, example: &str) -> Option<&'r str> {
        match self.raw() {
            DeValue::String(text) => Some(text),
            _ => self.wrong_type("string", example),
        }
    }

    /// A path relative to the folder of the configuration; an absolute one is unchanged.
    pub fn in_folder(&self, path: &str) -> PathBuf {
        self.reading.file.parent().unwrap_or_else(|| Path::new("")).join(path)
    }

    pub fn boolean(&self) -> Option<bool> {
        match self.raw() {
            DeValue::Boolean(truth) => Some(*truth),
            _ => self.wrong_type("boolean", "true or false"),
        }
    }

    /// The elements of an array.
    pub fn items(&self) -> Option<Vec<Self>> {
        let DeValue::Array(array) = self.raw() else {
            return self.wrong_type("array", &format!("[{}]", self.written()));
        };
        let item = |(i, raw)| Value { reading: self.reading, path: format!("{}[{i}]", self.path), raw };
        Some(array.iter().enumerate().map(item).collect())
    }

    /// The entries of a table with arbitrary keys.
    pub fn entries(&self, example: &str) -> Option<Vec<(&'r str, Self)>> {
        let DeValue::Table(table) = self.raw() else { return self.wrong_type("table", example) };
        let reading = self.reading;
        let entry = |(key, raw): (&'r Spanned<std::borrow::Cow<'r, str>>, &'r Spanned<DeValue<'r>>)| {
            let key: &str = key.get_ref();
            (key, Value { reading, path: path_of(&self.path, key), raw })
        };
        Some(table.iter().map(entry).collect())
    }

    /// The elements of an array, or the value itself where it is not an array.
    pub fn one_or_items(&self) -> Vec<Self> {
        match self.raw() {
            DeValue::Array(_) => self.items().unwrap_or_default(),
            _ => vec![self.clone()],
        }
    }

    pub fn section(&self) -> Option<Section<'r>> {
        let DeValue::Table(table) = self.raw() else {
            return self.wrong_type("table", "a table, { key = value }");
        };
        let (reading, path, offset) = (self.reading, self.path.clone(), self.raw.span().start);
        Some(Section { reading, path, table, offset, known: Vec::new(), faulty: Vec::new(), skips_unknown_keys: false })
    }
}
