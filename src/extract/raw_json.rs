//! Scans a JSON value that is known to be valid: the texts of its wanted members or elements.
//!
//! The parser has checked every byte of the body; the values around a wanted place are scanned again on each level, and
//! this scan only compares bytes.
//!
//! *Invariants.* For valid JSON it finds the same as the parser. For any other text the result is unspecified, but it
//! neither panics nor reads outside the text.

/// Calls `visit` with the name (quotes included) and the text of each member, if the value is an object; with an empty
/// name and the text of each element, if it is an array.
pub(super) fn each<'a>(value: &'a str, mut visit: impl FnMut(&'a str, &'a str)) {
    let bytes = value.as_bytes();
    let mut at = space(bytes, 0);
    let object = match bytes.get(at) {
        Some(b'{') => true,
        Some(b'[') => false,
        _ => return,
    };
    at = space(bytes, at + 1);
    while at < bytes.len() && !matches!(bytes[at], b'}' | b']') {
        let mut name = "";
        if object {
            let end = string(bytes, at);
            name = &value[at..end];
            // the colon
            at = space(bytes, space(bytes, end) + 1);
        }
        let end = skip(bytes, at);
        if end <= at {
            return;
        }
        visit(name, &value[at..end]);
        at = space(bytes, end);
        if bytes.get(at) == Some(&b',') {
            at = space(bytes, at + 1);
        }
    }
}

/// The position after the value that begins at `at`.
fn skip(bytes: &[u8], at: usize) -> usize {
    match bytes.get(at) {
        Some(b'"') => string(bytes, at),
        Some(b'{' | b'[') => nested(bytes, at),
        _ => scalar(bytes, at),
    }
}

fn nested(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0usize;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                at = string(bytes, at);
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// The position after the string that begins at `at`.
fn string(bytes: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while at < bytes.len() {
        at += plain(&bytes[at..]);
        match bytes.get(at) {
            Some(b'"') => return at + 1,
            Some(_) => at += 2, // a backslash and the character that it escapes
            None => break,
        }
    }
    bytes.len()
}

/// The number of leading bytes that are neither a quote nor a backslash. Compares eight bytes at once: `x - 1 & !x` sets
/// the highest bit of each zero byte, and is exact up to the first of them.
fn plain(bytes: &[u8]) -> usize {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const HIGHEST: u64 = EACH << 7;
    let zeros = |word: u64| word.wrapping_sub(EACH) & !word & HIGHEST;
    let (words, rest) = bytes.as_chunks::<8>();
    for (n, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let found = zeros(word ^ (EACH * u64::from(b'"'))) | zeros(word ^ (EACH * u64::from(b'\\')));
        if found != 0 {
            return 8 * n + found.trailing_zeros() as usize / 8;
        }
    }
    8 * words.len() + rest.iter().take_while(|b| !matches!(b, b'"' | b'\\')).count()
}

fn scalar(bytes: &[u8], at: usize) -> usize {
    let ends = |b: &u8| matches!(b, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r');
    bytes.get(at..).and_then(|rest| rest.iter().position(ends)).map_or(bytes.len(), |n| at + n)
}

fn space(bytes: &[u8], at: usize) -> usize {
    let is_space = |b: &u8| matches!(b, b' ' | b'\t' | b'\n' | b'\r');
    bytes.get(at..).map_or(bytes.len(), |rest| at + rest.iter().take_while(|b| is_space(b)).count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::value::RawValue;
    use std::collections::BTreeMap;

    const SAMPLES: [&str; 6] = [
        include_str!("../../tests/samples/02_eb_customer_end.json"),
        include_str!("../../tests/samples/10_ws_users_conversations_callback.json"),
        include_str!("../../tests/samples/29_twilio_eventstreams_array.json"),
        r#" { "a\"}" : [ 1 , {"x":"]\\"} , "\\" ] , "b" : -1.5e9 , "" : {} , "c":[]}"#,
        "[]",
        r#"{"\u0061":null,"a":true}"#,
    ];

    /// Compares this scan with the parser for every object and array of a value.
    fn same(value: &str) {
        let mut found = Vec::new();
        each(value, |name, text| found.push((name.to_owned(), text.to_owned())));
        if let Ok(elements) = serde_json::from_str::<Vec<&RawValue>>(value) {
            assert_eq!(
                found.iter().map(|(_, t)| t.as_str()).collect::<Vec<_>>(),
                elements.iter().map(|e| e.get()).collect::<Vec<_>>()
            );
        } else if let Ok(members) = serde_json::from_str::<BTreeMap<String, &RawValue>>(value) {
            for (name, text) in &found {
                let name: String = serde_json::from_str(name).unwrap();
                assert!(members.contains_key(&name));
                if found.iter().filter(|(n, _)| serde_json::from_str::<String>(n).unwrap() == name).count() == 1 {
                    assert_eq!(members[&name].get(), text);
                }
            }
        } else {
            assert!(found.is_empty(), "{value}");
        }
        found.iter().for_each(|(_, text)| same(text));
    }

    #[test]
    fn the_scanner_finds_what_the_parser_finds() {
        SAMPLES.iter().for_each(|sample| same(sample));
    }

    #[test]
    fn a_string_ends_at_its_unescaped_quote() {
        for before in 0..20 {
            for (inside, ends) in [("\"", 1), ("\\\"\"", 3), ("\\\\\"", 3), ("!#[]\u{a2}\u{dc}\"", 9)] {
                let text = format!("\"{}{inside} tail", "x".repeat(before));
                assert_eq!(string(text.as_bytes(), 0), 1 + before + ends, "{text}");
            }
            let open = format!("\"{}\\", "x".repeat(before));
            assert_eq!(string(open.as_bytes(), 0), open.len());
        }
    }

    #[test]
    fn invalid_json_neither_panics_nor_hangs() {
        let mut random = fastrand::Rng::with_seed(7);
        for sample in SAMPLES {
            for _ in 0..3000 {
                let mut bytes = sample.as_bytes().to_vec();
                for _ in 0..random.usize(1..8) {
                    let at = random.usize(..bytes.len().max(1));
                    match bytes.get_mut(at) {
                        Some(b) if random.bool() => *b = b"{}[]\",:\\ a1"[random.usize(..11)],
                        Some(_) => drop(bytes.remove(at)),
                        None => {}
                    }
                }
                if let Ok(text) = std::str::from_utf8(&bytes) {
                    each(text, |_, inside| each(inside, |_, _| {}));
                }
            }
        }
    }
}
