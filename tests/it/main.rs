//! The integration tests: one binary, one file per behaviour.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod access;
mod admin;
mod alerts;
mod architecture;
mod auth;
mod backlog;
mod backup;
mod cli;
mod dashboard;
mod delivery;
mod document;
mod events;
mod harness;
mod intake;
mod operator;
mod process;
mod receiver;
mod recovery;
mod simulation;
mod store;
mod tls;
