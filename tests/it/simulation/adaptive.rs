//! The judge of the adaptive limit: how each end of a call may change it, derived from the earlier calls. It shares
//! no code with the rule, not even the limit: it only compares the value that the rule reports.

use super::judge::{Violation, violation};
use holdline::rules::concurrency::Adaptive;
use holdline::rules::verdict::{Call, Health};
use holdline::scheduler::Limits;
use holdline::time::Timestamp;

/// The initial limit; with at most this many calls in flight the destination counts as idle.
const FEW: usize = 4;

#[derive(Debug)]
pub struct AdaptiveLimit {
    /// The last limit reported.
    pub limit: usize,
    last_cut: Timestamp,
    /// For each call that has ended since the last evaluation of the limit: whether it showed overload.
    round: Vec<bool>,
    /// Latency of the destination at low load, and its recent latency, in seconds.
    normal: Option<f64>,
    lately: f64,
}

impl AdaptiveLimit {
    /// The expected state at a start.
    pub fn new(limits: &Limits) -> Self {
        let max = limits.concurrency_max;
        let limit = if limits.adaptive == Adaptive::Yes { FEW.min(max) } else { max };
        Self { limit, last_cut: Timestamp::ZERO, round: Vec::new(), normal: None, lately: 0.0 }
    }

    /// Between the ends of calls the limit does not change.
    pub fn stands(&self, says: usize) -> Result<(), Violation> {
        if says == self.limit {
            return Ok(());
        }
        violation("concurrency", format!("the limit is {says}, and {} without a reason", self.limit))
    }

    /// A call has ended, with `before` calls in flight until then; checks the limit after it.
    pub fn ended(
        &mut self,
        limits: &Limits,
        call: Option<&Call>,
        under_way: usize,
        says: usize,
        now: Timestamp,
    ) -> Result<(), Violation> {
        let Some(call) = call else { return self.stands(says) };
        let taken = call.health == Health::Delivered;
        if taken {
            self.measure(call.latency.as_secs_f64(), under_way);
        }
        if limits.adaptive == Adaptive::No {
            return self.stands(says);
        }
        let before = std::mem::replace(&mut self.limit, says);
        let part = if call.began >= self.last_cut { self.part_left(call, before) } else { None };
        let right = match part {
            Some(part) => {
                (self.last_cut, self.lately) = (now, self.normal.unwrap_or_default());
                self.round.clear();
                let cut = |limit: f64| ((limit * part.clamp(0.5, 0.95)) as usize).clamp(1, limits.concurrency_max);
                // growth since the limit was last a whole number cannot be observed
                (cut(before as f64)..=cut(before as f64 + 1.0)).contains(&says)
            }
            None => {
                let grows = taken && self.lately <= self.slow_from() && under_way + 1 >= before;
                says == before || says == before + 1 && grows && says <= limits.concurrency_max
            }
        };
        if right {
            return Ok(());
        }
        let how = format!("the limit goes from {before} to {says} with {under_way} under way, left {part:?}: {call:?}");
        violation("concurrency", how)
    }

    /// The share of the limit that must remain if this call cuts it.
    fn part_left(&mut self, call: &Call, before: usize) -> Option<f64> {
        self.round.push(matches!(call.health, Health::Throttled | Health::Unavailable));
        let (all, bad) = (self.round.len(), self.round.iter().filter(|bad| **bad).count());
        let mut left = None;
        if all >= before.max(10) || all == bad && all >= 3 {
            self.round.clear();
            left = Some(1.0 - bad as f64 / all as f64 / 2.0).filter(|_| bad * 10 > all);
        }
        let slow = call.health == Health::Delivered && self.lately > self.slow_from();
        left.or_else(|| slow.then(|| self.slow_from() / self.lately))
    }

    /// The latency from which successes count as slow: more than twice the normal one, and more than 50 ms.
    fn slow_from(&self) -> f64 {
        self.normal.map_or(f64::INFINITY, |normal| normal * 2.0 + 0.05)
    }

    fn measure(&mut self, seconds: f64, under_way: usize) {
        let Some(normal) = &mut self.normal else {
            (self.normal, self.lately) = (Some(seconds), seconds);
            return;
        };
        self.lately += (seconds - self.lately) / 5.0;
        if under_way <= FEW {
            *normal += (seconds - *normal) / 5.0;
        } else if seconds < *normal {
            *normal += (seconds - *normal) / 20.0;
        }
    }
}
