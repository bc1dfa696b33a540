//! Which conditions hold, and what is to be told of them. Pure: it takes the facts and `now`.
//!
//! ```text
//! quiet ──holds──> told ──holds no longer, for QUIET──> (all-clear) quiet
//!         └─ but not within `digest` of the last message of its kind: then it is told when that is over
//! ```
//! What can only happen and not last (a dead letter, a refusal, a damaged record) holds as long as more of it came within
//! [`QUIET`].

use crate::config::settings::{Alert, Condition};
use crate::store::Gap;
use crate::time::Timestamp;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// So long must a condition not hold until it is called off; what comes and goes is one alarm.
const QUIET: Duration = Duration::from_secs(60);

/// How things stand, as far as somebody can be woken for it.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub dead_lettered: u64,
    pub queue_depth: u64,
    pub oldest_age: Duration,
    /// Why intake is closed.
    pub closed: Option<&'static str>,
    /// Requests refused for no fault of the sender.
    pub refused: u64,
    pub damaged: u64,
    /// Dead letters beyond age or bytes, and those that were dropped for it.
    pub dlq_beyond: u64,
    /// Events forgotten before their time.
    pub forgotten_early: u64,
    /// Certificates in use: whose, and when they end.
    pub certificates: Vec<(String, Timestamp)>,
    pub disk_full_in: Option<Duration>,
    /// Destinations whose breaker is not closed.
    pub breakers: Vec<String>,
    /// The last time in which events could not be accepted.
    pub gap: Option<Gap>,
    /// When each source was last heard of.
    pub heard: BTreeMap<String, Timestamp>,
}

impl Facts {
    /// Certificates that end within a time, in words.
    fn ending(&self, within: Duration, now: Timestamp) -> Vec<String> {
        let soon = self.certificates.iter().filter(|(_, ends)| ends.since(now) < within);
        soon.map(|(of, ends)| format!("that of {of} ends at {ends}")).collect()
    }
}

/// What is told: JSON, with a `text` that chat tools show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    pub text: String,
    /// The condition, as it stands in the configuration.
    pub alert: String,
    /// `firing` or `resolved`.
    pub state: &'static str,
    pub at: String,
    pub since: String,
    /// How many, where it counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

#[derive(Debug)]
struct Alarm {
    condition: Condition,
    /// What the counter of the condition was when it was last told, or at the start.
    counted: u64,
    /// What it was at the last look.
    seen: u64,
    state: State,
    told_at: Option<Timestamp>,
}

#[derive(Debug)]
enum State {
    Quiet,
    /// It holds, or held until `last`; told, or still to be told.
    Holds {
        since: Timestamp,
        last: Timestamp,
        told: bool,
    },
}

/// The conditions of one `[[alert]]`.
#[derive(Debug)]
pub struct Watch {
    alarms: Vec<Alarm>,
    digest: Duration,
    began: Timestamp,
}

/// A condition's look at the facts.
struct Sight {
    holds: bool,
    /// Of what only happens: how often so far.
    counter: u64,
    words: String,
}

impl Watch {
    pub fn new(alert: &Alert, now: Timestamp) -> Self {
        let alarm = |condition: &Condition| Alarm {
            condition: *condition,
            counted: u64::MAX,
            seen: u64::MAX,
            state: State::Quiet,
            told_at: None,
        };
        Self { alarms: alert.on.iter().map(alarm).collect(), digest: alert.digest, began: now }
    }

    /// What is to be told now.
    pub fn look(&mut self, facts: &Facts, now: Timestamp) -> Vec<Message> {
        let (began, digest) = (self.began, self.digest);
        self.alarms.iter_mut().filter_map(|alarm| alarm.look(facts, now, began, digest)).collect()
    }
}

impl Alarm {
    fn look(&mut self, facts: &Facts, now: Timestamp, began: Timestamp, digest: Duration) -> Option<Message> {
        let mut sight = sight(self.condition, facts, now, began);
        if self.counted == u64::MAX {
            // what happened before the start was told before the start
            (self.counted, self.seen) = (sight.counter, sight.counter);
        }
        sight.holds |= sight.counter > self.seen;
        self.seen = self.seen.max(sight.counter);
        match &mut self.state {
            State::Quiet if sight.holds => self.state = State::Holds { since: now, last: now, told: false },
            State::Holds { last, .. } if sight.holds => *last = now,
            _ => {}
        }
        let State::Holds { since, last, told } = &mut self.state else { return None };
        let (since, over) = (*since, now.since(*last) >= QUIET);
        let happened = sight.counter - self.counted;
        let due = self.told_at.is_none_or(|at| now.since(at) >= digest);
        if due && (!*told || happened > 0) {
            *told = true;
            self.told_at = Some(now);
            self.counted = sight.counter;
            return Some(message(self.condition, "firing", &sight.words, happened, since, now));
        }
        if !over {
            return None;
        }
        let was_told = *told;
        self.state = State::Quiet;
        was_told.then(|| message(self.condition, "resolved", "is over", 0, since, now))
    }
}

fn message(
    condition: Condition,
    state: &'static str,
    words: &str,
    happened: u64,
    since: Timestamp,
    now: Timestamp,
) -> Message {
    let count = (happened > 0).then_some(happened);
    let many = count.map_or_else(String::new, |n| format!("{n} "));
    let lasted = humantime::format_duration(Duration::from_secs(now.since(since).as_secs()));
    let text = match state {
        "resolved" => format!("holdline: all clear: {condition} {words} (it lasted {lasted})"),
        _ => format!("holdline: {condition}: {many}{words}"),
    };
    Message { text, alert: condition.to_string(), state, at: now.to_string(), since: since.to_string(), count }
}

fn sight(condition: Condition, facts: &Facts, now: Timestamp, began: Timestamp) -> Sight {
    let lasts = |holds: bool, words: String| Sight { holds, counter: 0, words };
    let happens = |counter: u64, words: &str| Sight { holds: false, counter, words: words.to_owned() };
    let whole = |d: Duration| humantime::format_duration(Duration::from_secs(d.as_secs()));
    match condition {
        Condition::DeadLetter => happens(facts.dead_lettered, "dead-lettered; see `holdline dlq list`"),
        Condition::IntakeRefused => happens(facts.refused, "requests refused; see `holdline gaps`"),
        Condition::Damaged => happens(facts.damaged, "records did not verify and were set aside; see the log"),
        Condition::DlqBounds => happens(facts.dlq_beyond, "dead letters beyond [dlq] retention or max_bytes"),
        Condition::HistoryFull => {
            happens(facts.forgotten_early, "events forgotten before their time: history.max_bytes is reached")
        }
        Condition::Certificate(within) => {
            let ending = facts.ending(within, now);
            lasts(!ending.is_empty(), format!("{}; renew it", ending.join(", ")))
        }
        Condition::DiskLow => {
            let holds = facts.closed == Some("disk_low");
            lasts(holds, "the disk is nearly full and intake is closed; deliveries go on".to_owned())
        }
        Condition::BreakerOpen => {
            let open = facts.breakers.join(", ");
            lasts(!facts.breakers.is_empty(), format!("{open}; see `holdline explain --destination NAME`"))
        }
        Condition::QueueDepth(above) => {
            lasts(facts.queue_depth > above, format!("{} deliveries wait; see `holdline status`", facts.queue_depth))
        }
        Condition::OldestAge(above) => {
            let age = facts.oldest_age;
            lasts(age > above, format!("the oldest has waited for {}; see `holdline status`", whole(age)))
        }
        Condition::DiskFull(within) => {
            let full = facts.disk_full_in.unwrap_or(Duration::MAX);
            lasts(full < within, format!("at this pace the disk is full in {}", whole(full.min(within))))
        }
        Condition::Gap(above) => {
            let holds = |gap: &&Gap| gap.length(now) > above && now.since(gap.until.min(now)) < QUIET;
            let gap = facts.gap.as_ref();
            lasts(gap.filter(holds).is_some(), gap.map(reconcile).unwrap_or_default())
        }
        Condition::Silence(above) => {
            let silent = facts.heard.iter().filter(|(_, at)| now.since((**at).max(began)) > above);
            let silent: Vec<&str> = silent.map(|(name, _)| name.as_str()).collect();
            lasts(!silent.is_empty(), format!("nothing has come from {}", silent.join(", ")))
        }
    }
}

/// What a gap means to those who sent in it.
fn reconcile(gap: &Gap) -> String {
    let until = if gap.until == Timestamp::NEVER { "now".to_owned() } else { gap.until.to_string() };
    format!(
        "no event could be accepted from {} until {until} ({}). EventBridge sends again for 24 h, Open Messaging gives up \
         after 85 s: reconcile these minutes with its source; see `holdline gaps`",
        gap.from, gap.reason
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Timestamp {
        Timestamp(1_000_000 + seconds * 1000)
    }

    fn watch(on: &[Condition]) -> Watch {
        let to = crate::config::settings::AlertTo::Command(vec!["true".to_owned()]);
        Watch::new(&Alert { to, on: on.to_vec(), digest: DIGEST }, at(0))
    }

    fn gap(from: Timestamp, until: Timestamp) -> Gap {
        Gap { from, until, reason: "crash".to_owned(), refused: 0 }
    }

    fn told(watch: &mut Watch, facts: &Facts, seconds: u64) -> Vec<(&'static str, Option<u64>)> {
        watch.look(facts, at(seconds)).into_iter().map(|m| (m.state, m.count)).collect()
    }

    #[test]
    fn what_happens_is_told_at_once_then_by_digest_and_called_off() {
        let mut watch = watch(&[Condition::DeadLetter]);
        let dead = |n| Facts { dead_lettered: n, ..Facts::default() };
        assert_eq!(told(&mut watch, &dead(7), 0), [], "those were there at the start");
        assert_eq!(told(&mut watch, &dead(8), 1), [("firing", Some(1))]);
        assert_eq!(told(&mut watch, &dead(20), 2), [], "within the digest");
        assert_eq!(told(&mut watch, &dead(25), 60), []);
        assert_eq!(told(&mut watch, &dead(25), 61), [("firing", Some(17))]);
        assert_eq!(told(&mut watch, &dead(25), 119), []);
        assert_eq!(told(&mut watch, &dead(25), 121), [("resolved", None)]);
        assert_eq!(told(&mut watch, &dead(25), 500), []);
        assert_eq!(told(&mut watch, &dead(26), 501), [("firing", Some(1))]);
    }

    #[test]
    fn what_lasts_is_told_once_and_called_off_when_it_stays_away() {
        let mut watch = watch(&[Condition::QueueDepth(100)]);
        let depth = |n| Facts { queue_depth: n, ..Facts::default() };
        for (seconds, n, wanted) in [
            (0, 100, vec![]),
            (1, 101, vec![("firing", None)]),
            (2, 500, vec![]),
            (200, 500, vec![]),
            (201, 5, vec![]),
            (230, 500, vec![]),
            (231, 5, vec![]),
            (291, 5, vec![("resolved", None)]),
            (292, 200, vec![("firing", None)]),
        ] {
            assert_eq!(told(&mut watch, &depth(n), seconds), wanted, "{seconds}");
        }
    }

    #[test]
    fn an_alarm_that_flaps_makes_one_message_a_digest() {
        let mut watch = watch(&[Condition::OldestAge(Duration::from_secs(5))]);
        let age = |s| Facts { oldest_age: Duration::from_secs(s), ..Facts::default() };
        let all: Vec<_> =
            (0..3600u64).flat_map(|s| told(&mut watch, &age(if s % 2 == 0 { 9 } else { 0 }), s)).collect();
        assert_eq!(all, [("firing", None)]);
    }

    #[test]
    fn each_condition_holds_when_it_should() {
        let hour = Duration::from_secs(3600);
        let heard = BTreeMap::from([("genesys".to_owned(), at(0)), ("other".to_owned(), at(4000))]);
        for (condition, facts, words) in [
            (Condition::DiskLow, Facts { closed: Some("disk_low"), ..Facts::default() }, Some("intake is closed")),
            (Condition::DiskLow, Facts { closed: Some("draining"), ..Facts::default() }, None),
            (
                Condition::Gap(Duration::from_secs(30)),
                Facts { gap: Some(gap(at(4160), at(4195))), ..Facts::default() },
                Some("85 s"),
            ),
            (
                Condition::Gap(Duration::from_secs(30)),
                Facts { gap: Some(gap(at(4170), at(4195))), ..Facts::default() },
                None,
            ),
            (Condition::BreakerOpen, Facts { breakers: vec!["crm".to_owned()], ..Facts::default() }, Some("crm;")),
            (Condition::BreakerOpen, Facts::default(), None),
            (
                Condition::Certificate(hour),
                Facts { certificates: vec![("crm".to_owned(), at(4200 + 3599))], ..Facts::default() },
                Some("that of crm ends at"),
            ),
            (
                Condition::Certificate(hour),
                Facts { certificates: vec![("crm".to_owned(), at(4200 + 3600))], ..Facts::default() },
                None,
            ),
            (
                Condition::Certificate(hour),
                Facts { certificates: vec![("crm".to_owned(), at(0))], ..Facts::default() },
                Some("that of crm ends at"),
            ),
            (Condition::DiskFull(hour), Facts { disk_full_in: Some(hour / 2), ..Facts::default() }, Some("30m")),
            (Condition::DiskFull(hour), Facts { disk_full_in: Some(hour * 2), ..Facts::default() }, None),
            (Condition::DiskFull(hour), Facts::default(), None),
            (Condition::Silence(hour), Facts { heard: heard.clone(), ..Facts::default() }, Some("come from genesys")),
            (Condition::Silence(hour * 2), Facts { heard, ..Facts::default() }, None),
        ] {
            let messages = watch(&[condition]).look(&facts, at(4200));
            assert_eq!(messages.first().map(|m| m.text.contains(words.unwrap_or_default())), words.map(|_| true));
        }
    }
}
