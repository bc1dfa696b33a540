//! Alerts as used: who is told, and of what.

use crate::config::url::Url;
use std::time::Duration;

/// Somebody who wants to be told when something is wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    pub to: AlertTo,
    pub on: Vec<Condition>,
    /// At most one message of a kind in this time.
    pub digest: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub enum AlertTo {
    Webhook(Url),
    /// Program and arguments; the message comes on standard input.
    Command(Vec<String>),
}

/// What is worth telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    DeadLetter,
    BreakerOpen,
    DiskLow,
    IntakeRefused,
    Damaged,
    DlqOverLimit,
    /// Something was forgotten before its time.
    HistoryFull,
    /// A destination wished to be left alone for longer than `retry_after_max`, and the wish was cut to that.
    RetryAfterCut,
    /// A certificate in use ends within this time.
    Certificate(Duration),
    QueueDepth(u64),
    OldestAge(Duration),
    Silence(Duration),
    DiskFull(Duration),
    /// Events could not be accepted for longer.
    Outage(Duration),
}

impl Condition {
    /// Those that are one word.
    pub const PLAIN: [Self; 8] = [
        Self::DeadLetter,
        Self::BreakerOpen,
        Self::DiskLow,
        Self::IntakeRefused,
        Self::Damaged,
        Self::DlqOverLimit,
        Self::HistoryFull,
        Self::RetryAfterCut,
    ];
    /// What is meant by `certificate` alone: 14 days.
    pub const CERTIFICATE: Self = Self::Certificate(Duration::from_secs(14 * 86_400));
}

/// As it stands in the configuration.
impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let time = |d: &Duration| humantime::format_duration(*d).to_string();
        match self {
            Self::DeadLetter => f.write_str("dead_letter"),
            Self::BreakerOpen => f.write_str("breaker_open"),
            Self::DiskLow => f.write_str("disk_low"),
            Self::IntakeRefused => f.write_str("intake_refused"),
            Self::Damaged => f.write_str("damaged"),
            Self::DlqOverLimit => f.write_str("dlq_over_limit"),
            Self::HistoryFull => f.write_str("history_full"),
            Self::RetryAfterCut => f.write_str("retry_after_cut"),
            Self::Certificate(d) => write!(f, "certificate < {}", time(d)),
            Self::QueueDepth(n) => write!(f, "queue_depth > {n}"),
            Self::OldestAge(d) => write!(f, "oldest_age > {}", time(d)),
            Self::Silence(d) => write!(f, "silence > {}", time(d)),
            Self::DiskFull(d) => write!(f, "disk_full < {}", time(d)),
            Self::Outage(d) => write!(f, "outage > {}", time(d)),
        }
    }
}
