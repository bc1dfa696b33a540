//! The judge of an adaptive limit: what each end of a call may do to it, told from what happened to the one before. It shares
//! nothing with the rule, not even its limit: what the rule says is only compared.

use super::judge::{Violation, violation};
use holdline::rules::call::{Call, Health};
use holdline::rules::concurrency::Adaptive;
use holdline::scheduler::Limits;
use holdline::time::Timestamp;

/// Where it begins, and with so many calls under way the destination is taken to be idle.
const FEW: usize = 4;

#[derive(Debug)]
pub struct AdaptiveLimit {
    /// As it was last seen.
    pub limit: usize,
    last_cut: Timestamp,
    /// What the destination takes by itself, and lately, in seconds.
    normal: Option<f64>,
    lately: f64,
}

impl AdaptiveLimit {
    /// As it must be at a start.
    pub fn new(limits: &Limits) -> Self {
        let max = limits.concurrency_max;
        let limit = if limits.adaptive == Adaptive::Yes { FEW.min(max) } else { max };
        Self { limit, last_cut: Timestamp::ZERO, normal: None, lately: 0.0 }
    }

    /// Between the ends of calls it does not move.
    pub fn stands(&self, says: usize) -> Result<(), Violation> {
        if says == self.limit {
            return Ok(());
        }
        violation("concurrency", format!("the limit is {says}, and {} without a reason", self.limit))
    }

    /// A call has ended, with so many under way before; what the limit is now.
    pub fn ended(
        &mut self,
        limits: &Limits,
        call: Option<&Call>,
        under_way: usize,
        says: usize,
        now: Timestamp,
    ) -> Result<(), Violation> {
        let Some(call) = call.filter(|_| limits.adaptive == Adaptive::Yes) else { return self.stands(says) };
        let before = std::mem::replace(&mut self.limit, says);
        let bad = call.health != Health::Well || self.is_slow(call.latency.as_secs_f64(), under_way);
        // those that were under way together cut once
        let cuts = bad && call.began >= self.last_cut;
        if cuts {
            (self.last_cut, self.lately) = (now, self.normal.unwrap_or_default());
        }
        let full = under_way + 1 >= before;
        let right = match (cuts, bad) {
            (true, _) => says == (before / 2).max(1).min(limits.concurrency_max),
            (false, true) => says == before,
            (false, false) => says == before || says == before + 1 && full && says <= limits.concurrency_max,
        };
        if right {
            return Ok(());
        }
        let how = format!(
            "the limit goes from {before} to {says} with {under_way} under way, cut {cuts}, bad {bad}: {call:?}"
        );
        violation("concurrency", how)
    }

    /// Whether good answers are slow now: the last few take more than twice what is normal, and 50 ms.
    fn is_slow(&mut self, seconds: f64, under_way: usize) -> bool {
        let Some(normal) = &mut self.normal else {
            (self.normal, self.lately) = (Some(seconds), seconds);
            return false;
        };
        self.lately += (seconds - self.lately) / 5.0;
        if under_way <= FEW {
            *normal += (seconds - *normal) / 5.0;
        } else if seconds < *normal {
            *normal += (seconds - *normal) / 20.0;
        }
        self.lately > *normal * 2.0 + 0.05
    }
}
