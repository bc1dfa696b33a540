//! Decides which alerts fire and resolve, and makes their messages. Pure: it takes the inputs and `now`.
//!
//! A condition holds for one subject or for several, each by its name:
//! ```text
//! inactive ──holds──> active, notified ──holds no longer, for RESOLVE_AFTER──> inactive, with a message that it resolved
//!             └─ but not within `digest` of the last message of this condition: then the message waits
//! ```
//! An occurrence without duration (a dead letter, a refusal, a damaged record) is active as long as more of them come
//! within [`RESOLVE_AFTER`]; the message then says that no more came.

use super::condition::{self, AlertInputs, Changes, Observation, RESOLVE_AFTER};
use crate::config::settings::{Alert, Condition};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Firing,
    Resolved,
}

impl State {
    pub fn word(self) -> &'static str {
        match self {
            Self::Firing => "firing",
            Self::Resolved => "resolved",
        }
    }
}

/// The message sent: JSON, with a `text` that chat tools display.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub text: String,
    /// The condition, as the configuration writes it.
    pub alert: String,
    pub state: State,
    pub at: String,
    pub since: String,
    /// The number of occurrences, for a condition that counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// The subjects for which it holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Those among them that no earlier message reported.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub new: Vec<String>,
    /// Subjects for which it holds no longer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub over: Vec<String>,
}

/// An active condition of one subject. Older names are kept for its fields on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ActiveAlert {
    since: Timestamp,
    /// When it was last observed to hold.
    #[serde(rename = "last")]
    last_seen: Timestamp,
    /// A message has reported it.
    #[serde(rename = "told")]
    notified: bool,
    /// It is a state; otherwise an occurrence.
    lasting: bool,
}

impl ActiveAlert {
    fn is_past(&self, now: Timestamp) -> bool {
        now.since(self.last_seen) >= RESOLVE_AFTER
    }
}

/// What is kept of a condition between evaluations, also across restarts. Older names are kept for its fields on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleState {
    /// By subject.
    #[serde(rename = "spells")]
    active: BTreeMap<String, ActiveAlert>,
    /// The counters at the last evaluation; none before the first.
    #[serde(rename = "seen")]
    counters: Option<BTreeMap<String, u64>>,
    /// Occurrences that no message has reported.
    #[serde(rename = "owed")]
    pending: BTreeMap<String, u64>,
    #[serde(rename = "told_at")]
    notified_at: Option<Timestamp>,
}

#[derive(Debug)]
struct Rule {
    condition: Condition,
    state: RuleState,
}

/// The conditions of one `[[alert]]`.
#[derive(Debug)]
pub struct Evaluator {
    rules: Vec<Rule>,
    digest: Duration,
    started: Timestamp,
}

impl Evaluator {
    /// `saved` is the state of an earlier evaluator, by the condition as the configuration writes it.
    pub fn new(alert: &Alert, mut saved: BTreeMap<String, RuleState>, now: Timestamp) -> Self {
        let mut rules: Vec<Rule> = Vec::new();
        for condition in &alert.on {
            if rules.iter().all(|rule| rule.condition != *condition) {
                let state = saved.remove(&condition.to_string()).unwrap_or_default().resumed(*condition, now);
                rules.push(Rule { condition: *condition, state });
            }
        }
        Self { rules, digest: alert.digest, started: now }
    }

    /// The messages to send now.
    pub fn evaluate(&mut self, inputs: &AlertInputs, now: Timestamp) -> Vec<Message> {
        let (started, digest) = (self.started, self.digest);
        self.rules.iter_mut().filter_map(|rule| rule.evaluate(inputs, now, started, digest)).collect()
    }

    /// The state for the evaluator of the next process.
    pub fn state(&self) -> BTreeMap<String, RuleState> {
        self.rules.iter().map(|rule| (rule.condition.to_string(), rule.state.clone())).collect()
    }
}

impl RuleState {
    /// The state after a start at `now`.
    fn resumed(mut self, condition: Condition, now: Timestamp) -> Self {
        let is_persistent = matches!(condition, Condition::DeadLetter | Condition::Damaged);
        if !is_persistent {
            self.counters = self.counters.map(|_| BTreeMap::new()); // they start at zero again
        }
        for alert in self.active.values_mut() {
            (alert.since, alert.last_seen) = (alert.since.min(now), now);
        }
        self.notified_at = self.notified_at.map(|at| at.min(now));
        self
    }

    fn observe(&mut self, observation: &Observation, now: Timestamp) {
        // earlier occurrences were reported before, or precede the configuration of alerts
        let earlier = self.counters.replace(observation.counters.clone());
        let earlier = earlier.unwrap_or_else(|| observation.counters.clone());
        let mut holding: BTreeMap<&String, bool> = self.pending.keys().map(|name| (name, false)).collect();
        holding.retain(|name, _| !self.active.contains_key(*name));
        let mut rose = BTreeMap::new();
        for (name, counter) in &observation.counters {
            let more = counter.saturating_sub(earlier.get(name).copied().unwrap_or(0));
            if more > 0 {
                rose.insert(name.clone(), more);
                holding.insert(name, false);
            }
        }
        holding.extend(observation.holds.keys().map(|name| (name, true)));
        for (name, lasting) in holding {
            let begun = || ActiveAlert { since: now, last_seen: now, notified: false, lasting };
            let alert = self.active.entry(name.clone()).or_insert_with(begun);
            (alert.last_seen, alert.lasting) = (now, lasting);
        }
        for (name, more) in rose {
            *self.pending.entry(name).or_default() += more;
        }
        // an unreported alert that has ended is dropped; and a subject with occurrences may be removed without a message
        // as long as others stay
        let some_stay = self.active.values().any(|alert| !alert.is_past(now));
        let pending = &self.pending;
        self.active.retain(|name, alert| {
            !alert.is_past(now) || pending.contains_key(name) || (alert.notified && (alert.lasting || !some_stay))
        });
    }

    fn changes(&self, observation: &Observation, now: Timestamp) -> Changes {
        let holds = |name: &String| observation.holds.contains_key(name);
        let described = |name: &String| (name.clone(), observation.holds.get(name).unwrap_or(name).clone());
        let names = |of: &dyn Fn(&String, &ActiveAlert) -> bool| -> Vec<String> {
            self.active.iter().filter(|(name, alert)| of(name, alert)).map(|(name, _)| name.clone()).collect()
        };
        Changes {
            all: names(&|name, alert| holds(name) || (alert.notified && alert.lasting && !alert.is_past(now)))
                .iter()
                .map(described)
                .collect(),
            new: names(&|name, alert| !alert.notified && holds(name)),
            over: names(&|_, alert| alert.notified && alert.lasting && alert.is_past(now)),
            happened: self.pending.clone(),
        }
    }

    /// Marks these changes as reported by a message.
    fn mark_notified(&mut self, changes: &Changes, now: Timestamp) {
        for name in changes.new.iter().chain(changes.happened.keys()) {
            if let Some(alert) = self.active.get_mut(name) {
                alert.notified = true;
            }
        }
        self.active.retain(|name, _| !changes.over.contains(name));
        self.pending.clear();
        self.notified_at = Some(now);
    }
}

impl Rule {
    fn evaluate(
        &mut self,
        inputs: &AlertInputs,
        now: Timestamp,
        started: Timestamp,
        digest: Duration,
    ) -> Option<Message> {
        let (condition, state) = (self.condition, &mut self.state);
        let notified = state.active.iter().filter(|(_, alert)| alert.notified).map(|(name, _)| name.clone()).collect();
        let observation = Observation::take(condition, inputs, now, started, &notified);
        state.observe(&observation, now);
        let since = state.active.values().map(|alert| alert.since).min()?;
        let mut changes = state.changes(&observation, now);
        if !state.pending.is_empty() || state.active.values().any(|alert| !alert.is_past(now)) {
            let due = state.notified_at.is_none_or(|at| now.since(at) >= digest);
            if !due || (changes.new.is_empty() && changes.over.is_empty() && changes.happened.is_empty()) {
                return None;
            }
            state.mark_notified(&changes, now);
            let text = condition::firing(condition, inputs, &changes);
            return Some(message(condition, State::Firing, text, &changes, since, now));
        }
        // it holds for no subject
        let ended = std::mem::take(&mut state.active);
        let last = ended.values().filter(|alert| alert.lasting).map(|alert| alert.last_seen).max();
        changes.over = ended.into_iter().filter(|(_, alert)| alert.notified).map(|(name, _)| name).collect();
        if changes.over.is_empty() {
            return None;
        }
        let text = match last {
            Some(last) => condition::resolved(condition, &changes, last.since(since)),
            None => condition::quiet(condition, inputs),
        };
        Some(message(condition, State::Resolved, text, &changes, since, now))
    }
}

fn message(
    condition: Condition,
    state: State,
    text: String,
    changes: &Changes,
    since: Timestamp,
    now: Timestamp,
) -> Message {
    let named = |names: &mut dyn Iterator<Item = &String>| -> Vec<String> {
        names.filter(|name| *name != condition::DAEMON).cloned().collect::<BTreeSet<_>>().into_iter().collect()
    };
    Message {
        text,
        alert: condition.to_string(),
        state,
        at: now.to_string(),
        since: since.to_string(),
        count: Some(changes.count()).filter(|n| *n > 0),
        names: named(&mut changes.all.iter().map(|(name, _)| name).chain(changes.happened.keys())),
        new: named(&mut changes.new.iter()),
        over: named(&mut changes.over.iter()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Outage;

    const DIGEST: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Timestamp {
        Timestamp(1_000_000 + seconds * 1000)
    }

    fn evaluator(on: &[Condition]) -> Evaluator {
        let to = crate::config::settings::AlertTo::Command(vec!["true".to_owned()]);
        Evaluator::new(&Alert { to, on: on.to_vec(), digest: DIGEST }, BTreeMap::new(), at(0))
    }

    fn outage(from: Timestamp, until: Timestamp) -> Outage {
        Outage { from, until, reason: "crash".to_owned(), refused: 0 }
    }

    fn fired(evaluator: &mut Evaluator, inputs: &AlertInputs, seconds: u64) -> Vec<(&'static str, Option<u64>)> {
        evaluator.evaluate(inputs, at(seconds)).into_iter().map(|m| (m.state.word(), m.count)).collect()
    }

    #[test]
    fn an_event_alert_fires_at_once_then_per_digest_and_resolves() {
        let mut evaluator = evaluator(&[Condition::DeadLetter]);
        let dead = |n| AlertInputs { dead_lettered: n, ..AlertInputs::default() };
        assert_eq!(fired(&mut evaluator, &dead(7), 0), [], "those were there at the start");
        assert_eq!(fired(&mut evaluator, &dead(8), 1), [("firing", Some(1))]);
        assert_eq!(fired(&mut evaluator, &dead(20), 2), [], "within the digest");
        assert_eq!(fired(&mut evaluator, &dead(25), 60), []);
        assert_eq!(fired(&mut evaluator, &dead(25), 61), [("firing", Some(17))]);
        assert_eq!(fired(&mut evaluator, &dead(25), 119), []);
        assert_eq!(fired(&mut evaluator, &dead(25), 121), [("resolved", None)]);
        assert_eq!(fired(&mut evaluator, &dead(25), 500), []);
        assert_eq!(fired(&mut evaluator, &dead(26), 501), [("firing", Some(1))]);
    }

    #[test]
    fn a_lasting_alert_fires_once_and_resolves_when_it_stays_away() {
        let mut evaluator = evaluator(&[Condition::QueueDepth(100)]);
        let depth = |n| AlertInputs { queue_depth: n, ..AlertInputs::default() };
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
            assert_eq!(fired(&mut evaluator, &depth(n), seconds), wanted, "{seconds}");
        }
    }

    #[test]
    fn a_flapping_alert_sends_one_message_per_digest() {
        let mut evaluator = evaluator(&[Condition::OldestAge(Duration::from_secs(5))]);
        let age = |s| AlertInputs { oldest_age: Duration::from_secs(s), ..AlertInputs::default() };
        let all: Vec<_> =
            (0..3600u64).flat_map(|s| fired(&mut evaluator, &age(if s % 2 == 0 { 9 } else { 0 }), s)).collect();
        assert_eq!(all, [("firing", None)]);
    }

    fn texts(evaluator: &mut Evaluator, inputs: &AlertInputs, seconds: u64) -> Vec<String> {
        evaluator.evaluate(inputs, at(seconds)).into_iter().map(|m| m.text.replace("holdline: ", "")).collect()
    }

    fn breakers(names: &[&str]) -> AlertInputs {
        AlertInputs {
            breakers: names.iter().map(|name| ((*name).to_owned(), String::new())).collect(),
            ..AlertInputs::default()
        }
    }

    #[test]
    fn a_second_alert_of_one_kind_fires_and_each_resolves() {
        let mut evaluator = evaluator(&[Condition::BreakerOpen]);
        let see = |name| format!("see `holdline explain --destination {name}`");
        for (seconds, open, wanted) in [
            (0, vec!["crm"], vec![format!("breaker_open: crm; {}", see("crm"))]),
            (7, vec!["crm", "wall"], vec![]),
            (60, vec!["crm", "wall"], vec![format!("breaker_open: crm, wall (new: wall); {}", see("wall"))]),
            (200, vec!["crm", "wall"], vec![]),
            (201, vec!["wall"], vec![]),
            (230, vec!["crm", "wall"], vec![]),
            (231, vec!["wall"], vec![]),
            (290, vec!["wall"], vec![format!("breaker_open: wall; {}; over: crm", see("wall"))]),
            (291, vec!["crm", "wall"], vec![]),
            (350, vec!["crm", "wall"], vec![format!("breaker_open: crm, wall (new: crm); {}", see("crm"))]),
            (351, vec![], vec![]),
            (410, vec![], vec!["all clear: breaker_open is over for crm, wall (it lasted 5m 43s)".to_owned()]),
            (500, vec![], vec![]),
        ] {
            assert_eq!(texts(&mut evaluator, &breakers(&open), seconds), wanted, "{seconds}");
        }
    }

    #[test]
    fn the_message_lists_all_and_marks_what_is_new() {
        let mut evaluator = evaluator(&[Condition::BreakerOpen]);
        evaluator.evaluate(&breakers(&["crm"]), at(0));
        let message = evaluator.evaluate(&breakers(&["crm", "wall"]), at(60)).remove(0);
        assert_eq!(
            (message.names, message.new, message.over),
            (vec!["crm".into(), "wall".into()], vec!["wall".into()], vec![])
        );
        let message = evaluator.evaluate(&breakers(&[]), at(120)).remove(0);
        assert_eq!(
            (message.state, message.names, message.over),
            (State::Resolved, vec![], vec!["crm".into(), "wall".into()])
        );
    }

    #[test]
    fn an_alert_that_came_and_went_within_a_digest_is_not_sent() {
        let mut evaluator = evaluator(&[Condition::BreakerOpen]);
        assert_eq!(texts(&mut evaluator, &breakers(&["crm"]), 0).len(), 1);
        for seconds in 1..200 {
            let open: &[&str] = if seconds == 20 { &["crm", "wall"] } else { &["crm"] };
            assert_eq!(texts(&mut evaluator, &breakers(open), seconds), [""; 0], "{seconds}");
        }
    }

    #[test]
    fn an_event_alert_never_says_that_it_is_over() {
        let dead = |dead_lettered, dead| AlertInputs { dead_lettered, dead, ..AlertInputs::default() };
        let mut of_dead_letters = evaluator(&[Condition::DeadLetter]);
        texts(&mut of_dead_letters, &dead(0, 0), 0);
        assert_eq!(
            texts(&mut of_dead_letters, &dead(4, 4), 1),
            ["dead_letter: 4 dead-lettered; see `holdline dlq list`"]
        );
        let quiet = "dead_letter: no more dead letters for a minute; 4 in the queue, see `holdline dlq list`";
        assert_eq!(texts(&mut of_dead_letters, &dead(4, 4), 61), [quiet]);
        assert_eq!(texts(&mut of_dead_letters, &dead(5, 5), 70).len(), 1);
        let quiet = "dead_letter: no more dead letters for a minute; none is in the queue";
        assert_eq!(texts(&mut of_dead_letters, &dead(5, 0), 130), [quiet]);

        let refused = |low, full| {
            let refused = [("disk_low".to_owned(), low), ("queue_full".to_owned(), full)].into();
            AlertInputs { refused, ..AlertInputs::default() }
        };
        let mut of_refusals = evaluator(&[Condition::IntakeRefused]);
        texts(&mut of_refusals, &refused(0, 7), 0);
        let words = ["intake_refused: 5 requests refused (disk_low 3, queue_full 2); see `holdline outages`"];
        assert_eq!(texts(&mut of_refusals, &refused(3, 9), 1), words);
        let quiet = "intake_refused: no more refusals for a minute; `holdline outages` lists what was refused";
        assert_eq!(texts(&mut of_refusals, &refused(3, 9), 61), [quiet]);
    }

    #[test]
    fn dead_letters_over_the_limit_alert_as_long_as_they_are_there() {
        let limits =
            |left, dropped| AlertInputs { dlq_over_limit: left, dlq_dropped: dropped, ..AlertInputs::default() };
        let mut evaluator = evaluator(&[Condition::DlqOverLimit]);
        let words = "dlq_over_limit: 3 dead letters are over [dlq] retention or max_bytes; redrive or purge them, or set dlq.evict";
        assert_eq!(texts(&mut evaluator, &limits(3, 0), 0), [words]);
        for seconds in 1..1000 {
            assert_eq!(texts(&mut evaluator, &limits(3 + seconds / 60, 0), seconds), [""; 0], "{seconds}");
        }
        assert_eq!(texts(&mut evaluator, &limits(0, 0), 1058), [""; 0]);
        assert_eq!(
            texts(&mut evaluator, &limits(0, 0), 1059),
            ["all clear: dlq_over_limit is over (it lasted 16m 39s)"]
        );
        let words = "dlq_over_limit: 2 dead letters over [dlq] retention or max_bytes were dropped, as dlq.evict says";
        assert_eq!(texts(&mut evaluator, &limits(0, 2), 2000), [words]);
        assert_eq!(
            texts(&mut evaluator, &limits(0, 2), 2060),
            ["dlq_over_limit: no more dead letters dropped for a minute"]
        );
    }

    #[test]
    fn a_clamped_retry_after_alerts_with_its_destination() {
        let cuts = |crm, wall| AlertInputs {
            clamped_retry_after: [("crm".to_owned(), crm), ("wall".to_owned(), wall)].into(),
            ..AlertInputs::default()
        };
        let mut evaluator = evaluator(&[Condition::RetryAfterCut]);
        assert_eq!(texts(&mut evaluator, &cuts(1, 0), 0), [""; 0]);
        let message = evaluator.evaluate(&cuts(1, 2), at(1)).remove(0);
        assert!(
            message.text.starts_with("holdline: retry_after_cut: 2 Retry-After values were shortened (wall 2): "),
            "{message:?}"
        );
        assert_eq!((message.count, message.names), (Some(2), vec!["wall".to_owned()]));
        assert_eq!(
            texts(&mut evaluator, &cuts(1, 2), 61),
            ["retry_after_cut: no more Retry-After values shortened for a minute"]
        );
    }

    /// The same conditions in another process, which starts at `seconds`.
    fn restarted(evaluator: &Evaluator, on: &[Condition], seconds: u64) -> Evaluator {
        let saved = serde_json::from_str(&serde_json::to_string(&evaluator.state()).unwrap()).unwrap();
        let to = crate::config::settings::AlertTo::Command(vec!["true".to_owned()]);
        Evaluator::new(&Alert { to, on: on.to_vec(), digest: DIGEST }, saved, at(seconds))
    }

    #[test]
    fn persistent_counters_continue_after_a_restart_and_others_start_at_zero() {
        let on = [Condition::DeadLetter, Condition::HistoryFull];
        let facts =
            |dead_lettered, forgotten_early| AlertInputs { dead_lettered, forgotten_early, ..AlertInputs::default() };
        let mut evaluator = evaluator(&on);
        assert_eq!(fired(&mut evaluator, &facts(9, 9), 0), []);
        assert_eq!(fired(&mut evaluator, &facts(10, 10), 1), [("firing", Some(1)), ("firing", Some(1))]);
        assert_eq!(fired(&mut evaluator, &facts(12, 12), 2), [], "within the digest");
        let mut evaluator = restarted(&evaluator, &on, 30);
        assert_eq!(fired(&mut evaluator, &facts(13, 3), 31), []);
        assert_eq!(fired(&mut evaluator, &facts(13, 3), 61), [("firing", Some(3)), ("firing", Some(5))]);
        let mut evaluator = restarted(&evaluator, &on, 62);
        assert_eq!(fired(&mut evaluator, &facts(13, 0), 63), []);
        assert_eq!(fired(&mut evaluator, &facts(13, 0), 122), [("resolved", None), ("resolved", None)]);
    }

    #[test]
    fn an_alert_that_outlasts_a_restart_is_not_repeated_and_resolves() {
        let silence = Condition::Silence(Duration::from_secs(100));
        let on = [Condition::BreakerOpen, silence, Condition::DiskFull(Duration::from_secs(3600))];
        let facts = |last_received, disk_forecast_known, disk: Option<u64>, open: &[&str]| AlertInputs {
            last_received: [("genesys".to_owned(), last_received)].into(),
            disk_forecast_known,
            disk_full_in: disk.map(Duration::from_secs),
            ..breakers(open)
        };
        let mut evaluator = evaluator(&on);
        assert_eq!(fired(&mut evaluator, &facts(at(0), true, Some(60), &["crm"]), 101).len(), 3);
        let mut evaluator = restarted(&evaluator, &on, 200);
        for seconds in 201..600 {
            let facts = facts(Timestamp::ZERO, false, None, &["crm"]);
            assert_eq!(fired(&mut evaluator, &facts, seconds), [], "{seconds}: nothing is known of source and disk");
        }
        assert_eq!(texts(&mut evaluator, &facts(at(600), true, None, &[]), 600), [""; 0]);
        assert_eq!(
            texts(&mut evaluator, &facts(at(650), true, None, &[]), 659),
            [
                "all clear: breaker_open is over for crm (it lasted 8m 18s)",
                "all clear: silence > 1m 40s is over for genesys (it lasted 8m 18s)",
                "all clear: disk_full < 1h is over (it lasted 8m 18s)",
            ]
        );
    }

    #[test]
    fn each_condition_is_met_when_it_should_be() {
        let hour = Duration::from_secs(3600);
        let last_received = BTreeMap::from([("genesys".to_owned(), at(0)), ("other".to_owned(), at(4000))]);
        for (condition, facts, words) in [
            (
                Condition::DiskLow,
                AlertInputs { closed: Some("disk_low"), ..AlertInputs::default() },
                Some("intake is closed"),
            ),
            (Condition::DiskLow, AlertInputs { closed: Some("draining"), ..AlertInputs::default() }, None),
            (
                Condition::Outage(Duration::from_secs(30)),
                AlertInputs { last_outage: Some(outage(at(4160), at(4195))), ..AlertInputs::default() },
                Some("85 s"),
            ),
            (
                Condition::Outage(Duration::from_secs(30)),
                AlertInputs { last_outage: Some(outage(at(4170), at(4195))), ..AlertInputs::default() },
                None,
            ),
            (
                Condition::BreakerOpen,
                AlertInputs {
                    breakers: [("crm".to_owned(), "the last 10 calls failed".to_owned())].into(),
                    ..AlertInputs::default()
                },
                Some("crm (the last 10 calls failed);"),
            ),
            (Condition::BreakerOpen, AlertInputs::default(), None),
            (
                Condition::Certificate(hour),
                AlertInputs { certificates: vec![("crm".to_owned(), at(4200 + 3599))], ..AlertInputs::default() },
                Some("the certificate of crm ends at"),
            ),
            (
                Condition::Certificate(hour),
                AlertInputs { certificates: vec![("crm".to_owned(), at(4200 + 3600))], ..AlertInputs::default() },
                None,
            ),
            (
                Condition::Certificate(hour),
                AlertInputs { certificates: vec![("crm".to_owned(), at(0))], ..AlertInputs::default() },
                Some("the certificate of crm ends at"),
            ),
            (
                Condition::DiskFull(hour),
                AlertInputs { disk_full_in: Some(hour / 2), ..AlertInputs::default() },
                Some("intake.disk_reserve in 30m"),
            ),
            (Condition::DiskFull(hour), AlertInputs { disk_full_in: Some(hour * 2), ..AlertInputs::default() }, None),
            (Condition::DiskFull(hour), AlertInputs::default(), None),
            (
                Condition::Silence(hour),
                AlertInputs { last_received: last_received.clone(), ..AlertInputs::default() },
                Some("no request has come from genesys"),
            ),
            (Condition::Silence(hour * 2), AlertInputs { last_received, ..AlertInputs::default() }, None),
        ] {
            let messages = evaluator(&[condition]).evaluate(&facts, at(4200));
            assert_eq!(messages.first().map(|m| m.text.contains(words.unwrap_or_default())), words.map(|_| true));
        }
    }
}
