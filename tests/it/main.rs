//! The integration tests: one binary, one file per behaviour.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod events;
mod simulation;
mod store;
