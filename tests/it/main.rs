//! The integration tests: one binary, one file per behaviour.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod admin;
mod architecture;
mod backlog;
mod cli;
mod delivery;
mod events;
mod harness;
mod intake;
mod process;
mod receiver;
mod recovery;
mod service;
mod simulation;
mod store;
