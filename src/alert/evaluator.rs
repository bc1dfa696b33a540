//! Which conditions hold, and what is to be told of them. Pure: it takes the facts and `now`.
//!
//! A condition holds of one thing or of several (breakers of destinations, sources that are silent), each by its name:
//! ```text
//! quiet ──holds──> told ──holds no longer, for QUIET──> (all-clear, with the last of them) quiet
//!         └─ but not within `digest` of the last message of its kind: then it is told when that is over
//! ```
//! What can only happen and not last (a dead letter, a refusal, a damaged record) holds as long as more of it came within
//! [`QUIET`]; that no more came is told as just that.

use super::condition::{self, News, Observation};
use crate::config::settings::{Alert, Condition};
use crate::store::Gap;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// So long must a condition not hold until it is called off; what comes and goes is one alarm.
pub const QUIET: Duration = Duration::from_secs(60);

/// How things stand, as far as somebody can be woken for it.
#[derive(Clone, Debug, Default)]
pub struct AlertInputs {
    /// Since the store was made.
    pub dead_lettered: u64,
    /// Dead letters that there are.
    pub dead: u64,
    pub queue_depth: u64,
    pub oldest_age: Duration,
    /// Why intake is closed.
    pub closed: Option<&'static str>,
    /// Requests refused for no fault of the sender since the start, by code.
    pub refused: BTreeMap<String, u64>,
    /// Since the store was made.
    pub damaged: u64,
    /// Dead letters that lie beyond age or bytes.
    pub dlq_beyond: u64,
    /// Those that were dropped for it, since the start.
    pub dlq_dropped: u64,
    /// Events forgotten before their time, since the start.
    pub forgotten_early: u64,
    /// Wishes of `Retry-After` that were cut since the start, by destination.
    pub cuts: BTreeMap<String, u64>,
    /// Certificates in use: whose, and when they end.
    pub certificates: Vec<(String, Timestamp)>,
    pub disk_full_in: Option<Duration>,
    /// Whether enough has been seen of the disk to say so.
    pub disk_foreseen: bool,
    /// Destinations whose breaker is not closed, and why.
    pub breakers: BTreeMap<String, String>,
    /// The last time in which events could not be accepted.
    pub gap: Option<Gap>,
    /// When each source was last heard of.
    pub heard: BTreeMap<String, Timestamp>,
}

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

/// What is told: JSON, with a `text` that chat tools show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub text: String,
    /// The condition, as it stands in the configuration.
    pub alert: String,
    pub state: State,
    pub at: String,
    pub since: String,
    /// How many, where it counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// What it holds of, by name, where it holds of several things; of these the new ones; and those of which it holds no
    /// longer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub new: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub over: Vec<String>,
}

/// A time for which a condition holds of one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ActiveAlert {
    since: Timestamp,
    /// When it was last seen to hold.
    last: Timestamp,
    told: bool,
    /// It is a state; otherwise something happened.
    lasting: bool,
}

impl ActiveAlert {
    fn is_past(&self, now: Timestamp) -> bool {
        now.since(self.last) >= QUIET
    }
}

/// What is known of a condition from one look to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    spells: BTreeMap<String, ActiveAlert>,
    /// The counters as they were at the last look; none before the first.
    seen: Option<BTreeMap<String, u64>>,
    /// What happened and has not been told.
    owed: BTreeMap<String, u64>,
    told_at: Option<Timestamp>,
}

#[derive(Debug)]
struct Alarm {
    condition: Condition,
    known: Known,
}

/// The conditions of one `[[alert]]`.
#[derive(Debug)]
pub struct Watch {
    alarms: Vec<Alarm>,
    digest: Duration,
    began: Timestamp,
}

impl Watch {
    /// `known` is what an earlier watch knew, by the condition as it stands in the configuration.
    pub fn new(alert: &Alert, mut known: BTreeMap<String, Known>, now: Timestamp) -> Self {
        let mut alarms: Vec<Alarm> = Vec::new();
        for condition in &alert.on {
            if alarms.iter().all(|alarm| alarm.condition != *condition) {
                let known = known.remove(&condition.to_string()).unwrap_or_default().resumed(*condition, now);
                alarms.push(Alarm { condition: *condition, known });
            }
        }
        Self { alarms, digest: alert.digest, began: now }
    }

    /// What is to be told now.
    pub fn look(&mut self, facts: &AlertInputs, now: Timestamp) -> Vec<Message> {
        let (began, digest) = (self.began, self.digest);
        self.alarms.iter_mut().filter_map(|alarm| alarm.look(facts, now, began, digest)).collect()
    }

    /// What is to be known to the next watch.
    pub fn known(&self) -> BTreeMap<String, Known> {
        self.alarms.iter().map(|alarm| (alarm.condition.to_string(), alarm.known.clone())).collect()
    }
}

impl Known {
    /// As it goes on after a start at `now`.
    fn resumed(mut self, condition: Condition, now: Timestamp) -> Self {
        let counted_for_ever = matches!(condition, Condition::DeadLetter | Condition::Damaged);
        if !counted_for_ever {
            self.seen = self.seen.map(|_| BTreeMap::new()); // their counters begin again at zero
        }
        for spell in self.spells.values_mut() {
            (spell.since, spell.last) = (spell.since.min(now), now);
        }
        self.told_at = self.told_at.map(|at| at.min(now));
        self
    }

    /// Takes in what is seen.
    fn see(&mut self, sight: &Observation, now: Timestamp) {
        // what happened before the first look ever was told before it, or is no news
        let seen = self.seen.replace(sight.counters.clone()).unwrap_or_else(|| sight.counters.clone());
        let mut holding: BTreeMap<&String, bool> = self.owed.keys().map(|name| (name, false)).collect();
        holding.retain(|name, _| !self.spells.contains_key(*name));
        let mut rose = BTreeMap::new();
        for (name, counter) in &sight.counters {
            let more = counter.saturating_sub(seen.get(name).copied().unwrap_or(0));
            if more > 0 {
                rose.insert(name.clone(), more);
                holding.insert(name, false);
            }
        }
        holding.extend(sight.holds.keys().map(|name| (name, true)));
        for (name, lasting) in holding {
            let begun = || ActiveAlert { since: now, last: now, told: false, lasting };
            let spell = self.spells.entry(name.clone()).or_insert_with(begun);
            (spell.last, spell.lasting) = (now, lasting);
        }
        for (name, more) in rose {
            *self.owed.entry(name).or_default() += more;
        }
        // what came and went untold is no news; and of what only happens a name may leave in silence, as long as others stay
        let some_stay = self.spells.values().any(|spell| !spell.is_past(now));
        let owed = &self.owed;
        self.spells.retain(|name, spell| {
            !spell.is_past(now) || owed.contains_key(name) || (spell.told && (spell.lasting || !some_stay))
        });
    }

    fn news(&self, sight: &Observation, now: Timestamp) -> News {
        let holds = |name: &String| sight.holds.contains_key(name);
        let said = |name: &String| (name.clone(), sight.holds.get(name).unwrap_or(name).clone());
        let names = |of: &dyn Fn(&String, &ActiveAlert) -> bool| -> Vec<String> {
            self.spells.iter().filter(|(name, spell)| of(name, spell)).map(|(name, _)| name.clone()).collect()
        };
        News {
            all: names(&|name, spell| holds(name) || (spell.told && spell.lasting && !spell.is_past(now)))
                .iter()
                .map(said)
                .collect(),
            new: names(&|name, spell| !spell.told && holds(name)),
            over: names(&|_, spell| spell.told && spell.lasting && spell.is_past(now)),
            happened: self.owed.clone(),
        }
    }

    /// It has been told.
    fn told(&mut self, news: &News, now: Timestamp) {
        for name in news.new.iter().chain(news.happened.keys()) {
            if let Some(spell) = self.spells.get_mut(name) {
                spell.told = true;
            }
        }
        self.spells.retain(|name, _| !news.over.contains(name));
        self.owed.clear();
        self.told_at = Some(now);
    }
}

impl Alarm {
    fn look(&mut self, facts: &AlertInputs, now: Timestamp, began: Timestamp, digest: Duration) -> Option<Message> {
        let (condition, known) = (self.condition, &mut self.known);
        let told = known.spells.iter().filter(|(_, spell)| spell.told).map(|(name, _)| name.clone()).collect();
        let sight = Observation::take(condition, facts, now, began, &told);
        known.see(&sight, now);
        let since = known.spells.values().map(|spell| spell.since).min()?;
        let mut news = known.news(&sight, now);
        if !known.owed.is_empty() || known.spells.values().any(|spell| !spell.is_past(now)) {
            let due = known.told_at.is_none_or(|at| now.since(at) >= digest);
            if !due || (news.new.is_empty() && news.over.is_empty() && news.happened.is_empty()) {
                return None;
            }
            known.told(&news, now);
            let text = condition::firing(condition, facts, &news);
            return Some(message(condition, State::Firing, text, &news, since, now));
        }
        // it holds of nothing any more
        let spells = std::mem::take(&mut known.spells);
        let last = spells.values().filter(|spell| spell.lasting).map(|spell| spell.last).max();
        news.over = spells.into_iter().filter(|(_, spell)| spell.told).map(|(name, _)| name).collect();
        if news.over.is_empty() {
            return None;
        }
        let text = match last {
            Some(last) => condition::all_clear(condition, &news, last.since(since)),
            None => condition::calm(condition, facts),
        };
        Some(message(condition, State::Resolved, text, &news, since, now))
    }
}

fn message(condition: Condition, state: State, text: String, news: &News, since: Timestamp, now: Timestamp) -> Message {
    let named = |names: &mut dyn Iterator<Item = &String>| -> Vec<String> {
        names.filter(|name| *name != condition::WHOLE).cloned().collect::<BTreeSet<_>>().into_iter().collect()
    };
    Message {
        text,
        alert: condition.to_string(),
        state,
        at: now.to_string(),
        since: since.to_string(),
        count: Some(news.count()).filter(|n| *n > 0),
        names: named(&mut news.all.iter().map(|(name, _)| name).chain(news.happened.keys())),
        new: named(&mut news.new.iter()),
        over: named(&mut news.over.iter()),
    }
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
        Watch::new(&Alert { to, on: on.to_vec(), digest: DIGEST }, BTreeMap::new(), at(0))
    }

    fn gap(from: Timestamp, until: Timestamp) -> Gap {
        Gap { from, until, reason: "crash".to_owned(), refused: 0 }
    }

    fn told(watch: &mut Watch, facts: &AlertInputs, seconds: u64) -> Vec<(&'static str, Option<u64>)> {
        watch.look(facts, at(seconds)).into_iter().map(|m| (m.state.word(), m.count)).collect()
    }

    #[test]
    fn an_event_alert_fires_at_once_then_per_digest_and_resolves() {
        let mut watch = watch(&[Condition::DeadLetter]);
        let dead = |n| AlertInputs { dead_lettered: n, ..AlertInputs::default() };
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
    fn a_lasting_alert_fires_once_and_resolves_when_it_stays_away() {
        let mut watch = watch(&[Condition::QueueDepth(100)]);
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
            assert_eq!(told(&mut watch, &depth(n), seconds), wanted, "{seconds}");
        }
    }

    #[test]
    fn a_flapping_alert_sends_one_message_per_digest() {
        let mut watch = watch(&[Condition::OldestAge(Duration::from_secs(5))]);
        let age = |s| AlertInputs { oldest_age: Duration::from_secs(s), ..AlertInputs::default() };
        let all: Vec<_> =
            (0..3600u64).flat_map(|s| told(&mut watch, &age(if s % 2 == 0 { 9 } else { 0 }), s)).collect();
        assert_eq!(all, [("firing", None)]);
    }

    fn texts(watch: &mut Watch, facts: &AlertInputs, seconds: u64) -> Vec<String> {
        watch.look(facts, at(seconds)).into_iter().map(|m| m.text.replace("holdline: ", "")).collect()
    }

    fn breakers(names: &[&str]) -> AlertInputs {
        AlertInputs {
            breakers: names.iter().map(|name| ((*name).to_owned(), String::new())).collect(),
            ..AlertInputs::default()
        }
    }

    #[test]
    fn a_second_alert_of_one_kind_fires_and_each_resolves() {
        let mut watch = watch(&[Condition::BreakerOpen]);
        let see = "see `holdline explain --destination NAME`";
        for (seconds, open, wanted) in [
            (0, vec!["crm"], vec![format!("breaker_open: crm; {see}")]),
            (7, vec!["crm", "wall"], vec![]),
            (60, vec!["crm", "wall"], vec![format!("breaker_open: crm, wall (new: wall); {see}")]),
            (200, vec!["crm", "wall"], vec![]),
            (201, vec!["wall"], vec![]),
            (230, vec!["crm", "wall"], vec![]),
            (231, vec!["wall"], vec![]),
            (290, vec!["wall"], vec![format!("breaker_open: wall; {see}; over: crm")]),
            (291, vec!["crm", "wall"], vec![]),
            (350, vec!["crm", "wall"], vec![format!("breaker_open: crm, wall (new: crm); {see}")]),
            (351, vec![], vec![]),
            (410, vec![], vec!["all clear: breaker_open is over for crm, wall (it lasted 5m 43s)".to_owned()]),
            (500, vec![], vec![]),
        ] {
            assert_eq!(texts(&mut watch, &breakers(&open), seconds), wanted, "{seconds}");
        }
    }

    #[test]
    fn the_message_lists_all_and_marks_what_is_new() {
        let mut watch = watch(&[Condition::BreakerOpen]);
        watch.look(&breakers(&["crm"]), at(0));
        let told = watch.look(&breakers(&["crm", "wall"]), at(60)).remove(0);
        assert_eq!((told.names, told.new, told.over), (vec!["crm".into(), "wall".into()], vec!["wall".into()], vec![]));
        let told = watch.look(&breakers(&[]), at(120)).remove(0);
        assert_eq!((told.state, told.names, told.over), (State::Resolved, vec![], vec!["crm".into(), "wall".into()]));
    }

    #[test]
    fn an_alert_that_came_and_went_within_a_digest_is_not_sent() {
        let mut watch = watch(&[Condition::BreakerOpen]);
        assert_eq!(texts(&mut watch, &breakers(&["crm"]), 0).len(), 1);
        for seconds in 1..200 {
            let open: &[&str] = if seconds == 20 { &["crm", "wall"] } else { &["crm"] };
            assert_eq!(texts(&mut watch, &breakers(open), seconds), [""; 0], "{seconds}");
        }
    }

    #[test]
    fn an_event_alert_never_says_that_it_is_over() {
        let dead = |dead_lettered, dead| AlertInputs { dead_lettered, dead, ..AlertInputs::default() };
        let mut of_letters = watch(&[Condition::DeadLetter]);
        texts(&mut of_letters, &dead(0, 0), 0);
        assert_eq!(texts(&mut of_letters, &dead(4, 4), 1), ["dead_letter: 4 dead-lettered; see `holdline dlq list`"]);
        let calm = "dead_letter: no more dead letters for a minute; 4 in the queue, see `holdline dlq list`";
        assert_eq!(texts(&mut of_letters, &dead(4, 4), 61), [calm]);
        assert_eq!(texts(&mut of_letters, &dead(5, 5), 70).len(), 1);
        let calm = "dead_letter: no more dead letters for a minute; none is in the queue";
        assert_eq!(texts(&mut of_letters, &dead(5, 0), 130), [calm]);

        let refused = |low, full| {
            let refused = [("disk_low".to_owned(), low), ("queue_full".to_owned(), full)].into();
            AlertInputs { refused, ..AlertInputs::default() }
        };
        let mut of_refusals = watch(&[Condition::IntakeRefused]);
        texts(&mut of_refusals, &refused(0, 7), 0);
        let words = ["intake_refused: 5 requests refused (disk_low 3, queue_full 2); see `holdline outages`"];
        assert_eq!(texts(&mut of_refusals, &refused(3, 9), 1), words);
        let calm = "intake_refused: no more refusals for a minute; `holdline outages` tells what was refused";
        assert_eq!(texts(&mut of_refusals, &refused(3, 9), 61), [calm]);
    }

    #[test]
    fn dead_letters_over_the_limit_alert_as_long_as_they_are_there() {
        let beyond = |left, dropped| AlertInputs { dlq_beyond: left, dlq_dropped: dropped, ..AlertInputs::default() };
        let mut watch = watch(&[Condition::DlqOverLimit]);
        let words = "dlq_over_limit: 3 dead letters lie beyond [dlq] retention or max_bytes; redrive or purge them, or set dlq.evict";
        assert_eq!(texts(&mut watch, &beyond(3, 0), 0), [words]);
        for seconds in 1..1000 {
            assert_eq!(texts(&mut watch, &beyond(3 + seconds / 60, 0), seconds), [""; 0], "{seconds}");
        }
        assert_eq!(texts(&mut watch, &beyond(0, 0), 1058), [""; 0]);
        assert_eq!(texts(&mut watch, &beyond(0, 0), 1059), ["all clear: dlq_over_limit is over (it lasted 16m 39s)"]);
        let words =
            "dlq_over_limit: 2 dead letters beyond [dlq] retention or max_bytes were dropped, as dlq.evict says";
        assert_eq!(texts(&mut watch, &beyond(0, 2), 2000), [words]);
        assert_eq!(
            texts(&mut watch, &beyond(0, 2), 2060),
            ["dlq_over_limit: no more dead letters dropped for a minute"]
        );
    }

    #[test]
    fn a_clamped_retry_after_alerts_with_its_destination() {
        let cuts = |crm, wall| AlertInputs {
            cuts: [("crm".to_owned(), crm), ("wall".to_owned(), wall)].into(),
            ..AlertInputs::default()
        };
        let mut watch = watch(&[Condition::RetryAfterCut]);
        assert_eq!(texts(&mut watch, &cuts(1, 0), 0), [""; 0]);
        let told = watch.look(&cuts(1, 2), at(1)).remove(0);
        assert!(
            told.text.starts_with("holdline: retry_after_cut: 2 wishes of Retry-After were cut (wall 2): "),
            "{told:?}"
        );
        assert_eq!((told.count, told.names), (Some(2), vec!["wall".to_owned()]));
        assert_eq!(texts(&mut watch, &cuts(1, 2), 61), ["retry_after_cut: no more wishes cut for a minute"]);
    }

    /// The same conditions in another process, which starts at `seconds`.
    fn next_life(watch: &Watch, on: &[Condition], seconds: u64) -> Watch {
        let known = serde_json::from_str(&serde_json::to_string(&watch.known()).unwrap()).unwrap();
        let to = crate::config::settings::AlertTo::Command(vec!["true".to_owned()]);
        Watch::new(&Alert { to, on: on.to_vec(), digest: DIGEST }, known, at(seconds))
    }

    #[test]
    fn persistent_counters_continue_after_a_restart_and_others_start_at_zero() {
        let on = [Condition::DeadLetter, Condition::HistoryFull];
        let facts =
            |dead_lettered, forgotten_early| AlertInputs { dead_lettered, forgotten_early, ..AlertInputs::default() };
        let mut watch = watch(&on);
        assert_eq!(told(&mut watch, &facts(9, 9), 0), []);
        assert_eq!(told(&mut watch, &facts(10, 10), 1), [("firing", Some(1)), ("firing", Some(1))]);
        assert_eq!(told(&mut watch, &facts(12, 12), 2), [], "within the digest");
        let mut watch = next_life(&watch, &on, 30);
        assert_eq!(told(&mut watch, &facts(13, 3), 31), []);
        assert_eq!(told(&mut watch, &facts(13, 3), 61), [("firing", Some(3)), ("firing", Some(5))]);
        let mut watch = next_life(&watch, &on, 62);
        assert_eq!(told(&mut watch, &facts(13, 0), 63), []);
        assert_eq!(told(&mut watch, &facts(13, 0), 122), [("resolved", None), ("resolved", None)]);
    }

    #[test]
    fn an_alert_that_outlasts_a_restart_is_not_repeated_and_resolves() {
        let silence = Condition::Silence(Duration::from_secs(100));
        let on = [Condition::BreakerOpen, silence, Condition::DiskFull(Duration::from_secs(3600))];
        let facts = |heard, disk_foreseen, disk: Option<u64>, open: &[&str]| AlertInputs {
            heard: [("genesys".to_owned(), heard)].into(),
            disk_foreseen,
            disk_full_in: disk.map(Duration::from_secs),
            ..breakers(open)
        };
        let mut watch = watch(&on);
        assert_eq!(told(&mut watch, &facts(at(0), true, Some(60), &["crm"]), 101).len(), 3);
        let mut watch = next_life(&watch, &on, 200);
        for seconds in 201..600 {
            let facts = facts(Timestamp::ZERO, false, None, &["crm"]);
            assert_eq!(told(&mut watch, &facts, seconds), [], "{seconds}: nothing is known of source and disk");
        }
        assert_eq!(texts(&mut watch, &facts(at(600), true, None, &[]), 600), [""; 0]);
        assert_eq!(
            texts(&mut watch, &facts(at(650), true, None, &[]), 659),
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
        let heard = BTreeMap::from([("genesys".to_owned(), at(0)), ("other".to_owned(), at(4000))]);
        for (condition, facts, words) in [
            (
                Condition::DiskLow,
                AlertInputs { closed: Some("disk_low"), ..AlertInputs::default() },
                Some("intake is closed"),
            ),
            (Condition::DiskLow, AlertInputs { closed: Some("draining"), ..AlertInputs::default() }, None),
            (
                Condition::Outage(Duration::from_secs(30)),
                AlertInputs { gap: Some(gap(at(4160), at(4195))), ..AlertInputs::default() },
                Some("85 s"),
            ),
            (
                Condition::Outage(Duration::from_secs(30)),
                AlertInputs { gap: Some(gap(at(4170), at(4195))), ..AlertInputs::default() },
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
                Some("that of crm ends at"),
            ),
            (
                Condition::Certificate(hour),
                AlertInputs { certificates: vec![("crm".to_owned(), at(4200 + 3600))], ..AlertInputs::default() },
                None,
            ),
            (
                Condition::Certificate(hour),
                AlertInputs { certificates: vec![("crm".to_owned(), at(0))], ..AlertInputs::default() },
                Some("that of crm ends at"),
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
                AlertInputs { heard: heard.clone(), ..AlertInputs::default() },
                Some("come from genesys"),
            ),
            (Condition::Silence(hour * 2), AlertInputs { heard, ..AlertInputs::default() }, None),
        ] {
            let messages = watch(&[condition]).look(&facts, at(4200));
            assert_eq!(messages.first().map(|m| m.text.contains(words.unwrap_or_default())), words.map(|_| true));
        }
    }
}
