//! The keys of `[[destination]]` that say how fast it may be called: `concurrency` and `breaker`.

use super::section::Section;
use super::values::{self, Limits, span};
use crate::rules::breaker;
use crate::rules::concurrency::Adaptive;
use std::time::Duration;

const CONCURRENCY: Limits<u64> = Limits { min: (1, ""), max: (4096, "each request in flight takes a connection") };
const RAMP_UP: Limits<Duration> = Limits { min: (span("0s"), ""), max: (span("1h"), "") };
const RATIO: Limits<f64> =
    Limits { min: (0.1, "less opens over a single call"), max: (1.0, "1.0 is all of the calls") };
const WINDOW: Limits<Duration> = Limits { min: (span("1s"), ""), max: (span("1h"), "what is older says little") };
const CALLS: Limits<u64> = Limits { min: (1, ""), max: (1_000_000, "") };
const RUN: Limits<u64> =
    Limits { min: (3, "they must concern three interactions"), max: (1_000_000, "so many never come in a row") };
const SLOW: Limits<Duration> = Limits { min: (span("1ms"), ""), max: (span("10m"), "no attempt takes longer") };
const OPEN_DURATION: Limits<Duration> = Limits { min: (span("100ms"), ""), max: (span("1h"), "") };
const PROBES: Limits<u64> = Limits { min: (1, ""), max: (1000, "") };

/// Requests in flight at once.
#[derive(Clone, Copy)]
pub(super) struct Concurrency {
    pub max: usize,
    pub adaptive: Adaptive,
    pub ramp_up: Duration,
}

pub(super) fn concurrency(mut section: Section<'_>, absent: Concurrency) -> Concurrency {
    let max = section.take("max", |v| values::whole(&v, &CONCURRENCY));
    let adaptive = section.take("adaptive", |v| v.boolean());
    Concurrency {
        max: max.map_or(absent.max, |n| usize::try_from(n).unwrap_or(usize::MAX)),
        adaptive: adaptive.map_or(absent.adaptive, |yes| if yes { Adaptive::Yes } else { Adaptive::No }),
        ramp_up: section.take("ramp_up", |v| values::duration(&v, &RAMP_UP)).unwrap_or(absent.ramp_up),
    }
}

pub(super) fn breaker(mut section: Section<'_>) -> breaker::Limits {
    let absent = breaker::Limits::default();
    let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    breaker::Limits {
        failure_ratio: section.take("failure_ratio", |v| values::number(&v, &RATIO)).unwrap_or(absent.failure_ratio),
        window: section.take("window", |v| values::duration(&v, &WINDOW)).unwrap_or(absent.window),
        min_calls: section.take("min_calls", |v| values::whole(&v, &CALLS)).map_or(absent.min_calls, small),
        consecutive_failures: section
            .take("consecutive_failures", |v| values::whole(&v, &CALLS))
            .map_or(absent.consecutive_failures, small),
        permanent_answers: section
            .take("permanent_answers", |v| values::whole(&v, &RUN))
            .map_or(absent.permanent_answers, small),
        slow_call: section.take("slow_call", |v| values::duration(&v, &SLOW)).unwrap_or(absent.slow_call),
        slow_ratio: section.take("slow_ratio", |v| values::number(&v, &RATIO)).unwrap_or(absent.slow_ratio),
        open_duration: section
            .take("open_duration", |v| values::duration(&v, &OPEN_DURATION))
            .unwrap_or(absent.open_duration),
        probes: section.take("probes", |v| values::whole(&v, &PROBES)).map_or(absent.probes, small),
    }
}
