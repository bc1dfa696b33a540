//! holdline: accepts contact-centre events durably and delivers them in order, at a pace the destination can bear.
//!
//! # The way of the data
//! ```text
//! sender -> intake --accept--> store (commit, sync) --> 202
//!                                |  news
//!                                v
//!                       scheduler (pure) --> dispatch --> destination
//!                                ^                            |
//!                                +---- landing <- verdict <- outcome
//!                                |
//!                 admin, command line: read, redrive, purge
//! ```
//! Everything that becomes due goes through the store; intake does not know dispatch. Whoever is told "done" has waited for
//! the disk. What follows from an attempt rides in the next commit: a crash forgets at most the last moment of it, and
//! those deliveries are made again, with the same idempotency key.
//!
//! # Reading order, and levels: a room imports only from rooms of lower levels
//! | level | room | purpose |
//! |---|---|---|
//! | 0 | [`time`], [`event`], [`delivery`] | the nouns |
//! | 1 | [`rules`] | backoff, verdict, breaker, concurrency, rate, lateness: functions of their arguments |
//! | 1 | [`extract`] | where the fields of an event lie in what a sender posts |
//! | 1 | [`signature`] | whether a sender knows a secret: HMAC over what it sent |
//! | 1 | [`api`] | the types of the admin API: states, numbers, lists |
//! | 1 | [`latency`] | how long things take, as histograms |
//! | 2 | [`scheduler`] | pure: what goes now, else when to ask again |
//! | 2 | [`clock`] | the only reader of time |
//! | 2 | [`config`] | what an operator wrote -> settings as used |
//! | 2 | [`net`] | listeners, TLS, connection limits, and the shape of answers |
//! | 3 | [`store`] | the only room that knows sled |
//! | 4 | [`intake`] | HTTP in |
//! | 4 | [`dispatch`] | runs what the scheduler says |
//! | 5 | [`maintenance`] | background work: intake admission, dead letter limits, outages, forecasts |
//! | 5 | [`alert`] | what is worth waking somebody, delivered |
//! | 6 | [`admin`] | the operator's API |
//! | 7 | [`daemon`] | wiring and lifecycle |
//! | 8 | [`cli`] | the commands, most of them clients of the admin API |
//!
//! # Architecture invariants
//! - Levels 0 and 1 and the scheduler know no tokio, sled or hyper, take `now` as an argument, and cannot fail.
//! - `sled` and `bincode` occur only in [`store`]. The clock is read only in [`clock`].
//! - A failed delivery is data ([`delivery::Outcome`]), not an `Err`.
//!
//! `tests/it/repository/architecture.rs` reads the sources and holds these rules.

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

/// What unit tests share with the integration tests.
#[cfg(test)]
#[path = "../tests/it/harness"]
mod testing {
    pub mod events;
    pub mod stores;
}
