//! The rules: pure functions of their arguments. They know no clock, no IO, and cannot fail.

pub mod address_policy;
pub mod backoff;
pub mod breaker;
pub mod call;
pub mod canary;
pub mod clock_reference;
pub mod concurrency;
pub mod credential;
pub mod gcra;
pub mod header_time;
pub mod keep_alive;
pub mod lateness;
pub mod pattern;
pub mod quota;
pub mod ramp;
pub mod refusals;
pub mod reorder;
pub mod retry_after;
pub mod signing;
pub mod staleness;
pub mod success;
pub mod throttle;
pub mod ttl;
pub mod verdict;
