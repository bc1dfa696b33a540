//! The summary of the demo: the counts of sender and receiver next to those of the daemon, and whether they agree.

use super::tracker::Totals;
use crate::api;
use crate::cli::format;
use crate::cli::table::{Column, Table};
use std::time::Duration;

/// The results when the queue is empty.
#[derive(Debug)]
pub struct Summary {
    /// Events of the run.
    pub events: u64,
    /// The counts of sender and receiver.
    pub totals: Totals,
    /// Events that were accepted, and neither delivered nor in the dead letter queue.
    pub lost: u64,
    /// Entries of `/v1/dlq`.
    pub dead: u64,
    /// `/v1/status`.
    pub status: api::Status,
    /// The time from the first request to the empty queue.
    pub took: Duration,
}

impl Summary {
    /// The counts that do not agree, as sentences.
    pub fn faults(&self) -> Vec<String> {
        let t = &self.totals;
        let counters = &self.status.counters;
        let equal = [
            ("events sent and events accepted", self.events, t.accepted),
            ("accepted = delivered + in the DLQ, by the receiver's counts", t.accepted, t.delivered + self.dead),
            (
                "accepted = delivered + dead-lettered, by the daemon's counters",
                counters.accepted,
                counters.delivered + counters.dead_lettered,
            ),
            ("accepted, by the sender and by the daemon", t.accepted, counters.accepted),
            ("delivered, by the receiver and by the daemon", t.delivered, counters.delivered),
            ("duplicates, by the sender and by the daemon", t.duplicates, counters.duplicates),
            ("refused by the receiver and in the DLQ", t.refused, self.dead),
            ("dead letters and the one poison event", self.dead, 1),
            ("events still waiting", self.status.queue.depth, 0),
            ("out of order", t.out_of_order, 0),
            ("lost", self.lost, 0),
            ("bodies that arrived changed", t.unknown, 0),
            ("requests that the intake refused", t.refused_by_intake, 0),
        ];
        let wrong = equal.into_iter().filter(|(_, left, right)| left != right);
        wrong.map(|(what, left, right)| format!("{what}: {left} against {right}")).collect()
    }

    /// The table and the result.
    pub fn text(&self) -> String {
        let t = &self.totals;
        let counters = &self.status.counters;
        let mut table = Table::new([
            Column::fixed(""),
            Column::fixed("SENDER AND RECEIVER").right(),
            Column::fixed("DAEMON").right(),
        ]);
        let rows = [
            ("accepted", format::count(t.accepted), format::count(counters.accepted)),
            ("delivered", format::count(t.delivered), format::count(counters.delivered)),
            ("in the DLQ", format::count(t.refused), format::count(self.status.dlq.depth)),
            ("retried", format::count(t.retried), String::new()),
            ("duplicates dropped", format::count(t.duplicates), format::count(counters.duplicates)),
            ("delivered twice", format::count(t.repeated), String::new()),
            ("out of order", format::count(t.out_of_order), String::new()),
            ("lost", format::count(self.lost), String::new()),
        ];
        for (name, seen, counted) in rows {
            table.row([name.to_owned(), seen, counted]);
        }
        let verdict = match self.faults().as_slice() {
            [] => format!(
                "{} accepted = {} delivered + {} in the DLQ\n\
                 by the receiver's counts and by the daemon's counters, after {}.\n",
                format::count(t.accepted),
                format::count(t.delivered),
                format::count(self.dead),
                format::age(self.took)
            ),
            faults => format!("THE COUNTS DO NOT AGREE:\n  {}\n", faults.join("\n  ")),
        };
        format!("{}\n{verdict}", table.in_width(None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn good() -> Summary {
        Summary {
            events: 100,
            totals: Totals {
                answered: 105,
                accepted: 100,
                duplicates: 5,
                arrived: 110,
                delivered: 99,
                refused: 1,
                retried: 10,
                ..Totals::default()
            },
            lost: 0,
            dead: 1,
            status: api::filled(
                json!({"counters": {"accepted": 100, "duplicates": 5, "delivered": 99, "dead_lettered": 1},
                "queue": {"depth": 0}, "dlq": {"depth": 1}}),
            ),
            took: Duration::from_secs(12),
        }
    }

    #[test]
    fn good_sums_hold() {
        assert_eq!(good().faults(), Vec::<String>::new());
        let text = good().text();
        assert!(text.contains("100 accepted = 99 delivered + 1 in the DLQ"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn each_wrong_sum_is_found() {
        type Spoil = fn(&mut Summary);
        let spoils: [Spoil; 8] = [
            |s| s.lost = 1,
            |s| s.totals.out_of_order = 1,
            |s| s.totals.delivered = 98,
            |s| s.totals.duplicates = 4,
            |s| s.dead = 2,
            |s| s.totals.unknown = 1,
            |s| s.status.counters.delivered = 98,
            |s| s.status = api::Status::default(),
        ];
        for spoil in spoils {
            let mut summary = good();
            spoil(&mut summary);
            assert!(!summary.faults().is_empty(), "{summary:?}");
            assert!(summary.text().contains("DO NOT AGREE"));
        }
    }
}
