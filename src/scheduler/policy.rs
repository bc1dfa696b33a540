//! What an operator wants of a destination: how its deliveries are ordered and bounded.

use super::flow_control;
use std::time::Duration;

/// How deliveries of a destination are ordered and bounded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    pub pace: flow_control::Limits,
    pub ordered: Ordered,
    pub dead_letters: DeadLetters,
    /// How long an event can be overtaken by one of its interaction that happened before it; zero: never.
    pub reorder_window: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ordered {
    #[default]
    ByInteraction,
    Not,
}

/// Whether a dead letter lets its interaction go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeadLetters {
    #[default]
    Continue,
    Hold,
}
