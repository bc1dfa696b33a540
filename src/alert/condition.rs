//! Which subjects each condition holds for, and the text of its messages. Pure functions.
//!
//! *Subjects* are destinations, sources or certificates, by name, or the daemon as a whole.

use crate::config::settings::Condition;
use crate::store::Outage;
use crate::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// An alert resolves when its condition has not held for this long; a condition that flaps is one alert.
pub const RESOLVE_AFTER: Duration = Duration::from_secs(60);
/// The subject of a condition that concerns the whole daemon.
pub const DAEMON: &str = "";
/// Maximum number of commands in one message.
const COMMANDS_MAX: usize = 3;

/// The state of the daemon that alerts depend on.
#[derive(Clone, Debug, Default)]
pub struct AlertInputs {
    /// Deliveries that became dead letters since the store was created.
    pub dead_lettered: u64,
    /// Current number of dead letters.
    pub dead: u64,
    pub queue_depth: u64,
    pub oldest_age: Duration,
    /// Why intake is closed; none while it is open.
    pub closed: Option<&'static str>,
    /// No new attempt starts, because less than half of the ballast is left and nothing else is free.
    pub sending_stopped: bool,
    /// Requests refused for no fault of the sender since the start, by code.
    pub refused: BTreeMap<String, u64>,
    /// Damaged records since the store was created.
    pub damaged: u64,
    /// Dead letters over `[dlq]` `retention` or `max_bytes`.
    pub dlq_over_limit: u64,
    /// Dead letters dropped for that reason since the start.
    pub dlq_dropped: u64,
    /// Events that were evicted from the history before `retention` since the start.
    pub forgotten_early: u64,
    /// `Retry-After` values that were cut to `retry_after_max` since the start, by destination.
    pub clamped_retry_after: BTreeMap<String, u64>,
    /// Certificates in use: the owner and the end of validity.
    pub certificates: Vec<(String, Timestamp)>,
    pub disk_full_in: Option<Duration>,
    /// There are enough samples of the disk for a forecast.
    pub disk_forecast_known: bool,
    /// Destinations whose breaker is not closed, and why.
    pub breakers: BTreeMap<String, String>,
    /// The last outage: a time in which events could not be accepted.
    pub last_outage: Option<Outage>,
    /// When each source last sent a request; zero if it has not since the start.
    pub last_received: BTreeMap<String, Timestamp>,
}

/// What a condition finds in its inputs.
#[derive(Debug, Default)]
pub struct Observation {
    /// The subjects for which it holds, each with its description.
    pub holds: BTreeMap<String, String>,
    /// For a condition that counts occurrences: the count so far, by subject.
    pub counters: BTreeMap<String, u64>,
}

impl Observation {
    fn daemon(holds: bool) -> Self {
        Self::subjects(holds.then(|| (DAEMON.to_owned(), String::new())))
    }

    fn subjects(holds: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { holds: holds.into_iter().collect(), counters: BTreeMap::new() }
    }

    fn counter(counter: u64) -> Self {
        Self { counters: [(DAEMON.to_owned(), counter)].into(), holds: BTreeMap::new() }
    }

    /// `started` is when the daemon began to observe; `notified` holds the subjects whose alert was sent and has not
    /// resolved.
    pub fn take(
        condition: Condition,
        inputs: &AlertInputs,
        now: Timestamp,
        started: Timestamp,
        notified: &BTreeSet<String>,
    ) -> Self {
        match condition {
            Condition::DeadLetter => Self::counter(inputs.dead_lettered),
            Condition::Damaged => Self::counter(inputs.damaged),
            Condition::HistoryFull => Self::counter(inputs.forgotten_early),
            Condition::IntakeRefused => Self { counters: inputs.refused.clone(), ..Self::default() },
            Condition::RetryAfterCut => Self { counters: inputs.clamped_retry_after.clone(), ..Self::default() },
            Condition::DlqOverLimit => {
                Self { holds: Self::daemon(inputs.dlq_over_limit > 0).holds, ..Self::counter(inputs.dlq_dropped) }
            }
            Condition::Certificate(within) => {
                let soon = inputs.certificates.iter().filter(|(_, ends)| ends.since(now) < within);
                let described = |of: &str, ends| format!("the certificate of {of} ends at {ends}");
                Self::subjects(soon.map(|(of, ends)| (of.clone(), described(of, ends))))
            }
            Condition::DiskLow => Self::daemon(inputs.closed == Some("disk_low")),
            Condition::BreakerOpen => {
                let described =
                    |name: &str, why: &str| if why.is_empty() { name.to_owned() } else { format!("{name} ({why})") };
                Self::subjects(inputs.breakers.iter().map(|(name, why)| (name.clone(), described(name, why))))
            }
            Condition::QueueDepth(above) => Self::daemon(inputs.queue_depth > above),
            Condition::OldestAge(above) => Self::daemon(inputs.oldest_age > above),
            Condition::DiskFull(within) => {
                // there is no forecast after a restart yet, so nothing resolves
                let unknown = !inputs.disk_forecast_known && notified.contains(DAEMON);
                Self::daemon(unknown || inputs.disk_full_in.is_some_and(|full| full < within))
            }
            Condition::Outage(above) => {
                let holds =
                    |outage: &&Outage| outage.length(now) > above && now.since(outage.until.min(now)) < RESOLVE_AFTER;
                Self::daemon(inputs.last_outage.as_ref().filter(holds).is_some())
            }
            Condition::Silence(above) => {
                let is_silent = |(name, at): &(&String, &Timestamp)| {
                    // a source that was idle before a restart stays idle until it sends
                    let still = **at == Timestamp::ZERO && notified.contains(*name);
                    still || now.since((**at).max(started)) > above
                };
                let names = inputs.last_received.iter().filter(is_silent).map(|(name, _)| name);
                Self::subjects(names.map(|name| (name.clone(), name.clone())))
            }
        }
    }
}

/// What a message about a condition reports.
#[derive(Debug, Default)]
pub struct Changes {
    /// The subjects for which it holds now, each with its description.
    pub all: Vec<(String, String)>,
    /// Those among them that no message has reported yet.
    pub new: Vec<String>,
    /// Subjects for which it no longer holds.
    pub over: Vec<String>,
    /// Occurrences since the last message, by subject.
    pub happened: BTreeMap<String, u64>,
}

impl Changes {
    pub fn count(&self) -> u64 {
        self.happened.values().sum()
    }

    /// All descriptions, and which of the subjects are new.
    fn list(&self) -> String {
        let all: Vec<&str> = self.all.iter().map(|(_, description)| description.as_str()).collect();
        let all = all.join(", ");
        if self.new.is_empty() || self.new.len() == self.all.len() {
            return all;
        }
        format!("{all} (new: {})", self.new.join(", "))
    }

    /// The total number of occurrences, and the number for each subject.
    fn times(&self, what: &str) -> String {
        let by_name: Vec<String> =
            self.happened.iter().filter(|(name, _)| *name != DAEMON).map(|(name, n)| format!("{name} {n}")).collect();
        let by_name = if by_name.is_empty() { String::new() } else { format!(" ({})", by_name.join(", ")) };
        format!("{} {what}{by_name}", self.count())
    }

    /// The commands that explain each new subject, or all subjects if none is new.
    fn explain(&self) -> String {
        let all = self.all.iter().map(|(name, _)| name);
        let names: Vec<&String> = if self.new.is_empty() { all.collect() } else { self.new.iter().collect() };
        let commands = names.into_iter().take(COMMANDS_MAX);
        commands.map(|name| format!("`holdline explain --destination {name}`")).collect::<Vec<_>>().join(", ")
    }
}

fn seconds(d: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(d.as_secs()))
}

/// The text of a message that a condition holds, or that something occurred.
pub fn firing(condition: Condition, inputs: &AlertInputs, changes: &Changes) -> String {
    let words = match condition {
        Condition::DeadLetter => changes.times("dead-lettered; see `holdline dlq list`"),
        Condition::IntakeRefused => format!("{}; see `holdline outages`", changes.times("requests refused")),
        Condition::RetryAfterCut => format!(
            "{}: they are longer than retry.retry_after_max, so holdline sends again sooner than it was asked to",
            changes.times("Retry-After values were shortened")
        ),
        Condition::Damaged => changes.times("damaged records were set aside; see the log"),
        Condition::DlqOverLimit if changes.count() > 0 => {
            changes.times("dead letters over [dlq] retention or max_bytes were dropped, as dlq.evict says")
        }
        Condition::DlqOverLimit => format!(
            "{} dead letters are over [dlq] retention or max_bytes; redrive or purge them, or set dlq.evict",
            inputs.dlq_over_limit
        ),
        Condition::HistoryFull => {
            changes.times("events left the history early, because history.max_bytes or max_memory is reached")
        }
        Condition::Certificate(_) => format!("{}; renew it", changes.list()),
        Condition::DiskLow => disk_low(inputs),
        Condition::BreakerOpen => format!("{}; see {}", changes.list(), changes.explain()),
        Condition::QueueDepth(_) => format!("{} deliveries wait; see `holdline status`", inputs.queue_depth),
        Condition::OldestAge(_) => {
            format!("the oldest delivery has waited for {}; see `holdline status`", seconds(inputs.oldest_age))
        }
        Condition::DiskFull(within) => {
            let full = inputs.disk_full_in.unwrap_or(within).min(within);
            format!("at this rate free space is down to intake.disk_reserve in {}, and intake closes", seconds(full))
        }
        Condition::Outage(_) => inputs.last_outage.as_ref().map(reconcile).unwrap_or_default(),
        Condition::Silence(_) => format!("no request has come from {}", changes.list()),
    };
    let over = if changes.over.is_empty() { String::new() } else { format!("; over: {}", changes.over.join(", ")) };
    format!("holdline: {condition}: {words}{over}")
}

/// The text of a message that a condition no longer holds, after `lasted`.
pub fn resolved(condition: Condition, changes: &Changes, lasted: Duration) -> String {
    let names: Vec<&str> = changes.over.iter().map(String::as_str).filter(|name| *name != DAEMON).collect();
    let of = if names.is_empty() { String::new() } else { format!(" for {}", names.join(", ")) };
    let lasted = match condition {
        // its first message gave the end
        Condition::Outage(_) => String::new(),
        _ => format!(" (it lasted {})", seconds(lasted)),
    };
    format!("holdline: all clear: {condition} is over{of}{lasted}")
}

/// The text of a message that something has not occurred again. An occurrence cannot be undone, so the text does not
/// call it resolved.
pub fn quiet(condition: Condition, inputs: &AlertInputs) -> String {
    let rest = match condition {
        Condition::DeadLetter if inputs.dead == 0 => "; none is in the queue".to_owned(),
        Condition::DeadLetter => format!("; {} in the queue, see `holdline dlq list`", inputs.dead),
        Condition::IntakeRefused => "; `holdline outages` lists what was refused".to_owned(),
        Condition::Damaged => "; what was set aside stays there".to_owned(),
        _ => String::new(),
    };
    let what = match condition {
        Condition::DeadLetter => "dead letters",
        Condition::IntakeRefused => "refusals",
        Condition::Damaged => "damaged records",
        Condition::DlqOverLimit => "dead letters dropped",
        Condition::HistoryFull => "events removed early",
        Condition::RetryAfterCut => "Retry-After values shortened",
        _ => "of it",
    };
    format!("holdline: {condition}: no more {what} for a minute{rest}")
}

fn disk_low(inputs: &AlertInputs) -> String {
    let sending = if inputs.sending_stopped {
        "less than half of store.ballast is left, so nothing new is sent either"
    } else {
        "events that are queued are still delivered, until less than half of store.ballast is left"
    };
    format!("free disk space is below intake.disk_reserve and intake is closed; {sending}. Free some disk")
}

/// What an outage means for the senders.
fn reconcile(outage: &Outage) -> String {
    let until = if outage.until == Timestamp::NEVER { "now".to_owned() } else { outage.until.to_string() };
    format!(
        "no event could be accepted from {} until {until} ({}). EventBridge sends again for 24 h, Open Messaging gives up \
         after 85 s: compare this time with the source's own records; see `holdline outages`",
        outage.from, outage.reason
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_low_disk_says_whether_anything_is_sent() {
        let text = |sending_stopped| {
            let inputs = AlertInputs { sending_stopped, ..AlertInputs::default() };
            firing(Condition::DiskLow, &inputs, &Changes::default())
        };
        assert!(text(true).contains("nothing new is sent"), "{}", text(true));
        assert!(text(false).contains("still delivered, until less than half"), "{}", text(false));
    }

    #[test]
    fn an_open_breaker_names_the_command_for_each_new_destination() {
        let all = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), (*name).to_owned())).collect();
        let text = |changes: &Changes| firing(Condition::BreakerOpen, &AlertInputs::default(), changes);
        let one = text(&Changes { all: all(&["crm", "wall"]), new: vec!["wall".to_owned()], ..Changes::default() });
        assert!(one.ends_with("see `holdline explain --destination wall`"), "{one}");
        let many = text(&Changes { all: all(&["a", "b", "c", "d"]), ..Changes::default() });
        assert!(
            many.ends_with("--destination a`, `holdline explain --destination b`, `holdline explain --destination c`")
        );
    }
}
