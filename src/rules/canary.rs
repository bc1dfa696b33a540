//! The canary of a redrive: sends one delivery first, then ten, then the rest, as long as few of them fail.
//!
//! *Invariants.* Until the first delivery has succeeded, no other one is sent; until the next ten have ended, no further
//! one is. After that at most [`AHEAD`] deliveries without a result are in flight. After the canary has failed, nothing
//! more is sent.

use std::collections::VecDeque;

/// Deliveries sent after the first one.
const FEW: usize = 10;
/// Maximum number of later deliveries without a result: they become dead letters again where the destination fails
/// again.
const AHEAD: usize = 100;
/// The failure ratio of later deliveries is computed from this many of the latest results, once half as many exist.
const NEWEST: usize = 20;

/// The first conclusive result of a delivery after its redrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Delivered,
    /// It failed or is a dead letter again, including after postponements that used up its attempts.
    Failed,
    /// It was discarded before an attempt; it is not counted.
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    First,
    Few,
    Rest,
}

#[derive(Clone, Debug)]
pub struct Canary {
    failure_ratio: f64,
    stage: Stage,
    /// Sent, without a result yet.
    under_way: usize,
    /// Results of this stage, latest last; true: failed.
    ends: VecDeque<bool>,
    failing: Option<Failing>,
}

/// Why the canary failed: the number of failures among the latest results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failing {
    pub failed: usize,
    pub of: usize,
}

impl Canary {
    /// `failure_ratio`: the share of failures at which the canary fails; above 0, at most 1.
    pub fn new(failure_ratio: f64) -> Self {
        Self { failure_ratio, stage: Stage::First, under_way: 0, ends: VecDeque::new(), failing: None }
    }

    /// How many more deliveries may be sent now.
    pub fn allows(&self) -> usize {
        if self.failing.is_some() {
            return 0;
        }
        match self.stage {
            Stage::First | Stage::Few => (self.size() - self.ends.len()).saturating_sub(self.under_way),
            Stage::Rest => AHEAD.saturating_sub(self.under_way),
        }
    }

    pub fn sent(&mut self, count: usize) {
        self.under_way += count;
    }

    pub fn ended(&mut self, end: End) {
        self.under_way = self.under_way.saturating_sub(1);
        if end == End::Gone || self.failing.is_some() {
            return;
        }
        self.ends.push_back(end == End::Failed);
        let (of, enough) = match self.stage {
            Stage::First | Stage::Few => (self.size(), 1),
            Stage::Rest => {
                if self.ends.len() > NEWEST {
                    self.ends.pop_front();
                }
                (self.ends.len(), NEWEST / 2)
            }
        };
        let failed = self.ends.iter().filter(|failed| **failed).count();
        if self.ends.len() >= enough && failed as f64 >= self.failure_ratio * of as f64 {
            self.failing = Some(Failing { failed, of: self.ends.len() });
        } else if self.stage != Stage::Rest && self.ends.len() == self.size() {
            self.stage = if self.stage == Stage::First { Stage::Few } else { Stage::Rest };
            self.ends.clear();
        }
    }

    /// Set where the canary has failed and nothing more is sent.
    pub fn failing(&self) -> Option<Failing> {
        self.failing
    }

    /// How many deliveries were sent and have no result.
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    fn size(&self) -> usize {
        match self.stage {
            Stage::First => 1,
            Stage::Few => FEW,
            Stage::Rest => NEWEST,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(canary: &mut Canary, expected: usize) {
        assert_eq!(canary.allows(), expected);
        canary.sent(expected);
        let left = if expected == AHEAD { AHEAD - canary.under_way } else { 0 };
        assert_eq!(canary.allows(), left, "no more");
    }

    fn end(canary: &mut Canary, end: End, times: usize) {
        for _ in 0..times {
            canary.ended(end);
        }
    }

    #[test]
    fn one_then_ten_then_the_rest() {
        let mut canary = Canary::new(0.5);
        send(&mut canary, 1);
        end(&mut canary, End::Delivered, 1);
        send(&mut canary, 10);
        end(&mut canary, End::Delivered, 5);
        assert_eq!(canary.allows(), 0, "the other five are not known");
        end(&mut canary, End::Failed, 1);
        end(&mut canary, End::Delivered, 4);
        send(&mut canary, 100);
        end(&mut canary, End::Delivered, 60);
        assert_eq!((canary.allows(), canary.failing()), (60, None));
    }

    #[test]
    fn each_stage_stops_when_its_share_has_failed() {
        let mut first = Canary::new(0.5);
        first.sent(1);
        first.ended(End::Failed);
        assert_eq!((first.failing(), first.allows()), (Some(Failing { failed: 1, of: 1 }), 0));

        let mut few = Canary::new(0.5);
        few.sent(1);
        few.ended(End::Delivered);
        few.sent(10);
        end(&mut few, End::Failed, 4);
        assert_eq!(few.failing(), None, "six may yet end well");
        few.ended(End::Failed);
        assert_eq!((few.failing(), few.allows()), (Some(Failing { failed: 5, of: 5 }), 0));
        end(&mut few, End::Delivered, 5);
        assert!(few.failing().is_some(), "it stays so");

        let mut rest = Canary::new(0.5);
        for n in [1, 10, 100] {
            rest.sent(n);
            end(&mut rest, End::Delivered, n);
        }
        rest.sent(100);
        end(&mut rest, End::Failed, 9);
        assert_eq!(rest.failing(), None);
        rest.ended(End::Failed);
        assert_eq!(rest.failing(), Some(Failing { failed: 10, of: 20 }), "half of the newest");
    }

    #[test]
    fn the_last_stage_needs_enough_results_to_stop() {
        let mut canary = Canary::new(0.1);
        for n in [1, 10] {
            canary.sent(n);
            end(&mut canary, End::Delivered, n);
        }
        canary.sent(100);
        end(&mut canary, End::Failed, NEWEST / 2 - 1);
        assert_eq!(canary.failing(), None);
        canary.ended(End::Delivered);
        assert_eq!(canary.failing(), Some(Failing { failed: 9, of: 10 }));
    }

    #[test]
    fn a_vanished_delivery_is_replaced() {
        let mut canary = Canary::new(0.5);
        canary.sent(1);
        canary.ended(End::Gone);
        send(&mut canary, 1);
        end(&mut canary, End::Delivered, 1);
        canary.sent(10);
        end(&mut canary, End::Gone, 3);
        send(&mut canary, 3);
        assert_eq!(canary.under_way(), 10);
    }
}
