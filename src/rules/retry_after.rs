//! `Retry-After` (RFC 9110, 10.2.3): how long a destination wants to be left alone.

use super::header_time::{self, AnsweredAt};
use crate::time::Timestamp;
use std::time::Duration;

/// The same in milliseconds, as some gateways send it beside the standard one.
const IN_MILLISECONDS: [&str; 2] = ["retry-after-ms", "x-ms-retry-after-ms"];

/// The longest wait that the lines of the header ask for; none where there is none that can be read. `values` gives the values
/// of all lines of a header by its name in lower case.
pub fn asked<'h>(values: impl Fn(&str) -> Vec<&'h str>, at: AnsweredAt) -> Option<Duration> {
    let standard = values("retry-after").into_iter().filter_map(|value| header_time::longest(value, at));
    let milliseconds = IN_MILLISECONDS.into_iter().flat_map(values).filter_map(milliseconds);
    standard.chain(milliseconds).max()
}

fn milliseconds(value: &str) -> Option<Duration> {
    let milliseconds = value.trim().parse::<f64>().ok()?;
    Duration::try_from_secs_f64(milliseconds / 1000.0).ok()
}

/// Nothing is sent before `until`; `clamped`: the destination asked for more than `retry_after_max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryAfter {
    pub until: Timestamp,
    pub clamped: bool,
}

/// `now` is the moment at which the answer had arrived, cut to a millisecond; one more makes up for the cut.
pub fn grant(wish: Duration, max: Duration, now: Timestamp) -> RetryAfter {
    RetryAfter { until: now.after(wish.min(max)).after(Duration::from_millis(1)), clamped: wish > max }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Headers<'h> = &'h [(&'h str, &'h str)];

    #[test]
    fn the_longest_of_several_headers_counts() {
        // Sun, 06 Nov 1994 08:49:37 GMT
        let at = AnsweredAt::new(Timestamp(784_111_777_000), None);
        let cases: [(Headers, Option<u64>); 9] = [
            (&[], None),
            (&[("retry-after", "120")], Some(120_000)),
            (&[("retry-after", "5"), ("retry-after", "30"), ("retry-after", "10")], Some(30_000)),
            (&[("retry-after", "soon"), ("retry-after", "3")], Some(3000)),
            (&[("retry-after", "5"), ("retry-after", "Sun, 06 Nov 1994 08:50:37 GMT")], Some(60_000)),
            (&[("retry-after", "soon")], None),
            (&[("retry-after-ms", "1500")], Some(1500)),
            (&[("retry-after", "2"), ("x-ms-retry-after-ms", "2500.5")], Some(2500)),
            (&[("retry-after-ms", "-5")], None),
        ];
        for (lines, wait_ms) in cases {
            let values = |name: &str| lines.iter().filter(|(n, _)| *n == name).map(|(_, v)| *v).collect();
            let asked = asked(values, at).map(|wait| wait.as_millis() as u64);
            assert_eq!(asked, wait_ms, "{lines:?}");
        }
    }

    #[test]
    fn a_long_retry_after_is_clamped_and_reported() {
        let (now, max) = (Timestamp(1000), Duration::from_secs(10));
        assert_eq!(grant(Duration::from_secs(3), max, now), RetryAfter { until: Timestamp(4001), clamped: false });
        assert_eq!(grant(max, max, now), RetryAfter { until: Timestamp(11_001), clamped: false });
        assert_eq!(grant(Duration::MAX, max, now), RetryAfter { until: Timestamp(11_001), clamped: true });
    }
}
