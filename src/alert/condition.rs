//! What each condition sees in the facts, and the words for it. Pure.

use super::evaluator::{AlertInputs, QUIET};
use crate::config::settings::Condition;
use crate::store::Gap;
use crate::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What a condition of the whole daemon holds of.
pub const WHOLE: &str = "";

/// A condition's look at the facts.
#[derive(Debug, Default)]
pub struct Observation {
    /// What it holds of, by name, each with what is to be said of it.
    pub holds: BTreeMap<String, String>,
    /// Of what only happens: how often so far, by name.
    pub counters: BTreeMap<String, u64>,
}

impl Observation {
    fn lasts(holds: bool) -> Self {
        Self::of(holds.then(|| (WHOLE.to_owned(), String::new())))
    }

    fn of(holds: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { holds: holds.into_iter().collect(), counters: BTreeMap::new() }
    }

    fn named<'a>(names: impl Iterator<Item = &'a String>) -> Self {
        Self::of(names.map(|name| (name.clone(), name.clone())))
    }

    fn happens(counter: u64) -> Self {
        Self { counters: [(WHOLE.to_owned(), counter)].into(), holds: BTreeMap::new() }
    }

    /// `began` is when the looking began; `told` holds what the condition was told to hold of.
    pub fn take(
        condition: Condition,
        facts: &AlertInputs,
        now: Timestamp,
        began: Timestamp,
        told: &BTreeSet<String>,
    ) -> Self {
        match condition {
            Condition::DeadLetter => Self::happens(facts.dead_lettered),
            Condition::Damaged => Self::happens(facts.damaged),
            Condition::HistoryFull => Self::happens(facts.forgotten_early),
            Condition::IntakeRefused => Self { counters: facts.refused.clone(), ..Self::default() },
            Condition::RetryAfterCut => Self { counters: facts.cuts.clone(), ..Self::default() },
            Condition::DlqOverLimit => {
                Self { holds: Self::lasts(facts.dlq_beyond > 0).holds, ..Self::happens(facts.dlq_dropped) }
            }
            Condition::Certificate(within) => {
                let soon = facts.certificates.iter().filter(|(_, ends)| ends.since(now) < within);
                Self::of(soon.map(|(of, ends)| (of.clone(), format!("that of {of} ends at {ends}"))))
            }
            Condition::DiskLow => Self::lasts(facts.closed == Some("disk_low")),
            Condition::BreakerOpen => {
                let said =
                    |name: &str, why: &str| if why.is_empty() { name.to_owned() } else { format!("{name} ({why})") };
                Self::of(facts.breakers.iter().map(|(name, why)| (name.clone(), said(name, why))))
            }
            Condition::QueueDepth(above) => Self::lasts(facts.queue_depth > above),
            Condition::OldestAge(above) => Self::lasts(facts.oldest_age > above),
            Condition::DiskFull(within) => {
                // what is not known yet calls nothing off
                let unknown = !facts.disk_foreseen && told.contains(WHOLE);
                Self::lasts(unknown || facts.disk_full_in.is_some_and(|full| full < within))
            }
            Condition::Outage(above) => {
                let holds = |gap: &&Gap| gap.length(now) > above && now.since(gap.until.min(now)) < QUIET;
                Self::lasts(facts.gap.as_ref().filter(holds).is_some())
            }
            Condition::Silence(above) => {
                let silent = |(name, at): &(&String, &Timestamp)| {
                    // of what was silent before the start nothing new is known until it is heard
                    let still = **at == Timestamp::ZERO && told.contains(*name);
                    still || now.since((**at).max(began)) > above
                };
                Self::named(facts.heard.iter().filter(silent).map(|(name, _)| name))
            }
        }
    }
}

/// What is to be told of a condition.
#[derive(Debug, Default)]
pub struct News {
    /// What it holds of now: names, and what is said of each.
    pub all: Vec<(String, String)>,
    /// Names of which it has not been told.
    pub new: Vec<String>,
    /// Names of which it holds no longer.
    pub over: Vec<String>,
    /// What happened since it was last told, by name.
    pub happened: BTreeMap<String, u64>,
}

impl News {
    pub fn count(&self) -> u64 {
        self.happened.values().sum()
    }

    /// What it holds of, with what is new among it.
    fn list(&self) -> String {
        let all: Vec<&str> = self.all.iter().map(|(_, said)| said.as_str()).collect();
        let all = all.join(", ");
        if self.new.is_empty() || self.new.len() == self.all.len() {
            return all;
        }
        format!("{all} (new: {})", self.new.join(", "))
    }

    /// How often it happened: in all, and by name.
    fn times(&self, what: &str) -> String {
        let by_name: Vec<String> =
            self.happened.iter().filter(|(name, _)| *name != WHOLE).map(|(name, n)| format!("{name} {n}")).collect();
        let by_name = if by_name.is_empty() { String::new() } else { format!(" ({})", by_name.join(", ")) };
        format!("{} {what}{by_name}", self.count())
    }
}

fn whole(d: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(d.as_secs()))
}

/// That a condition holds, or that something happened.
pub fn firing(condition: Condition, facts: &AlertInputs, news: &News) -> String {
    let words = match condition {
        Condition::DeadLetter => news.times("dead-lettered; see `holdline dlq list`"),
        Condition::IntakeRefused => format!("{}; see `holdline outages`", news.times("requests refused")),
        Condition::RetryAfterCut => format!(
            "{}: they asked for longer than retry.retry_after_max, and are called again sooner than they wish",
            news.times("wishes of Retry-After were cut")
        ),
        Condition::Damaged => news.times("records did not verify and were set aside; see the log"),
        Condition::DlqOverLimit if news.count() > 0 => {
            news.times("dead letters beyond [dlq] retention or max_bytes were dropped, as dlq.evict says")
        }
        Condition::DlqOverLimit => format!(
            "{} dead letters lie beyond [dlq] retention or max_bytes; redrive or purge them, or set dlq.evict",
            facts.dlq_beyond
        ),
        Condition::HistoryFull => news.times("events forgotten before their time: history.max_bytes is reached"),
        Condition::Certificate(_) => format!("{}; renew it", news.list()),
        Condition::DiskLow => "the disk is nearly full and intake is closed; deliveries go on".to_owned(),
        Condition::BreakerOpen => format!("{}; see `holdline explain --destination NAME`", news.list()),
        Condition::QueueDepth(_) => format!("{} deliveries wait; see `holdline status`", facts.queue_depth),
        Condition::OldestAge(_) => {
            format!("the oldest has waited for {}; see `holdline status`", whole(facts.oldest_age))
        }
        Condition::DiskFull(within) => {
            let full = facts.disk_full_in.unwrap_or(within).min(within);
            format!("at this pace the disk is full up to intake.disk_reserve in {}, and intake closes", whole(full))
        }
        Condition::Outage(_) => facts.gap.as_ref().map(reconcile).unwrap_or_default(),
        Condition::Silence(_) => format!("nothing has come from {}", news.list()),
    };
    let over = if news.over.is_empty() { String::new() } else { format!("; over: {}", news.over.join(", ")) };
    format!("holdline: {condition}: {words}{over}")
}

/// That it no longer holds, after `lasted`.
pub fn all_clear(condition: Condition, news: &News, lasted: Duration) -> String {
    let names: Vec<&str> = news.over.iter().map(String::as_str).filter(|name| *name != WHOLE).collect();
    let of = if names.is_empty() { String::new() } else { format!(" for {}", names.join(", ")) };
    let lasted = match condition {
        // it was told when it was over
        Condition::Outage(_) => String::new(),
        _ => format!(" (it lasted {})", whole(lasted)),
    };
    format!("holdline: all clear: {condition} is over{of}{lasted}")
}

/// That it has not happened again. What has happened is not undone by that, and is not said to be over.
pub fn calm(condition: Condition, facts: &AlertInputs) -> String {
    let rest = match condition {
        Condition::DeadLetter if facts.dead == 0 => "; none is in the queue".to_owned(),
        Condition::DeadLetter => format!("; {} in the queue, see `holdline dlq list`", facts.dead),
        Condition::IntakeRefused => "; `holdline outages` tells what was refused".to_owned(),
        Condition::Damaged => "; what was set aside stays so".to_owned(),
        _ => String::new(),
    };
    let what = match condition {
        Condition::DeadLetter => "dead letters",
        Condition::IntakeRefused => "refusals",
        Condition::Damaged => "damaged records",
        Condition::DlqOverLimit => "dead letters dropped",
        Condition::HistoryFull => "events forgotten early",
        Condition::RetryAfterCut => "wishes cut",
        _ => "of it",
    };
    format!("holdline: {condition}: no more {what} for a minute{rest}")
}

/// What a gap means to those who sent in it.
fn reconcile(gap: &Gap) -> String {
    let until = if gap.until == Timestamp::NEVER { "now".to_owned() } else { gap.until.to_string() };
    format!(
        "no event could be accepted from {} until {until} ({}). EventBridge sends again for 24 h, Open Messaging gives up \
         after 85 s: reconcile these minutes with its source; see `holdline outages`",
        gap.from, gap.reason
    )
}
