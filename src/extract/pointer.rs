//! A place in a request: a JSON pointer into the body, a header, a query parameter, or the body's hash.

use http::HeaderName;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// Why a part is invalid, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PointerError {
    #[error("`{given}` does not begin with `/`: write `{instead}`")]
    NoSlash { given: String, instead: String },
    #[error("in `{given}` a `~` is followed by neither 0 nor 1: write `~0` for `~` and `~1` for a `/` within a name")]
    Tilde { given: String },
    #[error("`{given}` has more than {max} segments: point less deep")]
    TooLong { given: String, max: usize },
    #[error(
        "`{given}:` is not known: write a pointer such as `/detail/id`, `header:NAME`, `query:NAME` or `body:sha256`"
    )]
    Scheme { given: String },
    #[error("`header:{given}` names no HTTP header: write a name such as `header:x-event-id`")]
    Header { given: String },
    #[error("`query:` names no parameter: write a name such as `query:type`")]
    Query,
    #[error("`body:{given}` is not known: write `body:sha256`, or a pointer such as `/id`")]
    Body { given: String },
}

/// A JSON pointer (RFC 6901); the empty one points at the whole body.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pointer {
    segments: Vec<String>,
}

impl Pointer {
    /// Maximum number of segments: the walk into a body recurses once per segment.
    pub const SEGMENTS_MAX: usize = 64;

    /// Parses `/a/b`, with `~0` for `~` and `~1` for `/` within a segment, or the empty text.
    pub fn parse(text: &str) -> Result<Self, PointerError> {
        let Some(inside) = text.strip_prefix('/') else {
            return if text.is_empty() { Ok(Self::default()) } else { Err(no_slash(text)) };
        };
        let segments = inside.split('/').map(unescape).collect::<Option<Vec<_>>>();
        let segments = segments.ok_or_else(|| PointerError::Tilde { given: text.to_owned() })?;
        if segments.len() > Self::SEGMENTS_MAX {
            return Err(PointerError::TooLong { given: text.to_owned(), max: Self::SEGMENTS_MAX });
        }
        Ok(Self { segments })
    }

    /// Names of members, or positions in arrays, from the outside in.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().map(String::as_str)
    }
}

impl FromStr for Pointer {
    type Err = PointerError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.segments.iter().try_for_each(|s| write!(f, "/{}", s.replace('~', "~0").replace('/', "~1")))
    }
}

/// A decoded segment; none if it contains a `~` that is not followed by 0 or 1.
fn unescape(segment: &str) -> Option<String> {
    let mut name = String::with_capacity(segment.len());
    let mut chars = segment.chars();
    while let Some(c) = chars.next() {
        name.push(match c {
            '~' => match chars.next()? {
                '0' => '~',
                '1' => '/',
                _ => return None,
            },
            c => c,
        });
    }
    Some(name)
}

/// Suggests what was meant: a JSONPath (`$.a.b`), a dotted path (`a.b`), or a pointer without its slash.
fn no_slash(given: &str) -> PointerError {
    let path = given.trim().trim_start_matches('$').trim_start_matches('.');
    let path = if path.contains('/') { path.to_owned() } else { path.replace('.', "/") };
    PointerError::NoSlash { given: given.to_owned(), instead: format!("/{}", path.trim_start_matches('/')) }
}

/// One place in a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// A scalar in the body of the event.
    Body(Pointer),
    Header(HeaderName),
    /// A query parameter, by its decoded name.
    Query(String),
    /// SHA-256 of the event's body as received, in hexadecimal.
    BodySha256,
}

impl Part {
    /// Whether it is a header or a query parameter.
    pub fn is_outside_the_body(&self) -> bool {
        matches!(self, Self::Header(_) | Self::Query(_))
    }

    /// Parses `/a/b`, the empty text (the whole body), `header:NAME`, `query:NAME` or `body:sha256`.
    pub fn parse(text: &str) -> Result<Self, PointerError> {
        if text.is_empty() || text.starts_with('/') {
            return Pointer::parse(text).map(Self::Body);
        }
        let Some((scheme, name)) = text.split_once(':') else {
            return Err(no_slash(text));
        };
        match scheme {
            "header" => name.parse().map(Self::Header).map_err(|_| PointerError::Header { given: name.to_owned() }),
            "query" if name.is_empty() => Err(PointerError::Query),
            "query" => Ok(Self::Query(name.to_owned())),
            "body" if name == "sha256" => Ok(Self::BodySha256),
            "body" => Err(PointerError::Body { given: name.to_owned() }),
            _ => Err(PointerError::Scheme { given: scheme.to_owned() }),
        }
    }
}

impl FromStr for Part {
    type Err = PointerError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body(pointer) => pointer.fmt(f),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Query(name) => write!(f, "query:{name}"),
            Self::BodySha256 => f.write_str("body:sha256"),
        }
    }
}

/// One value made of one or more parts.
///
/// A single part gives its value unchanged. Several are joined by `|`, a missing one is empty, and a `|` or `\` within a
/// part is escaped with `\`, so that different parts never give the same text. At least one part must be present.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Composite(pub Vec<Part>);

impl Composite {
    /// Parses each part with [`Part::parse`].
    pub fn parse<S: AsRef<str>>(parts: &[S]) -> Result<Self, PointerError> {
        parts.iter().map(|part| Part::parse(part.as_ref())).collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn pointers(&self) -> impl Iterator<Item = &Pointer> {
        self.0.iter().filter_map(|part| match part {
            Part::Body(pointer) => Some(pointer),
            _ => None,
        })
    }
}

impl From<Part> for Composite {
    fn from(part: Part) -> Self {
        Self(vec![part])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_follow_rfc_6901() {
        let cases: [(&str, &[&str]); 8] = [
            ("", &[]),
            ("/", &[""]),
            ("/a/b", &["a", "b"]),
            ("/a//b", &["a", "", "b"]),
            ("/a~1b/m~0n", &["a/b", "m~n"]),
            ("/~01", &["~1"]),
            ("/detail-type", &["detail-type"]),
            ("/events/0/ü", &["events", "0", "ü"]),
        ];
        for (text, segments) in cases {
            let pointer = Pointer::parse(text).unwrap();
            assert_eq!(pointer.segments().collect::<Vec<_>>(), segments, "{text}");
            assert_eq!(pointer.to_string(), text);
        }
    }

    #[test]
    fn pointer_parts_round_trip() {
        for text in ["", "/a/~1", "header:x-event-id", "query:type", "body:sha256"] {
            assert_eq!(Part::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Part::parse("header:X-Event-Id").unwrap().to_string(), "header:x-event-id");
    }

    #[test]
    fn a_fault_says_how_to_fix_it() {
        let deep = "/a".repeat(Pointer::SEGMENTS_MAX + 1);
        let cases = [
            ("id", "write `/id`"),
            ("detail/id", "write `/detail/id`"),
            ("detail.id", "write `/detail/id`"),
            ("$.detail.id", "write `/detail/id`"),
            ("/a~b", "write `~0` for `~`"),
            ("/a~", "write `~0` for `~`"),
            ("header:", "write a name such as `header:x-event-id`"),
            ("header:a b", "write a name such as `header:x-event-id`"),
            ("query:", "write a name such as `query:type`"),
            ("body:md5", "write `body:sha256`"),
            ("cookie:x", "write a pointer such as `/detail/id`, `header:NAME`"),
            (&deep, "point less deep"),
        ];
        for (text, instead) in cases {
            let message = Part::parse(text).unwrap_err().to_string();
            assert!(message.contains(instead), "{text}: {message}");
        }
    }
}
