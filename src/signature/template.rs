//! What is signed: a text with places for the body, the timestamp and the id, as in `v0:{ts}:{body}`.

use std::fmt;
use std::str::FromStr;
use thiserror::Error;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Text(String),
    Timestamp,
    Id,
    Body,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TemplateFault {
    #[error("`{{{0}}}` is not known: write `{{body}}`, `{{ts}}` or `{{id}}`")]
    UnknownPlace(String),
    #[error("a `{{` has no `}}`: write `{{body}}`, `{{ts}}` or `{{id}}`")]
    Unclosed,
    #[error("it does not sign the body: write `{{body}}` once")]
    NoBody,
}

impl Template {
    pub(super) fn pieces(&self) -> &[Piece] {
        &self.0
    }

    /// Whether a timestamp is signed.
    pub fn has_timestamp(&self) -> bool {
        self.0.contains(&Piece::Timestamp)
    }

    /// Whether an id is signed.
    pub fn has_id(&self) -> bool {
        self.0.contains(&Piece::Id)
    }
}

impl FromStr for Template {
    type Err = TemplateFault;

    fn from_str(text: &str) -> Result<Self, TemplateFault> {
        let (mut pieces, mut rest) = (Vec::new(), text);
        while let Some((before, behind)) = rest.split_once('{') {
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            let (name, behind) = behind.split_once('}').ok_or(TemplateFault::Unclosed)?;
            pieces.push(match name {
                "body" => Piece::Body,
                "ts" => Piece::Timestamp,
                "id" => Piece::Id,
                other => return Err(TemplateFault::UnknownPlace(other.to_owned())),
            });
            rest = behind;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        if pieces.iter().filter(|piece| **piece == Piece::Body).count() != 1 {
            return Err(TemplateFault::NoBody);
        }
        Ok(Self(pieces))
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|piece| {
            f.write_str(match piece {
                Piece::Text(text) => text,
                Piece::Timestamp => "{ts}",
                Piece::Id => "{id}",
                Piece::Body => "{body}",
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_round_trip() {
        for text in ["{body}", "{ts}{body}", "{ts}.{body}", "v0:{ts}:{body}", "{id}.{ts}.{body}", "{body}}"] {
            assert_eq!(text.parse::<Template>().unwrap().to_string(), text);
        }
        for (text, fault) in [
            ("", TemplateFault::NoBody),
            ("body", TemplateFault::NoBody),
            ("{ts}", TemplateFault::NoBody),
            ("{body}{body}", TemplateFault::NoBody),
            ("{body", TemplateFault::Unclosed),
            ("{t}.{body}", TemplateFault::UnknownPlace("t".to_owned())),
            ("{{body}}", TemplateFault::UnknownPlace("{body".to_owned())),
        ] {
            assert_eq!(text.parse::<Template>(), Err(fault), "{text}");
        }
    }
}
