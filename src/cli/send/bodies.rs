//! What a file holds: one body, or one a line.

use bytes::Bytes;

/// One body of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Body {
    /// The line it stands on, from 1, where the file holds several.
    pub line: Option<usize>,
    /// The body as it is in the file.
    pub bytes: Bytes,
}

/// Splits `content`. One body a line where the file's `name` ends in `.ndjson` or `.jsonl`, or where the whole is not one
/// JSON value but each of several lines is; otherwise the whole is one body, byte for byte.
pub fn split(name: &str, content: &Bytes) -> Vec<Body> {
    let lines = lines(content);
    let named = [".ndjson", ".jsonl"].iter().any(|end| name.to_ascii_lowercase().ends_with(end));
    let is_json = |bytes: &[u8]| serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok();
    if named || (lines.len() > 1 && !is_json(content) && lines.iter().all(|body| is_json(&body.bytes))) {
        return lines;
    }
    if content.is_empty() { Vec::new() } else { vec![Body { line: None, bytes: content.clone() }] }
}

/// The lines that are not blank, without their line ends.
fn lines(content: &Bytes) -> Vec<Body> {
    let mut start = 0;
    let mut lines = Vec::new();
    for (i, line) in content.split(|&b| b == b'\n').enumerate() {
        let end = start + line.len() - usize::from(line.ends_with(b"\r"));
        let bytes = content.slice(start..end);
        if !bytes.trim_ascii().is_empty() {
            lines.push(Body { line: Some(i + 1), bytes });
        }
        start += line.len() + 1;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bodies(name: &str, content: &'static str) -> Vec<(Option<usize>, String)> {
        let text = |b: Body| (b.line, String::from_utf8(b.bytes.to_vec()).unwrap());
        split(name, &Bytes::from_static(content.as_bytes())).into_iter().map(text).collect()
    }

    #[test]
    fn a_file_is_one_body_unless_its_lines_are() {
        let one = |text: &str| vec![(None, text.to_owned())];
        let pretty = "{\n  \"a\": 1\n}\n";
        assert_eq!(bodies("a.json", pretty), one(pretty));
        assert_eq!(bodies("a.json", "[1,\n2]"), one("[1,\n2]"));
        assert_eq!(bodies("a.json", "not json\nat all"), one("not json\nat all"));
        assert_eq!(bodies("-", "{\"a\":1}\n"), one("{\"a\":1}\n"));
        assert_eq!(bodies("a.json", ""), []);
    }

    #[test]
    fn ndjson_is_split_at_its_lines() {
        let two = vec![(Some(1), "{\"a\":1}".to_owned()), (Some(3), "{\"b\":2}".to_owned())];
        assert_eq!(bodies("-", "{\"a\":1}\n\n{\"b\":2}\n"), two);
        assert_eq!(bodies("a.json", "{\"a\":1}\r\n\r\n{\"b\":2}"), two);
        assert_eq!(bodies("a.NDJSON", "{\"a\":1}\n"), vec![(Some(1), "{\"a\":1}".to_owned())]);
        // a wrong line of a file that is named so is sent too: the daemon says what is wrong with it
        assert_eq!(bodies("a.jsonl", "{\nx")[1], (Some(2), "x".to_owned()));
    }
}
