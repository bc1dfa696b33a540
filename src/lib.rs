//! holdline: accepts contact-centre events durably, and delivers them in order at a rate that each destination can handle.
//!
//! # Data flow
//! ```text
//! sender -> intake --accept--> store (commit, sync) --> 202
//!                                |  store events
//!                                v
//!                       scheduler (pure) --> dispatch --> destination
//!                                ^                            |
//!                                +-- transition <- verdict <- outcome
//!                                |
//!                 admin, command line: read, redrive, purge
//! ```
//! Intake writes events to the store and does not know dispatch; the scheduler receives all work from the store. Success is
//! returned only after the data is durable. The result of an attempt is written with the next commit. A crash can lose only
//! results that were not committed yet; those deliveries are repeated with the same idempotency key.
//!
//! # Reading order, and levels: a room imports only from rooms of lower levels
//! | level | room | purpose |
//! |---|---|---|
//! | 0 | [`time`], [`event`], [`delivery`] | the basic types |
//! | 1 | [`rules`] | backoff, verdict, breaker, concurrency, rate, lateness: pure functions |
//! | 1 | [`extract`] | extracts the fields of an event from a request body |
//! | 1 | [`signature`] | verifies webhook signatures: HMAC over the request |
//! | 1 | [`api`] | the types of the admin API: states, numbers, lists |
//! | 1 | [`latency`] | latency histograms |
//! | 2 | [`scheduler`] | pure: selects what to send now, or says when to ask again |
//! | 2 | [`clock`] | the only code that reads the time |
//! | 2 | [`config`] | parses and checks the configuration, and applies defaults |
//! | 2 | [`net`] | listeners, TLS, connection limits, error responses |
//! | 3 | [`store`] | durable storage; the only code that uses sled |
//! | 4 | [`intake`] | receives events over HTTP |
//! | 4 | [`dispatch`] | sends what the scheduler selects, and records the results |
//! | 5 | [`maintenance`] | background work: intake admission, dead letter limits, outages, forecasts |
//! | 5 | [`alert`] | sends alerts and their resolution messages |
//! | 6 | [`admin`] | the operator's API |
//! | 7 | [`daemon`] | wiring and lifecycle |
//! | 8 | [`cli`] | the commands, most of them clients of the admin API |
//!
//! # Architecture invariants
//! - Levels 0 and 1 and the scheduler use neither tokio, sled nor hyper, take `now` as an argument, and cannot fail.
//! - `sled` and `bincode` are used only in [`store`]. The clock is read only in [`clock`].
//! - A failed delivery is data ([`delivery::Outcome`]), not an `Err`.
//!
//! `tests/it/repository/architecture.rs` checks these rules against the sources.

pub mod admin;
pub mod alert;
pub mod api;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod delivery;
pub mod dispatch;
pub mod event;
pub mod extract;
pub mod intake;
pub mod latency;
pub mod maintenance;
pub mod net;
pub mod rules;
pub mod scheduler;
pub mod signature;
pub mod store;
pub mod time;

#[cfg(test)]
extern crate self as holdline;

/// Helpers that unit tests share with the integration tests.
#[cfg(test)]
#[path = "../tests/it/harness"]
mod testing {
    pub mod events;
    pub mod stores;
}
