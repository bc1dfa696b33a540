//! The head of an answer, rewritten if an old server violates the syntax.
//!
//! *Format.* RFC 9112, 4 and 5. A valid head is passed on unchanged. Any other head whose status can be read is
//! rewritten from its valid parts: folded lines are joined, blanks before a colon and invalid headers are removed, and
//! the version is replaced by one that the parser knows. A rewritten head ends with `Connection: close`, so nothing
//! after the answer is taken for another answer.
//!
//! *Failure.* A head is passed on unchanged, so that the parser refuses it, if its status cannot be read or the end of
//! its body is ambiguous: lengths that differ or are not numbers. With both `Transfer-Encoding` and `Content-Length` the
//! former counts (RFC 9112, 6.3).

use http::{HeaderMap, HeaderName, HeaderValue};

/// The values of all lines of a header; those that are not text are left out.
pub fn values<'h>(headers: &'h HeaderMap, name: &str) -> Vec<&'h str> {
    headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok()).collect()
}

/// How a head is passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head {
    /// It is passed on unchanged.
    AsItIs(Status),
    /// This is passed on in its place.
    Rewritten(Status, Vec<u8>),
}

/// Whether another head follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Interim,
    Final,
}

/// The length of the head at the start of `bytes`, including its empty line; none where that line has not arrived. The
/// first `from` bytes were examined before.
pub fn length(bytes: &[u8], from: usize) -> Option<usize> {
    let begin = bytes.iter().position(|b| !matches!(b, b'\r' | b'\n'))?;
    let from = from.saturating_sub(3).max(begin);
    let line_ends = bytes[from..].iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| from + at + 1);
    line_ends.into_iter().find_map(|end| match &bytes[end..] {
        [b'\n', ..] => Some(end + 1),
        [b'\r', b'\n', ..] => Some(end + 2),
        _ => None,
    })
}

/// Whether `bytes` can never become a head, regardless of what follows.
pub fn is_hopeless(bytes: &[u8]) -> bool {
    let Some(begin) = bytes.iter().position(|b| !b.is_ascii_whitespace()) else { return false };
    let begun = &bytes[begin..];
    let name = &begun[..begun.len().min(4)];
    let line = begun.iter().position(|b| *b == b'\n').map(|end| text(&begun[..end]));
    !name.eq_ignore_ascii_case(&b"HTTP"[..name.len()]) || line.is_some_and(|line| StatusLine::read(line).is_none())
}

/// Evaluates one complete head.
pub fn read(head: &[u8]) -> Head {
    let mut lines = head.split_inclusive(|b| *b == b'\n').skip_while(|line| text(line).is_empty());
    let begins_at_once = head.first().is_some_and(|b| !matches!(b, b'\r' | b'\n'));
    let first = lines.next().unwrap_or_default();
    let Some(line) = StatusLine::read(text(first)) else { return Head::AsItIs(Status::Final) };
    let status = line.status();
    let mut strict = begins_at_once && line.strict && ends_strictly(first);
    let mut fields: Vec<(&[u8], Vec<u8>)> = Vec::new();
    let mut framing = Framing::default();
    for line in lines.map_while(|line| Some(line).filter(|line| !text(line).is_empty())) {
        let field = Field::read(text(line));
        strict &= ends_strictly(line) && matches!(&field, Field::Strict(..));
        match field {
            Field::Strict(name, value) | Field::Spaced(name, value) => fields.push((name, value.to_vec())),
            Field::Folded(more) => {
                if let Some((_, value)) = fields.last_mut() {
                    value.push(b' ');
                    value.extend_from_slice(more);
                }
            }
            Field::None => {}
        }
    }
    fields.iter().for_each(|(name, value)| framing.add(name, value));
    match framing.length() {
        Err(Doubtful) => Head::AsItIs(status),
        Ok(_) if strict && framing.is_plain() && !(framing.encoded && line.version == b"1.0") => Head::AsItIs(status),
        Ok(length) => Head::Rewritten(status, rewritten(&line, &fields, length.filter(|_| !framing.encoded))),
    }
}

/// A line without its end.
fn text(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn ends_strictly(line: &[u8]) -> bool {
    line.ends_with(b"\r\n")
}

struct StatusLine<'h> {
    version: &'h [u8],
    code: u16,
    strict: bool,
}

impl<'h> StatusLine<'h> {
    /// `HTTP`, in any case, an optional version, blanks, and three digits; the rest is the reason.
    fn read(line: &'h [u8]) -> Option<Self> {
        let trimmed = line.trim_ascii();
        let (name, rest) = trimmed.split_at_checked(4)?;
        let after = rest.strip_prefix(b"/").unwrap_or(rest);
        let end = after.iter().position(|b| !b.is_ascii_digit() && *b != b'.')?;
        let (version, blanks) = after.split_at(end);
        let digits = blanks.trim_ascii_start();
        let code = std::str::from_utf8(digits.get(..3)?).ok()?;
        let whole = code.bytes().all(|b| b.is_ascii_digit()) && !digits.get(3).is_some_and(u8::is_ascii_digit);
        if !name.eq_ignore_ascii_case(b"HTTP") || digits.len() == blanks.len() || !whole {
            return None;
        }
        let known = version == b"1.1" || version == b"1.0";
        let reason = &digits[3..];
        let reasoned = reason.is_empty() || (reason[0] == b' ' && reason.iter().all(|b| is_text(*b)));
        // a missing reason leaves a trailing blank, which is valid
        let begins = line.starts_with(b"HTTP/") && blanks.len() == digits.len() + 1 && blanks[0] == b' ';
        let code = code.parse().ok().filter(|code| (100..1000).contains(code))?;
        Some(Self { version, code, strict: begins && known && reasoned })
    }

    fn status(&self) -> Status {
        // after 101 the connection no longer carries HTTP
        if self.code < 200 && self.code != 101 { Status::Interim } else { Status::Final }
    }
}

enum Field<'h> {
    Strict(&'h [u8], &'h [u8]),
    /// There are blanks between its name and its colon.
    Spaced(&'h [u8], &'h [u8]),
    /// It continues the previous value.
    Folded(&'h [u8]),
    /// It is invalid.
    None,
}

impl<'h> Field<'h> {
    fn read(line: &'h [u8]) -> Self {
        if matches!(line[0], b' ' | b'\t') {
            return if line.iter().all(|b| is_text(*b)) { Self::Folded(line.trim_ascii()) } else { Self::None };
        }
        let Some(colon) = line.iter().position(|b| *b == b':') else { return Self::None };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let bare = name.trim_ascii_end();
        if bare.is_empty() || !bare.iter().all(|b| is_token(*b)) || !value.iter().all(|b| is_text(*b)) {
            return Self::None;
        }
        if bare.len() == name.len() { Self::Strict(name, value) } else { Self::Spaced(bare, value) }
    }
}

/// Characters of a field name (RFC 9110, 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Characters of a field value (RFC 9110, 5.5), including those outside ASCII.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7F)
}

/// The end of the body is ambiguous.
struct Doubtful;

/// The length of the body according to the head.
#[derive(Default)]
struct Framing {
    lengths: Vec<Option<u64>>,
    encoded: bool,
}

impl Framing {
    fn add(&mut self, name: &[u8], value: &[u8]) {
        if name.eq_ignore_ascii_case(b"content-length") {
            let number = |part: &[u8]| {
                let digits = part.trim_ascii();
                let whole = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
                std::str::from_utf8(digits).ok().filter(|_| whole)?.parse().ok()
            };
            self.lengths.extend(value.split(|b| *b == b',').map(number));
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.encoded = true;
        }
    }

    fn length(&self) -> Result<Option<u64>, Doubtful> {
        let Some(first) = self.lengths.first() else { return Ok(None) };
        let same = first.is_some() && self.lengths.iter().all(|length| length == first);
        if same { Ok(*first) } else { Err(Doubtful) }
    }

    /// The length is given exactly once.
    fn is_plain(&self) -> bool {
        self.lengths.len() + usize::from(self.encoded) <= 1
    }
}

fn rewritten(line: &StatusLine<'_>, fields: &[(&[u8], Vec<u8>)], length: Option<u64>) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {}\r\n", line.code).into_bytes();
    for (name, value) in fields {
        let replaced: [&[u8]; 2] = [b"content-length", b"connection"];
        let own = replaced.iter().any(|replaced| name.eq_ignore_ascii_case(replaced));
        let valid = HeaderName::from_bytes(name).is_ok() && HeaderValue::from_bytes(value).is_ok();
        if valid && !own {
            head.extend_from_slice(&[name, &b": "[..], value, b"\r\n"].concat());
        }
    }
    if let Some(length) = length {
        head.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes());
    }
    head.extend_from_slice(b"Connection: close\r\n\r\n");
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_ends_with_its_first_empty_line() {
        for (bytes, wanted) in [
            ("HTTP/1.1 200 OK\r\n\r\nbody", Some(19)),
            ("HTTP/1.1 200 OK\n\nbody", Some(17)),
            ("HTTP/1.1 200 OK\r\nA: b\n\r\n\r\n", Some(24)),
            ("\r\n\r\nHTTP/1.1 200\r\n\r\n", Some(20)),
            ("HTTP/1.1 200 OK\r\n \r\nA: b", None),
            ("HTTP/1.1 200 OK\r\n", None),
            ("\r\n\r\n", None),
            ("", None),
        ] {
            let whole = length(bytes.as_bytes(), 0);
            assert_eq!(whole, wanted, "{bytes:?}");
            // however the bytes are split
            for from in 0..whole.unwrap_or(bytes.len()) {
                assert_eq!(length(bytes.as_bytes(), from), wanted, "{bytes:?} from {from}");
            }
        }
    }

    #[test]
    fn an_invalid_head_is_rejected_at_once() {
        for bytes in ["220 mail", "x", "\r\n\r\nx", "HTTQ", "HTTP/1.1 OK\r\n", "\x15\x03\x03", "<html>"] {
            assert!(is_hopeless(bytes.as_bytes()), "{bytes:?}");
        }
        for bytes in ["", "\r\n", "H", "ht", " HTTP", "HTTP/1.1 OK", "HTTP/1.1 200\r\nx"] {
            assert!(!is_hopeless(bytes.as_bytes()), "{bytes:?}");
        }
    }

    #[test]
    fn a_valid_head_is_passed_on_unchanged() {
        for head in [
            "HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 200 \r\nX-Empty:\r\nX-Tab:\ta\tb\r\n\r\n",
            "HTTP/1.1 200\r\n\r\n",
            "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 503 gr\u{fc}n\r\nX: \u{fc}\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert_eq!(read(head.as_bytes()), Head::AsItIs(Status::Final), "{head:?}");
        }
        assert_eq!(read(b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n"), Head::AsItIs(Status::Interim));
        assert_eq!(read(b"HTTP/1.1 101 Switching\r\n\r\n"), Head::AsItIs(Status::Final));
    }

    #[test]
    fn a_lenient_head_is_normalised() {
        for (head, fields) in [
            ("HTTP/1.1 200 OK\r\nServer : x\r\n\r\n", "Server: x\r\n"),
            ("HTTP/1.1 200 OK\r\nContent-Length \t: 5\r\n\r\n", "Content-Length: 5\r\n"),
            ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\td\r\nE: f\r\n\r\n", "A: b c d\r\nE: f\r\n"),
            ("HTTP/1.1 200 OK\r\n lost\r\nA: b\r\n\r\n", "A: b\r\n"),
            ("HTTP/1.1 200 OK\r\nA\u{fc}: b\r\nC: d\r\n\r\n", "C: d\r\n"),
            ("HTTP/1.1 200 OK\r\nA: b\u{1}\r\nC: d\r\n\r\n", "C: d\r\n"),
            ("HTTP/1.1 200 OK\r\nA: b\0\r\nC: d\u{7f}\r\nE: f\rG: h\r\nI: j\r\n\r\n", "I: j\r\n"),
            ("HTTP/1.1 200 OK\r\nno header at all\r\n: none\r\nA b: c\r\nD: e\r\n\r\n", "D: e\r\n"),
            ("HTTP/1.1 200 OK\nA: b\n\n", "A: b\r\n"),
            ("HTTP/1.1 200 OK\r\nA: b\n\r\n", "A: b\r\n"),
            ("\r\nHTTP/1.1 200 OK\r\nA: b\r\n\r\n", "A: b\r\n"),
            ("http/1.1 200 ok\r\nA: b\r\n\r\n", "A: b\r\n"),
            ("HTTP/1.1  200   OK\r\n\r\n", ""),
            ("HTTP/1.1\t200\tOK\r\n\r\n", ""),
            (" HTTP/1.1 200 OK\r\n\r\n", ""),
            ("HTTP/1.2 200 OK\r\n\r\n", ""),
            ("HTTP/2 200 OK\r\n\r\n", ""),
            ("HTTP 200 OK\r\n\r\n", ""),
            ("HTTP/1.1 200 O\u{2}K\r\n\r\n", ""),
            ("HTTP/1.1 200-OK\r\n\r\n", ""),
            // framing that is repeated or superfluous, but unambiguous
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", "Content-Length: 5\r\n"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n", "Content-Length: 5\r\n"),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n",
                "Transfer-Encoding: chunked\r\n",
            ),
            ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "Transfer-Encoding: chunked\r\n"),
        ] {
            let wanted = format!("HTTP/1.1 200\r\n{fields}Connection: close\r\n\r\n");
            let Head::Rewritten(Status::Final, bytes) = read(head.as_bytes()) else { panic!("{head:?}") };
            assert_eq!(String::from_utf8_lossy(&bytes), wanted, "{head:?}");
            assert_eq!(read(&bytes), Head::AsItIs(Status::Final), "{head:?}");
        }
        assert!(matches!(read(b"http/1.1 100 Continue\r\n\r\n"), Head::Rewritten(Status::Interim, _)));
    }

    #[test]
    fn an_ambiguous_head_is_left_to_the_parser_to_refuse() {
        for head in [
            "220 mail.internal ESMTP\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 OK\r\n\r\n",
            "HTTP/1.1200 OK\r\n\r\n",
            "HTTP/1.1 099 x\r\n\r\n",
            "ICY 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length : 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
        ] {
            assert!(matches!(read(head.as_bytes()), Head::AsItIs(_)), "{head:?}");
        }
    }
}
