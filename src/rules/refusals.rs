//! Whether permanent answers are about one event or about the destination.
//!
//! A 422 for one event in fifty is about that event. A 404 for every event, as during a deploy, behind a moved URL or
//! with an expired secret, is a condition of the destination: its events must wait, not become dead letters. The status
//! alone does not distinguish the two; the answers to *other* events do.
//!
//! *Invariants.* A permanent answer whose status is not caused by content (`retry.permanent`) makes an event a dead
//! letter only if the same event has got such answers for `retry.permanent_after`, and the destination has accepted
//! another event since the latest of them. An answer caused by content makes a dead letter at once, unless most of the
//! latest answers, or a run of them, refuse events of several interactions; then the same conditions apply to it.

use crate::event::Digest64;
use crate::time::Timestamp;
use std::collections::VecDeque;
use std::time::Duration;

/// How many of the latest answers are evaluated, as a multiple of [`Bounds::run`], and their maximum number.
const LATEST: usize = 4;
const LATEST_MAX: usize = 4096;
/// Minimum number of answers for a share, as a multiple of [`Bounds::run`].
const LATEST_MIN: usize = 2;
/// Above this share of refusals among the latest answers, a refusal does not count as caused by the event.
const DOUBTED: f64 = 0.5;
/// From this share on, the destination counts as refusing every event.
const REFUSES_ALL: f64 = 0.9;
/// Refusals of fewer interactions than this may be about those interactions.
const INTERACTIONS_MIN: usize = 3;

/// A permanent answer: a final status that is neither 2xx nor retried.
#[derive(Clone, Copy, Debug)]
pub struct Refusal {
    /// The order key of the event; for an event without one, any value unique to it.
    pub interaction: Digest64,
    /// Whether the status is caused by the event's content.
    pub of_content: bool,
    /// When this event got its first and its latest permanent answer before this one; none where this is the first.
    pub before: Option<(Timestamp, Timestamp)>,
    pub now: Timestamp,
}

/// When a destination counts as refusing every event.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Consecutive permanent answers, to at least three interactions, after which the destination counts as refusing
    /// every event.
    pub run: u32,
    /// How long an event must get an answer that is not caused by content before it becomes a dead letter.
    pub permanent_after: Duration,
}

/// How a permanent answer is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The answer is about this event, which becomes a dead letter. Otherwise the delivery is retried.
    pub of_event: bool,
    /// The destination refuses every event.
    pub refuses_all: bool,
}

/// The latest answers of one destination.
#[derive(Clone, Debug, Default)]
pub struct Refusals {
    /// When the latest successful attempt began.
    success_began: Option<Timestamp>,
    /// Permanent answers since the last success.
    run: u32,
    /// The latest successes and permanent answers, newest first; the interaction where it was refused.
    latest: VecDeque<Option<Digest64>>,
}

impl Refusals {
    /// An attempt that began at this time has succeeded.
    pub fn delivered(&mut self, began: Timestamp, bounds: Bounds) {
        self.success_began = self.success_began.max(Some(began));
        self.run = 0;
        self.note(None, bounds);
    }

    pub fn refused(&mut self, refusal: &Refusal, bounds: Bounds) -> Finding {
        self.run = self.run.saturating_add(1);
        self.note(Some(refusal.interaction), bounds);
        let run = self.latest.iter().map_while(|refused| *refused);
        let in_a_row = self.run >= bounds.run && are_several(run);
        let share = if are_several(self.latest.iter().flatten().copied()) { self.share(bounds) } else { 0.0 };
        let lasting = refusal.before.is_some_and(|(first, last)| {
            refusal.now.since(first) >= bounds.permanent_after && self.success_began.is_some_and(|at| at > last)
        });
        Finding {
            of_event: lasting || refusal.of_content && !in_a_row && share <= DOUBTED,
            refuses_all: in_a_row || share >= REFUSES_ALL,
        }
    }

    fn note(&mut self, refused: Option<Digest64>, bounds: Bounds) {
        let most = (bounds.run as usize).saturating_mul(LATEST).min(LATEST_MAX);
        self.latest.truncate(most.saturating_sub(1));
        self.latest.push_front(refused);
    }

    /// The share of refusals among the latest answers; zero where there are too few answers.
    fn share(&self, bounds: Bounds) -> f64 {
        if self.latest.len() < (bounds.run as usize).saturating_mul(LATEST_MIN) {
            return 0.0;
        }
        self.latest.iter().flatten().count() as f64 / self.latest.len() as f64
    }
}

/// Whether at least [`INTERACTIONS_MIN`] of these are different.
fn are_several(interactions: impl Iterator<Item = Digest64>) -> bool {
    let mut seen = Vec::with_capacity(INTERACTIONS_MIN);
    interactions.into_iter().any(|interaction| {
        if !seen.contains(&interaction) {
            seen.push(interaction);
        }
        seen.len() == INTERACTIONS_MIN
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { run: 5, permanent_after: Duration::from_secs(300) };
    const START: Timestamp = Timestamp(1_800_000_000_000);

    fn at(seconds: u64) -> Timestamp {
        START.after(Duration::from_secs(seconds))
    }

    fn refusal(interaction: u64, of_content: bool, before: Option<(u64, u64)>, now: u64) -> Refusal {
        let before = before.map(|(first, last)| (at(first), at(last)));
        Refusal { interaction: Digest64(interaction), of_content, before, now: at(now) }
    }

    #[test]
    fn events_refused_for_their_content_die_at_once() {
        for one_in in [2, 3, 10, 50] {
            let mut answers = Refusals::default();
            for n in 1..=1000u64 {
                if n.is_multiple_of(one_in) {
                    let found = answers.refused(&refusal(n, true, None, n), BOUNDS);
                    assert_eq!(found, Finding { of_event: true, refuses_all: false }, "{n} of one in {one_in}");
                } else {
                    answers.delivered(at(n), BOUNDS);
                }
            }
        }
    }

    #[test]
    fn a_status_given_to_every_event_kills_none_and_is_reported() {
        let mut answers = Refusals::default();
        (0..1000).for_each(|n| answers.delivered(at(n), BOUNDS));
        let found: Vec<Finding> =
            (1..=100).map(|n| answers.refused(&refusal(n, false, None, 1000 + n), BOUNDS)).collect();
        assert!(found.iter().all(|f| !f.of_event));
        assert_eq!(found.iter().position(|f| f.refuses_all), Some(4));
        // a content status counts as caused by the event until there is a run
        let mut answers = Refusals::default();
        let found: Vec<bool> = (1..=8).map(|n| answers.refused(&refusal(n, true, None, n), BOUNDS).of_event).collect();
        assert_eq!(found, [true, true, true, true, false, false, false, false]);
    }

    #[test]
    fn repeated_refusals_of_one_interaction_do_not_affect_others() {
        let mut answers = Refusals::default();
        for n in 0..9 {
            let found = answers.refused(&refusal(n % 2, true, None, n), BOUNDS);
            assert_eq!(found, Finding { of_event: true, refuses_all: false }, "{n}");
        }
    }

    #[test]
    fn nine_refusals_in_ten_block_the_destination() {
        let mut answers = Refusals::default();
        (0..100).for_each(|n| answers.delivered(at(n), BOUNDS));
        let mut noticed = None;
        for n in 1..=60u64 {
            if n % 10 == 0 {
                answers.delivered(at(100 + n), BOUNDS);
            } else if answers.refused(&refusal(n, false, None, 100 + n), BOUNDS).refuses_all {
                noticed = noticed.or(Some(n));
            }
        }
        assert_eq!(noticed, Some(5), "by its run");
        let mut answers = Refusals::default();
        let long = Bounds { run: 12, ..BOUNDS };
        let noticed = (61..=120u64).find(|n| {
            if n % 10 == 0 {
                answers.delivered(at(100 + n), long);
                return false;
            }
            answers.refused(&refusal(*n, false, None, 100 + n), long).refuses_all
        });
        assert!(noticed.is_some(), "by its share");
        let never = Bounds { run: u32::MAX, ..BOUNDS };
        let mut answers = Refusals::default();
        assert!((0..10_000).all(|n| answers.refused(&refusal(n, true, None, n), never).of_event), "as it is set");
    }

    #[test]
    fn other_statuses_count_after_a_time_and_a_later_success() {
        let mut answers = Refusals::default();
        let mut ask = |delivered: Option<u64>, before, now| {
            if let Some(began) = delivered {
                answers.delivered(at(began), BOUNDS);
            }
            answers.refused(&refusal(7, false, before, now), BOUNDS).of_event
        };
        assert!(!ask(Some(1), None, 2), "the first");
        assert!(!ask(Some(3), Some((2, 2)), 299), "not for long enough");
        assert!(!ask(None, Some((2, 4)), 400), "nothing was taken since");
        assert!(!ask(Some(4), Some((2, 4)), 400), "what was taken may have been taken before");
        assert!(ask(Some(5), Some((2, 4)), 302));
        let now = Bounds { permanent_after: Duration::ZERO, ..BOUNDS };
        assert!(!answers.refused(&refusal(8, false, None, 500), now).of_event);
        answers.delivered(at(501), BOUNDS);
        assert!(answers.refused(&refusal(8, false, Some((500, 500)), 502), now).of_event);
    }

    #[test]
    fn a_rolling_deploy_that_refuses_every_second_request_kills_nothing() {
        let mut answers = Refusals::default();
        // each event is retried every second, for a minute
        for n in 0..60u64 {
            answers.delivered(at(n), BOUNDS);
            let before = (n > 0).then(|| (0, n - 1));
            assert!(!answers.refused(&refusal(1, false, before, n), BOUNDS).of_event, "{n}");
        }
    }
}
