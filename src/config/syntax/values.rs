//! Kinds of values: durations, sizes, numbers, words, lists. Each has a range, and its fault says what to write instead.

use super::{Value, nearest};
use crate::config::settings::InvalidValue;
use crate::rules::rate::Rate;
use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;
use toml::de::DeValue;

/// The least and the greatest value of a setting, each with its reason; empty where that is evident.
pub struct Range<T> {
    pub min: (T, &'static str),
    pub max: (T, &'static str),
}

impl<T: PartialOrd + Copy> Range<T> {
    fn check(&self, got: T, written: &str, show: impl Fn(T) -> String) -> Result<T, InvalidValue> {
        let ((bound, why), message, direction) = if got < self.min.0 {
            (self.min, "below the minimum", "more")
        } else if got > self.max.0 {
            (self.max, "above the maximum", "less")
        } else {
            return Ok(got);
        };
        let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
        Err(InvalidValue::new(format!("{written} is {message}{why}"), format!("write {} or {direction}", show(bound))))
    }
}

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;
pub const TIB: u64 = 1 << 40;
/// The share of one source, where there are several.
pub const SHARE: Range<f64> = Range { min: (0.1, ""), max: (1.0, "") };

/// A duration in the tables of ranges, as in `span("10ms")`.
pub const fn span(text: &'static str) -> Duration {
    let bytes = text.as_bytes();
    let (mut n, mut i) = (0, 0);
    while bytes[i].is_ascii_digit() {
        n = n * 10 + (bytes[i] - b'0') as u64;
        i += 1;
    }
    match (bytes[i], bytes.len() - i) {
        (b'm', 2) => Duration::from_millis(n),
        (b's', 1) => Duration::from_secs(n),
        (b'm', 1) => Duration::from_secs(n * 60),
        (b'h', 1) => Duration::from_secs(n * 3600),
        (b'd', 1) => Duration::from_secs(n * 86_400),
        _ => panic!("a limit is written in ms, s, m, h or d"),
    }
}

/// A duration with its unit, as in `"250ms"`, `"30s"`, `"7d"`.
pub fn duration(value: &Value<'_>, limits: &Range<Duration>) -> Option<Duration> {
    let written = value.written();
    let got = match value.raw() {
        DeValue::String(text) => value.check(parse_duration(text, &written))?,
        DeValue::Integer(_) | DeValue::Float(_) => {
            return value.fault(format!("{written} has no unit"), format!(r#"write "{written}s""#));
        }
        _ => return value.wrong_type("duration", r#"a duration such as "30s""#),
    };
    value.check(limits.check(got, &written, |d| format!(r#""{}""#, shown_duration(d))))
}

fn parse_duration(text: &str, written: &str) -> Result<Duration, InvalidValue> {
    let such_as = r#"write a duration such as "250ms", "30s", "5m" or "7d""#;
    humantime::parse_duration(text).map_err(|e| match e {
        humantime::DurationError::UnknownUnit { unit, .. } if unit.is_empty() => {
            InvalidValue::new(format!("{written} has no unit"), format!(r#"write "{}s""#, text.trim()))
        }
        humantime::DurationError::UnknownUnit { unit, .. } => {
            InvalidValue::new(format!("{written} has the unknown unit `{unit}`"), such_as)
        }
        _ => InvalidValue::new(format!("{written} is not a duration"), such_as),
    })
}

/// In the largest unit that divides it.
pub fn shown_duration(d: Duration) -> String {
    let ms = crate::time::millis(d);
    const UNITS: [(u64, &str); 4] = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
    match UNITS.iter().find(|(unit, _)| ms > 0 && ms.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", ms / unit),
        None if ms == 0 => "0s".into(),
        None => format!("{ms}ms"),
    }
}

const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", TIB),
    ("GiB", GIB),
    ("MiB", MIB),
    ("KiB", KIB),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1000),
    ("B", 1),
];

/// Bytes: `"64KiB"`, `"10MB"`, or a plain number.
pub fn size(value: &Value<'_>, limits: &Range<u64>) -> Option<u64> {
    let written = value.written();
    let got = match value.raw() {
        DeValue::String(text) => value.check(parse_size(text, &written))?.into(),
        DeValue::Integer(_) => integer(value)?,
        _ => return value.wrong_type("size", r#"a size such as "64KiB" or "1GiB""#),
    };
    within(value, got, limits, |n| format!(r#""{}""#, shown_size(n)))
}

/// As `size`, for memory.
pub fn memory(value: &Value<'_>, limits: &Range<u64>) -> Option<usize> {
    size(value, limits).map(|n| usize::try_from(n).unwrap_or(usize::MAX))
}

fn parse_size(text: &str, written: &str) -> Result<u64, InvalidValue> {
    let such_as = r#"write a whole number with a unit, such as "64KiB", "10MB" or "1GiB""#;
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = (&text[..digits], text[digits..].trim());
    if number.is_empty() || unit.starts_with(['.', ',']) {
        return Err(InvalidValue::new(format!("{written} is not a size"), such_as));
    }
    let factor = match SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) {
        Some((_, factor)) => *factor,
        None if unit.is_empty() => 1,
        None => return Err(InvalidValue::new(format!("{written} has the unknown unit `{unit}`"), such_as)),
    };
    let bytes = number.parse().ok().and_then(|n: u64| n.checked_mul(factor));
    bytes.ok_or_else(|| InvalidValue::new(format!("{written} is too large to count"), such_as))
}

/// In the largest binary unit that divides it.
pub fn shown_size(bytes: u64) -> String {
    let unit = SIZE_UNITS[..4].iter().find(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor));
    unit.map_or_else(|| format!("{bytes}B"), |(name, factor)| format!("{}{name}", bytes / factor))
}

const RATE_UNITS: [(&str, u64); 4] = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];
const RATE_COUNT: Range<u64> = Range { min: (1, ""), max: (1_000_000, "nothing here is that fast") };

/// A number per second, minute, hour or day, as in `"200/s"`.
pub fn rate(value: &Value<'_>) -> Option<Rate> {
    let text = value.text(r#"a rate such as "200/s""#)?;
    value.check(parse_rate(text, &value.written()))
}

/// A rate as it is written in a configuration; the error says what is wrong and what to write.
pub fn rate_of(text: &str) -> Result<Rate, InvalidValue> {
    parse_rate(text, &format!("{text:?}"))
}

fn parse_rate(text: &str, written: &str) -> Result<Rate, InvalidValue> {
    let wrong =
        |what: &str| InvalidValue::new(format!("{written} {what}"), r#"write a rate such as "200/s" or "60/m""#);
    let (number, unit) = text.split_once('/').ok_or_else(|| wrong("has no unit of time"))?;
    let unit = unit.trim();
    let seconds = RATE_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(|| wrong("is not per s, m, h or d"))?.1;
    let count = number.trim().parse().map_err(|_| wrong("is not a whole number of events"))?;
    let count = bounded(count, written, &RATE_COUNT, |n| format!(r#""{n}/{unit}""#))?;
    let count = u32::try_from(count).ok().and_then(NonZeroU32::new).expect("it is within its bounds");
    Ok(Rate::new(count, Duration::from_secs(seconds)))
}

/// A whole number.
pub fn whole(value: &Value<'_>, limits: &Range<u64>) -> Option<u64> {
    match value.raw() {
        DeValue::Integer(_) => within(value, integer(value)?, limits, |n| n.to_string()),
        _ => value.wrong_type("integer", &format!("a whole number such as {}", limits.min.0)),
    }
}

/// Wider than any range, so that a negative number is below it and a huge one above.
fn integer(value: &Value<'_>) -> Option<i128> {
    let raw = value.raw().as_integer()?;
    match i128::from_str_radix(raw.as_str(), raw.radix()) {
        Ok(got) => Some(got),
        Err(_) => value.fault(format!("{} is too large", value.written()), "write a smaller number"),
    }
}

fn within(value: &Value<'_>, got: i128, limits: &Range<u64>, show: impl Fn(u64) -> String) -> Option<u64> {
    value.check(bounded(got, &value.written(), limits, show))
}

fn bounded(got: i128, written: &str, limits: &Range<u64>, show: impl Fn(u64) -> String) -> Result<u64, InvalidValue> {
    let clamped = |n: i128| u64::try_from(n.max(0)).unwrap_or(u64::MAX);
    let wide = Range { min: (limits.min.0.into(), limits.min.1), max: (limits.max.0.into(), limits.max.1) };
    wide.check(got, written, |bound| show(clamped(bound))).map(clamped)
}

/// A number, whole or not.
pub fn number(value: &Value<'_>, limits: &Range<f64>) -> Option<f64> {
    let written = value.written();
    let got = match value.raw() {
        DeValue::Integer(_) => integer(value)? as f64,
        DeValue::Float(raw) => match raw.as_str().parse::<f64>() {
            Ok(got) if got.is_finite() => got,
            _ => return value.fault(format!("{written} is not a finite number"), "write a number such as 2.0"),
        },
        _ => return value.wrong_type("number", "a number such as 2.0"),
    };
    value.check(limits.check(got, &written, |n| format!("{n:.1}")))
}

/// One of a few words.
pub fn choice<T: Copy>(value: &Value<'_>, words: &[(&'static str, T)]) -> Option<T> {
    let all: Vec<String> = words.iter().map(|(word, _)| format!(r#""{word}""#)).collect();
    let all = all.join(", ");
    let text = value.text(&format!("one of {all}"))?;
    if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text) {
        return Some(*meaning);
    }
    let remedy = match nearest(text, words.iter().map(|(word, _)| *word)) {
        Some(near) => format!(r#"write "{near}""#),
        None => format!("write one of {all}"),
    };
    value.fault(format!("{} is not known", value.written()), remedy)
}

/// A name of a source or destination; it occurs in URLs, metrics and command lines.
pub fn name(value: &Value<'_>) -> Option<String> {
    const LENGTH_MAX: usize = 63; // as a DNS label
    let text = value.text(r#"a name such as "crm""#)?;
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_' || c == b'-';
    let first_good = text.bytes().next().is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    if first_good && text.len() <= LENGTH_MAX && text.bytes().all(inner) {
        return Some(text.into());
    }
    let remedy = "write 1 to 63 of a-z, 0-9, _ and -, the first of them a letter or digit";
    value.fault(format!("{} is not a name", value.written()), remedy)
}

/// A list that is neither empty nor holds an element twice.
pub fn words(
    value: &Value<'_>,
    absent_means: &str,
    parse: impl Fn(&Value<'_>) -> Option<String>,
) -> Option<Vec<String>> {
    let items = value.items()?;
    if items.is_empty() {
        return value.fault("the list is empty", format!("name at least one, or remove it for {absent_means}"));
    }
    let mut words = Vec::new();
    for item in &items {
        let Some(word) = parse(item) else { continue };
        if words.contains(&word) {
            item.fault::<()>(format!("{} is listed twice", item.written()), "remove one of them");
        }
        words.push(word);
    }
    Some(words)
}

/// A whole number, or a word for none.
pub fn whole_or(value: &Value<'_>, none: &str, limits: &Range<u64>) -> Option<Option<u64>> {
    match value.raw() {
        DeValue::String(text) if text.as_ref() == none => Some(None),
        DeValue::String(_) => {
            value.fault(format!("{} is neither a number nor \"{none}\"", value.written()), format!("write \"{none}\""))
        }
        _ => whole(value, limits).map(Some),
    }
}

/// HTTP statuses of failures: numbers and classes such as `"5xx"`.
pub fn statuses(value: &Value<'_>) -> Option<BTreeSet<u16>> {
    let mut all = BTreeSet::new();
    for item in value.items()? {
        match item.raw() {
            DeValue::String(text) => match text.as_ref() {
                "3xx" => all.extend(300..400),
                "4xx" => all.extend(400..500),
                "5xx" => all.extend(500..600),
                digits if digits.parse::<u16>().is_ok() => {
                    item.fault::<()>(format!("{} is in quotes", item.written()), format!("write {digits}"))?;
                }
                _ => {
                    let remedy = r#"write a status such as 503, or "3xx", "4xx" or "5xx""#;
                    item.fault::<()>(format!("{} is no class of failures", item.written()), remedy)?;
                }
            },
            _ => all.extend(whole(&item, &FAILURES).and_then(|n| u16::try_from(n).ok())),
        }
    }
    Some(all)
}

const FAILURES: Range<u64> = Range { min: (300, "only failures are tried again"), max: (599, "") };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let good = [
            ("64KiB", 65_536),
            ("1 GiB", 1 << 30),
            ("10MB", 10_000_000),
            ("10kb", 10_000),
            ("7", 7),
            ("7B", 7),
            ("2TiB", 2 << 40),
        ];
        for (text, wanted) in good {
            assert_eq!(parse_size(text, text), Ok(wanted), "{text}");
        }
        let bad = [
            ("", " is not a size"),
            ("KiB", "KiB is not a size"),
            ("1.5GiB", "1.5GiB is not a size"),
            ("-1KiB", "-1KiB is not a size"),
            ("64K", "64K has the unknown unit `K`"),
            ("99999999TiB", "99999999TiB is too large to count"),
        ];
        for (text, wanted) in bad {
            assert_eq!(parse_size(text, text).unwrap_err().message, wanted);
        }
    }

    #[test]
    fn durations_and_sizes_are_shown_as_they_are_written() {
        let durations = [(0, "0s"), (250, "250ms"), (30_000, "30s"), (86_400_000, "1d"), (5_400_000, "90m")];
        for (ms, wanted) in durations {
            assert_eq!(shown_duration(Duration::from_millis(ms)), wanted);
            assert_eq!(parse_duration(wanted, wanted), Ok(Duration::from_millis(ms)));
        }
        for (bytes, wanted) in [(0, "0B"), (1000, "1000B"), (65_536, "64KiB"), (3 << 30, "3GiB")] {
            assert_eq!(shown_size(bytes), wanted);
            assert_eq!(parse_size(wanted, wanted), Ok(bytes));
        }
    }
}
