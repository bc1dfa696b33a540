//! The source that a path names: `/in/NAME`, however a client writes it.

/// The name behind `/in/`. Percent-encoded characters are what they stand for (RFC 3986, section 6.2.2), and empty segments
/// do not count, so that neither a trailing nor a doubled slash makes another source. None for any other path.
pub fn source(path: &str) -> Option<String> {
    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    let (room, name, more) = (segments.next()?, segments.next()?, segments.next());
    (more.is_none() && decoded(room)? == "in").then(|| decoded(name))?
}

/// None where a `%` is not followed by two digits, or what it stands for is not UTF-8.
fn decoded(segment: &str) -> Option<String> {
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (mut bytes, mut out) = (segment.bytes(), Vec::with_capacity(segment.len()));
    while let Some(byte) = bytes.next() {
        out.push(if byte == b'%' { digit(bytes.next())? << 4 | digit(bytes.next())? } else { byte });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_path_names_the_same_source() {
        for path in ["/in/genesys", "/in/genesys/", "/in/genesys//", "//in/genesys", "/in//genesys", "/in/gene%73ys"] {
            assert_eq!(source(path).as_deref(), Some("genesys"), "{path}");
        }
        assert_eq!(source("/%69n/%67enesys/").as_deref(), Some("genesys"));
        assert_eq!(source("/in/a%2Fb").as_deref(), Some("a/b"), "no source has such a name");
        for path in ["", "/", "/in", "/in/", "/out/genesys", "/in/genesys/x", "/in/gene%7", "/in/%zz", "/in/%FF", "*"] {
            assert_eq!(source(path), None, "{path}");
        }
    }
}
