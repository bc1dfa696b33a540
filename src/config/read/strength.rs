//! Weaknesses of a secret, and what was written into it by accident. A function of its text.

/// One weakness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weakness {
    Short,
    /// It has few different characters, repeats itself, or counts.
    Uniform,
    Placeholder,
    ByteOrderMark,
    /// At its beginning or end.
    Blanks,
    LineBreaks,
    Controls,
    Quotes,
    /// `NAME=value`, as in a file of environment variables.
    Assignment,
}

impl Weakness {
    /// The text of a warning, after the name of the secret.
    pub fn words(self) -> &'static str {
        match self {
            Self::Short => "is shorter than 16 bytes",
            Self::Uniform => "is easily guessed: it has few different characters, repeats itself, or counts",
            Self::Placeholder => "is a placeholder, or one of the first that are tried",
            Self::ByteOrderMark => "begins with a byte order mark, which belongs to it",
            Self::Blanks => "has blanks at its beginning or end, which belong to it",
            Self::LineBreaks => "has line breaks, which belong to it",
            Self::Controls => "has control characters, which belong to it",
            Self::Quotes => "stands in quotes, which belong to it",
            Self::Assignment => "looks like NAME=value, and all of that belongs to it",
        }
    }
}

/// Shorter secrets can be found by trying.
pub const BYTES_MIN: usize = 16;
/// 16 or more random hexadecimal digits have more different ones, except for one in some thousands.
const DIFFERENT_MIN: usize = 7;

/// The search for repetitions takes the square of this.
const LOOKED_AT_MAX: usize = 512;

/// All weaknesses of a secret.
pub fn weaknesses(secret: &str) -> Vec<Weakness> {
    let mut found = Vec::new();
    let mut add = |weakness, there: bool| found.extend(there.then_some(weakness));
    let blank = |c: char| c.is_whitespace() && !matches!(c, '\n' | '\r');
    add(Weakness::ByteOrderMark, secret.starts_with('\u{FEFF}'));
    let without_mark = secret.trim_start_matches('\u{FEFF}');
    add(Weakness::LineBreaks, secret.contains(['\n', '\r']));
    let line = without_mark.trim_matches(['\n', '\r']);
    add(Weakness::Blanks, line.starts_with(blank) || line.ends_with(blank));
    add(Weakness::Controls, secret.contains(|c: char| c.is_control() && !c.is_whitespace()));
    let bare = line.trim();
    let quoted = ['"', '\'', '`', '\u{201C}', '\u{2018}'].iter().any(|q| bare.len() > 1 && bare.starts_with(*q))
        && bare.ends_with(['"', '\'', '`', '\u{201D}', '\u{2019}']);
    add(Weakness::Quotes, quoted);
    let bare = bare.trim_matches(['"', '\'', '`']);
    let assigned = bare.split_once('=').filter(|(name, value)| is_name(name) && !value.trim_matches('=').is_empty());
    add(Weakness::Assignment, assigned.is_some());
    let core = assigned.map_or(bare, |(_, value)| value.trim().trim_matches(['"', '\'']));
    if is_placeholder(core) {
        add(Weakness::Placeholder, true);
    } else {
        add(Weakness::Short, core.len() < BYTES_MIN);
        add(Weakness::Uniform, core.len() >= BYTES_MIN && is_uniform(core.as_bytes()));
    }
    found
}

/// The name of an environment variable, in capitals as they are written.
fn is_name(text: &str) -> bool {
    let text = text.strip_prefix("export ").unwrap_or(text).trim();
    text.starts_with(|c: char| c.is_ascii_uppercase())
        && text.len() > 2
        && text.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
        && text.contains('_')
}

fn is_uniform(bytes: &[u8]) -> bool {
    let bytes = &bytes[..bytes.len().min(LOOKED_AT_MAX)];
    let mut seen = [false; 256];
    bytes.iter().for_each(|b| seen[usize::from(*b)] = true);
    let different = seen.iter().filter(|seen| **seen).count();
    let repeats = (1..=bytes.len() / 2).any(|period| bytes[period..].iter().zip(bytes).all(|(a, b)| a == b));
    let steps = |by: i16| bytes.windows(2).filter(|w| i16::from(w[1]) - i16::from(w[0]) == by).count();
    let counts = steps(1).max(steps(-1)) * 10 >= bytes.len() * 7;
    different < DIFFERENT_MIN || repeats || counts
}

/// Words of examples, with any digits and signs around them.
const PLACEHOLDERS: [&str; 32] = [
    "admin",
    "adminadmin",
    "apikey",
    "bearer",
    "changeit",
    "changeme",
    "changethis",
    "default",
    "demo",
    "dummy",
    "example",
    "examplesecret",
    "foobar",
    "fixme",
    "hello",
    "holdline",
    "hunter",
    "letmein",
    "mysecret",
    "none",
    "null",
    "pass",
    "password",
    "passwort",
    "placeholder",
    "qwerty",
    "secret",
    "supersecret",
    "test",
    "testtest",
    "todo",
    "token",
];
/// With any continuation.
const BEGINNINGS: [&str; 10] = [
    "changeme",
    "changethis",
    "examplesecret",
    "inserthere",
    "insertyour",
    "placeholder",
    "putyour",
    "replaceme",
    "replacethis",
    "your",
];

fn is_placeholder(secret: &str) -> bool {
    let dead_letters: String =
        secret.chars().filter(char::is_ascii_alphabetic).map(|c| c.to_ascii_lowercase()).collect();
    let template = (secret.starts_with('<') && secret.ends_with('>')) || secret.contains("${") || secret.contains("{{");
    let words = secret.chars().all(|c| c.is_ascii_alphabetic() || matches!(c, '-' | '_' | ' ' | '.'));
    let is_one = PLACEHOLDERS.contains(&dead_letters.as_str()) && dead_letters.len() * 2 >= secret.len();
    let begins = words && BEGINNINGS.iter().any(|beginning| dead_letters.starts_with(beginning));
    let crossed = !secret.is_empty() && secret.chars().all(|c| matches!(c, 'x' | 'X' | '*' | '.' | '-'));
    template || is_one || begins || crossed
}

#[cfg(test)]
mod tests {
    use super::Weakness::*;
    use super::*;

    #[test]
    fn each_weakness_is_found_alone_and_a_good_secret_has_none() {
        let good = "9f86d081884c7d659a2feaa0c55ad015";
        let cases: Vec<(String, &[Weakness])> = vec![
            (good.to_owned(), &[]),
            ("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD".to_owned(), &[]),
            ("dGhpcyBpcyBhIHNlY3JldA==".to_owned(), &[]),
            ("correct horse battery staple".to_owned(), &[]),
            ("9f86d081884c7d65".to_owned(), &[]),
            ("9f86d081884c7d6".to_owned(), &[Short]),
            ("hunter2!x".to_owned(), &[Short]),
            (format!("\u{FEFF}{good}"), &[ByteOrderMark]),
            (format!(" {good}"), &[Blanks]),
            (format!("{good}\t"), &[Blanks]),
            (format!("{good}\u{A0}"), &[Blanks]),
            (format!("{good}\n"), &[LineBreaks]),
            (format!("{good}\r"), &[LineBreaks]),
            (format!("{good}\n{good}"), &[LineBreaks]),
            (format!("{good}\0"), &[Controls]),
            (format!("\"{good}\""), &[Quotes]),
            (format!("'{good}'"), &[Quotes]),
            (format!("\u{201C}{good}\u{201D}"), &[Quotes]),
            (format!("CRM_TOKEN={good}"), &[Assignment]),
            (format!("export CRM_TOKEN=\"{good}\""), &[Assignment]),
            ("a".repeat(40), &[Uniform]),
            ("1234567890123456".to_owned(), &[Uniform]),
            ("abcdefghijklmnopqrstuvwxyz".to_owned(), &[Uniform]),
            ("9876543210fedcba".to_owned(), &[Uniform]),
            ("abcabcabcabcabcabc".to_owned(), &[Uniform]),
            (format!("{}b", "a".repeat(65_000)), &[Uniform]),
            ("changeme".to_owned(), &[Placeholder]),
            ("CHANGE-ME".to_owned(), &[Placeholder]),
            ("secret".to_owned(), &[Placeholder]),
            ("\"secret123\"".to_owned(), &[Quotes, Placeholder]),
            ("your-webhook-secret-here".to_owned(), &[Placeholder]),
            ("<insert the token here>".to_owned(), &[Placeholder]),
            ("${CRM_TOKEN}".to_owned(), &[Placeholder]),
            ("xxxxxxxxxxxxxxxxxxxx".to_owned(), &[Placeholder]),
            (String::new(), &[Short]),
        ];
        for (secret, wanted) in cases {
            assert_eq!(weaknesses(&secret), wanted, "{secret:?}");
        }
    }

    #[test]
    fn random_secrets_cause_no_warning() {
        use sha2::{Digest, Sha256};
        for n in 0..2000u32 {
            let hex: String = Sha256::digest(n.to_be_bytes()).iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(weaknesses(&hex), [], "{hex}");
            assert_eq!(weaknesses(&hex[..32]), [], "{hex}");
        }
    }
}
