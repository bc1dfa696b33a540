//! Numbers, sizes and times in readable form.

use crate::cli::hint;
use crate::clock::Clock;
use crate::time::Timestamp;
use std::time::Duration;

/// `850ms`, `4.2s`, `3m 20s`, `5h 12m`, `7d 3h`: at most two units.
pub fn age(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0 => format!("{}ms", d.as_millis()),
        1..=9 => format!("{s}.{}s", d.subsec_millis() / 100),
        10..=59 => format!("{s}s"),
        60..=3599 => pair(s / 60, "m", s % 60, "s"),
        3600..=86_399 => pair(s / 3600, "h", s / 60 % 60, "m"),
        _ => pair(s / 86_400, "d", s / 3600 % 24, "h"),
    }
}

fn pair(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    match small {
        0 => format!("{large}{large_unit}"),
        _ => format!("{large}{large_unit} {small}{small_unit}"),
    }
}

/// `512 B`, `1.5 KiB`, `20 GiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1023.95 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    let short = if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") };
    let short = short.strip_suffix(".0").unwrap_or(&short);
    format!("{short} {}", UNITS[unit])
}

/// `1,234,567`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 delivery`, `2 deliveries`.
pub fn deliveries(n: usize) -> String {
    if n == 1 { "1 delivery".to_owned() } else { format!("{} deliveries", count(n as u64)) }
}

/// `1 event`, `2 events`.
pub fn counted(n: u64, noun: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", count(n))
}

/// `3m 20s ago`, or `in 12s` for a future time.
pub fn ago(at: impl Into<Timestamp>, now: Timestamp) -> String {
    match at.into() {
        at if at > now => format!("in {}", age(at.since(now))),
        at => format!("{} ago", age(now.since(at))),
    }
}

/// The text, or `-` if there is none.
pub fn or_dash(text: Option<&str>) -> &str {
    text.filter(|text| !text.is_empty()).unwrap_or("-")
}

/// Parses an RFC 3339 time in UTC, as the API writes it.
pub fn instant(rfc3339: &str) -> Option<Timestamp> {
    humantime::parse_rfc3339(rfc3339).ok().map(Timestamp::from_system)
}

/// The current time, for ages.
pub fn now() -> Timestamp {
    Clock::system().wall()
}

/// `text` in one line of at most `max` characters, without control characters; `…` marks a cut.
pub fn line(text: &str, max: usize) -> String {
    match text.chars().nth(max) {
        None => text.chars().map(harmless).collect(),
        Some(_) => text.chars().take(max.saturating_sub(1)).map(harmless).chain(['…']).collect(),
    }
}

/// Replaces a character that would act on a terminal: a control character (C0, DEL, C1) by a blank, and an invisible one
/// that changes how others are displayed by `U+FFFD` ([`is_deceptive`]).
pub fn harmless(c: char) -> char {
    match c {
        c if c.is_control() => ' ',
        c if is_deceptive(c) => char::REPLACEMENT_CHARACTER,
        c => c,
    }
}

/// Whether a character is invisible and changes how a text is displayed: it sets the direction (Unicode's bidirectional
/// controls), ends a line, or has no width. The joiners U+200C and U+200D are allowed, because Persian and Hindi need them.
pub fn is_deceptive(c: char) -> bool {
    matches!(c,
        '\u{61C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' // direction
        | '\u{2028}' | '\u{2029}' // line and paragraph
        | '\u{AD}' | '\u{180E}' | '\u{200B}' | '\u{2060}'..='\u{2065}' | '\u{206A}'..='\u{206F}' | '\u{FEFF}' // no width
        | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E0FFF}') // annotations, tags
}

/// The last `max` characters of a line; `…` marks a cut.
pub fn tail(line: &str, max: usize) -> String {
    match line.chars().count().checked_sub(max) {
        None | Some(0) => line.to_owned(),
        Some(cut) => ['…'].into_iter().chain(line.chars().skip(cut + 1)).collect(),
    }
}

/// The columns that a text takes on a terminal; style sequences take none.
pub fn columns(text: &str) -> usize {
    let mut parts = text.split("\x1b[");
    let plain = parts.next().map_or(0, |first| first.chars().count());
    plain + parts.map(|part| part.split_once('m').map_or(part, |(_, rest)| rest).chars().count()).sum::<usize>()
}

/// Wraps lines longer than `width`; continuation lines are indented by two more columns. Single words are not split, and
/// neither are lines that are commands to copy.
pub fn wrap(text: &str, width: Option<usize>) -> String {
    let Some(width) = width else { return text.to_owned() };
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let indent = line.len() - line.trim_start_matches(' ').len() + 2;
        if hint::is_command(line) {
            out.push_str(line);
            out.push('\n');
            continue;
        }
        let (mut used, mut words) = (0, 0);
        for word in line.split_inclusive(' ') {
            let wide = columns(word.trim_end_matches(' '));
            if words > 0 && used + wide > width && wide > 0 {
                out.truncate(out.trim_end_matches(' ').len());
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', indent));
                (used, words) = (indent, 0);
            }
            out.push_str(word);
            used += columns(word);
            words += usize::from(wide > 0);
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_at_most_two_units() {
        let cases: [(u64, &str); 9] = [
            (0, "0ms"),
            (850, "850ms"),
            (4_250, "4.2s"),
            (59_999, "59s"),
            (60_000, "1m"),
            (200_000, "3m 20s"),
            (18_720_000, "5h 12m"),
            (86_400_000, "1d"),
            (615_600_000, "7d 3h"),
        ];
        for (ms, text) in cases {
            assert_eq!(age(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn sizes_use_binary_units() {
        let cases: [(u64, &str); 7] = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (1_048_575, "1 MiB"),
            (20 << 30, "20 GiB"),
            (u64::MAX, "16384 PiB"),
        ];
        for (n, text) in cases {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn counts_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([1, 2000].map(|n| counted(n, "event")), ["1 event", "2,000 events"]);
    }

    #[test]
    fn times_are_shown_relative_to_now() {
        let now = instant("2026-03-19T22:04:48.128Z").unwrap();
        assert_eq!(ago(now.before(Duration::from_secs(8)), now), "8.0s ago");
        assert_eq!(ago(now.after(Duration::from_secs(12)), now), "in 12s");
        assert_eq!([or_dash(None), or_dash(Some("")), or_dash(Some("x"))], ["-", "-", "x"]);
    }

    #[test]
    fn long_lines_wrap_with_an_indent() {
        let text = "to crm: blocked by delay until noon\n  ATTEMPT  WHEN\n\nan-id-that-is-longer-than-all-this end\n";
        assert_eq!(wrap(text, None), text);
        assert_eq!(
            wrap(text, Some(20)),
            "to crm: blocked by\n  delay until noon\n  ATTEMPT  WHEN\n\nan-id-that-is-longer-than-all-this\n  end\n"
        );
        let bold = "\x1b[1mATTEMPT\x1b[0m  \x1b[1mWHEN\x1b[0m\n";
        assert_eq!((columns(bold.trim_end()), wrap(bold, Some(13)).as_str()), (13, bold), "style takes no room");
        let command = "    holdline dlq show 0190 --destination crm\n";
        assert_eq!(wrap(command, Some(20)), command);
        for width in 12..60 {
            let text = wrap("  a line of words that are short, with an indent of its own", Some(width));
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}:\n{text}");
        }
    }

    #[test]
    fn control_characters_are_replaced() {
        assert_eq!(line("a\u{9b}31mb\u{85}c\u{7f}", 20), "a 31mb c ");
        for c in "\u{202A}\u{202B}\u{202C}\u{202D}\u{202E}\u{2066}\u{2067}\u{2068}\u{2069}\u{200E}\u{200F}\u{61C}\u{200B}\u{FEFF}".chars() {
            assert_eq!(line(&format!("a{c}b"), 20), "a\u{FFFD}b", "U+{:04X}", u32::from(c));
        }
        let plain = "Müller, 客户, می\u{200C}خواهم, 👨\u{200D}👩";
        assert_eq!(line(plain, 80), plain);
    }

    #[test]
    fn line_breaks_within_a_field_are_replaced() {
        assert_eq!(line("a\nb\u{1b}c", 10), "a b c");
        assert_eq!(line("größer als", 6), "größe…");
        assert_eq!(line("größer", 6), "größer");
        assert_eq!([3, 6, 7].map(|max| tail("größer", max)), ["…er", "größer", "größer"]);
    }
}
