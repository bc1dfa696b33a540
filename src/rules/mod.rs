//! The rules: pure functions of their arguments. They read no clock, do no IO, and cannot fail.
//!
//! | level | file | purpose |
//! |---|---|---|
//! | 0 | [`address_policy`] | which addresses a destination may have |
//! | 0 | [`backoff`] | how long a delivery waits before its next attempt |
//! | 0 | [`canary`] | how a redrive starts and when it stops |
//! | 0 | [`credential`] | which header and parameter names hold credentials |
//! | 0 | [`header_time`] | waits and dates in headers |
//! | 0 | [`keep_alive`] | whether a connection may be reused |
//! | 0 | [`pattern`] | patterns of event types |
//! | 0 | [`rate`] | rate limits, and a throttle for log messages |
//! | 0 | [`refusals`] | whether permanent answers are about one event or the destination |
//! | 0 | [`signing`] | signatures of requests |
//! | 1 | [`lateness`] | deliveries that come too late |
//! | 1 | [`retry_after`] | until when a destination asks for no requests |
//! | 2 | [`verdict`] | what an outcome means for its delivery and its destination |
//! | 3 | [`breaker`] | the circuit breaker |
//! | 3 | [`concurrency`] | the adaptive concurrency limit and the ramp-up |

pub mod address_policy;
pub mod backoff;
pub mod breaker;
pub mod canary;
pub mod concurrency;
pub mod credential;
pub mod header_time;
pub mod keep_alive;
pub mod lateness;
pub mod pattern;
pub mod rate;
pub mod refusals;
pub mod retry_after;
pub mod signing;
pub mod verdict;
