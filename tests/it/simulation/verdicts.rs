//! An independent implementation of what a judgement must be.

use super::judge::{Violation, violation};
use super::settings::Destination;
use holdline::delivery::{Outcome, Reason};
use holdline::event::Digest64;
use holdline::rules::backoff::{Jitter, Retry};
use holdline::rules::verdict::{EndedAttempt, Judgement, Verdict};
use holdline::time::Timestamp;
use std::collections::BTreeSet;
use std::time::Duration;

/// What one destination answered in this run: for each success the start of its attempt, otherwise the refused event.
#[derive(Clone, Debug, Default)]
pub struct Answers(Vec<Result<Timestamp, Digest64>>);

/// Whether an attempt with this outcome counts against a limit.
pub fn counts(retry: &Retry, outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Answered(_) => !is_refused(retry, outcome),
        Outcome::NotConnected => false,
        _ => true,
    }
}

pub fn is_refused(retry: &Retry, outcome: &Outcome) -> bool {
    let Outcome::Answered(status) = outcome else { return false };
    *status >= 300 && !retry.statuses.contains(status)
}

impl Answers {
    /// Checks that the judgement follows from what happened. `wanted`: the response's `Retry-After`.
    pub fn check(
        &mut self,
        to: &Destination,
        ended: &EndedAttempt<'_>,
        wanted: Option<Duration>,
        judgement: &Judgement,
    ) -> Result<(), Violation> {
        let (id, retry, Judgement { verdict, retry_after: granted, .. }) = (ended.id, &to.retry, *judgement);
        let success = matches!(ended.outcome, Outcome::Answered(200));
        if success != (verdict == Verdict::Delivered) {
            return violation("I8", format!("{id}: {:?} is taken for {verdict:?}", ended.outcome));
        }
        let wanted = wanted.filter(|_| !success);
        let asked = wanted.map(|wish| ended.now.after(wish.min(retry.retry_after_max)));
        let kept = match (asked, granted) {
            (None, None) => true,
            (Some(asked), Some(granted)) => {
                granted.until >= asked && granted.until <= asked.after(Duration::from_millis(1))
            }
            _ => false,
        };
        if !kept {
            return violation("I12", format!("{id}: Retry-After until {asked:?} is taken for {granted:?}"));
        }
        let believed = is_refused(retry, ended.outcome) && self.refuses(to, ended, judgement)?;
        if success {
            self.0.push(Ok(ended.began));
        }
        let counted = ended.counted + u32::from(counts(retry, ended.outcome));
        let spent = counts(retry, ended.outcome) && retry.attempts.is_some_and(|limit| counted >= limit);
        match verdict {
            Verdict::Delivered => Ok(()),
            Verdict::Dead(Reason::Permanent) if believed => Ok(()),
            _ if believed => violation("I8", format!("{id}: {:?} is taken for {verdict:?}", ended.outcome)),
            Verdict::Retry { .. } if spent => {
                violation("I11", format!("{id}: attempt {counted} of {:?} is followed by another", retry.attempts))
            }
            Verdict::Retry { due } => check_due(retry, ended, due, asked),
            Verdict::Dead(Reason::Exhausted) => {
                let oldest = ended.now.after(retry.max.max(retry.retry_after_max)).after(Duration::from_millis(1));
                if spent || oldest.since(ended.since) > retry.max_age {
                    return Ok(());
                }
                violation("I8", format!("{id} is given up at attempt {counted} of {:?}", retry.attempts))
            }
            Verdict::Discarded | Verdict::Postponed => violation("I8", format!("{id} was sent, and is {verdict:?}")),
            Verdict::Dead(reason) => violation("I8", format!("{id}: {:?} is taken for {reason:?}", ended.outcome)),
        }
    }

    /// Whether a permanent failure is attributed to its event.
    fn refuses(
        &mut self,
        to: &Destination,
        ended: &EndedAttempt<'_>,
        judgement: &Judgement,
    ) -> Result<bool, Violation> {
        let of_content = matches!(ended.outcome, Outcome::Answered(400 | 422));
        if of_content && ended.redriven {
            return Ok(true);
        }
        self.0.push(Err(ended.interaction));
        let run: Vec<Digest64> = self.0.iter().rev().map_while(|answer| answer.err()).collect();
        let several = |of: &mut dyn Iterator<Item = Digest64>| of.collect::<BTreeSet<_>>().len() >= 3;
        let most_in_a_row = to.policy.limits.breaker.permanent_answers as usize;
        let latest: Vec<bool> = self.0.iter().rev().take(4 * most_in_a_row).map(Result::is_err).collect();
        let refused = latest.iter().filter(|refused| **refused).count();
        let whom = self.0.iter().rev().take(4 * most_in_a_row).filter_map(|answer| answer.err());
        let enough = latest.len() >= 2 * most_in_a_row && several(&mut whom.into_iter());
        let at_least = |tenths: usize| enough && refused * 10 >= tenths * latest.len();
        let in_a_row = run.len() >= most_in_a_row && several(&mut run.iter().copied());
        let all = in_a_row || at_least(9);
        if judgement.call.is_none_or(|call| call.refuses_all != all) {
            return violation("I8", format!("{}: it refuses all is {all}, and told otherwise", ended.id));
        }
        let most = enough && refused * 2 > latest.len();
        let lasts = ended.refused.is_some_and(|(first, last)| {
            let since = self.0.iter().any(|answer| answer.is_ok_and(|began| began > last));
            since && first.after(to.retry.permanent_after) <= ended.now
        });
        Ok(lasts || of_content && !in_a_row && !most)
    }
}

fn check_due(
    retry: &Retry,
    ended: &EndedAttempt<'_>,
    due: Timestamp,
    asked: Option<Timestamp>,
) -> Result<(), Violation> {
    let grown = (1..ended.attempts).fold(retry.base.as_secs_f64(), |bound, _| bound * retry.factor);
    let bound = Duration::from_secs_f64(grown.min(retry.max.as_secs_f64()));
    let slack = Duration::from_millis(1);
    let latest = ended.now.after(bound).after(slack).max(asked.unwrap_or_default().after(slack));
    let earliest = match retry.jitter {
        Jitter::None => ended.now.after(bound).before(slack),
        Jitter::Full => ended.now,
    };
    let earliest = earliest.max(asked.unwrap_or_default());
    if due < earliest || due > latest {
        return violation("I16", format!("{}: due at {due:?}, not in {earliest:?}..{latest:?}", ended.id));
    }
    Ok(())
}
