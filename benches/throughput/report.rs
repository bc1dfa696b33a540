//! The numbers of a comparison: medians, ratios, a table, JSON.

use comfy_table::{Cell, CellAlignment, Table};
use serde::Serialize;
use std::time::Duration;

/// Beyond these something is badly wrong, whatever the machine: shares of the server that only appends, which is as slow as
/// the disk is, and of the proxy; time per event at one connection over an append and fdatasync.
const RATIO_OF_APPEND_MIN: f64 = 0.35;
const RATIO_PROXY_MIN: f64 = 0.25;
const EVENT_OVER_APPEND_MAX: f64 = 10.0;

/// One round. Rates are events per second, quantiles are p50 and p99.
#[derive(Serialize)]
pub(crate) struct Round {
    pub(crate) append_us: f64,
    pub(crate) bare_1: f64,
    pub(crate) holdline_1: f64,
    pub(crate) bare_128: f64,
    /// A server that only appends each body to a file, synced for all that came meanwhile.
    pub(crate) append_128: f64,
    pub(crate) holdline_128: f64,
    /// The same by hyper's client.
    pub(crate) bare_128_hyper: f64,
    pub(crate) holdline_128_hyper: f64,
    pub(crate) ack_128_hyper_us: [f64; 2],
    /// A server that posts each body to the same destination before it answers.
    pub(crate) proxy_128: f64,
    pub(crate) delivered_128: f64,
    /// At 5,000 events per second.
    pub(crate) ack_steady_us: [f64; 2],
    pub(crate) ack_1_us: [f64; 2],
    pub(crate) ack_128_us: [f64; 2],
}

/// Medians over the rounds; ratios are medians of the ratios of each round.
#[derive(Serialize)]
struct Medians {
    append_us: f64,
    bare_1: f64,
    holdline_1: f64,
    ratio_1: f64,
    /// Time per event at one connection over one append of 1 KiB and fdatasync.
    event_over_append_1: f64,
    bare_128: f64,
    append_128: f64,
    ratio_append_128: f64,
    holdline_128: f64,
    ratio_128: f64,
    /// Of the server that only appends.
    ratio_of_append_128: f64,
    bare_128_hyper: f64,
    holdline_128_hyper: f64,
    ratio_128_hyper: f64,
    ack_128_hyper_us: [f64; 2],
    proxy_128: f64,
    delivered_128: f64,
    ratio_delivered_128: f64,
    ack_steady_us: [f64; 2],
    /// The 99th percentile at 5,000 events per second over one append of 1 KiB and fdatasync.
    ack_steady_over_append: f64,
    /// Intake with many waiting over intake with none.
    ratio_waiting: Option<f64>,
    ack_1_us: [f64; 2],
    ack_128_us: [f64; 2],
}

/// Events per second with none waiting and with `events`, a pair a round.
#[derive(Serialize)]
pub(crate) struct Waiting {
    pub(crate) events: u64,
    pub(crate) none_and_many: Vec<[f64; 2]>,
}

#[derive(Serialize)]
pub(crate) struct Report {
    filesystem: String,
    durability: String,
    cores: usize,
    seconds: f64,
    medians: Medians,
    rounds: Vec<Round>,
    waiting: Option<Waiting>,
}

fn median_of(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

pub(crate) fn make(
    length: Duration,
    filesystem: String,
    durability: String,
    rounds: Vec<Round>,
    waiting: Option<Waiting>,
) -> Report {
    let median = |of: &dyn Fn(&Round) -> f64| median_of(rounds.iter().map(of));
    let medians = Medians {
        append_us: median(&|r| r.append_us),
        bare_1: median(&|r| r.bare_1),
        holdline_1: median(&|r| r.holdline_1),
        ratio_1: median(&|r| r.holdline_1 / r.bare_1),
        event_over_append_1: median(&|r| 1e6 / r.holdline_1 / r.append_us),
        bare_128: median(&|r| r.bare_128),
        append_128: median(&|r| r.append_128),
        ratio_append_128: median(&|r| r.append_128 / r.bare_128),
        ratio_of_append_128: median(&|r| r.holdline_128 / r.append_128),
        holdline_128: median(&|r| r.holdline_128),
        ratio_128: median(&|r| r.holdline_128 / r.bare_128),
        bare_128_hyper: median(&|r| r.bare_128_hyper),
        holdline_128_hyper: median(&|r| r.holdline_128_hyper),
        ratio_128_hyper: median(&|r| r.holdline_128_hyper / r.bare_128_hyper),
        ack_128_hyper_us: [0, 1].map(|i| median(&|r| r.ack_128_hyper_us[i])),
        delivered_128: median(&|r| r.delivered_128),
        proxy_128: median(&|r| r.proxy_128),
        ratio_delivered_128: median(&|r| r.delivered_128 / r.proxy_128),
        ack_steady_us: [0, 1].map(|i| median(&|r| r.ack_steady_us[i])),
        ack_steady_over_append: median(&|r| r.ack_steady_us[1] / r.append_us),
        ratio_waiting: waiting.as_ref().map(|w| median_of(w.none_and_many.iter().map(|[none, many]| many / none))),
        ack_1_us: [0, 1].map(|i| median(&|r| r.ack_1_us[i])),
        ack_128_us: [0, 1].map(|i| median(&|r| r.ack_128_us[i])),
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    Report { filesystem, durability, cores, seconds: length.as_secs_f64(), medians, rounds, waiting }
}

impl Report {
    pub(crate) fn passes(&self) -> bool {
        self.faults().is_empty()
    }

    /// Gross regressions, in words.
    fn faults(&self) -> Vec<String> {
        let m = &self.medians;
        let mut faults = Vec::new();
        for (what, share, least) in [
            ("of the server that only appends at 128 connections", m.ratio_of_append_128, RATIO_OF_APPEND_MIN),
            ("of the proxy from end to end", m.ratio_delivered_128, RATIO_PROXY_MIN),
        ] {
            if share < least {
                faults.push(format!("{:.0} % {what}, less than {:.0} %", share * 100.0, least * 100.0));
            }
        }
        if m.event_over_append_1 > EVENT_OVER_APPEND_MAX {
            let appends = m.event_over_append_1;
            faults.push(format!("an event alone takes {appends:.1} appends, more than {EVENT_OVER_APPEND_MAX:.0}"));
        }
        faults
    }

    pub(crate) fn print(&self) {
        let m = &self.medians;
        let (rounds, seconds) = (self.rounds.len(), self.seconds);
        println!("filesystem {}, durability {}, {} cores", self.filesystem, self.durability, self.cores);
        println!(
            "medians of {rounds} rounds of {seconds} s, bodies of 1.1 KiB; one append of 1 KiB + fdatasync: {:.0} us",
            m.append_us
        );
        let rate = |value: f64| format!("{value:.0}/s");
        let share = |value: f64| format!("{:.0} %", value * 100.0);
        let quantiles = |[p50, p99]: [f64; 2]| format!("{:.2} / {:.2} ms", p50 / 1e3, p99 / 1e3);
        let mut table = Table::new();
        table.load_style(comfy_table::presets::ASCII_MARKDOWN);
        table.set_header(["measured", "bare", "holdline", "ratio", "ack p50 / p99"]);
        let rows = [
            [
                "intake, 1 connection".to_owned(),
                rate(m.bare_1),
                rate(m.holdline_1),
                share(m.ratio_1),
                quantiles(m.ack_1_us),
            ],
            [
                "intake, 128 connections".to_owned(),
                rate(m.bare_128),
                rate(m.holdline_128),
                share(m.ratio_128),
                quantiles(m.ack_128_us),
            ],
            [
                "the same, by hyper's client".to_owned(),
                rate(m.bare_128_hyper),
                rate(m.holdline_128_hyper),
                share(m.ratio_128_hyper),
                quantiles(m.ack_128_hyper_us),
            ],
            [
                "accepted, delivered and settled (bare: a proxy)".to_owned(),
                rate(m.proxy_128),
                rate(m.delivered_128),
                share(m.ratio_delivered_128),
                String::new(),
            ],
        ];
        for row in rows {
            let [name, numbers @ ..] = row;
            let numbers = numbers.map(|number| Cell::new(number).set_alignment(CellAlignment::Right));
            table.add_row(std::iter::once(Cell::new(name)).chain(numbers));
        }
        println!("{table}");
        println!("one event at 1 connection takes {:.2} appends", m.event_over_append_1);
        println!(
            "at 5,000 events/s acknowledgements take {} (p50 / p99); the p99 is {:.1} appends",
            quantiles(m.ack_steady_us),
            m.ack_steady_over_append
        );
        if let (Some(waiting), Some(ratio)) = (&self.waiting, m.ratio_waiting) {
            println!("intake with {} events waiting is at {} of intake with none", waiting.events, share(ratio));
        }
        println!(
            "a server that only appends and syncs takes {} at 128 connections, {} of the bare one; holdline is at {} of that",
            rate(m.append_128),
            share(m.ratio_append_128),
            share(m.ratio_of_append_128)
        );
        for fault in self.faults() {
            println!("FAILED: {fault}");
        }
    }
}
