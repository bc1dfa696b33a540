//! What a verdict must be, said once more and without the rules.

use super::judge::{Violation, violation};
use holdline::delivery::{Outcome, Reason};
use holdline::rules::backoff::{Jitter, Retry};
use holdline::rules::retry_after::Wish;
use holdline::rules::verdict::{Ended, Verdict};
use holdline::time::Timestamp;
use std::time::Duration;

/// Whether the verdict follows from what happened. `wanted`: the answer's `Retry-After`; `counted` is the model's own count.
pub fn check(
    retry: &Retry,
    ended: &Ended<'_>,
    wanted: Option<Duration>,
    counted: u32,
    verdict: Verdict,
    wish: Option<Wish>,
) -> Result<(), Violation> {
    let id = ended.id;
    let status = match ended.outcome {
        Outcome::Answered(status) => Some(*status),
        _ => None,
    };
    if status.is_some_and(|s| (200..300).contains(&s)) != (verdict == Verdict::Delivered) {
        return violation("I8", format!("{id}: {:?} is taken for {verdict:?}", ended.outcome));
    }
    let passing = match ended.outcome {
        Outcome::Answered(status) => retry.statuses.contains(status),
        _ => true,
    };
    let wanted = wanted.filter(|_| verdict != Verdict::Delivered);
    let asked = wanted.map(|wish| ended.now.after(wish.min(retry.retry_after_max)));
    let kept = match (asked, wish) {
        (None, None) => true,
        (Some(asked), Some(wish)) => wish.until >= asked && wish.until <= asked.after(Duration::from_millis(1)),
        _ => false,
    };
    if !kept {
        return violation("I12", format!("{id}: Retry-After until {asked:?} is taken for {wish:?}"));
    }
    match verdict {
        Verdict::Delivered => Ok(()),
        Verdict::Retry { .. } if !passing => violation("I11", format!("{id}: {status:?} is tried again")),
        Verdict::Retry { .. } if counted >= retry.attempts => {
            violation("I11", format!("{id}: attempt {counted} of {} is followed by another", retry.attempts))
        }
        Verdict::Retry { due } => check_due(retry, ended, counted, due, asked),
        Verdict::Dead(Reason::Permanent) if !passing => Ok(()),
        Verdict::Dead(Reason::Exhausted) if passing => {
            let oldest = ended.now.after(retry.max.max(retry.retry_after_max)).after(Duration::from_millis(1));
            let aged = oldest.since(ended.since) > retry.max_age;
            if counted >= retry.attempts || aged {
                return Ok(());
            }
            violation("I8", format!("{id} is given up at attempt {counted} of {}", retry.attempts))
        }
        Verdict::Dead(reason) => violation("I8", format!("{id}: {:?} is taken for {reason:?}", ended.outcome)),
    }
}

fn check_due(
    retry: &Retry,
    ended: &Ended<'_>,
    counted: u32,
    due: Timestamp,
    asked: Option<Timestamp>,
) -> Result<(), Violation> {
    let grown = (1..counted).fold(retry.base.as_secs_f64(), |bound, _| bound * retry.factor);
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
