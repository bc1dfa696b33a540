//! A source with the choices of its places written into it.

use std::ops::Range;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An expression, that is to have another value.
    Value,
    /// The head of a function's body, that is to return at once.
    Return,
    /// Behind the pattern of a match arm, that is to be passed over.
    Guard,
}

pub struct Place {
    /// In the source as it was; empty but for expressions.
    pub range: Range<usize>,
    pub kind: Kind,
    /// Number and text of each mutant that stands here.
    pub choices: Vec<(u32, String)>,
}

impl Place {
    fn before(&self) -> String {
        let numbers: Vec<String> = self.choices.iter().map(|(number, _)| number.to_string()).collect();
        let asked = format!("crate::mutant::of(&[{}])", numbers.join(", "));
        match self.kind {
            Kind::Value => format!("(match {asked} {{ 0 => {{ "),
            Kind::Return => format!(" match {asked} {{ 0 => {{ "),
            Kind::Guard => format!(" if {asked} == 0"),
        }
    }

    /// What follows, in pieces: that of a mutant has its number.
    fn after(&self) -> Vec<(Option<u32>, String)> {
        let (word, end) = match self.kind {
            Kind::Guard => return Vec::new(),
            Kind::Value => ("", "} })"),
            Kind::Return => ("return ", "} }"),
        };
        let mut pieces = Vec::new();
        for (n, (number, text)) in self.choices.iter().enumerate() {
            let last = n + 1 == self.choices.len();
            let pattern = if last { "_".to_owned() } else { number.to_string() };
            pieces.push((None, format!("}} {pattern} => {{ ")));
            pieces.push((Some(*number), format!("{word}{text} ")));
        }
        pieces.push((None, end.to_owned()));
        pieces
    }
}

/// The new text, and where in it the text of each mutant lies. Of `places` the outer ones come before the inner ones.
pub fn rewritten(text: &str, places: &[Place]) -> (String, Vec<(usize, usize, u32)>) {
    let mut insertions: Vec<(usize, bool, usize)> = Vec::new();
    for (n, place) in places.iter().enumerate() {
        // at one position: what ends before what begins, inner ends before outer ones, outer beginnings before inner ones
        insertions.push((place.range.start, true, n));
        if !place.range.is_empty() {
            insertions.push((place.range.end, false, places.len() - n));
        }
    }
    insertions.sort_unstable();
    let (mut out, mut texts, mut done) = (String::new(), Vec::new(), 0);
    for (at, begins, n) in insertions {
        out.push_str(&text[done..at]);
        done = at;
        let place = if begins { &places[n] } else { &places[places.len() - n] };
        if begins {
            let start = out.len();
            out.push_str(&place.before());
            if place.kind == Kind::Guard {
                texts.extend(place.choices.iter().map(|(number, _)| (start, out.len(), *number)));
            }
        }
        if !begins || place.range.is_empty() {
            for (number, piece) in place.after() {
                let start = out.len();
                out.push_str(&piece);
                texts.extend(number.map(|number| (start, out.len(), number)));
            }
        }
    }
    out.push_str(&text[done..]);
    (out, texts)
}
